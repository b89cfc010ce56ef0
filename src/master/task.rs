//! A task as its owner holds it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::connection::Connection;
use super::error::{Error, TaskError};
use super::job::{Callback, Job};
use crate::task::{Outcome, Status};

/// One task for one slave; made by [`Connection::new_task`].
///
/// A handle: clones are the same task. It may be started, waited for and asked
/// from any thread. Dropping it does not stop the task, and its callbacks still run.
///
/// Callbacks run on the master's results thread, each at most once, after the
/// task has its final status and whoever waited for it was woken, in the order
/// in which they were added. They may use the task, its connection and the
/// master freely; while one runs, the callbacks of other tasks wait. One that
/// is added to a task that ended already runs at once on the thread that adds it.
#[derive(Clone)]
pub struct Task {
    job: Arc<Job>,
    connection: Connection,
}

impl Task {
    pub(super) fn of(connection: Connection, job: Arc<Job>) -> Self {
        Self { job, connection }
    }

    /// The id under which the task travels.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.job.id()
    }

    /// The data it was made with, not what [`Hooks::before_new_task`](super::Hooks::before_new_task) made of it.
    #[must_use]
    pub fn data(&self) -> &Value {
        self.job.data()
    }

    /// The connection it was made on.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.job.status()
    }

    /// How it ended; none before that, and none if its start failed.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.job.outcome()
    }

    /// The result of a task that completed or failed; none before that.
    #[must_use]
    pub fn result(&self) -> Option<&Value> {
        match self.outcome()? {
            Outcome::Completed(result) | Outcome::Failed(result) => Some(result),
            Outcome::Lost(_) => None,
        }
    }

    /// The result of a completed task as a type of its own. Does not wait.
    ///
    /// # Errors
    /// [`TaskError::Running`] before the end, [`TaskError::Mismatch`] if the
    /// result does not fit `T`, otherwise what [`join`](Task::join) returns.
    pub fn result_as<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        match self.job.ended() {
            Some(ended) => T::deserialize(ended?).map_err(|source| TaskError::Mismatch { source }),
            None => Err(TaskError::Running),
        }
    }

    /// Has `callback` called with the task's data and its result when it completes.
    #[must_use = "a task does nothing until it is started"]
    pub fn on_complete(self, callback: impl FnOnce(&Value, &Value) + Send + 'static) -> Self {
        self.job.add(Callback::Complete(Box::new(callback)));
        self
    }

    /// Has `callback` called with the task's data and the reason when it fails or is lost.
    ///
    /// The reason is [`TaskError::Failed`], with the slave's result, or
    /// [`TaskError::Lost`]. A start that failed is an error of [`start`](Task::start)
    /// and calls nothing.
    #[must_use = "a task does nothing until it is started"]
    pub fn on_fail(self, callback: impl FnOnce(&Value, &TaskError) + Send + 'static) -> Self {
        self.job.add(Callback::Fail(Box::new(callback)));
        self
    }

    /// Offers the task to its slave.
    ///
    /// Requests that got no answer are repeated with the same id, which runs
    /// once whatever was lost on the way.
    ///
    /// # Errors
    /// [`Error::NotIdle`] if it was started before; [`Error::Hook`],
    /// [`Error::NotConnected`], [`Error::TooManyPending`] or [`Error::Stopped`] before anything
    /// was sent; [`Error::Refused`] with the slave's code and data, for
    /// instance [`TaskAlreadyExist`](crate::wire::SlaveCode::TaskAlreadyExist) when it is busy;
    /// [`Error::Transport`] if no attempt was answered. After each of the latter the status is
    /// [`Status::StartFailed`], unless the task ended meanwhile: a report that came all the same makes
    /// the start succeed, and one whose slave was lost is [`Status::Lost`] and calls back.
    ///
    /// # Blocking
    /// Until the slave has answered, at most for the request timeout of the
    /// [builder](super::Builder::request_timeout), plus the hooks.
    pub fn start(self) -> Result<Self, Error> {
        self.job.begin()?;
        let retry = &self.connection.core.settings.retry;
        match self.connection.start_as(&self.job, retry) {
            Ok(()) | Err((_, Ok(()))) => Ok(self),
            Err((_, Err(error))) => Err(error),
        }
    }

    /// Waits for the end; none if the start failed.
    pub(crate) fn into_outcome(self) -> Option<Outcome> {
        self.job.wait(None);
        match Arc::try_unwrap(self.job) {
            Ok(job) => job.into_outcome(),
            // Whoever has ended it is about to let it go.
            Err(job) => job.outcome().cloned(),
        }
    }

    /// Waits for the end and returns the result.
    ///
    /// # Errors
    /// [`TaskError::Failed`] or [`TaskError::Lost`] if that was the end,
    /// [`TaskError::StartFailed`], [`TaskError::NotStarted`] at once for a task that is idle.
    ///
    /// # Blocking
    /// Until the slave reports, or is lost, disconnected or forgotten, or the
    /// master shuts down. A slave that goes on beating but never reports is
    /// waited for without limit: [`join_timeout`](Task::join_timeout) has one.
    pub fn join(&self) -> Result<&Value, TaskError> {
        self.job.wait(None);
        self.job.ended().unwrap_or(Err(TaskError::NotStarted))
    }

    /// Like [`join`](Task::join), for at most `limit`.
    ///
    /// # Errors
    /// Those of [`join`](Task::join), and [`TaskError::TimedOut`]; the task goes on.
    pub fn join_timeout(&self, limit: Duration) -> Result<&Value, TaskError> {
        let in_time = self.job.wait(Instant::now().checked_add(limit));
        let missing = if in_time {
            TaskError::NotStarted
        } else {
            TaskError::TimedOut { after: limit }
        };
        self.job.ended().unwrap_or(Err(missing))
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id())
            .field("slave", &self.connection.name())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
