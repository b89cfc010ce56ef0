//! The scripted peer: a raw server that plays the other side of the wire.
//!
//! It follows a list of rules, each for one request ("METHOD /path"): the first
//! rule for a request that has not been used up says what to do with it, and
//! without one the answer is success. Every request is noted with its headers and its body. Like DI-engine's
//! own server it closes each connection after the answer. Dropping it closes
//! its port and all its connections.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde_json::{Value, json};

use super::{pause, secs, spawn};

/// Less than the deadline of a test, so that what did not come is named.
const PATIENCE: Duration = secs(40);

/// What to do with a request.
#[derive(Clone)]
pub(crate) enum Act {
    /// Answer with this status and body.
    Answer(u16, Vec<u8>),
    /// Do it after the signal, which is a send, or the drop of the sender.
    After(Receiver<()>, Box<Act>),
    /// Answer with these bytes.
    Raw(Vec<u8>),
    /// Close without an answer.
    Cut,
    /// Close within the answer.
    CutAnswer,
    /// Neither answer nor close.
    Silent,
    /// Answer one byte at a time, with this pause before each.
    Drip(Duration),
}

/// Success with the envelope.
pub(crate) fn success() -> Act {
    envelope(200, true, 0, "", &Value::Null)
}

/// A failure with the envelope.
pub(crate) fn failure(status: u16, code: i64) -> Act {
    envelope(status, false, code, "No.", &json!({}))
}

pub(crate) fn envelope(status: u16, success: bool, code: i64, message: &str, data: &Value) -> Act {
    let body = json!({"success": success, "code": code, "message": message, "data": data});
    Act::Answer(status, serde_json::to_vec(&body).unwrap())
}

/// An answer that is no envelope, as a proxy or a crashed server gives it.
pub(crate) fn page(status: u16) -> Act {
    Act::Answer(status, b"<!doctype html><title>Error</title>".to_vec())
}

impl Act {
    /// The same after a signal, and the signal.
    pub(crate) fn later(self) -> (Sender<()>, Self) {
        let (signal, signalled) = crossbeam_channel::bounded(1);
        (signal, Self::After(signalled, Box::new(self)))
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// "METHOD /path".
    pub(crate) route: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
}

impl Request {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let mut found = self
            .headers
            .iter()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name));
        &found.next().unwrap_or_else(|| panic!("no header {name}")).1
    }

    pub(crate) fn token(&self) -> String {
        self.header("Token").to_owned()
    }

    /// The id of the task that it is about.
    pub(crate) fn task_id(&self) -> String {
        self.json()["task"]["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }
}

struct Rule {
    route: String,
    /// How many requests it is still for; none for all.
    left: Option<usize>,
    act: Act,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<Request>,
    connections: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
    /// All connections are closed at once.
    away: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    came: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A server that follows a script.
pub(crate) struct Peer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts on a port of its own.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accept = spawn("peer", {
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Self {
            addr,
            shared,
            accept: Some(accept),
        }
    }

    /// A peer that closes every connection without a word.
    pub(crate) fn absent() -> Self {
        let peer = Self::start();
        peer.set_away(true);
        peer
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a master tells it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds a rule for the next request of a route.
    pub(crate) fn on(&self, route: &str, act: Act) -> &Self {
        self.times(1, route, act)
    }

    /// Adds a rule for the next `count` requests of a route.
    pub(crate) fn times(&self, count: usize, route: &str, act: Act) -> &Self {
        self.rule(route, Some(count), act)
    }

    /// Adds a rule for all requests of a route that have no other.
    pub(crate) fn always(&self, route: &str, act: Act) -> &Self {
        self.rule(route, None, act)
    }

    fn rule(&self, route: &str, left: Option<usize>, act: Act) -> &Self {
        let route = route.to_owned();
        self.shared.lock().rules.push(Rule { route, left, act });
        self
    }

    /// Takes all rules of a route away.
    pub(crate) fn clear(&self, route: &str) {
        self.shared.lock().rules.retain(|rule| rule.route != route);
    }

    /// Whether it closes every connection at once, those that are open included.
    pub(crate) fn set_away(&self, away: bool) {
        let mut state = self.shared.lock();
        state.away = away;
        if away {
            close_all(&mut state);
        }
    }

    /// All requests of a route so far.
    pub(crate) fn seen(&self, route: &str) -> Vec<Request> {
        let state = self.shared.lock();
        state
            .requests
            .iter()
            .filter(|request| request.route == route)
            .cloned()
            .collect()
    }

    /// All requests so far but heartbeats, in order.
    pub(crate) fn routes(&self) -> Vec<String> {
        let state = self.shared.lock();
        let routes = state.requests.iter().map(|request| request.route.clone());
        routes
            .filter(|route| route != "GET /slave/heartbeat")
            .collect()
    }

    /// Waits for the `n`th request of a route, counted from 1.
    #[track_caller]
    pub(crate) fn nth(&self, n: usize, route: &str) -> Request {
        let end = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        loop {
            let mut found = state
                .requests
                .iter()
                .filter(|request| request.route == route);
            if let Some(request) = found.nth(n - 1) {
                return request.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "request {n} of {route:?} has not come");
            let waited = self.shared.came.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Waits for the first request of a route.
    #[track_caller]
    pub(crate) fn first(&self, route: &str) -> Request {
        self.nth(1, route)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        let _ = TcpStream::connect(self.addr); // wakes the accept thread
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
        let mut state = self.shared.lock();
        close_all(&mut state);
        state.rules.clear(); // and with them the signals that are waited for
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn close_all(state: &mut State) {
    for connection in state.connections.drain(..) {
        let _ = connection.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let mut state = shared.lock();
        if state.ended {
            return;
        }
        if state.away {
            continue;
        }
        state.connections.push(stream.try_clone().unwrap());
        state.threads.retain(|thread| !thread.is_finished());
        let serving = shared.clone();
        state.threads.push(spawn("peer", move || {
            let _ = serve(&stream, &serving);
            let _ = stream.shutdown(Shutdown::Both);
        }));
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let request = read(stream)?;
    let mut state = shared.lock();
    let act = act_for(&mut state, &request.route);
    state.requests.push(request);
    shared.came.notify_all();
    drop(state);
    act.map_or_else(
        || perform(stream, shared, success()),
        |act| perform(stream, shared, act),
    )
}

fn act_for(state: &mut State, route: &str) -> Option<Act> {
    let fits = |rule: &Rule| rule.route == route && rule.left != Some(0);
    // Rules that are for a certain number of requests come before those that are for all.
    let mut rules: Vec<&mut Rule> = state.rules.iter_mut().filter(|rule| fits(rule)).collect();
    rules.sort_by_key(|rule| rule.left.is_none());
    let rule = rules.into_iter().next()?;
    rule.left = rule.left.map(|left| left - 1);
    Some(rule.act.clone())
}

fn perform(stream: &TcpStream, shared: &Shared, act: Act) -> io::Result<()> {
    match act {
        Act::Answer(status, body) => write(stream, &wire(status, &body)),
        Act::After(signal, act) => {
            // Ends with a signal, the loss of its sender, or the peer itself.
            while signal
                .recv_timeout(Duration::from_millis(5))
                .is_err_and(|e| e.is_timeout())
            {
                if shared.lock().ended {
                    return Ok(());
                }
            }
            perform(stream, shared, *act)
        }
        Act::Raw(bytes) => write(stream, &bytes),
        Act::Cut => Ok(()),
        Act::CutAnswer => write(stream, b"HTTP/1.1 200 OK\r\nContent-Le"),
        Act::Silent => {
            // Until the client leaves, or this peer ends and shuts the connection.
            let mut rest = stream;
            io::copy(&mut rest, &mut io::sink()).map(drop)
        }
        Act::Drip(gap) => {
            for byte in wire(
                200,
                br#"{"success":true,"code":0,"message":"","data":null}"#,
            ) {
                pause(gap);
                write(stream, &[byte])?;
            }
            Ok(())
        }
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}

fn wire(status: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let route = format!("{method} {path}");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim_start().to_owned())),
            None => break,
        }
    }
    let length = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
    let length = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request {
        route,
        headers,
        body,
        at: Instant::now(),
    })
}
