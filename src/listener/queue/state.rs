//! What the lock of a queue guards.
//!
//! Whoever has the lock sees all of it agree: no seat holds more than its messages, in the queue
//! and in the hand of the listener's thread, and a seat whose child has left is there until the
//! mark of its end is taken.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Condvar;

use super::super::end::End;
use super::super::message::{Message, Source};

/// The messages, the seats and the gate of a queue.
pub(super) struct State<D> {
    pub(super) posted: VecDeque<Item<D>>,
    /// How many of `posted` are no messages but marks of an end.
    pub(super) marks: usize,
    pub(super) seats: Vec<Option<Sitting>>,
    /// What the handlers posted to their own listener.
    pub(super) own: VecDeque<Message<D>>,
    pub(super) closed: bool,
    /// Not even the children's messages are taken any more.
    pub(super) cut: bool,
    pub(super) phase: Phase,
    /// The seats of the messages in the hand, which count as theirs until it is empty.
    pub(super) taken: Vec<usize>,
    /// Messages that were queued, or read, when nobody was to handle them any more.
    pub(super) lost: u64,
    pub(super) refused: u64,
    pub(super) unreadable: u64,
}

/// What is queued; the numbers are those of seats.
pub(super) enum Item<D> {
    Message(Message<D>),
    OfSeat(usize, Message<D>),
    Gone(usize, End),
}

/// What a seat's number stands for.
pub(super) struct Sitting {
    pub(super) source: Source,
    /// Whether the child is connected; if not, its mark is in the queue.
    pub(super) connected: bool,
    /// How many of its messages are queued.
    pub(super) held: usize,
    /// Whether its thread waits until there are few of them.
    pub(super) waiting: bool,
    pub(super) room: Arc<Condvar>,
}

/// What the listener's thread is doing.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Phase {
    Waiting,
    Handling,
    Leaving,
    Ended,
}

impl<D> State<D> {
    pub(super) fn messages(&self) -> usize {
        self.posted.len() - self.marks
    }

    /// Says that a message of a seat is not queued any more.
    pub(super) fn release(&mut self, number: usize, share: usize) {
        let Some(sitting) = &mut self.seats[number] else {
            return;
        };
        sitting.held -= 1;
        // Not at each: to be woken costs more than a message does.
        if sitting.waiting && sitting.held <= share / 2 {
            sitting.waiting = false;
            sitting.room.notify_all();
        }
    }

    /// The seats of connected children.
    pub(super) fn connected(&self) -> impl Iterator<Item = &Sitting> {
        let seats = self.seats.iter().flatten();
        seats.filter(|sitting| sitting.connected)
    }

    /// Empties the queue and counts what was in it; the caller drops it outside the lock.
    pub(super) fn discard(&mut self) -> Lost<D> {
        let count = self.messages() + self.own.len();
        self.lost += count as u64;
        self.marks = 0;
        self.taken.clear();
        for seat in &mut self.seats {
            match seat {
                Some(sitting) if sitting.connected => sitting.held = 0,
                gone => *gone = None,
            }
        }
        let posted = std::mem::take(&mut self.posted);
        let own = std::mem::take(&mut self.own);
        Lost {
            count,
            _items: (posted, own),
        }
    }

    /// Takes no more messages of children; those that wait to post learn it.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        self.wake_seats();
    }

    pub(super) fn wake_seats(&self) {
        for sitting in self.connected() {
            sitting.room.notify_all();
        }
    }
}

/// What was queued when nobody was to handle it any more.
pub(super) struct Lost<D> {
    pub(super) count: usize,
    _items: (VecDeque<Item<D>>, VecDeque<Message<D>>),
}
