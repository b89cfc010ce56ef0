//! Stopping and draining: what is handled, what is dropped, who is told.

use super::*;

#[test]
fn a_stop_lets_queued_messages_be_handled_and_refuses_new_ones() {
    // lis-12, lis-13, lis-30
    within(|| {
        let recorder = Recorder::new();
        let (tell, told) = Tell::new();
        let mut record = recorder.handler("d");
        let (gate, handler) = Gate::new(move |message| {
            let _moved_in = &tell;
            record(message).unwrap();
        });
        let listener = Listener::builder()
            .name("stop")
            .default_handler(handler)
            .start()
            .unwrap();
        let sender = listener.sender();
        for cmd in ["0", "1", "2", "3", "4"] {
            sender.post(plain("a", cmd)).unwrap();
        }
        gate.wait_entered();
        let stopper = listener.stopper();
        stopper.stop();
        stopper.clone().stop();
        let late = message("a", "late", json!({"big": "x".repeat(200_000)}));
        for closed in [
            sender.post(late.clone()),
            sender.try_post(late.clone()),
            sender.post_timeout(late.clone(), LONG),
            listener.sender().post(late.clone()),
        ] {
            let closed = closed.unwrap_err();
            assert_eq!((closed.reason, &closed.message), (Reason::Closed, &late));
        }
        gate.let_go(5);
        assert_eq!(told.recv_timeout(LONG).unwrap(), "stop", "the thread's end");
        let cmds = ["d a 0", "d a 1", "d a 2", "d a 3", "d a 4"];
        assert_eq!(recorder.rest(), cmds);
        let report = listener.shutdown(Duration::ZERO).unwrap();
        assert_eq!(
            (report.handled, report.dropped, report.still_running),
            (5, 0, None)
        );
        stopper.stop();
        drop(listener);
        stopper.stop();
        assert_eq!(sender.post(late).unwrap_err().reason, Reason::Closed);
    });
}

#[test]
fn a_handler_may_stop_its_listener() {
    // lis-15
    within(|| {
        let recorder = Recorder::new();
        let listener = Listener::builder().start().unwrap();
        let (stopper, sender) = (listener.stopper(), listener.sender());
        let (stopped, is_stopped) = bounded(1);
        let mut record = recorder.handler("d");
        let (gate, handler) = Gate::new(move |message: Message| {
            if message.cmd == "1" {
                stopper.stop();
                let closed = sender.post(plain("a", "3")).unwrap_err();
                assert_eq!(closed.reason, Reason::Closed);
                stopped.send(()).unwrap();
            }
            record(message).unwrap();
        });
        listener.set_default(handler);
        listener.sender().post(plain("a", "1")).unwrap();
        listener.sender().post(plain("a", "2")).unwrap();
        gate.let_go(2);
        is_stopped.recv_timeout(LONG).unwrap();
        let closed = listener.sender().post(plain("a", "4")).unwrap_err();
        assert_eq!(closed.reason, Reason::Closed);
        let report = listener.shutdown(LONG).unwrap();
        assert_eq!((report.handled, report.still_running), (2, None));
        assert_eq!(recorder.rest(), ["d a 1", "d a 2"]);
        assert_eq!(listener.stats().failed, 0);
    });
}

#[test]
fn a_shutdown_with_time_enough_handles_everything() {
    within(|| {
        for limit in [LONG, Duration::MAX] {
            let recorder = Recorder::new();
            let (gate, slow) = Gate::new(|_| ());
            let listener = Listener::builder()
                .default_handler(recorder.handler("d"))
                .start()
                .unwrap();
            listener.register(source("slow"), slow).unwrap();
            listener.sender().post(plain("slow", "c")).unwrap();
            gate.wait_entered();
            for _ in 0..100 {
                listener.sender().post(plain("a", "c")).unwrap();
            }
            gate.let_go(1);
            let report = listener.shutdown(limit).unwrap();
            assert_eq!(
                (report.handled, report.dropped, report.still_running),
                (101, 0, None)
            );
            assert_eq!(recorder.rest().len(), 100);
        }
    });
}

#[test]
fn a_shutdown_drops_and_counts_the_rest_at_its_limit_and_names_who_still_runs() {
    log_lines();
    within(|| {
        for (name, limit) in [
            ("limit-0", Duration::ZERO),
            ("limit-20", Duration::from_millis(20)),
        ] {
            let (tell, told) = Tell::new();
            let (gate, stuck) = Gate::new(move |_: Message| {
                let _moved_in = &tell;
            });
            let listener = Listener::builder()
                .name(name)
                .default_handler(stuck)
                .start()
                .unwrap();
            for _ in 0..6 {
                listener.sender().post(plain("a", "c")).unwrap();
            }
            gate.wait_entered();
            let before = Instant::now();
            let report = listener.shutdown(limit).unwrap();
            assert!(before.elapsed() >= limit);
            assert_eq!((report.handled, report.dropped), (0, 5));
            assert_eq!(report.still_running.as_deref(), Some(name));
            let again = listener.shutdown(Duration::ZERO).unwrap();
            assert_eq!(again, report);
            gate.let_go(1);
            assert_eq!(told.recv_timeout(LONG).unwrap(), name, "the thread's end");
            let report = listener.shutdown(LONG).unwrap();
            assert_eq!(
                (report.handled, report.dropped, report.still_running),
                (1, 5, None)
            );
            let lost = "WARN 5 queued messages dropped at the stop";
            assert_eq!(lines_of(name)[0], lost);
        }
    });
}

#[test]
fn a_shutdown_without_time_waits_for_a_thread_that_runs_no_handler() {
    within(|| {
        for _ in 0..100 {
            let listener = Listener::<()>::builder().start().unwrap();
            let report = listener.shutdown(Duration::ZERO).unwrap();
            assert_eq!(
                (report.handled, report.dropped, report.still_running),
                (0, 0, None)
            );
        }
    });
}

/// Takes its time to be dropped, then signals.
struct SlowTell(crossbeam_channel::Sender<()>);

impl Drop for SlowTell {
    fn drop(&mut self) {
        let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(50));
        let _ = self.0.send(());
    }
}

thread_local! {
    static LAST: std::cell::RefCell<Option<SlowTell>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn a_shutdown_returns_after_the_very_last_of_the_thread() {
    within(|| {
        let (tell, told) = unbounded();
        let mut tell = Some(SlowTell(tell));
        let handler = move |_: Message| {
            LAST.set(tell.take());
            Ok(())
        };
        let listener = Listener::builder()
            .default_handler(handler)
            .start()
            .unwrap();
        listener.sender().post(plain("a", "c")).unwrap();
        assert_eq!(listener.shutdown(LONG).unwrap().still_running, None);
        assert_eq!(told.len(), 1, "the thread is joined");
    });
}

#[test]
fn a_shutdown_from_inside_a_handler_is_an_error_and_stops_nothing() {
    within(|| {
        let (send, receive) = unbounded();
        let listener = Arc::new(Listener::<()>::builder().start().unwrap());
        let weak = Arc::downgrade(&listener);
        listener.set_default(move |_| {
            let listener = weak.upgrade().ok_or("gone")?;
            send.send(listener.shutdown(LONG))?;
            Ok(())
        });
        for _ in 0..2 {
            let message = Message::new(&source("a"), "c", ());
            listener.sender().post(message).unwrap();
            let refused = receive.recv_timeout(LONG).unwrap();
            assert!(matches!(refused, Err(Error::FromHandler)), "{refused:?}");
        }
        assert_eq!(listener.shutdown(LONG).unwrap().handled, 2);
    });
}

#[test]
fn shutdowns_by_several_threads_all_report() {
    within(|| {
        let (gate, handler) = Gate::new(|_: Message| ());
        let listener = Listener::builder()
            .default_handler(handler)
            .start()
            .unwrap();
        listener.sender().post(plain("a", "c")).unwrap();
        gate.wait_entered();
        let listener = Arc::new(listener);
        let threads = [(); 3].map(|()| {
            let listener = Arc::clone(&listener);
            thread("shuts-down", move || listener.shutdown(LONG).unwrap())
        });
        gate.let_go(1);
        for thread in threads {
            let report = thread.join().unwrap();
            assert_eq!((report.handled, report.still_running), (1, None));
        }
    });
}

#[test]
fn a_drop_handles_what_is_queued_and_joins() {
    // lis-31
    within(|| {
        let recorder = Recorder::new();
        let (tell, told) = Tell::new();
        let mut record = recorder.handler("d");
        let handler = move |message: Message| {
            let _moved_in = &tell;
            record(message)
        };
        let listener = Listener::builder()
            .default_handler(handler)
            .start()
            .unwrap();
        for _ in 0..100 {
            listener.sender().post(plain("a", "c")).unwrap();
        }
        drop(listener);
        assert_eq!(recorder.rest().len(), 100);
        assert_eq!(told.len(), 1, "the handler is dropped");
    });
}

#[test]
fn a_drop_gives_up_on_a_stuck_handler_and_logs_what_was_lost() {
    log_lines();
    within(|| {
        let (gate, stuck) = Gate::new(|_: Message| ());
        let listener = Listener::builder()
            .name("stuck")
            .default_handler(stuck)
            .start()
            .unwrap();
        for _ in 0..3 {
            listener.sender().post(plain("a", "c")).unwrap();
        }
        gate.wait_entered();
        drop(listener);
        let logged = [
            "WARN 2 queued messages dropped at the stop",
            "WARN a handler runs on after the stop",
        ];
        assert_eq!(lines_of("stuck"), logged);
        gate.let_go(1);
    });
}

#[test]
fn a_drop_after_a_shutdown_that_reported_does_not_wait_again() {
    within(|| {
        let (gate, stuck) = Gate::new(|_: Message| ());
        let listener = Listener::builder().default_handler(stuck).start().unwrap();
        listener.sender().post(plain("a", "c")).unwrap();
        gate.wait_entered();
        assert!(
            listener
                .shutdown(Duration::ZERO)
                .unwrap()
                .still_running
                .is_some()
        );
        let before = Instant::now();
        drop(listener);
        assert!(
            before.elapsed() < Duration::from_secs(5),
            "waited for the grace"
        );
        gate.let_go(1);
    });
}

#[test]
fn a_stopped_listener_leaves_nothing_behind_for_the_next() {
    // lis-25, lis-26, lis-32: control is no message, and there is no restart
    within(|| {
        let recorder = Recorder::new();
        let start = || {
            let builder = Listener::builder().name("next");
            builder
                .default_handler(recorder.handler("d"))
                .start()
                .unwrap()
        };
        let first = start();
        first.stopper().stop();
        let late = first.sender().post(plain("a", "late")).unwrap_err();
        drop(first);
        let second = start();
        drop(second.stopper());
        drop(second.sender());
        for from in ["next", "listener", "STOP"] {
            second.sender().post(plain(from, "STOP")).unwrap();
        }
        second.sender().post(late.message).unwrap();
        let expected = ["d next STOP", "d listener STOP", "d STOP STOP", "d a late"];
        assert_eq!(recorder.take(4), expected);
    });
}

#[test]
fn two_listeners_in_one_process_never_meet() {
    within(|| {
        let recorder = Recorder::new();
        let start = |name, handler| {
            let builder = Listener::builder().name(name);
            builder
                .default_handler(recorder.handler(handler))
                .start()
                .unwrap()
        };
        let (one, two) = (start("one", "d1"), start("two", "d2"));
        one.register(source("a"), recorder.handler("h1")).unwrap();
        two.sender().post(plain("a", "c")).unwrap();
        assert_eq!(recorder.take(1), ["d2 a c"]);
        one.sender().post(plain("a", "c")).unwrap();
        assert_eq!(recorder.take(1), ["h1 a c"]);
        one.stopper().stop();
        one.shutdown(LONG).unwrap();
        two.sender().post(plain("b", "c")).unwrap();
        assert_eq!(recorder.take(1), ["d2 b c"]);
        assert_eq!(two.shutdown(LONG).unwrap().handled, 2);
        assert_eq!(one.stats().handled, 1);
    });
}

#[test]
fn handlers_that_hold_handles_of_their_listener_do_not_keep_it() {
    within(|| {
        let (tell, told) = Tell::new();
        let listener = Listener::<()>::builder().start().unwrap();
        let held = (listener.sender(), listener.stopper(), tell);
        listener.set_default(move |_| {
            let _moved_in = &held;
            Ok(())
        });
        drop(listener);
        assert_eq!(told.len(), 1);
    });
}
