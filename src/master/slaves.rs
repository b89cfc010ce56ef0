//! The name and token maps: which slaves there are, where each stands, and which tasks are open there.
//!
//! One mutex guards all of it, so a name is reserved, a token registered and a
//! task claimed in one step. It is private to this file and held for a few map
//! operations at a time: what has to be done about a change (ending tasks,
//! requests, hooks) is returned to the caller as a value.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::error::Error;
use super::job::Job;
use crate::lifecycle::Stop;
use crate::listener::Source;
use crate::liveness::Liveness;
use crate::wire::address::Address;
use crate::wire::token::Token;

/// How long the token of a disconnected slave stays good: a beat may be in flight,
/// and a refused one would end the heartbeat of a Python slave for good.
const RELEASED_FOR: Duration = Duration::from_secs(10);

/// How long a given-up slave that was heard of again may work on what it was given, before it is told.
const OWED_FOR: Duration = Duration::from_secs(30);

/// How many given-up slaves are remembered, so that they can be told when they come back.
const GIVEN_UP_LIMIT: usize = 1024;

/// Number of a connection within its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u64);

/// What never changes about a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: Id,
    pub(super) name: String,
    /// The name as a source of the results listener.
    pub(super) source: Source,
    pub(super) address: Address,
    pub(super) token: Token,
}

/// Where a connection whose token is known stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The connect request is under way; the token is good already.
    Connecting,
    Connected,
    /// The disconnect request is under way.
    Leaving {
        /// Whether it was connected, and not given up before.
        up: bool,
    },
    /// Lost, or the connect or disconnect was never answered: it may still believe it is connected.
    GivenUp {
        since: Instant,
    },
    /// Disconnected by agreement.
    Released {
        until: Instant,
    },
}

impl Phase {
    /// Whether the slave counts as connected.
    fn is_up(self) -> bool {
        matches!(self, Self::Connected | Self::Leaving { up: true })
    }
}

struct Entry {
    peer: Arc<Peer>,
    phase: Phase,
    open: HashMap<Uuid, Arc<Job>>,
    /// Reports that may still come for tasks that ended as lost, since it was connected last.
    owed: usize,
    /// When it was heard of again after it was given up.
    revived: Option<Instant>,
    /// Stopped when the connection that was made last has ended.
    ended: Stop,
}

impl Entry {
    fn leave(&mut self) {
        let up = self.phase.is_up();
        self.phase = Phase::Leaving { up };
    }

    /// Whether it may still be at work on a task that was given up with it. A Python slave that is
    /// disconnected while it works is unusable afterwards.
    fn is_owed(&self, now: Instant) -> bool {
        let may_work = |revived: Instant| now.saturating_duration_since(revived) <= OWED_FOR;
        self.owed > 0 && self.revived.is_none_or(may_work)
    }

    fn take_open(&mut self) -> Vec<Arc<Job>> {
        self.open.drain().map(|(_, job)| job).collect()
    }
}

struct Maps {
    /// Connections that are connecting, connected or leaving, by name.
    names: HashMap<String, Id>,
    /// Everyone whose token is good.
    tokens: HashMap<Token, Id>,
    entries: HashMap<Id, Entry>,
    liveness: Liveness<Id>,
}

impl Maps {
    fn remove(&mut self, id: Id) {
        if let Some(entry) = self.entries.remove(&id) {
            entry.ended.stop();
            self.tokens.remove(&entry.peer.token);
            self.unname(id, &entry.peer.name);
        }
        self.liveness.forget(id);
    }

    /// Frees the name if it is this connection's own.
    fn unname(&mut self, id: Id, name: &str) {
        if self.names.get(name) == Some(&id) {
            self.names.remove(name);
        }
    }

    /// Ends the connection in `phase`; the tasks that were open there.
    fn end(&mut self, id: Id, phase: Phase) -> Vec<Arc<Job>> {
        self.liveness.forget(id);
        let Some(entry) = self.entries.get_mut(&id) else {
            return Vec::new();
        };
        entry.phase = phase;
        entry.ended.stop();
        let (open, peer) = (entry.take_open(), entry.peer.clone());
        self.unname(id, &peer.name);
        open
    }

    /// Ends a connection of which the slave does not know; the tasks that were open there.
    fn give_up(&mut self, id: Id, now: Instant) -> Vec<Arc<Job>> {
        let open = self.end(id, Phase::GivenUp { since: now });
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.owed += open.len();
        }
        open
    }

    fn phase(&self, id: Id) -> Option<Phase> {
        self.entries.get(&id).map(|entry| entry.phase)
    }
}

/// A slave that was lost, and the tasks it took with it.
pub(super) struct Lost {
    pub(super) peer: Arc<Peer>,
    pub(super) silent: Duration,
    pub(super) open: Vec<Arc<Job>>,
}

/// The master's name and token maps.
pub(super) struct Slaves {
    maps: Mutex<Maps>,
}

impl Slaves {
    pub(super) fn new(tolerance: Duration) -> Self {
        let maps = Maps {
            names: HashMap::new(),
            tokens: HashMap::new(),
            entries: HashMap::new(),
            liveness: Liveness::new(tolerance),
        };
        Self {
            maps: Mutex::new(maps),
        }
    }

    /// Whether a connected slave, or one that is connecting, has the name.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        self.maps.lock().names.contains_key(name)
    }

    /// The connected slave of that name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Peer>> {
        let maps = self.maps.lock();
        let entry = maps.entries.get(maps.names.get(name)?)?;
        entry.phase.is_up().then(|| entry.peer.clone())
    }

    pub(super) fn is_connected(&self, id: Id) -> bool {
        self.maps.lock().phase(id).is_some_and(Phase::is_up)
    }

    /// How many slaves are connected.
    pub(super) fn connected(&self) -> usize {
        let maps = self.maps.lock();
        maps.entries
            .values()
            .filter(|entry| entry.phase.is_up())
            .count()
    }

    /// Reserves the name and makes the token good, before the connect request is sent.
    ///
    /// True if the slave may still believe that it is connected, from an earlier time.
    pub(super) fn reserve(&self, peer: &Arc<Peer>) -> Result<bool, Error> {
        let name = || peer.name.clone();
        let mut maps = self.maps.lock();
        let given_up = match maps.phase(peer.id) {
            Some(Phase::Connected) => return Err(Error::AlreadyConnected { name: name() }),
            Some(Phase::Connecting | Phase::Leaving { .. }) => {
                return Err(Error::InProgress { name: name() });
            }
            Some(Phase::GivenUp { .. }) => true,
            Some(Phase::Released { .. }) | None => false,
        };
        if maps.names.contains_key(&peer.name) {
            return Err(Error::NameTaken { name: name() });
        }
        maps.names.insert(name(), peer.id);
        maps.tokens.insert(peer.token.clone(), peer.id);
        let before = maps.entries.get(&peer.id);
        let entry = Entry {
            peer: peer.clone(),
            phase: Phase::Connecting,
            open: HashMap::new(),
            owed: before.map_or(0, |entry| entry.owed),
            revived: before.and_then(|entry| entry.revived),
            ended: Stop::new(),
        };
        maps.entries.insert(peer.id, entry);
        Ok(given_up)
    }

    /// The slave accepted; it is watched from now on. False if all were forgotten meanwhile.
    pub(super) fn connected_now(&self, id: Id, now: Instant) -> bool {
        let mut maps = self.maps.lock();
        let Some(entry) = maps.entries.get_mut(&id) else {
            return false;
        };
        entry.phase = Phase::Connected;
        entry.owed = 0;
        entry.revived = None;
        maps.liveness.watch(id, now);
        true
    }

    /// The slave does not know us: neither name nor token are needed any more.
    pub(super) fn remove(&self, id: Id) {
        self.maps.lock().remove(id);
    }

    /// Nobody knows whether the slave believes it is connected: its token stays good.
    pub(super) fn give_up(&self, id: Id, now: Instant) -> Vec<Arc<Job>> {
        self.maps.lock().give_up(id, now)
    }

    /// Gives up a connected slave of its own accord, one that may have taken `unanswered` offers with it.
    pub(super) fn drop_connected(&self, id: Id, unanswered: usize, now: Instant) -> Vec<Arc<Job>> {
        let mut maps = self.maps.lock();
        if maps.phase(id) != Some(Phase::Connected) {
            return Vec::new();
        }
        let open = maps.give_up(id, now);
        if let Some(entry) = maps.entries.get_mut(&id) {
            entry.owed += unanswered;
        }
        open
    }

    /// Whether a slave that has just answered may still be at work on a task that was given up with it.
    pub(super) fn owes(&self, id: Id, now: Instant) -> bool {
        let mut maps = self.maps.lock();
        let entry = maps.entries.get_mut(&id);
        entry.is_some_and(|entry| {
            entry.revived.get_or_insert(now);
            entry.is_owed(now)
        })
    }

    /// Stopped when the connection that was made last has ended.
    pub(super) fn ended(&self, id: Id) -> Stop {
        let maps = self.maps.lock();
        let entry = maps.entries.get(&id);
        entry.map_or_else(Stop::stopped, |entry| entry.ended.clone())
    }

    /// When a connected slave was last heard of.
    pub(super) fn last_beat(&self, id: Id) -> Option<Instant> {
        self.maps.lock().liveness.last(id)
    }

    /// Begins a disconnect, of a slave that is connected or was given up.
    pub(super) fn leave(&self, peer: &Peer) -> Result<(), Error> {
        let mut maps = self.maps.lock();
        let name = || peer.name.clone();
        let Some(entry) = maps.entries.get_mut(&peer.id) else {
            return Err(Error::NotConnected { name: name() });
        };
        match entry.phase {
            Phase::Connected | Phase::GivenUp { .. } => {}
            Phase::Connecting | Phase::Leaving { .. } => {
                return Err(Error::InProgress { name: name() });
            }
            Phase::Released { .. } => return Err(Error::NotConnected { name: name() }),
        }
        entry.leave();
        Ok(())
    }

    /// The slave was not disconnected: all is as it was.
    pub(super) fn stay(&self, id: Id, now: Instant) {
        let mut maps = self.maps.lock();
        match maps.entries.get_mut(&id) {
            Some(entry) if entry.phase.is_up() => entry.phase = Phase::Connected,
            _ => drop(maps.give_up(id, now)), // nothing is open at a slave that was given up before
        }
    }

    /// The slave is disconnected; the tasks that were open there.
    pub(super) fn released(&self, id: Id, now: Instant) -> Vec<Arc<Job>> {
        self.maps.lock().end(
            id,
            Phase::Released {
                until: now + RELEASED_FOR,
            },
        )
    }

    /// The slave said that it does not know us; the tasks that were open there, if we thought it did.
    pub(super) fn forgotten(&self, id: Id) -> Option<Vec<Arc<Job>>> {
        let mut maps = self.maps.lock();
        if maps.phase(id) != Some(Phase::Connected) {
            return None;
        }
        let open = maps.entries.get_mut(&id).map(Entry::take_open);
        maps.remove(id);
        open
    }

    /// Gives up everyone silent for too long, and forgets what need not be remembered any more.
    pub(super) fn sweep(&self, now: Instant) -> Vec<Lost> {
        let mut maps = self.maps.lock();
        let mut lost = Vec::new();
        for (id, silent) in maps.liveness.overdue(now) {
            // One who is leaving is dealt with by the thread that disconnects it.
            if maps.phase(id) == Some(Phase::Connected) {
                let open = maps.give_up(id, now);
                lost.extend(maps.entries.get(&id).map(|entry| Lost {
                    peer: entry.peer.clone(),
                    silent,
                    open,
                }));
            }
        }
        let mut given_up: Vec<(Instant, Id)> = Vec::new();
        let mut over: Vec<Id> = Vec::new();
        for (id, entry) in &maps.entries {
            match entry.phase {
                Phase::Released { until } if until <= now => over.push(*id),
                Phase::GivenUp { since } if entry.revived.is_none() => given_up.push((since, *id)),
                _ => {}
            }
        }
        given_up.sort_unstable();
        let excess = given_up.len().saturating_sub(GIVEN_UP_LIMIT);
        over.extend(given_up.iter().take(excess).map(|(_, id)| *id));
        for id in over {
            maps.remove(id);
        }
        lost
    }

    /// Given-up slaves that were heard of again and can be told; each is leaving from now on.
    pub(super) fn take_revived(&self, now: Instant) -> Vec<Arc<Peer>> {
        self.take_leaving(|entry| {
            let given_up = matches!(entry.phase, Phase::GivenUp { .. });
            given_up && entry.revived.is_some() && !entry.is_owed(now)
        })
    }

    /// Everyone to say goodbye to at the end; each is leaving from now on.
    pub(super) fn take_connected(&self) -> Vec<Arc<Peer>> {
        self.take_leaving(|entry| entry.phase == Phase::Connected)
    }

    fn take_leaving(&self, who: impl Fn(&Entry) -> bool) -> Vec<Arc<Peer>> {
        let mut maps = self.maps.lock();
        let leaving = maps.entries.values_mut().filter(|entry| who(entry));
        leaving
            .map(|entry| {
                entry.leave();
                entry.peer.clone()
            })
            .collect()
    }

    /// Forgets everyone; the tasks that were open anywhere.
    pub(super) fn clear(&self) -> Vec<(Arc<Peer>, Vec<Arc<Job>>)> {
        let mut maps = self.maps.lock();
        let open = maps
            .entries
            .values_mut()
            .map(|entry| (entry.peer.clone(), entry.take_open()))
            .collect();
        let ids: Vec<Id> = maps.entries.keys().copied().collect();
        for id in ids {
            maps.remove(id);
        }
        open
    }

    /// Whose token it is, if it is good. Whoever shows it is alive.
    pub(super) fn heard(&self, token: &Token, now: Instant) -> Option<Id> {
        let mut maps = self.maps.lock();
        let id = *maps.tokens.get(token)?;
        maps.liveness.heard(id, now);
        if let Some(entry) = maps.entries.get_mut(&id)
            && matches!(entry.phase, Phase::GivenUp { .. })
        {
            entry.revived.get_or_insert(now);
        }
        Some(id)
    }

    /// Notes a task as open at its slave, before it is sent there.
    pub(super) fn open(&self, peer: &Peer, job: &Arc<Job>) -> Result<(), Error> {
        let mut maps = self.maps.lock();
        match maps.entries.get_mut(&peer.id) {
            Some(entry) if entry.phase == Phase::Connected => {
                entry.open.insert(job.id(), job.clone());
                Ok(())
            }
            _ => Err(Error::NotConnected {
                name: peer.name.clone(),
            }),
        }
    }

    /// Takes an open task away from its slave, because it was reported or for
    /// another reason. Only one caller gets it.
    pub(super) fn claim(&self, id: Id, task: Uuid) -> Option<(Source, Arc<Job>)> {
        let mut maps = self.maps.lock();
        let entry = maps.entries.get_mut(&id)?;
        let Some(job) = entry.open.remove(&task) else {
            entry.owed = entry.owed.saturating_sub(1);
            return None;
        };
        Some((entry.peer.source.clone(), job))
    }

    /// Takes the open task away from a slave that has just one.
    pub(super) fn claim_only(&self, id: Id) -> Option<(Source, Arc<Job>)> {
        let mut maps = self.maps.lock();
        let entry = maps
            .entries
            .get_mut(&id)
            .filter(|entry| entry.open.len() == 1)?;
        let job = entry.take_open().pop()?;
        Some((entry.peer.source.clone(), job))
    }

    /// How many tasks are open at the slave.
    pub(super) fn open_count(&self, id: Id) -> usize {
        self.maps
            .lock()
            .entries
            .get(&id)
            .map_or(0, |entry| entry.open.len())
    }
}
