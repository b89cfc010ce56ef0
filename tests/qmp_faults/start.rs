//! What comes, or does not come, before a session runs.

use std::time::Instant;

use interplay::protocol::{Cancel, State};
use interplay::qmp::{End, Error, Options, Waiting};
use serde_json::{Value, json};

use super::support::qmp::{Act, Script, greeting, kind, version};
use super::support::{LIMIT, deadline, eventually, ms, pause, spawn};
use super::{Guest, PATIENCE, address, ahead, raw, resume, stop};

#[test]
fn events_and_others_replies_ahead_of_greeting_and_negotiation_do_no_harm() {
    deadline(LIMIT, || {
        let error = json!({"class": "GenericError", "desc": "of another client"});
        let stale = [
            json!({"return": {}, "id": "of-client-0"}),
            json!({"id": {"odd": [null]}, "error": error}),
            json!({"return": {}, "id": 0}),
            json!({"return": {}}),
        ];
        let opening = Act::Send(greeting(&["oob"]));
        let server = Script::new()
            .opening(ahead(&[stop()], opening))
            .on("qmp_capabilities", move |_| {
                let stale = [&stale[..], &[resume()]].concat();
                ahead(&stale, Act::Return(json!({})))
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        assert_eq!([guest.next_event(), guest.next_event()], ["STOP", "RESUME"]);
        assert_eq!(guest.strays(), 4);
        guest.works();
        let negotiation = &server.commands()[0];
        assert!(negotiation.id.as_ref().unwrap().as_str().unwrap().len() >= 16);
        assert_eq!(negotiation.arguments, json!({"enable": ["oob"]}));
    });
}

#[test]
fn what_a_monitor_does_not_say_first_is_not_qmp() {
    deadline(LIMIT, || {
        let table: [&[u8]; 10] = [
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ",
            b"\x16\x03\x01\x02\x00\x01",
            b"[]\r\n",
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n",
            b"{\"return\": {}}\r\n",
            b"{}\r\n",
            b"{\"QMP\": {\"version\": 7, \"capabilities\": []}}\r\n",
            b"{\"QMP\": {\"version\": {}, \"capabilities\": \"oob\"}}\r\n",
        ];
        for bytes in table {
            let server = Script::new().opening(raw(bytes)).start_unix();
            let guest = Guest::new(Options::new());
            match guest.connect(&server).unwrap_err() {
                Error::NotQmp { excerpt, .. } => assert!(!excerpt.is_empty()),
                other => panic!("{} for {}", other.report(), bytes.escape_ascii()),
            }
            assert_eq!(guest.client.state(), State::Idle);
            guest.leaves_nothing(&server, 1);
            assert!(server.commands().is_empty(), "nothing was sent");
        }
    });
}

#[test]
fn a_greeting_of_later_days_will_do() {
    deadline(LIMIT, || {
        let capabilities = json!(["future", 5, {"a": null}, "oob"]);
        let whole =
            json!({"more": 1, "QMP": {"version": {}, "capabilities": capabilities, "x": []}});
        let script = Script::new().opening(Act::Send(whole.clone())).pretty();
        let server = script.end_of_line(b"\n\r\n \t").start_unix();
        let guest = Guest::at(&server, Options::new());
        assert_eq!(json!(guest.client.greeting().unwrap()), whole);
        guest.works();
        assert_eq!(
            guest.client.execute_oob("query-version", ()).unwrap(),
            version()
        );
    });
}

#[test]
fn a_session_that_does_not_begin_in_time_is_given_up_and_says_what_was_missing() {
    deadline(LIMIT, || {
        let silent = |_: &_| Act::SILENCE;
        let table = [
            (Script::new().opening(Act::SILENCE), "Greeting"),
            (Script::new().opening(Act::Send(stop())), "Greeting"),
            (Script::new().opening(raw(b"{\"QMP\"")), "Greeting"),
            (Script::new().drip(1, ms(20)), "Greeting"), // each byte in time, and all of it not
            (Script::new().on("qmp_capabilities", silent), "Negotiation"),
        ];
        for (script, expected) in table {
            let server = script.start_unix();
            let guest = Guest::new(Options::new().handshake_timeout(ms(200)));
            let start = Instant::now();
            let error = guest.connect(&server).unwrap_err();
            assert!(start.elapsed() >= ms(200), "not before");
            match &error {
                Error::Timeout { waiting, allowed } => {
                    assert_eq!(kind(waiting), expected);
                    assert_eq!(*allowed, ms(200));
                }
                other => panic!("{other:?}"),
            }
            let hint = error.report().contains("another client");
            assert_eq!(hint, expected == "Greeting", "{error:#}");
            assert_eq!(guest.client.state(), State::Idle);
            guest.leaves_nothing(&server, 1);
        }
    });
}

#[test]
fn a_monitor_that_is_busy_with_another_client_is_there_for_the_next_one() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let first = Guest::at(&server, Options::new());
        let second = Guest::new(Options::new().handshake_timeout(ms(100)));
        let error = second.connect(&server).unwrap_err();
        assert!(matches!(
            error,
            Error::Timeout {
                waiting: Waiting::Greeting,
                ..
            }
        ));
        first.works();
        let third = Guest::new(Options::new());
        let waits = spawn("waits", {
            let (client, address) = (third.client.clone(), address(&server));
            move || client.connect(address)
        });
        pause(ms(20));
        first.client.disconnect().unwrap();
        waits.join().unwrap().unwrap();
        third.works();
        first.leaves_nothing(&server, 2); // and that of the second, which nobody was there for
    });
}

#[test]
fn a_slow_server_is_waited_for() {
    deadline(LIMIT, || {
        let server = Script::new().drip(1, ms(1)).start_unix();
        let guest = Guest::at(&server, Options::new().handshake_timeout(PATIENCE));
        guest.works();
        server.send(&stop());
        assert_eq!(guest.next_event(), "STOP");
    });
}

#[test]
fn a_server_that_goes_while_the_session_begins_is_told_from_one_that_is_silent() {
    deadline(LIMIT, || {
        let cut = |bytes: &[u8]| Act::All(vec![raw(bytes), Act::Close]);
        let close = |_: &_| Act::Close;
        let cut_reply = |_: &_| Act::All(vec![raw(b"{\"return\""), Act::Close]);
        let table = [
            (Script::new().opening(Act::Close), "PeerClosed"),
            (Script::new().opening(cut(b"\r\n")), "PeerClosed"),
            (Script::new().opening(cut(b"{\"QMP\": {")), "Truncated"),
            (Script::new().on("qmp_capabilities", close), "PeerClosed"),
            (Script::new().on("qmp_capabilities", cut_reply), "Truncated"),
            (
                Script::new()
                    .on("qmp_capabilities", close)
                    .deaf_after("qmp_capabilities"),
                "PeerReset",
            ),
        ];
        for (script, expected) in table {
            let server = script.start_unix();
            let guest = Guest::new(Options::new());
            let error = guest.connect(&server).unwrap_err();
            assert_eq!(kind(&error), expected, "{error:?}");
            assert_eq!(guest.client.state(), State::Idle);
            guest.leaves_nothing(&server, 1);
        }
    });
}

#[test]
fn a_refused_negotiation_is_told_in_the_server_s_words_and_not_tried_again() {
    deadline(LIMIT, || {
        let refuse = |_: &_| Act::Error("GenericError", "no such capability".to_owned());
        let server = Script::new().on("qmp_capabilities", refuse).start_unix();
        let guest = Guest::new(Options::new());
        match guest.connect(&server).unwrap_err() {
            Error::Negotiation { class, desc } => {
                assert_eq!((&*class, &*desc), ("GenericError", "no such capability"));
            }
            other => panic!("{other:?}"),
        }
        guest.leaves_nothing(&server, 1);
        assert_eq!(server.commands().len(), 1);
    });
}

#[test]
fn a_handshake_is_cancelled_from_another_thread() {
    deadline(LIMIT, || {
        let server = Script::new().opening(Act::SILENCE).start_unix();
        let guest = Guest::new(Options::new().handshake_timeout(None));
        let cancel = Cancel::new();
        let waits = spawn("waits", {
            let (client, address) = (guest.client.clone(), address(&server));
            let cancel = cancel.clone();
            move || client.connect_with(address, &cancel)
        });
        eventually(PATIENCE, || guest.client.state() == State::Connecting);
        cancel.set();
        assert_eq!(kind(&waits.join().unwrap().unwrap_err()), "Cancelled");
        assert_eq!(guest.client.state(), State::Idle);
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn a_client_that_failed_to_connect_connects_to_the_next_server() {
    deadline(LIMIT, || {
        let bad = Script::new().opening(raw(b"hello\n")).start_unix();
        let good = Script::new().start_tcp();
        let guest = Guest::new(Options::new());
        for _ in 0..3 {
            assert_eq!(kind(&guest.connect(&bad).unwrap_err()), "NotQmp");
            guest.connect(&good).unwrap();
            guest.works();
            assert!(matches!(guest.client.disconnect(), Ok(Some(End::Closed))));
        }
        guest.leaves_nothing(&good, 3);
    });
}

#[test]
fn out_of_band_is_not_asked_for_where_it_was_not_offered() {
    deadline(LIMIT, || {
        let server = Script::new().opening(Act::Send(greeting(&[]))).start_unix();
        let guest = Guest::at(&server, Options::new());
        let error = guest.client.execute_oob("query-version", ()).unwrap_err();
        assert_eq!(kind(&error), "OobNotEnabled");
        guest.works();
        let names: Vec<_> = server
            .commands()
            .into_iter()
            .map(|c| (c.name, c.oob))
            .collect();
        let expected = ["qmp_capabilities", "query-version"].map(|name| (name.to_owned(), false));
        assert_eq!(names, expected);
        assert_eq!(server.commands()[0].arguments, Value::Null);
    });
}
