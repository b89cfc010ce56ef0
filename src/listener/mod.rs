//! One thread that takes messages off one queue and gives each to the handler
//! of its source.
//!
//! Many threads post, one thread acts: what the handlers touch needs no lock,
//! since they are all called on the listener's thread, one after the other. A
//! [`Listener`] owns that thread and the table of handlers; a [`Sender`] posts
//! to its queue and a [`Stopper`] ends it, both cheap to clone and free to
//! outlive it.
//!
//! # Order
//! The messages that one thread posts are handled in the order of its posts.
//! There is no order across threads. What a handler posts to its own listener
//! is handled next, before the rest of the queue; if that posts again, one
//! message of the queue comes first, so that no handler can keep the queue
//! waiting for good.
//!
//! # Processes
//! Child processes post to a listener, too. The parent opens it with
//! [`endpoint`](Listener::endpoint), which says what the environment of a child
//! is to hold; a Rust child posts through a [`child::Sender`], and one in any
//! other language writes frames of JSON to a socket. A child has a connection
//! of its own and names its source once:
//!
//! ```no_run
//! use std::process::Command;
//! use interplay::listener::{BoxError, End, Handler, Listener, Message, Source};
//!
//! struct Monitor;
//!
//! impl Handler<serde_json::Value> for Monitor {
//!     fn handle(&mut self, message: Message) -> Result<(), BoxError> {
//!         println!("{}: {} {}", message.source, message.cmd, message.data);
//!         Ok(())
//!     }
//!
//!     fn gone(&mut self, source: &Source, end: &End) {
//!         match end {
//!             End::Bye => println!("{source} is done"),
//!             end => println!("{source} is lost: {end}"),
//!         }
//!     }
//! }
//!
//! let listener = Listener::builder().name("monitor").default_handler(Monitor).start()?;
//! let endpoint = listener.endpoint()?;
//! let mut trainer = Command::new("./trainer").envs(endpoint.env()).spawn()?;
//! trainer.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - **Order.** The messages of a connection are handled in the order of their
//!   posts, then its handler's [`gone`](Handler::gone) is called, once, with
//!   how the connection [ended](End): a child that crashes, is killed, even in
//!   the middle of a message, or breaks the rules harms nobody else.
//! - **Who.** Only who has the token is let in, and each source once at a time;
//!   all others are [refused](Refused), told why, and counted.
//! - **Data.** A message whose data is not of the listener's type is dropped and
//!   counted as [unreadable](Stats::unreadable); its child is not told, and goes on.
//! - **Bounds.** One child holds at most a quarter of the queue; then nothing
//!   more is read from it, its socket fills, and its posts wait.
//! - **Stop.** Children are told and their posts fail. What they had sent is
//!   still read, for a bounded time, and handled; then each is gone, and the
//!   listener ends.
//!
//! ## Frames
//! For children in other languages. A frame is the length of its JSON in four
//! bytes, big end first, then one JSON object without NaN; keys that are not
//! listed here are ignored. Data is at most 126 levels deep.
//!
//! | Frame | From | JSON |
//! |---|---|---|
//! | hello | child, first | `{"interplay": 1, "token": "…", "source": "task 7", "pid": 4711}`; `pid` is optional |
//! | welcome | listener | `{"ok": true, "max_frame": 16777216}` |
//! | refused | listener, last | `{"ok": false, "reason": "bad_token", "message": "…"}` |
//! | message | child | `{"cmd": "set_item", "data": …}`; without `data` it is null |
//! | bye | child, last | `{"bye": true}` |
//! | closing | listener, last | `{"closing": true}` |
//!
//! The address of the socket is in `INTERPLAY_LISTENER`: the path of a UNIX
//! socket, or `tcp:` with an IP address and a port. The token is in
//! `INTERPLAY_LISTENER_TOKEN`.
//!
//! # What is not here
//! There is no restart: a stopped listener is gone, a new one is one line.
//! There is no pool of handlers: a slow handler holds up all sources, so one
//! that has much to do sends it on to a thread of its own.

mod builder;
pub mod child;
mod connection;
mod dispatch;
mod end;
mod endpoint;
mod error;
mod frame;
mod handlers;
mod message;
mod queue;
mod sender;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::lifecycle::{GRACE, Thread};

pub use builder::{Builder, CAPACITY};
pub use end::{End, Refused};
pub use endpoint::Endpoint;
pub use error::{BadSource, BoxError, Error, PostError, Reason, Taken};
pub use handlers::Handler;
pub use message::{Message, Source};
pub use sender::{Sender, Stopper};
pub use transport::Transport;

use endpoint::Door;
use handlers::Handlers;
use queue::Queue;

/// A running listener: one thread, one queue, and handlers by source.
///
/// It owns one thread, named in the [`Builder`], and if it is open to child
/// processes, one that accepts them and one for each that is connected. All methods take `&self` and
/// may be called from any thread; all but [`shutdown`](Self::shutdown) may be
/// called from inside a handler too and return at once. A handler that changes
/// the registrations holds a `Weak<Listener>`: one that holds an `Arc` keeps
/// its own listener from being dropped.
///
/// Dropping it is a [`shutdown`](Self::shutdown) with five seconds: what is
/// queued is handled, and what was lost is logged. No second wait follows a
/// shutdown that has reported already, and none happens if a handler drops the
/// last owner: the listener then ends after that handler.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use interplay::listener::{Listener, Message, Source};
/// use serde_json::json;
///
/// let listener = Listener::builder()
///     .name("results")
///     .default_handler(|message: Message| {
///         println!("{}: {} {}", message.source, message.cmd, message.data);
///         Ok(())
///     })
///     .start()?;
///
/// let source = Source::try_from("task 1")?;
/// let sender = listener.sender();
/// sender.post(Message::new(&source, "set_result", json!({"loss": 0.25})))?;
///
/// let report = listener.shutdown(Duration::from_secs(5))?;
/// assert_eq!(report.handled, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a listener stops it"]
pub struct Listener<D = serde_json::Value> {
    name: String,
    queue: Arc<Queue<D>>,
    handlers: Arc<Handlers<D>>,
    door: Arc<Door>,
    /// None once the thread was joined, or left to itself by a shutdown.
    thread: Mutex<Option<Thread>>,
}

impl<D> Listener<D> {
    /// The settings of a new listener; [`Builder::start`] starts it.
    pub fn builder() -> Builder<D> {
        Builder::new()
    }

    /// Gives the messages of `source` to `handler`, from the next message taken
    /// off the queue on.
    ///
    /// # Errors
    /// [`Taken`] gives the handler back if the source has one; nothing changes.
    pub fn register<H>(&self, source: Source, handler: H) -> Result<(), Taken<H>>
    where
        H: Handler<D> + 'static,
    {
        self.handlers.register(source, handler)
    }

    /// Gives the messages of `source` to `handler`, whether it had a handler or
    /// not, from the next message taken off the queue on.
    ///
    /// Returns the handler that was replaced, unless it is running at this
    /// moment: then it is dropped on the listener's thread after it returns.
    pub fn replace<H>(&self, source: Source, handler: H) -> Option<Box<dyn Handler<D>>>
    where
        H: Handler<D> + 'static,
    {
        self.handlers.replace(source, handler)
    }

    /// Takes the handler of `source` away, from the next message taken off the
    /// queue on; the default handler gets its messages then.
    ///
    /// Returns the handler, unless it is running at this moment: then it is
    /// dropped on the listener's thread after it returns.
    pub fn unregister(&self, source: &Source) -> Option<Box<dyn Handler<D>>> {
        self.handlers.unregister(source)
    }

    /// Gives the messages of all sources without a handler of their own to
    /// `handler`, in place of the default handler there may be.
    ///
    /// Returns the one it replaces, as [`replace`](Self::replace) does.
    pub fn set_default<H>(&self, handler: H) -> Option<Box<dyn Handler<D>>>
    where
        H: Handler<D> + 'static,
    {
        self.handlers.set_default(Some(Box::new(handler)))
    }

    /// Takes the default handler away.
    ///
    /// Returns it, as [`unregister`](Self::unregister) does. Messages that no
    /// handler is there for are dropped, counted, and logged once per source.
    pub fn clear_default(&self) -> Option<Box<dyn Handler<D>>> {
        self.handlers.set_default(None)
    }

    /// A handle that posts messages.
    pub fn sender(&self) -> Sender<D> {
        Sender::new(Arc::clone(&self.queue))
    }

    /// A handle that stops this listener.
    pub fn stopper(&self) -> Stopper
    where
        D: Send + 'static,
    {
        Stopper::new(self.queue.clone(), Arc::clone(&self.door))
    }

    /// Opens the listener to child processes; the endpoint says how they reach it.
    ///
    /// The first call makes the socket and starts the thread that accepts; later ones give the same
    /// endpoint. See the [module](self#processes) for what a child does with it.
    ///
    /// # Errors
    /// [`Error::Stopped`] after a stop, [`Error::NoSocket`] and [`Error::NoThread`] if the system
    /// has none to give; a later call tries again.
    pub fn endpoint(&self) -> Result<Endpoint, Error>
    where
        D: DeserializeOwned + Send + 'static,
    {
        self.door.open(&self.queue)
    }

    /// What the listener has done so far.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    /// Stops, lets the handlers work off the queue for up to `limit`, and joins
    /// the thread.
    ///
    /// Posts fail from the moment of the call. Messages still queued at the
    /// limit are dropped and counted: with a limit of zero, all of them. A
    /// handler cannot be interrupted; one that runs on is named in the report,
    /// and its thread ends when it returns. May be called again, and by several
    /// threads at once: each gets a report.
    ///
    /// # Errors
    /// [`Error::FromHandler`] at once if called on the listener's own thread,
    /// which cannot wait for itself. Nothing is stopped then; use a [`Stopper`].
    ///
    /// # Blocking
    /// Until the thread has ended: at most `limit`, plus a tenth of a second for
    /// a handler that still runs, or five seconds for the handlers' own drops;
    /// and until the threads of child processes have, which is at once unless
    /// making data of their JSON takes long, at most five seconds.
    pub fn shutdown(&self, limit: Duration) -> Result<Report, Error> {
        if self.queue.is_own_thread() {
            return Err(Error::FromHandler);
        }
        self.queue.close();
        self.door.close();
        let (ended, lost) = self.queue.finish(Instant::now().checked_add(limit));
        let held = self.door.join(Instant::now() + GRACE);
        let thread = self.thread.lock().take();
        if let Some(mut thread) = thread {
            // An ended queue leaves the thread nothing but its own exit.
            if !ended || !thread.join_until(Instant::now() + GRACE) {
                thread.leave();
            }
        }
        let name = &self.name;
        if lost > 0 {
            log::warn!("listener {name}: {lost} queued messages dropped at the stop");
        }
        if !ended {
            log::warn!("listener {name}: a handler runs on after the stop");
        }
        let Stats {
            handled, dropped, ..
        } = self.stats();
        Ok(Report {
            handled,
            dropped,
            still_running: (!ended).then(|| name.clone()).or(held),
        })
    }
}

impl<D> Drop for Listener<D> {
    fn drop(&mut self) {
        let reported = self.thread.get_mut().is_none();
        if !reported && self.shutdown(GRACE).is_err() {
            // A handler was the last owner; the thread ends after it, unjoined.
            self.queue.close();
            self.door.close();
            self.door.leave();
        }
    }
}

impl<D> fmt::Debug for Listener<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("name", &self.name)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What a listener has done so far; all counts are of its whole life.
///
/// Each message that a post accepted is in exactly one place: handled, dropped,
/// queued, or in the hands of the handler that runs at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages a handler was called with and returned from, well or not.
    pub handled: u64,
    /// Those of `handled` whose handler returned an error or panicked.
    pub failed: u64,
    /// Messages no handler was called with: the unclaimed and the unreadable ones, what was queued
    /// when a shutdown reached its limit, and what of a child was read and not
    /// queued by then.
    pub dropped: u64,
    /// Those of `dropped` that no handler was registered for.
    pub unclaimed: u64,
    /// Those of `dropped` that a child process has posted with data that is not of the listener's
    /// type.
    pub unreadable: u64,
    /// Messages that wait for their turn.
    pub queued: usize,
    /// Connections of child processes that were turned away or cut off.
    pub refused: u64,
    /// Child processes that are connected.
    pub connections: usize,
}

/// What [`Listener::shutdown`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Messages handled in the listener's whole life, see [`Stats::handled`].
    pub handled: u64,
    /// Messages dropped in the listener's whole life, see [`Stats::dropped`].
    pub dropped: u64,
    /// The name of the listener's thread if a handler still runs on it. The
    /// message it has is in neither count. Or that of a child's thread, if making
    /// data of its JSON has not come to an end.
    pub still_running: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send_sync<T: Send + Sync>() {}

    #[test]
    fn handles_are_shared_by_threads() {
        // Data that is not Sync is no obstacle.
        type Data = std::cell::Cell<u8>;
        is_send_sync::<Listener<Data>>();
        is_send_sync::<Sender<Data>>();
        is_send_sync::<Stopper>();
        is_send_sync::<Source>();
        is_send_sync::<Error>();
    }
}
