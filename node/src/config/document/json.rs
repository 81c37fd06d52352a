//! JSON with positions.
//!
//! `serde_json` decides whether the text is JSON and words the error; the walk after it only has to find where things
//! stand, and hands each scalar back to `serde_json`.

use serde_json::Value;

use super::{Content, Member, Node, Place, SyntaxError, refuse_twice};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    match serde_json::from_str::<Value>(text) {
        Ok(_) => Walker { text, at: 0 }.node(),
        Err(error) => Err(refusal(text, &error)),
    }
}

fn refusal(text: &str, error: &serde_json::Error) -> SyntaxError {
    let worded = error.to_string();
    let reason = worded.rfind(" at line ").map_or(worded.as_str(), |end| &worded[..end]);
    let place = if text.trim().is_empty() {
        Place { line: 1, column: 1 }
    } else {
        Place {
            line: error.line().max(1),
            column: error.column().max(1),
        }
    };
    SyntaxError {
        place,
        text: format!("not valid JSON: {reason}"),
    }
}

/// INVARIANT: `text` is valid JSON, nested no deeper than `serde_json` accepts; `at` stands on a character's start.
struct Walker<'a> {
    text: &'a str,
    at: usize,
}

impl Walker<'_> {
    fn node(&mut self) -> Result<Node, SyntaxError> {
        self.skip_space();
        let place = self.place();
        let content = match self.peek() {
            b'{' => self.object()?,
            b'[' => self.list()?,
            _ => Content::Scalar(self.scalar()?),
        };
        Ok(Node { place, content })
    }

    fn object(&mut self) -> Result<Content, SyntaxError> {
        let mut members: Vec<Member> = Vec::new();
        self.at += 1;
        while !self.closes(b'}') {
            let place = self.place();
            let name = match self.scalar()? {
                Value::String(name) => name,
                other => other.to_string(),
            };
            refuse_twice(&members, &name, place)?;
            self.skip_space();
            self.at += 1; // the colon
            members.push(Member {
                name,
                place,
                node: self.node()?,
            });
        }
        Ok(Content::Object(members))
    }

    fn list(&mut self) -> Result<Content, SyntaxError> {
        let mut nodes = Vec::new();
        self.at += 1;
        while !self.closes(b']') {
            nodes.push(self.node()?);
        }
        Ok(Content::List(nodes))
    }

    /// Passes white space and a comma; true when the closing bracket was passed too.
    fn closes(&mut self, bracket: u8) -> bool {
        self.skip_space();
        if self.peek() == b',' {
            self.at += 1;
            self.skip_space();
        }
        let closes = self.peek() == bracket;
        self.at += usize::from(closes);
        closes
    }

    fn scalar(&mut self) -> Result<Value, SyntaxError> {
        let start = self.at;
        self.at += self.scalar_length();
        serde_json::from_str(&self.text[start..self.at]).map_err(|error| refusal(self.text, &error))
    }

    fn scalar_length(&self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        if rest.first() != Some(&b'"') {
            return rest
                .iter()
                .position(|byte| b",]} \t\r\n".contains(byte))
                .unwrap_or(rest.len());
        }
        let mut escaped = false;
        let closing = rest[1..].iter().position(|&byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        closing.map_or(rest.len(), |before| before + 2)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
    }

    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn place(&self) -> Place {
        let before = &self.text[..self.at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}
