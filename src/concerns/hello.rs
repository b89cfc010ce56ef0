//! How a link begins: each side says who it is, proves that it knows the secret if there is one, and takes
//! the other or refuses it.
//!
//! Pure: frames in, frames out; `handshake.rs` carries them. Four frames, the dialer first:
//!
//! ```text
//! dialer                     acceptor
//!   hello  ------------------>          who it is, and a number used once
//!          <------------------  hello
//!   welcome, proof  --------->          it takes the acceptor
//!          <---------  welcome, proof   it takes the dialer: the link is up
//! ```
//!
//! In the place of each, and of a hello of the acceptor's, there may be a refusal, which is the last
//! frame. The dialer proves first, so a stranger that dials learns nothing it could guess the secret by.
//!
//! The secret keeps out those who do not know it, by accident above all. **It is no encryption**: whoever sits
//! on the wire can read all that comes after the opening, and change it. A proof is HMAC-SHA256 over
//! the role of who makes it and all that both said, nonces and identities among it, so it is of no use for
//! another link or for the other side.

use std::fmt;
use std::io;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::identity::Identity;

/// The version of the wire that a hello names.
const VERSION: u64 = 1;
/// The most bytes of an address: a host name of 253, a colon, a port.
const LONGEST_ADDRESS: usize = 260;
/// The most bytes of the text of a refusal; what is beyond is cut off.
const LONGEST_TEXT: usize = 500;

/// What a node says of itself when a link begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) identity: Identity,
    pub(crate) incarnation: u64,
    /// Where it listens, as others reach it; `None` if it does not.
    pub(crate) address: Option<String>,
}

/// A frame of the opening, one JSON object. Keys that are not known are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shake {
    /// `{"interplay": 1, "identity": …, "incarnation": …, "address": …, "nonce": "64 hex digits", "secret": true}`,
    /// the first of each side; `address` is left out by a node that does not listen.
    Hello(Opening),
    /// A hello of another version, of which no more is read.
    OtherVersion(u64),
    /// `{"ok": true, "proof": "64 hex digits"}`, the last of each side: the other is taken. The proof is there
    /// if there is a secret.
    Welcome { proof: Option<Proof> },
    /// `{"ok": false, "code": …, "text": "for people"}`: the other is not taken, and the link ends.
    Refused(Refusal),
}

/// A hello, and what is needed to prove that it is nobody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) hello: Hello,
    pub(crate) nonce: Nonce,
    /// Whether this side has a secret.
    pub(crate) secret: bool,
}

/// A number that is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonce([u8; 32]);

impl Nonce {
    /// From the system's randomness.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What all nodes of a network know and nobody else does.
#[derive(Clone)]
pub(crate) struct Secret(Arc<[u8]>);

impl Secret {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(secret.into())
    }

    /// The mac of the proof that one side makes, the dialer or the acceptor.
    fn mac(&self, by_dialer: bool, dialer: &Opening, acceptor: &Opening) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0);
        let mut mac = mac.expect("a key of any length is taken");
        mac.update(b"interplay concerns 1");
        mac.update(&[u8::from(by_dialer)]);
        for Opening {
            hello,
            nonce,
            secret,
        } in [dialer, acceptor]
        {
            mac.update(&nonce.0);
            mac.update(&[u8::from(*secret)]);
            mac.update(&hello.incarnation.to_be_bytes());
            // Lengths, so that no two hellos look the same.
            for text in [Some(hello.identity.as_str()), hello.address.as_deref()] {
                let length = text.map_or(u64::MAX, |text| text.len() as u64);
                mac.update(&length.to_be_bytes());
                mac.update(text.unwrap_or_default().as_bytes());
            }
        }
        mac
    }

    fn prove(&self, by_dialer: bool, dialer: &Opening, acceptor: &Opening) -> Proof {
        let mac = self.mac(by_dialer, dialer, acceptor);
        Proof(mac.finalize().into_bytes().into())
    }

    /// In constant time.
    fn is_proven(
        &self,
        proof: &Proof,
        by_dialer: bool,
        dialer: &Opening,
        acceptor: &Opening,
    ) -> bool {
        let mac = self.mac(by_dialer, dialer, acceptor);
        mac.verify_slice(&proof.0).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What only somebody who knows the secret can say.
#[derive(Clone, Copy)]
pub(crate) struct Proof([u8; 32]);

impl PartialEq for Proof {
    /// The time this takes tells nothing.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Proof {}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// Why one side does not take the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: RefusalCode,
    /// For people.
    pub(crate) text: String,
}

/// The kinds of refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RefusalCode {
    /// `version`: it speaks another version of the wire.
    Version,
    /// `secret_missing`: it has no secret.
    SecretMissing,
    /// `secret_wrong`: it has another secret.
    SecretWrong,
    /// `own_identity`: it has the identity of the node itself; perhaps it is the node itself.
    OwnIdentity,
    /// `wrong_identity`: it is not who was dialed.
    WrongIdentity,
    /// `too_many_links`
    TooManyLinks,
    /// `old_incarnation`: a later life of it is known.
    OldIncarnation,
    /// `out_of_turn`: it said something that was not its turn to say.
    OutOfTurn,
    /// `stopping`
    Stopping,
    /// Any other.
    Other(String),
}

const CODES: [(RefusalCode, &str); 9] = [
    (RefusalCode::Version, "version"),
    (RefusalCode::SecretMissing, "secret_missing"),
    (RefusalCode::SecretWrong, "secret_wrong"),
    (RefusalCode::OwnIdentity, "own_identity"),
    (RefusalCode::WrongIdentity, "wrong_identity"),
    (RefusalCode::TooManyLinks, "too_many_links"),
    (RefusalCode::OldIncarnation, "old_incarnation"),
    (RefusalCode::OutOfTurn, "out_of_turn"),
    (RefusalCode::Stopping, "stopping"),
];

impl RefusalCode {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            code => CODES
                .iter()
                .find_map(|(known, name)| (known == code).then_some(*name))
                .unwrap_or("other"),
        }
    }

    fn of(name: &str) -> Self {
        CODES
            .iter()
            .find_map(|(code, known)| (*known == name).then(|| code.clone()))
            .unwrap_or_else(|| Self::Other(readable(name)))
    }
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        let text = readable(&text.into());
        Self { code, text }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code.as_str())
    }
}

/// As much of a text as is shown, on one line.
fn readable(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut length = 0;
    plain
        .take_while(|c| {
            length += c.len_utf8();
            length <= LONGEST_TEXT
        })
        .collect()
}

/// The keys of all frames of the opening.
#[derive(Default, Serialize, Deserialize)]
struct Fields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interplay: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Shake {
    /// Reads the JSON of a frame. The error is a text for people.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        /// Another version may have changed all the rest.
        #[derive(Deserialize)]
        struct Version {
            interplay: Option<u64>,
        }
        // Serde takes a list of values for an object too.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err("no hello, which is a JSON object".to_owned());
        }
        let problem = |error: serde_json::Error| format!("no hello: {error}");
        let version: Version = serde_json::from_slice(json).map_err(problem)?;
        if let Some(other) = version.interplay.filter(|version| *version != VERSION) {
            return Ok(Self::OtherVersion(other));
        }
        let fields: Fields = serde_json::from_slice(json).map_err(problem)?;
        match fields {
            Fields {
                interplay: Some(_),
                identity: Some(identity),
                incarnation: Some(incarnation),
                address,
                nonce: Some(nonce),
                secret,
                ..
            } => {
                let identity = Identity::try_from(identity).map_err(|error| error.to_string())?;
                if address
                    .as_deref()
                    .is_some_and(|address| !is_address(address))
                {
                    return Err("a hello with an address that is none".to_owned());
                }
                Ok(Self::Hello(Opening {
                    hello: Hello {
                        identity,
                        incarnation,
                        address,
                    },
                    nonce: Nonce(from_hex(&nonce).ok_or("a hello whose nonce is none")?),
                    secret: secret.unwrap_or(false),
                }))
            }
            Fields {
                ok: Some(true),
                proof: None,
                ..
            } => Ok(Self::Welcome { proof: None }),
            Fields {
                ok: Some(true),
                proof: Some(proof),
                ..
            } => {
                let proof = Proof(from_hex(&proof).ok_or("a welcome whose proof is none")?);
                Ok(Self::Welcome { proof: Some(proof) })
            }
            Fields {
                ok: Some(false),
                code,
                text,
                ..
            } => Ok(Self::Refused(Refusal {
                code: RefusalCode::of(&code.unwrap_or_default()),
                text: readable(&text.unwrap_or_default()),
            })),
            _ => Err("neither a hello nor a welcome nor a refusal".to_owned()),
        }
    }

    /// The JSON of its frame.
    pub(crate) fn to_json(&self) -> String {
        let fields = match self {
            Self::Hello(Opening {
                hello,
                nonce,
                secret,
            }) => Fields {
                interplay: Some(VERSION),
                identity: Some(hello.identity.to_string()),
                incarnation: Some(hello.incarnation),
                address: hello.address.clone(),
                nonce: Some(to_hex(&nonce.0)),
                secret: Some(*secret),
                ..Fields::default()
            },
            Self::OtherVersion(version) => Fields {
                interplay: Some(*version),
                ..Fields::default()
            },
            Self::Welcome { proof } => Fields {
                ok: Some(true),
                proof: proof.map(|proof| to_hex(&proof.0)),
                ..Fields::default()
            },
            Self::Refused(Refusal { code, text }) => Fields {
                ok: Some(false),
                code: Some(code.as_str().to_owned()),
                text: Some(text.clone()),
                ..Fields::default()
            },
        };
        let json = serde_json::to_string(&fields);
        debug_assert!(json.is_ok(), "plain fields are always JSON");
        json.unwrap_or_default()
    }
}

/// Whether a text may be kept, shown and dialed as an address.
fn is_address(text: &str) -> bool {
    (1..=LONGEST_ADDRESS).contains(&text.len()) && !text.contains(char::is_control)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?;
    }
    Some(bytes)
}

/// Which side of a link this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It has dialed, perhaps to find somebody in particular.
    Dialer { expect: Option<Identity> },
    /// It was dialed.
    Acceptor,
}

/// The opening of one link, seen from one side.
#[derive(Debug)]
pub(crate) struct Handshake {
    side: Side,
    ours: Opening,
    secret: Option<Secret>,
    /// What the other side said, once it has.
    theirs: Option<Opening>,
}

/// What follows from a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// This is to be sent, and the next frame waited for.
    Answer(Shake),
    /// The link is up, when this is sent.
    Up { hello: Hello, last: Option<Shake> },
    /// The other side is refused; it is to be told, by [`Shake::Refused`], and the link ends.
    Refuse(Refusal),
    /// The other side has refused; the link ends.
    Refused(Refusal),
}

impl Handshake {
    /// `nonce` has to be new for each link.
    pub(crate) fn new(side: Side, hello: Hello, secret: Option<Secret>, nonce: Nonce) -> Self {
        Self {
            side,
            ours: Opening {
                hello,
                nonce,
                secret: secret.is_some(),
            },
            secret,
            theirs: None,
        }
    }

    /// What is to be sent before anything has come.
    pub(crate) fn begin(&self) -> Option<Shake> {
        matches!(self.side, Side::Dialer { .. }).then(|| Shake::Hello(self.ours.clone()))
    }

    /// Takes a frame. `decide` is asked once, when it is known who the other side is, and, by the acceptor, that it knows the
    /// secret: it may refuse for reasons of its own.
    pub(crate) fn take(
        &mut self,
        shake: Shake,
        decide: impl FnOnce(&Hello) -> Result<(), Refusal>,
    ) -> Move {
        let moved = match (shake, self.theirs.take()) {
            (Shake::Refused(refusal), _) => return Move::Refused(refusal),
            (Shake::OtherVersion(version), None) => {
                let text = format!("this node speaks version {VERSION} of the wire, not {version}");
                Err(Refusal::new(RefusalCode::Version, text))
            }
            (Shake::Hello(theirs), None) => self.hello(theirs, decide),
            (Shake::Welcome { proof }, Some(theirs)) => self.welcome(proof, theirs, decide),
            _ => Err(Refusal::new(
                RefusalCode::OutOfTurn,
                "that was not due in this place of the opening",
            )),
        };
        moved.unwrap_or_else(Move::Refuse)
    }

    fn hello(
        &mut self,
        theirs: Opening,
        decide: impl FnOnce(&Hello) -> Result<(), Refusal>,
    ) -> Result<Move, Refusal> {
        let ours = &self.ours.hello.identity;
        let identity = &theirs.hello.identity;
        if identity == ours {
            let text = format!("{ours} is the identity of this node");
            return Err(Refusal::new(RefusalCode::OwnIdentity, text));
        }
        if self.secret.is_some() && !theirs.secret {
            let text = "this network has a secret, and you have none";
            return Err(Refusal::new(RefusalCode::SecretMissing, text));
        }
        let answer = match &self.side {
            Side::Acceptor => Shake::Hello(self.ours.clone()),
            Side::Dialer { expect } => {
                if let Some(expected) = expect.as_ref().filter(|expected| *expected != identity) {
                    let text = format!("{expected} was dialed, and {identity} has answered");
                    return Err(Refusal::new(RefusalCode::WrongIdentity, text));
                }
                decide(&theirs.hello)?;
                self.say_welcome(&theirs)
            }
        };
        self.theirs = Some(theirs);
        Ok(Move::Answer(answer))
    }

    fn welcome(
        &self,
        proof: Option<Proof>,
        theirs: Opening,
        decide: impl FnOnce(&Hello) -> Result<(), Refusal>,
    ) -> Result<Move, Refusal> {
        let by_dialer = self.side == Side::Acceptor;
        let (dialer, acceptor) = self.in_order(&theirs);
        if let Some(secret) = &self.secret {
            let Some(proof) = proof else {
                let text = "the proof of the secret is missing";
                return Err(Refusal::new(RefusalCode::SecretMissing, text));
            };
            if !secret.is_proven(&proof, by_dialer, dialer, acceptor) {
                let text = "the secret of this network is another one";
                return Err(Refusal::new(RefusalCode::SecretWrong, text));
            }
        }
        let last = match self.side {
            Side::Dialer { .. } => None,
            Side::Acceptor => {
                decide(&theirs.hello)?;
                Some(self.say_welcome(&theirs))
            }
        };
        let hello = theirs.hello;
        Ok(Move::Up { hello, last })
    }

    fn say_welcome(&self, theirs: &Opening) -> Shake {
        let by_dialer = self.side != Side::Acceptor;
        let (dialer, acceptor) = self.in_order(theirs);
        let proof = self.secret.as_ref();
        let proof = proof.map(|secret| secret.prove(by_dialer, dialer, acceptor));
        Shake::Welcome { proof }
    }

    /// Who dialed, and who accepted.
    fn in_order<'a>(&'a self, theirs: &'a Opening) -> (&'a Opening, &'a Opening) {
        match self.side {
            Side::Dialer { .. } => (&self.ours, theirs),
            Side::Acceptor => (theirs, &self.ours),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(name: &str) -> Hello {
        Hello {
            identity: name.try_into().unwrap(),
            incarnation: 7,
            address: Some("127.0.0.1:9000".to_owned()),
        }
    }

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text.as_bytes()))
    }

    fn dialer(secret: Option<Secret>) -> Handshake {
        let side = Side::Dialer { expect: None };
        Handshake::new(side, hello("dialer"), secret, Nonce::random().unwrap())
    }

    fn acceptor(secret: Option<Secret>) -> Handshake {
        let nonce = Nonce::random().unwrap();
        Handshake::new(Side::Acceptor, hello("acceptor"), secret, nonce)
    }

    fn taken(_: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    /// Over the wire and back.
    fn sent(shake: Shake) -> Shake {
        let read = Shake::parse(shake.to_json().as_bytes()).unwrap();
        assert_eq!(read, shake);
        read
    }

    /// The ends of both: who was met, or why not.
    fn meet(mut dialer: Handshake, mut acceptor: Handshake) -> [Result<Hello, Refusal>; 2] {
        let mut ends = [None, None];
        let (mut next, mut turn) = (dialer.begin(), 1);
        assert_eq!(acceptor.begin(), None);
        while let Some(shake) = next.take() {
            let side = if turn == 0 {
                &mut dialer
            } else {
                &mut acceptor
            };
            let (end, answer) = match side.take(sent(shake), taken) {
                Move::Answer(answer) => (None, Some(answer)),
                Move::Up { hello, last } => (Some(Ok(hello)), last),
                Move::Refuse(refusal) => {
                    (Some(Err(refusal.clone())), Some(Shake::Refused(refusal)))
                }
                Move::Refused(refusal) => (Some(Err(refusal)), None),
            };
            if end.is_some() {
                ends[turn] = end;
            }
            next = answer;
            turn = 1 - turn;
        }
        ends.map(|end| end.expect("both come to an end"))
    }

    fn refused(ends: &[Result<Hello, Refusal>; 2]) -> &RefusalCode {
        let [Err(one), Err(other)] = ends else {
            panic!("{ends:?}");
        };
        assert_eq!(one, other, "both know why");
        &one.code
    }

    #[test]
    fn two_nodes_meet_if_they_have_the_same_secret_or_none() {
        for secret in [None, secret("s3cret"), secret(&"long".repeat(100))] {
            let ends = meet(dialer(secret.clone()), acceptor(secret));
            assert_eq!(ends, [Ok(hello("acceptor")), Ok(hello("dialer"))]);
        }
    }

    #[test]
    fn a_node_without_the_secret_is_refused_by_either_side() {
        for (ours, theirs, code) in [
            (secret("a"), None, RefusalCode::SecretMissing),
            (None, secret("a"), RefusalCode::SecretMissing),
            (secret("a"), secret("b"), RefusalCode::SecretWrong),
            (secret("a"), secret(""), RefusalCode::SecretWrong),
        ] {
            let ends = meet(dialer(ours), acceptor(theirs));
            assert_eq!(*refused(&ends), code);
        }
    }

    #[test]
    fn a_node_does_not_link_to_itself_nor_to_somebody_else_than_it_dialed() {
        let mut same = acceptor(None);
        same.ours.hello.identity = hello("dialer").identity;
        assert_eq!(
            *refused(&meet(dialer(None), same)),
            RefusalCode::OwnIdentity
        );
        for (expect, met) in [("acceptor", true), ("somebody", false)] {
            let mut dialer = dialer(None);
            let expect = Some(hello(expect).identity);
            dialer.side = Side::Dialer { expect };
            let ends = meet(dialer, acceptor(None));
            if met {
                assert_eq!(ends[0], Ok(hello("acceptor")));
            } else {
                assert_eq!(*refused(&ends), RefusalCode::WrongIdentity);
            }
        }
    }

    #[test]
    fn another_version_is_refused_whatever_else_it_says() {
        let json = br#"{"interplay": 2, "identity": {"new": "form"}}"#;
        let shake = Shake::parse(json).unwrap();
        assert_eq!(shake, Shake::OtherVersion(2));
        let Move::Refuse(refusal) = acceptor(None).take(shake, taken) else {
            panic!("it is another version");
        };
        assert_eq!(refusal.code, RefusalCode::Version);
    }

    #[test]
    fn either_side_may_decide_to_refuse() {
        let full = |_: &Hello| Err(Refusal::new(RefusalCode::TooManyLinks, "no room"));
        let (mut dialer, mut acceptor) = (dialer(secret("a")), acceptor(secret("a")));
        let first = dialer.begin().unwrap();
        let Move::Answer(second) = acceptor.take(first, |_| panic!("nothing is proven yet")) else {
            panic!("a hello is answered");
        };
        let Move::Answer(third) = dialer.take(second.clone(), taken) else {
            panic!("it is taken");
        };
        let refusal = full(&hello("dialer")).unwrap_err();
        assert_eq!(acceptor.take(third, full), Move::Refuse(refusal.clone()));
        let told = sent(Shake::Refused(refusal.clone()));
        assert_eq!(dialer.take(told, taken), Move::Refused(refusal.clone()));

        let mut other = self::dialer(secret("a"));
        assert_eq!(other.take(second, full), Move::Refuse(refusal));
    }

    #[test]
    fn a_proof_is_good_for_one_link_and_one_side() {
        let secret = secret("a");
        let (mut dialer, mut first) = (dialer(secret.clone()), acceptor(secret.clone()));
        let ours = dialer.begin().unwrap();
        let Move::Answer(theirs) = first.take(ours.clone(), taken) else {
            panic!("a hello is answered");
        };
        let Move::Answer(welcome) = dialer.take(theirs, taken) else {
            panic!("it is taken");
        };
        let wrong = |moved: Move| match moved {
            Move::Refuse(refusal) => assert_eq!(refusal.code, RefusalCode::SecretWrong),
            other => panic!("{other:?}"),
        };
        // Said once more to another link, and back to who said it.
        let mut second = acceptor(secret);
        second.take(ours, taken);
        wrong(second.take(welcome.clone(), taken));
        wrong(dialer.take(welcome.clone(), taken));
        // Each thing that was said counts.
        let theirs = first.theirs.clone().unwrap();
        for change in [
            |opening: &mut Opening| opening.nonce.0[31] ^= 1,
            |opening: &mut Opening| opening.hello.incarnation += 1,
            |opening: &mut Opening| opening.hello.address = None,
            |opening: &mut Opening| opening.hello.identity = "dialer2".try_into().unwrap(),
        ] {
            let mut changed = theirs.clone();
            change(&mut changed);
            first.theirs = Some(changed);
            wrong(first.take(welcome.clone(), taken));
        }
        first.theirs = Some(theirs);
        assert!(matches!(first.take(welcome, taken), Move::Up { .. }));
    }

    #[test]
    fn what_is_out_of_turn_is_refused() {
        let code = |moved: Move| match moved {
            Move::Refuse(refusal) => refusal.code,
            other => panic!("{other:?}"),
        };
        let welcome = Shake::Welcome { proof: None };
        for mut side in [dialer(None), acceptor(None)] {
            assert_eq!(
                code(side.take(welcome.clone(), taken)),
                RefusalCode::OutOfTurn
            );
        }
        let mut twice = acceptor(None);
        let first = dialer(None).begin().unwrap();
        assert!(matches!(twice.take(first.clone(), taken), Move::Answer(_)));
        assert_eq!(code(twice.take(first, taken)), RefusalCode::OutOfTurn);
        let mut secretive = acceptor(secret("a"));
        secretive.take(dialer(secret("a")).begin().unwrap(), taken);
        assert_eq!(
            code(secretive.take(welcome, taken)),
            RefusalCode::SecretMissing
        );
    }

    #[test]
    fn frames_are_told_from_what_is_none() {
        let nonce = "0f".repeat(32);
        let hello = |rest: &str| format!(r#"{{"interplay":1,"identity":"node",{rest}}}"#);
        let long = format!(
            r#""incarnation":1,"nonce":"{nonce}","address":"{}""#,
            "a".repeat(261)
        );
        for (json, fits) in [
            (
                hello(&format!(r#""incarnation":1,"nonce":"{nonce}""#)),
                true,
            ),
            (
                hello(&format!(
                    r#""incarnation":1,"nonce":"{nonce}","secret":true,"later":[]"#
                )),
                true,
            ),
            (hello(&long), false),
            (
                hello(&format!(
                    r#""incarnation":1,"nonce":"{nonce}","address":"a\nb""#
                )),
                false,
            ),
            (hello(r#""incarnation":1,"nonce":"0f""#), false),
            (
                hello(&format!(r#""incarnation":-1,"nonce":"{nonce}""#)),
                false,
            ),
            (hello(&format!(r#""nonce":"{nonce}""#)), false),
            (r#"{"interplay":"1"}"#.to_owned(), false),
            (r#"{"ok":true}"#.to_owned(), true),
            (r#"{"ok":true,"proof":"zz"}"#.to_owned(), false),
            (r#"{"ok":false}"#.to_owned(), true),
            (r#"{"ok":false,"ok":true}"#.to_owned(), false),
            (r#"[1,"node",1,null]"#.to_owned(), false),
            ("{}".to_owned(), false),
            (String::new(), false),
            ("GET / HTTP/1.1".to_owned(), false),
        ] {
            assert_eq!(Shake::parse(json.as_bytes()).is_ok(), fits, "{json}");
        }
    }

    #[test]
    fn a_refusal_says_its_code_and_a_short_text_on_one_line() {
        for (code, name) in CODES {
            assert_eq!(code.as_str(), name);
            sent(Shake::Refused(Refusal::new(code, "why")));
        }
        let refusal = Refusal::new(RefusalCode::of("new"), "a\nb".repeat(1000));
        assert_eq!(refusal.code, RefusalCode::Other("new".to_owned()));
        assert!(refusal.text.starts_with("a ba b") && refusal.text.len() == LONGEST_TEXT);
        sent(Shake::Refused(refusal.clone()));
        assert!(refusal.to_string().ends_with("(new)"));
    }

    #[test]
    fn the_longest_hello_fits_its_frame() {
        let mut hello = hello(&"\u{1}".repeat(255));
        hello.address = Some("\"".repeat(LONGEST_ADDRESS));
        hello.incarnation = u64::MAX;
        let nonce = Nonce::random().unwrap();
        let secret = true;
        let shake = sent(Shake::Hello(Opening {
            hello,
            nonce,
            secret,
        }));
        assert!(shake.to_json().len() <= super::super::envelope::LONGEST_SHAKE);
        let refusal = Refusal::new(RefusalCode::of(&"\"".repeat(9999)), "\"".repeat(9999));
        let shake = sent(Shake::Refused(refusal));
        assert!(shake.to_json().len() <= super::super::envelope::LONGEST_SHAKE);
    }

    #[test]
    fn secrets_and_proofs_do_not_show_themselves() {
        let text = format!("{:?} {:?}", secret("hidden"), Proof([7; 32]));
        assert_eq!(text, "Some(Secret(…)) Proof(…)");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(json in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Shake::parse(&json);
        }

        #[test]
        fn no_text_makes_it_panic(
            key in "interplay|identity|nonce|ok|proof|code|address",
            value in "1|2|-1|true|false|null|\"[0-9a-f]{0,70}\"|[\\[{]",
        ) {
            let json = format!("{{\"{key}\":{value},\"ok\":true}}");
            if let Ok(shake) = Shake::parse(json.as_bytes()) {
                for mut side in [dialer(None), acceptor(secret("a"))] {
                    side.take(shake.clone(), taken);
                }
            }
        }
    }
}
