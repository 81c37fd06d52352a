//! Evaluates an expression on a document.

use roxmltree::Document;

use super::functions::{self, Function};
use super::lex::Operator;
use super::parse::{Expr, Step};
use super::step::{Place, Resolved, on_axis};

/// Bytes of text that cost one step.
const TEXT_PER_STEP: usize = 16;

/// The expression cannot be evaluated here: types do not fit, a prefix is unknown, or the budget is used up.
#[derive(Debug)]
pub(super) struct Failed;

type Result<T> = std::result::Result<T, Failed>;

/// What an expression yields.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// In document order, each once.
    Nodes(Vec<Place<'a>>),
    Number(f64),
    Text(String),
    Truth(bool),
}

/// Where an expression is evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) place: Place<'a>,
    pub(super) position: usize,
    pub(super) size: usize,
}

#[derive(Debug)]
pub(super) struct Evaluation<'a> {
    document: &'a Document<'a>,
    steps: usize,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(document: &'a Document<'a>, steps: usize) -> Self {
        Self { document, steps }
    }

    /// The text of what the expression yields on the document.
    pub(super) fn text(&mut self, expression: &Expr) -> Result<String> {
        let context = Context {
            place: Place::Node(self.document.root()),
            position: 1,
            size: 1,
        };
        let value = self.value(expression, context)?;
        if let Value::Nodes(nodes) = value {
            let mut xml = Vec::with_capacity(nodes.len());
            for node in nodes {
                let text = node.xml(self.document);
                self.spend(1 + text.len() / TEXT_PER_STEP)?;
                xml.push(text);
            }
            return Ok(xml.join(","));
        }
        self.as_text(value)
    }

    pub(super) fn document(&self) -> &'a Document<'a> {
        self.document
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.checked_sub(steps).ok_or(Failed)?;
        Ok(())
    }

    pub(super) fn value(&mut self, expression: &Expr, context: Context<'a>) -> Result<Value<'a>> {
        self.spend(1)?;
        match expression {
            Expr::Literal(text) => Ok(Value::Text(text.clone())),
            Expr::Number(number) => Ok(Value::Number(*number)),
            Expr::Negate(inner) => Ok(Value::Number(-self.number(inner, context)?)),
            Expr::Call(function, arguments) => self.call(*function, arguments, context),
            Expr::Binary(operator, left, right) => self.binary(*operator, left, right, context),
            Expr::Path { absolute, steps } => {
                let from = match absolute {
                    true => Place::Node(self.document.root()),
                    false => context.place,
                };
                self.walk(vec![from], steps).map(Value::Nodes)
            }
            Expr::Filter {
                base,
                predicates,
                steps,
            } => {
                let mut nodes = self.nodes(base, context)?;
                for predicate in predicates {
                    nodes = self.choose(nodes, predicate)?;
                }
                self.walk(nodes, steps).map(Value::Nodes)
            }
        }
    }

    fn call(&mut self, function: Function, arguments: &[Expr], context: Context<'a>) -> Result<Value<'a>> {
        functions::call(self, function, arguments, context)
    }

    pub(super) fn nodes(&mut self, expression: &Expr, context: Context<'a>) -> Result<Vec<Place<'a>>> {
        match self.value(expression, context)? {
            Value::Nodes(nodes) => Ok(nodes),
            _ => Err(Failed),
        }
    }

    pub(super) fn number(&mut self, expression: &Expr, context: Context<'a>) -> Result<f64> {
        let value = self.value(expression, context)?;
        self.as_number(value)
    }

    pub(super) fn truth(&mut self, expression: &Expr, context: Context<'a>) -> Result<bool> {
        Ok(to_truth(&self.value(expression, context)?))
    }

    fn walk(&mut self, mut nodes: Vec<Place<'a>>, steps: &[Step]) -> Result<Vec<Place<'a>>> {
        for step in steps {
            let test = Resolved::of(&step.test, self.document).ok_or(Failed)?;
            let mut found = Vec::new();
            for node in nodes {
                found.extend(self.step(node, step, &test)?);
            }
            nodes = in_order(found);
        }
        Ok(nodes)
    }

    fn step(&mut self, from: Place<'a>, step: &Step, test: &Resolved<'_>) -> Result<Vec<Place<'a>>> {
        let mut found = Vec::new();
        for place in on_axis(from, step.axis) {
            self.spend(1)?;
            if test.holds(place, step.axis) {
                found.push(place);
            }
        }
        for predicate in &step.predicates {
            found = self.choose(found, predicate)?;
        }
        Ok(found)
    }

    fn choose(&mut self, nodes: Vec<Place<'a>>, predicate: &Expr) -> Result<Vec<Place<'a>>> {
        let size = nodes.len();
        let mut chosen = Vec::new();
        for (index, place) in nodes.into_iter().enumerate() {
            let position = index + 1;
            let context = Context { place, position, size };
            let is_chosen = match self.value(predicate, context)? {
                Value::Number(number) => number == position as f64,
                other => to_truth(&other),
            };
            if is_chosen {
                chosen.push(place);
            }
        }
        Ok(chosen)
    }

    fn binary(&mut self, operator: Operator, left: &Expr, right: &Expr, context: Context<'a>) -> Result<Value<'a>> {
        use Operator::{And, Divide, Minus, Multiply, Or, Plus, Remainder, Union};
        match operator {
            Or => Ok(Value::Truth(self.truth(left, context)? || self.truth(right, context)?)),
            And => Ok(Value::Truth(self.truth(left, context)? && self.truth(right, context)?)),
            Union => {
                let mut nodes = self.nodes(left, context)?;
                nodes.extend(self.nodes(right, context)?);
                Ok(Value::Nodes(in_order(nodes)))
            }
            Plus | Minus | Multiply | Divide | Remainder => {
                let (left, right) = (self.number(left, context)?, self.number(right, context)?);
                Ok(Value::Number(match operator {
                    Plus => left + right,
                    Minus => left - right,
                    Multiply => left * right,
                    Divide => left / right,
                    _ => left % right,
                }))
            }
            comparison => {
                let (left, right) = (self.value(left, context)?, self.value(right, context)?);
                self.compare(comparison, left, right).map(Value::Truth)
            }
        }
    }

    /// XPath 1.0, section 3.4: a comparison with nodes holds if it holds for one of them.
    fn compare(&mut self, operator: Operator, left: Value<'a>, right: Value<'a>) -> Result<bool> {
        match (left, right) {
            (Value::Nodes(left), Value::Nodes(right)) => {
                let right = self.texts(right)?;
                for left in self.texts(left)? {
                    self.spend(right.len())?;
                    if right.iter().any(|right| holds_for_texts(operator, &left, right)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Value::Nodes(nodes), Value::Truth(truth)) => Ok(compare_truths(operator, !nodes.is_empty(), truth)),
            (Value::Truth(truth), Value::Nodes(nodes)) => Ok(compare_truths(operator, truth, !nodes.is_empty())),
            (Value::Nodes(nodes), other) => {
                let other = self.comparand(other)?;
                Ok(self.texts(nodes)?.iter().any(|text| other.holds(operator, text, true)))
            }
            (other, Value::Nodes(nodes)) => {
                let other = self.comparand(other)?;
                Ok(self.texts(nodes)?.iter().any(|text| other.holds(operator, text, false)))
            }
            (left, right) => self.compare_plain(operator, left, right),
        }
    }

    fn compare_plain(&mut self, operator: Operator, left: Value<'a>, right: Value<'a>) -> Result<bool> {
        let is_equality = matches!(operator, Operator::Equal | Operator::NotEqual);
        match (&left, &right) {
            (Value::Truth(_), _) | (_, Value::Truth(_)) if is_equality => {
                Ok(compare_truths(operator, to_truth(&left), to_truth(&right)))
            }
            (Value::Text(left), Value::Text(right)) if is_equality => {
                Ok((left == right) == (operator == Operator::Equal))
            }
            _ => Ok(compare_numbers(operator, self.as_number(left)?, self.as_number(right)?)),
        }
    }

    fn comparand(&mut self, value: Value<'a>) -> Result<Comparand> {
        Ok(match value {
            Value::Text(text) => Comparand::Text(text),
            other => Comparand::Number(self.as_number(other)?),
        })
    }

    fn texts(&mut self, nodes: Vec<Place<'a>>) -> Result<Vec<String>> {
        nodes.into_iter().map(|node| self.text_of(node)).collect()
    }

    /// The text of a node, by XPath's rules.
    pub(super) fn text_of(&mut self, place: Place<'a>) -> Result<String> {
        let text = match place {
            Place::Node(node) if node.is_element() || node.is_root() => {
                let mut text = String::new();
                for inner in node.descendants() {
                    self.spend(1)?;
                    text.push_str(inner.text().filter(|_| inner.is_text()).unwrap_or_default());
                }
                text
            }
            other => other.own_text().to_owned(),
        };
        self.spend(1 + text.len() / TEXT_PER_STEP)?;
        Ok(text)
    }

    pub(super) fn as_text(&mut self, value: Value<'a>) -> Result<String> {
        Ok(match value {
            Value::Text(text) => text,
            Value::Number(number) => number_text(number),
            Value::Truth(truth) => truth.to_string(),
            Value::Nodes(nodes) => match nodes.first() {
                Some(first) => self.text_of(*first)?,
                None => String::new(),
            },
        })
    }

    pub(super) fn as_number(&mut self, value: Value<'a>) -> Result<f64> {
        Ok(match value {
            Value::Number(number) => number,
            Value::Truth(truth) => f64::from(u8::from(truth)),
            other => text_number(&self.as_text(other)?),
        })
    }
}

enum Comparand {
    Text(String),
    Number(f64),
}

impl Comparand {
    fn holds(&self, operator: Operator, text: &str, text_is_left: bool) -> bool {
        match self {
            Self::Text(own) if text_is_left => holds_for_texts(operator, text, own),
            Self::Text(own) => holds_for_texts(operator, own, text),
            Self::Number(own) if text_is_left => compare_numbers(operator, text_number(text), *own),
            Self::Number(own) => compare_numbers(operator, *own, text_number(text)),
        }
    }
}

fn holds_for_texts(operator: Operator, left: &str, right: &str) -> bool {
    match operator {
        Operator::Equal => left == right,
        Operator::NotEqual => left != right,
        _ => compare_numbers(operator, text_number(left), text_number(right)),
    }
}

fn compare_truths(operator: Operator, left: bool, right: bool) -> bool {
    compare_numbers(operator, f64::from(u8::from(left)), f64::from(u8::from(right)))
}

fn compare_numbers(operator: Operator, left: f64, right: f64) -> bool {
    match operator {
        Operator::Equal => left == right,
        Operator::NotEqual => left != right,
        Operator::Less => left < right,
        Operator::LessEqual => left <= right,
        Operator::Greater => left > right,
        Operator::GreaterEqual => left >= right,
        _ => false,
    }
}

pub(super) fn to_truth(value: &Value<'_>) -> bool {
    match value {
        Value::Truth(truth) => *truth,
        Value::Number(number) => *number != 0.0 && !number.is_nan(),
        Value::Text(text) => !text.is_empty(),
        Value::Nodes(nodes) => !nodes.is_empty(),
    }
}

/// A number as XPath writes it.
pub(super) fn number_text(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else if number == 0.0 {
        "0".to_owned()
    } else {
        number.to_string()
    }
}

/// A number as XPath reads it: digits with at most one point and a minus before, blanks around.
pub(super) fn text_number(text: &str) -> f64 {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().filter(|byte| *byte == b'.').count() <= 1
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    if is_number {
        text.parse().unwrap_or(f64::NAN)
    } else {
        f64::NAN
    }
}

/// Sorts into document order and drops what is there twice.
fn in_order(mut nodes: Vec<Place<'_>>) -> Vec<Place<'_>> {
    if !nodes.is_sorted_by(|one, other| one.key() < other.key()) {
        nodes.sort_unstable_by_key(|node| node.key());
        nodes.dedup_by_key(|node| node.key());
    }
    nodes
}
