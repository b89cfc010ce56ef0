//! Handlers that fail, panic, or panic even when they are dropped.

use super::*;

#[test]
fn a_handler_that_fails_or_panics_is_counted_logged_and_kept() {
    // lis-07, lis-08
    log_lines();
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().name("fails").start().unwrap();
        let mut record = recorder.handler("ha");
        let fails = move |message: Message| {
            let cmd = message.cmd.clone();
            record(message)?;
            match cmd.as_str() {
                "error" => Err("broken".into()),
                "panic" => panic!("as planned"),
                "formatted" => panic!("as {}", "planned"),
                "nasty" => std::panic::panic_any(PanicsWhenDropped),
                _ => Ok(()),
            }
        };
        listener.register(source("a"), fails).unwrap();
        listener
            .register(source("b"), recorder.handler("hb"))
            .unwrap();
        let sender = listener.sender();
        for cmd in ["error", "panic", "formatted", "nasty", "fine"] {
            sender.post(plain("a", cmd)).unwrap();
        }
        sender.post(plain("b", "c")).unwrap();
        let report = listener.shutdown(LONG).unwrap();
        assert_eq!(recorder.rest().len(), 6);
        assert_eq!((report.handled, report.dropped), (6, 0));
        assert_eq!(listener.stats().failed, 4);
        let logged = [
            r#"ERROR handler of "a" failed at "error": broken"#,
            r#"ERROR handler of "a" panicked at "panic": as planned"#,
            r#"ERROR handler of "a" panicked at "formatted": as planned"#,
            r#"ERROR handler of "a" panicked at "nasty": a value that is no text"#,
        ];
        assert_eq!(lines_of("fails"), logged);
    });
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

#[test]
fn a_handler_that_panics_is_unregistered_if_the_builder_says_so() {
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder()
            .name("unregisters")
            .unregister_after_panic(true)
            .start()
            .unwrap();
        let (tell, told) = Tell::new();
        let panics = move |message: Message| match message.cmd.as_str() {
            "error" => Err("an error is no panic".into()),
            _ => panic!("as planned {:?}", std::ptr::from_ref(&tell)),
        };
        listener.set_default(recorder.handler("d"));
        listener.register(source("a"), panics).unwrap();
        for cmd in ["error", "panic", "next"] {
            listener.sender().post(plain("a", cmd)).unwrap();
        }
        assert_eq!(recorder.take(1), ["d a next"]);
        assert_eq!(told.recv_timeout(LONG).unwrap(), "unregisters");
        listener.set_default(|_: Message| panic!("as planned"));
        listener.sender().post(plain("a", "panic")).unwrap();
        listener.sender().post(plain("a", "next")).unwrap();
        eventually("the default handler is gone", || {
            listener.stats().unclaimed == 1
        });
        assert_eq!(listener.stats().failed, 3);
    });
}

#[test]
fn drops_that_panic_do_not_end_the_listener() {
    log_lines();
    within(|| {
        let listener = Arc::new(Listener::builder().name("drops").start().unwrap());
        let weak = Arc::downgrade(&listener);
        let nasty = PanicsWhenDropped;
        let handler = move |message: Message<Option<PanicsWhenDropped>>| {
            let _moved_in = &nasty;
            let listener = weak.upgrade().ok_or("gone")?;
            listener.unregister(&message.source);
            Ok(())
        };
        listener.register(source("a"), handler).unwrap();
        let sender = listener.sender();
        let post = |from, data| sender.post(Message::new(&source(from), "c", data)).unwrap();
        post("a", None);
        post("unclaimed", Some(PanicsWhenDropped));
        post("unclaimed", None);
        let report = listener.shutdown(LONG).unwrap();
        assert_eq!((report.handled, report.dropped), (1, 2));
        let logged = [
            "ERROR panic in dropping a handler: in drop",
            r#"WARN no handler for "unclaimed""#,
            "ERROR panic in dropping a message: in drop",
        ];
        assert_eq!(lines_of("drops"), logged);
    });
}
