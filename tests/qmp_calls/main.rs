//! Calls and listeners of the client, by the thousand and from many threads: whose reply it is, how
//! long it is waited for, what overtakes what, and what is left when it is over.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod events;
mod flood;
mod ids;
mod inside;
mod limits;
mod oob;
mod pending;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod typed;

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use interplay::protocol::Addr;
use interplay::qmp::{Client, Error, Event, Options, RecvError, Sent, Waiting};
use serde_json::{Value, json};

use support::qmp::{Server, greeting, kind};
use support::{secs, spawn};

/// How long something that is on its way may take.
const PATIENCE: Duration = secs(40);

/// A client whose threads can be told from those of other tests.
fn client(options: Options) -> Arc<Client> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let name = format!("call{}", MADE.fetch_add(1, Ordering::Relaxed));
    Arc::new(Client::new(options.name(name)))
}

/// A client that is connected to this server.
fn at(server: &Server, options: Options) -> Arc<Client> {
    let client = client(options);
    client.connect(address(server)).unwrap();
    client
}

fn address(server: &Server) -> Addr {
    server.address().parse().unwrap()
}

/// A server that reads and writes as it is told, and fast: for what happens many thousand times,
/// and for what happens while nothing is read.
struct Peer {
    read: BufReader<UnixStream>,
}

impl Peer {
    /// A peer, and a client that is connected to it.
    fn pair(options: Options) -> (Self, Arc<Client>) {
        let client = client(options);
        let peer = Self::of(&client);
        (peer, client)
    }

    /// A peer that this client is connected to from now on.
    fn of(client: &Client) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = spawn("peer", move || {
            let mut peer = Self {
                read: BufReader::new(ours),
            };
            peer.send(&greeting(&["oob"]));
            let (id, line) = peer.command().unwrap();
            assert!(line.contains("qmp_capabilities"));
            peer.send(&json!({"return": {}, "id": id}));
            peer
        });
        client.connect(theirs).unwrap();
        peer.join().unwrap()
    }

    /// The next command, its id taken out; none when the client has gone.
    fn command(&mut self) -> Option<(Value, String)> {
        let mut line = String::new();
        match self.read.read_line(&mut line) {
            Ok(1..) if line.ends_with('\n') => {}
            _ => return None,
        }
        let command: Value = serde_json::from_str(&line).unwrap();
        Some((command["id"].clone(), line))
    }

    fn send(&mut self, object: &Value) {
        self.write(format!("{object}\r\n").as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.read.get_mut().write_all(bytes); // the client may have gone
    }

    /// Lets `act` write what each command draws, until the client has gone; how many came. What
    /// is written for commands that came together goes out together.
    fn serve<F>(mut self, mut act: F) -> JoinHandle<usize>
    where
        F: FnMut(&Value, &str, &mut Vec<u8>) + Send + 'static,
    {
        spawn("peer", move || {
            let mut count = 0;
            let mut out = Vec::new();
            while let Some((id, line)) = self.command() {
                act(&id, &line, &mut out);
                count += 1;
                if self.read.buffer().is_empty() {
                    self.write(&out);
                    out.clear();
                }
            }
            count
        })
    }
}

/// A reply as a line.
fn reply(out: &mut Vec<u8>, id: &Value, value: impl Into<Value>) {
    let value = value.into();
    out.extend_from_slice(format!("{{\"return\": {value}, \"id\": {id}}}\r\n").as_bytes());
}

/// Whether a call that was given up may have run.
#[track_caller]
fn timed_out<T: Debug>(result: Result<T, Error>) -> Sent {
    match result.unwrap_err() {
        Error::Timeout {
            waiting: Waiting::Call { sent, .. },
            ..
        } => sent,
        other => panic!("{other:?}"),
    }
}

/// How a call was interrupted.
#[track_caller]
fn interrupted<T: Debug>(result: Result<T, Error>) -> (Sent, String) {
    match result.unwrap_err() {
        Error::Interrupted { sent, cause, .. } => (sent, kind(&*cause)),
        other => panic!("{other:?}"),
    }
}

/// The names of events that were received.
fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::name).collect()
}

#[track_caller]
fn name(event: Result<Event, RecvError>) -> String {
    event.unwrap().name().to_owned()
}

/// Runs a test in a process of its own, where what is counted is its alone. `test` is its name.
fn alone(test: &str, body: fn()) {
    const ALONE: &str = "INTERPLAY_TEST_ALONE";
    if std::env::var(ALONE).is_ok_and(|name| name == test) {
        return support::deadline(support::LIMIT, body);
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", test, "--include-ignored", "--test-threads=1"])
        .env(ALONE, test)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "no test has this name: {text}");
}
