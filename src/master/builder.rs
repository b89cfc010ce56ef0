//! The settings of a master.

use std::sync::Arc;
use std::time::Duration;

use super::Master;
use super::error::Error;
use super::hooks::{Hooks, NoHooks};
use crate::http::Retry;
use crate::lifecycle::LONGEST;
use crate::wire::address::Address;
use crate::wire::route::Channel;

/// The settings, checked.
pub(super) struct Settings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) channel: Channel,
    pub(super) heartbeat_tolerance: Duration,
    pub(super) heartbeat_check_span: Duration,
    pub(super) retry: Retry,
    pub(super) my_address: Option<Address>,
    pub(super) max_body: usize,
    pub(super) max_pending: usize,
    pub(super) grace: Duration,
}

/// Sets up a [`Master`]; made by [`Master::builder`].
///
/// Every setting has a default. Zero means zero: no retries, no waiting, a port
/// that the system chooses. The original's minimums hold, smaller values are raised to them; a
/// duration of more than ten years is cut to that, so `Duration::MAX` means for ever.
#[must_use = "a builder does nothing until start"]
pub struct Builder {
    settings: Settings,
    my_address: Option<String>,
    hooks: Arc<dyn Hooks>,
}

impl Builder {
    pub(super) fn new() -> Self {
        let settings = Settings {
            host: "0.0.0.0".to_owned(),
            port: 7235,
            channel: Channel::default(),
            heartbeat_tolerance: Duration::from_secs(15),
            heartbeat_check_span: Duration::from_secs(1),
            retry: Retry {
                retries: 5,
                waiting: Duration::from_secs(1),
                total: Duration::from_secs(30),
            },
            my_address: None,
            max_body: 64 << 20,
            max_pending: 65_536,
            grace: Duration::from_secs(5),
        };
        Self {
            settings,
            my_address: None,
            hooks: Arc::new(NoHooks),
        }
    }

    /// The address to listen on: an IP address or a name. Default `0.0.0.0`, all of IPv4.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.settings.host = host.into();
        self
    }

    /// The port to listen on; 0 lets the system choose, see [`Master::local_addr`]. Default 7235.
    pub fn port(mut self, port: u16) -> Self {
        self.settings.port = port;
        self
    }

    /// The number that master and slaves must share. Default 0.
    ///
    /// It keeps strangers' traffic apart, it is no secret. Channel 0 is not
    /// recommended beyond loopback, and a warning is logged there.
    pub fn channel(mut self, channel: i64) -> Self {
        self.settings.channel = Channel::new(channel);
        self
    }

    /// How long a slave may be silent before it is lost. Default 15 s, minimum 0.2 s.
    ///
    /// The released DI-engine has 17 s where its documentation says 15. A slave
    /// with default settings beats every 3 s and repeats a failed beat for 5 s,
    /// so values below about 9 s lose slaves that are only slow.
    pub fn heartbeat_tolerance(mut self, tolerance: Duration) -> Self {
        self.settings.heartbeat_tolerance = tolerance.clamp(Duration::from_millis(200), LONGEST);
        self
    }

    /// How often silent slaves are looked for. Default 1 s, minimum 0.1 s.
    pub fn heartbeat_check_span(mut self, span: Duration) -> Self {
        self.settings.heartbeat_check_span = span.clamp(Duration::from_millis(100), LONGEST);
        self
    }

    /// How often a request to a slave that got no answer is repeated. Default 5, so six attempts.
    pub fn request_retries(mut self, retries: u32) -> Self {
        self.settings.retry.retries = retries;
        self
    }

    /// How long to wait before a request is repeated. Default 1 s.
    pub fn request_retry_waiting(mut self, waiting: Duration) -> Self {
        self.settings.retry.waiting = waiting.min(LONGEST);
        self
    }

    /// How long a request may take, with all its attempts and pauses. Default 30 s.
    ///
    /// The original waits without limit. It bounds `connect`, `disconnect` and
    /// `start`; how long a task runs is not limited by it.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.retry.total = timeout.min(LONGEST);
        self
    }

    /// The address told to slaves, as `http://host:port` with an optional path.
    ///
    /// By default it is found at each connect: the own address on the route to that slave.
    pub fn my_address(mut self, address: impl Into<String>) -> Self {
        self.my_address = Some(address.into());
        self
    }

    /// The largest body of a request or an answer, in bytes. Default 64 MiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.settings.max_body = bytes;
        self
    }

    /// How many tasks may be open, or wait for their callbacks, at the same time. Default 65,536.
    ///
    /// Beyond it `start` fails with [`Error::TooManyPending`].
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.settings.max_pending = tasks;
        self
    }

    /// How long the end may take: telling the slaves, running callbacks, joining threads, each. Default 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace.min(LONGEST);
        self
    }

    /// What to do before and after connects, disconnects and tasks. Default: nothing.
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = Arc::new(hooks);
        self
    }

    /// Binds the port, starts the threads, and returns the running master.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Bind`] (the port is in use, the host is not
    /// an address of this machine), or [`Error::Start`]. Nothing is left running then.
    pub fn start(self) -> Result<Master, Error> {
        let mut settings = self.settings;
        if let Some(address) = &self.my_address {
            settings.my_address =
                Some(Address::of_master(address).map_err(|error| Error::Setting {
                    setting: "my_address",
                    reason: error.to_string(),
                })?);
        }
        Master::start(settings, self.hooks)
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("host", &self.settings.host)
            .field("port", &self.settings.port)
            .field("channel", &self.settings.channel)
            .finish_non_exhaustive()
    }
}
