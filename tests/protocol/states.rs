//! The table of calls by state, and calls that race.

use std::sync::{Arc, Barrier};

use crossbeam_channel::{bounded, unbounded};
use interplay::protocol::{Addr, Cancel, Error, Kind, Loop, Phase, SendError, State};

use super::rig::{Peer, Talk, Text, Wire, connected, kinds, knowing, on_both, pair, talk};
use super::support::{LIMIT, deadline, ms, spawn};

#[track_caller]
fn refused<T>(result: Result<T, Error>, actual: State, needed: State) -> Error {
    let Err(error) = result else {
        panic!("accepted while {actual}")
    };
    assert_eq!(error.kind(), &Kind::State { actual, needed });
    error
}

fn here() -> Addr {
    "127.0.0.1:0".parse().unwrap()
}

/// All three ways to send, none of which takes the message.
#[track_caller]
fn no_send(talk: &Loop<Talk>, check: impl Fn(Error)) {
    type Sent = Result<interplay::protocol::Ticket<Talk>, SendError<Text>>;
    let message = || b"mine".to_vec();
    let sent: [Sent; 3] = [
        talk.send(message(), None),
        talk.try_send(message()),
        talk.send_urgent(message(), None),
    ];
    for sent in sent {
        let SendError { message, error, .. } = sent.unwrap_err();
        assert_eq!(message, b"mine", "the message comes back");
        check(error);
    }
}

/// What begins something new, none of which may.
#[track_caller]
fn no_beginning(talk: &Loop<Talk>, actual: State) -> Vec<Error> {
    let (addr, mut peer) = pair(Wire::Unix);
    let errors = vec![
        refused(talk.connect(addr, &Cancel::new()), actual, State::Idle),
        refused(talk.listen(here()), actual, State::Idle),
        refused(talk.serve_one(here(), &Cancel::new()), actual, State::Idle),
    ];
    assert_eq!(peer.rest(), b"", "the stream that was given is closed");
    assert_eq!(talk.state(), actual);
    errors
}

#[track_caller]
fn is_needed(actual: State, needed: State) -> impl Fn(Error) {
    move |error| assert_eq!(error.kind(), &Kind::State { actual, needed })
}

#[test]
fn an_idle_loop_has_nothing_to_send_to_to_accept_or_to_end() {
    deadline(LIMIT, || {
        let talk = talk(Talk::default());
        let error = refused(talk.accept(&Cancel::new()), State::Idle, State::Connecting);
        assert!(error.to_string().contains("listen first"), "{error}");
        no_send(&talk, is_needed(State::Idle, State::Running));
        assert!(talk.disconnect().unwrap().is_none());
        assert!(talk.abort().unwrap().is_none());
        talk.request_disconnect();
        assert!(talk.wait_end(None).unwrap().is_none());
        assert_eq!(talk.state(), State::Idle);
        assert!(talk.peer().is_none() && talk.link().is_none());
        assert!(talk.wait_state(State::Idle, None));
        assert!(!talk.wait_state(State::Running, ms(1)));
        assert_eq!(talk.options(), &super::rig::patient());
        assert!(format!("{talk:?}").contains("Idle"));
    });
}

/// A loop whose handshake waits for a line.
fn shaking() -> Arc<Loop<Talk>> {
    let listens = Talk {
        handshake: Box::new(|hands| {
            hands.recv()?;
            Ok(())
        }),
        ..Talk::default()
    };
    Arc::new(talk(listens))
}

fn connecting(talk: &Arc<Loop<Talk>>) -> (std::thread::JoinHandle<Result<(), Error>>, Peer) {
    let (addr, peer) = pair(Wire::Unix);
    let connect = spawn("connects", {
        let talk = talk.clone();
        move || talk.connect(addr, &Cancel::new())
    });
    assert!(talk.wait_state(State::Connecting, LIMIT));
    (connect, peer)
}

#[track_caller]
fn nothing_but_the_end(talk: &Loop<Talk>) {
    no_beginning(talk, State::Connecting);
    no_send(talk, is_needed(State::Connecting, State::Running));
    refused(talk.wait_end(None), State::Connecting, State::Running);
    assert!(talk.peer().is_none() && talk.link().is_none());
}

#[test]
fn a_loop_that_connects_can_only_be_ended_which_cancels_it() {
    type Ends = fn(&Loop<Talk>);
    let ends: [Ends; 3] = [
        |talk| assert!(talk.disconnect().unwrap().is_none()),
        |talk| assert!(talk.abort().unwrap().is_none()),
        |talk| {
            talk.request_disconnect();
            assert!(talk.wait_state(State::Idle, LIMIT));
        },
    ];
    deadline(LIMIT, move || {
        for end in ends {
            let talk = shaking();
            let (connect, mut peer) = connecting(&talk);
            nothing_but_the_end(&talk);
            refused(
                talk.accept(&Cancel::new()),
                State::Connecting,
                State::Connecting,
            );
            end(&talk);
            assert_eq!(talk.state(), State::Idle, "it waited for the attempt");
            let error = connect.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), &Kind::Cancelled);
            assert_eq!(peer.rest(), b"");
            assert!(
                talk.disconnect().unwrap().is_none(),
                "nothing is left to say"
            );
        }
    });
}

#[test]
fn a_loop_that_listens_can_only_accept_or_be_ended() {
    deadline(LIMIT, || {
        let talk = talk(Talk::default());
        for end in [Loop::disconnect, Loop::abort] {
            talk.listen(here()).unwrap();
            assert_eq!(talk.state(), State::Connecting);
            nothing_but_the_end(&talk);
            assert!(end(&talk).unwrap().is_none());
            assert_eq!(talk.state(), State::Idle);
        }
        let Addr::Tcp(host, port) = talk.listen(here()).unwrap() else {
            panic!("another family")
        };
        talk.request_disconnect();
        assert_eq!(talk.state(), State::Idle);
        let error = std::net::TcpStream::connect((host, port)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        refused(talk.accept(&Cancel::new()), State::Idle, State::Connecting);
    });
}

#[test]
fn a_loop_that_accepts_can_only_be_ended_which_cancels_it() {
    deadline(LIMIT, || {
        let (told, states) = unbounded();
        let talk = Arc::new(talk(Talk {
            on_state: Box::new(move |old, new| told.send((old, new)).unwrap()),
            ..Talk::default()
        }));
        for end in [Loop::disconnect, Loop::abort] {
            talk.listen(here()).unwrap();
            let (told, results) = unbounded();
            let accept = || {
                let (talk, told) = (talk.clone(), told.clone());
                spawn("accepts", move || {
                    told.send(talk.accept(&Cancel::new())).unwrap()
                })
            };
            let threads = [accept(), accept()];
            let second = results.recv().unwrap();
            refused(second, State::Connecting, State::Connecting);
            nothing_but_the_end(&talk);
            assert!(end(&talk).unwrap().is_none());
            assert_eq!(talk.state(), State::Idle);
            let error = results.recv().unwrap().unwrap_err();
            assert_eq!(error.kind(), &Kind::Cancelled);
            for thread in threads {
                thread.join().unwrap();
            }
            let changes: Vec<_> = states.try_iter().collect();
            let expected = [
                (State::Idle, State::Connecting),
                (State::Connecting, State::Idle),
            ];
            assert_eq!(changes, expected);
        }
    });
}

#[test]
fn a_running_loop_begins_nothing_else() {
    on_both(|wire| {
        let talk = talk(Talk::default());
        let mut peer = connected(&talk, wire);
        no_beginning(&talk, State::Running);
        refused(
            talk.accept(&Cancel::new()),
            State::Running,
            State::Connecting,
        );
        let error = talk.wait_end(ms(1)).unwrap_err();
        let kind = Kind::Timeout {
            phase: Phase::End,
            allowed: ms(1),
        };
        assert_eq!(error.kind(), &kind, "waiting for the end does not cause it");
        assert!(talk.peer().is_some());
        assert_eq!(talk.link().unwrap().state(), State::Running);
        talk.send(b"one".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"one");
        talk.try_send(b"two".to_vec()).unwrap();
        assert_eq!(peer.line(), b"two");
        talk.send_urgent(b"three".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"three");
        let end = talk.disconnect().unwrap().unwrap();
        assert!(end.is_clean());
        assert_eq!(end.counts().sent, 3);
        assert_eq!(talk.state(), State::Idle);
    });
}

#[test]
fn an_end_that_was_not_collected_refuses_all_else_and_names_its_cause() {
    let collect: [fn(&Loop<Talk>) -> _; 3] =
        [Loop::disconnect, Loop::abort, |talk| talk.wait_end(None)];
    deadline(LIMIT, move || {
        let talk = talk(Talk::default());
        for collect in collect {
            let peer = connected(&talk, Wire::Unix);
            let link = talk.link().unwrap();
            drop(peer);
            assert!(talk.wait_state(State::Disconnecting, LIMIT));
            let mut errors = no_beginning(&talk, State::Disconnecting);
            let accept = talk.accept(&Cancel::new());
            errors.push(refused(accept, State::Disconnecting, State::Connecting));
            for error in errors {
                assert_eq!(kinds(&error)[1..], [Kind::PeerClosed], "{error:?}");
                assert!(error.to_string().contains("disconnect"), "{error}");
            }
            let ended = |error: Error| assert_eq!(kinds(&error), [Kind::Ended, Kind::PeerClosed]);
            no_send(&talk, ended);
            ended(link.send(Vec::new(), None).unwrap_err().error);
            assert!(talk.link().is_none());
            assert_eq!(link.state(), State::Disconnecting);
            talk.request_disconnect();
            assert_eq!(talk.state(), State::Disconnecting, "it is no collecting");
            let end = collect(&talk).unwrap().unwrap();
            assert_eq!(end.cause().unwrap().kind(), &Kind::PeerClosed);
            assert_eq!(talk.state(), State::Idle);
            assert!(collect(&talk).unwrap().is_none(), "once is enough");
            assert_eq!(link.state(), State::Idle);
            let error = link.try_send(Vec::new()).unwrap_err().error;
            assert_eq!(error.kind(), &Kind::Ended);
        }
    });
}

#[test]
fn an_end_under_way_is_waited_for_and_names_its_cause_meanwhile() {
    on_both(|wire| {
        let (entered, enter) = bounded(0);
        let (release, released) = bounded::<()>(0);
        let talk = Arc::new(talk(Talk {
            on_end: Box::new(move |_| {
                entered.send(()).unwrap();
                released.recv().unwrap();
            }),
            ..Talk::default()
        }));
        drop(connected(&talk, wire));
        enter.recv().unwrap();
        let errors = no_beginning(&talk, State::Disconnecting);
        for error in errors {
            assert_eq!(kinds(&error)[1..], [Kind::PeerClosed]);
        }
        no_send(&talk, |error| {
            assert_eq!(kinds(&error), [Kind::Ended, Kind::PeerClosed]);
        });
        let error = talk.wait_end(ms(1)).unwrap_err();
        assert!(matches!(error.kind(), Kind::Timeout { .. }));
        let waiting: Vec<_> = [Loop::disconnect, Loop::abort, |talk: &Loop<_>| {
            talk.wait_end(None)
        }]
        .map(|collect| {
            let talk = talk.clone();
            spawn("collects", move || collect(&talk).unwrap().unwrap())
        })
        .into();
        release.send(()).unwrap();
        for thread in waiting {
            // Who comes after the others finds nothing more to wait for; these had all begun to, or find it idle.
            let _ = thread.join();
        }
        assert_eq!(talk.state(), State::Idle);
    });
}

#[test]
fn of_several_threads_that_connect_exactly_one_wins() {
    deadline(LIMIT, || {
        for _ in 0..100 {
            let talk = shaking();
            let together = Arc::new(Barrier::new(4));
            let (told, results) = unbounded();
            let threads = [(); 4].map(|()| {
                let (talk, together, told) = (talk.clone(), together.clone(), told.clone());
                spawn("connects", move || {
                    let (addr, peer) = pair(Wire::Unix);
                    together.wait();
                    let keep = peer.again();
                    let _ = told.send((talk.connect(addr, &Cancel::new()), keep));
                    drop(peer);
                })
            });
            for _ in 0..3 {
                let (result, _) = results.recv().unwrap();
                refused(result, State::Connecting, State::Idle);
            }
            assert_eq!(talk.state(), State::Connecting);
            talk.disconnect().unwrap();
            let (result, _) = results.recv().unwrap();
            assert_eq!(result.unwrap_err().kind(), &Kind::Cancelled, "the winner's");
            for thread in threads {
                thread.join().unwrap();
            }
        }
    });
}

#[test]
fn an_end_in_the_first_moment_of_a_session_is_one_like_any_other() {
    on_both(|wire| {
        let (told, states) = unbounded();
        let (ended, ends) = unbounded();
        let (running, runs) = bounded(0);
        let (requested, requests) = bounded(0);
        let talk = Arc::new(talk(Talk {
            on_state: Box::new(move |_, new| {
                told.send(new).unwrap();
                if new == State::Running {
                    running.send(()).unwrap();
                    requests.recv().unwrap();
                }
            }),
            on_end: Box::new(move |end| ended.send(end.is_clean()).unwrap()),
            ..Talk::default()
        }));
        let connect = spawn("connects", {
            let talk = talk.clone();
            move || connected(&talk, wire)
        });
        runs.recv().unwrap();
        assert_eq!(talk.state(), State::Running);
        talk.request_disconnect();
        requested.send(()).unwrap();
        let mut peer = connect.join().unwrap();
        assert!(talk.wait_end(None).unwrap().unwrap().is_clean());
        assert_eq!(peer.rest(), b"");
        assert_eq!(talk.state(), State::Idle);
        assert_eq!(
            ends.try_iter().collect::<Vec<_>>(),
            [true],
            "on_end ran once"
        );
        let expected = [
            State::Connecting,
            State::Running,
            State::Disconnecting,
            State::Idle,
        ];
        assert_eq!(states.try_iter().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn a_disconnect_that_finds_an_attempt_leaves_the_loop_idle_however_close_the_race() {
    deadline(LIMIT, || {
        let talk = Arc::new(talk(Talk::default()));
        for round in 0..1000 {
            let ends = spawn("ends", {
                let talk = talk.clone();
                move || {
                    let seen = talk.wait_state(State::Connecting, ms(5));
                    let end = talk.disconnect();
                    (seen, end.map(|_| talk.state()))
                }
            });
            let begun = if round % 2 == 0 {
                // Its peer has gone already, so a session that begins ends as soon.
                let (addr, peer) = pair(Wire::Unix);
                drop(peer);
                talk.connect(addr, &Cancel::new())
            } else {
                talk.listen(here()).map(drop)
            };
            let (seen, state) = ends.join().unwrap();
            if seen {
                assert_eq!(state.unwrap(), State::Idle, "in round {round}");
            }
            if let Err(error) = begun {
                assert_eq!(error.kind(), &Kind::Cancelled);
            }
            talk.disconnect().unwrap();
        }
    });
}

#[test]
fn a_watcher_sees_each_state_while_it_lasts() {
    deadline(LIMIT, || {
        let talk = shaking();
        let watch = |want| {
            let talk = talk.clone();
            spawn("watches", move || talk.wait_state(want, None))
        };
        // The next state comes only when the watcher has seen this one.
        let watcher = watch(State::Connecting);
        let (connect, peer) = connecting(&talk);
        assert!(watcher.join().unwrap());
        let watcher = watch(State::Running);
        peer.say("go\n");
        connect.join().unwrap().unwrap();
        assert!(watcher.join().unwrap());
        let watcher = watch(State::Disconnecting);
        drop(peer);
        assert!(watcher.join().unwrap());
        let idle = watch(State::Idle);
        talk.disconnect().unwrap();
        assert!(idle.join().unwrap());
    });
}

#[test]
fn a_hook_that_watches_a_state_change_may_ask_for_the_end() {
    for at in [State::Connecting, State::Running] {
        deadline(LIMIT, move || {
            let talk = knowing(|own| Talk {
                on_state: Box::new(move |_, new| {
                    if new == at
                        && let Some(own) = own.upgrade()
                    {
                        own.request_disconnect();
                    }
                }),
                ..Talk::default()
            });
            let (addr, mut peer) = pair(Wire::Unix);
            let connected = talk.connect(addr, &Cancel::new());
            match at {
                State::Running => connected.unwrap(),
                _ => assert_eq!(connected.unwrap_err().kind(), &Kind::Cancelled),
            }
            talk.wait_end(None).unwrap();
            assert_eq!(talk.state(), State::Idle);
            assert_eq!(peer.rest(), b"");
        });
    }
}
