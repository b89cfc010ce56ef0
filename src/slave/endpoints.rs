//! The requests that a master, and the slave itself, send to a slave.
//!
//! Runs on the HTTP thread, and on body threads for long bodies. The checks come
//! in the original's order; nothing changes until all of them, the user's hook
//! included, have passed.

use std::sync::Arc;

use serde_json::Value;

use super::core::Core;
use super::executor::Offer;
use super::link::{Connect, Link};
use super::worker::Refuse;
use crate::http::{Fault, Handler, Head, Response, Step};
use crate::lifecycle::catch;
use crate::wire::body::{self, ConnectRequest, DisconnectRequest, TaskRequest};
use crate::wire::route::{self, SlaveRoute};
use crate::wire::token::Token;
use crate::wire::{SlaveCode, envelope};

/// A request's body, or why there is none.
type Body<'a> = Result<&'a [u8], Fault>;

/// The slave's side of the wire.
pub(super) struct Endpoints {
    core: Arc<Core>,
}

impl Endpoints {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn route(&self, head: &Head) -> Result<Step, Response> {
        let route = SlaveRoute::find(&head.method, &head.path)?;
        if self.core.closing.is_stopped() {
            return Err(envelope::stopping());
        }
        let core = self.core.clone();
        match route {
            SlaveRoute::Ping => {
                route::slave_itself(head, &core.self_token)?;
                Ok(Step::Answer(envelope::success("PONG!")))
            }
            SlaveRoute::Shutdown => {
                route::slave_itself(head, &core.self_token)?;
                Ok(Step::Wait(Box::new(move || {
                    core.shutdown();
                    envelope::success("Shutdown request received, this server will be down later.")
                })))
            }
            SlaveRoute::Connect => {
                let token = route::new_master(head, core.settings.channel)?;
                Ok(Step::Read(Box::new(move |body| {
                    connect(&core, token, body).unwrap_or_else(|no| no)
                })))
            }
            SlaveRoute::Disconnect => {
                let link = self.link(head)?;
                Ok(Step::Read(Box::new(move |body| {
                    disconnect(&core, &link, body).unwrap_or_else(|no| no)
                })))
            }
            SlaveRoute::NewTask => {
                let link = self.link(head)?;
                Ok(Step::Read(Box::new(move |body| {
                    new_task(&core, link, body).unwrap_or_else(|no| no)
                })))
            }
        }
    }

    /// The link, if the request comes from its master.
    fn link(&self, head: &Head) -> Result<Arc<Link>, Response> {
        let link = self.core.links.current();
        route::current_master(
            head,
            self.core.settings.channel,
            link.as_ref().map(|link| &link.token),
        )?;
        link.ok_or_else(route::not_this_master)
    }
}

fn connect(core: &Core, token: Token, body: Body<'_>) -> Result<Response, Response> {
    let request = body::parse(body).and_then(ConnectRequest::read);
    let success = || envelope::success("Connect success.");
    let taken = || {
        envelope::failure(
            400,
            SlaveCode::SlaveAlreadyConnected,
            "This slave already connected.",
        )
    };
    let place = match core.links.connect() {
        Connect::Reserved(place) => place,
        Connect::Undecided => return Err(taken()),
        // The master it has already: the answer to its request was lost.
        Connect::Linked(link)
            if link.token == token && request.is_ok_and(|asked| asked.address == link.master) =>
        {
            return Ok(success());
        }
        Connect::Linked(_) => return Err(taken()),
    };
    let request = request.map_err(|error| error.on_connect())?;
    ask("before_connection", || {
        core.worker.before_connection(&request.data)
    })
    .map_err(|data| {
        envelope::refusal(
            403,
            SlaveCode::SlaveConnectionRefused,
            "Connection refused!",
            &data,
        )
    })?;
    let link = place.commit(token, request.address);
    log::info!("master {}: connected", link.master);
    // Fails only when the heartbeat thread has ended, which is after the slave has.
    let _ = core.heartbeat.send(link);
    Ok(success())
}

fn disconnect(core: &Core, link: &Link, body: Body<'_>) -> Result<Response, Response> {
    let request = body::parse(body).and_then(DisconnectRequest::read);
    let data = request.map_err(|error| error.on_disconnect())?.data;
    ask("before_disconnection", || {
        core.worker.before_disconnection(&data)
    })
    .map_err(|data| {
        envelope::refusal(
            403,
            SlaveCode::SlaveDisconnectionRefused,
            "Disconnection refused!",
            &data,
        )
    })?;
    if !core.links.end(link) {
        return Err(route::not_this_master());
    }
    log::info!("master {}: disconnected", link.master);
    Ok(envelope::success("Disconnect success."))
}

fn new_task(core: &Core, link: Arc<Link>, body: Body<'_>) -> Result<Response, Response> {
    let request = body::parse(body);
    let id = request.as_ref().ok().and_then(TaskRequest::peek_id);
    let received = || envelope::success("Task received!");
    let place = match core.executor.offer(&link, id) {
        Offer::Held(place) => place,
        Offer::Known => return Ok(received()),
        Offer::Busy => {
            return Err(envelope::failure(
                400,
                SlaveCode::TaskAlreadyExist,
                "Already has a task.",
            ));
        }
    };
    let task = request.and_then(TaskRequest::read);
    let task = task.map_err(|error| error.on_task())?;
    ask("before_task", || core.worker.before_task(&task.data))
        .map_err(|data| envelope::refusal(403, SlaveCode::TaskRefused, "Task refused!", &data))?;
    log::debug!("task {}: accepted", task.id);
    place.accept(link, task.id, task.data);
    Ok(received())
}

/// Asks a hook; the data of its refusal is the error. A hook that panics refuses without data.
fn ask(hook: &str, call: impl FnOnce() -> Result<(), Refuse>) -> Result<(), Value> {
    match catch(call) {
        Ok(answer) => answer.map_err(Refuse::into_data),
        Err(panic) => {
            log::error!("hook {hook}: {panic}");
            Err(Value::Null)
        }
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
