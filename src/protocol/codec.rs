//! From bytes to messages: the trait of decoders, one for lines, and the buffer between
//! a stream and a decoder.
//!
//! Nothing here does I/O. The buffer keeps what has come until it makes a message, and is where
//! the limit of a message's length is held: a decoder never sees more bytes than that.

use std::io;

use super::error::{BoxError, Error, Kind};

/// Takes messages out of the bytes that have come so far.
pub trait Decoder: Send + 'static {
    /// What the bytes make.
    type Message;

    /// Looks for a message at the start of `bytes`, which are all that have come and belong to no
    /// earlier message.
    ///
    /// The next call sees the same bytes and more, less those that this call took or skipped. So
    /// a decoder may remember how far it has looked; it need not look at a byte twice.
    ///
    /// # Errors
    ///
    /// If the bytes cannot become a message. That ends the session.
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<Self::Message>, DecodeError>;
}

/// What a decoder found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<M> {
    /// A message.
    Message {
        /// The message.
        message: M,
        /// How many bytes it took.
        used: usize,
    },
    /// No whole message yet.
    Partial {
        /// How many bytes at the start belong to no message (blanks between two, say).
        skip: usize,
    },
}

/// Why bytes cannot become a message.
#[derive(Debug)]
pub struct DecodeError {
    /// Where, counted from the start of the bytes that the decoder was given.
    pub offset: usize,
    /// Why.
    pub source: BoxError,
}

/// Messages are lines of bytes.
///
/// A line ends with LF; one CR before it is taken off. Empty lines are messages. The bytes need
/// not be UTF-8. A last line without LF is [`Kind::Truncated`].
#[derive(Clone, Debug, Default)]
pub struct Lines {
    scanned: usize,
}

impl Lines {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Decoder for Lines {
    type Message = Vec<u8>;

    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<Vec<u8>>, DecodeError> {
        let Some(at) = bytes[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = bytes.len();
            return Ok(Decoded::Partial { skip: 0 });
        };
        let end = self.scanned + at;
        self.scanned = 0;
        let line = &bytes[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Decoded::Message {
            message: line.to_vec(),
            used: end + 1,
        })
    }
}

/// The least that is asked of a stream at once, and what the buffer shrinks to.
const CHUNK: usize = 64 << 10;
/// After a message longer than this the buffer gives its memory back.
const LARGE: usize = 1 << 20;
const EXCERPT: usize = 200;
const KEPT: usize = 4096;

/// What has come from a stream and is no message yet, and the decoder that looks at it.
pub(super) struct Inbox<D> {
    decoder: D,
    limit: usize,
    /// Initialised throughout; what has come is `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    count: u64,
}

impl<D: Decoder> Inbox<D> {
    pub(super) fn new(decoder: D, limit: usize) -> Self {
        Self {
            decoder,
            limit,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            count: 0,
        }
    }

    /// The next whole message among the bytes that have come.
    pub(super) fn next(&mut self) -> Result<Option<D::Message>, Error> {
        loop {
            let come = &self.buffer[self.start..self.end];
            let seen = &come[..come.len().min(self.limit)];
            if seen.is_empty() {
                return Ok(None);
            }
            match self.decoder.decode(seen) {
                Ok(Decoded::Message { message, used }) => {
                    self.take(used);
                    self.count += 1;
                    return Ok(Some(message));
                }
                Ok(Decoded::Partial { skip: 0 }) if seen.len() == self.limit => {
                    return Err(Error::new(Kind::TooLong { limit: self.limit }));
                }
                Ok(Decoded::Partial { skip: 0 }) => return Ok(None),
                Ok(Decoded::Partial { skip }) => self.take(skip),
                Err(DecodeError { offset, source }) => {
                    let offset = offset.min(seen.len());
                    let from = offset.saturating_sub(EXCERPT / 2);
                    let to = seen.len().min(from + EXCERPT);
                    let excerpt = seen[from..to].to_vec();
                    return Err(Error::caused(Kind::Decode { offset, excerpt }, source));
                }
            }
        }
    }

    /// How many messages came out.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn take(&mut self, bytes: usize) {
        self.start = self.end.min(self.start + bytes);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if bytes > LARGE && self.end - self.start <= CHUNK {
            self.make_room_at_front();
            self.buffer.truncate(CHUNK);
            self.buffer.shrink_to_fit();
        }
    }

    fn make_room_at_front(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Lets `read` fill the room behind what has come; 0 is the end of the stream.
    pub(super) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.start > 0 {
            self.make_room_at_front();
        }
        if self.buffer.len() - self.end < CHUNK / 2 {
            let room = (self.buffer.len() * 2).max(CHUNK);
            // Beyond the limit of a message there is only what was read along with its end.
            let most = self.limit.saturating_add(CHUNK);
            self.buffer
                .resize(room.min(most.max(self.end + CHUNK / 2)), 0);
        }
        let count = read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// What the end of the stream means now: clean between messages, else a truncated one.
    pub(super) fn at_end(&self) -> Error {
        let rest = &self.buffer[self.start..self.end];
        if rest.is_empty() {
            return Error::new(Kind::PeerClosed);
        }
        Error::new(Kind::Truncated {
            length: rest.len(),
            start: rest[..rest.len().min(KEPT)].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(inbox: &mut Inbox<Lines>, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            inbox
                .fill(|room| {
                    let count = room.len().min(rest.len());
                    room[..count].copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    Ok(count)
                })
                .unwrap();
        }
    }

    fn all(inbox: &mut Inbox<Lines>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| inbox.next().unwrap()).collect()
    }

    #[test]
    fn lines_come_out_the_same_wherever_the_stream_is_cut() {
        let stream = b"one\r\n\ntwo\rstill two\n\xff\xfe\r\r\nlast\n";
        let whole: Vec<Vec<u8>> = [&b"one"[..], b"", b"two\rstill two", b"\xff\xfe\r", b"last"]
            .map(<[u8]>::to_vec)
            .to_vec();
        for cut in 0..=stream.len() {
            let mut inbox = Inbox::new(Lines::new(), 100);
            feed(&mut inbox, &stream[..cut]);
            let mut lines = all(&mut inbox);
            feed(&mut inbox, &stream[cut..]);
            lines.extend(all(&mut inbox));
            assert_eq!(lines, whole, "cut at {cut}");
            assert_eq!(inbox.at_end().kind(), &Kind::PeerClosed);
        }
        let mut inbox = Inbox::new(Lines::new(), 100);
        let mut lines = Vec::new();
        for byte in stream {
            feed(&mut inbox, &[*byte]);
            lines.extend(all(&mut inbox));
        }
        assert_eq!(lines, whole, "byte by byte");
    }

    #[test]
    fn a_message_of_just_the_limit_passes_and_one_byte_more_does_not() {
        let mut inbox = Inbox::new(Lines::new(), 8);
        feed(&mut inbox, b"1234567\n1234567\n12345678\n");
        assert_eq!(inbox.next().unwrap().unwrap(), b"1234567");
        assert_eq!(inbox.next().unwrap().unwrap(), b"1234567");
        assert_eq!(
            inbox.next().unwrap_err().kind(),
            &Kind::TooLong { limit: 8 }
        );
        let mut inbox = Inbox::new(Lines::new(), 8);
        feed(&mut inbox, b"1234567");
        assert_eq!(inbox.next().unwrap(), None);
        feed(&mut inbox, b"8");
        assert_eq!(
            inbox.next().unwrap_err().kind(),
            &Kind::TooLong { limit: 8 },
            "before its end has come"
        );
    }

    #[test]
    fn the_end_of_the_stream_inside_a_line_keeps_what_had_come() {
        let mut inbox = Inbox::new(Lines::new(), 100);
        feed(&mut inbox, b"whole\nhal");
        assert_eq!(all(&mut inbox), [b"whole"]);
        let start = b"hal".to_vec();
        assert_eq!(inbox.at_end().kind(), &Kind::Truncated { length: 3, start });
    }

    #[test]
    fn the_buffer_grows_by_need_is_bounded_and_gives_its_memory_back() {
        let limit = 3 << 20;
        let mut inbox = Inbox::new(Lines::new(), limit);
        let mut line = vec![b'x'; limit - 1];
        line.push(b'\n');
        feed(&mut inbox, &line);
        assert!(inbox.buffer.len() <= limit + CHUNK);
        feed(&mut inbox, b"next\nrest");
        assert_eq!(inbox.next().unwrap().unwrap().len(), limit - 1);
        assert_eq!(inbox.buffer.len(), CHUNK);
        assert_eq!(inbox.next().unwrap().unwrap(), b"next");
        assert_eq!(inbox.next().unwrap(), None);
        feed(&mut inbox, b"\n");
        assert_eq!(inbox.next().unwrap().unwrap(), b"rest");
    }

    /// Words between blanks, which are filler; `!` is not allowed.
    struct Words;

    impl Decoder for Words {
        type Message = usize;

        fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<usize>, DecodeError> {
            let skip = bytes.iter().take_while(|byte| **byte == b' ').count();
            if skip > 0 {
                return Ok(Decoded::Partial { skip });
            }
            if let Some(offset) = bytes.iter().position(|byte| *byte == b'!') {
                let source = "no shouting".into();
                return Err(DecodeError { offset, source });
            }
            Ok(match bytes.iter().position(|byte| *byte == b' ') {
                Some(used) => Decoded::Message {
                    message: used,
                    used,
                },
                None => Decoded::Partial { skip: 0 },
            })
        }
    }

    #[test]
    fn filler_counts_for_no_message_and_leaves_a_clean_end() {
        let mut inbox = Inbox::new(Words, 4);
        let bytes = b"         abc        ";
        inbox
            .fill(|room| {
                room[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            })
            .unwrap();
        assert_eq!(inbox.next().unwrap(), Some(3));
        assert_eq!(inbox.next().unwrap(), None);
        assert_eq!(inbox.at_end().kind(), &Kind::PeerClosed);
    }

    #[test]
    fn what_cannot_be_decoded_is_shown_with_its_place_and_cause() {
        let mut inbox = Inbox::new(Words, 1000);
        inbox
            .fill(|room| {
                room[..500].fill(b'a');
                room[300] = b'!';
                Ok(500)
            })
            .unwrap();
        let error = inbox.next().unwrap_err();
        let Kind::Decode { offset, excerpt } = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!((*offset, excerpt.len(), excerpt[100]), (300, 200, b'!'));
        assert!(error.report().ends_with("no shouting"), "{error:#}");
    }
}
