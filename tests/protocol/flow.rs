//! Full directions, slow peers, floods, and the order in which things become visible.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{bounded, unbounded};
use interplay::protocol::{Loop, State};

use super::rig::{Talk, connected, jam, on_both, patient, talk};
use super::support::{LIMIT, ms, spawn};

#[test]
fn a_peer_that_writes_much_before_it_reads_anything_is_served() {
    on_both(|wire| {
        let (talks, heard) = Talk::heard();
        let talk = Arc::new(talk(talks));
        let mut peer = connected(&talk, wire);
        let sends = spawn("sends", {
            let talk = talk.clone();
            move || {
                for _ in 0..3 << 10 {
                    talk.send(vec![b'o'; 1023], None).unwrap();
                }
            }
        });
        peer.say([&[b'i'; 1023][..], b"\n"].concat().repeat(3 << 10));
        for number in 1..=3 << 10 {
            assert_eq!(heard.recv().unwrap(), (number, vec![b'i'; 1023]));
        }
        for _ in 0..3 << 10 {
            assert_eq!(peer.line(), [b'o'; 1023]);
        }
        sends.join().unwrap();
        let end = talk.disconnect().unwrap().unwrap();
        assert!(end.is_clean());
        assert_eq!(
            (end.counts().sent, end.counts().received),
            (3 << 10, 3 << 10)
        );
    });
}

#[test]
fn an_echo_of_more_than_all_buffers_hold_comes_whole() {
    on_both(|wire| {
        let options = patient().queue_messages(4 << 10);
        let talk = Loop::new(
            Talk {
                on_message: Box::new(|_, line, link| {
                    // The reader may not wait, so the queue has to hold what the peer does not read.
                    link.try_send(line)?;
                    Ok(())
                }),
                ..Talk::default()
            },
            options,
        );
        let mut peer = connected(&talk, wire);
        let line = |n: usize| format!("{n:01023}");
        let all: String = (0..3 << 10).map(|n| line(n) + "\n").collect();
        peer.say(all);
        for n in 0..3 << 10 {
            assert_eq!(peer.line(), line(n).as_bytes());
        }
    });
}

#[test]
fn a_disconnect_waits_for_a_peer_that_reads_late() {
    on_both(|wire| {
        let talk = Arc::new(talk(Talk::default()));
        let mut peer = connected(&talk, wire);
        for n in 0..30 {
            talk.try_send(vec![b'a' + n; 1 << 20]).unwrap();
        }
        let disconnect = spawn("disconnects", {
            let talk = talk.clone();
            move || talk.disconnect().unwrap().unwrap()
        });
        assert!(talk.wait_state(State::Disconnecting, LIMIT));
        for n in 0..30 {
            assert!(peer.line() == vec![b'a' + n; 1 << 20]);
        }
        assert_eq!(peer.rest(), b"");
        let end = disconnect.join().unwrap();
        assert!(end.is_clean());
        assert_eq!((end.counts().sent, end.counts().unsent), (30, 0));
    });
}

#[test]
fn a_disconnect_waits_no_longer_than_its_limit_for_a_peer_that_never_reads() {
    on_both(|wire| {
        let talk = Loop::new(Talk::default(), patient().flush_timeout(ms(100)));
        let peer = connected(&talk, wire);
        jam(&talk);
        talk.try_send(b"never".to_vec()).unwrap();
        let begun = Instant::now();
        let end = talk.disconnect().unwrap().unwrap();
        assert!(begun.elapsed() >= ms(100), "it did try");
        assert!(begun.elapsed() < LIMIT / 2, "its own limit, not the test's");
        assert!(end.is_clean());
        assert_eq!((end.counts().sent, end.counts().unsent), (0, 1));
        drop(peer);
    });
}

#[test]
fn a_disconnect_with_nothing_queued_does_not_wait_for_anything() {
    on_both(|wire| {
        let talk = talk(Talk::default()); // with limits longer than the test's
        let peer = connected(&talk, wire);
        assert!(talk.disconnect().unwrap().unwrap().is_clean());
        drop(peer);
    });
}

#[test]
fn a_flood_cannot_keep_a_session_alive() {
    on_both(|wire| {
        for jams in [false, true] {
            let (heard, hears) = bounded(1);
            let talk = Loop::new(
                Talk {
                    on_message: Box::new(move |_, _, _| {
                        let _ = heard.try_send(());
                        Ok(())
                    }),
                    ..Talk::default()
                },
                patient().flush_timeout(ms(50)),
            );
            let peer = connected(&talk, wire);
            let floods = spawn("floods", {
                let peer = peer.again();
                move || peer.flood(&b"again\n".repeat(1000))
            });
            hears.recv().unwrap();
            if jams {
                jam(&talk);
            }
            let end = talk.disconnect().unwrap().unwrap();
            assert!(end.is_clean());
            assert!(floods.join().unwrap() > 0);
            assert!(end.counts().received > end.counts().discarded);
        }
    });
}

#[test]
fn what_came_before_a_reply_is_there_when_the_reply_is() {
    const ROUNDS: u64 = 20_000;
    on_both(|wire| {
        let (event, events) = unbounded();
        let (reply, replies) = unbounded();
        let talk = talk(Talk {
            on_message: Box::new(move |number, line, _| {
                match &line[..] {
                    b"event" => event.send(number)?,
                    _ => reply.send(number)?,
                }
                Ok(())
            }),
            ..Talk::default()
        });
        let mut peer = connected(&talk, wire);
        let answers = spawn("answers", move || {
            for _ in 0..ROUNDS {
                assert_eq!(peer.line(), b"stop");
                peer.say("event\nreply\n");
            }
            peer
        });
        for round in 0..ROUNDS {
            talk.send(b"stop".to_vec(), None).unwrap();
            assert_eq!(replies.recv().unwrap(), 2 * round + 2);
            assert_eq!(events.try_recv().unwrap(), 2 * round + 1);
        }
        let _peer = answers.join().unwrap();
        let end = talk.disconnect().unwrap().unwrap();
        assert_eq!(
            (end.counts().sent, end.counts().received),
            (ROUNDS, 2 * ROUNDS)
        );
    });
}
