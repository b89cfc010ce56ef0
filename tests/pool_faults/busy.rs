//! Slaves that are at work for somebody else (code 601): set aside, asked again, and no failure.

use interplay::pool::{Options, SlaveState};
use serde_json::json;

use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, master, ms};
use crate::workers::{Gate, Worker};

/// A slave that is at a task of a master that has left it.
fn at_work_for_another(gate: &Gate, task: u64) -> Worker {
    let worker = Worker::behind(gate);
    let other = master().start().unwrap();
    let theirs = other.new_connection("theirs", &worker.address()).unwrap();
    theirs.connect().unwrap();
    theirs.new_task(task).unwrap().start().unwrap();
    gate.until_runs(task, 1);
    theirs.disconnect().unwrap();
    worker
}

#[test]
fn a_busy_slave_is_set_aside_and_its_task_goes_to_another() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let (busy, free) = (at_work_for_another(&gate, 100), Worker::behind(&gate));
        let mut rig = Rig::calm(|pool| pool.slave("busy", busy.address()));
        rig.may_be_busy = true;
        // Neither a loss nor a failure, so neither limit counts it, and it may not have run.
        let strict = Options::new().lost_limit(0).idempotent(false);
        let jobs: Vec<_> = (1..5).map(|task| rig.submit(task, &strict)).collect();
        rig.witness.becomes("busy", SlaveState::Busy, 2);
        assert_eq!(rig.state_of("busy"), Some(SlaveState::Busy));
        rig.add_slave("free", &free.address(), [""; 0]).unwrap();
        (1..5).for_each(|task| gate.open(task));
        for (job, task) in jobs.iter().zip(1..) {
            assert_eq!(end_of(job).unwrap(), json!(task));
            assert_eq!(gate.runs(task), 1);
            rig.witness
                .look(|seen| assert_eq!(seen.at(job.id()), ["free"]));
        }
        assert_eq!(rig.snapshot().retried, 0);
    });
}

#[test]
fn a_task_for_a_busy_slave_waits_until_it_is_free() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let (busy, free) = (at_work_for_another(&gate, 100), Worker::behind(&gate));
        let mut rig = Rig::calm(|pool| {
            pool.slave("busy", busy.address())
                .slave("free", free.address())
        });
        rig.may_be_busy = true;
        rig.up(2);
        let strict = Options::new().lost_limit(0).idempotent(false).on("busy");
        let (first, second) = (rig.submit(1, &strict), rig.submit(2, &strict));
        rig.witness.becomes("busy", SlaveState::Busy, 3);
        assert!(first.join_timeout(ms(10)).is_err());
        gate.open_all();
        assert_eq!(end_of(&first).unwrap(), json!(1));
        assert_eq!(end_of(&second).unwrap(), json!(2));
        let snapshot = rig.snapshot();
        assert_eq!(
            (snapshot.done, snapshot.failed, snapshot.retried),
            (2, 0, 0)
        );
    });
}

#[test]
fn a_busy_slave_can_be_removed_and_its_tasks_cancelled() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let (busy, free) = (at_work_for_another(&gate, 100), Worker::behind(&gate));
        let mut rig = Rig::calm(|pool| {
            pool.slave("busy", busy.address())
                .slave("free", free.address())
        });
        rig.may_be_busy = true;
        rig.up(2);
        let only = Options::new().on("busy");
        let (stranded, cancelled) = (rig.submit(1, &only), rig.submit(2, &only));
        rig.witness.becomes("busy", SlaveState::Busy, 1);
        assert!(cancelled.cancel());
        rig.remove_slave("busy").unwrap();
        rig.witness.becomes("busy", SlaveState::Gone, 1);
        assert!(end_of(&stranded).is_err());
        assert!(end_of(&cancelled).is_err());
        gate.open(3);
        assert_eq!(end_of(&rig.submit(3, &Options::new())).unwrap(), json!(3));
    });
}
