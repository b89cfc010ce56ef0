//! What a message loop leaves in its process: log lines, threads and descriptors.
//!
//! These are seen of the process as a whole, so the tests of this file run one after the other,
//! and no others run beside them.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

#[path = "protocol/rig.rs"]
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interplay::protocol::{Cancel, Kind, Loop};
use log::{Level, LevelFilter};

use rig::{Talk, Wire, connected, pair, patient};
use support::log::{Line, alone, at, logged, take_log};
use support::{LIMIT, deadline, eventually, secs, spawn, threads};

/// One that describes its messages without what is secret in them; how often it was asked.
fn describing() -> (Talk, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let talk = Talk {
        describe: Box::new(move |line| {
            count.fetch_add(1, Ordering::Relaxed);
            let text = String::from_utf8_lossy(line);
            (text != "silent").then(|| text.replace("secret", "***"))
        }),
        ..Talk::heard().0
    };
    (talk, asked)
}

#[test]
fn a_session_that_was_ended_on_purpose_logs_what_it_did_and_no_error() {
    let _alone = alone(LevelFilter::Trace);
    deadline(LIMIT, || {
        for wire in [Wire::Unix, Wire::Tcp] {
            let (talks, _) = describing();
            let (heard, hears) = crossbeam_channel::bounded(1);
            let talks = Talk {
                on_message: Box::new(move |_, _, _| Ok(heard.send(())?)),
                ..talks
            };
            let talk = Loop::new(talks, patient().name("tell-tale"));
            let mut peer = connected(&talk, wire);
            talk.send(b"the secret".to_vec(), None).unwrap();
            talk.try_send(b"silent".to_vec()).unwrap();
            talk.try_send("ä".repeat(1000).into_bytes()).unwrap();
            for _ in 0..3 {
                peer.line();
            }
            peer.say("another secret\n");
            hears.recv().unwrap();
            assert!(talk.disconnect().unwrap().unwrap().is_clean());
            drop(talk);
            let lines = take_log();
            assert_eq!(at(&lines, Level::Error), [""; 0]);
            assert_eq!(at(&lines, Level::Warn), [""; 0]);
            let of_the_loop = |line: &Line| line.target == "interplay::tell-tale";
            assert!(lines.iter().all(of_the_loop), "{lines:?}");
            let infos = at(&lines, Level::Info);
            assert!(infos[0].starts_with("connected with "), "{infos:?}");
            assert!(infos[1].ends_with(" ended"), "{infos:?}");
            assert_eq!(infos.len(), 2);
            let long = "--> ".to_owned() + &"ä".repeat(512);
            let expected = [
                "idle -> connecting",
                "connecting -> running",
                "--> the ***",
                &long,
                "<-- another ***",
                "running -> disconnecting",
                "disconnecting -> idle",
            ];
            assert_eq!(at(&lines, Level::Debug), expected);
        }
    });
}

#[test]
fn no_text_is_made_of_messages_that_are_not_logged() {
    let _alone = alone(LevelFilter::Info);
    deadline(LIMIT, || {
        let (talks, asked) = describing();
        let talk = Loop::new(talks, patient());
        let mut peer = connected(&talk, Wire::Unix);
        talk.send(b"there".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"there");
        peer.say("back\n");
        let end = talk.disconnect().unwrap().unwrap();
        assert_eq!(end.counts().sent, 1);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        assert_eq!(take_log().len(), 2, "connected, ended");
    });
}

#[test]
fn a_failure_is_an_error_in_the_log_once_and_a_peer_that_closes_is_none() {
    let _alone = alone(LevelFilter::Info);
    deadline(LIMIT, || {
        let talk = rig::talk(Talk::default());
        let peer = connected(&talk, Wire::Unix);
        peer.say("half a l");
        drop(peer);
        let end = talk.wait_end(None).unwrap().unwrap();
        assert!(matches!(
            end.cause().unwrap().kind(),
            Kind::Truncated { .. }
        ));
        let failed = take_log();
        let errors = at(&failed, Level::Error);
        assert_eq!(errors.len(), 1, "{failed:?}");
        assert!(errors[0].ends_with("the stream ended inside a message, after 8 bytes"));
        drop(connected(&talk, Wire::Unix));
        talk.wait_end(None).unwrap();
        let closed = take_log();
        assert_eq!(at(&closed, Level::Error), [""; 0]);
        let infos = at(&closed, Level::Info);
        assert!(infos[1].ends_with("closed the connection"), "{infos:?}");
        drop(connected(&talk, Wire::Unix));
        assert!(talk.wait_state(interplay::protocol::State::Disconnecting, None));
        drop(talk);
        let dropped = take_log();
        let errors = at(&dropped, Level::Error);
        assert_eq!(errors.len(), 1, "{dropped:?}");
        assert!(errors[0].contains("uncollected"));
    });
}

#[test]
fn a_description_that_panics_costs_a_line_of_the_log_and_nothing_else() {
    let _alone = alone(LevelFilter::Debug);
    deadline(LIMIT, || {
        let talk = rig::talk(Talk {
            describe: Box::new(|_| panic!("as planned")),
            ..Talk::default()
        });
        let mut peer = connected(&talk, Wire::Unix);
        talk.send(b"there".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"there");
        assert!(talk.disconnect().unwrap().unwrap().is_clean());
        let lines = take_log();
        assert_eq!(
            at(&lines, Level::Warn),
            ["hook describe panicked: as planned"]
        );
        assert_eq!(at(&lines, Level::Error), [""; 0]);
    });
}

#[test]
fn a_hook_that_holds_up_the_end_is_told_of_once() {
    let _alone = alone(LevelFilter::Warn);
    deadline(LIMIT, || {
        let (entered, enters) = crossbeam_channel::unbounded();
        let (go_reader, reader_goes) = crossbeam_channel::bounded(0);
        let (go_writer, writer_goes) = crossbeam_channel::bounded(0);
        let talk = Arc::new(rig::talk(Talk {
            on_message: Box::new({
                let entered = entered.clone();
                move |_, _, _| {
                    entered.send(())?;
                    Ok(reader_goes.recv()?)
                }
            }),
            outbound: Box::new(move |line| {
                entered.send(()).unwrap();
                writer_goes.recv().unwrap();
                line
            }),
            ..Talk::default()
        }));
        let peer = connected(&talk, Wire::Unix);
        peer.say("come\n");
        talk.try_send(b"go".to_vec()).unwrap();
        enters.iter().take(2).for_each(drop);
        let aborts = spawn("aborts", {
            let talk = talk.clone();
            move || talk.abort().unwrap().unwrap()
        });
        eventually(secs(30), || !logged().is_empty());
        go_writer.send(()).unwrap();
        support::pause(support::ms(1200)); // another line would come in this time
        go_reader.send(()).unwrap();
        assert!(aborts.join().unwrap().is_clean());
        let lines = take_log();
        assert_eq!(at(&lines, Level::Warn).len(), 1, "{lines:?}");
    });
}

/// How many threads of loops run. Those of the other tests, which wait, come and go.
fn loop_threads() -> usize {
    let of_a_loop = |name: &String| {
        [":rd", ":wr", ":co"]
            .iter()
            .any(|duty| name.ends_with(duty))
    };
    threads().iter().filter(|name| of_a_loop(name)).count()
}

/// The open descriptors of this process; none where the system does not tell.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count())
}

fn many(sessions: usize) {
    let _alone = alone(LevelFilter::Off);
    deadline(secs(600), move || {
        let (told, hears) = crossbeam_channel::unbounded();
        let talk = Arc::new(rig::talk(Talk {
            on_message: Box::new(move |_, line, _| Ok(told.send(line)?)),
            ..Talk::default()
        }));
        let round = |n: usize| {
            let wire = [Wire::Unix, Wire::Tcp][n % 2];
            if n % 7 == 6 {
                // An attempt that comes to nothing.
                let (addr, peer) = pair(wire);
                let cancel = Cancel::new();
                cancel.set();
                talk.connect(addr, &cancel).unwrap_err();
                drop(peer);
                return;
            }
            let mut peer = connected(&talk, wire);
            talk.send(b"there".to_vec(), None).unwrap();
            assert_eq!(peer.line(), b"there");
            peer.say("back\n");
            assert_eq!(hears.recv().unwrap(), b"back");
            match n % 5 {
                0 => drop(talk.disconnect().unwrap()),
                1 => drop(talk.abort().unwrap()),
                2 => {
                    drop(peer);
                    drop(talk.wait_end(None).unwrap());
                }
                3 => {
                    talk.request_disconnect();
                    drop(talk.wait_end(None).unwrap());
                }
                _ => {
                    peer.say("half");
                    drop(peer);
                    drop(talk.wait_end(None).unwrap());
                }
            }
        };
        round(0);
        let before = descriptors();
        (1..sessions).for_each(round);
        eventually(secs(30), || (loop_threads(), descriptors()) == (0, before));
    });
}

#[test]
fn two_thousand_sessions_leave_threads_and_descriptors_as_they_were() {
    many(2000);
}

#[test]
#[ignore = "takes several seconds"]
fn ten_thousand_sessions_leave_threads_and_descriptors_as_they_were() {
    many(10_000);
}

#[test]
fn loops_that_are_dropped_leave_threads_and_descriptors_as_they_were() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let before = descriptors();
        for n in 0..200 {
            let talk = rig::talk(Talk::default());
            match n % 4 {
                0 => drop(talk.listen("127.0.0.1:0".parse().unwrap()).unwrap()),
                1 => drop(connected(&talk, Wire::Tcp)),
                2 => {
                    let peer = connected(&talk, Wire::Unix);
                    drop(talk);
                    drop(peer);
                }
                _ => {}
            }
        }
        eventually(secs(30), || (loop_threads(), descriptors()) == (0, before));
    });
}

#[test]
fn an_end_that_nobody_collects_holds_no_thread_and_no_descriptor() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let before = descriptors();
        let loops: Vec<_> = (0..50)
            .map(|n| {
                let talk = rig::talk(Talk::default());
                drop(connected(&talk, [Wire::Unix, Wire::Tcp][n % 2]));
                talk
            })
            .collect();
        eventually(secs(30), || (loop_threads(), descriptors()) == (0, before));
        for talk in loops {
            let end = talk.disconnect().unwrap().unwrap();
            assert_eq!(end.cause().unwrap().kind(), &Kind::PeerClosed);
        }
    });
}
