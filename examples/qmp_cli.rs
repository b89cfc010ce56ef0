//! A QMP session for scripts: commands in on standard input, replies and events out, a line each.
//!
//! ```sh
//! cargo run --example qmp_cli -- /run/vm.sock
//! {"execute": "query-status", "id": 1}
//! {"reply":{"running":true,"singlestep":false,"status":"running"},"id":1}
//! ```
//!
//! Each line of input is sent as soon as it is read. What comes is printed in the order of its
//! coming, as `{"reply": …}`, `{"error": …}` or `{"event": …}`, with the `id` if the command had
//! one. `QMP_TIMEOUT` is how many seconds a session may take to begin (default 5). Ends with 0 after
//! the replies to all input or a `quit`, with 1 if the session failed, with 2 if the usage is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use crossbeam_channel::bounded;
use interplay::protocol::Addr;
use interplay::qmp::{
    Client, Error, Listener, Message, Object, Options, Pending, RecvError, Reply,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Beyond its time limit a session is not waited for, whatever holds it up.
const SLACK: Duration = Duration::from_millis(200);
/// As many levels as a command may have.
const LEVELS: usize = 1000;

/// Sends commands to a QMP server, a line each, and prints replies and events
#[derive(Parser)]
#[command(name = "qmp_cli")]
struct Args {
    /// Leave out-of-band commands disabled
    #[arg(long)]
    no_oob: bool,
    /// Path of a UNIX socket, or HOST:PORT
    socket: OsString,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (addr, limit) = match (address(args.socket), time_limit()) {
        (Ok(addr), Ok(limit)) => (addr, limit),
        (Err(wrong), _) | (_, Err(wrong)) => Args::command()
            .error(ErrorKind::ValueValidation, wrong)
            .exit(),
    };
    match run(addr, limit, !args.no_oob) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // The server's own words may have many lines.
            let why = why.replace(['\r', '\n'], " ");
            let _ = writeln!(io::stderr(), "qmp_cli: {why}");
            ExitCode::FAILURE
        }
    }
}

fn address(socket: OsString) -> Result<Addr, String> {
    match socket.into_string() {
        Ok(text) => text.parse().map_err(|error| format!("{error}")),
        Err(path) => Ok(PathBuf::from(path).into()),
    }
}

fn time_limit() -> Result<Duration, String> {
    let Some(text) = std::env::var_os("QMP_TIMEOUT") else {
        return Ok(Duration::from_secs(5));
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    limit.ok_or_else(|| format!("QMP_TIMEOUT is no number of seconds: {text:?}"))
}

/// The error is a sentence for standard error.
fn run(addr: Addr, limit: Duration, oob: bool) -> Result<(), String> {
    // Whatever is read is sent at once, or held: reading never waits for the server.
    let options = Options::new()
        .oob(oob)
        .connect_timeout(limit)
        .handshake_timeout(limit)
        .queue_messages(usize::MAX)
        .queue_bytes(usize::MAX);
    let client = Client::new(options);
    let tap = client.tap_with(0); // it must not lose a reply, however slowly they are printed
    let session = Arc::new(Session {
        client,
        waiting: Mutex::new(Some(BTreeMap::new())),
        output: Output(Mutex::new(Ok(()))),
        input_failure: OnceLock::new(),
    });
    let begun = in_background("connect", &session, move |session| {
        session.client.connect(addr)
    })?;
    match begun.recv_timeout(limit.saturating_add(SLACK)) {
        Ok(connected) => connected.map_err(|error| error.report())?,
        Err(_) => return Err(format!("no session within {limit:?}")),
    }
    // Nobody waits for the reader: it may be in the middle of a line when all is over.
    let _reader = in_background("input", &session, Session::read)?;
    session.print(&tap)
}

/// Runs `body` on a thread of its own; what it returns is received.
fn in_background<T: Send + 'static>(
    name: &str,
    session: &Arc<Session>,
    body: impl FnOnce(&Session) -> T + Send + 'static,
) -> Result<crossbeam_channel::Receiver<T>, String> {
    let (done, result) = bounded(1);
    let session = session.clone();
    let body = move || {
        let _ = done.send(body(&session));
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map_err(|error| format!("no thread: {error}"))?;
    Ok(result)
}

/// What the threads share: the main one prints what comes, the other one reads what is to be sent.
struct Session {
    client: Client,
    /// The calls whose replies have not been printed. `None` when all is over. A call is noted
    /// before its reply can be looked for: both hold the lock.
    waiting: Mutex<Option<BTreeMap<u64, Call>>>,
    output: Output,
    input_failure: OnceLock<io::Error>,
}

struct Call {
    pending: Pending,
    /// That of the input.
    id: Option<Value>,
}

impl Session {
    /// Reads and sends until the end of the input, then waits for the replies.
    fn read(&self) {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    let _ = self.input_failure.set(error); // there is but one
                    break;
                }
            }
            if !line.trim_ascii().is_empty() && !self.send(&line) {
                let _ = self.client.abort(); // for the sake of the thread that prints
                return;
            }
        }
        let _ = self.client.disconnect_after_replies(Duration::MAX); // the tap says how it ended
    }

    /// Sends a line of input; false if that makes no sense any more.
    fn send(&self, line: &[u8]) -> bool {
        let message = match parse(line) {
            Ok(message) => message,
            Err(why) => return self.output.error("InvalidInput", &why, None),
        };
        let id = message.get("id").cloned();
        let mut waiting = self.waiting.lock();
        let Some(calls) = waiting.as_mut() else {
            return false;
        };
        // Does not wait, since the queue has no limit.
        match self.client.start_msg(message) {
            Ok(pending) => {
                calls.insert(pending.id(), Call { pending, id });
                true
            }
            Err(error @ (Error::InvalidCommand(_) | Error::OobNotEnabled)) => {
                self.output.error("InvalidInput", &error.report(), id)
            }
            Err(error) => self.output.outcome(Err(error), id),
        }
    }

    /// Prints what comes until the session has ended.
    fn print(&self, tap: &Listener<Message>) -> Result<(), String> {
        let end = loop {
            match tap.recv() {
                Ok(message) if self.print_one(&message) => {}
                Ok(_) => return self.output.close(),
                Err(end) => break end,
            }
        };
        let unanswered = self.waiting.lock().take().unwrap_or_default();
        for Call { pending, id } in unanswered.into_values() {
            self.output.outcome(pending.wait(), id); // waits no more: the session has ended
        }
        self.output.close()?;
        match (end, self.input_failure.get()) {
            (RecvError::Closed, None) => Ok(()),
            (RecvError::Closed, Some(error)) => Err(format!("standard input: {error}")),
            (RecvError::Ended(error), _) => Err(error.report()),
            (other, _) => Err(other.to_string()),
        }
    }

    /// False if nobody reads it.
    fn print_one(&self, message: &Message) -> bool {
        if let Some(event) = message.event() {
            return self.output.print(Said::Event(event.object()), None);
        }
        let mut waiting = self.waiting.lock();
        let calls = waiting.as_mut().zip(message.call());
        let call = calls.and_then(|(calls, call)| calls.remove(&call));
        drop(waiting);
        match call {
            Some(Call { pending, id }) => self.output.outcome(pending.wait(), id),
            None => true, // the greeting, or a reply to somebody else
        }
    }
}

/// A line of output.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    said: Said<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<'a> {
    Reply(Value),
    Error { class: &'a str, desc: &'a str },
    Event(&'a Object),
}

/// Standard output, a whole line at a time; an error once its reader has gone, or all is over.
/// Whoever prints is told whether it is still open.
struct Output(Mutex<io::Result<()>>);

impl Output {
    fn outcome(&self, outcome: Result<Reply, Error>, id: Option<Value>) -> bool {
        match outcome {
            Ok(reply) => self.print(Said::Reply(reply.value), id),
            Err(Error::Execute { class, desc, .. }) => self.error(&class, &desc, id),
            Err(error @ Error::BadReply { .. }) => self.error("BadReply", &error.report(), id),
            Err(error) => self.error("Disconnected", &error.report(), id),
        }
    }

    fn error(&self, class: &str, desc: &str, id: Option<Value>) -> bool {
        self.print(Said::Error { class, desc }, id)
    }

    fn print(&self, said: Said<'_>, id: Option<Value>) -> bool {
        let line = serde_json::to_string(&Line { said, id });
        let mut open = self.0.lock();
        if open.is_ok() {
            *open = line.map_err(io::Error::from).and_then(|line| {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{line}")?;
                stdout.flush()
            });
        }
        open.is_ok()
    }

    /// That its reader has gone is no error.
    fn close(&self) -> Result<(), String> {
        let closed = Err(io::ErrorKind::BrokenPipe.into());
        match std::mem::replace(&mut *self.0.lock(), closed) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(format!("standard output: {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// The JSON in a line, as deep as a command may be.
fn parse(line: &[u8]) -> Result<Value, String> {
    if levels(line) > LEVELS {
        return Err(format!("nested deeper than {LEVELS} levels"));
    }
    let mut json = serde_json::Deserializer::from_slice(line);
    json.disable_recursion_limit(); // which is lower
    let value = Value::deserialize(&mut json);
    let whole = value.and_then(|value| json.end().map(|()| value));
    whole.map_err(|error| format!("not JSON: {error}"))
}

/// How many brackets are open at the most.
fn levels(line: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
