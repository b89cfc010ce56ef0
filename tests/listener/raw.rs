//! A child without manners: the frames of an endpoint, and what is none, by hand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// Long enough for any machine; nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(60);

/// Address and token, as a child finds them in its environment.
#[derive(Clone)]
pub(crate) struct Invitation {
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Invitation {
    pub(crate) fn new<'a>(env: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let env: std::collections::HashMap<_, _> = env.into_iter().collect();
        assert_eq!(env.len(), 2);
        Self {
            address: env["INTERPLAY_LISTENER"].clone(),
            token: env["INTERPLAY_LISTENER_TOKEN"].clone(),
        }
    }

    /// In a child.
    pub(crate) fn from_env() -> Self {
        let names = ["INTERPLAY_LISTENER", "INTERPLAY_LISTENER_TOKEN"];
        Self::new(names.map(|name| (name, std::env::var(name).unwrap())))
    }

    pub(crate) fn connect(&self) -> io::Result<Raw> {
        let stream = match self.address.strip_prefix("tcp:") {
            Some(address) => Stream::Tcp(TcpStream::connect(address)?),
            #[cfg(unix)]
            None => Stream::Unix(UnixStream::connect(&self.address)?),
            #[cfg(not(unix))]
            None => panic!("not an address of this system: {}", self.address),
        };
        match &stream {
            Stream::Tcp(tcp) => tcp.set_read_timeout(Some(LONG))?,
            #[cfg(unix)]
            Stream::Unix(unix) => unix.set_read_timeout(Some(LONG))?,
        }
        Ok(Raw(stream))
    }

    /// One that is past its hello.
    pub(crate) fn admitted(&self, source: &str) -> Raw {
        let mut raw = self.connect().unwrap();
        raw.say(&self.hello(source));
        let welcome = raw.hear().unwrap();
        assert_eq!(welcome["ok"], json!(true), "{welcome}");
        raw
    }

    /// Whether there is a listener that lets one in. A port may be somebody else's by now.
    pub(crate) fn lets_in(&self, source: &str) -> bool {
        self.connect().is_ok_and(|mut raw| {
            let hello = self.hello(source).to_string();
            let _ = raw.try_send(&frame(hello.as_bytes()));
            raw.hear().is_some_and(|answer| answer["ok"] == true)
        })
    }

    pub(crate) fn hello(&self, source: &str) -> Value {
        json!({"interplay": 1, "token": self.token, "source": source, "pid": std::process::id()})
    }
}

enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// A connection to an endpoint.
pub(crate) struct Raw(Stream);

/// The bytes of a frame.
pub(crate) fn frame(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text].concat()
}

pub(crate) fn message(cmd: &str, data: impl Into<Value>) -> Vec<u8> {
    frame(
        json!({"cmd": cmd, "data": data.into()})
            .to_string()
            .as_bytes(),
    )
}

impl Raw {
    fn write(&self) -> &dyn WriteShared {
        match &self.0 {
            Stream::Tcp(tcp) => tcp,
            #[cfg(unix)]
            Stream::Unix(unix) => unix,
        }
    }

    /// Sends bytes, or fails when the endpoint has closed.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        self.write().write_shared(bytes)
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Sends one frame.
    pub(crate) fn say(&self, what: &Value) {
        self.send(&frame(what.to_string().as_bytes()));
    }

    /// The next frame; none if the endpoint has closed the connection, in whatever way.
    pub(crate) fn hear(&mut self) -> Option<Value> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        self.read_exact(&mut text)?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// Says no more; what was said goes out.
    pub(crate) fn end(&self) {
        match &self.0 {
            Stream::Tcp(tcp) => tcp.shutdown(Shutdown::Write).unwrap(),
            #[cfg(unix)]
            Stream::Unix(unix) => unix.shutdown(Shutdown::Write).unwrap(),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Option<()> {
        let read = match &mut self.0 {
            Stream::Tcp(tcp) => tcp.read_exact(bytes),
            #[cfg(unix)]
            Stream::Unix(unix) => unix.read_exact(bytes),
        };
        match read {
            Ok(()) => Some(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("silence"),
            Err(_) => None,
        }
    }
}

trait WriteShared {
    fn write_shared(&self, bytes: &[u8]) -> io::Result<()>;
}

impl<T> WriteShared for T
where
    for<'a> &'a T: Write,
{
    fn write_shared(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self;
        stream.write_all(bytes)
    }
}
