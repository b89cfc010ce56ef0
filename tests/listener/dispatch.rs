//! Who handles what, and when a change of that holds.

use super::*;

#[test]
fn messages_go_to_the_handler_of_their_source() {
    // lis-01
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().start().unwrap();
        listener
            .register(source("a"), recorder.handler("ha"))
            .unwrap();
        listener
            .register(source("b"), recorder.handler("hb"))
            .unwrap();
        let sender = listener.sender();
        sender.post(message("a", "x", json!({"n": 1}))).unwrap();
        sender.post(message("b", "y", json!({"n": 2}))).unwrap();
        sender.post(message("a", "z", json!({"n": 3}))).unwrap();
        let got: Vec<Delivery> = (0..3)
            .map(|_| recorder.deliveries.recv_timeout(LONG).unwrap())
            .collect();
        let expected = [
            ("ha", "a", "x", 1),
            ("hb", "b", "y", 2),
            ("ha", "a", "z", 3),
        ];
        let expected = expected.map(|(handler, source, cmd, n)| {
            (handler, source.to_owned(), cmd.to_owned(), json!({"n": n}))
        });
        assert_eq!(got, expected);
    });
}

#[test]
fn a_second_handler_for_a_source_is_refused_and_given_back() {
    // lis-02
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().start().unwrap();
        listener
            .register(source("a"), recorder.handler("first"))
            .unwrap();
        let taken = listener
            .register(source("a"), recorder.handler("second"))
            .unwrap_err();
        assert_eq!(taken.source, source("a"));
        assert_eq!(taken.to_string(), r#"source "a" has a handler already"#);
        listener.register(source("b"), taken.handler).unwrap();
        listener.sender().post(plain("a", "c")).unwrap();
        listener.sender().post(plain("b", "c")).unwrap();
        assert_eq!(recorder.take(2), ["first a c", "second b c"]);
    });
}

#[test]
fn a_replaced_handler_comes_back_and_gets_no_further_message() {
    // lis-03
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().start().unwrap();
        let sender = listener.sender();
        assert!(
            listener
                .replace(source("a"), recorder.handler("first"))
                .is_none()
        );
        sender.post(plain("a", "1")).unwrap();
        assert_eq!(recorder.take(1), ["first a 1"]);
        eventually("handled", || listener.stats().handled == 1);
        let first = listener
            .replace(source("a"), recorder.handler("second"))
            .unwrap();
        sender.post(plain("a", "2")).unwrap();
        assert_eq!(recorder.take(1), ["second a 2"]);
        listener.register(source("b"), first).unwrap();
        sender.post(plain("b", "3")).unwrap();
        assert_eq!(recorder.take(1), ["first b 3"], "it can be used again");
    });
}

#[test]
fn sources_without_a_handler_go_to_the_default_handler_of_the_moment() {
    // lis-04, lis-06
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder()
            .default_handler(recorder.handler("d1"))
            .start()
            .unwrap();
        listener
            .register(source("a"), recorder.handler("ha"))
            .unwrap();
        let sender = listener.sender();
        sender.post(plain("x", "c")).unwrap();
        sender.post(plain("a", "c")).unwrap();
        assert_eq!(recorder.take(2), ["d1 x c", "ha a c"]);
        eventually("handled", || listener.stats().handled == 2);
        assert!(listener.set_default(recorder.handler("d2")).is_some());
        sender.post(plain("y", "c")).unwrap();
        assert_eq!(recorder.take(1), ["d2 y c"]);
        eventually("handled", || listener.stats().handled == 3);
        assert!(listener.clear_default().is_some());
        assert!(listener.clear_default().is_none());
        sender.post(plain("z", "c")).unwrap();
        eventually("unclaimed", || listener.stats().unclaimed == 1);
    });
}

#[test]
fn unclaimed_messages_are_counted_and_warned_about_once_per_source() {
    // lis-05
    log_lines();
    within(|| {
        let listener = Listener::<Value>::builder()
            .name("unclaimed")
            .start()
            .unwrap();
        let sender = listener.sender();
        for from in ["x", "y", "x", "x"] {
            sender.post(plain(from, "c")).unwrap();
        }
        let report = listener.shutdown(LONG).unwrap();
        assert_eq!((report.handled, report.dropped), (0, 4));
        assert_eq!(listener.stats().unclaimed, 4);
        let warned = [r#"WARN no handler for "x""#, r#"WARN no handler for "y""#];
        assert_eq!(lines_of("unclaimed"), warned);
    });
}

#[test]
fn an_unregistered_source_is_free_again() {
    // lis-27
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder()
            .default_handler(recorder.handler("d"))
            .start()
            .unwrap();
        assert!(listener.unregister(&source("a")).is_none());
        listener
            .register(source("a"), recorder.handler("early"))
            .unwrap();
        assert!(listener.unregister(&source("a")).is_some());
        listener.sender().post(plain("a", "1")).unwrap();
        assert_eq!(recorder.take(1), ["d a 1"]);
        listener
            .register(source("a"), recorder.handler("late"))
            .unwrap();
        listener.sender().post(plain("a", "2")).unwrap();
        assert_eq!(recorder.take(1), ["late a 2"]);
    });
}

#[test]
fn a_source_is_its_text_to_the_letter() {
    // lis-18, lis-19: numbers are texts here, so two spellings are two sources
    within(|| {
        assert_eq!(
            Source::try_from("").map_err(|BadSource { length, .. }| length),
            Err(0)
        );
        let recorder = Recorder::new();
        let listener = Listener::builder()
            .default_handler(recorder.handler("d"))
            .start()
            .unwrap();
        listener
            .register(source("7"), recorder.handler("h7"))
            .unwrap();
        for from in ["7", "07", " 7"] {
            listener.sender().post(plain(from, "c")).unwrap();
        }
        assert_eq!(recorder.take(3), ["h7 7 c", "d 07 c", "d  7 c"]);
    });
}

#[test]
fn a_handler_may_replace_itself_and_lives_until_it_returns() {
    // lis-16
    within(|| {
        let recorder = Recorder::new();
        let listener = Arc::new(Listener::builder().name("replace-self").start().unwrap());
        let (tell, told) = Tell::new();
        let mut new = Some(recorder.handler("new"));
        let mut old = recorder.handler("old");
        let weak = Arc::downgrade(&listener);
        let early = told.clone();
        let handler = move |message: Message| {
            let own = message.source.clone();
            old(message)?;
            if let (Some(listener), Some(new)) = (weak.upgrade(), new.take()) {
                let _moved_in = &tell;
                assert!(listener.replace(own, new).is_none(), "it runs");
                assert!(early.is_empty(), "it is dropped while it runs");
            }
            Ok(())
        };
        listener.register(source("a"), handler).unwrap();
        listener.sender().post(plain("a", "1")).unwrap();
        listener.sender().post(plain("a", "2")).unwrap();
        assert_eq!(recorder.take(2), ["old a 1", "new a 2"]);
        assert_eq!(told.recv_timeout(LONG).unwrap(), "replace-self");
        assert_eq!(listener.stats().failed, 0);
    });
}

#[test]
fn registrations_do_not_wait_for_a_running_handler() {
    within(|| {
        let (tell, told) = Tell::new();
        let (gate, handler) = Gate::new(move |_: Message| {
            let _moved_in = &tell;
        });
        let listener = Listener::builder().name("busy").start().unwrap();
        listener.register(source("a"), handler).unwrap();
        listener.sender().post(plain("a", "c")).unwrap();
        gate.wait_entered();
        let nothing = |_: Message| Ok(());
        assert!(listener.register(source("a"), nothing).is_err());
        listener.register(source("b"), nothing).unwrap();
        assert!(listener.replace(source("b"), nothing).is_some());
        assert!(listener.set_default(nothing).is_none());
        assert!(listener.clear_default().is_some());
        assert!(listener.unregister(&source("b")).is_some());
        assert!(listener.unregister(&source("a")).is_none(), "it runs");
        listener.register(source("a"), nothing).unwrap();
        assert!(told.is_empty(), "it is dropped while it runs");
        gate.let_go(1);
        assert_eq!(told.recv_timeout(LONG).unwrap(), "busy");
    });
}
