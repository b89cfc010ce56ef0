//! The other end of a listener, in a child process.
//!
//! A parent opens its [`Listener`](super::Listener) to children with
//! [`endpoint`](super::Listener::endpoint) and starts them with what
//! [`Endpoint::env`](super::Endpoint::env) says; a child connects with
//! [`Sender::connect_from_env`] and posts. There is no thread in the child: a post writes on the
//! thread that posts, and has left the process when it returns.

mod error;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fmt, io};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::lifecycle::GRACE;

use super::end::Refused;
use super::endpoint::{ADDRESS, TOKEN};
use super::frame::{Bye, FromListener, Hello, Inbox, Outgoing, encode};
use super::message::Source;
use super::queue::Wait;
use super::transport::{Read, Stream};

pub use error::Error;

/// How long a connect may take, the listener's answer included.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of JSON in a frame of the listener.
const ANSWER_LIMIT: usize = 64 << 10;

/// The largest buffer that is kept for the next post.
const KEPT: usize = 1 << 20;

thread_local! {
    /// What a frame is made in. It is taken out while it is used, so that data which posts while it
    /// is serialised gets another.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Posts messages to the listener of the parent process, under one source.
///
/// Cheap to clone, usable from any thread; clones share the connection. The messages that one
/// thread posts are handled in their order, and before the parent learns of the end of the
/// connection. A message has left the process when its post returns, so it outlives the process;
/// whether it was handled, nobody says.
///
/// The connection ends with a goodbye when the sender is [closed](Self::close) or its last clone is
/// dropped, which waits up to five seconds for a listener that takes nothing. Without one, after a
/// crash or `std::process::exit`, the parent sees that too.
///
/// # Example
/// ```
/// use interplay::listener::{Listener, Message, child::Sender};
/// use serde_json::json;
///
/// # let listener = Listener::builder().default_handler(|_: Message| Ok(())).start()?;
/// # let [(_, address), (_, token)] = listener.endpoint()?.env();
/// # let connect_from_env = |source| Sender::connect(&address, &token, source);
/// # #[cfg(any())]
/// let parent = Sender::connect_from_env("task 7")?;
/// # let parent = connect_from_env("task 7")?;
/// parent.post("set_result", &json!({"loss": 0.25}))?;
/// parent.close()?;
/// # assert_eq!(listener.shutdown(std::time::Duration::from_secs(5))?.handled, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "dropping the last clone ends the connection"]
pub struct Sender {
    link: Arc<Link>,
}

struct Link {
    source: Source,
    stream: Stream,
    max_frame: usize,
    /// Whose turn it is to write. It is held for as long as that takes: that is what it is for.
    turn: Mutex<Turn>,
}

struct Turn {
    inbox: Inbox,
    /// What of a frame that was begun is not written yet.
    rest: Vec<u8>,
    said_bye: bool,
    ended: Option<Ended>,
}

/// Why there are no more posts.
#[derive(Clone)]
enum Ended {
    Closed,
    Refused { reason: Refused, message: String },
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Closed => Self::Closed,
            Ended::Refused { reason, message } => Self::Refused { reason, message },
        }
    }
}

impl Sender {
    /// Connects to the listener that the environment names, as `source`: what the parent gave this
    /// process, or one between them passed on.
    ///
    /// # Errors
    /// [`Error::NoEnvironment`] if a variable is missing, and those of [`connect`](Self::connect).
    ///
    /// # Blocking
    /// As [`connect`](Self::connect).
    pub fn connect_from_env(source: &str) -> Result<Self, Error> {
        let variable = |variable| env::var(variable).map_err(|_| Error::NoEnvironment { variable });
        Self::connect(&variable(ADDRESS)?, &variable(TOKEN)?, source)
    }

    /// Connects to the listener at an address, as `source`; address and token are the values of
    /// [`Endpoint::env`](super::Endpoint::env).
    ///
    /// # Errors
    /// [`Error::BadSource`] if it is not 1 to 255 bytes, [`Error::Unreachable`] if nobody listens
    /// there or answers in time, [`Error::Refused`] with the listener's reason, [`Error::Closed`] if
    /// it is being stopped.
    ///
    /// # Blocking
    /// Until the listener has answered: ten seconds at most for the connection, and as long for the
    /// answer.
    pub fn connect(address: &str, token: &str, source: &str) -> Result<Self, Error> {
        let source = Source::try_from(source).map_err(Error::BadSource)?;
        let unreachable = |error| Error::Unreachable {
            address: address.to_owned(),
            source: error,
        };
        let stream = Stream::connect(address, PATIENCE).map_err(unreachable)?;
        let mut turn = Turn {
            inbox: Inbox::new(ANSWER_LIMIT),
            rest: Vec::new(),
            said_bye: false,
            ended: None,
        };
        let mut bytes = Vec::new();
        encode(&Hello::new(token, source.as_str()), usize::MAX, &mut bytes)
            .map_err(|unfit| Error::unfit(unfit, usize::MAX))?;
        // One that is refused at once may be cut off before it has spoken; the answer tells why.
        let deadline = Wait::Until(Instant::now() + PATIENCE);
        let said = turn.write(&stream, &bytes, deadline);
        match turn.read_answer(&stream, deadline) {
            Ok(FromListener::Welcome { max_frame }) => Ok(Self {
                link: Arc::new(Link {
                    source,
                    stream,
                    max_frame,
                    turn: Mutex::new(turn),
                }),
            }),
            Ok(FromListener::Refused { reason, message }) => {
                Err(Error::Refused { reason, message })
            }
            Ok(FromListener::Closing) => Err(Error::Closed),
            Err(answer) => Err(unreachable(said.err().unwrap_or(answer))),
        }
    }

    /// The source that this process posts under.
    pub fn source(&self) -> &Source {
        &self.link.source
    }

    /// Posts a message and waits until it has left the process.
    ///
    /// The data is serialised first, so what happens to it later does not matter.
    ///
    /// # Errors
    /// [`Error::Unserialisable`] and [`Error::TooLong`] if it cannot be sent: nothing was written,
    /// and the next post is as good as any. [`Error::Closed`] once the listener has been stopped or
    /// is gone, or the sender was closed; [`Error::Refused`] once the listener has cut this process
    /// off.
    ///
    /// # Blocking
    /// While the listener takes no more of this process, and while other threads post. The end of
    /// the listener ends the wait.
    pub fn post<T: Serialize + ?Sized>(&self, cmd: &str, data: &T) -> Result<(), Error> {
        self.post_within(cmd, data, Wait::Always)
    }

    /// Posts a message if it can leave the process now.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if it cannot, which says whether the message was begun, and those of
    /// [`post`](Self::post).
    pub fn try_post<T: Serialize + ?Sized>(&self, cmd: &str, data: &T) -> Result<(), Error> {
        self.post_within(cmd, data, Wait::Never)
    }

    /// Posts a message and waits up to `limit` until it has left the process.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if it has not, which says whether the message was begun, and those of
    /// [`post`](Self::post).
    ///
    /// # Blocking
    /// As [`post`](Self::post), up to `limit`.
    pub fn post_timeout<T: Serialize + ?Sized>(
        &self,
        cmd: &str,
        data: &T,
        limit: Duration,
    ) -> Result<(), Error> {
        self.post_within(cmd, data, wait(limit))
    }

    /// Says goodbye: what was begun is written to its end, and posts of all clones fail from here.
    /// Closing again has no effect.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Refused`] if the listener has ended the connection before.
    ///
    /// # Blocking
    /// As [`post`](Self::post).
    pub fn close(&self) -> Result<(), Error> {
        self.link.say_bye(Wait::Always)
    }

    fn post_within<T: Serialize + ?Sized>(
        &self,
        cmd: &str,
        data: &T,
        wait: Wait,
    ) -> Result<(), Error> {
        let mut bytes = BUFFER.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        let posted = encode(&Outgoing { cmd, data }, self.link.max_frame, &mut bytes)
            .map_err(|unfit| Error::unfit(unfit, self.link.max_frame))
            .and_then(|()| self.link.send(&bytes, wait));
        if bytes.capacity() <= KEPT {
            let _ = BUFFER.try_with(|buffer| buffer.set(bytes));
        }
        posted
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("source", &self.link.source)
            .finish_non_exhaustive()
    }
}

fn wait(limit: Duration) -> Wait {
    let deadline = Instant::now().checked_add(limit);
    deadline.map_or(Wait::Always, Wait::Until)
}

impl Link {
    fn turn(&self, wait: Wait) -> Result<MutexGuard<'_, Turn>, Error> {
        let turn = match wait {
            Wait::Never => self.turn.try_lock(),
            Wait::Until(deadline) => self.turn.try_lock_until(deadline),
            Wait::Always => Some(self.turn.lock()),
        };
        turn.ok_or(Error::TimedOut { begun: false })
    }

    fn send(&self, frame: &[u8], wait: Wait) -> Result<(), Error> {
        let mut turn = self.turn(wait)?;
        turn.check(&self.stream)?;
        turn.flush(&self.stream, wait)?;
        let written = turn.write(&self.stream, frame, wait);
        let written = written.map_err(|_| turn.end(&self.stream))?;
        if written == frame.len() {
            return Ok(());
        }
        let begun = written > 0;
        if begun {
            turn.rest = frame[written..].to_vec();
        }
        Err(Error::TimedOut { begun })
    }

    fn say_bye(&self, wait: Wait) -> Result<(), Error> {
        let mut frame = Vec::new();
        encode(&Bye::FRAME, usize::MAX, &mut frame)
            .map_err(|unfit| Error::unfit(unfit, self.max_frame))?;
        let mut turn = self.turn(wait)?;
        if turn.said_bye {
            return Ok(());
        }
        turn.check(&self.stream)?;
        turn.flush(&self.stream, wait)?;
        let written = turn.write(&self.stream, &frame, wait);
        let written = written.map_err(|_| turn.end(&self.stream))?;
        if written < frame.len() {
            return Err(Error::TimedOut { begun: written > 0 });
        }
        turn.said_bye = true;
        turn.ended = Some(Ended::Closed);
        Ok(())
    }
}

impl Drop for Link {
    /// A listener that takes nothing may keep the goodbye waiting, but not for good.
    fn drop(&mut self) {
        if self.turn.get_mut().ended.is_none()
            && let Err(error) = self.say_bye(wait(GRACE))
        {
            log::warn!("sender {:?}: no goodbye: {error}", self.source);
        }
    }
}

impl Turn {
    /// Whether there is somebody to write to.
    fn check(&mut self, stream: &Stream) -> Result<(), Error> {
        if self.ended.is_none() && !stream.write_tells() {
            self.look(stream);
        }
        self.ended.clone().map_or(Ok(()), |ended| Err(ended.into()))
    }

    /// Writes the rest of what was begun.
    fn flush(&mut self, stream: &Stream, wait: Wait) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.rest);
        let written = self.write(stream, &rest, wait);
        let written = written.map_err(|_| self.end(stream))?;
        if written < rest.len() {
            self.rest = rest[written..].to_vec();
            return Err(Error::TimedOut { begun: false });
        }
        Ok(())
    }

    /// Writes as much as can be written in time.
    fn write(&self, stream: &Stream, bytes: &[u8], wait: Wait) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match stream.write(&bytes[written..], wait)? {
                0 => break,
                count => written += count,
            }
        }
        Ok(written)
    }

    /// Notes that a write has failed, and why, if the listener has said so.
    fn end(&mut self, stream: &Stream) -> Error {
        self.look(stream);
        self.ended.get_or_insert(Ended::Closed).clone().into()
    }

    /// Takes what the listener has said, without a wait.
    fn look(&mut self, stream: &Stream) {
        match self.read_answer(stream, Wait::Never) {
            Ok(FromListener::Refused { reason, message }) => {
                self.ended = Some(Ended::Refused { reason, message });
            }
            Ok(_) => self.ended = Some(Ended::Closed),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(_) => self.ended = Some(Ended::Closed),
        }
    }

    fn read_answer(&mut self, stream: &Stream, wait: Wait) -> io::Result<FromListener> {
        loop {
            let next = self.inbox.next();
            let next = next.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if let Some(json) = next {
                return Ok(FromListener::decode(json)?);
            }
            match stream.read(self.inbox.room(), wait, None)? {
                Read::Bytes(count) => self.inbox.filled(count),
                Read::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Read::Nothing | Read::Rung => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}
