//! A neighbour without manners: the frames of a link by hand, and what is none.
//!
//! Four bytes of length (big endian), then the body. First a hello and a welcome each way, in JSON, then envelopes:
//! kind, hops, priority, number, lifetime; source, destination and command, each behind a byte of length; the
//! payload.

use std::io::{self, Read, Write};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Long enough for any machine; nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(40);

pub(crate) const REQUEST: u8 = 1;
pub(crate) const REPLY: u8 = 2;
pub(crate) const ROUTE: u8 = 3;
pub(crate) const NO_SUCH_COMMAND: u8 = 4;
pub(crate) const REFUSED: u8 = 5;
pub(crate) const UNDELIVERABLE: u8 = 6;
pub(crate) const BYE: u8 = 7;

/// The bytes of a frame.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes(), body].concat()
}

/// What a raw neighbour says of itself.
pub(crate) fn hello(identity: &str) -> Value {
    json!({"interplay": 1, "identity": identity, "incarnation": 1, "nonce": "5a".repeat(32), "secret": false})
}

/// A message on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Envelope {
    pub(crate) kind: u8,
    pub(crate) hops: u8,
    pub(crate) priority: u8,
    pub(crate) id: u64,
    pub(crate) lifetime: u32,
    pub(crate) source: String,
    pub(crate) to: String,
    pub(crate) command: String,
    pub(crate) payload: Vec<u8>,
}

impl Envelope {
    /// From the writer to the reader.
    pub(crate) fn new(kind: u8, command: &str, payload: &Value) -> Self {
        Self {
            kind,
            hops: 8,
            priority: 2,
            id: 7,
            lifetime: 30_000,
            source: String::new(),
            to: String::new(),
            command: command.to_owned(),
            payload: payload.to_string().into_bytes(),
        }
    }

    pub(crate) fn from(mut self, source: &str) -> Self {
        self.source = source.to_owned();
        self
    }

    pub(crate) fn to(mut self, to: &str) -> Self {
        self.to = to.to_owned();
        self
    }

    pub(crate) fn id(mut self, id: u64) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = vec![self.kind, self.hops, self.priority];
        body.extend(self.id.to_be_bytes());
        body.extend(self.lifetime.to_be_bytes());
        for name in [&self.source, &self.to, &self.command] {
            body.push(u8::try_from(name.len()).unwrap());
            body.extend(name.as_bytes());
        }
        body.extend(&self.payload);
        frame(&body)
    }

    fn parse(body: &[u8]) -> Self {
        let mut rest = &body[15..];
        let mut name = || {
            let (name, others) = rest[1..].split_at(rest[0].into());
            rest = others;
            String::from_utf8(name.to_vec()).unwrap()
        };
        let (source, to, command) = (name(), name(), name());
        Self {
            kind: body[0],
            hops: body[1],
            priority: body[2],
            id: u64::from_be_bytes(body[3..11].try_into().unwrap()),
            lifetime: u32::from_be_bytes(body[11..15].try_into().unwrap()),
            source,
            to,
            command,
            payload: rest.to_vec(),
        }
    }

    pub(crate) fn read(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

/// A connection to a node, or one from it.
pub(crate) struct Raw(TcpStream);

impl Raw {
    /// A stranger that has said nothing yet.
    pub(crate) fn connect(address: &str) -> Self {
        Self::of(TcpStream::connect(address).unwrap())
    }

    /// The next that dials here.
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        Self::of(listener.accept().unwrap().0)
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// One that has been let in, and what the node said of itself.
    pub(crate) fn linked(address: &str, identity: &str) -> Self {
        let mut raw = Self::connect(address);
        raw.opens(&hello(identity));
        raw
    }

    /// The same, unless it is refused.
    pub(crate) fn try_linked(address: &str, identity: &str) -> Option<Self> {
        let mut raw = Self::connect(address);
        raw.say(&hello(identity));
        let said = raw.hear()?;
        if said["interplay"] != 1 {
            return None;
        }
        raw.try_send(&frame(br#"{"ok": true}"#)).ok()?;
        (raw.hear()?["ok"] == true).then_some(raw)
    }

    /// Says something; how the node refuses that, before it closes the connection.
    #[track_caller]
    pub(crate) fn refused(&mut self, what: &Value) -> Value {
        self.say(what);
        let said: Vec<Value> = iter::from_fn(|| self.hear()).collect();
        let refusal = said.iter().find(|said| said["ok"] == false);
        refusal.unwrap_or_else(|| panic!("{said:?}")).clone()
    }

    /// Says hello and welcome, and hears them.
    pub(crate) fn opens(&mut self, hello: &Value) -> Value {
        self.say(hello);
        let said = self.hear().unwrap();
        assert_eq!(said["interplay"], 1, "{said}");
        self.say(&json!({"ok": true}));
        let welcome = self.hear().unwrap();
        assert_eq!(welcome["ok"], true, "{welcome}");
        said
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn say(&mut self, what: &Value) {
        self.send(&frame(what.to_string().as_bytes()));
    }

    pub(crate) fn post(&mut self, envelope: &Envelope) {
        self.send(&envelope.bytes());
    }

    /// The body of the next frame; none if the node has closed the connection, in whatever way.
    pub(crate) fn body(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.read_exact(&mut body)?;
        Some(body)
    }

    /// The next frame of an opening.
    pub(crate) fn hear(&mut self) -> Option<Value> {
        Some(serde_json::from_slice(&self.body()?).unwrap())
    }

    /// The next message that is wanted; heart beats and hellos are answered meanwhile, others are not wanted.
    #[track_caller]
    pub(crate) fn next(&mut self, wanted: impl Fn(&Envelope) -> bool) -> Option<Envelope> {
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            let envelope = Envelope::parse(&self.body()?);
            if wanted(&envelope) {
                return Some(envelope);
            }
            self.answer(&envelope);
        }
        panic!("not what is wanted");
    }

    fn answer(&mut self, envelope: &Envelope) {
        let payload = match &*envelope.command {
            "hb" => json!({}),
            "hello" => json!({"host": "127.0.0.1", "port": 1}),
            _ => return,
        };
        if envelope.kind == REQUEST && envelope.to.is_empty() {
            let answer = Envelope::new(REPLY, &envelope.command, &payload);
            let _ = self.try_send(&answer.id(envelope.id).to(&envelope.source).bytes());
        }
    }

    /// Asks for `echo` and waits for the answer.
    #[track_caller]
    pub(crate) fn asks(&mut self) {
        let question = json!({"n": 1});
        self.post(&Envelope::new(REQUEST, "echo", &question).id(99));
        let answer = self.next(|envelope| envelope.command == "echo" && envelope.id == 99);
        let answer = answer.expect("the link is there");
        assert_eq!((answer.kind, answer.read()), (REPLY, question));
    }

    /// Waits until the node closes the connection.
    pub(crate) fn is_closed(&mut self) {
        while self.body().is_some() {}
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.0.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("silence"),
            Err(_) => None,
        }
    }
}
