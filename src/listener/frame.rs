//! The frames between a child and its listener: their shapes, and the bytes of them both ways.
//!
//! A frame is the length of its JSON in four bytes, big end first, and one JSON object. Keys that
//! are not in the table are ignored; nothing may be in an object twice.
//!
//! | Frame | From | JSON |
//! |---|---|---|
//! | hello | child, first | `{"interplay": 1, "token": "32 hex digits", "source": "task 7", "pid": 4711}` (`pid` optional, for the log) |
//! | welcome | listener, to a hello | `{"ok": true, "max_frame": 16777216}` (the longest JSON it takes) |
//! | refused | listener, last | `{"ok": false, "reason": "bad_token", "message": "for people"}` |
//! | message | child | `{"cmd": "set_item", "data": …}` (no `data` is null) |
//! | bye | child, last | `{"bye": true}` |
//! | closing | listener, last | `{"closing": true}` (it has been stopped) |
//!
//! The reasons of a refusal: `too_many`, `no_hello`, `version`, `bad_token`, `bad_source`, `taken`,
//! `too_long`, `bad_frame`. Everything in this file is pure; who reads and writes is elsewhere.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::end::Refused;

/// The version of the frames that a hello names.
const VERSION: u64 = 1;

/// The bytes of a frame's length.
const PREFIX: usize = 4;

/// How much room there is for one read, and what is kept of a buffer that a long frame made larger.
const CHUNK: usize = 64 << 10;

/// The first frame of a child.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    interplay: u64,
    pub(super) token: String,
    pub(super) source: String,
    #[serde(default)]
    pub(super) pid: Option<u32>,
}

impl Hello {
    pub(super) fn new(token: &str, source: &str) -> Self {
        Self {
            interplay: VERSION,
            token: token.to_owned(),
            source: source.to_owned(),
            pid: Some(std::process::id()),
        }
    }

    /// Reads a hello; the version is judged before the rest, which another version may have changed.
    pub(super) fn decode(json: &[u8]) -> Result<Self, Refused> {
        #[derive(Deserialize)]
        struct Version {
            interplay: u64,
        }
        let version: Version = from_object(json).map_err(|_| Refused::BadFrame)?;
        if version.interplay != VERSION {
            return Err(Refused::Version);
        }
        from_object(json).map_err(|_| Refused::BadFrame)
    }
}

/// A message on its way out.
#[derive(Serialize)]
pub(super) struct Outgoing<'a, T: ?Sized> {
    pub(super) cmd: &'a str,
    pub(super) data: &'a T,
}

/// The last frame of a child.
#[derive(Serialize)]
pub(super) struct Bye {
    bye: bool,
}

impl Bye {
    pub(super) const FRAME: Self = Self { bye: true };
}

/// What a child that was welcomed sends.
#[derive(Debug, PartialEq)]
pub(super) enum FromChild<D> {
    Message {
        cmd: String,
        data: D,
    },
    /// A message whose data is not of the listener's type.
    Unreadable {
        cmd: String,
        why: String,
    },
    Bye,
}

#[derive(Deserialize)]
#[serde(bound = "D: DeserializeOwned")]
struct Fields<D> {
    cmd: Option<String>,
    data: Option<D>,
    #[serde(default)]
    bye: bool,
}

impl<D: DeserializeOwned> FromChild<D> {
    pub(super) fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        let Fields { cmd, data, bye } = match from_object(json) {
            Ok(fields) => fields,
            Err(error) => return Self::unreadable(json, error.to_string()).ok_or(error),
        };
        match (cmd, data, bye) {
            (Some(cmd), Some(data), false) => Ok(Self::Message { cmd, data }),
            // Null may be what the type wants, or one of the things it may be.
            (Some(cmd), None, false) => Ok(match D::deserialize(serde_json::Value::Null) {
                Ok(data) => Self::Message { cmd, data },
                Err(error) => Self::Unreadable {
                    cmd,
                    why: error.to_string(),
                },
            }),
            (None, None, true) => Ok(Self::Bye),
            _ => Err(serde_json::Error::custom("neither a message nor a bye")),
        }
    }

    /// What was not read is a message all the same, if nothing but its data was to blame.
    pub(super) fn unreadable(json: &[u8], why: String) -> Option<Self> {
        match from_object::<Fields<IgnoredAny>>(json).ok()? {
            Fields {
                cmd: Some(cmd),
                bye: false,
                ..
            } => Some(Self::Unreadable { cmd, why }),
            _ => None,
        }
    }
}

/// What a listener sends.
#[derive(Debug, PartialEq)]
pub(super) enum FromListener {
    Welcome { max_frame: usize },
    Refused { reason: Refused, message: String },
    Closing,
}

/// The fields of [`FromListener`].
#[derive(Default, Serialize, Deserialize)]
struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_frame: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closing: Option<bool>,
}

impl FromListener {
    pub(super) fn refusal(reason: Refused, message: &str) -> Self {
        Self::Refused {
            reason,
            message: message.to_owned(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let answer = match self {
            Self::Welcome { max_frame } => Answer {
                ok: Some(true),
                max_frame: Some(*max_frame),
                ..Answer::default()
            },
            Self::Refused { reason, message } => Answer {
                ok: Some(false),
                reason: Some(reason.name().to_owned()),
                message: Some(message.clone()),
                ..Answer::default()
            },
            Self::Closing => Answer {
                closing: Some(true),
                ..Answer::default()
            },
        };
        let mut bytes = Vec::new();
        let encoded = encode(&answer, usize::MAX, &mut bytes);
        debug_assert!(encoded.is_ok(), "plain fields are always JSON");
        bytes
    }

    pub(super) fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        let answer: Answer = from_object(json)?;
        match answer {
            Answer {
                closing: Some(true),
                ..
            } => Ok(Self::Closing),
            Answer {
                ok: Some(true),
                max_frame,
                ..
            } => Ok(Self::Welcome {
                max_frame: max_frame.unwrap_or(usize::MAX),
            }),
            Answer {
                ok: Some(false),
                reason,
                message,
                ..
            } => Ok(Self::Refused {
                reason: Refused::from_name(&reason.unwrap_or_default()),
                message: message.unwrap_or_default(),
            }),
            _ => Err(serde_json::Error::custom("no frame of a listener")),
        }
    }
}

/// Reads an object; a list of its values in their order, which serde takes for one too, is none.
fn from_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => serde_json::from_slice(json),
        _ => Err(serde_json::Error::custom("not an object")),
    }
}

/// Why something did not become a frame.
#[derive(Debug)]
pub(super) enum Unfit {
    Json(serde_json::Error),
    TooLong { length: usize },
}

/// Appends a frame; leaves `bytes` as it was on an error.
pub(super) fn encode<T: Serialize>(
    frame: &T,
    limit: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), Unfit> {
    let before = bytes.len();
    bytes.extend([0; PREFIX]);
    if let Err(error) = serde_json::to_writer(&mut *bytes, frame) {
        bytes.truncate(before);
        return Err(Unfit::Json(error));
    }
    let length = bytes.len() - before - PREFIX;
    match u32::try_from(length) {
        Ok(prefix) if length <= limit => {
            bytes[before..before + PREFIX].copy_from_slice(&prefix.to_be_bytes());
            Ok(())
        }
        _ => {
            bytes.truncate(before);
            Err(Unfit::TooLong { length })
        }
    }
}

/// What has come of a stream and was not taken yet; finds the frames in it.
///
/// Room is made as bytes come, whatever length a frame claims, so a peer costs the memory it sends.
pub(super) struct Inbox {
    limit: usize,
    bytes: Vec<u8>,
    /// What was read and not taken is between the two.
    start: usize,
    end: usize,
}

/// A frame claims more than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Inbox {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Where the next bytes of the stream go: a chunk, or less if the frame under way needs less
    /// beyond that.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == 0 && self.bytes.len() > 4 * CHUNK {
            self.bytes = Vec::new();
        }
        if self.bytes.len() - self.end < CHUNK / 2 {
            // Twice as much each time, so that a long frame is copied twice at most.
            let length = (2 * self.bytes.len()).clamp(CHUNK, PREFIX + self.limit + CHUNK);
            self.bytes.resize(length.max(self.end + CHUNK / 2), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Says how many bytes were put into the room.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Takes the JSON of the next frame, if all of it has come.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let come = &self.bytes[self.start..self.end];
        let Some((prefix, rest)) = come.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.limit {
            return Err(TooLong);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let json = self.start + PREFIX..self.start + PREFIX + length;
        self.start = json.end;
        Ok(Some(&self.bytes[json]))
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("limit", &self.limit)
            .field("waiting", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn frame(json: &str) -> Vec<u8> {
        let length = u32::try_from(json.len()).unwrap();
        [&length.to_be_bytes(), json.as_bytes()].concat()
    }

    /// All frames in `bytes`, which come in pieces of the given sizes, again and again.
    fn decode(bytes: &[u8], pieces: &[usize], limit: usize) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut inbox = Inbox::new(limit);
        let mut frames = Vec::new();
        let mut rest = bytes;
        for piece in pieces.iter().cycle() {
            let room = inbox.room();
            let count = (*piece).min(rest.len()).min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            inbox.filled(count);
            rest = &rest[count..];
            while let Some(json) = inbox.next()? {
                frames.push(json.to_vec());
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            texts in prop::collection::vec(".{0,300}", 0..20),
            pieces in prop::collection::vec(1..2000_usize, 1..10),
        ) {
            let mut bytes = Vec::new();
            for text in &texts {
                encode(text, usize::MAX, &mut bytes).unwrap();
            }
            let frames = decode(&bytes, &pieces, 4096).unwrap();
            let decoded: Vec<String> =
                frames.iter().map(|json| serde_json::from_slice(json).unwrap()).collect();
            prop_assert_eq!(decoded, texts);
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            pieces in prop::collection::vec(1..500_usize, 1..5),
        ) {
            if let Ok(frames) = decode(&bytes, &pieces, 1024) {
                for json in frames {
                    let _ = FromChild::<Value>::decode(&json);
                    let _ = FromListener::decode(&json);
                    let _ = Hello::decode(&json);
                }
            }
        }

        #[test]
        fn a_message_comes_out_as_it_went_in(cmd in ".{0,50}", n in any::<i64>(), text in ".*") {
            let data = json!({"n": n, "text": text, "list": [n, null, true, 0.25]});
            let mut bytes = Vec::new();
            encode(&Outgoing { cmd: &cmd, data: &data }, usize::MAX, &mut bytes).unwrap();
            let decoded = FromChild::<Value>::decode(&bytes[PREFIX..]).unwrap();
            prop_assert_eq!(decoded, FromChild::Message { cmd, data });
        }
    }

    #[test]
    fn long_frames_come_whole_and_leave_no_large_buffer() {
        let long = "x".repeat(3 << 20);
        let bytes = [frame(&long), frame("{}"), frame(&long)].concat();
        for piece in [CHUNK / 3, 10 << 20] {
            let frames = decode(&bytes, &[piece], 3 << 20).unwrap();
            let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
            assert_eq!(lengths, [3 << 20, 2, 3 << 20]);
        }
        let mut inbox = Inbox::new(3 << 20);
        let bytes = frame(&long);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let room = inbox.room();
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            inbox.filled(count);
            rest = &rest[count..];
        }
        assert!(inbox.bytes.len() <= 2 * bytes.len() + 2 * CHUNK);
        assert!(inbox.next().unwrap().is_some());
        assert_eq!(inbox.room().len(), CHUNK);
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut inbox = Inbox::new(1 << 30);
        inbox.room()[..4].copy_from_slice(&[0x3f, 0, 0, 0]);
        inbox.filled(4);
        assert_eq!(inbox.next(), Ok(None));
        inbox.room();
        assert!(inbox.bytes.len() <= 2 * CHUNK);
    }

    #[test]
    fn the_limit_is_the_longest_frame() {
        assert_eq!(decode(&frame("12345"), &[99], 5).unwrap().len(), 1);
        assert_eq!(decode(&frame("123456"), &[99], 5), Err(TooLong));
        assert_eq!(decode(b"GET / HTTP/1.1\r\n", &[99], 1 << 20), Err(TooLong));
        let mut bytes = b"kept".to_vec();
        let unfit = encode(&"123", 4, &mut bytes);
        assert!(matches!(unfit, Err(Unfit::TooLong { length: 5 })));
        assert_eq!(bytes, b"kept");
        encode(&"123", 5, &mut bytes).unwrap();
        assert_eq!(bytes, b"kept\0\0\0\x05\"123\"");
    }

    #[test]
    fn what_cannot_be_serialised_leaves_nothing() {
        let map = std::collections::HashMap::from([((1, 2), 3)]); // keys of JSON are text
        let mut bytes = Vec::new();
        assert!(matches!(encode(&map, 99, &mut bytes), Err(Unfit::Json(_))));
        assert!(bytes.is_empty());
    }

    #[test]
    fn messages_are_told_from_what_is_none() {
        let message = |cmd: &str, data: Value| {
            let cmd = cmd.to_owned();
            Some(FromChild::Message { cmd, data })
        };
        for (json, expected) in [
            (
                r#"{"cmd":"a","data":{"n":1}}"#,
                message("a", json!({"n": 1})),
            ),
            (r#" { "data" : [] , "cmd" : "" } "#, message("", json!([]))),
            (r#"{"cmd":"a"}"#, message("a", Value::Null)),
            (
                r#"{"cmd":"a","data":null,"later":{}}"#,
                message("a", Value::Null),
            ),
            (r#"{"bye":true,"why":"done"}"#, Some(FromChild::Bye)),
            (r#"{"bye":false}"#, None),
            (r#"{"cmd":"a","bye":true}"#, None),
            (r#"{"cmd":"a","cmd":"b"}"#, None),
            (r#"{"cmd":1}"#, None),
            (r#"{"data":1}"#, None),
            ("{}", None),
            ("[]", None),
            ("", None),
            (r#"{"cmd":"a"} {}"#, None),
        ] {
            let decoded = FromChild::<Value>::decode(json.as_bytes());
            assert_eq!(decoded.ok(), expected, "{json}");
        }
        let typed = |json: &str| FromChild::<u8>::decode(json.as_bytes());
        let message = typed(r#"{"cmd":"a","data":7}"#);
        assert!(matches!(message, Ok(FromChild::Message { data: 7, .. })));
        for unreadable in [r#"{"cmd":"a","data":700}"#, r#"{"cmd":"a"}"#] {
            let decoded = typed(unreadable);
            assert!(matches!(decoded, Ok(FromChild::Unreadable { cmd, .. }) if cmd == "a"));
        }
        assert!(typed(r#"{"cmd":1,"data":700}"#).is_err());
        let unit = FromChild::<()>::decode(br#"{"cmd":"a"}"#).unwrap();
        assert!(matches!(unit, FromChild::Message { data: (), .. }));
        let none = FromChild::<Option<u8>>::decode(br#"{"cmd":"a"}"#).unwrap();
        assert!(matches!(none, FromChild::Message { data: None, .. }));
    }

    #[test]
    fn data_that_is_read_is_126_levels_deep_at_most() {
        for (levels, fits) in [(126, true), (127, false), (1_000_000, false)] {
            let data = "[".repeat(levels) + &"]".repeat(levels);
            let json = format!(r#"{{"cmd":"a","data":{data}}}"#);
            let decoded = FromChild::<Value>::decode(json.as_bytes()).unwrap();
            let read = matches!(decoded, FromChild::Message { .. });
            assert_eq!(read, fits, "{levels}");
        }
    }

    #[test]
    fn a_hello_is_judged_by_its_version_first() {
        for (json, expected) in [
            (
                r#"{"interplay":1,"token":"t","source":"s","pid":1}"#,
                Ok(Some(1)),
            ),
            (r#"{"interplay":1,"token":"t","source":"s"}"#, Ok(None)),
            (r#"{"interplay":2}"#, Err(Refused::Version)),
            (
                r#"{"interplay":"1","token":"t","source":"s"}"#,
                Err(Refused::BadFrame),
            ),
            (r#"{"interplay":1,"token":"t"}"#, Err(Refused::BadFrame)),
            (r#"{"cmd":"a"}"#, Err(Refused::BadFrame)),
            ("\u{0}", Err(Refused::BadFrame)),
        ] {
            let hello = Hello::decode(json.as_bytes()).map(|hello| hello.pid);
            assert_eq!(hello, expected, "{json}");
        }
    }

    #[test]
    fn the_listener_is_understood_by_its_children() {
        for (frame, json) in [
            (
                FromListener::Welcome { max_frame: 7 },
                json!({"ok": true, "max_frame": 7}),
            ),
            (
                FromListener::refusal(Refused::BadToken, "no"),
                json!({"ok": false, "reason": "bad_token", "message": "no"}),
            ),
            (FromListener::Closing, json!({"closing": true})),
        ] {
            let bytes = frame.encode();
            let sent: Value = serde_json::from_slice(&bytes[PREFIX..]).unwrap();
            assert_eq!(sent, json);
            assert_eq!(FromListener::decode(&bytes[PREFIX..]).unwrap(), frame);
        }
        assert!(FromListener::decode(b"{}").is_err());
    }
}
