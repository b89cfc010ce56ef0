//! A queue of events that never makes its producer wait.
//!
//! If it is full, the oldest event goes, and whoever receives next is told how many are missing.
//! The end of the events comes after all of them, and may be taken back for a new session. Events
//! are dropped outside the lock.

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::wait::wait_for;

/// Events `T` on their way to their consumers, of which each gets some. `E` says why there will be
/// no more; to clone it is cheap.
pub(crate) struct EventQueue<T, E> {
    capacity: usize,
    state: Mutex<State<T, E>>,
    /// An event came, or the end; consumers wait here.
    arrived: Condvar,
}

struct State<T, E> {
    events: VecDeque<T>,
    /// How many were dropped since the last receive.
    lost: u64,
    ended: Option<E>,
}

/// Why there is no event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoEvent<E> {
    /// None has come yet.
    TimedOut,
    /// So many were dropped since the last receive, because the queue was full.
    Lagged(u64),
    /// None will come.
    Ended(E),
}

impl<T, E: Clone> State<T, E> {
    /// What a receive ends with; `None` while there is nothing.
    fn next(&mut self) -> Option<Result<T, NoEvent<E>>> {
        let lost = mem::take(&mut self.lost);
        if lost > 0 {
            return Some(Err(NoEvent::Lagged(lost)));
        }
        if let Some(event) = self.events.pop_front() {
            return Some(Ok(event));
        }
        let reason = self.ended.clone()?;
        Some(Err(NoEvent::Ended(reason)))
    }
}

impl<T, E: Clone> EventQueue<T, E> {
    /// A queue of at most so many events; 0: without limit.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::new(State {
                events: VecDeque::new(),
                lost: 0,
                ended: None,
            }),
            arrived: Condvar::new(),
        }
    }

    /// Adds an event, at the cost of the oldest one if the queue is full. After the end it is dropped.
    pub(crate) fn push(&self, event: T) {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            drop(state);
            return;
        }
        let full = self.capacity != 0 && state.events.len() >= self.capacity;
        let oldest = if full { state.events.pop_front() } else { None };
        state.lost += u64::from(full);
        state.events.push_back(event);
        drop(state);
        self.arrived.notify_one();
        drop(oldest);
    }

    /// The oldest event, waited for until the deadline.
    pub(crate) fn recv(&self, deadline: Option<Instant>) -> Result<T, NoEvent<E>> {
        let mut state = self.state.lock();
        wait_for(&self.arrived, &mut state, deadline, State::next).unwrap_or(Err(NoEvent::TimedOut))
    }

    /// The oldest event, if there is one.
    pub(crate) fn try_recv(&self) -> Result<T, NoEvent<E>> {
        let next = self.state.lock().next();
        next.unwrap_or(Err(NoEvent::TimedOut))
    }

    /// How many were dropped since the last receive.
    pub(crate) fn lost(&self) -> u64 {
        self.state.lock().lost
    }

    /// All events that are there. A gap before them is still reported by the next receive.
    pub(crate) fn drain(&self) -> VecDeque<T> {
        mem::take(&mut self.state.lock().events)
    }

    /// Says that no more events come. The first reason counts.
    pub(crate) fn end(&self, reason: E) {
        let mut state = self.state.lock();
        if state.ended.is_none() {
            state.ended = Some(reason);
        }
        drop(state);
        self.arrived.notify_all();
    }

    /// Takes the end back.
    pub(crate) fn reopen(&self) {
        let ended = self.state.lock().ended.take();
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    type Numbers = EventQueue<u32, &'static str>;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_says_so_once() {
        let queue = Numbers::new(3);
        assert_eq!(queue.try_recv(), Err(NoEvent::TimedOut));
        for event in 1..=5 {
            queue.push(event);
        }
        assert_eq!(queue.lost(), 2);
        assert_eq!(queue.recv(None), Err(NoEvent::Lagged(2)));
        assert_eq!(queue.lost(), 0);
        assert_eq!(queue.recv(None), Ok(3));
        assert_eq!(queue.try_recv(), Ok(4));
        assert_eq!(queue.recv(None), Ok(5));
        assert_eq!(queue.recv(soon()), Err(NoEvent::TimedOut));
    }

    #[test]
    fn without_capacity_there_is_no_limit() {
        let queue = Numbers::new(0);
        (0..100_000).for_each(|event| queue.push(event));
        assert!(queue.drain().into_iter().eq(0..100_000));
        assert_eq!(queue.try_recv(), Err(NoEvent::TimedOut));
    }

    #[test]
    fn the_end_comes_after_the_events_and_can_be_taken_back() {
        let queue = Numbers::new(3);
        queue.push(1);
        queue.end("first");
        queue.end("second");
        queue.push(2);
        assert_eq!(queue.recv(None), Ok(1));
        assert_eq!(queue.recv(None), Err(NoEvent::Ended("first")));
        assert_eq!(queue.try_recv(), Err(NoEvent::Ended("first")), "and again");
        queue.reopen();
        queue.push(3);
        assert_eq!(queue.recv(None), Ok(3));
        assert_eq!(queue.try_recv(), Err(NoEvent::TimedOut));
    }

    #[test]
    fn the_end_wakes_all_consumers() {
        let queue = Numbers::new(3);
        thread::scope(|scope| {
            let consumers = [(); 3].map(|()| scope.spawn(|| queue.recv(None)));
            let own = queue.recv(soon());
            assert_eq!(own, Err(NoEvent::TimedOut), "time to fall asleep");
            queue.end("end");
            for consumer in consumers {
                assert_eq!(consumer.join().unwrap(), Err(NoEvent::Ended("end")));
            }
        });
    }

    /// Tells, when it is dropped, whether the queue was locked.
    struct Probe(Arc<OnceLock<EventQueue<Probe, ()>>>);

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
    fn no_event_is_dropped_under_the_lock() {
        let cell = Arc::new(OnceLock::new());
        let queue = cell.get_or_init(|| EventQueue::new(1));
        for _ in 0..3 {
            queue.push(Probe(Arc::clone(&cell)));
        }
        drop(queue.drain());
        queue.end(());
        queue.push(Probe(Arc::clone(&cell)));
    }

    #[test]
    fn many_consumers_get_each_event_once_and_each_of_them_in_order() {
        const EVENTS: u32 = 50_000;
        let queue = Numbers::new(0);
        let consume = || {
            let mut events = Vec::new();
            loop {
                match queue.recv(None) {
                    Ok(event) => events.push(event),
                    Err(NoEvent::Ended("end")) => return events,
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        let mut all: Vec<u32> = thread::scope(|scope| {
            let consumers = [(); 3].map(|()| scope.spawn(consume));
            (0..EVENTS).for_each(|event| queue.push(event));
            queue.end("end");
            let events = consumers.map(|consumer| consumer.join().unwrap());
            assert!(events.iter().all(|events| events.is_sorted()));
            events.concat()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(0..EVENTS));
    }

    #[test]
    fn a_consumer_that_is_too_slow_knows_how_many_it_missed() {
        const EVENTS: u32 = 50_000;
        let queue = Numbers::new(16);
        let mut expected = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                (0..EVENTS).for_each(|event| queue.push(event));
                queue.end("end");
            });
            loop {
                match queue.recv(None) {
                    Ok(event) => {
                        assert_eq!(event, expected);
                        expected += 1;
                    }
                    Err(NoEvent::Lagged(lost)) => expected += lost as u32,
                    Err(NoEvent::Ended(_)) => break,
                    Err(NoEvent::TimedOut) => panic!("there was no deadline"),
                }
            }
        });
        assert_eq!(expected, EVENTS);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Receive,
        Drain,
        End,
        Reopen,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Push),
            4 => Just(Step::Receive),
            1 => Just(Step::Drain),
            1 => Just(Step::End),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #[test]
        fn the_queue_does_what_a_list_does(
            capacity in 0_usize..4,
            steps in proptest::collection::vec(any_step(), 0..60),
        ) {
            let queue = Numbers::new(capacity);
            let mut list = Vec::new();
            let mut lost = 0;
            let mut ended = false;
            for (event, step) in (0..).zip(steps) {
                match step {
                    Step::Push => {
                        queue.push(event);
                        if !ended {
                            list.push(event);
                        }
                        if capacity != 0 && list.len() > capacity {
                            list.remove(0);
                            lost += 1;
                        }
                    }
                    Step::Receive => {
                        let expected = match () {
                            () if lost > 0 => Err(NoEvent::Lagged(mem::take(&mut lost))),
                            () if !list.is_empty() => Ok(list.remove(0)),
                            () if ended => Err(NoEvent::Ended("end")),
                            () => Err(NoEvent::TimedOut),
                        };
                        prop_assert_eq!(queue.recv(Some(Instant::now())), expected);
                    }
                    Step::Drain => prop_assert_eq!(Vec::from(queue.drain()), mem::take(&mut list)),
                    Step::End => {
                        queue.end("end");
                        ended = true;
                    }
                    Step::Reopen => {
                        queue.reopen();
                        ended = false;
                    }
                }
            }
        }
    }
}
