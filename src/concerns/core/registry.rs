//! The concerns of a node, in order of registration, and when each wants to be woken.

use std::fmt;
use std::time::Instant;

use crate::concerns::concern::Concern;
use crate::concerns::identity::Command;

/// A concern and what the core knows of it.
pub(crate) struct Entry {
    pub(crate) command: Command,
    pub(crate) concern: Box<dyn Concern>,
    /// When its `tick` is due.
    pub(crate) wake: Option<Instant>,
    /// Changes of peers and links wake it.
    pub(crate) watches: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("command", &self.command)
            .field("wake", &self.wake)
            .finish_non_exhaustive()
    }
}

/// The concerns.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) entries: Vec<Entry>,
}

impl Registry {
    /// Adds one, and gives its place.
    pub(crate) fn push(&mut self, command: Command, concern: Box<dyn Concern>) -> usize {
        self.entries.push(Entry {
            command,
            concern,
            wake: None,
            watches: false,
        });
        self.entries.len() - 1
    }

    /// The command of the one that was added last.
    pub(crate) fn last(&self) -> Option<Command> {
        self.entries.last().map(|entry| entry.command.clone())
    }

    /// When the first of them wants to be woken.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.wake).min()
    }

    /// Whether one of them is woken by changes.
    pub(crate) fn is_watched(&self) -> bool {
        self.entries.iter().any(|entry| entry.watches)
    }
}
