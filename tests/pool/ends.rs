//! Joins, closes, drops, and what is left of a pool after them.

use std::sync::Arc;

use interplay::pool::{Error, Job, Options, Pool, SlaveState};
use serde_json::json;

use crate::support::{LIMIT, deadline, eventually, master, ms, secs, spawn, threads_of};
use crate::{Hand, Notes, address, echo, kind, up};

#[test]
fn a_join_waits_for_all_that_is_open() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        pool.join(); // nothing is open
        let jobs = [1, 2].map(|n| pool.submit(n).unwrap());
        hand.begins();
        assert!(!pool.join_timeout(ms(20)));
        hand.ends(json!(1));
        hand.ends(json!(2));
        pool.join();
        assert!(jobs.iter().all(|job| job.join_timeout(ms(0)).is_ok()));
    });
}

#[test]
fn closing_lets_running_tasks_finish_and_reports_the_rest() {
    deadline(LIMIT, || {
        let (one, two) = (Hand::start(), Hand::start());
        let master = master().start().unwrap();
        let builder = master
            .pool()
            .slave("w1", one.address())
            .slave("w2", two.address());
        let pool = Arc::new(up(builder, 2));
        let on = |name: &str| pool.submit_with(1, &Options::new().on(name)).unwrap();
        let [ends, stays, queued] = [on("w1"), on("w2"), on("w1")];
        one.begins();
        two.begins();
        let closing = spawn("closing", {
            let pool = pool.clone();
            move || pool.close(secs(2))
        });
        assert_eq!(kind(&queued.join().unwrap_err()), "closed");
        one.ends(json!("in time"));
        assert_eq!(ends.join().unwrap(), "in time");
        let report = closing.join().unwrap();
        assert_eq!(kind(&stays.join().unwrap_err()), "closed");
        assert_eq!(report.unfinished, [queued.id(), stays.id()]);
        assert_eq!(report.still_running, Vec::<String>::new());
        assert!(one.slave.master().is_none(), "it was disconnected");
        assert!(matches!(pool.submit(1), Err(Error::Stopped)));
        assert!(matches!(
            pool.add_slave::<&str>("w3", "127.0.0.1:1", []),
            Err(Error::Stopped)
        ));
        assert!(matches!(pool.wait_for(1, LIMIT), Err(Error::Stopped)));
        assert_eq!(pool.close(secs(60)), report, "again, at once");
        two.ends(json!("too late"));
        eventually(LIMIT, || two.slave.master().is_none()); // told by the master, now that it has reported
    });
}

#[test]
fn a_drop_closes_and_leaves_no_thread() {
    deadline(LIMIT, || {
        let ((one, _), (two, _)) = (echo(), echo());
        let master = master().start().unwrap();
        let name = format!("p{}", master.local_addr().port());
        let builder = master
            .pool()
            .slave("w1", address(&one))
            .slave("w2", address(&two));
        let pool = up(builder, 2);
        if let Some(seen) = Some(threads_of(&name)).filter(|seen| !seen.is_empty()) {
            let expected = ["1", "2", "keeper"].map(|duty| (format!("{name}-{duty}"), 1));
            assert_eq!(seen, expected.into());
        }
        let job = pool.submit(1).unwrap();
        job.join().unwrap();
        drop(pool);
        assert!(threads_of(&name).is_empty());
        assert!(one.master().is_none() && two.master().is_none());
        assert_eq!(job.join().unwrap(), 1, "a job outlives its pool");
        assert!(!job.cancel());
        let again = up(master.pool().slave("w1", address(&one)), 1);
        assert_eq!(again.submit(2).unwrap().join().unwrap(), 2);
    });
}

#[test]
fn a_pool_ends_with_its_master() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().grace(ms(500)).start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let jobs: [Job; 2] = [1, 2].map(|n| pool.submit(n).unwrap());
        hand.begins();
        drop(master);
        assert_eq!(kind(&jobs[0].join().unwrap_err()), "lost");
        assert_eq!(kind(&jobs[1].join().unwrap_err()), "closed");
        assert!(matches!(pool.submit(3), Err(Error::Stopped)));
        let report = pool.close(secs(60));
        assert_eq!(report.unfinished, [jobs[1].id()]);
        assert_eq!(report.still_running, Vec::<String>::new());
    });
}

#[test]
fn an_idle_pool_notices_the_end_of_its_master() {
    deadline(LIMIT, || {
        let (slave, _) = echo();
        let notes = Notes::default();
        let master = master().start().unwrap();
        let pool = up(
            master
                .pool()
                .slave("w", address(&slave))
                .observer(notes.clone()),
            1,
        );
        drop(master);
        eventually(LIMIT, || notes.count("w gone") == 1);
        assert!(matches!(pool.submit(3), Err(Error::Stopped)));
    });
}

#[test]
fn a_submit_waits_for_room_and_a_close_ends_the_wait() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = Arc::new(up(
            master.pool().slave("w", hand.address()).max_queued(2),
            1,
        ));
        let jobs: Vec<Job> = (1..4).map(|n| pool.submit(n).unwrap()).collect();
        hand.begins();
        let options = Options::new();
        assert!(matches!(
            pool.try_submit(3, &options),
            Err(Error::Full { limit: 2 })
        ));
        let submit = |pool: &Arc<Pool>| {
            let pool = pool.clone();
            spawn("submitting", move || pool.submit("waited"))
        };
        let waiting = submit(&pool);
        assert!(!waiting.is_finished());
        hand.ends(json!(1));
        let waited = waiting.join().unwrap().unwrap();
        hand.begins();
        assert_eq!(jobs[0].join().unwrap(), 1);
        let waiting = submit(&pool);
        let _ = pool.close(ms(0));
        assert!(matches!(waiting.join().unwrap(), Err(Error::Stopped)));
        assert_eq!(kind(&waited.join().unwrap_err()), "closed");
    });
}

#[test]
fn handles_are_shared_between_threads() {
    fn is_send_sync<T: Send + Sync>() {}
    is_send_sync::<Pool>();
    is_send_sync::<Job>();
    is_send_sync::<Error>();
    is_send_sync::<interplay::pool::JobError>();
    is_send_sync::<SlaveState>();
}
