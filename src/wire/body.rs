//! The bodies of the requests, written by one side and read by the other.
//!
//! Writers borrow what they send and send `{}` for anything falsy, as
//! DI-engine does. Readers take a parsed body apart without copying, ignore
//! what they do not know, and say what they missed in a [`BodyError`], which
//! has the answer for each endpoint.

use std::error::Error;
use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::address::{Address, AddressError};
use super::code::{MasterCode, SlaveCode};
use super::envelope;
use super::json::{self, ParseError};
use crate::http::{Fault, Response};

/// The body of a request that has nothing to say.
pub(crate) const EMPTY: &[u8] = b"{}";

/// `POST /connect`: a master wants this slave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConnectRequest {
    /// Where the master listens.
    pub(crate) address: Address,
    /// What the master's user has to say about it.
    pub(crate) data: Value,
}

impl ConnectRequest {
    pub(crate) fn write(address: &Address, data: &Value) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Master {
            address: String,
        }
        #[derive(serde::Serialize)]
        struct Body<'a> {
            master: Master,
            data: OrEmpty<'a>,
        }
        let address = address.to_string();
        json::to_vec(&Body {
            master: Master { address },
            data: OrEmpty(data),
        })
    }

    pub(crate) fn read(body: Value) -> Result<Self, BodyError> {
        let mut body = object(body, "the body")?;
        let mut master = object(take(&mut body, "master")?, "master")?;
        let data = take(&mut body, "data")?;
        let address = text(take(&mut master, "address")?, "address")?;
        Ok(Self {
            address: Address::of_master(&address)?.reachable()?,
            data,
        })
    }
}

/// `DELETE /disconnect`: a master lets this slave go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DisconnectRequest {
    /// What the master's user has to say about it.
    pub(crate) data: Value,
}

impl DisconnectRequest {
    pub(crate) fn write(data: &Value) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            data: OrEmpty<'a>,
        }
        json::to_vec(&Body {
            data: OrEmpty(data),
        })
    }

    pub(crate) fn read(body: Value) -> Result<Self, BodyError> {
        let mut body = object(body, "the body")?;
        Ok(Self {
            data: take(&mut body, "data")?,
        })
    }
}

/// `POST /task/new`: a task for this slave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskRequest {
    pub(crate) id: Uuid,
    pub(crate) data: Value,
}

impl TaskRequest {
    pub(crate) fn write(id: Uuid, data: &Value) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            task: Task,
            data: OrEmpty<'a>,
        }
        json::to_vec(&Body {
            task: Task { id },
            data: OrEmpty(data),
        })
    }

    /// The id alone, whatever else may be missing.
    ///
    /// A busy slave looks at nothing else: it has to know whether this is the
    /// task it has.
    pub(crate) fn peek_id(body: &Value) -> Option<Uuid> {
        parse_id(body.get("task")?.get("id")?.as_str()?)
    }

    pub(crate) fn read(body: Value) -> Result<Self, BodyError> {
        let mut body = object(body, "the body")?;
        let task = object(take(&mut body, "task")?, "task")?;
        let data = take(&mut body, "data")?;
        Ok(Self {
            id: id(task)?,
            data,
        })
    }
}

/// `PUT /slave/task/complete` and `PUT /slave/task/fail`: how a task ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) id: Uuid,
    pub(crate) result: Value,
}

impl Report {
    pub(crate) fn write(id: Uuid, result: &Value) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            task: Task,
            result: OrEmpty<'a>,
        }
        json::to_vec(&Body {
            task: Task { id },
            result: OrEmpty(result),
        })
    }

    pub(crate) fn read(body: Value) -> Result<Self, BodyError> {
        // The order decides between DI-engine's answers of its own for a
        // missing task and a missing id, and the answer to all the rest.
        let mut body = object(body, "the body")?;
        let task = take(&mut body, "task")?;
        let result = take(&mut body, "result")?;
        Ok(Self {
            id: id(object(task, "task")?)?,
            result,
        })
    }
}

/// Reads a body that was, or was not, to be had.
pub(crate) fn parse(body: Result<&[u8], Fault>) -> Result<Value, BodyError> {
    Ok(json::parse(body.map_err(BodyError::Unread)?)?)
}

/// What is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It could not be had.
    Unread(Fault),
    /// It is not JSON.
    Json(ParseError),
    /// It, or this key in it, is not what it has to be.
    Not {
        key: &'static str,
        expected: &'static str,
    },
    /// This key is missing.
    Missing { key: &'static str },
    /// The master's address leads nowhere.
    Address(AddressError),
}

impl BodyError {
    /// The slave's answer on `/connect`.
    pub(crate) fn on_connect(&self) -> Response {
        self.refusal(SlaveCode::SlaveConnectionRefused, "Connection")
    }

    /// The slave's answer on `/disconnect`.
    pub(crate) fn on_disconnect(&self) -> Response {
        self.refusal(SlaveCode::SlaveDisconnectionRefused, "Disconnection")
    }

    /// The slave's answer on `/task/new`.
    pub(crate) fn on_task(&self) -> Response {
        self.refusal(SlaveCode::TaskRefused, "Task")
    }

    /// The master's answer to a report.
    pub(crate) fn on_report(&self) -> Response {
        // DI-engine answers 200 where task or id is missing. Anything else ends the task
        // thread of a Python slave, whose result may well be too long.
        let (status, message) = match self {
            Self::Unread(Fault::TooLong) => (200, format!("Task data invalid: {self}.")),
            Self::Missing { key: "task" } => (200, "Task information not found.".to_owned()),
            Self::Missing { key: "id" } => (200, "Task ID not found.".to_owned()),
            other => (other.status(), format!("Task data invalid: {other}.")),
        };
        envelope::failure(status, MasterCode::TaskDataInvalid, &message)
    }

    fn status(&self) -> u16 {
        match self {
            Self::Unread(fault) => envelope::fault_status(*fault),
            _ => 400,
        }
    }

    fn refusal(&self, code: SlaveCode, what: &str) -> Response {
        envelope::refusal(
            self.status(),
            code,
            &format!("{what} data invalid: {self}."),
            &Value::Null,
        )
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(fault) => {
                f.write_str(envelope::fault_message(*fault).trim_end_matches('.'))
            }
            Self::Json(error) => error.fmt(f),
            Self::Not { key, expected } => write!(f, "{key} is not {expected}"),
            Self::Missing { key } => write!(f, "{key} is missing"),
            Self::Address(error) => error.fmt(f),
        }
    }
}

impl Error for BodyError {}

impl From<ParseError> for BodyError {
    fn from(error: ParseError) -> Self {
        Self::Json(error)
    }
}

impl From<AddressError> for BodyError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

#[derive(serde::Serialize)]
struct Task {
    #[serde(serialize_with = "canonical")]
    id: Uuid,
}

fn canonical<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&id.hyphenated())
}

/// `{}` in the place of anything falsy.
struct OrEmpty<'a>(&'a Value);

impl Serialize for OrEmpty<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if json::is_truthy(self.0) {
            self.0.serialize(serializer)
        } else {
            serializer.serialize_map(Some(0))?.end()
        }
    }
}

fn object(value: Value, key: &'static str) -> Result<Map<String, Value>, BodyError> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(BodyError::Not {
            key,
            expected: "an object",
        }),
    }
}

fn take(map: &mut Map<String, Value>, key: &'static str) -> Result<Value, BodyError> {
    map.remove(key).ok_or(BodyError::Missing { key })
}

fn text(value: Value, key: &'static str) -> Result<String, BodyError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(BodyError::Not {
            key,
            expected: "text",
        }),
    }
}

fn id(mut task: Map<String, Value>) -> Result<Uuid, BodyError> {
    let id = text(take(&mut task, "id")?, "id")?;
    parse_id(&id).ok_or(BodyError::Not {
        key: "id",
        expected: "a UUID",
    })
}

/// Reads an id in any form that Python's `UUID` takes.
///
/// `urn:` and `uuid:`, braces at the ends and all hyphens are left out, and
/// what remains has to be 32 hexadecimal digits.
fn parse_id(text: &str) -> Option<Uuid> {
    if let Ok(id) = text.parse::<Hyphenated>() {
        return Some(id.into_uuid()); // as everybody writes it
    }
    let text = text.replace("urn:", "").replace("uuid:", "");
    let digits = text.trim_matches(['{', '}']).replace('-', "");
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(Uuid::from_u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::Reply;
    use serde_json::json;

    const ID: &str = "0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001";

    fn uuid() -> Uuid {
        Uuid::from_u128(0x0b6f2a52_8f0e_4a53_9d34_6f0f6cbb0001)
    }

    fn master() -> Address {
        Address::of_master("http://10.0.0.1:7235/base/").unwrap()
    }

    fn reply(response: &Response) -> (u16, bool, i64, String, Value) {
        let reply = Reply::read(response.status, &response.body).unwrap();
        (
            reply.status,
            reply.success,
            reply.code,
            reply.message,
            reply.data,
        )
    }

    #[test]
    fn requests_have_the_bodies_of_di_engine() {
        let data = json!({ "n": [1, null] });
        let table = [
            (
                ConnectRequest::write(&master(), &data),
                json!({ "master": { "address": "http://10.0.0.1:7235/base/" }, "data": data }),
            ),
            (DisconnectRequest::write(&data), json!({ "data": data })),
            (
                TaskRequest::write(uuid(), &data),
                json!({ "task": { "id": ID }, "data": data }),
            ),
            (
                Report::write(uuid(), &data),
                json!({ "task": { "id": ID }, "result": data }),
            ),
            (EMPTY.to_vec(), json!({})),
        ];
        for (bytes, expected) in table {
            assert_eq!(json::parse(&bytes), Ok(expected));
        }
    }

    #[test]
    fn what_is_written_is_read_and_falsy_data_becomes_an_empty_object() {
        let table = [
            (json!(null), json!({})),
            (json!(false), json!({})),
            (json!(0), json!({})),
            (json!(""), json!({})),
            (json!([]), json!({})),
            (json!([1, { "x": null }]), json!([1, { "x": null }])),
            (json!("text"), json!("text")),
            (json!(-1.5), json!(-1.5)),
        ];
        for (sent, data) in table {
            let body = json::parse(&ConnectRequest::write(&master(), &sent)).unwrap();
            assert_eq!(
                ConnectRequest::read(body),
                Ok(ConnectRequest {
                    address: master(),
                    data: data.clone()
                })
            );
            let body = json::parse(&DisconnectRequest::write(&sent)).unwrap();
            assert_eq!(
                DisconnectRequest::read(body),
                Ok(DisconnectRequest { data: data.clone() })
            );
            let body = json::parse(&TaskRequest::write(uuid(), &sent)).unwrap();
            assert_eq!(TaskRequest::peek_id(&body), Some(uuid()));
            assert_eq!(
                TaskRequest::read(body),
                Ok(TaskRequest {
                    id: uuid(),
                    data: data.clone()
                })
            );
            let body = json::parse(&Report::write(uuid(), &sent)).unwrap();
            assert_eq!(
                Report::read(body),
                Ok(Report {
                    id: uuid(),
                    result: data
                })
            );
        }
    }

    #[test]
    fn readers_take_null_data_as_it_is_and_ignore_unknown_keys() {
        let body =
            json!({ "master": { "address": "http://h", "x": 1 }, "data": null, "more": [1] });
        assert_eq!(ConnectRequest::read(body).unwrap().data, Value::Null);
        assert_eq!(
            DisconnectRequest::read(json!({ "data": null, "x": 1 }))
                .unwrap()
                .data,
            Value::Null
        );
        let body = json!({ "task": { "id": ID, "x": 1 }, "data": null, "x": 1 });
        assert_eq!(TaskRequest::read(body).unwrap().data, Value::Null);
        let body = json!({ "task": { "id": ID, "x": 1 }, "result": null, "x": 1 });
        assert_eq!(Report::read(body).unwrap().result, Value::Null);
    }

    /// What is wrong with a body, to its reader.
    fn flaw<T: fmt::Debug>(read: fn(Value) -> Result<T, BodyError>, text: &str) -> BodyError {
        let body = json::parse(text.as_bytes()).map_err(BodyError::from);
        body.and_then(read).unwrap_err()
    }

    #[test]
    fn a_flawed_request_to_a_slave_gets_400_and_the_code_of_the_endpoint() {
        let connect = [
            ("", "JSON is malformed at byte 0"),
            ("[]", "the body is not an object"),
            (r#"{"data":{}}"#, "master is missing"),
            (r#"{"master":null,"data":{}}"#, "master is not an object"),
            (r#"{"master":{"address":"http://h"}}"#, "data is missing"),
            (r#"{"master":{},"data":{}}"#, "address is missing"),
            (
                r#"{"master":{"address":5},"data":{}}"#,
                "address is not text",
            ),
            (
                r#"{"master":{"address":"http://"},"data":{}}"#,
                "\"http://\" is no address: it has no host",
            ),
        ];
        let disconnect = [
            ("{", "JSON is malformed at byte 1"),
            ("[1]", "the body is not an object"),
            ("{}", "data is missing"),
        ];
        let task = [
            ("null", "the body is not an object"),
            (r#"{"data":{}}"#, "task is missing"),
            (r#"{"task":"id","data":{}}"#, "task is not an object"),
            (r#"{"task":{"id":"12"}}"#, "data is missing"),
            (r#"{"task":{},"data":{}}"#, "id is missing"),
            (r#"{"task":{"id":null},"data":{}}"#, "id is not text"),
            (r#"{"task":{"id":"12"},"data":{}}"#, "id is not a UUID"),
        ];
        let check = |response: Response, code, message| {
            assert_eq!(reply(&response), (400, false, code, message, json!({})));
        };
        for (text, wrong) in connect {
            let response = flaw(ConnectRequest::read, text).on_connect();
            check(response, 503, format!("Connection data invalid: {wrong}."));
        }
        for (text, wrong) in disconnect {
            let response = flaw(DisconnectRequest::read, text).on_disconnect();
            check(
                response,
                504,
                format!("Disconnection data invalid: {wrong}."),
            );
        }
        for (text, wrong) in task {
            let response = flaw(TaskRequest::read, text).on_task();
            check(response, 602, format!("Task data invalid: {wrong}."));
        }
    }

    #[test]
    fn a_flawed_report_is_answered_with_200_only_if_it_names_no_task() {
        let table = [
            ("{}", 200, "Task information not found."),
            (r#"{"result":{}}"#, 200, "Task information not found."),
            (r#"{"task":{},"result":{}}"#, 200, "Task ID not found."),
            (
                r#"{"task":{}}"#,
                400,
                "Task data invalid: result is missing.",
            ),
            (
                r#"{"task":null}"#,
                400,
                "Task data invalid: result is missing.",
            ),
            (
                r#"{"task":null,"result":{}}"#,
                400,
                "Task data invalid: task is not an object.",
            ),
            (
                r#"{"task":"id","result":{}}"#,
                400,
                "Task data invalid: task is not an object.",
            ),
            (
                r#"{"task":{"id":12},"result":{}}"#,
                400,
                "Task data invalid: id is not text.",
            ),
            (
                r#"{"task":{"id":"12"},"result":{}}"#,
                400,
                "Task data invalid: id is not a UUID.",
            ),
            ("null", 400, "Task data invalid: the body is not an object."),
            ("", 400, "Task data invalid: JSON is malformed at byte 0."),
        ];
        for (text, status, message) in table {
            let response = flaw(Report::read, text).on_report();
            assert_eq!(
                reply(&response),
                (status, false, 601, message.to_owned(), Value::Null),
                "{text}"
            );
        }
    }

    #[test]
    fn the_id_of_a_task_can_be_seen_whatever_else_is_missing() {
        assert_eq!(
            TaskRequest::peek_id(&json!({ "task": { "id": ID } })),
            Some(uuid())
        );
        for body in [
            json!(null),
            json!([]),
            json!({}),
            json!({ "task": ID }),
            json!({ "task": { "id": 1 } }),
        ] {
            assert_eq!(TaskRequest::peek_id(&body), None);
        }
    }

    #[test]
    fn an_id_may_have_every_form_that_python_takes() {
        let accepted = [
            ID,
            "0b6f2a528f0e4a539d346f0f6cbb0001",
            "0B6F2A52-8F0E-4A53-9D34-6F0F6CBB0001",
            "urn:uuid:0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001",
            "urn:0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001",
            "uuid:{0b6f2a528f0e4a539d346f0f6cbb0001}",
            "{0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001}",
            "{{0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001",
            "-0b-6f2a528f0e4a539d346f0f6cbb--0001-",
        ];
        for text in accepted {
            assert_eq!(parse_id(text), Some(uuid()), "{text}");
        }
        let refused = [
            "",
            "12",
            "0b6f2a52-8f0e-4a53-9d34-6f0f6cbb000",
            "0b6f2a52-8f0e-4a53-9d34-6f0f6cbb00010",
            "0b6f2a52-8f0e-4a53-9d34-6f0f6cbb000g",
            "+b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001",
            "URN:UUID:0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001",
            "(0b6f2a52-8f0e-4a53-9d34-6f0f6cbb0001)",
            "é6f2a52-8f0e-4a53-9d34-6f0f6cbb0001",
        ];
        for text in refused {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }
}
