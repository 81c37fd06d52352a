//! From a syslog message with an ATNA audit inside to the document that is stored.
//!
//! Syslog in RFC 5424 or RFC 3164 form around XML in RFC 3881 or DICOM form; both XML forms give the same document.
//! What is not syslog is dropped; what is syslog is stored, also when the XML inside is none.

use bson::{Bson, DateTime, Document, doc};
use chrono::{Datelike as _, NaiveDateTime, TimeZone as _, Utc};
use roxmltree::{Node, ParsingOptions};

use crate::model::date;

/// XML with more nodes than this is not read; the message is stored all the same.
const MAX_NODES: u32 = 20_000;

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "clock", "sec", "ftp", "ntp", "audit",
    "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// Reads one message. `now` dates an audit that carries no date and gives RFC 3164 its year.
/// `None`: it is not syslog.
pub fn parse(message: &str, now: DateTime) -> Option<Document> {
    let (syslog, payload) = parse_syslog(message, now)?;
    let mut audit = parse_audit(payload).unwrap_or_else(empty_audit);
    let event = match audit.get_document_mut("eventIdentification") {
        Ok(event) => event,
        Err(_) => {
            audit.insert("eventIdentification", doc! {});
            audit.get_document_mut("eventIdentification").ok()?
        }
    };
    if !event.contains_key("eventDateTime") {
        event.insert("eventDateTime", now);
    }
    audit.insert("rawMessage", message);
    audit.insert("syslog", syslog);
    Some(audit)
}

fn empty_audit() -> Document {
    doc! { "activeParticipant": [], "participantObjectIdentification": [] }
}

/// The head as a document, and the text behind it.
fn parse_syslog(message: &str, now: DateTime) -> Option<(Document, &str)> {
    let (priority, rest) = message.trim_start().strip_prefix('<')?.split_once('>')?;
    let priority: i32 = priority.parse().ok().filter(|number| (0..=191).contains(number))?;
    let facility = usize::try_from(priority / 8).ok()?;
    let severity = usize::try_from(priority % 8).ok()?;
    let mut head = doc! {
        "prival": priority,
        "facilityID": priority / 8,
        "severityID": priority % 8,
        "facility": FACILITIES[facility],
        "severity": SEVERITIES[severity],
    };
    let version_end = rest.find(' ')?;
    let is_rfc5424 = version_end == 1 && rest.as_bytes()[0].is_ascii_digit();
    let payload = if is_rfc5424 {
        rfc5424(&rest[2..], &mut head)?
    } else {
        rfc3164(rest, &mut head, now)?
    };
    (!payload.is_empty()).then_some((head, payload))
}

/// RFC 5424, section 6: timestamp, host, application, process, message id, structured data, message.
fn rfc5424<'m>(rest: &'m str, head: &mut Document) -> Option<&'m str> {
    head.insert("type", "RFC5424");
    let mut rest = rest;
    for field in ["time", "host", "appName", "pid", "msgID"] {
        let (word, tail) = rest.split_once(' ')?;
        rest = tail;
        let value = match (field, word) {
            (_, "-") => Bson::Null,
            ("time", text) => date::parse(text).map_or(Bson::Null, |millis| DateTime::from_millis(millis).into()),
            (_, text) => text.into(),
        };
        head.insert(field, value);
    }
    match rest.strip_prefix('-') {
        Some(payload) => Some(payload.trim_start()),
        None if rest.starts_with('[') => after_structured_data(rest),
        None => Some(rest),
    }
}

/// RFC 5424, section 6.3: elements in brackets, where a `]` inside quotes ends nothing.
fn after_structured_data(text: &str) -> Option<&str> {
    let (mut in_quotes, mut is_escaped, mut is_inside) = (false, false, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if in_quotes => is_escaped = true,
            '"' => in_quotes = !in_quotes,
            '[' if !in_quotes => is_inside = true,
            ']' if !in_quotes => is_inside = false,
            ' ' if !is_inside => return Some(text[index..].trim_start()),
            _ => {}
        }
    }
    None
}

/// RFC 3164, section 4: `Mon DD HH:MM:SS host message`.
fn rfc3164<'m>(rest: &'m str, head: &mut Document, now: DateTime) -> Option<&'m str> {
    head.insert("type", "RFC3164");
    let mut words = rest.split_whitespace();
    let stamp = [words.next()?, words.next()?, words.next()?];
    let host = words.next()?;
    let year = Utc.timestamp_millis_opt(now.timestamp_millis()).single()?.year();
    let text = format!("{year} {} {} {}", stamp[0], stamp[1], stamp[2]);
    let time = NaiveDateTime::parse_from_str(&text, "%Y %b %d %H:%M:%S").ok();
    head.insert(
        "time",
        time.map_or(Bson::Null, |time| {
            DateTime::from_millis(time.and_utc().timestamp_millis()).into()
        }),
    );
    head.insert("host", host);
    // The host is a slice of `rest`, so its place there says where the message begins.
    let offset = host.as_ptr() as usize - rest.as_ptr() as usize + host.len();
    Some(rest[offset..].trim_start())
}

/// The audit inside; `None` if it is not XML with root `AuditMessage` and something in it.
fn parse_audit(payload: &str) -> Option<Document> {
    let start = payload.find('<')?;
    let options = ParsingOptions {
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let document = roxmltree::Document::parse_with_options(payload[start..].trim_end(), options).ok()?;
    let root = document.root_element();
    if root.tag_name().name() != "AuditMessage" || !root.children().any(|child| child.is_element()) {
        return None;
    }
    let mut audit = doc! {};
    for (name, read) in [
        ("EventIdentification", event as fn(Node<'_, '_>) -> Document),
        ("AuditSourceIdentification", source),
    ] {
        if let Some(node) = child(root, name) {
            audit.insert(lower_first(name), read(node));
        }
    }
    for (name, read) in [
        ("ActiveParticipant", participant as fn(Node<'_, '_>) -> Document),
        ("ParticipantObjectIdentification", object),
    ] {
        let list: Vec<Document> = children(root, name)
            .map(|node| {
                let mut entry = read(node);
                entry.insert("_id", bson::oid::ObjectId::new());
                entry
            })
            .collect();
        audit.insert(lower_first(name), list);
    }
    Some(audit)
}

fn event(node: Node<'_, '_>) -> Document {
    let mut event = doc! {};
    if let Some(millis) = text(node, "EventDateTime").and_then(|value| date::parse(&value)) {
        event.insert("eventDateTime", DateTime::from_millis(millis));
    }
    texts(node, &["EventOutcomeIndicator", "EventActionCode"], &mut event);
    codes(node, &["EventID", "EventTypeCode"], &mut event);
    event
}

fn source(node: Node<'_, '_>) -> Document {
    let mut source = doc! {};
    texts(node, &["AuditSourceID", "AuditEnterpriseSiteID"], &mut source);
    codes(node, &["AuditSourceTypeCode"], &mut source);
    source
}

fn participant(node: Node<'_, '_>) -> Document {
    let mut participant = doc! {};
    let fields = [
        "UserID",
        "AlternativeUserID",
        "UserIsRequestor",
        "NetworkAccessPointID",
        "NetworkAccessPointTypeCode",
    ];
    texts(node, &fields, &mut participant);
    codes(node, &["RoleIDCode"], &mut participant);
    participant
}

fn object(node: Node<'_, '_>) -> Document {
    let mut object = doc! {};
    let fields = [
        "ParticipantObjectID",
        "ParticipantObjectTypeCode",
        "ParticipantObjectTypeCodeRole",
        "ParticipantObjectQuery",
    ];
    texts(node, &fields, &mut object);
    codes(node, &["ParticipantObjectIDTypeCode"], &mut object);
    if let Some(detail) = child(node, "ParticipantObjectDetail") {
        let mut fields = doc! {};
        for (stored, name) in [("type", "Type"), ("value", "Value")] {
            if let Some(value) = text(detail, name) {
                fields.insert(stored, value);
            }
        }
        object.insert("participantObjectDetail", fields);
    }
    object
}

fn texts(node: Node<'_, '_>, names: &[&str], into: &mut Document) {
    for name in names {
        if let Some(value) = text(node, name) {
            into.insert(lower_first(name), value);
        }
    }
}

fn codes(node: Node<'_, '_>, names: &[&str], into: &mut Document) {
    for name in names {
        if let Some(found) = child(node, name) {
            into.insert(lower_first(name), code(found));
        }
    }
}

/// A coded value: DICOM says `csd-code` and `originalText` where RFC 3881 says `code` and `displayName`.
fn code(node: Node<'_, '_>) -> Document {
    let mut code = doc! {};
    for (stored, names) in [
        ("code", ["csd-code", "code"]),
        ("displayName", ["originalText", "displayName"]),
        ("codeSystemName", ["codeSystemName", ""]),
    ] {
        if let Some(value) = names.iter().find_map(|name| text(node, name)) {
            code.insert(stored, value);
        }
    }
    code
}

/// An attribute, or the text of a child element, by a name whose first letter's case does not matter.
fn text(node: Node<'_, '_>, name: &str) -> Option<String> {
    let attribute = node.attributes().find(|attribute| same_name(attribute.name(), name));
    let element = || child(node, name).map(|found| found.text().unwrap_or_default().to_owned());
    attribute.map(|attribute| attribute.value().to_owned()).or_else(element)
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

fn children<'a, 'i, 'n>(node: Node<'a, 'i>, name: &'n str) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i, 'n> {
    node.children()
        .filter(move |child| child.is_element() && same_name(child.tag_name().name(), name))
}

fn same_name(one: &str, other: &str) -> bool {
    lower_first(one) == lower_first(other)
}

fn lower_first(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests;
