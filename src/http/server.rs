//! The HTTP server: a fence around `tiny_http`, which this file and those in `server/` alone know.
//!
//! One thread, the dispatcher, receives requests and answers them, with the
//! help of body threads where a body is not in memory yet. It owns the
//! `tiny_http::Server` of the moment and makes another one when that has died,
//! which happens on the first failed `accept`, at times without a word.
//!
//! What no code outside `tiny_http` can prevent: a client that stays idle or
//! does not finish its head or body holds a thread for as long as it stays, as
//! does, for the life of the process, one that claims a body beyond any memory
//! or asks for HTTP/2; a client that does not read holds the dispatcher for up
//! to twice the write limit with each answer that no buffer takes, and keeps its
//! connection after that; lines and numbers of headers have no limit; a head
//! that is not ASCII ends its connection without an answer, one that cannot be
//! parsed gets a bare 400; blanks at the end of a header's value are lost; a
//! reset before the head makes a thread of `tiny_http` panic, which costs that
//! thread; in a burst some connections wait until another one ends, or for the
//! next `Server::check`. Where strangers reach the port, a reverse proxy belongs in front.

mod desk;
mod dispatcher;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::desk::Desk;
use self::dispatcher::Dispatcher;
use super::bodies::Bodies;
use super::listener::Listener;
use super::request::Head;
use super::response::{Fault, Response};
use crate::lifecycle::{GRACE, Leftover, Stop, Threads, spawn};

/// How often its owner should [check](Server::check) a server.
pub(crate) const CHECK_SPAN: Duration = Duration::from_secs(5);
/// How long a probe waits for the connection, and then for the answer.
const PROBE: Duration = Duration::from_secs(1);

/// What a server bears from its clients.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The longest body in bytes, up to 1 GiB. Default: 64 MiB.
    pub(crate) body: usize,
    /// How many bodies of more than 1024 bytes are read at a time. Default: 64.
    pub(crate) bodies: usize,
    /// How long a client may take nothing of an answer; up to twice as long if it takes a part. Default: 10 s.
    pub(crate) write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 << 20,
            bodies: 64,
            write: Duration::from_secs(10),
        }
    }
}

/// What a server does with requests.
///
/// Called by the dispatcher, one request at a time, and beside it by body
/// threads. While it runs on the dispatcher, no other request is answered. A
/// panic is answered with [`Fault::Panicked`] and goes no further.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Judges the head (route, authentication) before any of the body is read.
    fn head(&self, head: &Head) -> Step;

    /// The answer to what the handler does not see.
    fn fault(&self, fault: Fault) -> Response;
}

/// What to do after a head.
pub(crate) enum Step {
    /// Answer without the body.
    Answer(Response),
    /// Read the body, and answer what this makes of it; of a fault, if it is too long or does not come whole.
    Read(Work),
    /// Answer what this returns. It may take its time: it runs on a body thread.
    Wait(Box<dyn FnOnce() -> Response + Send>),
}

/// What makes an answer of a body, or of the reason why there is none.
pub(crate) type Work = Box<dyn FnOnce(Result<&[u8], Fault>) -> Response + Send>;

/// What has happened to a server so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerStats {
    /// How often it had to be made anew.
    pub(crate) rebuilt: u64,
    /// Connections left open for good, with a thread each, because of an absurd length.
    pub(crate) abandoned: u64,
    /// Requests refused because too many bodies were being read.
    pub(crate) refused: u64,
}

/// A running server. Dropping it stops it and waits with the default grace.
///
/// Owns the dispatcher thread and, by way of it, the body threads. They end in
/// this order: the dispatcher answers what has been received, then the body
/// threads end with the bodies they read.
pub(crate) struct Server {
    control: Arc<Control>,
    bodies: Arc<Bodies>,
    dispatcher: Threads,
    /// Somebody has waited for the threads in vain.
    waited: AtomicBool,
}

/// What the dispatcher, the body threads and the owner share.
struct Control {
    name: String,
    addr: SocketAddr,
    loopback: SocketAddr,
    stop: Stop,
    /// `None` once the server has ended.
    listener: Mutex<Option<Arc<Listener>>>,
    /// The server of the moment, to wake the dispatcher by.
    current: Mutex<Option<Arc<tiny_http::Server>>>,
    /// True while the dispatcher is with a request, or between two servers.
    busy: AtomicBool,
    /// Answers to requests that came on a connection of their own.
    answered: AtomicU64,
    answered_before: AtomicU64,
    failed_probes: AtomicU32,
    suspected: AtomicBool,
    rebuilt: AtomicU64,
    abandoned: AtomicU64,
    refused: AtomicU64,
}

impl Listener {
    /// Starts to answer clients.
    ///
    /// `name` begins the names of the threads: `m7235` makes `m7235-http` and
    /// `m7235-body`. With `keep`, clients that are this library keep their
    /// connection; all others are told to close after each answer.
    pub(crate) fn serve(
        self,
        name: &str,
        limits: Limits,
        keep: bool,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Server> {
        self.set_write_deadline(limits.write)?;
        let control = Arc::new(Control {
            name: name.to_owned(),
            addr: self.local_addr(),
            loopback: self.loopback(),
            stop: Stop::new(),
            listener: Mutex::new(Some(Arc::new(self))),
            current: Mutex::new(None),
            busy: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            answered_before: AtomicU64::new(0),
            failed_probes: AtomicU32::new(0),
            suspected: AtomicBool::new(false),
            rebuilt: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let bodies = Arc::new(Bodies::new(format!("{name}-body"), limits.bodies));
        let desk = Desk::new(control.clone(), bodies.clone(), handler, limits.body, keep);
        let dispatcher = Dispatcher::new(control.clone(), desk);
        // `tiny_http` names no thread of its own, so that they show the name of their maker.
        let (ready, made) = crossbeam_channel::bounded(1);
        let thread = spawn(format!("{name}-http"), move || dispatcher.run(&ready))?;
        let server = Server {
            control,
            bodies,
            dispatcher: Threads::from(thread),
            waited: AtomicBool::new(false),
        };
        match made.recv() {
            Ok(Ok(())) => Ok(server),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the dispatcher ended at its start")),
        }
    }
}

impl Server {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.control.addr
    }

    pub(crate) fn stats(&self) -> ServerStats {
        ServerStats {
            rebuilt: self.control.rebuilt.load(Ordering::Relaxed),
            abandoned: self.control.abandoned.load(Ordering::Relaxed),
            refused: self.control.refused.load(Ordering::Relaxed),
        }
    }

    /// Asks the server something, as a client would, unless it has answered
    /// since the last check or is at it; rebuilds it after two failures in a row.
    ///
    /// For one thread, every few seconds.
    ///
    /// # Blocking
    /// Up to 2 s, of a server that has died.
    pub(crate) fn check(&self) {
        let control = &self.control;
        if control.stop.is_stopped() || control.busy.load(Ordering::Relaxed) {
            return;
        }
        let answered = control.answered.load(Ordering::Relaxed);
        let before = control.answered_before.swap(answered, Ordering::Relaxed);
        if answered == before {
            if let Err(error) = probe(control.loopback) {
                let failed = control.failed_probes.fetch_add(1, Ordering::Relaxed) + 1;
                log::warn!("server {}: no answer to a probe: {error}", control.name);
                if failed >= 2 {
                    control.failed_probes.store(0, Ordering::Relaxed);
                    control.suspected.store(true, Ordering::Relaxed);
                    control.wake();
                }
                return;
            }
            let answered = control.answered.load(Ordering::Relaxed);
            control.answered_before.store(answered, Ordering::Relaxed);
        }
        control.failed_probes.store(0, Ordering::Relaxed);
    }

    /// Stops: requests are answered with [`Fault::Stopping`] for a moment, then
    /// connections are refused.
    ///
    /// Returns at once, also in a handler, whose answer is still sent.
    pub(crate) fn stop(&self) {
        let control = &self.control;
        if control.stop.stop() {
            control.wake();
        }
    }

    /// Waits for the end of all threads. After `Ok` the port is free.
    ///
    /// # Errors
    /// The threads that are still running at `deadline`: the dispatcher, if a
    /// handler holds it, and body threads whose clients do not go on.
    pub(crate) fn join_until(&self, deadline: Instant) -> Result<(), Leftover> {
        let dispatcher = self.dispatcher.join_until(deadline);
        let joined = [dispatcher, self.bodies.join_until(deadline)];
        let left = joined.into_iter().filter_map(Result::err);
        let threads: Vec<String> = left.flat_map(|leftover| leftover.threads).collect();
        if threads.is_empty() {
            return Ok(());
        }
        self.waited.store(true, Ordering::Relaxed);
        Err(Leftover { threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        // Who was told of what is left has waited long enough.
        let waited = self.waited.load(Ordering::Relaxed);
        let grace = if waited { Duration::ZERO } else { GRACE };
        if let Err(left) = self.join_until(Instant::now() + grace) {
            log::warn!("server {}: {left}", self.control.name);
            self.dispatcher.leave();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.control.name)
            .field("addr", &self.control.addr)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Control {
    fn wake(&self) {
        let current = self.current.lock().clone();
        if let Some(server) = current {
            server.unblock();
        }
    }
}

/// Whether a server answers: `OPTIONS *` is HTTP's way to ask nothing in particular.
fn probe(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, PROBE)?;
    stream.set_read_timeout(Some(PROBE))?;
    stream.set_write_timeout(Some(PROBE))?;
    stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    stream.read_exact(&mut [0])?;
    // The rest too: a close with unread bytes would be a reset.
    let _ = io::copy(&mut stream.take(1024), &mut io::sink());
    Ok(())
}
