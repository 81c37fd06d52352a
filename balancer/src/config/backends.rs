//! The backends file: one `host:port [weight=N] [backup] [maxconn=N] [client-ip=WORD]` a line, `#` comments.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::check::CLIENT_IP;
use super::{Place, Problem, Problems, values};
use crate::plan::{Backend, WEIGHT_MAX};

/// Reads the text of a backends file. `path` is what problems name.
///
/// # Errors
/// Every line that is not a backend, and a file without any: an empty list is more likely a file being written than a
/// wish to serve nobody.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Backend>, Problems> {
    let file: Arc<Path> = path.into();
    let mut problems = Vec::new();
    let mut backends: Vec<Backend> = Vec::new();
    let mut seen = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let content = line.split_once('#').map_or(line, |(before, _)| before);
        if content.trim().is_empty() {
            continue;
        }
        let read = backend(content).and_then(|it| {
            if seen.insert(it.endpoint.clone()) {
                Ok(it)
            } else {
                Err((0, format!("backend `{}` is there twice", it.endpoint)))
            }
        });
        match read {
            Ok(it) => backends.push(it),
            Err((offset, text)) => {
                let column = line[..offset].chars().count() + 1;
                let place = Place::File {
                    file: Arc::clone(&file),
                    line: index + 1,
                    column,
                };
                problems.push(Problem {
                    place,
                    path: String::new(),
                    text,
                });
            }
        }
    }
    if problems.is_empty() && backends.is_empty() {
        let place = Place::File {
            file,
            line: 0,
            column: 0,
        };
        problems.push(Problem {
            place,
            path: String::new(),
            text: "has no backend in it".into(),
        });
    }
    if problems.is_empty() {
        Ok(backends)
    } else {
        Err(Problems(problems))
    }
}

/// The line, counted from 1, that names this backend.
#[must_use]
pub fn line_of(text: &str, endpoint: &crate::plan::Endpoint) -> Option<usize> {
    let is_meant = |line: &str| {
        let content = line.split_once('#').map_or(line, |(before, _)| before);
        backend(content).is_ok_and(|it| it.endpoint == *endpoint)
    };
    text.lines().position(is_meant).map(|index| index + 1)
}

/// One line; an error comes with the byte offset of the word it is about.
fn backend(line: &str) -> Result<Backend, (usize, String)> {
    let mut words = words(line);
    let (offset, first) = words.next().unwrap_or((0, ""));
    let mut backend = values::backend(first).map_err(|text| (offset, text))?;
    for (offset, word) in words {
        let at = |text: String| (offset, text);
        match word.split_once('=') {
            Some(("weight", value)) => backend.weight = values::number(value, 0..=WEIGHT_MAX).map_err(at)?,
            Some(("maxconn", value)) => backend.maxconn = Some(values::number(value, 1..=u32::MAX).map_err(at)?),
            Some(("client-ip" | "client_ip", value)) => {
                backend.client_ip = Some(values::word(value, &CLIENT_IP).map_err(at)?);
            }
            None if word == "backup" => backend.backup = true,
            _ => {
                return Err(at(format!(
                    "`{word}` is not known; write weight=N, backup, maxconn=N or client-ip=WORD"
                )));
            }
        }
    }
    Ok(backend)
}

/// The words of a line with their byte offsets.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_whitespace()
        .map(move |word| (word.as_ptr() as usize - line.as_ptr() as usize, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_backends_with_their_options() {
        let text = "# the nodes\n10.0.0.2:5000\n\n10.0.0.3:5000 weight=2 maxconn=10 # big\r\n  node4:5000\tbackup client-ip=proxy-v2\n";

        let list = parse(text, Path::new("nodes.txt")).expect("valid");

        let shown: Vec<_> = list
            .iter()
            .map(|it| (it.endpoint.to_string(), it.weight, it.backup, it.maxconn))
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.2:5000".to_owned(), 1, false, None),
                ("10.0.0.3:5000".to_owned(), 2, false, Some(10)),
                ("node4:5000".to_owned(), 1, true, None)
            ]
        );
    }

    #[test]
    fn every_bad_line_is_reported_with_its_place() {
        let text = "10.0.0.2:5000\n10.0.0.3\n10.0.0.4:5000  wieght=2\n10.0.0.2:5000\n";

        let problems = parse(text, Path::new("nodes.txt"))
            .expect_err("three bad lines")
            .to_string();

        let lines: Vec<_> = problems.lines().collect();
        assert_eq!(lines.len(), 3, "{problems}");
        assert!(
            lines[0].starts_with("nodes.txt:2:1: backend `10.0.0.3` has no port"),
            "{problems}"
        );
        assert!(
            lines[1].starts_with("nodes.txt:3:16: `wieght=2` is not known"),
            "{problems}"
        );
        assert!(
            lines[2].starts_with("nodes.txt:4:1: backend `10.0.0.2:5000` is there twice"),
            "{problems}"
        );
    }

    #[test]
    fn a_file_without_backends_is_a_mistake() {
        assert_eq!(
            parse("# later\n\n", Path::new("n")).expect_err("empty").to_string(),
            "n: has no backend in it"
        );
    }
}
