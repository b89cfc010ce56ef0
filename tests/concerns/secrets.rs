//! Nodes with a secret: who does not know it is not let in, and nobody is harmed.

use interplay::concerns::Event;

use crate::rig::{Watched, asks, echo, listening, patient};
use crate::support::{LIMIT, deadline};

fn refused(node: &Watched) -> String {
    node.hears(|event| match event {
        Event::LinkRefused { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

#[test]
fn only_those_who_know_the_secret_are_let_in() {
    deadline(LIMIT, || {
        let hub = listening("hub-1").timing(patient()).secret("open sesame");
        let hub = Watched::start(hub.concern(echo()));
        let secrets = [
            ("nothing", None),
            ("wrong", Some("open barley")),
            ("shorter", Some("open")),
            ("longer", Some("open sesame, please")),
        ];
        for (name, secret) in secrets {
            let mut stranger = listening(name).timing(patient());
            if let Some(secret) = secret {
                stranger = stranger.secret(secret);
            }
            let stranger = Watched::start(stranger.join(hub.at()));
            for node in [&stranger, &hub] {
                let reason = refused(node);
                assert!(!reason.contains("sesame"), "{reason}");
            }
            assert!(
                stranger
                    .state("hub-1")
                    .is_none_or(|state| !state.is_reached())
            );
        }
        let friend = listening("friend").timing(patient()).secret("open sesame");
        let friend = Watched::start(friend.join(hub.at()));
        friend.connects("hub-1");
        asks(&friend, "hub-1");
        let names: Vec<_> = hub.peers().into_iter().map(|peer| peer.identity).collect();
        assert_eq!(names, ["friend"], "nobody else has come to be known");
    });
}

#[test]
fn a_node_with_a_secret_does_not_talk_to_one_without() {
    deadline(LIMIT, || {
        let open = Watched::start(listening("open").timing(patient()));
        let careful = listening("careful").timing(patient()).secret("open sesame");
        let careful = Watched::start(careful.join(open.at()));
        refused(&careful);
        assert!(careful.peers().iter().all(|peer| !peer.state.is_reached()));
        assert!(open.peers().iter().all(|peer| !peer.state.is_reached()));
    });
}

#[test]
fn a_secret_is_never_shown() {
    let builder = listening("alice").secret("open sesame");
    assert!(!format!("{builder:?}").contains("sesame"));
    let node = builder.start().unwrap();
    assert!(!format!("{node:?} {:?}", node.handle()).contains("sesame"));
}
