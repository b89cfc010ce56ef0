//! The reader: bytes from the stream to messages, messages to the protocol.
//!
//! It never waits for the writer or for a caller, so a peer that writes much before it reads
//! anything is served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::codec::Inbox;
use super::error::Error;
use super::link::Link;
use super::session::Session;
use super::turn::Turn;
use super::{Protocol, hook};

/// The life of the reader's thread: until the stream ends or the session closes. An error is what
/// ends the session.
pub(super) fn run<P: Protocol>(session: &Arc<Session<P>>, mut turn: Turn<P>) -> Result<(), Error> {
    deliver_all(session, &mut turn.inbox)?; // what came behind the handshake
    loop {
        turn = session.turns.pass(turn)?;
        // The coordinator's own shutdown looks like the peer's end.
        if session.is_closing() {
            return Ok(());
        }
        read(session, &mut turn)?;
    }
}

/// Reads what is there, and delivers the messages that are complete with it. An error means that
/// nothing more can be read.
pub(super) fn read<P: Protocol>(
    session: &Arc<Session<P>>,
    turn: &mut Turn<P>,
) -> Result<(), Error> {
    let Turn { watch, inbox, .. } = turn;
    match inbox.fill(|room| watch.stream().read_now(room)) {
        _ if session.is_closing() => Ok(()),
        Ok(0) => Err(inbox.at_end()),
        Ok(_) => deliver_all(session, inbox),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()), // woken for nothing
        Err(error) => Err(Error::of_io(error)),
    }
}

fn deliver_all<P: Protocol>(
    session: &Arc<Session<P>>,
    inbox: &mut Inbox<P::Decoder>,
) -> Result<(), Error> {
    let link = Link::new(session);
    while let Some(message) = hook::guard("decode", || inbox.next())?? {
        session.received.fetch_add(1, Ordering::Relaxed);
        // Looked at for each message: a peer that never stops must not keep a session alive.
        if session.is_closing() {
            session.discarded.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        deliver(session, inbox.count(), message, &link)?;
    }
    Ok(())
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
