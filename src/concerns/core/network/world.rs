//! A network in memory: cores on a virtual clock, and connections that are slow, stall, break or lead nowhere.
//!
//! Everything that happens is an entry of one [`Schedule`], and chance comes from one seed. So the same seed gives
//! the same run. The nodes are in [`Seat`]s, joined by [`Wire`]s; here is what a test does to all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use super::super::{ASKED, Core, Input, Settings};
use super::book::{Book, COMMAND, Life, Note, Origin, Scribe, any_priority, identity};
use super::dice::Dice;
use super::inside;
use super::schedule::{Happening, SECOND, Schedule};
use super::seat::{Seat, address};
use super::wire::{CALM, End, Weather, Wire};
use crate::concerns::envelope::Envelope;
use crate::concerns::timing::Timing;
use crate::concerns::{Concern, Outgoing, Peer, PeerState};

/// What the nodes of a network are like.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    pub(super) nodes: usize,
    pub(super) timing: Timing,
    /// They tell each other of their peers.
    pub(super) exchange: bool,
    /// Node i knows nodes i + each of these.
    pub(super) knows: Vec<usize>,
    /// How many messages a concern sends by itself in one life.
    pub(super) chatter: usize,
}

/// The network.
pub(super) struct World {
    pub(super) ways: Ways,
    pub(super) weather: Weather,
    pub(super) dice: Dice,
    pub(super) book: Book,
    pub(super) began: Instant,
    pub(super) schedule: Schedule,
    pub(super) wires: BTreeMap<usize, Wire>,
    pub(super) next_wire: usize,
    pub(super) seats: Vec<Seat>,
    /// Who does not hear whom.
    pub(super) deaf: BTreeSet<(usize, usize)>,
    /// Of all that has happened.
    pub(super) print: DefaultHasher,
    pub(super) frames: u64,
    /// Requests of the program's that there will be no answer to.
    pub(super) lost: BTreeSet<u64>,
    /// Who has told when that a peer is in which state now.
    pub(super) history: Vec<(u64, Life, usize, PeerState)>,
    /// The most there was of each thing at one node.
    pub(super) most: Vec<(&'static str, usize)>,
}

impl World {
    pub(super) fn new(ways: Ways, seed: u64) -> Self {
        Self {
            seats: (0..ways.nodes).map(|_| Seat::default()).collect(),
            ways,
            weather: CALM,
            dice: Dice::new(seed),
            book: Book::default(),
            began: Instant::now(),
            schedule: Schedule::default(),
            wires: BTreeMap::new(),
            next_wire: 0,
            deaf: BTreeSet::new(),
            print: DefaultHasher::new(),
            frames: 0,
            lost: BTreeSet::new(),
            history: Vec::new(),
            most: Vec::new(),
        }
    }

    pub(super) fn time(&self) -> Instant {
        self.began + Duration::from_micros(self.schedule.now)
    }

    // What a test does to the network.

    pub(super) fn is_live(&self, node: usize) -> bool {
        self.seats[node].core.is_some() && !self.seats[node].leaving
    }

    pub(super) fn live(&self) -> Vec<usize> {
        let all = 0..self.seats.len();
        all.filter(|node| self.is_live(*node)).collect()
    }

    /// Whether that was the last life of its node, and it did not end.
    pub(super) fn lives(&self, life: Life) -> bool {
        self.is_live(life.0) && self.seats[life.0].incarnation == life.1
    }

    /// Whether its program can ask it for something.
    fn is_awake(&self, node: usize) -> bool {
        self.is_live(node) && self.seats[node].held_up <= self.schedule.now
    }

    /// Starts a node anew.
    pub(super) fn start(&mut self, node: usize) {
        if self.seats[node].core.is_some() {
            return;
        }
        let (now, ways) = (self.time(), self.ways.clone());
        let seat = &mut self.seats[node];
        seat.incarnation += 1;
        let life = (node, seat.incarnation);
        seat.links.clear();
        seat.round = None;
        seat.held_up = 0;
        seat.sent.clear();
        seat.asked.clear();
        seat.unsettled.clear();
        seat.told.clear();
        let mut core = Core::new(
            now,
            Settings {
                identity: identity(node),
                address: Some(address(life)),
                timing: ways.timing.clone(),
                default_route: None,
                max_peers: ways.nodes + 3,
                max_strangers: ways.nodes,
                max_payload: 1 << 20,
                max_queued: 32,
                max_queued_all: 256,
                max_queued_bytes: 64 << 20,
                max_held: 64,
                max_hops: 8,
            },
        );
        let mut concerns: Vec<Box<dyn Concern>> = inside::built_ins(ways.exchange);
        concerns.push(Box::new(Scribe {
            life,
            book: self.book.clone(),
            dice: Dice::new(self.dice.next()),
            others: ways.nodes,
            left: ways.chatter,
            open: BTreeMap::new(),
        }));
        core.start(self.time(), concerns)
            .expect("all concerns start");
        self.seats[node].core = Some(core);
        self.introduce(node);
        self.wake(node);
    }

    /// Tells a node of those it has to know and does not, or not by their present addresses.
    pub(super) fn introduce(&mut self, node: usize) {
        let peers = self.ways.knows.clone().into_iter();
        let nodes = self.ways.nodes;
        for peer in peers.map(|step| (node + step) % nodes) {
            let incarnation = self.seats[peer].incarnation.max(1);
            let address = Some(address((peer, incarnation)));
            let known = self
                .known(node, peer)
                .is_some_and(|known| known.state.is_reached() || known.address == address);
            if peer != node && self.is_awake(node) && !known {
                let peer = identity(peer);
                self.give(node, Input::Know { peer, address });
            }
        }
    }

    /// A node ends, without a word.
    pub(super) fn kill(&mut self, node: usize) {
        if self.seats[node].core.take().is_some() {
            self.seats[node].leaving = false;
            let ends: Vec<End> = self.seats[node].links.values().copied().collect();
            for (wire, _) in ends {
                self.break_wire(wire);
            }
        }
    }

    /// A node says goodbye and ends.
    pub(super) fn leave(&mut self, node: usize) {
        if self.is_awake(node) {
            self.give(node, Input::Stop);
            let seat = &mut self.seats[node];
            seat.leaving = true;
            assert!(
                seat.asked.is_empty(),
                "{node} stops: {:x?} are not answered",
                seat.asked
            );
            let life = (node, seat.incarnation);
            self.schedule.plan(5 * SECOND, Happening::Quit { life });
            self.go_if_done(node);
        }
    }

    /// A node does nothing for a while.
    pub(super) fn hold_up(&mut self, node: usize, span: u64) {
        self.seats[node].held_up = self.schedule.now + span;
    }

    pub(super) fn break_any(&mut self) {
        let wires: Vec<usize> = self.wires.keys().copied().collect();
        if let Some(wire) = self.dice.pick(&wires) {
            self.break_wire(*wire);
        }
    }

    /// Cuts the network: nothing goes from one region to another.
    pub(super) fn cut(&mut self, regions: u64) {
        for seat in &mut self.seats {
            seat.region = self.dice.below(regions);
        }
    }

    /// From now on a node does not hear another, whatever connections there are.
    pub(super) fn deafen(&mut self, deaf: usize, to: usize) {
        self.deaf.insert((deaf, to));
    }

    /// From now on two nodes do not hear each other.
    pub(super) fn part(&mut self, a: usize, b: usize) {
        self.deafen(a, b);
        self.deafen(b, a);
    }

    /// Cuts one node off from all others.
    pub(super) fn isolate(&mut self, node: usize) {
        self.seats[node].region = u64::MAX;
    }

    pub(super) fn heal(&mut self) {
        self.deaf.clear();
        for seat in &mut self.seats {
            seat.region = 0;
        }
    }

    /// The program of a node sends something.
    pub(super) fn send(
        &mut self,
        node: usize,
        to: usize,
        answer: bool,
        lifetime: u64,
    ) -> Option<u64> {
        if !self.is_awake(node) || node == to {
            return None;
        }
        let origin = if answer {
            Origin::Caller
        } else {
            Origin::Program
        };
        let life = (node, self.seats[node].incarnation);
        let number = self.book.pages().open(life, to, origin);
        let message = Outgoing::request(&identity(to), COMMAND, &Note::new(number, answer));
        let message = message
            .expect("it can be made")
            .lifetime(Duration::from_micros(lifetime));
        let message = message.priority(any_priority(&mut self.dice));
        let seat = &mut self.seats[node];
        seat.next_id += 1;
        let mut id = seat.next_id * 2 + 1;
        if answer {
            id |= ASKED;
            seat.asked.insert(id, number);
        }
        seat.sent.insert(id, number);
        seat.unsettled.entry(to).or_default().push_back(number);
        self.give(node, Input::Send { id, message });
        Some(number)
    }

    pub(super) fn find(&mut self, node: usize, target: usize) {
        if self.is_awake(node) {
            let (target, exclude) = (identity(target), Vec::new());
            let now = self.time();
            let core = self.seats[node].core.as_mut();
            let outputs = core.map(|core| core.look_for(now, target, exclude));
            let outputs = outputs.into_iter().flatten();
            let inputs: Vec<Input> = outputs.filter_map(|it| self.obey(node, it)).collect();
            for input in inputs {
                self.give(node, input);
            }
            self.wake(node);
        }
    }

    pub(super) fn forget(&mut self, node: usize, peer: usize) {
        if self.is_awake(node) {
            let peer = identity(peer);
            self.give(node, Input::Forget { peer });
        }
    }

    /// A neighbour sends a node something that its core has not made.
    pub(super) fn forge(&mut self, neighbour: usize, node: usize, envelope: Envelope) {
        let mut links = self.seats[node].links.iter();
        let is_from = |(wire, end): End| self.wires[&wire].ends[1 - end].life.0 == neighbour;
        let link = links.find(|(_, end)| is_from(**end));
        let (link, _) = link.expect("they are neighbours");
        let link = *link;
        self.give(node, Input::Frame { link, envelope });
    }

    /// What a node knows of another.
    fn known(&self, node: usize, peer: usize) -> Option<Peer> {
        let core = self.seats[node].core.as_ref()?;
        inside::peer(core, &identity(peer), self.time())
    }

    /// How a node stands with another.
    pub(super) fn state(&self, node: usize, peer: usize) -> Option<PeerState> {
        self.known(node, peer).map(|peer| peer.state)
    }

    pub(super) fn reaches(&self, node: usize, peer: usize) -> bool {
        self.state(node, peer)
            .is_some_and(|state| state.is_reached())
    }

    /// Whether the program was told that a request has no answer.
    pub(super) fn lost(&self, number: u64) -> bool {
        self.lost.contains(&number)
    }

    /// Of all that has happened so far.
    pub(super) fn fingerprint(&self) -> u64 {
        self.print.finish()
    }

    /// Messages of live programs that have not found their end.
    pub(super) fn unsettled(&self) -> Vec<u64> {
        let live = self.seats.iter().filter(|seat| seat.core.is_some());
        live.flat_map(|seat| seat.unsettled.values().flatten().copied())
            .collect()
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, span: u64) {
        let until = self.schedule.now + span;
        while let Some((number, happening)) = self.schedule.next(until) {
            self.happen(number, happening);
        }
        self.schedule.now = until;
    }

    // What happens by itself.

    fn happen(&mut self, number: u64, happening: Happening) {
        let node = match &happening {
            Happening::Round { life }
            | Happening::Failed { life, .. }
            | Happening::Quit { life } => life.0,
            Happening::Up { end, .. }
            | Happening::Flush { end }
            | Happening::Arrive { end, .. }
            | Happening::Down { end } => {
                let Some(wire) = self.wires.get(&end.0) else {
                    return;
                };
                wire.ends[end.1].life.0
            }
        };
        let held_up = self.seats[node].held_up;
        if held_up > self.schedule.now {
            // All of them come at the same time, in their order.
            return self.schedule.put_off(held_up, number, happening);
        }
        match happening {
            Happening::Round { life } => self.round(life),
            Happening::Up { end, dial } => self.up(end, dial),
            Happening::Failed { life, dial } => {
                if self.is(life) {
                    let reason = "nobody is there".into();
                    self.give(life.0, Input::DialFailed { dial, reason });
                }
            }
            Happening::Flush { end } => self.flush(end),
            Happening::Arrive { end, envelope } => self.arrive(end, *envelope),
            Happening::Down { end } => self.down(end, "the connection was lost"),
            Happening::Quit { life } => {
                if self.is(life) {
                    self.kill(life.0);
                }
            }
        }
    }
}
