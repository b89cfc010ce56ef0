//! Whatever is started ends: within its limits, once, and leaving nothing behind.
//!
//! An address is looked up at each connect, so a machine without a network route
//! can start both sides; there is no test that takes the route away.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::http;
use interplay::master::{self, Connection, Error, Hooks, Master, TaskError};
use interplay::slave::{self, Lost, Refuse, Slave, TaskFail, Worker};
use interplay::task::{Loss, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};

use support::client::{self, ByHand, OK, complete, id, request};
use support::peer::{Act, Peer, success};
use support::{CHANNEL, LIMIT, deadline, eventually, master, ms, secs, slave, spawn, threads_of};

fn scripted(master: &Master, name: &str) -> (Peer, Connection) {
    let peer = Peer::start();
    let connection = master
        .new_connection(name, &peer.addr().to_string())
        .unwrap();
    connection.connect().unwrap();
    (peer, connection)
}

fn echo(data: Value) -> Result<Value, TaskFail> {
    Ok(data)
}

/// Waits until no thread of that master or slave is left. `tiny_http` lets idle ones go after 5 s.
#[track_caller]
fn all_gone(side: &str, addr: SocketAddr) {
    let prefix = format!("{side}{}", addr.port());
    eventually(secs(30), || threads_of(&prefix).is_empty());
}

/// The threads that this library made and ought to join; those of `tiny_http` have the server's name.
fn joined(side: &str, addr: SocketAddr) -> bool {
    let prefix = format!("{side}{}", addr.port());
    let http = format!("{prefix}-http");
    threads_of(&prefix).into_keys().all(|name| name == http)
}

fn timed_out<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(Error::Transport {
            source: http::Error::TimedOut { .. },
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_silent_or_dripping_slave_is_given_up_at_the_limit_and_holds_up_nothing() {
    deadline(LIMIT, || {
        let master = Arc::new(master().request_timeout(ms(700)).start().unwrap());
        let (peer, silent) = scripted(&master, "silent");
        let well = slave().start(echo).unwrap();
        let well = master
            .new_connection("well", &well.local_addr().to_string())
            .map(|made| (well, made))
            .unwrap();
        type Call = (&'static str, fn(&Connection));
        let calls: [Call; 3] = [
            ("POST /task/new", |worker| {
                timed_out(worker.new_task(1).unwrap().start())
            }),
            ("DELETE /disconnect", |worker| {
                timed_out(worker.disconnect())
            }),
            ("POST /connect", |worker| timed_out(worker.connect())),
        ];
        for (route, call) in calls {
            for act in [Act::Silent, Act::Drip(ms(50))] {
                if route != "POST /connect" && !silent.is_connected() {
                    silent.connect().unwrap();
                }
                let count = peer.seen(route).len();
                peer.always(route, act);
                let calling = spawn("calling", {
                    let silent = silent.clone();
                    move || {
                        let before = Instant::now();
                        call(&silent);
                        before.elapsed()
                    }
                });
                peer.nth(count + 1, route);
                assert!(!calling.is_finished());
                // Meanwhile everything else works, the other slave from end to end.
                let _ = (
                    master.contains("silent"),
                    master.get("silent"),
                    silent.is_connected(),
                );
                master.ping().unwrap();
                well.1.connect().unwrap();
                well.1.new_task(1).unwrap().start().unwrap().join().unwrap();
                master.delete("well").unwrap();
                let taken = calling.join().unwrap();
                assert!(taken >= ms(690) && taken < secs(20), "{route}: {taken:?}");
                peer.clear(route);
            }
        }
    });
}

#[test]
fn zero_means_zero_and_retries_count_for_every_request() {
    deadline(LIMIT, || {
        for retries in [0, 1, 3] {
            let master = master()
                .channel(0)
                .request_retries(retries)
                .request_retry_waiting(Duration::ZERO)
                .start()
                .unwrap();
            assert_ne!(master.local_addr().port(), 0);
            let (peer, worker) = scripted(&master, "w");
            assert_eq!(peer.first("POST /connect").header("Channel"), "0");
            let attempts = |route: &str, call: &dyn Fn() -> bool| {
                let count = peer.seen(route).len();
                peer.always(route, Act::Cut);
                assert!(call());
                assert_eq!(
                    peer.seen(route).len() - count,
                    retries as usize + 1,
                    "{route}"
                );
                peer.clear(route);
            };
            let transport = |error| matches!(error, Err(Error::Transport { .. }));
            attempts("POST /task/new", &|| {
                transport(worker.new_task(1).unwrap().start().map(drop))
            });
            attempts("DELETE /disconnect", &|| {
                transport(worker.disconnect().map(drop))
            });
            attempts("POST /connect", &|| transport(worker.connect().map(drop)));
        }
    });
}

#[test]
fn attempts_are_as_far_apart_as_they_are_told_and_end_with_the_limit() {
    deadline(LIMIT, || {
        let master = master()
            .request_retries(3)
            .request_retry_waiting(ms(100))
            .start()
            .unwrap();
        let peer = Peer::start();
        peer.always("POST /connect", Act::Cut);
        let worker = master
            .new_connection("w", &peer.addr().to_string())
            .unwrap();
        assert!(worker.connect().is_err());
        let seen = peer.seen("POST /connect");
        assert!(seen.windows(2).all(|two| two[1].at - two[0].at >= ms(99)));

        let hasty = support::master()
            .request_timeout(Duration::ZERO)
            .start()
            .unwrap();
        let before = Instant::now();
        assert!(
            hasty
                .new_connection("w", &peer.addr().to_string())
                .unwrap()
                .connect()
                .is_err()
        );
        let patient = support::master()
            .request_retries(1_000_000)
            .request_timeout(ms(500))
            .start()
            .unwrap();
        assert!(
            patient
                .new_connection("w", &peer.addr().to_string())
                .unwrap()
                .connect()
                .is_err()
        );
        assert!(before.elapsed() < secs(20));
    });
}

#[test]
fn a_port_in_use_is_an_error_of_start_that_leaves_nothing() {
    deadline(LIMIT, || {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let running_master = master().start().unwrap();
        let running_slave = slave().start(echo).unwrap();
        let taken = [
            silent.local_addr().unwrap(),
            running_master.local_addr(),
            running_slave.local_addr(),
        ];
        for addr in taken {
            let (before_m, before_s) = (
                threads_of(&format!("m{}", addr.port())),
                threads_of(&format!("s{}", addr.port())),
            );
            match master().port(addr.port()).start() {
                Err(Error::Bind { address, source }) => {
                    assert_eq!(address, addr.to_string());
                    assert_eq!(source.kind(), ErrorKind::AddrInUse);
                }
                other => panic!("{other:?}"),
            }
            match slave().port(addr.port()).start(echo) {
                Err(slave::Error::Bind { address, source }) => {
                    assert_eq!(address, addr.to_string());
                    assert_eq!(source.kind(), ErrorKind::AddrInUse);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(threads_of(&format!("m{}", addr.port())), before_m);
            assert_eq!(threads_of(&format!("s{}", addr.port())), before_s);
        }
        running_master.ping().unwrap();
        running_slave.ping().unwrap();
        for host in ["192.0.2.1", "no such host"] {
            assert!(matches!(
                master().host(host).start(),
                Err(Error::Bind { .. })
            ));
            assert!(matches!(
                slave().host(host).start(echo),
                Err(slave::Error::Bind { .. })
            ));
        }
    });
}

#[test]
fn both_sides_answer_their_ping_wherever_they_are_bound() {
    deadline(LIMIT, || {
        for host in ["127.0.0.1", "0.0.0.0", "localhost", "::1", "::"] {
            let has = |host: &str| TcpListener::bind((host, 0)).is_ok();
            if !has(host) {
                continue; // no IPv6 here
            }
            let master = master().host(host).start().unwrap();
            let slave = slave().host(host).start(echo).unwrap();
            master.ping().unwrap();
            slave.ping().unwrap();
            let port = slave.local_addr().port();
            let address = if host.contains(':') {
                format!("[::1]:{port}")
            } else {
                format!("127.0.0.1:{port}")
            };
            let worker = master.new_connection("w", &address).unwrap();
            worker.connect().unwrap();
            let result = worker.new_task(json!({"n": 1})).unwrap().start().unwrap();
            assert_eq!(result.join().unwrap(), &json!({"n": 1}), "{host}");
            slave.close().unwrap();
            master.close().unwrap();
            assert!(matches!(master.ping(), Err(Error::Stopped)));
            assert!(matches!(slave.ping(), Err(slave::Error::Stopped)));
        }
    });
}

#[test]
fn close_shutdown_and_join_may_be_repeated_in_any_order() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let slave = slave().start(echo).unwrap();
        for _ in 0..3 {
            master.shutdown();
            slave.shutdown();
            assert_eq!(master.close(), Ok(()));
            assert_eq!(slave.close(), Ok(()));
            assert_eq!(master.join(), Ok(()));
            assert_eq!(slave.join(), Ok(()));
            assert_eq!(master.join_timeout(Duration::ZERO), Ok(true));
            assert_eq!(slave.join_timeout(Duration::ZERO), Ok(true));
        }
        assert!(joined("m", master.local_addr()) && joined("s", slave.local_addr()));
    });
}

#[test]
fn join_waits_for_the_shutdown_and_holds_up_neither_it_nor_anything_else() {
    deadline(LIMIT, || {
        let master = Arc::new(master().start().unwrap());
        let slave = Arc::new(slave().start(echo).unwrap());
        assert_eq!(master.join_timeout(ms(30)), Ok(false));
        assert_eq!(slave.join_timeout(ms(30)), Ok(false));
        let joining: Vec<_> = (0..2)
            .map(|_| {
                let (master, slave) = (master.clone(), slave.clone());
                spawn("joining", move || (slave.join(), master.join()))
            })
            .collect();
        master.ping().unwrap();
        slave.ping().unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        assert!(worker.new_task(1).unwrap().start().unwrap().join().is_ok());
        assert!(joining.iter().all(|thread| !thread.is_finished()));
        slave.shutdown();
        master.shutdown();
        for thread in joining {
            let (slave_ended, master_ended) = thread.join().unwrap();
            assert_eq!((slave_ended, master_ended), (Ok(()), Ok(())));
        }
        // Whoever comes back from a join finds the port free.
        TcpListener::bind(master.local_addr()).unwrap();
        TcpListener::bind(slave.local_addr()).unwrap();

        // Nor does it end before the shutdown where ending takes no time.
        let master = Arc::new(support::master().grace(Duration::ZERO).start().unwrap());
        let slave = Arc::new(support::slave().grace(Duration::ZERO).start(echo).unwrap());
        let joining = [
            spawn("joining", {
                let master = master.clone();
                move || drop(master.join())
            }),
            spawn("joining", {
                let slave = slave.clone();
                move || drop(slave.join())
            }),
        ];
        support::pause(ms(2500));
        assert!(joining.iter().all(|thread| !thread.is_finished()));
        slave.shutdown();
        master.shutdown();
        joining
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn an_idle_side_ends_at_once_however_long_its_spans_are() {
    deadline(LIMIT, || {
        let hour = secs(3600);
        let master = master()
            .heartbeat_check_span(hour)
            .heartbeat_tolerance(hour)
            .grace(hour)
            .start()
            .unwrap();
        let slave = slave()
            .heartbeat_span(hour)
            .request_retry_waiting(hour)
            .grace(hour)
            .start(echo)
            .unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        let before = Instant::now();
        slave.close().unwrap();
        master.close().unwrap();
        assert!(before.elapsed() < secs(30));
    });
}

#[test]
fn a_shutdown_may_come_from_outside_with_the_own_token_only() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let slave = slave().start(echo).unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        let (peer, _) = scripted(&master, "p");
        let sides = [
            (master.local_addr(), master.self_token().to_owned()),
            (slave.local_addr(), slave.self_token().to_owned()),
        ];
        for (addr, own) in &sides {
            let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
                client::code(request(*addr, method, path, headers, b"{}"))
            };
            assert_eq!(ask("GET", "/ping", &[]), (400, 401));
            assert_eq!(ask("GET", "/ping", &[("Token", "other")]), (403, 402));
            assert_eq!(ask("GET", "/ping", &[("Token", "")]), (403, 402));
            assert_eq!(ask("GET", "/ping", &[("Token", own)]), OK);
            assert_eq!(ask("DELETE", "/shutdown", &[]), (400, 401));
            assert_eq!(
                ask(
                    "DELETE",
                    "/shutdown",
                    &[("Token", &peer.first("POST /connect").token())]
                ),
                (403, 402)
            );
        }
        master.ping().unwrap();
        slave.ping().unwrap();
        for (addr, own) in &sides {
            assert_eq!(
                client::code(request(
                    *addr,
                    "DELETE",
                    "/shutdown",
                    &[("Token", own)],
                    b"{}"
                )),
                OK
            );
        }
        assert_eq!(
            peer.seen("DELETE /disconnect").len(),
            1,
            "the slaves are told before the answer"
        );
        master.join().unwrap();
        slave.join().unwrap();
        all_gone("m", master.local_addr());
        all_gone("s", slave.local_addr());
    });
}

#[test]
fn drop_ends_all_threads_and_frees_the_port() {
    deadline(LIMIT, || {
        let mut addrs = Vec::new();
        for _ in 0..5 {
            let master = master().start().unwrap();
            let slave = slave().start(echo).unwrap();
            let worker = master
                .new_connection("w", &slave.local_addr().to_string())
                .unwrap();
            worker.connect().unwrap();
            assert!(worker.new_task(1).unwrap().start().unwrap().join().is_ok());
            let (m, s) = (master.local_addr(), slave.local_addr());
            drop(master);
            drop(slave);
            assert!(joined("m", m) && joined("s", s));
            TcpListener::bind(m).unwrap();
            TcpListener::bind(s).unwrap();
            addrs.push((m, s));
        }
        for (m, s) in addrs {
            all_gone("m", m);
            all_gone("s", s);
        }
    });
}

#[test]
fn handles_that_outlive_their_master_keep_nothing_running_and_say_so() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let addr = master.local_addr();
        let (_peer, worker) = scripted(&master, "w");
        let idle = worker.new_task(1).unwrap();
        let open = worker.new_task(2).unwrap().start().unwrap();
        let waiting = spawn("waiting", {
            let open = open.clone();
            move || open.join().cloned().map_err(|error| error.to_string())
        });
        drop(master);
        assert!(waiting.join().unwrap().unwrap_err().contains("shut down"));
        all_gone("m", addr);
        assert!(matches!(
            open.join(),
            Err(TaskError::Lost {
                loss: Loss::Stopped
            })
        ));
        assert_eq!(open.status(), Status::Lost);
        assert!(matches!(idle.start(), Err(Error::Stopped)));
        assert!(matches!(worker.connect(), Err(Error::Stopped)));
        assert!(!worker.is_connected());
    });
}

/// Blocks where it is told to, until it may go on.
#[derive(Clone)]
struct Stuck {
    place: &'static str,
    begun: Sender<()>,
    go: Receiver<()>,
}

impl Stuck {
    fn at(place: &'static str) -> (Self, Receiver<()>, Sender<()>) {
        let (begun, has_begun) = unbounded();
        let (may_go, go) = unbounded();
        (Self { place, begun, go }, has_begun, may_go)
    }

    fn pass(&self, place: &str) {
        if place == self.place {
            self.begun.send(()).unwrap();
            let _ = self.go.recv(); // an error when the test is over
        }
    }
}

impl Worker for Stuck {
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        self.pass("process");
        Ok(data)
    }
    fn before_task(&self, _: &Value) -> Result<(), Refuse> {
        self.pass("before_task");
        Ok(())
    }
    fn lost_connection(&self, _: &str, _: &Lost) {
        self.pass("lost_connection");
    }
}

impl Hooks for Stuck {
    fn slave_lost(&self, _: &str, _: &Loss) {
        self.pass("slave_lost");
    }
}

#[test]
fn user_code_of_a_slave_that_never_returns_is_named_and_not_waited_for() {
    fn check(place: &'static str, thread: &str) -> SocketAddr {
        let (stuck, begun, go) = Stuck::at(place);
        let slave = slave()
            .grace(ms(100))
            .request_retries(0)
            .start(stuck)
            .unwrap();
        let slave = Arc::new(slave);
        let addr = slave.local_addr();
        let master = Peer::start();
        let hand = ByHand::new(addr, "t");
        assert_eq!(hand.connect(&master.url()), OK);
        let asking = match place {
            "lost_connection" => {
                master.set_away(true);
                None
            }
            _ => Some(spawn("asking", move || hand.task(&id(1), &json!({})))),
        };
        begun.recv_timeout(LIMIT).unwrap();
        let names = vec![format!("s{}-{thread}", addr.port())];
        let before = Instant::now();
        // Each of those who close at the same time is told.
        let closing: Vec<_> = (0..2)
            .map(|_| {
                let slave = slave.clone();
                spawn("closing", move || slave.close())
            })
            .collect();
        for thread in closing {
            let left = thread.join().unwrap().unwrap_err().threads;
            assert!(left.contains(&names[0]), "{place}: {left:?}");
        }
        // Others may have been slow to end, on a loaded machine.
        eventually(LIMIT, || slave.close().unwrap_err().threads == names);
        let dropping = Instant::now();
        drop(slave);
        assert!(
            dropping.elapsed() < secs(4),
            "{place}: {:?}",
            dropping.elapsed()
        );
        assert!(
            before.elapsed() < secs(40),
            "{place}: {:?}",
            before.elapsed()
        );
        drop(go);
        if let Some(asking) = asking {
            asking.join().unwrap();
        }
        addr
    }
    deadline(LIMIT, || {
        let places = [
            ("process", "task"),
            ("before_task", "http"),
            ("lost_connection", "beats"),
        ];
        let addrs = places.map(|(place, thread)| check(place, thread));
        // They end when they return.
        addrs.into_iter().for_each(|addr| all_gone("s", addr));
    });
}

#[test]
fn the_last_word_to_a_silent_master_is_within_the_grace() {
    deadline(LIMIT, || {
        let (stuck, begun, _go) = Stuck::at("process");
        let slave = slave().grace(ms(500)).start(stuck).unwrap();
        let master = Peer::start();
        master.always("PUT /slave/task/fail", Act::Silent);
        let hand = ByHand::new(slave.local_addr(), "t");
        assert_eq!(hand.connect(&master.url()), OK);
        assert_eq!(hand.task(&id(1), &json!({})), OK);
        begun.recv_timeout(LIMIT).unwrap();
        let task = format!("s{}-task", slave.local_addr().port());
        assert_eq!(slave.close().unwrap_err().threads, [task]);
        master.first("PUT /slave/task/fail");
    });
}

#[test]
fn a_slave_can_be_closed_when_its_user_code_has_returned_after_all() {
    deadline(LIMIT, || {
        let (stuck, begun, go) = Stuck::at("process");
        let slave = slave().grace(ms(100)).start(stuck).unwrap();
        let master = Peer::start();
        let hand = ByHand::new(slave.local_addr(), "t");
        assert_eq!(hand.connect(&master.url()), OK);
        assert_eq!(hand.task(&id(1), &json!({})), OK);
        begun.recv_timeout(LIMIT).unwrap();
        assert!(slave.close().is_err());
        go.send(()).unwrap();
        eventually(LIMIT, || slave.close().is_ok());
        assert!(joined("s", slave.local_addr()));
    });
}

#[test]
fn a_callback_or_hook_of_a_master_that_never_returns_is_named_and_not_waited_for() {
    fn check(place: &'static str) -> SocketAddr {
        let (stuck, begun, go) = Stuck::at(place);
        let master = master()
            .grace(ms(100))
            .heartbeat_tolerance(ms(500))
            .hooks(stuck.clone())
            .start();
        let master = Arc::new(master.unwrap());
        let addr = master.local_addr();
        let (peer, worker) = scripted(&master, "w");
        if place == "callback" {
            let task = worker.new_task(1).unwrap().start().unwrap();
            let task = task
                .on_complete(move |_, _| stuck.pass("callback"))
                .on_fail(|_, _| ());
            let token = peer.first("POST /connect").token();
            assert_eq!(
                complete(addr, &token, &task.id().to_string(), &json!(1)),
                OK
            );
        }
        begun.recv_timeout(LIMIT).unwrap();
        let names = vec![format!("m{}-results", addr.port())];
        let before = Instant::now();
        let closing: Vec<_> = (0..2)
            .map(|_| {
                let master = master.clone();
                spawn("closing", move || master.close())
            })
            .collect();
        for thread in closing {
            let left = thread.join().unwrap().unwrap_err().threads;
            assert!(left.contains(&names[0]), "{place}: {left:?}");
        }
        eventually(LIMIT, || master.close().unwrap_err().threads == names);
        let dropping = Instant::now();
        drop((master, worker));
        assert!(
            dropping.elapsed() < secs(4),
            "{place}: {:?}",
            dropping.elapsed()
        );
        assert!(
            before.elapsed() < secs(40),
            "{place}: {:?}",
            before.elapsed()
        );
        drop(go);
        addr
    }
    deadline(LIMIT, || {
        let addrs = ["callback", "slave_lost"].map(check);
        addrs.into_iter().for_each(|addr| all_gone("m", addr));
    });
}

#[test]
fn an_unfinished_body_is_named_and_not_waited_for() {
    use std::io::Write;
    deadline(LIMIT, || {
        let master = master().grace(ms(100)).start().unwrap();
        let slave = slave().grace(ms(100)).start(echo).unwrap();
        let (peer, _) = scripted(&master, "w");
        let token = peer.first("POST /connect").token();
        let head = |addr: SocketAddr, route: &str| {
            let mut stream = client::open(addr);
            let head = format!(
                "{route} HTTP/1.1\r\nHost: x\r\nChannel: {CHANNEL}\r\nToken: {token}\r\nContent-Length: 5000\r\n\r\n{{"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream
        };
        let streams = [
            head(master.local_addr(), "PUT /slave/task/complete"),
            head(slave.local_addr(), "POST /connect"),
        ];
        let (m, s) = (master.local_addr(), slave.local_addr());
        let body = |side: &str, addr: SocketAddr| format!("{side}{}-body", addr.port());
        if cfg!(target_os = "linux") {
            eventually(LIMIT, || {
                threads_of(&format!("m{}", m.port())).contains_key(&body("m", m))
            });
            eventually(LIMIT, || {
                threads_of(&format!("s{}", s.port())).contains_key(&body("s", s))
            });
        }
        eventually(LIMIT, || {
            master.close().unwrap_err().threads == [body("m", m)]
        });
        eventually(LIMIT, || {
            slave.close().unwrap_err().threads == [body("s", s)]
        });
        for side in [Box::new(master) as Box<dyn std::any::Any>, Box::new(slave)] {
            let dropping = Instant::now();
            drop(side);
            assert!(dropping.elapsed() < secs(4), "{:?}", dropping.elapsed());
        }
        drop(streams);
        all_gone("m", m);
        all_gone("s", s);
    });
}

#[test]
fn user_code_may_close_or_drop_the_side_it_runs_on() {
    struct Own(Arc<Mutex<Option<Slave>>>, Sender<bool>);
    impl Worker for Own {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            let slave = self.0.lock().take().unwrap();
            let left = slave.close().unwrap_err().threads;
            self.1
                .send(left.iter().any(|name| name.ends_with("-task")))
                .unwrap();
            drop(slave);
            Ok(data)
        }
    }
    deadline(LIMIT, || {
        let (tell, told) = unbounded();
        let slot = Arc::new(Mutex::new(None));
        let own = slave()
            .grace(ms(100))
            .start(Own(slot.clone(), tell))
            .unwrap();
        let addr = own.local_addr();
        let peer = Peer::start();
        let hand = ByHand::new(addr, "t");
        assert_eq!(hand.connect(&peer.url()), OK);
        *slot.lock() = Some(own);
        assert_eq!(hand.task(&id(1), &json!({})), OK);
        assert!(
            told.recv_timeout(LIMIT).unwrap(),
            "its own thread cannot be waited for"
        );
        all_gone("s", addr);
        assert_eq!(peer.first("PUT /slave/task/fail").task_id(), id(1));

        let (tell, told) = unbounded();
        let own = master().grace(ms(100)).start().unwrap();
        let addr = own.local_addr();
        let (peer, worker) = scripted(&own, "w");
        let task = worker.new_task(1).unwrap();
        let task = task.on_complete(move |_, _| {
            let left = own.close().unwrap_err().threads;
            tell.send(left.iter().any(|name| name.ends_with("-results")))
                .unwrap();
            drop(own);
        });
        let task = task.start().unwrap();
        let token = peer.first("POST /connect").token();
        assert_eq!(
            complete(addr, &token, &task.id().to_string(), &json!(1)),
            OK
        );
        assert!(told.recv_timeout(LIMIT).unwrap());
        drop((task, worker));
        all_gone("m", addr);
    });
}

#[test]
fn a_request_under_way_is_given_up_when_the_master_closes() {
    deadline(LIMIT, || {
        let master = Arc::new(
            master()
                .request_timeout(secs(600))
                .grace(ms(300))
                .start()
                .unwrap(),
        );
        let (peer, worker) = scripted(&master, "w");
        peer.always("POST /task/new", Act::Silent)
            .always("POST /connect", Act::Silent);
        let other = master
            .new_connection("o", &peer.addr().to_string())
            .unwrap();
        let connecting = spawn("connecting", {
            let other = other.clone();
            move || matches!(other.connect(), Err(Error::Stopped))
        });
        let starting = spawn("starting", {
            let task = worker.new_task(1).unwrap();
            move || {
                let same = task.clone();
                (
                    matches!(task.start(), Err(Error::Stopped)),
                    same.join().is_err(),
                )
            }
        });
        peer.nth(2, "POST /connect");
        peer.first("POST /task/new");
        master.close().unwrap();
        assert!(connecting.join().unwrap());
        assert_eq!(starting.join().unwrap(), (true, true));
        assert!(!other.is_connected());
    });
}

#[test]
fn redirects_are_not_followed() {
    deadline(LIMIT, || {
        let (peer, elsewhere) = (Peer::start(), Peer::start());
        let master = master().start().unwrap();
        let worker = master
            .new_connection("w", &peer.addr().to_string())
            .unwrap();
        for status in [301, 302, 307, 308] {
            let answer = format!(
                "HTTP/1.1 {status} Elsewhere\r\nLocation: {}/connect\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                elsewhere.url()
            );
            peer.on("POST /connect", Act::Raw(answer.into_bytes()));
            let error = worker.connect();
            assert!(
                matches!(
                    error,
                    Err(Error::Transport {
                        source: http::Error::Unintelligible { .. },
                        ..
                    })
                ),
                "{error:?}"
            );
        }
        assert_eq!(elsewhere.routes(), [""; 0]);
        assert!(!worker.is_connected());
    });
}

#[test]
fn durations_without_end_are_taken_as_such() {
    deadline(LIMIT, || {
        let long = Duration::MAX;
        let master = Master::builder()
            .host("127.0.0.1")
            .port(0)
            .channel(CHANNEL)
            .heartbeat_tolerance(long)
            .heartbeat_check_span(long)
            .request_retry_waiting(long)
            .request_timeout(long)
            .grace(long)
            .start()
            .unwrap();
        let slave = Slave::builder()
            .host("127.0.0.1")
            .port(0)
            .channel(CHANNEL)
            .heartbeat_span(long)
            .request_retry_waiting(long)
            .request_timeout(long)
            .grace(long)
            .start(echo)
            .unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        let task = worker.new_task(json!({"n": 1})).unwrap().start().unwrap();
        assert_eq!(task.join_timeout(long).unwrap(), &json!({"n": 1}));

        // Such a pause ends with the master.
        let patient = support::master()
            .request_retry_waiting(secs(3600))
            .request_timeout(long)
            .start()
            .unwrap();
        let gone = Peer::absent();
        let never = patient
            .new_connection("x", &gone.addr().to_string())
            .unwrap();
        let waiting = spawn("waiting", move || {
            matches!(never.connect(), Err(Error::Stopped))
        });
        support::pause(ms(100));
        assert!(!waiting.is_finished());
        patient.close().unwrap();
        assert!(waiting.join().unwrap());
        master.close().unwrap();
        assert_eq!(slave.join_timeout(ms(1)), Ok(false));
        slave.close().unwrap();
    });
}

#[test]
fn no_grace_means_no_waiting() {
    deadline(LIMIT, || {
        let (stuck, begun, go) = Stuck::at("process");
        let slave = slave().grace(Duration::ZERO).start(stuck).unwrap();
        let master = master().grace(Duration::ZERO).start().unwrap();
        let (m, s) = (master.local_addr(), slave.local_addr());
        let worker = master.new_connection("w", &s.to_string()).unwrap();
        worker.connect().unwrap();
        let task = worker.new_task(1).unwrap().start().unwrap();
        begun.recv_timeout(LIMIT).unwrap();
        for side in [Box::new(slave) as Box<dyn std::any::Any>, Box::new(master)] {
            let dropping = Instant::now();
            drop(side);
            assert!(dropping.elapsed() < secs(4), "{:?}", dropping.elapsed());
        }
        assert!(task.join().is_err());
        drop(go);
        all_gone("m", m);
        all_gone("s", s);
    });
}

#[test]
fn errors_have_their_causes() {
    use std::error::Error as _;
    deadline(LIMIT, || {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = master().port(port).start().unwrap_err();
        assert!(error.source().unwrap().is::<std::io::Error>());
        assert_eq!(
            error.to_string(),
            format!("cannot listen on 127.0.0.1:{port}")
        );
        let master = master().request_retries(0).start().unwrap();
        let gone = Peer::absent();
        let error = master
            .new_connection("w", &gone.addr().to_string())
            .unwrap()
            .connect()
            .unwrap_err();
        assert!(error.source().unwrap().is::<http::Error>());
        assert_eq!(
            error.to_string(),
            format!("no answer from slave \"w\" at {}", gone.url())
        );
        let same: master::Error = error;
        assert!(format!("{same:?}").contains("Transport"));
        let (peer, worker) = scripted(&master, "v");
        let (answer, held) = success().later();
        peer.on("POST /task/new", held);
        let debug = format!("{master:?} {worker:?} {:?}", worker.new_task(1).unwrap());
        assert!(
            !debug.contains(&peer.first("POST /connect").token()),
            "{debug}"
        );
        drop(answer);
    });
}
