//! Those who come by themselves, lie, or come in thousands.

use super::*;

#[test]
fn of_a_thousand_strangers_the_latest_are_known_and_all_are_answered() {
    let mut rig = Rig::usual();
    rig.neighbour("A");
    rig.know("B", Some("10.0.0.9:9"));
    for number in 0..1_000 {
        rig.now += Duration::from_micros(10);
        let link = rig.link_up(&format!("stranger-{number}"), 1, None);
        rig.hello(link);
        let out = rig.rounds();
        let answers = written(&out, "hello").into_iter();
        let answers = answers.filter(|(to, it)| *to == link && it.kind == EnvelopeKind::Reply);
        assert_eq!(answers.count(), 1, "{number}");
    }
    assert!(rig.core.peers(rig.now).len() <= 256 + 1);
    assert!(rig.state("stranger-999").is_some() && rig.state("stranger-0").is_none());
    assert_eq!(rig.state("A"), Some(PeerState::Connected));
    assert!(rig.state("B").is_some(), "who was made known stays");
}

#[test]
fn strangers_that_are_reached_do_not_make_room() {
    let small = Settings {
        max_strangers: 2,
        ..settings()
    };
    let mut rig = Rig::new(small, built_ins());
    rig.neighbour("A");
    rig.neighbour("B");
    let link = rig.link_up("C", 1, None);
    rig.hello(link);
    assert_eq!(
        written(&rig.rounds(), "hello").len(),
        1,
        "answered all the same"
    );
    assert_eq!(rig.state("C"), None);
    rig.know("C", None);
    assert!(rig.state("C").is_some(), "who is made known is no stranger");
    rig.know("A", None);
    rig.frame(link, hello());
    let link = rig.link_up("D", 1, None);
    rig.hello(link);
    rig.rounds();
    assert!(rig.state("D").is_some(), "and A is none any more");
}

#[test]
fn a_known_peer_takes_the_place_of_a_stranger_but_not_of_a_known_one() {
    let small = Settings {
        max_peers: 2,
        ..settings()
    };
    let mut rig = Rig::new(small, built_ins());
    let link = rig.link_up("A", 1, None);
    rig.hello(link);
    rig.rounds();
    rig.know("B", None);
    rig.know("C", None);
    let out = rig.take();
    assert!(events(&out).contains(&&Event::PeerForgotten {
        peer: identity("A")
    }));
    rig.know("D", None);
    assert_eq!((rig.state("A"), rig.state("D")), (None, None));
}

#[test]
fn a_source_is_as_trustworthy_as_the_hop_and_the_hop_is_told() {
    let (probe, told) = Probe::new("echo");
    let mut rig = Rig::new(settings(), vec![Box::new(probe)]);
    let link = rig.link_up("A", 1, None);
    let source = Some(identity("B"));
    rig.frame(
        link,
        Envelope {
            source,
            ..envelope(EnvelopeKind::Request, "echo")
        },
    );
    rig.rounds();
    assert_eq!(told.lock()[0], "request of node-B over node-A");
}

#[test]
fn a_hello_over_a_hop_does_not_change_where_a_peer_listens() {
    let mut rig = Rig::usual();
    let (_, other) = (rig.neighbour("A"), rig.neighbour("B"));
    let payload = Payload::new(&json!({"host": "evil", "port": 1})).unwrap();
    let source = Some(identity("A"));
    rig.frame(
        other,
        Envelope {
            source,
            payload,
            ..hello()
        },
    );
    rig.rounds();
    let peer = rig.peer("A").unwrap();
    assert_eq!(peer.address.as_deref(), Some("10.0.0.2:7"));
    assert_eq!(
        peer.state,
        PeerState::Connected,
        "and the direct way is kept"
    );
}

fn question(target: &str, crumbs: &[&str]) -> Envelope {
    let crumbs: Vec<String> = crumbs.iter().map(|it| identity(it).to_string()).collect();
    let payload = json!({"target": identity(target).as_str(), "breadcrumbs": crumbs});
    let payload = Payload::new(&payload).unwrap();
    Envelope {
        payload,
        ..envelope(EnvelopeKind::Request, "r")
    }
}

fn answer(target: &str, crumbs: &[&str]) -> Envelope {
    Envelope {
        kind: EnvelopeKind::Reply,
        ..question(target, crumbs)
    }
}

#[test]
fn questions_with_forged_or_endless_breadcrumbs_die() {
    let mut rig = Rig::usual();
    let (from, _) = (rig.neighbour("A"), rig.neighbour("B"));
    let long: Vec<String> = (0..16).map(|it| format!("hop{it}")).collect();
    let mut long: Vec<&str> = long.iter().map(String::as_str).collect();
    for crumbs in [&["X"][..], &[], &["M", "A"], &["A", "X"]] {
        rig.frame(from, question("Z", crumbs));
        rig.frame(from, question("B", crumbs));
        assert!(rig.rounds().is_empty(), "{crumbs:?}");
    }
    long[15] = "A";
    rig.frame(from, question("Z", &long));
    assert!(rig.rounds().is_empty(), "16 are not passed on");
    rig.frame(from, question("B", &long));
    assert_eq!(written(&rig.rounds(), "r").len(), 1, "but answered");
    rig.frame(from, question("Z", &long[1..]));
    assert_eq!(written(&rig.rounds(), "r").len(), 1, "15 are passed on");
}

#[test]
fn answers_that_nobody_asked_for_are_not_believed() {
    let mut rig = Rig::usual();
    let (near, other) = (rig.neighbour("A"), rig.neighbour("B"));
    rig.frame(near, answer("Z", &["M"]));
    rig.rounds();
    assert_eq!(rig.state("Z"), None, "no question");
    let exclude = vec![identity("B")];
    rig.look_for("Z", exclude);
    let out = rig.rounds();
    assert_eq!(written(&out, "r").len(), 1);
    rig.frame(near, answer("Z", &["X"]));
    rig.frame(near, answer("Z", &[]));
    rig.frame(
        near,
        Envelope {
            source: Some(identity("C")),
            ..answer("Z", &["M"])
        },
    );
    rig.rounds();
    assert_eq!(
        rig.state("Z"),
        None,
        "not for this node, or not from a neighbour"
    );
    rig.frame(near, answer("Z", &["M"]));
    rig.rounds();
    let via_a = Some(PeerState::Routed { via: identity("A") });
    assert_eq!(rig.state("Z"), via_a);
    rig.frame(other, answer("Z", &["M"]));
    rig.rounds();
    assert_eq!(rig.state("Z"), via_a, "it was answered already");
}

#[test]
fn thousands_of_questions_and_messages_for_unknown_peers_take_bounded_room() {
    let mut rig = Rig::usual();
    let (from, _) = (rig.neighbour("A"), rig.neighbour("B"));
    for number in 0..3_000 {
        let target = format!("target-{number}");
        rig.frame(from, question(&target, &["A"]));
        let to = Some(identity(&target));
        rig.frame(
            from,
            Envelope {
                to,
                ..envelope(EnvelopeKind::Request, "x")
            },
        );
        rig.rounds();
    }
    let state = &rig.core.state;
    assert_eq!(state.held.len(), 512, "half of the room is for others");
    assert_eq!(state.wanted.len(), 512);
    rig.wait(secs(31));
    let state = &rig.core.state;
    assert_eq!((state.held.len(), state.wanted.len()), (0, 0));
}
