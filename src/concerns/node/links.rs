//! The links of the node's thread: what is to be written to each, what was, and how much of each waits.
//!
//! Envelopes for a link are gathered and handed over together, by a send that never waits: it writes as far as the
//! socket takes it if nothing is in front, and leaves the rest to the link's writer. The core gives no link more
//! than a window of envelopes, so what waits is bounded.

use std::collections::HashMap;
use std::mem;
use std::time::Instant;

use super::peering::{Batch, Done, Out, Peering, Session};
use crate::concerns::core::LinkId;
use crate::concerns::envelope::Envelope;
use crate::concerns::identity::Identity;
use crate::protocol::Link;

/// A batch is handed over when its envelopes have so many bytes.
const BATCH: usize = 64 << 10;

/// The links there are.
#[derive(Default)]
pub(super) struct Links {
    all: HashMap<LinkId, Entry>,
    /// Those that something is gathered for, or that may have written.
    touched: Vec<LinkId>,
    /// Those whose frames were taken.
    read: Vec<LinkId>,
}

struct Entry {
    session: Session,
    link: Link<Peering>,
    peer: Identity,
    gathered: Vec<Envelope>,
    bytes: usize,
    touched: bool,
    /// Handed over, and not known to be written.
    unwritten: usize,
    /// Frames taken from its reader and not given back yet, and their bytes.
    taken: (usize, usize),
}

impl Entry {
    fn hand_over(&mut self, now: Instant) {
        if self.gathered.is_empty() {
            return;
        }
        let batch = Batch {
            given: now,
            envelopes: mem::take(&mut self.gathered),
            counted: true,
        };
        self.bytes = 0;
        self.unwritten += batch.envelopes.len();
        // One that has ended says so by itself, and what was not written is known then.
        let _ = self.link.send(Out::Batch(batch), Some(now));
    }
}

impl Links {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// A link that runs; false if it has ended already.
    pub(super) fn insert(&mut self, session: Session, peer: Identity) -> bool {
        let id = session.account.id;
        let Some(link) = session.link() else {
            return false;
        };
        let entry = Entry {
            session,
            link,
            peer,
            gathered: Vec::new(),
            bytes: 0,
            touched: false,
            unwritten: 0,
            taken: (0, 0),
        };
        self.all.insert(id, entry);
        true
    }

    /// One that has ended. It is to be dropped, which joins its last thread.
    pub(super) fn remove(&mut self, id: LinkId) -> Option<(Identity, Session)> {
        let Entry { peer, session, .. } = self.all.remove(&id)?;
        Some((peer, session))
    }

    pub(super) fn link(&self, id: LinkId) -> Option<(&Identity, &Link<Peering>)> {
        let entry = self.all.get(&id)?;
        Some((&entry.peer, &entry.link))
    }

    /// A frame of this link has been taken.
    pub(super) fn took(&mut self, id: LinkId, bytes: usize) {
        if let Some(entry) = self.all.get_mut(&id) {
            if entry.taken.0 == 0 {
                self.read.push(id);
            }
            entry.taken = (entry.taken.0 + 1, entry.taken.1 + bytes);
        }
    }

    /// Lets readers bring as much as was taken.
    pub(super) fn give_back(&mut self) {
        for id in self.read.drain(..) {
            if let Some(entry) = self.all.get_mut(&id) {
                let (frames, bytes) = mem::take(&mut entry.taken);
                entry.session.account.gate.give_back(frames, bytes);
            }
        }
    }

    /// To be written to this link. True if it is the first of a batch.
    pub(super) fn write(&mut self, id: LinkId, envelope: Envelope, now: Instant) -> bool {
        let Some(entry) = self.all.get_mut(&id) else {
            return false;
        };
        let first = entry.gathered.is_empty();
        entry.bytes += envelope.length();
        entry.gathered.push(envelope);
        if entry.bytes >= BATCH {
            entry.hand_over(now);
        }
        self.touch(id);
        first
    }

    /// This link may have written.
    pub(super) fn touch(&mut self, id: LinkId) {
        if let Some(entry) = self.all.get_mut(&id)
            && !mem::replace(&mut entry.touched, true)
        {
            self.touched.push(id);
        }
    }

    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Hands over what was gathered, and gives what is known to be written.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<(LinkId, Done)> {
        let mut written = Vec::new();
        for id in self.touched.drain(..) {
            let Some(entry) = self.all.get_mut(&id) else {
                continue;
            };
            entry.touched = false;
            entry.hand_over(now);
            let done = entry.session.account.take_done();
            entry.unwritten = entry.unwritten.saturating_sub(done.count);
            if done.count > 0 {
                written.push((id, done));
            }
        }
        written
    }

    /// Closes a link, when all is written that was given before. Nothing more of it is wanted.
    pub(super) fn close(&mut self, id: LinkId, now: Instant) {
        if let Some(entry) = self.all.get_mut(&id) {
            entry.hand_over(now);
            entry.session.account.gate.end();
            entry.link.request_disconnect();
        }
    }

    pub(super) fn close_all(&mut self, now: Instant) {
        let all: Vec<LinkId> = self.all.keys().copied().collect();
        all.into_iter().for_each(|id| self.close(id, now));
    }

    /// Whether everything that was handed over is known to be written.
    pub(super) fn is_written(&self) -> bool {
        self.all.values().all(|entry| entry.unwritten == 0)
    }
}

impl Drop for Links {
    /// All are told before the first is joined.
    fn drop(&mut self) {
        for entry in self.all.values() {
            entry.session.account.gate.end();
            entry.link.request_disconnect();
        }
    }
}
