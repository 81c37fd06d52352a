//! Reads a pattern as JavaScript does without the `u` flag, Annex B included.

use std::ops::Range;

use super::PatternError;
use super::charset::CharSet;

/// How deep groups may be nested.
pub(super) const MAX_DEPTH: u32 = 100;

/// A pattern as a tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
    /// Capture groups, the whole match not counted.
    pub(super) groups: u32,
    pub(super) names: Vec<(Box<str>, u32)>,
}

#[derive(Debug)]
pub(super) enum Node {
    Empty,
    Char(char),
    Set(CharSet),
    Start,
    End,
    Boundary {
        negated: bool,
    },
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    /// A capture group.
    Group {
        index: u32,
        inner: Box<Node>,
    },
    Look {
        behind: bool,
        negated: bool,
        inner: Box<Node>,
    },
    BackReference(u32),
    Repeat {
        inner: Box<Node>,
        min: u32,
        /// `None`: without end.
        max: Option<u32>,
        greedy: bool,
        /// The capture groups inside; each round forgets what they held.
        groups: Range<u32>,
    },
}

impl Node {
    /// True if no repetition has a group inside, or a body that may match nothing: there engines differ about extents.
    pub(super) fn has_plain_loops(&self) -> bool {
        match self {
            Self::Repeat { inner, groups, .. } => groups.is_empty() && !inner.may_be_empty() && inner.has_plain_loops(),
            Self::Concat(items) | Self::Alternate(items) => items.iter().all(Self::has_plain_loops),
            Self::Group { inner, .. } | Self::Look { inner, .. } => inner.has_plain_loops(),
            _ => true,
        }
    }

    fn may_be_empty(&self) -> bool {
        match self {
            Self::Char(_) | Self::Set(_) => false,
            Self::Concat(items) => items.iter().all(Self::may_be_empty),
            Self::Alternate(items) => items.iter().any(Self::may_be_empty),
            Self::Group { inner, .. } => inner.may_be_empty(),
            Self::Repeat { inner, min, .. } => *min == 0 || inner.may_be_empty(),
            _ => true,
        }
    }
}

/// Reads a pattern.
pub(super) fn parse(text: &str) -> Result<Tree, PatternError> {
    let chars: Vec<char> = text.chars().collect();
    let (total, has_names) = count_groups(&chars);
    let mut parser = Parser {
        chars,
        at: 0,
        depth: 0,
        opened: 0,
        open: Vec::new(),
        total,
        has_names,
        names: Vec::new(),
        named_references: Vec::new(),
    };
    let root = parser.disjunction()?;
    if parser.peek().is_some() {
        return Err(parser.error("unmatched `)`"));
    }
    parser.check_named_references()?;
    Ok(Tree {
        root,
        groups: total,
        names: parser.names,
    })
}

/// How many capture groups there are, and whether one has a name: both decide how escapes are read.
fn count_groups(chars: &[char]) -> (u32, bool) {
    let (mut groups, mut has_names, mut in_class) = (0, false, false);
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 1,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => match chars.get(at + 1..).unwrap_or_default() {
                ['?', '<', next, ..] if !matches!(next, '=' | '!') => {
                    groups += 1;
                    has_names = true;
                }
                ['?', ..] => {}
                _ => groups += 1,
            },
            _ => {}
        }
        at += 1;
    }
    (groups, has_names)
}

#[derive(Debug)]
struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: u32,
    /// Capture groups opened so far.
    opened: u32,
    /// Capture groups that are open here.
    open: Vec<u32>,
    total: u32,
    has_names: bool,
    names: Vec<(Box<str>, u32)>,
    /// `\k<name>`, and where it stands.
    named_references: Vec<(Box<str>, usize)>,
}

/// A member of a character class.
enum Member {
    One(u32),
    Many(CharSet),
}

impl Parser {
    fn error(&self, reason: &'static str) -> PatternError {
        PatternError::Syntax { at: self.at, reason }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Takes `text` if it comes next.
    fn eat(&mut self, text: &str) -> bool {
        let length = text.chars().count();
        let matches = self
            .chars
            .get(self.at..self.at + length)
            .is_some_and(|next| next.iter().copied().eq(text.chars()));
        if matches {
            self.at += length;
        }
        matches
    }

    fn disjunction(&mut self) -> Result<Node, PatternError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(PatternError::TooDeep);
        }
        let mut branches = vec![self.alternative()?];
        while self.eat("|") {
            branches.push(self.alternative()?);
        }
        self.depth -= 1;
        Ok(match branches.len() {
            1 => branches.remove(0),
            _ => Node::Alternate(branches),
        })
    }

    fn alternative(&mut self) -> Result<Node, PatternError> {
        let mut items = Vec::new();
        while let Some(c) = self.peek().filter(|c| !matches!(c, '|' | ')')) {
            items.push(self.term(c)?);
        }
        Ok(match items.len() {
            0 => Node::Empty,
            1 => items.remove(0),
            _ => Node::Concat(items),
        })
    }

    fn term(&mut self, first: char) -> Result<Node, PatternError> {
        let before = self.opened;
        let (node, repeatable) = match first {
            '^' => (self.take(Node::Start), false),
            '$' => (self.take(Node::End), false),
            '(' => self.group()?,
            '[' => {
                self.at += 1;
                (Node::Set(self.class()?), true)
            }
            '.' => (self.take(Node::Set(CharSet::dot())), true),
            '\\' => {
                self.at += 1;
                self.escape()?
            }
            '*' | '+' | '?' => return Err(self.error("nothing to repeat")),
            '{' if self.quantifier()?.is_some() => return Err(self.error("nothing to repeat")),
            literal => (self.take(Node::Char(literal)), true),
        };
        match self.quantifier()? {
            Some(_) if !repeatable => Err(self.error("nothing to repeat")),
            Some((min, max, greedy)) => Ok(repeat(node, min, max, greedy, before + 1..self.opened + 1)),
            None => Ok(node),
        }
    }

    fn take(&mut self, node: Node) -> Node {
        self.at += 1;
        node
    }

    /// Takes a quantifier if one comes next. A brace that starts none stays where it is.
    fn quantifier(&mut self) -> Result<Option<(u32, Option<u32>, bool)>, PatternError> {
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => match self.braces()? {
                Some(bounds) => bounds,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        // `braces` leaves the closing one.
        self.at += 1;
        Ok(Some((min, max, !self.eat("?"))))
    }

    fn braces(&mut self) -> Result<Option<(u32, Option<u32>)>, PatternError> {
        let start = self.at;
        self.at += 1;
        let bounds = match self.number() {
            None => None,
            Some(min) if self.peek() == Some('}') => Some((min, Some(min))),
            Some(min) if self.eat(",") => match (self.number(), self.peek()) {
                (max, Some('}')) => Some((min, max)),
                _ => None,
            },
            Some(_) => None,
        };
        match bounds {
            Some((min, Some(max))) if max < min => Err(self.error("numbers out of order in quantifier")),
            // So many rounds are as good as endless.
            Some((min, max)) => Ok(Some((min, max.filter(|max| *max < u32::MAX)))),
            None => {
                self.at = start;
                Ok(None)
            }
        }
    }

    fn number(&mut self) -> Option<u32> {
        let mut value: Option<u32> = None;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.at += 1;
            value = Some(value.unwrap_or(0).saturating_mul(10).saturating_add(digit));
        }
        value
    }

    /// Reads a group; also answers whether it may be repeated.
    fn group(&mut self) -> Result<(Node, bool), PatternError> {
        let start = self.at;
        let look = |behind, negated| move |inner| Node::Look { behind, negated, inner };
        if self.eat("(?:") {
            Ok((*self.group_body(start)?, true))
        } else if self.eat("(?=") {
            Ok((look(false, false)(self.group_body(start)?), true))
        } else if self.eat("(?!") {
            Ok((look(false, true)(self.group_body(start)?), true))
        } else if self.eat("(?<=") {
            Ok((look(true, false)(self.group_body(start)?), false))
        } else if self.eat("(?<!") {
            Ok((look(true, true)(self.group_body(start)?), false))
        } else {
            self.capture(start)
        }
    }

    fn capture(&mut self, start: usize) -> Result<(Node, bool), PatternError> {
        self.opened += 1;
        let index = self.opened;
        if self.eat("(?<") {
            let name = self.group_name()?;
            if self.names.iter().any(|(known, _)| **known == *name) {
                return Err(self.error("duplicate capture group name"));
            }
            self.names.push((name, index));
        } else if self.eat("(?") {
            return Err(self.error("invalid group"));
        } else {
            self.at += 1;
        }
        self.open.push(index);
        let inner = self.group_body(start)?;
        self.open.pop();
        Ok((Node::Group { index, inner }, true))
    }

    fn group_body(&mut self, start: usize) -> Result<Box<Node>, PatternError> {
        let inner = self.disjunction()?;
        if !self.eat(")") {
            self.at = start;
            return Err(self.error("unterminated group"));
        }
        Ok(Box::new(inner))
    }

    fn group_name(&mut self) -> Result<Box<str>, PatternError> {
        let mut name = String::new();
        loop {
            match self.next() {
                Some('>') if !name.is_empty() => return Ok(name.into()),
                Some(c) if c.is_alphabetic() || matches!(c, '_' | '$') => name.push(c),
                Some(c) if c.is_alphanumeric() && !name.is_empty() => name.push(c),
                _ => return Err(self.error("invalid capture group name")),
            }
        }
    }

    /// Reads what follows a backslash outside a class.
    fn escape(&mut self) -> Result<(Node, bool), PatternError> {
        let Some(c) = self.peek() else {
            return Err(self.error("\\ at end of pattern"));
        };
        let boundary = |negated| (Node::Boundary { negated }, false);
        match c {
            'b' | 'B' => {
                self.at += 1;
                return Ok(boundary(c == 'B'));
            }
            'k' if self.has_names => {
                self.at += 1;
                return Ok((self.named_reference()?, true));
            }
            '1'..='9' => {
                if let Some(node) = self.numbered_reference() {
                    return Ok((node, true));
                }
            }
            _ => {}
        }
        Ok((
            match self.character_escape(false) {
                Member::Many(set) => Node::Set(set),
                Member::One(code) => match char::from_u32(code) {
                    Some(c) => Node::Char(c),
                    None => self.surrogate(code),
                },
            },
            true,
        ))
    }

    /// A high surrogate and the low one after it make one character; a single one matches nothing.
    fn surrogate(&mut self, high: u32) -> Node {
        let start = self.at;
        if (0xD800..0xDC00).contains(&high)
            && self.eat("\\u")
            && let Some(low @ 0xDC00..0xE000) = self.hex(4)
        {
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            return char::from_u32(code).map_or(Node::Empty, Node::Char);
        }
        self.at = start;
        Node::Set(CharSet::default())
    }

    fn numbered_reference(&mut self) -> Option<Node> {
        let start = self.at;
        match self.number() {
            Some(group) if group <= self.total => Some(self.reference(group)),
            _ => {
                self.at = start;
                None
            }
        }
    }

    fn named_reference(&mut self) -> Result<Node, PatternError> {
        if !self.eat("<") {
            return Err(self.error("invalid named reference"));
        }
        let name = self.group_name()?;
        match self.names.iter().find(|(known, _)| **known == *name) {
            Some(&(_, group)) => Ok(self.reference(group)),
            None => {
                // A group that comes later holds nothing yet; whether it exists is known at the end.
                self.named_references.push((name, self.at));
                Ok(Node::Empty)
            }
        }
    }

    fn check_named_references(&self) -> Result<(), PatternError> {
        let unknown = |name: &str| !self.names.iter().any(|(known, _)| **known == *name);
        match self.named_references.iter().find(|(name, _)| unknown(name)) {
            Some((_, at)) => Err(PatternError::Syntax {
                at: *at,
                reason: "invalid named capture referenced",
            }),
            None => Ok(()),
        }
    }

    fn reference(&self, group: u32) -> Node {
        match self.open.contains(&group) {
            // A group holds nothing while it is open.
            true => Node::Empty,
            false => Node::BackReference(group),
        }
    }

    /// Reads an escape that stands for characters; the backslash is taken, at least one character follows.
    fn character_escape(&mut self, in_class: bool) -> Member {
        let Some(c) = self.next() else {
            return Member::One('\\' as u32);
        };
        let code = match c {
            'd' => return Member::Many(CharSet::digit()),
            'D' => return Member::Many(CharSet::digit().negated()),
            'w' => return Member::Many(CharSet::word()),
            'W' => return Member::Many(CharSet::word().negated()),
            's' => return Member::Many(CharSet::space()),
            'S' => return Member::Many(CharSet::space().negated()),
            'f' => 0x0C,
            'n' => 0x0A,
            'r' => 0x0D,
            't' => 0x09,
            'v' => 0x0B,
            'b' if in_class => 0x08,
            'x' => self.hex(2).unwrap_or('x' as u32),
            'u' => self.hex(4).unwrap_or('u' as u32),
            'c' => self.control(in_class),
            '0'..='7' => {
                self.at -= 1;
                self.octal()
            }
            other => other as u32,
        };
        Member::One(code)
    }

    /// `\cX`; without a letter, the backslash stands for itself.
    fn control(&mut self, in_class: bool) -> u32 {
        match self.peek() {
            Some(c) if c.is_ascii_alphabetic() || (in_class && (c.is_ascii_digit() || c == '_')) => {
                self.at += 1;
                c as u32 % 32
            }
            _ => {
                self.at -= 1;
                '\\' as u32
            }
        }
    }

    fn hex(&mut self, digits: usize) -> Option<u32> {
        let text = self.chars.get(self.at..self.at + digits)?;
        let value = text.iter().try_fold(0, |value, c| Some(value * 16 + c.to_digit(16)?))?;
        self.at += digits;
        Some(value)
    }

    /// Up to three octal digits, at most 0o377.
    fn octal(&mut self) -> u32 {
        let mut value = 0;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) {
            if value * 8 + digit > 0o377 {
                break;
            }
            value = value * 8 + digit;
            self.at += 1;
        }
        value
    }

    /// Reads a class up to its closing bracket; the opening one is taken.
    fn class(&mut self) -> Result<CharSet, PatternError> {
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        loop {
            let low = match self.member()? {
                None => break,
                Some(member) => member,
            };
            if self.peek() != Some('-') || self.chars.get(self.at + 1) == Some(&']') {
                low.add_to(&mut ranges);
                continue;
            }
            self.at += 1;
            let Some(high) = self.member()? else {
                break;
            };
            match (low, high) {
                (Member::One(low), Member::One(high)) if low > high => {
                    return Err(self.error("range out of order in character class"));
                }
                (Member::One(low), Member::One(high)) => ranges.push((low, high)),
                (low, high) => {
                    low.add_to(&mut ranges);
                    ranges.push(('-' as u32, '-' as u32));
                    high.add_to(&mut ranges);
                }
            }
        }
        let set = CharSet::new(ranges);
        Ok(if negated { set.negated() } else { set })
    }

    /// The next member of a class; `None` at its end.
    fn member(&mut self) -> Result<Option<Member>, PatternError> {
        match self.next() {
            None => Err(self.error("unterminated character class")),
            Some(']') => Ok(None),
            Some('\\') if self.peek().is_none() => Err(self.error("\\ at end of pattern")),
            Some('\\') => Ok(Some(self.character_escape(true))),
            Some(c) => Ok(Some(Member::One(c as u32))),
        }
    }
}

impl Member {
    fn add_to(self, ranges: &mut Vec<(u32, u32)>) {
        match self {
            Self::One(code) => ranges.push((code, code)),
            Self::Many(set) => ranges.extend_from_slice(set.ranges()),
        }
    }
}

fn repeat(inner: Node, min: u32, max: Option<u32>, greedy: bool, groups: Range<u32>) -> Node {
    match (inner, min, max) {
        (_, _, Some(0)) => Node::Empty,
        // Looking more than once tells nothing new, and an optional look never runs: a round must not be empty.
        (Node::Look { .. }, 0, _) => Node::Empty,
        (look @ Node::Look { .. }, ..) => look,
        (inner, 1, Some(1)) => inner,
        (inner, ..) => Node::Repeat {
            inner: Box::new(inner),
            min,
            max,
            greedy,
            groups,
        },
    }
}
