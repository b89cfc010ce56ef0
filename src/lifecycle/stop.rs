//! The stop signal: set once, seen by any number of threads, selectable.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use parking_lot::Mutex;

/// A signal that goes from "running" to "stopped" once and stays there.
///
/// Clones share the signal. It is a channel that nothing is ever sent on: to
/// stop is to drop its sender, so waiting, polling and `select!` all work on
/// the same thing.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    sender: Arc<Mutex<Option<Sender<Infallible>>>>,
    stopped: Receiver<Infallible>,
}

impl Stop {
    pub(crate) fn new() -> Self {
        let (sender, stopped) = crossbeam_channel::bounded(0);
        Self {
            sender: Arc::new(Mutex::new(Some(sender))),
            stopped,
        }
    }

    /// A signal that is stopped already.
    pub(crate) fn stopped() -> Self {
        let stop = Self::new();
        stop.stop();
        stop
    }

    /// Stops; true for the call that did it.
    pub(crate) fn stop(&self) -> bool {
        self.sender.lock().take().is_some()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits up to `limit`; true if stopped.
    pub(crate) fn wait_timeout(&self, limit: Duration) -> bool {
        self.stopped.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits until `deadline`; true if stopped.
    pub(crate) fn wait_until(&self, deadline: Instant) -> bool {
        self.stopped.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits for as long as it takes.
    pub(crate) fn wait(&self) {
        let Err(_) = self.stopped.recv();
    }

    /// The channel end for `select!`: it becomes ready (disconnected) at the stop.
    pub(crate) fn channel(&self) -> &Receiver<Infallible> {
        &self.stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_counts_and_all_clones_see_it() {
        let stop = Stop::new();
        let clone = stop.clone();
        assert!(!clone.is_stopped());
        assert!(!clone.wait_timeout(Duration::from_millis(1)));
        assert!(stop.stop());
        assert!(!stop.stop());
        assert!(clone.is_stopped());
        assert!(clone.wait_timeout(Duration::from_secs(60)));
        assert!(clone.wait_until(Instant::now() + Duration::from_secs(60)));
        clone.wait();
    }
}
