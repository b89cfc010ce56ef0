//! What goes out: queued, given to links in rounds, held for want of a way.

use std::mem;
use std::time::Instant;

use super::fates::Fate;
use super::holding::Held;
use super::parcel::{Hop, Maker, Parcel};
use super::pending::Asked;
use super::queue::{Out, Queued};
use super::state::{Find, State};
use super::{ASKED, LinkId, Output};
use crate::concerns::envelope::EnvelopeKind;
use crate::concerns::error::Reason;
use crate::concerns::identity::{Command, Identity};
use crate::concerns::message::{Outgoing, Priority};
use crate::concerns::payload::Payload;
use crate::concerns::peer::PeerState;

impl State {
    pub(super) fn clock(&mut self, now: Instant) {
        self.now = now;
    }

    /// A message of the program's.
    pub(super) fn accept(&mut self, id: u64, message: Outgoing) {
        let now = self.now;
        let hops = self.settings.max_hops.saturating_sub(1);
        let reason = if self.stopped {
            Some(Reason::Stopped)
        } else {
            self.too_long(message.payload.as_str().len())
        };
        let parcel = Parcel::request(Maker::Program, id, message, now, hops);
        let reason = reason.or_else(|| {
            let waits = id & ASKED != 0 && self.pending.is_full();
            waits.then_some(Reason::Full)
        });
        if id & ASKED != 0 {
            let (to, command) = (parcel.to.clone(), parcel.command.clone());
            let (deadline, lifetime) = (parcel.deadline, parcel.lifetime);
            let asked = Asked {
                to,
                command,
                over: None,
                deadline,
                lifetime,
            };
            self.pending.insert(id, asked);
        }
        match reason {
            None => self.post(parcel),
            Some(reason) => self.fail(parcel, reason),
        }
    }

    /// A request that was written before this heard of it. Its concern is told of it as of one of its own.
    pub(super) fn went(&mut self, id: u64, message: Outgoing) {
        let hops = self.settings.max_hops.saturating_sub(1);
        let parcel = Parcel::request(Maker::Concern, id, message, self.now, hops);
        let next_hop = parcel.to.clone();
        let asked = Asked {
            to: parcel.to.clone(),
            command: parcel.command.clone(),
            over: Some(next_hop.clone()),
            deadline: parcel.deadline,
            lifetime: parcel.lifetime,
        };
        self.pending.insert(id, asked);
        self.fates.push_back((parcel, Fate::Sent { next_hop }));
    }

    /// Whether a round has something to do at once.
    pub(super) fn is_busy(&self) -> bool {
        !self.inbox.is_empty() || self.queue.is_ready(|hop| self.links.room(hop))
    }

    /// When the first thing that waits has to be looked at.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        [
            self.queue.next_expiry(),
            self.held.next_expiry(),
            self.retries.next(),
            self.pending.first().map(|(deadline, _)| deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Looks at what has waited for too long, or is to be tried again.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        while let Some(parcel) = self.retries.pop(now) {
            self.post(parcel);
        }
        while let Some(held) = self.held.pop_expired(now) {
            if !self.held.has(&held.to) {
                self.wanted.remove(&held.to);
            }
            self.drop(held.item);
        }
        self.time_out(now);
    }

    /// A round of the queue.
    pub(super) fn give_out(&mut self) {
        let now = self.now;
        let mut taken = mem::take(&mut self.taken);
        self.queue.take(now, |hop| self.links.room(hop), &mut taken);
        for out in taken.drain(..) {
            match out {
                Out::Send(queued) => self.give(&queued.hop, queued.item),
                Out::Expired(queued) => self.drop(queued.item),
            }
        }
        self.taken = taken;
    }

    /// Gives a message to the link with a neighbour.
    fn give(&mut self, neighbour: &Identity, parcel: Parcel) {
        let link = self.links.to(neighbour);
        let Some((link, there)) = link.and_then(|id| Some((id, self.links.get_mut(id)?))) else {
            return self.post(parcel);
        };
        let envelope = parcel.envelope(self.now, neighbour);
        if parcel.maker == Maker::Program && parcel.id & ASKED != 0 {
            self.pending.went(parcel.id, neighbour);
        }
        there.give(parcel);
        self.outputs.push(Output::Write { link, envelope });
    }

    /// Sends a message on its way; if that cannot be, it has failed.
    pub(super) fn post(&mut self, parcel: Parcel) {
        if let Err(refused) = self.dispatch(parcel, false) {
            let (parcel, reason) = *refused;
            self.fail(parcel, reason);
        }
    }

    /// Queues a message for the neighbour on its way, or holds it until there is one.
    pub(super) fn dispatch(
        &mut self,
        parcel: Parcel,
        vital: bool,
    ) -> Result<(), Box<(Parcel, Reason)>> {
        if parcel.is_over(self.now) {
            self.drop(parcel);
            return Ok(());
        }
        let Some(hop) = self.hop(&parcel) else {
            return self.hold(parcel);
        };
        let queued = Queued {
            hop,
            to: parcel.to.clone(),
            priority: parcel.priority,
            expires: parcel.deadline,
            bytes: parcel.bytes(),
            item: parcel,
        };
        let pushed = if vital {
            self.queue.push_vital(queued)
        } else {
            self.queue.push(queued)
        };
        pushed.map_err(|queued| Box::new((queued.item, Reason::Full)))
    }

    /// The neighbour that a message is to be handed to. A connection that is being made counts.
    fn hop(&self, parcel: &Parcel) -> Option<Identity> {
        match &parcel.hop {
            Hop::Only(hop) => return self.is_near(hop).then(|| hop.clone()),
            Hop::Rather(hop) if self.links.is_linked(hop) => return Some(hop.clone()),
            Hop::Rather(_) | Hop::Any => {}
        }
        let via = match self.peers.get(&parcel.to).map(|record| &record.state) {
            Some(PeerState::Routed { via }) => Some(via),
            _ => None,
        };
        // Never back to where it came from: that would be a circle.
        let back = parcel.previous_hop.as_ref();
        let usable = |hop: &&&Identity| Some(**hop) != back && self.links.is_linked(hop);
        // A routed peer that is linked too was not heard over that link, or not yet.
        if let Some(via) = via.as_ref().filter(usable) {
            return Some((*via).clone());
        }
        if self.is_near(&parcel.to) {
            return Some(parcel.to.clone());
        }
        let default = self.settings.default_route.as_ref();
        default.as_ref().filter(usable).map(|hop| (*hop).clone())
    }

    fn is_near(&self, neighbour: &Identity) -> bool {
        self.links.is_linked(neighbour) || self.is_dialing(neighbour)
    }

    /// There is no link with that neighbour, and none is being made: what waits for it goes another way, or
    /// none.
    pub(super) fn reroute(&mut self, neighbour: &Identity) {
        if self.is_near(neighbour) {
            return;
        }
        for queued in self.queue.drain_hop(neighbour) {
            self.post(queued.item);
        }
    }

    /// Keeps a message until there is a way, if somebody looks for one.
    fn hold(&mut self, parcel: Parcel) -> Result<(), Box<(Parcel, Reason)>> {
        let strict = matches!(parcel.hop, Hop::Only(_));
        if !self.seeker || strict || parcel.to == self.settings.identity {
            return Err(Box::new((parcel, Reason::NoPath)));
        }
        let not = [&parcel.previous_hop, &parcel.source];
        let exclude = not.into_iter().flatten().cloned().collect();
        let target = parcel.to.clone();
        let held = self.held.hold(Held {
            to: target.clone(),
            expires: parcel.deadline,
            bytes: parcel.bytes(),
            foreign: parcel.maker == Maker::Other,
            item: parcel,
        });
        held.map_err(|held| Box::new((held.item, Reason::Full)))?;
        if !self.wanted.contains_key(&target) {
            self.wanted.insert(target.clone(), Find { target, exclude });
            self.touch();
        }
        Ok(())
    }

    /// Lets go what is held and has a way now.
    pub(super) fn release(&mut self) {
        let reached = self.held.targets().filter(|target| {
            self.is_near(target)
                || self.settings.default_route.is_some()
                || self
                    .peers
                    .get(target)
                    .is_some_and(|it| it.state.is_reached())
        });
        let reached: Vec<Identity> = reached.cloned().collect();
        for target in reached {
            self.wanted.remove(&target);
            for held in self.held.take(&target) {
                self.post(held.item);
            }
        }
    }

    /// Somebody looks for ways from now on, or nobody does: then nothing is held any more.
    pub(crate) fn seek(&mut self, seeks: bool) {
        self.seeker = seeks;
        if !seeks {
            self.wanted.clear();
            let reason = if self.stopping {
                Reason::Stopped
            } else {
                Reason::NoPath
            };
            for parcel in self.take_held() {
                self.fail(parcel, reason.clone());
            }
        }
    }

    fn take_held(&mut self) -> Vec<Parcel> {
        let targets: Vec<Identity> = self.held.targets().cloned().collect();
        let held = targets.iter().flat_map(|target| self.held.take(target));
        held.map(|held| held.item).collect()
    }

    /// Whom to look for for the sake of what is held.
    pub(crate) fn wanted(&self) -> Vec<Find> {
        self.wanted.values().cloned().collect()
    }

    /// The lifetime of a message is over.
    fn drop(&mut self, parcel: Parcel) {
        let fate = Fate::Dropped(Reason::Expired);
        self.fates.push_back((parcel, fate));
    }

    /// The end: all that has a way goes, then a goodbye to all; what is left has failed.
    pub(super) fn say_goodbye(&mut self) {
        while self.queue.is_ready(|hop| self.links.room(hop)) {
            self.give_out();
        }
        let links: Vec<(Identity, LinkId)> = self
            .links
            .open()
            .map(|(to, link)| (to.clone(), link))
            .collect();
        for (to, link) in links {
            let bye = self.bye_for(to.clone());
            let envelope = bye.envelope(self.now, &to);
            if let Some(link) = self.links.get_mut(link) {
                link.give(bye);
            }
            self.outputs.push(Output::Write { link, envelope });
            self.close(link, false);
        }
        let mut left: Vec<Parcel> = self.retries.drain().collect();
        left.extend(self.queue.drain().into_iter().map(|queued| queued.item));
        left.append(&mut self.take_held());
        self.stopped = true;
        for parcel in left {
            self.fail(parcel, Reason::Stopped);
        }
        self.stop_requests();
        self.inbox = super::inbox::Inbox::default();
        self.wanted.clear();
        self.joins.clear();
    }

    fn bye_for(&self, to: Identity) -> Parcel {
        Parcel {
            maker: Maker::Node,
            kind: EnvelopeKind::Bye,
            id: 0,
            source: None,
            to,
            hop: Hop::Any,
            previous_hop: None,
            command: Command::built_in("bye"),
            payload: Payload::empty(),
            priority: Priority::Fast,
            hops: 0,
            lifetime: crate::concerns::message::LIFETIME,
            deadline: self.now + crate::concerns::message::LIFETIME,
        }
    }
}
