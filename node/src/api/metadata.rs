//! `/metadata`: what an installation consists of, to be carried to another one.

use http::StatusCode;
use serde_json::{Value, json};

use super::auth::Caller;
use super::context::Call;
use super::error::{Doing, Fault};
use super::reply::Reply;
use super::router::Answer;
use crate::metadata::{self, Author, Desk, MetadataError, Outcome};
use crate::model::role::Permission;

/// What is done with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Import,
    Validate,
}

/// `GET /metadata`: everything, without ids.
pub(super) async fn export(call: Call, caller: Caller) -> Answer {
    caller.require("getMetadata", Permission::ImportExport)?;
    let exported = metadata::export(call.api.store()).await;
    Ok(Reply::ok(
        &exported.doing("Could not fetch specified metadata via the API")?,
    ))
}

/// `POST /metadata`
pub(super) async fn import(call: Call, caller: Caller) -> Answer {
    process(call, caller, Action::Import).await
}

/// `POST /metadata/validate`: says what an import would do.
pub(super) async fn validate(call: Call, caller: Caller) -> Answer {
    process(call, caller, Action::Validate).await
}

async fn process(call: Call, caller: Caller, action: Action) -> Answer {
    caller.require("addMetadata", Permission::ImportExport)?;
    let Value::Object(kinds) = &call.body.value else {
        return Ok(Reply::json(StatusCode::CREATED, &json!([])));
    };
    let mut answers = Vec::new();
    for (name, documents) in kinds {
        if documents.is_null() {
            let fault = Fault::Type("object null is not iterable".into());
            return Err(fault).doing("Could not import metadata via the API");
        }
        for document in documents.as_array().into_iter().flatten() {
            answers.push(one(&call, &caller, action, name, document).await);
        }
    }
    Ok(Reply::json(StatusCode::CREATED, &Value::Array(answers)))
}

async fn one(call: &Call, caller: &Caller, action: Action, name: &str, given: &Value) -> Value {
    let Some(kind) = metadata::kind_named(name) else {
        let outcome = Outcome::failed(given.clone(), "Invalid Collection in Import Object");
        return answer(name, outcome, None);
    };
    let author = Author {
        id: caller.user.get("_id").cloned().unwrap_or(bson::Bson::Null),
        name: caller.name(),
    };
    let desk = Desk {
        store: call.api.store(),
        clock: &*call.api.clock,
        author: &author,
    };
    let outcome = match action {
        Action::Import => metadata::import(desk, kind, given).await,
        Action::Validate => metadata::validate(desk, kind, given).await,
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::failed(given.clone(), error.to_string()));
    if action == Action::Import && outcome.status != "Error" {
        call.api.changed(kind.collection).await;
    }
    tracing::info!(
        "User {} performed {action:?} on {name}, got {}",
        caller.email(),
        outcome.status
    );
    answer(name, outcome, kind.uid(given))
}

fn answer(name: &str, outcome: Outcome, uid: Option<Value>) -> Value {
    let mut answer = json!({
        "model": name, "record": outcome.record, "status": outcome.status, "message": outcome.message,
    });
    if let Some(uid) = uid {
        answer["uid"] = uid;
    }
    answer
}

impl From<MetadataError> for Fault {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Store(error) => Self::Store(error),
            MetadataError::Schema(error) => Self::Schema(error),
            other => Self::Other(other.to_string()),
        }
    }
}
