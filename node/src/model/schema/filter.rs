//! A query from a client.
//!
//! Clients send MongoDB's query documents. What they say about unknown paths is ignored, values become what the paths
//! hold, and nothing that would run code gets through.

use bson::{Bson, Document};

use super::{CastError, Field, Kind, Schema, SchemaError, Target, cast, resolve_in_document};

/// A query that a person or a console makes has a few dozen values; a hostile one is cut off here.
const MOST_VALUES: usize = 5_000;

/// Lists within lists, at most.
const DEEPEST: usize = 16;

/// Longest regular expression.
const LONGEST_PATTERN: usize = 2_000;

impl Schema {
    /// The query with unknown paths removed and values cast.
    ///
    /// # Errors
    /// A value cannot be cast, an operator is unknown or not allowed, or the query is too large.
    pub fn filter(&'static self, query: Document) -> Result<Document, SchemaError> {
        let mut caster = Caster {
            model: self.model,
            left: MOST_VALUES,
        };
        caster.query(&|path| self.resolve(path), query, DEEPEST)
    }
}

type Paths<'a> = &'a dyn Fn(&str) -> Option<Target>;

struct Caster {
    model: &'static str,
    left: usize,
}

impl Caster {
    fn spend(&mut self, depth: usize) -> Result<usize, SchemaError> {
        self.left = self.left.checked_sub(1).ok_or(SchemaError::TooLarge)?;
        depth.checked_sub(1).ok_or(SchemaError::TooLarge)
    }

    fn query(&mut self, paths: Paths<'_>, query: Document, depth: usize) -> Result<Document, SchemaError> {
        let depth = self.spend(depth)?;
        let mut cast = Document::new();
        for (key, value) in query.into_iter().filter(|(key, _)| key != "$comment") {
            if matches!(key.as_str(), "$or" | "$and" | "$nor") {
                let branches = self.branches(paths, &key, value, depth)?;
                cast.insert(key, branches);
            } else if key.starts_with('$') {
                return Err(SchemaError::Operator(format!("unknown top level operator: {key}")));
            } else if let Some(target) = paths(&key) {
                let value = self.condition(target, value, &key, depth)?;
                cast.insert(key, value);
            }
        }
        Ok(cast)
    }

    fn branches(&mut self, paths: Paths<'_>, key: &str, value: Bson, depth: usize) -> Result<Bson, SchemaError> {
        let Bson::Array(branches) = value else {
            return Err(SchemaError::Operator(format!("{key} must be an array")));
        };
        if branches.is_empty() {
            return Err(SchemaError::Operator(format!("{key} must be a nonempty array")));
        }
        let mut cast = Vec::with_capacity(branches.len());
        for branch in branches {
            let Bson::Document(branch) = branch else {
                return Err(SchemaError::Operator(format!("{key} entries need to be full objects")));
            };
            cast.push(Bson::Document(self.query(paths, branch, depth)?));
        }
        Ok(Bson::Array(cast))
    }

    /// What is asked of one path.
    fn condition(&mut self, target: Target, value: Bson, path: &str, depth: usize) -> Result<Bson, SchemaError> {
        let depth = self.spend(depth)?;
        match value {
            Bson::Document(operators) if operators.keys().any(|key| key.starts_with('$')) => {
                self.operators(target, operators, path, depth)
            }
            // A list on a path without lists means "one of".
            Bson::Array(items) if is_plain(target) => {
                let items = self.each(target, items, path)?;
                Ok(Bson::Document(bson::doc! {"$in": items}))
            }
            value => self.value(target, value, path),
        }
    }

    fn operators(
        &mut self,
        target: Target,
        operators: Document,
        path: &str,
        depth: usize,
    ) -> Result<Bson, SchemaError> {
        let mut cast = Document::new();
        for (operator, value) in operators {
            self.spend(depth)?;
            let value = match operator.as_str() {
                "$eq" | "$ne" | "$gt" | "$gte" | "$lt" | "$lte" => match value {
                    Bson::Array(items) if is_list(target) => Bson::Array(self.each(target, items, path)?),
                    value => self.value(target, value, path)?,
                },
                "$in" | "$nin" | "$all" => match value {
                    Bson::Array(items) => Bson::Array(self.each(target, items, path)?),
                    one => Bson::Array(vec![self.value(target, one, path)?]),
                },
                "$exists" => self.operand(Kind::Flag, value, path)?,
                "$size" => self.operand(Kind::Number, value, path)?,
                "$not" => self.condition(target, value, path, depth)?,
                "$elemMatch" => self.element(target, value, path, depth)?,
                "$regex" | "$options" => pattern(target, &operator, value)?,
                "$type" | "$mod" => value,
                _ => return Err(unusable(&operator, target)),
            };
            cast.insert(operator, value);
        }
        Ok(Bson::Document(cast))
    }

    fn operand(&self, kind: Kind, value: Bson, path: &str) -> Result<Bson, SchemaError> {
        Ok(cast::plain(kind, value, path).map_err(|error| error.operand().in_model(self.model))?)
    }

    fn element(&mut self, target: Target, value: Bson, path: &str, depth: usize) -> Result<Bson, SchemaError> {
        let Bson::Document(query) = value else {
            return Err(SchemaError::Operator("$elemMatch needs an Object".to_owned()));
        };
        match target {
            Target::Field(Field {
                kind: Kind::Documents(fields),
                ..
            }) => {
                let query = self.query(&|path| resolve_in_document(fields, path), query, depth)?;
                Ok(Bson::Document(query))
            }
            Target::Field(Field {
                kind: Kind::List(element),
                ..
            }) => self.condition(Target::Field(element), Bson::Document(query), path, depth),
            _ => Ok(Bson::Document(query)),
        }
    }

    fn each(&mut self, target: Target, items: Vec<Bson>, path: &str) -> Result<Vec<Bson>, SchemaError> {
        self.left = self.left.checked_sub(items.len()).ok_or(SchemaError::TooLarge)?;
        items.into_iter().map(|item| self.value(target, item, path)).collect()
    }

    fn value(&self, target: Target, value: Bson, path: &str) -> Result<Bson, SchemaError> {
        let kind = match target {
            Target::Field(Field {
                kind: Kind::List(element),
                ..
            }) => match value {
                Bson::Array(items) => {
                    let items: Result<_, _> = items
                        .into_iter()
                        .map(|item| self.value(Target::Field(element), item, path))
                        .collect();
                    return Ok(Bson::Array(items?));
                }
                value => return self.value(Target::Field(element), value, path),
            },
            Target::Field(field) => field.kind,
            Target::Element(_) | Target::Anything => return Ok(value),
        };
        Ok(cast::plain(kind, value, path).map_err(|error: CastError| error.in_model(self.model))?)
    }
}

fn is_plain(target: Target) -> bool {
    matches!(target, Target::Field(field)
        if matches!(field.kind, Kind::Text | Kind::Number | Kind::Flag | Kind::Date | Kind::Id))
}

fn is_list(target: Target) -> bool {
    matches!(
        target,
        Target::Field(Field {
            kind: Kind::List(_),
            ..
        })
    )
}

fn pattern(target: Target, operator: &str, value: Bson) -> Result<Bson, SchemaError> {
    let takes_text = match target {
        Target::Anything => true,
        Target::Field(field) => match field.kind {
            Kind::Text | Kind::Mixed => true,
            Kind::List(element) => matches!(element.kind, Kind::Text | Kind::Mixed),
            _ => false,
        },
        Target::Element(_) => false,
    };
    match value {
        _ if !takes_text => Err(unusable(operator, target)),
        Bson::String(text) if text.len() <= LONGEST_PATTERN => Ok(Bson::String(text)),
        Bson::String(_) => Err(SchemaError::TooLarge),
        _ => Err(SchemaError::Operator(format!("{operator} has to be a string"))),
    }
}

fn unusable(operator: &str, target: Target) -> SchemaError {
    let kind = match target {
        Target::Field(field) => match field.kind {
            Kind::Text => "String",
            Kind::Number => "Number",
            Kind::Flag => "Boolean",
            Kind::Date => "Date",
            Kind::Id => "ObjectId",
            Kind::List(_) | Kind::Documents(_) => "Array",
            Kind::Mixed | Kind::Group(_) | Kind::SubDocument(_) => "Mixed",
        },
        Target::Element(_) | Target::Anything => "Mixed",
    };
    SchemaError::Unusable(format!("Can't use {operator} with {kind}."))
}
