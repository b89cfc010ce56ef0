//! Between a connected stream and a session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use interplay::protocol::{Cancel, Error, Kind, Link, Loop, Phase, State};

use super::rig::{
    JAM, PANICS, Peer, REFUSED, Talk, Text, Wire, kinds, no_threads, on_both, pair, patient, talk,
};
use super::support::{LIMIT, deadline, ms, secs, spawn};

/// One that waits for a line, and passes on what comes after it.
fn greeted() -> (Talk, Receiver<(u64, Text)>) {
    let (talk, heard) = Talk::heard();
    let talk = Talk {
        handshake: Box::new(|hands| {
            assert_eq!(hands.number(), 0);
            let line = hands.recv()?;
            assert_eq!(hands.number(), 1);
            hands.send([b"you said: ", &line[..]].concat())?;
            Ok(())
        }),
        ..talk
    };
    (talk, heard)
}

/// Connects a loop that waits for a greeting, to a peer that does this; the error.
#[track_caller]
fn failed(wire: Wire, talk: Talk, act: impl FnOnce(Peer) -> Option<Peer>) -> Error {
    let talk = Loop::new(talk, patient().max_message(100));
    let (addr, peer) = pair(wire);
    let peer = act(peer);
    let error = talk.connect(addr, &Cancel::new()).unwrap_err();
    assert_eq!(talk.state(), State::Idle);
    assert!(talk.disconnect().unwrap().is_none(), "nothing left to say");
    if let Some(mut peer) = peer {
        peer.rest(); // returns: the loop has closed its end
    }
    error
}

#[test]
fn what_comes_behind_the_handshake_is_the_reader_s_first_input() {
    on_both(|wire| {
        let (greeted, heard) = greeted();
        let talk = talk(greeted);
        let (addr, mut peer) = pair(wire);
        peer.say("hello\none\ntwo\nth");
        talk.connect(addr, &Cancel::new()).unwrap();
        assert_eq!(peer.line(), b"you said: hello");
        assert_eq!(heard.recv().unwrap(), (2, b"one".to_vec()));
        assert_eq!(heard.recv().unwrap(), (3, b"two".to_vec()));
        peer.say("ree\n");
        assert_eq!(heard.recv().unwrap(), (4, b"three".to_vec()));
        let counts = talk.disconnect().unwrap().unwrap().counts();
        assert_eq!(counts.received, 4, "the handshake's too");
    });
}

#[test]
fn a_peer_that_is_silent_has_the_time_of_the_handshake_and_no_more() {
    on_both(|wire| {
        let talk = Loop::new(
            greeted().0,
            patient().handshake_timeout(ms(60)).name("silence"),
        );
        let (addr, mut peer) = pair(wire);
        let begun = Instant::now();
        let error = talk.connect(addr, &Cancel::new()).unwrap_err();
        assert!(begun.elapsed() >= ms(60));
        let kind = Kind::Timeout {
            phase: Phase::Handshake,
            allowed: ms(60),
        };
        assert_eq!(error.kind(), &kind);
        assert_eq!(error.phase(), Some(Phase::Handshake));
        assert!(!error.is_retryable());
        assert_eq!(talk.state(), State::Idle);
        assert_eq!(peer.rest(), b"", "the stream is closed");
        no_threads("silence");
    });
}

#[test]
fn a_peer_that_drips_has_no_more_time_than_one_that_is_silent() {
    on_both(|wire| {
        let talk = Loop::new(greeted().0, patient().handshake_timeout(ms(150)));
        let (addr, peer) = pair(wire);
        let (over, is_over) = bounded::<()>(0);
        let drips = spawn("drips", move || {
            let mut drops = 0;
            while is_over
                .recv_timeout(ms(10))
                .is_err_and(|error| error.is_timeout())
            {
                drops += usize::from(peer.try_say(b"."));
            }
            drops
        });
        let error = talk.connect(addr, &Cancel::new()).unwrap_err();
        drop(over);
        assert!(matches!(error.kind(), Kind::Timeout { .. }));
        assert!(drips.join().unwrap() > 0);
    });
}

#[test]
fn a_peer_that_does_not_read_ends_a_long_greeting_by_time() {
    on_both(|wire| {
        let talks = Talk {
            handshake: Box::new(|hands| Ok(hands.send(vec![b'x'; JAM])?)),
            ..Talk::default()
        };
        let talk = Loop::new(talks, patient().handshake_timeout(ms(100)));
        let (addr, _peer) = pair(wire);
        let error = talk.connect(addr, &Cancel::new()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Timeout { .. }));
    });
}

#[test]
fn a_long_greeting_reaches_a_peer_that_reads_late() {
    on_both(|wire| {
        let talks = Talk {
            handshake: Box::new(|hands| {
                hands.recv()?;
                hands.send(vec![b'x'; 3 << 20])?;
                Ok(())
            }),
            ..Talk::default()
        };
        let talk = talk(talks);
        let (addr, mut peer) = pair(wire);
        let reads = spawn("reads", move || {
            peer.say("now\n");
            (peer.line().len(), peer)
        });
        talk.connect(addr, &Cancel::new()).unwrap();
        assert_eq!(reads.join().unwrap().0, 3 << 20);
    });
}

#[test]
fn a_peer_that_leaves_is_the_cause_of_the_failed_handshake() {
    on_both(|wire| {
        let error = failed(wire, greeted().0, |_| None);
        assert_eq!(kinds(&error), [Kind::Handshake, Kind::PeerClosed]);
        let error = failed(wire, greeted().0, |peer| {
            peer.say("hel");
            None
        });
        let truncated = Kind::Truncated {
            length: 3,
            start: b"hel".to_vec(),
        };
        assert_eq!(kinds(&error), [Kind::Handshake, truncated]);
    });
}

#[test]
fn a_reset_during_the_handshake_is_told_with_the_system_s_error() {
    on_both(|wire| {
        let (said, says) = bounded(0);
        let (cut, is_cut) = bounded(0);
        let talks = Talk {
            handshake: Box::new(move |hands| {
                hands.send(b"hello".to_vec())?; // unread by the peer
                said.send(())?;
                is_cut.recv()?;
                hands.recv()?;
                Ok(())
            }),
            ..Talk::default()
        };
        let error = failed(wire, talks, |peer| {
            let _ = spawn("cuts", move || {
                says.recv().unwrap();
                peer.reset();
                cut.send(()).unwrap();
            });
            None
        });
        assert_eq!(kinds(&error), [Kind::Handshake, Kind::PeerReset]);
        assert_eq!(
            error.io().unwrap().kind(),
            std::io::ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn garbage_and_endless_lines_are_no_handshake() {
    on_both(|wire| {
        let garbage = [&[REFUSED][..], b"garbage"].concat();
        let error = failed(wire, greeted().0, |peer| {
            peer.say(&garbage);
            Some(peer)
        });
        let decode = Kind::Decode {
            offset: 0,
            excerpt: garbage.clone(),
        };
        assert_eq!(kinds(&error), [Kind::Handshake, decode]);
        assert!(error.report().ends_with(": no such line"), "{error:#}");
        let error = failed(wire, greeted().0, |peer| {
            peer.say([b'x'; 1000]);
            Some(peer)
        });
        assert_eq!(
            kinds(&error),
            [Kind::Handshake, Kind::TooLong { limit: 100 }]
        );
    });
}

#[test]
fn a_hook_that_fails_before_the_session_leaves_nothing_of_it() {
    on_both(|wire| {
        let refuses = Talk {
            handshake: Box::new(|_| Err("not with you".into())),
            ..Talk::default()
        };
        let error = failed(wire, refuses, Some);
        assert_eq!(error.kind(), &Kind::Handshake);
        assert_eq!(error.report(), "the handshake failed: not with you");
        let panics = Talk {
            handshake: Box::new(|_| panic!("not with you")),
            ..Talk::default()
        };
        let panicked = |hook| Kind::HookPanic {
            hook,
            message: "not with you".to_owned(),
        };
        assert_eq!(failed(wire, panics, Some).kind(), &panicked("handshake"));
        let panics = Talk {
            decoder: Box::new(|| panic!("not with you")),
            ..Talk::default()
        };
        assert_eq!(failed(wire, panics, Some).kind(), &panicked("decoder"));
        let panics = Talk {
            inbound: Box::new(|_| panic!("not with you")),
            ..greeted().0
        };
        let error = failed(wire, panics, |peer| {
            peer.say("hello\n");
            Some(peer)
        });
        assert_eq!(kinds(&error), [Kind::Handshake, panicked("inbound")]);
        let panics = Talk {
            outbound: Box::new(|_| panic!("not with you")),
            ..greeted().0
        };
        let error = failed(wire, panics, |peer| {
            peer.say("hello\n");
            Some(peer)
        });
        assert_eq!(kinds(&error), [Kind::Handshake, panicked("outbound")]);
        let error = failed(wire, greeted().0, |peer| {
            peer.say([PANICS]);
            Some(peer)
        });
        let panicked = Kind::HookPanic {
            hook: "decode",
            message: "as the test wants it".to_owned(),
        };
        assert_eq!(kinds(&error), [Kind::Handshake, panicked]);
    });
}

#[test]
fn what_inbound_drops_is_counted_and_not_received() {
    on_both(|wire| {
        let (told, numbers) = unbounded();
        let (heard, hears) = Talk::heard();
        let talk = talk(Talk {
            handshake: Box::new(move |hands| {
                let line = hands.recv()?;
                told.send((hands.number(), line))?;
                Ok(())
            }),
            inbound: Box::new(|line| Some(line).filter(|line| !line.is_empty())),
            ..heard
        });
        let (addr, peer) = pair(wire);
        peer.say("\n\nhello\n\n\none\n");
        talk.connect(addr, &Cancel::new()).unwrap();
        assert_eq!(numbers.recv().unwrap(), (3, b"hello".to_vec()));
        assert_eq!(hears.recv().unwrap(), (6, b"one".to_vec()));
    });
}

#[test]
fn another_thread_stops_a_handshake_in_whatever_way_it_likes() {
    on_both(|wire| {
        type Stop = fn(&Loop<Talk>, &Cancel);
        let stops: [Stop; 4] = [
            |_, cancel| cancel.set(),
            |talk, _| assert!(talk.disconnect().unwrap().is_none()),
            |talk, _| assert!(talk.abort().unwrap().is_none()),
            |talk, _| talk.request_disconnect(),
        ];
        for stop in stops {
            let (entered, enters) = bounded(0);
            let talk = Arc::new(Loop::new(
                Talk {
                    handshake: Box::new(move |hands| {
                        entered.send(())?;
                        hands.recv()?;
                        Ok(())
                    }),
                    ..Talk::default()
                },
                patient().name("stopped"),
            ));
            let (addr, mut peer) = pair(wire);
            let cancel = Cancel::new();
            let connect = spawn("connects", {
                let (talk, cancel) = (talk.clone(), cancel.clone());
                move || talk.connect(addr, &cancel)
            });
            enters.recv().unwrap();
            stop(&talk, &cancel);
            let error = connect.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), &Kind::Cancelled, "and not a failed handshake");
            assert_eq!(talk.state(), State::Idle);
            assert_eq!(peer.rest(), b"");
            no_threads("stopped");
        }
    });
}

#[test]
fn a_handshake_that_swallows_its_cancellation_starts_no_session() {
    deadline(LIMIT, || {
        let cancel = Cancel::new();
        let (started, starts) = unbounded();
        let talk = talk(Talk {
            handshake: Box::new({
                let cancel = cancel.clone();
                move |_| {
                    cancel.set();
                    Ok(())
                }
            }),
            on_start: Box::new(move |_: &Link<Talk>| Ok(started.send(())?)),
            ..Talk::default()
        });
        let (addr, mut peer) = pair(Wire::Unix);
        let error = talk.connect(addr, &cancel).unwrap_err();
        assert_eq!(error.kind(), &Kind::Cancelled);
        assert_eq!(talk.state(), State::Idle);
        assert_eq!(peer.rest(), b"");
        assert!(starts.is_empty());
    });
}

#[test]
fn a_flag_that_is_set_lets_nothing_begin() {
    deadline(LIMIT, || {
        let talk = talk(Talk::default());
        let cancel = Cancel::new();
        cancel.set();
        let (addr, _peer) = pair(Wire::Unix);
        let error = talk.connect(addr, &cancel).unwrap_err();
        assert_eq!(error.kind(), &Kind::Cancelled);
        let error = talk
            .serve_one("127.0.0.1:0".parse().unwrap(), &cancel)
            .unwrap_err();
        assert_eq!(error.kind(), &Kind::Cancelled);
        assert_eq!(talk.state(), State::Idle);
    });
}

#[test]
fn a_given_stream_s_own_timeouts_do_not_disturb_the_session() {
    deadline(LIMIT, || {
        let (talks, heard) = Talk::heard();
        let talk = talk(talks);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        talk.connect(ours.into(), &Cancel::new()).unwrap();
        assert!(talk.wait_end(ms(50)).is_err(), "the reader waits on");
        Peer::new(theirs.try_clone().unwrap()).say("late\n");
        assert_eq!(heard.recv_timeout(secs(50)).unwrap().1, b"late");
    });
}
