//! Filter documents taken apart.

use bson::spec::ElementType;
use bson::{Bson, Document, RawBson, RawBsonRef};

use super::{Filter, Node, Op, Test, Types, whole_part};
use crate::store::Result;
use crate::store::query::bad;
use crate::store::query::compare::{Number, compare};
use crate::store::query::path::Path;
use crate::store::query::pattern::Pattern;

/// Filters inside filters, at most.
const DEEPEST: usize = 50;

pub(super) fn filter(filter: &Document, depth: usize) -> Result<Node> {
    if depth > DEEPEST {
        return Err(bad(format!("filter is nested deeper than {DEEPEST}")));
    }
    let mut nodes = Vec::with_capacity(filter.len());
    for (key, value) in filter {
        match key.as_str() {
            "$and" => nodes.push(Node::And(clauses(key, value, depth)?)),
            "$or" => nodes.push(Node::Or(clauses(key, value, depth)?)),
            "$nor" => nodes.push(Node::Nor(clauses(key, value, depth)?)),
            "$comment" => {}
            operator if operator.starts_with('$') => {
                return Err(bad(format!("unknown top level operator: {operator}")));
            }
            path => {
                let path = Path::parse(path)?;
                nodes.extend(
                    tests(value, depth)?
                        .into_iter()
                        .map(|test| Node::Field(path.clone(), Box::new(test))),
                );
            }
        }
    }
    Ok(match <[Node; 1]>::try_from(nodes) {
        Ok([only]) => only,
        Err(nodes) => Node::And(nodes),
    })
}

fn clauses(operator: &str, value: &Bson, depth: usize) -> Result<Vec<Node>> {
    let Bson::Array(clauses) = value else {
        return Err(bad(format!("{operator} must be an array")));
    };
    if clauses.is_empty() {
        return Err(bad(format!("{operator} argument must be a non-empty array")));
    }
    clauses
        .iter()
        .map(|clause| match clause {
            Bson::Document(clause) => filter(clause, depth + 1),
            _ => Err(bad(format!("{operator} entries need to be full objects"))),
        })
        .collect()
}

/// The conditions that a field's value states, all of which must hold.
fn tests(value: &Bson, depth: usize) -> Result<Vec<Test>> {
    match value {
        Bson::Document(operators) if is_operators(operators) => operator_tests(operators, depth),
        Bson::RegularExpression(_) => Ok(vec![Test::Pattern(pattern_value(value)?)]),
        value => Ok(vec![equal(value)?]),
    }
}

/// `{$gt: 1}` as against the plain document `{gt: 1}`.
pub(in crate::store::query) fn is_operators(document: &Document) -> bool {
    document.keys().next().is_some_and(|key| key.starts_with('$'))
}

fn equal(value: &Bson) -> Result<Test> {
    Ok(Test::Compare(Op::Eq, operand(value)?))
}

fn operand(value: &Bson) -> Result<RawBson> {
    if matches!(value, Bson::Undefined) {
        return Err(bad("cannot compare to undefined"));
    }
    RawBson::try_from(value.clone()).map_err(|error| bad(error.to_string()))
}

fn operator_tests(operators: &Document, depth: usize) -> Result<Vec<Test>> {
    if depth > DEEPEST {
        return Err(bad(format!("filter is nested deeper than {DEEPEST}")));
    }
    let mut tests = Vec::with_capacity(operators.len());
    for (operator, value) in operators {
        match operator.as_str() {
            "$regex" => tests.push(Test::Pattern(regex(value, operators.get("$options"))?)),
            "$options" if operators.contains_key("$regex") => {}
            "$options" => return Err(bad("$options needs a $regex")),
            _ => tests.push(operator_test(operator, value, depth)?),
        }
    }
    Ok(tests)
}

fn operator_test(operator: &str, value: &Bson, depth: usize) -> Result<Test> {
    match operator {
        "$eq" => equal(value),
        "$ne" if matches!(value, Bson::RegularExpression(_)) => Err(bad("Can't have regex as arg to $ne.")),
        "$ne" => Ok(Test::Not(vec![equal(value)?])),
        "$gt" => ordered(Op::Gt, operator, value),
        "$gte" => ordered(Op::Gte, operator, value),
        "$lt" => ordered(Op::Lt, operator, value),
        "$lte" => ordered(Op::Lte, operator, value),
        "$in" => one_of(operator, value),
        "$nin" => Ok(Test::Not(vec![one_of(operator, value)?])),
        "$exists" if is_true(value) => Ok(Test::Exists),
        "$exists" => Ok(Test::Not(vec![Test::Exists])),
        "$type" => types(value).map(Test::Type),
        "$not" => not(value, depth),
        "$all" => all(value, depth),
        "$elemMatch" => element(value, depth),
        "$size" => size(value),
        "$mod" => modulo(value),
        _ => Err(bad(format!("unknown operator: {operator}"))),
    }
}

fn ordered(op: Op, operator: &str, value: &Bson) -> Result<Test> {
    if matches!(value, Bson::RegularExpression(_)) {
        return Err(bad(format!(
            "Can't have RegEx as arg to predicate over field with {operator}."
        )));
    }
    Ok(Test::Compare(op, operand(value)?))
}

fn one_of(operator: &str, value: &Bson) -> Result<Test> {
    let Bson::Array(list) = value else {
        return Err(bad(format!("{operator} needs an array")));
    };
    let (mut values, mut patterns) = (Vec::with_capacity(list.len()), Vec::new());
    for value in list {
        match value {
            Bson::RegularExpression(_) => patterns.push(pattern_value(value)?),
            Bson::Document(document) if is_operators(document) => {
                return Err(bad(format!("cannot nest $ under {operator}")));
            }
            value => values.push(operand(value)?),
        }
    }
    values.sort_by(|a, b| compare(a.into(), b.into()));
    values.dedup_by(|a, b| compare((&*a).into(), (&*b).into()).is_eq());
    Ok(Test::In(values, patterns))
}

fn not(value: &Bson, depth: usize) -> Result<Test> {
    match value {
        Bson::RegularExpression(_) => Ok(Test::Not(vec![Test::Pattern(pattern_value(value)?)])),
        Bson::Document(operators) if is_operators(operators) => Ok(Test::Not(operator_tests(operators, depth + 1)?)),
        _ => Err(bad("$not needs a regex or a document of operators")),
    }
}

fn all(value: &Bson, depth: usize) -> Result<Test> {
    let Bson::Array(list) = value else {
        return Err(bad("$all needs an array"));
    };
    if list.is_empty() {
        return Ok(Test::Never);
    }
    let tests = list.iter().map(|value| match value {
        Bson::Document(operators) if is_operators(operators) => match operators.get("$elemMatch") {
            Some(inner) if operators.len() == 1 => element(inner, depth),
            _ => Err(bad("no $ expressions in $all")),
        },
        Bson::RegularExpression(_) => Ok(Test::Pattern(pattern_value(value)?)),
        value => equal(value),
    });
    Ok(Test::All(tests.collect::<Result<_>>()?))
}

fn element(value: &Bson, depth: usize) -> Result<Test> {
    let Bson::Document(inner) = value else {
        return Err(bad("$elemMatch needs an Object"));
    };
    let first = inner.keys().next().map_or("", String::as_str);
    if first.starts_with('$') && !matches!(first, "$and" | "$or" | "$nor") {
        return Ok(Test::ElementPasses(operator_tests(inner, depth + 1)?));
    }
    Ok(Test::ElementMatches(Box::new(Filter {
        root: filter(inner, depth + 1)?,
    })))
}

fn size(value: &Bson) -> Result<Test> {
    let size = whole_number(value).ok_or_else(|| bad("$size needs a whole number"))?;
    usize::try_from(size)
        .map(Test::Size)
        .map_err(|_| bad("$size may not be negative"))
}

fn modulo(value: &Bson) -> Result<Test> {
    let Bson::Array(pair) = value else {
        return Err(bad("malformed mod, needs to be an array"));
    };
    let number = |value: &Bson| {
        RawBson::try_from(value.clone())
            .ok()
            .and_then(|raw| whole_part((&raw).into()))
    };
    match &pair[..] {
        [divisor, remainder] => match (number(divisor), number(remainder)) {
            (Some(0), _) => Err(bad("divisor cannot be 0")),
            (Some(divisor), Some(remainder)) => Ok(Test::Mod { divisor, remainder }),
            _ => Err(bad("malformed mod, divisor and remainder must be numbers")),
        },
        _ => Err(bad("malformed mod, needs two elements")),
    }
}

fn regex(pattern: &Bson, options: Option<&Bson>) -> Result<Pattern> {
    let options = match options {
        None => None,
        Some(Bson::String(options)) => Some(options.as_str()),
        Some(_) => return Err(bad("$options has to be a string")),
    };
    match pattern {
        Bson::String(source) => Pattern::compile(source, options.unwrap_or_default()),
        Bson::RegularExpression(regex) => {
            let own = regex.options.as_str();
            Pattern::compile(regex.pattern.as_str(), options.unwrap_or(own))
        }
        _ => Err(bad("$regex has to be a string")),
    }
}

fn pattern_value(value: &Bson) -> Result<Pattern> {
    match operand(value)?.as_raw_bson_ref() {
        RawBsonRef::RegularExpression(regex) => Pattern::from_bson(regex),
        _ => Err(bad("not a regular expression")),
    }
}

/// MongoDB's idea of truth.
fn is_true(value: &Bson) -> bool {
    match value {
        Bson::Boolean(value) => *value,
        Bson::Int32(value) => *value != 0,
        Bson::Int64(value) => *value != 0,
        Bson::Double(value) => *value != 0.0,
        Bson::Null | Bson::Undefined => false,
        _ => true,
    }
}

fn whole_number(value: &Bson) -> Option<i64> {
    let raw = RawBson::try_from(value.clone()).ok()?;
    match Number::of((&raw).into())? {
        Number::Whole(number) => Some(number),
        Number::Real(number) if number.fract() == 0.0 => whole_part((&raw).into()),
        Number::Real(_) => None,
    }
}

fn types(value: &Bson) -> Result<Types> {
    let mut types = Types::default();
    match value {
        Bson::Array(list) if list.is_empty() => return Err(bad("$type must match at least one type")),
        Bson::Array(list) => list.iter().try_for_each(|one| add_type(one, &mut types))?,
        one => add_type(one, &mut types)?,
    }
    Ok(types)
}

fn add_type(value: &Bson, types: &mut Types) -> Result<()> {
    let kind = match value {
        Bson::String(name) if name == "number" => {
            types.any_number = true;
            return Ok(());
        }
        Bson::String(name) => type_named(name).ok_or_else(|| bad(format!("unknown type name alias: {name}")))?,
        number => whole_number(number)
            .and_then(type_numbered)
            .ok_or_else(|| bad("invalid numerical type code"))?,
    };
    types.exact.push(kind);
    Ok(())
}

fn type_named(name: &str) -> Option<ElementType> {
    Some(match name {
        "double" => ElementType::Double,
        "string" => ElementType::String,
        "object" => ElementType::EmbeddedDocument,
        "array" => ElementType::Array,
        "binData" => ElementType::Binary,
        "undefined" => ElementType::Undefined,
        "objectId" => ElementType::ObjectId,
        "bool" => ElementType::Boolean,
        "date" => ElementType::DateTime,
        "null" => ElementType::Null,
        "regex" => ElementType::RegularExpression,
        "dbPointer" => ElementType::DbPointer,
        "javascript" => ElementType::JavaScriptCode,
        "symbol" => ElementType::Symbol,
        "javascriptWithScope" => ElementType::JavaScriptCodeWithScope,
        "int" => ElementType::Int32,
        "timestamp" => ElementType::Timestamp,
        "long" => ElementType::Int64,
        "decimal" => ElementType::Decimal128,
        "minKey" => ElementType::MinKey,
        "maxKey" => ElementType::MaxKey,
        _ => return None,
    })
}

fn type_numbered(number: i64) -> Option<ElementType> {
    match number {
        -1 => Some(ElementType::MinKey),
        number => u8::try_from(number).ok().and_then(ElementType::from),
    }
}
