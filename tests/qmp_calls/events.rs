//! Listeners: who hears what, in which order, and what they learn when something is missing.

use std::sync::Arc;

use crossbeam_channel::bounded;
use interplay::protocol::Addr;
use interplay::qmp::{Event, Filter, Listener, Options, RecvError};
use serde_json::{Value, json};

use super::support::qmp::{Act, Script, event, greeting, kind, version};
use super::support::{LIMIT, deadline, ms, spawn};
use super::{PATIENCE, Peer, address, at, client, name, names, reply};

fn job(id: &str) -> Value {
    event("JOB_STATUS_CHANGE", json!({"id": id}))
}

#[test]
fn every_listener_gets_what_its_filter_wants_and_all_of_it_in_order() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let j1 = |event: &Event| event.data()["id"] == "j1";
        let filters = [
            (Filter::all(), vec!["STOP", "j0", "RESUME", "j1", "STOP"]),
            (Filter::name("STOP"), vec!["STOP", "STOP"]),
            (
                Filter::names(["STOP", "RESUME"]),
                vec!["STOP", "RESUME", "STOP"],
            ),
            (Filter::names([""; 0]), vec![]),
            (Filter::name("stop"), vec![]),
            (Filter::when(j1), vec!["j1"]),
            (Filter::name("JOB_STATUS_CHANGE").and(j1), vec!["j1"]),
            (Filter::name("STOP").and(j1), vec![]),
            (Filter::when(j1).and(|_| false), vec![]),
            (Filter::all(), vec!["STOP", "j0", "RESUME", "j1", "STOP"]),
        ];
        let listeners = filters.map(|(filter, wanted)| (client.events(filter), wanted));
        let (stop, resume) = (event("STOP", json!({})), event("RESUME", json!({})));
        for event in [&stop, &job("j0"), &resume, &job("j1"), &stop] {
            server.send(event);
        }
        client.execute("query-version", ()).unwrap();
        for (listener, wanted) in &listeners {
            let all = listener.drain();
            assert!(all.is_sorted_by_key(Event::number));
            let label = |event: &Event| match &event.data()["id"] {
                Value::String(id) => id.clone(),
                _ => event.name().to_owned(),
            };
            assert_eq!(&all.iter().map(label).collect::<Vec<_>>(), wanted);
            assert!(matches!(listener.try_recv(), Err(RecvError::TimedOut)));
        }
    });
}

#[test]
fn a_listener_hears_from_its_making_to_its_drop() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let send = |name| {
            server.send(&event(name, json!({})));
            client.execute("query-version", ()).unwrap();
        };
        send("BEFORE");
        let witness = Arc::new(());
        let asked = witness.clone();
        let short = client.events(Filter::when(move |_| Arc::strong_count(&asked) > 0));
        let long = client.events(Filter::all());
        send("BOTH");
        assert_eq!(names(&short.drain()), ["BOTH"]);
        assert_eq!(Arc::strong_count(&witness), 2);
        drop(short);
        assert_eq!(Arc::strong_count(&witness), 1, "it is asked no more");
        send("ONE");
        assert_eq!(names(&long.drain()), ["BOTH", "ONE"]);
    });
}

#[test]
fn several_threads_share_a_listener_and_each_event_goes_to_one() {
    const EVENTS: usize = 20_000;
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        let shared = Arc::new(client.events_with(Filter::all(), 0));
        let takers = [(); 4].map(|()| {
            let shared = shared.clone();
            spawn("taker", move || {
                let numbers: Vec<u64> = shared.iter().map(|event| event.number()).collect();
                assert!(numbers.is_sorted());
                numbers
            })
        });
        for _ in 0..EVENTS {
            peer.write(b"{\"event\":\"E\"}\n");
        }
        drop(peer);
        let taken = takers.map(|taker| taker.join().unwrap());
        let mut all = taken.concat();
        all.sort_unstable();
        assert_eq!(all.len(), EVENTS);
        assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1));
    });
}

/// The numbers of events that are received until the one with this number, gaps as negative counts.
fn until(listener: &Listener<Event>, last: i64) -> Vec<i64> {
    let mut all = Vec::new();
    while all.last() != Some(&last) {
        match listener.recv_timeout(PATIENCE) {
            Ok(event) => all.push(event.data().as_i64().unwrap()),
            Err(RecvError::Lagged(count)) => all.push(-(count as i64)),
            Err(other) => panic!("{other:?}"),
        }
    }
    all
}

#[test]
fn a_slow_listener_is_told_once_what_it_missed_and_goes_on() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let send = |numbers: std::ops::RangeInclusive<i64>| {
            for number in numbers {
                server.send(&event("E", json!(number)));
            }
            client.execute("query-version", ()).unwrap();
        };
        let slow = client.events_with(Filter::all(), 3);
        let other = client.events_with(Filter::all(), 0);
        send(1..=3);
        assert_eq!(until(&slow, 3), [1, 2, 3], "as many as there is room for");
        send(4..=10);
        assert_eq!(until(&slow, 10), [-4, 8, 9, 10]);
        send(11..=11);
        assert_eq!(until(&slow, 11), [11], "and goes on");
        send(12..=16);
        assert_eq!(slow.drain().len(), 3);
        send(17..=17);
        assert_eq!(until(&slow, 17), [-2, 17], "the gap before the drain");
        send(18..=30);
        let skipping = slow.wait_for(|event| event.data() == 30, PATIENCE);
        assert!(
            matches!(skipping, Err(RecvError::Lagged(10))),
            "{skipping:?}"
        );
        let found = slow.wait_for(|event| event.data() == 30, PATIENCE);
        assert_eq!(found.unwrap().data(), 30);
        assert_eq!(until(&other, 30), (1..=30).collect::<Vec<_>>());
        // In an iteration the gaps are passed over.
        send(31..=40);
        let _ = client.disconnect().unwrap();
        assert_eq!(slow.iter().count(), 3);
    });
}

#[test]
fn waiting_for_an_event_skips_the_others_and_has_one_limit() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let events = client.events(Filter::all());
        for id in ["j0", "j1", "j2"] {
            server.send(&job(id));
        }
        let found = events.wait_for(|event| event.data()["id"] == "j1", PATIENCE);
        assert_eq!(found.unwrap().data()["id"], "j1");
        assert_eq!(events.recv().unwrap().data()["id"], "j2", "j0 is gone");
        // Events that are not wanted do not prolong the wait.
        let stop = Arc::new(());
        let running = Arc::downgrade(&stop);
        let server = spawn("sender", move || {
            while running.upgrade().is_some() {
                server.send(&job("other"));
            }
            server
        });
        let limited = events.wait_for(|event| event.name() == "NEVER", ms(50));
        drop(stop);
        assert!(matches!(
            limited,
            Err(RecvError::TimedOut | RecvError::Lagged(_))
        ));
        let server = server.join().unwrap();
        let began = std::time::Instant::now();
        let idle = client.events(Filter::name("NEVER"));
        assert!(matches!(
            idle.recv_timeout(ms(30)),
            Err(RecvError::TimedOut)
        ));
        let at = std::time::Instant::now() + ms(30);
        assert!(matches!(
            idle.recv_deadline(Some(at)),
            Err(RecvError::TimedOut)
        ));
        assert!(began.elapsed() >= ms(60), "not before");
        drop(server);
    });
}

#[test]
fn a_history_keeps_the_last_ones_besides_the_queue() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let send = |names: &[&str]| {
            for name in names {
                server.send(&event(name, json!({})));
            }
            client.execute("query-version", ()).unwrap();
        };
        let all_but_x = |event: &Event| event.name() != "X";
        let events = client.events_with(Filter::when(all_but_x), 2);
        send(&["A"]);
        assert!(events.history().is_empty(), "off by default");
        events.keep_history(3);
        send(&["B", "X", "C", "D", "E"]);
        assert_eq!(names(&events.history()), ["C", "D", "E"]);
        assert!(matches!(events.recv(), Err(RecvError::Lagged(3))));
        assert_eq!(names(&events.drain()), ["D", "E"]);
        assert_eq!(names(&events.history()), ["C", "D", "E"], "received or not");
        events.keep_history(1);
        assert_eq!(names(&events.history()), ["E"]);
        let _ = client.disconnect().unwrap();
        assert_eq!(names(&events.history()), ["E"], "also after the end");
        events.keep_history(0);
        assert!(events.history().is_empty());
    });
}

#[test]
fn what_is_queued_stays_after_the_end_and_the_next_session_is_heard_again() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = client(Options::new());
        let events = client.events(Filter::all());
        assert!(
            matches!(events.try_recv(), Err(RecvError::TimedOut)),
            "no end yet"
        );
        for round in 1..=3 {
            client.connect(address(&server)).unwrap();
            server.send(&event("FIRST", json!({})));
            server.send(&event("SECOND", json!({})));
            client.execute("query-version", ()).unwrap();
            let wanted = round != 2;
            if wanted {
                let _ = client.disconnect().unwrap();
            } else {
                server.close();
                let _ = client.wait_end(PATIENCE).unwrap();
            }
            let late = client.events(Filter::all());
            let first = events.recv().unwrap();
            assert_eq!((first.name(), first.session()), ("FIRST", round));
            assert_eq!(name(events.recv()), "SECOND");
            for listener in [&events, &late, &events] {
                match listener.recv().unwrap_err() {
                    RecvError::Closed => assert!(wanted),
                    RecvError::Ended(cause) => {
                        assert!(!wanted);
                        assert_eq!(kind(&cause), "PeerClosed");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn an_end_wakes_whoever_is_blocked_in_a_receive() {
    deadline(LIMIT, || {
        for end in 0..4 {
            let (peer, client) = Peer::pair(Options::new());
            let receivers = (0..3).map(|_| {
                let (ready, is_ready) = bounded(0);
                let listener = client.events(Filter::all());
                let receiver = spawn("receiver", move || {
                    ready.send(()).unwrap();
                    let result = listener.recv().unwrap_err();
                    drop(listener); // after the client, perhaps
                    kind(&result)
                });
                is_ready.recv().unwrap();
                receiver
            });
            let receivers: Vec<_> = receivers.collect();
            let expected = match end {
                0 => {
                    drop(client);
                    "Closed"
                }
                1 => {
                    let _ = client.disconnect().unwrap();
                    "Closed"
                }
                2 => {
                    let _ = client.abort().unwrap();
                    "Closed"
                }
                _ => {
                    drop(peer);
                    "Ended"
                }
            };
            for receiver in receivers {
                assert_eq!(receiver.join().unwrap(), expected);
            }
        }
    });
}

#[test]
fn a_client_that_is_dropped_before_its_first_session_ends_its_listeners() {
    deadline(LIMIT, || {
        let client = client(Options::new());
        let (events, tap) = (client.events(Filter::all()), client.tap());
        let (ready, is_ready) = bounded(0);
        let receiver = spawn("receiver", move || {
            ready.send(()).unwrap();
            let error = events.recv().unwrap_err();
            (events, kind(&error))
        });
        is_ready.recv().unwrap();
        let missing: Addr = "/nonexistent/monitor".parse().unwrap();
        client.connect(missing).unwrap_err();
        assert!(
            matches!(tap.try_recv(), Err(RecvError::TimedOut)),
            "it may try again"
        );
        drop(client);
        let (events, error) = receiver.join().unwrap();
        assert_eq!(error, "Closed");
        assert!(matches!(events.recv(), Err(RecvError::Closed)));
        assert!(matches!(tap.recv(), Err(RecvError::Closed)));
    });
}

#[test]
fn an_event_before_a_reply_is_there_when_the_caller_has_the_reply() {
    const CALLS: i64 = 10_000; // from each of two
    deadline(LIMIT, || {
        let (peer, client) = Peer::pair(Options::new());
        peer.serve(|id, line, out| {
            let before = line.find("\"n\":").unwrap() + 4;
            let n: String = line[before..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            out.extend_from_slice(format!("{{\"event\":\"BEFORE\",\"data\":{n}}}\r\n").as_bytes());
            reply(out, id, 0);
            out.extend_from_slice(format!("{{\"event\":\"AFTER\",\"data\":{n}}}\r\n").as_bytes());
        });
        let callers = [(); 2].map(|()| client.clone()).into_iter().enumerate();
        let callers = callers.map(|(caller, client)| {
            spawn("caller", move || {
                for n in (0..CALLS).map(|n| n * 2 + caller as i64) {
                    let own = |name| Filter::name(name).and(move |event| event.data() == n);
                    let (before, after) =
                        (client.events(own("BEFORE")), client.events(own("AFTER")));
                    let call = client.call("x").args(json!({"n": n}));
                    let reply = call.run().unwrap();
                    let event = before.try_recv().unwrap();
                    assert!(event.number() < reply.number);
                    assert!(before.drain().is_empty());
                    if n % 16 < 2 {
                        let event = after.recv_timeout(PATIENCE).unwrap();
                        assert_eq!(event.number(), reply.number + 1);
                    }
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        callers.into_iter().for_each(|it| it.join().unwrap());
    });
}

#[test]
fn an_event_that_a_command_causes_is_heard_by_who_listened_before() {
    deadline(LIMIT, || {
        let server = Script::new()
            .on("stop", |_| {
                Act::All(vec![
                    Act::Send(event("STOP", json!({}))),
                    Act::Return(json!({})),
                    Act::Send(event("LATER", json!({}))),
                ])
            })
            .start_unix();
        let client = at(&server, Options::new());
        let events = client.events(Filter::all());
        client.stop().unwrap();
        assert_eq!(name(events.try_recv()), "STOP");
        assert_eq!(name(events.recv_timeout(PATIENCE)), "LATER");
    });
}

#[test]
fn a_tap_has_everything_in_the_order_of_its_coming() {
    deadline(LIMIT, || {
        let early = event("EARLY", json!({}));
        let between = event("BETWEEN", json!({}));
        let stray = json!({"return": 1, "id": "of somebody"});
        let odd = json!({"odd": true});
        let hello = greeting(&["oob"]);
        let server = Script::new()
            .opening(Act::All(vec![
                Act::Send(early.clone()),
                Act::Send(hello.clone()),
            ]))
            .on("qmp_capabilities", {
                let (between, stray) = (between.clone(), stray.clone());
                move |_| {
                    let ahead = vec![Act::Send(between.clone()), Act::Send(stray.clone())];
                    all([ahead, vec![Act::Return(json!({}))]])
                }
            })
            .on("mixed", {
                let (between, stray, odd) = (between.clone(), stray.clone(), odd.clone());
                move |_| {
                    let ahead = vec![Act::Send(between.clone()), Act::Send(stray.clone())];
                    let behind = vec![Act::Return(json!(5)), Act::Send(odd.clone())];
                    all([ahead, behind])
                }
            })
            .start_unix();
        let client = client(Options::new());
        let (tap, events) = (client.tap(), client.events(Filter::all()));
        client.connect(address(&server)).unwrap();
        let call = client.call("mixed").start().unwrap();
        let id = call.id();
        let reply = call.wait().unwrap();
        client.execute("query-version", ()).unwrap();
        let own = server.first("qmp_capabilities").id;
        let last = server.first("query-version").id;
        let expected = [
            early,
            hello,
            between.clone(),
            stray.clone(),
            json!({"return": {}, "id": own}),
            between,
            stray,
            json!({"return": 5, "id": id}),
            odd,
            json!({"return": version(), "id": last}),
        ];
        let all = tap.drain();
        let objects: Vec<Value> = all.iter().map(|one| json!(one.object())).collect();
        assert_eq!(objects, expected);
        let first = all[0].number();
        for (at, message) in all.iter().enumerate() {
            assert_eq!(
                (message.number(), message.session()),
                (first + at as u64, 1)
            );
        }
        assert_eq!(reply.number, first + 7);
        let numbers: Vec<u64> = events.drain().iter().map(Event::number).collect();
        assert_eq!(numbers, [first, first + 2, first + 5], "the same numbers");
        drop(events);
        let short = client.tap_with(1);
        client.execute("query-version", ()).unwrap();
        client.execute("query-version", ()).unwrap();
        assert!(matches!(short.recv(), Err(RecvError::Lagged(1))));
        assert!(short.recv().unwrap().object().contains_key("return"));
        let _ = client.disconnect().unwrap();
        assert_eq!(tap.iter().count(), 2);
        assert!(matches!(tap.recv(), Err(RecvError::Closed)));
    });
}

/// One after the other.
fn all(acts: [Vec<Act>; 2]) -> Act {
    Act::All(acts.into_iter().flatten().collect())
}
