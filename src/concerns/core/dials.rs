//! The connections that are being made, by number and by whom they are to reach.
//!
//! Pure; part of the core. Whoever makes them ends each with a link, or with the news that there is none.

use std::collections::{BTreeMap, HashSet};

use crate::concerns::identity::Identity;

/// A connection that is being made.
#[derive(Debug)]
pub(crate) struct Dial {
    /// With whom; `None` with whoever listens there.
    pub(crate) expect: Option<Identity>,
    pub(crate) address: String,
    /// The peer was forgotten meanwhile.
    pub(crate) unwanted: bool,
}

/// The connections that are being made: one for each peer, but for those that are unwanted by now.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    all: BTreeMap<u64, Dial>,
    expected: HashSet<Identity>,
}

impl Dials {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether a connection with that peer is being made.
    pub(crate) fn is_expected(&self, peer: &Identity) -> bool {
        self.expected.contains(peer)
    }

    pub(crate) fn insert(&mut self, number: u64, expect: Option<Identity>, address: String) {
        self.expected.extend(expect.clone());
        let unwanted = false;
        let dial = Dial {
            expect,
            address,
            unwanted,
        };
        self.all.insert(number, dial);
    }

    /// It has come to its end.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Dial> {
        let dial = self.all.remove(&number)?;
        if let Some(peer) = dial.expect.as_ref().filter(|_| !dial.unwanted) {
            self.expected.remove(peer);
        }
        Some(dial)
    }

    /// Nobody wants to reach that peer any more.
    pub(crate) fn forget(&mut self, peer: &Identity) {
        if self.expected.remove(peer) {
            for dial in self.all.values_mut() {
                dial.unwanted |= dial.expect.as_ref() == Some(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_was_forgotten_and_comes_back_is_dialed_anew() {
        let peer: Identity = "node-A".try_into().unwrap();
        let mut dials = Dials::default();
        dials.insert(1, Some(peer.clone()), "a:1".into());
        dials.insert(2, None, "b:1".into());
        assert!(dials.is_expected(&peer));
        dials.forget(&peer);
        assert!(!dials.is_expected(&peer));
        dials.insert(3, Some(peer.clone()), "a:1".into());
        assert!(dials.remove(1).unwrap().unwanted);
        assert!(dials.is_expected(&peer));
        assert!(!dials.remove(3).unwrap().unwanted);
        assert!(!dials.is_expected(&peer) && dials.remove(3).is_none());
        assert!(dials.remove(2).is_some());
        assert_eq!((dials.len(), dials.expected.len()), (0, 0));
    }
}
