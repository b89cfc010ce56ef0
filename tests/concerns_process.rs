//! What nodes leave in their process: threads, descriptors, memory and log lines.
//!
//! These are seen of the process as a whole, so the tests of this file run one after the other,
//! and no others run beside them.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

#[path = "concerns/raw.rs"]
#[allow(dead_code, reason = "each test file uses its share of this module")]
mod raw;
#[path = "concerns/rig.rs"]
#[allow(dead_code, reason = "each test file uses its share of this module")]
mod rig;

use std::time::Instant;

use interplay::concerns::{Outgoing, RequestError};
use log::{Level, LevelFilter};
use serde_json::json;

use raw::{Envelope, REQUEST, Raw, frame, hello};
use rig::{Watched, asks, dialing, echo, listening, pair, patient};
use support::log::{alone, at, take_log};
use support::{LIMIT, deadline, eventually, ms, pause, secs, threads};

/// How many threads there are of nodes with this name, and the open descriptors of this
/// process; nothing where the system does not tell.
fn traces(name: &str) -> (usize, usize) {
    let threads = threads();
    let own = threads.iter().filter(|thread| thread.starts_with(name));
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count());
    (own.count(), descriptors)
}

/// KiB of memory that this process has; 0 where the system does not tell.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or(0, |line| {
        line.split_whitespace().next().unwrap().parse().unwrap()
    })
}

#[test]
fn hundreds_of_nodes_leave_no_thread_and_no_descriptor() {
    let _alone = alone(LevelFilter::Off);
    deadline(secs(300), || {
        // The first makes what the process keeps.
        drop(pair(listening("alice"), dialing("robert")));
        let before = traces("rounds");
        for round in 0..200 {
            let alice = listening("alice")
                .name("rounds")
                .timing(patient())
                .concern(echo());
            let alice = Watched::start(alice);
            let robert = || dialing("robert").name("rounds").timing(patient());
            match round % 8 {
                0 => drop(alice),
                1 => {
                    alice.shutdown(LIMIT).unwrap();
                    drop(alice);
                }
                2 => {
                    let robert = Watched::start(robert().join(alice.at()));
                    asks(&robert, "alice");
                    drop(alice);
                    drop(robert);
                }
                3 => {
                    // In the middle of a dial, and of a hello.
                    let robert = Watched::start(robert().join(alice.at()));
                    drop(robert);
                    drop(alice);
                }
                4 => {
                    let mut strangers = [(); 3].map(|()| Raw::connect(&alice.at()));
                    strangers[0].send(&[0, 0]);
                    strangers[1].say(&hello("stranger"));
                    drop(alice);
                    drop(strangers);
                }
                5 => {
                    let mut raw = Raw::linked(&alice.at(), "stranger");
                    raw.asks();
                    drop(raw);
                    drop(alice);
                }
                6 => {
                    let mut raw = Raw::linked(&alice.at(), "stranger");
                    raw.asks();
                    drop(alice);
                    raw.is_closed();
                }
                _ => {
                    // Nobody is there, and a second has the name of the first.
                    let robert = Watched::start(robert().join("127.0.0.1:1"));
                    let handle = robert.handle();
                    drop(robert);
                    drop(alice);
                    let end = handle.request("alice", "echo", &json!({}), LIMIT);
                    assert!(matches!(end, Err(RequestError::Stopped)), "{end:?}");
                }
            }
            let end = Instant::now() + LIMIT;
            while traces("rounds") != before {
                let now = traces("rounds");
                assert!(
                    Instant::now() < end,
                    "round {round}: {now:?} after {before:?}"
                );
                pause(ms(2));
            }
        }
    });
}

#[test]
fn threads_end_with_their_links() {
    let _alone = alone(LevelFilter::Off);
    deadline(LIMIT, || {
        let alice = listening("alice")
            .name("comes")
            .timing(patient())
            .concern(echo());
        let alice = Watched::start(alice);
        Raw::linked(&alice.at(), "stranger").asks();
        eventually(LIMIT, || alice.stats().links == 0);
        // Some end a moment after the link does.
        let idle = ["comes:run", "comes:acc"];
        eventually(LIMIT, || traces("comes").0 <= idle.len());
        let before = traces("comes");
        for number in 0..200 {
            let mut raw = Raw::connect(&alice.at());
            match number % 4 {
                0 => drop(raw),
                1 => {
                    raw.send(b"GET / HTTP/1.1\r\n\r\n");
                    raw.is_closed();
                }
                2 => drop(Raw::linked(&alice.at(), "stranger")),
                _ => Raw::linked(&alice.at(), &format!("stranger-{number}")).asks(),
            }
        }
        eventually(LIMIT, || traces("comes") == before);
    });
}

#[test]
fn thousands_of_strangers_and_what_they_say_need_no_room() {
    let _alone = alone(LevelFilter::Off);
    deadline(secs(300), || {
        let alice = listening("alice")
            .name("crowd")
            .timing(patient())
            .concern(echo());
        let alice = alice
            .max_strangers(50)
            .max_peers(60)
            .max_links(20)
            .max_payload(10_000);
        let alice = Watched::start(alice);
        let crowd = |from: usize| {
            for number in from..from + 500 {
                let mut raw = Raw::connect(&alice.at());
                raw.say(&hello(&format!("stranger-{number}")));
                if number % 3 == 0 {
                    continue; // gone before the answer
                }
                let _ = raw.try_send(&frame(br#"{"ok": true}"#));
                let greeting = json!({"host": "127.0.0.1", "port": 1});
                let _ = raw.try_send(&Envelope::new(REQUEST, "hello", &greeting).bytes());
                while raw.body().is_some_and(|body| body.first() == Some(&b'{')) {}
            }
            let mut liar = None;
            eventually(LIMIT, || {
                liar = Raw::try_linked(&alice.at(), "liar-1");
                liar.is_some()
            });
            let mut liar = liar.unwrap();
            for number in from..from + 5_000 {
                let filler = json!({"filler": "x".repeat(5_000)});
                let name = format!("invented-{number}");
                let lies = Envelope::new(REQUEST, &name, &filler).from(&name);
                liar.post(&lies.clone().to(&format!("nobody-{number}")));
                liar.post(&lies.id(1 << 63 | 7));
                if number % 100 == 0 {
                    liar.asks();
                }
            }
            liar.asks();
        };
        crowd(0); // what is bounded fills up
        let (threads, descriptors) = traces("crowd");
        let full = memory();
        for round in 1..4 {
            crowd(round * 10_000);
        }
        let more = memory().saturating_sub(full);
        assert!(more < 20 << 10, "{more} KiB more");
        assert!(alice.peers().len() <= 60);
        eventually(LIMIT, || {
            let (now, open) = traces("crowd");
            now <= threads + 4 && open <= descriptors + 4
        });
        let robert = dialing("robert").timing(patient()).join(alice.at());
        asks(&Watched::start(robert), "alice");
    });
}

#[test]
fn messages_for_nobody_need_bounded_room() {
    let _alone = alone(LevelFilter::Off);
    deadline(secs(300), || {
        let alice = listening("alice")
            .name("queue")
            .timing(patient())
            .concern(echo());
        let alice = Watched::start(alice.max_queued(100).max_queued_all(1_000).max_held(100));
        let filler = json!({"filler": "x".repeat(10_000)});
        let flood = |from: usize| {
            let mut refused = 0;
            for number in from..from + 5_000 {
                let message = Outgoing::request(&*format!("nobody-{number}"), "echo", &filler);
                let message = message.unwrap().lifetime(secs(600));
                refused += u32::from(alice.try_send(message).is_err());
            }
            refused
        };
        flood(0);
        let full = memory();
        for round in 1..4 {
            flood(round * 10_000);
        }
        let more = memory().saturating_sub(full);
        assert!(more < 20 << 10, "{more} KiB more");
        let robert = dialing("robert").timing(patient()).join(alice.at());
        asks(&Watched::start(robert), "alice");
    });
}

#[test]
fn an_ordinary_life_is_no_warning_and_the_log_has_no_payload_and_no_secret() {
    let _alone = alone(LevelFilter::Trace);
    deadline(LIMIT, || {
        let set = |builder: interplay::concerns::Builder| {
            builder
                .secret("open sesame")
                .timing(patient())
                .concern(echo())
        };
        let (alice, robert) = pair(set(listening("alice")), set(dialing("robert")));
        asks(&alice, "robert");
        let question = json!({"word": "rosebud"});
        robert.request("alice", "echo", &question, LIMIT).unwrap();
        let _ = robert.request("alice", "nothing", &question, LIMIT);
        drop(robert);
        alice.becomes("robert", &interplay::concerns::PeerState::Left);
        drop(alice);
        let all = take_log();
        assert_eq!(at(&all, Level::Error), [""; 0]);
        let warnings = at(&all, Level::Warn);
        // That a command is not there may be one.
        assert!(
            warnings.iter().all(|line| line.contains("nothing")),
            "{warnings:?}"
        );
        assert!(!all.is_empty());
        for word in ["rosebud", "sesame"] {
            let told = all.iter().filter(|line| line.text.contains(word));
            let told: Vec<_> = told.collect();
            assert!(told.is_empty(), "{told:?}");
        }
        let infos = at(&all, Level::Info).len();
        assert!((1..40).contains(&infos), "{infos} lines");
    });
}

#[test]
fn listening_beyond_loopback_without_a_secret_is_warned_of_once() {
    let _alone = alone(LevelFilter::Warn);
    deadline(LIMIT, || {
        let far = || {
            dialing("alice")
                .listen("0.0.0.0:0")
                .advertise("127.0.0.1:0")
        };
        drop(far().start().unwrap());
        let lines = take_log();
        let warnings = at(&lines, Level::Warn);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("secret"), "{warnings:?}");
        drop(far().secret("open sesame").start().unwrap());
        drop(listening("alice").start().unwrap());
        assert_eq!(take_log().len(), 0);
    });
}
