//! The outbound queue as senders meet it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use interplay::protocol::{Kind, Loop, Options, Phase, Progress};

use super::rig::{JAM, Peer, Talk, Wire, connected, jam, kinds, on_both, patient, talk};
use super::support::{LIMIT, deadline, eventually, ms, spawn};

/// A loop that has begun to write its first message and waits in a hook until it may go on.
struct Gated {
    talk: Arc<Loop<Talk>>,
    peer: Peer,
    release: Sender<()>,
}

fn gated(wire: Wire, options: Options) -> Gated {
    let (entered, enters): (_, Receiver<()>) = bounded(0);
    let (release, released) = bounded::<()>(0);
    let talk = Loop::new(
        Talk {
            outbound: Box::new(move |line| {
                if line == b"gate" {
                    entered.send(()).unwrap();
                    let _ = released.recv();
                }
                line
            }),
            ..Talk::default()
        },
        options,
    );
    let peer = connected(&talk, wire);
    talk.try_send(b"gate".to_vec()).unwrap();
    enters.recv().unwrap();
    Gated {
        talk: Arc::new(talk),
        peer,
        release,
    }
}

fn number(n: u32) -> Vec<u8> {
    n.to_string().into_bytes()
}

#[test]
fn a_full_queue_gives_messages_back_at_once_or_at_the_deadline() {
    on_both(|wire| {
        let Gated {
            talk,
            mut peer,
            release,
        } = gated(wire, patient().queue_messages(3));
        for n in 0..3 {
            talk.try_send(number(n)).unwrap();
        }
        let refused = talk.try_send(b"late".to_vec()).unwrap_err();
        assert_eq!(refused.error.kind(), &Kind::QueueFull);
        assert_eq!(refused.message, b"late");
        for urgent in [false, true] {
            let begun = Instant::now();
            let deadline = Some(begun + ms(40));
            let refused = match urgent {
                true => talk.send_urgent(b"late".to_vec(), deadline).unwrap_err(),
                false => talk.send(b"late".to_vec(), deadline).unwrap_err(),
            };
            assert!(begun.elapsed() >= ms(40));
            let Kind::Timeout { phase, allowed } = refused.error.kind() else {
                panic!("{:?}", refused.error)
            };
            assert_eq!(*phase, Phase::Send);
            assert!(*allowed <= ms(40) && *allowed > ms(0));
            assert_eq!(refused.message, b"late");
            assert_eq!(refused.to_string(), "the message was not taken");
        }
        let waits = spawn("waits", {
            let talk = talk.clone();
            move || talk.send(b"patient".to_vec(), None).unwrap()
        });
        drop(release);
        waits.join().unwrap();
        let lines = [(); 5].map(|()| String::from_utf8(peer.line()).unwrap());
        assert_eq!(lines, ["gate", "0", "1", "2", "patient"]);
    });
}

#[test]
fn a_queue_is_bounded_in_bytes_too_but_takes_one_message_of_any_size() {
    on_both(|wire| {
        let Gated {
            talk,
            mut peer,
            release,
        } = gated(wire, patient().queue_bytes(1000));
        talk.try_send(vec![b'x'; 2 << 20]).unwrap();
        let refused = talk.try_send(Vec::new()).map(drop);
        assert!(refused.is_err(), "it is over the limit");
        drop(release);
        assert_eq!(peer.line(), b"gate");
        assert_eq!(peer.line().len(), 2 << 20);
        let ticket = talk.send(vec![b'y'; 1000], None).unwrap();
        assert_eq!(peer.line().len(), 1000);
        eventually(LIMIT, || ticket.progress() == Progress::Written);
        let counts = talk.disconnect().unwrap().unwrap().counts();
        assert_eq!((counts.sent, counts.unsent), (3, 0));
    });
}

#[test]
fn a_message_that_still_waits_can_be_taken_back() {
    on_both(|wire| {
        let Gated {
            talk,
            mut peer,
            release,
        } = gated(wire, patient().queue_messages(2));
        let first = talk.try_send(b"first".to_vec()).unwrap();
        let second = talk.send_urgent(b"second".to_vec(), None).unwrap();
        assert_eq!(first.progress(), Progress::Queued);
        let waits = spawn("waits", {
            let talk = talk.clone();
            move || talk.send(b"third".to_vec(), None).unwrap()
        });
        assert_eq!(first.withdraw().unwrap(), b"first");
        assert_eq!(first.progress(), Progress::Dropped);
        assert!(first.error().is_none());
        assert!(first.withdraw().is_none(), "it is gone");
        let third = waits.join().unwrap(); // it made room
        drop(release);
        assert_eq!(peer.line(), b"gate");
        assert_eq!(peer.line(), b"second");
        assert_eq!(peer.line(), b"third");
        for ticket in [&second, &third] {
            eventually(LIMIT, || ticket.progress() == Progress::Written);
            assert!(ticket.withdraw().is_none(), "too late");
            assert!(ticket.error().is_none());
        }
        let counts = talk.disconnect().unwrap().unwrap().counts();
        assert_eq!((counts.sent, counts.unsent), (3, 0));
        assert_eq!(second.progress(), Progress::Written, "known after the end");
        assert!(second.withdraw().is_none());
    });
}

#[test]
fn whoever_waits_for_room_is_woken_by_the_end_and_gets_the_message_back() {
    on_both(|wire| {
        for by_peer in [true, false] {
            let talk = Arc::new(Loop::new(Talk::default(), patient().queue_bytes(1)));
            let peer = connected(&talk, wire);
            let long = || vec![b'x'; JAM];
            talk.send(long(), None).unwrap(); // more than the socket takes
            talk.send(long(), None).unwrap(); // and one waits
            let waiting = [(); 3].map(|()| {
                let talk = talk.clone();
                spawn("waits", move || {
                    talk.send(b"mine".to_vec(), None).unwrap_err()
                })
            });
            let urgent = spawn("waits", {
                let talk = talk.clone();
                move || talk.send_urgent(b"mine".to_vec(), None).unwrap_err()
            });
            let mut kept = None;
            if by_peer {
                drop(peer);
            } else {
                kept = Some(peer);
                talk.request_disconnect();
            }
            for thread in waiting.into_iter().chain([urgent]) {
                let refused = thread.join().unwrap();
                assert_eq!(refused.message, b"mine");
                let kinds = kinds(&refused.error);
                assert_eq!(kinds[0], Kind::Ended);
                if by_peer {
                    assert!(matches!(kinds[1], Kind::PeerReset | Kind::PeerClosed));
                } else {
                    assert_eq!(kinds.len(), 1, "it was wanted");
                }
            }
            let end = talk.abort().unwrap().unwrap();
            assert_eq!(end.is_clean(), !by_peer);
            drop(kept);
        }
    });
}

#[test]
fn an_urgent_message_overtakes_a_thousand() {
    on_both(|wire| {
        let Gated {
            talk,
            mut peer,
            release,
        } = gated(wire, patient());
        for n in 0..1000 {
            talk.try_send(number(n)).unwrap();
        }
        talk.send_urgent(b"urgent".to_vec(), None).unwrap();
        talk.send_urgent(b"so am I".to_vec(), None).unwrap();
        drop(release);
        assert_eq!(peer.line(), b"gate");
        assert_eq!(peer.line(), b"urgent");
        assert_eq!(peer.line(), b"so am I");
        for n in 0..1000 {
            assert_eq!(peer.line(), number(n));
        }
    });
}

#[test]
fn an_urgent_message_never_cuts_another_in_two() {
    on_both(|wire| {
        for direct in [true, false] {
            let talk = talk(Talk::default());
            let mut peer = connected(&talk, wire);
            let long = vec![b'x'; JAM];
            let ticket = match direct {
                true => talk.send(long, None).unwrap(), // what is left over goes to the writer
                false => talk.try_send(long).unwrap(),
            };
            eventually(LIMIT, || ticket.progress() == Progress::Writing);
            let after = talk.send(b"after".to_vec(), None).unwrap();
            talk.send_urgent(b"urgent".to_vec(), None).unwrap();
            assert_eq!(after.progress(), Progress::Queued);
            assert_eq!(ticket.progress(), Progress::Writing);
            assert!(ticket.withdraw().is_none());
            assert_eq!(peer.line().len(), JAM);
            assert_eq!(peer.line(), b"urgent");
            assert_eq!(peer.line(), b"after");
        }
    });
}

#[test]
fn a_caller_s_deadline_never_cuts_its_message() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let mut peer = connected(&talk, wire);
        let soon = Some(Instant::now() + ms(1));
        // There is room, so it is taken, though it cannot be written before that.
        talk.send(vec![b'x'; JAM], soon).unwrap();
        talk.send(b"next".to_vec(), soon).unwrap();
        assert_eq!(peer.line().len(), JAM);
        assert_eq!(peer.line(), b"next");
    });
}

#[test]
fn each_thread_s_messages_keep_their_order_in_each_lane() {
    on_both(|wire| {
        const EACH: u32 = 500;
        let talk = Arc::new(Loop::new(Talk::default(), patient().queue_messages(20)));
        let mut peer = connected(&talk, wire);
        let threads: Vec<_> = (0..4)
            .map(|id| {
                let talk = talk.clone();
                spawn("sends", move || {
                    for n in 0..EACH {
                        let urgent = n % 5 == 0;
                        let line = format!("{id}{} {n}", if urgent { "u" } else { "n" });
                        match urgent {
                            true => talk.send_urgent(line.into(), None).unwrap(),
                            false => talk.send(line.into(), None).unwrap(),
                        };
                    }
                })
            })
            .collect();
        let mut last: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..4 * EACH {
            let line = String::from_utf8(peer.line()).unwrap();
            let (lane, n) = line.split_once(' ').unwrap();
            let n = n.parse().unwrap();
            let before = last.insert(lane.to_owned(), n);
            assert!(before.is_none_or(|before| before < n), "{lane} {n}");
        }
        for thread in threads {
            thread.join().unwrap();
        }
        let counts = talk.disconnect().unwrap().unwrap().counts();
        assert_eq!(counts.sent, u64::from(4 * EACH));
    });
}

#[test]
fn try_send_never_writes_on_its_caller_s_thread() {
    deadline(LIMIT, || {
        let (told, writers) = unbounded();
        let talk = talk(Talk {
            outbound: Box::new(move |line| {
                told.send(std::thread::current().id()).unwrap();
                line
            }),
            ..Talk::default()
        });
        let mut peer = connected(&talk, Wire::Unix);
        for _ in 0..50 {
            talk.try_send(b"there".to_vec()).unwrap();
            peer.line();
            assert_ne!(writers.recv().unwrap(), std::thread::current().id());
        }
    });
}

#[test]
fn what_is_withdrawn_during_the_flush_is_not_waited_for() {
    on_both(|wire| {
        let talk = Arc::new(talk(Talk::default()));
        let mut peer = connected(&talk, wire);
        jam(&talk);
        let ticket = talk.try_send(b"not any more".to_vec()).unwrap();
        talk.request_disconnect();
        assert_eq!(ticket.withdraw().unwrap(), b"not any more");
        let rest = peer.rest();
        assert!(!rest.ends_with(b"not any more\n"));
        let end = talk.wait_end(None).unwrap().unwrap();
        assert!(end.is_clean());
        assert_eq!(end.counts().unsent, 0);
    });
}
