//! What a server sends: greetings, events and replies, told apart by a member.
//!
//! Objects come from the decoder parsed, but for replies that are wanted as text; here they are only looked at and taken apart. Members may
//! be in any order, and unknown ones are kept where the whole object is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::framing::Incoming;
use super::text::{Text, TextReply};

/// A JSON object.
pub type Object = Map<String, Value>;

/// What an object from the server is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Inbound {
    /// Has `QMP`.
    Greeting(Object),
    /// Has an `event` that is text.
    Event(Object),
    /// Has `return`, `error` or at least an `id`.
    Reply(Answer),
    /// None of these.
    Unknown(Object),
}

/// A reply, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// Whose it is; errors from before the server could read an id have none.
    pub(super) id: Option<Value>,
    pub(super) outcome: Outcome,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The command succeeded with this value.
    Return(Value),
    /// As well, but its caller would rather have the text of the value.
    Text(Text),
    /// The command failed.
    Error { class: String, desc: String },
    /// The whole reply, with neither `return` nor an `error` as it should be.
    Malformed(Object),
}

impl From<Incoming> for Inbound {
    fn from(incoming: Incoming) -> Self {
        match incoming {
            Incoming::Object(object) => object.into(),
            Incoming::Reply(reply) => {
                let TextReply { id, value } = *reply;
                let outcome = Outcome::Text(value);
                Self::Reply(Answer { id, outcome })
            }
        }
    }
}

impl From<Object> for Inbound {
    fn from(mut object: Object) -> Self {
        if object.contains_key("QMP") {
            return Self::Greeting(object);
        }
        if is_event(&object) {
            return Self::Event(object);
        }
        if object.contains_key("event") {
            return Self::Unknown(object);
        }
        let outcome = if let Some(error) = object.get("error") {
            match (&error["class"], &error["desc"]) {
                (Value::String(class), Value::String(desc)) => Outcome::Error {
                    class: class.clone(),
                    desc: desc.clone(),
                },
                _ => Outcome::Malformed(object.clone()),
            }
        } else if let Some(value) = object.remove("return") {
            Outcome::Return(value)
        } else if object.contains_key("id") {
            Outcome::Malformed(object.clone())
        } else {
            return Self::Unknown(object);
        };
        let id = object.remove("id");
        Self::Reply(Answer { id, outcome })
    }
}

fn is_event(object: &Object) -> bool {
    object.get("event").is_some_and(Value::is_string) && !object.contains_key("QMP")
}

/// The reply to a successful command.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reply {
    /// What the command returned.
    pub value: Value,
    /// The id that the caller gave the command, unchanged.
    pub id: Option<Value>,
    /// Which of the session's messages from the server it was.
    pub number: u64,
}

/// Anything that came from the server, as it came; cheap to clone.
#[derive(Clone, Debug)]
pub struct Message {
    inner: Arc<Inner>,
    call: Option<u64>,
}

impl Message {
    /// The reply to this `call`, if it is one.
    pub(super) fn new(object: Object, number: u64, session: u64, call: Option<u64>) -> Self {
        let inner = Arc::new(Inner {
            object,
            number,
            session,
        });
        Self { inner, call }
    }

    /// The whole message.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.inner.object
    }

    /// The event that it is, if it is one.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        is_event(self.object()).then(|| Event(self.inner.clone()))
    }

    /// The call whose reply it is, by [`Pending::id`](super::Pending::id). `None` for a reply to
    /// nobody, whatever its id says. The call itself is told right after the taps.
    #[must_use]
    pub fn call(&self) -> Option<u64> {
        self.call
    }

    /// Which of the session's messages from the server it was.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inner.number
    }

    /// Which of the client's sessions it came in.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.inner.session
    }
}

/// Something that happened in the server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Event(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: Object,
    number: u64,
    session: u64,
}

impl Event {
    /// Of an object that is [`Inbound::Event`].
    pub(super) fn new(object: Object, number: u64, session: u64) -> Self {
        Self(Arc::new(Inner {
            object,
            number,
            session,
        }))
    }

    /// What happened: `STOP`, say.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object()
            .get("event")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// More about it, in most cases an object. [`Value::Null`] if the server sent none.
    #[must_use]
    pub fn data(&self) -> &Value {
        self.object().get("data").unwrap_or(&Value::Null)
    }

    /// When it happened, by the server's clock. `None` if the server had no clock, or sent
    /// something odd; [`object`](Self::object) has it as it came.
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        let timestamp = self.object().get("timestamp")?;
        let seconds = Duration::from_secs(timestamp["seconds"].as_u64()?);
        let micros = Duration::from_micros(timestamp["microseconds"].as_u64()?);
        SystemTime::UNIX_EPOCH
            .checked_add(seconds)?
            .checked_add(micros)
    }

    /// The whole event as it came.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    /// Which of the session's messages from the server it was.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Which of the client's sessions it came in.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.0.session
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn answer(value: Value) -> Answer {
        match Inbound::from(object(value)) {
            Inbound::Reply(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_kinds_are_told_apart_by_a_member() {
        let greeting = object(json!({"QMP": {"version": {}, "capabilities": []}}));
        assert_eq!(Inbound::from(greeting.clone()), Inbound::Greeting(greeting));
        let event = object(json!({"timestamp": 5, "event": "STOP", "id": 1, "more": [2]}));
        assert_eq!(Inbound::from(event.clone()), Inbound::Event(event));
        for unknown in [
            json!({}),
            json!({"more": 1}),
            json!({"event": 5}),
            json!({"event": null, "data": {}}),
        ] {
            let unknown = object(unknown);
            assert_eq!(Inbound::from(unknown.clone()), Inbound::Unknown(unknown));
        }
    }

    #[test]
    fn a_message_gives_the_event_that_it_is() {
        let message = |value| Message::new(object(value), 3, 1, None);
        let stop = message(json!({"event": "STOP", "data": {}}));
        let event = stop.event().unwrap();
        assert_eq!(
            (event.name(), event.number(), event.session()),
            ("STOP", 3, 1)
        );
        assert_eq!(event.object(), stop.object());
        for other in [
            json!({"event": 5}),
            json!({"return": {}, "id": 1}),
            json!({"QMP": {}, "event": "STOP"}),
        ] {
            assert!(message(other).event().is_none());
        }
    }

    #[test]
    fn a_reply_gives_its_id_and_its_value() {
        for (reply, id, value) in [
            (json!({"return": {}, "id": 1}), Some(json!(1)), json!({})),
            (json!({"return": null}), None, Value::Null),
            (
                json!({"id": null, "more": 5, "return": {"id": 2}}),
                Some(Value::Null),
                json!({"id": 2}),
            ),
        ] {
            let outcome = Outcome::Return(value);
            assert_eq!(answer(reply), Answer { id, outcome });
        }
    }

    #[test]
    fn an_error_counts_even_beside_a_return() {
        let error = json!({"class": "GenericError", "desc": "no", "more": 1});
        for reply in [
            json!({"error": error, "id": 1}),
            json!({"error": error, "id": 1, "return": {}}),
        ] {
            let (class, desc) = ("GenericError".to_owned(), "no".to_owned());
            let outcome = Outcome::Error { class, desc };
            let id = Some(json!(1));
            assert_eq!(answer(reply), Answer { id, outcome });
        }
    }

    #[test]
    fn a_malformed_reply_still_says_whose_it_is_and_is_kept_whole() {
        for reply in [
            json!({"id": 7}),
            json!({"id": 7, "error": "no"}),
            json!({"id": 7, "error": null, "return": {}}),
            json!({"id": 7, "error": {"class": "GenericError"}}),
            json!({"id": 7, "error": {"class": 5, "desc": "no"}}),
        ] {
            let outcome = Outcome::Malformed(object(reply.clone()));
            let id = Some(json!(7));
            assert_eq!(answer(reply), Answer { id, outcome });
        }
    }

    #[test]
    fn an_odd_timestamp_or_no_data_is_no_error() {
        let event = |value| Event::new(object(value), 3, 1);
        let stop = event(json!({
            "event": "STOP",
            "timestamp": {"seconds": 1795307795, "microseconds": 401912},
        }));
        assert_eq!(stop.name(), "STOP");
        assert_eq!(stop.data(), &Value::Null);
        let since = SystemTime::UNIX_EPOCH + Duration::from_micros(1795307795401912);
        assert_eq!(stop.timestamp(), Some(since));
        assert_eq!((stop.number(), stop.session()), (3, 1));
        for odd in [
            json!({"seconds": -1, "microseconds": -1}),
            json!({"seconds": 1}),
            json!({"seconds": 1.5, "microseconds": 0}),
            json!({"seconds": u64::MAX, "microseconds": 0}),
            json!([1, 2]),
            json!("now"),
        ] {
            let event = event(json!({"event": "X", "timestamp": odd, "data": [1]}));
            assert_eq!(event.timestamp(), None, "{odd}");
            assert_eq!(event.object()["timestamp"], odd);
            assert_eq!(event.data(), &json!([1]));
        }
        assert_eq!(event(json!({"event": "X"})).timestamp(), None);
    }
}
