//! Our master drives slaves of DI-engine.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::master::{BoxError, Connection, Error, Hooks, Master, TaskError};
use interplay::task::{Loss, Status};
use interplay::wire::{Refusal, SlaveCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::python::{Python, Script, python};
use crate::{CHANNEL, PATIENCE, SPAN, TOLERANCE, eventually};

const CHECK_SPAN: Duration = Duration::from_millis(100);

/// A tolerance for tests in which no slave is to be lost.
const ENDLESS: Duration = Duration::from_secs(120);

/// What a loss may take beyond tolerance and check span.
const SLACK: Duration = Duration::from_secs(10);

/// What the hooks of a master say, and what they were told.
struct Watch {
    says: Arc<Mutex<Value>>,
    losses: Receiver<(String, Loss)>,
}

struct Told {
    says: Arc<Mutex<Value>>,
    losses: Sender<(String, Loss)>,
}

impl Hooks for Told {
    fn before_connect(&self, _: &str) -> Result<Value, BoxError> {
        Ok(self.says.lock().clone())
    }

    fn before_disconnect(&self, _: &str) -> Result<Value, BoxError> {
        Ok(self.says.lock().clone())
    }

    fn slave_lost(&self, slave: &str, loss: &Loss) {
        // Fails when the test has ended.
        let _ = self.losses.send((slave.to_owned(), loss.clone()));
    }
}

fn master(tolerance: Duration) -> (Master, Watch) {
    let (says, (losses, lost)) = (Arc::new(Mutex::new(Value::Null)), unbounded());
    let master = Master::builder()
        .host("127.0.0.1")
        .port(0)
        .channel(CHANNEL.parse().expect("a number"))
        .heartbeat_tolerance(tolerance)
        .heartbeat_check_span(CHECK_SPAN)
        .request_retry_waiting(Duration::from_millis(100))
        .hooks(Told {
            says: says.clone(),
            losses,
        })
        .start()
        .expect("a master starts");
    (master, Watch { says, losses: lost })
}

fn slave(python: &Python) -> (Script, u16) {
    python.slave(&["--channel", CHANNEL, "--heartbeat", SPAN])
}

fn connection(master: &Master, name: &str, port: u16) -> Connection {
    master
        .new_connection(name, &format!("127.0.0.1:{port}"))
        .expect("the name is free")
}

fn connect(master: &Master, name: &str, port: u16) -> Connection {
    let connection = connection(master, name, port);
    connection.connect().expect("the slave is free");
    connection
}

/// Runs one task to its end.
fn run(slave: &Connection, data: Value) -> Result<Value, TaskError> {
    let task = slave
        .new_task(data)
        .and_then(|task| task.start())
        .expect("the slave takes the task");
    task.join_timeout(PATIENCE).cloned()
}

fn run_sum(slave: &Connection) {
    assert_eq!(
        run(slave, json!({"a": 1, "b": 2})).expect("it completes"),
        json!({"sum": 3})
    );
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal<SlaveCode> {
    match result {
        Err(Error::Refused { refusal, .. }) => *refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn signal(script: &Script, signal: &str) {
    let order = format!("kill -{signal} {}", script.id());
    assert!(
        Command::new("sh")
            .args(["-c", &order])
            .status()
            .expect("there is a shell")
            .success()
    );
}

#[test]
fn a_python_slave_does_the_tasks_of_our_master() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, watch) = master(ENDLESS);
    *watch.says.lock() = json!({"from": "us"});
    let worker = connect(&master, "w", port);
    assert_eq!(slave.event("connected")["data"], json!({"from": "us"}));

    run_sum(&worker);
    assert_eq!(slave.event("task")["data"], json!({"a": 1, "b": 2}));
    let floats = run(&worker, json!({"a": 0.1, "b": 0.2})).expect("it completes");
    assert_eq!(floats, json!({"sum": 0.1 + 0.2}));
    for text in [
        "é😀\u{0}\u{2028}\"\\/\u{7f}".to_owned(),
        "x".repeat(1 << 20),
        "é".repeat(1 << 19),
    ] {
        assert_eq!(
            run(&worker, json!({"echo": text})).expect("it completes"),
            json!({"echo": text})
        );
    }

    for why in [json!({"why": [1, null]}), json!("text"), json!(7)] {
        match run(&worker, json!({"fail": why})) {
            Err(TaskError::Failed { result }) => assert_eq!(result, why),
            other => panic!("not failed: {other:?}"),
        }
    }
    match run(&worker, Value::Null) {
        Err(TaskError::Failed { result }) => assert_eq!(result, json!({"message": "ab not found"})),
        other => panic!("not failed: {other:?}"),
    }

    let refused = worker
        .new_task(json!({"refuse": {"why": "tired"}}))
        .expect("it is JSON");
    let refusal = refusal(refused.clone().start());
    assert_eq!(
        (refusal.status, refusal.code),
        (403, SlaveCode::TaskRefused)
    );
    assert_eq!(
        (refusal.message.as_str(), refusal.data),
        ("Task refused!", json!({"why": "tired"}))
    );
    assert_eq!(refused.status(), Status::StartFailed);

    run_sum(&worker);
}

#[test]
fn what_only_python_writes_as_json_is_read_as_the_nearest_value() {
    let Some(python) = python() else { return };
    let (_slave, port) = slave(python);
    let (master, _watch) = master(ENDLESS);
    let worker = connect(&master, "w", port);

    let cases = [
        ("constants", json!([null, null, null])),
        ("surrogate", json!("a\u{fffd}b")),
        ("integer", json!(1e30)),
        (
            "nesting",
            (0..499).fold(json!([]), |inner, _| json!([inner])),
        ),
    ];
    for (odd, nearest) in cases {
        let result = run(&worker, json!({"odd": odd})).expect("it completes");
        assert!(result == json!({"odd": nearest}), "{odd}: {result}");
    }
}

#[test]
fn fifty_tasks_in_a_row_find_a_python_slave_free() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, _watch) = master(ENDLESS);
    let worker = connect(&master, "w", port);

    for number in 0..50 {
        assert_eq!(
            run(&worker, json!({"a": number, "b": 1})).expect("it completes"),
            json!({"sum": number + 1})
        );
        assert_eq!(slave.event("task")["data"]["a"], number);
    }
}

#[test]
fn a_busy_python_slave_refuses_and_keeps_its_task() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, _watch) = master(ENDLESS);
    let worker = connect(&master, "w", port);

    let long = json!({"sleep": 1.5, "a": 1, "b": 2});
    let first = worker
        .new_task(long)
        .and_then(|task| task.start())
        .expect("it is free");
    slave.event("task");
    for _ in 0..2 {
        let refusal = refusal(
            worker
                .new_task(json!({"a": 3, "b": 4}))
                .and_then(|task| task.start()),
        );
        assert_eq!(
            (refusal.status, refusal.code),
            (400, SlaveCode::TaskAlreadyExist)
        );
    }
    assert_eq!(
        first.join_timeout(PATIENCE).expect("it completes"),
        &json!({"sum": 3})
    );
    run_sum(&worker);
}

#[test]
fn a_python_slave_refuses_a_connect_a_disconnect_and_a_second_master() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (first, watch) = master(ENDLESS);
    let worker = connection(&first, "w", port);

    *watch.says.lock() = json!({"refuse": {"why": "stranger"}});
    let refused = refusal(worker.connect());
    assert_eq!(
        (refused.status, refused.code),
        (403, SlaveCode::SlaveConnectionRefused)
    );
    assert_eq!(refused.data, json!({"why": "stranger"}));
    assert!(!worker.is_connected() && !first.contains("w"));

    *watch.says.lock() = json!("a password");
    worker.connect().expect("it is welcome now");
    assert_eq!(slave.event("connected")["data"], "a password");

    let (second, _other_watch) = master(ENDLESS);
    let thief = connection(&second, "w", port);
    let refused = refusal(thief.connect());
    assert_eq!(
        (refused.status, refused.code),
        (400, SlaveCode::SlaveAlreadyConnected)
    );
    assert!(!second.contains("w"));

    *watch.says.lock() = json!({"refuse": [1, 2]});
    let refused = refusal(worker.disconnect());
    assert_eq!(
        (refused.status, refused.code),
        (403, SlaveCode::SlaveDisconnectionRefused)
    );
    assert_eq!(refused.data, json!([1, 2]));
    assert!(worker.is_connected() && first.contains("w"));
    run_sum(&worker);

    *watch.says.lock() = json!({"so": "long"});
    worker.disconnect().expect("it may go");
    assert_eq!(slave.event("disconnected")["data"], json!({"so": "long"}));
    thief.connect().expect("it is free");
    run_sum(&thief);
}

#[test]
fn a_task_that_crashes_a_python_slave_has_no_end_but_a_limit_and_the_slave_goes_on() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, _watch) = master(ENDLESS);
    let worker = connect(&master, "w", port);

    let crashed = worker
        .new_task(json!({"crash": true}))
        .and_then(|task| task.start())
        .expect("it is free");
    slave.event("task");
    let limit = Duration::from_millis(500);
    match crashed.join_timeout(limit) {
        Err(TaskError::TimedOut { after }) => assert_eq!(after, limit),
        other => panic!("ended: {other:?}"),
    }
    eventually("the slave is free", || {
        let next = worker
            .new_task(json!({"a": 1, "b": 2}))
            .and_then(|task| task.start());
        next.is_ok_and(|task| task.join_timeout(PATIENCE).is_ok())
    });
    assert_eq!(crashed.status(), Status::Started);

    worker.disconnect().expect("it is idle");
    match crashed.join_timeout(PATIENCE) {
        Err(TaskError::Lost {
            loss: Loss::Disconnected,
        }) => {}
        other => panic!("not lost: {other:?}"),
    }
}

#[test]
fn a_python_slave_that_beats_is_not_lost() {
    let Some(python) = python() else { return };
    let (_slave, port) = slave(python);
    let (master, watch) = master(TOLERANCE);
    let worker = connect(&master, "w", port);

    let loss = watch.losses.recv_timeout(2 * TOLERANCE + TOLERANCE / 2);
    assert!(loss.is_err(), "{loss:?}");
    assert!(worker.is_connected());
    run_sum(&worker);
}

#[test]
fn a_killed_python_slave_is_lost_with_its_task_and_its_successor_takes_its_place() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, watch) = master(TOLERANCE);
    let worker = connect(&master, "w", port);
    let (failed, failures) = unbounded();
    let task = worker
        .new_task(json!({"sleep": 120, "a": 1, "b": 2}))
        .map(|task| {
            task.on_fail(move |_, why| failed.send(why.to_string()).expect("the test waits for it"))
        })
        .and_then(|task| task.start())
        .expect("it is free");
    slave.event("task");

    let killed = Instant::now();
    slave.kill();
    let end = task.join_timeout(PATIENCE).cloned();
    let took = killed.elapsed();
    let Err(TaskError::Lost { loss }) = end else {
        panic!("not lost: {end:?}")
    };
    let Loss::Silent { after } = loss else {
        panic!("lost otherwise: {loss}")
    };
    assert!(after > TOLERANCE, "{after:?}");
    assert!(took < TOLERANCE + CHECK_SPAN + SLACK, "{took:?}");
    assert_eq!(
        watch.losses.recv_timeout(PATIENCE),
        Ok(("w".to_owned(), loss))
    );
    let told = failures.recv_timeout(PATIENCE).expect("on_fail is called");
    assert!(told.starts_with("the task was lost"), "{told}");
    assert!(!worker.is_connected() && !master.contains("w"));

    let port_again = port.to_string();
    let (_successor, _) = python.slave(&[
        "--channel",
        CHANNEL,
        "--heartbeat",
        SPAN,
        "--port",
        &port_again,
    ]);
    worker.connect().expect("the successor is free");
    assert!(master.contains("w"));
    run_sum(&worker);
    master.close().expect("nothing holds it");
    assert_eq!(
        (failures.try_iter().count(), watch.losses.try_iter().count()),
        (0, 0),
        "told a second time"
    );
}

#[test]
fn a_python_slave_that_was_stopped_too_long_is_told_and_can_be_connected_again() {
    stop_for_too_long(None);
}

/// One that is told too early, while it works, never does another task. The work outlasts the stop, during which its
/// clock goes on.
#[test]
fn a_python_slave_that_was_stopped_at_work_too_long_is_told_when_it_is_done() {
    stop_for_too_long(Some(json!({"sleep": 5, "a": 3, "b": 4})));
}

fn stop_for_too_long(work: Option<Value>) {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, watch) = master(TOLERANCE);
    let worker = connect(&master, "w", port);
    run_sum(&worker);
    slave.event("task");
    let task = work.map(|data| {
        let task = worker.new_task(data).and_then(|task| task.start());
        slave.event("task");
        task.expect("it is free")
    });

    signal(&slave, "STOP");
    let (name, loss) = watch.losses.recv_timeout(PATIENCE).expect("it is lost");
    assert!(
        name == "w" && matches!(loss, Loss::Silent { .. }),
        "{name}: {loss}"
    );
    assert!(!worker.is_connected());
    signal(&slave, "CONT");

    slave.event("disconnected");
    eventually("it is connected again", || worker.connect().is_ok());
    run_sum(&worker);
    if let Some(task) = task {
        assert_eq!(task.status(), Status::Lost, "its report comes too late");
    }
    // Its heartbeat has survived as well: it is not lost again.
    let loss = watch.losses.recv_timeout(2 * TOLERANCE);
    assert!(loss.is_err(), "{loss:?}");
    assert!(!slave.has_seen(|event| event["event"] == "lost"));
}

#[test]
fn a_python_slave_can_be_disconnected_and_connected_any_number_of_times() {
    let Some(python) = python() else { return };
    let (mut slave, port) = slave(python);
    let (master, watch) = master(TOLERANCE);
    let worker = connection(&master, "w", port);

    for round in 0..10 {
        *watch.says.lock() = json!({"round": round});
        worker.connect().expect("it is free");
        assert!(worker.is_connected() && master.contains("w"));
        assert_eq!(slave.event("connected")["data"]["round"], round);
        run_sum(&worker);
        worker.disconnect().expect("it is idle");
        assert!(!worker.is_connected() && !master.contains("w"));
        assert_eq!(slave.event("disconnected")["data"]["round"], round);
    }
    assert!(matches!(
        worker.disconnect(),
        Err(Error::NotConnected { .. })
    ));
    assert!(watch.losses.is_empty());
}

#[test]
fn the_python_slaves_of_a_master_that_closes_belong_to_the_next() {
    let Some(python) = python() else { return };
    let mut slaves: Vec<(Script, u16)> = (0..3).map(|_| slave(python)).collect();
    let (first, _watch) = master(ENDLESS);
    for (number, (_, port)) in slaves.iter().enumerate() {
        run_sum(&connect(&first, &format!("w{number}"), *port));
    }

    first.close().expect("nothing holds it");
    for (slave, _) in &mut slaves {
        slave.event("disconnected");
    }
    let (second, watch) = master(TOLERANCE);
    let workers: Vec<Connection> = slaves
        .iter()
        .enumerate()
        .map(|(number, (_, port))| connect(&second, &format!("w{number}"), *port))
        .collect();
    let loss = watch.losses.recv_timeout(2 * TOLERANCE);
    assert!(loss.is_err(), "a heartbeat has ended: {loss:?}");
    workers.iter().for_each(run_sum);
}
