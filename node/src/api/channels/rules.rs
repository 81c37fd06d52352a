//! What a channel has to be besides what its schema says. Each rule gives the sentence that clients get.
//!
//! Creating looks at the channel as it will be stored; updating looks at the body as it was sent and then at the whole.

use bson::{Bson, Document};

use crate::model::number;

const PATH: &str = "Channel cannot have both path and pathTransform. pathTransform must be of the form s/from/to[/g]";
const PRIORITY: &str = "Channel priority cannot be below 1 (= Highest priority)";
const TIMEOUT: &str = "Channel property timeoutSeconds has to be a number greater than 1 and less than an 3600";
const BODY_AGE: &str =
    "Channel property maxBodyAgeDays has to be a number that's valid and requestBody or responseBody must be true.";

/// The first rule that a new channel breaks; `sent` is the body that it was made of.
pub(super) fn broken_by_new(channel: &Document, sent: &Document) -> Option<String> {
    path(channel)
        .or_else(|| priority(channel))
        .or_else(|| methods(channel))
        .or_else(|| timeout(channel))
        .or_else(|| primary(channel))
        .or_else(|| body_age(sent))
}

/// The first rule that an update breaks; `merged` is the channel as it would be.
pub(super) fn broken_by_update(sent: &Document, merged: &Document, looks_at_methods: bool) -> Option<String> {
    let of_methods = if looks_at_methods { methods(merged) } else { None };
    of_methods
        .or_else(|| timeout(sent))
        .or_else(|| path(sent))
        .or_else(|| priority(sent))
        .or_else(|| if is_given(sent, "routes") { primary(sent) } else { None })
        .or_else(|| timeout(merged))
        .or_else(|| body_age(merged))
}

/// True if the value is there and not null.
pub(super) fn is_given(document: &Document, key: &str) -> bool {
    !matches!(document.get(key), None | Some(Bson::Null | Bson::Undefined))
}

fn path(channel: &Document) -> Option<String> {
    let is_wrong = routes(channel).iter().any(|route| {
        let transform = text(route, "pathTransform");
        let has_both = !transform.is_empty() && !text(route, "path").is_empty();
        has_both || (!transform.is_empty() && !is_substitution(transform))
    });
    is_wrong.then(|| PATH.to_owned())
}

/// `s/…/…` somewhere in one line.
fn is_substitution(text: &str) -> bool {
    text.lines()
        .any(|line| line.find("s/").is_some_and(|at| line[at + 2..].contains('/')))
}

fn priority(channel: &Document) -> Option<String> {
    let priority = channel.get("priority").and_then(number::of_bson);
    priority.is_some_and(|it| it < 1.0).then(|| PRIORITY.to_owned())
}

fn methods(channel: &Document) -> Option<String> {
    let methods: Vec<&str> = channel
        .get_array("methods")
        .map(|methods| methods.iter().filter_map(Bson::as_str).collect())
        .unwrap_or_default();
    if methods.is_empty() {
        return None;
    }
    let kind = Some(text(channel, "type"))
        .filter(|kind| !kind.is_empty())
        .unwrap_or("http");
    if !kind.to_ascii_lowercase().contains("http") {
        return Some("Channel method can't be defined if channel type is not http".to_owned());
    }
    let mut repeated: Vec<&str> = methods
        .iter()
        .enumerate()
        .filter(|(at, method)| methods[..*at].contains(method))
        .map(|(_, method)| *method)
        .collect();
    repeated.sort_unstable();
    repeated.dedup();
    (!repeated.is_empty()).then(|| {
        let repeated = repeated.join(", ");
        format!("Channel methods can't be repeated. Repeated methods are {repeated}")
    })
}

fn timeout(channel: &Document) -> Option<String> {
    let timeout = channel.get("timeout").filter(|_| is_given(channel, "timeout"))?;
    let is_right = plain_number(timeout).is_some_and(|it| it > 0.0 && it <= 3_600_000.0);
    (!is_right).then(|| TIMEOUT.to_owned())
}

fn primary(channel: &Document) -> Option<String> {
    let primaries = routes(channel)
        .iter()
        .filter(|route| !is_given(route, "status") || text(route, "status") == "enabled")
        .filter(|route| is_truthy(route.get("primary")))
        .count();
    match primaries {
        0 => Some("Channel must have a primary route".to_owned()),
        1 => None,
        _ => Some("Channel cannot have a multiple primary routes".to_owned()),
    }
}

fn body_age(channel: &Document) -> Option<String> {
    let age = channel
        .get("maxBodyAgeDays")
        .filter(|_| is_given(channel, "maxBodyAgeDays"))?;
    let keeps_bodies = is_truthy(channel.get("requestBody")) || is_truthy(channel.get("responseBody"));
    let is_right = plain_number(age).is_some_and(|it| it > 0.0 && it < 36_500.0);
    (!keeps_bodies || !is_right).then(|| BODY_AGE.to_owned())
}

fn routes(channel: &Document) -> Vec<&Document> {
    let routes = channel.get_array("routes").map_or(&[][..], Vec::as_slice);
    routes.iter().filter_map(Bson::as_document).collect()
}

fn text<'d>(document: &'d Document, key: &str) -> &'d str {
    document.get_str(key).unwrap_or_default()
}

/// A number that was sent as one.
fn plain_number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => number::of_bson(value),
        _ => None,
    }
}

/// What JavaScript takes for true.
fn is_truthy(value: Option<&Bson>) -> bool {
    match value {
        None | Some(Bson::Null | Bson::Undefined) => false,
        Some(Bson::Boolean(flag)) => *flag,
        Some(Bson::String(text)) => !text.is_empty(),
        Some(other) => number::of_bson(other) != Some(0.0),
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn with(fields: Document) -> Document {
        let mut channel = doc! {"routes": [{"primary": true}]};
        channel.extend(fields);
        channel
    }

    fn broken(fields: Document) -> Option<String> {
        let channel = with(fields);
        broken_by_new(&channel, &channel)
    }

    #[test]
    fn a_plain_channel_breaks_no_rule() {
        assert_eq!(broken(doc! {}), None);
        assert_eq!(
            broken(
                doc! {"methods": ["GET", "POST"], "timeout": 3_600_000, "priority": 1, "maxBodyAgeDays": 1, "requestBody": true}
            ),
            None
        );
        assert_eq!(broken(doc! {"timeout": null, "maxBodyAgeDays": null}), None);
    }

    #[test]
    fn each_rule_has_its_sentence() {
        let route = |more: Document| {
            let mut route = doc! {"primary": true};
            route.extend(more);
            doc! {"routes": [route]}
        };
        for (fields, sentence) in [
            (route(doc! {"path": "/a", "pathTransform": "s/a/b"}), PATH),
            (route(doc! {"pathTransform": "s/a"}), PATH),
            (doc! {"priority": 0}, PRIORITY),
            (
                doc! {"type": "tcp", "methods": ["GET"]},
                "Channel method can't be defined if channel type is not http",
            ),
            (
                doc! {"methods": ["PUT", "GET", "PUT", "GET", "PUT"]},
                "Channel methods can't be repeated. Repeated methods are GET, PUT",
            ),
            (doc! {"timeout": 0}, TIMEOUT),
            (doc! {"timeout": 3_600_001}, TIMEOUT),
            (doc! {"timeout": "100"}, TIMEOUT),
            (doc! {"routes": []}, "Channel must have a primary route"),
            (
                doc! {"routes": [{"primary": true, "status": "disabled"}]},
                "Channel must have a primary route",
            ),
            (
                doc! {"routes": [{"primary": true}, {"primary": true, "status": "enabled"}]},
                "Channel cannot have a multiple primary routes",
            ),
            (doc! {"maxBodyAgeDays": 5}, BODY_AGE),
            (doc! {"maxBodyAgeDays": "5", "requestBody": true}, BODY_AGE),
            (doc! {"maxBodyAgeDays": 36_500, "responseBody": true}, BODY_AGE),
        ] {
            assert_eq!(broken(fields.clone()).as_deref(), Some(sentence), "{fields}");
        }
    }

    #[test]
    fn the_console_sends_empty_texts_for_unused_fields() {
        assert_eq!(
            broken(doc! {"routes": [{"primary": true, "path": "", "pathTransform": ""}]}),
            None
        );
    }

    #[test]
    fn an_update_without_routes_needs_no_primary_one() {
        assert_eq!(broken_by_update(&doc! {"name": "x"}, &doc! {}, true), None);
        assert!(broken_by_update(&doc! {"routes": []}, &doc! {}, true).is_some());
    }
}
