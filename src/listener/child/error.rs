//! Why a child process does not reach its listener, or a message does not.

use std::error::Error as StdError;
use std::{fmt, io};

use super::super::end::Refused;
use super::super::error::BadSource;
use super::super::frame::Unfit;

/// Why a connection was not made, or a message not posted.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A variable of the environment is missing or not text: this process, or one between, was not
    /// started with what [`Endpoint::env`](crate::listener::Endpoint::env) says.
    NoEnvironment {
        /// The name of the variable.
        variable: &'static str,
    },
    /// The source is not one.
    BadSource(BadSource),
    /// Nobody listens at the address any more, or nobody answered as a listener does.
    Unreachable {
        /// The address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The listener turned this process away, or has cut it off.
    Refused {
        /// The reason.
        reason: Refused,
        /// The reason in the listener's words.
        message: String,
    },
    /// The data cannot be made JSON; nothing was written.
    Unserialisable {
        /// The reason.
        source: serde_json::Error,
    },
    /// The message is longer than the listener takes; nothing was written.
    TooLong {
        /// The bytes of its JSON.
        length: usize,
        /// The most that the listener takes.
        limit: usize,
    },
    /// The listener has been stopped or is gone, or this sender was closed.
    Closed,
    /// The message has not left the process in time.
    TimedOut {
        /// Whether the message was begun. If so it counts as posted: its rest goes out before
        /// anything else does, with the next post, the close or the drop; to post it again would
        /// double it. If not, nothing of it was written and it may be posted again.
        begun: bool,
    },
}

impl Error {
    pub(super) fn unfit(unfit: Unfit, limit: usize) -> Self {
        match unfit {
            Unfit::Json(source) => Self::Unserialisable { source },
            Unfit::TooLong { length } => Self::TooLong { length, limit },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEnvironment { variable } => {
                write!(f, "the environment has no usable {variable}")
            }
            Self::BadSource(_) => f.write_str("this is no source"),
            Self::Unreachable { address, .. } => write!(f, "no listener reached at {address}"),
            Self::Refused { reason, message } if *message == reason.to_string() => {
                write!(f, "refused by the listener: {reason}")
            }
            Self::Refused { reason, message } => {
                write!(f, "refused by the listener: {reason} ({message:?})")
            }
            Self::Unserialisable { .. } => f.write_str("the data cannot be made JSON"),
            Self::TooLong { length, limit } => write!(
                f,
                "the message has {length} bytes, more than the {limit} that the listener takes"
            ),
            Self::Closed => f.write_str("the listener has been stopped, or this sender closed"),
            Self::TimedOut { begun: false } => f.write_str("the message was not posted in time"),
            Self::TimedOut { begun: true } => f.write_str("the message was not written in time"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::BadSource(source) => Some(source),
            Self::Unreachable { source, .. } => Some(source),
            Self::Unserialisable { source } => Some(source),
            _ => None,
        }
    }
}
