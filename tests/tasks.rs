//! A task ends exactly once, with its own result, whatever its slave, the network or a callback does.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};
use interplay::master::{BoxError, Connection, Error, Hooks, Master, Task, TaskError};
use interplay::slave::{Slave, TaskFail, typed};
use interplay::task::{Loss, Outcome, Status};
use interplay::wire::{Reply, SlaveCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use support::client::{self, ByHand, OK, complete, fail, id};
use support::peer::{Act, Peer, failure, page, success};
use support::{LIMIT, deadline, eventually, master, ms, secs, slave, spawn};

/// A connected slave that is a script.
fn scripted(master: &Master, name: &str) -> (Peer, Connection) {
    let peer = Peer::start();
    let connection = connect(master, name, &peer);
    (peer, connection)
}

fn connect(master: &Master, name: &str, peer: &Peer) -> Connection {
    let connection = master
        .new_connection(name, &peer.addr().to_string())
        .unwrap();
    connection.connect().unwrap();
    connection
}

/// A connected slave that runs tasks.
fn running(master: &Master, name: &str) -> (Slave, Connection) {
    let slave = slave().start(work).unwrap();
    let address = slave.local_addr().to_string();
    let connection = master.new_connection(name, &address).unwrap();
    connection.connect().unwrap();
    (slave, connection)
}

/// Echoes, unless it is told to fail or to panic.
fn work(data: Value) -> Result<Value, TaskFail> {
    match data["do"].as_str() {
        // The words are for the slave's own log, and do not travel.
        Some("fail") => Err(TaskFail::new(json!({"why": data["why"]})).with_message("words")),
        Some("error") => Err("no number".parse::<i32>().unwrap_err().into()),
        Some("panic") => panic!("as planned"),
        _ => Ok(data),
    }
}

fn token(peer: &Peer) -> String {
    peer.first("POST /connect").token()
}

/// Counts the calls of a callback and keeps what it was told.
fn on_fail_into(task: Task) -> (Task, Receiver<String>) {
    let (tell, told) = unbounded();
    let task = task.on_fail(move |_, error| tell.send(error.to_string()).unwrap());
    (task, told)
}

#[test]
fn a_task_that_panics_or_fails_is_reported_and_the_slave_goes_on() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let result_of = |data: Value| {
            let task = worker.new_task(data).unwrap().start().unwrap();
            match task.join() {
                Err(TaskError::Failed { result }) => result,
                other => panic!("{other:?}"),
            }
        };
        let panicked = result_of(json!({"do": "panic"}));
        assert_eq!(panicked["message"], "as planned");
        assert_eq!(panicked["error"], "panic");
        let error = result_of(json!({"do": "error"}));
        assert_eq!(error["message"], "invalid digit found in string");
        assert_eq!(
            result_of(json!({"do": "fail", "why": [1]})),
            json!({"why": [1]})
        );
        let task = worker.new_task(json!({"n": 1})).unwrap().start().unwrap();
        assert_eq!(task.join().unwrap(), &json!({"n": 1}));
        assert_eq!(task.status(), Status::Completed);
    });
}

/// Notes which slaves are lost.
struct Losses(crossbeam_channel::Sender<(String, Loss)>);

impl Hooks for Losses {
    fn slave_lost(&self, slave: &str, loss: &Loss) {
        self.0.send((slave.to_owned(), loss.clone())).unwrap();
    }
}

#[test]
fn a_silent_slave_loses_its_task_within_tolerance() {
    deadline(LIMIT, || {
        let (lost, losses) = unbounded();
        let master = master()
            .heartbeat_tolerance(ms(400))
            .hooks(Losses(lost))
            .start()
            .unwrap();
        let before = Instant::now();
        let (_peer, worker) = scripted(&master, "w");
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        let (task, told) = on_fail_into(task);
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let task = task.clone();
                spawn("waiter", move || format!("{:?}", task.join().unwrap_err()))
            })
            .collect();

        for waiter in waiters {
            let error = waiter.join().unwrap();
            assert!(error.contains("Silent"), "{error}");
        }
        assert!(before.elapsed() >= ms(400), "not before the tolerance");
        assert_eq!(task.status(), Status::Lost);
        assert!(
            matches!(task.outcome(), Some(Outcome::Lost(Loss::Silent { after })) if *after >= ms(400))
        );
        assert!(!worker.is_connected());
        assert!(!master.contains("w"));
        assert_eq!(master.stats().connected, 0);

        let (name, loss) = losses.recv_timeout(LIMIT).unwrap();
        assert_eq!(name, "w");
        assert!(matches!(loss, Loss::Silent { .. }));
        assert!(told.recv_timeout(LIMIT).unwrap().contains("lost"));

        // The name is free for another slave at once.
        let _other = scripted(&master, "w");
        drop(master);
        assert!(told.try_recv().is_err(), "on_fail runs once");
        assert!(
            losses.try_iter().all(|(_, loss)| loss != Loss::Stopped),
            "no loss is told of at the end"
        );
    });
}

#[test]
fn all_tasks_of_a_lost_slave_have_ended_before_the_hook_is_told_and_the_hook_before_the_callbacks()
{
    struct Watching {
        tasks: parking_lot::Mutex<Vec<Task>>,
        told: crossbeam_channel::Sender<Vec<Status>>,
    }
    impl Hooks for Watching {
        fn slave_lost(&self, _: &str, _: &Loss) {
            let statuses = self.tasks.lock().iter().map(Task::status).collect();
            self.told.send(statuses).unwrap();
        }
    }
    struct Shared(Arc<Watching>);
    impl Hooks for Shared {
        fn slave_lost(&self, slave: &str, loss: &Loss) {
            self.0.slave_lost(slave, loss);
        }
    }
    deadline(LIMIT, || {
        let (told, statuses) = unbounded();
        let hooks = Arc::new(Watching {
            tasks: parking_lot::Mutex::default(),
            told,
        });
        let master = master()
            .heartbeat_tolerance(secs(4))
            .hooks(Shared(hooks.clone()))
            .start()
            .unwrap();
        let (_peer, worker) = scripted(&master, "w");
        let early = Arc::new(AtomicUsize::new(0));
        for _ in 0..60 {
            let (early, statuses) = (early.clone(), statuses.clone());
            let task = worker.new_task(json!({})).unwrap().on_fail(move |_, _| {
                early.fetch_add(usize::from(statuses.is_empty()), Ordering::SeqCst);
            });
            hooks.tasks.lock().push(task.start().unwrap());
        }
        let tasks = hooks.tasks.lock().clone();
        // To wake who waits takes its time, and the hook has to wait for all of it.
        let waiters: Vec<_> = tasks
            .iter()
            .map(|task| {
                let task = task.clone();
                spawn("waiter", move || assert!(task.join().is_err()))
            })
            .collect();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        eventually(LIMIT, || master.stats().pending_tasks == 0);
        assert_eq!(
            early.load(Ordering::SeqCst),
            0,
            "callbacks that ran before the hook"
        );
        assert_eq!(statuses.try_recv().unwrap(), vec![Status::Lost; 60]);
        hooks.tasks.lock().clear();
    });
}

#[test]
fn a_report_that_fits_no_open_task_of_its_slave_is_acknowledged_and_changes_nothing() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let addr = master.local_addr();
        let (one, first) = scripted(&master, "1");
        let (two, second) = scripted(&master, "2");
        let task = first.new_task(json!({})).unwrap().start().unwrap();
        let own = task.id().to_string();

        assert_eq!(
            complete(addr, &token(&one), &id(1), &json!(1)),
            OK,
            "unknown"
        );
        assert_eq!(
            complete(addr, &token(&two), &own, &json!(2)),
            OK,
            "another slave's"
        );
        assert_eq!(
            fail(addr, &token(&two), &own, &json!(2)),
            OK,
            "another slave's"
        );
        assert_eq!(task.status(), Status::Started);

        let (ran, runs) = unbounded();
        let task = task.on_complete(move |_, result| ran.send(result.clone()).unwrap());
        assert_eq!(complete(addr, &token(&one), &own, &json!({"n": 3})), OK);
        assert_eq!(
            complete(addr, &token(&one), &own, &json!({"n": 4})),
            OK,
            "repeated"
        );
        assert_eq!(
            fail(addr, &token(&one), &own, &json!({"n": 5})),
            OK,
            "repeated"
        );
        assert_eq!(task.join().unwrap(), &json!({"n": 3}));

        // The results thread is well: the other connection's task ends and is told of.
        let (told, end) = unbounded();
        let other = second.new_task(json!({})).unwrap().start().unwrap();
        let other = other.on_complete(move |_, _| told.send(()).unwrap());
        assert_eq!(
            complete(addr, &token(&two), &other.id().to_string(), &json!(6)),
            OK
        );
        end.recv_timeout(LIMIT).unwrap();
        assert_eq!(
            runs.try_iter().collect::<Vec<_>>(),
            [json!({"n": 3})],
            "once"
        );
    });
}

#[test]
fn after_a_lost_answer_the_same_task_is_offered_again_and_busy_means_accepted() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        for lost in [Act::Cut, Act::CutAnswer] {
            let before = peer.seen("POST /task/new").len();
            peer.on("POST /task/new", lost)
                .on("POST /task/new", failure(400, 601));
            let task = worker.new_task(json!({"k": 1})).unwrap().start().unwrap();
            assert_eq!(task.status(), Status::Started);
            let offers = peer.seen("POST /task/new").split_off(before);
            assert_eq!(offers.len(), 2);
            assert!(
                offers
                    .iter()
                    .all(|offer| offer.task_id() == task.id().to_string())
            );
            assert!(
                offers
                    .iter()
                    .all(|offer| offer.json()["data"] == json!({"k": 1}))
            );
            let addr = master.local_addr();
            assert_eq!(
                complete(addr, &token(&peer), &task.id().to_string(), &json!(1)),
                OK
            );
            assert_eq!(task.join().unwrap(), &json!(1));
        }
    });
}

#[test]
fn busy_is_a_refusal_when_no_answer_was_lost_or_another_task_is_there() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let busy = |task: Task| {
            let same = task.clone();
            match task.start() {
                Err(Error::Refused { refusal, .. }) => {
                    assert_eq!(refusal.code, SlaveCode::TaskAlreadyExist)
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(same.status(), Status::StartFailed);
        };
        peer.on("POST /task/new", failure(400, 601));
        busy(worker.new_task(json!({})).unwrap());

        let open = worker.new_task(json!({})).unwrap().start().unwrap();
        peer.on("POST /task/new", Act::Cut)
            .on("POST /task/new", failure(400, 601));
        busy(worker.new_task(json!({})).unwrap());
        assert_eq!(open.status(), Status::Started);
    });
}

#[test]
fn a_slave_that_is_offered_a_task_again_accepts_it_once() {
    deadline(LIMIT, || {
        let (ran, runs) = unbounded();
        let (go, may_go) = unbounded::<()>();
        let slave = slave()
            .start(move |data: Value| {
                ran.send(data.clone()).unwrap();
                may_go.recv().unwrap();
                Ok(data)
            })
            .unwrap();
        let master = Peer::start();
        let hand = ByHand::new(slave.local_addr(), "t");
        assert_eq!(hand.connect(&master.url()), OK);

        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        assert_eq!(
            hand.task(&id(1), &json!({"n": 1})),
            OK,
            "while it waits or runs"
        );
        assert_eq!(
            hand.task(&id(2), &json!({"n": 2})),
            (400, 601),
            "another one"
        );
        runs.recv_timeout(LIMIT).unwrap();
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK, "while it runs");
        go.send(()).unwrap();
        master.first("PUT /slave/task/complete");
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK, "when it is done");

        go.send(()).unwrap();
        assert_eq!(hand.task(&id(2), &json!({"n": 2})), OK);
        let report = master.nth(2, "PUT /slave/task/complete");
        assert_eq!(report.task_id(), id(2));
        assert_eq!(
            runs.try_iter().collect::<Vec<_>>(),
            [json!({"n": 2})],
            "the first ran once"
        );
        assert_eq!(master.seen("PUT /slave/task/complete").len(), 2);
    });
}

#[test]
fn tasks_back_to_back_on_many_connections_each_get_their_own_result() {
    deadline(LIMIT, || {
        let callers: Vec<_> = (0..2)
            .flat_map(|m| {
                let master = Arc::new(master().start().unwrap());
                (0..2).map(move |w| {
                    let master = master.clone();
                    spawn("caller", move || {
                        let (_slave, worker) = running(&master, &format!("w{w}"));
                        for n in 0..150 {
                            let data = json!({"master": m, "worker": w, "n": n});
                            let task = worker.new_task(&data).unwrap();
                            let task = task
                                .start()
                                .expect("a slave is free once its task is reported");
                            assert_eq!(task.join().unwrap(), &data);
                        }
                        master.stats()
                    })
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
    });
}

#[test]
fn a_start_that_failed_leaves_a_failed_task_whatever_the_reason() {
    struct Picky;
    impl Hooks for Picky {
        fn before_new_task<'d>(
            &self,
            _: &str,
            data: &'d Value,
        ) -> Result<Cow<'d, Value>, BoxError> {
            match data["hook"].as_str() {
                Some("error") => Err("not this one".into()),
                Some("panic") => panic!("as planned"),
                _ => Ok(Cow::Borrowed(data)),
            }
        }
    }
    deadline(LIMIT, || {
        let master = master().request_retries(1).hooks(Picky).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let calls = Arc::new(AtomicUsize::new(0));
        let fails = |data: Value| {
            let count = |calls: &Arc<AtomicUsize>| {
                let calls = calls.clone();
                move |_: &Value, _: &TaskError| {
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            };
            let task = worker.new_task(data).unwrap().on_fail(count(&calls));
            let error = task.clone().start().unwrap_err();
            assert_eq!(task.status(), Status::StartFailed);
            assert!(matches!(task.join(), Err(TaskError::StartFailed)));
            assert!(matches!(
                task.join_timeout(ms(0)),
                Err(TaskError::StartFailed)
            ));
            assert!(task.result().is_none() && task.outcome().is_none());
            assert!(matches!(
                task.clone().start(),
                Err(Error::NotIdle {
                    status: Status::StartFailed
                })
            ));
            let _ = task.on_fail(count(&calls));
            error
        };
        let sent = || peer.seen("POST /task/new").len();

        assert!(matches!(
            fails(json!({"hook": "error"})),
            Error::Hook {
                hook: "before_new_task",
                ..
            }
        ));
        assert!(matches!(
            fails(json!({"hook": "panic"})),
            Error::Hook {
                hook: "before_new_task",
                ..
            }
        ));
        assert_eq!(sent(), 0, "nothing is sent when the hook says no");
        peer.on("POST /task/new", failure(403, 602));
        assert!(matches!(fails(json!({})), Error::Refused { .. }));
        peer.on("POST /task/new", page(500));
        assert!(matches!(fails(json!({})), Error::Transport { .. }));
        peer.times(2, "POST /task/new", Act::Cut);
        assert!(matches!(fails(json!({})), Error::Transport { .. }));
        assert_eq!(sent(), 4);
        worker.disconnect().unwrap();
        assert!(matches!(fails(json!({})), Error::NotConnected { .. }));
        let never = master
            .new_connection("x", "127.0.0.1:1")
            .unwrap()
            .new_task(json!({}))
            .unwrap();
        assert!(matches!(never.start(), Err(Error::NotConnected { .. })));
        master.shutdown();
        assert!(matches!(fails(json!({})), Error::Stopped));
        assert_eq!(master.stats().pending_tasks, 0);
        master.close().unwrap();
        assert_eq!(
            calls.load(Ordering::SeqCst),
            0,
            "a start that failed calls nothing back"
        );
    });
}

#[test]
fn who_waits_for_a_task_that_is_starting_is_woken_when_the_start_fails() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let (answer, held) = failure(403, 602).later();
        peer.on("POST /task/new", held);
        let task = worker.new_task(json!({})).unwrap();
        let starter = spawn("starter", {
            let task = task.clone();
            move || task.start().is_err()
        });
        peer.first("POST /task/new");
        assert_eq!(task.status(), Status::Starting);
        let waiter = spawn("waiter", {
            let task = task.clone();
            move || matches!(task.join(), Err(TaskError::StartFailed))
        });
        assert!(matches!(
            task.join_timeout(ms(1)),
            Err(TaskError::TimedOut { .. })
        ));
        answer.send(()).unwrap();
        assert!(waiter.join().unwrap());
        assert!(starter.join().unwrap());
    });
}

#[test]
fn a_task_that_is_lost_while_it_starts_ends_as_lost_once() {
    deadline(LIMIT, || {
        let master = master()
            .heartbeat_tolerance(ms(500))
            .request_timeout(secs(3))
            .start()
            .unwrap();
        let (peer, worker) = scripted(&master, "w");
        peer.always("POST /task/new", Act::Silent);
        let (task, told) = on_fail_into(worker.new_task(json!({})).unwrap());
        let starter = spawn("starter", {
            let task = task.clone();
            move || task.start().is_err()
        });
        assert!(told.recv_timeout(LIMIT).unwrap().contains("lost"));
        assert!(matches!(
            task.join(),
            Err(TaskError::Lost {
                loss: Loss::Silent { .. }
            })
        ));
        assert!(starter.join().unwrap());
        assert_eq!(task.status(), Status::Lost);
        assert_eq!(master.stats().pending_tasks, 0);
        drop(master);
        assert!(told.try_recv().is_err(), "once");
    });
}

#[test]
fn a_callback_that_panics_stops_neither_other_callbacks_nor_waiters() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let (told, order) = unbounded();
        let tell = |word: &'static str| {
            let told = told.clone();
            move |_: &Value, _: &Value| told.send(word).unwrap()
        };
        let task = worker
            .new_task(json!({"n": 1}))
            .unwrap()
            .on_complete(tell("first"))
            .on_complete(|_, _| panic!("as planned"))
            .on_complete(tell("second"))
            .start()
            .unwrap();
        assert_eq!(task.join().unwrap(), &json!({"n": 1}));
        let again = worker.new_task(json!({"n": 2})).unwrap();
        let again = again.on_complete(tell("third")).start().unwrap();
        assert_eq!(again.join().unwrap(), &json!({"n": 2}));
        let next = || order.recv_timeout(LIMIT).unwrap();
        assert_eq!([next(), next(), next()], ["first", "second", "third"]);
    });
}

#[test]
fn callbacks_get_the_data_and_the_end_and_run_on_the_results_thread() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let (told, calls) = unbounded();
        let thread = || std::thread::current().name().unwrap_or_default().to_owned();
        for data in [json!({"n": 1}), json!({"do": "fail", "why": "x"})] {
            let (complete, fail) = (told.clone(), told.clone());
            let task = worker.new_task(data).unwrap();
            let task = task
                .on_complete(move |data, result| {
                    complete
                        .send((thread(), data.clone(), Ok(result.clone())))
                        .unwrap();
                })
                .on_fail(move |data, error| {
                    let TaskError::Failed { result } = error else {
                        panic!("{error:?}")
                    };
                    fail.send((thread(), data.clone(), Err(result.clone())))
                        .unwrap();
                });
            let _ = task.start().unwrap().join();
        }
        let results = format!("m{}-results", master.local_addr().port());
        let (name, data, end) = calls.recv_timeout(LIMIT).unwrap();
        assert_eq!(
            (name, data, end),
            (results.clone(), json!({"n": 1}), Ok(json!({"n": 1})))
        );
        let (name, data, end) = calls.recv_timeout(LIMIT).unwrap();
        let failed = json!({"do": "fail", "why": "x"});
        assert_eq!(
            (name, data, end),
            (results, failed, Err(json!({"why": "x"})))
        );
        master.close().unwrap();
        assert!(
            calls.try_recv().is_err(),
            "each ran once, and only the one that fits"
        );
    });
}

#[test]
fn a_callback_may_use_the_task_its_connection_and_the_master_freely() {
    deadline(LIMIT, || {
        let master = Arc::new(master().start().unwrap());
        let (_slave, worker) = running(&master, "w");
        let (_other_slave, other) = running(&master, "o");
        let (told, done) = unbounded();
        let inside = (Arc::downgrade(&master), worker.clone(), other);
        let task = worker.new_task(json!({"n": 1})).unwrap();
        let own = task.clone();
        let task = task.on_complete(move |_, _| {
            let (master, worker, other) = inside;
            let master = master.upgrade().unwrap();
            assert_eq!(own.status(), Status::Completed);
            assert!(own.join().is_ok() && own.result_as::<Value>().is_ok());
            let told_at_once = told.clone();
            let _ = own.on_complete(move |_, _| told_at_once.send("added").unwrap());
            assert!(worker.is_connected() && master.contains("w") && master.get("o").is_some());
            assert_eq!(master.stats().connected, 2);
            master.ping().unwrap();
            let idle = other
                .new_task(json!({}))
                .unwrap()
                .on_fail(|_, _| ())
                .on_complete(|_, _| ());
            assert_eq!(idle.status(), Status::Idle);
            // Another task from start to end, on this slave and on another one.
            for connection in [&worker, &other] {
                let told = told.clone();
                let next = connection.new_task(json!({"n": 2})).unwrap();
                let next = next
                    .on_complete(move |_, _| told.send("next").unwrap())
                    .start()
                    .unwrap();
                assert_eq!(next.join().unwrap(), &json!({"n": 2}));
            }
            let third = Peer::start();
            let connection = connect(&master, "third", &third);
            let open = connection.new_task(json!({})).unwrap().start().unwrap();
            worker.disconnect().unwrap();
            master.delete("third").unwrap();
            assert!(matches!(
                open.join(),
                Err(TaskError::Lost {
                    loss: Loss::Disconnected
                })
            ));
            master.shutdown();
            told.send("end").unwrap();
        });
        let task = task.start().unwrap();
        assert!(task.join().is_ok());
        let words: Vec<_> = (0..4).map(|_| done.recv_timeout(LIMIT).unwrap()).collect();
        assert_eq!(
            words,
            ["added", "end", "next", "next"],
            "callbacks run one after the other"
        );
        master.join().unwrap();
    });
}

#[test]
fn a_hook_that_panics_after_the_start_does_not_touch_the_task() {
    struct Panicking;
    impl Hooks for Panicking {
        fn after_new_task(&self, _: &str, _: &Reply) {
            panic!("as planned");
        }
    }
    deadline(LIMIT, || {
        let master = master().hooks(Panicking).start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let task = worker.new_task(json!({"n": 1})).unwrap().start().unwrap();
        assert_eq!(task.join().unwrap(), &json!({"n": 1}));
    });
}

#[test]
fn an_error_hook_may_swallow_the_error_of_a_start() {
    struct Calm(crossbeam_channel::Sender<String>);
    impl Hooks for Calm {
        fn error_new_task(&self, slave: &str, error: Error) -> Result<(), Error> {
            let Error::Refused { refusal, .. } = &error else {
                panic!("{error:?}")
            };
            self.0
                .send(format!(
                    "{slave} {} {}",
                    refusal.status,
                    i64::from(refusal.code)
                ))
                .unwrap();
            if refusal.data["fatal"] == true {
                Err(error)
            } else {
                Ok(())
            }
        }
    }
    deadline(LIMIT, || {
        let (told, heard) = unbounded();
        let master = master().hooks(Calm(told)).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        peer.on("POST /task/new", failure(403, 602));
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        assert_eq!(task.status(), Status::StartFailed);
        assert!(matches!(task.join(), Err(TaskError::StartFailed)));
        assert_eq!(heard.try_recv().unwrap(), "w 403 602");
        let fatal = support::peer::envelope(403, false, 602, "No.", &json!({"fatal": true}));
        peer.on("POST /task/new", fatal);
        assert!(worker.new_task(json!({})).unwrap().start().is_err());
    });
}

#[test]
fn the_hook_decides_what_is_sent_and_the_task_keeps_its_own_data() {
    struct Adding;
    impl Hooks for Adding {
        fn before_new_task<'d>(
            &self,
            slave: &str,
            data: &'d Value,
        ) -> Result<Cow<'d, Value>, BoxError> {
            Ok(Cow::Owned(json!({"for": slave, "inner": data})))
        }
    }
    deadline(LIMIT, || {
        let master = master().hooks(Adding).start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let task = worker.new_task(json!({"n": 1})).unwrap().start().unwrap();
        assert_eq!(
            task.join().unwrap(),
            &json!({"for": "w", "inner": {"n": 1}})
        );
        assert_eq!(task.data(), &json!({"n": 1}));
    });
}

#[test]
fn nothing_is_kept_of_a_task_that_has_ended_was_refused_or_never_started() {
    deadline(LIMIT, || {
        let master = master()
            .heartbeat_tolerance(secs(1))
            .request_retries(0)
            .start()
            .unwrap();
        let (_slave, worker) = running(&master, "w");
        let (peer, silent) = scripted(&master, "s");
        let (leaving_peer, leaving) = scripted(&master, "l");
        let kept = Arc::new(());
        let watched = |task: Task| {
            let (one, two) = (kept.clone(), kept.clone());
            task.on_complete(move |_, _| drop(one))
                .on_fail(move |_, _| drop(two))
        };
        drop(watched(worker.new_task(json!({})).unwrap()));
        assert_eq!(Arc::strong_count(&kept), 1, "never started");

        for data in [
            json!({"n": 1}),
            json!({"do": "fail"}),
            json!({"do": "panic"}),
        ] {
            let task = watched(worker.new_task(data).unwrap()).start().unwrap();
            let _ = task.join();
        }
        peer.on("POST /task/new", failure(403, 602))
            .on("POST /task/new", Act::Cut);
        for _ in 0..2 {
            let task = watched(silent.new_task(json!({})).unwrap());
            let same = task.clone();
            assert!(task.start().is_err());
            assert_eq!(same.status(), Status::StartFailed);
        }
        let left = watched(leaving.new_task(json!({})).unwrap())
            .start()
            .unwrap();
        leaving.disconnect().unwrap();
        assert!(left.join().is_err());
        let lost = watched(silent.new_task(json!({})).unwrap())
            .start()
            .unwrap();
        assert!(lost.join().is_err());
        eventually(LIMIT, || Arc::strong_count(&kept) == 1);
        assert_eq!(master.stats().pending_tasks, 0);

        // The master holds no handle of an ended task: its data goes with the last handle of the caller.
        let open = watched(worker.new_task(json!({"n": 2})).unwrap())
            .start()
            .unwrap();
        drop(open);
        eventually(LIMIT, || Arc::strong_count(&kept) == 1);
        drop(leaving_peer);
    });
}

#[test]
fn a_wait_with_a_limit_ends_at_the_limit_and_the_task_goes_on() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        let before = Instant::now();
        let timed_out = task.join_timeout(ms(80));
        assert!(matches!(timed_out, Err(TaskError::TimedOut { after }) if after == ms(80)));
        assert!(before.elapsed() >= ms(80));
        assert_eq!(task.status(), Status::Started);
        let addr = master.local_addr();
        assert_eq!(
            complete(addr, &token(&peer), &task.id().to_string(), &json!(1)),
            OK
        );
        assert_eq!(task.join_timeout(LIMIT).unwrap(), &json!(1));
    });
}

#[test]
fn a_report_that_overtakes_the_answer_counts() {
    deadline(LIMIT, || {
        let master = master().request_retries(0).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        // The answer is a late yes, a late no, or lost.
        for late in [success(), failure(400, 601), Act::Cut] {
            let before = peer.seen("POST /task/new").len();
            let (answer, held) = late.later();
            peer.on("POST /task/new", held);
            let (told, calls) = unbounded();
            let task = worker.new_task(json!({})).unwrap();
            let task = task.on_complete(move |_, result| told.send(result.clone()).unwrap());
            let starter = spawn("starter", {
                let task = task.clone();
                move || task.start().map(drop)
            });
            let offer = peer.nth(before + 1, "POST /task/new");
            let done = complete(
                master.local_addr(),
                &token(&peer),
                &offer.task_id(),
                &json!({"n": 1}),
            );
            assert_eq!(done, OK);
            assert_eq!(
                task.join().unwrap(),
                &json!({"n": 1}),
                "before the answer to the start"
            );
            answer.send(()).unwrap();
            starter.join().unwrap().expect("the slave had accepted it");
            assert_eq!(task.status(), Status::Completed);
            assert_eq!(calls.recv_timeout(LIMIT).unwrap(), json!({"n": 1}));
            assert!(calls.try_recv().is_err());
        }
        assert_eq!(master.stats().pending_tasks, 0);
    });
}

#[test]
fn waiting_for_a_task_that_was_not_started_ends_at_once() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let task = master
            .new_connection("w", "127.0.0.1:1")
            .unwrap()
            .new_task(json!({}))
            .unwrap();
        assert!(matches!(task.join(), Err(TaskError::NotStarted)));
        assert!(matches!(
            task.join_timeout(secs(3600)),
            Err(TaskError::NotStarted)
        ));
        assert!(matches!(task.result_as::<Value>(), Err(TaskError::Running)));
        assert_eq!(task.status(), Status::Idle);
    });
}

#[test]
fn a_task_runs_once() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let task = worker.new_task(json!({"n": 1})).unwrap();
        let starters: Vec<_> = (0..4)
            .map(|_| {
                let task = task.clone();
                spawn("starter", move || task.start())
            })
            .collect();
        let started = starters.into_iter().map(|starter| starter.join().unwrap());
        let (started, refused): (Vec<_>, Vec<_>) = started.partition(Result::is_ok);
        assert_eq!((started.len(), refused.len()), (1, 3));
        let not_idle = |error| matches!(error, Err(Error::NotIdle { .. }));
        assert!(refused.into_iter().all(not_idle));
        assert!(task.join().is_ok());
    });
}

#[test]
fn callbacks_added_after_the_end_run_at_once_if_they_fit() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let calls = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let note = |word: &'static str| {
            let calls = calls.clone();
            move || calls.lock().push(word)
        };
        let (good, bad) = (note("complete"), note("fail"));
        let task = worker.new_task(json!({"n": 1})).unwrap().start().unwrap();
        task.join().unwrap();
        let _ = task
            .on_complete(move |_, _| good())
            .on_fail(move |_, _| bad());
        assert_eq!(*calls.lock(), ["complete"]);

        let (good, bad) = (note("complete"), note("fail"));
        let task = worker
            .new_task(json!({"do": "fail"}))
            .unwrap()
            .start()
            .unwrap();
        assert!(task.join().is_err());
        let _ = task
            .on_complete(move |_, _| good())
            .on_fail(move |_, _| bad());
        assert_eq!(*calls.lock(), ["complete", "fail"]);
    });
}

#[test]
fn beyond_the_limit_no_task_is_started_until_one_has_ended() {
    deadline(LIMIT, || {
        let master = master().max_pending(2).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let start = || worker.new_task(json!({})).unwrap().start();
        let first = start().unwrap();
        let second = start().unwrap();
        assert_eq!(master.stats().pending_tasks, 2);
        assert!(matches!(start(), Err(Error::TooManyPending { limit: 2 })));
        assert_eq!(
            peer.seen("POST /task/new").len(),
            2,
            "nothing is sent beyond the limit"
        );

        // A task whose callback has not run yet still counts.
        let (go, may_go) = unbounded::<()>();
        let first = first.on_complete(move |_, _| may_go.recv().unwrap());
        let addr = master.local_addr();
        complete(addr, &token(&peer), &first.id().to_string(), &json!(1));
        assert!(first.join().is_ok());
        assert!(matches!(start(), Err(Error::TooManyPending { .. })));
        go.send(()).unwrap();
        eventually(LIMIT, || master.stats().pending_tasks == 1);
        let third = start().unwrap();

        // None of the ways to end leaks a place.
        peer.on("POST /task/new", failure(403, 602));
        complete(addr, &token(&peer), &third.id().to_string(), &json!(1));
        eventually(LIMIT, || master.stats().pending_tasks == 1);
        assert!(matches!(start(), Err(Error::Refused { .. })));
        assert_eq!(master.stats().pending_tasks, 1);
        worker.disconnect().unwrap();
        assert!(second.join().is_err());
        assert!(matches!(start(), Err(Error::NotConnected { .. })));
        assert_eq!(master.stats().pending_tasks, 0);
    });
}

#[test]
fn a_place_is_free_again_as_soon_as_the_end_of_its_task_is_known() {
    deadline(LIMIT, || {
        let master = master().max_pending(1).start().unwrap();
        let (_slave, worker) = running(&master, "w");
        for n in 0..500 {
            let task = worker.new_task(n).unwrap().start().unwrap();
            assert!(task.join().is_ok());
        }
    });
}

#[test]
fn data_and_results_may_be_types_of_ones_own() {
    #[derive(Serialize, Deserialize)]
    struct Pair {
        a: i64,
        b: i64,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sum {
        sum: i64,
    }
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let adder = typed(|pair: Pair| {
            Ok(Sum {
                sum: pair.a + pair.b,
            })
        });
        let slave = slave().start(adder).unwrap();
        let address = slave.local_addr().to_string();
        let worker = master.new_connection("w", &address).unwrap();
        worker.connect().unwrap();
        let task = worker
            .new_task(Pair { a: 2, b: 3 })
            .unwrap()
            .start()
            .unwrap();
        task.join().unwrap();
        assert_eq!(task.result_as::<Sum>().unwrap(), Sum { sum: 5 });
        assert!(matches!(
            task.result_as::<Vec<u8>>(),
            Err(TaskError::Mismatch { .. })
        ));

        let misfit = worker
            .new_task(json!({"a": "two"}))
            .unwrap()
            .start()
            .unwrap();
        let Err(TaskError::Failed { result }) = misfit.join() else {
            panic!("{misfit:?}")
        };
        assert_eq!(result["error"], "serde_json::error::Error");
        assert!(matches!(
            misfit.result_as::<Sum>(),
            Err(TaskError::Failed { .. })
        ));
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(matches!(
            worker.new_task(keys),
            Err(Error::Unserializable { .. })
        ));
    });
}

#[test]
fn disconnect_and_shutdown_end_open_tasks_as_lost() {
    deadline(LIMIT, || {
        let (lost, losses) = unbounded();
        let master = master().hooks(Losses(lost)).start().unwrap();
        let (_one, first) = scripted(&master, "1");
        let (_two, second) = scripted(&master, "2");
        let (left, left_told) = on_fail_into(first.new_task(json!({})).unwrap());
        let (stopped, stopped_told) = on_fail_into(second.new_task(json!({})).unwrap());
        let (left, stopped) = (left.start().unwrap(), stopped.start().unwrap());
        first.disconnect().unwrap();
        assert!(matches!(
            left.join(),
            Err(TaskError::Lost {
                loss: Loss::Disconnected
            })
        ));
        assert_eq!(stopped.status(), Status::Started);
        master.close().unwrap();
        assert!(matches!(
            stopped.join(),
            Err(TaskError::Lost {
                loss: Loss::Stopped
            })
        ));
        assert_eq!(left_told.try_iter().count(), 1);
        assert_eq!(
            stopped_told.try_iter().count(),
            1,
            "callbacks run before close returns"
        );
        assert_eq!(
            losses.try_iter().count(),
            0,
            "neither is the loss of a slave"
        );
    });
}

#[test]
fn a_task_that_was_dropped_by_its_owner_still_runs_and_calls_back() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let (told, results) = unbounded();
        drop(
            worker
                .new_task(json!({"n": 1}))
                .unwrap()
                .on_complete(move |_, result| told.send(result.clone()).unwrap())
                .start()
                .unwrap(),
        );
        assert_eq!(results.recv_timeout(LIMIT).unwrap(), json!({"n": 1}));
    });
}

#[test]
fn empty_data_and_results_travel_as_an_object() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (slave, worker) = running(&master, "w");
        for falsy in [
            json!(null),
            json!(false),
            json!(0),
            json!(""),
            json!([]),
            json!({}),
        ] {
            let task = worker.new_task(&falsy).unwrap().start().unwrap();
            assert_eq!(task.join().unwrap(), &json!({}), "{falsy}");
            assert_eq!(task.data(), &falsy);
        }
        for truthy in [json!(true), json!(1.5), json!("x"), json!([null])] {
            let task = worker.new_task(&truthy).unwrap().start().unwrap();
            assert_eq!(task.join().unwrap(), &truthy);
        }
        drop(slave);
    });
}

#[test]
fn a_task_may_be_large() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (_slave, worker) = running(&master, "w");
        let data = json!({"text": "x".repeat(3 << 20)});
        let task = worker.new_task(&data).unwrap().start().unwrap();
        assert_eq!(task.join().unwrap(), &data);
    });
}

#[test]
fn a_large_task_that_broke_off_is_asked_about_with_a_small_request() {
    deadline(LIMIT, || {
        let master = master().request_retries(0).start().unwrap();
        let large = || json!({"text": "x".repeat(200_000)});
        let (peer, worker) = scripted(&master, "w");
        let offer = |answer: Act| {
            peer.on("POST /task/new", Act::Cut)
                .on("POST /task/new", answer);
            let count = peer.seen("POST /task/new").len();
            let result = worker.new_task(large()).unwrap().start();
            let sent = peer.seen("POST /task/new").split_off(count);
            assert_eq!(sent.len(), 2);
            assert!(sent[0].body.len() > 200_000 && sent[1].body == b"{}");
            result
        };
        // Nothing but the body was wrong with the small one: nothing is known.
        for answer in [failure(403, 602), page(500), success(), Act::Cut] {
            assert!(matches!(offer(answer), Err(Error::Transport { .. })));
        }
        // It has a task, and there is no other.
        let task = offer(failure(400, 601)).unwrap();
        assert_eq!(task.status(), Status::Started);
        let own = task.id().to_string();
        assert_eq!(
            complete(master.local_addr(), &token(&peer), &own, &json!(1)),
            OK
        );
        assert!(task.join().is_ok());
        // A small task is not asked about.
        let count = peer.seen("POST /task/new").len();
        peer.on("POST /task/new", Act::Cut);
        assert!(worker.new_task(1).unwrap().start().is_err());
        assert_eq!(peer.seen("POST /task/new").len(), count + 1);
        // It has forgotten this master.
        assert!(matches!(
            offer(failure(403, 302)),
            Err(Error::Refused { .. })
        ));
        assert!(!worker.is_connected());
    });
}

#[test]
fn ids_are_reported_in_their_canonical_form() {
    deadline(LIMIT, || {
        let slave = slave().start(work).unwrap();
        let master = Peer::start();
        let hand = ByHand::new(slave.local_addr(), "t");
        assert_eq!(hand.connect(&master.url()), OK);
        assert_eq!(
            hand.task("{ABCDEF0123454789ABCDEF0123456789}", &json!({"n": 1})),
            OK
        );
        let report = master.first("PUT /slave/task/complete");
        assert_eq!(report.task_id(), "abcdef01-2345-4789-abcd-ef0123456789");
        assert_eq!(
            client::code(hand.ask(
                "POST",
                "/task/new",
                &json!({"task": {"id": "x"}, "data": 1})
            )),
            (400, 602)
        );
    });
}
