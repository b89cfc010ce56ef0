//! The settings of a listener, and its start.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::lifecycle;

use super::Listener;
use super::dispatch::Dispatch;
use super::error::Error;
use super::handlers::{Handler, Handlers};
use super::queue::Queue;

/// How many messages wait in the queue unless [`Builder::capacity`] says otherwise.
pub const CAPACITY: usize = 1024;

/// The settings of a [`Listener`].
#[must_use = "a listener runs once it is started"]
pub struct Builder<D = serde_json::Value> {
    name: String,
    capacity: usize,
    unregister_after_panic: bool,
    default: Option<Box<dyn Handler<D>>>,
}

impl<D> Builder<D> {
    pub(super) fn new() -> Self {
        Self {
            name: "listener".to_owned(),
            capacity: CAPACITY,
            unregister_after_panic: false,
            default: None,
        }
    }

    /// The name of the thread, 1 to 15 bytes. Defaults to `listener`.
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
            .finish()
    }
}
