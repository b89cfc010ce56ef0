//! What the endpoint of a listener leaves in its process and on its disk: threads, descriptors,
//! directories and log lines.
//!
//! These are seen of the process as a whole, so the tests of this file run one after the other,
//! and no others run beside them.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

#[path = "listener/child.rs"]
#[allow(dead_code, reason = "each test file uses its share of this module")]
mod child;
#[path = "listener/raw.rs"]
#[allow(dead_code, reason = "each test file uses its share of this module")]
mod raw;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{bounded, unbounded};
use interplay::listener::child::Sender;
use interplay::listener::{Endpoint, Error, Listener, Message, Transport};
use log::{Level, LevelFilter};
use serde_json::{Value, json};

use child::{Child, say};
use raw::{Invitation, frame, message};
use support::log::{alone, at, logged, take_log};
use support::{LIMIT, deadline, eventually, ms, secs, spawn, threads};

mod roles {
    //! What the child programs of these tests do, by the name of the role.

    use super::*;

    pub(crate) fn play(role: &str, _: &Value) {
        match role {
            "has an endpoint" => {
                let listener = listener("elsewhere", Transport::Unix);
                let [(_, address), (_, token)] = listener.endpoint().unwrap().env();
                let sender = Sender::connect(&address, &token, "a").unwrap();
                sender.post("c", &1).unwrap();
                say(address);
                child::wait();
                let report = listener.shutdown(LIMIT).unwrap();
                say(report.handled);
            }
            _ => panic!("unknown role: {role}"),
        }
    }
}

fn listener(name: &str, transport: Transport) -> Listener {
    let builder = Listener::builder().name(name).transport(transport);
    let builder = builder.default_handler(|_: Message| Ok(()));
    builder.start().unwrap()
}

/// The directory of an endpoint; none of a TCP one.
fn folder(invitation: &Invitation) -> Option<PathBuf> {
    let path = Path::new(&invitation.address);
    path.is_absolute()
        .then(|| path.parent().unwrap().to_owned())
}

/// How many threads there are of a listener with this name, and the open descriptors of this
/// process; nothing where the system does not tell.
fn traces(name: &str) -> (usize, usize) {
    let threads = threads();
    let own = threads.iter().filter(|thread| thread.starts_with(name));
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count());
    (own.count(), descriptors)
}

#[test]
fn a_thousand_endpoints_leave_no_thread_no_descriptor_and_no_directory() {
    let _alone = alone(LevelFilter::Off);
    deadline(secs(300), || {
        let mut folders = Vec::new();
        let mut handles = Vec::new();
        let mut round = |n: usize| {
            let transport = [Transport::Unix, Transport::Tcp][n % 2];
            let listener = listener("rounds", transport);
            let invitation = Invitation::new(listener.endpoint().unwrap().env());
            folders.extend(folder(&invitation));
            // They outlive the listener and hold nothing open.
            handles.push((listener.stopper(), listener.sender(), listener.endpoint()));
            let stopper = listener.stopper();
            match n / 2 % 8 {
                0 => drop(listener),
                1 => {
                    stopper.stop();
                    drop(listener);
                }
                2 => drop(listener.shutdown(LIMIT).unwrap()),
                3 => {
                    let child = invitation.admitted("a");
                    child.send(&message("c", n));
                    drop(child);
                    drop(listener);
                }
                4 => {
                    let child = invitation.admitted("a");
                    child.send(&message("c", n));
                    listener.shutdown(secs(0)).unwrap();
                    drop(child);
                }
                5 => {
                    // In the middle of a hello, and before the first byte of one.
                    let strangers = [(); 2].map(|()| invitation.connect().unwrap());
                    strangers[0].send(&[0, 0]);
                    stopper.stop();
                    drop((listener, strangers));
                }
                6 => {
                    let sender = Sender::connect(&invitation.address, &invitation.token, "a");
                    sender.unwrap().post("c", &n).unwrap();
                    drop(listener);
                }
                _ => {
                    // At the same time as the stop.
                    let stops = spawn("stops", move || stopper.stop());
                    if let Ok(raw) = invitation.connect() {
                        let hello = invitation.hello("late").to_string();
                        let _ = raw.try_send(&frame(hello.as_bytes()));
                    }
                    stops.join().unwrap();
                    drop(listener);
                }
            }
        };
        (0..16).for_each(&mut round);
        eventually(LIMIT, || traces("rounds").0 == 0);
        let before = traces("rounds");
        (16..1000).for_each(&mut round);
        eventually(LIMIT, || traces("rounds") == before);
        assert_eq!(folders.len(), 500);
        let left: Vec<_> = folders.iter().filter(|folder| folder.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing_while_the_listener_runs() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        for transport in [Transport::Unix, Transport::Tcp] {
            let listener = listener("comes", transport);
            let invitation = Invitation::new(listener.endpoint().unwrap().env());
            // Listening and accepting; they name themselves.
            eventually(LIMIT, || traces("comes").0 == 2 || threads().is_empty());
            let before = traces("comes");
            for n in 0..200 {
                let mut raw = invitation.connect().unwrap();
                match n % 4 {
                    0 => drop(raw),
                    1 => {
                        raw.send(b"GET / HTTP/1.1\r\n\r\n");
                        while raw.hear().is_some() {}
                    }
                    2 => drop(invitation.admitted(&n.to_string())),
                    _ => {
                        let child = invitation.admitted(&n.to_string());
                        child.send(&message("c", 1));
                        child.say(&json!({"bye": true}));
                    }
                }
            }
            eventually(LIMIT, || traces("comes") == before);
            assert_eq!(listener.stats().connections, 0);
        }
    });
}

#[test]
fn a_listener_that_its_handler_drops_leaves_nothing() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let before = traces("inside");
        for transport in [Transport::Unix, Transport::Tcp] {
            let listener = listener("inside", transport);
            let invitation = Invitation::new(listener.endpoint().unwrap().env());
            let (send, receive) = bounded::<Listener>(1);
            let drops = move |_: Message| {
                drop(receive.recv()?);
                Ok(())
            };
            listener.register("a".parse().unwrap(), drops).unwrap();
            send.send(listener).unwrap();
            let mut child = invitation.admitted("a");
            child.send(&message("c", 1));
            while child.hear().is_some() {}
            drop(child);
            eventually(LIMIT, || traces("inside") == before);
            eventually(LIMIT, || {
                folder(&invitation).is_none_or(|folder| !folder.exists())
            });
        }
    });
}

#[test]
fn first_calls_and_a_stop_at_the_same_time_make_one_endpoint_or_none() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let before = traces("at-once");
        for n in 0..200 {
            let listener = Arc::new(listener(
                "at-once",
                [Transport::Unix, Transport::Tcp][n % 2],
            ));
            let calls = [(); 3].map(|()| {
                let listener = listener.clone();
                spawn("calls", move || listener.endpoint())
            });
            match n / 2 % 3 {
                0 => {}
                1 => listener.stopper().stop(),
                _ => drop(listener.shutdown(LIMIT).unwrap()),
            }
            let endpoints = calls.map(|call| call.join().unwrap());
            let made: Vec<_> = endpoints.iter().flatten().map(Endpoint::env).collect();
            assert!(made.windows(2).all(|two| two[0] == two[1]), "{made:?}");
            for error in endpoints.iter().filter_map(|one| one.as_ref().err()) {
                assert!(matches!(error, Error::Stopped), "{error}");
            }
            drop(listener);
            for env in made {
                let invitation = Invitation::new(env);
                assert!(!invitation.lets_in("late"));
                assert!(folder(&invitation).is_none_or(|folder| !folder.exists()));
            }
        }
        eventually(LIMIT, || traces("at-once") == before);
    });
}

#[test]
fn the_socket_is_in_a_directory_that_only_the_user_can_enter() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let listeners = [(); 2].map(|()| listener("private", Transport::Unix));
        let folders = listeners.each_ref().map(|listener| {
            let endpoint = listener.endpoint().unwrap();
            assert_eq!(listener.endpoint().unwrap().env(), endpoint.env());
            let folder = folder(&Invitation::new(endpoint.env())).unwrap();
            let metadata = folder.symlink_metadata().unwrap();
            assert!(metadata.is_dir());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
            let own = std::fs::metadata("/proc/self").map_or(metadata.uid(), |own| own.uid());
            assert_eq!(metadata.uid(), own);
            assert_eq!(folder.read_dir().unwrap().count(), 1);
            folder
        });
        assert_ne!(folders[0], folders[1]);
        let [one, two] = listeners;
        drop(one);
        assert!(!folders[0].exists() && folders[1].exists());
        two.shutdown(LIMIT).unwrap();
        assert!(!folders[1].exists(), "not only at the drop");
        assert_eq!(two.stats().refused, 0);
    });
}

#[test]
fn what_others_put_into_the_directory_is_not_removed() {
    let _alone = alone(LevelFilter::Warn);
    deadline(LIMIT, || {
        let listener = listener("guest", Transport::Unix);
        let folder = folder(&Invitation::new(listener.endpoint().unwrap().env())).unwrap();
        std::fs::write(folder.join("note"), "mine").unwrap();
        drop(listener);
        assert_eq!(
            std::fs::read_to_string(folder.join("note")).unwrap(),
            "mine"
        );
        assert_eq!(at(&logged(), Level::Warn).len(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_directory_for_temporary_files_that_will_not_do_is_replaced() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let long = std::env::temp_dir().join(format!("{}{}", "x".repeat(95), std::process::id()));
        std::fs::create_dir_all(&long).unwrap();
        let table = [
            (long.to_str().unwrap(), false),
            ("/nowhere/at/all", false),
            ("/tmp", true),
        ];
        for (folder, is_there) in table {
            let env = [("TMPDIR", folder.to_owned())];
            let mut child = Child::start("has an endpoint", &Value::Null, env);
            let address = child.says();
            let address = Path::new(address.as_str().unwrap());
            assert_eq!(address.starts_with(folder), is_there, "{address:?}");
            assert!(address.exists() && address.starts_with("/tmp"));
            child.go();
            assert_eq!(child.says(), 1);
            assert!(child.ends().success());
            assert!(!address.parent().unwrap().exists());
        }
        // What did not do there is not left there either.
        assert_eq!(long.read_dir().unwrap().count(), 0);
        std::fs::remove_dir(long).unwrap();
    });
}

#[test]
fn the_token_is_in_no_log_line_and_in_no_debug_text() {
    let _alone = alone(LevelFilter::Trace);
    deadline(LIMIT, || {
        for transport in [Transport::Unix, Transport::Tcp] {
            let listener = listener("secret", transport);
            let endpoint = listener.endpoint().unwrap();
            let invitation = Invitation::new(endpoint.env());
            let token = invitation.token.clone();
            assert_eq!(token.len(), 32);
            assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let connect = |token: &str| Sender::connect(&invitation.address, token, "a");
            let sender = connect(&token).unwrap();
            let mut texts = vec![
                format!("{listener:?} {endpoint:?} {endpoint:#?} {sender:?}"),
                format!("{:?} {:?}", listener.stopper(), listener.sender()),
            ];
            let text_of = |error: &dyn std::error::Error| {
                let source = error.source().map(|source| format!("{source} {source:?}"));
                format!("{error} {error:?} {source:?}")
            };
            texts.push(text_of(&connect(&token).unwrap_err())); // taken
            let wrong = token.replace(|_| true, "f");
            texts.push(text_of(&connect(&wrong).unwrap_err()));
            // One that sends the right one in the wrong place.
            let mut strangers = Vec::new();
            for place in ["source", "pid", "interplay", "cmd"] {
                let mut hello = invitation.hello("stranger");
                hello[place] = json!([token]);
                strangers.push(hello.to_string());
            }
            strangers.push(format!("\"{token}\""));
            strangers.push(token.clone());
            for stranger in strangers {
                let mut raw = invitation.connect().unwrap();
                raw.send(&frame(stranger.as_bytes()));
                texts.push(format!("{:?}", raw.hear()));
            }
            sender.post("c", &1).unwrap();
            listener.shutdown(LIMIT).unwrap();
            texts.push(text_of(&sender.post("c", &1).unwrap_err()));
            texts.push(text_of(&connect(&token).unwrap_err()));
            drop(sender);
            let logged = logged();
            assert!(logged.len() > 8, "{logged:?}");
            texts.extend(logged.into_iter().map(|line| line.text));
            for text in texts {
                assert!(!text.contains(&token), "{text}");
            }
        }
    });
}

#[test]
fn a_refusal_is_one_line_of_the_log_with_little_of_what_the_child_sent() {
    let _alone = alone(LevelFilter::Info);
    deadline(LIMIT, || {
        let listener = listener("lines", Transport::Unix);
        let invitation = Invitation::new(listener.endpoint().unwrap().env());
        let long = "secret".repeat(100);
        let breaches = [
            json!({"cmd": [long]}).to_string(),
            json!({long.clone(): 1}).to_string(),
            long.clone(),
            format!("{{\"{long}"),
        ];
        for breach in breaches {
            let mut raw = invitation.admitted("a\nb");
            take_log();
            raw.send(&frame(breach.as_bytes()));
            while raw.hear().is_some() {}
            eventually(LIMIT, || listener.stats().connections == 0);
            let lines = take_log();
            let warned = at(&lines, Level::Warn);
            assert_eq!(warned.len(), 1, "{warned:?}");
            assert!(warned[0].len() < 250, "{warned:?}");
            assert!(!warned[0].contains('\n'), "{warned:?}");
            assert!(warned[0].matches("secret").count() < 11, "{warned:?}");
            assert_eq!(at(&lines, Level::Error), [""; 0]);
        }
    });
}

#[test]
fn the_threads_of_a_listener_have_its_name_cut_before_their_duty() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        for (name, cut) in [
            ("short", "short"),
            ("fifteen-letters", "fifteen-lett"),
            ("ßßßßßßß", "ßßßßßß"),
        ] {
            let listener = listener(name, Transport::Unix);
            let invitation = Invitation::new(listener.endpoint().unwrap().env());
            let _child = invitation.admitted("a");
            for thread in [name.to_owned(), format!("{cut}:ac"), format!("{cut}:rd")] {
                eventually(LIMIT, || {
                    threads().contains(&thread) || threads().is_empty()
                });
            }
        }
    });
}

#[test]
fn connections_while_descriptors_are_short_are_accepted_later() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let (seen, sees) = unbounded();
        let listener = listener("short", Transport::Unix);
        let told = move |message: Message| Ok(seen.send(message.cmd)?);
        drop(listener.set_default(told));
        let invitation = Invitation::new(listener.endpoint().unwrap().env());
        // Each takes one here, since both ends are in this process, and one for the listener.
        let limit = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let limit = limit
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let limit = limit.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
        if limit.is_none_or(|limit| limit > 20_000) {
            return; // too many to take them all
        }
        let mut taken = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            taken.push(file);
        }
        taken.pop();
        let child = invitation.connect().unwrap();
        child.say(&invitation.hello("a"));
        child.send(&message("c", 1));
        assert!(
            sees.recv_timeout(ms(300)).is_err(),
            "there is no descriptor"
        );
        drop(taken);
        assert_eq!(sees.recv_timeout(LIMIT).unwrap(), "c");
    });
}
