//! What can go wrong with a pool, and how a task of it can end without a result.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::master;
use crate::task::Loss;

/// Why a call on a [`Pool`](super::Pool) or its builder failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A setting has a value that cannot work.
    Setting {
        /// The name of the setter.
        setting: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// The system gave no thread.
    Start {
        /// The system's answer.
        source: io::Error,
    },
    /// The pool was closed, or its master was shut down.
    Stopped,
    /// There is no slave in the pool, or all were given up.
    NoSlaves,
    /// The pool has no slave of that name, or has given it up.
    UnknownSlave {
        /// The name.
        name: String,
    },
    /// No slave of the pool has all the labels that were asked for.
    UnknownLabels {
        /// The labels.
        labels: Vec<String>,
    },
    /// Another slave of the pool, or another connection of the master, has the name.
    NameTaken {
        /// The name.
        name: String,
    },
    /// So many tasks are queued that no more are accepted at the moment.
    Full {
        /// The limit, [`Builder::max_queued`](super::Builder::max_queued).
        limit: usize,
    },
    /// Fewer slaves are connected than were waited for.
    TooFewSlaves {
        /// How many were waited for.
        wanted: usize,
        /// How many are connected.
        connected: usize,
    },
    /// Data for a task cannot be written as JSON.
    Unserializable {
        /// The serializer's reason.
        source: serde_json::Error,
    },
    /// The master could not make a connection, for instance because the text is no address.
    Master {
        /// Its error.
        source: Box<master::Error>,
    },
}

impl From<master::Error> for Error {
    fn from(error: master::Error) -> Self {
        match error {
            master::Error::NameTaken { name } => Self::NameTaken { name },
            master::Error::Stopped => Self::Stopped,
            master::Error::Setting { setting, reason } => Self::Setting { setting, reason },
            error => Self::Master {
                source: Box::new(error),
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { setting, reason } => write!(f, "setting {setting}: {reason}"),
            Self::Start { .. } => f.write_str("cannot start a thread of the pool"),
            Self::Stopped => f.write_str("the pool is closed"),
            Self::NoSlaves => f.write_str("the pool has no slaves"),
            Self::UnknownSlave { name } => write!(f, "the pool has no slave {name:?}"),
            Self::UnknownLabels { labels } => {
                write!(f, "no slave of the pool is {}", labels.join(" and "))
            }
            Self::NameTaken { name } => write!(f, "slave {name:?} already exists"),
            Self::Full { limit } => write!(f, "{limit} tasks are queued, which is the limit"),
            Self::TooFewSlaves { wanted, connected } => {
                write!(f, "{connected} slaves are connected, not {wanted}")
            }
            Self::Unserializable { .. } => f.write_str("the data cannot be written as JSON"),
            Self::Master { .. } => f.write_str("the master cannot make the connection"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Start { source } => Some(source),
            Self::Unserializable { source } => Some(source),
            Self::Master { source } => Some(source),
            _ => None,
        }
    }
}

/// Why there is no result of a task (yet).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JobError {
    /// A slave reported that the task failed, and it is not to be tried again.
    Failed {
        /// The result it reported.
        result: Value,
    },
    /// Its slave was lost, too often or for a task that may not run twice.
    Lost {
        /// The name of the slave that was lost last.
        slave: String,
        /// Why it counts as lost.
        loss: Loss,
        /// How often the task lost a slave.
        losses: u32,
    },
    /// Every slave that it may run on refused it.
    Refused {
        /// The last refusal, with the slave's name, code and data.
        source: Arc<master::Error>,
    },
    /// It could not be offered: a hook of the master, `before_new_task`, said no.
    Unsent {
        /// The master's error.
        source: Arc<master::Error>,
    },
    /// The pool has no slave that it may run on: each was removed or given up, or there never was one.
    NoSlave {
        /// What had stopped the task before that, if it had begun anywhere.
        last: Option<Box<JobError>>,
    },
    /// It had not ended when its deadline passed.
    DeadlinePassed {
        /// The deadline, counted from its submission.
        after: Duration,
    },
    /// It was cancelled.
    Cancelled,
    /// The pool was closed before it ended.
    Closed,
    /// The task has not ended within the limit of [`Job::join_timeout`](super::Job::join_timeout); it goes on.
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// The result is not of the type asked for.
    Mismatch {
        /// The deserializer's reason.
        source: Arc<serde_json::Error>,
    },
    /// An input of [`map`](super::Pool::map) cannot be written as JSON.
    Unserializable {
        /// The serializer's reason.
        source: Arc<serde_json::Error>,
    },
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { result } => write!(f, "the task failed with {result}"),
            Self::Lost { slave, loss, .. } => {
                write!(f, "the task was lost with slave {slave:?}: {loss}")
            }
            Self::Refused { .. } => f.write_str("the task was refused"),
            Self::Unsent { .. } => f.write_str("the task could not be offered"),
            Self::NoSlave { .. } => f.write_str("there is no slave left for the task"),
            Self::DeadlinePassed { after } => write!(f, "the task's deadline of {after:?} passed"),
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Closed => f.write_str("the pool was closed before the task ended"),
            Self::TimedOut { after } => write!(f, "the task has not ended within {after:?}"),
            Self::Mismatch { .. } => f.write_str("the result is not of the expected type"),
            Self::Unserializable { .. } => f.write_str("the data cannot be written as JSON"),
        }
    }
}

impl StdError for JobError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Refused { source } | Self::Unsent { source } => Some(source),
            Self::NoSlave { last: Some(last) } => Some(last),
            Self::Mismatch { source } | Self::Unserializable { source } => Some(source),
            _ => None,
        }
    }
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
