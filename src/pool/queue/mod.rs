//! Who does what next: the pool's tasks and slaves as a state machine without threads.
//!
//! Everything that happens is a method, with the time passed in; what has to be done about it is
//! left in [`Queue::take_effects`] for the caller to carry out when it holds no lock. Between any two
//! methods these hold: a slave has one task at most, a task that has not ended is queued, waiting
//! for a retry, or with exactly one slave, and no free slave fits a queued task.
//!
//! `T` is what the pool keeps of a task, `S` of a slave; the queue only hands copies of them back.

mod line;
mod report;
mod slave;
mod slaves;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::line::{Lines, Want};
pub(super) use self::report::Report;
use self::slave::State;
pub(super) use self::slave::{Next, Slave, SlaveId};
use super::error::{Error, JobError};
use super::options::{Place, Policy};
use super::progress::SlaveState;

/// Number of a task within its pool; it grows with the time of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// What is to be done after a step.
#[derive(Debug)]
pub(super) enum Effect<T, S> {
    /// The slave is to do this task.
    Run { slave: S, key: Key, task: T },
    /// The slave is to be disconnected, or not to be connected any more.
    Leave { slave: S },
    Ended {
        task: T,
        slave: Option<S>,
        result: Result<Value, JobError>,
    },
    Retried {
        task: T,
        slave: S,
        why: JobError,
        pause: Duration,
    },
    Changed {
        slave: S,
        state: SlaveState,
        why: Option<String>,
    },
}

impl<T, S> Effect<T, S> {
    /// Whether it gives a slave's thread something to do.
    pub(super) fn is_order(&self) -> bool {
        matches!(self, Self::Run { .. } | Self::Leave { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Deadline(Key),
    Retry(Key),
    Aside(SlaveId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Queued,
    Waiting { until: Instant },
    At(SlaveId),
}

#[derive(Debug)]
struct Task<T> {
    task: T,
    policy: Arc<Policy>,
    want: Want,
    stand: Stand,
    deadline: Option<Instant>,
    failures: u32,
    losses: u32,
    /// What would have been its end, the last time that it was put back.
    last: Option<JobError>,
}

/// How many tasks ended how, and how many were put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) lost: u64,
    pub(super) dropped: u64,
    pub(super) retried: u64,
}

/// The tasks that have not ended, and the slaves.
#[derive(Debug)]
pub(super) struct Queue<T, S> {
    connect_deadline: Duration,
    tasks: HashMap<Key, Task<T>>,
    lines: Lines,
    running: usize,
    slaves: BTreeMap<SlaveId, Slave<S>>,
    /// The free slaves by turn.
    free: BTreeMap<u64, SlaveId>,
    timers: BTreeSet<(Instant, Timer)>,
    effects: Vec<Effect<T, S>>,
    counts: Counts,
    /// The last number given to a task or to a slave's turn.
    last: u64,
    last_slave: u64,
    closed: bool,
}

impl<T: Clone, S: Clone> Queue<T, S> {
    /// A queue without slaves; one that is away for `connect_deadline` is given up.
    pub(super) fn new(connect_deadline: Duration) -> Self {
        Self {
            connect_deadline,
            tasks: HashMap::new(),
            lines: Lines::default(),
            running: 0,
            slaves: BTreeMap::new(),
            free: BTreeMap::new(),
            timers: BTreeSet::new(),
            effects: Vec::new(),
            counts: Counts::default(),
            last: 0,
            last_slave: 0,
            closed: false,
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What is to be done since this was last asked.
    pub(super) fn take_effects(&mut self) -> Vec<Effect<T, S>> {
        mem::take(&mut self.effects)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Tasks that have not ended.
    pub(super) fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Tasks that are with a slave.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn slaves(&self) -> impl Iterator<Item = (SlaveId, &Slave<S>)> {
        self.slaves.iter().map(|(id, slave)| (*id, slave))
    }

    /// How many slaves are connected, and how many may still be.
    pub(super) fn connected(&self) -> (usize, usize) {
        let in_play = || self.slaves.values().filter(|slave| slave.is_in_play());
        let connected = in_play().filter(|slave| slave.state().is_connected());
        (connected.count(), in_play().count())
    }

    pub(super) fn task(&self, key: Key) -> Option<&T> {
        self.tasks.get(&key).map(|task| &task.task)
    }

    /// The slave that a task is with; none if it is queued. None if it has ended.
    pub(super) fn place_of(&self, key: Key) -> Option<Option<&Slave<S>>> {
        Some(match self.tasks.get(&key)?.stand {
            Stand::At(id) => self.slaves.get(&id),
            Stand::Queued | Stand::Waiting { .. } => None,
        })
    }

    /// When [`tick`](Queue::tick) has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Adds a task, if there is a slave for it.
    pub(super) fn submit(
        &mut self,
        task: T,
        policy: Arc<Policy>,
        now: Instant,
    ) -> Result<Key, Error> {
        self.check(&policy.place)?;
        let key = Key(self.number());
        let deadline = policy.deadline.map(|limit| now + limit);
        self.timers
            .extend(deadline.map(|due| (due, Timer::Deadline(key))));
        let want = Want {
            place: policy.place.clone(),
            not: BTreeSet::new(),
        };
        let task = Task {
            task,
            policy,
            want,
            stand: Stand::Queued,
            deadline,
            failures: 0,
            losses: 0,
            last: None,
        };
        self.tasks.insert(key, task);
        self.enqueue(key);
        Ok(key)
    }

    /// Whether there is a slave for such tasks.
    pub(super) fn check(&self, place: &Place) -> Result<(), Error> {
        if self.closed {
            return Err(Error::Stopped);
        }
        let mut in_play = self.slaves.values().filter(|slave| slave.is_in_play());
        if in_play
            .clone()
            .any(|slave| place.fits(&slave.name, &slave.labels))
        {
            return Ok(());
        }
        Err(match &place.on {
            _ if in_play.clone().next().is_none() => Error::NoSlaves,
            Some(name) if in_play.all(|slave| slave.name != *name) => {
                Error::UnknownSlave { name: name.clone() }
            }
            _ => Error::UnknownLabels {
                labels: place.labels.iter().cloned().collect(),
            },
        })
    }

    fn has_slave_for(&self, want: &Want) -> bool {
        let mut slaves = self.slaves.iter();
        slaves.any(|(id, slave)| slave.is_in_play() && want.fits(*id, slave))
    }

    /// Gives a task, for which there is a slave, to the free one that was not used for longest, or puts it into its line.
    fn enqueue(&mut self, key: Key) {
        let Some(task) = self.tasks.get_mut(&key) else {
            return;
        };
        task.stand = Stand::Queued;
        self.lines.push(&task.want, key);
        let want = &task.want;
        let fits = |id: &SlaveId| {
            let slave = self.slaves.get(id);
            slave.is_some_and(|slave| want.fits(*id, slave))
        };
        let chosen = self.free.iter().find(|(_, id)| fits(id));
        if let Some((&turn, &id)) = chosen {
            self.free.remove(&turn);
            self.assign(key, id);
        }
    }

    /// Gives a queued task to a slave that has none.
    fn assign(&mut self, key: Key, id: SlaveId) {
        let (Some(task), Some(slave)) = (self.tasks.get_mut(&key), self.slaves.get_mut(&id)) else {
            return;
        };
        self.lines.remove(&task.want, key);
        task.stand = Stand::At(id);
        slave.state = State::At(key);
        self.running += 1;
        self.effects.push(Effect::Run {
            slave: slave.handle.clone(),
            key,
            task: task.task.clone(),
        });
    }

    /// Ends a task that has not ended yet.
    pub(super) fn end(&mut self, key: Key, result: Result<Value, JobError>) {
        let Some(task) = self.tasks.remove(&key) else {
            return;
        };
        if let Some(due) = task.deadline {
            self.timers.remove(&(due, Timer::Deadline(key)));
        }
        let mut slave = None;
        match task.stand {
            Stand::Queued => self.lines.remove(&task.want, key),
            Stand::Waiting { until } => drop(self.timers.remove(&(until, Timer::Retry(key)))),
            Stand::At(id) => {
                self.running -= 1;
                slave = self.slaves.get(&id).map(|slave| slave.handle.clone());
            }
        }
        let counted = match &result {
            Ok(_) => &mut self.counts.done,
            Err(JobError::Failed { .. }) => &mut self.counts.failed,
            Err(JobError::Lost { .. }) => &mut self.counts.lost,
            Err(_) => &mut self.counts.dropped,
        };
        *counted += 1;
        self.effects.push(Effect::Ended {
            task: task.task,
            slave,
            result,
        });
    }

    /// Ends a task for which no slave is left.
    fn end_without_slave(&mut self, key: Key) {
        let Some(task) = self.tasks.get_mut(&key) else {
            return;
        };
        let last = task.last.take();
        let why = match last {
            // Those that are left have refused it.
            Some(refused @ JobError::Refused { .. }) => refused,
            last => JobError::NoSlave {
                last: last.map(Box::new),
            },
        };
        self.end(key, Err(why));
    }

    /// Ends what nobody is left for.
    fn end_stranded(&mut self) {
        let mut stranded = self.lines.stranded(|want| self.has_slave_for(want));
        let waiting = self.tasks.iter().filter(|(_, task)| {
            matches!(task.stand, Stand::Waiting { .. }) && !self.has_slave_for(&task.want)
        });
        stranded.extend(waiting.map(|(key, _)| *key));
        stranded.sort_unstable();
        for key in stranded {
            self.end_without_slave(key);
        }
    }

    /// Ends a task before its time; false if it has ended. A slave that is at it stays so until it reports.
    pub(super) fn cancel(&mut self, key: Key) -> bool {
        let open = self.tasks.contains_key(&key);
        self.end(key, Err(JobError::Cancelled));
        open
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(&(due, timer)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Deadline(key) => {
                    let after = self.tasks.get(&key).and_then(|task| task.policy.deadline);
                    let after = after.unwrap_or_default();
                    self.end(key, Err(JobError::DeadlinePassed { after }));
                }
                Timer::Retry(key) => self.enqueue(key),
                Timer::Aside(id) => {
                    self.idle(id);
                    self.changed(id, None);
                }
            }
        }
    }

    /// Accepts nothing more, ends what no slave is at, and lets the slaves go, each when it has ended its task.
    pub(super) fn close(&mut self) {
        if mem::replace(&mut self.closed, true) {
            return;
        }
        let idle = |(_, task): &(&Key, &Task<T>)| !matches!(task.stand, Stand::At(_));
        self.end_all(idle);
        let ids: Vec<SlaveId> = self.slaves.keys().copied().collect();
        for id in ids {
            self.dismiss(id);
        }
    }

    /// Ends all tasks, wherever they are.
    pub(super) fn expire(&mut self) {
        self.end_all(|_| true);
    }

    /// The slaves that are at a task, if only at one that has ended for its owner.
    pub(super) fn at_work(&self) -> impl Iterator<Item = &S> {
        let at_work = self.slaves.values().filter(|slave| slave.key().is_some());
        at_work.map(|slave| &slave.handle)
    }

    fn end_all(&mut self, which: impl FnMut(&(&Key, &Task<T>)) -> bool) {
        let chosen = self.tasks.iter().filter(which);
        let mut keys: Vec<Key> = chosen.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        for key in keys {
            self.end(key, Err(JobError::Closed));
        }
    }
}
