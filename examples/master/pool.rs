//! Who does what: each slave has a thread and a queue, and one more queue holds the tasks for any.
//!
//! A slave's thread connects to it, gives it one task at a time and waits for the end. When there is
//! nothing to do it looks for a slave that is gone every now and then.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased, unbounded};
use interplay::master::Error::{AlreadyConnected, NotConnected, Refused, Stopped, Transport};
use interplay::master::{Connection, Task, TaskError};
use interplay::wire::SlaveCode;
use serde::Serialize;
use serde_json::Value;

use super::chain;

/// How many orders may be open; beyond it, the next one waits.
const OPEN: usize = 1024;
/// How often a slave that is gone is looked for.
const LOOK_SPAN: Duration = Duration::from_secs(2);
/// How long to wait before a busy slave is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// A line of the input.
pub(super) struct Order {
    line: u64,
    read: Instant,
    /// None for any.
    slave: Option<String>,
    /// None for a disconnect.
    data: Option<Value>,
    /// Slaves at which it could not begin.
    tried: Vec<usize>,
}

impl Order {
    pub(super) fn new(line: u64, slave: Option<String>, data: Option<Value>) -> Self {
        Self {
            line,
            read: Instant::now(),
            slave,
            data,
            tried: Vec::new(),
        }
    }

    pub(super) fn is_task(&self) -> bool {
        self.data.is_some()
    }

    fn lost(&self, why: &str) -> End {
        log::warn!("line {}: lost: {why}", self.line);
        ("lost", Value::Null)
    }
}

/// Status and result.
type End = (&'static str, Value);

/// A task that has ended.
#[derive(Serialize)]
pub(super) struct Ended<'order> {
    slave: Option<&'order str>,
    status: &'static str,
    data: &'order Value,
    result: Value,
}

/// A queue with both its ends.
type Queue<T> = (Sender<T>, Receiver<T>);

pub(super) struct Pool {
    slaves: Vec<(Connection, Queue<Order>)>,
    /// Tasks for any slave.
    anyone: Queue<Order>,
    timeout: Option<Duration>,
    /// Holds a token for each open order.
    open: Queue<()>,
    report: Box<dyn Fn(&Ended<'_>) + Send + Sync>,
}

impl Pool {
    /// `timeout` is how long a task may run, `report` is called for each that ends.
    pub(super) fn new(
        slaves: Vec<Connection>,
        timeout: Option<Duration>,
        report: impl Fn(&Ended<'_>) + Send + Sync + 'static,
    ) -> Self {
        let slaves = slaves
            .into_iter()
            .map(|slave| (slave, unbounded()))
            .collect();
        Self {
            slaves,
            anyone: unbounded(),
            timeout,
            open: bounded(OPEN),
            report: Box::new(report),
        }
    }

    /// Works until `wait` returns.
    pub(super) fn run_while(&self, wait: impl FnOnce()) -> io::Result<()> {
        let (running, stopped) = bounded(0);
        thread::scope(|scope| {
            for me in 0..self.slaves.len() {
                let feeder = Feeder {
                    pool: self,
                    me,
                    stopped: stopped.clone(),
                    failure: None,
                    let_go: false,
                };
                let thread = thread::Builder::new().name(format!("slave {me}"));
                thread.spawn_scoped(scope, || feeder.run())?;
            }
            wait();
            drop(running);
            io::Result::Ok(())
        })?;
        let queues = self.slaves.iter().map(|(_, queue)| queue);
        for order in queues
            .chain([&self.anyone])
            .flat_map(|queue| queue.1.try_iter())
        {
            self.lose(&order, "the master was shut down");
        }
        Ok(())
    }

    /// Takes an order; waits while too many are open.
    pub(super) fn submit(&self, order: Order) {
        let _ = self.open.0.send(());
        let slave = order.slave.as_ref();
        match slave.map(|name| self.slaves.iter().find(|(slave, _)| slave.name() == name)) {
            Some(Some((_, queue))) => put(queue, order),
            Some(None) => self.lose(&order, "there is no such slave"),
            None if self.slaves.is_empty() => self.lose(&order, "there is no slave"),
            None => put(&self.anyone, order),
        }
    }

    /// Waits until all orders have ended.
    pub(super) fn wait_idle(&self) {
        for _ in 0..OPEN {
            let _ = self.open.0.send(()); // so many fit in when no order holds one
        }
    }

    fn others_connected(&self, me: usize) -> bool {
        self.slaves
            .iter()
            .enumerate()
            .any(|(other, (slave, _))| other != me && slave.is_connected())
    }

    /// Finds another slave for an order that could not begin at one.
    fn pass_on(&self, mut order: Order, me: usize, why: &str) {
        if !order.tried.contains(&me) {
            order.tried.push(me);
        }
        match (0..self.slaves.len()).find(|slave| !order.tried.contains(slave)) {
            _ if order.slave.is_some() => self.lose(&order, why),
            _ if self.others_connected(me) => put(&self.anyone, order),
            Some(untried) => put(&self.slaves[untried].1, order),
            None => self.lose(&order, why),
        }
    }

    fn lose(&self, order: &Order, why: &str) {
        self.end(order, order.slave.as_deref(), order.lost(why));
    }

    fn end(&self, order: &Order, slave: Option<&str>, (status, result): End) {
        if let Some(data) = &order.data {
            (self.report)(&Ended {
                slave,
                status,
                data,
                result,
            });
        }
        let _ = self.open.1.try_recv();
    }
}

fn put(queue: &Queue<Order>, order: Order) {
    let _ = queue.0.send(order); // cannot fail: the other end is beside it
}

/// The thread of one slave.
struct Feeder<'pool> {
    pool: &'pool Pool,
    me: usize,
    /// Disconnected when all is over.
    stopped: Receiver<()>,
    /// When and why the last connect failed, if it did.
    failure: Option<(Instant, String)>,
    /// Whether the slave was disconnected by order.
    let_go: bool,
}

impl<'pool> Feeder<'pool> {
    fn slave(&self) -> &'pool Connection {
        &self.pool.slaves[self.me].0
    }

    fn run(mut self) {
        let (pool, slave) = (self.pool, self.slave());
        let (own, anyone, nothing) = (&pool.slaves[self.me].1.1, &pool.anyone.1, never());
        let _ = self.connect(); // which reports a failure
        loop {
            // Tasks for any slave are left to those that are connected, if there are some.
            let others = !slave.is_connected() && pool.others_connected(self.me);
            let order = select_biased! {
                recv(self.stopped) -> _ => break,
                recv(own) -> order => order,
                recv(if others { &nothing } else { anyone }) -> order => order,
                default(LOOK_SPAN) => {
                    if !slave.is_connected() && !self.let_go {
                        let _ = self.connect();
                    }
                    continue;
                }
            };
            let Ok(order) = order else { break };
            match self.carry_out(&order) {
                Ok(end) => pool.end(&order, Some(slave.name()), end),
                Err(why) => pool.pass_on(order, self.me, &why),
            }
        }
    }

    /// How an order ended, or why it could not begin here.
    fn carry_out(&mut self, order: &Order) -> Result<End, String> {
        let Some(data) = &order.data else {
            return Ok(self.disconnect(order));
        };
        let (slave, begun) = (self.slave(), Instant::now());
        let mut forgotten = false;
        loop {
            self.need_connection(order)?;
            let error = match slave.new_task(data).and_then(Task::start) {
                Ok(task) => return Ok(self.wait(order, &task)),
                Err(error) => error,
            };
            match &error {
                // It was restarted and does not know us: the next round connects anew.
                Refused { .. } | NotConnected { .. } if !slave.is_connected() && !forgotten => {
                    forgotten = true
                }
                Refused { refusal, .. } => match refusal.code {
                    // It is at somebody else's task, or at one of ours that took too long.
                    SlaveCode::TaskAlreadyExist => {
                        let _ = self.stopped.recv_timeout(BUSY_PAUSE);
                        if order.slave.is_none() && self.pool.others_connected(self.me) {
                            return Err(chain(&error));
                        }
                        if self
                            .pool
                            .timeout
                            .is_some_and(|limit| begun.elapsed() > limit)
                        {
                            return Ok(order.lost(&chain(&error)));
                        }
                    }
                    SlaveCode::SystemShuttingDown => return Err(chain(&error)),
                    _ => return Ok(("refused", refusal.data.clone())),
                },
                Transport { source, .. } if !source.may_have_arrived() => {
                    return Err(chain(&error));
                }
                _ => return Ok(order.lost(&chain(&error))),
            }
        }
    }

    fn wait(&self, order: &Order, task: &Task) -> End {
        let result = match self.pool.timeout {
            Some(limit) => task.join_timeout(limit),
            None => task.join(),
        };
        match result {
            Ok(result) => ("completed", result.clone()),
            Err(TaskError::Failed { result }) => ("failed", result),
            Err(error) => order.lost(&chain(&error)),
        }
    }

    fn need_connection(&mut self, order: &Order) -> Result<(), String> {
        match &self.failure {
            _ if self.slave().is_connected() => Ok(()),
            // Whoever was waiting already when it failed does not wait for another attempt.
            Some((when, why)) if order.read < *when => Err(why.clone()),
            _ => self.connect(),
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        self.let_go = false;
        match self.slave().connect() {
            Ok(_) | Err(AlreadyConnected { .. }) => {
                if self.failure.take().is_some() {
                    log::warn!("slave {:?} is connected now", self.slave().name());
                }
                Ok(())
            }
            Err(error) => {
                let why = chain(&error);
                let news = self.failure.as_ref().is_none_or(|(_, last)| *last != why);
                if news && !matches!(error, Stopped) {
                    log::error!("{why}");
                }
                self.failure = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    fn disconnect(&mut self, order: &Order) -> End {
        self.let_go = true;
        if let Err(error) = self.slave().disconnect() {
            log::error!("line {}: {}", order.line, chain(&error));
        }
        ("disconnected", Value::Null)
    }
}
