//! The scenarios recorded from the original, `lis-01` to `lis-35`, played step by step.
//!
//! Steps and expectations are taken from `tests/conformance/listener.json`. Each scenario ends as
//! a map of facts, and every expectation of it must be among them. Where the types leave no room
//! for a step, [`Play::step`] says what stands for it. Children are real programs, over both
//! transports.
//!
//! To start a listener is to construct it. "Before the start" is therefore the time in which the
//! listener's thread is held by a handler of the player's own, the curtain. It also falls while
//! messages are posted, so that what was queued together is known.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;

use interplay::listener::{End, Transport};
use serde::{Deserialize, Deserializer};
use serde_json::Map;

use super::child::Child;
use super::raw::{Invitation, frame};
use super::rig::TRANSPORTS;
use super::*;

static JSON: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../conformance/listener.json");
    text.parse().unwrap()
});

/// One test for each scenario, and the list of their names.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { play(&id(stringify!($name))); })*
    };
}

scenarios! {
    lis_01_messages_go_to_the_handler_of_their_source,
    lis_02_a_second_handler_for_a_source_is_refused,
    lis_03_overwrite_replaces_the_handler,
    lis_04_sources_without_a_handler_go_to_the_default_handler,
    lis_05_without_a_default_handler_the_message_is_dropped,
    lis_06_there_is_no_default_handler_that_is_none,
    lis_07_a_handler_that_fails_is_survived,
    lis_08_a_handler_that_ends_its_thread_is_survived,
    lis_09_messages_of_one_child_arrive_in_order,
    lis_10_the_order_holds_for_each_of_several_children,
    lis_11_messages_posted_before_the_start_are_delivered_at_the_start,
    lis_12_stop_lets_earlier_messages_be_handled,
    lis_13_a_post_after_stop_is_an_error,
    lis_14_a_second_start_cannot_be_written,
    lis_15_stop_can_be_called_from_inside_a_handler,
    lis_16_a_handler_may_register_handlers,
    lis_17_something_that_is_not_a_message_is_refused_on_the_wire,
    lis_18_a_source_of_a_wrong_type_is_refused_on_the_wire,
    lis_19_number_and_text_are_what_the_caller_makes_of_them,
    lis_20_data_that_cannot_be_sent_is_an_error_for_the_sender,
    lis_21_data_that_cannot_be_read_is_dropped_and_reported,
    lis_22_a_child_killed_in_a_large_message_harms_nobody_else,
    lis_23_a_message_posted_right_before_the_end_is_delivered,
    lis_24_the_end_of_a_child_is_reported,
    lis_25_a_child_cannot_stop_the_listener_of_its_parent,
    lis_26_control_cannot_be_imitated,
    lis_27_registering_nothing_cannot_be_written,
    lis_28_one_slow_handler_holds_up_all_sources,
    lis_29_a_sender_cannot_fill_the_memory,
    lis_30_a_child_can_end_after_the_listener_has_stopped,
    lis_31_a_program_that_does_not_stop_its_listener_can_end,
    lis_32_there_is_no_stop_before_the_start,
    lis_33_all_handlers_run_on_one_thread_that_is_not_the_main_thread,
    lis_34_the_changes_of_a_handler_are_not_seen_by_the_sender,
    lis_35_the_changes_of_a_sender_are_not_seen_by_the_handler,
}

fn id(name: &str) -> String {
    format!("lis-{}", &name[4..6])
}

#[test]
fn there_is_a_test_for_each_recorded_scenario_and_no_other() {
    let recorded = JSON["scenarios"].as_array().unwrap().iter();
    let recorded: Vec<String> = recorded.map(|one| text(&one["id"])).collect();
    let played: Vec<String> = NAMES.iter().map(|name| id(name)).collect();
    assert_eq!(played, recorded);
}

fn play(id: &str) {
    let scenarios = JSON["scenarios"].as_array().unwrap();
    let scenario = scenarios.iter().find(|one| one["id"] == id).unwrap();
    for &transport in TRANSPORTS {
        let facts = within(move || Play::new(id_of(scenario), transport).run(steps(scenario)));
        for (key, expected) in scenario["expect"].as_object().unwrap() {
            let fact = facts.get(key).unwrap_or(&Value::Null);
            assert!(
                agrees(fact, expected),
                "{id}, {transport:?}: {key} is {:.200}, not {expected}",
                fact.to_string()
            );
        }
    }
}

/// A row that names a number as source stands for the text the caller makes of it.
fn agrees(fact: &Value, expected: &Value) -> bool {
    match (fact, expected) {
        (Value::Array(fact), Value::Array(expected)) => {
            let pairs = fact.iter().zip(expected);
            fact.len() == expected.len() && pairs.into_iter().all(|(fact, one)| agrees(fact, one))
        }
        (Value::String(fact), Value::Number(_)) => *fact == source_text(expected),
        (Value::String(fact), Value::String(expected)) if expected == "error" => {
            fact.starts_with("error ")
        }
        _ => fact == expected,
    }
}

fn id_of(scenario: &Value) -> String {
    text(&scenario["id"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Sources are text; that a number is meant is for the caller to say.
fn source_text(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        _ => text(value),
    }
}

/// The steps to play.
fn steps(scenario: &Value) -> Vec<Value> {
    let steps = scenario["steps"].as_array().unwrap();
    let unsendable = |step: &Value| step["data"]["f"] == "<function>";
    let Some(first) = steps.iter().position(unsendable) else {
        return steps.clone();
    };
    // In one process nothing is serialised and any value can be sent, so here a child posts.
    let posts = steps[first..].iter();
    let posts: Vec<Value> = posts
        .map(|post| json!([post["source"], post["cmd"], post["data"]]))
        .collect();
    let mut steps = steps[..first].to_vec();
    steps.push(json!({"op": "spawn", "child": "c1", "posts": posts}));
    steps
}

/// JSON, but for what stands for "an object of a class only the child knows".
#[derive(Clone)]
struct Data(Value);

impl<'de> Deserialize<'de> for Data {
    fn deserialize<T: Deserializer<'de>>(input: T) -> Result<Self, T::Error> {
        let value = Value::deserialize(input)?;
        match value.get("class") {
            Some(_) => Err(serde::de::Error::custom("unknown class")),
            None => Ok(Self(value)),
        }
    }
}

/// What the handlers of a scenario write down.
#[derive(Default)]
struct Notes {
    delivered: Mutex<Vec<[Value; 4]>>,
    at: Mutex<Vec<Instant>>,
    gone: Mutex<Vec<(String, String)>>,
    threads: Mutex<HashSet<(std::thread::ThreadId, Option<String>)>>,
    inside: AtomicUsize,
    inside_at_once: AtomicUsize,
}

/// A handler as the scenario describes it.
struct Actor {
    name: String,
    script: Value,
    notes: Arc<Notes>,
    listener: Weak<Listener<Data>>,
}

impl Handler<Data> for Actor {
    fn handle(&mut self, message: Message<Data>) -> Result<(), BoxError> {
        let notes = &self.notes;
        let inside = notes.inside.fetch_add(1, Ordering::SeqCst) + 1;
        notes.inside_at_once.fetch_max(inside, Ordering::SeqCst);
        let own = std::thread::current();
        let name = own.name().map(str::to_owned);
        notes.threads.lock().insert((own.id(), name));
        let Message {
            source,
            cmd,
            data: Data(mut data),
        } = message;
        if let Some(time) = self.script["sleep_ms"].as_u64() {
            let time = Duration::from_millis(time);
            let _ = crossbeam_channel::never::<()>().recv_timeout(time);
        }
        let row = [&self.name, source.as_str(), &cmd].map(|text| json!(text));
        let [name, from, command] = row;
        let row = [name, from, command, data.clone()];
        notes.delivered.lock().push(row);
        notes.at.lock().push(Instant::now());
        if self.script["changes_data"] == true {
            data["n"] = json!(99);
        }
        let called = self.script.get("on_cmd").is_none_or(|on| *on == *cmd);
        if called {
            self.call();
        }
        self.notes.inside.fetch_sub(1, Ordering::SeqCst);
        match self.script["raises"].as_str() {
            None => Ok(()),
            Some("error") => Err("as planned".into()),
            // What comes nearest to leaving the thread from inside a handler.
            Some("exit") => panic!("as planned"),
            Some(other) => panic!("unknown: {other}"),
        }
    }

    fn gone(&mut self, source: &Source, end: &End) {
        let gone = (source.to_string(), format!("{end:?}"));
        self.notes.gone.lock().push(gone);
    }
}

impl Actor {
    fn call(&self) {
        match &self.script["calls"] {
            Value::Null => {}
            Value::String(stop) if stop == "stop" => {
                self.listener.upgrade().unwrap().stopper().stop();
            }
            call => {
                let actor = Self {
                    name: text(&call["register"][1]),
                    script: Value::Null,
                    notes: Arc::clone(&self.notes),
                    listener: Weak::clone(&self.listener),
                };
                let listener = self.listener.upgrade().unwrap();
                assert_eq!(call["overwrite"], true);
                drop(listener.replace(source(&text(&call["register"][0])), actor));
            }
        }
    }
}

/// A scenario in progress.
struct Play {
    listener: Arc<Listener<Data>>,
    name: String,
    transport: Transport,
    invitation: Vec<(&'static str, String)>,
    notes: Arc<Notes>,
    curtain: Gate,
    /// Whether the listener's thread is held.
    held: bool,
    let_go: Option<Instant>,
    started: bool,
    stopped: bool,
    /// How many messages the listener has accepted or is about to.
    accepted: u64,
    children: BTreeMap<String, Vec<Child>>,
    /// How many of the children have not told their results.
    silent: Vec<(String, usize)>,
    results: Vec<String>,
    registered: Vec<&'static str>,
    facts: Map<String, Value>,
}

impl Play {
    fn new(name: String, transport: Transport) -> Self {
        let listener = Arc::new(
            Listener::builder()
                .name(name.as_str())
                .transport(transport)
                .start()
                .unwrap(),
        );
        let (curtain, handler) = Gate::new(|_| ());
        listener.register(source("curtain"), handler).unwrap();
        let endpoint = listener.endpoint().unwrap();
        let mut play = Self {
            invitation: endpoint.env().into_iter().collect(),
            listener,
            name,
            transport,
            notes: Arc::default(),
            curtain,
            held: false,
            let_go: None,
            started: false,
            stopped: false,
            accepted: 0,
            children: BTreeMap::new(),
            silent: Vec::new(),
            results: Vec::new(),
            registered: Vec::new(),
            facts: Map::new(),
        };
        play.hold();
        play
    }

    fn run(mut self, steps: Vec<Value>) -> Map<String, Value> {
        let mut last = "";
        for step in &steps {
            let op = step["op"].as_str().unwrap();
            if op == "post" && self.started && last != "post" && !self.stopped {
                self.hold();
            } else if op != "post" && last == "post" && self.started {
                self.let_go();
            }
            if op != "spawn" {
                self.hear_children();
            }
            for _ in 0..step["repeat"].as_u64().unwrap_or(1) {
                self.step(op, step);
            }
            last = op;
        }
        self.end()
    }

    fn hold(&mut self) {
        assert!(!self.held);
        let message = Message::new(&source("curtain"), "", Data(Value::Null));
        // A handler may have stopped it.
        if self.listener.sender().post(message).is_ok() {
            self.curtain.wait_entered();
            self.accepted += 1;
            self.held = true;
        }
    }

    fn let_go(&mut self) {
        if std::mem::take(&mut self.held) {
            self.let_go = Some(Instant::now());
            self.curtain.let_go(1);
        }
    }

    /// Waits until everything that was accepted is handled.
    fn quiet(&self) {
        eventually("all is handled", || {
            let stats = self.listener.stats();
            stats.handled + stats.dropped >= self.accepted
        });
    }

    fn step(&mut self, op: &str, step: &Value) {
        match op {
            "register" | "register_default" => self.register(op, step),
            // There is no listener that was not started, and none that is started again.
            "start" => {
                let before = self.notes.delivered.lock().len();
                if !self.started {
                    self.fact("delivered_before_start", before);
                }
                self.started = true;
                self.let_go();
            }
            // What was not started has no handle that could stop it.
            "stop" if !self.started => self.fact("stop", "no effect"),
            "stop" => {
                self.listener.stopper().stop();
                self.stopped = true;
            }
            "post" => self.post(step),
            "post_many" => self.post_many(step),
            // Only a program that is not in Rust can send what is no message.
            "post_raw" => {
                let raw = Invitation::new(self.invitation.clone()).admitted("raw");
                raw.send(&frame(step["item"].to_string().as_bytes()));
                self.refused(1);
            }
            "spawn" => self.spawn(step),
            "kill" => {
                let child = &mut self.children.get_mut(&text(&step["child"])).unwrap()[0];
                child.kill();
                let gone = Arc::clone(&self.notes);
                if self.started {
                    eventually("gone", || !gone.gone.lock().is_empty());
                }
            }
            // The original is given time to handle what it has.
            "sleep" if self.started && !self.stopped => self.quiet(),
            "sleep" => {}
            "wait_delivered" => {
                let count = step["count"].as_u64().unwrap() as usize;
                let enough = || self.notes.delivered.lock().len() >= count;
                eventually("delivered", enough);
                self.quiet();
            }
            "wait_listener_ended" => drop(self.listener.shutdown(LONG).unwrap()),
            "end_of_main" => {
                let mut child = Child::start("ends without a stop", &Value::Null, []);
                assert_eq!(child.says(), "started");
                assert!(child.ends().success());
                self.fact("process_exited_after_2_s", true);
                self.fact("how", "drop stops and joins");
            }
            _ => panic!("unknown step: {op}"),
        }
    }

    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    fn refused(&self, count: u64) {
        eventually("refused", || self.listener.stats().refused == count);
    }

    fn register(&mut self, op: &str, step: &Value) {
        let script = &step["handler"];
        let name = match script {
            // `register` and `set_default` take a handler; there is no other value for it.
            Value::Null => {
                self.registered.push("impossible");
                return;
            }
            Value::String(name) => name.clone(),
            script => text(&script["name"]),
        };
        let actor = Actor {
            name,
            script: script.clone(),
            notes: Arc::clone(&self.notes),
            listener: Arc::downgrade(&self.listener),
        };
        if op == "register_default" {
            drop(self.listener.set_default(actor));
            return;
        }
        let source = self.source(&step["source"]);
        let result = if step["overwrite"] == true {
            drop(self.listener.replace(source, actor));
            "ok"
        } else if self.listener.register(source, actor).is_ok() {
            "ok"
        } else {
            "error AlreadyRegistered"
        };
        self.registered.push(result);
    }

    /// A listener has no source of its own; its name comes nearest.
    fn source(&self, value: &Value) -> Source {
        match source_text(value).as_str() {
            "<own id>" | "<own id as text>" => source(&self.name),
            text => source(text),
        }
    }

    fn post(&mut self, step: &Value) {
        if step["source"].is_array() {
            // `Source` is text; only a program that is not in Rust can send another type.
            let invitation = Invitation::new(self.invitation.clone());
            let mut hello = invitation.hello("");
            hello["source"] = step["source"].clone();
            let mut raw = invitation.connect().unwrap();
            raw.say(&hello);
            assert_eq!(raw.hear().unwrap()["ok"], false);
            self.refused(1);
            return;
        }
        let mut data = step["data"].clone();
        let message = Message::new(
            &self.source(&step["source"]),
            step["cmd"].as_str().unwrap(),
            Data(data.clone()),
        );
        match self.listener.sender().post(message) {
            Ok(()) => {
                self.accepted += 1;
                self.results.push("ok".to_owned());
            }
            Err(error) => self.results.push(format!("error {:?}", error.reason)),
        }
        if step["then"] == "sender sets n to after" {
            data["n"] = json!("after");
        }
        self.fact("sender_side", data);
    }

    fn post_many(&mut self, step: &Value) {
        let data = Data(json!(
            "x".repeat(step["bytes_each"].as_u64().unwrap() as usize)
        ));
        let mut posted = 0;
        for _ in 0..step["count"].as_u64().unwrap() {
            let message = Message::new(&source("a"), "c", data.clone());
            match self.listener.sender().try_post(message) {
                Ok(()) => posted += 1,
                Err(error) => {
                    assert_eq!(error.reason, Reason::Full);
                    break;
                }
            }
        }
        self.accepted += posted;
        if posted == CAPACITY as u64 {
            self.fact("blocked_or_error_after", "the configured capacity");
        }
    }

    fn spawn(&mut self, step: &Value) {
        let env = self.invitation.iter().cloned();
        let child = Child::start("plays a scenario", step, env);
        let name = text(&step["child"]);
        let children = self.children.entry(name.clone()).or_default();
        self.silent.push((name, children.len()));
        children.push(child);
    }

    /// Waits for the results of the children.
    fn hear_children(&mut self) {
        for (name, at) in std::mem::take(&mut self.silent) {
            let result = self.children[&name][at].says();
            for one in result.as_array().unwrap() {
                if one == "ok" {
                    self.accepted += 1;
                }
                self.results.push(text(one));
            }
        }
    }

    fn end(mut self) -> Map<String, Value> {
        self.hear_children();
        self.let_go();
        let second_is_through = self.children.contains_key("c2");
        for child in self.children.values_mut().flatten() {
            child.ends();
        }
        if self.stopped {
            let report = self.listener.shutdown(LONG).unwrap();
            self.fact(
                "threads_after_one_stop",
                report.still_running.iter().count(),
            );
        } else {
            // Those who did not come as far as `hello` are not connections of a source.
            eventually("no connection is left", || {
                self.listener.stats().connections == 0
            });
            self.quiet();
        }
        let probe = self.probe();
        self.fact("listener", probe);
        self.facts_of_notes();
        if self.name == "lis-32" {
            let first_run = json!({
                "delivered": self.facts["delivered"],
                "listener": self.facts["listener"],
            });
            self.fact("first_run", first_run);
        }
        if second_is_through {
            self.fact("second_child_blocked", false);
        }
        if self.facts["listener"] == "running" {
            self.fact("control", "not expressible as a message");
        }
        log::debug!("{} over {:?}", self.name, self.transport);
        std::mem::take(&mut self.facts)
    }

    /// Whether the listener goes on.
    fn probe(&self) -> &'static str {
        let (send, receive) = bounded(1);
        let handler = move |_: Message<Data>| Ok(send.send(())?);
        self.listener.register(source("probe"), handler).unwrap();
        let message = Message::new(&source("probe"), "", Data(Value::Null));
        match self.listener.sender().post(message) {
            Ok(()) => {
                receive.recv_timeout(LONG).unwrap();
                "running"
            }
            Err(error) => {
                assert_eq!(error.reason, Reason::Closed);
                let report = self.listener.shutdown(LONG).unwrap();
                assert_eq!(report.still_running, None);
                "ended"
            }
        }
    }

    fn facts_of_notes(&mut self) {
        let notes = Arc::clone(&self.notes);
        let delivered = notes.delivered.lock();
        let stats = self.listener.stats();
        self.fact(
            "delivered",
            delivered.iter().map(|row| json!(row)).collect::<Vec<_>>(),
        );
        let cmds: Vec<Value> = delivered.iter().map(|row| row[2].clone()).collect();
        self.fact("delivered_cmds", cmds);
        self.fact("count", delivered.len());
        self.fact("received", delivered.len());
        self.fact("dropped", stats.dropped);
        self.fact("handler_errors", stats.failed);
        self.fact("rejected", stats.refused + stats.unreadable);
        for (at, name) in ["first_register", "second_register"].iter().enumerate() {
            self.fact(name, self.registered.get(at).copied());
        }
        let ok = self.results.iter().filter(|result| *result == "ok").count();
        self.fact("posted", ok);
        let first = self.results.first().cloned();
        self.fact("post_result", first);
        // They have all ended by now.
        self.fact("child_alive_after_3_s", false);
        // A goodbye is told of too, but is not what the scenarios ask for.
        let gone = notes.gone.lock();
        let gone = gone.iter().filter(|(_, end)| end != "Bye");
        let gone: Vec<String> = gone.map(|(source, _)| source.clone()).collect();
        self.fact("source_gone", gone);
        // Numbers of each source, in the order of their handling.
        let mut numbers = BTreeMap::<String, Vec<u64>>::new();
        for [_, source, _, data] in delivered.iter() {
            if let Some(n) = data["n"].as_u64() {
                numbers.entry(text(source)).or_default().push(n);
            }
        }
        let in_order: Map<String, Value> = numbers
            .into_iter()
            .map(|(source, numbers)| {
                (
                    source,
                    numbers.into_iter().zip(0..).all(|(n, at)| n == at).into(),
                )
            })
            .collect();
        self.fact("in_order", in_order.values().all(|one| *one == true));
        self.fact("per_source_in_order", in_order);
        let after = delivered.iter().filter(|row| row[3]["n"] == "after");
        self.fact("received_after", after.count());
        let at_once = notes.inside_at_once.load(Ordering::SeqCst);
        self.fact("handlers_running_at_once", at_once);
        // `start` takes the builder, and a listener has no such method.
        self.fact("second_start", "error AlreadyRunning");
        let threads = notes.threads.lock();
        self.fact("handler_threads", threads.len());
        let others = threads
            .iter()
            .filter(|(_, name)| name.as_deref() != Some(&self.name));
        self.fact("is_main_thread", others.count() > 0);
        if let (Some(from), Some(&last)) = (self.let_go, notes.at.lock().last()) {
            // At least so much; a machine that is busy takes longer.
            let waited = last.duration_since(from).as_secs_f64();
            self.facts
                .insert("b_handled_after_s".to_owned(), waited.min(1.0).into());
        }
    }
}
