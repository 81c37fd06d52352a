use std::path::Path;

use serde_json::json;

use super::*;

fn member<'a>(node: &'a Node, name: &str) -> &'a Member {
    let Content::Object(members) = &node.content else {
        panic!("not an object")
    };
    members
        .iter()
        .find(|member| member.name == name)
        .expect("the member is there")
}

fn at(line: usize, column: usize) -> Place {
    Place { line, column }
}

#[test]
fn json_and_yaml_end_in_the_same_values() {
    let json = parse(
        Path::new("a.json"),
        "{\"s\": \"a\\\"b\\u00e9 {,]\", \"n\": -1.5e2,\n\t\"list\": [1, true, null, {}], \"o\": {\"in\": \"\"}}",
    )
    .unwrap();
    let yaml = parse(
        Path::new("a.yaml"),
        "s: 'a\"bé {,]'\nn: -150.0\nlist: [1, true, ~, {}]\no:\n  in: ''\n",
    )
    .unwrap();

    assert_eq!(json.to_value(), yaml.to_value());
    assert_eq!(json.to_value()["list"], json!([1, true, null, {}]));
}

#[test]
fn places_count_lines_and_characters_from_one() {
    let json = parse(Path::new("a.json"), "{\n  \"é\": {\"inner\": 5},\n\t\"b\": [\n 7]\n}").unwrap();
    let accent = member(&json, "é");
    assert_eq!((accent.place, accent.node.place), (at(2, 3), at(2, 8)));
    assert_eq!(member(&accent.node, "inner").node.place, at(2, 18));
    assert_eq!(member(&json, "b").place, at(3, 2));

    let yaml = parse(Path::new("a.yml"), "# first\né:\n  inner: 5\n").unwrap();
    let accent = member(&yaml, "é");
    assert_eq!(accent.place, at(2, 1));
    let inner = member(&accent.node, "inner");
    assert_eq!((inner.place, inner.node.place), (at(3, 3), at(3, 10)));
}

#[test]
fn broken_files_are_refused_with_their_place() {
    let refused = |name: &str, text: &str| {
        let error = parse(Path::new(name), text).unwrap_err();
        (error.place.line, error.place.column, error.text)
    };

    assert_eq!(refused("a.json", "{\n  \"a\": 1\n  \"b\": 2\n}").0, 3);
    assert!(
        refused("a.json", "{\"a\": 1,}")
            .2
            .starts_with("not valid JSON: trailing comma")
    );
    assert_eq!(refused("a.json", "").0, 1);
    assert_eq!(
        refused("a.yaml", "a: 1\nb: [1, 2\nc: 3\n").2.split(':').next(),
        Some("not valid YAML")
    );
    assert_eq!(
        refused("a.json", "{\"a\": 1,\n \"a\": 2}"),
        (2, 2, "`a` is given twice; the first time at 1:2".to_owned())
    );
    assert!(refused("a.yaml", "a: 1\na: 2\n").2.contains("a"));
    assert_eq!(
        refused("a.yaml", "- 1\n").2,
        "expected an object with the settings at the top"
    );
    assert_eq!(
        refused("a.yaml", "a: 1\n---\nb: 1\n").2,
        "one document is expected, and here a second one begins"
    );
}

#[test]
fn a_file_without_a_telling_name_is_read_by_its_first_character() {
    assert!(parse(Path::new("openhim.conf"), "  {\"a\": \"\\/\"}").is_ok());
    assert!(parse(Path::new("openhim.conf"), "\u{feff}a: 1\n").is_ok());
    assert_eq!(
        parse(Path::new("openhim.conf"), "# nothing yet\n").unwrap().to_value(),
        json!({})
    );
}

#[test]
fn every_prefix_of_a_file_is_read_or_refused_but_never_panics() {
    let text = "{\"a\\\\\": [1, \"\\u00e9\", {\"b\": null}], \"c\": -0.5e+3, \"d\": \"ü\\\"\"}";
    for (end, _) in text.char_indices() {
        let _ = parse(Path::new("a.json"), &text[..end]);
        let _ = parse(Path::new("a.yaml"), &text[..end]);
    }
    assert!(parse(Path::new("a.json"), text).is_ok());
}
