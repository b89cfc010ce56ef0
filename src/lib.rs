#![doc = include_str!("../README.md")]

pub use lifecycle::Leftover;

#[cfg(unix)]
pub mod concerns;
pub mod http;
mod lifecycle;
pub mod listener;
mod liveness;
pub mod master;
pub mod pool;
#[cfg(unix)]
pub mod protocol;
#[cfg(unix)]
pub mod qmp;
pub mod slave;
pub mod task;
pub mod wire;
