//! Nodes on loopback, what they tell, and a concern whose hooks are closures.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use interplay::concerns::{
    Answer, BoxError, Builder, Command, Concern, Context, Event, Events, Identity, Message, Node,
    Outgoing, PeerState, Retry, SendError, Sent, Timing,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::{LIMIT, ms, pause};

/// How long anything may take. Less than a whole test, so that it says itself what it waits for in vain.
const PATIENCE: Duration = Duration::from_secs(45);

/// A node that listens on loopback.
pub(crate) fn listening(identity: &str) -> Builder {
    dialing(identity).listen("127.0.0.1:0")
}

/// A node that only dials.
pub(crate) fn dialing(identity: &str) -> Builder {
    Node::builder().identity(identity)
}

/// Limits of silence that no machine is too slow for: nobody is lost because of them.
pub(crate) fn patient() -> Timing {
    let mut timing = Timing::lan();
    timing.probe = None;
    timing.unreachable = LIMIT * 2;
    timing.no_connection = LIMIT * 4;
    timing.hello = LIMIT;
    timing
}

/// A node and all that it tells.
pub(crate) struct Watched {
    node: Option<Node>,
    events: Events,
    told: Mutex<Vec<Event>>,
}

impl Watched {
    #[track_caller]
    pub(crate) fn start(builder: Builder) -> Self {
        Self::of(builder.start().unwrap())
    }

    pub(crate) fn of(node: Node) -> Self {
        Self {
            events: node.events(),
            node: Some(node),
            told: Mutex::new(Vec::new()),
        }
    }

    /// Where it listens.
    pub(crate) fn at(&self) -> String {
        self.address().unwrap().to_owned()
    }

    /// What was told so far.
    pub(crate) fn told(&self) -> Vec<Event> {
        let mut told = self.told.lock();
        while let Ok(event) = self.events.try_recv() {
            told.push(event);
        }
        told.clone()
    }

    /// Waits until something was told, now or before.
    #[track_caller]
    pub(crate) fn hears<T>(&self, what: impl Fn(&Event) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut told = self.told.lock();
        let mut seen = 0;
        loop {
            if let Some(found) = told[seen..].iter().find_map(&what) {
                return found;
            }
            seen = told.len();
            match self
                .events
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(event) => told.push(event),
                Err(error) => panic!("not told ({error:?}) but {told:?}"),
            }
        }
    }

    /// The states that it went through with a peer.
    pub(crate) fn states(&self, of: &str) -> Vec<PeerState> {
        let told = self.told().into_iter();
        told.filter_map(|event| match event {
            Event::PeerChanged { peer, new, .. } if peer == of => Some(new),
            _ => None,
        })
        .collect()
    }

    pub(crate) fn state(&self, of: &str) -> Option<PeerState> {
        let peers = self.peers();
        let found = peers.into_iter().find(|peer| peer.identity == of);
        found.map(|peer| peer.state)
    }

    #[track_caller]
    pub(crate) fn becomes(&self, peer: &str, state: &PeerState) {
        let end = Instant::now() + PATIENCE;
        while self.state(peer).as_ref() != Some(state) {
            assert!(
                Instant::now() < end,
                "{peer} does not become {state}: {:?}",
                self.told()
            );
            pause(ms(5));
        }
    }

    #[track_caller]
    pub(crate) fn connects(&self, peer: &str) {
        self.becomes(peer, &PeerState::Connected);
    }

    /// Waits for an event that tells of this state, be it over by now.
    #[track_caller]
    pub(crate) fn saw(&self, of: &str, state: &PeerState) {
        self.hears(|event| match event {
            Event::PeerChanged { peer, new, .. } if *peer == of && new == state => Some(()),
            _ => None,
        });
    }

    /// The node, to be dropped or shut down.
    pub(crate) fn into_node(mut self) -> Node {
        self.node.take().unwrap()
    }
}

impl Deref for Watched {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node.as_ref().unwrap()
    }
}

/// Two nodes, each connected with the other.
pub(crate) fn pair(one: Builder, two: Builder) -> (Watched, Watched) {
    let one = Watched::start(one);
    let two = Watched::start(two.join(one.at()));
    let names = [one.identity().to_string(), two.identity().to_string()];
    one.connects(&names[1]);
    two.connects(&names[0]);
    (one, two)
}

pub(crate) fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

pub(crate) fn command(text: &str) -> Command {
    text.parse().unwrap()
}

/// A request of `command` without a payload.
pub(crate) fn request(to: &str, command: &str) -> Outgoing {
    Outgoing::request(to, command, &json!({})).unwrap()
}

/// What became of a request: the command and the hook.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) hook: &'static str,
    /// The payload, or the reason, or nothing.
    pub(crate) what: Value,
    pub(crate) thread: String,
    pub(crate) at: Instant,
}

type OnRequest = dyn FnMut(&mut Context<'_>, &Message) -> Result<Option<Answer>, BoxError> + Send;
type OnHook = dyn FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send;
type OnFailed = dyn FnMut(&mut Context<'_>, &Outgoing, &SendError) -> Retry + Send;

/// A concern that tells its test of each of its hooks, and does what the test says in them.
pub(crate) struct Spy {
    command: Command,
    calls: Sender<Call>,
    on_start: Box<OnHook>,
    on_tick: Box<OnHook>,
    on_request: Box<OnRequest>,
    on_reply: Box<OnHook>,
    on_sent: Box<OnHook>,
    on_failed: Box<OnFailed>,
    on_dropped: Box<OnHook>,
    on_stop: Box<OnHook>,
}

impl Spy {
    /// One that answers requests with what they brought, and where it tells.
    pub(crate) fn new(command: &str) -> (Self, Calls) {
        let (calls, receiver) = unbounded();
        let nothing = || Box::new(|_: &mut Context<'_>| Ok(()));
        let spy = Self {
            command: command.parse().unwrap(),
            calls,
            on_start: nothing(),
            on_tick: nothing(),
            on_request: Box::new(|_, message| Ok(Some(Answer::new(&message.read::<Value>()?)?))),
            on_reply: nothing(),
            on_sent: nothing(),
            on_failed: Box::new(|_, _, _| Retry::Drop),
            on_dropped: nothing(),
            on_stop: nothing(),
        };
        (spy, Calls(Arc::new((receiver, Mutex::new(Vec::new())))))
    }

    pub(crate) fn start(
        mut self,
        hook: impl FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send + 'static,
    ) -> Self {
        self.on_start = Box::new(hook);
        self
    }

    pub(crate) fn tick(
        mut self,
        hook: impl FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send + 'static,
    ) -> Self {
        self.on_tick = Box::new(hook);
        self
    }

    pub(crate) fn request(
        mut self,
        hook: impl FnMut(&mut Context<'_>, &Message) -> Result<Option<Answer>, BoxError>
        + Send
        + 'static,
    ) -> Self {
        self.on_request = Box::new(hook);
        self
    }

    pub(crate) fn reply(
        mut self,
        hook: impl FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send + 'static,
    ) -> Self {
        self.on_reply = Box::new(hook);
        self
    }

    pub(crate) fn sent(
        mut self,
        hook: impl FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send + 'static,
    ) -> Self {
        self.on_sent = Box::new(hook);
        self
    }

    pub(crate) fn failed(
        mut self,
        hook: impl FnMut(&mut Context<'_>, &Outgoing, &SendError) -> Retry + Send + 'static,
    ) -> Self {
        self.on_failed = Box::new(hook);
        self
    }

    pub(crate) fn dropped(
        mut self,
        hook: impl FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send + 'static,
    ) -> Self {
        self.on_dropped = Box::new(hook);
        self
    }

    pub(crate) fn stop(
        mut self,
        hook: impl FnMut(&mut Context<'_>) -> Result<(), BoxError> + Send + 'static,
    ) -> Self {
        self.on_stop = Box::new(hook);
        self
    }

    fn tell(&self, hook: &'static str, what: Value) {
        let thread = std::thread::current();
        let call = Call {
            hook,
            what,
            thread: thread.name().unwrap_or_default().to_owned(),
            at: Instant::now(),
        };
        let _ = self.calls.send(call); // its test may be over
    }
}

impl Concern for Spy {
    fn command(&self) -> Command {
        self.command.clone()
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        self.tell("start", Value::Null);
        (self.on_start)(context)
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        self.tell("tick", Value::Null);
        (self.on_tick)(context)
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        self.tell("request", message.read()?);
        (self.on_request)(context, message)
    }

    fn reply(&mut self, context: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        self.tell("reply", message.read()?);
        (self.on_reply)(context)
    }

    fn sent(&mut self, context: &mut Context<'_>, sent: &Sent) -> Result<(), BoxError> {
        self.tell(
            "sent",
            json!({"id": sent.id(), "to": sent.to().as_str(), "hop": sent.next_hop().as_str()}),
        );
        (self.on_sent)(context)
    }

    fn failed(
        &mut self,
        context: &mut Context<'_>,
        message: &Outgoing,
        error: &SendError,
    ) -> Retry {
        self.tell("failed", json!(format!("{:?}", error.reason())));
        (self.on_failed)(context, message, error)
    }

    fn dropped(&mut self, context: &mut Context<'_>, message: &Outgoing) {
        self.tell("dropped", message.payload().read().unwrap());
        (self.on_dropped)(context).unwrap();
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        self.tell("stop", Value::Null);
        (self.on_stop)(context).unwrap();
    }
}

/// What a spy tells.
#[derive(Clone)]
pub(crate) struct Calls(Arc<(Receiver<Call>, Mutex<Vec<Call>>)>);

impl Calls {
    /// Waits for the next call of this hook; those of others are kept for [`all`](Self::all).
    #[track_caller]
    pub(crate) fn next(&self, hook: &str) -> Call {
        let end = Instant::now() + PATIENCE;
        loop {
            let call = match self.0.0.recv_deadline(end) {
                Ok(call) => call,
                Err(error) => panic!("no {hook}: {error}, but {:?}", self.0.1.lock()),
            };
            self.0.1.lock().push(call.clone());
            if call.hook == hook {
                return call;
            }
        }
    }

    /// All calls so far.
    pub(crate) fn all(&self) -> Vec<Call> {
        let mut all = self.0.1.lock();
        all.extend(self.0.0.try_iter());
        all.clone()
    }

    /// The names of the hooks called so far, those of `hooks`.
    pub(crate) fn hooks(&self, hooks: &[&str]) -> Vec<&'static str> {
        let all = self.all().into_iter().map(|call| call.hook);
        all.filter(|hook| hooks.contains(hook)).collect()
    }

    /// Waits until the spy is gone; no call comes after this.
    #[track_caller]
    pub(crate) fn end(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.0.0.recv_deadline(end) {
                Ok(call) => self.0.1.lock().push(call),
                Err(error) if error.is_timeout() => panic!("the concern is still there"),
                Err(_) => return,
            }
        }
    }
}

/// A concern that answers with what it is asked.
pub(crate) fn echo() -> Spy {
    Spy::new("echo").0
}

/// Asks an echo, which has to answer.
#[track_caller]
pub(crate) fn asks(node: &Node, of: &str) -> Duration {
    let start = Instant::now();
    let question = json!({"text": of});
    let reply = node.request(of, "echo", &question, PATIENCE).unwrap();
    assert_eq!(reply.read::<Value>().unwrap(), question);
    assert_eq!(*reply.source(), of);
    start.elapsed()
}
