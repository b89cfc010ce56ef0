//! The streams between a child and its listener: UNIX sockets or loopback TCP, behind one type.
//!
//! A [`Stream`] is read and written by parts, each with its own limit of time, and a read ends when
//! a [`Bell`] is rung. An [`Acceptor`] is the socket that children connect to; that of a UNIX
//! socket owns the private directory it is in, and removes both when it is dropped.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::queue::Wait;

#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};

/// How children reach their listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// By a UNIX socket in a directory that only the user can enter.
    #[cfg(unix)]
    Unix,
    /// By TCP on the loopback interface, which other users of the machine can reach too: what
    /// keeps them out is the token.
    Tcp,
}

impl Default for Transport {
    /// UNIX sockets where there are any.
    fn default() -> Self {
        #[cfg(unix)]
        return Self::Unix;
        #[cfg(not(unix))]
        Self::Tcp
    }
}

/// What an address of the TCP transport begins with; any other is a path.
const TCP: &str = "tcp:";

/// A connected stream of bytes.
#[derive(Debug)]
pub(super) enum Stream {
    #[cfg(unix)]
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// The end of the stream.
    End,
    /// Nothing in time.
    Nothing,
    /// The bell was rung before anything came.
    Rung,
}

impl Stream {
    /// Connects to an address, as it is in the environment.
    pub(super) fn connect(address: &str, limit: Duration) -> io::Result<Self> {
        if let Some(address) = address.strip_prefix(TCP) {
            let address: SocketAddr = address
                .parse()
                .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
            let stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_nodelay(true)?;
            return Ok(Self::Tcp(stream));
        }
        #[cfg(unix)]
        return connect_unix(address, limit).map(Self::Unix);
        #[cfg(not(unix))]
        Err(io::Error::new(ErrorKind::Unsupported, "no UNIX sockets"))
    }

    /// Whether a write fails as soon as the other side has given up reading. If not, the other
    /// side's last frame has to be looked for before each write.
    pub(super) fn write_tells(&self) -> bool {
        #[cfg(target_os = "linux")]
        return matches!(self, Self::Unix(_));
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Whether the other side has ended, even if what it said before is not read yet. Where the
    /// system does not tell, it has not.
    pub(super) fn has_ended(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.is_hung_up();
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Lets the other side's writes fail, if this system keeps what has come already.
    ///
    /// Returns whether it did; the end of the stream then follows what has come.
    pub(super) fn stop_reading(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Self::Unix(stream) = self {
            return stream.shutdown(std::net::Shutdown::Read).is_ok();
        }
        false
    }
}

/// Errors by which a system says that the other side is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
    )
}

/// How long a wait may last from now on; none is for ever.
fn left(wait: Wait) -> Option<Duration> {
    match wait {
        Wait::Never => Some(Duration::ZERO),
        Wait::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
        Wait::Always => None,
    }
}

#[cfg(unix)]
mod unix;

#[cfg(unix)]
use unix::connect_unix;
#[cfg(unix)]
pub(super) use unix::{Acceptor, Bell};

#[cfg(not(unix))]
mod elsewhere;

#[cfg(not(unix))]
pub(super) use elsewhere::{Acceptor, Bell};
