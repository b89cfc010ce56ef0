//! Callers that wait for the reply to a request, and who was asked.
//!
//! A reply of the very peer that was asked is put into its mailbox by the thread that reads it: so the caller is
//! woken once, and not the node's thread before it.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

use crate::concerns::core::ASKED;
use crate::concerns::error::RequestError;
use crate::concerns::identity::Identity;
use crate::concerns::message::Message;
use crate::protocol::{Mailbox, Mailboxes, NoReply};

type Outcome = Result<Message, RequestError>;

/// The requests that wait. Their numbers begin at random, so that nobody can guess them, and no reply to a former
/// life of this node is taken for one of this.
pub(super) struct Asked {
    mailboxes: Mailboxes<Outcome, ()>,
    whom: Mutex<HashMap<u64, Identity>>,
}

impl Asked {
    pub(super) fn new(first: u64) -> Self {
        Self {
            // Numbers never grow into the bit above them.
            mailboxes: Mailboxes::new(ASKED | (first >> 2)),
            whom: Mutex::default(),
        }
    }

    /// A request to `whom`.
    pub(super) fn open(&self, whom: &Identity) -> Result<Asking<'_>, RequestError> {
        let Ok(mailbox) = self.mailboxes.open() else {
            return Err(RequestError::Stopped);
        };
        self.whom.lock().insert(mailbox.id(), whom.clone());
        Ok(Asking {
            asked: self,
            mailbox,
        })
    }

    /// Whether nobody waits for a reply.
    pub(super) fn is_empty(&self) -> bool {
        self.whom.lock().is_empty()
    }

    /// Whether a reply of this number is waited for, of this source.
    pub(super) fn is_open(&self, id: u64, source: &Identity) -> bool {
        self.whom.lock().get(&id) == Some(source)
    }

    /// Puts the reply, or why there is none, into its mailbox; false if nobody waits for it (any more).
    pub(super) fn deliver(&self, id: u64, outcome: Outcome) -> bool {
        self.mailboxes.deliver(id, outcome).is_ok()
    }

    /// Ends all waiting.
    pub(super) fn close(&self) {
        self.mailboxes.close(());
    }
}

/// A request that waits for its reply.
pub(super) struct Asking<'a> {
    asked: &'a Asked,
    mailbox: Mailbox<Outcome, ()>,
}

impl Asking<'_> {
    pub(super) fn id(&self) -> u64 {
        self.mailbox.id()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.mailbox.is_settled()
    }

    /// What has come until the deadline; `None` if nothing has.
    pub(super) fn wait(mut self, deadline: Option<Instant>) -> Option<Outcome> {
        match self.mailbox.wait(deadline) {
            Ok(outcome) => Some(outcome),
            Err(NoReply::Ended(())) => Some(Err(RequestError::Stopped)),
            Err(NoReply::TimedOut) => self.mailbox.give_up(),
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.asked.whom.lock().remove(&self.mailbox.id());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_who_was_asked_may_reply_and_only_once() {
        let asked = Asked::new(u64::MAX);
        let [peer, other] = ["peer", "other"].map(|name| Identity::try_from(name).unwrap());
        let asking = asked.open(&peer).unwrap();
        let id = asking.id();
        assert!(id & ASKED != 0 && id & (ASKED >> 1) == 0);
        assert!(asked.is_open(id, &peer) && !asked.is_open(id, &other));
        assert!(!asked.is_open(id + 1, &peer));
        assert!(!asking.is_settled());
        assert!(asked.deliver(id, Err(RequestError::Refused)));
        assert!(!asked.deliver(id, Err(RequestError::Refused)));
        assert!(asking.is_settled());
        let outcome = asking.wait(None);
        assert!(matches!(outcome, Some(Err(RequestError::Refused))));
        assert!(asked.whom.lock().is_empty());
    }

    #[test]
    fn who_waits_is_told_of_the_end() {
        let asked = Asked::new(0);
        let peer = "peer".try_into().unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(asked.open(&peer).unwrap().wait(Some(soon)).is_none());
        let asking = asked.open(&peer).unwrap();
        asked.close();
        let outcome = asking.wait(None);
        assert!(matches!(outcome, Some(Err(RequestError::Stopped))));
        assert!(matches!(asked.open(&peer), Err(RequestError::Stopped)));
    }
}
