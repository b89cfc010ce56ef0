//! A protocol of lines whose hooks a test sets, and the raw other end of its stream.

#![allow(dead_code, reason = "each test target uses its share of this module")]
#![allow(clippy::type_complexity, reason = "a closure for each hook")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fs, process};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::protocol::{
    Addr, BoxError, Cancel, DecodeError, Decoded, Decoder, End, Error, Hands, Kind, Lines, Link,
    Loop, Options, Progress, Protocol, State,
};
use socket2::Socket;

use crate::support::{LIMIT, deadline, eventually, secs, threads};

pub(crate) type Text = Vec<u8>;

type Hook<F> = Box<F>;

/// Lines, with a closure for each hook.
pub(crate) struct Talk {
    pub(crate) decoder: Hook<dyn Fn() + Send + Sync>,
    pub(crate) handshake: Hook<dyn Fn(&mut Hands<'_, Self>) -> Result<(), BoxError> + Send + Sync>,
    pub(crate) on_start: Hook<dyn Fn(&Link<Self>) -> Result<(), BoxError> + Send + Sync>,
    pub(crate) weight: Hook<dyn Fn(&Text) -> usize + Send + Sync>,
    pub(crate) descriptors: Hook<dyn Fn(&Text) -> Vec<OwnedFd> + Send + Sync>,
    pub(crate) outbound: Hook<dyn Fn(Text) -> Text + Send + Sync>,
    /// Before the bytes are appended.
    pub(crate) encode: Hook<dyn Fn(&Text) -> Result<(), BoxError> + Send + Sync>,
    pub(crate) inbound: Hook<dyn Fn(Text) -> Option<Text> + Send + Sync>,
    pub(crate) on_message:
        Hook<dyn Fn(u64, Text, &Link<Self>) -> Result<(), BoxError> + Send + Sync>,
    pub(crate) on_end: Hook<dyn Fn(&mut End) + Send + Sync>,
    pub(crate) on_state: Hook<dyn Fn(State, State) + Send + Sync>,
    pub(crate) describe: Hook<dyn Fn(&Text) -> Option<String> + Send + Sync>,
    /// Told how many bytes are left of a message that is not whole yet.
    pub(crate) looked: Option<Sender<usize>>,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            decoder: Box::new(|| {}),
            handshake: Box::new(|_| Ok(())),
            on_start: Box::new(|_| Ok(())),
            weight: Box::new(Vec::len),
            descriptors: Box::new(|_| Vec::new()),
            outbound: Box::new(|line| line),
            encode: Box::new(|_| Ok(())),
            inbound: Box::new(Some),
            on_message: Box::new(|_, _, _| Ok(())),
            on_end: Box::new(|_| {}),
            on_state: Box::new(|_, _| {}),
            describe: Box::new(|_| None),
            looked: None,
        }
    }
}

impl Talk {
    /// One whose messages come out of a channel.
    pub(crate) fn heard() -> (Self, Receiver<(u64, Text)>) {
        let (sender, heard) = unbounded();
        let talk = Self {
            on_message: Box::new(move |number, line, _| {
                let _ = sender.send((number, line)); // a test may have heard enough
                Ok(())
            }),
            ..Self::default()
        };
        (talk, heard)
    }
}

impl Protocol for Talk {
    type Outbound = Text;
    type Inbound = Text;
    type Decoder = Picky;

    fn decoder(&self) -> Picky {
        (self.decoder)();
        Picky {
            lines: Lines::new(),
            looked: self.looked.clone(),
        }
    }
    fn encode(&self, line: &Text, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(b"half of what is refused");
        (self.encode)(line)?;
        out.truncate(out.len() - b"half of what is refused".len());
        out.extend_from_slice(line);
        out.push(b'\n');
        Ok(())
    }
    fn weight(&self, line: &Text) -> usize {
        (self.weight)(line)
    }
    fn descriptors(&self, line: &mut Text) -> Vec<OwnedFd> {
        (self.descriptors)(line)
    }
    fn handshake(&self, hands: &mut Hands<'_, Self>) -> Result<(), BoxError> {
        (self.handshake)(hands)
    }
    fn on_start(&self, link: &Link<Self>) -> Result<(), BoxError> {
        (self.on_start)(link)
    }
    fn outbound(&self, line: Text) -> Text {
        (self.outbound)(line)
    }
    fn inbound(&self, line: Text) -> Option<Text> {
        (self.inbound)(line)
    }
    fn on_message(&self, number: u64, line: Text, link: &Link<Self>) -> Result<(), BoxError> {
        (self.on_message)(number, line, link)
    }
    fn on_end(&self, end: &mut End) {
        (self.on_end)(end);
    }
    fn on_state(&self, old: State, new: State) {
        (self.on_state)(old, new);
    }
    fn describe_outbound(&self, line: &Text) -> Option<String> {
        (self.describe)(line)
    }
    fn describe_inbound(&self, line: &Text) -> Option<String> {
        (self.describe)(line)
    }
}

/// Lines, but none that begins with 0xFF; at one that begins with 0xFE it panics.
pub(crate) struct Picky {
    lines: Lines,
    looked: Option<Sender<usize>>,
}

pub(crate) const REFUSED: u8 = 0xFF;
pub(crate) const PANICS: u8 = 0xFE;

impl Decoder for Picky {
    type Message = Text;

    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<Text>, DecodeError> {
        match bytes.first() {
            Some(&REFUSED) => {
                return Err(DecodeError {
                    offset: 0,
                    source: "no such line".into(),
                });
            }
            Some(&PANICS) => panic!("as the test wants it"),
            _ => {}
        }
        let decoded = self.lines.decode(bytes);
        if let (Some(looked), Ok(Decoded::Partial { .. })) = (&self.looked, &decoded) {
            let _ = looked.send(bytes.len());
        }
        decoded
    }
}

/// Limits that no test waits out unless it sets one: they only end what hangs.
pub(crate) fn patient() -> Options {
    Options::new()
        .connect_timeout(LIMIT)
        .handshake_timeout(LIMIT)
        .flush_timeout(LIMIT)
        .drain_timeout(LIMIT)
}

pub(crate) fn talk(talk: Talk) -> Loop<Talk> {
    Loop::new(talk, patient())
}

/// A loop that its own hooks can reach.
pub(crate) fn knowing(make: impl FnOnce(Weak<Loop<Talk>>) -> Talk) -> Arc<Loop<Talk>> {
    Arc::new_cyclic(|own| talk(make(own.clone())))
}

#[track_caller]
pub(crate) fn connected(talk: &Loop<Talk>, wire: Wire) -> Peer {
    let (addr, peer) = pair(wire);
    talk.connect(addr, &Cancel::new()).unwrap();
    peer
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Unix,
    Tcp,
}

/// Runs a test on both families of sockets, within the time of one test.
pub(crate) fn on_both(body: fn(Wire)) {
    deadline(LIMIT, move || {
        for wire in [Wire::Unix, Wire::Tcp] {
            body(wire);
        }
    });
}

/// A connected pair: one end to give to a loop, one for the test.
pub(crate) fn pair(wire: Wire) -> (Addr, Peer) {
    match wire {
        Wire::Unix => {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (ours.into(), Peer::new(theirs))
        }
        Wire::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (theirs, _) = listener.accept().unwrap();
            theirs.set_nodelay(true).unwrap();
            (ours.into(), Peer::new(theirs))
        }
    }
}

/// The raw other end.
pub(crate) struct Peer {
    socket: Socket,
    come: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(socket: impl Into<Socket>) -> Self {
        let socket = socket.into();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        let come = Vec::new();
        Self { socket, come }
    }

    /// Another handle to the same end.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.socket.try_clone().unwrap())
    }

    #[track_caller]
    pub(crate) fn say(&self, bytes: impl AsRef<[u8]>) {
        (&self.socket).write_all(bytes.as_ref()).unwrap();
    }

    /// Writes if the loop is still there.
    pub(crate) fn try_say(&self, bytes: &[u8]) -> bool {
        (&self.socket).write_all(bytes).is_ok()
    }

    /// Writes until the loop has gone; how many bytes that were.
    pub(crate) fn flood(&self, bytes: &[u8]) -> usize {
        let mut count = 0;
        while let Ok(written) = (&self.socket).write(bytes) {
            count += written;
        }
        count
    }

    fn fill(&mut self) -> bool {
        let mut room = [0; 16384];
        match self.socket.read(&mut room) {
            Ok(0) => false,
            Ok(count) => {
                self.come.extend_from_slice(&room[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next line, without its end.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Text {
        let mut seen = 0;
        loop {
            if let Some(at) = self.come[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.come.drain(..=seen + at).collect();
                line.pop();
                return line;
            }
            seen = self.come.len();
            assert!(self.fill(), "the loop has closed");
        }
    }

    /// All that comes until the loop closes or resets.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.come)
    }

    /// Ends one or both directions.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        self.socket.shutdown(how).unwrap();
    }

    /// Cuts the connection off. Over a UNIX socket that takes input which it has not read.
    pub(crate) fn reset(self) {
        if self.socket.local_addr().unwrap().is_ipv4() {
            self.socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// More bytes than the system keeps for a peer that does not read.
pub(crate) const JAM: usize = 16 << 20;

/// Begins a message of [`JAM`] bytes and its end, which is not written until the peer reads.
pub(crate) fn jam(talk: &Loop<Talk>) {
    let ticket = talk.try_send(vec![b'x'; JAM]).unwrap();
    eventually(secs(30), || ticket.progress() == Progress::Writing);
}

/// Waits until no thread of the loop with this name runs.
#[track_caller]
pub(crate) fn no_threads(name: &str) {
    let prefix = format!("{name}:");
    no_thread(|name| name.starts_with(&prefix));
}

/// Waits until no such thread runs.
#[track_caller]
pub(crate) fn no_thread(such: impl Fn(&str) -> bool) {
    let mut clean = 0;
    // The system's list of threads may be cut short when one of them ends meanwhile.
    eventually(secs(30), || {
        let running = threads().iter().any(|name| such(name));
        clean = if running { 0 } else { clean + 1 };
        clean == 5
    });
}

/// The kinds along the chain of causes, outermost first, as far as they are the library's.
pub(crate) fn kinds(error: &Error) -> Vec<Kind> {
    let mut kinds = vec![error.kind().clone()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        kinds.extend(
            error
                .downcast_ref::<Error>()
                .map(|error| error.kind().clone()),
        );
        cause = error.source();
    }
    kinds
}

/// A folder of a test's own, removed with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("interplay-p{}-{number}", process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
