//! The ends of a map's tasks, on their way from the slaves' threads to the one that iterates.
//!
//! A channel would do, but whoever receives from one is woken for each message, and spins for a while before
//! it sleeps. Where slaves keep a machine busy, such wake-ups are most of what a pool costs. So the thread that
//! iterates says what it waits for, and is woken for that alone.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::error::JobError;

/// How long an end may wait for others while there is no need for haste.
const GATHER: Duration = Duration::from_millis(1);

/// The number of an input, and what came of it.
pub(super) type Ended = (u64, Result<Value, JobError>);

/// What the thread that iterates is woken for.
enum Awaited {
    /// So many ends.
    Count(usize),
    /// The end of this number.
    Turn(u64),
}

struct Arrived {
    ends: VecDeque<Ended>,
    awaited: Awaited,
}

/// Where the slaves' threads put them, and one thread takes them.
pub(super) struct Ends {
    arrived: Mutex<Arrived>,
    wake: Condvar,
}

impl Ends {
    pub(super) fn new() -> Self {
        Self {
            arrived: Mutex::new(Arrived {
                ends: VecDeque::new(),
                awaited: Awaited::Count(1),
            }),
            wake: Condvar::new(),
        }
    }

    pub(super) fn put(&self, number: u64, result: Result<Value, JobError>) {
        let mut arrived = self.arrived.lock();
        arrived.ends.push_back((number, result));
        let wakes = match arrived.awaited {
            Awaited::Count(count) => arrived.ends.len() >= count,
            Awaited::Turn(turn) => number == turn,
        };
        drop(arrived);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Waits until there are some, and takes all, into what is empty; for `enough` of them it has a moment's patience.
    pub(super) fn take(&self, enough: usize, taken: &mut VecDeque<Ended>) {
        let mut arrived = self.arrived.lock();
        if enough > 1 {
            let until = Instant::now() + GATHER;
            arrived.awaited = Awaited::Count(enough);
            while arrived.ends.len() < enough
                && !self.wake.wait_until(&mut arrived, until).timed_out()
            {}
        }
        arrived.awaited = Awaited::Count(1);
        while arrived.ends.is_empty() {
            self.wake.wait(&mut arrived);
        }
        mem::swap(&mut arrived.ends, taken);
    }

    /// Waits for the end of `turn`, and takes all, into what is empty.
    pub(super) fn take_turn(&self, turn: u64, taken: &mut VecDeque<Ended>) {
        let mut arrived = self.arrived.lock();
        arrived.awaited = Awaited::Turn(turn);
        while !arrived.ends.iter().any(|(number, _)| *number == turn) {
            self.wake.wait(&mut arrived);
        }
        mem::swap(&mut arrived.ends, taken);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::lifecycle::spawn;

    /// More than any machine takes.
    const LONG: Duration = Duration::from_secs(60);

    fn with(numbers: &[u64]) -> Arc<Ends> {
        let ends = Arc::new(Ends::new());
        numbers.iter().for_each(|number| come(&ends, *number));
        ends
    }

    fn come(ends: &Ends, number: u64) {
        ends.put(number, Ok(Value::Null));
    }

    fn numbers(take: impl FnOnce(&mut VecDeque<Ended>)) -> Vec<u64> {
        let mut taken = VecDeque::new();
        take(&mut taken);
        taken.into_iter().map(|(number, _)| number).collect()
    }

    /// What another thread takes, if `number` comes when that thread waits in such a way.
    fn taken_when(
        ends: &Arc<Ends>,
        take: impl FnOnce(&Ends, &mut VecDeque<Ended>) + Send + 'static,
        waits: impl Fn(&Awaited) -> bool,
        number: u64,
    ) -> Vec<u64> {
        ends.arrived.lock().awaited = Awaited::Count(usize::MAX);
        let (tell, told) = mpsc::channel();
        let taking = ends.clone();
        let taker = spawn("taker", move || {
            let _ = tell.send(numbers(|taken| take(&taking, taken))); // unless the test has failed
        });
        let _taker = taker.expect("a thread");
        let end = Instant::now() + LONG;
        while !waits(&ends.arrived.lock().awaited) {
            assert!(Instant::now() < end, "it does not wait so");
            thread::yield_now();
        }
        come(ends, number);
        told.recv_timeout(LONG).expect("it is woken")
    }

    #[test]
    fn all_that_came_are_taken_at_once() {
        let ends = with(&[4, 2]);
        assert_eq!(numbers(|taken| ends.take(1, taken)), [4, 2]);
    }

    #[test]
    fn whoever_waits_for_several_is_given_what_there_is_after_a_moment() {
        let ends = with(&[0]);
        assert_eq!(numbers(|taken| ends.take(3, taken)), [0]);
        let over = |awaited: &Awaited| matches!(awaited, Awaited::Count(1));
        let taken = taken_when(&ends, |ends, taken| ends.take(3, taken), over, 1);
        assert_eq!(taken, [1]);
    }

    #[test]
    fn whoever_waits_for_a_turn_is_given_it_with_those_before() {
        let ends = with(&[2, 1]);
        let waits = |awaited: &Awaited| matches!(awaited, Awaited::Turn(0));
        let taken = taken_when(&ends, |ends, taken| ends.take_turn(0, taken), waits, 0);
        assert_eq!(taken, [2, 1, 0]);
    }
}
