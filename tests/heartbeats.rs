//! Both sides notice within their limits that the other is gone, and only then.
//!
//! The clock of both sides is monotonic by construction (`Instant`), so there is no test that sets the time.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::http;
use interplay::master::{Connection, Hooks, Master};
use interplay::slave::{Lost, Slave, TaskFail, Worker};
use interplay::task::Loss;
use interplay::wire::MasterCode;
use serde_json::{Value, json};

use support::client::{ByHand, OK, beat, id};
use support::peer::{Act, Peer, failure, page, success};
use support::{
    CHANNEL, LIMIT, deadline, eventually, master, ms, pause, secs, slave, spawn, threads_of,
};

const BEAT: &str = "GET /slave/heartbeat";

/// Tells of each lost master: its address, why, and whether the hook is to panic.
struct Telling(Sender<(String, Lost)>, bool);

/// `Lost` cannot be cloned, so the hook hands on what matters.
fn copy(lost: &Lost) -> Lost {
    match lost {
        Lost::Refused { refusal } => Lost::Refused {
            refusal: refusal.clone(),
        },
        Lost::Unreachable { source } => Lost::Unreachable {
            source: http::Error::Broken {
                source: source.to_string().into(),
            },
        },
        _ => panic!("{lost:?}"),
    }
}

impl Worker for Telling {
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        Ok(data)
    }

    fn lost_connection(&self, master: &str, lost: &Lost) {
        self.0.send((master.to_owned(), copy(lost))).unwrap();
        assert!(!self.1, "as planned");
    }
}

fn telling(builder: interplay::slave::Builder) -> (Slave, Receiver<(String, Lost)>) {
    let (tell, told) = unbounded();
    (builder.start(Telling(tell, false)).unwrap(), told)
}

/// A slave of a scripted master.
fn of(master: &Peer, slave: &Slave) -> ByHand {
    let hand = ByHand::new(slave.local_addr(), "t");
    assert_eq!(hand.connect(&master.url()), OK);
    hand
}

#[test]
fn a_beat_carries_channel_token_and_an_empty_object_to_the_masters_path() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let slave = slave().start(|data: Value| Ok(data)).unwrap();
        let hand = ByHand::new(slave.local_addr(), "the token");
        assert_eq!(hand.connect(&format!("{}/a/b/", master.url())), OK);
        let beat = master.first("GET /a/b/slave/heartbeat");
        assert_eq!(beat.header("Channel"), CHANNEL.to_string());
        assert_eq!(beat.token(), "the token");
        assert_eq!(beat.json(), json!({}));
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        let report = master.first("PUT /a/b/slave/task/complete");
        assert_eq!(report.token(), "the token");
        assert_eq!(
            report.json(),
            json!({"task": {"id": id(1)}, "result": {"n": 1}})
        );
        assert_eq!(slave.master(), Some(format!("{}/a/b/", master.url())));
    });
}

#[test]
fn the_first_beat_comes_within_one_span() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let slave = slave()
            .heartbeat_span(secs(5))
            .start(|data: Value| Ok(data))
            .unwrap();
        let before = Instant::now();
        of(&master, &slave);
        assert!(master.first(BEAT).at - before < secs(5));
    });
}

#[test]
fn beats_come_every_span_while_connected_and_not_more_often() {
    deadline(LIMIT, || {
        let master = Peer::start();
        // Zero is raised to the minimum of 0.2 s.
        let slave = slave()
            .heartbeat_span(Duration::ZERO)
            .start(|data: Value| Ok(data))
            .unwrap();
        pause(ms(300));
        assert_eq!(master.seen(BEAT).len(), 0, "not before it is connected");
        let hand = of(&master, &slave);
        let sixth = master.nth(6, BEAT).at;
        assert!(sixth - master.first(BEAT).at > ms(600));
        assert_eq!(hand.disconnect(), OK);
        let count = master.seen(BEAT).len();
        pause(ms(700));
        let more = master.seen(BEAT).len() - count;
        assert!(more <= 1, "one may have been in flight, none came after");
    });
}

#[test]
fn a_stalled_beat_is_not_made_up_for_in_a_burst() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let slave = slave().start(|data: Value| Ok(data)).unwrap();
        let (answer, held) = success().later();
        master.on(BEAT, held);
        of(&master, &slave);
        master.first(BEAT);
        pause(ms(2000)); // ten spans
        let released = Instant::now();
        answer.send(()).unwrap();
        master.nth(3, BEAT);
        pause(ms(200)); // for a burst to show
        let soon =
            |beat: &support::peer::Request| beat.at > released && beat.at < released + ms(150);
        assert!(master.seen(BEAT).iter().filter(|beat| soon(beat)).count() <= 2);
    });
}

#[test]
fn a_refused_beat_is_repeated_and_then_the_slave_is_free_for_others() {
    deadline(LIMIT, || {
        let master = Peer::start();
        master.always(BEAT, failure(403, 502));
        let (slave, told) = telling(slave().request_retries(3));
        let hand = of(&master, &slave);
        let (address, lost) = told.recv_timeout(LIMIT).unwrap();
        assert_eq!(address, master.url());
        let Lost::Refused { refusal } = lost else {
            panic!("{lost:?}")
        };
        assert_eq!(
            (refusal.status, refusal.code),
            (403, MasterCode::SlaveTokenInvalid)
        );
        assert_eq!(slave.master(), None);
        assert_eq!(
            master.seen(BEAT).len(),
            4,
            "as many attempts as retries allow"
        );
        assert_eq!(hand.task(&id(1), &json!({})), (403, 302));

        // Its heartbeat is alive for the next master.
        let next = Peer::start();
        of(&next, &slave);
        next.nth(3, BEAT);
        assert!(told.is_empty());
        assert_eq!(master.seen(BEAT).len(), 4);
    });
}

#[test]
fn a_beat_that_fails_in_any_way_counts_and_one_that_is_answered_forgives() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (slave, told) = telling(slave().request_retries(2));
        // Never more than two in a row; a master refuses until it has registered its slave.
        for act in [
            failure(403, 502),
            page(500),
            Act::Cut,
            Act::CutAnswer,
            failure(401, 101),
        ] {
            master.times(2, BEAT, act).on(BEAT, success());
        }
        of(&master, &slave);
        master.nth(17, BEAT);
        assert!(told.is_empty());
        assert_eq!(slave.master(), Some(master.url()));

        for act in [page(500), Act::Cut] {
            let count = master.seen(BEAT).len();
            master.always(BEAT, act);
            let (_, lost) = told.recv_timeout(LIMIT).unwrap();
            assert!(matches!(lost, Lost::Unreachable { .. }), "{lost:?}");
            assert!(master.seen(BEAT).len() >= count + 3);
            master.clear(BEAT);
            of(&master, &slave);
        }
    });
}

#[test]
fn zero_retries_lose_a_master_at_the_first_missed_beat() {
    deadline(LIMIT, || {
        let master = Peer::absent();
        let (slave, told) = telling(slave().request_retries(0));
        of(&master, &slave);
        told.recv_timeout(LIMIT).unwrap();
        assert_eq!(slave.master(), None);
    });
}

#[test]
fn a_silent_master_is_noticed() {
    deadline(LIMIT, || {
        let master = Peer::start();
        master.always(BEAT, Act::Silent);
        let (slave, told) = telling(slave().request_retries(0));
        let before = Instant::now();
        of(&master, &slave);
        let (_, lost) = told.recv_timeout(LIMIT).unwrap();
        assert!(matches!(lost, Lost::Unreachable { .. }));
        assert!(before.elapsed() >= secs(5), "a beat is given five seconds");
        assert_eq!(slave.master(), None);
    });
}

#[test]
fn the_end_of_an_old_connection_does_not_touch_a_new_one() {
    deadline(LIMIT, || {
        let (first, second) = (Peer::start(), Peer::start());
        let (answer, held) = failure(403, 502).later();
        first.on(BEAT, held);
        let (slave, told) = telling(slave().request_retries(0));
        let hand = of(&first, &slave);
        first.first(BEAT);
        // A beat is under way while the connection ends and another begins.
        assert_eq!(hand.disconnect(), OK);
        let hand = ByHand::new(slave.local_addr(), "second");
        assert_eq!(hand.connect(&second.url()), OK);
        answer.send(()).unwrap();
        assert_eq!(second.nth(3, BEAT).token(), "second");
        assert!(told.is_empty());
        assert_eq!(slave.master(), Some(second.url()));
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        second.first("PUT /slave/task/complete");
    });
}

#[test]
fn a_hook_that_panics_at_the_loss_leaves_the_slave_free_and_beating() {
    deadline(LIMIT, || {
        let (tell, told) = unbounded();
        let slave = slave()
            .request_retries(0)
            .start(Telling(tell, true))
            .unwrap();
        for _ in 0..2 {
            let master = Peer::start();
            master.on(BEAT, success()).on(BEAT, Act::Cut);
            of(&master, &slave);
            let (address, _) = told.recv_timeout(LIMIT).unwrap();
            assert_eq!(address, master.url());
            assert_eq!(slave.master(), None);
        }
        slave.close().unwrap();
    });
}

#[test]
fn the_slave_is_free_before_its_hook_is_told_of_the_loss() {
    struct Holding(Sender<()>, Receiver<()>);
    impl Worker for Holding {
        fn process(&self, data: Value) -> Result<Value, TaskFail> {
            Ok(data)
        }
        fn lost_connection(&self, _: &str, _: &Lost) {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
        }
    }
    deadline(LIMIT, || {
        let (tell, told) = unbounded();
        let (go, may_go) = unbounded();
        let slave = slave()
            .request_retries(0)
            .start(Holding(tell, may_go))
            .unwrap();
        let gone = Peer::absent();
        of(&gone, &slave);
        told.recv_timeout(LIMIT).unwrap();
        let next = Peer::start();
        of(&next, &slave);
        assert_eq!(slave.master(), Some(next.url()));
        go.send(()).unwrap();
        next.first(BEAT);
    });
}

struct Losses(Sender<(String, Loss)>);

impl Hooks for Losses {
    fn slave_lost(&self, slave: &str, loss: &Loss) {
        self.0.send((slave.to_owned(), loss.clone())).unwrap();
    }
}

fn scripted(master: &Master, name: &str) -> (Peer, Connection) {
    let peer = Peer::start();
    let connection = master
        .new_connection(name, &peer.addr().to_string())
        .unwrap();
    connection.connect().unwrap();
    (peer, connection)
}

#[test]
fn a_slave_that_beats_stays_and_one_that_stops_is_lost_not_before_the_tolerance() {
    deadline(LIMIT, || {
        let (lost, losses) = unbounded();
        let master = master()
            .heartbeat_tolerance(secs(3))
            .hooks(Losses(lost))
            .start()
            .unwrap();
        let slave = slave().start(|data: Value| Ok(data)).unwrap();
        let beating = master
            .new_connection("beating", &slave.local_addr().to_string())
            .unwrap();
        beating.connect().unwrap();
        let (peer, by_hand) = scripted(&master, "by hand");
        let token = peer.first("POST /connect").token();
        let mut last = Instant::now();
        for _ in 0..8 {
            pause(ms(500));
            last = Instant::now();
            assert_eq!(beat(master.local_addr(), &token), OK);
        }
        assert!(by_hand.is_connected() && losses.is_empty());
        let (name, loss) = losses.recv_timeout(LIMIT).unwrap();
        assert!(last.elapsed() >= secs(3));
        assert_eq!(name, "by hand");
        assert!(matches!(loss, Loss::Silent { after } if after >= secs(3)));
        assert!(!by_hand.is_connected() && beating.is_connected());
    });
}

#[test]
fn settings_of_zero_are_raised_to_the_minimum() {
    deadline(LIMIT, || {
        let (lost, losses) = unbounded();
        let master = master()
            .heartbeat_tolerance(Duration::ZERO)
            .heartbeat_check_span(Duration::ZERO)
            .hooks(Losses(lost))
            .start()
            .unwrap();
        let _slave = scripted(&master, "w");
        let (_, loss) = losses.recv_timeout(LIMIT).unwrap();
        assert!(matches!(loss, Loss::Silent { after } if after >= ms(200)));
    });
}

#[test]
fn sweeps_that_race_with_disconnects_harm_neither() {
    deadline(LIMIT, || {
        let (lost, losses) = unbounded();
        let master = master()
            .heartbeat_tolerance(ms(200))
            .hooks(Losses(lost))
            .start()
            .unwrap();
        let master = Arc::new(master);
        let racing: Vec<_> = (0..8)
            .map(|n| {
                let master = master.clone();
                spawn("racing", move || {
                    for round in 0..6 {
                        let (peer, worker) = scripted(&master, &format!("{n}.{round}"));
                        let token = peer.first("POST /connect").token();
                        // About when the sweeper comes.
                        pause(ms(180 + 10 * ((n + round) % 8)));
                        assert_eq!(beat(master.local_addr(), &token), OK);
                        // The sweeper may be telling it right now.
                        eventually(LIMIT, || match worker.disconnect() {
                            Err(interplay::master::Error::InProgress { .. }) => false,
                            Ok(_) | Err(interplay::master::Error::NotConnected { .. }) => true,
                            Err(other) => panic!("{other:?}"),
                        });
                        assert!(!worker.is_connected());
                    }
                })
            })
            .collect();
        for thread in racing {
            thread.join().unwrap();
        }
        // The sweeper goes on.
        let _last = scripted(&master, "last");
        eventually(LIMIT, || losses.try_iter().any(|(name, _)| name == "last"));
        let port = master.local_addr().port();
        let running = threads_of(&format!("m{port}"));
        if !running.is_empty() {
            assert_eq!(
                running.get(&format!("m{port}-sweeper")),
                Some(&1),
                "{running:?}"
            );
        }
    });
}
