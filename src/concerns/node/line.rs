//! What waits for the node's thread, in the order in which it came.
//!
//! Its length is bounded by those who put things in: each link by its gate, messages of the program by their room,
//! callers by waiting for their answer.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::protocol::Waker;

/// A queue of any number of producers and the one thread that takes from it.
pub(super) struct Line<T> {
    state: Mutex<State<T>>,
    come: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// How the one thread sleeps, if it does.
    asleep: Option<Asleep>,
    closed: bool,
}

/// What wakes the thread.
enum Asleep {
    /// That something has come.
    Here,
    /// Its waker: it waits somewhere else as well.
    Elsewhere(Arc<Waker>),
}

impl<T> Line<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                asleep: None,
                closed: false,
            }),
            come: Condvar::new(),
        }
    }

    /// Adds an item; given back if the line is closed.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        self.add(item, true)
    }

    /// Adds an item that may wait until the thread wakes for something else.
    pub(super) fn push_unhurried(&self, item: T) -> Result<(), T> {
        self.add(item, false)
    }

    fn add(&self, item: T, hurry: bool) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return Err(item);
        }
        state.items.push_back(item);
        let wake = state.asleep.take_if(|_| hurry);
        drop(state);
        match wake {
            Some(Asleep::Here) => drop(self.come.notify_one()),
            Some(Asleep::Elsewhere(waker)) => waker.wake(),
            None => {}
        }
        Ok(())
    }

    /// Swaps all items into `taken`, which is empty. Without any, sleeps until one comes that is in a hurry, or
    /// until the deadline.
    pub(super) fn take(&self, taken: &mut VecDeque<T>, deadline: Instant) {
        debug_assert!(taken.is_empty(), "what was taken is done with");
        let mut state = self.state.lock();
        if state.items.is_empty() {
            state.asleep = Some(Asleep::Here);
            while state.asleep.is_some() && !self.come.wait_until(&mut state, deadline).timed_out()
            {
            }
            state.asleep = None;
        }
        mem::swap(&mut state.items, taken);
    }

    /// Without any items, lets the one thread wait somewhere else, which ends when `waker` is used. `wait` is given
    /// what says whether something has come. False if nothing has.
    pub(super) fn wait_elsewhere(
        &self,
        waker: &Arc<Waker>,
        wait: impl FnOnce(&dyn Fn() -> bool),
    ) -> bool {
        let has_come = || !self.state.lock().items.is_empty();
        let mut state = self.state.lock();
        if state.items.is_empty() {
            state.asleep = Some(Asleep::Elsewhere(waker.clone()));
            drop(state);
            wait(&has_come);
            state = self.state.lock();
            state.asleep = None;
        }
        !state.items.is_empty()
    }

    /// Lets nothing in any more, and gives what was there.
    pub(super) fn close(&self) -> VecDeque<T> {
        let mut state = self.state.lock();
        state.closed = true;
        mem::take(&mut state.items)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::spawn;

    fn take(line: &Line<u32>, ms: u64) -> Vec<u32> {
        let mut taken = VecDeque::new();
        line.take(&mut taken, Instant::now() + Duration::from_millis(ms));
        taken.into()
    }

    #[test]
    fn all_that_is_there_is_taken_in_its_order() {
        let line = Line::new();
        assert_eq!(line.push(1), Ok(()));
        assert_eq!(line.push_unhurried(2), Ok(()));
        assert_eq!(take(&line, 60_000), [1, 2]);
        assert!(take(&line, 1).is_empty(), "the deadline");
        assert_eq!(line.push(3), Ok(()));
        assert_eq!(line.close(), [3]);
        assert_eq!(line.push(4), Err(4));
    }

    #[test]
    fn whoever_waits_elsewhere_is_woken_there() {
        let line = Line::new();
        let waker = Arc::new(Waker::new().unwrap());
        assert!(!line.wait_elsewhere(&waker, |has_come| assert!(!has_come())));
        assert!(line.wait_elsewhere(&waker, |has_come| {
            assert_eq!(line.push_unhurried(1), Ok(()));
            assert!(line.state.lock().asleep.is_some(), "in no hurry");
            assert_eq!(line.push(2), Ok(()));
            assert!(has_come() && line.state.lock().asleep.is_none());
        }));
        assert!(line.wait_elsewhere(&waker, |_| panic!("something is there")));
        assert_eq!(take(&line, 60_000), [1, 2]);
    }

    #[test]
    fn only_a_hurry_wakes_the_thread() {
        let line = Arc::new(Line::new());
        let (took, taken) = crossbeam_channel::bounded(1);
        let _thread = spawn("takes", {
            let line = line.clone();
            move || took.send(take(&line, 60_000)).unwrap()
        });
        while line.state.lock().asleep.is_none() {
            std::thread::yield_now();
        }
        assert_eq!(line.push_unhurried(1), Ok(()));
        assert!(taken.recv_timeout(Duration::from_millis(20)).is_err());
        assert_eq!(line.push(2), Ok(()));
        assert_eq!(taken.recv_timeout(Duration::from_secs(60)).unwrap(), [1, 2]);
    }
}
