//! Builders for what a test needs around the program: every wait has a deadline, every process ends with the test.

pub(crate) mod program;

use std::time::{Duration, Instant};

/// Longest wait for something that should happen soon. Generous, since test machines are shared.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Asks again until `probe` has an answer.
///
/// # Panics
/// When [`SOON`] is over, with `what` was waited for.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
