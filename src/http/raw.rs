//! Raw sockets for tests: a client that says exactly what it is told, and scripted servers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::lifecycle::{Thread, spawn};

/// How long a test waits for anything. Never reached by one that passes.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads one answer, the body of which has a length.
    pub(crate) fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut answer = Self::read_head(stream)?;
        let length = answer.header("Content-Length").and_then(|l| l.parse().ok());
        let length: usize = length.ok_or(ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        answer.body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(answer)
    }

    /// Reads an answer that has no body.
    pub(crate) fn read_head(stream: &mut TcpStream) -> io::Result<Self> {
        let head = read_head(stream)?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Ok(Self {
            status: status.ok_or(ErrorKind::InvalidData)?,
            head,
            body: String::new(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// True if the server asks for the end of the connection.
    pub(crate) fn closes(&self) -> bool {
        self.header("Connection") == Some("close")
    }
}

/// A connection that never waits for ever.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes on a connection of their own.
pub(crate) fn send(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(bytes.as_ref()).unwrap();
    stream
}

/// Sends bytes and reads the answer to them.
pub(crate) fn ask(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    Answer::read(&mut send(addr, bytes)).unwrap()
}

/// A request with a body, as text.
pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// True once the other side has closed; reads what comes before that.
pub(crate) fn is_closed(stream: &mut TcpStream) -> bool {
    io::copy(stream, &mut io::sink())
        .map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |_| true)
}

/// Runs a server that does whatever `script` does with its listener.
pub(crate) fn scripted<F>(script: F) -> (SocketAddr, Thread)
where
    F: FnOnce(TcpListener) + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, spawn("scripted", move || script(listener)).unwrap())
}

/// Accepts a connection that never waits for ever.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Reads a request with the body its length tells; head and body.
pub(crate) fn read_request(stream: &mut TcpStream) -> io::Result<(String, String)> {
    let head = read_head(stream)?;
    let length = header(&head, "Content-Length").map_or(Ok(0), str::parse);
    let mut body = vec![0; length.map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    Ok((head, String::from_utf8(body).map_err(io::Error::other)?))
}

/// Writes text.
pub(crate) fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

/// Writes an answer with a length, and whatever other header lines.
pub(crate) fn answer(stream: &mut TcpStream, status: u16, lines: &str, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{lines}Content-Length: {length}\r\n\r\n");
    write(stream, &(head + body));
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(given, _)| given.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}
