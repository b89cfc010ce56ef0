//! The connections of a network: slow, and worse in a storm.
//!
//! What is written arrives in order or not at all. A connection that is broken is noticed later, by each side at
//! another time.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::{Input, LinkId};
use super::book::{Life, identity};
use super::schedule::{Happening, MILLISECOND, SECOND};
use super::seat::address;
use super::world::World;
use crate::concerns::envelope::Envelope;
use crate::concerns::hello::Hello;

/// How bad the connections are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// Of a thousand frames, how many are lost without a trace.
    pub(super) loss: u64,
    /// The most a frame takes, in microseconds.
    pub(super) delay: u64,
    /// The longest it takes a side to notice that a connection is broken.
    pub(super) notice: u64,
    /// Of a thousand writes, how many take up to three seconds.
    pub(super) stalls: u64,
}

pub(super) const CALM: Weather = Weather {
    loss: 0,
    delay: 2 * MILLISECOND,
    notice: 10 * MILLISECOND,
    stalls: 0,
};

pub(super) const STORM: Weather = Weather {
    loss: 10,
    delay: 50 * MILLISECOND,
    notice: 5 * SECOND,
    stalls: 5,
};

/// One end of a connection.
pub(super) type End = (usize, usize);

/// A connection between two lives.
pub(super) struct Wire {
    pub(super) ends: [Side; 2],
    /// Nothing goes over it any more.
    pub(super) broken: bool,
}

pub(super) struct Side {
    pub(super) life: Life,
    link: LinkId,
    stage: Stage,
    /// It is to end when all is written.
    pub(super) closing: bool,
    /// What is to be written, each with the end of its lifetime.
    pub(super) waiting: VecDeque<(u64, Envelope)>,
    flushing: bool,
    /// When the last frame for this side arrives.
    last: u64,
}

/// What a node was told of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Coming,
    Up,
    Gone,
}

impl World {
    pub(super) fn side(&mut self, end: End) -> &mut Side {
        let wire = self
            .wires
            .get_mut(&end.0)
            .expect("the links of a node are there");
        &mut wire.ends[end.1]
    }

    /// Whether nothing gets from one node to another.
    fn parted(&self, from: usize, to: usize) -> bool {
        self.seats[from].region != self.seats[to].region || self.deaf.contains(&(to, from))
    }

    pub(super) fn dial(&mut self, life: Life, dial: u64, at: &str) {
        let all = 0..self.seats.len();
        let mut all = all.filter(|node| self.is_live(*node));
        let there = all.find(|node| address((*node, self.seats[*node].incarnation)) == at);
        let there =
            there.filter(|there| !self.parted(*there, life.0) && !self.parted(life.0, *there));
        let delay = self.dice.between(1, self.weather.delay);
        let Some(there) = there.filter(|there| *there != life.0) else {
            let patience = self.dice.between(delay, delay + self.weather.notice);
            return self
                .schedule
                .plan(patience, Happening::Failed { life, dial });
        };
        let wire = self.next_wire;
        self.next_wire += 1;
        let mut side = |node: usize, place: usize| {
            let seat = &mut self.seats[node];
            let link = LinkId(seat.next_link);
            seat.next_link += 1;
            seat.links.insert(link, (wire, place));
            Side {
                life: (node, seat.incarnation),
                link,
                stage: Stage::Coming,
                closing: false,
                waiting: VecDeque::new(),
                flushing: false,
                last: 0,
            }
        };
        let ends = [side(life.0, 0), side(there, 1)];
        self.wires.insert(
            wire,
            Wire {
                ends,
                broken: false,
            },
        );
        // Either side may be the first to know.
        for (end, dial) in [(0, Some(dial)), (1, None)] {
            let delay = self.dice.between(1, self.weather.delay);
            let end = (wire, end);
            let at = self.schedule.now + delay;
            self.side(end).last = at;
            self.schedule.plan_at(at, Happening::Up { end, dial });
        }
    }

    pub(super) fn up(&mut self, end: End, dial: Option<u64>) {
        let wire = &self.wires[&end.0];
        let (near, far) = (&wire.ends[end.1], &wire.ends[1 - end.1]);
        let (life, link, other) = (near.life, near.link, far.life);
        if !self.is(life) {
            return;
        }
        if wire.broken && dial.is_none() {
            // It has never seen the connection.
            self.seats[life.0].links.remove(&link);
            self.side(end).stage = Stage::Gone;
            return self.drop_if_gone(end.0);
        }
        let hello = Hello {
            identity: identity(other.0),
            incarnation: other.1,
            address: Some(address(other)),
        };
        self.side(end).stage = Stage::Up;
        self.give(life.0, Input::LinkUp { link, hello, dial });
    }

    pub(super) fn flush_later(&mut self, end: End) {
        let stalls = self.dice.says(self.weather.stalls);
        let pause = if stalls {
            self.dice.below(3 * SECOND)
        } else {
            self.dice.between(10, 500)
        };
        let side = self.side(end);
        if !std::mem::replace(&mut side.flushing, true) {
            self.schedule.plan(pause, Happening::Flush { end });
        }
    }

    /// Writes what waits at an end.
    pub(super) fn flush(&mut self, end: End) {
        let wire = &self.wires[&end.0];
        let (from, to) = (wire.ends[end.1].life, wire.ends[1 - end.1].life);
        if wire.broken || !self.is(from) || wire.ends[end.1].stage != Stage::Up {
            return;
        }
        let parted = self.parted(from.0, to.0);
        let (now, weather) = (self.schedule.now, self.weather);
        let side = self.side(end);
        side.flushing = false;
        let link = side.link;
        let frames = std::mem::take(&mut side.waiting);
        let closing = side.closing;
        let other = (end.0, 1 - end.1);
        let (count, mut expired) = (frames.len(), Vec::new());
        for (place, (until, mut envelope)) in frames.into_iter().enumerate() {
            if until < now {
                expired.push(place);
                continue;
            }
            envelope.lifetime = Duration::from_micros(until - now);
            self.frames += 1;
            if parted || self.dice.says(weather.loss) {
                continue;
            }
            let delay = self.dice.between(1, weather.delay);
            let side = self.side(other);
            side.last = side.last.max(now + delay);
            let (at, envelope) = (side.last, Box::new(envelope));
            let end = other;
            self.schedule
                .plan_at(at, Happening::Arrive { end, envelope });
        }
        if count > 0 {
            self.give(
                from.0,
                Input::Written {
                    link,
                    count,
                    expired,
                },
            );
        }
        if closing
            && self
                .wires
                .get(&end.0)
                .is_some_and(|wire| wire.ends[end.1].waiting.is_empty())
        {
            let side = self.side(other);
            side.last += 1;
            let at = side.last;
            self.schedule
                .plan_at(at.max(now), Happening::Down { end: other });
            self.down(end, "closed");
        }
    }

    pub(super) fn arrive(&mut self, end: End, envelope: Envelope) {
        let wire = &self.wires[&end.0];
        let side = &wire.ends[end.1];
        let (life, link) = (side.life, side.link);
        if !wire.broken && side.stage == Stage::Up && self.is(life) {
            self.give(life.0, Input::Frame { link, envelope });
        }
    }

    pub(super) fn down(&mut self, end: End, reason: &str) {
        let side = self.side(end);
        let (life, link) = (side.life, side.link);
        let stage = std::mem::replace(&mut side.stage, Stage::Gone);
        if self.is(life) && stage == Stage::Up {
            let reason = reason.to_owned();
            self.seats[life.0].links.remove(&link);
            self.give(life.0, Input::LinkDown { link, reason });
            self.go_if_done(life.0);
        }
        self.drop_if_gone(end.0);
    }

    /// Nothing goes over it any more; its ends learn of it sooner or later.
    pub(super) fn break_wire(&mut self, wire: usize) {
        let Some(wires) = self.wires.get_mut(&wire) else {
            return;
        };
        if std::mem::replace(&mut wires.broken, true) {
            return;
        }
        for end in 0..2 {
            let at = self.schedule.now + self.dice.between(1, self.weather.notice.max(1));
            let end = (wire, end);
            let at = at.max(self.side(end).last + 1);
            self.schedule.plan_at(at, Happening::Down { end });
        }
    }

    fn drop_if_gone(&mut self, wire: usize) {
        let gone = |side: &Side| side.stage == Stage::Gone || !self.is(side.life);
        if self
            .wires
            .get(&wire)
            .is_some_and(|wire| wire.ends.iter().all(gone))
        {
            self.wires.remove(&wire);
        }
    }
}
