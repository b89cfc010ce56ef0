//! The thread of one slave: connects it, does with it what the queue says, tells the queue what came of it.
//!
//! It alone talks to its slave, so a slave is asked one thing at a time. It holds no lock while it does.

use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::core::{Core, Order, Peer, Queue, Work};
use super::error::chain;
use super::queue::{Next, Report};
use crate::lifecycle::Stop;
use crate::master::{Error, Missed};
use crate::task::{Loss, Outcome};

/// What a slave's thread holds.
pub(super) struct Driver {
    pub(super) core: Arc<Core>,
    pub(super) peer: Arc<Peer>,
    pub(super) orders: Receiver<Order>,
}

impl Driver {
    /// Lives until the slave has left or was given up.
    pub(super) fn run(self) {
        let (id, connection) = (self.peer.id, &self.peer.connection);
        while self.connect() && self.work() {}
        if self.core.look(|queue| queue.next(id)) == Next::End {
            return log::warn!("slave {}: given up", self.peer.name());
        }
        if connection.is_connected() {
            // Whatever it answers, the pool has nothing to do with it any more.
            if let Err(error) = connection.disconnect_within(self.core.settings.grace) {
                log::warn!("slave {}: {}", self.peer.name(), chain(&error));
            }
        }
        self.core.step(|queue, _| queue.gone(id));
    }

    /// Connects the slave, trying again as the queue says; false if it is to leave or given up.
    fn connect(&self) -> bool {
        let id = self.peer.id;
        while let Next::Connect { at } = self.core.look(|queue| queue.next(id)) {
            match self.orders.recv_deadline(at) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return false, // there is but one order for a slave that is not connected
            }
            match self.peer.connection.connect_within(self.core.patience()) {
                Ok(()) | Err(Error::AlreadyConnected { .. }) => {
                    self.core.step(|queue, _| queue.came_up(id));
                    return true;
                }
                Err(Error::Stopped) => self.core.close(),
                Err(error) => {
                    let why = chain(&error);
                    log::debug!("slave {}: not connected: {why}", self.peer.name());
                    self.core.step(|queue, now| queue.missed(id, why, now));
                }
            }
        }
        false
    }

    /// Does what comes; false if the slave is to leave, true if it is not connected any more.
    fn work(&self) -> bool {
        let id = self.peer.id;
        let ended = self.peer.connection.ended();
        let mut kept = None;
        loop {
            let Some(order) = kept.take().or_else(|| self.wait(&ended)) else {
                return true;
            };
            let Order::Run(key, work) = order else {
                return false;
            };
            let report = self.carry_out(&work);
            let lost = matches!(report, Report::Lost(_) | Report::NotBegun(_));
            if matches!(report, Report::Lost(Loss::Stopped)) {
                self.core.close(); // before the report, which would have the task done elsewhere
            }
            let report = |queue: &mut Queue, now| queue.report(id, key, report, now);
            kept = self.core.step_for(id, report);
            if lost {
                return true; // an order to leave is seen without: there is nothing to connect
            }
        }
    }

    /// The next order; none if the connection has ended.
    fn wait(&self, ended: &Stop) -> Option<Order> {
        let order = select! {
            recv(self.orders) -> order => order,
            recv(ended.channel()) -> _ => {
                let (id, why) = (self.peer.id, "the connection has ended".to_owned());
                if self.core.step(|queue, now| queue.went_down(id, why, now)) {
                    return None;
                }
                // It was given a task just now, and learns of the end when it offers it.
                self.orders.recv()
            }
        };
        Some(order.unwrap_or(Order::Leave))
    }

    /// Gives the slave a task and waits for its end.
    fn carry_out(&self, work: &Work) -> Report {
        let connection = &self.peer.connection;
        let (id, limit) = (self.core.ids.next(), self.core.patience());
        let (missed, error) = match connection.offer(id, work.data.clone(), limit) {
            Ok(task) => {
                self.core.started(work, &self.peer);
                return match task.into_outcome() {
                    Some(Outcome::Completed(result)) => Report::Completed(result),
                    Some(Outcome::Failed(result)) => Report::Failed(result),
                    Some(Outcome::Lost(loss)) => self.lost(loss, 0),
                    None => self.lost(Loss::Unanswered, 1), // not so: it was accepted
                };
            }
            Err(missed) => missed,
        };
        match missed {
            Missed::Unanswered => {
                log::debug!("slave {}: {}", self.peer.name(), chain(&error));
                self.lost(Loss::Unanswered, 1)
            }
            Missed::Away => {
                connection.give_up(0);
                Report::NotBegun(chain(&error))
            }
            Missed::Busy => Report::Busy,
            Missed::Refused => Report::Refused(error),
            Missed::Unsent => Report::Unsent(error),
        }
    }

    fn lost(&self, loss: Loss, unanswered: usize) -> Report {
        self.peer.connection.give_up(unanswered);
        Report::Lost(loss)
    }
}
