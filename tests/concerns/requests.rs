//! A request ends once: with its own reply, or with the reason why there is none.

use std::time::Instant;

use crossbeam_channel::{bounded, unbounded};
use interplay::concerns::{
    Answer, BadMessage, Event, Message, Outgoing, PeerState, Priority, Reason, RequestError,
};
use serde_json::{Value, json};

use crate::rig::{Spy, Watched, asks, dialing, echo, listening, pair, patient};
use crate::support::{LIMIT, deadline, ms, spawn};

#[test]
fn a_reply_has_the_number_of_its_request_and_says_who_made_it() {
    deadline(LIMIT, || {
        let (seen, sees) = unbounded();
        let (spy, _) = Spy::new("echo");
        let spy = spy.request(move |_, message: &Message| {
            seen.send(message.clone()).unwrap();
            Ok(Some(Answer::new(&json!({"n": 2}))?))
        });
        let (alice, robert) = pair(listening("alice").concern(spy), dialing("robert"));
        let reply = robert
            .request("alice", "echo", &json!({"n": 1}), LIMIT)
            .unwrap();
        let asked = sees.recv().unwrap();
        assert_eq!(asked.read::<Value>().unwrap(), json!({"n": 1}));
        assert_eq!(
            (asked.source(), asked.previous_hop()),
            (robert.identity(), robert.identity())
        );
        assert_eq!(reply.read::<Value>().unwrap(), json!({"n": 2}));
        assert_eq!(
            (reply.source(), reply.previous_hop()),
            (alice.identity(), alice.identity())
        );
        assert_eq!((reply.id(), reply.command()), (asked.id(), asked.command()));
    });
}

#[test]
fn threads_that_ask_at_once_get_each_their_own_reply() {
    deadline(LIMIT, || {
        let (_alice, robert) = pair(
            listening("alice").timing(patient()).concern(echo()),
            listening("robert").timing(patient()).concern(echo()),
        );
        let robert = std::sync::Arc::new(robert);
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let robert = robert.clone();
                spawn("asks", move || {
                    for number in 0..200 {
                        let question = json!({"thread": thread, "number": number});
                        let reply = robert.request("alice", "echo", &question, LIMIT).unwrap();
                        assert_eq!(reply.read::<Value>().unwrap(), question);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_command_that_the_peer_does_not_have_is_told_at_once() {
    deadline(LIMIT, || {
        let (alice, robert) = pair(listening("alice").concern(echo()), dialing("robert"));
        match robert.request("alice", "nothing", &json!({}), LIMIT * 10) {
            Err(RequestError::NoSuchCommand { command }) => assert_eq!(command, "nothing"),
            other => panic!("{other:?}"),
        }
        alice.hears(|event| match event {
            Event::UnknownCommand { source, command } => {
                assert_eq!((source.as_str(), command.as_str()), ("robert", "nothing"));
                Some(())
            }
            _ => None,
        });
        asks(&robert, "alice");
    });
}

#[test]
fn an_error_or_a_panic_of_the_other_side_ends_the_request() {
    deadline(LIMIT, || {
        let (spy, _) = Spy::new("echo");
        let spy = spy.request(|_, message| match message.read::<Value>()?["do"].as_str() {
            Some("fail") => Err("as asked".into()),
            Some("panic") => panic!("as asked"),
            _ => Ok(Some(Answer::new(&message.read::<Value>()?)?)),
        });
        let (alice, robert) = pair(listening("alice").concern(spy), dialing("robert"));
        for what in ["fail", "panic"] {
            let end = robert.request("alice", "echo", &json!({"do": what}), LIMIT * 10);
            assert!(matches!(end, Err(RequestError::Refused)), "{end:?}");
        }
        // A payload that does not fit is no different.
        let (hook, failures) =
            alice
                .told()
                .into_iter()
                .fold(("", 0), |(hook, n), event| match event {
                    Event::HookFailed {
                        command,
                        hook,
                        error,
                    } => {
                        assert_eq!(command, "echo");
                        assert!(error.contains("as asked"), "{error}");
                        (hook, n + 1)
                    }
                    _ => (hook, n),
                });
        assert_eq!((hook, failures), ("request", 2));
        asks(&robert, "alice");
    });
}

#[test]
fn a_request_without_a_reply_ends_in_time_and_a_late_reply_is_nobodys() {
    deadline(LIMIT, || {
        let (go, goes) = bounded::<()>(0);
        let (spy, calls) = Spy::new("echo");
        let mut first = true;
        let spy = spy.request(move |_, message| {
            if std::mem::take(&mut first) {
                let _ = goes.recv_timeout(LIMIT);
            }
            Ok(Some(Answer::new(&message.read::<Value>()?)?))
        });
        let alice = listening("alice").timing(patient()).concern(spy);
        let (_alice, robert) = pair(alice, dialing("robert").timing(patient()));
        let start = Instant::now();
        match robert.request("alice", "echo", &json!({"n": 1}), ms(300)) {
            Err(RequestError::TimedOut { after }) => assert_eq!(after, ms(300)),
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() >= ms(300));
        calls.next("request");
        go.send(()).unwrap();
        for number in 2..5 {
            let question = json!({"n": number});
            let reply = robert.request("alice", "echo", &question, LIMIT).unwrap();
            assert_eq!(reply.read::<Value>().unwrap(), question);
        }
    });
}

#[test]
fn a_concern_may_leave_a_request_unanswered() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("echo");
        let alice = listening("alice").concern(spy.request(|_, _| Ok(None)));
        let (_alice, robert) = pair(alice, dialing("robert"));
        let end = robert.request("alice", "echo", &json!({}), ms(200));
        assert!(matches!(end, Err(RequestError::TimedOut { .. })), "{end:?}");
        calls.next("request");
    });
}

#[test]
fn a_peer_that_leaves_ends_the_requests_that_wait_for_it() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("echo");
        let alice = listening("alice").concern(spy.request(|_, _| Ok(None)));
        let (alice, robert) = pair(alice, dialing("robert"));
        let asks = spawn("asks", move || {
            (
                robert.request("alice", "echo", &json!({}), LIMIT * 10),
                robert,
            )
        });
        calls.next("request");
        drop(alice);
        match asks.join().unwrap().0 {
            Err(RequestError::PeerLost { peer }) => assert_eq!(peer, "alice"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_node_that_stops_ends_its_own_requests() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("echo");
        let alice = listening("alice").concern(spy.request(|_, _| Ok(None)));
        let (_alice, robert) = pair(alice, dialing("robert"));
        let robert = std::sync::Arc::new(robert);
        let asking = robert.clone();
        let asks = spawn("asks", move || {
            asking.request("alice", "echo", &json!({}), LIMIT * 10)
        });
        calls.next("request");
        robert.shutdown(LIMIT).unwrap();
        let end = asks.join().unwrap();
        assert!(matches!(end, Err(RequestError::Stopped)), "{end:?}");
        let end = robert.request("alice", "echo", &json!({}), LIMIT);
        assert!(matches!(end, Err(RequestError::Stopped)), "{end:?}");
    });
}

#[test]
fn a_request_for_somebody_nobody_knows_ends_in_time() {
    deadline(LIMIT, || {
        let alice = Watched::start(listening("alice"));
        let start = Instant::now();
        let end = alice.request("nobody", "echo", &json!({}), ms(300));
        assert!(start.elapsed() >= ms(300), "somebody might have come");
        let in_time = matches!(
            end,
            Err(RequestError::TimedOut { .. } | RequestError::NotSent(_))
        );
        assert!(in_time, "{end:?}");

        let alone = Watched::start(listening("alice").ask_around(false));
        let end = alone.request("nobody", "echo", &json!({}), LIMIT * 10);
        assert!(
            matches!(end, Err(RequestError::NotSent(Reason::NoPath))),
            "{end:?}"
        );
    });
}

#[test]
fn what_cannot_be_a_message_is_refused_before_it_is_sent() {
    deadline(LIMIT, || {
        let alice = listening("alice").max_payload(100).concern(echo());
        let (alice, robert) = pair(alice, dialing("robert").max_payload(100));
        for (to, command, payload) in [
            ("abc", "echo", json!({})),
            ("alice", "", json!({})),
            ("alice", "echo", json!(5)),
            ("alice", "echo", json!([])),
        ] {
            let end = robert.request(to, command, &payload, LIMIT);
            assert!(matches!(end, Err(RequestError::Bad(_))), "{end:?}");
        }
        let bad = Outgoing::request("alice", "echo", &"text");
        assert!(matches!(bad, Err(BadMessage::Payload(_))));
        let long = json!({"text": "x".repeat(100)});
        match robert.request("alice", "echo", &long, LIMIT) {
            Err(RequestError::NotSent(Reason::TooLong { bytes })) => assert_eq!(bytes, 111),
            other => panic!("{other:?}"),
        }
        asks(&robert, "alice");
        drop(alice);
    });
}

#[test]
fn a_long_payload_arrives_whole() {
    deadline(LIMIT, || {
        let (_alice, robert) = pair(
            listening("alice").timing(patient()).concern(echo()),
            dialing("robert").timing(patient()),
        );
        let long = json!({"text": "ä".repeat(500_000)});
        let reply = robert.request("alice", "echo", &long, LIMIT).unwrap();
        assert_eq!(reply.read::<Value>().unwrap(), long);
        assert_eq!(robert.state("alice"), Some(PeerState::Connected));
    });
}

#[test]
fn messages_of_one_priority_keep_their_order() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("count");
        let alice = listening("alice").timing(patient());
        let alice = alice.concern(spy.request(|_, _| Ok(None)));
        let robert = dialing("robert").timing(patient());
        let (_alice, robert) = pair(alice, robert.concern(Spy::new("count").0));
        let priorities = [Priority::Fast, Priority::Medium, Priority::Slow];
        for number in 0..500 {
            for (lane, priority) in priorities.into_iter().enumerate() {
                let message = json!({"lane": lane, "number": number});
                let message = Outgoing::request("alice", "count", &message).unwrap();
                robert.send(message.priority(priority)).unwrap();
            }
        }
        let mut next = [0; 3];
        for _ in 0..1500 {
            let what = calls.next("request").what;
            let lane = what["lane"].as_u64().unwrap() as usize;
            assert_eq!(what["number"], next[lane], "lane {lane}");
            next[lane] += 1;
        }
        assert_eq!(next, [500; 3]);
    });
}
