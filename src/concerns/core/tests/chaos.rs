//! Any inputs in any order: no panic, all bounds kept, each message with one fate.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::concerns::Kind;

const PEERS: [&str; 6] = ["A", "B", "C", "M", "Y", "Z"];
const COMMANDS: [&str; 6] = ["hello", "hb", "r", "echo", "again", "nope"];
const WINDOW: usize = 256;

/// Something that happens to a core.
#[derive(Clone, Debug)]
enum Deed {
    LinkUp {
        peer: usize,
        life: u64,
        dial: Option<Index>,
    },
    LinkDown(Index),
    DialFailed(Index),
    Frame {
        link: Index,
        kind: u8,
        command: usize,
        source: usize,
        to: usize,
        payload: usize,
        id: u64,
        hops: u8,
    },
    Malformed(Index),
    Written {
        link: Index,
        count: usize,
        expired: Vec<usize>,
    },
    Send {
        to: usize,
        command: usize,
        asked: bool,
        priority: u8,
        over: Option<usize>,
        millis: u64,
    },
    Know {
        peer: usize,
        address: bool,
    },
    Join,
    Forget(usize),
    Find(usize),
    Add,
    Remove(usize),
    Wait(u64),
    Round,
}

fn deed() -> impl Strategy<Value = Deed> {
    let index = any::<Index>;
    let peer = 0..PEERS.len();
    let command = 0..COMMANDS.len();
    prop_oneof![
        4 => (peer.clone(), 0..4_u64, proptest::option::of(index()))
            .prop_map(|(peer, life, dial)| Deed::LinkUp { peer, life, dial }),
        1 => index().prop_map(Deed::LinkDown),
        1 => index().prop_map(Deed::DialFailed),
        9 => (
            index(), 0..10_u8, command.clone(), 0..8_usize, 0..8_usize, 0..8_usize, 0..40_u64, 0..9_u8
        ).prop_map(|(link, kind, command, source, to, payload, id, hops)| Deed::Frame {
            link, kind, command, source, to, payload, id, hops
        }),
        1 => index().prop_map(Deed::Malformed),
        3 => (index(), 0..9_usize, proptest::collection::vec(0..9_usize, 0..3))
            .prop_map(|(link, count, expired)| Deed::Written { link, count, expired }),
        9 => (
            peer.clone(), command.clone(), any::<bool>(), 0..3_u8, proptest::option::weighted(0.1, peer.clone()), 0..9_000_u64
        ).prop_map(|(to, command, asked, priority, over, millis)| Deed::Send {
            to, command, asked, priority, over, millis
        }),
        2 => (peer.clone(), any::<bool>()).prop_map(|(peer, address)| Deed::Know { peer, address }),
        1 => Just(Deed::Join),
        1 => peer.clone().prop_map(Deed::Forget),
        1 => peer.prop_map(Deed::Find),
        1 => Just(Deed::Add),
        1 => command.prop_map(Deed::Remove),
        3 => (0..5_000_u64).prop_map(Deed::Wait),
        9 => Just(Deed::Round),
    ]
}

/// What the concerns were told.
#[derive(Default)]
struct Book {
    /// How many fates of each message of the program's.
    fates: BTreeMap<u64, usize>,
    answers: usize,
    told_of_answers: usize,
}

/// A concern that keeps the book.
struct Teller {
    command: &'static str,
    retry: Retry,
    book: Arc<Mutex<Book>>,
}

impl Teller {
    /// A fate of what carries that.
    fn fate(&self, message: &Outgoing) {
        let payload: serde_json::Value = message.payload().read().unwrap();
        let mut book = self.book.lock();
        match payload["n"].as_u64() {
            Some(n) => *book.fates.entry(n).or_default() += 1,
            None => book.told_of_answers += usize::from(self.retry == Retry::Drop),
        }
    }
}

impl Concern for Teller {
    fn command(&self) -> Command {
        self.command.try_into().unwrap()
    }

    fn request(&mut self, _: &mut Context<'_>, _: &Message) -> Result<Option<Answer>, BoxError> {
        self.book.lock().answers += usize::from(self.retry == Retry::Drop);
        Ok(Some(Answer::new(&json!({}))?))
    }

    fn sent(&mut self, _: &mut Context<'_>, sent: &Sent) -> Result<(), BoxError> {
        let mut book = self.book.lock();
        match sent.kind() {
            Kind::Request => *book.fates.entry((sent.id() & !ASKED) / 2).or_default() += 1,
            Kind::Reply => book.told_of_answers += usize::from(self.retry == Retry::Drop),
        }
        Ok(())
    }

    fn failed(&mut self, _: &mut Context<'_>, message: &Outgoing, _: &SendError) -> Retry {
        self.fate(message);
        self.retry
    }

    fn dropped(&mut self, _: &mut Context<'_>, message: &Outgoing) {
        self.fate(message);
    }
}

/// The world around a core, which keeps count.
struct World {
    rig: Rig,
    book: Arc<Mutex<Book>>,
    /// The links there are, and how much was given to each.
    links: BTreeMap<LinkId, usize>,
    dials: Vec<u64>,
    sent: u64,
    settled: usize,
    asked: BTreeSet<u64>,
    /// The messages whose concern gives up what fails.
    echoes: BTreeSet<u64>,
}

impl World {
    fn new() -> Self {
        let small = Settings {
            max_peers: 4,
            max_strangers: 2,
            max_queued: 6,
            max_queued_all: 20,
            max_held: 4,
            ..settings()
        };
        let book = Arc::<Mutex<Book>>::default();
        let teller = |command, retry| {
            let book = book.clone();
            Box::new(Teller {
                command,
                retry,
                book,
            })
        };
        let mut concerns = built_ins();
        concerns.push(teller("echo", Retry::Drop));
        concerns.push(teller("again", Retry::Requeue));
        Self {
            rig: Rig::new(small, concerns),
            book,
            links: BTreeMap::new(),
            dials: Vec::new(),
            sent: 0,
            settled: 0,
            asked: BTreeSet::new(),
            echoes: BTreeSet::new(),
        }
    }

    fn do_it(&mut self, deed: &Deed) {
        match deed {
            Deed::LinkUp { peer, life, dial } => {
                let dial = dial.filter(|_| !self.dials.is_empty());
                let dial = dial.map(|dial| self.dials.swap_remove(dial.index(self.dials.len())));
                let link = LinkId(self.rig.links + 1);
                self.links.insert(link, 0);
                self.rig.link_up(PEERS[*peer], *life, dial);
            }
            Deed::LinkDown(link) => {
                if let Some(link) = self.link(link) {
                    self.links.remove(&link);
                    self.rig.down(link);
                }
            }
            Deed::DialFailed(dial) if !self.dials.is_empty() => {
                let dial = self.dials.swap_remove(dial.index(self.dials.len()));
                let reason = "refused".into();
                self.rig.give(Input::DialFailed { dial, reason });
            }
            Deed::DialFailed(_) => {}
            Deed::Frame { link, .. } => {
                if let Some(link) = self.link(link) {
                    self.rig.frame(link, frame(deed));
                }
            }
            Deed::Malformed(link) => {
                if let Some(link) = self.link(link) {
                    let problem = "nonsense".into();
                    self.rig.give(Input::Malformed { link, problem });
                }
            }
            Deed::Written {
                link,
                count,
                expired,
            } => {
                if let Some(link) = self.link(link) {
                    let given = self.links.get_mut(&link).unwrap();
                    let count = *count.min(given);
                    *given -= count;
                    let mut expired = expired.clone();
                    expired.retain(|place| *place < count);
                    self.rig.give(Input::Written {
                        link,
                        count,
                        expired,
                    });
                }
            }
            Deed::Send {
                to,
                command,
                asked,
                priority,
                over,
                millis,
            } => {
                self.sent += 1;
                let id = 2 * self.sent + 1 + if *asked { ASKED } else { 0 };
                let text = "x".repeat(*millis as usize / 8);
                let payload = json!({"n": self.sent, "text": text});
                let priority =
                    [Priority::Fast, Priority::Medium, Priority::Slow][*priority as usize];
                let mut message =
                    Outgoing::request(&identity(PEERS[*to]), COMMANDS[*command], &payload)
                        .unwrap()
                        .priority(priority)
                        .lifetime(Duration::from_millis(*millis));
                if let Some(over) = over {
                    message = message.over(&identity(PEERS[*over]));
                }
                if *asked {
                    self.asked.insert(id);
                }
                if COMMANDS[*command] == "echo" {
                    self.echoes.insert(self.sent);
                }
                self.rig.send(id, message);
            }
            Deed::Know { peer, address } => {
                self.rig.know(PEERS[*peer], address.then_some("10.0.0.5:5"));
            }
            Deed::Join => self.rig.give(Input::Join {
                address: "10.0.0.6:6".into(),
            }),
            Deed::Forget(peer) => self.rig.give(Input::Forget {
                peer: identity(PEERS[*peer]),
            }),
            Deed::Find(peer) => {
                self.rig.look_for(PEERS[*peer], Vec::new());
            }
            Deed::Add => {
                let (probe, _) = Probe::new("nope");
                self.rig.give(Input::Add {
                    concern: Box::new(probe),
                });
            }
            // Only what keeps no count.
            Deed::Remove(command) => {
                if !["echo", "again"].contains(&COMMANDS[*command]) {
                    let command = COMMANDS[*command].try_into().unwrap();
                    self.rig.give(Input::Remove { command });
                }
            }
            Deed::Wait(millis) => self.rig.now += Duration::from_millis(*millis),
            Deed::Round => self.rig.give(Input::Round),
        }
        self.count();
    }

    fn link(&self, index: &Index) -> Option<LinkId> {
        (!self.links.is_empty()).then(|| {
            *self
                .links
                .keys()
                .nth(index.index(self.links.len()))
                .unwrap()
        })
    }

    /// Looks at what came out, and at the bounds.
    fn count(&mut self) {
        let mut ended = Vec::new();
        for output in self.rig.take() {
            match output {
                Output::Write { link, .. } => {
                    let given = self
                        .links
                        .get_mut(&link)
                        .expect("only links that are up are given anything");
                    *given += 1;
                    assert!(*given <= WINDOW + 1);
                    assert!(
                        !ended.contains(&link),
                        "nothing is given to a link after its end"
                    );
                }
                Output::Close { link } => {
                    assert!(self.links.contains_key(&link));
                    ended.push(link);
                }
                Output::Dial { dial, .. } => self.dials.push(dial),
                Output::Settled { .. } => self.settled += 1,
                Output::Reply { message } => {
                    assert!(
                        self.asked.remove(&message.id()),
                        "one answer to one question"
                    );
                }
                Output::NoReply { id, .. } => {
                    assert!(self.asked.remove(&id), "one answer to one question");
                }
                Output::Event(_) | Output::Added(_) | Output::Removed(_) => {}
            }
        }
        let state = &self.rig.core.state;
        assert!(state.peers.len() <= 4 && state.peers.strangers() <= 2);
        assert!(state.held.len() <= 4 && state.wanted.len() <= 4);
        // Beside the program's and others', there are the node's own, which have 64 places for each neighbour.
        assert!(
            state.queue.len() <= 20 + 64 * PEERS.len(),
            "{}",
            state.queue.len()
        );
        assert!(state.retries.load().count <= 20);
        assert_eq!(state.links.len(), self.links.len());
        assert!(state.fates.is_empty() && state.taken.is_empty());
        assert_eq!(state.pending.len(), self.asked.len());
        let strangers = state.peers.iter().filter(|record| record.stranger);
        assert_eq!(strangers.count(), state.peers.strangers());
        let wanted: Vec<_> = state.wanted.keys().collect();
        assert_eq!(wanted, state.held.targets().collect::<Vec<_>>());
    }

    /// Everything that is due now, which has to come to an end.
    fn calm_down(&mut self) {
        for _ in 0..1_000 {
            if self.rig.core.due().is_none_or(|due| due > self.rig.now) {
                return;
            }
            self.do_it(&Deed::Round);
        }
        panic!("it is busy for ever");
    }

    fn end(mut self) {
        self.rig.give(Input::Stop);
        self.count();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.links.remove(&link);
            self.rig.down(link);
            self.count();
        }
        assert_eq!(
            self.settled, self.sent as usize,
            "each message has found its end"
        );
        let book = self.book.lock();
        for n in &self.echoes {
            assert_eq!(book.fates.get(n), Some(&1), "one fate of message {n}");
        }
        assert_eq!(book.answers, book.told_of_answers);
        assert!(
            self.asked.is_empty(),
            "each question has its answer, or the news that there is none"
        );
        assert_eq!(self.rig.core.due(), None);
    }
}

fn frame(deed: &Deed) -> Envelope {
    let Deed::Frame {
        kind,
        command,
        source,
        to,
        payload,
        id,
        hops,
        ..
    } = deed
    else {
        unreachable!("it is given frames alone");
    };
    let kinds = [
        EnvelopeKind::Request,
        EnvelopeKind::Request,
        EnvelopeKind::Request,
        EnvelopeKind::Reply,
        EnvelopeKind::Reply,
        EnvelopeKind::NoSuchCommand,
        EnvelopeKind::Refused,
        EnvelopeKind::Undeliverable,
        EnvelopeKind::Bye,
        EnvelopeKind::Other(77),
    ];
    let (m, z) = (identity("M").to_string(), identity("Z").to_string());
    let a = identity("A").to_string();
    let payloads = [
        json!({}),
        json!({"host": "10.0.0.2", "port": 7}),
        json!({"host": null, "port": null}),
        json!({"host": 7, "port": "x"}),
        json!({"target": z, "breadcrumbs": [a]}),
        json!({"target": z, "breadcrumbs": [m]}),
        json!({"target": z, "breadcrumbs": [a, m]}),
        json!({"target": m, "breadcrumbs": [""]}),
    ];
    let name = |it: &usize| PEERS.get(*it).map(|name| identity(name));
    Envelope {
        hops: *hops,
        id: if id % 2 == 0 { *id } else { ASKED | *id },
        source: name(source),
        to: name(to).filter(|to| *to != identity("M")),
        payload: Payload::new(&payloads[*payload]).unwrap(),
        ..envelope(kinds[*kind as usize], COMMANDS[*command])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_core_keeps_its_bounds_and_each_message_has_one_fate(
        deeds in proptest::collection::vec(deed(), 1..150)
    ) {
        let mut world = World::new();
        for deed in &deeds {
            world.do_it(deed);
            if matches!(deed, Deed::Wait(_)) {
                world.calm_down();
            }
        }
        world.end();
    }
}
