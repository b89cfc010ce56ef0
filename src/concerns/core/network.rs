//! Whole networks in memory, on a virtual clock: a storm, then calm, then the books are opened.
//!
//! In the storm frames get lost, connections stall, break and are cut, and nodes are held up, killed, started anew
//! and leave. When it is over, everybody who lives has to find everybody else, and of every message there has
//! to be known what became of it, once. A failure tells its seed: `INTERPLAY_SEED` plays that storm alone, and
//! `INTERPLAY_STORMS` says how many each test plays.

mod alarms;
mod book;
mod dice;
mod inside;
mod schedule;
mod seat;
mod storm;
mod verdict;
mod wire;
mod world;

use std::ops::Range;

use proptest::prelude::*;

use schedule::{MILLISECOND, SECOND};
use storm::{deed, do_it, recover, settle, storm};
use verdict::{assert_all_arrives, assert_delivered, assert_fates, assert_joined};
use world::{Ways, World};

use crate::concerns::PeerState;
use crate::concerns::timing::Timing;

/// How long a message of these tests may be on its way.
const LIFETIME: u64 = 4 * SECOND;

fn ways(nodes: usize, exchange: bool) -> Ways {
    Ways {
        nodes,
        timing: Timing::lan(),
        exchange,
        // A ring with chords.
        knows: vec![1, 7, 20],
        chatter: 20,
    }
}

/// A small network; which, the seed says.
fn small(seed: u64) -> Ways {
    let nodes = 2 + seed % 15;
    let nodes = usize::try_from(nodes).expect("there are not many");
    ways(nodes, seed % 4 == 3)
}

/// The seeds to use: as many as usual from the first on, unless something else is wanted.
fn seeds(first: u64, usual: u64) -> Range<u64> {
    let wanted = |name| {
        let wanted = std::env::var(name).ok()?;
        Some(wanted.parse().expect("it is a number"))
    };
    match wanted("INTERPLAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + wanted("INTERPLAY_STORMS").unwrap_or(usual),
    }
}

/// A storm, and what has to be true after it. Gives the world, for more.
fn weather(ways: Ways, seed: u64) -> World {
    eprintln!("INTERPLAY_SEED={seed}");
    let mut world = World::new(ways, seed);
    for node in 0..world.ways.nodes {
        world.start(node);
        let pause = world.dice.below(40 * MILLISECOND);
        world.run(pause);
    }
    storm(&mut world, 12);
    check(&mut world);
    eprintln!("{} frames; at most {:?}", world.frames, world.most);
    world
}

/// What has to be true when a storm is over.
fn check(world: &mut World) {
    recover(world);
    let waited = settle(world, 10);
    assert_joined(world);
    assert_all_arrives(world);
    assert_delivered(world, &waited);
    assert_fates(world);
}

#[test]
fn fifty_nodes_that_know_some_others_find_all_of_them_after_a_storm() {
    for seed in seeds(1, 1) {
        weather(ways(50, false), seed);
    }
}

#[test]
fn thirty_nodes_that_tell_each_other_of_their_peers_are_all_connected_after_a_storm() {
    for seed in seeds(2, 1) {
        let world = weather(ways(30, true), seed);
        for a in world.live() {
            for b in world.live().into_iter().filter(|b| *b != a) {
                let state = world.state(a, b);
                assert_eq!(state, Some(PeerState::Connected), "{a} of {b}");
            }
        }
    }
}

#[test]
fn networks_of_all_sizes_outlive_many_storms() {
    for seed in seeds(100, 8) {
        weather(small(seed), seed);
    }
}

#[test]
#[ignore = "takes minutes"]
fn networks_outlive_hundreds_of_storms() {
    for seed in seeds(1000, 400) {
        weather(small(seed), seed);
    }
    for seed in seeds(2000, 20) {
        weather(ways(50, false), seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| weather(ways(6, true), seed).fingerprint();
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_few_nodes_outlive_whatever_happens(
        nodes in 2..=5_usize,
        exchange in any::<bool>(),
        seed in any::<u64>(),
        deeds in prop::collection::vec(deed(), 1..40),
    ) {
        let mut world = World::new(ways(nodes, exchange), seed);
        for node in 0..nodes {
            world.start(node);
        }
        for deed in &deeds {
            do_it(&mut world, deed);
        }
        for node in 0..nodes {
            world.start(node);
        }
        check(&mut world);
    }
}

#[test]
fn nodes_that_know_one_each_are_all_connected_if_they_tell_each_other() {
    for (exchange, connected) in [(false, 10), (true, 20)] {
        let mut ring = ways(5, exchange);
        ring.knows = vec![1];
        ring.chatter = 0;
        let mut world = World::new(ring, 9);
        (0..5).for_each(|node| world.start(node));
        world.run(65 * SECOND);
        let pairs = (0..5).flat_map(|a| (0..5).map(move |b| (a, b)));
        let states = pairs.filter_map(|(a, b)| world.state(a, b));
        let links = states.filter(|state| *state == PeerState::Connected);
        assert_eq!(links.count(), connected);
    }
}

#[test]
fn of_peers_that_nobody_asked_for_nothing_is_believed() {
    let mut world = World::new(ways(2, true), 9);
    (0..2).for_each(|node| world.start(node));
    world.run(3 * SECOND);
    let peers = serde_json::json!({"peers": [{"identity": "node-05", "address": "nowhere:1"}]});
    let forged = inside::reply("peers", &peers);
    world.forge(1, 0, forged);
    world.run(SECOND);
    assert_eq!(world.state(0, 1), Some(PeerState::Connected));
    assert_eq!(world.state(0, 5), None);
}
