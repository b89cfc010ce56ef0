//! The node's thread reads in the place of a link's reader, and keeps nobody waiting by that.

use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use interplay::concerns::{Answer, Timing};
use serde_json::{Value, json};

use crate::rig::{Spy, Watched, asks, dialing, echo, listening, pair, patient};
use crate::support::{LIMIT, deadline, secs, spawn};

/// Timing with which the node has nothing to do by itself for as long as a test lasts.
fn drowsy() -> Timing {
    let mut timing = patient();
    timing.heart_beat = LIMIT;
    timing.longest_gap = LIMIT;
    timing
}

/// Does something so often that it is noticed if it waits for the end of a sleep, which is a second at most.
fn at_once(mut what: impl FnMut(usize)) {
    let (times, limit) = (40, Duration::from_secs(15));
    let start = Instant::now();
    (0..times).for_each(&mut what);
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
}

#[test]
fn a_call_is_served_while_the_node_waits_at_a_link() {
    deadline(LIMIT, || {
        let alice = listening("alice").timing(drowsy()).concern(echo());
        let (alice, robert) = pair(alice, dialing("robert").timing(drowsy()));
        at_once(|number| {
            asks(&robert, "alice");
            alice.know(format!("peer-{number}"), "127.0.0.1:1").unwrap();
        });
        asks(&robert, "alice");
        let start = Instant::now();
        alice.shutdown(LIMIT).unwrap();
        assert!(start.elapsed() < secs(15));
    });
}

#[test]
fn another_link_is_served_while_the_node_waits_at_one() {
    deadline(LIMIT, || {
        let (spy, calls) = Spy::new("note");
        let alice = listening("alice").timing(drowsy());
        let alice = alice.concern(echo()).concern(spy);
        let (alice, robert) = pair(alice, listening("robert").timing(drowsy()).concern(echo()));
        let carol = Watched::start(dialing("carol").timing(drowsy()).join(alice.at()));
        carol.connects("alice");
        at_once(|_| {
            asks(&robert, "alice");
            asks(&carol, "alice");
            asks(&robert, "alice");
            // One that the node of alice itself has to write.
            let message = interplay::concerns::Outgoing::request("robert", "echo", &json!({}));
            alice.send(message.unwrap()).unwrap();
        });
        drop(calls);
    });
}

/// A hook may wait for something that needs a reply of the very link that its request came by.
#[test]
fn a_reply_is_read_while_a_hook_hangs() {
    deadline(LIMIT, || {
        let (let_robert, robert_may) = bounded::<()>(1);
        let (let_alice, alice_may) = bounded::<()>(1);
        let (hangs, hanging) = bounded(2);
        let slow = |may: crossbeam_channel::Receiver<()>| {
            let hangs = hangs.clone();
            move |_: &mut interplay::concerns::Context<'_>, _: &interplay::concerns::Message| {
                hangs.send(()).unwrap();
                may.recv().unwrap();
                Ok(Some(Answer::new(&json!({"slow": true}))?))
            }
        };
        let (of_alice, _calls) = Spy::new("slow");
        let (of_robert, _calls) = Spy::new("slow");
        let (alice, robert) = pair(
            listening("alice")
                .timing(drowsy())
                .concern(of_alice.request(slow(alice_may))),
            dialing("robert")
                .timing(drowsy())
                .concern(of_robert.request(slow(robert_may)))
                .concern(echo()),
        );
        // So that both write straight to their link.
        for (one, other) in [(&alice, "robert"), (&robert, "alice")] {
            let _ = one.request(other, "nothing", &json!({}), LIMIT);
        }
        let (alice, robert) = (std::sync::Arc::new(alice), std::sync::Arc::new(robert));
        let ask = |one: &std::sync::Arc<Watched>, other: &'static str| {
            let one = one.clone();
            spawn("asks", move || {
                let reply = one.request(other, "slow", &json!({}), LIMIT).unwrap();
                assert_eq!(reply.read::<Value>().unwrap(), json!({"slow": true}));
            })
        };
        let first = ask(&alice, "robert");
        hanging.recv().unwrap();
        let second = ask(&robert, "alice");
        hanging.recv().unwrap();
        let_robert.send(()).unwrap();
        first.join().unwrap(); // the hook of alice still hangs
        // And one that is asked only now.
        asks(&alice, "robert");
        let_alice.send(()).unwrap();
        second.join().unwrap();
    });
}

/// Each reads the other's answer now by its caller, now by its node, now by its reader.
#[test]
fn nothing_is_lost_when_both_sides_ask_in_turn() {
    deadline(LIMIT, || {
        let (alice, robert) = pair(
            listening("alice").timing(drowsy()).concern(echo()),
            dialing("robert").timing(drowsy()).concern(echo()),
        );
        for _ in 0..3_000 {
            asks(&robert, "alice");
            asks(&alice, "robert");
        }
    });
}
