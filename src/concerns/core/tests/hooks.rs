//! Concerns that fail, panic, come and go.

use super::*;

/// Panics wherever it can.
struct Bomb;

impl Concern for Bomb {
    fn command(&self) -> Command {
        "bomb".try_into().unwrap()
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        context.wake_at(context.now());
        Ok(())
    }

    fn tick(&mut self, _: &mut Context<'_>) -> Result<(), BoxError> {
        panic!("tick")
    }

    fn request(&mut self, _: &mut Context<'_>, _: &Message) -> Result<Option<Answer>, BoxError> {
        panic!("request")
    }

    fn reply(&mut self, _: &mut Context<'_>, _: &Message) -> Result<(), BoxError> {
        panic!("reply")
    }

    fn sent(&mut self, _: &mut Context<'_>, _: &Sent) -> Result<(), BoxError> {
        panic!("sent")
    }

    fn failed(&mut self, _: &mut Context<'_>, _: &Outgoing, _: &SendError) -> Retry {
        panic!("failed")
    }

    fn dropped(&mut self, _: &mut Context<'_>, _: &Outgoing) {
        panic!("dropped")
    }

    fn stop(&mut self, _: &mut Context<'_>) {
        panic!("stop")
    }
}

#[test]
fn a_panic_in_any_hook_is_told_and_survived() {
    let mut rig = Rig::new(
        settings(),
        vec![Box::new(Bomb), Box::new(Probe::new("echo").0)],
    );
    let link = rig.link_up("A", 1, None);
    rig.frame(link, envelope(EnvelopeKind::Request, "bomb"));
    rig.frame(link, envelope(EnvelopeKind::Reply, "bomb"));
    let bomb = |to: &str| Outgoing::request(&identity(to), "bomb", &json!({})).unwrap();
    rig.send(1, bomb("A"));
    rig.send(3, bomb("Z"));
    let mut out = rig.rounds();
    rig.send(5, bomb("A"));
    out.extend(rig.round());
    rig.give(Input::Written {
        link,
        count: 1,
        expired: vec![0],
    });
    rig.frame(link, envelope(EnvelopeKind::Request, "echo"));
    out.extend(rig.rounds());
    assert_eq!(written(&out, "echo").len(), 1);
    rig.give(Input::Stop);
    out.extend(rig.take());
    let failed = events(&out).into_iter().filter_map(|event| match event {
        Event::HookFailed { hook, error, .. } => {
            assert_eq!(*error, format!("panicked: {hook}"));
            Some(*hook)
        }
        _ => None,
    });
    let failed: Vec<&str> = failed.collect();
    assert_eq!(
        failed,
        [
            "failed", "request", "reply", "tick", "sent", "dropped", "stop"
        ]
    );
    assert_eq!(settled(&out), 3);
}

#[test]
fn when_one_concern_does_not_start_those_before_it_are_stopped_in_reverse() {
    struct Never;

    impl Concern for Never {
        fn command(&self) -> Command {
            "never".try_into().unwrap()
        }

        fn start(&mut self, _: &mut Context<'_>) -> Result<(), BoxError> {
            Err("it does not want to".into())
        }
    }

    let told = Told::default();
    let probe = |command| {
        let (probe, _) = Probe::new(command);
        Box::new(Named(Probe {
            told: told.clone(),
            ..probe
        }))
    };
    let mut core = Core::new(Instant::now(), settings());
    let concerns: Vec<Box<dyn Concern>> =
        vec![probe("one"), probe("two"), Box::new(Never), probe("three")];
    let error = core.start(Instant::now(), concerns).unwrap_err();
    assert_eq!(error.to_string(), "the concern never did not start");
    assert_eq!(*told.lock(), ["stop two", "stop one"]);
}

/// Says who it is when it stops.
struct Named(Probe);

impl Concern for Named {
    fn command(&self) -> Command {
        self.0.command()
    }

    fn stop(&mut self, _: &mut Context<'_>) {
        self.0.note(format!("stop {}", self.0.command));
    }
}

#[test]
fn a_hook_can_add_concerns_and_take_itself_out() {
    struct Seed(Told);

    impl Concern for Seed {
        fn command(&self) -> Command {
            "seed".try_into().unwrap()
        }

        fn request(
            &mut self,
            context: &mut Context<'_>,
            _: &Message,
        ) -> Result<Option<Answer>, BoxError> {
            let tree = |told: &Told| {
                let (probe, _) = Probe::new("tree");
                Box::new(Probe {
                    told: told.clone(),
                    ..probe
                })
            };
            context.add(tree(&self.0))?;
            assert!(context.add(tree(&self.0)).is_err(), "the command is taken");
            let me = self.command();
            assert!(context.remove(&me) && !context.remove(&me));
            Ok(None)
        }

        fn stop(&mut self, _: &mut Context<'_>) {
            self.0.lock().push("seed stops".into());
        }
    }

    let told = Told::default();
    let mut rig = Rig::new(settings(), vec![Box::new(Seed(told.clone()))]);
    let link = rig.link_up("A", 1, None);
    for command in ["seed", "tree", "seed"] {
        rig.frame(link, envelope(EnvelopeKind::Request, command));
    }
    let out = rig.rounds();
    assert_eq!(
        *told.lock(),
        [
            "seed stops",
            "request of node-A over node-A",
            "sent to node-A over node-A"
        ]
    );
    assert!(matches!(events(&out)[..], [Event::UnknownCommand { .. }]));
}

#[test]
fn a_concern_is_woken_once_at_the_earliest_time_it_asked_for() {
    struct Sleeper(Told);

    impl Concern for Sleeper {
        fn command(&self) -> Command {
            "zzz".try_into().unwrap()
        }

        fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
            for seconds in [5, 3, 4] {
                context.wake_at(context.now() + secs(seconds));
            }
            Ok(())
        }

        fn tick(&mut self, _: &mut Context<'_>) -> Result<(), BoxError> {
            self.0.lock().push("tick".into());
            Ok(())
        }
    }

    let told = Told::default();
    let mut rig = Rig::new(settings(), vec![Box::new(Sleeper(told.clone()))]);
    assert_eq!(rig.core.due(), Some(rig.start + secs(3)));
    rig.wait(secs(3) - Duration::from_millis(1));
    assert!(told.lock().is_empty());
    rig.wait(secs(10));
    assert_eq!(*told.lock(), ["tick"]);
    assert_eq!(rig.core.due(), None);
}

#[test]
fn what_a_concern_may_not_send_is_given_back() {
    struct Sender(Told);

    impl Concern for Sender {
        fn command(&self) -> Command {
            "echo".try_into().unwrap()
        }

        fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
            let other = Outgoing::request("node-A", "other", &json!({}))?;
            let long = Outgoing::request("node-A", "echo", &json!({"text": "x".repeat(1_000)}))?;
            for message in [other, long] {
                let error = context.send(message).unwrap_err();
                self.0.lock().push(format!("{:?}", error.reason()));
            }
            assert_ne!(context.send(message("A"))?, context.send(message("A"))?);
            Ok(())
        }
    }

    let told = Told::default();
    let mut rig = Rig::new(settings(), vec![Box::new(Sender(told.clone()))]);
    assert_eq!(*told.lock(), ["NoConcern", "TooLong { bytes: 1011 }"]);
    assert!(
        rig.rounds().is_empty(),
        "a concern's messages are its own affair"
    );
}

/// Knows peers by addresses, and by what is none.
struct Knows(Told);

impl Concern for Knows {
    fn command(&self) -> Command {
        "knows".try_into().unwrap()
    }

    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let addresses = [None, Some("10.0.0.9:9"), Some("nowhere"), Some(":9")];
        for (number, address) in addresses.into_iter().enumerate() {
            let known = context.know(&identity(&format!("P{number}")), address);
            self.0.lock().push(match known {
                Ok(()) => "known".to_owned(),
                Err(error) => error.to_string(),
            });
        }
        Ok(())
    }
}

#[test]
fn a_concern_knows_peers_by_addresses_alone() {
    let told = Told::default();
    let rig = Rig::new(settings(), vec![Box::new(Knows(told.clone()))]);
    let told = told.lock();
    assert_eq!(told[..2], ["known", "known"]);
    assert!(
        told[2].contains("nowhere") && told[3].contains(":9"),
        "{told:?}"
    );
    assert_eq!(rig.core.peers(rig.now).len(), 2);
}
