//! A panic of user code as a value.

use std::any::Any;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `call`; its panic becomes an error with the panic's text.
///
/// For hooks, callbacks and tasks: what they share with the library is locked
/// only around moves that cannot panic, so nothing is left half changed.
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let panicked = Panicked::from_payload(&*payload);
        // What a panic carries is the user's, and may panic when it is dropped, and what that carries too.
        if let Err(next) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            let next = mem::ManuallyDrop::new(next);
            log::error!("what a panic carried {}", Panicked::from_payload(&**next));
        }
        panicked
    })
}

/// Code of the user panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    /// What it panicked with, if that was text.
    pub(crate) message: String,
}

impl Panicked {
    fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self {
            message: text.unwrap_or("a value that is no text").to_owned(),
        }
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.message)
    }
}

impl std::error::Error for Panicked {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_text() {
        assert_eq!(catch(|| 1), Ok(1));
        let caught = |call: fn()| catch(call).unwrap_err().message;
        assert_eq!(caught(|| panic!("plain")), "plain");
        assert_eq!(caught(|| panic!("with {}", 7)), "with 7");
        assert_eq!(
            caught(|| std::panic::panic_any(7)),
            "a value that is no text"
        );
    }

    #[test]
    fn what_panics_when_the_panic_lets_it_go_is_survived() {
        struct Nasty(u8);
        impl Drop for Nasty {
            fn drop(&mut self) {
                if self.0 > 0 {
                    std::panic::panic_any(Self(self.0 - 1));
                }
            }
        }
        assert!(catch(|| std::panic::panic_any(Nasty(2))).is_err());
    }
}
