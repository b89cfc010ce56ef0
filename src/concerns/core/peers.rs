//! The table of peers: bounded, and strangers make room first.

use std::collections::{BTreeMap, BTreeSet};

use crate::concerns::identity::Identity;
use crate::concerns::record::Record;

/// The peers that are known.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    records: BTreeMap<Identity, Record>,
    strangers: BTreeSet<Identity>,
    /// Something that others see has changed since they were told.
    pub(super) changed: bool,
}

impl Peers {
    pub(crate) fn get(&self, peer: &Identity) -> Option<&Record> {
        self.records.get(peer)
    }

    pub(crate) fn get_mut(&mut self, peer: &Identity) -> Option<&mut Record> {
        self.records.get_mut(peer)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.records.values_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn strangers(&self) -> usize {
        self.strangers.len()
    }

    pub(crate) fn insert(&mut self, record: Record) {
        self.changed = true;
        if record.stranger {
            self.strangers.insert(record.identity.clone());
        } else {
            self.strangers.remove(&record.identity);
        }
        self.records.insert(record.identity.clone(), record);
    }

    pub(crate) fn remove(&mut self, peer: &Identity) -> Option<Record> {
        let record = self.records.remove(peer)?;
        self.changed = true;
        self.strangers.remove(peer);
        Some(record)
    }

    /// It is no stranger any more.
    pub(crate) fn invite(&mut self, peer: &Identity) {
        self.strangers.remove(peer);
        if let Some(record) = self.records.get_mut(peer) {
            record.stranger = false;
        }
    }

    /// The stranger that makes room: of those that are not reached the one that is silent for longest.
    pub(crate) fn longest_silent_stranger(&self) -> Option<Identity> {
        let strangers = self.strangers.iter();
        let strangers = strangers.filter_map(|peer| self.records.get(peer));
        let unreached = strangers.filter(|record| !record.state.is_reached());
        let silent = unreached.min_by_key(|record| record.last_heard)?;
        Some(silent.identity.clone())
    }
}
