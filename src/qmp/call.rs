//! A call: how it is made, and what waits for its reply.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::protocol::{Mailbox, NoReply};

use super::client::Client;
use super::command::{Command, InvalidCommand};
use super::error::{Error, Sent, Waiting};
use super::message::{Outcome, Reply};
use super::monitor::Outgoing;
use super::talk::{Come, NotSent, Route, Talk, Way};

/// A command that is being put together; see [`Client::call`].
#[must_use = "nothing is sent before run or start"]
pub struct Call<'c, A> {
    pub(super) client: &'c Client,
    pub(super) name: &'c str,
    pub(super) arguments: A,
    pub(super) oob: bool,
    pub(super) id: Option<Value>,
    pub(super) limit: Option<Duration>,
    pub(super) descriptor: Option<BorrowedFd<'c>>,
}

impl<'c, A: Serialize> Call<'c, A> {
    /// The arguments: anything that serializes to an object, or to nothing. Default: none.
    pub fn args<B: Serialize>(self, arguments: B) -> Call<'c, B> {
        Call {
            client: self.client,
            name: self.name,
            arguments,
            oob: self.oob,
            id: self.id,
            limit: self.limit,
            descriptor: self.descriptor,
        }
    }

    /// Runs out of band: before all commands that wait, here and in the server.
    pub fn oob(mut self) -> Self {
        self.oob = true;
        self
    }

    /// How long the call may take in all: room in the queue, the way out and the reply. Default:
    /// [`Options::call_timeout`](super::Options::call_timeout).
    ///
    /// A command that was sent cannot be taken back. In band it also holds up all that come after
    /// it; only out-of-band commands pass.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sends a file descriptor along, for `getfd` and `add-fd`. It is duplicated; the caller's
    /// stays open. UNIX sockets only, and one such command at a time: the next one waits until this
    /// one was answered, since a server mixes up two.
    pub fn fd(mut self, descriptor: BorrowedFd<'c>) -> Self {
        self.descriptor = Some(descriptor);
        self
    }

    /// Sends the command and waits for its reply.
    ///
    /// # Errors
    ///
    /// See [`Client::execute`].
    pub fn run(self) -> Result<Reply, Error> {
        self.direct()?.wait()
    }

    /// Sends the command and does not wait for its reply.
    ///
    /// # Errors
    ///
    /// Those of [`Client::execute`] that come before the command is sent.
    ///
    /// # Blocking
    ///
    /// Only while the queue is full, or another descriptor is on its way.
    pub fn start(self) -> Result<Pending, Error> {
        self.send(Way::Queued)
    }

    /// As [`run`](Self::run), before the wait.
    pub(super) fn direct(self) -> Result<Pending, Error> {
        self.send(Way::Direct)
    }

    pub(super) fn send(self, way: Way) -> Result<Pending, Error> {
        let talk = self.client.talk()?;
        if self.oob && !talk.oob {
            return Err(Error::OobNotEnabled);
        }
        let descriptor = self.descriptor.map(|descriptor| copy(descriptor, &talk));
        let way = if self.oob { Way::OutOfBand } else { way };
        let limit = self.limit.or(self.client.options().call_timeout);
        let (name, oob) = (self.name, self.oob);
        let encode = |id| Command::new(name, &self.arguments, oob, id);
        let descriptor = descriptor.transpose()?;
        Pending::begin(talk, encode, descriptor, way, limit, self.id)
    }
}

fn copy(descriptor: BorrowedFd<'_>, talk: &Talk) -> Result<OwnedFd, Error> {
    if !talk.unix {
        return Err(Error::NotUnix);
    }
    let copy = descriptor.as_fd().try_clone_to_owned();
    copy.map_err(|error| Error::Io(crate::protocol::Error::of_io(error)))
}

impl<A> fmt::Debug for Call<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Call");
        debug.field("name", &self.name).finish_non_exhaustive()
    }
}

/// A command that was sent, or will be, and whose reply has not been taken.
///
/// Dropping it abandons the reply, not the command.
#[must_use = "dropping it abandons the reply"]
pub struct Pending {
    talk: Arc<Talk>,
    mailbox: Mailbox<Come, Arc<Error>>,
    route: Route,
    command: Command,
    id: Option<Value>,
    deadline: Option<Instant>,
    limit: Option<Duration>,
    /// The reply was given.
    taken: bool,
}

impl Pending {
    pub(super) fn begin(
        talk: Arc<Talk>,
        encode: impl FnOnce(u64) -> Result<Command, InvalidCommand>,
        descriptor: Option<OwnedFd>,
        way: Way,
        limit: Option<Duration>,
        id: Option<Value>,
    ) -> Result<Self, Error> {
        // Only to queue a command is harmless where nobody may wait.
        if way != Way::Queued && talk.is_own_thread() {
            return Err(Error::WouldDeadlock);
        }
        // A time too long for the clock is no limit.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let opened = talk.mailboxes.open();
        let command = encode(opened.as_ref().map_or(0, Mailbox::id));
        let command = command.map_err(Error::InvalidCommand)?;
        let refused = |reason: NotSent| reason.into_error(&command, limit);
        let mailbox = opened.map_err(|cause| refused(NotSent::Ended(cause)))?;
        if limit == Some(Duration::ZERO) {
            return Err(refused(NotSent::TimedOut));
        }
        let outgoing = Outgoing {
            command: command.clone(),
            descriptor,
        };
        let route = talk.send(mailbox.id(), outgoing, way, deadline);
        let route = route.map_err(refused)?;
        Ok(Self {
            talk,
            mailbox,
            route,
            command,
            id,
            deadline,
            limit,
            taken: false,
        })
    }

    /// The id that the command has on the wire.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.mailbox.id()
    }

    /// The command.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Waits for the reply, as long as the call may take.
    ///
    /// # Errors
    ///
    /// Those of [`Client::execute`] that come after the command is sent; [`Error::Taken`] if the
    /// reply was given before.
    pub fn wait(mut self) -> Result<Reply, Error> {
        let come = self.wait_come()?;
        self.reply(come)
    }

    /// As [`wait`](Self::wait), and decodes what was returned.
    pub(super) fn wait_as<T: DeserializeOwned>(mut self) -> Result<T, Error> {
        let come = self.wait_come()?;
        if let Outcome::Text(text) = &come.outcome
            && let Ok(decoded) = text.decode()
        {
            return Ok(decoded);
        }
        // A value is more lenient, with names that come twice, say, and the error wants it.
        let value = self.reply(come)?.value;
        T::deserialize(&value).map_err(|cause| Error::BadReply {
            command: self.command.clone(),
            value: Arc::new(value),
            cause: Some(Arc::new(cause)),
        })
    }

    fn wait_come(&mut self) -> Result<Come, Error> {
        self.check_thread()?;
        loop {
            let come = self.wait_until(self.deadline);
            if let Some(result) = self.settle(come) {
                return result;
            }
        }
    }

    /// Waits for the reply, at most `limit` and as long as the call may take; `None` if it has not
    /// come within `limit`, and then it can be waited for again. A reply is given once.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Result<Reply, Error>> {
        if let Err(error) = self.check_thread() {
            return Some(Err(error));
        }
        let limit = Instant::now().checked_add(limit);
        let until = match (limit, self.deadline) {
            (Some(limit), Some(deadline)) => Some(limit.min(deadline)),
            (limit, deadline) => limit.or(deadline),
        };
        let come = self.wait_until(until);
        let come = self.settle(come)?;
        Some(come.and_then(|come| self.reply(come)))
    }

    /// The reply if it has come.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Option<Result<Reply, Error>> {
        let come = self.mailbox.try_wait();
        let come = self.settle(come)?;
        Some(come.and_then(|come| self.reply(come)))
    }

    /// Gives the call up. [`Sent::No`] if the command could be taken back before it left.
    pub fn withdraw(self) -> Sent {
        self.talk.withdraw(self.mailbox.id(), &self.route)
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<Come, NoReply<Arc<Error>>> {
        let mailbox = &self.mailbox;
        self.talk.lend_thread(deadline, || mailbox.is_settled());
        self.mailbox.wait(deadline)
    }

    fn settle(&mut self, come: Result<Come, NoReply<Arc<Error>>>) -> Option<Result<Come, Error>> {
        let come = match come {
            Ok(come) => come,
            Err(_) if self.taken => return Some(Err(Error::Taken)),
            Err(NoReply::Ended(cause)) => return Some(Err(self.interrupted(cause))),
            Err(NoReply::TimedOut) if !self.is_over() => return None,
            Err(NoReply::TimedOut) => {
                let sent = self.talk.withdraw(self.mailbox.id(), &self.route);
                match self.mailbox.give_up() {
                    Some(at_the_last_moment) => at_the_last_moment,
                    None => return Some(Err(self.timed_out(sent))),
                }
            }
        };
        self.taken = true;
        Some(Ok(come))
    }

    fn reply(&self, come: Come) -> Result<Reply, Error> {
        let Come { number, outcome } = come;
        let value = match outcome {
            Outcome::Return(value) => value,
            Outcome::Text(text) => text.into_value(),
            Outcome::Error { class, desc } => {
                return Err(Error::Execute {
                    class: class.into(),
                    desc: desc.into(),
                    command: self.command.clone(),
                    number,
                });
            }
            Outcome::Malformed(object) => {
                return Err(Error::BadReply {
                    command: self.command.clone(),
                    value: Arc::new(Value::Object(object)),
                    cause: None,
                });
            }
        };
        let id = self.id.clone();
        Ok(Reply { value, id, number })
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }

    fn timed_out(&self, sent: Sent) -> Error {
        Error::Timeout {
            waiting: Waiting::Call {
                command: self.command.clone(),
                sent,
            },
            allowed: self.limit.unwrap_or_default(),
        }
    }

    fn interrupted(&self, cause: Arc<Error>) -> Error {
        Error::Interrupted {
            command: self.command.clone(),
            sent: self.talk.was_sent(self.mailbox.id(), &self.route),
            cause,
        }
    }

    fn check_thread(&self) -> Result<(), Error> {
        match self.talk.is_own_thread() {
            true => Err(Error::WouldDeadlock),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("command", &self.command)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
