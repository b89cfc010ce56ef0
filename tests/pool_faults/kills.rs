//! Slaves that are killed, and slaves that are started again.

use interplay::pool::{JobError, Options, SlaveState};
use interplay::task::Loss;
use serde_json::{Value, json};

use crate::python::python;
use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, ms, secs};
use crate::workers::{Gate, Worker};
use crate::{PATIENCE, SHORT_TOLERANCE, TOLERANCE};

/// How often the big test runs is said by `INTERPLAY_POOL_RUNS`, once by default.
#[test]
fn half_of_the_slaves_are_killed_during_a_map_of_200_tasks_and_each_gives_its_result_once() {
    let runs = std::env::var("INTERPLAY_POOL_RUNS").map_or(1, |runs| runs.parse().unwrap());
    for _ in 0..runs {
        deadline(2 * LIMIT, half_of_the_slaves_are_killed);
    }
}

fn half_of_the_slaves_are_killed() {
    let mut workers: Vec<Worker> = (0..8).map(|_| Worker::start()).collect();
    let rig = Rig::new(SHORT_TOLERANCE, |mut pool| {
        for (index, worker) in workers.iter().enumerate() {
            pool = pool.slave(format!("w{index}"), worker.address());
        }
        pool.connect_deadline(secs(1)).look_ahead(24)
    });
    rig.up(8);

    let inputs = (0..200).map(|number| json!({"echo": number, "sleep": 0.02}));
    let mut times = [0; 200];
    for (count, (number, result)) in rig.map::<Value, _>(inputs).enumerate() {
        times[usize::try_from(number).unwrap()] += 1;
        assert_eq!(result.unwrap(), json!({"echo": number}));
        if count == 50 {
            workers.iter_mut().step_by(2).for_each(Worker::kill);
        }
    }
    assert_eq!(times, [1; 200]);
    for victim in ["w0", "w2", "w4", "w6"] {
        rig.witness.becomes(victim, SlaveState::GivenUp, 1);
    }
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.done, snapshot.ended()), (200, 200));
}

#[test]
fn a_map_in_order_keeps_its_order_while_slaves_are_killed() {
    deadline(LIMIT, || {
        let mut workers: Vec<Worker> = (0..3).map(|_| Worker::start()).collect();
        let rig = Rig::new(SHORT_TOLERANCE, |mut pool| {
            for (index, worker) in workers.iter().enumerate() {
                pool = pool.slave(format!("w{index}"), worker.address());
            }
            pool.connect_deadline(ms(500))
        });
        rig.up(3);
        let inputs = (0..60).map(|number| json!({"echo": number, "sleep": 0.01}));
        let mut next = 0;
        for result in rig.map_ordered::<Value, _>(inputs) {
            assert_eq!(result.unwrap(), json!({"echo": next}));
            next += 1;
            if next == 15 || next == 30 {
                workers.pop(); // killed
            }
        }
        assert_eq!(next, 60);
    });
}

#[test]
fn a_python_slave_works_among_rust_ones_and_its_death_costs_no_result() {
    let Some(python) = python() else { return };
    deadline(2 * LIMIT, move || {
        let (script, port) = python.slave(&["--channel", "7", "--heartbeat", "0.2", "--quiet"]);
        let worker = Worker::start();
        let rig = Rig::new(TOLERANCE, |pool| {
            pool.slave("rust", worker.address())
                .slave("python", format!("127.0.0.1:{port}"))
                .connect_deadline(secs(1))
        });
        rig.up(2);
        let mut script = Some(script);
        let inputs = (0..60).map(|number| json!({"echo": [number, "é"], "sleep": 0.02}));
        let mut times = [0; 60];
        for (count, (number, result)) in rig.map::<Value, _>(inputs).enumerate() {
            times[usize::try_from(number).unwrap()] += 1;
            assert_eq!(result.unwrap(), json!({"echo": [number, "é"]}));
            if count == 30 {
                let at_python = |seen: &crate::rig::Seen| {
                    let starts = seen.started.iter();
                    starts.filter(|(_, slave)| slave == "python").count()
                };
                assert!(rig.witness.look(at_python) > 0);
                script.take().unwrap().kill();
            }
        }
        assert_eq!(times, [1; 60]);
        rig.witness.becomes("python", SlaveState::GivenUp, 1);
    });
}

#[test]
fn a_failure_at_a_python_slave_is_a_failure_and_the_next_task_succeeds() {
    let Some(python) = python() else { return };
    deadline(LIMIT, move || {
        let (_script, port) = python.slave(&["--channel", "7", "--heartbeat", "0.2", "--quiet"]);
        let rig = Rig::calm(|pool| pool.slave("python", format!("127.0.0.1:{port}")));
        let retried = Options::new().retries(1).backoff(ms(10));
        let failing = rig.submit(json!({"fail": {"why": 1}}), &retried);
        let refused = rig.submit(json!({"refuse": "tired"}), &retried);
        let next = rig.submit(json!({"a": 1, "b": 2}), &retried);
        match end_of(&failing) {
            Err(JobError::Failed { result }) => assert_eq!(result, json!({"why": 1})),
            other => panic!("{other:?}"),
        }
        assert!(matches!(end_of(&refused), Err(JobError::Refused { .. })));
        assert_eq!(end_of(&next).unwrap(), json!({"sum": 3}));
        rig.witness
            .look(|seen| assert_eq!(seen.retries(failing.id()), 1));
    });
}

#[test]
fn when_all_slaves_are_killed_queued_and_running_tasks_end_and_say_why() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let mut workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let rig = Rig::new(TOLERANCE, |pool| {
            pool.slave("w0", workers[0].address())
                .slave("w1", workers[1].address())
                .connect_deadline(ms(500))
        });
        let any = Options::new();
        let running = [rig.submit(100, &any), rig.submit(1, &any)];
        gate.until_runs(100, 1);
        gate.until_runs(1, 1);
        let queued: Vec<_> = (2..20).map(|task| rig.submit(task, &any)).collect();
        workers.iter_mut().for_each(Worker::kill);
        for job in &running {
            match end_of(job) {
                Err(JobError::NoSlave { last: Some(last) }) => {
                    assert!(
                        matches!(
                            &*last,
                            JobError::Lost {
                                loss: Loss::Silent { .. },
                                losses: 1,
                                ..
                            }
                        ),
                        "{last:?}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        for job in &queued {
            let end = end_of(job);
            assert!(
                matches!(end, Err(JobError::NoSlave { last: None })),
                "{end:?}"
            );
        }
        for name in ["w0", "w1"] {
            assert_eq!(rig.state_of(name), Some(SlaveState::GivenUp));
        }
        // And a map says the same of each input, and ends.
        let ends: Vec<_> = rig.map::<Value, _>(0..30).collect();
        assert_eq!(ends.len(), 30);
        let no_slave = |(_, end): &(u64, _)| matches!(end, Err(JobError::NoSlave { .. }));
        assert!(ends.iter().all(no_slave));
    });
}

#[test]
fn a_task_that_takes_its_slaves_along_ends_as_lost_at_the_limit() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let mut workers: Vec<Worker> = (0..3).map(|_| Worker::behind(&gate)).collect();
        let rig = Rig::new(TOLERANCE, |mut pool| {
            for (index, worker) in workers.iter().enumerate() {
                pool = pool.slave(format!("w{index}"), worker.address());
            }
            pool.connect_deadline(secs(120))
        });
        rig.up(3);
        let deadly = rig.submit(100, &Options::new().lost_limit(1));
        let mut victims = Vec::new();
        for time in 1..=2 {
            let victim = rig.witness.starts(deadly.id(), time);
            gate.until_runs(100, time);
            let index: usize = victim[1..].parse().unwrap();
            workers[index].kill();
            victims.push(victim);
        }
        match end_of(&deadly) {
            Err(JobError::Lost { slave, losses, .. }) => {
                assert_eq!((&slave, losses), (&victims[1], 2));
            }
            other => panic!("{other:?}"),
        }
        assert_ne!(victims[0], victims[1]);
        assert_eq!(gate.runs(100), 2);
        // The third goes on.
        gate.open_all();
        assert_eq!(end_of(&rig.submit(1, &Options::new())).unwrap(), json!(1));
        assert_eq!(rig.snapshot().lost, 1);
    });
}

#[test]
fn a_task_that_may_not_run_twice_does_not() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let mut first = Worker::behind(&gate);
        let rig = Rig::new(TOLERANCE, |pool| {
            pool.slave("w0", first.address())
                .connect_deadline(secs(120))
        });
        let once = Options::new().idempotent(false);
        let begun = rig.submit(100, &once);
        gate.until_runs(100, 1);
        let queued = rig.submit(1, &once);
        let second = Worker::behind(&gate);
        first.kill();
        match end_of(&begun) {
            Err(JobError::Lost { slave, losses, .. }) => {
                assert_eq!((slave.as_str(), losses), ("w0", 1));
            }
            other => panic!("{other:?}"),
        }
        rig.add_slave("w1", &second.address(), ["late"]).unwrap();
        gate.open_all();
        assert_eq!(end_of(&queued).unwrap(), json!(1));
        assert_eq!((gate.runs(100), gate.runs(1)), (1, 1));
        rig.witness
            .look(|seen| assert_eq!(seen.retries(begun.id()), 0));
    });
}

#[test]
fn what_is_offered_to_a_slave_that_died_idle_was_not_lost_and_goes_elsewhere() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        gate.open_all();
        let mut workers: Vec<Worker> = (0..4).map(|_| Worker::behind(&gate)).collect();
        // So tolerant that the pool can find out by its offers only.
        let rig = Rig::calm(|mut pool| {
            for (index, worker) in workers.iter().enumerate() {
                pool = pool.slave(format!("w{index}"), worker.address());
            }
            pool
        });
        rig.up(4);
        let once = Options::new().idempotent(false);
        // All have had a task, so that a connection may have been kept.
        let jobs: Vec<_> = (1..9).map(|task| rig.submit(task, &once)).collect();
        assert!(jobs.iter().all(|job| end_of(job).is_ok()));
        workers.truncate(1); // the others are killed
        let jobs: Vec<_> = (11..19).map(|task| rig.submit(task, &once)).collect();
        for (job, task) in jobs.iter().zip(11..) {
            assert_eq!(end_of(job).unwrap(), json!(task));
            assert_eq!(gate.runs(task), 1);
        }
        for name in ["w1", "w2", "w3"] {
            assert_eq!(rig.state_of(name), Some(SlaveState::Connecting), "{name}");
        }
        assert_eq!(rig.snapshot().retried, 0);
    });
}

#[test]
fn an_idle_slave_that_was_restarted_on_its_port_is_connected_again_and_does_the_next_task() {
    deadline(LIMIT, || {
        let mut worker = Worker::start();
        // The silence of the restart is not noticed: the slave itself says that it does not know us.
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        rig.up(1);
        worker.restart();
        let once = Options::new().idempotent(false);
        let job = rig.submit(json!({"echo": 1}), &once);
        assert_eq!(end_of(&job).unwrap(), json!({"echo": 1}));
        rig.witness
            .look(|seen| assert_eq!((seen.connects("w"), seen.retries(job.id())), (2, 0)));
    });
}

#[test]
fn a_slave_that_was_restarted_under_its_task_does_it_again() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let mut worker = Worker::behind(&gate);
        let rig = Rig::new(TOLERANCE, |pool| pool.slave("w", worker.address()));
        let job = rig.submit(100, &Options::new());
        gate.until_runs(100, 1);
        worker.restart();
        gate.until_runs(100, 2);
        gate.open_all();
        assert_eq!(end_of(&job).unwrap(), json!(100));
        rig.witness.look(|seen| {
            assert_eq!((seen.connects("w"), seen.retries(job.id())), (2, 1));
            assert_eq!(seen.at(job.id()), ["w", "w"]);
        });
    });
}

#[test]
fn a_slave_that_is_gone_for_a_while_is_waited_for_with_the_tasks_that_only_it_can_do() {
    deadline(LIMIT, || {
        let mut worker = Worker::start();
        let other = Worker::start();
        let rig = Rig::new(TOLERANCE, |pool| {
            pool.slave_with("w", worker.address(), ["gpu"])
                .slave("other", other.address())
        });
        rig.up(2);
        worker.kill();
        rig.witness.becomes("w", SlaveState::Connecting, 2);
        let only = rig.submit(json!({"echo": 1}), &Options::new().label("gpu"));
        let any = rig.submit(json!({"echo": 2}), &Options::new());
        assert_eq!(end_of(&any).unwrap(), json!({"echo": 2}));
        assert!(only.join_timeout(ms(10)).is_err());
        worker.restart();
        assert_eq!(end_of(&only).unwrap(), json!({"echo": 1}));
        rig.witness
            .look(|seen| assert_eq!(seen.at(only.id()), ["w"]));
        assert!(rig.join_timeout(PATIENCE));
    });
}
