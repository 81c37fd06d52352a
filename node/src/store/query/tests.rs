//! The rules by example, and against a real server with generated documents.

mod against_mongod;
pub(in crate::store) mod generate;

use bson::{DateTime, Document, RawDocumentBuf, doc};

use super::*;

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

fn updated(before: Document, update: Document) -> Result<Document, StoreError> {
    let mut after = before;
    let moment = Moment {
        now: DateTime::from_millis(1_000),
        inserting: false,
    };
    Update::compile(&update)?.apply(&mut after, None, moment)?;
    Ok(after)
}

#[test]
fn a_pattern_that_backtracks_without_end_is_stopped_and_does_not_match() {
    let filter = Filter::compile(&doc! {"a": {"$regex": "^(?=(a+)+$)\\1b"}}).unwrap();
    let document = raw(&doc! {"a": "a".repeat(50) + "!"});
    let start = std::time::Instant::now();
    assert!(!filter.matches(&document));
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
}

#[test]
fn a_pattern_may_look_around_and_refer_back() {
    let filter = Filter::compile(&doc! {"a": {"$regex": "(?<!x)(b)\\1", "$options": "i"}}).unwrap();
    assert!(filter.matches(&raw(&doc! {"a": "aBb"})));
    assert!(!filter.matches(&raw(&doc! {"a": "xbb"})));
}

#[test]
fn a_pattern_that_would_be_huge_is_refused() {
    let filter = Filter::compile(&doc! {"a": {"$regex": "((a{1000}){1000}){1000}"}});
    assert!(matches!(filter, Err(StoreError::BadQuery(_))), "{filter:?}");
}

#[test]
fn filters_nested_without_end_are_refused() {
    let mut filter = doc! {"a": 1};
    for _ in 0..1000 {
        filter = doc! {"$or": [filter]};
    }
    assert!(matches!(Filter::compile(&filter), Err(StoreError::BadQuery(_))));
    let mut negated = doc! {"$eq": 1};
    for _ in 0..1000 {
        negated = doc! {"$not": negated};
    }
    assert!(matches!(
        Filter::compile(&doc! {"a": negated}),
        Err(StoreError::BadQuery(_))
    ));
    let path = vec!["a"; 1000].join(".");
    assert!(matches!(Filter::compile(&doc! {path: 1}), Err(StoreError::BadQuery(_))));
}

#[test]
fn damaged_bytes_never_panic() {
    let filter =
        Filter::compile(&doc! {"a.b.0": {"$gt": 1}, "c": {"$elemMatch": {"d": {"$in": ["x", null]}}}}).unwrap();
    let sort = SortOrder::compile(&doc! {"a.b": 1, "c.d": -1}).unwrap();
    let projection = Projection::compile(&doc! {"a.b": 0}).unwrap();
    let whole = raw(&doc! {"a": {"b": [1, 2]}, "c": [{"d": "x"}], "e": 1.5}).into_bytes();
    for place in 4..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << bit;
            if let Ok(document) = bson::RawDocument::from_bytes(&damaged) {
                filter.matches(document);
                sort.key(document);
                projection.apply(document);
            }
        }
    }
}

#[test]
fn the_date_of_an_update_is_an_argument() {
    let after = updated(
        doc! {"_id": 1},
        doc! {"$currentDate": {"a": true, "b": {"$type": "timestamp"}}},
    )
    .unwrap();
    let date = DateTime::from_millis(1_000);
    assert_eq!(after.get_datetime("a").unwrap(), &date);
    assert_eq!(after.get_timestamp("b").unwrap().time, 1);
}

#[test]
fn an_update_can_not_blow_up_an_array() {
    let outcome = updated(doc! {"_id": 1, "a": []}, doc! {"$set": {"a.900000000": 1}});
    assert!(matches!(outcome, Err(StoreError::BadQuery(_))), "{outcome:?}");
}

#[test]
fn numbers_of_every_width_compare_by_value() {
    let cases = [
        (doc! {"a": i64::MAX}, doc! {"a": {"$gt": 9.2e18}}, true),
        (doc! {"a": i64::MAX}, doc! {"a": {"$lt": 9.3e18}}, true),
        (
            doc! {"a": (1_i64 << 53) + 1},
            doc! {"a": 9_007_199_254_740_992.0},
            false,
        ),
        (doc! {"a": -1}, doc! {"a": {"$gt": -1.5}}, true),
        (doc! {"a": 2_i64}, doc! {"a": 2.0}, true),
        (doc! {"a": f64::NAN}, doc! {"a": {"$lt": 1}}, false),
        (doc! {"a": f64::NAN}, doc! {"a": f64::NAN}, true),
    ];
    for (document, filter, expected) in cases {
        let matches = Filter::compile(&filter).unwrap().matches(&raw(&document));
        assert_eq!(matches, expected, "{document} {filter}");
    }
}
