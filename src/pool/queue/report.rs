//! What comes of a task at a slave, and what follows for both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::slave::{SlaveId, State, pause};
use super::{Effect, Key, Queue, Stand, Timer};
use crate::master;
use crate::pool::error::{JobError, chain};
use crate::task::Loss;

/// The longest pause before a retry.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// What a slave's thread has to say about the task it was given.
#[derive(Debug)]
pub(in crate::pool) enum Report {
    Completed(Value),
    Failed(Value),
    /// The connection has ended and the task may have run.
    Lost(Loss),
    /// The connection has ended and the task surely has not run.
    NotBegun(String),
    /// The slave said no, and is free.
    Refused(master::Error),
    /// The slave is at something else.
    Busy,
    /// The master's own hook said no; the slave was not asked.
    Unsent(master::Error),
}

/// What follows for the slave.
enum Then {
    Idle,
    Aside,
    Down(String),
}

impl<T: Clone, S: Clone> Queue<T, S> {
    /// What became of the task that a slave was given. If it has ended for its owner, the slave is free and that is all.
    pub(in crate::pool) fn report(&mut self, id: SlaveId, key: Key, report: Report, now: Instant) {
        let Some(slave) = self.slaves.get_mut(&id) else {
            return;
        };
        if slave.state != State::At(key) {
            return;
        }
        let then = match &report {
            Report::Completed(_) | Report::Failed(_) => {
                slave.finished += 1;
                slave.proved();
                Then::Idle
            }
            Report::Refused(error) => {
                slave.proved();
                slave.trouble = Some(chain(error));
                Then::Idle
            }
            Report::Unsent(_) => Then::Idle,
            Report::Busy => Then::Aside,
            Report::Lost(loss) => Then::Down(loss.to_string()),
            Report::NotBegun(why) => Then::Down(why.clone()),
        };
        // Until here the slave is not free: what is put back goes to another one.
        self.judge(key, id, report, now);
        let Some(slave) = self.slaves.get_mut(&id) else {
            return;
        };
        match then {
            Then::Idle => self.idle(id),
            _ if slave.leaving => self.leave(id),
            Then::Aside => {
                let until = slave.set_aside(now);
                self.timers.insert((until, Timer::Aside(id)));
                self.changed(id, None);
            }
            Then::Down(why) => {
                slave.down(why.clone(), now);
                self.changed(id, Some(why));
            }
        }
    }

    /// Ends a task after a slave's report, or puts it back.
    fn judge(&mut self, key: Key, id: SlaveId, report: Report, now: Instant) {
        let (Some(task), Some(slave)) = (self.tasks.get_mut(&key), self.slaves.get(&id)) else {
            return;
        };
        let policy = &task.policy;
        let (again, why, pause) = match report {
            Report::Completed(result) => return self.end(key, Ok(result)),
            Report::Unsent(error) => {
                let source = Arc::new(error);
                return self.end(key, Err(JobError::Unsent { source }));
            }
            Report::Busy | Report::NotBegun(_) => return self.put_back(key, Duration::ZERO, now),
            Report::Refused(error) => {
                task.want.not.insert(id);
                let source = Arc::new(error);
                task.last = Some(JobError::Refused { source });
                return self.put_back(key, Duration::ZERO, now);
            }
            Report::Failed(result) => {
                task.failures = task.failures.saturating_add(1);
                let again = task.failures <= policy.retries;
                let backoff = pause(policy.backoff, LONGEST_BACKOFF, task.failures);
                (again, JobError::Failed { result }, backoff)
            }
            Report::Lost(loss) => {
                task.losses = task.losses.saturating_add(1);
                let why = JobError::Lost {
                    slave: slave.name.clone(),
                    loss,
                    losses: task.losses,
                };
                let again = policy.idempotent && task.losses <= policy.lost_limit;
                (again, why, Duration::ZERO)
            }
        };
        if !again || self.closed {
            return self.end(key, Err(why));
        }
        task.last = Some(why.clone());
        self.counts.retried += 1;
        self.effects.push(Effect::Retried {
            task: task.task.clone(),
            slave: slave.handle.clone(),
            why,
            pause,
        });
        self.put_back(key, pause, now);
    }

    /// Takes a task from its slave, to be given out again after a pause.
    fn put_back(&mut self, key: Key, pause: Duration, now: Instant) {
        if self.closed {
            return self.end(key, Err(JobError::Closed));
        }
        let Some(task) = self.tasks.get(&key) else {
            return;
        };
        if !self.has_slave_for(&task.want) {
            return self.end_without_slave(key);
        }
        self.running -= 1;
        if pause.is_zero() {
            return self.enqueue(key);
        }
        if let Some(task) = self.tasks.get_mut(&key) {
            let until = now + pause;
            task.stand = Stand::Waiting { until };
            self.timers.insert((until, Timer::Retry(key)));
        }
    }
}
