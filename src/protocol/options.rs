//! The limits of a message loop.

use std::time::Duration;

/// Limits and times of a [`Loop`](super::Loop), with their defaults.
///
/// A time limit is one deadline for the whole of what it limits. A duration too
/// long for the clock counts as none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) accept_timeout: Option<Duration>,
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) flush_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) max_message: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) replace_stale: bool,
    pub(crate) name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Some(Duration::from_secs(10)),
            accept_timeout: None,
            handshake_timeout: Some(Duration::from_secs(5)),
            flush_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_millis(500),
            max_message: 64 << 20,
            queue_messages: 1024,
            queue_bytes: 64 << 20,
            replace_stale: false,
            name: "loop".to_owned(),
        }
    }
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a `connect` tries to get a connected socket, the look-up of the host's name not
    /// counted: it cannot be interrupted. `None`: without limit. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.connect_timeout = limit.into();
        self
    }

    /// How long an `accept` waits for a peer. Default: `None`, without limit.
    #[must_use]
    pub fn accept_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.accept_timeout = limit.into();
        self
    }

    /// How long the whole handshake may take. `None`: without limit. Default: 5 s.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.handshake_timeout = limit.into();
        self
    }

    /// How long a wanted disconnect tries to write what is queued. Default: 1 s.
    #[must_use]
    pub fn flush_timeout(mut self, limit: Duration) -> Self {
        self.flush_timeout = limit;
        self
    }

    /// How long the reader may go on after the writer failed, for the peer's last words.
    /// Default: 500 ms.
    #[must_use]
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain_timeout = limit;
        self
    }

    /// The longest message that is read, in bytes; also the bound of the receive buffer.
    /// At least 1. Default: 64 MiB.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes.max(1);
        self
    }

    /// How many messages wait to be written, at least 1. Default: 1,024.
    #[must_use]
    pub fn queue_messages(mut self, messages: usize) -> Self {
        self.queue_messages = messages.max(1);
        self
    }

    /// How many bytes of messages wait to be written, by [`Protocol::weight`](super::Protocol::weight).
    /// An empty queue takes one message of any size. Default: 64 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Whether to listen on the path of a UNIX socket that exists and refuses connections: it is
    /// removed first. Default: false, an existing path is an error.
    #[must_use]
    pub fn replace_stale(mut self, replace: bool) -> Self {
        self.replace_stale = replace;
        self
    }

    /// A name for log lines and threads. Threads are called `name:rd`, `name:wr` and `name:co`;
    /// the name is cut to the 12 bytes that leaves. Default: `loop`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}
