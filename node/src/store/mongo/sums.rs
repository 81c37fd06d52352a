//! Sums over documents in the server's words.

use bson::{Bson, Document, doc};

use crate::model::number;
use crate::store::query::Sums;

/// The stages that add up.
pub(super) fn pipeline(sums: &Sums) -> [Document; 2] {
    let marks: Document = sums.by.iter().map(|field| named(field, format!("${field}"))).collect();
    let mut group = doc! {"_id": marks};
    let figures = [("$sum", sums.add), ("$min", sums.least), ("$max", sums.most)];
    for (operator, fields) in figures {
        group.extend(
            fields
                .iter()
                .map(|field| named(field, doc! {operator: format!("${field}")})),
        );
    }
    [doc! {"$match": &sums.filter}, doc! {"$group": group}]
}

/// A group as the other store gives it.
pub(super) fn row(sums: &Sums, found: &Document) -> Document {
    let marks = found.get_document("_id").ok();
    let mark = |field: &&'static str| match marks?.get(*field)? {
        mark @ (Bson::ObjectId(_) | Bson::DateTime(_)) => Some(named(field, mark.clone())),
        _ => None,
    };
    let figure = |field: &&'static str| {
        let figure = found.get(*field).and_then(number::of_bson);
        named(field, figure.map_or(Bson::Null, Bson::Double))
    };
    let figures = sums.add.iter().chain(sums.least).chain(sums.most).map(figure);
    sums.by.iter().filter_map(mark).chain(figures).collect()
}

fn named(field: &str, value: impl Into<Bson>) -> (String, Bson) {
    (field.to_owned(), value.into())
}
