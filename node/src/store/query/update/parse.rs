//! Update documents taken apart.

use bson::{Bson, Document};

use super::array::{ELEMENT, ElementOrder, Pull, Push};
use super::step::{self, Step};
use super::{Action, Change, Update};
use crate::store::Result;
use crate::store::query::filter::{Filter, is_operators};
use crate::store::query::sort::Direction;
use crate::store::query::{SortOrder, bad};

pub(super) fn update(update: &Document) -> Result<Update> {
    if update.is_empty() {
        return Err(bad("the update document must contain at least one update operator"));
    }
    let mut changes = Vec::new();
    let mut renames = Vec::new();
    for (operator, fields) in update {
        if !operator.starts_with('$') {
            return Err(bad(format!(
                "Unknown modifier: {operator}. Expected a valid update modifier"
            )));
        }
        let Bson::Document(fields) = fields else {
            return Err(bad(format!(
                "Modifiers operate on fields but we found another type for {operator}"
            )));
        };
        for (path, operand) in fields {
            if operator == "$rename" {
                let (from, to) = rename(path, operand)?;
                renames.push((from.clone(), to.clone()));
                changes.push(Change {
                    path: from,
                    action: Action::Unset,
                });
                changes.push(Change {
                    path: to,
                    action: Action::RenamedTo,
                });
            } else {
                changes.push(Change {
                    path: step::parse(path)?,
                    action: action(operator, path, operand)?,
                });
            }
        }
    }
    changes.sort_by(|a, b| by_path(&a.path, &b.path));
    refuse_conflicts(&changes)?;
    let place = |to: &[Step]| changes.iter().position(|change| change.path == to);
    let renames = renames
        .into_iter()
        .filter_map(|(from, to)| Some((from, place(&to)?)))
        .collect();
    Ok(Update { changes, renames })
}

fn by_path(a: &[Step], b: &[Step]) -> std::cmp::Ordering {
    a.iter().map(Step::order).cmp(b.iter().map(Step::order))
}

fn refuse_conflicts(changes: &[Change]) -> Result<()> {
    for (index, a) in changes.iter().enumerate() {
        let in_the_way = |b: &&Change| b.path.starts_with(&a.path) || a.path.starts_with(&b.path);
        if let Some(b) = changes[index + 1..].iter().find(in_the_way) {
            let (longer, shorter) = if a.path.len() > b.path.len() { (a, b) } else { (b, a) };
            return Err(bad(format!(
                "Updating the path '{}' would create a conflict at '{}'",
                step::text(&longer.path),
                step::text(&shorter.path)
            )));
        }
    }
    Ok(())
}

fn rename(from: &str, to: &Bson) -> Result<(Vec<Step>, Vec<Step>)> {
    let Bson::String(to) = to else {
        return Err(bad(format!("The 'to' field for $rename must be a string: {from}")));
    };
    let (from, to) = (step::parse(from)?, step::parse(to)?);
    if from.contains(&Step::Matched) || to.contains(&Step::Matched) {
        return Err(bad("The source and destination of $rename may not be dynamic"));
    }
    Ok((from, to))
}

fn action(operator: &str, path: &str, operand: &Bson) -> Result<Action> {
    match operator {
        "$set" => Ok(Action::Set(operand.clone())),
        "$setOnInsert" => Ok(Action::SetOnInsert(operand.clone())),
        "$unset" => Ok(Action::Unset),
        "$inc" => number(operator, path, operand).map(Action::Increment),
        "$mul" => number(operator, path, operand).map(Action::Multiply),
        "$min" => Ok(Action::Min(operand.clone())),
        "$max" => Ok(Action::Max(operand.clone())),
        "$currentDate" => current_date(path, operand),
        "$push" => push(operand).map(Action::Push),
        "$addToSet" => added(operand).map(Action::AddToSet),
        "$pull" => pull(operand).map(Action::Pull),
        "$pullAll" | "$pushAll" => match operand {
            Bson::Array(values) if operator == "$pullAll" => Ok(Action::PullAll(values.clone())),
            _ => Err(bad(format!("{operator} requires an array argument"))),
        },
        "$pop" => match whole(operand) {
            Some(1) => Ok(Action::PopLast),
            Some(-1) => Ok(Action::PopFirst),
            _ => Err(bad(format!("$pop expects 1 or -1 for '{path}'"))),
        },
        _ => Err(bad(format!(
            "Unknown modifier: {operator}. Expected a valid update modifier"
        ))),
    }
}

fn number(operator: &str, path: &str, operand: &Bson) -> Result<Bson> {
    match operand {
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => Ok(operand.clone()),
        _ => Err(bad(format!(
            "Cannot {operator} with non-numeric argument: {{{path}: {operand}}}"
        ))),
    }
}

fn current_date(path: &str, operand: &Bson) -> Result<Action> {
    match operand {
        Bson::Boolean(_) => Ok(Action::CurrentDate),
        Bson::Document(kind) if kind.len() == 1 => match kind.get_str("$type") {
            Ok("date") => Ok(Action::CurrentDate),
            Ok("timestamp") => Ok(Action::CurrentTimestamp),
            _ => Err(bad(format!(
                "$currentDate of '{path}' must be of $type 'date' or 'timestamp'"
            ))),
        },
        _ => Err(bad(format!(
            "$currentDate of '{path}' must be true or a document with $type"
        ))),
    }
}

fn push(operand: &Bson) -> Result<Push> {
    let mut push = Push {
        values: Vec::new(),
        position: None,
        sort: None,
        slice: None,
    };
    let Some((values, modifiers)) = each(operand)? else {
        push.values.push(operand.clone());
        return Ok(push);
    };
    push.values = values;
    for (name, value) in modifiers {
        let needs_whole = || whole(value).ok_or_else(|| bad(format!("The value for {name} must be an integer value")));
        match name.as_str() {
            "$each" => {}
            "$position" => push.position = Some(needs_whole()?),
            "$slice" => push.slice = Some(needs_whole()?),
            "$sort" => push.sort = Some(element_order(value)?),
            _ => return Err(bad(format!("Unrecognized clause in $push: {name}"))),
        }
    }
    Ok(push)
}

fn element_order(value: &Bson) -> Result<ElementOrder> {
    match value {
        Bson::Document(fields) if !fields.is_empty() => Ok(ElementOrder::of_fields(&SortOrder::compile(fields)?)),
        other => match whole(other) {
            Some(1) => ElementOrder::of_values(Direction::Up),
            Some(-1) => ElementOrder::of_values(Direction::Down),
            _ => Err(bad("The $sort element value must be either 1 or -1")),
        },
    }
}

fn added(operand: &Bson) -> Result<Vec<Bson>> {
    match each(operand)? {
        None => Ok(vec![operand.clone()]),
        Some((values, modifiers)) if modifiers.len() == 1 => Ok(values),
        Some(_) => Err(bad("Found unexpected fields after $each in $addToSet")),
    }
}

/// The values of `$each`, with its neighbours.
fn each(operand: &Bson) -> Result<Option<(Vec<Bson>, &Document)>> {
    match operand {
        Bson::Document(modifiers) => match modifiers.get("$each") {
            None => Ok(None),
            Some(Bson::Array(values)) => Ok(Some((values.clone(), modifiers))),
            Some(_) => Err(bad("The argument to $each must be an array")),
        },
        _ => Ok(None),
    }
}

fn pull(operand: &Bson) -> Result<Pull> {
    let alone = || Filter::compile(&bson::doc! {ELEMENT: operand.clone()});
    match operand {
        Bson::Document(operators) if is_operators(operators) && !is_logic(operators) => alone().map(Pull::Passing),
        Bson::Document(filter) => Filter::compile(filter).map(Pull::Documents),
        Bson::RegularExpression(_) => alone().map(Pull::Passing),
        value => Ok(Pull::Equal(value.clone())),
    }
}

fn is_logic(operators: &Document) -> bool {
    operators
        .keys()
        .next()
        .is_some_and(|key| matches!(key.as_str(), "$and" | "$or" | "$nor" | "$not"))
}

fn whole(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(n) => Some((*n).into()),
        Bson::Int64(n) => Some(*n),
        Bson::Double(n) if n.fract() == 0.0 && n.abs() < 9.0e15 => Some(*n as i64),
        _ => None,
    }
}
