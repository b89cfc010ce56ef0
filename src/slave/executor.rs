//! The one place for a task, and the task thread that empties it.
//!
//! A task is accepted for a link and reported to that link only. The place is
//! free again when the work is done and before the report is sent, so that a
//! master which has the report can send the next task at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use uuid::Uuid;

use super::link::Link;
use super::worker::{TaskFail, Worker};
use crate::http::{self, Exchange, Retry};
use crate::lifecycle::{Stop, catch};
use crate::task::Outcome;
use crate::wire::body::Report;
use crate::wire::{MasterCode, Reply};

/// How many finished tasks are remembered, to recognise one that is offered again.
const REMEMBERED: usize = 64;

/// How long a repeated offer waits for the first to be decided.
const DECISION_LIMIT: Duration = Duration::from_secs(30);

/// Where a master takes results.
const COMPLETE: &str = "/slave/task/complete";
/// Where it takes failures.
const FAIL: &str = "/slave/task/fail";

/// A task is known by its link and its id.
type Key = (u64, Uuid);

/// Whether the place for a task is taken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// The user is being asked whether to take it.
    Offered(Option<Key>),
    /// Accepted: waiting for the task thread, or running.
    Taken(Key),
}

struct State {
    place: Place,
    /// Finished tasks, the latest last.
    finished: VecDeque<Key>,
    /// Accepted tasks that nobody has reported yet: one whose report is under way, and one that waits or runs.
    unreported: Vec<Unreported>,
}

struct Unreported {
    key: Key,
    link: Arc<Link>,
    /// Its outcome is there, and the task thread brings it to the master.
    done: bool,
}

/// A task on its way to the task thread.
pub(super) struct Work {
    key: Key,
    link: Arc<Link>,
    data: Value,
}

/// The place for a task.
pub(super) struct Executor {
    state: Mutex<State>,
    changed: Condvar,
    work: Sender<Work>,
}

/// What becomes of an offer.
pub(super) enum Offer<'executor> {
    /// The place was free and is held for it.
    Held(Hold<'executor>),
    /// This very task was accepted before.
    Known,
    /// Another task is there.
    Busy,
}

impl Executor {
    /// The place, and the end of the channel on which the task thread takes work.
    pub(super) fn new() -> (Self, Receiver<Work>) {
        // One task is taken at a time and one may wait while the last one's report is under way.
        let (work, receiver) = crossbeam_channel::bounded(1);
        let state = State {
            place: Place::Free,
            finished: VecDeque::new(),
            unreported: Vec::new(),
        };
        (
            Self {
                state: Mutex::new(state),
                changed: Condvar::new(),
                work,
            },
            receiver,
        )
    }

    /// Offers a task; `id` is none if the request did not tell it.
    pub(super) fn offer(&self, link: &Link, id: Option<Uuid>) -> Offer<'_> {
        let key = id.map(|id| (link.number(), id));
        let deadline = Instant::now() + DECISION_LIMIT;
        let mut state = self.state.lock();
        // The same offer is being decided on another thread: its outcome is the answer.
        while key.is_some() && state.place == Place::Offered(key) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Offer::Busy;
            }
        }
        let known = key
            .is_some_and(|key| state.place == Place::Taken(key) || state.finished.contains(&key));
        if known {
            return Offer::Known;
        }
        if state.place != Place::Free {
            return Offer::Busy;
        }
        state.place = Place::Offered(key);
        Offer::Held(Hold {
            executor: self,
            settled: false,
        })
    }

    /// Waits until every accepted task is done and reported; false if that was not so by `deadline`.
    pub(super) fn wait_idle(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.unreported.is_empty() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.unreported.is_empty();
            }
        }
        true
    }

    /// Gives up what is not done yet, and tells its master so with one request within `limit`.
    ///
    /// What is done stays with the task thread: its report may have arrived, and there must be no second.
    pub(super) fn give_up(&self, limit: Duration) {
        let mut state = self.state.lock();
        let undone: Vec<Unreported> = state.unreported.extract_if(.., |task| !task.done).collect();
        drop(state);
        for Unreported {
            key: (_, id), link, ..
        } in undone
        {
            log::warn!("task {id}: given up, reported as failed");
            let result = json!({"message": "the slave was shut down while it had the task", "error": "Stopped"});
            let retry = Retry {
                retries: 0,
                waiting: Duration::ZERO,
                total: limit,
            };
            if let Err(error) = link.report(FAIL, &Report::write(id, &result), &retry) {
                log::warn!("task {id}: its end could not be reported: {error}");
            }
        }
    }

    /// The life of the task thread.
    pub(super) fn run(
        &self,
        work: &Receiver<Work>,
        worker: &dyn Worker,
        retry: &Retry,
        stop: &Stop,
    ) {
        loop {
            let work = crossbeam_channel::select! {
                recv(work) -> work => match work { Ok(work) => work, Err(_) => return },
                recv(stop.channel()) -> _ => return,
            };
            let Work { key, link, data } = work;
            if !self.is_ours(key) {
                return; // taken over, so the slave is at its end
            }
            if link.ended().is_stopped() {
                log::info!(
                    "task {}: its connection ended before it began, not run",
                    key.1
                );
                self.finish(key);
                self.reported(key);
                continue;
            }
            let outcome = process(worker, key.1, data);
            if self.finish(key) {
                report(&link, key.1, outcome, retry);
            }
            self.reported(key);
        }
    }

    fn is_ours(&self, key: Key) -> bool {
        self.state
            .lock()
            .unreported
            .iter()
            .any(|task| task.key == key)
    }

    /// Frees the place of a task that is done; true if it is still ours to report.
    fn finish(&self, key: Key) -> bool {
        let mut state = self.state.lock();
        state.place = Place::Free;
        if state.finished.len() == REMEMBERED {
            state.finished.pop_front();
        }
        state.finished.push_back(key);
        self.changed.notify_all();
        let ours = state.unreported.iter_mut().find(|task| task.key == key);
        ours.map(|task| task.done = true).is_some()
    }

    fn reported(&self, key: Key) {
        self.state.lock().unreported.retain(|task| task.key != key);
        self.changed.notify_all();
    }
}

/// The place, held for an offer while the user is asked. Dropped unused, it is free again.
pub(super) struct Hold<'executor> {
    executor: &'executor Executor,
    settled: bool,
}

impl Hold<'_> {
    /// Accepts the task.
    pub(super) fn accept(mut self, link: Arc<Link>, id: Uuid, data: Value) {
        let key = (link.number(), id);
        let mut state = self.executor.state.lock();
        state.place = Place::Taken(key);
        state.unreported.push(Unreported {
            key,
            link: link.clone(),
            done: false,
        });
        drop(state);
        self.executor.changed.notify_all();
        self.settled = true;
        // There is room: the one task before this has left the channel, or the place were not free.
        if self
            .executor
            .work
            .try_send(Work { key, link, data })
            .is_err()
        {
            log::error!("task {id}: accepted after the task thread ended");
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.executor.state.lock().place = Place::Free;
            self.executor.changed.notify_all();
        }
    }
}

/// Does the work; a panic fails the task.
fn process(worker: &dyn Worker, id: Uuid, data: Value) -> Outcome {
    let result =
        catch(|| worker.process(data)).unwrap_or_else(|panic| Err(TaskFail::panicked(&panic)));
    match result {
        Ok(result) => Outcome::Completed(result),
        Err(fail) => {
            log::warn!("task {id}: {fail}");
            Outcome::Failed(fail.into_result())
        }
    }
}

/// Brings an outcome to the master. The one place where a result leaves the slave.
///
/// A result the master does not take, because it is too long for instance, is
/// replaced by a failure that says so: whoever waits for the task would wait for ever.
fn report(link: &Link, id: Uuid, outcome: Outcome, retry: &Retry) {
    let (path, result) = match outcome {
        Outcome::Completed(result) => (COMPLETE, result),
        Outcome::Failed(result) => (FAIL, result),
        Outcome::Lost(_) => return, // only a master sees a task so
    };
    let Some(refused) = deliver(link, id, path, &result, retry) else {
        return;
    };
    log::warn!("task {id}: result refused, reported as failed: {refused}");
    let message = format!("the master did not take the result: {refused}");
    let result = json!({"message": message, "error": "Refused"});
    if let Some(refused) = deliver(link, id, FAIL, &result, retry) {
        log::error!("task {id}: the master takes no report of it: {refused}");
    }
}

/// Sends a report; what the master has against it, if it does not take it.
///
/// One that gets no answer, or one that says "not now", is sent again for as
/// long as the link lives. A master that does not know this slave any more wants none.
fn deliver(link: &Link, id: Uuid, path: &str, result: &Value, retry: &Retry) -> Option<String> {
    let request = Report::write(id, result);
    while !link.ended().is_stopped() {
        match link.report(path, &request, retry) {
            Ok(answer) => match answer.status {
                // A master may say no with a good status, lest it end the task thread of a Python slave.
                status if status < 400 => match Reply::read(status, &answer.body) {
                    Ok(reply) if !reply.success => return Some(words(&answer)),
                    _ => {
                        log::debug!("task {id}: reported, {}", words(&answer));
                        return None;
                    }
                },
                401 | 403 => {
                    log::warn!("task {id}: result dropped: {}", words(&answer));
                    return None;
                }
                // A master with too many bodies under way, a proxy whose master is away.
                502..=504 => log::warn!("task {id}: not reported yet: {}", words(&answer)),
                _ => return Some(words(&answer)),
            },
            Err(http::Error::Stopped) => break,
            Err(error) => log::warn!("task {id}: not reported yet: {error}"),
        }
        link.ended()
            .wait_timeout(retry.waiting.max(Duration::from_millis(100)));
    }
    log::warn!("task {id}: its connection has ended, result dropped");
    None
}

/// A master's answer to a report, for the log.
fn words(answer: &Exchange) -> String {
    let reply = Reply::read(answer.status, &answer.body);
    match reply.map(Reply::into_result::<MasterCode>) {
        Ok(Ok(reply)) => format!("answered {:?} (code {})", reply.message, reply.code),
        Ok(Err(refusal)) => refusal.to_string(),
        Err(error) => error.to_string(),
    }
}
