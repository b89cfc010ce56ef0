//! An address at which one peer is waited for.
//!
//! The listener is closed as soon as that peer has come, so that later ones are refused rather
//! than left waiting. The path of a UNIX socket goes at the end of the session, and with a
//! listener to which nobody came.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use socket2::{Domain, Socket, Type};

use super::address::{Addr, no_address, socket_path};
use super::attempt::{Attempt, Halt, Interest, deadline};
use super::error::{Error, Kind, Phase};
use super::stream::Stream;

const BACKLOG: i32 = 1;

/// A socket that listens, in non-blocking mode.
#[derive(Debug)]
pub(super) struct Listening {
    // Before the socket: the path goes while the socket still holds its inode, see `Served`.
    place: Place,
    socket: Socket,
}

#[derive(Debug)]
enum Place {
    Unix(Served),
    Tcp(SocketAddr),
}

impl Listening {
    /// Listens at an address.
    ///
    /// With `replace_stale`, a UNIX socket at whose path connections are refused is removed
    /// first; everything else that exists there is in the way. Somebody who does listen there sees
    /// a connection that ends at once.
    pub(super) fn bind(addr: Addr, replace_stale: bool) -> Result<Self, Error> {
        let address = addr.to_string();
        match addr {
            Addr::Unix(path) => Self::bind_unix(path, replace_stale),
            Addr::Tcp(host, port) => Self::bind_tcp(&host, port),
            Addr::Stream(_) => {
                let reason = "a connected stream cannot be listened at";
                Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
            }
        }
        .map_err(|error| Error::caused(Kind::Listen { address }, error))
    }

    fn bind_unix(path: PathBuf, replace_stale: bool) -> io::Result<Self> {
        let address = socket_path(&path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) if replace_stale && is_stale(&path, &address)? => {
                fs::remove_file(&path)?;
                rustix::net::bind(&socket, &address)?;
            }
            bound => bound?,
        }
        Self::listen(Place::Unix(Served::new(path)?), socket)
    }

    /// Tries all addresses of the host in their order; if none can be had, the last failure counts.
    fn bind_tcp(host: &str, port: u16) -> io::Result<Self> {
        let bind = |address: SocketAddr| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            // Connections of an earlier session that linger on this side are not in the way.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            // Port 0 has become a real one.
            let address = socket.local_addr()?.as_socket().unwrap_or(address);
            Self::listen(Place::Tcp(address), socket)
        };
        let mut failure = no_address();
        for address in (host, port).to_socket_addrs()? {
            match bind(address) {
                Ok(listening) => return Ok(listening),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn listen(place: Place, socket: Socket) -> io::Result<Self> {
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { place, socket })
    }

    /// Where peers reach it.
    pub(super) fn local(&self) -> Addr {
        match &self.place {
            Place::Unix(served) => served.path.as_path().into(),
            Place::Tcp(address) => (*address).into(),
        }
    }

    /// Waits for the one peer. The path of a UNIX socket is to be kept for the session.
    pub(super) fn accept(
        self,
        attempt: &Attempt,
        allowed: Option<Duration>,
    ) -> Result<(Stream, Option<Served>), Error> {
        let address = self.local().to_string();
        self.take_peer(attempt, deadline(allowed))
            .map_err(|halt| halt.into_error(Phase::Accept, allowed, Kind::Listen { address }))
    }

    fn take_peer(
        self,
        attempt: &Attempt,
        deadline: Option<Instant>,
    ) -> Result<(Stream, Option<Served>), Halt> {
        let peer = loop {
            attempt.wait(Some((self.socket.as_fd(), Interest::Read)), deadline)?;
            match self.socket.accept() {
                Ok((peer, _)) => break peer,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let Self { place, socket } = self;
        drop(socket);
        let (stream, served) = match place {
            Place::Unix(served) => (Stream::Unix(peer.into()), Some(served)),
            Place::Tcp(_) => (Stream::Tcp(peer.into()), None),
        };
        stream.prepare()?;
        Ok((stream, served))
    }
}

/// Whether a peer that had come was gone again when it should be accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// Whether a path is that of a UNIX socket which nobody serves any more.
fn is_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<bool> {
    // What is no socket refuses connections as well.
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // a full backlog means that somebody is there
    Ok(rustix::net::connect(&probe, address) == Err(Errno::CONNREFUSED))
}

/// The path of a UNIX socket that is served; it is unlinked when this is dropped, unless somebody
/// else has put something in its place.
///
/// To be dropped before the last socket that came of it, listening or accepted: while one of them
/// is open, no other file gets the number of its inode.
#[derive(Debug)]
pub(super) struct Served {
    path: PathBuf,
    /// Device and number.
    inode: (u64, u64),
}

impl Served {
    /// Of a path that has just been bound.
    fn new(path: PathBuf) -> io::Result<Self> {
        let inode = inode(&path)?;
        Ok(Self { path, inode })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: not unlinked: {error}", self.path.display());
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::{UnixListener, UnixStream};

    use crossbeam_channel::bounded;
    use socket2::SockRef;

    use super::super::attempt::Cancel;
    use super::super::scratch::Scratch;
    use super::*;
    use crate::lifecycle::spawn;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn attempt() -> Attempt {
        Attempt::new(&Cancel::new()).unwrap()
    }

    fn loopback() -> Addr {
        Addr::Tcp("127.0.0.1".to_owned(), 0)
    }

    /// Leaves the path of a socket that nobody serves.
    fn abandon(path: &Path) {
        drop(UnixListener::bind(path).unwrap());
        assert!(path.exists());
    }

    fn in_use(path: &Path, replace_stale: bool) {
        let error = Listening::bind(path.into(), replace_stale).unwrap_err();
        let address = path.display().to_string();
        assert_eq!(*error.kind(), Kind::Listen { address });
        assert_eq!(error.io().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert!(!error.is_retryable());
    }

    #[test]
    fn port_0_becomes_a_real_one_and_only_the_first_peer_is_taken() {
        let listening = Listening::bind(loopback(), false).unwrap();
        let Addr::Tcp(host, port) = listening.local() else {
            panic!("{listening:?}")
        };
        assert!(host == "127.0.0.1" && port != 0);
        let peer = TcpStream::connect((host.as_str(), port)).unwrap();
        let (stream, served) = listening.accept(&attempt(), Some(PATIENCE)).unwrap();
        assert!(served.is_none());
        assert_eq!(stream.peer(), peer.local_addr().unwrap().to_string());
        assert!(!SockRef::from(&stream).nonblocking().unwrap());
        let second = TcpStream::connect((host.as_str(), port)).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_path_is_served_to_the_first_peer_and_unlinked_at_the_end_of_the_session() {
        let folder = Scratch::new();
        let path = folder.path("served");
        let listening = Listening::bind(path.as_path().into(), false).unwrap();
        assert_eq!(listening.local().to_string(), path.to_str().unwrap());
        let peer = UnixStream::connect(&path).unwrap();
        let waiting = UnixStream::connect(&path).unwrap();
        let (stream, served) = listening.accept(&attempt(), Some(PATIENCE)).unwrap();
        assert_eq!(Stream::Unix(peer).write(b"first", &[]).unwrap(), 5);
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 5);
        let second = UnixStream::connect(&path).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::ConnectionRefused);
        let end = Stream::Unix(waiting).read(&mut [0]);
        assert!(!matches!(end, Ok(1..)), "nor is one served that waited");
        drop(served);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_to_which_nobody_came_is_unlinked() {
        let folder = Scratch::new();
        let path = folder.path("served");
        drop(Listening::bind(path.as_path().into(), false).unwrap());
        assert!(!path.exists());
        let listening = Listening::bind(path.as_path().into(), false).unwrap();
        let allowed = Duration::from_millis(30);
        let begun = Instant::now();
        let error = listening.accept(&attempt(), Some(allowed)).unwrap_err();
        assert!(begun.elapsed() >= allowed);
        let phase = Phase::Accept;
        assert_eq!(*error.kind(), Kind::Timeout { phase, allowed });
        assert!(!path.exists());
    }

    #[test]
    fn an_existing_path_is_in_the_way_unless_it_is_a_stale_socket_and_that_is_wanted() {
        let folder = Scratch::new();
        let path = folder.path("path");
        abandon(&path);
        in_use(&path, false);
        let listening = Listening::bind(path.as_path().into(), true).unwrap();
        let _peer = UnixStream::connect(&path).unwrap();
        in_use(&path, true);
        listening.accept(&attempt(), Some(PATIENCE)).unwrap();
        assert!(!path.exists());

        let file = folder.path("file");
        fs::write(&file, "precious").unwrap();
        let link = folder.path("link");
        abandon(&path);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for other in [file, link] {
            in_use(&other, true);
            assert!(other.exists());
        }
    }

    #[test]
    fn a_full_backlog_is_not_stale() {
        let folder = Scratch::new();
        let path = folder.path("full");
        let listening = Listening::bind(path.as_path().into(), false).unwrap();
        let _waiting = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
        in_use(&path, true);
        drop(listening);
    }

    #[test]
    fn a_path_that_somebody_else_took_meanwhile_is_left_to_them() {
        let folder = Scratch::new();
        let path = folder.path("path");
        let replace = || {
            fs::remove_file(&path).unwrap();
            UnixListener::bind(&path).unwrap()
        };
        let listening = Listening::bind(path.as_path().into(), false).unwrap();
        let peer = UnixStream::connect(&path).unwrap();
        let (_stream, served) = listening.accept(&attempt(), Some(PATIENCE)).unwrap();
        let other = replace();
        drop(served);
        UnixStream::connect(&path).unwrap();
        drop((other, peer));

        fs::remove_file(&path).unwrap();
        let listening = Listening::bind(path.as_path().into(), false).unwrap();
        let _other = replace();
        drop(listening);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_cancel_from_another_thread_ends_the_wait_for_a_peer() {
        let folder = Scratch::new();
        let path = folder.path("served");
        for addr in [loopback(), path.as_path().into()] {
            let listening = Listening::bind(addr, false).unwrap();
            let cancel = Cancel::new();
            let attempt = Attempt::new(&cancel).unwrap();
            let (end, ended) = bounded(1);
            let _thread = spawn("accepts", move || {
                end.send(listening.accept(&attempt, None)).unwrap();
            });
            assert!(ended.recv_timeout(Duration::from_millis(50)).is_err());
            cancel.set();
            let error = ended.recv_timeout(PATIENCE).unwrap().unwrap_err();
            assert_eq!(*error.kind(), Kind::Cancelled);
        }
        assert!(!path.exists());
    }

    #[test]
    fn an_attempt_that_is_stopped_takes_no_peer_that_is_there() {
        let folder = Scratch::new();
        let path = folder.path("served");
        let listening = Listening::bind(path.as_path().into(), false).unwrap();
        let peer = UnixStream::connect(&path).unwrap();
        let attempt = attempt();
        attempt.stop();
        let error = listening.accept(&attempt, None).unwrap_err();
        assert_eq!(*error.kind(), Kind::Cancelled);
        let end = Stream::Unix(peer).read(&mut [0]);
        assert!(!matches!(end, Ok(1..)));
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_listened_at_says_why() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        let folder = Scratch::new();
        let taken = Listening::bind(loopback(), false).unwrap();
        for (addr, expected) in [
            (stream.into(), io::ErrorKind::InvalidInput),
            (
                folder.path(&"x".repeat(108)).into(),
                io::ErrorKind::InvalidInput,
            ),
            (folder.path("absent/path").into(), io::ErrorKind::NotFound),
            (taken.local(), io::ErrorKind::AddrInUse),
        ] {
            let error = Listening::bind(addr, true).unwrap_err();
            assert!(matches!(error.kind(), Kind::Listen { .. }), "{error:?}");
            assert_eq!(error.io().unwrap().kind(), expected);
        }
    }
}
