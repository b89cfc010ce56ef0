//! The settings of a listener, those of its endpoint among them, and its start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::lifecycle::{self, LONGEST};

use super::Listener;
use super::dispatch::Dispatch;
use super::endpoint::{Door, Limits};
use super::error::Error;
use super::handlers::{Handler, Handlers};
use super::queue::Queue;
use super::transport::Transport;

/// How many messages wait in the queue unless [`Builder::capacity`] says otherwise.
pub const CAPACITY: usize = 1024;

/// The settings of a [`Listener`].
#[must_use = "a listener runs once it is started"]
pub struct Builder<D = serde_json::Value> {
    name: String,
    capacity: usize,
    unregister_after_panic: bool,
    default: Option<Box<dyn Handler<D>>>,
    limits: Limits,
}

impl<D> Builder<D> {
    pub(super) fn new() -> Self {
        Self {
            name: "listener".to_owned(),
            capacity: CAPACITY,
            unregister_after_panic: false,
            default: None,
            limits: Limits::default(),
        }
    }

    /// The name of the thread, 1 to 15 bytes. Defaults to `listener`. Those for child processes
    /// are called after it, `listener:ac` and `listener:rd`; twelve bytes of it are kept there.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many messages wait in the queue before a post has to, at least 1.
    /// Defaults to [`CAPACITY`].
    ///
    /// As many again may be posted by the handlers to their own listener, which
    /// cannot wait. The memory is taken as messages come.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// The handler for the messages of sources without one. Defaults to none:
    /// such messages are dropped, counted, and logged once per source.
    pub fn default_handler<H>(mut self, handler: H) -> Self
    where
        H: Handler<D> + 'static,
    {
        self.default = Some(Box::new(handler));
        self
    }

    /// Whether a handler that panicked is unregistered and dropped, since what
    /// it works on may be half changed. Defaults to false: it stays and gets
    /// the next message.
    pub fn unregister_after_panic(mut self, yes: bool) -> Self {
        self.unregister_after_panic = yes;
        self
    }

    /// The most bytes of JSON in a frame of a child. Defaults to 16 MiB; raised to 1 KiB.
    ///
    /// A child that sends a longer one is cut off; its
    /// [`child::Sender`](super::child::Sender) knows the limit and sends none. The most memory that
    /// the messages of a child can take is that of a quarter of the capacity, each so long.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.limits.max_frame = bytes.clamp(1 << 10, u32::MAX as usize);
        self
    }

    /// How many connections there are at a time, those included that have not said who they are;
    /// further ones are refused. Each has a thread. Defaults to 256.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.max_connections = connections;
        self
    }

    /// How long a connection may take to say who it is. Defaults to five seconds.
    pub fn hello_timeout(mut self, limit: Duration) -> Self {
        self.limits.hello_timeout = limit.min(LONGEST);
        self
    }

    /// How long after a stop the children's last messages are still read, if they wait for room
    /// in the queue or keep coming. Defaults to one second.
    ///
    /// What a child has sent by then and nobody has read is lost.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.limits.drain_timeout = limit.min(LONGEST);
        self
    }

    /// How children reach the listener. Defaults to UNIX sockets where there are any, and TCP
    /// elsewhere.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.limits.transport = transport;
        self
    }

    /// Starts the listener.
    ///
    /// # Errors
    /// [`Error::BadName`] and [`Error::NoCapacity`] for settings out of range,
    /// [`Error::NoThread`] if the system has no thread to give.
    pub fn start(self) -> Result<Listener<D>, Error>
    where
        D: Send + 'static,
    {
        // Linux cuts longer names, and a zero byte cannot be in one.
        if !(1..=15).contains(&self.name.len()) || self.name.contains('\0') {
            return Err(Error::BadName { given: self.name });
        }
        if self.capacity == 0 {
            return Err(Error::NoCapacity);
        }
        let queue = Arc::new(Queue::new(self.capacity));
        let handlers = Arc::new(Handlers::new(self.default));
        let dispatch = Dispatch::new(
            self.name.clone(),
            Arc::clone(&queue),
            Arc::clone(&handlers),
            self.unregister_after_panic,
        );
        let thread = lifecycle::spawn(self.name.as_str(), move || dispatch.run())
            .map_err(|source| Error::NoThread { source })?;
        Ok(Listener {
            door: Arc::new(Door::new(self.name.clone(), self.limits)),
            name: self.name,
            queue,
            handlers,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl<D> fmt::Debug for Builder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("capacity", &self.capacity)
            .field("unregister_after_panic", &self.unregister_after_panic)
            .field("default", &self.default.is_some())
            .field("limits", &self.limits)
            .finish()
    }
}
