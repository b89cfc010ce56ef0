//! Commands, and the words with which the real servers refuse what is none.

use serde_json::Value;

use super::input::Message;

/// A command as it came.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) name: String,
    /// Null if there were none.
    pub(crate) arguments: Value,
    pub(crate) id: Option<Value>,
    pub(crate) oob: bool,
    pub(crate) text: Vec<u8>,
    pub(crate) descriptors: usize,
}

impl Command {
    /// The error is the refusal of the real servers.
    pub(super) fn read(message: Message) -> Result<Self, Refusal> {
        let refuse = |id: &Option<Value>, desc: &str| Refusal {
            id: id.clone(),
            class: "GenericError",
            desc: desc.to_owned(),
        };
        if message.text == b"\xFF" {
            return Err(refuse(&None, "JSON parse error, stray '\u{FFFD}'"));
        }
        let Ok(value) = serde_json::from_slice(&message.text) else {
            return Err(refuse(&None, "JSON parse error, expecting value"));
        };
        let Value::Object(mut members) = value else {
            return Err(refuse(&None, "QMP input must be a JSON object"));
        };
        let id = members.remove("id");
        let arguments = members.remove("arguments").unwrap_or_default();
        if !arguments.is_object() && !arguments.is_null() {
            return Err(refuse(
                &id,
                "QMP input member 'arguments' must be an object",
            ));
        }
        let (in_band, out) = (members.remove("execute"), members.remove("exec-oob"));
        if let Some(other) = members.keys().next() {
            return Err(refuse(
                &id,
                &format!("QMP input member '{other}' is unexpected"),
            ));
        }
        let oob = out.is_some();
        let name = match (in_band, out) {
            (Some(Value::String(name)), None) | (None, Some(Value::String(name))) => name,
            (None, None) => return Err(refuse(&id, "QMP input lacks member 'execute'")),
            (Some(_), Some(_)) => {
                let clash = "QMP input member 'execute' clashes with 'exec-oob'";
                return Err(refuse(&id, clash));
            }
            _ => return Err(refuse(&id, "QMP input member 'execute' must be a string")),
        };
        Ok(Self {
            name,
            arguments,
            id,
            oob,
            text: message.text,
            descriptors: message.descriptors,
        })
    }
}

/// An error reply to what is no command.
pub(super) struct Refusal {
    pub(super) id: Option<Value>,
    pub(super) class: &'static str,
    pub(super) desc: String,
}
