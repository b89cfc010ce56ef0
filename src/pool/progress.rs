//! How far a pool is: a picture of a moment, and an observer that is told of each change.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::error::JobError;
use crate::lifecycle::catch;

/// What a pool holds at a moment; see [`Pool::snapshot`](super::Pool::snapshot).
///
/// Every task that was submitted is in exactly one of `queued`, `running`, `done`, `failed`, `lost`
/// and `dropped`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Tasks that wait for a slave, or for their next try.
    pub queued: usize,
    /// Tasks that a slave is working on, or being offered.
    pub running: usize,
    /// Tasks that ended with a result.
    pub done: u64,
    /// Tasks that ended as [`Failed`](JobError::Failed).
    pub failed: u64,
    /// Tasks that ended as [`Lost`](JobError::Lost).
    pub lost: u64,
    /// Tasks that ended in any other way: refused, without a slave, cancelled, beyond their deadline, closed.
    pub dropped: u64,
    /// How often a task went back to the queue because it failed or its slave was lost.
    pub retried: u64,
    /// The slaves, in the order in which they were added.
    pub slaves: Vec<SlaveStatus>,
}

impl Snapshot {
    /// How many tasks have not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.queued + self.running
    }

    /// How many tasks have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.done + self.failed + self.lost + self.dropped
    }
}

/// One slave of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlaveStatus {
    /// The name it has in its pool.
    pub name: String,
    /// Its address, as `http://host:port`.
    pub address: String,
    /// The labels it was given.
    pub labels: Vec<String>,
    /// Where it stands.
    pub state: SlaveState,
    /// The task it is working on. None while it works on one that has ended for its owner.
    pub running: Option<Uuid>,
    /// How many tasks it has reported, as completed or failed.
    pub finished: u64,
    /// How often it was lost after it had been connected.
    pub losses: u64,
    /// How long ago it was last heard of, if it is connected.
    pub last_beat: Option<Duration>,
    /// Why it is not connected, or what it said last, if that was not a result.
    pub trouble: Option<String>,
}

/// Where a slave of a pool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlaveState {
    /// Not connected; it is tried again until the connect deadline.
    Connecting,
    /// Connected, with nothing to do.
    Free,
    /// Connected, and working on a task of this pool.
    Running,
    /// Connected, and working on something else; it is asked again in a while.
    Busy,
    /// Removed from the pool, or the pool is closing: it may end its task and is then disconnected.
    Leaving,
    /// Not connected, and not tried again.
    GivenUp,
    /// Removed: no more than the last word to an observer.
    Gone,
}

impl SlaveState {
    /// Whether the slave is connected to the master.
    #[must_use]
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Free | Self::Running | Self::Busy)
    }
}

impl fmt::Display for SlaveState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Free => "free",
            Self::Running => "running",
            Self::Busy => "busy",
            Self::Leaving => "leaving",
            Self::GivenUp => "given up",
            Self::Gone => "gone",
        })
    }
}

/// Is told what happens in a pool; every method has a default that does nothing.
///
/// The methods run without any lock held, on the thread on which it happened: that of a slave, the keeper's,
/// or one that calls the pool. Several may run at the same time, and until one returns its thread does nothing else,
/// so they should be quick. A panic is caught and logged. They may call the pool, but not what waits for it
/// ([`Job::join`](super::Job::join), [`Pool::join`](super::Pool::join), [`Pool::submit`](super::Pool::submit)
/// where [`Pool::try_submit`](super::Pool::try_submit) would not): it may wait for them.
///
/// Whoever learns of a task's end from its [`Job`](super::Job) or a map finds that the observer has been told.
pub trait Observer: Send + Sync + 'static {
    /// A slave was connected, lost, set aside because it is busy with something else, given up or removed.
    ///
    /// That it has begun or ended a task is told by the other methods only.
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        let _ = change;
    }

    /// A slave accepted a task; its end may have come already.
    fn task_started(&self, started: &TaskStarted<'_>) {
        let _ = started;
    }

    /// A task goes back to the queue, because it failed or its slave was lost.
    fn task_retried(&self, retried: &TaskRetried<'_>) {
        let _ = retried;
    }

    /// A task has ended. Called once for each that was submitted.
    fn task_ended(&self, ended: &TaskEnded<'_>) {
        let _ = ended;
    }
}

/// A slave's new state; see [`Observer::slave_changed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SlaveChange<'a> {
    /// The slave's name.
    pub slave: &'a str,
    /// Where it stands now.
    pub state: SlaveState,
    /// Why, if it was not asked for.
    pub why: Option<&'a str>,
}

/// The beginning of a task at a slave; see [`Observer::task_started`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskStarted<'a> {
    /// The [id](super::Job::id) of the task.
    pub id: Uuid,
    /// The slave's name.
    pub slave: &'a str,
}

/// A task that is tried again; see [`Observer::task_retried`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskRetried<'a> {
    /// The [id](super::Job::id) of the task.
    pub id: Uuid,
    /// The name of the slave at which it failed, or which was lost.
    pub slave: &'a str,
    /// What would have been its end.
    pub why: &'a JobError,
    /// How long it waits before it is queued.
    pub pause: Duration,
}

/// The end of a task; see [`Observer::task_ended`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskEnded<'a> {
    /// The [id](super::Job::id) of the task.
    pub id: Uuid,
    /// The name of the slave that it was at, if it was at one.
    pub slave: Option<&'a str>,
    /// Its result, or why there is none.
    pub result: Result<&'a Value, &'a JobError>,
}

/// The observer of a pool that was given none.
pub(super) struct NoObserver;

impl Observer for NoObserver {}

/// Calls an observer's method; its panic ends the call and nothing else.
pub(super) fn tell(method: &'static str, call: impl FnOnce()) {
    if let Err(panic) = catch(call) {
        log::error!("observer {method}: {panic}");
    }
}
