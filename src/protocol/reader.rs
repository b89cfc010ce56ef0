//! The reader: bytes from the stream to messages, messages to the protocol.
//!
//! It never waits for the writer or for a caller, so a peer that writes much before it reads
//! anything is served.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::codec::Inbox;
use super::error::Error;
use super::link::Link;
use super::session::Session;
use super::stream::Stream;
use super::{Protocol, hook};

/// Reads until the stream ends or the session closes; an error is what ends the session.
pub(super) fn run<P: Protocol>(
    session: &Arc<Session<P>>,
    stream: &Stream,
    mut inbox: Inbox<P::Decoder>,
) -> Result<(), Error> {
    let link = Link::new(session);
    loop {
        while let Some(message) = hook::guard("decode", || inbox.next())?? {
            session.received.fetch_add(1, Ordering::Relaxed);
            // Looked at for each message: a peer that never stops must not keep a session alive.
            if session.is_closing() {
                session.discarded.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            deliver(session, inbox.count(), message, &link)?;
        }
        if session.is_closing() {
            return Ok(());
        }
        let read = inbox.fill(|room| stream.read(room));
        match read {
            // The coordinator's own shutdown looks like the peer's end.
            _ if session.is_closing() => return Ok(()),
            Ok(0) => return Err(inbox.at_end()),
            Ok(_) => {}
            Err(error) => return Err(Error::of_io(error)),
        }
    }
}

fn deliver<P: Protocol>(
    session: &Session<P>,
    number: u64,
    message: P::Inbound,
    link: &Link<P>,
) -> Result<(), Error> {
    let setup = &session.setup;
    let inbound = || setup.protocol.inbound(message);
    let Some(message) = hook::guard("inbound", inbound)? else {
        return Ok(());
    };
    setup.log("<--", || setup.protocol.describe_inbound(&message));
    hook::run("on_message", || {
        setup.protocol.on_message(number, message, link)
    })
}
