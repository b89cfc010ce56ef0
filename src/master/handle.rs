//! What a scheduler needs of a master, beside what everyone may use.
//!
//! A [`Handle`] makes connections and outlives its master; the methods of [`Connection`] here have time limits of
//! their own, and say of an offer that failed what has to be known to place the task again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use super::connection::Connection;
use super::core::{Core, Failure};
use super::error::Error;
use super::job::Job;
use super::task::Task;
use crate::http::Retry;
use crate::lifecycle::Stop;
use crate::task::Loss;
use crate::wire::SlaveCode;

/// The least time that a slave is given for an answer, however little silence is tolerated.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);

/// Makes connections for a master, without owning it.
#[derive(Clone)]
pub(crate) struct Handle {
    core: Arc<Core>,
}

/// Why a task was not accepted by the slave it was offered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// No answer, or not to each attempt; the slave may have got it.
    Unanswered,
    /// The slave is not there, or not ours; it has not got it.
    Away,
    /// The slave has another task, or the master too many.
    Busy,
    Refused,
    /// A hook of the master said no; the slave was not asked.
    Unsent,
}

impl Missed {
    /// Of an error before anything was sent.
    pub(super) fn early(error: &Error) -> Self {
        match error {
            Error::Hook { .. } => Self::Unsent,
            Error::TooManyPending { .. } => Self::Busy,
            _ => Self::Away,
        }
    }

    pub(super) fn at_slave(failure: &Failure) -> Self {
        use SlaveCode::{
            MasterTokenInvalid, SlaveNotConnected, SystemShuttingDown, TaskAlreadyExist,
        };
        match failure {
            failure if failure.may_have_arrived() => Self::Unanswered,
            Failure::Refused { refusal, .. } => match refusal.code {
                TaskAlreadyExist => Self::Busy,
                MasterTokenInvalid | SlaveNotConnected | SystemShuttingDown => Self::Away,
                _ => Self::Refused,
            },
            Failure::Transport(_) => Self::Away,
        }
    }
}

impl Handle {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    pub(crate) fn new_connection(&self, name: String, address: &str) -> Result<Connection, Error> {
        Connection::open(&self.core, name, address)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.core.check_running().is_ok()
    }

    /// The port the master listens on.
    pub(crate) fn port(&self) -> u16 {
        self.core.local_addr.port()
    }

    /// How long to wait for a slave's answer: for longer it would count as lost.
    pub(crate) fn patience(&self) -> Duration {
        let tolerance = self.core.settings.heartbeat_tolerance;
        let patience = tolerance.max(LEAST_PATIENCE);
        patience.min(self.core.settings.retry.total)
    }
}

impl Connection {
    /// One attempt to connect, in which a slave that still works on a task of ours is left alone.
    pub(crate) fn connect_within(&self, limit: Duration) -> Result<(), Error> {
        self.connect_as(&once(limit), true).map(drop)
    }

    /// Like [`disconnect`](Connection::disconnect), with one attempt.
    pub(crate) fn disconnect_within(&self, limit: Duration) -> Result<Value, Error> {
        self.disconnect_as(&once(limit))
    }

    /// Offers a new task with this data; it is accepted, or there is a reason and its words.
    ///
    /// `id` is one that no other task has, nor an earlier offer of this one.
    pub(crate) fn offer(
        &self,
        id: Uuid,
        data: Arc<Value>,
        limit: Duration,
    ) -> Result<Task, (Missed, Error)> {
        let job = Arc::new(Job::new(id, data));
        let retry = Retry {
            total: limit,
            ..self.core.settings.retry
        };
        let started = job.begin().map_err(|error| (Missed::Unsent, Err(error)));
        match started.and_then(|()| self.start_as(&job, &retry)) {
            Ok(()) => Ok(Task::of(self.clone(), job)),
            Err((missed, told)) => Err((missed, told.err().unwrap_or_else(kept_secret))),
        }
    }

    /// Ends the connection without a word, as if the slave were lost: what is open ends as lost.
    ///
    /// A slave that is alive is told in the end, after it has reported.
    ///
    /// `unanswered` counts the offers that the slave may have got, so that it is let report.
    pub(crate) fn give_up(&self, unanswered: usize) {
        let slaves = &self.core.slaves;
        let open = slaves.drop_connected(self.peer.id, unanswered, Instant::now());
        self.core.lose(&self.peer, open, &Loss::Disconnected);
    }

    /// Stopped when the connection, as it is now, has ended.
    pub(crate) fn ended(&self) -> Stop {
        self.core.slaves.ended(self.peer.id)
    }

    /// When the slave was last heard of, if it is connected.
    pub(crate) fn last_beat(&self) -> Option<Instant> {
        self.core.slaves.last_beat(self.peer.id)
    }
}

/// One attempt.
fn once(limit: Duration) -> Retry {
    Retry {
        retries: 0,
        waiting: Duration::ZERO,
        total: limit,
    }
}

/// In place of an error that a hook did not pass on.
fn kept_secret() -> Error {
    Error::Hook {
        hook: "error_new_task",
        source: "the hook kept the error to itself".into(),
    }
}
