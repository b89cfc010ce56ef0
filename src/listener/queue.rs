//! The queue of a listener and the gate before it.
//!
//! One lock guards the messages, the gate and the counts, so a message is
//! accepted before the gate is closed or not at all, and what was accepted is
//! taken by the listener's thread or counted as dropped. The lock is held for
//! a push or a pop, never while a message is handled or dropped.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::lifecycle::GRACE;

use super::Stats;
use super::error::{PostError, Reason};
use super::message::Message;

/// How long a shutdown waits beyond its limit for a handler that runs.
const LEAVE: Duration = Duration::from_millis(100);

/// How often a thread gives way before it sleeps. Under load the other side is
/// about to act, and to be woken by it costs both more than the message does.
const YIELDS: u32 = 8;

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

pub(super) struct Queue<D> {
    capacity: usize,
    state: Mutex<State<D>>,
    /// A message came or the gate was closed; the listener's thread waits here.
    arrived: Condvar,
    /// A message was taken or the gate was closed; posts wait here.
    room: Condvar,
    /// The listener's thread is done; shutdowns wait here.
    ended: Condvar,
}

struct State<D> {
    posted: VecDeque<Message<D>>,
    /// What the handlers posted to their own listener.
    own: VecDeque<Message<D>>,
    /// How many of `own` come before the next of `posted`; counted anew after
    /// each of `posted`.
    round: Option<usize>,
    closed: bool,
    phase: Phase,
    stats: Stats,
}

/// What the listener's thread is doing.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Waiting,
    Handling,
    Leaving,
    Ended,
}

impl<D> State<D> {
    fn next(&mut self) -> Option<Message<D>> {
        let round = self.round.get_or_insert(self.own.len());
        if *round == 0 {
            self.round = None;
            let posted = self.posted.pop_front();
            return posted.or_else(|| self.own.pop_front());
        }
        *round -= 1;
        self.own.pop_front()
    }

    /// Empties the queue and counts what was in it; the caller drops it outside the lock.
    fn discard(&mut self) -> [VecDeque<Message<D>>; 2] {
        let lost = [
            std::mem::take(&mut self.posted),
            std::mem::take(&mut self.own),
        ];
        self.round = None;
        self.stats.dropped += lost.iter().map(|list| list.len() as u64).sum::<u64>();
        lost
    }
}

impl<D> Queue<D> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::new(State {
                posted: VecDeque::new(),
                own: VecDeque::new(),
                round: None,
                closed: false,
                phase: Phase::Waiting,
                stats: Stats::default(),
            }),
            arrived: Condvar::new(),
            room: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    pub(super) fn post(&self, message: Message<D>, wait: Wait) -> Result<(), PostError<D>> {
        let own = self.is_own_thread();
        let mut yields = 0..YIELDS;
        let mut state = self.state.lock();
        loop {
            if state.closed {
                let reason = Reason::Closed;
                return Err(PostError { message, reason });
            }
            let list = if own {
                &mut state.own
            } else {
                &mut state.posted
            };
            if list.len() < self.capacity {
                list.push_back(message);
                drop(state);
                self.arrived.notify_one();
                return Ok(());
            }
            let timed_out = match wait {
                _ if own => true,
                Wait::Never => true,
                _ if yields.next().is_some() => {
                    MutexGuard::unlocked(&mut state, std::thread::yield_now);
                    false
                }
                Wait::Until(deadline) => self.room.wait_until(&mut state, deadline).timed_out(),
                Wait::Always => {
                    self.room.wait(&mut state);
                    false
                }
            };
            if timed_out {
                let reason = Reason::Full;
                return Err(PostError { message, reason });
            }
        }
    }

    /// Closes the gate: no message is accepted from now on.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
        self.room.notify_all();
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state.lock();
        Stats {
            queued: state.posted.len() + state.own.len(),
            ..state.stats
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
        let lost = state.discard();
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
        (ended, lost.iter().map(VecDeque::len).sum())
    }

    /// Makes the calling thread the one that handles the messages.
    pub(super) fn serve(&self) {
        SERVED.set(self.address());
    }

    /// Counts what became of the last message and waits for the next; none once
    /// the gate is closed and the queue is empty.
    pub(super) fn next(&self, last: Option<Outcome>) -> Option<Message<D>> {
        let mut state = self.state.lock();
        match last {
            None => {}
            Some(Outcome::Handled) => state.stats.handled += 1,
            Some(Outcome::Failed) => {
                state.stats.handled += 1;
                state.stats.failed += 1;
            }
            Some(Outcome::Unclaimed) => {
                state.stats.dropped += 1;
                state.stats.unclaimed += 1;
            }
        }
        let mut yields = 0..YIELDS;
        loop {
            if let Some(message) = state.next() {
                state.phase = Phase::Handling;
                drop(state);
                self.room.notify_one();
                return Some(message);
            }
            if state.closed {
                state.phase = Phase::Leaving;
                return None;
            }
            state.phase = Phase::Waiting;
            match yields.next() {
                Some(_) => MutexGuard::unlocked(&mut state, std::thread::yield_now),
                None => self.arrived.wait(&mut state),
            }
        }
    }

    /// Marks the listener's thread as done. However it ended, nobody may wait
    /// for it from here on, so the gate is closed and the queue emptied.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.phase = Phase::Ended;
        let lost = state.discard();
        drop(state);
        self.room.notify_all();
        self.ended.notify_all();
        drop(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Source;

    fn message(cmd: &str) -> Message<()> {
        Message::new(&Source::try_from("a").unwrap(), cmd, ())
    }

    fn cmd(message: Option<Message<()>>) -> String {
        message.unwrap().cmd
    }

    #[test]
    fn own_messages_come_next_but_do_not_keep_the_queue_waiting() {
        let queue = Queue::new(8);
        for text in ["1", "2", "3"] {
            queue.post(message(text), Wait::Never).unwrap();
        }
        queue.serve();
        assert_eq!(cmd(queue.next(None)), "1");
        queue.post(message("1a"), Wait::Never).unwrap();
        queue.post(message("1b"), Wait::Never).unwrap();
        assert_eq!(cmd(queue.next(None)), "1a");
        queue.post(message("1aa"), Wait::Never).unwrap();
        assert_eq!(cmd(queue.next(None)), "1b");
        assert_eq!(cmd(queue.next(None)), "2", "the queue has its turn");
        assert_eq!(cmd(queue.next(None)), "1aa");
        assert_eq!(cmd(queue.next(None)), "3");
        assert_eq!(queue.stats().queued, 0);
        queue.close();
        assert!(queue.next(None).is_none());
    }

    #[test]
    fn one_that_always_posts_to_itself_delays_each_message_by_one() {
        let queue = Queue::new(8);
        for text in ["1", "2", "3"] {
            queue.post(message(text), Wait::Never).unwrap();
        }
        queue.serve();
        let order: Vec<String> = (0..6)
            .map(|_| {
                let next = cmd(queue.next(None));
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
