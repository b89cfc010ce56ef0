//! Named threads that are joined by their owner.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::thread::{self, Builder, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use parking_lot::Mutex;

use super::panic::catch;

/// How long a drop waits for the threads it joins, unless its owner says otherwise.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Linux keeps 15 bytes of a thread's name.
const NAME_LIMIT: usize = 15;

/// Starts a named thread.
///
/// A panic of `body` is logged and ends the thread only. The name is cut to
/// 15 bytes, which is what Linux shows.
pub(crate) fn spawn<F>(name: impl Into<String>, body: F) -> io::Result<Thread>
where
    F: FnOnce() + Send + 'static,
{
    let mut name = name.into();
    name.truncate(NAME_LIMIT);
    let (alive, ended) = crossbeam_channel::bounded::<Infallible>(0);
    let handle = Builder::new().name(name.clone()).spawn({
        let name = name.clone();
        move || {
            let _alive = alive; // dropped last: the thread's end is this channel's end
            if catch(body).is_err() {
                log::error!("thread {name}: ended by a panic");
            }
        }
    })?;
    Ok(Thread {
        name,
        ended,
        handle: Some(handle),
    })
}

/// A running thread and the duty to join it.
///
/// Dropping it joins with the default grace; a thread that has not ended by
/// then is left to itself and logged.
#[derive(Debug)]
pub(crate) struct Thread {
    name: String,
    ended: Receiver<Infallible>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Joins until `deadline`; true if the thread has ended.
    ///
    /// A thread that tries to join itself gets false at once.
    pub(crate) fn join_until(&mut self, deadline: Instant) -> bool {
        let Some(handle) = self.handle.take() else {
            return true;
        };
        let own = handle.thread().id() == std::thread::current().id();
        if own || self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            self.handle = Some(handle);
            return false;
        }
        // The closure of `spawn` caught the panic already; there is no error left to see.
        let _ = handle.join();
        true
    }

    /// Leaves the thread to itself: nobody joins it, and this drop does not wait.
    pub(crate) fn leave(mut self) {
        self.handle = None;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let own = self
            .handle
            .as_ref()
            .is_some_and(|h| h.thread().id() == std::thread::current().id());
        if !own && !self.join_until(Instant::now() + GRACE) {
            log::warn!(
                "thread {}: still running after {GRACE:?}, left to itself",
                self.name
            );
        }
    }
}

/// Threads that have one owner, and any number of threads that wait for their end.
///
/// Dropping it joins them, each with the default grace.
#[derive(Debug, Default)]
pub(crate) struct Threads(Mutex<Vec<Thread>>);

impl Threads {
    pub(crate) fn push(&self, thread: Thread) {
        self.0.lock().push(thread);
    }

    /// Waits for all until `deadline`; the names of those still running are the error.
    ///
    /// Several may wait at once, and each learns the same.
    pub(crate) fn join_until(&self, deadline: Instant) -> Result<(), Leftover> {
        type Seen = (String, ThreadId, Receiver<Infallible>);
        let seen = |thread: &Thread| -> Option<Seen> {
            let id = thread.handle.as_ref()?.thread().id();
            Some((thread.name.clone(), id, thread.ended.clone()))
        };
        let running: Vec<Seen> = self.0.lock().iter().filter_map(seen).collect();
        let runs_on = |(_, id, ended): &Seen| {
            *id == thread::current().id()
                || ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout)
        };
        let left: Vec<Seen> = running.into_iter().filter(runs_on).collect();
        self.reap();
        if left.is_empty() {
            return Ok(());
        }
        let threads = left.into_iter().map(|(name, ..)| name).collect();
        Err(Leftover { threads })
    }

    /// Joins those that have ended already.
    pub(crate) fn reap(&self) {
        let has_ended =
            |thread: &mut Thread| thread.ended.try_recv() == Err(TryRecvError::Disconnected);
        let ended: Vec<Thread> = self.0.lock().extract_if(.., has_ended).collect();
        drop(ended); // joins them, without the lock
    }

    /// Leaves all threads to themselves: nobody joins them.
    pub(crate) fn leave(&self) {
        let threads = std::mem::take(&mut *self.0.lock());
        threads.into_iter().for_each(Thread::leave);
    }
}

impl From<Thread> for Threads {
    fn from(thread: Thread) -> Self {
        Self(Mutex::new(vec![thread]))
    }
}

/// Threads that had not ended when the time for joining them was over.
///
/// They were told to stop and end when what holds them (a callback, a task of
/// the user) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// The names of the threads.
    pub threads: Vec<String>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "still running: {}", self.threads.join(", "))
    }
}

impl std::error::Error for Leftover {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Stop;

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn a_thread_is_named_joined_and_reported_while_it_runs() {
        let stop = Stop::new();
        let thread = spawn("a-name-that-is-too-long", {
            let stop = stop.clone();
            move || stop.wait()
        })
        .unwrap();
        let threads = Threads::from(thread);
        let left = threads.join_until(soon(5)).unwrap_err();
        assert_eq!(left.threads, ["a-name-that-is-"]);
        stop.stop();
        assert_eq!(threads.join_until(soon(60_000)), Ok(()));
        assert_eq!(
            threads.join_until(soon(0)),
            Ok(()),
            "joining again is harmless"
        );
    }

    #[test]
    fn a_panic_ends_the_thread_and_nothing_else() {
        let mut thread = spawn("panics", || panic!("as planned")).unwrap();
        assert!(thread.join_until(soon(60_000)));
    }

    #[test]
    fn a_thread_left_to_itself_is_not_waited_for() {
        let stop = Stop::new();
        let (done, ended) = crossbeam_channel::bounded(1);
        let thread = spawn("left", {
            let stop = stop.clone();
            move || {
                stop.wait();
                let _ = done.send(());
            }
        })
        .unwrap();
        let start = Instant::now();
        thread.leave();
        assert!(start.elapsed() < GRACE);
        stop.stop();
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn several_may_wait_for_the_same_threads() {
        let stop = Stop::new();
        let awaited = spawn("awaited", {
            let stop = stop.clone();
            move || stop.wait()
        });
        let threads = std::sync::Arc::new(Threads::from(awaited.unwrap()));
        let wait = |limit: u64| {
            let threads = threads.clone();
            Builder::new()
                .spawn(move || threads.join_until(soon(limit)))
                .unwrap()
        };
        let waiting = [wait(5), wait(5)];
        for waiter in waiting {
            assert_eq!(waiter.join().unwrap().unwrap_err().threads, ["awaited"]);
        }
        let waiting = [wait(60_000), wait(60_000)];
        stop.stop();
        for waiter in waiting {
            assert_eq!(waiter.join().unwrap(), Ok(()));
        }
    }

    #[test]
    fn a_thread_does_not_join_itself() {
        let (send, receive) = crossbeam_channel::bounded::<Thread>(1);
        let (report, reported) = crossbeam_channel::bounded(1);
        let thread = spawn("selfish", move || {
            let mut own = receive.recv().unwrap();
            report.send(own.join_until(soon(60_000))).unwrap();
        })
        .unwrap();
        send.send(thread).unwrap();
        assert!(!reported.recv_timeout(Duration::from_secs(30)).unwrap());
    }
}
