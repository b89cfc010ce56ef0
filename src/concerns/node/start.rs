//! From settings to a running node: what is wrong with them is found first, then the address is taken, then the
//! concerns are started on the node's thread.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::accept::{Bell, Door};
use super::dial::PATIENCE;
use super::room::Room;
use super::run::Run;
use super::shared::{Fixed, Shared};
use super::{Builder, Handle, Node};
use crate::concerns::address;
use crate::concerns::ask_around::AskAround;
use crate::concerns::concern::Concern;
use crate::concerns::connector::Connector;
use crate::concerns::core::{Core, Settings};
use crate::concerns::error::Error;
use crate::concerns::exchange::Exchange;
use crate::concerns::heart_beat::HeartBeat;
use crate::concerns::hello::{Hello, Secret};
use crate::concerns::identity::Identity;
use crate::concerns::store::Store;
use crate::concerns::timing::Timing;
use crate::lifecycle::{Threads, spawn};
use crate::protocol::Waker;

/// The longest payload there may be.
const LONGEST_PAYLOAD: usize = 64 << 20;
/// A node that does something more often does nothing else.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest time in a timing, so that all that is counted from it can be counted.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
const MOST_DOUBT: u32 = 1_000;

pub(super) fn start(mut builder: Builder) -> Result<Node, Error> {
    check(&builder)?;
    let given = builder.identity.take().map(Identity::try_from);
    let given = given.transpose()?;
    let default_route = builder.default_route.take().map(Identity::try_from);
    let default_route = default_route.transpose()?;
    let mut known = Vec::new();
    for (peer, address) in std::mem::take(&mut builder.know) {
        address::check(&address)?;
        known.push((Identity::try_from(peer)?, address));
    }
    if known.len() > builder.max_peers {
        return Err(Error::TooManyPeers);
    }
    let join = std::mem::take(&mut builder.join);
    join.iter()
        .try_for_each(|address| address::check(address))?;

    let door = builder.listen.as_deref().map(Door::open).transpose()?;
    let advertise = builder.advertise.as_deref();
    let told = |door: &Door| address::advertised(door.local(), advertise);
    let address = door.as_ref().map(told).transpose()?;
    if let Some(door) = &door
        && builder.secret.is_none()
        && !door.local().ip().is_loopback()
    {
        log::warn!(
            "node {}: listens at {} without a secret: anybody can join",
            builder.name,
            door.local()
        );
    }

    let store = builder.store.as_deref();
    let store = store.map(|path| Store::open(path, given.as_ref()));
    let store = store.transpose()?;
    let (identity, incarnation) = match &store {
        Some(store) => (store.identity().clone(), store.incarnation()),
        None => (given.unwrap_or_else(Identity::random), incarnation()),
    };
    let settings = Settings {
        identity: identity.clone(),
        address: address.clone(),
        timing: builder.timing.clone(),
        default_route,
        max_peers: builder.max_peers,
        max_strangers: builder.max_strangers,
        max_payload: builder.max_payload,
        max_queued: builder.max_queued,
        max_queued_all: builder.max_queued_all,
        max_queued_bytes: builder.max_queued_bytes,
        max_held: builder.max_held,
        max_hops: builder.max_hops,
    };
    let fixed = Fixed {
        hello: Hello {
            identity,
            incarnation,
            address,
        },
        secret: builder.secret.take().map(|secret| Secret::new(&secret)),
        name: std::mem::take(&mut builder.name),
        max_payload: builder.max_payload,
        max_hops: builder.max_hops,
        max_links: builder.max_links,
        patience: builder.timing.hello.min(PATIENCE),
    };
    let concerns = concerns(&mut builder);
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| Error::Thread(error.into()))?;
    let room = Room::new(builder.max_queued, builder.max_queued_all);
    let bell = Bell::new().map_err(Error::Thread)?;
    let waker = Waker::new().map_err(Error::Thread)?;
    let shared = Arc::new(Shared::new(fixed, room, bell, u64::from_ne_bytes(seed)));

    let (tell, told) = crossbeam_channel::bounded(1);
    let thread = spawn(shared.thread_name("run"), {
        let shared = shared.clone();
        move || {
            let mut run = Run::new(shared, Core::new(Instant::now(), settings), waker);
            let started = run.start(concerns, store, door);
            if started.is_ok() {
                let now = Instant::now();
                for (peer, address) in known {
                    run.know(now, peer, Some(address));
                }
                join.into_iter().for_each(|address| run.join(now, address));
            }
            let runs = started.is_ok();
            if tell.send(started).is_ok() && runs {
                run.run();
            }
        }
    });
    let thread = thread.map_err(Error::Thread)?;
    // Without a word the thread has ended by a panic, which was logged.
    let started = told.recv().unwrap_or(Err(Error::Stopped));
    started?; // else the thread is joined here
    log::info!(
        "node {}: {} is up{}{}",
        shared.fixed.name,
        shared.fixed.hello.identity,
        if shared.fixed.hello.address.is_some() {
            " at "
        } else {
            ""
        },
        shared.fixed.hello.address.as_deref().unwrap_or_default(),
    );
    Ok(Node {
        handle: Handle { shared },
        run: Threads::from(thread),
    })
}

/// Higher than that of any former life, as long as the clock is not put back.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(1, |since| since.as_millis());
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// The built-in concerns, then those of the program.
fn concerns(builder: &mut Builder) -> Vec<Box<dyn Concern>> {
    let mut concerns: Vec<Box<dyn Concern>> = Vec::new();
    if builder.connector {
        concerns.push(Box::new(Connector::default()));
    }
    if builder.heart_beat {
        concerns.push(Box::new(HeartBeat::default()));
    }
    if builder.ask_around {
        concerns.push(Box::new(AskAround::default()));
    }
    if builder.exchange {
        concerns.push(Box::new(Exchange::default()));
    }
    concerns.append(&mut builder.concerns);
    concerns
}

/// Says what is wrong with the settings.
fn check(builder: &Builder) -> Result<(), Error> {
    let error = |name, problem| Err(Error::Setting { name, problem });
    for (name, value) in [
        ("max_peers", builder.max_peers),
        ("max_links", builder.max_links),
        ("max_payload", builder.max_payload),
        ("max_queued", builder.max_queued),
        ("max_queued_all", builder.max_queued_all),
    ] {
        if value == 0 {
            return error(name, "it is zero");
        }
    }
    if builder.max_payload > LONGEST_PAYLOAD {
        return error("max_payload", "it is more than 64 MiB");
    }
    if builder.max_hops == 0 {
        return error("max_hops", "it is zero");
    }
    if builder.name.is_empty() {
        return error("name", "it is empty");
    }
    if builder.advertise.is_some() && builder.listen.is_none() {
        return error("advertise", "the node does not listen");
    }
    check_timing(&builder.timing)
}

fn check_timing(timing: &Timing) -> Result<(), Error> {
    let error = |problem| {
        let name = "timing";
        Err(Error::Setting { name, problem })
    };
    let Timing {
        heart_beat,
        hello,
        reconnect,
        ask,
        ..
    } = *timing;
    let pauses = [heart_beat, hello, reconnect, ask];
    let probe = timing.probe.into_iter();
    if pauses
        .into_iter()
        .chain(probe)
        .any(|pause| pause < SHORTEST)
    {
        return error("heart_beat, probe, hello, reconnect and ask are at least 1 ms");
    }
    let limits = [
        timing.slow_down,
        timing.longest_gap,
        timing.unreachable,
        timing.no_connection,
    ];
    if pauses.into_iter().chain(limits).any(|time| time > LONGEST) {
        return error("nothing is longer than a year");
    }
    if timing.longest_gap < timing.heart_beat {
        return error("longest_gap is at least heart_beat");
    }
    if timing.unreachable <= timing.heart_beat {
        return error("unreachable is longer than heart_beat");
    }
    if timing.no_connection < timing.unreachable {
        return error("no_connection is at least unreachable");
    }
    if timing
        .probe
        .is_some_and(|probe| probe >= timing.unreachable)
    {
        return error("probe is shorter than unreachable");
    }
    if !(1..=MOST_DOUBT).contains(&timing.doubt) {
        return error("doubt is at least 1, and at most 1,000");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_make_no_sense_are_refused() {
        for timing in [Timing::lan(), Timing::wan(), Timing::original()] {
            assert!(check_timing(&timing).is_ok(), "{timing:?}");
        }
        let changes: [fn(&mut Timing); 13] = [
            |it| it.heart_beat = Duration::ZERO,
            |it| it.hello = Duration::from_nanos(1),
            |it| it.reconnect = Duration::ZERO,
            |it| it.ask = Duration::ZERO,
            |it| it.probe = Some(Duration::ZERO),
            |it| it.probe = Some(it.unreachable),
            |it| it.longest_gap = it.heart_beat / 2,
            |it| it.unreachable = it.heart_beat,
            |it| it.no_connection = it.unreachable / 2,
            |it| it.no_connection = Duration::MAX,
            |it| it.slow_down = Duration::MAX,
            |it| it.doubt = 0,
            |it| it.doubt = u32::MAX,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut timing = Timing::lan();
            change(&mut timing);
            assert!(check_timing(&timing).is_err(), "{at}: {timing:?}");
        }
    }
}
