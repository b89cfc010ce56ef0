//! What does the listener cost, beside a bare channel in one process and beside bare writes between two?
//!
//! In one process the baseline is a crossbeam channel of the same messages with a `match` behind
//! it; between processes it is a UNIX stream on which a child makes one write for each of the
//! same frames, to a thread that only reads. All are measured in the same run, turn by turn,
//! because only the ratio says anything on another machine. The children are this program again.
//!
//! `cargo bench --bench listener`, with `-- --quick` in a few seconds, with `-- inside`, `between`
//! or `memory` only that table.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

mod support;

use std::hint::black_box;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, never, unbounded};
use interplay::listener::child::Sender;
use interplay::listener::{BoxError, CAPACITY, End, Handler, Listener, Message, Source};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::{Options, Result, median};

/// Longer than any table takes.
const LONG: Duration = Duration::from_secs(60);

/// Who posts in one process.
const SOURCES: [&str; 4] = ["task 1", "task 2", "task 3", "task 4"];

/// The word by which the binary knows its second role.
const CHILD: &str = "--child";

/// Messages a second of the original, from one child: what is to be surpassed ten times.
const ORIGINAL: f64 = 70_000.0;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|word| word == CHILD) {
        return be_a_child(&words[at + 1..]);
    }
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    if options.wants("memory") {
        memory(&options)?; // first, while this process is small
    }
    if options.wants("inside") {
        inside(&options)?;
    }
    if options.wants("between") {
        between(&options)?;
    }
    Ok(())
}

/// In one process.
fn inside(options: &Options) -> Result<()> {
    let (rounds, count) = match options.quick {
        true => (5, 100_000),
        false => (15, 1_000_000),
    };
    println!("in one process                  ns a message   a second   of bare");
    for posters in [1, SOURCES.len()] {
        let [bare, ours] = turns(
            rounds,
            [&|| bare_channel(posters, count), &|| {
                listener(posters, count)
            }],
        )?;
        let threads = format!("{posters} posting");
        for (name, seconds) in [("bare channel", &bare), ("listener", &ours)] {
            println!(
                "  {name:<14} {threads:<12} {:>14.0} {:>10.0}   x {:.2}",
                median(&mut seconds.clone()) * 1e9,
                1.0 / median(&mut seconds.clone()),
                ratio(seconds, &bare),
            );
        }
    }
    Ok(())
}

/// Seconds for a message through a channel, to the arm of its source.
fn bare_channel(posters: usize, count: usize) -> Result<f64> {
    let (sender, messages) = bounded::<Message<u64>>(CAPACITY);
    let start = Instant::now();
    thread::scope(|scope| {
        let taker = thread::Builder::new().spawn_scoped(scope, move || {
            let mut sums = [0; SOURCES.len()];
            for message in messages {
                match message.source.as_str() {
                    "task 1" => sums[0] += message.data,
                    "task 2" => sums[1] += message.data,
                    "task 3" => sums[2] += message.data,
                    _ => sums[3] += message.data,
                }
            }
            black_box(sums);
        })?;
        for source in SOURCES.into_iter().cycle().take(posters) {
            let (sender, source) = (sender.clone(), Source::try_from(source)?);
            thread::Builder::new().spawn_scoped(scope, move || {
                for number in 0..count / posters {
                    let message = Message::new(&source, "set_item", number as u64);
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            })?;
        }
        drop(sender);
        taker.join().map_err(|_| "the taker panicked")?;
        Ok(start.elapsed().as_secs_f64() / count as f64)
    })
}

/// The same through a listener.
fn listener(posters: usize, count: usize) -> Result<f64> {
    let start = Instant::now();
    let listener = Listener::<u64>::builder().start()?;
    for source in SOURCES {
        let mut sum = 0;
        let add = move |message: Message<u64>| {
            sum += message.data;
            black_box(sum);
            Ok(())
        };
        let source = Source::try_from(source)?;
        listener.register(source, add).map_err(|_| "taken")?;
    }
    thread::scope(|scope| {
        for source in SOURCES.into_iter().cycle().take(posters) {
            let (sender, source) = (listener.sender(), Source::try_from(source)?);
            thread::Builder::new().spawn_scoped(scope, move || {
                for number in 0..count / posters {
                    let message = Message::new(&source, "set_item", number as u64);
                    if sender.post(message).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok::<_, BoxError>(())
    })?;
    let handled = listener.shutdown(LONG)?.handled;
    if handled as usize != count / posters * posters {
        return Err("messages were lost".into());
    }
    Ok(start.elapsed().as_secs_f64() / count as f64)
}

/// What a child sends, and the frame it becomes.
fn small() -> Value {
    json!({"key": "loss", "value": 0.25})
}

fn frame() -> Vec<u8> {
    let text = json!({"cmd": "set_item", "data": small()}).to_string();
    let mut frame = (text.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The same as a type.
#[derive(Deserialize)]
struct Item {
    #[serde(rename = "key")]
    _key: String,
    value: f64,
}

/// The second role: begins when it is told to on standard input.
fn be_a_child(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["write", count] => {
            let frame = frame();
            let mut parent = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
            io::stdin().lock().read_line(&mut String::new())?;
            for _ in 0..count.parse()? {
                parent.write_all(&frame)?;
            }
        }
        ["post", source, count] => {
            let message = small();
            let parent = Sender::connect_from_env(source)?;
            parent.post("ready", &())?;
            io::stdin().lock().read_line(&mut String::new())?;
            for _ in 0..count.parse()? {
                parent.post("set_item", &message)?;
            }
        }
        ["flood", source] => {
            let message = json!({"text": "x".repeat(1000)});
            let parent = Sender::connect_from_env(source)?;
            loop {
                parent.post("set_item", &message)?; // until it is killed
            }
        }
        _ => return Err(format!("unknown words after {CHILD}: {words:?}").into()),
    }
    Ok(())
}

fn child(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).args(words).stdin(Stdio::piped());
    Ok(command)
}

fn go(child: &mut Child) -> io::Result<()> {
    let input = child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    input.write_all(b"go\n")
}

/// Between processes.
fn between(options: &Options) -> Result<()> {
    let (rounds, count) = match options.quick {
        true => (3, 100_000),
        false => (9, 500_000),
    };
    println!("between processes           ns a message   a second   of bare   of the original");
    for children in [1, SOURCES.len()] {
        let measured = turns(
            rounds,
            [
                &|| bare_writes(children, count),
                &|| posts::<Option<Item>>(children, count),
                &|| posts::<Value>(children, count),
            ],
        )?;
        let names = ["bare writes", "listener, typed", "listener, JSON"];
        let word = if children == 1 { "child" } else { "children" };
        for (name, seconds) in names.into_iter().zip(&measured) {
            let rate = 1.0 / median(&mut seconds.clone());
            println!(
                "  {name:<16} {children} {word:<8} {:>11.0} {rate:>10.0}   x {:.2}   x {:.1}",
                1e9 / rate,
                ratio(seconds, &measured[0]),
                rate / ORIGINAL,
            );
        }
    }
    Ok(())
}

/// Seconds for a frame from children that only write to threads that only read.
fn bare_writes(children: usize, count: usize) -> Result<f64> {
    let each = count / children;
    let mut all = Vec::new();
    for _ in 0..children {
        let (near, far) = UnixStream::pair()?;
        let far = Stdio::from(OwnedFd::from(far));
        let child = child(&["write", &each.to_string()])?.stdout(far).spawn()?;
        all.push((child, near));
    }
    let start = Instant::now();
    let mut bytes = 0;
    thread::scope(|scope| {
        let mut readers = Vec::new();
        for (child, stream) in &mut all {
            readers.push(thread::Builder::new().spawn_scoped(scope, || read_all(stream))?);
            go(child)?;
        }
        for reader in readers {
            bytes += reader.join().map_err(|_| "a reader panicked")??;
        }
        Ok::<_, BoxError>(())
    })?;
    let time = start.elapsed();
    for (child, _) in &mut all {
        child.wait()?;
    }
    if bytes != each * children * frame().len() {
        return Err("bytes were lost".into());
    }
    Ok(time.as_secs_f64() / (each * children) as f64)
}

fn read_all(stream: &mut UnixStream) -> io::Result<usize> {
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count,
        }
    }
}

/// What a handler of the bench takes out of a message.
trait Number: DeserializeOwned + Send + 'static {
    fn number(&self) -> Option<f64>;
}

impl Number for Value {
    fn number(&self) -> Option<f64> {
        self["value"].as_f64()
    }
}

impl Number for Option<Item> {
    fn number(&self) -> Option<f64> {
        self.as_ref().map(|item| item.value)
    }
}

/// Adds up what comes, and tells of the beginning and the end.
struct Adder {
    sum: f64,
    count: usize,
    ready: crossbeam_channel::Sender<()>,
    gone: crossbeam_channel::Sender<usize>,
}

impl<D: Number> Handler<D> for Adder {
    fn handle(&mut self, message: Message<D>) -> std::result::Result<(), BoxError> {
        match message.cmd.as_str() {
            "set_item" => {
                self.count += 1;
                self.sum += message.data.number().ok_or("no number")?;
            }
            _ => self.ready.send(())?,
        }
        Ok(())
    }

    fn gone(&mut self, _: &Source, _: &End) {
        let _ = self.gone.send(self.count); // it is waited for below
    }
}

/// Seconds for a message from children to their handlers.
fn posts<D: Number>(children: usize, count: usize) -> Result<f64> {
    let each = count / children;
    let listener = Listener::<D>::builder().start()?;
    let endpoint = listener.endpoint()?;
    let (ready, is_ready) = unbounded();
    let (gone, is_gone) = unbounded();
    let mut all = Vec::new();
    for source in SOURCES.into_iter().take(children) {
        let adder = Adder {
            sum: 0.0,
            count: 0,
            ready: ready.clone(),
            gone: gone.clone(),
        };
        let known = listener.register(Source::try_from(source)?, adder);
        known.map_err(|_| "taken")?;
        let mut command = child(&["post", source, &each.to_string()])?;
        all.push(command.envs(endpoint.env()).spawn()?);
        is_ready.recv_timeout(LONG)?;
    }
    let start = Instant::now();
    for child in &mut all {
        go(child)?;
    }
    let mut handled = 0;
    for _ in 0..children {
        handled += is_gone.recv_timeout(LONG)?;
    }
    let time = start.elapsed();
    for child in &mut all {
        child.wait()?;
    }
    if handled != each * children {
        return Err("messages were lost".into());
    }
    Ok(time.as_secs_f64() / handled as f64)
}

/// Under a flood of messages of 1 kB that the handler takes a millisecond for, each.
fn memory(options: &Options) -> Result<()> {
    let time = Duration::from_millis(if options.quick { 1_000 } else { 5_000 });
    let Some(before) = resident("self") else {
        println!("memory: not told by this system");
        return Ok(());
    };
    let slow = |_: Message| {
        let _ = never::<()>().recv_timeout(Duration::from_millis(1));
        Ok(())
    };
    let listener = Listener::builder().default_handler(slow).start()?;
    let mut child = child(&["flood", "flood"])?
        .envs(listener.endpoint()?.env())
        .spawn()?;
    let id = child.id().to_string();
    let (mut parents, mut childs) = (before, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        parents = parents.max(resident("self").unwrap_or(0));
        childs = childs.max(resident(&id).unwrap_or(0));
        let _ = never::<()>().recv_timeout(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    let stats = listener.stats();
    println!(
        "memory under a flood for {} s, handlers of 1 ms",
        time.as_secs()
    );
    println!("  parent {parents:>7} KiB, {before} before it");
    println!("  child  {childs:>7} KiB");
    println!("  handled {}, waiting {}", stats.handled, stats.queued);
    listener.shutdown(Duration::ZERO)?;
    Ok(())
}

/// KiB of memory that a process has.
fn resident(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Several things, measured in turns.
fn turns<const N: usize>(
    rounds: usize,
    measure: [&dyn Fn() -> Result<f64>; N],
) -> Result<[Vec<f64>; N]> {
    let mut all = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (values, measure) in all.iter_mut().zip(measure) {
            values.push(measure()?);
        }
    }
    Ok(all)
}

/// The median of the rounds' ratios.
fn ratio(values: &[f64], base: &[f64]) -> f64 {
    let ratios = values.iter().zip(base).map(|(value, base)| value / base);
    median(&mut ratios.collect::<Vec<_>>())
}
