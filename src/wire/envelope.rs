//! The envelope: the one JSON object that every answer is.
//!
//! `success`, `code`, `message` and `data`, written by the endpoints of both
//! sides and read by whoever sent the request. A peer's words travel whole, to
//! hooks as a [`Reply`] and in errors as a [`Refusal`].

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::code::SlaveCode;
use super::json;
use crate::http::{self, Fault, Response};

/// What a peer answered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What the peer says about it. DI-engine goes by the status alone, and
    /// there is one case where the two disagree: a master answers a report that
    /// names no task with 200 and `false`.
    pub success: bool,
    /// The code, 0 for success; what it means depends on the side: see
    /// [`SlaveCode`] and [`MasterCode`](super::MasterCode).
    pub code: i64,
    /// A sentence, often empty.
    pub message: String,
    /// Whatever came with it, an empty object if nothing did.
    pub data: Value,
}

impl Reply {
    /// Reads an answer.
    ///
    /// It has to have `success` and `code`; the rest has defaults, as in DI-engine.
    pub(crate) fn read(status: u16, body: &[u8]) -> Result<Self, http::Error> {
        Self::from_body(status, body).ok_or_else(|| http::Error::unintelligible(status, body))
    }

    fn from_body(status: u16, body: &[u8]) -> Option<Self> {
        let Ok(Value::Object(mut envelope)) = json::parse(body) else {
            return None;
        };
        Some(Self {
            status,
            success: envelope.get("success")?.as_bool()?,
            code: envelope.get("code")?.as_i64()?,
            message: match envelope.remove("message") {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(message)) => message,
                Some(other) => other.to_string(),
            },
            data: envelope
                .remove("data")
                .unwrap_or_else(|| Value::Object(Map::new())),
        })
    }

    /// Takes a status of 400 and above for a refusal and any other for consent.
    ///
    /// That is DI-engine's rule. Consent may still say `success: false`, so
    /// whoever sent a report has to look.
    pub(crate) fn into_result<C: From<i64>>(self) -> Result<Self, Refusal<C>> {
        if self.status < 400 {
            return Ok(self);
        }
        Err(Refusal {
            status: self.status,
            code: self.code.into(),
            message: self.message,
            data: self.data,
        })
    }
}

/// A peer's "no": an answer with a status of 400 or above.
///
/// `C` is the table that its code is from: [`SlaveCode`] if a slave said it,
/// [`MasterCode`](super::MasterCode) if a master did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Refusal<C> {
    /// The HTTP status.
    pub status: u16,
    /// Why, in a number.
    pub code: C,
    /// Why, in a sentence.
    pub message: String,
    /// What the peer's user code had to say about it, an empty object if nothing.
    pub data: Value,
}

impl<C: Into<i64>> Refusal<C> {
    /// The answer it was, for a caller to whom it is none.
    pub(crate) fn into_reply(self) -> Reply {
        Reply {
            status: self.status,
            success: false,
            code: self.code.into(),
            message: self.message,
            data: self.data,
        }
    }
}

impl<C: fmt::Display> fmt::Display for Refusal<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted and escaped, so that a peer cannot break out of the line.
        write!(
            f,
            "answered {:?} (status {}, code {})",
            self.message, self.status, self.code
        )
    }
}

impl<C: fmt::Debug + fmt::Display> Error for Refusal<C> {}

#[derive(Serialize)]
struct Envelope<'a> {
    success: bool,
    code: i64,
    message: &'a str,
    data: &'a Value,
}

impl Envelope<'_> {
    fn answer(&self, status: u16) -> Response {
        Response::new(status, json::to_vec(self))
    }
}

/// The answer to a request that was granted.
pub(crate) fn success(message: &str) -> Response {
    Envelope {
        success: true,
        code: 0,
        message: if message.is_empty() {
            "Success."
        } else {
            message
        },
        data: &Value::Null,
    }
    .answer(200)
}

/// The answer to a request that could not be granted.
pub(crate) fn failure(status: u16, code: impl Into<i64>, message: &str) -> Response {
    failure_with(status, code.into(), message, &Value::Null)
}

/// The answer to a request that user code, or the lack of what it needs, turned down.
///
/// The one kind of answer that has data: `{}` instead of anything falsy.
pub(crate) fn refusal(status: u16, code: impl Into<i64>, message: &str, data: &Value) -> Response {
    if json::is_truthy(data) {
        failure_with(status, code.into(), message, data)
    } else {
        failure_with(status, code.into(), message, &Value::Object(Map::new()))
    }
}

fn failure_with(status: u16, code: i64, message: &str, data: &Value) -> Response {
    Envelope {
        success: false,
        code: if code == 0 { 1 } else { code },
        message: if message.is_empty() {
            "Failed."
        } else {
            message
        },
        data,
    }
    .answer(status)
}

/// The answer to whatever comes while this side shuts down.
pub(crate) fn stopping() -> Response {
    failure(
        401,
        SlaveCode::SystemShuttingDown,
        fault_message(Fault::Stopping),
    )
}

/// The answer to what never reaches an endpoint.
pub(crate) fn fault(fault: Fault) -> Response {
    match fault {
        Fault::Stopping => stopping(),
        fault => failure(
            fault_status(fault),
            SlaveCode::Failure,
            fault_message(fault),
        ),
    }
}

pub(super) fn fault_status(fault: Fault) -> u16 {
    match fault {
        Fault::BadFraming => 400,
        Fault::Stopping => 401,
        Fault::TooLong => 413,
        Fault::Panicked => 500,
        Fault::Busy => 503,
    }
}

pub(super) fn fault_message(fault: Fault) -> &'static str {
    match fault {
        Fault::BadFraming => "Request framing invalid.",
        Fault::Stopping => "System has already been shutting down.",
        Fault::TooLong => "Request body too long.",
        Fault::Panicked => "Internal error.",
        Fault::Busy => "Too many requests at a time.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MasterCode;
    use serde_json::json;

    fn body(response: &Response) -> Value {
        serde_json::from_slice(&response.body).unwrap()
    }

    #[test]
    fn answers_have_exactly_the_four_keys() {
        let table = [
            (
                success("PONG!"),
                200,
                json!({ "success": true, "code": 0, "message": "PONG!", "data": null }),
            ),
            (
                success(""),
                200,
                json!({ "success": true, "code": 0, "message": "Success.", "data": null }),
            ),
            (
                failure(403, SlaveCode::ChannelInvalid, "é"),
                403,
                json!({ "success": false, "code": 202, "message": "é", "data": null }),
            ),
            (
                failure(400, 0, ""),
                400,
                json!({ "success": false, "code": 1, "message": "Failed.", "data": null }),
            ),
            (
                refusal(403, SlaveCode::TaskRefused, "Task refused!", &json!([1])),
                403,
                json!({ "success": false, "code": 602, "message": "Task refused!", "data": [1] }),
            ),
            (
                stopping(),
                401,
                json!({ "success": false, "code": 101, "data": null,
                    "message": "System has already been shutting down." }),
            ),
        ];
        for (response, status, expected) in table {
            assert_eq!((response.status, body(&response)), (status, expected));
            assert_eq!(response.allow, None);
        }
    }

    #[test]
    fn a_refusal_without_data_carries_an_empty_object() {
        for falsy in [
            json!(null),
            json!(false),
            json!(0),
            json!(""),
            json!([]),
            json!({}),
        ] {
            assert_eq!(body(&refusal(403, 503, "no", &falsy))["data"], json!({}));
        }
    }

    #[test]
    fn every_fault_has_an_envelope() {
        let table = [
            (Fault::BadFraming, 400, 1),
            (Fault::TooLong, 413, 1),
            (Fault::Busy, 503, 1),
            (Fault::Panicked, 500, 1),
            (Fault::Stopping, 401, 101),
        ];
        for (kind, status, code) in table {
            let response = fault(kind);
            let reply = Reply::read(response.status, &response.body).unwrap();
            assert_eq!(
                (reply.status, reply.success, reply.code),
                (status, false, code)
            );
        }
    }

    #[test]
    fn an_answer_needs_success_and_code_and_the_rest_has_defaults() {
        let table = [
            (r#"{"success":true,"code":0}"#, true, 0, "", json!({})),
            (
                r#"{"success":true,"code":0,"message":null,"data":null}"#,
                true,
                0,
                "",
                json!(null),
            ),
            (
                r#"{"code": -5, "success": false, "message": "x\ud800", "data": NaN, "more": [1]}"#,
                false,
                -5,
                "x\u{fffd}",
                json!(null),
            ),
            (
                r#"{"success":false,"code":602,"message":7,"data":[0]}"#,
                false,
                602,
                "7",
                json!([0]),
            ),
        ];
        for (text, success, code, message, data) in table {
            let reply = Reply::read(403, text.as_bytes()).unwrap();
            let message = message.to_owned();
            assert_eq!(
                reply,
                Reply {
                    status: 403,
                    success,
                    code,
                    message,
                    data
                }
            );
        }
        let unintelligible = [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"success":true}"#,
            r#"{"code":0}"#,
            r#"{"success":1,"code":0}"#,
            r#"{"success":true,"code":null}"#,
            r#"{"success":true,"code":"0"}"#,
            r#"{"success":true,"code":1.0}"#,
            r#"{"success":true,"code":9223372036854775808}"#,
        ];
        for text in unintelligible {
            let http::Error::Unintelligible { status, excerpt } =
                Reply::read(500, text.as_bytes()).unwrap_err()
            else {
                panic!("{text} is another error");
            };
            assert_eq!((status, excerpt.as_str()), (Some(500), text));
        }
    }

    #[test]
    fn an_error_keeps_only_the_beginning_of_an_unintelligible_answer() {
        let page = [b"\xff\xff".as_slice(), "é".repeat(1000).as_bytes()].concat();
        let http::Error::Unintelligible { excerpt, .. } = Reply::read(502, &page).unwrap_err()
        else {
            panic!("another error");
        };
        assert_eq!(excerpt, format!("\u{fffd}\u{fffd}{}", "é".repeat(200 - 2)));
    }

    #[test]
    fn the_status_alone_makes_a_refusal_and_the_envelope_stays_visible() {
        let reply = |status, success| Reply {
            status,
            success,
            code: 601,
            message: "line\n\"two\"".to_owned(),
            data: json!([1]),
        };
        for status in [200, 204, 399] {
            let consent = reply(status, false).into_result::<MasterCode>().unwrap();
            assert_eq!(consent, reply(status, false));
        }
        for status in [400, 403, 500] {
            let refusal = reply(status, true).into_result::<SlaveCode>().unwrap_err();
            assert_eq!(
                (refusal.status, refusal.code),
                (status, SlaveCode::TaskAlreadyExist)
            );
            assert_eq!(
                (refusal.message.as_str(), &refusal.data),
                ("line\n\"two\"", &json!([1]))
            );
        }
        let refusal = reply(400, false).into_result::<SlaveCode>().unwrap_err();
        assert_eq!(
            refusal.to_string(),
            r#"answered "line\n\"two\"" (status 400, code 601 task already exists)"#
        );
    }
}
