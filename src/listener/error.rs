//! What can go wrong with a listener: one enum for its start and end, and small
//! errors that give back what was handed in.

use std::error::Error as StdError;
use std::{fmt, io};

use super::message::{Message, Source};

/// What a handler fails with: any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a listener could not be started or shut down.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A queue with room for nothing was asked for.
    NoCapacity,
    /// The name is not one of 1 to 15 bytes without a zero byte.
    BadName {
        /// The name that was given.
        given: String,
    },
    /// The system did not start the thread.
    NoThread {
        /// The system's reason.
        source: io::Error,
    },
    /// The socket that children connect to was not made.
    NoSocket {
        /// The system's reason.
        source: io::Error,
    },
    /// The listener has been stopped, so no child can connect to it any more.
    Stopped,
    /// A shutdown was called from inside a handler.
    FromHandler,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCapacity => f.write_str("the capacity of a listener is at least 1"),
            Self::BadName { given } => write!(
                f,
                "the name of a listener has 1 to 15 bytes, none of them zero, unlike {given:?}"
            ),
            Self::NoThread { .. } => f.write_str("the thread of the listener was not started"),
            Self::NoSocket { .. } => {
                f.write_str("the socket for the children of the listener was not made")
            }
            Self::Stopped => f.write_str("the listener has been stopped"),
            Self::FromHandler => {
                f.write_str("a listener is not shut down from inside its handlers")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NoThread { source } | Self::NoSocket { source } => Some(source),
            _ => None,
        }
    }
}

/// A message that was not accepted, and why.
#[derive(Clone, PartialEq, Eq)]
pub struct PostError<D> {
    /// The message, unchanged.
    pub message: Message<D>,
    /// What was in the way.
    pub reason: Reason,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The listener has been stopped and will take no message again.
    Closed,
    /// There was no room for it, or none in time.
    Full,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the listener has been stopped",
            Self::Full => "the queue of the listener is full",
        })
    }
}

/// Without the data, so that it needs no `D: Debug`.
impl<D> fmt::Debug for PostError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostError")
            .field("source", &self.message.source)
            .field("cmd", &self.message.cmd)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<D> fmt::Display for PostError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { source, cmd, .. } = &self.message;
        write!(
            f,
            "message {cmd:?} of {source:?} not posted: {}",
            self.reason
        )
    }
}

impl<D> StdError for PostError<D> {}

/// A handler that was not registered because its source has one.
#[derive(Clone, PartialEq, Eq)]
pub struct Taken<H> {
    /// The source.
    pub source: Source,
    /// The handler that was to be registered.
    pub handler: H,
}

impl<H> fmt::Debug for Taken<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl<H> fmt::Display for Taken<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source {:?} has a handler already", self.source)
    }
}

impl<H> StdError for Taken<H> {}

/// Text that is no [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadSource {
    /// How many bytes it has.
    pub length: usize,
}

impl fmt::Display for BadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = Source::LIMIT;
        write!(f, "a source has 1 to {limit} bytes, not {}", self.length)
    }
}

impl StdError for BadSource {}
