//! What does a task cost, from `start` to its result, beside the plain exchanges it is made of?
//!
//! All over loopback, the slaves in a process of their own. Every table has a
//! baseline that was measured in the same run, turn by turn with ours, because
//! only the ratio says anything on another machine.
//!
//! `cargo bench --bench interaction`, with `-- --quick` in a few seconds, with
//! `-- one`, `rates`, `large`, `start` or `loss` only that table. With
//! `-- --json [--seconds S]` one JSON object, for `benches/against_ding.py`.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use interplay::master::{Connection, Master};
use serde_json::{Value, json};
use support::{
    BareServer, Options, Other, Result, bare_client, bare_exchange, bare_server, median, quantile,
};

/// How often slaves beat where that is not the question.
const BEAT: Duration = Duration::from_secs(3);
/// For the loss of a slave: DI-engine's defaults are 17, 1 and 3 s.
const TOLERANCE: Duration = Duration::from_secs(1);
const CHECK_SPAN: Duration = Duration::from_millis(100);
const FAST_BEAT: Duration = Duration::from_millis(200);
/// How long a task or a loss may take before the bench gives up.
const LIMIT: Duration = Duration::from_secs(60);
const LARGE: usize = 10_000_000;

fn main() -> Result<()> {
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    if options.json {
        return as_json(options.seconds.unwrap_or(5.0));
    }
    let rounds = if options.quick { 3 } else { 15 };
    let seconds = options
        .seconds
        .unwrap_or(if options.quick { 0.2 } else { 1.0 });
    if options.wants("one") {
        one_task(rounds, if options.quick { 100 } else { 400 })?;
    }
    if options.wants("rates") {
        rates(rounds.min(5), seconds)?;
    }
    if options.wants("large") {
        large(rounds)?;
    }
    if options.wants("start") {
        start_and_close(rounds)?;
    }
    if options.wants("loss") {
        losses(if options.quick { 1 } else { 5 })?;
    }
    Ok(())
}

/// What `benches/against_ding.py` asks for.
fn as_json(seconds: f64) -> Result<()> {
    let site = Site::new(1)?;
    let mut trips = Vec::new();
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < seconds {
        trips.push(timed(|| {
            task(&site.connections[0], json!({"a": 1, "b": 2}))
        })?);
    }
    let rate = trips.len() as f64 / begin.elapsed().as_secs_f64();
    let times = (0..10)
        .map(|_| start_and_close_once())
        .collect::<Result<Vec<_>>>()?;
    let of = |pick: fn(&(f64, f64)) -> f64| median(&mut times.iter().map(pick).collect::<Vec<_>>());
    println!(
        "{}",
        json!({
            "tasks_per_second": rate,
            "round_trip_ms": median(&mut trips) * 1e3,
            "start_ms": of(|times| times.0) * 1e3,
            "close_ms": of(|times| times.1) * 1e3,
            "loss_ms": loss(Duration::ZERO)? * 1e3,
        })
    );
    Ok(())
}

/// A master and the slaves it is connected to.
struct Site {
    connections: Vec<Connection>,
    master: Master,
    other: Other,
}

impl Site {
    fn new(slaves: usize) -> Result<Self> {
        let master = local_master()?;
        let other = Other::start(slaves, BEAT)?;
        let connections = other.slaves.iter().map(|address| {
            let connection = master.new_connection(address, address)?;
            connection.connect()?;
            Ok(connection)
        });
        Ok(Self {
            connections: connections.collect::<Result<_>>()?,
            master,
            other,
        })
    }
}

fn local_master() -> Result<Master> {
    Ok(Master::builder().host("127.0.0.1").port(0).start()?)
}

/// One task, to its result.
fn task(connection: &Connection, data: Value) -> Result<()> {
    connection.new_task(data)?.start()?.join_timeout(LIMIT)?;
    Ok(())
}

/// How many seconds it takes.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Measures of one kind, one for each round.
#[derive(Default)]
struct Series {
    name: &'static str,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Adds a round of `count` measurements.
    fn round(&mut self, count: usize, mut work: impl FnMut() -> Result<()>) -> Result<()> {
        let times = (0..count).map(|_| timed(&mut work));
        let mut times = times.collect::<Result<Vec<f64>>>()?;
        self.p50.push(median(&mut times));
        self.p99.push(quantile(&mut times, 0.99));
        Ok(())
    }

    /// Adds a round of one measurement.
    fn add(&mut self, time: f64) {
        self.p50.push(time);
        self.p99.push(time);
    }

    /// One line: the medians over all rounds, and the median of the rounds' ratios to the baseline's.
    fn print(&self, unit: f64, base: &Self) {
        let line = format!(
            "  {:<34} {:>9.1} {:>9.1}",
            self.name,
            median(&mut self.p50.clone()) * unit,
            median(&mut self.p99.clone()) * unit
        );
        println!("{line}   x {:.2}", ratio(&self.p50, &base.p50));
    }
}

/// The median of the ratios, round by round.
fn ratio(ours: &[f64], base: &[f64]) -> f64 {
    median(
        &mut ours
            .iter()
            .zip(base)
            .map(|(ours, base)| ours / base)
            .collect::<Vec<_>>(),
    )
}

fn heading(question: &str, columns: &str) {
    println!("{question:<36}{columns}");
}

/// One task after the other on one slave.
fn one_task(rounds: usize, count: usize) -> Result<()> {
    let site = Site::new(1)?;
    let body = vec![b'x'; 100]; // about as much as a small task has
    let mut stream = TcpStream::connect(site.other.raw)?;
    stream.set_nodelay(true)?;
    let client = bare_client();
    let mut raw = Series::new("raw TCP round trip, 100 bytes");
    let mut kept = Series::new("bare exchange, connection kept");
    let mut bare = Series::new("bare exchange, closing");
    let mut ours = Series::new("task");
    for _ in 0..rounds {
        raw.round(count, || {
            stream.write_all(&body)?;
            Ok(stream.read_exact(&mut vec![0; body.len()])?)
        })?;
        kept.round(count, || {
            bare_exchange(&client, site.other.bare, &body, false)
        })?;
        bare.round(count, || {
            bare_exchange(&client, site.other.bare, &body, true)
        })?;
        ours.round(count, || {
            task(&site.connections[0], json!({"a": 1, "b": 2}))
        })?;
    }
    heading("One task after the other", "   p50 µs    p99 µs   of bare");
    for series in [&raw, &kept, &bare, &ours] {
        series.print(1e6, &bare);
    }
    Ok(())
}

/// How many a second, with as many threads as slaves.
fn rates(rounds: usize, seconds: f64) -> Result<()> {
    const SLAVES: usize = 8;
    let site = Site::new(SLAVES)?;
    let (client, body) = (bare_client(), vec![b'x'; 100]);
    let mut counted = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let bare = || bare_exchange(&client, site.other.bare, &body, true);
        let ours = |connection: &Connection| task(connection, json!({"a": 1, "b": 2}));
        for (threads, at) in [(1, 0), (SLAVES, 2)] {
            counted[at].push(rate(seconds, &[(); SLAVES][..threads], |()| bare())?);
            counted[at + 1].push(rate(seconds, &site.connections[..threads], ours)?);
        }
    }
    heading("At full speed", " a second             of bare");
    let [bare_1, ours_1, bare_8, ours_8] = &counted;
    for (name, rates, base) in [
        ("bare exchanges, 1 thread", bare_1, bare_1),
        ("tasks, 1 slave", ours_1, bare_1),
        ("bare exchanges, 8 threads", bare_8, bare_8),
        ("tasks, 8 slaves", ours_8, bare_8),
    ] {
        println!(
            "  {name:<34} {:>9.0} {:>9}   x {:.2}",
            median(&mut rates.clone()),
            "",
            ratio(rates, base)
        );
    }
    println!(
        "  {:<34} {:>9} {:>9}   x {:.2} of one",
        "tasks, 8 slaves",
        "",
        "",
        ratio(ours_8, ours_1)
    );
    Ok(())
}

/// How often `work` is done in a second, by one thread for each item.
fn rate<T: Sync>(seconds: f64, items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<f64> {
    let begin = Instant::now();
    let drive = |item| -> Result<usize> {
        let mut count = 0;
        while begin.elapsed().as_secs_f64() < seconds {
            work(item)?;
            count += 1;
        }
        Ok(count)
    };
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || drive(item)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().map_err(|_| "a driving thread panicked")?
        };
        threads
            .into_iter()
            .map(join)
            .collect::<Result<Vec<usize>>>()
    })?;
    Ok(counts.iter().sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
}

/// A task whose data and result are large.
fn large(rounds: usize) -> Result<()> {
    let site = Site::new(1)?;
    let client = bare_client();
    // Numbers as measurements are: with all their digits.
    let number = |n| (f64::from(n) + 0.5).sqrt();
    let datas = [
        Value::from("x".repeat(LARGE)),
        (0..500_000).map(number).collect(),
    ];
    let mut series = [
        [
            "bare exchange of 10 MB",
            "task, one text of 10 MB",
            "  JSON of it, there and back",
        ]
        .map(Series::new),
        [
            "bare exchange of as much as",
            "task, 500,000 numbers",
            "  JSON of it, there and back",
        ]
        .map(Series::new),
    ];
    for _ in 0..rounds {
        for (data, [bare, ours, json]) in datas.iter().zip(&mut series) {
            let written = serde_json::to_vec(data)?;
            bare.round(1, || {
                bare_exchange(&client, site.other.bare, &written, true)
            })?;
            let mut owned = Some(data.clone());
            ours.round(1, || {
                task(&site.connections[0], owned.take().unwrap_or_default())
            })?;
            json.round(1, || {
                let there: Value = serde_json::from_slice(&serde_json::to_vec(data)?)?;
                let _back: Value = serde_json::from_slice(&serde_json::to_vec(&there)?)?;
                Ok(())
            })?;
        }
    }
    heading("There and back", "   p50 ms    p99 ms   of bare");
    for [bare, ours, json] in &series {
        for series in [bare, ours, json] {
            series.print(1e3, bare);
        }
    }
    Ok(())
}

/// How many seconds it takes to start a master, and to close it.
fn start_and_close_once() -> Result<(f64, f64)> {
    let begin = Instant::now();
    let master = local_master()?;
    let started = begin.elapsed().as_secs_f64();
    Ok((started, timed(|| Ok(master.close()?))?))
}

fn start_and_close(rounds: usize) -> Result<()> {
    let mut series = [
        Series::new("bare server, start"),
        Series::new("master, start"),
        Series::new("bare server, stop"),
        Series::new("master, close, nothing running"),
        Series::new("master, close, an idle slave"),
    ];
    for _ in 0..rounds {
        let [bare_start, start, bare_stop, close, goodbye] = &mut series;
        let mut server: Option<BareServer> = None;
        bare_start.round(1, || {
            server = Some(bare_server()?.0);
            Ok(())
        })?;
        bare_stop.round(1, || {
            if let Some(server) = server.take() {
                server.stop();
            }
            Ok(())
        })?;
        let (started, closed) = start_and_close_once()?;
        start.add(started);
        close.add(closed);
        let site = Site::new(1)?;
        goodbye.round(1, || Ok(site.master.close()?))?;
    }
    heading("A master comes and goes", "   p50 ms    p99 ms   of bare");
    let [bare_start, start, bare_stop, close, goodbye] = &series;
    for (series, base) in [
        (bare_start, bare_start),
        (start, bare_start),
        (bare_stop, bare_stop),
        (close, bare_stop),
        (goodbye, bare_stop),
    ] {
        series.print(1e3, base);
    }
    Ok(())
}

/// How many seconds pass from a slave's death, after that long a life, to `on_fail` of its task.
fn loss(life: Duration) -> Result<f64> {
    let master = Master::builder()
        .host("127.0.0.1")
        .port(0)
        .heartbeat_tolerance(TOLERANCE)
        .heartbeat_check_span(CHECK_SPAN)
        .start()?;
    let mut other = Other::start(1, FAST_BEAT)?;
    let connection = master.new_connection("w", &other.slaves[0])?;
    connection.connect()?;
    let (told, failed) = mpsc::channel();
    let task = connection.new_task("hang")?.on_fail(move |_, _| {
        let _ = told.send(Instant::now());
    });
    let _task = task.start()?;
    thread::park_timeout(life);
    let death = Instant::now();
    other.kill()?;
    let failed = failed.recv_timeout(LIMIT)?;
    Ok(failed.duration_since(death).as_secs_f64())
}

fn losses(rounds: u32) -> Result<()> {
    // Each time at another moment between two beats.
    let life = |round| FAST_BEAT + FAST_BEAT * round / rounds;
    let lost = (0..rounds).map(|round| loss(life(round)));
    let mut lost = lost.collect::<Result<Vec<f64>>>()?;
    let promised = (TOLERANCE + CHECK_SPAN).as_secs_f64();
    heading(
        "A slave is killed",
        " median s     max s   of tolerance + check span",
    );
    let (median, max) = (median(&mut lost), quantile(&mut lost, 1.0));
    println!(
        "  {:<34} {median:>9.2} {max:>9.2}   x {:.2}, at most {:.2}",
        "its task fails",
        median / promised,
        max / promised
    );
    Ok(())
}
