//! What a request wants, judged from its head alone: path, method, channel, token.
//!
//! Each side has its routes, and two kinds of them: its own `/ping` and
//! `/shutdown`, which ask for its self token, and those for the other side,
//! which ask for the channel and a connection token. The checks run in this
//! order: [`stopping`](super::envelope::stopping) if the side shuts down (only
//! it knows), then the function for the kind of route, which answers or gives
//! what the endpoint goes on with. DI-engine's texts, statuses and codes.

use std::fmt;

use super::code::{MasterCode, SlaveCode};
use super::envelope;
use super::token::Token;
use crate::http::{Head, Method, Response};

/// What a slave can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlaveRoute {
    Ping,
    Shutdown,
    Connect,
    Disconnect,
    NewTask,
}

impl SlaveRoute {
    /// The route, or the answer where there is none.
    pub(crate) fn find(method: &Method, path: &str) -> Result<Self, Response> {
        let (verb, route) = match path {
            "/ping" => (Verb::Get, Self::Ping),
            "/shutdown" => (Verb::Delete, Self::Shutdown),
            "/connect" => (Verb::Post, Self::Connect),
            "/disconnect" => (Verb::Delete, Self::Disconnect),
            "/task/new" => (Verb::Post, Self::NewTask),
            _ => return Err(not_found()),
        };
        verb.admit(method).map(|()| route)
    }
}

/// What a master can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MasterRoute {
    Ping,
    Shutdown,
    Heartbeat,
    Complete,
    Fail,
}

impl MasterRoute {
    /// The route, or the answer where there is none.
    pub(crate) fn find(method: &Method, path: &str) -> Result<Self, Response> {
        let (verb, route) = match path {
            "/ping" => (Verb::Get, Self::Ping),
            "/shutdown" => (Verb::Delete, Self::Shutdown),
            "/slave/heartbeat" => (Verb::Get, Self::Heartbeat),
            "/slave/task/complete" => (Verb::Put, Self::Complete),
            "/slave/task/fail" => (Verb::Put, Self::Fail),
            _ => return Err(not_found()),
        };
        verb.admit(method).map(|()| route)
    }
}

/// The number that the two sides have to share. It may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel(i64);

impl Channel {
    pub(crate) const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Whether a header's text is this number, or none if it is no integer.
    ///
    /// An integer is what Python's `int()` reads, of any magnitude: blanks
    /// around it, a sign, leading zeros, single underscores between digits.
    pub(crate) fn matches(self, text: &str) -> Option<bool> {
        let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let groups = digits.split('_');
        if groups
            .clone()
            .any(|group| group.is_empty() || !group.bytes().all(|digit| digit.is_ascii_digit()))
        {
            return None;
        }
        let number = groups
            .flat_map(str::bytes)
            .try_fold(0_i64, |number, digit| {
                number
                    .checked_mul(10)?
                    .checked_add(sign * i64::from(digit - b'0'))
            });
        Some(number == Some(self.0))
    }
}

impl fmt::Display for Channel {
    /// As it stands in a header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Checks a slave's own `/ping` and `/shutdown`.
pub(crate) fn slave_itself(head: &Head, own: &Token) -> Result<(), Response> {
    itself(head, own, "Slave")
}

/// Checks a master's own `/ping` and `/shutdown`.
pub(crate) fn master_itself(head: &Head, own: &Token) -> Result<(), Response> {
    itself(head, own, "Master")
}

/// Checks what a master asks of a slave on `/connect`; gives the token of the connection to be.
pub(crate) fn new_master(head: &Head, channel: Channel) -> Result<Token, Response> {
    // DI-engine takes an empty token here, and is then anybody's.
    match token_of_master(head, channel)? {
        token if token.is_empty() => Err(master_token_not_found()),
        token => Ok(token),
    }
}

/// Checks what a master asks of a slave on `/disconnect` and `/task/new`.
///
/// `current` is the token of the slave's connection, if it has one.
pub(crate) fn current_master(
    head: &Head,
    channel: Channel,
    current: Option<&Token>,
) -> Result<(), Response> {
    let token = token_of_master(head, channel)?;
    if current == Some(&token) {
        return Ok(());
    }
    Err(not_this_master())
}

/// Checks what a slave asks of a master; gives the token to look up.
///
/// What the master does not find there it answers with [`unknown_slave`].
pub(crate) fn slave(head: &Head, channel: Channel) -> Result<Token, Response> {
    check_channel(head, channel)?;
    token(head).ok_or_else(|| {
        envelope::failure(
            400,
            MasterCode::SlaveTokenNotGiven,
            "Slave token not found.",
        )
    })
}

/// A slave's answer to a master that is not, or no longer, its own.
pub(crate) fn not_this_master() -> Response {
    envelope::failure(
        403,
        SlaveCode::MasterTokenInvalid,
        "Master not match with this endpoint.",
    )
}

/// A master's answer to a slave that it does not know.
pub(crate) fn unknown_slave() -> Response {
    let message = "No matching slave token found in this endpoint.";
    envelope::failure(403, MasterCode::SlaveTokenInvalid, message)
}

fn itself(head: &Head, own: &Token, side: &str) -> Result<(), Response> {
    let given = token(head).ok_or_else(|| {
        envelope::failure(
            400,
            SlaveCode::SelfTokenNotFound,
            &format!("{side} token not found."),
        )
    })?;
    if given == *own {
        return Ok(());
    }
    let message = format!("{side} token not match with this endpoint.");
    Err(envelope::failure(
        403,
        SlaveCode::SelfTokenInvalid,
        &message,
    ))
}

fn token_of_master(head: &Head, channel: Channel) -> Result<Token, Response> {
    check_channel(head, channel)?;
    token(head).ok_or_else(master_token_not_found)
}

fn master_token_not_found() -> Response {
    envelope::failure(
        400,
        SlaveCode::MasterTokenNotFound,
        "Master token not found.",
    )
}

/// Both sides' check, with the codes that both tables have.
fn check_channel(head: &Head, channel: Channel) -> Result<(), Response> {
    let text = head.header("Channel").filter(|text| !text.is_empty());
    let text = text
        .ok_or_else(|| envelope::failure(400, SlaveCode::ChannelNotFound, "Channel not found."))?;
    match channel.matches(&text) {
        Some(true) => Ok(()),
        Some(false) => Err(envelope::failure(
            403,
            SlaveCode::ChannelInvalid,
            "Channel not match with this endpoint.",
        )),
        None => Err(envelope::failure(
            400,
            SlaveCode::ChannelInvalid,
            "Channel not an integer.",
        )),
    }
}

fn token(head: &Head) -> Option<Token> {
    head.header("Token").map(|text| Token::from(&*text))
}

fn not_found() -> Response {
    envelope::failure(404, SlaveCode::Failure, "Not found.")
}

/// The one method that a path has, beside those that come with it.
#[derive(Clone, Copy)]
enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

impl Verb {
    fn admit(self, method: &Method) -> Result<(), Response> {
        let allow = match self {
            Self::Get => "GET, HEAD, OPTIONS",
            Self::Post => "OPTIONS, POST",
            Self::Put => "OPTIONS, PUT",
            Self::Delete => "DELETE, OPTIONS",
        };
        match (self, method) {
            (Self::Get, Method::Get | Method::Head)
            | (Self::Post, Method::Post)
            | (Self::Put, Method::Put)
            | (Self::Delete, Method::Delete) => Ok(()),
            (_, Method::Options) => Err(Response {
                allow: Some(allow),
                ..Response::new(200, Vec::new())
            }),
            _ => Err(Response {
                allow: Some(allow),
                ..envelope::failure(405, SlaveCode::Failure, "Method not allowed.")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::Reply;

    const METHODS: [Method; 6] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Options,
    ];

    fn head(headers: &[(&str, &str)]) -> Head {
        let headers = headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Head::new(Method::Get, "/", headers.collect())
    }

    fn answer(response: Response) -> (u16, i64, String) {
        let reply = Reply::read(response.status, &response.body).unwrap();
        assert!(!reply.success);
        assert!(reply.data.is_null());
        (reply.status, reply.code, reply.message)
    }

    fn failure(status: u16, code: i64, message: &str) -> (u16, i64, String) {
        (status, code, message.to_owned())
    }

    /// Walks all methods over each path of a side, and some paths that it does not have.
    fn walk<R: Copy + PartialEq + fmt::Debug>(
        find: fn(&Method, &str) -> Result<R, Response>,
        routes: &[(&str, &[Method], &str, R)],
        strangers: &[&str],
    ) {
        let methods = || {
            METHODS
                .into_iter()
                .chain([Method::Other("PATCH".to_owned())])
        };
        for (path, admitted, allow, route) in routes {
            for method in methods() {
                match find(&method, path) {
                    Ok(found) => assert!(
                        found == *route && admitted.contains(&method),
                        "{method:?} {path}"
                    ),
                    Err(response) => {
                        assert!(!admitted.contains(&method), "{method:?} {path}");
                        assert_eq!(response.allow, Some(*allow));
                        if method == Method::Options {
                            assert_eq!((response.status, response.body), (200, Vec::new()));
                        } else {
                            assert_eq!(answer(response), failure(405, 1, "Method not allowed."));
                        }
                    }
                }
            }
        }
        for path in strangers {
            for method in methods() {
                let response = find(&method, path).unwrap_err();
                assert_eq!(response.allow, None);
                assert_eq!(answer(response), failure(404, 1, "Not found."));
            }
        }
    }

    const GET: &[Method] = &[Method::Get, Method::Head];
    const DELETE: &[Method] = &[Method::Delete];
    const POST: &[Method] = &[Method::Post];
    const PUT: &[Method] = &[Method::Put];

    #[test]
    fn a_slave_has_five_routes() {
        let routes = [
            ("/ping", GET, "GET, HEAD, OPTIONS", SlaveRoute::Ping),
            ("/shutdown", DELETE, "DELETE, OPTIONS", SlaveRoute::Shutdown),
            ("/connect", POST, "OPTIONS, POST", SlaveRoute::Connect),
            (
                "/disconnect",
                DELETE,
                "DELETE, OPTIONS",
                SlaveRoute::Disconnect,
            ),
            ("/task/new", POST, "OPTIONS, POST", SlaveRoute::NewTask),
        ];
        let strangers = [
            "",
            "/",
            "/nope",
            "/ping/",
            "/PING",
            "//ping",
            "/task",
            "/slave/heartbeat",
        ];
        walk(SlaveRoute::find, &routes, &strangers);
    }

    #[test]
    fn a_master_has_five_routes() {
        let routes = [
            ("/ping", GET, "GET, HEAD, OPTIONS", MasterRoute::Ping),
            (
                "/shutdown",
                DELETE,
                "DELETE, OPTIONS",
                MasterRoute::Shutdown,
            ),
            (
                "/slave/heartbeat",
                GET,
                "GET, HEAD, OPTIONS",
                MasterRoute::Heartbeat,
            ),
            (
                "/slave/task/complete",
                PUT,
                "OPTIONS, PUT",
                MasterRoute::Complete,
            ),
            ("/slave/task/fail", PUT, "OPTIONS, PUT", MasterRoute::Fail),
        ];
        let strangers = [
            "",
            "/",
            "/nope",
            "/connect",
            "/slave/heartbeat/",
            "/slave",
            "/slave/task",
        ];
        walk(MasterRoute::find, &routes, &strangers);
    }

    #[test]
    fn a_channel_is_read_as_python_reads_integers() {
        let same = [
            (42, "42"),
            (42, "+42"),
            (42, "0042"),
            (42, "4_2"),
            (42, "+0_0_4_2"),
            (42, " \t42\x0b "),
            (0, "0"),
            (0, "-0"),
            (0, "00"),
            (-7, "-7"),
            (-7, "-0_7 "),
            (i64::MAX, "9223372036854775807"),
            (i64::MIN, "-9223372036854775808"),
            (7, "00000000000000000000000000000000000000007"),
        ];
        for (number, text) in same {
            assert_eq!(Channel::new(number).matches(text), Some(true), "{text}");
        }
        let other = [
            (42, "-42"),
            (42, "43"),
            (0, "42"),
            (i64::MAX, "9223372036854775808"),
            (i64::MIN, "-9223372036854775809"),
            (-1, "18446744073709551615"),
            (0, "99999999999999999999999"),
        ];
        for (number, text) in other {
            assert_eq!(Channel::new(number).matches(text), Some(false), "{text}");
        }
        let none = [
            " ",
            "abc",
            "1.5",
            "0x10",
            "5,5",
            "1e3",
            "_1",
            "1_",
            "1__1",
            "+_1",
            "+",
            "-",
            "+-1",
            "--1",
            "+ 1",
            "1 1",
            "１",
            "NaN",
            "1\u{a0}\u{200b}",
            "4242,4242",
        ];
        for text in none {
            assert_eq!(Channel::new(1).matches(text), None, "{text}");
        }
        assert_eq!(Channel::new(-42).to_string(), "-42");
    }

    #[test]
    fn a_self_request_needs_the_self_token_and_no_channel() {
        let own = Token::from("own");
        assert_eq!(slave_itself(&head(&[("tOKEN", "own")]), &own), Ok(()));
        assert_eq!(
            master_itself(&head(&[("Token", "own"), ("Channel", "x")]), &own),
            Ok(())
        );
        let slave = |headers: &[_]| answer(slave_itself(&head(headers), &own).unwrap_err());
        let master = |headers: &[_]| answer(master_itself(&head(headers), &own).unwrap_err());
        assert_eq!(slave(&[]), failure(400, 401, "Slave token not found."));
        assert_eq!(master(&[]), failure(400, 401, "Master token not found."));
        for wrong in ["", "OWN", "own ", "own,own"] {
            let headers = [("Token", wrong)];
            assert_eq!(
                slave(&headers),
                failure(403, 402, "Slave token not match with this endpoint.")
            );
            assert_eq!(
                master(&headers),
                failure(403, 402, "Master token not match with this endpoint.")
            );
        }
    }

    #[test]
    fn every_request_of_the_other_side_is_checked_for_the_channel_first() {
        let channel = Channel::new(42);
        let table: [(&[_], _); 5] = [
            (&[], failure(400, 201, "Channel not found.")),
            (
                &[("Channel", ""), ("Token", "T1")],
                failure(400, 201, "Channel not found."),
            ),
            (
                &[("Channel", "abc")],
                failure(400, 202, "Channel not an integer."),
            ),
            (
                &[("Channel", "43")],
                failure(403, 202, "Channel not match with this endpoint."),
            ),
            (
                &[("Channel", "42"), ("Channel", "42")],
                failure(400, 202, "Channel not an integer."),
            ),
        ];
        for (headers, expected) in table {
            let head = head(headers);
            assert_eq!(answer(new_master(&head, channel).unwrap_err()), expected);
            assert_eq!(
                answer(current_master(&head, channel, None).unwrap_err()),
                expected
            );
            assert_eq!(answer(slave(&head, channel).unwrap_err()), expected);
        }
    }

    #[test]
    fn a_slave_wants_a_token_to_connect_and_the_same_one_afterwards() {
        let channel = Channel::new(42);
        let missing = failure(400, 301, "Master token not found.");
        let wrong = failure(403, 302, "Master not match with this endpoint.");
        let token = Token::from("T1");

        let bare = head(&[("Channel", "42")]);
        assert_eq!(answer(new_master(&bare, channel).unwrap_err()), missing);
        assert_eq!(
            answer(current_master(&bare, channel, Some(&token)).unwrap_err()),
            missing
        );

        let empty = head(&[("Channel", "42"), ("Token", "")]);
        assert_eq!(answer(new_master(&empty, channel).unwrap_err()), missing);
        assert_eq!(
            answer(current_master(&empty, channel, Some(&token)).unwrap_err()),
            wrong
        );

        let given = head(&[("channel", "+0042"), ("token", "T1")]);
        assert_eq!(new_master(&given, channel), Ok(token.clone()));
        assert_eq!(current_master(&given, channel, Some(&token)), Ok(()));
        assert_eq!(
            answer(current_master(&given, channel, None).unwrap_err()),
            wrong
        );
        assert_eq!(
            answer(current_master(&given, channel, Some(&Token::from("t1"))).unwrap_err()),
            wrong
        );
    }

    #[test]
    fn a_master_wants_the_token_of_a_slave() {
        let channel = Channel::new(-1);
        let bare = head(&[("Channel", "-1")]);
        assert_eq!(
            answer(slave(&bare, channel).unwrap_err()),
            failure(400, 501, "Slave token not found.")
        );
        for text in ["T1", ""] {
            assert_eq!(
                slave(&head(&[("Channel", "-1"), ("Token", text)]), channel),
                Ok(Token::from(text))
            );
        }
        let message = "No matching slave token found in this endpoint.";
        assert_eq!(answer(unknown_slave()), failure(403, 502, message));
    }
}
