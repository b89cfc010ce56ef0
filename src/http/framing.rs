//! Which bytes after a head are its body.
//!
//! Pure, and stricter than the parser below it, which takes a length it cannot
//! read for no body at all and the first of two lengths for the only one: such
//! requests are refused, since two readers of them can disagree about where
//! the next request begins.

use super::request::Head;

/// The extent of a request's body, as its head tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes; zero if the head says nothing. A number beyond 64 bits is the greatest.
    Sized(u64),
    /// In chunks, up to an empty one.
    Chunked,
}

/// Reads the extent from the head; `None` if it can be read in more than one way.
pub(super) fn framing(head: &Head) -> Option<Framing> {
    let mut lengths = head.headers("Content-Length");
    let mut encodings = head.headers("Transfer-Encoding");
    let (length, encoding) = (lengths.next(), encodings.next());
    if lengths.next().is_some() || encodings.next().is_some() {
        return None;
    }
    match (length, encoding) {
        (None, None) => Some(Framing::Sized(0)),
        (Some(length), None) => sized(length.trim_end()),
        // Any coding before it, such as gzip, would be left in the body.
        (None, Some(encoding)) if encoding.trim_end().eq_ignore_ascii_case("chunked") => {
            // An upgrade takes the connection over, chunks and all.
            let upgrade = |value: &str| value.to_ascii_lowercase().contains("upgrade");
            (!head.headers("Connection").any(upgrade)).then_some(Framing::Chunked)
        }
        (_, Some(_)) => None,
    }
}

fn sized(length: &str) -> Option<Framing> {
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Framing::Sized(length.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::super::request::Method;
    use super::*;

    fn of(headers: &[(&str, &str)]) -> Option<Framing> {
        let headers = headers.iter().map(|&(n, v)| (n.into(), v.into())).collect();
        framing(&Head::new(Method::Post, "/", headers))
    }

    #[test]
    fn one_length_of_digits_or_chunked_is_a_frame_and_all_else_is_none() {
        assert_eq!(of(&[]), Some(Framing::Sized(0)));
        for (length, frame) in [
            ("0", Some(0)),
            ("0005", Some(5)),
            ("9223372036854775807", Some(u64::MAX / 2)),
            ("18446744073709551616", Some(u64::MAX)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("", None),
            ("abc", None),
            ("-1", None),
            ("+5", None),
            ("5, 5", None),
            ("5.0", None),
            ("0x5", None),
            ("٥", None),
        ] {
            let frame = frame.map(Framing::Sized);
            assert_eq!(of(&[("content-length", length)]), frame, "{length}");
        }
        for (encoding, frame) in [
            ("chunked", Some(Framing::Chunked)),
            ("Chunked", Some(Framing::Chunked)),
            ("identity", None),
            ("gzip, chunked", None),
            ("chunked, chunked", None),
            ("chunked, gzip", None),
            ("", None),
        ] {
            assert_eq!(of(&[("Transfer-Encoding", encoding)]), frame, "{encoding}");
        }
        assert_eq!(
            of(&[("Content-Length", "5"), ("content-length", "5")]),
            None
        );
        for other in [
            ("Content-Length", "5"),
            ("Connection", "Upgrade, HTTP2-Settings"),
        ] {
            assert_eq!(of(&[other, ("Transfer-Encoding", "chunked")]), None);
        }
    }
}
