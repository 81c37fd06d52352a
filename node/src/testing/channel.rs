//! Channels for tests.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::Backend;

/// A channel to be stored.
#[derive(Clone, Debug)]
#[must_use]
pub struct ChannelBuilder {
    document: Document,
    routes: Vec<Document>,
}

/// A public channel for paths that match this pattern, with every method.
pub fn path(pattern: &str) -> ChannelBuilder {
    let document = doc! {
        "_id": ObjectId::new(),
        "name": format!("channel {pattern} {}", ObjectId::new()),
        "urlPattern": pattern,
        "methods": ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
        "authType": "public",
        "status": "enabled",
    };
    ChannelBuilder {
        document,
        routes: Vec::new(),
    }
}

impl ChannelBuilder {
    /// Names the channel.
    pub fn named(self, name: &str) -> Self {
        self.with("name", name)
    }

    /// Sets a field as it is stored.
    pub fn with(mut self, field: &str, value: impl Into<Bson>) -> Self {
        self.document.insert(field, value);
        self
    }

    /// Only for these roles and clients.
    pub fn private(self, allow: &[&str]) -> Self {
        let allow: Vec<String> = allow.iter().copied().map(String::from).collect();
        self.with("authType", "private").with("allow", allow)
    }

    /// The route whose answer is the client's.
    pub fn primary(self, backend: &Backend) -> Self {
        self.route("primary", backend.address().port(), doc! {"primary": true})
    }

    /// Another route.
    pub fn secondary(self, backend: &Backend) -> Self {
        self.route("secondary", backend.address().port(), doc! {})
    }

    /// A route to a port of this machine, with more fields.
    pub fn route(mut self, name: &str, port: u16, more: Document) -> Self {
        let mut route = doc! {
            "_id": ObjectId::new(), "name": name, "type": "http", "host": "127.0.0.1", "port": i32::from(port),
        };
        route.extend(more);
        self.routes.push(route);
        self
    }

    /// The channel's id.
    pub fn id(&self) -> ObjectId {
        self.document.get_object_id("_id").unwrap()
    }

    /// As it is stored.
    pub fn into_document(mut self) -> Document {
        self.document.insert("routes", self.routes);
        self.document
    }
}
