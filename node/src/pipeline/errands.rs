//! What a node does by itself and not because somebody calls: polls and the like, handed to whichever instance is free.
//!
//! Jobs and the management API live on a runtime of their own and must not carry messages there. They hand an errand in
//! and wait for its outcome; an instance takes it, as it takes a connection. An errand whose instance dies is gone.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Pipeline;

/// Errands that may wait for an instance.
const WAITING: usize = 64;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Errand = Box<dyn FnOnce(Arc<Pipeline>) -> Work + Send>;

/// Where errands are handed in.
#[derive(Clone, Debug)]
pub struct Errands(mpsc::Sender<Errand>);

/// Where instances take them from.
#[derive(Clone)]
pub struct ErrandQueue(Arc<Mutex<mpsc::Receiver<Errand>>>);

impl std::fmt::Debug for ErrandQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ErrandQueue")
    }
}

impl Errands {
    /// Both ends.
    pub fn new() -> (Self, ErrandQueue) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), ErrandQueue(Arc::new(Mutex::new(receiver))))
    }

    /// Has `errand` done by an instance; `None` if the node stops, or the instance dies, before it is done.
    pub async fn run<T, F, W>(&self, errand: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Pipeline>) -> W + Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let work: Errand = Box::new(move |pipeline| {
            Box::pin(async move {
                // Whoever asked may have gone; the errand is done all the same.
                let _ = done.send(errand(pipeline).await);
            })
        });
        self.0.send(work).await.ok()?;
        outcome.await.ok()
    }
}

impl Pipeline {
    /// Does errands until `stop`.
    pub async fn do_errands(self: Arc<Self>, queue: ErrandQueue, stop: CancellationToken) {
        loop {
            let errand = async { queue.0.lock().await.recv().await };
            let errand = tokio::select! {
                () = stop.cancelled() => return,
                errand = errand => errand,
            };
            let Some(errand) = errand else { return };
            self.tracker.spawn(errand(Arc::clone(&self)));
        }
    }
}
