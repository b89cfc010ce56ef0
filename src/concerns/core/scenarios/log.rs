//! What happened in a scenario, in the words of the file it is from.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::identity::Identity;
use crate::concerns::peer::PeerState;

/// Something that happened, at a time in milliseconds.
#[derive(Clone)]
pub(super) struct Event {
    at: u64,
    fields: Map<String, Value>,
}

impl Event {
    pub(super) fn new(at: u64, fields: Value) -> Self {
        let Value::Object(fields) = fields else {
            panic!("an event has fields, not {fields}");
        };
        Self { at, fields }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn seconds(&self) -> f64 {
        Self::in_seconds(self.at)
    }

    #[expect(clippy::cast_precision_loss, reason = "a scenario lasts for minutes")]
    fn in_seconds(at: u64) -> f64 {
        at as f64 / 1000.0
    }

    pub(super) fn is(&self, ev: &str) -> bool {
        self.field("ev") == ev
    }

    /// A field; null if there is none.
    pub(super) fn field(&self, key: &str) -> &Value {
        self.fields.get(key).unwrap_or(&Value::Null)
    }

    /// A field, or a field of a field: `payload.n`.
    pub(super) fn path(&self, path: &str) -> &Value {
        match path.split_once('.') {
            Some((key, rest)) => self.field(key).get(rest).unwrap_or(&Value::Null),
            None => self.field(path),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.seconds();
        write!(f, "{at:.1} {}", Value::Object(self.fields.clone()))
    }
}

/// The log, shared by the player and the concerns it plays with.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    now: u64,
    events: Vec<Event>,
}

impl Log {
    /// From now on it is that late, in milliseconds.
    pub(super) fn turn_to(&self, now: u64) {
        self.0.lock().now = now;
    }

    pub(super) fn write(&self, fields: Value) {
        let mut book = self.0.lock();
        let event = Event::new(book.now, fields);
        book.events.push(event);
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.0.lock().events.clone()
    }

    pub(super) fn state(
        &self,
        node: &str,
        peer: &Identity,
        old: Option<&PeerState>,
        new: &PeerState,
    ) {
        let via = match new {
            PeerState::Routed { via } => Some(name(via)),
            _ => None,
        };
        let (peer, old, new) = (name(peer), old.map(state_word), state_word(new));
        self.write(json!({
            "ev": "state", "node": node, "peer": peer, "old": old, "new": new, "via": via,
        }));
    }

    pub(super) fn send(&self, node: &str, next_hop: &Identity, envelope: &Envelope) {
        let source = envelope.source.as_ref().map_or_else(|| node.into(), name);
        let to = name(envelope.to.as_ref().unwrap_or(next_hop));
        let payload: Value = envelope.payload.read().expect("it was made from JSON");
        self.write(json!({
            "ev": "send", "node": node, "next_hop": name(next_hop), "source": source, "to": to,
            "kind": kind_word(envelope.kind), "command": envelope.command.as_str(), "payload": payload,
        }));
    }
}

/// The node `A` of a scenario is `AAAAA` on the wire.
pub(super) fn identity(name: &str) -> Identity {
    let name = name.repeat(5 / name.len().clamp(1, 5));
    name.try_into().expect("a name of a scenario is one letter")
}

/// The other way round.
pub(super) fn name(identity: &Identity) -> String {
    let mut letters = identity.as_str().chars();
    let first = letters.next().expect("no identity is empty");
    if letters.all(|letter| letter == first) {
        first.into()
    } else {
        identity.to_string()
    }
}

pub(super) fn state_word(state: &PeerState) -> &'static str {
    match state {
        PeerState::Initial => "INITIAL",
        PeerState::Connecting => "CONNECTING",
        PeerState::Connected => "CONNECTED",
        PeerState::Routed { .. } => "ROUTED",
        PeerState::Unreachable => "UNREACHABLE",
        PeerState::NoConnection => "NO_CONNECTION",
        PeerState::Left => "LEFT",
    }
}

fn kind_word(kind: EnvelopeKind) -> &'static str {
    match kind {
        EnvelopeKind::Request => "request",
        EnvelopeKind::Reply => "reply",
        EnvelopeKind::Route => "route",
        EnvelopeKind::NoSuchCommand => "no such command",
        EnvelopeKind::Refused => "refused",
        EnvelopeKind::Undeliverable => "undeliverable",
        EnvelopeKind::Bye => "bye",
        EnvelopeKind::Other(_) => "other",
    }
}
