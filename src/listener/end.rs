//! How the connection of a child process ends, and why one is turned away.

use std::{fmt, io};

/// How the connection of a child ended, as [`Handler::gone`](super::Handler::gone) is told.
///
/// It says nothing of the process itself: whoever holds the `Child` can add its exit status.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// The child said goodbye: its sender was closed or dropped.
    Bye,
    /// The connection ended without a goodbye: the child crashed, was killed, or left without
    /// dropping its sender, as `std::process::exit` does.
    Closed,
    /// The listener was stopped while the child was connected.
    Stopped,
    /// The child broke the rules and was cut off.
    Refused(Refused),
    /// The system failed to read from the connection.
    Io(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bye => f.write_str("said goodbye"),
            Self::Closed => f.write_str("closed without a goodbye"),
            Self::Stopped => f.write_str("the listener was stopped"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Io(error) => write!(f, "broken: {error}"),
        }
    }
}

/// Why a listener turns a connection away, or cuts it off.
///
/// The child is told before the connection is closed, if it can be told without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// There are as many connections as the listener takes, see
    /// [`Builder::max_connections`](super::Builder::max_connections).
    TooMany,
    /// No complete first frame came within
    /// [`Builder::hello_timeout`](super::Builder::hello_timeout).
    NoHello,
    /// The child speaks another version of the frames.
    Version,
    /// The token is not the one of this listener.
    BadToken,
    /// The source is not text of 1 to 255 bytes.
    BadSource,
    /// The source is connected already.
    Taken,
    /// A frame is longer than [`Builder::max_frame`](super::Builder::max_frame), or the first one
    /// than [`Refused::HELLO_LIMIT`]. What is no frame at all, such as text, often looks like this.
    TooLong,
    /// What came is not JSON, or not the JSON of a frame.
    BadFrame,
    /// A reason that this version does not know; only a child meets it.
    Other,
}

impl Refused {
    /// The most bytes of JSON in the first frame of a connection.
    pub const HELLO_LIMIT: usize = 4096;

    /// The name of the reason in a frame.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::NoHello => "no_hello",
            Self::Version => "version",
            Self::BadToken => "bad_token",
            Self::BadSource => "bad_source",
            Self::Taken => "taken",
            Self::TooLong => "too_long",
            Self::BadFrame => "bad_frame",
            Self::Other => "other",
        }
    }

    /// The reason of that name.
    pub(super) fn from_name(name: &str) -> Self {
        let known = [
            Self::TooMany,
            Self::NoHello,
            Self::Version,
            Self::BadToken,
            Self::BadSource,
            Self::Taken,
            Self::TooLong,
            Self::BadFrame,
        ];
        let same = known.into_iter().find(|reason| reason.name() == name);
        same.unwrap_or(Self::Other)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "too many connections",
            Self::NoHello => "no complete first frame in time",
            Self::Version => "another version of the frames",
            Self::BadToken => "not the token of this listener",
            Self::BadSource => "not a source",
            Self::Taken => "the source is connected already",
            Self::TooLong => "the frame is too long",
            Self::BadFrame => "not a frame",
            Self::Other => "an unknown reason",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_known_by_its_name() {
        let mut reasons = vec![Refused::Other, Refused::TooMany, Refused::NoHello];
        reasons.extend([Refused::Version, Refused::BadToken, Refused::BadSource]);
        reasons.extend([Refused::Taken, Refused::TooLong, Refused::BadFrame]);
        for reason in reasons {
            assert_eq!(Refused::from_name(reason.name()), reason);
        }
        assert_eq!(Refused::from_name("of a later version"), Refused::Other);
    }
}
