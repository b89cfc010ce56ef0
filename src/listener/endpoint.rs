//! Where child processes reach a listener: the socket, the thread that accepts, and the end of both.
//!
//! A [`Door`] belongs to each listener and is shared with its stoppers; it is closed until the first
//! call of `endpoint`. Open, it has a [`Hub`], which its threads share: one accepts and never waits
//! for a connection it has accepted, one for each connection does the rest (`connection.rs`). The
//! order of the end is: the gate of the queue, the bell, the threads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use crate::lifecycle::{GRACE, Threads, spawn};

use super::connection;
use super::end::Refused;
use super::error::Error;
use super::queue::Queue;
use super::transport::{Acceptor, Bell, Stream, Transport};

/// The variable of a child's environment that has the address.
pub(super) const ADDRESS: &str = "INTERPLAY_LISTENER";

/// The variable of a child's environment that has the token.
pub(super) const TOKEN: &str = "INTERPLAY_LISTENER_TOKEN";

/// How long no connection is accepted after the system failed to give one.
const PAUSE: Duration = Duration::from_millis(100);

/// What child processes may do.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) max_frame: usize,
    pub(super) max_connections: usize,
    pub(super) hello_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) transport: Transport,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame: 16 << 20,
            max_connections: 256,
            hello_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(1),
            transport: Transport::default(),
        }
    }
}

/// Where a child process reaches its listener, and what lets it in.
///
/// It holds nothing open: the listener does. Anyone who has it can post to the listener under any
/// source that is not connected, so it is to go to children only.
///
/// # Example
/// ```no_run
/// use std::process::Command;
/// use interplay::listener::{Listener, Message};
///
/// let listener = Listener::builder()
///     .default_handler(|message: Message| {
///         println!("{}: {} {}", message.source, message.cmd, message.data);
///         Ok(())
///     })
///     .start()?;
/// let endpoint = listener.endpoint()?;
/// let mut child = Command::new("./trainer").envs(endpoint.env()).spawn()?;
/// child.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    address: Arc<str>,
    token: Token,
}

impl Endpoint {
    /// The environment of a child, for [`Command::envs`](std::process::Command::envs): address and
    /// token. Children of the child inherit it.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            (ADDRESS, self.address.to_string()),
            (TOKEN, self.token.0.to_string()),
        ]
    }

    /// The address: the path of a socket, or `tcp:127.0.0.1:` and a port.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// 128 random bits as 32 hexadecimal digits.
#[derive(Clone)]
struct Token(Arc<str>);

impl Token {
    fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let text = format!("{:032x}", u128::from_ne_bytes(bytes));
        Ok(Self(text.into()))
    }

    /// The time this takes tells the length at most.
    fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

/// The way in for child processes, open or not.
pub(super) struct Door {
    name: String,
    limits: Limits,
    /// Held while the socket is made, so that two first calls make one; nobody else waits for it.
    opening: Mutex<()>,
    hub: Mutex<Option<Arc<Hub>>>,
}

/// What the threads of an open door share.
pub(super) struct Hub {
    /// The name of the listener.
    pub(super) name: String,
    pub(super) limits: Limits,
    /// Rung at the stop.
    pub(super) bell: Bell,
    endpoint: Endpoint,
    /// How many connections there are.
    present: AtomicUsize,
    threads: Threads,
}

impl Door {
    pub(super) fn new(name: String, limits: Limits) -> Self {
        Self {
            name,
            limits,
            opening: Mutex::new(()),
            hub: Mutex::new(None),
        }
    }

    pub(super) fn open<D>(&self, queue: &Arc<Queue<D>>) -> Result<Endpoint, Error>
    where
        D: DeserializeOwned + Send + 'static,
    {
        let _opening = self.opening.lock();
        if queue.is_closed() {
            return Err(Error::Stopped);
        }
        if let Some(hub) = &*self.hub.lock() {
            return Ok(hub.endpoint.clone());
        }
        let (hub, acceptor) = self
            .make_hub()
            .map_err(|source| Error::NoSocket { source })?;
        let hub = Arc::new(hub);
        let accept = spawn(hub.thread_name("ac"), {
            let (hub, queue) = (Arc::clone(&hub), Arc::clone(queue));
            move || hub.accept(&acceptor, &queue)
        });
        let accept = accept.map_err(|source| Error::NoThread { source })?;
        hub.threads.push(accept);
        *self.hub.lock() = Some(Arc::clone(&hub));
        // A stop either finds the hub, or has closed the gate before this look.
        if queue.is_closed() {
            self.close();
            self.join(Instant::now() + GRACE);
            return Err(Error::Stopped);
        }
        Ok(hub.endpoint.clone())
    }

    fn make_hub(&self) -> std::io::Result<(Hub, Acceptor)> {
        let acceptor = Acceptor::bind(self.limits.transport)?;
        let hub = Hub {
            name: self.name.clone(),
            limits: self.limits.clone(),
            bell: Bell::new()?,
            endpoint: Endpoint {
                address: acceptor.address().into(),
                token: Token::random()?,
            },
            present: AtomicUsize::new(0),
            threads: Threads::default(),
        };
        Ok((hub, acceptor))
    }

    fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.lock().clone()
    }

    /// Rings the bell: no connection is accepted any more, and the children are told.
    pub(super) fn close(&self) {
        if let Some(hub) = self.hub() {
            hub.bell.ring();
        }
    }

    /// Waits for the threads of a door that was closed; returns the name of one that did not end.
    pub(super) fn join(&self, deadline: Instant) -> Option<String> {
        let hub = self.hub()?;
        let left = hub.threads.join_until(deadline).err();
        hub.threads.leave();
        // What outlives the listener, such as a stopper, is to keep no descriptor open.
        let old = self.hub.lock().take();
        drop(old);
        let name = left?.threads.swap_remove(0);
        log::warn!(
            "listener {}: thread {name} runs on after the stop",
            self.name
        );
        Some(name)
    }

    /// Leaves the threads of a door that was closed to themselves.
    pub(super) fn leave(&self) {
        if let Some(hub) = self.hub.lock().take() {
            hub.threads.leave();
        }
    }
}

impl Hub {
    pub(super) fn is_token(&self, text: &str) -> bool {
        self.endpoint.token.is(text)
    }

    /// The name of a thread: the listener's, cut so that the duty is always there.
    fn thread_name(&self, duty: &str) -> String {
        let name = &self.name[..self.name.floor_char_boundary(12)];
        format!("{name}:{duty}")
    }

    /// The loop of the thread that accepts.
    fn accept<D>(self: &Arc<Self>, acceptor: &Acceptor, queue: &Arc<Queue<D>>)
    where
        D: DeserializeOwned + Send + 'static,
    {
        let name = &self.name;
        log::info!("listener {name}: open to children");
        loop {
            match acceptor.accept(&self.bell) {
                Ok(Some(stream)) => self.receive(stream, queue),
                Ok(None) => return,
                Err(error) => {
                    log::warn!("listener {name}: no connection accepted: {error}");
                    if self.bell.wait(PAUSE) {
                        return;
                    }
                }
            }
        }
    }

    /// Gives a connection a thread, or turns it away.
    fn receive<D>(self: &Arc<Self>, stream: Stream, queue: &Arc<Queue<D>>)
    where
        D: DeserializeOwned + Send + 'static,
    {
        self.threads.reap();
        // Only this thread adds, so nobody comes between the look and the count.
        if self.present.load(Ordering::Relaxed) >= self.limits.max_connections {
            connection::turn_away(self, queue, &stream, Refused::TooMany);
            return;
        }
        self.present.fetch_add(1, Ordering::Relaxed);
        let present = Present(Arc::clone(self));
        let queue = Arc::clone(queue);
        let thread = spawn(self.thread_name("rd"), move || {
            connection::serve(present, &queue, stream);
        });
        match thread {
            Ok(thread) => self.threads.push(thread),
            // The connection was dropped with the thread's duty.
            Err(error) => log::warn!("listener {}: no thread for a child: {error}", self.name),
        }
    }
}

/// The place of a connection among those there may be at a time.
pub(super) struct Present(Arc<Hub>);

impl Present {
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.0
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
