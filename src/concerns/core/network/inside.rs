//! What the tests of networks need to know of a core from within.

use std::time::{Duration, Instant};

use super::super::Core;
use super::super::links::WINDOW;
use crate::concerns::ask_around::AskAround;
use crate::concerns::connector::Connector;
use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::exchange::Exchange;
use crate::concerns::heart_beat::HeartBeat;
use crate::concerns::{Concern, Identity, Payload, Peer, Priority};

/// The library's own concerns.
pub(super) fn built_ins(exchange: bool) -> Vec<Box<dyn Concern>> {
    let mut concerns: Vec<Box<dyn Concern>> = vec![
        Box::new(Connector::default()),
        Box::new(HeartBeat::default()),
        Box::new(AskAround::default()),
    ];
    if exchange {
        concerns.push(Box::new(Exchange::default()));
    }
    concerns
}

/// What a core knows of a peer. It can tell of all of them only, which takes its time.
pub(super) fn peer(core: &Core, peer: &Identity, now: Instant) -> Option<Peer> {
    let record = core.state.peers.get(peer)?;
    Some(record.snapshot(now))
}

/// A reply that nobody has asked for.
pub(super) fn reply(command: &str, payload: &serde_json::Value) -> Envelope {
    Envelope {
        kind: EnvelopeKind::Reply,
        hops: 8,
        priority: Priority::Fast,
        id: 1,
        lifetime: Duration::from_secs(9),
        source: None,
        to: None,
        command: command.try_into().expect("it is short"),
        payload: Payload::new(payload).expect("it is an object"),
    }
}

/// How much there is of everything a core keeps, and how much there may be.
pub(super) fn sizes(core: &Core) -> Vec<(&'static str, usize, usize)> {
    let (state, settings) = (&core.state, &core.state.settings);
    let peers = settings.max_peers;
    // The node's own messages (heart beats, questions and their answers) are not counted against the limits of
    // the queue, but there is only so much to say to each peer.
    let own = 8 * peers;
    let unwritten = state.links.unwritten();
    vec![
        ("peers", state.peers.len(), peers),
        ("strangers", state.peers.strangers(), settings.max_strangers),
        ("links", state.links.len(), 4 * peers),
        ("messages at one link", unwritten, WINDOW.count + 1),
        ("dials", state.dials.len(), 2 * peers),
        ("joins", state.joins.len(), 0),
        (
            "messages that wait",
            state.queue.len(),
            settings.max_queued_all + own,
        ),
        ("messages held", state.held.len(), settings.max_held),
        ("peers wanted", state.wanted.len(), settings.max_held),
        (
            "messages to try again",
            state.retries.load().count,
            settings.max_queued_all,
        ),
        ("messages to handle", state.inbox.load().count, 4096),
        ("requests open", state.pending.len(), 2048),
        ("fates to tell", state.fates.len(), 0),
        ("outputs", state.outputs.len(), 0),
    ]
}
