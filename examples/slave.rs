//! A slave as a command: it waits for a master, does its tasks one by one, and ends on Ctrl-C or SIGTERM.
//!
//! ```sh
//! cargo run --example slave                           # {"a": 2, "b": 3} gives {"sum": 5}
//! cargo run --example slave -- --exec wc -w           # each task's JSON goes through a command
//! cargo run --example slave -- --host 0.0.0.0 --channel 7 --port 7236
//! ```
//!
//! It listens on loopback unless `--host` says otherwise, since whoever reaches
//! its port may use it. What it does is told on standard error; `RUST_LOG` sets how much.

#![allow(clippy::print_stderr, reason = "a command speaks to its user")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use interplay::slave::{Refuse, Slave, TaskFail, Worker};
use parking_lot::Mutex;
use serde_json::{Number, Value, json};

/// A slave: does the tasks that a master sends.
#[derive(Parser)]
struct Args {
    /// Address to listen on; 0.0.0.0 lets masters on other machines in
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 7236)]
    port: u16,
    /// Number that the master must have too
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    channel: i64,
    /// Seconds between two heartbeats
    #[arg(long, value_name = "SECS", default_value = "3", value_parser = seconds)]
    heartbeat: Duration,
    /// Print {"event": "ready", "self_token": …, "port": …} when listening, and end with standard input
    #[arg(long)]
    announce: bool,
    /// What to do with tasks
    #[arg(long, value_enum, default_value_t = Task::Sum, conflicts_with = "exec")]
    task: Task,
    /// Run this command for each task, the task on its standard input; must come last
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Task {
    /// {"a": 2, "b": 3} gives {"sum": 5}, anything else fails
    Sum,
    /// The tasks and refusals that conformance tests of the protocol ask for
    Conformance,
}

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info,tiny_http=off"));
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slave: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let builder = Slave::builder()
        .host(args.host)
        .port(args.port)
        .channel(args.channel)
        .heartbeat_span(args.heartbeat);
    let running = Arc::new(Mutex::new(None));
    let slave = Arc::new(match args.task {
        _ if !args.exec.is_empty() => {
            let running = running.clone();
            builder.start(move |task: Value| execute(&args.exec, &task, &running))?
        }
        Task::Sum => builder.start(|task: Value| sum(&task).ok_or_else(ab_not_found))?,
        Task::Conformance => builder.start(Conformance)?,
    });

    // The end may come from a signal, from standard input, or as `DELETE /shutdown`.
    let ending = slave.clone();
    ctrlc::set_handler(move || ending.shutdown())?;
    if args.announce {
        let port = slave.local_addr().port();
        writeln!(
            io::stdout(),
            "{}",
            json!({"event": "ready", "self_token": slave.self_token(), "port": port})
        )?;
        let ending = slave.clone();
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                ending.shutdown();
            })?;
    }
    if let Err(leftover) = slave.join() {
        log::warn!("{leftover}"); // its master has been told that the task failed
    }
    if let Some(mut command) = running.lock().take() {
        let _ = command.kill(); // it may have ended by itself just now
    }
    Ok(())
}

/// The sum of `a` and `b`, if both are there and numbers; whole numbers have a whole sum.
fn sum(task: &Value) -> Option<Value> {
    let (a, b) = (task.get("a")?.as_number()?, task.get("b")?.as_number()?);
    let whole = a.as_i128().zip(b.as_i128());
    let sum = match whole.and_then(|(a, b)| Number::from_i128(a + b)) {
        Some(sum) => sum,
        None => Number::from_f64(a.as_f64()? + b.as_f64()?)?,
    };
    Some(json!({"sum": sum}))
}

fn ab_not_found() -> TaskFail {
    TaskFail::new(json!({"message": "ab not found"})).with_message("A or B not found in task data")
}

/// Runs a command: its standard output is the result, as JSON if it is that, else as text.
///
/// While it runs it is in `running`.
fn execute(
    command: &[String],
    task: &Value,
    running: &Mutex<Option<Child>>,
) -> Result<Value, TaskFail> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| TaskFail::new(json!({"message": format!("{}: {error}", command[0])})))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    *running.lock() = Some(child);
    // All three at once: a command may write before it has read, and need not read at all.
    let (output, errors) = thread::scope(|scope| {
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(format!("{task}\n").as_bytes())));
        let errors = scope.spawn(|| read(stderr));
        (read(stdout), errors.join().unwrap_or_default())
    });
    let child = running.lock().take();
    match child.map(|mut child| child.wait()).transpose()? {
        Some(status) if status.success() => {
            Ok(serde_json::from_str(&output).unwrap_or_else(|_| output.trim_end().into()))
        }
        status => {
            let code = status.and_then(|status| status.code()); // none if a signal ended it
            Err(TaskFail::new(json!({"code": code, "stderr": errors})))
        }
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(Err(error)) = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes)) {
        log::warn!("output of the command: {error}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What conformance tests of the protocol expect of a slave: its data say how it is to behave.
struct Conformance;

impl Worker for Conformance {
    fn before_connection(&self, data: &Value) -> Result<(), Refuse> {
        refuse_or_crash(data, "crash")
    }

    fn before_disconnection(&self, data: &Value) -> Result<(), Refuse> {
        refuse_or_crash(data, "crash")
    }

    fn before_task(&self, data: &Value) -> Result<(), Refuse> {
        refuse_or_crash(data, "crash_before")
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a task that is told to sleep holds its thread"
    )]
    fn process(&self, task: Value) -> Result<Value, TaskFail> {
        if let Some(span) = task.get("sleep").and_then(Value::as_f64) {
            thread::sleep(Duration::try_from_secs_f64(span)?);
        }
        assert!(
            task.get("crash") != Some(&json!(true)),
            "the task is told to crash"
        );
        if let Some(result) = task.get("fail") {
            return Err(TaskFail::new(result.clone()));
        }
        if let Some(value) = task.get("echo") {
            return Ok(json!({"echo": value}));
        }
        sum(&task).ok_or_else(ab_not_found)
    }
}

fn refuse_or_crash(data: &Value, crash: &str) -> Result<(), Refuse> {
    assert!(
        data.get(crash) != Some(&json!(true)),
        "the hook is told to crash"
    );
    data.get("refuse")
        .map_or(Ok(()), |why| Err(Refuse::new(why.clone())))
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
