//! From an address, or somebody who has come, to a link: connect and opening, on short-lived threads.

use std::collections::VecDeque;
use std::error::Error as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::accept::{Door, turn_away};
use super::peering::{Peering, Session};
use super::shared::{Come, Shared, count};
use crate::concerns::address::split;
use crate::concerns::envelope::{encode_shake, longest_frame};
use crate::concerns::event::Event;
use crate::concerns::handshake::HandshakeError;
use crate::concerns::hello::{Refusal, RefusalCode, Shake, Side};
use crate::concerns::identity::Identity;
use crate::lifecycle::{Leftover, Thread, Threads, spawn};
use crate::protocol::{Addr, Error, Kind, Loop, Options};

/// How many dials, and how many openings of others, are under way at a time.
const AT_ONCE: usize = 16;

/// How long one attempt to connect, and one opening, may take at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a link that is closed may take to write what is queued.
const FLUSH: Duration = Duration::from_secs(1);

/// How long the last words of a peer are waited for that takes no more of ours.
const DRAIN: Duration = Duration::from_millis(100);

/// A link on the calling thread.
fn establish(shared: &Arc<Shared>, addr: Addr, side: Side) -> Result<Session, Error> {
    let peering = Peering::new(shared.clone(), side);
    let fixed = &shared.fixed;
    // Names of threads have room for three digits.
    let number = peering.account.id.0 % 1_000;
    let options = Options::new()
        .connect_timeout(fixed.patience)
        .handshake_timeout(fixed.patience)
        .flush_timeout(FLUSH)
        .drain_timeout(DRAIN)
        .max_message(longest_frame(fixed.max_payload))
        .name(format!("{}-{number}", shared.short_name()));
    let inner = Loop::new(peering, options);
    let connected = inner.connect(addr, &shared.cancel);
    connected.map(|()| Session::new(inner))
}

/// The dials of the node's thread, and all helper threads.
pub(super) struct Dials {
    shared: Arc<Shared>,
    waiting: VecDeque<Dial>,
    running: usize,
    threads: Arc<Threads>,
}

struct Dial {
    number: u64,
    address: String,
    expect: Option<Identity>,
}

impl Dials {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            waiting: VecDeque::new(),
            running: 0,
            threads: Arc::default(),
        }
    }

    /// Dials as soon as there is a thread free for it. The outcome comes by the line.
    pub(super) fn dial(&mut self, number: u64, address: String, expect: Option<Identity>) {
        self.waiting.push_back(Dial {
            number,
            address,
            expect,
        });
        self.go_on();
    }

    /// One of the dials has come to its end.
    pub(super) fn done(&mut self) {
        self.running = self.running.saturating_sub(1);
        self.go_on();
    }

    fn go_on(&mut self) {
        while self.running < AT_ONCE
            && let Some(dial) = self.waiting.pop_front()
        {
            self.threads.reap();
            let mut promise = Promise {
                shared: self.shared.clone(),
                dial: dial.number,
                reason: "the node could not try".to_owned(),
                kept: false,
            };
            self.running += 1;
            // If there is no thread, the promise goes with its duty, and says so.
            match spawn(self.shared.thread_name("out"), move || promise.keep(dial)) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => log::warn!("node {}: no dial: {error}", self.shared.fixed.name),
            }
        }
    }

    /// Starts the thread that accepts.
    pub(super) fn accept(&self, door: Door) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let threads = Arc::downgrade(&self.threads);
        let accept = spawn(shared.thread_name("acc"), move || {
            let name = shared.fixed.name.clone();
            door.accept(&shared.bell, &name, |stream, from| {
                if let Some(threads) = threads.upgrade() {
                    receive(&shared, stream, from, &threads);
                }
            });
        });
        self.threads.push(accept?);
        Ok(())
    }

    /// A thread that ends when the node does.
    pub(super) fn keep(&self, thread: Thread) {
        self.threads.push(thread);
    }

    /// Waits for all helper threads; those that have not ended by the deadline are left to themselves.
    pub(super) fn join_until(&self, deadline: Instant) -> Result<(), Leftover> {
        let joined = self.threads.join_until(deadline);
        self.threads.leave();
        joined
    }
}

/// The duty to tell of a dial's outcome.
struct Promise {
    shared: Arc<Shared>,
    dial: u64,
    reason: String,
    kept: bool,
}

impl Promise {
    fn keep(&mut self, dial: Dial) {
        let Dial {
            address, expect, ..
        } = dial;
        let Some((host, port)) =
            split(&address).and_then(|(host, port)| Some((host, port.parse().ok()?)))
        else {
            self.reason = format!("{address:?} is no address");
            return;
        };
        match establish(
            &self.shared,
            Addr::Tcp(host.to_owned(), port),
            Side::Dialer { expect },
        ) {
            Ok(session) => {
                self.shared.forget_refusal(&address);
                self.kept = true;
                let dial = Some(self.dial);
                let _ = self.shared.line.push(Come::Up { session, dial });
            }
            Err(error) => {
                if *error.kind() == Kind::Handshake {
                    dial_refused(&self.shared, address, &error);
                }
                self.reason = error.report();
            }
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            let dial = self.dial;
            let reason = std::mem::take(&mut self.reason);
            let _ = self.shared.line.push(Come::DialFailed { dial, reason });
        }
    }
}

/// Tells of a dial that was refused; of the same refusal at the same address once only, for it is dialed again.
fn dial_refused(shared: &Shared, address: String, error: &Error) {
    let code = refusal(error).map(|refusal| refusal.code.clone());
    if shared.note_refusal(address.clone(), code) {
        refused(shared, address, error);
    } else {
        count(&shared.counters.refused, 1);
    }
}

fn refused(shared: &Shared, with: String, error: &Error) {
    count(&shared.counters.refused, 1);
    let reason = match refusal(error) {
        Some(refusal) => refusal.to_string(),
        None => error.report(),
    };
    log::info!("node {}: no link with {with}: {reason}", shared.fixed.name);
    shared.board.tell(Event::LinkRefused { with, reason });
}

/// The words with which one side has refused the other, if there were any.
fn refusal(error: &Error) -> Option<&Refusal> {
    match error.source()?.downcast_ref()? {
        HandshakeError::Refuse(refusal) | HandshakeError::Refused(refusal) => Some(refusal),
        HandshakeError::Stream(_) => None,
    }
}

/// Gives somebody who has come a thread, or turns him away.
fn receive(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr, threads: &Threads) {
    threads.reap();
    // Only this thread adds, so nobody comes between the look and the count.
    if shared.arriving.load(Ordering::Relaxed) >= AT_ONCE {
        count(&shared.counters.refused, 1);
        let text = "too many others have come at the same time";
        let shake = Shake::Refused(Refusal::new(RefusalCode::TooManyLinks, text));
        let mut words = Vec::new();
        encode_shake(&shake, &mut words);
        turn_away(stream, &words);
        let (with, reason) = (from.to_string(), text.to_owned());
        return shared.board.tell(Event::LinkRefused { with, reason });
    }
    shared.arriving.fetch_add(1, Ordering::Relaxed);
    let arriving = Arriving(shared.clone());
    let thread = spawn(shared.thread_name("in"), move || {
        let Arriving(shared) = &arriving;
        match establish(shared, stream.into(), Side::Acceptor) {
            Ok(session) => {
                let dial = None;
                let _ = shared.line.push(Come::Up { session, dial });
            }
            Err(error) if *error.kind() == Kind::Cancelled => {}
            Err(error) => refused(shared, from.to_string(), &error),
        }
    });
    match thread {
        Ok(thread) => threads.push(thread),
        // The connection was dropped with the thread's duty.
        Err(error) => log::warn!("node {}: no thread for {from}: {error}", shared.fixed.name),
    }
}

/// The place of somebody among those who arrive.
struct Arriving(Arc<Shared>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::Relaxed);
    }
}
