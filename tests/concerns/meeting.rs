//! How nodes meet, and why some do not start.

use std::net::TcpListener;

use interplay::concerns::{Error, Event, Node, PeerState};

use crate::rig::{Spy, Watched, asks, dialing, echo, id, listening, pair, patient, request};
use crate::support::{LIMIT, deadline, eventually, ms, pause};

/// An address at which nobody listens any more.
pub(crate) fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn two_nodes_meet_and_each_knows_who_the_other_is() {
    deadline(LIMIT, || {
        let (alice, robert) = pair(
            listening("alice").timing(patient()),
            listening("robert").timing(patient()),
        );
        for (node, other) in [(&alice, &robert), (&robert, &alice)] {
            let peers = node.peers();
            assert_eq!(peers.len(), 1, "{peers:?}");
            assert_eq!(&peers[0].identity, other.identity());
            assert_eq!(peers[0].state, PeerState::Connected);
            assert_eq!(peers[0].address.as_deref(), other.address());
            assert!(peers[0].incarnation > 0);
            assert!(peers[0].silent.is_some());
            // Once connected it stays so: an answer to a hello is no news (con-02).
            node.saw(other.identity().as_str(), &PeerState::Connected);
        }
        eventually(LIMIT, || {
            let peers = [alice.peers(), robert.peers()].concat();
            // The one that asks first keeps the other quiet.
            peers.iter().any(|peer| peer.round_trip.is_some())
        });
        for (node, other) in [(&alice, "robert"), (&robert, "alice")] {
            let states = node.states(other);
            let connected = states.iter().position(|s| *s == PeerState::Connected);
            assert_eq!(connected, Some(states.len() - 1), "{states:?}");
        }
    });
}

#[test]
fn a_node_that_only_dials_can_be_asked_too() {
    deadline(LIMIT, || {
        let hub = listening("alice").concern(echo());
        let (hub, guest) = pair(hub, dialing("robert").concern(echo()));
        assert_eq!(guest.address(), None);
        asks(&hub, "robert");
        asks(&guest, "alice");
        assert_eq!(hub.peers()[0].address, None);
    });
}

#[test]
fn a_peer_is_reached_by_its_identity_and_address() {
    deadline(LIMIT, || {
        let alice = Watched::start(listening("alice"));
        let robert = Watched::start(listening("robert"));
        alice.know("robert", &robert.at()).unwrap();
        alice.connects("robert");
        robert.connects("alice");
    });
}

#[test]
fn a_request_waits_for_a_peer_that_comes_later() {
    deadline(LIMIT, || {
        let hub = Watched::start(listening("alice").timing(patient()));
        let address = hub.at();
        let asked = crate::support::spawn("asks", move || {
            asks(&hub, "robert");
            hub
        });
        let _robert = Watched::start(dialing("robert").concern(echo()).join(address));
        asked.join().unwrap();
    });
}

#[test]
fn those_who_join_one_hub_come_to_see_each_other() {
    deadline(LIMIT, || {
        let names = ["hub-1", "alice", "robert", "carol", "dave"];
        let hub = Watched::start(listening("hub-1").exchange(true));
        let mut nodes = vec![hub];
        for name in &names[1..] {
            let node = listening(name).exchange(true).concern(echo());
            nodes.push(Watched::start(node.join(nodes[0].at())));
        }
        for node in &nodes {
            for name in names.iter().filter(|name| *node.identity() != **name) {
                node.connects(name);
            }
        }
        for node in &nodes[1..] {
            asks(
                node,
                if *node.identity() == "alice" {
                    "dave"
                } else {
                    "alice"
                },
            );
        }
    });
}

#[test]
fn whoever_answers_at_an_address_under_another_name_is_refused() {
    deadline(LIMIT, || {
        let robert = Watched::start(listening("robert"));
        let alice = Watched::start(listening("alice"));
        alice.know("carol", &robert.at()).unwrap();
        alice.hears(|event| matches!(event, Event::LinkRefused { .. }).then_some(()));
        assert!(!alice.state("carol").unwrap().is_reached());
    });
}

#[test]
fn a_node_does_not_meet_itself() {
    deadline(LIMIT, || {
        let alice = Watched::start(listening("alice").concern(echo()));
        alice.join(&alice.at()).unwrap();
        alice.hears(|event| matches!(event, Event::LinkRefused { .. }).then_some(()));
        assert_eq!(alice.peers(), []);
        // And lives on.
        let robert = Watched::start(dialing("robert").join(alice.at()));
        asks(&robert, "alice");
    });
}

#[test]
fn what_is_for_a_peer_at_a_closed_port_is_not_sent_and_that_is_told() {
    deadline(LIMIT, || {
        for ask_around in [false, true] {
            let (spy, calls) = Spy::new("note");
            let mut timing = patient();
            timing.hello = ms(300);
            let node = listening("alice").concern(spy).ask_around(ask_around);
            let node = Watched::start(node.timing(timing));
            node.know("robert", &closed_port()).unwrap();
            node.saw("robert", &PeerState::NoConnection);
            node.send(request("robert", "note").lifetime(ms(200)))
                .unwrap();
            // Somebody may still know a way.
            calls.next(if ask_around { "dropped" } else { "failed" });
            assert_eq!(calls.hooks(&["sent"]), [""; 0]);
        }
    });
}

#[test]
fn forgotten_peers_are_gone_until_they_come_again() {
    deadline(LIMIT, || {
        let (alice, robert) = pair(listening("alice"), listening("robert"));
        assert!(alice.forget(&id("robert")));
        assert!(!alice.forget(&id("carol")));
        alice.hears(|event| match event {
            Event::PeerForgotten { peer } if *peer == "robert" => Some(()),
            _ => None,
        });
        robert.know("alice", &alice.at()).unwrap();
        robert.connects("alice");
        alice.connects("robert");
    });
}

#[test]
fn an_address_that_others_cannot_dial_has_to_be_replaced_by_one_they_can() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let error = Node::builder().listen(listen).start().unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
    }
    let node = Node::builder()
        .listen("0.0.0.0:0")
        .advertise("node.example:7701");
    assert_eq!(node.start().unwrap().address(), Some("node.example:7701"));
}

#[test]
fn a_port_that_is_taken_is_an_error_of_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (spy, calls) = Spy::new("note");
    let error = dialing("alice")
        .listen(&*address)
        .concern(spy)
        .start()
        .unwrap_err();
    match error {
        Error::Listen {
            address: told,
            source,
        } => {
            assert_eq!(told, address);
            assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }
    calls.end();
    let hooks: Vec<_> = calls.all().iter().map(|call| call.hook).collect();
    assert!(hooks.is_empty() || hooks == ["start", "stop"], "{hooks:?}");
}

#[test]
fn a_concern_that_does_not_start_undoes_the_start_of_the_node() {
    deadline(LIMIT, || {
        for panics in [false, true] {
            let (first, first_calls) = Spy::new("first");
            let (second, second_calls) = Spy::new("second");
            let (third, third_calls) = Spy::new("third");
            let (order, ends) = crossbeam_channel::unbounded();
            let then = order.clone();
            let first = first.stop(move |_| Ok(order.send("first")?));
            let second = second.stop(move |_| Ok(then.send("second")?));
            let third = third.start(move |_| match panics {
                false => Err("no disk".into()),
                true => panic!("no disk"),
            });
            let port = closed_port();
            let node = dialing("alice").listen(&*port);
            let node = node.concern(first).concern(second).concern(third);
            match node.start().unwrap_err() {
                Error::Concern { command, source } => {
                    assert_eq!(command, "third");
                    assert!(source.to_string().contains("no disk"), "{source}");
                }
                other => panic!("{other:?}"),
            }
            for calls in [&first_calls, &second_calls, &third_calls] {
                calls.end();
            }
            assert_eq!(ends.try_iter().collect::<Vec<_>>(), ["second", "first"]);
            assert_eq!(third_calls.hooks(&["start", "stop"]), ["start"]);
            // Nothing of it is left, the port neither.
            drop(TcpListener::bind(port).unwrap());
        }
    });
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let cases = [
        Node::builder().identity("abc"),
        Node::builder().identity("x".repeat(256)),
        Node::builder().listen("nowhere"),
        Node::builder().join("127.0.0.1"),
        Node::builder().know("abc", "127.0.0.1:1"),
        Node::builder().default_route("x"),
        Node::builder().name(""),
        Node::builder().timing({
            let mut timing = patient();
            timing.heart_beat = ms(0);
            timing
        }),
        Node::builder().concern(echo()).concern(echo()),
        Node::builder().concern(Spy::new("hello").0), // the connector's
    ];
    for builder in cases {
        let shown = format!("{builder:?}");
        let error = builder.start().expect_err(&shown);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_peer_that_nobody_waits_for_is_dialed_again_and_again() {
    deadline(LIMIT, || {
        let mut timing = patient();
        timing.reconnect = ms(50);
        timing.hello = ms(200);
        let port = closed_port();
        let alice = Watched::start(listening("alice").timing(timing).join(&*port));
        pause(ms(100)); // for the first attempts to fail
        let robert = Watched::start(dialing("robert").listen(&*port));
        robert.connects("alice");
        alice.connects("robert");
    });
}
