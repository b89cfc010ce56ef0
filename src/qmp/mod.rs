//! A client of the QEMU machine protocol, QMP.
//!
//! A [`Client`] has one session at a time with a server: an emulator, a storage daemon, or a guest
//! agent. Any number of threads run commands on it, in band and out of band; [`Listener`]s receive
//! its events. On [`protocol`](crate::protocol), blocking, with three threads a session. After
//! QEMU's Python package `qemu.qmp`.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use interplay::protocol::Addr;
//! use interplay::qmp::{Client, Filter, Options};
//! use serde_json::json;
//!
//! let vm = Client::new(Options::new().call_timeout(Duration::from_secs(30)));
//! let stopped = vm.events(Filter::name("STOP"));
//! vm.connect("/run/vm.sock".parse::<Addr>()?)?;
//!
//! vm.stop()?; // one of the few with types; see commands.rs for how to write more
//! let event = stopped.recv_timeout(Duration::from_secs(5))?;
//! println!("stopped at {:?}", event.timestamp());
//!
//! let blocks = vm.execute("query-block", ())?;
//! println!("{} block devices", blocks.as_array().map_or(0, Vec::len));
//! vm.execute("screendump", json!({"filename": "/tmp/screen.ppm"}))?;
//!
//! // Many commands on their way before the first reply is waited for:
//! let queries = ["query-cpus-fast", "query-chardev", "query-pci"];
//! let pending: Vec<_> = queries
//!     .iter()
//!     .map(|name| vm.call(name).start())
//!     .collect::<Result<_, _>>()?;
//! for reply in pending {
//!     println!("{}", reply.wait()?.value);
//! }
//!
//! vm.quit()?;
//! if let Some(end) = vm.wait_end(Duration::from_secs(10))? {
//!     end.into_result()?; // a server that was told to quit is no failure
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Ids
//!
//! Ids on the wire belong to the client. A caller's own id, of any type, stays here and comes back
//! in its [`Reply`], so nothing that callers choose can clash. Replies to nobody (of an earlier
//! client, to a call that was given up) are dropped and counted.
//!
//! # Order
//!
//! What came before a reply is in its listeners before the caller has that reply: after
//! [`Client::stop`], the STOP event is there. Pipelined in-band commands are answered in order.
//!
//! # The end
//!
//! However a session ends, every call that waits, and every listener, learns the cause at once;
//! a call also learns whether its command may have run. A silent server is no end: only time
//! limits help.
//!
//! # Secrets
//!
//! Messages are logged at debug level, without the values of passwords and secret objects.

mod board;
mod brackets;
mod call;
mod checked;
mod client;
mod command;
mod commands;
mod error;
mod filter;
mod framing;
mod greeting;
mod message;
mod monitor;
mod options;
mod talk;
mod text;

pub use board::Listener;
pub use call::{Call, Pending};
pub use client::{Client, End};
pub use command::{Command, InvalidCommand};
pub use commands::Status;
pub use error::{Error, RecvError, Sent, Waiting};
pub use filter::Filter;
pub use message::{Event, Message, Object, Reply};
pub use monitor::Stats;
pub use options::Options;
