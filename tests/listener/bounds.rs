//! How much the queue takes, and who waits for room.

use super::*;

#[test]
fn the_queue_takes_as_many_messages_as_its_capacity_and_no_more() {
    // lis-29
    within(|| {
        for (capacity, expected) in [(None, CAPACITY), (Some(1), 1), (Some(5), 5)] {
            let mut builder = Listener::<Value>::builder();
            if let Some(capacity) = capacity {
                builder = builder.capacity(capacity);
            }
            let (gate, handler) = Gate::new(|_| ());
            let listener = builder.default_handler(handler).start().unwrap();
            let sender = listener.sender();
            sender.post(plain("a", "running")).unwrap();
            gate.wait_entered();
            for _ in 0..expected {
                sender.try_post(plain("a", "queued")).unwrap();
            }
            let full = sender
                .try_post(message("a", "more", json!([1])))
                .unwrap_err();
            assert_eq!(full.reason, Reason::Full);
            assert_eq!(full.message, message("a", "more", json!([1])));
            let limit = Duration::from_millis(20);
            let before = Instant::now();
            let full = sender.post_timeout(plain("a", "late"), limit).unwrap_err();
            assert!(before.elapsed() >= limit);
            assert_eq!(
                (full.message.cmd.as_str(), full.reason),
                ("late", Reason::Full)
            );
            assert_eq!(listener.stats().queued, expected);
            gate.let_go(expected + 1);
            assert_eq!(
                listener.shutdown(LONG).unwrap().handled as usize,
                expected + 1
            );
        }
    });
}

#[test]
fn a_post_waits_for_room_and_goes_on_with_it() {
    within(|| {
        let (gate, handler) = Gate::new(|_| ());
        let listener = Listener::builder()
            .capacity(1)
            .default_handler(handler)
            .start()
            .unwrap();
        let sender = listener.sender();
        sender.post(plain("a", "running")).unwrap();
        gate.wait_entered();
        sender.post(plain("a", "queued")).unwrap();
        let (report, reported) = unbounded();
        let posters = [None, Some(LONG), Some(Duration::MAX)].map(|limit| {
            let (sender, report) = (listener.sender(), report.clone());
            thread("poster", move || {
                let posted = match limit {
                    None => sender.post(plain("a", "waits")),
                    Some(limit) => sender.post_timeout(plain("a", "waits"), limit),
                };
                report.send(posted).unwrap();
            })
        });
        let early = reported.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "posted without room: {early:?}");
        gate.let_go(5);
        for _ in &posters {
            assert!(reported.recv_timeout(LONG).unwrap().is_ok());
        }
        assert_eq!(listener.shutdown(LONG).unwrap().handled, 5);
    });
}

#[test]
fn a_stop_ends_the_wait_of_posts_and_gives_their_messages_back() {
    within(|| {
        let (gate, handler) = Gate::new(|_| ());
        let listener = Listener::builder()
            .capacity(1)
            .default_handler(handler)
            .start()
            .unwrap();
        let sender = listener.sender();
        sender.post(plain("a", "running")).unwrap();
        gate.wait_entered();
        sender.post(plain("a", "queued")).unwrap();
        let (report, reported) = unbounded();
        let _posters = [None, Some(LONG)].map(|limit| {
            let (sender, report) = (listener.sender(), report.clone());
            thread("poster", move || {
                let posted = match limit {
                    None => sender.post(plain("a", "waits")),
                    Some(limit) => sender.post_timeout(plain("a", "waits"), limit),
                };
                report.send(posted).unwrap();
            })
        });
        let early = reported.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "did not wait: {early:?}");
        listener.stopper().stop();
        for _ in 0..2 {
            let closed = reported.recv_timeout(LONG).unwrap().unwrap_err();
            assert_eq!(closed.reason, Reason::Closed);
            assert_eq!(closed.message, plain("a", "waits"));
        }
        gate.let_go(2);
        assert_eq!(listener.shutdown(LONG).unwrap().handled, 2);
    });
}

#[test]
fn a_builder_refuses_what_cannot_be() {
    let start = |name: &str, capacity| {
        let builder = Listener::<Value>::builder().name(name).capacity(capacity);
        builder.start().map(drop)
    };
    assert!(start("123456789012345", 1).is_ok());
    assert!(matches!(start("x", 0), Err(Error::NoCapacity)));
    for name in ["", "1234567890123456", "ßßßßßßßß", "a\0b"] {
        let error = start(name, 1).unwrap_err();
        assert!(
            matches!(&error, Error::BadName { given } if given == name),
            "{error:?}"
        );
    }
}
