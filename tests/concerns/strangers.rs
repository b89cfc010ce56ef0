//! Neighbours that say what they should not: the link gets a refusal or its end, and the node goes on.

use std::net::TcpListener;
use std::time::Instant;

use crossbeam_channel::bounded;
use interplay::concerns::{Event, Outgoing, PeerState, Reason, RequestError};
use serde_json::{Value, json};

use crate::raw::{
    BYE, Envelope, NO_SUCH_COMMAND, REFUSED, REPLY, REQUEST, ROUTE, Raw, UNDELIVERABLE, frame,
    hello,
};
use crate::rig::{Spy, Watched, asks, dialing, echo, listening, patient, request};
use crate::support::{LIMIT, deadline, eventually, ms, spawn};

/// A node with an echo, that nobody is lost of.
fn node() -> Watched {
    Watched::start(
        listening("alice")
            .timing(patient())
            .max_payload(10_000)
            .concern(echo()),
    )
}

/// It lets others in, and answers them.
#[track_caller]
fn is_well(node: &Watched) {
    let other = dialing("honest").timing(patient()).concern(echo());
    let other = Watched::start(other.join(node.at()));
    asks(&other, node.identity().as_str());
    asks(node, "honest");
}

#[test]
fn a_neighbour_by_hand_is_a_peer_like_any_other() {
    deadline(LIMIT, || {
        let alice = node();
        let mut raw = Raw::connect(&alice.at());
        let said = raw.opens(&hello("robert"));
        assert_eq!(said["identity"], "alice");
        assert_eq!(said["address"], alice.at());
        raw.asks();
        let answers = spawn("answers", move || {
            let asked = raw.next(|envelope| envelope.command == "echo");
            let asked = asked.unwrap();
            raw.post(&Envelope::new(REPLY, "echo", &asked.read()).id(asked.id));
            raw
        });
        asks(&alice, "robert");
        let mut raw = answers.join().unwrap();
        // A heart beat of one that has not greeted is nobody's.
        let greeting = json!({"host": "127.0.0.1", "port": 1});
        raw.post(&Envelope::new(REQUEST, "hello", &greeting));
        raw.next(|envelope| envelope.command == "hello" && envelope.kind == REPLY);
        alice.connects("robert");
        raw.post(&Envelope::new(REQUEST, "hb", &json!({})));
        raw.next(|envelope| envelope.command == "hb" && envelope.kind == REPLY);
        raw.post(&Envelope::new(BYE, "bye", &json!({})));
        raw.is_closed();
        alice.becomes("robert", &PeerState::Left);
    });
}

#[test]
fn another_version_is_told_once_on_both_sides() {
    deadline(LIMIT, || {
        let alice = node();
        let mut raw = Raw::connect(&alice.at());
        let newer = json!({"interplay": 2, "who": ["all", "else", "may", "differ"]});
        let refusal = raw.refused(&newer);
        assert_eq!(refusal["code"], "version", "{refusal}");
        let told = |event: &Event| match event {
            Event::LinkRefused { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let reason = alice.hears(told);
        assert!(reason.contains("version"), "{reason}");
        is_well(&alice);
        assert_eq!(alice.told().iter().filter_map(told).count(), 1);
    });
}

#[test]
fn a_peer_of_another_version_is_told_once_however_often_it_is_dialed() {
    deadline(LIMIT, || {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut timing = patient();
        timing.reconnect = ms(20);
        timing.hello = ms(500);
        let alice = Watched::start(listening("alice").timing(timing));
        alice
            .know("robert", &other.local_addr().unwrap().to_string())
            .unwrap();
        for _ in 0..4 {
            let mut raw = Raw::accept(&other);
            raw.say(&json!({"interplay": 2}));
            raw.is_closed();
        }
        let told = alice.told();
        let versions = |event: &&Event| matches!(event, Event::LinkRefused { reason, .. } if reason.contains("version"));
        assert_eq!(told.iter().filter(versions).count(), 1, "{told:?}");
        assert!(
            alice
                .state("robert")
                .is_some_and(|state| !state.is_reached())
        );
    });
}

#[test]
fn what_is_no_hello_ends_the_connection_and_nothing_else() {
    deadline(LIMIT, || {
        let alice = node();
        let with = |key: &str, value: Value| {
            let mut hello = hello("robert");
            hello[key] = value;
            frame(hello.to_string().as_bytes())
        };
        let mut cases = vec![
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\xff\xff\xff\xff".to_vec(),
            frame(b""),
            frame(b"{"),
            frame(b"[]"),
            frame(b"5"),
            frame(b"{}"),
            frame(b"\xff\xfe"),
            frame(&[b'['; 4000]),
            frame(&vec![b' '; 5000]),
            frame(br#"{"ok": true}"#),
            frame(br#"{"interplay": "1"}"#),
            with("identity", json!("abc")),
            with("identity", json!("x".repeat(256))),
            with("identity", json!(5)),
            with("identity", json!("alice")), // it is the node's own
            with("incarnation", json!(-1)),
            with("incarnation", json!(null)),
            with("nonce", json!("")),
            with("nonce", json!("zz".repeat(32))),
            with("address", json!("")),
            with("address", json!("\u{1b}[2J:1")),
            with("address", json!("x".repeat(300))),
            Envelope::new(REQUEST, "echo", &json!({})).bytes(),
        ];
        // A second hello in place of the welcome; an envelope in its place.
        cases.push([with("secret", json!(false)), with("secret", json!(false))].concat());
        cases.push(
            [
                with("secret", json!(false)),
                Envelope::new(REQUEST, "echo", &json!({})).bytes(),
            ]
            .concat(),
        );
        cases.push(
            [
                with("secret", json!(false)),
                frame(br#"{"ok": false, "code": 5}"#),
            ]
            .concat(),
        );
        for bytes in cases {
            let mut raw = Raw::connect(&alice.at());
            let _ = raw.try_send(&bytes);
            let closed = Instant::now();
            raw.is_closed();
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            assert!(closed.elapsed() < LIMIT, "{shown}");
        }
        assert_eq!(alice.peers(), []);
        is_well(&alice);
    });
}

#[test]
fn a_stranger_that_says_nothing_keeps_nobody_out() {
    deadline(LIMIT, || {
        let alice = node();
        let silent: Vec<Raw> = (0..100)
            .map(|number| {
                let mut raw = Raw::connect(&alice.at());
                if number % 2 == 0 {
                    raw.send(&[0, 0]); // half of a length
                }
                raw
            })
            .collect();
        is_well(&alice);
        for mut raw in silent {
            raw.is_closed();
        }
        is_well(&alice);
    });
}

#[test]
fn a_frame_that_does_not_hold_together_ends_its_link() {
    deadline(LIMIT, || {
        let alice = node();
        let whole = Envelope::new(REQUEST, "echo", &json!({}))
            .from("robert")
            .to("alice")
            .bytes();
        let mut cases = vec![
            frame(b""),
            frame(&whole[4..18]),
            vec![0xff; 4],
            (20_000u32).to_be_bytes().to_vec(), // longer than any message may be
        ];
        let mut cut = whole[4..].to_vec();
        cut[15] = 200; // a source that is longer than what is there
        cases.push(frame(&cut[..30]));
        for (number, bytes) in cases.into_iter().enumerate() {
            let mut raw = Raw::linked(&alice.at(), &format!("stranger-{number}"));
            raw.asks();
            raw.send(&bytes);
            raw.is_closed();
        }
        is_well(&alice);
    });
}

#[test]
fn a_frame_that_is_no_message_is_dropped_told_and_counted_and_its_link_lives() {
    deadline(LIMIT, || {
        let alice = node();
        let mut raw = Raw::linked(&alice.at(), "robert");
        let echo = || Envelope::new(REQUEST, "echo", &json!({}));
        let with = |change: fn(&mut Envelope)| {
            let mut envelope = echo();
            change(&mut envelope);
            envelope
        };
        let cases = [
            with(|e| e.payload = b"".to_vec()),
            with(|e| e.payload = b"5".to_vec()),
            with(|e| e.payload = b"[]".to_vec()),
            with(|e| e.payload = b"{".to_vec()),
            with(|e| e.payload = b"{}{}".to_vec()),
            with(|e| e.payload = b"{\"a\":\"\xff\"}".to_vec()),
            with(|e| e.payload = b"{\"a\":".repeat(1_000)),
            with(|e| e.payload = format!("{{\"a\":\"{}\"}}", "x".repeat(10_000)).into_bytes()),
            with(|e| e.priority = 3),
            with(|e| e.source = "abc".to_owned()),
            with(|e| e.to = "abc".to_owned()),
            with(|e| e.command = String::new()),
        ];
        let count = cases.len() as u64;
        for envelope in cases {
            raw.post(&envelope);
        }
        eventually(LIMIT, || alice.stats().malformed == count);
        let malformed = |event: &Event| match event {
            Event::Malformed { from, .. } => *from == "robert",
            _ => false,
        };
        let told = alice.told().iter().filter(|event| malformed(event)).count() as u64;
        assert!((1..=count).contains(&told), "{told}");
        raw.asks();
        is_well(&alice);
    });
}

#[test]
fn messages_that_make_no_sense_are_dropped_and_hurt_nobody() {
    deadline(LIMIT, || {
        let alice = node();
        let mut raw = Raw::linked(&alice.at(), "robert");
        for kind in [
            0,
            REPLY,
            ROUTE,
            NO_SUCH_COMMAND,
            REFUSED,
            UNDELIVERABLE,
            8,
            200,
            255,
        ] {
            for command in ["echo", "hello", "hb", "r", "peers", "bye", "nothing"] {
                for payload in [
                    json!({}),
                    json!({"host": 5, "port": "x"}),
                    json!({"host": "127.0.0.1", "port": 99_999}),
                    json!({"target": "x", "breadcrumbs": "y"}),
                    json!({"target": "carol", "breadcrumbs": ["alice"]}),
                    json!({"target": "carol", "breadcrumbs": vec!["someone"; 100]}),
                    json!({"peers": [{"identity": 5}, 7, "x"]}),
                ] {
                    raw.post(&Envelope::new(kind, command, &payload));
                    raw.post(&Envelope::new(kind, command, &payload).id(1 << 63));
                }
            }
        }
        raw.asks();
        is_well(&alice);
    });
}

#[test]
fn a_built_in_command_with_nonsense_in_it_is_dropped() {
    deadline(LIMIT, || {
        let alice = node();
        let mut raw = Raw::linked(&alice.at(), "robert");
        for command in ["hello", "hb", "r", "peers"] {
            for payload in [
                json!({}),
                json!({"host": 5, "port": "x"}),
                json!({"host": "", "port": 1}),
                json!({"host": "\u{0}", "port": 1}),
                json!({"host": "x".repeat(1_000), "port": 1}),
                json!({"target": "x", "breadcrumbs": []}),
                json!({"target": "alice", "breadcrumbs": ["robert"]}),
                json!({"target": "carol", "breadcrumbs": ["carol", "robert"]}),
                json!({"target": "carol", "breadcrumbs": vec!["someone"; 17]}),
                json!({"target": "carol", "breadcrumbs": ["alice", "robert"]}),
            ] {
                raw.post(&Envelope::new(REQUEST, command, &payload));
            }
        }
        raw.asks();
        assert!(alice.peers().len() <= 2, "{:?}", alice.peers());
        is_well(&alice);
    });
}

#[test]
fn a_forged_answer_is_nobodys() {
    deadline(LIMIT, || {
        let alice = Watched::start(listening("alice").timing(patient()));
        let mut robert = Raw::linked(&alice.at(), "robert");
        let mut mallory = Raw::linked(&alice.at(), "mallory");
        let alice = std::sync::Arc::new(alice);
        let asking = alice.clone();
        let asked = spawn("asks", move || {
            asking.request("robert", "echo", &json!({"n": 1}), LIMIT)
        });
        let question = robert.next(|envelope| envelope.command == "echo").unwrap();
        for id in [question.id, question.id + 1, question.id & !(1 << 63)] {
            for from in ["", "robert", "carol"] {
                let mut lie = Envelope::new(REPLY, "echo", &json!({"lie": true})).id(id);
                lie.source = from.to_owned();
                if from == "robert" && id == question.id {
                    continue; // as good as its hop: see below
                }
                mallory.post(&lie);
                lie.kind = REFUSED;
                mallory.post(&lie);
            }
        }
        // What mallory said has been handled when it is answered.
        mallory.post(&Envelope::new(REQUEST, "nothing", &json!({})).id(1 << 63 | 5));
        mallory.next(|envelope| envelope.kind == NO_SUCH_COMMAND);
        robert.post(&Envelope::new(REPLY, "echo", &json!({"n": 2})).id(question.id));
        let reply = asked.join().unwrap().unwrap();
        assert_eq!(reply.read::<Value>().unwrap(), json!({"n": 2}));
        assert!(alice.stats().late > 0);
    });
}

#[test]
fn a_link_belongs_to_the_identity_of_its_hello() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let alice = listening("alice")
            .timing(patient())
            .concern(spy.request(|_, message| {
                assert_eq!(*message.previous_hop(), "mallory");
                Ok(None)
            }));
        let alice = Watched::start(alice.concern(echo()));
        let robert = listening("robert").timing(patient()).join(alice.at());
        let robert = Watched::start(robert.concern(echo()));
        alice.connects("robert");
        let address = robert.address().map(str::to_owned);
        let mut mallory = Raw::linked(&alice.at(), "mallory");
        // In the name of robert: that it has another address, that it leaves, that it is dead, that it is over there.
        let elsewhere = json!({"host": "127.0.0.1", "port": 1});
        mallory.post(&Envelope::new(REQUEST, "hello", &elsewhere).from("robert"));
        mallory.post(&Envelope::new(REPLY, "hello", &elsewhere).from("robert"));
        mallory.post(&Envelope::new(BYE, "bye", &json!({})).from("robert"));
        mallory.post(&Envelope::new(REQUEST, "hb", &json!({})).from("robert"));
        mallory.post(&Envelope::new(REPLY, "hb", &json!({})).from("robert"));
        let found = json!({"target": "robert", "breadcrumbs": ["alice"]});
        mallory.post(&Envelope::new(REPLY, "r", &found));
        mallory.post(&Envelope::new(REPLY, "r", &found).from("robert"));
        // The hop can be told, whatever source is claimed.
        mallory.post(&Envelope::new(REQUEST, "note", &json!({})).from("robert"));
        calls.next("request");
        assert!(
            !alice
                .told()
                .iter()
                .any(|event| matches!(event, Event::HookFailed { .. }))
        );
        let peers = alice.peers();
        let peer = peers.iter().find(|peer| peer.identity == "robert").unwrap();
        assert_eq!(peer.state, PeerState::Connected);
        assert_eq!(peer.address, address);
        asks(&alice, "robert");
        asks(&robert, "alice");
    });
}

#[test]
fn breadcrumbs_of_others_lead_nowhere() {
    deadline(LIMIT, || {
        let alice = node();
        let mut raw = Raw::linked(&alice.at(), "robert");
        let mut other = Raw::linked(&alice.at(), "carol");
        other.asks();
        // Answers to questions that were never asked.
        for breadcrumbs in [
            json!(["alice"]),
            json!(["carol", "alice"]),
            json!(["alice", "carol"]),
            json!([]),
        ] {
            let found = json!({"target": "dave-1", "breadcrumbs": breadcrumbs});
            raw.post(&Envelope::new(REPLY, "r", &found));
        }
        raw.asks();
        assert_eq!(
            alice.state("dave-1").filter(|state| state.is_reached()),
            None
        );
        // None of them was passed on.
        other.post(&Envelope::new(REQUEST, "echo", &json!({})).id(5));
        let next = other.next(|envelope| envelope.command == "r" || envelope.id == 5);
        assert_eq!(next.unwrap().command, "echo");
    });
}

#[test]
fn a_message_that_has_no_hops_left_goes_no_further() {
    deadline(LIMIT, || {
        let alice = node();
        let mut one = Raw::linked(&alice.at(), "one-1");
        let mut two = Raw::linked(&alice.at(), "two-2");
        two.asks();
        let mut message = Envelope::new(REQUEST, "note", &json!({})).to("two-2").id(1);
        message.hops = 0;
        one.post(&message);
        message.hops = 200; // no more than the node would give itself
        one.post(&message.clone().id(2));
        let passed = two.next(|envelope| envelope.command == "note").unwrap();
        assert_eq!((passed.id, passed.source.as_str()), (2, "one-1"));
        assert!(passed.hops < 200, "{passed:?}");
        // And no longer than it may live.
        message.hops = 8;
        message.lifetime = 0;
        one.post(&message.clone().id(3));
        message.lifetime = 20_000;
        one.post(&message.id(4));
        let passed = two.next(|envelope| envelope.command == "note").unwrap();
        assert_eq!(passed.id, 4);
        assert!(passed.lifetime <= 20_000);
    });
}

#[test]
fn a_peer_that_does_not_read_holds_up_nobody_and_no_end() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let alice = listening("alice")
            .timing(patient())
            .concern(spy)
            .concern(echo());
        let alice = Watched::start(alice.max_queued(100));
        let robert = dialing("robert").timing(patient()).join(alice.at());
        let robert = Watched::start(robert.concern(echo()).concern(Spy::new("note").0));
        asks(&alice, "robert");
        let deaf = Raw::linked(&alice.at(), "deaf-1");
        let long = json!({"text": "x".repeat(100_000)});
        let long = Outgoing::request("deaf-1", "note", &long).unwrap();
        // Until all that may wait for it does, here and in the system.
        let mut refused = (0..10_000).map(|_| {
            let _ = alice.try_send(long.clone());
            let start = Instant::now();
            let error = alice.send(long.clone().lifetime(ms(200))).err()?;
            Some((error, start.elapsed()))
        });
        let (refused, waited) = refused
            .find_map(|refused| refused)
            .expect("there is a bound");
        assert_eq!(*refused.reason(), Reason::Full);
        assert!(waited >= ms(200));
        let refused = alice.try_send(long).unwrap_err();
        assert_eq!(*refused.reason(), Reason::Full);
        // The others are served.
        for _ in 0..50 {
            asks(&alice, "robert");
            asks(&robert, "alice");
        }
        alice.send(request("robert", "note")).unwrap();
        calls.next("reply");
        let end = Instant::now();
        drop(alice);
        let took = end.elapsed();
        assert!(took < LIMIT / 2, "the end took {took:?}");
        robert.saw("alice", &PeerState::Left);
        drop(deaf);
    });
}

#[test]
fn a_peer_that_hangs_up_is_unreachable_and_its_requests_end() {
    deadline(LIMIT, || {
        let mut timing = patient();
        timing.unreachable = ms(2_000);
        timing.no_connection = ms(4_000);
        let alice = std::sync::Arc::new(Watched::start(
            listening("alice").timing(timing).concern(echo()),
        ));
        let mut raw = Raw::linked(&alice.at(), "robert");
        raw.post(&Envelope::new(
            REQUEST,
            "hello",
            &json!({"host": "127.0.0.1", "port": 1}),
        ));
        raw.asks();
        alice.connects("robert");
        let asking = alice.clone();
        let asked = spawn("asks", move || {
            asking.request("robert", "echo", &json!({"n": 1}), LIMIT * 10)
        });
        raw.next(|envelope| envelope.command == "echo").unwrap();
        drop(raw);
        alice.saw("robert", &PeerState::Unreachable);
        let end = asked.join().unwrap();
        assert!(matches!(end, Err(RequestError::PeerLost { .. })), "{end:?}");
    });
}

#[test]
fn more_links_than_there_may_be_are_refused_until_one_ends() {
    deadline(LIMIT, || {
        let alice = listening("alice")
            .timing(patient())
            .max_links(3)
            .concern(echo());
        let alice = Watched::start(alice);
        let mut links: Vec<Raw> = (0..3)
            .map(|number| Raw::linked(&alice.at(), &format!("stranger-{number}")))
            .collect();
        let mut more = Raw::connect(&alice.at());
        assert_eq!(more.refused(&hello("more"))["code"], "too_many_links");
        links.remove(0);
        let mut next = None;
        eventually(LIMIT, || {
            next = Raw::try_linked(&alice.at(), "next");
            next.is_some()
        });
        next.unwrap().asks();
        for link in &mut links {
            link.asks();
        }
    });
}

#[test]
fn a_peer_that_dials_a_node_held_up_by_a_hook_has_two_links_there_at_most() {
    deadline(LIMIT, || {
        let (go, goes) = bounded::<()>(0);
        let (spy, calls) = Spy::new("hold");
        let spy = spy.request(move |_, _| {
            let _ = goes.recv();
            Ok(None)
        });
        let alice = listening("alice").timing(patient());
        let alice = Watched::start(alice.concern(spy).concern(echo()));
        let mut holder = Raw::linked(&alice.at(), "holder");
        holder.post(&Envelope::new(REQUEST, "hold", &json!({})));
        calls.next("request");
        let waiting = [(); 2].map(|()| Raw::linked(&alice.at(), "eager"));
        for _ in 0..3 {
            let mut more = Raw::connect(&alice.at());
            more.say(&hello("eager"));
            more.hear().unwrap();
            // Who it is counts once it has proved that.
            let refusal = more.refused(&json!({"ok": true}));
            assert_eq!(refusal["code"], "too_many_links");
        }
        // That is the peer's bound, not that of all.
        let _other = Raw::linked(&alice.at(), "other");
        go.send(()).unwrap();
        drop(waiting);
        let mut again = None;
        eventually(LIMIT, || {
            again = Raw::try_linked(&alice.at(), "eager");
            again.is_some()
        });
        again.unwrap().asks();
    });
}

#[test]
fn strangers_by_the_thousand_are_forgotten_before_friends() {
    deadline(LIMIT * 2, || {
        let alice = listening("alice").timing(patient()).concern(echo());
        let alice = Watched::start(alice.max_strangers(20).max_peers(30).max_links(8));
        let robert = dialing("robert").timing(patient()).concern(echo());
        let robert = Watched::start(robert.join(alice.at()));
        asks(&alice, "robert");
        for number in 0..1_000 {
            let mut raw = Raw::connect(&alice.at());
            raw.say(&hello(&format!("stranger-{number}")));
            if raw.hear().is_some() {
                let _ = raw.try_send(&frame(br#"{"ok": true}"#));
                let hello = json!({"host": "127.0.0.1", "port": 1});
                let _ = raw.try_send(&Envelope::new(REQUEST, "hello", &hello).bytes());
            }
            if number % 100 == 0 {
                asks(&robert, "alice");
            }
        }
        assert!(alice.peers().len() <= 30, "{}", alice.peers().len());
        assert_eq!(alice.state("robert"), Some(PeerState::Connected));
        // One neighbour that speaks for a thousand.
        let mut liar = None;
        eventually(LIMIT, || {
            liar = Raw::try_linked(&alice.at(), "liar-1");
            liar.is_some()
        });
        let mut liar = liar.unwrap();
        for number in 0..1_000 {
            let name = format!("invented-{number}");
            liar.post(
                &Envelope::new(REQUEST, "hello", &json!({"host": "127.0.0.1", "port": 1}))
                    .from(&name),
            );
            liar.post(&Envelope::new(REQUEST, "hb", &json!({})).from(&name));
            liar.post(&Envelope::new(REQUEST, "note", &json!({})).to(&format!("nobody-{number}")));
        }
        liar.asks();
        assert!(alice.peers().len() <= 30, "{}", alice.peers().len());
        asks(&alice, "robert");
        asks(&robert, "alice");
    });
}
