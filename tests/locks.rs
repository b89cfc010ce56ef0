//! No lock is held while user code runs.
//!
//! Each test stops user code in its tracks, by two rendezvous, and uses all the
//! rest from outside meanwhile: a lock that were held would stop that too.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use interplay::master::{BoxError, Connection, Error, Hooks, Master, Task};
use interplay::slave::{Lost, Refuse, Slave, TaskFail, Worker};
use interplay::task::Loss;
use interplay::wire::Reply;
use serde_json::{Value, json};

use support::client::{ByHand, OK, beat, complete, id};
use support::peer::{Peer, failure};
use support::{LIMIT, deadline, eventually, master, ms, secs, slave, spawn};

/// Stops user code once, in one place.
#[derive(Clone)]
struct Stopper {
    place: &'static str,
    armed: Arc<AtomicBool>,
    inside: Sender<()>,
    go_on: Receiver<()>,
}

/// The test's end of it.
struct Outside {
    is_inside: Receiver<()>,
    go: Sender<()>,
}

fn stopper(place: &'static str) -> (Stopper, Outside) {
    let (inside, is_inside) = bounded(0);
    let (go, go_on) = bounded(0);
    let armed = Arc::new(AtomicBool::new(true));
    let stopper = Stopper {
        place,
        armed,
        inside,
        go_on,
    };
    (stopper, Outside { is_inside, go })
}

impl Stopper {
    fn pass(&self, place: &str) {
        if place == self.place && self.armed.swap(false, Ordering::SeqCst) {
            self.inside.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
    }
}

impl Outside {
    /// Does something while user code is stopped, and lets it go on.
    fn meanwhile(&self, work: impl FnOnce()) {
        self.is_inside.recv_timeout(LIMIT).unwrap();
        work();
        self.go.send_timeout((), LIMIT).unwrap();
    }
}

/// Stops in a hook for the slave "held".
struct HeldHooks(Stopper);

impl HeldHooks {
    fn pass(&self, slave: &str, place: &str) {
        if slave == "held" {
            self.0.pass(place);
        }
    }
}

impl Hooks for HeldHooks {
    fn before_connect(&self, slave: &str) -> Result<Value, BoxError> {
        self.pass(slave, "before_connect");
        Ok(Value::Null)
    }
    fn after_connect(&self, slave: &str, _: &Reply) -> Value {
        self.pass(slave, "after_connect");
        Value::Null
    }
    fn error_connect(&self, slave: &str, error: Error) -> Result<Value, Error> {
        self.pass(slave, "error_connect");
        Err(error)
    }
    fn before_disconnect(&self, slave: &str) -> Result<Value, BoxError> {
        self.pass(slave, "before_disconnect");
        Ok(Value::Null)
    }
    fn after_disconnect(&self, slave: &str, _: &Reply) -> Value {
        self.pass(slave, "after_disconnect");
        Value::Null
    }
    fn error_disconnect(&self, slave: &str, error: Error) -> Result<Value, Error> {
        self.pass(slave, "error_disconnect");
        Err(error)
    }
    fn before_new_task<'d>(
        &self,
        slave: &str,
        data: &'d Value,
    ) -> Result<Cow<'d, Value>, BoxError> {
        self.pass(slave, "before_new_task");
        Ok(Cow::Borrowed(data))
    }
    fn after_new_task(&self, slave: &str, _: &Reply) {
        self.pass(slave, "after_new_task");
    }
    fn error_new_task(&self, slave: &str, error: Error) -> Result<(), Error> {
        self.pass(slave, "error_new_task");
        Err(error)
    }
    fn slave_lost(&self, slave: &str, _: &Loss) {
        self.pass(slave, "slave_lost");
    }
}

/// Uses all of a master, the connection and the task that user code is stopped for included.
fn use_all(master: &Master, held: &Connection, task: Option<&Task>) {
    let _ = (
        held.is_connected(),
        master.contains("held"),
        master.get("held"),
    );
    let _ = (master.stats(), format!("{master:?} {held:?}"));
    let _ = held.new_task(1).unwrap();
    if let Some(task) = task {
        let _ = (
            task.status(),
            task.result(),
            task.outcome(),
            format!("{task:?}"),
        );
        let _ = task.result_as::<Value>();
        let _ = task.clone().on_complete(|_, _| ()).on_fail(|_, _| ());
        let _ = task.join_timeout(ms(0));
    }
    master.ping().unwrap();
    // Another slave from its connect to its disconnect, both ways of the wire.
    let other = Peer::start();
    let connection = master
        .new_connection("other", &other.addr().to_string())
        .unwrap();
    connection.connect().unwrap();
    let token = other.first("POST /connect").token();
    assert_eq!(beat(master.local_addr(), &token), OK);
    let next = connection.new_task(1).unwrap().start().unwrap();
    assert_eq!(
        complete(
            master.local_addr(),
            &token,
            &next.id().to_string(),
            &json!(1)
        ),
        OK
    );
    assert_eq!(next.join().unwrap(), &json!(1));
    master.delete("other").unwrap();
    // And what can be done with the one that is held, whatever it answers.
    let _ = (
        held.connect().is_ok(),
        held.new_task(1).unwrap().start().is_ok(),
    );
    let _ = held.disconnect().is_ok();
}

#[test]
fn a_master_holds_no_lock_during_its_hooks() {
    let places = [
        "before_connect",
        "after_connect",
        "error_connect",
        "before_disconnect",
        "after_disconnect",
        "error_disconnect",
        "before_new_task",
        "after_new_task",
        "error_new_task",
    ];
    for place in places {
        deadline(LIMIT, move || {
            let (stopper, outside) = stopper(place);
            let master = master().hooks(HeldHooks(stopper)).start().unwrap();
            let peer = Peer::start();
            let held = master
                .new_connection("held", &peer.addr().to_string())
                .unwrap();
            if place.starts_with("error") {
                peer.always("DELETE /disconnect", failure(403, 504));
                peer.always("POST /task/new", failure(403, 602));
            }
            if place == "error_connect" {
                peer.always("POST /connect", failure(403, 503));
            }
            let task = Arc::new(parking_lot::Mutex::new(None));
            let calling = spawn("calling", {
                let (held, task) = (held.clone(), task.clone());
                move || {
                    if held.connect().is_ok() {
                        let made = held.new_task(1).unwrap();
                        *task.lock() = Some(made.clone());
                        let _ = made.start();
                        let _ = held.disconnect();
                    }
                }
            });
            outside.meanwhile(|| {
                let task = task.lock().clone();
                assert_eq!(task.is_some(), !place.ends_with("_connect"));
                use_all(&master, &held, task.as_ref());
            });
            calling.join().unwrap();
        });
    }
}

#[test]
fn a_master_holds_no_lock_during_callbacks_and_when_it_tells_of_a_loss() {
    for place in ["on_complete", "on_fail", "slave_lost"] {
        deadline(LIMIT, move || {
            let (stopper, outside) = stopper(place);
            let hooks = HeldHooks(stopper.clone());
            let master = master()
                .heartbeat_tolerance(secs(1))
                .hooks(hooks)
                .start()
                .unwrap();
            let peer = Peer::start();
            let held = master
                .new_connection("held", &peer.addr().to_string())
                .unwrap();
            held.connect().unwrap();
            let (complete_stopper, fail_stopper) = (stopper.clone(), stopper);
            let task = held.new_task(1).unwrap();
            let task = task
                .on_complete(move |_, _| complete_stopper.pass("on_complete"))
                .on_fail(move |_, _| fail_stopper.pass("on_fail"));
            let task = task.start().unwrap();
            let token = peer.first("POST /connect").token();
            if place == "on_complete" {
                let number = task.id().to_string();
                assert_eq!(
                    complete(master.local_addr(), &token, &number, &json!(1)),
                    OK
                );
            }
            outside.meanwhile(|| {
                assert!(
                    task.join().is_ok() == (place == "on_complete"),
                    "its waiters are not held up"
                );
                use_all(&master, &held, Some(&task));
            });
        });
    }
}

#[test]
fn a_callback_that_is_added_to_an_ended_task_runs_without_a_lock() {
    deadline(LIMIT, || {
        let (stopper, outside) = stopper("late");
        let master = master().start().unwrap();
        let slave = slave().start(|data: Value| Ok(data)).unwrap();
        let held = master
            .new_connection("held", &slave.local_addr().to_string())
            .unwrap();
        held.connect().unwrap();
        let task = held.new_task(1).unwrap().start().unwrap();
        task.join().unwrap();
        let adding = spawn("adding", {
            let task = task.clone();
            move || drop(task.on_complete(move |_, _| stopper.pass("late")))
        });
        outside.meanwhile(|| use_all(&master, &held, Some(&task)));
        adding.join().unwrap();
    });
}

/// Stops in a hook of a slave, or in its work.
struct HeldWorker(Stopper);

impl Worker for HeldWorker {
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        self.0.pass("process");
        Ok(data)
    }
    fn before_connection(&self, _: &Value) -> Result<(), Refuse> {
        self.0.pass("before_connection");
        Ok(())
    }
    fn before_disconnection(&self, _: &Value) -> Result<(), Refuse> {
        self.0.pass("before_disconnection");
        Ok(())
    }
    fn before_task(&self, _: &Value) -> Result<(), Refuse> {
        self.0.pass("before_task");
        Ok(())
    }
    fn lost_connection(&self, _: &str, _: &Lost) {
        self.0.pass("lost_connection");
    }
}

/// Uses all of a slave; `hand` is its master, or wants to be.
fn use_all_of(slave: &Slave, hand: &ByHand) {
    let _ = (
        slave.master(),
        slave.local_addr(),
        slave.self_token(),
        format!("{slave:?}"),
    );
    assert_eq!(slave.join_timeout(ms(0)), Ok(false));
    slave.ping().unwrap();
    let stranger = ByHand::new(slave.local_addr(), "stranger");
    assert_eq!(stranger.disconnect(), (403, 302));
    assert_eq!(stranger.task(&id(9), &json!({})), (403, 302));
    let _ = hand.task(&id(2), &json!({}));
    let _ = stranger.connect("http://127.0.0.1:1");
}

#[test]
fn a_slave_holds_no_lock_during_its_work_and_hooks() {
    // A long body is judged beside the others, a short one on the one HTTP thread.
    let long = "x".repeat(5000);
    let places = [
        "process",
        "before_connection",
        "before_disconnection",
        "before_task",
        "lost_connection",
    ];
    for place in places {
        let long = long.clone();
        deadline(LIMIT, move || {
            let (stopper, outside) = stopper(place);
            let slave = slave()
                .request_retries(0)
                .start(HeldWorker(stopper))
                .unwrap();
            let master = Peer::start();
            let hand = ByHand::new(slave.local_addr(), "t");
            let url = master.url();
            let calling = spawn("calling", {
                let (hand, long) = (hand.clone(), long.clone());
                move || {
                    hand.ask(
                        "POST",
                        "/connect",
                        &json!({"master": {"address": url}, "data": long}),
                    );
                    hand.ask(
                        "POST",
                        "/task/new",
                        &json!({"task": {"id": id(1)}, "data": long}),
                    );
                    if place == "before_disconnection" {
                        hand.ask("DELETE", "/disconnect", &json!({"data": long}));
                    }
                }
            });
            if place == "lost_connection" {
                master.first("GET /slave/heartbeat");
                master.set_away(true);
            }
            outside.meanwhile(|| {
                use_all_of(&slave, &hand);
                // Its heart beats on, unless that is what is held.
                if !["lost_connection", "before_connection"].contains(&place) {
                    let count = master.seen("GET /slave/heartbeat").len();
                    master.nth(count + 2, "GET /slave/heartbeat");
                }
                if place == "before_task" {
                    assert_eq!(hand.disconnect(), OK);
                }
            });
            calling.join().unwrap();
            slave.close().unwrap();
        });
    }
}

#[test]
fn a_slave_can_be_shut_down_while_user_code_holds_its_http_thread() {
    deadline(LIMIT, || {
        let (stopper, outside) = stopper("before_connection");
        let slave = slave().grace(ms(100)).start(HeldWorker(stopper)).unwrap();
        let master = Peer::start();
        let hand = ByHand::new(slave.local_addr(), "t");
        let url = master.url();
        let calling = spawn("calling", move || hand.connect(&url));
        outside.meanwhile(|| {
            let _ = (slave.master(), format!("{slave:?}"));
            slave.shutdown();
            let left = slave.join_timeout(ms(0)).unwrap_err().threads;
            assert_eq!(left, [format!("s{}-http", slave.local_addr().port())]);
        });
        calling.join().unwrap();
        eventually(LIMIT, || slave.close().is_ok());
    });
}
