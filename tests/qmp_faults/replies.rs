//! Replies, and what is none, in a session that goes on.

use std::sync::atomic::{AtomicUsize, Ordering};

use interplay::qmp::{Error, Options, Pending, Sent, Waiting};
use serde_json::{Value, json};

use super::support::qmp::{Act, Script, kind, version};
use super::support::{LIMIT, deadline, ms, spawn};
use super::{Guest, PATIENCE, ahead, interrupted};

#[test]
fn replies_to_nobody_are_dropped_and_counted() {
    deadline(LIMIT, || {
        let ids = [
            json!("unknown"),
            json!(18_446_744_073_709_551_615_u64),
            json!(-1),
            json!(0.5),
            json!(1e300),
            json!(null),
            json!(true),
            json!([1, {}]),
            json!({"id": 1}),
        ];
        let strays = ids.len() as u64;
        let server = Script::new()
            .on("odd", move |command| {
                let replies = ids
                    .iter()
                    .map(|id| json!({"return": "not yours", "id": id}));
                let replies: Vec<Value> = replies.collect();
                let own = json!({"return": "yours", "id": command.id});
                ahead(&[&replies[..], &[own.clone(), own]].concat(), Act::SILENCE)
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        assert_eq!(guest.ask("odd").unwrap(), "yours");
        guest.works();
        assert_eq!(guest.strays(), strays + 1, "the second of its own, too");
    });
}

#[test]
fn replies_in_another_order_find_their_callers() {
    deadline(LIMIT, || {
        let server = Script::new().on("later", |_| Act::SILENCE).start_unix();
        let guest = Guest::at(&server, Options::new().in_band_window(None));
        let calls: Vec<Pending> = (0..20).map(|_| guest.start("later")).collect();
        server.nth(20, "later");
        let commands = server.commands();
        for (at, command) in commands[1..].iter().enumerate().rev() {
            server.send(&json!({"return": at, "id": command.id}));
        }
        for (at, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap().value, at);
        }
    });
}

#[test]
fn a_malformed_reply_is_its_caller_s_alone() {
    deadline(LIMIT, || {
        let replies = [
            json!({}),
            json!({"return?": 1}),
            json!({"error": "no"}),
            json!({"error": {"class": "GenericError"}}),
            json!({"error": {"class": 5, "desc": "no"}}),
            json!({"error": null}),
        ];
        let count = replies.len();
        let next = AtomicUsize::new(0);
        let server = Script::new()
            .on("odd", move |command| {
                let mut reply = replies[next.fetch_add(1, Ordering::Relaxed)].clone();
                reply["id"] = command.id.clone().unwrap();
                Act::Send(reply)
            })
            .on("both", |command| {
                let error = json!({"class": "FutureClass", "desc": "counts"});
                Act::Send(json!({"return": 1, "error": error, "id": command.id}))
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        for _ in 0..count {
            match guest.ask("odd").unwrap_err() {
                Error::BadReply { value, .. } => assert!(value.is_object(), "kept"),
                other => panic!("{other:?}"),
            }
            guest.works();
        }
        match guest.ask("both").unwrap_err() {
            Error::Execute {
                class,
                desc,
                command,
                ..
            } => {
                assert_eq!((&*class, &*desc), ("FutureClass", "counts"));
                assert_eq!(command.name(), "both");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_late_reply_is_dropped_and_the_next_call_gets_its_own() {
    deadline(LIMIT, || {
        let (now, late) = Act::Return(json!("late")).later();
        let late = parking_lot::Mutex::new(Some(late));
        let server = Script::new()
            .on("slow", move |_| late.lock().take().unwrap())
            .start_unix();
        let guest = Guest::at(&server, Options::new().oob(false));
        let slow = guest.client.call("slow").timeout(ms(50));
        match slow.run().unwrap_err() {
            Error::Timeout {
                waiting: Waiting::Call { sent, command },
                ..
            } => {
                assert_eq!((sent, command.name()), (Sent::Maybe, "slow"));
            }
            other => panic!("{other:?}"),
        }
        let behind = guest.start("query-version");
        now.send(()).unwrap();
        assert_eq!(behind.wait().unwrap().value, version());
        guest.works();
        assert_eq!(guest.strays(), 1);
    });
}

#[test]
fn an_error_for_nobody_ends_the_session_since_some_call_will_have_no_reply() {
    deadline(LIMIT, || {
        let server = Script::new().on("hangs", |_| Act::SILENCE).start_unix();
        let guest = Guest::at(&server, Options::new());
        let caller = guest.caller("hangs");
        server.first("hangs");
        let error = json!({"class": "GenericError", "desc": "JSON parse error, expecting value"});
        server.send(&json!({"error": error}));
        let parse = "ServerParse".to_owned();
        assert_eq!(interrupted(caller.join().unwrap()), (Sent::Maybe, parse));
        match guest.cause() {
            Error::ServerParse { desc, .. } => assert!(desc.contains("expecting value")),
            other => panic!("{other:?}"),
        }
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn what_the_server_cannot_parse_is_answered_to_the_raw_call_that_sent_it() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let guest = Guest::at(&server, Options::new());
        let table: [(&[u8], &str); 4] = [
            (b"{\"execute\": }\n", "JSON parse error, expecting value"),
            (b"[]", "QMP input must be a JSON object"),
            (b"7\n", "QMP input must be a JSON object"),
            (b"\xFF", "JSON parse error, stray '\u{FFFD}'"),
        ];
        for (bytes, expected) in table {
            match guest.client.raw(bytes).unwrap_err() {
                Error::Execute { desc, .. } => assert_eq!(&*desc, expected),
                other => panic!("{other:?}"),
            }
            guest.works();
        }
    });
}

#[test]
fn the_late_answer_to_a_raw_call_is_not_the_next_one_s() {
    deadline(LIMIT, || {
        let (now, hold) = Act::Return(json!({})).later();
        let hold = parking_lot::Mutex::new(Some(hold));
        let server = Script::new()
            .on("blocks", move |_| hold.lock().take().unwrap())
            .start_unix();
        let guest = Guest::at(&server, Options::new().call_timeout(ms(100)));
        let blocks = guest
            .client
            .call("blocks")
            .timeout(PATIENCE)
            .start()
            .unwrap();
        assert_eq!(kind(&guest.client.raw(b"[]").unwrap_err()), "Timeout");
        let second = spawn("second", {
            let client = guest.client.clone();
            move || client.raw(b"{\"execute\": }\n")
        });
        now.send(()).unwrap();
        assert_eq!(blocks.wait().unwrap().value, json!({}));
        match second.join().unwrap().unwrap_err() {
            Error::Execute { desc, .. } => assert!(desc.contains("expecting value"), "{desc}"),
            Error::Timeout { .. } => {} // a busy machine
            other => panic!("{other:?}"),
        }
        let version = guest.client.call("query-version").timeout(PATIENCE).run();
        version.unwrap();
    });
}

#[test]
fn events_of_any_shape_pass_and_what_is_none_is_dropped() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let guest = Guest::at(&server, Options::new());
        let clockless = json!({"seconds": -1, "microseconds": -1});
        let odd = [
            json!({"event": "FUTURE_EVENT", "timestamp": clockless, "data": {"x": [1]}}),
            json!({"event": "BARE"}),
            json!({"event": "ODD", "timestamp": "noon", "data": 5, "more": {}}),
        ];
        let none = [
            json!({"event": 5}),
            json!({"event": null}),
            json!({"other": 1}),
            json!({}),
        ];
        for object in none.iter().chain(&odd).chain(&none) {
            server.send(object);
        }
        for object in &odd {
            let event = guest.events.recv_timeout(PATIENCE).unwrap();
            assert_eq!(&json!(event.object()), object);
            assert!(event.timestamp().is_none());
        }
        guest.works();
        assert!(guest.events.try_recv().is_err());
    });
}

#[test]
fn replies_of_many_megabytes_come_whole_and_pretty_ones_too() {
    deadline(LIMIT, || {
        let text = "x\"\\{}[]\u{e9}".repeat(1 << 20);
        for script in [Script::new(), Script::new().pretty().end_of_line(b"\n\n")] {
            let sent = text.clone();
            let server = script
                .on("large", move |_| Act::Return(json!([sent, {"id": 5}])))
                .start_unix();
            let guest = Guest::at(&server, Options::new());
            let value = guest.ask("large").unwrap();
            assert!(value[0] == text, "the same");
            guest.works();
        }
    });
}
