//! The concern that looks for ways over others: command `r`.
//!
//! A question names a peer, and everybody it has gone through: the breadcrumbs, the asking node last.
//! Whoever is connected with that peer answers, others pass the question on; the answer walks back along the
//! breadcrumbs, and everybody on the way knows over whom to reach the peer then.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::concern::Concern;
use super::context::Context;
use super::core::Find;
use super::error::BoxError;
use super::identity::{Command, Identity};
use super::message::{Answer, Message, Outgoing, Priority};
use super::payload::Payload;
use super::peer::PeerState;
use super::probe::Probes;
use super::timing::after;

/// The most nodes that a question goes through.
const BREADCRUMBS: usize = 16;
/// The most questions whose pause is not over.
const QUESTIONS: usize = 1_024;

/// Looks for ways to peers that messages wait for, and helps others to.
///
/// After `AskAroundConcern` of p2p0mq.
#[derive(Debug, Default)]
pub(crate) struct AskAround {
    questions: BTreeMap<Identity, Question>,
    probes: Probes,
}

/// A question that this node has asked, or passed on.
#[derive(Debug)]
struct Question {
    asked: Instant,
    answered: bool,
}

/// What questions and answers carry.
#[derive(Debug, Serialize, Deserialize)]
struct Trail {
    target: String,
    breadcrumbs: Vec<String>,
    /// Whether it is about a peer that is silent; see `probe.rs`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    probe: bool,
}

impl AskAround {
    pub(crate) const COMMAND: &'static str = "r";

    /// Forgets the questions whose pause is over.
    fn tidy(&mut self, context: &Context<'_>) {
        let (now, pause) = (context.now(), context.timing().ask);
        self.questions
            .retain(|_, question| after(question.asked, pause) > now);
    }

    /// Asks those but the excluded ones, unless that was asked a short while ago. When it may be asked again, if
    /// it was, or may not be now.
    fn ask(
        &mut self,
        context: &mut Context<'_>,
        neighbours: &[Identity],
        target: &Identity,
        exclude: &[Identity],
        trail: &[String],
    ) -> Result<Option<Instant>, BoxError> {
        let (now, pause) = (context.now(), context.timing().ask);
        if let Some(question) = self.questions.get(target) {
            return Ok(Some(after(question.asked, pause)));
        }
        if target == context.identity() || self.questions.len() >= QUESTIONS {
            return Ok(None);
        }
        let asked = neighbours.iter().filter(|peer| {
            *peer != target
                && !exclude.contains(peer)
                && !trail.iter().any(|crumb| **peer == crumb.as_str())
        });
        let mut asked = asked.peekable();
        if asked.peek().is_none() {
            return Ok(None);
        }
        let question = Question {
            asked: now,
            answered: false,
        };
        self.questions.insert(target.clone(), question);
        let mut breadcrumbs = trail.to_vec();
        breadcrumbs.push(context.identity().to_string());
        let target = target.to_string();
        let trail = Trail {
            target,
            breadcrumbs,
            probe: false,
        };
        for peer in asked {
            let question = Outgoing::request(peer, Self::COMMAND, &trail)?;
            context.post(question.priority(Priority::Fast).over(peer))?;
        }
        Ok(Some(after(now, pause)))
    }

    /// Passes on a question of a neighbour's. If the same was asked a short while ago, it is left alone: an answer to
    /// that, given to others too, would have them reach the peer over each other.
    fn pass_on(
        &mut self,
        context: &mut Context<'_>,
        target: &Identity,
        crumbs: &[String],
    ) -> Result<(), BoxError> {
        self.tidy(context);
        if crumbs.len() < BREADCRUMBS && self.questions.len() < QUESTIONS / 2 {
            self.ask(context, &connected(context), target, &[], crumbs)?;
        }
        Ok(())
    }
}

/// The neighbours that can be asked.
fn connected(context: &Context<'_>) -> Vec<Identity> {
    let connected = context
        .records()
        .filter(|record| record.state == PeerState::Connected);
    connected.map(|record| record.identity.clone()).collect()
}

/// What has to do with peers that are silent.
impl AskAround {
    /// Has others look after silent peers, and tells others of those that are not.
    fn probe(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        for question in self.probes.heard(context) {
            let to = question.source().clone();
            context.pass_back(&to, &question, question.payload().clone());
        }
        for (target, helpers) in Probes::silent(context) {
            let trail = Trail {
                target: target.to_string(),
                breadcrumbs: vec![context.identity().to_string()],
                probe: true,
            };
            for helper in helpers {
                let question = Outgoing::request(&helper, Self::COMMAND, &trail)?;
                let question = Probes::question(context, &helper, question);
                context.post(question.priority(Priority::Fast))?;
            }
        }
        Ok(())
    }
}

impl Concern for AskAround {
    fn command(&self) -> Command {
        Command::built_in(Self::COMMAND)
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        context.watch();
        context.seek(true);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        self.probe(context)?;
        self.tidy(context);
        let wanted = context.wanted();
        if wanted.is_empty() {
            return Ok(());
        }
        let neighbours = connected(context);
        for Find { target, exclude } in wanted {
            if let Some(again) = self.ask(context, &neighbours, &target, &exclude, &[])? {
                context.wake_at(again);
            }
        }
        Ok(())
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let trail: Trail = message.read()?;
        let target = Identity::try_from(&*trail.target)?;
        let crumbs = &trail.breadcrumbs;
        let me = context.identity();
        // A question goes from neighbour to neighbour, and each has put its own name last.
        let is_its = crumbs
            .last()
            .is_some_and(|last| message.source() == last.as_str())
            && message.source() == message.previous_hop();
        if !is_its || crumbs.len() > BREADCRUMBS || target == *me {
            return Ok(None);
        }
        if crumbs.iter().any(|crumb| me == crumb.as_str()) {
            return Ok(None); // it went in a circle
        }
        if trail.probe {
            let now = crumbs.len() == 1 && self.probes.look_after(context, &target, message)?;
            let answer = now.then(|| Answer::new(&trail)).transpose()?;
            return Ok(answer.map(|answer| answer.priority(Priority::Fast)));
        }
        let state = context.record(&target).map(|record| &record.state);
        if state == Some(&PeerState::Connected) && message.source() != &target {
            let answer = Answer::new(&trail)?;
            return Ok(Some(answer.priority(Priority::Fast)));
        }
        self.pass_on(context, &target, crumbs)?;
        Ok(None)
    }

    fn reply(&mut self, context: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        let mut trail: Trail = message.read()?;
        let target = Identity::try_from(&*trail.target)?;
        let hop = message.previous_hop();
        if trail.probe {
            if hop == message.source() && trail.breadcrumbs == [context.identity().as_str()] {
                Probes::vouched(context, &target, hop);
            }
            return Ok(());
        }
        let last = trail.breadcrumbs.pop();
        let open = self.questions.get_mut(&target);
        let open = open.filter(|question| !question.answered);
        let (Some(question), true) = (open, hop == message.source()) else {
            return Ok(()); // nobody asked, or it was answered already
        };
        if last.is_none_or(|last| *context.identity() != *last) {
            return Ok(());
        }
        question.answered = true;
        if context.meet(&target) {
            context.update(&target, |record, _, _| {
                if record.state == PeerState::Left {
                    record.state = PeerState::Initial;
                }
            });
            context.reached(&target, hop, true);
        }
        if let Some(next) = trail.breadcrumbs.last() {
            let next = Identity::try_from(&**next)?;
            context.pass_back(&next, message, Payload::new(&trail)?);
        }
        Ok(())
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        context.seek(false);
    }
}
