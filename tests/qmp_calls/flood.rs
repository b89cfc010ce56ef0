//! A server that has more to say than anybody wants to hear.

use interplay::qmp::{Filter, Options, RecvError};

use super::support::spawn;
use super::{PATIENCE, Peer, alone};

const EVENTS: u64 = 1_000_000;

/// The most memory that this process ever had, in MiB; none where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}

fn flood() {
    let (mut peer, client) = Peer::pair(Options::new());
    // None of them receives meanwhile.
    let deaf = client.events(Filter::all());
    let short = client.events_with(Filter::all(), 10);
    short.keep_history(20);
    let none = client.events(Filter::name("OTHER"));
    let writer = spawn("writer", move || {
        let thousand = b"{\"event\":\"E\"}\n".repeat(1_000);
        for _ in 0..EVENTS / 1_000 {
            peer.write(&thousand);
        }
        peer.write(b"{\"event\":\"OTHER\"}\n");
        peer
    });
    assert_eq!(none.recv_timeout(PATIENCE * 2).unwrap().name(), "OTHER");
    drop(writer.join().unwrap());
    let _ = client.wait_end(PATIENCE).unwrap();
    assert_eq!(client.stats().events, EVENTS + 1);
    for (listener, room) in [(&deaf, 65_536), (&short, 10)] {
        match listener.recv() {
            Err(RecvError::Lagged(count)) => assert_eq!(count, EVENTS + 1 - room),
            other => panic!("{other:?}"),
        }
        assert_eq!(listener.drain().len() as u64, room);
        assert!(matches!(listener.recv(), Err(RecvError::Ended(_))));
    }
    assert_eq!(short.history().len(), 20);
    if let Some(peak) = peak() {
        assert!(peak < 200, "{peak} MiB");
    }
}

#[test]
fn a_million_events_that_nobody_takes_are_read_in_bounded_memory() {
    alone(
        "flood::a_million_events_that_nobody_takes_are_read_in_bounded_memory",
        flood,
    );
}
