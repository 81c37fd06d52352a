//! Queries of transactions in the words that let the server use what indexes there are.
//!
//! Nothing here changes which documents are found, as long as routes and orchestrations are lists, as OpenHIM and we write
//! them.

use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::store::Find;
use crate::store::query::{Filter, Path};

/// What consoles search through and no index holds.
const SEARCHED: [&str; 5] = [
    "request.path",
    "request.querystring",
    "request.host",
    "request.port",
    "request.method",
];
/// Documents in one page of a search, at most: the server keeps as many while it looks at all others, and all of them
/// have to come in its first answer, since [`PATIENCE`] would hold for the next one too.
const LARGEST_PAGE: u64 = 1_000;
/// How long a search may go from the newest document to older ones. If it has not found enough by then, it will have to
/// look at most of them, and does that faster in the order in which they lie.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// Parts of a transaction that few have, and what they have then.
pub(super) const PARTS: [(&str, &str); 3] = [
    ("routes", "routes.0"),
    ("orchestrations", "orchestrations.0"),
    ("properties", "properties"),
];
/// Numbers in a range of status codes, at most: more than this many lists the server does not merge.
const MOST_CODES: i64 = 100;

/// The filter in the server's words.
pub(super) fn filter(asked: Document, compiled: &Filter) -> Document {
    let mut filter = asked;
    // The server merges what it finds for each number in the order asked for; a range it would have to sort.
    if let Some(codes) = filter.get("response.status").and_then(codes) {
        filter.insert("response.status", doc! {"$in": codes});
    }
    for (part, there) in PARTS {
        let is_inside = |path: &Path| path.is_inside(part);
        if !filter.contains_key(there) && compiled.wants(is_inside) {
            filter.insert(there, doc! {"$exists": true});
        }
    }
    filter
}

/// True if the newest documents are asked for of those that have something that no index knows.
pub(super) fn is_search(find: &Find) -> bool {
    let is_sorted = find.sort.len() == 1 && find.sort.contains_key("request.timestamp");
    let is_page = find.limit > 0 && find.skip.saturating_add(find.limit) <= LARGEST_PAGE;
    // Whole documents might not come in one answer, which a page has to.
    let is_simple = !find.projection.is_empty();
    let is_searched = |key: &String| SEARCHED.contains(&key.as_str());
    is_sorted && is_page && is_simple && !find.filter.is_empty() && find.filter.keys().all(is_searched)
}

/// The whole numbers in a range of status codes.
fn codes(value: &Bson) -> Option<Vec<i32>> {
    let range = value.as_document().filter(|range| range.len() == 2)?;
    let (from, to) = (range.get_i32("$gte").ok()?, range.get_i32("$lt").ok()?);
    let width = i64::from(to) - i64::from(from);
    (from >= 100 && (1..=MOST_CODES).contains(&width)).then(|| (from..to).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worded(asked: Document) -> Document {
        let compiled = Filter::compile(&asked).unwrap();
        filter(asked, &compiled)
    }

    #[test]
    fn a_class_of_status_codes_is_a_list() {
        let found = worded(doc! {"response.status": {"$gte": 400, "$lt": 500}});
        let codes = found.get_document("response.status").unwrap().get_array("$in").unwrap();
        assert_eq!((codes.len(), codes.first()), (100, Some(&Bson::Int32(400))));
        for kept in [
            doc! {"response.status": 404},
            doc! {"response.status": {"$gte": 400}},
            doc! {"response.status": {"$gte": 0, "$lt": 100_000}},
        ] {
            assert_eq!(worded(kept.clone()), kept);
        }
    }

    #[test]
    fn what_must_be_inside_a_part_says_that_there_is_one() {
        let found = worded(doc! {"routes.request.host": "a", "properties.x": {"$exists": true}});
        assert!(
            found.contains_key("routes.0") && found.contains_key("properties"),
            "{found}"
        );
        for kept in [
            doc! {"routes.request.host": null},
            doc! {"routes.request.host": {"$ne": "a"}},
            doc! {"$or": [{"routes.request.host": "a"}, {"status": "Failed"}]},
            doc! {"routes": []},
        ] {
            assert_eq!(worded(kept.clone()), kept);
        }
    }

    #[test]
    fn a_page_of_what_no_index_knows_is_a_search() {
        let page = |filter: Document| Find {
            sort: doc! {"request.timestamp": -1},
            limit: 100,
            projection: doc! {"request.body": 0},
            ..Find::by(filter)
        };
        assert!(is_search(&page(
            doc! {"request.path": {"$regex": "x"}, "request.method": "GET"}
        )));
        for other in [
            doc! {"request.path": {"$regex": "x"}, "channelID": 1},
            doc! {"request.path": {"$regex": "x"}, "request.timestamp": {"$gte": 1}},
            doc! {"$or": [{"request.path": "x"}]},
            doc! {},
        ] {
            assert!(!is_search(&page(other.clone())), "{other}");
        }
        assert!(!is_search(&page(doc! {"request.path": "x"}).limited(0)));
    }
}
