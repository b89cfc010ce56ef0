//! The thread of one connection: lets a child in, reads its messages, sees its end.
//!
//! What came in one read is posted as one batch. A child that was let in has a seat in the queue,
//! and whatever happens on this thread, its mark is the last that the queue gets from it. Nothing
//! here writes with a wait, so a child that does not read holds nothing up.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde::de::{DeserializeOwned, Error as _};

use crate::lifecycle::catch;

use super::end::{End, Refused};
use super::endpoint::{Hub, Present};
use super::frame::{FromChild, FromListener, Hello, Inbox, TooLong};
use super::message::{Message, Source};
use super::queue::{Batch, NoSeat, Queue, Seat, Wait};
use super::transport::{Read, Stream, is_gone};

/// How much of an error's text is kept: it may quote what the child sent.
const QUOTE: usize = 64;

/// How many messages are posted at a time: enough to share the cost of that, and so few that the
/// listener's thread handles them while this one reads the next.
const BATCH: usize = 64;

/// Serves a connection until it ends.
pub(super) fn serve<D: DeserializeOwned>(present: Present, queue: &Queue<D>, stream: Stream) {
    let hub = &Arc::clone(present.hub());
    let mut inbox = Inbox::new(Refused::HELLO_LIMIT);
    match let_in(hub, queue, &stream, &mut inbox) {
        Ok((source, seat)) => {
            inbox.set_limit(hub.limits.max_frame);
            let mut guest = Guest {
                hub,
                present: Some(present),
                queue,
                stream,
                inbox,
                source,
                seat,
                batch: VecDeque::new(),
                closing: None,
                why: None,
                warned: false,
                end: None,
            };
            guest.end = Some(guest.read_all());
        }
        Err(NotIn::Refused(reason)) => {
            drop(present); // before it is told, for it may try again at once
            turn_away(hub, queue, &stream, reason);
        }
        Err(NotIn::Closing) => {
            let _ = stream.write(&FromListener::Closing.encode(), Wait::Never);
        }
    }
}

/// Turns a connection away.
pub(super) fn turn_away<D>(hub: &Hub, queue: &Queue<D>, stream: &Stream, reason: Refused) {
    log::warn!("listener {}: a connection was refused: {reason}", hub.name);
    queue.count_refused();
    tell(stream, reason);
}

/// Tells a child that it is refused, if that can be done at once.
fn tell(stream: &Stream, reason: Refused) {
    let frame = FromListener::refusal(reason, &reason.to_string());
    // It may be gone; then there is nobody to tell.
    let _ = stream.write(&frame.encode(), Wait::Never);
}

/// Why a connection did not get a seat.
enum NotIn {
    Refused(Refused),
    Closing,
}

impl From<Refused> for NotIn {
    fn from(reason: Refused) -> Self {
        Self::Refused(reason)
    }
}

/// Reads the hello and answers it.
fn let_in<D>(
    hub: &Hub,
    queue: &Queue<D>,
    stream: &Stream,
    inbox: &mut Inbox,
) -> Result<(Source, Seat), NotIn> {
    let hello = read_hello(hub, stream, inbox)?;
    if !hub.is_token(&hello.token) {
        return Err(Refused::BadToken.into());
    }
    let source = Source::try_from(hello.source).map_err(|_| Refused::BadSource)?;
    let seat = queue.sit(&source).map_err(|no| match no {
        NoSeat::Taken => NotIn::Refused(Refused::Taken),
        NoSeat::Full => NotIn::Refused(Refused::TooMany),
        NoSeat::Closed => NotIn::Closing,
    })?;
    let welcome = FromListener::Welcome {
        max_frame: hub.limits.max_frame,
    };
    // If it is gone already, that is how its connection ends.
    let _ = stream.write(&welcome.encode(), Wait::Never);
    let process = hello
        .pid
        .map_or("unknown".to_owned(), |pid| pid.to_string());
    log::info!(
        "listener {}: {source:?} connected, process {process}",
        hub.name
    );
    Ok((source, seat))
}

fn read_hello(hub: &Hub, stream: &Stream, inbox: &mut Inbox) -> Result<Hello, NotIn> {
    let deadline = Instant::now() + hub.limits.hello_timeout;
    loop {
        match inbox.next() {
            Ok(Some(json)) => return Ok(Hello::decode(json)?),
            Ok(None) => {}
            Err(TooLong) => return Err(Refused::TooLong.into()),
        }
        match stream.read(inbox.room(), Wait::Until(deadline), Some(&hub.bell)) {
            Ok(Read::Bytes(count)) => inbox.filled(count),
            Ok(Read::Rung) => return Err(NotIn::Closing),
            Ok(Read::End | Read::Nothing) | Err(_) => return Err(Refused::NoHello.into()),
        }
    }
}

/// A child that was let in. Its drop gives the seat back.
struct Guest<'a, D> {
    hub: &'a Hub,
    present: Option<Present>,
    queue: &'a Queue<D>,
    stream: Stream,
    inbox: Inbox,
    source: Source,
    seat: Seat,
    /// Read and not posted yet.
    batch: VecDeque<Message<D>>,
    /// Set at the stop.
    closing: Option<Closing>,
    /// What was wrong with a bad frame, for the log.
    why: Option<String>,
    /// Whether data that cannot be read was logged.
    warned: bool,
    end: Option<End>,
}

/// What is known since the listener was stopped.
#[derive(Clone, Copy)]
struct Closing {
    deadline: Instant,
    /// Whether the child was gone before it could be told.
    was_gone: bool,
}

impl<D: DeserializeOwned> Guest<'_, D> {
    fn read_all(&mut self) -> End {
        loop {
            let end = self.decode();
            let full = self.batch.len() == BATCH;
            if let Err(end) = self.post() {
                return end;
            }
            if let Some(end) = end {
                return end;
            }
            if full {
                continue;
            }
            // Nothing of the last read is left but the beginning of a frame.
            let (wait, bell) = match self.closing {
                None => (Wait::Always, Some(&self.hub.bell)),
                Some(closing) if Instant::now() >= closing.deadline => return End::Stopped,
                Some(_) => (Wait::Never, None),
            };
            match self.stream.read(self.inbox.room(), wait, bell) {
                Ok(Read::Bytes(count)) => self.inbox.filled(count),
                Ok(Read::Rung) => self.close(),
                Ok(Read::Nothing) => return End::Stopped,
                Ok(Read::End) => return self.end_of_stream(),
                Err(error) if is_gone(&error) => return self.end_of_stream(),
                Err(error) => return End::Io(error),
            }
        }
    }

    /// Takes whole frames, a batch at most; a value is how the connection ends after them.
    fn decode(&mut self) -> Option<End> {
        while self.batch.len() < BATCH {
            let json = match self.inbox.next() {
                Ok(Some(json)) => json,
                Ok(None) => return None,
                Err(TooLong) => return Some(End::Refused(Refused::TooLong)),
            };
            // What makes data of JSON is the user's code.
            let decoded = catch(|| FromChild::decode(json)).unwrap_or_else(|panicked| {
                let why = panicked.to_string();
                FromChild::unreadable(json, why).ok_or_else(|| serde_json::Error::custom(panicked))
            });
            match decoded {
                Ok(FromChild::Message { cmd, data }) => {
                    let source = self.source.clone();
                    self.batch.push_back(Message { source, cmd, data });
                }
                Ok(FromChild::Unreadable { cmd, why }) => self.unreadable(&cmd, &why),
                Ok(FromChild::Bye) => return Some(End::Bye),
                Err(error) => {
                    self.why = Some(cut(&error.to_string()).to_owned());
                    return Some(End::Refused(Refused::BadFrame));
                }
            }
        }
        None
    }

    /// Drops a message whose data cannot be read: counted, and the first logged.
    fn unreadable(&mut self, cmd: &str, why: &str) {
        self.queue.count_unreadable();
        if !std::mem::replace(&mut self.warned, true) {
            let (name, source) = (&self.hub.name, &self.source);
            let (cmd, why) = (cut(cmd), cut(why));
            log::warn!("listener {name}: data of {source:?} at {cmd:?} dropped: {why:?}");
        }
    }

    /// Posts the batch; the error is how the connection ends if nobody takes it.
    fn post(&mut self) -> Result<(), End> {
        if self.batch.is_empty() {
            return Ok(());
        }
        loop {
            let deadline = self.closing.map(|closing| closing.deadline);
            match self.queue.post_batch(&self.seat, &mut self.batch, deadline) {
                Batch::Posted => return Ok(()),
                Batch::Closing => self.close(),
                Batch::Late => return Err(End::Stopped),
            }
        }
    }

    /// Tells the child that the listener was stopped, and takes no more than has come.
    fn close(&mut self) {
        let had_ended = self.stream.has_ended();
        let closing = FromListener::Closing.encode();
        let was_gone = had_ended || self.stream.write(&closing, Wait::Never).is_err();
        if !was_gone {
            self.stream.stop_reading();
        }
        self.closing = Some(Closing {
            deadline: Instant::now() + self.hub.limits.drain_timeout,
            was_gone,
        });
    }

    fn end_of_stream(&self) -> End {
        match self.closing {
            // It is the end that `close` has put there, or a child that has heard it and gone.
            Some(Closing {
                was_gone: false, ..
            }) => End::Stopped,
            _ => End::Closed,
        }
    }
}

/// So much of a text as may be logged.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTE)]
}

impl<D> Drop for Guest<'_, D> {
    fn drop(&mut self) {
        let end = self.end.take();
        let end = end.unwrap_or_else(|| End::Io(io::Error::other("the reading thread panicked")));
        // Before anyone learns of the end, for a successor may come at once; the child is the last.
        drop(self.present.take());
        let (name, source) = (&self.hub.name, &self.source);
        let refused = match end {
            End::Refused(reason) => Some(reason),
            _ => None,
        };
        if let Some(reason) = refused {
            let why = self.why.take();
            let why = why.map_or_else(String::new, |why| format!(", {why:?}"));
            log::warn!("listener {name}: {source:?} cut off: {reason}{why}");
            self.queue.count_refused();
        } else {
            log::info!("listener {name}: {source:?} is gone: {end}");
        }
        self.queue.leave(&self.seat, end, self.batch.len());
        if let Some(reason) = refused {
            tell(&self.stream, reason);
        }
    }
}
