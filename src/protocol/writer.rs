//! From messages to bytes: the writer thread, and callers that write for themselves.
//!
//! Whoever holds the queue's turn writes. Messages that wait together go out together, in one
//! write of some 64 KiB; a message that was begun is written in full, or the session ends.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Protocol;
use super::error::{Error, Kind, Side};
use super::hook::{self, Inside};
use super::queue::{Direct, Taken, Track, Tracked};
use super::session::Session;
use super::stream::Stream;

/// How much is encoded before it is written.
const CHUNK: usize = 64 << 10;
/// A buffer larger than this is not kept.
const LARGE: usize = 1 << 20;

/// Bytes on their way out, and the descriptors that go with the first of them.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    descriptors: Vec<OwnedFd>,
}

impl Outgoing {
    /// Writes what can be written without waiting; true if that was all.
    fn write_now(&mut self, stream: &Stream) -> io::Result<bool> {
        if self.written < self.bytes.len() {
            let rest = &self.bytes[self.written..];
            let count = stream.write_now(rest, &self.descriptors)?;
            self.wrote(count);
        }
        Ok(self.written == self.bytes.len())
    }

    /// Writes all the rest.
    fn write_all(&mut self, stream: &Stream) -> io::Result<()> {
        while self.written < self.bytes.len() {
            let rest = &self.bytes[self.written..];
            let count = stream.write(rest, &self.descriptors)?;
            self.wrote(count);
        }
        Ok(())
    }

    fn wrote(&mut self, count: usize) {
        if count > 0 {
            self.written += count;
            self.descriptors.clear();
        }
    }

    fn clear(&mut self) {
        if self.bytes.capacity() > LARGE {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.written = 0;
        self.descriptors.clear();
    }
}

/// Writes what is queued until the queue ends. A failure ends the session.
pub(super) fn run<P: Protocol>(session: &Session<P>, stream: &Stream) {
    let mut batch = Vec::new();
    let mut chunk = Chunk {
        session,
        stream,
        outgoing: Outgoing::default(),
        tracks: Vec::new(),
    };
    while let Some(Taken { leftover, turn }) = session.queue.take(&mut batch) {
        if let Err(error) = chunk.write_all(leftover, &mut batch) {
            // Before the turn ends, and with it the queue: whoever that refuses learns the cause.
            return session.fail(Side::Writer, error);
        }
        turn.done();
    }
}

/// Messages that go out in one write.
struct Chunk<'a, P: Protocol> {
    session: &'a Session<P>,
    stream: &'a Stream,
    outgoing: Outgoing,
    tracks: Vec<Arc<Track>>,
}

impl<P: Protocol> Chunk<'_, P> {
    /// Writes what one turn has taken.
    fn write_all(
        &mut self,
        leftover: Option<Tracked<Outgoing>>,
        batch: &mut Vec<Tracked<P::Outbound>>,
    ) -> Result<(), Error> {
        if let Some(mut rest) = leftover {
            let written = rest.value.write_all(self.stream);
            written.map_err(Error::of_io)?;
            self.session.count_sent(&rest.track);
        }
        let mut rest = batch.drain(..);
        let added = rest.try_for_each(|message| self.add(message));
        added.and_then(|()| self.write()).inspect_err(|error| {
            let ended = Error::caused(Kind::Ended, error.clone());
            rest.for_each(|message| self.session.lose(&message.track, &ended));
        })
    }

    fn add(&mut self, message: Tracked<P::Outbound>) -> Result<(), Error> {
        let Tracked { mut value, track } = message;
        let session = self.session;
        let descriptors = session.descriptors(&mut value);
        let descriptors = descriptors.inspect_err(|error| session.lose(&track, error))?;
        let alone = !descriptors.is_empty();
        if alone {
            self.write()?; // else they would go with the first byte of another message
            self.outgoing.descriptors = descriptors;
        }
        match session.setup.encode(value, &mut self.outgoing.bytes) {
            Ok(()) => self.tracks.push(track),
            Err(error) if *error.kind() == Kind::Encode => {
                self.outgoing.descriptors.clear();
                session.refuse_unencoded(&track, error);
            }
            Err(error) => {
                session.lose(&track, &error);
                self.write()?; // those before it are not to blame
                return Err(error);
            }
        }
        if alone || self.outgoing.bytes.len() >= CHUNK {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        let written = self.outgoing.write_all(self.stream);
        written.map_err(Error::of_io)?;
        self.outgoing.clear();
        for track in self.tracks.drain(..) {
            self.session.count_sent(&track);
        }
        Ok(())
    }
}

impl<P: Protocol> Session<P> {
    /// Writes a message on the thread of its sender, as far as the socket takes it without waiting.
    pub(super) fn write_directly(&self, direct: Direct<'_, P::Outbound, Outgoing>) {
        let _inside = Inside::enter(self.setup.key());
        let Direct { tracked, turn } = direct;
        let Tracked { mut value, track } = tracked;
        let mut outgoing = Outgoing::default();
        let encoded = self.descriptors(&mut value).and_then(|descriptors| {
            outgoing.descriptors = descriptors;
            self.setup.encode(value, &mut outgoing.bytes)
        });
        match encoded {
            Ok(()) => {}
            Err(error) if *error.kind() == Kind::Encode => {
                self.refuse_unencoded(&track, error);
                return turn.done();
            }
            // With the turn goes the right to write, for all.
            Err(error) => {
                self.lose(&track, &error);
                return self.fail(Side::Writer, error);
            }
        }
        let Some(stream) = self.stream() else {
            return; // the session has ended
        };
        match outgoing.write_now(&stream) {
            Ok(true) => {
                self.count_sent(&track);
                turn.done();
            }
            Ok(false) => {
                let value = outgoing;
                turn.leave(Tracked { value, track });
            }
            // Here too: nothing may follow part of a message.
            Err(error) => self.fail(Side::Writer, Error::of_io(error)),
        }
    }

    fn descriptors(&self, message: &mut P::Outbound) -> Result<Vec<OwnedFd>, Error> {
        hook::guard("descriptors", || self.setup.protocol.descriptors(message))
    }

    fn count_sent(&self, track: &Track) {
        track.written();
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A message that was taken and not begun will never be written.
    fn lose(&self, track: &Track, error: &Error) {
        track.dropped(error.clone());
        self.unsent.fetch_add(1, Ordering::Relaxed);
    }

    fn refuse_unencoded(&self, track: &Track, error: Error) {
        log::warn!(target: &self.setup.target, "a message was dropped: {error:#}");
        track.dropped(error);
    }
}
