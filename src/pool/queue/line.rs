//! The queued tasks: first come, first served, among those that want the same.
//!
//! Tasks that may run on the same slaves stand in one line, so finding the next task for a slave
//! is a look at the head of each line, however many tasks there are.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;
use super::slave::{Slave, SlaveId};
use crate::pool::options::Place;

/// What tasks of one line have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Want {
    pub(super) place: Place,
    /// Slaves that have refused it.
    pub(super) not: BTreeSet<SlaveId>,
}

impl Want {
    pub(super) fn fits<S>(&self, id: SlaveId, slave: &Slave<S>) -> bool {
        !self.not.contains(&id) && self.place.fits(&slave.name, &slave.labels)
    }
}

/// The lines. Keys grow with the time of submission, so the smallest is the next.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: BTreeMap<Want, BTreeSet<Key>>,
}

impl Lines {
    pub(super) fn push(&mut self, want: &Want, key: Key) {
        match self.lines.get_mut(want) {
            Some(line) => drop(line.insert(key)),
            None => drop(self.lines.insert(want.clone(), [key].into())),
        }
    }

    pub(super) fn remove(&mut self, want: &Want, key: Key) {
        let Some(line) = self.lines.get_mut(want) else {
            return;
        };
        line.remove(&key);
        // The line of those that want nothing special is there for good.
        if line.is_empty() && *want != Want::default() {
            self.lines.remove(want);
        }
    }

    /// The task that has waited longest of those that fit the slave.
    pub(super) fn next_for<S>(&self, id: SlaveId, slave: &Slave<S>) -> Option<Key> {
        let fitting = self.lines.iter().filter(|(want, _)| want.fits(id, slave));
        fitting.filter_map(|(_, line)| line.first().copied()).min()
    }

    /// Those whose wants nobody can meet.
    pub(super) fn stranded(&self, can: impl Fn(&Want) -> bool) -> Vec<Key> {
        let lines = self.lines.iter().filter(|(want, _)| !can(want));
        lines.flat_map(|(_, line)| line).copied().collect()
    }
}
