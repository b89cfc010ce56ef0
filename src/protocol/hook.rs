//! Code of the user, run where a panic is caught and a wait for oneself is noticed.

use std::cell::RefCell;

use crate::lifecycle::catch;

use super::error::{BoxError, Error, Kind};

thread_local! {
    /// The loops whose hooks, or threads, are what this thread is in.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, its thread is inside the loop with this key.
pub(super) struct Inside(());

impl Inside {
    pub(super) fn enter(key: usize) -> Self {
        INSIDE.with_borrow_mut(|loops| loops.push(key));
        Self(())
    }

    pub(super) fn is(key: usize) -> bool {
        INSIDE.with_borrow(|loops| loops.contains(&key))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // A destructor of another thread-local may be what drops a loop.
        let _ = INSIDE.try_with(|loops| loops.borrow_mut().pop());
    }
}

/// Runs a hook; a panic becomes [`Kind::HookPanic`].
pub(super) fn guard<T>(hook: &'static str, call: impl FnOnce() -> T) -> Result<T, Error> {
    catch(call).map_err(|panicked| {
        let message = panicked.message;
        Error::new(Kind::HookPanic { hook, message })
    })
}

/// Runs a hook that may fail.
pub(super) fn run<T>(
    hook: &'static str,
    call: impl FnOnce() -> Result<T, BoxError>,
) -> Result<T, Error> {
    guard(hook, call)?.map_err(|error| Error::caused(Kind::Hook { hook }, error))
}
