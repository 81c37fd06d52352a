//! Where the name of a role occurs: in the `roles` of clients and in the lists of whom channels allow.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, doc};
use serde_json::Value;

use crate::api::auth::Caller;
use crate::api::channels;
use crate::api::context::Api;
use crate::api::error::{Doing, Fault, Refusal};
use crate::model::role::Permission;
use crate::store::{Collection, Find, Write};

/// Clients and channels by the names of their roles.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<String, Side>,
}

#[derive(Debug, Default)]
struct Side {
    channels: Vec<Bson>,
    clients: Vec<Bson>,
}

impl Members {
    pub(super) async fn load(api: &Api) -> Result<Self, Fault> {
        let ask = |projection| Find {
            projection,
            ..Find::default()
        };
        let store = api.store();
        let clients = store
            .all(Collection::Clients, ask(doc! {"clientID": 1, "roles": 1}))
            .await?;
        let channels = store
            .all(Collection::Channels, ask(doc! {"name": 1, "allow": 1}))
            .await?;
        Ok(Self::of(&clients, &channels))
    }

    fn of(clients: &[Document], channels: &[Document]) -> Self {
        let mut members = Self::default();
        let client_ids: BTreeSet<&str> = clients
            .iter()
            .filter_map(|client| client.get_str("clientID").ok())
            .collect();
        for channel in channels {
            for name in texts(channel, "allow").filter(|name| !client_ids.contains(name)) {
                let shown = doc! {"_id": id_of(channel), "name": channel.get_str("name").unwrap_or_default()};
                members.side(name).channels.push(shown.into());
            }
        }
        for client in clients {
            for name in texts(client, "roles") {
                let shown = doc! {"_id": id_of(client), "clientID": client.get_str("clientID").unwrap_or_default()};
                members.side(name).clients.push(shown.into());
            }
        }
        members
    }

    fn side(&mut self, name: &str) -> &mut Side {
        self.by_name.entry(name.to_owned()).or_default()
    }

    /// Every name that occurs, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// The role with where its name occurs.
    pub(super) fn join(&self, mut role: Document) -> Document {
        let side = role.get_str("name").ok().and_then(|name| self.by_name.get(name));
        role.insert("channels", side.map_or(vec![], |side| side.channels.clone()));
        role.insert("clients", side.map_or(vec![], |side| side.clients.clone()));
        role
    }
}

/// What a matrix wants: ids of the channels and of the clients that shall have the name; `None` leaves them alone.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    channels: Option<BTreeSet<String>>,
    clients: Option<BTreeSet<String>>,
}

/// Reads what a matrix sends. Whoever changes channels or clients this way has to be allowed to manage them.
pub(super) fn wanted(body: &Value, caller: &Caller) -> Result<Wanted, Refusal> {
    let ids = |key: &str| {
        let listed = body.get(key)?.as_array()?;
        let id = |one: &Value| one.get("_id").unwrap_or(one).as_str().map(str::to_owned);
        Some(listed.iter().filter_map(id).collect())
    };
    let wanted = Wanted {
        channels: ids("channels"),
        clients: ids("clients"),
    };
    if wanted.channels.is_some() {
        caller.require("updateRole", Permission::ChannelManageAll)?;
    }
    if wanted.clients.is_some() {
        caller.require("updateRole", Permission::ClientManageAll)?;
    }
    Ok(wanted)
}

/// Gives the name to whoever shall have it and takes it from all others.
pub(super) async fn apply(api: &Api, name: &str, wanted: Wanted, caller: &Caller) -> Result<(), Fault> {
    if let Some(ids) = wanted.channels {
        for channel in api.store().all(Collection::Channels, Find::default()).await? {
            let allow: Vec<&str> = texts(&channel, "allow").collect();
            if let Some(allow) = with(&allow, name, ids.contains(&id_text(&channel))) {
                channels::save(api, channel.clone(), doc! {"allow": allow}, caller).await?;
            }
        }
    }
    if let Some(ids) = wanted.clients {
        for client in api.store().all(Collection::Clients, Find::default()).await? {
            let roles: Vec<&str> = texts(&client, "roles").collect();
            if let Some(roles) = with(&roles, name, ids.contains(&id_text(&client))) {
                set_roles(api, &client, roles).await?;
            }
        }
        api.changed(Collection::Clients).await;
    }
    Ok(())
}

/// Puts `new` in the place of `old` everywhere.
pub(super) async fn rename(api: &Api, old: &str, new: &str, caller: &Caller) -> Result<(), Refusal> {
    replace(api, old, Some(new), caller).await
}

/// Takes the name from everybody.
pub(super) async fn remove(api: &Api, name: &str, caller: &Caller) -> Result<(), Refusal> {
    replace(api, name, None, caller).await
}

async fn replace(api: &Api, old: &str, new: Option<&str>, caller: &Caller) -> Result<(), Refusal> {
    caller.require("updateRole", Permission::ChannelManageAll)?;
    caller.require("updateRole", Permission::ClientManageAll)?;
    let changed = |names: Vec<&str>| -> Vec<String> {
        let kept = names
            .into_iter()
            .filter_map(|name| if name == old { new } else { Some(name) });
        kept.map(str::to_owned).collect()
    };
    let named = |key: &str| Find::by(doc! {key: old});
    for channel in api.store().all(Collection::Channels, named("allow")).await.bare()? {
        let allow = changed(texts(&channel, "allow").collect());
        channels::save(api, channel.clone(), doc! {"allow": allow}, caller)
            .await
            .bare()?;
    }
    for client in api.store().all(Collection::Clients, named("roles")).await.bare()? {
        let roles = changed(texts(&client, "roles").collect());
        set_roles(api, &client, roles).await.bare()?;
    }
    api.changed(Collection::Clients).await;
    Ok(())
}

async fn set_roles(api: &Api, client: &Document, roles: Vec<String>) -> Result<(), Fault> {
    let update = Write::Update {
        of: Collection::Clients,
        filter: doc! {"_id": id_of(client)},
        update: doc! {"$set": {"roles": roles}},
        many: false,
        upsert: false,
    };
    api.store().apply(update).await?;
    Ok(())
}

/// The list with or without the name; `None` if it is so already.
fn with(names: &[&str], name: &str, wanted: bool) -> Option<Vec<String>> {
    if names.contains(&name) == wanted {
        return None;
    }
    let mut names: Vec<String> = names
        .iter()
        .filter(|it| **it != name)
        .map(|it| (*it).to_owned())
        .collect();
    if wanted {
        names.push(name.to_owned());
    }
    Some(names)
}

fn texts<'a>(document: &'a Document, key: &str) -> impl Iterator<Item = &'a str> {
    let items = match document.get(key) {
        Some(Bson::Array(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    items.iter().filter_map(Bson::as_str)
}

fn id_of(document: &Document) -> Bson {
    document.get("_id").cloned().unwrap_or(Bson::Null)
}

fn id_text(document: &Document) -> String {
    match document.get("_id") {
        Some(Bson::ObjectId(id)) => id.to_hex(),
        Some(Bson::String(id)) => id.clone(),
        _ => String::new(),
    }
}
