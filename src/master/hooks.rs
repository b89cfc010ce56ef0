//! The moments at which a program can step in: before, after and on error of connect, disconnect and new task.
//!
//! The original has these as methods to override (`_before_connect` …). They run
//! without any lock held, so they may call back into the master; a panic is
//! caught, logged, and ends at most the call it belongs to.

use std::borrow::Cow;

use serde_json::Value;

use super::error::{BoxError, Error};
use crate::lifecycle::catch;
use crate::task::Loss;
use crate::wire::Reply;

/// What a master does besides its work; every method has a default that does nothing.
///
/// `slave` is the connection's name. All hooks but [`slave_lost`](Hooks::slave_lost)
/// run on the thread that called `connect`, `disconnect` or `start`, and that call waits for them.
pub trait Hooks: Send + Sync + 'static {
    /// Gives the data that goes with the connect request; null is sent as `{}`.
    ///
    /// # Errors
    /// An error cancels the connect: nothing is sent, nothing has changed.
    fn before_connect(&self, slave: &str) -> Result<Value, BoxError> {
        let _ = slave;
        Ok(Value::Null)
    }

    /// The slave accepted, and is registered; the value is returned by `connect`.
    fn after_connect(&self, slave: &str, reply: &Reply) -> Value {
        let _ = (slave, reply);
        Value::Null
    }

    /// The connect failed: no answer, or a refusal (which the original keeps from this hook).
    ///
    /// # Errors
    /// What it returns is what `connect` returns; the default passes the error on.
    /// Nothing is registered in either case.
    fn error_connect(&self, slave: &str, error: Error) -> Result<Value, Error> {
        let _ = slave;
        Err(error)
    }

    /// Gives the data that goes with the disconnect request; null is sent as `{}`.
    ///
    /// # Errors
    /// An error cancels the disconnect: nothing is sent, nothing has changed.
    fn before_disconnect(&self, slave: &str) -> Result<Value, BoxError> {
        let _ = slave;
        Ok(Value::Null)
    }

    /// The slave is disconnected, and its name free; the value is returned by `disconnect`.
    fn after_disconnect(&self, slave: &str, reply: &Reply) -> Value {
        let _ = (slave, reply);
        Value::Null
    }

    /// The disconnect failed: no answer, or a refusal.
    ///
    /// # Errors
    /// What it returns is what `disconnect` returns; the default passes the error on.
    fn error_disconnect(&self, slave: &str, error: Error) -> Result<Value, Error> {
        let _ = slave;
        Err(error)
    }

    /// Gives the data that is sent for a task; the default sends the task's own.
    ///
    /// # Errors
    /// An error cancels the start: nothing is sent, the task's start has failed.
    fn before_new_task<'data>(
        &self,
        slave: &str,
        data: &'data Value,
    ) -> Result<Cow<'data, Value>, BoxError> {
        let _ = slave;
        Ok(Cow::Borrowed(data))
    }

    /// The slave accepted the task; its report may have come already.
    fn after_new_task(&self, slave: &str, reply: &Reply) {
        let _ = (slave, reply);
    }

    /// The start of a task failed: no answer, or a refusal.
    ///
    /// # Errors
    /// The default passes the error on. Without one, `start` returns the task as
    /// it stands: its start has failed.
    fn error_new_task(&self, slave: &str, error: Error) -> Result<(), Error> {
        let _ = slave;
        Err(error)
    }

    /// A slave was lost: silent for longer than the tolerance, or it had forgotten this master.
    ///
    /// Not in the original. Runs on the results thread, after the slave's tasks
    /// ended as lost and before their `on_fail` callbacks.
    fn slave_lost(&self, slave: &str, loss: &Loss) {
        let _ = (slave, loss);
    }
}

/// The hooks of a master that was given none.
pub(super) struct NoHooks;

impl Hooks for NoHooks {}

/// Runs a hook whose error or panic cancels the call it belongs to.
pub(super) fn needed<T>(
    hook: &'static str,
    call: impl FnOnce() -> Result<T, BoxError>,
) -> Result<T, Error> {
    catch(call)
        .unwrap_or_else(|panic| {
            log::error!("hook {hook}: {panic}");
            Err(Box::new(panic))
        })
        .map_err(|source| Error::Hook { hook, source })
}

/// Runs a hook that comes after the fact; if it panics there is no value.
pub(super) fn optional<T: Default>(hook: &'static str, call: impl FnOnce() -> T) -> T {
    catch(call).unwrap_or_else(|panic| {
        log::error!("hook {hook}: {panic}");
        T::default()
    })
}

/// Runs an error hook; if it panics, that is the error.
pub(super) fn on_error<T>(
    hook: &'static str,
    call: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    catch(call).unwrap_or_else(|panic| {
        log::error!("hook {hook}: {panic}");
        Err(Error::Hook {
            hook,
            source: Box::new(panic),
        })
    })
}
