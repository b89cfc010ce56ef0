//! A master with a pool and a witness: the observer that notes everything, and checks that it adds up.

use std::collections::HashMap;
use std::mem::discriminant;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use interplay::master::Master;
use interplay::pool::{
    Builder, Job, JobError, JobState, Observer, Options, Pool, SlaveChange, SlaveState, Snapshot,
    TaskEnded, TaskRetried, TaskStarted,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::PATIENCE;
use crate::support::{master, secs};

/// What the observer was told, in the order in which it was.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) started: Vec<(Uuid, String)>,
    pub(crate) retried: Vec<(Uuid, String, JobError)>,
    pub(crate) ended: Vec<(Uuid, Result<Value, JobError>)>,
    pub(crate) changes: Vec<(String, SlaveState, Option<String>)>,
}

impl Seen {
    /// How often a slave came into a state.
    pub(crate) fn count(&self, slave: &str, state: SlaveState) -> usize {
        let changes = self.changes.iter();
        changes
            .filter(|(name, to, _)| name == slave && *to == state)
            .count()
    }

    /// Why a slave came into a state, the last time.
    pub(crate) fn why(&self, slave: &str, state: SlaveState) -> Option<String> {
        let mut changes = self.changes.iter().rev();
        let change = changes.find(|(name, to, _)| name == slave && *to == state)?;
        change.2.clone()
    }

    /// How often a slave was connected.
    pub(crate) fn connects(&self, slave: &str) -> usize {
        let mut connected = false;
        let mut connects = 0;
        for (_, state, _) in self.changes.iter().filter(|(name, ..)| name == slave) {
            connects += usize::from(state.is_connected() && !connected);
            connected = state.is_connected();
        }
        connects
    }

    /// The slaves at which a task was accepted.
    pub(crate) fn at(&self, id: Uuid) -> Vec<&str> {
        let started = self.started.iter().filter(|(task, _)| *task == id);
        started.map(|(_, slave)| &**slave).collect()
    }

    pub(crate) fn retries(&self, id: Uuid) -> usize {
        self.retried.iter().filter(|(task, ..)| *task == id).count()
    }
}

/// An observer that notes everything; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Witness {
    shared: Arc<(Mutex<Seen>, Condvar)>,
}

impl Witness {
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.shared.0.lock().unwrap())
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.shared.0.lock().unwrap());
        self.shared.1.notify_all();
    }

    /// Waits until what it was told has this in it.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Seen) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut seen = self.shared.0.lock().unwrap();
        while !condition(&seen) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not so: {what}; but {seen:#?}");
            seen = self.shared.1.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Waits until a slave has come into a state so many times.
    #[track_caller]
    pub(crate) fn becomes(&self, slave: &str, state: SlaveState, times: usize) {
        let what = format!("{slave} {state}, {times} times");
        self.until(&what, |seen| seen.count(slave, state) >= times);
    }

    /// Waits until a slave was connected so many times.
    #[track_caller]
    pub(crate) fn connects(&self, slave: &str, times: usize) {
        let what = format!("{slave} connected, {times} times");
        self.until(&what, |seen| seen.connects(slave) >= times);
    }

    /// Waits until a task was accepted so many times; the name of the slave that was the last to.
    #[track_caller]
    pub(crate) fn starts(&self, id: Uuid, times: usize) -> String {
        let what = format!("{id} started {times} times");
        self.until(&what, |seen| seen.at(id).len() >= times);
        self.look(|seen| seen.at(id)[times - 1].to_owned())
    }

    /// Every task that it heard of ended exactly once, with a result or a loss, and was never at two slaves at a time.
    pub(crate) fn check(&self) {
        self.look(|seen| {
            let mut ends: HashMap<Uuid, usize> = HashMap::new();
            for (id, _) in &seen.ended {
                *ends.entry(*id).or_default() += 1;
            }
            assert!(ends.values().all(|ends| *ends == 1), "{seen:#?}");
            let started = seen.started.iter().map(|(id, _)| id);
            for id in started.chain(seen.retried.iter().map(|(id, ..)| id)) {
                assert!(ends.contains_key(id), "{id} has not ended: {seen:#?}");
                // Each try but the last was given up, and said to be, before the next.
                assert!(seen.at(*id).len() <= 1 + seen.retries(*id), "{seen:#?}");
            }
            for (name, state, why) in &seen.changes {
                if *state == SlaveState::GivenUp {
                    assert!(why.is_some(), "{name} was given up without a word");
                }
            }
        });
    }

    /// The pool's own counts are those that it told.
    pub(crate) fn check_counts(&self, snapshot: &Snapshot) {
        self.look(|seen| {
            let count = |which: fn(&Result<Value, JobError>) -> bool| {
                seen.ended.iter().filter(|(_, end)| which(end)).count() as u64
            };
            assert_eq!(snapshot.open(), 0, "{snapshot:#?}");
            assert_eq!(snapshot.ended(), count(|_| true), "{snapshot:#?} {seen:#?}");
            assert_eq!(snapshot.done, count(|end| end.is_ok()));
            assert_eq!(
                snapshot.failed,
                count(|end| matches!(end, Err(JobError::Failed { .. })))
            );
            assert_eq!(
                snapshot.lost,
                count(|end| matches!(end, Err(JobError::Lost { .. })))
            );
            assert_eq!(snapshot.retried, seen.retried.len() as u64);
        });
    }

    /// What a job's owner is told is what the observer was.
    pub(crate) fn check_job(&self, job: &Job) {
        assert_eq!(job.state(), JobState::Ended);
        let told = self.look(|seen| {
            let mut ended = seen.ended.iter();
            let end = ended.find(|(id, _)| *id == job.id());
            end.expect("the observer was told").1.clone()
        });
        match (job.join_timeout(Duration::ZERO), told) {
            (Ok(result), Ok(told)) => assert_eq!(result, told),
            (Err(error), Err(told)) => assert_eq!(discriminant(&error), discriminant(&told)),
            (result, told) => panic!("the owner has {result:?}, the observer {told:?}"),
        }
        assert!(!job.cancel(), "it has ended");
    }
}

impl Observer for Witness {
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        let why = change.why.map(str::to_owned);
        self.note(|seen| {
            seen.changes
                .push((change.slave.to_owned(), change.state, why))
        });
    }

    fn task_started(&self, started: &TaskStarted<'_>) {
        self.note(|seen| seen.started.push((started.id, started.slave.to_owned())));
    }

    fn task_retried(&self, retried: &TaskRetried<'_>) {
        let entry = (retried.id, retried.slave.to_owned(), retried.why.clone());
        self.note(|seen| seen.retried.push(entry));
    }

    fn task_ended(&self, ended: &TaskEnded<'_>) {
        let result = ended.result.cloned().map_err(Clone::clone);
        self.note(|seen| seen.ended.push((ended.id, result)));
    }
}

/// A pool with a witness. When it is dropped, all is checked.
pub(crate) struct Rig {
    pool: Option<Pool>,
    pub(crate) witness: Witness,
    jobs: Mutex<Vec<Job>>,
    /// Whether a slave may say that it is busy: ours, never with a task of ours.
    pub(crate) may_be_busy: bool,
    pub(crate) master: Master,
}

impl Rig {
    /// A pool that is set up by `set`, of a master that tolerates this much silence.
    pub(crate) fn new(tolerance: Duration, set: impl FnOnce(Builder) -> Builder) -> Self {
        let master = master().heartbeat_tolerance(tolerance).start().unwrap();
        let witness = Witness::default();
        let pool = set(master.pool())
            .observer(witness.clone())
            .start()
            .unwrap();
        Self {
            pool: Some(pool),
            witness,
            jobs: Mutex::new(Vec::new()),
            may_be_busy: false,
            master,
        }
    }

    /// One in which no slave is to be lost.
    pub(crate) fn calm(set: impl FnOnce(Builder) -> Builder) -> Self {
        Self::new(secs(120), set)
    }

    #[track_caller]
    pub(crate) fn submit(&self, data: impl Serialize, options: &Options) -> Job {
        let job = self.submit_with(data, options).unwrap();
        self.jobs.lock().unwrap().push(job.clone());
        job
    }

    /// Drops the pool.
    pub(crate) fn drop_pool(&mut self) {
        self.pool = None;
    }

    #[track_caller]
    pub(crate) fn up(&self, slaves: usize) {
        self.wait_for(slaves, PATIENCE).unwrap();
    }

    pub(crate) fn state_of(&self, slave: &str) -> Option<SlaveState> {
        let snapshot = self.snapshot();
        let found = snapshot.slaves.iter().find(|status| status.name == slave);
        found.map(|status| status.state)
    }
}

impl Deref for Rig {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        self.pool.as_ref().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if let Some(pool) = &self.pool {
            let report = pool.close(secs(5));
            assert_eq!(report.still_running, Vec::<String>::new());
            self.witness.check_counts(&pool.snapshot());
        }
        self.witness.check();
        for job in self.jobs.lock().unwrap().iter() {
            self.witness.check_job(job);
        }
        let busy = self.witness.look(|seen| {
            let mut changes = seen.changes.iter();
            changes.any(|(_, state, _)| *state == SlaveState::Busy)
        });
        assert!(self.may_be_busy || !busy, "a busy slave was offered a task");
    }
}

/// The result of a job, which has to end in time.
#[track_caller]
pub(crate) fn end_of(job: &Job) -> Result<Value, JobError> {
    let end = job.join_timeout(PATIENCE);
    assert!(
        !matches!(end, Err(JobError::TimedOut { .. })),
        "no end: {job:?}"
    );
    end
}
