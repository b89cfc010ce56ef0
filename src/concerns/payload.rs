//! What a message carries: one JSON object, kept as the text that travels.
//!
//! It is made once by the sender and looked into once by the receiver; a hop that passes it on
//! does neither.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::BadPayload;

/// One JSON object. Clones share its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Arc<str>);

impl Payload {
    /// The object that `value` is written as.
    ///
    /// # Errors
    ///
    /// [`BadPayload`] if `value` cannot be written as JSON, or is no object.
    pub fn new<T: Serialize + ?Sized>(value: &T) -> Result<Self, BadPayload> {
        let text = serde_json::to_string(value).map_err(BadPayload::unserializable)?;
        if text.starts_with('{') {
            Ok(Self(text.into()))
        } else {
            Err(BadPayload::not_an_object())
        }
    }

    /// The object `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self("{}".into())
    }

    /// What has come, if it is one object and nothing else.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, BadPayload> {
        let text = std::str::from_utf8(text).map_err(BadPayload::not_text)?;
        let text = text.trim_ascii();
        if !text.starts_with('{') {
            return Err(BadPayload::not_an_object());
        }
        serde_json::from_str::<IgnoredAny>(text).map_err(BadPayload::not_json)?;
        Ok(Self(text.into()))
    }

    /// What has come for somebody else: it is text, and may be no object.
    pub(crate) fn passed_on(text: &[u8]) -> Result<Self, BadPayload> {
        let text = std::str::from_utf8(text).map_err(BadPayload::not_text)?;
        Ok(Self(text.into()))
    }

    /// The text of the object.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object as a `T`.
    ///
    /// # Errors
    ///
    /// If it does not fit, or is nested more than 128 deep.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_objects_are_payloads() {
        for (value, fits) in [
            (json!({}), true),
            (json!({"to": "x"}), true),
            (json!(5), false),
            (json!([]), false),
            (json!(null), false),
        ] {
            assert_eq!(Payload::new(&value).is_ok(), fits, "{value}");
            assert_eq!(Payload::parse(value.to_string().as_bytes()).is_ok(), fits);
        }
    }

    #[test]
    fn what_comes_has_to_be_one_whole_object() {
        for text in [
            &b"{"[..],
            b"",
            b"{}{}",
            b"{\"a\":}",
            b"{\"\xff\":1}",
            b"nope",
        ] {
            assert!(Payload::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Payload::parse(b" {\"a\": 1}\n").unwrap().as_str(),
            "{\"a\": 1}"
        );
    }
}
