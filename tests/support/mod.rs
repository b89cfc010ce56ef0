//! What the behaviour tests share: a limit for each test, a scripted peer, a raw client.
//!
//! A test runs under [`deadline`], waits by [`eventually`] or for a channel, and
//! never sleeps to let something happen. The other side of the wire is either a
//! [`peer::Peer`], which follows a script, or a few lines of [`client`]; for QMP
//! it is a [`qmp::Server`].

#![allow(dead_code, reason = "each test file uses its share of this module")]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

pub(crate) mod client;
pub(crate) mod log;
pub(crate) mod peer;
pub(crate) mod program;
#[cfg(unix)]
pub(crate) mod qmp;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use interplay::{master, slave};

/// More than any test takes, even on a machine that does many other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The channel of all tests that do not say otherwise.
pub(crate) const CHANNEL: i64 = 7;

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs a test; if it has not ended within `limit`, prints the names of the
/// running threads and fails.
pub(crate) fn deadline<T, F>(limit: Duration, body: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (done, ended) = crossbeam_channel::bounded(1);
    let name = thread::current().name().unwrap_or("test").to_owned();
    let body = spawn(&name, move || {
        let _ = done.send(catch_unwind(AssertUnwindSafe(body)));
    });
    match ended.recv_timeout(limit) {
        Ok(result) => {
            body.join().unwrap();
            result.unwrap_or_else(|panic| resume_unwind(panic))
        }
        Err(_) => panic!(
            "not done within {limit:?}; running threads: {:?}",
            threads()
        ),
    }
}

/// Waits until `condition` holds; fails if it does not within `limit`.
#[track_caller]
pub(crate) fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "not so within {limit:?}");
        pause(ms(5));
    }
}

/// Gives the other threads some time. Only for polling, and for what must *not* happen meanwhile.
pub(crate) fn pause(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

/// A thread with a name.
pub(crate) fn spawn<T, F>(name: &str, body: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    Builder::new().name(name.to_owned()).spawn(body).unwrap()
}

/// The names of the running threads of this process, cut to 15 bytes; empty where the system does not tell.
pub(crate) fn threads() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    // One that ends meanwhile has no name any more.
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    let mut names: Vec<String> = tasks
        .filter_map(|task| Some(name(task.ok()?)?.trim_end().to_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// The running threads whose names begin with `prefix` and a dash, counted.
pub(crate) fn threads_of(prefix: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in threads() {
        if name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// A master on loopback that does not wait long between attempts.
pub(crate) fn master() -> master::Builder {
    master::Master::builder()
        .host("127.0.0.1")
        .port(0)
        .channel(CHANNEL)
        .request_retry_waiting(ms(20))
        .heartbeat_check_span(ms(100))
        .heartbeat_tolerance(secs(120))
}

/// A slave on loopback that does not wait long between attempts.
pub(crate) fn slave() -> slave::Builder {
    slave::Slave::builder()
        .host("127.0.0.1")
        .port(0)
        .channel(CHANNEL)
        .request_retry_waiting(ms(20))
        .heartbeat_span(ms(200))
}
