//! What an import would change, without changing it.

use bson::Document;
use serde_json::Value;

use super::{Desk, Kind, MetadataError, check_keys, document, existing, without_ids};
use crate::model::json as bson_json;

/// A thing as it is and as it would be, without ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `None`: it is new.
    pub before: Option<Value>,
    pub after: Value,
}

impl Change {
    /// True if an import of the document would change nothing that matters.
    pub fn is_none(&self) -> bool {
        self.before.as_ref() == Some(&self.after)
    }
}

/// What an import of the document would do.
///
/// # Errors
/// The document is wrong, or the store fails.
pub async fn preview(desk: Desk<'_>, kind: &Kind, given: &Value) -> Result<Change, MetadataError> {
    let mut document = document(desk, kind, given)?;
    let now = desk.clock.now();
    let Some(stored) = existing(desk.store, kind, &document).await? else {
        let made = kind.schema.build(document, now)?;
        check_keys(kind, &made)?;
        return Ok(Change {
            before: None,
            after: shown(made),
        });
    };
    document.remove("_id");
    let merged = kind.schema.merge(stored.clone(), document, now)?;
    check_keys(kind, &merged.after)?;
    let after = if merged.update.is_empty() {
        stored.clone()
    } else {
        merged.after
    };
    Ok(Change {
        before: Some(shown(kind.schema.show(stored, &[], now))),
        after: shown(kind.schema.show(after, &[], now)),
    })
}

/// As exports show it, but for who changed it last.
fn shown(mut document: Document) -> Value {
    document.remove("updatedBy");
    without_ids(bson_json::to_value(&document.into()))
}
