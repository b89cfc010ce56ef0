//! A bound socket, with the options its connections inherit.
//!
//! It is ours, and `tiny_http` gets a clone: whatever happens to a server made
//! from it, the port stays taken and the next one can be made.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::lifecycle::Stop;

/// Connections the system holds until they are accepted: many slaves call at once.
const BACKLOG: i32 = 1024;

/// How long the port of a server that has just ended may still seem taken,
/// where the thread that accepts cannot be told to end (see `close`).
const LATE: Duration = Duration::from_millis(60);

/// When a peer that no longer replies counts as gone.
const GONE: Duration = Duration::from_secs(60);

/// A socket that listens; clients may connect from now on and wait until it is served.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    /// Binds a host, which is an IP literal or a name, and a port, 0 for any.
    ///
    /// # Errors
    /// The system's own, such as `AddrInUse`, of the last address of the host.
    ///
    /// # Blocking
    /// A name is looked up, which the system decides the duration of.
    pub(crate) fn bind(host: &str, port: u16) -> io::Result<Self> {
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for addr in (host, port).to_socket_addrs()? {
            match Self::bind_late(addr) {
                Ok(bound) => return Ok(bound),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn bind_late(addr: SocketAddr) -> io::Result<Self> {
        let pause = Stop::new();
        for _ in 0..LATE.as_millis() / 10 {
            match Self::bind_once(addr) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    pause.wait_timeout(Duration::from_millis(10));
                }
                done => return done,
            }
        }
        Self::bind_once(addr)
    }

    fn bind_once(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // On Unix this skips connections in TIME_WAIT; two listeners still exclude each other.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        // A server that reads bodies in its own time needs each small write sent at once.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(GONE / 2)
                .with_interval(GONE / 6),
        )?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(GONE))?;
        // Never a read timeout: on a listener it is a failure of accept.
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let addr = socket.local_addr()?;
        Ok(Self { socket, addr })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where a client on this machine reaches it.
    pub(super) fn loopback(&self) -> SocketAddr {
        reachable(self.addr)
    }

    /// Limits how long one write to a client may wait; connections made from now on inherit it.
    ///
    /// The system restarts the wait whenever a part was taken, so that a
    /// client that takes nothing more is given up after up to twice as long.
    /// On Windows it is not inherited.
    pub(super) fn set_write_deadline(&self, limit: Duration) -> io::Result<()> {
        SockRef::from(&self.socket).set_write_timeout(Some(limit))
    }

    pub(super) fn try_clone(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }

    /// Refuses connections from now on, and wakes whoever accepts on a clone with an error.
    ///
    /// On Linux, where the port is free from then on too. Elsewhere this does nothing.
    pub(super) fn close(&self) {
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }

    /// Listens again after a `close`, some time after it: whoever accepted must have been woken.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        // A port that the system chose is lost by closing; one that was named is still bound.
        let _ = socket.bind(&self.addr.into());
        socket.listen(BACKLOG)
    }
}

/// An address by which this machine reaches a socket that is bound to `addr`.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_wildcard_is_reached_by_loopback() {
        let table = [
            ("0.0.0.0:7235", "127.0.0.1:7235"),
            ("[::]:7235", "[::1]:7235"),
            ("10.0.0.1:7235", "10.0.0.1:7235"),
        ];
        for (bound, expected) in table {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn hosts_are_literals_or_names() {
        for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
            let listener = Listener::bind(host, 0).unwrap();
            assert_ne!(listener.local_addr().port(), 0);
            TcpStream::connect(listener.loopback()).unwrap();
        }
        for host in ["::1", "[::1]"] {
            match Listener::bind(host, 0) {
                Ok(listener) => assert!(listener.local_addr().is_ipv6()),
                // No IPv6 on this machine.
                Err(e) => assert_ne!(e.kind(), io::ErrorKind::InvalidInput, "{e}"),
            }
        }
        assert!(Listener::bind("no such host", 0).is_err());
    }

    #[test]
    fn a_port_is_bound_once() {
        let first = Listener::bind("127.0.0.1", 0).unwrap();
        let error = Listener::bind("127.0.0.1", first.local_addr().port()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn connections_inherit_what_a_server_of_small_answers_needs() {
        let listener = Listener::bind("127.0.0.1", 0).unwrap();
        let limit = Duration::from_secs(7);
        listener.set_write_deadline(limit).unwrap();
        let _client = TcpStream::connect(listener.local_addr()).unwrap();
        let (connection, _) = listener.try_clone().unwrap().accept().unwrap();
        assert!(connection.nodelay().unwrap());
        assert_eq!(connection.write_timeout().unwrap(), Some(limit));
        assert_eq!(connection.read_timeout().unwrap(), None);
        let connection = SockRef::from(&connection);
        assert!(connection.keepalive().unwrap());
        assert_eq!(connection.tcp_user_timeout().unwrap(), Some(GONE));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_closed_listener_frees_its_port_and_can_be_reopened() {
        for port in [0, free_port()] {
            let listener = Listener::bind("127.0.0.1", port).unwrap();
            let addr = listener.local_addr();
            let clone = listener.try_clone().unwrap();
            listener.close();
            assert!(clone.accept().is_err());
            listener.reopen().unwrap();
            assert_eq!(listener.socket.local_addr().unwrap(), addr);
            let _client = TcpStream::connect(addr).unwrap();
            clone.accept().unwrap();
            listener.close();
            assert!(clone.accept().is_err());
            assert!(TcpStream::connect(addr).is_err());
            Listener::bind("127.0.0.1", addr.port()).unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    fn free_port() -> u16 {
        Listener::bind("127.0.0.1", 0).unwrap().local_addr().port()
    }
}
