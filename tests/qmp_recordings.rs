//! The recorded sessions with real servers, attended by the client: every reply, every event and
//! the end come out as they were recorded.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;

use interplay::protocol::Cancel;
use interplay::qmp::{self, Client, Error, Event, Filter, Listener, Message};
use interplay::qmp::{Options, Pending, RecvError, Reply};
use serde_json::{Value, json};

use support::qmp::recording::{self, Connection, End, Step, without_id};
use support::qmp::{Folder, kind};
use support::{LIMIT, deadline, eventually, secs, spawn};

/// How long something that is on its way may take.
const PATIENCE: std::time::Duration = secs(40);

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/qmp");

fn path_of(name: &str) -> PathBuf {
    format!("{FOLDER}/{name}.jsonl").into()
}

fn recordings() -> Vec<PathBuf> {
    let files = std::fs::read_dir(FOLDER).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "jsonl")
    });
    paths.sort();
    paths
}

/// How the client of a recorded connection is set up.
struct Setup {
    options: Options,
    /// How many steps are over when the client is connected.
    handshake: usize,
    oob: bool,
}

impl Setup {
    fn of(connection: &Connection) -> Self {
        let steps = &connection.steps;
        let options = Options::new().newline(connection.newline).name("recording");
        let greets = |step: &Step| matches!(step, Step::Message { object, .. } if object.get("QMP").is_some());
        let Some(greeting) = steps.iter().position(greets) else {
            return Self {
                options: options.guest_agent(),
                handshake: 0,
                oob: false,
            };
        };
        let first = &steps[greeting + 1];
        if let Step::Command { object, .. } = first
            && object["execute"] == "qmp_capabilities"
        {
            let oob = object["arguments"]["enable"] == json!(["oob"]);
            let answers = |step: &Step| matches!(step, Step::Message { answers, .. } if *answers == Some(greeting + 1));
            return Self {
                options: options.oob(oob),
                handshake: steps.iter().position(answers).unwrap() + 1,
                oob,
            };
        }
        Self {
            options: options.negotiate(false),
            handshake: greeting + 1,
            oob: false,
        }
    }
}

/// A client at a recorded connection.
struct Attendance<'a> {
    connection: &'a Connection,
    client: Client,
    setup: Setup,
    events: Listener<Event>,
    tap: Listener<Message>,
    /// What the tap may give of the handshake.
    skip: VecDeque<Value>,
    /// Calls whose replies are waited for when it is their turn.
    pending: HashMap<usize, Pending>,
    quit: bool,
}

impl<'a> Attendance<'a> {
    /// Connects by `meet`.
    fn new(connection: &'a Connection, meet: impl FnOnce(&Client)) -> Self {
        let setup = Setup::of(connection);
        let client = Client::new(setup.options.clone());
        let (events, tap) = (client.events(Filter::all()), client.tap());
        meet(&client);
        let mut attendance = Self {
            connection,
            client,
            events,
            tap,
            skip: VecDeque::new(),
            pending: HashMap::new(),
            quit: false,
            setup,
        };
        for step in &connection.steps[..attendance.setup.handshake] {
            if let Step::Message { object, .. } = step {
                attendance.event(object);
                attendance.skip.push_back(without_id(object).0);
            }
        }
        attendance
    }

    fn go(mut self) {
        for at in self.setup.handshake..self.connection.steps.len() {
            match &self.connection.steps[at] {
                Step::Command {
                    object,
                    text,
                    descriptors,
                } => self.command(at, object, text, *descriptors),
                Step::Bytes(bytes) => self.bytes(at, bytes),
                Step::Message {
                    object, answers, ..
                } => self.message(object, *answers),
            }
        }
        self.end();
    }

    fn command(&mut self, at: usize, object: &Value, text: &[u8], descriptors: usize) {
        let answers =
            |step: &Step| matches!(step, Step::Message { answers, .. } if *answers == Some(at));
        let later = &self.connection.steps[at + 1..];
        let reply = later.iter().position(answers);
        if !self.is_valid(object) {
            let refused = self.client.execute_msg(object.clone()).unwrap_err();
            let kinds = ["InvalidCommand", "OobNotEnabled"];
            assert!(kinds.contains(&kind(&refused).as_str()), "{refused:?}");
            self.client.send_raw(text).unwrap();
            return;
        }
        let message = |step: &Step| matches!(step, Step::Message { .. });
        let alone = reply.is_some_and(|reply| later[..reply].iter().all(message));
        if alone && descriptors == 0 {
            let Step::Message { object: reply, .. } = &later[reply.unwrap()] else {
                unreachable!()
            };
            let result = self.client.execute_msg(object.clone());
            self.check(object, result, reply);
            return;
        }
        let pending = if descriptors > 0 {
            let any = UnixStream::pair().unwrap();
            let call = self.client.call(object["execute"].as_str().unwrap());
            let call = call.args(&object["arguments"]);
            call.fd(any.0.as_fd()).start()
        } else {
            self.client.start_msg(object.clone())
        };
        self.pending.insert(at, pending.unwrap());
    }

    /// Whether the client sends it as a command; the servers refuse the rest, with its id.
    fn is_valid(&self, command: &Value) -> bool {
        let members = command.as_object().unwrap();
        let known = ["execute", "exec-oob", "arguments", "id"];
        let names = ["execute", "exec-oob"].map(|name| members.get(name));
        let named = match names {
            [Some(name), None] => name.is_string(),
            [None, Some(name)] => name.is_string() && self.setup.oob,
            _ => false,
        };
        let arguments = members.get("arguments");
        named
            && members.keys().all(|key| known.contains(&key.as_str()))
            && arguments.is_none_or(Value::is_object)
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        match self.connection.steps.get(at + 1) {
            Some(Step::Message { object, .. }) if object.get("id").is_none() => {
                let result = self.client.raw(bytes);
                self.check(&Value::Null, result, object);
            }
            _ => self.client.send_raw(bytes).unwrap(),
        }
    }

    fn message(&mut self, object: &Value, answers: Option<usize>) {
        let (expected, _) = without_id(object);
        loop {
            let (come, _) = without_id(&self.next());
            if self.skip.front() == Some(&come) {
                self.skip.pop_front();
                continue;
            }
            assert_eq!(come, expected);
            break;
        }
        self.event(object);
        if let Some(command) = answers
            && let Some(pending) = self.pending.remove(&command)
            && let Step::Command { object: asked, .. } = &self.connection.steps[command]
        {
            let result = pending.wait();
            self.check(asked, result, object);
        }
    }

    /// The next message from the server, whatever it is.
    fn next(&self) -> Value {
        let message = self.tap.recv_timeout(PATIENCE).unwrap();
        Value::Object(message.object().clone())
    }

    fn event(&self, object: &Value) {
        if object.get("event").is_some() {
            let event = self.events.recv_timeout(PATIENCE).unwrap();
            assert_eq!(&Value::Object(event.object().clone()), object);
        }
    }

    fn check(&mut self, asked: &Value, result: Result<Reply, Error>, reply: &Value) {
        match (result, &reply["error"]) {
            (Ok(came), Value::Null) => {
                assert_eq!(came.value, reply["return"], "to {asked}");
                let id = came.id.as_ref();
                assert!(id.is_none() || id == asked.get("id"), "unchanged");
                self.quit |= asked["execute"] == "quit";
            }
            (Err(Error::Execute { class, desc, .. }), error) => {
                assert_eq!(error["class"], *class, "to {asked}");
                assert_eq!(error["desc"], *desc, "to {asked}");
            }
            (result, _) => panic!("{result:?} in place of {reply} to {asked}"),
        }
    }

    fn end(self) {
        let end = match self.connection.end {
            End::Closed => self.client.disconnect(),
            End::Eof | End::Reset => self.client.wait_end(PATIENCE),
        };
        let expected = match self.connection.end {
            End::Closed => "Closed",
            _ if self.quit => "ServerQuit",
            End::Eof => "PeerClosed",
            End::Reset => "PeerReset",
        };
        let wanted = matches!(expected, "Closed" | "ServerQuit");
        match end.unwrap().unwrap() {
            qmp::End::Failed(cause) => assert_eq!(kind(&cause), expected),
            end => assert_eq!(kind(&end), expected),
        }
        for pending in self.pending.into_values() {
            match pending.wait().unwrap_err() {
                Error::Interrupted { cause, .. } => assert_eq!(kind(&*cause), expected),
                other => panic!("{other:?}"),
            }
        }
        let shut_down = self.connection.steps.iter().any(
            |step| matches!(step, Step::Message { object, .. } if object["event"] == "SHUTDOWN"),
        );
        match self.events.recv_timeout(PATIENCE).unwrap_err() {
            RecvError::Closed => assert!(wanted),
            RecvError::Ended(Error::PeerClosed { after_shutdown }) if !wanted => {
                assert_eq!(after_shutdown.is_some(), shut_down);
            }
            RecvError::Ended(cause) => assert_eq!(kind(&cause), expected),
            other => panic!("{other:?}"),
        }
    }
}

/// Attends a connection over a socket pair.
fn attend(connection: Connection) {
    let connection = Arc::new(connection);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let replay = spawn("replay", {
        let connection = connection.clone();
        move || recording::play(theirs.into(), &connection)
    });
    Attendance::new(&connection, |client| client.connect(ours).unwrap()).go();
    replay.join().unwrap();
}

#[test]
fn each_recording_comes_out_as_recorded() {
    let mut failed = Vec::new();
    let paths = recordings();
    assert_eq!(paths.len(), 41);
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        // One message is not JSON: it has a test of its own.
        let json = |line: &&str| !line.contains("1e400") && !line.contains("inf}");
        for (number, connection) in recording::read(text.lines().filter(json))
            .into_iter()
            .enumerate()
        {
            let attended = catch_unwind(|| deadline(LIMIT, move || attend(connection)));
            if attended.is_err() {
                failed.push(format!("{}, connection {number}", path.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_reply_that_is_not_json_ends_the_session() {
    for name in ["qemu-ids", "qsd-ids"] {
        let text = std::fs::read_to_string(path_of(name)).unwrap();
        let lines = text.lines().enumerate().filter(|(number, line)| {
            *number < 5 || line.contains("1e400") || line.contains("inf}") // 5: until negotiated
        });
        let connection = Arc::new(recording::read(lines.map(|(_, line)| line)).remove(0));
        deadline(LIMIT, move || {
            let Some([Step::Bytes(bytes), Step::Message { .. }]) = connection.steps.last_chunk()
            else {
                panic!("{:?}", connection.steps)
            };
            let (ours, theirs) = UnixStream::pair().unwrap();
            let replay = spawn("replay", {
                let connection = connection.clone();
                move || recording::play(theirs.into(), &connection)
            });
            let client = Client::new(Options::new());
            let events = client.events(Filter::all());
            client.connect(ours).unwrap();
            client.send_raw(bytes).unwrap();
            match events.recv_timeout(PATIENCE).unwrap_err() {
                RecvError::Ended(cause) => assert_eq!(kind(&cause), "Decode"),
                other => panic!("{other:?}"),
            }
            let end = client.wait_end(PATIENCE).unwrap().unwrap();
            assert_eq!(kind(&end.into_result().unwrap_err()), "Decode");
            replay.join().unwrap();
        });
    }
}

/// The one connection of a recording.
fn only_connection(name: &str) -> Arc<Connection> {
    let text = std::fs::read_to_string(path_of(name)).unwrap();
    let mut connections = recording::read(text.lines());
    assert_eq!(connections.len(), 1);
    Arc::new(connections.remove(0))
}

#[test]
fn the_recording_over_tcp_comes_out_over_tcp() {
    deadline(LIMIT, || {
        let connection = only_connection("qemu-tcp");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let replay = spawn("replay", {
            let connection = connection.clone();
            move || recording::play(listener.accept().unwrap().0.into(), &connection)
        });
        Attendance::new(&connection, |client| client.connect(address).unwrap()).go();
        replay.join().unwrap();
    });
}

#[test]
fn a_server_that_connects_to_the_client_is_served() {
    deadline(LIMIT, || {
        let connection = only_connection("qemu-client-listens");
        let folder = Folder::new();
        let path = folder.path().join("client");
        let replay = spawn("replay", {
            let (connection, path) = (connection.clone(), path.clone());
            move || {
                let mut stream = None;
                eventually(PATIENCE, || {
                    stream = UnixStream::connect(&path).ok();
                    stream.is_some()
                });
                recording::play(stream.unwrap().into(), &connection);
            }
        });
        let serve = |client: &Client| {
            client.listen(path).unwrap();
            client.accept(&Cancel::new()).unwrap();
        };
        Attendance::new(&connection, serve).go();
        replay.join().unwrap();
    });
}
