//! The random texts by which the two sides know each other.
//!
//! A master makes one token for each connection and tells it to the slave; each
//! endpoint has one of its own for its self requests. A token is a secret:
//! it comes from the system's randomness, is compared in constant time, and
//! never shows in a log.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;

use subtle::ConstantTimeEq;

/// Opaque text, compared exactly.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// 64 random hexadecimal digits.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Token {
    /// A token as a peer sent it.
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl PartialEq for Token {
    /// The time this takes tells the lengths at most.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn random_tokens_are_64_hexadecimal_digits_and_differ() {
        let tokens: HashSet<Token> = (0..100).map(|_| Token::random().unwrap()).collect();
        assert_eq!(tokens.len(), 100);
        for token in tokens {
            assert_eq!(token.as_str().len(), 64);
            assert!(
                token
                    .as_str()
                    .bytes()
                    .all(|digit| digit.is_ascii_hexdigit())
            );
        }
    }

    #[test]
    fn tokens_are_compared_as_exact_text() {
        let token = Token::from("T1");
        assert_eq!(token, token.clone());
        for other in ["", "T", "t1", "T1 ", "T2", "T11"] {
            assert_ne!(token, Token::from(other));
        }
        assert!(Token::from("").is_empty() && !token.is_empty());
    }

    #[test]
    fn a_token_does_not_show_itself() {
        assert_eq!(format!("{:?}", Token::from("secret")), "Token(…)");
    }
}
