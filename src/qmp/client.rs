//! The client: what a program calls.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::protocol::{self, Addr, Cancel, Loop, State};

use super::board::{CAPACITY, Listener};
use super::call::{Call, Pending};
use super::command::{Command, Request};
use super::error::Error;
use super::filter::Filter;
use super::message::{Event, Message, Object, Reply};
use super::monitor::{Monitor, Outgoing, Stats};
use super::options::Options;
use super::talk::{Talk, Way};

/// A client of one server at a time.
///
/// All calls take `&self`, and may be made from any number of threads at once. A session has the
/// three threads of a [`Loop`](crate::protocol::Loop): `qmp:rd`, `qmp:wr` and `qmp:co`, after the
/// name in the options. On Linux a call that waits reads from the server itself, as long as no
/// listener's filter has a predicate; all else is read by `qmp:rd`. When the session has ended, [`disconnect`](Self::disconnect) or
/// [`wait_end`](Self::wait_end) collects its [`End`], and the same client may connect again;
/// listeners stay. Dropping the client ends the session at once.
///
/// The documentation of the [module](super) has an example.
#[must_use = "dropping it ends the session"]
pub struct Client {
    link: Loop<Monitor>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Client {
    /// A client without a session.
    pub fn new(options: Options) -> Self {
        let link = Loop::new(Monitor::new(options.clone()), (&options).into());
        Self { link }
    }

    /// Connects to a server, waits for its greeting, and negotiates.
    ///
    /// # Errors
    ///
    /// [`Error::State`] if there is a session, or the end of one to collect;
    /// [`Error::Connect`]; [`Error::Timeout`] of greeting or negotiation; [`Error::NotQmp`];
    /// [`Error::Negotiation`]; [`Error::PeerClosed`] and the other ends of a session.
    ///
    /// # Blocking
    ///
    /// Up to [`Options::connect_timeout`] and [`Options::handshake_timeout`].
    pub fn connect(&self, addr: impl Into<Addr>) -> Result<(), Error> {
        self.connect_with(addr, &Cancel::new())
    }

    /// As [`connect`](Self::connect); another thread may cancel it.
    ///
    /// # Errors
    ///
    /// As there, and [`Error::Cancelled`].
    pub fn connect_with(&self, addr: impl Into<Addr>, cancel: &Cancel) -> Result<(), Error> {
        let connected = self.link.connect(addr.into(), cancel);
        connected.map_err(|error| self.not_begun(error))
    }

    /// Takes an address for the server to come to, as with `-qmp unix:path`. Gives the real
    /// address, with the port that was taken for port 0. [`accept`](Self::accept) waits for it.
    ///
    /// # Errors
    ///
    /// [`Error::State`], [`Error::Connect`].
    pub fn listen(&self, addr: impl Into<Addr>) -> Result<Addr, Error> {
        self.link.listen(addr.into()).map_err(Error::of_loop)
    }

    /// Waits for the server at the address of [`listen`](Self::listen); then as
    /// [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As [`connect_with`](Self::connect_with).
    ///
    /// # Blocking
    ///
    /// Up to [`Options::accept_timeout`], by default without limit, and
    /// [`Options::handshake_timeout`].
    pub fn accept(&self, cancel: &Cancel) -> Result<(), Error> {
        let accepted = self.link.accept(cancel);
        accepted.map_err(|error| self.not_begun(error))
    }

    fn not_begun(&self, error: protocol::Error) -> Error {
        let error = Error::of_loop(error);
        if !matches!(error, Error::State(_)) {
            self.link.protocol().not_begun(&error);
        }
        error
    }

    /// Runs a command in band and gives what it returns. `arguments` are anything that serializes
    /// to an object, or `()`.
    ///
    /// # Errors
    ///
    /// - [`Error::Execute`]: the server says that it failed. The session goes on.
    /// - [`Error::BadReply`]: the reply is none. The session goes on.
    /// - [`Error::Timeout`]: no reply in time; see [`Call::timeout`]. The session goes on.
    /// - [`Error::Interrupted`]: the session ended before the reply came, or has ended.
    /// - [`Error::InvalidCommand`], [`Error::OobNotEnabled`], [`Error::NotUnix`],
    ///   [`Error::State`], [`Error::WouldDeadlock`]: nothing was sent.
    ///
    /// # Blocking
    ///
    /// Until the reply comes, the session ends, or the time of the call is over. By default that
    /// has no limit.
    pub fn execute(&self, name: &str, arguments: impl Serialize) -> Result<Value, Error> {
        let reply = self.call(name).args(arguments).run()?;
        Ok(reply.value)
    }

    /// Runs a command in band and decodes what it returns, without making a [`Value`] of it first:
    /// the way to take large replies.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); [`Error::BadReply`] with what was returned also if that is
    /// no `T`.
    pub fn execute_as<T: DeserializeOwned>(
        &self,
        name: &str,
        arguments: impl Serialize,
    ) -> Result<T, Error> {
        let _wish = self.link.protocol().wishes.wish();
        self.call(name).args(arguments).direct()?.wait_as()
    }

    /// Runs a command out of band and gives what it returns.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); [`Error::OobNotEnabled`] if the session does not have that
    /// capability.
    pub fn execute_oob(&self, name: &str, arguments: impl Serialize) -> Result<Value, Error> {
        let reply = self.call(name).args(arguments).oob().run()?;
        Ok(reply.value)
    }

    /// Runs a command that is given as a whole object, with `execute` or `exec-oob`, and
    /// `arguments` and `id` if need be. The id is any JSON value; it is not sent, but comes back
    /// in the reply.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn execute_msg(&self, message: Value) -> Result<Reply, Error> {
        self.whole(message, Way::Direct)?.wait()
    }

    /// As [`execute_msg`](Self::execute_msg), without waiting for the reply.
    ///
    /// # Errors
    ///
    /// As [`Call::start`].
    pub fn start_msg(&self, message: Value) -> Result<Pending, Error> {
        self.whole(message, Way::Queued)
    }

    fn whole(&self, message: Value, way: Way) -> Result<Pending, Error> {
        let request = Request::new(message).map_err(Error::InvalidCommand)?;
        let mut call = self.call(&request.name).args(&request.arguments);
        call.oob = request.oob;
        call.id = request.id;
        call.send(way)
    }

    /// A command to be put together: with arguments, out of band, with a time limit, with a
    /// descriptor; waited for or not.
    pub fn call<'c>(&'c self, name: &'c str) -> Call<'c, ()> {
        Call {
            client: self,
            name,
            arguments: (),
            oob: false,
            id: None,
            limit: None,
            descriptor: None,
        }
    }

    /// Sends bytes as they are, and waits for the next reply that has no id. For tests, and for
    /// what no well-formed command can provoke.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn raw(&self, bytes: &[u8]) -> Result<Reply, Error> {
        let limit = self.options().call_timeout;
        let encode = |_| Ok(Command::raw(bytes));
        Pending::begin(self.talk()?, encode, None, Way::Raw, limit, None)?.wait()
    }

    /// Sends bytes as they are, and waits for nothing. If they draw an error without id, the
    /// session ends: see [`Error::ServerParse`].
    ///
    /// # Errors
    ///
    /// [`Error::State`], [`Error::Interrupted`] if the session ends, [`Error::WouldDeadlock`].
    pub fn send_raw(&self, bytes: &[u8]) -> Result<(), Error> {
        let command = Command::raw(bytes);
        let sent = self.talk()?.send_loose(Outgoing::from(command.clone()));
        sent.map_err(|reason| reason.into_error(&command, None))
    }

    /// Listens to the events that `filter` wants, from now on and through all sessions. Listen
    /// before the command that causes the event. At most 65,536 events are queued.
    pub fn events(&self, filter: Filter) -> Listener<Event> {
        self.events_with(filter, CAPACITY)
    }

    /// As [`events`](Self::events), with room for `capacity` events; 0 is no limit.
    pub fn events_with(&self, filter: Filter, capacity: usize) -> Listener<Event> {
        let board = &self.link.protocol().events;
        board.listen(capacity, filter.asks(), move |event| filter.matches(event))
    }

    /// Listens to all that comes from the server, in the order of its coming: replies, events,
    /// replies to nobody. For logs, and for programs that print both: [`Message::event`] and
    /// [`Message::call`] tell them apart. At most 65,536 messages are queued.
    pub fn tap(&self) -> Listener<Message> {
        self.tap_with(CAPACITY)
    }

    /// As [`tap`](Self::tap), with room for `capacity` messages; 0 is no limit.
    pub fn tap_with(&self, capacity: usize) -> Listener<Message> {
        self.link.protocol().taps.listen(capacity, false, |_| true)
    }

    /// Brings a guest agent to a known state: whatever it still has to say of an earlier session
    /// is dropped. On a timeout it can be called again.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); [`Error::BadReply`] if the agent answers something else.
    pub fn sync(&self, limit: Duration) -> Result<(), Error> {
        // The byte ends whatever the agent has half read; the error it draws has no id.
        self.send_raw(&[0xFF])?;
        let number = getrandom::u32().map_err(Error::no_randomness)?;
        let pending = self
            .call("guest-sync-delimited")
            .args(json!({"id": number}))
            .timeout(limit)
            .direct()?;
        let command = pending.command().clone();
        match pending.wait()?.value {
            value if value == number => Ok(()),
            value => Err(Error::BadReply {
                command,
                value: Arc::new(value),
                cause: None,
            }),
        }
    }

    /// The whole greeting of the session, if it had one.
    #[must_use]
    pub fn greeting(&self) -> Option<Object> {
        self.link.protocol().talk()?.greeting.clone()
    }

    /// What the server of the session says it can do.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        let talk = self.link.protocol().talk();
        talk.map_or_else(Vec::new, |talk| talk.capabilities.clone())
    }

    /// Whether out-of-band commands are enabled in the session.
    #[must_use]
    pub fn is_oob_enabled(&self) -> bool {
        self.link.protocol().talk().is_some_and(|talk| talk.oob)
    }

    /// Whom the session is with.
    #[must_use]
    pub fn peer(&self) -> Option<String> {
        self.link.peer()
    }

    /// The state of the client.
    #[must_use]
    pub fn state(&self) -> State {
        self.link.state()
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.link.protocol().options
    }

    /// What was heard so far, in all sessions.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.link.protocol().stats()
    }

    /// Ends the session, or the attempt at one, and collects the end. Commands that are queued are
    /// still written; calls that wait for their reply are interrupted. `None` without a session.
    ///
    /// # Errors
    ///
    /// [`Error::WouldDeadlock`] in a filter; the end is started then.
    ///
    /// # Blocking
    ///
    /// Up to [`Options::flush_timeout`] and [`Options::drain_timeout`].
    pub fn disconnect(&self) -> Result<Option<End>, Error> {
        self.collect(Loop::disconnect)
    }

    /// [`disconnect`](Self::disconnect), without writing what is queued.
    ///
    /// # Errors
    ///
    /// As [`disconnect`](Self::disconnect).
    pub fn abort(&self) -> Result<Option<End>, Error> {
        self.collect(Loop::abort)
    }

    /// Waits until no call waits for a reply, at most `limit`; then [`disconnect`](Self::disconnect)s.
    ///
    /// # Errors
    ///
    /// As [`disconnect`](Self::disconnect).
    pub fn disconnect_after_replies(&self, limit: Duration) -> Result<Option<End>, Error> {
        if let Ok(talk) = self.talk() {
            if talk.is_own_thread() {
                return Err(Error::WouldDeadlock);
            }
            talk.mailboxes.wait_empty(Instant::now().checked_add(limit));
        }
        self.disconnect()
    }

    /// Waits for the end of the session without causing it, and collects it. `None` without one.
    ///
    /// # Errors
    ///
    /// [`Error::Session`] if it has not ended within `limit`, [`Error::State`] while connecting,
    /// [`Error::WouldDeadlock`] in a filter.
    pub fn wait_end(&self, limit: impl Into<Option<Duration>>) -> Result<Option<End>, Error> {
        let limit = limit.into();
        self.collect(|link| link.wait_end(limit))
    }

    fn collect(
        &self,
        end: impl FnOnce(&Loop<Monitor>) -> Result<Option<protocol::End>, protocol::Error>,
    ) -> Result<Option<End>, Error> {
        let ended = end(&self.link).map_err(Error::of_loop)?;
        Ok(ended.map(|end| {
            // Asked for now: before the end it could still have been that of an earlier session.
            let reason = match self.link.protocol().talk() {
                Some(talk) => (*talk.reason_of(end.cause())).clone(),
                None => end
                    .into_result()
                    .map_or_else(Error::of_loop, |()| Error::Closed),
            };
            match reason {
                Error::Closed => End::Closed,
                Error::ServerQuit => End::ServerQuit,
                failure => End::Failed(failure),
            }
        }))
    }

    /// The session, if there is one.
    pub(super) fn talk(&self) -> Result<Arc<Talk>, Error> {
        let state = self.link.state();
        // Another thread's `connect` is not at its end before the session is known as begun.
        let talk = self.link.protocol().talk().filter(|talk| talk.has_begun());
        match (state, talk) {
            (State::Running | State::Disconnecting, Some(talk)) => Ok(talk),
            (actual, _) => Err(Error::State(protocol::Error::new(protocol::Kind::State {
                actual: match actual {
                    State::Running => State::Connecting,
                    actual => actual,
                },
                needed: State::Running,
            }))),
        }
    }
}

/// How a session of a client ended.
#[derive(Clone, Debug)]
#[must_use = "it may hold the error that ended the session"]
#[non_exhaustive]
pub enum End {
    /// It was wanted on this side.
    Closed,
    /// The server has quit, as it was told to.
    ServerQuit,
    /// It ended by itself.
    Failed(Error),
}

impl End {
    /// Whether the end was no failure.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    /// The failure as an error.
    ///
    /// # Errors
    ///
    /// With the error of [`End::Failed`].
    pub fn into_result(self) -> Result<(), Error> {
        match self {
            Self::Closed | Self::ServerQuit => Ok(()),
            Self::Failed(error) => Err(error),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}
