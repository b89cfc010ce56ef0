//! Who handles what: the trait of a handler, and the table of them by source.
//!
//! The table can be changed from any thread at any time. A handler is taken out
//! of its slot while it runs and put back afterwards, so no lock is held during
//! user code; a slot that has left the table meanwhile dies, and the handler
//! with it, when the thread that ran it lets go of it. That thread remembers the
//! slot it used last, and a count of the changes tells it whether the slot is
//! still the one for its source.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::end::End;
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

    /// Learns that the connection of a child process has ended, and how.
    ///
    /// Called once for each connection of a child that was welcomed, after the
    /// last message of that connection, with the handler that would get a
    /// message of its source at that moment. A child of the same source may
    /// connect from then on. It may do all that [`handle`](Self::handle) may; a
    /// panic is logged. A shutdown that has reached its limit does not call it
    /// any more. Does nothing by default.
    fn gone(&mut self, source: &Source, end: &End) {
        let _ = (source, end);
    }
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

    fn gone(&mut self, source: &Source, end: &End) {
        (**self).gone(source, end);
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

/// The slot of a source, as it was after so many changes of the table.
pub(super) struct Known<D> {
    source: Source,
    slot: Arc<Slot<D>>,
    changes: u64,
}

/// A handler that was taken out of its slot to run.
pub(super) struct Running<D> {
    handler: Box<dyn Handler<D>>,
    from: Known<D>,
}

impl<D> Running<D> {
    pub(super) fn handle(&mut self, message: Message<D>) -> Result<(), BoxError> {
        self.handler.handle(message)
    }

    pub(super) fn gone(&mut self, source: &Source, end: &End) {
        self.handler.gone(source, end);
    }

    /// Puts the handler back; if its slot has left the table, it is dropped here. The slot is
    /// returned if it has not.
    pub(super) fn put_back(self, handlers: &Handlers<D>) -> Option<Known<D>> {
        let Self { handler, from } = self;
        *from.slot.0.lock() = Some(handler);
        // Who changes the table counts first and looks into the slot then. So either the change is
        // seen here, or the handler there.
        (handlers.changes.load(Ordering::SeqCst) == from.changes).then_some(from)
    }
}

/// All handlers of a listener.
///
/// The lock of the table is taken before that of a slot, if both are.
pub(super) struct Handlers<D> {
    table: Mutex<Table<D>>,
    /// How often the table was changed; goes up under its lock.
    changes: AtomicU64,
}

struct Table<D> {
    by_source: HashMap<Source, Arc<Slot<D>>>,
    default: Option<Arc<Slot<D>>>,
}

impl<D> Handlers<D> {
    pub(super) fn new(default: Option<Box<dyn Handler<D>>>) -> Self {
        Self {
            table: Mutex::new(Table {
                by_source: HashMap::new(),
                default: default.map(Slot::new),
            }),
            changes: AtomicU64::new(0),
        }
    }

    /// Changes the table and counts that.
    fn change<T>(&self, change: impl FnOnce(&mut Table<D>) -> T) -> T {
        let mut table = self.table.lock();
        self.changes.fetch_add(1, Ordering::SeqCst);
        change(&mut table)
    }

    pub(super) fn register<H>(&self, source: Source, handler: H) -> Result<(), Taken<H>>
    where
        H: Handler<D> + 'static,
    {
        self.change(|table| {
            if table.by_source.contains_key(&source) {
                return Err(Taken { source, handler });
            }
            table.by_source.insert(source, Slot::new(Box::new(handler)));
            Ok(())
        })
    }

    pub(super) fn replace<H>(&self, source: Source, handler: H) -> Option<Box<dyn Handler<D>>>
    where
        H: Handler<D> + 'static,
    {
        let slot = Slot::new(Box::new(handler));
        let old = self.change(|table| table.by_source.insert(source, slot));
        old?.take()
    }

    pub(super) fn unregister(&self, source: &Source) -> Option<Box<dyn Handler<D>>> {
        let old = self.change(|table| table.by_source.remove(source));
        old?.take()
    }

    pub(super) fn set_default(
        &self,
        handler: Option<Box<dyn Handler<D>>>,
    ) -> Option<Box<dyn Handler<D>>> {
        let slot = handler.map(Slot::new);
        let old = self.change(|table| std::mem::replace(&mut table.default, slot));
        old?.take()
    }

    /// Takes the handler for `source` out of its slot, to run it; `last` is the slot that was used
    /// before.
    ///
    /// Only the listener's thread does this, and puts each back before it takes
    /// the next: so no slot in the table is empty here.
    pub(super) fn take(&self, source: &Source, last: Option<Known<D>>) -> Option<Running<D>> {
        if let Some(from) = last
            && from.source == *source
            && self.changes.load(Ordering::SeqCst) == from.changes
            // It is empty if the table was changed just now.
            && let Some(handler) = from.slot.take()
        {
            return Some(Running { handler, from });
        }
        let table = self.table.lock();
        let slot = table.by_source.get(source).or(table.default.as_ref())?;
        Some(Running {
            handler: slot.take()?,
            from: Known {
                source: source.clone(),
                slot: Arc::clone(slot),
                changes: self.changes.load(Ordering::SeqCst),
            },
        })
    }

    /// Takes the slot of a running handler out of the table, if it is still there.
    pub(super) fn remove(&self, source: &str, running: &Running<D>) {
        let same = |slot: &Arc<Slot<D>>| Arc::ptr_eq(slot, &running.from.slot);
        self.change(|table| {
            if table.by_source.get(source).is_some_and(same) {
                table.by_source.remove(source);
            } else if table.default.as_ref().is_some_and(same) {
                table.default = None;
            }
        });
    }

    /// Drops all handlers, outside the lock.
    pub(super) fn clear(&self) {
        let old = self.change(|table| (std::mem::take(&mut table.by_source), table.default.take()));
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
                let running = handlers.take(a, None).unwrap();
                assert!(handlers.replace(a.clone(), nothing).is_none());
                assert!(running.put_back(handlers).is_none());
            }),
            ("removed after it ran", |handlers, a| {
                let running = handlers.take(a, None).unwrap();
                handlers.remove(a.as_str(), &running);
                assert!(running.put_back(handlers).is_none());
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
        let old = handlers.take(&a, None).unwrap();
        let slot = Arc::clone(&old.from.slot);
        handlers.replace(a.clone(), nothing);
        handlers.remove(a.as_str(), &old);
        assert!(old.put_back(&handlers).is_none());
        let new = handlers.take(&a, None).unwrap();
        assert!(!Arc::ptr_eq(&slot, &new.from.slot));
    }

    #[test]
    fn the_slot_used_last_is_used_again_until_the_table_is_changed() {
        let (a, b) = (source("a"), source("b"));
        let handlers = Handlers::new(Some(Box::new(nothing)));
        let known = |last| {
            let running: Running<()> = handlers.take(&a, last).unwrap();
            let slot = Arc::as_ptr(&running.from.slot);
            (slot, running.put_back(&handlers))
        };
        let (default, last) = known(None);
        let (again, last) = known(last);
        assert_eq!(default, again);
        handlers.register(a.clone(), nothing).unwrap();
        let (own, last) = known(last);
        assert_ne!(own, default);
        let other = handlers.take(&b, last).unwrap();
        assert_eq!(Arc::as_ptr(&other.from.slot), default);
        let (own_again, last) = known(other.put_back(&handlers));
        assert_eq!(own, own_again);
        assert!(
            handlers.unregister(&a).is_some(),
            "it is not kept from its owner"
        );
        assert_eq!(known(last).0, default);
    }
}
