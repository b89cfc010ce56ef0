//! The core by itself: what it makes of each input, with scripted neighbours.

mod chaos;
mod delivery;
mod hooks;
mod links;
mod speed;
mod strangers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::{ASKED, Core, Find, Input, LinkId, Output, Settings};
use crate::concerns::ask_around::AskAround;
use crate::concerns::connector::Connector;
use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::heart_beat::HeartBeat;
use crate::concerns::hello::Hello;
use crate::concerns::{
    Answer, BoxError, Command, Concern, Context, Event, Identity, Message, Outgoing, Payload, Peer,
    PeerState, Priority, Reason, Retry, SendError, Sent, Timing,
};

impl Core {
    /// Looks for a way to `target`, but not by those, as if a message waited for it in this round.
    pub(super) fn look_for(
        &mut self,
        now: Instant,
        target: Identity,
        exclude: Vec<Identity>,
    ) -> Vec<Output> {
        let find = Find {
            target: target.clone(),
            exclude,
        };
        self.state.wanted.entry(target.clone()).or_insert(find);
        self.state.touch();
        let outputs = self.step(now, Input::Round).collect();
        if !self.state.held.has(&target) {
            self.state.wanted.remove(&target);
        }
        outputs
    }
}

/// The first number of a message of the program's.
const NUMBER: u64 = 1;

fn identity(name: &str) -> Identity {
    format!("node-{name}").try_into().unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settings() -> Settings {
    Settings {
        identity: identity("M"),
        address: Some("10.0.0.1:7000".into()),
        timing: Timing::lan(),
        default_route: None,
        max_peers: 1_024,
        max_strangers: 256,
        max_payload: 1_000,
        max_queued: 1_024,
        max_queued_all: 16_384,
        max_queued_bytes: 64 << 20,
        max_held: 1_024,
        max_hops: 8,
    }
}

fn built_ins() -> Vec<Box<dyn Concern>> {
    vec![
        Box::new(Connector::default()),
        Box::new(HeartBeat::default()),
        Box::new(AskAround::default()),
    ]
}

/// A core, its time, and all that came out of it and was not looked at.
struct Rig {
    core: Core,
    start: Instant,
    now: Instant,
    links: u64,
    out: Vec<Output>,
}

impl Rig {
    fn new(settings: Settings, concerns: Vec<Box<dyn Concern>>) -> Self {
        let start = Instant::now();
        let mut core = Core::new(start, settings);
        core.start(start, concerns).unwrap();
        let (links, out) = (0, Vec::new());
        Self {
            core,
            start,
            now: start,
            links,
            out,
        }
    }

    /// With the built-in concerns, and one that answers `echo`.
    fn usual() -> Self {
        let mut concerns = built_ins();
        concerns.push(Box::new(Probe::new("echo").0));
        Self::new(settings(), concerns)
    }

    fn give(&mut self, input: Input) {
        let out = self.core.step(self.now, input);
        self.out.extend(out);
    }

    fn round(&mut self) -> Vec<Output> {
        self.give(Input::Round);
        self.take()
    }

    /// Rounds as long as there is something to do, with what was written told at once.
    fn rounds(&mut self) -> Vec<Output> {
        let mut all = self.take();
        for _ in 0..10_000 {
            if self.core.due().is_none_or(|due| due > self.now) {
                return all;
            }
            let out = self.round();
            let written: Vec<LinkId> = writes(&out).into_iter().map(|(link, _)| link).collect();
            all.extend(out);
            for link in written {
                self.written(link, 1);
            }
            all.extend(self.take());
        }
        panic!("there is always something to do");
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// Lets time go by, with a round whenever one is due.
    fn wait(&mut self, span: Duration) -> Vec<Output> {
        let end = self.now + span;
        let mut all = self.rounds();
        while let Some(due) = self.core.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            all.extend(self.rounds());
        }
        self.now = end;
        all.extend(self.rounds());
        all
    }

    fn link_up(&mut self, peer: &str, incarnation: u64, dial: Option<u64>) -> LinkId {
        self.links += 1;
        let link = LinkId(self.links);
        let hello = Hello {
            identity: identity(peer),
            incarnation,
            address: None,
        };
        self.give(Input::LinkUp { link, hello, dial });
        link
    }

    /// A link from a peer that is connected.
    fn neighbour(&mut self, peer: &str) -> LinkId {
        let link = self.link_up(peer, 1, None);
        self.hello(link);
        let hello = Envelope {
            kind: EnvelopeKind::Reply,
            ..hello()
        };
        self.frame(link, hello);
        self.rounds();
        assert_eq!(self.state(peer), Some(PeerState::Connected));
        link
    }

    fn hello(&mut self, link: LinkId) {
        self.frame(link, hello());
    }

    fn frame(&mut self, link: LinkId, envelope: Envelope) {
        self.give(Input::Frame { link, envelope });
    }

    fn written(&mut self, link: LinkId, count: usize) {
        let expired = Vec::new();
        self.give(Input::Written {
            link,
            count,
            expired,
        });
    }

    fn down(&mut self, link: LinkId) {
        let reason = "cut".into();
        self.give(Input::LinkDown { link, reason });
    }

    fn send(&mut self, id: u64, message: Outgoing) {
        self.give(Input::Send { id, message });
    }

    fn know(&mut self, peer: &str, address: Option<&str>) {
        self.give(Input::Know {
            peer: identity(peer),
            address: address.map(str::to_owned),
        });
    }

    fn look_for(&mut self, peer: &str, exclude: Vec<Identity>) {
        let out = self.core.look_for(self.now, identity(peer), exclude);
        self.out.extend(out);
    }

    fn peer(&self, peer: &str) -> Option<Peer> {
        let peers = self.core.peers(self.now);
        peers.into_iter().find(|it| it.identity == identity(peer))
    }

    fn state(&self, peer: &str) -> Option<PeerState> {
        self.peer(peer).map(|peer| peer.state)
    }
}

fn envelope(kind: EnvelopeKind, command: &str) -> Envelope {
    Envelope {
        kind,
        hops: 7,
        priority: Priority::Fast,
        id: 70,
        lifetime: secs(30),
        source: None,
        to: None,
        command: command.try_into().unwrap(),
        payload: Payload::empty(),
    }
}

fn hello() -> Envelope {
    let payload = Payload::new(&json!({"host": "10.0.0.2", "port": 7})).unwrap();
    Envelope {
        payload,
        ..envelope(EnvelopeKind::Request, "hello")
    }
}

fn message(to: &str) -> Outgoing {
    Outgoing::request(&identity(to), "echo", &json!({})).unwrap()
}

fn writes(out: &[Output]) -> Vec<(LinkId, &Envelope)> {
    let writes = out.iter().filter_map(|output| match output {
        Output::Write { link, envelope } => Some((*link, envelope)),
        _ => None,
    });
    writes.collect()
}

/// What was written of that command.
fn written<'a>(out: &'a [Output], command: &str) -> Vec<(LinkId, &'a Envelope)> {
    let mut writes = writes(out);
    writes.retain(|(_, envelope)| envelope.command == command);
    writes
}

fn events(out: &[Output]) -> Vec<&Event> {
    let events = out.iter().filter_map(|output| match output {
        Output::Event(event) => Some(event),
        _ => None,
    });
    events.collect()
}

fn closed(out: &[Output]) -> Vec<LinkId> {
    let closed = out.iter().filter_map(|output| match output {
        Output::Close { link } => Some(*link),
        _ => None,
    });
    closed.collect()
}

fn dials(out: &[Output]) -> Vec<u64> {
    let dials = out.iter().filter_map(|output| match output {
        Output::Dial { dial, .. } => Some(*dial),
        _ => None,
    });
    dials.collect()
}

fn settled(out: &[Output]) -> usize {
    let settled = out
        .iter()
        .filter(|output| matches!(output, Output::Settled { .. }));
    settled.count()
}

/// Why requests of the program's got no reply.
fn no_replies(out: &[Output]) -> Vec<(u64, String)> {
    let none = out.iter().filter_map(|output| match output {
        Output::NoReply { id, error } => Some((*id, error.to_string())),
        _ => None,
    });
    none.collect()
}

type Told = Arc<Mutex<Vec<String>>>;

/// A concern that answers, and writes down what it is told.
struct Probe {
    command: &'static str,
    told: Told,
    retry: Retry,
}

impl Probe {
    fn new(command: &'static str) -> (Self, Told) {
        let told = Told::default();
        let retry = Retry::Drop;
        let probe = Self {
            command,
            told: told.clone(),
            retry,
        };
        (probe, told)
    }

    fn note(&self, what: impl Into<String>) {
        self.told.lock().push(what.into());
    }
}

impl Concern for Probe {
    fn command(&self) -> Command {
        self.command.try_into().unwrap()
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let (source, hop) = (message.source(), message.previous_hop());
        self.note(format!("request of {source} over {hop}"));
        Ok(Some(Answer::new(&json!({"text": "pong"}))?))
    }

    fn reply(&mut self, _: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        self.note(format!("reply of {}", message.source()));
        Ok(())
    }

    fn sent(&mut self, _: &mut Context<'_>, sent: &Sent) -> Result<(), BoxError> {
        self.note(format!("sent to {} over {}", sent.to(), sent.next_hop()));
        Ok(())
    }

    fn failed(&mut self, _: &mut Context<'_>, _: &Outgoing, error: &SendError) -> Retry {
        self.note(format!("failed: {:?}", error.reason()));
        self.retry
    }

    fn dropped(&mut self, _: &mut Context<'_>, message: &Outgoing) {
        self.note(format!("dropped for {}", message.to()));
    }

    fn stop(&mut self, _: &mut Context<'_>) {
        self.note("stop");
    }
}

#[test]
fn what_was_thrown_away_unseen_is_counted() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    for kind in [EnvelopeKind::Route, EnvelopeKind::Route] {
        rig.frame(link, envelope(kind, "echo"));
    }
    let from_me = Some(identity("M"));
    rig.frame(
        link,
        Envelope {
            source: from_me,
            ..envelope(EnvelopeKind::Request, "echo")
        },
    );
    rig.frame(
        link,
        Envelope {
            id: ASKED | 5,
            ..envelope(EnvelopeKind::Reply, "echo")
        },
    );
    let out = rig.rounds();
    assert!(writes(&out).is_empty() && events(&out).is_empty());
    let counts = rig.core.counts();
    assert_eq!(
        (counts.nonsense, counts.late_replies, counts.overrun),
        (3, 1, 0)
    );
}
