//! Which slave gets which task, and when none does.

use std::collections::BTreeSet;

use interplay::pool::{Error, JobState, Options, SlaveState};
use interplay::slave::{Refuse, TaskFail, Worker};
use serde_json::{Value, json};

use crate::support::peer::{Peer, failure};
use crate::support::{LIMIT, deadline, eventually, master, secs, slave};
use crate::{Hand, address, echo, kind, state_of, up};

#[test]
fn tasks_go_to_free_slaves_and_the_rest_waits() {
    deadline(LIMIT, || {
        let (one, two) = (Hand::start(), Hand::start());
        let master = master().start().unwrap();
        let builder = master
            .pool()
            .slave("w1", one.address())
            .slave("w2", two.address());
        let pool = up(builder, 2);
        let jobs: Vec<_> = (0..3)
            .map(|n| pool.submit(json!({"n": n})).unwrap())
            .collect();
        let begun: BTreeSet<u64> = [one.begins(), two.begins()]
            .map(|data| data["n"].as_u64().unwrap())
            .into();
        assert_eq!(begun, [0, 1].into());
        assert_eq!(jobs[2].state(), JobState::Queued);
        assert!(one.is_idle() && two.is_idle());
        two.ends(json!("second"));
        assert_eq!(two.begins(), json!({"n": 2}));
        let slave = "w2".to_owned();
        assert_eq!(jobs[2].state(), JobState::Running { slave });
        one.ends(json!("first"));
        two.ends(json!("third"));
        assert_eq!(jobs[2].join().unwrap(), "third");
        pool.join();
        assert_eq!(jobs[0].state(), JobState::Ended);
    });
}

#[test]
fn a_task_may_ask_for_a_slave_by_name_or_by_label() {
    deadline(LIMIT, || {
        let ((one, one_did), (two, two_did)) = (echo(), echo());
        let master = master().start().unwrap();
        let builder =
            (master.pool())
                .slave("w1", address(&one))
                .slave_with("w2", address(&two), ["gpu"]);
        let pool = up(builder, 2);
        for options in [Options::new().on("w2"), Options::new().label("gpu")] {
            let jobs = [1, 2, 3].map(|n| pool.submit_with(n, &options).unwrap());
            assert!(jobs.iter().all(|job| job.join().is_ok()));
        }
        let did = || [&one_did, &two_did].map(|did| did.load(std::sync::atomic::Ordering::SeqCst));
        assert_eq!(did(), [0, 6]);
        let nobody = pool.submit_with(1, &Options::new().on("w3"));
        assert!(matches!(nobody, Err(Error::UnknownSlave { name }) if name == "w3"));
        let nobody = pool.submit_with(1, &Options::new().label("tpu"));
        assert!(matches!(nobody, Err(Error::UnknownLabels { labels }) if labels == ["tpu"]));
        let mut nobody = pool.map_with::<u64, _>([1], &Options::new().on("w3"));
        assert_eq!(kind(&nobody.next().unwrap().1.unwrap_err()), "no slave");
    });
}

#[test]
fn a_slave_that_is_busy_with_something_else_is_asked_again_later() {
    deadline(LIMIT, || {
        let busy = Peer::start();
        busy.times(2, "POST /task/new", failure(400, 601));
        let master = master().start().unwrap();
        let builder = master.pool().slave("busy", busy.addr().to_string());
        let pool = up(builder, 1);
        let options = Options::new().lost_limit(0).idempotent(false);
        let job = pool.submit_with(json!({}), &options).unwrap();
        busy.nth(3, "POST /task/new");
        eventually(LIMIT, || {
            state_of(&pool, "busy") == Some(SlaveState::Running)
        });
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.retried, snapshot.slaves[0].losses), (0, 0));
        assert!(job.cancel());
    });
}

#[test]
fn while_one_slave_is_busy_its_task_goes_to_another() {
    deadline(LIMIT, || {
        let busy = Peer::start();
        busy.always("POST /task/new", failure(400, 601));
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("busy", busy.addr().to_string()), 1);
        let job = pool.submit(7).unwrap();
        busy.first("POST /task/new");
        let (free, _) = echo();
        pool.add_slave::<&str>("free", &address(&free), []).unwrap();
        assert_eq!(job.join().unwrap(), 7);
    });
}

/// Refuses what is odd.
struct Picky;

impl Worker for Picky {
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        Ok(json!(["picky", data]))
    }

    fn before_task(&self, data: &Value) -> Result<(), Refuse> {
        match data["n"].as_u64() {
            Some(n) if n % 2 == 1 => Err(Refuse::new(json!({"odd": n}))),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_refused_task_goes_elsewhere_and_ends_when_all_have_refused_it() {
    deadline(LIMIT, || {
        let (picky, (easy, _)) = (slave().start(Picky).unwrap(), echo());
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("picky", address(&picky)), 1);
        let refused = pool.submit(json!({"n": 1})).unwrap().join().unwrap_err();
        assert_eq!(kind(&refused), "refused");
        let source = std::error::Error::source(&refused).unwrap();
        assert!(source.to_string().contains("\"picky\""), "{source}");
        pool.add_slave::<&str>("easy", &address(&easy), []).unwrap();
        pool.wait_for(2, LIMIT).unwrap();
        let results = pool.map::<Value, _>((0..40).map(|n| json!({"n": n})));
        assert!(results.into_iter().all(|(_, result)| result.is_ok()));
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.done, snapshot.dropped, snapshot.lost), (40, 1, 0));
    });
}

#[test]
fn a_pool_without_slaves_says_so() {
    deadline(LIMIT, || {
        let master = master().start().unwrap();
        let pool = master.pool().start().unwrap();
        assert!(matches!(pool.submit(1), Err(Error::NoSlaves)));
        let waited = pool.wait_for(1, secs(3600));
        let expected = |error: &Error| {
            matches!(
                error,
                Error::TooFewSlaves {
                    wanted: 1,
                    connected: 0
                }
            )
        };
        assert!(waited.is_err_and(|error| expected(&error)), "at once");
        let taken = master
            .pool()
            .slave("w", "127.0.0.1:1")
            .slave("w", "127.0.0.1:2");
        let error = taken.start().unwrap_err();
        assert!(matches!(error, Error::NameTaken { name } if name == "w"));
        let error = master.pool().slave("w", "http://").start().unwrap_err();
        assert!(matches!(error, Error::Master { .. }), "{error}");
        let error = master.pool().slave("", "127.0.0.1:1").start().unwrap_err();
        assert!(matches!(
            error,
            Error::Setting {
                setting: "name",
                ..
            }
        ));
    });
}
