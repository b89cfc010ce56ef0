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
    use std::thread;

    use super::*;

    fn numbers(take: impl FnOnce(&mut VecDeque<Ended>)) -> Vec<u64> {
        let mut taken = VecDeque::new();
        take(&mut taken);
        taken.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn all_that_came_are_taken_at_once() {
        let ends = Ends::new();
        ends.put(4, Ok(Value::Null));
        ends.put(2, Err(JobError::Closed));
        assert_eq!(numbers(|taken| ends.take(1, taken)), [4, 2]);
    }

    #[test]
    fn whoever_waits_for_several_is_given_what_there_is_after_a_moment() {
        let ends = Ends::new();
        ends.put(0, Ok(Value::Null));
        assert_eq!(numbers(|taken| ends.take(3, taken)), [0]);
        ends.arrived.lock().awaited = Awaited::Count(9);
        thread::scope(|scope| {
            let taker = scope.spawn(|| numbers(|taken| ends.take(3, taken)));
            while !matches!(ends.arrived.lock().awaited, Awaited::Count(1)) {
                thread::yield_now(); // its patience is not over
            }
            ends.put(1, Ok(Value::Null));
            assert_eq!(taker.join().expect("taker"), [1]);
        });
    }

    #[test]
    fn whoever_waits_for_a_turn_is_given_it_with_those_before() {
        let ends = Ends::new();
        ends.put(2, Ok(Value::Null));
        thread::scope(|scope| {
            let taker = scope.spawn(|| numbers(|taken| ends.take_turn(0, taken)));
            ends.put(1, Ok(Value::Null));
            ends.put(0, Ok(Value::Null));
            assert_eq!(taker.join().expect("taker"), [2, 1, 0]);
        });
    }
}
