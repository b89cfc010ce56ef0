//! What the threads and handles of a pool share, and the one way to change it.
//!
//! One mutex guards the queue. A [`step`](Core::step) holds it for one move; what follows from the move
//! (orders for slaves, the ends of tasks, the observer's calls) is carried out by the same thread
//! after it, without the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde_json::Value;
use uuid::Uuid;

use super::builder::Settings;
use super::ends::Ends;
use super::error::{Error, JobError};
use super::ids::Ids;
use super::job::Ticket;
use super::options::Policy;
use super::progress::{
    Observer, SlaveChange, SlaveStatus, Snapshot, TaskEnded, TaskRetried, TaskStarted, tell,
};
use super::queue::{self, Effect, Key, SlaveId};
use crate::master::{Connection, Handle};

pub(super) type Queue = queue::Queue<Arc<Work>, Arc<Peer>>;

/// What a slave's thread is told.
pub(super) enum Order {
    Run(Key, Arc<Work>),
    Leave,
}

/// A slave, as those see it who give it orders.
pub(super) struct Peer {
    pub(super) id: SlaveId,
    pub(super) connection: Connection,
    pub(super) orders: Sender<Order>,
}

impl Peer {
    pub(super) fn name(&self) -> &str {
        self.connection.name()
    }

    fn order(&self, order: Order) {
        // Fails only if the thread has ended, and then there is nobody to obey.
        let _ = self.orders.send(order);
    }
}

/// A task: what travels, and who wants to know how it ends.
pub(super) struct Work {
    pub(super) id: Uuid,
    pub(super) data: Arc<Value>,
    pub(super) owner: Owner,
}

/// Who is told how a task ends.
pub(super) enum Owner {
    Job(Arc<Ticket>),
    /// A map, which knows the task by its number there.
    Map(u64, Arc<Ends>),
}

struct State {
    queue: Queue,
    /// Threads that wait for a change of the whole.
    waiting: usize,
    /// Steps whose consequences are being carried out, if they end tasks.
    telling: usize,
    /// When the keeper wakes up by itself.
    alarm: Option<Instant>,
    /// The tasks that ended because the pool was closed.
    unfinished: Vec<Uuid>,
    /// The keeper is to end.
    over: bool,
}

/// What the parts of a pool share.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) master: Handle,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) ids: Ids,
    /// How many slaves are connected or may still be, for maps, which ask often.
    slaves: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    due: Condvar,
}

impl Core {
    pub(super) fn new(settings: Settings, master: Handle, observer: Arc<dyn Observer>) -> Self {
        let state = State {
            queue: Queue::new(settings.connect_deadline),
            waiting: 0,
            telling: 0,
            alarm: None,
            unfinished: Vec::new(),
            over: false,
        };
        Self {
            settings,
            master,
            observer,
            ids: Ids::new(),
            slaves: AtomicUsize::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
            due: Condvar::new(),
        }
    }

    /// Looks at the queue.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Queue) -> R) -> R {
        look(&self.state.lock().queue)
    }

    /// Makes one move, and carries out what follows from it.
    pub(super) fn step<R>(&self, act: impl FnOnce(&mut Queue, Instant) -> R) -> R {
        let mut state = self.state.lock();
        let result = act(&mut state.queue, Instant::now());
        self.carry_out(state, None);
        result
    }

    /// Makes one move on the thread of the slave `own`, and returns the order for it that follows, which is not sent.
    pub(super) fn step_for(
        &self,
        own: SlaveId,
        act: impl FnOnce(&mut Queue, Instant),
    ) -> Option<Order> {
        let mut state = self.state.lock();
        act(&mut state.queue, Instant::now());
        self.carry_out(state, Some(own))
    }

    /// Waits until `until` gives something, for as long as it takes or until `limit`; none then.
    pub(super) fn wait<R>(
        &self,
        limit: Option<Instant>,
        mut until: impl FnMut(&mut Queue, Moment) -> Option<R>,
    ) -> Option<R> {
        let mut state = self.state.lock();
        state.waiting += 1;
        let mut in_time = true;
        let result = loop {
            let moment = Moment {
                now: Instant::now(),
                all_told: state.telling == 0,
            };
            let result = until(&mut state.queue, moment);
            if result.is_some() || !in_time {
                break result;
            }
            in_time = match limit {
                None => {
                    self.changed.wait(&mut state);
                    true
                }
                Some(limit) => !self.changed.wait_until(&mut state, limit).timed_out(),
            };
        };
        state.waiting -= 1;
        self.carry_out(state, None);
        result
    }

    /// Does what follows from a move, but for the order to the slave `own`, which is returned.
    fn carry_out(&self, mut state: MutexGuard<'_, State>, own: Option<SlaveId>) -> Option<Order> {
        let mut effects = state.queue.take_effects();
        let due = state.queue.next_due();
        if due.is_some_and(|due| state.alarm.is_none_or(|alarm| due < alarm)) {
            state.alarm = due;
            self.due.notify_one();
        }
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        let (mut ends, mut changes) = (false, false);
        for effect in &effects {
            match effect {
                Effect::Ended { task, result, .. } => {
                    ends = true;
                    if matches!(result, Err(JobError::Closed)) {
                        state.unfinished.push(task.id);
                    }
                }
                Effect::Changed { .. } => changes = true,
                _ => {}
            }
        }
        // No slave comes, goes or is given up without that being told.
        if changes {
            let (_, slaves) = state.queue.connected();
            self.slaves.store(slaves, Ordering::Relaxed); // under the lock, so the last one stays
        }
        state.telling += usize::from(ends);
        drop(state);
        // What leads to further moves, on other threads, comes last: the observer hears of this one first.
        effects.sort_by_key(Effect::is_order);
        let mut kept = None;
        for effect in effects {
            match self.perform(effect) {
                Some((slave, order)) if own == Some(slave.id) => kept = Some(order),
                Some((slave, order)) => slave.order(order),
                None => {}
            }
        }
        if ends {
            let mut state = self.state.lock();
            state.telling -= 1;
            if state.waiting > 0 {
                self.changed.notify_all();
            }
        }
        kept
    }

    /// Does what follows from a move, or returns the order that it is.
    fn perform(&self, effect: Effect<Arc<Work>, Arc<Peer>>) -> Option<(Arc<Peer>, Order)> {
        let observer = &self.observer;
        match effect {
            Effect::Run { slave, key, task } => return Some((slave, Order::Run(key, task))),
            Effect::Leave { slave } => return Some((slave, Order::Leave)),
            Effect::Ended {
                task,
                slave,
                result,
            } => {
                let ended = TaskEnded {
                    id: task.id,
                    slave: slave.as_ref().map(|slave| slave.name()),
                    result: result.as_ref(),
                };
                tell("task_ended", || observer.task_ended(&ended));
                match &task.owner {
                    Owner::Job(ticket) => ticket.end(result),
                    Owner::Map(number, ends) => ends.put(*number, result),
                }
            }
            Effect::Retried {
                task,
                slave,
                why,
                pause,
            } => {
                log::debug!(
                    "task {}: {why}, tried again in {pause:?} ({})",
                    task.id,
                    slave.name()
                );
                let retried = TaskRetried {
                    id: task.id,
                    slave: slave.name(),
                    why: &why,
                    pause,
                };
                tell("task_retried", || observer.task_retried(&retried));
            }
            Effect::Changed { slave, state, why } => {
                let change = SlaveChange {
                    slave: slave.name(),
                    state,
                    why: why.as_deref(),
                };
                tell("slave_changed", || observer.slave_changed(&change));
            }
        }
        None
    }

    pub(super) fn started(&self, work: &Work, peer: &Peer) {
        let started = TaskStarted {
            id: work.id,
            slave: peer.name(),
        };
        tell("task_started", || self.observer.task_started(&started));
    }

    /// Adds a task; where too many are queued it waits, or says so.
    pub(super) fn admit(
        &self,
        work: Arc<Work>,
        policy: Arc<Policy>,
        wait: bool,
    ) -> Result<Key, Error> {
        self.check_master()?;
        let limit = self.settings.max_queued;
        let room = |queue: &mut Queue, moment: Moment| {
            let full = queue.open() - queue.running() >= limit;
            let admitted = queue.check(&policy.place).and_then(|()| match full {
                true => Err(Error::Full { limit }),
                false => queue.submit(work.clone(), policy.clone(), moment.now),
            });
            match admitted {
                Err(Error::Full { .. }) if wait => None,
                admitted => Some(admitted),
            }
        };
        self.wait(None, room).unwrap_or(Err(Error::Full { limit }))
    }

    /// Adds a task, however many are queued.
    pub(super) fn submit(&self, work: Arc<Work>, policy: Arc<Policy>) -> Result<Key, Error> {
        self.check_master()?;
        self.step(|queue, now| queue.submit(work, policy, now))
    }

    fn check_master(&self) -> Result<(), Error> {
        if self.master.is_running() {
            return Ok(());
        }
        self.close();
        Err(Error::Stopped)
    }

    /// How many inputs a map may take before it has given out their results.
    pub(super) fn look_ahead(&self) -> usize {
        let slaves = || self.slaves.load(Ordering::Relaxed);
        (self.settings.look_ahead).unwrap_or_else(|| 2 * slaves() + 8)
    }

    /// How many of so many tasks wait for a slave at the least.
    pub(super) fn beyond_slaves(&self, open: usize) -> usize {
        open.saturating_sub(self.slaves.load(Ordering::Relaxed))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut connections = Vec::new();
        let mut snapshot = self.look(|queue| {
            let (counts, running) = (queue.counts(), queue.running());
            let slaves = queue.slaves().map(|(_, slave)| {
                connections.push(slave.handle.clone());
                let task = slave.key().and_then(|key| queue.task(key));
                SlaveStatus {
                    name: slave.name.clone(),
                    address: String::new(),
                    labels: slave.labels.iter().cloned().collect(),
                    state: slave.state(),
                    running: task.map(|work| work.id),
                    finished: slave.finished,
                    losses: slave.losses,
                    last_beat: None,
                    trouble: slave.trouble.clone(),
                }
            });
            Snapshot {
                slaves: slaves.collect(),
                queued: queue.open() - running,
                running,
                done: counts.done,
                failed: counts.failed,
                lost: counts.lost,
                dropped: counts.dropped,
                retried: counts.retried,
            }
        });
        // The master has a lock of its own.
        for (slave, peer) in snapshot.slaves.iter_mut().zip(connections) {
            slave.address = peer.connection.address();
            slave.last_beat = peer.connection.last_beat().map(|beat| beat.elapsed());
        }
        snapshot
    }

    /// Begins the end; what runs goes on.
    pub(super) fn close(&self) {
        self.step(|queue, _| queue.close());
    }

    /// Waits until nothing is open and the observer was told of all; false if it was not so by `limit`.
    pub(super) fn settled(&self, limit: Option<Instant>) -> bool {
        let settled = |queue: &mut Queue, moment: Moment| moment.is_settled(queue).then_some(());
        self.wait(limit, settled).is_some()
    }

    pub(super) fn unfinished(&self) -> Vec<Uuid> {
        self.state.lock().unfinished.clone()
    }

    /// The keeper's life: does what is due when it is due.
    pub(super) fn keep(&self) {
        let mut state = self.state.lock();
        while !state.over {
            state.queue.tick(Instant::now());
            let due = state.queue.next_due();
            state.alarm = due;
            self.carry_out(state, None);
            state = self.state.lock();
            // Something may have become due, or be due earlier, while the lock was open.
            if state.over || state.alarm != due {
                continue;
            }
            match due {
                Some(due) => drop(self.due.wait_until(&mut state, due)),
                None => self.due.wait(&mut state),
            }
        }
    }

    /// Whether the end has been waited for already.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().over
    }

    /// Ends the keeper.
    pub(super) fn end(&self) {
        self.state.lock().over = true;
        self.due.notify_one();
    }

    /// How long a slave may take to answer: one that is silent for longer is lost.
    pub(super) fn patience(&self) -> Duration {
        self.master.patience()
    }
}

/// What a wait is told beside the queue.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// Every end so far was told to the observer and its owner.
    all_told: bool,
}

impl Moment {
    /// Whether nothing is open, and everyone knows.
    pub(super) fn is_settled(self, queue: &Queue) -> bool {
        queue.open() == 0 && self.all_told
    }
}
