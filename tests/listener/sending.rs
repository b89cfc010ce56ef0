//! The sender of a child, used in this process.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use interplay::listener::Refused;
use interplay::listener::child::{Error, Sender as ChildSender};
use serde::{Serialize, Serializer};

use super::raw::frame;
use super::rig::{Rig, over_each};
use super::roles::name_of;
use super::*;

fn connect(rig: &Rig, source: &str) -> Result<ChildSender, Error> {
    let raw::Invitation { address, token } = &rig.invitation;
    ChildSender::connect(address, token, source)
}

fn refusal(error: Error) -> Refused {
    match error {
        Error::Refused { reason, .. } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_child_that_is_refused_learns_why() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.max_connections(2));
        let first = connect(&rig, "a").unwrap();
        let raw::Invitation { address, token } = &rig.invitation;
        let taken = connect(&rig, "a").unwrap_err();
        assert!(taken.to_string().contains("connected already"), "{taken}");
        assert_eq!(refusal(taken), Refused::Taken);
        let wrong = ChildSender::connect(address, &token.replace(|_| true, "0"), "b");
        assert_eq!(refusal(wrong.unwrap_err()), Refused::BadToken);
        let second = connect(&rig, "b").unwrap();
        for _ in 0..20 {
            assert_eq!(refusal(connect(&rig, "c").unwrap_err()), Refused::TooMany);
        }
        rig.refused(22);
        first.post("c", "still here").unwrap();
        assert_eq!(rig.hears(), r#"a: c "still here""#);
        drop(second);
        assert_eq!(rig.hears(), "b gone: bye");
        connect(&rig, "c").unwrap().post("c", &1).unwrap();
        assert_eq!(rig.hears(), "c: c 1");
    });
}

#[test]
fn what_is_no_source_is_refused_before_a_connection_is_made() {
    for source in ["", &"x".repeat(256)] {
        let error = ChildSender::connect("/nowhere", "", source).unwrap_err();
        assert_eq!(name_of(&error), "BadSource");
    }
}

#[test]
fn who_cannot_be_reached_is_named() {
    within(|| {
        for address in [
            "/nowhere/at/all",
            "",
            "tcp:",
            "tcp:localhost",
            "tcp:127.0.0.1:0",
            "tcp:127.0.0.1:1",
            &"/x".repeat(300),
            "/tmp",
            "\0",
        ] {
            let error = ChildSender::connect(address, "token", "a").unwrap_err();
            assert_eq!(name_of(&error), "Unreachable", "{address}");
            assert!(std::error::Error::source(&error).is_some());
        }
    });
}

#[test]
fn one_that_does_not_answer_as_a_listener_does_is_no_listener() {
    within(|| {
        let answers: [&[u8]; 8] = [
            b"",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            &[0, 0, 0, 2],
            &frame(b"{}"),
            &frame(b"[true, 1]"),
            &frame(br#"{"ok": 1}"#),
            &frame(b"\xff"),
            &u32::MAX.to_be_bytes(),
        ];
        for answer in answers {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("tcp:{}", socket.local_addr().unwrap());
            let connects = thread("connects", move || {
                ChildSender::connect(&address, "token", "a").map(drop)
            });
            let (mut stream, _) = socket.accept().unwrap();
            stream.write_all(answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let error = connects.join().unwrap().unwrap_err();
            assert_eq!(name_of(&error), "Unreachable", "{answer:?}: {error}");
        }
    });
}

/// Fails in the middle of what it is.
struct Unsendable;

impl Serialize for Unsendable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let half = (1, "x".repeat(100_000), HashMap::from([((1, 2), 3)]));
        half.serialize(serializer)
    }
}

/// A way to post some text.
type Post = fn(&ChildSender, &str) -> Result<(), Error>;

#[test]
fn data_that_cannot_be_sent_leaves_nothing_on_the_wire() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.max_frame(2000));
        let sender = connect(&rig, "a").unwrap();
        let posts: [Post; 3] = [
            |sender, _| sender.post("bad", &Unsendable),
            |sender, _| sender.try_post("bad", &Unsendable),
            |sender, _| sender.post_timeout("bad", &Unsendable, LONG),
        ];
        for (n, post) in posts.iter().enumerate() {
            assert_eq!(name_of(&post(&sender, "").unwrap_err()), "Unserialisable");
            let long = sender.post("long", &"x".repeat(2000)).unwrap_err();
            assert!(
                matches!(long, Error::TooLong { limit: 2000, length } if length > 2000),
                "{long:?}"
            );
            sender.post("good", &n).unwrap();
            assert_eq!(rig.hears(), format!("a: good {n}"));
        }
        // To the byte.
        let around = r#"{"cmd":"c","data":""}"#.len();
        sender.post("c", &"x".repeat(2000 - around)).unwrap();
        assert!(rig.hears().ends_with("xx\""));
        let long = sender.post("c", &"x".repeat(2001 - around)).unwrap_err();
        assert!(matches!(long, Error::TooLong { length: 2001, .. }));
        drop(sender);
        assert_eq!(rig.hears(), "a gone: bye");
        assert_eq!(rig.listener.stats().refused, 0);
    });
}

#[test]
fn a_sender_is_shared_by_threads_whose_messages_keep_their_order() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.capacity(10));
        let sender = connect(&rig, "a").unwrap();
        let threads = ["1", "2", "3", "4"].map(|cmd| {
            let sender = sender.clone();
            thread(cmd, move || {
                for n in 0..300 {
                    let data = (n, "x".repeat(n * 7 % 5000));
                    match n % 3 {
                        0 => sender.post(cmd, &data).unwrap(),
                        1 => sender.post_timeout(cmd, &data, LONG).unwrap(),
                        _ => loop {
                            match sender.try_post(cmd, &data) {
                                Ok(()) | Err(Error::TimedOut { begun: true }) => break,
                                Err(Error::TimedOut { begun: false }) => std::thread::yield_now(),
                                Err(error) => panic!("{error}"),
                            }
                        },
                    }
                }
            })
        });
        drop(sender);
        let mut next = HashMap::<String, usize>::new();
        loop {
            let heard = rig.hears();
            let Some(rest) = heard.strip_prefix("a: ") else {
                assert_eq!(heard, "a gone: bye");
                break;
            };
            let (cmd, data) = rest.split_once(' ').unwrap();
            let n = next.entry(cmd.to_owned()).or_default();
            assert!(
                data.starts_with(&format!("[{n},\"")),
                "{cmd} {n}: {data:.50}"
            );
            *n += 1;
        }
        assert!(
            next.len() == 4 && next.values().all(|&count| count == 300),
            "{next:?}"
        );
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_post_that_is_not_done_in_time_says_whether_it_was_begun() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.capacity(1));
        let (gate, handler) = Gate::new(|_: Message| ());
        rig.listener.register(source("gate"), handler).unwrap();
        rig.listener.sender().post(plain("gate", "c")).unwrap();
        gate.wait_entered();
        let sender = connect(&rig, "a").unwrap();
        let long = "x".repeat(1_000_000);
        let mut posted = 0;
        // Until one is stuck in the middle; the buffers of TCP grow.
        let posts: [Post; 2] = [
            |sender, long| sender.try_post("c", long),
            |sender, long| sender.post_timeout("c", long, Duration::from_millis(20)),
        ];
        let mut stuck = 0;
        for post in posts.iter().cycle() {
            match post(&sender, &long) {
                Ok(()) | Err(Error::TimedOut { begun: true }) => posted += 1,
                Err(Error::TimedOut { begun: false }) => stuck += 1,
                Err(error) => panic!("{error}"),
            }
            if stuck == 10 {
                break;
            }
        }
        // The goodbye of the drop waits for what was begun.
        let drops = thread("drops", move || drop(sender));
        gate.let_go(1);
        for _ in 0..posted {
            assert_eq!(rig.hears().len(), "a: c ".len() + long.len() + 2);
        }
        assert_eq!(rig.hears(), "a gone: bye");
        drops.join().unwrap();
    });
}

#[test]
fn a_sender_that_was_closed_is_closed_for_all_its_clones() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let sender = connect(&rig, "a").unwrap();
        let clone = sender.clone();
        assert_eq!(clone.source().as_str(), "a");
        clone.post("c", &1).unwrap();
        clone.close().unwrap();
        sender.close().unwrap();
        for sender in [&sender, &clone] {
            assert_eq!(name_of(&sender.post("c", &2).unwrap_err()), "Closed");
        }
        assert_eq!([rig.hears(), rig.hears()], ["a: c 1", "a gone: bye"]);
        // The source is free though they live on.
        let next = connect(&rig, "a").unwrap();
        next.post("c", &3).unwrap();
        drop((sender, clone));
        next.post("c", &4).unwrap();
        assert_eq!([rig.hears(), rig.hears()], ["a: c 3", "a: c 4"]);
    });
}

/// Posts when it is made JSON.
struct Posts<'a>(&'a ChildSender);

impl Serialize for Posts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.post("inner", &1).unwrap();
        serializer.serialize_str("outer")
    }
}

#[test]
fn data_may_post_while_it_is_made_json() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let sender = connect(&rig, "a").unwrap();
        sender.post("c", &Posts(&sender)).unwrap();
        assert_eq!(
            [rig.hears(), rig.hears()],
            ["a: inner 1", r#"a: c "outer""#]
        );
    });
}

#[test]
fn a_child_that_was_cut_off_learns_why_at_its_next_post() {
    // Only a child that breaks the rules is cut off, which a sender never does: so by a listener
    // that is none.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let (cut, was_cut) = unbounded();
    let _parent = std::thread::Builder::new().spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 4];
        stream.read_exact(&mut hello).unwrap();
        let mut hello = vec![0; u32::from_be_bytes(hello) as usize];
        stream.read_exact(&mut hello).unwrap();
        let welcome = frame(br#"{"ok": true, "max_frame": 100}"#);
        let refused = frame(br#"{"ok": false, "reason": "bad_frame", "message": "no"}"#);
        stream.write_all(&[welcome, refused].concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        cut.send(()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new()); // until the child is gone
    });
    let sender = ChildSender::connect(&address, "token", "a").unwrap();
    was_cut.recv_timeout(LONG).unwrap();
    let error = loop {
        // The end may not have come yet.
        if let Err(error) = sender.post("c", &1) {
            break error;
        }
    };
    assert_eq!(refusal(error), Refused::BadFrame);
    let again = sender.post("c", &1).unwrap_err();
    assert_eq!(refusal(again), Refused::BadFrame);
    let close = sender.close().unwrap_err();
    assert_eq!(refusal(close), Refused::BadFrame);
}

#[test]
fn a_child_that_was_cut_off_may_come_back_at_once() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.max_connections(1));
        for n in 1..200 {
            let mut child = rig.invitation.admitted("a");
            child.send(&frame(b"no message"));
            while child.hear().is_some() {}
            rig.refused(n);
        }
    });
}
