//! The message loop through its public face: what its states, hooks, queue and ends promise.
//!
//! A loop under test runs [`rig::Talk`], lines whose hooks the test sets; at the other end of its
//! stream is a [`rig::Peer`], a raw socket, or a second loop. What could differ between the two
//! families of sockets is tried on both.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

#[path = "../support/mod.rs"]
mod support;

mod rig;

mod ends;
mod flow;
mod framing;
mod handshake;
mod hooks;
mod queue;
mod sessions;
mod sockets;
mod states;
