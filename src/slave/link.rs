//! The one master a slave belongs to, if any.
//!
//! A [`Link`] is one connection, from the accepted connect request to its end;
//! whoever works for it (heartbeat, report) holds it and sees its end by
//! itself, so nothing done for an old master can touch a new one. One mutex
//! guards which link there is. It is not held while the user is asked: a
//! connect reserves the place first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::http::{self, Call, Client, Exchange, Method, Retry, Settings};
use crate::lifecycle::Stop;
use crate::wire::address::Address;
use crate::wire::route::Channel;
use crate::wire::token::Token;

/// A connection to a master.
pub(super) struct Link {
    number: u64,
    pub(super) token: Token,
    pub(super) master: Address,
    /// The slave's channel, as it travels.
    channel: String,
    max_body: usize,
    /// For reports.
    client: Client,
    /// For heartbeats, which end before the last report does.
    beats: Client,
    ended: Stop,
}

impl Link {
    /// Tells this link from all others of the same slave.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Signalled when the link has ended.
    pub(super) fn ended(&self) -> &Stop {
        &self.ended
    }

    /// Ends the link and every request that is under way for it.
    pub(super) fn end(&self) {
        if self.ended.stop() {
            self.client.shutdown();
            self.end_beats();
        }
    }

    /// Ends heartbeats, and one that is under way.
    pub(super) fn end_beats(&self) {
        self.beats.shutdown();
    }

    /// Sends a report to the master; given up when the link ends.
    pub(super) fn report(
        &self,
        path: &str,
        body: &[u8],
        retry: &Retry,
    ) -> Result<Exchange, http::Error> {
        self.ask(&self.client, Method::Put, path, body, retry)
    }

    /// Sends one heartbeat.
    pub(super) fn beat(&self, limit: Duration) -> Result<Exchange, http::Error> {
        let retry = Retry {
            retries: 0,
            waiting: Duration::ZERO,
            total: limit,
        };
        self.ask(&self.beats, Method::Get, "/slave/heartbeat", b"{}", &retry)
    }

    fn ask(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: &[u8],
        retry: &Retry,
    ) -> Result<Exchange, http::Error> {
        let call = Call {
            method,
            url: &self.master.url(path),
            headers: &[("Channel", &self.channel), ("Token", self.token.as_str())],
            body,
            limit: self.max_body,
        };
        client.exchange(&call, retry, &self.ended)
    }
}

enum Place {
    Free,
    /// A connect is being decided.
    Reserved,
    Taken(Arc<Link>),
}

/// Where the link is kept.
pub(super) struct Links {
    place: Mutex<Place>,
    last: AtomicU64,
    channel: Channel,
    max_body: usize,
}

/// What becomes of a connect request.
pub(super) enum Connect<'links> {
    /// The place was free and is reserved now.
    Reserved(Reservation<'links>),
    /// There is a link already.
    Linked(Arc<Link>),
    /// Another connect is being decided.
    Undecided,
}

impl Links {
    pub(super) fn new(channel: Channel, max_body: usize) -> Self {
        Self {
            place: Mutex::new(Place::Free),
            last: AtomicU64::new(0),
            channel,
            max_body,
        }
    }

    /// The link, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Link>> {
        match &*self.place.lock() {
            Place::Taken(link) => Some(link.clone()),
            Place::Free | Place::Reserved => None,
        }
    }

    /// Reserves the place for a connect, if it is free.
    pub(super) fn connect(&self) -> Connect<'_> {
        let mut place = self.place.lock();
        match &*place {
            Place::Free => {
                *place = Place::Reserved;
                Connect::Reserved(Reservation {
                    links: self,
                    settled: false,
                })
            }
            Place::Reserved => Connect::Undecided,
            Place::Taken(link) => Connect::Linked(link.clone()),
        }
    }

    /// Ends this link, if it is the current one still; true if it was.
    pub(super) fn end(&self, link: &Link) -> bool {
        let mut place = self.place.lock();
        let current = matches!(&*place, Place::Taken(taken) if taken.number == link.number);
        let gone = if current {
            std::mem::replace(&mut *place, Place::Free)
        } else {
            Place::Free
        };
        drop(place);
        link.end();
        drop(gone);
        current
    }
}

/// The reserved place of a link. Dropped unused, it is free again.
pub(super) struct Reservation<'links> {
    links: &'links Links,
    settled: bool,
}

impl Reservation<'_> {
    /// Puts a link in the place.
    pub(super) fn commit(mut self, token: Token, master: Address) -> Arc<Link> {
        let link = Arc::new(Link {
            number: self.links.last.fetch_add(1, Ordering::Relaxed),
            token,
            master,
            channel: self.links.channel.to_string(),
            max_body: self.links.max_body,
            client: Client::new(&Settings::default()),
            beats: Client::new(&Settings::default()),
            ended: Stop::new(),
        });
        *self.links.place.lock() = Place::Taken(link.clone());
        self.settled = true;
        link
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.settled {
            *self.links.place.lock() = Place::Free;
        }
    }
}
