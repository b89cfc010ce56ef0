//! What the threads of a node share.
//!
//! The node's thread owns all that is not here. There are no circles: a message loop holds this, and is held by the
//! node's thread alone, or for a moment by the line, which is emptied when it closes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use super::Stats;
use super::accept::Bell;
use super::asked::Asked;
use super::events::Board;
use super::line::Line;
use super::peering::{Peering, Session};
use super::room::Room;
use crate::concerns::concern::Concern;
use crate::concerns::core::LinkId;
use crate::concerns::envelope::Envelope;
use crate::concerns::error::Error;
use crate::concerns::hello::{Hello, RefusalCode, Secret};
use crate::concerns::identity::{Command, Identity};
use crate::concerns::message::Outgoing;
use crate::concerns::peer::Peer;
use crate::lifecycle::Stop;
use crate::protocol::{Cancel, Link};

/// How many links of one peer wait for the node's thread at most.
const WAITING: usize = 2;
/// How many addresses are remembered that have refused this node.
const REFUSALS: usize = 256;

/// Something for the node's thread.
pub(super) enum Come {
    /// A link has come up; `dial` is its number if this node dialed.
    Up {
        session: Session,
        dial: Option<u64>,
    },
    /// A dial did not come to a link.
    DialFailed {
        dial: u64,
        reason: String,
    },
    /// A message.
    Frame {
        link: LinkId,
        envelope: Envelope,
        bytes: usize,
        /// It is a reply that whoever waits for it has.
        told: bool,
    },
    /// Something that cannot be a message.
    Malformed {
        link: LinkId,
        problem: String,
    },
    /// The writer of a link has written.
    Written {
        link: LinkId,
    },
    /// A link has ended.
    Down {
        link: LinkId,
        reason: String,
    },
    /// A message of the program.
    Send {
        id: u64,
        message: Outgoing,
    },
    /// A request that its caller has written to the link with its receiver.
    Went {
        id: u64,
        message: Outgoing,
    },
    /// The rest are calls of the program. The answer is whether the peer is known then.
    Know {
        peer: Identity,
        address: Option<String>,
        answer: Option<Sender<bool>>,
    },
    Join {
        address: String,
    },
    /// The answer is whether it was known.
    Forget {
        peer: Identity,
        answer: Option<Sender<bool>>,
    },
    Add {
        concern: Box<dyn Concern>,
        answer: Sender<Result<(), Error>>,
    },
    Remove {
        command: Command,
        answer: Sender<Option<Box<dyn Concern>>>,
    },
    Stop {
        deadline: Instant,
    },
}

/// The peers, as they stood at a moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) peers: Vec<Peer>,
}

/// What a node has counted.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) links: AtomicUsize,
    pub(super) linked: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) nonsense: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            links: self.links.load(Ordering::Relaxed),
            linked: read(&self.linked),
            refused: read(&self.refused),
            sent: read(&self.sent),
            received: read(&self.received),
            expired: read(&self.expired),
            malformed: read(&self.malformed),
            late: read(&self.late),
            nonsense: read(&self.nonsense),
        }
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// What never changes in a node.
pub(super) struct Fixed {
    pub(super) hello: Hello,
    pub(super) secret: Option<Secret>,
    /// For the log.
    pub(super) name: String,
    pub(super) max_payload: usize,
    pub(super) max_hops: u8,
    pub(super) max_links: usize,
    /// How long a connect, and a handshake, may take.
    pub(super) patience: Duration,
}

pub(super) struct Shared {
    pub(super) fixed: Fixed,
    pub(super) line: Line<Come>,
    pub(super) asked: Asked,
    pub(super) room: Room,
    pub(super) board: Board,
    pub(super) peers: RwLock<Arc<Snapshot>>,
    /// By which link each neighbour was written to last; whoever waits for a reply may read there.
    pub(super) direct: RwLock<HashMap<Identity, Link<Peering>>>,
    pub(super) counters: Counters,
    /// Set when the node stops: no call is served any more.
    pub(super) stopping: Stop,
    /// Set when the node's thread is done: what is kept of the peers can be written for the last time.
    pub(super) ended: Stop,
    /// Ends dials and handshakes.
    pub(super) cancel: Cancel,
    /// Ends the accepting.
    pub(super) bell: Bell,
    /// Links, and those that are about to be.
    places: AtomicUsize,
    /// Openings of those who came by themselves.
    pub(super) arriving: AtomicUsize,
    /// How each address that was dialed has refused this node last; `None` without words.
    refusals: Mutex<HashMap<String, Option<RefusalCode>>>,
    /// How many links of those who came by themselves wait for the node's thread to take them in.
    waiting: Mutex<HashMap<Identity, usize>>,
    /// Threads that had not ended when the node did.
    pub(super) left_over: Mutex<Vec<String>>,
    run: OnceLock<ThreadId>,
    next_link: AtomicU64,
    next_message: AtomicU64,
}

impl Shared {
    pub(super) fn new(fixed: Fixed, room: Room, bell: Bell, first: u64) -> Self {
        Self {
            fixed,
            line: Line::new(),
            asked: Asked::new(first),
            room,
            board: Board::new(),
            peers: RwLock::new(Arc::new(Snapshot {
                at: Instant::now(),
                peers: Vec::new(),
            })),
            direct: RwLock::default(),
            counters: Counters::default(),
            stopping: Stop::new(),
            ended: Stop::new(),
            cancel: Cancel::new(),
            bell,
            places: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            refusals: Mutex::default(),
            waiting: Mutex::default(),
            left_over: Mutex::default(),
            run: OnceLock::new(),
            next_link: AtomicU64::new(1),
            next_message: AtomicU64::new(1),
        }
    }

    /// Says that the calling thread is the node's.
    pub(super) fn is_mine(&self) {
        let _ = self.run.set(thread::current().id());
    }

    /// Whether the calling thread is the node's: it runs a hook, or carries out what is to be done.
    pub(super) fn is_own_thread(&self) -> bool {
        self.run.get() == Some(&thread::current().id())
    }

    pub(super) fn next_link(&self) -> LinkId {
        LinkId(self.next_link.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn next_message(&self) -> u64 {
        // Odd, since those of what concerns send are even.
        self.next_message.fetch_add(2, Ordering::Relaxed)
    }

    /// The number of the peer's latest life that is known; 0 if none is.
    pub(super) fn incarnation(&self, peer: &Identity) -> u64 {
        let snapshot = self.peers.read().clone();
        let mut peers = snapshot.peers.iter();
        let known = peers.find(|known| known.identity == *peer);
        known.map_or(0, |known| known.incarnation)
    }

    /// Whether there are as many links as may be.
    pub(super) fn is_full(&self) -> bool {
        self.places.load(Ordering::Relaxed) >= self.fixed.max_links
    }

    /// A place for a link.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let more = |places| (places < self.fixed.max_links).then_some(places + 1);
        let taken = self
            .places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Place(self.clone()))
    }

    /// Room for a link of that peer until it is taken in; `None` if others wait already. The peer dials again when it
    /// hears nothing over a link, and would have one after the other here if this node's thread is held up.
    pub(super) fn wait(self: &Arc<Self>, peer: &Identity) -> Option<Waiting> {
        let mut waiting = self.waiting.lock();
        let links = waiting.entry(peer.clone()).or_default();
        (*links < WAITING).then(|| {
            *links += 1;
            Waiting(self.clone(), peer.clone())
        })
    }

    /// Notes how an address has refused this node. False if that is what it did before.
    pub(super) fn note_refusal(&self, address: String, code: Option<RefusalCode>) -> bool {
        let mut refusals = self.refusals.lock();
        if refusals.len() >= REFUSALS && !refusals.contains_key(&address) {
            refusals.clear(); // it is told once more
        }
        refusals.insert(address, code.clone()) != Some(code)
    }

    /// This address does not refuse any more.
    pub(super) fn forget_refusal(&self, address: &str) {
        self.refusals.lock().remove(address);
    }

    /// The name of a thread: the node's, cut so that the duty is always there.
    pub(super) fn thread_name(&self, duty: &str) -> String {
        format!("{}:{duty}", self.short_name())
    }

    pub(super) fn short_name(&self) -> &str {
        let name = &self.fixed.name;
        &name[..name.floor_char_boundary(8)]
    }

    /// Ends all waiting of callers, and what comes from outside.
    pub(super) fn close(&self) {
        self.stopping.stop();
        self.bell.ring();
        self.cancel.set();
        self.room.close();
        self.asked.close();
    }
}

/// A link that waits for the node's thread to take it in.
pub(super) struct Waiting(Arc<Shared>, Identity);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        if let Some(links) = waiting.get_mut(&self.1) {
            *links -= 1;
            if *links == 0 {
                waiting.remove(&self.1);
            }
        }
    }
}

/// One of the links there may be; to drop it is to make room for another.
pub(super) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}
