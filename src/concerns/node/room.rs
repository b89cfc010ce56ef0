//! Room for messages of the program: so many for each receiver, and so many for all.
//!
//! A message takes its room before it is put into the line of the node's thread, and leaves it when the core has
//! settled it. So a receiver that does not read holds up those who send to it, and nobody else.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::concerns::error::Reason;
use crate::concerns::identity::Identity;

pub(super) struct Room {
    for_each: usize,
    for_all: usize,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    taken: HashMap<Identity, usize>,
    all: usize,
    closed: bool,
    /// How many wait for room.
    waiting: usize,
}

impl Room {
    pub(super) fn new(for_each: usize, for_all: usize) -> Self {
        Self {
            for_each,
            for_all,
            state: Mutex::default(),
            left: Condvar::new(),
        }
    }

    /// Takes room for a message, waited for until `deadline`; `None` does not wait.
    pub(super) fn enter(&self, to: &Identity, deadline: Option<Instant>) -> Result<(), Reason> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(Reason::Stopped);
            }
            let all = state.all;
            // The common case is that its receiver is known here.
            let fits = match state.taken.get_mut(to) {
                Some(taken) if *taken < self.for_each && all < self.for_all => {
                    *taken += 1;
                    true
                }
                Some(_) => false,
                None if all < self.for_all => {
                    state.taken.insert(to.clone(), 1);
                    true
                }
                None => false,
            };
            if fits {
                state.all += 1;
                return Ok(());
            }
            let Some(deadline) = deadline else {
                return Err(Reason::Full);
            };
            state.waiting += 1;
            let over = self.left.wait_until(&mut state, deadline).timed_out();
            state.waiting -= 1;
            if over {
                return Err(Reason::Full);
            }
        }
    }

    /// Whether nothing waits for this receiver.
    pub(super) fn is_empty(&self, to: &Identity) -> bool {
        let state = self.state.lock();
        !state.closed && !state.taken.contains_key(to)
    }

    /// Gives back the room of messages for these receivers, and empties the list.
    pub(super) fn leave(&self, settled: &mut Vec<Identity>) {
        if settled.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for to in settled.iter() {
            if let Some(taken) = state.taken.get_mut(to) {
                *taken -= 1;
                if *taken == 0 {
                    state.taken.remove(to);
                }
                state.all -= 1;
            }
        }
        let wake = state.waiting > 0;
        drop(state);
        settled.clear();
        if wake {
            self.left.notify_all();
        }
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::spawn;

    fn identity(text: &str) -> Identity {
        text.try_into().unwrap()
    }

    fn soon(ms: u64) -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(ms))
    }

    #[test]
    fn each_receiver_and_all_together_have_their_room() {
        let room = Room::new(2, 3);
        let [one, two, three] = ["one1", "two2", "three"].map(identity);
        assert!(room.is_empty(&one));
        assert_eq!(room.enter(&one, None), Ok(()));
        assert!(!room.is_empty(&one) && room.is_empty(&two));
        assert_eq!(room.enter(&one, None), Ok(()));
        assert_eq!(room.enter(&one, None), Err(Reason::Full));
        assert_eq!(room.enter(&two, None), Ok(()), "one holds up nobody else");
        assert_eq!(room.enter(&three, None), Err(Reason::Full), "for all");
        assert_eq!(room.enter(&three, soon(5)), Err(Reason::Full));
        room.leave(&mut vec![one.clone()]);
        assert_eq!(room.enter(&three, None), Ok(()));
        room.leave(&mut vec![one.clone(), two, three, one]);
        let state = room.state.lock();
        assert!(state.taken.is_empty() && state.all == 0, "nothing is kept");
    }

    #[test]
    fn who_waits_is_let_in_or_told_of_the_end() {
        let room = Arc::new(Room::new(1, 9));
        let peer = identity("peer");
        room.enter(&peer, None).unwrap();
        let (tell, told) = crossbeam_channel::bounded(2);
        let _waits = spawn("waits", {
            let (room, peer) = (room.clone(), peer.clone());
            move || {
                for _ in 0..2 {
                    tell.send(room.enter(&peer, soon(60_000))).unwrap();
                }
            }
        });
        let next = |ms| told.recv_timeout(Duration::from_millis(ms));
        assert!(next(10).is_err());
        room.leave(&mut vec![peer]);
        assert_eq!(next(60_000), Ok(Ok(())));
        assert!(next(10).is_err());
        room.close();
        assert_eq!(next(60_000), Ok(Err(Reason::Stopped)));
    }
}
