//! What a task shares with the master's threads: its state, its waiters, its callbacks.
//!
//! One mutex guards the state. It is held for the move from one status to the
//! next and no longer: waiters are woken by it, callbacks run after it.

use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use uuid::Uuid;

use super::error::{Error, TaskError};
use crate::lifecycle::catch;
use crate::task::{Outcome, Status};

type OnComplete = Box<dyn FnOnce(&Value, &Value) + Send>;
type OnFail = Box<dyn FnOnce(&Value, &TaskError) + Send>;

/// What is to be called at the end of a task.
pub(super) enum Callback {
    Complete(OnComplete),
    Fail(OnFail),
}

struct State {
    status: Status,
    callbacks: Vec<Callback>,
}

/// The part of a task that its slave's entry, the results thread and its owners share.
pub(super) struct Job {
    id: Uuid,
    data: Arc<Value>,
    state: Mutex<State>,
    moved: Condvar,
    /// Set once, with the final status, under the state's lock.
    outcome: OnceLock<Outcome>,
}

impl Job {
    pub(super) fn new(id: Uuid, data: Arc<Value>) -> Self {
        Self {
            id,
            data,
            state: Mutex::new(State {
                status: Status::Idle,
                callbacks: Vec::new(),
            }),
            moved: Condvar::new(),
            outcome: OnceLock::new(),
        }
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn data(&self) -> &Value {
        &self.data
    }

    pub(super) fn status(&self) -> Status {
        self.state.lock().status
    }

    /// How it ended, if it was accepted and has.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    pub(super) fn into_outcome(self) -> Option<Outcome> {
        self.outcome.into_inner()
    }

    /// Makes the move if it is legal and wakes who waits for it.
    fn move_to(&self, next: Status) -> Result<(), Status> {
        let mut state = self.state.lock();
        if !state.status.may_become(next) {
            return Err(state.status);
        }
        state.status = next;
        let unused = if next == Status::StartFailed {
            mem::take(&mut state.callbacks)
        } else {
            Vec::new()
        };
        drop(state);
        if next.is_final() {
            self.moved.notify_all();
        }
        drop(unused); // what callbacks captured is the user's, and dropped last and without the lock
        Ok(())
    }

    pub(super) fn begin(&self) -> Result<(), Error> {
        self.move_to(Status::Starting)
            .map_err(|status| Error::NotIdle { status })
    }

    /// The slave accepted. A report that overtook the answer has ended the task already.
    pub(super) fn started(&self) {
        let _ = self.move_to(Status::Started);
    }

    /// The slave did not accept; false if the task has ended all the same, by a report or a loss.
    pub(super) fn start_failed(&self) -> bool {
        self.move_to(Status::StartFailed).is_ok()
    }

    /// Whether the slave has reported how it ended.
    pub(super) fn was_reported(&self) -> bool {
        matches!(
            self.outcome.get(),
            Some(Outcome::Completed(_) | Outcome::Failed(_))
        )
    }

    /// Ends the task; true if there are callbacks to run.
    ///
    /// If there are none, `done` is called before anyone can see the end, and with
    /// the lock held: who has waited for the end finds the task's place free.
    pub(super) fn end(&self, outcome: Outcome, done: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        let calls_back = state.status.may_become(outcome.status()) && !state.callbacks.is_empty();
        if !calls_back {
            done();
        }
        if !state.status.may_become(outcome.status()) {
            log::debug!("task {}: {} already, end ignored", self.id, state.status);
            return false;
        }
        state.status = outcome.status();
        // Empty until now: only this move sets it, and nothing follows it.
        let _ = self.outcome.set(outcome);
        drop(state);
        self.moved.notify_all();
        calls_back
    }

    /// Runs the callbacks that fit the end. Called on the results thread.
    pub(super) fn run_callbacks(&self) {
        let callbacks = mem::take(&mut self.state.lock().callbacks);
        for callback in callbacks {
            self.run(callback);
        }
    }

    fn run(&self, callback: Callback) {
        let ran = match (callback, self.ended()) {
            (Callback::Complete(call), Some(Ok(result))) => catch(|| call(&self.data, result)),
            (Callback::Fail(_), Some(Err(TaskError::StartFailed))) => Ok(()),
            (Callback::Fail(call), Some(Err(error))) => catch(|| call(&self.data, &error)),
            _ => Ok(()),
        };
        if let Err(panic) = ran {
            log::error!("task {}: callback {panic}", self.id);
        }
    }

    pub(super) fn add(&self, callback: Callback) {
        let mut state = self.state.lock();
        if state.status.is_final() {
            drop(state);
            self.run(callback);
        } else {
            state.callbacks.push(callback);
        }
    }

    /// Waits until the task can change no more, or has not begun; false if it was not within the limit.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while matches!(state.status, Status::Starting | Status::Started) {
            match deadline {
                None => self.moved.wait(&mut state),
                Some(deadline) => {
                    if self.moved.wait_until(&mut state, deadline).timed_out() {
                        return !matches!(state.status, Status::Starting | Status::Started);
                    }
                }
            }
        }
        true
    }

    /// What `join` returns, once the task has ended.
    pub(super) fn ended(&self) -> Option<Result<&Value, TaskError>> {
        match self.outcome.get() {
            Some(Outcome::Completed(result)) => Some(Ok(result)),
            Some(Outcome::Failed(result)) => Some(Err(TaskError::Failed {
                result: result.clone(),
            })),
            Some(Outcome::Lost(loss)) => Some(Err(TaskError::Lost { loss: loss.clone() })),
            None if self.status() == Status::StartFailed => Some(Err(TaskError::StartFailed)),
            None => None,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
