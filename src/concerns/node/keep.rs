//! The thread that keeps the file of peers: what the node knows goes there now and then, and at the end; what others
//! have changed there comes to the node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::shared::{Come, Shared};
use crate::concerns::store::{Book, Change, Store};
use crate::lifecycle::{Thread, spawn};

/// How often the file is looked at, and written if something has changed.
const EVERY: Duration = Duration::from_secs(10);

/// Starts the thread, which ends when the node's does.
pub(super) fn start(shared: &Arc<Shared>, mut store: Store) -> io::Result<Thread> {
    let shared = shared.clone();
    spawn(shared.thread_name("store"), move || {
        while !shared.ended.wait_timeout(EVERY) {
            sync(&shared, &mut store);
        }
        sync(&shared, &mut store);
    })
}

fn sync(shared: &Shared, store: &mut Store) {
    let snapshot = shared.peers.read().clone();
    let peers = snapshot.peers.iter();
    let known: Book = peers
        .map(|peer| (peer.identity.clone(), peer.address.clone()))
        .collect();
    let changes = store.sync(&known).unwrap_or_else(|error| {
        log::warn!("node {}: {}", shared.fixed.name, report(&error));
        Vec::new()
    });
    for change in changes {
        let answer = None;
        // A node that has ended does not care any more.
        let _ = shared.line.push(match change {
            Change::Know { peer, address } => Come::Know {
                peer,
                address,
                answer,
            },
            Change::Forget { peer } => Come::Forget { peer, answer },
        });
    }
}

fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
