//! Slaves that are not there, or not ours, and names that fit none.

use std::net::TcpListener;
use std::time::Instant;

use interplay::pool::{Error, JobError, Options, SlaveState};
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, master, ms, secs};
use crate::workers::{Gate, Worker};

/// An address at which nobody listens, and the port taken so that nobody will.
fn nobody() -> (TcpListener, String) {
    // Bound, and its queue of connections full: the system answers nothing, or no.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn a_slave_that_never_comes_up_is_given_up_at_the_deadline_and_the_rest_goes_on() {
    deadline(LIMIT, || {
        let worker = Worker::start();
        let (listener, address) = nobody();
        drop(listener);
        let begin = Instant::now();
        let rig = Rig::calm(|pool| {
            pool.slave("w", worker.address())
                .slave_with("ghost", address.clone(), ["gpu"])
                .connect_deadline(secs(1))
        });
        let for_ghost = rig.submit(1, &Options::new().label("gpu"));
        let echo = json!({"echo": 1});
        let for_any = rig.submit(&echo, &Options::new());
        assert_eq!(end_of(&for_any).unwrap(), echo);
        let end = end_of(&for_ghost);
        assert!(begin.elapsed() >= secs(1), "not before the deadline");
        assert!(
            matches!(end, Err(JobError::NoSlave { last: None })),
            "{end:?}"
        );
        let why = rig
            .witness
            .look(|seen| seen.why("ghost", SlaveState::GivenUp));
        assert!(why.unwrap().contains("no answer from slave \"ghost\""));

        let snapshot = rig.snapshot();
        let ghost = &snapshot.slaves[1];
        assert_eq!(ghost.state, SlaveState::GivenUp);
        assert!(ghost.trouble.is_some());
        // Who asks for it now is told at once, and nobody waits for two.
        assert!(matches!(
            rig.submit_with(1, &Options::new().on("ghost")),
            Err(Error::UnknownSlave { name }) if name == "ghost"
        ));
        assert!(matches!(
            rig.wait_for(2, secs(600)),
            Err(Error::TooFewSlaves {
                wanted: 2,
                connected: 1
            })
        ));
        let inputs = (0..10).map(|number| json!({"echo": number}));
        assert_eq!(
            rig.map::<Value, _>(inputs)
                .filter(|(_, r)| r.is_ok())
                .count(),
            10
        );
        // It may be added again.
        rig.add_slave("ghost", &worker_address(), [""; 0]).unwrap();
    });
}

/// An address that is fine as such.
fn worker_address() -> String {
    let (listener, address) = nobody();
    drop(listener);
    address
}

#[test]
fn a_slave_that_accepts_and_never_answers_is_given_up_too() {
    deadline(LIMIT, || {
        let (_listener, address) = nobody();
        let worker = Worker::start();
        let rig = Rig::new(secs(3), |pool| {
            pool.slave("mute", address.clone())
                .slave("w", worker.address())
                .connect_deadline(ms(100))
        });
        let echo = json!({"echo": 1});
        let jobs: Vec<_> = (0..5).map(|_| rig.submit(&echo, &Options::new())).collect();
        assert!(jobs.iter().all(|job| end_of(job).is_ok()));
        rig.witness.becomes("mute", SlaveState::GivenUp, 1);
    });
}

#[test]
fn a_slave_that_comes_up_late_is_waited_for() {
    deadline(LIMIT, || {
        let mut worker = Worker::start();
        worker.kill();
        let rig = Rig::calm(|pool| pool.slave("late", worker.address()));
        let echo = json!({"echo": 1});
        let job = rig.submit(&echo, &Options::new());
        rig.witness.becomes("late", SlaveState::Connecting, 1);
        assert!(matches!(
            rig.wait_for(1, ms(10)),
            Err(Error::TooFewSlaves { connected: 0, .. })
        ));
        worker.restart();
        assert_eq!(end_of(&job).unwrap(), echo);
        rig.wait_for(1, PATIENCE).unwrap();
    });
}

#[test]
fn a_slave_of_another_master_is_tried_until_it_is_free() {
    deadline(LIMIT, || {
        let worker = Worker::start();
        let other = master().start().unwrap();
        let theirs = other.new_connection("mine", &worker.address()).unwrap();
        theirs.connect().unwrap();
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let echo = json!({"echo": 1});
        let job = rig.submit(&echo, &Options::new());
        assert!(job.join_timeout(ms(300)).is_err());
        // Ours does not take it from theirs.
        let task = theirs.new_task(&echo).unwrap().start().unwrap();
        assert_eq!(task.join().unwrap(), &echo);
        assert_eq!(rig.state_of("w"), Some(SlaveState::Connecting));
        theirs.disconnect().unwrap();
        assert_eq!(end_of(&job).unwrap(), echo);
    });
}

#[test]
fn slaves_of_another_master_or_channel_are_given_up_with_their_reason() {
    deadline(LIMIT, || {
        let (taken, strange) = (Worker::start(), Worker::of_channel(8));
        let other = master().start().unwrap();
        let theirs = other.new_connection("mine", &taken.address()).unwrap();
        theirs.connect().unwrap();
        let rig = Rig::calm(|pool| {
            pool.slave("taken", taken.address())
                .slave("strange", strange.address())
                .connect_deadline(ms(500))
        });
        let job = rig.submit(1, &Options::new());
        let end = end_of(&job);
        assert!(matches!(end, Err(JobError::NoSlave { .. })), "{end:?}");
        for (name, code) in [("taken", "501"), ("strange", "202")] {
            // The other slave's thread may be the one that ended the task.
            rig.witness.becomes(name, SlaveState::GivenUp, 1);
            let why = rig.witness.look(|seen| seen.why(name, SlaveState::GivenUp));
            let why = why.unwrap();
            assert!(why.contains(code), "{why}");
        }
        assert!(theirs.is_connected());
    });
}

#[test]
fn names_and_addresses_that_cannot_be_are_errors_that_name_them() {
    deadline(LIMIT, || {
        let worker = Worker::start();
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let none = [""; 0];
        let taken = rig.add_slave("w", "127.0.0.1:1", none);
        assert!(matches!(taken, Err(Error::NameTaken { name }) if name == "w"));
        let address = rig.add_slave("v", "no address at all", none);
        assert!(matches!(address, Err(Error::Master { .. })), "{address:?}");
        let name = rig.add_slave("", &worker.address(), none);
        assert!(matches!(name, Err(Error::Setting { .. })), "{name:?}");
        assert!(matches!(
            rig.remove_slave("v"),
            Err(Error::UnknownSlave { name }) if name == "v"
        ));
        assert!(matches!(
            rig.submit_with(1, &Options::new().on("v")),
            Err(Error::UnknownSlave { name }) if name == "v"
        ));
        assert!(matches!(
            rig.submit_with(1, &Options::new().label("gpu")),
            Err(Error::UnknownLabels { labels }) if labels == ["gpu"]
        ));
        // What is at fault in a map is said of each input.
        let ends = rig.map_with::<Value, _>(0..20, &Options::new().on("v"));
        assert_eq!(ends.filter(|(_, end)| end.is_err()).count(), 20);
        // The pool goes on.
        let echo = json!({"echo": 1});
        assert_eq!(end_of(&rig.submit(&echo, &Options::new())).unwrap(), echo);
        assert_eq!(rig.snapshot().slaves.len(), 1);

        let twice = rig.master.pool().slave("x", "127.0.0.1:1");
        let twice = twice.slave("x", "127.0.0.1:2").start();
        assert!(matches!(twice, Err(Error::NameTaken { name }) if name == "x"));
    });
}

#[test]
fn an_empty_pool_says_so_and_works_when_it_gets_a_slave() {
    deadline(LIMIT, || {
        let rig = Rig::calm(|pool| pool);
        assert!(matches!(
            rig.submit_with(1, &Options::new()),
            Err(Error::NoSlaves)
        ));
        assert!(matches!(
            rig.wait_for(1, secs(600)),
            Err(Error::TooFewSlaves { .. })
        ));
        assert!(rig.wait_for(0, ms(0)).is_ok());
        assert_eq!(rig.map::<Value, _>(0..0).count(), 0);
        let ends = rig.map_ordered::<Value, _>(0..3);
        let no_slave = |end: &Result<_, _>| matches!(end, Err(JobError::NoSlave { .. }));
        assert_eq!(ends.filter(no_slave).count(), 3);
        rig.join();

        let gate = Gate::new();
        gate.open_all();
        let worker = Worker::behind(&gate);
        rig.add_slave("w", &worker.address(), [""; 0]).unwrap();
        assert_eq!(end_of(&rig.submit(7, &Options::new())).unwrap(), json!(7));
    });
}
