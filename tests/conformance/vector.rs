//! The vectors' vocabulary: what can stand in `interaction.json`, and what stands for what.
//!
//! Words this file does not know are errors, so that no step or check is passed over. Placeholders are filled when a
//! part of a vector is used, since some facts (the id of a task) are known only then.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// All vectors there are.
pub(crate) fn recorded() -> Vec<Vector> {
    serde_json::from_str(include_str!("interaction.json")).expect("the file is a list of vectors")
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Slave,
    Master,
}

/// One recorded exchange with what comes before and after it. What only tells about the original is left out.
#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) side: Side,
    #[serde(default)]
    pub(crate) sink_replies: Vec<Rule>,
    #[serde(default)]
    pub(crate) setup: Vec<Value>,
    pub(crate) request: Value,
    pub(crate) expect: Expect,
    #[serde(default)]
    pub(crate) also_accept: Vec<Expect>,
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    #[serde(default)]
    pub(crate) may_close: bool,
    #[serde(default)]
    pub(crate) then: Vec<Value>,
    #[serde(default = "one")]
    pub(crate) slaves: usize,
    #[serde(default = "half_a_minute")]
    pub(crate) tolerance: f64,
    #[serde(default = "half_a_second")]
    pub(crate) heartbeat: f64,
}

impl Vector {
    /// How many seconds its steps sleep before the request.
    pub(crate) fn sleeps(&self) -> f64 {
        self.setup
            .iter()
            .filter_map(|step| step["seconds"].as_f64())
            .sum()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) body: Value,
}

impl Request {
    /// The body's bytes; none is no body and no length.
    pub(crate) fn body(&self) -> Option<Vec<u8>> {
        let around = |middle: String| {
            let text = |key| self.body[key].as_str().unwrap_or_default();
            [text("prefix"), &middle, text("suffix")]
                .concat()
                .into_bytes()
        };
        let length = |key: &str| {
            self.body[key]
                .as_u64()
                .and_then(|length| usize::try_from(length).ok())
        };
        Some(match &self.body {
            Value::Null => return None,
            Value::String(text) => text.clone().into_bytes(),
            body => {
                if let Some(text) = body["$base64"].as_str() {
                    base64(text)
                } else if let Some(length) = length("$fill") {
                    around("x".repeat(length))
                } else if let Some(depth) = length("$nest") {
                    around("[".repeat(depth) + &"]".repeat(depth))
                } else {
                    body.to_string().into_bytes()
                }
            }
        })
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) status: u16,
    pub(crate) json: Value,
}

/// A step before the request, or among the checks after it.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    Connect {
        #[serde(default = "first_token")]
        token: String,
        #[serde(default = "no_data")]
        data: Value,
        address: Option<String>,
    },
    Disconnect {
        #[serde(default = "first_token")]
        token: String,
        #[serde(default = "no_data")]
        data: Value,
    },
    Task {
        #[serde(default = "first_token")]
        token: String,
        id: String,
        #[serde(default)]
        data: Value,
    },
    Shutdown,
    Request {
        request: Request,
    },
    Hold,
    Sleep {
        seconds: f64,
    },
    SinkReply {
        reply: Rule,
        #[serde(default = "one")]
        sink: usize,
    },
    WaitSink {
        want: Want,
        #[serde(default = "five_seconds")]
        within: f64,
        #[serde(default = "one")]
        count: usize,
        #[serde(default = "one")]
        sink: usize,
    },
    Submit {
        #[serde(default = "one")]
        slave: usize,
        #[serde(default = "no_data")]
        data: Value,
    },
    Detach {
        #[serde(default = "one")]
        slave: usize,
    },
}

/// Something to be seen after the answer.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Check {
    Sink {
        sink: Want,
        #[serde(default = "five_seconds")]
        within: f64,
        #[serde(default = "one")]
        number: usize,
        #[serde(default)]
        any: bool,
    },
    NoSink {
        no_sink: Want,
        #[serde(default = "five_seconds")]
        within: f64,
        #[serde(default = "one")]
        number: usize,
    },
    Printed {
        printed: Map<String, Value>,
        #[serde(default = "five_seconds")]
        within: f64,
        #[serde(default)]
        any: bool,
    },
    Request {
        request: Request,
        expect: Expect,
    },
    Step {
        step: Value,
    },
}

/// What a request at a sink has to be like.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Want {
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "given")]
    pub(crate) json: Option<Value>,
}

/// How a sink answers certain requests.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) mode: Option<Mode>,
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default = "success")]
    pub(crate) json: Value,
    pub(crate) times: Option<usize>,
    /// Which sink, in a vector's `sink_replies`.
    #[serde(default = "one")]
    pub(crate) sink: usize,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            method: None,
            path: None,
            mode: None,
            status: ok(),
            json: success(),
            times: None,
            sink: one(),
        }
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Drop,
}

/// What the placeholders stand for.
#[derive(Default)]
pub(crate) struct Facts(BTreeMap<String, String>);

impl Facts {
    pub(crate) fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Fills the placeholders of a part of a vector and reads it as what it is.
    pub(crate) fn read<T: DeserializeOwned>(&self, part: &Value) -> Result<T, String> {
        serde_json::from_value(self.fill(part)?).map_err(|error| format!("{error} in {part}"))
    }

    fn fill(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => Value::String(self.fill_text(text)?),
            Value::Array(items) => items
                .iter()
                .map(|item| self.fill(item))
                .collect::<Result<_, _>>()?,
            Value::Object(map) => {
                let filled = map
                    .iter()
                    .map(|(key, value)| Ok((self.fill_text(key)?, self.fill(value)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            other => other.clone(),
        })
    }

    fn fill_text(&self, text: &str) -> Result<String, String> {
        let filled = self.0.iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{{{name}}}}}"), value)
        });
        if filled.contains("{{") {
            Err(format!("a fact in {text:?} is not known"))
        } else {
            Ok(filled)
        }
    }
}

/// A value that is there, null included.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text
        .bytes()
        .filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
    let bits: Vec<u8> = digits
        .flat_map(|digit| (0..6).rev().map(move |bit| u8::from(digit >> bit & 1 == 1)))
        .collect();
    bits.chunks_exact(8)
        .map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit))
        .collect()
}

fn one() -> usize {
    1
}

fn ok() -> u16 {
    200
}

fn five_seconds() -> f64 {
    5.0
}

fn half_a_second() -> f64 {
    0.5
}

fn half_a_minute() -> f64 {
    30.0
}

fn first_token() -> String {
    "T1".to_owned()
}

fn no_data() -> Value {
    json!({})
}

fn success() -> Value {
    json!({"success": true, "code": 0, "message": "ok", "data": null})
}
