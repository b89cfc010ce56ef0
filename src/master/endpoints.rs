//! The requests that slaves, and the master itself, send to a master.
//!
//! Runs on the HTTP thread. Everything that can be judged from the head is
//! judged there, in the original's order; a body is read only after that.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use uuid::Uuid;

use super::core::Core;
use super::slaves::Id;
use crate::http::{Fault, Handler, Head, Response, Step};
use crate::task::Outcome;
use crate::wire::body::{self, Report};
use crate::wire::envelope;
use crate::wire::route::{self, MasterRoute};

/// The master's side of the wire.
pub(super) struct Endpoints {
    core: Arc<Core>,
}

impl Endpoints {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn route(&self, head: &Head) -> Result<Step, Response> {
        let route = MasterRoute::find(&head.method, &head.path)?;
        if self.core.closed.is_stopped() {
            return Err(envelope::stopping());
        }
        match route {
            MasterRoute::Ping => {
                route::master_itself(head, &self.core.self_token)?;
                Ok(Step::Answer(envelope::success("PONG!")))
            }
            MasterRoute::Shutdown => {
                route::master_itself(head, &self.core.self_token)?;
                Ok(self.shutdown())
            }
            MasterRoute::Heartbeat => {
                self.slave(head)?;
                Ok(Step::Answer(envelope::success("Received!")))
            }
            MasterRoute::Complete => self.report(head, Outcome::Completed),
            MasterRoute::Fail => self.report(head, Outcome::Failed),
        }
    }

    /// Whose request it is.
    fn slave(&self, head: &Head) -> Result<Id, Response> {
        let token = route::slave(head, self.core.settings.channel)?;
        self.core
            .slaves
            .heard(&token, Instant::now())
            .ok_or_else(route::unknown_slave)
    }

    /// Begins the end, and answers when the slaves have been told, so that
    /// no request that comes after the answer is treated as if nothing had happened.
    fn shutdown(&self) -> Step {
        let core = self.core.clone();
        Step::Wait(Box::new(move || {
            core.closing.stop();
            core.closed.wait_timeout(core.settings.grace);
            envelope::success("Shutdown request received, this server will be down later.")
        }))
    }

    fn report(
        &self,
        head: &Head,
        outcome: fn(serde_json::Value) -> Outcome,
    ) -> Result<Step, Response> {
        let slave = self.slave(head)?;
        let core = self.core.clone();
        Ok(Step::Read(Box::new(move |body| {
            let too_long = body == Err(Fault::TooLong);
            match body::parse(body).and_then(Report::read) {
                Ok(report) => take(&core, slave, report.id, outcome(report.result)),
                Err(error) => {
                    if too_long {
                        fail_only(&core, slave);
                    }
                    return error.on_report();
                }
            }
            envelope::success("Result received!")
        })))
    }
}

/// Fails the one task that is open at a slave whose report is too long to be read.
fn fail_only(core: &Core, slave: Id) {
    let limit = core.settings.max_body;
    log::warn!("a report of more than {limit} bytes was not read");
    if let Some((source, job)) = core.slaves.claim_only(slave) {
        let result = json!({"message": format!("the report is longer than {limit} bytes"), "error": "TooLong"});
        core.results.ended(&source, job, Outcome::Failed(result));
    }
}

/// Ends the task that was reported. One that is unknown, ended or another
/// slave's is acknowledged all the same: an error would end the task thread of a Python slave.
fn take(core: &Core, slave: Id, task: Uuid, outcome: Outcome) {
    match core.slaves.claim(slave, task) {
        Some((source, job)) => core.results.ended(&source, job, outcome),
        None => log::debug!("report for task {task}, which is not open at that slave, dropped"),
    }
}

impl Handler for Endpoints {
    fn head(&self, head: &Head) -> Step {
        self.route(head).unwrap_or_else(Step::Answer)
    }

    fn fault(&self, fault: Fault) -> Response {
        envelope::fault(fault)
    }
}
