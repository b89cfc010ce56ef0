//! A schema as a type: all that a server says about itself.

use serde::Deserialize;

/// What `query-qmp-schema` returns.
pub(crate) type Schema = Vec<Entity>;

/// A command, an event or a type.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(dead_code, reason = "what is measured is how it is made")]
pub(crate) struct Entity {
    name: String,
    meta_type: Meta,
    features: Option<Vec<String>>,
    /// Of a command.
    arg_type: Option<String>,
    ret_type: Option<String>,
    allow_oob: Option<bool>,
    /// Of an object, or an enumeration, or an alternate.
    members: Option<Vec<Member>>,
    values: Option<Vec<String>>,
    tag: Option<String>,
    variants: Option<Vec<Variant>>,
    /// Of an array.
    element_type: Option<String>,
    /// Of what JSON has itself.
    json_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Meta {
    Builtin,
    Enum,
    Array,
    Object,
    Alternate,
    Command,
    Event,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what is measured is how it is made")]
struct Member {
    name: Option<String>,
    r#type: Option<String>,
    default: Option<()>,
    features: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what is measured is how it is made")]
struct Variant {
    case: String,
    r#type: String,
}
