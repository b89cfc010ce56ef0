//! The opening of a link on its stream: carries the frames of [`Handshake`].
//!
//! Runs on the thread that connects or accepts, within the time that the loop gives a handshake.

use std::error::Error as StdError;
use std::fmt;

use super::envelope::Frame;
use super::error::BoxError;
use super::hello::{Handshake, Hello, Move, Refusal, RefusalCode, Shake};
use crate::protocol::{self, Hands, Protocol};

/// Why a link did not come up.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// This side has refused.
    Refuse(Refusal),
    /// The other side has refused.
    Refused(Refusal),
    /// The stream ended, or took too long, or brought something else than an opening.
    Stream(protocol::Error),
}

impl HandshakeError {
    /// For [`Protocol::handshake`], which looks for its own errors in it.
    pub(crate) fn into_boxed(self) -> BoxError {
        match self {
            Self::Stream(error) => error.into(),
            refusal => refusal.into(),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(refusal) => write!(f, "refused here: {refusal}"),
            Self::Refused(refusal) => write!(f, "refused by the other side: {refusal}"),
            Self::Stream(_) => f.write_str("the stream brought no opening"),
        }
    }
}

impl StdError for HandshakeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Refuse(_) | Self::Refused(_) => None,
            Self::Stream(source) => Some(source),
        }
    }
}

/// Comes to terms with the other side: says who it is. `decide` is asked once, as [`Handshake::take`] has it; if it took the
/// other side there may still be an error.
pub(crate) fn shake_hands<P>(
    hands: &mut Hands<'_, P>,
    mut handshake: Handshake,
    mut decide: impl FnMut(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HandshakeError>
where
    P: Protocol<Inbound = Frame>,
    P::Outbound: From<Shake>,
{
    let mut next = handshake.begin();
    loop {
        if let Some(shake) = next.take() {
            hands.send(shake.into()).map_err(HandshakeError::Stream)?;
        }
        let moved = match hands.recv().map_err(HandshakeError::Stream)? {
            Frame::Shake(shake) => handshake.take(shake, &mut decide),
            // The decoder gives out nothing else before a welcome.
            Frame::Envelope(_) | Frame::Malformed(_) => Move::Refuse(Refusal::new(
                RefusalCode::OutOfTurn,
                "a message before the end of the opening",
            )),
        };
        match moved {
            Move::Answer(shake) => next = Some(shake),
            Move::Up { hello, last } => {
                if let Some(shake) = last {
                    hands.send(shake.into()).map_err(HandshakeError::Stream)?;
                }
                return Ok(hello);
            }
            Move::Refuse(refusal) => {
                // It may have gone already; the refusal stands.
                let _ = hands.send(Shake::Refused(refusal.clone()).into());
                return Err(HandshakeError::Refuse(refusal));
            }
            Move::Refused(refusal) => return Err(HandshakeError::Refused(refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use crossbeam_channel::{Receiver, Sender, unbounded};
    use parking_lot::Mutex;

    use super::super::envelope::{self, Envelope, EnvelopeKind, Frames};
    use super::super::hello::{Nonce, Secret, Side};
    use super::super::identity::Identity;
    use super::super::message::Priority;
    use super::super::payload::Payload;
    use super::*;
    use crate::lifecycle;
    use crate::protocol::{Cancel, Link, Loop, Options};

    enum Outbound {
        Shake(Shake),
        Envelope(Envelope),
    }

    impl From<Shake> for Outbound {
        fn from(shake: Shake) -> Self {
            Self::Shake(shake)
        }
    }

    /// One side of a link; what it hears goes to a channel.
    struct Node {
        hello: Hello,
        handshake: Mutex<Option<Handshake>>,
        full: bool,
        met: Sender<Result<Hello, String>>,
        heard: Sender<Frame>,
    }

    impl Protocol for Node {
        type Outbound = Outbound;
        type Inbound = Frame;
        type Decoder = Frames;

        fn decoder(&self) -> Frames {
            Frames::new(self.hello.identity.clone(), 1 << 20)
        }

        fn encode(&self, message: &Outbound, out: &mut Vec<u8>) -> Result<(), BoxError> {
            match message {
                Outbound::Shake(shake) => envelope::encode_shake(shake, out),
                Outbound::Envelope(envelope) => envelope.encode(envelope.lifetime, out)?,
            }
            Ok(())
        }

        fn handshake(&self, hands: &mut Hands<'_, Self>) -> Result<(), BoxError> {
            let handshake = self.handshake.lock().take().unwrap();
            let met = shake_hands(hands, handshake, |_| match self.full {
                true => Err(Refusal::new(RefusalCode::TooManyLinks, "no room")),
                false => Ok(()),
            });
            let told = met.as_ref().map(Clone::clone).map_err(|error| match error {
                HandshakeError::Stream(error) => format!("{:?}", error.kind()),
                refusal => refusal.to_string(),
            });
            self.met.send(told)?;
            met.map(drop).map_err(HandshakeError::into_boxed)
        }

        fn on_message(&self, _: u64, frame: Frame, _: &Link<Self>) -> Result<(), BoxError> {
            self.heard.send(frame)?;
            Ok(())
        }
    }

    struct Ends {
        looped: Loop<Node>,
        met: Receiver<Result<Hello, String>>,
        heard: Receiver<Frame>,
    }

    fn node(side: Side, name: &str, secret: Option<&str>, full: bool) -> Ends {
        let (met, meets) = unbounded();
        let (heard, hears) = unbounded();
        let hello = Hello {
            identity: name.try_into().unwrap(),
            incarnation: 1,
            address: None,
        };
        let secret = secret.map(|secret| Secret::new(secret.as_bytes()));
        let handshake = Handshake::new(side, hello.clone(), secret, Nonce::random().unwrap());
        let node = Node {
            hello,
            handshake: Mutex::new(Some(handshake)),
            full,
            met,
            heard,
        };
        Ends {
            looped: Loop::new(node, Options::new().name("hands")),
            met: meets,
            heard: hears,
        }
    }

    fn dialer(secret: Option<&str>) -> Ends {
        node(Side::Dialer { expect: None }, "dialer", secret, false)
    }

    /// What both made of it: the dialer, the acceptor.
    fn meet(dialer: &Ends, acceptor: Ends) -> (Result<Hello, String>, Result<Hello, String>, Ends) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, accepted) = unbounded();
        let thread = lifecycle::spawn("acceptor", move || {
            let _ = acceptor.looped.connect(theirs.into(), &Cancel::new());
            let _ = sender.send(acceptor);
        });
        let _ = dialer.looped.connect(ours.into(), &Cancel::new());
        let acceptor = accepted.recv().unwrap();
        drop(thread.unwrap());
        let met = dialer.met.recv().unwrap();
        (met, acceptor.met.recv().unwrap(), acceptor)
    }

    fn acceptor(secret: Option<&str>) -> Ends {
        node(Side::Acceptor, "acceptor", secret, false)
    }

    fn message() -> Envelope {
        Envelope {
            kind: EnvelopeKind::Request,
            hops: 8,
            priority: Priority::Fast,
            id: 1,
            lifetime: Duration::from_secs(1),
            source: None,
            to: None,
            command: "echo".try_into().unwrap(),
            payload: Payload::empty(),
        }
    }

    #[test]
    fn two_nodes_meet_and_messages_follow_at_once() {
        for secret in [None, Some("s3cret")] {
            let dialer = dialer(secret);
            let (met, was_met, acceptor) = meet(&dialer, acceptor(secret));
            assert_eq!(met.unwrap().identity, "acceptor");
            assert_eq!(was_met.unwrap().identity, "dialer");
            for (from, to) in [(&dialer, &acceptor), (&acceptor, &dialer)] {
                from.looped
                    .send(Outbound::Envelope(message()), None)
                    .unwrap();
                assert_eq!(to.heard.recv(), Ok(Frame::Envelope(message())));
            }
            dialer.looped.disconnect().unwrap();
            acceptor.looped.disconnect().unwrap();
        }
    }

    #[test]
    fn a_refusal_reaches_the_other_side_before_the_end() {
        let full = || node(Side::Acceptor, "acceptor", None, true);
        let myself = || node(Side::Acceptor, "dialer", None, false);
        for (ours, theirs, code) in [
            (dialer(None), full(), "too_many_links"),
            (dialer(None), myself(), "own_identity"),
            (dialer(Some("a")), acceptor(None), "secret_missing"),
            (dialer(None), acceptor(Some("a")), "secret_missing"),
            (dialer(Some("a")), acceptor(Some("b")), "secret_wrong"),
        ] {
            let (ours, theirs, _) = meet(&ours, theirs);
            for told in [ours.unwrap_err(), theirs.unwrap_err()] {
                assert!(told.contains("refused") && told.contains(code), "{told}");
            }
        }
    }

    #[test]
    fn a_stranger_that_speaks_something_else_is_not_listened_to() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\0\0\0\x02[]",
            b"\0\0\x10\x01",
        ] {
            let (mut stranger, theirs) = UnixStream::pair().unwrap();
            let acceptor = acceptor(None);
            stranger.write_all(bytes).unwrap();
            let connected = acceptor.looped.connect(theirs.into(), &Cancel::new());
            assert!(connected.is_err());
            let told = acceptor.met.recv().unwrap().unwrap_err();
            assert!(told.contains("Decode"), "{told}");
            drop(acceptor);
            let mut rest = Vec::new();
            let _ = stranger.read_to_end(&mut rest);
            assert_eq!(rest, b"", "there is nothing to say to it");
        }
    }

    #[test]
    fn another_version_is_told_why_it_is_refused() {
        let (mut stranger, theirs) = UnixStream::pair().unwrap();
        let json = br#"{"interplay":2}"#;
        stranger.write_all(&[0, 0, 0, 15]).unwrap();
        stranger.write_all(json).unwrap();
        let acceptor = acceptor(None);
        assert!(
            acceptor
                .looped
                .connect(theirs.into(), &Cancel::new())
                .is_err()
        );
        drop(acceptor);
        let mut rest = Vec::new();
        stranger.read_to_end(&mut rest).unwrap();
        let refusal = Shake::parse(&rest[4..]).unwrap();
        assert!(matches!(refusal, Shake::Refused(refusal) if refusal.code == RefusalCode::Version));
    }

    #[test]
    fn identities_are_known_before_anything_is_decided() {
        let expect = Identity::try_from("somebody").unwrap();
        let side = Side::Dialer {
            expect: Some(expect),
        };
        let dialer = node(side, "dialer", None, false);
        let (met, was_met, _) = meet(&dialer, acceptor(None));
        for told in [met.unwrap_err(), was_met.unwrap_err()] {
            assert!(told.contains("wrong_identity"), "{told}");
        }
    }
}
