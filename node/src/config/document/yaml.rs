//! YAML with positions.

use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};
use serde_json::{Number, Value};

use super::{Content, Member, Node, Place, SyntaxError, refuse_twice};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut documents = MarkedYaml::load_from_str(text).map_err(|error| SyntaxError {
        place: place(error.marker()),
        text: format!("not valid YAML: {}", error.info()),
    })?;
    match documents.len() {
        0 => Ok(Node {
            place: Place { line: 1, column: 1 },
            content: Content::Object(Vec::new()),
        }),
        1 => convert(&documents.remove(0)),
        _ => Err(SyntaxError {
            place: place(&documents[1].span.start),
            text: "one document is expected, and here a second one begins".to_owned(),
        }),
    }
}

fn place(marker: &Marker) -> Place {
    Place {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

fn convert(yaml: &MarkedYaml<'_>) -> Result<Node, SyntaxError> {
    let place = place(&yaml.span.start);
    let content = match &yaml.data {
        YamlData::Value(scalar) => Content::Scalar(value(scalar, place)?),
        YamlData::Sequence(items) => Content::List(items.iter().map(convert).collect::<Result<_, _>>()?),
        YamlData::Mapping(entries) => {
            let mut members: Vec<Member> = Vec::with_capacity(entries.len());
            for (key, node) in entries {
                let (name, place) = name(key)?;
                refuse_twice(&members, &name, place)?;
                members.push(Member {
                    name,
                    place,
                    node: convert(node)?,
                });
            }
            Content::Object(members)
        }
        YamlData::Tagged(..) | YamlData::Alias(_) | YamlData::BadValue | YamlData::Representation(..) => {
            return Err(SyntaxError {
                place,
                text: "tags are not supported here".to_owned(),
            });
        }
    };
    Ok(Node { place, content })
}

fn name(key: &MarkedYaml<'_>) -> Result<(String, Place), SyntaxError> {
    let place = place(&key.span.start);
    match &key.data {
        YamlData::Value(Scalar::String(text)) => Ok((text.to_string(), place)),
        YamlData::Value(Scalar::Integer(number)) => Ok((number.to_string(), place)),
        _ => Err(SyntaxError {
            place,
            text: "a key has to be text".to_owned(),
        }),
    }
}

fn value(scalar: &Scalar<'_>, place: Place) -> Result<Value, SyntaxError> {
    Ok(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(flag) => Value::Bool(*flag),
        Scalar::Integer(number) => Value::from(*number),
        Scalar::FloatingPoint(number) => Value::Number(Number::from_f64(number.0).ok_or_else(|| SyntaxError {
            place,
            text: "infinite and undefined numbers are not supported".to_owned(),
        })?),
        Scalar::String(text) => Value::from(text.as_ref()),
    })
}
