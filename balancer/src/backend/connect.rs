//! One connect to one backend, and whose fault it is when it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::socket::{self, FirstBytes, Source};

/// Why a connect failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The backend, or the network on the way, said no.
    #[error("connect failed: {0}")]
    Refused(io::Error),
    /// Nobody answered in time.
    #[error("connect not answered within {0:?}")]
    Silent(Duration),
    /// It answered, and TLS with it did not come to pass.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// This machine could not even try: no port, no file, no memory, no right.
    #[error("could not connect from here: {0}")]
    Local(io::Error),
}

/// Connects within the time limit.
///
/// # Errors
/// As above.
pub async fn connect(
    address: SocketAddr,
    source: Source,
    first: FirstBytes,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    match tokio::time::timeout(limit, socket::connect(address, source, first)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_local(&error) => Err(ConnectError::Local(error)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(ConnectError::Silent(limit)),
        Ok(Err(error)) => Err(ConnectError::Refused(error)),
        Err(_) => Err(ConnectError::Silent(limit)),
    }
}

fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EAGAIN
                | libc::EPERM
                | libc::EACCES
        )
    )
}

/// Tells the control task of a connect that failed by a backend's fault.
#[derive(Debug)]
pub struct Report {
    /// Name of the service.
    pub service: Arc<str>,
    /// The backend.
    pub address: SocketAddr,
    /// What the log and the status page say about it.
    pub reason: String,
}

/// Where reports go. One that finds the line full is dropped: there are enough of them then.
pub type Reports = mpsc::Sender<Report>;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connect_is_the_backends_fault() {
        let address = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("bound")
        };

        let error = connect(address, Source::Any, FirstBytes::NotYet, Duration::from_secs(5))
            .await
            .expect_err("nobody listens");

        assert!(matches!(error, ConnectError::Refused(_)), "{error}");
    }

    #[tokio::test]
    async fn a_source_address_that_is_not_ours_is_our_fault() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let source = Source::Address(std::net::IpAddr::from([192, 0, 2, 1]));

        let error = connect(address, source, FirstBytes::NotYet, Duration::from_secs(5))
            .await
            .expect_err("not ours");

        assert!(matches!(error, ConnectError::Local(_)), "{error}");
    }
}
