//! `/apps` and `/importmaps`: the parts that a console is made of. Both lists are open to everybody, because a console
//! needs them to show its login page.

use bson::{Bson, Document};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::auth::Caller;
use super::context::{Api, Call, Query};
use super::documents::Resource;
use super::error::{Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::{Permission, Specified};
use crate::model::schema::Operators;
use crate::model::schema::tables::APP;
use crate::store::{Collection, Find, FindAndUpdate};

const APPS: Resource = Resource {
    collection: Collection::Apps,
    schema: &APP,
};

/// The parts of OpenHIM's own console, with their files.
const CONSOLE: [(&str, &str); 16] = [
    ("openhim-header", "jembi-openhim-header.js"),
    ("openhim-core-api", "jembi-openhim-core-api.js"),
    ("openhim-theme", "jembi-openhim-theme.js"),
    ("portal-admin", "jembi-portal-admin.js"),
    ("openhim-portal", "jembi-openhim-portal.js"),
    ("root-config", "jembi-root-config.js"),
    ("openhim-sidebar", "jembi-openhim-sidebar.js"),
    ("clients-app", "jembi-clients-app.js"),
    ("dashboard-app", "jembi-dashboard-app.js"),
    ("rbac-app", "jembi-rbac-app.js"),
    ("footer-app", "jembi-footer-app.js"),
    ("transaction-log", "jembi-transaction-log.js"),
    ("channels-app", "jembi-channels-app.js"),
    ("users-app", "jembi-users-app.js"),
    ("client-roles-app", "jembi-client-roles-app.js"),
    ("legacy-console", "bundle.js"),
];

/// `GET /apps`: query parameters name fields and the values they have to have.
pub(super) async fn list(call: Call) -> Answer {
    let apps = matching(&call).await?;
    Reply::documents(&apps).map_err(failed)
}

/// `GET /importmaps`: where a browser finds each part.
pub(super) async fn import_map(call: Call) -> Answer {
    let base = &call.api.settings.console_base_url;
    let mut imports: Map<String, Value> = CONSOLE
        .iter()
        .map(|(part, file)| {
            (
                format!("@jembi/{part}"),
                json!(format!("{base}/libs/@jembi/{part}/dist/{file}")),
            )
        })
        .collect();
    for app in matching(&call).await? {
        if let (Ok(name), Ok(url)) = (app.get_str("name"), app.get_str("url")) {
            imports.insert(name.to_owned(), url.into());
        }
    }
    Ok(Reply::ok(&json!({"imports": imports})))
}

/// `GET /apps/:appId`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    let id = call.params.once("appId");
    caller.require_for("getApp", Permission::AppViewAll, Specified::AppView, id)?;
    let app = existing(&call.api, id).await?;
    Reply::document(&app).map_err(failed)
}

/// `POST /apps`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    caller.require("addApp", Permission::AppManageAll)?;
    let body = call.body.document().map_err(rejected)?;
    let app = APPS.add(&call.api, body).await.map_err(rejected)?;
    tracing::info!(
        "User {} created app {}",
        caller.email(),
        app.get_str("name").unwrap_or_default()
    );
    let mut reply = Reply::document(&app).map_err(failed)?;
    reply.status = StatusCode::CREATED;
    Ok(reply)
}

/// `PUT /apps/:appId`
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    caller.require("updateApp", Permission::AppManageAll)?;
    let id = call.params.once("appId");
    let api = &call.api;
    let app = existing(api, id).await?;
    let mut body = call.body.document().map_err(rejected)?;
    body.remove("_id");
    let app = change(api, app, body).await.map_err(rejected)?;
    tracing::info!("User {} updated app {id}", caller.email());
    Reply::document(&APP.show(app, &[], api.clock.now())).map_err(failed)
}

/// `DELETE /apps/:appId`
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    caller.require("deleteApp", Permission::AppManageAll)?;
    let id = call.params.once("appId");
    existing(&call.api, id).await?;
    APPS.remove(&call.api, id).await.map_err(failed)?;
    tracing::info!("User {} deleted app {id}", caller.email());
    Ok(Reply::ok(&json!({"success": true})))
}

async fn change(api: &Api, app: Document, body: Document) -> Result<Document, Fault> {
    let update = APP.change(body, Operators::Refused, api.clock.now())?;
    APP.check_change(&update)?;
    if update.is_empty() {
        return Ok(app);
    }
    let mut filter = Document::new();
    filter.insert("_id", app.get("_id").cloned().unwrap_or(Bson::Null));
    let ask = FindAndUpdate {
        filter,
        update,
        return_new: true,
        ..FindAndUpdate::default()
    };
    let changed = api.store().find_and_update(Collection::Apps, ask).await?;
    Ok(changed.unwrap_or(app))
}

/// The apps whose fields are what the query says; what is no field is ignored.
async fn matching(call: &Call) -> Result<Vec<Document>, Refusal> {
    let filter = APP.filter(asked(&call.query)).map_err(|error| failed(error.into()))?;
    APPS.shown(&call.api, Find::by(filter)).await.map_err(failed)
}

fn asked(query: &Query) -> Document {
    let value = |key: &str| match query.all(key).as_slice() {
        [one] => Bson::from(*one),
        several => Bson::Array(several.iter().map(|one| Bson::from(*one)).collect()),
    };
    query
        .keys()
        .into_iter()
        .map(|key| (key.to_owned(), value(key)))
        .collect()
}

async fn existing(api: &Api, id: &str) -> Result<Document, Refusal> {
    let is_id = id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id {
        return Err(Refusal::Json {
            status: StatusCode::BAD_REQUEST,
            text: format!("App id \"{id}\" is invalid. ObjectId should contain 24 characters"),
        });
    }
    APPS.show(api, id).await.map_err(failed)?.ok_or_else(|| Refusal::Json {
        status: StatusCode::NOT_FOUND,
        text: format!("App with id {id} does not exist"),
    })
}

fn failed(fault: Fault) -> Refusal {
    Refusal::Json {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        text: fault.to_string(),
    }
}

fn rejected(fault: Fault) -> Refusal {
    Refusal::Json {
        status: StatusCode::BAD_REQUEST,
        text: fault.to_string(),
    }
}
