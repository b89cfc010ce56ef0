//! What a slave does: the user's work, and the words in which it answers.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::Lost;
use crate::lifecycle::Panicked;

/// The work of a slave; the original's `Slave` with its methods to override.
///
/// A closure `Fn(Value) -> Result<Value, TaskFail>` is a worker too, and so is
/// [`typed`], whose input and output are types of its own.
///
/// `process` runs on the task thread, one call at a time; the `before_…`
/// methods run on the HTTP thread while a master waits, and until they return
/// this slave answers nobody else, so they should be quick. `lost_connection`
/// runs on the heartbeat thread. All run without any lock held. A panic is
/// caught: it fails the task or refuses the request, and the slave goes on.
pub trait Worker: Send + Sync + 'static {
    /// Does one task. The original's `_process_task`.
    ///
    /// # Errors
    /// [`TaskFail`] ends the task as failed. Any other error becomes one by `?`,
    /// with the result `{"message": …, "error": …}`.
    fn process(&self, data: Value) -> Result<Value, TaskFail>;

    /// A master wants this slave. The original's `_before_connection`.
    ///
    /// # Errors
    /// [`Refuse`] turns it away with code 503 and the refusal's data; the slave stays free.
    fn before_connection(&self, data: &Value) -> Result<(), Refuse> {
        let _ = data;
        Ok(())
    }

    /// The master wants to leave. The original's `_before_disconnection`.
    ///
    /// # Errors
    /// [`Refuse`] keeps it, with code 504 and the refusal's data.
    fn before_disconnection(&self, data: &Value) -> Result<(), Refuse> {
        let _ = data;
        Ok(())
    }

    /// A task is offered. The original's `_before_task`.
    ///
    /// # Errors
    /// [`Refuse`] turns it away with code 602 and the refusal's data; the slave stays idle.
    fn before_task(&self, data: &Value) -> Result<(), Refuse> {
        let _ = data;
        Ok(())
    }

    /// The master was lost; the slave is free again. The original's `_lost_connection`.
    fn lost_connection(&self, master: &str, lost: &Lost) {
        let _ = (master, lost);
    }
}

impl<F> Worker for F
where
    F: Fn(Value) -> Result<Value, TaskFail> + Send + Sync + 'static,
{
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        self(data)
    }
}

/// Makes a worker of a function whose input and output are types of its own.
///
/// Data that does not fit the input fails the task with the deserializer's words.
///
/// ```
/// use interplay::slave::{self, Slave, TaskFail};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// struct Pair { a: i64, b: i64 }
/// #[derive(Serialize)]
/// struct Sum { sum: i64 }
///
/// let slave = Slave::builder()
///     .host("127.0.0.1")
///     .port(0)
///     .start(slave::typed(|pair: Pair| Ok(Sum { sum: pair.a + pair.b })))?;
/// # slave.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn typed<I, O, F>(work: F) -> impl Worker
where
    I: DeserializeOwned + 'static,
    O: Serialize + 'static,
    F: Fn(I) -> Result<O, TaskFail> + Send + Sync + 'static,
{
    Typed {
        work,
        types: PhantomData,
    }
}

struct Typed<I, O, F> {
    work: F,
    types: PhantomData<fn(I) -> O>,
}

impl<I, O, F> Worker for Typed<I, O, F>
where
    I: DeserializeOwned + 'static,
    O: Serialize + 'static,
    F: Fn(I) -> Result<O, TaskFail> + Send + Sync + 'static,
{
    fn process(&self, data: Value) -> Result<Value, TaskFail> {
        let input = serde_json::from_value(data)?;
        let output = (self.work)(input)?;
        Ok(serde_json::to_value(output)?)
    }
}

/// The end of a task that failed; the original's `TaskFail`.
///
/// Any error turns into one, so `?` works in a worker. It is not an error
/// itself, for that reason.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFail {
    result: Value,
    message: String,
}

impl TaskFail {
    /// A failure that is reported with `result`; null and other empty values arrive as `{}`.
    #[must_use]
    pub fn new(result: impl Into<Value>) -> Self {
        Self {
            result: result.into(),
            message: String::new(),
        }
    }

    /// Adds words for this slave's own log. They are not sent, as in the original.
    #[must_use]
    pub fn with_message(self, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..self
        }
    }

    /// What is reported to the master.
    #[must_use]
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// The words for the log.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_result(self) -> Value {
        self.result
    }

    pub(super) fn panicked(panic: &Panicked) -> Self {
        Self::new(json!({"message": panic.message, "error": "panic"}))
            .with_message(panic.to_string())
    }
}

impl fmt::Display for TaskFail {
    /// The original's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str("Task process failed."),
            message => write!(f, "Task process failed - {message}."),
        }
    }
}

impl<E: StdError> From<E> for TaskFail {
    fn from(error: E) -> Self {
        let mut chain = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            chain = format!("{chain}: {source}");
            cause = source.source();
        }
        let kind = std::any::type_name::<E>();
        Self::new(json!({"message": chain, "error": kind})).with_message(chain)
    }
}

/// A refusal, with data for the master; the original's `ConnectionRefuse`, `DisconnectionRefuse` and `TaskRefuse`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refuse {
    data: Value,
}

impl Refuse {
    /// A refusal with data; null and other empty values arrive as `{}`.
    #[must_use]
    pub fn new(data: impl Into<Value>) -> Self {
        Self { data: data.into() }
    }

    pub(super) fn into_data(self) -> Value {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fails_the_task_with_its_whole_chain() {
        fn work() -> Result<(), TaskFail> {
            "x".parse::<i32>()?;
            Ok(())
        }
        let fail = work().unwrap_err();
        assert_eq!(fail.result()["message"], "invalid digit found in string");
        assert_eq!(fail.result()["error"], "core::num::error::ParseIntError");
    }

    #[test]
    fn the_words_of_a_failure_are_the_originals() {
        assert_eq!(TaskFail::new(json!({})).to_string(), "Task process failed.");
        assert_eq!(
            TaskFail::new(1).with_message("no data").to_string(),
            "Task process failed - no data."
        );
    }

    #[test]
    fn a_typed_worker_reads_and_writes_json() {
        let worker = typed(|words: Vec<String>| Ok(words.len()));
        assert_eq!(worker.process(json!(["a", "b"])), Ok(json!(2)));
        let fail = worker.process(json!({"a": 1})).unwrap_err();
        assert_eq!(fail.result()["error"], "serde_json::error::Error");
    }
}
