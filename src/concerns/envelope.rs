//! Messages on the wire: bytes to envelopes and back.
//!
//! Pure. A link carries frames: four bytes of length (big endian), then the body. The first frames
//! of each side are its opening, JSON of at most 4 KiB (see `hello.rs`); all others are envelopes:
//!
//! | Bytes | What |
//! |---|---|
//! | 1 | kind |
//! | 1 | hops it may still take |
//! | 1 | priority: 0 slow, 1 medium, 2 fast |
//! | 8 | number |
//! | 4 | what is left of its lifetime, in milliseconds |
//! | 1 + n | source; empty: who writes it |
//! | 1 + n | destination; empty: who reads it |
//! | 1 + n | command |
//! | the rest | payload, one JSON object |
//!
//! A frame that does not hold together ends the link. One that does, but whose content cannot be a
//! message, is given out as [`Frame::Malformed`], and the link goes on. What is only passed on is
//! not looked into.

use std::fmt;
use std::time::Duration;

use super::error::BadName;
use super::hello::Shake;
use super::identity::{Command, Identity};
use super::message::Priority;
use super::payload::Payload;
use crate::protocol::{DecodeError, Decoded, Decoder};

/// The bytes of a frame's length.
const PREFIX: usize = 4;
/// The bytes of an envelope in front of its names.
const HEAD: usize = 15;
/// The most bytes of an envelope without its payload: head, and three names with their lengths.
const LONGEST_HEAD: usize = HEAD + 3 * (1 + u8::MAX as usize);
/// The most bytes of a frame of the opening.
pub(crate) const LONGEST_SHAKE: usize = 4096;

/// The most bytes a frame takes in the stream, its length among them.
pub(crate) fn longest_frame(max_payload: usize) -> usize {
    PREFIX + LONGEST_SHAKE.max(max_payload.saturating_add(LONGEST_HEAD))
}

/// What is written in the byte of kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnvelopeKind {
    /// 1
    Request,
    /// 2
    Reply,
    /// 3: never sent.
    Route,
    /// 4: the receiver of a request has no concern with its command.
    NoSuchCommand,
    /// 5: the receiver's concern gave no answer.
    Refused,
    /// 6: a message was given up by a hop, or the receiver.
    Undeliverable,
    /// 7: the sender leaves. Only between neighbours.
    Bye,
    /// Any other number; dropped by the receiver.
    Other(u8),
}

impl EnvelopeKind {
    fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Route => 3,
            Self::NoSuchCommand => 4,
            Self::Refused => 5,
            Self::Undeliverable => 6,
            Self::Bye => 7,
            Self::Other(number) => number,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Route,
            4 => Self::NoSuchCommand,
            5 => Self::Refused,
            6 => Self::Undeliverable,
            7 => Self::Bye,
            other => Self::Other(other),
        }
    }
}

/// A message between two neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) kind: EnvelopeKind,
    /// The hops it may still take; 0 and for somebody else: dropped.
    pub(crate) hops: u8,
    pub(crate) priority: Priority,
    pub(crate) id: u64,
    /// What is left of its lifetime, from the moment it is written or was read.
    pub(crate) lifetime: Duration,
    /// `None`: the neighbour that writes it.
    pub(crate) source: Option<Identity>,
    /// `None`: the neighbour that reads it.
    pub(crate) to: Option<Identity>,
    pub(crate) command: Command,
    pub(crate) payload: Payload,
}

impl Envelope {
    /// How many bytes it takes in the stream.
    pub(crate) fn length(&self) -> usize {
        let name = |name: &Option<Identity>| name.as_ref().map_or(0, |name| name.as_str().len());
        let names = name(&self.source) + name(&self.to) + self.command.as_str().len();
        PREFIX + HEAD + 3 + names + self.payload.as_str().len()
    }

    /// Appends its frame, with `left` of its lifetime; parts of a millisecond count as whole ones.
    ///
    /// # Errors
    ///
    /// If there is no writing its length; nothing is appended.
    pub(crate) fn encode(&self, left: Duration, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let length = self.length();
        let body = u32::try_from(length - PREFIX).map_err(|_| TooLong { length })?;
        let left = left.as_nanos().div_ceil(1_000_000);
        out.reserve(length);
        out.extend_from_slice(&body.to_be_bytes());
        out.push(self.kind.number());
        out.push(self.hops);
        out.push(match self.priority {
            Priority::Slow => 0,
            Priority::Medium => 1,
            Priority::Fast => 2,
        });
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&u32::try_from(left).unwrap_or(u32::MAX).to_be_bytes());
        for name in [
            self.source.as_ref().map_or("", Identity::as_str),
            self.to.as_ref().map_or("", Identity::as_str),
            self.command.as_str(),
        ] {
            // Names have 255 bytes at most.
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(self.payload.as_str().as_bytes());
        Ok(())
    }
}

/// A frame of more bytes than four bytes can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    length: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message of {} bytes fits no frame", self.length)
    }
}

impl std::error::Error for TooLong {}

/// Appends the frame of `body`, which is that of an opening.
pub(crate) fn encode_shake(shake: &Shake, out: &mut Vec<u8>) {
    let body = shake.to_json();
    debug_assert!(body.len() <= LONGEST_SHAKE, "its parts are bounded");
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body.as_bytes());
}

/// What comes over a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A frame of the opening.
    Shake(Shake),
    /// A message.
    Envelope(Envelope),
    /// Something that cannot be a message, and what is wrong with it.
    Malformed(String),
}

/// Finds the frames in the stream of one link.
///
/// Until the other side has said its welcome, only short frames of an opening are taken; so a
/// stranger has no more memory than that.
#[derive(Debug)]
pub(crate) struct Frames {
    me: Identity,
    max_payload: usize,
    /// Whether the opening is over.
    open: bool,
    identities: Names<Identity>,
    commands: Names<Command>,
    empty: Payload,
}

impl Frames {
    /// At the start of a stream that `me` reads.
    pub(crate) fn new(me: Identity, max_payload: usize) -> Self {
        Self {
            me,
            max_payload,
            open: false,
            identities: Names::new(),
            commands: Names::new(),
            empty: Payload::empty(),
        }
    }

    fn limit(&self) -> usize {
        if self.open {
            self.max_payload.saturating_add(LONGEST_HEAD)
        } else {
            LONGEST_SHAKE
        }
    }

    fn body(&mut self, body: &[u8]) -> Result<Frame, Broken> {
        if self.open {
            return self.envelope(body);
        }
        let shake = Shake::parse(body).map_err(|error| Broken::at(0, error))?;
        self.open = matches!(shake, Shake::Welcome { .. });
        Ok(Frame::Shake(shake))
    }

    fn envelope(&mut self, body: &[u8]) -> Result<Frame, Broken> {
        let Some((head, rest)) = body.split_first_chunk::<HEAD>() else {
            return Err(Broken::at(body.len(), "the head of an envelope is cut off"));
        };
        let (source, rest) = name(body, rest, "source")?;
        let (to, rest) = name(body, rest, "destination")?;
        let (command, payload) = name(body, rest, "command")?;
        let [kind, hops, priority, numbers @ ..] = *head;
        let (mut id, mut left) = ([0; 8], [0; 4]);
        id.copy_from_slice(&numbers[..8]);
        left.copy_from_slice(&numbers[8..]);
        let envelope = || -> Result<Envelope, String> {
            let source = self.identities.find_unless_empty(source);
            let to = match to == self.me.as_str().as_bytes() {
                true => Ok(None),
                false => self.identities.find_unless_empty(to),
            };
            let to = to.map_err(|problem| format!("destination: {problem}"))?;
            if payload.len() > self.max_payload {
                return Err(format!("a payload of {} bytes is too long", payload.len()));
            }
            Ok(Envelope {
                kind: EnvelopeKind::of(kind),
                hops,
                priority: match priority {
                    0 => Priority::Slow,
                    1 => Priority::Medium,
                    2 => Priority::Fast,
                    other => return Err(format!("there is no priority {other}")),
                },
                id: u64::from_be_bytes(id),
                lifetime: Duration::from_millis(u32::from_be_bytes(left).into()),
                source: source.map_err(|problem| format!("source: {problem}"))?,
                command: self
                    .commands
                    .find(command)
                    .map_err(|problem| format!("command: {problem}"))?,
                payload: if payload == self.empty.as_str().as_bytes() {
                    self.empty.clone()
                } else if to.is_none() {
                    Payload::parse(payload).map_err(|error| error.to_string())?
                } else {
                    Payload::passed_on(payload).map_err(|error| error.to_string())?
                },
                to,
            })
        }();
        Ok(envelope.map_or_else(Frame::Malformed, Frame::Envelope))
    }
}

impl Decoder for Frames {
    type Message = Frame;

    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<Frame>, DecodeError> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
            return Ok(Decoded::Partial { skip: 0 });
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        let limit = self.limit();
        if length > limit {
            let problem = format!("a frame of {length} bytes where {limit} are allowed");
            return Err(Broken::at(0, problem).within(0));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(Decoded::Partial { skip: 0 });
        };
        let used = PREFIX + length;
        match self.body(body) {
            Ok(message) => Ok(Decoded::Message { message, used }),
            Err(broken) => Err(broken.within(PREFIX)),
        }
    }
}

/// A frame that does not hold together.
struct Broken {
    offset: usize,
    problem: String,
}

impl Broken {
    fn at(offset: usize, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { offset, problem }
    }

    fn within(self, start: usize) -> DecodeError {
        DecodeError {
            offset: start + self.offset,
            source: self.problem.into(),
        }
    }
}

/// A name with its length in front, at the start of `rest`, and what follows it.
fn name<'a>(
    body: &[u8],
    rest: &'a [u8],
    what: &'static str,
) -> Result<(&'a [u8], &'a [u8]), Broken> {
    rest.split_first()
        .and_then(|(length, rest)| rest.split_at_checked((*length).into()))
        .ok_or_else(|| Broken::at(body.len() - rest.len(), format!("the {what} is cut off")))
}

/// The names that have come of late: most of them come again, and then share their text.
#[derive(Debug)]
struct Names<T> {
    slots: [Option<T>; 16],
}

impl<T> Names<T>
where
    T: AsRef<str> + Clone + for<'a> TryFrom<&'a str, Error = BadName>,
{
    fn new() -> Self {
        Self {
            slots: [const { None }; 16],
        }
    }

    fn find(&mut self, bytes: &[u8]) -> Result<T, String> {
        // Names that are alike differ at their ends, or in their lengths.
        let ends = bytes.first().zip(bytes.last());
        let (first, last) = ends.map_or((0, 0), |(first, last)| (*first, *last));
        let sum = usize::from(first) + 3 * usize::from(last) + 5 * bytes.len();
        let slot = &mut self.slots[sum % 16];
        match slot {
            Some(name) if name.as_ref().as_bytes() == bytes => Ok(name.clone()),
            _ => {
                let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
                let name = T::try_from(text).map_err(|error| error.to_string())?;
                Ok(slot.insert(name).clone())
            }
        }
    }

    fn find_unless_empty(&mut self, bytes: &[u8]) -> Result<Option<T>, String> {
        match bytes {
            [] => Ok(None),
            bytes => self.find(bytes).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1000;

    fn id(name: &str) -> Identity {
        name.try_into().unwrap()
    }

    fn envelope() -> Envelope {
        Envelope {
            kind: EnvelopeKind::Request,
            hops: 8,
            priority: Priority::Medium,
            id: 7,
            lifetime: Duration::from_secs(30),
            source: None,
            to: None,
            command: "echo".try_into().unwrap(),
            payload: Payload::new(&serde_json::json!({"text": "hi"})).unwrap(),
        }
    }

    fn bytes(envelope: &Envelope) -> Vec<u8> {
        let mut bytes = Vec::new();
        envelope.encode(envelope.lifetime, &mut bytes).unwrap();
        assert_eq!(bytes.len(), envelope.length());
        bytes
    }

    /// A decoder of `BBBBB` that has heard the welcome.
    fn frames() -> Frames {
        let mut frames = Frames::new(id("BBBBB"), MAX);
        let mut welcome = Vec::new();
        encode_shake(&Shake::Welcome { proof: None }, &mut welcome);
        assert!(matches!(decode(&mut frames, &welcome), Ok(Frame::Shake(_))));
        frames
    }

    /// What one frame is; it has to be all there.
    fn decode(frames: &mut Frames, bytes: &[u8]) -> Result<Frame, String> {
        match frames.decode(bytes) {
            Ok(Decoded::Message { message, used }) => {
                assert_eq!(used, bytes.len());
                Ok(message)
            }
            Ok(Decoded::Partial { skip }) => Err(format!("skipped {skip}, wants more")),
            Err(error) => {
                assert!(error.offset <= bytes.len());
                Err(error.source.to_string())
            }
        }
    }

    /// The frame of a body.
    fn framed(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_be_bytes(), body].concat()
    }

    /// An envelope with some bytes of its body changed.
    fn changed(envelope: &Envelope, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = bytes(envelope).split_off(PREFIX);
        change(&mut body);
        framed(&body)
    }

    fn malformed(bytes: &[u8]) -> String {
        match decode(&mut frames(), bytes) {
            Ok(Frame::Malformed(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_between_neighbours_names_neither() {
        // cod-01, cod-04
        let mut message = envelope();
        message.source = None;
        message.to = None;
        let expected: [&[u8]; 9] = [
            &[0, 0, 0, 35],
            &[1, 8, 1],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 0, 0x75, 0x30],
            &[0],
            &[0],
            b"\x04echo",
            b"{\"text\":\"hi\"}",
            b"",
        ];
        assert_eq!(bytes(&message), expected.concat());
        // cod-07
        assert_eq!(
            decode(&mut frames(), &bytes(&message)),
            Ok(Frame::Envelope(envelope()))
        );
    }

    #[test]
    fn a_message_over_a_hop_says_for_whom_it_is_and_a_forwarded_one_who_made_it() {
        // cod-02
        let mut message = envelope();
        message.source = None;
        message.to = Some(id("CCCCC"));
        assert_eq!(
            decode(&mut frames(), &bytes(&message)),
            Ok(Frame::Envelope(message.clone()))
        );
        // cod-03
        message.source = Some(id("AAAAA"));
        message.to = None;
        assert_eq!(
            decode(&mut frames(), &bytes(&message)),
            Ok(Frame::Envelope(message.clone()))
        );
        // cod-08
        message.to = Some(id("CCCCC"));
        message.kind = EnvelopeKind::Reply;
        assert_eq!(
            decode(&mut frames(), &bytes(&message)),
            Ok(Frame::Envelope(message))
        );
    }

    #[test]
    fn a_message_that_names_its_reader_is_for_the_reader() {
        let mut message = envelope();
        message.to = Some(id("BBBBB"));
        assert_eq!(
            decode(&mut frames(), &bytes(&message)),
            Ok(Frame::Envelope(envelope()))
        );
    }

    #[test]
    fn all_kinds_and_numbers_arrive_as_they_were() {
        for number in 0..=u8::MAX {
            let mut message = envelope();
            message.kind = EnvelopeKind::of(number); // cod-12
            message.hops = number;
            message.id = u64::from(number) << 56; // cod-15: 0 too
            assert_eq!(message.kind.number(), number);
            assert_eq!(
                decode(&mut frames(), &bytes(&message)),
                Ok(Frame::Envelope(message))
            );
        }
    }

    #[test]
    fn a_lifetime_is_rounded_up_and_has_a_longest() {
        for (left, expected) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_micros(2_001), 3),
            (Duration::MAX, u32::MAX),
        ] {
            let mut bytes = Vec::new();
            envelope().encode(left, &mut bytes).unwrap();
            let Ok(Frame::Envelope(message)) = decode(&mut frames(), &bytes) else {
                panic!("{left:?}");
            };
            assert_eq!(message.lifetime, Duration::from_millis(expected.into()));
        }
    }

    #[test]
    fn a_frame_that_does_not_hold_together_ends_the_link() {
        // cod-09
        let whole = bytes(&envelope()).split_off(PREFIX);
        for length in 0..HEAD + 3 + 4 {
            let error = decode(&mut frames(), &framed(&whole[..length])).unwrap_err();
            assert!(error.contains("cut off"), "{length}: {error}");
        }
        let mut named = envelope();
        named.source = Some(id("AAAAA"));
        let beyond = changed(&named, |body| body[HEAD] = 255);
        assert_eq!(
            decode(&mut frames(), &beyond).unwrap_err(),
            "the source is cut off"
        );
    }

    #[test]
    fn content_that_cannot_be_a_message_is_given_out_as_such() {
        // cod-10, cod-13, cod-14
        for payload in ["", "nope", "{\"a\":", "5", "[]", "{} {}", "\u{feff}{}"] {
            let bytes = changed(&envelope(), |body| {
                body.truncate(HEAD + 3 + 4);
                body.extend_from_slice(payload.as_bytes());
            });
            assert!(malformed(&bytes).contains("payload"), "{payload}");
        }
        let priority = changed(&envelope(), |body| body[2] = 3);
        assert_eq!(malformed(&priority), "there is no priority 3");
        let command = changed(&envelope(), |body| body[HEAD + 3] = 0xff);
        assert_eq!(malformed(&command), "command: not UTF-8");
        let mut named = envelope();
        named.to = Some(id("CCCC"));
        let short = changed(&named, |body| {
            body[HEAD + 1] = 3;
            body.remove(HEAD + 2);
        });
        assert!(malformed(&short).starts_with("destination: an identity has 4"));
        let no_command = changed(&envelope(), |body| {
            body.drain(HEAD + 3..HEAD + 7);
            body[HEAD + 2] = 0;
        });
        assert!(malformed(&no_command).starts_with("command: "));
        let long = changed(&envelope(), |body| body.resize(HEAD + 7 + MAX + 1, b' '));
        assert!(malformed(&long).contains("too long"));
    }

    #[test]
    fn the_link_goes_on_after_a_malformed_message() {
        let mut frames = frames();
        let broken = changed(&envelope(), |body| body.truncate(HEAD + 7));
        assert!(matches!(
            decode(&mut frames, &broken),
            Ok(Frame::Malformed(_))
        ));
        let next = decode(&mut frames, &bytes(&envelope()));
        assert_eq!(next, Ok(Frame::Envelope(envelope())));
    }

    #[test]
    fn what_is_passed_on_is_not_looked_into() {
        let mut message = envelope();
        message.to = Some(id("CCCCC"));
        let bytes = changed(&message, |body| {
            body.truncate(HEAD + 3 + 5 + 4);
            body.extend_from_slice(b"no object");
        });
        let Ok(Frame::Envelope(passed)) = decode(&mut frames(), &bytes) else {
            panic!("it is for somebody else");
        };
        assert_eq!(passed.payload.as_str(), "no object");
        let not_text = changed(&message, |body| body.push(0xff));
        assert!(malformed(&not_text).contains("UTF-8"));
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_longest_payload_with_the_longest_names() {
        let mut message = envelope();
        message.source = Some(id(&"s".repeat(255)));
        message.to = Some(id(&"t".repeat(255)));
        message.command = "c".repeat(255).try_into().unwrap();
        message.payload = Payload::passed_on(&[b' '; MAX]).unwrap();
        let bytes = bytes(&message);
        assert!(bytes.len() <= longest_frame(MAX));
        assert_eq!(decode(&mut frames(), &bytes), Ok(Frame::Envelope(message)));
        let limit = u32::try_from(MAX + LONGEST_HEAD).unwrap();
        let claimed = |length: u32| decode(&mut frames(), &length.to_be_bytes()).unwrap_err();
        assert!(claimed(limit).contains("wants more"));
        assert!(claimed(limit + 1).contains("are allowed"));
        assert!(claimed(u32::MAX).contains("are allowed"));
        let get = decode(&mut frames(), b"GET / HTTP/1.1\r\n").unwrap_err();
        assert!(get.contains("are allowed"));
    }

    #[test]
    fn before_the_welcome_only_short_frames_of_an_opening_are_taken() {
        let mut frames = Frames::new(id("BBBBB"), 1 << 20);
        let length = u32::try_from(LONGEST_SHAKE + 1).unwrap();
        let error = decode(&mut frames, &length.to_be_bytes()).unwrap_err();
        assert!(error.contains("4096 are allowed"));
        let error = decode(&mut frames, &bytes(&envelope())).unwrap_err();
        assert!(error.contains("no hello"), "{error}");
    }

    #[test]
    fn names_that_come_again_share_their_text() {
        let mut names = Names::<Identity>::new();
        let first = names.find(b"AAAAA").unwrap();
        let again = names.find(b"AAAAA").unwrap();
        assert!(std::ptr::eq(first.as_str(), again.as_str()));
        for number in 0..100_000 {
            let name = format!("node-{number}");
            assert_eq!(names.find(name.as_bytes()).unwrap(), *name);
        }
        assert_eq!(names.slots.len(), 16);
    }

    fn any_name(longest: usize) -> impl Strategy<Value = String> {
        let text = prop_oneof!["[ -~]{4,255}", "\\PC{4,60}"];
        text.prop_filter("within the limits", move |text| text.len() <= longest)
    }

    fn any_envelope() -> impl Strategy<Value = Envelope> {
        let identity = || prop::option::of(any_name(255).prop_map(|name| id(&name)));
        let numbers = (any::<u8>(), any::<u8>(), any::<u64>(), any::<u32>());
        let payload = prop::collection::btree_map(".{0,9}", any::<i32>(), 0..9);
        (
            numbers,
            0..3_usize,
            identity(),
            identity(),
            any_name(255),
            payload,
        )
            .prop_map(
                |((kind, hops, id, left), priority, source, to, command, payload)| Envelope {
                    kind: EnvelopeKind::of(kind),
                    hops,
                    priority: [Priority::Slow, Priority::Medium, Priority::Fast][priority],
                    id,
                    lifetime: Duration::from_millis(left.into()),
                    source,
                    to,
                    command: command.try_into().unwrap(),
                    payload: Payload::new(&payload).unwrap(),
                },
            )
    }

    proptest! {
        #[test]
        fn envelopes_come_out_as_they_went_in_however_they_are_cut(
            envelopes in prop::collection::vec(any_envelope(), 1..10),
            pieces in prop::collection::vec(1..500_usize, 1..5),
        ) {
            let stream: Vec<u8> = envelopes.iter().flat_map(bytes).collect();
            let (mut frames, mut come, mut found) = (frames(), Vec::new(), Vec::new());
            let (mut rest, mut sizes) = (stream.as_slice(), pieces.iter().cycle());
            while !rest.is_empty() {
                let count = rest.len().min(*sizes.next().unwrap());
                come.extend_from_slice(&rest[..count]);
                rest = &rest[count..];
                while let Decoded::Message { message, used } = frames.decode(&come).unwrap() {
                    found.push(message);
                    come.drain(..used);
                }
            }
            let expected: Vec<Frame> = envelopes.into_iter().map(Frame::Envelope).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300), length: u32) {
            for mut frames in [frames(), Frames::new(id("BBBBB"), MAX)] {
                let _ = decode(&mut frames, &framed(&body));
                let _ = frames.decode(&[&length.to_be_bytes(), body.as_slice()].concat());
                let _ = frames.decode(&body);
            }
        }

        #[test]
        fn an_envelope_with_bytes_changed_is_something_or_ends_the_link(
            envelope in any_envelope(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let bytes = changed(&envelope, |body| {
                for (at, byte) in changes {
                    let at = at.index(body.len());
                    body[at] = byte;
                }
            });
            if let Ok(Frame::Envelope(read)) = decode(&mut frames(), &bytes) {
                let again = self::bytes(&read);
                prop_assert_eq!(decode(&mut frames(), &again), Ok(Frame::Envelope(read)));
            }
        }
    }
}
