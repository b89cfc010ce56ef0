//! Nodes of concerns, as a program uses them: over real sockets, with threads, and with strangers at the door.
//!
//! A node of these tests listens on a port that the system chooses. What is seen of the process as a whole is
//! in `concerns_process.rs`, what is seen of others' deaths in `peers.rs`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod hooks;
mod meeting;
mod raw;
mod requests;
mod restarts;
mod rig;
mod routes;
mod secrets;
mod strangers;
mod turns;
