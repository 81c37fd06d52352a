//! From an event to its message (RFC 3881 XML in an RFC 5424 envelope) and the document that is stored.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::deliver::Envelope;
use crate::clock::Millis;
use crate::model::date;

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    MinorFailure,
    SeriousFailure,
    MajorFailure,
}

impl Outcome {
    fn code(self) -> &'static str {
        match self {
            Self::Success => "0",
            Self::MinorFailure => "4",
            Self::SeriousFailure => "8",
            Self::MajorFailure => "12",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody logged in to the API, or failed to. `groups` are joined by commas.
    Login {
        outcome: Outcome,
        user: String,
        groups: String,
    },
    /// Somebody read records of the audit trail in full.
    AuditLogUsed {
        outcome: Outcome,
        user: String,
        groups: String,
        /// Address of the record that was read.
        url: String,
    },
    /// A mediator registered itself.
    MediatorStarted { name: String, host: String },
    /// The node serves.
    Started,
    /// The node has stopped serving.
    Stopped,
    /// A message was refused: its sender may not use the channel.
    NodeRejected { address: String },
}

#[derive(Clone, Copy)]
struct Code<'a> {
    code: &'a str,
    display: &'a str,
    system: &'a str,
}

const fn dcm<'a>(code: &'a str, display: &'a str) -> Code<'a> {
    Code {
        code,
        display,
        system: "DCM",
    }
}

impl Code<'_> {
    fn document(self) -> Document {
        doc! {"code": self.code, "displayName": self.display, "codeSystemName": self.system}
    }

    fn xml(self, element: &str) -> String {
        element_of(
            element,
            &[
                ("csd-code", self.code),
                ("originalText", self.display),
                ("codeSystemName", self.system),
            ],
            "",
        )
    }
}

struct Participant<'a> {
    user: &'a str,
    is_requestor: bool,
    host: Option<&'a str>,
    role: Code<'a>,
}

struct Object<'a> {
    id: &'a str,
    type_code: &'a str,
    role: Option<&'a str>,
    id_type: Code<'a>,
    name: &'a str,
}

struct Parts<'a> {
    outcome: Outcome,
    action: &'a str,
    id: Code<'a>,
    kind: Option<Code<'a>>,
    participants: Vec<Participant<'a>>,
    system: &'a str,
    /// 1: a user's interface; 3: a server's doing.
    source_code: &'a str,
    object: Option<Object<'a>>,
}

/// The message and the document of `event`, which happened now on `host`.
pub(super) fn envelope(event: &Event, now: Millis, source: &str, host: &str) -> Envelope {
    let parts = parts(event, source, host);
    let at = DateTime::from_millis(now);
    let pid = std::process::id().to_string();
    let message = format!(
        "<85>1 {} {host} atna-audit.js {pid} IHE+RFC-3881 - {}",
        iso(at),
        xml(&parts, at)
    );
    let syslog = doc! {
        "prival": 85, "facilityID": 10, "severityID": 5, "facility": "sec", "severity": "notice", "type": "RFC5424",
        "time": at, "host": host, "appName": "atna-audit.js", "pid": pid, "msgID": "IHE+RFC-3881",
    };
    let mut document = document(&parts, at);
    document.insert("syslog", syslog);
    document.insert("rawMessage", message.clone());
    document.insert("__v", 0);
    Envelope { message, document }
}

fn parts<'a>(event: &'a Event, source: &'a str, host: &'a str) -> Parts<'a> {
    let machine = |user: &'a str, host: &'a str| Participant {
        user,
        is_requestor: false,
        host: Some(host),
        role: dcm("110150", "Application"),
    };
    let person = |user: &'a str, role: Code<'a>| Participant {
        user,
        is_requestor: true,
        host: None,
        role,
    };
    let member = |groups: &'a str| Code {
        code: groups,
        display: groups,
        system: groups,
    };
    let launcher = || person("system", dcm("110151", "Application Launcher"));
    let activity = |kind, system: &'a str, host: &'a str, source_code| Parts {
        outcome: Outcome::Success,
        action: "E",
        id: dcm("110100", "Application Activity"),
        kind: Some(kind),
        participants: vec![machine(system, host), launcher()],
        system,
        source_code,
        object: None,
    };
    match event {
        Event::Login { outcome, user, groups } => Parts {
            outcome: *outcome,
            action: "E",
            id: dcm("110114", "UserAuthenticated"),
            kind: Some(dcm("110122", "Login")),
            participants: vec![machine(source, host), person(user, member(groups))],
            system: source,
            source_code: "1",
            object: None,
        },
        Event::AuditLogUsed {
            outcome,
            user,
            groups,
            url,
        } => Parts {
            outcome: *outcome,
            action: "R",
            id: dcm("110101", "Audit Log Used"),
            kind: None,
            participants: vec![machine(source, host), person(user, member(groups))],
            system: source,
            source_code: "1",
            object: Some(Object {
                id: url,
                type_code: "2",
                role: Some("13"),
                id_type: Code {
                    code: "12",
                    display: "URI",
                    system: "",
                },
                name: "Security Audit Log",
            }),
        },
        Event::MediatorStarted { name, host } => activity(dcm("110120", "Application Start"), name, host, "3"),
        Event::Started => activity(dcm("110120", "Application Start"), source, host, "3"),
        Event::Stopped => activity(dcm("110121", "Application Stop"), source, host, "3"),
        Event::NodeRejected { address } => Parts {
            outcome: Outcome::MinorFailure,
            action: "E",
            id: dcm("110113", "Security Alert"),
            kind: Some(dcm("110126", "Node Authentication")),
            participants: vec![machine(source, host)],
            system: source,
            source_code: "3",
            object: Some(Object {
                id: address,
                type_code: "2",
                role: None,
                id_type: dcm("110182", "Node ID"),
                name: address,
            }),
        },
    }
}

fn document(parts: &Parts<'_>, at: DateTime) -> Document {
    let mut event = doc! {
        "eventDateTime": at,
        "eventOutcomeIndicator": parts.outcome.code(),
        "eventActionCode": parts.action,
        "eventID": parts.id.document(),
    };
    if let Some(kind) = parts.kind {
        event.insert("eventTypeCode", kind.document());
    }
    let participants: Vec<Bson> = parts.participants.iter().map(participant_document).collect();
    let objects: Vec<Bson> = parts.object.iter().map(object_document).collect();
    doc! {
        "_id": ObjectId::new(),
        "eventIdentification": event,
        "activeParticipant": participants,
        "auditSourceIdentification": {"auditSourceID": parts.system, "auditEnterpriseSiteID": ""},
        "participantObjectIdentification": objects,
    }
}

fn participant_document(it: &Participant<'_>) -> Bson {
    let mut document = doc! {
        "userID": it.user, "alternativeUserID": "", "userIsRequestor": it.is_requestor.to_string(),
    };
    if let Some(host) = it.host {
        document.insert("networkAccessPointID", host);
        document.insert("networkAccessPointTypeCode", "1");
    }
    document.insert("roleIDCode", it.role.document());
    document.insert("_id", ObjectId::new());
    document.into()
}

fn object_document(it: &Object<'_>) -> Bson {
    let mut document = doc! {"participantObjectID": it.id, "participantObjectTypeCode": it.type_code};
    if let Some(role) = it.role {
        document.insert("participantObjectTypeCodeRole", role);
    }
    document.insert("participantObjectIDTypeCode", it.id_type.document());
    document.insert("_id", ObjectId::new());
    document.into()
}

fn xml(parts: &Parts<'_>, at: DateTime) -> String {
    let kind = parts.kind.map_or_else(String::new, |kind| kind.xml("EventTypeCode"));
    let event = element_of(
        "EventIdentification",
        &[
            ("EventActionCode", parts.action),
            ("EventDateTime", &iso(at)),
            ("EventOutcomeIndicator", parts.outcome.code()),
        ],
        &(parts.id.xml("EventID") + &kind),
    );
    let participants: String = parts.participants.iter().map(participant_xml).collect();
    let source = element_of(
        "AuditSourceIdentification",
        &[
            ("AuditEnterpriseSiteID", ""),
            ("AuditSourceID", parts.system),
            ("code", parts.source_code),
            ("codeSystemName", ""),
            ("originalText", ""),
        ],
        "",
    );
    let object = parts.object.as_ref().map_or_else(String::new, object_xml);
    let root = element_of("AuditMessage", &[], &(event + &participants + &source + &object));
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{root}")
}

fn participant_xml(it: &Participant<'_>) -> String {
    let requestor = it.is_requestor.to_string();
    let mut attributes = vec![
        ("UserID", it.user),
        ("AlternativeUserID", ""),
        ("UserIsRequestor", &requestor),
    ];
    if let Some(host) = it.host {
        attributes.extend([("NetworkAccessPointID", host), ("NetworkAccessPointTypeCode", "1")]);
    }
    element_of("ActiveParticipant", &attributes, &it.role.xml("RoleIDCode"))
}

fn object_xml(it: &Object<'_>) -> String {
    let mut attributes = vec![
        ("ParticipantObjectID", it.id),
        ("ParticipantObjectTypeCode", it.type_code),
    ];
    if let Some(role) = it.role {
        attributes.push(("ParticipantObjectTypeCodeRole", role));
    }
    let name = format!("<ParticipantObjectName>{}</ParticipantObjectName>", escape(it.name));
    element_of(
        "ParticipantObjectIdentification",
        &attributes,
        &(it.id_type.xml("ParticipantObjectIDTypeCode") + &name),
    )
}

fn element_of(name: &str, attributes: &[(&str, &str)], children: &str) -> String {
    let attributes: String = attributes
        .iter()
        .map(|(key, value)| format!(" {key}=\"{}\"", escape(value)))
        .collect();
    if children.is_empty() {
        return format!("<{name}{attributes}/>");
    }
    format!("<{name}{attributes}>{children}</{name}>")
}

/// Text as XML holds it; control characters, which no XML may hold, become blanks.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

fn iso(at: DateTime) -> String {
    date::to_iso(at.timestamp_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Envelope {
        let event = Event::Login {
            outcome: Outcome::Success,
            user: "root@openhim.org".into(),
            groups: "admin,<x>".into(),
        };
        envelope(&event, 1_400_000_000_000, "OpenHIM", "vm")
    }

    #[test]
    fn a_login_is_stored_with_two_participants() {
        let document = login().document;
        assert_eq!(
            document.get_document("eventIdentification").unwrap(),
            &doc! {
                "eventDateTime": DateTime::from_millis(1_400_000_000_000),
                "eventOutcomeIndicator": "0",
                "eventActionCode": "E",
                "eventID": {"code": "110114", "displayName": "UserAuthenticated", "codeSystemName": "DCM"},
                "eventTypeCode": {"code": "110122", "displayName": "Login", "codeSystemName": "DCM"},
            }
        );
        let participants = document.get_array("activeParticipant").unwrap();
        assert_eq!(participants.len(), 2);
        let user = participants[1].as_document().unwrap();
        assert_eq!(user.get_str("userID").unwrap(), "root@openhim.org");
        assert_eq!(user.get_str("userIsRequestor").unwrap(), "true");
        assert_eq!(
            user.get_document("roleIDCode").unwrap(),
            &doc! {"code": "admin,<x>", "displayName": "admin,<x>", "codeSystemName": "admin,<x>"}
        );
        assert_eq!(
            document.get_document("syslog").unwrap().get_str("msgID").unwrap(),
            "IHE+RFC-3881"
        );
    }

    #[test]
    fn the_message_is_xml_in_a_syslog_envelope() {
        let message = login().message;
        let start = format!(
            "<85>1 2014-05-13T16:53:20.000Z vm atna-audit.js {} IHE+RFC-3881 - <?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <AuditMessage><EventIdentification EventActionCode=\"E\" EventDateTime=\"2014-05-13T16:53:20.000Z\" \
             EventOutcomeIndicator=\"0\"><EventID csd-code=\"110114\" originalText=\"UserAuthenticated\" \
             codeSystemName=\"DCM\"/>",
            std::process::id()
        );
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains("csd-code=\"admin,&lt;x&gt;\""), "{message}");
        assert!(message.ends_with("</AuditMessage>"), "{message}");
    }

    #[test]
    fn reading_the_trail_names_the_record() {
        let event = Event::AuditLogUsed {
            outcome: Outcome::MinorFailure,
            user: "a".into(),
            groups: "b".into(),
            url: "https://localhost:8080/audits/1".into(),
        };
        let document = envelope(&event, 0, "OpenHIM", "vm").document;
        let objects = document.get_array("participantObjectIdentification").unwrap();
        let object = objects[0].as_document().unwrap();
        assert_eq!(
            object.get_str("participantObjectID").unwrap(),
            "https://localhost:8080/audits/1"
        );
        assert_eq!(
            object.get_document("participantObjectIDTypeCode").unwrap(),
            &doc! {"code": "12", "displayName": "URI", "codeSystemName": ""}
        );
        assert!(
            !document
                .get_document("eventIdentification")
                .unwrap()
                .contains_key("eventTypeCode")
        );
    }
}
