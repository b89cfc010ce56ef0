//! What does a pool cost, beside driving the same slaves by hand with a thread for each?
//!
//! All over loopback, the slaves in processes of their own. Everything is measured turn by
//! turn with what it is held against, because only the ratio says anything on another machine.
//!
//! `cargo bench --bench pool`, with `-- --quick` in some seconds, with `-- rates`, `one`, `idle` or
//! `memory` only that table. With all its million tasks, `memory` takes minutes.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

mod support;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interplay::master::{Connection, Master};
use interplay::pool::Pool;
use serde_json::{Value, json};
use support::{Options, Other, Result, bare_client, bare_exchange, median, quantile};

/// How often slaves beat.
const BEAT: Duration = Duration::from_secs(3);
/// How long slaves may take to be connected.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    let quick = options.quick;
    let rounds = if quick { 3 } else { 9 };
    if options.wants("rates") {
        let (rounds, seconds) = if quick { (5, 0.1) } else { (25, 0.25) };
        rates(rounds, seconds)?;
    }
    if options.wants("one") {
        one_by_one(rounds, if quick { 200 } else { 1000 })?;
    }
    if options.wants("idle") {
        idle(rounds.min(5), if quick { 0.5 } else { 1.0 })?;
    }
    if options.wants("memory") {
        memory(if quick { 10_000 } else { 1_000_000 })?;
    }
    Ok(())
}

/// A master and the slaves it may have.
struct Site {
    master: Master,
    others: Vec<Other>,
    connections: Vec<Connection>,
}

impl Site {
    fn new(processes: usize, slaves: usize) -> Result<Self> {
        let master = Master::builder().host("127.0.0.1").port(0).start()?;
        let others = (0..processes).map(|_| Other::start(slaves, BEAT));
        let others = others.collect::<Result<Vec<Other>>>()?;
        let addresses = others.iter().flat_map(|other| &other.slaves);
        let connections = addresses.map(|address| Ok(master.new_connection(address, address)?));
        Ok(Self {
            connections: connections.collect::<Result<_>>()?,
            master,
            others,
        })
    }

    /// Connects the slaves by hand, and lets them go afterwards.
    fn by_hand<T>(&self, work: impl FnOnce(&[Connection]) -> Result<T>) -> Result<T> {
        for connection in &self.connections {
            connection.connect()?;
        }
        let result = work(&self.connections);
        for connection in &self.connections {
            connection.disconnect()?;
        }
        result
    }

    /// Lets a pool have the slaves for a while.
    fn by_pool<T>(&self, work: impl FnOnce(&Pool) -> Result<T>) -> Result<T> {
        let mut pool = self.master.pool();
        for address in self.others.iter().flat_map(|other| &other.slaves) {
            pool = pool.slave(format!("pool's {address}"), address);
        }
        let pool = pool.start()?;
        pool.wait_for(self.connections.len(), LIMIT)?;
        let result = work(&pool);
        let report = pool.close(LIMIT);
        match report.unfinished.len() + report.still_running.len() {
            0 => result,
            _ => Err(format!("left behind: {report:?}").into()),
        }
    }
}

/// Does tasks by hand until the time is over, a thread for each slave; their results and how long it took.
///
/// `data` makes the next task from its number.
fn drive<D, T>(
    connections: &[Connection],
    seconds: f64,
    data: impl Fn(u64) -> D + Sync,
) -> Result<(Vec<T>, f64)>
where
    D: serde::Serialize,
    T: serde::de::DeserializeOwned + Send,
{
    let (begin, next) = (Instant::now(), AtomicU64::new(0));
    let drive = |connection: &Connection| -> Result<Vec<T>> {
        let mut results = Vec::new();
        while begin.elapsed().as_secs_f64() < seconds {
            let task = connection.new_task(data(next.fetch_add(1, Ordering::Relaxed)))?;
            let task = task.start()?;
            task.join()?;
            results.push(task.result_as()?);
        }
        Ok(results)
    };
    let results = thread::scope(|scope| {
        let spawn = |connection| scope.spawn(move || drive(connection));
        let threads: Vec<_> = connections.iter().map(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().map_err(|_| "a driving thread panicked")?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let results = results.into_iter().flatten().collect();
    Ok((results, begin.elapsed().as_secs_f64()))
}

/// The same by the pool.
fn map<D, T>(pool: &Pool, seconds: f64, data: impl Fn(u64) -> D) -> Result<(Vec<T>, f64)>
where
    D: serde::Serialize,
    T: serde::de::DeserializeOwned,
{
    let begin = Instant::now();
    let inputs = (0..).take_while(|_| begin.elapsed().as_secs_f64() < seconds);
    let results = pool.map(inputs.map(data)).map(|(_, result)| Ok(result?));
    let results = results.collect::<Result<_>>()?;
    Ok((results, begin.elapsed().as_secs_f64()))
}

/// How many a second.
///
/// Each round has processes of its own, because one set of them may be faster than another for as long as it
/// lives, and measures by hand first and last, because they get faster at first.
fn rates(rounds: usize, seconds: f64) -> Result<()> {
    println!(
        "Tasks a second                       by hand   by pool   of by hand (half of the rounds)"
    );
    let tiny = |number: u64| json!({"a": number});
    let rate = |(results, time): (Vec<Value>, f64)| results.len() as f64 / time;
    for (processes, slaves) in [(1, 1), (1, 8), (1, 64), (8, 1)] {
        let (mut hand, mut pool) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let site = Site::new(processes, slaves)?;
            let by_hand = || site.by_hand(|slaves| drive(slaves, seconds, tiny));
            let by_pool = || site.by_pool(|pool| map(pool, seconds, tiny));
            let first = rate(by_hand()?);
            pool.push((rate(by_pool()?) + rate(by_pool()?)) / 2.0);
            hand.push((first + rate(by_hand()?)) / 2.0);
        }
        let mut ratios: Vec<f64> = pool.iter().zip(&hand).map(|(of, by)| of / by).collect();
        println!(
            "  {:<32} {:>9.0} {:>9.0}   x {:.2} ({:.2} to {:.2})",
            format!("{} in {processes} processes", slaves * processes),
            median(&mut hand),
            median(&mut pool),
            median(&mut ratios),
            quantile(&mut ratios, 0.25),
            quantile(&mut ratios, 0.75),
        );
    }
    Ok(())
}

/// The median of the ratios, round by round.
fn ratio(ours: &[f64], base: &[f64]) -> f64 {
    let ratios = ours.iter().zip(base).map(|(ours, base)| ours / base);
    median(&mut ratios.collect::<Vec<_>>())
}

/// One task after the other on one slave: what a task costs more than on a bare connection.
fn one_by_one(rounds: usize, count: usize) -> Result<()> {
    let site = Site::new(1, 1)?;
    let (client, body) = (bare_client(), vec![b'x'; 100]);
    let trips = |mut trip: Box<dyn FnMut() -> Result<()> + '_>| -> Result<[f64; 2]> {
        let timed = (0..count).map(|_| {
            let begin = Instant::now();
            trip()?;
            Ok(begin.elapsed().as_secs_f64())
        });
        let mut times = timed.collect::<Result<Vec<f64>>>()?;
        Ok([median(&mut times), quantile(&mut times, 0.99)])
    };
    let data = || json!({"a": 1, "b": 2});
    let mut counted = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        counted[0].push(trips(Box::new(|| {
            bare_exchange(&client, site.others[0].bare, &body, true)
        }))?);
        counted[1].push(site.by_hand(|slaves| {
            trips(Box::new(|| {
                let task = slaves[0].new_task(data())?.start()?;
                Ok(task.join().map(drop)?)
            }))
        })?);
        counted[2].push(
            site.by_pool(|pool| trips(Box::new(|| Ok(pool.submit(data())?.join().map(drop)?))))?,
        );
    }
    let column = |at: usize, of: usize| -> Vec<f64> {
        counted[at]
            .iter()
            .map(|times: &[f64; 2]| times[of])
            .collect()
    };
    println!("One task after the other              p50 µs    p99 µs   of by hand");
    let names = ["bare exchange", "task on a connection", "task of a pool"];
    for (at, name) in names.into_iter().enumerate() {
        println!(
            "  {name:<32} {:>9.1} {:>9.1}   x {:.2}",
            median(&mut column(at, 0)) * 1e6,
            median(&mut column(at, 1)) * 1e6,
            ratio(&column(at, 0), &column(1, 0))
        );
    }
    let more = column(2, 0).into_iter().zip(column(1, 0));
    let mut more: Vec<f64> = more.map(|(pool, hand)| pool - hand).collect();
    println!(
        "  {:<32} {:>9.1}",
        "more than on a connection",
        median(&mut more) * 1e6
    );
    Ok(())
}

/// Which part of the time the slave is idle that is idle most, with tasks that are nothing but waiting.
fn idle(rounds: usize, seconds: f64) -> Result<()> {
    const SLAVES: usize = 8;
    println!("Idle share of the idlest of {SLAVES}         by hand   by pool");
    let site = Site::new(1, SLAVES)?;
    for milliseconds in [2, 10, 50] {
        let wait = |_| json!({"wait_ms": milliseconds});
        let (mut hand, mut pool) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            hand.push(idlest(
                site.by_hand(|slaves| drive(slaves, seconds, wait))?,
                SLAVES,
            )?);
            pool.push(idlest(
                site.by_pool(|pool| map(pool, seconds, wait))?,
                SLAVES,
            )?);
        }
        println!(
            "  {:<32} {:>8.1}% {:>8.1}%",
            format!("tasks of {milliseconds} ms"),
            median(&mut hand) * 100.0,
            median(&mut pool) * 100.0
        );
    }
    Ok(())
}

/// From what each slave says of how long it was busy.
fn idlest((results, time): (Vec<(String, f64)>, f64), slaves: usize) -> Result<f64> {
    let mut busy = HashMap::new();
    for (slave, seconds) in results {
        *busy.entry(slave).or_insert(0.0) += seconds;
    }
    if busy.len() != slaves {
        return Ok(1.0);
    }
    let least = busy.into_values().fold(f64::INFINITY, f64::min);
    Ok(1.0 - least / time)
}

/// What many tiny tasks leave in memory.
fn memory(tasks: u64) -> Result<()> {
    let Some(_) = resident() else {
        println!("memory reads /proc, which only Linux has: nothing measured");
        return Ok(());
    };
    let site = Site::new(1, 8)?;
    let (mut memory, mut ahead, mut sum) = (Vec::new(), 0, 0);
    let begin = Instant::now();
    site.by_pool(|pool| {
        let pulled = Cell::new(0);
        let inputs = (1..=tasks).inspect(|_| pulled.set(pulled.get() + 1));
        for (done, (_, result)) in (1..).zip(pool.map::<u64, _>(inputs)) {
            sum += result?;
            ahead = ahead.max(pulled.get() - done);
            if done % (tasks / 10) == 0 {
                memory.extend(resident());
                print!(".");
                let _ = std::io::stdout().flush();
            }
        }
        Ok(())
    })?;
    if sum != tasks * (tasks + 1) / 2 {
        return Err(format!("the sum of {tasks} results is {sum}").into());
    }
    println!(
        "\r{tasks} tasks in {:.0?}: memory, KiB   after a tenth   at the end   at most",
        begin.elapsed()
    );
    let (first, last, most) = (memory[0], memory[memory.len() - 1], memory.iter().max());
    println!(
        "  {:<32} {first:>13} {last:>12} {:>9}",
        "resident",
        most.unwrap_or(&0)
    );
    println!("  {:<32} {ahead:>13}", "inputs taken ahead, at most");
    Ok(())
}

/// The resident memory of this process, in KiB.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
