//! One session as the client sees it: who waits for which reply, and what is sent when.
//!
//! With out-of-band commands enabled a server reads ahead only so many commands; an out-of-band
//! command behind more than that would be stuck. So at most a window of in-band commands is out,
//! and the others are held here, in their order. A reply moves the line on.

use std::collections::{HashMap, VecDeque};
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::protocol::{self, Kind, Link, Mailboxes, Progress, Ticket};

use super::command::Command;
use super::error::{Error, Sent, Waiting};
use super::greeting::Start;
use super::message::{Answer, Event, Object, Outcome};
use super::monitor::{Monitor, Outgoing};
use super::options::Options;

/// A reply on its way to its caller.
pub(super) struct Come {
    pub(super) number: u64,
    pub(super) outcome: Outcome,
}

/// A session of a client, until the last of its calls is gone.
pub(super) struct Talk {
    pub(super) session: u64,
    pub(super) greeting: Option<Object>,
    pub(super) capabilities: Vec<String>,
    pub(super) oob: bool,
    /// Whether descriptors can be sent.
    pub(super) unix: bool,
    pub(super) mailboxes: Mailboxes<Come, Arc<Error>>,
    /// The first id of this session, and the last so far.
    first: u64,
    last: AtomicU64,
    link: OnceLock<Link<Monitor>>,
    /// How many listeners to events have code of the user's.
    asking: Arc<AtomicUsize>,
    /// Most commands that wait here.
    room: usize,
    window: usize,
    line: Mutex<Line>,
    /// The line has moved: there is room, or the descriptor's turn is free.
    moved: Condvar,
    /// Whether a reply would change the line.
    is_watching: AtomicBool,
    quit: AtomicBool,
    shutdown: Mutex<Option<Event>>,
    ended: OnceLock<Arc<Error>>,
}

/// The in-band commands that are more than just sent.
#[derive(Default)]
struct Line {
    /// Sent and not answered. Kept only where the window counts, or for their tickets.
    out: HashMap<u64, Option<Ticket<Monitor>>>,
    held: VecDeque<(u64, Outgoing)>,
    /// Raw messages in the order of their sending: a reply without id is for the oldest. Those
    /// that were given up stay, to swallow theirs.
    raws: VecDeque<u64>,
    /// The command whose descriptor the server may not have taken yet.
    descriptor: Option<u64>,
    quits: Vec<u64>,
    ended: bool,
}

impl Line {
    /// Where a command is held. Ids count up, so most of the time they are in order; there may be
    /// thousands, and at the end each of them asks.
    fn place_of(&self, id: u64) -> Option<usize> {
        let place = self.held.binary_search_by_key(&id, |(held, _)| *held);
        let search = || self.held.iter().position(|(held, _)| *held == id);
        place.ok().or_else(search)
    }
}

/// How a command goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In band, by its caller's own hand if possible: it is about to wait for the reply.
    Direct,
    /// In band; more will follow.
    Queued,
    /// As bytes whose reply has no id.
    Raw,
    OutOfBand,
}

/// Where a command is found again.
pub(super) enum Route {
    Sent(Ticket<Monitor>),
    Held,
}

/// Why a command was not sent.
pub(super) enum NotSent {
    TimedOut,
    Ended(Arc<Error>),
    WouldDeadlock,
}

impl NotSent {
    /// What the caller of `command` is told, whose time was limited so.
    pub(super) fn into_error(self, command: &Command, limit: Option<Duration>) -> Error {
        let (command, sent) = (command.clone(), Sent::No);
        match self {
            Self::TimedOut => Error::Timeout {
                waiting: Waiting::Call { command, sent },
                allowed: limit.unwrap_or_default(),
            },
            Self::WouldDeadlock => Error::WouldDeadlock,
            Self::Ended(cause) => Error::Interrupted {
                command,
                sent,
                cause,
            },
        }
    }
}

impl Talk {
    pub(super) fn new(
        options: &Options,
        start: &Start,
        session: u64,
        unix: bool,
        asking: Arc<AtomicUsize>,
    ) -> Result<Self, getrandom::Error> {
        // Few digits: each byte costs a server 3 µs. A guest agent may still answer the commands
        // of an earlier session, so there the ids are apart.
        let random = getrandom::u32()?;
        let first = match options.guest_agent {
            true => u64::from(random) << 16,
            false => u64::from(random % 1000),
        };
        let window = options.in_band_window.filter(|_| start.oob);
        Ok(Self {
            session,
            greeting: start.greeting.clone(),
            capabilities: start.capabilities(),
            oob: start.oob,
            unix,
            mailboxes: Mailboxes::new(first),
            first,
            last: AtomicU64::new(first),
            link: OnceLock::new(),
            asking,
            room: protocol::Options::from(options).queue_messages,
            window: window.unwrap_or(usize::MAX),
            line: Mutex::default(),
            moved: Condvar::new(),
            is_watching: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            shutdown: Mutex::new(None),
            ended: OnceLock::new(),
        })
    }

    /// The session runs.
    pub(super) fn begin(&self, link: Link<Monitor>) {
        let _ = self.link.set(link); // once a session
    }

    pub(super) fn has_begun(&self) -> bool {
        self.link.get().is_some()
    }

    /// Whether this is one of the threads that would have to deliver what a caller waits for.
    pub(super) fn is_own_thread(&self) -> bool {
        self.link.get().is_some_and(Link::is_own_thread)
    }

    /// See [`Link::lend_thread`]. Code of the user's is not run that way: a predicate that hangs
    /// would keep the caller beyond its time.
    pub(super) fn lend_thread(&self, deadline: Option<Instant>, done: impl Fn() -> bool) {
        let over = || self.asking.load(Ordering::Relaxed) > 0 || done();
        if let Some(link) = self.link.get().filter(|_| !over()) {
            link.lend_thread(deadline, over);
        }
    }

    /// Sends a command, or holds it until it may go.
    pub(super) fn send(
        &self,
        id: u64,
        outgoing: Outgoing,
        way: Way,
        deadline: Option<Instant>,
    ) -> Result<Route, NotSent> {
        let Some(link) = self.link.get() else {
            return Err(NotSent::Ended(self.reason_of(None)));
        };
        self.last.fetch_max(id, Ordering::Relaxed);
        let with_descriptor = outgoing.descriptor.is_some();
        let is_quit = outgoing.command.name() == "quit";
        let mut line = self.line.lock();
        let may_go = |line: &mut Line| {
            let free = !with_descriptor || line.descriptor.is_none();
            let room = way == Way::OutOfBand || line.held.len() < self.room;
            line.ended || free && room
        };
        while !may_go(&mut line) {
            if self.is_own_thread() {
                return Err(NotSent::WouldDeadlock);
            }
            match deadline {
                None => self.moved.wait(&mut line),
                Some(deadline) => {
                    let over = self.moved.wait_until(&mut line, deadline).timed_out();
                    if over && !may_go(&mut line) {
                        return Err(NotSent::TimedOut);
                    }
                }
            }
        }
        if line.ended {
            return Err(NotSent::Ended(self.reason_of(None)));
        }
        if with_descriptor {
            line.descriptor = Some(id);
        }
        if is_quit {
            line.quits.push(id);
        }
        if way == Way::Raw {
            line.raws.push_back(id);
        }
        let goes = line.held.is_empty() && line.out.len() < self.window;
        if goes && self.window < usize::MAX && way != Way::OutOfBand {
            line.out.insert(id, None);
        }
        self.watch(&line);
        let sent = match way {
            Way::OutOfBand => {
                drop(line);
                link.send_urgent(outgoing, deadline)
            }
            Way::Direct if goes => {
                drop(line);
                link.send(outgoing, deadline)
            }
            Way::Queued | Way::Raw if goes => {
                // Before it is tried: whatever leaves a full queue from now on comes by here.
                self.is_watching.store(true, Ordering::SeqCst);
                // Under the lock, so that raw messages are noted in the order of their sending.
                let sent = link.try_send(outgoing);
                match sent {
                    Err(full) if *full.error.kind() == Kind::QueueFull => {
                        line.out.remove(&id);
                        line.held.push_back((id, full.message));
                        return Ok(Route::Held);
                    }
                    sent => {
                        self.watch(&line);
                        drop(line);
                        sent
                    }
                }
            }
            _ => {
                line.held.push_back((id, outgoing));
                self.watch(&line);
                return Ok(Route::Held);
            }
        };
        sent.map(Route::Sent).map_err(|refused| {
            self.forget(id);
            self.not_sent(&refused.error)
        })
    }

    /// Sends what nobody waits for a reply to.
    pub(super) fn send_loose(&self, outgoing: Outgoing) -> Result<(), NotSent> {
        let Some(link) = self.link.get() else {
            return Err(NotSent::Ended(self.reason_of(None)));
        };
        let sent = link.send(outgoing, None).map(drop);
        sent.map_err(|refused| self.not_sent(&refused.error))
    }

    fn not_sent(&self, error: &protocol::Error) -> NotSent {
        match error.kind() {
            Kind::Timeout { .. } => NotSent::TimedOut,
            Kind::WouldDeadlock => NotSent::WouldDeadlock,
            _ => {
                let cause = error.source().and_then(|cause| cause.downcast_ref());
                NotSent::Ended(self.reason_of(cause))
            }
        }
    }

    /// Takes a command back that was given up.
    pub(super) fn withdraw(&self, id: u64, route: &Route) -> Sent {
        let mut line = self.line.lock();
        if let Some(at) = line.place_of(id) {
            let gone = line.held.remove(at);
            drop(line);
            drop(gone);
            self.forget(id);
            return Sent::No;
        }
        let withdrawn = match (route, line.out.get(&id)) {
            (Route::Sent(ticket), _) | (Route::Held, Some(Some(ticket))) => ticket.withdraw(),
            _ => None,
        };
        drop(line);
        match withdrawn {
            Some(_) => {
                self.forget(id);
                Sent::No
            }
            None => self.was_sent(id, route),
        }
    }

    /// Whether a command that will have no reply may have left.
    pub(super) fn was_sent(&self, id: u64, route: &Route) -> Sent {
        let line = self.line.lock();
        let progress = match (route, line.out.get(&id)) {
            (Route::Sent(ticket), _) | (Route::Held, Some(Some(ticket))) => ticket.progress(),
            (Route::Held, _) if line.place_of(id).is_some() => Progress::Queued,
            (Route::Held, _) => Progress::Written,
        };
        match progress {
            Progress::Queued | Progress::Dropped => Sent::No,
            _ => Sent::Maybe,
        }
    }

    /// What has come is the reply to this command. Before its caller is woken.
    pub(super) fn answered(&self, id: u64, come: &Come) {
        if !self.is_watching.load(Ordering::SeqCst) {
            return;
        }
        let is_quit = self.line.lock().quits.contains(&id);
        if is_quit && matches!(come.outcome, Outcome::Return(_) | Outcome::Text(_)) {
            self.quit.store(true, Ordering::Release);
        }
        self.forget(id);
    }

    /// The call whose reply this would be: if it has no id, the oldest raw message.
    pub(super) fn call_of(&self, answer: &Answer) -> Option<u64> {
        match &answer.id {
            Some(id) => id.as_u64(),
            None => self.line.lock().raws.front().copied(),
        }
    }

    /// A command is answered, or never left: the line moves on.
    fn forget(&self, id: u64) {
        let mut line = self.line.lock();
        let ticket = line.out.remove(&id);
        line.raws.retain(|raw| *raw != id);
        line.quits.retain(|quit| *quit != id);
        if line.descriptor == Some(id) {
            line.descriptor = None;
        }
        self.advance(line);
        drop(ticket);
    }

    /// A message left the queue: there may be room for one that is held.
    pub(super) fn make_way(&self) {
        if self.is_watching.load(Ordering::SeqCst) {
            self.advance(self.line.lock());
        }
    }

    /// Sends what is held, as far as window and queue have room.
    fn advance(&self, mut line: MutexGuard<'_, Line>) {
        let before = line.held.len();
        while line.out.len() < self.window && !line.ended {
            let Some((next, outgoing)) = line.held.pop_front() else {
                break;
            };
            let sent = self.link.get().map(|link| link.try_send(outgoing));
            match sent {
                Some(Ok(ticket)) => drop(line.out.insert(next, Some(ticket))),
                Some(Err(full)) => {
                    line.held.push_front((next, full.message));
                    break;
                }
                None => break,
            }
        }
        self.watch(&line);
        let moved = line.held.len() < before || line.descriptor.is_none();
        drop(line);
        if moved {
            self.moved.notify_all();
        }
    }

    fn watch(&self, line: &Line) {
        let idle = line.out.is_empty()
            && line.held.is_empty()
            && line.raws.is_empty()
            && line.quits.is_empty()
            && line.descriptor.is_none();
        self.is_watching.store(!idle, Ordering::SeqCst);
    }

    /// Whether a command of this session had this id.
    pub(super) fn had(&self, id: u64) -> bool {
        (self.first..=self.last.load(Ordering::Relaxed)).contains(&id)
    }

    pub(super) fn note_shutdown(&self, event: Event) {
        *self.shutdown.lock() = Some(event);
    }

    /// The session has ended: all that wait get this reason.
    pub(super) fn end(&self, reason: &Arc<Error>) {
        let _ = self.ended.set(reason.clone()); // once a session
        let mut line = self.line.lock();
        line.ended = true;
        // What is held stays, to be told from what was sent; but no descriptor stays open with it.
        let take = |(_, outgoing): &mut (u64, Outgoing)| outgoing.descriptor.take();
        let descriptors: Vec<_> = line.held.iter_mut().filter_map(take).collect();
        drop(line);
        drop(descriptors);
        self.moved.notify_all();
        self.mailboxes.close(reason.clone());
    }

    /// Why the session has ended, or ends of this cause.
    pub(super) fn reason_of(&self, cause: Option<&protocol::Error>) -> Arc<Error> {
        let gone =
            |cause: &protocol::Error| matches!(cause.kind(), Kind::PeerClosed | Kind::PeerReset);
        if let Some(reason) = self.ended.get() {
            return reason.clone();
        }
        let after_shutdown = self.shutdown.lock().clone();
        Arc::new(match cause {
            None => Error::Closed,
            Some(cause) if self.quit.load(Ordering::Acquire) && gone(cause) => Error::ServerQuit,
            // A newline that it did not read makes a reset of a shutdown's end, too.
            Some(cause)
                if *cause.kind() == Kind::PeerClosed || after_shutdown.is_some() && gone(cause) =>
            {
                Error::PeerClosed { after_shutdown }
            }
            Some(cause) => Error::of_loop(cause.clone()),
        })
    }
}
