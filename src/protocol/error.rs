//! What can go wrong with a message loop.
//!
//! One cause ends up with many waiting callers, so an [`Error`] is shared:
//! cloning it is cheap and keeps the chain of causes, down to the
//! `io::Error`, as it was.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::State;

/// What a hook or a codec fails with: any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call failed, or a session ended.
///
/// [`kind`](Self::kind) is for decisions, [`report`](Self::report) for people:
/// `Display` says this level only, and `{:#}` is the same as `report`.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    failures: Vec<Failure>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The call is not for this state. In [`State::Disconnecting`], the cause of the end is the source.
    State {
        /// The state it was called in.
        actual: State,
        /// The state it is for.
        needed: State,
    },
    /// No connection came about.
    Connect {
        /// Where to.
        address: String,
    },
    /// Nobody can be waited for at this address.
    Listen {
        /// The address.
        address: String,
    },
    /// The peers did not come to terms, or the session could not be started.
    Handshake,
    /// A limit of time was over.
    Timeout {
        /// Whose limit it was.
        phase: Phase,
        /// How long it was.
        allowed: Duration,
    },
    /// Somebody wanted it so.
    Cancelled,
    /// The stream ended between two messages.
    PeerClosed,
    /// The peer cut the connection off: `ECONNRESET`, `EPIPE`, `ECONNABORTED`.
    PeerReset,
    /// The stream ended inside a message.
    Truncated {
        /// How many of its bytes had come.
        length: usize,
        /// The first of them, at most 4,096.
        start: Vec<u8>,
    },
    /// A message was longer than [`max_message`](super::Options::max_message).
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The decoder could make nothing of what came.
    Decode {
        /// Where in the message.
        offset: usize,
        /// At most 200 bytes from around there.
        excerpt: Vec<u8>,
    },
    /// The encoder refused this message.
    Encode,
    /// Reading or writing failed.
    Io,
    /// A hook returned an error.
    Hook {
        /// Its name.
        hook: &'static str,
    },
    /// A hook panicked.
    HookPanic {
        /// Its name.
        hook: &'static str,
        /// What it panicked with, if that was text.
        message: String,
    },
    /// There is no room in the outbound queue.
    QueueFull,
    /// The session is at its end; its cause, if it ended by itself, is the source.
    Ended,
    /// The call would wait for the very thread that made it.
    WouldDeadlock,
    /// Reader and writer failed independently of each other; see [`Error::errors`].
    Both,
}

/// A part of a session's life that has a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Until there is a connected socket.
    Connect,
    /// Until a peer has come.
    Accept,
    /// Until the handshake hook has returned.
    Handshake,
    /// Until there was room in the outbound queue.
    Send,
    /// Until the session had ended.
    End,
}

/// Where a session failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The thread that reads.
    Reader,
    /// The thread that writes, or a caller that wrote directly.
    Writer,
    /// Neither: the hook `on_start` failed.
    Start,
}

/// One of the failures that ended a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Which thread failed.
    pub side: Side,
    /// When.
    pub at: Instant,
    /// Of what.
    pub error: Error,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::made(kind, None, Vec::new())
    }

    pub(crate) fn caused(kind: Kind, source: impl Into<BoxError>) -> Self {
        Self::made(kind, Some(Arc::from(source.into())), Vec::new())
    }

    /// What reading or writing failed with; a cut connection is told from other failures.
    pub(crate) fn of_io(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Kind::PeerReset,
            _ => Kind::Io,
        };
        Self::caused(kind, error)
    }

    /// This error, remembering all `failures` that ended the session.
    pub(super) fn with_failures(&self, failures: Vec<Failure>) -> Self {
        Self::made(self.0.kind.clone(), self.0.source.clone(), failures)
    }

    fn made(
        kind: Kind,
        source: Option<Arc<dyn StdError + Send + Sync>>,
        failures: Vec<Failure>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            source,
            failures,
        }))
    }

    /// What happened, for decisions.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The part of a session's life that failed, if it was one that has a name.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self.kind() {
            Kind::Connect { .. } => Some(Phase::Connect),
            Kind::Listen { .. } => Some(Phase::Accept),
            Kind::Handshake => Some(Phase::Handshake),
            Kind::Timeout { phase, .. } => Some(*phase),
            _ => None,
        }
    }

    /// The first `io::Error` in the chain of causes.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        first_io(self.source())
    }

    /// Whether the same `connect` may well succeed a little later: nobody there yet, refused,
    /// reset, or no answer in time. False for everything else.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            Kind::Timeout { phase, .. } => *phase == Phase::Connect,
            Kind::Connect { .. } => self.io().is_some_and(|error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::WouldBlock
                )
            }),
            _ => false,
        }
    }

    /// The failures that ended a session, in the order of their time. Empty for other errors.
    #[must_use]
    pub fn errors(&self) -> &[Failure] {
        &self.0.failures
    }

    /// The other failure of the same end, if there were two: the later one of [`Kind::Both`], else
    /// the writer's, which was a consequence.
    #[must_use]
    pub fn also(&self) -> Option<&Error> {
        let other = match self.errors() {
            [_, second, ..] if *self.kind() == Kind::Both => Some(second),
            two @ [_, _, ..] => two.iter().find(|failure| failure.side == Side::Writer),
            _ => None,
        };
        other.map(|failure| &failure.error)
    }

    /// The whole chain of causes in one line, outermost first.
    #[must_use]
    pub fn report(&self) -> String {
        report(self)
    }
}

/// The first `io::Error` in a chain of causes.
pub(crate) fn first_io<'a>(
    mut cause: Option<&'a (dyn StdError + 'static)>,
) -> Option<&'a io::Error> {
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// An error and its causes in one line, outermost first.
pub(crate) fn report(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f.write_str(&self.report());
        }
        match self.kind() {
            Kind::State { actual, needed } => {
                if actual == needed {
                    return f.write_str("another connect or accept is under way");
                }
                write!(f, "called while {actual}, but is for {needed}")?;
                match actual {
                    State::Disconnecting => f.write_str(" (collect the end first: disconnect)"),
                    State::Idle if *needed == State::Connecting => f.write_str(" (listen first)"),
                    _ => Ok(()),
                }
            }
            Kind::Connect { address } => write!(f, "no connection to {address}"),
            Kind::Listen { address } => write!(f, "cannot listen at {address}"),
            Kind::Handshake => f.write_str("the handshake failed"),
            Kind::Timeout { phase, allowed } => {
                let what = match phase {
                    Phase::Connect => "no connection",
                    Phase::Accept => "nobody came",
                    Phase::Handshake => "the handshake was not done",
                    Phase::Send => "no room in the outbound queue",
                    Phase::End => "the session had not ended",
                };
                write!(f, "{what} within {allowed:?}")
            }
            Kind::Cancelled => f.write_str("cancelled"),
            Kind::PeerClosed => f.write_str("the peer closed the connection"),
            Kind::PeerReset => f.write_str("the peer cut the connection off"),
            Kind::Truncated { length, .. } => {
                write!(f, "the stream ended inside a message, after {length} bytes")
            }
            Kind::TooLong { limit } => write!(f, "a message is longer than {limit} bytes"),
            Kind::Decode { offset, excerpt } => write!(
                f,
                "undecodable at byte {offset} of a message, near \"{}\"",
                excerpt.escape_ascii()
            ),
            Kind::Encode => f.write_str("the message cannot be encoded"),
            Kind::Io => f.write_str("reading or writing failed"),
            Kind::Hook { hook } => write!(f, "hook {hook} failed"),
            Kind::HookPanic { hook, message } => write!(f, "hook {hook} panicked: {message}"),
            Kind::QueueFull => f.write_str("the outbound queue is full"),
            Kind::Ended => f.write_str("the session has ended"),
            Kind::WouldDeadlock => f.write_str("the call would wait for its own thread"),
            Kind::Both => f.write_str("reader and writer failed"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", self.kind());
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        if !self.errors().is_empty() {
            debug.field("errors", &self.errors());
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_ref()?;
        Some(&**source)
    }
}

/// A message that was not taken, and why.
pub struct SendError<M> {
    /// The message.
    pub message: M,
    /// What was in the way: [`Kind::State`], [`Kind::QueueFull`], [`Kind::Timeout`],
    /// [`Kind::Ended`] or [`Kind::WouldDeadlock`].
    pub error: Error,
}

/// Without the message, so that it needs no `M: Debug`.
impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SendError");
        debug.field("error", &self.error).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message was not taken")
    }
}

impl<M> StdError for SendError<M> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_kept_down_to_the_system_s_error_and_reported_in_one_line() {
        let io = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = io.to_string();
        let address = "127.0.0.1:1".to_owned();
        let error = Error::caused(Kind::Connect { address }, io);
        assert_eq!(error.to_string(), "no connection to 127.0.0.1:1");
        let whole = format!("no connection to 127.0.0.1:1: {text}");
        assert_eq!(error.report(), whole);
        assert_eq!(format!("{error:#}"), whole);
        assert_eq!(error.io().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.phase(), Some(Phase::Connect));
        assert!(error.is_retryable());
        let outer = Error::caused(Kind::Ended, error);
        assert_eq!(
            outer.io().unwrap().kind(),
            io::ErrorKind::ConnectionRefused,
            "found two levels down"
        );
        assert!(!outer.is_retryable(), "only a connect is worth another try");
    }

    #[test]
    fn a_cut_connection_is_told_from_other_failures() {
        let kind = |kind| Error::of_io(io::Error::from(kind)).kind().clone();
        assert_eq!(kind(io::ErrorKind::BrokenPipe), Kind::PeerReset);
        assert_eq!(kind(io::ErrorKind::ConnectionReset), Kind::PeerReset);
        assert_eq!(kind(io::ErrorKind::PermissionDenied), Kind::Io);
    }
}
