//! What the client makes of a server that errs, lags, lies or goes: the outcome that each fault is
//! to have, and no thread, descriptor or waiting caller left behind by any.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod ends;
mod replies;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod ways;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use interplay::protocol::Addr;
use interplay::qmp::{Client, Error, Event, Filter, Listener, Options, Pending, RecvError, Sent};
use serde_json::{Value, json};

use support::qmp::{Act, Server, event, kind, version};
use support::{eventually, secs, spawn, threads};

/// How long something that is on its way may take.
const PATIENCE: Duration = secs(40);

/// A client whose threads can be told from those of other tests.
struct Guest {
    client: Arc<Client>,
    events: Listener<Event>,
    name: String,
}

impl Guest {
    fn new(options: Options) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("fault{}", MADE.fetch_add(1, Ordering::Relaxed));
        let client = Client::new(options.name(&name));
        Self {
            events: client.events(Filter::all()),
            client: Arc::new(client),
            name,
        }
    }

    /// Connected to this server.
    fn at(server: &Server, options: Options) -> Self {
        let guest = Self::new(options);
        guest.connect(server).unwrap();
        guest
    }

    fn connect(&self, server: &Server) -> Result<(), Error> {
        self.client.connect(address(server))
    }

    fn ask(&self, command: &str) -> Result<Value, Error> {
        self.client.execute(command, ())
    }

    fn start(&self, command: &str) -> Pending {
        self.client.call(command).start().unwrap()
    }

    /// A thread that waits for a reply.
    fn caller(&self, command: &'static str) -> JoinHandle<Result<Value, Error>> {
        let client = self.client.clone();
        spawn("caller", move || client.execute(command, ()))
    }

    /// How many replies came that nobody waited for.
    fn strays(&self) -> u64 {
        self.client.stats().unknown_replies
    }

    /// The session still works.
    fn works(&self) {
        assert_eq!(self.ask("query-version").unwrap(), version());
    }

    /// The names of the next events.
    fn next_event(&self) -> String {
        let event = self.events.recv_timeout(PATIENCE).unwrap();
        event.name().to_owned()
    }

    /// Why the session ended, as its listener learns it.
    fn cause(&self) -> Error {
        match self.events.recv_timeout(PATIENCE).unwrap_err() {
            RecvError::Ended(cause) => cause,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until no thread and no connection of this client is left.
    #[track_caller]
    fn leaves_nothing(&self, server: &Server, connections: usize) {
        server.wait_gone(connections);
        eventually(PATIENCE, || {
            let ours = format!("{}:", self.name);
            !threads().iter().any(|name| name.starts_with(&ours))
        });
    }
}

fn address(server: &Server) -> Addr {
    server.address().parse().unwrap()
}

/// How a call was interrupted.
#[track_caller]
fn interrupted<T: Debug>(result: Result<T, Error>) -> (Sent, String) {
    match result.unwrap_err() {
        Error::Interrupted { sent, cause, .. } => (sent, kind(&*cause)),
        other => panic!("{other:?}"),
    }
}

/// Sends these objects before it does the rest.
fn ahead(objects: &[Value], act: Act) -> Act {
    let objects = objects.iter().cloned().map(Act::Send);
    Act::All(objects.chain([act]).collect())
}

fn stop() -> Value {
    event("STOP", json!({}))
}

fn resume() -> Value {
    event("RESUME", json!({}))
}

fn raw(bytes: &[u8]) -> Act {
    Act::Raw(bytes.to_vec())
}
