//! What the simple resources do alike: show what a collection holds, find a document by its id, set fields on it, remove
//! it. Who may do so, and in which words it is answered, is each resource's own business.

use bson::{Document, doc};

use super::context::Api;
use super::error::{self, Fault};
use crate::model::schema::{Operators, Schema};
use crate::store::{Collection, Find};

/// A collection and the shape of its documents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource {
    pub(super) collection: Collection,
    pub(super) schema: &'static Schema,
}

impl Resource {
    /// The documents that are asked for, as they are shown.
    pub(super) async fn shown(self, api: &Api, find: Find) -> Result<Vec<Document>, Fault> {
        let now = api.clock.now();
        let stored = api.store().all(self.collection, find).await?;
        Ok(stored.into_iter().map(|it| self.schema.show(it, &[], now)).collect())
    }

    /// The document of this id, as it is stored.
    pub(super) async fn find(self, api: &Api, id: &str) -> Result<Option<Document>, Fault> {
        let id = error::id(id, self.schema.model)?;
        Ok(api.store().one(self.collection, doc! {"_id": id}).await?)
    }

    /// The document of this id, as it is shown.
    pub(super) async fn show(self, api: &Api, id: &str) -> Result<Option<Document>, Fault> {
        let found = self.find(api, id).await?;
        Ok(found.map(|it| self.schema.show(it, &[], api.clock.now())))
    }

    /// Adds what the body describes, and answers with it.
    pub(super) async fn add(self, api: &Api, body: Document) -> Result<Document, Fault> {
        let document = self.schema.build(body, api.clock.now())?;
        api.store().insert(self.collection, document.clone()).await?;
        api.changed(self.collection).await;
        Ok(document)
    }

    /// Sets what the body names on the document of this id; false if there is none. The id itself cannot be changed.
    pub(super) async fn set(self, api: &Api, id: &str, mut body: Document) -> Result<bool, Fault> {
        body.remove("_id");
        let wanted = doc! {"_id": error::id(id, self.schema.model)?};
        let change = self.schema.change(body, Operators::Refused, api.clock.now())?;
        if change.is_empty() {
            return Ok(api.store().one(self.collection, wanted).await?.is_some());
        }
        let written = api.store().update(self.collection, wanted, change).await?;
        api.changed(self.collection).await;
        Ok(written.matched > 0)
    }

    /// Removes the document of this id; false if there is none.
    pub(super) async fn remove(self, api: &Api, id: &str) -> Result<bool, Fault> {
        let id = error::id(id, self.schema.model)?;
        let written = api.store().delete(self.collection, doc! {"_id": id}).await?;
        api.changed(self.collection).await;
        Ok(written.matched > 0)
    }
}
