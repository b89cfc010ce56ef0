//! What a node tells about itself and its peers.

use super::error::Reason;
use super::identity::{Command, Identity};
use super::peer::PeerState;

/// Something that happened at a node. See [`Handle::events`](super::Handle::events).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer is known now, or went from one state to another.
    PeerChanged {
        /// Who.
        peer: Identity,
        /// Its state before; `None` if it was not known.
        old: Option<PeerState>,
        /// Its state now.
        new: PeerState,
    },
    /// A peer was forgotten: by [`Handle::forget`](super::Handle::forget), or to make room.
    PeerForgotten {
        /// Who.
        peer: Identity,
    },
    /// A link was refused, here or by the other side.
    LinkRefused {
        /// With whom: an identity if it is known, else an address.
        with: String,
        /// Why.
        reason: String,
    },
    /// A message was given up: one of this node, or one it held for others.
    Undeliverable {
        /// Its number.
        id: u64,
        /// Who made it.
        source: Identity,
        /// Whom it was for.
        to: Identity,
        /// What it was about.
        command: Command,
        /// Why.
        reason: Reason,
    },
    /// A message has come for a concern that is not there.
    UnknownCommand {
        /// Who made it.
        source: Identity,
        /// What it was about.
        command: Command,
    },
    /// Something has come that cannot be a message, and was dropped.
    Malformed {
        /// The neighbour it came from.
        from: Identity,
        /// What is wrong with it.
        problem: String,
    },
    /// A hook of a concern failed or panicked.
    HookFailed {
        /// The concern's command.
        command: Command,
        /// Which hook.
        hook: &'static str,
        /// The error.
        error: String,
    },
}
