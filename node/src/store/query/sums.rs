//! Sums over documents, by groups.

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, RawBsonRef, RawDocument};

/// What is added up of the documents that match, for each group of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    pub filter: Document,
    /// Fields that the documents of a group have in common: ids or dates. Anything else in them counts as nothing.
    pub by: &'static [&'static str],
    /// Fields whose numbers are added.
    pub add: &'static [&'static str],
    /// Fields of which the least number is wanted.
    pub least: &'static [&'static str],
    /// Fields of which the greatest number is wanted.
    pub most: &'static [&'static str],
}

/// What a group is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Nothing,
    Id(ObjectId),
    Date(DateTime),
}

/// Sums while documents go by. They are read where they lie.
#[derive(Debug)]
pub(in crate::store) struct Tally<'s> {
    sums: &'s Sums,
    groups: BTreeMap<Vec<Mark>, Vec<Option<f64>>>,
}

impl<'s> Tally<'s> {
    pub(in crate::store) fn new(sums: &'s Sums) -> Self {
        let groups = BTreeMap::new();
        Self { sums, groups }
    }

    /// Counts one document.
    pub(in crate::store) fn add(&mut self, document: &RawDocument) {
        let Sums {
            by, add, least, most, ..
        } = self.sums;
        let mut marks = vec![Mark::Nothing; by.len()];
        let mut figures = [(0, 0.0); 32];
        let mut count = 0;
        for (name, value) in document.iter().flatten() {
            let name = name.as_str();
            if let Some(place) = by.iter().position(|field| *field == name) {
                marks[place] = match value {
                    RawBsonRef::ObjectId(id) => Mark::Id(id),
                    RawBsonRef::DateTime(at) => Mark::Date(at),
                    _ => Mark::Nothing,
                };
            } else if let Some(place) = add.iter().chain(*least).chain(*most).position(|field| *field == name)
                && let Some(number) = number(value)
                && let Some(free) = figures.get_mut(count)
            {
                *free = (place, number);
                count += 1;
            }
        }
        let group = self.groups.entry(marks).or_insert_with(|| {
            let mut start = vec![Some(0.0); add.len()];
            start.resize(add.len() + least.len() + most.len(), None);
            start
        });
        for (place, number) in figures.into_iter().take(count) {
            let known = &mut group[place];
            *known = Some(match *known {
                None => number,
                Some(sum) if place < add.len() => sum + number,
                Some(least_so_far) if place < add.len() + least.len() => least_so_far.min(number),
                Some(most_so_far) => most_so_far.max(number),
            });
        }
    }

    /// One document for each group: what it is told by, and its figures.
    pub(in crate::store) fn rows(self) -> Vec<Document> {
        let Sums {
            by, add, least, most, ..
        } = self.sums;
        let row = |(marks, figures): (Vec<Mark>, Vec<Option<f64>>)| {
            let mut row = Document::new();
            for (name, mark) in by.iter().zip(marks) {
                match mark {
                    Mark::Nothing => None,
                    Mark::Id(id) => row.insert(*name, id),
                    Mark::Date(at) => row.insert(*name, at),
                };
            }
            for (name, figure) in add.iter().chain(*least).chain(*most).zip(figures) {
                row.insert(*name, figure.map_or(Bson::Null, Bson::Double));
            }
            row
        };
        self.groups.into_iter().map(row).collect()
    }
}

fn number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Int32(number) => Some(f64::from(number)),
        RawBsonRef::Int64(number) => Some(number as f64),
        RawBsonRef::Double(number) => Some(number),
        _ => None,
    }
}
