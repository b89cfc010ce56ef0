//! The heartbeat thread: tells the master that this slave lives, and gives up a master that is gone.
//!
//! It works for one link at a time, from its beginning to its end. Beside that
//! it checks the server from outside, linked or not. When the slave is shut
//! down it sees to the orderly end of what is still open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::core::Core;
use super::error::Lost;
use super::link::Link;
use crate::http::{CHECK_SPAN, Server};
use crate::lifecycle::{Ticker, catch};
use crate::wire::Reply;

/// How long one heartbeat waits for its answer.
const BEAT_LIMIT: Duration = Duration::from_secs(5);

/// How long the last word to a master may take, within the grace.
pub(super) const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// The heartbeat thread's life, from start to the end of the server.
pub(super) fn run(core: &Core, links: &Receiver<Arc<Link>>, server: &Server) {
    let mut check = Ticker::new(CHECK_SPAN, Instant::now());
    loop {
        let link = select! {
            recv(links) -> link => match link { Ok(link) => link, Err(_) => break },
            recv(core.closing.channel()) -> _ => break,
            default(until(check.next())) => {
                check_if_due(&mut check, server);
                continue;
            }
        };
        let Some(lost) = keep_alive(core, &link, &mut check, server) else {
            continue;
        };
        if core.links.end(&link) {
            log::warn!("master {}: lost: {lost}", link.master);
            let master = link.master.to_string();
            if let Err(panic) = catch(|| core.worker.lost_connection(&master, &lost)) {
                log::error!("hook lost_connection: {panic}");
            }
        }
    }
    end(core, server);
}

fn until(due: Instant) -> Duration {
    due.saturating_duration_since(Instant::now())
}

fn check_if_due(check: &mut Ticker, server: &Server) {
    let now = Instant::now();
    if check.next() <= now {
        check.advance(now);
        server.check();
    }
}

/// Beats until the link or the slave ends (none), or the master is lost.
fn keep_alive(core: &Core, link: &Link, check: &mut Ticker, server: &Server) -> Option<Lost> {
    let span = core.settings.heartbeat_span;
    // The first beat comes within the first span, and not while the master still registers us.
    let mut ticker = Ticker::starting_at(Instant::now() + span / 2, span);
    let mut due = ticker.next();
    let mut missed = 0;
    loop {
        select! {
            recv(link.ended().channel()) -> _ => return None,
            recv(core.closing.channel()) -> _ => return None,
            default(until(due.min(check.next()))) => {}
        }
        if Instant::now() < due {
            check_if_due(check, server);
            continue;
        }
        // A beat that is due comes first: a server that has died takes its time to be found so.
        let Err(lost) = beat(link) else {
            missed = 0;
            due = ticker.advance(Instant::now());
            continue;
        };
        if link.ended().is_stopped() || core.closing.is_stopped() {
            return None;
        }
        log::debug!("master {}: beat missed: {lost}", link.master);
        missed += 1;
        // A refusal too may be a passing one: a Python master refuses until it has registered us.
        if missed > core.settings.retry.retries {
            return Some(lost);
        }
        due = Instant::now() + core.settings.retry.waiting;
    }
}

fn beat(link: &Link) -> Result<(), Lost> {
    let unreachable = |source| Lost::Unreachable { source };
    let exchange = link.beat(BEAT_LIMIT).map_err(unreachable)?;
    if exchange.status < 400 {
        return Ok(());
    }
    let reply = Reply::read(exchange.status, &exchange.body).map_err(unreachable)?;
    reply
        .into_result()
        .map(drop)
        .map_err(|refusal| Lost::Refused { refusal })
}

/// Lets the running task end and be reported within the grace, then ends everything.
fn end(core: &Core, server: &Server) {
    if !core
        .executor
        .wait_idle(Instant::now() + core.settings.grace)
    {
        core.executor
            .give_up(GOODBYE_LIMIT.min(core.settings.grace));
    }
    core.ended.stop();
    if let Some(link) = core.links.current() {
        core.links.end(&link);
    }
    server.stop();
}
