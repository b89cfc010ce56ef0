//! The head of a request: its method, path and headers.
//!
//! Pure: made from text by the server, and by tests without one. The path is
//! ready to be matched, the headers read as Python's servers read them.

use std::borrow::Cow;
use std::fmt;

/// The method of a request. Methods are case-sensitive: `get` is `Other("get")`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Other(String),
}

impl Method {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a request before its body is read.
///
/// `Debug` leaves the headers out: tokens travel in them.
pub(crate) struct Head {
    pub(crate) method: Method,
    /// Percent-decoded, without query; begins with one slash (or is `*`).
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// A head from the request's target, as the client wrote it, and its headers in order.
    pub(crate) fn new(method: Method, target: &str, headers: Vec<(String, String)>) -> Self {
        Self {
            method,
            path: path_of(target),
            headers,
        }
    }

    /// The value of a header, whatever the case of its name; sent twice, the values are joined by commas.
    pub(crate) fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self.headers(name);
        let first = values.next()?;
        Some(match values.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                let mut joined = format!("{first},{second}");
                for value in values {
                    joined.push(',');
                    joined.push_str(value);
                }
                Cow::Owned(joined)
            }
        })
    }

    /// Each value of a header that was sent, in order.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim_start())
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The path of a request target, ready to be matched.
fn path_of(target: &str) -> String {
    let target = match target.split_once("://") {
        // The absolute form, which proxies are sent: `http://host:port/path`.
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            rest.find(['/', '?']).map_or("", |start| &rest[start..])
        }
        _ => target,
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if path == "*" {
        return path.to_owned();
    }
    format!("/{}", percent_decoded(path.trim_start_matches('/')))
}

/// Undoes percent-encoding; what is not UTF-8 then becomes replacement characters, which match no route.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_become_paths() {
        for (target, path) in [
            ("/ping", "/ping"),
            ("/ping/", "/ping/"),
            ("/ping?a=/b#c", "/ping"),
            ("/task%2Fnew", "/task/new"),
            ("/p%69ng", "/ping"),
            ("/100%", "/100%"),
            ("/%e4x%zz", "/\u{fffd}x%zz"),
            ("/%C3%A4", "/ä"),
            ("//ping", "/ping"),
            ("///task/new", "/task/new"),
            ("//", "/"),
            ("", "/"),
            ("http://host:7236/task/new?x=1", "/task/new"),
            ("HTTP://host", "/"),
            ("http://host?x=/y", "/"),
            ("/see/http://host/x", "/see/http://host/x"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }

    #[test]
    fn headers_are_found_in_any_case_and_joined_when_repeated() {
        let head = Head::new(
            Method::Get,
            "/",
            vec![
                ("Token".into(), "  secret ".into()),
                ("channel".into(), "1".into()),
                ("CHANNEL".into(), "2".into()),
                ("Empty".into(), String::new()),
            ],
        );
        assert_eq!(head.header("token").as_deref(), Some("secret "));
        assert_eq!(head.header("Channel").as_deref(), Some("1,2"));
        assert_eq!(head.header("EMPTY").as_deref(), Some(""));
        assert_eq!(head.header("absent"), None);
        assert!(!format!("{head:?}").contains("secret"));
    }

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(Method::from("DELETE"), Method::Delete);
        assert_eq!(Method::from("delete"), Method::Other("delete".into()));
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            assert_eq!(Method::from(name).to_string(), name);
        }
    }
}
