//! A list that grows, and on which one can wait for an entry.
//!
//! What a sink receives and what the master's tasks come to: written by the threads of the other side, read by the
//! thread that plays the vector.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub(crate) struct Log<T> {
    entries: Mutex<Vec<T>>,
    grown: Condvar,
}

impl<T: Clone> Log<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::new(Vec::new()),
            grown: Condvar::new(),
        }
    }

    pub(crate) fn push(&self, entry: T) {
        self.entries.lock().push(entry);
        self.grown.notify_all();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// The `count`-th entry from `start` on that is `wanted`; none if it is not there within that time.
    pub(crate) fn wait(
        &self,
        start: usize,
        count: usize,
        within: Duration,
        wanted: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut entries = self.entries.lock();
        loop {
            let mut found = entries.iter().skip(start).filter(|entry| wanted(entry));
            if let Some(entry) = found.nth(count - 1) {
                return Some(entry.clone());
            }
            if self.grown.wait_until(&mut entries, deadline).timed_out() {
                return None;
            }
        }
    }
}
