//! The slave: belongs to one master at a time and does one task at a time for it.
//!
//! It does what DI-engine's `ding.interaction.Slave` does, on the same wire, so
//! its master may be Python's as well as [ours](crate::master). The work is a
//! [`Worker`]: a closure, or a type with hooks for connects, disconnects and tasks.
//!
//! ```no_run
//! use interplay::slave::{Slave, TaskFail};
//! use serde_json::{Value, json};
//!
//! let slave = Slave::builder().channel(7).start(|task: Value| {
//!     match (task["a"].as_i64(), task["b"].as_i64()) {
//!         (Some(a), Some(b)) => Ok(json!({"sum": a + b})),
//!         _ => Err(TaskFail::new(json!({"message": "ab not found"}))),
//!     }
//! })?;
//! slave.join()?; // until somebody shuts it down
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod core;
mod endpoints;
mod error;
mod executor;
mod heartbeat;
mod link;
mod worker;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::builder::Settings;
use self::core::Core;
use self::endpoints::Endpoints;
use self::executor::Executor;
use self::link::Links;
use crate::http::{self, Client, Limits, Listener, Server};
use crate::lifecycle::{Leftover, Stop, Threads, spawn};
use crate::wire::ping;
use crate::wire::route::Channel;
use crate::wire::token::Token;

pub use self::builder::Builder;
pub use self::error::{Error, Lost};
pub use self::worker::{Refuse, TaskFail, Worker, typed};

/// How long threads that have nothing left to wait for are joined.
const LAST: Duration = Duration::from_secs(1);

/// A running slave.
///
/// It owns three threads, each named after its port: `s7236-http` answers the
/// master and asks the worker's hooks, `s7236-beats` sends heartbeats and checks the server,
/// `s7236-task` does the tasks and reports them. Short-lived ones join them:
/// `s7236-body` for each long body that arrives. Dropping a slave closes it.
pub struct Slave {
    core: Arc<Core>,
    server: Arc<Server>,
    /// Heartbeat and task thread.
    threads: Threads,
}

impl Slave {
    /// Settings for a new slave.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn start(settings: Settings, worker: Box<dyn Worker>) -> Result<Self, Error> {
        let cannot_start = |source| Error::Start { source };
        let listener =
            Listener::bind(&settings.host, settings.port).map_err(|source| Error::Bind {
                address: format!("{}:{}", settings.host, settings.port),
                source,
            })?;
        let local_addr = listener.local_addr();
        if settings.channel == Channel::default() && !local_addr.ip().is_loopback() {
            log::warn!("slave on {local_addr}: channel 0 is open to everyone who can reach it");
        }
        let name = format!("s{}", local_addr.port());
        let (executor, work) = Executor::new();
        let (heartbeat, links) = crossbeam_channel::unbounded();
        let limits = Limits {
            body: settings.max_body,
            ..Limits::default()
        };
        let core = Arc::new(Core {
            worker,
            links: Links::new(settings.channel, settings.max_body),
            executor,
            heartbeat,
            self_token: Token::random().map_err(cannot_start)?,
            closing: Stop::new(),
            ended: Stop::new(),
            settings,
        });
        let endpoints = Arc::new(Endpoints::new(core.clone()));
        let server = Arc::new(
            listener
                .serve(&name, limits, true, endpoints)
                .map_err(cannot_start)?,
        );
        let slave = Self {
            core: core.clone(),
            server: server.clone(),
            threads: Threads::default(),
        };
        // From here on a failure drops the slave, which ends what has been started.
        let beats = spawn(format!("{name}-beats"), {
            let core = core.clone();
            move || heartbeat::run(&core, &links, &server)
        });
        slave.threads.push(beats.map_err(cannot_start)?);
        let task = spawn(format!("{name}-task"), move || {
            core.executor
                .run(&work, &*core.worker, &core.settings.retry, &core.ended);
        });
        slave.threads.push(task.map_err(cannot_start)?);
        log::info!(
            "slave on {local_addr}: started on channel {}",
            slave.core.settings.channel
        );
        Ok(slave)
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// The token that `/ping` and `/shutdown` ask for. Whoever knows it can end this slave.
    #[must_use]
    pub fn self_token(&self) -> &str {
        self.core.self_token.as_str()
    }

    /// The address of the master it belongs to, if any.
    #[must_use]
    pub fn master(&self) -> Option<String> {
        Some(self.core.links.current()?.master.to_string())
    }

    /// Asks this slave's own server, over the network, whether it answers.
    ///
    /// # Errors
    /// [`Error::Ping`] if it does not within the request timeout, with one attempt; [`Error::Stopped`].
    pub fn ping(&self) -> Result<(), Error> {
        if self.core.closing.is_stopped() {
            return Err(Error::Stopped);
        }
        let timeout = self.core.settings.retry.total;
        match ping::ping(
            &Client::new(&http::Settings::default()),
            self.local_addr(),
            &self.core.self_token,
            timeout,
            &self.core.closing,
        ) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Stopped), // the token is its own, so nothing but "shutting down" is left
            Err(source) => Err(Error::Ping { source }),
        }
    }

    /// Begins the end and returns at once; may be called again, from anywhere.
    ///
    /// From now on every request is refused as "shutting down". A running task
    /// may end and be reported within the grace, otherwise it is reported as
    /// failed. `DELETE /shutdown` does the same.
    pub fn shutdown(&self) {
        if self.core.shutdown() {
            log::info!("slave on {}: shutting down", self.local_addr());
        }
    }

    /// Waits until the slave has ended, by [`shutdown`](Slave::shutdown) here or `DELETE /shutdown` from outside.
    ///
    /// # Errors
    /// [`Leftover`] names the threads that had not ended when the grace was over, because a task or a hook has not returned.
    ///
    /// # Blocking
    /// Until somebody begins the end, and then at most for the grace and two seconds.
    pub fn join(&self) -> Result<(), Leftover> {
        self.core.closing.wait();
        self.end()
    }

    /// Like [`join`](Slave::join), but gives the wait for the beginning of the end up after `limit`; false then.
    ///
    /// # Errors
    /// Those of [`join`](Slave::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<bool, Leftover> {
        if self.core.closing.wait_timeout(limit) {
            self.end().map(|()| true)
        } else {
            Ok(false)
        }
    }

    /// Shuts down and joins.
    ///
    /// # Errors
    /// [`Leftover`] names the threads that had not ended when the grace was over, because a task or a hook has not returned.
    ///
    /// # Blocking
    /// At most for the grace and two seconds.
    pub fn close(&self) -> Result<(), Leftover> {
        self.shutdown();
        self.end()
    }

    /// Joins what was told to end.
    fn end(&self) -> Result<(), Leftover> {
        let grace = self.core.settings.grace;
        // The running task may take the grace, and the last word to the master a little more.
        if !self
            .core
            .ended
            .wait_timeout(grace.saturating_add(heartbeat::GOODBYE_LIMIT))
        {
            self.core.ended.stop();
        }
        self.server.stop();
        // What is not held by the user ends at once, and what is has had its grace. The server has
        // answers to give still, for which a machine that is busy elsewhere takes its time.
        let joined = [
            self.threads.join_until(Instant::now() + LAST),
            self.server.join_until(Instant::now() + 3 * LAST),
        ];
        let left: Vec<String> = joined
            .into_iter()
            .filter_map(Result::err)
            .flat_map(|leftover| leftover.threads)
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(Leftover { threads: left })
        }
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        if let Err(leftover) = self.close() {
            log::warn!("slave on {}: {leftover}", self.local_addr());
            self.threads.leave(); // they have been waited for
        }
    }
}

impl fmt::Debug for Slave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slave")
            .field("local_addr", &self.local_addr())
            .field("channel", &self.core.settings.channel)
            .field("master", &self.master())
            .finish_non_exhaustive()
    }
}
