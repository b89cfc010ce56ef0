//! What can go wrong at the master, one variant for each thing a caller can act upon.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::Value;

use crate::http;
use crate::task::{Loss, Status};
use crate::wire::{AddressError, Refusal, SlaveCode};

/// An error of user code.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call on a [`Master`](super::Master), a [`Connection`](super::Connection)
/// or the start of a [`Task`](super::Task) failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A setting of the builder has a value that cannot work.
    Setting {
        /// The name of the setter.
        setting: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// The server could not listen on its address, for instance because the port is in use.
    Bind {
        /// The address asked for.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The system gave no thread or no randomness to start with.
    Start {
        /// The system's answer.
        source: io::Error,
    },
    /// The master is shutting down or was shut down.
    Stopped,
    /// Another connection has the name, or is about to get it.
    NameTaken {
        /// The name.
        name: String,
    },
    /// No slave of that name is connected.
    NotFound {
        /// The name.
        name: String,
    },
    /// The text is not the address of a slave.
    BadAddress {
        /// What is wrong with it.
        source: AddressError,
    },
    /// The master's own server did not answer its ping.
    Ping {
        /// What happened.
        source: http::Error,
    },
    /// The connection is up already.
    AlreadyConnected {
        /// The connection's name.
        name: String,
    },
    /// The connection is not up: it never was, was ended, or its slave was lost.
    NotConnected {
        /// The connection's name.
        name: String,
    },
    /// Another thread is connecting or disconnecting this connection right now.
    InProgress {
        /// The connection's name.
        name: String,
    },
    /// A `before_…` hook gave an error, or a hook whose value was needed panicked.
    Hook {
        /// The hook's name.
        hook: &'static str,
        /// Its error.
        source: BoxError,
    },
    /// The slave answered, and said no.
    Refused {
        /// The connection's name.
        name: String,
        /// The slave's address.
        address: String,
        /// Status, code, message and data of the answer.
        refusal: Box<Refusal<SlaveCode>>,
    },
    /// The slave could not be reached, did not answer, or not in a form that can be understood.
    Transport {
        /// The connection's name.
        name: String,
        /// The slave's address.
        address: String,
        /// What happened.
        source: http::Error,
    },
    /// Data for the slave cannot be written as JSON.
    Unserializable {
        /// The serializer's reason.
        source: serde_json::Error,
    },
    /// The task was started before; a task runs once.
    NotIdle {
        /// Where the task stands.
        status: Status,
    },
    /// So many tasks with callbacks are open or wait for their callbacks that no more are accepted.
    TooManyPending {
        /// The limit, [`Builder::max_pending`](super::Builder::max_pending).
        limit: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { setting, reason } => write!(f, "setting {setting}: {reason}"),
            Self::Bind { address, .. } => write!(f, "cannot listen on {address}"),
            Self::Start { .. } => f.write_str("cannot start the master"),
            Self::Stopped => f.write_str("the master is shut down"),
            Self::NameTaken { name } => write!(f, "connection {name:?} already exists"),
            Self::NotFound { name } => write!(f, "connection {name:?} not found"),
            Self::BadAddress { .. } => f.write_str("not the address of a slave"),
            Self::Ping { .. } => f.write_str("the master's own server does not answer"),
            Self::AlreadyConnected { name } => write!(f, "slave {name:?} is connected already"),
            Self::NotConnected { name } => write!(f, "slave {name:?} is not connected"),
            Self::InProgress { name } => {
                write!(
                    f,
                    "slave {name:?} is being connected or disconnected by another thread"
                )
            }
            Self::Hook { hook, .. } => write!(f, "hook {hook} failed"),
            Self::Refused { name, address, .. } => write!(f, "slave {name:?} at {address} refused"),
            Self::Transport { name, address, .. } => {
                write!(f, "no answer from slave {name:?} at {address}")
            }
            Self::Unserializable { .. } => f.write_str("the data cannot be written as JSON"),
            Self::NotIdle { status } => write!(f, "a task that is {status} cannot be started"),
            Self::TooManyPending { limit } => {
                write!(
                    f,
                    "{limit} tasks are open or wait for their callbacks, which is the limit"
                )
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Start { source } => Some(source),
            Self::Hook { source, .. } => Some(&**source),
            Self::Transport { source, .. } | Self::Ping { source } => Some(source),
            Self::BadAddress { source } => Some(source),
            Self::Refused { refusal, .. } => Some(&**refusal),
            Self::Unserializable { source } => Some(source),
            _ => None,
        }
    }
}

/// Why there is no result of a task (yet).
#[derive(Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task was never started, so waiting for it would never end.
    NotStarted,
    /// The slave did not accept the task; the error of [`Task::start`](super::Task::start) said why.
    StartFailed,
    /// The slave reported that the task failed.
    Failed {
        /// The result it reported.
        result: Value,
    },
    /// The task ended without a report.
    Lost {
        /// Why.
        loss: Loss,
    },
    /// The task has not ended within the limit.
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// The task has not ended yet.
    Running,
    /// The result is not of the type asked for.
    Mismatch {
        /// The deserializer's reason.
        source: serde_json::Error,
    },
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("the task was not started"),
            Self::StartFailed => f.write_str("the task was not accepted"),
            Self::Failed { result } => write!(f, "the task failed with {result}"),
            Self::Lost { loss } => write!(f, "the task was lost: {loss}"),
            Self::TimedOut { after } => write!(f, "the task has not ended within {after:?}"),
            Self::Running => f.write_str("the task has not ended yet"),
            Self::Mismatch { .. } => f.write_str("the result is not of the expected type"),
        }
    }
}

impl StdError for TaskError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Mismatch { source } => Some(source),
            _ => None,
        }
    }
}
