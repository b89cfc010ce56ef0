//! Where tasks end: the results listener, whose sources are the connections.
//!
//! A task is moved to its final status, and its waiters woken, by whichever
//! thread learns of its end (HTTP, sweeper, a caller that disconnects). All
//! user code that follows from it, callbacks and the `slave_lost` hook, runs on
//! the one results thread, so a slow callback holds up other callbacks and
//! nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::error::Error;
use super::hooks::{self, Hooks};
use super::job::Job;
use super::slaves::Peer;
use crate::listener::{self, Listener, Message, Sender, Source};
use crate::task::{Loss, Outcome};

/// What the results thread is told.
enum Event {
    /// A task with callbacks has ended.
    Ended(Arc<Job>),
    /// A slave was lost.
    Lost(Loss),
}

/// The results thread and the count of tasks that may still give it work.
pub(super) struct Results {
    name: String,
    listener: Listener<Event>,
    sender: Sender<Event>,
    pending: Arc<AtomicUsize>,
    limit: usize,
}

impl Results {
    pub(super) fn start(
        name: &str,
        limit: usize,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self, listener::Error> {
        let pending = Arc::new(AtomicUsize::new(0));
        let done = pending.clone();
        let handler = move |message: Message<Event>| {
            match message.data {
                Event::Ended(job) => {
                    job.run_callbacks();
                    done.fetch_sub(1, Ordering::Relaxed);
                }
                Event::Lost(loss) => {
                    hooks::optional("slave_lost", || {
                        hooks.slave_lost(message.source.as_str(), &loss)
                    });
                }
            }
            Ok(())
        };
        // Every queued task is one of at most `limit`; the rest of the room is for losses.
        let listener = Listener::builder()
            .name(name)
            .capacity(limit.saturating_mul(2).max(1024))
            .default_handler(handler)
            .start()?;
        let sender = listener.sender();
        Ok(Self {
            name: name.to_owned(),
            listener,
            sender,
            pending,
            limit,
        })
    }

    /// Counts a task in that is about to be opened.
    pub(super) fn reserve(&self) -> Result<(), Error> {
        let limit = self.limit;
        let counted = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            });
        counted
            .map(drop)
            .map_err(|_| Error::TooManyPending { limit })
    }

    /// Counts a task out that was counted in and will give the results thread nothing to do.
    pub(super) fn release(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many tasks are open or wait for their callbacks.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Ends a task that its caller has taken from the open ones.
    pub(super) fn ended(&self, source: &Source, job: Arc<Job>, outcome: Outcome) {
        if job.end(outcome, || self.release()) {
            self.post(source, "ended", Event::Ended(job));
        }
    }

    /// Ends the tasks that were open at a lost slave, then has the hook told, then their callbacks run.
    pub(super) fn lost(&self, peer: &Peer, open: Vec<Arc<Job>>, loss: &Loss) {
        let end = |job: &Arc<Job>| job.end(Outcome::Lost(loss.clone()), || self.release());
        let calling: Vec<_> = open.into_iter().filter(end).collect();
        self.post(&peer.source, "lost", Event::Lost(loss.clone()));
        for job in calling {
            self.post(&peer.source, "ended", Event::Ended(job));
        }
    }

    fn post(&self, source: &Source, cmd: &str, data: Event) {
        let message = Message {
            source: source.clone(),
            cmd: cmd.to_owned(),
            data,
        };
        if let Err(error) = self.sender.try_post(message) {
            log::error!("slave {source}: callbacks of {cmd} not run: {error}");
        }
    }

    /// Has the thread end by itself once what is queued is done; its name.
    pub(super) fn stop(&self) -> String {
        self.listener.stopper().stop();
        self.name.clone()
    }

    /// Runs what is queued, for at most `limit`, and ends the thread.
    pub(super) fn shutdown(&self, limit: Duration) -> Result<listener::Report, listener::Error> {
        self.listener.shutdown(limit)
    }
}
