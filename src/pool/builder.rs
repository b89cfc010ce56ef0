//! The settings of a pool.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::error::Error;
use super::options::Options;
use super::progress::{NoObserver, Observer};
use crate::lifecycle::{GRACE, LONGEST};
use crate::master::Handle;

/// The settings.
pub(super) struct Settings {
    pub(super) connect_deadline: Duration,
    pub(super) defaults: Options,
    pub(super) look_ahead: Option<usize>,
    pub(super) max_queued: usize,
    pub(super) grace: Duration,
}

/// Sets up a [`Pool`]; made by [`Master::pool`](crate::master::Master::pool).
///
/// Every setting has a default. A duration of more than ten years is cut to that, so `Duration::MAX` means for ever.
#[must_use = "a builder does nothing until start"]
pub struct Builder {
    master: Handle,
    slaves: Vec<(String, String, BTreeSet<String>)>,
    settings: Settings,
    observer: Arc<dyn Observer>,
}

impl Builder {
    pub(super) fn new(master: Handle) -> Self {
        let settings = Settings {
            connect_deadline: Duration::from_secs(120),
            defaults: Options::new(),
            look_ahead: None,
            max_queued: 65_536,
            grace: GRACE,
        };
        Self {
            master,
            slaves: Vec::new(),
            settings,
            observer: Arc::new(NoObserver),
        }
    }

    /// Adds a slave by a name of its own choice and its address; see [`Pool::add_slave`]. May be called for any number.
    pub fn slave(self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.slave_with::<&str>(name, address, [])
    }

    /// Adds a slave with labels that tasks may [ask for](Options::label).
    pub fn slave_with<L: Into<String>>(
        mut self,
        name: impl Into<String>,
        address: impl Into<String>,
        labels: impl IntoIterator<Item = L>,
    ) -> Self {
        let labels = labels.into_iter().map(Into::into).collect();
        self.slaves.push((name.into(), address.into(), labels));
        self
    }

    /// How long a slave that is not up yet, or was lost, is tried again before it is given up. Default 120 s.
    ///
    /// The pauses between attempts grow from 0.1 s to 5 s. Zero means a single attempt.
    pub fn connect_deadline(mut self, limit: Duration) -> Self {
        self.settings.connect_deadline = limit.min(LONGEST);
        self
    }

    /// What holds for tasks that do not say otherwise. Default: as [`Options`] says.
    pub fn defaults(mut self, options: Options) -> Self {
        self.settings.defaults = options;
        self
    }

    /// How many inputs a map takes before it has given out their results. Default: two for each slave, and eight more.
    ///
    /// Less than one for each slave leaves some without work; at least 1.
    pub fn look_ahead(mut self, inputs: usize) -> Self {
        self.settings.look_ahead = Some(inputs.max(1));
        self
    }

    /// How many tasks may be queued before [`Pool::submit`] waits. Default 65,536, at least 1. Maps have their own bound.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.settings.max_queued = tasks.max(1);
        self
    }

    /// How long a drop lets running tasks go on, and how long any end lets slaves answer and threads end. Default 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace.min(LONGEST);
        self
    }

    /// Who is told what happens. Default: nobody.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Starts the pool's threads and returns it; the slaves are connected by their threads meanwhile.
    ///
    /// A pool may start without slaves and be given them later.
    ///
    /// # Errors
    /// Those of [`Pool::add_slave`]. Nothing is left running then.
    ///
    /// # Blocking
    /// Not at all, unless it fails: then until what was started has ended. [`Pool::wait_for`] waits for slaves.
    pub fn start(self) -> Result<Pool, Error> {
        let pool = Pool::start(self.settings, self.master, self.observer)?;
        for (name, address, labels) in self.slaves {
            pool.add(name, &address, labels)?;
        }
        Ok(pool)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.slaves.iter().map(|(name, ..)| &**name).collect();
        f.debug_struct("Builder")
            .field("slaves", &names)
            .finish_non_exhaustive()
    }
}
