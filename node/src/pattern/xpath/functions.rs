//! The function library of XPath 1.0.

use super::eval::{Context, Evaluation, Failed, Value, text_number, to_truth};
use super::parse::Expr;
use super::step::Place;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Last,
    Position,
    Count,
    Id,
    LocalName,
    NamespaceUri,
    Name,
    String,
    Concat,
    StartsWith,
    Contains,
    SubstringBefore,
    SubstringAfter,
    Substring,
    StringLength,
    NormalizeSpace,
    Translate,
    Boolean,
    Not,
    True,
    False,
    Lang,
    Number,
    Sum,
    Floor,
    Ceiling,
    Round,
}

impl Function {
    /// The function of this name that takes so many arguments.
    pub(super) fn named(name: &str, arguments: usize) -> Option<Self> {
        let (function, least, most) = match name {
            "last" => (Self::Last, 0, 0),
            "position" => (Self::Position, 0, 0),
            "count" => (Self::Count, 1, 1),
            "id" => (Self::Id, 1, 1),
            "local-name" => (Self::LocalName, 0, 1),
            "namespace-uri" => (Self::NamespaceUri, 0, 1),
            "name" => (Self::Name, 0, 1),
            "string" => (Self::String, 0, 1),
            "concat" => (Self::Concat, 2, usize::MAX),
            "starts-with" => (Self::StartsWith, 2, 2),
            "contains" => (Self::Contains, 2, 2),
            "substring-before" => (Self::SubstringBefore, 2, 2),
            "substring-after" => (Self::SubstringAfter, 2, 2),
            "substring" => (Self::Substring, 2, 3),
            "string-length" => (Self::StringLength, 0, 1),
            "normalize-space" => (Self::NormalizeSpace, 0, 1),
            "translate" => (Self::Translate, 3, 3),
            "boolean" => (Self::Boolean, 1, 1),
            "not" => (Self::Not, 1, 1),
            "true" => (Self::True, 0, 0),
            "false" => (Self::False, 0, 0),
            "lang" => (Self::Lang, 1, 1),
            "number" => (Self::Number, 0, 1),
            "sum" => (Self::Sum, 1, 1),
            "floor" => (Self::Floor, 1, 1),
            "ceiling" => (Self::Ceiling, 1, 1),
            "round" => (Self::Round, 1, 1),
            _ => return None,
        };
        (least..=most).contains(&arguments).then_some(function)
    }
}

/// Calls a function with as many arguments as it takes.
pub(super) fn call<'a>(
    evaluation: &mut Evaluation<'a>,
    function: Function,
    arguments: &[Expr],
    context: Context<'a>,
) -> Result<Value<'a>, Failed> {
    let mut call = Call {
        evaluation,
        arguments,
        context,
    };
    Ok(match function {
        Function::Last => Value::Number(context.size as f64),
        Function::Position => Value::Number(context.position as f64),
        Function::True => Value::Truth(true),
        Function::False => Value::Truth(false),
        Function::Count => Value::Number(call.nodes(0)?.len() as f64),
        Function::Id => {
            call.text(0)?;
            Value::Nodes(vec![])
        }
        Function::LocalName => Value::Text(
            call.place()?
                .map_or_else(String::new, |place| place.name().0.to_owned()),
        ),
        Function::NamespaceUri => Value::Text(
            call.place()?
                .map_or_else(String::new, |place| place.name().1.to_owned()),
        ),
        Function::Name => {
            let document = call.evaluation.document();
            Value::Text(
                call.place()?
                    .map_or_else(String::new, |place| place.qualified_name(document)),
            )
        }
        Function::String => Value::Text(call.text_or_own()?),
        Function::Concat => {
            let mut all = String::new();
            for index in 0..arguments.len() {
                all.push_str(&call.text(index)?);
                call.evaluation.spend(1 + all.len() / 64)?;
            }
            Value::Text(all)
        }
        Function::StartsWith => Value::Truth(call.text(0)?.starts_with(&call.text(1)?)),
        Function::Contains => Value::Truth(call.text(0)?.contains(&call.text(1)?)),
        Function::SubstringBefore => {
            let (text, mark) = (call.text(0)?, call.text(1)?);
            Value::Text(
                text.split_once(&mark)
                    .map(|(before, _)| before.to_owned())
                    .unwrap_or_default(),
            )
        }
        Function::SubstringAfter => {
            let (text, mark) = (call.text(0)?, call.text(1)?);
            Value::Text(
                text.split_once(&mark)
                    .map(|(_, after)| after.to_owned())
                    .unwrap_or_default(),
            )
        }
        Function::Substring => call.substring()?,
        Function::StringLength => Value::Number(call.text_or_own()?.chars().count() as f64),
        Function::NormalizeSpace => Value::Text(normalized(&call.text_or_own()?)),
        Function::Translate => call.translate()?,
        Function::Boolean => Value::Truth(to_truth(&call.value(0)?)),
        Function::Not => Value::Truth(!to_truth(&call.value(0)?)),
        Function::Lang => call.lang()?,
        Function::Number => match arguments.is_empty() {
            true => Value::Number(text_number(&call.text_or_own()?)),
            false => Value::Number(call.number(0)?),
        },
        Function::Sum => {
            let mut sum = 0.0;
            for node in call.nodes(0)? {
                sum += text_number(&call.evaluation.text_of(node)?);
            }
            Value::Number(sum)
        }
        Function::Floor => Value::Number(call.number(0)?.floor()),
        Function::Ceiling => Value::Number(call.number(0)?.ceil()),
        Function::Round => Value::Number(round(call.number(0)?)),
    })
}

struct Call<'e, 'a> {
    evaluation: &'e mut Evaluation<'a>,
    arguments: &'e [Expr],
    context: Context<'a>,
}

impl<'a> Call<'_, 'a> {
    fn argument(&self, index: usize) -> Result<&Expr, Failed> {
        self.arguments.get(index).ok_or(Failed)
    }

    fn value(&mut self, index: usize) -> Result<Value<'a>, Failed> {
        let argument = self.arguments.get(index).ok_or(Failed)?;
        self.evaluation.value(argument, self.context)
    }

    fn nodes(&mut self, index: usize) -> Result<Vec<Place<'a>>, Failed> {
        let argument = self.arguments.get(index).ok_or(Failed)?;
        self.evaluation.nodes(argument, self.context)
    }

    fn text(&mut self, index: usize) -> Result<String, Failed> {
        let value = self.value(index)?;
        self.evaluation.as_text(value)
    }

    fn number(&mut self, index: usize) -> Result<f64, Failed> {
        let value = self.value(index)?;
        self.evaluation.as_number(value)
    }

    /// The text of the first argument, or of the present node.
    fn text_or_own(&mut self) -> Result<String, Failed> {
        match self.argument(0) {
            Ok(_) => self.text(0),
            Err(_) => self.evaluation.text_of(self.context.place),
        }
    }

    /// The first node of the first argument, or the present one.
    fn place(&mut self) -> Result<Option<Place<'a>>, Failed> {
        match self.argument(0) {
            Ok(_) => Ok(self.nodes(0)?.first().copied()),
            Err(_) => Ok(Some(self.context.place)),
        }
    }

    /// Counts from 1 and rounds, as the specification's examples do.
    fn substring(&mut self) -> Result<Value<'a>, Failed> {
        let text = self.text(0)?;
        let start = round(self.number(1)?);
        let end = match self.arguments.len() {
            3 => start + round(self.number(2)?),
            _ => f64::INFINITY,
        };
        let chars = text.chars().enumerate().filter(|(index, _)| {
            let position = (index + 1) as f64;
            position >= start && position < end
        });
        Ok(Value::Text(chars.map(|(_, c)| c).collect()))
    }

    fn translate(&mut self) -> Result<Value<'a>, Failed> {
        let (text, from, to) = (self.text(0)?, self.text(1)?, self.text(2)?);
        let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
        self.evaluation.spend(text.len().saturating_mul(from.len()) / 16)?;
        let translated = text
            .chars()
            .filter_map(|c| match from.iter().position(|known| *known == c) {
                None => Some(c),
                Some(index) => to.get(index).copied(),
            });
        Ok(Value::Text(translated.collect()))
    }

    fn lang(&mut self) -> Result<Value<'a>, Failed> {
        let wanted = self.text(0)?;
        let (Place::Node(node) | Place::Attribute(node, _)) = self.context.place;
        let found = node
            .ancestors()
            .find_map(|node| node.attribute((roxmltree::NS_XML_URI, "lang")));
        Ok(Value::Truth(found.is_some_and(|found| {
            let head = found.get(..wanted.len()).unwrap_or_default();
            let rest = found.get(wanted.len()..).unwrap_or_default();
            head.eq_ignore_ascii_case(&wanted) && (rest.is_empty() || rest.starts_with('-'))
        })))
    }
}

fn normalized(text: &str) -> String {
    let words: Vec<&str> = text
        .split([' ', '\t', '\r', '\n'])
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// To the nearest whole number; halves go up.
fn round(number: f64) -> f64 {
    match number.fract().abs() == 0.5 {
        true => number.ceil(),
        false => number.round(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::eval::number_text;
    use super::*;

    #[test]
    fn halves_are_rounded_up() {
        assert_eq!(
            [2.5, -2.5, 2.4, -2.6].map(round).map(number_text),
            ["3", "-2", "2", "-3"]
        );
    }
}
