//! Where one request is judged, read and answered.
//!
//! The dispatcher brings each request here. What is in memory is answered at
//! once; what is not goes to a body thread, which comes here too. The rule
//! behind all of it: to drop a request of `tiny_http` is to read the rest of
//! its body, for as long as that takes and into a buffer as long as the client
//! *claims* the rest to be. So the dispatcher drops none that has a rest, and
//! nobody drops one whose claim cannot be allocated.

use std::hint::black_box;
use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tiny_http::{HTTPVersion, Request, StatusCode};

use super::super::bodies::{self, Bodies};
use super::super::framing::{Framing, framing};
use super::super::kept::{Kept, Writer};
use super::super::request::{Head, Method};
use super::super::response::{Fault, Response};
use super::{Control, Handler, Step};
use crate::lifecycle::catch;

/// Bodies up to this length are read by `tiny_http` before it hands the request on.
const IN_MEMORY: usize = 1024;
/// Beyond this a claimed length is absurd.
const ABSURD: usize = 1 << 30;

pub(super) struct Desk {
    control: Arc<Control>,
    bodies: Arc<Bodies>,
    handler: Arc<dyn Handler>,
    limit: usize,
    /// The connections that are kept, if any are to be.
    kept: Option<Kept>,
}

/// What `tiny_http` has left to read of a request, by its own judgement, which is not ours.
enum Rest {
    /// Nothing that is waited for.
    InMemory,
    /// Bytes that may still have to come.
    Coming,
    /// More than can be allocated.
    Absurd,
}

impl Desk {
    pub(super) fn new(
        control: Arc<Control>,
        bodies: Arc<Bodies>,
        handler: Arc<dyn Handler>,
        limit: usize,
        keep: bool,
    ) -> Self {
        Self {
            control,
            bodies,
            handler,
            limit: limit.min(ABSURD),
            kept: keep.then(Kept::default),
        }
    }

    /// Answers a request, or sees to it that it is answered. Never waits for the client to send.
    pub(super) fn take(self: &Arc<Self>, request: Request) {
        if let (Some(kept), Some(&peer)) = (&self.kept, request.remote_addr()) {
            kept.release(peer);
        }
        let head = head_of(&request);
        let framing = framing(&head);
        let judged = self.judge(&head, framing);
        let keep = framing.is_some() && self.keeps(&head, &request);
        match rest_of(&request, framing) {
            Rest::InMemory if !matches!(judged, Ok(Step::Wait(_))) => {
                let step = judged.unwrap_or_else(Step::Answer);
                self.answer_now(request, framing, step, keep)
            }
            Rest::Absurd => self.abandon(request, judged),
            Rest::InMemory | Rest::Coming => {
                let desk = self.clone();
                let started = self
                    .bodies
                    .start((request, judged), move |(request, judged)| {
                        let step = judged.unwrap_or_else(Step::Answer);
                        desk.answer_slowly(request, framing, step, keep);
                    });
                if let Err((request, judged)) = started {
                    self.control.refused.fetch_add(1, Ordering::Relaxed);
                    let response = self.refusal(judged, Fault::Busy);
                    let rest = self.answer_unread(request, &response);
                    self.bodies.discard(rest);
                }
            }
        }
    }

    /// What is to be done, by the head alone; the error is the answer to a request that is refused by it.
    fn judge(&self, head: &Head, framing: Option<Framing>) -> Result<Step, Response> {
        if self.control.stop.is_stopped() {
            return Err(self.fault(Fault::Stopping));
        }
        let fault = match framing {
            None => Some(Fault::BadFraming),
            Some(Framing::Sized(length)) if length > self.limit as u64 => Some(Fault::TooLong),
            _ => None,
        };
        if fault.is_none() && head.method == Method::Options && head.path == "*" {
            return Ok(Step::Answer(Response::new(200, "")));
        }
        let step = catch(|| self.handler.head(head)).map_err(|_| self.fault(Fault::Panicked));
        match fault {
            None => step,
            Some(fault) => Err(self.refusal(step, fault)),
        }
    }

    /// The answer to a request that cannot be read: that for its head, if that is bad enough.
    fn refusal(&self, judged: Result<Step, Response>, fault: Fault) -> Response {
        match judged {
            // Whatever its status is: a handler may refuse by 200.
            Err(response) => response,
            Ok(Step::Answer(response)) if response.status >= 400 => response,
            Ok(Step::Read(work)) => self.guard(|| work(Err(fault))),
            Ok(Step::Answer(_) | Step::Wait(_)) => self.fault(fault),
        }
    }

    /// Whether a client's connection is kept: if it is this library, which has
    /// timeouts. Others would hang on a connection whose server has gone.
    fn keeps(&self, head: &Head, request: &Request) -> bool {
        let is_ours = |agent: &str| agent.starts_with("interplay/");
        self.kept.is_some()
            && *request.http_version() == HTTPVersion(1, 1)
            && head.header("User-Agent").is_some_and(|a| is_ours(&a))
            && head.header("Connection").is_none()
    }

    fn fault(&self, fault: Fault) -> Response {
        catch(|| self.handler.fault(fault)).unwrap_or_else(|_| Response::new(500, "{}"))
    }

    /// Answers a request whose body is in memory.
    fn answer_now(&self, mut request: Request, framing: Option<Framing>, step: Step, keep: bool) {
        let response = match step {
            Step::Answer(response) => response,
            Step::Read(work) => {
                let body = self.read(&mut request, framing);
                self.guard(|| work(body.as_deref().map_err(|fault| *fault)))
            }
            Step::Wait(work) => self.guard(work),
        };
        self.answer(request, &response, keep);
    }

    /// Answers a request whose body is to come, on a body thread.
    fn answer_slowly(
        &self,
        mut request: Request,
        framing: Option<Framing>,
        step: Step,
        keep: bool,
    ) {
        let (response, readable) = match step {
            Step::Answer(response) => (response, framing.is_some()),
            Step::Read(work) => match self.read(&mut request, framing) {
                Ok(body) => {
                    let response = self.guard(|| work(Ok(&body)));
                    return self.answer(request, &response, keep);
                }
                Err(fault) => (self.guard(|| work(Err(fault))), fault == Fault::TooLong),
            },
            Step::Wait(work) => (self.guard(work), framing.is_some()),
        };
        if framing == Some(Framing::Chunked) && readable && !expects(&request) {
            // The drop does not read chunks, and what is left of them would reset the connection.
            let mut rest = request.as_reader().take(self.limit as u64);
            let _ = io::copy(&mut rest, &mut io::sink());
        }
        self.note(&request, &response);
        self.control.answered.fetch_add(1, Ordering::Relaxed);
        // This answers first and reads the rest then, so that also a client
        // that sends it all before it reads gets the answer.
        let _ = request.respond(foreign(&response, ""));
    }

    /// Has the handler work; its panic is a fault.
    fn guard(&self, work: impl FnOnce() -> Response) -> Response {
        catch(work).unwrap_or_else(|_| self.fault(Fault::Panicked))
    }

    fn read(&self, request: &mut Request, framing: Option<Framing>) -> Result<Vec<u8>, Fault> {
        let framing = framing.ok_or(Fault::BadFraming)?;
        let most = match framing {
            Framing::Sized(0) => return Ok(Vec::new()), // nor asked for by `100 Continue`
            Framing::Sized(length) => length,
            Framing::Chunked => self.limit as u64 + 1,
        };
        let mut body = Vec::new();
        let read = request.as_reader().take(most).read_to_end(&mut body);
        match framing {
            _ if read.is_err() => Err(Fault::BadFraming),
            Framing::Sized(length) if (body.len() as u64) < length => Err(Fault::BadFraming),
            _ if body.len() > self.limit => Err(Fault::TooLong),
            _ => Ok(body),
        }
    }

    /// Answers a request whose body has been read or is in memory.
    fn answer(&self, request: Request, response: &Response, keep: bool) {
        self.note(&request, response);
        let keep = keep && !self.control.stop.is_stopped();
        let bodiless = *request.method() == tiny_http::Method::Head;
        let wire = response.to_wire(reason(response.status), bodiless, keep);
        let place = match (&self.kept, request.remote_addr()) {
            (Some(kept), Some(&peer)) if keep => Some((kept, kept.reserve(peer))),
            _ => None,
        };
        let mut writer = request.into_writer();
        self.write(&mut writer, &wire);
        match place {
            Some((kept, place)) => {
                if let Some(writer) = kept.fill(place, writer) {
                    self.part(writer);
                }
            }
            None => {
                self.control.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Logs a request that is not granted. What it said may be secret; what it asked for is not.
    fn note(&self, request: &Request, response: &Response) {
        if response.status >= 400 {
            let (name, status) = (&self.control.name, response.status);
            log::info!(
                "server {name}: {} {:?} answered {status}",
                request.method(),
                request.url()
            );
        }
    }

    fn write(&self, writer: &mut Writer, wire: &[u8]) {
        if let Err(error) = writer.write_all(wire).and_then(|()| writer.flush()) {
            log::debug!(
                "server {}: an answer was not taken: {error}",
                self.control.name
            );
        }
    }

    /// Answers a request and hands back what is left of it, the drop of which reads the rest of its body.
    fn answer_unread(&self, request: Request, response: &Response) -> Box<dyn Send> {
        self.note(&request, response);
        let bodiless = *request.method() == tiny_http::Method::Head;
        let length = format!("\r\nContent-Length: {}", response.body.len());
        // Of all that ends a request, this alone writes without a drop. It writes no body.
        let mut stream = request.upgrade("HTTP/1.1", foreign(response, &length));
        let body: &[u8] = if bodiless { &[] } else { &response.body };
        if let Err(error) = stream.write_all(body).and_then(|()| stream.flush()) {
            log::debug!(
                "server {}: an answer was not taken: {error}",
                self.control.name
            );
        }
        self.control.answered.fetch_add(1, Ordering::Relaxed);
        Box::new(stream)
    }

    /// Answers a request that must never be dropped. Its connection stays open for good.
    fn abandon(&self, request: Request, judged: Result<Step, Response>) {
        let response = self.refusal(judged, Fault::TooLong);
        std::mem::forget(self.answer_unread(request, &response));
        if self.control.abandoned.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!(
                "server {}: a client claimed a body beyond any memory; \
                 its connection is left open for good, as are others like it",
                self.control.name
            );
        }
    }

    /// Drops something on a body thread, where waiting is allowed.
    pub(super) fn discard(&self, rest: bodies::Rest) {
        self.bodies.discard(rest);
    }

    /// Tells the clients of kept connections that there is nobody any more.
    pub(super) fn say_goodbye(&self) {
        for writer in self.kept.iter().flat_map(Kept::close) {
            self.part(writer);
        }
    }

    fn part(&self, mut writer: Writer) {
        let response = self.fault(Fault::Stopping);
        let wire = response.to_wire(reason(response.status), false, false);
        self.write(&mut writer, &wire);
    }
}

fn head_of(request: &Request) -> Head {
    let header = |h: &tiny_http::Header| {
        (
            h.field.as_str().as_str().to_owned(),
            h.value.as_str().to_owned(),
        )
    };
    Head::new(
        Method::from(request.method().as_str()),
        request.url(),
        request.headers().iter().map(header).collect(),
    )
}

/// The value `tiny_http` acts upon: the first.
fn first<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    headers
        .find(|h| h.field.equiv(name))
        .map(|h| h.value.as_str())
}

fn expects(request: &Request) -> bool {
    first(request, "Expect").is_some()
}

fn rest_of(request: &Request, framing: Option<Framing>) -> Rest {
    // Then `tiny_http` leaves the whole connection in place of the body.
    let taken_over = first(request, "Connection")
        .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"));
    match request.body_length() {
        _ if taken_over => match framing {
            Some(Framing::Sized(0)) | None => Rest::InMemory,
            Some(_) => Rest::Coming,
        },
        Some(0) => Rest::InMemory,
        Some(length) if length <= IN_MEMORY && !expects(request) => Rest::InMemory,
        Some(length) if can_be_dropped(length) => Rest::Coming,
        Some(_) => Rest::Absurd,
        None if first(request, "Transfer-Encoding").is_some() => Rest::Coming,
        None => Rest::InMemory,
    }
}

/// Whether the buffer for a rest of this length could be had, which the drop takes for granted.
fn can_be_dropped(length: usize) -> bool {
    let mut buffer = Vec::<u8>::new();
    let fits = length <= ABSURD && buffer.try_reserve_exact(length).is_ok();
    black_box(&buffer); // or the allocation is optimised away, and succeeds
    fits
}

/// An answer that `tiny_http` writes.
///
/// It lets nobody set `Connection`, but does not look into values.
fn foreign(response: &Response, more: &str) -> tiny_http::Response<Cursor<Vec<u8>>> {
    let kind = format!("application/json\r\nConnection: close{more}");
    let allow = response.allow.map(|methods| ("Allow", methods));
    let headers = [("Content-Type", kind.as_str())].into_iter().chain(allow);
    let headers = headers.filter_map(|(n, v)| tiny_http::Header::from_bytes(n, v).ok());
    tiny_http::Response::new(
        StatusCode(response.status),
        headers.collect(),
        Cursor::new(response.body.clone()),
        Some(response.body.len()),
        None,
    )
    .with_chunked_threshold(usize::MAX)
}

fn reason(status: u16) -> &'static str {
    StatusCode(status).default_reason_phrase()
}
