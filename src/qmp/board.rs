//! Who hears of what comes: the registry of listeners, and the listeners.
//!
//! The reader tells the board; each listener has a queue of its own, which drops its oldest when
//! it is full, so the reader never waits. No lock is held while a filter runs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::lifecycle::catch;
use crate::protocol::{EventQueue, NoEvent};

use super::error::{Error, RecvError};

/// How many items a listener queues, unless it is told otherwise.
pub(super) const CAPACITY: usize = 65_536;

thread_local! {
    /// The clients whose filters are what this thread is in.
    static TELLING: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// All listeners to one kind of item.
pub(super) struct Board<T> {
    /// The same for all boards of a client: one thread tells them all.
    client: u64,
    list: Mutex<List<T>>,
    /// How many of the listeners have code of the user's to ask.
    asking: Arc<AtomicUsize>,
}

struct List<T> {
    /// Replaced when it changes, so that telling costs one clone of an `Arc`.
    ears: Arc<[Arc<Ear<T>>]>,
    /// Set between sessions.
    ended: Option<Ending>,
}

/// A listener, as the board has it.
struct Ear<T> {
    wants: Box<dyn Fn(&T) -> bool + Send + Sync>,
    /// Whether `wants` is code of the user's.
    asks: bool,
    queue: EventQueue<T, Ending>,
    history: Mutex<History<T>>,
}

struct History<T> {
    kept: usize,
    items: VecDeque<T>,
}

/// Why a listener hears no more.
#[derive(Clone)]
enum Ending {
    Session(Arc<Error>),
    FilterPanic(Arc<str>),
}

impl<T: Clone> Board<T> {
    /// Without listeners; `client` is a number of the client's own.
    pub(super) fn new(client: u64) -> Self {
        let list = Mutex::new(List {
            ears: Arc::new([]),
            ended: None,
        });
        Self {
            client,
            list,
            asking: Arc::default(),
        }
    }

    /// How many of the listeners have code of the user's to ask.
    pub(super) fn asking(&self) -> Arc<AtomicUsize> {
        self.asking.clone()
    }

    /// Whether nobody listens.
    pub(super) fn is_deserted(&self) -> bool {
        self.list.lock().ears.is_empty()
    }

    /// Registers a listener; `asks` if `wants` is code of the user's.
    pub(super) fn listen(
        self: &Arc<Self>,
        capacity: usize,
        asks: bool,
        wants: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> Listener<T> {
        let ear = Arc::new(Ear {
            wants: Box::new(wants),
            asks,
            queue: EventQueue::new(capacity),
            history: Mutex::new(History {
                kept: 0,
                items: VecDeque::new(),
            }),
        });
        let mut list = self.list.lock();
        if let Some(reason) = &list.ended {
            ear.queue.end(reason.clone());
        }
        let before = list.ears.iter().cloned();
        list.ears = before.chain([ear.clone()]).collect();
        self.asking.fetch_add(asks.into(), Ordering::Relaxed);
        drop(list);
        Listener {
            ear,
            client: self.client,
            board: Arc::downgrade(self),
        }
    }

    fn remove(&self, ear: &Arc<Ear<T>>) {
        let mut list = self.list.lock();
        let others = list.ears.iter().filter(|other| !Arc::ptr_eq(other, ear));
        let others: Arc<[_]> = others.cloned().collect();
        if ear.asks && others.len() < list.ears.len() {
            self.asking.fetch_sub(1, Ordering::Relaxed);
        }
        let old = std::mem::replace(&mut list.ears, others);
        drop(list);
        drop(old);
    }

    /// Gives `item` to all who want it.
    pub(super) fn tell(&self, item: &T) {
        let ears = self.list.lock().ears.clone();
        TELLING.with_borrow_mut(|clients| clients.push(self.client));
        for ear in &*ears {
            match catch(|| (ear.wants)(item)) {
                Ok(true) => ear.hear(item.clone()),
                Ok(false) => {}
                Err(panicked) => {
                    log::error!("a filter {panicked}; its listener hears no more");
                    ear.queue.end(Ending::FilterPanic(panicked.message.into()));
                    self.remove(ear);
                }
            }
        }
        TELLING.with_borrow_mut(|clients| clients.pop());
    }

    /// Says that a session has ended, to those who listen and those who will.
    pub(super) fn end(&self, reason: &Arc<Error>) {
        let reason = Ending::Session(reason.clone());
        let mut list = self.list.lock();
        list.ended = Some(reason.clone());
        let ears = list.ears.clone();
        drop(list);
        for ear in &*ears {
            ear.queue.end(reason.clone());
        }
    }

    /// A session begins.
    pub(super) fn reopen(&self) {
        let mut list = self.list.lock();
        list.ended = None;
        let ears = list.ears.clone();
        drop(list);
        for ear in &*ears {
            ear.queue.reopen();
        }
    }
}

/// The client is gone, perhaps before its first session.
impl<T> Drop for Board<T> {
    fn drop(&mut self) {
        for ear in &*self.list.get_mut().ears {
            ear.queue.end(Ending::Session(Arc::new(Error::Closed)));
        }
    }
}

impl<T: Clone> Ear<T> {
    fn hear(&self, item: T) {
        let mut history = self.history.lock();
        let oldest = if history.kept > 0 && history.items.len() >= history.kept {
            history.items.pop_front()
        } else {
            None
        };
        if history.kept > 0 {
            history.items.push_back(item.clone());
        }
        drop(history);
        drop(oldest);
        self.queue.push(item);
    }
}

/// Receives what a client hears from its server; registered until it is dropped.
///
/// It has a queue of its own. When that is full the oldest item is dropped, and the next receive
/// says how many were: [`RecvError::Lagged`]. When the session ends, what is queued can still be
/// received; then comes [`RecvError::Ended`] with the cause, or [`RecvError::Closed`]. It goes on
/// when the client connects again.
///
/// Several threads may receive from one listener; each item goes to one of them.
#[must_use = "dropping it unregisters it"]
pub struct Listener<T: Clone> {
    ear: Arc<Ear<T>>,
    client: u64,
    board: Weak<Board<T>>,
}

impl<T: Clone> Listener<T> {
    /// The next item, waited for without limit.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`], [`RecvError::Ended`], [`RecvError::Closed`],
    /// [`RecvError::FilterPanic`]. [`RecvError::WouldDeadlock`] in a filter of the same client, if
    /// nothing is queued.
    ///
    /// # Blocking
    ///
    /// Until an item comes, or the session ends, or the client is dropped before its first session.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.recv_deadline(None)
    }

    /// The next item, waited for at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`RecvError::TimedOut`].
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvError> {
        self.recv_deadline(Instant::now().checked_add(limit))
    }

    /// The next item, waited for until `deadline`, or without limit.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`RecvError::TimedOut`].
    pub fn recv_deadline(&self, deadline: Option<Instant>) -> Result<T, RecvError> {
        if TELLING.with_borrow(|clients| clients.contains(&self.client)) {
            return self.try_recv().map_err(|error| match error {
                RecvError::TimedOut => RecvError::WouldDeadlock,
                other => other,
            });
        }
        self.ear.queue.recv(deadline).map_err(RecvError::from)
    }

    /// The next item if it is there.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`RecvError::TimedOut`] if there is none.
    pub fn try_recv(&self) -> Result<T, RecvError> {
        self.ear.queue.try_recv().map_err(RecvError::from)
    }

    /// All that is queued.
    pub fn drain(&self) -> Vec<T> {
        self.ear.queue.drain().into()
    }

    /// The next item that `wanted` is true for; those before it are dropped.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout); `limit` is that of the whole wait.
    pub fn wait_for(
        &self,
        mut wanted: impl FnMut(&T) -> bool,
        limit: impl Into<Option<Duration>>,
    ) -> Result<T, RecvError> {
        let limit: Option<Duration> = limit.into();
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let item = self.recv_deadline(deadline)?;
            if wanted(&item) {
                return Ok(item);
            }
        }
    }

    /// Keeps the last `count` items it heard, from now on, whether they are received or not.
    pub fn keep_history(&self, count: usize) {
        let mut history = self.ear.history.lock();
        history.kept = count;
        let surplus = history.items.len().saturating_sub(count);
        let gone: Vec<T> = history.items.drain(..surplus).collect();
        drop(history);
        drop(gone);
    }

    /// The items that were kept, the oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<T> {
        self.ear.history.lock().items.iter().cloned().collect()
    }

    /// Items as they come, until the session ends. Gaps are passed over in silence.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| {
            loop {
                match self.recv() {
                    Ok(item) => return Some(item),
                    Err(RecvError::Lagged(_)) => {}
                    Err(_) => return None,
                }
            }
        })
    }
}

impl From<NoEvent<Ending>> for RecvError {
    fn from(reason: NoEvent<Ending>) -> Self {
        match reason {
            NoEvent::TimedOut => Self::TimedOut,
            NoEvent::Lagged(count) => Self::Lagged(count),
            NoEvent::Ended(Ending::FilterPanic(message)) => Self::FilterPanic { message },
            NoEvent::Ended(Ending::Session(reason)) => match &*reason {
                Error::Closed | Error::ServerQuit => Self::Closed,
                reason => Self::Ended(reason.clone()),
            },
        }
    }
}

impl<T: Clone> Drop for Listener<T> {
    fn drop(&mut self) {
        if let Some(board) = self.board.upgrade() {
            board.remove(&self.ear);
        }
    }
}

impl<T: Clone> fmt::Debug for Listener<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}
