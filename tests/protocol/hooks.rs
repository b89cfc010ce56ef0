//! Hooks that fail, panic, call back, take long, or let go of the loop.

use std::sync::{Arc, Mutex, Weak};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use interplay::protocol::{
    BoxError, Cancel, DecodeError, Decoded, Decoder, Kind, Lines, Link, Loop, Progress, Protocol,
    State,
};

use super::rig::{
    Talk, Text, Wire, connected, kinds, knowing, no_threads, on_both, pair, patient, talk,
};
use super::support::{LIMIT, deadline, eventually, ms, spawn};

fn panicked(hook: &'static str) -> Kind {
    let message = "as planned".to_owned();
    Kind::HookPanic { hook, message }
}

/// Runs a session in which a line goes each way; the kinds of its cause.
#[track_caller]
fn ended_by(wire: Wire, talks: Talk, direct: bool) -> Vec<Kind> {
    let (ended, ends) = unbounded();
    let own = talks.on_end;
    let talk = talk(Talk {
        on_end: Box::new(move |end| {
            ended.send(()).unwrap();
            own(end);
        }),
        ..talks
    });
    let mut peer = connected(&talk, wire);
    let line = b"there".to_vec();
    let _ = match direct {
        true => talk.send(line, None),
        false => talk.try_send(line),
    };
    let _ = peer.try_say(b"back\n");
    peer.rest();
    let end = talk.wait_end(None).unwrap().unwrap();
    assert_eq!(ends.len(), 1, "on_end ran once");
    assert_eq!(talk.state(), State::Idle);
    kinds(end.cause().unwrap())
}

#[test]
fn a_hook_that_fails_or_panics_ends_the_session_and_is_named() {
    on_both(|wire| {
        let fails = Talk {
            on_message: Box::new(|_, _, _| Err("as planned".into())),
            ..Talk::default()
        };
        let hook = "on_message";
        assert_eq!(ended_by(wire, fails, true), [Kind::Hook { hook }]);
        let panics = Talk {
            on_message: Box::new(|_, _, _| panic!("as planned")),
            ..Talk::default()
        };
        assert_eq!(ended_by(wire, panics, true), [panicked("on_message")]);
        let panics = Talk {
            inbound: Box::new(|_| panic!("as planned")),
            ..Talk::default()
        };
        assert_eq!(ended_by(wire, panics, true), [panicked("inbound")]);
        for direct in [true, false] {
            let panics = Talk {
                outbound: Box::new(|_| panic!("as planned")),
                ..Talk::default()
            };
            assert_eq!(ended_by(wire, panics, direct), [panicked("outbound")]);
            let panics = Talk {
                encode: Box::new(|_| panic!("as planned")),
                ..Talk::default()
            };
            assert_eq!(ended_by(wire, panics, direct), [panicked("encode")]);
            let panics = Talk {
                descriptors: Box::new(|_| panic!("as planned")),
                ..Talk::default()
            };
            assert_eq!(ended_by(wire, panics, direct), [panicked("descriptors")]);
        }
    });
}

#[test]
fn a_session_that_on_start_refuses_is_over_when_connect_returns() {
    on_both(|wire| {
        type Start = fn(&Link<Talk>) -> Result<(), BoxError>;
        let starts: [Start; 2] = [|_| Err("as planned".into()), |_| panic!("as planned")];
        let expected = [Kind::Hook { hook: "on_start" }, panicked("on_start")];
        for (start, expected) in starts.into_iter().zip(expected) {
            let (ended, ends) = unbounded();
            let refuses = Talk {
                on_start: Box::new(start),
                on_end: Box::new(move |end| ended.send(end.cause().cloned()).unwrap()),
                ..Talk::default()
            };
            let talk = Loop::new(refuses, patient().name("refuses"));
            let (addr, mut peer) = pair(wire);
            let error = talk.connect(addr, &Cancel::new()).unwrap_err();
            assert_eq!(error.kind(), &expected);
            assert_eq!(talk.state(), State::Idle);
            assert_eq!(peer.rest(), b"");
            let told = ends.try_recv().unwrap().unwrap();
            assert_eq!(told.kind(), &expected, "the session had begun, so it ended");
            no_threads("refuses");
        }
    });
}

#[test]
fn on_start_may_send_and_ask_for_the_end() {
    on_both(|wire| {
        let talk = talk(Talk {
            on_start: Box::new(|link| {
                assert_eq!(link.state(), State::Running);
                link.send(b"hello".to_vec(), None)?;
                link.try_send(b"and".to_vec())?;
                link.request_disconnect();
                assert_eq!(
                    link.send(Vec::new(), None).unwrap_err().error.kind(),
                    &Kind::Ended
                );
                Ok(())
            }),
            ..Talk::default()
        });
        let mut peer = connected(&talk, wire);
        assert_eq!(peer.rest(), b"hello\nand\n");
        assert!(talk.wait_end(None).unwrap().unwrap().is_clean());
    });
}

#[test]
fn a_panic_of_on_end_changes_nothing_of_the_end() {
    on_both(|wire| {
        let panics = Talk {
            on_end: Box::new(|_| panic!("as planned")),
            on_message: Box::new(|_, _, _| Err("the cause".into())),
            ..Talk::default()
        };
        let hook = "on_message";
        assert_eq!(ended_by(wire, panics, true), [Kind::Hook { hook }]);
    });
}

#[test]
fn a_panic_of_on_state_is_only_logged() {
    on_both(|wire| {
        let talk = talk(Talk {
            on_state: Box::new(|_, _| panic!("as planned")),
            ..Talk::default()
        });
        let mut peer = connected(&talk, wire);
        talk.send(b"there".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"there");
        assert!(talk.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn a_message_that_cannot_be_weighed_is_not_taken() {
    on_both(|wire| {
        let talk = talk(Talk {
            weight: Box::new(|line| {
                assert!(line != b"bad", "as planned");
                line.len()
            }),
            ..Talk::default()
        });
        let mut peer = connected(&talk, wire);
        for refused in [
            talk.send(b"bad".to_vec(), None).unwrap_err(),
            talk.try_send(b"bad".to_vec()).unwrap_err(),
            talk.send_urgent(b"bad".to_vec(), None).unwrap_err(),
        ] {
            assert_eq!(refused.error.kind(), &panicked("weight"));
            assert_eq!(refused.message, b"bad");
        }
        talk.send(b"good".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"good");
        assert!(talk.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn a_message_that_cannot_be_encoded_is_dropped_alone() {
    on_both(|wire| {
        let talk = talk(Talk {
            encode: Box::new(|line| match &line[..] {
                b"bad" => Err("nothing for this".into()),
                _ => Ok(()),
            }),
            ..Talk::default()
        });
        let mut peer = connected(&talk, wire);
        let tickets = [
            talk.send(b"bad".to_vec(), None).unwrap(),
            talk.try_send(b"bad".to_vec()).unwrap(),
            talk.send_urgent(b"bad".to_vec(), None).unwrap(),
        ];
        talk.send(b"good".to_vec(), None).unwrap();
        assert_eq!(peer.line(), b"good", "and not a byte of the others");
        let end = talk.disconnect().unwrap().unwrap();
        assert!(end.is_clean());
        assert_eq!((end.counts().sent, end.counts().unsent), (1, 0));
        for ticket in tickets {
            assert_eq!(ticket.progress(), Progress::Dropped);
            let error = ticket.error().unwrap();
            assert_eq!(
                error.report(),
                "the message cannot be encoded: nothing for this"
            );
        }
    });
}

/// A message whose destructor panics, once it was written.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("as planned");
    }
}

struct Breaking;

struct Never;

impl Decoder for Never {
    type Message = ();

    fn decode(&mut self, _: &[u8]) -> Result<Decoded<()>, DecodeError> {
        Ok(Decoded::Partial { skip: 0 })
    }
}

impl Protocol for Breaking {
    type Outbound = Fragile;
    type Inbound = ();
    type Decoder = Never;

    fn decoder(&self) -> Never {
        let _ = Lines::new();
        Never
    }

    fn encode(&self, _: &Fragile, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.push(b'f');
        Ok(())
    }
}

#[test]
fn a_destructor_that_panics_ends_the_session_on_whatever_thread_it_runs() {
    on_both(|wire| {
        for direct in [true, false] {
            let talk = Loop::new(Breaking, patient());
            let (addr, mut peer) = pair(wire);
            talk.connect(addr, &Cancel::new()).unwrap();
            let sent = match direct {
                true => talk.send(Fragile, None),
                false => talk.try_send(Fragile),
            };
            sent.unwrap();
            peer.rest();
            let end = talk.wait_end(None).unwrap().unwrap();
            assert_eq!(end.cause().unwrap().kind(), &panicked("drop"));
        }
    });
}

/// Where a hook calls what would wait for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Handshake,
    OnStart,
    Outbound,
    Encode,
    Inbound,
    OnMessage,
    OnEnd,
    ToConnecting,
    ToRunning,
    ToDisconnecting,
}

const EVERYWHERE: [At; 10] = [
    At::Handshake,
    At::OnStart,
    At::Outbound,
    At::Encode,
    At::Inbound,
    At::OnMessage,
    At::OnEnd,
    At::ToConnecting,
    At::ToRunning,
    At::ToDisconnecting,
];

/// One that makes a call in one of its hooks.
fn calling(at: At, call: impl Fn() + Send + Sync + 'static) -> Talk {
    let call = Arc::new(move |here: At| {
        if here == at {
            call();
        }
    });
    let here = |at: At| {
        let call = call.clone();
        move || call(at)
    };
    let (handshake, start) = (here(At::Handshake), here(At::OnStart));
    let (outbound, encode) = (here(At::Outbound), here(At::Encode));
    let (inbound, message) = (here(At::Inbound), here(At::OnMessage));
    let end = here(At::OnEnd);
    Talk {
        handshake: Box::new(move |_| {
            handshake();
            Ok(())
        }),
        on_start: Box::new(move |_| {
            start();
            Ok(())
        }),
        outbound: Box::new(move |line| {
            outbound();
            line
        }),
        encode: Box::new(move |_| {
            encode();
            Ok(())
        }),
        inbound: Box::new(move |line| {
            inbound();
            Some(line)
        }),
        on_message: Box::new(move |_, _, _| {
            message();
            Ok(())
        }),
        on_end: Box::new(move |_| end()),
        on_state: Box::new(move |_, new| match new {
            State::Connecting => call(At::ToConnecting),
            State::Running => call(At::ToRunning),
            State::Disconnecting => call(At::ToDisconnecting),
            State::Idle => {}
        }),
        ..Talk::default()
    }
}

#[test]
fn a_call_that_would_wait_for_its_own_hook_says_so_and_starts_the_end() {
    type Call = fn(&Loop<Talk>) -> interplay::protocol::Error;
    let ends: [Call; 2] = [
        |talk| talk.disconnect().unwrap_err(),
        |talk| talk.abort().unwrap_err(),
    ];
    deadline(LIMIT, move || {
        for (wire, direct) in [(Wire::Unix, true), (Wire::Tcp, false)] {
            for at in EVERYWHERE {
                for call in ends {
                    let (told, tells) = unbounded();
                    let talk = knowing(|own: Weak<Loop<Talk>>| {
                        calling(at, move || {
                            if let Some(own) = own.upgrade() {
                                let _ = told.send(call(&own));
                            }
                        })
                    });
                    let (addr, mut peer) = pair(wire);
                    let connected = talk.connect(addr, &Cancel::new());
                    if at == At::Handshake || at == At::ToConnecting {
                        assert_eq!(connected.unwrap_err().kind(), &Kind::Cancelled);
                        assert_eq!(talk.state(), State::Idle);
                    } else {
                        connected.unwrap();
                        let line = b"there".to_vec();
                        let _ = match direct {
                            true => talk.send(line, None),
                            false => talk.try_send(line),
                        };
                        let _ = peer.try_say(b"back\n");
                        if matches!(at, At::OnEnd | At::ToDisconnecting) {
                            talk.request_disconnect();
                        }
                        let end = talk.wait_end(None).unwrap().unwrap();
                        assert!(end.is_clean(), "{at:?}: {end:?}");
                    }
                    peer.rest();
                    let error = tells.recv().unwrap();
                    assert_eq!(error.kind(), &Kind::WouldDeadlock, "{at:?}");
                }
            }
        }
    });
}

#[test]
fn waiting_for_the_end_in_a_hook_is_refused_and_ends_nothing() {
    deadline(LIMIT, || {
        for at in EVERYWHERE {
            let (told, tells) = unbounded();
            let talk = knowing(|own: Weak<Loop<Talk>>| {
                calling(at, move || {
                    let _ = told.send(own.upgrade().unwrap().wait_end(None).unwrap_err());
                })
            });
            let mut peer = connected(&talk, Wire::Unix);
            talk.send(b"there".to_vec(), None).unwrap();
            assert_eq!(peer.line(), b"there");
            if matches!(at, At::Inbound | At::OnMessage) {
                peer.say("back\n");
                let error = tells.recv().unwrap();
                assert_eq!(error.kind(), &Kind::WouldDeadlock);
            }
            assert_eq!(talk.state(), State::Running, "{at:?}");
            assert!(talk.disconnect().unwrap().unwrap().is_clean());
            if let Ok(error) = tells.try_recv() {
                let connecting = Kind::State {
                    actual: State::Connecting,
                    needed: State::Running,
                };
                let expected = match at {
                    At::Handshake | At::ToConnecting => connecting,
                    _ => Kind::WouldDeadlock,
                };
                assert_eq!(error.kind(), &expected, "{at:?}");
            } else {
                assert!(matches!(at, At::Inbound | At::OnMessage), "{at:?}");
            }
        }
    });
}

#[test]
fn a_hook_that_sends_into_a_full_queue_gets_its_message_back() {
    on_both(|wire| {
        for at in [
            At::OnStart,
            At::Outbound,
            At::Encode,
            At::Inbound,
            At::OnMessage,
            At::ToRunning,
        ] {
            let (told, tells) = unbounded();
            let talk = Arc::new_cyclic(|own: &Weak<Loop<Talk>>| {
                let own = own.clone();
                let fills = calling(at, move || {
                    let Some(own) = own.upgrade() else { return };
                    if told.is_empty() {
                        // By now the one before may have been written.
                        let refused = loop {
                            let line = vec![b'x'; 64 << 10];
                            if let Err(refused) = own.send(line, None) {
                                break refused;
                            }
                        };
                        let urgent = loop {
                            if let Err(refused) = own.send_urgent(b"urgent".to_vec(), None) {
                                break refused;
                            }
                        };
                        let _ = told.send([refused, urgent]);
                    }
                });
                Loop::new(fills, patient().queue_messages(3))
            });
            let peer = connected(&talk, wire);
            let _ = talk.try_send(b"there".to_vec());
            let _ = peer.try_say(b"back\n");
            let refused = tells.recv().unwrap();
            for refused in &refused {
                assert_eq!(refused.error.kind(), &Kind::WouldDeadlock, "{at:?}");
            }
            assert_eq!(refused[0].message.len(), 64 << 10);
            assert_eq!(refused[1].message, b"urgent");
            assert!(talk.abort().unwrap().unwrap().is_clean());
        }
    });
}

#[test]
fn the_last_handle_may_be_let_go_of_in_a_hook() {
    on_both(|wire| {
        for at in [
            At::Outbound,
            At::Encode,
            At::Inbound,
            At::OnMessage,
            At::OnEnd,
            At::ToDisconnecting,
        ] {
            let slot: Arc<Mutex<Option<Loop<Talk>>>> = Arc::default();
            let drops = calling(at, {
                let slot = slot.clone();
                move || {
                    let own = slot.lock().unwrap().take();
                    drop(own);
                }
            });
            let talk = Loop::new(drops, patient().name("dropped"));
            let mut peer = connected(&talk, wire);
            let link = talk.link().unwrap();
            *slot.lock().unwrap() = Some(talk);
            let _ = link.try_send(b"there".to_vec());
            let _ = peer.try_say(b"back\n");
            if matches!(at, At::OnEnd | At::ToDisconnecting) {
                link.request_disconnect();
            }
            peer.rest(); // returns: the stream is closed
            no_threads("dropped");
            assert!(slot.lock().unwrap().is_none(), "{at:?}");
            // The last of its threads lets go of the session when it ends.
            eventually(LIMIT, || link.state() == State::Idle);
        }
    });
}

fn slow() -> (Talk, Receiver<()>, Sender<()>) {
    let (entered, enters) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let talk = Talk {
        on_message: Box::new(move |_, _, _| {
            entered.send(())?;
            let _ = released.recv();
            Ok(())
        }),
        ..Talk::default()
    };
    (talk, enters, release)
}

#[test]
fn an_end_waits_for_a_slow_hook_and_ends_all_else_before() {
    on_both(|wire| {
        for end in [Loop::disconnect, Loop::abort] {
            let (talks, enters, release) = slow();
            let talk = Arc::new(talk(talks));
            let mut peer = connected(&talk, wire);
            peer.say("come\n");
            enters.recv().unwrap();
            let ends = spawn("ends", {
                let talk = talk.clone();
                move || end(&talk).unwrap().unwrap()
            });
            assert_eq!(peer.rest(), b"", "the stream is cut while the hook runs");
            let error = talk.wait_end(ms(30)).unwrap_err();
            assert!(matches!(error.kind(), Kind::Timeout { .. }));
            let error = talk.send(Text::new(), None).unwrap_err().error;
            assert_eq!(kinds(&error), [Kind::Ended]);
            drop(release);
            assert!(ends.join().unwrap().is_clean());
        }
    });
}

#[test]
fn a_hook_that_fails_leaves_no_time_for_what_is_queued() {
    on_both(|wire| {
        let talk = talk(Talk {
            on_message: Box::new(|_, _, _| Err("as planned".into())),
            ..Talk::default()
        });
        let peer = connected(&talk, wire);
        super::rig::jam(&talk);
        talk.try_send(b"queued".to_vec()).unwrap();
        peer.say("come\n");
        let end = talk.wait_end(None).unwrap().unwrap();
        let hook = "on_message";
        assert_eq!(end.cause().unwrap().kind(), &Kind::Hook { hook });
        assert_eq!(end.counts().unsent, 1);
    });
}
