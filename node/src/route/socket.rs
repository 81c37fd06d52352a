//! A connection to a backend that does not speak HTTP, and what both kinds of them have in common.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::error::RouteError;
use super::link::{Link, Wire};
use super::payload::OutBody;
use super::pool;
use crate::tables::Target;

/// The largest message and the largest answer, bytes.
pub(super) const LARGEST: usize = 64 << 20;

/// Both directions of a connection, with or without TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// An open connection.
pub(super) struct Socket {
    pub(super) stream: Box<dyn Duplex>,
    pub(super) link: Arc<Link>,
}

/// Opens a connection; `limit` is the time in which nothing may happen.
pub(super) async fn open(
    target: &Target,
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
) -> Result<Socket, RouteError> {
    within(limit, async {
        let stream = pool::reach(target).await?;
        let _ = stream.set_nodelay(true);
        let link = Link::new(stream);
        let wire = Wire(Arc::clone(&link));
        let stream: Box<dyn Duplex> = match tls {
            None => Box::new(wire),
            Some(config) => Box::new(pool::secure(target, config, wire).await?),
        };
        Ok(Socket { stream, link })
    })
    .await
}

/// Waits for `step`, but not for longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, RouteError>>,
) -> Result<T, RouteError> {
    tokio::time::timeout(limit, step)
        .await
        .unwrap_or(Err(RouteError::Silent(limit)))
}

/// Writes all of it; each step may take `limit`.
pub(super) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    limit: Duration,
) -> Result<(), RouteError> {
    while !bytes.is_empty() {
        let written = within(limit, async { writer.write(bytes).await.map_err(write_error) }).await?;
        bytes = &bytes[written..];
    }
    within(limit, async { writer.flush().await.map_err(write_error) }).await
}

pub(super) fn write_error(source: io::Error) -> RouteError {
    RouteError::Io {
        operation: "write",
        source,
    }
}

pub(super) fn read_error(source: io::Error) -> RouteError {
    RouteError::Io {
        operation: "read",
        source,
    }
}

/// The next piece of a message's body.
pub(super) async fn piece(body: &mut OutBody) -> Result<Option<Bytes>, RouteError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(RouteError::Request),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// The whole body of a message that has to be known whole before it is sent.
pub(super) async fn whole(mut body: OutBody) -> Result<Bytes, RouteError> {
    let mut all = BytesMut::new();
    while let Some(bytes) = piece(&mut body).await? {
        if all.len() + bytes.len() > LARGEST {
            return Err(RouteError::TooLarge("the request body is too large for this route"));
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}
