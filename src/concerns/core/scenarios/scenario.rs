//! A simulated scenario as it stands in the file.
//!
//! What is not known here is an error: nothing of a scenario is passed over in silence.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::judge::Pattern;
use super::log::identity;

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) id: String,
    pub(super) title: String,
    /// In the order of the file, which is that of the alphabet.
    pub(super) nodes: BTreeMap<String, NodeSpec>,
    /// With their times, in milliseconds.
    pub(super) steps: Vec<(u64, Step)>,
    pub(super) until: u64,
    pub(super) expect: Vec<Assertion>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeSpec {
    pub(super) concerns: Vec<ConcernSpec>,
    pub(super) bind: Option<String>,
    pub(super) advertise: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ConcernSpec {
    /// `hello`, `hb` or `ask`.
    BuiltIn(String),
    Custom(Box<Custom>),
}

/// What a concern does that a scenario brings along.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Custom {
    pub(super) command: String,
    #[serde(default)]
    pub(super) on_request: Reaction,
    #[serde(default)]
    pub(super) on_reply: Reaction,
    pub(super) on_message_sent: Option<Raise>,
    pub(super) on_send_failed: Option<String>,
    pub(super) on_execute: Option<Once>,
}

/// What is done when a message comes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reaction {
    pub(super) reply: Option<Value>,
    pub(super) priority: Option<String>,
    pub(super) raise: Option<String>,
    /// Raised only for these values of `payload.n`.
    pub(super) when: Option<Vec<u64>>,
    /// An answer of a wrong shape.
    #[serde(rename = "return")]
    pub(super) odd: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raise {
    pub(super) raise: String,
}

/// What is done once, at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Once {
    #[serde(deserialize_with = "milliseconds")]
    pub(super) at: u64,
    pub(super) remove_peer: Option<String>,
    pub(super) raise: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Step {
    AddPeer {
        node: String,
        peer: String,
        #[serde(default, deserialize_with = "given")]
        address: Option<Option<String>>,
    },
    RemovePeer {
        node: String,
        peer: String,
    },
    ConnectPair {
        a: String,
        b: String,
        next_hb: Option<f64>,
    },
    SetPeer {
        node: String,
        peer: String,
        #[serde(default, deserialize_with = "given")]
        address: Option<Option<String>>,
        state: Option<String>,
        via: Option<String>,
        next_hb: Option<f64>,
        last_hb: Option<f64>,
    },
    DefaultRoute {
        node: String,
        via: String,
    },
    Send(Send),
    Ask {
        node: String,
        about: String,
        #[serde(default)]
        exclude: Vec<String>,
    },
    Inject(Inject),
    Preload(Inject),
    Kill {
        node: String,
    },
    Revive {
        node: String,
    },
    AddConcern {
        node: String,
        concern: Box<Custom>,
    },
    Stop {
        node: String,
    },
}

/// A message that a concern sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    pub(super) node: String,
    pub(super) to: String,
    pub(super) next_hop: Option<String>,
    pub(super) command: String,
    #[serde(default)]
    pub(super) payload: Map<String, Value>,
    pub(super) priority: Option<String>,
    pub(super) ttl: Option<f64>,
    pub(super) count: Option<u64>,
    #[serde(default)]
    pub(super) no_handler: bool,
}

impl Send {
    /// The payloads of its messages, in order.
    pub(super) fn payloads(&self) -> Vec<Value> {
        numbered(&self.payload, self.count)
    }
}

/// A message that comes from a neighbour.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inject {
    pub(super) node: String,
    pub(super) from: String,
    pub(super) source: Option<String>,
    pub(super) to: Option<String>,
    /// A name or a number.
    pub(super) kind: Value,
    pub(super) command: String,
    #[serde(default)]
    pub(super) payload: Map<String, Value>,
    pub(super) count: Option<u64>,
}

impl Inject {
    pub(super) fn payloads(&self) -> Vec<Value> {
        numbered(&self.payload, self.count)
    }
}

/// Several payloads have numbers.
fn numbered(payload: &Map<String, Value>, count: Option<u64>) -> Vec<Value> {
    let Some(count) = count else {
        return vec![Value::Object(payload.clone())];
    };
    let with = |n: u64| {
        let mut payload = payload.clone();
        payload.insert("n".into(), n.into());
        Value::Object(payload)
    };
    (0..count).map(with).collect()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Assertion {
    StateAt {
        t: f64,
        node: String,
        peer: String,
        is: Value,
        via: Option<String>,
    },
    Never(Pattern),
    Count {
        of: Pattern,
        exactly: Option<usize>,
        min: Option<usize>,
        max: Option<usize>,
    },
    Times {
        of: Pattern,
        at: Vec<f64>,
        tol: Option<f64>,
    },
    MaxGap {
        of: Pattern,
        secs: f64,
    },
    Sequence {
        events: Vec<Pattern>,
    },
    Values {
        of: Pattern,
        field: String,
        #[serde(default)]
        any_order: bool,
        are: Vec<Value>,
    },
    PerStep {
        of: Pattern,
        are: Vec<usize>,
    },
    Alive {
        node: String,
    },
}

impl Scenario {
    /// Reads one of the entries of the file.
    pub(super) fn read(entry: &Value) -> Self {
        let entry = with_identities(entry);
        let part = |key: &str| entry[key].clone();
        let text = |key: &str| entry[key].as_str().expect("it is text").to_owned();
        let id = text("id");
        let timed = |step: &Value| {
            let mut fields = step.as_object().expect("a step has fields").clone();
            let at = fields.remove("t").and_then(|at| at.as_f64());
            let read = serde_json::from_value(Value::Object(fields));
            let step = read.unwrap_or_else(|error| panic!("{id}: {step}: {error}"));
            (in_milliseconds(at.expect("a step has a time")), step)
        };
        let steps = part("steps");
        Self {
            title: text("title"),
            nodes: read(&id, part("nodes")),
            steps: steps
                .as_array()
                .expect("a list")
                .iter()
                .map(timed)
                .collect(),
            until: in_milliseconds(part("until").as_f64().expect("a time")),
            expect: read(&id, part("expect")),
            id,
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(id: &str, value: Value) -> T {
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{id}: {error}"))
}

/// In payloads, `<A>` stands for the identity of A.
fn with_identities(value: &Value) -> Value {
    match value {
        Value::String(text) => match text
            .strip_prefix('<')
            .and_then(|text| text.strip_suffix('>'))
        {
            Some(name) if name.len() == 1 => identity(name).as_str().into(),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(with_identities).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| (key.clone(), with_identities(value));
            Value::Object(fields.iter().map(field).collect())
        }
        _ => value.clone(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times are small and not before the beginning"
)]
pub(super) fn in_milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

fn milliseconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    f64::deserialize(from).map(in_milliseconds)
}

/// Tells null from nothing.
fn given<'de, D, T>(from: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Some)
}
