//! How sessions end, and what those who wait then learn.

use std::time::Instant;

use interplay::protocol::State;
use interplay::qmp::{Client, End, Error, Filter, Options, Pending, RecvError, Sent, Waiting};
use serde_json::json;

use super::support::qmp::{Act, Script, event, kind, version};
use super::support::{LIMIT, deadline, eventually, ms, spawn, threads};
use super::{Guest, PATIENCE, ahead, interrupted, raw, stop};

/// A server on which "hangs" gets no reply, and "last" this.
fn last(act: impl Fn() -> Act + Send + Sync + 'static) -> Script {
    Script::new()
        .on("hangs", |_| Act::SILENCE)
        .on("last", move |_| act())
}

#[test]
fn every_way_in_which_the_stream_fails_is_told_to_all_that_wait() {
    deadline(LIMIT, || {
        let after = |bytes: &'static [u8]| move || raw(bytes);
        let then_close = |bytes: &'static [u8]| move || Act::All(vec![raw(bytes), Act::Close]);
        let deep = |levels: usize| {
            move || {
                let nested = [b"[".repeat(levels), b"]".repeat(levels)].concat();
                Act::Raw([b"{\"return\": ", &nested[..], b", \"id\": 0}\r\n"].concat())
            }
        };
        let table = [
            (last(|| Act::Close), "PeerClosed"),
            (last(then_close(b"\r\n \r\n")), "PeerClosed"),
            (last(then_close(b"{\"return\": {}, \"id\"")), "Truncated"),
            (last(then_close(b"{\"return\": \"}}}")), "Truncated"),
            (last(|| Act::Close).deaf_after("last"), "PeerReset"),
            (last(after(b"{\"return\": \"\xC3\x28\"}\r\n")), "Decode"),
            (last(after(b"{\"return\": inf}\r\n")), "Decode"),
            (last(after(b"{\"return\": \"\\ud800\"}\r\n")), "Decode"),
            (last(after(b"{\"return\": }\r\n")), "Decode"),
            (last(after(b"[]\r\n")), "NotAnObject"),
            (last(after(b"Segmentation fault\r\n")), "NotAnObject"),
            (last(|| Act::Endless), "TooLong"),
            (last(deep(2000)), "TooDeep"),
            (last(deep(300_000)), "TooDeep"),
        ];
        for (script, expected) in table {
            let server = script.start_unix();
            let guest = Guest::at(&server, Options::new().max_message(1 << 20));
            let caller = guest.caller("hangs");
            server.first("hangs");
            let listener = spawn("listener", {
                let events = guest.client.events(Filter::name("NEVER"));
                move || events.recv().unwrap_err()
            });
            let last = guest.start("last");
            let ended = (Sent::Maybe, expected.to_owned());
            assert_eq!(interrupted(last.wait()), ended);
            assert_eq!(interrupted(caller.join().unwrap()), ended);
            assert_eq!(kind(&guest.cause()), expected);
            match listener.join().unwrap() {
                RecvError::Ended(cause) => assert_eq!(kind(&cause), expected),
                other => panic!("{other:?}"),
            }
            guest.leaves_nothing(&server, 1);
            assert!(guest.ask("query-version").is_err(), "the session has ended");
            assert_eq!(guest.client.state(), State::Disconnecting);
            let end = guest.client.wait_end(PATIENCE).unwrap().unwrap();
            assert_eq!(kind(&end.into_result().unwrap_err()), expected);
            assert_eq!(guest.client.state(), State::Idle);
        }
    });
}

#[test]
fn what_came_whole_before_the_end_is_delivered() {
    deadline(LIMIT, || {
        let server = Script::new()
            .end_of_line(b"")
            .on("last", |command| {
                let reply = json!({"return": "whole", "id": command.id});
                ahead(&[stop(), reply], Act::Close)
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        assert_eq!(guest.ask("last").unwrap(), "whole");
        assert_eq!(guest.next_event(), "STOP");
        assert_eq!(kind(&guest.cause()), "PeerClosed");
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn nesting_that_is_not_too_deep_is_fine() {
    deadline(LIMIT, || {
        let nested = (0..120).fold(json!(7), |inner, _| json!([inner]));
        let sent = nested.clone();
        let server = Script::new()
            .on("deep", move |_| Act::Return(sent.clone()))
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        assert_eq!(guest.ask("deep").unwrap(), nested);
    });
}

#[test]
fn quit_is_a_clean_end_however_the_stream_ends() {
    deadline(LIMIT, || {
        let unix = || Script::new();
        let table = [
            (unix().start_unix(), true),
            (unix().start_tcp(), true),
            (unix().deaf_after("quit").start_unix(), false), // the end of the stream
            (unix().deaf_after("quit").start_unix(), true),  // a reset: the newline is unread
            (unix().deaf_after("quit").start_tcp(), true),
        ];
        for (server, newline) in table {
            for oob in [false, true] {
                let guest = Guest::at(&server, Options::new().newline(newline).oob(oob));
                assert_eq!(guest.ask("quit").unwrap(), json!({}));
                let end = guest.client.wait_end(PATIENCE).unwrap().unwrap();
                assert!(matches!(end, End::ServerQuit), "{end:?}");
                assert_eq!(guest.next_event(), "SHUTDOWN");
                match guest.events.recv_timeout(PATIENCE).unwrap_err() {
                    RecvError::Closed | RecvError::Ended(Error::ServerQuit) => {}
                    other => panic!("{other:?}"),
                }
                guest.leaves_nothing(&server, 1 + usize::from(oob));
            }
        }
    });
}

#[test]
fn commands_behind_quit_are_interrupted_by_it() {
    deadline(LIMIT, || {
        let server = Script::new().deaf_after("quit").start_unix();
        let guest = Guest::at(&server, Options::new());
        let quit = guest.start("quit");
        let behind = [
            guest.client.call("query-version").start(),
            guest.client.call("x").start(),
        ];
        assert_eq!(quit.wait().unwrap().value, json!({}));
        for call in behind {
            let result = call.and_then(Pending::wait); // it may have come too late to be sent at all
            assert_eq!(interrupted(result).1, "ServerQuit");
        }
        assert!(matches!(
            guest.client.disconnect(),
            Ok(Some(End::ServerQuit))
        ));
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn a_server_that_shuts_down_by_itself_says_so_before_it_goes() {
    deadline(LIMIT, || {
        for reset in [false, true] {
            let shutdown = event("SHUTDOWN", json!({"guest": false, "reason": "host-signal"}));
            let script = Script::new().on("last", move |_| {
                Act::All(vec![Act::Send(shutdown.clone()), Act::Close])
            });
            let script = if reset {
                script.deaf_after("last") // the newline stays unread
            } else {
                script
            };
            let server = script.start_unix();
            let guest = Guest::at(&server, Options::new());
            let pending = guest.start("last");
            assert_eq!(guest.next_event(), "SHUTDOWN");
            match guest.cause() {
                Error::PeerClosed {
                    after_shutdown: Some(event),
                } => {
                    assert_eq!(event.data()["reason"], "host-signal");
                }
                other => panic!("{other:?}"),
            }
            drop(pending);
            guest.leaves_nothing(&server, 1);
        }
    });
}

#[test]
fn a_server_that_is_silent_is_met_by_time_limits_alone() {
    deadline(LIMIT, || {
        let server = Script::new().on("hangs", |_| Act::SILENCE).start_unix();
        let guest = Guest::at(&server, Options::new().call_timeout(ms(50)));
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(kind(&guest.ask("hangs").unwrap_err()), "Timeout");
            assert!(start.elapsed() >= ms(50), "not before");
            assert_eq!(guest.client.state(), State::Running);
        }
        let call = guest.client.call("query-version").timeout(PATIENCE);
        assert_eq!(call.run().unwrap().value, version());
    });
}

#[test]
fn a_server_that_stops_reading_holds_nobody_for_ever() {
    deadline(LIMIT, || {
        let server = Script::new()
            .deaf_after("hangs")
            .on("hangs", |_| Act::SILENCE)
            .start_unix();
        let guest = Guest::at(
            &server,
            Options::new().in_band_window(None).flush_timeout(ms(200)),
        );
        let hangs = guest.start("hangs");
        server.first("hangs");
        let much = "x".repeat(1 << 20);
        let large = |timeout| {
            guest
                .client
                .call("y")
                .args(json!({"much": much}))
                .timeout(timeout)
        };
        let written = large(PATIENCE).start().unwrap(); // the socket takes but a part of it
        match large(ms(100)).run().unwrap_err() {
            Error::Timeout {
                waiting: Waiting::Call { sent, .. },
                ..
            } => {
                assert_eq!(sent, Sent::No, "it never left the queue");
            }
            other => panic!("{other:?}"),
        }
        server.send(&stop());
        assert_eq!(guest.next_event(), "STOP", "reading goes on");
        let _ = guest.client.disconnect().unwrap();
        assert_eq!(interrupted(hangs.wait()).0, Sent::Maybe);
        assert_eq!(interrupted(written.wait()).0, Sent::Maybe);
        server.close();
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn a_wanted_end_waits_for_nobody() {
    deadline(LIMIT, || {
        type Ends = fn(&Client);
        let ends: [Ends; 2] = [
            |client| assert!(matches!(client.disconnect(), Ok(Some(End::Closed)))),
            |client| assert!(matches!(client.abort(), Ok(Some(End::Closed)))),
        ];
        for end in ends {
            let server = Script::new().on("hangs", |_| Act::SILENCE).start_unix();
            let guest = Guest::at(&server, Options::new());
            let caller = guest.caller("hangs");
            let call = guest.start("hangs");
            server.nth(2, "hangs");
            end(&guest.client);
            let closed = (Sent::Maybe, "Closed".to_owned());
            assert_eq!(interrupted(caller.join().unwrap()), closed);
            assert_eq!(interrupted(call.wait()), closed);
            match guest.events.recv_timeout(PATIENCE).unwrap_err() {
                RecvError::Closed => {}
                other => panic!("{other:?}"),
            }
            guest.leaves_nothing(&server, 1);
        }
    });
}

#[test]
fn dropping_the_client_ends_what_is_left_of_it() {
    deadline(LIMIT, || {
        let server = Script::new().on("hangs", |_| Act::SILENCE).start_unix();
        let Guest {
            client,
            events,
            name,
        } = Guest::at(&server, Options::new());
        let call = client.call("hangs").start().unwrap();
        let listens = spawn("listens", move || events.recv().unwrap_err());
        server.first("hangs");
        drop(client);
        let prefix = format!("{name}:");
        // The system may show a joined thread a moment longer.
        eventually(LIMIT, || {
            !threads().iter().any(|name| name.starts_with(&prefix))
        });
        assert_eq!(interrupted(call.wait()), (Sent::Maybe, "Closed".to_owned()));
        assert!(matches!(listens.join().unwrap(), RecvError::Closed));
        server.wait_gone(1);
    });
}

#[test]
fn a_flood_of_events_does_not_keep_a_client_from_leaving() {
    deadline(LIMIT, || {
        let server = Script::new()
            .on("flood", |_| {
                raw(&b"{\"event\": \"FLOOD\"}\r\n".repeat(1 << 20))
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        let flood = guest.start("flood");
        assert_eq!(guest.next_event(), "FLOOD");
        assert!(matches!(guest.client.disconnect(), Ok(Some(End::Closed))));
        assert_eq!(interrupted(flood.wait()).1, "Closed");
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn nothing_of_a_session_reaches_the_next_one() {
    deadline(LIMIT, || {
        let server = Script::new().on("hangs", |_| Act::SILENCE).start_unix();
        let guest = Guest::at(&server, Options::new());
        let old = guest.start("hangs");
        let old_id = server.first("hangs").id;
        server.close();
        assert_eq!(interrupted(old.wait()).1, "PeerClosed");
        assert_eq!(kind(&guest.cause()), "PeerClosed");
        guest.client.wait_end(PATIENCE).unwrap();
        guest.connect(&server).unwrap();
        let strays = guest.strays();
        let new = guest.start("hangs");
        let new_id = server.nth(2, "hangs").id;
        if old_id != new_id {
            server.send(&json!({"return": "old", "id": old_id}));
        }
        server.send(&stop());
        server.send(&json!({"return": "new", "id": new_id}));
        assert_eq!(new.wait().unwrap().value, "new");
        assert_eq!(guest.next_event(), "STOP", "the listener goes on");
        assert_eq!(guest.strays() - strays, u64::from(old_id != new_id));
        guest.client.disconnect().unwrap();
        guest.leaves_nothing(&server, 2);
    });
}
