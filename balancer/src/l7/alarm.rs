//! One timer for a whole connection, moved only when it goes off: most deadlines are never met.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `deadline` has passed. It may be another one with each call; the task is woken in time for the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = match &mut self.0 {
            // Early is good enough: then it is looked at again. It knows the task from when it was set.
            Some(timer) if timer.deadline() <= deadline.into() => match timer.is_elapsed() {
                true => timer,
                false => return Poll::Pending,
            },
            other => other.insert(Box::pin(sleep_until(deadline.into()))),
        };
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                self.0 = None;
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}
