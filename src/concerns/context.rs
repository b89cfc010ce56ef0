//! What a hook can do: send, be woken, know and forget peers, add and take out concerns.
//!
//! The built-in concerns do it with the same context, and see and change the table of peers
//! through it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use super::address;
use super::concern::Concern;
use super::core::{Doubt, Find, Join, State};
use super::error::{Error, SendError};
use super::identity::{Command, Identity};
use super::message::{Message, Outgoing};
use super::payload::Payload;
use super::peer::{Peer, PeerState};
use super::record::Record;
use super::timing::Timing;

/// The node, as a hook of a concern sees it. Nothing here waits.
pub struct Context<'a> {
    now: Instant,
    state: &'a mut State,
}

impl Context<'_> {
    /// The time of this hook.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.state.settings().identity
    }

    /// Queues a message, and gives its number. What becomes of it is told to the concern that owns its command.
    ///
    /// # Errors
    ///
    /// [`SendError`] with [`Reason::NoConcern`](super::Reason), `Full`, `TooLong` or `Stopped`; the message is in it.
    pub fn send(&mut self, message: Outgoing) -> Result<u64, SendError> {
        self.state.send(message, false)
    }

    /// Has this concern's [`tick`](Concern::tick) called at `when`, or as soon as possible if that
    /// is over. The earliest of several counts; once it was called, nothing is left of the others.
    pub fn wake_at(&mut self, when: Instant) {
        let wake = self.state.wake();
        *wake = Some(wake.map_or(when, |then| then.min(when)));
    }

    /// The peers that are known.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.records()
            .map(|record| record.snapshot(self.now))
            .collect()
    }

    /// As [`Handle::know`](super::Handle::know).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn know(&mut self, peer: &Identity, address: Option<&str>) -> Result<(), Error> {
        address.map_or(Ok(()), address::check)?;
        self.state.know(peer, address)
    }

    /// As [`Handle::forget`](super::Handle::forget).
    pub fn forget(&mut self, peer: &Identity) -> bool {
        self.state.forget(peer)
    }

    /// Adds a concern; it starts when this hook has returned.
    ///
    /// # Errors
    ///
    /// [`Error::CommandTaken`].
    pub fn add(&mut self, concern: Box<dyn Concern>) -> Result<(), Error> {
        self.state.add(concern)
    }

    /// Takes a concern out; it is stopped and dropped when this hook has returned. False if there is none.
    pub fn remove(&mut self, command: &Command) -> bool {
        self.state.remove(command)
    }
}

/// What only the built-in concerns can do.
impl<'a> Context<'a> {
    pub(super) fn new(now: Instant, state: &'a mut State) -> Self {
        Self { now, state }
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.state.settings().timing
    }

    /// The timing, with the limits of silence as they are now.
    pub(super) fn patience(&self) -> Timing {
        self.state.patience()
    }

    /// What this node thinks of its own ears.
    pub(super) fn doubt(&mut self) -> &mut Doubt {
        self.state.doubt()
    }

    /// Whether a command has a concern.
    pub(super) fn has_concern(&self, command: &str) -> bool {
        self.state.has_concern(command)
    }

    /// What this node tells others of where it listens.
    pub(super) fn address(&self) -> Option<&str> {
        self.state.settings().address.as_deref()
    }

    pub(super) fn record(&self, peer: &Identity) -> Option<&Record> {
        self.state.peers().get(peer)
    }

    /// All records, in the order of their identities.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.state.peers().iter()
    }

    /// Changes a record. A change of its state becomes an event, ends what waits for it or lets go what is held
    /// for it, and wakes those who [watch](Self::watch). `None` if there is no such record.
    pub(super) fn update<R>(
        &mut self,
        peer: &Identity,
        change: impl FnOnce(&mut Record, Instant, &Timing) -> R,
    ) -> Option<R> {
        let (now, timing) = (self.now, self.timing().clone());
        self.state
            .update(peer, |record| change(record, now, &timing))
    }

    /// A sign that `peer` lives has come from the neighbour `hop`, so there may be a way over that. A live way that
    /// is there already is kept. `found` if it is known that there is one over `hop`.
    pub(super) fn reached(&mut self, peer: &Identity, hop: &Identity, found: bool) {
        let keep = hop != peer
            && match self.record(peer).map(|record| &record.state) {
                Some(PeerState::Connected) => self.is_linked(peer),
                Some(PeerState::Routed { via }) => via != hop && !found && self.is_linked(via),
                _ => false,
            };
        if !keep {
            self.update(peer, |record, now, timing| record.reached(now, timing, hop));
        }
    }

    /// An answer of `peer` has come from the neighbour `hop`. What it shows is that the way out is good that the question
    /// took; answers may come by another one, which need not lead there.
    pub(super) fn answered(&mut self, peer: &Identity, hop: &Identity) {
        let way_out = self.record(peer).and_then(|record| match &record.state {
            PeerState::Routed { via } => Some(via.clone()),
            PeerState::Unreachable => record.last_via.clone(),
            _ => None,
        });
        let way_out = way_out.filter(|via| hop != peer && self.is_linked(via));
        self.reached(peer, way_out.as_ref().unwrap_or(hop), true);
    }

    /// Makes a record of a peer that came by itself, unless there is one. False if there is no room.
    pub(super) fn meet(&mut self, peer: &Identity) -> bool {
        self.state.admit(peer, true)
    }

    /// Notes where a peer listens.
    pub(super) fn locate(&mut self, peer: &Identity, address: &str) {
        self.state.locate(peer, address);
    }

    pub(super) fn is_linked(&self, peer: &Identity) -> bool {
        self.state.links().is_linked(peer)
    }

    pub(super) fn is_dialing(&self, peer: &Identity) -> bool {
        self.state.is_dialing(peer)
    }

    /// Begins to connect, unless that has begun. False if that cannot be now. Messages for the peer wait for it.
    pub(super) fn dial(&mut self, peer: &Identity) -> bool {
        self.state.dial(peer)
    }

    /// Begins to connect with whoever listens there.
    pub(super) fn connect(&mut self, address: String) -> u64 {
        self.state.connect(address, None)
    }

    /// The addresses to be joined.
    pub(super) fn joins(&mut self) -> &mut BTreeMap<String, Join> {
        self.state.joins()
    }

    /// As [`send`](Self::send), past the bounds of the queue: for the few messages that keep the network going.
    pub(super) fn post(&mut self, message: Outgoing) -> Result<u64, SendError> {
        self.state.send(message, true)
    }

    /// Sends a reply on to a neighbour that it is meant for next.
    pub(super) fn pass_back(&mut self, to: &Identity, reply: &Message, payload: Payload) {
        self.state.pass_back(to, reply, payload);
    }

    /// Looks at the limits of a peer's silence. One that has no connection any more loses its links with it.
    pub(super) fn judge(&mut self, peer: &Identity) {
        let patience = self.patience();
        self.update(peer, |record, now, _| record.judge(now, &patience));
        self.drop_dead_links(peer);
    }

    /// An attempt to reach a peer has failed: it gets new links with the next.
    pub(super) fn attempt_failed(&mut self, peer: &Identity) {
        self.update(peer, |record, now, timing| {
            record.attempt_failed(now, timing)
        });
        self.drop_dead_links(peer);
    }

    /// A link that nothing comes from may be one that has ended without a word.
    fn drop_dead_links(&mut self, peer: &Identity) {
        if self
            .record(peer)
            .is_some_and(|record| record.state == PeerState::NoConnection)
        {
            self.state.disconnect(peer);
        }
    }

    /// A link with a peer that is reached over a hop carries nothing: it gets a new one.
    pub(super) fn relink(&mut self, peer: &Identity) {
        log::debug!("the link with {peer} carries nothing");
        self.update(peer, |record, now, _| record.link_ends(now));
        self.state.disconnect(peer);
        self.state.touch();
    }

    /// From now on changes of peers, links and what is wanted wake this concern.
    pub(super) fn watch(&mut self) {
        self.state.watch();
    }

    /// From now on messages without a way are held while this concern looks for one.
    pub(super) fn seek(&mut self, seeks: bool) {
        self.state.seek(seeks);
    }

    /// Whom to look for as long as messages for them are held.
    pub(super) fn wanted(&self) -> Vec<Find> {
        self.state.wanted()
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}
