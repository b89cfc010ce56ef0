//! What is under test: our slave with the worker that the vectors take for granted, or our master at their orders.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use interplay::master::{Connection, Error, Master, Task, TaskError};
use interplay::slave::{Refuse, Slave, TaskFail, Worker};
use serde_json::{Value, json};

use crate::log::Log;
use crate::pause;

/// The channel of both.
pub(crate) const CHANNEL: i64 = 4242;

/// How long a task may be without an end. No vector leaves one so long, but one that hangs must not hang the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running slave.
pub(crate) fn slave(heartbeat: f64) -> Result<Slave, String> {
    let builder = Slave::builder().host("127.0.0.1").port(0).channel(CHANNEL);
    let slave = builder
        .heartbeat_span(Duration::from_secs_f64(heartbeat))
        .start(Demo);
    slave.map_err(|error| error.to_string())
}

/// The worker of the README's table.
struct Demo;

impl Worker for Demo {
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        if let Some(seconds) = data["sleep"].as_f64() {
            pause(seconds);
        }
        if data["crash"] == true {
            panic!("task crashed");
        }
        if let Some(result) = data.get("fail") {
            return Err(TaskFail::new(result.clone()));
        }
        if let Some(result) = data.get("echo") {
            return Ok(json!({"echo": result}));
        }
        match (&data["a"], &data["b"]) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Ok(json!({"sum": a + b})),
                _ => Ok(
                    json!({"sum": a.as_f64().unwrap_or_default() + b.as_f64().unwrap_or_default()}),
                ),
            },
            _ => Err(TaskFail::new(json!({"message": "ab not found"}))),
        }
    }

    fn before_connection(&self, data: &Value) -> Result<(), Refuse> {
        judge(data, "crash")
    }

    fn before_disconnection(&self, data: &Value) -> Result<(), Refuse> {
        judge(data, "crash")
    }

    fn before_task(&self, data: &Value) -> Result<(), Refuse> {
        judge(data, "crash_before")
    }
}

/// A hook knows no error but a refusal, so it fails by panicking.
fn judge(data: &Value, crash: &str) -> Result<(), Refuse> {
    if data[crash] == true {
        panic!("hook crashed");
    }
    data.get("refuse")
        .map_or(Ok(()), |refusal| Err(Refuse::new(refusal.clone())))
}

/// A running master with its connections, which are named by the slaves' addresses.
pub(crate) struct Orders {
    master: Option<Master>,
    connections: BTreeMap<String, Connection>,
    /// One line for each task that ended.
    printed: Arc<Log<Value>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Orders {
    /// Starts a master and connects it to these slaves.
    pub(crate) fn start(tolerance: f64, slaves: &[String]) -> Result<Self, String> {
        let text = |error: Error| error.to_string();
        let master = Master::builder()
            .host("127.0.0.1") // and so the address it tells slaves is http://127.0.0.1:{port}
            .port(0)
            .channel(CHANNEL)
            .heartbeat_tolerance(Duration::from_secs_f64(tolerance))
            .heartbeat_check_span(Duration::from_millis(100))
            .start()
            .map_err(text)?;
        let mut connections = BTreeMap::new();
        for slave in slaves {
            let connection = master.new_connection(slave, slave).map_err(text)?;
            connection.connect().map_err(text)?;
            connections.insert(slave.clone(), connection);
        }
        Ok(Self {
            master: Some(master),
            connections,
            printed: Arc::new(Log::new()),
            tasks: Vec::new(),
        })
    }

    pub(crate) fn master(&self) -> &Master {
        self.master.as_ref().expect("it is there until the drop")
    }

    pub(crate) fn printed(&self) -> &Log<Value> {
        &self.printed
    }

    /// Runs a task on a thread of its own, which prints a line when it has ended.
    pub(crate) fn submit(&mut self, slave: &str, data: Value) -> io::Result<()> {
        let (connection, printed) = (self.connections[slave].clone(), self.printed.clone());
        let work = move || {
            let (status, result) = run(&connection, &data);
            printed.push(json!({"slave": connection.name(), "status": status, "data": data, "result": result}));
        };
        self.tasks.push(
            thread::Builder::new()
                .name("order".to_owned())
                .spawn(work)?,
        );
        Ok(())
    }

    pub(crate) fn disconnect(&self, slave: &str) -> Result<(), String> {
        let disconnected = self.connections[slave].disconnect();
        disconnected.map(drop).map_err(|error| error.to_string())
    }
}

fn run(connection: &Connection, data: &Value) -> (&'static str, Value) {
    let task = match connection.new_task(data).and_then(Task::start) {
        Ok(task) => task,
        Err(Error::Refused { refusal, .. }) => return ("refused", refusal.data),
        Err(error) => return ("lost", json!(error.to_string())),
    };
    match task.join_timeout(PATIENCE) {
        Ok(result) => ("completed", result.clone()),
        Err(TaskError::Failed { result }) => ("failed", result),
        Err(TaskError::Lost { .. }) => ("lost", Value::Null),
        Err(error) => ("unknown", json!(error.to_string())),
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        drop(self.master.take()); // ends what is open
        for task in self.tasks.drain(..) {
            let ended = task.join();
            assert!(
                ended.is_ok() || thread::panicking(),
                "a task's thread panicked"
            );
        }
    }
}
