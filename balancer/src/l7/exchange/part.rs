//! The end of a client's connection.

use std::io;
use std::time::Duration;

use crate::l7::transport::Wire;
use crate::relay::Peer;

/// Ends a connection so that what was written arrives: says so, and reads what still comes for a moment.
pub(in crate::l7) async fn part<C: Peer>(wire: &mut Wire<C>) {
    /// The longest that a client which goes on sending is listened to, in time and bytes.
    const PATIENCE: (Duration, usize) = (Duration::from_secs(2), 8 << 20);
    let farewell = async {
        use tokio::io::AsyncWriteExt as _;
        wire.stream.shutdown().await?;
        let mut heard = 0;
        while heard < PATIENCE.1 {
            match std::future::poll_fn(|cx| wire.poll_fill(cx)).await? {
                0 => break,
                count => heard += count,
            }
            let held = wire.input.held().len();
            wire.input.consume(held);
        }
        Ok::<(), io::Error>(())
    };
    let _ = tokio::time::timeout(PATIENCE.0, farewell).await;
}
