//! The concern a scenario brings along: it does what it is told, and writes down what it is called for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::log::{Log, identity, name};
use super::scenario::{Custom, Reaction, Send, in_milliseconds};
use crate::concerns::{
    Answer, BoxError, Command, Concern, Context, Message, Outgoing, Priority, Retry, SendError,
    Sent,
};

pub(super) struct Scripted {
    node: String,
    does: Custom,
    /// What is to be done at which time, in milliseconds from the beginning; the next last.
    plan: Vec<(u64, Deed)>,
    began: Instant,
    log: Log,
}

enum Deed {
    Send(Send),
    Once,
}

impl Scripted {
    /// For a node that began at that time. `sends` has their times, in milliseconds.
    pub(super) fn new(
        node: &str,
        does: Custom,
        sends: Vec<(u64, Send)>,
        began: Instant,
        log: &Log,
    ) -> Self {
        // A step is carried out after the passes of its time, which the first instant after it is.
        let sends = sends
            .into_iter()
            .map(|(at, send)| (at + 1, Deed::Send(send)));
        let once = does.on_execute.iter().map(|once| (once.at, Deed::Once));
        let mut plan: Vec<_> = once.chain(sends).collect();
        plan.sort_by_key(|(at, _)| *at);
        plan.reverse();
        Self {
            node: node.into(),
            does,
            plan,
            began,
            log: log.clone(),
        }
    }

    fn wake(&self, context: &mut Context<'_>) {
        if let Some((at, _)) = self.plan.last() {
            context.wake_at(self.began + Duration::from_millis(*at));
        }
    }

    fn hook(&self, hook: &str, fields: Value) {
        let mut event = json!({
            "ev": "hook", "node": self.node, "hook": hook, "command": self.does.command,
        });
        let Value::Object(fields) = fields else {
            panic!("a hook is told with its fields");
        };
        event.as_object_mut().expect("it is one").extend(fields);
        self.log.write(event);
    }

    fn handled(&self, hook: &str, message: &Message) {
        let payload: Value = message.read().expect("any object fits");
        let (source, hop) = (name(message.source()), name(message.previous_hop()));
        self.hook(
            hook,
            json!({"source": source, "to": self.node, "previous_hop": hop, "payload": payload}),
        );
    }

    fn send(&self, context: &mut Context<'_>, send: &Send) {
        for payload in send.payloads() {
            // Who sends a message and has no concern for it is what the original calls one without handler.
            let command = if send.no_handler {
                "nobody's"
            } else {
                &*send.command
            };
            let mut message = Outgoing::request(&identity(&send.to), command, &payload)
                .expect("the scenario's messages can be made")
                .priority(priority(send.priority.as_deref().unwrap_or("fast")));
            if let Some(seconds) = send.ttl {
                message = message.lifetime(Duration::from_millis(in_milliseconds(seconds)));
            }
            if let Some(hop) = &send.next_hop {
                message = message.over(&identity(hop));
            }
            if let Err(error) = context.send(message) {
                let error = error.to_string();
                self.log
                    .write(json!({"ev": "rejected", "node": self.node, "error": error}));
            }
        }
    }
}

/// What is raised for this message, if anything.
fn raised(reaction: &Reaction, message: &Message) -> Result<(), BoxError> {
    let Some(error) = &reaction.raise else {
        return Ok(());
    };
    let payload: Value = message.read()?;
    match &reaction.when {
        Some(when) if !when.iter().any(|n| payload["n"] == *n) => Ok(()),
        _ => Err(error.clone().into()),
    }
}

pub(super) fn priority(word: &str) -> Priority {
    match word {
        "fast" => Priority::Fast,
        "medium" => Priority::Medium,
        "slow" => Priority::Slow,
        _ => panic!("no such priority: {word}"),
    }
}

impl Concern for Scripted {
    fn command(&self) -> Command {
        let command = self.does.command.as_str();
        command
            .try_into()
            .expect("the scenario's commands are short")
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        self.hook("start", json!({}));
        self.wake(context);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let mut outcome = Ok(());
        while let Some((at, deed)) = self.plan.pop() {
            if self.began + Duration::from_millis(at) > context.now() {
                self.plan.push((at, deed));
                break;
            }
            match (deed, &self.does.on_execute) {
                (Deed::Send(send), _) => self.send(context, &send),
                (Deed::Once, Some(once)) => {
                    self.hook("execute", json!({}));
                    if let Some(peer) = &once.remove_peer {
                        assert!(context.forget(&identity(peer)), "it was known");
                    }
                    if let Some(error) = &once.raise {
                        outcome = Err(error.clone().into());
                    }
                }
                (Deed::Once, None) => unreachable!("only planned if there is something to do"),
            }
        }
        self.wake(context);
        outcome
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        self.handled("process_request", message);
        let does = &self.does.on_request;
        raised(does, message)?;
        if let Some(shape) = &does.odd {
            // An answer of an unknown priority and one that is a list cannot be written down; a payload
            // that is no object comes nearest, and is refused when the answer is made.
            let answer = match &**shape {
                "message" => Answer::new("a message"),
                "bad-priority" => Answer::new(&7),
                "list" => Answer::new(&[message.payload().as_str()]),
                _ => panic!("no such shape: {shape}"),
            };
            return Ok(Some(answer?));
        }
        let Some(payload) = &does.reply else {
            return Ok(None);
        };
        let answer = Answer::new(payload)?;
        let wanted = priority(does.priority.as_deref().unwrap_or("fast"));
        Ok(Some(answer.priority(wanted)))
    }

    fn reply(&mut self, _: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        self.handled("process_reply", message);
        raised(&self.does.on_reply, message)
    }

    fn sent(&mut self, _: &mut Context<'_>, sent: &Sent) -> Result<(), BoxError> {
        self.hook("message_sent", json!({"to": name(sent.to())}));
        match &self.does.on_message_sent {
            Some(error) => Err(error.raise.clone().into()),
            None => Ok(()),
        }
    }

    fn failed(&mut self, _: &mut Context<'_>, message: &Outgoing, _: &SendError) -> Retry {
        self.hook("send_failed", json!({"to": name(message.to())}));
        match self.does.on_send_failed.as_deref() {
            Some("requeue") => Retry::Requeue,
            Some(other) => panic!("no such thing to do: {other}"),
            None => Retry::Drop,
        }
    }

    fn dropped(&mut self, _: &mut Context<'_>, message: &Outgoing) {
        self.hook("message_dropped", json!({"to": name(message.to())}));
    }

    fn stop(&mut self, _: &mut Context<'_>) {
        self.hook("terminate", json!({}));
    }
}
