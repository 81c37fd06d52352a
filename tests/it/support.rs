//! Builders for what a test needs around the program: every wait has a deadline, every process ends with the test.

pub(crate) mod backend;
pub(crate) mod kafka;
pub(crate) mod netns;
pub(crate) mod node;
pub(crate) mod parts;
pub(crate) mod plain_http;
pub(crate) mod program;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
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

/// A port that nothing listens on, handed out once.
///
/// Taken from below the kernel's own range, so that no outgoing connection takes it before the program does.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % u32::from(COUNT);
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from((start + step) % u32::from(COUNT)).expect("within the range");
        let address = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
