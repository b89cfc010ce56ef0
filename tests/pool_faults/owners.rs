//! What the owner of a task says: retries, deadlines, cancels; and what it is told, from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use interplay::pool::{Error, JobError, JobState, Options, SlaveState};
use interplay::slave::TaskFail;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, eventually, ms, secs, slave, spawn};
use crate::workers::{Gate, Worker};

#[test]
fn a_task_that_fails_is_tried_again_only_where_that_was_asked_for() {
    deadline(LIMIT, || {
        let runs = Arc::new(AtomicU32::new(0));
        // Fails as often as its task says, counted over all tasks.
        let counted = runs.clone();
        let worker = slave().start(move |task: Value| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            match task["fails"].as_u64() {
                Some(fails) if u64::from(run) < fails => Err(TaskFail::new(json!({"run": run}))),
                _ => Ok(json!(run)),
            }
        });
        let worker = worker.unwrap();
        let rig = Rig::calm(|pool| pool.slave("w", worker.local_addr().to_string()));
        let ended = |data: Value, options: &Options| {
            runs.store(0, Ordering::SeqCst);
            let job = rig.submit(data, options);
            let end = end_of(&job);
            (end, rig.witness.look(|seen| seen.retries(job.id())))
        };
        let quick = Options::new().backoff(ms(10));
        match ended(json!({"fails": 1}), &quick) {
            (Err(JobError::Failed { result }), 0) => assert_eq!(result, json!({"run": 0})),
            other => panic!("{other:?}"),
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        match ended(json!({"fails": 2}), &quick.clone().retries(2)) {
            (Ok(result), 2) => assert_eq!(result, json!(2)),
            other => panic!("{other:?}"),
        }
        match ended(json!({"fails": 9}), &quick.clone().retries(2)) {
            (Err(JobError::Failed { result }), 2) => assert_eq!(result, json!({"run": 2})),
            other => panic!("{other:?}"),
        }
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        // The pauses are 50, 100 and 200 ms.
        let begin = Instant::now();
        assert!(
            ended(
                json!({"fails": 3}),
                &Options::new().retries(3).backoff(ms(50))
            )
            .0
            .is_ok()
        );
        assert!(begin.elapsed() >= ms(350));
        let snapshot = rig.snapshot();
        assert_eq!((snapshot.failed, snapshot.retried), (2, 7));
        assert_eq!(snapshot.slaves[0].finished, 1 + 3 + 3 + 4);
    });
}

#[test]
fn failures_panics_and_refusals_end_their_own_task_only() {
    deadline(LIMIT, || {
        let workers = [Worker::start(), Worker::start()];
        let rig = Rig::calm(|pool| {
            pool.slave("w0", workers[0].address())
                .slave("w1", workers[1].address())
        });
        let inputs = (0..100).map(|number| match number % 4 {
            0 => json!({"fail": [number]}),
            1 => json!({"crash": true}),
            2 => json!({"refuse": {"number": number}}),
            _ => json!({"echo": number}),
        });
        let mut count = 0;
        for (number, end) in rig.map::<Value, _>(inputs) {
            count += 1;
            match (number % 4, end) {
                (0, Err(JobError::Failed { result })) => assert_eq!(result, json!([number])),
                (1, Err(JobError::Failed { .. })) | (2, Err(JobError::Refused { .. })) => {}
                (3, Ok(result)) => assert_eq!(result, json!({"echo": number})),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(count, 100);
        let snapshot = rig.snapshot();
        assert_eq!(
            (snapshot.done, snapshot.failed, snapshot.dropped),
            (25, 50, 25)
        );
        assert!(snapshot.slaves.iter().all(|slave| slave.losses == 0));
    });
}

#[test]
fn a_task_that_one_slave_refuses_goes_to_another() {
    deadline(LIMIT, || {
        let picky = crate::support::slave()
            .start(Picky)
            .expect("a slave starts");
        let gate = Gate::new();
        gate.open_all();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("picky", picky.local_addr().to_string()));
        rig.up(1);
        rig.add_slave("w", &worker.address(), [""; 0]).unwrap();
        let strict = Options::new().idempotent(false).lost_limit(0);
        let jobs: Vec<_> = (1..7).map(|task| rig.submit(task, &strict)).collect();
        for (job, task) in jobs.iter().zip(1..) {
            assert_eq!(end_of(job).unwrap(), json!(task));
            assert_eq!(gate.runs(task), 1);
        }
    });
}

/// Wants no task.
struct Picky;

impl interplay::slave::Worker for Picky {
    fn before_task(&self, _: &Value) -> Result<(), interplay::slave::Refuse> {
        Err(interplay::slave::Refuse::new(json!("not for me")))
    }

    fn process(&self, _: Value) -> Result<Value, TaskFail> {
        unreachable!("it was refused")
    }
}

#[test]
fn a_deadline_ends_a_queued_and_a_running_task_at_once_and_the_slave_stays_occupied() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        rig.up(1);
        let begin = Instant::now();
        let running = rig.submit(100, &Options::new().deadline(ms(700)));
        let queued = rig.submit(1, &Options::new().deadline(ms(400)));
        let patient = rig.submit(2, &Options::new().deadline(secs(600)));
        gate.until_runs(100, 1);
        for (job, limit) in [(&queued, ms(400)), (&running, ms(700))] {
            match end_of(job) {
                Err(JobError::DeadlinePassed { after }) => assert_eq!(after, limit),
                other => panic!("{other:?}"),
            }
            assert!(begin.elapsed() >= limit);
        }
        // Its slave works on: it is not offered anything, nor does its result count.
        let snapshot = rig.snapshot();
        assert_eq!(
            (snapshot.running, snapshot.queued, snapshot.dropped),
            (0, 1, 2)
        );
        assert_eq!(snapshot.slaves[0].state, SlaveState::Running);
        assert_eq!(snapshot.slaves[0].running, None);
        assert_eq!(patient.state(), JobState::Queued);
        gate.open_all();
        assert_eq!(end_of(&patient).unwrap(), json!(2));
        assert_eq!((gate.runs(100), gate.runs(1), gate.runs(2)), (1, 0, 1));
        assert_eq!(rig.snapshot().done, 1);
    });
}

#[test]
fn a_task_without_time_ends_at_its_deadline_and_not_before() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let nothing = Options::new().deadline(ms(0));
        let jobs: Vec<_> = (0..50).map(|task| rig.submit(task, &nothing)).collect();
        for job in &jobs {
            let end = end_of(job);
            assert!(
                matches!(end, Err(JobError::DeadlinePassed { .. })),
                "{end:?}"
            );
        }
        gate.open_all();
        assert_eq!(end_of(&rig.submit(50, &Options::new())).unwrap(), json!(50));
    });
}

#[test]
fn a_cancel_ends_a_queued_and_a_running_task_at_once_and_the_late_result_is_dropped() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let any = Options::new();
        let (running, queued) = (rig.submit(100, &any), rig.submit(1, &any));
        gate.until_runs(100, 1);
        assert_eq!(
            running.state(),
            JobState::Running {
                slave: "w".to_owned()
            }
        );
        assert_eq!(queued.state(), JobState::Queued);
        for job in [&running, &queued] {
            assert!(job.cancel());
            assert!(!job.cancel());
            assert_eq!(job.state(), JobState::Ended);
            assert!(matches!(job.join_timeout(ms(0)), Err(JobError::Cancelled)));
        }
        let next = rig.submit(2, &any);
        assert!(next.join_timeout(ms(50)).is_err());
        assert_eq!(gate.runs(2), 0);
        gate.open_all();
        assert_eq!(end_of(&next).unwrap(), json!(2));
        assert!(matches!(running.join(), Err(JobError::Cancelled)));
        assert_eq!(gate.runs(1), 0);
        let snapshot = rig.snapshot();
        assert_eq!((snapshot.done, snapshot.dropped), (1, 2));
    });
}

#[test]
fn a_slave_that_is_removed_ends_its_task_and_leaves_and_its_name_is_free() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let rig = Rig::calm(|pool| pool.slave_with("w", workers[0].address(), ["gpu"]));
        let running = rig.submit(100, &Options::new());
        gate.until_runs(100, 1);
        let only = rig.submit(1, &Options::new().label("gpu"));
        rig.add_slave("v", &workers[1].address(), [""; 0]).unwrap();
        let any = rig.submit(2, &Options::new());
        rig.remove_slave("w").unwrap();
        // Nobody is left for the one, the other is done elsewhere, and nothing new comes here.
        let end = end_of(&only);
        assert!(matches!(end, Err(JobError::NoSlave { .. })), "{end:?}");
        gate.open(2);
        assert_eq!(end_of(&any).unwrap(), json!(2));
        assert_eq!(rig.state_of("w"), Some(SlaveState::Leaving));
        assert!(matches!(
            rig.remove_slave("w"),
            Err(Error::UnknownSlave { .. })
        ));
        assert!(matches!(
            rig.add_slave("w", &workers[0].address(), [""; 0]),
            Err(Error::NameTaken { .. })
        ));
        gate.open(100);
        assert_eq!(end_of(&running).unwrap(), json!(100));
        rig.witness.becomes("w", SlaveState::Gone, 1);
        assert_eq!(rig.state_of("w"), None);
        assert_eq!((gate.runs(100), gate.runs(1)), (1, 0));
        // The slave is free for the next master, or for us.
        rig.add_slave("w", &workers[0].address(), [""; 0]).unwrap();
        gate.open_all();
        let again = rig.submit(3, &Options::new().on("w"));
        assert_eq!(end_of(&again).unwrap(), json!(3));
    });
}

#[test]
fn a_slave_that_is_removed_and_then_dies_takes_its_task_to_another() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let mut worker = Worker::behind(&gate);
        let other = Worker::behind(&gate);
        let rig = Rig::new(crate::TOLERANCE, |pool| pool.slave("w", worker.address()));
        let job = rig.submit(100, &Options::new());
        gate.until_runs(100, 1);
        rig.add_slave("v", &other.address(), [""; 0]).unwrap();
        rig.up(1);
        rig.remove_slave("w").unwrap();
        worker.kill();
        rig.witness.becomes("w", SlaveState::Gone, 1);
        gate.open_all();
        assert_eq!(end_of(&job).unwrap(), json!(100));
        rig.witness
            .look(|seen| assert_eq!(seen.at(job.id()), ["w", "v"]));
    });
}

#[test]
fn slaves_come_and_go_while_a_map_runs() {
    deadline(LIMIT, || {
        let workers: Vec<Worker> = (0..3).map(|_| Worker::start()).collect();
        let rig = Rig::calm(|pool| pool.slave("w0", workers[0].address()));
        let inputs = (0..120).map(|number| json!({"echo": number}));
        let mut times = [0; 120];
        let none = [""; 0];
        for (count, (number, end)) in rig.map::<Value, _>(inputs).enumerate() {
            assert_eq!(end.unwrap(), json!({"echo": number}));
            times[usize::try_from(number).unwrap()] += 1;
            match count {
                20 => rig.add_slave("w1", &workers[1].address(), none).unwrap(),
                40 => {
                    rig.up(2);
                    rig.remove_slave("w0").unwrap();
                }
                60 => rig.add_slave("w2", &workers[2].address(), none).unwrap(),
                80 => {
                    rig.witness.becomes("w0", SlaveState::Gone, 1);
                    rig.add_slave("w0", &workers[0].address(), none).unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(times, [1; 120]);
        assert!(rig.snapshot().slaves.iter().all(|slave| slave.losses == 0));
    });
}

#[test]
fn a_name_is_free_as_soon_as_its_slave_is_gone_however_often() {
    deadline(LIMIT, || {
        let worker = Worker::start();
        let rig = Rig::calm(|pool| pool);
        for time in 1..=20 {
            rig.add_slave("w", &worker.address(), [""; 0]).unwrap();
            if time % 2 == 0 {
                let echo = json!({"echo": time});
                assert_eq!(end_of(&rig.submit(&echo, &Options::new())).unwrap(), echo);
            }
            rig.remove_slave("w").unwrap();
            rig.witness.becomes("w", SlaveState::Gone, time);
        }
    });
}

#[test]
fn all_threads_that_wait_for_a_task_are_told_the_same() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let jobs = [
            rig.submit(100, &Options::new()),
            rig.submit(1, &Options::new()),
        ];
        gate.until_runs(100, 1);
        let waiting: Vec<_> = (0..8)
            .map(|index| {
                let job = jobs[index % 2].clone();
                spawn("waits", move || job.join())
            })
            .collect();
        assert!(jobs[1].cancel());
        gate.open_all();
        for (index, thread) in waiting.into_iter().enumerate() {
            match (index % 2, thread.join().unwrap()) {
                (0, Ok(result)) => assert_eq!(result, json!(100)),
                (1, Err(JobError::Cancelled)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_submit_beyond_the_limit_waits_or_says_so() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()).max_queued(2));
        let any = Options::new();
        let running = rig.submit(100, &any);
        gate.until_runs(100, 1);
        let queued = [rig.submit(1, &any), rig.submit(2, &any)];
        assert!(matches!(
            rig.try_submit(3, &any),
            Err(Error::Full { limit: 2 })
        ));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| rig.submit(3, &any));
            assert!(!waits.is_finished());
            gate.open_all();
            assert_eq!(end_of(&waits.join().unwrap()).unwrap(), json!(3));
        });
        for job in queued.iter().chain([&running]) {
            assert!(end_of(job).is_ok());
        }
        // One that waits when the pool ends is told, and does not wait for ever.
        let shut = Gate::new();
        let held = Worker::behind(&shut);
        let rig = Rig::calm(|pool| pool.slave("w", held.address()).max_queued(1));
        let running = rig.submit(100, &any);
        shut.until_runs(100, 1);
        rig.submit(1, &any);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| rig.submit_with(2, &any).err());
            let report = rig.close(ms(50));
            assert_eq!(report.unfinished.len(), 2);
            assert!(matches!(waits.join().unwrap(), Some(Error::Stopped)));
        });
        assert!(matches!(running.join(), Err(JobError::Closed)));
    });
}

#[test]
fn a_job_whose_handles_are_dropped_ends_all_the_same() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        for task in 1..4 {
            drop(rig.submit_with(task, &Options::new()).unwrap());
        }
        gate.open_all();
        assert!(rig.join_timeout(PATIENCE));
        eventually(PATIENCE, || rig.snapshot().done == 3);
        assert_eq!(rig.witness.look(|seen| seen.ended.len()), 3);
    });
}
