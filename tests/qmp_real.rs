//! The QMP client against QEMU's own servers: an emulator without a machine, and a storage daemon.
//!
//! Each test has servers of its own and returns early, with a line that says why, where they are not installed (see
//! `support/qemu.rs`). What a reply or an event must be is what a socket by hand gets from the same server, never what one
//! version of it happens to say.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

#[path = "support/qemu.rs"]
mod qemu;
mod support;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use interplay::protocol::{Addr, State};
use interplay::qmp::{
    Client, Error, Event, Filter, Options, Pending, RecvError, Reply, Sent, Waiting,
};
use qemu::{ByHand, Obstacle, Program, Server, present};
use serde_json::{Value, json};
use support::{LIMIT, deadline, eventually, ms, pause, secs, spawn, threads};

/// Runs a test of one program, or says why not.
fn with(program: Program, test: impl FnOnce(Server) + Send + 'static) {
    if present(program) {
        deadline(LIMIT, move || test(Server::start(program).unwrap()));
    }
}

/// Runs a test of each program that is there.
fn with_each(test: impl Fn(Program, Server) + Clone + Send + 'static) {
    for program in Program::ALL {
        let test = test.clone();
        with(program, move |server| test(program, server));
    }
}

/// One that is connected.
fn client(server: &Server) -> Client {
    client_with(server, options())
}

fn client_with(server: &Server, options: Options) -> Client {
    let client = Client::new(options);
    client.connect(address(server)).unwrap();
    client
}

/// A call that is given up after this long.
fn in_vain(client: &Client, limit: Duration) -> Sent {
    let call = client.call("query-version").timeout(limit);
    match call.run().unwrap_err() {
        Error::Timeout {
            waiting: Waiting::Call { sent, .. },
            ..
        } => sent,
        other => panic!("{other:#}"),
    }
}

/// Nothing should take long, but machines stall.
fn options() -> Options {
    Options::new()
        .handshake_timeout(secs(30))
        .call_timeout(secs(30))
}

fn address(server: &Server) -> Addr {
    Addr::from(server.socket())
}

/// A whole command, so that the reply tells when it arrived.
fn message(client: &Client, name: &str) -> Reply {
    client.execute_msg(json!({"execute": name})).unwrap()
}

/// The class of the server's error.
fn class(error: &Error) -> &str {
    match error {
        Error::Execute { class, .. } => class,
        other => panic!("the server did not say so: {other:#}"),
    }
}

/// Whether a call may have run that the end of its session interrupted, and why that ended.
fn interruption(error: &Error) -> (Sent, &Error) {
    match error {
        Error::Interrupted { sent, cause, .. } => (*sent, cause),
        other => panic!("not interrupted: {other:#}"),
    }
}

/// A command that hangs in the server, and all in-band ones behind it.
fn hang(client: &Client, obstacle: &Obstacle) -> Pending {
    client
        .call("blockdev-add")
        .args(obstacle.arguments())
        .start()
        .unwrap()
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::name).collect()
}

#[test]
fn a_session_greets_negotiates_answers_and_ends() {
    with_each(|program, server| {
        let client = Client::new(options().name("real"));
        assert_eq!(client.state(), State::Idle);
        client.connect(address(&server)).unwrap();
        assert_eq!(client.state(), State::Running);

        let version = client.execute("query-version", ()).unwrap();
        assert!(version["qemu"]["major"].is_u64(), "{version}");
        let greeting = client.greeting().unwrap();
        assert_eq!(greeting["QMP"]["version"], version);

        let commands = client.execute("query-commands", json!({})).unwrap();
        let known = |name: &str| {
            let commands = commands.as_array().unwrap();
            commands.iter().any(|command| command["name"] == name)
        };
        assert!(known("quit"));
        assert_eq!(known("query-status"), program == Program::Emulator);

        let end = client.disconnect().unwrap().unwrap();
        assert!(end.is_clean(), "{end:?}");
        assert_eq!(client.state(), State::Idle);
        eventually(LIMIT, || {
            !threads().iter().any(|name| name.starts_with("real:"))
        });
    });
}

#[test]
fn whatever_id_the_caller_gives_comes_back_from_a_real_server() {
    with_each(|_, server| {
        let client = client(&server);
        let ids = json!([0, -1, u64::MAX, 1.5, true, null, "", "\u{1F600}\u{0}", [], [1, [2]], {"b": 1, "a": {}}]);
        for id in ids.as_array().unwrap() {
            let command = json!({"execute": "query-version", "id": id});
            assert_eq!(client.execute_msg(command).unwrap().id.as_ref(), Some(id));
        }
        assert_eq!(message(&client, "query-version").id, None);
    });
}

#[test]
fn an_error_of_the_server_is_one_of_the_call_alone() {
    with_each(|program, server| {
        let client = client(&server);
        let failure = |name: &str, args: Value| client.execute(name, args).unwrap_err();

        let error = failure("no-such-command", json!({}));
        assert_eq!(class(&error), "CommandNotFound");
        assert!(error.report().contains("no-such-command"), "{error:#}");
        let error = failure("query-version", json!({"extra": 1}));
        assert_eq!(class(&error), "GenericError");
        if program == Program::Emulator {
            let error = failure("device_del", json!({"id": "absent"}));
            assert_eq!(class(&error), "DeviceNotFound");
        }
        let error = client.execute_oob("query-version", ()).unwrap_err();
        assert_eq!(class(&error), "GenericError"); // the capability is on, the command is not for it

        client.execute("query-version", ()).unwrap();
        assert!(client.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn what_the_server_cannot_parse_is_answered_to_who_sent_it() {
    with_each(|_, server| {
        let client = client(&server);
        for broken in [&b"[]\n"[..], b"{\"execute\": }\n", b"\"text\"\n", b"17\n"] {
            let error = client.raw(broken).unwrap_err();
            assert_eq!(class(&error), "GenericError");
        }
        client.execute("query-version", ()).unwrap();
    });
}

#[test]
fn stop_and_resume_arrive_before_the_replies_that_follow_them() {
    with(Program::Emulator, |server| {
        let client = Client::new(options());
        let both = client.events(Filter::names(["STOP", "RESUME"]));
        let resume = client.events(Filter::name("RESUME"));
        client.connect(address(&server)).unwrap();

        let mut last = 0;
        for (command, event) in [("stop", "STOP"), ("cont", "RESUME")].repeat(50) {
            let reply = message(&client, command);
            // No waiting: it has been dispatched before the reply was delivered.
            let came = both.recv_timeout(Duration::ZERO).unwrap();
            assert_eq!(came.name(), event);
            assert!(last < came.number() && came.number() < reply.number);
            assert!(came.timestamp().is_some(), "{came:?}");
            last = reply.number;
        }
        assert_eq!(names(&resume.drain()), ["RESUME"; 50]);

        client.execute("cont", ()).unwrap(); // it runs already
        assert!(matches!(
            both.recv_timeout(ms(50)),
            Err(RecvError::TimedOut)
        ));
        assert!(client.query_status().unwrap().running);

        client.disconnect().unwrap();
        assert!(matches!(
            both.recv_timeout(secs(30)),
            Err(RecvError::Closed)
        ));
    });
}

#[test]
fn an_out_of_band_command_passes_one_that_hangs_and_all_behind_it() {
    with(Program::Emulator, |server| {
        let client = client(&server);
        let obstacle = Obstacle::new(&server).unwrap();
        let blocked = hang(&client, &obstacle);
        // More than the server would read ahead: the window keeps them from being in the way.
        let mut behind: Vec<_> = (0..40)
            .map(|_| client.call("query-version").start().unwrap())
            .collect();

        for _ in 0..10 {
            let yanks = client.execute_oob("query-yank", ()).unwrap();
            assert!(yanks.is_array(), "{yanks}");
        }
        let error = client.execute_oob("migrate-pause", ()).unwrap_err();
        assert_eq!(class(&error), "GenericError");
        let error = client.execute_oob("no-such-command", ()).unwrap_err();
        assert_eq!(class(&error), "CommandNotFound");
        assert!(
            behind
                .iter_mut()
                .all(|pending| pending.try_wait().is_none())
        );

        drop(obstacle.reached().unwrap());
        blocked.wait().unwrap();
        for pending in behind {
            pending.wait().unwrap();
        }
    });
}

#[test]
fn out_of_band_commands_are_refused_on_this_side_without_the_capability() {
    with(Program::Emulator, |server| {
        let client = client_with(&server, options().oob(false));
        let error = client.execute_oob("query-yank", ()).unwrap_err();
        assert!(matches!(error, Error::OobNotEnabled), "{error:#}");
        client.execute("query-yank", ()).unwrap();
    });
}

/// Every reply of these can be told from the others: the error has the name in it.
fn a_thousand_in_flight(client: &Client, version: &Value) {
    let pending: Vec<_> = (0..1_000)
        .map(|number| match number % 2 {
            0 => client.call(&format!("no-such-{number}-command")).start(),
            _ => client.call("query-version").start(),
        })
        .map(Result::unwrap)
        .collect();
    for (number, pending) in pending.into_iter().enumerate() {
        match pending.wait() {
            Ok(reply) => assert!(
                number % 2 == 1 && reply.value == *version,
                "{number}: {reply:?}"
            ),
            Err(Error::Execute { desc, .. }) => {
                let name = format!("no-such-{number}-command");
                assert!(number % 2 == 0 && desc.contains(&name), "{number}: {desc}");
            }
            Err(error) => panic!("{number}: {error:#}"),
        }
    }
}

#[test]
fn each_of_a_thousand_commands_in_flight_gets_its_own_reply() {
    with_each(|_, server| {
        for options in [
            options(),
            options().in_band_window(None),
            options().oob(false),
            options().newline(false),
        ] {
            let client = client_with(&server, options);
            let version = client.execute("query-version", ()).unwrap();
            a_thousand_in_flight(&client, &version);
            assert_eq!(client.stats().unknown_replies, 0);
            assert!(client.disconnect().unwrap().unwrap().is_clean());
        }
    });
}

#[test]
fn each_of_eight_threads_gets_its_own_replies() {
    with_each(|_, server| {
        let client = Arc::new(client(&server));
        let call = |thread: usize| {
            let client = client.clone();
            spawn("caller", move || {
                for round in 0..100 {
                    let name = format!("no-such-{thread}-{round}-command");
                    let error = client.execute(&name, ()).unwrap_err();
                    assert!(error.report().contains(&name), "{error:#}");
                }
            })
        };
        let threads: Vec<JoinHandle<()>> = (0..8).map(call).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_reply_of_many_kilobytes_is_what_a_socket_by_hand_gets() {
    with_each(|_, server| {
        let mut hand = ByHand::connect(&server.socket(), false).unwrap();
        hand.send(b"{\"execute\":\"query-qmp-schema\"}\n").unwrap();
        let line = hand.line().unwrap();
        assert!(line.len() > 100_000, "{} bytes", line.len());
        let expected: Value = serde_json::from_slice(&line).unwrap();
        drop(hand); // a monitor has one client at a time

        let client = client(&server);
        let schema = client.execute("query-qmp-schema", ()).unwrap();
        assert!(schema == expected["return"]); // too long to be printed
        let schema: Vec<Value> = client.execute_as("query-qmp-schema", ()).unwrap();
        assert!(Value::from(schema) == expected["return"]);
    });
}

#[test]
fn a_monitor_that_prints_prettily_is_read_as_any_other() {
    for program in Program::ALL {
        if !present(program) {
            continue;
        }
        deadline(LIMIT, move || {
            let server = Server::start_with(program, ",pretty=on", &[]).unwrap();
            let client = client(&server);
            let version = client.execute("query-version", ()).unwrap();
            assert_eq!(client.greeting().unwrap()["QMP"]["version"], version);
            a_thousand_in_flight(&client, &version);
            assert!(client.disconnect().unwrap().unwrap().is_clean());
        });
    }
}

#[test]
fn a_killed_server_interrupts_all_that_wait() {
    with_each(|_, mut server| {
        let client = client(&server);
        let events = client.events(Filter::all());
        let obstacle = Obstacle::new(&server).unwrap();
        let hanging = hang(&client, &obstacle);
        let behind: Vec<_> = (0..3)
            .map(|_| client.call("query-version").start().unwrap())
            .collect();
        let _hangs = obstacle.reached().unwrap();

        server.kill().unwrap();

        let error = hanging.wait().unwrap_err();
        assert_eq!(interruption(&error).0, Sent::Maybe);
        for error in behind
            .into_iter()
            .map(|pending| pending.wait().unwrap_err())
        {
            let (_, cause) = interruption(&error);
            let gone = matches!(cause, Error::PeerClosed { .. } | Error::PeerReset(_));
            assert!(gone, "{error:#}");
        }
        assert!(matches!(events.recv(), Err(RecvError::Ended(_))));
        let end = client.wait_end(Some(secs(30))).unwrap().unwrap();
        assert!(!end.is_clean());
        assert_eq!(client.state(), State::Idle);
        let error = client.connect(address(&server)).unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error:#}");
        assert!(error.is_retryable());
    });
}

#[test]
fn a_server_killed_with_unread_input_resets_the_session() {
    with_each(|_, mut server| {
        let client = client(&server);
        server.freeze().unwrap();
        while in_vain(&client, ms(100)) == Sent::No {}
        let pending = client.call("query-version").start().unwrap();
        server.kill().unwrap();

        let error = pending.wait().unwrap_err();
        let (_, cause) = interruption(&error);
        assert!(matches!(cause, Error::PeerReset(_)), "{error:#}");
        assert!(error.report().contains("os error"), "{error:#}");
        assert!(!client.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn a_call_that_times_out_costs_nothing_but_its_reply() {
    with_each(|_, server| {
        let client = client(&server);
        server.freeze().unwrap();
        while in_vain(&client, ms(100)) == Sent::No {}
        server.signal("CONT").unwrap();
        client.execute("query-version", ()).unwrap();
        assert_eq!(client.stats().unknown_replies, 1);
        assert!(client.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn a_server_that_is_told_to_quit_ends_the_session_cleanly() {
    for program in Program::ALL {
        if !present(program) {
            continue;
        }
        for (newline, oob) in [(true, true), (true, false), (false, true), (false, false)] {
            deadline(LIMIT, move || {
                let server = Server::start(program).unwrap();
                let client = client_with(&server, options().newline(newline).oob(oob));
                let events = client.events(Filter::name("SHUTDOWN"));

                client.quit().unwrap();

                let end = client.wait_end(Some(secs(30))).unwrap().unwrap();
                assert!(end.is_clean(), "newline {newline}, oob {oob}: {end:?}");
                let shutdowns = events.drain();
                let expected = usize::from(program == Program::Emulator);
                assert_eq!(shutdowns.len(), expected, "{shutdowns:?}");
                assert!(matches!(
                    events.recv_timeout(secs(30)),
                    Err(RecvError::Closed)
                ));
            });
        }
    }
}

#[test]
fn commands_behind_quit_are_interrupted_by_it() {
    with_each(|_, server| {
        let client = client(&server);
        let before = client.call("query-version").start().unwrap();
        let quit = client.call("quit").start().unwrap();
        let behind: Vec<_> = (0..20)
            .filter_map(|_| client.call("query-version").start().ok())
            .collect();

        before.wait().unwrap();
        quit.wait().unwrap();
        for pending in behind {
            match pending.wait().unwrap_err() {
                // Those behind the window were never sent.
                Error::Interrupted { cause, .. } => {
                    assert!(matches!(*cause, Error::ServerQuit), "{cause:#}");
                }
                other => panic!("{other:#}"),
            }
        }
        let end = client.wait_end(Some(secs(30))).unwrap().unwrap();
        assert!(end.is_clean(), "{end:?}");
    });
}

#[test]
fn a_server_that_is_terminated_says_so_before_it_goes() {
    with(Program::Emulator, |server| {
        let client = client(&server);
        let events = client.events(Filter::name("SHUTDOWN"));
        server.signal("TERM").unwrap();

        let shutdown = events.recv_timeout(secs(30)).unwrap();
        assert_eq!(shutdown.data()["reason"], "host-signal");
        match events.recv_timeout(secs(30)) {
            Err(RecvError::Ended(Error::PeerClosed { after_shutdown })) => {
                let number = after_shutdown.map(|event| event.number());
                assert_eq!(number, Some(shutdown.number()));
            }
            other => panic!("{other:?}"),
        }
        assert!(!client.disconnect().unwrap().unwrap().is_clean());
    });
}

#[test]
fn a_client_connects_again_after_every_kind_of_end() {
    for program in Program::ALL {
        if !present(program) {
            continue;
        }
        deadline(LIMIT, move || {
            let mut server = Server::start(program).unwrap();
            let client = Client::new(options());
            let events = client.events(Filter::all());
            for _ in 0..20 {
                client.connect(address(&server)).unwrap();
                client.execute("query-version", ()).unwrap();
                assert!(client.disconnect().unwrap().unwrap().is_clean());
            }

            client.connect(address(&server)).unwrap();
            server.kill().unwrap();
            assert!(!client.wait_end(Some(secs(30))).unwrap().unwrap().is_clean());

            server = Server::start(program).unwrap();
            client.connect(address(&server)).unwrap();
            client.quit().unwrap();
            assert!(client.wait_end(Some(secs(30))).unwrap().unwrap().is_clean());
            events.drain();

            server = Server::start(program).unwrap();
            client.connect(address(&server)).unwrap();
            let version = client.execute("query-version", ()).unwrap();
            a_thousand_in_flight(&client, &version);
            assert_eq!(client.stats().unknown_replies, 0);
            if program == Program::Emulator {
                client.stop().unwrap();
                assert_eq!(names(&events.drain()), ["STOP"]); // it has listened all the time
            }
        });
    }
}

/// Starts a job that makes a file, and gives the statuses of it up to the one it ends in.
fn create(client: &Client, job: &str, path: PathBuf) -> (Reply, Vec<Event>) {
    let wanted = job.to_owned();
    let filter = Filter::name("JOB_STATUS_CHANGE").and(move |event| event.data()["id"] == wanted);
    let events = client.events(filter);
    let options = json!({"driver": "file", "filename": path, "size": 1 << 20});
    let started = client.execute_msg(json!({
        "execute": "blockdev-create",
        "arguments": {"job-id": job, "options": options},
        "id": {"id": job},
    }));
    let mut changes = Vec::new();
    while changes
        .last()
        .is_none_or(|event: &Event| event.data()["status"] != "concluded")
    {
        changes.push(events.recv_timeout(secs(30)).unwrap());
    }
    client.execute("job-dismiss", json!({"id": job})).unwrap();
    changes.extend(events.drain());
    (started.unwrap(), changes)
}

#[test]
fn a_job_is_followed_by_its_events() {
    with(Program::StorageDaemon, |server| {
        let client = client(&server);
        for (job, file) in [("j0", "image"), ("j1", "other image")] {
            let path = server.folder().join(file);
            let (started, changes) = create(&client, job, path.clone());
            assert_eq!(started.id, Some(json!({"id": job})));
            let status = |event: &Event| event.data()["status"].as_str().unwrap().to_owned();
            let statuses: Vec<String> = changes.iter().map(status).collect();
            assert_eq!(
                statuses,
                [
                    "created",
                    "running",
                    "waiting",
                    "pending",
                    "concluded",
                    "null"
                ]
            );
            assert!(changes[0].number() < started.number); // on both sides of the reply
            assert!(changes[5].number() > started.number);
            assert_eq!(std::fs::metadata(path).unwrap().len(), 1 << 20);
        }
        assert_eq!(client.execute("query-jobs", ()).unwrap(), json!([]));
    });
}

#[test]
fn a_second_client_waits_until_the_first_has_gone() {
    with_each(|_, server| {
        let first = client(&server);
        let hasty = Client::new(options().handshake_timeout(ms(200)));
        let error = hasty.connect(address(&server)).unwrap_err();
        match &error {
            Error::Timeout {
                waiting: Waiting::Greeting,
                ..
            } => {}
            other => panic!("{other:#}"),
        }
        assert!(error.report().contains("another client"), "{error:#}");
        assert_eq!(hasty.state(), State::Idle);

        let second = Arc::new(Client::new(options()));
        let connecting = spawn("second", {
            let (second, address) = (second.clone(), address(&server));
            move || second.connect(address)
        });
        eventually(LIMIT, || second.state() == State::Connecting);
        pause(ms(100));
        assert_eq!(second.state(), State::Connecting);
        first.execute("query-version", ()).unwrap();

        first.disconnect().unwrap();
        connecting.join().unwrap().unwrap();
        second.execute("query-version", ()).unwrap();
    });
}

#[test]
fn the_reply_to_a_client_that_has_left_is_nobody_elses() {
    with_each(|_, server| {
        let obstacle = Obstacle::new(&server).unwrap();
        let mut gone = ByHand::connect(&server.socket(), true).unwrap();
        let command =
            json!({"execute": "blockdev-add", "arguments": obstacle.arguments(), "id": 1});
        gone.send(command.to_string().as_bytes()).unwrap();
        let hangs = obstacle.reached().unwrap();
        drop(gone);

        let next = Arc::new(Client::new(options()));
        let connecting = spawn("next", {
            let (next, address) = (next.clone(), address(&server));
            move || next.connect(address)
        });
        pause(ms(100)); // most likely it has asked for its negotiation by then
        drop(hangs);
        connecting.join().unwrap().unwrap();
        let version = next.execute("query-version", ()).unwrap();
        assert_eq!(next.greeting().unwrap()["QMP"]["version"], version);
    });
}

#[test]
fn the_failure_of_a_client_that_has_left_fails_nobody_else() {
    with_each(|_, server| {
        for _ in 0..50 {
            let mut gone = ByHand::connect(&server.socket(), true).unwrap();
            gone.send(b"{\"execute\":\"no-such-command\",\"id\":1}")
                .unwrap();
            drop(gone);
            let next = client(&server);
            next.execute("query-version", ()).unwrap();
            assert!(next.disconnect().unwrap().unwrap().is_clean());
        }
    });
}

#[test]
fn connecting_in_a_storm_of_events_never_fails() {
    with(Program::Emulator, |mut server| {
        let mut hand = server.other().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let storm = spawn("storm", {
            let stop = stop.clone();
            move || {
                let both = b"{\"execute\":\"stop\",\"id\":0}{\"execute\":\"cont\",\"id\":1}";
                while !stop.load(Ordering::Relaxed) {
                    hand.send(both).unwrap();
                    while hand.receive().unwrap()["id"] != 1 {}
                }
            }
        });
        let client = Client::new(options());
        let events = client.events(Filter::names(["STOP", "RESUME"]));
        for _ in 0..200 {
            client.connect(address(&server)).unwrap();
            client.execute("query-version", ()).unwrap();
            assert!(client.disconnect().unwrap().unwrap().is_clean());
        }
        stop.store(true, Ordering::Relaxed);
        storm.join().unwrap();
        let came = events.drain();
        assert!(!came.is_empty());
        // They take turns, and none is lost between the handshake and the reader. Only neighbours are
        // compared: one may come before the greeting, and no more until the negotiation is done.
        for pair in came.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            if first.session() == second.session() {
                assert!(first.number() < second.number(), "{pair:?}");
                let adjacent = first.number() + 1 == second.number();
                assert!(!adjacent || first.name() != second.name(), "{pair:?}");
            }
        }
    });
}

#[test]
fn a_removed_device_is_reported_by_its_event() {
    if !present(Program::Emulator) {
        return;
    }
    deadline(LIMIT, || {
        let machine = "-machine q35 -S -accel tcg -m 64 -device qemu-xhci,id=xhci";
        let machine: Vec<&str> = machine.split(' ').collect();
        let server = Server::start_with(Program::Emulator, "", &machine).unwrap();
        let client = client(&server);
        assert_eq!(client.query_status().unwrap().status, "prelaunch");
        let events = client.events(Filter::name("DEVICE_DELETED"));
        for _ in 0..5 {
            let tablet = json!({"driver": "usb-tablet", "id": "tab0"});
            client.execute("device_add", tablet).unwrap();
            client.execute("device_del", json!({"id": "tab0"})).unwrap();
            let deleted = |event: &Event| event.data()["device"] == "tab0";
            events.wait_for(deleted, secs(30)).unwrap();
        }
    });
}

#[test]
fn descriptors_arrive_one_with_each_command() {
    with(Program::Emulator, |server| {
        let client = client(&server);
        let error = client
            .execute("getfd", json!({"fdname": "none"}))
            .unwrap_err();
        assert_eq!(class(&error), "GenericError");
        let file = std::fs::File::open("/dev/null").unwrap();
        // All at once: each keeps its own, though the server would mix up two in flight.
        let pending: Vec<_> = (0..10)
            .map(|number| {
                let name = json!({"fdname": format!("f{number}")});
                let call = client.call("getfd").args(name).fd(file.as_fd());
                call.start().unwrap()
            })
            .collect();
        for pending in pending {
            pending.wait().unwrap();
        }
        for number in 0..10 {
            let name = json!({"fdname": format!("f{number}")});
            client.execute("closefd", name).unwrap();
        }
        drop(file); // ours, and still open until here
    });
}
