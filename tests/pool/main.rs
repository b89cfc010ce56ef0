//! The pool through its public face: what it promises of tasks, slaves, maps, progress and ends.
//!
//! The slaves are real ones in this process, whose work a test can hold up, or scripted peers.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod maps;
mod placing;
mod policy;
mod progress;
mod slaves;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::pool::{Builder, JobError, Observer, Pool, SlaveChange, SlaveState};
use interplay::pool::{TaskEnded, TaskRetried, TaskStarted};
use interplay::slave::{Slave, TaskFail};
use parking_lot::Mutex;
use serde_json::{Value, json};

use support::{LIMIT, eventually, secs, slave};

/// A slave whose tasks begin and end in sight of the test.
pub(crate) struct Hand {
    pub(crate) slave: Slave,
    begun: Receiver<Value>,
    end: Sender<Result<Value, TaskFail>>,
}

impl Hand {
    pub(crate) fn start() -> Self {
        let (begin, begun) = unbounded();
        let (end, ends) = unbounded::<Result<Value, TaskFail>>();
        let work = move |data: Value| {
            begin.send(data).unwrap();
            ends.recv_timeout(LIMIT)
                .unwrap_or_else(|_| Ok(json!("none")))
        };
        let slave = slave().grace(secs(0)).start(work).unwrap();
        Self { slave, begun, end }
    }

    pub(crate) fn address(&self) -> String {
        self.slave.local_addr().to_string()
    }

    /// Waits until the slave begins a task; its data.
    #[track_caller]
    pub(crate) fn begins(&self) -> Value {
        self.begun.recv_timeout(LIMIT).expect("a task begins")
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.begun.is_empty()
    }

    /// Has the task that is at work, or the next one, end with this.
    pub(crate) fn ends(&self, result: Value) {
        self.end.send(Ok(result)).unwrap();
    }

    pub(crate) fn fails(&self, result: Value) {
        self.end.send(Err(TaskFail::new(result))).unwrap();
    }
}

/// A slave that gives back what it is given; it counts what it did.
pub(crate) fn echo() -> (Slave, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let work = move |data: Value| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(data)
    };
    (slave().start(work).unwrap(), count)
}

pub(crate) fn address(slave: &Slave) -> String {
    slave.local_addr().to_string()
}

/// Starts a pool and waits for so many slaves.
#[track_caller]
pub(crate) fn up(builder: Builder, slaves: usize) -> Pool {
    let pool = builder.start().unwrap();
    pool.wait_for(slaves, LIMIT).unwrap();
    pool
}

/// Waits until a slave is in that state.
#[track_caller]
pub(crate) fn stands(pool: &Pool, name: &str, state: SlaveState) {
    eventually(LIMIT, || state_of(pool, name) == Some(state));
}

pub(crate) fn state_of(pool: &Pool, name: &str) -> Option<SlaveState> {
    let slaves = pool.snapshot().slaves;
    let mut named = slaves.iter().filter(|slave| slave.name == name);
    named.next().map(|slave| slave.state)
}

/// Writes down what an observer is told, a line each.
#[derive(Clone, Default)]
pub(crate) struct Notes(pub(crate) Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, line: String) {
        self.0.lock().push(line);
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        let notes = self.0.lock();
        notes.iter().filter(|line| line.starts_with(start)).count()
    }
}

impl Observer for Notes {
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        self.note(format!("{} {}", change.slave, change.state));
    }

    fn task_started(&self, started: &TaskStarted<'_>) {
        self.note(format!("started at {}", started.slave));
    }

    fn task_retried(&self, retried: &TaskRetried<'_>) {
        self.note(format!("retried from {}: {}", retried.slave, retried.why));
    }

    fn task_ended(&self, ended: &TaskEnded<'_>) {
        let slave = ended.slave.unwrap_or("nobody");
        match ended.result {
            Ok(result) => self.note(format!("ended at {slave} with {result}")),
            Err(error) => self.note(format!("ended at {slave}: {error}")),
        }
    }
}

/// The error's variant in a word.
pub(crate) fn kind(error: &JobError) -> &'static str {
    match error {
        JobError::Failed { .. } => "failed",
        JobError::Lost { .. } => "lost",
        JobError::Refused { .. } => "refused",
        JobError::Unsent { .. } => "unsent",
        JobError::NoSlave { .. } => "no slave",
        JobError::DeadlinePassed { .. } => "deadline",
        JobError::Cancelled => "cancelled",
        JobError::Closed => "closed",
        JobError::TimedOut { .. } => "timed out",
        JobError::Mismatch { .. } => "mismatch",
        JobError::Unserializable { .. } => "unserializable",
        _ => "another",
    }
}
