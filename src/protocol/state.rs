//! The four states of a loop.

use std::fmt;

/// Where a [`Loop`](super::Loop) stands.
///
/// ```text
/// Idle --connect, listen--> Connecting --handshake done--> Running --any cause--> Disconnecting
///   ^                           |                                                     |
///   +----failed, cancelled------+                                                     |
///   +--------------------------------------collected----------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No session, and nothing of an earlier one left to collect.
    Idle,
    /// A connect is under way, or a peer is waited for.
    Connecting,
    /// Messages go both ways.
    Running,
    /// The session is ending, or has ended and its [`End`](super::End) waits to be collected.
    Disconnecting,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Running => "running",
            Self::Disconnecting => "disconnecting",
        })
    }
}
