//! How a service starts, ticks, stops and is joined.
//!
//! Every thread of the library is made by [`spawn`] and owned by one struct;
//! it waits only on its [`Stop`] signal or on channels, never by sleeping;
//! periodic work follows a [`Ticker`], which does not catch up after a stall.

use std::time::Duration;

mod panic;
mod stop;
mod thread;
mod ticker;

pub(crate) use panic::{Panicked, catch};
pub(crate) use stop::Stop;
pub use thread::Leftover;
pub(crate) use thread::{GRACE, Thread, Threads, spawn};
pub(crate) use ticker::Ticker;

/// The longest duration of a setting: long enough, and the clock can still be added to it.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
