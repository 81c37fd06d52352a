//! A route of type `tcp`: the message's body goes over a connection of its own, and what comes back is the answer.
//!
//! There is no framing. The end of our side says that the message is whole; the end of the other side, or its silence
//! after it has said something, that the answer is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::error::RouteError;
use super::payload::OutBody;
use super::socket::{self, LARGEST};
use crate::tables::Target;

const READ: usize = 16 << 10;

/// Sends a body and reads the answer.
///
/// # Errors
/// The backend cannot be reached, breaks off, or says nothing for `limit`.
pub(super) async fn exchange(
    target: &Target,
    tls: Option<Arc<ClientConfig>>,
    body: OutBody,
    limit: Duration,
) -> Result<Bytes, RouteError> {
    let socket = socket::open(target, tls, limit).await?;
    let (reader, mut writer) = tokio::io::split(socket.stream);
    let sending = async {
        let mut body = body;
        while let Some(bytes) = socket::piece(&mut body).await? {
            socket::write(&mut writer, &bytes, limit).await?;
        }
        socket::within(limit, async { writer.shutdown().await.map_err(socket::write_error) }).await
    };
    // At the same time: a backend may begin to answer before it has heard everything.
    let ((), answer) = tokio::try_join!(sending, read(reader, limit))?;
    Ok(answer)
}

async fn read(mut reader: impl AsyncRead + Unpin, limit: Duration) -> Result<Bytes, RouteError> {
    let mut answer = BytesMut::new();
    loop {
        answer.reserve(READ);
        match tokio::time::timeout(limit, reader.read_buf(&mut answer)).await {
            Err(_) if answer.is_empty() => return Err(RouteError::Silent(limit)),
            Err(_) | Ok(Ok(0)) => return Ok(answer.freeze()),
            // Old programs end TLS without saying so.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(answer.freeze()),
            Ok(Err(error)) => return Err(socket::read_error(error)),
            Ok(Ok(_)) if answer.len() > LARGEST => return Err(RouteError::TooLarge("the response is too large")),
            Ok(Ok(_)) => {}
        }
    }
}
