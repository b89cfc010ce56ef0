//! Who was heard of when, and who is overdue.
//!
//! Pure: the time is passed in, so the tests need no clock. The master asks it
//! about heartbeats, always with a monotonic time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The last sign of life of everyone who is watched.
#[derive(Debug)]
pub(crate) struct Liveness<K> {
    tolerance: Duration,
    heard: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash> Liveness<K> {
    /// Nobody is watched yet; silence longer than `tolerance` makes overdue.
    pub(crate) fn new(tolerance: Duration) -> Self {
        Self {
            tolerance,
            heard: HashMap::new(),
        }
    }

    /// Starts to watch `key`, heard of just now.
    pub(crate) fn watch(&mut self, key: K, now: Instant) {
        self.heard.insert(key, now);
    }

    /// Notes a sign of life; one who is not watched is left alone.
    pub(crate) fn heard(&mut self, key: K, now: Instant) {
        if let Some(last) = self.heard.get_mut(&key) {
            *last = now;
        }
    }

    /// When `key`, if it is watched, was last heard of.
    pub(crate) fn last(&self, key: K) -> Option<Instant> {
        self.heard.get(&key).copied()
    }

    /// Watches `key` no more.
    pub(crate) fn forget(&mut self, key: K) {
        self.heard.remove(&key);
    }

    /// Those silent for longer than the tolerance, each with how long.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<(K, Duration)> {
        self.heard
            .iter()
            .map(|(key, last)| (*key, now.saturating_duration_since(*last)))
            .filter(|(_, silent)| *silent > self.tolerance)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_silent_are_overdue_and_only_beyond_the_tolerance() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut liveness = Liveness::new(Duration::from_secs(15));
        liveness.watch("a", at(0));
        liveness.watch("b", at(0));
        liveness.heard("b", at(10));
        liveness.heard("stranger", at(10));
        assert_eq!(
            liveness.overdue(at(15)),
            [],
            "exactly the tolerance is not beyond it"
        );
        assert_eq!(liveness.overdue(at(16)), [("a", Duration::from_secs(16))]);
        liveness.forget("a");
        assert_eq!(liveness.overdue(at(25)), []);
        assert_eq!(liveness.overdue(at(26)), [("b", Duration::from_secs(16))]);
    }

    #[test]
    fn a_clock_that_seems_to_run_backwards_makes_nobody_overdue() {
        let now = Instant::now();
        let mut liveness = Liveness::new(Duration::ZERO);
        liveness.watch(1, now + Duration::from_secs(5));
        assert_eq!(liveness.overdue(now), []);
    }
}
