//! The scenarios of kind `codec` and `unit` that are about messages and records rather than bytes and queues:
//! here with a core that nobody is at the other end of.
//!
//! What the types make impossible is not there to be tested: a message without receiver or command (`cod-05`,
//! `cod-18`), an answer to somebody else (`cod-17`), flags of a state that contradict each other (`pee-04`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::{Core, Input, LinkId, Output, Settings};
use super::inside;
use super::log::identity;
use crate::concerns::envelope::{Envelope, EnvelopeKind};
use crate::concerns::hello::Hello;
use crate::concerns::record::Record;
use crate::concerns::{
    Answer, BadMessage, BoxError, Command, Concern, Context, Event, Identity, Message, Outgoing,
    Payload, PeerState, Priority, Timing,
};

const LINK: LinkId = LinkId(0);

/// Answers what the payload says under `answer`.
struct Echo;

impl Concern for Echo {
    fn command(&self) -> Command {
        "echo".try_into().unwrap()
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let payload: Value = message.read()?;
        Ok(Some(Answer::new(&payload["answer"])?))
    }
}

/// `BBBBB`, with a link to `HHHHH`.
fn core(now: Instant) -> Core {
    let mut core = Core::new(
        now,
        Settings {
            identity: identity("B"),
            address: None,
            timing: Timing::original(),
            default_route: None,
            max_peers: 10,
            max_strangers: 10,
            max_payload: 1000,
            max_queued: 10,
            max_queued_all: 10,
            max_queued_bytes: 64 << 20,
            max_held: 10,
            max_hops: 8,
        },
    );
    core.start(now, vec![Box::new(Echo)]).unwrap();
    let hello = Hello {
        identity: identity("H"),
        incarnation: 1,
        address: None,
    };
    let (link, dial) = (LINK, None);
    core.step(now, Input::LinkUp { link, hello, dial });
    core
}

/// What the core writes in its next round.
fn written(core: &mut Core, now: Instant) -> Vec<Envelope> {
    let outputs = core.step(now, Input::Round);
    let written = outputs.filter_map(|output| match output {
        Output::Write { envelope, .. } => Some(envelope),
        _ => None,
    });
    written.collect()
}

/// The answer to a request of `AAAAA` that has come over `HHHHH`.
fn answer(payload: &Value) -> Envelope {
    let now = Instant::now();
    let mut core = core(now);
    let envelope = Envelope {
        kind: EnvelopeKind::Request,
        hops: 8,
        priority: Priority::Fast,
        id: 7,
        lifetime: Duration::from_secs(1),
        source: Some(identity("A")),
        to: None,
        command: "echo".try_into().unwrap(),
        payload: Payload::new(&json!({"answer": payload})).unwrap(),
    };
    let link = LINK;
    core.step(now, Input::Frame { link, envelope });
    let mut written = written(&mut core, now);
    assert_eq!(written.len(), 1, "{written:?}");
    written.remove(0)
}

// cod-16, cod-17
#[test]
fn an_answer_goes_back_over_the_hop_its_request_came_from_and_lives_for_30_seconds() {
    let answer = answer(&json!({"x": 1}));
    assert_eq!(answer.kind, EnvelopeKind::Reply);
    assert_eq!(answer.id, 7);
    assert_eq!(answer.source, None);
    assert_eq!(answer.to, Some(identity("A")));
    assert_eq!(answer.command, *"echo");
    assert_eq!(answer.lifetime, Duration::from_secs(30));
    assert_eq!(answer.payload.as_str(), r#"{"x":1}"#);
}

// cod-19
#[test]
fn a_payload_may_use_any_key_and_changes_nothing_else() {
    let payload = json!({"to": "HHHHH", "source": "Q", "command": "x", "id": 1, "text": "x"});
    let answer = answer(&payload);
    assert_eq!(answer.to, Some(identity("A")));
    assert_eq!((answer.source, answer.id), (None, 7));
    assert_eq!(answer.command, *"echo");
    assert_eq!(answer.payload.read::<Value>().unwrap(), payload);
}

// cod-05
#[test]
fn a_message_without_receiver_or_command_cannot_be_made() {
    let empty = json!({});
    for (to, command) in [("", "echo"), ("ABC", "echo"), ("AAAAA", "")] {
        let made = Outgoing::request(to, command, &empty);
        assert!(
            matches!(made, Err(BadMessage::Name(_))),
            "{to:?} {command:?}"
        );
    }
    assert!(Outgoing::request("AAAAA", "echo", &empty).is_ok());
}

// cod-06: everything but bytes, which JSON has none of
#[test]
fn a_payload_comes_as_it_went_whatever_is_in_it() {
    let text = r#"{"a":null,"b":true,"c":-1,"d":200,"e":70000,"f":1099511627776,"g":1.5,"h":"é","j":[1,[2]],"k":{"x":{}}}"#;
    let payload: Value = serde_json::from_str(text).unwrap();
    let answer = answer(&payload);
    assert_eq!(answer.payload.read::<Value>().unwrap(), payload);
    let mut reader = inside::Reader::new(&identity("A"));
    let mut read = reader.read(&inside::encode(&answer)).unwrap();
    assert_eq!(read.to.take(), None, "it is for who reads it");
    assert_eq!(read.payload, answer.payload);
}

// cod-18
#[test]
fn a_lifetime_that_ends_now_is_not_over() {
    for (late, arrives) in [(0, true), (1, false)] {
        let now = Instant::now();
        let mut core = core(now);
        let message = Outgoing::request(identity("H").as_str(), "echo", &json!({})).unwrap();
        let message = message.lifetime(Duration::ZERO);
        core.step(now, Input::Send { id: 1, message });
        let written = written(&mut core, now + Duration::from_millis(late));
        assert_eq!(written.len(), usize::from(arrives), "{late} ms late");
    }
}

fn states() -> [(PeerState, bool, bool); 6] {
    let via = identity("H");
    [
        (PeerState::Initial, true, false),
        (PeerState::Connecting, false, false),
        (PeerState::Connected, false, true),
        (PeerState::Routed { via }, false, true),
        (PeerState::Unreachable, true, true),
        (PeerState::NoConnection, true, false),
    ]
}

// pee-02
#[test]
fn who_is_not_reached_is_tried_again_and_who_was_heard_gets_heart_beats() {
    let now = Instant::now();
    for (state, tried, watched) in states() {
        let mut record = Record::new(identity("A"));
        record.state = state.clone();
        assert_eq!(record.attempt_at(now).is_some(), tried, "{state}");
        assert_eq!(record.beat_at(now).is_some(), watched, "{state}");
    }
}

// pee-03
#[test]
fn every_state_can_be_printed() {
    for (state, ..) in states() {
        assert!(!state.to_string().is_empty());
        assert!(!format!("{state:?}").is_empty());
    }
}

// pee-04, pee-05: an address has both its parts, or there is none
#[test]
fn a_hello_tells_host_and_port_and_changes_no_state_that_it_should_not() {
    let now = Instant::now();
    for (payload, address, state) in [
        (
            json!({"host": "h", "port": 1}),
            Some("h:1"),
            PeerState::Connected,
        ),
        (json!({"host": "h:1"}), None, PeerState::NoConnection),
        (json!({}), None, PeerState::NoConnection),
    ] {
        let mut core = core(now);
        let hello = vec![inside::built_in("hello")].remove(0);
        core.step(now, Input::Add { concern: hello });
        let peer = identity("H");
        core.step(
            now,
            Input::Know {
                peer,
                address: None,
            },
        );
        inside::set_peer(
            &mut core,
            &identity("H"),
            Some(PeerState::NoConnection),
            Some(now + Duration::from_secs(100)),
            None,
        );
        let answer = Payload::new(&payload).unwrap();
        let envelope = envelope(EnvelopeKind::Reply, "hello", answer);
        let link = LINK;
        core.step(now, Input::Frame { link, envelope });
        core.step(now, Input::Round);
        let peers = core.peers(now);
        assert_eq!(peers[0].address.as_deref(), address, "{payload}");
        assert_eq!(peers[0].state, state, "{payload}");
    }
}

/// From the neighbour, for this node.
fn envelope(kind: EnvelopeKind, command: &str, payload: Payload) -> Envelope {
    Envelope {
        kind,
        hops: 8,
        priority: Priority::Fast,
        id: 1,
        lifetime: Duration::from_secs(1),
        source: None,
        to: None,
        command: command.try_into().unwrap(),
        payload,
    }
}

// cod-11, cod-12: the kind is one byte, so there is no second one to overlook
#[test]
fn a_kind_that_nobody_knows_is_told_and_dropped() {
    for kind in [0, 8, 255] {
        let now = Instant::now();
        let mut core = core(now);
        let mut reader = inside::Reader::new(&identity("B"));
        let envelope = envelope(EnvelopeKind::Other(kind), "echo", Payload::empty());
        let envelope = reader.read(&inside::encode(&envelope)).unwrap();
        let link = LINK;
        let told: Vec<Output> = core.step(now, Input::Frame { link, envelope }).collect();
        let malformed = |output: &Output| matches!(output, Output::Event(Event::Malformed { from, .. }) if *from == *"HHHHH");
        assert!(told.iter().any(malformed), "{kind}");
        assert!(written(&mut core, now).is_empty());
    }
}

/// Whatever a name is made of, it is a name.
#[test]
fn names_of_scenarios_are_identities() {
    let name: Identity = identity("A");
    assert_eq!(name, *"AAAAA");
    assert_eq!(super::log::name(&name), "A");
}
