//! Messages over hops: between nodes that only dial, the way is over those in the middle.

use std::time::Instant;

use interplay::concerns::{Event, PeerState, Reason, RequestError};
use serde_json::{Value, json};

use crate::rig::{Spy, Watched, asks, dialing, echo, id, listening, patient, request};
use crate::support::{LIMIT, deadline, eventually, ms};

fn via(hop: &str) -> PeerState {
    PeerState::Routed { via: id(hop) }
}

#[test]
fn those_who_cannot_dial_each_other_talk_over_the_one_in_the_middle() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("echo");
        let middle = Watched::start(listening("middle").timing(patient()));
        let alice = dialing("alice").timing(patient()).join(middle.at());
        let alice = Watched::start(alice.concern(echo()));
        let robert = dialing("robert").timing(patient()).join(middle.at());
        let robert = Watched::start(robert.concern(spy));
        let question = json!({"n": 1});
        let reply = alice.request("robert", "echo", &question, LIMIT).unwrap();
        assert_eq!(reply.read::<Value>().unwrap(), question);
        assert_eq!(
            (reply.source().as_str(), reply.previous_hop().as_str()),
            ("robert", "middle")
        );
        assert_eq!(calls.next("request").what, question);
        alice.becomes("robert", &via("middle"));
        asks(&robert, "alice");
        robert.becomes("alice", &via("middle"));
        // The middle has seen none of it.
        assert!(
            !middle
                .told()
                .iter()
                .any(|event| matches!(event, Event::UnknownCommand { .. }))
        );
    });
}

#[test]
fn a_message_goes_over_several_hops_and_the_answers_come_back() {
    deadline(LIMIT, || {
        let mut last = Watched::start(listening("hop-0").timing(patient()).concern(echo()));
        let mut line = Vec::new();
        for number in 1..5 {
            let next = listening(&format!("hop-{number}"))
                .timing(patient())
                .concern(echo());
            let next = Watched::start(next.join(last.at()));
            next.connects(last.identity().as_str());
            line.push(std::mem::replace(&mut last, next));
        }
        line.push(last);
        asks(&line[4], "hop-0");
        asks(&line[0], "hop-4");
        asks(&line[1], "hop-3");
    });
}

#[test]
fn a_hop_that_was_named_is_taken() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let middle = Watched::start(listening("middle").timing(patient()));
        let robert = listening("robert").timing(patient()).join(middle.at());
        let robert = Watched::start(robert.concern(spy.request(|_, _| Ok(None))));
        let (own, own_calls) = Spy::new("note");
        let alice = dialing("alice")
            .timing(patient())
            .join(middle.at())
            .join(robert.at());
        let alice = Watched::start(alice.concern(own));
        for other in ["middle", "robert"] {
            alice.connects(other);
        }
        robert.connects("middle");
        middle.connects("robert");
        alice
            .send(request("robert", "note").over(&id("middle")))
            .unwrap();
        calls.next("request");
        assert_eq!(own_calls.next("sent").what["hop"], "middle");
        assert_eq!(
            alice.state("robert"),
            Some(PeerState::Connected),
            "no step back"
        );
    });
}

#[test]
fn a_default_route_takes_what_has_no_other_way() {
    deadline(LIMIT, || {
        let middle = Watched::start(listening("middle").timing(patient()));
        let robert = dialing("robert").timing(patient()).join(middle.at());
        let _robert = Watched::start(robert.concern(echo()));
        middle.connects("robert");
        let alice = dialing("alice").timing(patient()).join(middle.at());
        let alice = alice.ask_around(false).default_route("middle");
        let alice = Watched::start(alice);
        alice.connects("middle");
        asks(&alice, "robert");
    });
}

#[test]
fn a_message_that_a_hop_gives_up_is_told_to_its_sender() {
    deadline(LIMIT, || {
        let middle = Watched::start(listening("middle").timing(patient()).ask_around(false));
        let alice = dialing("alice").timing(patient()).join(middle.at());
        let alice = alice.ask_around(false).default_route("middle");
        let alice = Watched::start(alice);
        alice.connects("middle");
        let start = Instant::now();
        match alice.request("nobody", "echo", &json!({}), LIMIT * 10) {
            Err(RequestError::NotSent(reason)) => {
                assert!(
                    matches!(reason, Reason::NoPath | Reason::Unknown),
                    "{reason:?}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < LIMIT);
        middle.hears(|event| match event {
            Event::Undeliverable { source, to, .. } => {
                assert_eq!((source.as_str(), to.as_str()), ("alice", "nobody"));
                Some(())
            }
            _ => None,
        });
    });
}

#[test]
fn a_message_takes_no_more_hops_than_it_may() {
    deadline(LIMIT, || {
        // Each of them takes the next for the one who knows: a circle.
        let names = ["one-1", "two-2", "three-3"];
        let node = |number: usize| {
            let node = listening(names[number]).timing(patient()).ask_around(false);
            node.default_route(names[(number + 1) % 3])
        };
        let one = Watched::start(node(0));
        let two = Watched::start(node(1).join(one.at()));
        let three = Watched::start(node(2).join(one.at()).join(two.at()));
        let circle = [one, two, three];
        for (number, node) in circle.iter().enumerate() {
            node.connects(names[(number + 1) % 3]);
        }
        let alice = dialing("alice").timing(patient()).ask_around(false);
        let alice = Watched::start(alice.default_route("one-1").join(circle[0].at()));
        alice.connects("one-1");
        // Whoever gave it up says that, but not why.
        let end = alice.request("nobody", "echo", &json!({}), LIMIT * 10);
        assert!(matches!(end, Err(RequestError::NotSent(_))), "{end:?}");
        let given_up = |event: &Event| match event {
            Event::Undeliverable { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let told = circle.iter().flat_map(|node| node.told());
        let reasons: Vec<_> = told.filter_map(|event| given_up(&event)).collect();
        assert!(reasons.contains(&Reason::TooManyHops), "{reasons:?}");
    });
}

#[test]
fn when_the_middle_goes_another_way_is_found() {
    deadline(LIMIT, || {
        let mut timing = patient();
        timing.ask = ms(200);
        timing.heart_beat = ms(100);
        timing.longest_gap = ms(100);
        timing.unreachable = ms(5_000);
        timing.no_connection = ms(8_000);
        let node = |name: &str| listening(name).timing(timing.clone());
        let mut middles = vec![Watched::start(node("left")), Watched::start(node("right"))];
        let dials = |name: &str| {
            let node = dialing(name).timing(timing.clone()).concern(echo());
            let node = node.join(middles[0].at()).join(middles[1].at());
            Watched::start(node)
        };
        let (alice, robert) = (dials("alice"), dials("robert"));
        for node in [&alice, &robert] {
            node.connects("left");
            node.connects("right");
        }
        asks(&alice, "robert");
        let state = alice.state("robert").unwrap();
        let PeerState::Routed { via } = state else {
            panic!("{state:?}")
        };
        let gone = middles.iter().position(|hop| *hop.identity() == via);
        drop(middles.remove(gone.unwrap()));
        let question = || alice.request("robert", "echo", &json!({}), ms(2_000));
        eventually(LIMIT, || question().is_ok());
        drop(robert);
    });
}
