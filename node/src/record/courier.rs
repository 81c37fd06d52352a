//! One instance's way to the writer.
//!
//! To wake another thread costs more than to make a report. So what the messages of an instance report in one turn of
//! its loop travels together, and so do the outcomes on their way back. It stands between [`Ticket`](super::Ticket) and
//! [`Writer`](super::Writer); it never looks into a report, changes their order or keeps one back.

use tokio::sync::{mpsc, oneshot};

use super::writer::{Entry, Outcome, Parcel};

/// An outcome and who waits for it.
pub(super) type Told = (oneshot::Sender<Outcome>, Outcome);

/// Where outcomes are told that an instance's messages wait for.
pub(super) type Home = mpsc::UnboundedSender<Vec<Told>>;

/// Reports in one parcel, at most.
const PARCEL: usize = 256;

/// The task that carries. It ends when the instance's [`Recorder`](super::Recorder)s are gone.
#[derive(Debug)]
pub struct Courier {
    reports: mpsc::UnboundedReceiver<Entry>,
    outcomes: mpsc::UnboundedReceiver<Vec<Told>>,
    home: Home,
    writer: mpsc::UnboundedSender<Parcel>,
}

impl Courier {
    /// A courier to `writer`, and where reports are given to it.
    pub(super) fn new(writer: mpsc::UnboundedSender<Parcel>) -> (mpsc::UnboundedSender<Entry>, Self) {
        let (sender, reports) = mpsc::unbounded_channel();
        let (home, outcomes) = mpsc::unbounded_channel();
        let courier = Self {
            reports,
            outcomes,
            home,
            writer,
        };
        (sender, courier)
    }

    /// Carries until nobody is left who could report.
    pub async fn run(mut self) {
        let mut parcel = Vec::new();
        loop {
            tokio::select! {
                count = self.reports.recv_many(&mut parcel, PARCEL) => match count {
                    0 => return,
                    _ => self.hand_over(std::mem::take(&mut parcel)),
                },
                Some(told) = self.outcomes.recv() => {
                    for (waiter, outcome) in told {
                        // Whoever waited may have given up; what it reported is stored all the same.
                        let _ = waiter.send(outcome);
                    }
                }
            }
        }
    }

    fn hand_over(&self, entries: Vec<Entry>) {
        let parcel = Parcel {
            entries,
            home: Some(self.home.clone()),
        };
        if self.writer.send(parcel).is_err() {
            tracing::error!("Transactions could not be recorded: the writer has stopped");
        }
    }
}

impl Drop for Courier {
    /// An instance that ends, however it ends, leaves nothing behind.
    fn drop(&mut self) {
        self.reports.close();
        let mut rest = Vec::new();
        while let Ok(entry) = self.reports.try_recv() {
            rest.push(entry);
        }
        if !rest.is_empty() {
            self.hand_over(rest);
        }
    }
}
