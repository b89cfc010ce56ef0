//! A slave as the queue sees it, and how long one that is away is tried again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Key;
use crate::pool::progress::SlaveState;

/// The pause before the second attempt to connect; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a slave that is busy with something else is left alone at first.
const FIRST_ASIDE: Duration = Duration::from_millis(50);
/// And at most.
const LONGEST_ASIDE: Duration = Duration::from_secs(2);

/// Number of a slave within its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::pool) struct SlaveId(pub(in crate::pool) u64);

/// Where a slave stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not connected: its thread tries at `next`, and gives up what is not there by the deadline.
    Down {
        since: Instant,
        next: Instant,
    },
    /// Connected; `turn` grows, so the least recently used has the smallest.
    Free {
        turn: u64,
    },
    /// At this task, which may have ended for its owner.
    At(Key),
    /// At something that is not ours.
    Aside {
        until: Instant,
    },
    /// Told to disconnect.
    Leaving,
    GivenUp,
}

/// What the thread of a slave that is not connected is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Next {
    Connect {
        at: Instant,
    },
    Leave,
    /// The slave is given up.
    End,
}

/// A slave, with what the pool keeps beside it.
#[derive(Debug)]
pub(in crate::pool) struct Slave<S> {
    pub(in crate::pool) name: String,
    pub(in crate::pool) labels: BTreeSet<String>,
    pub(in crate::pool) handle: S,
    pub(in crate::pool) finished: u64,
    pub(in crate::pool) losses: u64,
    pub(in crate::pool) trouble: Option<String>,
    pub(super) state: State,
    /// It gets nothing new, and goes when it is free.
    pub(super) leaving: bool,
    /// Attempts to connect, or connections that came to nothing, since it last did something.
    pub(super) tries: u32,
    /// How often in a row it was busy with something else.
    pub(super) asides: u32,
}

impl<S> Slave<S> {
    pub(super) fn new(name: String, labels: BTreeSet<String>, handle: S, now: Instant) -> Self {
        Self {
            name,
            labels,
            handle,
            finished: 0,
            losses: 0,
            trouble: None,
            state: State::Down {
                since: now,
                next: now,
            },
            leaving: false,
            tries: 0,
            asides: 0,
        }
    }

    /// Whether it has, or may still get, tasks.
    pub(super) fn is_in_play(&self) -> bool {
        !self.leaving && self.state != State::GivenUp
    }

    pub(in crate::pool) fn state(&self) -> SlaveState {
        match self.state {
            State::GivenUp => SlaveState::GivenUp,
            _ if self.leaving => SlaveState::Leaving,
            State::Down { .. } => SlaveState::Connecting,
            State::Free { .. } => SlaveState::Free,
            State::At(_) => SlaveState::Running,
            State::Aside { .. } => SlaveState::Busy,
            State::Leaving => SlaveState::Leaving,
        }
    }

    /// The task it was given last, while it is at it.
    pub(in crate::pool) fn key(&self) -> Option<Key> {
        match self.state {
            State::At(key) => Some(key),
            _ => None,
        }
    }

    /// It has shown that it is of use: what went wrong before counts no more.
    pub(super) fn proved(&mut self) {
        self.tries = 0;
        self.asides = 0;
        self.trouble = None;
    }

    /// It is not connected any more.
    pub(super) fn down(&mut self, why: String, now: Instant) {
        self.trouble = Some(why);
        self.losses += 1;
        self.state = State::Down {
            since: now,
            next: now + pause(FIRST_PAUSE, LONGEST_PAUSE, self.tries),
        };
        self.tries = self.tries.saturating_add(1);
        self.asides = 0;
    }

    /// An attempt to connect has failed; gives the slave up when its time is over.
    pub(super) fn missed(&mut self, why: String, deadline: Duration, now: Instant) {
        let State::Down { since, .. } = self.state else {
            return;
        };
        self.trouble = Some(why);
        self.tries = self.tries.saturating_add(1);
        let last = since + deadline;
        self.state = if now >= last {
            State::GivenUp
        } else {
            // One attempt is made at the deadline itself.
            let next = now + pause(FIRST_PAUSE, LONGEST_PAUSE, self.tries);
            State::Down {
                since,
                next: next.min(last),
            }
        };
    }

    /// It is busy with something else; when to ask it again.
    pub(super) fn set_aside(&mut self, now: Instant) -> Instant {
        self.asides = self.asides.saturating_add(1);
        self.trouble = Some("busy with something else".to_owned());
        let until = now + pause(FIRST_ASIDE, LONGEST_ASIDE, self.asides);
        self.state = State::Aside { until };
        until
    }
}

/// None before the first time, then `first`, and twice as long each time, up to `longest`.
pub(super) fn pause(first: Duration, longest: Duration, times: u32) -> Duration {
    match times.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => first.saturating_mul(1 << doublings.min(20)).min(longest),
    }
}
