//! The plainest update, done on the bytes: fields of the document itself are put in their places, added or removed.

use bson::{RawDocument, RawDocumentBuf};

use crate::model::raw::RawWriter;
use crate::store::Result;
use crate::store::query::bad;

/// `before` with the fields of `set` in their places (those it does not have behind all others) and without those in
/// `unset`: what `$set` and `$unset` make of it.
///
/// # Errors
/// One of the documents is broken.
pub(in crate::store) fn splice(before: &RawDocument, set: &RawDocument, unset: &[&str]) -> Result<RawDocumentBuf> {
    let broken = |error: bson::error::Error| bad(error.to_string());
    // Room for all from the start: a large document is not to be copied while it grows.
    let room = before.as_bytes().len() + set.as_bytes().len();
    let mut after = RawWriter::with_room(room).finish();
    for field in before {
        let (name, old) = field.map_err(broken)?;
        if unset.contains(&name.as_str()) {
            continue;
        }
        after.append(name, set.get(name).map_err(broken)?.unwrap_or(old));
    }
    for field in set {
        let (name, value) = field.map_err(broken)?;
        if before.get(name).map_err(broken)?.is_none() {
            after.append(name, value);
        }
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use bson::{DateTime, Document, doc, rawdoc};

    use super::*;
    use crate::store::query::{Moment, Update};

    #[test]
    fn it_makes_what_the_operators_make() {
        let before = doc! {"_id": 1, "b": {"x": 1}, "owner": "n", "c": [], "d": "same"};
        let set = doc! {"b": {"y": 2}, "new": true, "c": [1, 2], "d": "same"};
        let update = doc! {"$set": set.clone(), "$unset": {"owner": "", "absent": ""}};
        let mut expected = before.clone();
        let moment = Moment {
            now: DateTime::from_millis(0),
            inserting: false,
        };
        Update::compile(&update)
            .unwrap()
            .apply(&mut expected, None, moment)
            .unwrap();

        let raw = |document: &Document| RawDocumentBuf::try_from(document).unwrap();
        let after = splice(&raw(&before), &raw(&set), &["owner", "absent"]).unwrap();

        assert_eq!(after, raw(&expected));
    }

    #[test]
    fn nothing_to_set_changes_nothing() {
        let before = rawdoc! {"_id": 1, "a": "b"};

        assert_eq!(splice(&before, &RawDocumentBuf::new(), &[]).unwrap(), before);
    }
}
