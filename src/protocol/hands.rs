//! The handshake: whole messages, one at a time, on the thread that connects.

use std::fmt;
use std::os::fd::AsFd;
use std::time::Instant;

use super::attempt::{Attempt, Interest, deadline};
use super::codec::Inbox;
use super::error::{Error, Kind, Phase};
use super::session::Setup;
use super::stream::Stream;
use super::{Protocol, hook};

/// The stream during [`Protocol::handshake`], as messages.
///
/// All its calls together have [`Options::handshake_timeout`](super::Options::handshake_timeout);
/// a cancelled attempt ends them too. Descriptors do not travel here.
pub struct Hands<'a, P: Protocol> {
    setup: &'a Setup<P>,
    stream: &'a Stream,
    attempt: &'a Attempt,
    inbox: &'a mut Inbox<P::Decoder>,
    deadline: Option<Instant>,
}

impl<P: Protocol> Hands<'_, P> {
    /// The next message that [`Protocol::inbound`] does not drop.
    ///
    /// # Errors
    ///
    /// [`Kind::Timeout`], [`Kind::Cancelled`], what ends a stream ([`Kind::PeerClosed`],
    /// [`Kind::PeerReset`], [`Kind::Truncated`], [`Kind::Io`]), what the decoder refuses
    /// ([`Kind::Decode`], [`Kind::TooLong`]), and a panic of the hook.
    pub fn recv(&mut self) -> Result<P::Inbound, Error> {
        loop {
            while let Some(message) = hook::guard("decode", || self.inbox.next())?? {
                let inbound = || self.setup.protocol.inbound(message);
                if let Some(message) = hook::guard("inbound", inbound)? {
                    let describe = || self.setup.protocol.describe_inbound(&message);
                    self.setup.log("<--", describe);
                    return Ok(message);
                }
            }
            self.wait(Interest::Read)?;
            match self.inbox.fill(|room| self.stream.read(room)) {
                Ok(0) => return Err(self.inbox.at_end()),
                Ok(_) => {}
                Err(error) => return Err(Error::of_io(error)),
            }
        }
    }

    /// Sends `message`, after [`Protocol::outbound`].
    ///
    /// # Errors
    ///
    /// [`Kind::Timeout`], [`Kind::Cancelled`], [`Kind::Encode`], [`Kind::PeerReset`],
    /// [`Kind::Io`], and a panic of the hook.
    pub fn send(&mut self, message: P::Outbound) -> Result<(), Error> {
        let mut bytes = Vec::new();
        self.setup.encode(message, &mut bytes)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.wait(Interest::Write)?;
            let count = self.stream.write_now(rest, &[]).map_err(Error::of_io)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Whether descriptors can travel over the stream.
    #[must_use]
    pub fn takes_descriptors(&self) -> bool {
        matches!(self.stream, Stream::Unix(_))
    }

    /// The number of the message that was received last, as in [`Protocol::on_message`]; 0 before
    /// the first. Those that `inbound` drops count.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inbox.count()
    }

    fn wait(&self, interest: Interest) -> Result<(), Error> {
        let on = (self.stream.as_fd(), interest);
        let allowed = self.setup.options.handshake_timeout;
        self.attempt
            .wait(Some(on), self.deadline)
            .map_err(|halt| halt.into_error(Phase::Handshake, allowed, Kind::Io))
    }
}

impl<P: Protocol> fmt::Debug for Hands<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").finish_non_exhaustive()
    }
}

/// Runs the handshake hook.
pub(super) fn shake<P: Protocol>(
    setup: &Setup<P>,
    stream: &Stream,
    attempt: &Attempt,
    inbox: &mut Inbox<P::Decoder>,
) -> Result<(), Error> {
    let mut hands = Hands {
        setup,
        stream,
        attempt,
        inbox,
        deadline: deadline(setup.options.handshake_timeout),
    };
    let shaken = hook::guard("handshake", || setup.protocol.handshake(&mut hands))?;
    shaken.map_err(|error| match error.downcast::<Error>() {
        Ok(error) if matches!(error.kind(), Kind::Timeout { .. } | Kind::Cancelled) => *error,
        Ok(error) => Error::caused(Kind::Handshake, *error),
        Err(error) => Error::caused(Kind::Handshake, error),
    })
}
