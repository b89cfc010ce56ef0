//! The node without threads, sockets or clocks: what comes is given to it with the time, and what
//! is to be done comes out.
//!
//! [`Core`] is its [`State`] and its concerns ([`Registry`]); `hooks` calls the concerns, `arrivals`
//! handles what has come, `departures` what goes; `links`, `dials`, `peers`, `pending`, `inbox`, `queue`, `holding` and
//! `retries` are the tables, each with its bounds. Nothing here
//! knows the time but by [`Core::step`], nothing is random, and maps are ordered where order shows: the
//! same inputs give the same outputs.

mod arrivals;
mod departures;
mod dials;
mod doubt;
mod fates;
mod holding;
mod hooks;
mod inbox;
mod links;
mod load;
mod neighbours;
#[cfg(test)]
mod network;
mod parcel;
mod peers;
mod pending;
mod queue;
mod registry;
mod retries;
#[cfg(test)]
mod scenarios;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Instant;

use super::concern::Concern;
use super::envelope::Envelope;
use super::error::{Error, RequestError};
use super::event::Event;
use super::hello::Hello;
use super::identity::{Command, Identity};
use super::message::{Message, Outgoing};
use super::peer::Peer;
use super::timing::Timing;
pub(crate) use doubt::Doubt;
use registry::Registry;
pub(crate) use state::{Counts, Find, Join, State};

/// A link, as its owner counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// What a core is made with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) identity: Identity,
    /// What is told to others; `None` if this node does not listen.
    pub(crate) address: Option<String>,
    pub(crate) timing: Timing,
    pub(crate) default_route: Option<Identity>,
    pub(crate) max_peers: usize,
    pub(crate) max_strangers: usize,
    pub(crate) max_payload: usize,
    /// Messages that wait to be written: for one neighbour, and for all.
    pub(crate) max_queued: usize,
    pub(crate) max_queued_all: usize,
    /// How many bytes they take at most, for all; for one neighbour a quarter. One message always fits if no other waits for
    /// its neighbour.
    pub(crate) max_queued_bytes: usize,
    /// Messages that are held for peers nobody knows a way to yet.
    pub(crate) max_held: usize,
    pub(crate) max_hops: u8,
}

/// Something for the core.
pub(crate) enum Input {
    /// A link has come up. `ours` if this node dialed; then `dial` is the number of the dial.
    LinkUp {
        link: LinkId,
        hello: Hello,
        dial: Option<u64>,
    },
    /// A link has ended; nothing more comes from it, and what is not [`Input::Written`] was not.
    LinkDown { link: LinkId, reason: String },
    /// A dial did not come to a link.
    DialFailed { dial: u64, reason: String },
    /// A message has come.
    Frame { link: LinkId, envelope: Envelope },
    /// Something has come that cannot be a message.
    Malformed { link: LinkId, problem: String },
    /// Of the envelopes given to this link, the oldest `count` are done with: written, but for those at the
    /// places `expired` (counted among them from 0), whose lifetime was over.
    Written {
        link: LinkId,
        count: usize,
        expired: Vec<usize>,
    },
    /// A message of the program's. `id` has [`ASKED`] set if somebody waits for its reply; it should be odd,
    /// since the numbers of what concerns send are even.
    Send { id: u64, message: Outgoing },
    /// A request of the program's that somebody waits for was written, by whoever made it, to the link with
    /// its receiver; it was never queued here, so nothing is settled.
    Went { id: u64, message: Outgoing },
    /// To know a peer, or its address.
    Know {
        peer: Identity,
        address: Option<String>,
    },
    /// To connect to whoever listens there.
    Join { address: String },
    /// To forget a peer.
    Forget { peer: Identity },
    /// To add a concern.
    Add { concern: Box<dyn Concern> },
    /// To take one out.
    Remove { command: Command },
    /// One fair round: at most 12 messages of each kind handled, concerns that are due ticked, a round of
    /// the queue given out.
    Round,
    /// The concerns are stopped, in the order of registration; a goodbye goes to all neighbours, and the
    /// links are closed.
    Stop,
}

/// Something to be done.
pub(crate) enum Output {
    /// To be written to this link, behind what was given before.
    Write { link: LinkId, envelope: Envelope },
    /// To be connected to; the answer is [`Input::LinkUp`] or [`Input::DialFailed`].
    Dial {
        dial: u64,
        address: String,
        expect: Option<Identity>,
    },
    /// To be closed, when all was written that was given before.
    Close { link: LinkId },
    /// To be told.
    Event(Event),
    /// The reply to a request of the program's.
    Reply { message: Message },
    /// There will be no reply to it.
    NoReply { id: u64, error: RequestError },
    /// A message of the program's has found its end, so another one may come for that peer.
    Settled { to: Identity },
    /// The answers to [`Input::Add`] and [`Input::Remove`], in their order.
    Added(Result<(), Error>),
    /// `None` if there is no such concern.
    Removed(Option<Box<dyn Concern>>),
}

/// Set in the number of a request that a caller waits for.
pub(crate) const ASKED: u64 = 1 << 63;

/// A node without threads.
pub(crate) struct Core {
    pub(super) state: State,
    pub(super) registry: Registry,
}

impl Core {
    /// Nothing is started yet.
    pub(crate) fn new(now: Instant, settings: Settings) -> Self {
        Self {
            state: State::new(now, settings),
            registry: Registry::default(),
        }
    }

    /// Adds and starts the concerns, in order.
    ///
    /// On an error those that had started are stopped again, in reverse.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        concerns: Vec<Box<dyn Concern>>,
    ) -> Result<(), Error> {
        self.state.clock(now);
        for concern in concerns {
            let started = self.add(concern);
            if let Err(error) = started {
                while let Some(last) = self.registry.last() {
                    self.remove(&last);
                }
                return Err(error);
            }
        }
        self.settle();
        Ok(())
    }

    /// Takes an input, and gives what is to be done for it, in order.
    pub(crate) fn step(&mut self, now: Instant, input: Input) -> std::vec::Drain<'_, Output> {
        self.state.clock(now);
        let is_round = matches!(input, Input::Round);
        match input {
            Input::LinkUp { link, hello, dial } => self.state.link_up(link, hello, dial),
            Input::LinkDown { link, reason } => self.state.link_down(link, &reason),
            Input::DialFailed { dial, reason } => self.state.dial_failed(dial, &reason),
            Input::Frame { link, envelope } => self.state.frame(link, envelope),
            Input::Malformed { link, problem } => self.state.malformed(link, problem),
            Input::Written {
                link,
                count,
                expired,
            } => self.state.written(link, count, &expired),
            Input::Send { id, message } => self.state.accept(id, message),
            Input::Went { id, message } => self.state.went(id, message),
            Input::Know { peer, address } => {
                if let Err(error) = self.state.know(&peer, address.as_deref()) {
                    log::warn!("{peer} is not known from now on: {error}");
                }
            }
            Input::Join { address } => self.state.join(address),
            Input::Forget { peer } => {
                self.state.forget(&peer);
            }
            Input::Add { concern } => {
                let added = self.add(concern);
                self.state.outputs.push(Output::Added(added));
            }
            Input::Remove { command } => {
                let removed = self.remove(&command);
                self.state.outputs.push(Output::Removed(removed));
            }
            Input::Round => self.round(),
            Input::Stop => self.stop(),
        }
        self.settle();
        if is_round {
            self.state.doubt.expect(self.due());
        }
        self.state.outputs.drain(..)
    }

    fn round(&mut self) {
        if self.state.stopped {
            return;
        }
        self.state.notice_stall();
        self.handle_arrivals();
        self.tick();
        self.state.expire();
        self.state.give_out();
    }

    /// The end: the concerns are told, what still waits is given out as far as there is room, and the
    /// neighbours get a goodbye.
    fn stop(&mut self) {
        if self.state.stopped {
            return;
        }
        self.state.stopping = true;
        self.stop_concerns();
        self.settle();
        self.state.say_goodbye();
    }

    /// When the next [`Input::Round`] has something to do: `None` if not before another input.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.state.stopped {
            return None;
        }
        let now = self.state.now;
        if self.state.is_busy() || (self.state.touched && self.registry.is_watched()) {
            return Some(now);
        }
        [self.registry.next_wake(), self.state.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// All peers, for whoever reads them on other threads.
    pub(crate) fn peers(&self, now: Instant) -> Vec<Peer> {
        let records = self.state.peers.iter();
        records.map(|record| record.snapshot(now)).collect()
    }

    /// Whether [`peers`](Self::peers) may have changed since this was last asked, but for the times in them.
    pub(crate) fn peers_changed(&mut self) -> bool {
        std::mem::take(&mut self.state.peers.changed)
    }

    /// How often something was dropped without another trace.
    pub(crate) fn counts(&self) -> Counts {
        self.state.counts
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("identity", &self.state.settings.identity)
            .finish_non_exhaustive()
    }
}
