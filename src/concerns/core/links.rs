//! The links there are, which of two to use, and what was given to each and is not written yet.

use std::collections::{BTreeMap, VecDeque};

use super::LinkId;
use super::load::Load;
use super::parcel::Parcel;
use super::queue::Room;
use crate::concerns::identity::Identity;

/// What a link takes before it says that it has written some: so many envelopes, and so many bytes unless it is
/// one alone.
pub(crate) const WINDOW: Load = Load::new(256, 4 << 20);

/// A connection to a neighbour.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Identity,
    /// This side dialed.
    pub(crate) ours: bool,
    pub(crate) incarnation: u64,
    /// It is to end; nothing more is given to it.
    pub(crate) closing: bool,
    /// Nothing that still comes from it counts.
    pub(crate) mute: bool,
    /// What was given to it and is not [`Written`](super::Input::Written), in order.
    unwritten: VecDeque<Parcel>,
    load: Load,
}

impl Link {
    pub(crate) fn new(peer: Identity, ours: bool, incarnation: u64) -> Self {
        Self {
            peer,
            ours,
            incarnation,
            closing: false,
            mute: false,
            unwritten: VecDeque::new(),
            load: Load::default(),
        }
    }

    /// Something is given to it.
    pub(crate) fn give(&mut self, parcel: Parcel) {
        self.load.add(parcel.bytes());
        self.unwritten.push_back(parcel);
    }

    /// It is done with the oldest of what it was given.
    pub(crate) fn take(&mut self) -> Option<Parcel> {
        let parcel = self.unwritten.pop_front()?;
        self.load.remove(parcel.bytes());
        Some(parcel)
    }

    fn room(&self) -> Room {
        Room {
            count: WINDOW.count.saturating_sub(self.load.count),
            bytes: WINDOW.bytes.saturating_sub(self.load.bytes),
            whole: self.load.count == 0,
        }
    }
}

/// The links there are.
#[derive(Debug, Default)]
pub(crate) struct Links {
    all: BTreeMap<LinkId, Link>,
    /// Those that can be given something; the first is the one to use.
    open: BTreeMap<Identity, Vec<LinkId>>,
}

impl Links {
    pub(crate) fn get(&self, id: LinkId) -> Option<&Link> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.all.get_mut(&id)
    }

    /// The link to use for what is handed to `peer`.
    pub(crate) fn to(&self, peer: &Identity) -> Option<LinkId> {
        self.open.get(peer)?.first().copied()
    }

    /// What can be given to `peer` now.
    pub(crate) fn room(&self, peer: &Identity) -> Room {
        let link = self.to(peer).and_then(|link| self.all.get(&link));
        link.map_or(Room::NONE, Link::room)
    }

    pub(crate) fn is_linked(&self, peer: &Identity) -> bool {
        self.open.contains_key(peer)
    }

    /// All that can be given something.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&Identity, LinkId)> {
        let open = self.open.iter();
        open.flat_map(|(peer, links)| links.iter().map(move |link| (peer, *link)))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The most that is given to one link and not written.
    #[cfg(test)]
    pub(crate) fn unwritten(&self) -> usize {
        let all = self.all.values();
        all.map(|link| link.load.count).max().unwrap_or(0)
    }

    /// A link has come up. Of two, that is used which the lower identity dialed; both sides think so.
    pub(crate) fn insert(&mut self, me: &Identity, id: LinkId, link: Link) {
        let first = link.ours == (*me < link.peer);
        let open = self.open.entry(link.peer.clone()).or_default();
        open.insert(if first { 0 } else { open.len() }, id);
        self.all.insert(id, link);
    }

    /// Those with `peer` that `which` is true of.
    pub(crate) fn with(&self, peer: &Identity, which: impl Fn(&Link) -> bool) -> Vec<LinkId> {
        let open = self.open.get(peer).into_iter().flatten();
        open.filter(|id| self.all.get(id).is_some_and(&which))
            .copied()
            .collect()
    }

    /// Gives nothing more to it. True if it was open.
    pub(crate) fn close(&mut self, id: LinkId) -> bool {
        let Some(link) = self.all.get_mut(&id).filter(|link| !link.closing) else {
            return false;
        };
        link.closing = true;
        let peer = link.peer.clone();
        self.unlist(&peer, id);
        true
    }

    /// It has ended.
    pub(crate) fn remove(&mut self, id: LinkId) -> Option<Link> {
        let link = self.all.remove(&id)?;
        self.unlist(&link.peer, id);
        Some(link)
    }

    fn unlist(&mut self, peer: &Identity, id: LinkId) {
        if let Some(open) = self.open.get_mut(peer) {
            open.retain(|other| *other != id);
            if open.is_empty() {
                self.open.remove(peer);
            }
        }
    }
}
