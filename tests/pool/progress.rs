//! What a snapshot and an observer tell.

use std::sync::{Arc, OnceLock, Weak};

use interplay::pool::{Observer, Options, Pool, SlaveChange, SlaveState, TaskEnded, TaskStarted};
use serde_json::json;

use crate::support::{LIMIT, deadline, eventually, master, ms, secs};
use crate::{Hand, Notes, address, echo, up};

#[test]
fn a_snapshot_tells_where_everything_stands() {
    deadline(LIMIT, || {
        let (one, two) = (Hand::start(), Hand::start());
        let master = master().start().unwrap();
        let builder = (master.pool())
            .slave_with("w1", one.address(), ["a", "b"])
            .slave("w2", two.address());
        let pool = up(builder, 2);
        let job = pool.submit_with(1, &Options::new().on("w1")).unwrap();
        pool.submit_with(2, &Options::new().on("w1")).unwrap();
        one.begins();
        let snapshot = pool.snapshot();
        assert_eq!(
            (snapshot.queued, snapshot.running, snapshot.ended()),
            (1, 1, 0)
        );
        assert_eq!(snapshot.open(), 2);
        let [w1, w2] = &snapshot.slaves[..] else {
            panic!("two slaves")
        };
        assert_eq!(
            (&*w1.name, w1.state, w1.running),
            ("w1", SlaveState::Running, Some(job.id()))
        );
        assert_eq!(w1.labels, ["a", "b"]);
        assert_eq!(w1.address, format!("http://{}", one.address()));
        assert!(w1.last_beat.is_some_and(|beat| beat < LIMIT));
        assert_eq!(
            (w2.state, w2.running, w2.finished),
            (SlaveState::Free, None, 0)
        );
        one.ends(json!(1));
        one.fails(json!(2));
        pool.join();
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.open(), snapshot.done, snapshot.failed), (0, 1, 1));
        assert_eq!(snapshot.slaves[0].finished, 2);
    });
}

#[test]
fn an_observer_is_told_of_everything_before_the_owner() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let notes = Notes::default();
        let builder = master
            .pool()
            .slave("w", hand.address())
            .observer(notes.clone());
        let pool = up(builder, 1);
        let job = pool.submit(1).unwrap();
        hand.ends(json!("done"));
        job.join().unwrap();
        assert_eq!(notes.count("ended at w with \"done\""), 1);
        pool.remove_slave("w").unwrap();
        eventually(LIMIT, || notes.count("w gone") == 1);
        let mut expected = vec![
            "w connecting",
            "w free",
            "started at w",
            "ended at w with \"done\"",
            "w leaving",
            "w gone",
        ];
        let all = notes.all();
        assert_eq!(
            all.iter()
                .filter(|line| expected.contains(&&***line))
                .count(),
            6,
            "{all:?}"
        );
        expected.dedup();
        assert_eq!(all, expected);
    });
}

/// Calls the pool from within, and panics.
#[derive(Default)]
struct Meddler {
    pool: OnceLock<Weak<Pool>>,
    done: std::sync::atomic::AtomicUsize,
}

struct Shared(Arc<Meddler>);

impl Observer for Shared {
    fn slave_changed(&self, _: &SlaveChange<'_>) {
        if let Some(pool) = self.0.pool.get().and_then(Weak::upgrade) {
            let _ = pool.snapshot();
        }
    }

    fn task_started(&self, _: &TaskStarted<'_>) {
        panic!("as planned");
    }

    fn task_ended(&self, ended: &TaskEnded<'_>) {
        let Some(pool) = self.0.pool.get().and_then(Weak::upgrade) else {
            return;
        };
        let _ = pool.snapshot();
        if ended.result.is_ok_and(|result| result == 1) {
            let _ = pool.try_submit(2, &Options::new()).unwrap();
        }
        self.0
            .done
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        panic!("as planned");
    }
}

#[test]
fn an_observer_may_call_the_pool_and_its_panics_hurt_nobody() {
    deadline(LIMIT, || {
        let (slave, _) = echo();
        let master = master().start().unwrap();
        let meddler = Arc::new(Meddler::default());
        let builder = master.pool().slave("w", address(&slave));
        let pool = Arc::new(up(builder.observer(Shared(meddler.clone())), 1));
        meddler.pool.set(Arc::downgrade(&pool)).unwrap();
        assert_eq!(pool.submit(1).unwrap().join().unwrap(), 1);
        pool.join();
        assert_eq!(meddler.done.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(pool.snapshot().done, 2);
    });
}

/// Waits in `task_ended` until it is let go.
struct Slow(
    crossbeam_channel::Sender<()>,
    crossbeam_channel::Receiver<()>,
);

impl Observer for Slow {
    fn task_ended(&self, _: &TaskEnded<'_>) {
        let _ = self.0.send(());
        let _ = self.1.recv_timeout(LIMIT);
    }
}

#[test]
fn no_lock_is_held_while_an_observer_runs() {
    deadline(LIMIT, || {
        let ((one, _), (two, _)) = (echo(), echo());
        let master = master().start().unwrap();
        let (entered, inside) = crossbeam_channel::unbounded();
        let (go, went) = crossbeam_channel::unbounded();
        let builder = (master.pool())
            .slave("w1", address(&one))
            .slave("w2", address(&two))
            .observer(Slow(entered, went));
        let pool = up(builder, 2);
        let held = pool.submit_with(1, &Options::new().on("w1")).unwrap();
        inside.recv_timeout(LIMIT).unwrap();
        assert_eq!(pool.snapshot().done, 1, "while the observer is held");
        assert!(
            held.join_timeout(ms(50)).is_err(),
            "its owner is told after the observer"
        );
        assert!(!pool.join_timeout(ms(50)));
        let other = pool.submit_with(2, &Options::new().on("w2")).unwrap();
        inside.recv_timeout(LIMIT).unwrap();
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert!(held.join().is_ok() && other.join().is_ok());
        assert!(pool.join_timeout(secs(60)));
    });
}
