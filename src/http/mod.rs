//! Blocking HTTP, both ways, and what can go wrong with it.
//!
//! [`Error`] is the public part: what a request to another program can end in.
//! Below it are a server, whose file is the only one that knows `tiny_http`,
//! a client, whose file is the only one that knows `ureq`, and the pure rules
//! of both: which bytes belong to a request, and what may be sent again.

mod bodies;
mod client;
mod error;
mod framing;
mod kept;
mod listener;
#[cfg(test)]
mod raw;
mod request;
mod response;
mod retry;
mod server;

pub(crate) use client::{Call, Client, Exchange, Settings};
pub use error::{Error, Phase};
pub(crate) use listener::{Listener, reachable};
pub(crate) use request::{Head, Method};
pub(crate) use response::{Fault, Response};
pub(crate) use retry::Retry;
pub(crate) use server::{CHECK_SPAN, Handler, Limits, Server, Step};
