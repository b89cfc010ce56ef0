//! The loop: which state it is in, and what each call does there.
//!
//! One mutex guards the state; every change of it is one step under that mutex, and the hook that
//! tells of it runs after the mutex is free.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::address::Addr;
use super::attempt::{Attempt, Cancel, deadline};
use super::codec::Inbox;
use super::connect::connect;
use super::end::End;
use super::error::{Error, Kind, Phase, SendError, Side};
use super::hook::{self, Inside};
use super::link::{Link, Ticket};
use super::listening::{Listening, Served};
use super::options::Options;
use super::session::{Session, Setup};
use super::state::State;
use super::stream::Stream;
use super::wait::wait_for;
use super::{Protocol, hands};

/// Runs one [`Protocol`] object, session after session.
///
/// `&Loop` may be shared between threads, and all calls may be made from any of them, several at
/// once: of two threads that connect, one wins. A call that cannot be served in the present
/// [`State`] fails with [`Kind::State`].
///
/// A session has three threads, `name:rd`, `name:wr` and `name:co`; they are gone when the
/// session has ended and its end was collected. Dropping the loop ends the session at once and
/// joins its threads; queued messages are dropped, so [`disconnect`](Self::disconnect) first to
/// have them written. A loop that is dropped by one of its own hooks only starts the end.
#[must_use = "dropping it ends the session"]
pub struct Loop<P: Protocol> {
    shared: Arc<Shared<P>>,
}

/// What a loop and its coordinators share.
pub(super) struct Shared<P: Protocol> {
    pub(super) setup: Arc<Setup<P>>,
    stand: Mutex<Stand<P>>,
    changed: Condvar,
}

/// The state, with what belongs to it.
enum Stand<P: Protocol> {
    Idle,
    Connecting(Attempt),
    Listening(Listening),
    Running(Arc<Session<P>>),
    Disconnecting(Arc<Session<P>>),
}

impl<P: Protocol> Stand<P> {
    fn state(&self) -> State {
        match self {
            Self::Idle => State::Idle,
            Self::Connecting(_) | Self::Listening(_) => State::Connecting,
            Self::Running(_) => State::Running,
            Self::Disconnecting(_) => State::Disconnecting,
        }
    }

    /// The error of a call that is for `needed`.
    fn refuse(&self, needed: State) -> Error {
        let actual = self.state();
        let kind = Kind::State { actual, needed };
        match self {
            Self::Disconnecting(session) => match session.cause() {
                Some(cause) => Error::caused(kind, cause),
                None => Error::new(kind),
            },
            _ => Error::new(kind),
        }
    }
}

impl<P: Protocol> Shared<P> {
    /// One move from a state to the next; `decide` gives the next and what the caller gets.
    fn step<T>(
        &self,
        decide: impl FnOnce(&mut Stand<P>) -> Result<(Stand<P>, T), Error>,
    ) -> Result<T, Error> {
        let mut stand = self.stand.lock();
        let from = stand.state();
        let (next, result) = decide(&mut stand)?;
        let to = next.state();
        let old = std::mem::replace(&mut *stand, next);
        drop(stand);
        drop(old);
        self.changed.notify_all();
        if from != to {
            let _inside = Inside::enter(self.setup.key());
            log::debug!(target: &self.setup.target, "{from} -> {to}");
            let told = hook::guard("on_state", || self.setup.protocol.on_state(from, to));
            if let Err(error) = told {
                log::error!(target: &self.setup.target, "{error:#}");
            }
        }
        Ok(result)
    }

    /// Called by the coordinator of `session`, which runs.
    pub(super) fn to_disconnecting(&self, session: &Arc<Session<P>>) {
        // The only other move out of Running would be this one.
        let _ = self.step(|_| Ok((Stand::Disconnecting(session.clone()), ())));
    }

    /// A new attempt; the loop must be idle.
    fn begin(&self, cancel: &Cancel) -> Result<Attempt, Error> {
        let attempt = Attempt::new(cancel).map_err(Error::of_io)?;
        self.step(|stand| match stand {
            Stand::Idle => Ok((Stand::Connecting(attempt.clone()), ())),
            other => Err(other.refuse(State::Idle)),
        })?;
        Ok(attempt)
    }

    fn to_idle(&self) {
        let _ = self.step(|_| Ok((Stand::Idle, ())));
    }

    /// From a connected stream to a running session.
    fn establish(
        self: &Arc<Self>,
        stream: Stream,
        served: Option<Served>,
        attempt: &Attempt,
    ) -> Result<Arc<Session<P>>, Error> {
        let setup = &self.setup;
        log::info!(target: &setup.target, "connected with {}", stream.peer());
        let decoder = hook::guard("decoder", || setup.protocol.decoder())?;
        let mut inbox = Inbox::new(decoder, setup.options.max_message);
        hands::shake(setup, &stream, attempt, &mut inbox)?;
        let session = Session::start(self, stream, served, inbox)
            .map_err(|error| Error::caused(Kind::Handshake, error))?;
        let run = self.step(|_| {
            if attempt.is_stopped() {
                return Err(Error::new(Kind::Cancelled));
            }
            Ok((Stand::Running(session.clone()), ()))
        });
        if let Err(error) = run {
            session.give_up();
            session.wait_end(None);
            return Err(error);
        }
        session.run();
        Ok(session)
    }

    /// Finishes an attempt whose stream, if it got one, is `connected`.
    fn finish(
        self: &Arc<Self>,
        attempt: &Attempt,
        connected: Result<(Stream, Option<Served>), Error>,
    ) -> Result<(), Error> {
        let _inside = Inside::enter(self.setup.key());
        let session = connected
            .and_then(|(stream, served)| self.establish(stream, served, attempt))
            .inspect_err(|_| self.to_idle())?;
        let link = Link::new(&session);
        let started = hook::run("on_start", || self.setup.protocol.on_start(&link));
        started.inspect_err(|error| {
            session.fail(Side::Start, error.clone());
            session.wait_end(None);
            self.collect(&session);
        })
    }

    /// Back to idle, if `session` is what is there.
    fn collect(&self, session: &Arc<Session<P>>) {
        let _ = self.step(|stand| match stand {
            Stand::Disconnecting(ended) if Arc::ptr_eq(ended, session) => Ok((Stand::Idle, ())),
            other => Err(other.refuse(State::Disconnecting)), // somebody else has
        });
    }

    fn would_deadlock(&self) -> Result<(), Error> {
        if Inside::is(self.setup.key()) {
            return Err(Error::new(Kind::WouldDeadlock));
        }
        Ok(())
    }

    /// Starts the end of whatever there is, and gives what can be waited for.
    fn start_end(&self, hurry: bool) -> Waiting<P> {
        let mut waiting = Waiting::Nothing;
        let _ = self.step(|stand| {
            match stand {
                Stand::Listening(_) => return Ok((Stand::Idle, ())),
                Stand::Idle => {}
                Stand::Connecting(attempt) => {
                    attempt.stop(); // under the lock: it cannot get any further
                    waiting = Waiting::Attempt(attempt.clone());
                }
                Stand::Running(session) | Stand::Disconnecting(session) => {
                    waiting = Waiting::Session(session.clone());
                }
            }
            Err(stand.refuse(State::Connecting))
        });
        if let Waiting::Session(session) = &waiting {
            session.end(hurry);
        }
        waiting
    }

    /// Ends whatever there is and waits for it.
    fn end(&self, hurry: bool) -> Result<Option<End>, Error> {
        let waiting = self.start_end(hurry);
        if let Waiting::Nothing = waiting {
            return Ok(None);
        }
        self.would_deadlock()?;
        if let Waiting::Session(session) = &waiting {
            let end = session.wait_end(None);
            self.collect(session);
            return Ok(end);
        }
        let is_at_it = |stand: &Stand<P>| match (stand, &waiting) {
            (Stand::Connecting(attempt), Waiting::Attempt(stopped)) => attempt.is(stopped),
            _ => false,
        };
        drop(self.wait(None, |stand| !is_at_it(stand)));
        Ok(None)
    }

    /// Waits until `holds`; `None` if that was not before `deadline`.
    fn wait(
        &self,
        deadline: Option<Instant>,
        holds: impl Fn(&Stand<P>) -> bool,
    ) -> Option<MutexGuard<'_, Stand<P>>> {
        let mut stand = self.stand.lock();
        let look = |stand: &mut Stand<P>| holds(stand).then_some(());
        wait_for(&self.changed, &mut stand, deadline, look)?;
        Some(stand)
    }

    /// The session that runs.
    fn running(&self) -> Result<Arc<Session<P>>, Error> {
        match &*self.stand.lock() {
            Stand::Running(session) => Ok(session.clone()),
            Stand::Disconnecting(session) => Err(session.ended()),
            other => Err(other.refuse(State::Running)),
        }
    }
}

/// What an end can be waited for.
enum Waiting<P: Protocol> {
    Nothing,
    Attempt(Attempt),
    Session(Arc<Session<P>>),
}

impl<P: Protocol> Loop<P> {
    /// An idle loop for `protocol`.
    pub fn new(protocol: P, options: Options) -> Self {
        let shared = Arc::new(Shared {
            setup: Arc::new(Setup::new(protocol, options)),
            stand: Mutex::new(Stand::Idle),
            changed: Condvar::new(),
        });
        Self { shared }
    }

    /// The protocol object.
    #[must_use]
    pub fn protocol(&self) -> &P {
        &self.shared.setup.protocol
    }

    /// The limits.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.setup.options
    }

    /// The state at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.stand.lock().state()
    }

    /// Whom the session is with; `None` if there is no session.
    #[must_use]
    pub fn peer(&self) -> Option<String> {
        match &*self.shared.stand.lock() {
            Stand::Running(session) | Stand::Disconnecting(session) => Some(session.peer.clone()),
            _ => None,
        }
    }

    /// A handle to the session that runs; `None` if none does.
    #[must_use]
    pub fn link(&self) -> Option<Link<P>> {
        let session = self.shared.running().ok()?;
        Some(Link::new(&session))
    }

    /// Connects to `addr`, runs the handshake and starts the session.
    ///
    /// # Errors
    ///
    /// [`Kind::State`] unless idle. [`Kind::Connect`], [`Kind::Handshake`], [`Kind::Timeout`] of
    /// one of these, [`Kind::Cancelled`] by `cancel` or by [`disconnect`](Self::disconnect) from
    /// another thread, [`Kind::HookPanic`]. The loop is idle again, and nothing is left of the
    /// attempt. If `on_start` fails, its error ([`Kind::Hook`]).
    ///
    /// # Blocking
    ///
    /// Up to [`Options::connect_timeout`] and [`Options::handshake_timeout`], and while a host's
    /// name is looked up.
    pub fn connect(&self, addr: Addr, cancel: &Cancel) -> Result<(), Error> {
        let attempt = self.shared.begin(cancel)?;
        let stream = connect(addr, &attempt, self.options().connect_timeout);
        self.shared
            .finish(&attempt, stream.map(|stream| (stream, None)))
    }

    /// Takes the address for one peer to come to; [`accept`](Self::accept) waits for it. Gives the
    /// real address, with the port that was taken for port 0.
    ///
    /// The path of a UNIX socket is removed again at the end, if it is still the same one.
    ///
    /// # Errors
    ///
    /// [`Kind::State`] unless idle; [`Kind::Listen`].
    pub fn listen(&self, addr: Addr) -> Result<Addr, Error> {
        let attempt = self.shared.begin(&Cancel::new())?;
        let listening = Listening::bind(addr, self.options().replace_stale)
            .inspect_err(|_| self.shared.to_idle())?;
        let local = listening.local();
        let listened = self.shared.step(|_| {
            if attempt.is_stopped() {
                return Err(Error::new(Kind::Cancelled));
            }
            Ok((Stand::Listening(listening), ()))
        });
        listened.inspect_err(|_| self.shared.to_idle())?;
        Ok(local)
    }

    /// Waits for one peer at the address of [`listen`](Self::listen), runs the handshake and
    /// starts the session. Nobody else is let in: the address is given up as soon as a peer came,
    /// and also if the handshake fails.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`Kind::State`] also if nobody listens or another accept is
    /// under way, and [`Kind::Listen`] if accepting fails.
    ///
    /// # Blocking
    ///
    /// Up to [`Options::accept_timeout`] (by default without limit) and
    /// [`Options::handshake_timeout`].
    pub fn accept(&self, cancel: &Cancel) -> Result<(), Error> {
        let attempt = Attempt::new(cancel).map_err(Error::of_io)?;
        let listening = self
            .shared
            .step(|stand| match std::mem::replace(stand, Stand::Idle) {
                Stand::Listening(listening) => Ok((Stand::Connecting(attempt.clone()), listening)),
                other => {
                    *stand = other;
                    Err(stand.refuse(State::Connecting))
                }
            })?;
        let accepted = listening.accept(&attempt, self.options().accept_timeout);
        self.shared.finish(&attempt, accepted)
    }

    /// [`listen`](Self::listen), then [`accept`](Self::accept).
    ///
    /// # Errors
    ///
    /// As these.
    pub fn serve_one(&self, addr: Addr, cancel: &Cancel) -> Result<(), Error> {
        self.listen(addr)?;
        self.accept(cancel).map_err(|error| match error.kind() {
            // A disconnect came between the two.
            Kind::State {
                actual: State::Idle,
                ..
            } => Error::new(Kind::Cancelled),
            _ => error,
        })
    }

    /// Queues `message`, and waits for room until `deadline`, or without limit.
    ///
    /// When nothing is in front of it, the caller writes it itself as far as the socket takes it
    /// without waiting, which saves a round trip a change of threads.
    ///
    /// # Errors
    ///
    /// [`Kind::State`] unless running, [`Kind::Ended`] with the cause when the session ends,
    /// [`Kind::Timeout`], [`Kind::WouldDeadlock`] if there is no room and this is one of the
    /// loop's own threads. The message comes back.
    pub fn send(
        &self,
        message: P::Outbound,
        deadline: Option<Instant>,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        match self.shared.running() {
            Ok(session) => session.send(message, deadline),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// Queues `message` if there is room; never waits and never writes.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), with [`Kind::QueueFull`] in place of a wait.
    pub fn try_send(&self, message: P::Outbound) -> Result<Ticket<P>, SendError<P::Outbound>> {
        match self.shared.running() {
            Ok(session) => session.try_send(message),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// Queues `message` before all that are not urgent, and waits for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_urgent(
        &self,
        message: P::Outbound,
        deadline: Option<Instant>,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        match self.shared.running() {
            Ok(session) => session.send_urgent(message, deadline),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// Ends what there is, and waits until the loop is idle: a session has what is queued written
    /// first, an attempt is cancelled. `None` if there was no session. All callers get the same
    /// [`End`].
    ///
    /// # Errors
    ///
    /// [`Kind::WouldDeadlock`] when a hook calls it. The end has been started then, and comes when
    /// the hook has returned.
    ///
    /// # Blocking
    ///
    /// Up to [`Options::flush_timeout`] and [`Options::drain_timeout`], and as long as a hook of
    /// the protocol does not return.
    pub fn disconnect(&self) -> Result<Option<End>, Error> {
        self.shared.end(false)
    }

    /// [`disconnect`](Self::disconnect) at once: what is queued is dropped.
    ///
    /// # Errors
    ///
    /// As [`disconnect`](Self::disconnect).
    pub fn abort(&self) -> Result<Option<End>, Error> {
        self.shared.end(true)
    }

    /// Starts a [`disconnect`](Self::disconnect) and does not wait. For hooks, and signal threads.
    pub fn request_disconnect(&self) {
        drop(self.shared.start_end(false));
    }

    /// Waits for the end of the session without causing it, and collects it. `None` if idle.
    ///
    /// # Errors
    ///
    /// [`Kind::State`] while connecting, [`Kind::Timeout`] if the session has not ended within
    /// `limit`, [`Kind::WouldDeadlock`] when a hook calls it.
    pub fn wait_end(&self, limit: impl Into<Option<Duration>>) -> Result<Option<End>, Error> {
        let limit = limit.into();
        let session = match &*self.shared.stand.lock() {
            Stand::Idle => return Ok(None),
            Stand::Running(session) | Stand::Disconnecting(session) => session.clone(),
            connecting => return Err(connecting.refuse(State::Running)),
        };
        self.shared.would_deadlock()?;
        let Some(end) = session.wait_end(deadline(limit)) else {
            let allowed = limit.unwrap_or_default();
            let phase = Phase::End;
            return Err(Error::new(Kind::Timeout { phase, allowed }));
        };
        self.shared.collect(&session);
        Ok(Some(end))
    }

    /// Waits until the loop is in state `want`; false if it was not within `limit`. Passes through
    /// a state that are quick may be missed; [`Protocol::on_state`] sees them all.
    #[must_use]
    pub fn wait_state(&self, want: State, limit: impl Into<Option<Duration>>) -> bool {
        let deadline = deadline(limit.into());
        let reached = self.shared.wait(deadline, |stand| stand.state() == want);
        reached.is_some()
    }
}

impl<P: Protocol> Drop for Loop<P> {
    fn drop(&mut self) {
        let Waiting::Session(session) = self.shared.start_end(true) else {
            return;
        };
        if self.shared.would_deadlock().is_err() {
            return; // its coordinator goes on alone
        }
        if let Some(cause) = session.wait_end(None).and_then(|end| end.cause) {
            log::error!(target: &self.shared.setup.target, "dropped with its end uncollected: {cause:#}");
        }
        self.shared.collect(&session);
    }
}

impl<P: Protocol> fmt::Debug for Loop<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("name", &self.options().name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
