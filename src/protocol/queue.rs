//! The outbound queue: two lanes, and the right to write.
//!
//! One lock guards what waits to be written and whether somebody writes. Whoever writes holds the
//! only [`Turn`]: the writer thread for a batch, or a sender for its own message if nothing is in
//! front of that. So the messages of a lane are written in the order in which they came, and each
//! of them whole. The lock is held to put messages in and to take them out, never while one is
//! encoded, written or dropped.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::error::Error;
use super::wait::wait_for;

/// The most that is taken for one write, unless a single message weighs more.
const BATCH_BYTES: usize = 64 << 10;
/// Messages may weigh nothing; and what is taken can be overtaken no more.
const BATCH_MESSAGES: usize = 256;

/// What waits to be written: messages `M`, and `L`, what is left over of a message that its
/// sender could not write to the end.
pub(super) struct Queue<M, L> {
    message_limit: usize,
    byte_limit: usize,
    state: Mutex<State<M, L>>,
    /// There is something to write, or will never be again; the writer thread waits here.
    work: Condvar,
    /// Messages left the queue, or it was closed; senders wait here.
    room: Condvar,
    /// A turn ended, or the last message left; whoever ends the session waits here.
    quiet: Condvar,
}

struct State<M, L> {
    urgent: VecDeque<Entry<M>>,
    normal: VecDeque<Entry<M>>,
    /// The weight of both lanes.
    bytes: usize,
    leftover: Option<Tracked<L>>,
    /// Whether there is a [`Turn`].
    writing: bool,
    gate: Gate,
    /// The number of the next message.
    next: u64,
}

struct Entry<M> {
    /// Ascending along each lane.
    number: u64,
    weight: usize,
    tracked: Tracked<M>,
}

#[derive(Clone, Copy, PartialEq)]
enum Gate {
    Open,
    /// Nothing comes in any more.
    Closed,
    /// Nothing comes in, and nothing goes out.
    Stopped,
}

/// Messages of the urgent lane are written before those of the normal one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Urgent,
    Normal,
}

/// How long a sender waits for room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Never,
    Until(Option<Instant>),
}

/// A message that was not taken.
pub(super) struct Refused<M> {
    pub(super) message: M,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Full,
    TimedOut,
    Closed,
}

impl<M, L> State<M, L> {
    fn is_empty(&self) -> bool {
        self.leftover.is_none() && self.urgent.is_empty() && self.normal.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.is_empty() && !self.writing
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Entry<M>> {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Normal => &mut self.normal,
        }
    }

    /// Whether there is something to write for the writer thread; `None` if it has to wait for that.
    fn work(&mut self) -> Option<bool> {
        match self.gate {
            Gate::Stopped => Some(false),
            _ if self.writing => None,
            _ if !self.is_empty() => Some(true),
            Gate::Closed => Some(false),
            Gate::Open => None,
        }
    }

    /// The next message, if it weighs at most `room`. A heavier one is waited for: nothing overtakes it.
    fn pop(&mut self, room: usize) -> Option<Entry<M>> {
        let lane = if self.urgent.is_empty() {
            &mut self.normal
        } else {
            &mut self.urgent
        };
        let entry = lane.pop_front_if(|entry| entry.weight <= room)?;
        self.bytes -= entry.weight;
        Some(entry)
    }
}

impl<M, L> Queue<M, L> {
    /// A queue that is full with this many messages, or with this many bytes of them; an empty
    /// one takes a message of any weight.
    pub(super) fn new(message_limit: usize, byte_limit: usize) -> Self {
        Self {
            message_limit,
            byte_limit,
            state: Mutex::new(State {
                urgent: VecDeque::new(),
                normal: VecDeque::new(),
                bytes: 0,
                leftover: None,
                writing: false,
                gate: Gate::Open,
                next: 0,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            quiet: Condvar::new(),
        }
    }

    /// Puts a message at the end of its lane.
    pub(super) fn push(
        &self,
        lane: Lane,
        message: M,
        weight: usize,
        wait: Wait,
    ) -> Result<Place, Refused<M>> {
        let (place, _) = self.enter(lane, message, weight, wait, false)?;
        Ok(place)
    }

    /// As [`push`](Self::push), but if the message would be the next to be written and nobody
    /// writes, the caller gets it back together with the right to write it.
    pub(super) fn claim(
        &self,
        lane: Lane,
        message: M,
        weight: usize,
        wait: Wait,
    ) -> Result<Admitted<'_, M, L>, Refused<M>> {
        self.enter(lane, message, weight, wait, true)
    }

    fn enter(
        &self,
        lane: Lane,
        message: M,
        weight: usize,
        wait: Wait,
        may_write: bool,
    ) -> Result<Admitted<'_, M, L>, Refused<M>> {
        let track = Arc::new(Track::default());
        // Whether the sender writes by itself, or why there is no place for its message.
        let admit = |state: &mut State<M, L>| {
            let count = state.urgent.len() + state.normal.len();
            let bytes = state.bytes.checked_add(weight);
            let fits =
                count < self.message_limit && bytes.is_some_and(|sum| sum <= self.byte_limit);
            match state.gate {
                Gate::Closed | Gate::Stopped => Some(Err(Why::Closed)),
                Gate::Open if may_write && state.is_idle() => Some(Ok(true)),
                Gate::Open if count == 0 || fits => Some(Ok(false)),
                Gate::Open => None,
            }
        };
        let mut state = self.state.lock();
        let admitted = match wait {
            Wait::Never => admit(&mut state).unwrap_or(Err(Why::Full)),
            Wait::Until(deadline) => {
                wait_for(&self.room, &mut state, deadline, admit).unwrap_or(Err(Why::TimedOut))
            }
        };
        let write = match admitted {
            Ok(write) => write,
            Err(why) => return Err(Refused { message, why }),
        };
        let number = state.next;
        state.next += 1;
        let place = Place {
            lane,
            number,
            track: Arc::clone(&track),
        };
        let tracked = Tracked {
            value: message,
            track,
        };
        if write {
            state.writing = true;
            drop(state);
            tracked.track.set(Progress::Writing);
            let turn = Turn {
                queue: self,
                ended: false,
            };
            return Ok((place, Some(Direct { tracked, turn })));
        }
        state.bytes += weight;
        state.lane(lane).push_back(Entry {
            number,
            weight,
            tracked,
        });
        // Whoever writes looks for more by itself.
        let wake = !state.writing;
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok((place, None))
    }

    /// Waits for something to write and takes it: what a sender left over, or else a batch of
    /// messages (in `batch`, which is empty), the urgent ones first. For the one writer thread.
    /// `None` at the end: all was taken after [`close`](Self::close), or the queue was stopped.
    pub(super) fn take(&self, batch: &mut Vec<Tracked<M>>) -> Option<Taken<'_, M, L>> {
        let mut state = self.state.lock();
        if wait_for(&self.work, &mut state, None, State::work) != Some(true) {
            return None;
        }
        state.writing = true;
        let leftover = state.leftover.take();
        if leftover.is_none() {
            let mut room = usize::MAX;
            let mut bytes = 0_usize;
            while batch.len() < BATCH_MESSAGES
                && let Some(entry) = state.pop(room)
            {
                entry.tracked.track.set(Progress::Writing);
                batch.push(entry.tracked);
                bytes = bytes.saturating_add(entry.weight);
                room = BATCH_BYTES.saturating_sub(bytes);
            }
        }
        drop(state);
        // All of them: there may be room for a light message, but not for the heavy one before it.
        self.room.notify_all();
        let turn = Turn {
            queue: self,
            ended: false,
        };
        Some(Taken { leftover, turn })
    }

    /// Takes a message out again, if it still waits. `place` is one of this queue.
    pub(super) fn withdraw(&self, place: &Place) -> Option<M> {
        let mut state = self.state.lock();
        let lane = state.lane(place.lane);
        let at = lane.binary_search_by_key(&place.number, |entry| entry.number);
        let entry = lane.remove(at.ok()?)?;
        state.bytes -= entry.weight;
        drop(state);
        place.track.set(Progress::Dropped);
        self.room.notify_all();
        self.quiet.notify_all();
        Some(entry.tracked.value)
    }

    /// Lets nothing in any more; what waits is still written.
    pub(super) fn close(&self) {
        self.shut(Gate::Closed);
    }

    /// Lets nothing in and nothing out any more. What is being written goes on.
    pub(super) fn stop(&self) {
        self.shut(Gate::Stopped);
    }

    fn shut(&self, gate: Gate) {
        let mut state = self.state.lock();
        if state.gate != Gate::Stopped {
            state.gate = gate;
        }
        drop(state);
        self.work.notify_one();
        self.room.notify_all();
        self.quiet.notify_all();
    }

    /// Stops the queue and empties it. What waited is dropped for this reason, and returned.
    pub(super) fn drain(&self, cause: &Error) -> Vec<M> {
        self.stop();
        let mut state = self.state.lock();
        let urgent = mem::take(&mut state.urgent);
        let normal = mem::take(&mut state.normal);
        // Nobody knows how much of it was written: its progress stays as it is.
        let leftover = state.leftover.take();
        state.bytes = 0;
        drop(state);
        drop(leftover);
        let lost = urgent.into_iter().chain(normal).map(|entry| {
            entry.tracked.track.dropped(cause.clone());
            entry.tracked.value
        });
        lost.collect()
    }

    /// Waits until all is written and nobody writes; false if that is not so at the deadline, or
    /// never will be because the queue was stopped.
    #[cfg(test)]
    fn wait_idle(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let idle = wait_for(&self.quiet, &mut state, deadline, |state| {
            match state.gate {
                Gate::Stopped => Some(false),
                _ => state.is_idle().then_some(true),
            }
        });
        idle == Some(true)
    }

    /// Waits until nobody writes; false if somebody does at the deadline. After
    /// [`stop`](Self::stop) nobody begins to.
    pub(super) fn wait_unused(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let unused = |state: &mut State<M, L>| (!state.writing).then_some(());
        wait_for(&self.quiet, &mut state, deadline, unused).is_some()
    }

    fn end_turn(&self, leftover: Option<Tracked<L>>) {
        let mut state = self.state.lock();
        state.writing = false;
        state.leftover = leftover; // there was none: whoever has the turn has taken it
        let wake = state.gate != Gate::Open || !state.is_empty();
        drop(state);
        if wake {
            self.work.notify_one();
        }
        self.quiet.notify_all();
    }
}

/// The right to write, of which there is one at a time.
///
/// Dropped without a word (after a failure, or by a panic) it stops the queue: part of a message
/// may be on the wire, and nothing may follow that.
#[must_use]
pub(super) struct Turn<'q, M, L> {
    queue: &'q Queue<M, L>,
    ended: bool,
}

impl<M, L> Turn<'_, M, L> {
    /// All is written that was begun.
    pub(super) fn done(mut self) {
        self.ended = true;
        self.queue.end_turn(None);
    }

    /// The rest of what was begun is for the writer thread, before everything else.
    pub(super) fn leave(mut self, leftover: Tracked<L>) {
        self.ended = true;
        self.queue.end_turn(Some(leftover));
    }
}

impl<M, L> Drop for Turn<'_, M, L> {
    fn drop(&mut self) {
        if !self.ended {
            self.queue.stop();
            self.queue.end_turn(None);
        }
    }
}

/// Where a message was put; and the message, if its sender is to write it.
pub(super) type Admitted<'q, M, L> = (Place, Option<Direct<'q, M, L>>);

/// A message for its sender to write.
pub(super) struct Direct<'q, M, L> {
    pub(super) tracked: Tracked<M>,
    pub(super) turn: Turn<'q, M, L>,
}

/// Work for the writer thread: this, or a batch.
pub(super) struct Taken<'q, M, L> {
    pub(super) leftover: Option<Tracked<L>>,
    pub(super) turn: Turn<'q, M, L>,
}

/// A message, or the rest of one, and its track.
pub(super) struct Tracked<T> {
    pub(super) value: T,
    pub(super) track: Arc<Track>,
}

/// Where a message was put.
#[derive(Debug)]
pub(super) struct Place {
    lane: Lane,
    number: u64,
    pub(super) track: Arc<Track>,
}

/// What is known of a message, shared by its sender and whoever writes it.
#[derive(Debug, Default)]
pub(super) struct Track {
    progress: AtomicU8,
    error: OnceLock<Error>,
}

impl Track {
    pub(super) fn progress(&self) -> Progress {
        const QUEUED: u8 = Progress::Queued as u8;
        const WRITING: u8 = Progress::Writing as u8;
        const WRITTEN: u8 = Progress::Written as u8;
        match self.progress.load(Ordering::Acquire) {
            QUEUED => Progress::Queued,
            WRITING => Progress::Writing,
            WRITTEN => Progress::Written,
            _ => Progress::Dropped,
        }
    }

    /// Why it was dropped; none if it was withdrawn.
    pub(super) fn error(&self) -> Option<Error> {
        self.error.get().cloned()
    }

    /// To be said before the turn ends: a queue is idle only when nothing is `Writing`.
    pub(super) fn written(&self) {
        self.set(Progress::Written);
    }

    pub(super) fn dropped(&self, error: Error) {
        // Set once: nothing is dropped twice.
        let _ = self.error.set(error);
        self.set(Progress::Dropped);
    }

    fn set(&self, progress: Progress) {
        self.progress.store(progress as u8, Ordering::Release);
    }
}

/// How far a message has come on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// It waits for its turn.
    Queued,
    /// It is being written. If the session ended meanwhile, nobody knows how much of it was.
    Writing,
    /// All of it was handed to the system. That says nothing about the peer.
    Written,
    /// It will never be written: it was withdrawn, could not be encoded, or the session ended first.
    Dropped,
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Kind;

    type Numbers = Queue<u32, u32>;
    type Writing<'q> = (Vec<Tracked<u32>>, Turn<'q, u32, u32>);

    const NEVER: Wait = Wait::Never;
    const ALWAYS: Wait = Wait::Until(None);

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    fn push(queue: &Numbers, lane: Lane, message: u32) -> Arc<Track> {
        let Ok(place) = queue.push(lane, message, 1, NEVER) else {
            panic!("{message} was refused")
        };
        place.track
    }

    fn claim(queue: &Numbers, message: u32) -> Admitted<'_, u32, u32> {
        let Ok(claimed) = queue.claim(Lane::Normal, message, 1, NEVER) else {
            panic!("{message} was refused")
        };
        claimed
    }

    /// What one turn of the writer thread writes.
    fn turn(queue: &Numbers) -> Vec<u32> {
        let mut batch = Vec::new();
        let Taken { leftover, turn } = queue.take(&mut batch).unwrap();
        let tracked = leftover.into_iter().chain(batch);
        let written = tracked.map(|Tracked { value, track }| {
            assert_eq!(track.progress(), Progress::Writing);
            track.written();
            value
        });
        let written = written.collect();
        turn.done();
        written
    }

    fn cause() -> Error {
        Error::new(Kind::PeerClosed)
    }

    #[test]
    fn the_urgent_lane_comes_first_and_each_lane_in_its_order() {
        let queue = Numbers::new(10, 100);
        for message in [1, 2, 3] {
            push(&queue, Lane::Normal, message);
        }
        for message in [11, 12] {
            push(&queue, Lane::Urgent, message);
        }
        assert_eq!(turn(&queue), [11, 12, 1, 2, 3]);
    }

    #[test]
    fn a_batch_ends_at_its_limits_and_nothing_overtakes_what_did_not_fit() {
        let queue = Numbers::new(1000, 1 << 30);
        let heavy = |lane, message, weight| {
            let pushed = queue.push(lane, message, weight, NEVER);
            assert!(pushed.is_ok());
        };
        heavy(Lane::Urgent, 1, BATCH_BYTES - 1);
        heavy(Lane::Urgent, 2, 2);
        heavy(Lane::Normal, 3, 1);
        heavy(Lane::Normal, 4, 10 * BATCH_BYTES);
        heavy(Lane::Normal, 5, 0);
        assert_eq!(turn(&queue), [1], "3 would fit, but 2 is before it");
        assert_eq!(turn(&queue), [2, 3]);
        assert_eq!(turn(&queue), [4, 5], "a message of any weight is taken");
        for message in 0..300 {
            heavy(Lane::Normal, message, 0);
        }
        assert_eq!(turn(&queue).len(), BATCH_MESSAGES);
    }

    #[test]
    fn the_queue_is_full_by_messages_or_bytes_but_one_message_always_fits() {
        let queue = Numbers::new(2, 10);
        let why = |weight, wait| match queue.push(Lane::Normal, 7, weight, wait) {
            Ok(_) => None,
            Err(Refused { message, why }) => {
                assert_eq!(message, 7);
                Some(why)
            }
        };
        assert_eq!(why(usize::MAX, NEVER), None);
        assert_eq!(why(1, NEVER), Some(Why::Full));
        assert_eq!(why(1, Wait::Until(soon())), Some(Why::TimedOut));
        turn(&queue);
        assert_eq!(why(6, NEVER), None);
        assert_eq!(why(5, NEVER), Some(Why::Full), "by bytes");
        assert_eq!(why(4, NEVER), None);
        assert_eq!(why(0, NEVER), Some(Why::Full), "by messages");
        queue.close();
        assert_eq!(why(0, ALWAYS), Some(Why::Closed));
    }

    #[test]
    fn a_message_is_withdrawn_while_it_waits_and_not_later() {
        let queue = Numbers::new(3, 3);
        let place = |message| queue.push(Lane::Normal, message, 1, NEVER).ok().unwrap();
        let places = [place(1), place(2), place(3)];
        assert_eq!(queue.withdraw(&places[1]), Some(2));
        assert_eq!(queue.withdraw(&places[1]), None);
        assert_eq!(places[1].track.progress(), Progress::Dropped);
        assert!(places[1].track.error().is_none());
        let fourth = place(4);
        assert_eq!(turn(&queue), [1, 3, 4], "there was room again");
        assert_eq!(queue.withdraw(&fourth), None);
        assert_eq!(fourth.track.progress(), Progress::Written);
    }

    #[test]
    fn a_sender_writes_by_itself_only_if_nothing_is_in_front() {
        let queue = Numbers::new(10, 100);
        let (first, direct) = claim(&queue, 1);
        let Direct { tracked, turn: own } = direct.unwrap();
        assert_eq!(tracked.value, 1);
        assert_eq!(first.track.progress(), Progress::Writing);
        assert_eq!(queue.withdraw(&first), None);
        assert!(claim(&queue, 2).1.is_none(), "somebody writes");
        tracked.track.written();
        own.done();
        assert_eq!(first.track.progress(), Progress::Written);
        assert!(claim(&queue, 3).1.is_none(), "a lane is not empty");
        assert_eq!(turn(&queue), [2, 3]);
        assert!(claim(&queue, 4).1.is_some());
    }

    #[test]
    fn what_is_left_over_is_written_before_everything_else_and_alone() {
        let queue = Numbers::new(10, 100);
        let (place, direct) = claim(&queue, 1);
        let Direct { tracked, turn: own } = direct.unwrap();
        push(&queue, Lane::Urgent, 2);
        own.leave(Tracked {
            value: 100,
            ..tracked
        });
        assert!(claim(&queue, 3).1.is_none());
        assert_eq!(place.track.progress(), Progress::Writing);
        assert_eq!(turn(&queue), [100]);
        assert_eq!(place.track.progress(), Progress::Written);
        assert_eq!(turn(&queue), [2, 3]);
        assert!(queue.wait_idle(soon()));
    }

    #[test]
    fn a_turn_that_is_dropped_stops_the_queue() {
        let queue = Numbers::new(10, 100);
        let (_, direct) = claim(&queue, 1);
        let waiting = push(&queue, Lane::Normal, 2);
        drop(direct);
        assert!(queue.take(&mut Vec::new()).is_none());
        assert!(!queue.wait_idle(None), "it never will be");
        assert!(queue.wait_unused(None));
        let refused = queue.claim(Lane::Normal, 3, 1, ALWAYS);
        assert_eq!(refused.err().unwrap().why, Why::Closed);
        assert_eq!(waiting.progress(), Progress::Queued);
        assert_eq!(queue.drain(&cause()), [2]);
        assert_eq!(waiting.progress(), Progress::Dropped);
    }

    #[test]
    fn after_close_the_rest_is_written_and_then_the_writer_ends() {
        let queue = Numbers::new(10, 100);
        let (_, direct) = claim(&queue, 1);
        push(&queue, Lane::Normal, 2);
        queue.close();
        assert!(!queue.wait_idle(soon()));
        assert!(!queue.wait_unused(soon()), "the sender is still at it");
        thread::scope(|scope| {
            let writer = scope.spawn(|| (turn(&queue), queue.take(&mut Vec::new()).is_none()));
            direct.unwrap().turn.done();
            assert_eq!(writer.join().unwrap(), (vec![2], true));
        });
        assert!(queue.wait_idle(soon()));
        assert!(queue.wait_unused(soon()));
    }

    #[test]
    fn the_end_of_the_last_turn_and_a_withdrawal_wake_who_waits_for_quiet() {
        let queue = Numbers::new(10, 100);
        let (_, direct) = claim(&queue, 1);
        let (last, _) = claim(&queue, 2);
        thread::scope(|scope| {
            let unused = scope.spawn(|| queue.wait_unused(None));
            let idle = scope.spawn(|| queue.wait_idle(None));
            assert!(!queue.wait_unused(soon()), "time to fall asleep");
            direct.unwrap().turn.done();
            assert!(unused.join().unwrap());
            assert!(!queue.wait_idle(soon()), "2 still waits");
            queue.withdraw(&last).unwrap();
            assert!(idle.join().unwrap());
        });
    }

    #[test]
    fn a_stop_ends_all_waits_and_the_drain_says_why() {
        let queue = Numbers::new(1, 1);
        let (_, direct) = claim(&queue, 1);
        let waiting = push(&queue, Lane::Normal, 2);
        let ready = Barrier::new(4);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                ready.wait();
                queue.push(Lane::Normal, 3, 1, ALWAYS)
            });
            let writer = scope.spawn(|| {
                ready.wait();
                queue.take(&mut Vec::new()).is_none()
            });
            let idle = scope.spawn(|| {
                ready.wait();
                queue.wait_idle(None)
            });
            ready.wait();
            assert!(!queue.wait_unused(soon()), "time to fall asleep");
            queue.stop();
            let refused = sender.join().unwrap().err().unwrap();
            assert_eq!((refused.message, refused.why), (3, Why::Closed));
            assert!(writer.join().unwrap());
            assert!(!idle.join().unwrap());
        });
        assert_eq!(queue.drain(&cause()), [2]);
        assert_eq!(waiting.progress(), Progress::Dropped);
        assert_eq!(waiting.error().unwrap().kind(), &Kind::PeerClosed);
        let Direct { tracked, turn } = direct.unwrap();
        let track = Arc::clone(&tracked.track);
        turn.leave(Tracked {
            value: 100,
            ..tracked
        });
        assert_eq!(track.progress(), Progress::Writing, "nobody knows");
        assert!(queue.take(&mut Vec::new()).is_none());
        assert!(queue.wait_unused(None));
    }

    /// Tells, when it is dropped, whether the queue was locked.
    struct Probe(Arc<OnceLock<Queue<Probe, Probe>>>);

    impl Drop for Probe {
        fn drop(&mut self) {
            let free = self
                .0
                .get()
                .is_none_or(|queue| queue.state.try_lock().is_some());
            assert!(free, "dropped under the lock");
        }
    }

    #[test]
    fn nothing_of_the_user_is_dropped_under_the_lock() {
        let cell = Arc::new(OnceLock::new());
        let queue = cell.get_or_init(|| Queue::new(4, 4));
        let probe = || Probe(Arc::clone(&cell));
        let (_, direct) = queue.claim(Lane::Normal, probe(), 1, NEVER).ok().unwrap();
        let Direct { tracked, turn } = direct.unwrap();
        let place = queue.push(Lane::Normal, probe(), 1, NEVER).ok().unwrap();
        queue.push(Lane::Urgent, probe(), 1, NEVER).ok().unwrap();
        queue.withdraw(&place).unwrap();
        turn.leave(tracked);
        queue.drain(&cause());
        assert!(queue.push(Lane::Normal, probe(), 1, NEVER).is_err());
        let queue = Queue::new(4, 4);
        let (_, direct) = queue.claim(Lane::Normal, probe(), 1, NEVER).ok().unwrap();
        let Direct { tracked, turn } = direct.unwrap();
        queue.stop();
        turn.leave(tracked);
    }

    /// What senders and writer put on the wire, and that they do so one at a time.
    #[derive(Default)]
    struct Wire {
        busy: AtomicBool,
        parts: Mutex<Vec<(u32, Part)>>,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Part {
        Whole,
        Start,
        Rest,
    }

    impl Wire {
        fn write(&self, message: u32, part: Part) {
            assert!(!self.busy.swap(true, Ordering::SeqCst), "two write at once");
            self.parts.lock().push((message, part));
            self.busy.store(false, Ordering::SeqCst);
        }
    }

    #[test]
    fn many_senders_one_writer_everything_in_order_and_whole() {
        const SENDERS: u32 = 4;
        const EACH: u32 = 5_000;
        let queue = Numbers::new(16, 1000);
        let wire = Wire::default();
        let send = |sender: u32| {
            let mut tracks = Vec::new();
            for number in 0..EACH {
                let message = sender * EACH + number;
                let lane = [Lane::Normal, Lane::Urgent][usize::from(number.is_multiple_of(5))];
                let (place, direct) = match number % 3 {
                    0 => (queue.push(lane, message, 1, ALWAYS).ok().unwrap(), None),
                    _ => queue.claim(lane, message, 1, ALWAYS).ok().unwrap(),
                };
                tracks.push(place.track);
                let Some(Direct { tracked, turn }) = direct else {
                    continue;
                };
                if number % 7 == 0 {
                    wire.write(message, Part::Start);
                    turn.leave(tracked);
                } else {
                    wire.write(message, Part::Whole);
                    tracked.track.written();
                    turn.done();
                }
            }
            tracks
        };
        let write = || {
            let mut batch = Vec::new();
            while let Some(Taken { leftover, turn }) = queue.take(&mut batch) {
                let part = if leftover.is_some() {
                    Part::Rest
                } else {
                    Part::Whole
                };
                for Tracked { value, track } in leftover.into_iter().chain(batch.drain(..)) {
                    wire.write(value, part);
                    track.written();
                }
                turn.done();
            }
        };
        let tracks: Vec<Arc<Track>> = thread::scope(|scope| {
            let writer = scope.spawn(write);
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| scope.spawn(move || send(sender)))
                .collect();
            let tracks = senders
                .into_iter()
                .flat_map(|sender| sender.join().unwrap());
            let tracks = tracks.collect();
            assert!(queue.wait_idle(None));
            queue.close();
            writer.join().unwrap();
            tracks
        });
        assert!(
            tracks
                .iter()
                .all(|track| track.progress() == Progress::Written)
        );
        let mut messages = Vec::new();
        let mut begun = None;
        for (message, part) in wire.parts.into_inner() {
            assert_eq!(part == Part::Rest, begun.is_some(), "{message} {part:?}");
            match part {
                Part::Start => begun = Some(message),
                Part::Whole => messages.push(message),
                Part::Rest => {
                    assert_eq!(begun.take(), Some(message));
                    messages.push(message);
                }
            }
        }
        assert_eq!(messages.len() as u32, SENDERS * EACH);
        for sender in 0..SENDERS {
            for urgent in [false, true] {
                let of_lane = messages.iter().filter(|message| {
                    *message / EACH == sender && (*message % EACH).is_multiple_of(5) == urgent
                });
                assert!(of_lane.is_sorted(), "the order of a thread within a lane");
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Lane, usize),
        Claim(Lane, usize),
        EndTurn { leave: bool },
        Take,
        Withdraw(usize),
        Close,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let lane = || prop_oneof![Just(Lane::Normal), Just(Lane::Urgent)];
        let weight = || prop_oneof![0_usize..12, Just(BATCH_BYTES)];
        prop_oneof![
            6 => (lane(), weight()).prop_map(|(lane, weight)| Step::Push(lane, weight)),
            4 => (lane(), weight()).prop_map(|(lane, weight)| Step::Claim(lane, weight)),
            5 => any::<bool>().prop_map(|leave| Step::EndTurn { leave }),
            4 => Just(Step::Take),
            3 => any::<usize>().prop_map(Step::Withdraw),
            1 => Just(Step::Close),
        ]
    }

    /// What the queue should be: two lists, and what became of each message.
    #[derive(Default)]
    struct Model {
        urgent: Vec<(u32, usize)>,
        normal: Vec<(u32, usize)>,
        leftover: Option<u32>,
        closed: bool,
        progress: Vec<Progress>,
    }

    impl Model {
        const MESSAGES: usize = 5;
        const BYTES: usize = 20;

        fn is_empty(&self) -> bool {
            self.urgent.is_empty() && self.normal.is_empty() && self.leftover.is_none()
        }

        fn has_room(&self, weight: usize) -> bool {
            let all = || self.urgent.iter().chain(&self.normal);
            let bytes: usize = all().map(|(_, weight)| weight).sum();
            let fits = bytes + weight <= Self::BYTES && all().count() < Self::MESSAGES;
            all().count() == 0 || fits
        }

        fn batch(&mut self) -> Vec<u32> {
            let all = self.urgent.iter().chain(&self.normal);
            let mut bytes = 0;
            let fitting = all.enumerate().take_while(|(at, (_, weight))| {
                bytes += weight;
                *at == 0 || bytes <= BATCH_BYTES
            });
            let batch: Vec<u32> = fitting.map(|(_, (message, _))| *message).collect();
            let taken = |(message, _): &(u32, usize)| !batch.contains(message);
            self.urgent.retain(taken);
            self.normal.retain(taken);
            batch
        }
    }

    proptest! {
        #[test]
        fn the_queue_does_what_two_lists_do(steps in proptest::collection::vec(any_step(), 0..60)) {
            let queue = Numbers::new(Model::MESSAGES, Model::BYTES);
            let mut model = Model::default();
            let mut places: Vec<Place> = Vec::new();
            let mut writing: Option<Writing<'_>> = None;
            for step in steps {
                match step {
                    Step::Push(lane, weight) | Step::Claim(lane, weight) => {
                        let message = places.len() as u32;
                        let sent = match step {
                            Step::Push(..) => {
                                queue.push(lane, message, weight, NEVER).map(|place| (place, None))
                            }
                            _ => queue.claim(lane, message, weight, NEVER),
                        };
                        let why = sent.as_ref().err().map(|refused| refused.why);
                        let expected = match () {
                            () if model.closed => Some(Why::Closed),
                            () if model.has_room(weight) => None,
                            () => Some(Why::Full),
                        };
                        prop_assert_eq!(why, expected);
                        let Ok((place, direct)) = sent else { continue };
                        places.push(place);
                        let idle = model.is_empty() && writing.is_none();
                        let claimed = matches!(step, Step::Claim(..)) && idle;
                        prop_assert_eq!(direct.is_some(), claimed);
                        match direct {
                            Some(Direct { tracked, turn }) => {
                                model.progress.push(Progress::Writing);
                                writing = Some((vec![tracked], turn));
                            }
                            None => {
                                model.progress.push(Progress::Queued);
                                match lane {
                                    Lane::Urgent => model.urgent.push((message, weight)),
                                    Lane::Normal => model.normal.push((message, weight)),
                                }
                            }
                        }
                    }
                    Step::Take if writing.is_none() && (model.closed || !model.is_empty()) => {
                        let mut batch = Vec::new();
                        let taken = queue.take(&mut batch);
                        prop_assert_eq!(taken.is_some(), !model.is_empty());
                        let Some(Taken { leftover, turn }) = taken else { continue };
                        batch.extend(leftover);
                        let expected = match model.leftover.take() {
                            Some(message) => vec![message],
                            None => model.batch(),
                        };
                        let values: Vec<u32> = batch.iter().map(|taken| taken.value).collect();
                        prop_assert_eq!(&values, &expected);
                        for message in expected {
                            model.progress[message as usize] = Progress::Writing;
                        }
                        writing = Some((batch, turn));
                    }
                    Step::EndTurn { leave } if writing.is_some() => {
                        let Some((mut batch, turn)) = writing.take() else { continue };
                        let last = if leave { batch.pop() } else { None };
                        for tracked in batch {
                            tracked.track.written();
                            model.progress[tracked.value as usize] = Progress::Written;
                        }
                        model.leftover = last.as_ref().map(|tracked| tracked.value);
                        match last {
                            Some(last) => turn.leave(last),
                            None => turn.done(),
                        }
                    }
                    Step::Withdraw(at) if !places.is_empty() => {
                        let message = at % places.len();
                        let waits = model.progress[message] == Progress::Queued;
                        let expected = waits.then_some(message as u32);
                        prop_assert_eq!(queue.withdraw(&places[message]), expected);
                        if waits {
                            model.progress[message] = Progress::Dropped;
                            model.urgent.retain(|(other, _)| Some(*other) != expected);
                            model.normal.retain(|(other, _)| Some(*other) != expected);
                        }
                    }
                    Step::Close => {
                        queue.close();
                        model.closed = true;
                    }
                    Step::Take | Step::EndTurn { .. } | Step::Withdraw(_) => {}
                }
                let progress = places.iter().map(|place| place.track.progress());
                prop_assert!(progress.eq(model.progress.iter().copied()));
                let past = Some(Instant::now());
                prop_assert_eq!(queue.wait_idle(past), model.is_empty() && writing.is_none());
                prop_assert_eq!(queue.wait_unused(past), writing.is_none());
            }
            let left = model.urgent.iter().chain(&model.normal);
            let left: Vec<u32> = left.map(|(message, _)| *message).collect();
            prop_assert_eq!(queue.drain(&cause()), left);
        }
    }
}
