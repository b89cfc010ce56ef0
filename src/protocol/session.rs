//! One session: what its threads share, and the one place where it ends.
//!
//! Three threads: the reader and the writer work; the coordinator sleeps until somebody gives a
//! reason to end, lets the others finish within their grace, cuts the stream, joins them, tells
//! the protocol and publishes the [`End`]. It owns the socket and the guard of its path.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, io};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::lifecycle::{LONGEST, Thread, Threads, spawn};

use super::attempt::deadline;
use super::codec::Inbox;
use super::end::{Counts, End, judge};
use super::error::{Error, Failure, Kind, Side};
use super::hook::{self, Inside};
use super::listening::Served;
use super::message_loop::Shared;
use super::queue::Queue;
use super::stream::Stream;
use super::turn::{Turn, Turns};
use super::wait::wait_for;
use super::watch::Watch;
use super::writer::{self, Outgoing};
use super::{Options, Protocol, reader};

/// What all sessions of a loop share, and never changes.
pub(super) struct Setup<P> {
    pub(super) protocol: P,
    pub(super) options: Options,
    pub(super) target: String,
}

impl<P: Protocol> Setup<P> {
    pub(super) fn new(protocol: P, options: Options) -> Self {
        let target = format!("interplay::{}", options.name);
        Self {
            protocol,
            options,
            target,
        }
    }

    /// By what [`Inside`] knows this loop.
    pub(super) fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Runs `outbound` and appends the bytes of what it gives; leaves `bytes` as it was on an error.
    pub(super) fn encode(&self, message: P::Outbound, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let before = bytes.len();
        let message = hook::guard("outbound", || self.protocol.outbound(message))?;
        let encoded = hook::guard("encode", || self.protocol.encode(&message, bytes));
        let encoded =
            encoded.and_then(|encoded| encoded.map_err(|error| Error::caused(Kind::Encode, error)));
        if encoded.is_ok() {
            self.log("-->", || self.protocol.describe_outbound(&message));
        }
        // Its destructor is the user's, too.
        let encoded = hook::guard("drop", || drop(message)).and(encoded);
        encoded.inspect_err(|_| bytes.truncate(before))
    }

    /// Logs a message, if messages are logged.
    pub(super) fn log(&self, direction: &str, describe: impl FnOnce() -> Option<String>) {
        if !log::log_enabled!(target: &self.target, log::Level::Debug) {
            return;
        }
        match hook::guard("describe", describe) {
            Ok(Some(mut text)) => {
                text.truncate(text.floor_char_boundary(LOGGED));
                log::debug!(target: &self.target, "{direction} {text}");
            }
            Ok(None) => {}
            Err(error) => log::warn!(target: &self.target, "{error:#}"),
        }
    }
}

/// How much of a message is logged.
const LOGGED: usize = 1024;

/// How long a thread may take to end before the log says that a hook holds it up.
const PATIENCE: Duration = Duration::from_secs(1);

/// A session, from its start until the last handle to it is gone.
pub(super) struct Session<P: Protocol> {
    pub(super) setup: Arc<Setup<P>>,
    pub(super) queue: Queue<P::Outbound, Outgoing>,
    pub(super) turns: Turns<P>,
    pub(super) peer: String,
    /// Set when nothing more is delivered and nothing that fails counts.
    closing: AtomicBool,
    control: Mutex<Control>,
    changed: Condvar,
    /// Taken away when all threads have been joined.
    stream: Mutex<Option<Arc<Stream>>>,
    workers: Threads,
    coordinator: Mutex<Option<Thread>>,
    started: Instant,
    pub(super) sent: AtomicU64,
    /// Those that the writer had taken and not begun.
    pub(super) unsent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) discarded: AtomicU64,
}

#[derive(Default)]
struct Control {
    /// Whether there is a session: the state is Running, or the attempt was given up. A reason to
    /// end may come before that is known.
    begun: Option<bool>,
    trigger: Option<Trigger>,
    /// No grace.
    hurry: bool,
    failures: Vec<Failure>,
    reader_done: bool,
    writer_done: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Wanted,
    Failed,
}

impl<P: Protocol> Session<P> {
    /// Starts the three threads, which wait for [`run`](Self::run). If one cannot be started, the
    /// others end.
    pub(super) fn start(
        shared: &Arc<Shared<P>>,
        stream: Stream,
        served: Option<Served>,
        inbox: Inbox<P::Decoder>,
    ) -> io::Result<Arc<Self>> {
        let setup = shared.setup.clone();
        let stream = Arc::new(stream);
        let watch = Arc::new(Watch::new(stream.clone())?);
        let session = Arc::new(Self {
            queue: Queue::new(setup.options.queue_messages, setup.options.queue_bytes),
            turns: Turns::new(),
            peer: stream.peer(),
            closing: AtomicBool::new(false),
            control: Mutex::default(),
            changed: Condvar::new(),
            stream: Mutex::new(Some(stream.clone())),
            workers: Threads::default(),
            coordinator: Mutex::new(None),
            started: Instant::now(),
            sent: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            received: AtomicU64::new(inbox.count()),
            discarded: AtomicU64::new(0),
            setup,
        });
        let turn = Turn {
            watch,
            inbox,
            hushed: false,
        };
        let threads = Self::spawn_all(&session, shared, stream, served, turn);
        let coordinator = threads.inspect_err(|_| session.give_up())?;
        *session.coordinator.lock() = Some(coordinator);
        Ok(session)
    }

    fn spawn_all(
        session: &Arc<Self>,
        shared: &Arc<Shared<P>>,
        stream: Arc<Stream>,
        served: Option<Served>,
        turn: Turn<P>,
    ) -> io::Result<Thread> {
        let name = &session.setup.options.name;
        let name = &name[..name.floor_char_boundary(12)];
        let reader = spawn(format!("{name}:rd"), {
            let session = session.clone();
            move || session.work(Side::Reader, || reader::run(&session, turn))
        })?;
        session.workers.push(reader);
        let writer = spawn(format!("{name}:wr"), {
            let (session, stream) = (session.clone(), stream.clone());
            move || {
                session.work(Side::Writer, || {
                    writer::run(&session, &stream);
                    Ok(())
                });
            }
        })?;
        session.workers.push(writer);
        spawn(format!("{name}:co"), {
            let (session, shared) = (session.clone(), shared.clone());
            move || session.coordinate(&shared, stream, served)
        })
    }

    /// The whole life of the reader's or the writer's thread.
    fn work(&self, side: Side, body: impl FnOnce() -> Result<(), Error>) {
        let _inside = Inside::enter(self.setup.key());
        if self.may_run() {
            // Hooks are guarded each on its own; what is left is destructors of messages.
            if let Err(error) = hook::guard("drop", body).flatten() {
                self.fail(side, error);
            }
        }
        let mut control = self.control.lock();
        match side {
            Side::Reader => control.reader_done = true,
            Side::Writer | Side::Start => control.writer_done = true,
        }
        drop(control);
        self.changed.notify_all();
    }

    /// Waits until the state is Running; false if it never will be.
    fn may_run(&self) -> bool {
        let mut control = self.control.lock();
        wait_for(&self.changed, &mut control, None, |control| control.begun) == Some(true)
    }

    /// Lets the threads begin.
    pub(super) fn run(&self) {
        self.control.lock().begun = Some(true);
        self.changed.notify_all();
    }

    /// Ends the threads before they begin.
    pub(super) fn give_up(&self) {
        self.control.lock().begun = Some(false);
        self.end(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The stream, as long as there is one.
    pub(super) fn stream(&self) -> Option<Arc<Stream>> {
        self.stream.lock().clone()
    }

    /// Gives a reason to end: somebody wants it. In a `hurry`, nothing is flushed.
    pub(super) fn end(&self, hurry: bool) {
        let mut control = self.control.lock();
        control.trigger.get_or_insert(Trigger::Wanted);
        control.hurry |= hurry;
        drop(control);
        self.queue.close();
        self.changed.notify_all();
    }

    /// Gives a reason to end: a failure. It counts only while the session is not closing.
    pub(super) fn fail(&self, side: Side, error: Error) {
        let mut control = self.control.lock();
        if !self.is_closing() {
            let at = Instant::now();
            control.failures.push(Failure { side, at, error });
        }
        control.trigger.get_or_insert(Trigger::Failed);
        drop(control);
        self.queue.close();
        self.changed.notify_all();
    }

    /// Whether a reason to end has been given.
    pub(super) fn is_ending(&self) -> bool {
        self.control.lock().trigger.is_some()
    }

    /// That the session has ended, as an error, with the cause that is known so far.
    pub(super) fn ended(&self) -> Error {
        match self.cause() {
            Some(cause) => Error::caused(Kind::Ended, cause),
            None => Error::new(Kind::Ended),
        }
    }

    pub(super) fn cause(&self) -> Option<Error> {
        let control = self.control.lock();
        match &control.end {
            Some(end) => end.cause.clone(),
            None => control
                .failures
                .first()
                .map(|failure| failure.error.clone()),
        }
    }

    /// Waits until the session has ended; `None` if that was not before `deadline`.
    pub(super) fn wait_end(&self, deadline: Option<Instant>) -> Option<End> {
        let ended = |control: &mut Control| control.end.clone();
        let end = wait_for(&self.changed, &mut self.control.lock(), deadline, ended)?;
        let coordinator = self.coordinator.lock().take();
        if let Some(mut thread) = coordinator {
            thread.join_until(Instant::now() + LONGEST); // it is at its last lines
        }
        Some(end)
    }

    /// The whole life of the coordinator.
    fn coordinate(
        self: &Arc<Self>,
        shared: &Shared<P>,
        stream: Arc<Stream>,
        served: Option<Served>,
    ) {
        let _inside = Inside::enter(self.setup.key());
        let began = self.wait_for_trigger();
        if began {
            shared.to_disconnecting(self);
            self.grace();
        }
        let wanted = self.close(&stream);
        if let Err(held_up) = self.workers.join_until(Instant::now() + PATIENCE) {
            log::warn!(target: &self.setup.target, "a hook holds up the end: {held_up}");
            let _ = self.workers.join_until(Instant::now() + LONGEST); // it has to be waited for
        }
        // A sender that writes for itself does not block; only a hook can hold it up.
        self.queue.wait_unused(None);
        let lost = self.queue.drain(&self.ended());
        let unsent = lost.len() as u64 + self.unsent.load(Ordering::Relaxed);
        let dropped = hook::guard("drop", || drop(lost));
        if let Err(error) = dropped {
            log::error!(target: &self.setup.target, "{error:#}");
        }
        // They stay, for those who ask for the cause while the hook runs.
        let failures = self.control.lock().failures.clone();
        let mut end = End {
            cause: judge(wanted, failures),
            counts: Counts {
                sent: self.sent.load(Ordering::Relaxed),
                received: self.received.load(Ordering::Relaxed),
                discarded: self.discarded.load(Ordering::Relaxed),
                unsent,
            },
            lasted: self.started.elapsed(),
        };
        if began {
            let told = hook::guard("on_end", || self.setup.protocol.on_end(&mut end));
            if let Err(error) = told {
                log::error!(target: &self.setup.target, "{error:#}");
            }
            self.log_end(&end);
        }
        // The socket is still open here, by this thread's own handle: as long as it holds the
        // inode, a path that is somebody else's by now is told from ours.
        drop(served);
        self.stream.lock().take();
        drop(stream);
        self.control.lock().end = Some(end);
        self.changed.notify_all();
    }

    /// Waits for a reason to end; false if the session never ran.
    fn wait_for_trigger(&self) -> bool {
        let mut control = self.control.lock();
        let triggered = |control: &mut Control| control.begun.filter(|_| control.trigger.is_some());
        wait_for(&self.changed, &mut control, None, triggered) == Some(true)
    }

    /// Lets the threads do what is still worth doing.
    fn grace(&self) {
        let options = &self.setup.options;
        let mut control = self.control.lock();
        let wait =
            |control: &mut MutexGuard<'_, Control>, limit: Duration, done: fn(&Control) -> bool| {
                let over = |control: &mut Control| (done(control) || control.hurry).then_some(());
                wait_for(&self.changed, control, deadline(Some(limit)), over);
            };
        if control.trigger == Some(Trigger::Wanted) {
            // The queue is closed: the writer ends when it has written what is in it.
            wait(&mut control, options.flush_timeout, |control| {
                control.writer_done || control.reader_done
            });
        }
        let cut = |failure: &Failure| {
            failure.side == Side::Writer && *failure.error.kind() == Kind::PeerReset
        };
        if control.failures.iter().any(cut) {
            // The peer's last words may still lie unread.
            wait(&mut control, options.drain_timeout, |control| {
                control.reader_done
            });
        }
    }

    /// Stops both threads; true if the end was wanted.
    fn close(&self, stream: &Stream) -> bool {
        let control = self.control.lock();
        self.closing.store(true, Ordering::Release);
        let wanted = control.trigger == Some(Trigger::Wanted);
        drop(control);
        self.queue.stop();
        stream.shutdown();
        self.changed.notify_all();
        wanted
    }

    fn log_end(&self, end: &End) {
        let target = &self.setup.target;
        match &end.cause {
            None => log::info!(target: target, "the session with {} ended", self.peer),
            Some(cause) if *cause.kind() == Kind::PeerClosed => {
                log::info!(target: target, "{} closed the connection", self.peer);
            }
            Some(cause) => {
                log::error!(target: target, "the session with {} ended: {cause:#}", self.peer);
            }
        }
    }
}

impl<P: Protocol> fmt::Debug for Session<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Session");
        debug.field("peer", &self.peer).finish_non_exhaustive()
    }
}
