//! A peer as others see it: what [`Record`](super::record::Record) tells of it.

use std::fmt;
use std::time::Duration;

use super::identity::Identity;

/// How a node stands with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// Known, and never tried.
    Initial,
    /// A hello is on its way.
    Connecting,
    /// Heard directly.
    Connected,
    /// Heard over a hop.
    Routed {
        /// The neighbour through which it is reached.
        via: Identity,
    },
    /// Was heard once, and is silent for longer than [`Timing::unreachable`](super::Timing), or its
    /// link was lost: suspected.
    Unreachable,
    /// Could not be reached, or is silent for longer than [`Timing::no_connection`](super::Timing).
    NoConnection,
    /// Has said that it leaves. It is not chased.
    Left,
}

impl PeerState {
    /// Whether messages for it have a way: it is connected or routed.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        matches!(self, Self::Connected | Self::Routed { .. })
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initial => "initial",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Routed { via } => return write!(f, "routed via {via}"),
            Self::Unreachable => "unreachable",
            Self::NoConnection => "no connection",
            Self::Left => "left",
        })
    }
}

/// What a node knows of a peer, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// How the node stands with it.
    pub state: PeerState,
    /// Where it listens, `host:port`; `None` if that is not known.
    pub address: Option<String>,
    /// The number of its present life: one that is started anew has a higher one. 0 if unknown.
    pub incarnation: u64,
    /// How long ago it was heard of; `None` if it never was.
    pub silent: Option<Duration>,
    /// The time from the last heart beat to its answer; `None` if there was none yet.
    pub round_trip: Option<Duration>,
}
