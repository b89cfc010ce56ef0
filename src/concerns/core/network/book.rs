//! What became of every message, and the concern that writes it down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::dice::Dice;
use crate::concerns::{
    Answer, BoxError, Command, Concern, Context, Identity, Kind, Message, Outgoing, Priority,
    Retry, SendError, Sent,
};

/// One life of a node: which, and its incarnation.
pub(super) type Life = (usize, u64);

/// How often each thing happened to a message.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    pub(super) by: Life,
    pub(super) to: usize,
    /// Its receiver's concern was called.
    pub(super) delivered: usize,
    /// The hook that tells its concern what became of it was called.
    pub(super) told: Vec<&'static str>,
    /// Its caller has the reply, or knows that there will be none.
    pub(super) answered: usize,
    /// The node said that it is done with it.
    pub(super) settled: usize,
    /// The node said that it was given up.
    pub(super) undeliverable: usize,
    pub(super) from: Origin,
}

/// Who has made a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// A concern.
    #[default]
    Concern,
    /// The program, which does not wait for an answer.
    Program,
    /// The program, which does.
    Caller,
}

/// All messages by their number, shared by the whole network.
#[derive(Clone, Default)]
pub(super) struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
pub(super) struct Pages {
    pub(super) fates: BTreeMap<u64, Fate>,
}

impl Pages {
    /// A message that is sent now.
    pub(super) fn open(&mut self, by: Life, to: usize, from: Origin) -> u64 {
        let number = self.fates.len() as u64 + 1;
        let fate = Fate {
            by,
            to,
            from,
            ..Fate::default()
        };
        self.fates.insert(number, fate);
        number
    }

    pub(super) fn fate(&mut self, number: u64) -> &mut Fate {
        self.fates
            .get_mut(&number)
            .expect("all messages are in the book")
    }
}

impl Book {
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock()
    }
}

/// What all messages of these tests carry.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) number: u64,
    /// An answer is wanted.
    pub(super) answer: bool,
    /// This is one.
    #[serde(default)]
    pub(super) is_answer: bool,
}

impl Note {
    pub(super) fn new(number: u64, answer: bool) -> Self {
        Self {
            number,
            answer,
            is_answer: false,
        }
    }
}

/// The identity of a node.
pub(super) fn identity(place: usize) -> Identity {
    format!("node-{place:02}")
        .try_into()
        .expect("it has seven bytes")
}

/// Which node that is.
pub(super) fn place(identity: &Identity) -> usize {
    let digits = identity
        .as_str()
        .strip_prefix("node-")
        .expect("all have that name");
    digits.parse().expect("a number")
}

/// The command of all messages.
pub(super) const COMMAND: &str = "note";

/// Writes down what comes and what became of its own messages; sends some when it is woken.
pub(super) struct Scribe {
    pub(super) life: Life,
    pub(super) book: Book,
    pub(super) dice: Dice,
    /// How many nodes there are to write to; if any, it writes by itself.
    pub(super) others: usize,
    /// It stops to do so when it has sent that many.
    pub(super) left: usize,
    /// Those of its messages that nothing was told of, by the numbers the node knows them by.
    pub(super) open: BTreeMap<u64, u64>,
}

impl Scribe {
    /// Wakes after a while, if there is something left to do.
    fn rest(&mut self, context: &mut Context<'_>) {
        if self.left > 0 && self.others > 0 {
            let pause = Duration::from_millis(self.dice.between(100, 700));
            context.wake_at(context.now() + pause);
        }
    }

    fn told(&self, message: &Outgoing, what: &'static str) {
        let note: Note = message.payload().read().expect("it was made here");
        if !note.is_answer {
            self.book.pages().fate(note.number).told.push(what);
        }
    }
}

impl Concern for Scribe {
    fn command(&self) -> Command {
        COMMAND.try_into().expect("it is short")
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        self.rest(context);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        self.left -= 1;
        let others = self.others as u64;
        let to = usize::try_from(self.dice.below(others))?;
        if to != self.life.0 {
            let number = self.book.pages().open(self.life, to, Origin::Concern);
            let answer = self.dice.says(500);
            let message = Outgoing::request(&identity(to), COMMAND, &Note::new(number, answer))?
                .priority(any_priority(&mut self.dice))
                .lifetime(Duration::from_millis(self.dice.between(200, 5000)));
            match context.send(message) {
                Ok(id) => drop(self.open.insert(id, number)),
                Err(error) => self.told(error.message(), "refused"),
            }
        }
        self.rest(context);
        Ok(())
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let note: Note = message.read()?;
        self.book.pages().fate(note.number).delivered += 1;
        let answer = Note {
            is_answer: true,
            ..note
        };
        Ok(note.answer.then(|| Answer::new(&answer)).transpose()?)
    }

    fn reply(&mut self, _: &mut Context<'_>, _: &Message) -> Result<(), BoxError> {
        Ok(())
    }

    fn sent(&mut self, _: &mut Context<'_>, sent: &Sent) -> Result<(), BoxError> {
        if sent.kind() == Kind::Request
            && let Some(number) = self.open.get(&sent.id())
        {
            self.book.pages().fate(*number).told.push("sent");
        }
        Ok(())
    }

    fn failed(&mut self, _: &mut Context<'_>, message: &Outgoing, _: &SendError) -> Retry {
        if self.dice.says(300) {
            return Retry::Requeue;
        }
        self.told(message, "failed");
        Retry::Drop
    }

    fn dropped(&mut self, _: &mut Context<'_>, message: &Outgoing) {
        self.told(message, "dropped");
    }
}

pub(super) fn any_priority(dice: &mut Dice) -> Priority {
    match dice.below(3) {
        0 => Priority::Slow,
        1 => Priority::Medium,
        _ => Priority::Fast,
    }
}
