//! What do 200 idle slaves cost their master: processor, memory, threads, descriptors?
//!
//! The master is this process, read from `/proc`, so on Linux only. Beside the
//! heartbeat it has nothing to do; what one costs is held against what a bare
//! exchange costs a bare server in the same run.
//!
//! `cargo bench --bench idle_slaves`, with `-- --quick` in a few seconds: then
//! the slaves beat more often, and the cost of a beat is scaled.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

mod support;
#[path = "support/usage.rs"]
mod usage;

use std::time::{Duration, Instant};

use interplay::master::Master;
use support::{Options, Other, Result, bare_client, bare_exchange};
use usage::Usage;

/// In processes of so many, because of the limit of descriptors that each has.
const SLAVES: usize = 200;
const EACH: usize = 50;
/// The span between two beats of a slave with default settings.
const SPAN: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    if !cfg!(target_os = "linux") {
        println!("idle_slaves reads /proc, which only Linux has: nothing measured");
        return Ok(());
    }
    let (span, window) = if options.quick {
        (Duration::from_millis(500), Duration::from_secs(2))
    } else {
        (SPAN, Duration::from_secs(30))
    };

    let others = (0..SLAVES / EACH).map(|_| Other::start(EACH, span));
    let others = others.collect::<Result<Vec<Other>>>()?;
    let pace = span / SLAVES as u32; // as the beats will come
    let bare = bare_cost(&others[0], pace, window)?;

    let master = Master::builder().host("127.0.0.1").port(0).start()?;
    let alone = Usage::of_this_process()?;
    for address in others.iter().flat_map(|other| &other.slaves) {
        master.new_connection(address, address)?.connect()?;
    }
    pause(span); // until all have begun to beat
    let before = Usage::of_this_process()?;
    let begin = Instant::now();
    pause(window);
    let after = Usage::of_this_process()?;
    let connected = master.stats().connected;
    if connected != SLAVES {
        return Err(format!("{connected} of {SLAVES} slaves are left").into());
    }

    let beats = SLAVES as f64 * begin.elapsed().as_secs_f64() / span.as_secs_f64();
    let beat = (after.cpu - before.cpu) / beats;
    let a_minute = beat * SLAVES as f64 * 60.0 / SPAN.as_secs_f64();
    println!("{SLAVES} idle slaves, each beating every {span:?}, for {window:?}");
    println!("  CPU seconds a minute, at {SPAN:?}  {a_minute:>10.2}");
    println!("  CPU of a beat, in µs           {:>10.0}", beat * 1e6);
    println!(
        "  of a bare exchange's           {:>10}",
        format!("x {:.2}", beat / bare)
    );
    println!(
        "  {:<30} {:>10} {:>10} {:>10}",
        "", "without", "with them", "for each"
    );
    for (name, without, with) in [
        ("memory, KiB", alone.memory, after.memory),
        ("threads", alone.threads, after.threads),
        ("descriptors", alone.descriptors, after.descriptors),
    ] {
        let each = (with - without) / SLAVES as f64;
        println!("  {name:<30} {without:>10.0} {with:>10.0} {each:>10.2}");
    }
    Ok(())
}

/// The CPU seconds that a bare exchange costs a bare server, one every `pace`.
fn bare_cost(other: &Other, pace: Duration, window: Duration) -> Result<f64> {
    let (client, body) = (bare_client(), b"{}");
    let (before, begin, mut count) = (Usage::of(other.id())?, Instant::now(), 0.0);
    while begin.elapsed() < window {
        bare_exchange(&client, other.bare, body, true)?;
        count += 1.0;
        pause(pace);
    }
    Ok((Usage::of(other.id())?.cpu - before.cpu) / count)
}

fn pause(time: Duration) {
    std::thread::park_timeout(time);
}
