//! Forms with nested keys, in the dialect of the `qs` library: `a[b]=1`, `a.b=1`, `a[]=1`, `a[0]=1`.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// Pairs read; the rest is ignored.
const MOST_PAIRS: usize = 1000;
/// Levels of nesting; what is deeper stays one key.
const DEEPEST: usize = 5;
/// Array positions up to this one make arrays, higher ones make objects.
const LARGEST_INDEX: usize = 20;

/// Reads a form; never fails.
pub(in crate::api) fn parse(text: &str) -> Value {
    let mut root = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()).take(MOST_PAIRS) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key), decode(value));
        let path = path(&key);
        if path.first().is_none_or(String::is_empty) {
            continue;
        }
        put(&mut root, &path, Value::String(value));
    }
    Value::Object(root)
}

/// Decodes `+` and percent escapes; malformed ones stay as they are.
pub(in crate::api) fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

fn path(key: &str) -> Vec<String> {
    let mut path = Vec::new();
    let (head, mut rest) = key.split_at(key.find(['[', '.']).unwrap_or(key.len()));
    path.push(head.to_owned());
    while !rest.is_empty() {
        if path.len() > DEEPEST {
            path.push(rest.to_owned());
            break;
        }
        let (segment, after) = if let Some(inside) = rest.strip_prefix('[') {
            match inside.split_once(']') {
                Some((segment, after)) => (segment, after),
                None => (rest, ""),
            }
        } else {
            let inside = rest.strip_prefix('.').unwrap_or(rest);
            inside.split_at(inside.find(['[', '.']).unwrap_or(inside.len()))
        };
        path.push(segment.to_owned());
        rest = after;
    }
    path
}

fn put(object: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((key, rest)) = path.split_first() else {
        return;
    };
    match object.get_mut(key) {
        None => {
            object.insert(key.clone(), nest(rest, value));
        }
        Some(present) => merge(present, rest, value),
    }
}

fn nest(path: &[String], value: Value) -> Value {
    let Some((key, rest)) = path.split_first() else {
        return value;
    };
    if is_position(key) {
        return Value::Array(vec![nest(rest, value)]);
    }
    let mut object = Map::new();
    object.insert(key.clone(), nest(rest, value));
    Value::Object(object)
}

fn merge(present: &mut Value, path: &[String], value: Value) {
    match (path.split_first(), present) {
        (None, Value::Array(items)) => items.push(value),
        (None, present) => *present = Value::Array(vec![present.take(), value]),
        (Some((key, rest)), Value::Array(items)) if is_position(key) => {
            match key.parse::<usize>().ok().and_then(|at| items.get_mut(at)) {
                Some(item) if !rest.is_empty() => merge(item, rest, value),
                _ => items.push(nest(rest, value)),
            }
        }
        (Some(_), Value::Object(object)) => put(object, path, value),
        (Some(_), present) => *present = Value::Array(vec![present.take(), nest(path, value)]),
    }
}

fn is_position(key: &str) -> bool {
    key.is_empty() || key.parse::<usize>().is_ok_and(|at| at <= LARGEST_INDEX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_keys_become_objects_and_arrays() {
        assert_eq!(
            parse("a[b][c]=1&a.d=2&l[]=x&l[]=y&m[0]=p&m[1]=q&t=1&t=2&e=&n+m=%C3%A9"),
            json!({"a": {"b": {"c": "1"}, "d": "2"}, "l": ["x", "y"], "m": ["p", "q"], "t": ["1", "2"], "e": "", "n m": "é"})
        );
    }

    #[test]
    fn hostile_keys_are_bounded() {
        let deep = format!("a{}=1", "[b]".repeat(10_000));
        assert!(parse(&deep).to_string().len() < 40_000);
        assert_eq!(parse("a[999999999]=1"), json!({"a": {"999999999": "1"}}));
        assert_eq!(parse("&&=&[x]=1&a[b=1"), json!({"a": {"[b": "1"}}));
    }
}
