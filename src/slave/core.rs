//! What the parts of a slave share.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::builder::Settings;
use super::executor::Executor;
use super::link::{Link, Links};
use super::worker::Worker;
use crate::lifecycle::Stop;
use crate::wire::token::Token;

/// What the parts of a slave share. It owns no thread.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) worker: Box<dyn Worker>,
    pub(super) links: Links,
    pub(super) executor: Executor,
    /// Where the heartbeat thread learns of a new link.
    pub(super) heartbeat: Sender<Arc<Link>>,
    pub(super) self_token: Token,
    /// The end has begun: every request is answered with "shutting down".
    pub(super) closing: Stop,
    /// What was running has ended or was given up: the task thread ends.
    pub(super) ended: Stop,
}

impl Core {
    /// Begins the end; true for the first call.
    pub(super) fn shutdown(&self) -> bool {
        let first = self.closing.stop();
        if let Some(link) = self.links.current() {
            link.end_beats();
        }
        first
    }
}
