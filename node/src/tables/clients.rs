//! Clients by everything that may identify one.

use std::collections::HashMap;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Document, RawDocumentBuf};

use crate::model::client::Client;

/// A client as it is stored.
#[derive(Debug)]
pub struct ClientEntry {
    pub client: Client,
    stored: RawDocumentBuf,
}

/// All clients of one moment.
#[derive(Debug, Default)]
pub struct ClientTable {
    by_id: HashMap<ObjectId, Arc<ClientEntry>>,
    by_client_id: HashMap<String, Arc<ClientEntry>>,
    by_token: HashMap<String, Arc<ClientEntry>>,
    by_fingerprint: HashMap<String, Arc<ClientEntry>>,
}

impl ClientTable {
    /// Takes what is stored; a client that is as it was in `before` keeps its entry.
    pub(super) fn build(stored: Vec<RawDocumentBuf>, before: &Self) -> Self {
        let mut table = Self::default();
        for raw in stored {
            if let Some(entry) = entry(raw, before) {
                table.add(entry);
            }
        }
        table
    }

    fn add(&mut self, entry: Arc<ClientEntry>) {
        let client = &entry.client;
        if let Some(token) = &client.custom_token_id {
            self.by_token.insert(token.expose().to_owned(), Arc::clone(&entry));
        }
        if let Some(fingerprint) = &client.cert_fingerprint {
            self.by_fingerprint.insert(fingerprint.clone(), Arc::clone(&entry));
        }
        self.by_client_id.insert(client.client_id.clone(), Arc::clone(&entry));
        self.by_id.insert(client.id, entry);
    }

    /// The client whose document has this id.
    pub fn by_id(&self, id: ObjectId) -> Option<&Arc<ClientEntry>> {
        self.by_id.get(&id)
    }

    /// The client of this name (`clientID`).
    pub fn by_client_id(&self, name: &str) -> Option<&Arc<ClientEntry>> {
        self.by_client_id.get(name)
    }

    /// The client that holds this custom token.
    pub fn by_token(&self, token: &str) -> Option<&Arc<ClientEntry>> {
        self.by_token.get(token)
    }

    /// The client with this certificate; SHA-1, upper-case pairs joined by colons.
    pub fn by_fingerprint(&self, fingerprint: &str) -> Option<&Arc<ClientEntry>> {
        self.by_fingerprint.get(fingerprint)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

fn entry(stored: RawDocumentBuf, before: &ClientTable) -> Option<Arc<ClientEntry>> {
    let document = match Document::try_from(stored.as_ref()) {
        Ok(document) => document,
        Err(error) => {
            tracing::warn!(%error, "A stored client cannot be read; it is left out");
            return None;
        }
    };
    let client = match Client::from_document(&document) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "A stored client cannot be used; it is left out");
            return None;
        }
    };
    match before.by_id(client.id) {
        Some(entry) if entry.stored == stored => Some(Arc::clone(entry)),
        _ => Some(Arc::new(ClientEntry { client, stored })),
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn stored(id: u8, name: &str, hash: &str) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc! {
            "_id": ObjectId::from_bytes([id; 12]), "clientID": name, "passwordHash": hash, "customTokenID": format!("t-{name}"),
        })
        .unwrap()
    }

    #[test]
    fn a_client_is_found_by_name_and_token() {
        let table = ClientTable::build(vec![stored(1, "a", "h"), stored(2, "b", "h")], &ClientTable::default());

        assert_eq!(
            table.by_client_id("a").unwrap().client.id,
            ObjectId::from_bytes([1; 12])
        );
        assert_eq!(table.by_token("t-b").unwrap().client.client_id, "b");
        assert!(table.by_client_id("c").is_none());
    }

    #[test]
    fn a_client_that_did_not_change_keeps_its_entry() {
        let before = ClientTable::build(vec![stored(1, "a", "h"), stored(2, "b", "h")], &ClientTable::default());

        let after = ClientTable::build(vec![stored(1, "a", "new"), stored(2, "b", "h")], &before);

        let is_kept = |name| Arc::ptr_eq(before.by_client_id(name).unwrap(), after.by_client_id(name).unwrap());
        assert_eq!((is_kept("a"), is_kept("b")), (false, true));
    }
}
