//! Slaves that come late, come back, go, or never come.

use std::net::TcpListener;

use interplay::pool::{Error, JobError, Options, SlaveState};
use serde_json::{Value, json};

use crate::support::peer::{Peer, failure};
use crate::support::{LIMIT, client, deadline, eventually, master, ms, secs, slave};
use crate::{Hand, Notes, address, echo, kind, stands, state_of, up};

#[test]
fn a_slave_that_is_not_up_yet_is_waited_for() {
    deadline(LIMIT, || {
        let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = reserved.local_addr().unwrap().port();
        drop(reserved);
        let master = master().start().unwrap();
        let pool = master
            .pool()
            .slave("w", format!("127.0.0.1:{port}"))
            .start()
            .unwrap();
        let job = pool.submit(1).unwrap();
        assert!(matches!(
            pool.wait_for(1, ms(300)),
            Err(Error::TooFewSlaves {
                wanted: 1,
                connected: 0
            })
        ));
        let trouble = pool.snapshot().slaves[0].trouble.clone().unwrap();
        assert!(trouble.contains("\"w\""), "{trouble}");
        let _slave = slave().port(port).start(|data: Value| Ok(data)).unwrap();
        pool.wait_for(1, LIMIT).unwrap();
        assert_eq!(job.join().unwrap(), 1);
        assert_eq!(pool.snapshot().slaves[0].trouble, None);
    });
}

#[test]
fn a_slave_that_never_comes_is_given_up_and_its_tasks_end() {
    deadline(LIMIT, || {
        let (there, _) = echo();
        let away = Peer::absent();
        let master = master().start().unwrap();
        let notes = Notes::default();
        let builder = (master.pool())
            .connect_deadline(ms(300))
            .observer(notes.clone())
            .slave("there", address(&there))
            .slave("away", away.addr().to_string());
        let pool = up(builder, 1);
        let job = pool.submit_with(1, &Options::new().on("away")).unwrap();
        assert_eq!(kind(&job.join().unwrap_err()), "no slave");
        assert_eq!(state_of(&pool, "away"), Some(SlaveState::GivenUp));
        assert_eq!(notes.count("away given up"), 1);
        let nobody = pool.submit_with(1, &Options::new().on("away"));
        assert!(matches!(nobody, Err(Error::UnknownSlave { .. })));
        assert!(
            pool.submit(2).unwrap().join().is_ok(),
            "the other one works"
        );
        assert!(matches!(
            pool.wait_for(2, LIMIT),
            Err(Error::TooFewSlaves { .. })
        ));
        pool.remove_slave("away").unwrap();
        assert_eq!(state_of(&pool, "away"), None);
        let (late, _) = echo();
        pool.add_slave::<&str>("away", &address(&late), []).unwrap();
        pool.wait_for(2, LIMIT).unwrap();
    });
}

#[test]
fn a_pool_whose_slaves_are_all_given_up_ends_its_tasks_and_takes_no_more() {
    deadline(LIMIT, || {
        let away = Peer::absent();
        let master = master().start().unwrap();
        let builder = (master.pool())
            .connect_deadline(ms(200))
            .slave("away", away.addr().to_string());
        let pool = builder.start().unwrap();
        let jobs: Vec<_> = (0..5).map(|n| pool.submit(n).unwrap()).collect();
        for job in jobs {
            assert!(matches!(job.join(), Err(JobError::NoSlave { last: None })));
        }
        assert!(matches!(pool.submit(1), Err(Error::NoSlaves)));
        let results: Vec<_> = pool
            .map::<u64, _>([1, 2])
            .map(|(_, result)| result)
            .collect();
        assert!(
            results
                .iter()
                .all(|result| kind(result.as_ref().unwrap_err()) == "no slave")
        );
        assert_eq!(results.len(), 2);
    });
}

#[test]
fn a_slave_that_was_restarted_on_its_port_is_connected_again() {
    deadline(LIMIT, || {
        let (first, _) = echo();
        let port = first.local_addr().port();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", address(&first)), 1);
        assert_eq!(pool.submit(1).unwrap().join().unwrap(), 1);
        drop(first);
        let job = pool.submit_with(2, &Options::new().lost_limit(0)).unwrap();
        let _second = slave()
            .port(port)
            .start(|data: Value| Ok(json!(["again", data])))
            .unwrap();
        assert_eq!(
            job.join().unwrap(),
            json!(["again", 2]),
            "it had not begun, and was not lost"
        );
        assert_eq!(pool.snapshot().slaves[0].losses, 1);
    });
}

#[test]
fn a_slave_that_forgot_its_master_is_connected_again_at_once() {
    deadline(LIMIT, || {
        let peer = Peer::start();
        peer.on("POST /task/new", failure(403, 302));
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", peer.addr().to_string()), 1);
        let job = pool
            .submit_with(1, &Options::new().lost_limit(0).idempotent(false))
            .unwrap();
        peer.nth(2, "POST /task/new");
        assert_eq!(
            peer.routes(),
            [
                "POST /connect",
                "POST /task/new",
                "POST /connect",
                "POST /task/new"
            ]
        );
        job.cancel();
    });
}

#[test]
fn an_idle_slave_that_falls_silent_is_connected_again() {
    deadline(LIMIT, || {
        let peer = Peer::start(); // never beats
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let notes = Notes::default();
        let builder = master.pool().slave("w", peer.addr().to_string());
        let pool = up(builder.observer(notes.clone()), 1);
        peer.nth(3, "POST /connect");
        assert!(
            notes.all().starts_with(
                &["w connecting", "w free", "w connecting", "w free"].map(str::to_owned)
            )
        );
        drop(pool);
    });
}

#[test]
fn a_slave_can_be_added_and_removed_while_it_works() {
    deadline(LIMIT, || {
        let (one, two) = (Hand::start(), Hand::start());
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w1", one.address()), 1);
        let jobs: Vec<_> = (1..4).map(|n| pool.submit(n).unwrap()).collect();
        assert_eq!(one.begins(), 1);
        pool.add_slave("w2", &two.address(), ["new"]).unwrap();
        assert_eq!(two.begins(), 2);
        pool.remove_slave("w1").unwrap();
        assert_eq!(state_of(&pool, "w1"), Some(SlaveState::Leaving));
        assert!(matches!(
            pool.remove_slave("w1"),
            Err(Error::UnknownSlave { .. })
        ));
        assert!(one.slave.master().is_some(), "it is at work");
        one.ends(json!("first"));
        assert_eq!(jobs[0].join().unwrap(), "first");
        eventually(LIMIT, || state_of(&pool, "w1").is_none());
        assert!(one.slave.master().is_none(), "it was disconnected");
        assert!(one.is_idle());
        two.ends(json!("second"));
        two.ends(json!("third"));
        assert_eq!(jobs[2].join().unwrap(), "third");
        pool.add_slave::<&str>("w1", &one.address(), []).unwrap();
        pool.wait_for(2, LIMIT).unwrap();
    });
}

#[test]
fn removing_the_last_slave_for_a_task_ends_it() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let jobs = [1, 2].map(|n| pool.submit_with(n, &Options::new().retries(1)).unwrap());
        hand.begins();
        pool.remove_slave("w").unwrap();
        assert_eq!(kind(&jobs[1].join().unwrap_err()), "no slave");
        hand.fails(json!("failed"));
        let end = jobs[0].join().unwrap_err();
        assert!(matches!(&end, JobError::NoSlave { last: Some(last) } if kind(last) == "failed"));
    });
}

#[test]
fn a_slave_that_still_works_on_a_lost_task_is_let_report_before_it_is_taken_back() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().heartbeat_tolerance(secs(120)).start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let jobs = [1, 2].map(|n| {
            pool.submit_with(n, &Options::new().idempotent(false))
                .unwrap()
        });
        hand.begins();
        // The first answer to a connect of a slave that is ours already is that it has a master.
        let _ = pool.close(ms(0));
        assert_eq!(kind(&jobs[0].join().unwrap_err()), "closed");
        let next = master.pool().slave("w", hand.address()).start().unwrap();
        let job = next.submit(3).unwrap();
        stands(&next, "w", SlaveState::Connecting);
        assert!(job.join_timeout(ms(300)).is_err(), "it is at work");
        assert!(hand.slave.master().is_some());
        hand.ends(json!("nobody wants it"));
        assert_eq!(hand.begins(), 3);
        hand.ends(json!("third"));
        assert_eq!(job.join().unwrap(), "third");
    });
}

#[test]
fn a_lost_slave_that_says_it_has_a_master_is_not_disconnected_before_it_has_reported() {
    deadline(LIMIT, || {
        let peer = Peer::start();
        let master = master().heartbeat_tolerance(ms(500)).start().unwrap();
        let pool = up(master.pool().slave("w", peer.addr().to_string()), 1);
        let job = pool
            .submit_with(json!({}), &Options::new().idempotent(false))
            .unwrap();
        let task = peer.first("POST /task/new");
        peer.always("POST /connect", failure(400, 501));
        assert_eq!(kind(&job.join().unwrap_err()), "lost");
        peer.nth(4, "POST /connect");
        let (addr, token) = (master.local_addr(), task.token());
        assert_eq!(
            client::beat(addr, &token),
            (200, 0),
            "it goes on as if nothing had happened"
        );
        peer.nth(peer.seen("POST /connect").len() + 1, "POST /connect");
        assert_eq!(peer.seen("DELETE /disconnect").len(), 0, "it is at work");
        let report = client::complete(addr, &token, &task.task_id(), &json!("late"));
        assert_eq!(report, (200, 0));
        peer.first("DELETE /disconnect");
        peer.clear("POST /connect");
        pool.wait_for(1, LIMIT).unwrap();
    });
}
