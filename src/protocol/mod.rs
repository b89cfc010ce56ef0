//! A message loop over a byte stream, for both ends of it.
//!
//! A message goes either way at any time; nothing here pairs requests with replies. A
//! [`Protocol`] says how messages are made of bytes and what becomes of those that come; a
//! [`Loop`] runs it, session after session, over TCP, UNIX sockets or any connected stream. After
//! `AsyncProtocol` of QEMU's Python tools, on threads.
//!
//! # Example
//!
//! Both ends of a connection; one of them answers in capitals.
//!
//! ```
//! use std::os::unix::net::UnixStream;
//!
//! use crossbeam_channel::{Sender, unbounded};
//! use interplay::protocol::{BoxError, Cancel, Lines, Link, Loop, Options, Protocol};
//!
//! struct Shouter;
//!
//! impl Protocol for Shouter {
//!     type Outbound = Vec<u8>;
//!     type Inbound = Vec<u8>;
//!     type Decoder = Lines;
//!
//!     fn decoder(&self) -> Lines {
//!         Lines::new()
//!     }
//!
//!     fn encode(&self, line: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), BoxError> {
//!         out.extend_from_slice(line);
//!         out.push(b'\n');
//!         Ok(())
//!     }
//!
//!     fn on_message(&self, _: u64, line: Vec<u8>, link: &Link<Self>) -> Result<(), BoxError> {
//!         link.try_send(line.to_ascii_uppercase())?;
//!         Ok(())
//!     }
//! }
//!
//! struct Listener(Sender<Vec<u8>>);
//!
//! impl Protocol for Listener {
//!     type Outbound = Vec<u8>;
//!     type Inbound = Vec<u8>;
//!     type Decoder = Lines;
//!
//!     fn decoder(&self) -> Lines {
//!         Lines::new()
//!     }
//!
//!     fn encode(&self, line: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), BoxError> {
//!         Shouter.encode(line, out)
//!     }
//!
//!     fn on_message(&self, _: u64, line: Vec<u8>, _: &Link<Self>) -> Result<(), BoxError> {
//!         self.0.send(line)?;
//!         Ok(())
//!     }
//! }
//!
//! let (ours, theirs) = UnixStream::pair()?;
//! let shouter = Loop::new(Shouter, Options::new().name("shouter"));
//! shouter.connect(theirs.into(), &Cancel::new())?;
//!
//! let (sender, heard) = unbounded();
//! let caller = Loop::new(Listener(sender), Options::new().name("caller"));
//! caller.connect(ours.into(), &Cancel::new())?;
//!
//! caller.send(b"hello".to_vec(), None)?;
//! assert_eq!(heard.recv()?, b"HELLO");
//! if let Some(end) = caller.disconnect()? {
//!     end.into_result()?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads
//!
//! A session has three: the reader (`name:rd`), the writer (`name:wr`) and one that sleeps until
//! the session has to end, ends it and joins the other two (`name:co`). The reader never waits
//! for the writer and never for a caller, so both directions may be full at once.
//!
//! # The end
//!
//! Whatever ends a session first is its cause; what follows from that is no cause. Threads and
//! socket are released at once. The outcome stays, and the loop in [`State::Disconnecting`],
//! until [`Loop::disconnect`] or [`Loop::wait_end`] collects it. There is no half-close: to have
//! all answers, wait for them, then disconnect.
//!
//! # Logging
//!
//! The target is `interplay::` and the name of the loop. Failures that end a session are errors,
//! connections and ends of streams are information, states and messages are debugging.

use std::os::fd::OwnedFd;

mod address;
mod attempt;
mod codec;
mod connect;
mod end;
mod error;
mod events;
mod hands;
mod hook;
mod link;
mod listening;
mod mailbox;
mod message_loop;
mod options;
mod queue;
mod reader;
#[cfg(test)]
mod scratch;
mod session;
mod state;
mod stream;
mod turn;
mod wait;
mod watch;
mod writer;

pub use address::{Addr, AddrError};
pub use attempt::Cancel;
pub use codec::{DecodeError, Decoded, Decoder, Lines};
pub use end::{Counts, End};
pub use error::{BoxError, Error, Failure, Kind, Phase, SendError, Side};
pub(crate) use error::{first_io, report};
pub(crate) use events::{EventQueue, NoEvent};
pub use hands::Hands;
pub use link::{Link, Ticket};
pub(crate) use mailbox::{Mailbox, Mailboxes, NoReply};
pub use message_loop::Loop;
pub use options::Options;
pub use queue::Progress;
pub use state::State;
pub use stream::Stream;
pub(crate) use watch::Waker;

/// What a [`Loop`] runs: how messages are made of bytes, and what becomes of them.
///
/// All hooks take `&self`: the threads of a session call them at the same time, and no lock of
/// the loop is held meanwhile. An error or a panic of a hook ends the session, with
/// [`Kind::Hook`] or [`Kind::HookPanic`] as its cause, and nothing else; those that only tell
/// (`on_end`, `on_state`, the descriptions for the log) have their panics logged.
///
/// A hook must not wait for something that needs its own thread. Calls of the loop that would,
/// say so: [`Kind::WouldDeadlock`].
pub trait Protocol: Sized + Send + Sync + 'static {
    /// What is sent.
    type Outbound: Send + 'static;
    /// What comes.
    type Inbound: Send + 'static;
    /// What makes messages of the bytes that come.
    type Decoder: Decoder<Message = Self::Inbound>;

    /// A decoder for a new session.
    fn decoder(&self) -> Self::Decoder;

    /// Appends the bytes of `message` to `out`. Runs on the thread that writes: the writer, or the
    /// caller of [`Loop::send`] when nothing is in front of its message.
    ///
    /// # Errors
    ///
    /// If it cannot be encoded. That drops this message ([`Kind::Encode`] in its [`Ticket`]); the
    /// session goes on.
    fn encode(&self, message: &Self::Outbound, out: &mut Vec<u8>) -> Result<(), BoxError>;

    /// What `message` counts for in [`Options::queue_bytes`]. Runs on the sender's thread; a panic
    /// refuses the message. Default: nothing. Then up to 256 messages of any size are taken for
    /// writing at once, and an urgent one that comes behind them waits.
    fn weight(&self, message: &Self::Outbound) -> usize {
        let _ = message;
        0
    }

    /// The descriptors that travel with the first byte of `message`; UNIX sockets only. Default:
    /// none. Runs on the thread that writes, before `encode`.
    fn descriptors(&self, message: &mut Self::Outbound) -> Vec<OwnedFd> {
        let _ = message;
        Vec::new()
    }

    /// Comes to terms with the peer, on the thread that connects or accepts. Default: nothing.
    /// Messages that come behind the handshake are the reader's.
    ///
    /// # Errors
    ///
    /// If there is no agreement: no session begins.
    fn handshake(&self, hands: &mut Hands<'_, Self>) -> Result<(), BoxError> {
        let _ = hands;
        Ok(())
    }

    /// The session runs; on the thread that connects or accepts, before that call returns.
    /// Default: nothing.
    ///
    /// # Errors
    ///
    /// Any: the session is ended, and the call fails with this.
    fn on_start(&self, link: &Link<Self>) -> Result<(), BoxError> {
        let _ = link;
        Ok(())
    }

    /// The last place where an outbound message can be changed, counted or logged; on the thread
    /// that writes. Default: as it is.
    fn outbound(&self, message: Self::Outbound) -> Self::Outbound {
        message
    }

    /// The first place where an inbound message can be changed, logged or, by `None`, dropped; on
    /// the reader's thread, in a handshake the caller's. Default: as it is.
    fn inbound(&self, message: Self::Inbound) -> Option<Self::Inbound> {
        Some(message)
    }

    /// A message has come, the `number`th of this session, from 1; on the reader's thread, so
    /// nothing comes while it runs. It may not wait: not for a reply, nor for room in a queue.
    /// Default: nothing.
    ///
    /// # Errors
    ///
    /// Any: the session ends. So it checks only what it needs to pass the message on.
    fn on_message(
        &self,
        number: u64,
        message: Self::Inbound,
        link: &Link<Self>,
    ) -> Result<(), BoxError> {
        let _ = (number, message, link);
        Ok(())
    }

    /// The session has ended, and nothing more comes; on the thread that ends it. Here an upper
    /// layer fails what is pending. A panic is logged. Default: nothing.
    fn on_end(&self, end: &mut End) {
        let _ = end;
    }

    /// The loop went from one state to the next; on the thread that moved it. A panic is logged.
    /// Default: nothing.
    fn on_state(&self, old: State, new: State) {
        let _ = (old, new);
    }

    /// The text of an outbound message for the log, without its secrets; `None` leaves the message
    /// out. Asked only if messages are logged, on the thread that writes. Default: `None`.
    fn describe_outbound(&self, message: &Self::Outbound) -> Option<String> {
        let _ = message;
        None
    }

    /// As [`describe_outbound`](Self::describe_outbound), for an inbound message, on the reader's
    /// thread. Default: `None`.
    fn describe_inbound(&self, message: &Self::Inbound) -> Option<String> {
        let _ = message;
        None
    }
}
