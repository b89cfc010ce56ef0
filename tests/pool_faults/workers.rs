//! Slaves that are processes of their own, and a gate that holds their tasks back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::PATIENCE;
use crate::support::program::Program;
use crate::support::{CHANNEL, eventually};

/// A running example `slave` on loopback. It does not outlive its test.
pub(crate) struct Worker {
    program: Program,
    pub(crate) port: u16,
    rest: Vec<String>,
}

impl Worker {
    /// One that does as its tasks say: `echo`, `sleep`, `fail`, `refuse`, `crash`.
    pub(crate) fn start() -> Self {
        Self::with(CHANNEL, 0, &["--task", "conformance"]).unwrap()
    }

    /// One of another channel.
    pub(crate) fn of_channel(channel: i64) -> Self {
        Self::with(channel, 0, &["--task", "conformance"]).unwrap()
    }

    /// One whose tasks, which are numbers, wait at a gate and give themselves.
    pub(crate) fn behind(gate: &Gate) -> Self {
        let folder = gate.folder.to_str().unwrap();
        Self::with(CHANNEL, 0, &["--exec", "sh", "-c", SCRIPT, "sh", folder]).unwrap()
    }

    /// None if the port cannot be had.
    fn with(channel: i64, port: u16, rest: &[&str]) -> Option<Self> {
        let (channel, port) = (channel.to_string(), port.to_string());
        let first = ["--announce", "--heartbeat", "0.2"];
        let where_to = ["--channel", &channel, "--port", &port];
        let program = Program::start("slave", &[&first[..], &where_to, rest].concat());
        let line = program.output.recv_timeout(PATIENCE).ok()?;
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        Some(Self {
            program,
            port: u16::try_from(ready["port"].as_u64().unwrap()).unwrap(),
            rest: rest.iter().map(|&part| part.to_owned()).collect(),
        })
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// SIGKILL; it is gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// The same again, on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let rest: Vec<&str> = self.rest.iter().map(|part| &**part).collect();
        let mut next = None;
        eventually(PATIENCE, || {
            next = Self::with(CHANNEL, self.port, &rest);
            next.is_some()
        });
        *self = next.unwrap();
    }

    /// SIGSTOP: it is there, and does nothing.
    pub(crate) fn stop(&self) {
        signal(self.program.child.id(), "STOP");
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        signal(self.program.child.id(), "CONT");
    }
}

pub(crate) fn signal(process: u32, signal: &str) {
    let order = format!("kill -{signal} {process}");
    let done = Command::new("sh").args(["-c", &order]).status().unwrap();
    assert!(done.success());
}

/// Notes the task, and gives it back when the gate is open for it or for all, or is gone.
const SCRIPT: &str = r#"
read -r task
echo "$task" >>"$1/log"
until [ -e "$1/$task" ] || [ -e "$1/all" ] || ! [ -d "$1" ]; do sleep 0.02; done
echo "$task"
"#;

/// A folder that tells tasks when to end, and knows how often each began.
pub(crate) struct Gate {
    folder: PathBuf,
}

impl Gate {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "interplay-gate-{}-{}",
            std::process::id(),
            LAST.fetch_add(1, Ordering::Relaxed)
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    fn touch(path: &Path) {
        fs::write(path, "").unwrap();
    }

    pub(crate) fn open(&self, task: u64) {
        Self::touch(&self.folder.join(task.to_string()));
    }

    pub(crate) fn open_all(&self) {
        Self::touch(&self.folder.join("all"));
    }

    /// How often a task began, wherever.
    pub(crate) fn runs(&self, task: u64) -> usize {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let task = task.to_string();
        log.lines().filter(|line| *line == task).count()
    }

    /// Waits until a task has begun so many times.
    #[track_caller]
    pub(crate) fn until_runs(&self, task: u64, times: usize) {
        eventually(PATIENCE, || self.runs(task) >= times);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
