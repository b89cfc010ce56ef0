//! The concern that notices who is silent: command `hb`.
//!
//! Whoever is reached, or was until a while ago, is asked for a sign of life when there was none for
//! some time. The limits of silence are looked at exactly when they are over.

use serde_json::json;

use super::concern::Concern;
use super::context::Context;
use super::error::BoxError;
use super::identity::{Command, Identity};
use super::message::{Answer, Message, Outgoing, Priority};
use super::peer::PeerState;
use super::record::Record;
use super::timing::{Timing, after};

/// Watches the peers that are reached.
///
/// After `HeartBeatConcern` of p2p0mq.
#[derive(Debug, Default)]
pub(crate) struct HeartBeat(());

impl HeartBeat {
    pub(crate) const COMMAND: &'static str = "hb";

    /// Sends one heart beat, on the way that is to be watched.
    pub(super) fn beat(context: &mut Context<'_>, peer: &Identity) -> Result<(), BoxError> {
        let Some(record) = context.record(peer) else {
            return Ok(());
        };
        let over = match &record.state {
            PeerState::Routed { via } => Some(via.clone()),
            PeerState::Unreachable if !context.is_linked(peer) => record.last_via.clone(),
            _ => Some(peer.clone()),
        };
        let mut number = None;
        let routed = matches!(record.state, PeerState::Routed { .. });
        if routed && context.is_linked(peer) {
            // Perhaps its own link carries again what it did not for a while.
            let beat = Outgoing::request(peer, Self::COMMAND, &json!({}))?
                .priority(Priority::Fast)
                .lifetime(context.timing().unreachable)
                .over(peer);
            context.post(beat)?;
        }
        if let Some(over) = over {
            let beat = Outgoing::request(peer, Self::COMMAND, &json!({}))?
                .priority(Priority::Fast)
                .lifetime(context.timing().unreachable)
                .over(&over);
            number = Some(context.post(beat)?);
        }
        let linked = context.is_linked(peer);
        context.update(peer, |record, now, timing| {
            if routed && linked {
                record.link_silent.get_or_insert(now);
            } else {
                record.link_silent = None;
            }
            record.beat = number.map(|number| (number, now));
            record.schedule(now, timing);
        });
        Ok(())
    }
}

/// Whom the limits of silence are over for, and whether that is to be believed.
impl HeartBeat {
    fn silent(context: &Context<'_>, patience: &Timing) -> Vec<Identity> {
        let now = context.now();
        let over = |record: &&Record| record.limit_at(patience).is_some_and(|at| at <= now);
        let silent = context.records().filter(over);
        silent.map(|record| record.identity.clone()).collect()
    }

    /// Whether somebody would be suspected now, but nothing has come from anybody for a while; or from none of those who
    /// were asked to look after the suspect.
    fn doubts(context: &Context<'_>) -> bool {
        let (now, patience) = (context.now(), context.patience());
        let heard_since = |record: &Record, then| record.last_heard.is_some_and(|at| at > then);
        let suspects = Self::silent(context, &patience);
        let suspects = suspects.iter().filter_map(|peer| context.record(peer));
        let mut suspects = suspects.peekable();
        let watched = || context.records().filter(|record| record.state.is_reached());
        let limit = context.timing().unreachable / 2;
        let quiet = |record: &Record| {
            record
                .last_heard
                .is_none_or(|last| after(last, limit) < now)
        };
        let all_quiet = suspects.peek().is_some() && watched().count() > 1 && watched().all(quiet);
        suspects.any(|suspect| {
            let deaf = suspect.probe.as_ref().is_some_and(|probe| {
                let helpers = probe.helpers.iter().filter_map(|peer| context.record(peer));
                let mut helpers = helpers.peekable();
                helpers.peek().is_some() && !helpers.any(|helper| heard_since(helper, probe.at))
            });
            suspect.state.is_reached() && (deaf || all_quiet)
        })
    }
}

impl Concern for HeartBeat {
    fn command(&self) -> Command {
        Command::built_in(Self::COMMAND)
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        context.watch();
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let now = context.now();
        if Self::doubts(context) {
            let timing = context.timing().clone();
            context.doubt().raise(&timing);
        }
        let patience = context.patience();
        for peer in Self::silent(context, &patience) {
            context.judge(&peer);
        }
        let ended = |record: &&Record| record.link_ends_at(&patience).is_some_and(|at| at <= now);
        let ended = context.records().filter(ended);
        let ended: Vec<Identity> = ended.map(|record| record.identity.clone()).collect();
        for peer in ended {
            context.relink(&peer);
        }
        // Those that are due a little later go with those that are due now: so many peers do not wake the node
        // more often than a few.
        let soon = after(now, context.timing().heart_beat / 16);
        let due = |limit| move |record: &&Record| record.beat_at(now).is_some_and(|at| at <= limit);
        if context.records().any(|record| due(now)(&record)) {
            let due = context.records().filter(due(soon));
            let due: Vec<Identity> = due.map(|record| record.identity.clone()).collect();
            for peer in due {
                Self::beat(context, &peer)?;
            }
        }
        let next = context.records().flat_map(|record| {
            let ends = record.link_ends_at(&patience);
            [record.beat_at(now), record.limit_at(&patience), ends]
        });
        if let Some(next) = next.flatten().min() {
            context.wake_at(next);
        }
        Ok(())
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let (peer, hop) = (message.source(), message.previous_hop());
        if context.record(peer).is_none() && (peer == hop || !context.meet(peer)) {
            return Ok(None);
        }
        context.reached(peer, hop, false);
        context.doubt().lower();
        let answer = Answer::new(&json!({}))?;
        Ok(Some(answer.priority(Priority::Fast)))
    }

    fn reply(&mut self, context: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        context.answered(message.source(), message.previous_hop());
        context.doubt().lower();
        context.update(message.source(), |record, now, _| {
            if let Some((number, sent)) = record.beat
                && number == message.id()
            {
                record.round_trip = Some(now.saturating_duration_since(sent));
                record.beat = None;
            }
        });
        Ok(())
    }
}
