//! Filters run on the reader's thread: what they may do there, and what happens if they fail.

use std::sync::{Arc, Weak};

use crossbeam_channel::{Sender, bounded, unbounded};
use interplay::qmp::{Client, Error, Filter, Options, Pending, RecvError};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::support::qmp::{Script, event, kind, version};
use super::support::{LIMIT, deadline, ms};
use super::{PATIENCE, at, name};

#[test]
fn a_filter_that_panics_ends_its_listener_and_nothing_else() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let (witness, gone) = unbounded::<()>();
        let bad = client.events(Filter::when(move |event| {
            let _held = &witness;
            assert_ne!(event.name(), "BAD", "on purpose");
            true
        }));
        let good = client.events(Filter::all());
        for name in ["FINE", "BAD", "LATER"] {
            server.send(&event(name, json!({})));
        }
        for expected in ["FINE", "BAD", "LATER"] {
            assert_eq!(name(good.recv_timeout(PATIENCE)), expected);
        }
        assert_eq!(client.execute("query-version", ()).unwrap(), version());
        assert_eq!(name(bad.recv()), "FINE", "what was queued stays");
        for _ in 0..2 {
            match bad.recv().unwrap_err() {
                RecvError::FilterPanic { message } => {
                    assert!(message.contains("on purpose"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        // The next session does not bring it back.
        let _ = client.disconnect().unwrap();
        client.connect(super::address(&server)).unwrap();
        server.send(&event("AGAIN", json!({})));
        assert!(matches!(good.recv(), Ok(event) if event.name() == "AGAIN"));
        assert!(matches!(bad.try_recv(), Err(RecvError::FilterPanic { .. })));
        drop(bad);
        assert!(
            gone.recv_timeout(PATIENCE).is_err(),
            "the filter is dropped"
        );
    });
}

/// A predicate that hangs must not keep a call beyond its time.
#[test]
fn a_filter_runs_on_the_client_s_own_thread_whoever_waits() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        client.execute("query-version", ()).unwrap();
        let (told, hears) = unbounded();
        let (release, released) = bounded::<()>(0);
        let events = client.events(Filter::when(move |event| {
            let thread = std::thread::current().name().map(str::to_owned);
            told.send((event.name().to_owned(), thread)).unwrap();
            event.name() != "HANG" || released.recv().is_err()
        }));
        for _ in 0..100 {
            server.send(&event("EASY", json!({})));
            client.execute("query-version", ()).unwrap();
        }
        server.send(&event("HANG", json!({})));
        let late = client.call("query-version").timeout(ms(50)).run();
        assert!(matches!(late, Err(Error::Timeout { .. })));
        drop(release);
        assert_eq!(client.execute("query-version", ()).unwrap(), version());
        drop(events);
        let all: Vec<_> = hears.iter().collect();
        assert_eq!(all.len(), 101);
        for (name, thread) in all {
            assert!(thread.unwrap().ends_with(":rd"), "{name}");
        }
    });
}

/// Does all that waits, and says what came of each.
fn wait_for_everything(client: &Client, pending: &Mutex<Vec<Pending>>, said: &Sender<String>) {
    let say =
        |error: Option<Error>| said.send(error.map_or_else(|| "fine".to_owned(), |e| kind(&e)));
    let whole = json!({"execute": "never", "id": 1});
    say(client.execute("never", ()).err()).unwrap();
    say(client.execute_as::<Value>("never", ()).err()).unwrap();
    say(client.execute_oob("never", ()).err()).unwrap();
    say(client.execute_msg(whole).err()).unwrap();
    say(client.call("never").timeout(PATIENCE).run().err()).unwrap();
    say(client.raw(b"{\"execute\": \"never\"}").err()).unwrap();
    say(client.query_status().err()).unwrap();
    let mut pending = std::mem::take(&mut *pending.lock());
    say(pending[0].wait_timeout(ms(1)).unwrap().err()).unwrap();
    say(pending.remove(0).wait().err()).unwrap();
    say(client.wait_end(None).err()).unwrap();
    say(client.disconnect_after_replies(PATIENCE).err()).unwrap();
}

#[test]
fn waiting_in_a_filter_would_deadlock_and_sends_nothing() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let (said, hears) = unbounded();
        let silent = client.call("query-version").start().unwrap();
        let pending = Arc::new(Mutex::new(vec![silent]));
        let weak: Weak<Client> = Arc::downgrade(&client);
        let events = client.events(Filter::name("NOW").and({
            let pending = pending.clone();
            move |_| {
                wait_for_everything(&weak.upgrade().unwrap(), &pending, &said);
                true
            }
        }));
        server.send(&event("NOW", json!({})));
        assert_eq!(name(events.recv_timeout(PATIENCE)), "NOW");
        let all: Vec<String> = hears.try_iter().collect();
        assert_eq!(all, ["WouldDeadlock"; 11]);
        assert_eq!(client.execute("query-version", ()).unwrap(), version());
        assert!(
            server
                .commands()
                .iter()
                .all(|command| command.name != "never")
        );
    });
}

#[test]
fn a_filter_may_start_commands_listen_and_call_another_client() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let other_server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let other = at(&other_server, Options::new());
        let weak = Arc::downgrade(&client);
        let (done, results) = unbounded();
        let events = client.events(Filter::name("NOW").and(move |_| {
            let client = weak.upgrade().unwrap();
            let mut started = client.call("query-version").start().unwrap();
            assert!(started.try_wait().is_none(), "this thread would bring it");
            let listener = client.events(Filter::name("LATER"));
            drop(client.events(Filter::all()));
            let version = other.execute("query-version", ()).unwrap();
            done.send((started, listener, version)).unwrap();
            true
        }));
        server.send(&event("NOW", json!({})));
        server.send(&event("LATER", json!({})));
        assert_eq!(name(events.recv_timeout(PATIENCE)), "NOW");
        let (started, listener, other_version) = results.recv_timeout(PATIENCE).unwrap();
        assert_eq!(started.wait().unwrap().value, version());
        assert_eq!(other_version, version());
        assert_eq!(name(listener.recv_timeout(PATIENCE)), "LATER");
    });
}

#[test]
fn waiting_for_an_event_in_a_filter_would_deadlock_and_taking_one_does_not() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let other_server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let other = at(&other_server, Options::new());
        let early = client.events(Filter::name("EARLY"));
        let (tap, others) = (client.tap(), other.events(Filter::all()));
        let (said, hears) = unbounded();
        let events = client.events(Filter::name("NOW").and(move |_| {
            let say = |error: RecvError| said.send(kind(&error)).unwrap();
            assert_eq!(name(early.recv()), "EARLY", "it is there");
            say(early.try_recv().unwrap_err());
            say(early.recv().unwrap_err());
            say(early.recv_timeout(PATIENCE).unwrap_err());
            say(early.recv_deadline(None).unwrap_err());
            say(early.wait_for(|_| true, None).unwrap_err());
            assert_eq!(early.iter().count(), 0);
            tap.drain();
            say(tap.recv().unwrap_err());
            other_server.send(&event("OTHER", json!({})));
            name(others.recv_timeout(PATIENCE)) == "OTHER"
        }));
        server.send(&event("EARLY", json!({})));
        server.send(&event("NOW", json!({})));
        assert_eq!(name(events.recv_timeout(PATIENCE)), "NOW");
        let all: Vec<String> = hears.try_iter().collect();
        assert_eq!(all[0], "TimedOut");
        assert_eq!(all[1..], ["WouldDeadlock"; 5]);
    });
}

#[test]
fn a_disconnect_in_a_filter_starts_the_end() {
    deadline(LIMIT, || {
        let server = Script::new().start_unix();
        let client = at(&server, Options::new());
        let weak = Arc::downgrade(&client);
        let (said, hears) = unbounded();
        let events = client.events(Filter::when(move |_| {
            let ended = weak.upgrade().unwrap().disconnect();
            said.send(kind(&ended.unwrap_err())).unwrap();
            true
        }));
        server.send(&event("NOW", json!({})));
        assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), "WouldDeadlock");
        assert!(client.wait_end(PATIENCE).unwrap().is_some());
        let last = events.iter().last();
        assert!(last.is_some_and(|event| event.name() == "NOW"));
        assert!(matches!(events.recv(), Err(RecvError::Closed)));
    });
}
