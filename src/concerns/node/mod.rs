//! The node: the public handle, and the shell of threads around the core.
//!
//! One thread (`run.rs`) owns the core and calls all hooks. What comes to it (frames of the links, results of
//! dials, calls of the program) waits in one line (`line.rs`); what the core wants done is carried out there.

mod accept;
mod asked;
mod builder;
mod dial;
mod events;
mod gate;
mod keep;
mod line;
mod links;
mod peering;
mod room;
mod run;
mod shared;
mod start;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::Serialize;

use self::peering::{Batch, Out, Peering};
use self::shared::{Come, Shared};

use super::address;
use super::concern::Concern;
use super::error::{BadMessage, Error, Reason, RequestError, SendError};
use super::identity::{Command, Identity};
use super::message::{Message, Outgoing, Priority};
use super::peer::Peer;
use crate::lifecycle::{GRACE, LONGEST, Leftover, Threads};
use crate::protocol::Link;

pub use builder::Builder;
pub use events::{Events, NoEvent};

/// By how much the node's thread ends its waiting for others before whoever waits for it.
const MARGIN: Duration = Duration::from_millis(50);

/// For how long whoever waits for a reply reads it for himself.
const LENT: Duration = Duration::from_millis(2);

/// A member of a network of nodes: it knows peers, watches them, and carries messages.
///
/// It is made by a [`Builder`]. All that can be done with it, but for its end, can be done by a [`Handle`], of
/// which it is one; so the calls are [there](Handle).
///
/// # Threads
///
/// `name:run` owns the state and calls all hooks of concerns; `name:acc` accepts connections; each connection that
/// comes about has a short-lived thread for its handshake, `name:in` or `name:out`, at most 16 of either at a time;
/// each link has the three threads of a [`protocol::Loop`](crate::protocol::Loop), `name-7:rd`, `name-7:wr` and
/// `name-7:co`; `name:store` writes the file of peers, if there is one. No thread waits for a peer that does not
/// read, but for the writer of that one link.
///
/// # The end
///
/// [`shutdown`](Self::shutdown) says goodbye and joins all threads. A drop does the same, within 5 s, and logs what
/// was left over. Dropped by a hook of its own concerns, a node ends when that hook has returned.
#[must_use = "dropping it ends the node"]
pub struct Node {
    handle: Handle,
    run: Threads,
}

impl Node {
    /// The settings of a new node.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A handle for other threads. It keeps nothing running: after the end of the node its calls say so.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the node: its concerns are stopped in the order in which they were added, what waits for a neighbour is
    /// written, and a goodbye behind it, the links are closed and the threads joined. Calls that wait end with
    /// `Stopped`. A second call waits for the same end.
    ///
    /// # Errors
    ///
    /// [`Leftover`]: threads that had not ended within `limit`, held up by a hook, or by the look-up of a host's
    /// name. They end when that returns. So it is always for a hook of this node, which would wait for itself.
    ///
    /// # Blocking
    ///
    /// At most `limit`, of which at most 1 s is spent on neighbours that do not read.
    pub fn shutdown(&self, limit: Duration) -> Result<(), Leftover> {
        let deadline = Instant::now() + limit.min(LONGEST);
        let shared = &self.handle.shared;
        // The threads that helped are joined by the node's own, which so has to be a little earlier.
        let earlier = deadline - (limit / 8).min(MARGIN);
        // Callers that wait are told at once, whatever holds up the node's thread.
        shared.close();
        // Behind a stop it finds the line closed.
        let _ = shared.line.push(Come::Stop { deadline: earlier });
        self.run.join_until(deadline)?;
        let threads = shared.left_over.lock().clone();
        match threads.is_empty() {
            true => Ok(()),
            false => Err(Leftover { threads }),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        if let Err(left) = self.shutdown(GRACE)
            && !shared.is_own_thread()
        {
            log::warn!("node {}: {left}", shared.fixed.name);
        }
        self.run.leave();
    }
}

impl Deref for Node {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("identity", self.identity())
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// All that can be done with a [`Node`], but for its end. Clones are the same node; all calls may be made from any
/// thread.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Who the node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.fixed.hello.identity
    }

    /// Where others reach it, `host:port`; `None` if it does not listen.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.shared.fixed.hello.address.as_deref()
    }

    /// Sends a message, and gives its number. What becomes of it is told to the concern that owns its command, by
    /// [`sent`](Concern::sent), [`failed`](Concern::failed) or [`dropped`](Concern::dropped); a reply that comes is
    /// told to its [`reply`](Concern::reply).
    ///
    /// # Errors
    ///
    /// [`SendError`] with [`Reason::TooLong`](super::Reason), `Full` if there was no room within the message's
    /// lifetime, or `Stopped`. The message is in it.
    ///
    /// # Blocking
    ///
    /// While as many messages of the program wait for that peer, or for all, as
    /// [may](Builder::max_queued), at most the lifetime of the message. In a hook of this node: never.
    pub fn send(&self, message: Outgoing) -> Result<u64, SendError> {
        if self.shared.is_own_thread() {
            return self.try_send(message);
        }
        let deadline = Instant::now() + message.lifetime;
        self.send_until(message, Some(deadline))
    }

    /// As [`send`](Self::send), but does not wait for room.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_send(&self, message: Outgoing) -> Result<u64, SendError> {
        self.send_until(message, None)
    }

    fn send_until(&self, message: Outgoing, until: Option<Instant>) -> Result<u64, SendError> {
        let id = self.shared.next_message();
        match self.admit(&message, until) {
            Ok(()) => self.push_message(id, message),
            Err(reason) => Err(SendError { message, reason }),
        }
    }

    /// Takes room for a message, waited for until a deadline if there is one.
    fn admit(&self, message: &Outgoing, until: Option<Instant>) -> Result<(), Reason> {
        let bytes = message.payload.as_str().len();
        if bytes > self.shared.fixed.max_payload {
            return Err(Reason::TooLong { bytes });
        }
        self.shared.room.enter(&message.to, until)
    }

    fn push_message(&self, id: u64, message: Outgoing) -> Result<u64, SendError> {
        match self.shared.line.push(Come::Send { id, message }) {
            Err(Come::Send { message, .. }) => {
                let reason = Reason::Stopped;
                Err(SendError { message, reason })
            }
            _ => Ok(id),
        }
    }

    /// Asks a peer, and waits for the answer of its concern. This node needs no concern with that command.
    ///
    /// The request has high priority and is held until there is a way to the peer. The timeout is its lifetime,
    /// too, so that no peer begins with it when nobody waits any more.
    ///
    /// If the link ends without a goodbye, it still waits: the peer may have the request, and answer when there is a
    /// link again. It ends when the peer is given up, which is after
    /// [`no_connection`](super::Timing::no_connection) at the latest, unless it comes back.
    ///
    /// # Errors
    ///
    /// [`RequestError::Bad`] if one of the names is too short or too long, or `payload` is no JSON object;
    /// `NotSent` if no way was found, or nothing more can wait for that peer; `TimedOut`; `NoSuchCommand` and
    /// `Refused` are the peer's words; `PeerLost` if it was lost, has left or was started anew before it answered;
    /// `Stopped`; `WouldDeadlock` in a hook of this node.
    ///
    /// # Blocking
    ///
    /// Until the answer has come, or one of the errors, at most `timeout`.
    pub fn request<I, C, T>(
        &self,
        to: I,
        command: C,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, RequestError>
    where
        I: TryInto<Identity>,
        C: TryInto<Command>,
        BadMessage: From<I::Error> + From<C::Error>,
        T: Serialize + ?Sized,
    {
        let request = Outgoing::request(to, command, payload)?;
        self.ask(request, timeout)
    }

    fn ask(&self, request: Outgoing, timeout: Duration) -> Result<Message, RequestError> {
        let shared = &self.shared;
        if shared.is_own_thread() {
            return Err(RequestError::WouldDeadlock);
        }
        let timeout = timeout.min(LONGEST);
        let deadline = Instant::now() + timeout;
        let request = request.priority(Priority::Fast).lifetime(timeout);
        let link = shared.direct.read().get(&request.to).cloned();
        let mut asking = shared.asked.open(&request.to)?;
        // Before anything is written: the answer is to wake nobody else.
        let reading = link.as_ref().and_then(Link::take_turn);
        let straight = link.as_ref().is_some_and(|link| {
            shared.room.is_empty(&request.to) && self.write_straight(link, asking.id(), &request)
        });
        if !straight {
            // Another number: the node may have heard of an attempt with the first one.
            asking = shared.asked.open(&request.to)?;
            self.queue_request(asking.id(), request, deadline)?;
        }
        // To read the answer oneself is faster than to be woken. It is tried for a short time only: whatever else
        // ends the waiting does not come over the link.
        if let Some(mut reading) = reading {
            let short = deadline.min(Instant::now() + LENT);
            reading.read(Some(short), None, || asking.is_settled());
        }
        let timed_out = RequestError::TimedOut { after: timeout };
        asking.wait(Some(deadline)).unwrap_or(Err(timed_out))
    }

    /// Writes a request to the link with its receiver, for whom nothing waits that would have to go first: so the
    /// node's thread need not be woken for it. False if that cannot be done.
    fn write_straight(&self, link: &Link<Peering>, id: u64, request: &Outgoing) -> bool {
        let fixed = &self.shared.fixed;
        if request.payload.as_str().len() > fixed.max_payload {
            return false;
        }
        // Said before, so that the node hears of it before the reply; and without hurry.
        let message = request.clone();
        let went = Come::Went { id, message };
        if self.shared.line.push_unhurried(went).is_err() {
            return false;
        }
        let batch = Batch::request(id, request, fixed.max_hops);
        link.send(Out::Batch(batch), Some(Instant::now())).is_ok()
    }

    fn queue_request(
        &self,
        id: u64,
        request: Outgoing,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let admitted = self.admit(&request, Some(deadline));
        let queued = admitted.and_then(|()| {
            let pushed = self.push_message(id, request);
            pushed.map_err(|error| error.reason)
        });
        queued.map(drop).map_err(|reason| match reason {
            Reason::Stopped => RequestError::Stopped,
            reason => RequestError::NotSent(reason),
        })
    }

    /// All peers that are known. Their states are those of now, but for what is under way; times of silence and
    /// round trips are up to 1 s old. Does not wait.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let snapshot = self.shared.peers.read().clone();
        let age = snapshot.at.elapsed();
        let mut peers = snapshot.peers.clone();
        for peer in &mut peers {
            peer.silent = peer.silent.map(|silent| silent + age);
        }
        peers
    }

    /// What happens from now on; the first that is made also has what happened since the start. Each has its own queue of
    /// 1,024 events.
    pub fn events(&self) -> Events {
        self.shared.board.listen()
    }

    /// Has the node's thread do something, and waits for its answer.
    fn call<T>(&self, make: impl FnOnce(Sender<T>) -> Come) -> Result<T, Error> {
        if self.shared.is_own_thread() {
            return Err(Error::WouldDeadlock);
        }
        if self.shared.stopping.is_stopped() {
            return Err(Error::Stopped);
        }
        let (answer, answered) = crossbeam_channel::bounded(1);
        if self.shared.line.push(make(answer)).is_err() {
            return Err(Error::Stopped);
        }
        answered.recv().map_err(|_| Error::Stopped)
    }

    /// Makes a peer known, with the address it listens at; the connector then connects to it. A known peer gets the
    /// new address.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::Address`], [`Error::TooManyPeers`], [`Error::Stopped`], [`Error::WouldDeadlock`]
    /// in a hook of this node.
    ///
    /// # Blocking
    ///
    /// Until the node's thread has done it: as long as hooks run.
    pub fn know<I>(&self, peer: I, address: &str) -> Result<(), Error>
    where
        I: TryInto<Identity>,
        Error: From<I::Error>,
    {
        let peer = peer.try_into()?;
        address::check(address)?;
        let address = Some(address.to_owned());
        let known = self.call(|answer| Come::Know {
            peer,
            address,
            answer: Some(answer),
        })?;
        match known {
            true => Ok(()),
            false => Err(Error::TooManyPeers),
        }
    }

    /// Forgets a peer and closes the links to it; false if it was not known. It can come back by itself.
    ///
    /// # Blocking
    ///
    /// As [`know`](Self::know). In a hook of this node: never.
    pub fn forget(&self, peer: &Identity) -> bool {
        let forget = |answer| {
            let peer = peer.clone();
            Come::Forget { peer, answer }
        };
        match self.call(|answer| forget(Some(answer))) {
            Ok(known) => known,
            Err(Error::WouldDeadlock) => {
                let known = self.peers().iter().any(|known| known.identity == *peer);
                self.shared.line.push(forget(None)).is_ok() && known
            }
            Err(_) => false,
        }
    }

    /// Connects to whoever listens at an address, and knows it from then on. Tried again until it succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if it is not of the form `host:port`, [`Error::Stopped`]. What comes of the attempt is
    /// told by events.
    pub fn join(&self, address: &str) -> Result<(), Error> {
        address::check(address)?;
        let address = address.to_owned();
        if self.shared.stopping.is_stopped() {
            return Err(Error::Stopped);
        }
        let joins = self.shared.line.push(Come::Join { address });
        joins.map_err(|_| Error::Stopped)
    }

    /// Adds a concern to the node that runs, and starts it.
    ///
    /// # Errors
    ///
    /// [`Error::CommandTaken`]; [`Error::Concern`] if its `start` fails or panics; [`Error::Stopped`];
    /// [`Error::WouldDeadlock`] in a hook of this node, whose [`Context`](super::Context) can do the same.
    ///
    /// # Blocking
    ///
    /// Until it has started.
    pub fn add(&self, concern: impl Concern + 'static) -> Result<(), Error> {
        let concern = Box::new(concern);
        self.call(|answer| Come::Add { concern, answer })?
    }

    /// Takes a concern out, when it has been stopped; `None` if there is none with that command.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`], [`Error::WouldDeadlock`] in a hook of this node.
    ///
    /// # Blocking
    ///
    /// Until it has stopped.
    pub fn remove(&self, command: &Command) -> Result<Option<Box<dyn Concern>>, Error> {
        let command = command.clone();
        self.call(|answer| Come::Remove { command, answer })
    }

    /// What the node has done so far, counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("identity", self.identity())
            .finish_non_exhaustive()
    }
}

/// What a node has done, counted since its start. See [`Handle::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Links there are now.
    pub links: usize,
    /// Links that came about.
    pub linked: u64,
    /// Connections that were refused, here or by the other side, or ended in the handshake.
    pub refused: u64,
    /// Messages that were written to links, those passed on among them.
    pub sent: u64,
    /// Messages that came, those to be passed on among them.
    pub received: u64,
    /// Messages whose lifetime was over when they should have been written.
    pub expired: u64,
    /// Frames that could not be messages.
    pub malformed: u64,
    /// Replies to requests that nobody waits for any more, or that came from somebody else than was asked.
    pub late: u64,
    /// Messages that claim to be of this node, or of a kind that no neighbour sends.
    pub nonsense: u64,
}
