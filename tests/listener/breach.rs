//! Children that break the rules after they were welcomed, and what is no breach.

use interplay::listener::Transport;

use super::raw::{frame, message};
use super::rig::{Rig, over_each, reason};
use super::*;

/// The limit of the frames in these tests.
const MAX: usize = 100_000;

/// A message whose frame has this many bytes of JSON.
fn message_of(length: usize) -> Vec<u8> {
    let empty = message("c", "").len() - 4;
    let message = message("c", "x".repeat(length - empty));
    assert_eq!(message.len(), 4 + length);
    message
}

fn nested(depth: usize) -> Vec<u8> {
    let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    frame(format!(r#"{{"cmd": "c", "data": {deep}}}"#).as_bytes())
}

type Breach = (&'static str, fn() -> Vec<u8>, &'static str, &'static str);

#[rustfmt::skip]
const BREACHES: &[Breach] = &[
    ("one byte too many", || message_of(MAX + 1), "too_long", "TooLong"),
    ("an absurd length", || u32::MAX.to_be_bytes().to_vec(), "too_long", "TooLong"),
    ("text instead of a frame", || b"hello?\n".to_vec(), "too_long", "TooLong"),
    ("text in a frame", || frame(b"hello?"), "bad_frame", "BadFrame"),
    ("an empty frame", || frame(b""), "bad_frame", "BadFrame"),
    ("bad UTF-8", || frame(b"{\"cmd\": \"\xff\"}"), "bad_frame", "BadFrame"),
    ("half a surrogate", || frame(br#"{"cmd": "\ud800"}"#), "bad_frame", "BadFrame"),
    ("a list", || frame(br#"["c", 1]"#), "bad_frame", "BadFrame"),
    ("null", || frame(b"null"), "bad_frame", "BadFrame"),
    ("no cmd", || frame(br#"{"data": 1}"#), "bad_frame", "BadFrame"),
    ("a number as cmd", || frame(br#"{"cmd": 1}"#), "bad_frame", "BadFrame"),
    ("half an object", || frame(br#"{"cmd": "c", "data": 1"#), "bad_frame", "BadFrame"),
    ("more than an object", || frame(br#"{"cmd": "c"} {"cmd": "c"}"#), "bad_frame", "BadFrame"),
    ("deep JSON that does not end", || frame("[".repeat(MAX).as_bytes()), "bad_frame", "BadFrame"),
    ("closing", || frame(br#"{"closing": true}"#), "bad_frame", "BadFrame"),
];

#[test]
fn a_breach_ends_its_connection_with_the_reason_and_no_other() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.max_frame(MAX));
        let good = rig.invitation.admitted("good");
        for (count, (name, breach, expected, end)) in (1..).zip(BREACHES) {
            let mut child = rig.invitation.admitted("breaks");
            let after = message("after", count);
            child.send(&[message("before", count), breach()].concat());
            // What comes after a breach is not looked at, however it was meant.
            let _ = child.try_send(&after);
            assert_eq!(rig.hears(), format!("breaks: before {count}"), "{name}");
            assert_eq!(rig.hears(), format!("breaks gone: {end}"), "{name}");
            // Over TCP the rest that was not read may cost the answer.
            if let Some(heard) = child.hear() {
                assert_eq!(reason(Some(heard)), *expected, "{name}");
                assert_eq!(child.hear(), None);
            } else {
                assert_eq!(transport, Transport::Tcp, "{name}: no answer");
            }
            good.send(&message(name, count));
            assert_eq!(rig.hears(), format!("good: {name} {count}"));
            rig.refused(count);
            rig.connections(1);
        }
    });
}

#[test]
fn what_is_no_breach_is_a_message() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.max_frame(MAX));
        let child = rig.invitation.admitted("a");
        let long = message_of(MAX);
        let table: &[(&[u8], &str)] = &[
            (&frame(br#"{"cmd": ""}"#), " null"),
            (
                &frame(br#"{"data": {"n": [1, 2.5]}, "cmd": "c"}"#),
                r#"c {"n":[1,2.5]}"#,
            ),
            (&frame(br#" { "cmd" : "c" , "data" : null } "#), "c null"),
            (
                &frame(br#"{"cmd": "c", "since": "later", "data": 1}"#),
                "c 1",
            ),
            (&frame(br#"{"cmd": "bye", "data": true}"#), "bye true"),
            (
                &frame("{\"cmd\": \"ü\\u0000\", \"data\": \"\\ud83d\\ude00\"}".as_bytes()),
                "ü\0 \"😀\"",
            ),
        ];
        for (bytes, expected) in table {
            child.send(bytes);
            assert_eq!(rig.hears(), format!("a: {expected}"));
        }
        child.send(&long);
        assert_eq!(
            rig.hears().len(),
            "a: c ".len() + long.len() - 4 - r#"{"cmd":"c","data":}"#.len()
        );
        // In pieces of any length the frames are the same.
        let all: Vec<u8> = table
            .iter()
            .flat_map(|(bytes, _)| *bytes)
            .copied()
            .collect();
        for length in [1, 2, 3, 5, 7, 11, 50] {
            all.chunks(length).for_each(|piece| child.send(piece));
            for (_, expected) in table {
                assert_eq!(rig.hears(), format!("a: {expected}"));
            }
        }
        assert_eq!(rig.listener.stats().refused, 0);
    });
}

#[test]
fn a_child_that_stops_in_a_frame_holds_up_nobody() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let half = message("c", "x".repeat(1000));
        let cuts = [1, 3, 4, 5, half.len() - 1];
        let stuck: Vec<_> = cuts
            .iter()
            .map(|cut| {
                let child = rig.invitation.admitted(&format!("stuck {cut}"));
                child.send(&half[..*cut]);
                child
            })
            .collect();
        let good = rig.invitation.admitted("good");
        for n in 0..100 {
            good.send(&message("c", n));
            assert_eq!(rig.hears(), format!("good: c {n}"));
        }
        // It goes on where it stopped.
        stuck[2].send(&half[4..]);
        assert!(rig.hears().starts_with("stuck 4: c \"xxx"));
        drop(stuck);
        let mut gone: Vec<String> = cuts.iter().map(|_| rig.hears()).collect();
        gone.sort();
        let expected = [1, 1003 + 19, 3, 4, 5].map(|_| ());
        assert_eq!(gone.len(), expected.len());
        assert!(
            gone.iter().all(|one| one.ends_with(" gone: cut")),
            "{gone:?}"
        );
        assert_eq!(rig.listener.stats().refused, 0);
    });
}

#[test]
fn the_end_of_writing_in_a_frame_is_the_end_of_the_child() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        for cut in [0, 1, 4, 9] {
            let mut child = rig.invitation.admitted("a");
            child.send(&message("c", cut));
            child.send(&message("never", 0)[..cut]);
            child.end();
            assert_eq!(rig.hears(), format!("a: c {cut}"));
            assert_eq!(rig.hears(), "a gone: cut");
            assert_eq!(child.hear(), None);
        }
    });
}

#[test]
fn nothing_after_a_bye_is_a_message() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let mut child = rig.invitation.admitted("a");
        let bye = frame(br#"{"bye": true}"#);
        child.send(&[message("c", 1), bye, message("c", 2)].concat());
        assert_eq!([rig.hears(), rig.hears()], ["a: c 1", "a gone: bye"]);
        while child.hear().is_some() {}
        rig.connections(0);
        let next = rig.invitation.admitted("a");
        next.send(&message("c", 3));
        assert_eq!(rig.hears(), "a: c 3");
    });
}

#[test]
fn data_that_cannot_be_read_is_dropped_and_its_child_goes_on() {
    over_each(|transport| {
        let (send, heard) = unbounded();
        let listener = Listener::<u8>::builder()
            .transport(transport)
            .default_handler(move |message: Message<u8>| Ok(send.send(message.data)?))
            .start()
            .unwrap();
        let invitation = raw::Invitation::new(listener.endpoint().unwrap().env());
        let child = invitation.admitted("a");
        let bad = [json!(256), json!("text"), json!(null), json!(-1)];
        for (number, data) in (1..).zip(bad) {
            child.send(&[message("c", data), nested(40_000), message("c", number)].concat());
            assert_eq!(heard.recv_timeout(LONG).unwrap(), number);
        }
        let stats = listener.stats();
        assert_eq!((stats.unreadable, stats.dropped, stats.refused), (8, 8, 0));
        assert_eq!(stats.connections, 1);
    });
}

/// Panics instead of an error.
struct Panics;

impl<'de> serde::Deserialize<'de> for Panics {
    fn deserialize<T: serde::Deserializer<'de>>(input: T) -> Result<Self, T::Error> {
        match bool::deserialize(input)? {
            true => panic!("as planned"),
            false => Ok(Self),
        }
    }
}

#[test]
fn data_whose_reading_panics_is_dropped_like_any_other_that_cannot_be_read() {
    over_each(|transport| {
        let (send, heard) = unbounded();
        let listener = Listener::<Panics>::builder()
            .transport(transport)
            .default_handler(move |message: Message<Panics>| Ok(send.send(message.cmd)?))
            .start()
            .unwrap();
        let invitation = raw::Invitation::new(listener.endpoint().unwrap().env());
        let child = invitation.admitted("a");
        child.send(&[message("panics", true), message("fine", false)].concat());
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "fine");
        assert_eq!(listener.stats().unreadable, 1);
    });
}
