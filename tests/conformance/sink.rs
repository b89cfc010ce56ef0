//! The other side of the wire: notes what it receives, and answers success unless it was told otherwise.
//!
//! It plays the master of a slave, or a slave of a master. One thread accepts and each connection has one of its own;
//! a connection carries one request. All have ended when the sink is dropped.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::log::Log;
use crate::vector::{Mode, Rule, Want};

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request that arrived.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) method: String,
    pub(crate) path: String,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Null if there was no body.
    pub(crate) json: Value,
}

impl Record {
    pub(crate) fn is(&self, want: &Want) -> bool {
        want.method
            .as_ref()
            .is_none_or(|method| *method == self.method)
            && want.path.as_ref().is_none_or(|path| *path == self.path)
            && want.json.as_ref().is_none_or(|json| *json == self.json)
            && want
                .headers
                .iter()
                .all(|(name, value)| self.headers.get(&name.to_lowercase()) == Some(value))
    }
}

struct Shared {
    records: Log<Record>,
    rules: Mutex<Vec<Rule>>,
    closing: AtomicBool,
}

pub(crate) struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Sink {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            records: Log::new(),
            rules: Mutex::new(Vec::new()),
            closing: AtomicBool::new(false),
        });
        let name = format!("sink-{}", address.port());
        let accept = {
            let (shared, name) = (shared.clone(), name.clone());
            move || {
                thread::scope(|scope| {
                    for stream in listener.incoming() {
                        if shared.closing.load(Ordering::SeqCst) {
                            return;
                        }
                        // A connection that was reset already is as good as one that never came.
                        let Ok(stream) = stream else { continue };
                        let shared = &shared;
                        let serve = move || {
                            // An error is the peer's: what became of it shows in what is noted.
                            let _ = shared.serve(&stream);
                        };
                        let served = thread::Builder::new()
                            .name(name.clone())
                            .spawn_scoped(scope, serve);
                        served.expect("the system gives a thread");
                    }
                });
            }
        };
        let acceptor = thread::Builder::new().name(name).spawn(accept)?;
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    pub(crate) fn host_and_port(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on answers what fits the rule in its way.
    pub(crate) fn obey(&self, rule: Rule) {
        self.shared.rules.lock().insert(0, rule);
    }

    /// How many requests have arrived.
    pub(crate) fn count(&self) -> usize {
        self.shared.records.len()
    }

    /// The `count`-th request like that, from number `start` on; none if it does not arrive within that time.
    pub(crate) fn wait(
        &self,
        want: &Want,
        start: usize,
        count: usize,
        within: Duration,
    ) -> Option<Record> {
        self.shared
            .records
            .wait(start, count, within, |record| record.is(want))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the acceptor; if it cannot be reached it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let ended = acceptor.join();
            assert!(
                ended.is_ok() || thread::panicking(),
                "the sink's thread panicked"
            );
        }
    }
}

impl Shared {
    /// Takes one request and answers it.
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let record = receive(&mut BufReader::new(stream))?;
        let rule = self.pick(&record);
        self.records.push(record);
        if rule.mode == Some(Mode::Drop) {
            return Ok(());
        }
        let body = rule.json.to_string();
        let head = format!(
            "HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            rule.status,
            body.len(),
        );
        stream.write_all((head + &body).as_bytes())
    }

    fn pick(&self, record: &Record) -> Rule {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| {
            rule.method
                .as_ref()
                .is_none_or(|method| *method == record.method)
                && rule.path.as_ref().is_none_or(|path| *path == record.path)
                && rule.times != Some(0)
        });
        match rule {
            Some(rule) => {
                rule.times = rule.times.map(|times| times - 1);
                rule.clone()
            }
            None => Rule::default(),
        }
    }
}

fn receive(reader: &mut impl BufRead) -> io::Result<Record> {
    let request_line = line(reader)?;
    let mut words = request_line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(ErrorKind::InvalidData.into());
    };
    let mut headers = BTreeMap::new();
    loop {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.trim().to_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if headers
        .get("transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    {
        loop {
            let size = line(reader)?;
            let size = size.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| ErrorKind::InvalidData)?;
            reader.take(size).read_to_end(&mut body)?;
            line(reader)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = headers
            .get("content-length")
            .map_or(Ok(0), |length| length.parse());
        body.resize(length.map_err(|_| ErrorKind::InvalidData)?, 0);
        reader.read_exact(&mut body)?;
    }
    let json = match body.as_slice() {
        [] => Value::Null,
        // What serde_json does not read (very deep nesting) is noted as text.
        bytes => serde_json::from_slice(bytes)
            .unwrap_or_else(|_| json!({"$raw": String::from_utf8_lossy(bytes)})),
    };
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Ok(Record {
        method: method.to_owned(),
        path,
        headers,
        json,
    })
}

/// A line of Latin-1 without its end.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let line: String = line.into_iter().map(char::from).collect();
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
