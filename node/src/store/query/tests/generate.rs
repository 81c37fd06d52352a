//! Documents, filters and updates by chance, from a seed.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Regex, Timestamp, doc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// A source of chance that says how to repeat it.
pub(in crate::store) struct Chance {
    rng: StdRng,
    /// The only paths, if they are given.
    paths: &'static [&'static str],
}

const NAMES: [&str; 5] = ["a", "b", "c", "0", "1"];

impl Chance {
    /// Takes the seed from `OPENHIM_TEST_SEED`, else always the same; prints it.
    pub(in crate::store) fn new() -> Self {
        let seed = std::env::var("OPENHIM_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(1);
        println!("to repeat: OPENHIM_TEST_SEED={seed}");
        Self {
            rng: StdRng::seed_from_u64(seed),
            paths: &[],
        }
    }

    /// One that asks about these paths only.
    pub(in crate::store) fn over(paths: &'static [&'static str]) -> Self {
        Self { paths, ..Self::new() }
    }

    pub(in crate::store) fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).unwrap()
    }

    pub(in crate::store) fn name(&mut self) -> &'static str {
        self.pick(&NAMES)
    }

    pub(in crate::store) fn path(&mut self) -> String {
        if !self.paths.is_empty() {
            return self.pick(self.paths).to_owned();
        }
        let parts: Vec<&str> = (0..=self.below(3)).map(|_| self.name()).collect();
        parts.join(".")
    }

    pub(in crate::store) fn scalar(&mut self) -> Bson {
        match self.below(24) {
            0 | 1 => Bson::Null,
            2..=6 => Bson::Int32(self.pick(&[-1, 0, 1, 2, 3, 7])),
            7 | 8 => Bson::Double(self.pick(&[-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 2.5, f64::INFINITY])),
            9 => Bson::Double(f64::NAN),
            10 => Bson::Int64(self.pick(&[0, 1, 2, 1 << 40, (1 << 53) + 1, i64::MAX])),
            11..=15 => Bson::String(self.text()),
            16 | 17 => Bson::Boolean(self.one_in(2)),
            18 | 19 => Bson::DateTime(DateTime::from_millis(self.pick(&[-5, 0, 1, 1000]))),
            20 => Bson::ObjectId(ObjectId::from_bytes([self.pick(&[0, 1, 0xff]); 12])),
            21 => Bson::Timestamp(Timestamp {
                time: self.pick(&[1, 2]),
                increment: 1,
            }),
            22 => {
                self.pick(&[0, 1]).try_into().map_or(
                    Bson::MinKey,
                    |kind: u8| if kind == 0 { Bson::MinKey } else { Bson::MaxKey },
                )
            }
            _ => Bson::Binary(Binary {
                subtype: self.pick(&[BinarySubtype::Generic, BinarySubtype::Uuid]),
                bytes: vec![self.pick(&[0, 1]); 16],
            }),
        }
    }

    fn text(&mut self) -> String {
        self.pick(&["", "a", "b", "ab", "A", "a.b", "zz", "é"]).to_owned()
    }

    pub(in crate::store) fn value(&mut self, depth: usize) -> Bson {
        match self.below(if depth == 0 { 6 } else { 12 }) {
            0..=5 => self.scalar(),
            6..=8 => Bson::Array((0..self.below(4)).map(|_| self.value(depth - 1)).collect()),
            _ => Bson::Document(self.inner(depth - 1)),
        }
    }

    fn inner(&mut self, depth: usize) -> Document {
        (0..self.below(4))
            .map(|_| (self.name().to_owned(), self.value(depth)))
            .collect()
    }

    /// A document with this `_id`.
    pub(in crate::store) fn document(&mut self, id: i32) -> Document {
        let mut document = doc! {"_id": id};
        for _ in 0..=self.below(4) {
            let name = self.name();
            document.insert(name, self.value(3));
        }
        document
    }

    /// A document with values at the given paths: plain ones, or of any kind.
    pub(in crate::store) fn stored(&mut self, id: i32, of_any_kind: bool) -> Document {
        let mut document = doc! {"_id": id};
        for path in self.paths {
            let value = match self.below(if of_any_kind { 8 } else { 4 }) {
                0 => continue,
                1..=6 => self.scalar(),
                _ => self.value(2),
            };
            match path.split_once('.') {
                None => drop(document.insert(*path, value)),
                Some((outer, inner)) => {
                    if let Bson::Document(fields) = document.entry(outer).or_insert_with(|| doc! {}.into()) {
                        fields.insert(inner, value);
                    }
                }
            }
        }
        if of_any_kind && self.one_in(6) {
            let list: Vec<Document> = (0..self.below(3))
                .map(|_| doc! {"path": self.scalar(), "timestamp": self.scalar()})
                .collect();
            document.insert("request", list);
        }
        document
    }

    pub(in crate::store) fn filter(&mut self, depth: usize) -> Document {
        let mut filter = Document::new();
        for _ in 0..=self.below(2) {
            if depth > 0 && self.one_in(6) {
                let clauses: Vec<Document> = (0..=self.below(2)).map(|_| self.filter(depth - 1)).collect();
                filter.insert(self.pick(&["$and", "$or", "$nor"]), clauses);
            } else {
                let path = self.path();
                filter.insert(path, self.condition(depth));
            }
        }
        filter
    }

    fn condition(&mut self, depth: usize) -> Bson {
        match self.below(8) {
            0 | 1 => self.value(2),
            2 => self.regex(),
            _ => Bson::Document(self.operators(depth)),
        }
    }

    fn regex(&mut self) -> Bson {
        Bson::RegularExpression(Regex {
            pattern: self.pick(&["^a", "b$", ".", "a.b", "[ab]{2}", ""]).try_into().unwrap(),
            options: self.pick(&["", "i", "s"]).try_into().unwrap(),
        })
    }

    fn operators(&mut self, depth: usize) -> Document {
        let mut operators = Document::new();
        for _ in 0..=self.below(2) {
            let (operator, operand) = self.operator(depth);
            operators.insert(operator, operand);
        }
        operators
    }

    fn operator(&mut self, depth: usize) -> (&'static str, Bson) {
        match self.below(16) {
            0..=5 => (self.pick(&["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), self.value(2)),
            6 | 7 => (self.pick(&["$in", "$nin"]), self.list()),
            8 => ("$exists", Bson::Boolean(self.one_in(2))),
            9 => ("$type", self.kind()),
            10 => ("$regex", self.text().into()),
            11 => ("$all", self.all(depth)),
            12 => ("$size", Bson::Int32(self.pick(&[0, 1, 2]))),
            13 => (
                "$mod",
                Bson::Array(vec![
                    Bson::Int32(self.pick(&[2, 3])),
                    Bson::Int32(self.pick(&[0, 1, -1])),
                ]),
            ),
            14 if depth > 0 => ("$elemMatch", Bson::Document(self.element(depth - 1))),
            15 if depth > 0 => ("$not", self.negated(depth - 1)),
            _ => ("$eq", self.scalar()),
        }
    }

    fn list(&mut self) -> Bson {
        let value = |chance: &mut Self| {
            if chance.one_in(8) {
                chance.regex()
            } else {
                chance.value(1)
            }
        };
        Bson::Array((0..self.below(4)).map(|_| value(self)).collect())
    }

    fn all(&mut self, depth: usize) -> Bson {
        let count = self.below(3);
        if depth > 0 && self.one_in(4) {
            let element = |chance: &mut Self| Bson::Document(doc! {"$elemMatch": chance.element(depth - 1)});
            return Bson::Array((0..=count).map(|_| element(self)).collect());
        }
        Bson::Array((0..count).map(|_| self.value(1)).collect())
    }

    fn element(&mut self, depth: usize) -> Document {
        if self.one_in(2) {
            self.operators(depth)
        } else {
            self.filter(depth)
        }
    }

    fn negated(&mut self, depth: usize) -> Bson {
        if self.one_in(4) {
            self.regex()
        } else {
            Bson::Document(self.operators(depth))
        }
    }

    fn kind(&mut self) -> Bson {
        let kinds = [
            "double", "string", "object", "array", "objectId", "bool", "date", "null", "int", "long", "number",
            "minKey",
        ];
        match self.below(3) {
            0 => Bson::Array(vec![self.pick(&kinds).into(), self.pick(&kinds).into()]),
            1 => Bson::Int32(self.pick(&[1, 2, 3, 4, 16, -1])),
            _ => self.pick(&kinds).into(),
        }
    }

    /// A filter that some element of an array in the document satisfies, with the array's name.
    pub(in crate::store) fn filter_on_an_array(&mut self, document: &Document) -> Option<(String, Document)> {
        let id = document.get("_id")?.clone();
        let (name, array) = document
            .iter()
            .find_map(|(name, value)| Some((name, value.as_array()?)))?;
        let element = array.choose(&mut self.rng)?;
        let condition = match element {
            Bson::Document(inner) => {
                let (inner_name, value) = inner.iter().next()?;
                match self.below(3) {
                    0 => (name.clone(), doc! {"$elemMatch": {inner_name: value.clone()}}.into()),
                    _ => (format!("{name}.{inner_name}"), value.clone()),
                }
            }
            value => match self.below(4) {
                0 => (name.clone(), doc! {"$in": [value.clone(), "a", 2]}.into()),
                1 => (name.clone(), doc! {"$elemMatch": {"$gte": value.clone()}}.into()),
                2 => (name.clone(), doc! {"$gte": value.clone()}.into()),
                _ => (name.clone(), value.clone()),
            },
        };
        let mut filter = doc! {"_id": id};
        filter.insert(condition.0, condition.1);
        Some((name.clone(), filter))
    }

    /// An update document; many are refused.
    pub(in crate::store) fn update(&mut self) -> Document {
        let mut update = Document::new();
        for _ in 0..=self.below(2) {
            let operator = self.pick(&[
                "$set",
                "$set",
                "$unset",
                "$inc",
                "$mul",
                "$min",
                "$max",
                "$push",
                "$push",
                "$addToSet",
                "$pull",
                "$pullAll",
                "$pop",
                "$rename",
                "$setOnInsert",
            ]);
            let fields: Document = (0..=self.below(2))
                .map(|_| (self.path(), self.operand(operator)))
                .collect();
            update.insert(operator, fields);
        }
        update
    }

    fn operand(&mut self, operator: &str) -> Bson {
        match operator {
            "$inc" | "$mul" => self.pick(&[1, -2, 3]).into(),
            "$push" if self.one_in(2) => {
                let mut push = doc! {"$each": (0..self.below(3)).map(|_| self.value(1)).collect::<Vec<_>>()};
                if self.one_in(2) {
                    push.insert("$position", self.pick(&[0, 1, -1, 9]));
                }
                if self.one_in(2) {
                    push.insert("$slice", self.pick(&[0, 1, 2, -1, -2]));
                }
                push.into()
            }
            "$addToSet" if self.one_in(2) => {
                doc! {"$each": (0..self.below(3)).map(|_| self.value(1)).collect::<Vec<_>>()}.into()
            }
            "$pull" => match self.below(3) {
                0 => Bson::Document(self.operators(1)),
                1 => Bson::Document(self.filter(0)),
                _ => self.value(1),
            },
            "$pullAll" => Bson::Array((0..self.below(4)).map(|_| self.value(1)).collect()),
            "$pop" => self.pick(&[1, -1]).into(),
            "$rename" => self.path().into(),
            _ => self.value(2),
        }
    }

    pub(in crate::store) fn projection(&mut self) -> Document {
        let way = self.below(2) as i32;
        let mut projection: Document = (0..=self.below(3)).map(|_| (self.path(), Bson::Int32(way))).collect();
        if self.one_in(3) {
            projection.insert("_id", self.pick(&[0, 1]));
        }
        projection
    }

    pub(in crate::store) fn direction(&mut self) -> i32 {
        self.pick(&[1, -1])
    }
}
