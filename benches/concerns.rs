//! What do messages between nodes cost beside bare TCP, how soon is a dead peer noticed, and what do idle nodes use?
//!
//! The baseline is a TCP connection between two threads that carries the bytes of the same message and its
//! answer. Both are measured in the same run, turn by turn, because only the ratio says anything on another machine. The
//! peers that die are this program again.
//!
//! `cargo bench --bench concerns`, with `-- --quick` in a few seconds, with `-- trips`, `rate`, `deaths` or `idle`
//! only that table.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

mod support;
#[path = "support/usage.rs"]
mod usage;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interplay::concerns::{
    Answer, BoxError, Builder, Concern, Context, Event, Message, Node, Outgoing, PeerState,
    Priority, Timing,
};
use serde::{Deserialize, Serialize};
use support::{Options, Result, median, quantile};
use usage::Usage;

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);

/// The word by which the binary knows its second role.
const CHILD: &str = "--child";

/// The original's round trip, and its messages a second (`live-10`).
const ORIGINAL_TRIP: f64 = 0.402;
const ORIGINAL_RATE: f64 = 98.0;

/// What is to be reached: round trips in those of bare TCP, messages a second, the time to notice a death.
const TRIPS: f64 = 3.0;
const RATE: f64 = 100_000.0;
const NOTICED: f64 = 5.0;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|word| word == CHILD) {
        return be_a_peer(&words[at + 1]);
    }
    let Some(options) = Options::read()? else {
        return Ok(());
    };
    if options.wants("idle") {
        idle(&options)?; // first, while this process is small
    }
    if options.wants("trips") {
        trips(&options)?;
    }
    if options.wants("rate") {
        rate(&options)?;
    }
    if options.wants("deaths") {
        deaths(&options)?;
    }
    Ok(())
}

/// Counts what comes, and answers if that is asked for.
struct Counter {
    count: Arc<AtomicU64>,
    answers: bool,
}

const COUNT: &str = "count";

impl Concern for Counter {
    fn command(&self) -> interplay::concerns::Command {
        COUNT.parse().expect("five letters are a command")
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> std::result::Result<Option<Answer>, BoxError> {
        self.count.fetch_add(1, Ordering::Relaxed);
        if !self.answers {
            return Ok(None);
        }
        Ok(Some(
            Answer::new(&message.read::<Item>()?)?.priority(Priority::Fast),
        ))
    }
}

/// Two nodes that are connected, and what the first of them counts.
fn two_nodes() -> Result<(Node, Node, Arc<AtomicU64>)> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Counter {
        count: count.clone(),
        answers: false,
    };
    let one = Node::builder().identity("node-1").concern(counter);
    let one = one.listen("127.0.0.1:0").start()?;
    let two = node("node-2", false);
    let two = two.join(one.address().unwrap_or_default()).start()?;
    sees(&two, "node-1")?;
    sees(&one, "node-2")?;
    Ok((one, two, count))
}

/// A node with a counter that nobody looks at.
fn node(identity: &str, answers: bool) -> Builder {
    let count = Arc::default();
    let counter = Counter { count, answers };
    Node::builder().identity(identity).concern(counter)
}

/// Waits until a node is connected with a peer.
fn sees(node: &Node, peer: &str) -> Result<()> {
    let connected = |event: &Event| matches!(event, Event::PeerChanged { peer: it, new: PeerState::Connected, .. } if *it == peer);
    let events = node.events();
    while !connected(&events.recv_timeout(LONG)?) {}
    Ok(())
}

/// What is sent.
#[derive(Serialize, Deserialize)]
struct Item {
    key: String,
    value: f64,
}

fn small() -> Item {
    Item {
        key: "loss".to_owned(),
        value: 0.25,
    }
}

/// Round trips, one after the other: with everything on one processor, and with the two sides on one each.
fn trips(options: &Options) -> Result<()> {
    println!("round trip of a request          bare TCP, µs   p50, µs   p99, µs   of bare");
    for (name, here, there) in [("on one processor", 0, 0), ("on two processors", 0, 1)] {
        // Left to itself the scheduler puts the two threads of bare TCP on one processor and those of nodes on
        // two, or not, from run to run; then the ratio says more of it than of us.
        if placed(here, || ())?.and(placed(there, || ())?).is_none() {
            println!("  {name:<28} this system does not let us");
            continue;
        }
        trips_between(options, name, here, there)?;
    }
    Ok(())
}

fn trips_between(options: &Options, name: &str, here: usize, there: usize) -> Result<()> {
    let (rounds, count) = match options.quick {
        true => (5, 500),
        false => (15, 4_000),
    };
    let payload = small();
    // Its header, with length, kind, number, lifetime, priority and command, is about as long again.
    let length = serde_json::to_string(&payload)?.len() + 32;
    let far = placed(there, || {
        let one = node("node-1", true).listen("127.0.0.1:0").start()?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((one, Bare::echo(length)?))
    })?;
    let (one, echo) = far.ok_or("it was placed a moment ago")??;
    let near = placed(here, move || {
        let two = node("node-2", true).join(one.address().unwrap_or_default());
        let two = two.start()?;
        sees(&two, "node-1")?;
        sees(&one, "node-2")?;
        let mut bare = Bare::connect(echo, length)?;
        let [mut ratios, mut bares, mut ours, mut worst] = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            let mut of_bare = times(count, || bare.trip())?;
            let mut of_ours = times(count, || {
                two.request("node-1", COUNT, &payload, LONG)?;
                Ok(())
            })?;
            ratios.push(median(&mut of_ours) / median(&mut of_bare));
            bares.push(median(&mut of_bare));
            ours.push(median(&mut of_ours));
            worst.push(quantile(&mut of_ours, 0.99));
        }
        let all = [&mut bares, &mut ours, &mut worst, &mut ratios];
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(all.map(|figures| median(figures)))
    })?;
    let [bare, ours, worst, ratio] = near.ok_or("it was placed a moment ago")??;
    println!(
        "  {name:<28} {:>14.1} {:>9.1} {:>9.1}   x {ratio:.2}, to reach: {TRIPS}",
        bare * 1e6,
        ours * 1e6,
        worst * 1e6,
    );
    println!(
        "    the original took {:.0} ms, {:.0} times as long",
        ORIGINAL_TRIP * 1e3,
        ORIGINAL_TRIP / ours
    );
    Ok(())
}

/// Calls this on a thread of its own that runs on that processor, as all threads that it starts do. None if that
/// cannot be had.
#[cfg(target_os = "linux")]
fn placed<R: Send>(processor: usize, call: impl FnOnce() -> R + Send) -> Result<Option<R>> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    thread::scope(|scope| {
        let body = move || {
            let mut set = CpuSet::new();
            set.set(processor);
            sched_setaffinity(None, &set).ok().map(|()| call())
        };
        let thread = thread::Builder::new().spawn_scoped(scope, body)?;
        Ok(thread.join().map_err(|_| "a bench's thread panicked")?)
    })
}

#[cfg(not(target_os = "linux"))]
fn placed<R: Send>(_: usize, _: impl FnOnce() -> R + Send) -> Result<Option<R>> {
    Ok(None)
}

/// The seconds that each of so many calls takes.
fn times(count: usize, mut call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let one = |_| {
        let start = Instant::now();
        call()?;
        Ok(start.elapsed().as_secs_f64())
    };
    (0..count).map(one).collect()
}

/// A TCP connection, with a thread at the other end that sends back what comes.
struct Bare {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Bare {
    /// A thread that sends back what comes; where it listens.
    fn echo(length: usize) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut bytes = vec![0; length];
        thread::Builder::new().spawn(move || {
            let (mut other, _) = listener.accept()?;
            other.set_nodelay(true)?;
            while other.read_exact(&mut bytes).is_ok() && other.write_all(&bytes).is_ok() {}
            io::Result::Ok(())
        })?;
        Ok(address)
    }

    fn connect(echo: SocketAddr, length: usize) -> Result<Self> {
        let stream = TcpStream::connect(echo)?;
        stream.set_nodelay(true)?;
        let bytes = vec![0; length];
        Ok(Self { stream, bytes })
    }

    fn trip(&mut self) -> Result<()> {
        self.stream.write_all(&self.bytes)?;
        self.stream.read_exact(&mut self.bytes)?;
        Ok(())
    }
}

/// Messages one way, as many as there is room for.
fn rate(options: &Options) -> Result<()> {
    let (rounds, count) = match options.quick {
        true => (3, 50_000),
        false => (9, 500_000),
    };
    println!("one way, small messages         a second   of the original");
    for (name, priority) in [("fast", Priority::Fast), ("medium", Priority::Medium)] {
        let (_one, two, counted) = two_nodes()?;
        let message = Outgoing::request("node-1", COUNT, &small())?.priority(priority);
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let (start, before) = (Instant::now(), counted.load(Ordering::Relaxed));
            for _ in 0..count {
                two.send(message.clone())?;
            }
            while counted.load(Ordering::Relaxed) < before + count {
                if start.elapsed() > LONG {
                    return Err("messages were lost".into());
                }
                thread::park_timeout(Duration::from_micros(200));
            }
            rates.push(count as f64 / start.elapsed().as_secs_f64());
        }
        let rate = median(&mut rates);
        let goal = match priority {
            Priority::Fast => format!(", to reach: {RATE:.0}"),
            _ => String::new(),
        };
        println!(
            "  {name:<26} {rate:>12.0}   x {:.0}{goal}",
            rate / ORIGINAL_RATE
        );
    }
    Ok(())
}

/// The second role: a node that joins another and lives until it is killed, or its input ends.
fn be_a_peer(address: &str) -> Result<()> {
    let _node = Node::builder().identity("child").join(address).start()?;
    println!("started");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// How long a peer is dead before the others know.
fn deaths(options: &Options) -> Result<()> {
    let rounds = if options.quick { 1 } else { 5 };
    println!(
        "a peer dies, with LAN timing       unreachable, s   given up, s   to reach: {NOTICED:.0}"
    );
    for (name, signal) in [("kill -9", "-KILL"), ("stopped (SIGSTOP)", "-STOP")] {
        let [mut suspected, mut given_up] = [const { Vec::new() }; 2];
        for _ in 0..rounds {
            let node = Node::builder()
                .identity("node-1")
                .listen("127.0.0.1:0")
                .timing(Timing::lan())
                .start()?;
            let mut peer = Peer::start(node.address().unwrap_or_default())?;
            sees(&node, "child")?;
            let events = node.events();
            let start = Instant::now();
            peer.signal(signal)?;
            let mut unreachable = None;
            loop {
                match events.recv_timeout(LONG)? {
                    Event::PeerChanged {
                        new: PeerState::Unreachable,
                        ..
                    } => {
                        unreachable.get_or_insert_with(|| start.elapsed().as_secs_f64());
                    }
                    Event::PeerChanged {
                        new: PeerState::NoConnection,
                        ..
                    } => break,
                    _ => {}
                }
            }
            let end = start.elapsed().as_secs_f64();
            suspected.push(unreachable.unwrap_or(end));
            given_up.push(end);
        }
        println!(
            "  {name:<30} {:>16.3} {:>13.2}",
            median(&mut suspected),
            median(&mut given_up)
        );
    }
    println!("  the original: 44 s and 254 s");
    Ok(())
}

/// A process of its own.
struct Peer(Child);

impl Peer {
    fn start(address: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([CHILD, address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        match line.trim() {
            "started" => Ok(Self(child)),
            _ => Err("the peer did not start".into()),
        }
    }

    fn signal(&mut self, signal: &str) -> Result<()> {
        let id = self.0.id().to_string();
        match Command::new("kill").args([signal, &id]).status()?.success() {
            true => Ok(()),
            false => Err("kill failed".into()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may be dead
        let _ = self.0.wait();
    }
}

/// Nodes that do nothing but watch each other, each connected with each.
fn idle(options: &Options) -> Result<()> {
    let (count, time) = match options.quick {
        true => (10, Duration::from_secs(2)),
        false => (50, Duration::from_secs(20)),
    };
    if !cfg!(target_os = "linux") {
        println!("idle nodes: not told by this system");
        return Ok(());
    }
    let before = Usage::of_this_process()?;
    let start = Instant::now();
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..count {
        let mut node = Node::builder()
            .identity(format!("node-{number}"))
            .listen("127.0.0.1:0");
        for other in &nodes {
            node = node.join(other.address().unwrap_or_default());
        }
        nodes.push(node.start()?);
    }
    while !nodes.iter().all(|node| reaches(node) == count - 1) {
        if start.elapsed() > LONG {
            let reached: Vec<usize> = nodes.iter().map(reaches).collect();
            return Err(format!("they do not find each other: {reached:?}").into());
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    let meeting = start.elapsed();
    thread::park_timeout(Duration::from_secs(1)); // for the last hello to be over
    let sent = |nodes: &[Node]| nodes.iter().map(|node| node.stats().sent).sum::<u64>();
    let (first, messages, start) = (Usage::of_this_process()?, sent(&nodes), Instant::now());
    while let Some(rest) = time.checked_sub(start.elapsed()) {
        thread::park_timeout(rest);
    }
    let (last, messages) = (Usage::of_this_process()?, sent(&nodes) - messages);
    let seconds = start.elapsed().as_secs_f64();
    if !nodes.iter().all(|node| reaches(node) == count - 1) {
        return Err("a peer was lost".into());
    }
    let each = |now: f64, then: f64| (now - then) / count as f64;
    println!(
        "{count} idle nodes, each connected with each after {:.2} s",
        meeting.as_secs_f64()
    );
    println!(
        "  CPU, of one core           {:>9.1} %",
        (last.cpu - first.cpu) / seconds * 100.0
    );
    println!(
        "  messages a second          {:>9.0}",
        messages as f64 / seconds
    );
    println!(
        "  threads of a node          {:>9.1}",
        each(last.threads, before.threads)
    );
    println!(
        "  descriptors of a node      {:>9.1}",
        each(last.descriptors, before.descriptors)
    );
    println!(
        "  memory of a node, KiB      {:>9.0}",
        each(last.memory, before.memory)
    );
    let start = Instant::now();
    drop(nodes);
    println!(
        "  ended, one after the other, in {:.2} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// How many peers a node is connected with.
fn reaches(node: &Node) -> usize {
    let peers = node.peers();
    let connected = peers
        .iter()
        .filter(|peer| peer.state == PeerState::Connected);
    connected.count()
}
