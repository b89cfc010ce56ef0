//! The queue of a listener and the gate before it.
//!
//! One lock guards the messages and the gate, so a message is accepted before
//! the gate is closed or not at all, and what was accepted is taken by the
//! listener's thread or counted as dropped. The lock is held for a push, or for
//! moving a few messages, never while a message is handled or dropped.
//!
//! The listener's thread takes a handful at a time, its [`Hand`], so that it
//! does not fight with the posts for the lock at each message. What is in its
//! hand counts as queued all the same: an atomic says how many it has not begun
//! yet, and a shutdown that is out of time takes that number away from it.
//!
//! A connected child has a [`Seat`]: it says how much of the queue is held by
//! the messages of that child, and is free for the next of the same source once
//! the mark of the child's end is in the queue. The gate closes for posts at
//! once, for seats when what their children had sent is read: the listener's
//! thread goes on until the last has left.

mod seats;
mod state;

use std::cell::Cell;
use std::collections::VecDeque;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::lifecycle::GRACE;

use super::Stats;
use super::end::End;
use super::error::{PostError, Reason};
use super::message::{Message, Source};

pub(super) use seats::{Batch, NoSeat, Seat};

use state::{Item, Phase, State};

/// How long a shutdown waits beyond its limit for a handler that runs.
const LEAVE: Duration = Duration::from_millis(100);

/// How often a thread looks again before it sleeps: at first it spins, twice as
/// long each time, then it gives way. Under load the other side is about to act,
/// and to be woken by it costs both more than the message does.
const SPINS: u32 = 5;
const LOOKS: u32 = SPINS + 8;

/// The most messages that the listener's thread takes at a time.
const HANDFUL: usize = 64;

thread_local! {
    /// The address of the queue that this thread serves.
    static SERVED: Cell<usize> = const { Cell::new(0) };
}

/// How long a post waits for room.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Never,
    Until(Instant),
    Always,
}

/// What became of a message that was taken.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Handled,
    Failed,
    Unclaimed,
}

/// What the listener's thread takes off the queue.
pub(super) enum Taken<D> {
    Message(Message<D>),
    /// A child is gone, and all its messages were taken before.
    Gone(Source, End),
}

pub(super) struct Queue<D> {
    capacity: usize,
    /// How many messages of one child may wait.
    share: usize,
    /// How many messages the listener's thread takes at a time. Of a small queue
    /// one, so that what its bounds mean does not depend on chance.
    handful: usize,
    /// How many messages the listener's thread has taken and not begun. It goes
    /// up under the lock only.
    in_hand: AtomicUsize,
    /// How many messages the handlers have posted to their own listener; only
    /// the listener's thread adds to them.
    own: AtomicUsize,
    /// How many posts sleep until there is room.
    sleepers: AtomicUsize,
    /// The same as in the state, to be looked at without the lock.
    posted: AtomicUsize,
    counts: Counts,
    state: Mutex<State<D>>,
    /// A message came or the gate was closed; the listener's thread waits here.
    arrived: Condvar,
    /// A message was taken or the gate was closed; posts wait here.
    room: Condvar,
    /// The listener's thread is done; shutdowns wait here.
    ended: Condvar,
}

/// Of the messages taken; written by the listener's thread alone.
#[derive(Default)]
struct Counts {
    handled: AtomicU64,
    failed: AtomicU64,
    unclaimed: AtomicU64,
}

/// What the listener's thread has taken at once, to be handled one by one.
pub(super) struct Hand<D> {
    messages: VecDeque<Message<D>>,
    /// How many of the own messages come before the next posted one; counted
    /// anew after each of those.
    round: Option<usize>,
}

impl<D> Hand<D> {
    pub(super) fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            round: None,
        }
    }
}

impl<D> Queue<D> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            share: (capacity / 4).max(1),
            handful: (capacity / 16).clamp(1, HANDFUL),
            in_hand: AtomicUsize::new(0),
            own: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            posted: AtomicUsize::new(0),
            counts: Counts::default(),
            state: Mutex::new(State {
                posted: VecDeque::new(),
                marks: 0,
                seats: Vec::new(),
                own: VecDeque::new(),
                closed: false,
                cut: false,
                phase: Phase::Waiting,
                taken: Vec::new(),
                lost: 0,
                refused: 0,
                unreadable: 0,
            }),
            arrived: Condvar::new(),
            room: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    pub(super) fn post(&self, message: Message<D>, wait: Wait) -> Result<(), PostError<D>> {
        if self.is_own_thread() {
            return self.post_own(message);
        }
        let mut looks = 0;
        let mut state = self.state.lock();
        loop {
            if state.closed {
                let reason = Reason::Closed;
                return Err(PostError { message, reason });
            }
            if self.room(&state) > 0 {
                state.posted.push_back(Item::Message(message));
                self.note_posted(&state);
                drop(state);
                self.arrived.notify_one();
                return Ok(());
            }
            if matches!(wait, Wait::Never) || !self.wait_for_room(&mut state, &mut looks, wait) {
                let reason = Reason::Full;
                return Err(PostError { message, reason });
            }
        }
    }

    /// A post of a handler to its own listener, which cannot wait for itself.
    fn post_own(&self, message: Message<D>) -> Result<(), PostError<D>> {
        let mut state = self.state.lock();
        let reason = match state.own.len() {
            _ if state.closed => Reason::Closed,
            length if length >= self.capacity => Reason::Full,
            length => {
                state.own.push_back(message);
                self.own.store(length + 1, Ordering::Relaxed);
                return Ok(());
            }
        };
        Err(PostError { message, reason })
    }

    /// How many messages may be posted now.
    fn room(&self, state: &State<D>) -> usize {
        let queued = state.messages() + self.in_hand.load(Ordering::SeqCst);
        self.capacity.saturating_sub(queued)
    }

    fn note_posted(&self, state: &State<D>) {
        self.posted.store(state.posted.len(), Ordering::Relaxed);
    }

    /// Waits until there may be room; false if there was none in time.
    fn wait_for_room(
        &self,
        state: &mut MutexGuard<'_, State<D>>,
        looks: &mut u32,
        wait: Wait,
    ) -> bool {
        if *looks < LOOKS {
            // Room for a few is worth a moment more: taking turns at each message is slow.
            let enough = self.capacity - self.handful + 1;
            MutexGuard::unlocked(state, || {
                look_again(looks, || {
                    let posted = self.posted.load(Ordering::Relaxed);
                    posted + self.in_hand.load(Ordering::Relaxed) < enough
                });
            });
            return true;
        }
        // The listener's thread begins a message without the lock and looks for sleepers after it;
        // so it sees this one, or this one sees the room it has made.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut in_time = true;
        if self.room(state) == 0 {
            in_time = sleep(&self.room, state, wait);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        in_time
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Closes the gate: no message is accepted from now on, but for those of connected children.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.wake_seats();
        drop(state);
        self.arrived.notify_all();
        self.room.notify_all();
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state.lock();
        loop {
            let in_hand = self.in_hand.load(Ordering::SeqCst);
            let [handled, failed, unclaimed] = [
                &self.counts.handled,
                &self.counts.failed,
                &self.counts.unclaimed,
            ]
            .map(|count| count.load(Ordering::Acquire));
            // It only goes down as long as the lock is held; if it has not, no message was begun
            // between the looks.
            if in_hand == self.in_hand.load(Ordering::SeqCst) {
                return Stats {
                    handled,
                    failed,
                    dropped: state.lost + state.unreadable + unclaimed,
                    unclaimed,
                    unreadable: state.unreadable,
                    queued: state.messages() + state.own.len() + in_hand,
                    refused: state.refused,
                    connections: state.connected().count(),
                };
            }
        }
    }

    /// Whether the caller is the thread that handles the messages of this queue.
    pub(super) fn is_own_thread(&self) -> bool {
        SERVED.get() == self.address()
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Closes the gate and waits for the listener's thread to be done with the
    /// queue; at the deadline what is left of it is dropped.
    ///
    /// Returns whether the thread is done, and how many messages were dropped.
    pub(super) fn finish(&self, deadline: Option<Instant>) -> (bool, usize) {
        self.close();
        let mut state = self.state.lock();
        while state.phase != Phase::Ended {
            match deadline {
                None => self.ended.wait(&mut state),
                Some(deadline) if self.ended.wait_until(&mut state, deadline).timed_out() => break,
                Some(_) => {}
            }
        }
        state.cut();
        let mut lost = state.discard();
        // Those are dropped by the listener's thread, which finds that they are not its own any more.
        let in_hand = self.in_hand.swap(0, Ordering::SeqCst);
        state.lost += in_hand as u64;
        lost.count += in_hand;
        self.arrived.notify_all();
        self.room.notify_all();
        // A thread that runs no handler is about to end: it only has to be woken.
        let leave = match state.phase {
            Phase::Handling => LEAVE,
            _ => GRACE,
        };
        let deadline = Instant::now() + leave;
        while state.phase != Phase::Ended {
            if self.ended.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let ended = state.phase == Phase::Ended;
        drop(state);
        (ended, lost.count)
    }

    /// Makes the calling thread the one that handles the messages.
    pub(super) fn serve(&self) {
        SERVED.set(self.address());
    }

    /// Counts what became of a message that was taken.
    pub(super) fn count(&self, outcome: Outcome) {
        // Only the listener's thread writes, so a load and a store will do.
        let add_one = |count: &AtomicU64| {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
        };
        match outcome {
            Outcome::Handled => add_one(&self.counts.handled),
            Outcome::Failed => {
                add_one(&self.counts.failed);
                add_one(&self.counts.handled);
            }
            Outcome::Unclaimed => add_one(&self.counts.unclaimed),
        }
    }

    /// Waits for what comes next; none once the gate is closed, all children have left, and the
    /// queue is empty.
    pub(super) fn next(&self, hand: &mut Hand<D>) -> Option<Taken<D>> {
        if self.own.load(Ordering::Relaxed) == 0
            && let Some(message) = self.begin(hand)
        {
            hand.round = None;
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                drop(self.state.lock()); // so that one which has seen no room is asleep
                self.room.notify_one();
            }
            return Some(Taken::Message(message));
        }
        let mut looks = 0;
        let mut state = self.state.lock();
        loop {
            if let Some(taken) = self.take(&mut state, hand) {
                state.phase = Phase::Handling;
                drop(state);
                if self.sleepers.load(Ordering::SeqCst) > 0 {
                    self.room.notify_one();
                }
                return Some(taken);
            }
            if state.closed && (state.cut || state.connected().next().is_none()) {
                state.phase = Phase::Leaving;
                return None;
            }
            state.phase = Phase::Waiting;
            if looks < LOOKS {
                MutexGuard::unlocked(&mut state, || {
                    look_again(&mut looks, || self.posted.load(Ordering::Relaxed) > 0);
                });
            } else {
                self.arrived.wait(&mut state);
            }
        }
    }

    /// Begins a message of the hand, if there is one that no shutdown has taken away.
    fn begin(&self, hand: &mut Hand<D>) -> Option<Message<D>> {
        if hand.messages.is_empty() {
            return None;
        }
        let less = |in_hand: usize| in_hand.checked_sub(1);
        let [set, fetch] = [Ordering::SeqCst; 2];
        self.in_hand.fetch_update(set, fetch, less).ok()?;
        hand.messages.pop_front()
    }

    /// Takes what is next: own messages before posted ones, but only those that were there after
    /// the last posted one.
    fn take(&self, state: &mut State<D>, hand: &mut Hand<D>) -> Option<Taken<D>> {
        let round = hand.round.get_or_insert(state.own.len());
        if *round == 0 {
            hand.round = None;
            let taken = self.take_posted(state, hand);
            if taken.is_some() {
                return taken;
            }
        } else {
            *round -= 1;
        }
        let own = state.own.pop_front();
        self.own.store(state.own.len(), Ordering::Relaxed);
        own.map(Taken::Message)
    }

    fn take_posted(&self, state: &mut State<D>, hand: &mut Hand<D>) -> Option<Taken<D>> {
        if let Some(message) = self.begin(hand) {
            return Some(Taken::Message(message));
        }
        while let Some(number) = state.taken.pop() {
            state.release(number, self.share);
        }
        let first = match state.posted.pop_front()? {
            Item::Gone(number, end) => {
                state.marks -= 1;
                self.note_posted(state);
                let sitting = state.seats[number].take()?;
                return Some(Taken::Gone(sitting.source, end));
            }
            Item::Message(message) => message,
            Item::OfSeat(number, message) => {
                state.release(number, self.share);
                message
            }
        };
        while hand.messages.len() + 1 < self.handful {
            match state.posted.pop_front() {
                Some(Item::Message(message)) => hand.messages.push_back(message),
                Some(Item::OfSeat(number, message)) => {
                    state.taken.push(number);
                    hand.messages.push_back(message);
                }
                Some(mark) => {
                    state.posted.push_front(mark);
                    break;
                }
                None => break,
            }
        }
        self.in_hand.store(hand.messages.len(), Ordering::SeqCst);
        self.note_posted(state);
        Some(Taken::Message(first))
    }

    /// Marks the listener's thread as done. However it ended, nobody may wait
    /// for it from here on, so the gate is closed and the queue emptied.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.phase = Phase::Ended;
        state.cut();
        let lost = state.discard();
        state.lost += self.in_hand.swap(0, Ordering::SeqCst) as u64;
        drop(state);
        self.room.notify_all();
        self.ended.notify_all();
        drop(lost);
    }
}

/// Gives the other side time, up to the limit of looks, until `changed`.
fn look_again(looks: &mut u32, changed: impl Fn() -> bool) {
    while *looks < LOOKS {
        if *looks < SPINS {
            (0..1 << *looks).for_each(|_| spin_loop());
        } else {
            std::thread::yield_now();
        }
        *looks += 1;
        if changed() {
            return;
        }
    }
}

/// Sleeps until somebody notifies; false if nobody did in time.
fn sleep<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, wait: Wait) -> bool {
    match wait {
        Wait::Never => false,
        Wait::Until(deadline) => !condvar.wait_until(guard, deadline).timed_out(),
        Wait::Always => {
            condvar.wait(guard);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::listener::Source;

    fn message(cmd: &str) -> Message<()> {
        Message::new(&Source::try_from("a").unwrap(), cmd, ())
    }

    fn cmd(taken: Option<Taken<()>>) -> String {
        match taken.unwrap() {
            Taken::Message(message) => message.cmd,
            Taken::Gone(source, end) => format!("{source} {end}"),
        }
    }

    #[test]
    fn own_messages_come_next_but_do_not_keep_the_queue_waiting() {
        let queue = Queue::new(8);
        for text in ["1", "2", "3"] {
            queue.post(message(text), Wait::Never).unwrap();
        }
        queue.serve();
        let mut hand = Hand::new();
        assert_eq!(cmd(queue.next(&mut hand)), "1");
        queue.post(message("1a"), Wait::Never).unwrap();
        queue.post(message("1b"), Wait::Never).unwrap();
        assert_eq!(cmd(queue.next(&mut hand)), "1a");
        queue.post(message("1aa"), Wait::Never).unwrap();
        assert_eq!(cmd(queue.next(&mut hand)), "1b");
        assert_eq!(cmd(queue.next(&mut hand)), "2", "the queue has its turn");
        assert_eq!(cmd(queue.next(&mut hand)), "1aa");
        assert_eq!(cmd(queue.next(&mut hand)), "3");
        assert_eq!(queue.stats().queued, 0);
        queue.close();
        assert!(queue.next(&mut hand).is_none());
    }

    #[test]
    fn one_that_always_posts_to_itself_delays_each_message_by_one() {
        let queue = Queue::new(8);
        for text in ["1", "2", "3"] {
            queue.post(message(text), Wait::Never).unwrap();
        }
        queue.serve();
        let mut hand = Hand::new();
        let order: Vec<String> = (0..6)
            .map(|_| {
                let next = cmd(queue.next(&mut hand));
                if next == "1" || next == "own" {
                    queue.post(message("own"), Wait::Never).unwrap();
                }
                next
            })
            .collect();
        assert_eq!(order, ["1", "own", "2", "own", "3", "own"]);
    }

    #[test]
    fn the_queue_and_the_list_of_own_messages_are_bounded_each() {
        let queue = Queue::new(2);
        let fill = || {
            let first = (0..3).map(|_| queue.post(message("x"), Wait::Always));
            first.filter(Result::is_ok).count()
        };
        queue.post(message("x"), Wait::Never).unwrap();
        queue.post(message("x"), Wait::Never).unwrap();
        let full = queue.post(message("y"), Wait::Never).unwrap_err();
        assert_eq!((full.message, full.reason), (message("y"), Reason::Full));
        queue.serve();
        assert_eq!(fill(), 2, "own messages never wait");
        assert_eq!(queue.stats().queued, 4);
    }

    /// Messages of a child, numbered from 0.
    fn batch(count: usize) -> VecDeque<Message<()>> {
        (0..count).map(|n| message(&n.to_string())).collect()
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn a_child_holds_a_quarter_of_the_queue_and_waits_for_more() {
        let queue = Arc::new(Queue::new(8));
        let seat = queue.sit(&Source::try_from("a").unwrap()).unwrap();
        let mut posts = batch(5);
        let late = queue.post_batch(&seat, &mut posts, soon());
        assert_eq!((late, posts.len()), (Batch::Late, 3));
        queue.post(message("own way"), Wait::Never).unwrap();

        let (done, is_done) = crossbeam_channel::bounded(1);
        let _reader = crate::lifecycle::spawn("reader", {
            let queue = Arc::clone(&queue);
            move || {
                let posted = queue.post_batch(&seat, &mut posts, None);
                done.send(posted).unwrap();
                queue.leave(&seat, End::Bye, 0);
            }
        });
        queue.serve();
        let mut hand = Hand::new();
        let taken: Vec<String> = (0..7).map(|_| cmd(queue.next(&mut hand))).collect();
        assert_eq!(taken.iter().filter(|cmd| *cmd == "own way").count(), 1);
        let of_child: Vec<&String> = taken.iter().filter(|cmd| *cmd != "own way").collect();
        assert_eq!(of_child, ["0", "1", "2", "3", "4", "a said goodbye"]);
        let posted = is_done.recv_timeout(Duration::from_secs(60));
        assert_eq!(posted, Ok(Batch::Posted));
    }

    #[test]
    fn a_full_queue_keeps_a_child_waiting_too() {
        let queue = Queue::new(4);
        for _ in 0..4 {
            queue.post(message("x"), Wait::Never).unwrap();
        }
        let seat = queue.sit(&Source::try_from("a").unwrap()).unwrap();
        let mut posts = batch(1);
        assert_eq!(queue.post_batch(&seat, &mut posts, soon()), Batch::Late);
        queue.next(&mut Hand::new()).unwrap();
        assert_eq!(queue.post_batch(&seat, &mut posts, soon()), Batch::Posted);
    }

    #[test]
    fn a_source_is_taken_until_the_mark_of_its_end_is_queued() {
        let queue = Queue::new(64);
        let source = Source::try_from("a").unwrap();
        let seat = queue.sit(&source).unwrap();
        assert_eq!(queue.sit(&source).err(), Some(NoSeat::Taken));
        queue.post_batch(&seat, &mut batch(3), None);
        assert_eq!(queue.stats().connections, 1);
        queue.leave(&seat, End::Closed, 0);
        assert_eq!((queue.stats().connections, queue.stats().queued), (0, 3));
        let next = queue.sit(&source).unwrap();
        queue.post_batch(&next, &mut batch(1), None);
        queue.leave(&next, End::Bye, 0);

        let mut hand = Hand::new();
        let order: Vec<String> = (0..6).map(|_| cmd(queue.next(&mut hand))).collect();
        let [closed, bye] = ["a closed without a goodbye", "a said goodbye"];
        assert_eq!(order, ["0", "1", "2", closed, "0", bye]);
        queue.close();
        assert!(queue.next(&mut hand).is_none());
        assert_eq!(queue.sit(&source).err(), Some(NoSeat::Closed));
    }

    #[test]
    fn ends_that_nobody_takes_are_bounded() {
        let queue: Queue<()> = Queue::new(1);
        let source = Source::try_from("a").unwrap();
        for _ in 0..seats::MARKS {
            let seat = queue.sit(&source).unwrap();
            queue.leave(&seat, End::Bye, 0);
        }
        assert_eq!(queue.sit(&source).err(), Some(NoSeat::Full));
        assert!(matches!(
            queue.next(&mut Hand::new()),
            Some(Taken::Gone(..))
        ));
        assert!(queue.sit(&source).is_ok());
    }

    #[test]
    fn a_closed_gate_lets_children_finish_and_the_end_waits_for_them() {
        let queue = Queue::new(64);
        let seat = queue.sit(&Source::try_from("a").unwrap()).unwrap();
        queue.close();
        let mut posts = batch(2);
        let closing = queue.post_batch(&seat, &mut posts, None);
        assert_eq!((closing, posts.len()), (Batch::Closing, 2));
        let deadline = Some(Instant::now() + Duration::from_secs(60));
        let posted = queue.post_batch(&seat, &mut posts, deadline);
        assert_eq!(posted, Batch::Posted);
        queue.leave(&seat, End::Stopped, 0);
        let mut hand = Hand::new();
        let order: Vec<String> = (0..3).map(|_| cmd(queue.next(&mut hand))).collect();
        assert_eq!(order, ["0", "1", "a the listener was stopped"]);
        assert!(queue.next(&mut hand).is_none());
    }

    #[test]
    fn a_shutdown_out_of_time_takes_what_is_in_the_hand_as_well() {
        let queue = Arc::new(Queue::new(64));
        let seat = queue.sit(&Source::try_from("a").unwrap()).unwrap();
        queue.post_batch(&seat, &mut batch(10), None);
        queue.serve();
        let mut hand = Hand::new();
        assert_eq!(cmd(queue.next(&mut hand)), "0");
        assert_eq!((hand.messages.len(), queue.stats().queued), (3, 9));
        let (ended, lost) = queue.finish(Some(Instant::now()));
        assert_eq!((ended, lost), (false, 9));
        let mut more = batch(1);
        assert_eq!(queue.post_batch(&seat, &mut more, soon()), Batch::Late);
        queue.leave(&seat, End::Stopped, more.len());
        assert!(queue.next(&mut hand).is_none());
        let Stats {
            dropped, queued, ..
        } = queue.stats();
        assert_eq!((dropped, queued), (10, 0));
    }

    #[test]
    fn what_a_dead_thread_leaves_is_counted_and_nobody_waits_for_it() {
        let queue = Queue::new(2);
        queue.post(message("x"), Wait::Always).unwrap();
        queue.serve();
        queue.post(message("own"), Wait::Always).unwrap();
        queue.end();
        let closed = queue.post(message("y"), Wait::Always).unwrap_err();
        assert_eq!(closed.reason, Reason::Closed);
        let Stats {
            dropped, queued, ..
        } = queue.stats();
        assert_eq!((dropped, queued), (2, 0));
        assert_eq!(queue.finish(None), (true, 0));
    }
}
