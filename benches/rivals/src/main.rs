//! The work of `benches/qmp.rs`, done by the crate `qapi`: its blocking client, which is for one thread.
//!
//! `rivals SECONDS < MONITORS`: MONITORS is the line that `qmp --serve` prints; the result is one JSON object like that
//! of `qmp --json`. It has two clients: as `qapi` makes one of a stream, and with a buffer in front of the socket, since it
//! writes a command in many pieces otherwise. Neither can have two commands in flight.

use std::error::Error;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use qapi::qmp::{query_qmp_schema, query_version, stop};
use qapi::{Command, Qmp, Stream};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let seconds: f64 = std::env::args()
        .nth(1)
        .ok_or("how many seconds?")?
        .parse()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let monitors: Value = serde_json::from_str(&line)?;
    let mut results = json!({});
    for monitor in monitors.as_array().into_iter().flatten() {
        let text = |key: &str| monitor[key].as_str().ok_or(format!("no {key}"));
        let (name, socket, small) = (text("name")?, text("socket")?, text("small")?);
        let stream = UnixStream::connect(socket)?;
        results["qapi"][name] = work(Qmp::from_stream(&stream), small, seconds)?;
        drop(stream); // a monitor has one client at a time
        let stream = UnixStream::connect(socket)?;
        let buffered = Stream::new(BufReader::new(&stream), BufWriter::new(&stream));
        results["qapi, buffered"][name] = work(Qmp::new(buffered), small, seconds)?;
    }
    println!("{results}");
    Ok(())
}

fn work<S: BufRead + Write>(mut client: Qmp<S>, small: &str, seconds: f64) -> Result<Value> {
    client.handshake()?;
    let one = match small {
        "stop" => turn(&mut client, &stop {}, seconds)?,
        _ => turn(&mut client, &query_version {}, seconds)?,
    };
    // It makes no values, only its own types.
    let typed = turn(&mut client, &query_qmp_schema {}, seconds)?;
    Ok(json!({"one": one, "typed": typed}))
}

/// Calls a second, and microseconds of processor time for each.
fn turn<S: BufRead + Write, C: Command>(
    client: &mut Qmp<S>,
    command: &C,
    seconds: f64,
) -> Result<Value> {
    client.execute(command)?;
    let (begin, cpu) = (Instant::now(), cpu_time());
    let mut calls = 0.0;
    while calls == 0.0 || begin.elapsed().as_secs_f64() < seconds {
        client.execute(command)?;
        calls += 1.0;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let cpu = cpu_time()
        .zip(cpu)
        .map(|(after, before)| (after - before) / calls * 1e6);
    Ok(json!({"per_second": calls / elapsed, "cpu_us": cpu}))
}

/// Processor time of the only thread, in seconds, where the system tells.
fn cpu_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
