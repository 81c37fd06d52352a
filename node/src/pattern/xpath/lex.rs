//! Tokens of an expression. Whether `*` multiplies and `div` divides depends on what stands before.

use super::XPathError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Slash,
    DoubleSlash,
    Open,
    Close,
    OpenBracket,
    CloseBracket,
    Dot,
    DotDot,
    At,
    Comma,
    Literal(String),
    Number(f64),
    Operator(Operator),
    /// `name`, `p:name`, `p:*` or `*`.
    Name {
        prefix: Option<String>,
        local: Option<String>,
    },
    /// A name before a parenthesis.
    Function(String),
    /// A name before `::`.
    Axis(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Multiply,
    Divide,
    Remainder,
    Union,
}

/// Cuts an expression into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, XPathError> {
    let mut lexer = Lexer { rest: text };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        if lexer.rest.is_empty() {
            return Ok(tokens);
        }
        let token = lexer.token(follows_operand(tokens.last()))?;
        tokens.push(token);
    }
}

/// True after a token that an operator may follow.
fn follows_operand(last: Option<&Token>) -> bool {
    match last {
        None => false,
        Some(token) => !matches!(
            token,
            Token::At
                | Token::Axis(_)
                | Token::Open
                | Token::OpenBracket
                | Token::Comma
                | Token::Slash
                | Token::DoubleSlash
                | Token::Operator(_)
                | Token::Function(_)
        ),
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn error(&self, what: &str) -> XPathError {
        let near: String = self.rest.chars().take(20).collect();
        XPathError::Syntax(format!("{what} near `{near}`"))
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn token(&mut self, after_operand: bool) -> Result<Token, XPathError> {
        const FIXED: [(&str, Token); 18] = [
            ("//", Token::DoubleSlash),
            ("/", Token::Slash),
            ("(", Token::Open),
            (")", Token::Close),
            ("[", Token::OpenBracket),
            ("]", Token::CloseBracket),
            ("..", Token::DotDot),
            ("@", Token::At),
            (",", Token::Comma),
            ("|", Token::Operator(Operator::Union)),
            ("+", Token::Operator(Operator::Plus)),
            ("-", Token::Operator(Operator::Minus)),
            ("!=", Token::Operator(Operator::NotEqual)),
            ("=", Token::Operator(Operator::Equal)),
            ("<=", Token::Operator(Operator::LessEqual)),
            ("<", Token::Operator(Operator::Less)),
            (">=", Token::Operator(Operator::GreaterEqual)),
            (">", Token::Operator(Operator::Greater)),
        ];
        let first = self.rest.chars().next().unwrap_or_default();
        if first == '"' || first == '\'' {
            return self.literal(first);
        }
        let is_fraction = first == '.' && self.rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if first.is_ascii_digit() || is_fraction {
            return Ok(self.number());
        }
        if let Some((_, token)) = FIXED.into_iter().find(|(text, _)| self.eat(text)) {
            return Ok(token);
        }
        match first {
            '.' => {
                self.rest = &self.rest[1..];
                Ok(Token::Dot)
            }
            '*' => {
                self.rest = &self.rest[1..];
                Ok(match after_operand {
                    true => Token::Operator(Operator::Multiply),
                    false => Token::Name {
                        prefix: None,
                        local: None,
                    },
                })
            }
            '$' => Err(self.error("variables are not known")),
            _ => self.name(after_operand),
        }
    }

    fn literal(&mut self, quote: char) -> Result<Token, XPathError> {
        match self.rest[1..].split_once(quote) {
            Some((text, rest)) => {
                self.rest = rest;
                Ok(Token::Literal(text.to_owned()))
            }
            None => Err(self.error("unterminated literal")),
        }
    }

    fn number(&mut self) -> Token {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut length = digits(self.rest);
        if self.rest[length..].starts_with('.') {
            length += 1 + digits(&self.rest[length + 1..]);
        }
        let (number, rest) = self.rest.split_at(length);
        self.rest = rest;
        // Digits with at most one point are always a number.
        Token::Number(number.parse().unwrap_or(f64::NAN))
    }

    fn name(&mut self, after_operand: bool) -> Result<Token, XPathError> {
        let first = self.nc_name()?;
        if after_operand {
            let operator = match first {
                "or" => Operator::Or,
                "and" => Operator::And,
                "div" => Operator::Divide,
                "mod" => Operator::Remainder,
                _ => return Err(self.error("operator expected")),
            };
            return Ok(Token::Operator(operator));
        }
        if !self.rest.starts_with("::") && self.eat(":") {
            let local = if self.eat("*") {
                None
            } else {
                Some(self.nc_name()?.to_owned())
            };
            return Ok(Token::Name {
                prefix: Some(first.to_owned()),
                local,
            });
        }
        self.skip_blanks();
        Ok(if self.eat("::") {
            Token::Axis(first.to_owned())
        } else if self.rest.starts_with('(') {
            Token::Function(first.to_owned())
        } else {
            Token::Name {
                prefix: None,
                local: Some(first.to_owned()),
            }
        })
    }

    fn nc_name(&mut self) -> Result<&'a str, XPathError> {
        let starts = self.rest.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !starts {
            return Err(self.error("unexpected character"));
        }
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '\u{B7}' | '\u{300}'..='\u{36F}');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name)
    }
}
