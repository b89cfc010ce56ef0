//! What a client sends: commands, checked and encoded before anything leaves.
//!
//! A server takes commands byte by byte, at about 3 µs each. So they are compact: no blanks,
//! no empty arguments, and the id is a number that counts up.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::checked::Checked;

/// A server accepts 1,024 levels, and answers a message that is far deeper with an error for each
/// stray bracket.
const LEVELS: usize = 1000;
/// The longest message that a server accepts.
const LONGEST: usize = 64 << 20;
/// Printed in place of secrets.
const HIDDEN: &str = "(hidden)";

/// A command as it is sent; cheap to clone.
///
/// `Display` and `Debug` give its name only, since arguments may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    /// `None`: raw bytes.
    name: Option<String>,
    text: Vec<u8>,
}

impl Command {
    /// Encodes a command. Arguments that serialize to nothing, null or an empty object are left out.
    pub(super) fn new(
        name: &str,
        arguments: &(impl Serialize + ?Sized),
        oob: bool,
        id: u64,
    ) -> Result<Self, InvalidCommand> {
        let mut text = Vec::with_capacity(64 + name.len());
        text.extend_from_slice(if oob {
            b"{\"exec-oob\":"
        } else {
            b"{\"execute\":"
        });
        write(&mut text, name)?;
        let before = text.len();
        text.extend_from_slice(b",\"arguments\":");
        let start = text.len();
        write(&mut text, &Checked::new(arguments, LEVELS - 1))?;
        match &text[start..] {
            b"null" | b"{}" => text.truncate(before),
            [b'{', ..] => {}
            _ => return Err(InvalidCommand::Arguments),
        }
        text.extend_from_slice(format!(",\"id\":{id}}}").as_bytes());
        if text.len() > LONGEST {
            return Err(InvalidCommand::TooLong { length: text.len() });
        }
        let name = Some(name.to_owned());
        Ok(Self(Arc::new(Inner { name, text })))
    }

    /// Bytes to be sent as they are.
    pub(super) fn raw(bytes: &[u8]) -> Self {
        let (name, text) = (None, bytes.to_vec());
        Self(Arc::new(Inner { name, text }))
    }

    pub(super) fn is_raw(&self) -> bool {
        self.0.name.is_none()
    }

    /// Its name; empty if it was sent as raw bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name.as_deref().unwrap_or_default()
    }

    /// What was sent, passwords and all, without a final newline.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.0.text
    }

    /// What was sent, fit for a log: without the values of passwords and secrets.
    #[must_use]
    pub fn redacted(&self) -> String {
        match serde_json::from_slice(self.text()) {
            Ok(mut value) => {
                hide_secrets(&mut value, false);
                value.to_string()
            }
            // What cannot be read cannot be told from a password either.
            Err(_) => format!("({} bytes)", self.text().len()),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name.as_deref().unwrap_or("raw bytes"))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({self})")
    }
}

fn write(text: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), InvalidCommand> {
    serde_json::to_writer(text, value).map_err(|error| InvalidCommand::Encode(Arc::new(error)))
}

/// Hides passwords wherever they are, and the data of secret objects, which `in_secret` is inside.
fn hide_secrets(value: &mut Value, in_secret: bool) {
    match value {
        Value::Object(object) => {
            let kind = object.get("qom-type").and_then(Value::as_str);
            let in_secret = in_secret || kind.is_some_and(|kind| kind.starts_with("secret"));
            for (key, value) in object {
                let secret = match key.as_str() {
                    "data" => in_secret,
                    // A line for people may set a password, too.
                    "command-line" => value
                        .as_str()
                        .is_some_and(|line| line.contains("passw") || line.contains("secret")),
                    key => key.contains("passw") || key.contains("passphrase"),
                };
                if secret {
                    *value = HIDDEN.into();
                } else {
                    hide_secrets(value, in_secret);
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                hide_secrets(value, in_secret);
            }
        }
        _ => {}
    }
}

/// A command given as one object, taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) name: String,
    /// Null if there are none.
    pub(super) arguments: Value,
    pub(super) oob: bool,
    /// The caller's own id, which is not sent: ids on the wire belong to the client.
    pub(super) id: Option<Value>,
}

impl Request {
    pub(super) fn new(message: Value) -> Result<Self, InvalidCommand> {
        let Value::Object(mut message) = message else {
            return Err(InvalidCommand::NotAnObject);
        };
        let (name, oob) = match (message.remove("execute"), message.remove("exec-oob")) {
            (Some(Value::String(name)), None) => (name, false),
            (None, Some(Value::String(name))) => (name, true),
            _ => return Err(InvalidCommand::Name),
        };
        let arguments = match message.remove("arguments") {
            Some(arguments @ Value::Object(_)) => arguments,
            None => Value::Null,
            Some(_) => return Err(InvalidCommand::Arguments),
        };
        let id = message.remove("id");
        if let Some((name, _)) = message.into_iter().next() {
            return Err(InvalidCommand::Member { name });
        }
        Ok(Self {
            name,
            arguments,
            oob,
            id,
        })
    }
}

/// Why a command cannot be sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum InvalidCommand {
    /// The message is not an object.
    NotAnObject,
    /// The message has neither or both of `execute` and `exec-oob`, or that is not text.
    Name,
    /// The message has a member that commands do not have.
    Member {
        /// Its name.
        name: String,
    },
    /// The arguments are not an object.
    Arguments,
    /// The arguments do not become JSON: a number is not finite, they are nested deeper than
    /// 1,000 levels, or they refuse to be serialized.
    Encode(Arc<serde_json::Error>),
    /// It is longer than a server accepts, which is 64 MiB.
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl fmt::Display for InvalidCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("a command is a JSON object"),
            Self::Name => f.write_str("a command has either an execute or an exec-oob, a text"),
            Self::Member { name } => write!(f, "a command has no member {name:?}"),
            Self::Arguments => f.write_str("arguments are a JSON object"),
            Self::Encode(_) => f.write_str("the arguments do not become JSON"),
            Self::TooLong { length } => {
                write!(f, "{length} bytes are more than a server accepts")
            }
        }
    }
}

impl StdError for InvalidCommand {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Encode(cause) => Some(&**cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::error::Error as _;

    use serde_json::json;

    use super::*;

    fn text(name: &str, arguments: impl Serialize, oob: bool, id: u64) -> String {
        let command = Command::new(name, &arguments, oob, id).unwrap();
        assert_eq!(command.name(), name);
        String::from_utf8(command.text().to_vec()).unwrap()
    }

    fn refused(arguments: impl Serialize) -> InvalidCommand {
        Command::new("x", &arguments, false, 1).unwrap_err()
    }

    #[test]
    fn a_command_is_compact_and_leaves_out_arguments_that_say_nothing() {
        let none: [Value; 3] = [json!(null), json!({}), json!(Option::<u8>::None)];
        for nothing in none {
            let expected = r#"{"execute":"stop","id":7}"#;
            assert_eq!(text("stop", nothing, false, 7), expected);
        }
        assert_eq!(text("stop", (), false, 7), r#"{"execute":"stop","id":7}"#);
        assert_eq!(
            text("migrate-pause", (), true, 0),
            r#"{"exec-oob":"migrate-pause","id":0}"#
        );
        assert_eq!(
            text("x", json!({"b": [1, 2.5], "a": {}}), false, u64::MAX),
            r#"{"execute":"x","arguments":{"a":{},"b":[1,2.5]},"id":18446744073709551615}"#
        );
        let map = BTreeMap::from([("é", "\u{7}")]);
        assert_eq!(
            text("a \"name\"", map, false, 1),
            r#"{"execute":"a \"name\"","arguments":{"é":"\u0007"},"id":1}"#
        );
    }

    #[test]
    fn what_a_server_would_not_take_is_refused() {
        let lists = [json!([]), json!([1]), json!("text"), json!(5), json!(true)];
        for arguments in lists {
            assert!(matches!(refused(arguments), InvalidCommand::Arguments));
        }
        let not_finite = refused(BTreeMap::from([("a", f64::NAN)]));
        let cause = not_finite.source().unwrap().to_string();
        assert_eq!(cause, "the number NaN is not finite");
        let keys_not_text = refused(BTreeMap::from([((1, 2), 3)]));
        assert!(matches!(keys_not_text, InvalidCommand::Encode(_)));
        let length = match refused(json!({"a": "x".repeat(LONGEST)})) {
            InvalidCommand::TooLong { length } => length,
            other => panic!("{other:?}"),
        };
        let around = r#"{"execute":"x","arguments":{"a":""},"id":1}"#.len();
        assert_eq!(length, LONGEST + around);
    }

    #[test]
    fn a_thousand_levels_pass_and_one_more_does_not() {
        let nested = |levels| (2..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        assert!(text("x", nested(LEVELS), false, 1).contains("{}"));
        let cause = refused(nested(LEVELS + 1)).source().unwrap().to_string();
        assert_eq!(cause, "nested too deep");
    }

    #[test]
    fn a_message_gives_up_its_id_and_keeps_the_rest() {
        let request = |message| Request::new(message).unwrap();
        let stop = request(json!({"execute": "stop"}));
        assert_eq!(
            stop,
            Request {
                name: "stop".to_owned(),
                arguments: Value::Null,
                oob: false,
                id: None
            }
        );
        let pause = request(json!({"id": null, "exec-oob": "x", "arguments": {"id": 1}}));
        assert_eq!(
            pause,
            Request {
                name: "x".to_owned(),
                arguments: json!({"id": 1}),
                oob: true,
                id: Some(Value::Null)
            }
        );
    }

    #[test]
    fn a_message_that_is_no_command_is_refused() {
        let refused = |message| Request::new(message).unwrap_err();
        for message in [json!([]), json!("stop"), json!(null)] {
            assert!(matches!(refused(message), InvalidCommand::NotAnObject));
        }
        for message in [
            json!({}),
            json!({"id": 1}),
            json!({"execute": "a", "exec-oob": "a"}),
            json!({"execute": "a", "exec-oob": null}),
            json!({"execute": 5}),
            json!({"exec-oob": ["a"]}),
        ] {
            assert!(matches!(refused(message), InvalidCommand::Name));
        }
        for arguments in [json!([]), json!(null), json!("a")] {
            let message = json!({"execute": "a", "arguments": arguments});
            assert!(matches!(refused(message), InvalidCommand::Arguments));
        }
        let odd = refused(json!({"execute": "a", "argument": {}}));
        assert_eq!(odd.to_string(), r#"a command has no member "argument""#);
    }

    #[test]
    fn secrets_are_hidden_from_logs_and_nothing_else_is() {
        let secret = "letmein";
        for (name, arguments) in [
            (
                "set_password",
                json!({"protocol": "vnc", "password": secret}),
            ),
            (
                "guest-set-user-password",
                json!({"username": "u", "password": secret}),
            ),
            (
                "object-add",
                json!({"qom-type": "secret", "id": "s", "data": secret}),
            ),
            (
                "object-add",
                json!({"qom-type": "secret", "props": {"data": secret}}),
            ),
            (
                "transaction",
                json!({"actions": [{"data": {"new-passphrase": secret}}]}),
            ),
            (
                "human-monitor-command",
                json!({"command-line": "set_password vnc letmein"}),
            ),
            (
                "human-monitor-command",
                json!({"command-line": "object_add secret,id=s,data=letmein"}),
            ),
        ] {
            let command = Command::new(name, &arguments, false, 1).unwrap();
            let log = command.redacted();
            assert!(!log.contains(secret) && log.contains(HIDDEN), "{log}");
            assert!(log.contains(name), "{log}");
            assert!(!format!("{command} {command:?}").contains(secret));
        }
        let harmless = json!({"qom-type": "iothread", "data": 1, "command-line": "info"});
        let log = Command::new("object-add", &harmless, false, 1).unwrap();
        let log: Value = serde_json::from_str(&log.redacted()).unwrap();
        assert_eq!(log["arguments"], harmless);
        let raw = Command::raw(br#"{"execute": "set_password", "password": "letmein"#);
        assert_eq!(raw.redacted(), "(48 bytes)");
        assert_eq!((raw.name(), &*raw.to_string()), ("", "raw bytes"));
    }
}
