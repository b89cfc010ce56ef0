//! What runs on each link: the opening, frames in, batches of envelopes out.
//!
//! The threads of a link and the node's thread tell each other how things stand by an [`Account`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::gate::{Gate, Passed};
use super::shared::{Come, Place, Shared, Waiting, count};
use crate::concerns::core::{ASKED, LinkId};
use crate::concerns::envelope::{Envelope, EnvelopeKind, Frame, Frames, encode_shake};
use crate::concerns::handshake::{HandshakeError, shake_hands};
use crate::concerns::hello::{Handshake, Hello, Nonce, Refusal, RefusalCode, Shake, Side};
use crate::concerns::message::{Kind, Message, Outgoing};
use crate::protocol::{BoxError, End, Hands, Link, Loop, Protocol};

/// One side of a link.
pub(super) struct Peering {
    shared: Arc<Shared>,
    pub(super) account: Arc<Account>,
    side: Side,
    /// Of the links there may be; until the last thread of this one has ended.
    place: Mutex<Option<Place>>,
}

/// What is known of a link on all its threads.
pub(super) struct Account {
    pub(super) id: LinkId,
    pub(super) gate: Gate,
    peer: OnceLock<Hello>,
    /// Until it is taken in, if the peer has made it.
    waiting: Mutex<Option<Waiting>>,
    done: Mutex<Done>,
    ended: AtomicBool,
}

/// What was done with the envelopes that were given to a link, since somebody last asked.
#[derive(Default)]
pub(super) struct Done {
    /// So many, the oldest ones.
    pub(super) count: usize,
    /// Those among them, counted from 0, that were left out because their lifetime was over.
    pub(super) expired: Vec<usize>,
    /// The node's thread has been told that there is something.
    told: bool,
}

impl Account {
    fn new(id: LinkId) -> Self {
        Self {
            id,
            gate: Gate::new(),
            peer: OnceLock::new(),
            waiting: Mutex::default(),
            done: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// Who is at the other end, once that is known.
    pub(super) fn peer(&self) -> Option<&Hello> {
        self.peer.get()
    }

    /// The node's thread has taken it in.
    pub(super) fn begin(&self) {
        self.gate.begin();
        self.waiting.lock().take();
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What was done since the last time.
    pub(super) fn take_done(&self) -> Done {
        std::mem::take(&mut *self.done.lock())
    }
}

/// The message loop of a link. Dropping it ends the link at once, and joins its threads.
pub(super) struct Session {
    pub(super) account: Arc<Account>,
    inner: Loop<Peering>,
}

impl Session {
    pub(super) fn new(inner: Loop<Peering>) -> Self {
        let account = inner.protocol().account.clone();
        Self { account, inner }
    }

    /// A handle to the link, if it has not ended.
    pub(super) fn link(&self) -> Option<Link<Peering>> {
        self.inner.link().filter(|_| !self.account.is_ended())
    }
}

impl Drop for Session {
    /// Its reader is let go before it is joined.
    fn drop(&mut self) {
        self.account.gate.end();
    }
}

/// What is sent over a link.
pub(super) enum Out {
    /// A frame of the opening.
    Shake(Shake),
    /// Messages.
    Batch(Batch),
}

impl From<Shake> for Out {
    fn from(shake: Shake) -> Self {
        Self::Shake(shake)
    }
}

/// Messages that are written together.
pub(super) struct Batch {
    /// When they were given out, which is when their lifetimes were looked at.
    pub(super) given: Instant,
    pub(super) envelopes: Vec<Envelope>,
    /// Whether the core has given them out, and is to be told.
    pub(super) counted: bool,
}

impl Batch {
    /// A request whose caller writes it to its receiver, past the core.
    pub(super) fn request(id: u64, message: &Outgoing, hops: u8) -> Self {
        let envelope = Envelope {
            kind: EnvelopeKind::Request,
            hops: hops.saturating_sub(1),
            priority: message.priority,
            id,
            lifetime: message.lifetime,
            source: None,
            to: None,
            command: message.command.clone(),
            payload: message.payload.clone(),
        };
        Self {
            given: Instant::now(),
            envelopes: vec![envelope],
            counted: false,
        }
    }
}

impl Peering {
    pub(super) fn new(shared: Arc<Shared>, side: Side) -> Self {
        let account = Arc::new(Account::new(shared.next_link()));
        Self {
            shared,
            account,
            side,
            place: Mutex::new(None),
        }
    }

    /// Appends those that are still alive.
    fn encode_batch(&self, batch: &Batch, out: &mut Vec<u8>) {
        let spent = batch.given.elapsed();
        let mut expired = Vec::new();
        for (at, envelope) in batch.envelopes.iter().enumerate() {
            // One that no frame has room for cannot have been let in.
            let encoded = envelope
                .lifetime
                .checked_sub(spent)
                .is_some_and(|left| envelope.encode(left, out).is_ok());
            if !encoded {
                expired.push(at);
            }
        }
        let counters = &self.shared.counters;
        count(&counters.sent, batch.envelopes.len() - expired.len());
        count(&counters.expired, expired.len());
        if !batch.counted {
            return;
        }
        let mut done = self.account.done.lock();
        let before = done.count;
        done.expired.extend(expired.iter().map(|at| before + at));
        done.count += batch.envelopes.len();
        // The node's thread looks by itself when it has written.
        let tell = !done.told && !self.shared.is_own_thread();
        done.told |= tell;
        drop(done);
        if tell {
            let link = self.account.id;
            let _ = self.shared.line.push(Come::Written { link });
        }
    }

    fn take_envelope(&self, envelope: Envelope) {
        let bytes = envelope.length();
        let told = self.deliver(&envelope);
        let passed = self.pass(bytes);
        let frame = Come::Frame {
            link: self.account.id,
            envelope,
            bytes,
            told,
        };
        // The node's thread has to hear of a reply that was delivered, but not at once.
        let _ = match passed {
            Passed::Over => return,
            Passed::In if told => self.shared.line.push_unhurried(frame),
            Passed::In | Passed::HalfFull => self.push(frame),
        };
    }

    fn pass(&self, bytes: usize) -> Passed {
        match self.shared.is_own_thread() {
            true => self.account.gate.slip(bytes),
            false => self.account.gate.pass(bytes),
        }
    }

    /// For the node's thread, which need not be woken if it is the one that reads.
    fn push(&self, come: Come) -> Result<(), Come> {
        match self.shared.is_own_thread() {
            true => self.shared.line.push_unhurried(come),
            false => self.shared.line.push(come),
        }
    }

    /// Gives the reply of a neighbour to the caller that waits for it.
    fn deliver(&self, envelope: &Envelope) -> bool {
        let Envelope { id, .. } = *envelope;
        let direct = envelope.source.is_none() && envelope.to.is_none();
        if envelope.kind != EnvelopeKind::Reply || id & ASKED == 0 || !direct {
            return false;
        }
        let Some(Hello { identity, .. }) = self.account.peer() else {
            return false;
        };
        // What nobody waits for, or what comes from somebody else, is for the core to count.
        if !self.shared.asked.is_open(id, identity) {
            return false;
        }
        let reply = Message {
            kind: Kind::Reply,
            id,
            source: identity.clone(),
            previous_hop: identity.clone(),
            command: envelope.command.clone(),
            payload: envelope.payload.clone(),
        };
        self.shared.asked.deliver(id, Ok(reply))
    }
}

impl Protocol for Peering {
    type Outbound = Out;
    type Inbound = Frame;
    type Decoder = Frames;

    fn decoder(&self) -> Frames {
        let fixed = &self.shared.fixed;
        Frames::new(fixed.hello.identity.clone(), fixed.max_payload)
    }

    fn encode(&self, message: &Out, out: &mut Vec<u8>) -> Result<(), BoxError> {
        match message {
            Out::Shake(shake) => encode_shake(shake, out),
            Out::Batch(batch) => self.encode_batch(batch, out),
        }
        Ok(())
    }

    fn handshake(&self, hands: &mut Hands<'_, Self>) -> Result<(), BoxError> {
        let shared = &self.shared;
        let full = || {
            Refusal::new(
                RefusalCode::TooManyLinks,
                "there are as many links as may be",
            )
        };
        if self.side == Side::Acceptor && shared.is_full() {
            // Read first: what lies unread when a connection is closed takes what was said last with it.
            let _ = hands.recv()?;
            hands.send(Out::Shake(Shake::Refused(full())))?;
            return Err(HandshakeError::Refuse(full()).into_boxed());
        }
        let fixed = &shared.fixed;
        let handshake = Handshake::new(
            self.side.clone(),
            fixed.hello.clone(),
            fixed.secret.clone(),
            Nonce::random()?,
        );
        let decide = |peer: &Hello| {
            if shared.stopping.is_stopped() {
                return Err(Refusal::new(RefusalCode::Stopping, "the node stops"));
            }
            let known = shared.incarnation(&peer.identity);
            if peer.incarnation < known {
                let text = format!("a later life of {} is known", peer.identity);
                return Err(Refusal::new(RefusalCode::OldIncarnation, text));
            }
            if self.side == Side::Acceptor {
                let waiting = shared.wait(&peer.identity).ok_or_else(|| {
                    let text = "this node is held up, and has links of that peer already";
                    Refusal::new(RefusalCode::TooManyLinks, text)
                })?;
                *self.account.waiting.lock() = Some(waiting);
            }
            let place = shared.place().ok_or_else(full)?;
            *self.place.lock() = Some(place);
            Ok(())
        };
        let shaken = shake_hands(hands, handshake, decide);
        let peer = shaken.map_err(HandshakeError::into_boxed)?;
        let _ = self.account.peer.set(peer);
        Ok(())
    }

    fn on_message(&self, _: u64, frame: Frame, _: &Link<Self>) -> Result<(), BoxError> {
        count(&self.shared.counters.received, 1);
        match frame {
            Frame::Envelope(envelope) => self.take_envelope(envelope),
            Frame::Malformed(problem) => {
                let link = self.account.id;
                if self.pass(0) != Passed::Over {
                    let _ = self.push(Come::Malformed { link, problem });
                }
            }
            Frame::Shake(_) => return Err("a frame of the opening behind it".into()),
        }
        Ok(())
    }

    fn on_end(&self, end: &mut End) {
        self.account.gate.end();
        self.account.ended.store(true, Ordering::Release);
        let reason = match end.cause() {
            None => "closed here".to_owned(),
            Some(cause) => cause.report(),
        };
        // Links come and go; what that means is for the node to say.
        end.set_clean();
        let link = self.account.id;
        let _ = self.shared.line.push(Come::Down { link, reason });
    }
}
