//! The master: hands tasks to slaves and gets their results back.
//!
//! It does what DI-engine's `ding.interaction.Master` does, on the same wire,
//! so its slaves may be Python's as well as [ours](crate::slave). A [`Master`]
//! listens for heartbeats and results; a [`Connection`] is how it reaches one
//! slave, by a name of its own choice; a [`Task`] is one piece of work there.
//!
//! ```no_run
//! use std::time::Duration;
//! use interplay::master::Master;
//! use serde_json::json;
//!
//! let master = Master::builder().channel(7).start()?;
//! let worker = master.new_connection("w1", "10.0.0.3:7236")?;
//! worker.connect()?;
//!
//! let task = worker
//!     .new_task(json!({"a": 2, "b": 3}))?
//!     .on_fail(|data, error| eprintln!("{data}: {error}"))
//!     .start()?;
//! println!("{}", task.join_timeout(Duration::from_secs(60))?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod connection;
mod core;
mod endpoints;
mod error;
mod handle;
mod hooks;
mod job;
mod results;
mod slaves;
mod sweeper;
mod task;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::builder::Settings;
use self::core::Core;
use self::endpoints::Endpoints;
use self::results::Results;
use self::slaves::Slaves;
use crate::http::{self, Client, Limits, Listener, Server};
use crate::lifecycle::{Leftover, Stop, Threads, spawn};
use crate::wire::ping;
use crate::wire::route::Channel;
use crate::wire::token::Token;

pub use self::builder::Builder;
pub use self::connection::Connection;
pub use self::error::{BoxError, Error, TaskError};
pub(crate) use self::handle::{Handle, Missed};
pub use self::hooks::Hooks;
pub use self::task::Task;

/// A running master.
///
/// It owns three threads, each named after its port: `m7235-http` answers
/// slaves, `m7235-sweeper` gives up those that fall silent, `m7235-results`
/// runs callbacks. Short-lived ones join them: `m7235-body` for each long body
/// that arrives, `m7235-goodbye` when slaves are told that they are disconnected.
///
/// All methods may be called from any thread, hooks and callbacks included. In a
/// callback, [`join`](Master::join) and [`close`](Master::close) cannot wait for
/// the results thread, which is their own, and name it in their error. Dropping
/// a master closes it.
pub struct Master {
    core: Arc<Core>,
    server: Arc<Server>,
    sweeper: Threads,
}

impl Master {
    /// Settings for a new master.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn start(settings: Settings, hooks: Arc<dyn Hooks>) -> Result<Self, Error> {
        let cannot_start = |source| Error::Start { source };
        let listener =
            Listener::bind(&settings.host, settings.port).map_err(|source| Error::Bind {
                address: format!("{}:{}", settings.host, settings.port),
                source,
            })?;
        let local_addr = listener.local_addr();
        let name = format!("m{}", local_addr.port());
        let results = Results::start(
            &format!("{name}-results"),
            settings.max_pending,
            hooks.clone(),
        )
        .map_err(|error| cannot_start(io::Error::other(error)))?;
        if settings.channel == Channel::default() && !local_addr.ip().is_loopback() {
            log::warn!("master on {local_addr}: channel 0 is open to everyone who can reach it");
        }
        let limits = Limits {
            body: settings.max_body,
            ..Limits::default()
        };
        let core = Arc::new(Core {
            hooks,
            client: Client::new(&http::Settings {
                max_idle: 256,
                max_idle_per_peer: 4,
                phase: settings.retry.total,
                ..http::Settings::default()
            }),
            slaves: Slaves::new(settings.heartbeat_tolerance),
            results,
            self_token: Token::random().map_err(cannot_start)?,
            local_addr,
            closing: Stop::new(),
            closed: Stop::new(),
            last_id: AtomicU64::new(0),
            settings,
        });
        let endpoints = Arc::new(Endpoints::new(core.clone()));
        let server = listener
            .serve(&name, limits, false, endpoints)
            .map_err(cannot_start)?;
        let server = Arc::new(server);
        let sweeper = spawn(format!("{name}-sweeper"), {
            let (core, server, name) = (core.clone(), server.clone(), name.clone());
            move || sweeper::run(&core, &server, &name)
        });
        log::info!(
            "master on {local_addr}: started on channel {}",
            core.settings.channel
        );
        Ok(Self {
            sweeper: Threads::from(sweeper.map_err(cannot_start)?),
            core,
            server,
        })
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.core.local_addr
    }

    /// The token that `/ping` and `/shutdown` ask for. Whoever knows it can end this master.
    #[must_use]
    pub fn self_token(&self) -> &str {
        self.core.self_token.as_str()
    }

    /// Makes a connection to the slave at `address`; sends nothing yet.
    ///
    /// `name` is this master's own word for the slave, of 1 to 255 bytes. The
    /// address is `host`, `host:port` or `http://host:port/path`, the port 7236
    /// if there is none; `https://` needs the feature `https`.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if a connected slave has the name,
    /// [`Error::BadAddress`], [`Error::Setting`] for a name that is empty or too
    /// long, [`Error::Stopped`], [`Error::Start`] without randomness for a token.
    pub fn new_connection(
        &self,
        name: impl Into<String>,
        address: &str,
    ) -> Result<Connection, Error> {
        Connection::open(&self.core, name.into(), address)
    }

    /// A way to make connections that does not keep the master.
    pub(crate) fn handle(&self) -> Handle {
        Handle::new(self.core.clone())
    }

    /// Whether a slave of that name is connected. The original's `name in master`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.core.slaves.get(name).is_some()
    }

    /// The connected slave of that name. The original's `master[name]`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Connection> {
        Some(Connection::new(
            self.core.slaves.get(name)?,
            self.core.clone(),
        ))
    }

    /// Disconnects the slave of that name. The original's `del master[name]`.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of [`Connection::disconnect`].
    pub fn delete(&self, name: &str) -> Result<Value, Error> {
        let connection = self.get(name).ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })?;
        connection.disconnect()
    }

    /// Asks this master's own server, over the network, whether it answers.
    ///
    /// # Errors
    /// [`Error::Ping`] if it does not within the request timeout, with one attempt; [`Error::Stopped`].
    pub fn ping(&self) -> Result<(), Error> {
        self.core.check_running()?;
        let total = self.core.settings.retry.total;
        match ping::ping(
            &self.core.client,
            self.core.local_addr,
            &self.core.self_token,
            total,
            &self.core.closing,
        ) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Stopped), // the token is its own, so nothing but "shutting down" is left
            Err(source) => Err(Error::Ping { source }),
        }
    }

    /// A picture of what it holds at the moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let server = self.server.stats();
        Stats {
            connected: self.core.slaves.connected(),
            pending_tasks: self.core.results.pending(),
            server_rebuilt: server.rebuilt,
            requests_abandoned: server.abandoned,
        }
    }

    /// Begins the end and returns at once; may be called again, from anywhere.
    ///
    /// From now on nothing new can be connected or started here; what is under
    /// way may still be accepted by its slave, which then gives this master up. Connected
    /// slaves are told that they are disconnected, then their open tasks end as
    /// lost and the server stops: all within about the grace. `DELETE /shutdown` does the same.
    pub fn shutdown(&self) {
        if self.core.closing.stop() {
            log::info!("master on {}: shutting down", self.core.local_addr);
        }
    }

    /// Waits until the master has ended, by [`shutdown`](Master::shutdown) here or `DELETE /shutdown` from outside.
    ///
    /// # Errors
    /// [`Leftover`] names the threads that had not ended when the grace after the shutdown was over.
    ///
    /// # Blocking
    /// Until somebody begins the end, and then at most for three times the grace.
    pub fn join(&self) -> Result<(), Leftover> {
        self.core.closing.wait();
        self.end()
    }

    /// Like [`join`](Master::join), but gives the wait for the beginning of the end up after `limit`; false then.
    ///
    /// # Errors
    /// Those of [`join`](Master::join).
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
    /// [`Leftover`] names the threads that had not ended when the grace was over, because a callback or a hook has not returned.
    ///
    /// # Blocking
    /// At most for three times the grace.
    pub fn close(&self) -> Result<(), Leftover> {
        self.shutdown();
        self.end()
    }

    /// Joins what was told to end.
    fn end(&self) -> Result<(), Leftover> {
        let grace = self.core.settings.grace;
        let mut left = Vec::new();
        // It may take a whole grace to say goodbye; what comes after that is quick.
        if let Err(leftover) = self.sweeper.join_until(Instant::now() + 2 * grace) {
            left.extend(leftover.threads);
        }
        self.server.stop(); // done already, unless the sweeper could not
        let deadline = Instant::now() + grace;
        match self.core.results.shutdown(grace) {
            Ok(report) => {
                if report.dropped > 0 {
                    log::error!(
                        "master on {}: callbacks of {} tasks not run",
                        self.core.local_addr,
                        report.dropped
                    );
                }
                left.extend(report.still_running);
            }
            // Called by a callback: its own thread cannot be waited for.
            Err(error) => {
                log::debug!("master on {}: {error}", self.core.local_addr);
                left.push(self.core.results.stop());
            }
        }
        // It has been ending all the while.
        if let Err(leftover) = self.server.join_until(deadline) {
            left.extend(leftover.threads);
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(Leftover { threads: left })
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Err(leftover) = self.close() {
            log::warn!("master on {}: {leftover}", self.core.local_addr);
            self.sweeper.leave(); // it has been waited for
        }
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master")
            .field("local_addr", &self.core.local_addr)
            .field("channel", &self.core.settings.channel)
            .field("connected", &self.core.slaves.connected())
            .finish_non_exhaustive()
    }
}

/// What a master holds at a moment; see [`Master::stats`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connected slaves.
    pub connected: usize,
    /// Tasks that are open or wait for their callbacks.
    pub pending_tasks: usize,
    /// How often the HTTP server had to be rebuilt, for instance after the process was out of descriptors.
    pub server_rebuilt: u64,
    /// Requests whose claimed length was absurd; each leaves a thread and two descriptors behind.
    pub requests_abandoned: u64,
}
