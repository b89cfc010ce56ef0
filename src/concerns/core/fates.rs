//! What becomes of messages, and who is told: exactly once of each.

use super::parcel::{Hop, Maker, Parcel};
use super::state::State;
use super::{ASKED, Core, LinkId, Output};
use crate::concerns::concern::Retry;
use crate::concerns::envelope::EnvelopeKind;
use crate::concerns::error::{Reason, RequestError, SendError};
use crate::concerns::event::Event;
use crate::concerns::identity::Identity;
use crate::concerns::message::{Kind, LIFETIME, Sent};
use crate::concerns::payload::Payload;
use crate::concerns::peer::PeerState;

/// What has become of a message.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It was written to the link with that neighbour.
    Sent { next_hop: Identity },
    /// It could not be.
    Failed(Reason),
    /// It waited for too long.
    Dropped(Reason),
}

impl State {
    /// A link has written what it was given first.
    pub(super) fn written(&mut self, id: LinkId, count: usize, expired: &[usize]) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        for place in 0..count {
            let Some(parcel) = link.take() else {
                return;
            };
            let fate = if expired.contains(&place) {
                Fate::Dropped(Reason::Expired)
            } else if parcel.maker == Maker::Other || parcel.maker == Maker::Node {
                continue;
            } else {
                let next_hop = link.peer.clone();
                Fate::Sent { next_hop }
            };
            self.fates.push_back((parcel, fate));
        }
    }

    pub(super) fn fail(&mut self, parcel: Parcel, reason: Reason) {
        self.fates.push_back((parcel, Fate::Failed(reason)));
    }

    /// Gives up a message of another node's.
    pub(super) fn give_up(&mut self, parcel: Parcel, reason: Reason) {
        let source = parcel.source.clone();
        self.event(Event::Undeliverable {
            id: parcel.id,
            source: source
                .clone()
                .unwrap_or_else(|| self.settings.identity.clone()),
            to: parcel.to.clone(),
            command: parcel.command.clone(),
            reason,
        });
        if parcel.maker == Maker::Other
            && parcel.kind == EnvelopeKind::Request
            && parcel.id & ASKED != 0
            && !self.stopped
            && let (Some(source), Some(back)) = (source, parcel.previous_hop)
        {
            self.post(Parcel {
                maker: Maker::Node,
                kind: EnvelopeKind::Undeliverable,
                id: parcel.id,
                source: None,
                to: source,
                hop: Hop::Rather(back),
                previous_hop: None,
                command: parcel.command,
                payload: Payload::empty(),
                priority: parcel.priority,
                hops: self.settings.max_hops.saturating_sub(1),
                lifetime: LIFETIME,
                deadline: self.now + LIFETIME,
            });
        }
    }

    /// A message has found its end: whoever made it is told, but for its concern.
    fn end(&mut self, parcel: Parcel, reason: Option<Reason>) {
        match (parcel.maker, reason) {
            (Maker::Concern | Maker::Node, _) | (Maker::Other, None) => {}
            (Maker::Other, Some(reason)) => self.give_up(parcel, reason),
            (Maker::Program, reason) => {
                let to = parcel.to.clone();
                match reason {
                    None => {}
                    Some(reason) if parcel.id & ASKED != 0 => {
                        let id = parcel.id;
                        if self.pending.remove(id).is_some() {
                            let error = match reason {
                                Reason::Stopped => RequestError::Stopped,
                                reason => RequestError::NotSent(reason),
                            };
                            self.outputs.push(Output::NoReply { id, error });
                        }
                    }
                    Some(reason) => self.give_up(parcel, reason),
                }
                self.outputs.push(Output::Settled { to });
            }
        }
    }

    /// The node stops: nobody gets a reply any more.
    pub(super) fn stop_requests(&mut self) {
        while let Some((_, id)) = self.pending.first() {
            self.pending.remove(id);
            let error = RequestError::Stopped;
            self.outputs.push(Output::NoReply { id, error });
        }
    }
}

impl Core {
    /// Tells the concerns what has become of their messages.
    pub(super) fn settle(&mut self) {
        while let Some((parcel, fate)) = self.state.fates.pop_front() {
            let place = if parcel.is_ours() {
                self.state.commands.get(&parcel.command).copied()
            } else {
                None
            };
            match fate {
                Fate::Sent { next_hop } => self.sent(place, parcel, next_hop),
                Fate::Failed(reason) => self.failed(place, parcel, reason),
                Fate::Dropped(reason) => self.dropped(place, parcel, reason),
            }
            self.change_concerns();
        }
    }

    fn sent(&mut self, place: Option<usize>, parcel: Parcel, next_hop: Identity) {
        if let Some(place) = place {
            let record = self.state.peers.get(&parcel.to);
            let sent = Sent {
                id: parcel.id,
                kind: match parcel.kind {
                    EnvelopeKind::Request => Kind::Request,
                    _ => Kind::Reply,
                },
                to: parcel.to.clone(),
                next_hop,
                unreachable: record.is_some_and(|it| it.state == PeerState::Unreachable),
            };
            self.hook(place, "sent", |concern, context| {
                concern.sent(context, &sent)
            });
        }
        self.state.end(parcel, None);
    }

    fn failed(&mut self, place: Option<usize>, mut parcel: Parcel, reason: Reason) {
        if let Some(place) = place {
            let message = parcel.outgoing();
            let error = SendError {
                message,
                reason: reason.clone(),
            };
            let retry = self.hook(place, "failed", |concern, context| {
                Ok(concern.failed(context, &error.message, &error))
            });
            if retry == Some(Retry::Requeue) && !self.state.stopped {
                match self.state.retries.push(self.state.now, parcel) {
                    Ok(()) => return,
                    Err(refused) => parcel = *refused,
                }
            }
        }
        self.state.end(parcel, Some(reason));
    }

    fn dropped(&mut self, place: Option<usize>, parcel: Parcel, reason: Reason) {
        if let Some(place) = place {
            let message = parcel.outgoing();
            self.hook(place, "dropped", |concern, context| {
                concern.dropped(context, &message);
                Ok(())
            });
        }
        self.state.end(parcel, Some(reason));
    }
}
