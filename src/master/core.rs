//! What the parts of a master share, and the requests it sends.
//!
//! Held by the master's threads, its connections and its tasks. It owns no
//! thread but the results listener, so a connection that outlives its master
//! keeps nothing running.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::Value;

use super::builder::Settings;
use super::error::Error;
use super::hooks::Hooks;
use super::job::Job;
use super::results::Results;
use super::slaves::{Id, Peer, Slaves};
use crate::http::{self, Call, Client, Method, Retry};
use crate::lifecycle::Stop;
use crate::task::{Loss, Outcome};
use crate::wire::body::DisconnectRequest;
use crate::wire::token::Token;
use crate::wire::{Refusal, Reply, SlaveCode};

/// What the parts of a master share.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) hooks: Arc<dyn Hooks>,
    pub(super) client: Client,
    pub(super) slaves: Slaves,
    pub(super) results: Results,
    pub(super) self_token: Token,
    pub(super) local_addr: SocketAddr,
    /// The end has begun: nothing new is accepted from this side; the wire still works.
    pub(super) closing: Stop,
    /// The slaves have been told: every request is answered with "shutting down".
    pub(super) closed: Stop,
    pub(super) last_id: AtomicU64,
}

/// A slave's answer to a request.
pub(super) struct Asked {
    pub(super) answer: Result<Reply, Refusal<SlaveCode>>,
    /// Whether an earlier attempt of the same request may have arrived.
    pub(super) repeated: bool,
}

/// Why a request to a slave came to nothing.
pub(super) enum Failure {
    Refused {
        refusal: Refusal<SlaveCode>,
        /// Whether an earlier attempt may have arrived, and have been accepted.
        repeated: bool,
    },
    Transport(http::Error),
}

impl Failure {
    pub(super) fn of(self, peer: &Peer) -> Error {
        let (name, address) = (peer.name.clone(), peer.address.to_string());
        match self {
            Self::Refused { refusal, .. } => Error::Refused {
                name,
                address,
                refusal: Box::new(refusal),
            },
            Self::Transport(http::Error::Stopped) => Error::Stopped,
            Self::Transport(source) => Error::Transport {
                name,
                address,
                source,
            },
        }
    }

    pub(super) fn may_have_arrived(&self) -> bool {
        match self {
            Self::Refused { repeated, .. } => *repeated,
            Self::Transport(error) => error.may_have_arrived(),
        }
    }
}

impl From<Refusal<SlaveCode>> for Failure {
    fn from(refusal: Refusal<SlaveCode>) -> Self {
        Self::Refused {
            refusal,
            repeated: false,
        }
    }
}

impl From<http::Error> for Failure {
    fn from(error: http::Error) -> Self {
        Self::Transport(error)
    }
}

impl Core {
    pub(super) fn check_running(&self) -> Result<(), Error> {
        if self.closing.is_stopped() {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }

    pub(super) fn next_id(&self) -> Id {
        Id(self.last_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a request to a slave.
    pub(super) fn ask(
        &self,
        peer: &Peer,
        method: Method,
        path: &str,
        request: &[u8],
        retry: &Retry,
    ) -> Result<Asked, http::Error> {
        let channel = self.settings.channel.to_string();
        let call = Call {
            method,
            url: &peer.address.url(path),
            headers: &[("Channel", &channel), ("Token", peer.token.as_str())],
            body: request,
            limit: self.settings.max_body,
        };
        let exchange = self.client.exchange(&call, retry, &self.closed)?;
        let answer = Reply::read(exchange.status, &exchange.body)?.into_result();
        Ok(Asked {
            answer,
            repeated: exchange.repeated,
        })
    }

    /// Sends the disconnect request to a slave that is leaving, and sees to its entry and its tasks.
    pub(super) fn send_disconnect(
        &self,
        peer: &Peer,
        data: &Value,
        retry: &Retry,
        loss: &Loss,
    ) -> Result<Reply, Failure> {
        let asked = self.ask(
            peer,
            Method::Delete,
            "/disconnect",
            &DisconnectRequest::write(data),
            retry,
        );
        let result = match asked {
            Ok(Asked {
                answer: Ok(reply), ..
            }) => Ok(reply),
            Ok(Asked {
                answer: Err(refusal),
                ..
            }) => match refusal.code {
                SlaveCode::SlaveDisconnectionRefused => {
                    self.slaves.stay(peer.id, Instant::now());
                    return Err(refusal.into());
                }
                // It does not know us: just what was wanted.
                SlaveCode::MasterTokenInvalid | SlaveCode::SlaveNotConnected => {
                    Ok(refusal.into_reply())
                }
                _ => Err(refusal.into()),
            },
            Err(error) => {
                let open = self.slaves.give_up(peer.id, Instant::now());
                self.lose(peer, open, loss);
                return Err(Failure::Transport(error));
            }
        };
        let open = self.slaves.released(peer.id, Instant::now());
        self.lose(peer, open, loss);
        result
    }

    /// The slave answered that it does not know us.
    pub(super) fn forgotten(&self, peer: &Arc<Peer>) {
        if let Some(open) = self.slaves.forgotten(peer.id) {
            self.report_loss(peer, open, Loss::Forgotten);
        }
    }

    /// Ends what was open at a lost slave and tells the hook.
    pub(super) fn report_loss(&self, peer: &Arc<Peer>, open: Vec<Arc<Job>>, loss: Loss) {
        log::warn!(
            "slave {}: lost with {} open tasks: {loss}",
            peer.name,
            open.len()
        );
        self.results.lost(peer, open, &loss);
    }

    /// Ends tasks that no report can end any more.
    pub(super) fn lose(&self, peer: &Peer, open: Vec<Arc<Job>>, loss: &Loss) {
        for job in open {
            self.results
                .ended(&peer.source, job, Outcome::Lost(loss.clone()));
        }
    }

    /// Notes a task as open at its slave.
    pub(super) fn open(&self, peer: &Peer, job: &Arc<Job>) -> Result<(), Error> {
        self.results.reserve()?;
        self.slaves
            .open(peer, job)
            .inspect_err(|_| self.results.release())
    }

    /// Takes back that a task is open, unless something else has ended it.
    pub(super) fn unopen(&self, peer: &Peer, job: &Job) {
        if self.slaves.claim(peer.id, job.id()).is_some() {
            self.results.release();
        }
    }
}
