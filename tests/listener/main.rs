//! What the listener promises, through its public interface. `lis-..` are the
//! scenarios recorded from the original, with the behaviour that its defects
//! should have had; all of them are played in `scenarios`. Children are real
//! programs, or a few lines that speak the frames by hand.

#![allow(clippy::unwrap_used, reason = "what the tests share is test code too")]

mod admission;
mod bounds;
mod breach;
mod child;
mod closing;
mod dispatch;
mod ends;
mod failures;
mod flow;
mod inside;
mod many;
mod order;
mod raw;
mod rig;
mod roles;
mod scenarios;
mod sending;
mod stop;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use interplay::listener::{
    BadSource, BoxError, CAPACITY, Error, Handler, Listener, Message, PostError, Reason, Sender,
    Source, Stopper,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Long enough for any machine; nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(60);

/// Runs `body` under a watchdog: a deadlock is a failed test.
fn within<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = bounded(1);
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let thread = thread(&test, move || send.send(body()).unwrap());
    // Longer than the waits inside, which tell more when they fail.
    match receive.recv_timeout(2 * LONG) {
        Ok(value) => value,
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => panic!("{test}: hangs"),
        Err(_) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(body).unwrap()
}

/// Polls a condition that nothing signals.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let never = crossbeam_channel::never::<()>();
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        let _ = never.recv_timeout(Duration::from_millis(2));
    }
}

fn source(text: &str) -> Source {
    text.try_into().unwrap()
}

fn message(from: &str, cmd: &str, data: Value) -> Message {
    Message::new(&source(from), cmd, data)
}

/// A message without data.
fn plain(from: &str, cmd: &str) -> Message {
    message(from, cmd, json!({}))
}

type Delivery = (&'static str, String, String, Value);

/// Writes down what its handlers get.
struct Recorder {
    send: crossbeam_channel::Sender<Delivery>,
    deliveries: Receiver<Delivery>,
}

impl Recorder {
    fn new() -> Self {
        let (send, deliveries) = unbounded();
        Self { send, deliveries }
    }

    fn handler(
        &self,
        name: &'static str,
    ) -> impl FnMut(Message) -> Result<(), BoxError> + Send + 'static {
        let send = self.send.clone();
        move |message: Message| {
            let Message { source, cmd, data } = message;
            send.send((name, source.to_string(), cmd, data)).unwrap();
            Ok(())
        }
    }

    /// The next `count` deliveries as "handler source cmd".
    fn take(&self, count: usize) -> Vec<String> {
        let next = || self.deliveries.recv_timeout(LONG).unwrap();
        (0..count)
            .map(|_| next())
            .map(|(handler, source, cmd, _)| format!("{handler} {source} {cmd}"))
            .collect()
    }

    /// All deliveries there are; for listeners that have ended.
    fn rest(&self) -> Vec<String> {
        self.take(self.deliveries.len())
    }
}

/// A handler that holds the listener's thread until it is let go.
struct Gate {
    entered: Receiver<()>,
    open: crossbeam_channel::Sender<()>,
}

impl Gate {
    /// Runs `after` on the listener's thread once it is let go.
    fn new<D: Send + 'static>(
        mut after: impl FnMut(Message<D>) + Send + 'static,
    ) -> (
        Self,
        impl FnMut(Message<D>) -> Result<(), BoxError> + Send + 'static,
    ) {
        let (enter, entered) = unbounded();
        let (open, opened) = unbounded();
        let handler = move |message: Message<D>| {
            enter.send(())?;
            opened.recv_timeout(LONG)?;
            after(message);
            Ok(())
        };
        (Self { entered, open }, handler)
    }

    fn wait_entered(&self) {
        self.entered.recv_timeout(LONG).unwrap();
    }

    fn let_go(&self, times: usize) {
        for _ in 0..times {
            let _ = self.open.send(());
        }
    }
}

/// Signals its drop, with the name of the thread that drops it.
struct Tell(crossbeam_channel::Sender<String>);

impl Tell {
    fn new() -> (Self, Receiver<String>) {
        let (send, receive) = unbounded();
        (Self(send), receive)
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        let name = std::thread::current().name().unwrap_or("").to_owned();
        let _ = self.0.send(name);
    }
}

/// Keeps the log lines of all tests of this program.
struct Log;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert!(record.target().starts_with("interplay::"));
        let line = format!("{} {}", record.level(), record.args());
        LINES.lock().push(line);
    }

    fn flush(&self) {}
}

/// Has lines written down from here on.
fn log_lines() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Log).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// The lines so far about the listener `name`, start and end left out.
fn lines_of(name: &str) -> Vec<String> {
    let subject = format!(" listener {name}: ");
    let lines = LINES.lock();
    let own = lines.iter().filter(|line| line.contains(&subject));
    own.filter(|line| !line.starts_with("INFO"))
        .map(|line| line.replace(&subject, " "))
        .collect()
}
