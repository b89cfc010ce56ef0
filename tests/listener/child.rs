//! Child programs for the tests: this test program once more, with a role.
//!
//! A child is the same executable, told to run the one test [`program`], which does what its
//! environment says. It tells its test what happens by lines of JSON on its standard output, and
//! waits for its test by reading its standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{self, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use serde_json::Value;

const ROLE: &str = "INTERPLAY_TEST_ROLE";
const TASK: &str = "INTERPLAY_TEST_TASK";

/// Long enough for any machine; nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(60);

#[test]
#[ignore = "what the children of the other tests run; does nothing by itself"]
fn program() {
    if let Ok(role) = std::env::var(ROLE) {
        let task = std::env::var(TASK).map_or(Value::Null, |task| task.parse().unwrap());
        super::roles::play(&role, &task);
    }
}

/// In a child: tells the test.
pub(crate) fn say(what: impl Into<Value>) {
    // The line of libtest before it may be unfinished.
    let line = format!("\n@{}\n", what.into());
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// In a child: waits until the test says go on; false once it says no more.
pub(crate) fn wait() -> bool {
    std::io::stdin().read_line(&mut String::new()).unwrap() > 0
}

/// A running child. It does not outlive its test.
pub(crate) struct Child {
    process: process::Child,
    input: Option<process::ChildStdin>,
    said: Receiver<Value>,
}

impl Child {
    /// Starts a child in `role` with this environment.
    pub(crate) fn start<'a>(
        role: &str,
        task: &Value,
        env: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::program", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(TASK, task.to_string())
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = unbounded();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let forward = move || {
            for line in lines.map_while(Result::ok) {
                if let Some(text) = line.strip_prefix('@') {
                    let _ = tell.send(text.parse().unwrap());
                }
            }
        };
        let builder = std::thread::Builder::new().name("child-output".to_owned());
        builder.spawn(forward).unwrap();
        Self {
            input: process.stdin.take(),
            process,
            said,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next it says.
    #[track_caller]
    pub(crate) fn says(&self) -> Value {
        self.said.recv_timeout(LONG).unwrap()
    }

    /// The next it says within `limit`, if it does.
    pub(crate) fn says_within(&self, limit: Duration) -> Option<Value> {
        match self.said.recv_timeout(limit) {
            Ok(value) => Some(value),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("it ended"),
        }
    }

    /// Lets it go on from one wait.
    pub(crate) fn go(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Kills it with signal 9 and collects it.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Lets it go on from all waits and waits for its end.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.input = None;
        let deadline = Instant::now() + LONG;
        let never = crossbeam_channel::never::<()>();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            let _ = never.recv_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
