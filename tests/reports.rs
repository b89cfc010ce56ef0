//! Every accepted task is reported exactly once, to the master it came from, for as long as that is wanted.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::master::TaskError;
use interplay::slave::{Builder, Slave, TaskFail};
use serde_json::{Value, json};

use support::client::{ByHand, OK, id};
use support::peer::{Act, Peer, envelope, failure, page, success};
use support::{LIMIT, deadline, eventually, ms, pause, secs, slave, spawn};

const COMPLETE: &str = "PUT /slave/task/complete";
const FAIL: &str = "PUT /slave/task/fail";

/// A slave that echoes.
fn echoing(master: &Peer, builder: Builder) -> (Slave, ByHand) {
    let slave = builder.start(|data: Value| Ok(data)).unwrap();
    let hand = connected(&slave, master, "t");
    (slave, hand)
}

fn connected(slave: &Slave, master: &Peer, token: &str) -> ByHand {
    let hand = ByHand::new(slave.local_addr(), token);
    assert_eq!(hand.connect(&master.url()), OK);
    hand
}

/// The test's side of a worker that says when it begins and waits until it may end.
struct Held {
    begun: Receiver<Value>,
    go: Sender<()>,
}

fn held(builder: Builder) -> (Slave, Held) {
    let (begin, begun) = unbounded();
    let (go, may_go) = unbounded::<()>();
    let work = move |data: Value| {
        begin.send(data.clone()).unwrap();
        // The test may be over.
        may_go.recv().map_err(TaskFail::from)?;
        Ok(data)
    };
    (builder.start(work).unwrap(), Held { begun, go })
}

/// The ids that were reported as completed, in order.
fn completed(master: &Peer) -> Vec<String> {
    master
        .seen(COMPLETE)
        .iter()
        .map(support::peer::Request::task_id)
        .collect()
}

#[test]
fn a_report_without_an_answer_is_repeated_until_it_is_delivered() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (_slave, hand) = echoing(&master, slave().request_retries(1));
        // More failures than retries: an outcome outlives them.
        for act in [Act::Cut, Act::CutAnswer, Act::Cut, Act::Cut, Act::CutAnswer] {
            master.on(COMPLETE, act);
        }
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        let last = master.nth(6, COMPLETE);
        assert_eq!(hand.task(&id(2), &json!({"n": 2})), OK, "the place is free");
        master.nth(7, COMPLETE);
        let reports = master.seen(COMPLETE);
        assert!(
            reports[..6]
                .iter()
                .all(|report| report.body == last.body && report.token() == "t")
        );
        assert_eq!(
            last.json(),
            json!({"task": {"id": id(1)}, "result": {"n": 1}})
        );
        assert_eq!(reports[6].task_id(), id(2));
        pause(ms(300));
        assert_eq!(
            master.seen(COMPLETE).len(),
            7,
            "nothing is sent again that was answered"
        );
        assert_eq!(master.seen(FAIL).len(), 0);
    });
}

#[test]
fn a_result_survives_a_master_that_is_away_for_a_while() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (slave, held) = held(slave().request_retries(100_000));
        let hand = connected(&slave, &master, "t");
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        held.begun.recv_timeout(LIMIT).unwrap();
        master.set_away(true);
        held.go.send(()).unwrap();
        pause(ms(800));
        assert_eq!(master.seen(COMPLETE).len(), 0);
        master.set_away(false);
        assert_eq!(master.first(COMPLETE).task_id(), id(1));
        assert_eq!(slave.master(), Some(master.url()));
        pause(ms(200));
        assert_eq!(completed(&master), [id(1)]);
    });
}

#[test]
fn a_report_that_nobody_wants_is_dropped_and_the_slave_goes_on() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (_slave, hand) = echoing(&master, slave());
        let answers = [failure(403, 502), failure(401, 101), page(200)];
        let mut number = 0;
        for act in answers {
            number += 1;
            master.on(COMPLETE, act);
            assert_eq!(hand.task(&id(number), &json!({"n": number})), OK);
            master.nth(number as usize, COMPLETE);
        }
        assert_eq!(hand.task(&id(4), &json!({})), OK);
        master.nth(4, COMPLETE);
        assert_eq!(
            completed(&master),
            [1, 2, 3, 4].map(id),
            "each is sent once"
        );
        assert_eq!(master.seen(FAIL).len(), 0);
    });
}

#[test]
fn a_result_the_master_does_not_take_ends_the_task_as_failed() {
    deadline(LIMIT, || {
        let peer = Peer::start();
        let (_slave, hand) = echoing(&peer, slave());
        let no_with_a_good_status = envelope(200, false, 601, "Too long.", &Value::Null);
        for (number, act) in [
            failure(413, 1),
            failure(400, 601),
            page(500),
            no_with_a_good_status,
        ]
        .into_iter()
        .enumerate()
        {
            let (nth, id) = (number + 1, id(u32::try_from(number).unwrap()));
            peer.on(COMPLETE, act);
            assert_eq!(hand.task(&id, &json!({"n": 1})), OK);
            let report = peer.nth(nth, FAIL);
            assert_eq!(report.task_id(), id);
            assert_eq!(report.json()["result"]["error"], "Refused");
            assert_eq!(peer.seen(COMPLETE).len(), nth);
        }
        // The last word is said once.
        peer.on(COMPLETE, failure(400, 601))
            .on(FAIL, failure(400, 601));
        assert_eq!(hand.task(&id(8), &json!({"n": 1})), OK);
        peer.nth(5, FAIL);
        assert_eq!(hand.task(&id(9), &json!({"n": 1})), OK);
        peer.nth(6, COMPLETE);
        assert_eq!(peer.seen(FAIL).len(), 5);

        let master = support::master().max_body(10_000).start().unwrap();
        let long = slave()
            .start(|_: Value| Ok(json!("x".repeat(20_000))))
            .unwrap();
        let worker = master
            .new_connection("w", &long.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        let task = worker.new_task(json!({})).unwrap().start().unwrap();
        let Err(TaskError::Failed { result }) = task.join() else {
            panic!("{task:?}")
        };
        assert!(
            result["message"].as_str().unwrap().contains("10000"),
            "{result}"
        );
    });
}

#[test]
fn a_report_that_comes_at_a_bad_moment_is_repeated() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (_slave, hand) = echoing(&master, slave());
        // A master that reads as many long bodies as it can, a proxy whose master is away.
        for act in [failure(503, 1), page(502), page(503), page(504)] {
            let count = master.seen(COMPLETE).len();
            master.times(2, COMPLETE, act);
            let number = u32::try_from(count).unwrap() + 1;
            assert_eq!(hand.task(&id(number), &json!({"n": 1})), OK);
            assert_eq!(master.nth(count + 3, COMPLETE).task_id(), id(number));
            assert_eq!(master.nth(count + 1, COMPLETE).task_id(), id(number));
        }
    });
}

#[test]
fn the_place_is_free_before_the_report_is_sent_and_for_one_task_only() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (answer, waiting) = success().later();
        master.on(COMPLETE, waiting);
        let (_slave, hand) = echoing(&master, slave());
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        master.first(COMPLETE);
        assert_eq!(hand.task(&id(2), &json!({"n": 2})), OK);
        assert_eq!(hand.task(&id(3), &json!({"n": 3})), (400, 601));
        assert_eq!(hand.task(&id(2), &json!({"n": 2})), OK, "repeated");
        answer.send(()).unwrap();
        assert_eq!(master.nth(2, COMPLETE).json()["result"], json!({"n": 2}));
        assert_eq!(hand.task(&id(3), &json!({"n": 3})), OK);
        master.nth(3, COMPLETE);
        assert_eq!(completed(&master), [id(1), id(2), id(3)]);
    });
}

#[test]
fn the_result_of_a_task_whose_connection_ended_is_discarded() {
    deadline(LIMIT, || {
        let (first, second) = (Peer::start(), Peer::start());
        let (slave, held) = held(slave());
        let hand = connected(&slave, &first, "first");
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        held.begun.recv_timeout(LIMIT).unwrap();
        assert_eq!(
            hand.disconnect(),
            OK,
            "a running task does not prevent this"
        );

        // Another master comes while the old task runs.
        let other = connected(&slave, &second, "second");
        assert_eq!(other.task(&id(2), &json!({"n": 2})), (400, 601));
        held.go.send(()).unwrap();
        eventually(LIMIT, || other.task(&id(2), &json!({"n": 2})) == OK);
        held.begun.recv_timeout(LIMIT).unwrap();
        held.go.send(()).unwrap();
        assert_eq!(
            second.first(COMPLETE).json(),
            json!({"task": {"id": id(2)}, "result": {"n": 2}})
        );

        // And the first one with the same token again.
        assert_eq!(other.disconnect(), OK);
        assert_eq!(hand.connect(&first.url()), OK);
        assert_eq!(
            hand.task(&id(1), &json!({"n": 3})),
            OK,
            "ids are known by their connection"
        );
        assert_eq!(held.begun.recv_timeout(LIMIT).unwrap(), json!({"n": 3}));
        held.go.send(()).unwrap();
        assert_eq!(first.first(COMPLETE).json()["result"], json!({"n": 3}));
        assert_eq!(
            (completed(&first), completed(&second)),
            (vec![id(1)], vec![id(2)])
        );
    });
}

#[test]
fn nothing_is_reported_after_the_connection_has_ended() {
    deadline(LIMIT, || {
        let master = Peer::start();
        master.always(COMPLETE, Act::Cut);
        let (slave, hand) = echoing(&master, slave());
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        master.nth(3, COMPLETE);
        assert_eq!(hand.disconnect(), OK);
        master.clear(COMPLETE);
        let count = master.seen(COMPLETE).len();
        let next = Peer::start();
        let other = connected(&slave, &next, "next");
        assert_eq!(other.task(&id(2), &json!({"n": 2})), OK);
        next.first(COMPLETE);
        pause(ms(200));
        assert!(
            master.seen(COMPLETE).len() <= count + 1,
            "one may have been in flight"
        );
        assert_eq!(completed(&next), [id(2)]);
    });
}

#[test]
fn a_disconnect_ends_a_report_that_waits_for_a_silent_master() {
    deadline(LIMIT, || {
        let master = Peer::start();
        master.always(COMPLETE, Act::Silent);
        let (slave, hand) = echoing(&master, slave().request_timeout(secs(600)));
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        master.first(COMPLETE);
        assert_eq!(hand.disconnect(), OK);
        let next = Peer::start();
        let other = connected(&slave, &next, "next");
        assert_eq!(other.task(&id(2), &json!({"n": 2})), OK);
        next.first(COMPLETE);
    });
}

#[test]
fn a_lost_master_ends_the_report_too() {
    deadline(LIMIT, || {
        let master = Peer::start();
        master.always(COMPLETE, Act::Cut);
        let (slave, hand) = echoing(&master, slave().request_retries(0));
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        master.nth(2, COMPLETE);
        master.set_away(true);
        eventually(LIMIT, || slave.master().is_none());
        let next = Peer::start();
        let other = connected(&slave, &next, "next");
        assert_eq!(other.task(&id(2), &json!({"n": 2})), OK);
        next.first(COMPLETE);
    });
}

#[test]
fn every_accepted_task_is_reported_exactly_once_with_its_own_result() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (_slave, hand) = echoing(&master, slave());
        // Four who offer at once; each accepted task belongs to one of them.
        let offering: Vec<_> = (0..4)
            .map(|who| {
                let hand = hand.clone();
                spawn("offering", move || {
                    let offer =
                        |n: u32| hand.task(&id(who * 1000 + n), &json!({"who": who, "n": n}));
                    (0..60)
                        .filter(|n| offer(*n) == OK)
                        .map(|n| id(who * 1000 + n))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut accepted: Vec<String> = offering
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        master.nth(accepted.len(), COMPLETE);
        pause(ms(100));
        for report in master.seen(COMPLETE) {
            let result = &report.json()["result"];
            let number = result["who"].as_u64().unwrap() * 1000 + result["n"].as_u64().unwrap();
            assert_eq!(report.task_id(), id(u32::try_from(number).unwrap()));
        }
        let mut reported = completed(&master);
        reported.sort_unstable();
        accepted.sort_unstable();
        assert_eq!(reported, accepted);
        assert_eq!(master.seen(FAIL).len(), 0);
    });
}

#[test]
fn a_task_that_ends_within_the_grace_of_a_shutdown_is_reported() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (slave, held) = held(slave().grace(secs(30)));
        let hand = connected(&slave, &master, "t");
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        held.begun.recv_timeout(LIMIT).unwrap();
        slave.shutdown();
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), (401, 101));
        held.go.send(()).unwrap();
        slave.join().unwrap();
        assert_eq!(master.first(COMPLETE).json()["result"], json!({"n": 1}));
        assert_eq!(
            (master.seen(COMPLETE).len(), master.seen(FAIL).len()),
            (1, 0)
        );
    });
}

#[test]
fn a_task_that_does_not_end_within_the_grace_is_reported_as_failed_once() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (slave, held) = held(slave().grace(ms(300)));
        let hand = connected(&slave, &master, "t");
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        held.begun.recv_timeout(LIMIT).unwrap();
        let leftover = slave.close().unwrap_err();
        let name = format!("s{}-task", slave.local_addr().port());
        assert_eq!(leftover.threads, [name]);
        let report = master.first(FAIL);
        assert_eq!(report.task_id(), id(1));
        assert_eq!(report.json()["result"]["error"], "Stopped");
        held.go.send(()).unwrap();
        slave.close().unwrap();
        assert_eq!(
            (master.seen(COMPLETE).len(), master.seen(FAIL).len()),
            (0, 1)
        );
    });
}

#[test]
fn a_result_that_is_under_way_at_the_shutdown_is_not_called_a_failure() {
    deadline(LIMIT, || {
        let master = Peer::start();
        let (answer, waiting) = success().later();
        master.on(COMPLETE, waiting);
        let (slave, hand) = echoing(&master, slave().grace(ms(300)));
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        master.first(COMPLETE);
        // Another one waits for its turn.
        assert_eq!(hand.task(&id(2), &json!({"n": 2})), OK);
        slave.close().unwrap();
        drop(answer);
        let failed: Vec<_> = master
            .seen(FAIL)
            .iter()
            .map(support::peer::Request::task_id)
            .collect();
        assert_eq!(
            failed,
            [id(2)],
            "a second report for a task ends a Python master's results thread"
        );
        assert_eq!(completed(&master), [id(1)]);
    });
}
