//! `/audits`: the audit trail. Whoever reads a record in full leaves a record of that.

use bson::{Bson, Document, RawDocument, doc};
use serde_json::{Map, Value};

use super::auth::Caller;
use super::context::{Api, Call};
use super::documents::Resource;
use super::error::{Doing, Fault, Refusal};
use super::page::Page;
use super::reply::Reply;
use super::router::Answer;
use super::stream::{self, Cut, Writer};
use crate::audit::{self, Event, Outcome};
use crate::config::Protocol;
use crate::model::json;
use crate::model::role::Permission;
use crate::model::schema::tables::{AUDIT, AUDIT_META};
use crate::store::{Collection, Find};

const AUDITS: Resource = Resource {
    collection: Collection::Audits,
    schema: &AUDIT,
};

/// The filter that takes patient ids.
const PARTICIPANT: &str = "participantObjectIdentification.participantObjectID";
const TIME: &str = "eventIdentification.eventDateTime";

/// What a list leaves out unless it is asked for everything.
const DETAILS: [&str; 3] = ["participantObjectIdentification", "activeParticipant", "rawMessage"];

/// `POST /audits`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    caller.require("addAudit", Permission::AuditTrailManage)?;
    let added = add(&call).await;
    added.map_err(|fault| Refusal::Invalid(fault.to_string()))?;
    tracing::info!("User {} created an audit record", caller.email());
    Ok(Reply::created_text("Audit successfully created"))
}

async fn add(call: &Call) -> Result<(), Fault> {
    let record = AUDIT.build(call.body.document()?, call.api.clock.now())?;
    Ok(audit::keep(call.api.store(), vec![record]).await?)
}

/// `GET /audits`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not retrieve audits via the API:";
    caller.require("getAudits", Permission::AuditTrailView)?;
    let api = &call.api;
    let filters = match call.query.json("filters").doing(DOING)? {
        Some(Value::Object(filters)) => filters,
        _ => Map::new(),
    };
    let filter = filter(filters)?.doing(DOING)?;
    let page = Page::from_query(&call.query);
    let mut find = Find {
        filter,
        sort: doc! {TIME: -1},
        skip: page.skip,
        limit: page.limit,
        projection: Document::new(),
    };
    let representation = call.query.get("filterRepresentation");
    let is_full = matches!(representation.as_deref(), Some("full" | "simpledetails"));
    let write: Writer = if is_full {
        note_all(api, &caller, find.clone()).await.doing(DOING)?;
        whole
    } else {
        find.projection = DETAILS
            .iter()
            .map(|field| ((*field).to_owned(), Bson::Int32(0)))
            .collect();
        without_details
    };
    let cursor = api.store().find(Collection::Audits, find).await.doing(DOING)?;
    stream::array(cursor, write, Cut::default()).await.doing(DOING)
}

/// `GET /audits/:auditId`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    caller.require("getAuditById", Permission::AuditTrailView)?;
    let api = &call.api;
    let id = call.params.get("auditId");
    let found = AUDITS.show(api, &id).await;
    let outcome = match &found {
        Ok(Some(_)) => Outcome::Success,
        Ok(None) => Outcome::MinorFailure,
        Err(_) => Outcome::MajorFailure,
    };
    note(api, &caller, &id, outcome).await;
    match found.doing("Could not get audit by ID via the API:")? {
        Some(record) => Ok(Reply::document(&record)?),
        None => Err(Refusal::NotFound(format!("Could not find audits record with ID: {id}"))),
    }
}

/// `GET /audits-filter-options`: which values have occurred.
pub(super) async fn filter_options(call: Call, caller: Caller) -> Answer {
    caller.require("getAuditsFilterOptions", Permission::AuditTrailView)?;
    let api = &call.api;
    let seen = api.store().one(Collection::AuditMeta, doc! {}).await;
    match seen.doing("Could not retrieve audits filter options via the API:")? {
        Some(seen) => Ok(Reply::document(&AUDIT_META.show(seen, &[], api.clock.now()))?),
        None => Ok(Reply::nothing()),
    }
}

fn whole(record: &RawDocument, out: &mut Vec<u8>, _cut: &Cut) -> Result<(), Fault> {
    write(record, out, &[])
}

fn without_details(record: &RawDocument, out: &mut Vec<u8>, _cut: &Cut) -> Result<(), Fault> {
    write(record, out, &DETAILS)
}

fn write(record: &RawDocument, out: &mut Vec<u8>, excluded: &[&str]) -> Result<(), Fault> {
    let stored = crate::store::decode(record)?;
    let time = stored
        .get_object_id("_id")
        .map_or(0, |id| id.timestamp().timestamp_millis());
    out.extend(json::of_document(&AUDIT.show(stored, excluded, time))?);
    Ok(())
}

/// Leaves a record for each record that is about to be shown in full.
async fn note_all(api: &Api, caller: &Caller, mut find: Find) -> Result<(), Fault> {
    find.projection = doc! {"_id": 1};
    let mut cursor = api.store().find(Collection::Audits, find).await?;
    while let Some(record) = cursor.next().await {
        let id = record?.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default();
        note(api, caller, &id, Outcome::Success).await;
    }
    Ok(())
}

async fn note(api: &Api, caller: &Caller, id: &str, outcome: Outcome) {
    let settings = &api.settings;
    let scheme = match settings.api.protocol {
        Protocol::Http => "http",
        Protocol::Https => "https",
    };
    let event = Event::AuditLogUsed {
        outcome,
        user: caller.email().to_owned(),
        groups: caller.groups().join(","),
        url: format!(
            "{scheme}://{}:{}/audits/{id}",
            settings.external_hostname, settings.api.port
        ),
    };
    api.auditor.record(event).await;
}

/// The query that a client's filters stand for. The outer error is about what a person typed, the inner one about what
/// a program sent.
fn filter(mut filters: Map<String, Value>) -> Result<Result<Document, Fault>, Refusal> {
    let participant = filters.remove(PARTICIPANT).filter(is_something);
    let patterns = match participant.map(patterns).transpose() {
        Ok(patterns) => patterns.unwrap_or_default(),
        Err(fault) => return Ok(Err(fault)),
    };
    if let Some(patient) = patterns.first()
        && !is_patient_id(patient)
    {
        return Err(Refusal::Invalid(
            "Special characters (except for hyphens(-)) not allowed in PatientID filter field".into(),
        ));
    }
    Ok(query(filters, &patterns))
}

fn query(mut filters: Map<String, Value>, patterns: &[String]) -> Result<Document, Fault> {
    if let Some(Value::String(text)) = filters.get(TIME).filter(|value| is_something(value)) {
        let range = serde_json::from_str(text)?;
        filters.insert(TIME.to_owned(), range);
    }
    let mut query = json::to_document(filters.into())?;
    match patterns {
        [] => {}
        [one] => {
            query.insert(PARTICIPANT, doc! {"$regex": one});
        }
        several => {
            let all = several.iter().map(|one| doc! {PARTICIPANT: {"$regex": one}});
            query.insert("$and", all.map(Bson::from).collect::<Vec<_>>());
        }
    }
    Ok(AUDIT.filter(query)?)
}

/// The patterns that a participant's id has to match; the first one is the patient's.
fn patterns(asked: Value) -> Result<Vec<String>, Fault> {
    let text = |value: &Value| -> Result<String, Fault> {
        let text = value
            .as_str()
            .ok_or_else(|| Fault::Syntax("Unexpected token in JSON".into()))?;
        Ok(serde_json::from_str::<String>(text)?)
    };
    match &asked {
        Value::Object(both) if both.contains_key("type") => {
            let object = both.get("objectID").and_then(Value::as_str).unwrap_or_default();
            Ok(vec![text(&both["patientID"])?, object.to_owned()])
        }
        one => Ok(vec![text(one)?]),
    }
}

/// What stands before the first `\^` of a patient's pattern: letters, digits, `_` and `-` only.
fn is_patient_id(pattern: &str) -> bool {
    let id = pattern.split_once("\\^").map_or("", |(id, _)| id);
    id.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_something(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(filters: Value) -> Document {
        let Value::Object(filters) = filters else { panic!() };
        filter(filters).unwrap().unwrap()
    }

    #[test]
    fn a_patient_is_searched_for_by_pattern() {
        assert_eq!(
            asked(json!({PARTICIPANT: r#""1234\\^\\^\\^&1.2.3&ISO""#})),
            doc! {PARTICIPANT: {"$regex": r"1234\^\^\^&1.2.3&ISO"}}
        );
        assert_eq!(
            asked(json!({PARTICIPANT: {"type": "AND", "patientID": r#""12-34\\^""#, "objectID": "^abc"}})),
            doc! {"$and": [{PARTICIPANT: {"$regex": r"12-34\^"}}, {PARTICIPANT: {"$regex": "^abc"}}]}
        );
    }

    #[test]
    fn a_patients_id_has_no_special_characters() {
        let filters = |text: &str| Map::from_iter([(PARTICIPANT.to_owned(), json!(text))]);

        assert!(matches!(filter(filters(r#""1.*\\^x""#)), Err(Refusal::Invalid(_))));
        assert!(filter(filters("no json")).unwrap().is_err());
        assert!(filter(filters(r#""anything ( without a caret""#)).unwrap().is_ok());
    }

    #[test]
    fn the_time_is_json_inside_json() {
        assert_eq!(
            asked(json!({TIME: r#"{"$gte":"1970-01-01T00:00:01Z"}"#, "eventIdentification.eventID.code": "1"})),
            doc! {TIME: {"$gte": bson::DateTime::from_millis(1000)}, "eventIdentification.eventID.code": "1"}
        );
    }
}
