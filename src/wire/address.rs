//! Where a peer listens: scheme, host, port, and perhaps a path to put in front.
//!
//! A master tells a slave its address as a URL, split here as DI-engine splits
//! it; a user writes a slave's address in whatever form is handy. Nothing is
//! looked up or connected to: a well-formed address may still lead nowhere.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The port of a slave unless its user says otherwise, as in DI-engine.
pub(crate) const DEFAULT_SLAVE_PORT: u16 = 7236;

/// A peer's address, well-formed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    https: bool,
    /// In lower case; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// As written.
    path: String,
}

impl Address {
    /// Reads the address that a master gives in `/connect`: a URL with a host.
    ///
    /// As in DI-engine user information, query and fragment are dropped, and
    /// no port, or port 0, means 80 or 443.
    pub(crate) fn of_master(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError::new(text, reason);
        let (https, rest) =
            split_scheme(text).ok_or(error("it does not begin with http:// or https://"))?;
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (authority, path) = split_path(&rest[..end]);
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, after)| after);
        let (host, port) = split_port(authority).map_err(error)?;
        let port = match port {
            Some(port) if port != 0 => port,
            _ if https => 443,
            _ => 80,
        };
        Ok(Self {
            https,
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// Reads a slave's address as a user writes it.
    ///
    /// A host name or IP address, with or without a port (7236 if without);
    /// with `http://` or `https://` in front it may also have a path.
    pub(crate) fn of_slave(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError::new(text, reason);
        if let Ok(bare) = text.parse::<Ipv6Addr>() {
            return Ok(SocketAddr::new(IpAddr::V6(bare), DEFAULT_SLAVE_PORT).into());
        }
        let (https, rest) = split_scheme(text).unwrap_or((false, text));
        if rest.contains(['@', '?', '#']) {
            return Err(error("user, query or fragment mean nothing here"));
        }
        let (authority, path) = split_path(rest);
        if !path.is_empty() && rest.len() == text.len() {
            return Err(error("only a URL with http:// or https:// can have a path"));
        }
        let (host, port) = split_port(authority).map_err(error)?;
        match port {
            Some(0) => Err(error("nothing can be reached at port 0")),
            _ => Ok(Self {
                https,
                host,
                port: port.unwrap_or(DEFAULT_SLAVE_PORT),
                path: path.to_owned(),
            }),
        }
    }

    /// The address, if this build can reach it: https is a feature.
    pub(crate) fn reachable(self) -> Result<Self, AddressError> {
        if self.https && !cfg!(feature = "https") {
            return Err(AddressError::new(
                &self.origin(),
                "https needs interplay's feature `https`",
            ));
        }
        Ok(self)
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of `path` at this address.
    ///
    /// The segments of both paths with single slashes between them, each
    /// percent-encoded, whether it looks encoded or not; that is how DI-engine
    /// joins them.
    pub(crate) fn url(&self, path: &str) -> String {
        let mut url = self.origin();
        for segment in self.path.split('/').filter(|segment| !segment.is_empty()) {
            url.push('/');
            push_encoded(&mut url, segment);
        }
        for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
            if !url.ends_with('/') {
                url.push('/');
            }
            push_encoded(&mut url, segment);
        }
        url
    }

    fn origin(&self) -> String {
        let Self {
            https, host, port, ..
        } = self;
        let scheme = if *https { "https" } else { "http" };
        if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            https: false,
            host: address.ip().to_string(),
            port: address.port(),
            path: String::new(),
        }
    }
}

impl fmt::Display for Address {
    /// The whole address as a URL, which is also how a master tells it to a slave.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

/// A text that is no address, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressError {
    /// The text.
    pub given: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl AddressError {
    fn new(given: &str, reason: &'static str) -> Self {
        Self {
            given: given.to_owned(),
            reason,
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no address: {}", self.given, self.reason)
    }
}

impl Error for AddressError {}

/// True for https, and what follows the scheme; none if there is no such scheme.
fn split_scheme(text: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    if scheme.eq_ignore_ascii_case("http") {
        Some((false, rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Some((true, rest))
    } else {
        None
    }
}

fn split_path(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// Host, in lower case and without brackets, and port, if there is one.
fn split_port(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("its bracket is not closed")?;
            let address: Ipv6Addr = host
                .parse()
                .map_err(|_| "what is in brackets is no IPv6 address")?;
            let port = rest.strip_prefix(':').unwrap_or(rest);
            if port.len() == rest.len() && !rest.is_empty() {
                return Err("only a port can follow the bracket");
            }
            (address.to_string(), port)
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            if host.is_empty() {
                return Err("it has no host");
            }
            // Wider than what names may have, and what a URL can carry as it is.
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if !host.bytes().all(allowed) {
                return Err("its host has a character that host names do not have");
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    // `parse` alone would take a sign too.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => Ok((host, Some(port))),
        _ => Err("its port is not a number up to 65535"),
    }
}

fn push_encoded(url: &mut String, segment: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(byte.into());
        } else {
            url.push('%');
            url.push(HEX[usize::from(byte >> 4)].into());
            url.push(HEX[usize::from(byte & 15)].into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(address: Address) -> (bool, String, u16, String) {
        (address.https, address.host, address.port, address.path)
    }

    #[test]
    fn https_is_reachable_with_its_feature_only() {
        assert!(Address::of_slave("http://h").unwrap().reachable().is_ok());
        let https = Address::of_slave("https://h").unwrap().reachable();
        assert_eq!(https.is_ok(), cfg!(feature = "https"));
    }

    #[test]
    fn a_masters_address_is_split_as_di_engine_splits_it() {
        let table = [
            ("http://1.2.3.4", false, "1.2.3.4", 80, ""),
            ("https://1.2.3.4", true, "1.2.3.4", 443, ""),
            (
                "https://1.2.3.4:8787/this/is/path",
                true,
                "1.2.3.4",
                8787,
                "/this/is/path",
            ),
            ("HTTP://Host.Example:88/P", false, "host.example", 88, "/P"),
            ("HttpS://h", true, "h", 443, ""),
            ("http://h:0", false, "h", 80, ""),
            ("https://h:0/", true, "h", 443, "/"),
            ("http://h:", false, "h", 80, ""),
            ("http://h:00080", false, "h", 80, ""),
            ("http://[::1]:5/x", false, "::1", 5, "/x"),
            ("http://[FE80::0:1]", false, "fe80::1", 80, ""),
            ("http://user:pass@word@h:7/p?q#f", false, "h", 7, "/p"),
            ("http://h?q/@x", false, "h", 80, ""),
            ("http://h#f:1", false, "h", 80, ""),
            (
                "http://my_master-0.svc.:7235",
                false,
                "my_master-0.svc.",
                7235,
                "",
            ),
            (
                "http://h:65535//a%20b//é/",
                false,
                "h",
                65535,
                "//a%20b//é/",
            ),
        ];
        for (text, https, host, port, path) in table {
            let expected = (https, host.to_owned(), port, path.to_owned());
            assert_eq!(Address::of_master(text).map(parts), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_master_cannot_be_reached_by_anything_else() {
        let table = [
            "",
            "h",
            "1.2.3.4:8080",
            "//1.2.3.4:9/x",
            "ftp://h",
            "http:h",
            "http:/h",
            "http://",
            "https://",
            "http:///p",
            "http://?q",
            "http://:80",
            "http://u@",
            "http://h:99999",
            "http://h:abc",
            "http://h:-1",
            "http://h:+1",
            "http://h:8 0",
            "http://h:80:90",
            "http://a b",
            "http://h\n",
            "http://::1",
            "http://[::1",
            "http://[::1]5",
            "http://[::1]x:5",
            "http://[h]",
            "http://[]",
            "http://h%41",
            "http://é",
            "http://h\\p",
            " http://h",
            "http://[fe80::1%25eth0]",
        ];
        for text in table {
            let error = Address::of_master(text).unwrap_err();
            assert_eq!(error.given, text);
            assert!(error.to_string().contains(error.reason));
        }
    }

    #[test]
    fn a_slaves_address_may_be_written_in_many_ways() {
        let table = [
            ("host", false, "host", 7236, ""),
            ("10.0.0.3", false, "10.0.0.3", 7236, ""),
            ("Host:80", false, "host", 80, ""),
            ("0.0.0.0:1", false, "0.0.0.0", 1, ""),
            ("::1", false, "::1", 7236, ""),
            ("::ffff:1.2.3.4", false, "::ffff:1.2.3.4", 7236, ""),
            ("[::1]", false, "::1", 7236, ""),
            ("[::1]:7236", false, "::1", 7236, ""),
            ("http://h:90/base", false, "h", 90, "/base"),
            ("https://h", true, "h", 7236, ""),
            ("HTTPS://h/", true, "h", 7236, "/"),
        ];
        for (text, https, host, port, path) in table {
            let expected = (https, host.to_owned(), port, path.to_owned());
            assert_eq!(Address::of_slave(text).map(parts), Ok(expected), "{text}");
        }
        let refused = [
            "",
            ":80",
            "h:0",
            "http://h:0",
            "[::1]:0",
            "h:65536",
            "h:x",
            "h:1:2",
            "1::2::3",
            "h/base",
            "h:1/",
            "u@h",
            "http://u@h",
            "http://h?q",
            "http://h/#f",
            "ftp://h",
            "//h",
            "a b",
            "h ",
            "[h]:1",
            "::1:99999",
        ];
        for text in refused {
            assert_eq!(Address::of_slave(text).unwrap_err().given, text);
        }
    }

    #[test]
    fn a_url_joins_the_segments_of_both_paths() {
        let table = [
            ("http://h:1", "/ping", "http://h:1/ping"),
            ("http://h:1", "ping", "http://h:1/ping"),
            ("http://h:1/", "/ping", "http://h:1/ping"),
            ("https://H/a//b/", "/c/d/", "https://h:443/a/b/c/d/"),
            ("http://h:1//a", "c", "http://h:1/a/c"),
            ("http://h:1/a%2Fb", "/c?d", "http://h:1/a%252Fb/c%3Fd"),
            ("http://h:1/é ~", "/x:y", "http://h:1/%C3%A9%20~/x%3Ay"),
            ("http://[::1]:5/x", "/y", "http://[::1]:5/x/y"),
            ("http://h:1/a", "", "http://h:1/a/"),
            ("http://h:1/a", "//b//c//", "http://h:1/a/b/c/"),
            ("http://h:1", "/", "http://h:1/"),
        ];
        for (address, path, url) in table {
            assert_eq!(Address::of_master(address).unwrap().url(path), url);
        }
    }

    #[test]
    fn a_printed_address_is_the_same_address_to_both_readers() {
        for text in [
            "http://h:1",
            "https://h:7236/base//x/",
            "http://[::1]:5/é%20",
            "http://0.0.0.0:80",
        ] {
            let address = Address::of_master(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(Address::of_slave(text), Ok(address));
        }
        let bound = Address::from(SocketAddr::from((Ipv6Addr::LOCALHOST, 7235)));
        assert_eq!(bound.to_string(), "http://[::1]:7235");
    }
}
