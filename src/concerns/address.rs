//! Addresses of nodes: `host:port`, with an IPv6 address in brackets.
//!
//! Pure: nothing here looks a name up.

use std::net::{IpAddr, SocketAddr};

use super::error::Error;

/// The longest name of a host.
const LONGEST_HOST: usize = 253;

/// Whether a text is an address.
///
/// # Errors
///
/// [`Error::Address`].
pub(crate) fn check(address: &str) -> Result<(), Error> {
    let problem = match split(address) {
        Some(("", _)) => "there is no host",
        Some((host, port)) if host.len() <= LONGEST_HOST && port.parse::<u16>().is_ok() => {
            return Ok(());
        }
        _ => "it is not host:port",
    };
    Err(bad(address, problem))
}

/// Host and port, without the brackets of an IPv6 address.
pub(crate) fn split(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match inside {
        Some(inside) => Some((inside, port)),
        None if host.contains([':', '/', '[', ']']) || host.contains(char::is_whitespace) => None,
        None => Some((host, port)),
    }
}

fn bad(address: &str, problem: &'static str) -> Error {
    Error::Address {
        given: address.to_owned(),
        problem,
    }
}

/// What is told to others: `advertise` or, without it, where this node listens.
pub(crate) fn advertised(local: SocketAddr, advertise: Option<&str>) -> Result<String, Error> {
    let Some(given) = advertise else {
        if local.ip().is_unspecified() {
            let problem = "others cannot reach it; say by advertise where they do";
            return Err(bad(&local.to_string(), problem));
        }
        return Ok(local.to_string());
    };
    check(given)?;
    let (host, port) = split(given).ok_or_else(|| bad(given, "it is not host:port"))?;
    if host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
        return Err(bad(given, "others cannot reach it"));
    }
    let port = match port.parse() {
        Ok(0) | Err(_) => local.port(),
        Ok(port) => port,
    };
    match host.contains(':') {
        true => Ok(format!("[{host}]:{port}")),
        false => Ok(format!("{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (address, good) in [
            ("host:1", true),
            ("127.0.0.1:65535", true),
            ("[::1]:80", true),
            ("::1:80", false),
            ("host", false),
            (":80", false),
            ("[]:80", false),
            ("host:65536", false),
            ("host:", false),
            ("a b:1", false),
            ("/path:1", false),
            ("", false),
        ] {
            assert_eq!(check(address).is_ok(), good, "{address}");
        }
    }

    #[test]
    fn what_others_cannot_reach_is_not_told_to_them() {
        let at = |text: &str| text.parse().unwrap();
        let told = |local, advertise| advertised(at(local), advertise).map_err(drop);
        for (local, advertise, expected) in [
            ("127.0.0.1:7", None, Ok("127.0.0.1:7")),
            ("[::1]:7", None, Ok("[::1]:7")),
            ("0.0.0.0:7", None, Err(())),
            ("[::]:7", None, Err(())),
            ("0.0.0.0:7", Some("hub.example:80"), Ok("hub.example:80")),
            ("0.0.0.0:7", Some("hub.example:0"), Ok("hub.example:7")),
            ("0.0.0.0:7", Some("[fe80::1]:0"), Ok("[fe80::1]:7")),
            ("0.0.0.0:7", Some("0.0.0.0:7"), Err(())),
            ("127.0.0.1:7", Some("nonsense"), Err(())),
        ] {
            assert_eq!(
                told(local, advertise),
                expected.map(str::to_owned),
                "{local} {advertise:?}"
            );
        }
    }
}
