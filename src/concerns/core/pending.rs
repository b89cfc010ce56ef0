//! The program's requests that wait for their replies.
//!
//! Pure; part of the core. Each leaves the table once: with its reply, when its time is over, or when its peer is
//! lost.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::concerns::identity::{Command, Identity};

/// How many there are at most.
const MOST: usize = 65_536;

/// A request that waits for its reply.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) to: Identity,
    pub(crate) command: Command,
    /// The neighbour it was written to, if it was.
    pub(crate) over: Option<Identity>,
    pub(crate) deadline: Instant,
    pub(crate) lifetime: Duration,
}

/// The requests that wait, by number.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    asked: HashMap<u64, Asked>,
    until: BTreeSet<(Instant, u64)>,
    /// How many of each peer, so that it costs nothing to lose one that was asked nothing.
    of: HashMap<Identity, usize>,
}

impl Pending {
    pub(crate) fn is_full(&self) -> bool {
        self.asked.len() >= MOST
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Asked> {
        self.asked.get(&id)
    }

    /// Notes one that waits.
    pub(crate) fn insert(&mut self, id: u64, asked: Asked) {
        self.remove(id);
        self.until.insert((asked.deadline, id));
        *self.of.entry(asked.to.clone()).or_default() += 1;
        self.asked.insert(id, asked);
    }

    /// It was written to that neighbour.
    pub(crate) fn went(&mut self, id: u64, over: &Identity) {
        if let Some(asked) = self.asked.get_mut(&id) {
            asked.over = Some(over.clone());
        }
    }

    /// The wait is over.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Asked> {
        let asked = self.asked.remove(&id)?;
        self.until.remove(&(asked.deadline, id));
        if let Some(count) = self.of.get_mut(&asked.to) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&asked.to);
            }
        }
        Some(asked)
    }

    /// The one whose time is over first, and when that is.
    pub(crate) fn first(&self) -> Option<(Instant, u64)> {
        self.until.first().copied()
    }

    /// Those that were written, and that peer is to answer; in the order of their numbers.
    pub(crate) fn written_for(&self, peer: &Identity) -> Vec<u64> {
        if !self.of.contains_key(peer) {
            return Vec::new();
        }
        let written = self.asked.iter();
        let written = written.filter(|(_, asked)| asked.to == *peer && asked.over.is_some());
        let mut written: Vec<u64> = written.map(|(id, _)| *id).collect();
        written.sort_unstable();
        written
    }

    /// How many wait; the sizes of the parts agree.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.asked.len(), self.until.len());
        assert_eq!(self.asked.len(), self.of.values().sum::<usize>());
        self.asked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leaves_once_and_leaves_nothing() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let peer = |name: &str| Identity::try_from(format!("node-{name}")).unwrap();
        for (id, to, seconds) in [(1, "A", 9), (2, "B", 3), (3, "A", 1), (4, "A", 5)] {
            let lifetime = Duration::from_secs(seconds);
            let asked = Asked {
                to: peer(to),
                command: "x".try_into().unwrap(),
                over: None,
                deadline: start + lifetime,
                lifetime,
            };
            pending.insert(id, asked);
        }
        assert_eq!(pending.first(), Some((start + Duration::from_secs(1), 3)));
        for id in [4, 2, 1] {
            pending.went(id, &peer("H"));
        }
        assert_eq!(pending.written_for(&peer("A")), [1, 4]);
        assert!(pending.written_for(&peer("C")).is_empty());
        for id in 1..5 {
            assert!(pending.remove(id).is_some());
            assert!(pending.remove(id).is_none());
        }
        assert_eq!(pending.len(), 0);
        assert!(pending.of.is_empty() && pending.first().is_none());
    }
}
