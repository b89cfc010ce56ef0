//! The thread that receives requests, and what it receives them from.
//!
//! It owns the `tiny_http::Server` of the moment, and for a while those before
//! it: a server that accepts no more still has connections whose requests come.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Control;
use super::desk::Desk;
use crate::lifecycle::{Stop, catch};

/// How long a stopping server waits for requests that are being received.
const LATE: Duration = Duration::from_millis(20);
/// How long it does so in all, if they keep coming.
const LATEST: Duration = Duration::from_millis(500);
/// How long a server that accepts takes to accept.
const WAKE: Duration = Duration::from_millis(100);
/// How long the dispatcher waits for a request. Nothing depends on it: whoever wants it, wakes it.
const IDLE: Duration = Duration::from_secs(60);
/// How long a server that accepts no more is still listened to, and how often.
const RETIREMENT: Duration = Duration::from_secs(10);
const RETIRED_POLL: Duration = Duration::from_millis(20);
/// The pause before the first rebuilding in a row, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The dispatcher thread.
pub(super) struct Dispatcher {
    control: Arc<Control>,
    desk: Arc<Desk>,
}

/// A server that accepts no more, and since when. Its connections live on.
type Retired = (Instant, Arc<tiny_http::Server>);

impl Dispatcher {
    pub(super) fn new(control: Arc<Control>, desk: Desk) -> Self {
        let desk = Arc::new(desk);
        Self { control, desk }
    }

    /// Runs until the stop; reports on `ready` whether it could begin.
    pub(super) fn run(self, ready: &Sender<io::Result<()>>) {
        let mut server = match self.open() {
            Ok(server) => server,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let mut retired: Vec<Retired> = Vec::new();
        let mut pause = FIRST_PAUSE;
        while !self.control.stop.is_stopped() {
            let limit = if retired.is_empty() {
                IDLE
            } else {
                RETIRED_POLL
            };
            let failure = match server.recv_timeout(limit) {
                Ok(Some(request)) => {
                    self.handle(request);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error.to_string()),
            };
            let suspected = self.control.suspected.swap(false, Ordering::Relaxed);
            let failure = failure.or_else(|| suspected.then(|| "two probes failed".to_owned()));
            if let Some(failure) = failure.filter(|_| !self.control.stop.is_stopped()) {
                let Some(next) = self.rebuild(&failure, suspected, &mut pause) else {
                    break;
                };
                retired.push((Instant::now(), std::mem::replace(&mut server, next)));
            } else if retired.is_empty() {
                pause = FIRST_PAUSE; // calm for a while
            }
            for (_, old) in &retired {
                while let Ok(Some(request)) = old.try_recv() {
                    self.handle(request);
                }
            }
            for (_, old) in retired.extract_if(.., |(since, _)| since.elapsed() >= RETIREMENT) {
                self.desk.discard(Box::new(old)); // whose drop connects to the port
            }
        }
        self.finish(server, retired);
    }

    fn handle(&self, request: tiny_http::Request) {
        self.control.busy.store(true, Ordering::Relaxed);
        // The handler's panics are caught nearer to it; this is for those of `tiny_http`.
        if catch(|| self.desk.take(request)).is_err() {
            log::error!("server {}: a request panicked", self.control.name);
        }
        self.control.busy.store(false, Ordering::Relaxed);
    }

    /// Makes a server from the listener.
    fn open(&self) -> io::Result<Arc<tiny_http::Server>> {
        let listener = self.control.listener.lock().clone();
        let listener = listener.ok_or(io::ErrorKind::NotConnected)?.try_clone()?;
        // `tiny_http` panics if it gets no thread.
        let opened = catch(|| tiny_http::Server::from_listener(listener, None));
        let server = match opened {
            Ok(server) => Arc::new(server.map_err(io::Error::other)?),
            Err(_) => return Err(io::Error::other("no thread to accept connections")),
        };
        let before = self.control.current.lock().replace(server.clone());
        drop(before);
        Ok(server)
    }

    /// Makes another server, however often that must be tried; `None` at a stop.
    fn rebuild(
        &self,
        failure: &str,
        suspected: bool,
        pause: &mut Duration,
    ) -> Option<Arc<tiny_http::Server>> {
        let control = &self.control;
        control.busy.store(true, Ordering::Relaxed);
        // A server that is only suspected may still accept; then it must not go on.
        let listener = control.listener.lock().clone()?;
        if suspected {
            listener.close();
        }
        let mut failure = failure.to_owned();
        loop {
            log::warn!(
                "server {}: accepts no connections ({failure}), opening again in {pause:?}",
                control.name
            );
            if control.stop.wait_timeout(*pause) {
                return None;
            }
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            let reopened = if suspected { listener.reopen() } else { Ok(()) };
            match reopened.and_then(|()| self.open()) {
                Ok(server) => {
                    control.rebuilt.fetch_add(1, Ordering::Relaxed);
                    control.busy.store(false, Ordering::Relaxed);
                    return Some(server);
                }
                Err(error) => failure = error.to_string(),
            }
        }
    }

    /// Answers what has been received, and gives up the port.
    fn finish(self, server: Arc<tiny_http::Server>, retired: Vec<Retired>) {
        let latest = Instant::now() + LATEST;
        let mut until = Instant::now() + LATE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match server.recv_timeout(left) {
                Ok(Some(request)) => {
                    self.handle(request);
                    until = latest.min(Instant::now() + LATE);
                }
                // What wakes the dispatcher looks like the end of the time.
                Ok(None) | Err(_) if left.is_zero() => break,
                Ok(None) | Err(_) => {}
            }
        }
        for (_, old) in &retired {
            while let Ok(Some(request)) = old.try_recv() {
                self.handle(request);
            }
        }
        self.desk.say_goodbye();
        let current = self.control.current.lock().take();
        drop(current);
        let Some(listener) = self.control.listener.lock().take() else {
            return;
        };
        // A drop wakes its accepting thread by a connection, and waits for that without limit.
        if TcpStream::connect_timeout(&self.control.loopback, WAKE).is_err() {
            listener.close();
        }
        drop((retired, server));
        // Time for that thread to see that it is to end: it would log the end of the listener as an error.
        Stop::new().wait_timeout(Duration::from_millis(2));
        listener.close();
    }
}
