//! Plays a scenario: does what its steps say, and has judged what came of it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::Input;
use super::inside;
use super::judge::judge;
use super::log::{identity, state_word};
use super::scenario::{Custom, Inject, Scenario, Step};
use super::scripted::Scripted;
use super::stage::{Arrival, Stage};
use crate::concerns::Payload;
use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::identity::Identity;
use crate::concerns::message::Priority;
use crate::concerns::timing::Timing;
use crate::concerns::{Concern, PeerState};

/// How far the clock goes at once, in milliseconds.
const STEP: u64 = 100;
/// The number of a dial that no core has made.
const NOT_DIALED: u64 = u64::MAX;

/// Plays it, and judges what happened.
pub(super) fn play(scenario: &Scenario) {
    let mut player = Player {
        stage: Stage::new(scenario),
        injected: 0,
    };
    let mut steps = scenario.steps.iter().peekable();
    let mut now = 0;
    while now <= scenario.until {
        player.stage.pass(now);
        while let Some((_, step)) = steps.next_if(|(at, _)| *at <= now) {
            player.carry_out(step);
        }
        now += STEP;
    }
    assert!(steps.next().is_none(), "a step was left over");

    let log = player.stage.log.events();
    player.hold_against_the_cores();
    let alive: BTreeMap<String, bool> = scenario
        .nodes
        .keys()
        .map(|name| (name.clone(), player.is_alive(name)))
        .collect();
    let mut wrong = String::new();
    for assertion in &scenario.expect {
        if let Err(saw) = judge(assertion, &log, &|node| alive[node]) {
            wrong += &format!("expected {assertion:?}\n     saw {saw}\n");
        }
    }
    let (id, title) = (&scenario.id, &scenario.title);
    let lines: String = log.iter().map(|event| format!("  {event:?}\n")).collect();
    assert!(
        wrong.is_empty(),
        "{id} ({title})\n{wrong}what happened:\n{lines}"
    );
}

struct Player {
    stage: Stage,
    /// The number of the next message that is injected.
    injected: u64,
}

impl Player {
    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::AddPeer {
                node,
                peer,
                address,
            } => {
                let address = self.address(peer, address.as_ref());
                let peer = identity(peer);
                self.stage.give(node, Input::Know { peer, address });
            }
            Step::RemovePeer { node, peer } => {
                let peer = identity(peer);
                self.stage.give(node, Input::Forget { peer });
            }
            Step::ConnectPair { a, b, next_hb } => self.connect(a, b, *next_hb),
            Step::SetPeer {
                node,
                peer,
                address,
                state,
                via,
                next_hb,
                last_hb,
            } => {
                let address = self.address(peer, address.as_ref());
                let state = state.as_deref().map(|state| match state {
                    "INITIAL" => PeerState::Initial,
                    "CONNECTING" => PeerState::Connecting,
                    "CONNECTED" => PeerState::Connected,
                    "UNREACHABLE" => PeerState::Unreachable,
                    "NO_CONNECTION" => PeerState::NoConnection,
                    "ROUTED" => PeerState::Routed {
                        via: identity(via.as_deref().expect("a hop")),
                    },
                    _ => panic!("no such state: {state}"),
                });
                let at = |seconds: &Option<f64>| {
                    seconds.map(|seconds| self.stage.time() + Duration::from_secs_f64(seconds))
                };
                let (next, last) = (at(next_hb), at(last_hb));
                self.set(node, &identity(peer), address, state, next, last);
            }
            Step::DefaultRoute { node, via } => {
                inside::default_route(&mut self.stage.node_mut(node).core, identity(via));
            }
            Step::Send(_) => {} // its concern knows
            Step::Ask {
                node,
                about,
                exclude,
            } => {
                let target = identity(about);
                let exclude = exclude.iter().map(|name| identity(name)).collect();
                self.stage.look_for(node, target, exclude);
            }
            Step::Inject(inject) => {
                let link = self.stage.link_from(&inject.node, &inject.from);
                for envelope in self.envelopes(inject) {
                    let frame = Arrival::Frame(inside::encode(&envelope));
                    self.stage
                        .on_the_way
                        .push((inject.node.clone(), link, frame));
                }
            }
            Step::Preload(inject) => {
                let link = self.stage.link_from(&inject.node, &inject.from);
                for envelope in self.envelopes(inject) {
                    self.stage
                        .give(&inject.node, Input::Frame { link, envelope });
                }
            }
            Step::Kill { node } => self.stage.node_mut(node).up = false,
            Step::Revive { node } => self.stage.node_mut(node).up = true,
            Step::AddConcern { node, concern } => {
                let concern = self.scripted(node, (**concern).clone());
                self.stage.give(node, Input::Add { concern });
            }
            Step::Stop { node } => self.stage.give(node, Input::Stop),
        }
    }

    fn scripted(&self, node: &str, custom: Custom) -> Box<dyn Concern> {
        let sends = Vec::new();
        Box::new(Scripted::new(
            node,
            custom,
            sends,
            self.stage.began,
            &self.stage.log,
        ))
    }

    /// What `address` of a step means.
    fn address(&self, peer: &str, given: Option<&Option<String>>) -> Option<String> {
        match given {
            None => self.stage.nodes.get(peer).map(|node| node.address.clone()),
            Some(None) => None,
            Some(Some(nowhere)) => {
                assert_eq!(nowhere, "nowhere");
                Some("127.0.0.1:1".into())
            }
        }
    }

    fn connect(&mut self, a: &str, b: &str, next_hb: Option<f64>) {
        let (near, hello) = self.stage.join(a, &identity(b), true);
        // Both sides are told at once, not in the next step.
        let (_, far, _) = self.stage.on_the_way.pop().expect("it was put there");
        let dial = Some(NOT_DIALED);
        let link = near;
        self.stage.give(a, Input::LinkUp { link, hello, dial });
        let hello = self.stage.hello_of(&identity(a));
        let dial = None;
        let link = far;
        self.stage.give(b, Input::LinkUp { link, hello, dial });
        let next = self.stage.time() + Duration::from_secs_f64(next_hb.unwrap_or(1000.0));
        // The original looks at the silence only when a heart beat is due. Here it is noticed at once, so
        // it begins as long before the first heart beat as it does when all is well.
        let last = Some(next - Timing::original().heart_beat);
        for (node, peer) in [(a, b), (b, a)] {
            let address = self.address(peer, None);
            let state = Some(PeerState::Connected);
            self.set(node, &identity(peer), address, state, Some(next), last);
        }
    }

    /// Overwrites a record.
    fn set(
        &mut self,
        node: &str,
        peer: &Identity,
        address: Option<String>,
        state: Option<PeerState>,
        next: Option<Instant>,
        last: Option<Instant>,
    ) {
        if self.stage.last_state(node, peer).is_none() {
            let peer = peer.clone();
            self.stage.give(node, Input::Know { peer, address });
        }
        let core = &mut self.stage.node_mut(node).core;
        let changed = inside::set_peer(core, peer, state, next, last);
        if let Some((old, new)) = changed {
            self.stage.log.state(node, peer, Some(&old), &new);
        }
    }

    fn envelopes(&mut self, inject: &Inject) -> Vec<Envelope> {
        let kind = match &inject.kind {
            Value::String(kind) => match &**kind {
                "request" => EnvelopeKind::Request,
                "reply" => EnvelopeKind::Reply,
                "route" => EnvelopeKind::Route,
                _ => panic!("no such kind: {kind}"),
            },
            number => {
                let number = number.as_u64().expect("a name or a number");
                EnvelopeKind::Other(number.try_into().expect("a byte"))
            }
        };
        let envelope = |payload| {
            self.injected += 1;
            Envelope {
                kind,
                hops: 8,
                priority: Priority::Fast,
                id: self.injected,
                lifetime: Duration::from_secs(30),
                source: inject.source.as_deref().map(identity),
                to: inject.to.as_deref().map(identity),
                command: (&*inject.command).try_into().expect("a short one"),
                payload: Payload::new(&payload).expect("an object"),
            }
        };
        inject.payloads().into_iter().map(envelope).collect()
    }

    /// What the cores say of their peers is what they told.
    fn hold_against_the_cores(&self) {
        for (node, told) in &self.stage.nodes {
            for peer in told.core.peers(self.stage.time()) {
                let state = state_word(&peer.state);
                let last = self.stage.last_state(node, &peer.identity);
                assert_eq!(last.as_deref(), Some(state), "{node} of {}", peer.identity);
            }
        }
    }

    /// Whether a node still handles messages: a concern is added, and asked.
    fn is_alive(&mut self, node: &str) -> bool {
        let asked = || {
            let spec = json!({"command": "are you alive"});
            let custom = serde_json::from_value(spec).expect("it is one");
            let concern = self.scripted(node, custom);
            self.stage.give(node, Input::Add { concern });
            let inject = json!({
                "node": node, "from": "Y", "kind": "request", "command": "are you alive",
            });
            let inject = serde_json::from_value(inject).expect("it is one");
            self.carry_out(&Step::Preload(inject));
            self.stage.give(node, Input::Round);
            let events = self.stage.log.events();
            events.iter().any(|event| {
                event.field("hook") == "process_request"
                    && event.field("command") == "are you alive"
                    && event.field("node") == node
            })
        };
        catch_unwind(AssertUnwindSafe(asked)).unwrap_or(false)
    }
}
