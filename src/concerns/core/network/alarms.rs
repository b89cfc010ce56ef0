//! False alarms, and what prevents them: each test shows that it does, and that without it there is one.

use std::time::Duration;

use super::book::{identity, place};
use super::inside;
use super::schedule::{MILLISECOND, SECOND};
use super::wire::CALM;
use super::world::{Ways, World};
use crate::concerns::PeerState;
use crate::concerns::timing::Timing;

/// A few nodes, each connected with all others.
fn friends(nodes: usize, timing: Timing) -> World {
    let ways = Ways {
        nodes,
        timing,
        exchange: false,
        knows: (1..nodes).collect(),
        chatter: 0,
    };
    let mut world = World::new(ways, 5);
    world.weather = CALM;
    for node in 0..nodes {
        world.start(node);
    }
    world.run(3 * SECOND);
    for a in 0..nodes {
        for b in (0..nodes).filter(|b| *b != a) {
            assert_eq!(world.state(a, b), Some(PeerState::Connected), "{a} of {b}");
        }
    }
    world.history.clear();
    world
}

/// The states that `node` has told of `peer`.
fn told(world: &World, node: usize, peer: usize) -> Vec<PeerState> {
    let told = world.history.iter();
    let told = told.filter(|(_, life, other, _)| (life.0, *other) == (node, peer));
    told.map(|(.., state)| state.clone()).collect()
}

/// Whether `node` has thought that one of the others was silent for too long.
fn alarmed(world: &World, node: usize, state: &PeerState) -> bool {
    let mut told = world.history.iter();
    told.any(|(_, life, _, new)| life.0 == node && new == state)
}

fn plain() -> Timing {
    Timing {
        probe: None,
        helpers: 0,
        doubt: 1,
        ..Timing::lan()
    }
}

#[test]
fn who_is_held_up_for_a_short_while_is_suspected_and_not_given_up() {
    for (unreachable, given_up) in [(2500, false), (4000, true)] {
        // Without suspicion the one limit there is gives a peer up.
        let mut world = friends(
            2,
            Timing {
                unreachable: Duration::from_millis(unreachable),
                no_connection: Duration::from_millis(if given_up { 2500 } else { 4000 }),
                ..plain()
            },
        );
        world.hold_up(1, 2800 * MILLISECOND);
        let number = world.send(0, 1, true, 5 * SECOND).unwrap();
        world.run(6 * SECOND);
        let states = told(&world, 0, 1);
        assert_eq!(
            states.contains(&PeerState::NoConnection),
            given_up,
            "{states:?}"
        );
        let delivered = world.book.pages().fate(number).delivered;
        let lost = world.lost(number);
        assert_eq!((delivered, lost), (1, given_up), "{states:?}");
        assert!(world.reaches(0, 1), "{states:?}");
        if !given_up {
            assert_eq!(states, [PeerState::Unreachable, PeerState::Connected]);
        }
    }
}

#[test]
fn who_cannot_be_heard_directly_is_heard_over_others() {
    for (helpers, suspected) in [(3, false), (0, true)] {
        let mut world = friends(
            4,
            Timing {
                helpers,
                probe: (helpers > 0).then_some(Duration::from_millis(1500)),
                ..plain()
            },
        );
        world.part(0, 1);
        world.run(10 * SECOND);
        for (node, peer) in [(0, 1), (1, 0)] {
            let states = told(&world, node, peer);
            let alarm = |state: &PeerState| {
                matches!(state, PeerState::Unreachable | PeerState::NoConnection)
            };
            assert_eq!(
                states.iter().any(alarm),
                suspected,
                "{node} of {peer}: {states:?}"
            );
            if !suspected {
                let state = world.state(node, peer);
                let Some(PeerState::Routed { via }) = state else {
                    panic!("{node} of {peer}: {states:?}");
                };
                assert!([2, 3].contains(&place(&via)));
            }
        }
        if !suspected {
            // What is sent goes over the helper too.
            let number = world.send(0, 1, false, SECOND).unwrap();
            world.run(SECOND);
            assert_eq!(world.book.pages().fate(number).delivered, 1);
        }
        world.heal();
        world.run(10 * SECOND);
        assert_eq!(
            world.state(0, 1),
            Some(PeerState::Connected),
            "heard directly again"
        );
    }
}

#[test]
fn only_those_who_were_asked_are_believed_that_a_peer_lives() {
    // Node 2 says all the time that it hears node 1.
    for (helpers, breadcrumb, believed) in [(1, 0, true), (1, 2, false), (0, 0, false)] {
        let mut world = friends(
            3,
            Timing {
                helpers,
                doubt: 1,
                ..Timing::lan()
            },
        );
        world.part(0, 1);
        world.hold_up(1, 60 * SECOND);
        let (target, crumb) = (identity(1), identity(breadcrumb));
        let claim = serde_json::json!({
            "target": target.as_str(), "breadcrumbs": [crumb.as_str()], "probe": true,
        });
        for _ in 0..25 {
            world.forge(2, 0, inside::reply("r", &claim));
            world.run(200 * MILLISECOND);
        }
        let states = told(&world, 0, 1);
        let over = PeerState::Routed { via: identity(2) };
        assert_eq!(states.contains(&over), believed, "{states:?}");
        // It is believed once, not for ever.
        assert!(states.contains(&PeerState::Unreachable), "{states:?}");
    }
}

#[test]
fn a_dead_peer_is_noticed_in_spite_of_helpers_and_doubt() {
    let mut world = friends(4, Timing::lan());
    // Its host is gone: nobody closes its connections.
    world.isolate(3);
    world.run(5 * SECOND);
    for node in 0..3 {
        let state = world.state(node, 3);
        assert_eq!(state, Some(PeerState::NoConnection), "{node}");
        for other in (0..3).filter(|other| *other != node) {
            let states = told(&world, node, other);
            assert!(states.is_empty(), "{node} of {other}: {states:?}");
        }
    }
}

#[test]
fn a_node_that_was_held_up_itself_blames_nobody() {
    for (doubt, alarm) in [(Timing::lan().doubt, false), (1, true)] {
        let mut world = friends(4, Timing { doubt, ..plain() });
        // Not so long that the others give it up, and hang up.
        world.hold_up(0, 2900 * MILLISECOND);
        world.run(3400 * MILLISECOND);
        let states: Vec<_> = (1..4).map(|peer| told(&world, 0, peer)).collect();
        let seen = alarmed(&world, 0, &PeerState::Unreachable)
            || alarmed(&world, 0, &PeerState::NoConnection);
        assert_eq!(seen, alarm, "doubt {doubt}: {states:?}");
    }
}

#[test]
fn a_node_that_hears_nobody_doubts_itself_before_it_gives_all_of_them_up() {
    for (doubt, given_up) in [(Timing::lan().doubt, false), (1, true)] {
        let mut world = friends(
            5,
            Timing {
                doubt,
                ..Timing::lan()
            },
        );
        world.isolate(0);
        world.run(5 * SECOND);
        world.heal();
        world.run(4 * SECOND);
        let states: Vec<_> = (1..5).map(|peer| told(&world, 0, peer)).collect();
        let seen = alarmed(&world, 0, &PeerState::NoConnection);
        assert_eq!(seen, given_up, "doubt {doubt}: {states:?}");
        for peer in 1..5 {
            assert!(world.reaches(0, peer), "{:?}", states[peer - 1]);
        }
        // It has got over it: the next that dies is noticed as fast as ever.
        world.isolate(1);
        world.run(5 * SECOND);
        assert_eq!(world.state(0, 1), Some(PeerState::NoConnection));
    }
}

#[test]
fn helpers_that_are_silent_themselves_are_a_reason_to_doubt() {
    for (doubt, alarm) in [(Timing::lan().doubt, false), (1, true)] {
        // Of two peers neither is heard: the one that is asked does not answer.
        let mut world = friends(
            3,
            Timing {
                doubt,
                helpers: 1,
                ..Timing::lan()
            },
        );
        world.deafen(0, 1);
        world.deafen(0, 2);
        world.run(3 * SECOND);
        let seen = alarmed(&world, 0, &PeerState::Unreachable);
        assert_eq!(seen, alarm, "doubt {doubt}: {:?}", world.history);
    }
}

#[test]
fn when_all_are_really_gone_that_is_believed_in_spite_of_doubt() {
    let mut world = friends(4, Timing::lan());
    for peer in 1..4 {
        world.hold_up(peer, 60 * SECOND);
    }
    world.run(13 * SECOND);
    for peer in 1..4 {
        let states = told(&world, 0, peer);
        assert!(states.contains(&PeerState::NoConnection), "{states:?}");
    }
}
