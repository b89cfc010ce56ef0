//! All of a core but its concerns: what a [`Context`](super::super::Context) can touch while a
//! concern runs.
//!
//! What has to call a concern is put on a list here ([`State::fates`], [`State::added`],
//! [`State::removed`]) that the core works off when the hook has returned.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use super::dials::Dials;
use super::doubt::Doubt;
use super::fates::Fate;
use super::holding::Holding;
use super::inbox::Inbox;
use super::links::Links;
use super::load::Load;
use super::parcel::{Maker, Parcel};
use super::peers::Peers;
use super::pending::Pending;
use super::queue::{Out, OutQueue};
use super::retries::Retries;
use super::{Output, Settings};
use crate::concerns::concern::Concern;
use crate::concerns::error::{Error, Reason, SendError};
use crate::concerns::event::Event;
use crate::concerns::identity::{Command, Identity};
use crate::concerns::message::Outgoing;
use crate::concerns::peer::PeerState;
use crate::concerns::record::Record;
use crate::concerns::timing::Timing;

/// How many bytes the messages take at most that wait for a way.
const HELD_BYTES: usize = 64 << 20;

/// An address to be joined.
#[derive(Debug, Default)]
pub(crate) struct Join {
    pub(crate) dial: Option<u64>,
    /// When it is tried next; `None`: at once.
    pub(crate) next: Option<Instant>,
}

/// A peer to look for.
#[derive(Debug, Clone)]
pub(crate) struct Find {
    pub(crate) target: Identity,
    /// Who is not asked.
    pub(crate) exclude: Vec<Identity>,
}

/// How often something was dropped without another trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Replies that nobody waits for any more, or not from there.
    pub(crate) late_replies: u64,
    /// Messages that claim to be from this node, or of a kind that no neighbour sends.
    pub(crate) nonsense: u64,
    /// Messages that came while too many others waited to be handled.
    pub(crate) overrun: u64,
}

/// What a core has but for the concerns.
pub(crate) struct State {
    pub(super) settings: Settings,
    /// The time of the last step.
    pub(super) now: Instant,
    pub(super) peers: Peers,
    pub(super) doubt: Doubt,
    pub(super) links: Links,
    pub(super) dials: Dials,
    pub(super) joins: BTreeMap<String, Join>,
    /// Messages that wait for room in a link, or for the link.
    pub(super) queue: OutQueue<Parcel>,
    /// What the last round took out of it; empty, but for the time of a round.
    pub(super) taken: Vec<Out<Parcel>>,
    pub(super) inbox: Inbox,
    /// Messages for peers that nobody knows a way to yet.
    pub(super) held: Holding<Parcel>,
    /// Whom to look for, for the sake of what is held, and who is not asked.
    pub(super) wanted: BTreeMap<Identity, Find>,
    /// Somebody can look for peers.
    pub(super) seeker: bool,
    /// Messages that are tried again.
    pub(super) retries: Retries,
    /// The program's requests that wait for their replies.
    pub(super) pending: Pending,
    pub(super) outputs: Vec<Output>,
    pub(super) fates: VecDeque<(Parcel, Fate)>,
    /// The places of the concerns by their commands.
    pub(super) commands: HashMap<Command, usize>,
    pub(super) added: Vec<(Command, Box<dyn Concern>)>,
    pub(super) removed: Vec<Command>,
    /// When the concern that runs now wants to be woken.
    pub(super) wake: Option<Instant>,
    /// The concern that runs now wants to be woken by changes of peers and links.
    pub(super) watch: bool,
    /// Peers or links have changed since those who watch them were woken.
    pub(super) touched: bool,
    pub(super) next_id: u64,
    pub(super) next_dial: u64,
    /// The concerns are being stopped; they may still send.
    pub(super) stopping: bool,
    pub(super) stopped: bool,
    pub(super) counts: Counts,
}

impl State {
    pub(super) fn new(now: Instant, settings: Settings) -> Self {
        let all = Load::new(settings.max_queued_all, settings.max_queued_bytes);
        let neighbour = Load::new(settings.max_queued, settings.max_queued_bytes / 4);
        Self {
            queue: OutQueue::new(neighbour, all),
            held: Holding::new(settings.max_held, HELD_BYTES),
            settings,
            now,
            peers: Peers::default(),
            doubt: Doubt::default(),
            links: Links::default(),
            dials: Dials::default(),
            joins: BTreeMap::new(),
            taken: Vec::new(),
            inbox: Inbox::default(),
            wanted: BTreeMap::new(),
            seeker: false,
            retries: Retries::new(all),
            pending: Pending::default(),
            outputs: Vec::new(),
            fates: VecDeque::new(),
            commands: HashMap::new(),
            added: Vec::new(),
            removed: Vec::new(),
            wake: None,
            watch: false,
            touched: false,
            next_id: 0,
            next_dial: 0,
            stopping: false,
            stopped: false,
            counts: Counts::default(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn doubt(&mut self) -> &mut Doubt {
        &mut self.doubt
    }

    /// The timing, with the limits of silence as they are now.
    pub(crate) fn patience(&self) -> Timing {
        self.doubt.patience(&self.settings.timing)
    }

    pub(crate) fn has_concern(&self, command: &str) -> bool {
        self.commands.contains_key(command)
    }

    /// A round comes; if the node was held up before, that is no silence of its peers.
    pub(super) fn notice_stall(&mut self) {
        let now = self.now;
        if let Some(late) = self.doubt.held_up(now, &self.settings.timing) {
            log::debug!("this node was held up for {late:?}");
            for record in self.peers.iter_mut() {
                record.excuse(late, now);
            }
        }
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn joins(&mut self) -> &mut BTreeMap<String, Join> {
        &mut self.joins
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    /// Peers, links or what is wanted have changed: those who watch them are woken.
    pub(crate) fn touch(&mut self) {
        self.touched = true;
    }

    /// Changes a record, and does what follows from a change of its state. `None` if there is none.
    pub(crate) fn update<R>(
        &mut self,
        peer: &Identity,
        change: impl FnOnce(&mut Record) -> R,
    ) -> Option<R> {
        let record = self.peers.get_mut(peer)?;
        let old = record.state.clone();
        let result = change(record);
        if record.state != old {
            let new = record.state.clone();
            self.changed(peer, Some(old), new);
        }
        Some(result)
    }

    /// Tells of a new state, and does what follows from it.
    fn changed(&mut self, peer: &Identity, old: Option<PeerState>, new: PeerState) {
        if matches!(new, PeerState::NoConnection | PeerState::Left) {
            self.end_requests(peer);
        }
        if new.is_reached() {
            self.wanted.remove(peer);
        }
        self.peers.changed = true;
        self.event(Event::PeerChanged {
            peer: peer.clone(),
            old,
            new,
        });
        self.touch();
        self.release();
    }

    /// Makes a record of a peer, unless there is one. False if there is no room.
    pub(crate) fn admit(&mut self, peer: &Identity, stranger: bool) -> bool {
        if self.peers.get(peer).is_some() {
            return true;
        }
        if *peer == self.settings.identity {
            return false;
        }
        let settings = &self.settings;
        let full = self.peers.len() >= settings.max_peers
            || (stranger && self.peers.strangers() >= settings.max_strangers);
        if full {
            let Some(oldest) = self.peers.longest_silent_stranger() else {
                return false;
            };
            self.forget(&oldest);
            if self.peers.len() >= self.settings.max_peers {
                return false;
            }
        }
        let mut record = Record::new(peer.clone());
        record.stranger = stranger;
        if let Some(link) = self.links.to(peer).and_then(|link| self.links.get(link)) {
            record.incarnation = link.incarnation;
        }
        self.peers.insert(record);
        self.changed(peer, None, PeerState::Initial);
        true
    }

    /// As [`Context::know`](super::super::Context::know).
    pub(crate) fn know(&mut self, peer: &Identity, address: Option<&str>) -> Result<(), Error> {
        if *peer == self.settings.identity {
            return Ok(());
        }
        if !self.admit(peer, false) {
            return Err(Error::TooManyPeers);
        }
        self.peers.invite(peer);
        if let Some(address) = address {
            self.update(peer, |record| {
                if record.state == PeerState::Left {
                    record.state = PeerState::Initial;
                }
            });
            self.locate(peer, address);
        }
        Ok(())
    }

    /// Notes where a peer listens.
    pub(crate) fn locate(&mut self, peer: &Identity, address: &str) {
        if let Some(record) = self.peers.get_mut(peer)
            && record.address.as_deref() != Some(address)
        {
            record.address = Some(address.to_owned());
            self.peers.changed = true;
            self.touch();
        }
    }

    /// As [`Context::forget`](super::super::Context::forget).
    pub(crate) fn forget(&mut self, peer: &Identity) -> bool {
        if self.peers.remove(peer).is_none() {
            return false;
        }
        self.end_requests(peer);
        self.dials.forget(peer);
        for link in self.links.with(peer, |_| true) {
            self.close(link, true);
        }
        self.event(Event::PeerForgotten { peer: peer.clone() });
        self.reroute(peer);
        self.touch();
        true
    }

    /// Has a link closed, when all was written that was given to it.
    pub(super) fn close(&mut self, link: super::LinkId, mute: bool) {
        if self.links.close(link) {
            self.outputs.push(Output::Close { link });
        }
        if let Some(link) = self.links.get_mut(link) {
            link.mute |= mute;
        }
    }

    /// Ends all links with a peer. What comes until then still counts.
    pub(crate) fn disconnect(&mut self, peer: &Identity) {
        for link in self.links.with(peer, |_| true) {
            self.close(link, false);
        }
    }

    /// Whether a connection with that peer is being made.
    pub(crate) fn is_dialing(&self, peer: &Identity) -> bool {
        self.dials.is_expected(peer)
    }

    /// Begins to connect, unless that has begun. False without an address, or while too many others are dialed.
    pub(crate) fn dial(&mut self, peer: &Identity) -> bool {
        let Some(address) = self
            .peers
            .get(peer)
            .and_then(|record| record.address.clone())
        else {
            return false;
        };
        if !self.is_dialing(peer) {
            // Those of peers that were forgotten meanwhile have not ended yet.
            if self.dials.len() >= 2 * self.settings.max_peers {
                return false;
            }
            self.connect(address, Some(peer.clone()));
        }
        true
    }

    /// Begins to connect with `expect`, or whoever listens there; gives the number of the dial.
    pub(crate) fn connect(&mut self, address: String, expect: Option<Identity>) -> u64 {
        self.next_dial += 1;
        let dial = self.next_dial;
        self.outputs.push(Output::Dial {
            dial,
            address: address.clone(),
            expect: expect.clone(),
        });
        self.dials.insert(dial, expect, address);
        dial
    }

    /// Queues a message of a concern's. One of the node's own is `vital`, and has room of its own.
    pub(crate) fn send(&mut self, message: Outgoing, vital: bool) -> Result<u64, SendError> {
        if let Some(reason) = self.refusal(&message) {
            return Err(SendError { message, reason });
        }
        self.next_id += 2;
        let id = self.next_id;
        let hops = self.settings.max_hops.saturating_sub(1);
        let parcel = Parcel::request(Maker::Concern, id, message, self.now, hops);
        match self.dispatch(parcel, vital).map_err(|refused| *refused) {
            Ok(()) => {}
            Err((parcel, Reason::NoPath)) => self.fail(parcel, Reason::NoPath),
            Err((parcel, reason)) => {
                let message = parcel.outgoing();
                return Err(SendError { message, reason });
            }
        }
        Ok(id)
    }

    fn refusal(&self, message: &Outgoing) -> Option<Reason> {
        if self.stopped {
            Some(Reason::Stopped)
        } else if !self.commands.contains_key(&message.command) {
            Some(Reason::NoConcern)
        } else {
            self.too_long(message.payload.as_str().len())
        }
    }

    pub(super) fn too_long(&self, bytes: usize) -> Option<Reason> {
        (bytes > self.settings.max_payload).then_some(Reason::TooLong { bytes })
    }
}
