//! A connection to one slave: connect, disconnect, and the handing over of tasks.
//!
//! Requests run on the caller's thread, without any lock. Where the connection
//! stands is kept in the master's maps (`slaves.rs`), so that every thread sees
//! the same.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::core::{Asked, Core, Failure};
use super::error::Error;
use super::handle::Missed;
use super::hooks;
use super::job::Job;
use super::slaves::Peer;
use super::task::Task;
use crate::http::{self, Method, Retry};
use crate::listener::Source;
use crate::task::Loss;
use crate::wire::address::Address;
use crate::wire::body::{self, ConnectRequest, DisconnectRequest, TaskRequest};
use crate::wire::token::Token;
use crate::wire::{Reply, SlaveCode};

/// Requests beyond this many bytes may break off unread where they are refused.
const UNREAD: usize = 128 << 10;

/// How long a slave may take to say what it has against a request that broke off.
const UNHEARD_LIMIT: Duration = Duration::from_secs(3);

/// A named connection from a [`Master`](super::Master) to one slave.
///
/// A handle: clones are the same connection. Made by
/// [`Master::new_connection`](super::Master::new_connection), which sends nothing;
/// [`connect`](Connection::connect) does. After the slave was lost, disconnected
/// or restarted the same connection can be connected again. The original's name
/// for it is `SlaveConnectionProxy`.
#[derive(Clone)]
pub struct Connection {
    pub(super) peer: Arc<Peer>,
    pub(super) core: Arc<Core>,
}

impl Connection {
    pub(super) fn new(peer: Arc<Peer>, core: Arc<Core>) -> Self {
        Self { peer, core }
    }

    /// Makes a connection; see [`Master::new_connection`](super::Master::new_connection).
    pub(super) fn open(core: &Arc<Core>, name: String, address: &str) -> Result<Self, Error> {
        core.check_running()?;
        let source = Source::try_from(name.as_str()).map_err(|error| Error::Setting {
            setting: "name",
            reason: error.to_string(),
        })?;
        let address = Address::of_slave(address).and_then(Address::reachable);
        let address = address.map_err(|source| Error::BadAddress { source })?;
        if core.slaves.is_taken(&name) {
            return Err(Error::NameTaken { name });
        }
        let token = Token::random().map_err(|source| Error::Start { source })?;
        let peer = Peer {
            id: core.next_id(),
            name,
            source,
            address,
            token,
        };
        Ok(Self::new(Arc::new(peer), core.clone()))
    }

    /// The name it has in its master. It never travels.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.peer.name
    }

    /// The slave's address, as `http://host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.peer.address.to_string()
    }

    /// Whether the slave is connected, as far as is known: it becomes false by
    /// itself when the slave is lost or says that it does not know this master.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.core.slaves.is_connected(self.peer.id)
    }

    /// Asks the slave to belong to this master; returns what [`Hooks::after_connect`](super::Hooks::after_connect) gives.
    ///
    /// The name is reserved and heartbeats are accepted from before the request
    /// is sent, and the name is free again when it fails.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::AlreadyConnected`], [`Error::InProgress`], [`Error::Stopped`] or [`Error::Hook`]
    /// before anything is sent; [`Error::Refused`], for instance
    /// [`SlaveAlreadyConnected`](SlaveCode::SlaveAlreadyConnected) if it belongs to another master;
    /// [`Error::Transport`] if no attempt was answered. The latter two pass through
    /// [`Hooks::error_connect`](super::Hooks::error_connect).
    ///
    /// # Blocking
    /// Until the slave has answered, at most for the request timeout of the
    /// [builder](super::Builder::request_timeout), plus the hooks.
    pub fn connect(&self) -> Result<Value, Error> {
        self.connect_as(&self.core.settings.retry, false)
    }

    /// Connects; one who is `patient` leaves a slave alone that is still to report a task of an earlier time.
    pub(super) fn connect_as(&self, retry: &Retry, patient: bool) -> Result<Value, Error> {
        self.core.check_running()?;
        // Whether the slave may believe that it is connected to us.
        let mut doubtful = self.core.slaves.reserve(&self.peer)?;
        let data = hooks::needed("before_connect", || {
            self.core.hooks.before_connect(self.name())
        });
        let data = data.inspect_err(|_| self.not_connected(doubtful))?;
        match self.send_connect(&data, &mut doubtful, retry, patient) {
            Ok(_) if !self.core.slaves.connected_now(self.peer.id, Instant::now()) => {
                Err(Error::Stopped)
            }
            Ok(reply) => {
                log::info!(
                    "slave {}: connected at {}",
                    self.peer.name,
                    self.peer.address
                );
                Ok(hooks::optional("after_connect", || {
                    self.core.hooks.after_connect(self.name(), &reply)
                }))
            }
            Err(failure) => {
                self.not_connected(doubtful || failure.may_have_arrived());
                let error = failure.of(&self.peer);
                hooks::on_error("error_connect", || {
                    self.core.hooks.error_connect(self.name(), error)
                })
            }
        }
    }

    /// Takes the reservation back. A slave that may believe that it is connected
    /// has its beats answered, and is told when one comes.
    fn not_connected(&self, may_believe_so: bool) {
        if may_believe_so {
            self.core.slaves.give_up(self.peer.id, Instant::now());
        } else {
            self.core.slaves.remove(self.peer.id);
        }
    }

    fn send_connect(
        &self,
        data: &Value,
        doubtful: &mut bool,
        retry: &Retry,
        patient: bool,
    ) -> Result<Reply, Failure> {
        let address = match &self.core.settings.my_address {
            Some(address) => address.clone(),
            None => self
                .own_address()
                .map_err(|source| http::Error::Unreachable {
                    address: self.address(),
                    source: source.into(),
                })?,
        };
        let request = ConnectRequest::write(&address, data);
        let asked = self.ask(Method::Post, "/connect", &request, retry)?;
        let taken = matches!(&asked.answer, Err(no) if no.code == SlaveCode::SlaveAlreadyConnected);
        *doubtful = asked.repeated || *doubtful && taken;
        // It may be connected to us: our first attempt was answered into the void, or we gave it up.
        // Only our token can end that connection.
        let may_ask = || !patient || !self.core.slaves.owes(self.peer.id, Instant::now());
        if taken && *doubtful && may_ask() {
            let goodbye = DisconnectRequest::write(&Value::Null);
            let gone = self
                .ask(Method::Delete, "/disconnect", &goodbye, retry)?
                .answer
                .is_ok();
            if gone {
                *doubtful = false;
                return Ok(self
                    .ask(Method::Post, "/connect", &request, retry)?
                    .answer?);
            }
        }
        Ok(asked.answer?)
    }

    /// The address by which the slave can reach this master: our end of the route to it.
    fn own_address(&self) -> io::Result<Address> {
        let bound = self.core.local_addr;
        let ip = if bound.ip().is_unspecified() {
            self.route()?
        } else {
            bound.ip()
        };
        Ok(Address::from(SocketAddr::new(ip, bound.port())))
    }

    fn route(&self) -> io::Result<IpAddr> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for slave in (self.peer.address.host(), self.peer.address.port()).to_socket_addrs()? {
            let any: IpAddr = if slave.is_ipv4() {
                [0; 4].into()
            } else {
                [0; 16].into()
            };
            // Connecting a datagram socket sends nothing; it makes the system choose the route.
            let route = UdpSocket::bind((any, 0)).and_then(|socket| {
                socket.connect(slave)?;
                Ok(socket.local_addr()?.ip())
            });
            match route {
                Ok(ip) if !ip.is_unspecified() => return Ok(ip),
                Ok(_) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Ends the connection; returns what [`Hooks::after_disconnect`](super::Hooks::after_disconnect) gives.
    ///
    /// Tasks open at the slave end as lost. A Python slave that is running one is
    /// unusable afterwards, so wait for it first. A slave that was given up is told,
    /// if it can be reached; one that does not know us any more counts as disconnected.
    ///
    /// # Errors
    /// [`Error::NotConnected`], [`Error::InProgress`] or [`Error::Hook`] before anything is sent;
    /// [`Error::Refused`]: after [`SlaveDisconnectionRefused`](SlaveCode::SlaveDisconnectionRefused) the connection stays,
    /// after any other code it has ended on this side; [`Error::Transport`] if no attempt was
    /// answered: it has ended on this side. The latter two pass through
    /// [`Hooks::error_disconnect`](super::Hooks::error_disconnect).
    ///
    /// # Blocking
    /// Like [`connect`](Connection::connect).
    pub fn disconnect(&self) -> Result<Value, Error> {
        self.disconnect_as(&self.core.settings.retry)
    }

    pub(super) fn disconnect_as(&self, retry: &Retry) -> Result<Value, Error> {
        self.core.slaves.leave(&self.peer)?;
        let data = match hooks::needed("before_disconnect", || {
            self.core.hooks.before_disconnect(self.name())
        }) {
            Ok(data) => data,
            Err(error) => {
                self.core.slaves.stay(self.peer.id, Instant::now());
                return Err(error);
            }
        };
        match self
            .core
            .send_disconnect(&self.peer, &data, retry, &Loss::Disconnected)
        {
            Ok(reply) => {
                log::info!("slave {}: disconnected", self.peer.name);
                Ok(hooks::optional("after_disconnect", || {
                    self.core.hooks.after_disconnect(self.name(), &reply)
                }))
            }
            Err(failure) => {
                let error = failure.of(&self.peer);
                hooks::on_error("error_disconnect", || {
                    self.core.hooks.error_disconnect(self.name(), error)
                })
            }
        }
    }

    /// Makes a task for this slave. Nothing is sent until it is [started](Task::start).
    ///
    /// Data that Python regards as empty (null, false, 0, "", [], {}) reaches the slave as `{}`.
    ///
    /// # Errors
    /// [`Error::Unserializable`] if `data` is not expressible in JSON, for instance a map with keys that are no text.
    pub fn new_task(&self, data: impl Serialize) -> Result<Task, Error> {
        let data = serde_json::to_value(data).map_err(|source| Error::Unserializable { source })?;
        let job = Job::new(Uuid::new_v4(), Arc::new(data));
        Ok(Task::of(self.clone(), Arc::new(job)))
    }

    /// Hands the job over to the slave, and sees to its state. The one place where a started task leaves the master.
    ///
    /// Beside what [`Hooks::error_new_task`](super::Hooks::error_new_task) makes of an error stands what it was.
    pub(super) fn start_as(
        &self,
        job: &Arc<Job>,
        retry: &Retry,
    ) -> Result<(), (Missed, Result<(), Error>)> {
        let failure = match self.hand_over(job, retry) {
            Ok(reply) => {
                job.started();
                hooks::optional("after_new_task", || {
                    self.core.hooks.after_new_task(self.name(), &reply)
                });
                return Ok(());
            }
            Err(StartFailure::Early(error)) => {
                job.start_failed();
                return Err((Missed::early(&error), Err(error)));
            }
            Err(StartFailure::Request(failure)) => failure,
        };
        if !job.start_failed() && job.was_reported() {
            return Ok(()); // the slave had accepted, whatever became of its answer
        }
        let missed = Missed::at_slave(&failure);
        let error = failure.of(&self.peer);
        let told = hooks::on_error("error_new_task", || {
            self.core.hooks.error_new_task(self.name(), error)
        });
        Err((missed, told))
    }

    fn hand_over(&self, job: &Arc<Job>, retry: &Retry) -> Result<Reply, StartFailure> {
        self.core.check_running().map_err(StartFailure::Early)?;
        let data = hooks::needed("before_new_task", || {
            self.core.hooks.before_new_task(self.name(), job.data())
        })
        .map_err(StartFailure::Early)?;
        self.core
            .open(&self.peer, job)
            .map_err(StartFailure::Early)?;
        self.send_task(job, &data, retry).map_err(|failure| {
            self.core.unopen(&self.peer, job);
            if let Failure::Refused { refusal, .. } = &failure
                && refusal.code == SlaveCode::MasterTokenInvalid
            {
                self.core.forgotten(&self.peer);
            }
            StartFailure::Request(failure)
        })
    }

    fn send_task(&self, job: &Job, data: &Value, retry: &Retry) -> Result<Reply, Failure> {
        let request = TaskRequest::write(job.id(), data);
        let asked = match self.ask(Method::Post, "/task/new", &request, retry) {
            Err(failure @ Failure::Transport(http::Error::Broken { .. }))
                if request.len() > UNREAD =>
            {
                self.refusal_unheard().ok_or(failure)?
            }
            asked => asked?,
        };
        match asked.answer {
            // After an attempt that may have arrived, "already has a task" means this very one,
            // unless another task of ours is open there.
            Err(refusal)
                if asked.repeated
                    && refusal.code == SlaveCode::TaskAlreadyExist
                    && self.core.slaves.open_count(self.peer.id) == 1 =>
            {
                Ok(refusal.into_reply())
            }
            answer => answer.map_err(|refusal| Failure::Refused {
                refusal,
                repeated: asked.repeated,
            }),
        }
    }

    /// What the slave has against a large request that broke off, if it answers a small one.
    ///
    /// A Python slave that refuses a request by its head closes without reading
    /// the body, which on this side looks like a broken connection. It reads the
    /// body before it says that it has a task, so that is no refusal by the head.
    fn refusal_unheard(&self) -> Option<Asked> {
        use SlaveCode::{ChannelInvalid, MasterTokenInvalid, SystemShuttingDown, TaskAlreadyExist};
        let retry = Retry {
            retries: 0,
            waiting: Duration::ZERO,
            total: UNHEARD_LIMIT.min(self.core.settings.retry.total),
        };
        let asked = self
            .core
            .ask(&self.peer, Method::Post, "/task/new", body::EMPTY, &retry);
        let answer = asked.ok()?.answer;
        let code = answer.as_ref().err()?.code;
        let telling = [
            ChannelInvalid,
            MasterTokenInvalid,
            SystemShuttingDown,
            TaskAlreadyExist,
        ];
        telling.contains(&code).then_some(Asked {
            answer,
            repeated: true,
        })
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        request: &[u8],
        retry: &Retry,
    ) -> Result<Asked, Failure> {
        Ok(self.core.ask(&self.peer, method, path, request, retry)?)
    }
}

/// Why a task could not be handed over.
enum StartFailure {
    /// Nothing was sent.
    Early(Error),
    Request(Failure),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("name", &self.peer.name)
            .field("address", &self.address())
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}
