//! What comes in: sorted when it comes, handled in fair rounds.

use std::time::{Duration, Instant};

use super::inbox::{Arrived, Sort};
use super::parcel::{Hop, Maker, Parcel};
use super::pending::Asked;
use super::state::State;
use super::{ASKED, Core, LinkId, Output};
use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::error::{Reason, RequestError};
use crate::concerns::event::Event;
use crate::concerns::identity::{Command, Identity};
use crate::concerns::message::{Answer, Kind, LIFETIME, Message, Priority};
use crate::concerns::payload::Payload;
use crate::concerns::peer::PeerState;
use crate::concerns::timing::after;

/// How many messages of each kind are handled in a round.
const ROUND: usize = 12;

impl State {
    pub(super) fn frame(&mut self, id: LinkId, envelope: Envelope) {
        let Some(link) = self.links.get(id).filter(|link| !link.mute) else {
            return;
        };
        let from = link.peer.clone();
        self.heard(&from);
        let me = &self.settings.identity;
        let mine = envelope.to.as_ref().is_none_or(|to| to == me);
        if envelope.source.as_ref() == Some(me) {
            // Ours went in a circle, or somebody pretends to be us.
            self.counts.nonsense += 1;
            return;
        }
        let sort = match (mine, envelope.kind) {
            (true, EnvelopeKind::Request) => Sort::Request,
            (
                true,
                EnvelopeKind::Reply
                | EnvelopeKind::NoSuchCommand
                | EnvelopeKind::Refused
                | EnvelopeKind::Undeliverable,
            ) => Sort::Reply,
            (true, EnvelopeKind::Bye) if envelope.source.as_ref().is_none_or(|it| *it == from) => {
                return self.bye(&from);
            }
            (_, EnvelopeKind::Other(kind)) => {
                return self.event(Event::Malformed {
                    from,
                    problem: format!("there is no kind {kind} of message"),
                });
            }
            (_, EnvelopeKind::Route | EnvelopeKind::Bye) => {
                self.counts.nonsense += 1;
                return;
            }
            (false, _) => Sort::Routed,
        };
        if !self.inbox.push(sort, Arrived { from, envelope }) {
            self.counts.overrun += 1;
        }
    }

    /// Something has come over a link with that peer.
    fn heard(&mut self, peer: &Identity) {
        let now = self.now;
        if let Some(record) = self.peers.get_mut(peer) {
            self.touched |= std::mem::take(&mut record.awaited);
            if record.state == PeerState::Unreachable {
                let timing = self.settings.timing.clone();
                self.update(peer, |record| record.heard(now, &timing));
            } else {
                record.last_heard = Some(now);
                record.slow_down = Duration::ZERO;
            }
        }
    }

    /// Sends something on that is for another node.
    fn pass_on(&mut self, arrived: Arrived) {
        let Arrived { from, envelope } = arrived;
        let Some(to) = envelope.to else {
            return;
        };
        let parcel = Parcel {
            maker: Maker::Other,
            kind: envelope.kind,
            id: envelope.id,
            source: Some(envelope.source.unwrap_or_else(|| from.clone())),
            to,
            hop: Hop::Any,
            previous_hop: Some(from),
            command: envelope.command,
            payload: envelope.payload,
            priority: envelope.priority,
            hops: envelope.hops.min(self.settings.max_hops).saturating_sub(1),
            lifetime: envelope.lifetime,
            deadline: after(self.now, envelope.lifetime),
        };
        if envelope.hops == 0 {
            self.fail(parcel, Reason::TooManyHops);
        } else {
            self.post(parcel);
        }
    }

    /// Sends something back to where a request came from.
    fn answer(
        &mut self,
        request: &Message,
        kind: EnvelopeKind,
        payload: Payload,
        priority: Priority,
    ) {
        let parcel = Parcel {
            maker: if kind == EnvelopeKind::Reply {
                Maker::Concern
            } else {
                Maker::Node
            },
            kind,
            id: request.id,
            source: None,
            to: request.source.clone(),
            hop: Hop::Rather(request.previous_hop.clone()),
            previous_hop: None,
            command: request.command.clone(),
            payload,
            priority,
            hops: self.settings.max_hops.saturating_sub(1),
            lifetime: LIFETIME,
            deadline: self.now + LIFETIME,
        };
        match self.too_long(parcel.payload.as_str().len()) {
            None => self.post(parcel),
            Some(reason) => self.fail(parcel, reason),
        }
    }

    /// Sends a reply on to a neighbour that it is meant for next.
    pub(crate) fn pass_back(&mut self, to: &Identity, reply: &Message, payload: Payload) {
        let request = Message {
            source: to.clone(),
            previous_hop: to.clone(),
            ..reply.clone()
        };
        self.answer(&request, EnvelopeKind::Reply, payload, Priority::Fast);
    }

    /// Tells the source of a request that there will be no answer, if it waits for one.
    fn decline(&mut self, request: &Message, kind: EnvelopeKind) {
        if request.id & ASKED != 0 {
            self.answer(request, kind, Payload::empty(), Priority::Medium);
        }
    }

    /// What came for a request of the program's; anything that was not asked for, or comes from elsewhere,
    /// is counted and dropped.
    fn answered(&mut self, kind: EnvelopeKind, message: Message) {
        let Message {
            id,
            source,
            previous_hop,
            ..
        } = &message;
        let is_it = |asked: &Asked| match kind {
            // Any hop on the way may have given it up.
            EnvelopeKind::Undeliverable => asked.over.as_ref() == Some(previous_hop),
            _ => asked.to == *source && asked.command == message.command,
        };
        let id = *id;
        if !self.pending.get(id).is_some_and(is_it) {
            self.counts.late_replies += 1;
            return;
        }
        self.pending.remove(id);
        let error = match kind {
            EnvelopeKind::NoSuchCommand => RequestError::NoSuchCommand {
                command: message.command,
            },
            EnvelopeKind::Refused => RequestError::Refused,
            EnvelopeKind::Undeliverable => RequestError::NotSent(Reason::Unknown),
            _ => return self.outputs.push(Output::Reply { message }),
        };
        self.outputs.push(Output::NoReply { id, error });
    }

    /// Ends the waits for replies whose time is over.
    pub(super) fn time_out(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.pending.first()
            && deadline <= now
        {
            if let Some(asked) = self.pending.remove(id) {
                let after = asked.lifetime;
                let error = RequestError::TimedOut { after };
                self.outputs.push(Output::NoReply { id, error });
            }
        }
    }

    /// Ends the waits for replies of a peer that was lost. What has not gone to it yet may still do so.
    pub(super) fn end_requests(&mut self, peer: &Identity) {
        for id in self.pending.written_for(peer) {
            self.pending.remove(id);
            let peer = peer.clone();
            let error = RequestError::PeerLost { peer };
            self.outputs.push(Output::NoReply { id, error });
        }
    }

    fn unknown_command(&mut self, source: &Identity, command: &Command) {
        self.event(Event::UnknownCommand {
            source: source.clone(),
            command: command.clone(),
        });
    }
}

impl Core {
    /// Handles what has come: requests, then replies, then what is for others.
    pub(super) fn handle_arrivals(&mut self) {
        for _ in 0..ROUND {
            let Some(arrived) = self.state.inbox.pop(Sort::Request) else {
                break;
            };
            self.request(arrived);
        }
        for _ in 0..ROUND {
            let Some(arrived) = self.state.inbox.pop(Sort::Reply) else {
                break;
            };
            self.reply(arrived);
        }
        for _ in 0..ROUND {
            let Some(arrived) = self.state.inbox.pop(Sort::Routed) else {
                break;
            };
            self.state.pass_on(arrived);
        }
    }

    fn request(&mut self, arrived: Arrived) {
        let message = message(Kind::Request, arrived);
        let Some(&place) = self.state.commands.get(&message.command) else {
            self.state
                .unknown_command(&message.source, &message.command);
            self.state.decline(&message, EnvelopeKind::NoSuchCommand);
            return;
        };
        let call = self.hook(place, "request", |concern, context| {
            concern.request(context, &message)
        });
        match call {
            Some(Some(Answer { payload, priority })) => {
                self.state
                    .answer(&message, EnvelopeKind::Reply, payload, priority);
            }
            Some(None) => {}
            None => self.state.decline(&message, EnvelopeKind::Refused),
        }
        self.change_concerns();
    }

    fn reply(&mut self, arrived: Arrived) {
        let kind = arrived.envelope.kind;
        let message = message(Kind::Reply, arrived);
        if message.id & ASKED != 0 || kind != EnvelopeKind::Reply {
            return self.state.answered(kind, message);
        }
        let Some(&place) = self.state.commands.get(&message.command) else {
            return self
                .state
                .unknown_command(&message.source, &message.command);
        };
        self.hook(place, "reply", |concern, context| {
            concern.reply(context, &message)
        });
        self.change_concerns();
    }
}

fn message(kind: Kind, arrived: Arrived) -> Message {
    let Arrived { from, envelope } = arrived;
    Message {
        kind,
        id: envelope.id,
        source: envelope.source.unwrap_or_else(|| from.clone()),
        previous_hop: from,
        command: envelope.command,
        payload: envelope.payload,
    }
}
