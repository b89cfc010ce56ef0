//! The messages that have come and are not handled yet.
//!
//! Pure; part of the core. Bounded: a round comes after each few inputs, and whoever reads from the links
//! reads no faster than is handled, so what there is no room for comes only if neither is so.

use std::collections::VecDeque;

use super::load::Load;
use crate::concerns::envelope::Envelope;
use crate::concerns::identity::Identity;

/// What waits to be handled at most.
const BOUND: Load = Load::new(16_384, 64 << 20);

/// A message that has come, and the neighbour it came from.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: Identity,
    pub(crate) envelope: Envelope,
}

impl Arrived {
    fn bytes(&self) -> usize {
        self.envelope.payload.as_str().len() + size_of::<Self>()
    }
}

/// How a message is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// It is a request for this node.
    Request,
    /// It is a reply for this node, or says why there is none.
    Reply,
    /// It is for another node.
    Routed,
}

/// The messages that have come, each sort in its order.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    requests: VecDeque<Arrived>,
    replies: VecDeque<Arrived>,
    routed: VecDeque<Arrived>,
    load: Load,
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.load.count == 0
    }

    #[cfg(test)]
    pub(crate) fn load(&self) -> Load {
        self.load
    }

    /// Puts a message behind the others of its sort. False, and it is gone, if there is no room.
    pub(crate) fn push(&mut self, sort: Sort, arrived: Arrived) -> bool {
        let bytes = arrived.bytes();
        // One alone fits, however long it is.
        let fits = self.is_empty() || BOUND.fits(self.load, bytes);
        if fits {
            self.load.add(bytes);
            self.of(sort).push_back(arrived);
        }
        fits
    }

    /// Takes the oldest of a sort.
    pub(crate) fn pop(&mut self, sort: Sort) -> Option<Arrived> {
        let arrived = self.of(sort).pop_front()?;
        self.load.remove(arrived.bytes());
        Some(arrived)
    }

    fn of(&mut self, sort: Sort) -> &mut VecDeque<Arrived> {
        match sort {
            Sort::Request => &mut self.requests,
            Sort::Reply => &mut self.replies,
            Sort::Routed => &mut self.routed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::concerns::envelope::EnvelopeKind;
    use crate::concerns::message::Priority;
    use crate::concerns::payload::Payload;

    fn arrived(text: &str) -> Arrived {
        Arrived {
            from: "node-A".try_into().unwrap(),
            envelope: Envelope {
                kind: EnvelopeKind::Request,
                hops: 0,
                priority: Priority::Fast,
                id: 0,
                lifetime: Duration::ZERO,
                source: None,
                to: None,
                command: "x".try_into().unwrap(),
                payload: Payload::new(&serde_json::json!({ "x": text })).unwrap(),
            },
        }
    }

    #[test]
    fn it_takes_so_many_messages_and_so_many_bytes() {
        for (text, most) in [
            ("x".repeat(1 << 20), 63),
            ("x".to_owned(), 16_384),
            ("x".repeat(100 << 20), 1),
        ] {
            let mut inbox = Inbox::default();
            let message = arrived(&text);
            let copy = || Arrived {
                from: message.from.clone(),
                envelope: message.envelope.clone(),
            };
            let sorts = [Sort::Request, Sort::Reply, Sort::Routed];
            let mut count = 0;
            while inbox.push(sorts[count % 3], copy()) {
                count += 1;
            }
            assert_eq!(count, most);
            for at in 0..count {
                assert!(inbox.pop(sorts[at % 3]).is_some());
            }
            assert_eq!(inbox.load(), Load::default());
            assert!(inbox.is_empty() && inbox.pop(Sort::Reply).is_none());
        }
    }
}
