//! The Python peers do what the interop tests take for granted, shown by letting them talk to each other.

#[path = "support/python.rs"]
mod python;

use std::path::{Path, PathBuf};

use serde_json::json;

#[test]
fn a_python_master_runs_tasks_on_a_python_slave() {
    let Some(python) = python::python() else {
        return;
    };
    let (mut slave, slave_port) = python.slave(&["--channel", "7", "--heartbeat", "0.2"]);
    let (mut master, _) = python.master(&["--channel", "7"]);

    master.send(&json!({"cmd": "connect", "name": "w", "host": "127.0.0.1", "port": slave_port, "data": {"k": 1}}));
    assert_eq!(slave.event("connected")["data"], json!({"k": 1}));
    assert_eq!(master.event("connected")["message"], "Connect success.");

    master.send(&json!({"cmd": "task", "name": "w", "tag": "sum", "data": {"a": 1, "b": 2}}));
    assert_eq!(master.event("task_started")["tag"], "sum");
    let done = master.event("task_done");
    assert_eq!(
        (&done["task_status"], &done["result"]),
        (&json!("completed"), &json!({"sum": 3}))
    );
    assert_eq!(slave.event("task")["data"], json!({"a": 1, "b": 2}));

    master.send(
        &json!({"cmd": "task", "name": "w", "tag": "not a number", "data": {"fail": [1, null]}}),
    );
    let done = master.wait_for("failed task", |event| event["task_status"] == "failed");
    assert_eq!(done["result"], json!([1, null]));

    master.send(&json!({"cmd": "task", "name": "w", "data": {"refuse": {"why": "busy"}}}));
    let refusal = master.event("error");
    assert_eq!(refusal["error"], "SlaveTaskRefused");
    assert_eq!(
        (&refusal["status"], &refusal["code"]),
        (&json!(403), &json!(602))
    );
    assert_eq!(refusal["data"], json!({"why": "busy"}));

    master.send(&json!({"cmd": "disconnect", "name": "w"}));
    master.event("disconnected");
    slave.event("disconnected");
    master.send(&json!({"cmd": "contains", "name": "w"}));
    let contains = master.event("contains");
    assert_eq!(
        (&contains["registered"], &contains["connected"]),
        (&json!(false), &json!(false))
    );

    master.send(&json!({"cmd": "close"}));
    master.event("closed");
    assert!(master.end().success());
    assert!(!slave.has_seen(|event| event["event"] == "lost"));
    assert!(slave.end().success());
}

#[test]
fn a_python_slave_reports_a_killed_master_as_lost() {
    let Some(python) = python::python() else {
        return;
    };
    // The slave last, and with a span longer than its connect takes: DI-engine's master knows a
    // slave only once the connect is answered, and a beat before that ends its heartbeat thread.
    let (mut master, master_port) = python.master(&[]);
    let (mut slave, slave_port) = python.slave(&["--heartbeat", "2"]);
    master.send(&json!({"cmd": "connect", "name": "w", "host": "127.0.0.1", "port": slave_port}));
    master.event("connected");

    master.kill();

    let lost = slave.event("lost");
    assert_eq!(lost["address"], format!("http://127.0.0.1:{master_port}"));
    assert_eq!(lost["error"], "ConnectionError");
}

#[test]
fn a_python_master_drops_a_killed_slave() {
    let Some(python) = python::python() else {
        return;
    };
    let (slave, slave_port) = python.slave(&["--heartbeat", "0.2"]);
    let (mut master, _) = python.master(&["--tolerance", "1", "--check-span", "0.1"]);
    master.send(&json!({"cmd": "connect", "name": "w", "host": "127.0.0.1", "port": slave_port}));
    master.event("connected");

    slave.kill();

    master.send(&json!({"cmd": "wait_gone", "name": "w"}));
    master.event("gone");
}

#[test]
fn a_dropped_script_leaves_no_process() {
    let Some(python) = python::python() else {
        return;
    };
    let (slave, _) = python.slave(&[]);
    let process = PathBuf::from(format!("/proc/{}", slave.id()));
    if !Path::new("/proc/self").exists() {
        return;
    }
    assert!(process.exists());
    drop(slave);
    assert!(!process.exists());
}

#[test]
fn a_script_that_fails_is_reported_with_what_it_said() {
    let Some(python) = python::python() else {
        return;
    };
    let (_first, port) = python.slave(&[]);
    let second_at_the_same_port = || python.slave(&["--port", &port.to_string()]);
    let panic = std::panic::catch_unwind(second_at_the_same_port).unwrap_err();
    let report = panic.downcast_ref::<String>().unwrap();
    assert!(
        report.starts_with("ding_slave.py: no ready before its end; it said:\nTraceback"),
        "{report}"
    );
    assert!(report.contains("Address already in use"), "{report}");
}

#[test]
fn an_interpreter_that_cannot_import_ding_is_absent_with_a_reason() {
    let reason = python::find(Some(PathBuf::from("/nowhere/python")), Path::new("/")).unwrap_err();
    assert!(reason.starts_with("/nowhere/python: "), "{reason}");
    assert!(python::present_or_excused(Err(&reason), false).is_none());
}

#[test]
#[should_panic(
    expected = "INTERPLAY_INTEROP=required, but no Python can import ding.interaction (why not)"
)]
fn an_absent_interpreter_is_a_failure_when_it_is_required() {
    python::present_or_excused(Err(&"why not".to_owned()), true);
}
