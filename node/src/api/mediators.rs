//! `/mediators`: programs that stand between the router and other systems, their settings and their signs of life.

use bson::{Bson, DateTime, Document, doc};
use http::StatusCode;

use super::auth::Caller;
use super::channels;
use super::context::{Api, Call};
use super::documents::Resource;
use super::error::{Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::audit::Event;
use crate::clock::Millis;
use crate::mediators::{self, Invalid};
use crate::model::role::{Permission, Specified};
use crate::model::schema::tables::{CHANNEL, MEDIATOR};
use crate::model::schema::{Operators, SchemaError};
use crate::store::{Collection, Find, FindAndUpdate, StoreError};

const MEDIATORS: Resource = Resource {
    collection: Collection::Mediators,
    schema: &MEDIATOR,
};

/// Signs of life that may come while settings are stored.
const MOST_TRIES: usize = 10;

/// `GET /mediators`: all, or those that the caller's roles name.
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not fetch mediators via the API:";
    let find = if caller.may(Permission::MediatorViewAll) {
        Find::default()
    } else {
        let urns = caller.named(Specified::MediatorView);
        if urns.is_empty() {
            return Err(Refusal::Forbidden(format!(
                "{DOING} User does not have the right permissions"
            )));
        }
        Find::by(doc! {"urn": {"$in": urns}})
    };
    let mut mediators = MEDIATORS.shown(&call.api, find).await.doing(DOING)?;
    mediators.iter_mut().for_each(mediators::mask_passwords);
    Ok(Reply::documents(&mediators)?)
}

/// `GET /mediators/:urn`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    let urn = call.params.get("urn");
    caller.require_for(
        "getMediator",
        Permission::MediatorViewAll,
        Specified::MediatorView,
        &urn,
    )?;
    let found = find(&call.api, &urn).await;
    let Some(mediator) = found.doing(&format!("Could not fetch mediator using UUID {urn} via the API:"))? else {
        return Err(Refusal::Status(StatusCode::NOT_FOUND));
    };
    let mut mediator = MEDIATOR.show(mediator, &[], call.api.clock.now());
    mediators::mask_passwords(&mut mediator);
    Ok(Reply::document(&mediator)?)
}

/// `POST /mediators`: registers a mediator, or a newer version of one. It may be called at each start of the mediator.
pub(super) async fn register(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add Mediator via the API:";
    caller.require("addMediator", Permission::MediatorManageAll)?;
    let api = &call.api;
    let mediator = call.body.document().doing(DOING)?;
    note_start(api, &mediator).await;
    let refused = |error: Invalid| Refusal::Invalid(format!("{DOING} ValidationError: {error}"));
    mediators::check_registration(&mediator).map_err(refused)?;
    let urn = mediator.get_str("urn").unwrap_or_default().to_owned();
    match find(api, &urn).await.doing(DOING)? {
        Some(known) => renew(api, &known, mediator).await.doing(DOING)?,
        None => {
            mediators::check_first_registration(&mediator).map_err(refused)?;
            add(api, &urn, mediator).await?;
        }
    }
    tracing::info!("User {} created mediator with urn {urn}", caller.email());
    Ok(Reply::phrase(StatusCode::CREATED))
}

/// `DELETE /mediators/:urn`
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    let urn = call.params.get("urn");
    caller.require_for(
        "removeMediator",
        Permission::MediatorManageAll,
        Specified::MediatorManage,
        &urn,
    )?;
    let removed = call.api.store().delete(Collection::Mediators, doc! {"urn": &urn}).await;
    removed.doing(&format!("Could not remove Mediator by urn {urn} via the API:"))?;
    let text = format!(
        "Mediator with urn {urn} has been successfully removed by {}",
        caller.email()
    );
    tracing::info!("{text}");
    Ok(Reply::ok_text(text))
}

/// `POST /mediators/:urn/heartbeat`: answered with the settings if they have changed since the last one.
pub(super) async fn heartbeat(call: Call, caller: Caller) -> Answer {
    let urn = call.params.get("urn");
    caller.require_for(
        "mediatorHeartbeat",
        Permission::MediatorViewAll,
        Specified::MediatorView,
        &urn,
    )?;
    let doing = format!("Could not process mediator heartbeat (urn: {urn}):");
    let api = &call.api;
    if find(api, &urn).await.doing(&doing)?.is_none() {
        return Err(Refusal::Status(StatusCode::NOT_FOUND));
    }
    let body = call.body.document().doing(&doing)?;
    let Some(uptime) = body.get("uptime").filter(|uptime| **uptime != Bson::Null).cloned() else {
        return Err(Refusal::Status(StatusCode::BAD_REQUEST));
    };
    let wants_config = body.get("config") == Some(&Bson::Boolean(true));
    let signs = doc! {"_lastHeartbeat": api.clock.date(), "_uptime": uptime};
    let change = MEDIATOR
        .change(signs, Operators::Refused, api.clock.now())
        .doing(&doing)?;
    // In one step with the sign of life: settings that are set meanwhile would count as fetched.
    let beat = FindAndUpdate {
        filter: doc! {"urn": &urn},
        update: change,
        ..FindAndUpdate::default()
    };
    let mediator = api.store().find_and_update(Collection::Mediators, beat).await;
    let Some(mediator) = mediator.doing(&doing)? else {
        return Err(Refusal::Status(StatusCode::NOT_FOUND));
    };
    if !wants_config && !has_new_config(&mediator) {
        return Ok(Reply::ok_text(""));
    }
    match mediator.get("config") {
        Some(Bson::Document(config)) => Ok(Reply::document(config)?),
        Some(other) => Ok(Reply::ok(&crate::model::json::to_value(other))),
        None => Ok(Reply::phrase(StatusCode::OK)),
    }
}

/// `PUT /mediators/:urn/config`: the body is the whole new configuration.
pub(super) async fn set_config(call: Call, caller: Caller) -> Answer {
    let urn = call.params.get("urn");
    caller.require_for(
        "setConfig",
        Permission::MediatorManageAll,
        Specified::MediatorManage,
        &urn,
    )?;
    let doing = format!("Could not set mediator config (urn: {urn}):");
    let api = &call.api;
    let Some(mediator) = find(api, &urn).await.doing(&doing)? else {
        return Err(unknown());
    };
    let mut config = call.body.document().doing(&doing)?;
    let definitions = mediators::documents(mediator.get("configDefs"));
    if let Ok(stored) = mediator.get_document("config") {
        mediators::restore_passwords(&definitions, &mut config, stored);
    }
    let config = Bson::Document(config);
    mediators::check_config(&definitions, &config).map_err(|error| Refusal::Invalid(error.to_string()))?;
    store_config(api, &urn, &config).await.doing(&doing)?;
    tracing::info!("User {} set the config of mediator {urn}", caller.email());
    Ok(Reply::phrase(StatusCode::OK))
}

/// `POST /mediators/:urn/channels`: makes channels as the mediator describes them; a list of names says which.
pub(super) async fn load_channels(call: Call, caller: Caller) -> Answer {
    let urn = call.params.get("urn");
    caller.require_for(
        "loadDefaultChannel",
        Permission::MediatorManageAll,
        Specified::MediatorManage,
        &urn,
    )?;
    let doing = format!("Could not load mediator default channel config (urn: {urn}):");
    let api = &call.api;
    let Some(mediator) = find(api, &urn).await.doing(&doing)? else {
        return Err(unknown());
    };
    let Some(Bson::Array(_)) = mediator.get("defaultChannelConfig") else {
        return Err(Fault::Type("mediator.defaultChannelConfig is not iterable".into())).doing(&doing);
    };
    let described = mediators::documents(mediator.get("defaultChannelConfig"));
    let wanted = match call.body.value.as_array() {
        Some(names) if names.is_empty() => described,
        Some(names) => {
            let is_named = |channel: &Document| names.iter().any(|name| name.as_str() == channel.get_str("name").ok());
            let found: Vec<Document> = described.into_iter().filter(is_named).collect();
            if found.len() < names.len() {
                return Err(Refusal::Invalid(format!(
                    "Could not load mediator default channel config, one or more channels in the request body not found \
                     in the mediator config (urn: {urn})"
                )));
            }
            found
        }
        None => vec![],
    };
    for channel in wanted {
        add_channel(api, channel, &caller).await.doing(&doing)?;
    }
    Ok(Reply::phrase(StatusCode::CREATED))
}

async fn add_channel(api: &Api, mut channel: Document, caller: &Caller) -> Result<(), Fault> {
    channel.remove("_id");
    if let Ok(routes) = channel.get_array_mut("routes") {
        for route in routes.iter_mut().filter_map(Bson::as_document_mut) {
            route.remove("_id");
        }
    }
    channel.insert("updatedBy", channels::author(caller));
    let channel = CHANNEL.build(channel, api.clock.now())?;
    channels::insert(api, channel, caller).await
}

async fn find(api: &Api, urn: &str) -> Result<Option<Document>, StoreError> {
    api.store().one(Collection::Mediators, doc! {"urn": urn}).await
}

async fn add(api: &Api, urn: &str, mediator: Document) -> Result<(), Refusal> {
    const DOING: &str = "Could not add Mediator via the API:";
    match MEDIATORS.add(api, mediator.clone()).await {
        Ok(_) => Ok(()),
        // Another instance of it registered at the same moment.
        Err(Fault::Store(error)) if error.is_duplicate() => match find(api, urn).await.doing(DOING)? {
            Some(known) => renew(api, &known, mediator).await.doing(DOING),
            None => Err(error).doing(DOING),
        },
        Err(fault @ Fault::Schema(SchemaError::Validation(_))) => Err(fault).rejected(DOING),
        Err(fault) => Err(fault).doing(DOING),
    }
}

/// Takes over what a newer version says of itself; settings that somebody has made stay.
async fn renew(api: &Api, known: &Document, mut mediator: Document) -> Result<(), Fault> {
    let version = mediator.get_str("version").unwrap_or_default();
    if !mediators::is_newer(version, known.get_str("version").unwrap_or_default()) {
        return Ok(());
    }
    if let (Ok(config), Ok(stored)) = (mediator.get_document_mut("config"), known.get_document("config")) {
        mediators::keep_settings(config, stored);
    }
    mediator.remove("_id");
    let change = MEDIATOR.change(mediator, Operators::Refused, api.clock.now())?;
    let known = doc! {"_id": known.get("_id").cloned().unwrap_or(Bson::Null)};
    api.store().update(Collection::Mediators, known, change).await?;
    Ok(())
}

async fn note_start(api: &Api, mediator: &Document) {
    let endpoints = mediators::documents(mediator.get("endpoints"));
    let host = endpoints.first().and_then(|endpoint| endpoint.get_str("host").ok());
    let event = Event::MediatorStarted {
        name: mediator.get_str("name").unwrap_or_default().to_owned(),
        host: host.unwrap_or("unknown").to_owned(),
    };
    api.auditor.record(event).await;
}

/// Stores settings with an instant later than the last sign of life, also than one that comes in between: else the
/// mediator would never be told of them.
async fn store_config(api: &Api, urn: &str, config: &Bson) -> Result<(), StoreError> {
    let mut changed = api.clock.now();
    for _ in 0..MOST_TRIES {
        let set = doc! {"config": config.clone(), "_configModifiedTS": DateTime::from_millis(changed)};
        let step = FindAndUpdate {
            filter: doc! {"urn": urn},
            update: doc! {"$set": set},
            return_new: true,
            ..FindAndUpdate::default()
        };
        let stored = api.store().find_and_update(Collection::Mediators, step).await?;
        match stored.as_ref().and_then(|mediator| time(mediator, "_lastHeartbeat")) {
            Some(seen) if seen >= changed => changed = seen + 1,
            _ => break,
        }
    }
    Ok(())
}

/// True if the settings were changed after the last sign of life.
fn has_new_config(mediator: &Document) -> bool {
    let times = (time(mediator, "_configModifiedTS"), time(mediator, "_lastHeartbeat"));
    matches!(times, (Some(changed), Some(seen)) if changed > seen)
}

fn time(mediator: &Document, field: &str) -> Option<Millis> {
    mediator.get_datetime(field).ok().map(|time| time.timestamp_millis())
}

fn unknown() -> Refusal {
    Refusal::NotFound("No mediator found for this urn.".into())
}
