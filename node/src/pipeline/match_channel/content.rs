//! Whether a body says what a channel asks for.
//!
//! A body is read as text, XML or JSON at most once, however many channels ask.

use std::cell::OnceCell;

use bytes::Bytes;
use serde_json::Value;

use crate::tables::Content;

/// A body that is searched.
#[derive(Debug)]
pub(super) struct Body {
    /// `None`: too large to be searched.
    bytes: Option<Bytes>,
    text: OnceCell<String>,
    json: OnceCell<Option<Value>>,
}

impl Body {
    pub(super) fn new(bytes: Option<Bytes>) -> Self {
        Self {
            bytes,
            text: OnceCell::new(),
            json: OnceCell::new(),
        }
    }

    /// True if the body satisfies the condition.
    pub(super) fn satisfies(&self, content: &Content) -> bool {
        let Some(bytes) = &self.bytes else {
            return matches!(content, Content::Anything);
        };
        match content {
            Content::Anything => true,
            Content::Never => false,
            Content::Regex(pattern) => pattern.is_match(self.text(bytes)),
            Content::Json { path, value } => self.json(bytes).is_some_and(|json| holds(json, path, value)),
            Content::Xpath { expression, value } => {
                expression.text(self.text(bytes)).is_some_and(|found| found == *value)
            }
        }
    }

    fn text(&self, bytes: &Bytes) -> &str {
        self.text.get_or_init(|| String::from_utf8_lossy(bytes).into_owned())
    }

    fn json(&self, bytes: &Bytes) -> Option<&Value> {
        self.json.get_or_init(|| serde_json::from_slice(bytes).ok()).as_ref()
    }
}

/// True if `path` (`a.b[0].c`) leads to something whose text is `expected`.
fn holds(json: &Value, path: &str, expected: &str) -> bool {
    let path = path.replace('[', ".").replace(']', "");
    let mut place = json;
    for step in path.trim_start_matches('.').split('.') {
        let next = match place {
            Value::Object(fields) => fields.get(step),
            Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => None,
        };
        match next {
            Some(value) => place = value,
            None => return false,
        }
    }
    match place {
        Value::String(text) => text == expected,
        Value::Number(number) => number.to_string() == expected,
        Value::Bool(flag) => flag.to_string() == expected,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use crate::pattern::xpath::XPath;

    fn body(text: &'static str) -> Body {
        Body::new(Some(Bytes::from_static(text.as_bytes())))
    }

    fn json(path: &str, value: &str) -> Content {
        Content::Json {
            path: path.into(),
            value: value.into(),
        }
    }

    #[test]
    fn a_number_in_the_body_equals_its_text() {
        let body = body(r#"{"a": {"b": [{"c": 7}, {"c": "x"}]}, "t": true}"#);

        assert!(body.satisfies(&json("a.b[0].c", "7")));
        assert!(body.satisfies(&json(".a.b[1].c", "x")));
        assert!(body.satisfies(&json("t", "true")));
        assert!(!body.satisfies(&json("a.b[2].c", "7")));
        assert!(!body.satisfies(&json("a.b.c.d", "7")));
    }

    #[test]
    fn an_xpath_is_compared_by_its_text() {
        let content = |value: &str| Content::Xpath {
            expression: XPath::compile("string(/a/b)", 1000).unwrap(),
            value: value.into(),
        };

        assert!(body("<a><b>7</b></a>").satisfies(&content("7")));
        assert!(!body("<a><b>8</b></a>").satisfies(&content("7")));
        assert!(!body("").satisfies(&content("")));
        assert!(!body("<a>").satisfies(&content("7")));
    }

    #[test]
    fn content_that_cannot_be_read_does_not_match() {
        assert!(!body("{").satisfies(&json("a", "1")));
        assert!(!body("").satisfies(&json("a", "1")));
        assert!(!Body::new(None).satisfies(&Content::Regex(Pattern::compile("", 100).unwrap())));
    }

    #[test]
    fn a_pattern_is_searched_in_the_text() {
        let content = Content::Regex(Pattern::compile("fo+", 100).unwrap());

        assert!(body("a foo b").satisfies(&content));
        assert!(!body("a bar b").satisfies(&content));
    }
}
