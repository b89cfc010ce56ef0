//! The parent stops, or ends: what its children and their last words meet.

use interplay::listener::Transport;
use interplay::listener::child::Sender as ChildSender;

use super::child::{Child, say};
use super::raw::{Invitation, frame, message};
use super::rig::{Rig, TRANSPORTS, over_each};
use super::*;

/// More than a stop may take with the limits of these tests, on any machine.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_post_after_the_parents_stop_is_an_error() {
    over_each(|transport| {
        type Stop = fn(&Listener);
        let ways: [Stop; 3] = [
            |listener| listener.stopper().stop(),
            |listener| drop(listener.shutdown(LONG).unwrap()),
            |listener| drop(listener.shutdown(Duration::ZERO).unwrap()),
        ];
        for stop in ways {
            let rig = Rig::new(transport);
            let mut child = rig.child("posts until it fails", &json!({"source": "a"}));
            assert_eq!(child.says(), "posts");
            rig.hears();
            stop(&rig.listener);
            let result = child.says();
            assert_eq!(result[1], "Closed");
            // And again, at once.
            child.go();
            assert_eq!(child.says(), "Closed");
            assert!(child.ends().success());
            rig.listener.shutdown(LONG).unwrap();
        }
    });
}

#[test]
fn an_idle_child_meets_the_stop_at_its_next_post() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let task = json!({"source": "a", "bytes": 10, "limit_ms": 0});
        let mut child = rig.child("posts once after it was let go", &task);
        assert_eq!(child.says(), "connected");
        rig.connections(1);
        rig.listener.shutdown(LONG).unwrap();
        assert_eq!(rig.hears(), "a gone: stopped");
        child.go();
        assert_eq!(child.says(), "Closed");
        assert!(child.ends().success());
    });
}

#[test]
fn a_post_that_waits_for_room_ends_with_the_parents_stop() {
    over_each(|transport| {
        let settings = |builder: interplay::listener::Builder| {
            builder
                .capacity(4)
                .drain_timeout(Duration::from_millis(100))
        };
        let rig = Rig::with(transport, settings);
        let (gate, handler) = Gate::new(|_: Message| ());
        rig.listener.register(source("a"), handler).unwrap();
        // Larger than all buffers of the system.
        let task = json!({"source": "a", "bytes": 3_000_000});
        let mut child = rig.child("posts until it fails", &task);
        assert_eq!(child.says(), "posts");
        gate.wait_entered();
        rig.listener.stopper().stop();
        let result = child.says();
        assert_eq!(result[1], "Closed", "{result}");
        gate.let_go(10);
        rig.listener.shutdown(LONG).unwrap();
        assert!(child.ends().success());
    });
}

#[test]
fn what_children_have_said_before_the_stop_is_handled() {
    over_each(|transport| {
        for (capacity, count) in [(1024, 200), (8, 200)] {
            let settings = |builder: interplay::listener::Builder| {
                builder.capacity(capacity).drain_timeout(LONG)
            };
            let rig = Rig::with(transport, settings);
            let (gate, handler) = Gate::new(|_: Message| ());
            rig.listener.register(source("gate"), handler).unwrap();
            rig.listener.sender().post(plain("gate", "c")).unwrap();
            gate.wait_entered();
            let mut children = ["a", "b"].map(|from| {
                let task = json!({"source": from, "count": count, "bytes": 10, "then": "stay"});
                let child = rig.child("posts and goes", &task);
                // All of it has left the child.
                assert_eq!(child.says(), "posted");
                child
            });
            rig.listener.stopper().stop();
            gate.let_go(1);
            let report = rig.listener.shutdown(LONG).unwrap();
            assert_eq!(report.handled, 2 * count + 1, "{report:?}");
            assert_eq!((report.dropped, report.still_running), (0, None));
            let heard: Vec<String> = rig.heard.try_iter().collect();
            for from in ["a", "b"] {
                let of_it = heard.iter().filter_map(|one| one.strip_prefix(from));
                let (end, messages) = of_it
                    .collect::<Vec<_>>()
                    .split_last()
                    .map(|(end, all)| (*end, all.to_vec()))
                    .unwrap();
                assert_eq!(end, " gone: stopped");
                for (n, message) in messages.iter().enumerate() {
                    assert!(
                        message.starts_with(&format!(": c {{\"n\":{n},")),
                        "{message}"
                    );
                }
            }
            for child in &mut children {
                child.ends();
            }
        }
    });
}

#[test]
fn every_connection_has_its_end_told_at_the_stop_after_its_messages() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let children = ["a", "b", "c"].map(|from| {
            let child = rig.invitation.admitted(from);
            child.send(&message("c", 1));
            child
        });
        let stranger = rig.invitation.connect().unwrap();
        rig.connections(3);
        rig.listener.shutdown(LONG).unwrap();
        let heard: Vec<String> = rig.heard.try_iter().collect();
        assert_eq!(heard.len(), 6, "{heard:?}");
        for from in ["a", "b", "c"] {
            let of_it = heard.iter().filter(|one| one.starts_with(from));
            let expected = [format!("{from}: c 1"), format!("{from} gone: stopped")];
            assert_eq!(of_it.cloned().collect::<Vec<_>>(), expected);
        }
        for mut child in children {
            assert_eq!(child.hear().unwrap()["closing"], true);
            assert_eq!(child.hear(), None);
        }
        drop(stranger);
    });
}

#[test]
fn a_stop_never_hangs_on_what_children_do() {
    over_each(|transport| {
        let settings = |builder: interplay::listener::Builder| {
            builder
                .capacity(4)
                .hello_timeout(2 * LONG)
                .drain_timeout(Duration::from_millis(200))
        };
        let rig = Rig::with(transport, settings);
        let (gate, handler) = Gate::new(|_: Message| ());
        rig.listener.register(source("slow"), handler).unwrap();
        // One never reads and does not end, one is in the middle of a frame, one has not said
        // hello, one is waited for by its handler, one floods.
        let silent = rig.invitation.admitted("silent");
        let half = rig.invitation.admitted("half");
        half.send(&message("c", 1)[..7]);
        let stranger = rig.invitation.connect().unwrap();
        let slow = rig.invitation.admitted("slow");
        slow.send(&message("c", 1));
        gate.wait_entered();
        let floods = rig.invitation.admitted("floods");
        let (report, reported) = bounded(1);
        let flood = thread("flood", move || {
            let many = message("c", 1).repeat(1000);
            while floods.try_send(&many).is_ok() {}
            report.send(()).unwrap();
        });
        eventually("the flood has its share", || {
            rig.listener.stats().queued > 0
        });
        let before = Instant::now();
        rig.listener.stopper().stop();
        let stopped = rig.listener.shutdown(Duration::from_millis(500)).unwrap();
        assert!(before.elapsed() < SOON);
        assert!(stopped.still_running.is_some(), "its handler does");
        // It is turned away though the handler still runs.
        reported.recv_timeout(LONG).unwrap();
        flood.join().unwrap();
        gate.let_go(10);
        eventually("ended", || {
            let report = rig.listener.shutdown(LONG).unwrap();
            report.still_running.is_none()
        });
        rig.connections(0);
        drop((silent, half, stranger, slow));
    });
}

#[test]
fn a_child_that_floods_on_after_the_stop_is_cut_off_when_the_time_to_drain_is_over() {
    over_each(|transport| {
        let limit = Duration::from_millis(300);
        let rig = Rig::with(transport, |builder| builder.drain_timeout(limit));
        let child = rig.invitation.admitted("floods");
        let flood = thread("flood", move || {
            let many = message("c", 1).repeat(1000);
            while child.try_send(&many).is_ok() {}
        });
        rig.hears();
        let before = Instant::now();
        let report = rig.listener.shutdown(LONG).unwrap();
        assert_eq!(report.still_running, None);
        assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
        flood.join().unwrap();
        let heard: Vec<String> = rig.heard.try_iter().collect();
        assert_eq!(heard.last().unwrap(), "floods gone: stopped");
    });
}

#[test]
fn a_shutdown_without_time_drops_what_is_queued_and_closes_all_at_once() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.drain_timeout(2 * LONG));
        let (gate, handler) = Gate::new(|_: Message| ());
        rig.listener.register(source("a"), handler).unwrap();
        let mut a = rig.invitation.admitted("a");
        a.send(&message("c", 1).repeat(6));
        gate.wait_entered();
        eventually("queued", || rig.listener.stats().queued == 5);
        let report = rig.listener.shutdown(Duration::ZERO).unwrap();
        assert_eq!((report.handled, report.dropped), (0, 5));
        while a.hear().is_some() {}
        gate.let_go(1);
        eventually("ended", || {
            let report = rig.listener.shutdown(LONG).unwrap();
            report.still_running.is_none()
        });
        assert_eq!(rig.listener.stats().handled, 1);
    });
}

#[test]
fn a_handler_may_stop_its_listener_with_children_connected() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        let stopper = rig.listener.stopper();
        let stops = move |_: Message| {
            stopper.stop();
            Ok(())
        };
        rig.listener.register(source("stops"), stops).unwrap();
        let mut a = rig.invitation.admitted("a");
        let stops = rig.invitation.admitted("stops");
        a.send(&message("c", 1));
        assert_eq!(rig.hears(), "a: c 1");
        stops.send(&message("c", 1));
        assert_eq!(a.hear().unwrap()["closing"], true);
        assert_eq!(a.hear(), None);
        assert_eq!(rig.hears(), "a gone: stopped");
        let report = rig.listener.shutdown(LONG).unwrap();
        assert_eq!((report.handled, report.still_running), (2, None));
    });
}

#[test]
fn a_handler_may_drop_the_last_owner_of_a_listener_with_children() {
    over_each(|transport| {
        let Rig {
            listener,
            invitation,
            heard,
            ..
        } = Rig::new(transport);
        let (send, receive) = bounded::<Listener>(1);
        let drops = move |_: Message| {
            drop(receive.recv_timeout(LONG)?);
            Ok(())
        };
        listener.register(source("drops"), drops).unwrap();
        let mut a = invitation.admitted("a");
        let drops = invitation.admitted("drops");
        send.send(listener).unwrap();
        drops.send(&message("c", 1));
        assert_eq!(a.hear().unwrap()["closing"], true);
        assert_eq!(a.hear(), None);
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "a gone: stopped");
        eventually("closed", || !invitation.lets_in("late"));
    });
}

#[test]
fn nobody_is_let_in_after_the_stop() {
    over_each(|transport| {
        let rig = Rig::new(transport);
        rig.listener.shutdown(LONG).unwrap();
        assert!(!rig.invitation.lets_in("late"));
        let mut child = rig.child("finds no parent", &Value::Null);
        let found = child.says();
        assert_eq!(
            (&found[0], &found[1]),
            (&json!([true, true]), &json!("Unreachable"))
        );
        assert!(!found[2].as_str().unwrap().contains(&rig.invitation.token));
        assert!(child.ends().success());
        // Before the threads have ended too.
        let rig = Rig::new(transport);
        let (gate, handler) = Gate::new(|_: Message| ());
        rig.listener.register(source("a"), handler).unwrap();
        rig.listener.sender().post(plain("a", "c")).unwrap();
        gate.wait_entered();
        rig.listener.stopper().stop();
        eventually("closed", || !rig.invitation.lets_in("late"));
        gate.let_go(1);
    });
}

#[test]
fn a_child_without_an_environment_is_told_so() {
    let mut child = Child::start("finds no parent", &Value::Null, []);
    let found = child.says();
    assert_eq!(
        (&found[0], &found[1]),
        (&json!([false, false]), &json!("NoEnvironment"))
    );
    assert!(child.ends().success());
}

#[test]
fn children_notice_a_parent_that_was_killed() {
    for transport in TRANSPORTS {
        let task = json!({"tcp": *transport == Transport::Tcp});
        let mut parent = Child::start("parent that is killed", &task, []);
        let env = parent.says();
        let env = ["INTERPLAY_LISTENER", "INTERPLAY_LISTENER_TOKEN"]
            .map(|name| (name, env[name].as_str().unwrap().to_owned()));
        let task = json!({"source": "a"});
        let mut child = Child::start("posts until it fails", &task, env.clone());
        assert_eq!(child.says(), "posts");
        parent.kill();
        assert_eq!(child.says()[1], "Closed");
        assert!(child.ends().success());
        // What a killed one has left, nobody else removes.
        let folder = std::path::Path::new(&env[0].1).parent().unwrap();
        if folder.is_absolute() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

/// In a child: a listener that will not end well.
pub(crate) fn parent_that_is_killed(task: &Value) {
    let transport = match task["tcp"].as_bool().unwrap() {
        true => Transport::Tcp,
        false => TRANSPORTS[0],
    };
    let listener = Listener::builder()
        .transport(transport)
        .default_handler(|_: Message| Ok(()))
        .start()
        .unwrap();
    let endpoint = listener.endpoint().unwrap();
    let env = endpoint.env().into_iter();
    say(env
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect::<Value>());
    child::wait();
}

#[test]
fn a_stop_in_a_storm_of_connects_leaves_nobody_hanging() {
    over_each(|transport| {
        for _ in 0..20 {
            let rig = Rig::new(transport);
            let storms = [(); 3].map(|()| {
                let invitation: Invitation = rig.invitation.clone();
                thread("storm", move || {
                    for n in 0.. {
                        let Ok(mut raw) = invitation.connect() else {
                            return;
                        };
                        let hello = invitation.hello(&format!("{n}")).to_string();
                        let _ = raw.try_send(&frame(hello.as_bytes()));
                        let _ = raw.try_send(&message("c", n));
                        if n % 2 == 0 {
                            while raw.hear().is_some_and(|frame| frame["ok"] != true) {}
                        }
                    }
                })
            });
            rig.hears();
            let report = rig.listener.shutdown(LONG).unwrap();
            assert_eq!(report.still_running, None);
            for storm in storms {
                storm.join().unwrap();
            }
            rig.connections(0);
        }
    });
}

#[test]
fn a_stop_amid_posts_cuts_each_child_off_at_one_point() {
    over_each(|transport| {
        for round in 0..30 {
            stopped_amid_posts(transport, round);
        }
    });
}

/// Children post numbers as fast as they can, and a stop falls in after some of them.
fn stopped_amid_posts(transport: Transport, round: u64) {
    let settings = |builder: interplay::listener::Builder| {
        let capacity = [16, 64, 1024][round as usize % 3];
        builder.capacity(capacity).drain_timeout(LONG)
    };
    let rig = Rig::with(transport, settings);
    let children = ["a", "b", "c"].map(|from| {
        let Invitation { address, token } = &rig.invitation;
        let sender = ChildSender::connect(address, token, from).unwrap();
        thread(from, move || {
            let posted = (0_u64..).take_while(|n| sender.post("c", n).is_ok());
            posted.count()
        })
    });
    let mut heard: Vec<String> = (0..round * 5).map(|_| rig.hears()).collect();
    match round % 2 {
        0 => rig.listener.stopper().stop(),
        _ => drop(rig.listener.shutdown(LONG).unwrap()),
    }
    let posted = children.map(|child| child.join().unwrap());
    let report = rig.listener.shutdown(LONG).unwrap();
    assert_eq!((report.dropped, report.still_running), (0, None));
    heard.extend(rig.heard.try_iter());
    let mut next = [0; 3];
    let mut gone = [0; 3];
    for heard in heard {
        let of = usize::from(heard.as_bytes()[0] - b'a');
        match heard[1..].strip_prefix(": c ") {
            Some(n) => {
                assert_eq!((n, gone[of]), (&*next[of].to_string(), 0), "{round}");
                next[of] += 1;
            }
            None => {
                assert_eq!(&heard[1..], " gone: stopped", "{round}");
                gone[of] += 1;
            }
        }
    }
    assert_eq!(gone, [1; 3], "{round}");
    if transport != Transport::Tcp {
        // What a post has put there is read, whatever happens afterwards.
        let posted: usize = posted.iter().sum();
        assert_eq!(posted as u64, report.handled, "{round}");
    }
}
