//! An answer, and how it is written.
//!
//! Pure. The server below knows nothing of what the answers mean: those that
//! it must give itself are asked for by [`Fault`].

use std::io::Write;

/// An answer with a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The value of `Allow`, for answers about methods.
    pub(crate) allow: Option<&'static str>,
}

/// Why the server answers a request itself instead of handing it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Where the body ends cannot be told, or it ended before (400).
    BadFraming,
    /// The body is longer than the limit (413).
    TooLong,
    /// As many long bodies as are allowed are being read (503).
    Busy,
    /// The handler panicked (500).
    Panicked,
    /// The server is stopping.
    Stopping,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            allow: None,
        }
    }

    /// The whole answer as it goes over the wire, without the body for a `HEAD`.
    pub(super) fn to_wire(&self, reason: &str, bodiless: bool, keep: bool) -> Vec<u8> {
        let mut wire = Vec::with_capacity(160 + self.body.len());
        // Writing to a vector cannot fail.
        let _ = write!(
            wire,
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            self.status,
            self.body.len()
        );
        if let Some(methods) = self.allow {
            let _ = write!(wire, "Allow: {methods}\r\n");
        }
        if !keep {
            wire.extend_from_slice(b"Connection: close\r\n");
        }
        wire.extend_from_slice(b"\r\n");
        if !bodiless {
            wire.extend_from_slice(&self.body);
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_written_in_one_piece() {
        let mut answer = Response::new(405, "{}");
        answer.allow = Some("GET, HEAD");
        let head = "HTTP/1.1 405 Not Allowed\r\nContent-Type: application/json\r\n\
                    Content-Length: 2\r\nAllow: GET, HEAD\r\n";
        let wire = |bodiless, keep| {
            String::from_utf8(answer.to_wire("Not Allowed", bodiless, keep)).unwrap()
        };
        assert_eq!(
            wire(false, false),
            format!("{head}Connection: close\r\n\r\n{{}}")
        );
        assert_eq!(wire(true, true), format!("{head}\r\n"));
    }
}
