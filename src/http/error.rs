//! What an exchange with another program can end in.
//!
//! The variants are what a caller can act upon; the words of the operating
//! system and of the HTTP library are their sources. An HTTP status, whatever
//! it is, is not an error here: it is an answer, and other modules read it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// A request that got no answer, or none that is HTTP.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No connection: refused, no route, no such name, or no reply in time.
    ///
    /// The peer has not seen the request.
    Unreachable {
        /// The host and port that were tried.
        address: String,
        /// What the system said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The peer was reached and then too slow. It may have acted.
    TimedOut {
        /// What was being done.
        phase: Phase,
        /// How long it was given.
        after: Duration,
    },
    /// The connection ended before the answer did. The peer may have acted.
    Broken {
        /// What the system said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The side that asked is shutting down; the request was given up.
    Stopped,
    /// The answer is not HTTP, or longer than what was asked for allows.
    Unintelligible {
        /// The HTTP status, if the answer got that far.
        status: Option<u16>,
        /// What is wrong, or the start of what came instead.
        excerpt: String,
    },
    /// The address cannot be used; nothing was sent.
    BadAddress {
        /// The address as it was given.
        given: String,
        /// Why not.
        reason: &'static str,
    },
    /// The value of a header cannot be sent, such as a token with a line break; nothing was sent.
    BadHeader {
        /// The header's name. Its value may be secret.
        name: String,
    },
}

/// The part of an exchange that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Sending the request's head.
    Head,
    /// Sending the request's body.
    Body,
    /// Waiting for the head of the answer.
    Answer,
    /// Receiving the body of the answer.
    AnswerBody,
}

/// How many characters of an unintelligible answer are shown.
const EXCERPT: usize = 200;

impl Error {
    /// An answer that is HTTP, but whose body is not what was asked for.
    pub(crate) fn unintelligible(status: u16, body: &[u8]) -> Self {
        // No character is longer than four bytes.
        let start = &body[..body.len().min(4 * EXCERPT)];
        Self::Unintelligible {
            status: Some(status),
            excerpt: String::from_utf8_lossy(start)
                .chars()
                .take(EXCERPT)
                .collect(),
        }
    }

    /// True if the peer may have seen the request, and so may have acted on it.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BadAddress { .. } | Self::BadHeader { .. } => false,
            Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Stopped
            | Self::Unintelligible { .. } => true,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, .. } => write!(f, "{address} cannot be reached"),
            Self::TimedOut { phase, after } => write!(f, "no end of {phase} within {after:?}"),
            Self::Broken { .. } => f.write_str("connection broken before the answer"),
            Self::Stopped => f.write_str("given up because of a shutdown"),
            Self::Unintelligible {
                status: Some(status),
                excerpt,
            } => write!(f, "unintelligible answer with status {status}: {excerpt:?}"),
            Self::Unintelligible { excerpt, .. } => {
                write!(f, "unintelligible answer: {excerpt:?}")
            }
            Self::BadAddress { given, reason } => write!(f, "bad address {given:?}: {reason}"),
            Self::BadHeader { name } => {
                write!(f, "header {name:?} has a value that cannot be sent")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable { source, .. } | Self::Broken { source } => Some(source.as_ref()),
            _ => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "sending the head",
            Self::Body => "sending the body",
            Self::Answer => "waiting for the answer",
            Self::AnswerBody => "receiving the answer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_lower_case_line_and_keep_their_source_to_the_chain() {
        fn is_send_sync<T: Send + Sync + 'static>() {}
        is_send_sync::<Error>();
        let refused = Error::Unreachable {
            address: "10.0.0.3:7236".into(),
            source: "connection refused".into(),
        };
        assert_eq!(refused.to_string(), "10.0.0.3:7236 cannot be reached");
        assert_eq!(refused.source().unwrap().to_string(), "connection refused");
        let slow = Error::TimedOut {
            phase: Phase::Answer,
            after: Duration::from_secs(3),
        };
        assert_eq!(
            slow.to_string(),
            "no end of waiting for the answer within 3s"
        );
        assert!(slow.source().is_none());
        let page = Error::unintelligible(502, "ä".repeat(1000).as_bytes());
        let shown = format!(
            "unintelligible answer with status 502: \"{}\"",
            "ä".repeat(EXCERPT)
        );
        assert_eq!(page.to_string(), shown);
        assert!(slow.may_have_arrived());
        assert!(!refused.may_have_arrived());
    }
}
