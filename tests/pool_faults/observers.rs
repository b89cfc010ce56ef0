//! Observers that panic, or that call the pool.

use std::sync::{Arc, OnceLock, Weak};

use crossbeam_channel::unbounded;
use interplay::pool::{
    JobError, Observer, Options, Pool, SlaveChange, SlaveState, TaskEnded, TaskRetried, TaskStarted,
};
use serde_json::{Value, json};

use crate::rig::{Rig, Witness, end_of};
use crate::support::{LIMIT, deadline, master, ms, secs};
use crate::workers::{Gate, Worker};
use crate::{PATIENCE, SHORT_TOLERANCE};

/// Notes what it is told, and panics.
struct Panics(Witness);

impl Observer for Panics {
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        self.0.slave_changed(change);
        panic!("as planned");
    }

    fn task_started(&self, started: &TaskStarted<'_>) {
        self.0.task_started(started);
        panic!("as planned");
    }

    fn task_retried(&self, retried: &TaskRetried<'_>) {
        self.0.task_retried(retried);
        panic!("as planned");
    }

    fn task_ended(&self, ended: &TaskEnded<'_>) {
        self.0.task_ended(ended);
        panic!("as planned");
    }
}

#[test]
fn an_observer_that_always_panics_changes_nothing() {
    deadline(LIMIT, || {
        let mut workers = [Worker::start(), Worker::start()];
        let master = master().heartbeat_tolerance(SHORT_TOLERANCE);
        let master = master.start().unwrap();
        let witness = Witness::default();
        let pool = master
            .pool()
            .slave("w0", workers[0].address())
            .slave("w1", workers[1].address())
            .connect_deadline(ms(300))
            .defaults(Options::new().retries(1).backoff(ms(10)))
            .observer(Panics(witness.clone()))
            .start()
            .unwrap();
        pool.wait_for(2, PATIENCE).unwrap();
        let failing = pool.submit(json!({"fail": 1})).unwrap();
        assert!(matches!(end_of(&failing), Err(JobError::Failed { .. })));
        let inputs = (0..60).map(|number| json!({"echo": number, "sleep": 0.01}));
        let mut done = 0;
        for (count, (_, end)) in pool.map::<Value, _>(inputs).enumerate() {
            done += usize::from(end.is_ok());
            if count == 20 {
                workers[0].kill();
            }
        }
        assert_eq!(done, 60);
        witness.becomes("w0", SlaveState::GivenUp, 1);
        let late = pool.submit_with(1, &Options::new().deadline(ms(0)));
        assert!(end_of(&late.unwrap()).is_err());
        let report = pool.close(secs(5));
        assert_eq!(report.still_running, Vec::<String>::new());
        witness.check();
        witness.check_counts(&pool.snapshot());
        witness.look(|seen| {
            assert_eq!(
                (seen.ended.len(), seen.count("w1", SlaveState::Gone)),
                (62, 1)
            )
        });
    });
}

/// Calls the pool in all its methods: no lock is held.
struct Calls {
    pool: Arc<OnceLock<Weak<Pool>>>,
    witness: Witness,
    submitted: crossbeam_channel::Sender<interplay::pool::Job>,
}

impl Calls {
    fn call(&self) -> Option<Arc<Pool>> {
        let pool = self.pool.get()?.upgrade()?;
        let _ = (pool.snapshot(), format!("{pool:?}"));
        let _ = pool.remove_slave("nobody");
        let _ = pool.wait_for(1, ms(0));
        let _ = pool.try_submit(1, &Options::new().on("nobody"));
        Some(pool)
    }
}

impl Observer for Calls {
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        self.witness.slave_changed(change);
        self.call();
    }

    fn task_started(&self, started: &TaskStarted<'_>) {
        self.witness.task_started(started);
        self.call();
    }

    fn task_retried(&self, retried: &TaskRetried<'_>) {
        self.witness.task_retried(retried);
        self.call();
    }

    fn task_ended(&self, ended: &TaskEnded<'_>) {
        self.witness.task_ended(ended);
        // Each task that succeeds brings another, up to ten.
        if let Some(pool) = self.call()
            && let Ok(Value::Number(number)) = ended.result
            && let Some(number @ ..10) = number.as_u64()
        {
            let _ = self.submitted.send(pool.submit(number + 1).unwrap());
        }
    }
}

#[test]
fn an_observer_may_call_the_pool_and_submit_tasks() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        gate.open_all();
        let workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let master = master().start().unwrap();
        let witness = Witness::default();
        let cell = Arc::new(OnceLock::new());
        let (submitted, jobs) = unbounded();
        let pool = master
            .pool()
            .slave("w0", workers[0].address())
            .slave("w1", workers[1].address())
            .observer(Calls {
                pool: cell.clone(),
                witness: witness.clone(),
                submitted,
            })
            .start()
            .unwrap();
        let pool = Arc::new(pool);
        cell.set(Arc::downgrade(&pool)).unwrap();
        let first = pool.submit(1).unwrap();
        assert_eq!(end_of(&first).unwrap(), json!(1));
        for task in 2..=10 {
            let job = jobs.recv_timeout(PATIENCE).unwrap();
            assert_eq!(end_of(&job).unwrap(), json!(task));
            witness.check_job(&job);
        }
        assert!(pool.join_timeout(PATIENCE));
        witness.check();
        witness.check_counts(&pool.snapshot());
    });
}

#[test]
fn whoever_learns_of_an_end_finds_that_the_observer_was_told() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        gate.open_all();
        for task in 1..21 {
            let job = rig.submit(task, &Options::new());
            assert!(end_of(&job).is_ok());
            rig.witness.check_job(&job);
        }
        let mut count = 20;
        for (_, end) in rig.map::<u64, _>(1..21) {
            assert!(end.is_ok());
            count += 1;
            assert!(rig.witness.look(|seen| seen.ended.len()) >= count);
        }
    });
}
