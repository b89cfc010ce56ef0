//! Receivers of events: each has a bounded queue of its own, so that none holds up the node or another.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::concerns::event::Event;
use crate::protocol::{self, EventQueue};

/// How many events wait in each queue.
const KEPT: usize = 1_024;

type Queue = EventQueue<Event, ()>;

/// The receivers there are.
pub(super) struct Board {
    open: Mutex<Open>,
}

struct Open {
    /// What has happened before there was any receiver; for the first.
    first: Option<Arc<Queue>>,
    queues: Vec<Weak<Queue>>,
    ended: bool,
}

impl Board {
    pub(super) fn new() -> Self {
        let first = Arc::new(Queue::new(KEPT));
        Self {
            open: Mutex::new(Open {
                queues: vec![Arc::downgrade(&first)],
                first: Some(first),
                ended: false,
            }),
        }
    }

    /// A receiver; the first one also has what has happened so far.
    pub(super) fn listen(&self) -> Events {
        let mut open = self.open.lock();
        let queue = open.first.take().unwrap_or_else(|| {
            let queue = Arc::new(Queue::new(KEPT));
            if open.ended {
                queue.end(());
            }
            open.queues.push(Arc::downgrade(&queue));
            queue
        });
        drop(open);
        Events {
            queue,
            missed: AtomicU64::new(0),
        }
    }

    /// Tells all receivers.
    pub(super) fn tell(&self, event: Event) {
        let mut queues = self.queues();
        let last = queues.pop();
        for queue in queues {
            queue.push(event.clone());
        }
        if let Some(queue) = last {
            queue.push(event);
        }
    }

    /// Nothing more will happen.
    pub(super) fn end(&self) {
        self.open.lock().ended = true;
        self.queues().iter().for_each(|queue| queue.end(()));
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        let mut open = self.open.lock();
        open.queues.retain(|queue| queue.strong_count() > 0);
        open.queues.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Receives what happens at a node. See [`Handle::events`](super::Handle::events).
///
/// Its queue holds 1,024 events; when it is full the oldest is dropped and [counted](Self::missed). After the end of the
/// node what is queued can still be received. Several threads may receive from one; each event goes to one of them.
#[must_use = "dropping it ends it"]
pub struct Events {
    queue: Arc<Queue>,
    missed: AtomicU64,
}

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoEvent {
    /// None has come in time.
    TimedOut,
    /// The node has ended, and all its events were received.
    Ended,
}

impl Events {
    /// The next event, waited for at most `limit`. It must not be waited for in a hook of the same node.
    ///
    /// # Errors
    ///
    /// [`NoEvent::TimedOut`], [`NoEvent::Ended`].
    pub fn recv_timeout(&self, limit: Duration) -> Result<Event, NoEvent> {
        let deadline = Instant::now().checked_add(limit);
        self.next(|| self.queue.recv(deadline))
    }

    /// The next event if it is there.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout), which waits no time.
    pub fn try_recv(&self) -> Result<Event, NoEvent> {
        self.next(|| self.queue.try_recv())
    }

    fn next(
        &self,
        receive: impl Fn() -> Result<Event, protocol::NoEvent<()>>,
    ) -> Result<Event, NoEvent> {
        loop {
            match receive() {
                Ok(event) => return Ok(event),
                Err(protocol::NoEvent::Lagged(count)) => {
                    self.missed.fetch_add(count, Ordering::Relaxed);
                }
                Err(protocol::NoEvent::TimedOut) => return Err(NoEvent::TimedOut),
                Err(protocol::NoEvent::Ended(())) => return Err(NoEvent::Ended),
            }
        }
    }

    /// Events as they come, until the node ends.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        std::iter::from_fn(|| self.recv_timeout(Duration::MAX).ok())
    }

    /// How many events were dropped so far, because they were not received in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed) + self.queue.lost()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl fmt::Display for NoEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no event has come in time",
            Self::Ended => "the node has ended",
        })
    }
}

impl std::error::Error for NoEvent {}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        Event::PeerForgotten {
            peer: text.try_into().unwrap(),
        }
    }

    #[test]
    fn the_first_receiver_has_all_and_others_what_comes_later() {
        let board = Board::new();
        board.tell(event("before"));
        let first = board.listen();
        let second = board.listen();
        board.tell(event("after"));
        assert_eq!(first.try_recv(), Ok(event("before")));
        assert_eq!(first.try_recv(), Ok(event("after")));
        assert_eq!(second.try_recv(), Ok(event("after")));
        assert_eq!(second.try_recv(), Err(NoEvent::TimedOut));
        drop(first);
        board.tell(event("last"));
        board.end();
        assert_eq!(second.iter().count(), 1);
        assert_eq!(second.try_recv(), Err(NoEvent::Ended));
        assert_eq!(board.listen().try_recv(), Err(NoEvent::Ended));
        assert!(board.queues().len() < 2, "nothing is kept of the dropped");
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts_them() {
        let board = Board::new();
        let events = board.listen();
        for at in 0..KEPT + 3 {
            board.tell(event(&format!("peer-{at}")));
        }
        assert_eq!(events.missed(), 3);
        assert_eq!(events.try_recv(), Ok(event("peer-3")));
        assert_eq!(events.missed(), 3);
    }
}
