//! Lines of the shell as commands: `name key=value key.sub=value`.
//!
//! It knows nothing of terminals and sockets. Which names, keys and values there are is the
//! server's affair.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

/// Makes commands of lines; one transaction may take several.
#[derive(Default)]
pub(crate) struct Lines {
    /// The actions of the transaction that is open.
    actions: Option<Vec<Value>>,
}

impl Lines {
    /// The command that this line is, or ends. A line with an error changes nothing.
    pub(crate) fn read(&mut self, line: &str) -> Result<Option<Value>, LineError> {
        let line = line.trim();
        let words = match line.starts_with('{') {
            true => return self.finish(Some(whole(line)?), false),
            false => words(line)?,
        };
        let mut words = words.as_slice();
        let begins = matches!(words, [Word::Plain("transaction("), ..]);
        if begins {
            if self.actions.is_some() {
                return Err(LineError::Nested);
            }
            words = &words[1..];
        }
        let ends = matches!(words, [.., Word::Plain(")")]);
        if ends {
            if !begins && self.actions.is_none() {
                return Err(LineError::NoTransaction);
            }
            words = &words[..words.len() - 1];
        }
        let named = match words {
            [] => None,
            [Word::Plain(name), pairs @ ..] => Some((*name, arguments(pairs)?)),
            [Word::Pair { key, .. }, ..] => return Err(LineError::NoName((*key).to_owned())),
        };
        if begins {
            self.actions = Some(Vec::new());
        }
        let message = named.map(|(name, arguments)| match &self.actions {
            Some(_) => json!({"type": name, "data": arguments}),
            None if arguments.is_empty() => json!({"execute": name}),
            None => json!({"execute": name, "arguments": arguments}),
        });
        self.finish(message, ends)
    }

    /// Whether a transaction is open.
    pub(crate) fn in_transaction(&self) -> bool {
        self.actions.is_some()
    }

    /// Gives up the transaction that is open.
    pub(crate) fn cancel(&mut self) {
        self.actions = None;
    }

    fn finish(&mut self, message: Option<Value>, ends: bool) -> Result<Option<Value>, LineError> {
        let Some(actions) = &mut self.actions else {
            return Ok(message);
        };
        actions.extend(message);
        if !ends {
            return Ok(None);
        }
        let arguments = json!({"actions": actions});
        self.actions = None;
        Ok(Some(
            json!({"execute": "transaction", "arguments": arguments}),
        ))
    }
}

/// Whether the line may hold a password, and is to be forgotten. Rather one too many.
pub(crate) fn is_secret(line: &str) -> bool {
    let line = line.to_lowercase();
    let words = ["passw", "passphrase", "secret"];
    words.iter().any(|word| line.contains(word))
}

/// Why a line is no command.
#[derive(Debug, PartialEq)]
pub(crate) enum LineError {
    /// A value where a name belongs.
    NoName(String),
    /// A word that is not `key=value`.
    NoPair(String),
    /// A key, or a part of it between dots, is empty.
    EmptyKey(String),
    Twice(String),
    /// A key is a value as well as an object.
    Both(String),
    /// A quote or a bracket is not closed.
    Open(String),
    /// Something follows a closing quote or bracket.
    Trailing(String),
    NotJson(String),
    /// A transaction in a transaction.
    Nested,
    /// The end of a transaction that has not begun.
    NoTransaction,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName(key) => write!(f, "the name of a command comes before {key}="),
            Self::NoPair(word) => write!(f, "{word} is not key=value"),
            Self::EmptyKey(key) => write!(f, "the key {key:?} has an empty part"),
            Self::Twice(key) => write!(f, "{key} is given twice"),
            Self::Both(key) => write!(f, "{key} is a value as well as an object"),
            Self::Open(key) => write!(f, "the value of {key} is not closed"),
            Self::Trailing(key) => write!(f, "the value of {key} is followed by something"),
            Self::NotJson(what) => write!(f, "{what} is not JSON"),
            Self::Nested => f.write_str("a transaction is open already"),
            Self::NoTransaction => f.write_str("no transaction is open"),
        }
    }
}

/// A line that is JSON as it is.
fn whole(line: &str) -> Result<Value, LineError> {
    serde_json::from_str(line).map_err(|_| LineError::NotJson("the line".to_owned()))
}

enum Word<'l> {
    Plain(&'l str),
    Pair { key: &'l str, value: &'l str },
}

fn words(line: &str) -> Result<Vec<Word<'_>>, LineError> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let blank = |text: &str| text.find(char::is_whitespace).unwrap_or(text.len());
        let word = &rest[..blank(rest)];
        let Some((key, _)) = word.split_once('=') else {
            words.push(Word::Plain(word));
            rest = rest[word.len()..].trim_start();
            continue;
        };
        let from = &rest[key.len() + 1..];
        let end = match from.chars().next() {
            Some(quote @ ('"' | '\'')) => Some(quoted(from, quote)),
            Some('{' | '[') => Some(bracketed(from)),
            _ => None,
        };
        let length = match end {
            Some(end) => end.ok_or_else(|| LineError::Open(key.to_owned()))?,
            None => blank(from),
        };
        let (value, behind) = from.split_at(length);
        if !behind.is_empty() && !behind.starts_with(char::is_whitespace) {
            return Err(LineError::Trailing(key.to_owned()));
        }
        words.push(Word::Pair { key, value });
        rest = behind.trim_start();
    }
    Ok(words)
}

/// The length of what is in quotes, with these; a backslash escapes in double quotes only.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The length of what is in brackets, with these.
fn bracketed(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' => at += quoted(&text[at..], '"')? - 1,
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1, // the first one is open
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// What keys with dots build.
enum Node {
    Value(Value),
    Object(BTreeMap<String, Node>),
}

impl From<Node> for Value {
    fn from(node: Node) -> Self {
        match node {
            Node::Value(value) => value,
            Node::Object(members) => Self::Object(object(members)),
        }
    }
}

fn object(members: BTreeMap<String, Node>) -> Map<String, Value> {
    let members = members.into_iter();
    members.map(|(key, node)| (key, node.into())).collect()
}

fn arguments(words: &[Word<'_>]) -> Result<Map<String, Value>, LineError> {
    let mut members = BTreeMap::new();
    for word in words {
        match word {
            Word::Plain(word) => return Err(LineError::NoPair((*word).to_owned())),
            Word::Pair { key, value } => insert(&mut members, key, parse(key, value)?)?,
        }
    }
    Ok(object(members))
}

fn insert(members: &mut BTreeMap<String, Node>, key: &str, value: Value) -> Result<(), LineError> {
    if key.split('.').any(str::is_empty) {
        return Err(LineError::EmptyKey(key.to_owned()));
    }
    let (mut object, mut rest, mut before) = (members, key, 0);
    while let Some((part, behind)) = rest.split_once('.') {
        before += part.len();
        let inner = object.entry(part.to_owned());
        object = match inner.or_insert_with(|| Node::Object(BTreeMap::new())) {
            Node::Object(inner) => inner,
            Node::Value(_) => return Err(LineError::Both(key[..before].to_owned())),
        };
        before += 1;
        rest = behind;
    }
    match object.insert(rest.to_owned(), Node::Value(value)) {
        None => Ok(()),
        Some(Node::Value(_)) => Err(LineError::Twice(key.to_owned())),
        Some(Node::Object(_)) => Err(LineError::Both(key.to_owned())),
    }
}

fn parse(key: &str, text: &str) -> Result<Value, LineError> {
    let not_json = || LineError::NotJson(format!("the value of {key}"));
    let text = match text.chars().next() {
        Some('\'') => text[1..text.len() - 1].to_owned(),
        Some('"') => serde_json::from_str(text).map_err(|_| not_json())?,
        Some('{' | '[') => text.to_owned(),
        _ => return Ok(plain(text)),
    };
    match text.starts_with(['{', '[']) {
        true => serde_json::from_str(&text).map_err(|_| not_json()),
        false => Ok(text.into()),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        text => match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => text.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Option<Value>, LineError> {
        Lines::default().read(line)
    }

    fn arguments_of(pairs: &str) -> Value {
        let command = one(&format!("x {pairs}")).unwrap().unwrap();
        assert_eq!(command["execute"], "x");
        command["arguments"].clone()
    }

    #[test]
    fn a_name_alone_is_a_command_without_arguments() {
        assert_eq!(one("stop"), Ok(Some(json!({"execute": "stop"}))));
        assert_eq!(one("  stop\t"), Ok(Some(json!({"execute": "stop"}))));
        assert_eq!(one(""), Ok(None));
        assert_eq!(one(" \t"), Ok(None));
    }

    #[test]
    fn values_are_numbers_words_json_or_text() {
        let table = [
            ("a=5", json!({"a": 5})),
            ("a=-5", json!({"a": -5})),
            ("a=18446744073709551615", json!({"a": u64::MAX})),
            (
                "a=18446744073709551616",
                json!({"a": "18446744073709551616"}),
            ),
            ("a=1.5", json!({"a": "1.5"})),
            ("a=0x10", json!({"a": "0x10"})),
            (
                "a=true b=false c=null",
                json!({"a": true, "b": false, "c": null}),
            ),
            ("a=True", json!({"a": "True"})),
            ("a=", json!({"a": ""})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=/dev/null,x", json!({"a": "/dev/null,x"})),
            ("a=é b=\u{1F600}", json!({"a": "é", "b": "\u{1F600}"})),
            (
                r#"a={"b":[1,{"c":null}]}"#,
                json!({"a": {"b": [1, {"c": null}]}}),
            ),
            ("a=[]", json!({"a": []})),
            (r#"a=["x y","]"]"#, json!({"a": ["x y", "]"]})),
            (
                r#"a={ "b" : "\"}" } c=1"#,
                json!({"a": {"b": "\"}"}, "c": 1}),
            ),
            (r#"a='{"b": 1}'"#, json!({"a": {"b": 1}})),
            (r#"a="[1, \"x\"]""#, json!({"a": [1, "x"]})),
            (
                r#"a="b \"c\" \n" d='e "f" \n'"#,
                json!({"a": "b \"c\" \n", "d": "e \"f\" \\n"}),
            ),
            ("a='5' b=\"true\"", json!({"a": "5", "b": "true"})),
            ("a=it's", json!({"a": "it's"})),
        ];
        for (pairs, expected) in table {
            assert_eq!(arguments_of(pairs), expected, "{pairs}");
        }
    }

    #[test]
    fn dots_build_objects() {
        assert_eq!(
            arguments_of("a.b.c=1 a.b.d=x a.e=[1] f=2"),
            json!({"a": {"b": {"c": 1, "d": "x"}, "e": [1]}, "f": 2})
        );
    }

    #[test]
    fn an_error_names_the_key() {
        let table = [
            ("x a=1 a=1", LineError::Twice("a".to_owned())),
            ("x a.b=1 c=2 a.b=3", LineError::Twice("a.b".to_owned())),
            ("x a=1 a.b=2", LineError::Both("a".to_owned())),
            ("x a.b=1 a=2", LineError::Both("a".to_owned())),
            ("x a.b=1 a.b.c=2", LineError::Both("a.b".to_owned())),
            ("x é.b=1 é.b.c.d=2", LineError::Both("é.b".to_owned())),
            ("x a={\"b\":1} a.c=2", LineError::Both("a".to_owned())),
            ("x =1", LineError::EmptyKey(String::new())),
            ("x a..b=1", LineError::EmptyKey("a..b".to_owned())),
            ("x .a=1", LineError::EmptyKey(".a".to_owned())),
            ("x a.=1", LineError::EmptyKey("a.".to_owned())),
            ("x a", LineError::NoPair("a".to_owned())),
            ("x a=1 b", LineError::NoPair("b".to_owned())),
            ("a=1", LineError::NoName("a".to_owned())),
            ("x a={", LineError::Open("a".to_owned())),
            ("x a=[1 b=2", LineError::Open("a".to_owned())),
            ("x a=[\"", LineError::Open("a".to_owned())),
            ("x a='b", LineError::Open("a".to_owned())),
            ("x a=\"b\\\"", LineError::Open("a".to_owned())),
            ("x a='b'c", LineError::Trailing("a".to_owned())),
            ("x a=[1]2", LineError::Trailing("a".to_owned())),
            ("x a=[1,]", LineError::NotJson("the value of a".to_owned())),
            ("x a=[}", LineError::NotJson("the value of a".to_owned())),
            ("x a='{b'", LineError::NotJson("the value of a".to_owned())),
            (
                "x a=\"\\x\"",
                LineError::NotJson("the value of a".to_owned()),
            ),
            ("{\"execute\": }", LineError::NotJson("the line".to_owned())),
            (")", LineError::NoTransaction),
            ("x )", LineError::NoTransaction),
        ];
        for (line, expected) in table {
            assert_eq!(one(line), Err(expected), "{line}");
        }
    }

    #[test]
    fn a_line_may_be_json() {
        let message = json!({"exec-oob": "migrate-pause", "id": 1});
        assert_eq!(one(&message.to_string()), Ok(Some(message)));
    }

    #[test]
    fn a_transaction_collects_actions() {
        let command =
            |actions| json!({"execute": "transaction", "arguments": {"actions": actions}});
        let abort = json!({"type": "abort", "data": {}});
        let add = json!({"type": "add", "data": {"node": "d0", "a": {"b": 1}}});
        let mut lines = Lines::default();
        for line in ["transaction(", "", "add node=d0 a.b=1", "abort"] {
            assert_eq!(lines.read(line), Ok(None));
            assert!(lines.in_transaction());
        }
        assert_eq!(
            lines.read("add a=1 a=2"),
            Err(LineError::Twice("a".to_owned()))
        );
        assert_eq!(lines.read("transaction( abort"), Err(LineError::Nested));
        assert_eq!(lines.read(&abort.to_string()), Ok(None));
        assert_eq!(
            lines.read(")"),
            Ok(Some(command(json!([add, abort, abort]))))
        );
        assert!(!lines.in_transaction());

        assert_eq!(
            lines.read("transaction( abort )"),
            Ok(Some(command(json!([abort]))))
        );
        assert_eq!(lines.read("transaction( )"), Ok(Some(command(json!([])))));
        assert_eq!(lines.read("transaction( abort"), Ok(None));
        assert_eq!(
            lines.read("abort )"),
            Ok(Some(command(json!([abort, abort]))))
        );
        assert_eq!(
            lines.read("transaction( abort a"),
            Err(LineError::NoPair("a".to_owned()))
        );
        assert!(!lines.in_transaction());
        assert_eq!(lines.read("transaction("), Ok(None));
        lines.cancel();
        assert_eq!(lines.read(")"), Err(LineError::NoTransaction));
    }

    #[test]
    fn what_may_be_a_password_is_known() {
        for line in [
            "set_password protocol=vnc password=letmein",
            "object-add qom-type=secret id=s data=letmein",
            "{\"execute\": \"x\", \"arguments\": {\"Passphrase\": \"letmein\"}}",
            "human-monitor-command command-line='change vnc passwd letmein'",
        ] {
            assert!(is_secret(line), "{line}");
        }
        assert!(!is_secret("query-status"));
    }
}
