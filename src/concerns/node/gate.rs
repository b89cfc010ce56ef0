//! The gate between a link's reader and the node's thread: a peer that floods is held back by its own connection.
//!
//! It begins closed, so that nothing of a link comes before the word that there is one. It opens for good when the
//! link closes, so that whoever ends a session and joins its reader never waits for the node's thread.

use parking_lot::{Condvar, Mutex};

/// How many frames of a link may wait for the node's thread.
const FRAMES: usize = 256;
/// How many bytes of them; one frame alone may have more.
const BYTES: usize = 4 << 20;

pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    begun: bool,
    over: bool,
    frames: usize,
    bytes: usize,
    /// Whether the reader waits.
    waits: bool,
}

impl State {
    fn has_room(&self, bytes: usize) -> bool {
        let fits = self.frames < FRAMES && self.bytes.saturating_add(bytes) <= BYTES;
        self.begun && (fits || self.frames == 0)
    }

    fn count(&mut self, bytes: usize) -> Passed {
        if self.over {
            return Passed::Over;
        }
        self.frames += 1;
        self.bytes += bytes;
        match self.frames > FRAMES / 2 || self.bytes > BYTES / 2 {
            true => Passed::HalfFull,
            false => Passed::In,
        }
    }
}

/// How a frame came through a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It counts until it is [given back](Gate::give_back).
    In,
    /// As `In`, and half of what may wait does.
    HalfFull,
    /// The link closes: nobody wants it any more.
    Over,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            opened: Condvar::new(),
        }
    }

    /// Lets frames through from now on.
    pub(super) fn begin(&self) {
        self.state.lock().begun = true;
        self.opened.notify_all();
    }

    /// Opens for good.
    pub(super) fn end(&self) {
        self.state.lock().over = true;
        self.opened.notify_all();
    }

    /// Waits until a frame may pass.
    pub(super) fn pass(&self, bytes: usize) -> Passed {
        let mut state = self.state.lock();
        while !state.over && !state.has_room(bytes) {
            state.waits = true;
            self.opened.wait(&mut state);
        }
        state.count(bytes)
    }

    /// Lets a frame pass at once; for the node's thread, which gives room back and cannot wait for it. It reads
    /// only when nothing waits for it, and then no more than one piece of the stream.
    pub(super) fn slip(&self, bytes: usize) -> Passed {
        self.state.lock().count(bytes)
    }

    /// So many frames are done with.
    pub(super) fn give_back(&self, frames: usize, bytes: usize) {
        let mut state = self.state.lock();
        state.frames = state.frames.saturating_sub(frames);
        state.bytes = state.bytes.saturating_sub(bytes);
        let wake = state.waits;
        state.waits = false;
        drop(state);
        if wake {
            self.opened.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::{Thread, spawn};

    const LIMIT: Duration = Duration::from_secs(60);

    type Seen = crossbeam_channel::Receiver<Passed>;

    /// A thread that passes one frame after the other.
    fn passing(gate: &Arc<Gate>, bytes: usize) -> (Seen, Thread) {
        let (tell, told) = crossbeam_channel::unbounded();
        let gate = gate.clone();
        let thread = spawn("passes", move || {
            while tell.send(gate.pass(bytes)).is_ok() {
                if tell.len() > 10 * FRAMES {
                    return;
                }
            }
        });
        (told, thread.unwrap())
    }

    fn count(told: &Seen, expected: usize) {
        for _ in 0..expected {
            assert_ne!(told.recv_timeout(LIMIT).unwrap(), Passed::Over);
        }
        assert!(told.recv_timeout(Duration::from_millis(10)).is_err());
    }

    #[test]
    fn a_gate_lets_in_as_much_as_was_given_back_and_opens_for_good() {
        let gate = Arc::new(Gate::new());
        let (told, thread) = passing(&gate, 10);
        count(&told, 0);
        gate.begin();
        count(&told, FRAMES);
        gate.give_back(3, 30);
        count(&told, 3);
        gate.end();
        assert_eq!(told.recv_timeout(LIMIT).unwrap(), Passed::Over);
        drop((told, thread));
    }

    #[test]
    fn the_node_itself_does_not_wait_but_what_it_lets_in_counts() {
        let gate = Arc::new(Gate::new());
        gate.begin();
        for _ in 0..2 * FRAMES {
            assert_ne!(gate.slip(10), Passed::Over);
        }
        let (told, thread) = passing(&gate, 10);
        count(&told, 0);
        gate.give_back(2 * FRAMES, 20 * FRAMES);
        count(&told, FRAMES);
        gate.end();
        assert_eq!(gate.slip(10), Passed::Over);
        drop((told, thread));
    }

    #[test]
    fn bytes_count_too_but_one_frame_always_passes() {
        let gate = Arc::new(Gate::new());
        gate.begin();
        let (told, thread) = passing(&gate, 2 * BYTES);
        count(&told, 1);
        gate.give_back(1, 2 * BYTES);
        count(&told, 1);
        gate.end();
        drop((told, thread));
    }
}
