//! Waiting for something that a lock guards, at most until a deadline.

use std::time::Instant;

use parking_lot::{Condvar, MutexGuard};

/// Sleeps until `look` finds something; `None` if it has not by the deadline.
///
/// It looks first and last, so what is there at the deadline is found, and a wake-up that came
/// for it is not lost.
pub(super) fn wait_for<T, R>(
    changed: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    deadline: Option<Instant>,
    mut look: impl FnMut(&mut T) -> Option<R>,
) -> Option<R> {
    let mut in_time = true;
    loop {
        let found = look(guard);
        if found.is_some() || !in_time {
            return found;
        }
        match deadline {
            Some(deadline) => in_time = !changed.wait_until(guard, deadline).timed_out(),
            None => changed.wait(guard),
        }
    }
}
