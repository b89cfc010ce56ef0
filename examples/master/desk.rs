//! Between input, pool and output: one thread takes the orders, hands the tasks to the pool and tells how they end.
//!
//! The pool decides who does what and when. What is left to the desk is what this command promises
//! beyond it: a slave that was given up is tried again when a task is for it, and every now and then; one that
//! is let go has done its tasks before; and a task that takes too long is lost.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use interplay::master;
use interplay::pool::{
    Error, Job, JobError, Observer, Options, Pool, SlaveChange, SlaveState, TaskEnded, TaskStarted,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::chain;

/// How many orders may be open; beyond it, the next one waits.
const OPEN: usize = 1024;
/// How often a slave that is gone is looked for.
const LOOK_SPAN: Duration = Duration::from_secs(2);
/// How often it is seen to what is due.
const TICK: Duration = Duration::from_millis(200);

/// A line of the input.
pub(super) struct Order {
    pub(super) line: u64,
    /// None for any.
    pub(super) slave: Option<String>,
    /// None for a disconnect.
    pub(super) data: Option<Value>,
}

/// A task that has ended.
#[derive(Serialize)]
pub(super) struct Ended<'order> {
    slave: Option<&'order str>,
    status: &'static str,
    data: &'order Value,
    result: Value,
}

enum Event {
    Ordered(Order),
    /// There are no more orders.
    AllOrdered,
    Started(Uuid, String),
    Ended(Uuid, Option<String>, Result<Value, JobError>),
    Changed(String, SlaveState, Option<String>),
    /// The master was shut down.
    Stopped,
}

/// Tells the desk what happens.
#[derive(Clone)]
pub(super) struct Bell {
    events: Sender<Event>,
    /// Holds a token for each open order.
    open: Sender<()>,
}

impl Bell {
    /// Gives an order; waits while too many are open.
    pub(super) fn order(&self, order: Order) {
        let _ = self.open.send(()); // fails when the desk has ended, and so does the next
        self.ring(Event::Ordered(order));
    }

    pub(super) fn all_ordered(&self) {
        self.ring(Event::AllOrdered);
    }

    pub(super) fn stopped(&self) {
        self.ring(Event::Stopped);
    }

    fn ring(&self, event: Event) {
        let _ = self.events.send(event); // fails when the desk has ended
    }
}

impl Observer for Bell {
    fn slave_changed(&self, change: &SlaveChange<'_>) {
        let why = change.why.map(str::to_owned);
        self.ring(Event::Changed(change.slave.to_owned(), change.state, why));
    }

    fn task_started(&self, started: &TaskStarted<'_>) {
        self.ring(Event::Started(started.id, started.slave.to_owned()));
    }

    fn task_ended(&self, ended: &TaskEnded<'_>) {
        let result = ended.result.cloned().map_err(Clone::clone);
        self.ring(Event::Ended(
            ended.id,
            ended.slave.map(str::to_owned),
            result,
        ));
    }
}

/// What comes in at a desk.
pub(super) struct Tray {
    events: Receiver<Event>,
    open: Receiver<()>,
}

/// The two ends of what goes to a desk.
pub(super) fn tray() -> (Bell, Tray) {
    let (events, open) = (unbounded(), bounded(OPEN));
    let bell = Bell {
        events: events.0,
        open: open.0,
    };
    let tray = Tray {
        events: events.1,
        open: open.1,
    };
    (bell, tray)
}

#[derive(Default)]
struct Slave {
    /// Its address too.
    name: String,
    /// Why it was given up, if it was.
    failure: Option<String>,
    /// When it is looked for again.
    look: Option<Instant>,
    /// Whether it can be connected is being found out.
    trying: bool,
    connected: bool,
    /// It was told to leave and has not gone yet.
    leaving: bool,
    /// It is at a task that took too long.
    stuck: bool,
    /// What is for it and cannot begin yet.
    waiting: VecDeque<Order>,
}

/// A task that the pool has.
struct Open {
    order: Order,
    job: Job,
    begun: bool,
    /// When it is lost, if it has not ended.
    due: Option<Instant>,
    /// All slaves have been tried for it.
    tried: bool,
}

pub(super) struct Desk<Report> {
    pool: Arc<Pool>,
    tray: Tray,
    slaves: Vec<Slave>,
    open: HashMap<Uuid, Open>,
    /// Tasks for any slave that wait until one has gone, to be connected again.
    anyone: VecDeque<Order>,
    timeout: Option<Duration>,
    report: Report,
}

impl<Report: FnMut(&Ended<'_>)> Desk<Report> {
    /// `timeout` is how long a task may run, `report` is called for each that ends.
    pub(super) fn new(
        pool: Arc<Pool>,
        tray: Tray,
        slaves: &[&str],
        timeout: Option<Duration>,
        report: Report,
    ) -> Self {
        let slave = |name: &&str| Slave {
            name: (*name).to_owned(),
            trying: true,
            ..Slave::default()
        };
        Self {
            pool,
            tray,
            slaves: slaves.iter().map(slave).collect(),
            open: HashMap::new(),
            anyone: VecDeque::new(),
            timeout,
            report,
        }
    }

    /// Works until all orders have ended, or the master has.
    pub(super) fn run(mut self) {
        let mut all_ordered = false;
        while !all_ordered || !self.is_idle() {
            match self.tray.events.recv_timeout(TICK) {
                Ok(Event::Ordered(order)) => self.take(order),
                Ok(Event::AllOrdered) => all_ordered = true,
                Ok(Event::Started(id, slave)) => self.started(id, &slave),
                Ok(Event::Ended(id, slave, result)) => self.ended(id, slave, result),
                Ok(Event::Changed(slave, state, why)) => self.changed(&slave, state, why),
                Ok(Event::Stopped) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.see_to_what_is_due();
        }
        let mut left: Vec<Order> = self.anyone.drain(..).collect();
        left.extend(self.open.drain().map(|(_, open)| open.order));
        left.extend(
            self.slaves
                .iter_mut()
                .flat_map(|slave| slave.waiting.drain(..)),
        );
        for order in left {
            self.lose(&order, "the master was shut down");
        }
    }

    fn is_idle(&self) -> bool {
        let waiting = self.slaves.iter().any(|slave| !slave.waiting.is_empty());
        self.open.is_empty() && self.anyone.is_empty() && !waiting
    }

    fn take(&mut self, order: Order) {
        let Some(name) = &order.slave else {
            return self.submit(order);
        };
        match self.slaves.iter().position(|slave| slave.name == *name) {
            Some(slave) => {
                self.slaves[slave].waiting.push_back(order);
                self.go_on(slave);
            }
            None => self.lose(&order, "there is no such slave"),
        }
    }

    /// Begins what waits for a slave and can begin.
    fn go_on(&mut self, at: usize) {
        while !self.slaves[at].leaving {
            let slave = &mut self.slaves[at];
            let Some(order) = slave.waiting.pop_front() else {
                return;
            };
            let mut open = self.open.values();
            if order.data.is_some() {
                self.submit(order);
            } else if slave.trying
                || open.any(|open| open.order.slave.as_ref() == Some(&slave.name))
            {
                return slave.waiting.push_front(order);
            } else {
                slave.look = None;
                match self.pool.remove_slave(&slave.name) {
                    Ok(()) => slave.leaving = true,
                    Err(error) => log::error!("line {}: {}", order.line, chain(&error)),
                }
                let _ = self.tray.open.try_recv();
            }
        }
    }

    fn submit(&mut self, order: Order) {
        self.submit_again(order, false);
    }

    /// `tried` if all slaves have been tried for it.
    fn submit_again(&mut self, order: Order, mut tried: bool) {
        let mut options = Options::new();
        if let Some(name) = &order.slave {
            options = options.on(name);
        }
        let mut job = self.pool.try_submit(&order.data, &options);
        if let Err(Error::NoSlaves | Error::UnknownSlave { .. }) = job {
            self.try_again(order.slave.as_deref());
            tried = true;
            job = self.pool.try_submit(&order.data, &options);
        }
        match job {
            Ok(job) => {
                let open = Open {
                    order,
                    begun: false,
                    due: None,
                    tried,
                    job,
                };
                self.open.insert(open.job.id(), open);
            }
            Err(Error::NoSlaves) if self.slaves.is_empty() => {
                self.lose(&order, "there is no slave");
            }
            Err(Error::NoSlaves) if self.slaves.iter().any(|slave| slave.leaving) => {
                self.anyone.push_back(order);
            }
            Err(error) => self.lose(&order, &chain(&error)),
        }
    }

    /// Has the pool try a slave again that it does not have any more, or all of them.
    fn try_again(&mut self, name: Option<&str>) {
        for slave in &mut self.slaves {
            if name.is_none_or(|name| slave.name == name) {
                slave.look = None;
                match self.pool.add_slave(&slave.name, &slave.name, [""; 0]) {
                    Ok(()) | Err(Error::NameTaken { .. } | Error::Stopped) => {}
                    Err(error) => log::error!("{}", chain(&error)),
                }
            }
        }
    }

    fn started(&mut self, id: Uuid, name: &str) {
        let due = self.timeout.map(|limit| Instant::now() + limit);
        let known = self.open.get_mut(&id);
        let stuck = known.is_none(); // it took too long to begin
        if let Some(open) = known {
            (open.begun, open.due) = (true, due);
        }
        self.set_stuck(name, stuck);
    }

    fn set_stuck(&mut self, name: &str, stuck: bool) {
        if let Some(slave) = self.slaves.iter_mut().find(|slave| slave.name == name) {
            slave.stuck = stuck;
        }
        let waiting = self.open.values_mut().filter(|open| !open.begun);
        let concerned = |open: &&mut Open| {
            let slave = open.order.slave.as_ref();
            slave.is_none_or(|slave| slave == name)
        };
        waiting.filter(concerned).for_each(|open| open.due = None);
    }

    fn ended(&mut self, id: Uuid, slave: Option<String>, result: Result<Value, JobError>) {
        let Some(Open { order, tried, .. }) = self.open.remove(&id) else {
            return;
        };
        let mut slave = slave.or_else(|| order.slave.clone());
        let (status, result) = match result {
            Ok(result) => ("completed", result),
            Err(JobError::Failed { result }) => ("failed", result),
            Err(JobError::Refused { source }) => match &*source {
                master::Error::Refused { name, refusal, .. } => {
                    slave = Some(name.clone());
                    ("refused", refusal.data.clone())
                }
                error => (lost(&order, &chain(error)), Value::Null),
            },
            // Those that were given up before are asked too.
            Err(JobError::NoSlave { .. }) if order.slave.is_none() && !tried => {
                self.try_again(None);
                return self.submit_again(order, true);
            }
            Err(JobError::Cancelled) => {
                if let Some(slave) = &slave {
                    self.set_stuck(slave, true);
                }
                let why = format!(
                    "the task has not ended within {:?}",
                    self.timeout.unwrap_or_default()
                );
                (lost(&order, &why), Value::Null)
            }
            Err(error) => (lost(&order, &chain(&error)), Value::Null),
        };
        self.end(&order, slave.as_deref(), status, result);
        if let Some(name) = &order.slave {
            let slave = self.slaves.iter().position(|slave| slave.name == *name);
            slave.into_iter().for_each(|slave| self.go_on(slave));
        }
    }

    fn changed(&mut self, name: &str, state: SlaveState, why: Option<String>) {
        let Some(at) = self.slaves.iter().position(|slave| slave.name == name) else {
            return;
        };
        self.set_stuck(name, false);
        let slave = &mut self.slaves[at];
        slave.trying = state == SlaveState::Connecting;
        slave.connected = state.is_connected();
        match state {
            SlaveState::GivenUp => {
                if slave.failure != why {
                    log::error!("{}", why.as_deref().unwrap_or("given up"));
                }
                slave.failure = why;
                slave.look = Some(Instant::now() + LOOK_SPAN);
            }
            SlaveState::Gone => {
                slave.leaving = false;
                for order in std::mem::take(&mut self.anyone) {
                    self.submit(order);
                }
            }
            _ if state.is_connected() && slave.failure.take().is_some() => {
                log::warn!("slave {name:?} is connected now");
            }
            _ => {}
        }
        self.go_on(at);
    }

    fn see_to_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        // As long as one or the other is tried, a task for any does not end.
        let hopeless = self.slaves.iter().all(|slave| !slave.connected)
            && self.open.values().any(|open| open.order.slave.is_none());
        let gone = self.slaves.iter().filter(|slave| is_due(slave.look));
        let gone: Vec<String> = gone.map(|slave| slave.name.clone()).collect();
        for name in gone.iter().filter(|_| !hopeless) {
            self.try_again(Some(name));
        }
        let Some(limit) = self.timeout else { return };
        for open in self.open.values().filter(|open| is_due(open.due)) {
            open.job.cancel();
        }
        // What waits for a slave that does not come back from a task has its time too, one after the other.
        let stuck = self.slaves.iter().filter(|slave| slave.stuck);
        let mut lines: Vec<Option<&String>> = stuck.map(|slave| Some(&slave.name)).collect();
        if self
            .slaves
            .iter()
            .all(|slave| slave.stuck || slave.failure.is_some())
        {
            lines.push(None);
        }
        for line in lines {
            let waiting = self.open.values_mut();
            let waiting = waiting.filter(|open| !open.begun && open.order.slave.as_ref() == line);
            if let Some(first) = waiting.min_by_key(|open| open.order.line) {
                first.due.get_or_insert(now + limit);
            }
        }
    }

    fn lose(&mut self, order: &Order, why: &str) {
        let status = lost(order, why);
        self.end(order, order.slave.as_deref(), status, Value::Null);
    }

    fn end(&mut self, order: &Order, slave: Option<&str>, status: &'static str, result: Value) {
        if let Some(data) = &order.data {
            (self.report)(&Ended {
                slave,
                status,
                data,
                result,
            });
        }
        let _ = self.tray.open.try_recv();
    }
}

fn lost(order: &Order, why: &str) -> &'static str {
    log::warn!("line {}: lost: {why}", order.line);
    "lost"
}
