//! Links, dials and lives of peers.

use super::*;

#[test]
fn a_link_by_itself_makes_no_peer() {
    let mut rig = Rig::usual();
    rig.link_up("A", 1, None);
    assert!(rig.rounds().is_empty());
    assert_eq!(rig.state("A"), None);
}

#[test]
fn of_two_links_that_is_used_which_the_lower_identity_dialed() {
    // This node is node-M: lower than node-Z, higher than node-A.
    for (peer, ours) in [("A", false), ("Z", true)] {
        for first in [true, false] {
            let mut rig = Rig::usual();
            let dial = |own: bool| own.then_some(99);
            let one = rig.link_up(peer, 1, dial(first));
            let two = rig.link_up(peer, 1, dial(!first));
            rig.send(1, message(peer));
            let out = rig.rounds();
            assert!(closed(&out).is_empty());
            let used = if first == ours { one } else { two };
            assert_eq!(written(&out, "echo")[0].0, used, "{peer} {first}");
            rig.down(used);
            rig.send(3, message(peer));
            let other = if used == one { two } else { one };
            assert_eq!(written(&rig.rounds(), "echo")[0].0, other);
        }
    }
}

#[test]
fn a_newer_link_dialed_by_the_same_side_replaces_the_older() {
    let mut rig = Rig::usual();
    let old = rig.neighbour("A");
    let new = rig.link_up("A", 1, None);
    assert_eq!(closed(&rig.take()), [old]);
    // What is still on its way over the old one is taken.
    rig.frame(old, envelope(EnvelopeKind::Request, "echo"));
    assert_eq!(written(&rig.rounds(), "echo")[0].0, new);
    rig.down(old);
    assert_eq!(rig.state("A"), Some(PeerState::Connected));
}

#[test]
fn a_link_of_a_former_life_is_refused() {
    let mut rig = Rig::usual();
    let link = rig.link_up("A", 5, None);
    rig.hello(link);
    rig.rounds();
    let old = rig.link_up("A", 4, None);
    let out = rig.take();
    assert_eq!(closed(&out), [old]);
    assert!(matches!(events(&out)[..], [Event::LinkRefused { with, .. }] if with == "node-A"));
    rig.frame(old, envelope(EnvelopeKind::Request, "echo"));
    assert!(rig.rounds().is_empty());
    assert_eq!(rig.peer("A").unwrap().incarnation, 5);

    let new = rig.link_up("A", 6, None);
    assert_eq!(closed(&rig.take()), [link]);
    rig.frame(link, envelope(EnvelopeKind::Request, "echo"));
    assert!(written(&rig.rounds(), "echo").is_empty());
    rig.frame(new, envelope(EnvelopeKind::Request, "echo"));
    assert_eq!(written(&rig.rounds(), "echo")[0].0, new);
    assert_eq!(rig.peer("A").unwrap().incarnation, 6);
}

#[test]
fn a_node_with_the_same_identity_is_refused() {
    let mut rig = Rig::usual();
    let link = rig.link_up("M", 9, None);
    assert_eq!(closed(&rig.take()), [link]);
    assert_eq!(rig.state("M"), None);
}

#[test]
fn a_peer_whose_link_ends_is_unreachable_at_once_and_dialed_again() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    rig.down(link);
    assert_eq!(rig.state("A"), Some(PeerState::Unreachable));
    let dial = dials(&rig.rounds())[0];
    let reason = "refused".into();
    rig.give(Input::DialFailed { dial, reason });
    assert!(dials(&rig.wait(Duration::from_millis(1_999))).is_empty());
    let dial = dials(&rig.wait(Duration::from_millis(1)))[0];
    rig.give(Input::DialFailed {
        dial,
        reason: "refused".into(),
    });
    let out = rig.wait(secs(2));
    let silent = "4 s after the last sign";
    assert_eq!(rig.state("A"), Some(PeerState::NoConnection), "{silent}");
    let dial = dials(&out)[0];
    let link = rig.link_up("A", 1, Some(dial));
    let out = rig.rounds();
    assert!(!written(&out, "hello").is_empty());
    rig.frame(
        link,
        Envelope {
            kind: EnvelopeKind::Reply,
            ..hello()
        },
    );
    rig.rounds();
    assert_eq!(rig.state("A"), Some(PeerState::Connected));
}

#[test]
fn whatever_comes_from_an_unreachable_peer_brings_it_back() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    rig.wait(Duration::from_millis(2_500));
    assert_eq!(rig.state("A"), Some(PeerState::Unreachable));
    rig.frame(link, envelope(EnvelopeKind::Request, "echo"));
    assert_eq!(rig.state("A"), Some(PeerState::Connected));
}

#[test]
fn who_leaves_is_not_chased_and_comes_back_with_a_hello() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    rig.frame(link, envelope(EnvelopeKind::Bye, "bye"));
    let out = rig.take();
    assert_eq!(closed(&out), [link]);
    assert_eq!(rig.state("A"), Some(PeerState::Left));
    rig.down(link);
    assert!(rig.wait(secs(100)).is_empty());
    assert_eq!(rig.state("A"), Some(PeerState::Left));
    rig.neighbour("A");
}

#[test]
fn a_goodbye_in_the_name_of_another_is_ignored() {
    let mut rig = Rig::usual();
    let (_, other) = (rig.neighbour("A"), rig.neighbour("B"));
    let source = Some(identity("A"));
    rig.frame(
        other,
        Envelope {
            source,
            ..envelope(EnvelopeKind::Bye, "bye")
        },
    );
    rig.rounds();
    assert_eq!(rig.state("A"), Some(PeerState::Connected));
    assert_eq!(rig.state("B"), Some(PeerState::Connected));
}

#[test]
fn messages_wait_for_the_dial_and_end_with_it() {
    let mut rig = Rig::new(
        settings(),
        vec![
            Box::new(Connector::default()),
            Box::new(Probe::new("echo").0),
        ],
    );
    rig.know("A", Some("10.0.0.2:7"));
    let dial = dials(&rig.rounds())[0];
    rig.send(1, message("A"));
    assert!(rig.rounds().is_empty());
    let reason = "refused".into();
    rig.give(Input::DialFailed { dial, reason });
    assert_eq!(rig.state("A"), Some(PeerState::NoConnection));
    assert_eq!(settled(&rig.rounds()), 1);
    let dial = dials(&rig.wait(secs(2)))[0];
    rig.send(3, message("A"));
    let link = rig.link_up("A", 1, Some(dial));
    let out = rig.rounds();
    let commands: Vec<_> = writes(&out)
        .iter()
        .map(|(to, it)| (*to, it.command.as_str()))
        .collect();
    assert_eq!(commands, [(link, "hello"), (link, "echo")]);
}

#[test]
fn a_peer_that_is_forgotten_while_it_is_dialed_is_not_connected() {
    let mut rig = Rig::usual();
    rig.know("A", Some("10.0.0.2:7"));
    let dial = dials(&rig.rounds())[0];
    rig.give(Input::Forget {
        peer: identity("A"),
    });
    let link = rig.link_up("A", 1, Some(dial));
    assert_eq!(closed(&rig.rounds()), [link]);
    assert_eq!(rig.state("A"), None);
}

#[test]
fn whoever_listens_at_a_joined_address_becomes_known_and_the_address_is_tried_until_then() {
    let mut rig = Rig::usual();
    rig.give(Input::Join {
        address: "10.0.0.2:7".into(),
    });
    let dial = dials(&rig.rounds())[0];
    rig.give(Input::DialFailed {
        dial,
        reason: "refused".into(),
    });
    assert!(dials(&rig.wait(Duration::from_millis(1_999))).is_empty());
    let dial = dials(&rig.wait(Duration::from_millis(1)))[0];
    let link = rig.link_up("A", 1, Some(dial));
    let out = rig.rounds();
    assert_eq!(written(&out, "hello")[0].0, link);
    let peer = rig.peer("A").unwrap();
    assert_eq!(peer.address.as_deref(), Some("10.0.0.2:7"));
    assert!(dials(&rig.wait(secs(2))).is_empty());
}

#[test]
fn the_time_of_an_answer_to_a_heart_beat_is_measured() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    let out = rig.wait(secs(1));
    let id = written(&out, "hb")[0].1.id;
    rig.now += Duration::from_millis(7);
    let answer = |id| Envelope {
        id,
        ..envelope(EnvelopeKind::Reply, "hb")
    };
    rig.frame(link, answer(id + 2));
    rig.rounds();
    assert_eq!(
        rig.peer("A").unwrap().round_trip,
        None,
        "that was not asked"
    );
    rig.frame(link, answer(id));
    rig.rounds();
    let round_trip = rig.peer("A").unwrap().round_trip;
    assert_eq!(round_trip, Some(Duration::from_millis(7)));
}

#[test]
fn a_peer_over_a_hop_is_lost_with_the_hop_and_tried_directly_now_and_then() {
    let mut rig = Rig::usual();
    let hop = rig.neighbour("A");
    rig.know("C", Some("10.0.0.3:7"));
    let dial = dials(&rig.rounds())[0];
    rig.give(Input::DialFailed {
        dial,
        reason: "refused".into(),
    });
    let source = Some(identity("C"));
    let beat = Envelope {
        source,
        ..envelope(EnvelopeKind::Request, "hb")
    };
    rig.frame(hop, beat.clone());
    rig.rounds();
    assert_eq!(
        rig.state("C"),
        Some(PeerState::Routed { via: identity("A") })
    );
    for _ in 0..4 {
        rig.now += secs(1);
        rig.frame(hop, beat.clone());
        assert!(dials(&rig.rounds()).is_empty());
    }
    rig.now += secs(1);
    rig.frame(hop, beat);
    assert_eq!(dials(&rig.rounds()).len(), 1);
    rig.send(1, message("C"));
    assert_eq!(
        written(&rig.rounds(), "echo")[0].0,
        hop,
        "not held up by the dial"
    );
    rig.down(hop);
    assert_eq!(rig.state("C"), Some(PeerState::Unreachable));
}

#[test]
fn a_link_that_carries_nothing_is_made_anew_though_its_peer_is_reached_over_others() {
    let mut rig = Rig::usual();
    let (dead, live) = (rig.neighbour("A"), rig.neighbour("B"));
    let routed = PeerState::Routed { via: identity("B") };
    let mut ended = None;
    // Nothing comes over A's link any more. B answers all it is asked, and passes on what is for A, which answers.
    for tenth in 0..200 {
        let out = rig.wait(Duration::from_millis(100));
        for (link, asked) in writes(&out) {
            let about_a = asked.to == Some(identity("A"));
            if link == live && asked.kind == EnvelopeKind::Request {
                let kind = EnvelopeKind::Reply;
                let source = about_a.then(|| identity("A"));
                let to = None;
                let answer = Envelope {
                    kind,
                    source,
                    to,
                    ..asked.clone()
                };
                rig.frame(live, answer);
            }
        }
        if closed(&out).contains(&dead) {
            assert_eq!(dials(&out).len(), 1);
            ended = Some(tenth);
            break;
        }
    }
    // Routed after 1.5 s, beaten for the first time then or a second later, and given up 4 s after that.
    let ended = ended.expect("the dead link is closed");
    assert!((50..75).contains(&ended), "{ended}");
    assert_eq!(rig.state("A"), Some(routed.clone()));
    rig.down(dead);
    rig.rounds();
    assert_eq!(rig.state("A"), Some(routed), "it is still reached");
    let fresh = rig.link_up("A", 1, Some(1));
    rig.hello(fresh);
    rig.rounds();
    assert_eq!(rig.state("A"), Some(PeerState::Connected));
}

#[test]
fn a_link_gets_4_mib_at_most_unless_it_is_one_message() {
    for (mib, count, given) in [(1, 5, 3), (3, 4, 1), (5, 3, 1)] {
        let mut rig = Rig::new(
            Settings {
                max_payload: 6 << 20,
                ..settings()
            },
            vec![Box::new(Probe::new("echo").0)],
        );
        let link = rig.link_up("A", 1, None);
        for id in 0..count {
            let text = "x".repeat(mib << 20);
            let to = identity("A");
            let message = Outgoing::request(&to, "echo", &json!({ "x": text })).unwrap();
            rig.send(2 * id + NUMBER, message);
        }
        let rounds = |rig: &mut Rig| -> usize {
            let given = (0..8).map(|_| writes(&rig.round()).len());
            given.sum()
        };
        assert_eq!(rounds(&mut rig), given, "of {mib} MiB each");
        for _ in given..count as usize {
            rig.written(link, 1);
            assert_eq!(rounds(&mut rig), 1);
        }
    }
}
