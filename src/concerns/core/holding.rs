//! Messages for which there is no way yet: kept until there is one, or their lifetime is over.
//!
//! Pure; part of the core. Bounded in number and in bytes. When it is full a newcomer is refused: what was taken
//! is kept, and whoever sent the newcomer hears of it at once and can act upon it. What comes
//! from other nodes has half of the room at most, so that they cannot take it all from the node itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::load::Load;
use crate::concerns::identity::Identity;

/// A message that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held<T> {
    /// Whom it is for.
    pub(crate) to: Identity,
    /// When its lifetime is over; at that moment it is still alive.
    pub(crate) expires: Instant,
    /// How much memory it takes.
    pub(crate) bytes: usize,
    /// Whether another node made it.
    pub(crate) foreign: bool,
    pub(crate) item: T,
}

/// The messages that are held, by whom they are for.
#[derive(Debug)]
pub(crate) struct Holding<T> {
    bound: Load,
    /// Each list in the order of numbers.
    messages: BTreeMap<Identity, VecDeque<(u64, Held<T>)>>,
    expiries: BTreeSet<(Instant, u64, Identity)>,
    all: Load,
    foreign: Load,
    taken: u64,
}

impl<T> Holding<T> {
    /// For at most `max_count` messages of `max_bytes` together.
    pub(crate) fn new(max_count: usize, max_bytes: usize) -> Self {
        Self {
            bound: Load::new(max_count, max_bytes),
            messages: BTreeMap::new(),
            expiries: BTreeSet::new(),
            all: Load::default(),
            foreign: Load::default(),
            taken: 0,
        }
    }

    /// How many messages are held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.count
    }

    /// Whether there is something for this peer.
    pub(crate) fn has(&self, to: &Identity) -> bool {
        self.messages.contains_key(to)
    }

    /// Whom something is held for.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Identity> {
        self.messages.keys()
    }

    /// Holds a message, behind the others for the same peer.
    ///
    /// # Errors
    ///
    /// It comes back if there is no room.
    pub(crate) fn hold(&mut self, held: Held<T>) -> Result<(), Held<T>> {
        let half = Load::new(self.bound.count / 2, self.bound.bytes / 2);
        if !self.bound.fits(self.all, held.bytes)
            || (held.foreign && !half.fits(self.foreign, held.bytes))
        {
            return Err(held);
        }
        self.all.add(held.bytes);
        if held.foreign {
            self.foreign.add(held.bytes);
        }
        self.taken += 1;
        self.expiries
            .insert((held.expires, self.taken, held.to.clone()));
        let list = self.messages.entry(held.to.clone()).or_default();
        list.push_back((self.taken, held));
        Ok(())
    }

    /// Takes what is held for a peer, the oldest first.
    pub(crate) fn take(&mut self, to: &Identity) -> Vec<Held<T>> {
        let taken = self.messages.remove(to).unwrap_or_default();
        for (number, held) in &taken {
            self.expiries.remove(&(held.expires, *number, to.clone()));
            self.discount(held.bytes, held.foreign);
        }
        taken.into_iter().map(|(_, held)| held).collect()
    }

    /// Takes a message whose lifetime is over, if there is one.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<Held<T>> {
        if self.expiries.first()?.0 >= now {
            return None;
        }
        let (_, number, to) = self.expiries.pop_first()?;
        let list = self.messages.get_mut(&to)?;
        let at = list.binary_search_by_key(&number, |(number, _)| *number);
        let (_, held) = list.remove(at.ok()?)?;
        if list.is_empty() {
            self.messages.remove(&to);
        }
        self.discount(held.bytes, held.foreign);
        Some(held)
    }

    /// When the next lifetime is over.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let (expires, ..) = self.expiries.first()?;
        Some(*expires + Duration::from_nanos(1))
    }

    fn discount(&mut self, bytes: usize, foreign: bool) {
        self.all.remove(bytes);
        if foreign {
            self.foreign.remove(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(to: &str, seconds: u64, start: Instant) -> Held<u64> {
        Held {
            to: format!("node-{to}").try_into().unwrap(),
            expires: start + Duration::from_secs(seconds),
            bytes: 10,
            foreign: false,
            item: seconds,
        }
    }

    fn foreign(to: &str, start: Instant) -> Held<u64> {
        Held {
            foreign: true,
            ..held(to, 9, start)
        }
    }

    fn empty(holding: &Holding<u64>) -> bool {
        let Holding { all, foreign, .. } = holding;
        *all == Load::default()
            && *foreign == Load::default()
            && holding.messages.is_empty()
            && holding.expiries.is_empty()
    }

    #[test]
    fn what_is_held_for_a_peer_comes_in_order_and_leaves_nothing() {
        let start = Instant::now();
        let mut holding = Holding::new(100, 1000);
        for (to, seconds) in [("B", 3), ("C", 5), ("B", 1), ("B", 2)] {
            holding.hold(held(to, seconds, start)).unwrap();
        }
        let (b, c) = (held("B", 0, start).to, held("C", 0, start).to);
        assert_eq!(holding.targets().collect::<Vec<_>>(), [&b, &c]);
        assert_eq!((holding.len(), holding.has(&b)), (4, true));
        let taken = holding.take(&b);
        let items: Vec<u64> = taken.iter().map(|held| held.item).collect();
        assert_eq!(items, [3, 1, 2]);
        assert!(!holding.has(&b) && holding.take(&b).is_empty());
        assert_eq!(holding.take(&c).len(), 1);
        assert!(empty(&holding));
    }

    #[test]
    fn what_expires_comes_out_once() {
        let start = Instant::now();
        let mut holding = Holding::new(100, 1000);
        for (to, seconds) in [("B", 3), ("C", 1), ("B", 1), ("B", 2)] {
            holding.hold(held(to, seconds, start)).unwrap();
        }
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(holding.pop_expired(at(1)), None, "it is still alive");
        let due = holding.next_expiry().unwrap();
        assert_eq!(holding.pop_expired(due), Some(held("C", 1, start)));
        assert_eq!(holding.pop_expired(due), Some(held("B", 1, start)));
        assert_eq!(holding.pop_expired(due), None);
        assert_eq!(holding.pop_expired(at(9)), Some(held("B", 2, start)));
        assert_eq!(holding.pop_expired(at(9)), Some(held("B", 3, start)));
        assert_eq!(holding.next_expiry(), None);
        assert!(empty(&holding));
    }

    #[test]
    fn a_newcomer_is_refused_when_there_is_no_room() {
        let start = Instant::now();
        for mut holding in [Holding::new(4, 1000), Holding::new(100, 49)] {
            for _ in 0..4 {
                holding.hold(held("B", 9, start)).unwrap();
            }
            let newcomer = held("C", 1, start);
            assert_eq!(holding.hold(newcomer.clone()), Err(newcomer.clone()));
            assert_eq!(holding.take(&held("B", 0, start).to).len(), 4);
            holding.hold(newcomer).unwrap();
        }
    }

    #[test]
    fn other_nodes_take_half_of_the_room_at_most() {
        let start = Instant::now();
        for mut holding in [Holding::new(4, 1000), Holding::new(100, 49)] {
            for to in ["B", "C"] {
                holding.hold(foreign(to, start)).unwrap();
            }
            assert!(holding.hold(foreign("B", start)).is_err());
            holding.hold(held("B", 9, start)).unwrap();
            holding.take(&foreign("C", start).to);
            holding.hold(foreign("D", start)).unwrap();
            while holding
                .pop_expired(start + Duration::from_secs(99))
                .is_some()
            {}
            assert!(empty(&holding));
        }
    }

    #[test]
    fn what_takes_more_memory_than_there_is_room_for_is_refused() {
        let mut holding = Holding::new(4, 1000);
        let mut large = held("B", 1, Instant::now());
        large.bytes = usize::MAX;
        assert!(holding.hold(large.clone()).is_err());
        large.bytes = 1000;
        holding.hold(large).unwrap();
    }
}
