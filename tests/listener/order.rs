//! In which order, and on which thread.

use super::*;

#[test]
fn messages_of_one_thread_keep_their_order_also_among_others() {
    // lis-09, lis-10
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder()
            .capacity(7)
            .default_handler(recorder.handler("d"))
            .start()
            .unwrap();
        let posters: Vec<_> = ["a", "b", "c"]
            .map(|from| {
                let sender = listener.sender();
                thread(from, move || {
                    for n in 0..1000 {
                        sender.post(message(from, "c", json!(n))).unwrap();
                    }
                })
            })
            .into();
        for poster in posters {
            poster.join().unwrap();
        }
        assert_eq!(listener.shutdown(LONG).unwrap().handled, 3000);
        let mut next = std::collections::HashMap::new();
        for (_, from, _, n) in recorder.deliveries.try_iter() {
            let expected = next.entry(from).or_insert(0);
            assert_eq!(n, json!(*expected));
            *expected += 1;
        }
        assert!(next.values().eq(&[1000; 3]));
    });
}

#[test]
fn all_handlers_run_on_one_thread_with_the_name_that_was_given() {
    // lis-14, lis-33: there is one start, so never a second consumer
    within(|| {
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let listener = Listener::builder().name("one-thread").start().unwrap();
        let handler = || {
            let seen = Arc::clone(&seen);
            move |_: Message<()>| {
                let own = std::thread::current();
                seen.lock()
                    .insert((own.id(), own.name().map(str::to_owned)));
                Ok(())
            }
        };
        listener.set_default(handler());
        listener.register(source("a"), handler()).unwrap();
        let posters = ["a", "b", "c"].map(|from| {
            let sender = listener.sender();
            thread(from, move || {
                for _ in 0..50 {
                    sender.post(Message::new(&source(from), "c", ())).unwrap();
                }
            })
        });
        let posters = posters.map(|poster| {
            let id = poster.thread().id();
            poster.join().unwrap();
            id
        });
        assert_eq!(listener.shutdown(LONG).unwrap().handled, 150);
        let seen = seen.lock();
        let [(id, name)] = seen.iter().collect::<Vec<_>>()[..] else {
            panic!("several threads: {seen:?}");
        };
        assert_eq!(name.as_deref(), Some("one-thread"));
        assert!(!posters.contains(id));
    });
}

#[test]
fn messages_posted_before_the_thread_runs_are_kept() {
    // lis-11: the queue is there as soon as there is anything to post to
    within(|| {
        for _ in 0..100 {
            let recorder = Recorder::new();
            let listener = Listener::builder()
                .default_handler(recorder.handler("d"))
                .start()
                .unwrap();
            listener.sender().post(plain("a", "1")).unwrap();
            listener.sender().post(plain("a", "2")).unwrap();
            drop(listener);
            assert_eq!(recorder.rest(), ["d a 1", "d a 2"]);
        }
    });
}

#[test]
fn one_slow_handler_holds_up_all_sources() {
    // lis-28
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().start().unwrap();
        let mut done = recorder.handler("ha");
        let (gate, slow) = Gate::new(move |message| done(message).unwrap());
        listener.register(source("a"), slow).unwrap();
        listener
            .register(source("b"), recorder.handler("hb"))
            .unwrap();
        listener.sender().post(plain("a", "c")).unwrap();
        listener.sender().post(plain("b", "c")).unwrap();
        gate.wait_entered();
        assert_eq!(listener.stats().queued, 1);
        gate.let_go(1);
        assert_eq!(recorder.take(2), ["ha a c", "hb b c"]);
    });
}

#[test]
fn what_a_handler_posts_to_its_own_listener_is_handled_next() {
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().capacity(2).start().unwrap();
        let sender = listener.sender();
        let mut record = recorder.handler("h");
        let (gate, handler) = Gate::new(move |message: Message| {
            if message.cmd == "1" {
                // The queue is full, and the list for own messages holds two.
                sender.post(plain("b", "1a")).unwrap();
                sender.post_timeout(plain("b", "1b"), LONG).unwrap();
                let long = Duration::MAX;
                for full in [
                    sender.post(plain("b", "no")),
                    sender.try_post(plain("b", "no")),
                    sender.post_timeout(plain("b", "no"), long),
                ] {
                    let PostError { message, reason } = full.unwrap_err();
                    assert_eq!((message.cmd.as_str(), reason), ("no", Reason::Full));
                }
            }
            record(message).unwrap();
        });
        listener.register(source("a"), handler).unwrap();
        listener
            .register(source("b"), recorder.handler("h"))
            .unwrap();
        let sender = listener.sender();
        sender.post(plain("a", "1")).unwrap();
        gate.wait_entered();
        sender.post(plain("b", "2")).unwrap();
        sender.post(plain("b", "3")).unwrap();
        gate.let_go(1);
        let expected = ["h a 1", "h b 1a", "h b 1b", "h b 2", "h b 3"];
        assert_eq!(recorder.take(5), expected);
        assert_eq!(listener.shutdown(LONG).unwrap().handled, 5);
        assert_eq!(listener.stats().failed, 0);
    });
}

#[test]
fn a_message_belongs_to_the_handler() {
    // lis-34, lis-35: it is moved, so nobody sees the changes of anybody
    within(|| {
        let (send, receive) = bounded(1);
        let changes = move |mut message: Message| {
            message.data["n"] = json!(99);
            send.send(message.data)?;
            Ok(())
        };
        let listener = Listener::builder()
            .default_handler(changes)
            .start()
            .unwrap();
        let mut data = json!({"n": 1, "l": [1]});
        listener
            .sender()
            .post(message("a", "c", data.clone()))
            .unwrap();
        data["l"] = json!("after");
        assert_eq!(
            receive.recv_timeout(LONG).unwrap(),
            json!({"n": 99, "l": [1]})
        );
        assert_eq!(data["n"], json!(1));
    });
}
