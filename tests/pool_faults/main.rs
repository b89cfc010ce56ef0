//! A pool whose slaves are killed, stopped, restarted, busy, or not there: every task ends exactly once all the same.
//!
//! The slaves are processes, the example `slave` and DI-engine's own, so that signals can be sent to them; where a
//! test holds its tasks back, or has thousands of them, also slaves of this process. Every test goes through a [`rig::Rig`], which at
//! the test's end holds what the observer was told against what the pool, its jobs and its maps said.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

#[path = "../support/python.rs"]
mod python;
#[path = "../support/mod.rs"]
mod support;

mod absent;
mod busy;
mod ends;
mod kills;
mod maps;
mod observers;
mod owners;
mod rig;
mod stops;
mod workers;

use std::time::Duration;

use support::{ms, secs};

/// How long a slave may be silent where slaves are lost. Much more than a beat takes on a machine that is busy.
const TOLERANCE: Duration = secs(3);

/// The same where it does no harm that a slave is taken for lost that is only slow.
const SHORT_TOLERANCE: Duration = ms(1500);

/// How long anything may take.
const PATIENCE: Duration = secs(60);
