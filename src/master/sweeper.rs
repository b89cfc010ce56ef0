//! The sweeper thread: gives up who is silent, and says goodbye when the master ends.
//!
//! One tick each check span. It runs no user code and asks nothing of slaves
//! itself, so that none of them delays the next tick: they are told that they
//! were disconnected on short-lived goodbye threads. What may delay a tick, by
//! a second or two, is the probe of a server that does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::slaves::Peer;
use crate::http::{CHECK_SPAN, Retry, Server};
use crate::lifecycle::{Thread, Ticker, spawn};
use crate::task::Loss;

/// How many slaves are told at the same time.
const GOODBYES: usize = 16;

/// The sweeper's life, from start to the end of the server.
pub(super) fn run(core: &Arc<Core>, server: &Server, name: &str) {
    let mut ticker = Ticker::new(core.settings.heartbeat_check_span, Instant::now());
    let mut check = Ticker::new(CHECK_SPAN, Instant::now());
    let mut goodbyes: Vec<Thread> = Vec::new();
    while !core.closing.wait_until(ticker.next()) {
        let now = Instant::now();
        ticker.advance(now);
        for lost in core.slaves.sweep(now) {
            core.report_loss(&lost.peer, lost.open, Loss::Silent { after: lost.silent });
        }
        goodbyes.retain_mut(|thread| !thread.join_until(now));
        if goodbyes.is_empty() {
            goodbyes = say_goodbye(
                core,
                name,
                core.slaves.take_revived(now),
                core.settings.retry.total,
            );
        }
        if check.next() <= now {
            check.advance(now);
            server.check();
        }
    }
    let deadline = Instant::now() + core.settings.grace;
    goodbyes.extend(say_goodbye(
        core,
        name,
        core.slaves.take_connected(),
        core.settings.grace,
    ));
    for thread in &mut goodbyes {
        thread.join_until(deadline);
    }
    core.closed.stop();
    core.client.shutdown();
    for (peer, open) in core.slaves.clear() {
        core.lose(&peer, open, &Loss::Stopped);
    }
    server.stop();
}

/// Tells the slaves that they are disconnected, each with one request within `limit`.
fn say_goodbye(
    core: &Arc<Core>,
    name: &str,
    peers: Vec<Arc<Peer>>,
    limit: Duration,
) -> Vec<Thread> {
    let (send, todo) = crossbeam_channel::unbounded();
    let threads = peers.len().min(GOODBYES);
    for peer in peers {
        let _ = send.send(peer); // cannot fail: this function holds the receiver
    }
    let started = (0..threads).map_while(|_| {
        let (core, todo) = (core.clone(), todo.clone());
        let body = move || {
            for peer in todo.try_iter() {
                let retry = Retry {
                    retries: 0,
                    waiting: Duration::ZERO,
                    total: limit,
                };
                let data = serde_json::Value::Null;
                if core
                    .send_disconnect(&peer, &data, &retry, &Loss::Stopped)
                    .is_err()
                {
                    log::warn!(
                        "slave {}: could not be told that it is disconnected",
                        peer.name
                    );
                }
            }
        };
        spawn(format!("{name}-goodbye"), body)
            .inspect_err(|error| log::error!("no thread to say goodbye: {error}"))
            .ok()
    });
    let started: Vec<Thread> = started.collect();
    if started.is_empty() {
        todo.try_iter()
            .for_each(|peer| core.slaves.stay(peer.id, Instant::now()));
    }
    started
}
