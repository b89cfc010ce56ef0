//! What becomes of a hook that goes wrong, and when and where hooks are called.

use std::collections::BTreeSet;
use std::time::Instant;

use crossbeam_channel::unbounded;
use interplay::concerns::{Answer, BoxError, Context, Error, Event, Outgoing, RequestError, Retry};
use serde_json::json;

use crate::meeting::closed_port;
use crate::rig::{
    Calls, Spy, Watched, asks, command, dialing, echo, listening, pair, patient, request,
};
use crate::support::{LIMIT, deadline, eventually, ms};

/// Fails or panics, as it is told to.
fn wrong(panics: bool) -> Result<(), BoxError> {
    assert!(!panics, "wrong on purpose");
    Err("wrong on purpose".into())
}

/// The hooks that were told to have failed, in their order.
fn failures(node: &Watched) -> Vec<&'static str> {
    let told = node.told().into_iter();
    told.filter_map(|event| match event {
        Event::HookFailed {
            command,
            hook,
            error,
        } => {
            assert_eq!(command, "note");
            assert!(error.contains("wrong on purpose"), "{error}");
            Some(hook)
        }
        _ => None,
    })
    .collect()
}

#[test]
fn errors_and_panics_of_hooks_are_told_and_survived() {
    deadline(LIMIT, || {
        for panics in [false, true] {
            let (spy, calls) = Spy::new("note");
            let spy = spy
                .start(|context: &mut Context<'_>| {
                    context.wake_at(context.now());
                    Ok(())
                })
                .tick(move |_| wrong(panics))
                .request(move |_, _| wrong(panics).map(|()| None))
                .reply(move |_| wrong(panics))
                .sent(move |_| wrong(panics));
            let alice = listening("alice").timing(patient()).concern(spy);
            let robert = dialing("robert").timing(patient());
            let (alice, robert) = pair(alice, robert.concern(Spy::new("note").0));
            calls.next("tick");
            robert.send(request("alice", "note")).unwrap();
            calls.next("request");
            alice.send(request("robert", "note")).unwrap();
            calls.next("sent");
            calls.next("reply");
            eventually(LIMIT, || failures(&alice).len() == 4);
            assert_eq!(failures(&alice)[..2], ["tick", "request"]);
            let all: BTreeSet<_> = failures(&alice).into_iter().collect();
            assert_eq!(all, BTreeSet::from(["tick", "request", "reply", "sent"]));
            alice.add(echo()).unwrap();
            asks(&robert, "alice");
        }
    });
}

#[test]
fn panics_of_hooks_that_cannot_fail_are_survived_too() {
    deadline(LIMIT, || {
        let panics = |_: &mut Context<'_>| wrong(true);
        let (spy, calls) = Spy::new("note");
        let spy = spy
            .failed(|_, _, _| panic!("wrong on purpose"))
            .dropped(panics)
            .stop(panics);
        let alice = listening("alice")
            .ask_around(false)
            .concern(spy)
            .concern(echo());
        let (alice, robert) = pair(alice, dialing("robert"));
        alice.send(request("nobody", "note")).unwrap();
        calls.next("failed");
        alice
            .send(request("robert", "note").lifetime(ms(0)))
            .unwrap();
        calls.next("dropped");
        assert!(alice.remove(&command("note")).unwrap().is_some());
        calls.next("stop");
        eventually(LIMIT, || failures(&alice) == ["failed", "dropped", "stop"]);
        asks(&robert, "alice");
    });
}

#[test]
fn all_hooks_run_on_one_thread() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let spy = spy.start(|context| {
            context.wake_at(context.now());
            Ok(())
        });
        let alice = listening("alice")
            .name("one")
            .timing(patient())
            .ask_around(false);
        let (robert, alice) = pair(
            listening("robert")
                .timing(patient())
                .concern(Spy::new("note").0),
            alice.concern(spy),
        );
        alice.send(request("robert", "note")).unwrap();
        calls.next("reply");
        robert.send(request("alice", "note")).unwrap();
        calls.next("request");
        alice.send(request("nobody", "note")).unwrap();
        calls.next("failed");
        alice
            .send(request("robert", "note").lifetime(ms(0)))
            .unwrap();
        calls.next("dropped");
        drop(alice);
        calls.end();
        let all = calls.all();
        let hooks: BTreeSet<_> = all.iter().map(|call| call.hook).collect();
        let expected = [
            "start", "tick", "request", "reply", "sent", "failed", "dropped", "stop",
        ];
        assert_eq!(hooks, BTreeSet::from(expected));
        // The first hook runs before the start has returned, maybe on the thread of the caller.
        let threads: BTreeSet<_> = all.iter().map(|call| &*call.thread).collect();
        assert_eq!(threads, BTreeSet::from(["one:run"]));
    });
}

#[test]
fn a_concern_comes_and_goes_while_the_node_runs() {
    deadline(LIMIT, || {
        let (alice, robert) = pair(listening("alice"), dialing("robert"));
        for _ in 0..2 {
            let (spy, calls) = Spy::new("echo");
            alice.add(spy).unwrap();
            assert_eq!(calls.hooks(&["start"]), ["start"]);
            asks(&robert, "alice");
            match alice.add(echo()) {
                Err(Error::CommandTaken { command }) => assert_eq!(command, "echo"),
                other => panic!("{other:?}"),
            }
            let gone = alice.remove(&command("echo")).unwrap();
            assert_eq!(calls.hooks(&["stop"]), ["stop"]);
            assert_eq!(gone.unwrap().command(), "echo");
            let end = robert.request("alice", "echo", &json!({}), LIMIT);
            assert!(
                matches!(end, Err(RequestError::NoSuchCommand { .. })),
                "{end:?}"
            );
            assert!(alice.remove(&command("echo")).unwrap().is_none());
        }
    });
}

#[test]
fn a_concern_that_does_not_start_is_not_there() {
    deadline(LIMIT, || {
        let (alice, robert) = pair(listening("alice"), dialing("robert"));
        for panics in [false, true] {
            let (spy, calls) = Spy::new("echo");
            match alice.add(spy.start(move |_| wrong(panics))) {
                Err(Error::Concern { command, source }) => {
                    assert_eq!(command, "echo");
                    assert!(source.to_string().contains("wrong on purpose"));
                }
                other => panic!("{other:?}"),
            }
            calls.end();
            assert_eq!(calls.hooks(&["start", "stop"]), ["start"]);
        }
        alice.add(echo()).unwrap();
        asks(&robert, "alice");
    });
}

#[test]
fn concerns_come_and_go_inside_hooks() {
    deadline(LIMIT, || {
        let (next, next_calls) = Spy::new("echo");
        let mut next = Some(next);
        let (spy, calls) = Spy::new("change");
        let spy = spy.request(move |context, _| {
            let next = next.take().ok_or("twice")?;
            context.add(Box::new(next))?;
            assert!(
                context.add(Box::new(echo())).is_err(),
                "it is there already"
            );
            assert!(context.remove(&command("change")));
            assert!(!context.remove(&command("nothing")));
            Ok(Some(Answer::new(&json!({}))?))
        });
        let (_alice, robert) = pair(listening("alice").concern(spy), dialing("robert"));
        robert
            .request("alice", "change", &json!({}), LIMIT)
            .unwrap();
        calls.end();
        assert_eq!(calls.hooks(&["request", "stop"]), ["request", "stop"]);
        asks(&robert, "alice");
        assert_eq!(next_calls.hooks(&["start"]), ["start"]);
        let end = robert.request("alice", "change", &json!({}), LIMIT);
        assert!(
            matches!(end, Err(RequestError::NoSuchCommand { .. })),
            "{end:?}"
        );
    });
}

#[test]
fn a_message_that_was_written_is_told_with_its_number() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let (_alice, robert) = pair(
            listening("alice").concern(Spy::new("note").0.request(|_, _| Ok(None))),
            dialing("robert").concern(spy),
        );
        let numbers: Vec<u64> = (0..100)
            .map(|_| robert.send(request("alice", "note")).unwrap())
            .collect();
        for number in numbers {
            let what = json!({"id": number, "to": "alice", "hop": "alice"});
            assert_eq!(calls.next("sent").what, what);
        }
        assert_eq!(calls.hooks(&["failed", "dropped"]), [""; 0]);
    });
}

#[test]
fn a_message_without_a_way_fails_once_and_is_tried_again_if_its_concern_says_so() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let mut tries = 0;
        let spy = spy.failed(move |_, _, _| {
            tries += 1;
            match tries {
                1..4 => Retry::Requeue,
                _ => Retry::Drop,
            }
        });
        let alice = listening("alice").ask_around(false).concern(spy);
        let alice = Watched::start(alice);
        alice.send(request("nobody", "note")).unwrap();
        let calls: Vec<_> = (0..4).map(|_| calls.next("failed")).collect();
        assert!(calls.iter().all(|call| call.what == "NoPath"), "{calls:?}");
        let time = calls[3].at - calls[0].at;
        assert!(time >= ms(250), "three pauses in {time:?}");
    });
}

#[test]
fn a_message_that_is_tried_again_arrives_once_when_there_is_a_way() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let alice = listening("alice").ask_around(false).timing(patient());
        let alice = alice.concern(spy.failed(|_, _, _| Retry::Requeue));
        let alice = Watched::start(alice);
        let number = alice.send(request("robert", "note")).unwrap();
        calls.next("failed");
        let (other, other_calls) = Spy::new("note");
        let other = other.request(|_, _| Ok(None));
        let robert = dialing("robert").concern(other).concern(echo());
        let robert = Watched::start(robert.timing(patient()).join(alice.at()));
        assert_eq!(calls.next("sent").what["id"], number);
        other_calls.next("request");
        asks(&alice, "robert");
        assert_eq!(other_calls.hooks(&["request"]), ["request"]);
        assert_eq!(calls.hooks(&["sent", "dropped"]), ["sent"]);
        drop(robert);
    });
}

/// Sends what lives for a moment only, to whom there is no way; who then comes does not get it.
fn is_not_delivered_late(alice: &Watched, calls: &Calls) {
    let lifetime = ms(150);
    let start = Instant::now();
    let message = Outgoing::request("robert", "note", &json!({"late": true})).unwrap();
    alice.send(message.lifetime(lifetime)).unwrap();
    let dropped = calls.next("dropped");
    assert_eq!(dropped.what, json!({"late": true}));
    assert!(dropped.at - start >= lifetime);
    let (spy, other_calls) = Spy::new("note");
    let robert = dialing("robert").concern(spy).concern(echo());
    let robert = Watched::start(robert.timing(patient()).join(alice.at()));
    asks(alice, "robert");
    assert_eq!(other_calls.hooks(&["request"]), [""; 0]);
    assert_eq!(calls.hooks(&["dropped", "sent"]), ["dropped"]);
    drop(robert);
}

#[test]
fn a_message_whose_lifetime_is_over_is_dropped_and_not_delivered_late() {
    deadline(LIMIT, || {
        // Nobody has heard of the receiver; or it is known, and nobody listens there.
        for address in [None, Some(closed_port())] {
            let (spy, calls) = Spy::new("note");
            let alice = listening("alice").timing(patient()).concern(spy);
            let alice = Watched::start(alice);
            if let Some(address) = address {
                alice.know("robert", &address).unwrap();
            }
            is_not_delivered_late(&alice, &calls);
        }
    });
}

#[test]
fn a_hook_is_woken_at_its_time_and_not_before() {
    deadline(LIMIT, || {
        let (woken, wakes) = unbounded();
        let (spy, calls) = Spy::new("note");
        let mut due = None;
        let spy = spy
            .start(|context| {
                // The earliest counts, and nothing is left of the other.
                context.wake_at(context.now() + LIMIT * 10);
                context.wake_at(context.now());
                Ok(())
            })
            .tick(move |context| {
                let late = due.map(|due| context.now().checked_duration_since(due));
                woken.send(late)?;
                let next = context.now() + ms(30);
                due = Some(next);
                context.wake_at(next);
                Ok(())
            });
        let alice = Watched::start(listening("alice").concern(spy));
        assert_eq!(wakes.recv().unwrap(), None, "the first");
        for _ in 0..10 {
            let late = wakes.recv_timeout(LIMIT).unwrap();
            assert!(late.unwrap().is_some(), "woken too early");
        }
        drop(alice);
        calls.end();
    });
}

#[test]
fn a_hook_that_would_wait_for_its_own_node_is_refused() {
    deadline(LIMIT, || {
        let (give, given) = crossbeam_channel::bounded::<interplay::concerns::Handle>(1);
        let spy = Spy::new("self").0.request(move |_, message| {
            let node = given.recv_timeout(LIMIT)?;
            let end = node.request(message.source(), "echo", &json!({}), LIMIT);
            assert!(matches!(end, Err(RequestError::WouldDeadlock)), "{end:?}");
            let end = node.add(echo());
            assert!(matches!(end, Err(Error::WouldDeadlock)), "{end:?}");
            let end = node.remove(&command("echo"));
            assert!(matches!(end, Err(Error::WouldDeadlock)));
            let end = node.know("carol", "127.0.0.1:1");
            assert!(matches!(end, Err(Error::WouldDeadlock)), "{end:?}");
            // These do not wait.
            node.send(request(message.source().as_str(), "echo"))?;
            assert_eq!(node.peers().len(), 1);
            Ok(Some(Answer::new(&json!({}))?))
        });
        let (alice, robert) = pair(
            listening("alice").concern(spy),
            dialing("robert").concern(echo()),
        );
        give.send(alice.handle()).unwrap();
        robert.request("alice", "self", &json!({}), LIMIT).unwrap();
    });
}

#[test]
fn a_context_knows_the_node_and_its_peers() {
    deadline(LIMIT, || {
        let spy = Spy::new("what").0.request(|context, message| {
            assert_eq!(*context.identity(), "alice");
            let peers = context.peers();
            let names: Vec<_> = peers.iter().map(|peer| peer.identity.as_str()).collect();
            assert_eq!(names, ["robert"]);
            assert!(peers[0].state.is_reached());
            context.know(&"carol".parse()?, Some("127.0.0.1:1"))?;
            assert!(context.know(&"carol".parse()?, Some("nowhere")).is_err());
            assert_eq!(context.peers().len(), 2);
            assert!(context.forget(&"carol".parse()?));
            assert!(!context.forget(&"carol".parse()?));
            context.send(request(message.source().as_str(), "what"))?;
            Ok(Some(Answer::new(&json!({}))?))
        });
        let (other, calls) = Spy::new("what");
        let (_alice, robert) = pair(
            listening("alice").concern(spy),
            dialing("robert").concern(other),
        );
        robert.request("alice", "what", &json!({}), LIMIT).unwrap();
        calls.next("request");
    });
}
