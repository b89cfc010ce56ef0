//! Out of band: what overtakes what, and how many are on their way.

use std::io::BufRead;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crossbeam_channel::{Sender, unbounded};
use interplay::qmp::{Client, Options, Pending, Sent};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::support::qmp::{Act, Command, Script, Server, kind, version};
use super::support::{LIMIT, deadline, ms, spawn};
use super::{PATIENCE, Peer, at, reply, timed_out};

/// A server whose `blocks` returns when it is told to.
fn blocking() -> (Sender<()>, Script) {
    let (now, hold) = Act::Return(json!({})).later();
    let hold = Mutex::new(Some(hold));
    let blocks = move |_: &Command| hold.lock().take().unwrap();
    (now, Script::new().on("blocks", blocks))
}

fn started(client: &Client, name: &str, count: usize) -> Vec<Pending> {
    (0..count)
        .map(|_| client.call(name).start().unwrap())
        .collect()
}

#[test]
fn an_out_of_band_command_overtakes_what_is_queued_and_what_is_held() {
    deadline(LIMIT, || {
        for window in [None, Some(4)] {
            let (mut peer, client) = Peer::pair(Options::new().in_band_window(window));
            let big = json!({"text": "x".repeat(4 << 20)});
            let jams = client.call("jams").args(big).start().unwrap();
            assert!(
                !peer.read.fill_buf().unwrap().is_empty(),
                "it is being written"
            );
            let behind = started(&client, "behind", 10);
            let urgent = ["one", "two"].map(|name| client.call(name).oob().start().unwrap());
            let reader = spawn("reader", move || {
                let names = (0..13).map(|_| {
                    let (id, line) = peer.command().unwrap();
                    peer.send(&json!({"return": {}, "id": id}));
                    let command: Value = serde_json::from_str(&line).unwrap();
                    let name = command.get("execute").or(command.get("exec-oob"));
                    name.unwrap().as_str().unwrap().to_owned()
                });
                names.collect::<Vec<_>>()
            });
            let order = reader.join().unwrap();
            assert_eq!(order[..4], ["jams", "one", "two", "behind"]);
            assert!(order[4..].iter().all(|name| name == "behind"));
            for call in behind.into_iter().chain(urgent).chain([jams]) {
                call.wait().unwrap();
            }
        }
    });
}

#[test]
fn an_out_of_band_command_is_answered_while_the_server_is_busy_in_band() {
    deadline(LIMIT, || {
        let (now, script) = blocking();
        let server = script.start_unix();
        let client = at(&server, Options::new());
        let mut blocks = client.call("blocks").start().unwrap();
        let behind = started(&client, "query-version", 100);
        for _ in 0..50 {
            let value = client.execute_oob("query-version", ()).unwrap();
            assert_eq!(value, version());
        }
        let whole = client.execute_msg(json!({"exec-oob": "query-version", "id": 5}));
        assert_eq!(whole.unwrap().id, Some(json!(5)));
        assert!(blocks.try_wait().is_none());
        now.send(()).unwrap();
        let first = blocks.wait().unwrap().number;
        let numbers: Vec<u64> = behind
            .into_iter()
            .map(|it| it.wait().unwrap().number)
            .collect();
        assert!(first < numbers[0] && numbers.is_sorted(), "in their order");
    });
}

#[test]
fn without_the_capability_out_of_band_is_refused_here() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new().oob(false));
        assert!(!client.is_oob_enabled());
        let whole = json!({"exec-oob": "query-version"});
        for refused in [
            client.execute_oob("query-version", ()).unwrap_err(),
            client.execute_msg(whole.clone()).unwrap_err(),
            client.start_msg(whole).unwrap_err(),
            client.call("query-version").oob().start().unwrap_err(),
        ] {
            assert_eq!(kind(&refused), "OobNotEnabled");
        }
        assert_eq!(server.commands().len(), 1, "the negotiation");
    });
}

#[test]
fn exactly_a_window_of_commands_is_on_its_way() {
    deadline(LIMIT, || {
        for (window, size) in [(None, 8), (Some(1), 1), (Some(3), 3)] {
            let options = match window {
                None => Options::new(), // which is eight
                window => Options::new().in_band_window(window),
            };
            let (mut peer, client) = Peer::pair(options);
            let calls = started(&client, "in-band", 20);
            let mut out: Vec<Value> = Vec::new();
            for answered in 0..20 {
                // All that came ahead of one that is sent behind them and passes what is held.
                let probe = client.call("probe").oob().start().unwrap();
                let probed = loop {
                    let (id, line) = peer.command().unwrap();
                    if line.contains("probe") {
                        break id;
                    }
                    out.push(id);
                };
                peer.send(&json!({"return": {}, "id": probed}));
                probe.wait().unwrap();
                // What a reply let out may be behind the probe.
                while out.len() < size.min(20 - answered) {
                    out.push(peer.command().unwrap().0);
                }
                assert_eq!(out.len(), size.min(20 - answered), "after {answered}");
                // Not the oldest first: any reply makes room.
                let id = out.remove(out.len() / 2);
                peer.send(&json!({"return": {}, "id": id}));
            }
            for call in calls {
                call.wait().unwrap();
            }
        }
    });
}

#[test]
fn what_is_held_and_taken_back_never_leaves_and_holds_nobody_up() {
    deadline(LIMIT, || {
        let (now, script) = blocking();
        let server = script.start_unix();
        let client = at(&server, Options::new());
        let blocks = client.call("blocks").start().unwrap();
        let out = started(&client, "query-version", 7);
        let gone = started(&client, "gone", 20);
        let after = started(&client, "query-version", 5);
        for gone in gone {
            assert_eq!(gone.withdraw(), Sent::No);
        }
        assert_eq!(
            timed_out(client.call("gone").timeout(ms(20)).run()),
            Sent::No
        );
        now.send(()).unwrap();
        for call in out.into_iter().chain(after).chain([blocks]) {
            call.wait().unwrap();
        }
        assert!(
            server
                .commands()
                .iter()
                .all(|command| command.name != "gone")
        );
        let _ = client.disconnect().unwrap();
        let stats = client.stats();
        assert_eq!((stats.replies, stats.unknown_replies), (13, 0));
    });
}

#[test]
fn of_more_than_a_window_from_many_threads_none_is_lost() {
    const EACH: usize = 400;
    deadline(LIMIT, || {
        // The queue is smaller than the window at times, too.
        for options in [
            Options::new(),
            Options::new().in_band_window(3).queue_messages(1),
            Options::new().in_band_window(None).queue_messages(2),
        ] {
            let (peer, client) = Peer::pair(options);
            let peer = peer.serve(|id, _, out| reply(out, id, id.clone()));
            let callers = (0..8).map(|caller| {
                let client = client.clone();
                spawn("caller", move || {
                    let mut started = Vec::new();
                    for n in 0..EACH {
                        let call = client.call("x");
                        match (n + caller) % 4 {
                            0 => drop(call.run().unwrap()),
                            1 => drop(call.oob().run().unwrap()),
                            2 => drop(call.start().unwrap()),
                            _ => started.push(call.start().unwrap()),
                        }
                    }
                    for pending in started {
                        let id = pending.id();
                        assert_eq!(pending.wait().unwrap().value, id);
                    }
                })
            });
            let callers: Vec<_> = callers.collect();
            callers.into_iter().for_each(|it| it.join().unwrap());
            let _ = client.disconnect_after_replies(PATIENCE).unwrap();
            let abandoned = 8 * EACH as u64 / 4;
            assert!(client.stats().unknown_replies <= abandoned);
            drop(client);
            assert_eq!(peer.join().unwrap(), 8 * EACH);
        }
    });
}

#[test]
fn what_a_queue_full_of_bytes_without_reply_holds_up_goes_on_when_they_leave() {
    deadline(LIMIT, || {
        for window in [None, Some(8)] {
            let options = Options::new().queue_messages(3).in_band_window(window);
            let (mut peer, client) = Peer::pair(options);
            client.send_raw(&b" ".repeat(4 << 20)).unwrap();
            assert!(
                !peer.read.fill_buf().unwrap().is_empty(),
                "it is on its way"
            );
            for _ in 0..3 {
                client.send_raw(b" ").unwrap();
            }
            let held = started(&client, "held", 3);
            peer.serve(|id, _, out| reply(out, id, id.clone()));
            for call in held {
                let id = call.id();
                assert_eq!(call.wait().unwrap().value, id);
            }
        }
    });
}

/// How many descriptors came with each `getfd`.
fn descriptors(server: &Server) -> Vec<usize> {
    let commands = server.commands();
    let all = commands.iter().filter(|command| command.name == "getfd");
    all.map(|command| command.descriptors).collect()
}

#[test]
fn descriptors_of_two_threads_go_one_after_the_other() {
    const EACH: usize = 60;
    deadline(LIMIT, || {
        // Out of band they would overtake each other.
        let server = Script::new()
            .on("getfd", |_| Act::Return(json!({})))
            .start_unix();
        let client = at(&server, Options::new());
        let callers = [false, true].map(|oob| {
            let client = client.clone();
            spawn("caller", move || {
                let (file, _other) = UnixStream::pair().unwrap();
                let mut last = None;
                for n in 0..EACH {
                    let call = client.call("getfd").fd(file.as_fd());
                    let call = if oob { call.oob() } else { call };
                    match n % 2 {
                        0 => drop(call.run().unwrap()),
                        _ => last = Some(call.start().unwrap()), // the next one waits for it
                    }
                    client.execute("query-version", ()).unwrap();
                }
                last.unwrap().wait().unwrap();
            })
        });
        callers.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(descriptors(&server), [1; 2 * EACH]);
    });
}

#[test]
fn a_descriptor_waits_for_its_turn_no_longer_than_its_call() {
    deadline(LIMIT, || {
        let (now, hold) = Act::Return(json!({})).later();
        let hold = Mutex::new(Some(hold));
        let server = Script::new()
            .on("getfd", move |_| {
                hold.lock().take().unwrap_or(Act::Return(json!({})))
            })
            .start_unix();
        let client = at(&server, Options::new());
        let (file, _other) = UnixStream::pair().unwrap();
        let getfd = || client.call("getfd").fd(file.as_fd());
        assert_eq!(timed_out(getfd().timeout(ms(50)).run()), Sent::Maybe);
        // The server may not have taken it yet, so the next one would take its place.
        assert_eq!(timed_out(getfd().timeout(ms(50)).run()), Sent::No);
        assert_eq!(timed_out(getfd().timeout(ms(50)).oob().start()), Sent::No);
        now.send(()).unwrap();
        getfd().timeout(PATIENCE).run().unwrap();
        assert_eq!(descriptors(&server), [1, 1]);
    });
}

#[test]
fn who_waits_for_the_turn_of_a_descriptor_is_woken_by_the_end() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        let (file, _other) = UnixStream::pair().unwrap();
        let first = client.call("getfd").fd(file.as_fd()).start().unwrap();
        peer.command().unwrap();
        let (ready, is_ready) = unbounded();
        let second = spawn("second", {
            let client = client.clone();
            move || {
                ready.send(()).unwrap();
                client.call("getfd").fd(file.as_fd()).run()
            }
        });
        is_ready.recv().unwrap();
        drop(peer);
        assert_eq!(super::interrupted(first.wait()).0, Sent::Maybe);
        match second.join().unwrap().unwrap_err() {
            interplay::qmp::Error::Interrupted { sent, .. } => assert_eq!(sent, Sent::No),
            interplay::qmp::Error::State(_) => {} // it came too late
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_descriptor_that_is_held_is_closed_with_its_session() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new().in_band_window(1));
        let first = client.call("first").start().unwrap();
        peer.command().unwrap();
        let (file, watched) = UnixStream::pair().unwrap();
        let held = client.call("getfd").fd(file.as_fd()).start().unwrap();
        drop((file, peer));
        let _ = client.wait_end(PATIENCE).unwrap();
        watched.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = std::io::Read::read(&mut &watched, &mut [0]);
        assert_eq!(read.unwrap(), 0, "no copy is open");
        assert_eq!(super::interrupted(held.wait()).0, Sent::No);
        assert_eq!(super::interrupted(first.wait()).0, Sent::Maybe);
    });
}
