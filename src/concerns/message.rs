//! Messages as concerns and callers see them: what goes out, what comes in, an answer.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{BadMessage, BadPayload};
use super::identity::{Command, Identity};
use super::payload::Payload;

/// How long a message may be on its way, unless it says otherwise.
pub(crate) const LIFETIME: Duration = Duration::from_secs(30);

/// Which queue a message waits in to be written. In each of them, messages to one peer keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// One message a round, when nothing else is in front of it.
    Slow,
    /// One message a round for each destination.
    Medium,
    /// All there are, before all others.
    Fast,
}

/// What a message is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It asks for something.
    Request,
    /// It answers a request.
    Reply,
}

/// A request that is to be sent.
#[derive(Clone, Debug)]
#[must_use = "a message does nothing until it is sent"]
pub struct Outgoing {
    pub(crate) to: Identity,
    pub(crate) command: Command,
    pub(crate) payload: Payload,
    pub(crate) priority: Priority,
    pub(crate) lifetime: Duration,
    pub(crate) next_hop: Option<Identity>,
}

impl Outgoing {
    /// A request of `command` for the node `to`, with medium priority and 30 s to get there.
    ///
    /// # Errors
    ///
    /// [`BadMessage`] if one of the names is too short or too long, or `payload` is no JSON object.
    pub fn request<I, C, T>(to: I, command: C, payload: &T) -> Result<Self, BadMessage>
    where
        I: TryInto<Identity>,
        C: TryInto<Command>,
        BadMessage: From<I::Error> + From<C::Error>,
        T: Serialize + ?Sized,
    {
        Ok(Self {
            to: to.try_into()?,
            command: command.try_into()?,
            payload: Payload::new(payload)?,
            priority: Priority::Medium,
            lifetime: LIFETIME,
            next_hop: None,
        })
    }

    /// Which queue it waits in. Default: [`Priority::Medium`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// How long it may be on its way, over all hops; then it is dropped. Default: 30 s. At most
    /// 49 days, which is what the wire has room for.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime.min(Duration::from_millis(u32::MAX.into()));
        self
    }

    /// Hands it to this neighbour, whatever the node knows of better ways.
    pub fn over(mut self, neighbour: &Identity) -> Self {
        self.next_hop = Some(neighbour.clone());
        self
    }

    /// Whom it is for.
    #[must_use]
    pub fn to(&self) -> &Identity {
        &self.to
    }

    /// What it is about.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }
}

/// A message that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) source: Identity,
    pub(crate) previous_hop: Identity,
    pub(crate) command: Command,
    pub(crate) payload: Payload,
}

impl Message {
    /// Whether it asks or answers.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number its first sender gave it. A reply has that of its request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who made it. If that is not the neighbour it came from, this is only as trustworthy as
    /// [`previous_hop`](Self::previous_hop).
    #[must_use]
    pub fn source(&self) -> &Identity {
        &self.source
    }

    /// The neighbour that handed it over.
    #[must_use]
    pub fn previous_hop(&self) -> &Identity {
        &self.previous_hop
    }

    /// What it is about.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// What it carries, as a `T`; short for [`Payload::read`].
    ///
    /// # Errors
    ///
    /// If it does not fit.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        self.payload.read()
    }
}

/// What a concern answers to a request. The node adds the addresses, the command and the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub(crate) payload: Payload,
    pub(crate) priority: Priority,
}

impl From<Payload> for Answer {
    /// An answer with a payload that is there already, such as that of the request; of medium priority.
    fn from(payload: Payload) -> Self {
        Self {
            payload,
            priority: Priority::Medium,
        }
    }
}

impl Answer {
    /// An answer with `payload`, of medium priority.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] if `payload` is no JSON object.
    pub fn new<T: Serialize + ?Sized>(payload: &T) -> Result<Self, BadPayload> {
        Payload::new(payload).map(Self::from)
    }

    /// Which queue it waits in. Default: [`Priority::Medium`].
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// A message of this node that was written to a link. It need not have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) to: Identity,
    pub(crate) next_hop: Identity,
    pub(crate) unreachable: bool,
}

impl Sent {
    /// The number that [`Context::send`](super::Context::send) gave; of a reply, that of its request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it was a request or an answer.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whom it is for.
    #[must_use]
    pub fn to(&self) -> &Identity {
        &self.to
    }

    /// The neighbour it was handed to.
    #[must_use]
    pub fn next_hop(&self) -> &Identity {
        &self.next_hop
    }

    /// Whether its receiver was [unreachable](super::PeerState::Unreachable) at that moment.
    #[must_use]
    pub fn unreachable(&self) -> bool {
        self.unreachable
    }
}
