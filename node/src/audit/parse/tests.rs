use super::*;

const NOW: DateTime = DateTime::from_millis(1_795_348_800_000);

const DICOM: &str = r#"<AuditMessage><EventIdentification EventActionCode="E" EventDateTime="2015-02-17T15:38:25.282+02:00" EventOutcomeIndicator="0"><EventID csd-code="110112" originalText="Query" codeSystemName="DCM"/><EventTypeCode csd-code="ITI-9" originalText="PIX Query" codeSystemName="IHE Transactions"/></EventIdentification><ActiveParticipant UserID="openhim" AlternativeUserID="2100" UserIsRequestor="true" NetworkAccessPointID="localhost" NetworkAccessPointTypeCode="1"><RoleIDCode csd-code="110153" originalText="Source" codeSystemName="DCM"/></ActiveParticipant><ActiveParticipant UserID="pix" UserIsRequestor="false"/><AuditSourceIdentification AuditSourceID="openhim" AuditEnterpriseSiteID="site"/><ParticipantObjectIdentification ParticipantObjectID="975cac30^^^&amp;1.2&amp;ISO" ParticipantObjectTypeCode="1" ParticipantObjectTypeCodeRole="1"><ParticipantObjectIDTypeCode csd-code="2" originalText="PatientNumber" codeSystemName="RFC-3881"/><ParticipantObjectQuery>TVNIfF5</ParticipantObjectQuery><ParticipantObjectDetail type="MSH-10" value="NmIwMGVk"/></ParticipantObjectIdentification></AuditMessage>"#;

fn stored(message: &str) -> Document {
    parse(message, NOW).expect("it is syslog")
}

fn without_ids_and_syslog(mut audit: Document) -> Document {
    for field in ["activeParticipant", "participantObjectIdentification"] {
        for entry in audit.get_array_mut(field).expect("a list") {
            entry
                .as_document_mut()
                .expect("a document")
                .remove("_id")
                .expect("an id");
        }
    }
    audit.remove("rawMessage");
    audit.remove("syslog");
    audit
}

#[test]
fn a_dicom_audit_in_rfc_5424_is_read_whole() {
    let message = format!("<85>1 2015-03-05T12:52:31.358+02:00 him atna-audit.js 2206 IHE+RFC-3881 - {DICOM}");
    let audit = stored(&message);
    assert_eq!(
        audit.get_document("syslog").expect("a head"),
        &doc! {
            "prival": 85, "facilityID": 10, "severityID": 5, "facility": "sec", "severity": "notice", "type": "RFC5424",
            "time": DateTime::from_millis(1_425_552_751_358), "host": "him", "appName": "atna-audit.js", "pid": "2206",
            "msgID": "IHE+RFC-3881",
        }
    );
    assert_eq!(audit.get_str("rawMessage").ok(), Some(message.as_str()));
    let code =
        |code: &str, name: &str, system: &str| doc! {"code": code, "displayName": name, "codeSystemName": system};
    assert_eq!(
        without_ids_and_syslog(audit),
        doc! {
            "eventIdentification": {
                "eventDateTime": DateTime::from_millis(1_424_180_305_282), "eventOutcomeIndicator": "0",
                "eventActionCode": "E", "eventID": code("110112", "Query", "DCM"),
                "eventTypeCode": code("ITI-9", "PIX Query", "IHE Transactions"),
            },
            "auditSourceIdentification": { "auditSourceID": "openhim", "auditEnterpriseSiteID": "site" },
            "activeParticipant": [
                { "userID": "openhim", "alternativeUserID": "2100", "userIsRequestor": "true",
                  "networkAccessPointID": "localhost", "networkAccessPointTypeCode": "1",
                  "roleIDCode": code("110153", "Source", "DCM") },
                { "userID": "pix", "userIsRequestor": "false" },
            ],
            "participantObjectIdentification": [
                { "participantObjectID": "975cac30^^^&1.2&ISO", "participantObjectTypeCode": "1",
                  "participantObjectTypeCodeRole": "1", "participantObjectQuery": "TVNIfF5",
                  "participantObjectIDTypeCode": code("2", "PatientNumber", "RFC-3881"),
                  "participantObjectDetail": { "type": "MSH-10", "value": "NmIwMGVk" } },
            ],
        }
    );
}

#[test]
fn rfc_3881_and_dicom_give_the_same_document() {
    let rfc3881 = DICOM
        .replace("csd-code=", "code=")
        .replace("originalText=", "displayName=");
    let read = |xml: &str| without_ids_and_syslog(stored(&format!("<85>1 - - - - - - {xml}")));
    assert_eq!(read(&rfc3881), read(DICOM));
}

#[test]
fn rfc_3164_gets_its_year_from_the_clock() {
    let audit = stored(&format!("<13>Nov  5 17:04:09 client message: {DICOM}"));
    let syslog = audit.get_document("syslog").expect("a head");
    assert_eq!(syslog.get_str("type").ok(), Some("RFC3164"));
    assert_eq!(syslog.get_str("host").ok(), Some("client"));
    assert_eq!(
        syslog.get_datetime("time").ok(),
        Some(&DateTime::from_millis(1_793_898_249_000))
    );
    assert_eq!(audit.get_array("activeParticipant").ok().map(Vec::len), Some(2));
}

#[test]
fn structured_data_is_passed_over() {
    for data in ["-", r#"[x@1 a="]" b="\"]"]"#, r#"[x@1 a="1"][y@1 b="2 3"]"#] {
        let audit = stored(&format!("<85>1 - - - - - {data} {DICOM}"));
        assert_eq!(
            audit.get_array("activeParticipant").ok().map(Vec::len),
            Some(2),
            "{data}"
        );
    }
}

#[test]
fn syslog_without_sound_xml_is_stored_all_the_same() {
    for payload in [
        "hello",
        "<AuditMessage>",
        "<Other/>",
        "<AuditMessage/>",
        "<!DOCTYPE a [<!ENTITY x 'y'>]><AuditMessage><a/></AuditMessage>",
    ] {
        let audit = stored(&format!("<85>1 - - - - - - {payload}"));
        let event = audit.get_document("eventIdentification").expect("an event");
        assert_eq!(event, &doc! {"eventDateTime": NOW}, "{payload}");
        assert_eq!(audit.get_array("activeParticipant").ok(), Some(&vec![]), "{payload}");
    }
}

#[test]
fn what_is_not_syslog_is_dropped() {
    for message in [
        "",
        "hello",
        "<85>",
        "<85>1",
        "<85>1 - -",
        "<999>1 - - - - - - x",
        "<x>1 - - - - - - x",
        "<85>1 - - - - - -",
    ] {
        assert_eq!(parse(message, NOW), None, "{message:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_message_panics(message in "(<[0-9]{1,3}>)?1?[ -~é]{0,200}") {
        let _ = parse(&message, NOW);
    }
}
