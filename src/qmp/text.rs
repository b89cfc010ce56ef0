//! Replies whose value is still text, for calls that decode it to a type of their own.
//!
//! To make a large reply a value costs several times what it costs to see that it could be made
//! one: each name and each text in it would be an allocation. So while a call waits that wants
//! something else, the reader only checks the replies, and the callers read them on their own
//! threads. What is checked is all that a parser would check.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// How many calls of a client want text.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes(Arc<AtomicUsize>);

impl Wishes {
    /// Wants text until the wish is dropped.
    pub(super) fn wish(&self) -> Wish<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Wish(&self.0)
    }

    /// Whether a call wants text. Should its reply be quicker than its wish, it gets a value.
    pub(super) fn are_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// That of one call.
#[must_use = "dropping it takes it back"]
pub(super) struct Wish<'a>(&'a AtomicUsize);

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A successful reply.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TextReply {
    pub(super) id: Option<Value>,
    pub(super) value: Text,
}

impl TextReply {
    /// Of an object as servers send it: what is returned, an id, nothing else. `None` for all
    /// others, and for what is no JSON: a parser knows better why.
    pub(super) fn of(object: &str) -> Option<Self> {
        let member = past(object.strip_prefix('{')?, "\"return\"")?;
        let (value, behind) = Text::first_of(past(member, ":")?)?;
        let id = match past(behind, ",") {
            // As an object, it has one member less.
            Some(rest) => {
                let mut rest: Map<_, _> = serde_json::from_str(&format!("{{{rest}")).ok()?;
                let id = rest.remove("id")?;
                rest.is_empty().then_some(Some(id))?
            }
            None => past(behind, "}").map(|_| None)?,
        };
        Some(Self { id, value })
    }

    /// The whole object.
    pub(super) fn into_object(self) -> Map<String, Value> {
        let id = self.id.map(|id| ("id".to_owned(), id));
        let value = ("return".to_owned(), self.value.into_value());
        id.into_iter().chain([value]).collect()
    }
}

/// What is behind `token`, if that comes next.
fn past<'t>(text: &'t str, token: &str) -> Option<&'t str> {
    let blanks = [' ', '\t', '\r', '\n'];
    text.trim_start_matches(blanks).strip_prefix(token)
}

/// A JSON value as it came, not nested too deep.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text(Box<str>);

impl Text {
    /// The value at the start of `text`, and what is behind it.
    fn first_of(text: &str) -> Option<(Self, &str)> {
        let mut values = reader(text).into_iter::<Sound>();
        values.next()?.ok()?;
        let (value, behind) = text.split_at(values.byte_offset());
        Some((Self(value.into()), behind))
    }

    pub(super) fn decode<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        T::deserialize(&mut reader(&self.0))
    }

    pub(super) fn into_value(self) -> Value {
        // It fails only if some features of serde_json give a member's name another meaning.
        self.decode().unwrap_or_else(|_| Value::from(&*self.0))
    }
}

/// A parser of text whose depth has been seen to be harmless.
fn reader(text: &str) -> serde_json::Deserializer<serde_json::de::StrRead<'_>> {
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    json
}

/// A value that was looked at and not kept. Unlike [`IgnoredAny`](serde::de::IgnoredAny) it wants
/// to see it: escapes and numbers are parsed, for among them some are wrong.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reply_as_servers_send_it_keeps_its_text() {
        for (object, id, text) in [
            (r#"{"return": {}, "id": 5}"#, Some(json!(5)), " {}"),
            (
                r#"{"return":[1],"id":{"a":"}"}}"#,
                Some(json!({"a": "}"})),
                "[1]",
            ),
            (
                "{\r\n \"return\" : 1.50 ,\"id\":null\n}",
                Some(Value::Null),
                " 1.50",
            ),
            (r#"{"return": "\u00e9"}"#, None, r#" "\u00e9""#),
            (r#"{"return":null}"#, None, "null"),
            (
                r#"{"return":{"id":1,"id":2},"id":3,"id":4}"#,
                Some(json!(4)),
                r#"{"id":1,"id":2}"#,
            ),
        ] {
            let reply = TextReply::of(object).expect(object);
            assert_eq!(
                reply,
                TextReply {
                    id,
                    value: Text(text.into())
                }
            );
            let whole: Value = serde_json::from_str(object).unwrap();
            assert_eq!(Value::from(reply.into_object()), whole, "{object}");
        }
    }

    #[test]
    fn all_other_objects_are_left_to_the_parser() {
        for object in [
            "{}",
            r#"{"id":5,"return":{}}"#,
            r#"{"return":{},"id":5,"more":1}"#,
            r#"{"return":{},"more":1}"#,
            r#"{"return":{},"return":1}"#,
            r#"{"return":{},"error":{"class":"c","desc":"d"}}"#,
            r#"{"return":{},"event":"STOP"}"#,
            r#"{"\u0072eturn":{}}"#,
            // No JSON:
            r#"{"return"}"#,
            r#"{"return":}"#,
            r#"{"return":{},}"#,
            r#"{"return":{},"id":5,}"#,
            r#"{"return":{}]"#,
            r#"{"return":{} "id":5}"#,
            "{\"return\":\u{a0}1}",
            r#"{"return":"\ud800"}"#,
            r#"{"return":{"\udc00":1}}"#,
            "{\"return\":\"\n\"}",
            r#"{"return":[1e400]}"#,
            r#"{"return":01}"#,
            r#"{"return":inf}"#,
            r#"{"return":[1,]}"#,
        ] {
            assert_eq!(TextReply::of(object), None, "{object}");
        }
    }

    #[test]
    fn a_wish_lasts_as_long_as_its_call() {
        let wishes = Wishes::default();
        let reader_s = wishes.clone();
        assert!(!reader_s.are_there());
        let (first, second) = (wishes.wish(), wishes.wish());
        drop(first);
        assert!(reader_s.are_there());
        drop(second);
        assert!(!reader_s.are_there());
    }
}
