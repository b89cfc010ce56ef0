//! Session after session of one loop: collecting, starting anew, letting go.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use crossbeam_channel::unbounded;
use interplay::protocol::{
    Addr, Cancel, Counts, End, Error, Hands, Kind, Link, Loop, Options, SendError, State, Stream,
    Ticket,
};

use super::rig::{Talk, Wire, connected, jam, no_threads, on_both, pair, patient, talk};
use super::support::{LIMIT, deadline, eventually, ms, spawn, threads};

#[test]
fn three_threads_that_disconnect_get_the_same_end() {
    on_both(|wire| {
        for round in 0..50 {
            let (told, states) = unbounded();
            let talk = Arc::new(talk(Talk {
                on_state: Box::new(move |_, new| told.send(new).unwrap()),
                ..Talk::default()
            }));
            let mut peer = connected(&talk, wire);
            talk.try_send(b"last".to_vec()).unwrap();
            let together = Arc::new(Barrier::new(3));
            let calls = [Loop::disconnect, Loop::disconnect, |talk: &Loop<_>| {
                talk.wait_end(None)
            }];
            let threads = calls.map(|call| {
                let (talk, together) = (talk.clone(), together.clone());
                spawn("disconnects", move || {
                    together.wait();
                    let end = call(&talk).unwrap();
                    assert_eq!(talk.state(), State::Idle);
                    end
                })
            });
            let ends = threads.map(|thread| thread.join().unwrap());
            // Who comes when it is over finds nothing any more.
            let ends: Vec<End> = ends.into_iter().flatten().collect();
            assert!(!ends.is_empty(), "round {round}");
            let lasted: BTreeSet<_> = ends.iter().map(End::lasted).collect();
            assert_eq!(lasted.len(), 1, "one and the same");
            for end in &ends {
                assert!(end.is_clean());
                assert_eq!((end.counts().sent, end.counts().unsent), (1, 0));
            }
            assert_eq!(peer.rest(), b"last\n");
            let idle = |state: &State| *state == State::Idle;
            assert_eq!(states.try_iter().filter(idle).count(), 1);
        }
    });
}

#[test]
fn all_who_wait_when_the_end_comes_get_it() {
    on_both(|wire| {
        let talk = Arc::new(talk(Talk::default()));
        let mut peer = connected(&talk, wire);
        jam(&talk);
        talk.request_disconnect();
        let (began, begins) = unbounded();
        let threads = [(); 3].map(|()| {
            let (talk, began) = (talk.clone(), began.clone());
            spawn("disconnects", move || {
                began.send(()).unwrap();
                talk.disconnect().unwrap()
            })
        });
        begins.iter().take(3).for_each(drop);
        // Nothing tells that they wait; they have this long to come to it.
        super::support::pause(ms(100));
        peer.rest();
        let ends = threads.map(|thread| thread.join().unwrap());
        let lasted: BTreeSet<_> = ends.iter().flatten().map(End::lasted).collect();
        assert_eq!(lasted.len(), 1);
        assert_eq!(talk.state(), State::Idle);
    });
}

#[test]
fn an_abort_cuts_a_flush_short_for_all_who_wait_for_it() {
    on_both(|wire| {
        let talk = Arc::new(talk(Talk::default()));
        let mut peer = connected(&talk, wire);
        jam(&talk);
        let disconnect = spawn("disconnects", {
            let talk = talk.clone();
            move || talk.disconnect().unwrap().unwrap()
        });
        assert!(talk.wait_state(State::Disconnecting, LIMIT));
        let ticket = talk.try_send(b"too late".to_vec()).unwrap_err();
        assert_eq!(ticket.error.kind(), &Kind::Ended);
        let aborted = talk.abort().unwrap();
        let end = disconnect.join().unwrap();
        assert!(end.is_clean());
        if let Some(aborted) = aborted {
            assert_eq!(aborted.lasted(), end.lasted());
        }
        peer.rest();
    });
}

#[test]
fn a_requested_end_can_be_waited_for() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let mut peer = connected(&talk, wire);
        for _ in 0..100 {
            talk.try_send(b"queued".to_vec()).unwrap();
        }
        talk.request_disconnect();
        talk.request_disconnect();
        let end = talk.wait_end(LIMIT).unwrap().unwrap();
        assert!(end.is_clean());
        assert_eq!((end.counts().sent, end.counts().unsent), (100, 0));
        assert_eq!(peer.rest(), b"queued\n".repeat(100));
        assert!(talk.wait_end(None).unwrap().is_none());
    });
}

#[test]
fn a_link_ends_its_own_session_and_no_later_one() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let first = connected(&talk, wire);
        let link = talk.link().unwrap();
        link.clone().request_disconnect();
        assert!(talk.wait_end(None).unwrap().unwrap().is_clean());
        let mut second = connected(&talk, wire);
        link.request_disconnect();
        let refused = link.send(b"old".to_vec(), None).unwrap_err();
        assert_eq!(refused.error.kind(), &Kind::Ended);
        assert_eq!(refused.message, b"old");
        assert_eq!(talk.state(), State::Running);
        talk.send(b"new".to_vec(), None).unwrap();
        assert_eq!(second.line(), b"new");
        drop(first);
    });
}

#[test]
fn a_new_session_has_nothing_of_the_one_before() {
    on_both(|wire| {
        let (talks, heard) = Talk::heard();
        let talk = talk(talks);
        for round in 0..3 {
            let mut peer = connected(&talk, wire);
            peer.say("first\nsecond\nthi");
            assert_eq!(heard.recv().unwrap(), (1, b"first".to_vec()), "{round}");
            assert_eq!(heard.recv().unwrap(), (2, b"second".to_vec()));
            talk.send(b"hello".to_vec(), None).unwrap();
            assert_eq!(peer.line(), b"hello");
            jam(&talk);
            let ticket = talk.try_send(b"of this session only".to_vec()).unwrap();
            match round {
                0 => drop(peer),
                _ => drop(talk.abort().unwrap().unwrap()),
            }
            if let Some(end) = talk.wait_end(None).unwrap() {
                assert_eq!(end.counts().received, 2);
                assert_eq!(end.counts().unsent, 1);
            }
            assert!(ticket.error().is_some());
        }
        assert!(heard.is_empty());
    });
}

#[test]
fn a_loop_that_failed_to_connect_connects_the_next_time() {
    on_both(|wire| {
        let (told, states) = unbounded();
        let talk = talk(Talk {
            on_state: Box::new(move |old, new| told.send((old, new)).unwrap()),
            ..Talk::default()
        });
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        let error = talk.connect(nobody.into(), &Cancel::new()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Connect { .. }));
        assert!(error.is_retryable());
        assert_eq!(
            error.io().unwrap().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
        let _peer = connected(&talk, wire);
        talk.disconnect().unwrap();
        use State::{Connecting, Disconnecting, Idle, Running};
        let expected = [
            (Idle, Connecting),
            (Connecting, Idle),
            (Idle, Connecting),
            (Connecting, Running),
            (Running, Disconnecting),
            (Disconnecting, Idle),
        ];
        assert_eq!(states.try_iter().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn a_loop_that_is_dropped_leaves_no_thread_and_closes_its_stream() {
    on_both(|wire| {
        let talk = Loop::new(Talk::default(), patient().name("let go"));
        let mut peer = connected(&talk, wire);
        let link = talk.link().unwrap();
        jam(&talk);
        drop(talk); // which does not wait for the flush
        no_threads("let go");
        assert_eq!(link.state(), State::Idle);
        peer.rest();
    });
}

#[test]
fn a_loop_may_be_dropped_with_an_end_that_nobody_collected() {
    on_both(|wire| {
        let talk = Loop::new(Talk::default(), patient().name("uncollect"));
        drop(connected(&talk, wire));
        assert!(talk.wait_state(State::Disconnecting, LIMIT));
        drop(talk);
        no_threads("uncollect");
    });
}

#[test]
fn a_loop_may_be_dropped_idle_or_listening() {
    deadline(LIMIT, || {
        drop(talk(Talk::default()));
        let listens = talk(Talk::default());
        let Addr::Tcp(host, port) = listens.listen("127.0.0.1:0".parse().unwrap()).unwrap() else {
            panic!("another family")
        };
        drop(listens);
        assert!(std::net::TcpStream::connect((host, port)).is_err());
    });
}

#[test]
fn the_thread_that_connects_may_hold_the_last_handle() {
    deadline(LIMIT, || {
        let talk = Arc::new(Loop::new(
            Talk {
                handshake: Box::new(|hands| {
                    hands.recv()?;
                    Ok(())
                }),
                ..Talk::default()
            },
            patient().name("elsewhere"),
        ));
        let (addr, mut peer) = pair(Wire::Unix);
        let connect = spawn("connects", {
            let talk = talk.clone();
            move || talk.connect(addr, &Cancel::new())
        });
        assert!(talk.wait_state(State::Connecting, LIMIT));
        drop(talk);
        peer.say("go\n");
        connect.join().unwrap().unwrap();
        assert_eq!(peer.rest(), b"");
        no_threads("elsewhere");
    });
}

#[test]
fn links_do_not_keep_a_session_alive() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let mut peer = connected(&talk, wire);
        let links: Vec<Link<Talk>> = vec![talk.link().unwrap(); 10];
        drop(talk);
        assert_eq!(peer.rest(), b"");
        assert!(links.iter().all(|link| link.state() == State::Idle));
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_threads_carry_the_loop_s_name_and_their_duty() {
    deadline(LIMIT, || {
        for (name, kept) in [
            ("short", "short"),
            ("of-fourteen-by", "of-fourteen-"),
            ("ééééééé", "éééééé"),
        ] {
            let talk = Loop::new(Talk::default(), patient().name(name));
            assert_eq!(talk.options(), &patient().name(name));
            let _peer = connected(&talk, Wire::Unix);
            for duty in ["rd", "wr", "co"] {
                let name = format!("{kept}:{duty}");
                eventually(LIMIT, || threads().contains(&name));
            }
        }
    });
}

#[test]
fn what_is_shared_between_threads_can_be() {
    fn is_send_sync<T: Send + Sync>() {}
    is_send_sync::<Loop<Talk>>();
    is_send_sync::<Link<Talk>>();
    is_send_sync::<Ticket<Talk>>();
    is_send_sync::<Cancel>();
    is_send_sync::<Options>();
    is_send_sync::<Error>();
    is_send_sync::<SendError<Vec<u8>>>();
    is_send_sync::<End>();
    is_send_sync::<Counts>();
    is_send_sync::<Addr>();
    is_send_sync::<Stream>();
    let _: fn(&mut Hands<'_, Talk>) = |hands| drop(format!("{hands:?}"));
}
