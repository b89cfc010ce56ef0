//! What happens to a network: a storm, what comes after it, and single deeds of chance.

use proptest::prelude::*;

use super::LIFETIME;
use super::schedule::{MILLISECOND, SECOND};
use super::verdict::strangers;
use super::wire::{CALM, STORM};
use super::world::World;

/// Everything that can go wrong for a network, for some seconds.
pub(super) fn storm(world: &mut World, seconds: u64) {
    let nodes = world.ways.nodes as u64;
    world.weather = STORM;
    let tenths = seconds * 10;
    for tenth in 0..tenths {
        if tenth == tenths / 3 {
            world.cut(2);
        }
        if tenth == tenths / 3 * 2 {
            world.heal();
        }
        // As often as makes every node suffer once or twice, however many there are.
        for _ in 0..nodes.div_ceil(25) {
            let node = some_node(world);
            match world.dice.below(12) {
                0 => world.kill(node),
                1 => world.leave(node),
                2..=4 => world.start(node),
                5..=7 => world.break_any(),
                8 => {
                    let span = world.dice.between(100 * MILLISECOND, 4 * SECOND);
                    world.hold_up(node, span);
                }
                9 => {
                    let peer = some_node(world);
                    world.forget(node, peer);
                }
                10 => {
                    let peer = some_node(world);
                    world.find(node, peer);
                }
                _ => {}
            }
        }
        traffic(world);
        world.run(100 * MILLISECOND);
    }
}

fn some_node(world: &mut World) -> usize {
    let nodes = world.ways.nodes as u64;
    usize::try_from(world.dice.below(nodes)).expect("there are not many")
}

/// Programs send something, some of them a lot.
fn traffic(world: &mut World) {
    for _ in 0..world.ways.nodes.div_ceil(5) {
        let (from, to) = (some_node(world), some_node(world));
        let flood = if world.dice.says(10) { 50 } else { 1 };
        for _ in 0..flood {
            let answer = world.dice.says(500);
            let lifetime = world.dice.between(100 * MILLISECOND, LIFETIME);
            world.send(from, to, answer, lifetime);
        }
    }
}

/// When the storm is over most are started again, and whoever has forgotten whom it should know is told.
pub(super) fn recover(world: &mut World) {
    world.heal();
    world.weather = CALM;
    world.run(5 * SECOND);
    for node in 0..world.ways.nodes {
        if node < 2 || world.dice.says(900) {
            world.start(node);
        }
    }
    for node in 0..world.ways.nodes {
        world.introduce(node);
    }
}

/// Lets the network settle. Where nobody knows an address, somebody asks. Gives the numbers of the messages
/// that had to wait until a way was found.
pub(super) fn settle(world: &mut World, seconds: u64) -> Vec<u64> {
    let mut waited = Vec::new();
    world.run(seconds * SECOND);
    for second in 0..20 {
        let strangers = strangers(world);
        if strangers.is_empty() {
            break;
        }
        // No more often than the question may be repeated.
        if second % 6 == 0 {
            for (place, (node, peer)) in strangers.into_iter().enumerate() {
                if place % 2 == 0 {
                    world.find(node, peer);
                } else {
                    waited.extend(world.send(node, peer, false, 3 * LIFETIME));
                }
            }
        }
        world.run(SECOND);
    }
    waited
}

/// Something that happens to a small network.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Start(usize),
    Kill(usize),
    Leave(usize),
    HoldUp(usize, u64),
    Break,
    Cut,
    Heal,
    Storm,
    Calm,
    Forget(usize, usize),
    Find(usize, usize),
    Send(usize, usize, bool, u64),
    Wait(u64),
}

pub(super) fn deed() -> impl Strategy<Value = Deed> {
    let node = || 0..5_usize;
    prop_oneof![
        2 => node().prop_map(Deed::Start),
        1 => node().prop_map(Deed::Kill),
        1 => node().prop_map(Deed::Leave),
        1 => (node(), 1..4000_u64).prop_map(|(node, span)| Deed::HoldUp(node, span)),
        2 => Just(Deed::Break),
        1 => Just(Deed::Cut),
        1 => Just(Deed::Heal),
        1 => Just(Deed::Storm),
        1 => Just(Deed::Calm),
        1 => (node(), node()).prop_map(|(node, peer)| Deed::Forget(node, peer)),
        1 => (node(), node()).prop_map(|(node, peer)| Deed::Find(node, peer)),
        4 => (node(), node(), any::<bool>(), 0..8000_u64)
            .prop_map(|(node, to, answer, lifetime)| Deed::Send(node, to, answer, lifetime)),
        4 => (0..6000_u64).prop_map(Deed::Wait),
    ]
}

pub(super) fn do_it(world: &mut World, deed: &Deed) {
    let nodes = world.ways.nodes;
    match *deed {
        Deed::Start(node) => world.start(node % nodes),
        Deed::Kill(node) => world.kill(node % nodes),
        Deed::Leave(node) => world.leave(node % nodes),
        Deed::HoldUp(node, span) => world.hold_up(node % nodes, span * MILLISECOND),
        Deed::Break => world.break_any(),
        Deed::Cut => world.cut(2),
        Deed::Heal => world.heal(),
        Deed::Storm => world.weather = STORM,
        Deed::Calm => world.weather = CALM,
        Deed::Forget(node, peer) => world.forget(node % nodes, peer % nodes),
        Deed::Find(node, peer) => world.find(node % nodes, peer % nodes),
        Deed::Send(node, to, answer, lifetime) => {
            world.send(node % nodes, to % nodes, answer, lifetime * MILLISECOND);
        }
        Deed::Wait(span) => world.run(span * MILLISECOND),
    }
}
