//! The children's side of a queue: who may post, how much of it, and the mark of each end.
//!
//! A child's share is the bound that reaches the one who causes it: the thread of its connection
//! waits here, so nothing more is read from it and its own posts wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Condvar;

use super::super::end::End;
use super::super::message::{Message, Source};
use super::state::{Item, Sitting, State};
use super::{Queue, Wait, sleep};

/// The most ends that may wait to be told to the handlers: no child is let in when there are more.
pub(super) const MARKS: usize = 4096;

/// Why a child gets no seat.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum NoSeat {
    /// One of the same source has one.
    Taken,
    /// More have left than the handlers were told of so far.
    Full,
    /// The gate is closed.
    Closed,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Batch {
    Posted,
    /// The gate was closed, and the caller gave no time for what is left of it.
    Closing,
    /// No more is taken, or there was no room in time.
    Late,
}

/// The right of a child to post. It is no use to any but its queue.
pub(in super::super) struct Seat {
    number: usize,
    /// Its messages were taken, or nobody needs to wait any more.
    room: Arc<Condvar>,
}

impl<D> Queue<D> {
    /// Gives a child a seat, unless one of the same source is connected.
    pub(in super::super) fn sit(&self, source: &Source) -> Result<Seat, NoSeat> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(NoSeat::Closed);
        }
        if state.marks >= MARKS {
            return Err(NoSeat::Full);
        }
        if state.connected().any(|sitting| sitting.source == *source) {
            return Err(NoSeat::Taken);
        }
        let room = Arc::new(Condvar::new());
        let sitting = Some(Sitting {
            source: source.clone(),
            connected: true,
            held: 0,
            waiting: false,
            room: Arc::clone(&room),
        });
        let number = match state.seats.iter().position(Option::is_none) {
            Some(number) => {
                state.seats[number] = sitting;
                number
            }
            None => {
                state.seats.push(sitting);
                state.seats.len() - 1
            }
        };
        Ok(Seat { number, room })
    }

    /// Posts the messages of a child in their order, as many at a time as there is room for.
    ///
    /// With a deadline it goes on when the gate is closed; without one it says so. What was not
    /// posted is left in `batch`.
    pub(in super::super) fn post_batch(
        &self,
        seat: &Seat,
        batch: &mut VecDeque<Message<D>>,
        deadline: Option<Instant>,
    ) -> Batch {
        let mut looks = 0;
        let mut state = self.state.lock();
        loop {
            if state.cut {
                return Batch::Late;
            }
            if state.closed && deadline.is_none() {
                return Batch::Closing;
            }
            let room = self.room(&state);
            let State { posted, seats, .. } = &mut *state;
            let Some(sitting) = &mut seats[seat.number] else {
                return Batch::Late;
            };
            let count = batch.len().min(room).min(self.share - sitting.held);
            if count > 0 {
                sitting.held += count;
                let messages = batch.drain(..count);
                posted.extend(messages.map(|message| Item::OfSeat(seat.number, message)));
                if batch.is_empty() {
                    self.note_posted(&state);
                    drop(state);
                    self.arrived.notify_one();
                    return Batch::Posted;
                }
                self.note_posted(&state);
                self.arrived.notify_one();
                continue;
            }
            let wait = deadline.map_or(Wait::Always, Wait::Until);
            let in_time = if sitting.held == self.share {
                sitting.waiting = true;
                sleep(&seat.room, &mut state, wait)
            } else {
                self.wait_for_room(&mut state, &mut looks, wait)
            };
            if !in_time {
                return Batch::Late;
            }
        }
    }

    /// Gives a seat back: puts the mark of the child's end behind its last message, and counts
    /// those that were read and not posted.
    pub(in super::super) fn leave(&self, seat: &Seat, end: End, unposted: usize) {
        let mut state = self.state.lock();
        state.lost += unposted as u64;
        let over = state.cut;
        let State {
            posted,
            marks,
            seats,
            ..
        } = &mut *state;
        let place = &mut seats[seat.number];
        if over {
            *place = None;
        } else if let Some(sitting) = place {
            sitting.connected = false;
            posted.push_back(Item::Gone(seat.number, end));
            *marks += 1;
        }
        self.note_posted(&state);
        drop(state);
        self.arrived.notify_one();
    }

    /// Counts a connection that was turned away or cut off.
    pub(in super::super) fn count_refused(&self) {
        self.state.lock().refused += 1;
    }

    /// Counts a message of a child that was dropped for its data.
    pub(in super::super) fn count_unreadable(&self) {
        self.state.lock().unreadable += 1;
    }
}
