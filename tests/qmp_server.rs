//! The scripted QMP server does what the tests of the client rely on, seen from a raw socket.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use support::qmp::recording::{self, Connection, End, Step, without_id};
use support::qmp::{Act, Script, event, greeting, version};
use support::{LIMIT, deadline, ms, pause, spawn};

/// The client's end of a connection.
struct Raw<S>(BufReader<S>);

impl<S: Read + Write> Raw<S> {
    fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).map(|_| line)
    }

    fn object(&mut self) -> Value {
        serde_json::from_str(&self.line().unwrap()).unwrap()
    }

    fn ask(&mut self, command: &Value) -> Value {
        self.write(&command.to_string());
        self.object()
    }

    /// Reads the greeting and negotiates.
    fn negotiate(&mut self, capabilities: &[&str]) {
        assert_eq!(self.object(), greeting(&["oob"]));
        let enable = json!({"enable": capabilities});
        let command = json!({"execute": "qmp_capabilities", "arguments": enable});
        assert_eq!(self.ask(&command), json!({"return": {}}));
    }

    /// Reads to the end of the stream.
    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).map(|_| rest)
    }
}

fn command(name: &str, id: impl Into<Value>) -> Value {
    json!({"execute": name, "id": id.into()})
}

fn oob_command(name: &str, id: impl Into<Value>) -> Value {
    json!({"exec-oob": name, "id": id.into()})
}

fn reply(value: Value, id: impl Into<Value>) -> Value {
    json!({"return": value, "id": id.into()})
}

/// Sends a text with descriptors.
fn send(stream: &UnixStream, text: &str, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(stream, &text, &mut control, SendFlags::empty()).unwrap();
}

fn unix(server: &support::qmp::Server) -> Raw<UnixStream> {
    Raw::new(UnixStream::connect(server.address()).unwrap())
}

#[test]
fn a_session_goes_as_with_the_real_ones() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let mut raw = unix(&server);
        assert_eq!(raw.object(), greeting(&["oob"]));
        let error = |class: &str, desc: &str| json!({"class": class, "desc": desc});
        let caps = json!({"enable": ["oob"]});
        let table = [
            (
                r#"{"execute": "query-version", "id": "early"}"#,
                json!({"id": "early", "error": error("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")}),
            ),
            (
                r#"{"exec-oob": "query-version", "id": "early-oob"}"#,
                json!({"id": "early-oob", "error": error("GenericError", "QMP input member 'exec-oob' is unexpected")}),
            ),
            (
                &json!({"execute": "qmp_capabilities", "arguments": caps, "id": 2}).to_string(),
                json!({"return": {}, "id": 2}),
            ),
            (
                r#"{"execute": "qmp_capabilities", "id": 3}"#,
                json!({"id": 3, "error": error("CommandNotFound", "Capabilities negotiation is already complete, command ignored")}),
            ),
            (
                r#"{"execute": "no-such-command", "id": "e0"}"#,
                json!({"id": "e0", "error": error("CommandNotFound", "The command no-such-command has not been found")}),
            ),
            (
                r#"{"execute": "query-version", "arguments": [], "id": "e2"}"#,
                json!({"id": "e2", "error": error("GenericError", "QMP input member 'arguments' must be an object")}),
            ),
            (
                r#"{"execute": "query-version", "extra": true, "id": "e3"}"#,
                json!({"id": "e3", "error": error("GenericError", "QMP input member 'extra' is unexpected")}),
            ),
            (
                r#"{"execute": 5, "id": "e4"}"#,
                json!({"id": "e4", "error": error("GenericError", "QMP input member 'execute' must be a string")}),
            ),
            (
                r#"{"arguments": {}, "id": "e5"}"#,
                json!({"id": "e5", "error": error("GenericError", "QMP input lacks member 'execute'")}),
            ),
            (
                r#"{"exec-oob": "query-version", "execute": "query-version", "id": 6}"#,
                json!({"id": 6, "error": error("GenericError", "QMP input member 'execute' clashes with 'exec-oob'")}),
            ),
            (
                "{\"execute\": }\n",
                json!({"error": error("GenericError", "JSON parse error, expecting value")}),
            ),
            (
                "[]",
                json!({"error": error("GenericError", "QMP input must be a JSON object")}),
            ),
            (
                "null\n",
                json!({"error": error("GenericError", "QMP input must be a JSON object")}),
            ),
            (
                "\n\r\n  \n{\n \"execute\":\n  \"query-version\",\r\n\t\"id\": {\"nested\": [\"}\", \"{\", \"\\\"\"]}\n}",
                json!({"return": version(), "id": {"nested": ["}", "{", "\""]}}),
            ),
        ];
        for (sent, expected) in table {
            raw.write(sent);
            assert_eq!(raw.object(), expected, "to {sent}");
        }
        raw.0.get_mut().write_all(b"\xFF").unwrap();
        let stray = error("GenericError", "JSON parse error, stray '\u{FFFD}'");
        assert_eq!(raw.object(), json!({"error": stray}));
        raw.write(&command("quit", "bye").to_string());
        assert_eq!(raw.object()["event"], "SHUTDOWN");
        assert_eq!(raw.object(), reply(json!({}), "bye"));
        assert_eq!(raw.rest().unwrap(), b"", "a clean end");
        server.wait_gone(1);
    });
}

#[test]
fn messages_are_found_however_they_are_cut_and_answered_in_order() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let mut raw = unix(&server);
        raw.negotiate(&[]);
        let commands: String = (0..20)
            .map(|id| command("query-version", id).to_string())
            .collect();
        for byte in commands.chars() {
            raw.write(&byte.to_string());
        }
        for id in 0..20 {
            assert_eq!(raw.object(), reply(version(), id));
        }
        raw.write(&commands);
        for id in 0..20 {
            assert_eq!(raw.object(), reply(version(), id));
        }
        let texts: Vec<u8> = server.commands()[1..=20]
            .iter()
            .flat_map(|command| command.text.clone())
            .collect();
        assert_eq!(texts, commands.as_bytes());
    });
}

#[test]
fn the_same_goes_over_tcp_and_over_a_pair() {
    fn session<S: Read + Write>(mut raw: Raw<S>) {
        raw.negotiate(&[]);
        assert_eq!(raw.ask(&command("query-version", 1)), reply(version(), 1));
    }
    deadline(LIMIT, || {
        let server = Script::new().start_tcp();
        session(Raw::new(TcpStream::connect(server.address()).unwrap()));
        session(Raw::new(TcpStream::connect(server.address()).unwrap()));
        server.wait_gone(2);
        let (server, stream) = Script::new().start_pair();
        session(Raw::new(stream));
        server.wait_gone(1);
    });
}

#[test]
fn events_and_replies_to_others_may_come_ahead_of_greeting_and_negotiation() {
    deadline(LIMIT, || {
        let resume = event("RESUME", json!({}));
        let stale = reply(json!({}), "of-client-0");
        let opening = vec![Act::Send(resume.clone()), Act::Send(greeting(&[]))];
        let server = Script::new()
            .opening(Act::All(opening))
            .on("qmp_capabilities", {
                let (resume, stale) = (resume.clone(), stale.clone());
                move |_| {
                    let stale = Act::Send(stale.clone());
                    let resume = Act::Send(resume.clone());
                    Act::All(vec![stale, resume, Act::Return(json!({}))])
                }
            })
            .start_unix();
        let mut raw = unix(&server);
        assert_eq!(raw.object(), resume);
        assert_eq!(raw.object(), greeting(&[]));
        assert_eq!(raw.ask(&command("qmp_capabilities", "mine")), stale);
        assert_eq!(raw.object(), resume);
        assert_eq!(raw.object(), reply(json!({}), "mine"));
        assert_eq!(raw.ask(&command("query-version", 1)), reply(version(), 1));
    });
}

#[test]
fn a_negotiation_that_is_refused_has_not_happened() {
    deadline(LIMIT, || {
        let refuse = |_: &_| Act::Error("GenericError", "no".to_owned());
        let server = Script::new().on("qmp_capabilities", refuse).start_unix();
        let mut raw = unix(&server);
        raw.object();
        let refused = json!({"error": {"class": "GenericError", "desc": "no"}, "id": 1});
        assert_eq!(raw.ask(&command("qmp_capabilities", 1)), refused);
        let class = &raw.ask(&command("query-version", 2))["error"]["class"];
        assert_eq!(class, "CommandNotFound");
    });
}

#[test]
fn a_guest_agent_neither_greets_nor_negotiates() {
    deadline(LIMIT, || {
        let server = Script::guest_agent()
            .on("guest-sync-delimited", |command| {
                let value = command.arguments["id"].clone();
                Act::All(vec![Act::Raw(b"\xFF".to_vec()), Act::Return(value)])
            })
            .start_unix();
        let mut raw = unix(&server);
        raw.0.get_mut().write_all(b"\xFF").unwrap();
        let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": 123_456}});
        let error = raw.ask(&sync);
        assert_eq!(error["error"]["desc"], "JSON parse error, stray '\u{FFFD}'");
        let mut line = Vec::new();
        raw.0.read_until(b'\n', &mut line).unwrap();
        assert_eq!(line, b"\xFF{\"return\":123456}\n");
    });
}

#[test]
fn output_is_pretty_spaced_or_slow_when_asked_for() {
    deadline(LIMIT, || {
        let table = [
            (Script::new().pretty(), "{\r\n", "}\r\n"),
            (
                Script::new().end_of_line(b"\r\n\n \t\n"),
                "{\"QMP\":",
                "\r\n\n \t\n",
            ),
            (Script::new().end_of_line(b""), "{\"QMP\":", "}}"),
        ];
        let whole = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
        for (script, start, end) in table {
            let server = script.on("quit", |_| Act::Close).start_unix();
            let mut raw = unix(&server);
            raw.write(&json!({"execute": "qmp_capabilities"}).to_string());
            server.first("qmp_capabilities");
            raw.write(&command("quit", 1).to_string());
            let text = raw.rest().unwrap();
            let start = start.replace("\r\n", "\n");
            assert!(
                text.starts_with(start.as_bytes()),
                "{}",
                text.escape_ascii()
            );
            assert!(text.ends_with(end.as_bytes()), "{}", text.escape_ascii());
            let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
            assert_eq!(objects.next().unwrap().unwrap(), greeting(&["oob"]));
            assert_eq!(objects.next().unwrap().unwrap(), json!({"return": {}}));
        }
        let start = Instant::now();
        let server = Script::new().drip(1, ms(1)).start_unix();
        let greeted = unix(&server).line().unwrap();
        assert!(start.elapsed() >= ms(greeted.len() as u64), "slow");
        assert_eq!(whole(greeted.as_bytes()), greeting(&["oob"]));
    });
}

#[test]
fn replies_come_late_twice_to_nobody_and_without_their_members() {
    deadline(LIMIT, || {
        let server = Script::new()
            .on("silent", |_| Act::SILENCE)
            .on("twice", |command| {
                let reply = reply(json!({}), command.id.clone().unwrap());
                Act::All(vec![Act::Send(reply.clone()), Act::Send(reply)])
            })
            .on("odd", |_| Act::Send(json!({"id": [1, {"a": 0.5}]})))
            .start_unix();
        let mut raw = unix(&server);
        raw.negotiate(&[]);
        raw.write(&command("silent", "late").to_string());
        assert_eq!(raw.ask(&command("twice", 1)), reply(json!({}), 1));
        assert_eq!(raw.object(), reply(json!({}), 1));
        assert_eq!(raw.ask(&command("odd", 2)), json!({"id": [1, {"a": 0.5}]}));
        let late = server.first("silent").id.unwrap();
        server.send(&reply(json!("at last"), late));
        assert_eq!(raw.object(), reply(json!("at last"), "late"));
        server.send(&event("STOP", json!({})));
        assert_eq!(raw.object(), event("STOP", json!({})));
        server.send_raw(b"\x80\n");
        let mut line = Vec::new();
        raw.0.read_until(b'\n', &mut line).unwrap();
        assert_eq!(line, b"\x80\n");
    });
}

#[test]
fn the_stream_ends_cleanly_within_a_message_or_with_a_reset() {
    deadline(LIMIT, || {
        let cut = Act::All(vec![Act::Raw(b"{\"QMP\"".to_vec()), Act::Close]);
        let server = Script::new().opening(cut).start_unix();
        assert_eq!(unix(&server).rest().unwrap(), b"{\"QMP\"");

        let server = Script::new().deaf_after("quit").start_unix();
        let quit = command("quit", 1).to_string();
        let mut raw = unix(&server);
        raw.negotiate(&[]);
        raw.write(&quit);
        assert!(raw.rest().is_ok(), "all was read");
        let mut raw = unix(&server);
        raw.negotiate(&[]);
        raw.write(&(quit.clone() + "\n"));
        assert_eq!(raw.object()["event"], "SHUTDOWN");
        assert_eq!(raw.object(), reply(json!({}), 1), "comes before the reset");
        assert_eq!(raw.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);

        let server = Script::new().deaf_after("quit").start_tcp();
        let mut raw = Raw::new(TcpStream::connect(server.address()).unwrap());
        raw.negotiate(&["oob"]);
        raw.write(&(quit + "\n"));
        assert_eq!(raw.object()["event"], "SHUTDOWN");
        assert_eq!(raw.object(), reply(json!({}), 1));
        assert_eq!(raw.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);

        let server = Script::new().start_unix();
        let mut raw = unix(&server);
        raw.negotiate(&[]);
        server.close();
        assert_eq!(raw.rest().unwrap(), b"", "from the test's thread");
    });
}

#[test]
fn a_deaf_server_still_writes_and_leaves_what_comes_where_it_is() {
    deadline(LIMIT, || {
        let server = Script::new()
            .on("last", |_| Act::Return(json!({})))
            .deaf_after("last")
            .start_unix();
        let mut raw = unix(&server);
        raw.negotiate(&[]);
        assert_eq!(raw.ask(&command("last", 1)), reply(json!({}), 1));
        raw.0.get_ref().set_nonblocking(true).unwrap();
        let full = loop {
            if let Err(error) = raw.0.get_mut().write(&[b' '; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        raw.0.get_ref().set_nonblocking(false).unwrap();
        server.send(&event("STOP", json!({})));
        assert_eq!(raw.object(), event("STOP", json!({})));
        assert_eq!(server.commands().len(), 2);
        server.close();
        assert_eq!(raw.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_endless_message_ends_with_its_reader() {
    deadline(LIMIT, || {
        let server = Script::new().opening(Act::Endless).start_unix();
        let mut raw = unix(&server);
        let mut much = vec![0; 1 << 20];
        raw.0.read_exact(&mut much).unwrap();
        assert!(much.starts_with(b"{\"return\": \"xxx"));
        drop(raw);
        server.wait_gone(1);
    });
}

#[test]
fn out_of_band_commands_pass_one_that_is_blocked_until_too_many_wait_behind_it() {
    deadline(LIMIT, || {
        let (signal, blocked) = Act::Return(json!("done")).later();
        let blocked = parking_lot::Mutex::new(Some(blocked));
        let server = Script::new()
            .on("blocks", move |_| blocked.lock().take().unwrap())
            .start_unix();
        let mut raw = unix(&server);
        raw.negotiate(&["oob"]);
        raw.write(&command("blocks", "b").to_string());
        server.first("blocks");
        for id in 0..8 {
            raw.write(&command("query-version", id).to_string());
        }
        let oob = oob_command("query-version", "oob");
        assert_eq!(raw.ask(&oob), reply(version(), "oob"));
        raw.write(&command("query-version", 8).to_string());
        raw.write(&oob_command("query-version", "stuck").to_string());
        server.nth(10, "query-version"); // eight, out of band, and the one there is no room for
        pause(ms(50));
        assert_eq!(server.commands().len(), 12, "reads no further");
        signal.send(()).unwrap();
        assert_eq!(raw.object(), reply(json!("done"), "b"));
        let mut ids: Vec<Value> = (0..10).map(|_| raw.object()["id"].clone()).collect();
        let stuck = ids.iter().position(|id| id == "stuck").unwrap();
        ids.remove(stuck);
        assert_eq!(ids, (0..9).map(Value::from).collect::<Vec<_>>());
    });
}

#[test]
fn descriptors_are_counted_with_the_message_that_they_came_with() {
    deadline(LIMIT, || {
        let (server, stream) = Script::guest_agent().start_pair();
        let mut raw = Raw::new(stream.try_clone().unwrap());
        let (open, mut watched) = UnixStream::pair().unwrap();
        raw.write(&command("none", 1).to_string());
        send(&stream, &command("one", 2).to_string(), &[open.as_fd()]);
        raw.write(&command("none", 3).to_string());
        let two = [open.as_fd(), open.as_fd()];
        send(&stream, &command("two", 4).to_string(), &two);
        send(&stream, " ", &[open.as_fd()]);
        raw.write(&command("ahead", 5).to_string());
        for _ in 0..5 {
            raw.object();
        }
        let counts: Vec<usize> = server.commands().iter().map(|c| c.descriptors).collect();
        assert_eq!(counts, [0, 1, 0, 2, 1]);
        drop(open);
        let mut nothing = Vec::new();
        watched.read_to_end(&mut nothing).unwrap(); // ends once all its copies are closed
    });
}

#[test]
fn clients_are_served_one_at_a_time() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let mut first = unix(&server);
        first.negotiate(&[]);
        let mut second = unix(&server);
        second.0.get_ref().set_read_timeout(Some(ms(50))).unwrap();
        assert_eq!(second.line().unwrap_err().kind(), ErrorKind::WouldBlock);
        second.0.get_ref().set_read_timeout(None).unwrap();
        assert_eq!(first.ask(&command("query-version", 1)), reply(version(), 1));
        drop(first);
        second.negotiate(&[]);
        assert_eq!(
            second.ask(&command("query-version", 2)),
            reply(version(), 2)
        );
    });
}

#[test]
fn a_server_ends_whatever_it_is_doing() {
    deadline(LIMIT, || {
        let server = Script::new().start_tcp();
        drop(server); // nobody came
        let (_signal, never) = Act::SILENCE.later();
        let server = Script::new().opening(never).start_unix();
        let path = server.address().to_owned();
        let (mut waits, _next) = (unix(&server), unix(&server));
        drop(server);
        assert_eq!(waits.rest().unwrap(), b"", "it was waiting for a signal");
        assert!(!std::path::Path::new(&path).exists());
        let server = Script::new().opening(Act::Endless).start_unix();
        let raw = unix(&server);
        pause(ms(20)); // it is stuck by now, most likely
        drop(server);
        drop(raw);
    });
}

#[test]
fn a_handler_that_panics_fails_the_test() {
    deadline(LIMIT, || {
        let server = Script::guest_agent()
            .on("wrong", |_| panic!("as planned"))
            .start_unix();
        let mut raw = unix(&server);
        raw.write(&command("wrong", 1).to_string());
        server.first("wrong");
        drop(raw);
        assert!(spawn("drops", move || drop(server)).join().is_err());
    });
}

/// Plays the client of a recorded connection, with ids of its own.
fn attend(connection: &Connection, stream: UnixStream) {
    let mut raw = Raw::new(stream);
    let mut ids = std::collections::HashMap::new();
    for (at, step) in connection.steps.iter().enumerate() {
        match step {
            Step::Command {
                object,
                descriptors,
                ..
            } => {
                let mut object = object.clone();
                let id = json!({"mine": [at]});
                object["id"] = id.clone();
                let stream = raw.0.get_ref();
                let any = [stream.as_fd()];
                let descriptors = &any[..(*descriptors).min(1)];
                send(stream, &format!("{object}\n"), descriptors);
                ids.insert(at, id);
            }
            Step::Bytes(bytes) => raw.0.get_mut().write_all(bytes).unwrap(),
            Step::Message {
                object, answers, ..
            } => {
                let mut text = Vec::new();
                let come: Value = loop {
                    assert_ne!(raw.0.read_until(b'\n', &mut text).unwrap(), 0, "{object}");
                    let json = text.strip_prefix(b"\xFF").unwrap_or(&text);
                    if let Ok(come) = serde_json::from_slice(json) {
                        break come;
                    }
                };
                let (expected, recorded) = without_id(object);
                let id = answers.map_or(recorded, |command| Some(ids[&command].clone()));
                assert_eq!(without_id(&come), (expected, id));
            }
        }
    }
    match connection.end {
        End::Closed => {}
        End::Eof => assert_eq!(raw.rest().unwrap(), b""),
        End::Reset => {
            let error = raw.rest().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn a_replay_is_the_recording_with_other_ids() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/qmp");
    let mut played = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        println!("{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        // One message is not JSON, and has an id that is no JSON either.
        let json = |line: &&str| !line.contains("1e400") && !line.contains("inf}");
        for connection in recording::read(text.lines().filter(json)) {
            if connection.steps.len() > 1000 {
                continue; // more replies than fit into a socket that is not read meanwhile
            }
            deadline(LIMIT, move || {
                let connection = std::sync::Arc::new(connection);
                let (ours, theirs) = UnixStream::pair().unwrap();
                let replay = spawn("replay", {
                    let connection = connection.clone();
                    move || recording::play(theirs.into(), &connection)
                });
                attend(&connection, ours);
                replay.join().unwrap();
            });
            played += 1;
        }
    }
    assert!(played > 41, "{played} connections");
}
