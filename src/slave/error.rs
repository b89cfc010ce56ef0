//! What can go wrong at the slave.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::http;
use crate::wire::{MasterCode, Refusal};

/// Why a slave could not start, or a call on it failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
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
    /// The slave's own server did not answer its ping.
    Ping {
        /// What happened.
        source: http::Error,
    },
    /// The slave is shutting down or was shut down.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, .. } => write!(f, "cannot listen on {address}"),
            Self::Start { .. } => f.write_str("cannot start the slave"),
            Self::Ping { .. } => f.write_str("the slave's own server does not answer"),
            Self::Stopped => f.write_str("the slave is shut down"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Start { source } => Some(source),
            Self::Ping { source } => Some(source),
            Self::Stopped => None,
        }
    }
}

/// Why a slave gave its master up, after all retries of a heartbeat.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lost {
    /// The last heartbeat got no answer, or one that makes no sense.
    Unreachable {
        /// What happened to it.
        source: http::Error,
    },
    /// The master answered, and does not know this slave (any more), or is shutting down.
    Refused {
        /// Its answer to the last heartbeat.
        refusal: Refusal<MasterCode>,
    },
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { .. } => f.write_str("the master does not answer"),
            Self::Refused { .. } => f.write_str("the master refuses heartbeats"),
        }
    }
}

impl StdError for Lost {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable { source } => Some(source),
            Self::Refused { refusal } => Some(refusal),
        }
    }
}
