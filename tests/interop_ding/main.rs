//! Our side of the wire against DI-engine's own: real Python processes, real signals.
//!
//! `our_master` drives Python slaves, `our_slave` is driven by Python masters. Each test has processes of its own and
//! returns early, with a line that says why, where Python is absent (see `support/python.rs`). Spans are short and the
//! tolerances long enough for a machine on which Python takes its time; every wait has a limit.

#[path = "../support/python.rs"]
mod python;

mod our_master;
mod our_slave;

use std::thread;
use std::time::{Duration, Instant};

/// The channel of all that take part, as Python's scripts are told.
const CHANNEL: &str = "7";

/// The heartbeat span of Python's slaves, in seconds.
const SPAN: &str = "0.2";

/// How long a peer may be silent where the test is about that.
const TOLERANCE: Duration = Duration::from_secs(2);

/// How long anything else may take: DI-engine retries for five seconds, machines stall.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}
