//! A connect, accept or handshake under way, and how other threads stop it.
//!
//! The thread that carries an [`Attempt`] out blocks only in [`Attempt::wait`]: a poll of the
//! socket and of a wake descriptor, which is readable for good once the attempt is stopped.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::error::{Error, Kind, Phase};

/// A flag that stops a connect, an accept or a handshake from another thread.
///
/// Clones share the flag. Once set it stays set: it stops every attempt that watches it, and those
/// that are begun with it later, with [`Kind::Cancelled`].
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    set: bool,
    by: Vec<Weak<Inner>>,
}

impl Cancel {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and wakes whoever waits in an attempt that watches it.
    pub fn set(&self) {
        let attempts = {
            let mut watched = self.0.lock();
            watched.set = true;
            std::mem::take(&mut watched.by)
        };
        for attempt in attempts.iter().filter_map(Weak::upgrade) {
            attempt.stop();
        }
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.lock().set
    }
}

/// One connect, accept or handshake under way. Clones are the same attempt.
#[derive(Clone, Debug)]
pub(super) struct Attempt(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stopped: AtomicBool,
    /// Shut down to stop: that makes `wake` readable, for every poll from then on.
    stopper: UnixStream,
    wake: UnixStream,
}

impl Inner {
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // Of a connected pair this cannot fail, and a second time it changes nothing.
        let _ = self.stopper.shutdown(Shutdown::Both);
    }
}

/// What a descriptor is waited to be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    Write,
}

/// Why an attempt goes no further.
#[derive(Debug)]
pub(super) enum Halt {
    TimedOut,
    Stopped,
    Failed(io::Error),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Halt {
    /// The error for the caller; `failure` is what a failure is called that has another cause than
    /// time or somebody's wish.
    pub(super) fn into_error(
        self,
        phase: Phase,
        allowed: Option<Duration>,
        failure: Kind,
    ) -> Error {
        match self {
            Self::TimedOut => {
                let allowed = allowed.unwrap_or_default();
                Error::new(Kind::Timeout { phase, allowed })
            }
            Self::Stopped => Error::new(Kind::Cancelled),
            Self::Failed(error) => Error::caused(failure, error),
        }
    }
}

/// When the time is over that begins now; never, if it is too long for the clock.
pub(super) fn deadline(allowed: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(allowed?)
}

/// The longest that one poll is asked to take, which every system can do.
const LONGEST_POLL: Duration = Duration::from_secs(86_400);

impl Attempt {
    /// An attempt that `cancel` stops; stopped already, if that is set.
    pub(super) fn new(cancel: &Cancel) -> io::Result<Self> {
        let (stopper, wake) = UnixStream::pair()?;
        let inner = Arc::new(Inner {
            stopped: AtomicBool::new(false),
            stopper,
            wake,
        });
        let set = {
            let mut watched = cancel.0.lock();
            watched.by.retain(|attempt| attempt.strong_count() > 0);
            watched.by.push(Arc::downgrade(&inner));
            watched.set
        };
        if set {
            inner.stop();
        }
        Ok(Self(inner))
    }

    /// Ends every wait of this attempt, now and from now on.
    pub(super) fn stop(&self) {
        self.0.stop();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Whether both are the same attempt.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Fails if the attempt is stopped.
    pub(super) fn check(&self) -> Result<(), Halt> {
        if self.is_stopped() {
            return Err(Halt::Stopped);
        }
        Ok(())
    }

    /// Waits until `on` is ready; without it, until the deadline or the stop.
    ///
    /// Both of these go before readiness, so that a peer that always has something to say cannot
    /// draw an attempt out.
    pub(super) fn wait(
        &self,
        on: Option<(BorrowedFd<'_>, Interest)>,
        deadline: Option<Instant>,
    ) -> Result<(), Halt> {
        let wake = self.0.wake.as_fd();
        // With nothing else to wait on, the wake descriptor is polled twice.
        let (on, interest) = on.unwrap_or((wake, Interest::Read));
        let ready = match interest {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        };
        loop {
            self.check()?;
            let rest = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if rest == Some(Duration::ZERO) {
                return Err(Halt::TimedOut);
            }
            let limit = rest
                .map(|rest| rest.min(LONGEST_POLL))
                .map(|limit| Timespec {
                    tv_sec: limit.as_secs() as _,
                    tv_nsec: limit.subsec_nanos() as _,
                });
            let mut polled = [
                PollFd::from_borrowed_fd(wake, PollFlags::IN),
                PollFd::from_borrowed_fd(on, ready),
            ];
            match poll(&mut polled, limit.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) if !polled[0].revents().is_empty() => return Err(Halt::Stopped),
                Ok(_) => return Ok(()),
                Err(error) => return Err(Halt::Failed(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::lifecycle::spawn;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn attempt() -> Attempt {
        Attempt::new(&Cancel::new()).unwrap()
    }

    fn after(length: Duration) -> Option<Instant> {
        deadline(Some(length))
    }

    #[test]
    fn a_descriptor_is_waited_for_until_it_is_ready_or_the_time_is_over() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let attempt = attempt();
        let write = Some((near.as_fd(), Interest::Write));
        attempt.wait(write, after(PATIENCE)).unwrap();
        let read = Some((near.as_fd(), Interest::Read));
        let limit = Duration::from_millis(30);
        for on in [read, None] {
            let begun = Instant::now();
            let end = attempt.wait(on, after(limit));
            assert!(matches!(end, Err(Halt::TimedOut)), "{end:?}");
            assert!(begun.elapsed() >= limit);
        }
        far.write_all(b"x").unwrap();
        attempt.wait(read, None).unwrap();
    }

    #[test]
    fn a_time_too_long_for_the_clock_is_none() {
        assert_eq!(deadline(Some(Duration::MAX)), None);
        assert_eq!(deadline(None), None);
        let (near, _far) = UnixStream::pair().unwrap();
        let write = Some((near.as_fd(), Interest::Write));
        attempt()
            .wait(write, after(100 * 365 * LONGEST_POLL))
            .unwrap();
    }

    #[test]
    fn stop_and_deadline_go_before_readiness() {
        let (near, _far) = UnixStream::pair().unwrap();
        let write = Some((near.as_fd(), Interest::Write));
        let attempt = attempt();
        let end = attempt.wait(write, Some(Instant::now()));
        assert!(matches!(end, Err(Halt::TimedOut)), "{end:?}");
        attempt.stop();
        attempt.stop();
        for deadline in [None, Some(Instant::now())] {
            let end = attempt.wait(write, deadline);
            assert!(matches!(end, Err(Halt::Stopped)), "{end:?}");
        }
    }

    #[test]
    fn a_set_cancel_wakes_every_wait_of_the_attempts_that_watch_it_and_of_no_others() {
        let cancel = Cancel::new();
        let watching = [(); 2].map(|()| Attempt::new(&cancel).unwrap());
        let other = attempt();
        let (ended, ends) = bounded(4);
        let threads: Vec<_> = [&watching[0], &watching[1], &watching[1], &other]
            .into_iter()
            .map(|attempt| {
                let (attempt, ended) = (attempt.clone(), ended.clone());
                let wait = move || {
                    let end = attempt.wait(None, None);
                    ended.send(matches!(end, Err(Halt::Stopped))).unwrap();
                };
                spawn("waits", wait).unwrap()
            })
            .collect();
        let early = ends.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "nobody has stopped it");
        cancel.clone().set();
        for _ in 0..3 {
            assert!(ends.recv_timeout(PATIENCE).unwrap());
        }
        assert!(cancel.is_set());
        assert!(!other.is_stopped());
        assert!(ends.is_empty());
        other.stop();
        assert!(ends.recv_timeout(PATIENCE).unwrap());
        drop(threads);
        assert!(Attempt::new(&cancel).unwrap().is_stopped(), "set for good");
    }

    #[test]
    fn a_cancel_remembers_no_attempt_that_is_over() {
        let cancel = Cancel::new();
        for _ in 0..100 {
            drop(Attempt::new(&cancel).unwrap());
        }
        let live = Attempt::new(&cancel).unwrap();
        assert_eq!(cancel.0.lock().by.len(), 1);
        assert_eq!(Arc::strong_count(&live.0), 1, "and keeps none open");
    }

    #[test]
    fn what_is_shared_between_threads_can_be() {
        fn is_send_sync<T: Send + Sync>() {}
        is_send_sync::<Cancel>();
        is_send_sync::<Attempt>();
    }
}
