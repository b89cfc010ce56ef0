//! A master as a command: tasks as JSON lines on standard input, their ends as JSON lines on standard output.
//!
//! ```sh
//! cargo run --example slave -- --port 7301 & cargo run --example slave -- --port 7302 &
//! printf '%s\n' '{"slave": null, "data": {"a": 2, "b": 3}}' '{"slave": "127.0.0.1:7302", "data": {}}' |
//!     cargo run --example master -- --slaves 127.0.0.1:7301,127.0.0.1:7302
//! ```
//!
//! prints a line for each task when it ends:
//!
//! ```json
//! {"slave":"127.0.0.1:7301","status":"completed","data":{"a":2,"b":3},"result":{"sum":5}}
//! {"slave":"127.0.0.1:7302","status":"failed","data":{},"result":{"message":"ab not found"}}
//! ```
//!
//! A slave is named as in `--slaves`, and its tasks run in their order; a task for null goes to any
//! that is free. `status` may also be `refused`, or `lost`: the slave cannot be reached, has another
//! master, fell silent… Standard error tells why. A slave that comes back is connected again.
//! `{"cmd": "disconnect", "slave": name}` lets a slave go until a task is for it. The end of the
//! input, Ctrl-C and SIGTERM let all go and end the program.
//!
//! A pool decides who does what; this file reads and prints, `desk.rs` is between them.

#![allow(clippy::print_stderr, reason = "a command speaks to its user")]

mod desk;

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::Parser;
use indicatif::ProgressBar;
use interplay::master::Master;
use interplay::pool::{self, Options};
use serde_json::{Value, json};

use desk::{Bell, Desk, Ended, Order};

/// How long a slave is tried before it counts as gone.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A master: hands tasks from standard input to slaves.
#[derive(Parser)]
struct Args {
    /// Address to listen on [default: 127.0.0.1 if all slaves are on this machine, else 0.0.0.0]
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 7235)]
    port: u16,
    /// Number that the slaves must have too
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    channel: i64,
    /// Addresses of the slaves, which are their names
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    slaves: Vec<String>,
    /// Seconds of silence after which a slave is lost
    #[arg(long, value_name = "SECS", default_value = "15", value_parser = seconds)]
    tolerance: Duration,
    /// Seconds after which a task that has not ended is lost [default: no limit]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Print {"event": "ready", "self_token": …, "port": …} when listening
    #[arg(long)]
    announce: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output {
        bar: ProgressBar::new(0),
        broken: OnceLock::new(),
    };
    let bar = output.bar.clone();
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("warn,tiny_http=off"),
    )
    .format(move |_, record| {
        bar.suspend(|| eprintln!("master: {}", record.args()));
        Ok(())
    })
    .init();
    match run(args, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("master: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args, output: Output) -> Result<(), Box<dyn Error>> {
    let slaves: Vec<&str> = args
        .slaves
        .iter()
        .map(|slave| slave.trim())
        .filter(|slave| !slave.is_empty())
        .collect();
    let is_here = |slave: &&str| {
        ["127.", "localhost", "[::1]"]
            .iter()
            .any(|here| slave.starts_with(here))
    };
    let host = if slaves.iter().all(is_here) {
        "127.0.0.1"
    } else {
        "0.0.0.0"
    };
    let master = Master::builder()
        .host(args.host.as_deref().unwrap_or(host))
        .port(args.port)
        .channel(args.channel)
        .heartbeat_tolerance(args.tolerance)
        .heartbeat_check_span(Duration::from_secs(1).min(args.tolerance / 10))
        .request_retries(2)
        .request_retry_waiting(Duration::from_millis(500))
        .start()?;
    let (bell, tray) = desk::tray();
    let mut pool = master
        .pool()
        .connect_deadline(CONNECT_LIMIT)
        // One that may have begun is lost with its slave.
        .defaults(Options::new().idempotent(false))
        .observer(bell.clone());
    for slave in &slaves {
        pool = pool.slave(*slave, *slave);
    }
    let pool = pool.start().map_err(|error| match error {
        pool::Error::Master { source } => Box::<dyn Error>::from(source),
        error => error.into(),
    })?;
    if args.announce {
        let (token, port) = (master.self_token(), master.local_addr().port());
        writeln!(
            io::stdout(),
            "{}",
            json!({"event": "ready", "self_token": token, "port": port})
        )?;
    }

    let (master, output, pool) = (Arc::new(master), Arc::new(output), Arc::new(pool));
    let desk = Desk::new(pool.clone(), tray, &slaves, args.timeout, {
        let (master, output) = (master.clone(), output.clone());
        move |line: &Ended<'_>| {
            if !output.print(line) {
                master.shutdown();
            }
        }
    });
    ctrlc::set_handler({
        let master = master.clone();
        move || master.shutdown()
    })?;
    let desk = thread::Builder::new().name("desk".to_owned()).spawn({
        let master = master.clone();
        move || {
            desk.run();
            master.shutdown();
        }
    })?;
    // Nobody joins this thread: it may wait for a line that never comes.
    thread::Builder::new().name("stdin".to_owned()).spawn({
        let (output, bell) = (output.clone(), bell.clone());
        move || {
            read(&output.bar, &bell);
            bell.all_ordered();
        }
    })?;
    // It runs until the end of the input, a signal, or `DELETE /shutdown`, and then until the slaves
    // are disconnected.
    if let Err(leftover) = master.join() {
        log::warn!("{leftover}");
    }
    let _ = pool.close(Duration::ZERO); // the desk knows what is left
    bell.stopped();
    let _ = desk.join();
    output.bar.finish_and_clear();
    match output.broken.get() {
        Some(error) => Err(format!("standard output: {error}").into()),
        None => Ok(()),
    }
}

/// Reads all orders from standard input.
fn read(bar: &ProgressBar, bell: &Bell) {
    for (number, line) in (1..).zip(io::stdin().lock().split(b'\n')) {
        let Ok(line) = line.inspect_err(|error| log::error!("standard input: {error}")) else {
            return;
        };
        match parse(number, &line) {
            Ok(order) => {
                bar.inc_length(u64::from(order.data.is_some()));
                bell.order(order);
            }
            Err(why) => log::error!("line {number}: {why}"),
        }
    }
}

fn parse(number: u64, line: &[u8]) -> Result<Order, String> {
    let value = serde_json::from_slice(line);
    let value = value.map_err(|error| format!("not JSON, see column {}", error.column()))?;
    let Value::Object(mut fields) = value else {
        return Err("not an object".to_owned());
    };
    let slave = match fields.remove("slave") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(format!("slave is {other}, neither a name nor null")),
    };
    let data = match (fields.remove("cmd"), fields.remove("data")) {
        (None, Some(data)) => Some(data),
        (None, None) => return Err("neither data nor cmd".to_owned()),
        (Some(cmd), _) if cmd != "disconnect" => return Err(format!("unknown cmd {cmd}")),
        (Some(_), _) if slave.is_none() => {
            return Err("disconnect without the name of a slave".to_owned());
        }
        (Some(_), _) => None,
    };
    let line = number;
    Ok(Order { line, slave, data })
}

struct Output {
    /// Hidden unless standard error is a terminal.
    bar: ProgressBar,
    /// Why a line could not be printed.
    broken: OnceLock<io::Error>,
}

impl Output {
    /// Prints a line; false if that failed.
    fn print(&self, line: &Ended<'_>) -> bool {
        let printed = self.bar.suspend(|| {
            let mut stdout = io::stdout().lock();
            serde_json::to_writer(&mut stdout, line)?;
            stdout.write_all(b"\n")
        });
        self.bar.inc(1);
        printed.map_err(|error| self.broken.set(error)).is_ok()
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
