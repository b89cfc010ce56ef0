//! What is posted: a message, and the source it comes from.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::BadSource;

/// A command with its data, from one source.
///
/// `D` is any type in one process, for example an enum of one's own; the
/// default is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<D = serde_json::Value> {
    /// Who it is from; it chooses the handler.
    pub source: Source,
    /// What it asks for or reports; it means what the handler makes of it.
    pub cmd: String,
    /// What comes with it.
    pub data: D,
}

impl<D> Message<D> {
    /// A message from `source`.
    pub fn new(source: &Source, cmd: impl Into<String>, data: D) -> Self {
        Self {
            source: source.clone(),
            cmd: cmd.into(),
            data,
        }
    }
}

/// Who a message is from: text of 1 to 255 bytes.
///
/// Numbers are turned into text by whoever makes the source. Clones share the
/// text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(Arc<str>);

impl Source {
    /// The most bytes the text of a source has.
    pub const LIMIT: usize = 255;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Source {
    type Error = BadSource;

    fn try_from(text: &str) -> Result<Self, BadSource> {
        match text.len() {
            1..=Self::LIMIT => Ok(Self(text.into())),
            length => Err(BadSource { length }),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = BadSource;

    fn try_from(text: String) -> Result<Self, BadSource> {
        text.as_str().try_into()
    }
}

impl FromStr for Source {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        text.try_into()
    }
}

impl AsRef<str> for Source {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A map by source can be asked with the bare text.
impl Borrow<str> for Source {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text in quotes, escaped: fit for a log line whatever is in it.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_text_of_1_to_255_bytes() {
        for (text, length) in [
            (String::new(), Some(0)),
            ("a".to_owned(), None),
            ("a".repeat(255), None),
            ("a".repeat(256), Some(256)),
            ("ß".repeat(127), None),
            ("ß".repeat(128), Some(256)),
        ] {
            let made = Source::try_from(text.as_str());
            assert_eq!(
                made.as_ref().err().map(|bad| bad.length),
                length,
                "{text:?}"
            );
            assert_eq!(text.parse(), made);
            assert_eq!(Source::try_from(text.clone()), made);
            if let Ok(source) = made {
                assert_eq!(source.as_str(), text);
                assert_eq!(source.to_string(), text);
            }
        }
    }

    #[test]
    fn a_source_is_quoted_in_logs() {
        let source = Source::try_from("a\nb").unwrap();
        assert_eq!(format!("{source:?}"), r#""a\nb""#);
    }
}
