//! Parts that a test needs from outside, and what happens without them.

use std::path::{Path, PathBuf};

/// Says that a test is skipped because of what is missing; a failure where all parts are required, as in `./check`.
#[expect(
    clippy::print_stdout,
    reason = "whoever runs the tests should see what was not tested"
)]
pub(crate) fn skip(missing: &str) {
    let required = std::env::var("OPENHIM_TEST_PARTS").is_ok_and(|value| value == "required");
    assert!(!required, "this test needs {missing}");
    println!("skipped: no {missing}");
}

/// The folder with a Kafka broker's jars: `OPENHIM_TEST_KAFKA`, else what `tests/parts/install` brought.
pub(crate) fn kafka() -> Option<PathBuf> {
    let named = std::env::var_os("OPENHIM_TEST_KAFKA").map(PathBuf::from);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.parts/kafka");
    let found = named.into_iter().chain([kept]).find(|folder| folder.is_dir());
    if found.is_none() {
        skip("Kafka broker (set OPENHIM_TEST_KAFKA, or run tests/parts/install)");
    }
    found
}

/// MongoDB's server: `OPENHIM_TEST_MONGOD`, else what `tests/parts/install` brought.
pub(crate) fn mongod() -> Option<PathBuf> {
    let named = std::env::var_os("OPENHIM_TEST_MONGOD").map(PathBuf::from);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.parts/mongod");
    let found = named.into_iter().chain([kept]).find(|program| program.is_file());
    if found.is_none() {
        skip("mongod (set OPENHIM_TEST_MONGOD, or run tests/parts/install)");
    }
    found
}
