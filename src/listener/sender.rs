//! The two handles a listener gives out: one that posts, one that stops.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Door;
use super::error::PostError;
use super::message::Message;
use super::queue::{Queue, Wait};

/// Posts messages to a [`Listener`](super::Listener).
///
/// Cheap to clone, usable from any thread, and it may outlive the listener:
/// every post fails then. A message is accepted once a post returns `Ok`; it is
/// then handled, or counted as dropped if the listener is shut down too soon.
///
/// Inside a handler of the same listener no post waits, since the one who would
/// make room is the one who posts: the message goes to a list of its own, which
/// has room for as many messages as the queue and is handled next.
pub struct Sender<D = serde_json::Value> {
    queue: Arc<Queue<D>>,
}

impl<D> Sender<D> {
    pub(super) fn new(queue: Arc<Queue<D>>) -> Self {
        Self { queue }
    }

    /// Posts a message and waits for room if the queue is full.
    ///
    /// # Errors
    /// [`Reason::Closed`](super::Reason::Closed) if the listener has been
    /// stopped, also during the wait; inside a handler of the same listener
    /// [`Reason::Full`](super::Reason::Full) instead of a wait. The message
    /// comes back in the error.
    ///
    /// # Blocking
    /// While the queue is full. Room or a stop of the listener ends the wait.
    /// Handlers of two listeners that post to each other can wait for each
    /// other; there, use one of the other two.
    pub fn post(&self, message: Message<D>) -> Result<(), PostError<D>> {
        self.queue.post(message, Wait::Always)
    }

    /// Posts a message if there is room for it now.
    ///
    /// # Errors
    /// [`Reason::Full`](super::Reason::Full) or
    /// [`Reason::Closed`](super::Reason::Closed), with the message.
    pub fn try_post(&self, message: Message<D>) -> Result<(), PostError<D>> {
        self.queue.post(message, Wait::Never)
    }

    /// Posts a message and waits for room up to `limit`.
    ///
    /// # Errors
    /// [`Reason::Full`](super::Reason::Full) if there was no room in time, and
    /// those of [`post`](Self::post).
    ///
    /// # Blocking
    /// While the queue is full, up to `limit`. A stop of the listener ends the
    /// wait.
    pub fn post_timeout(&self, message: Message<D>, limit: Duration) -> Result<(), PostError<D>> {
        let wait = Instant::now()
            .checked_add(limit)
            .map_or(Wait::Always, Wait::Until);
        self.queue.post(message, wait)
    }
}

impl<D> Clone for Sender<D> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.queue))
    }
}

impl<D> fmt::Debug for Sender<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// Stops a [`Listener`](super::Listener) from anywhere, its handlers included.
///
/// Cheap to clone; it may outlive the listener.
#[derive(Clone)]
pub struct Stopper {
    close: Arc<dyn Close>,
    door: Arc<Door>,
}

/// What of a queue does not depend on the type of its data.
trait Close: Send + Sync {
    fn close(&self);
}

impl<D: Send> Close for Queue<D> {
    fn close(&self) {
        Queue::close(self);
    }
}

impl Stopper {
    pub(super) fn new<D: Send + 'static>(queue: Arc<Queue<D>>, door: Arc<Door>) -> Self {
        Self { close: queue, door }
    }

    /// Stops the listener: posts fail from now on, messages that were accepted
    /// are still handled, then the handlers are dropped and the thread ends.
    /// Child processes are told and cut off once what they had sent is read,
    /// see [`Builder::drain_timeout`](super::Builder::drain_timeout).
    ///
    /// Returns at once; to wait for the end, use
    /// [`Listener::shutdown`](super::Listener::shutdown). Stopping again has no
    /// effect.
    pub fn stop(&self) {
        self.close.close();
        self.door.close();
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper").finish_non_exhaustive()
    }
}
