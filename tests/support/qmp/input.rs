//! What a client sends, one message after the other.
//!
//! Read as the real servers do it, one byte by system call and with no regard to newlines. So what
//! lies behind a message is unread when the message is dealt with, and descriptors come with the
//! message that they were sent with.

use std::io::{self, IoSliceMut};
use std::mem::{MaybeUninit, take};
use std::os::fd::OwnedFd;

use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A message, without what is around it, and how many descriptors came along.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) text: Vec<u8>,
    pub(crate) descriptors: usize,
}

/// Finds the ends of messages, byte by byte.
#[derive(Default)]
pub(crate) struct Scanner {
    text: Vec<u8>,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Scanner {
    /// Takes the next byte; the message, if one ends here.
    ///
    /// Objects and lists end with their last bracket, anything else with the next blank. A byte
    /// 0xFF is a message of its own.
    pub(crate) fn feed(&mut self, byte: u8) -> Option<Vec<u8>> {
        if self.text.is_empty() && byte.is_ascii_whitespace() {
            return None;
        }
        let blank = byte.is_ascii_whitespace() && self.depth == 0 && !self.quoted;
        if !blank {
            self.text.push(byte);
        }
        match byte {
            _ if self.quoted => {
                self.quoted = self.escaped || byte != b'"';
                self.escaped = byte == b'\\' && !self.escaped;
                return None;
            }
            b'"' => self.quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        let closed = self.depth == 0 && matches!(byte, b'}' | b']');
        if closed || blank || byte == 0xFF {
            self.depth = 0;
            return Some(take(&mut self.text));
        }
        None
    }

    /// Whether no message has begun.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.text.is_empty()
    }
}

/// The stream of a client's messages.
#[derive(Default)]
pub(crate) struct Input {
    scanner: Scanner,
    descriptors: usize,
}

impl Input {
    /// Waits for the next message; none at the end of the stream.
    pub(crate) fn message(&mut self, socket: &OwnedFd) -> io::Result<Option<Message>> {
        while let Some(byte) = self.byte(socket)? {
            if let Some(text) = self.scanner.feed(byte) {
                let descriptors = take(&mut self.descriptors);
                return Ok(Some(Message { text, descriptors }));
            }
        }
        Ok(None)
    }

    /// Waits for `count` bytes behind any blanks, whatever they are; fewer at the end of the stream.
    pub(crate) fn bytes(&mut self, socket: &OwnedFd, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count
            && let Some(byte) = self.byte(socket)?
        {
            if !bytes.is_empty() || !byte.is_ascii_whitespace() {
                bytes.push(byte);
            }
        }
        Ok(bytes)
    }

    fn byte(&mut self, socket: &OwnedFd) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut byte)];
            recvmsg(socket, &mut parts, &mut control, RecvFlags::empty())
        })?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                self.descriptors += descriptors.count(); // and closes them
            }
        }
        Ok((received.bytes > 0).then_some(byte[0]))
    }
}
