//! The protocol object of a client: what the loop's threads call, and where each message goes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::Value;

use crate::protocol::{self, BoxError, Hands, Link, Protocol};

use super::board::Board;
use super::command::Command;
use super::error::Error;
use super::framing::{Incoming, Objects};
use super::greeting;
use super::message::{Answer, Event, Inbound, Message, Object, Outcome};
use super::options::Options;
use super::talk::{Come, Talk};
use super::text::Wishes;

/// What a client's loop runs.
pub(super) struct Monitor {
    pub(super) options: Options,
    /// Those who listen to events.
    pub(super) events: Arc<Board<Event>>,
    /// Those who listen to all that comes.
    pub(super) taps: Arc<Board<Message>>,
    /// Who wants replies as text.
    pub(super) wishes: Wishes,
    /// The session of the moment, or the last one.
    talk: Mutex<Option<Arc<Talk>>>,
    sessions: AtomicU64,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    events: AtomicU64,
    replies: AtomicU64,
    unknown_replies: AtomicU64,
    unknown_messages: AtomicU64,
}

/// What a client has heard, in all its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events that came.
    pub events: u64,
    /// Replies that were delivered to the caller who waits for them.
    pub replies: u64,
    /// Replies that nobody waited for: with an id that no call has, or too late.
    pub unknown_replies: u64,
    /// Messages that are neither greeting nor event nor reply, and greetings out of place.
    pub unknown_messages: u64,
}

/// A command on its way out, with the descriptor that goes with it.
pub(super) struct Outgoing {
    pub(super) command: Command,
    pub(super) descriptor: Option<OwnedFd>,
}

impl From<Command> for Outgoing {
    fn from(command: Command) -> Self {
        let descriptor = None;
        Self {
            command,
            descriptor,
        }
    }
}

impl Monitor {
    pub(super) fn new(options: Options) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let client = MADE.fetch_add(1, Ordering::Relaxed);
        Self {
            options,
            events: Arc::new(Board::new(client)),
            taps: Arc::new(Board::new(client)),
            wishes: Wishes::default(),
            talk: Mutex::new(None),
            sessions: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    pub(super) fn talk(&self) -> Option<Arc<Talk>> {
        self.talk.lock().clone()
    }

    /// A session was not to be, though its server may have been greeted.
    pub(super) fn not_begun(&self, error: &Error) {
        if self.talk().is_some_and(|talk| !talk.has_begun()) {
            let reason = Arc::new(error.clone());
            self.events.end(&reason);
            self.taps.end(&reason);
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            events: read(&self.counters.events),
            replies: read(&self.counters.replies),
            unknown_replies: read(&self.counters.unknown_replies),
            unknown_messages: read(&self.counters.unknown_messages),
        }
    }

    /// What has come; the taps are told.
    fn sort(&self, incoming: Incoming, number: u64, talk: &Talk) -> Inbound {
        if self.taps.is_deserted() {
            return Inbound::from(incoming);
        }
        let whole = incoming.clone().into_object();
        let inbound = Inbound::from(incoming);
        let call = match &inbound {
            Inbound::Reply(answer) => talk.call_of(answer),
            _ => None,
        };
        let call = call.filter(|call| talk.mailboxes.is_open(*call));
        self.taps
            .tell(&Message::new(whole, number, talk.session, call));
        inbound
    }

    fn tell(&self, event: Object, number: u64, talk: &Talk) {
        count(&self.counters.events);
        let event = Event::new(event, number, talk.session);
        if event.name() == "SHUTDOWN" {
            talk.note_shutdown(event.clone());
        }
        self.events.tell(&event);
    }

    fn route(&self, number: u64, answer: Answer, talk: &Talk) -> Result<(), Error> {
        let wire_id = talk.call_of(&answer);
        let Answer { id, outcome } = answer;
        if id.is_none() && wire_id.is_none() {
            return self.nobody_s(number, outcome);
        }
        let come = Come { number, outcome };
        let back = match wire_id {
            Some(id) => {
                talk.answered(id, &come);
                talk.mailboxes.deliver(id, come)
            }
            None => Err(come),
        };
        match back {
            Ok(()) => count(&self.counters.replies),
            Err(_) => {
                count(&self.counters.unknown_replies);
                match wire_id {
                    Some(id) if talk.had(id) => {
                        log::debug!("message {number}: nobody waits for this reply any more");
                    }
                    _ => log::warn!("message {number}: a reply to nobody, with the id {id:?}"),
                }
            }
        }
        Ok(())
    }

    /// A reply without id that no raw call waits for.
    fn nobody_s(&self, number: u64, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            // Some call will never be answered, and there is no telling which.
            Outcome::Error { class, desc } if !self.options.guest_agent => {
                let (class, desc) = (class.into(), desc.into());
                Err(Error::ServerParse { class, desc })
            }
            // An agent may be answering an earlier session still.
            _ => {
                count(&self.counters.unknown_replies);
                log::debug!("message {number} is a reply to nobody, without id");
                Ok(())
            }
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Protocol for Monitor {
    type Outbound = Outgoing;
    type Inbound = Incoming;
    type Decoder = Objects;

    fn decoder(&self) -> Objects {
        Objects::new(self.options.guest_agent, self.wishes.clone())
    }

    fn encode(&self, outgoing: &Outgoing, out: &mut Vec<u8>) -> Result<(), BoxError> {
        if let Some(talk) = self.talk() {
            talk.make_way();
        }
        out.extend_from_slice(outgoing.command.text());
        if self.options.newline && !outgoing.command.is_raw() {
            out.push(b'\n');
        }
        Ok(())
    }

    fn weight(&self, outgoing: &Outgoing) -> usize {
        outgoing.command.text().len()
    }

    fn descriptors(&self, outgoing: &mut Outgoing) -> Vec<OwnedFd> {
        outgoing.descriptor.take().into_iter().collect()
    }

    fn handshake(&self, hands: &mut Hands<'_, Self>) -> Result<(), BoxError> {
        let start = greeting::shake(self, hands)?;
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let unix = hands.takes_descriptors();
        let asking = self.events.asking();
        let talk = Arc::new(Talk::new(&self.options, &start, session, unix, asking)?);
        self.counters
            .unknown_replies
            .fetch_add(start.strange, Ordering::Relaxed);
        self.events.reopen();
        self.taps.reopen();
        for (number, object) in start.messages {
            if let Inbound::Event(event) = self.sort(Incoming::Object(object), number, &talk) {
                self.tell(event, number, &talk);
            }
        }
        *self.talk.lock() = Some(talk);
        Ok(())
    }

    fn on_start(&self, link: &Link<Self>) -> Result<(), BoxError> {
        if let Some(talk) = self.talk() {
            talk.begin(link.clone());
        }
        Ok(())
    }

    fn on_message(&self, number: u64, incoming: Incoming, _: &Link<Self>) -> Result<(), BoxError> {
        let Some(talk) = self.talk() else {
            return Ok(()); // there is one since the handshake
        };
        match self.sort(incoming, number, &talk) {
            Inbound::Event(event) => self.tell(event, number, &talk),
            Inbound::Reply(answer) => self.route(number, answer, &talk)?,
            Inbound::Greeting(_) | Inbound::Unknown(_) => {
                count(&self.counters.unknown_messages);
                log::warn!("message {number} is neither a reply nor an event");
            }
        }
        Ok(())
    }

    fn on_end(&self, end: &mut protocol::End) {
        let Some(talk) = self.talk() else { return };
        let reason = talk.reason_of(end.cause());
        if matches!(*reason, Error::ServerQuit) {
            end.set_clean();
        }
        talk.end(&reason);
        self.events.end(&reason);
        self.taps.end(&reason);
    }

    fn describe_outbound(&self, outgoing: &Outgoing) -> Option<String> {
        Some(outgoing.command.redacted())
    }

    fn describe_inbound(&self, incoming: &Incoming) -> Option<String> {
        Some(Value::Object(incoming.clone().into_object()).to_string())
    }
}
