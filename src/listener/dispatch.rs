//! The loop of the listener's thread: takes a message, calls the handler of its
//! source, survives whatever the handler does.

use std::collections::HashSet;
use std::sync::Arc;

use super::end::End;
use super::handlers::{Handlers, Known};
use super::message::{Message, Source};
use super::queue::{Hand, Outcome, Queue, Taken};
use crate::lifecycle::catch;

/// How many sources without a handler are remembered as warned about.
const WARNED_LIMIT: usize = 1024;

/// How many bytes of a command are kept for the log.
const CMD_LIMIT: usize = 64;

/// The duty of the listener's thread. Its drop is the end of the listener, on
/// the orderly way and on any other.
pub(super) struct Dispatch<D> {
    name: String,
    queue: Arc<Queue<D>>,
    handlers: Arc<Handlers<D>>,
    unregister_after_panic: bool,
    hand: Hand<D>,
    /// Where the last handler was found.
    last: Option<Known<D>>,
    warned: HashSet<Source>,
    /// Source and command of the message that is handled, for the log. They are
    /// copied to one buffer each, since a clone costs an allocation, or a
    /// counter that the posting thread works on at the same time.
    source: String,
    cmd: String,
}

impl<D> Dispatch<D> {
    pub(super) fn new(
        name: String,
        queue: Arc<Queue<D>>,
        handlers: Arc<Handlers<D>>,
        unregister_after_panic: bool,
    ) -> Self {
        Self {
            name,
            queue,
            handlers,
            unregister_after_panic,
            hand: Hand::new(),
            last: None,
            warned: HashSet::new(),
            source: String::new(),
            cmd: String::new(),
        }
    }

    pub(super) fn run(mut self) {
        self.queue.serve();
        log::info!("listener {}: started", self.name);
        while let Some(taken) = self.queue.next(&mut self.hand) {
            match taken {
                Taken::Message(message) => {
                    let outcome = self.deliver(message);
                    self.queue.count(outcome);
                }
                Taken::Gone(source, end) => self.tell_gone(&source, &end),
            }
        }
    }

    fn deliver(&mut self, message: Message<D>) -> Outcome {
        let last = self.last.take();
        let Some(mut running) = self.handlers.take(&message.source, last) else {
            self.unclaimed(message);
            return Outcome::Unclaimed;
        };
        let Self {
            name, source, cmd, ..
        } = self;
        source.clear();
        source.push_str(message.source.as_str());
        cmd.clear();
        cmd.push_str(&message.cmd[..message.cmd.floor_char_boundary(CMD_LIMIT)]);
        log::debug!("listener {name}: {cmd:?} of {source:?}");
        // The error is logged and dropped in here because that is user code too.
        let called = catch(|| match running.handle(message) {
            Ok(()) => Outcome::Handled,
            Err(error) => {
                log::error!("listener {name}: handler of {source:?} failed at {cmd:?}: {error}");
                Outcome::Failed
            }
        });
        if called.is_err() && self.unregister_after_panic {
            self.handlers.remove(source, &running);
        }
        // This drops a handler that was taken away while it ran.
        guarded(name, "dropping a handler", || {
            self.last = running.put_back(&self.handlers);
        });
        called.unwrap_or_else(|panicked| {
            let text = panicked.message;
            log::error!("listener {name}: handler of {source:?} panicked at {cmd:?}: {text}");
            Outcome::Failed
        })
    }

    /// Tells the handler of a child's messages that the child is gone.
    fn tell_gone(&mut self, source: &Source, end: &End) {
        let name = &self.name;
        let Some(mut running) = self.handlers.take(source, self.last.take()) else {
            return;
        };
        log::debug!("listener {name}: {source:?} is gone: {end}");
        let called = catch(|| running.gone(source, end));
        if called.is_err() && self.unregister_after_panic {
            self.handlers.remove(source.as_str(), &running);
        }
        guarded(name, "dropping a handler", || {
            self.last = running.put_back(&self.handlers);
        });
        if let Err(panicked) = called {
            let text = panicked.message;
            log::error!("listener {name}: handler of {source:?} panicked at its end: {text}");
        }
    }

    fn unclaimed(&mut self, message: Message<D>) {
        let name = &self.name;
        if self.warned.len() < WARNED_LIMIT && !self.warned.contains(&message.source) {
            self.warned.insert(message.source.clone());
            log::warn!("listener {name}: no handler for {:?}", message.source);
            if self.warned.len() == WARNED_LIMIT {
                log::warn!("listener {name}: more such sources are only counted");
            }
        }
        guarded(name, "dropping a message", || drop(message));
    }
}

impl<D> Drop for Dispatch<D> {
    fn drop(&mut self) {
        let name = &self.name;
        let last = self.last.take();
        guarded(name, "dropping the handlers", || self.handlers.clear());
        guarded(name, "dropping a handler", || drop(last));
        guarded(name, "dropping messages", || self.queue.end());
        let hand = std::mem::replace(&mut self.hand, Hand::new());
        guarded(name, "dropping messages", || drop(hand));
        log::info!("listener {name}: ended");
    }
}

/// Runs what may call user code where a panic would end the thread.
fn guarded(name: &str, what: &str, body: impl FnOnce()) {
    if let Err(panicked) = catch(body) {
        log::error!("listener {name}: panic in {what}: {}", panicked.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_unclaimed_sources_is_bounded() {
        let queue = Arc::new(Queue::new(1));
        let handlers = Arc::new(Handlers::new(None));
        let mut dispatch = Dispatch::new("test".to_owned(), queue, handlers, false);
        for n in 0..2 * WARNED_LIMIT {
            let source = Source::try_from(n.to_string()).unwrap();
            dispatch.deliver(Message::new(&source, "c", ()));
        }
        assert_eq!(dispatch.warned.len(), WARNED_LIMIT);
    }

    #[test]
    fn a_long_command_is_cut_for_the_log() {
        let queue = Arc::new(Queue::new(1));
        let handlers = Arc::new(Handlers::new(Some(Box::new(|_| Ok(())))));
        let mut dispatch = Dispatch::new("test".to_owned(), queue, handlers, false);
        let source = Source::try_from("a").unwrap();
        dispatch.deliver(Message::new(&source, "ß".repeat(100).as_str(), ()));
        assert_eq!(dispatch.cmd, "ß".repeat(32));
        dispatch.deliver(Message::new(&source, "a".to_owned() + &"ß".repeat(100), ()));
        assert_eq!(dispatch.cmd.len(), 63);
    }
}
