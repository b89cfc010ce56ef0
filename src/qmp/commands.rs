//! A few commands with types. More are written just like these.

use serde::Deserialize;

use super::client::Client;
use super::error::Error;

/// What [`Client::query_status`] returns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Whether the guest's processors run.
    pub running: bool,
    /// `running`, `paused`, `prelaunch`, `shutdown`, or another word.
    pub status: String,
}

impl Client {
    /// Whether the guest runs.
    ///
    /// # Errors
    ///
    /// As [`execute_as`](Self::execute_as).
    pub fn query_status(&self) -> Result<Status, Error> {
        self.execute_as("query-status", ())
    }

    /// Stops the guest's processors. The event is STOP, unless they stood still already.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn stop(&self) -> Result<(), Error> {
        self.execute("stop", ()).map(drop)
    }

    /// Lets the guest's processors go on. The event is RESUME, unless they ran already.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn cont(&self) -> Result<(), Error> {
        self.execute("cont", ()).map(drop)
    }

    /// Presses the guest's power button. What the guest makes of it is its own affair.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn system_powerdown(&self) -> Result<(), Error> {
        self.execute("system_powerdown", ()).map(drop)
    }

    /// Ends the server. The session then ends as [`End::ServerQuit`](super::End::ServerQuit).
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn quit(&self) -> Result<(), Error> {
        self.execute("quit", ()).map(drop)
    }
}
