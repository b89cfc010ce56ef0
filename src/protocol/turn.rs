//! Whose turn it is to read: the reader's thread, or a caller that waits for what would come.
//!
//! A caller that waits while another thread reads for it pays for being woken, and the reply for
//! the way from one core to another. So a caller may take the turn and read until it has what it
//! waits for. Whoever has the turn delivers all that comes, to everybody.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::codec::Inbox;
use super::error::Error;
use super::hook::{self, Inside};
use super::session::Session;
use super::watch::{Waker, Watch};
use super::{Protocol, reader};

/// What one reads with. There is one in a session.
pub(super) struct Turn<P: Protocol> {
    pub(super) watch: Arc<Watch>,
    /// Between two turns it holds no whole message.
    pub(super) inbox: Inbox<P::Decoder>,
    /// The reader's thread is not woken by what comes.
    pub(super) hushed: bool,
}

impl<P: Protocol> Turn<P> {
    /// Has the reader's thread woken by what comes.
    fn rouse(&mut self) -> Result<(), Error> {
        self.hushed = false;
        self.watch.rouse().map_err(Error::of_io)
    }
}

/// Where the turn of a session is.
pub(super) struct Turns<P: Protocol> {
    place: Mutex<Place<P>>,
    /// The turn is back; the reader's thread may wait here.
    back: Condvar,
}

enum Place<P: Protocol> {
    /// With the reader's thread, or nowhere any more.
    Reader,
    /// With nobody: the reader's thread sleeps until bytes come.
    Free(Turn<P>),
    /// With a caller.
    Caller,
    /// A caller found that nothing more can be read.
    Failed(Error),
}

impl<P: Protocol> Turns<P> {
    /// The turn is with the reader's thread.
    pub(super) fn new() -> Self {
        Self {
            place: Mutex::new(Place::Reader),
            back: Condvar::new(),
        }
    }

    /// Gives the turn away until bytes come; for the reader's thread.
    pub(super) fn pass(&self, turn: Turn<P>) -> Result<Turn<P>, Error> {
        let watch = turn.watch.clone();
        *self.place.lock() = Place::Free(turn);
        let slept = watch.sleep();
        let mut place = self.place.lock();
        loop {
            match mem::replace(&mut *place, Place::Reader) {
                Place::Free(mut turn) => {
                    drop(place);
                    slept.map_err(Error::of_io)?;
                    if turn.hushed {
                        turn.rouse()?; // it is the end that has woken this thread
                    }
                    return Ok(turn);
                }
                Place::Failed(error) => return Err(error),
                // It was roused a moment too soon, or by the end of the stream.
                other => *place = other,
            }
            self.back.wait(&mut place);
        }
    }

    fn take(&self) -> Option<Turn<P>> {
        let mut place = self.place.lock();
        match mem::replace(&mut *place, Place::Caller) {
            Place::Free(turn) => Some(turn),
            other => {
                *place = other;
                None
            }
        }
    }

    /// Nothing more can be read.
    fn fail(&self, turn: &Turn<P>, error: Error) {
        // The reader's thread has to hear of it, and the end of the stream wakes it for sure.
        turn.watch.stream().end_reading();
        let _ = turn.watch.rouse();
        self.give_back(Place::Failed(error));
    }

    fn give_back(&self, place: Place<P>) {
        *self.place.lock() = place;
        self.back.notify_one();
    }
}

impl<P: Protocol> Session<P> {
    /// Gives the calling thread the turn; `None` if another thread reads.
    pub(super) fn take_turn(self: &Arc<Self>) -> Option<Reading<P>> {
        let mut turn = self.turns.take()?;
        if !turn.hushed && !turn.watch.hush() {
            self.turns.give_back(Place::Free(turn));
            return None;
        }
        turn.hushed = true;
        Some(Reading {
            session: self.clone(),
            turn: Some(turn),
        })
    }
}

/// The turn of a session, with a thread that is not its reader's. The reader's thread gets it back when this is
/// dropped.
pub(crate) struct Reading<P: Protocol> {
    session: Arc<Session<P>>,
    /// Until it is given back.
    turn: Option<Turn<P>>,
}

impl<P: Protocol> Reading<P> {
    /// Reads until `done`, the deadline, or the end of the session. Whatever comes meanwhile is delivered on
    /// this thread. The waker has it ask again whether it is done.
    pub(crate) fn read(
        &mut self,
        deadline: Option<Instant>,
        waker: Option<&Waker>,
        done: impl Fn() -> bool,
    ) {
        let Some(mut turn) = self.turn.take() else {
            return;
        };
        let session = &self.session;
        let _inside = Inside::enter(session.setup.key());
        let goes_on = || !done() && !session.is_closing();
        let read = hook::guard("drop", || {
            // Asked again after the wait, so that a reason to leave the reading to the reader's
            // thread counts from the next message on.
            while goes_on() && turn.watch.wait(deadline, waker).map_err(Error::of_io)? && goes_on()
            {
                reader::read(session, &mut turn)?;
            }
            Ok(())
        });
        match read.flatten() {
            Ok(()) => self.turn = Some(turn),
            Err(error) => session.turns.fail(&turn, error),
        }
    }

    /// Lets others have the turn, but the reader's thread only if they let it: it sleeps on whatever comes, until
    /// somebody else has had the turn and dropped it.
    pub(crate) fn leave_hushed(mut self) {
        if let Some(turn) = self.turn.take() {
            self.session.turns.give_back(Place::Free(turn));
        }
    }
}

impl<P: Protocol> Drop for Reading<P> {
    fn drop(&mut self) {
        if let Some(mut turn) = self.turn.take() {
            let turns = &self.session.turns;
            match turn.rouse() {
                Ok(()) => turns.give_back(Place::Free(turn)),
                Err(error) => turns.fail(&turn, error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread::{Builder, JoinHandle, ThreadId, current, yield_now};
    use std::time::Duration;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;
    use crate::protocol::{
        BoxError, Cancel, Kind, Lines, Link, Loop, Mailboxes, Options, Protocol, State,
    };

    const LIMIT: Duration = Duration::from_secs(60);

    /// Says which thread was told of which line; replies are lines of a number.
    struct Teller {
        told: Sender<(Vec<u8>, ThreadId)>,
        replies: Mailboxes<(), Error>,
    }

    impl Protocol for Teller {
        type Outbound = Vec<u8>;
        type Inbound = Vec<u8>;
        type Decoder = Lines;

        fn decoder(&self) -> Lines {
            Lines::new()
        }
        fn encode(&self, line: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), BoxError> {
            out.extend_from_slice(line);
            Ok(())
        }
        fn on_message(&self, _: u64, line: Vec<u8>, _: &Link<Self>) -> Result<(), BoxError> {
            if line == b"bad" {
                return Err("as planned".into());
            }
            if let Some(id) = std::str::from_utf8(&line)
                .ok()
                .and_then(|id| id.parse().ok())
            {
                let _ = self.replies.deliver(id, ());
            }
            let _ = self.told.send((line, current().id()));
            Ok(())
        }
        fn on_end(&self, _: &mut crate::protocol::End) {
            self.replies.close(Error::new(Kind::Ended));
        }
    }

    type Told = Receiver<(Vec<u8>, ThreadId)>;

    fn connected() -> (Arc<Loop<Teller>>, Told, UnixStream) {
        let (told, hears) = unbounded();
        let replies = Mailboxes::new(0);
        let teller = Loop::new(Teller { told, replies }, Options::new());
        let (near, far) = UnixStream::pair().unwrap();
        teller.connect(near.into(), &Cancel::new()).unwrap();
        far.set_read_timeout(Some(LIMIT)).unwrap();
        (Arc::new(teller), hears, far)
    }

    fn far_future() -> Option<Instant> {
        Instant::now().checked_add(LIMIT)
    }

    fn start<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        Builder::new().spawn(body).unwrap()
    }

    /// Lends the calling thread; tries again as long as the reader's thread is still at work.
    fn lend(link: &Link<Teller>, deadline: Option<Instant>, done: impl Fn() -> bool) {
        let taken = Cell::new(false);
        while !taken.get() && link.state() == State::Running {
            link.lend_thread(deadline, || {
                taken.set(true);
                done()
            });
            yield_now();
        }
    }

    /// Starts a thread that lends itself until it is told to stop or the session ends, and waits
    /// until it reads.
    fn lender(teller: &Arc<Loop<Teller>>) -> (JoinHandle<()>, Arc<AtomicBool>) {
        let (reads, reading) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let link = teller.link().unwrap();
        let lent = start({
            let stop = stop.clone();
            move || {
                lend(&link, far_future(), || {
                    let _ = reads.send(()); // the turn is taken when this is asked
                    stop.load(Ordering::Relaxed)
                });
            }
        });
        reading.recv_timeout(LIMIT).unwrap();
        (lent, stop)
    }

    #[test]
    fn a_caller_that_waits_is_told_itself_and_then_the_reader_is_again() {
        let (teller, hears, mut far) = connected();
        let link = teller.link().unwrap();
        for _ in 0..100 {
            far.write_all(b"to the reader\n").unwrap();
            let (_, reader) = hears.recv_timeout(LIMIT).unwrap();
            assert_ne!(reader, current().id());
            // It lets go of the turn a moment after it has told.
            while hears.is_empty() {
                far.write_all(b"to somebody\n").unwrap();
                link.lend_thread(far_future(), || !hears.is_empty());
                let (_, told) = hears.recv_timeout(LIMIT).unwrap();
                if told == current().id() {
                    break;
                }
                assert_eq!(told, reader);
            }
        }
    }

    #[test]
    fn a_caller_reads_until_its_time_is_over() {
        let (teller, hears, mut far) = connected();
        let link = teller.link().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        lend(&link, Some(deadline), || false);
        assert!(Instant::now() >= deadline);
        far.write_all(b"later\n").unwrap();
        assert_ne!(hears.recv_timeout(LIMIT).unwrap().1, current().id());
    }

    /// The turn, tried for as long as the reader's thread is still at work.
    #[cfg(target_os = "linux")]
    fn taken(link: &Link<Teller>) -> Reading<Teller> {
        loop {
            if let Some(reading) = link.take_turn() {
                return reading;
            }
            yield_now();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_waker_ends_the_reading_when_something_else_is_done() {
        let (teller, hears, mut far) = connected();
        let waker = Arc::new(Waker::new().unwrap());
        let done = Arc::new(AtomicBool::new(false));
        waker.wake(); // for nothing: it goes on
        let (reads, reading) = unbounded();
        let lent = start({
            let (link, waker, done) = (teller.link().unwrap(), waker.clone(), done.clone());
            move || {
                taken(&link).read(far_future(), Some(&waker), || {
                    let _ = reads.send(());
                    done.load(Ordering::Relaxed)
                });
                current().id()
            }
        });
        reading.recv_timeout(LIMIT).unwrap();
        far.write_all(b"a line\n").unwrap();
        let (_, told) = hears.recv_timeout(LIMIT).unwrap();
        done.store(true, Ordering::Relaxed);
        waker.wake();
        assert_eq!(lent.join().unwrap(), told);
        far.write_all(b"another\n").unwrap();
        assert_ne!(hears.recv_timeout(LIMIT).unwrap().1, told);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_comes_behind_a_hush_waits_for_the_next_turn_and_the_end_does_not() {
        let (teller, hears, mut far) = connected();
        let link = teller.link().unwrap();
        taken(&link).leave_hushed();
        far.write_all(b"first\n").unwrap();
        assert!(hears.recv_timeout(Duration::from_millis(20)).is_err());
        let mut reading = link.take_turn().unwrap();
        reading.read(far_future(), None, || !hears.is_empty());
        assert_eq!(hears.recv_timeout(LIMIT).unwrap().1, current().id());
        reading.leave_hushed();
        far.write_all(b"second\n").unwrap();
        assert!(hears.recv_timeout(Duration::from_millis(20)).is_err());
        drop(link.take_turn().unwrap()); // which lets the reader have it
        assert_ne!(hears.recv_timeout(LIMIT).unwrap().1, current().id());
        taken(&link).leave_hushed();
        assert!(teller.disconnect().unwrap().unwrap().is_clean());
    }

    #[test]
    fn one_caller_reads_at_a_time_and_others_are_not_kept() {
        let (teller, hears, mut far) = connected();
        let (lent, stop) = lender(&teller);
        let asked = AtomicBool::new(false);
        teller.link().unwrap().lend_thread(far_future(), || {
            asked.store(true, Ordering::Relaxed);
            false
        });
        assert!(!asked.into_inner(), "it returned at once");
        stop.store(true, Ordering::Relaxed);
        far.write_all(b"wake\n").unwrap();
        hears.recv_timeout(LIMIT).unwrap();
        lent.join().unwrap();
    }

    #[test]
    fn what_a_caller_finds_wrong_ends_the_session() {
        let (teller, _hears, mut far) = connected();
        let (lent, _stop) = lender(&teller);
        far.write_all(b"bad\n").unwrap();
        let end = teller.wait_end(Some(LIMIT)).unwrap().unwrap();
        let cause = end.cause().unwrap();
        assert_eq!(*cause.kind(), Kind::Hook { hook: "on_message" });
        lent.join().unwrap();

        let (teller, _hears, far) = connected();
        let (lent, _stop) = lender(&teller);
        drop(far);
        let end = teller.wait_end(Some(LIMIT)).unwrap().unwrap();
        assert_eq!(*end.cause().unwrap().kind(), Kind::PeerClosed);
        lent.join().unwrap();
    }

    #[test]
    fn a_caller_that_reads_does_not_hold_up_the_end() {
        let (teller, _hears, far) = connected();
        let (lent, _stop) = lender(&teller);
        assert!(teller.disconnect().unwrap().unwrap().is_clean());
        assert_eq!(teller.state(), State::Idle);
        lent.join().unwrap();
        // Nobody holds the stream any more.
        assert_eq!(
            BufReader::new(far).read_line(&mut String::new()).unwrap(),
            0
        );
    }

    /// Callers take the turn from each other and from the reader, and each gets its reply; what
    /// comes between the calls is told, too.
    #[test]
    fn nothing_is_lost_when_turns_change() {
        const CALLERS: u64 = 4;
        const CALLS: u64 = 2_000;
        let (teller, hears, far) = connected();
        let echo = start({
            let mut far_end = far.try_clone().unwrap();
            move || {
                for line in BufReader::new(far).lines() {
                    let line = line.unwrap();
                    // The event comes when its caller may have left already.
                    writeln!(far_end, "{line}").unwrap();
                    writeln!(far_end, "event").unwrap();
                }
            }
        });
        let by_callers = Arc::new(AtomicU64::new(0));
        let callers = [(); CALLERS as usize].map(|()| {
            let (teller, by_callers) = (teller.clone(), by_callers.clone());
            start(move || {
                let link = teller.link().unwrap();
                for _ in 0..CALLS {
                    let mut mailbox = teller.protocol().replies.open().unwrap();
                    let line = format!("{}\n", mailbox.id());
                    teller.send(line.into(), far_future()).unwrap();
                    link.lend_thread(far_future(), || {
                        by_callers.fetch_add(1, Ordering::Relaxed);
                        mailbox.is_settled()
                    });
                    mailbox.wait(far_future()).unwrap();
                }
            })
        });
        for caller in callers {
            caller.join().unwrap();
        }
        for _ in 0..2 * CALLERS * CALLS {
            hears.recv_timeout(LIMIT).unwrap();
        }
        assert!(by_callers.load(Ordering::Relaxed) > 0);
        let _ = teller.disconnect().unwrap();
        echo.join().unwrap();
    }
}
