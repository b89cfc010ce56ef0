//! What happens to slaves: they come, are connected, are lost, and go.

use std::collections::BTreeSet;
use std::time::Instant;

use super::slave::{Next, Slave, SlaveId, State};
use super::{Effect, Queue, Timer};
use crate::pool::error::Error;
use crate::pool::progress::SlaveState;

impl<T: Clone, S: Clone> Queue<T, S> {
    /// Adds a slave that is not connected yet. One of that name that was given up is forgotten.
    pub(in crate::pool) fn add(
        &mut self,
        name: String,
        labels: BTreeSet<String>,
        handle: impl FnOnce(SlaveId) -> S,
        now: Instant,
    ) -> Result<SlaveId, Error> {
        if self.closed {
            return Err(Error::Stopped);
        }
        let namesake = self.slaves.iter().find(|(_, slave)| slave.name == name);
        match namesake.map(|(id, slave)| (*id, slave.state)) {
            Some((id, State::GivenUp)) => drop(self.slaves.remove(&id)),
            Some(_) => return Err(Error::NameTaken { name }),
            None => {}
        }
        self.last_slave += 1;
        let id = SlaveId(self.last_slave);
        let slave = Slave::new(name, labels, handle(id), now);
        self.slaves.insert(id, slave);
        self.changed(id, None);
        Ok(id)
    }

    /// Begins to take a slave out: it gets no more tasks, and goes when it has none.
    pub(in crate::pool) fn remove(&mut self, name: &str) -> Result<(), Error> {
        let named = |(_, slave): &(&SlaveId, &Slave<S>)| slave.name == name && !slave.leaving;
        let Some((&id, slave)) = self.slaves.iter().find(named) else {
            let name = name.to_owned();
            return Err(Error::UnknownSlave { name });
        };
        if slave.state == State::GivenUp {
            self.gone(id);
        } else {
            self.dismiss(id);
            self.end_stranded();
        }
        Ok(())
    }

    pub(super) fn dismiss(&mut self, id: SlaveId) {
        let Some(slave) = self.slaves.get_mut(&id) else {
            return;
        };
        slave.leaving = true;
        match slave.state {
            State::Free { turn } => drop(self.free.remove(&turn)),
            State::Aside { until } => drop(self.timers.remove(&(until, Timer::Aside(id)))),
            State::Down { .. } => {}
            State::At(_) => return self.changed(id, None),
            State::Leaving | State::GivenUp => return, // that was said
        }
        self.leave(id);
        self.changed(id, None);
    }

    /// Lets a slave go that is leaving and has no task any more.
    pub(super) fn leave(&mut self, id: SlaveId) {
        if let Some(slave) = self.slaves.get_mut(&id) {
            slave.state = State::Leaving;
            let slave = slave.handle.clone();
            self.effects.push(Effect::Leave { slave });
        }
    }

    /// A slave's thread has ended, after [`Effect::Leave`].
    pub(in crate::pool) fn gone(&mut self, id: SlaveId) {
        if let Some(slave) = self.slaves.remove(&id) {
            self.effects.push(Effect::Changed {
                slave: slave.handle,
                state: SlaveState::Gone,
                why: None,
            });
        }
    }

    /// What the thread of a slave that is not connected is to do.
    pub(in crate::pool) fn next(&self, id: SlaveId) -> Next {
        match self.slaves.get(&id).map(|slave| slave.state) {
            Some(State::Down { next, .. }) => Next::Connect { at: next },
            Some(State::GivenUp) => Next::End,
            _ => Next::Leave,
        }
    }

    /// The slave was connected.
    pub(in crate::pool) fn came_up(&mut self, id: SlaveId) {
        let Some(slave) = self.slaves.get_mut(&id) else {
            return;
        };
        if matches!(slave.state, State::Down { .. }) {
            slave.trouble = None;
            self.idle(id);
            self.changed(id, None);
        }
    }

    /// An attempt to connect the slave has failed.
    pub(in crate::pool) fn missed(&mut self, id: SlaveId, why: String, now: Instant) {
        let Some(slave) = self.slaves.get_mut(&id) else {
            return;
        };
        slave.missed(why.clone(), self.connect_deadline, now);
        if slave.state == State::GivenUp {
            self.changed(id, Some(why));
            self.end_stranded();
        }
    }

    /// The connection to a slave has ended; false if the slave was given a task, whose report will say so.
    pub(in crate::pool) fn went_down(&mut self, id: SlaveId, why: String, now: Instant) -> bool {
        let Some(slave) = self.slaves.get_mut(&id) else {
            return true;
        };
        match slave.state {
            State::Free { turn } => drop(self.free.remove(&turn)),
            State::Aside { until } => drop(self.timers.remove(&(until, Timer::Aside(id)))),
            State::At(_) => return false,
            State::Down { .. } | State::Leaving | State::GivenUp => return true,
        }
        slave.down(why.clone(), now);
        self.changed(id, Some(why));
        true
    }

    /// The slave has nothing to do: it gets the next task that fits, or waits for one.
    pub(super) fn idle(&mut self, id: SlaveId) {
        let turn = self.number();
        let Some(slave) = self.slaves.get_mut(&id) else {
            return;
        };
        slave.state = State::Free { turn };
        if slave.leaving {
            return self.leave(id);
        }
        match self.lines.next_for(id, slave) {
            Some(key) => self.assign(key, id),
            None => drop(self.free.insert(turn, id)),
        }
    }

    pub(super) fn changed(&mut self, id: SlaveId, why: Option<String>) {
        if let Some(slave) = self.slaves.get(&id) {
            self.effects.push(Effect::Changed {
                slave: slave.handle.clone(),
                state: slave.state(),
                why,
            });
        }
    }
}
