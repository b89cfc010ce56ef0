//! The network that a scenario is played on: cores on a virtual clock, joined by links that neither lose nor
//! delay anything.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::{Core, Input, LinkId, Output, Settings};
use super::inside::{self, Reader};
use super::log::{Log, identity, name};
use super::scenario::{ConcernSpec, NodeSpec, Scenario, Send, Step};
use super::scripted::Scripted;
use crate::concerns::Concern;
use crate::concerns::event::Event;
use crate::concerns::hello::Hello;
use crate::concerns::identity::Identity;
use crate::concerns::timing::Timing;

/// How many frames a node takes from its socket in a step.
const RECEIVED: usize = 10;

pub(super) struct Stage {
    pub(super) began: Instant,
    pub(super) now: u64,
    pub(super) log: Log,
    pub(super) nodes: BTreeMap<String, Node>,
    links: u64,
    /// What was sent in this step and arrives in the next: to whom, over which link.
    pub(super) on_the_way: Vec<(String, LinkId, Arrival)>,
}

pub(super) struct Node {
    identity: Identity,
    pub(super) address: String,
    pub(super) core: Core,
    pub(super) up: bool,
    links: BTreeMap<LinkId, Far>,
    socket: VecDeque<(LinkId, Arrival)>,
    rejected: usize,
}

/// The other end of a link.
struct Far {
    identity: Identity,
    /// Where it ends, and as what; `None` if nobody is there.
    end: Option<(String, LinkId)>,
    reader: Reader,
}

impl Far {
    /// The end of a link as `me` sees it.
    fn new(me: &Identity, identity: Identity, end: Option<(String, LinkId)>) -> Self {
        let reader = Reader::new(me);
        Self {
            identity,
            end,
            reader,
        }
    }
}

pub(super) enum Arrival {
    Up(Hello),
    Frame(Vec<u8>),
    Down,
}

impl Stage {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut stage = Self {
            began: Instant::now(),
            now: 0,
            log: Log::default(),
            nodes: BTreeMap::new(),
            links: 0,
            on_the_way: Vec::new(),
        };
        for (place, (name, spec)) in scenario.nodes.iter().enumerate() {
            let node = stage.node(scenario, place, name, spec);
            stage.nodes.insert(name.clone(), node);
        }
        stage
    }

    fn node(&self, scenario: &Scenario, place: usize, name: &str, spec: &NodeSpec) -> Node {
        if let Some(bind) = &spec.bind {
            // A core does not know where its node is bound, only what is told to others.
            assert_ne!(Some(bind), spec.advertise.as_ref());
        }
        let host = spec.advertise.as_deref().unwrap_or("127.0.0.1");
        let address = format!("{host}:{}", 9000 + place);
        let mut core = Core::new(
            self.time(),
            Settings {
                identity: identity(name),
                address: Some(address.clone()),
                timing: Timing::original(),
                default_route: None,
                max_peers: 1024,
                max_strangers: 256,
                max_payload: 1 << 20,
                max_queued: 1024,
                max_queued_all: 16384,
                max_queued_bytes: 64 << 20,
                max_held: 1024,
                max_hops: 8,
            },
        );
        let mut concerns: Vec<Box<dyn Concern>> = Vec::new();
        for concern in &spec.concerns {
            concerns.push(match concern {
                ConcernSpec::BuiltIn(name) => inside::built_in(name),
                ConcernSpec::Custom(custom) => {
                    let sends = sends_of(scenario, name, &custom.command);
                    let custom = custom.clone();
                    Box::new(Scripted::new(name, *custom, sends, self.began, &self.log))
                }
            });
        }
        if concerns.is_empty() {
            // What a node adds by itself.
            concerns.extend(["hello", "hb", "ask"].map(inside::built_in));
        }
        core.start(self.began, concerns)
            .expect("all concerns start");
        Node {
            identity: identity(name),
            address,
            core,
            up: true,
            links: BTreeMap::new(),
            socket: VecDeque::new(),
            rejected: 0,
        }
    }

    pub(super) fn time(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    /// All that happens in a step but for what the scenario wants done at its time.
    pub(super) fn pass(&mut self, now: u64) {
        self.now = now;
        self.log.turn_to(now);
        for (to, link, arrival) in std::mem::take(&mut self.on_the_way) {
            let node = self.nodes.get_mut(&to).expect("links end at nodes");
            node.socket.push_back((link, arrival));
        }
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            self.receive(name);
        }
        for name in &names {
            if self.nodes[name].up {
                self.give(name, Input::Round);
            }
        }
    }

    fn receive(&mut self, name: &str) {
        let mut room = RECEIVED;
        while room > 0 && self.nodes[name].up {
            let Some((link, arrival)) = self.node_mut(name).socket.pop_front() else {
                return;
            };
            if !self.nodes[name].links.contains_key(&link) {
                continue; // closed meanwhile
            }
            match arrival {
                Arrival::Up(hello) => {
                    let dial = None;
                    self.give(name, Input::LinkUp { link, hello, dial });
                }
                Arrival::Frame(bytes) => {
                    room -= 1;
                    let far = self
                        .node_mut(name)
                        .links
                        .get_mut(&link)
                        .expect("it is there");
                    let input = match far.reader.read(&bytes) {
                        Ok(envelope) => Input::Frame { link, envelope },
                        Err(problem) => Input::Malformed { link, problem },
                    };
                    self.give(name, input);
                }
                Arrival::Down => {
                    self.node_mut(name).links.remove(&link);
                    let reason = "closed by the peer".into();
                    self.give(name, Input::LinkDown { link, reason });
                }
            }
        }
    }

    pub(super) fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).expect("a node of the scenario")
    }

    /// Gives a core something, and does what it wants done.
    pub(super) fn give(&mut self, name: &str, input: Input) {
        let now = self.time();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let outputs: Vec<Output> = self.node_mut(name).core.step(now, input).collect();
            for output in outputs {
                inputs.extend(self.obey(name, output));
            }
        }
    }

    /// Has a core look for a way to a peer.
    pub(super) fn look_for(&mut self, name: &str, target: Identity, exclude: Vec<Identity>) {
        let now = self.time();
        let core = &mut self.node_mut(name).core;
        let outputs = core.look_for(now, target, exclude).into_iter();
        let inputs: Vec<Input> = outputs.filter_map(|it| self.obey(name, it)).collect();
        for input in inputs {
            self.give(name, input);
        }
    }

    /// Does what a core wants done; what comes of it at once is for it.
    fn obey(&mut self, name: &str, output: Output) -> Option<Input> {
        match output {
            Output::Write { link, envelope } => {
                let far = &self.nodes[name].links[&link];
                self.log.send(name, &far.identity, &envelope);
                if let Some((to, end)) = far.end.clone() {
                    let frame = Arrival::Frame(inside::encode(&envelope));
                    self.on_the_way.push((to, end, frame));
                }
                Some(Input::Written {
                    link,
                    count: 1,
                    expired: Vec::new(),
                })
            }
            Output::Dial {
                dial,
                address,
                expect,
            } => {
                let there = |node: &&Node| node.address == address;
                let there = self
                    .nodes
                    .values()
                    .find(there)
                    .map(|node| node.identity.clone());
                let Some(peer) = there.clone().or(expect) else {
                    let reason = "nobody is there".into();
                    return Some(Input::DialFailed { dial, reason });
                };
                let (link, hello) = self.join(name, &peer, there.is_some());
                let dial = Some(dial);
                Some(Input::LinkUp { link, hello, dial })
            }
            Output::Close { link } => {
                let far = self.node_mut(name).links.remove(&link)?;
                if let Some((to, end)) = far.end {
                    self.on_the_way.push((to, end, Arrival::Down));
                }
                let reason = "closed".into();
                Some(Input::LinkDown { link, reason })
            }
            Output::Event(event) => {
                self.note(name, &event);
                None
            }
            Output::Added(outcome) => {
                if let Err(error) = outcome {
                    self.node_mut(name).rejected += 1;
                    let error = error.to_string();
                    self.log
                        .write(json!({"ev": "rejected", "node": name, "error": error}));
                }
                None
            }
            Output::Reply { .. }
            | Output::NoReply { .. }
            | Output::Settled { .. }
            | Output::Removed(_) => panic!("{name}: nobody asked for that"),
        }
    }

    fn note(&self, node: &str, event: &Event) {
        match event {
            Event::PeerChanged { peer, old, new } => {
                let last = self.last_state(node, peer);
                let known = old.as_ref().map(super::log::state_word);
                assert_eq!(
                    last.as_deref(),
                    known,
                    "{node}: {event:?} comes out of nowhere"
                );
                self.log.state(node, peer, old.as_ref(), new);
            }
            Event::PeerForgotten { peer } => {
                let (peer, old) = (name(peer), self.last_state(node, peer));
                self.log.write(json!({
                    "ev": "state", "node": node, "peer": peer, "old": old, "new": null, "via": null,
                }));
            }
            other => {
                let told = format!("{other:?}");
                self.log
                    .write(json!({"ev": "told", "node": node, "what": told}));
            }
        }
    }

    /// The last state of a peer that was told.
    pub(super) fn last_state(&self, node: &str, peer: &Identity) -> Option<String> {
        let peer = name(peer);
        let events = self.log.events();
        let last = events.iter().rfind(|event| {
            event.is("state") && event.field("node") == node && *event.field("peer") == *peer
        });
        last?.field("new").as_str().map(str::to_owned)
    }

    /// Joins a node with a peer, as if it had dialed; the peer is told in the next step. A link that is
    /// not `real` ends nowhere.
    pub(super) fn join(&mut self, name: &str, peer: &Identity, real: bool) -> (LinkId, Hello) {
        let (near, far) = (LinkId(self.links), LinkId(self.links + 1));
        self.links += 2;
        let other = super::log::name(peer);
        let end = real.then(|| (other.clone(), far));
        let me = self.nodes[name].identity.clone();
        let there = Far::new(&me, peer.clone(), end);
        self.node_mut(name).links.insert(near, there);
        if real {
            let hello = self.hello_of(&me);
            let here = Far::new(peer, me, Some((name.to_owned(), near)));
            self.node_mut(&other).links.insert(far, here);
            self.on_the_way.push((other, far, Arrival::Up(hello)));
        }
        (near, self.hello_of(peer))
    }

    pub(super) fn hello_of(&self, peer: &Identity) -> Hello {
        Hello {
            identity: peer.clone(),
            incarnation: 1,
            address: self.nodes.get(&name(peer)).map(|node| node.address.clone()),
        }
    }

    /// A link from a peer to a node, there already or made now.
    pub(super) fn link_from(&mut self, node: &str, peer: &str) -> LinkId {
        let peer = identity(peer);
        let mut links = self.nodes[node].links.iter();
        if let Some((link, _)) = links.find(|(_, far)| far.identity == peer) {
            return *link;
        }
        // The peer may be none of the scenario's nodes; then nobody hears what is sent to it.
        let link = LinkId(self.links);
        self.links += 1;
        let far = Far::new(&identity(node), peer.clone(), None);
        self.node_mut(node).links.insert(link, far);
        let hello = self.hello_of(&peer);
        let dial = None;
        self.give(node, Input::LinkUp { link, hello, dial });
        link
    }
}

/// What a concern of the scenario sends, with the times.
fn sends_of(scenario: &Scenario, node: &str, command: &str) -> Vec<(u64, Send)> {
    let steps = scenario.steps.iter();
    let sends = steps.filter_map(|(at, step)| match step {
        Step::Send(send) if send.node == node && send.command == command => {
            Some((*at, send.clone()))
        }
        _ => None,
    });
    sends.collect()
}
