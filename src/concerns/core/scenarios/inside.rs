//! What the scenarios do to a core from within, where the original's tests had everything open.

use std::time::{Duration, Instant};

use super::super::Core;
use crate::concerns::ask_around::AskAround;
use crate::concerns::connector::Connector;
use crate::concerns::envelope::{Envelope, Frame, Frames, encode_shake};
use crate::concerns::heart_beat::HeartBeat;
use crate::concerns::hello::Shake;
use crate::concerns::identity::Identity;
use crate::concerns::{Concern, PeerState};
use crate::protocol::{Decoded, Decoder};

/// A concern of the library's, by what the scenarios call it.
pub(super) fn built_in(name: &str) -> Box<dyn Concern> {
    match name {
        "hello" => Box::new(Connector::default()),
        "hb" => Box::new(HeartBeat::default()),
        "ask" => Box::new(AskAround::default()),
        _ => panic!("no such concern: {name}"),
    }
}

pub(super) fn default_route(core: &mut Core, via: Identity) {
    core.state.settings.default_route = Some(via);
}

/// Overwrites what is given. If that changes the state, the old and the new one.
pub(super) fn set_peer(
    core: &mut Core,
    peer: &Identity,
    state: Option<PeerState>,
    next: Option<Instant>,
    last: Option<Instant>,
) -> Option<(PeerState, PeerState)> {
    let record = core.state.peers.get_mut(peer).expect("it is known");
    let old = record.state.clone();
    record.slow_down = Duration::ZERO;
    record.next_beat = next.or(record.next_beat);
    record.last_heard = last.or(record.last_heard);
    if let Some(state) = state {
        if let PeerState::Routed { via } = &state {
            record.last_via = Some(via.clone());
        }
        record.state = state;
    }
    let new = record.state.clone();
    core.state.touch();
    (old != new).then_some((old, new))
}

/// The frame of an envelope.
pub(super) fn encode(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = Vec::new();
    envelope
        .encode(envelope.lifetime, &mut bytes)
        .expect("a short message");
    bytes
}

/// What reads the frames of a link that is open.
#[derive(Debug)]
pub(super) struct Reader(Frames);

impl Reader {
    pub(super) fn new(me: &Identity) -> Self {
        let mut frames = Frames::new(me.clone(), 1 << 20);
        let mut welcome = Vec::new();
        encode_shake(&Shake::Welcome { proof: None }, &mut welcome);
        frames.decode(&welcome).expect("it holds together");
        Self(frames)
    }

    /// What one frame says, or what is wrong with it.
    pub(super) fn read(&mut self, frame: &[u8]) -> Result<Envelope, String> {
        match self.0.decode(frame).expect("it holds together") {
            Decoded::Message { message, used } if used == frame.len() => match message {
                Frame::Envelope(envelope) => Ok(envelope),
                Frame::Malformed(problem) => Err(problem),
                Frame::Shake(_) => panic!("the link is open"),
            },
            _ => panic!("it is one frame"),
        }
    }
}
