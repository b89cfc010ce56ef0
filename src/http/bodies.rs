//! The threads that read long bodies, so that the dispatcher need not.
//!
//! A body that is not in memory yet comes when its client likes, if ever, and
//! nothing can end the wait for it but the client. So each is read by a thread
//! of its own, and there are only so many.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use crate::lifecycle::{Leftover, Thread, Threads, spawn};

/// How long a thread that is done waits for another body.
const LINGER: Duration = Duration::from_secs(1);

/// Something whose drop may wait for the rest of a body.
pub(super) type Rest = Box<dyn Send>;

type Job = Box<dyn FnOnce() + Send>;

/// The body threads of one server.
pub(super) struct Bodies {
    thread_name: String,
    most: usize,
    state: Mutex<State>,
    /// Without capacity, so that a job is taken by a thread that waits for it or not at all.
    /// `None` at the end, which threads that wait see as theirs.
    jobs: Mutex<Option<Sender<Job>>>,
    taken: Receiver<Job>,
    /// Those started and not yet joined.
    threads: Threads,
}

#[derive(Default)]
struct State {
    /// Threads at work; those that wait do not count.
    working: usize,
    rests: Vec<Rest>,
}

impl Bodies {
    pub(super) fn new(thread_name: String, most: usize) -> Self {
        let (jobs, taken) = crossbeam_channel::bounded(0);
        Self {
            thread_name,
            most,
            state: Mutex::default(),
            jobs: Mutex::new(Some(jobs)),
            taken,
            threads: Threads::default(),
        }
    }

    /// Runs `work` on a body thread; gives `item` back if there is no room, or no thread.
    pub(super) fn start<T, W>(self: &Arc<Self>, item: T, work: W) -> Result<(), T>
    where
        T: Send + 'static,
        W: FnOnce(T) + Send + 'static,
    {
        let mut state = self.state.lock();
        if state.working >= self.most {
            return Err(item);
        }
        state.working += 1;
        drop(state);
        self.run(item, work)
    }

    /// Takes what must be dropped where waiting is allowed.
    pub(super) fn discard(self: &Arc<Self>, rest: Rest) {
        let mut state = self.state.lock();
        if state.working >= self.most {
            state.rests.push(rest); // the next thread that is done sees to it
            return;
        }
        state.working += 1;
        drop(state);
        if let Err(rest) = self.run(rest, drop) {
            self.state.lock().rests.push(rest);
        }
    }

    /// Runs `work` on a thread that waits, or a new one; it is already counted.
    fn run<T, W>(self: &Arc<Self>, item: T, work: W) -> Result<(), T>
    where
        T: Send + 'static,
        W: FnOnce(T) + Send + 'static,
    {
        let place = Place(self.clone());
        // Beside the job, so that it is not lost with a thread that cannot be started.
        let slot = Arc::new(Mutex::new(Some(item)));
        let job: Job = Box::new({
            let slot = slot.clone();
            move || {
                let _place = place;
                let item = slot.lock().take();
                if let Some(item) = item {
                    work(item);
                }
            }
        });
        let jobs = self.jobs.lock().clone();
        let job = match jobs.map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(refused)) => refused.into_inner(),
            None => return slot.lock().take().map_or(Ok(()), Err),
        };
        match self.thread(job) {
            Ok(thread) => {
                self.adopt(thread);
                Ok(())
            }
            Err(error) => {
                log::warn!("{}: no thread for a body: {error}", self.thread_name);
                slot.lock().take().map_or(Ok(()), Err)
            }
        }
    }

    fn thread(&self, first: Job) -> io::Result<Thread> {
        let jobs = self.taken.clone();
        spawn(&self.thread_name, move || {
            first();
            while let Ok(job) = jobs.recv_timeout(LINGER) {
                job();
            }
        })
    }

    /// Keeps a thread to be joined, and joins those that have ended.
    fn adopt(&self, thread: Thread) {
        let _ = self.threads.join_until(Instant::now());
        self.threads.push(thread);
    }

    /// Takes no more, and joins all threads until `deadline`; those still running stay here.
    pub(super) fn join_until(&self, deadline: Instant) -> Result<(), Leftover> {
        let jobs = self.jobs.lock().take();
        drop(jobs);
        self.threads.join_until(deadline)
    }
}

impl Drop for Bodies {
    fn drop(&mut self) {
        // Both would wait, and have been waited for: what is left is left to itself.
        std::mem::forget(std::mem::take(&mut self.state.get_mut().rests));
        self.threads.leave();
    }
}

/// A thread's place among the running ones. Its end takes care of the rests.
struct Place(Arc<Bodies>);

impl Drop for Place {
    fn drop(&mut self) {
        loop {
            let mut state = self.0.state.lock();
            let Some(rest) = state.rests.pop() else {
                state.working -= 1;
                return;
            };
            drop(state);
            drop(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Stop;

    #[test]
    fn there_is_room_for_so_many_and_for_the_rests_afterwards() {
        let bodies = Arc::new(Bodies::new("t-body".into(), 2));
        let stop = Stop::new();
        let wait = |stop: Stop| stop.wait();
        assert!(bodies.start(stop.clone(), wait).is_ok());
        assert!(bodies.start(stop.clone(), wait).is_ok());
        assert!(bodies.start(stop.clone(), wait).is_err());

        let (alive, dropped) = crossbeam_channel::bounded::<()>(0);
        bodies.discard(Box::new(alive));
        stop.stop();
        let limit = Instant::now() + Duration::from_secs(60);
        assert!(dropped.recv_deadline(limit).is_err_and(|e| !e.is_timeout()));
        let (alive, dropped) = crossbeam_channel::bounded::<()>(0);
        bodies.discard(Box::new(alive));
        assert!(dropped.recv_deadline(limit).is_err_and(|e| !e.is_timeout()));
        assert_eq!(bodies.join_until(limit), Ok(()));
        assert!(bodies.start((), drop).is_err(), "no more after the end");
    }

    #[test]
    fn a_thread_that_is_done_takes_another_and_one_that_is_not_is_named() {
        let bodies = Arc::new(Bodies::new("t-body".into(), 2));
        let (sent, received) = crossbeam_channel::unbounded();
        let mut seen = Vec::new();
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let sent = sent.clone();
            // The thread before may still be at work, if only with its end.
            let _ = bodies.start((), move |()| {
                sent.send(std::thread::current().id()).unwrap()
            });
            let id = received.recv_deadline(limit).unwrap();
            if seen.contains(&id) {
                break;
            }
            seen.push(id);
        }
        let stop = Stop::new();
        let wait = |stop: Stop| stop.wait();
        while bodies.start(stop.clone(), wait).is_err() {}
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(bodies.join_until(soon).unwrap_err().threads, ["t-body"]);
        stop.stop();
        assert_eq!(bodies.join_until(limit), Ok(()));
    }
}
