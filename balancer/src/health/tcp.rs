//! Does it accept a connection?

use std::net::SocketAddr;

use crate::health::Failure;
use crate::socket::{self, FirstBytes, Source, reset_on_close};

/// Connects and leaves at once. The reset spares the backend a closing handshake, and this machine a port in TIME_WAIT.
pub(super) async fn probe(address: SocketAddr) -> Result<(), Failure> {
    let stream = connect(address).await?;
    reset_on_close(&stream);
    Ok(())
}

/// Connects, for any check.
pub(super) async fn connect(address: SocketAddr) -> Result<tokio::net::TcpStream, Failure> {
    socket::connect(address, Source::Any, FirstBytes::NotYet)
        .await
        .map_err(|error| Failure::unreachable(format!("could not connect to {address}: {error}")))
}
