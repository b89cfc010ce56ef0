//! JSON as Python's `json` module reads and writes it, as `serde_json` values.
//!
//! Every body on the wire goes through here. Plain JSON, which is nearly all
//! of it, is read by serde_json. What serde_json refuses is read again by a
//! reader of our own that knows what Python writes beyond the standard: `NaN`
//! and `Infinity`, numbers of any size, lone surrogates, deep nesting. It keeps
//! its own stack, because a recursive reader at that depth needs nearly all of
//! a 2 MiB thread in a debug build.

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// How deep arrays and objects may be nested, as in Python.
pub(crate) const MAX_DEPTH: usize = 700;

/// Reads a body: one JSON value in UTF-8, without a byte order mark.
///
/// What a `Value` cannot hold becomes the nearest thing it can: `NaN`, the
/// infinities and numbers beyond the range of `f64` become null, integers
/// beyond 64 bits the nearest `f64`, lone surrogates U+FFFD. Of keys that occur
/// twice the last one counts.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ParseError> {
    serde_json::from_slice(bytes).or_else(|_| Reader::read(bytes))
}

/// Writes one of this floor's bodies, compact and in UTF-8.
///
/// For `Value` and the bodies made of it; whatever else a user wants to send
/// has to be turned into a `Value` first, which can fail.
pub(crate) fn to_vec(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("keys are text, numbers are finite, and a Vec takes every byte")
}

/// Python truthiness: false for null, false, zero, and whatever is empty.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    /// It is not UTF-8.
    NotUtf8,
    /// It is nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// What stands at this byte, or the end that does, was not expected there.
    Unexpected { at: usize },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("JSON is not UTF-8"),
            Self::TooDeep => write!(f, "JSON is nested deeper than {MAX_DEPTH}"),
            Self::Unexpected { at } => write!(f, "JSON is malformed at byte {at}"),
        }
    }
}

impl Error for ParseError {}

/// An array or object that is not closed yet.
enum Open {
    Array(Vec<Value>),
    /// The key is that of the value that comes next.
    Object(Map<String, Value>, String),
}

/// Reads Python's dialect, with a stack of its own instead of recursion.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn read(bytes: &'a [u8]) -> Result<Value, ParseError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ParseError::NotUtf8)?;
        Self { text, at: 0 }.document()
    }

    fn document(mut self) -> Result<Value, ParseError> {
        let mut open = Vec::new();
        loop {
            // A value begins here: either it opens something, or it is whole.
            self.skip_blanks();
            let mut value = match self.peek() {
                Some(b'[' | b'{') if open.len() == MAX_DEPTH => return Err(ParseError::TooDeep),
                Some(b'[') => {
                    self.at += 1;
                    self.skip_blanks();
                    if !self.take("]") {
                        open.push(Open::Array(Vec::new()));
                        continue;
                    }
                    Value::Array(Vec::new())
                }
                Some(b'{') => {
                    self.at += 1;
                    self.skip_blanks();
                    if !self.take("}") {
                        open.push(Open::Object(Map::new(), self.key()?));
                        continue;
                    }
                    Value::Object(Map::new())
                }
                _ => self.scalar()?,
            };
            // It goes where it belongs, which may close that, and so on upwards.
            loop {
                self.skip_blanks();
                value = match open.pop() {
                    None if self.at == self.text.len() => return Ok(value),
                    None => return Err(self.unexpected()),
                    Some(Open::Array(mut items)) => {
                        items.push(value);
                        if self.take(",") {
                            open.push(Open::Array(items));
                            break;
                        }
                        self.expect("]")?;
                        Value::Array(items)
                    }
                    Some(Open::Object(mut map, key)) => {
                        map.insert(key, value);
                        if self.take(",") {
                            self.skip_blanks();
                            open.push(Open::Object(map, self.key()?));
                            break;
                        }
                        self.expect("}")?;
                        Value::Object(map)
                    }
                };
            }
        }
    }

    fn key(&mut self) -> Result<String, ParseError> {
        let key = self.string()?;
        self.skip_blanks();
        self.expect(":")?;
        Ok(key)
    }

    fn scalar(&mut self) -> Result<Value, ParseError> {
        const WORDS: [(&str, Value); 6] = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Null),
            ("Infinity", Value::Null),
            ("-Infinity", Value::Null),
        ];
        if self.peek() == Some(b'"') {
            return self.string().map(Value::String);
        }
        for (word, value) in WORDS {
            if self.take(word) {
                return Ok(value);
            }
        }
        self.number()
    }

    fn number(&mut self) -> Result<Value, ParseError> {
        let start = self.at;
        self.take("-");
        if !self.take("0") {
            self.digits()?;
        }
        if self.take(".") {
            self.digits()?;
        }
        if self.take("e") || self.take("E") {
            let _ = self.take("+") || self.take("-");
            self.digits()?;
        }
        // Well formed, so that serde_json can only object to its size.
        let token = &self.text[start..self.at];
        Ok(serde_json::from_str(token).map_or(Value::Null, Value::Number))
    }

    fn digits(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.unexpected());
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, ParseError> {
        self.expect("\"")?;
        let mut text = String::new();
        loop {
            let start = self.at;
            while self
                .peek()
                .is_some_and(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            text.push_str(&self.text[start..self.at]);
            if self.take("\"") {
                return Ok(text);
            }
            self.expect("\\")?;
            text.push(self.escape()?);
        }
    }

    /// The character that an escape stands for; its backslash is read already.
    fn escape(&mut self) -> Result<char, ParseError> {
        let character = match self.peek() {
            Some(b'u') => {
                self.at += 1;
                let unit = self.hex()?;
                return self.surrogate(unit);
            }
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(character)
    }

    /// The character of one UTF-16 unit, or of a pair if the other half follows.
    fn surrogate(&mut self, unit: u16) -> Result<char, ParseError> {
        let first = self.at;
        if (0xd800..0xdc00).contains(&unit) && self.take("\\u") {
            let second = self.hex()?;
            if let Some(Ok(character)) = char::decode_utf16([unit, second]).next() {
                return Ok(character);
            }
            // Not the other half: a character of its own.
            self.at = first;
        }
        Ok(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u16, ParseError> {
        let digits = self.text.get(self.at..self.at + 4);
        let unit = digits
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.unexpected())?;
        self.at += 4;
        Ok(unit)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.take(token) {
            return Ok(());
        }
        Err(self.unexpected())
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self) -> ParseError {
        ParseError::Unexpected { at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn nested(open: &str, close: &str, depth: usize) -> Vec<u8> {
        format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes()
    }

    #[test]
    fn what_python_writes_beyond_the_standard_is_read() {
        let long = "7".repeat(4000);
        let table: &[(&str, Value)] = &[
            ("NaN", json!(null)),
            ("[NaN,Infinity, -Infinity ]", json!([null, null, null])),
            (r#"{"NaN":NaN}"#, json!({ "NaN": null })),
            (r#""NaN""#, json!("NaN")),
            ("1e400", json!(null)),
            ("-1e400", json!(null)),
            ("[1e-400]", json!([0.0])),
            (&long, json!(null)),
            ("18446744073709551615", json!(u64::MAX)),
            ("18446744073709551616", json!(18446744073709551616.0)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("-9223372036854775809", json!(-9223372036854775809.0)),
            (
                "[NaN, 123456789012345678901234567890]",
                json!([null, 123456789012345678901234567890.0]),
            ),
            (
                "[NaN, 0.1, 1, 1.0, -0, 5e-324]",
                json!([null, 0.1, 1, 1.0, -0.0, 5e-324]),
            ),
            (r#""\ud800""#, json!("\u{fffd}")),
            (r#""a\udc00b""#, json!("a\u{fffd}b")),
            (
                r#""\ud800\ud83d\ude00\ud83d""#,
                json!("\u{fffd}\u{1f600}\u{fffd}"),
            ),
            (
                r#""\ud83dA\ud83d\n\uDBFF""#,
                json!("\u{fffd}A\u{fffd}\n\u{fffd}"),
            ),
            (
                r#"["\ud800", "\"\\\/\b\f\n\r\té"]"#,
                json!(["\u{fffd}", "\"\\/\u{8}\u{c}\n\r\té"]),
            ),
            (r#"{"a":1,"\u0061":2}"#, json!({ "a": 2 })),
            (
                r#"{"a":NaN,"b":[],"c":{},"a":true}"#,
                json!({ "a": true, "b": [], "c": {} }),
            ),
            ("\r\n\t [ NaN , false\n]\r\n\t ", json!([null, false])),
            ("\"NaN \u{7f}\u{2028}\"", json!("NaN \u{7f}\u{2028}")),
        ];
        for (text, value) in table {
            assert_eq!(parse(text.as_bytes()).as_ref(), Ok(value), "{text:.60}");
        }
    }

    #[test]
    fn exactly_what_python_refuses_is_refused() {
        // Each line held against `json.loads(body.decode())` of Python 3.11.
        let accepted: &[&[u8]] = &[
            b"null",
            b" 1",
            b"-0",
            b"0e1",
            b"1E+5",
            b"1.5e-3",
            b"\"\x7f\"",
            b"{\"\":[]}",
            b"\"\\u00Af\"",
            b"\"\\ud800\"",
            b"\"\\udc00\\ud800\"",
            b"-Infinity",
            b"1e999",
            b"[1,\n2]",
            b"\"\\/\"",
            b"\"\xef\xbb\xbf\"",
            b"\"\xc2\x80\"",
        ];
        let refused: &[&[u8]] = &[
            b"",
            b" ",
            b"{",
            b"[",
            b"]",
            b"}",
            b",",
            b":",
            b"\"",
            b"\"\\",
            b"\"\\\"",
            b"\"\\x\"",
            b"\"\\u\"",
            b"\"\\u12\"",
            b"\"\\u123g\"",
            b"\"\\u+123\"",
            b"\"\\ud800\\u\"",
            b"\"\\ud800\\u12\"",
            b"'a'",
            b"\"\n\"",
            b"\"\x00\"",
            b"\"\x1f\"",
            b"\"\\ud800\t\"",
            b"nul",
            b"nulll",
            b"None",
            b"True",
            b"nan",
            b"-NaN",
            b"+Infinity",
            b"Inf",
            b"- 1",
            b"+1",
            b"01",
            b"-01",
            b"1.",
            b".5",
            b"1e",
            b"1e+",
            b"--1",
            b"0x10",
            b"1_000",
            b"[1,]",
            b"[,1]",
            b"[1 2]",
            b"{,}",
            b"{\"a\"}",
            b"{\"a\":}",
            b"{\"a\":1,}",
            b"{a:1}",
            b"{1:1}",
            b"{\"a\":1 \"b\":2}",
            b"[}",
            b"[1}",
            b"{\"a\":1]",
            b"1 2",
            b"[]x",
            b"NaNN",
            b"//x\n1",
            b"\x0b1",
            b"\x0c1",
            b"1\x00",
            b"\xc2\xa01",
            b"\xef\xbb\xbf1",
            b"\xff",
            b"\"\xff\"",
            b"\"\xed\xa0\x80\"",
            b"\"\xc0\x80\"",
            b"{\"a\":\"\xff\"}",
            b"n\0u\0l\0l\0",
        ];
        for text in accepted {
            assert!(parse(text).is_ok(), "{}", text.escape_ascii());
        }
        for text in refused {
            assert!(parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_and_where() {
        assert_eq!(parse(b"[1,\xff]"), Err(ParseError::NotUtf8));
        assert_eq!(parse(b"[NaN,}"), Err(ParseError::Unexpected { at: 5 }));
        assert_eq!(
            parse(b"[1").unwrap_err().to_string(),
            "JSON is malformed at byte 2"
        );
    }

    #[test]
    fn deep_nesting_fits_a_thread_of_two_mebibytes_and_deeper_is_refused() {
        let body = || {
            for (open, close) in [("[", "]"), ("{\"a\":", "}"), (" [ { \"a\" : ", " } ] ")] {
                let levels = if open.len() > 5 { 2 } else { 1 };
                let value = parse(&nested(open, close, MAX_DEPTH / levels)).unwrap();
                let copy = value.clone();
                assert_eq!(copy, value);
                drop(copy);
                assert_eq!(parse(&to_vec(&value)), Ok(value));
                for depth in [MAX_DEPTH / levels + 1, 100_000] {
                    assert_eq!(parse(&nested(open, close, depth)), Err(ParseError::TooDeep));
                    assert_eq!(
                        parse(open.repeat(depth).as_bytes()),
                        Err(ParseError::TooDeep)
                    );
                }
            }
            // Many neighbours are not depth.
            assert!(parse(format!("[NaN{}]", ",[{}]".repeat(3000)).as_bytes()).is_ok());
        };
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(body)
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn falsy_values_become_an_empty_object() {
        for falsy in [
            json!(null),
            json!(false),
            json!(0),
            json!(0.0),
            json!(-0.0),
            json!(""),
            json!([]),
            json!({}),
        ] {
            assert!(!is_truthy(&falsy), "{falsy}");
        }
        for truthy in [
            json!(true),
            json!(-1),
            json!(1e-300),
            json!("0"),
            json!([null]),
            json!({ "": 0 }),
        ] {
            assert!(is_truthy(&truthy), "{truthy}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    /// Texts as Python writes them, with what else Python reads mixed in.
    fn any_python_text() -> impl Strategy<Value = String> {
        let string = proptest::collection::vec(
            prop_oneof![
                "[^\"\\\\\u{0}-\u{1f}]",
                "\\\\[\"\\\\/bfnrt]",
                "\\\\u[0-9a-fA-F]{4}",
                "\\\\ud[89abAB][0-9a-f]{2}",
                "\\\\uD[c-fC-F][0-9A-F]{2}",
            ],
            0..8,
        )
        .prop_map(|parts| format!("\"{}\"", parts.concat()));
        let leaf = prop_oneof![
            "null|true|false|NaN|Infinity|-Infinity",
            "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,4})?",
            string.clone(),
        ];
        leaf.prop_recursive(6, 64, 6, move |inner| {
            let blanks = "[ \t\r\n]{0,2}";
            let item = (blanks, inner, blanks).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
            let entry = (blanks, string.clone(), blanks, item.clone())
                .prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
            prop_oneof![
                proptest::collection::vec(item, 0..6)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                proptest::collection::vec(entry, 0..6)
                    .prop_map(|entries| format!("{{{}}}", entries.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_as_it_was(value in any_value()) {
            let bytes = to_vec(&value);
            prop_assert_eq!(parse(&bytes), Ok(value.clone()));
            prop_assert_eq!(Reader::read(&bytes), Ok(value));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn both_readers_agree_on_plain_json(text in "[\\[\\]{}:, \"\\\\untrue0-9.eE+-]{0,12}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(Reader::read(text.as_bytes()), Ok(value));
            }
        }

        #[test]
        fn every_text_of_pythons_dialect_is_read(text in any_python_text()) {
            let value = Reader::read(text.as_bytes());
            prop_assert!(value.is_ok());
            if let Ok(plain) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(value, Ok(plain));
            }
        }
    }
}
