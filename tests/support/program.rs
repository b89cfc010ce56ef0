//! A built example: its input and output by the line, and its exit code.
//!
//! `cargo test` builds the examples first. `cargo test --test` one file does not: it takes what
//! `cargo build --examples` has left.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::Deserialize;
use serde_json::Value;

use super::{secs, spawn};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = secs(120);

/// A running example. It does not outlive its test.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) output: Receiver<String>,
    pub(crate) errors: Receiver<String>,
}

impl Program {
    pub(crate) fn start(example: &str, arguments: &[&str]) -> Self {
        Self::start_as(example, arguments, |_| ())
    }

    /// Its command may be changed before it runs.
    pub(crate) fn start_as(
        example: &str,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let this = std::env::current_exe().unwrap();
        let folder = this.parent().unwrap().parent().unwrap().join("examples");
        let path = folder.join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
        let mut command = Command::new(&path);
        command
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("QMP_TIMEOUT")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; run cargo build --examples", path.display())
        });
        let (output, errors) = (unbounded(), unbounded());
        if let Some(pipe) = child.stdout.take() {
            forward(pipe, output.0);
        }
        if let Some(pipe) = child.stderr.take() {
            forward(pipe, errors.0);
        }
        Self {
            input: child.stdin.take(),
            child,
            output: output.1,
            errors: errors.1,
        }
    }

    /// The next line of its output.
    pub(crate) fn line(&mut self) -> Value {
        let line = self.output.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("no line: {error}, {}", self.all_errors()));
        let mut json = serde_json::Deserializer::from_str(&line);
        json.disable_recursion_limit();
        Value::deserialize(&mut json).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits for a line of its standard error with this in it.
    pub(crate) fn error_with(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            match self.errors.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen += &(line + "\n"),
                Err(error) => panic!("no {words:?} on standard error: {error}, but {seen}"),
            }
        }
    }

    pub(crate) fn all_errors(&self) -> String {
        self.errors.try_iter().map(|line| line + "\n").collect()
    }

    pub(crate) fn say(&mut self, line: impl ToString) {
        writeln!(self.input.as_mut().unwrap(), "{}", line.to_string()).unwrap();
    }

    /// Waits for its end; exit code and rest of the output.
    pub(crate) fn end(&mut self) -> (Option<i32>, Vec<String>) {
        let mut rest = Vec::new();
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(error) if error.is_timeout() => panic!("no end: {}", self.all_errors()),
                Err(_) => return (self.child.wait().unwrap().code(), rest),
            }
        }
    }

    /// Ends its input and waits for its end.
    pub(crate) fn finish(&mut self) -> (Option<i32>, Vec<String>) {
        self.input = None;
        self.end()
    }

    pub(crate) fn terminate(&mut self) {
        let done = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(done.success());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends the lines of a pipe until it ends.
fn forward(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    let body = move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    };
    spawn("forward", body);
}
