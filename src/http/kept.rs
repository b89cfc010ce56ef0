//! The connections that are kept open, so that a stop can say goodbye on them.
//!
//! A connection of `tiny_http` outlives its server and then takes requests
//! that nobody answers. So the writer of the last answer on each kept
//! connection stays here: it is let go when the next request comes, and
//! written to when the server stops. A client that finds those bytes before
//! its next request closes the connection and makes a new one; a client whose
//! request is on its way reads them as the answer.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;

use parking_lot::Mutex;

/// Connections beyond this many go without a goodbye, the oldest first. A
/// client keeps a few, and one that has closed still costs a descriptor here.
const MOST: usize = 8;

pub(super) type Writer = Box<dyn Write + Send>;

/// A few kept connections, by the address of their client.
#[derive(Default)]
pub(super) struct Kept {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tickets: u64,
    connections: VecDeque<Connection>,
    closed: bool,
}

struct Connection {
    ticket: u64,
    peer: SocketAddr,
    writer: Option<Writer>,
}

impl Kept {
    /// Makes a place for the writer of an answer that is about to be written.
    ///
    /// It must be there before the answer is: the next request, which another
    /// thread takes, releases the place, and must not come too early for that.
    pub(super) fn reserve(&self, peer: SocketAddr) -> u64 {
        let mut state = self.state.lock();
        state.tickets += 1;
        let ticket = state.tickets;
        state.connections.push_back(Connection {
            ticket,
            peer,
            writer: None,
        });
        let oldest = (state.connections.len() > MOST).then(|| state.connections.pop_front());
        drop(state);
        drop(oldest);
        ticket
    }

    /// Puts the writer into its place; gives it back if goodbyes have been said.
    ///
    /// If the place is gone, so is the writer: the next request waits for that.
    pub(super) fn fill(&self, ticket: u64, writer: Writer) -> Option<Writer> {
        let mut state = self.state.lock();
        if state.closed {
            return Some(writer);
        }
        let place = state.connections.iter_mut().find(|c| c.ticket == ticket);
        let surplus = match place {
            Some(place) => place.writer.replace(writer),
            None => Some(writer),
        };
        drop(state);
        drop(surplus);
        None
    }

    /// Lets go of what is held of a client's connection: its next request is here.
    pub(super) fn release(&self, peer: SocketAddr) {
        let mut state = self.state.lock();
        let at = state.connections.iter().position(|c| c.peer == peer);
        let gone = at.and_then(|at| state.connections.remove(at));
        drop(state);
        drop(gone);
    }

    /// Gives out all writers, and takes no more.
    pub(super) fn close(&self) -> Vec<Writer> {
        let mut state = self.state.lock();
        state.closed = true;
        let connections = std::mem::take(&mut state.connections);
        drop(state);
        connections.into_iter().filter_map(|c| c.writer).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A writer that is known by its pulse.
    struct Pulse(#[allow(dead_code, reason = "counted, not read")] Arc<()>);

    impl Write for Pulse {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_writer_is_held_until_the_next_request_or_the_goodbye() {
        let (kept, pulse) = (Kept::default(), Arc::new(()));
        let writer = || Box::new(Pulse(pulse.clone()));
        let held = || Arc::strong_count(&pulse) - 1;

        let ticket = kept.reserve(peer(1));
        assert!(kept.fill(ticket, writer()).is_none());
        assert_eq!(held(), 1);
        kept.release(peer(1));
        assert_eq!(held(), 0);

        let late = kept.reserve(peer(1));
        kept.release(peer(1));
        let current = kept.reserve(peer(1));
        assert!(kept.fill(late, writer()).is_none());
        assert_eq!(
            held(),
            0,
            "a released place takes no writer, nor does its successor"
        );
        assert!(kept.fill(current, writer()).is_none());
        assert_eq!(kept.close().len(), 1);
        assert!(kept.fill(current, writer()).is_some());
    }

    #[test]
    fn only_a_few_are_held() {
        let (kept, pulse) = (Kept::default(), Arc::new(()));
        for port in 0..100 {
            let ticket = kept.reserve(peer(port));
            kept.fill(ticket, Box::new(Pulse(pulse.clone())));
        }
        assert_eq!(Arc::strong_count(&pulse), 1 + MOST);
    }
}
