//! From tokens to a tree.

use super::XPathError;
use super::functions::Function;
use super::lex::{Operator, Token, tokens};

/// How deep expressions may be nested.
const MAX_DEPTH: usize = 60;

#[derive(Clone, Debug)]
pub(super) enum Expr {
    Literal(String),
    Number(f64),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Negate(Box<Expr>),
    Call(Function, Vec<Expr>),
    /// Steps from the root or the present node.
    Path {
        absolute: bool,
        steps: Vec<Step>,
    },
    /// An expression whose nodes are chosen from by predicates and walked on from.
    Filter {
        base: Box<Expr>,
        predicates: Vec<Expr>,
        steps: Vec<Step>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) axis: Axis,
    pub(super) test: Test,
    pub(super) predicates: Vec<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Ancestor,
    AncestorOrSelf,
    Attribute,
    Child,
    Descendant,
    DescendantOrSelf,
    Following,
    FollowingSibling,
    Namespace,
    Parent,
    Preceding,
    PrecedingSibling,
    Itself,
}

impl Axis {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ancestor" => Self::Ancestor,
            "ancestor-or-self" => Self::AncestorOrSelf,
            "attribute" => Self::Attribute,
            "child" => Self::Child,
            "descendant" => Self::Descendant,
            "descendant-or-self" => Self::DescendantOrSelf,
            "following" => Self::Following,
            "following-sibling" => Self::FollowingSibling,
            "namespace" => Self::Namespace,
            "parent" => Self::Parent,
            "preceding" => Self::Preceding,
            "preceding-sibling" => Self::PrecedingSibling,
            "self" => Self::Itself,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    Node,
    Text,
    Comment,
    Instruction(Option<String>),
    /// Absent parts mean any.
    Name {
        prefix: Option<String>,
        local: Option<String>,
    },
}

pub(super) fn parse(text: &str) -> Result<Expr, XPathError> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let expression = parser.expression()?;
    match parser.at == parser.tokens.len() {
        true => Ok(expression),
        false => Err(error("unexpected end of an expression")),
    }
}

fn error(what: &str) -> XPathError {
    XPathError::Syntax(what.to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// Operators of equal strength, weakest first.
const LEVELS: [&[Operator]; 6] = [
    &[Operator::Or],
    &[Operator::And],
    &[Operator::Equal, Operator::NotEqual],
    &[
        Operator::Less,
        Operator::LessEqual,
        Operator::Greater,
        Operator::GreaterEqual,
    ],
    &[Operator::Plus, Operator::Minus],
    &[Operator::Multiply, Operator::Divide, Operator::Remainder],
];

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn eat(&mut self, token: &Token) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, token: &Token) -> Result<(), XPathError> {
        match self.eat(token) {
            true => Ok(()),
            false => Err(XPathError::Syntax(format!("{token:?} expected"))),
        }
    }

    fn expression(&mut self) -> Result<Expr, XPathError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(XPathError::TooDeep);
        }
        let expression = self.binary(0)?;
        self.depth -= 1;
        Ok(expression)
    }

    fn binary(&mut self, level: usize) -> Result<Expr, XPathError> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.binary(level + 1)?;
        let mut chained = 0;
        while let Some(&Token::Operator(operator)) = self.peek() {
            if !operators.contains(&operator) {
                break;
            }
            chained += 1;
            if chained > MAX_DEPTH {
                return Err(XPathError::TooDeep);
            }
            self.at += 1;
            let right = self.binary(level + 1)?;
            left = Expr::Binary(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, XPathError> {
        let mut is_negative = false;
        let mut has_minus = false;
        while self.eat(&Token::Operator(Operator::Minus)) {
            has_minus = true;
            is_negative = !is_negative;
        }
        let mut left = self.path()?;
        let mut chained = 0;
        while self.eat(&Token::Operator(Operator::Union)) {
            chained += 1;
            if chained > MAX_DEPTH {
                return Err(XPathError::TooDeep);
            }
            let right = self.path()?;
            left = Expr::Binary(Operator::Union, Box::new(left), Box::new(right));
        }
        Ok(match (has_minus, is_negative) {
            (false, _) => left,
            (true, true) => Expr::Negate(Box::new(left)),
            (true, false) => Expr::Negate(Box::new(Expr::Negate(Box::new(left)))),
        })
    }

    fn path(&mut self) -> Result<Expr, XPathError> {
        if self.eat(&Token::Slash) {
            let steps = if self.is_step() { self.steps()? } else { vec![] };
            return Ok(Expr::Path { absolute: true, steps });
        }
        if self.eat(&Token::DoubleSlash) {
            let mut steps = vec![descend()];
            steps.extend(self.steps()?);
            return Ok(Expr::Path { absolute: true, steps });
        }
        if self.is_step() {
            let steps = self.steps()?;
            return Ok(Expr::Path { absolute: false, steps });
        }
        let base = self.primary()?;
        let predicates = self.predicates()?;
        let mut steps = Vec::new();
        if self.eat(&Token::Slash) {
            steps = self.steps()?;
        } else if self.eat(&Token::DoubleSlash) {
            steps.push(descend());
            steps.extend(self.steps()?);
        }
        if predicates.is_empty() && steps.is_empty() {
            return Ok(base);
        }
        Ok(Expr::Filter {
            base: Box::new(base),
            predicates,
            steps,
        })
    }

    fn is_step(&self) -> bool {
        match self.peek() {
            Some(Token::Function(name)) => is_node_type(name),
            Some(token) => matches!(
                token,
                Token::Dot | Token::DotDot | Token::At | Token::Axis(_) | Token::Name { .. }
            ),
            None => false,
        }
    }

    fn steps(&mut self) -> Result<Vec<Step>, XPathError> {
        let mut steps = vec![self.step()?];
        loop {
            if self.eat(&Token::DoubleSlash) {
                steps.push(descend());
            } else if !self.eat(&Token::Slash) {
                return Ok(steps);
            }
            steps.push(self.step()?);
        }
    }

    fn step(&mut self) -> Result<Step, XPathError> {
        for (token, axis) in [(Token::Dot, Axis::Itself), (Token::DotDot, Axis::Parent)] {
            if self.eat(&token) {
                let predicates = vec![];
                return Ok(Step {
                    axis,
                    test: Test::Node,
                    predicates,
                });
            }
        }
        let axis = match self.peek() {
            Some(Token::At) => {
                self.at += 1;
                Axis::Attribute
            }
            Some(Token::Axis(name)) => {
                let axis = Axis::named(name).ok_or_else(|| error("unknown axis"))?;
                self.at += 1;
                axis
            }
            _ => Axis::Child,
        };
        Ok(Step {
            axis,
            test: self.test()?,
            predicates: self.predicates()?,
        })
    }

    fn test(&mut self) -> Result<Test, XPathError> {
        let token = self.peek().cloned();
        self.at += 1;
        let kind = match token {
            Some(Token::Name { prefix, local }) => return Ok(Test::Name { prefix, local }),
            Some(Token::Function(name)) if is_node_type(&name) => name,
            _ => return Err(error("a step expected")),
        };
        self.expect(&Token::Open)?;
        let test = match kind.as_str() {
            "node" => Test::Node,
            "text" => Test::Text,
            "comment" => Test::Comment,
            _ => Test::Instruction(match self.peek().cloned() {
                Some(Token::Literal(target)) => {
                    self.at += 1;
                    Some(target)
                }
                _ => None,
            }),
        };
        self.expect(&Token::Close)?;
        Ok(test)
    }

    fn predicates(&mut self) -> Result<Vec<Expr>, XPathError> {
        let mut predicates = Vec::new();
        while self.eat(&Token::OpenBracket) {
            predicates.push(self.expression()?);
            self.expect(&Token::CloseBracket)?;
        }
        Ok(predicates)
    }

    fn primary(&mut self) -> Result<Expr, XPathError> {
        let token = self.peek().cloned();
        self.at += 1;
        match token {
            Some(Token::Literal(text)) => Ok(Expr::Literal(text)),
            Some(Token::Number(number)) => Ok(Expr::Number(number)),
            Some(Token::Open) => {
                let inner = self.expression()?;
                self.expect(&Token::Close)?;
                Ok(inner)
            }
            Some(Token::Function(name)) => self.call(&name),
            _ => Err(error("an expression expected")),
        }
    }

    fn call(&mut self, name: &str) -> Result<Expr, XPathError> {
        self.expect(&Token::Open)?;
        let mut arguments = Vec::new();
        if !self.eat(&Token::Close) {
            arguments.push(self.expression()?);
            while self.eat(&Token::Comma) {
                arguments.push(self.expression()?);
            }
            self.expect(&Token::Close)?;
        }
        match Function::named(name, arguments.len()) {
            Some(function) => Ok(Expr::Call(function, arguments)),
            None => Err(XPathError::Syntax(format!(
                "unknown function `{name}` of {} arguments",
                arguments.len()
            ))),
        }
    }
}

fn is_node_type(name: &str) -> bool {
    matches!(name, "node" | "text" | "comment" | "processing-instruction")
}

/// What `//` stands for.
fn descend() -> Step {
    Step {
        axis: Axis::DescendantOrSelf,
        test: Test::Node,
        predicates: vec![],
    }
}
