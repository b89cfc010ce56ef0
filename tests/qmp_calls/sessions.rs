//! One client through many sessions: what goes on, what starts anew, and what is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use interplay::qmp::{Client, End, Error, Filter, Options, RecvError, Sent};
use serde_json::json;

use super::support::qmp::{Act, Script, event, version};
use super::support::{LIMIT, deadline, eventually, ms, pause, spawn, threads};
use super::{PATIENCE, Peer, address, alone, at, client, interrupted, name, reply, timed_out};

#[test]
fn a_disconnect_after_replies_waits_for_them() {
    deadline(LIMIT, || {
        let (now, hold) = Act::Return(json!("late")).later();
        let hold = parking_lot::Mutex::new(Some(hold));
        let server = Script::new()
            .on("slow", move |_| hold.lock().take().unwrap())
            .start_unix();
        let client = at(&server, Options::new());
        let slow = client.call("slow").start().unwrap();
        let behind: Vec<_> = (0..20)
            .map(|_| client.call("query-version").start().unwrap())
            .collect();
        let abandoned = client.call("abandoned").start().unwrap();
        drop(abandoned);
        let leaving = spawn("leaving", {
            let client = client.clone();
            move || client.disconnect_after_replies(PATIENCE)
        });
        pause(ms(30));
        assert!(!leaving.is_finished(), "not before");
        now.send(()).unwrap();
        let end = leaving.join().unwrap().unwrap();
        assert!(matches!(end, Some(End::Closed)), "{end:?}");
        assert_eq!(slow.wait().unwrap().value, "late");
        for call in behind {
            assert_eq!(call.wait().unwrap().value, version());
        }
        assert!(client.disconnect_after_replies(PATIENCE).unwrap().is_none());
    });
}

#[test]
fn a_disconnect_after_replies_has_a_limit_and_ends_with_the_session() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        let silent = client.call("silent").start().unwrap();
        peer.command().unwrap();
        let began = Instant::now();
        let end = client.disconnect_after_replies(ms(50)).unwrap();
        assert!(began.elapsed() >= ms(50), "not before");
        assert!(matches!(end, Some(End::Closed)), "{end:?}");
        let closed = (Sent::Maybe, "Closed".to_owned());
        assert_eq!(interrupted(silent.wait()), closed);
        drop(peer);

        let (mut peer, client) = Peer::pair(Options::new());
        let silent = client.call("silent").start().unwrap();
        peer.command().unwrap();
        let leaving = spawn("leaving", {
            let client = client.clone();
            move || client.disconnect_after_replies(PATIENCE * 100)
        });
        drop(peer);
        assert!(leaving.join().unwrap().unwrap().is_some());
        assert_eq!(interrupted(silent.wait()).1, "PeerClosed");
    });
}

#[test]
fn a_disconnect_after_replies_does_not_wait_for_calls_that_were_given_up() {
    deadline(LIMIT, || {
        let (_peer, client) = Peer::pair(Options::new());
        drop(client.call("dropped").start().unwrap());
        let _ = client.call("withdrawn").start().unwrap().withdraw();
        timed_out(client.call("late").timeout(ms(10)).run());
        let end = client.disconnect_after_replies(PATIENCE * 100).unwrap();
        assert!(matches!(end, Some(End::Closed)), "{end:?}");
    });
}

/// A session in which everything is used that a client has.
fn session(client: &Client, round: usize) {
    let peer = Peer::of(client);
    let peer = peer.serve(|id, line, out| {
        if line.contains("silent") {
            return;
        }
        out.extend_from_slice(b"{\"event\": \"E\"}\n");
        reply(out, id, 1);
    });
    let silent = client.call("silent").start().unwrap();
    let started = client.call("x").start().unwrap();
    assert_eq!(client.execute("x", ()).unwrap(), 1);
    assert_eq!(client.execute_oob("x", ()).unwrap(), 1);
    assert_eq!(started.wait().unwrap().value, 1);
    match round % 3 {
        0 => drop(client.disconnect().unwrap()),
        1 => drop(client.abort().unwrap()),
        _ => drop(client.disconnect_after_replies(ms(0)).unwrap()),
    }
    assert_eq!(interrupted(silent.wait()).1, "Closed");
    assert_eq!(peer.join().unwrap(), 4);
}

fn two_hundred_sessions() {
    let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let client = client(Options::new());
    let all = client.events(Filter::all());
    let never = client.events(Filter::name("NEVER"));
    let tap = client.tap_with(5);
    session(&client, 0);
    all.drain();
    let before = (threads(), open());
    for round in 1..=200 {
        session(&client, round);
        let events = all.drain();
        assert_eq!(events.len(), 3);
        assert!(
            events
                .iter()
                .all(|event| event.session() == round as u64 + 1)
        );
        assert!(matches!(all.try_recv(), Err(RecvError::Closed)));
    }
    eventually(PATIENCE, || (threads(), open()) == before);
    assert!(never.drain().is_empty());
    assert_eq!(tap.drain().len(), 5);
    let stats = client.stats();
    assert_eq!((stats.events, stats.replies), (603, 603));
}

#[test]
fn two_hundred_sessions_of_a_client_leave_no_thread_and_no_descriptor() {
    alone(
        "sessions::two_hundred_sessions_of_a_client_leave_no_thread_and_no_descriptor",
        two_hundred_sessions,
    );
}

#[test]
fn a_client_reconnects_to_a_busy_monitor_again_and_again_and_its_listener_hears_each_session() {
    deadline(LIMIT, || {
        let server = Script::new()
            .opening(Act::All(vec![
                Act::Send(event("EARLY", json!({}))),
                Act::Send(super::greeting(&["oob"])),
            ]))
            .start_unix();
        let client = client(Options::new());
        let events = client.events(Filter::all());
        for round in 1..=50 {
            client.connect(address(&server)).unwrap();
            let early = events.recv().unwrap();
            assert_eq!((early.name(), early.session()), ("EARLY", round));
            server.send(&event("E", json!({})));
            assert_eq!(client.execute("query-version", ()).unwrap(), version());
            assert_eq!(name(events.recv_timeout(PATIENCE)), "E");
            if round % 2 == 0 {
                server.close();
            } else {
                let _ = client.disconnect().unwrap();
            }
            let end = events.recv().unwrap_err();
            assert_eq!(matches!(end, RecvError::Closed), round % 2 == 1, "{end:?}");
            assert!(client.disconnect().unwrap().is_some() == (round % 2 == 0));
            server.wait_gone(round as usize);
        }
    });
}

#[test]
fn a_call_while_another_thread_connects_is_refused_or_answered_and_nothing_else() {
    deadline(LIMIT, || {
        let client = client(Options::new());
        let over = AtomicBool::new(false);
        let answered = std::thread::scope(|scope| {
            let callers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !over.load(Ordering::Relaxed) {
                        match client.execute("x", ()) {
                            Ok(value) => {
                                assert_eq!(value, 1);
                                answered += 1;
                            }
                            Err(Error::State(_)) => std::thread::yield_now(),
                            Err(Error::Interrupted { cause, .. })
                                if !matches!(*cause, Error::Closed) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    answered
                })
            });
            for _ in 0..200 {
                let peer = Peer::of(&client);
                // Goes after some answers: an end that nobody here wants.
                let peer = spawn("peer", move || {
                    let mut peer = peer;
                    for _ in 0..3 {
                        let (id, _) = peer.command().unwrap();
                        peer.send(&json!({"return": 1, "id": id}));
                    }
                });
                peer.join().unwrap();
                let _ = client.wait_end(PATIENCE).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            callers
                .map(|caller| caller.join().unwrap())
                .iter()
                .sum::<usize>()
        });
        assert!(answered >= 200, "{answered}");
    });
}
