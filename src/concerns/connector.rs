//! The concern that gets to know peers and connects with them: command `hello`.
//!
//! A hello says where its sender listens. Whoever is said hello to answers it, and says hello in
//! turn if it was not about to: so two strangers exchange four messages.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::address;
use super::concern::{Concern, Retry};
use super::context::Context;
use super::error::{BoxError, Reason, SendError};
use super::identity::{Command, Identity};
use super::message::{Answer, Message, Outgoing, Priority};
use super::peer::PeerState;
use super::record::Record;

/// Connects with the peers that are known by address, and again after a pause when that fails.
///
/// After `ConnectorConcern` of p2p0mq.
#[derive(Debug, Default)]
pub(crate) struct Connector(());

/// What a hello carries; both are null if its sender does not listen.
#[derive(Serialize, Deserialize)]
struct Listens {
    #[serde(deserialize_with = "Option::deserialize")]
    host: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    port: Option<u16>,
}

impl Listens {
    fn of(address: Option<&str>) -> Self {
        let parts = address.and_then(|address| address.rsplit_once(':'));
        let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        Self {
            host: parts.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()),
            port: parts.map(|(_, port)| port),
        }
    }

    fn address(&self) -> Option<String> {
        let (host, port) = (self.host.as_ref()?, self.port?);
        let host_and_port = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        (port > 0 && address::check(&host_and_port).is_ok()).then_some(host_and_port)
    }
}

impl Connector {
    pub(crate) const COMMAND: &'static str = "hello";

    /// Begins an attempt to reach a peer, over a neighbour if it was heard over that.
    fn attempt(
        context: &mut Context<'_>,
        peer: &Identity,
        over: &Identity,
    ) -> Result<(), BoxError> {
        if !context.is_linked(over) && !context.dial(peer) {
            return Ok(());
        }
        context.update(peer, |record, now, timing| record.attempt(now, timing));
        let listens = Listens::of(context.address());
        let hello = Outgoing::request(peer, Self::COMMAND, &listens)?
            .priority(Priority::Fast)
            .lifetime(context.timing().hello)
            .over(over);
        context.post(hello)?;
        Ok(())
    }

    /// Dials the addresses that are to be joined.
    fn join(context: &mut Context<'_>) {
        let now = context.now();
        let joins = context.joins().iter();
        let due =
            joins.filter(|(_, join)| join.dial.is_none() && join.next.is_none_or(|at| at <= now));
        let due: Vec<String> = due.map(|(address, _)| address.clone()).collect();
        for address in due {
            let dial = context.connect(address.clone());
            if let Some(join) = context.joins().get_mut(&address) {
                join.dial = Some(dial);
            }
        }
        let waiting = context.joins().values();
        let next = waiting
            .filter(|join| join.dial.is_none())
            .filter_map(|join| join.next)
            .min();
        if let Some(next) = next {
            context.wake_at(next);
        }
    }
}

impl Concern for Connector {
    fn command(&self) -> Command {
        Command::built_in(Self::COMMAND)
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        context.watch();
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let now = context.now();
        Self::join(context);
        let (mut due, mut failed, mut next) = (Vec::new(), Vec::new(), None);
        let mut later = |at: Instant| next = Some(next.map_or(at, |first| at.min(first)));
        for record in context.records() {
            if let Some(at) = record.give_up_at() {
                if at <= now {
                    failed.push(record.identity.clone());
                } else {
                    later(at);
                }
            }
            let Some(at) = record.attempt_at(now) else {
                continue;
            };
            let linked = context.is_linked(&record.identity);
            let silent = record.state == PeerState::Unreachable && linked;
            if silent
                || (!linked && record.address.is_none())
                || context.is_dialing(&record.identity)
            {
                continue; // heart beats are enough; or it cannot be tried; or it is
            }
            if at <= now {
                due.push(record.identity.clone());
            } else {
                later(at);
            }
        }
        if let Some(next) = next {
            context.wake_at(next);
        }
        for peer in failed {
            context.attempt_failed(&peer);
        }
        for peer in due {
            Self::attempt(context, &peer, &peer)?;
        }
        Ok(())
    }

    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let listens: Listens = message.read()?;
        let (peer, hop) = (message.source(), message.previous_hop());
        context.meet(peer);
        locate(context, message, &listens);
        if context.record(peer).is_some_and(Record::is_idle) {
            context.update(peer, |record, now, _| record.last_heard = Some(now));
            Self::attempt(context, peer, hop)?;
        } else {
            context.reached(peer, hop, false);
        }
        let answer = Answer::new(&Listens::of(context.address()))?;
        Ok(Some(answer.priority(Priority::Fast)))
    }

    fn reply(&mut self, context: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        let listens: Listens = message.read()?;
        locate(context, message, &listens);
        context.answered(message.source(), message.previous_hop());
        Ok(())
    }

    fn failed(
        &mut self,
        context: &mut Context<'_>,
        message: &Outgoing,
        error: &SendError,
    ) -> Retry {
        let peer = message.to();
        if *error.reason() == Reason::NoPath
            && !context.is_linked(peer)
            && !context.is_dialing(peer)
        {
            context.update(peer, |record, now, timing| {
                if record.state == PeerState::Connecting {
                    record.attempt_failed(now, timing);
                }
            });
        }
        Retry::Drop
    }
}

/// Notes where a peer listens, if the peer itself says so.
fn locate(context: &mut Context<'_>, message: &Message, listens: &Listens) {
    if message.source() == message.previous_hop()
        && let Some(address) = listens.address()
    {
        context.locate(message.source(), &address);
    }
}
