//! What does the message loop cost, beside the bytes going through a socket pair?
//!
//! Lines of 64 bytes over a pair of UNIX sockets. The baseline is a plain thread at each end,
//! measured in the same run, turn by turn with the loop, because only the ratio says anything on
//! another machine.
//!
//! `cargo bench --bench message_loop`, with `-- --quick` in a few seconds.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::protocol::{
    BoxError, Cancel, Kind, Lines, Link, Loop, Options as Settings, Protocol,
};
use support::{Options, Result, median};

const LINE: [u8; 63] = [b'x'; 63];

/// What becomes of a line.
enum Then {
    Echo,
    Tell(Sender<()>),
    Count,
}

impl Protocol for Then {
    type Outbound = Vec<u8>;
    type Inbound = Vec<u8>;
    type Decoder = Lines;

    fn decoder(&self) -> Lines {
        Lines::new()
    }

    fn encode(&self, line: &Vec<u8>, out: &mut Vec<u8>) -> std::result::Result<(), BoxError> {
        out.extend_from_slice(line);
        out.push(b'\n');
        Ok(())
    }

    fn on_message(
        &self,
        _: u64,
        line: Vec<u8>,
        link: &Link<Self>,
    ) -> std::result::Result<(), BoxError> {
        match self {
            Self::Echo => drop(link.send(line, None)?),
            Self::Tell(heard) => heard.send(())?,
            Self::Count => {}
        }
        Ok(())
    }
}

fn running(then: Then, stream: UnixStream) -> Result<Loop<Then>> {
    let running = Loop::new(then, Settings::new().name("bench"));
    running.connect(stream.into(), &Cancel::new())?;
    Ok(running)
}

/// A thread that gives back what it reads, until the other end closes.
fn raw_echo(mut stream: UnixStream) -> Result<JoinHandle<()>> {
    let echo = move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    };
    Ok(Builder::new().name("echo".to_owned()).spawn(echo)?)
}

/// Seconds for one round trip of a line, by two plain ends.
fn raw_round_trips(count: u32) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    let echo = raw_echo(far)?;
    let mut lines = BufReader::new(near.try_clone()?);
    let (mut near, mut line, mut answer) = (near, LINE.to_vec(), Vec::new());
    line.push(b'\n');
    let start = Instant::now();
    for _ in 0..count {
        near.write_all(&line)?;
        answer.clear();
        lines.read_until(b'\n', &mut answer)?;
    }
    let time = start.elapsed();
    drop((near, lines));
    let _ = echo.join();
    Ok(time.as_secs_f64() / f64::from(count))
}

fn loop_round_trips(count: u32, both: bool) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    let (echo, plain) = match both {
        true => (Some(running(Then::Echo, far)?), None),
        false => (None, Some(raw_echo(far)?)),
    };
    let (heard, hears): (_, Receiver<()>) = unbounded();
    let near = running(Then::Tell(heard), near)?;
    let start = Instant::now();
    for _ in 0..count {
        near.send(LINE.to_vec(), None)?;
        hears.recv()?;
    }
    let time = start.elapsed();
    drop((near, echo));
    if let Some(plain) = plain {
        let _ = plain.join();
    }
    Ok(time.as_secs_f64() / f64::from(count))
}

/// Lines a second from one plain end to the other, in writes of 64 KiB.
fn raw_flood(time: Duration) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    let count = move || BufReader::with_capacity(64 << 10, far).split(b'\n').count();
    let counter = Builder::new().name("count".to_owned()).spawn(count)?;
    let mut chunk = Vec::new();
    while chunk.len() < 64 << 10 {
        chunk.extend_from_slice(&LINE);
        chunk.push(b'\n');
    }
    let (mut near, start) = (near, Instant::now());
    while start.elapsed() < time {
        near.write_all(&chunk)?;
    }
    drop(near);
    let lines = counter.join().map_err(|_| "the counter panicked")?;
    Ok(lines as f64 / start.elapsed().as_secs_f64())
}

fn loop_flood(time: Duration) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    let (near, far) = (running(Then::Count, near)?, running(Then::Count, far)?);
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..100 {
            // As a program with much to send would: queue, and wait only when there is no room.
            match near.try_send(LINE.to_vec()) {
                Err(full) if *full.error.kind() == Kind::QueueFull => {
                    near.send(full.message, None)?;
                }
                sent => drop(sent?),
            }
        }
    }
    let end = near.disconnect()?.ok_or("there was a session")?;
    let end_of_far = far.wait_end(Duration::from_secs(60))?;
    let lines = end_of_far.ok_or("there was a session")?.counts().received;
    if lines != end.counts().sent {
        return Err("lines were lost".into());
    }
    Ok(lines as f64 / start.elapsed().as_secs_f64())
}

/// Seconds for a session's start and end.
fn sessions(count: u32) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..count {
        let (near, _far) = UnixStream::pair()?;
        drop(running(Then::Count, near)?);
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(count))
}

/// The medians of several things, measured in turns.
fn turns<const N: usize>(
    rounds: usize,
    measure: [&dyn Fn() -> Result<f64>; N],
) -> Result<[f64; N]> {
    let mut all = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (values, measure) in all.iter_mut().zip(measure) {
            values.push(measure()?);
        }
    }
    Ok(all.map(|mut values| median(&mut values)))
}

fn main() -> Result<()> {
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    let (rounds, count, time) = match options.quick {
        true => (3, 2_000, Duration::from_millis(150)),
        false => (9, 20_000, Duration::from_secs(1)),
    };
    let micros = |seconds: f64| seconds * 1e6;

    let [raw, one, both] = turns(
        rounds,
        [
            &|| raw_round_trips(count),
            &|| loop_round_trips(count, false),
            &|| loop_round_trips(count, true),
        ],
    )?;
    println!("round trip of a line                  µs   of raw");
    println!(
        "  plain threads             {:12.1} {:8.2}",
        micros(raw),
        1.0
    );
    println!(
        "  a loop at one end         {:12.1} {:8.2}",
        micros(one),
        one / raw
    );
    println!(
        "  a loop at both ends       {:12.1} {:8.2}",
        micros(both),
        both / raw
    );

    let [raw, ours] = turns(rounds, [&|| raw_flood(time), &|| loop_flood(time)])?;
    println!("lines one way                   a second   of raw");
    println!("  plain threads, 64 KiB a write {raw:10.0} {:6.2}", 1.0);
    println!(
        "  loop to loop                  {ours:10.0} {:6.2}",
        ours / raw
    );

    let [session] = turns(rounds, [&|| sessions(count / 20)])?;
    println!("start and end of a session            µs");
    println!("  three threads             {:12.1}", micros(session));
    Ok(())
}
