//! A message on its way out: one of this node's, or one that is passed on.
//!
//! It is what the queue, the holding area and the links keep until its fate is known. Of the
//! payload there is one text, however many keep it.

use std::time::{Duration, Instant};

use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::identity::{Command, Identity};
use crate::concerns::message::{Outgoing, Priority};
use crate::concerns::payload::Payload;
use crate::concerns::timing::after;

/// Who is told what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// The program, and the concern that owns its command.
    Program,
    /// The concern that owns its command.
    Concern,
    /// Another node; the program learns if it is given up.
    Other,
    /// This node itself; nobody is told.
    Node,
}

/// Whom it is handed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Whoever is on the way.
    Any,
    /// That neighbour if it is there.
    Rather(Identity),
    /// That neighbour or nobody.
    Only(Identity),
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) maker: Maker,
    pub(crate) kind: EnvelopeKind,
    pub(crate) id: u64,
    /// `None`: this node.
    pub(crate) source: Option<Identity>,
    pub(crate) to: Identity,
    pub(crate) hop: Hop,
    /// The neighbour it came from: it is never handed back.
    pub(crate) previous_hop: Option<Identity>,
    pub(crate) command: Command,
    pub(crate) payload: Payload,
    pub(crate) priority: Priority,
    /// The hops it may take after the neighbour that gets it.
    pub(crate) hops: u8,
    pub(crate) lifetime: Duration,
    pub(crate) deadline: Instant,
}

impl Parcel {
    /// A request of this node.
    pub(crate) fn request(
        maker: Maker,
        id: u64,
        message: Outgoing,
        now: Instant,
        hops: u8,
    ) -> Self {
        Self {
            maker,
            kind: EnvelopeKind::Request,
            id,
            source: None,
            to: message.to,
            hop: message.next_hop.map_or(Hop::Any, Hop::Only),
            previous_hop: None,
            command: message.command,
            payload: message.payload,
            priority: message.priority,
            hops,
            lifetime: message.lifetime,
            deadline: after(now, message.lifetime),
        }
    }

    /// How much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.as_str().len() + size_of::<Self>()
    }

    /// Whether a concern of this node is told what becomes of it.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.maker, Maker::Program | Maker::Concern)
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.deadline < now
    }

    /// What is written to the link with `neighbour`.
    pub(crate) fn envelope(&self, now: Instant, neighbour: &Identity) -> Envelope {
        Envelope {
            kind: self.kind,
            hops: self.hops,
            priority: self.priority,
            id: self.id,
            lifetime: self.deadline.saturating_duration_since(now),
            source: self.source.clone(),
            to: (self.to != *neighbour).then(|| self.to.clone()),
            command: self.command.clone(),
            payload: self.payload.clone(),
        }
    }

    /// As the concern sees it that owns its command.
    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing {
            to: self.to.clone(),
            command: self.command.clone(),
            payload: self.payload.clone(),
            priority: self.priority,
            lifetime: self.lifetime,
            next_hop: match &self.hop {
                Hop::Only(hop) => Some(hop.clone()),
                Hop::Any | Hop::Rather(_) => None,
            },
        }
    }
}
