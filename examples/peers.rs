//! Nodes that find each other, watch each other and talk, each in a process of its own.
//!
//! ```sh
//! cargo run --example peers -- --id alice --listen 127.0.0.1:7701
//! cargo run --example peers -- --id robert --join 127.0.0.1:7701   # and others
//! ```
//!
//! Those who join one node come to know all others. A line that is typed goes to everybody in reach, `/peers`
//! lists them, `/ask ID` asks one of them whom it sees, over hops if need be. `/quit`, the end of
//! the input or Ctrl-C says goodbye; kill one, or stop it, and the others notice.

#![allow(clippy::print_stdout, reason = "a program speaks to its user")]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use crossbeam_channel::unbounded;
use interplay::concerns::{
    Answer, BoxError, Command, Concern, Context, Event, Events, Message, Node, Outgoing, Peer,
    Timing,
};
use serde::{Deserialize, Serialize};

/// How long an answer may take, and the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that talks with its peers
#[derive(Parser)]
struct Args {
    /// Who it is, in 4 to 255 bytes; from the store or random if not given
    #[arg(long)]
    id: Option<String>,
    /// Where it listens; port 0 is chosen by the system
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where others reach it, if not there
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Whom to connect to
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    join: Vec<String>,
    /// A word that all of them know; it keeps others out, and hides nothing
    #[arg(long)]
    secret: Option<String>,
    /// File that keeps the identity and the peers for the next time
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// How soon a silent peer is given up
    #[arg(long, value_enum, default_value_t = Pace::Lan)]
    timing: Pace,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pace {
    /// Within seconds
    Lan,
    /// Within half a minute
    Wan,
    /// Within four minutes, as p2p0mq does
    Original,
}

/// What is said, and its command.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Chat {
    Line { text: String },
    WhomDoYouSee {},
}

const CHAT: &str = "chat";

/// Prints what others say, and tells them who is in reach.
struct Chatting(Command);

impl Concern for Chatting {
    fn command(&self) -> Command {
        self.0.clone()
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        match message.read()? {
            Chat::Line { text } => {
                println!("<{}> {}", message.source(), plain(&text));
                Ok(None)
            }
            Chat::WhomDoYouSee {} => {
                let peers = context.peers();
                let reached = peers.iter().filter(|peer| peer.state.is_reached());
                let sees = reached.map(|peer| peer.identity.to_string()).collect();
                Ok(Some(Answer::new(&Sight { sees })?))
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Sight {
    sees: Vec<String>,
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("peers: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), BoxError> {
    let node = start(args)?;
    let address = node.address().unwrap_or("nowhere");
    println!("{} listens at {address}", node.identity());
    let events = node.events();
    let printing = thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || print(&events))?;

    // Nothing is sent when the input ends, or an interrupt comes.
    let (typed, lines) = unbounded();
    let quit = typed.clone();
    ctrlc::set_handler(move || drop(quit.send(None)))?;
    thread::Builder::new()
        .name("typing".to_owned())
        .spawn(move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                let _ = typed.send(Some(line));
            }
            let _ = typed.send(None);
        })?;
    while let Ok(Some(line)) = lines.recv() {
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("", _) => {}
            ("/quit", _) => break,
            ("/peers", _) => list(&node.peers()),
            ("/ask", peer) => ask(&node, peer.trim()),
            (word, _) if word.starts_with('/') => println!("there is /peers, /ask ID and /quit"),
            _ => say(&node, &line)?,
        }
    }

    node.shutdown(PATIENCE)?;
    let _ = printing.join(); // it ends with the node
    println!("goodbye");
    Ok(())
}

fn start(args: Args) -> Result<Node, BoxError> {
    let mut builder = Node::builder()
        .listen(args.listen)
        .exchange(true)
        .timing(match args.timing {
            Pace::Lan => Timing::lan(),
            Pace::Wan => Timing::wan(),
            Pace::Original => Timing::original(),
        })
        .concern(Chatting(CHAT.try_into()?));
    if let Some(id) = args.id {
        builder = builder.identity(id);
    }
    if let Some(address) = args.advertise {
        builder = builder.advertise(address);
    }
    if let Some(secret) = args.secret {
        builder = builder.secret(secret);
    }
    if let Some(file) = args.store {
        builder = builder.store(file);
    }
    for address in args.join {
        builder = builder.join(address);
    }
    Ok(builder.start()?)
}

/// Prints how the peers come, change and go, until the node ends.
fn print(events: &Events) {
    for event in events.iter() {
        match event {
            Event::PeerChanged { peer, old, new } => match old {
                None => println!("{peer} is {new}, and new"),
                Some(old) => println!("{peer} is {new}, was {old}"),
            },
            Event::PeerForgotten { peer } => println!("{peer} is forgotten"),
            Event::LinkRefused { with, reason } => {
                println!("no link with {with}: {}", plain(&reason))
            }
            other => log::info!("{other:?}"),
        }
    }
}

fn list(peers: &[Peer]) {
    println!("{} peers", peers.len());
    for peer in peers {
        let address = peer.address.as_deref().unwrap_or("-");
        let beat = peer
            .round_trip
            .map_or("-".to_owned(), |time| format!("{time:.1?}"));
        println!("  {} {address} {beat} {}", peer.identity, peer.state);
    }
}

/// Asks one whom it sees; that it has to be found first does no harm.
fn ask(node: &Node, peer: &str) {
    let asked = Instant::now();
    match node.request(peer, CHAT, &Chat::WhomDoYouSee {}, PATIENCE) {
        Ok(reply) => match reply.read::<Sight>() {
            Ok(Sight { sees }) => println!(
                "{peer} sees {} after {:.1?}",
                plain(&sees.join(" ")),
                asked.elapsed()
            ),
            Err(error) => println!("{peer} answers something else: {error}"),
        },
        Err(error) => println!("{peer} does not answer: {error}"),
    }
}

fn say(node: &Node, text: &str) -> Result<(), BoxError> {
    let peers = node.peers();
    for peer in peers.iter().filter(|peer| peer.state.is_reached()) {
        let line = Chat::Line {
            text: text.to_owned(),
        };
        if let Err(error) = node.send(Outgoing::request(&peer.identity, CHAT, &line)?) {
            println!("not said: {error}");
        }
    }
    Ok(())
}

/// What a terminal takes for text and nothing else.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
