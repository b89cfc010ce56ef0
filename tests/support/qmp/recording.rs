//! Recorded sessions with real servers, and a server that plays a connection of one again.
//!
//! The format is told in `tests/conformance/qmp/README.md`. The client under test chooses its own
//! ids, so these take the place of the recorded ones. It may also hold commands back, or let one
//! pass others: so a reply is sent as soon as its command has come, and everything else when all
//! that was recorded before it has come.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

use super::input::{Input, Scanner};
use super::wire::send_all;

/// What happened on one connection.
#[derive(Default)]
pub(crate) struct Connection {
    pub(crate) steps: Vec<Step>,
    /// Whether the client's last write ended in a newline.
    pub(crate) newline: bool,
    pub(crate) end: End,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// By the client.
    #[default]
    Closed,
    /// The client met the end of the stream.
    Eof,
    /// The client met a reset.
    Reset,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// The client sent an object.
    Command {
        object: Value,
        text: Vec<u8>,
        descriptors: usize,
    },
    /// The client sent something that the server could not parse.
    Bytes(Vec<u8>),
    /// The server sent an object.
    Message {
        /// Null for the one in the recordings that is not JSON.
        object: Value,
        text: Vec<u8>,
        /// The step with the command that it is the reply to.
        answers: Option<usize>,
    },
}

/// The connections of a recording.
pub(crate) fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Connection> {
    let mut readers: Vec<Reader> = Vec::new();
    for line in lines {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(number) = line["conn"].as_u64() else {
            continue; // about the recording, or the process of the server
        };
        let number = usize::try_from(number).unwrap();
        readers.resize_with(readers.len().max(number + 1), Reader::default);
        readers[number].line(&line);
    }
    readers
        .into_iter()
        .map(|reader| reader.connection)
        .collect()
}

/// Makes steps of lines.
#[derive(Default)]
struct Reader {
    connection: Connection,
    over: bool,
    /// What the client has written, up to the last message's end.
    sent: Vec<u8>,
    /// The messages in that.
    messages: Vec<Vec<u8>>,
    scanner: Scanner,
    descriptors: usize,
    /// What has come of the server's next message.
    received: Vec<u8>,
    receiving: Scanner,
}

impl Reader {
    fn line(&mut self, line: &Value) {
        match (line["dir"].as_str(), line["event"].as_str()) {
            (Some("c2s"), _) => {
                self.descriptors += line["fds"].as_u64().map_or(0, |count| count as usize);
                for byte in bytes(line, "data") {
                    self.sent.push(byte);
                    self.messages.extend(self.scanner.feed(byte));
                }
                if self.scanner.is_at_rest() {
                    self.flush();
                }
            }
            (Some("s2c"), _) => {
                self.flush();
                let eol = line["eol"].as_str().unwrap();
                let whole = [bytes(line, "line"), eol.into()].concat();
                let ends: Vec<_> = whole
                    .iter()
                    .filter_map(|b| self.receiving.feed(*b))
                    .collect();
                self.received.extend(whole);
                if ends.last().is_some_and(|text| text != b"\xFF") {
                    self.message();
                }
            }
            (_, Some("close")) => self.end(End::Closed),
            (_, Some("eof")) => self.end(End::Eof),
            (_, Some("reset")) => self.end(End::Reset),
            _ => {}
        }
    }

    /// The end that comes first counts.
    fn end(&mut self, end: End) {
        if !std::mem::replace(&mut self.over, true) {
            self.flush();
            self.connection.end = end;
        }
    }

    /// Makes steps of what the client has written.
    fn flush(&mut self) {
        self.scanner = Scanner::default();
        let (sent, messages) = (
            std::mem::take(&mut self.sent),
            std::mem::take(&mut self.messages),
        );
        let objects: Vec<Value> = messages
            .iter()
            .filter_map(|text| serde_json::from_slice(text).ok())
            .filter(Value::is_object)
            .collect();
        if sent.trim_ascii().is_empty() {
            return; // descriptors may have been sent ahead with a blank
        }
        self.connection.newline = sent.ends_with(b"\n");
        if objects.is_empty() || objects.len() < messages.len() {
            self.connection.steps.push(Step::Bytes(sent));
            return;
        }
        for (object, text) in objects.into_iter().zip(messages) {
            let descriptors = std::mem::take(&mut self.descriptors);
            self.connection.steps.push(Step::Command {
                object,
                text,
                descriptors,
            });
        }
    }

    /// Makes a step of what the server has sent.
    fn message(&mut self) {
        let text = std::mem::take(&mut self.received);
        let json = text.strip_prefix(b"\xFF").unwrap_or(&text);
        let object: Value = serde_json::from_slice(json).unwrap_or_default();
        let steps = &mut self.connection.steps;
        let is_reply = object.get("return").or(object.get("error")).is_some();
        let asks = |step: &Step| matches!(step, Step::Command { object: command, .. } if same_id(command, &object));
        let answered: Vec<usize> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Message { answers, .. } => *answers,
                _ => None,
            })
            .collect();
        let asked = (0..steps.len()).find(|at| asks(&steps[*at]) && !answered.contains(at));
        // What is refused without its id was not understood.
        if object.get("error").is_some()
            && object.get("id").is_none()
            && let Some(last) = steps.last_mut()
            && let Step::Command { text, .. } = last
        {
            *last = Step::Bytes(std::mem::take(text));
        }
        steps.push(Step::Message {
            answers: asked.filter(|_| is_reply),
            object,
            text,
        });
    }
}

fn bytes(line: &Value, member: &str) -> Vec<u8> {
    match line["hex"].as_str() {
        Some(hex) => (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect(),
        None => line[member].as_str().unwrap().as_bytes().to_vec(),
    }
}

/// Whether a reply has the id of a command. Servers write numbers in their own way.
fn same_id(command: &Value, reply: &Value) -> bool {
    match (command.get("id"), reply.get("id")) {
        (Some(Value::Number(one)), Some(Value::Number(other))) => one.as_f64() == other.as_f64(),
        (one, other) => one == other,
    }
}

/// Plays the server's side of a connection, until its end.
pub(crate) fn play(socket: OwnedFd, connection: &Connection) {
    let mut stage = Stage {
        socket,
        input: Input::default(),
        steps: &connection.steps,
        come: HashMap::new(),
    };
    for (at, step) in connection.steps.iter().enumerate() {
        let Step::Message { text, answers, .. } = step else {
            continue;
        };
        let text = match answers {
            Some(command) => {
                while !stage.come.contains_key(command) {
                    stage.read();
                }
                match &stage.come[command] {
                    Some(id) => with_id(text, id),
                    None => text.clone(),
                }
            }
            None => {
                stage.read_to(at);
                text.clone()
            }
        };
        send_all(&stage.socket, &text).unwrap();
    }
    stage.end(connection.end);
}

struct Stage<'a> {
    socket: OwnedFd,
    input: Input,
    steps: &'a [Step],
    /// The steps of the client that have come, with the ids of their commands.
    come: HashMap<usize, Option<Value>>,
}

impl Stage<'_> {
    /// What is still to come from the client, of the steps before `end`.
    fn due(&self, end: usize) -> impl Iterator<Item = usize> {
        let from_client = |at: &usize| !matches!(self.steps[*at], Step::Message { .. });
        (0..end).filter(move |at| from_client(at) && !self.come.contains_key(at))
    }

    fn read_to(&mut self, end: usize) {
        while self.due(end).next().is_some() {
            self.read();
        }
    }

    /// Waits for the client's next message.
    fn read(&mut self) {
        let next = self
            .due(self.steps.len())
            .next()
            .expect("more commands to come");
        if let Step::Bytes(expected) = &self.steps[next] {
            let expected = expected.trim_ascii();
            let bytes = self.input.bytes(&self.socket, expected.len()).unwrap();
            assert_eq!(
                bytes.escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
            self.come.insert(next, None);
            return;
        }
        let message = self.input.message(&self.socket).unwrap();
        let message = message.expect("the client is to send more before it goes");
        let sent: Value = serde_json::from_slice(&message.text).unwrap();
        let (sent, id) = without_id(&sent);
        let fits = |at: &usize| matches!(&self.steps[*at], Step::Command { object, .. } if without_id(object).0 == sent);
        let found = self.due(self.steps.len()).find(fits);
        let found = found.unwrap_or_else(|| panic!("not in the recording: {sent}"));
        if let Step::Command { descriptors, .. } = self.steps[found] {
            // Of more than one, the servers lose all but the first; the client sends none of them.
            assert_eq!(message.descriptors, descriptors.min(1), "with {sent}");
        }
        self.come.insert(found, id);
    }

    fn end(mut self, end: End) {
        match end {
            End::Closed => {
                self.read_to(self.steps.len());
                let more = self.input.message(&self.socket).unwrap();
                assert!(more.is_none(), "{more:?}");
            }
            End::Eof => {
                self.read_to(self.steps.len());
                shutdown(&self.socket, Shutdown::Both).unwrap();
                // What came meanwhile must not be unread, or the end would be a reset.
                while let Ok(Some(_)) = self.input.message(&self.socket) {}
            }
            End::Reset => {
                // The socket is closed with unread input: a command if one is due, else a newline.
                let last = self.due(self.steps.len()).last();
                if let Some(last) = last {
                    self.read_to(last);
                }
                while self.next_byte(RecvFlags::PEEK).is_ascii_whitespace() && last.is_some() {
                    self.next_byte(RecvFlags::empty());
                }
            }
        }
    }

    fn next_byte(&self, flags: RecvFlags) -> u8 {
        let mut byte = [0];
        let (_, received) = recv(&self.socket, &mut byte, flags).unwrap();
        assert_eq!(received, 1, "the client is to send more before it goes");
        byte[0]
    }
}

/// An object without its id, and the id.
pub(crate) fn without_id(object: &Value) -> (Value, Option<Value>) {
    let mut object = object.clone();
    let id = object
        .as_object_mut()
        .and_then(|members| members.remove("id"));
    (object, id)
}

/// A reply with this id in place of its own, and otherwise the same to the byte.
fn with_id(reply: &[u8], id: &Value) -> Vec<u8> {
    let id = id.to_string();
    let mut depth = 0;
    let mut at = 0;
    while at < reply.len() {
        match reply[at] {
            b'"' => {
                let end = at + length(&reply[at..]);
                if depth == 1 && &reply[at..end] == b"\"id\"" && reply[end] == b':' {
                    let rest = end + 1 + length(&reply[end + 1..]);
                    return [&reply[..=end], b" ", id.as_bytes(), &reply[rest..]].concat();
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    let end = reply.iter().rposition(|byte| *byte == b'}').unwrap();
    [&reply[..end], b", \"id\": ", id.as_bytes(), &reply[end..]].concat()
}

/// How many bytes the JSON value at the start takes, blanks in front included.
fn length(text: &[u8]) -> usize {
    let mut values = Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    values.next();
    values.byte_offset()
}
