//! The HTTP client: the only file that knows `ureq`.
//!
//! It runs on the threads of its callers and has none of its own. Whatever
//! status comes back is an answer; only what is no answer is an error, and is
//! tried again as far as [`Retry`] allows. The environment is not looked at,
//! redirects are not followed, and nothing is waited for without a limit, name
//! resolution excepted, which is the system's.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::http::{self, Request, Uri, Version, header};
use ureq::{Agent, Timeout};

use super::error::{Error, Phase};
use super::request::Method;
use super::retry::{Attempts, Retry};
use crate::lifecycle::Stop;

const USER_AGENT: &str = concat!("interplay/", env!("CARGO_PKG_VERSION"));
/// How long an idle connection is kept for another request.
const IDLE: Duration = Duration::from_secs(15);
/// Per kept connection and direction. Messages are small, and peers may be many.
const BUFFER: usize = 16 << 10;

/// What a client keeps and how long it waits.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Idle connections kept in all. Default: 4.
    pub(crate) max_idle: usize,
    /// Idle connections kept to one peer. Default: 2.
    pub(crate) max_idle_per_peer: usize,
    /// How long a connection may take to be made. Default: 3 s, since a shutdown cannot interrupt it.
    pub(crate) connect: Duration,
    /// How long each other phase of an attempt may take, the wait for the answer
    /// among them, within what is left of [`Retry::total`]. Default: 10 s.
    pub(crate) phase: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_idle: 4,
            max_idle_per_peer: 2,
            connect: Duration::from_secs(3),
            phase: Duration::from_secs(10),
        }
    }
}

/// A client. Clones share its connections, and its end.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    connect: Duration,
    phase: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    /// The peers that said they keep the connection, so that it may be one from before.
    keeping: Mutex<HashSet<String>>,
}

/// One request.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    /// Beside those that are the client's: host, name, content type and length.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// JSON. It is sent whatever the method is.
    pub(crate) body: &'a [u8],
    /// The longest body the answer may have.
    pub(crate) limit: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// True if an attempt before this one failed and may have arrived all the same.
    pub(crate) repeated: bool,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .user_agent(USER_AGENT)
            .accept("") // whatever comes is JSON
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(settings.max_idle)
            .max_idle_connections_per_host(settings.max_idle_per_peer)
            .max_idle_age(IDLE)
            .allow_non_standard_methods(true)
            .build()
            .new_agent();
        Self {
            agent,
            connect: settings.connect,
            phase: settings.phase,
            shared: Arc::default(),
        }
    }

    /// Sends a request until it is answered or `retry` says no more.
    ///
    /// # Errors
    /// That of the last attempt, or of one before it that may have arrived, if
    /// the last did not. `Stopped` after a stop or [`Client::shutdown`].
    ///
    /// # Blocking
    /// For `retry.total`, and little more: no attempt or pause begins beyond
    /// it, and the phases of the last attempt are each cut to what was left at
    /// its start. A stop ends a pause at once; only a shutdown ends an attempt.
    pub(crate) fn exchange(
        &self,
        call: &Call<'_>,
        retry: &Retry,
        stop: &Stop,
    ) -> Result<Exchange, Error> {
        let uri = uri_of(call.url)?;
        let peer = uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut attempts = Attempts::new(*retry, Instant::now());
        let mut ambiguous: Option<Error> = None;
        let mut fresh = false;
        loop {
            if stop.is_stopped() || self.has_ended() {
                return Err(Error::Stopped);
            }
            let kept = !fresh && self.shared.keeping.lock().contains(&peer);
            let error = match self.attempt(call, &uri, &peer, fresh, attempts.deadline()) {
                Ok((status, body)) => {
                    return Ok(Exchange {
                        status,
                        body,
                        repeated: ambiguous.is_some(),
                    });
                }
                Err(error) => error,
            };
            if stop.is_stopped() || self.has_ended() {
                return Err(Error::Stopped);
            }
            let pause = attempts.after(&error, kept, chance(), Instant::now());
            log::debug!("{} {}: {error}, next in {pause:?}", call.method, call.url);
            // That the peer may have acted must not be lost with a later failure.
            let telling = match ambiguous.take() {
                Some(earlier) if !error.may_have_arrived() => earlier,
                _ => error,
            };
            let Some(pause) = pause else {
                return Err(telling);
            };
            ambiguous = Some(telling).filter(Error::may_have_arrived);
            fresh = true; // what is in the pool may be as stale
            if stop.wait_timeout(pause) {
                return Err(Error::Stopped);
            }
        }
    }

    /// Ends all requests, of clones too, now and from now on.
    ///
    /// A connection that is being made takes until its timeout.
    pub(crate) fn shutdown(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.agent.clone().shutdown();
    }

    fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// One attempt, on a connection of its own if it is to be `fresh`.
    fn attempt(
        &self,
        call: &Call<'_>,
        uri: &Uri,
        peer: &str,
        fresh: bool,
        deadline: Instant,
    ) -> Result<(u16, Vec<u8>), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would be an error of the caller's, not of the peer's.
        let within = |limit: Duration| limit.min(left).max(Duration::from_millis(1));
        let (connect, phase) = (within(self.connect), within(self.phase));
        let mut body = Watched {
            rest: call.body,
            begun: false,
        };
        let request = request(call, uri, ureq::SendBody::from_reader(&mut body))?;
        // No timeout of resolution, nor a global one: each would start a thread per request.
        let request = self
            .agent
            .configure_request(request)
            .timeout_connect(Some(connect))
            .timeout_send_request(Some(phase))
            .timeout_send_body(Some(phase))
            .timeout_recv_response(Some(phase))
            .timeout_recv_body(Some(phase))
            .max_idle_age(if fresh { Duration::ZERO } else { IDLE })
            .build();
        let answered = self.agent.run(request);
        let failed = |error| failure(error, peer, body.begun, phase);
        let answer = answered.map_err(failed)?;
        let status = answer.status().as_u16();
        self.note(peer, &answer);
        match read(answer.into_body(), call.limit) {
            Ok(body) => Ok((status, body)),
            Err(Unread::TooLong) => Err(Error::Unintelligible {
                status: Some(status),
                excerpt: format!("an answer of more than {} bytes", call.limit),
            }),
            Err(Unread::Failed(error)) => Err(failure(error, peer, true, phase)),
        }
    }

    /// Notes whether a peer keeps its connections.
    fn note(&self, peer: &str, answer: &http::Response<ureq::Body>) {
        let closes = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        let mut connection = answer.headers().get_all(header::CONNECTION).iter();
        let keeps = answer.version() == Version::HTTP_11 && !connection.any(closes);
        let mut keeping = self.shared.keeping.lock();
        if !keeps {
            keeping.remove(peer);
        } else if !keeping.contains(peer) {
            keeping.insert(peer.to_owned());
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A body that knows whether it has been begun: until then the peer cannot have acted.
struct Watched<'a> {
    rest: &'a [u8],
    begun: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begun = true;
        self.rest.read(buffer)
    }
}

/// The address of a request, if it can be used.
fn uri_of(url: &str) -> Result<Uri, Error> {
    let bad = |reason| Error::BadAddress {
        given: url.to_owned(),
        reason,
    };
    let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if cfg!(feature = "https") => {}
        Some("https") => return Err(bad("https needs the feature \"https\" of interplay")),
        _ => return Err(bad("neither http nor https")),
    }
    let authority = uri.authority().ok_or_else(|| bad("no host"))?;
    if authority.host().is_empty() {
        return Err(bad("no host"));
    }
    // Otherwise a port that is none would be taken for the scheme's.
    if !authority.as_str().ends_with(authority.host()) && authority.port_u16().is_none() {
        return Err(bad("no such port"));
    }
    Ok(uri)
}

fn request<B>(call: &Call<'_>, uri: &Uri, body: B) -> Result<Request<B>, Error> {
    let mut request = Request::new(body);
    *request.uri_mut() = uri.clone();
    let method = http::Method::from_bytes(call.method.as_str().as_bytes());
    *request.method_mut() = method.map_err(|_| Error::BadHeader {
        name: "method".to_owned(),
    })?;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, call.body.len().into());
    for &(name, value) in call.headers {
        let bad = || Error::BadHeader {
            name: name.to_owned(),
        };
        let key = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let value = http::HeaderValue::from_str(value).map_err(|_| bad())?;
        headers.insert(key, value);
    }
    Ok(request)
}

/// Why a body was not read to its end.
enum Unread {
    TooLong,
    Failed(ureq::Error),
}

/// Reads an answer to its end, so that its connection can be kept.
fn read(body: ureq::Body, limit: usize) -> Result<Vec<u8>, Unread> {
    if body
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(Unread::TooLong);
    }
    let mut body = body.into_reader().take(limit as u64 + 1);
    let mut bytes = Vec::new();
    match body.read_to_end(&mut bytes) {
        Ok(_) if bytes.len() > limit => Err(Unread::TooLong),
        Ok(_) => Ok(bytes),
        Err(error) => Err(Unread::Failed(error.into())),
    }
}

/// What a failure of `ureq` is to us. `begun` says that the peer may have the request.
fn failure(error: ureq::Error, peer: &str, begun: bool, after: Duration) -> Error {
    let unreachable = |source| Error::Unreachable {
        address: peer.to_owned(),
        source,
    };
    let phase = match &error {
        ureq::Error::Timeout(Timeout::Connect) => return unreachable(error.into()),
        ureq::Error::Timeout(Timeout::SendRequest) => Phase::Head,
        ureq::Error::Timeout(Timeout::SendBody) => Phase::Body,
        ureq::Error::Timeout(Timeout::RecvBody) => Phase::AnswerBody,
        ureq::Error::Timeout(_) => Phase::Answer,
        ureq::Error::Protocol(_)
        | ureq::Error::LargeResponseHeader(..)
        | ureq::Error::BodyExceedsLimit(_) => {
            return Error::Unintelligible {
                status: None,
                excerpt: error.to_string(),
            };
        }
        ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::TlsRequired => {
            return Error::BadAddress {
                given: peer.to_owned(),
                reason: "not an address of HTTP",
            };
        }
        _ => {
            let source: Box<dyn std::error::Error + Send + Sync> = match error {
                ureq::Error::Io(error) if begun || broke(&error) => {
                    return Error::Broken {
                        source: error.into(),
                    };
                }
                ureq::Error::Io(error) => error.into(),
                other => other.into(),
            };
            return if begun {
                Error::Broken { source }
            } else {
                unreachable(source)
            };
        }
    };
    Error::TimedOut { phase, after }
}

/// Whether a failure is that of a connection that was there.
fn broke(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// A number between 0 and 1.
fn chance() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
