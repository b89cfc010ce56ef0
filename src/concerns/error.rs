//! What goes wrong: with names and messages, with sending, with requests, with a node.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::str::Utf8Error;
use std::time::Duration;

use super::identity::{Command, Identity};
use super::message::Outgoing;

/// Any error of a concern's own.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A text that is too short or too long for an identity or a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName {
    what: &'static str,
    range: RangeInclusive<usize>,
    length: usize,
}

impl BadName {
    pub(super) fn new(what: &'static str, range: RangeInclusive<usize>, length: usize) -> Self {
        Self {
            what,
            range,
            length,
        }
    }

    /// How many bytes the text had.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.range.start(), self.range.end());
        let what = self.what.to_lowercase();
        write!(
            f,
            "an {what} has {first} to {last} bytes, not {}",
            self.length
        )
    }
}

impl StdError for BadName {}

/// A payload that is no JSON object.
#[derive(Debug)]
pub struct BadPayload(Flaw);

#[derive(Debug)]
enum Flaw {
    Unserializable(serde_json::Error),
    NotText(Utf8Error),
    NotJson(serde_json::Error),
    NotAnObject,
}

impl BadPayload {
    pub(super) fn unserializable(source: serde_json::Error) -> Self {
        Self(Flaw::Unserializable(source))
    }

    pub(super) fn not_text(source: Utf8Error) -> Self {
        Self(Flaw::NotText(source))
    }

    pub(super) fn not_json(source: serde_json::Error) -> Self {
        Self(Flaw::NotJson(source))
    }

    pub(super) fn not_an_object() -> Self {
        Self(Flaw::NotAnObject)
    }
}

impl fmt::Display for BadPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Flaw::Unserializable(_) => "the payload cannot be written as JSON",
            Flaw::NotText(_) => "the payload is not UTF-8",
            Flaw::NotJson(_) => "the payload is not JSON",
            Flaw::NotAnObject => "the payload is not a JSON object",
        })
    }
}

impl StdError for BadPayload {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            Flaw::Unserializable(source) | Flaw::NotJson(source) => Some(source),
            Flaw::NotText(source) => Some(source),
            Flaw::NotAnObject => None,
        }
    }
}

/// A message that cannot be.
#[derive(Debug)]
#[non_exhaustive]
pub enum BadMessage {
    /// Its receiver's identity or its command.
    Name(BadName),
    /// What it carries.
    Payload(BadPayload),
}

impl From<BadName> for BadMessage {
    fn from(source: BadName) -> Self {
        Self::Name(source)
    }
}

impl From<BadPayload> for BadMessage {
    fn from(source: BadPayload) -> Self {
        Self::Payload(source)
    }
}

impl From<Infallible> for BadMessage {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for BadMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(source) => source.fmt(f),
            Self::Payload(source) => source.fmt(f),
        }
    }
}

impl StdError for BadMessage {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Name(_) => None,
            Self::Payload(source) => source.source(),
        }
    }
}

/// Why a message could not be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// There is no link to its receiver, none to a hop on the way, and nobody who could be asked.
    NoPath,
    /// The link ended before it was written.
    LinkLost,
    /// As much as may wait for that neighbour waits already; or for all of them.
    Full,
    /// It is longer than [`Builder::max_payload`](super::Builder::max_payload) allows.
    TooLong {
        /// How many bytes its payload has.
        bytes: usize,
    },
    /// Its command belongs to no concern of this node.
    NoConcern,
    /// Its lifetime was over.
    Expired,
    /// Nobody that was asked knows a way to its receiver.
    Unknown,
    /// It went over as many hops as a message may.
    TooManyHops,
    /// The node stops, or has stopped.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPath => "there is no link to the peer and no hop on the way",
            Self::LinkLost => "the link ended before the message was written",
            Self::Full => "too many messages wait already",
            Self::TooLong { bytes } => return write!(f, "a payload of {bytes} bytes is too long"),
            Self::NoConcern => "no concern of this node has that command",
            Self::Expired => "the lifetime of the message was over",
            Self::Unknown => "nobody knows a way to the peer",
            Self::TooManyHops => "the message went over too many hops",
            Self::Stopped => "the node has stopped",
        })
    }
}

/// A message that was not sent, and why.
#[derive(Debug)]
pub struct SendError {
    pub(crate) message: Outgoing,
    pub(crate) reason: Reason,
}

impl SendError {
    /// Why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The message.
    pub fn message(&self) -> &Outgoing {
        &self.message
    }

    /// The message, to be sent again.
    pub fn into_message(self) -> Outgoing {
        self.message
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outgoing { to, command, .. } = &self.message;
        write!(f, "{command} for {to}: {}", self.reason)
    }
}

impl StdError for SendError {}

/// Why a request got no reply.
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestError {
    /// The request cannot be made like that.
    Bad(BadMessage),
    /// It could not be sent, or was given up on its way.
    NotSent(Reason),
    /// There was no reply in time. The request may have been handled.
    TimedOut {
        /// The time there was.
        after: Duration,
    },
    /// The peer has no concern with that command.
    NoSuchCommand {
        /// The command.
        command: Command,
    },
    /// The peer's concern answered with an error, or not at all.
    Refused,
    /// The peer was lost, has left or was started anew meanwhile. The request may have been handled.
    PeerLost {
        /// Who.
        peer: Identity,
    },
    /// The node has stopped.
    Stopped,
    /// A hook cannot wait for a reply: it runs on the thread that would bring it.
    WouldDeadlock,
}

impl From<BadMessage> for RequestError {
    fn from(source: BadMessage) -> Self {
        Self::Bad(source)
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(_) => f.write_str("the request cannot be made"),
            Self::NotSent(reason) => write!(f, "the request did not get there: {reason}"),
            Self::TimedOut { after } => write!(f, "no reply within {after:?}"),
            Self::NoSuchCommand { command } => {
                write!(f, "the peer has no concern with the command {command}")
            }
            Self::Refused => f.write_str("the peer's concern gave no answer"),
            Self::PeerLost { peer } => write!(f, "{peer} was lost before it replied"),
            Self::Stopped => f.write_str("the node has stopped"),
            Self::WouldDeadlock => {
                f.write_str("a hook cannot wait for a reply, it comes on the same thread")
            }
        }
    }
}

impl StdError for RequestError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Bad(source) => Some(source),
            _ => None,
        }
    }
}

/// What a node could not do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A name is too short or too long.
    Name(BadName),
    /// A setting does not make sense.
    Setting {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The address to listen at cannot be had.
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// An address is not of the form `host:port`, or cannot be told to others.
    Address {
        /// The address.
        given: String,
        /// Why.
        problem: &'static str,
    },
    /// The file of peers cannot be read or written.
    Store {
        /// What could not be done.
        problem: String,
        /// Why.
        source: io::Error,
    },
    /// The identity that was given is not the one in the file of peers.
    IdentityDiffers {
        /// The one that was given.
        given: Identity,
        /// The one in the file.
        stored: Identity,
    },
    /// A thread could not be started.
    Thread(io::Error),
    /// Another concern has that command.
    CommandTaken {
        /// The command.
        command: Command,
    },
    /// A concern failed, or panicked, in its `start`.
    Concern {
        /// Its command.
        command: Command,
        /// Why.
        source: BoxError,
    },
    /// As many peers are known as may be.
    TooManyPeers,
    /// The node has stopped.
    Stopped,
    /// A hook cannot wait for its own node; its [`Context`](super::Context) can do the same.
    WouldDeadlock,
}

impl From<BadName> for Error {
    fn from(source: BadName) -> Self {
        Self::Name(source)
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(source) => source.fmt(f),
            Self::Setting { name, problem } => write!(f, "{name}: {problem}"),
            Self::Listen { address, .. } => write!(f, "cannot listen at {address}"),
            Self::Address { given, problem } => write!(f, "the address {given:?}: {problem}"),
            Self::Store { problem, .. } => write!(f, "the file of peers: {problem}"),
            Self::IdentityDiffers { given, stored } => {
                write!(f, "the identity {given} was given, the file has {stored}")
            }
            Self::Thread(_) => f.write_str("a thread could not be started"),
            Self::CommandTaken { command } => {
                write!(f, "another concern has the command {command}")
            }
            Self::Concern { command, .. } => write!(f, "the concern {command} did not start"),
            Self::TooManyPeers => f.write_str("as many peers are known as may be"),
            Self::Stopped => f.write_str("the node has stopped"),
            Self::WouldDeadlock => f.write_str("a hook cannot wait for its own node"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Store { source, .. } | Self::Thread(source) => {
                Some(source)
            }
            Self::Concern { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
