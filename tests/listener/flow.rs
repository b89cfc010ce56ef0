//! Back-pressure: a child that floods waits itself, and costs a bounded memory.

use interplay::listener::Transport;
use interplay::listener::child::Sender as ChildSender;

use super::child::{Child, say};
use super::raw::message;
use super::rig::{Rig, over_each};
use super::*;

/// Bytes of each message of a flood.
const EACH: usize = 1000;

#[test]
fn one_flood_holds_a_share_of_the_queue_and_leaves_the_rest_to_others() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.capacity(40));
        let (gate, handler) = Gate::new(|_: Message| ());
        rig.listener.register(source("gate"), handler).unwrap();
        rig.listener.sender().post(plain("gate", "c")).unwrap();
        gate.wait_entered();
        let task = json!({"source": "floods", "bytes": EACH, "limit_ms": 500});
        let mut flood = rig.child("posts until it fails", &task);
        assert_eq!(flood.says(), "posts");
        let result = flood.says();
        assert_eq!(result[1], "TimedOut", "{result}");
        let accepted = result[0].as_u64().unwrap();
        // A quarter of the queue; the rest is in the buffers of the system and of the reader.
        eventually("its share", || rig.listener.stats().queued == 10);
        if transport != Transport::Tcp {
            assert!(accepted < 2000, "{accepted} kB were accepted");
        }
        // Others have room, and wait only for the handler.
        let other = rig.invitation.admitted("other");
        for n in 0..5 {
            other.send(&message("c", n));
        }
        eventually("queued", || rig.listener.stats().queued == 15);
        for _ in 0..25 {
            rig.listener.sender().try_post(plain("own", "c")).unwrap();
        }
        let full = rig.listener.sender().try_post(plain("own", "c"));
        assert_eq!(full.unwrap_err().reason, Reason::Full);
        gate.let_go(1);
        // What a timed out post has begun still goes out, and nothing is lost or twice.
        flood.go();
        assert_eq!(flood.says(), "ok");
        assert!(flood.ends().success());
        let mut of_the_flood = Vec::new();
        loop {
            let heard = rig.hears();
            if let Some(rest) = heard.strip_prefix("floods: ") {
                of_the_flood.push(rest.to_owned());
            } else if heard == "floods gone: bye" {
                break;
            }
        }
        let last = of_the_flood.pop().unwrap();
        assert_eq!(last, "again null");
        let count = of_the_flood.len() as u64;
        assert!(
            (accepted..=accepted + 1).contains(&count),
            "{count} of {accepted}"
        );
        assert!(
            of_the_flood
                .iter()
                .all(|one| one.len() == "c ".len() + EACH + 2)
        );
    });
}

#[test]
fn many_floods_are_all_served() {
    over_each(|transport| {
        let rig = Rig::with(transport, |builder| builder.capacity(1));
        let mut children = ["a", "b", "c", "d"].map(|from| {
            let task = json!({"source": from, "count": 500, "bytes": 100, "then": "drop"});
            rig.child("posts and goes", &task)
        });
        let mut next = std::collections::HashMap::<String, u64>::new();
        let mut gone = 0;
        while gone < 4 {
            let heard = rig.hears();
            if heard.ends_with(" gone: bye") {
                gone += 1;
                continue;
            }
            let (from, rest) = heard.split_once(": c ").unwrap();
            let n = next.entry(from.to_owned()).or_default();
            assert!(
                rest.starts_with(&format!("{{\"n\":{n},")),
                "{heard:.50} for {n}"
            );
            *n += 1;
        }
        assert!(next.len() == 4 && next.values().all(|&count| count == 500));
        for child in &mut children {
            assert!(child.ends().success());
        }
    });
}

#[test]
fn a_flood_at_a_slow_handler_costs_parent_and_child_a_bounded_memory() {
    if !cfg!(target_os = "linux") {
        return; // nothing else tells it
    }
    over_each(|transport| {
        let task = json!({"tcp": transport == Transport::Tcp});
        let mut parent = Child::start("parent of a flood", &task, []);
        let told = parent.says();
        assert!(parent.ends().success());
        let [parent, child] = [&told["parent"], &told["child"]].map(|kib| kib.as_u64().unwrap());
        // Unbounded, it is some hundred MiB a second.
        assert!(parent < 64 << 10, "the parent took {parent} KiB");
        assert!(child < 32 << 10, "the child took {child} KiB");
        assert!(told["handled"].as_u64().unwrap() > 100, "{told}");
    });
}

/// In a child: a listener with a slow handler, and a child of its own that floods.
pub(crate) fn parent_of_a_flood(task: &Value) {
    let transport = match task["tcp"].as_bool().unwrap() {
        true => Transport::Tcp,
        false => rig::TRANSPORTS[0],
    };
    let never = crossbeam_channel::never::<()>();
    let slow = {
        let never = never.clone();
        move |_: Message| {
            let _ = never.recv_timeout(Duration::from_millis(1));
            Ok(())
        }
    };
    let listener = Listener::builder()
        .transport(transport)
        .default_handler(slow)
        .start()
        .unwrap();
    let task = json!({"source": "floods", "bytes": 32_000});
    let mut flood = Child::start("floods", &task, listener.endpoint().unwrap().env());
    assert_eq!(flood.says(), "floods");
    let _ = never.recv_timeout(Duration::from_secs(5));
    let told = json!({
        "parent": peak("self"),
        "child": peak(&flood.id().to_string()),
        "handled": listener.stats().handled,
    });
    listener.shutdown(Duration::ZERO).unwrap();
    flood.ends();
    say(told);
}

/// The most memory a process has had, in KiB.
fn peak(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = line.unwrap().split_whitespace().next();
    words.unwrap().parse().unwrap()
}

#[test]
fn the_handles_of_a_child_may_be_shared_by_threads() {
    fn is_send_sync<T: Send + Sync>() {}
    is_send_sync::<ChildSender>();
}
