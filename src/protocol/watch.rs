//! Where the reader's thread sleeps until bytes come, and how a caller keeps it asleep.
//!
//! A caller that reads in the reader's place must not have the reader woken for each of its
//! messages. Linux lets it say so: the reader sleeps on an epoll descriptor, and to take the socket
//! out of that wakes nobody. Elsewhere callers leave the reading to the reader.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};

use super::stream::Stream;

pub(crate) use sleep::Waker;

/// A stream, and the sleep of the one thread that reads from it by default.
pub(super) struct Watch {
    stream: Arc<Stream>,
    sleep: sleep::Sleep,
}

impl Watch {
    pub(super) fn new(stream: Arc<Stream>) -> io::Result<Self> {
        let sleep = sleep::Sleep::new(&stream)?;
        Ok(Self { stream, sleep })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sleeps until there is something to read, or a rouse after a hush, or the end. It may also
    /// wake for nothing.
    pub(super) fn sleep(&self) -> io::Result<()> {
        self.sleep.sleep(&self.stream)
    }

    /// Lets bytes come without waking the sleeper; false if this system cannot. The end of the
    /// stream may still wake it.
    pub(super) fn hush(&self) -> bool {
        self.sleep.hush(&self.stream).is_ok()
    }

    /// Ends a hush: bytes that have come wake the sleeper now, others later.
    pub(super) fn rouse(&self) -> io::Result<()> {
        self.sleep.rouse(&self.stream)
    }

    /// Waits until there is something to read, or the waker was used, as a thread that is not the sleeper;
    /// false if there is nothing by `deadline`.
    pub(super) fn wait(
        &self,
        deadline: Option<Instant>,
        waker: Option<&Waker>,
    ) -> io::Result<bool> {
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            // A time too long for the kernel is none that anybody waits for.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let stream = PollFd::new(&*self.stream, PollFlags::IN);
            // Without a waker it is the stream alone.
            let fd = waker.and_then(Waker::fd);
            let other = fd.map_or_else(
                || stream.clone(),
                |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN),
            );
            let mut ready = [stream, other];
            let watched = 1 + usize::from(fd.is_some());
            match poll(&mut ready[..watched], left.as_ref()) {
                Ok(0) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            if let Some(waker) = waker
                && fd.is_some()
                && !ready[1].revents().is_empty()
            {
                waker.settle();
            }
            return Ok(true);
        }
    }
}

#[cfg(target_os = "linux")]
mod sleep {
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    use rustix::event::{EventfdFlags, eventfd};

    use super::{Stream, io, retry_on_intr};

    /// Wakes a thread that waits at a stream in the reader's place.
    pub(crate) struct Waker(OwnedFd);

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            Ok(Self(eventfd(0, flags)?))
        }

        /// Wakes the thread, or keeps it from its next wait. It may be woken for nothing later.
        pub(crate) fn wake(&self) {
            // It fails only if it was used so often that nothing can be added, and so is seen.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }

        /// Has been seen.
        pub(super) fn settle(&self) {
            let _ = rustix::io::read(&self.0, &mut [0; 8]);
        }
    }

    pub(super) struct Sleep(OwnedFd);

    impl Sleep {
        pub(super) fn new(stream: &Stream) -> io::Result<Self> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            epoll::add(&epoll, stream, EventData::new_u64(0), EventFlags::IN)?;
            Ok(Self(epoll))
        }

        pub(super) fn sleep(&self, _: &Stream) -> io::Result<()> {
            let mut events = [MaybeUninit::uninit(); 1];
            retry_on_intr(|| epoll::wait(&self.0, &mut events, None).map(drop))?;
            Ok(())
        }

        pub(super) fn hush(&self, stream: &Stream) -> io::Result<()> {
            self.listen_for(stream, EventFlags::empty())
        }

        pub(super) fn rouse(&self, stream: &Stream) -> io::Result<()> {
            self.listen_for(stream, EventFlags::IN)
        }

        fn listen_for(&self, stream: &Stream, events: EventFlags) -> io::Result<()> {
            let none = EventData::new_u64(0);
            Ok(epoll::modify(&self.0, stream, none, events)?)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod sleep {
    use std::os::fd::BorrowedFd;

    use super::{PollFd, PollFlags, Stream, io, poll, retry_on_intr};

    /// Wakes nobody, since no thread waits in the reader's place.
    pub(crate) struct Waker;

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) fn wake(&self) {}

        pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        pub(super) fn settle(&self) {}
    }

    pub(super) struct Sleep;

    impl Sleep {
        pub(super) fn new(_: &Stream) -> io::Result<Self> {
            Ok(Self)
        }

        // A thread that blocks in the read of a UNIX socket is also woken whenever the peer has
        // read something; one that blocks in a poll is not.
        pub(super) fn sleep(&self, stream: &Stream) -> io::Result<()> {
            let mut readable = [PollFd::new(stream, PollFlags::IN)];
            retry_on_intr(|| poll(&mut readable, None))?;
            Ok(())
        }

        pub(super) fn hush(&self, _: &Stream) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn rouse(&self, _: &Stream) -> io::Result<()> {
            Ok(())
        }
    }
}
