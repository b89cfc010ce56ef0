//! The concern that tells peers of each other: command `peers`.
//!
//! A node asks a neighbour whom it is connected with, and knows from then on those it did not; those that it reaches
//! over others it tries to reach directly. Off
//! unless wanted: a node that tells all it knows, and believes all it is told, is at home among friends only.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::address;
use super::concern::Concern;
use super::context::Context;
use super::error::BoxError;
use super::identity::{Command, Identity};
use super::message::{Answer, Message, Outgoing};
use super::peer::PeerState;
use super::record::Record;
use super::timing::after;

/// The most peers that an answer names, and that are taken from one.
const PEERS: usize = 32;
/// The pause between two questions when there are no new neighbours.
const PAUSE: Duration = Duration::from_secs(30);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks each new neighbour for its peers, and one of all of them now and then.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// The neighbours that were asked once, and when last.
    asked: BTreeMap<Identity, Instant>,
    /// Whose answers are awaited, and since when.
    open: BTreeMap<Identity, Instant>,
    next: Option<Instant>,
    /// The peers that are reached over others, and were dialed because of that.
    dialed: BTreeMap<Identity, Instant>,
    /// Where the next answer begins, so that all are named in time.
    from: Option<Identity>,
}

/// What an answer carries.
#[derive(Serialize, Deserialize)]
struct Answered {
    peers: Vec<Known>,
}

#[derive(Serialize, Deserialize)]
struct Known {
    identity: String,
    address: String,
}

impl Exchange {
    pub(crate) const COMMAND: &'static str = "peers";

    fn ask(&mut self, context: &mut Context<'_>, peer: Identity) -> Result<(), BoxError> {
        let now = context.now();
        let question = Outgoing::request(&peer, Self::COMMAND, &json!({}))?;
        context.post(question.lifetime(PATIENCE).over(&peer))?;
        self.asked.insert(peer.clone(), now);
        self.open.insert(peer, now);
        Ok(())
    }

    /// Tries to reach those directly that are reached over others; if nobody has said where they listen, the one
    /// on the way is asked.
    fn straighten(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let (now, timing) = (context.now(), context.timing().clone());
        let routed = |record: &Record| match &record.state {
            PeerState::Routed { via } if !context.is_linked(&record.identity) => {
                let asks = record.address.is_none().then(|| via.clone());
                Some((record.identity.clone(), asks))
            }
            _ => None,
        };
        let routed: BTreeMap<_, _> = context.records().filter_map(routed).collect();
        self.dialed.retain(|peer, _| routed.contains_key(peer));
        for (peer, asks) in routed {
            let rests = |since: &BTreeMap<Identity, Instant>, whom: &Identity, pause| {
                since.get(whom).is_some_and(|at| after(*at, pause) > now)
            };
            match asks {
                Some(via) if !rests(&self.asked, &via, timing.ask) => self.ask(context, via)?,
                None if !rests(&self.dialed, &peer, timing.reconnect) => {
                    context.dial(&peer);
                    self.dialed.insert(peer, now);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Concern for Exchange {
    fn command(&self) -> Command {
        Command::built_in(Self::COMMAND)
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        context.watch();
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let now = context.now();
        let connected = |peer: &Identity| {
            let record = context.record(peer);
            record.is_some_and(|record| record.state == PeerState::Connected)
        };
        // One that comes back has met others meanwhile.
        self.asked.retain(|peer, _| connected(peer));
        self.open.retain(|_, since| *since + PATIENCE > now);
        let fresh = context.records().filter(|record| {
            record.state == PeerState::Connected && !self.asked.contains_key(&record.identity)
        });
        let fresh: Vec<Identity> = fresh.map(|record| record.identity.clone()).collect();
        if !fresh.is_empty() {
            self.next = Some(now + PAUSE);
            for peer in fresh {
                self.ask(context, peer)?;
            }
        }
        if self.next.is_some_and(|next| next <= now) {
            self.next = (!self.asked.is_empty()).then_some(now + PAUSE);
            let longest_ago = self.asked.iter().min_by_key(|(_, at)| **at);
            if let Some(peer) = longest_ago.map(|(peer, _)| peer.clone()) {
                self.ask(context, peer)?;
            }
        }
        self.straighten(context)?;
        if let Some(next) = self.next {
            context.wake_at(next);
        }
        Ok(())
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let told = |record: &&Record| {
            record.state == PeerState::Connected && record.identity != *message.source()
        };
        let from = self.from.take();
        let later = |record: &&Record| from.as_ref().is_none_or(|from| record.identity >= *from);
        let known = |record: &Record| {
            let identity = record.identity.to_string();
            let address = record.address.clone()?;
            Some(Known { identity, address })
        };
        let records = || context.records().filter(told);
        let (first, second) = (
            records().filter(later),
            records().filter(|record| !later(record)),
        );
        let mut all = first.chain(second).filter_map(known);
        let peers: Vec<Known> = all.by_ref().take(PEERS).collect();
        let next = all.next();
        self.from = next.and_then(|next| Identity::try_from(next.identity).ok());
        Ok(Some(Answer::new(&Answered { peers })?))
    }

    fn reply(&mut self, context: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        if message.source() != message.previous_hop()
            || self.open.remove(message.source()).is_none()
        {
            return Ok(()); // nobody asked
        }
        let answered: Answered = message.read()?;
        for Known { identity, address } in answered.peers.into_iter().take(PEERS) {
            let peer = Identity::try_from(identity)?;
            let known = context.record(&peer);
            // What this node knows itself it knows better, unless that is of no use.
            let wanted = known.is_none_or(|record| {
                record.address.is_none() || record.state == PeerState::NoConnection
            });
            if wanted && address::check(&address).is_ok() && context.meet(&peer) {
                context.locate(&peer, &address);
            }
        }
        Ok(())
    }
}
