//! What hooks and callers hold of a session: a handle to send and to end, and a ticket for each
//! message that was sent.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Protocol;
use super::error::{Error, Kind, Phase, SendError};
use super::hook::{self, Inside};
use super::queue::{Lane, Place, Progress, Refused, Wait, Why};
use super::session::Session;
use super::state::State;
use super::turn::Reading;

/// A handle to one session, for hooks and for other threads.
///
/// It never keeps a session alive: when that has ended, every send fails with [`Kind::Ended`].
pub struct Link<P: Protocol> {
    session: Weak<Session<P>>,
}

impl<P: Protocol> Link<P> {
    pub(super) fn new(session: &Arc<Session<P>>) -> Self {
        let session = Arc::downgrade(session);
        Self { session }
    }

    fn session<M>(&self, message: M) -> Result<(Arc<Session<P>>, M), SendError<M>> {
        match self.session.upgrade() {
            Some(session) => Ok((session, message)),
            None => Err(SendError {
                message,
                error: Error::new(Kind::Ended),
            }),
        }
    }

    /// As [`Loop::send`](super::Loop::send), in this session.
    ///
    /// # Errors
    ///
    /// As there; [`Kind::Ended`] in place of [`Kind::State`].
    pub fn send(
        &self,
        message: P::Outbound,
        deadline: Option<Instant>,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        let (session, message) = self.session(message)?;
        session.send(message, deadline)
    }

    /// As [`Loop::try_send`](super::Loop::try_send), in this session.
    ///
    /// # Errors
    ///
    /// As there; [`Kind::Ended`] in place of [`Kind::State`].
    pub fn try_send(&self, message: P::Outbound) -> Result<Ticket<P>, SendError<P::Outbound>> {
        let (session, message) = self.session(message)?;
        session.try_send(message)
    }

    /// As [`Loop::send_urgent`](super::Loop::send_urgent), in this session.
    ///
    /// # Errors
    ///
    /// As there; [`Kind::Ended`] in place of [`Kind::State`].
    pub fn send_urgent(
        &self,
        message: P::Outbound,
        deadline: Option<Instant>,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        let (session, message) = self.session(message)?;
        session.send_urgent(message, deadline)
    }

    /// Starts the end of the session: what is queued is written, then it is over. Does not wait.
    pub fn request_disconnect(&self) {
        if let Some(session) = self.session.upgrade() {
            session.end(false);
        }
    }

    /// Lets the calling thread, which waits for something of this session, read for it until `done`,
    /// the deadline, or the end of the session. Whatever comes meanwhile is delivered on this
    /// thread. Returns at once if another thread reads; so the wait itself comes behind it.
    pub(crate) fn lend_thread(&self, deadline: Option<Instant>, done: impl Fn() -> bool) {
        if let Some(mut reading) = self.take_turn() {
            reading.read(deadline, None, done);
        }
    }

    /// Lets the calling thread have the turn to read, so that what comes from now on wakes no other; `None` if another
    /// thread has it, or this system cannot do that.
    pub(crate) fn take_turn(&self) -> Option<Reading<P>> {
        self.session.upgrade()?.take_turn()
    }

    /// Whether this is a thread of the session, or one inside a hook of its loop.
    pub(crate) fn is_own_thread(&self) -> bool {
        let session = self.session.upgrade();
        session.is_some_and(|session| Inside::is(session.setup.key()))
    }

    /// Where the session stands: running, disconnecting, or idle when it is gone.
    #[must_use]
    pub fn state(&self) -> State {
        match self.session.upgrade() {
            Some(session) if !session.is_ending() => State::Running,
            Some(_) => State::Disconnecting,
            None => State::Idle,
        }
    }
}

impl<P: Protocol> Clone for Link<P> {
    fn clone(&self) -> Self {
        let session = self.session.clone();
        Self { session }
    }
}

impl<P: Protocol> fmt::Debug for Link<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Link");
        debug.field("state", &self.state()).finish_non_exhaustive()
    }
}

/// Tells what became of a message that was sent.
pub struct Ticket<P: Protocol> {
    place: Place,
    session: Weak<Session<P>>,
}

impl<P: Protocol> Ticket<P> {
    /// How far the message has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.place.track.progress()
    }

    /// Why it was dropped: [`Kind::Encode`], or [`Kind::Ended`]. `None` if it was not, or was withdrawn.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.place.track.error()
    }

    /// Takes the message back, if it has not left the queue.
    #[must_use = "the message, if it was still there"]
    pub fn withdraw(&self) -> Option<P::Outbound> {
        self.session.upgrade()?.queue.withdraw(&self.place)
    }
}

impl<P: Protocol> fmt::Debug for Ticket<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Ticket");
        debug.field("progress", &self.progress());
        debug.finish_non_exhaustive()
    }
}

impl<P: Protocol> Session<P> {
    pub(super) fn send(
        self: &Arc<Self>,
        message: P::Outbound,
        deadline: Option<Instant>,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        let (message, weight) = self.weigh(message)?;
        let allowed = until(deadline);
        let wait = self.may_wait(deadline);
        let claimed = self.queue.claim(Lane::Normal, message, weight, wait);
        match claimed {
            Ok((place, direct)) => {
                if let Some(direct) = direct {
                    self.write_directly(direct);
                }
                Ok(self.ticket(place))
            }
            Err(refused) => Err(self.refuse(refused, Kind::WouldDeadlock, allowed)),
        }
    }

    pub(super) fn try_send(
        self: &Arc<Self>,
        message: P::Outbound,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        let (message, weight) = self.weigh(message)?;
        let pushed = self.queue.push(Lane::Normal, message, weight, Wait::Never);
        pushed
            .map(|place| self.ticket(place))
            .map_err(|refused| self.refuse(refused, Kind::QueueFull, Duration::ZERO))
    }

    pub(super) fn send_urgent(
        self: &Arc<Self>,
        message: P::Outbound,
        deadline: Option<Instant>,
    ) -> Result<Ticket<P>, SendError<P::Outbound>> {
        let (message, weight) = self.weigh(message)?;
        let allowed = until(deadline);
        let wait = self.may_wait(deadline);
        let pushed = self.queue.push(Lane::Urgent, message, weight, wait);
        pushed
            .map(|place| self.ticket(place))
            .map_err(|refused| self.refuse(refused, Kind::WouldDeadlock, allowed))
    }

    fn weigh(&self, message: P::Outbound) -> Result<(P::Outbound, usize), SendError<P::Outbound>> {
        match hook::guard("weight", || self.setup.protocol.weight(&message)) {
            Ok(weight) => Ok((message, weight)),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// The loop's own threads make the room that others wait for.
    fn may_wait(&self, deadline: Option<Instant>) -> Wait {
        match Inside::is(self.setup.key()) {
            true => Wait::Never,
            false => Wait::Until(deadline),
        }
    }

    fn ticket(self: &Arc<Self>, place: Place) -> Ticket<P> {
        let session = Arc::downgrade(self);
        Ticket { place, session }
    }

    fn refuse<M>(&self, refused: Refused<M>, full: Kind, allowed: Duration) -> SendError<M> {
        let error = match refused.why {
            Why::Closed => self.ended(),
            Why::Full => Error::new(full),
            Why::TimedOut => Error::new(Kind::Timeout {
                phase: Phase::Send,
                allowed,
            }),
        };
        let message = refused.message;
        SendError { message, error }
    }
}

/// The time until a deadline, for those who ask later how long they had waited.
fn until(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::ZERO, |at| {
        at.saturating_duration_since(Instant::now())
    })
}
