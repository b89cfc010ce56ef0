//! What becomes of tasks that fail, are lost, late or not wanted any more.

use interplay::master::Hooks;
use interplay::pool::{JobError, JobState, Options, SlaveState};
use interplay::task::Loss;
use serde_json::{Value, json};

use crate::support::peer::{Act, Peer};
use crate::support::{LIMIT, deadline, master, ms, pause, secs};
use crate::{Hand, Notes, kind, stands, up};

#[test]
fn a_failed_task_ends_with_the_slaves_result_and_is_retried_if_asked() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let notes = Notes::default();
        let builder = master
            .pool()
            .slave("w", hand.address())
            .observer(notes.clone());
        let pool = up(builder, 1);
        hand.fails(json!({"why": "no data"}));
        let failed = pool.submit(1).unwrap().join().unwrap_err();
        assert!(matches!(failed, JobError::Failed { result } if result["why"] == "no data"));
        let job = pool
            .submit_with(2, &Options::new().retries(2).backoff(ms(1)))
            .unwrap();
        hand.fails(json!(1));
        hand.fails(json!(2));
        hand.ends(json!("in the end"));
        assert_eq!(job.join().unwrap(), "in the end");
        assert_eq!(notes.count("retried"), 2);
        assert_eq!(pool.snapshot().retried, 2);
    });
}

#[test]
fn a_task_whose_slave_is_lost_goes_to_another_if_it_may_run_twice() {
    deadline(LIMIT, || {
        let (silent, hand) = (Peer::start(), Hand::start());
        let master = master().heartbeat_tolerance(secs(2)).start().unwrap();
        let pool = up(master.pool().slave("silent", silent.addr().to_string()), 1);
        let job = pool.submit("moved").unwrap();
        silent.first("POST /task/new"); // accepted, and never heard of again
        pool.add_slave::<&str>("hand", &hand.address(), []).unwrap();
        assert_eq!(hand.begins(), "moved");
        let slave = "hand".to_owned();
        assert_eq!(job.state(), JobState::Running { slave });
        hand.ends(json!("done"));
        assert_eq!(job.join().unwrap(), "done");
        assert_eq!(pool.snapshot().retried, 1);
    });
}

#[test]
fn a_task_that_may_not_run_twice_is_lost_with_its_slave() {
    deadline(LIMIT, || {
        let peer = Peer::start(); // accepts a task, and is never heard of again
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let pool = up(master.pool().slave("w", peer.addr().to_string()), 1);
        let job = pool
            .submit_with(json!({}), &Options::new().idempotent(false))
            .unwrap();
        peer.first("POST /task/new");
        let lost = job.join().unwrap_err();
        let expected =
            |slave: &str, loss: &Loss| slave == "w" && matches!(loss, Loss::Silent { .. });
        assert!(
            matches!(&lost, JobError::Lost { slave, loss, losses: 1 } if expected(slave, loss))
        );
        assert_eq!(pool.snapshot().lost, 1);
    });
}

#[test]
fn a_task_is_lost_for_good_when_it_was_lost_too_often() {
    deadline(LIMIT, || {
        let peer = Peer::start();
        let master = master().heartbeat_tolerance(ms(300)).start().unwrap();
        let pool = up(master.pool().slave("w", peer.addr().to_string()), 1);
        let job = pool
            .submit_with(json!({}), &Options::new().lost_limit(2))
            .unwrap();
        let lost = job.join().unwrap_err();
        assert!(matches!(lost, JobError::Lost { losses: 3, .. }), "{lost}");
        assert_eq!(peer.seen("POST /task/new").len(), 3);
        let ids: std::collections::BTreeSet<String> = peer
            .seen("POST /task/new")
            .iter()
            .map(|request| request.task_id())
            .collect();
        assert_eq!(ids.len(), 3, "a slave tells tries apart");
    });
}

#[test]
fn an_offer_without_an_answer_may_have_arrived() {
    deadline(LIMIT, || {
        let peer = Peer::start();
        peer.always("POST /task/new", Act::Cut);
        let master = master().request_retries(1).start().unwrap();
        let pool = up(master.pool().slave("w", peer.addr().to_string()), 1);
        let job = pool
            .submit_with(json!({}), &Options::new().idempotent(false))
            .unwrap();
        let lost = job.join().unwrap_err();
        assert!(
            matches!(
                lost,
                JobError::Lost {
                    loss: Loss::Unanswered,
                    ..
                }
            ),
            "{lost}"
        );
    });
}

#[test]
fn an_offer_that_did_not_arrive_counts_for_nothing() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().request_retries(0).start().unwrap();
        let gone = Hand::start();
        let pool = up(master.pool().slave("gone", gone.address()), 1);
        let address = gone.address();
        drop(gone); // says nothing; its port is closed
        let job = pool
            .submit_with(json!(1), &Options::new().idempotent(false).lost_limit(0))
            .unwrap();
        stands(&pool, "gone", SlaveState::Connecting);
        pool.add_slave::<&str>("there", &hand.address(), [])
            .unwrap();
        assert_eq!(hand.begins(), 1);
        hand.ends(json!("done"));
        assert_eq!(job.join().unwrap(), "done", "{address} was not counted");
        assert_eq!(pool.snapshot().retried, 0);
    });
}

#[test]
fn a_task_that_is_late_ends_at_once_and_its_slave_goes_on() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let short = Options::new().deadline(ms(200));
        let jobs = [1, 2].map(|n| pool.submit_with(n, &short).unwrap());
        assert_eq!(hand.begins(), 1);
        for job in &jobs {
            assert_eq!(kind(&job.join().unwrap_err()), "deadline");
        }
        assert_eq!((pool.snapshot().running, pool.snapshot().open()), (0, 0));
        let next = pool.submit(3).unwrap();
        let waiting = next.join_timeout(ms(50)).unwrap_err();
        assert_eq!(kind(&waiting), "timed out");
        hand.ends(json!("too late"));
        assert_eq!(hand.begins(), 3);
        hand.ends(json!("third"));
        assert_eq!(next.join().unwrap(), "third");
        assert_eq!(pool.snapshot().done, 1);
    });
}

#[test]
fn a_cancelled_task_ends_at_once_wherever_it_is() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let [running, queued, last] = [1, 2, 3].map(|n| pool.submit(n).unwrap());
        hand.begins();
        for job in [&running, &queued] {
            assert!(job.cancel());
            assert_eq!(kind(&job.join().unwrap_err()), "cancelled");
            assert!(!job.cancel(), "it has ended");
        }
        hand.ends(json!("dropped"));
        assert_eq!(hand.begins(), 3);
        hand.ends(json!("kept"));
        assert_eq!(last.join().unwrap(), "kept");
        assert!(!last.cancel());
        assert_eq!(pool.snapshot().dropped, 2);
    });
}

struct NoNumbers;

impl Hooks for NoNumbers {
    fn before_new_task<'data>(
        &self,
        _: &str,
        data: &'data Value,
    ) -> Result<std::borrow::Cow<'data, Value>, interplay::master::BoxError> {
        match data.is_number() {
            true => Err("no numbers".into()),
            false => Ok(std::borrow::Cow::Borrowed(data)),
        }
    }

    /// Keeps all errors to itself.
    fn error_new_task(
        &self,
        _: &str,
        _: interplay::master::Error,
    ) -> Result<(), interplay::master::Error> {
        Ok(())
    }
}

#[test]
fn hooks_of_the_master_may_stop_a_task_but_not_its_account() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let refuses = Peer::start();
        refuses.always("POST /task/new", crate::support::peer::failure(400, 602));
        let master = master().hooks(NoNumbers).start().unwrap();
        let builder = (master.pool())
            .slave("w", hand.address())
            .slave("r", refuses.addr().to_string());
        let pool = up(builder, 2);
        assert_eq!(kind(&pool.submit(1).unwrap().join().unwrap_err()), "unsent");
        let refused = pool.submit_with("text", &Options::new().on("r")).unwrap();
        assert_eq!(kind(&refused.join().unwrap_err()), "refused");
        hand.ends(json!("done"));
        assert_eq!(pool.submit("text").unwrap().join().unwrap(), "done");
        pause(ms(1));
        assert_eq!(pool.snapshot().open(), 0);
    });
}

#[test]
fn a_result_of_another_type_is_an_error_of_its_own() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let job = pool.submit(1).unwrap();
        hand.ends(json!("text"));
        assert_eq!(kind(&job.join_as::<u64>().unwrap_err()), "mismatch");
        assert_eq!(job.join_as::<String>().unwrap(), "text");
    });
}
