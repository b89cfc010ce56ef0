//! A connection is either up on both sides or known not to be, whatever was lost on the way.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Sender, unbounded};
use interplay::http;
use interplay::master::{BoxError, Connection, Error, Hooks, Master, TaskError};
use interplay::slave::{Refuse, TaskFail, Worker};
use interplay::task::{Loss, Status};
use interplay::wire::{Refusal, Reply, SlaveCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use support::client::{ByHand, OK, beat, complete};
use support::peer::{Act, Peer, envelope, failure, page, success};
use support::{CHANNEL, LIMIT, deadline, eventually, master, ms, secs, slave, spawn};

fn connection(master: &Master, name: &str, peer: &Peer) -> Connection {
    master
        .new_connection(name, &peer.addr().to_string())
        .unwrap()
}

/// A connected slave that is a script.
fn scripted(master: &Master, name: &str) -> (Peer, Connection) {
    let peer = Peer::start();
    let connection = connection(master, name, &peer);
    connection.connect().unwrap();
    (peer, connection)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Refusal<SlaveCode> {
    match result {
        Err(Error::Refused { refusal, .. }) => *refusal,
        other => panic!("{other:?}"),
    }
}

fn echo(data: Value) -> Result<Value, TaskFail> {
    Ok(data)
}

#[test]
fn a_connect_request_carries_channel_token_address_and_data() {
    struct Greeting;
    impl Hooks for Greeting {
        fn before_connect(&self, slave: &str) -> Result<Value, BoxError> {
            Ok(json!({"hello": slave}))
        }
    }
    deadline(LIMIT, || {
        let master = master().hooks(Greeting).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let request = peer.first("POST /connect");
        assert_eq!(request.header("Channel"), CHANNEL.to_string());
        assert_eq!(request.token().len(), 64);
        let address = format!("http://{}", master.local_addr());
        assert_eq!(
            request.json(),
            json!({"master": {"address": address}, "data": {"hello": "w"}})
        );
        worker.disconnect().unwrap();
        let request = peer.first("DELETE /disconnect");
        assert_eq!(request.token(), peer.first("POST /connect").token());
        assert_eq!(request.json(), json!({"data": {}}));
        let (other, _) = scripted(&master, "o");
        assert_ne!(
            other.first("POST /connect").token(),
            request.token(),
            "each has its own"
        );
    });
}

#[test]
fn the_name_of_a_connection_never_travels_and_bodies_are_called_json() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let (peer, worker) = scripted(&master, "a name of its own");
        let _task = worker.new_task(json!({})).unwrap().start().unwrap();
        worker.disconnect().unwrap();
        for route in ["POST /connect", "POST /task/new", "DELETE /disconnect"] {
            let request = peer.first(route);
            assert_eq!(request.header("Content-Type"), "application/json");
            assert_eq!(
                request.header("Content-Length"),
                request.body.len().to_string()
            );
            assert!(!format!("{request:?}").contains("a name"), "{request:?}");
            assert!(!String::from_utf8(request.body).unwrap().contains("a name"));
        }
    });
}

#[test]
fn answers_of_older_and_of_chatty_servers_are_understood() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        let body = r#"{"code": 0, "data": null, "message": "Connect success.", "success": true, "more": 1}"#;
        let length = body.len();
        let answers = [
            format!(
                "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\nServer: Werkzeug/2.0.3\r\n\r\n{body}"
            ),
            format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            ),
            format!("HTTP/1.1 201 Created\r\nContent-Length: {length}\r\n\r\n{body}"),
        ];
        for answer in answers {
            peer.on("POST /connect", Act::Raw(answer.clone().into_bytes()));
            worker
                .connect()
                .unwrap_or_else(|error| panic!("{error:?}: {answer}"));
            worker.disconnect().unwrap();
        }
        // What the original leaves out has defaults.
        peer.on(
            "POST /connect",
            Act::Answer(403, br#"{"success": false, "code": 503}"#.to_vec()),
        );
        let no = refusal(worker.connect());
        assert_eq!((&*no.message, no.data), ("", json!({})));
    });
}

#[test]
fn the_advertised_address_is_the_route_to_the_slave_unless_it_is_given() {
    deadline(LIMIT, || {
        let told = |peer: &Peer| peer.first("POST /connect").json()["master"]["address"].clone();
        let anywhere = master().host("0.0.0.0").start().unwrap();
        let port = anywhere.local_addr().port();
        let (peer, _) = scripted(&anywhere, "w");
        assert_eq!(told(&peer), json!(format!("http://127.0.0.1:{port}")));

        // The wildcard as a slave's address is this machine.
        let peer = Peer::start();
        let address = format!("0.0.0.0:{}", peer.addr().port());
        anywhere
            .new_connection("any", &address)
            .unwrap()
            .connect()
            .unwrap();
        assert_eq!(told(&peer), json!(format!("http://127.0.0.1:{port}")));

        let given = master()
            .my_address("http://proxy.example:8080/a/b")
            .start()
            .unwrap();
        let (peer, _) = scripted(&given, "w");
        assert_eq!(told(&peer), json!("http://proxy.example:8080/a/b"));

        let bad = master().my_address("proxy.example").start();
        assert!(matches!(
            bad,
            Err(Error::Setting {
                setting: "my_address",
                ..
            })
        ));
    });
}

#[test]
fn a_slave_may_beat_before_its_answer_to_connect_has_arrived_and_during_the_hook() {
    struct Slow(crossbeam_channel::Receiver<()>);
    impl Hooks for Slow {
        fn after_connect(&self, _: &str, _: &Reply) -> Value {
            self.0.recv().unwrap();
            json!("done")
        }
    }
    deadline(LIMIT, || {
        let (finish, hook) = unbounded();
        let master = master().hooks(Slow(hook)).start().unwrap();
        let peer = Peer::start();
        let (answer, held) = success().later();
        peer.on("POST /connect", held);
        let worker = connection(&master, "w", &peer);
        let connecting = spawn("connecting", {
            let worker = worker.clone();
            move || worker.connect().unwrap()
        });
        let token = peer.first("POST /connect").token();
        assert_eq!(beat(master.local_addr(), &token), OK);
        assert!(!worker.is_connected());
        answer.send(()).unwrap();
        eventually(LIMIT, || worker.is_connected());
        assert_eq!(beat(master.local_addr(), &token), OK);
        assert!(master.contains("w"));
        finish.send(()).unwrap();
        assert_eq!(connecting.join().unwrap(), json!("done"));
    });
}

#[test]
fn after_a_lost_answer_to_connect_the_slave_is_let_go_and_connected_again() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        peer.on("POST /connect", Act::CutAnswer)
            .on("POST /connect", failure(400, 501));
        let worker = connection(&master, "w", &peer);
        worker.connect().unwrap();
        assert!(worker.is_connected());
        let routes = [
            "POST /connect",
            "POST /connect",
            "DELETE /disconnect",
            "POST /connect",
        ];
        assert_eq!(peer.routes(), routes);
        let token = peer.first("POST /connect").token();
        assert!(
            peer.seen("POST /connect")
                .iter()
                .all(|request| request.token() == token)
        );
        assert_eq!(peer.first("DELETE /disconnect").token(), token);
        assert_eq!(beat(master.local_addr(), &token), OK);
    });
}

#[test]
fn a_slave_of_another_master_is_left_alone() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        peer.on("POST /connect", failure(400, 501));
        assert_eq!(
            refusal(worker.connect()).code,
            SlaveCode::SlaveAlreadyConnected
        );
        assert_eq!(
            peer.routes(),
            ["POST /connect"],
            "no answer was lost, so it is another master's"
        );

        peer.on("POST /connect", Act::Cut)
            .on("POST /connect", failure(400, 501));
        peer.on("DELETE /disconnect", failure(403, 302));
        assert_eq!(
            refusal(worker.connect()).code,
            SlaveCode::SlaveAlreadyConnected
        );
        assert_eq!(
            peer.routes()[1..],
            ["POST /connect", "POST /connect", "DELETE /disconnect"]
        );
        assert!(!worker.is_connected() && !master.contains("w"));
    });
}

#[test]
fn a_connect_that_may_have_arrived_keeps_its_token_good_whatever_came_after() {
    deadline(LIMIT, || {
        let master = master().request_retries(1).start().unwrap();
        // What follows the attempt that was cut: silence, a no, a no and the refusal to be let go.
        let scripts: [&[(&str, Act)]; 3] = [
            &[("POST /connect", Act::Cut)],
            &[
                ("POST /connect", failure(400, 501)),
                ("DELETE /disconnect", failure(403, 504)),
            ],
            &[
                ("POST /connect", failure(400, 501)),
                ("DELETE /disconnect", Act::Cut),
            ],
        ];
        for script in scripts {
            let peer = Peer::start();
            peer.on("POST /connect", Act::Cut);
            for (route, act) in script {
                peer.on(route, act.clone());
            }
            peer.always("DELETE /disconnect", Act::Cut);
            let worker = connection(&master, "w", &peer);
            assert!(worker.connect().is_err());
            assert!(!worker.is_connected() && !master.contains("w"));
            let token = peer.first("POST /connect").token();
            assert_eq!(beat(master.local_addr(), &token), OK, "{:?}", peer.routes());
        }
    });
}

#[test]
fn a_slave_that_is_asked_again_by_its_own_master_says_yes_and_asks_its_hook_once() {
    struct Counting(Arc<AtomicUsize>);
    impl Worker for Counting {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            Ok(data)
        }
        fn before_connection(&self, _: &Value) -> Result<(), Refuse> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }
    deadline(LIMIT, || {
        let asked = Arc::new(AtomicUsize::new(0));
        let slave = slave().start(Counting(asked.clone())).unwrap();
        let master = Peer::start();
        let hand = ByHand::new(slave.local_addr(), "t");
        assert_eq!(hand.connect(&master.url()), OK);
        assert_eq!(hand.connect(&master.url()), OK);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(
            hand.connect("http://127.0.0.1:1"),
            (400, 501),
            "the same token elsewhere"
        );
        let other = ByHand::new(slave.local_addr(), "u");
        assert_eq!(other.connect(&master.url()), (400, 501));
        assert_eq!(slave.master(), Some(master.url()));

        assert_eq!(other.disconnect(), (403, 302));
        assert_eq!(other.task(&support::client::id(1), &json!({})), (403, 302));
        assert_eq!(hand.disconnect(), OK);
        assert_eq!(slave.master(), None);
        assert_eq!(hand.disconnect(), (403, 302));
        assert_eq!(
            hand.connect(&master.url()),
            OK,
            "the same token again after a disconnect"
        );
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn of_two_masters_that_connect_at_once_the_second_is_turned_away() {
    struct Deciding(Sender<()>, crossbeam_channel::Receiver<bool>);
    impl Worker for Deciding {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            Ok(data)
        }
        fn before_connection(&self, _: &Value) -> Result<(), Refuse> {
            self.0.send(()).unwrap();
            if self.1.recv().unwrap() {
                Ok(())
            } else {
                Err(Refuse::new(json!({"why": "no"})))
            }
        }
    }
    deadline(LIMIT, || {
        let (asked, asking) = unbounded();
        let (decide, decision) = unbounded();
        let slave = slave().start(Deciding(asked, decision)).unwrap();
        let addr = slave.local_addr();
        let master = Peer::start();
        // A long body is judged beside the others.
        let body = json!({"master": {"address": master.url()}, "data": "x".repeat(5000)});
        let connecting = |token: &'static str| {
            let body = body.clone();
            spawn("connecting", move || {
                support::client::code(ByHand::new(addr, token).ask("POST", "/connect", &body))
            })
        };
        let first = connecting("first");
        asking.recv().unwrap();
        assert_eq!(
            connecting("second").join().unwrap(),
            (400, 501),
            "undecided"
        );
        assert_eq!(slave.master(), None);
        decide.send(true).unwrap();
        assert_eq!(first.join().unwrap(), OK);
        assert_eq!(ByHand::new(addr, "second").disconnect(), (403, 302));
        assert_eq!(ByHand::new(addr, "first").disconnect(), OK);

        // A refusal leaves the place free.
        let third = connecting("third");
        asking.recv().unwrap();
        decide.send(false).unwrap();
        assert_eq!(third.join().unwrap(), (403, 503));
        let fourth = connecting("fourth");
        asking.recv().unwrap();
        decide.send(true).unwrap();
        assert_eq!(fourth.join().unwrap(), OK);
    });
}

#[test]
fn a_disconnect_that_is_decided_late_does_not_end_the_next_connection() {
    struct Deciding(Sender<()>, crossbeam_channel::Receiver<()>);
    impl Worker for Deciding {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            Ok(data)
        }
        fn before_disconnection(&self, data: &Value) -> Result<(), Refuse> {
            if data.is_string() {
                self.0.send(()).unwrap();
                self.1.recv().unwrap();
            }
            Ok(())
        }
    }
    deadline(LIMIT, || {
        let (asked, asking) = unbounded();
        let (decide, decision) = unbounded();
        let slave = slave().start(Deciding(asked, decision)).unwrap();
        let (first, second) = (Peer::start(), Peer::start());
        let hand = ByHand::new(slave.local_addr(), "first");
        assert_eq!(hand.connect(&first.url()), OK);
        let late = spawn("late", {
            let hand = hand.clone();
            // A long body is judged beside the others.
            let body = json!({"data": "x".repeat(5000)});
            move || support::client::code(hand.ask("DELETE", "/disconnect", &body))
        });
        asking.recv().unwrap();
        assert_eq!(hand.disconnect(), OK, "another one is quicker");
        let other = ByHand::new(slave.local_addr(), "second");
        assert_eq!(other.connect(&second.url()), OK);
        decide.send(()).unwrap();
        assert_eq!(late.join().unwrap(), (403, 302));
        assert_eq!(slave.master(), Some(second.url()));
        assert_eq!(other.task(&support::client::id(1), &json!({})), OK);
        second.first("PUT /slave/task/complete");
    });
}

#[test]
fn of_many_connections_of_one_name_one_wins() {
    deadline(LIMIT, || {
        let master = Arc::new(master().start().unwrap());
        let peers: Vec<_> = (0..12).map(|_| Peer::start()).collect();
        let made: Vec<_> = peers
            .iter()
            .map(|peer| connection(&master, "w", peer))
            .collect();
        let gate = Arc::new(std::sync::Barrier::new(made.len()));
        let connecting: Vec<_> = made
            .iter()
            .map(|connection| {
                let (connection, gate) = (connection.clone(), gate.clone());
                spawn("connecting", move || {
                    gate.wait();
                    connection.connect()
                })
            })
            .collect();
        let results: Vec<_> = connecting
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let taken = |result: &&Result<Value, Error>| matches!(result, Err(Error::NameTaken { name }) if name == "w");
        assert_eq!(results.iter().filter(taken).count(), 11);
        assert_eq!(
            peers.iter().flat_map(Peer::routes).count(),
            1,
            "only one request was sent"
        );
        assert_eq!(
            made.iter()
                .filter(|connection| connection.is_connected())
                .count(),
            1
        );
        assert!(matches!(
            master.new_connection("w", "h"),
            Err(Error::NameTaken { .. })
        ));

        // Those who lost have nothing to disconnect, and do not touch the one who won.
        for connection in made.iter().filter(|connection| !connection.is_connected()) {
            assert!(matches!(
                connection.disconnect(),
                Err(Error::NotConnected { .. })
            ));
        }
        let winner = master.get("w").unwrap();
        assert!(winner.is_connected());
        winner.disconnect().unwrap();
        assert!(!master.contains("w") && made.iter().all(|connection| !connection.is_connected()));
        made[3].connect().unwrap();
    });
}

#[test]
fn get_contains_and_delete_know_the_connected_only() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        assert!(!master.contains("w") && master.get("w").is_none());
        assert!(matches!(master.delete("w"), Err(Error::NotFound { name }) if name == "w"));
        worker.connect().unwrap();
        assert!(master.contains("w"));
        let same = master.get("w").unwrap();
        assert_eq!((same.name(), same.address()), ("w", peer.url()));
        assert_eq!(master.stats().connected, 1);
        master.delete("w").unwrap();
        assert_eq!(peer.seen("DELETE /disconnect").len(), 1);
        assert!(!same.is_connected() && !worker.is_connected() && !master.contains("w"));
        assert!(matches!(master.delete("w"), Err(Error::NotFound { .. })));
        assert_eq!(master.stats().connected, 0);
    });
}

#[test]
fn calls_in_the_wrong_state_say_so_and_send_nothing() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        assert!(matches!(
            worker.disconnect(),
            Err(Error::NotConnected { .. })
        ));
        assert_eq!(peer.routes(), [""; 0]);

        let (answer, held) = success().later();
        peer.on("POST /connect", held);
        let connecting = spawn("connecting", {
            let worker = worker.clone();
            move || worker.connect().is_ok()
        });
        peer.first("POST /connect");
        assert!(matches!(worker.connect(), Err(Error::InProgress { .. })));
        assert!(matches!(worker.disconnect(), Err(Error::InProgress { .. })));
        assert!(matches!(
            master.new_connection("w", "h"),
            Err(Error::NameTaken { .. })
        ));
        answer.send(()).unwrap();
        assert!(connecting.join().unwrap());
        assert!(matches!(
            worker.connect(),
            Err(Error::AlreadyConnected { .. })
        ));

        let (answer, held) = success().later();
        peer.on("DELETE /disconnect", held);
        let leaving = spawn("leaving", {
            let worker = worker.clone();
            move || worker.disconnect().is_ok()
        });
        peer.first("DELETE /disconnect");
        assert!(matches!(worker.connect(), Err(Error::InProgress { .. })));
        assert!(matches!(worker.disconnect(), Err(Error::InProgress { .. })));
        assert!(matches!(
            worker.new_task(1).unwrap().start(),
            Err(Error::NotConnected { .. })
        ));
        answer.send(()).unwrap();
        assert!(leaving.join().unwrap());
        assert!(matches!(
            worker.disconnect(),
            Err(Error::NotConnected { .. })
        ));
        assert_eq!(peer.routes(), ["POST /connect", "DELETE /disconnect"]);

        for (name, address) in [("", "h"), (&*"x".repeat(256), "h")] {
            let made = master.new_connection(name, address);
            assert!(matches!(
                made,
                Err(Error::Setting {
                    setting: "name",
                    ..
                })
            ));
        }
        for address in ["", "a b", "h:0", "ftp://h"] {
            assert!(matches!(
                master.new_connection("x", address),
                Err(Error::BadAddress { .. })
            ));
        }
    });
}

#[test]
fn every_refusal_can_be_matched_whole() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        let table = [
            (401, 101, SlaveCode::SystemShuttingDown),
            (400, 201, SlaveCode::ChannelNotFound),
            (403, 202, SlaveCode::ChannelInvalid),
            (400, 301, SlaveCode::MasterTokenNotFound),
            (400, 501, SlaveCode::SlaveAlreadyConnected),
            (403, 503, SlaveCode::SlaveConnectionRefused),
            (418, 1, SlaveCode::Failure),
            (500, 777, SlaveCode::Other(777)),
            (400, -3, SlaveCode::Other(-3)),
        ];
        for (status, number, code) in table {
            let data = json!({"why": [number]});
            peer.on(
                "POST /connect",
                envelope(status, false, number, "No, no.", &data),
            );
            let error = worker.connect().unwrap_err();
            let source = error
                .source()
                .unwrap()
                .downcast_ref::<Refusal<SlaveCode>>()
                .unwrap();
            assert_eq!(source.code, code);
            let Error::Refused {
                name,
                address,
                refusal,
            } = error
            else {
                panic!()
            };
            assert_eq!((name.as_str(), address), ("w", peer.url()));
            assert_eq!(
                (refusal.status, refusal.code, &*refusal.message),
                (status, code, "No, no.")
            );
            assert_eq!(refusal.data, data);
            assert!(!worker.is_connected() && !master.contains("w"));
        }
        worker.connect().unwrap();
        peer.on(
            "POST /task/new",
            envelope(403, false, 602, "Nope", &json!([1])),
        );
        let refusal = refusal(worker.new_task(1).unwrap().start());
        assert_eq!(
            (refusal.code, refusal.data),
            (SlaveCode::TaskRefused, json!([1]))
        );
    });
}

#[test]
fn an_answer_that_is_no_envelope_is_a_transport_error_with_an_excerpt() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        let json = |text: &str| Act::Answer(200, text.as_bytes().to_vec());
        let nonsense = [
            page(500),
            page(200),
            json(""),
            json("[]"),
            json(r#"{"success":true}"#),
            json(r#"{"code":0}"#),
            json(r#"{"success":1,"code":0}"#),
        ];
        for act in nonsense {
            let count = peer.seen("POST /connect").len();
            peer.on("POST /connect", act);
            match worker.connect() {
                Err(Error::Transport {
                    source:
                        http::Error::Unintelligible {
                            status: Some(_), ..
                        },
                    ..
                }) => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(
                peer.seen("POST /connect").len(),
                count + 1,
                "an answer is not asked for again"
            );
            assert!(!worker.is_connected() && !master.contains("w"));
        }
    });
}

#[test]
fn a_slave_that_refuses_to_be_let_go_stays_connected() {
    struct Clingy(Arc<Mutex<bool>>);
    impl Worker for Clingy {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            Ok(data)
        }
        fn before_connection(&self, data: &Value) -> Result<(), Refuse> {
            if data["password"] == "x" {
                Ok(())
            } else {
                Err(Refuse::new(json!({"need": "password"})))
            }
        }
        fn before_disconnection(&self, _: &Value) -> Result<(), Refuse> {
            if *self.0.lock() {
                Err(Refuse::new(json!({"still": "here"})))
            } else {
                Ok(())
            }
        }
        fn before_task(&self, data: &Value) -> Result<(), Refuse> {
            if data["easy"] == true {
                Ok(())
            } else {
                Err(Refuse::default())
            }
        }
    }
    struct Password(Arc<Mutex<&'static str>>);
    impl Hooks for Password {
        fn before_connect(&self, _: &str) -> Result<Value, BoxError> {
            Ok(json!({"password": *self.0.lock()}))
        }
    }
    deadline(LIMIT, || {
        let (clings, password) = (Arc::new(Mutex::new(true)), Arc::new(Mutex::new("wrong")));
        let slave = slave().start(Clingy(clings.clone())).unwrap();
        let master = master().hooks(Password(password.clone())).start().unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        let no = refusal(worker.connect());
        assert_eq!(
            (no.status, no.code),
            (403, SlaveCode::SlaveConnectionRefused)
        );
        assert_eq!(
            (&*no.message, no.data),
            ("Connection refused!", json!({"need": "password"}))
        );
        *password.lock() = "x";
        worker.connect().unwrap();

        let no = refusal(worker.new_task(json!({"easy": false})).unwrap().start());
        assert_eq!(
            (no.status, no.code, no.data),
            (403, SlaveCode::TaskRefused, json!({}))
        );
        let no = refusal(worker.disconnect());
        assert_eq!(
            (no.status, no.code),
            (403, SlaveCode::SlaveDisconnectionRefused)
        );
        assert_eq!(no.data, json!({"still": "here"}));
        assert!(worker.is_connected() && master.contains("w"));
        let task = worker
            .new_task(json!({"easy": true}))
            .unwrap()
            .start()
            .unwrap();
        task.join().unwrap();
        *clings.lock() = false;
        worker.disconnect().unwrap();
        assert!(!worker.is_connected());
    });
}

#[test]
fn a_disconnect_ends_the_connection_here_whatever_the_slave_says_but_no() {
    deadline(LIMIT, || {
        let master = master().request_retries(1).start().unwrap();
        // What the slave does, and whether the call succeeds.
        let table = [
            (success(), true),
            (failure(403, 302), true),
            (failure(400, 502), true),
            (failure(403, 202), false),
            (failure(401, 101), false),
            (page(500), false),
            (Act::Cut, false),
        ];
        for (act, succeeds) in table {
            let (peer, worker) = scripted(&master, "w");
            let task = worker.new_task(json!({})).unwrap().start().unwrap();
            peer.always("DELETE /disconnect", act);
            assert_eq!(worker.disconnect().is_ok(), succeeds);
            assert!(!worker.is_connected() && !master.contains("w"));
            assert!(matches!(
                task.join(),
                Err(TaskError::Lost {
                    loss: Loss::Disconnected
                })
            ));
            let token = peer.first("POST /connect").token();
            support::pause(ms(250)); // the sweeper has been there
            assert_eq!(
                beat(master.local_addr(), &token),
                OK,
                "a beat may be in flight"
            );
            worker.connect().unwrap();
            peer.clear("DELETE /disconnect");
            worker.disconnect().unwrap();
        }
    });
}

#[test]
fn a_restarted_slave_is_lost_at_the_next_task_and_can_be_connected_again() {
    struct Losses(Sender<(String, Loss)>);
    impl Hooks for Losses {
        fn slave_lost(&self, slave: &str, loss: &Loss) {
            self.0.send((slave.to_owned(), loss.clone())).unwrap();
        }
    }
    deadline(LIMIT, || {
        let (lost, losses) = unbounded();
        let master = master().hooks(Losses(lost)).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        let open = worker.new_task(json!({})).unwrap().start().unwrap();
        peer.on("POST /task/new", failure(403, 302));
        let (told, calls) = unbounded();
        let task = worker.new_task(json!({})).unwrap();
        let task = task.on_fail(move |_, error| told.send(error.to_string()).unwrap());
        assert_eq!(
            refusal(task.clone().start()).code,
            SlaveCode::MasterTokenInvalid
        );
        assert_eq!(task.status(), Status::StartFailed);
        assert!(!worker.is_connected() && !master.contains("w"));
        assert!(matches!(
            open.join(),
            Err(TaskError::Lost {
                loss: Loss::Forgotten
            })
        ));
        assert_eq!(
            losses.recv_timeout(LIMIT).unwrap(),
            ("w".to_owned(), Loss::Forgotten)
        );

        worker.connect().unwrap();
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        let token = peer.first("POST /connect").token();
        complete(
            master.local_addr(),
            &token,
            &task.id().to_string(),
            &json!(1),
        );
        assert_eq!(task.join().unwrap(), &json!(1));
        worker.disconnect().unwrap();
        master.close().unwrap();
        assert_eq!(
            calls.try_iter().count(),
            0,
            "a start that failed calls nothing back"
        );
        assert_eq!(losses.try_iter().count(), 0, "told once");
    });
}

#[test]
fn a_real_slave_that_is_replaced_by_another_forgets_and_is_connected_again() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let first = slave().start(echo).unwrap();
        let hand = ByHand::new(first.local_addr(), "t");
        let worker = master
            .new_connection("w", &first.local_addr().to_string())
            .unwrap();
        // It belongs to somebody else, who lets it go.
        let other = Peer::start();
        assert_eq!(hand.connect(&other.url()), OK);
        assert_eq!(
            refusal(worker.connect()).code,
            SlaveCode::SlaveAlreadyConnected
        );
        assert_eq!(hand.disconnect(), OK);
        worker.connect().unwrap();
        assert_eq!(
            worker
                .new_task(json!({"n": 1}))
                .unwrap()
                .start()
                .unwrap()
                .join()
                .unwrap(),
            &json!({"n": 1})
        );
    });
}

#[test]
fn a_wrong_channel_is_refused_on_both_sides() {
    deadline(LIMIT, || {
        let slave = slave().channel(CHANNEL + 1).start(echo).unwrap();
        let master = master().start().unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        assert_eq!(refusal(worker.connect()).code, SlaveCode::ChannelInvalid);
        assert_eq!(slave.master(), None);
    });
}

#[test]
fn a_lost_slave_can_be_disconnected_without_an_error() {
    deadline(LIMIT, || {
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        eventually(LIMIT, || !worker.is_connected());
        worker.disconnect().unwrap();
        assert_eq!(peer.seen("DELETE /disconnect").len(), 1);
        assert!(matches!(
            worker.disconnect(),
            Err(Error::NotConnected { .. })
        ));
    });
}

#[test]
fn a_given_up_slave_that_beats_again_is_told_and_its_beats_are_answered() {
    deadline(LIMIT, || {
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let addr = master.local_addr();
        let (peer, worker) = scripted(&master, "w");
        let token = peer.first("POST /connect").token();
        let (answer, held) = success().later();
        peer.on("DELETE /disconnect", held);
        eventually(LIMIT, || !worker.is_connected());
        assert_eq!(
            peer.routes(),
            ["POST /connect"],
            "a silent slave is not spoken to"
        );

        assert_eq!(beat(addr, &token), OK);
        assert_eq!(peer.first("DELETE /disconnect").token(), token);
        // While it is told it is as lost as before, and as free to beat.
        assert_eq!(beat(addr, &token), OK);
        assert!(!worker.is_connected() && !master.contains("w"));
        assert_eq!(master.stats().connected, 0);
        answer.send(()).unwrap();
        eventually(LIMIT, || worker.connect().is_ok());
        assert!(worker.is_connected());
        assert_eq!(beat(addr, &token), OK);
        assert_eq!(
            peer.routes(),
            ["POST /connect", "DELETE /disconnect", "POST /connect"]
        );
    });
}

#[test]
fn a_given_up_slave_is_told_only_after_its_late_report_which_is_dropped() {
    deadline(LIMIT, || {
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let addr = master.local_addr();
        let (peer, worker) = scripted(&master, "w");
        let token = peer.first("POST /connect").token();
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        assert!(task.join().is_err());
        for _ in 0..5 {
            assert_eq!(beat(addr, &token), OK);
            support::pause(ms(100));
        }
        assert_eq!(
            peer.seen("DELETE /disconnect").len(),
            0,
            "a Python slave that works would be unusable afterwards"
        );
        assert_eq!(
            complete(addr, &token, &task.id().to_string(), &json!(1)),
            OK
        );
        assert_eq!(task.status(), Status::Lost);
        peer.first("DELETE /disconnect");
    });
}

#[test]
fn a_given_up_slave_can_be_connected_before_it_is_told() {
    deadline(LIMIT, || {
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let (peer, worker) = scripted(&master, "w");
        eventually(LIMIT, || !worker.is_connected());
        // A Python slave that is still connected to us says so; ours says yes at once.
        peer.on("POST /connect", failure(400, 501));
        worker.connect().unwrap();
        let routes = [
            "POST /connect",
            "POST /connect",
            "DELETE /disconnect",
            "POST /connect",
        ];
        assert_eq!(peer.routes(), routes);
        assert!(worker.is_connected());
    });
}

#[test]
fn a_healthy_slave_that_was_given_up_is_free_again_by_itself() {
    deadline(LIMIT, || {
        // It beats less often than the master tolerates.
        let slave = slave().heartbeat_span(ms(1500)).start(echo).unwrap();
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let worker = master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        eventually(LIMIT, || !worker.is_connected());
        eventually(LIMIT, || slave.master().is_none());
        // It may be given up again at any time, and cannot be connected while it is told.
        eventually(LIMIT, || {
            let _ = worker.connect();
            let task = worker.new_task(json!({"n": 1})).unwrap().start();
            task.is_ok_and(|task| task.join().is_ok_and(|result| result["n"] == 1))
        });
    });
}

#[test]
fn close_tells_every_slave_once() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let slaves: Vec<_> = (0..40)
            .map(|n| scripted(&master, &format!("w{n}")))
            .collect();
        assert_eq!(master.stats().connected, 40);
        master.close().unwrap();
        for (peer, connection) in &slaves {
            assert_eq!(peer.routes(), ["POST /connect", "DELETE /disconnect"]);
            assert!(!connection.is_connected());
            assert!(matches!(connection.connect(), Err(Error::Stopped)));
            assert!(connection.disconnect().is_err());
        }
        assert_eq!(master.stats().connected, 0);
        assert!(matches!(
            master.new_connection("x", "h"),
            Err(Error::Stopped)
        ));
    });
}

#[test]
fn close_is_bounded_when_slaves_are_silent_and_tells_the_others() {
    deadline(LIMIT, || {
        let master = master().grace(ms(1000)).start().unwrap();
        let slaves: Vec<_> = (0..12)
            .map(|n| scripted(&master, &format!("w{n}")))
            .collect();
        let (silent, well) = slaves.split_at(6);
        for (peer, _) in silent {
            peer.always("DELETE /disconnect", Act::Silent);
        }
        let task = silent[0].1.new_task(json!({})).unwrap().start().unwrap();
        let before = Instant::now();
        master.close().unwrap();
        assert!(before.elapsed() < secs(20));
        assert!(matches!(
            task.join(),
            Err(TaskError::Lost {
                loss: Loss::Stopped
            })
        ));
        for (peer, _) in well {
            assert_eq!(peer.seen("DELETE /disconnect").len(), 1);
        }
    });
}

#[test]
fn beats_and_reports_are_answered_while_the_slaves_are_told_of_the_end() {
    deadline(LIMIT, || {
        let master = Arc::new(master().start().unwrap());
        let addr = master.local_addr();
        let (peer, worker) = scripted(&master, "w");
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        let token = peer.first("POST /connect").token();
        let (answer, held) = success().later();
        peer.on("DELETE /disconnect", held);
        let closing = spawn("closing", {
            let master = master.clone();
            move || master.close()
        });
        peer.first("DELETE /disconnect");
        assert_eq!(beat(addr, &token), OK);
        assert_eq!(
            complete(addr, &token, &task.id().to_string(), &json!(1)),
            OK
        );
        assert_eq!(
            task.join().unwrap(),
            &json!(1),
            "a report counts until the end"
        );
        answer.send(()).unwrap();
        closing.join().unwrap().unwrap();
    });
}

/// Notes each hook, and does what it is told to.
#[derive(Clone, Default)]
struct Script {
    calls: Arc<Mutex<Vec<String>>>,
    /// What the next call of a hook does instead: fail or panic.
    tricks: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
}

impl Script {
    fn note(&self, hook: &'static str, detail: String) -> Result<(), BoxError> {
        self.calls.lock().push(format!("{hook} {detail}"));
        let mut tricks = self.tricks.lock();
        let trick = tricks
            .iter()
            .position(|(of, _)| *of == hook)
            .map(|at| tricks.remove(at).1);
        drop(tricks);
        match trick {
            Some("panic") => panic!("as planned"),
            Some(_) => Err("as planned".into()),
            None => Ok(()),
        }
    }

    fn trick(&self, hook: &'static str, trick: &'static str) {
        self.tricks.lock().push((hook, trick));
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }
}

impl Hooks for Script {
    fn before_connect(&self, slave: &str) -> Result<Value, BoxError> {
        self.note("before_connect", slave.to_owned())
            .map(|()| json!({"from": "before"}))
    }

    fn after_connect(&self, slave: &str, reply: &Reply) -> Value {
        let _ = self.note(
            "after_connect",
            format!("{slave} {} {}", reply.status, reply.message),
        );
        json!("after")
    }

    fn error_connect(&self, slave: &str, error: Error) -> Result<Value, Error> {
        match self.note("error_connect", slave.to_owned()) {
            Ok(()) => Err(error),
            Err(_) => Ok(json!("swallowed")),
        }
    }

    fn before_disconnect(&self, slave: &str) -> Result<Value, BoxError> {
        self.note("before_disconnect", slave.to_owned())
            .map(|()| json!({"bye": 1}))
    }

    fn after_disconnect(&self, slave: &str, reply: &Reply) -> Value {
        let _ = self.note(
            "after_disconnect",
            format!("{slave} {} {}", reply.status, reply.message),
        );
        json!("gone")
    }

    fn error_disconnect(&self, slave: &str, error: Error) -> Result<Value, Error> {
        match self.note("error_disconnect", slave.to_owned()) {
            Ok(()) => Err(error),
            Err(_) => Ok(json!("swallowed")),
        }
    }
}

#[test]
fn hooks_see_each_step_and_give_the_values() {
    deadline(LIMIT, || {
        let hooks = Script::default();
        let master = master().hooks(hooks.clone()).start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        let hello = envelope(200, true, 0, "Hello.", &Value::Null);
        peer.always("POST /connect", hello.clone())
            .always("DELETE /disconnect", hello);
        assert_eq!(worker.connect().unwrap(), json!("after"));
        assert_eq!(
            hooks.calls(),
            ["before_connect w", "after_connect w 200 Hello."]
        );
        assert_eq!(
            peer.first("POST /connect").json()["data"],
            json!({"from": "before"})
        );
        assert_eq!(worker.disconnect().unwrap(), json!("gone"));
        assert_eq!(
            hooks.calls(),
            ["before_disconnect w", "after_disconnect w 200 Hello."]
        );
        assert_eq!(
            peer.first("DELETE /disconnect").json()["data"],
            json!({"bye": 1})
        );
    });
}

#[test]
fn a_hook_that_says_no_beforehand_changes_nothing() {
    deadline(LIMIT, || {
        let hooks = Script::default();
        let master = master().hooks(hooks.clone()).start().unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        for trick in ["error", "panic"] {
            hooks.trick("before_connect", trick);
            assert!(matches!(
                worker.connect(),
                Err(Error::Hook {
                    hook: "before_connect",
                    ..
                })
            ));
            assert!(!worker.is_connected() && !master.contains("w"));
        }
        assert_eq!(peer.routes(), [""; 0]);
        assert_eq!(hooks.calls().len(), 2);
        worker.connect().unwrap();
        for trick in ["error", "panic"] {
            hooks.trick("before_disconnect", trick);
            assert!(matches!(
                worker.disconnect(),
                Err(Error::Hook {
                    hook: "before_disconnect",
                    ..
                })
            ));
            assert!(worker.is_connected() && master.contains("w"));
        }
        assert_eq!(peer.routes(), ["POST /connect"]);
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        worker.disconnect().unwrap();
        assert!(task.join().is_err());
    });
}

#[test]
fn a_hook_that_panics_afterwards_costs_its_value_only() {
    deadline(LIMIT, || {
        let hooks = Script::default();
        let master = master().hooks(hooks.clone()).start().unwrap();
        let (peer, worker) = (Peer::start(), "w");
        let worker = connection(&master, worker, &peer);
        hooks.trick("after_connect", "panic");
        assert_eq!(worker.connect().unwrap(), Value::Null);
        assert!(worker.is_connected() && master.contains("w"));
        assert_eq!(
            beat(master.local_addr(), &peer.first("POST /connect").token()),
            OK
        );
        hooks.trick("after_disconnect", "panic");
        assert_eq!(worker.disconnect().unwrap(), Value::Null);
        assert!(!worker.is_connected() && !master.contains("w"));
    });
}

#[test]
fn an_error_hook_sees_refusals_too_and_swallowing_the_error_connects_nothing() {
    deadline(LIMIT, || {
        let hooks = Script::default();
        let master = master()
            .request_retries(0)
            .hooks(hooks.clone())
            .start()
            .unwrap();
        let peer = Peer::start();
        let worker = connection(&master, "w", &peer);
        for act in [failure(403, 503), Act::Cut] {
            peer.times(3, "POST /connect", act);
            assert!(matches!(
                worker.connect(),
                Err(Error::Refused { .. } | Error::Transport { .. })
            ));
            hooks.trick("error_connect", "swallow");
            assert_eq!(worker.connect().unwrap(), json!("swallowed"));
            assert!(!worker.is_connected() && !master.contains("w"));
            hooks.trick("error_connect", "panic");
            assert!(matches!(
                worker.connect(),
                Err(Error::Hook {
                    hook: "error_connect",
                    ..
                })
            ));
            assert!(!worker.is_connected() && !master.contains("w"));
            assert_eq!(
                hooks.calls(),
                ["before_connect w", "error_connect w"].repeat(3)
            );
        }
        for (act, stays) in [(failure(403, 504), true), (Act::Cut, false)] {
            for trick in [None, Some("swallow"), Some("panic")] {
                if !worker.is_connected() {
                    worker.connect().unwrap();
                }
                hooks.calls();
                trick
                    .into_iter()
                    .for_each(|trick| hooks.trick("error_disconnect", trick));
                peer.on("DELETE /disconnect", act.clone());
                let result = worker.disconnect();
                match trick {
                    None => assert!(matches!(
                        result,
                        Err(Error::Refused { .. } | Error::Transport { .. })
                    )),
                    Some("swallow") => assert_eq!(result.unwrap(), json!("swallowed")),
                    _ => assert!(matches!(
                        result,
                        Err(Error::Hook {
                            hook: "error_disconnect",
                            ..
                        })
                    )),
                }
                assert_eq!(hooks.calls(), ["before_disconnect w", "error_disconnect w"]);
                assert_eq!(
                    (worker.is_connected(), master.contains("w")),
                    (stays, stays)
                );
            }
        }
    });
}

#[test]
fn an_address_that_leads_nowhere_is_refused_before_anything_happens() {
    struct Counting(Arc<AtomicUsize>);
    impl Worker for Counting {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            Ok(data)
        }
        fn before_connection(&self, _: &Value) -> Result<(), Refuse> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }
    deadline(LIMIT, || {
        let asked = Arc::new(AtomicUsize::new(0));
        let slave = slave().start(Counting(asked.clone())).unwrap();
        let hand = ByHand::new(slave.local_addr(), "t");
        for address in ["", "h", "http://", "http://h:99999", "ftp://h"] {
            assert_eq!(hand.connect(address), (400, 503), "{address:?}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        assert_eq!(slave.master(), None);
        assert_eq!(hand.task(&support::client::id(1), &json!({})), (403, 302));
        assert_eq!(hand.disconnect(), (403, 302));
        let empty = ByHand::new(slave.local_addr(), "");
        assert_eq!(
            empty.connect("http://h"),
            (400, 301),
            "an empty token is none"
        );
    });
}
