//! Who handles what: the trait of a handler, and the table of them by source.
//!
//! The table can be changed from any thread at any time. A handler is taken out
//! of its slot while it runs and put back afterwards, so no lock is held during
//! user code; a slot that has left the table meanwhile dies, and the handler
//! with it, when the thread that ran it lets go of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{BoxError, Taken};
use super::message::{Message, Source};

/// Acts on the messages of a source, or of all sources that have no handler.
///
/// Closures that take a [`Message`] and return a `Result<(), BoxError>` are
/// handlers. A handler is called on the thread of its listener only, one
/// message at a time. It may post, register, unregister and stop, all without
/// waiting for itself, but not shut its own listener down. While it runs all
/// other messages wait.
///
/// It is dropped on the listener's thread at the end of the listener, or where
/// [`Listener::unregister`](super::Listener::unregister) says.
pub trait Handler<D>: Send {
    /// Handles one message.
    ///
    /// # Errors
    /// An error, like a panic, is counted and logged with source and command;
    /// the listener goes on and, unless told otherwise in the
    /// [`Builder`](super::Builder), keeps the handler. The data of the message
    /// is gone. (A panic in the `Drop` of something that a panic is already
    /// unwinding ends the process, as always in Rust.)
    fn handle(&mut self, message: Message<D>) -> Result<(), BoxError>;
}

impl<D, F> Handler<D> for F
where
    F: FnMut(Message<D>) -> Result<(), BoxError> + Send,
{
    fn handle(&mut self, message: Message<D>) -> Result<(), BoxError> {
        self(message)
    }
}

/// So that a handler that came back can be registered again.
impl<D> Handler<D> for Box<dyn Handler<D>> {
    fn handle(&mut self, message: Message<D>) -> Result<(), BoxError> {
        (**self).handle(message)
    }
}

impl<D> fmt::Debug for dyn Handler<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

/// The place of one handler; empty while the handler runs, or once it was taken
/// away for good.
struct Slot<D>(Mutex<Option<Box<dyn Handler<D>>>>);

impl<D> Slot<D> {
    fn new(handler: Box<dyn Handler<D>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(handler))))
    }

    fn take(&self) -> Option<Box<dyn Handler<D>>> {
        self.0.lock().take()
    }
}

/// A handler that was taken out of its slot to run.
pub(super) struct Running<D> {
    slot: Arc<Slot<D>>,
    handler: Box<dyn Handler<D>>,
}

impl<D> Running<D> {
    pub(super) fn handle(&mut self, message: Message<D>) -> Result<(), BoxError> {
        self.handler.handle(message)
    }

    /// Puts the handler back; if its slot has left the table, it is dropped here.
    pub(super) fn put_back(self) {
        *self.slot.0.lock() = Some(self.handler);
    }
}

/// All handlers of a listener.
///
/// The lock of the table is taken before that of a slot, if both are.
pub(super) struct Handlers<D>(Mutex<Table<D>>);

struct Table<D> {
    by_source: HashMap<Source, Arc<Slot<D>>>,
    default: Option<Arc<Slot<D>>>,
}

impl<D> Handlers<D> {
    pub(super) fn new(default: Option<Box<dyn Handler<D>>>) -> Self {
        Self(Mutex::new(Table {
            by_source: HashMap::new(),
            default: default.map(Slot::new),
        }))
    }

    pub(super) fn register<H>(&self, source: Source, handler: H) -> Result<(), Taken<H>>
    where
        H: Handler<D> + 'static,
    {
        let mut table = self.0.lock();
        if table.by_source.contains_key(&source) {
            return Err(Taken { source, handler });
        }
        table.by_source.insert(source, Slot::new(Box::new(handler)));
        Ok(())
    }

    pub(super) fn replace<H>(&self, source: Source, handler: H) -> Option<Box<dyn Handler<D>>>
    where
        H: Handler<D> + 'static,
    {
        let slot = Slot::new(Box::new(handler));
        let old = self.0.lock().by_source.insert(source, slot);
        old?.take()
    }

    pub(super) fn unregister(&self, source: &Source) -> Option<Box<dyn Handler<D>>> {
        let old = self.0.lock().by_source.remove(source);
        old?.take()
    }

    pub(super) fn set_default(
        &self,
        handler: Option<Box<dyn Handler<D>>>,
    ) -> Option<Box<dyn Handler<D>>> {
        let slot = handler.map(Slot::new);
        let old = std::mem::replace(&mut self.0.lock().default, slot);
        old?.take()
    }

    /// Takes the handler for `source` out of its slot, to run it.
    ///
    /// Only the listener's thread does this, and puts each back before it takes
    /// the next: so no slot in the table is empty here.
    pub(super) fn take(&self, source: &Source) -> Option<Running<D>> {
        let table = self.0.lock();
        let slot = table.by_source.get(source).or(table.default.as_ref())?;
        Some(Running {
            handler: slot.take()?,
            slot: Arc::clone(slot),
        })
    }

    /// Takes the slot of a running handler out of the table, if it is still there.
    pub(super) fn remove(&self, source: &str, running: &Running<D>) {
        let mut table = self.0.lock();
        let same = |slot: &Arc<Slot<D>>| Arc::ptr_eq(slot, &running.slot);
        if table.by_source.get(source).is_some_and(same) {
            table.by_source.remove(source);
        } else if table.default.as_ref().is_some_and(same) {
            table.default = None;
        }
    }

    /// Drops all handlers, outside the lock.
    pub(super) fn clear(&self) {
        let mut table = self.0.lock();
        let old = (std::mem::take(&mut table.by_source), table.default.take());
        drop(table);
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::time::Duration;

    use super::*;
    use crate::lifecycle;

    fn source(text: &str) -> Source {
        text.try_into().unwrap()
    }

    fn nothing(_: Message<()>) -> Result<(), BoxError> {
        Ok(())
    }

    /// Uses the table when it is dropped, which never returns if the table is
    /// locked then.
    struct UsesTheTable(Weak<Handlers<()>>);

    impl Handler<()> for UsesTheTable {
        fn handle(&mut self, _: Message<()>) -> Result<(), BoxError> {
            Ok(())
        }
    }

    impl Drop for UsesTheTable {
        fn drop(&mut self) {
            if let Some(handlers) = self.0.upgrade() {
                handlers.replace(source("dropped"), nothing);
            }
        }
    }

    #[test]
    fn no_lock_is_held_while_a_handler_is_dropped() {
        let a = source("a");
        type Way = fn(&Handlers<()>, &Source);
        let ways: [(&str, Way); 6] = [
            ("unregister", |handlers, a| drop(handlers.unregister(a))),
            ("replace", |handlers, a| {
                drop(handlers.replace(a.clone(), nothing))
            }),
            ("clear", |handlers, _| handlers.clear()),
            ("replaced while it runs", |handlers, a| {
                let running = handlers.take(a).unwrap();
                assert!(handlers.replace(a.clone(), nothing).is_none());
                running.put_back();
            }),
            ("removed after it ran", |handlers, a| {
                let running = handlers.take(a).unwrap();
                handlers.remove(a.as_str(), &running);
                running.put_back();
            }),
            ("default replaced", |handlers, a| {
                let own = handlers.unregister(a);
                handlers.set_default(own);
                handlers.set_default(None);
            }),
        ];
        for (name, way) in ways {
            let (report, reported) = crossbeam_channel::bounded(1);
            let a = a.clone();
            let _thread = lifecycle::spawn("ways", move || {
                let handlers = Arc::new(Handlers::new(None));
                let uses = UsesTheTable(Arc::downgrade(&handlers));
                handlers.register(a.clone(), uses).unwrap();
                way(&handlers, &a);
                let dropped = handlers.unregister(&source("dropped")).is_some();
                report.send(dropped).unwrap();
            });
            let dropped = reported.recv_timeout(Duration::from_secs(30));
            assert_eq!(dropped, Ok(true), "{name}");
        }
    }

    #[test]
    fn a_handler_that_was_replaced_while_it_ran_does_not_return() {
        let a = source("a");
        let handlers = Handlers::new(None);
        handlers.register(a.clone(), nothing).unwrap();
        let old = handlers.take(&a).unwrap();
        let slot = Arc::clone(&old.slot);
        handlers.replace(a.clone(), nothing);
        handlers.remove(a.as_str(), &old);
        old.put_back();
        let new = handlers.take(&a).unwrap();
        assert!(!Arc::ptr_eq(&slot, &new.slot));
    }
}
