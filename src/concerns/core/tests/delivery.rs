//! The ways of messages, and what becomes of them.

use super::*;

/// A core without built-in concerns, with a probe.
fn bare() -> (Rig, Told) {
    let (probe, told) = Probe::new("echo");
    (Rig::new(settings(), vec![Box::new(probe)]), told)
}

#[test]
fn a_request_that_is_waited_for_gets_its_reply_once_and_only_from_whom_was_asked() {
    let mut rig = Rig::usual();
    let (near, other) = (rig.neighbour("A"), rig.neighbour("B"));
    let id = ASKED | NUMBER;
    rig.send(id, message("A"));
    let out = rig.rounds();
    assert_eq!(written(&out, "echo").len(), 1);
    assert_eq!(settled(&out), 1);
    let reply = Envelope {
        id,
        ..envelope(EnvelopeKind::Reply, "echo")
    };
    let forged = Envelope {
        source: Some(identity("Z")),
        ..reply.clone()
    };
    rig.frame(other, reply.clone());
    rig.frame(near, forged);
    rig.frame(
        near,
        Envelope {
            command: "other".try_into().unwrap(),
            ..reply.clone()
        },
    );
    assert!(rig.rounds().is_empty());
    assert_eq!(rig.core.counts().late_replies, 3);
    rig.frame(near, reply.clone());
    rig.frame(near, reply);
    let out = rig.rounds();
    let replies = out
        .iter()
        .filter(|it| matches!(it, Output::Reply { message } if message.id() == id));
    assert_eq!((replies.count(), out.len()), (1, 1));
    assert_eq!(rig.core.counts().late_replies, 4);
}

#[test]
fn who_waits_for_a_reply_is_told_at_once_that_there_will_be_none() {
    for (kind, text) in [
        (
            EnvelopeKind::NoSuchCommand,
            "the peer has no concern with the command echo",
        ),
        (EnvelopeKind::Refused, "the peer's concern gave no answer"),
        (
            EnvelopeKind::Undeliverable,
            "the request did not get there: nobody knows a way to the peer",
        ),
    ] {
        let mut rig = Rig::usual();
        let link = rig.neighbour("A");
        let id = ASKED | NUMBER;
        rig.send(id, message("A"));
        rig.rounds();
        rig.frame(
            link,
            Envelope {
                id,
                ..envelope(kind, "echo")
            },
        );
        assert_eq!(no_replies(&rig.rounds()), [(id, text.to_owned())]);
    }
}

#[test]
fn a_reply_that_does_not_come_is_given_up_when_the_lifetime_is_over() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    let id = ASKED | NUMBER;
    rig.send(id, message("A").lifetime(secs(3)));
    let moment = Duration::from_millis(1);
    for _ in 0..2 {
        let beat = envelope(EnvelopeKind::Reply, "hb");
        rig.frame(link, beat);
        assert!(no_replies(&rig.wait(Duration::from_millis(1_499))).is_empty());
    }
    let out = rig.wait(2 * moment);
    assert_eq!(no_replies(&out), [(id, "no reply within 3s".to_owned())]);
}

#[test]
fn requests_to_a_peer_that_leaves_or_begins_a_new_life_are_ended() {
    let ends: [fn(&mut Rig, LinkId); 3] = [
        |rig, link| rig.frame(link, envelope(EnvelopeKind::Bye, "bye")),
        |rig, _| {
            rig.link_up("A", 2, None);
        },
        |rig, _| {
            rig.give(Input::Forget {
                peer: identity("A"),
            })
        },
    ];
    for end in ends {
        let mut rig = Rig::usual();
        let link = rig.neighbour("A");
        let id = ASKED | NUMBER;
        rig.send(id, message("A"));
        rig.rounds();
        end(&mut rig, link);
        let out = rig.take();
        assert_eq!(
            no_replies(&out),
            [(id, "node-A was lost before it replied".to_owned())]
        );
        let late = Envelope {
            id,
            ..envelope(EnvelopeKind::Reply, "echo")
        };
        rig.frame(link, late);
        let out = rig.rounds();
        assert!(!out.iter().any(|it| matches!(it, Output::Reply { .. })));
    }
}

#[test]
fn a_concern_that_is_missing_or_fails_tells_who_waits_and_nobody_else() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    for (id, command, kind) in [
        (5, "nope", None),
        (ASKED | 5, "nope", Some(EnvelopeKind::NoSuchCommand)),
        (6, "hello", None),
        (ASKED | 6, "hello", Some(EnvelopeKind::Refused)),
    ] {
        rig.frame(
            link,
            Envelope {
                id,
                ..envelope(EnvelopeKind::Request, command)
            },
        );
        let out = rig.rounds();
        let writes = writes(&out);
        assert_eq!(writes.first().map(|(_, it)| it.kind), kind);
        assert!(writes.iter().all(|(_, it)| it.id == id));
        assert_eq!(events(&out).len(), 1);
    }
}

#[test]
fn what_is_passed_on_takes_a_hop_and_keeps_all_else() {
    let mut rig = Rig::usual();
    let (from, to) = (rig.neighbour("A"), rig.neighbour("B"));
    let sent = Envelope {
        source: Some(identity("S")),
        to: Some(identity("B")),
        hops: 3,
        ..envelope(EnvelopeKind::Request, "anything")
    };
    rig.frame(from, sent.clone());
    let out = rig.rounds();
    let passed = Envelope {
        hops: 2,
        to: None,
        ..sent.clone()
    };
    assert_eq!(writes(&out), [(to, &passed)]);
    rig.frame(
        from,
        Envelope {
            hops: 200,
            ..sent.clone()
        },
    );
    assert_eq!(
        writes(&rig.rounds())[0].1.hops,
        7,
        "as many as here at most"
    );

    rig.frame(
        from,
        Envelope {
            hops: 0,
            ..sent.clone()
        },
    );
    let out = rig.rounds();
    assert!(writes(&out).is_empty());
    let reason = Reason::TooManyHops;
    assert!(matches!(events(&out)[..], [Event::Undeliverable { reason: it, .. }] if *it == reason));

    rig.frame(
        from,
        Envelope {
            hops: 0,
            id: ASKED | 9,
            ..sent
        },
    );
    let out = rig.rounds();
    let (link, back) = writes(&out)[0];
    assert_eq!((link, back.kind), (from, EnvelopeKind::Undeliverable));
    assert_eq!((back.id, &back.to), (ASKED | 9, &Some(identity("S"))));
}

#[test]
fn nothing_is_handed_back_to_where_it_came_from() {
    let mut rig = Rig::new(
        Settings {
            default_route: Some(identity("A")),
            ..settings()
        },
        vec![Box::new(Connector::default())],
    );
    let from = rig.neighbour("A");
    let to = Some(identity("Z"));
    rig.frame(
        from,
        Envelope {
            to: to.clone(),
            ..envelope(EnvelopeKind::Request, "x")
        },
    );
    assert!(writes(&rig.rounds()).is_empty());
    let other = rig.neighbour("B");
    rig.frame(
        other,
        Envelope {
            to,
            ..envelope(EnvelopeKind::Request, "x")
        },
    );
    let out = rig.rounds();
    assert_eq!(
        writes(&out)[0].0,
        from,
        "what comes from elsewhere takes the default route"
    );
}

#[test]
fn a_message_is_held_until_there_is_a_way_or_its_lifetime_is_over() {
    let mut rig = Rig::usual();
    rig.send(NUMBER, message("Z").lifetime(secs(20)));
    rig.send(NUMBER + 2, message("Y").lifetime(secs(2)));
    let out = rig.wait(secs(2) - Duration::from_millis(1));
    assert_eq!((settled(&out), events(&out).len()), (0, 0));
    let out = rig.wait(Duration::from_millis(2));
    assert_eq!(settled(&out), 1);
    assert!(matches!(
        events(&out)[..],
        [Event::Undeliverable {
            id: 3,
            reason: Reason::Expired,
            ..
        }]
    ));
    let link = rig.link_up("Z", 1, None);
    let out = rig.rounds();
    let written = written(&out, "echo");
    assert_eq!((written.len(), written[0].0), (1, link));
    assert_eq!(settled(&out), 1);
}

#[test]
fn without_ask_around_a_message_without_a_way_fails_at_once() {
    let (mut rig, told) = bare();
    rig.send(NUMBER, message("Z"));
    let out = rig.take();
    assert_eq!(settled(&out), 1);
    assert!(matches!(
        events(&out)[..],
        [Event::Undeliverable {
            reason: Reason::NoPath,
            ..
        }]
    ));
    assert_eq!(*told.lock(), ["failed: NoPath"]);
    rig.send(ASKED | NUMBER, message("Z"));
    let out = rig.take();
    let text = "the request did not get there: there is no link to the peer and no hop on the way";
    assert_eq!(no_replies(&out), [(ASKED | NUMBER, text.to_owned())]);
    assert_eq!((settled(&out), events(&out).len()), (1, 0));
}

#[test]
fn a_link_takes_256_envelopes_and_more_when_it_has_written_some() {
    let (mut rig, told) = bare();
    let (full, free) = (rig.link_up("A", 1, None), rig.link_up("B", 1, None));
    for id in 0..300 {
        rig.send(id, message("A").priority(Priority::Fast));
    }
    rig.send(300, message("B"));
    let out = rig.round();
    let to = |link| writes(&out).iter().filter(|(it, _)| *it == link).count();
    assert_eq!((to(full), to(free)), (256, 1));
    assert!(
        rig.core.due().is_none_or(|due| due > rig.now),
        "nothing can go"
    );
    rig.give(Input::Written {
        link: full,
        count: 10,
        expired: vec![3, 9],
    });
    let out = rig.round();
    assert_eq!((writes(&out).len(), settled(&out)), (10, 10));
    let told = told.lock();
    assert_eq!(
        told[2..5],
        [
            "sent to node-A over node-A",
            "dropped for node-A",
            "sent to node-A over node-A"
        ]
    );
}

#[test]
fn what_waits_for_a_neighbour_is_bounded_and_heart_beats_still_have_room() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    let mut sent = 0;
    let out = loop {
        rig.send(sent, message("A").lifetime(secs(3)));
        sent += 1;
        rig.round();
        let out = rig.take();
        rig.send(sent, message("A").lifetime(secs(3)));
        sent += 1;
        let refused = rig.take();
        if !refused.is_empty() {
            break refused;
        }
        drop(out);
    };
    assert!(matches!(
        events(&out)[..],
        [Event::Undeliverable {
            reason: Reason::Full,
            ..
        }]
    ));
    assert!((1_024 + 256..=1_024 + 260).contains(&sent), "{sent}");
    // A link that writes nothing gets nothing; but then the heart beat goes first.
    rig.now += Duration::from_millis(1_200);
    rig.round();
    rig.written(link, 1);
    let out = rig.round();
    assert_eq!(written(&out, "hb").len(), 1);
}

#[test]
fn what_a_link_did_not_write_has_failed_and_what_waited_for_it_goes_another_way() {
    let (probe, told) = Probe::new("echo");
    let default_route = Some(identity("B"));
    let mut rig = Rig::new(
        Settings {
            default_route,
            ..settings()
        },
        vec![Box::new(probe)],
    );
    let (link, other) = (rig.link_up("A", 1, None), rig.link_up("B", 1, None));
    rig.send(1, message("A"));
    rig.send(3, message("A"));
    assert_eq!(writes(&rig.round()).len(), 1);
    rig.down(link);
    let out = rig.round();
    assert_eq!(writes(&out)[0].0, other);
    assert!(matches!(
        events(&out)[..],
        [Event::Undeliverable {
            id: 1,
            reason: Reason::LinkLost,
            ..
        }]
    ));
    assert_eq!(settled(&out), 1);
    assert_eq!(*told.lock(), ["failed: LinkLost"]);
}

#[test]
fn a_concern_can_have_its_message_tried_again_until_its_lifetime_is_over() {
    let (probe, told) = Probe::new("echo");
    let probe = Probe {
        retry: Retry::Requeue,
        ..probe
    };
    let mut rig = Rig::new(settings(), vec![Box::new(probe)]);
    rig.send(1, message("A").lifetime(Duration::from_millis(450)));
    let out = rig.wait(secs(2));
    assert_eq!(settled(&out), 1);
    let told = told.lock();
    assert_eq!(told.iter().filter(|it| *it == "failed: NoPath").count(), 5);
    assert_eq!(told[5..], ["dropped for node-A"]);
}

#[test]
fn a_payload_that_is_too_long_is_refused() {
    let mut rig = Rig::usual();
    rig.neighbour("A");
    let long = Outgoing::request(&identity("A"), "echo", &json!({"text": "x".repeat(1_000)}));
    rig.send(1, long.unwrap());
    let out = rig.take();
    assert!(matches!(
        events(&out)[..],
        [Event::Undeliverable {
            reason: Reason::TooLong { bytes: 1_011 },
            ..
        }]
    ));
    assert_eq!(settled(&out), 1);
}

#[test]
fn at_the_end_what_has_a_way_goes_and_all_else_has_failed() {
    let mut rig = Rig::usual();
    let link = rig.neighbour("A");
    for id in [1, 3, 5] {
        rig.send(id, message("A"));
    }
    rig.send(7, message("Z"));
    rig.send(ASKED | 9, message("Z"));
    rig.give(Input::Stop);
    let out = rig.take();
    let commands: Vec<&str> = writes(&out)
        .iter()
        .map(|(_, it)| it.command.as_str())
        .collect();
    assert_eq!(commands, ["echo", "echo", "echo", "bye"]);
    assert_eq!(closed(&out), [link]);
    assert_eq!(
        no_replies(&out),
        [(ASKED | 9, "the node has stopped".to_owned())]
    );
    assert!(matches!(
        events(&out)[..],
        [Event::Undeliverable {
            id: 7,
            reason: Reason::Stopped,
            ..
        }]
    ));
    assert_eq!(settled(&out), 2);
    rig.written(link, 4);
    assert_eq!(settled(&rig.take()), 3);
    rig.down(link);
    rig.send(11, message("A"));
    let out = rig.take();
    assert_eq!((settled(&out), rig.core.due()), (1, None));
}

#[test]
fn times_that_never_come_are_no_trouble() {
    let mut timing = Timing::lan();
    for span in [
        &mut timing.heart_beat,
        &mut timing.slow_down,
        &mut timing.longest_gap,
        &mut timing.unreachable,
        &mut timing.no_connection,
        &mut timing.hello,
        &mut timing.reconnect,
        &mut timing.ask,
    ] {
        *span = Duration::MAX;
    }
    timing.probe = Some(Duration::MAX);
    let timed = Settings {
        timing,
        ..settings()
    };
    let mut concerns = built_ins();
    concerns.push(Box::new(Probe::new("echo").0));
    let mut rig = Rig::new(timed, concerns);
    let link = rig.neighbour("A");
    rig.know("B", Some("10.0.0.3:3"));
    rig.give(Input::Join {
        address: "10.0.0.4:4".into(),
    });
    for (id, to) in [(NUMBER | ASKED, "A"), (3, "Z")] {
        rig.send(id, message(to).lifetime(Duration::MAX));
    }
    let out = rig.wait(secs(9));
    for dial in dials(&out) {
        let reason = "refused".into();
        rig.give(Input::DialFailed { dial, reason });
    }
    rig.frame(
        link,
        Envelope {
            to: Some(identity("Y")),
            lifetime: Duration::MAX,
            ..envelope(EnvelopeKind::Request, "echo")
        },
    );
    rig.wait(secs(9));
    rig.down(link);
    rig.wait(secs(3_600));
    assert!(rig.core.due().is_some_and(|due| due > rig.now));
}

#[test]
fn what_is_queued_and_tried_again_has_bounds_in_bytes() {
    let (mut probe, told) = Probe::new("echo");
    probe.retry = Retry::Requeue;
    let bounded = Settings {
        max_queued_bytes: 40_000,
        ..settings()
    };
    let mut rig = Rig::new(bounded, vec![Box::new(probe)]);
    let text = "x".repeat(900);
    let long = |to| Outgoing::request(&identity(to), "echo", &json!({ "x": text })).unwrap();
    // There is no way to Z, so all of it is to be tried again.
    for id in 0..100 {
        rig.send(2 * id + NUMBER, long("Z"));
    }
    let load = rig.core.state.retries.load();
    assert!(load.bytes <= 40_000 && load.count > 30, "{load:?}");
    let ended = settled(&rig.take());
    assert_eq!(ended + load.count, 100);
    assert_eq!(told.lock().len(), 100);
    // A quarter of that waits for one neighbour.
    rig.link_up("A", 1, None);
    told.lock().clear();
    for id in 100..200 {
        rig.send(2 * id + NUMBER, long("A"));
    }
    let waiting = rig.core.state.queue.len();
    assert!((5..=10).contains(&waiting), "{waiting}");
    assert_eq!(told.lock().len(), 100 - waiting);
    assert_eq!(told.lock()[0], "failed: Full");
}
