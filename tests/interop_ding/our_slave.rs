//! Masters of DI-engine drive our slave.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::slave::{Builder, Lost, Refuse, Slave, TaskFail, Worker};
use serde_json::{Value, json};

use crate::python::{Python, Script, python};
use crate::{CHANNEL, PATIENCE, TOLERANCE};

/// What our worker was told.
#[derive(Debug, PartialEq)]
enum Told {
    Connect(Value),
    Disconnect(Value),
    Lost(String),
}

/// Does as the data says: refuses, panics, waits at the gate, fails, echoes, adds.
struct Table {
    told: Sender<Told>,
    gate: Receiver<()>,
}

impl Table {
    fn tell(&self, what: Told) {
        // Fails when the test has ended.
        let _ = self.told.send(what);
    }
}

fn judge(data: &Value) -> Result<(), Refuse> {
    data.get("refuse")
        .map_or(Ok(()), |why| Err(Refuse::new(why.clone())))
}

impl Worker for Table {
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        if data["wait"] == true {
            self.gate.recv_timeout(PATIENCE)?;
        }
        if data["crash"] == true {
            panic!("task crashed");
        }
        if let Some(why) = data.get("fail") {
            return Err(TaskFail::new(why.clone()));
        }
        if let Some(echo) = data.get("echo") {
            return Ok(json!({"echo": echo}));
        }
        match (data["a"].as_i64(), data["b"].as_i64()) {
            (Some(a), Some(b)) => Ok(json!({"sum": a + b})),
            _ => Err(TaskFail::new(json!({"message": "ab not found"}))),
        }
    }

    fn before_connection(&self, data: &Value) -> Result<(), Refuse> {
        judge(data)?;
        self.tell(Told::Connect(data.clone()));
        Ok(())
    }

    fn before_disconnection(&self, data: &Value) -> Result<(), Refuse> {
        judge(data)?;
        self.tell(Told::Disconnect(data.clone()));
        Ok(())
    }

    fn before_task(&self, data: &Value) -> Result<(), Refuse> {
        judge(data)
    }

    fn lost_connection(&self, master: &str, _: &Lost) {
        self.tell(Told::Lost(master.to_owned()));
    }
}

/// Settings of a slave that beats often and gives its master up after about three seconds.
///
/// Its grace is short, since at the end of a test the master is killed, at times before the last report was answered.
fn builder(port: u16) -> Builder {
    Slave::builder()
        .host("127.0.0.1")
        .port(port)
        .channel(CHANNEL.parse().expect("a number"))
        .heartbeat_span(Duration::from_millis(200))
        .request_retries(10)
        .request_retry_waiting(Duration::from_millis(300))
        .grace(Duration::from_secs(2))
}

/// Our slave, what it is told, and the gate for tasks that wait.
fn slave() -> (Slave, Receiver<Told>, Sender<()>) {
    let ((told, tells), (open, gate)) = (unbounded(), unbounded());
    let slave = builder(0)
        .start(Table { told, gate })
        .expect("a slave starts");
    (slave, tells, open)
}

fn master(python: &Python) -> (Script, u16) {
    let tolerance = TOLERANCE.as_secs_f64().to_string();
    python.master(&[
        "--channel",
        CHANNEL,
        "--tolerance",
        &tolerance,
        "--check-span",
        "0.1",
    ])
}

/// The event that an order leads to: its own, or an error.
fn answer(master: &mut Script, order: &Value, event: &str) -> Value {
    master.send(order);
    master.wait_for(event, |answer| {
        answer["event"] == event || answer["event"] == "error"
    })
}

fn connect(master: &mut Script, port: u16, data: Value) -> Value {
    let order =
        json!({"cmd": "connect", "name": "w", "host": "127.0.0.1", "port": port, "data": data});
    answer(master, &order, "connected")
}

fn disconnect(master: &mut Script, data: Value) -> Value {
    answer(
        master,
        &json!({"cmd": "disconnect", "name": "w", "data": data}),
        "disconnected",
    )
}

fn start(master: &mut Script, data: Value) -> Value {
    answer(
        master,
        &json!({"cmd": "task", "name": "w", "data": data}),
        "task_started",
    )
}

/// Runs a task to its end; how it ended, and its result.
fn run(master: &mut Script, data: Value) -> (Value, Value) {
    let started = start(master, data);
    assert_eq!(started["event"], "task_started", "{started}");
    end(master)
}

fn end(master: &mut Script) -> (Value, Value) {
    let mut done = master.event("task_done");
    (done["task_status"].take(), done["result"].take())
}

fn run_sum(master: &mut Script) {
    assert_eq!(
        run(master, json!({"a": 1, "b": 2})),
        (json!("completed"), json!({"sum": 3}))
    );
}

/// The class of the error that Python raised, with status, code and data of our answer.
fn refusal(mut answer: Value) -> (Value, Value, Value, Value) {
    let mut part = |key: &str| answer[key].take();
    (part("error"), part("status"), part("code"), part("data"))
}

#[test]
fn our_slave_does_the_tasks_of_a_python_master() {
    let Some(python) = python() else { return };
    let (slave, _told, _open) = slave();
    let (mut master, _) = master(python);
    let connected = connect(&mut master, slave.local_addr().port(), Value::Null);
    assert_eq!(
        (&connected["status"], &connected["message"]),
        (&json!(200), &json!("Connect success."))
    );

    run_sum(&mut master);
    for text in [
        "é😀\u{0}\u{2028}\"\\/\u{7f}".to_owned(),
        "x".repeat(1 << 20),
        "é".repeat(1 << 19),
    ] {
        let (status, result) = run(&mut master, json!({"echo": text}));
        assert!(
            status == "completed" && result == json!({"echo": text}),
            "{status}"
        );
    }
    // A Python master may send what no other can write.
    master.send_line(
        r#"{"cmd": "task", "name": "w", "data": {"echo": [NaN, -Infinity, 1e400, 1000000000000000000000]}}"#,
    );
    master.event("task_started");
    assert_eq!(
        end(&mut master),
        (
            json!("completed"),
            json!({"echo": [null, null, null, 1e21]})
        )
    );

    for (result, arrives) in [
        (json!([1, null]), json!([1, null])),
        (json!("text"), json!("text")),
        (json!(0), json!({})),
    ] {
        assert_eq!(
            run(&mut master, json!({"fail": result})),
            (json!("failed"), arrives)
        );
    }
    let (status, result) = run(&mut master, json!({"crash": true}));
    assert_eq!(
        (status, &result["message"]),
        (json!("failed"), &json!("task crashed"))
    );

    let refused = refusal(start(&mut master, json!({"refuse": {"why": "tired"}})));
    assert_eq!(
        refused,
        (
            json!("SlaveTaskRefused"),
            json!(403),
            json!(602),
            json!({"why": "tired"})
        )
    );
    run_sum(&mut master);
}

#[test]
fn fifty_tasks_in_a_row_find_our_slave_free() {
    let Some(python) = python() else { return };
    let (slave, _told, _open) = slave();
    let (mut master, _) = master(python);
    connect(&mut master, slave.local_addr().port(), Value::Null);

    for number in 0..50 {
        let done = run(&mut master, json!({"a": number, "b": 1}));
        assert_eq!(done, (json!("completed"), json!({"sum": number + 1})));
    }
}

#[test]
fn our_busy_slave_refuses_and_keeps_its_task() {
    let Some(python) = python() else { return };
    let (slave, _told, open) = slave();
    let (mut master, _) = master(python);
    connect(&mut master, slave.local_addr().port(), Value::Null);

    let started = start(&mut master, json!({"wait": true, "a": 1, "b": 2}));
    assert_eq!(started["event"], "task_started", "{started}");
    let refused = refusal(start(&mut master, json!({"a": 3, "b": 4})));
    assert_eq!(
        refused,
        (
            json!("SlaveTaskAlreadyExist"),
            json!(400),
            json!(601),
            Value::Null
        )
    );
    open.send(()).expect("the worker waits");
    assert_eq!(end(&mut master), (json!("completed"), json!({"sum": 3})));
    run_sum(&mut master);
}

#[test]
fn our_slave_refuses_a_connect_a_disconnect_and_a_second_python_master() {
    let Some(python) = python() else { return };
    let (slave, told, _open) = slave();
    let port = slave.local_addr().port();
    let ((mut first, address), (mut second, _)) = (master(python), master(python));

    let refused = refusal(connect(
        &mut first,
        port,
        json!({"refuse": {"why": "stranger"}}),
    ));
    let connection_refused = "SlaveSlaveConnectionRefused";
    assert_eq!(
        refused,
        (
            json!(connection_refused),
            json!(403),
            json!(503),
            json!({"why": "stranger"})
        )
    );
    assert_eq!(slave.master(), None);

    connect(&mut first, port, json!({"pass": "word"}));
    assert_eq!(told.try_recv(), Ok(Told::Connect(json!({"pass": "word"}))));
    assert_eq!(slave.master(), Some(format!("http://127.0.0.1:{address}")));

    let refused = refusal(connect(&mut second, port, Value::Null));
    assert_eq!(
        refused,
        (
            json!("SlaveSlaveAlreadyConnected"),
            json!(400),
            json!(501),
            Value::Null
        )
    );

    let refused = refusal(disconnect(&mut first, json!({"refuse": [1, 2]})));
    let disconnection_refused = "SlaveSlaveDisconnectionRefused";
    assert_eq!(
        refused,
        (
            json!(disconnection_refused),
            json!(403),
            json!(504),
            json!([1, 2])
        )
    );
    run_sum(&mut first);

    for round in 0..5 {
        assert_eq!(
            disconnect(&mut first, json!({"round": round}))["message"],
            "Disconnect success."
        );
        assert_eq!(
            told.try_recv(),
            Ok(Told::Disconnect(json!({"round": round})))
        );
        assert_eq!(slave.master(), None);
        // The same connection, and so the same token, as before.
        assert_eq!(
            answer(
                &mut first,
                &json!({"cmd": "connect", "name": "w"}),
                "connected"
            )["status"],
            200
        );
        assert_eq!(told.try_recv(), Ok(Told::Connect(json!({}))));
    }
    disconnect(&mut first, Value::Null);
    assert_eq!(connect(&mut second, port, Value::Null)["status"], 200);
    run_sum(&mut second);
}

#[test]
fn our_slave_that_beats_is_not_dropped() {
    let Some(python) = python() else { return };
    let (slave, told, _open) = slave();
    let (mut master, _) = master(python);
    connect(&mut master, slave.local_addr().port(), json!({"a": 1}));
    assert_eq!(told.try_recv(), Ok(Told::Connect(json!({"a": 1}))));

    let news = told.recv_timeout(2 * TOLERANCE + TOLERANCE / 2);
    assert!(news.is_err(), "{news:?}");
    let contains = answer(
        &mut master,
        &json!({"cmd": "contains", "name": "w"}),
        "contains",
    );
    assert_eq!(
        (&contains["registered"], &contains["connected"]),
        (&json!(true), &json!(true))
    );
    run_sum(&mut master);
}

#[test]
fn our_slave_frees_itself_of_a_killed_python_master_and_takes_its_successor() {
    let Some(python) = python() else { return };
    let (slave, told, _open) = slave();
    let port = slave.local_addr().port();
    let (mut killed, address) = master(python);
    connect(&mut killed, port, Value::Null);
    run_sum(&mut killed);
    assert_eq!(told.try_recv(), Ok(Told::Connect(json!({}))));

    killed.kill();
    // Whether it is back before our slave has given up or after, our slave is strange to it.
    let (mut successor, _) = python.master(&["--channel", CHANNEL, "--port", &address.to_string()]);
    assert_eq!(
        told.recv_timeout(PATIENCE),
        Ok(Told::Lost(format!("http://127.0.0.1:{address}")))
    );
    assert_eq!(slave.master(), None);

    assert_eq!(connect(&mut successor, port, Value::Null)["status"], 200);
    run_sum(&mut successor);
    assert_eq!(told.try_recv(), Ok(Told::Connect(json!({}))));
    slave.close().expect("nothing holds it");
    assert_eq!(told.try_recv().ok(), None, "told a second time");
}

#[test]
fn a_python_master_drops_our_slave_that_dies_and_takes_its_successor() {
    let Some(python) = python() else { return };
    let (mut process, port) = Process::start();
    let (mut master, _) = master(python);
    connect(&mut master, port, Value::Null);
    run_sum(&mut master);

    process.kill();
    master.send(&json!({"cmd": "wait_gone", "name": "w"}));
    master.event("gone");

    let (told, _tells) = unbounded();
    let (_open, gate) = unbounded();
    let slave = builder(port)
        .start(Table { told, gate })
        .expect("the port is free");
    assert_eq!(connect(&mut master, port, Value::Null)["status"], 200);
    run_sum(&mut master);

    drop(slave); // says nothing to its master either: the wire has no word for it
    master.send(&json!({"cmd": "wait_gone", "name": "w"}));
    master.event("gone");
}

/// Our slave as a process of its own. Dropped, it is killed and reaped.
struct Process {
    child: Child,
}

impl Process {
    /// Starts this very program with the one test that is none.
    fn start() -> (Self, u16) {
        let program = std::env::current_exe().expect("a test knows its program");
        let child = Command::new(program)
            .args([
                "--exact",
                "our_slave::slave_process",
                "--ignored",
                "--nocapture",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program has just started");
        let mut process = Self { child };
        let output = process.child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.rsplit_once("listens on ")?.1.parse().ok());
        (process, port.expect("it says where it listens"))
    }

    fn kill(&mut self) {
        // Errors say that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "no test but the process of another one; ends with its input"]
fn slave_process() {
    let (slave, _told, _open) = slave();
    println!("listens on {}", slave.local_addr().port());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
