//! The settings of a client.

use std::time::Duration;

use crate::protocol;

/// Settings of a client, with their defaults.
///
/// A time limit is one deadline for the whole of what it limits. A duration too
/// long for the clock counts as none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub(super) call_timeout: Option<Duration>,
    pub(super) oob: bool,
    pub(super) in_band_window: Option<usize>,
    pub(super) newline: bool,
    pub(super) greeting: bool,
    pub(super) negotiate: bool,
    pub(super) guest_agent: bool,
    /// What is the loop's alone.
    pub(super) link: protocol::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_timeout: None,
            oob: true,
            in_band_window: Some(8),
            newline: true,
            greeting: true,
            negotiate: true,
            guest_agent: false,
            link: protocol::Options::new().name("qmp"),
        }
    }
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For a guest agent in place of a monitor: no greeting, no negotiation, no out-of-band
    /// commands, and the byte 0xFF before a reply is skipped. Default: a monitor.
    #[must_use]
    pub fn guest_agent(mut self) -> Self {
        self.guest_agent = true;
        self.greeting = false;
        self.oob = false;
        self
    }

    /// How long a call may take, from the room in the queue to the reply, where the call itself
    /// does not say. `None`: without limit. In band, a command that hangs in the server holds up
    /// all later ones, so these will time out as well. Default: `None`.
    #[must_use]
    pub fn call_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.call_timeout = limit.into();
        self
    }

    /// Whether to enable out-of-band commands if the server offers them. Default: true.
    #[must_use]
    pub fn oob(mut self, enable: bool) -> Self {
        self.oob = enable;
        self
    }

    /// How many in-band commands, at least 1, may be unanswered while out-of-band commands are
    /// enabled; more wait in the client. `None`: no limit. Default: 8, since a server with that
    /// many waiting reads no further, and an out-of-band command would be stuck behind them.
    #[must_use]
    pub fn in_band_window(mut self, commands: impl Into<Option<usize>>) -> Self {
        self.in_band_window = commands.into().map(|commands| commands.max(1));
        self
    }

    /// Whether a line feed follows each command. Servers need none, line-reading test servers do.
    /// Without it, the end of a session by `quit` is never a reset. Default: true.
    #[must_use]
    pub fn newline(mut self, newline: bool) -> Self {
        self.newline = newline;
        self
    }

    /// Whether a session starts with a greeting and a negotiation. Default: true.
    #[must_use]
    pub fn greeting(mut self, greeting: bool) -> Self {
        self.greeting = greeting;
        self
    }

    /// Whether the greeting is followed by a negotiation, without which a server refuses all else.
    /// Default: true.
    #[must_use]
    pub fn negotiate(mut self, negotiate: bool) -> Self {
        self.negotiate = negotiate;
        self
    }

    /// How long a `connect` tries to get a connected socket, the look-up of the host's name not
    /// counted: it cannot be interrupted. `None`: without limit. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.link = self.link.connect_timeout(limit);
        self
    }

    /// How long an `accept` waits for the server to come. Default: `None`, without limit.
    #[must_use]
    pub fn accept_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.link = self.link.accept_timeout(limit);
        self
    }

    /// How long greeting and negotiation may take together. `None`: without limit. Default: 5 s.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.link = self.link.handshake_timeout(limit);
        self
    }

    /// How long a wanted disconnect tries to write what is queued. Default: 1 s.
    #[must_use]
    pub fn flush_timeout(mut self, limit: Duration) -> Self {
        self.link = self.link.flush_timeout(limit);
        self
    }

    /// How long the client reads on after writing has failed, for the server's last words.
    /// Default: 500 ms.
    #[must_use]
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.link = self.link.drain_timeout(limit);
        self
    }

    /// The longest message that is read, in bytes; at least 1. Default: 64 MiB.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.link = self.link.max_message(bytes);
        self
    }

    /// How many commands wait to be written, at least 1. Default: 1,024.
    #[must_use]
    pub fn queue_messages(mut self, commands: usize) -> Self {
        self.link = self.link.queue_messages(commands);
        self
    }

    /// How many bytes of commands wait to be written. An empty queue takes one command of any
    /// size. Default: 64 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.link = self.link.queue_bytes(bytes);
        self
    }

    /// Whether to listen on the path of a UNIX socket that exists and refuses connections: it is
    /// removed first. Default: false, an existing path is an error.
    #[must_use]
    pub fn replace_stale(mut self, replace: bool) -> Self {
        self.link = self.link.replace_stale(replace);
        self
    }

    /// A name for log lines and threads, which are called `name:rd`, `name:wr` and `name:co`; it is
    /// cut to the 12 bytes that leaves. Default: `qmp`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.link = self.link.name(name);
        self
    }
}

impl From<&Options> for protocol::Options {
    fn from(options: &Options) -> Self {
        options.link.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_the_loop_are_passed_on() {
        let second = Duration::from_secs(1);
        let options = Options::new()
            .connect_timeout(None)
            .accept_timeout(second)
            .handshake_timeout(second * 2)
            .flush_timeout(second * 3)
            .drain_timeout(second * 4)
            .max_message(5)
            .queue_messages(6)
            .queue_bytes(7)
            .replace_stale(true)
            .name("vm1");
        let expected = protocol::Options::new()
            .connect_timeout(None)
            .accept_timeout(second)
            .handshake_timeout(second * 2)
            .flush_timeout(second * 3)
            .drain_timeout(second * 4)
            .max_message(5)
            .queue_messages(6)
            .queue_bytes(7)
            .replace_stale(true)
            .name("vm1");
        assert_eq!(protocol::Options::from(&options), expected);
        assert_eq!(
            protocol::Options::from(&Options::new()),
            protocol::Options::new().name("qmp")
        );
    }

    #[test]
    fn a_window_has_room_for_one_command_at_least() {
        assert_eq!(Options::new().in_band_window, Some(8));
        assert_eq!(Options::new().in_band_window(0).in_band_window, Some(1));
        assert_eq!(Options::new().in_band_window(None).in_band_window, None);
    }
}
