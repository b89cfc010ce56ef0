//! How nodes end: with a goodbye, within a limit, whatever their hooks and their peers do.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::bounded;
use interplay::concerns::{
    Answer, Error, Event, NoEvent, Node, Outgoing, PeerState, Reason, RequestError,
};
use serde_json::json;

use crate::rig::{Spy, Watched, asks, command, dialing, echo, listening, pair, patient, request};
use crate::support::{LIMIT, deadline, eventually, ms, secs, spawn};

#[test]
fn a_node_that_ends_says_goodbye_and_is_not_chased() {
    deadline(LIMIT, || {
        for drops in [false, true] {
            let mut timing = patient();
            timing.reconnect = ms(20);
            let alice = listening("alice").timing(timing.clone()).concern(echo());
            let (alice, robert) = pair(alice, listening("robert").timing(timing));
            let at = robert.at();
            let robert = robert.into_node();
            match drops {
                true => drop(robert),
                false => robert.shutdown(LIMIT).unwrap(),
            }
            alice.saw("robert", &PeerState::Left);
            // Who listens there now is not called: those who come by themselves are seen first.
            let heir = std::net::TcpListener::bind(at).unwrap();
            heir.set_nonblocking(true).unwrap();
            let carol = Watched::start(dialing("carol").join(alice.at()));
            for _ in 0..20 {
                asks(&carol, "alice");
                crate::support::pause(ms(10));
            }
            assert!(heir.accept().is_err(), "somebody has called");
            assert_eq!(alice.state("robert"), Some(PeerState::Left));
            let states = alice.states("robert");
            assert!(!states.contains(&PeerState::Unreachable), "{states:?}");
        }
    });
}

#[test]
fn what_was_sent_before_the_end_still_arrives() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let alice = listening("alice").timing(patient());
        let alice = alice.concern(spy.request(|_, _| Ok(None)));
        let last_words = Spy::new("note").0.stop(|context| {
            context.send(request("alice", "note"))?;
            Ok(())
        });
        let (_alice, robert) = pair(alice, dialing("robert").concern(last_words));
        for _ in 0..100 {
            robert.send(request("alice", "note")).unwrap();
        }
        drop(robert);
        for _ in 0..101 {
            calls.next("request");
        }
    });
}

#[test]
fn the_end_can_be_asked_for_twice_and_calls_say_that_it_has_come() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let node = Watched::start(listening("alice").concern(spy));
        let (events, handle, at) = (node.events(), node.handle(), node.at());
        let node = Arc::new(node.into_node());
        let other = node.clone();
        let twice = spawn("twice", move || other.shutdown(LIMIT));
        node.shutdown(LIMIT).unwrap();
        twice.join().unwrap().unwrap();
        node.shutdown(secs(0)).unwrap();
        calls.end();
        assert_eq!(calls.hooks(&["start", "stop"]), ["start", "stop"]);

        let error = handle.send(request("robert", "note")).unwrap_err();
        assert_eq!(*error.reason(), Reason::Stopped);
        let error = handle.try_send(request("robert", "note")).unwrap_err();
        assert_eq!(*error.reason(), Reason::Stopped);
        let end = handle.request("robert", "note", &json!({}), LIMIT);
        assert!(matches!(end, Err(RequestError::Stopped)), "{end:?}");
        assert!(matches!(handle.add(echo()), Err(Error::Stopped)));
        assert!(matches!(
            handle.remove(&command("note")),
            Err(Error::Stopped)
        ));
        assert!(matches!(handle.join("127.0.0.1:1"), Err(Error::Stopped)));
        let end = handle.know("robert", "127.0.0.1:1");
        assert!(matches!(end, Err(Error::Stopped)));
        let _ = (
            handle.peers(),
            handle.stats(),
            handle.identity(),
            handle.address(),
        );
        assert_eq!(events.iter().count(), 0);
        assert_eq!(events.try_recv(), Err(NoEvent::Ended));
        drop(std::net::TcpListener::bind(at).unwrap());
    });
}

#[test]
fn a_hook_that_hangs_is_left_over_by_name_and_no_longer() {
    deadline(LIMIT, || {
        let (go, goes) = bounded::<()>(0);
        let (spy, calls) = Spy::new("echo");
        let spy = spy.request(move |_, _| {
            let _ = goes.recv_timeout(secs(20));
            Ok(Some(Answer::new(&json!({}))?))
        });
        let (alice, robert) = pair(
            listening("alice").name("stuck").concern(spy),
            dialing("robert"),
        );
        robert.send(request("alice", "echo")).unwrap();
        calls.next("request");
        let start = Instant::now();
        let left = alice.shutdown(ms(200)).unwrap_err();
        assert!(start.elapsed() >= ms(200));
        assert!(left.to_string().contains("stuck:run"), "{left}");
        // Other calls do not hang with it.
        assert_eq!(alice.peers().len(), 1);
        let end = alice.request("robert", "echo", &json!({}), LIMIT * 10);
        assert!(matches!(end, Err(RequestError::Stopped)), "{end:?}");
        go.send(()).unwrap();
        alice.shutdown(LIMIT).unwrap();
        calls.end();
        assert_eq!(calls.hooks(&["stop"]), ["stop"]);
    });
}

#[test]
fn a_node_that_one_of_its_hooks_drops_ends_when_the_hook_has_returned() {
    deadline(LIMIT, || {
        let (give, given) = bounded::<Node>(1);
        let (spy, calls) = Spy::new("end");
        let spy = spy.request(move |_, _| {
            drop(given.recv_timeout(LIMIT)?);
            Ok(None)
        });
        let (alice, robert) = pair(listening("alice").concern(spy), dialing("robert"));
        let at = alice.at();
        give.send(alice.into_node()).unwrap();
        robert.send(request("alice", "end")).unwrap();
        calls.end();
        assert_eq!(calls.hooks(&["stop"]), ["stop"]);
        robert.saw("alice", &PeerState::Left);
        eventually(LIMIT, || std::net::TcpListener::bind(&at).is_ok());
    });
}

#[test]
fn a_handle_outlives_its_node_and_keeps_nothing() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let node = listening("alice").concern(spy).start().unwrap();
        let handle = node.handle();
        drop(node);
        calls.end();
        assert_eq!(*handle.identity(), "alice");
    });
}

#[test]
fn events_are_bounded_and_what_is_missed_is_counted() {
    deadline(LIMIT, || {
        let alice = listening("alice").timing(patient()).start().unwrap();
        let events = alice.events();
        let robert = dialing("robert")
            .timing(patient())
            .join(alice.address().unwrap());
        let robert = robert.start().unwrap();
        for _ in 0..2_000 {
            let message = Outgoing::request("alice", "nothing", &json!({})).unwrap();
            robert.send(message).unwrap();
        }
        let end = robert.request("alice", "nothing", &json!({}), LIMIT);
        assert!(
            matches!(end, Err(RequestError::NoSuchCommand { .. })),
            "{end:?}"
        );
        // The request was in front of most of the others.
        eventually(LIMIT, || events.missed() >= 2_001 - 1_024);
        alice.shutdown(LIMIT).unwrap();
        let left: Vec<_> = events.iter().collect();
        assert_eq!(left.len(), 1_024);
        // The newest are there.
        let unknown = |event: &Event| matches!(event, Event::UnknownCommand { .. });
        assert!(left.iter().filter(|event| unknown(event)).count() > 1_000);
    });
}
