//! Whose reply it is: ids on the wire are the client's, and the caller's own come back.

use std::collections::HashSet;

use interplay::qmp::{Error, Options, Pending, Sent};
use serde_json::{Value, json};

use super::support::qmp::{Act, Script};
use super::support::{LIMIT, deadline, spawn};
use super::{Peer, at, client, interrupted, reply};

/// Gives back what it got as `n`.
fn echo(line: &str) -> Value {
    let command: Value = serde_json::from_str(line).unwrap();
    command["arguments"]["n"].clone()
}

#[test]
fn an_id_of_any_json_type_comes_back_unchanged_and_never_travels() {
    deadline(LIMIT, || {
        let server = Script::new()
            .on("echo", |command| {
                Act::Return(command.arguments["n"].clone())
            })
            .start_unix();
        let client = at(&server, Options::new());
        let ids = [
            json!(null),
            json!(true),
            json!(false),
            json!(0),
            json!(-1),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(1.5),
            json!(1e300),
            json!(-0.0),
            json!(""),
            json!("\u{fc}\n\"\\\u{1f600}\0"),
            json!([]),
            json!([1, [null], {"id": {}}]),
            json!({}),
            json!({"id": 1, "z": 0, "a": [true]}),
        ];
        for way in ["execute", "exec-oob"] {
            for (n, id) in ids.iter().enumerate() {
                let message = json!({way: "echo", "arguments": {"n": n}, "id": id});
                let reply = client.execute_msg(message).unwrap();
                assert_eq!((reply.value, reply.id), (json!(n), Some(id.clone())));
            }
            let without = json!({way: "echo", "arguments": {"n": "none"}});
            let reply = client.start_msg(without).unwrap().wait().unwrap();
            assert_eq!((reply.value, reply.id), (json!("none"), None));
        }
        let wire = server.commands();
        let wire: Vec<u64> = wire[1..]
            .iter()
            .map(|command| command.id.as_ref().unwrap().as_u64().unwrap())
            .collect();
        assert!(wire[0] < 1000, "few digits: {}", wire[0]);
        assert!(wire.windows(2).all(|pair| pair[1] == pair[0] + 1));
    });
}

#[test]
fn ten_thousand_calls_of_eight_threads_get_their_own_replies_in_any_order() {
    const EACH: usize = 1_250;
    deadline(LIMIT, || {
        for options in [Options::new(), Options::new().in_band_window(None)] {
            let (peer, client) = Peer::pair(options);
            // The replies to commands that came together go out in the opposite order.
            let peer = peer.serve(|id, line, out| {
                let mut last = Vec::new();
                reply(&mut last, id, echo(line));
                last.append(out);
                *out = last;
            });
            let callers = (0..8).map(|caller| {
                let client = client.clone();
                spawn("caller", move || {
                    // Some at once, some one after the other; the same id for all.
                    for round in 0..EACH / 10 {
                        let ask = |n: usize| {
                            let n = caller * EACH + round * 10 + n;
                            let message =
                                json!({"execute": "echo", "arguments": {"n": n}, "id": "same"});
                            (n, message)
                        };
                        let started = (0..5).map(|n| {
                            let (n, message) = ask(n);
                            (n, client.start_msg(message).unwrap())
                        });
                        let started: Vec<(usize, Pending)> = started.collect();
                        for n in 5..10 {
                            let (n, message) = ask(n);
                            assert_eq!(client.execute_msg(message).unwrap().value, n);
                        }
                        for (n, pending) in started {
                            let reply = pending.wait().unwrap();
                            assert_eq!((reply.value, reply.id), (json!(n), Some(json!("same"))));
                        }
                    }
                })
            });
            let callers: Vec<_> = callers.collect();
            callers.into_iter().for_each(|it| it.join().unwrap());
            let _ = client.disconnect().unwrap();
            let stats = client.stats();
            assert_eq!(stats.replies, 8 * EACH as u64);
            assert_eq!(stats.unknown_replies, 0);
            drop(client);
            assert_eq!(peer.join().unwrap(), 8 * EACH);
        }
    });
}

#[test]
fn of_two_replies_with_one_id_the_first_counts() {
    deadline(LIMIT, || {
        let (peer, client) = Peer::pair(Options::new());
        peer.serve(|id, line, out| {
            reply(out, id, echo(line));
            reply(out, id, "the second");
        });
        for n in 0..500 {
            assert_eq!(client.execute("echo", json!({"n": n})).unwrap(), n);
        }
        let _ = client.disconnect().unwrap();
        let stats = client.stats();
        assert_eq!(stats.replies, 500);
        assert!(stats.unknown_replies >= 499, "{stats:?}");
    });
}

#[test]
fn an_id_of_an_earlier_session_reaches_nobody_in_a_later_one() {
    deadline(LIMIT, || {
        let client = client(Options::new());
        let mut first = Peer::of(&client);
        let old: Vec<Pending> = (0..4)
            .map(|_| client.call("hangs").start().unwrap())
            .collect();
        let ids: Vec<Value> = (0..4).map(|_| first.command().unwrap().0).collect();
        let _ = client.disconnect().unwrap();

        let second = Peer::of(&client);
        let mut stale = Some(ids.clone());
        second.serve(move |id, line, out| {
            for old in stale.take().into_iter().flatten().filter(|old| old != id) {
                reply(out, &old, "of the first session");
            }
            reply(out, id, echo(line));
        });
        let new: HashSet<u64> = (0..20)
            .map(|n| {
                let call = client.call("echo").args(json!({"n": n})).start().unwrap();
                let id = call.id();
                assert_eq!(call.wait().unwrap().value, n);
                id
            })
            .collect();
        assert_eq!(new.len(), 20);
        for (mut old, id) in old.into_iter().zip(ids) {
            assert_eq!(id, old.id());
            assert!(matches!(
                old.try_wait(),
                Some(Err(Error::Interrupted { .. }))
            ));
            assert_eq!(
                interrupted(old.wait()),
                (Sent::Maybe, "Closed".to_owned()),
                "its own session's end"
            );
        }
    });
}
