//! Hand work to other programs, without an async runtime.

pub use lifecycle::Leftover;

pub mod http;
mod lifecycle;
pub mod listener;
mod liveness;
pub mod master;
pub mod task;
pub mod wire;
