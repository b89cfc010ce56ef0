//! The nodes of a network: each a core in its seat, which is given what comes and has its outputs carried out.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;

use super::super::{Core, Input, LinkId, Output};
use super::book::{Life, Note, identity, place};
use super::inside;
use super::schedule::Happening;
use super::wire::End;
use super::world::World;
use crate::concerns::PeerState;
use crate::concerns::event::Event;

/// More rounds than this at the same time, and a node is taken to run in circles.
const CIRCLES: usize = 2000;

/// A place for a node; nobody is in it at first.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) incarnation: u64,
    pub(super) core: Option<Core>,
    pub(super) links: BTreeMap<LinkId, End>,
    pub(super) next_link: u64,
    /// When its next round is, if one is planned.
    pub(super) round: Option<u64>,
    pub(super) rounds_now: (u64, usize),
    /// Until then it does nothing.
    pub(super) held_up: u64,
    /// It has said goodbye and goes when all is written.
    pub(super) leaving: bool,
    /// Which side of a partition it is on.
    pub(super) region: u64,
    pub(super) next_id: u64,
    /// The messages of the program's, by the numbers the node knows them by.
    pub(super) sent: BTreeMap<u64, u64>,
    /// Those that are not answered yet.
    pub(super) asked: BTreeMap<u64, u64>,
    /// By receiver: those that are not settled.
    pub(super) unsettled: BTreeMap<usize, VecDeque<u64>>,
    /// What was told of each peer last.
    pub(super) told: BTreeMap<usize, PeerState>,
}

impl World {
    pub(super) fn is(&self, life: Life) -> bool {
        let seat = &self.seats[life.0];
        seat.core.is_some() && seat.incarnation == life.1
    }

    pub(super) fn round(&mut self, life: Life) {
        if !self.is(life)
            || self.seats[life.0]
                .round
                .is_none_or(|round| round > self.schedule.now)
        {
            return;
        }
        let now = self.schedule.now;
        let seat = &mut self.seats[life.0];
        seat.round = None;
        let (at, count) = seat.rounds_now;
        seat.rounds_now = (now, if at == now { count + 1 } else { 0 });
        assert!(seat.rounds_now.1 < CIRCLES, "{life:?} runs in circles");
        self.give(life.0, Input::Round);
        if let Some(core) = &self.seats[life.0].core {
            let sizes = inside::sizes(core);
            self.most.resize(sizes.len(), ("", 0));
            for (most, (what, size, limit)) in self.most.iter_mut().zip(sizes) {
                assert!(
                    size <= limit,
                    "{life:?}: {size} {what}, which may be {limit}"
                );
                *most = (what, size.max(most.1));
            }
        }
    }

    /// Plans the next round of a node.
    pub(super) fn wake(&mut self, node: usize) {
        let (began, now) = (self.began, self.schedule.now);
        let seat = &mut self.seats[node];
        let Some(due) = seat.core.as_ref().and_then(Core::due) else {
            return;
        };
        let due = due.saturating_duration_since(began);
        // Never before its time, so up to the next microsecond.
        let due = u64::try_from(due.as_nanos().div_ceil(1000)).expect("a short time");
        let due = due.max(now);
        if seat.round.is_none_or(|round| due < round) {
            seat.round = Some(due);
            let life = (node, seat.incarnation);
            self.schedule.plan_at(due, Happening::Round { life });
        }
    }

    pub(super) fn give(&mut self, node: usize, input: Input) {
        let now = self.time();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(core) = &mut self.seats[node].core else {
                return;
            };
            let outputs: Vec<Output> = core.step(now, input).collect();
            for output in outputs {
                inputs.extend(self.obey(node, output));
            }
        }
        self.wake(node);
    }

    pub(super) fn obey(&mut self, node: usize, output: Output) -> Option<Input> {
        let life = (node, self.seats[node].incarnation);
        match output {
            Output::Write { link, envelope } => {
                let end = self.seats[node].links[&link];
                let kind = std::mem::discriminant(&envelope.kind);
                (self.schedule.now, node, end.0, envelope.id, kind).hash(&mut self.print);
                let lifetime = u64::try_from(envelope.lifetime.as_micros()).expect("a short time");
                let until = self.schedule.now + lifetime;
                let side = self.side(end);
                side.waiting.push_back((until, envelope));
                self.flush_later(end);
                None
            }
            Output::Dial { dial, address, .. } => {
                self.dial(life, dial, &address);
                None
            }
            Output::Close { link } => {
                let end = self.seats[node].links[&link];
                let side = self.side(end);
                side.closing = true;
                if side.waiting.is_empty() {
                    self.schedule.plan(0, Happening::Flush { end });
                }
                None
            }
            Output::Event(event) => {
                self.note(node, event);
                None
            }
            Output::Reply { message } => {
                let number = self.seats[node].asked.remove(&message.id());
                let number = number.expect("a reply to an open request, and only one");
                let mut pages = self.book.pages();
                let note: Note = message.read().expect("the answer is a note");
                assert_eq!(note.number, number, "the reply to another request");
                assert_eq!(*message.source(), identity(pages.fate(number).to));
                pages.fate(number).answered += 1;
                None
            }
            Output::NoReply { id, error } => {
                let number = self.seats[node].asked.remove(&id);
                let number = number.unwrap_or_else(|| panic!("{id:x} is not open: {error}"));
                self.book.pages().fate(number).answered += 1;
                self.lost.insert(number);
                None
            }
            Output::Settled { to } => {
                let open = self.seats[node].unsettled.get_mut(&place(&to));
                let number = open
                    .and_then(VecDeque::pop_front)
                    .expect("it was not settled before");
                self.book.pages().fate(number).settled += 1;
                None
            }
            Output::Added(_) | Output::Removed(_) => panic!("nobody asked for that"),
        }
    }

    pub(super) fn note(&mut self, node: usize, event: Event) {
        match event {
            Event::PeerChanged { peer, old, new } => {
                (self.schedule.now, node, &peer, new.to_string()).hash(&mut self.print);
                let incarnation = self.seats[node].incarnation;
                self.history.push((
                    self.schedule.now,
                    (node, incarnation),
                    place(&peer),
                    new.clone(),
                ));
                let told = &mut self.seats[node].told;
                let before = told.insert(place(&peer), new);
                assert_eq!(before, old, "node {node} of {peer}");
            }
            Event::PeerForgotten { peer } => {
                let before = self.seats[node].told.remove(&place(&peer));
                assert!(before.is_some(), "{node} did not know {peer}");
            }
            Event::Undeliverable { id, source, .. } if source == identity(node) => {
                if let Some(number) = self.seats[node].sent.get(&id) {
                    self.book.pages().fate(*number).undeliverable += 1;
                }
            }
            Event::Malformed { problem, .. } => panic!("{node}: {problem}"),
            Event::HookFailed {
                command,
                hook,
                error,
            } => panic!("{node}: {command} {hook}: {error}"),
            _ => {}
        }
    }

    /// A node that has said goodbye goes when all its links are closed.
    pub(super) fn go_if_done(&mut self, node: usize) {
        let seat = &self.seats[node];
        if seat.leaving && seat.links.is_empty() {
            let open: Vec<u64> = seat.unsettled.values().flatten().copied().collect();
            assert!(
                open.is_empty(),
                "{node} has left, and {open:?} are not settled"
            );
            self.kill(node);
        }
    }
}

/// Every second life of a node has a new address.
pub(super) fn address((node, incarnation): Life) -> String {
    format!("10.0.0.{node}:{}", 7000 + incarnation / 2)
}
