//! Who is let in: the hello, and what strangers say in its place.

use interplay::listener::Transport;

use super::raw::{Invitation, frame, message};
use super::rig::{Rig, over_each, reason};
use super::*;

/// What a stranger sends, and the reason to refuse it.
type Stranger = (&'static str, fn(&Invitation) -> Vec<u8>, &'static str);

/// A hello with one entry changed.
fn changed(invitation: &Invitation, key: &str, value: Value) -> Vec<u8> {
    let mut hello = invitation.hello("stranger");
    hello[key] = value;
    frame(hello.to_string().as_bytes())
}

/// A hello without one entry.
fn without(invitation: &Invitation, key: &str) -> Vec<u8> {
    let mut hello = invitation.hello("stranger");
    hello.as_object_mut().unwrap().remove(key);
    frame(hello.to_string().as_bytes())
}

#[rustfmt::skip]
const STRANGERS: &[Stranger] = &[
    ("wrong token", |i| changed(i, "token", json!("0".repeat(32))), "bad_token"),
    ("shorter token", |i| changed(i, "token", json!(i.token[..31])), "bad_token"),
    ("longer token", |i| changed(i, "token", json!(format!("{}0", i.token))), "bad_token"),
    ("token in capitals", |i| changed(i, "token", json!(format!("{}G", &i.token[1..]))), "bad_token"),
    ("empty token", |i| changed(i, "token", json!("")), "bad_token"),
    ("no token", |i| without(i, "token"), "bad_frame"),
    ("token of another type", |i| changed(i, "token", json!(7)), "bad_frame"),
    ("version 2", |i| changed(i, "interplay", json!(2)), "version"),
    ("version 0", |i| changed(i, "interplay", json!(0)), "version"),
    ("no source", |i| without(i, "source"), "bad_frame"),
    ("empty source", |i| changed(i, "source", json!("")), "bad_source"),
    ("long source", |i| changed(i, "source", json!("x".repeat(256))), "bad_source"),
    ("source of another type", |i| changed(i, "source", json!(["a"])), "bad_frame"),
    ("no hello but a message", |_| message("c", 1), "bad_frame"),
    ("no hello but bye", |_| frame(br#"{"bye": true}"#), "bad_frame"),
    ("an empty object", |_| frame(b"{}"), "bad_frame"),
    ("a list", |_| frame(b"[1]"), "bad_frame"),
    ("text in a frame", |_| frame(b"let me in"), "bad_frame"),
    ("bad UTF-8", |_| frame(b"{\"interplay\": 1, \"token\": \"\xff\xfe\"}"), "bad_frame"),
    ("an empty frame", |_| frame(b""), "bad_frame"),
    ("two objects in a frame", |i| {
        let hello = i.hello("stranger").to_string();
        frame(format!("{hello}{hello}").as_bytes())
    }, "bad_frame"),
    ("deep JSON", |_| frame("[".repeat(4000).as_bytes()), "bad_frame"),
    ("deep JSON in a hello", |i| {
        let deep = format!("{}{}", "[".repeat(1900), "]".repeat(1900));
        let hello = i.hello("stranger").to_string();
        frame(hello.replace("\"stranger\"", &deep).as_bytes())
    }, "bad_frame"),
    ("a hello as a list", |i| {
        frame(json!([1, i.token, "stranger", 1]).to_string().as_bytes())
    }, "bad_frame"),
    ("text instead of a frame", |_| b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "too_long"),
    ("an absurd length", |_| u32::MAX.to_be_bytes().to_vec(), "too_long"),
    ("one byte more than a hello may have", |_| (4097_u32).to_be_bytes().to_vec(), "too_long"),
];

#[test]
fn strangers_are_refused_with_a_reason_closed_and_counted_and_nobody_else_notices() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let mut good = rig.invitation.admitted("good");
        rig.connections(1);
        for (count, (name, say, expected)) in (1..).zip(STRANGERS) {
            let mut stranger = rig.invitation.connect().unwrap();
            stranger.send(&say(&rig.invitation));
            assert_eq!(reason(stranger.hear()), *expected, "{name}");
            assert_eq!(stranger.hear(), None, "{name}: it is closed");
            rig.refused(count);
            rig.connections(1);
            good.say(&json!({"cmd": name, "data": count}));
            assert_eq!(rig.hears(), format!("good: {name} {count}"));
        }
        good.say(&json!({"bye": true}));
        assert_eq!(rig.hears(), "good gone: bye");
        assert_eq!(good.hear(), None);
        assert!(rig.heard.is_empty(), "no end of what never was");
    });
}

#[test]
fn a_hello_may_have_more_in_it_than_is_known() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let mut raw = rig.invitation.connect().unwrap();
        let mut hello = rig.invitation.hello("ü \n 字");
        hello["since"] = json!({"later": ["versions"]});
        raw.say(&hello);
        let welcome = raw.hear().unwrap();
        assert_eq!(
            (&welcome["ok"], &welcome["max_frame"]),
            (&json!(true), &json!(16 << 20))
        );
        raw.say(&json!({"cmd": "c", "later": 1}));
        assert_eq!(rig.hears(), "ü \n 字: c null");
    });
}

#[test]
fn a_hello_that_comes_byte_by_byte_is_a_hello() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let mut raw = rig.invitation.connect().unwrap();
        let hello = frame(rig.invitation.hello("slow").to_string().as_bytes());
        for byte in hello.chunks(1) {
            raw.send(byte);
        }
        assert_eq!(raw.hear().unwrap()["ok"], true);
    });
}

#[test]
fn a_hello_and_messages_in_one_piece_are_all_read() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let raw = rig.invitation.connect().unwrap();
        let hello = frame(rig.invitation.hello("eager").to_string().as_bytes());
        raw.send(&[hello, message("1", 1), message("2", 2)].concat());
        drop(raw);
        let heard = [(); 3].map(|()| rig.hears());
        assert_eq!(heard, ["eager: 1 1", "eager: 2 2", "eager gone: cut"]);
    });
}

#[test]
fn who_does_not_say_hello_in_time_is_refused() {
    over_each(|transport| {
        let limit = Duration::from_secs(1);
        let rig = Rig::with(transport, |builder| builder.hello_timeout(limit));
        let good = rig.invitation.admitted("good");
        let hello = frame(rig.invitation.hello("stranger").to_string().as_bytes());
        let before = Instant::now();
        let silent = [b"".as_slice(), &hello[..2], &hello[..hello.len() / 2]].map(|begin| {
            let raw = rig.invitation.connect().unwrap();
            let _ = raw.try_send(begin);
            raw
        });
        for mut raw in silent {
            assert_eq!(reason(raw.hear()), "no_hello");
            assert_eq!(raw.hear(), None);
        }
        assert!(before.elapsed() >= limit, "not before");
        rig.refused(3);
        // The limit is that of the hello and not of what comes after it.
        good.say(&json!({"cmd": "c"}));
        assert_eq!(rig.hears(), "good: c null");
    });
}

#[test]
fn a_hello_that_trickles_in_is_refused_at_the_same_limit() {
    over_each(|transport| {
        let limit = Duration::from_millis(200);
        let rig = Rig::with(transport, |builder| builder.hello_timeout(limit));
        let raw = rig.invitation.connect().unwrap();
        let hello = frame(rig.invitation.hello("stranger").to_string().as_bytes());
        let before = Instant::now();
        let never = crossbeam_channel::never::<()>();
        // Each byte comes in time, all of them do not.
        let sent = hello.chunks(1).take_while(|byte| {
            let _ = never.recv_timeout(Duration::from_millis(20));
            raw.try_send(byte).is_ok()
        });
        assert!(sent.count() < hello.len() - 1);
        assert!(before.elapsed() >= limit);
        rig.refused(1);
    });
}

#[test]
fn silent_strangers_do_not_hold_up_others() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.hello_timeout(2 * LONG));
        let silent = [(); 20].map(|()| rig.invitation.connect().unwrap());
        for source in ["a", "b", "c"] {
            rig.invitation.admitted(source).send(&message("c", 1));
            assert_eq!(rig.hears(), format!("{source}: c 1"));
            assert_eq!(rig.hears(), format!("{source} gone: cut"));
        }
        drop(silent);
        rig.refused(20);
    });
}

#[test]
fn a_source_is_connected_once_at_a_time() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let first = rig.invitation.admitted("a");
        for count in 1..4 {
            let mut second = rig.invitation.connect().unwrap();
            second.say(&rig.invitation.hello("a"));
            assert_eq!(reason(second.hear()), "taken");
            assert_eq!(second.hear(), None);
            rig.refused(count);
        }
        first.send(&message("still", "here"));
        assert_eq!(rig.hears(), r#"a: still "here""#);
        drop(first);
        assert_eq!(rig.hears(), "a gone: cut");
        // It was free before its end was handled.
        let next = rig.invitation.admitted("a");
        next.send(&message("c", 1));
        next.say(&json!({"bye": true}));
        assert_eq!([rig.hears(), rig.hears()], ["a: c 1", "a gone: bye"]);
    });
}

#[test]
fn a_successor_never_mixes_with_its_predecessor() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        for round in 0..50 {
            let raw = rig.invitation.admitted("a");
            let messages = (0..20).flat_map(|n| message("c", 100 * round + n));
            raw.send(&messages.collect::<Vec<u8>>());
            drop(raw);
            // As soon as it is free, not once its end was handled.
            eventually("free", || rig.listener.stats().connections == 0);
        }
        for round in 0..50 {
            for n in 0..20 {
                assert_eq!(rig.hears(), format!("a: c {}", 100 * round + n));
            }
            assert_eq!(rig.hears(), "a gone: cut");
        }
    });
}

#[test]
fn there_are_as_many_connections_as_the_limit_and_no_more() {
    over_each(|transport| {
        let settings = |builder: interplay::listener::Builder| {
            builder.max_connections(3).hello_timeout(2 * LONG)
        };
        let rig = Rig::with(transport, settings);
        let a = rig.invitation.admitted("a");
        let b = rig.invitation.admitted("b");
        let stranger = rig.invitation.connect().unwrap();
        for count in 1..5 {
            let mut more = rig.invitation.connect().unwrap();
            // It is refused before it says anything.
            assert_eq!(reason(more.hear()), "too_many");
            assert_eq!(more.hear(), None);
            rig.refused(count);
        }
        a.send(&message("c", 1));
        b.send(&message("c", 2));
        let mut heard = [rig.hears(), rig.hears()];
        heard.sort();
        assert_eq!(heard, ["a: c 1", "b: c 2"]);
        drop(stranger);
        eventually("room", || rig.invitation.lets_in("c"));
    });
}

#[test]
fn a_place_is_free_once_the_end_of_a_child_is_told() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.max_connections(1));
        for _ in 0..300 {
            drop(rig.invitation.admitted("a"));
            assert_eq!(rig.hears(), "a gone: cut");
        }
    });
}

#[test]
fn two_endpoints_in_one_process_never_meet() {
    within(|| {
        let rigs = [Transport::Tcp, rig::TRANSPORTS[0]]
            .map(|transport| [(); 2].map(|()| Rig::new(transport)));
        for [one, two] in &rigs {
            assert_ne!(one.invitation.address, two.invitation.address);
            assert_ne!(one.invitation.token, two.invitation.token);
            // The same source at both, and a token at the wrong door.
            let (a, b) = (one.invitation.admitted("a"), two.invitation.admitted("a"));
            let mut lost = two.invitation.connect().unwrap();
            lost.say(&one.invitation.hello("lost"));
            assert_eq!(reason(lost.hear()), "bad_token");
            a.send(&message("c", 1));
            b.send(&message("c", 2));
            assert_eq!([one.hears(), two.hears()], ["a: c 1", "a: c 2"]);
            one.listener.shutdown(LONG).unwrap();
            b.send(&message("c", 3));
            assert_eq!(two.hears(), "a: c 3");
            assert_eq!(
                (one.listener.stats().refused, two.listener.stats().refused),
                (0, 1)
            );
        }
    });
}

#[test]
fn settings_at_their_ends_are_taken_as_they_are() {
    over_each(|transport| {
        let none = Rig::with(transport, |builder| builder.max_connections(0));
        let mut stranger = none.invitation.connect().unwrap();
        assert_eq!(reason(stranger.hear()), "too_many");
        let never = Rig::with(transport, |builder| builder.hello_timeout(Duration::ZERO));
        let mut late = never.invitation.connect().unwrap();
        assert_eq!(reason(late.hear()), "no_hello");
        let long = Rig::with(transport, |builder| {
            let builder = builder.hello_timeout(Duration::MAX).max_frame(usize::MAX);
            builder
                .drain_timeout(Duration::MAX)
                .max_connections(usize::MAX)
        });
        let child = long.invitation.admitted("a");
        let _stranger = long.invitation.connect().unwrap();
        child.send(&message("c", 1));
        assert_eq!(long.hears(), "a: c 1");
        long.listener.shutdown(LONG).unwrap();
        assert_eq!(long.hears(), "a gone: stopped");
        let short = Rig::with(transport, |builder| builder.drain_timeout(Duration::ZERO));
        let _child = short.invitation.admitted("a");
        short.listener.shutdown(LONG).unwrap();
        assert_eq!(short.hears(), "a gone: stopped");
    });
}
