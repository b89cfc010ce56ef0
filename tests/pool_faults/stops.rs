//! A slave that is stopped for longer than silence is tolerated, and goes on: it is lost, and comes back.
//!
//! One of ours is connected again at once, with what it still has in hand; until that is done it says that it is busy.

use interplay::pool::{Options, SlaveState};
use serde_json::{Value, json};

use crate::python::python;
use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, eventually};
use crate::workers::{Gate, Worker, signal};
use crate::{PATIENCE, SHORT_TOLERANCE, TOLERANCE};

#[test]
fn the_task_of_a_stopped_slave_is_done_elsewhere_and_its_late_result_is_dropped() {
    deadline(2 * LIMIT, || {
        let gate = Gate::new();
        let workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let mut rig = Rig::new(TOLERANCE, |pool| {
            pool.slave("w0", workers[0].address())
                .slave("w1", workers[1].address())
        });
        rig.may_be_busy = true;
        rig.up(2);
        let job = rig.submit(100, &Options::new());
        let victim = rig.witness.starts(job.id(), 1);
        gate.until_runs(100, 1);
        let stopped = &workers[usize::from(victim == "w1")];
        stopped.stop();
        // Lost, and the other has its task.
        rig.witness.becomes(&victim, SlaveState::Connecting, 2);
        let other = rig.witness.starts(job.id(), 2);
        assert_ne!(victim, other);
        gate.until_runs(100, 2);
        gate.open(100); // for both
        assert_eq!(end_of(&job).unwrap(), json!(100));
        assert_eq!(rig.snapshot().done, 1);

        // It reports now what nobody waits for any more, is connected again, and does tasks.
        stopped.go_on();
        rig.witness.connects(&victim, 2);
        gate.open_all();
        let only = Options::new().on(victim.clone()).idempotent(false);
        for task in 1..5 {
            assert_eq!(end_of(&rig.submit(task, &only)).unwrap(), json!(task));
            assert_eq!(gate.runs(task), 1);
        }
        let snapshot = rig.snapshot();
        assert_eq!((snapshot.done, snapshot.retried), (5, 1));
        let status = snapshot.slaves.iter().find(|slave| slave.name == victim);
        assert_eq!(
            status.unwrap().finished,
            4,
            "the late result does not count"
        );
    });
}

#[test]
fn a_slave_that_is_still_at_its_old_task_when_it_comes_back_finishes_it_before_the_next() {
    deadline(2 * LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let mut rig = Rig::new(SHORT_TOLERANCE, |pool| pool.slave("w", worker.address()));
        rig.may_be_busy = true;
        let job = rig.submit(100, &Options::new());
        gate.until_runs(100, 1);
        worker.stop();
        rig.witness.becomes("w", SlaveState::Connecting, 2);
        worker.go_on();
        // It has only this slave to go to, which has to report first: to be heard, and not to count.
        gate.open(100);
        rig.witness.connects("w", 2);
        assert_eq!(end_of(&job).unwrap(), json!(100));
        assert_eq!(gate.runs(100), 2);
        rig.witness
            .look(|seen| assert_eq!(seen.at(job.id()), ["w", "w"]));
    });
}

#[test]
fn a_slave_that_is_stopped_while_idle_takes_an_offer_along_that_is_not_done_twice() {
    deadline(2 * LIMIT, || {
        let gate = Gate::new();
        gate.open_all();
        let worker = Worker::behind(&gate);
        let mut rig = Rig::new(SHORT_TOLERANCE, |pool| pool.slave("w", worker.address()));
        rig.may_be_busy = true;
        rig.up(1);
        worker.stop();
        // The system takes the request for the stopped slave: nobody knows whether it will run.
        let once = rig.submit(100, &Options::new().idempotent(false));
        let lost = end_of(&once);
        assert!(
            matches!(lost, Err(interplay::pool::JobError::Lost { .. })),
            "{lost:?}"
        );
        worker.go_on();
        rig.witness.connects("w", 2);
        assert_eq!(end_of(&rig.submit(1, &Options::new())).unwrap(), json!(1));
        assert!(gate.runs(100) <= 1);
        assert_eq!(gate.runs(1), 1);
    });
}

#[test]
fn half_of_the_slaves_stop_and_go_on_during_a_map_and_each_task_gives_its_result_once() {
    deadline(2 * LIMIT, || {
        let workers: Vec<Worker> = (0..4).map(|_| Worker::start()).collect();
        let mut rig = Rig::new(SHORT_TOLERANCE, |mut pool| {
            for (index, worker) in workers.iter().enumerate() {
                pool = pool.slave(format!("w{index}"), worker.address());
            }
            pool
        });
        rig.may_be_busy = true;
        rig.up(4);
        let inputs = (0..150).map(|number| json!({"echo": number, "sleep": 0.01}));
        let mut times = [0; 150];
        for (count, (number, result)) in rig.map::<Value, _>(inputs).enumerate() {
            times[usize::try_from(number).unwrap()] += 1;
            assert_eq!(result.unwrap(), json!({"echo": number}));
            if count == 40 {
                workers[0].stop();
                workers[2].stop();
            }
        }
        assert_eq!(times, [1; 150]);
        for index in [0, 2] {
            let name = format!("w{index}");
            rig.witness.becomes(&name, SlaveState::Connecting, 2);
            workers[index].go_on();
            rig.witness.connects(&name, 2);
            let job = rig.submit(json!({"echo": index}), &Options::new().on(name));
            assert_eq!(end_of(&job).unwrap(), json!({"echo": index}));
        }
        assert_eq!(rig.snapshot().done, 152);
    });
}

#[test]
fn a_python_slave_that_was_stopped_under_its_task_comes_back_and_does_tasks_again() {
    let Some(python) = python() else { return };
    deadline(2 * LIMIT, move || {
        let (mut script, port) = python.slave(&["--channel", "7", "--heartbeat", "0.2"]);
        let worker = Worker::start();
        let mut rig = Rig::new(TOLERANCE, |pool| {
            pool.slave("python", format!("127.0.0.1:{port}"))
        });
        rig.may_be_busy = true;
        rig.up(1);
        let job = rig.submit(json!({"echo": 0, "sleep": 1}), &Options::new());
        script.event("task");
        signal(script.id(), "STOP");
        rig.witness.becomes("python", SlaveState::Connecting, 2);
        rig.add_slave("rust", &worker.address(), [""; 0]).unwrap();
        assert_eq!(end_of(&job).unwrap(), json!({"echo": 0}));
        signal(script.id(), "CONT");
        rig.witness.connects("python", 2);
        let only = Options::new().on("python").idempotent(false);
        for number in 1..4 {
            let job = rig.submit(json!({"echo": number}), &only);
            assert_eq!(end_of(&job).unwrap(), json!({"echo": number}));
        }
        eventually(PATIENCE, || rig.snapshot().done == 4);
    });
}
