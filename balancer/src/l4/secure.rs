//! TLS around a layer-4 connection: ended for the client, looked at on its way through, begun to the backend.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Door;
use super::choose::Chosen;
use crate::backend::connect::ConnectError;
use crate::log::{By, End as Ending};
use crate::service::ServiceState;
use crate::snapshot::Snapshot;
use crate::socket::reset_on_close;
use crate::tls::ahead::Ahead;
use crate::tls::hello::{self, Hello};
use crate::tls::{Connector, End, Facts, Terminator, facts};

/// A client whose TLS was dealt with.
pub(super) struct Met {
    pub(super) client: End,
    /// What TLS told, if it was ended here.
    pub(super) facts: Option<Facts>,
    /// What was read while looking.
    pub(super) early: Vec<u8>,
    /// Where it goes, if not to the service's own backends.
    pub(super) door: Option<Arc<Door>>,
}

/// Ends a client's TLS, or looks for the name in it, as the service says.
///
/// # Errors
/// The client did not get through; it is closed already.
pub(super) async fn meet(door: &Door, snapshot: &Snapshot, mut client: TcpStream) -> Result<Met, Ending> {
    let policy = &snapshot.service;
    let limit = policy.timeouts.handshake;
    let (mut early, mut facts, mut name) = (Vec::new(), None, None);
    let client = if let Some(terminator) = &snapshot.tls.server {
        let accepted = accept(&door.service, terminator, client, limit).await;
        let (stream, told) = accepted.ok_or(refused("bad-tls-handshake"))?;
        name = told.server_name.as_ref().map(|name| name.to_ascii_lowercase());
        facts = Some(told);
        End::Tls(Box::new(stream.into()))
    } else {
        if !policy.sni.is_empty() {
            match tokio::time::timeout(limit, look(&mut client, &mut early)).await {
                Ok(Some(found)) => name = found,
                Ok(None) | Err(_) => {
                    door.service.counters.tls_failed.add(1);
                    reset_on_close(&client);
                    return Err(refused("bad-client-hello"));
                }
            }
        }
        End::Plain(client)
    };
    let way = name.and_then(|name| policy.sni.iter().find(|way| way.is_for(&name)));
    Ok(Met {
        client,
        facts,
        early,
        door: way.and_then(|way| door.group(&way.group)),
    })
}

fn refused(word: &'static str) -> Ending {
    Ending {
        by: By::Client,
        word,
        code: "PR",
    }
}

/// Does the handshake with a client and keeps the books of it. `None` if it did not come to pass.
pub(crate) async fn accept(
    service: &ServiceState,
    terminator: &Terminator,
    client: TcpStream,
    limit: Duration,
) -> Option<(tokio_rustls::server::TlsStream<Ahead>, Facts)> {
    match terminator.accept(client, limit).await {
        Ok(stream) => {
            let connection = stream.get_ref().1;
            service.counters.tls_handshakes.add(1);
            service
                .counters
                .tls_resumed
                .add(u64::from(facts::is_resumed(connection)));
            let facts = Facts::of(connection);
            Some((stream, facts))
        }
        Err(error) => {
            service.counters.tls_failed.add(1);
            tracing::debug!(service = %service.name, %error, "A client's TLS handshake failed");
            None
        }
    }
}

/// Reads until the name is known, and keeps what was read. What is not TLS, or ends before, has no name; `None` is what is
/// not to be passed on.
async fn look(client: &mut TcpStream, early: &mut Vec<u8>) -> Option<Option<String>> {
    loop {
        if early.capacity() == early.len() {
            early.reserve_exact(2048.min(hello::LONGEST.saturating_sub(early.len())).max(1));
        }
        match client.read_buf(early).await {
            Ok(0) => return Some(None),
            Ok(_) => {}
            Err(_) => return None,
        }
        match hello::look(early) {
            Hello::Name(name) => return Some(name),
            Hello::Other => return Some(None),
            Hello::Malformed => return None,
            Hello::Incomplete => {}
        }
    }
}

/// Does the handshake with a backend that was connected. `header` goes before it.
pub(crate) async fn begin(
    connector: &Connector,
    chosen: &Chosen,
    mut stream: TcpStream,
    header: &[u8],
    limit: Duration,
) -> Result<TlsStream<Ahead>, ConnectError> {
    let address = chosen.pick.state().address;
    let handshake = async {
        stream.write_all(header).await?;
        connector.connect(address, chosen.host.as_deref(), stream, limit).await
    };
    handshake.await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ConnectError::Silent(limit),
        _ => ConnectError::Tls(error),
    })
}
