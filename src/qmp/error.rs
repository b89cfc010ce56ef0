//! What can go wrong with a client, on top of what can go wrong with its loop.
//!
//! As there, one cause ends up with many waiting callers: an [`Error`] is cheap to clone and keeps
//! the chain of causes as it was. A failure of the loop is no level of its own in that chain: the
//! variant says what it means here, in the loop's words.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use serde_json::Value;

use super::command::{Command, InvalidCommand};
use super::framing;
use super::message::Event;
use crate::protocol::{self, Kind, Phase};

/// Why a call failed, or a session ended.
///
/// `Display` says this level only; [`report`](Self::report) and `{:#}` say the causes as well.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// No connection came about, or nobody can be waited for at this address.
    Connect(protocol::Error),
    /// A limit of time was over.
    Timeout {
        /// What was waited for.
        waiting: Waiting,
        /// How long.
        allowed: Duration,
    },
    /// Something other than a greeting came first.
    NotQmp {
        /// How it began.
        excerpt: Arc<str>,
        /// Why it was no message at all, if it was none.
        cause: Option<protocol::Error>,
    },
    /// The server refused to negotiate.
    Negotiation {
        /// The class of the server's error.
        class: Arc<str>,
        /// The server's words.
        desc: Arc<str>,
    },
    /// Somebody wanted it so.
    Cancelled,
    /// The call is not for the state the client is in.
    State(protocol::Error),
    /// The call would wait for the very thread that made it.
    WouldDeadlock,
    /// The command cannot be sent. Nothing was.
    InvalidCommand(InvalidCommand),
    /// An out-of-band command in a session without that capability. Nothing was sent.
    OobNotEnabled,
    /// File descriptors travel over UNIX sockets only. Nothing was sent.
    NotUnix,
    /// The server says that the command failed. The session goes on.
    Execute {
        /// The class of the error: `GenericError`, `CommandNotFound`, or any other text.
        class: Arc<str>,
        /// The server's words; for people, not to be parsed.
        desc: Arc<str>,
        /// The command.
        command: Command,
        /// Which of the session's messages from the server said so.
        number: u64,
    },
    /// The reply is not what was expected. The session goes on.
    BadReply {
        /// The command.
        command: Command,
        /// What was returned; the whole reply if that has neither `return` nor a proper `error`.
        value: Arc<Value>,
        /// Why it could not be decoded, if that was the trouble.
        cause: Option<Arc<serde_json::Error>>,
    },
    /// The reply was given before, by [`Pending::wait_timeout`](super::Pending::wait_timeout) or
    /// [`Pending::try_wait`](super::Pending::try_wait).
    Taken,
    /// There is no room in the outbound queue. Nothing was sent.
    QueueFull,
    /// The session ended before the reply came.
    Interrupted {
        /// The command.
        command: Command,
        /// Whether the command may have run.
        sent: Sent,
        /// Why the session ended; also the source.
        cause: Arc<Error>,
    },
    /// The end: the server could not parse something that was sent, so some call would never be
    /// answered.
    ServerParse {
        /// The class of the server's error.
        class: Arc<str>,
        /// The server's words.
        desc: Arc<str>,
    },
    /// The end: the server sent something that is not JSON.
    Decode(protocol::Error),
    /// The end: the server sent something other than objects.
    NotAnObject(protocol::Error),
    /// The end: a message was longer than [`max_message`](super::Options::max_message).
    TooLong(protocol::Error),
    /// The end: a message was nested too deep.
    TooDeep(protocol::Error),
    /// The end: the stream ended inside a message.
    Truncated(protocol::Error),
    /// The end: the server closed the connection, or cut it off after a SHUTDOWN event.
    PeerClosed {
        /// The SHUTDOWN event that came before, if one did.
        after_shutdown: Option<Event>,
    },
    /// The end: the server cut the connection off.
    PeerReset(protocol::Error),
    /// The end: reading or writing failed.
    Io(protocol::Error),
    /// The end: the session failed in another way, which the loop's error tells.
    Session(protocol::Error),
    /// The end: it was wanted on this side.
    Closed,
    /// The end: the server has quit, as it was told to.
    ServerQuit,
}

/// What a time limit was for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Waiting {
    /// The greeting. Often another client holds the monitor: it serves one at a time.
    Greeting,
    /// The answer to the negotiation.
    Negotiation,
    /// The reply to a command. The session goes on, and the reply is dropped if it comes.
    Call {
        /// The command.
        command: Command,
        /// Whether the command may run, now or later.
        sent: Sent,
    },
}

/// Whether a command without reply may have reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It never left: safe to repeat.
    No,
    /// It may have run, or run later: ask the server for its state before repeating it.
    Maybe,
}

impl Error {
    /// What a failure of the loop means here. An error of this client's own, or another of the
    /// loop's, that came through one of the client's hooks is found again.
    pub(super) fn of_loop(error: protocol::Error) -> Self {
        if let (Kind::Handshake | Kind::Hook { .. }, Some(source)) = (error.kind(), error.source())
        {
            if let Some(own) = source.downcast_ref::<Self>() {
                return own.clone();
            }
            if let Some(inner) = source.downcast_ref::<protocol::Error>() {
                return Self::of_loop(inner.clone());
            }
        }
        match error.kind() {
            Kind::Connect { .. }
            | Kind::Listen { .. }
            | Kind::Timeout {
                phase: Phase::Connect | Phase::Accept,
                ..
            } => Self::Connect(error),
            Kind::Cancelled => Self::Cancelled,
            Kind::State { .. } => Self::State(error),
            Kind::WouldDeadlock => Self::WouldDeadlock,
            Kind::QueueFull => Self::QueueFull,
            Kind::Decode { .. } => match error.source().and_then(|e| e.downcast_ref()) {
                Some(framing::Error::NotAnObject) => Self::NotAnObject(error),
                Some(framing::Error::TooDeep) => Self::TooDeep(error),
                _ => Self::Decode(error),
            },
            Kind::TooLong { .. } => Self::TooLong(error),
            Kind::Truncated { .. } => Self::Truncated(error),
            Kind::PeerClosed => Self::PeerClosed {
                after_shutdown: None,
            },
            Kind::PeerReset => Self::PeerReset(error),
            Kind::Io => Self::Io(error),
            _ => Self::Session(error),
        }
    }

    /// The system gave no random number for an id.
    pub(super) fn no_randomness(error: getrandom::Error) -> Self {
        Self::Io(protocol::Error::caused(Kind::Io, io::Error::from(error)))
    }

    /// The failure of the loop that this is, if it is one.
    fn of_session(&self) -> Option<&protocol::Error> {
        match self {
            Self::Connect(error)
            | Self::State(error)
            | Self::Decode(error)
            | Self::NotAnObject(error)
            | Self::TooLong(error)
            | Self::TooDeep(error)
            | Self::Truncated(error)
            | Self::PeerReset(error)
            | Self::Io(error)
            | Self::Session(error) => Some(error),
            _ => None,
        }
    }

    /// The first `io::Error` in the chain of causes.
    #[must_use]
    pub fn io(&self) -> Option<&io::Error> {
        protocol::first_io(self.source())
    }

    /// Whether the same `connect` may well succeed a little later: nobody there yet, refused,
    /// reset, or no answer in time. False for everything else.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect(error) if error.is_retryable())
    }

    /// The whole chain of causes in one line, outermost first.
    #[must_use]
    pub fn report(&self) -> String {
        protocol::report(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f.write_str(&self.report());
        }
        match self {
            Self::Timeout { waiting, allowed } => match waiting {
                Waiting::Greeting => write!(
                    f,
                    "no greeting within {allowed:?}; another client may hold the monitor"
                ),
                Waiting::Negotiation => {
                    write!(f, "no answer to the negotiation within {allowed:?}")
                }
                Waiting::Call { command, sent } => {
                    write!(f, "no reply to {command} within {allowed:?}, {sent}")
                }
            },
            Self::NotQmp { excerpt, .. } => {
                write!(f, "the peer does not speak QMP, it began with {excerpt:?}")
            }
            Self::Negotiation { class, desc } => {
                write!(f, "the server refused to negotiate ({class}): {desc}")
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::WouldDeadlock => f.write_str("the call would wait for its own thread"),
            Self::InvalidCommand(_) => f.write_str("the command cannot be sent"),
            Self::OobNotEnabled => f.write_str("out-of-band commands are not enabled"),
            Self::NotUnix => f.write_str("descriptors can be sent over UNIX sockets only"),
            Self::Execute {
                class,
                desc,
                command,
                ..
            } => write!(f, "{command} failed ({class}): {desc}"),
            Self::BadReply { command, .. } => {
                write!(f, "the reply to {command} is not as expected")
            }
            Self::Taken => f.write_str("the reply was taken before"),
            Self::QueueFull => f.write_str("the outbound queue is full"),
            Self::Interrupted { command, sent, .. } => write!(f, "{command} interrupted, {sent}"),
            Self::ServerParse { class, desc } => write!(
                f,
                "the server could not parse what was sent ({class}): {desc}"
            ),
            Self::PeerClosed { after_shutdown } => {
                f.write_str("the server closed the connection")?;
                match after_shutdown {
                    Some(_) => f.write_str(" after a SHUTDOWN event"),
                    None => Ok(()),
                }
            }
            Self::PeerReset(_) => f.write_str("connection lost"),
            Self::Closed => f.write_str("the session was closed"),
            Self::ServerQuit => f.write_str("the server has quit"),
            Self::Connect(error)
            | Self::State(error)
            | Self::Decode(error)
            | Self::NotAnObject(error)
            | Self::TooLong(error)
            | Self::TooDeep(error)
            | Self::Truncated(error)
            | Self::Io(error)
            | Self::Session(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "was not sent",
            Self::Maybe => "may have run",
        })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotQmp { cause, .. } => cause.as_ref().map(|cause| cause as _),
            Self::InvalidCommand(cause) => Some(cause),
            Self::BadReply { cause, .. } => cause.as_ref().map(|cause| &**cause as _),
            Self::Interrupted { cause, .. } => Some(&**cause),
            _ => self.of_session()?.source(),
        }
    }
}

/// Why a listener has no event to give.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// None came in time.
    TimedOut,
    /// The queue was full: so many events, the oldest, were dropped. The next receive goes on
    /// with those that were kept.
    Lagged(u64),
    /// The session ended by itself, and all its events were received. The listener goes on when
    /// its client connects again.
    Ended(Error),
    /// As `Ended`, but the end was wanted.
    Closed,
    /// The filter's predicate panicked; the listener hears nothing any more.
    FilterPanic {
        /// What it panicked with, if that was text.
        message: Arc<str>,
    },
    /// The call would wait for the very thread that made it.
    WouldDeadlock,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no event in time"),
            Self::Lagged(count) => write!(f, "{count} events were dropped from a full queue"),
            Self::Ended(_) => f.write_str("the session has ended"),
            Self::Closed => f.write_str("the session was closed"),
            Self::FilterPanic { message } => write!(f, "the filter panicked: {message}"),
            Self::WouldDeadlock => f.write_str("the call would wait for its own thread"),
        }
    }
}

impl StdError for RecvError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Ended(cause) => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("query-block", &(), false, 1).unwrap()
    }

    fn reset() -> protocol::Error {
        protocol::Error::of_io(io::Error::from_raw_os_error(104))
    }

    #[test]
    fn an_interrupted_call_tells_the_whole_story_in_one_line() {
        let error = Error::Interrupted {
            command: command(),
            sent: Sent::Maybe,
            cause: Arc::new(Error::of_loop(reset())),
        };
        assert_eq!(error.to_string(), "query-block interrupted, may have run");
        let whole = "query-block interrupted, may have run: connection lost: \
                     Connection reset by peer (os error 104)";
        assert_eq!(error.report(), whole);
        assert_eq!(format!("{error:#}"), whole);
        assert_eq!(error.clone().report(), whole);
        assert_eq!(error.io().unwrap().raw_os_error(), Some(104));
        assert!(!error.is_retryable());
    }

    #[test]
    fn a_failed_connect_keeps_the_loop_s_words_and_advice() {
        let io = io::Error::from(io::ErrorKind::ConnectionRefused);
        let address = "/run/vm.sock".to_owned();
        let of_loop = protocol::Error::caused(Kind::Connect { address }, io);
        let report = of_loop.report();
        let error = Error::of_loop(of_loop);
        assert!(matches!(error, Error::Connect(_)));
        assert_eq!(error.report(), report, "without a level of its own");
        assert!(error.is_retryable());
    }

    #[test]
    fn what_came_through_a_hook_is_found_again() {
        let kind = || Kind::Hook { hook: "on_message" };
        let own = Error::ServerParse {
            class: "GenericError".into(),
            desc: "JSON parse error, expecting value".into(),
        };
        let found = Error::of_loop(protocol::Error::caused(kind(), own.clone()));
        assert_eq!(found.report(), own.report());
        let found = Error::of_loop(protocol::Error::caused(Kind::Handshake, reset()));
        assert!(matches!(found, Error::PeerReset(_)), "{found:?}");
        let foreign = Error::of_loop(protocol::Error::caused(kind(), "broken"));
        assert!(matches!(foreign, Error::Session(_)), "{foreign:?}");
        assert_eq!(foreign.report(), "hook on_message failed: broken");
    }

    #[test]
    fn the_cause_of_an_earlier_end_does_not_hide_that_the_state_is_wrong() {
        let (actual, needed) = (protocol::State::Disconnecting, protocol::State::Idle);
        let state = protocol::Error::caused(Kind::State { actual, needed }, Error::ServerQuit);
        assert!(matches!(Error::of_loop(state), Error::State(_)));
    }

    #[test]
    fn what_could_not_be_decoded_is_told_apart() {
        let of = |cause: framing::Error| {
            let (offset, excerpt) = (0, b"login:".to_vec());
            let kind = Kind::Decode { offset, excerpt };
            Error::of_loop(protocol::Error::caused(kind, cause))
        };
        let not_an_object = of(framing::Error::NotAnObject);
        assert!(matches!(not_an_object, Error::NotAnObject(_)));
        assert_eq!(
            not_an_object.report(),
            "undecodable at byte 0 of a message, near \"login:\": not a JSON object"
        );
        let too_deep = of(framing::Error::TooDeep);
        assert!(matches!(too_deep, Error::TooDeep(_)));
        let json = serde_json::from_str::<Value>("inf").unwrap_err();
        let decode = of(framing::Error::NotJson(json));
        assert!(matches!(decode, Error::Decode(_)));
        assert!(decode.report().contains("not JSON: expected value"));
    }

    #[test]
    fn every_level_has_a_text_of_one_line() {
        let (class, desc): (Arc<str>, Arc<str>) = ("C".into(), "d".into());
        let allowed = Duration::from_secs(5);
        let timeout = |waiting| Error::Timeout { waiting, allowed };
        let call = |sent| Waiting::Call {
            command: command(),
            sent,
        };
        for (error, text) in [
            (
                timeout(Waiting::Greeting),
                "no greeting within 5s; another client may hold the monitor",
            ),
            (
                timeout(Waiting::Negotiation),
                "no answer to the negotiation within 5s",
            ),
            (
                timeout(call(Sent::No)),
                "no reply to query-block within 5s, was not sent",
            ),
            (
                timeout(call(Sent::Maybe)),
                "no reply to query-block within 5s, may have run",
            ),
            (
                Error::NotQmp {
                    excerpt: "login:\n".into(),
                    cause: None,
                },
                r#"the peer does not speak QMP, it began with "login:\n""#,
            ),
            (
                Error::Execute {
                    class: class.clone(),
                    desc: desc.clone(),
                    command: command(),
                    number: 1,
                },
                "query-block failed (C): d",
            ),
            (
                Error::Negotiation { class, desc },
                "the server refused to negotiate (C): d",
            ),
            (
                Error::InvalidCommand(InvalidCommand::Arguments),
                "the command cannot be sent: arguments are a JSON object",
            ),
            (
                Error::BadReply {
                    command: command(),
                    value: Arc::default(),
                    cause: Some(Arc::new(serde_json::from_str::<bool>("5").unwrap_err())),
                },
                "the reply to query-block is not as expected: \
                 invalid type: integer `5`, expected a boolean at line 1 column 1",
            ),
            (
                Error::of_loop(protocol::Error::new(Kind::PeerClosed)),
                "the server closed the connection",
            ),
        ] {
            assert_eq!(error.report(), text);
        }
        let ended = RecvError::Ended(Error::ServerQuit);
        assert_eq!(
            protocol::report(&ended),
            "the session has ended: the server has quit"
        );
    }

    #[test]
    fn errors_travel_between_threads_and_are_small() {
        fn is_send_sync<T: Send + Sync + 'static>() {}
        is_send_sync::<Error>();
        is_send_sync::<RecvError>();
        assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
    }
}
