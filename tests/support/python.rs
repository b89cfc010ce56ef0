//! DI-engine's own Python peers, run as children of a test.
//!
//! [`python`] finds an interpreter that can import `ding.interaction`: the one that `INTERPLAY_PYTHON` names, else
//! `.venv/bin/python` below the crate (`bash tests/python/setup.sh .venv` makes it), else `python3`. A test returns
//! early when there is none, unless `INTERPLAY_INTEROP=required` says that this is a failure. A [`Script`] is a
//! program of `tests/python`: orders go in and events come out as JSON lines; it never outlives its test.

#![allow(dead_code, reason = "each test file uses its share of this module")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a script may take for anything before the test fails: DI-engine retries for five seconds, machines stall.
const PATIENCE: Duration = Duration::from_secs(60);

/// An interpreter that can import `ding.interaction`.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    interpreter: PathBuf,
}

/// The interpreter for interop tests; none, with a line that says why, when a test may pass without one.
///
/// Panics when there is none and `INTERPLAY_INTEROP` is `required`.
pub(crate) fn python() -> Option<&'static Python> {
    static FOUND: OnceLock<Result<Python, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let named = std::env::var_os("INTERPLAY_PYTHON").map(PathBuf::from);
        find(named, Path::new(env!("CARGO_MANIFEST_DIR")))
    });
    let required = std::env::var("INTERPLAY_INTEROP").is_ok_and(|value| value == "required");
    present_or_excused(found.as_ref(), required)
}

/// A named interpreter is the only candidate: falling back from it would hide a mistake.
pub(crate) fn find(named: Option<PathBuf>, root: &Path) -> Result<Python, String> {
    let candidates = match named {
        Some(path) => vec![path],
        None => vec![root.join(".venv/bin/python"), PathBuf::from("python3")],
    };
    let mut reasons = Vec::new();
    for interpreter in candidates {
        match import(&interpreter) {
            Ok(()) => return Ok(Python { interpreter }),
            Err(reason) => reasons.push(format!("{}: {reason}", interpreter.display())),
        }
    }
    Err(reasons.join("; "))
}

pub(crate) fn present_or_excused<'a>(
    found: Result<&'a Python, &String>,
    required: bool,
) -> Option<&'a Python> {
    match found {
        Ok(python) => Some(python),
        Err(reason) if required => panic!(
            "INTERPLAY_INTEROP=required, but no Python can import ding.interaction ({reason}); \
             run `bash tests/python/setup.sh .venv`"
        ),
        Err(reason) => {
            // Straight to the stream: what goes through the print macros is not shown for a test that passes.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: no Python can import ding.interaction ({reason})"
            );
            None
        }
    }
}

fn import(interpreter: &Path) -> Result<(), String> {
    let probe = Command::new(interpreter)
        .args(["-c", "import ding.interaction"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if probe.status.success() {
        return Ok(());
    }
    let trace = String::from_utf8_lossy(&probe.stderr);
    Err(trace
        .trim()
        .lines()
        .last()
        .unwrap_or("import failed")
        .to_owned())
}

impl Python {
    /// Starts `tests/python/<name>` with these arguments.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Script {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/python")
            .join(name);
        let mut child = Command::new(&self.interpreter)
            .arg("-B") // leaves no bytecode beside the scripts
            .arg(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the interpreter has just run");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        Script {
            name: name.to_owned(),
            input: child.stdin.take(),
            readers: vec![
                read("script-stdout", stdout, sender.clone()),
                read("script-stderr", stderr, sender),
            ],
            child,
            lines,
            transcript: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Starts `ding_slave.py`; gives it and its port when it listens.
    pub(crate) fn slave(&self, arguments: &[&str]) -> (Script, u16) {
        self.listening("ding_slave.py", arguments)
    }

    /// Starts `ding_master.py`; gives it and its port when it listens.
    pub(crate) fn master(&self, arguments: &[&str]) -> (Script, u16) {
        self.listening("ding_master.py", arguments)
    }

    fn listening(&self, name: &str, arguments: &[&str]) -> (Script, u16) {
        let mut script = self.start(name, arguments);
        let ready = script.event("ready");
        let port = ready["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .expect("ready carries the port");
        (script, port)
    }
}

/// A running script. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Script {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
    lines: Receiver<String>,
    /// All lines of both outputs, for the report of a failure.
    transcript: Vec<String>,
    /// Events that no one has waited for yet.
    waiting: Vec<Value>,
}

impl Script {
    /// The script's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives the script an order.
    pub(crate) fn send(&mut self, order: &Value) {
        self.send_line(&order.to_string());
    }

    /// Gives it an order that may hold what only Python takes for JSON.
    pub(crate) fn send_line(&mut self, order: &str) {
        let input = self
            .input
            .as_mut()
            .expect("the input is open until the script is ended");
        if writeln!(input, "{order}")
            .and_then(|()| input.flush())
            .is_err()
        {
            // It is gone or going; this collects what it had to say about that.
            self.wait_for("more orders read", |_| false);
        }
    }

    /// The first event of this name that was not taken yet.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.wait_for(name, |event| event["event"] == name)
    }

    /// Takes the first event that `wanted` accepts, the others stay for later calls; `what` is for the report.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.waiting.iter().position(&wanted) {
                return self.waiting.remove(index);
            }
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.take_down(line),
                Err(RecvTimeoutError::Timeout) => {
                    self.fail(&format!("no {what} within {PATIENCE:?}"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.fail(&format!("no {what} before its end"))
                }
            }
        }
    }

    /// Whether such an event has arrived by now; it stays to be taken.
    pub(crate) fn has_seen(&mut self, wanted: impl Fn(&Value) -> bool) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            self.take_down(line);
        }
        self.waiting.iter().any(wanted)
    }

    /// Kills the script (SIGKILL) and reaps it: its peers see a process that is suddenly gone.
    pub(crate) fn kill(mut self) {
        self.put_away();
    }

    /// Closes the script's input and waits for its own end.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.input = None;
        let deadline = Instant::now() + PATIENCE;
        // Both outputs close with the process.
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.take_down(line),
                Err(RecvTimeoutError::Timeout) => {
                    self.fail(&format!("still running after {PATIENCE:?}"))
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.child.wait().expect("a child can be reaped")
    }

    fn take_down(&mut self, line: String) {
        if let Ok(event @ Value::Object(_)) = serde_json::from_str(&line) {
            self.waiting.push(event);
        }
        self.transcript.push(line);
    }

    fn fail(&self, why: &str) -> ! {
        panic!(
            "{}: {why}; it said:\n{}",
            self.name,
            self.transcript.join("\n")
        );
    }

    /// Leaves nothing behind: no process, not even an unreaped one, and no reader.
    fn put_away(&mut self) {
        self.input = None;
        // An error says that it has ended by itself.
        let _ = self.child.kill();
        let reaped = self.child.wait();
        let readers_ended = self.readers.drain(..).all(|reader| reader.join().is_ok());
        if !std::thread::panicking() {
            assert!(reaped.is_ok(), "{}: not reaped: {reaped:?}", self.name);
            assert!(readers_ended, "{}: a reader panicked", self.name);
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.put_away();
    }
}

/// Passes lines on until the stream ends, that is: until the script is gone.
fn read(name: &str, stream: impl Read + Send + 'static, lines: Sender<String>) -> JoinHandle<()> {
    let pass_on = move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            // Goes on when no one listens any more: a script must not block on a full pipe.
            let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(pass_on)
        .expect("a test can start a thread")
}
