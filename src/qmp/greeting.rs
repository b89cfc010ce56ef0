//! The start of a session: the greeting and the negotiation.
//!
//! Whatever comes meanwhile is kept or dropped for what it is: events may come before the greeting
//! already, and the replies to the previous client's commands come before ours.

use serde_json::{Value, json};

use crate::protocol::{self, Hands, Kind};

use super::command::Command;
use super::error::{Error, Waiting};
use super::message::{Inbound, Object, Outcome};
use super::monitor::{Monitor, Outgoing};

/// What came out of the start of a session.
#[derive(Default)]
pub(super) struct Start {
    /// The whole greeting, if the server gave one.
    pub(super) greeting: Option<Object>,
    /// Whether out-of-band commands are enabled.
    pub(super) oob: bool,
    /// Everything that came, with its number.
    pub(super) messages: Vec<(u64, Object)>,
    /// How many replies were for somebody else.
    pub(super) strange: u64,
}

impl Start {
    /// What the server says it can do; what is no text among it is left out.
    pub(super) fn capabilities(&self) -> Vec<String> {
        let offered = self
            .greeting
            .as_ref()
            .map(|greeting| &greeting["QMP"]["capabilities"]);
        let offered = offered.and_then(Value::as_array).into_iter().flatten();
        offered
            .filter_map(|capability| Some(capability.as_str()?.to_owned()))
            .collect()
    }
}

/// Greets and negotiates, as far as the options say.
pub(super) fn shake(monitor: &Monitor, hands: &mut Hands<'_, Monitor>) -> Result<Start, Error> {
    let mut start = Start::default();
    if !monitor.options.greeting {
        return Ok(start);
    }
    start.greeting = Some(greeting(hands, &mut start)?);
    if monitor.options.negotiate {
        start.oob = monitor.options.oob && start.capabilities().iter().any(|it| it == "oob");
        negotiate(monitor, hands, &mut start)?;
    }
    Ok(start)
}

fn greeting(hands: &mut Hands<'_, Monitor>, start: &mut Start) -> Result<Object, Error> {
    loop {
        let object = hands.recv().map_err(|error| match error.kind() {
            Kind::Timeout { allowed, .. } => Error::Timeout {
                waiting: Waiting::Greeting,
                allowed: *allowed,
            },
            Kind::Decode { excerpt, .. } => Error::NotQmp {
                excerpt: String::from_utf8_lossy(excerpt).into(),
                cause: Some(error.clone()),
            },
            _ => Error::of_loop(error),
        })?;
        let object = object.into_object();
        start.messages.push((hands.number(), object.clone()));
        match Inbound::from(object) {
            Inbound::Event(_) => {}
            Inbound::Greeting(greeting) if is_proper(&greeting) => {
                return Ok(greeting);
            }
            _ => {
                let (_, object) = &start.messages[start.messages.len() - 1];
                let mut text = Value::Object(object.clone()).to_string();
                text.truncate(text.floor_char_boundary(200));
                return Err(Error::NotQmp {
                    excerpt: text.into(),
                    cause: None,
                });
            }
        }
    }
}

fn is_proper(greeting: &Object) -> bool {
    let qmp = &greeting["QMP"];
    qmp["version"].is_object() && qmp["capabilities"].is_array()
}

fn negotiate(
    monitor: &Monitor,
    hands: &mut Hands<'_, Monitor>,
    start: &mut Start,
) -> Result<(), Error> {
    let failed = |error: protocol::Error| match error.kind() {
        Kind::Timeout { allowed, .. } => Error::Timeout {
            waiting: Waiting::Negotiation,
            allowed: *allowed,
        },
        _ => Error::of_loop(error),
    };
    // An id that nobody else's reply has.
    let id = getrandom::u64().map_err(Error::no_randomness)?;
    let id = Value::from(format!("{id:016x}"));
    let mut message = json!({"execute": "qmp_capabilities", "id": id});
    if start.oob {
        message["arguments"] = json!({"enable": ["oob"]});
    }
    let mut text = message.to_string();
    if monitor.options.newline {
        text.push('\n');
    }
    hands
        .send(Outgoing::from(Command::raw(text.as_bytes())))
        .map_err(failed)?;
    loop {
        let object = hands.recv().map_err(failed)?.into_object();
        start.messages.push((hands.number(), object.clone()));
        match Inbound::from(object) {
            Inbound::Reply(answer) if answer.id.as_ref() == Some(&id) => {
                return match answer.outcome {
                    Outcome::Return(_) | Outcome::Text(_) => Ok(()),
                    Outcome::Error { class, desc } => Err(Error::Negotiation {
                        class: class.into(),
                        desc: desc.into(),
                    }),
                    Outcome::Malformed(object) => Err(Error::Negotiation {
                        class: "no class".into(),
                        desc: Value::Object(object).to_string().into(),
                    }),
                };
            }
            Inbound::Event(_) => {}
            _ => start.strange += 1,
        }
    }
}
