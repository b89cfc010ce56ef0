//! Many rounds, and many threads at once.

use super::*;

#[test]
#[cfg(target_os = "linux")]
fn a_thousand_rounds_of_start_and_stop_leave_no_thread() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        let names = tasks.filter_map(|task| name(task.ok()?).ok());
        names.filter(|name| name.trim() == "rounds").count()
    };
    within(move || {
        for round in 0..1000 {
            let handled = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&handled);
            let listener = Listener::builder()
                .name("rounds")
                .default_handler(move |_: Message| {
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
                .start()
                .unwrap();
            let (sender, stopper) = (listener.sender(), listener.stopper());
            sender.post(plain("a", "c")).unwrap();
            let mut accepted = 1;
            match round % 4 {
                0 => drop(listener),
                1 => {
                    stopper.stop();
                    drop(listener);
                }
                2 => assert_eq!(listener.shutdown(LONG).unwrap().handled, 1),
                _ => {
                    let mut report = listener.shutdown(Duration::ZERO).unwrap();
                    if report.still_running.is_some() {
                        report = listener.shutdown(LONG).unwrap();
                    }
                    assert_eq!(report.handled + report.dropped, 1, "{report:?}");
                    accepted = report.handled;
                }
            }
            stopper.stop();
            assert!(sender.post(plain("a", "c")).is_err());
            assert_eq!(handled.load(Ordering::Relaxed), accepted);
        }
        eventually("all threads are gone", || threads() == 0);
    });
}

#[test]
fn every_accepted_message_is_handled_or_counted_as_dropped() {
    for round in 0..60_u64 {
        within(move || stopped_in_the_middle(round));
    }
}

/// Four threads post by three means, a handler posts too, and a stop falls in
/// at some point: after `round * 7` messages.
fn stopped_in_the_middle(round: u64) {
    let (reached, stop_now) = bounded(1);
    let handled = Arc::new(AtomicU64::new(0));
    let accepted = Arc::new(AtomicU64::new(0));
    let failed_in_handler = Arc::new(AtomicBool::new(false));
    let listener = Listener::<u64>::builder().capacity(8).start().unwrap();
    let handler = {
        let (handled, accepted) = (Arc::clone(&handled), Arc::clone(&accepted));
        let (sender, failed) = (listener.sender(), Arc::clone(&failed_in_handler));
        move |message: Message<u64>| {
            if handled.fetch_add(1, Ordering::Relaxed) == round * 7 {
                let _ = reached.try_send(());
            }
            if message.data.is_multiple_of(5) {
                match sender.post(Message::new(&message.source, "own", 1)) {
                    Ok(()) => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        let odd = error.reason != Reason::Closed;
                        failed.fetch_or(odd, Ordering::Relaxed);
                    }
                }
            }
            Ok(())
        }
    };
    listener.set_default(handler);
    let posters = ["a", "b", "c", "d"].map(|from| {
        let (sender, accepted) = (listener.sender(), Arc::clone(&accepted));
        thread(from, move || {
            for n in 0_u64.. {
                let message = Message::new(&source(from), "c", n);
                let posted = match n % 3 {
                    0 => sender.post(message),
                    1 => sender.try_post(message),
                    _ => sender.post_timeout(message, Duration::from_micros(n % 100)),
                };
                match posted {
                    Ok(()) => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        assert_eq!(error.message.data, n);
                        if error.reason == Reason::Closed {
                            return;
                        }
                    }
                }
            }
        })
    });
    stop_now.recv_timeout(LONG).unwrap();
    let report = match round % 3 {
        0 => listener.shutdown(LONG).unwrap(),
        1 => listener.shutdown(Duration::ZERO).unwrap(),
        _ => {
            listener.stopper().stop();
            listener.shutdown(LONG).unwrap()
        }
    };
    for poster in posters {
        poster.join().unwrap();
    }
    // A handler that outlasted a limit of zero counts as soon as it returns.
    let report = match report.still_running {
        Some(_) => listener.shutdown(LONG).unwrap(),
        None => report,
    };
    let handled = handled.load(Ordering::Relaxed);
    assert_eq!(report.handled, handled, "round {round}");
    let accepted = accepted.load(Ordering::Relaxed);
    assert_eq!(report.handled + report.dropped, accepted, "round {round}");
    if round % 3 != 1 {
        assert_eq!(report.dropped, 0, "round {round}");
    }
    assert!(!failed_in_handler.load(Ordering::Relaxed));
}
