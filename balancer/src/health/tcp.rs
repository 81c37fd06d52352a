//! Does it accept a connection?

use std::net::SocketAddr;
use std::time::Duration;

use crate::health::Failure;
use crate::relay::Peer;
use crate::socket::{self, FirstBytes, Source, reset_on_close};
use crate::tls::client::Secured;

/// Connects and leaves at once. The reset spares the backend a closing handshake, and this machine a port in TIME_WAIT.
/// Where backends speak TLS, a handshake is part of the question.
pub(super) async fn probe(address: SocketAddr, tls: Option<&Secured>, limit: Duration) -> Result<(), Failure> {
    let stream = connect(address).await?;
    let Some(tls) = tls else {
        reset_on_close(&stream);
        return Ok(());
    };
    let failed = |error: std::io::Error| Failure::answered(format!("TLS with {address} failed: {error}"));
    let stream = tls.begin(address, stream, limit).await.map_err(failed)?;
    stream.socket().into_iter().for_each(reset_on_close);
    Ok(())
}

/// Connects, for any check.
pub(super) async fn connect(address: SocketAddr) -> Result<tokio::net::TcpStream, Failure> {
    socket::connect(address, Source::Any, FirstBytes::NotYet)
        .await
        .map_err(|error| Failure::unreachable(format!("could not connect to {address}: {error}")))
}
