//! A task of a pool as its owner holds it.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::core::Core;
use super::error::JobError;
use super::queue::Key;
use crate::lifecycle::Stop;

/// How a task ended, for those who wait for it.
pub(super) struct Ticket {
    id: Uuid,
    /// Set once, before the signal.
    result: OnceLock<Result<Value, JobError>>,
    ended: Stop,
}

impl Ticket {
    pub(super) fn new(id: Uuid) -> Self {
        Self {
            id,
            result: OnceLock::new(),
            ended: Stop::new(),
        }
    }

    pub(super) fn end(&self, result: Result<Value, JobError>) {
        // Empty until now: a task ends once.
        let _ = self.result.set(result);
        self.ended.stop();
    }
}

/// One task of a pool; made by [`Pool::submit`](super::Pool::submit).
///
/// A handle: clones are the same task, and it may be asked and waited for from any thread. Dropping
/// it changes nothing: the task goes on, and its end is told to the observer.
#[derive(Clone)]
pub struct Job {
    key: Key,
    ticket: Arc<Ticket>,
    core: Arc<Core>,
}

/// Where a task of a pool stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobState {
    /// Waiting for a slave, or for its next try.
    Queued,
    /// With a slave, which works on it or is being asked to.
    Running {
        /// The slave's name.
        slave: String,
    },
    /// With a result or an error, which [`Job::join`] returns at once.
    Ended,
}

impl Job {
    pub(super) fn new(key: Key, ticket: Arc<Ticket>, core: Arc<Core>) -> Self {
        Self { key, ticket, core }
    }

    /// The id of the task in this pool. On the wire each try has an id of its own.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.ticket.id
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> JobState {
        if self.ticket.result.get().is_some() {
            return JobState::Ended;
        }
        self.core.look(|queue| match queue.place_of(self.key) {
            None => JobState::Ended,
            Some(None) => JobState::Queued,
            Some(Some(slave)) => JobState::Running {
                slave: slave.name.clone(),
            },
        })
    }

    /// Ends it as [`Cancelled`](JobError::Cancelled); false if it has ended already.
    ///
    /// The wire knows no way to stop a task: a slave that is working on it goes on, is given its next
    /// task when it has reported, and that report is dropped.
    pub fn cancel(&self) -> bool {
        self.core.step(|queue, _| queue.cancel(self.key))
    }

    /// Waits for the end and returns the result.
    ///
    /// # Errors
    /// Every [`JobError`] but [`TimedOut`](JobError::TimedOut) and [`Mismatch`](JobError::Mismatch).
    ///
    /// # Blocking
    /// Until the task ends. With slaves that never report, or are never free, that is never:
    /// [`Options::deadline`](super::Options::deadline) ends such a task, [`join_timeout`](Job::join_timeout) this wait.
    pub fn join(&self) -> Result<Value, JobError> {
        self.ticket.ended.wait();
        self.result().unwrap_or(Err(JobError::Closed))
    }

    /// Like [`join`](Job::join), for at most `limit`.
    ///
    /// # Errors
    /// Those of [`join`](Job::join), and [`JobError::TimedOut`]; the task goes on.
    pub fn join_timeout(&self, limit: Duration) -> Result<Value, JobError> {
        self.ticket.ended.wait_timeout(limit);
        self.result()
            .unwrap_or(Err(JobError::TimedOut { after: limit }))
    }

    /// Like [`join`](Job::join), with the result as a type of its own.
    ///
    /// # Errors
    /// Those of [`join`](Job::join), and [`JobError::Mismatch`] if the result does not fit `T`.
    ///
    /// # Blocking
    /// Like [`join`](Job::join).
    pub fn join_as<T: DeserializeOwned>(&self) -> Result<T, JobError> {
        self.join().and_then(read)
    }

    fn result(&self) -> Option<Result<Value, JobError>> {
        self.ticket.result.get().cloned()
    }
}

/// A result as the type that its owner wants.
pub(super) fn read<T: DeserializeOwned>(result: Value) -> Result<T, JobError> {
    serde_json::from_value(result).map_err(|error| JobError::Mismatch {
        source: Arc::new(error),
    })
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
