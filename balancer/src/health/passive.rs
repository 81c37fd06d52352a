//! Who is out because connects to it failed: a pure machine.
//!
//! One failed connect is enough to stop sending clients there, because a client that runs into a dead backend pays with
//! time. Coming back costs no client anything: after a pause the control task itself connects to the traffic's port, and
//! only if that works the backend gets clients again. The pause doubles with each vain attempt.

use std::time::{Duration, Instant};

/// First and longest pause before a backend that was put out is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A backend that was well for this long is treated as if it had never been out.
const FORGET: Duration = Duration::from_secs(60);

/// The passive side of one backend.
#[derive(Clone, Debug, Default)]
pub struct Ejection {
    out: Option<Out>,
    /// Pause of the last time, and when that ended.
    last: Option<(Duration, Instant)>,
}

#[derive(Clone, Debug)]
struct Out {
    since: Instant,
    reason: String,
    pause: Duration,
    try_at: Instant,
}

impl Ejection {
    /// Why it is out, if it is.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.out.as_ref().map(|out| out.reason.as_str())
    }

    /// When to try it again; `None` if it is not out.
    #[must_use]
    pub fn try_at(&self) -> Option<Instant> {
        self.out.as_ref().map(|out| out.try_at)
    }

    /// When it was put out; `None` if it is not out.
    #[must_use]
    pub fn ejected_at(&self) -> Option<Instant> {
        self.out.as_ref().map(|out| out.since)
    }

    /// Puts it out. A failure of a connect that began before does not count again.
    pub fn eject(&mut self, now: Instant, reason: String) {
        if self.out.is_some() {
            return;
        }
        let pause = match self.last {
            Some((pause, until)) if now < until + FORGET => (pause * 2).min(PAUSE.1),
            _ => PAUSE.0,
        };
        self.out = Some(Out {
            since: now,
            reason,
            pause,
            try_at: now + pause,
        });
    }

    /// Takes note of a vain attempt to reach it.
    pub fn still_out(&mut self, now: Instant, reason: String) {
        if let Some(out) = &mut self.out {
            out.pause = (out.pause * 2).min(PAUSE.1);
            (out.reason, out.try_at) = (reason, now + out.pause);
        }
    }

    /// Lets it in again: it was reached.
    pub fn readmit(&mut self, now: Instant) {
        if let Some(out) = self.out.take() {
            self.last = Some((out.pause, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_ceiling_and_is_forgotten_after_a_good_minute() {
        let start = Instant::now();
        let mut ejection = Ejection::default();
        let pause = |ejection: &Ejection, now| ejection.try_at().expect("out") - now;

        ejection.eject(start, "refused".into());
        assert_eq!(pause(&ejection, start), Duration::from_secs(1));
        ejection.still_out(start, "refused".into());
        assert_eq!(pause(&ejection, start), Duration::from_secs(2));
        for _ in 0..10 {
            ejection.still_out(start, "refused".into());
        }
        assert_eq!(pause(&ejection, start), Duration::from_secs(30));

        ejection.readmit(start);
        assert_eq!(ejection.reason(), None);
        ejection.eject(start + Duration::from_secs(61), "refused".into());
        assert_eq!(
            pause(&ejection, start + Duration::from_secs(61)),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn one_that_fails_again_at_once_waits_longer() {
        let start = Instant::now();
        let mut ejection = Ejection::default();

        for seconds in [1, 2, 4] {
            ejection.eject(start, "refused".into());
            assert_eq!(ejection.try_at(), Some(start + Duration::from_secs(seconds)));
            ejection.readmit(start);
        }
    }

    #[test]
    fn many_failures_at_once_are_one_ejection() {
        let start = Instant::now();
        let mut ejection = Ejection::default();

        for ms in 0..50 {
            ejection.eject(start + Duration::from_millis(ms), "refused".into());
        }

        assert_eq!(ejection.try_at(), Some(start + Duration::from_secs(1)));
    }
}
