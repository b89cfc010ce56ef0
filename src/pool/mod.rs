//! The pool: many slaves, one queue of tasks, nothing lost.
//!
//! A [`Pool`] keeps the slaves of a [`Master`] at work. It connects them, waits for those that are
//! not up yet, gives each one task at a time, and takes care of what goes wrong: a task whose slave was lost goes to another
//! one, a slave that came back is connected again, one that is busy with something else is asked later.
//! Whatever happens, each task ends exactly once, with a result or with a [`JobError`] that says why there is none.
//!
//! ```
//! use std::time::Duration;
//! use interplay::master::Master;
//! use interplay::pool::Options;
//! # use interplay::slave::{self, Slave};
//! # let start = || Slave::builder().host("127.0.0.1").port(0).start(slave::typed(|n: u64| Ok(n * n)));
//! # let (one, two) = (start()?, start()?);
//! # let (first, second) = (one.local_addr().to_string(), two.local_addr().to_string());
//!
//! let master = Master::builder().host("127.0.0.1").port(0).start()?;
//! let pool = master
//!     .pool()
//!     .slave("w1", first) // "10.0.0.3:7236"
//!     .slave_with("w2", second, ["big"])
//!     .defaults(Options::new().retries(1))
//!     .start()?;
//!
//! // As they finish; with `map_ordered`, in order. The input is taken as fast as the slaves are.
//! let mut sum = 0;
//! for (_, result) in pool.map::<u64, _>(1..=10u64) {
//!     sum += result?;
//! }
//! assert_eq!(sum, 385);
//!
//! // Or one by one.
//! let job = pool.submit_with(12, &Options::new().label("big").deadline(Duration::from_secs(60)))?;
//! assert_eq!(job.join_as::<u64>()?, 144);
//!
//! pool.join(); // until all have ended
//! let report = pool.close(Duration::from_secs(5));
//! assert!(report.unfinished.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod core;
mod driver;
mod ends;
mod error;
mod ids;
mod job;
mod map;
mod options;
mod progress;
mod queue;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use self::builder::Settings;
use self::core::{Core, Moment, Owner, Peer, Queue, Work};
use self::driver::Driver;
use self::job::Ticket;
use crate::lifecycle::{Threads, spawn};
use crate::master::{Handle, Master};

pub use self::builder::Builder;
pub use self::error::{Error, JobError};
pub use self::job::{Job, JobState};
pub use self::map::{Map, MapOrdered};
pub use self::options::Options;
pub use self::progress::{
    Observer, SlaveChange, SlaveState, SlaveStatus, Snapshot, TaskEnded, TaskRetried, TaskStarted,
};

impl Master {
    /// Settings for a pool of slaves of this master.
    ///
    /// A master may have several pools, and connections of its own beside them. A pool that outlives
    /// its master is closed.
    pub fn pool(&self) -> Builder {
        Builder::new(self.handle())
    }
}

/// A running pool.
///
/// It owns a thread for each slave, `p7235-1` with the master's port and the slave's number, which connects it
/// and hands over its tasks, and `p7235-keeper`, which sees to deadlines and pauses.
///
/// All methods may be called from any thread. Dropping a pool closes it with the [grace](Builder::grace) it was given.
pub struct Pool {
    core: Arc<Core>,
    threads: Threads,
}

impl Pool {
    fn start(
        settings: Settings,
        master: Handle,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Error> {
        let core = Arc::new(Core::new(settings, master, observer));
        let keeper = spawn(format!("p{}-keeper", core.master.port()), {
            let core = core.clone();
            move || core.keep()
        });
        let keeper = keeper.map_err(|source| Error::Start { source })?;
        Ok(Self {
            core,
            threads: Threads::from(keeper),
        })
    }

    /// Adds a slave by a name of its own choice and its address, as for [`Master::new_connection`], with
    /// labels that tasks may [ask for](Options::label).
    ///
    /// It is connected by its thread, and waited for until the [deadline](Builder::connect_deadline). A name that
    /// was given up is free again.
    ///
    /// # Errors
    /// [`Error::NameTaken`], also while a removed slave of that name still works; [`Error::Master`] if the
    /// text is no address; [`Error::Setting`] for a name that is empty or too long; [`Error::Stopped`]; [`Error::Start`].
    pub fn add_slave<L: Into<String>>(
        &self,
        name: impl Into<String>,
        address: &str,
        labels: impl IntoIterator<Item = L>,
    ) -> Result<(), Error> {
        let labels = labels.into_iter().map(Into::into).collect();
        self.add(name.into(), address, labels)
    }

    fn add(&self, name: String, address: &str, labels: BTreeSet<String>) -> Result<(), Error> {
        let core = &self.core;
        let connection = core.master.new_connection(name.clone(), address)?;
        let (orders, receiver) = crossbeam_channel::unbounded();
        let mut added = None;
        let id = core.step(|queue, now| {
            let handle = |id| {
                let peer = Peer {
                    id,
                    connection,
                    orders,
                };
                added.insert(Arc::new(peer)).clone()
            };
            queue.add(name, labels, handle, now)
        })?;
        let Some(peer) = added else {
            return Err(Error::Stopped); // not so: the queue has made it
        };
        let driver = Driver {
            core: core.clone(),
            peer,
            orders: receiver,
        };
        match spawn(format!("p{}-{}", core.master.port(), id.0), || driver.run()) {
            Ok(thread) => {
                let _ = self.threads.join_until(Instant::now()); // those of slaves that have gone
                self.threads.push(thread);
                Ok(())
            }
            Err(source) => {
                core.step(|queue, _| queue.gone(id));
                Err(Error::Start { source })
            }
        }
    }

    /// Takes a slave out: it ends its task, if it has one, and is disconnected. Returns at once.
    ///
    /// A task of its that fails meanwhile, or is lost, goes to another slave if it may. Queued tasks that only this slave could do end as [`JobError::NoSlave`]. The name is free when the
    /// slave is [`Gone`](SlaveState::Gone), and at once if it was given up.
    ///
    /// # Errors
    /// [`Error::UnknownSlave`].
    pub fn remove_slave(&self, name: &str) -> Result<(), Error> {
        self.core.step(|queue, _| queue.remove(name))
    }

    /// Waits until so many slaves are connected.
    ///
    /// # Errors
    /// [`Error::TooFewSlaves`] after `limit`, and at once when there are not so many that are still tried; [`Error::Stopped`].
    ///
    /// # Blocking
    /// At most for `limit`.
    pub fn wait_for(&self, slaves: usize, limit: Duration) -> Result<(), Error> {
        let ready = self
            .core
            .wait(Instant::now().checked_add(limit), |queue, _| {
                let (connected, possible) = queue.connected();
                match connected {
                    _ if queue.is_closed() => Some(Err(Error::Stopped)),
                    connected if connected >= slaves => Some(Ok(())),
                    connected if possible < slaves => Some(Err(Error::TooFewSlaves {
                        wanted: slaves,
                        connected,
                    })),
                    _ => None,
                }
            });
        ready.unwrap_or_else(|| {
            Err(Error::TooFewSlaves {
                wanted: slaves,
                connected: self.core.look(|queue| queue.connected().0),
            })
        })
    }

    /// Submits a task with the pool's default options.
    ///
    /// # Errors
    /// Those of [`submit_with`](Pool::submit_with).
    ///
    /// # Blocking
    /// Like [`submit_with`](Pool::submit_with).
    pub fn submit(&self, data: impl Serialize) -> Result<Job, Error> {
        self.submit_with(data, &Options::new())
    }

    /// Submits a task: it goes to the slave that was free for longest, or is queued until one is free.
    ///
    /// Data and results that Python regards as empty (null, false, 0, "", [], {}) arrive as `{}`, as with
    /// [`Connection::new_task`](crate::master::Connection::new_task).
    ///
    /// # Errors
    /// [`Error::Unserializable`]; [`Error::NoSlaves`], [`Error::UnknownSlave`] or [`Error::UnknownLabels`] if no slave of the
    /// pool could ever do it; [`Error::Stopped`].
    ///
    /// # Blocking
    /// While as many tasks are queued as [may be](Builder::max_queued). [`try_submit`](Pool::try_submit) does not wait.
    pub fn submit_with(&self, data: impl Serialize, options: &Options) -> Result<Job, Error> {
        self.admit(data, options, true)
    }

    /// Like [`submit_with`](Pool::submit_with), without waiting.
    ///
    /// # Errors
    /// Those of [`submit_with`](Pool::submit_with), and [`Error::Full`].
    pub fn try_submit(&self, data: impl Serialize, options: &Options) -> Result<Job, Error> {
        self.admit(data, options, false)
    }

    fn admit(&self, data: impl Serialize, options: &Options, wait: bool) -> Result<Job, Error> {
        let data = serde_json::to_value(data).map_err(|source| Error::Unserializable { source })?;
        let policy = Arc::new(options.over(&self.core.settings.defaults));
        let id = self.core.ids.next();
        let ticket = Arc::new(Ticket::new(id));
        let work = Work {
            id,
            data: Arc::new(data),
            owner: Owner::Job(ticket.clone()),
        };
        let key = self.core.admit(Arc::new(work), policy, wait)?;
        Ok(Job::new(key, ticket, self.core.clone()))
    }

    /// The results of many tasks as they finish, each with the number of its input, counted from 0.
    ///
    /// Lazy: the input is taken by the thread that iterates, and only so far that at most
    /// [`look_ahead`](Builder::look_ahead) results are to come. Every input that is taken gives exactly one result; one that cannot be
    /// submitted (it is not expressible in JSON, no slave is left, the pool is closed) gives an error and the rest goes on.
    /// Dropping the iterator cancels what it has submitted.
    ///
    /// Inputs and results that Python regards as empty arrive as `{}`, see [`submit_with`](Pool::submit_with).
    ///
    /// # Blocking
    /// Each `next` waits until a task ends, and for the input. While inputs that it has taken wait for a slave, it waits
    /// up to a millisecond longer for more results, so as not to be woken for each.
    pub fn map<T, I>(&self, inputs: I) -> Map<T, I::IntoIter>
    where
        T: DeserializeOwned,
        I: IntoIterator<Item: Serialize>,
    {
        self.map_with(inputs, &Options::new())
    }

    /// Like [`map`](Pool::map), with options for all its tasks.
    pub fn map_with<T, I>(&self, inputs: I, options: &Options) -> Map<T, I::IntoIter>
    where
        T: DeserializeOwned,
        I: IntoIterator<Item: Serialize>,
    {
        let policy = Arc::new(options.over(&self.core.settings.defaults));
        Map::new(self.core.clone(), policy, inputs.into_iter())
    }

    /// Like [`map`](Pool::map), with the results in the order of their inputs.
    ///
    /// Results that come early are kept, and count as to come: one slow task may hold up the rest.
    pub fn map_ordered<T, I>(&self, inputs: I) -> MapOrdered<T, I::IntoIter>
    where
        T: DeserializeOwned,
        I: IntoIterator<Item: Serialize>,
    {
        self.map_ordered_with(inputs, &Options::new())
    }

    /// Like [`map_ordered`](Pool::map_ordered), with options for all its tasks.
    pub fn map_ordered_with<T, I>(&self, inputs: I, options: &Options) -> MapOrdered<T, I::IntoIter>
    where
        T: DeserializeOwned,
        I: IntoIterator<Item: Serialize>,
    {
        let policy = Arc::new(options.over(&self.core.settings.defaults));
        MapOrdered::new(self.core.clone(), policy, inputs.into_iter())
    }

    /// A picture of what it holds at the moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.core.snapshot()
    }

    /// Waits until no task is open, and the observer was told of all.
    ///
    /// # Blocking
    /// Until then, which is never if somebody goes on to submit. Do not call it in an observer.
    pub fn join(&self) {
        self.core.settled(None);
    }

    /// Like [`join`](Pool::join), for at most `limit`; false if tasks are open still.
    pub fn join_timeout(&self, limit: Duration) -> bool {
        self.core.settled(Instant::now().checked_add(limit))
    }

    /// Ends the pool: accepts nothing more, lets running tasks go on for up to `grace`, and disconnects the slaves.
    ///
    /// Queued tasks end as [`JobError::Closed`] at once, and those that still run after the grace then. A slave that
    /// is still at work then, if only on a task that was cancelled, is told by the master once it has reported. May be called again, and returns the same report.
    ///
    /// # Blocking
    /// At most for `grace` and twice the [grace](Builder::grace) of the builder.
    pub fn close(&self, grace: Duration) -> Report {
        self.core.close();
        let deadline = Instant::now().checked_add(grace);
        let idle = |queue: &mut Queue, moment: Moment| {
            (moment.is_settled(queue) && queue.at_work().next().is_none()).then_some(())
        };
        self.core.wait(deadline, idle);
        self.core.step(|queue, _| queue.expire());
        let at_work: Vec<_> = self.core.look(|queue| queue.at_work().cloned().collect());
        for peer in at_work {
            peer.connection.give_up(0);
        }
        self.core.end();
        let limit = self.core.settings.grace.saturating_mul(2);
        let still_running = match self.threads.join_until(Instant::now() + limit) {
            Ok(()) => Vec::new(),
            Err(leftover) => leftover.threads,
        };
        Report {
            unfinished: self.core.unfinished(),
            still_running,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.core.is_over() {
            return self.threads.leave(); // they have been waited for
        }
        let report = self.close(self.core.settings.grace);
        if !report.unfinished.is_empty() {
            log::warn!("pool: dropped with {} tasks", report.unfinished.len());
        }
        if !report.still_running.is_empty() {
            log::warn!("pool: still running: {}", report.still_running.join(", "));
            self.threads.leave(); // they have been waited for
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connected, open) = self.core.look(|queue| (queue.connected().0, queue.open()));
        f.debug_struct("Pool")
            .field("connected", &connected)
            .field("open", &open)
            .finish_non_exhaustive()
    }
}

/// What was left when a pool was closed; see [`Pool::close`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Report {
    /// The [ids](Job::id) of the tasks that ended as [`JobError::Closed`].
    pub unfinished: Vec<Uuid>,
    /// The names of threads that had not ended: they wait for an answer of a slave, or for an observer.
    pub still_running: Vec<String>,
}
