//! What is to happen in a network, and when: one queue, ordered by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::book::Life;
use super::wire::End;
use crate::concerns::envelope::Envelope;

/// Microseconds.
pub(super) const MILLISECOND: u64 = 1000;
pub(super) const SECOND: u64 = 1000 * MILLISECOND;

#[derive(Debug)]
pub(super) enum Happening {
    /// A node has something to do.
    Round { life: Life },
    /// A connection is there: that end is told.
    Up { end: End, dial: Option<u64> },
    /// There was nobody.
    Failed { life: Life, dial: u64 },
    /// What waits at that end is written.
    Flush { end: End },
    /// A frame has come to that end.
    Arrive { end: End, envelope: Box<Envelope> },
    /// That end learns that the connection is gone.
    Down { end: End },
    /// Who has said goodbye waits no longer.
    Quit { life: Life },
}

struct Entry {
    at: u64,
    number: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The clock, and what is to come.
#[derive(Default)]
pub(super) struct Schedule {
    pub(super) now: u64,
    number: u64,
    entries: BinaryHeap<Reverse<Entry>>,
}

impl Schedule {
    pub(super) fn plan(&mut self, after: u64, happening: Happening) {
        self.plan_at(self.now + after, happening);
    }

    pub(super) fn plan_at(&mut self, at: u64, happening: Happening) {
        self.number += 1;
        self.put_off(at, self.number, happening);
    }

    /// It happens later, in its place among all that happens then.
    pub(super) fn put_off(&mut self, at: u64, number: u64, happening: Happening) {
        self.entries.push(Reverse(Entry {
            at,
            number,
            happening,
        }));
    }

    /// What happens next and before the end of a time, with its number; it is that late then.
    pub(super) fn next(&mut self, until: u64) -> Option<(u64, Happening)> {
        let Reverse(next) = self.entries.peek()?;
        if next.at > until {
            return None;
        }
        let Reverse(entry) = self.entries.pop()?;
        self.now = entry.at;
        Some((entry.number, entry.happening))
    }
}
