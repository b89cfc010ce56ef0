//! Where a peer is, or is waited for.
//!
//! Nothing here connects or looks anything up: a well-formed address may lead nowhere.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::net::SocketAddrUnix;

use super::Stream;

/// Where to connect to, or to listen at.
///
/// As text it is a path, or `host:port` with an IPv6 address in brackets. Text that contains a `/`
/// or does not end with a colon and digits is a path.
///
/// ```
/// use interplay::protocol::Addr;
///
/// assert!(matches!("/run/vm.sock".parse()?, Addr::Unix(_)));
/// assert!(matches!("[::1]:4444".parse()?, Addr::Tcp(host, 4444) if host == "::1"));
/// # Ok::<(), interplay::protocol::AddrError>(())
/// ```
#[derive(Debug)]
pub enum Addr {
    /// The path of a UNIX socket.
    Unix(PathBuf),
    /// A host (a name, or an IP address without brackets) and a port.
    Tcp(String, u16),
    /// A stream that is connected already: one of a pair, or inherited. It can be connected to but
    /// not listened at. Its timeouts and its non-blocking mode are cleared.
    Stream(Stream),
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddrError {
    /// The text.
    pub given: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for AddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address: {}", self.given, self.reason)
    }
}

impl Error for AddrError {}

impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let error = |reason| {
            Err(AddrError {
                given: text.to_owned(),
                reason,
            })
        };
        if text.is_empty() {
            return error("it is empty");
        }
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if is_port(port) && !host.contains('/') => (host, port),
            _ => return Ok(Self::Unix(text.into())),
        };
        let inside = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if inside.is_none() && host.contains(':') {
            return error("an IPv6 address in front of a port stands in brackets");
        }
        let host = inside.unwrap_or(host);
        if host.is_empty() {
            return error("there is no host");
        }
        match port.parse() {
            Ok(port) => Ok(Self::Tcp(host.to_owned(), port)),
            Err(_) => error("the port is above 65535"),
        }
    }
}

/// As it is parsed; of a connected stream, its peer.
impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Stream(stream) => f.write_str(&stream.peer()),
        }
    }
}

impl From<PathBuf> for Addr {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Path> for Addr {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        let host = match addr {
            // A link-local address is one only together with its interface.
            SocketAddr::V6(addr) if addr.scope_id() != 0 => {
                format!("{}%{}", addr.ip(), addr.scope_id())
            }
            _ => addr.ip().to_string(),
        };
        Self::Tcp(host, addr.port())
    }
}

impl From<UnixStream> for Addr {
    fn from(stream: UnixStream) -> Self {
        Self::Stream(Stream::Unix(stream))
    }
}

impl From<TcpStream> for Addr {
    fn from(stream: TcpStream) -> Self {
        Self::Stream(Stream::Tcp(stream))
    }
}

/// The longest path of a UNIX socket; the system has room for this and a zero byte.
const PATH_LIMIT: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A path as the system takes it, or in plain words why it does not.
pub(super) fn socket_path(path: &Path) -> io::Result<SocketAddrUnix> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    match path.as_os_str().len() {
        // The system would choose a name, which nobody could find.
        0 => Err(invalid("the path is empty".to_owned())),
        1..=PATH_LIMIT => Ok(SocketAddrUnix::new(path)?),
        length => Err(invalid(format!(
            "the path of a UNIX socket is {PATH_LIMIT} bytes long at most, this one {length}"
        ))),
    }
}

/// What is wrong with a host whose name was found but has no address.
pub(super) fn no_address() -> io::Error {
    let reason = "the host has no address";
    io::Error::new(io::ErrorKind::AddrNotAvailable, reason)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn each_form_of_text_is_a_path_or_a_host_with_a_port() {
        for (text, expected) in [
            ("/run/vm.sock", r#"Unix("/run/vm.sock")"#),
            ("vm.sock", r#"Unix("vm.sock")"#),
            ("./vm:1", r#"Unix("./vm:1")"#),
            ("/run/[::1]:80", r#"Unix("/run/[::1]:80")"#),
            ("vm:", r#"Unix("vm:")"#),
            ("vm:one", r#"Unix("vm:one")"#),
            ("vm:+1", r#"Unix("vm:+1")"#),
            ("[::1]", r#"Unix("[::1]")"#),
            ("vm:1", r#"Tcp("vm", 1)"#),
            ("127.0.0.1:0", r#"Tcp("127.0.0.1", 0)"#),
            ("host.example:65535", r#"Tcp("host.example", 65535)"#),
            ("[::1]:80", r#"Tcp("::1", 80)"#),
            ("[fe80::1%eth0]:80", r#"Tcp("fe80::1%eth0", 80)"#),
        ] {
            let addr: Addr = text.parse().unwrap();
            assert_eq!(format!("{addr:?}"), expected);
            assert_eq!(addr.to_string(), text, "shown as it was written");
        }
    }

    #[test]
    fn text_that_is_no_address_is_given_back_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            (":80", "no host"),
            ("[]:80", "no host"),
            ("host:65536", "65535"),
            ("::1", "brackets"),
            ("fe80::1:80", "brackets"),
            ("[::1:80", "brackets"),
        ] {
            let error = text.parse::<Addr>().unwrap_err();
            assert_eq!(error.given, text);
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn paths_socket_addresses_and_streams_are_addresses() {
        let path = PathBuf::from("/run/a:1");
        assert!(matches!(Addr::from(path.as_path()), Addr::Unix(same) if same == path));
        assert!(matches!(Addr::from(path.clone()), Addr::Unix(same) if same == path));
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%7]:80"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(Addr::from(addr).to_string(), text);
        }
        let (stream, _peer) = UnixStream::pair().unwrap();
        let addr = Addr::from(stream);
        assert_eq!(addr.to_string(), "an unnamed UNIX socket");
    }

    #[test]
    fn the_path_of_a_socket_is_neither_empty_nor_too_long_nor_has_zeros() {
        let limit = "x".repeat(PATH_LIMIT);
        assert!(socket_path(limit.as_ref()).is_ok());
        let long = limit + "x";
        let error = socket_path(long.as_ref()).unwrap_err().to_string();
        assert!(
            error.ends_with("107 bytes long at most, this one 108"),
            "{error}"
        );
        for path in [&b""[..], b"\0abstract", b"zero\0inside"] {
            let error = socket_path(OsStr::from_bytes(path).as_ref()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
