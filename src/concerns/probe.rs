//! Second opinions on peers that fall silent: others are asked to look after them.
//!
//! Part of [`AskAround`](super::ask_around), on the same command: a question with `"probe": true` and the asking node
//! as only breadcrumb. Whoever is connected with the target sends it a heart beat and answers when it
//! is heard. Then it is the way that is broken, and not the peer: it is reached over the helper from then on.

use std::time::Instant;

use super::context::Context;
use super::error::BoxError;
use super::heart_beat::HeartBeat;
use super::identity::Identity;
use super::message::{Message, Outgoing};
use super::peer::PeerState;
use super::record::{Probe, Record};
use super::timing::after;

/// For how many peers this node looks after others at the same time.
const PROMISES: usize = 64;

/// The probes of a node: those it has asked for are in the records, these are for others.
#[derive(Debug, Default)]
pub(super) struct Probes {
    promises: Vec<Promise>,
}

/// Somebody wants to be told if a peer is heard.
#[derive(Debug)]
struct Promise {
    target: Identity,
    question: Message,
    since: Instant,
    until: Instant,
}

impl Probes {
    /// The peers that are silent for so long that others are to be asked, and by whom. Wakes the concern for the next.
    pub(super) fn silent(context: &mut Context<'_>) -> Vec<(Identity, Vec<Identity>)> {
        let (now, timing) = (context.now(), context.timing());
        let (Some(limit), count) = (timing.probe, timing.helpers) else {
            return Vec::new();
        };
        if count == 0 || !context.has_concern(HeartBeat::COMMAND) {
            return Vec::new();
        }
        let mut next: Option<Instant> = None;
        let mut silent = Vec::new();
        for record in context.records() {
            let Some(last) = record.last_heard else {
                continue;
            };
            let asked = record.probe.as_ref().is_some_and(|probe| probe.at > last);
            if record.state != PeerState::Connected || asked {
                continue;
            }
            let due = after(last, limit);
            if due <= now {
                silent.push(record.identity.clone());
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        if let Some(next) = next {
            context.wake_at(next);
        }
        let probes = silent.into_iter().map(|target| {
            // Those who were heard last are the most likely to hear.
            let able = |record: &&Record| {
                record.state == PeerState::Connected
                    && record.identity != target
                    && context.is_linked(&record.identity)
            };
            let mut helpers: Vec<&Record> = context.records().filter(able).collect();
            helpers.sort_by_key(|record| std::cmp::Reverse(record.last_heard));
            let helpers = helpers.into_iter().take(count);
            let helpers: Vec<Identity> = helpers.map(|record| record.identity.clone()).collect();
            (target, helpers)
        });
        let probes: Vec<_> = probes.collect();
        for (target, helpers) in &probes {
            context.update(target, |record, now, _| {
                let helpers = helpers.clone();
                record.probe = Some(Probe { at: now, helpers });
            });
        }
        probes
    }

    /// A helper has heard the target. Only those who were asked in this silence are believed.
    pub(super) fn vouched(context: &mut Context<'_>, target: &Identity, helper: &Identity) {
        let vouched = context.update(target, |record, _, _| {
            let Some(probe) = &mut record.probe else {
                return false;
            };
            let asked = probe.helpers.contains(helper);
            let silent = record.last_heard.is_none_or(|last| last < probe.at);
            let suspect = matches!(record.state, PeerState::Connected | PeerState::Unreachable);
            if asked && silent && suspect {
                probe.helpers.clear();
            }
            asked && silent && suspect
        });
        if vouched == Some(true) {
            log::debug!("{target} is silent, but {helper} hears it");
            context.update(target, |record, now, timing| {
                record.reached(now, timing, helper);
            });
        }
    }

    /// Looks after a peer for somebody. True if it can be answered at once.
    pub(super) fn look_after(
        &mut self,
        context: &mut Context<'_>,
        target: &Identity,
        question: &Message,
    ) -> Result<bool, BoxError> {
        let (now, timing) = (context.now(), context.timing().clone());
        let Some(record) = context.record(target) else {
            return Ok(false);
        };
        if record.state != PeerState::Connected {
            return Ok(false);
        }
        if record
            .last_heard
            .is_some_and(|last| after(last, timing.heart_beat) > now)
        {
            return Ok(true);
        }
        let same = |promise: &Promise| {
            promise.target == *target && promise.question.source() == question.source()
        };
        if self.promises.len() >= PROMISES || self.promises.iter().any(same) {
            return Ok(false);
        }
        let asked = |promise: &Promise| promise.target == *target;
        if !self.promises.iter().any(asked) && context.has_concern(HeartBeat::COMMAND) {
            HeartBeat::beat(context, target)?;
        }
        context.update(target, |record, _, _| record.awaited = true);
        let until = after(now, timing.unreachable);
        self.promises.push(Promise {
            target: target.clone(),
            question: question.clone(),
            since: now,
            until,
        });
        context.wake_at(until);
        Ok(false)
    }

    /// The questions that can be answered now; those that cannot be any more are given up.
    pub(super) fn heard(&mut self, context: &mut Context<'_>) -> Vec<Message> {
        let now = context.now();
        let heard = |promise: &Promise| {
            let record = context.record(&promise.target);
            record.is_some_and(|record| record.last_heard.is_some_and(|at| at > promise.since))
        };
        let answered = self.promises.extract_if(.., |promise| heard(promise));
        let answered: Vec<Message> = answered.map(|promise| promise.question).collect();
        self.promises.retain(|promise| promise.until > now);
        if let Some(next) = self.promises.iter().map(|promise| promise.until).min() {
            context.wake_at(next);
        }
        answered
    }

    /// The question about a silent peer, for one helper.
    pub(super) fn question(
        context: &Context<'_>,
        helper: &Identity,
        question: Outgoing,
    ) -> Outgoing {
        let lifetime = context.timing().unreachable;
        question.lifetime(lifetime).over(helper)
    }
}
