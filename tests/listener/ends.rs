//! How children end, and what is left of what they said.

use interplay::listener::End;

use super::rig::{Hears, Rig, over_each};
use super::*;

/// Numbers that are as random as the time of the test; what fails names the seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        Self(since.as_nanos() as u64 | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Expects the numbers from 0 on, then one goodbye.
struct InOrder {
    next: Arc<AtomicU64>,
    odd: crossbeam_channel::Sender<String>,
}

impl Handler<Value> for InOrder {
    fn handle(&mut self, message: Message) -> Result<(), BoxError> {
        let expected = self.next.fetch_add(1, Ordering::SeqCst);
        if message.data != json!(expected) {
            self.odd.send(format!("{} for {expected}", message.data))?;
        }
        Ok(())
    }

    fn gone(&mut self, source: &Source, end: &End) {
        let _ = self.odd.send(format!("{source} gone: {end:?}"));
    }
}

#[test]
fn children_killed_anywhere_in_a_frame_harm_nobody() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.capacity(64));
        let next = Arc::new(AtomicU64::new(0));
        let (odd, odds) = unbounded();
        let in_order = InOrder {
            next: Arc::clone(&next),
            odd,
        };
        rig.listener.register(source("steady"), in_order).unwrap();
        let mut steady = rig.child("posts until it may go", &Value::Null);
        assert_eq!(steady.says(), "posts");
        let mut dice = Dice::new();
        let seed = dice.0;
        let mut before = 0;
        for round in 0..100 {
            if round % 2 == 0 {
                let cut = dice.below(1700);
                let task = json!({"source": "victim", "cut": cut});
                let mut victim = rig.child("stops in a frame", &task);
                assert_eq!(victim.says(), "stopped");
                victim.kill();
            } else {
                let task = json!({"source": "victim", "bytes": 3000});
                let mut victim = rig.child("floods", &task);
                assert_eq!(victim.says(), "floods");
                let _ = victim.says_within(Duration::from_micros(dice.below(5000)));
                victim.kill();
            }
            let mut count = 0;
            loop {
                let heard = rig.hears();
                if heard == "victim gone: cut" {
                    break;
                }
                let expected = format!("victim: c {{\"n\":{count},");
                assert!(heard.starts_with(&expected), "{seed} {round}: {heard}");
                count += 1;
            }
            let handled = next.load(Ordering::SeqCst);
            assert!(odds.is_empty(), "{seed} {round}: {:?}", odds.try_recv());
            before = handled.max(before);
        }
        eventually("it goes on", || next.load(Ordering::SeqCst) > before);
        steady.go();
        let count = steady.says();
        assert!(steady.ends().success());
        assert_eq!(odds.recv_timeout(LONG).unwrap(), "steady gone: Bye");
        assert_eq!(json!(next.load(Ordering::SeqCst)), count);
        rig.connections(0);
        assert_eq!(rig.listener.stats().refused, 0);
        assert!(rig.heard.is_empty() && odds.is_empty());
    });
}

#[test]
fn what_was_posted_is_handled_however_the_child_ends_and_its_end_comes_last() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        for (then, end) in [
            ("drop", "bye"),
            ("close", "bye"),
            ("panic", "bye"),
            ("exit", "cut"),
            ("abort", "cut"),
        ] {
            for (count, bytes) in [(0, 0), (1, 1_000_000), (1000, 10)] {
                let task = json!({"source": then, "count": count, "bytes": bytes, "then": then});
                rig.child("posts and goes", &task).ends();
                for n in 0..count {
                    let heard = rig.hears();
                    let expected = format!("{then}: c {{\"n\":{n},\"x\":\"xx");
                    assert!(heard.starts_with(&expected), "{then}: {heard:.100}");
                }
                assert_eq!(rig.hears(), format!("{then} gone: {end}"));
            }
        }
        rig.connections(0);
        assert!(rig.heard.is_empty());
    });
}

#[test]
fn the_end_of_each_connection_is_told_once_to_the_handler_of_the_moment() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let (send, heard) = unbounded();
        drop(rig.invitation.admitted("a"));
        assert_eq!(rig.hears(), "a gone: cut");
        rig.listener.register(source("a"), Hears(send)).unwrap();
        for _ in 0..3 {
            drop(rig.invitation.admitted("a"));
            assert_eq!(heard.recv_timeout(LONG).unwrap(), "a gone: cut");
        }
        let a = rig.invitation.admitted("a");
        drop(rig.listener.unregister(&source("a")));
        drop(a);
        assert_eq!(rig.hears(), "a gone: cut");
        // With no handler at all it is seen by nobody, and nothing else.
        drop(rig.listener.clear_default());
        drop(rig.invitation.admitted("a"));
        rig.connections(0);
        let report = rig.listener.shutdown(LONG).unwrap();
        assert_eq!(
            (report.handled, report.dropped),
            (0, 0),
            "ends are no messages"
        );
        assert!(rig.heard.is_empty() && heard.is_empty());
    });
}

#[test]
fn a_handler_that_panics_at_an_end_is_survived() {
    struct Panics(crossbeam_channel::Sender<String>);
    impl Handler<Value> for Panics {
        fn handle(&mut self, message: Message) -> Result<(), BoxError> {
            Ok(self.0.send(message.cmd)?)
        }
        fn gone(&mut self, _: &Source, _: &End) {
            panic!("as planned");
        }
    }
    over_each(|transport| {
        for unregisters in [false, true] {
            let rig = Rig::with(transport, |builder| {
                builder.unregister_after_panic(unregisters)
            });
            let (send, heard) = unbounded();
            rig.listener.register(source("a"), Panics(send)).unwrap();
            drop(rig.invitation.admitted("a"));
            rig.connections(0);
            rig.invitation.admitted("a").send(&raw::message("c", 1));
            if unregisters {
                assert_eq!([rig.hears(), rig.hears()], ["a: c 1", "a gone: cut"]);
            } else {
                assert_eq!(heard.recv_timeout(LONG).unwrap(), "c");
            }
            rig.connections(0);
            let report = rig.listener.shutdown(LONG).unwrap();
            assert_eq!((report.handled, report.still_running), (1, None));
        }
    });
}

#[test]
fn a_grandchild_has_a_connection_of_its_own() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let mut child = rig.child("has a grandchild", &Value::Null);
        let mut heard = [rig.hears(), rig.hears()];
        heard.sort();
        assert_eq!(heard, ["child: c 1", "grandchild: c 1"]);
        // Its end is seen though what it started runs on: that has not inherited the connection.
        child.kill();
        assert_eq!(rig.hears(), "child gone: cut");
        rig.connections(1);
        rig.listener.shutdown(LONG).unwrap();
        assert_eq!(rig.hears(), "grandchild gone: stopped");
    });
}

#[test]
fn a_child_that_never_connects_is_no_concern() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let mut waits = rig.child("waits", &Value::Null);
        let task = json!({"source": "a", "count": 1, "then": "drop"});
        rig.child("posts and goes", &task).ends();
        assert!(rig.hears().starts_with("a: c "));
        assert_eq!(rig.hears(), "a gone: bye");
        rig.listener.shutdown(LONG).unwrap();
        waits.ends();
    });
}
