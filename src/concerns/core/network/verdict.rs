//! What has to be true of a network when a storm is over.

use std::collections::{BTreeSet, VecDeque};

use super::LIFETIME;
use super::book::{self, Fate, Origin};
use super::schedule::SECOND;
use super::world::World;
use crate::concerns::PeerState;

/// Pairs of live nodes of which the first does not reach the second.
pub(super) fn strangers(world: &World) -> Vec<(usize, usize)> {
    let live = world.live();
    let pairs = live.iter().flat_map(|a| live.iter().map(move |b| (*a, *b)));
    pairs
        .filter(|(a, b)| a != b && !world.reaches(*a, *b))
        .collect()
}

/// Who can be reached from a node over links.
fn linked(world: &World, from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::from([from]);
    let mut line = VecDeque::from([from]);
    while let Some(node) = line.pop_front() {
        for other in world.live() {
            let state = world.state(node, other);
            if state == Some(PeerState::Connected) && seen.insert(other) {
                line.push_back(other);
            }
        }
    }
    seen
}

/// All that live reach all that live.
pub(super) fn assert_joined(world: &World) {
    let live = world.live();
    assert!(2 * live.len() >= world.ways.nodes, "too few live: {live:?}");
    let together = linked(world, live[0]);
    assert_eq!(
        together,
        live.iter().copied().collect(),
        "linked to {}",
        live[0]
    );
    let strangers = strangers(world);
    let state = |(a, b): &(usize, usize)| format!("{a} of {b}: {:?}", world.state(*a, *b));
    let told: Vec<String> = strangers.iter().take(10).map(state).collect();
    assert!(
        strangers.is_empty(),
        "{} do not reach: {told:#?}",
        strangers.len()
    );
    for node in &live {
        for dead in (0..world.ways.nodes).filter(|node| !world.is_live(*node)) {
            assert!(
                !world.reaches(*node, dead),
                "{node} thinks that it reaches {dead}"
            );
        }
    }
}

/// The way from a node to another, as those on it see it.
fn way(world: &World, mut from: usize, to: usize) -> String {
    let mut way = format!("{from}");
    for _ in 0..10 {
        let state = world.state(from, to);
        way += &format!(" ({state:?})");
        match state {
            Some(PeerState::Routed { via }) => from = book::place(&via),
            _ => break,
        }
        way += &format!(" > {from}");
    }
    way
}

/// In calm weather every message arrives, and every request is answered.
pub(super) fn assert_all_arrives(world: &mut World) {
    let live = world.live();
    let mut numbers = Vec::new();
    for node in &live {
        for _ in 0..5 {
            let to = *world.dice.pick(&live).expect("some live");
            let answer = world.dice.says(500);
            numbers.extend(world.send(*node, to, answer, LIFETIME));
        }
    }
    world.run(2 * SECOND);
    assert_delivered(world, &numbers);
}

pub(super) fn assert_delivered(world: &World, numbers: &[u64]) {
    for number in numbers {
        let fate = world.book.pages().fate(*number).clone();
        let way = way(world, fate.by.0, fate.to);
        assert_eq!(fate.delivered, 1, "{number}: {fate:?}, {way}");
    }
}

/// Nothing happened to a message that may not happen, and all that has to has happened, once.
pub(super) fn assert_fates(world: &mut World) {
    // All lifetimes are over then.
    world.run(LIFETIME + 2 * SECOND);
    let unsettled = world.unsettled();
    let book = world.book.clone();
    let pages = book.pages();
    let tell = |number: &u64| format!("{number}: {:?}", pages.fates[number]);
    let told: Vec<String> = unsettled.iter().map(tell).collect();
    assert!(unsettled.is_empty(), "not settled: {told:#?}");
    for (number, fate) in &pages.fates {
        check_fate(*number, fate, world.lives(fate.by));
    }
    assert!(
        pages.fates.len() > world.ways.nodes,
        "hardly anything was sent"
    );
}

fn check_fate(number: u64, fate: &Fate, lives: bool) {
    let Fate {
        delivered,
        ref told,
        answered,
        settled,
        undeliverable,
        ..
    } = *fate;
    let tell = || format!("{number}: {fate:?}");
    assert!(delivered <= 1, "delivered twice: {}", tell());
    assert!(
        told.len() <= 1 && answered <= 1 && settled <= 1,
        "told twice: {}",
        tell()
    );
    assert!(undeliverable <= 1, "reported twice: {}", tell());
    match fate.from {
        Origin::Concern => {
            assert_eq!((answered, settled), (0, 0), "{}", tell());
            assert!(told.len() == 1 || !lives, "nothing was told: {}", tell());
        }
        Origin::Program => assert_eq!(answered, 0, "{}", tell()),
        Origin::Caller => assert!(answered == 1 || !lives, "not answered: {}", tell()),
    }
}
