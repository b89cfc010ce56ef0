//! Time limits, wherever a command is when its time is over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use interplay::qmp::{Client, Error, Filter, Options, Pending, Sent, Waiting};
use serde_json::json;

use super::support::qmp::{Act, Script, version};
use super::support::{LIMIT, deadline, ms, spawn};
use super::{PATIENCE, Peer, at, reply, timed_out};

/// More than a socket takes.
fn jam() -> serde_json::Value {
    json!({"text": "x".repeat(4 << 20)})
}

/// The names of the commands that the peer finds until the one of this name.
fn until(peer: &mut Peer, name: &str) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let (id, line) = peer.command().unwrap();
        let command: serde_json::Value = serde_json::from_str(&line).unwrap();
        peer.send(&json!({"return": {}, "id": id}));
        names.push(command["execute"].as_str().unwrap().to_owned());
        if names.last().unwrap() == name {
            return names;
        }
    }
}

#[test]
fn time_that_is_over_on_the_way_out_says_whether_the_command_may_have_left() {
    deadline(LIMIT, || {
        for options in [
            Options::new().queue_messages(2).in_band_window(None),
            Options::new().queue_messages(2),
        ] {
            let (mut peer, client) = Peer::pair(options);
            let jamming = client.call("jams").args(jam()).timeout(ms(60));
            let began = Instant::now();
            assert_eq!(timed_out(jamming.run()), Sent::Maybe, "part of it is out");
            assert!(began.elapsed() >= ms(60));
            // Two find room in the queue, and the rest none.
            let call = |name| client.call(name).timeout(ms(60));
            let queued: Vec<Pending> = (0..4).map(|_| call("queued").start().unwrap()).collect();
            let began = Instant::now();
            assert_eq!(timed_out(call("no-room").run()), Sent::No);
            assert_eq!(timed_out(call("no-room").oob().run()), Sent::No);
            assert!(began.elapsed() >= ms(120), "each had its time");
            for queued in queued {
                assert_eq!(timed_out(queued.wait()), Sent::No);
            }
            let last = client.call("last").start().unwrap();
            let reader = spawn("reader", move || until(&mut peer, "last"));
            assert_eq!(last.wait().unwrap().value, json!({}));
            assert_eq!(reader.join().unwrap(), ["jams", "last"]);
        }
    });
}

#[test]
fn time_that_is_over_in_the_window_takes_the_command_back() {
    deadline(LIMIT, || {
        let (now, hold) = Act::Return(json!({})).later();
        let hold = parking_lot::Mutex::new(Some(hold));
        let server = Script::new()
            .on("blocks", move |_| hold.lock().take().unwrap())
            .start_unix();
        let client = at(&server, Options::new());
        let blocks = client.call("blocks").start().unwrap();
        let sent = (0..7).map(|_| client.call("query-version").timeout(ms(50)).start());
        let sent: Vec<Pending> = sent.map(Result::unwrap).collect();
        server.nth(7, "query-version");
        let held = client.call("held").timeout(ms(50)).start().unwrap();
        assert_eq!(
            timed_out(client.call("held").timeout(ms(50)).run()),
            Sent::No
        );
        assert_eq!(timed_out(held.wait()), Sent::No);
        for sent in sent {
            assert_eq!(timed_out(sent.wait()), Sent::Maybe, "it was in the window");
        }
        now.send(()).unwrap();
        assert_eq!(blocks.wait().unwrap().value, json!({}));
        assert_eq!(client.execute("query-version", ()).unwrap(), version());
        assert!(
            server
                .commands()
                .iter()
                .all(|command| command.name != "held")
        );
        assert_eq!(client.stats().unknown_replies, 7, "the session goes on");
    });
}

#[test]
fn a_limit_of_zero_sends_nothing_and_returns_at_once() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let zero = Duration::ZERO;
        let client = at(&server, Options::new().call_timeout(zero));
        let whole = json!({"execute": "zero", "id": 1});
        assert_eq!(timed_out(client.execute("zero", ())), Sent::No);
        assert_eq!(timed_out(client.execute_oob("zero", ())), Sent::No);
        assert_eq!(timed_out(client.execute_msg(whole.clone())), Sent::No);
        assert_eq!(timed_out(client.start_msg(whole)), Sent::No);
        assert_eq!(timed_out(client.raw(b"[]")), Sent::No);
        let call = || client.call("zero").timeout(zero);
        assert_eq!(timed_out(call().start()), Sent::No);
        assert_eq!(timed_out(call().oob().run()), Sent::No);
        let version_of = client.call("query-version").timeout(PATIENCE).run();
        assert_eq!(version_of.unwrap().value, version());
        assert_eq!(server.commands().len(), 2, "that, and the negotiation");
    });
}

#[test]
fn a_limit_beyond_the_clock_is_none() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let huge = Duration::MAX;
        let options = Options::new()
            .call_timeout(huge)
            .connect_timeout(huge)
            .handshake_timeout(huge)
            .flush_timeout(huge)
            .drain_timeout(huge);
        let client = at(&server, options);
        let events = client.events(Filter::all());
        assert_eq!(client.execute("query-version", ()).unwrap(), version());
        let call = || client.call("query-version").timeout(huge);
        assert_eq!(call().run().unwrap().value, version());
        assert_eq!(call().oob().run().unwrap().value, version());
        let mut pending = call().start().unwrap();
        let reply = pending.wait_timeout(huge).unwrap().unwrap();
        assert_eq!(reply.value, version());
        server.send(&json!({"event": "A"}));
        server.send(&json!({"event": "B"}));
        assert_eq!(events.recv_timeout(huge).unwrap().name(), "A");
        assert_eq!(events.wait_for(|_| true, huge).unwrap().name(), "B");
        assert!(client.disconnect_after_replies(huge).unwrap().is_some());
        assert!(client.wait_end(huge).unwrap().is_none());
    });
}

#[test]
fn the_limit_of_a_call_counts_in_place_of_the_client_s() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new().call_timeout(ms(40)));
        let pending = client.call("slow").timeout(PATIENCE).start().unwrap();
        match client.execute("silent", ()).unwrap_err() {
            Error::Timeout {
                waiting: Waiting::Call { command, .. },
                allowed,
            } => assert_eq!((command.name(), allowed), ("silent", ms(40))),
            other => panic!("{other:?}"),
        }
        let (id, _) = peer.command().unwrap();
        peer.send(&json!({"return": 1, "id": id}));
        assert_eq!(pending.wait().unwrap().value, 1);
    });
}

#[test]
fn waiting_again_and_again_does_not_prolong_a_call() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        let began = Instant::now();
        let mut pending = client.call("silent").timeout(ms(100)).start().unwrap();
        peer.command().unwrap();
        let mut waits = 0;
        let result = loop {
            if let Some(result) = pending.wait_timeout(ms(10)) {
                break result;
            }
            waits += 1;
        };
        assert_eq!(timed_out(result), Sent::Maybe);
        assert!(began.elapsed() >= ms(100), "not before");
        assert!(waits <= 10, "{waits} waits of a tenth each");
    });
}

#[test]
fn of_the_limits_of_a_wait_and_of_its_call_the_shorter_counts() {
    deadline(LIMIT, || {
        let (_peer, client) = Peer::pair(Options::new());
        let start = |limit| client.call("silent").timeout(limit).start().unwrap();
        let mut long = start(PATIENCE * 100);
        assert!(long.wait_timeout(ms(5)).is_none());
        let mut short = start(ms(20));
        let result = short.wait_timeout(PATIENCE * 100);
        timed_out(result.unwrap());
        assert!(long.try_wait().is_none(), "it can be waited for again");
    });
}

/// Lets the time of each call be over when its reply comes.
fn race(calls: usize) {
    let (peer, client) = Peer::pair(Options::new());
    let peer = peer.serve(|id, _, out| reply(out, id, id.clone()));
    let outcomes = [const { AtomicUsize::new(0) }; 3];
    let caller = |client: &Client| {
        let mut limit = 100e-6;
        for _ in 0..calls / 2 {
            let call = client.call("race").timeout(Duration::from_secs_f64(limit));
            let begun = match call.start() {
                Ok(pending) => {
                    let id = pending.id();
                    pending.wait().map(|reply| assert_eq!(reply.value, id))
                }
                Err(error) => Err(error),
            };
            // As long as it took the last ones, so that nobody knows which is first.
            let outcome = match begun {
                Ok(()) => {
                    limit *= 0.96;
                    0
                }
                late => {
                    limit *= 1.04;
                    1 + usize::from(timed_out(late) == Sent::Maybe)
                }
            };
            limit = limit.clamp(1e-6, 1.0);
            outcomes[outcome].fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| caller(&client));
        scope.spawn(|| caller(&client));
    });
    // In band this is the last reply.
    client.execute("race", ()).unwrap();
    let _ = client.disconnect().unwrap();
    let stats = client.stats();
    let commands = peer.join().unwrap();
    let [replied, never_left, late] = outcomes.map(|count| count.into_inner());
    assert_eq!(replied + never_left + late, calls);
    assert_eq!(stats.replies, replied as u64 + 1);
    assert_eq!(stats.unknown_replies, late as u64);
    assert_eq!(
        commands,
        replied + late + 1,
        "what was taken back never left"
    );
    let both = replied.min(late + never_left);
    assert!(both > calls / 20, "{replied} {never_left} {late}: no race");
}

#[test]
fn a_reply_at_the_last_moment_is_delivered_or_late_and_never_both() {
    deadline(LIMIT, || race(20_000));
}

#[test]
#[ignore = "takes long: the same as above, for the nightly run"]
fn a_reply_at_the_last_moment_has_one_outcome_a_hundred_thousand_times() {
    deadline(LIMIT * 5, || race(100_000));
}
