//! The node's thread: it alone steps the core, which calls all hooks, and carries out what comes of it.
//!
//! It waits for nothing but the line: links are written to without waiting, dials and openings have threads of
//! their own, and sessions are dropped when they have ended.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::accept::Door;
use super::dial::Dials;
use super::keep;
use super::links::Links;
use super::peering::{Done, Session};
use super::shared::{Come, Shared, Snapshot, count};
use crate::concerns::concern::Concern;
use crate::concerns::core::{Core, Input, LinkId, Output};
use crate::concerns::error::Error;
use crate::concerns::event::Event;
use crate::concerns::identity::Identity;
use crate::concerns::store::Store;
use crate::lifecycle::catch;
use crate::protocol::Waker;

/// How many inputs are recorded before the core gets a round.
const HANDFUL: usize = 128;
/// How many rounds the core gets before what came of them is written.
const ROUNDS: usize = 128;
/// The longest sleep, after which frames are looked at that were in no hurry.
const SLEEP: Duration = Duration::from_secs(1);
/// How often the picture of the peers is made anew if only times of silence and round trips have changed.
const FRESH: Duration = Duration::from_millis(100);
/// How long neighbours get at the end to take what is queued for them.
const GOODBYE: Duration = Duration::from_secs(1);

/// All that the node's thread owns.
pub(super) struct Run {
    core: Core,
    hands: Hands,
    /// What was taken from the line and is not done with.
    come: VecDeque<Come>,
    /// The link that has brought the last message.
    reads: Option<LinkId>,
    /// The link whose reader sleeps, since this thread reads in its place.
    hushed: Option<LinkId>,
    waker: Arc<Waker>,
    /// When the peers were last shown to others, and whether they have changed since.
    shown: Instant,
    stale: bool,
    stop: Option<Instant>,
}

/// What carries out what the core wants done.
struct Hands {
    shared: Arc<Shared>,
    links: Links,
    dials: Dials,
    /// By which link each neighbour was written to last.
    ways: HashMap<Identity, LinkId>,
    settled: Vec<Identity>,
    added: VecDeque<Sender<Result<(), Error>>>,
    removed: VecDeque<Sender<Option<Box<dyn Concern>>>>,
    /// A peer went from one state to another.
    moved: bool,
    /// Events that are told when the peers are shown as they are after them.
    told: Vec<Event>,
}

impl Run {
    pub(super) fn new(shared: Arc<Shared>, core: Core, waker: Waker) -> Self {
        let hands = Hands {
            links: Links::default(),
            dials: Dials::new(shared.clone()),
            ways: HashMap::new(),
            settled: Vec::new(),
            added: VecDeque::new(),
            removed: VecDeque::new(),
            moved: false,
            told: Vec::new(),
            shared,
        };
        Self {
            core,
            hands,
            come: VecDeque::new(),
            reads: None,
            hushed: None,
            waker: Arc::new(waker),
            shown: Instant::now(),
            stale: true,
            stop: None,
        }
    }

    /// Starts the concerns, then the threads. After an error nothing runs but those that end when this is dropped.
    pub(super) fn start(
        &mut self,
        concerns: Vec<Box<dyn Concern>>,
        store: Option<Store>,
        door: Option<Door>,
    ) -> Result<(), Error> {
        self.hands.shared.is_mine();
        self.core.start(Instant::now(), concerns)?;
        let kept = store.map_or(Ok(()), |store| self.keep(store));
        let accept = |door| self.hands.dials.accept(door).map_err(Error::Thread);
        let accepts = kept.and_then(|()| door.map_or(Ok(()), accept));
        accepts.inspect_err(|_| self.step(Instant::now(), Input::Stop))
    }

    /// Starts to keep the file of peers, and knows those in it.
    fn keep(&mut self, mut store: Store) -> Result<(), Error> {
        let now = Instant::now();
        for (peer, address) in store.peers().clone() {
            if !self.know(now, peer.clone(), address) {
                store.pass_over(&peer);
            }
        }
        self.show();
        let keeper = keep::start(&self.hands.shared, store).map_err(Error::Thread)?;
        self.hands.dials.keep(keeper);
        Ok(())
    }

    /// The whole life of the thread after the start.
    pub(super) fn run(mut self) {
        while self.stop.is_none() {
            self.turn();
        }
        self.rouse();
        self.finish();
    }

    /// Takes what is there, lets the core work, carries out what comes of it; sleeps if there is nothing to do.
    fn turn(&mut self) {
        if self.come.is_empty() {
            let latest = Instant::now() + SLEEP;
            let due = self.core.due().map_or(latest, |due| due.min(latest));
            self.read_until(due);
            self.hands.shared.line.take(&mut self.come, due);
        } else {
            self.rouse();
        }
        self.work();
        self.show();
    }

    /// Waits at the link that has brought the last message, as long as nothing comes from elsewhere: it is likely to
    /// bring the next, and to read it oneself is faster than to be woken by the link's reader.
    fn read_until(&mut self, due: Instant) {
        // One that brings nothing this time, or is read by somebody else, is forgotten.
        let reads = self.reads.take();
        if self.hushed != reads {
            self.rouse();
        }
        let Some(id) = reads else {
            return;
        };
        let Hands { shared, links, .. } = &self.hands;
        let Some((_, link)) = links.link(id) else {
            return;
        };
        let mut left = false;
        let come = shared.line.wait_elsewhere(&self.waker, |has_come| {
            if let Some(mut reading) = link.take_turn() {
                reading.read(Some(due), Some(&self.waker), has_come);
                // The next message may be here before this one is done with, and need not wake the reader for that.
                reading.leave_hushed();
                left = true;
            }
        });
        if left {
            self.hushed = Some(id);
        }
        // Asked behind the leaving: whoever could not have the turn before that has said so.
        if !come || !left || !shared.asked.is_empty() {
            self.rouse();
        }
        self.reads = come.then_some(id);
    }

    /// Has the reader of a link read again.
    fn rouse(&mut self) {
        if let Some(id) = self.hushed.take()
            && let Some((_, link)) = self.hands.links.link(id)
        {
            drop(link.take_turn());
        }
    }

    fn work(&mut self) {
        let now = Instant::now();
        let handful = self.come.len().min(HANDFUL);
        for _ in 0..handful {
            if let Some(come) = self.come.pop_front() {
                self.take(now, come);
            }
        }
        self.hands.links.give_back();
        let mut now = Instant::now();
        for _ in 0..ROUNDS {
            if self.core.due().is_none_or(|due| due > now) {
                break;
            }
            self.step(now, Input::Round);
            now = Instant::now();
        }
        // Before others can know by a message what is told here.
        self.show();
        self.flush(now);
    }

    fn step(&mut self, now: Instant, input: Input) {
        for output in self.core.step(now, input) {
            self.hands.carry_out(now, output);
        }
    }

    /// Writes what was gathered, and tells the core what is written, until there is nothing more.
    fn flush(&mut self, now: Instant) {
        while self.hands.links.is_touched() {
            for (link, done) in self.hands.links.flush(now) {
                let Done { count, expired, .. } = done;
                let written = Input::Written {
                    link,
                    count,
                    expired,
                };
                self.step(now, written);
            }
        }
        let Hands {
            shared, settled, ..
        } = &mut self.hands;
        shared.room.leave(settled);
        let counts = self.core.counts();
        let set = |counter: &AtomicU64, to| counter.store(to, Ordering::Relaxed);
        set(&shared.counters.late, counts.late_replies);
        set(&shared.counters.nonsense, counts.nonsense);
    }

    fn take(&mut self, now: Instant, come: Come) {
        match come {
            // A node that stops takes nothing on; whoever waits for an answer sees it dropped.
            Come::Up { .. }
            | Come::Send { .. }
            | Come::Went { .. }
            | Come::Know { .. }
            | Come::Join { .. }
            | Come::Forget { .. }
            | Come::Add { .. }
            | Come::Remove { .. }
                if self.stop.is_some() =>
            {
                let _ = catch(|| drop(come));
            }
            Come::Up { session, dial } => self.link_up(now, session, dial),
            Come::DialFailed { dial, reason } => {
                self.hands.dials.done();
                self.step(now, Input::DialFailed { dial, reason });
            }
            Come::Frame {
                link,
                envelope,
                bytes,
                told,
            } => {
                self.hands.links.took(link, bytes);
                // Whoever waits for a reply reads for himself, if he is let.
                self.reads = (!told).then_some(link);
                self.stale = true; // somebody was heard
                self.step(now, Input::Frame { link, envelope });
            }
            Come::Malformed { link, problem } => {
                self.hands.links.took(link, 0);
                self.step(now, Input::Malformed { link, problem });
            }
            Come::Written { link } => self.hands.links.touch(link),
            Come::Down { link, reason } => self.link_down(now, link, reason),
            Come::Send { id, message } => self.step(now, Input::Send { id, message }),
            Come::Went { id, message } => self.step(now, Input::Went { id, message }),
            Come::Know {
                peer,
                address,
                answer,
            } => {
                let known = self.know(now, peer, address);
                if let Some(answer) = answer {
                    let _ = answer.send(known);
                }
            }
            Come::Join { address } => self.join(now, address),
            Come::Forget { peer, answer } => {
                if let Some(answer) = answer {
                    let _ = answer.send(self.knows(now, &peer));
                }
                self.step(now, Input::Forget { peer });
            }
            Come::Add { concern, answer } => {
                self.hands.added.push_back(answer);
                self.step(now, Input::Add { concern });
            }
            Come::Remove { command, answer } => {
                self.hands.removed.push_back(answer);
                self.step(now, Input::Remove { command });
            }
            Come::Stop { deadline } => {
                self.stop.get_or_insert(deadline);
            }
        }
    }

    fn link_up(&mut self, now: Instant, session: Session, dial: Option<u64>) {
        if dial.is_some() {
            self.hands.dials.done();
        }
        let shared = self.hands.shared.clone();
        let account = session.account.clone();
        let link = account.id;
        let hello = account.peer().cloned();
        let hello = hello.filter(|hello| self.hands.links.insert(session, hello.identity.clone()));
        let Some(hello) = hello else {
            if let Some(dial) = dial {
                let reason = "the link ended at once".to_owned();
                self.step(now, Input::DialFailed { dial, reason });
            }
            return;
        };
        log::info!("node {}: linked with {}", shared.fixed.name, hello.identity);
        count(&shared.counters.linked, 1);
        self.hands.count_links();
        self.step(now, Input::LinkUp { link, hello, dial });
        account.begin();
    }

    fn link_down(&mut self, now: Instant, link: LinkId, reason: String) {
        // One that ended before it was taken in is not known here.
        let Some((peer, session)) = self.hands.links.remove(link) else {
            return;
        };
        let Hands { shared, ways, .. } = &mut self.hands;
        log::info!(
            "node {}: the link with {peer} ended: {reason}",
            shared.fixed.name
        );
        if ways.get(&peer) == Some(&link) {
            ways.remove(&peer);
            shared.direct.write().remove(&peer);
        }
        self.step(now, Input::LinkDown { link, reason });
        drop(session); // its last thread is at its last lines
        self.hands.count_links();
    }

    /// Makes a peer known; false if there is no room.
    pub(super) fn know(&mut self, now: Instant, peer: Identity, address: Option<String>) -> bool {
        let known = peer.clone();
        self.step(now, Input::Know { peer, address });
        self.knows(now, &known)
    }

    /// Connects to whoever listens there.
    pub(super) fn join(&mut self, now: Instant, address: String) {
        self.step(now, Input::Join { address });
    }

    fn knows(&self, now: Instant, peer: &Identity) -> bool {
        let mut peers = self.core.peers(now).into_iter();
        peers.any(|known| known.identity == *peer)
    }

    /// Shows the peers to others, if they are not what they were.
    fn show(&mut self) {
        self.stale |= self.core.peers_changed();
        let now = Instant::now();
        let moved = mem::take(&mut self.hands.moved);
        if moved || self.stale && now >= self.shown + FRESH {
            self.stale = false;
            self.shown = now;
            let peers = self.core.peers(now);
            let snapshot = Arc::new(Snapshot { at: now, peers });
            let old = mem::replace(&mut *self.hands.shared.peers.write(), snapshot);
            drop(old); // without the lock
        }
        for event in self.hands.told.drain(..) {
            self.hands.shared.board.tell(event);
        }
    }

    /// Stops the concerns, says goodbye, and ends all threads as far as the time allows.
    fn finish(mut self) {
        let shared = self.hands.shared.clone();
        let deadline = self.stop.unwrap_or_else(Instant::now);
        let goodbye = deadline.min(Instant::now() + GOODBYE);
        shared.close();
        self.step(Instant::now(), Input::Stop);
        self.say_goodbye(goodbye);
        self.hands.links.close_all(Instant::now());
        while self.hands.links.len() > 0 && Instant::now() < goodbye {
            shared.line.take(&mut self.come, goodbye);
            self.work();
        }
        self.hands.moved = true;
        self.show();
        shared.ended.stop();
        drop(mem::take(&mut self.hands.links));
        let Self { core, hands, .. } = self;
        // Its concerns are code of the user, down to their destructors.
        if let Err(panicked) = catch(|| drop(core)) {
            log::error!(
                "node {}: a concern that was dropped {panicked}",
                shared.fixed.name
            );
        }
        if let Err(left) = hands.dials.join_until(deadline) {
            log::warn!("node {}: {left}", shared.fixed.name);
            *shared.left_over.lock() = left.threads;
        }
    }

    /// Writes what is queued, with a goodbye behind it.
    fn say_goodbye(&mut self, deadline: Instant) {
        loop {
            self.work();
            let now = Instant::now();
            let due = self.core.due().filter(|due| *due <= deadline);
            let is_due = due.is_some_and(|due| due <= now);
            let waits = is_due || !self.come.is_empty();
            if now >= deadline || !waits && self.hands.links.is_written() {
                return;
            }
            if !waits {
                let next = due.unwrap_or(deadline);
                self.hands.shared.line.take(&mut self.come, next);
            }
        }
    }
}

impl Hands {
    fn carry_out(&mut self, now: Instant, output: Output) {
        match output {
            Output::Write { link, envelope } => {
                if self.links.write(link, envelope, now) {
                    self.note_way(link);
                }
            }
            Output::Dial {
                dial,
                address,
                expect,
            } => self.dials.dial(dial, address, expect),
            Output::Close { link } => self.links.close(link, now),
            Output::Event(event) => self.tell(event),
            Output::Reply { message } => {
                // It is late, or was delivered by the thread that read it.
                let _ = self.shared.asked.deliver(message.id, Ok(message));
            }
            Output::NoReply { id, error } => {
                let _ = self.shared.asked.deliver(id, Err(error));
            }
            Output::Settled { to } => self.settled.push(to),
            Output::Added(added) => {
                if let Some(answer) = self.added.pop_front() {
                    let _ = answer.send(added);
                }
            }
            Output::Removed(removed) => {
                if let Some(answer) = self.removed.pop_front()
                    && let Err(unsent) = answer.send(removed)
                {
                    let _ = catch(|| drop(unsent));
                }
            }
        }
    }

    /// Whoever waits for a reply of this neighbour may read from this link.
    fn note_way(&mut self, id: LinkId) {
        let Some((peer, link)) = self.links.link(id) else {
            return;
        };
        if self.ways.get(peer) != Some(&id) {
            self.ways.insert(peer.clone(), id);
            let old = self
                .shared
                .direct
                .write()
                .insert(peer.clone(), link.clone());
            drop(old);
        }
    }

    fn tell(&mut self, event: Event) {
        let name = &self.shared.fixed.name;
        match &event {
            Event::PeerChanged { peer, old, new } => {
                self.moved = true;
                match old {
                    Some(old) => log::info!("node {name}: {peer}: {old} -> {new}"),
                    None => log::info!("node {name}: {peer}: {new}"),
                }
            }
            Event::PeerForgotten { peer } => {
                self.moved = true;
                log::info!("node {name}: {peer}: forgotten");
            }
            Event::Malformed { .. } => count(&self.shared.counters.malformed, 1),
            Event::HookFailed {
                command,
                hook,
                error,
            } => log::warn!("node {name}: {hook} of {command} failed: {error}"),
            other => log::debug!("node {name}: {other:?}"),
        }
        self.told.push(event);
    }

    fn count_links(&self) {
        let links = self.links.len();
        self.shared.counters.links.store(links, Ordering::Relaxed);
    }
}

impl Drop for Hands {
    /// Nobody waits any more for a thread that is not there.
    fn drop(&mut self) {
        self.shared.close();
        let left = self.shared.line.close();
        let _ = catch(|| drop(left));
        self.shared.direct.write().clear();
        self.shared.board.end();
        self.shared.ended.stop();
    }
}
