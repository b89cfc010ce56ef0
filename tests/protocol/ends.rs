//! What ends a session, what is told of it, and what becomes of the messages.

use std::error::Error as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use interplay::protocol::{End, Error, Kind, Loop, Progress, Side, State, Ticket};

use super::rig::{
    JAM, REFUSED, Talk, Text, Wire, connected, jam, kinds, no_thread, no_threads, on_both, patient,
    talk,
};
use super::support::{LIMIT, deadline, ms, spawn};

/// One that tells of each line, and after that waits until it may go on.
fn held() -> (Talk, Receiver<(u64, Text)>, Sender<()>) {
    let (sender, heard) = unbounded();
    let (release, released) = unbounded();
    let talk = Talk {
        on_message: Box::new(move |number, line, _| {
            sender.send((number, line))?;
            let _ = released.recv(); // for good, when the test lets go of its end
            Ok(())
        }),
        ..Talk::default()
    };
    (talk, heard, release)
}

#[track_caller]
fn cause(end: &End) -> &Error {
    end.cause().unwrap()
}

/// Side and kind of each failure.
fn failures(error: &Error) -> Vec<(Side, Kind)> {
    let failures = error.errors().iter();
    failures
        .map(|failure| (failure.side, failure.error.kind().clone()))
        .collect()
}

/// Sends until the writer has met that the peer reads no more.
fn send_until_refused(talk: &Loop<Talk>) {
    while talk.send(b"anybody?".to_vec(), None).is_ok() {}
}

#[test]
fn a_peer_that_closes_between_messages_is_told_as_such() {
    on_both(|wire| {
        let (ended, ends) = unbounded();
        let (talks, heard) = Talk::heard();
        let talk = Loop::new(
            Talk {
                on_end: Box::new(move |end| ended.send(end.clone()).unwrap()),
                ..talks
            },
            patient().name("closes"),
        );
        let mut peer = connected(&talk, wire);
        talk.send(b"bye".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"bye");
        peer.say("one\nlast\n");
        let other = peer.again();
        peer.shutdown(Shutdown::Write);
        assert_eq!(peer.rest(), b"");
        no_threads("closes"); // and nobody has collected it
        assert_eq!(talk.state(), State::Disconnecting);
        assert_eq!(
            heard.try_iter().map(|(_, line)| line).collect::<Vec<_>>(),
            [b"one".to_vec(), b"last".to_vec()],
            "right before the close"
        );
        let told = ends.recv().unwrap();
        let end = talk.disconnect().unwrap().unwrap();
        assert_eq!(cause(&end).kind(), &Kind::PeerClosed);
        assert_eq!(failures(cause(&end)), [(Side::Reader, Kind::PeerClosed)]);
        assert!(cause(&end).also().is_none());
        assert_eq!(end.counts(), told.counts());
        assert_eq!((end.counts().sent, end.counts().received), (1, 2));
        assert_eq!((end.counts().unsent, end.counts().discarded), (0, 0));
        assert_eq!(end.lasted(), told.lasted());
        assert!(ends.is_empty());
        let error = end.into_result().unwrap_err();
        assert_eq!(error.kind(), &Kind::PeerClosed);
        drop(other);
    });
}

#[test]
fn on_end_comes_after_all_that_came_and_may_call_the_end_clean() {
    on_both(|wire| {
        let (told, tells) = unbounded();
        let talk = talk(Talk {
            on_message: Box::new({
                let told = told.clone();
                move |_, line, _| Ok(told.send(line)?)
            }),
            on_end: Box::new(move |end| {
                told.send(b"the end".to_vec()).unwrap();
                end.set_clean();
            }),
            ..Talk::default()
        });
        let peer = connected(&talk, wire);
        peer.say("1\n2\n3\n");
        drop(peer);
        assert!(talk.wait_end(None).unwrap().unwrap().is_clean());
        let order: Vec<Text> = tells.try_iter().collect();
        assert_eq!(order.concat(), b"123the end");
    });
}

#[test]
fn a_peer_that_closes_inside_a_message_has_truncated_it() {
    on_both(|wire| {
        let (talks, heard) = Talk::heard();
        let talk = talk(talks);
        let peer = connected(&talk, wire);
        peer.say("whole\npar");
        drop(peer);
        let end = talk.wait_end(None).unwrap().unwrap();
        let kind = Kind::Truncated {
            length: 3,
            start: b"par".to_vec(),
        };
        assert_eq!(cause(&end).kind(), &kind);
        assert_eq!(heard.recv().unwrap().1, b"whole");
        assert_eq!(end.counts().received, 1);
    });
}

#[test]
fn a_peer_that_closes_leaves_what_was_queued_unsent() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let peer = connected(&talk, wire);
        jam(&talk);
        let send = |n: u8| talk.try_send(vec![n; 64 << 10]).unwrap();
        let tickets: Vec<Ticket<_>> = (0..10).map(send).collect();
        // It has not read what it got, so this is a reset.
        drop(peer);
        let end = talk.wait_end(None).unwrap().unwrap();
        let kind = cause(&end).kind();
        assert!(
            matches!(kind, Kind::PeerReset | Kind::PeerClosed),
            "{kind:?}"
        );
        let counts = end.counts();
        assert_eq!(counts.unsent, 10);
        assert_eq!(counts.sent, 0, "one was being written");
        for ticket in &tickets {
            assert_eq!(ticket.progress(), Progress::Dropped);
            let error = ticket.error().unwrap();
            assert_eq!(error.kind(), &Kind::Ended);
            let why = kinds(&error)[1].clone();
            assert!(matches!(why, Kind::PeerReset | Kind::PeerClosed), "{why:?}");
            assert!(ticket.withdraw().is_none());
        }
    });
}

#[test]
fn a_reset_comes_after_the_whole_messages_that_were_before_it() {
    on_both(|wire| {
        let (talks, heard, release) = held();
        let talk = talk(talks);
        let peer = connected(&talk, wire);
        peer.say("one\n");
        assert_eq!(heard.recv().unwrap().1, b"one");
        talk.send(b"unread".to_vec(), None).unwrap();
        // The reader is held, so these wait in the socket or in the decoder when the reset comes.
        peer.say("two\nthree\npart");
        drop(peer); // with input that it has not read, which is a reset
        drop(release);
        let end = talk.wait_end(None).unwrap().unwrap();
        assert_eq!(cause(&end).kind(), &Kind::PeerReset, "{end:?}");
        assert!(cause(&end).io().is_some());
        let lines: Vec<Text> = heard.try_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [b"two".to_vec(), b"three".to_vec()]);
    });
}

#[test]
fn a_writer_that_fails_first_leaves_the_reader_all_its_input() {
    on_both(|wire| {
        let (talks, heard, release) = held();
        let talk = talk(talks);
        let peer = connected(&talk, wire);
        peer.say("one\ntwo\nthree\nfour\n");
        assert_eq!(heard.recv().unwrap().1, b"one");
        drop(peer);
        send_until_refused(&talk);
        assert!(talk.wait_state(State::Disconnecting, LIMIT));
        assert!(
            talk.wait_end(ms(20)).is_err(),
            "the reader's input is waited for"
        );
        drop(release);
        let end = talk.wait_end(None).unwrap().unwrap();
        let lines: Vec<Text> = heard.try_iter().map(|(_, line)| line).collect();
        assert_eq!(lines.concat(), b"twothreefour");
        let error = cause(&end);
        assert!(matches!(error.kind(), Kind::PeerClosed | Kind::PeerReset));
        if wire == Wire::Unix {
            assert_eq!(error.kind(), &Kind::PeerClosed, "the reader's own end");
            let first_writer = [
                (Side::Writer, Kind::PeerReset),
                (Side::Reader, Kind::PeerClosed),
            ];
            assert_eq!(failures(error), first_writer, "in the order of time");
            assert!(error.errors()[0].at <= error.errors()[1].at);
            let also = error.also().unwrap();
            assert_eq!(also.kind(), &Kind::PeerReset);
            assert_eq!(also.io().unwrap().kind(), std::io::ErrorKind::BrokenPipe);
        }
        assert_eq!(end.counts().received, 4);
    });
}

#[test]
fn a_peer_that_only_stops_reading_is_listened_to_for_a_while() {
    deadline(LIMIT, || {
        let (talks, heard) = Talk::heard();
        let talk = Loop::new(talks, patient().drain_timeout(ms(300)));
        let peer = connected(&talk, Wire::Unix);
        peer.shutdown(Shutdown::Read);
        let begun = Instant::now();
        send_until_refused(&talk);
        peer.say("last words\n");
        assert_eq!(heard.recv().unwrap().1, b"last words");
        let end = talk.wait_end(None).unwrap().unwrap();
        assert!(begun.elapsed() >= ms(300));
        assert_eq!(failures(cause(&end)), [(Side::Writer, Kind::PeerReset)]);
        assert_eq!(cause(&end).kind(), &Kind::PeerReset);
    });
}

#[test]
fn an_abort_cuts_the_last_words_short() {
    deadline(LIMIT, || {
        let talk = talk(Talk::default()); // whose patience would be too long for this test
        let peer = connected(&talk, Wire::Unix);
        peer.shutdown(Shutdown::Read);
        send_until_refused(&talk);
        let begun = Instant::now();
        let end = talk.abort().unwrap().unwrap();
        assert_eq!(cause(&end).kind(), &Kind::PeerReset);
        assert!(begun.elapsed() < LIMIT / 2);
    });
}

#[test]
fn what_the_reader_met_is_the_cause_and_the_cut_off_writer_a_consequence() {
    deadline(LIMIT, || {
        let (talks, heard, release) = held();
        let talk = talk(talks);
        let peer = connected(&talk, Wire::Unix);
        peer.say([b"one\n", &[REFUSED][..], b"\n"].concat());
        heard.recv().unwrap();
        drop(peer);
        send_until_refused(&talk);
        drop(release);
        let end = talk.wait_end(None).unwrap().unwrap();
        let error = cause(&end);
        assert!(matches!(error.kind(), Kind::Decode { .. }), "{error:?}");
        assert_eq!(error.also().unwrap().kind(), &Kind::PeerReset);
        assert_eq!(error.errors().len(), 2);
        assert_eq!(error.source().unwrap().to_string(), "no such line");
    });
}

#[test]
fn a_writer_that_fails_by_itself_is_the_cause() {
    deadline(LIMIT, || {
        for direct in [true, false] {
            // Descriptors cannot travel over TCP.
            let talk = talk(Talk {
                descriptors: Box::new(|_| vec![UnixStream::pair().unwrap().0.into()]),
                ..Talk::default()
            });
            let mut peer = connected(&talk, Wire::Tcp);
            let ticket = if direct {
                talk.send(b"with it".to_vec(), None).unwrap()
            } else {
                talk.try_send(b"with it".to_vec()).unwrap()
            };
            assert_eq!(peer.rest(), b"");
            let end = talk.wait_end(None).unwrap().unwrap();
            assert_eq!(failures(cause(&end)), [(Side::Writer, Kind::Io)]);
            assert!(cause(&end).io().is_some());
            assert_ne!(ticket.progress(), Progress::Written);
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn two_failures_of_their_own_are_both_told() {
    on_both(|wire| {
        for writer_first in [true, false] {
            let gone = |side: &str| {
                let name = format!("both:{side}");
                no_thread(|running| running == name);
            };
            let (entered, enters) = unbounded();
            let (go_reader, reader_goes) = bounded(0);
            let (go_writer, writer_goes) = bounded(0);
            let talk = Loop::new(
                Talk {
                    on_message: Box::new({
                        let entered = entered.clone();
                        move |_, _, _| {
                            entered.send(())?;
                            reader_goes.recv()?;
                            Err("reading was in vain".into())
                        }
                    }),
                    outbound: Box::new(move |_| {
                        entered.send(()).unwrap();
                        writer_goes.recv().unwrap();
                        panic!("writing was in vain")
                    }),
                    on_state: Box::new(move |_, new| {
                        // Here the coordinator is held, before it closes the session.
                        if new == State::Disconnecting {
                            gone("rd");
                            gone("wr");
                        }
                    }),
                    ..Talk::default()
                },
                patient().name("both"),
            );
            let peer = connected(&talk, wire);
            peer.say("come\n");
            talk.try_send(b"go".to_vec()).unwrap();
            enters.recv().unwrap();
            enters.recv().unwrap();
            if writer_first {
                go_writer.send(()).unwrap();
                gone("wr");
                go_reader.send(()).unwrap();
            } else {
                go_reader.send(()).unwrap();
                gone("rd");
                go_writer.send(()).unwrap();
            }
            let end = talk.wait_end(None).unwrap().unwrap();
            let error = cause(&end);
            assert_eq!(error.kind(), &Kind::Both, "{error:?}");
            let reader = (Side::Reader, Kind::Hook { hook: "on_message" });
            let message = "writing was in vain".to_owned();
            let hook = "outbound";
            let writer = (Side::Writer, Kind::HookPanic { hook, message });
            let expected = if writer_first {
                [writer, reader]
            } else {
                [reader, writer]
            };
            assert_eq!(failures(error), expected);
            assert_eq!(kinds(error)[1], expected[0].1, "the first is the source");
            assert_eq!(error.also().unwrap().kind(), &expected[1].1);
        }
    });
}

#[test]
fn a_peer_that_closes_during_a_wanted_end_changes_nothing() {
    on_both(|wire| {
        let talk = Arc::new(talk(Talk::default()));
        let peer = connected(&talk, wire);
        peer.say("part of a mess");
        jam(&talk);
        talk.request_disconnect();
        assert!(talk.wait_state(State::Disconnecting, LIMIT));
        assert!(talk.wait_end(ms(20)).is_err(), "it tries to write the rest");
        drop(peer);
        let end = talk.wait_end(None).unwrap().unwrap();
        assert!(end.is_clean(), "{end:?}");
    });
}

#[test]
fn what_comes_when_the_session_closes_is_dropped_and_counted() {
    on_both(|wire| {
        let (talks, heard, release) = held();
        let talk = Arc::new(talk(talks));
        let mut peer = connected(&talk, wire);
        peer.say("1\n2\n3\n4\n5\n6\n");
        heard.recv().unwrap();
        let abort = spawn("aborts", {
            let talk = talk.clone();
            move || talk.abort().unwrap().unwrap()
        });
        assert_eq!(peer.rest(), b"", "it has closed");
        drop(release);
        let end = abort.join().unwrap();
        assert!(end.is_clean());
        assert!(heard.is_empty());
        assert_eq!((end.counts().received, end.counts().discarded), (6, 5));
    });
}

#[test]
fn replies_that_come_while_the_last_messages_are_written_are_delivered() {
    on_both(|wire| {
        let (talks, heard) = Talk::heard();
        let talk = Arc::new(talk(talks));
        let mut peer = connected(&talk, wire);
        jam(&talk);
        let disconnect = spawn("disconnects", {
            let talk = talk.clone();
            move || talk.disconnect().unwrap().unwrap()
        });
        assert!(talk.wait_state(State::Disconnecting, LIMIT));
        peer.say("I am still here\n");
        assert_eq!(heard.recv().unwrap().1, b"I am still here");
        assert_eq!(peer.rest().len(), JAM + 1, "all was written");
        let end = disconnect.join().unwrap();
        assert!(end.is_clean());
        assert_eq!(end.counts().sent, 1);
        assert_eq!(end.counts().unsent, 0);
    });
}

#[test]
fn an_abort_drops_what_is_queued_and_says_so() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let mut peer = connected(&talk, wire);
        jam(&talk);
        let tickets: Vec<Ticket<_>> = (0..300)
            .map(|_| talk.try_send(b"in vain".to_vec()).unwrap())
            .collect();
        let end = talk.abort().unwrap().unwrap();
        assert!(end.is_clean());
        assert!(peer.rest().len() < JAM);
        let counts = end.counts();
        assert_eq!((counts.sent, counts.unsent), (0, 300), "one was begun");
        for ticket in tickets {
            assert_eq!(ticket.progress(), Progress::Dropped);
            assert_eq!(kinds(&ticket.error().unwrap()), [Kind::Ended]);
        }
    });
}

#[test]
fn a_writer_that_fails_leaves_all_it_had_not_begun_unsent() {
    on_both(|wire| {
        let (entered, enters) = bounded(0);
        let (release, released) = bounded::<()>(0);
        let talk = talk(Talk {
            outbound: Box::new(move |line| {
                match &line[..] {
                    b"gate" => {
                        entered.send(()).unwrap();
                        let _ = released.recv();
                    }
                    b"bad" => panic!("it is bad"),
                    _ => {}
                }
                line
            }),
            ..Talk::default()
        });
        let mut peer = connected(&talk, wire);
        let send = |line: &str| talk.try_send(line.as_bytes().to_vec()).unwrap();
        let gate = send("gate");
        enters.recv().unwrap();
        // These are taken together.
        let tickets = ["good", "bad", "third", "fourth"].map(send);
        drop(release);
        assert_eq!(peer.rest(), b"gate\ngood\n");
        let end = talk.wait_end(None).unwrap().unwrap();
        let hook = "outbound";
        let message = "it is bad".to_owned();
        let panicked = Kind::HookPanic { hook, message };
        assert_eq!(cause(&end).kind(), &panicked);
        assert_eq!(gate.progress(), Progress::Written);
        assert_eq!(tickets[0].progress(), Progress::Written);
        for ticket in &tickets[1..] {
            assert_eq!(ticket.progress(), Progress::Dropped);
        }
        assert_eq!(tickets[1].error().unwrap().kind(), &panicked);
        assert_eq!(kinds(&tickets[3].error().unwrap()), [Kind::Ended, panicked]);
        assert_eq!((end.counts().sent, end.counts().unsent), (2, 3));
    });
}

#[test]
fn whoever_is_refused_learns_the_cause_however_early() {
    deadline(LIMIT, || {
        let talk = talk(Talk::default());
        for _ in 0..300 {
            let peer = connected(&talk, Wire::Unix);
            peer.shutdown(Shutdown::Read); // so it is the writer that fails
            let refused = loop {
                match talk.try_send(Vec::new()) {
                    Err(refused) if *refused.error.kind() != Kind::QueueFull => break refused,
                    _ => {}
                }
            };
            assert_eq!(kinds(&refused.error), [Kind::Ended, Kind::PeerReset]);
            talk.abort().unwrap();
        }
    });
}
