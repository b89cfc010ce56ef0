//! Loops at both ends of real sockets.

use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::bounded;
use interplay::protocol::{Addr, Cancel, Kind, Loop, Phase, State};

use super::rig::{Peer, Scratch, Talk, Wire, kinds, on_both, patient, talk};
use super::support::{LIMIT, deadline, ms, spawn};

/// Where a loop can listen; the folder lives as long as the test needs the path.
fn place(wire: Wire, scratch: &Scratch) -> Addr {
    match wire {
        Wire::Unix => scratch.path("served").into(),
        Wire::Tcp => "127.0.0.1:0".parse().unwrap(),
    }
}

/// The same address for another one.
fn again(addr: &Addr) -> Addr {
    addr.to_string().parse().unwrap()
}

fn dial(addr: &Addr) -> std::io::Result<Peer> {
    match addr {
        Addr::Unix(path) => UnixStream::connect(path).map(Peer::new),
        Addr::Tcp(host, port) => TcpStream::connect((&host[..], *port)).map(Peer::new),
        Addr::Stream(_) => panic!("no address"),
    }
}

#[test]
fn two_loops_talk_over_a_real_socket_session_after_session() {
    on_both(|wire| {
        let scratch = Scratch::new();
        let echo = Arc::new(talk(Talk {
            on_message: Box::new(|_, line, link| {
                link.try_send([b"echo: ", &line[..]].concat())?;
                Ok(())
            }),
            ..Talk::default()
        }));
        let (talks, heard) = Talk::heard();
        let caller = talk(talks);
        for round in 0..5 {
            let addr = echo.listen(place(wire, &scratch)).unwrap();
            let accept = spawn("accepts", {
                let echo = echo.clone();
                move || echo.accept(&Cancel::new())
            });
            caller.connect(again(&addr), &Cancel::new()).unwrap();
            accept.join().unwrap().unwrap();
            assert!(caller.peer().unwrap().contains(&addr.to_string()));
            assert!(dial(&addr).is_err(), "nobody else is let in");
            for n in 0..100_u64 {
                let line = format!("{round} {n}");
                caller.send(line.clone().into(), None).unwrap();
                let expected = format!("echo: {line}").into_bytes();
                assert_eq!(heard.recv().unwrap(), (n + 1, expected));
            }
            let end = caller.disconnect().unwrap().unwrap();
            assert!(end.is_clean());
            assert_eq!((end.counts().sent, end.counts().received), (100, 100));
            let end = echo.wait_end(None).unwrap().unwrap();
            assert_eq!(end.cause().unwrap().kind(), &Kind::PeerClosed);
            assert_eq!((end.counts().sent, end.counts().received), (100, 100));
            assert!(!scratch.path("served").exists(), "removed at the end");
        }
    });
}

#[test]
fn serve_one_listens_and_accepts() {
    deadline(LIMIT, || {
        let scratch = Scratch::new();
        let (talks, heard) = Talk::heard();
        let talk = Arc::new(talk(talks));
        let serves = spawn("serves", {
            let talk = talk.clone();
            let addr = place(Wire::Unix, &scratch);
            move || talk.serve_one(addr, &Cancel::new())
        });
        assert!(talk.wait_state(State::Connecting, LIMIT));
        let addr = place(Wire::Unix, &scratch);
        let peer = loop {
            match dial(&addr) {
                Ok(peer) => break peer,
                Err(_) => super::support::pause(ms(1)), // it is about to listen
            }
        };
        peer.say("hello\n");
        serves.join().unwrap().unwrap();
        assert_eq!(heard.recv().unwrap().1, b"hello");
        assert!(talk.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn nobody_comes_in_time() {
    on_both(|wire| {
        let scratch = Scratch::new();
        let talk = Loop::new(Talk::default(), patient().accept_timeout(ms(30)));
        let addr = talk.listen(place(wire, &scratch)).unwrap();
        let begun = Instant::now();
        let error = talk.accept(&Cancel::new()).unwrap_err();
        assert!(begun.elapsed() >= ms(30));
        let kind = Kind::Timeout {
            phase: Phase::Accept,
            allowed: ms(30),
        };
        assert_eq!(error.kind(), &kind);
        assert_eq!(talk.state(), State::Idle);
        assert!(dial(&addr).is_err());
        assert!(!scratch.path("served").exists());
    });
}

#[test]
fn accept_is_stopped_from_another_thread() {
    on_both(|wire| {
        let scratch = Scratch::new();
        let talk = Arc::new(talk(Talk::default()));
        let addr = talk.listen(place(wire, &scratch)).unwrap();
        let cancel = Cancel::new();
        let accept = spawn("accepts", {
            let (talk, cancel) = (talk.clone(), cancel.clone());
            move || talk.accept(&cancel)
        });
        cancel.set();
        let error = accept.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), &Kind::Cancelled);
        assert_eq!(talk.state(), State::Idle);
        assert!(dial(&addr).is_err());
        assert!(!scratch.path("served").exists());
    });
}

#[test]
fn a_failed_handshake_ends_the_accept_and_the_listener() {
    on_both(|wire| {
        let scratch = Scratch::new();
        let talk = Arc::new(talk(Talk {
            handshake: Box::new(|hands| {
                hands.recv()?;
                Ok(())
            }),
            ..Talk::default()
        }));
        let addr = talk.listen(place(wire, &scratch)).unwrap();
        let peer = dial(&addr).unwrap();
        peer.shutdown(Shutdown::Write);
        let error = talk.accept(&Cancel::new()).unwrap_err();
        assert_eq!(kinds(&error), [Kind::Handshake, Kind::PeerClosed]);
        assert_eq!(talk.state(), State::Idle);
        assert!(dial(&addr).is_err());
        assert!(!scratch.path("served").exists());
    });
}

#[test]
fn later_peers_are_refused_already_during_the_handshake() {
    on_both(|wire| {
        let scratch = Scratch::new();
        let (entered, enters) = bounded(0);
        let talk = Arc::new(talk(Talk {
            handshake: Box::new(move |hands| {
                entered.send(())?;
                hands.recv()?;
                Ok(())
            }),
            ..Talk::default()
        }));
        let addr = talk.listen(place(wire, &scratch)).unwrap();
        let accept = spawn("accepts", {
            let talk = talk.clone();
            move || talk.accept(&Cancel::new())
        });
        let peer = dial(&addr).unwrap();
        enters.recv().unwrap();
        assert!(dial(&addr).is_err());
        assert!(talk.peer().is_none(), "there is no session yet");
        peer.say("hello\n");
        accept.join().unwrap().unwrap();
        assert!(talk.peer().is_some());
        assert!(talk.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn an_address_that_is_taken_is_not_taken_away() {
    deadline(LIMIT, || {
        let scratch = Scratch::new();
        let path = scratch.path("taken");
        let theirs = UnixListener::bind(&path).unwrap();
        let talk = Loop::new(Talk::default(), patient().replace_stale(true));
        let error = talk.listen(path.as_path().into()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Listen { .. }));
        assert_eq!(error.io().unwrap().kind(), std::io::ErrorKind::AddrInUse);
        assert_eq!(talk.state(), State::Idle);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = talk.listen(tcp.local_addr().unwrap().into()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Listen { .. }));
        let (stream, _other) = UnixStream::pair().unwrap();
        let error = talk.listen(stream.into()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Listen { .. }));
        assert_eq!(talk.state(), State::Idle);
        drop(theirs);
        talk.listen(path.as_path().into()).unwrap(); // a stale one is another matter
        assert!(talk.disconnect().unwrap().is_none());
        assert!(!path.exists());
    });
}

#[test]
fn a_path_that_somebody_else_has_replaced_is_theirs() {
    deadline(LIMIT, || {
        let scratch = Scratch::new();
        let path = scratch.path("served");
        let talk = talk(Talk::default());
        let addr = talk.listen(path.as_path().into()).unwrap();
        let peer = dial(&addr).unwrap();
        talk.accept(&Cancel::new()).unwrap();
        assert!(path.exists(), "as long as the session lasts");
        fs::remove_file(&path).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(peer);
        let end = talk.wait_end(None).unwrap().unwrap();
        assert_eq!(end.cause().unwrap().kind(), &Kind::PeerClosed);
        assert!(dial(&addr).is_ok());
        drop(theirs);
    });
}

#[test]
fn a_path_goes_when_the_session_ends_and_not_when_it_is_collected() {
    deadline(LIMIT, || {
        let scratch = Scratch::new();
        let path = scratch.path("served");
        let talk = Loop::new(Talk::default(), patient().name("path"));
        let addr = talk.listen(path.as_path().into()).unwrap();
        let peer = dial(&addr).unwrap();
        talk.accept(&Cancel::new()).unwrap();
        drop(peer);
        super::rig::no_threads("path");
        assert!(!path.exists());
        assert_eq!(talk.state(), State::Disconnecting);
    });
}

#[test]
fn a_jammed_listener_holds_up_a_connect_until_its_limit_or_its_cancellation() {
    deadline(LIMIT, || {
        let scratch = Scratch::new();
        let path = scratch.path("jammed");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        socket.listen(0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let talk = Arc::new(Loop::new(
            Talk::default(),
            patient().connect_timeout(ms(50)),
        ));
        let error = talk
            .connect(path.as_path().into(), &Cancel::new())
            .unwrap_err();
        let kind = Kind::Timeout {
            phase: Phase::Connect,
            allowed: ms(50),
        };
        assert_eq!(error.kind(), &kind);
        assert!(error.is_retryable());
        assert_eq!(talk.state(), State::Idle);
        let talk = Arc::new(super::rig::talk(Talk::default()));
        for stop in [
            |talk: &Loop<Talk>, _: &Cancel| assert!(talk.disconnect().unwrap().is_none()),
            |_: &Loop<Talk>, cancel: &Cancel| cancel.set(),
        ] {
            let cancel = Cancel::new();
            let connect = spawn("connects", {
                let (talk, path, cancel) = (talk.clone(), path.clone(), cancel.clone());
                move || talk.connect(path.into(), &cancel)
            });
            assert!(talk.wait_state(State::Connecting, LIMIT));
            stop(&talk, &cancel);
            let error = connect.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), &Kind::Cancelled);
        }
        let connect = spawn("connects", {
            let talk = talk.clone();
            move || talk.connect(path.into(), &Cancel::new())
        });
        let _accepted = [socket.accept().unwrap(), socket.accept().unwrap()];
        connect.join().unwrap().unwrap();
        assert_eq!(talk.state(), State::Running);
    });
}
