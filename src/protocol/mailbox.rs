//! Mailboxes: callers that wait for one reply each, by its id.
//!
//! A mailbox is opened before its request is sent. Exactly one thing happens to it: the reply is
//! delivered, its owner gives it up, or all of them end. Whoever delivers waits for nobody. The
//! map and the slots have a lock each, and no thread holds two of them.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::wait::wait_for;

/// The mailboxes that wait for a reply `T`. `E` says why they wait no longer; to clone it is cheap.
pub(crate) struct Mailboxes<T, E> {
    shared: Arc<Shared<T, E>>,
}

struct Shared<T, E> {
    open: Mutex<Open<T, E>>,
    /// The last open mailbox is gone from the map.
    empty: Condvar,
}

struct Open<T, E> {
    /// Each of these slots is `Waiting`, or about to leave the map.
    slots: HashMap<u64, Arc<Slot<T, E>>>,
    /// The id of the next mailbox.
    next: u64,
    ended: Option<E>,
}

struct Slot<T, E> {
    content: Mutex<Content<T, E>>,
    /// It is no longer `Waiting`.
    filled: Condvar,
}

enum Content<T, E> {
    Waiting,
    Reply(T),
    Ended(E),
    /// The owner has the reply, or has given up.
    Gone,
}

impl<T, E> Slot<T, E> {
    /// Wakes the owner with what has come; given back if it does not wait any more.
    fn fill(&self, come: Content<T, E>) -> Result<(), Content<T, E>> {
        let mut content = self.content.lock();
        if !matches!(*content, Content::Waiting) {
            drop(content);
            return Err(come);
        }
        *content = come;
        drop(content);
        self.filled.notify_one();
        Ok(())
    }
}

impl<T, E> Shared<T, E> {
    fn remove(&self, id: u64) -> Option<Arc<Slot<T, E>>> {
        let mut open = self.open.lock();
        let slot = open.slots.remove(&id);
        let last = open.slots.is_empty();
        drop(open);
        if last {
            self.empty.notify_all();
        }
        slot
    }
}

impl<T, E: Clone> Mailboxes<T, E> {
    /// None yet; their ids count up from `first`.
    pub(crate) fn new(first: u64) -> Self {
        let open = Open {
            slots: HashMap::new(),
            next: first,
            ended: None,
        };
        Self {
            shared: Arc::new(Shared {
                open: Mutex::new(open),
                empty: Condvar::new(),
            }),
        }
    }

    /// Opens a mailbox; after [`close`](Self::close) there is only the reason of that.
    pub(crate) fn open(&self) -> Result<Mailbox<T, E>, E> {
        let slot = Arc::new(Slot {
            content: Mutex::new(Content::Waiting),
            filled: Condvar::new(),
        });
        let shared = Arc::clone(&self.shared);
        let mut open = self.shared.open.lock();
        if let Some(reason) = &open.ended {
            return Err(reason.clone());
        }
        let id = open.next;
        open.next += 1;
        open.slots.insert(id, Arc::clone(&slot));
        drop(open);
        Ok(Mailbox { id, slot, shared })
    }

    /// Whether the mailbox of this id waits for its reply.
    pub(crate) fn is_open(&self, id: u64) -> bool {
        self.shared.open.lock().slots.contains_key(&id)
    }

    /// Puts a reply into the mailbox of this id; given back if nobody waits for it (any more).
    pub(crate) fn deliver(&self, id: u64, reply: T) -> Result<(), T> {
        let Some(slot) = self.shared.remove(id) else {
            return Err(reply);
        };
        match slot.fill(Content::Reply(reply)) {
            Err(Content::Reply(reply)) => Err(reply),
            _ => Ok(()),
        }
    }

    /// Ends every mailbox that waits, and those that are opened later. The first reason counts.
    pub(crate) fn close(&self, reason: E) {
        let mut open = self.shared.open.lock();
        if open.ended.is_some() {
            drop(open);
            return;
        }
        open.ended = Some(reason.clone());
        let slots = mem::take(&mut open.slots);
        drop(open);
        self.shared.empty.notify_all();
        for slot in slots.into_values() {
            // One whose owner gave up at this moment needs no reason.
            let _ = slot.fill(Content::Ended(reason.clone()));
        }
    }

    /// How many mailboxes wait for their reply.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shared.open.lock().slots.len()
    }

    /// Waits until none of them waits for a reply; false if one does at the deadline.
    pub(crate) fn wait_empty(&self, deadline: Option<Instant>) -> bool {
        let mut open = self.shared.open.lock();
        let none = |open: &mut Open<T, E>| open.slots.is_empty().then_some(());
        wait_for(&self.shared.empty, &mut open, deadline, none).is_some()
    }
}

/// Waits for one reply. Dropping it gives that up.
pub(crate) struct Mailbox<T, E> {
    id: u64,
    slot: Arc<Slot<T, E>>,
    shared: Arc<Shared<T, E>>,
}

/// Why there is no reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoReply<E> {
    /// It has not come yet; or it was taken before.
    TimedOut,
    /// It will never come.
    Ended(E),
}

impl<T, E: Clone> Mailbox<T, E> {
    /// What the reply is asked for by.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether a wait would end at once.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(*self.slot.content.lock(), Content::Waiting)
    }

    /// The reply, waited for until the deadline. The mailbox stays open then; see
    /// [`give_up`](Self::give_up).
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> Result<T, NoReply<E>> {
        let mut content = self.slot.content.lock();
        wait_for(&self.slot.filled, &mut content, deadline, Content::take)
            .unwrap_or(Err(NoReply::TimedOut))
    }

    /// The reply, if it is there.
    pub(crate) fn try_wait(&mut self) -> Result<T, NoReply<E>> {
        let taken = self.slot.content.lock().take();
        taken.unwrap_or(Err(NoReply::TimedOut))
    }
}

impl<T, E> Mailbox<T, E> {
    /// Ends the waiting. The reply, if it came first; none will be delivered from now on.
    pub(crate) fn give_up(&self) -> Option<T> {
        self.leave()
    }

    fn leave(&self) -> Option<T> {
        let content = mem::replace(&mut *self.slot.content.lock(), Content::Gone);
        match content {
            Content::Waiting => {
                self.shared.remove(self.id);
                None
            }
            Content::Reply(reply) => Some(reply),
            Content::Ended(_) | Content::Gone => None,
        }
    }
}

impl<T, E: Clone> Content<T, E> {
    /// What a wait ends with; `None` while there is nothing.
    fn take(&mut self) -> Option<Result<T, NoReply<E>>> {
        match self {
            Self::Waiting => None,
            Self::Ended(reason) => Some(Err(NoReply::Ended(reason.clone()))),
            Self::Reply(_) | Self::Gone => match mem::replace(self, Self::Gone) {
                Self::Reply(reply) => Some(Ok(reply)),
                _ => Some(Err(NoReply::TimedOut)),
            },
        }
    }
}

impl<T, E> Drop for Mailbox<T, E> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T, E> fmt::Debug for Mailbox<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    type Numbers = Mailboxes<u64, &'static str>;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    #[test]
    fn each_reply_reaches_its_mailbox_once() {
        let mailboxes = Numbers::new(7);
        let mut first = mailboxes.open().unwrap();
        let mut second = mailboxes.open().unwrap();
        assert_eq!((first.id(), second.id(), mailboxes.len()), (7, 8, 2));
        assert_eq!(mailboxes.deliver(8, 80), Ok(()));
        assert_eq!(mailboxes.deliver(8, 81), Err(81), "a second reply");
        assert_eq!(mailboxes.deliver(9, 90), Err(90), "an unknown id");
        assert_eq!(first.try_wait(), Err(NoReply::TimedOut));
        assert_eq!(first.wait(soon()), Err(NoReply::TimedOut));
        assert_eq!(mailboxes.deliver(7, 70), Ok(()), "it stayed open");
        assert_eq!(first.wait(None), Ok(70));
        assert_eq!(second.try_wait(), Ok(80));
        assert_eq!(second.wait(None), Err(NoReply::TimedOut), "taken before");
    }

    #[test]
    fn a_reply_to_one_that_gave_up_comes_back() {
        let mailboxes = Numbers::new(0);
        let [given_up, dropped, late] = [(); 3].map(|()| mailboxes.open().unwrap());
        assert_eq!(given_up.give_up(), None);
        drop(dropped);
        assert_eq!(mailboxes.deliver(0, 1), Err(1));
        assert_eq!(mailboxes.deliver(1, 2), Err(2));
        assert_eq!(mailboxes.deliver(2, 3), Ok(()));
        assert_eq!(late.give_up(), Some(3), "it came first");
        assert_eq!(mailboxes.len(), 0);
    }

    #[test]
    fn the_last_reply_wakes_who_waits_for_it() {
        let mailboxes = Numbers::new(0);
        let _open = [(); 2].map(|()| mailboxes.open().unwrap());
        thread::scope(|scope| {
            let empty = scope.spawn(|| mailboxes.wait_empty(None));
            mailboxes.deliver(0, 0).unwrap();
            assert!(!mailboxes.wait_empty(soon()), "time to fall asleep");
            mailboxes.deliver(1, 1).unwrap();
            assert!(empty.join().unwrap());
        });
    }

    #[test]
    fn the_end_reaches_all_that_wait_and_all_that_come() {
        let mailboxes = Numbers::new(0);
        let [mut waiting, mut answered] = [(); 2].map(|()| mailboxes.open().unwrap());
        mailboxes.deliver(1, 10).unwrap();
        assert!(!mailboxes.wait_empty(soon()));
        thread::scope(|scope| {
            let empty = scope.spawn(|| mailboxes.wait_empty(None));
            let waiter = scope.spawn(|| waiting.wait(None));
            assert!(!mailboxes.wait_empty(soon()), "time to fall asleep");
            mailboxes.close("first");
            mailboxes.close("second");
            assert_eq!(waiter.join().unwrap(), Err(NoReply::Ended("first")));
            assert!(empty.join().unwrap());
        });
        assert_eq!(
            waiting.try_wait(),
            Err(NoReply::Ended("first")),
            "and again"
        );
        assert_eq!(answered.wait(None), Ok(10), "what one has one keeps");
        assert_eq!(mailboxes.deliver(0, 1), Err(1));
        assert_eq!(mailboxes.open().unwrap_err(), "first");
        assert_eq!(mailboxes.len(), 0);
    }

    /// Tells, when it is dropped, whether a lock was held.
    struct Probe {
        all: Arc<OnceLock<Mailboxes<Probe, ()>>>,
        slot: Arc<Slot<Probe, ()>>,
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            let free = |all: &Mailboxes<_, _>| all.shared.open.try_lock().is_some();
            assert!(self.all.get().is_none_or(free), "dropped under the lock");
            let free = self.slot.content.try_lock().is_some();
            assert!(free, "dropped under the lock of its slot");
        }
    }

    #[test]
    fn no_reply_is_dropped_under_a_lock() {
        let all = Arc::new(OnceLock::new());
        let mailboxes = all.get_or_init(|| Mailboxes::new(0));
        let [dropped, given_up, mut read] = [(); 3].map(|()| mailboxes.open().unwrap());
        for mailbox in [&dropped, &given_up, &read] {
            let slot = Arc::clone(&mailbox.slot);
            let all = Arc::clone(&all);
            let reply = Probe { all, slot };
            assert!(mailboxes.deliver(mailbox.id(), reply).is_ok());
        }
        drop(dropped);
        drop(given_up.give_up());
        drop(read.wait(None));
    }

    #[test]
    fn of_reply_and_deadline_exactly_one_happens() {
        let mailboxes = Numbers::new(0);
        const CALLS: u64 = 20_000;
        let (mut replied, mut timed_out, mut refused) = (0, 0, 0);
        let (ids, asked) = crossbeam_channel::bounded(1);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let late = |id: &u64| mailboxes.deliver(*id, *id).is_err();
                asked.iter().filter(late).count() as u64
            });
            for call in 0..CALLS {
                let mut mailbox = mailboxes.open().unwrap();
                let id = mailbox.id();
                ids.send(id).unwrap();
                let deadline = Instant::now() + Duration::from_micros(call % 32);
                let reply = mailbox.wait(Some(deadline)).ok();
                match reply.or_else(|| mailbox.give_up()) {
                    Some(reply) => {
                        assert_eq!(reply, id);
                        replied += 1;
                    }
                    None => timed_out += 1,
                }
            }
            drop(ids);
            refused += reader.join().unwrap();
        });
        assert_eq!((replied + timed_out, timed_out), (CALLS, refused));
        assert_eq!(mailboxes.len(), 0);
    }

    #[test]
    fn every_caller_of_many_gets_its_own_reply_and_the_others_the_end() {
        const CALLS: u64 = 5_000;
        let mailboxes = Numbers::new(0);
        let (ids, asked) = crossbeam_channel::unbounded();
        let call = |ids: crossbeam_channel::Sender<u64>| {
            let mut ended = 0;
            for _ in 0..CALLS {
                let Ok(mut mailbox) = mailboxes.open() else {
                    ended += 1;
                    continue;
                };
                ids.send(mailbox.id()).unwrap();
                match mailbox.wait(None) {
                    Ok(reply) => assert_eq!(reply, mailbox.id() + 1),
                    Err(NoReply::Ended(reason)) => {
                        assert_eq!(reason, "enough");
                        ended += 1;
                    }
                    Err(NoReply::TimedOut) => panic!("there was no deadline"),
                }
            }
            ended
        };
        let ended: u64 = thread::scope(|scope| {
            let callers = [(); 4].map(|()| scope.spawn(|| call(ids.clone())));
            for id in asked.iter().take(3 * CALLS as usize) {
                assert_eq!(mailboxes.deliver(id, id + 1), Ok(()));
            }
            mailboxes.close("enough");
            callers.map(|caller| caller.join().unwrap()).iter().sum()
        });
        assert_eq!(ended, CALLS);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Deliver(usize),
        Wait(usize),
        GiveUp(usize),
        Close,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Open),
            4 => (0_usize..12).prop_map(Step::Deliver),
            4 => (0_usize..12).prop_map(Step::Wait),
            2 => (0_usize..12).prop_map(Step::GiveUp),
            1 => Just(Step::Close),
        ]
    }

    /// What happened to a mailbox.
    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Waits,
        Replied,
        Ended,
        Gone,
    }

    proptest! {
        #[test]
        fn one_thing_happens_to_each_mailbox(steps in proptest::collection::vec(any_step(), 0..60)) {
            let mailboxes = Numbers::new(0);
            let mut open = Vec::new();
            let mut fates = Vec::new();
            let mut closed = false;
            for step in steps {
                match step {
                    Step::Open => {
                        let opened = mailboxes.open();
                        prop_assert_eq!(opened.is_err(), closed);
                        if let Ok(mailbox) = opened {
                            open.push(Some(mailbox));
                            fates.push(Fate::Waits);
                        }
                    }
                    Step::Deliver(at) => {
                        let waits = fates.get(at) == Some(&Fate::Waits);
                        let id = at as u64;
                        prop_assert_eq!(mailboxes.deliver(id, id), if waits { Ok(()) } else { Err(id) });
                        if waits {
                            fates[at] = Fate::Replied;
                        }
                    }
                    Step::Wait(at) => {
                        let Some(Some(mailbox)) = open.get_mut(at) else { continue };
                        let expected = match fates[at] {
                            Fate::Replied => Ok(at as u64),
                            Fate::Ended => Err(NoReply::Ended("end")),
                            Fate::Waits | Fate::Gone => Err(NoReply::TimedOut),
                        };
                        prop_assert_eq!(mailbox.wait(Some(Instant::now())), expected);
                        if fates[at] == Fate::Replied {
                            fates[at] = Fate::Gone;
                        }
                    }
                    Step::GiveUp(at) => {
                        let Some(mailbox) = open.get_mut(at).and_then(Option::take) else { continue };
                        let expected = (fates[at] == Fate::Replied).then_some(at as u64);
                        prop_assert_eq!(mailbox.give_up(), expected);
                        fates[at] = Fate::Gone;
                    }
                    Step::Close => {
                        mailboxes.close("end");
                        closed = true;
                        for fate in fates.iter_mut().filter(|fate| **fate == Fate::Waits) {
                            *fate = Fate::Ended;
                        }
                    }
                }
                let waiting = fates.iter().filter(|fate| **fate == Fate::Waits).count();
                prop_assert_eq!(mailboxes.len(), waiting);
                prop_assert_eq!(mailboxes.wait_empty(Some(Instant::now())), waiting == 0);
            }
        }
    }
}
