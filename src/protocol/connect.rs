//! From an address to a connected stream.
//!
//! The connecting socket is in non-blocking mode, so that the deadline and the stop of the attempt
//! end the wait and leave nothing behind. Only the look-up of a host's name cannot be interrupted.

use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use socket2::{Domain, Socket, Type};

use super::address::{Addr, no_address, socket_path};
use super::attempt::{Attempt, Halt, Interest, deadline};
use super::error::{Error, Kind, Phase};
use super::stream::Stream;

/// How long to wait before a UNIX listener whose backlog is full is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Connects within the time that is `allowed`, the look-up of the host's name not counted.
pub(super) fn connect(
    addr: Addr,
    attempt: &Attempt,
    allowed: Option<Duration>,
) -> Result<Stream, Error> {
    let address = addr.to_string();
    open(addr, attempt, allowed)
        .map_err(|halt| halt.into_error(Phase::Connect, allowed, Kind::Connect { address }))
}

fn open(addr: Addr, attempt: &Attempt, allowed: Option<Duration>) -> Result<Stream, Halt> {
    attempt.check()?;
    let stream = match addr {
        Addr::Stream(stream) => stream,
        Addr::Unix(path) => {
            let path = socket_path(&path)?;
            let socket = open_socket(Domain::UNIX, &path, attempt, deadline(allowed))?;
            Stream::Unix(socket.into())
        }
        Addr::Tcp(host, port) => Stream::Tcp(open_tcp(&host, port, attempt, allowed)?.into()),
    };
    stream.prepare()?;
    Ok(stream)
}

/// Tries all addresses of the host in their order; if none will have it, the last failure counts.
fn open_tcp(
    host: &str,
    port: u16,
    attempt: &Attempt,
    allowed: Option<Duration>,
) -> Result<Socket, Halt> {
    let addresses = (host, port).to_socket_addrs()?;
    attempt.check()?;
    let deadline = deadline(allowed);
    let mut failure = no_address();
    for address in addresses {
        match open_socket(Domain::for_address(address), &address, attempt, deadline) {
            Err(Halt::Failed(error)) => failure = error,
            end => return end,
        }
    }
    Err(Halt::Failed(failure))
}

/// A connected socket, still in non-blocking mode.
fn open_socket(
    domain: Domain,
    address: &impl SocketAddrArg,
    attempt: &Attempt,
    deadline: Option<Instant>,
) -> Result<Socket, Halt> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    loop {
        match rustix::net::connect(&socket, address) {
            Ok(()) => return Ok(socket),
            Err(Errno::INPROGRESS) => break,
            // The backlog of a UNIX listener is full, and nothing tells when it no longer is.
            Err(Errno::AGAIN) => pause(attempt, deadline)?,
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    attempt.wait(Some((socket.as_fd(), Interest::Write)), deadline)?;
    match socket.take_error()? {
        None => Ok(socket),
        Some(error) => Err(error.into()),
    }
}

/// Waits before the next try; fails if the deadline comes first, or the stop.
fn pause(attempt: &Attempt, deadline: Option<Instant>) -> Result<(), Halt> {
    let next = Instant::now() + RETRY;
    if deadline.is_some_and(|deadline| deadline < next) {
        return attempt.wait(None, deadline);
    }
    match attempt.wait(None, Some(next)) {
        Err(Halt::TimedOut) => Ok(()),
        end => end,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener};
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};

    use crossbeam_channel::{Receiver, bounded};
    use socket2::SockAddr;

    use super::super::attempt::Cancel;
    use super::super::scratch::Scratch;
    use super::*;
    use crate::lifecycle::{Thread, spawn};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A listener whose backlog is full, and who is in it.
    struct Jammed {
        listener: Socket,
        _waiting: Socket,
    }

    impl Jammed {
        fn new(domain: Domain, at: &SockAddr) -> Self {
            let listener = Socket::new(domain, Type::STREAM, None).unwrap();
            listener.bind(at).unwrap();
            listener.listen(0).unwrap(); // which leaves room for one
            listener.set_nonblocking(true).unwrap();
            let waiting = Socket::new(domain, Type::STREAM, None).unwrap();
            waiting.connect(&listener.local_addr().unwrap()).unwrap();
            let come = Some((listener.as_fd(), Interest::Read));
            attempt().wait(come, deadline(Some(PATIENCE))).unwrap();
            Self {
                listener,
                _waiting: waiting,
            }
        }

        fn unix(path: &Path) -> Self {
            Self::new(Domain::UNIX, &SockAddr::unix(path).unwrap())
        }

        fn tcp() -> (Self, SocketAddr) {
            let jammed = Self::new(Domain::IPV4, &loopback().into());
            let at = jammed.listener.local_addr().unwrap();
            (jammed, at.as_socket().unwrap())
        }
    }

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn attempt() -> Attempt {
        Attempt::new(&Cancel::new()).unwrap()
    }

    /// A connect that runs on a thread of its own, and its outcome.
    fn connecting(addr: Addr, cancel: &Cancel) -> (Receiver<Result<Stream, Error>>, Thread) {
        let attempt = Attempt::new(cancel).unwrap();
        let (end, ended) = bounded(1);
        let thread = spawn("connects", move || {
            end.send(connect(addr, &attempt, Some(10 * PATIENCE)))
                .unwrap();
        });
        (ended, thread.unwrap())
    }

    /// How many connections to a port of this machine have been asked for and not answered.
    fn unanswered(port: u16) -> usize {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let remote = format!("0100007F:{port:04X}");
        let is_one = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next() == Some(remote.as_str()) && fields.next() == Some("02")
        };
        sockets.lines().filter(is_one).count()
    }

    #[test]
    fn a_jammed_unix_listener_costs_the_time_allowed_or_ends_with_the_cancel() {
        let folder = Scratch::new();
        let path = folder.path("jammed");
        let jammed = Jammed::unix(&path);
        let allowed = Duration::from_millis(70);
        let begun = Instant::now();
        let error = connect(path.clone().into(), &attempt(), Some(allowed)).unwrap_err();
        assert!(begun.elapsed() >= allowed);
        let phase = Phase::Connect;
        assert_eq!(*error.kind(), Kind::Timeout { phase, allowed });
        assert!(error.is_retryable());

        let cancel = Cancel::new();
        let (end, _thread) = connecting(path.into(), &cancel);
        assert!(end.recv_timeout(Duration::from_millis(50)).is_err());
        cancel.set();
        let error = end.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(*error.kind(), Kind::Cancelled);

        jammed.listener.accept().unwrap();
        let error = jammed.listener.accept().unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::WouldBlock,
            "none but the first"
        );
    }

    #[test]
    fn a_jammed_tcp_listener_costs_the_time_allowed_or_ends_with_the_cancel() {
        let (jammed, address) = Jammed::tcp();
        let allowed = Duration::from_millis(70);
        let begun = Instant::now();
        let error = connect(address.into(), &attempt(), Some(allowed)).unwrap_err();
        assert!(begun.elapsed() >= allowed);
        let phase = Phase::Connect;
        assert_eq!(*error.kind(), Kind::Timeout { phase, allowed });

        let cancel = Cancel::new();
        let (end, _thread) = connecting(address.into(), &cancel);
        let last = Instant::now() + PATIENCE;
        while unanswered(address.port()) == 0 {
            assert!(Instant::now() < last, "it does not connect");
            assert!(end.recv_timeout(Duration::from_millis(5)).is_err());
        }
        cancel.set();
        let error = end.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(*error.kind(), Kind::Cancelled);
        assert_eq!(unanswered(address.port()), 0, "nothing is left behind");
        drop(jammed);
    }

    #[test]
    fn a_full_backlog_is_waited_out() {
        let folder = Scratch::new();
        let path = folder.path("jammed");
        let jammed = Jammed::unix(&path);
        let (end, _thread) = connecting(path.into(), &Cancel::new());
        assert!(end.recv_timeout(Duration::from_millis(50)).is_err());
        jammed.listener.accept().unwrap();
        let stream = end.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(!socket2::SockRef::from(&stream).nonblocking().unwrap());
        let (accepted, _) = jammed.listener.accept().unwrap();
        assert_eq!(stream.write(b"x", &[]).unwrap(), 1);
        assert_eq!((&accepted).read(&mut [0; 10]).unwrap(), 1);
    }

    #[test]
    fn nobody_there_is_said_at_once_and_worth_another_try() {
        let folder = Scratch::new();
        let refusing = |domain, at: &SockAddr| {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.bind(at).unwrap();
            socket
        };
        let path = folder.path("refusing");
        let _unix = refusing(Domain::UNIX, &SockAddr::unix(&path).unwrap());
        let tcp = refusing(Domain::IPV4, &loopback().into());
        let address = tcp.local_addr().unwrap().as_socket().unwrap();
        for (addr, expected) in [
            (path.into(), io::ErrorKind::ConnectionRefused),
            (address.into(), io::ErrorKind::ConnectionRefused),
            (folder.path("absent").into(), io::ErrorKind::NotFound),
        ] {
            let addr: Addr = addr;
            let address = addr.to_string();
            let error = connect(addr, &attempt(), None).unwrap_err();
            assert_eq!(*error.kind(), Kind::Connect { address });
            assert_eq!(error.io().unwrap().kind(), expected);
            assert!(error.is_retryable());
        }
    }

    #[test]
    fn a_path_that_is_too_long_is_said_in_plain_words() {
        let path = PathBuf::from("/".repeat(108));
        let error = connect(path.into(), &attempt(), None).unwrap_err();
        assert!(
            error
                .report()
                .ends_with("107 bytes long at most, this one 108"),
            "{error:#}"
        );
        assert!(!error.is_retryable());
    }

    #[test]
    fn a_host_is_tried_at_each_of_its_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let addr = Addr::Tcp("localhost".to_owned(), port);
        let stream = connect(addr, &attempt(), Some(PATIENCE)).unwrap();
        assert_eq!(stream.peer(), format!("127.0.0.1:{port}"));
        let Stream::Tcp(stream) = stream else {
            panic!("{stream:?}")
        };
        assert!(stream.nodelay().unwrap());
        assert!(!socket2::SockRef::from(&stream).nonblocking().unwrap());
    }

    #[test]
    fn a_given_stream_is_taken_as_it_is_but_for_its_timeouts_and_mode() {
        let (given, mut peer) = UnixStream::pair().unwrap();
        given
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        given
            .set_write_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        given.set_nonblocking(true).unwrap();
        let stream = connect(given.into(), &attempt(), Some(Duration::ZERO)).unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert_eq!(socket.read_timeout().unwrap(), None);
        assert_eq!(socket.write_timeout().unwrap(), None);
        assert!(!socket.nonblocking().unwrap());
        assert_eq!(stream.write(b"x", &[]).unwrap(), 1);
        assert_eq!(peer.read(&mut [0; 10]).unwrap(), 1);
    }

    #[test]
    fn a_connect_that_is_stopped_before_it_begins_reaches_nobody() {
        let folder = Scratch::new();
        let path = folder.path("listens");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        unix.set_nonblocking(true).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (given, mut peer) = UnixStream::pair().unwrap();
        let cancel = Cancel::new();
        cancel.set();
        let attempt = Attempt::new(&cancel).unwrap();
        for addr in [path.into(), tcp.local_addr().unwrap().into(), given.into()] {
            let error = connect(addr, &attempt, None).unwrap_err();
            assert_eq!(*error.kind(), Kind::Cancelled);
        }
        assert_eq!(unix.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(tcp.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(
            peer.read(&mut [0]).unwrap(),
            0,
            "the given stream is closed"
        );
    }
}
