//! What waits to be written: three priorities, fair to destinations, bounded, with lifetimes.
//!
//! Pure; part of the core. A message waits for the neighbour it is to be handed to (its hop), in the line
//! of its destination there. One round gives out all fast ones, one medium one of each line, and the
//! oldest slow one: as far as the neighbours have room (in messages and bytes), those without are passed over. A line is FIFO; lines
//! and neighbours take turns at being first.
//!
//! The messages are in one table, and a line is a list threaded through it, so that any of them can be taken
//! out at once when its lifetime ends. Nothing is left of a line or a neighbour with nothing queued.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use slab::Slab;

use super::load::Load;
use crate::concerns::identity::Identity;
use crate::concerns::message::Priority;

/// How many fast messages of one line are given out before it is the next one's turn.
const RUN: usize = 32;
/// How many messages that keep the network alive may wait for a neighbour, beside all others.
const RESERVE: usize = 64;

/// How many places for messages an empty queue keeps.
const KEPT: usize = 1_024;

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued<T> {
    /// The neighbour it is to be handed to.
    pub(crate) hop: Identity,
    /// Its final receiver.
    pub(crate) to: Identity,
    pub(crate) priority: Priority,
    /// When its lifetime is over; at that moment it is still alive.
    pub(crate) expires: Instant,
    /// How much memory it takes.
    pub(crate) bytes: usize,
    pub(crate) item: T,
}

/// What a neighbour takes in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    /// It has nothing yet, so that one message fits however long it is.
    pub(crate) whole: bool,
}

impl Room {
    pub(crate) const NONE: Self = Self {
        count: 0,
        bytes: 0,
        whole: false,
    };

    fn fits(self, bytes: usize) -> bool {
        self.count > 0 && (self.whole || bytes <= self.bytes)
    }

    /// What is left of it when that was given, which fits.
    fn without(self, bytes: usize) -> Self {
        Self {
            count: self.count - 1,
            bytes: self.bytes.saturating_sub(bytes),
            whole: false,
        }
    }
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Out<T> {
    /// To be handed to its hop.
    Send(Queued<T>),
    /// Its lifetime was over.
    Expired(Queued<T>),
}

/// The queue of all messages that go out.
///
/// Every place in a table that something here knows of is taken: messages, lines and neighbours go together.
pub(crate) struct OutQueue<T> {
    max_hop: Load,
    max_all: Load,
    messages: Slab<Waiting<T>>,
    lines: Slab<Line>,
    hops: Slab<Hop>,
    /// Where to find a neighbour, and a line of one for somebody else. Their order shows nowhere.
    hop_of: HashMap<Identity, usize>,
    line_of: HashMap<(usize, Priority, Identity), usize>,
    /// The neighbours, the first of the next round in front.
    turns: VecDeque<usize>,
    /// When which message expires; may contain some that are gone, but not at the top.
    expiries: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    /// All that wait, but for those with room of their own.
    load: Load,
    /// The number of the message that was pushed last.
    pushed: u64,
}

struct Waiting<T> {
    queued: Queued<T>,
    vital: bool,
    number: u64,
    line: usize,
    before: Option<usize>,
    behind: Option<usize>,
}

struct Line {
    hop: usize,
    /// `None` if it is for the neighbour itself; and for the slow ones of a neighbour, which have one line for
    /// all destinations.
    to: Option<Identity>,
    priority: Priority,
    first: usize,
    last: usize,
}

struct Hop {
    identity: Identity,
    /// Those that wait, but for those with room of their own.
    load: Load,
    /// How many have room of their own.
    vitals: usize,
    /// The lines, the next one in front.
    fast: VecDeque<usize>,
    medium: VecDeque<usize>,
    slow: Option<usize>,
    /// The lines of those for the neighbour itself, which are most; also among those above.
    own_fast: Option<usize>,
    own_medium: Option<usize>,
    /// How many fast ones the line in front has given out in its turn.
    run: usize,
    /// What the neighbour still takes in this round.
    room: Room,
}

impl Hop {
    fn count(&self) -> usize {
        self.load.count + self.vitals
    }
}

impl<T> OutQueue<T> {
    /// For at most `max_hop` that waits for one neighbour, and `max_all` together. One message fits, however long it
    /// is and the others are, if none waits for its neighbour: those who do not read take no room from those who do.
    pub(crate) fn new(max_hop: Load, max_all: Load) -> Self {
        Self {
            max_hop,
            max_all,
            messages: Slab::new(),
            lines: Slab::new(),
            hops: Slab::new(),
            hop_of: HashMap::new(),
            line_of: HashMap::new(),
            turns: VecDeque::new(),
            expiries: BinaryHeap::new(),
            load: Load::default(),
            pushed: 0,
        }
    }

    /// How many messages wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// How many of them for this neighbour.
    #[cfg(test)]
    pub(crate) fn len_of(&self, hop: &Identity) -> usize {
        self.hop_of
            .get(hop)
            .map_or(0, |hop| self.hops[*hop].count())
    }

    /// Puts a message behind those of its line.
    ///
    /// # Errors
    ///
    /// It comes back if there is no room.
    pub(crate) fn push(&mut self, message: Queued<T>) -> Result<(), Queued<T>> {
        self.push_as(message, false)
    }

    /// As [`push`](Self::push), with room of its own, 64 for each neighbour: for heart beats and the like, without
    /// which a neighbour that is sent more than it takes would be lost as well.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn push_vital(&mut self, message: Queued<T>) -> Result<(), Queued<T>> {
        self.push_as(message, true)
    }

    fn push_as(&mut self, queued: Queued<T>, vital: bool) -> Result<(), Queued<T>> {
        let found = self.hop_of.get(&queued.hop).copied();
        let bytes = queued.bytes;
        let (load, vitals) = found.map_or((Load::default(), 0), |hop| {
            let state = &self.hops[hop];
            (state.load, state.vitals)
        });
        let fits = if vital {
            vitals < RESERVE
        } else if load.count == 0 {
            self.load.count < self.max_all.count
        } else {
            self.max_hop.fits(load, bytes) && self.max_all.fits(self.load, bytes)
        };
        if !fits {
            return Err(queued);
        }
        let hop = found.unwrap_or_else(|| self.add_hop(queued.hop.clone()));
        self.pushed += 1;
        let (number, expires, priority) = (self.pushed, queued.expires, queued.priority);
        let line = self.find_line(hop, &queued);
        let slot = self.messages.insert(Waiting {
            queued,
            vital,
            number,
            line: line.unwrap_or(usize::MAX),
            before: line.map(|line| self.lines[line].last),
            behind: None,
        });
        match line {
            Some(line) => {
                let last = mem::replace(&mut self.lines[line].last, slot);
                self.messages[last].behind = Some(slot);
            }
            None => self.add_line(hop, priority, slot),
        }
        let state = &mut self.hops[hop];
        if vital {
            state.vitals += 1;
        } else {
            state.load.add(bytes);
            self.load.add(bytes);
        }
        self.expiries.push(Reverse((expires, number, slot)));
        Ok(())
    }

    /// One round: what has expired, and what goes to neighbours, as much to each as `room` says. In the order in which
    /// it is to be handed over.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        mut room: impl FnMut(&Identity) -> Room,
        out: &mut Vec<Out<T>>,
    ) {
        while let Some(expired) = self.pop_expired(now) {
            out.push(Out::Expired(expired));
        }
        self.drop_empty_hops();
        let turns = mem::take(&mut self.turns);
        for hop in &turns {
            let state = &mut self.hops[*hop];
            state.room = room(&state.identity);
            self.take_fast(*hop, out);
        }
        for hop in &turns {
            self.take_medium(*hop, out);
        }
        self.take_slow(&turns, out);
        self.turns = turns;
        if !self.turns.is_empty() {
            self.turns.rotate_left(1);
        }
        self.drop_empty_hops();
    }

    /// Whether [`take`](Self::take) would give out something but what has expired.
    pub(crate) fn is_ready(&self, mut room: impl FnMut(&Identity) -> Room) -> bool {
        let mut hops = self.turns.iter().map(|hop| &self.hops[*hop]);
        hops.any(|hop| {
            let line = hop.fast.front().or(hop.medium.front()).copied();
            let first = line.or(hop.slow);
            first.is_some_and(|line| room(&hop.identity).fits(self.bytes_of(line)))
        })
    }

    /// When the next lifetime is over.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let Reverse((expires, ..)) = self.expiries.peek()?;
        Some(*expires + Duration::from_nanos(1))
    }

    /// Takes out all that waits for a neighbour: fast ones first, each line in its order.
    pub(crate) fn drain_hop(&mut self, hop: &Identity) -> Vec<Queued<T>> {
        let Some(&hop) = self.hop_of.get(hop) else {
            return Vec::new();
        };
        let mut drained = Vec::with_capacity(self.hops[hop].count());
        loop {
            let Hop {
                fast, medium, slow, ..
            } = &self.hops[hop];
            let Some(line) = fast.front().or(medium.front()).copied().or(*slow) else {
                break;
            };
            drained.push(self.remove(self.lines[line].first));
        }
        self.drop_empty_hops();
        drained
    }

    /// Takes out everything, the oldest first.
    pub(crate) fn drain(&mut self) -> Vec<Queued<T>> {
        let messages = mem::replace(&mut self.messages, Slab::new());
        let mut drained: Vec<_> = messages.into_iter().map(|(_, waiting)| waiting).collect();
        drained.sort_unstable_by_key(|waiting| waiting.number);
        let pushed = self.pushed;
        *self = Self::new(self.max_hop, self.max_all);
        self.pushed = pushed;
        drained.into_iter().map(|waiting| waiting.queued).collect()
    }

    fn pop_expired(&mut self, now: Instant) -> Option<Queued<T>> {
        let Reverse((expires, _, slot)) = *self.expiries.peek()?;
        if expires >= now {
            return None;
        }
        Some(self.remove(slot))
    }

    fn take_fast(&mut self, hop: usize, out: &mut Vec<Out<T>>) {
        while let Some(line) = self.with_room(hop, |hop| &hop.fast) {
            out.push(Out::Send(self.remove(self.lines[line].first)));
            let state = &mut self.hops[hop];
            state.run += 1;
            let ended = state.fast.front() != Some(&line);
            if ended || state.run == RUN {
                state.run = 0;
                if !ended {
                    state.fast.rotate_left(1);
                }
            }
        }
    }

    fn take_medium(&mut self, hop: usize, out: &mut Vec<Out<T>>) {
        for _ in 0..self.hops[hop].medium.len() {
            let Some(line) = self.with_room(hop, |hop| &hop.medium) else {
                return;
            };
            out.push(Out::Send(self.remove(self.lines[line].first)));
            let medium = &mut self.hops[hop].medium;
            if medium.front() == Some(&line) {
                medium.rotate_left(1);
            }
        }
    }

    /// The first of these lines, if its neighbour has room for its first message; which is taken then. A long one for
    /// which there is none yet ends the neighbour's round, lest shorter ones go before it for ever.
    fn with_room(&mut self, hop: usize, lines: fn(&Hop) -> &VecDeque<usize>) -> Option<usize> {
        let line = *lines(&self.hops[hop]).front()?;
        let bytes = self.bytes_of(line);
        let room = &mut self.hops[hop].room;
        if room.fits(bytes) {
            *room = room.without(bytes);
            Some(line)
        } else {
            *room = Room::NONE;
            None
        }
    }

    /// How long the first message of a line is.
    fn bytes_of(&self, line: usize) -> usize {
        let first = self.lines[line].first;
        self.messages[first].queued.bytes
    }

    fn take_slow(&mut self, turns: &VecDeque<usize>, out: &mut Vec<Out<T>>) {
        let oldest = turns
            .iter()
            .map(|hop| &self.hops[*hop])
            .filter(|hop| {
                let fits = |line| hop.room.fits(self.bytes_of(line));
                hop.slow.is_some_and(fits)
            })
            .filter_map(|hop| Some(self.lines[hop.slow?].first))
            .min_by_key(|slot| self.messages[*slot].number);
        if let Some(slot) = oldest {
            out.push(Out::Send(self.remove(slot)));
        }
    }

    fn add_hop(&mut self, identity: Identity) -> usize {
        let hop = self.hops.insert(Hop {
            identity: identity.clone(),
            load: Load::default(),
            vitals: 0,
            fast: VecDeque::new(),
            medium: VecDeque::new(),
            slow: None,
            own_fast: None,
            own_medium: None,
            run: 0,
            room: Room::NONE,
        });
        self.hop_of.insert(identity, hop);
        self.turns.push_back(hop);
        hop
    }

    fn find_line(&self, hop: usize, message: &Queued<T>) -> Option<usize> {
        let state = &self.hops[hop];
        let own = message.to == message.hop;
        match message.priority {
            Priority::Fast if own => state.own_fast,
            Priority::Medium if own => state.own_medium,
            Priority::Slow => state.slow,
            priority => {
                let key = (hop, priority, message.to.clone());
                self.line_of.get(&key).copied()
            }
        }
    }

    /// Makes a line of one message.
    fn add_line(&mut self, hop: usize, priority: Priority, slot: usize) {
        let line = self.lines.insert(Line {
            hop,
            priority,
            to: None,
            first: slot,
            last: slot,
        });
        let message = &mut self.messages[slot];
        message.line = line;
        let state = &mut self.hops[hop];
        let own = match priority {
            Priority::Fast => {
                state.fast.push_back(line);
                &mut state.own_fast
            }
            Priority::Medium => {
                state.medium.push_back(line);
                &mut state.own_medium
            }
            Priority::Slow => {
                state.slow = Some(line);
                return;
            }
        };
        let to = &message.queued.to;
        if *to == message.queued.hop {
            *own = Some(line);
        } else {
            self.line_of.insert((hop, priority, to.clone()), line);
            self.lines[line].to = Some(to.clone());
        }
    }

    /// Takes a message out of its line, and the line out if that was all of it.
    fn remove(&mut self, slot: usize) -> Queued<T> {
        let Waiting {
            queued,
            vital,
            line,
            before,
            behind,
            ..
        } = self.messages.remove(slot);
        if let Some(before) = before {
            self.messages[before].behind = behind;
        }
        if let Some(behind) = behind {
            self.messages[behind].before = before;
        }
        let ends = &mut self.lines[line];
        let hop = ends.hop;
        match (before, behind) {
            (None, None) => self.remove_line(line),
            (None, Some(behind)) => ends.first = behind,
            (Some(before), None) => ends.last = before,
            (Some(_), Some(_)) => {}
        }
        let state = &mut self.hops[hop];
        if vital {
            state.vitals -= 1;
        } else {
            state.load.remove(queued.bytes);
            self.load.remove(queued.bytes);
        }
        if self.messages.is_empty() && self.messages.capacity() > KEPT {
            // What a crowd took is given back when it has gone.
            self.messages.shrink_to_fit();
            self.lines.shrink_to_fit();
        }
        self.tidy_expiries();
        queued
    }

    fn remove_line(&mut self, line: usize) {
        let gone = self.lines.remove(line);
        let state = &mut self.hops[gone.hop];
        let (lines, own) = match gone.priority {
            Priority::Fast => (&mut state.fast, &mut state.own_fast),
            Priority::Medium => (&mut state.medium, &mut state.own_medium),
            Priority::Slow => {
                state.slow = None;
                return;
            }
        };
        // Most often it is the one whose turn it is.
        if let Some(at) = lines.iter().position(|other| *other == line) {
            lines.remove(at);
        }
        match gone.to {
            Some(to) => drop(self.line_of.remove(&(gone.hop, gone.priority, to))),
            None => *own = None,
        }
    }

    fn drop_empty_hops(&mut self) {
        let Self {
            turns,
            hops,
            hop_of,
            ..
        } = self;
        turns.retain(|hop| {
            let stays = hops[*hop].count() > 0;
            if !stays {
                hop_of.remove(&hops.remove(*hop).identity);
            }
            stays
        });
    }

    /// Takes what is gone off the top, and all of it out when it is most of the heap.
    fn tidy_expiries(&mut self) {
        let messages = &self.messages;
        let waits = |Reverse((_, number, slot)): &Reverse<(Instant, u64, usize)>| {
            messages
                .get(*slot)
                .is_some_and(|waiting| waiting.number == *number)
        };
        if self.expiries.len() > 2 * messages.len() + 64 {
            self.expiries.retain(waits);
        }
        while self.expiries.peek().is_some_and(|top| !waits(top)) {
            self.expiries.pop();
        }
    }
}

impl<T> fmt::Debug for OutQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutQueue")
            .field("waiting", &self.messages.len())
            .field("lines", &self.lines.len())
            .field("hops", &self.hops.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const FAR: Duration = Duration::from_secs(30);

    fn id(name: &str) -> Identity {
        format!("node-{name}").try_into().unwrap()
    }

    struct Bench {
        queue: OutQueue<String>,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                queue: OutQueue::new(Load::new(1_000, 1 << 20), Load::new(10_000, 1 << 20)),
                start: Instant::now(),
            }
        }

        fn message(&self, priority: Priority, text: &str) -> Queued<String> {
            Queued {
                hop: id(&text[..1]),
                to: id(&text[..1]),
                priority,
                expires: self.start + FAR,
                bytes: text.len(),
                item: text.to_owned(),
            }
        }

        /// `B1` is for B, and so on.
        fn push(&mut self, priority: Priority, texts: &[&str]) {
            for text in texts {
                self.queue.push(self.message(priority, text)).unwrap();
            }
        }

        fn push_over(&mut self, hop: &str, priority: Priority, texts: &[&str]) {
            for text in texts {
                let mut message = self.message(priority, text);
                message.hop = id(hop);
                self.queue.push(message).unwrap();
            }
        }

        fn round(&mut self) -> Vec<String> {
            self.round_with(|_| usize::MAX)
        }

        fn round_with(&mut self, room: impl Fn(&Identity) -> usize) -> Vec<String> {
            self.round_in(|hop| messages(room(hop)))
        }

        fn round_in(&mut self, room: impl Fn(&Identity) -> Room) -> Vec<String> {
            let mut out = Vec::new();
            let ready = self.queue.is_ready(&room);
            self.queue.take(self.start, &room, &mut out);
            assert_eq!(ready, !out.is_empty());
            self.check();
            let texts = out.into_iter().map(|out| match out {
                Out::Send(queued) => queued.item,
                Out::Expired(queued) => panic!("{} expired", queued.item),
            });
            texts.collect()
        }

        fn check(&self) {
            check(&self.queue);
        }
    }

    /// Room for so many messages.
    fn messages(count: usize) -> Room {
        Room {
            count,
            bytes: usize::MAX,
            whole: false,
        }
    }

    /// Nothing is left of what is gone.
    fn check<T>(queue: &OutQueue<T>) {
        assert_eq!(queue.turns.len(), queue.hops.len());
        assert_eq!(queue.hop_of.len(), queue.hops.len());
        let lines = queue.hops.iter().map(|(_, hop)| hop);
        let lines = lines.flat_map(|hop| [hop.slow, hop.own_fast, hop.own_medium]);
        assert_eq!(
            queue.line_of.len() + lines.flatten().count(),
            queue.lines.len()
        );
        assert!(queue.lines.len() <= queue.messages.len());
        assert!(queue.hops.len() <= queue.messages.len());
        assert!(queue.expiries.len() <= 2 * queue.messages.len() + 64);
        assert_eq!(queue.next_expiry().is_some(), queue.len() > 0);
    }

    /// Lengths of all sorts, and now and then one that is longer than what all together may be.
    fn bytes_of(item: usize) -> usize {
        if item % 29 == 28 { 300 } else { item % 23 }
    }

    use Priority::{Fast, Medium, Slow};

    #[test]
    fn a_round_gives_out_all_fast_messages() {
        // quu-01
        let mut bench = Bench::new();
        bench.push(Fast, &["B1"]);
        bench.push(Fast, &["B2", "C1"]);
        assert_eq!(bench.round(), ["B1", "B2", "C1"]);
        assert!(bench.round().is_empty());
    }

    #[test]
    fn fast_messages_to_one_destination_keep_their_order() {
        // quu-02
        for _ in 0..200 {
            let mut bench = Bench::new();
            bench.push(Fast, &["B0", "B1", "B2", "B3", "B4"]);
            assert_eq!(bench.round(), ["B0", "B1", "B2", "B3", "B4"]);
        }
    }

    #[test]
    fn a_round_gives_out_the_oldest_medium_message_of_each_destination() {
        // quu-03
        let mut bench = Bench::new();
        bench.push(Medium, &["B1", "B2", "C1", "D1", "B3"]);
        assert_eq!(bench.round(), ["B1", "C1", "D1"]);
        assert_eq!(bench.round(), ["B2"]);
        assert_eq!(bench.round(), ["B3"]);
        assert!(bench.round().is_empty());
        // The same over one neighbour.
        bench.push_over("H", Medium, &["B1", "B2", "C1", "D1", "B3"]);
        assert_eq!(bench.round(), ["B1", "C1", "D1"]);
        assert_eq!(bench.round(), ["B2"]);
    }

    #[test]
    fn a_round_gives_out_the_oldest_slow_message() {
        // quu-04
        let mut bench = Bench::new();
        bench.push(Slow, &["B1"]);
        bench.push(Slow, &["C1", "B2"]);
        for expected in ["B1", "C1", "B2"] {
            assert_eq!(bench.round(), [expected]);
        }
        assert!(bench.round().is_empty());
    }

    #[test]
    fn nothing_is_left_of_destinations_with_nothing_queued() {
        // quu-05
        let mut bench = Bench::new();
        for number in 0..1000 {
            for priority in [Fast, Medium, Slow] {
                let mut message = bench.message(priority, "B1");
                message.to = id(&number.to_string());
                message.hop = message.to.clone();
                bench.queue.push(message).unwrap();
            }
            assert_eq!(bench.round().len(), 3);
        }
        assert_eq!(bench.queue.lines.len(), 0);
        assert_eq!(bench.queue.expiries.len(), 0);
    }

    #[test]
    fn fast_comes_before_medium_before_slow() {
        let mut bench = Bench::new();
        bench.push(Slow, &["B5", "B6"]);
        bench.push(Medium, &["B3", "C4"]);
        bench.push(Fast, &["C1", "B2"]);
        assert_eq!(bench.round(), ["B2", "C1", "B3", "C4", "B5"]);
    }

    #[test]
    fn a_full_neighbour_holds_up_nobody_else() {
        let mut bench = Bench::new();
        for priority in [Fast, Medium, Slow] {
            bench.push(priority, &["B1", "B2", "C1", "C2"]);
        }
        let full = |hop: &Identity| if *hop == id("B") { 0 } else { usize::MAX };
        assert_eq!(bench.round_with(full), ["C1", "C2", "C1", "C1"]);
        assert_eq!(bench.round_with(full), ["C2", "C2"]);
        assert!(bench.round_with(full).is_empty());
        let expected = ["B1", "B2", "B1", "B1"];
        assert_eq!(bench.round(), expected);
    }

    #[test]
    fn a_neighbour_gets_no_more_than_it_has_room_for() {
        let mut bench = Bench::new();
        for priority in [Slow, Medium, Fast] {
            bench.push(priority, &["B1", "B2"]);
        }
        assert_eq!(bench.round_with(|_| 1), ["B1"]);
        assert_eq!(bench.round_with(|_| 2), ["B2", "B1"]);
        assert_eq!(bench.round_with(|_| 3), ["B2", "B1"]);
    }

    #[test]
    fn destinations_behind_one_neighbour_take_turns() {
        let mut bench = Bench::new();
        let many: Vec<String> = (0..100).map(|n| format!("B{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        bench.push_over("H", Fast, &many);
        bench.push_over("H", Fast, &["C1", "D1"]);
        let first: Vec<String> = (0..4).flat_map(|_| bench.round_with(|_| 10)).collect();
        let rest = bench.round();
        let all: Vec<String> = first.into_iter().chain(rest).collect();
        let place = |text: &str| all.iter().position(|item| item == text).unwrap();
        assert_eq!((place("C1"), place("D1")), (RUN, RUN + 1));

        bench.push_over("H", Medium, &["B1", "B2", "C1", "D1", "D2"]);
        assert_eq!(bench.round_with(|_| 2), ["B1", "C1"]);
        assert_eq!(bench.round_with(|_| 2), ["D1", "B2"]);
        assert_eq!(bench.round_with(|_| 2), ["D2"]);
    }

    #[test]
    fn neighbours_take_turns_at_being_first() {
        let mut bench = Bench::new();
        bench.push(Medium, &["B1", "B2", "B3", "C1", "C2", "C3"]);
        assert_eq!(bench.round(), ["B1", "C1"]);
        assert_eq!(bench.round(), ["C2", "B2"]);
        assert_eq!(bench.round(), ["B3", "C3"]);
    }

    #[test]
    fn a_message_for_which_there_is_no_room_comes_back() {
        let mut bench = Bench::new();
        bench.queue = OutQueue::new(Load::new(2, 99), Load::new(3, 99));
        bench.push(Fast, &["B1"]);
        bench.push(Slow, &["B2"]);
        let third = bench.message(Medium, "B3");
        assert_eq!(bench.queue.push(third.clone()), Err(third));
        bench.push(Medium, &["C1"]);
        let other = bench.message(Fast, "D1");
        assert_eq!(bench.queue.push(other.clone()), Err(other));
        // What is vital has room of its own.
        for _ in 0..RESERVE {
            let beat = bench.message(Fast, "B!");
            bench.queue.push_vital(beat).unwrap();
        }
        let beat = bench.message(Fast, "B!");
        assert!(bench.queue.push_vital(beat).is_err());
        let beat = bench.message(Fast, "E!");
        bench.queue.push_vital(beat).unwrap();
        assert_eq!(bench.queue.len(), 3 + RESERVE + 1);
        assert_eq!(bench.queue.len_of(&id("B")), 2 + RESERVE);
        while !bench.round().is_empty() {}
        assert_eq!(bench.queue.load, Load::default());
        bench.push(Fast, &["B1", "B2"]);
    }

    #[test]
    fn long_messages_wait_in_as_many_bytes_as_short_ones() {
        let mut bench = Bench::new();
        bench.queue = OutQueue::new(Load::new(99, 10), Load::new(99, 20));
        let long = |bench: &Bench, text: &str, bytes| Queued {
            bytes,
            ..bench.message(Fast, text)
        };
        let push = |bench: &mut Bench, text: &str, bytes| {
            let message = long(bench, text, bytes);
            bench.queue.push(message).is_ok()
        };
        assert!(push(&mut bench, "B1", 6));
        assert!(!push(&mut bench, "B2", 5), "11 for one neighbour");
        assert!(push(&mut bench, "B3", 4));
        assert!(push(&mut bench, "C1", 9));
        assert!(push(&mut bench, "D1", 50), "one alone always fits");
        assert!(!push(&mut bench, "C2", 1), "and others wait for it");
        let beat = long(&bench, "C!", 99);
        bench.queue.push_vital(beat).unwrap();
        assert_eq!(bench.round().len(), 5);
        assert!(push(&mut bench, "C2", 1));
    }

    #[test]
    fn a_neighbour_gets_no_more_bytes_than_it_has_room_for_and_nothing_before_what_waits() {
        let mut bench = Bench::new();
        for (text, bytes) in [("B1", 6), ("B2", 9), ("B3", 1)] {
            let message = Queued {
                bytes,
                ..bench.message(Fast, text)
            };
            bench.queue.push(message).unwrap();
        }
        bench.push(Medium, &["B4"]);
        bench.push(Slow, &["B5"]);
        let room = |bytes, whole| {
            let count = 9;
            move |_: &Identity| Room {
                count,
                bytes,
                whole,
            }
        };
        assert!(bench.round_in(room(5, false)).is_empty());
        assert_eq!(bench.round_in(room(8, false)), ["B1"]);
        assert!(bench.round_in(room(8, false)).is_empty(), "B3 would fit");
        assert_eq!(bench.round_in(room(8, true)), ["B2"]);
        assert_eq!(bench.round_in(room(3, false)), ["B3", "B4"]);
        assert_eq!(bench.round_in(room(3, false)), ["B5"]);
    }

    #[test]
    fn what_expires_comes_out_as_such_once_and_the_rest_stays() {
        let mut bench = Bench::new();
        let seconds = |n: u64| bench.start + Duration::from_secs(n);
        let (first, second, now) = (seconds(1), seconds(2), seconds(9));
        for (priority, expires) in [
            (Slow, second),
            (Slow, first),
            (Medium, first),
            (Fast, seconds(30)),
            (Fast, first),
            (Fast, seconds(30)),
        ] {
            let mut message = bench.message(priority, "B");
            message.expires = expires;
            bench.queue.push(message).unwrap();
        }
        let due = bench.queue.next_expiry().unwrap();
        let mut out = Vec::new();
        let mut take = |queue: &mut OutQueue<String>, now, room: usize| {
            queue.take(now, |_| messages(room), &mut out);
            let expired = |out: &Out<_>| matches!(out, Out::Expired(_));
            let count = out.iter().filter(|out| expired(out)).count();
            (count, out.drain(..).count() - count)
        };
        // At its last moment a message is alive.
        assert_eq!(take(&mut bench.queue, first, 0), (0, 0));
        assert_eq!(take(&mut bench.queue, due, 0), (3, 0));
        assert_eq!(take(&mut bench.queue, due, 0), (0, 0));
        assert!(bench.queue.next_expiry().unwrap() > second);
        assert_eq!(take(&mut bench.queue, now, 0), (1, 0));
        assert_eq!(take(&mut bench.queue, now, 9), (0, 2));
        bench.check();
        assert_eq!(bench.queue.next_expiry(), None);
    }

    #[test]
    fn what_waits_for_a_lost_neighbour_is_taken_out_in_order() {
        let mut bench = Bench::new();
        bench.push(Slow, &["B5", "C9", "B6"]);
        bench.push(Medium, &["B3", "B4"]);
        bench.push(Fast, &["C8", "B1", "B2"]);
        let drained = bench.queue.drain_hop(&id("B"));
        let texts: Vec<&str> = drained.iter().map(|queued| &*queued.item).collect();
        assert_eq!(texts, ["B1", "B2", "B3", "B4", "B5", "B6"]);
        bench.check();
        assert_eq!(bench.queue.len_of(&id("B")), 0);
        assert!(bench.queue.drain_hop(&id("B")).is_empty());
        let rest = bench.queue.drain();
        let texts: Vec<&str> = rest.iter().map(|queued| &*queued.item).collect();
        assert_eq!(texts, ["C9", "C8"]);
        bench.check();
        assert_eq!(bench.queue.len(), 0);
    }

    #[derive(Clone, Debug)]
    enum Move {
        Push(u8, u8, Priority, u64),
        Take(u64, Vec<usize>),
        Drain(u8),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        let priority = prop_oneof![Just(Slow), Just(Medium), Just(Fast)];
        prop_oneof![
            8 => (0..4_u8, 0..4_u8, priority, 0..50_u64)
                .prop_map(|(hop, to, priority, lasts)| Move::Push(hop, to, priority, lasts)),
            2 => (0..5_u64, prop::collection::vec(0..6_usize, 4))
                .prop_map(|(passed, rooms)| Move::Take(passed, rooms)),
            1 => (0..4_u8).prop_map(Move::Drain),
        ]
    }

    proptest! {
        #[test]
        fn each_message_comes_out_once_in_the_order_of_its_line(
            moves in prop::collection::vec(any_move(), 0..200),
        ) {
            let start = Instant::now();
            let mut queue = OutQueue::new(Load::new(20, 100), Load::new(50, 200));
            let mut passed = 0;
            let mut waiting: BTreeMap<usize, Queued<usize>> = BTreeMap::new();
            let name = |number: u8| id(&number.to_string());
            for (item, step) in moves.into_iter().enumerate() {
                match step {
                    Move::Push(hop, to, priority, lasts) => {
                        let message = Queued {
                            hop: name(hop),
                            to: name(to),
                            priority,
                            expires: start + Duration::from_secs(passed + lasts),
                            bytes: bytes_of(item),
                            item,
                        };
                        let load = |of_hop: bool| {
                            let mut load = Load::default();
                            for other in waiting.values() {
                                if !of_hop || other.hop == message.hop {
                                    load.add(other.bytes);
                                }
                            }
                            load
                        };
                        let (hop, all, bytes) = (load(true), load(false), message.bytes);
                        let fits = all.count < 50
                            && (hop.count == 0
                                || hop.count < 20
                                    && hop.bytes + bytes <= 100
                                    && all.bytes + bytes <= 200);
                        let pushed = queue.push(message.clone());
                        prop_assert_eq!(pushed.is_ok(), fits);
                        if fits {
                            waiting.insert(item, message);
                        }
                    }
                    Move::Take(seconds, rooms) => {
                        passed += seconds;
                        let now = start + Duration::from_secs(passed);
                        let room = |hop: &Identity| {
                            let at = (0..4).position(|number| *hop == name(number));
                            let count = rooms[at.unwrap()];
                            let (bytes, whole) = (count * 20, count % 2 == 1);
                            Room { count, bytes, whole }
                        };
                        let ready = queue.is_ready(room);
                        let mut out = Vec::new();
                        queue.take(now, room, &mut out);
                        prop_assert!(!ready || !out.is_empty(), "it would be asked for ever");
                        let mut given: BTreeMap<Identity, Load> = BTreeMap::new();
                        for out in out {
                            match out {
                                Out::Expired(message) => {
                                    prop_assert!(message.expires < now);
                                    prop_assert_eq!(waiting.remove(&message.item), Some(message));
                                }
                                Out::Send(message) => {
                                    prop_assert!(message.expires >= now);
                                    given.entry(message.hop.clone()).or_default().add(message.bytes);
                                    let in_line = |other: &Queued<usize>| {
                                        other.hop == message.hop
                                            && other.priority == message.priority
                                            && other.to == message.to
                                    };
                                    let first = waiting.values().find(|other| in_line(other));
                                    prop_assert_eq!(first, Some(&message));
                                    waiting.remove(&message.item);
                                }
                            }
                        }
                        for (hop, given) in given {
                            let Room { count, bytes, whole } = room(&hop);
                            prop_assert!(given.count <= count);
                            let alone = whole && given.count == 1;
                            prop_assert!(given.bytes <= bytes || alone);
                        }
                        for message in waiting.values() {
                            prop_assert!(message.expires >= now);
                            let room = room(&message.hop);
                            prop_assert!(message.priority != Fast || room.count < 20);
                        }
                    }
                    Move::Drain(hop) => {
                        for message in queue.drain_hop(&name(hop)) {
                            prop_assert_eq!(waiting.remove(&message.item), Some(message));
                        }
                        prop_assert!(waiting.values().all(|message| message.hop != name(hop)));
                    }
                }
                check(&queue);
                prop_assert_eq!(queue.len(), waiting.len());
                let next = waiting.values().map(|message| message.expires).min();
                let next = next.map(|next| next + Duration::from_nanos(1));
                prop_assert_eq!(queue.next_expiry(), next);
            }
        }
    }
}
