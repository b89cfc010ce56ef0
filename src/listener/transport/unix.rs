//! Streams, sockets that listen and the bell on UNIX systems.
//!
//! No call here blocks in a read, a write or an accept: each wait is a poll, of a socket and the bell.

use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, SockAddr, Socket, Type};

use super::*;

/// The longest path of a socket: what the system's address has room for, without the zero.
const PATH_LIMIT: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// What a child asks for; most systems give less.
const SEND_BUFFER: usize = 1 << 20;

/// A child that is gone must not end the process with SIGPIPE, whatever its host has set.
#[cfg(not(target_vendor = "apple"))]
const QUIET: SendFlags = SendFlags::NOSIGNAL;
/// Here std and socket2 set that on each socket they make.
#[cfg(target_vendor = "apple")]
const QUIET: SendFlags = SendFlags::empty();

/// Ends the waits of any number of threads at once, for good.
#[derive(Debug)]
pub(in super::super) struct Bell {
    /// To drop it is to ring.
    rope: Mutex<Option<UnixStream>>,
    sound: UnixStream,
}

impl Bell {
    pub(in super::super) fn new() -> io::Result<Self> {
        let (rope, sound) = UnixStream::pair()?;
        Ok(Self {
            rope: Mutex::new(Some(rope)),
            sound,
        })
    }

    pub(in super::super) fn ring(&self) {
        let rope = self.rope.lock().take();
        drop(rope);
    }

    /// Waits up to `limit`; true if it is rung.
    pub(in super::super) fn wait(&self, limit: Duration) -> bool {
        let waited = wait_for(None, Some(self), Wait::Until(Instant::now() + limit));
        matches!(waited, Ok(Ready::Rung))
    }
}

enum Ready {
    Socket,
    Rung,
    Neither,
}

/// Waits for a socket or a bell; of the two the bell comes first.
fn wait_for(
    socket: Option<(BorrowedFd<'_>, PollFlags)>,
    bell: Option<&Bell>,
    wait: Wait,
) -> io::Result<Ready> {
    let mut fds = Vec::with_capacity(2);
    fds.extend(bell.map(|bell| PollFd::from_borrowed_fd(bell.sound.as_fd(), PollFlags::IN)));
    fds.extend(socket.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    let count = loop {
        let limit = left(wait).map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut fds, limit.as_ref()) {
            Err(Errno::INTR) => {}
            count => break count?,
        }
    };
    Ok(match bell {
        _ if count == 0 => Ready::Neither,
        Some(_) if !fds[0].revents().is_empty() => Ready::Rung,
        _ => Ready::Socket,
    })
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Reads what there is; waits for something if there is nothing.
    pub(in super::super) fn read(
        &self,
        buffer: &mut [u8],
        wait: Wait,
        bell: Option<&Bell>,
    ) -> io::Result<Read> {
        loop {
            match retry_on_intr(|| recv(self, &mut *buffer, RecvFlags::DONTWAIT)) {
                Err(Errno::AGAIN) => {}
                Ok((0, _)) => return Ok(Read::End),
                received => return Ok(Read::Bytes(received?.0)),
            }
            if matches!(wait, Wait::Never) {
                return Ok(Read::Nothing);
            }
            match wait_for(Some((self.as_fd(), PollFlags::IN)), bell, wait)? {
                Ready::Socket => {}
                Ready::Rung => return Ok(Read::Rung),
                Ready::Neither => return Ok(Read::Nothing),
            }
        }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn is_hung_up(&self) -> bool {
        let ready = wait_for(Some((self.as_fd(), PollFlags::RDHUP)), None, Wait::Never);
        matches!(ready, Ok(Ready::Socket))
    }

    /// Writes some of the bytes; none if there was no room in time.
    pub(in super::super) fn write(&self, bytes: &[u8], wait: Wait) -> io::Result<usize> {
        loop {
            match retry_on_intr(|| send(self, bytes, SendFlags::DONTWAIT | QUIET)) {
                Err(Errno::AGAIN) if matches!(wait, Wait::Never) => return Ok(0),
                Err(Errno::AGAIN) => {}
                sent => return Ok(sent?),
            }
            let ready = wait_for(Some((self.as_fd(), PollFlags::OUT)), None, wait)?;
            if matches!(ready, Ready::Neither) {
                return Ok(0);
            }
        }
    }
}

pub(super) fn connect_unix(path: &str, limit: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A connect waits while the backlog is full; on Linux this limits it.
    socket.set_write_timeout(Some(limit))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_write_timeout(None)?;
    // As much as the system allows: a child that posts a lot then sleeps less often.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    Ok(socket.into())
}

/// The socket that children connect to.
#[derive(Debug)]
pub(in super::super) struct Acceptor {
    socket: Listening,
    address: String,
}

#[derive(Debug)]
enum Listening {
    // The directory goes after the socket has stopped listening.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "owned for its drop")] Directory,
    ),
    Tcp(TcpListener),
}

impl Acceptor {
    pub(in super::super) fn bind(transport: Transport) -> io::Result<Self> {
        let (socket, address) = match transport {
            Transport::Unix => {
                let (socket, directory) = bind_unix()?;
                let path = directory.socket();
                let path = path.to_str().ok_or(ErrorKind::InvalidFilename)?.to_owned();
                socket.set_nonblocking(true)?;
                (Listening::Unix(socket, directory), path)
            }
            Transport::Tcp => {
                let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let address = format!("{TCP}{}", socket.local_addr()?);
                socket.set_nonblocking(true)?;
                (Listening::Tcp(socket), address)
            }
        };
        Ok(Self { socket, address })
    }

    pub(in super::super) fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next connection; none once the bell is rung.
    pub(in super::super) fn accept(&self, bell: &Bell) -> io::Result<Option<Stream>> {
        loop {
            let fd = match &self.socket {
                Listening::Unix(socket, _) => socket.as_fd(),
                Listening::Tcp(socket) => socket.as_fd(),
            };
            match wait_for(Some((fd, PollFlags::IN)), Some(bell), Wait::Always)? {
                Ready::Rung => return Ok(None),
                Ready::Socket | Ready::Neither => {}
            }
            let accepted = match &self.socket {
                Listening::Unix(socket, _) => {
                    socket.accept().map(|(stream, _)| Stream::Unix(stream))
                }
                Listening::Tcp(socket) => socket.accept().map(|(stream, _)| Stream::Tcp(stream)),
            };
            match accepted {
                // It was gone again before it was accepted.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
                Err(error) if is_gone(&error) => {}
                Ok(Stream::Tcp(stream)) => {
                    // Without this a last word could be held back; not worth a refusal.
                    let _ = stream.set_nodelay(true);
                    return Ok(Some(Stream::Tcp(stream)));
                }
                accepted => return accepted.map(Some),
            }
        }
    }
}

/// Binds in the directory for temporary files or, if the path gets too long there or it will
/// not do for another reason, in `/tmp`.
fn bind_unix() -> io::Result<(UnixListener, Directory)> {
    let bind = |parent: &Path| {
        // Children may have another working directory.
        let directory = Directory::new(&std::path::absolute(parent)?)?;
        let path = directory.socket();
        if path.to_str().is_none_or(|path| path.len() > PATH_LIMIT) {
            return Err(ErrorKind::InvalidFilename.into());
        }
        Ok((UnixListener::bind(path)?, directory))
    };
    bind(&std::env::temp_dir()).or_else(|_| bind(Path::new("/tmp")))
}

/// A directory of our own, with at most one socket in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    /// The name is random, so nobody can have prepared it: it either is new and ours, or an error.
    fn new(parent: &Path) -> io::Result<Self> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        let path = parent.join(format!("interplay-{:016x}", u64::from_ne_bytes(bytes)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
        if let Err(error) = fs::remove_dir(&self.0) {
            log::warn!("{}: not removed: {error}", self.0.display());
        }
    }
}
