//! The settings of a slave.

use std::fmt;
use std::time::Duration;

use super::Slave;
use super::error::Error;
use super::worker::Worker;
use crate::http::Retry;
use crate::lifecycle::LONGEST;
use crate::wire::route::Channel;

/// The settings, with the minimums applied.
pub(super) struct Settings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) channel: Channel,
    pub(super) heartbeat_span: Duration,
    pub(super) retry: Retry,
    pub(super) max_body: usize,
    pub(super) grace: Duration,
}

/// Sets up a [`Slave`]; made by [`Slave::builder`].
///
/// Every setting has a default. Zero means zero: no retries, no waiting, a port
/// that the system chooses. The original's minimum holds, a smaller value is raised to it; a
/// duration of more than ten years is cut to that, so `Duration::MAX` means for ever.
#[must_use = "a builder does nothing until start"]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    pub(super) fn new() -> Self {
        let settings = Settings {
            host: "0.0.0.0".to_owned(),
            port: 7236,
            channel: Channel::default(),
            heartbeat_span: Duration::from_secs(3),
            retry: Retry {
                retries: 5,
                waiting: Duration::from_secs(1),
                total: Duration::from_secs(30),
            },
            max_body: 64 << 20,
            grace: Duration::from_secs(5),
        };
        Self { settings }
    }

    /// The address to listen on: an IP address or a name. Default `0.0.0.0`, all of IPv4.
    ///
    /// The wire has no password: whoever reaches the port and knows the channel
    /// can make this slave its own. Bind to loopback or a trusted network, or
    /// check the data of [`Worker::before_connection`].
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.settings.host = host.into();
        self
    }

    /// The port to listen on; 0 lets the system choose, see [`Slave::local_addr`]. Default 7236.
    pub fn port(mut self, port: u16) -> Self {
        self.settings.port = port;
        self
    }

    /// The number that master and slaves must share. Default 0, with a warning beyond loopback.
    pub fn channel(mut self, channel: i64) -> Self {
        self.settings.channel = Channel::new(channel);
        self
    }

    /// How often to tell the master that this slave lives. Default 3 s, minimum 0.2 s.
    ///
    /// It must be well below the master's tolerance.
    pub fn heartbeat_span(mut self, span: Duration) -> Self {
        self.settings.heartbeat_span = span.clamp(Duration::from_millis(200), LONGEST);
        self
    }

    /// How often a heartbeat or a report that failed is repeated. Default 5, so six attempts.
    ///
    /// After that many heartbeats the master is lost; a report is tried again for as long as it is not.
    pub fn request_retries(mut self, retries: u32) -> Self {
        self.settings.retry.retries = retries;
        self
    }

    /// How long to wait before a heartbeat or a report is repeated. Default 1 s.
    pub fn request_retry_waiting(mut self, waiting: Duration) -> Self {
        self.settings.retry.waiting = waiting.min(LONGEST);
        self
    }

    /// How long a report may take, with all its attempts and pauses, before they begin anew. Default 30 s.
    ///
    /// A heartbeat waits at most 5 s for its answer.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.retry.total = timeout.min(LONGEST);
        self
    }

    /// The largest body of a request or an answer, in bytes. Default 64 MiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.settings.max_body = bytes;
        self
    }

    /// How long the running task may take to end when the slave shuts down. Default 5 s.
    ///
    /// A task that takes longer is reported as failed.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace.min(LONGEST);
        self
    }

    /// Binds the port, starts the threads, and returns the running slave.
    ///
    /// # Errors
    /// [`Error::Bind`] (the port is in use, the host is not an address of this
    /// machine), or [`Error::Start`]. Nothing is left running then.
    pub fn start(self, worker: impl Worker) -> Result<Slave, Error> {
        Slave::start(self.settings, Box::new(worker))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("host", &self.settings.host)
            .field("port", &self.settings.port)
            .field("channel", &self.settings.channel)
            .finish_non_exhaustive()
    }
}
