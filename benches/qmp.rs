//! What does a QMP command cost, from the call to its reply, beside the bytes going there and back?
//!
//! At a server that costs next to nothing, and at QEMU's own where they are
//! installed. The baseline is a raw socket in one thread, measured in the same
//! run, turn by turn with the client, because only the ratio says anything on
//! another machine.
//!
//! `cargo bench --bench qmp`, with `-- --quick` in a few seconds, with
//! `-- free`, `daemon` or `emulator` only that server. With `-- --json
//! [--seconds S]` one JSON object, with `-- --serve` only the servers, for
//! `benches/against_qemu_qmp.py`.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]
#![allow(clippy::print_stderr, reason = "and what it could not measure")]

#[path = "support/monitors.rs"]
mod monitors;
#[path = "../tests/support/qemu.rs"]
mod qemu;
#[path = "support/qmp_client.rs"]
mod qmp_client;
#[path = "support/raw_qmp.rs"]
mod raw_qmp;
#[path = "support/schema.rs"]
mod schema;
mod support;

use std::time::{Duration, Instant};

use interplay::qmp;
use monitors::{Monitor, Monitors, SERVE};
use qmp_client::Ours;
use raw_qmp::{Extras, Raw};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use support::{Options, Result, median};

/// How many commands are in flight where many are.
const MANY: usize = 1_000;
/// How many in-band commands a client may have in flight if its out-of-band commands are not to be held up.
const WINDOW: usize = 8;

fn main() -> Result<()> {
    if std::env::args().any(|word| word == SERVE) {
        return monitors::serve();
    }
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    let (rounds, seconds) = if options.quick { (3, 0.1) } else { (9, 0.5) };
    let mut seconds = options.seconds.unwrap_or(seconds);
    if options.json {
        seconds /= rounds as f64;
    }
    let mut results = json!({});
    let monitors = Monitors::start()?;
    for monitor in &monitors.all {
        if !options.wants(short(monitor)) {
            continue;
        }
        if !options.json {
            println!("{:<44} a second   µs of CPU   of raw", monitor.name);
        }
        for work in Work::ALL {
            let measured = measure(monitor, work, rounds, seconds)?;
            if options.json {
                add(&mut results, &monitor.name, work, &measured);
            } else {
                print(work, &measured);
            }
        }
    }
    if options.json {
        println!("{results}");
    }
    Ok(())
}

/// By which word a server is asked for on the command line.
fn short(monitor: &Monitor) -> &'static str {
    match monitor.name.as_str() {
        "qemu-storage-daemon" => "daemon",
        "qemu-system-x86_64" => "emulator",
        _ => "free",
    }
}

/// A client that is connected.
trait Calls {
    /// Makes that many calls of this command, all of them under way at once, and has all replies when it returns.
    fn calls(&mut self, command: &str, count: usize) -> Result<()>;
}

/// What the clients have to do.
#[derive(Clone, Copy)]
enum Work {
    One,
    Many,
    Large,
    Typed,
}

/// What a client makes of a reply.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Into {
    #[default]
    Nothing,
    Value,
    Type,
}

impl Work {
    const ALL: [Self; 4] = [Self::One, Self::Many, Self::Large, Self::Typed];

    fn name(self) -> &'static str {
        match self {
            Self::One => "one after the other",
            Self::Many => "1,000 in flight",
            Self::Large => "a schema, made a value",
            Self::Typed => "a schema, made its type",
        }
    }

    /// The same in JSON.
    fn key(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Many => "many",
            Self::Large => "large",
            Self::Typed => "typed",
        }
    }

    /// The clients to be compared; the first one is what the others are held against.
    fn contestants(self, monitor: &Monitor) -> Vec<Contestant> {
        let raw = |name, extras| Contestant {
            name,
            key: None,
            connect: Box::new(move |monitor| Ok(Box::new(Raw::connect(monitor, extras)?))),
        };
        let into = match self {
            Self::One | Self::Many => Into::Nothing,
            Self::Large => Into::Value,
            Self::Typed => Into::Type,
        };
        let plain = Extras {
            into,
            ..Extras::default()
        };
        let oob = Extras { oob: true, ..plain };
        let window = Extras {
            window: Some(WINDOW),
            ..oob
        };
        let unparsed = Extras::default();
        let mut all = vec![Contestant {
            key: Some("raw"),
            ..raw("raw", plain)
        }];
        match self {
            Self::One | Self::Many | Self::Typed => {}
            Self::Large => all.push(raw("raw, not parsed", unparsed)),
        }
        if monitor.oob && into == Into::Nothing {
            all.push(raw("raw, oob on", oob));
            if matches!(self, Self::Many) {
                all.push(raw("raw, oob, window", window));
            }
        }
        let ours = |name, options: fn() -> qmp::Options| Contestant {
            name,
            key: None,
            connect: Box::new(move |monitor| {
                Ok(Box::new(Ours::connect(monitor, options(), into)?))
            }),
        };
        all.push(Contestant {
            key: Some("interplay"),
            ..ours("client", qmp::Options::new)
        });
        if monitor.oob && into == Into::Nothing {
            all.push(ours("client, no oob", || qmp::Options::new().oob(false)));
        }
        all
    }
}

/// Makes connected clients of one kind.
struct Contestant {
    name: &'static str,
    /// What it is called in JSON, if it is there.
    key: Option<&'static str>,
    connect: Connect,
}

type Connect = Box<dyn Fn(&Monitor) -> Result<Box<dyn Calls>>>;

/// What one contestant reached, one value for each round.
struct Measured {
    contestant: Contestant,
    per_second: Vec<f64>,
    /// Processor time of a call, in seconds.
    cpu: Vec<f64>,
}

/// All contestants in turn, so many times.
fn measure(monitor: &Monitor, work: Work, rounds: usize, seconds: f64) -> Result<Vec<Measured>> {
    let start = |contestant| Measured {
        contestant,
        per_second: Vec::new(),
        cpu: Vec::new(),
    };
    let mut all: Vec<Measured> = work.contestants(monitor).into_iter().map(start).collect();
    for _ in 0..rounds {
        for one in &mut all {
            // A monitor has one client at a time: each connects for its turn.
            let mut client = (one.contestant.connect)(monitor)?;
            let (per_second, cpu) = turn(client.as_mut(), monitor, work, seconds)
                .map_err(|error| format!("{}: {error}", one.contestant.name))?;
            one.per_second.push(per_second);
            one.cpu.push(cpu);
        }
    }
    Ok(all)
}

/// Calls a second, and seconds of processor time for each.
fn turn(client: &mut dyn Calls, monitor: &Monitor, work: Work, seconds: f64) -> Result<(f64, f64)> {
    let (command, count) = match work {
        Work::One => (&monitor.small, 1),
        Work::Many => (&monitor.small, MANY),
        Work::Large | Work::Typed => (&monitor.large, 1),
    };
    client.calls(command, count)?; // threads and buffers are there from now on
    let (begin, cpu) = (Instant::now(), cpu_time());
    let mut calls = 0;
    while calls == 0 || begin.elapsed().as_secs_f64() < seconds {
        client.calls(command, count)?;
        calls += count;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let cpu = (cpu_time() - cpu).as_secs_f64();
    Ok((calls as f64 / elapsed, cpu / calls as f64))
}

/// The processor time of this process, which has no server in it.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default() // never negative
}

/// One line each: the medians, and the median of the rounds' ratios to the first.
fn print(work: Work, measured: &[Measured]) {
    for one in measured {
        let Some(base) = measured.first() else { return };
        let mut ratios: Vec<f64> = one
            .per_second
            .iter()
            .zip(&base.per_second)
            .map(|(ours, base)| ours / base)
            .collect();
        println!(
            "  {:<24} {:<18} {:>9.0} {:>11.2}   x {:.2}",
            work.name(),
            one.contestant.name,
            median(&mut one.per_second.clone()),
            median(&mut one.cpu.clone()) * 1e6,
            median(&mut ratios),
        );
    }
}

/// Puts what has a name in JSON into the results: client, server, work.
fn add(results: &mut Value, monitor: &str, work: Work, measured: &[Measured]) {
    for one in measured {
        if let Some(key) = one.contestant.key {
            results[key][monitor][work.key()] = json!({
                "per_second": median(&mut one.per_second.clone()),
                "cpu_us": median(&mut one.cpu.clone()) * 1e6,
            });
        }
    }
}
