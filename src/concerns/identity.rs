//! The names of things on the wire: the identity of a node, the command of a concern.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::BadName;

/// Who a node is: text of 4 to 255 bytes, the same after a restart.
///
/// Clones share the text. After `uuid` of p2p0mq's `LocalPeer`, where four characters are enough in one
/// place and five are asked for in another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    /// The fewest bytes of an identity.
    pub const SHORTEST: usize = 4;
    /// The most bytes of an identity.
    pub const LONGEST: usize = 255;

    /// A new one that nobody else has: 32 hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a message is about, and which concern handles it: text of 1 to 255 bytes.
///
/// Clones share the text. After `command_id` of p2p0mq's `Concern`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Command(Arc<str>);

impl Command {
    /// The most bytes of a command.
    pub const LONGEST: usize = 255;

    /// One that this crate owns, and knows to be neither too short nor too long.
    pub(crate) fn built_in(text: &'static str) -> Self {
        debug_assert!((1..=Self::LONGEST).contains(&text.len()));
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What both kinds of name have: they are made of text within limits, and read as text.
macro_rules! name {
    ($name:ident, $range:expr) => {
        impl TryFrom<&str> for $name {
            type Error = BadName;

            fn try_from(text: &str) -> Result<Self, BadName> {
                if $range.contains(&text.len()) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadName::new(stringify!($name), $range, text.len()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.as_str().try_into()
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = BadName;

            fn try_from(name: &$name) -> Result<Self, BadName> {
                Ok(name.clone())
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                text.try_into()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(Identity, Identity::SHORTEST..=Identity::LONGEST);
name!(Command, 1..=Command::LONGEST);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_4_to_255_bytes_and_a_command_1_to_255() {
        for (length, identity, command) in [
            (0, false, false),
            (1, false, true),
            (3, false, true),
            (4, true, true),
            (255, true, true),
            (256, false, false),
        ] {
            let text = "x".repeat(length);
            assert_eq!(Identity::try_from(&*text).is_ok(), identity, "{length}");
            assert_eq!(Command::try_from(&*text).is_ok(), command, "{length}");
        }
    }

    #[test]
    fn a_random_identity_is_32_hexadecimal_digits() {
        let identity = Identity::random();
        assert_eq!(identity.as_str().len(), 32);
        assert!(identity.as_str().chars().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(identity, Identity::random());
    }
}
