//! Finds JSON objects in a stream of bytes and parses them.
//!
//! The decoder delimits objects, not lines: an object ends at its closing brace, so monitors that
//! print one object over many lines need no special case, and nor does a last message without
//! newline. Brackets are counted as they come (`brackets.rs`); only then is an object parsed, once,
//! or a reply checked and left as text (`text.rs`). What the objects mean is not known here.

use std::error::Error as StdError;
use std::fmt;
use std::str::{self, Utf8Error};

use serde::Deserialize;
use serde_json::{Deserializer, Map, Value};

use crate::protocol::{DecodeError, Decoded, Decoder};

use super::brackets::{Brackets, Found, LEVELS};
use super::text::{TextReply, Wishes};

/// Messages are JSON objects, with blanks between them.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    guest_agent: bool,
    wishes: Wishes,
    /// Of the unfinished object.
    brackets: Brackets,
}

/// An object that has come.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Incoming {
    /// Of any kind.
    Object(Map<String, Value>),
    /// A reply that is wanted as text; in a box, for the sake of all the small ones that are not.
    Reply(Box<TextReply>),
}

impl Incoming {
    pub(super) fn into_object(self) -> Map<String, Value> {
        match self {
            Self::Object(object) => object,
            Self::Reply(reply) => reply.into_object(),
        }
    }
}

impl Objects {
    /// A decoder at the start of a stream. That of a guest agent has sentinels between objects,
    /// or inside one that was cut off and is dropped. Replies stay text where that is wished.
    pub(super) fn new(guest_agent: bool, wishes: Wishes) -> Self {
        Self {
            guest_agent,
            wishes,
            brackets: Brackets::default(),
        }
    }

    fn is_filler(&self, byte: u8) -> bool {
        // An agent's channel may hold the rest of what it said to somebody before.
        matches!(byte, b' ' | b'\t' | b'\r' | b'\n') || self.guest_agent && byte != b'{'
    }

    /// Makes what it is of one whole object.
    fn read(&self, bytes: &[u8]) -> Result<Incoming, DecodeError> {
        // Text parses faster than bytes, which are checked string by string.
        let text = str::from_utf8(bytes).map_err(|error| {
            let offset = error.valid_up_to();
            Error::NotUtf8(error).at(offset)
        })?;
        if self.wishes.are_there()
            && let Some(reply) = TextReply::of(text)
        {
            return Ok(Incoming::Reply(Box::new(reply)));
        }
        parse(text).map(Incoming::Object)
    }
}

impl Decoder for Objects {
    type Message = Incoming;

    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<Self::Message>, DecodeError> {
        if !self.brackets.are_open() {
            let is_filler = |byte: &&u8| self.is_filler(**byte);
            let skip = bytes.iter().take_while(is_filler).count();
            if skip > 0 {
                return Ok(Decoded::Partial { skip });
            }
            if bytes.first().is_some_and(|byte| *byte != b'{') {
                return Err(Error::NotAnObject.at(0));
            }
        }
        let found = self.brackets.scan(bytes, self.guest_agent);
        if found != Found::Nothing {
            self.brackets = Brackets::default();
        }
        match found {
            Found::End(used) => {
                let message = self.read(&bytes[..used])?;
                Ok(Decoded::Message { message, used })
            }
            Found::Sentinel(skip) => Ok(Decoded::Partial { skip }),
            Found::TooDeep(at) => Err(Error::TooDeep.at(at)),
            Found::Nothing => Ok(Decoded::Partial { skip: 0 }),
        }
    }
}

/// Parses one object, whose depth has been seen to be harmless.
fn parse(text: &str) -> Result<Map<String, Value>, DecodeError> {
    let mut json = Deserializer::from_str(text);
    json.disable_recursion_limit();
    Map::deserialize(&mut json).map_err(|error| {
        let lines = text.split_inclusive('\n').map(str::len);
        let before: usize = lines.take(error.line().saturating_sub(1)).sum();
        let offset = before + error.column().saturating_sub(1);
        Error::NotJson(error).at(offset)
    })
}

/// Why bytes are no object.
#[derive(Debug)]
pub(super) enum Error {
    /// Something other than a brace where an object would begin.
    NotAnObject,
    /// Nested deeper than [`LEVELS`].
    TooDeep,
    /// Braces around bytes that are no text.
    NotUtf8(Utf8Error),
    /// Braces around something else.
    NotJson(serde_json::Error),
}

impl Error {
    fn at(self, offset: usize) -> DecodeError {
        let source = self.into();
        DecodeError { offset, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::TooDeep => write!(f, "nested deeper than {LEVELS} levels"),
            Self::NotUtf8(_) => f.write_str("not UTF-8"),
            Self::NotJson(_) => f.write_str("not JSON"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotUtf8(cause) => Some(cause),
            Self::NotJson(cause) => Some(cause),
            Self::NotAnObject | Self::TooDeep => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;
    use std::{fs, iter};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    type Object = Map<String, Value>;

    /// A decoder, and what has come and belongs to no message yet, as the loop would keep it.
    #[derive(Clone)]
    struct Feed {
        decoder: Objects,
        come: Vec<u8>,
        found: Vec<Object>,
    }

    impl Feed {
        fn new(guest_agent: bool) -> Self {
            Self {
                decoder: Objects::new(guest_agent, Wishes::default()),
                come: Vec::new(),
                found: Vec::new(),
            }
        }

        fn feed(&mut self, bytes: &[u8]) -> Result<&[Object], DecodeError> {
            self.come.extend_from_slice(bytes);
            while !self.come.is_empty() {
                let taken = match self.decoder.decode(&self.come)? {
                    Decoded::Partial { skip: 0 } => break,
                    Decoded::Partial { skip } => skip,
                    Decoded::Message { message, used } => {
                        self.found.push(message.into_object());
                        used
                    }
                };
                self.come.drain(..taken);
            }
            Ok(&self.found)
        }
    }

    /// What a decoder makes of a stream that comes in these pieces: the messages and, if there was an
    /// error, its text.
    fn decoded<'a>(
        guest_agent: bool,
        mut pieces: impl Iterator<Item = &'a [u8]>,
    ) -> (Vec<Object>, Option<String>) {
        let mut feed = Feed::new(guest_agent);
        let error = pieces.find_map(|piece| feed.feed(piece).err());
        (feed.found, error.map(|error| error.source.to_string()))
    }

    fn objects(stream: &[u8]) -> Vec<Object> {
        Feed::new(false).feed(stream).unwrap().to_vec()
    }

    fn error(bytes: &[u8]) -> DecodeError {
        Feed::new(false).feed(bytes).unwrap_err()
    }

    #[test]
    fn the_tail_of_what_an_agent_said_to_somebody_before_is_passed_over() {
        let stream = b"cut off\"}\n\xff{\"return\": 1}\n";
        let mut agent = Feed::new(true);
        assert_eq!(agent.feed(stream).unwrap()[0]["return"], 1);
        assert!(
            Feed::new(false).feed(stream).is_err(),
            "a monitor's stream has no such thing"
        );
    }

    // ---- Recorded servers ----

    /// All that a server sent on one connection, a line with its end each.
    struct Recorded {
        name: String,
        lines: Vec<Vec<u8>>,
    }

    impl Recorded {
        fn is(&self, suffix: &str) -> bool {
            self.name.ends_with(suffix)
        }

        fn is_guest_agent(&self) -> bool {
            self.name.starts_with("qga-")
        }
    }

    fn recorded() -> Vec<Recorded> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/qmp");
        let mut all: Vec<Recorded> = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_none_or(|extension| extension != "jsonl")
            {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap();
            let mut connections: Vec<(Value, Recorded)> = Vec::new();
            for step in fs::read_to_string(&path).unwrap().lines() {
                let step: Value = serde_json::from_str(step).unwrap();
                if step["dir"] != "s2c" {
                    continue;
                }
                let mut line = match step["hex"].as_str() {
                    Some(hex) => (0..hex.len())
                        .step_by(2)
                        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                        .collect(),
                    None => step["line"].as_str().unwrap().as_bytes().to_vec(),
                };
                line.extend_from_slice(step["eol"].as_str().unwrap().as_bytes());
                let at = connections.iter().position(|(id, _)| *id == step["conn"]);
                let at = at.unwrap_or_else(|| {
                    let (name, lines) = (name.to_owned(), Vec::new());
                    connections.push((step["conn"].clone(), Recorded { name, lines }));
                    connections.len() - 1
                });
                connections[at].1.lines.push(line);
            }
            all.extend(connections.into_iter().map(|(_, recorded)| recorded));
        }
        assert!(all.len() > 40, "only {} connections recorded", all.len());
        all
    }

    /// The parts of a stream before, between and behind the lines that are no JSON, and these lines.
    fn split_at_bad(recorded: &Recorded) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut good, mut bad) = (vec![Vec::new()], Vec::new());
        for line in &recorded.lines {
            if line.ends_with(b"\"id\": inf}\r\n") {
                bad.push(line.clone());
                good.push(Vec::new());
            } else {
                good.last_mut().unwrap().extend_from_slice(line);
            }
        }
        (good, bad)
    }

    /// What another reader of concatenated JSON makes of it.
    fn expected(stream: &[u8]) -> Vec<Object> {
        let json: Vec<u8> = stream.iter().copied().filter(|b| *b != 0xFF).collect();
        let values = Deserializer::from_slice(&json).into_iter();
        values.map(Result::unwrap).collect()
    }

    #[test]
    fn every_recorded_message_is_found_wherever_the_stream_is_cut() {
        let mut count = 0;
        for recorded in recorded() {
            let name = &recorded.name;
            for stream in split_at_bad(&recorded).0 {
                let expected = expected(&stream);
                count += expected.len();
                let guest_agent = recorded.is_guest_agent();
                let mut feed = Feed::new(guest_agent);
                assert_eq!(feed.feed(&stream).unwrap(), expected, "{name} in one piece");
                assert_eq!(feed.come, b"", "{name}");
                let bytewise = decoded(guest_agent, stream.chunks(1));
                assert_eq!(bytewise, (expected.clone(), None), "{name} bytewise");

                // A decoder is as new behind each message, so each can be cut by itself.
                let mut rest = &stream[..];
                for message in expected {
                    let used = loop {
                        match Objects::new(guest_agent, Wishes::default())
                            .decode(rest)
                            .unwrap()
                        {
                            Decoded::Message { used, .. } => break used,
                            Decoded::Partial { skip } => rest = &rest[skip..],
                        }
                    };
                    let (bytes, behind) = rest.split_at(used);
                    let next = &behind[..behind.len().min(50)];
                    for cut in (0..used).step_by(1 + used * used / 2_000_000) {
                        let mut feed = Feed::new(guest_agent);
                        assert_eq!(feed.feed(&bytes[..cut]).unwrap(), [], "{name}, {cut} bytes");
                        let mut with_more = feed.clone();
                        let found = feed.feed(&bytes[cut..]).unwrap();
                        assert_eq!(found, std::slice::from_ref(&message), "{name} cut at {cut}");
                        let found = with_more.feed(&[&bytes[cut..], next].concat()).unwrap();
                        assert_eq!(found[0], message, "{name} cut at {cut}, with more behind");
                    }
                    rest = behind;
                }
            }
        }
        assert!(count > 1500, "only {count} messages");
    }

    #[test]
    fn the_one_recorded_line_that_is_no_json_is_refused() {
        for recorded in recorded() {
            let (_, bad) = split_at_bad(&recorded);
            let of_ids = usize::from(recorded.is("-ids"));
            assert_eq!(bad.len(), of_ids, "{}", recorded.name);
            for line in bad {
                let error = error(&line);
                let inf = line.len() - "inf}\r\n".len();
                assert!((inf..=inf + 3).contains(&error.offset), "{error:?}");
                let cause = error.source.downcast_ref().unwrap();
                assert!(matches!(cause, Error::NotJson(_)), "{cause:?}");
            }
        }
    }

    #[test]
    fn a_pretty_monitor_says_the_same_as_a_compact_one() {
        let mut seen = 0;
        for recorded in recorded().iter().filter(|recorded| recorded.is("-pretty")) {
            let pretty = recorded.lines.concat();
            assert!(pretty.starts_with(b"{\r\n") || pretty.starts_with(b"{\n"));
            let found = objects(&pretty);
            let line = |object: &Object| serde_json::to_string(object).unwrap() + "\r\n";
            let compact: String = found.iter().map(line).collect();
            assert_eq!(objects(compact.as_bytes()), found);
            seen += 1;
        }
        assert!(seen >= 2);
    }

    // ---- Values ----

    #[test]
    fn numbers_keep_64_bits_and_escapes_are_resolved() {
        for (text, value) in [
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("18446744073709551616", json!(18446744073709551616.0)),
            ("1.5e3", json!(1500.0)),
            (r#""\u00e9\ud83d\ude00\n\"\\""#, json!("é😀\n\"\\")),
            (r#""}]{[""#, json!("}]{[")),
            ("{\"a\": 1, \"a\": 2}", json!({"a": 2})),
        ] {
            let object = format!("{{\"return\": {text}}}");
            assert_eq!(objects(object.as_bytes())[0]["return"], value, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused_at_its_place() {
        let not_an_object = |e: &Error| matches!(e, Error::NotAnObject);
        let not_utf8 = |e: &Error| matches!(e, Error::NotUtf8(_));
        let not_json = |e: &Error| matches!(e, Error::NotJson(_));
        type Check = fn(&Error) -> bool;
        for (bytes, offset, check) in [
            (&b"\r\n[]"[..], 0, not_an_object as Check),
            (b"5", 0, not_an_object),
            (b"}", 0, not_an_object),
            (b"\xFF{}", 0, not_an_object),
            (b"HTTP/1.1 400 Bad Request\r\n", 0, not_an_object),
            (b"{\"a\": \"\xFF\"}", 7, not_utf8),
            (b"{\"a\": \"\xED\xA0\x80\"}", 7, not_utf8),
            (b"{\n\n \"a\": inf}", 9, not_json),
            (b"{\"a\": \"\\ud800\"}", 13, not_json),
            (b"{\"a\": \"\\udc00\"}", 12, not_json),
            (b"{\"a\": 1e400}", 10, not_json),
            (b"{'a': 1}", 1, not_json),
            (b"{]", 1, not_json),
            (b"{\"a\": [}}", 7, not_json),
            (b"{\"a\": \"\n\"}", 7, not_json),
        ] {
            let shown = bytes.escape_ascii();
            let error = error(bytes);
            let cause = error.source.downcast_ref().unwrap();
            assert!(check(cause), "{shown}: {cause:?}");
            assert!(error.offset.abs_diff(offset) <= 1, "{shown}: {error:?}");
        }
    }

    #[test]
    fn nesting_is_limited_before_anything_is_parsed() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            format!("{{\"a\": {open}{close}}}")
        };
        assert_eq!(objects(nested(LEVELS).as_bytes()).len(), 1);
        let error = error(&nested(LEVELS + 1).as_bytes()[..LEVELS + 7]);
        let cause = error.source.downcast_ref().unwrap();
        assert!(matches!(cause, Error::TooDeep), "{cause:?}");
        assert_eq!(error.offset, LEVELS + 5, "before its end has come");
    }

    // ---- Guest agents ----

    #[test]
    fn a_sentinel_of_the_guest_agent_ends_what_was_cut_off() {
        for (stream, found) in [
            (&b"\xFF{\"return\":1}\n"[..], json!([{"return": 1}])),
            (b"\xFF\n\xFF{}", json!([{}])),
            (b"{\"a\":[1,\xFF{\"return\":1}", json!([{"return": 1}])),
            (b"{\"a\":\"b\xFF{\"return\":1}", json!([{"return": 1}])),
            (b"{}{\"a\":\"b\\\xFF{}", json!([{}, {}])),
        ] {
            let shown = stream.escape_ascii();
            for cut in 0..=stream.len() {
                let (before, behind) = stream.split_at(cut);
                let (objects, error) = decoded(true, [before, behind].into_iter());
                assert_eq!(
                    (json!(objects), error),
                    (found.clone(), None),
                    "{shown}, {cut}"
                );
            }
        }
    }

    // ---- Any value, any bytes ----

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\\\\"{}\\[\\]\u{e9}\u{1F600}\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn any_object() -> impl Strategy<Value = Object> {
        let members = prop::collection::btree_map("[a-z\\\\\"}]{0,3}", any_value(), 0..4);
        members.prop_map(|map| map.into_iter().collect())
    }

    /// The bytes in pieces of these lengths, over and over.
    fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        let mut lengths = lengths.iter().cycle();
        iter::from_fn(move || {
            let length = (*lengths.next()?).min(bytes.len());
            let (piece, rest) = bytes.split_at(length);
            bytes = rest;
            (length > 0).then_some(piece)
        })
    }

    proptest! {
        #[test]
        fn any_objects_come_out_as_they_went_in(
            all in prop::collection::vec((any_object(), any::<bool>(), "[ \t\r\n]{0,3}"), 0..5),
            lengths in prop::collection::vec(1_usize..40, 1..6),
        ) {
            let mut stream = Vec::new();
            for (object, pretty, blanks) in &all {
                let text = if *pretty {
                    serde_json::to_string_pretty(object)
                } else {
                    serde_json::to_string(object)
                };
                stream.extend_from_slice(text.unwrap().as_bytes());
                stream.extend_from_slice(blanks.as_bytes());
            }
            let objects: Vec<Object> = all.into_iter().map(|(object, ..)| object).collect();
            prop_assert_eq!(decoded(false, pieces(&stream, &lengths)), (objects, None));
        }

        #[test]
        fn any_bytes_mean_the_same_wherever_they_are_cut(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                prop::collection::vec(prop::sample::select(b"{}[]\"\\:,1u \n\xFF".to_vec()), 0..60),
            ],
            lengths in prop::collection::vec(1_usize..10, 1..6),
            guest_agent: bool,
        ) {
            let whole = decoded(guest_agent, iter::once(&bytes[..]));
            prop_assert_eq!(decoded(guest_agent, pieces(&bytes, &lengths)), whole);
        }
    }

    proptest! {
        #[test]
        fn what_is_wished_to_be_text_is_the_same_object_or_the_same_error(
            value in prop_oneof![
                any_value().prop_map(|value| value.to_string()),
                prop::collection::vec(prop::sample::select(&b"{}[]\"\"\\u8d0:,1e+-. "[..]), 0..20)
                    .prop_map(|bytes| String::from_utf8(bytes).unwrap()),
            ],
            rest in prop::sample::select(vec![
                "}", " }", ", \"id\": 5}", ",\"id\":{\"a\":[]}}", ",\"more\":1}", ",}", "]", ",\"return\":1}",
                ", \"id\": 5, \"id\": 6}", ", \"error\": {}}", "\"id\": 5}", ", \"id\": 1e400}",
            ]),
        ) {
            let object = format!("{{\"return\": {value}{rest}");
            let wishes = Wishes::default();
            let _wish = wishes.wish();
            let decode = |wishes: Wishes| {
                let decoded = Objects::new(false, wishes).decode(object.as_bytes());
                let error = |error: DecodeError| (error.offset, error.source.to_string());
                decoded.map_err(error).map(|decoded| match decoded {
                    Decoded::Message { message, used } => Some((message.into_object(), used)),
                    Decoded::Partial { .. } => None,
                })
            };
            prop_assert_eq!(decode(wishes.clone()), decode(Wishes::default()));
        }
    }

    // ---- Speed ----

    /// Prints what a large reply costs; run it alone in a release build.
    #[test]
    #[ignore = "measures, by hand: cargo test --release --lib -- --ignored --nocapture qmp::framing"]
    fn what_a_large_reply_costs() {
        for recorded in recorded().iter().filter(|recorded| recorded.is("-schema")) {
            let reply = recorded.lines.iter().max_by_key(|line| line.len()).unwrap();
            let mut times = [const { Vec::new() }; 3];
            for _ in 0..500 {
                let mut brackets = Brackets::default();
                let start = Instant::now();
                let Found::End(used) = brackets.scan(reply, false) else {
                    panic!("no whole object");
                };
                let scanned = Instant::now();
                let object = parse(str::from_utf8(&reply[..used]).unwrap()).unwrap();
                let parsed = Instant::now();
                drop(object);
                times[0].push(scanned - start);
                times[1].push(parsed - scanned);
                times[2].push(parsed.elapsed());
            }
            times.iter_mut().for_each(|times| times.sort());
            let [scan, parse, drop] = times.map(|times| times[times.len() / 2]);
            let (name, length) = (&recorded.name, reply.len());
            println!("{name}, {length} bytes: scan {scan:?}, parse {parse:?}, drop {drop:?}");
        }
    }
}
