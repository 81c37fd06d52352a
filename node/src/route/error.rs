//! Why a route did not answer, in the words that OpenHIM's users know.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::transaction::ErrorPart;

/// A route that failed. Its text is what is stored as the transaction's or the route's `error.message`.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Node.js' words: operators and mediators search for them.
    #[error("connect {} {address}", code(.source))]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("getaddrinfo {code} {host}")]
    Resolve { code: &'static str, host: Box<str> },
    #[error("{0}")]
    Tls(String),
    #[error("Request took longer than {}ms", .0.as_millis())]
    Silent(Duration),
    /// The backend closed the connection before it answered.
    #[error("socket hang up")]
    HangUp,
    #[error("{} {}", .operation, code(.source))]
    Io {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    /// The backend closed the connection in the middle of its answer.
    #[error("aborted")]
    Aborted,
    #[error("Parse Error: {0}")]
    Garbled(String),
    #[error("{0}")]
    Mediator(String),
    #[error("{0}")]
    Kafka(String),
    /// The client did not send what it had announced.
    #[error("request aborted")]
    Request,
    #[error("{0}")]
    TooLarge(&'static str),
    /// The route cannot work as it is configured.
    #[error("{0}")]
    Misconfigured(String),
}

impl RouteError {
    /// The stored form; OpenHIM's consoles show `stack`.
    pub fn part(&self, route: &str) -> ErrorPart {
        ErrorPart {
            message: self.to_string(),
            stack: format!("Error: {self}\n    at route {route}"),
        }
    }

    /// What an exchange over a connection ended with.
    pub(super) fn of_exchange(error: &hyper::Error) -> Self {
        if error.is_parse() || error.is_parse_too_large() {
            return Self::Garbled(error.to_string());
        }
        match io_cause(error) {
            Some(source) if is_code(&source, io::ErrorKind::UnexpectedEof) => Self::HangUp,
            Some(source) if is_code(&source, io::ErrorKind::BrokenPipe) => Self::Io {
                operation: "write",
                source,
            },
            Some(source) => Self::Io {
                operation: "read",
                source,
            },
            None if error.is_user() => Self::Request,
            None => Self::HangUp,
        }
    }
}

fn is_code(error: &io::Error, kind: io::ErrorKind) -> bool {
    error.kind() == kind
}

fn io_cause(error: &hyper::Error) -> Option<io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            });
        }
        cause = error.source();
    }
    None
}

/// The name that POSIX and Node.js have for an error.
fn code(error: &io::Error) -> &'static str {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "ECONNREFUSED",
        ErrorKind::ConnectionReset => "ECONNRESET",
        ErrorKind::ConnectionAborted => "ECONNABORTED",
        ErrorKind::BrokenPipe => "EPIPE",
        ErrorKind::TimedOut => "ETIMEDOUT",
        ErrorKind::HostUnreachable => "EHOSTUNREACH",
        ErrorKind::NetworkUnreachable => "ENETUNREACH",
        ErrorKind::NetworkDown => "ENETDOWN",
        ErrorKind::AddrNotAvailable => "EADDRNOTAVAIL",
        ErrorKind::AddrInUse => "EADDRINUSE",
        ErrorKind::PermissionDenied => "EACCES",
        ErrorKind::UnexpectedEof => "ECONNRESET",
        _ if error.raw_os_error() == Some(libc::EMFILE) => "EMFILE",
        _ => "EIO",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_operators_know_them() {
        let refused = RouteError::Connect {
            address: "127.0.0.1:9".parse().unwrap(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };

        assert_eq!(refused.to_string(), "connect ECONNREFUSED 127.0.0.1:9");
        assert_eq!(
            RouteError::Silent(Duration::from_millis(20)).to_string(),
            "Request took longer than 20ms"
        );
        assert!(!refused.part("r").stack.is_empty());
    }
}
