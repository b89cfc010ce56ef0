//! What happens with links and dials, and what that means for peers.

use super::links::Link;
use super::state::State;
use super::{LinkId, fates::Fate};
use crate::concerns::error::Reason;
use crate::concerns::event::Event;
use crate::concerns::hello::Hello;
use crate::concerns::identity::Identity;
use crate::concerns::peer::PeerState;
use crate::concerns::record::Record;
use crate::concerns::timing::after;

/// The most addresses that wait to be joined.
const JOINS: usize = 256;

impl State {
    pub(super) fn link_up(&mut self, id: LinkId, hello: Hello, dial: Option<u64>) {
        let dialed = dial.and_then(|dial| self.dials.remove(dial));
        let peer = hello.identity;
        let known = self.incarnation(&peer);
        let problem = if self.stopped {
            Some("this node stops")
        } else if peer == self.settings.identity {
            Some("it has the identity of this node")
        } else if hello.incarnation < known {
            Some("it is of a former life of that peer")
        } else if dialed.as_ref().is_some_and(|dialed| dialed.unwanted) {
            Some("the peer was forgotten meanwhile")
        } else {
            None
        };
        if let Some(dialed) = &dialed {
            self.joins.remove(&dialed.address);
        }
        let ours = dial.is_some();
        let link = Link::new(peer.clone(), ours, hello.incarnation);
        if let Some(problem) = problem {
            self.links.insert(&self.settings.identity, id, link);
            self.close(id, true);
            self.event(Event::LinkRefused {
                with: peer.to_string(),
                reason: problem.to_owned(),
            });
            return;
        }
        if hello.incarnation > known {
            // What the former life was asked it does not answer any more.
            for old in self.links.with(&peer, |_| true) {
                self.close(old, true);
            }
            if known > 0 {
                self.end_requests(&peer);
                self.lost(&peer);
            }
        }
        for old in self.links.with(&peer, |old| old.ours == ours) {
            self.close(old, false);
        }
        self.links.insert(&self.settings.identity, id, link);
        if let Some(dialed) = dialed
            && dialed.expect.is_none()
        {
            // Whoever listens there was to be joined, so it is known from now on.
            if let Err(error) = self.know(&peer, Some(&dialed.address)) {
                log::warn!("{peer} at {} is not known: {error}", dialed.address);
            }
        }
        if let Some(record) = self.peers.get_mut(&peer) {
            if record.incarnation != hello.incarnation {
                record.incarnation = hello.incarnation;
                self.peers.changed = true;
            }
            if let Some(address) = &hello.address {
                self.locate(&peer, address);
            }
        }
        self.touch();
        self.release();
    }

    /// The number of the peer's present life, as far as known.
    fn incarnation(&self, peer: &Identity) -> u64 {
        let record = self.peers.get(peer).map_or(0, |record| record.incarnation);
        let link = self.links.to(peer).and_then(|link| self.links.get(link));
        record.max(link.map_or(0, |link| link.incarnation))
    }

    pub(super) fn link_down(&mut self, id: LinkId, reason: &str) {
        let Some(mut link) = self.links.remove(id) else {
            return;
        };
        log::debug!("the link with {} has ended: {reason}", link.peer);
        while let Some(parcel) = link.take() {
            self.fates
                .push_back((parcel, Fate::Failed(Reason::LinkLost)));
        }
        let peer = link.peer;
        if !self.links.is_linked(&peer) && !self.stopped {
            self.lost(&peer);
            self.reroute(&peer);
        }
        self.touch();
    }

    /// There is no link with that peer any more.
    fn lost(&mut self, peer: &Identity) {
        let (now, timing) = (self.now, self.settings.timing.clone());
        let routed = |record: &Record| matches!(record.state, PeerState::Routed { .. });
        // One that is reached over others needs no link of its own.
        if !self.peers.get(peer).is_some_and(routed) {
            self.update(peer, |record| record.lost(now, &timing));
        }
        let over = self
            .peers
            .iter()
            .filter(|record| matches!(&record.state, PeerState::Routed { via } if via == peer));
        let over: Vec<Identity> = over.map(|record| record.identity.clone()).collect();
        for peer in over {
            self.update(&peer, |record| record.lost(now, &timing));
        }
    }

    pub(super) fn dial_failed(&mut self, dial: u64, reason: &str) {
        let Some(dial) = self.dials.remove(dial) else {
            return;
        };
        log::debug!("nothing came of connecting to {}: {reason}", dial.address);
        let (now, timing) = (self.now, self.settings.timing.clone());
        match dial.expect {
            Some(peer) => {
                let linked = self.links.is_linked(&peer);
                self.update(&peer, |record| {
                    if !linked {
                        record.attempt_failed(now, &timing);
                    }
                });
                self.reroute(&peer);
            }
            None => {
                if let Some(join) = self.joins.get_mut(&dial.address) {
                    join.dial = None;
                    join.next = Some(after(now, timing.reconnect));
                }
            }
        }
        self.touch();
    }

    pub(super) fn join(&mut self, address: String) {
        if self.joins.len() < JOINS || self.joins.contains_key(&address) {
            self.joins.entry(address).or_default();
            self.touch();
        } else {
            log::warn!("{address} is not joined: too many others wait");
        }
    }

    pub(super) fn malformed(&mut self, id: LinkId, problem: String) {
        if let Some(link) = self.links.get(id) {
            let from = link.peer.clone();
            self.event(Event::Malformed { from, problem });
        }
    }

    /// A neighbour has said that it leaves.
    pub(super) fn bye(&mut self, peer: &Identity) {
        let now = self.now;
        for link in self.links.with(peer, |_| true) {
            self.close(link, true);
        }
        self.update(peer, |record| record.left(now));
        self.lost(peer);
        self.reroute(peer);
        self.touch();
    }
}
