//! Requests by hand: bytes on a socket, and the requests of a master or a slave in a few words.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::CHANNEL;

const PATIENCE: Duration = Duration::from_secs(50);

/// Sends one request on a connection of its own; the status and the JSON of the answer.
pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Value) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    let mut bytes = (head + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    exchange(addr, &bytes).expect("an answer")
}

/// Sends bytes; the status and the JSON of the answer, null if it has no body, or none without an answer.
pub(crate) fn exchange(addr: SocketAddr, bytes: &[u8]) -> Option<(u16, Value)> {
    let mut stream = open(addr);
    // A server that answers early may close before it has all of it.
    let _ = stream.write_all(bytes);
    answer(&mut stream)
}

pub(crate) fn open(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one answer.
pub(crate) fn answer(stream: &mut TcpStream) -> Option<(u16, Value)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(bytes).expect("a head of text");
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let _ = stream.shutdown(Shutdown::Write);
    let body = match body.as_slice() {
        [] => Value::Null,
        body => serde_json::from_slice(body).expect("JSON"),
    };
    Some((status, body))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields
        .filter(|(given, _)| given.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .next()
}

/// The status and the code of an answer, which must be an envelope.
#[track_caller]
pub(crate) fn code((status, envelope): (u16, Value)) -> (u16, i64) {
    let keys: Vec<&String> = envelope.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["code", "data", "message", "success"], "{envelope}");
    assert!(envelope["message"].is_string());
    assert_eq!(envelope["success"].as_bool(), Some(envelope["code"] == 0));
    (status, envelope["code"].as_i64().expect("a number"))
}

/// What success looks like.
pub(crate) const OK: (u16, i64) = (200, 0);

/// A master in a few words: one token, one slave.
#[derive(Clone)]
pub(crate) struct ByHand {
    pub(crate) slave: SocketAddr,
    pub(crate) token: String,
}

impl ByHand {
    pub(crate) fn new(slave: SocketAddr, token: &str) -> Self {
        Self {
            slave,
            token: token.to_owned(),
        }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let channel = CHANNEL.to_string();
        let headers = [("Channel", channel.as_str()), ("Token", &self.token)];
        let body = serde_json::to_vec(body).unwrap();
        request(self.slave, method, path, &headers, &body)
    }

    /// Connects the slave to a master at `address`, which may have a path.
    pub(crate) fn connect(&self, address: &str) -> (u16, i64) {
        let body = json!({"master": {"address": address}, "data": {}});
        code(self.ask("POST", "/connect", &body))
    }

    pub(crate) fn disconnect(&self) -> (u16, i64) {
        code(self.ask("DELETE", "/disconnect", &json!({"data": {}})))
    }

    pub(crate) fn task(&self, id: &str, data: &Value) -> (u16, i64) {
        let body = json!({"task": {"id": id}, "data": data});
        code(self.ask("POST", "/task/new", &body))
    }
}

/// Asks a master as the slave whose token it is.
pub(crate) fn as_slave(
    master: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, i64) {
    let channel = CHANNEL.to_string();
    let headers = [("Channel", channel.as_str()), ("Token", token)];
    let body = serde_json::to_vec(body).unwrap();
    code(request(master, method, path, &headers, &body))
}

pub(crate) fn beat(master: SocketAddr, token: &str) -> (u16, i64) {
    as_slave(master, token, "GET", "/slave/heartbeat", &json!({}))
}

/// Reports a task as completed.
pub(crate) fn complete(master: SocketAddr, token: &str, id: &str, result: &Value) -> (u16, i64) {
    let body = json!({"task": {"id": id}, "result": result});
    as_slave(master, token, "PUT", "/slave/task/complete", &body)
}

/// Reports a task as failed.
pub(crate) fn fail(master: SocketAddr, token: &str, id: &str, result: &Value) -> (u16, i64) {
    let body = json!({"task": {"id": id}, "result": result});
    as_slave(master, token, "PUT", "/slave/task/fail", &body)
}

/// A task id for tests: all zeros but for `number`.
pub(crate) fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}
