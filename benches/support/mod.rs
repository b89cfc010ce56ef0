//! What the benches share: their options, medians, a bare exchange to compare with, and a process for the other side.
//!
//! The slaves of a bench run in a child process, which is the bench's own
//! binary in its second role ([`Other`]), so that nothing is measured that only
//! holds within one process. The child ends with its standard input.

#![allow(dead_code, reason = "each bench uses a part")]
#![allow(clippy::print_stdout, reason = "the other side says so where it is")]

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use interplay::slave::{Slave, TaskFail};
use serde_json::{Value, json};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The word by which the binary knows its second role.
const OTHER_SIDE: &str = "--other-side";

/// What may be asked of a bench on its command line.
#[derive(Default)]
pub(crate) struct Options {
    /// A few seconds in all, for CI.
    pub(crate) quick: bool,
    /// One JSON object instead of tables.
    pub(crate) json: bool,
    /// How long tasks are counted.
    pub(crate) seconds: Option<f64>,
    /// The only tables to make, if any are named.
    only: Vec<String>,
}

impl Options {
    /// Reads the command line; none if this process is to be the other side, and has been it.
    pub(crate) fn read() -> Result<Option<Self>> {
        let mut options = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--bench" => {} // what cargo says to every bench
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--seconds" => options.seconds = Some(value()?.parse()?),
                OTHER_SIDE => {
                    let (slaves, span) = (value()?.parse()?, value()?.parse()?);
                    return be_the_other_side(slaves, Duration::from_millis(span)).map(|()| None);
                }
                _ if word.starts_with('-') => return Err(format!("unknown option {word}").into()),
                _ => options.only.push(word),
            }
        }
        Ok(Some(options))
    }

    /// Whether a table is asked for.
    pub(crate) fn wants(&self, table: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == table)
    }
}

/// The process on the other side: slaves, a bare HTTP server and a raw echo.
pub(crate) struct Other {
    process: Child,
    pub(crate) slaves: Vec<String>,
    pub(crate) bare: SocketAddr,
    pub(crate) raw: SocketAddr,
}

impl Other {
    /// Starts it with that many slaves, which beat that often.
    pub(crate) fn start(slaves: usize, heartbeat_span: Duration) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([OTHER_SIDE, &slaves.to_string()])
            .arg(heartbeat_span.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let (slaves, bare, raw) = serde_json::from_str(&line)?;
        Ok(Self {
            process,
            slaves,
            bare,
            raw,
        })
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.kill(); // it may have been killed before
    }
}

fn be_the_other_side(slaves: usize, heartbeat_span: Duration) -> Result<()> {
    let start = |_| {
        Slave::builder()
            .host("127.0.0.1")
            .port(0)
            .heartbeat_span(heartbeat_span)
            .start(work)
    };
    let slaves: Vec<Slave> = (0..slaves)
        .map(start)
        .collect::<std::result::Result<_, _>>()?;
    let (_server, bare) = bare_server()?;
    let addresses: Vec<String> = slaves.iter().map(|s| s.local_addr().to_string()).collect();
    println!("{}", json!([addresses, bare, raw_echo()?]));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    std::process::exit(0) // a goodbye is not what is measured
}

/// What the slaves do: hang or wait, if they are told to, and otherwise give back what they were given.
fn work(data: Value) -> std::result::Result<Value, TaskFail> {
    if data == "hang" {
        loop {
            thread::park();
        }
    }
    if let Some(wait) = data.get("wait_ms").and_then(Value::as_u64) {
        let (begin, wait) = (Instant::now(), Duration::from_millis(wait));
        while let Some(rest) = wait.checked_sub(begin.elapsed()) {
            thread::park_timeout(rest);
        }
        // Who was busy, and for how long.
        return Ok(json!([
            thread::current().name(),
            begin.elapsed().as_secs_f64()
        ]));
    }
    Ok(data)
}

/// A server made of `tiny_http` alone, on a thread of its own, that answers as much as it is sent.
pub(crate) fn bare_server() -> Result<(BareServer, SocketAddr)> {
    let listener = socket2::Socket::from(TcpListener::bind("127.0.0.1:0")?);
    listener.set_tcp_nodelay(true)?;
    let listener = TcpListener::from(listener);
    let address = listener.local_addr()?;
    let server = tiny_http::Server::from_listener(listener, None)?;
    let server = std::sync::Arc::new(server);
    let serving = server.clone();
    let thread = thread::Builder::new().spawn(move || {
        for mut request in serving.incoming_requests() {
            let mut body = Vec::new();
            if request.as_reader().read_to_end(&mut body).is_ok() {
                let answer = tiny_http::Response::from_data(body);
                let _ = request.respond(answer.with_chunked_threshold(usize::MAX));
            }
        }
    })?;
    Ok((BareServer { server, thread }, address))
}

/// A running bare server.
pub(crate) struct BareServer {
    server: std::sync::Arc<tiny_http::Server>,
    thread: thread::JoinHandle<()>,
}

impl BareServer {
    /// Stops it and waits for its thread.
    pub(crate) fn stop(self) {
        self.server.unblock();
        let _ = self.thread.join();
    }
}

/// A client made of `ureq` alone, with the few settings that make it comparable: no proxy, buffers as small as ours.
pub(crate) fn bare_client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .proxy(None)
        .input_buffer_size(16 << 10)
        .output_buffer_size(16 << 10)
        .build()
        .new_agent()
}

/// One exchange, on a connection that is closed afterwards, or kept for the next.
pub(crate) fn bare_exchange(
    client: &ureq::Agent,
    address: SocketAddr,
    body: &[u8],
    close: bool,
) -> Result<()> {
    let request = client.post(format!("http://{address}/"));
    let connection = if close { "close" } else { "keep-alive" };
    let mut answer = request.header("connection", connection).send(body)?;
    let limit = body.len() as u64 + 1;
    let echoed = answer.body_mut().with_config().limit(limit).read_to_vec()?;
    if echoed.len() != body.len() {
        return Err("the bare server answered something else".into());
    }
    Ok(())
}

/// Gives back what it is sent, for one connection at a time.
fn raw_echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = echo(stream);
        }
    })?;
    Ok(address)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// The value below which this part of them lies; 0.5 is the median.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}
