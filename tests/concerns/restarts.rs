//! Nodes that end and come back: at another place, at the same one, with what they knew before.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use interplay::concerns::{Builder, Error, PeerState};

use crate::rig::{Watched, asks, dialing, echo, listening, pair, patient};
use crate::support::{LIMIT, deadline, eventually, ms};

/// A file of its own, removed with the test.
struct Store(PathBuf);

impl Store {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("interplay-store-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("peers.json")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_peer_that_comes_back_at_another_port_is_reached_there() {
    deadline(LIMIT, || {
        let robert = || listening("robert").timing(patient()).concern(echo());
        let (alice, first) = pair(listening("alice").timing(patient()), robert());
        let (life, at) = (alice.peers()[0].incarnation, first.at());
        drop(first);
        alice.becomes("robert", &PeerState::Left);
        let second = Watched::start(robert().join(alice.at()));
        assert_ne!(second.at(), at);
        alice.connects("robert");
        asks(&alice, "robert");
        let peer = &alice.peers()[0];
        assert_eq!(peer.address.as_deref(), second.address());
        assert!(peer.incarnation > life, "{peer:?}");
        assert_eq!(alice.peers().len(), 1);
    });
}

#[test]
fn a_peer_that_comes_back_at_the_same_port_is_reached_again() {
    deadline(LIMIT, || {
        let robert = || dialing("robert").timing(patient()).concern(echo());
        let first = robert().listen("127.0.0.1:0");
        let (alice, first) = pair(listening("alice").timing(patient()).concern(echo()), first);
        let at = first.at();
        drop(first);
        alice.becomes("robert", &PeerState::Left);
        // Told by its program, since one that has left is not chased.
        let _second = Watched::start(robert().listen(&*at));
        alice.join(&at).unwrap();
        alice.connects("robert");
        asks(&alice, "robert");
    });
}

#[test]
fn a_newer_life_takes_the_place_of_an_older_one_that_is_still_there() {
    deadline(LIMIT, || {
        let robert = || dialing("robert").timing(patient()).concern(echo());
        let alice = Watched::start(listening("alice").timing(patient()));
        let _old = Watched::start(robert().join(alice.at()));
        alice.connects("robert");
        let life = alice.peers()[0].incarnation;
        // As after a restart whose end was not noticed; they will not fight for the place.
        let _new = Watched::start(robert().join(alice.at()));
        eventually(LIMIT, || alice.peers()[0].incarnation > life);
        alice.connects("robert");
        asks(&alice, "robert");
        assert_eq!(alice.peers().len(), 1);
    });
}

#[test]
fn the_store_keeps_the_identity_and_the_peers() {
    deadline(LIMIT, || {
        let store = Store::new();
        let kept = |builder: Builder| builder.timing(patient()).store(store.file());
        let hub = Watched::start(listening("alice").timing(patient()).concern(echo()));
        let first = kept(interplay::concerns::Node::builder()).listen("127.0.0.1:0");
        let first = Watched::start(first.join(hub.at()));
        first.connects("alice");
        let name = first.identity().to_string();
        let life = hub.peers()[0].incarnation;
        drop(first);
        hub.becomes(&name, &PeerState::Left);

        let second = Watched::start(kept(interplay::concerns::Node::builder()));
        assert_eq!(*second.identity(), *name);
        second.connects("alice");
        asks(&second, "alice");
        hub.connects(&name);
        assert!(hub.peers()[0].incarnation > life);
        drop(second);

        // Nothing but the file is left in its folder.
        let files = fs::read_dir(&store.0).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(files.contains(&store.file()), "{files:?}");
        assert!(files.len() <= 2, "{files:?}"); // the identity may be beside it
    });
}

#[test]
fn a_peer_that_was_forgotten_is_not_in_the_store_any_more() {
    deadline(LIMIT, || {
        let store = Store::new();
        let node = || listening("robert").timing(patient()).store(store.file());
        let first = Watched::start(node());
        first.know("carol", "127.0.0.1:1").unwrap();
        first.know("dave-1", "127.0.0.1:1").unwrap();
        drop(first);
        let second = Watched::start(node());
        let mut names: Vec<_> = second
            .peers()
            .into_iter()
            .map(|p| p.identity.to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["carol", "dave-1"]);
        assert!(second.forget(&"carol".parse().unwrap()));
        drop(second);
        let third = Watched::start(node());
        let names: Vec<_> = third
            .peers()
            .into_iter()
            .map(|peer| peer.identity)
            .collect();
        assert_eq!(names, ["dave-1"]);
    });
}

#[test]
fn a_store_of_somebody_else_or_that_cannot_be_read_is_an_error_of_the_start() {
    deadline(LIMIT, || {
        let store = Store::new();
        drop(listening("alice").store(store.file()).start().unwrap());
        match listening("robert").store(store.file()).start() {
            Err(Error::IdentityDiffers { given, stored }) => {
                assert_eq!((given.as_str(), stored.as_str()), ("robert", "alice"));
            }
            other => panic!("{other:?}"),
        }
        for text in [
            &b"{"[..],
            b"[]",
            b"\xff\xfe",
            b"{\"identity\": 5}",
            &[0; 100],
        ] {
            fs::write(store.file(), text).unwrap();
            let end = listening("alice").store(store.file()).start();
            assert!(
                matches!(end, Err(Error::Store { .. })),
                "{end:?} of {text:?}"
            );
            assert_eq!(
                fs::read(store.file()).unwrap(),
                text,
                "it is not overwritten"
            );
        }
        let end = listening("alice")
            .store(store.0.join("not/there.json"))
            .start();
        assert!(matches!(end, Err(Error::Store { .. })), "{end:?}");
        let end = listening("alice").store(&store.0).start();
        assert!(matches!(end, Err(Error::Store { .. })), "{end:?}");
    });
}

#[test]
fn a_hub_that_comes_back_gathers_its_nodes_again() {
    deadline(LIMIT, || {
        let mut timing = patient();
        timing.reconnect = ms(100);
        let hub = Watched::start(listening("hub-1").timing(timing.clone()));
        let at = hub.at();
        let nodes: Vec<_> = (0..3)
            .map(|number| {
                let node = dialing(&format!("node-{number}")).timing(timing.clone());
                Watched::start(node.concern(echo()).join(&*at))
            })
            .collect();
        for node in &nodes {
            node.connects("hub-1");
        }
        drop(hub);
        for node in &nodes {
            node.becomes("hub-1", &PeerState::Left);
            node.join(&at).unwrap(); // which is tried until it succeeds
        }
        let hub = Watched::start(dialing("hub-1").listen(&*at).timing(timing));
        for node in &nodes {
            node.connects("hub-1");
            asks(&hub, node.identity().as_str());
        }
    });
}
