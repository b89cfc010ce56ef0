//! The way in: the address to listen at, and the thread that accepts.
//!
//! It waits for connections and for the bell of the stop, and hands each connection to a thread of its own, so that
//! a stranger who says nothing holds up nobody.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use socket2::{Domain, Socket, Type};

use crate::concerns::error::Error;

/// How many connections wait to be accepted.
const BACKLOG: i32 = 128;

/// How long nothing is accepted after the system failed to give a connection.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Ends the accepting, for good. Once it was rung it holds nothing open.
#[derive(Debug)]
pub(super) struct Bell {
    /// To drop it is to ring.
    rope: Mutex<Option<UnixStream>>,
    /// For the thread that accepts.
    sound: Mutex<Option<UnixStream>>,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (rope, sound) = UnixStream::pair()?;
        Ok(Self {
            rope: Mutex::new(Some(rope)),
            sound: Mutex::new(Some(sound)),
        })
    }

    pub(super) fn ring(&self) {
        let rope = self.rope.lock().take();
        let sound = self.sound.lock().take();
        drop((rope, sound));
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Door {
    socket: TcpListener,
    local: SocketAddr,
}

impl Door {
    /// Listens at the first address of the host that can be had.
    pub(super) fn open(address: &str) -> Result<Self, Error> {
        let failed = |source| Error::Listen {
            address: address.to_owned(),
            source,
        };
        let mut failure = io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the host has no address".to_owned(),
        );
        for at in address.to_socket_addrs().map_err(failed)? {
            match Self::bind(at) {
                Ok(door) => return Ok(door),
                Err(error) => failure = error,
            }
        }
        Err(failed(failure))
    }

    fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        // Connections of a former life that linger on this side are not in the way.
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from(socket);
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Where it listens; port 0 has become a real one.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Gives every connection to `take`, until the bell is rung.
    pub(super) fn accept(
        &self,
        bell: &Bell,
        name: &str,
        mut take: impl FnMut(TcpStream, SocketAddr),
    ) {
        let Some(sound) = bell.sound.lock().take() else {
            return; // it has been rung
        };
        while !wait(Some(&self.socket), &sound, None) {
            match self.socket.accept() {
                Ok((stream, from)) => take(stream, from),
                // It was gone again before it was accepted.
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    log::warn!("node {name}: no connection accepted: {error}");
                    if wait(None, &sound, Some(&PAUSE)) {
                        return;
                    }
                }
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// Waits for a connection, the bell, or the end of the time; true if the bell is rung.
fn wait(socket: Option<&TcpListener>, sound: &UnixStream, limit: Option<&Timespec>) -> bool {
    let mut fds = vec![PollFd::new(sound, PollFlags::IN)];
    fds.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
    match retry_on_intr(|| poll(&mut fds, limit)) {
        Ok(_) => !fds[0].revents().is_empty(),
        // Without memory for a poll there is no accepting either.
        Err(_) => true,
    }
}

/// Says `words` to somebody who is turned away, if that can be done at once.
pub(super) fn turn_away(mut stream: TcpStream, words: &[u8]) {
    // Whoever does not get them sees the connection end, which says the same.
    let _ = stream
        .set_nonblocking(true)
        .and_then(|()| stream.write(words));
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::spawn;

    #[test]
    fn a_door_takes_connections_until_the_bell_rings_and_a_taken_address_is_an_error() {
        let door = Door::open("127.0.0.1:0").unwrap();
        let local = door.local();
        assert!(local.port() != 0);
        let taken = Door::open(&local.to_string()).unwrap_err();
        assert!(
            matches!(taken, Error::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
        );
        let bell = Arc::new(Bell::new().unwrap());
        let (end, ended) = crossbeam_channel::bounded(1);
        let _thread = spawn("accepts", {
            let bell = bell.clone();
            move || {
                door.accept(&bell, "test", |stream, _| turn_away(stream, b"no"));
                end.send(()).unwrap();
            }
        });
        let mut words = String::new();
        let mut stream = TcpStream::connect(local).unwrap();
        stream.read_to_string(&mut words).unwrap();
        assert_eq!(words, "no");
        bell.ring();
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(TcpStream::connect(local).is_err());
    }
}
