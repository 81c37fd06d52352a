//! Who may import whom: reads the sources of both crates and fails on a forbidden `crate::x`, naming file and arrow.
//!
//! The rows stand in the order of the flow. A module may name what is in a later row; inside a row it depends on the
//! row. Test code (`tests.rs`, the files below it, what follows `#[cfg(test)]`, the `testing` module) may name anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of one height.
enum Row {
    /// They never name each other.
    Siblings(&'static [&'static str]),
    /// Each may name those to its right.
    LeftToRight(&'static [&'static str]),
}

use Row::{LeftToRight, Siblings};

const NODE: &[Row] = &[
    Siblings(&["app"]),
    Siblings(&["listen", "api", "jobs", "console"]),
    LeftToRight(&[
        "pipeline",
        "route",
        "record",
        "events",
        "metrics",
        "metadata",
        "mediators",
        "users",
        "audit",
        "notify",
        "logs",
        "cluster",
        "tables",
        "keystore",
        "moving",
        "upgrade",
    ]),
    Siblings(&["store"]),
    LeftToRight(&["model", "wire", "crypto", "pattern", "clock"]),
    Siblings(&["config"]),
];

const BALANCER: &[Row] = &[
    LeftToRight(&["control", "listen", "health"]),
    LeftToRight(&["l7", "l4"]),
    Siblings(&["service"]),
    Siblings(&["snapshot"]),
    Siblings(&["config"]),
    LeftToRight(&[
        "ipvsadm",
        "schedule",
        "tls",
        "relay",
        "proxy_protocol",
        "log",
        "metrics",
        "backend",
        "socket",
    ]),
    Siblings(&["plan"]),
];

/// Paths of the node that only its composition root may name, besides the module they are in.
const FOR_APP_ALONE: [&str; 3] = ["store::sqlite", "store::mongo", "config::Config"];

impl Row {
    fn modules(&self) -> &'static [&'static str] {
        match self {
            Siblings(modules) | LeftToRight(modules) => modules,
        }
    }
}

/// Where a module stands: its row and its place in it.
fn position(rows: &[Row], module: &str) -> Option<(usize, usize)> {
    rows.iter().enumerate().find_map(|(row, modules)| {
        let column = modules.modules().iter().position(|name| *name == module)?;
        Some((row, column))
    })
}

fn is_allowed(rows: &[Row], from: &str, to: &str) -> Result<bool, String> {
    let unknown = |module: &str| format!("module `{module}` has no place in the rows of layers.rs");
    let (from_row, from_column) = position(rows, from).ok_or_else(|| unknown(from))?;
    let (to_row, to_column) = position(rows, to).ok_or_else(|| unknown(to))?;
    Ok(match from_row.cmp(&to_row) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => from_column < to_column && matches!(rows[from_row], LeftToRight(_)),
    })
}

/// The paths below `crate::` that a source names, without comments and test code.
fn named_paths(source: &str, depth: usize) -> BTreeSet<String> {
    let code: Vec<&str> = source
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut code = code.join("\n");
    // In `a/b.rs` (depth 2), `super::super::x` is `crate::x`.
    code = code.replace(&"super::".repeat(depth), "crate::");
    code.match_indices("crate::")
        .flat_map(|(start, root)| expand(&code[start + root.len()..]))
        .collect()
}

/// The first two names of each path of a use tree: `a::{b, c::d}` is `a::b` and `a::c`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim_start();
    if let Some(group) = tree.strip_prefix('{') {
        return members(group).iter().flat_map(|member| expand(member)).collect();
    }
    let first = name(tree);
    match tree[first.len()..].strip_prefix("::") {
        Some(rest) if rest.starts_with('{') => members(&rest[1..])
            .iter()
            .map(|member| format!("{first}::{}", name(member.trim_start())))
            .collect(),
        Some(rest) => vec![format!("{first}::{}", name(rest))],
        None => vec![first.to_owned()],
    }
}

fn name(text: &str) -> &str {
    let end = text
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The members of a group whose opening brace was passed, split at its own commas.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.into_iter().filter(|member| !member.trim().is_empty()).collect()
}

/// What is wrong with one source file, whose path is relative to `src/`.
fn violations(rows: &[Row], file: &Path, source: &str) -> Vec<String> {
    let names: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let from = names[0].as_str();
    if from == "lib" || from == "testing" || names.iter().any(|name| name == "tests") {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for path in named_paths(source, names.len()) {
        let to = name(&path);
        let is_item = to.starts_with(char::is_uppercase) || to.is_empty();
        if to == from || is_item {
            continue;
        }
        match is_allowed(rows, from, to) {
            Ok(true) if FOR_APP_ALONE.contains(&path.as_str()) && position(rows, "app").is_some() && from != "app" => {
                wrong.push(format!("{}: {from} ✗→ {path}, which only app may name", file.display()));
            }
            Ok(true) => {}
            Ok(false) => wrong.push(format!("{}: {from} ✗→ {to}", file.display())),
            Err(unknown) => wrong.push(format!("{}: {unknown}", file.display())),
        }
    }
    wrong
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn crate_violations(name: &str, other: &str, rows: &[Row]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("src");
    let mut wrong = Vec::new();
    for path in sources(&root) {
        let source = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(&root).unwrap();
        if source.contains(&format!("openhim_{other}::")) {
            wrong.push(format!("{}: {name} ✗→ {other}", file.display()));
        }
        wrong.extend(
            violations(rows, file, &source)
                .into_iter()
                .map(|line| format!("{name}/src/{line}")),
        );
    }
    wrong
}

#[test]
fn modules_of_the_node_import_along_the_arrows_only() {
    assert_eq!(crate_violations("node", "balancer", NODE).join("\n"), "");
}

#[test]
fn modules_of_the_balancer_import_along_the_arrows_only() {
    assert_eq!(crate_violations("balancer", "node", BALANCER).join("\n"), "");
}

#[test]
fn a_forbidden_import_is_reported_with_file_and_arrow() {
    let wrong = |file: &str, source: &str| violations(NODE, Path::new(file), source).join("; ");

    assert_eq!(
        wrong("store/sqlite.rs", "use crate::{clock::Clock, api::Api};"),
        "store/sqlite.rs: store ✗→ api"
    );
    assert_eq!(
        wrong("api/users.rs", "fn f() { crate::jobs::start() }"),
        "api/users.rs: api ✗→ jobs"
    );
    assert_eq!(
        wrong("route/http.rs", "use super::super::pipeline;"),
        "route/http.rs: route ✗→ pipeline"
    );
    assert_eq!(
        wrong("record.rs", "use crate::store::{self, sqlite::Sqlite};"),
        "record.rs: record ✗→ store::sqlite, which only app may name"
    );
    assert_eq!(
        wrong("listen/http.rs", "use crate::config::{Config, Router};"),
        "listen/http.rs: listen ✗→ config::Config, which only app may name"
    );
    assert!(wrong("helpers.rs", "use crate::model;").contains("has no place"));
}

#[test]
fn allowed_imports_comments_and_test_code_are_let_be() {
    let wrong = |file: &str, source: &str| violations(NODE, Path::new(file), source).join("; ");

    assert_eq!(
        wrong(
            "app.rs",
            "use crate::{api, jobs, store::{mongo, sqlite}, config::Config};"
        ),
        ""
    );
    assert_eq!(
        wrong(
            "pipeline.rs",
            "use crate::{route::{self, http}, tables::Tables};\nuse super::record;"
        ),
        ""
    );
    assert_eq!(
        wrong(
            "store.rs",
            "//! See [`crate::app`].\n#[cfg(test)]\nmod tests { use crate::api; }"
        ),
        ""
    );
    assert_eq!(wrong("store/query/tests.rs", "use crate::api;"), "");
    assert_eq!(wrong("store/query/tests/more.rs", "use crate::api;"), "");
    assert_eq!(wrong("route/http.rs", "use super::response;\nuse crate::Instance;"), "");
}
