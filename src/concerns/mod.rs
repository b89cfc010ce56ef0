//! A small network of nodes that know each other, watch each other and carry messages, directly or over
//! hops; what a node does is made of concerns.
//!
//! A [`Node`] listens, connects to others and watches those it knows; each link is one TCP connection, over which both
//! sides send. A [`Concern`] owns one command: it makes requests, answers those that come, and takes replies. The
//! built-in ones connect (`hello`), watch (`hb`), look for ways (`r`) and, if wanted, exchange addresses (`peers`). A
//! message goes to its receiver, over hops if need be, or its sender is told why not. After p2p0mq.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use interplay::concerns::{Answer, BoxError, Command, Concern, Context, Message, Node};
//! use serde_json::{Value, json};
//!
//! struct Echo(Command);
//!
//! impl Concern for Echo {
//!     fn command(&self) -> Command {
//!         self.0.clone()
//!     }
//!
//!     fn request(&mut self, _: &mut Context<'_>, message: &Message) -> Result<Option<Answer>, BoxError> {
//!         Ok(Some(Answer::new(&message.read::<Value>()?)?))
//!     }
//! }
//!
//! let hub = Node::builder()
//!     .identity("hub-1")
//!     .listen("127.0.0.1:0")
//!     .concern(Echo("echo".parse()?))
//!     .start()?;
//! let node = Node::builder()
//!     .join(hub.address().ok_or("it listens")?)
//!     .start()?;
//! let reply = node.request("hub-1", "echo", &json!({"text": "hi"}), Duration::from_secs(5))?;
//! assert_eq!(reply.read::<Value>()?["text"], "hi");
//!
//! node.shutdown(Duration::from_secs(5))?;
//! hub.shutdown(Duration::from_secs(5))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Trust
//!
//! With a [secret](Builder::secret) nobody joins who does not know it. But nothing is encrypted, and nothing is
//! signed: whoever can read or change what is on the network can do so with every message, and the source of a message
//! that came over a hop is only as trustworthy as the hop.
//!
//! # What is promised
//!
//! A message is delivered at most once, in the order in which it was sent if it takes the same way and has the same
//! priority. That it was [sent](Concern::sent) means that it was handed to the system; whether it arrived is known by
//! its reply alone. All that can grow has a bound: queues, peers, links, what is held. A peer that does not read holds up
//! what is for that peer, and nothing else.

mod address;
mod ask_around;
mod concern;
mod connector;
mod context;
mod core;
mod envelope;
mod error;
mod event;
mod exchange;
mod handshake;
mod heart_beat;
mod hello;
mod identity;
mod message;
mod node;
mod payload;
mod peer;
mod probe;
mod record;
mod store;
mod timing;

pub use concern::{Concern, Retry};
pub use context::Context;
pub use error::{
    BadMessage, BadName, BadPayload, BoxError, Error, Reason, RequestError, SendError,
};
pub use event::Event;
pub use identity::{Command, Identity};
pub use message::{Answer, Kind, Message, Outgoing, Priority, Sent};
pub use node::{Builder, Events, Handle, NoEvent, Node, Stats};
pub use payload::Payload;
pub use peer::{Peer, PeerState};
pub use timing::Timing;
