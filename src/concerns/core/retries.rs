//! Messages that could not be sent and whose concerns want them tried again, after a short pause.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::load::Load;
use super::parcel::Parcel;

/// The pause before a message is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// The messages that are tried again, in the order of their times. Bounded.
#[derive(Debug)]
pub(crate) struct Retries {
    bound: Load,
    load: Load,
    waiting: VecDeque<(Instant, Parcel)>,
}

impl Retries {
    pub(crate) fn new(bound: Load) -> Self {
        Self {
            bound,
            load: Load::default(),
            waiting: VecDeque::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn load(&self) -> Load {
        self.load
    }

    /// Keeps one until its pause is over.
    ///
    /// # Errors
    ///
    /// It comes back if there is no room; one alone has it, however long it is.
    pub(crate) fn push(&mut self, now: Instant, parcel: Parcel) -> Result<(), Box<Parcel>> {
        let bytes = parcel.bytes();
        if self.load.count > 0 && !self.bound.fits(self.load, bytes) {
            return Err(Box::new(parcel));
        }
        self.load.add(bytes);
        self.waiting.push_back((now + PAUSE, parcel));
        Ok(())
    }

    /// When the pause of the first is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|(at, _)| *at)
    }

    /// Takes one whose pause is over.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Parcel> {
        let (_, parcel) = self.waiting.pop_front_if(|(at, _)| *at <= now)?;
        self.load.remove(parcel.bytes());
        Some(parcel)
    }

    /// Takes all of them.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Parcel> {
        self.load = Load::default();
        self.waiting.drain(..).map(|(_, parcel)| parcel)
    }
}
