//! How a pool ends: closed, dropped, or left by its master.

use std::time::Instant;

use interplay::pool::{Error, JobError, Options, SlaveState};
use serde_json::{Value, json};

use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, eventually, master, ms, secs, spawn};
use crate::workers::{Gate, Worker};
use crate::{PATIENCE, SHORT_TOLERANCE};

#[test]
fn a_close_lets_running_tasks_finish_within_its_grace_and_reports_the_queued_by_id() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let any = Options::new();
        let running = rig.submit(100, &any);
        gate.until_runs(100, 1);
        let queued: Vec<_> = (1..5).map(|task| rig.submit(task, &any)).collect();
        std::thread::scope(|scope| {
            let report = scope.spawn(|| rig.close(PATIENCE));
            for job in &queued {
                assert!(matches!(end_of(job), Err(JobError::Closed)));
            }
            assert!(running.join_timeout(ms(50)).is_err());
            assert!(matches!(rig.submit_with(9, &any), Err(Error::Stopped)));
            gate.open_all();
            let report = report.join().unwrap();
            assert_eq!(end_of(&running).unwrap(), json!(100));
            let ids: Vec<_> = queued.iter().map(|job| job.id()).collect();
            assert_eq!(report.unfinished, ids);
            assert_eq!(report.still_running, Vec::<String>::new());
            assert_eq!(rig.close(ms(0)), report, "the same again");
        });
        assert!(matches!(
            rig.add_slave("v", "127.0.0.1:1", [""; 0]),
            Err(Error::Stopped)
        ));
        assert!(matches!(rig.wait_for(1, PATIENCE), Err(Error::Stopped)));
        let ends: Vec<_> = rig.map::<Value, _>(0..3).collect();
        assert!(
            ends.iter()
                .all(|(_, end)| matches!(end, Err(JobError::Closed)))
        );
        assert_eq!(ends.len(), 3);
        // The slave is free for another master.
        let other = master().start().unwrap();
        let theirs = other.new_connection("theirs", &worker.address()).unwrap();
        eventually(PATIENCE, || theirs.connect().is_ok());
    });
}

#[test]
fn what_runs_beyond_the_grace_is_reported_by_id_and_its_slave_is_free_when_it_has_done_it() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let any = Options::new();
        let (running, queued) = (rig.submit(100, &any), rig.submit(1, &any));
        gate.until_runs(100, 1);
        let begin = Instant::now();
        let report = rig.close(ms(300));
        assert!(begin.elapsed() >= ms(300));
        let mut ids = [running.id(), queued.id()];
        let mut unfinished = report.unfinished;
        ids.sort_unstable();
        unfinished.sort_unstable();
        assert_eq!(unfinished, ids);
        assert_eq!(report.still_running, Vec::<String>::new());
        for job in [&running, &queued] {
            assert!(matches!(job.join(), Err(JobError::Closed)));
        }
        gate.open_all();
        let other = master().start().unwrap();
        let theirs = other.new_connection("theirs", &worker.address()).unwrap();
        eventually(PATIENCE, || theirs.connect().is_ok());
        assert_eq!(gate.runs(1), 0);
    });
}

#[test]
fn a_close_ends_the_wait_of_those_who_join_and_of_retries() {
    deadline(LIMIT, || {
        let worker = Worker::start();
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let patient = Options::new().retries(9).backoff(secs(60));
        let job = rig.submit(json!({"fail": 1}), &patient);
        rig.witness
            .until("a retry", |seen| seen.retries(job.id()) == 1);
        let waits = spawn("waits", {
            let job = job.clone();
            move || job.join()
        });
        assert!(!rig.join_timeout(ms(20)));
        let report = rig.close(secs(60));
        assert_eq!(report.unfinished, [job.id()]);
        assert!(matches!(waits.join().unwrap(), Err(JobError::Closed)));
        assert!(rig.join_timeout(ms(0)));
    });
}

#[test]
fn a_close_waits_neither_for_slaves_that_are_gone_nor_for_those_that_never_were() {
    deadline(LIMIT, || {
        let (stopped, mut killed) = (Worker::start(), Worker::start());
        let rig = Rig::new(SHORT_TOLERANCE, |pool| {
            pool.slave("stopped", stopped.address())
                .slave("killed", killed.address())
                .slave("never", "127.0.0.1:1")
                .grace(secs(5))
        });
        rig.up(2);
        stopped.stop();
        killed.kill();
        rig.witness.becomes("stopped", SlaveState::Connecting, 2);
        rig.witness.becomes("killed", SlaveState::Connecting, 2);
        let report = rig.close(secs(60));
        assert_eq!(report.still_running, Vec::<String>::new());
        for name in ["stopped", "killed", "never"] {
            rig.witness.becomes(name, SlaveState::Gone, 1);
        }
    });
}

#[test]
fn a_slave_is_gone_after_a_close_however_slow_an_observer_is() {
    deadline(LIMIT, || {
        // The pool ends its tasks first, and tells the slaves to go when that was told.
        let (reached, release) = (crossbeam_channel::bounded(1), crossbeam_channel::bounded(1));
        struct Slow {
            gone: crossbeam_channel::Sender<String>,
            reached: crossbeam_channel::Sender<()>,
            release: crossbeam_channel::Receiver<()>,
        }
        impl interplay::pool::Observer for Slow {
            fn task_ended(&self, _: &interplay::pool::TaskEnded<'_>) {
                let _ = self.reached.send(());
                let _ = self.release.recv_timeout(PATIENCE);
            }

            fn slave_changed(&self, change: &interplay::pool::SlaveChange<'_>) {
                if change.state == SlaveState::Gone {
                    let _ = self.gone.send(change.slave.to_owned());
                }
            }
        }
        let (gone, goes) = crossbeam_channel::unbounded();
        let master = master().start().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pool = master
            .pool()
            .slave("w", silent.local_addr().unwrap().to_string())
            .observer(Slow {
                gone,
                reached: reached.0,
                release: release.1,
            })
            .start()
            .unwrap();
        let job = pool.submit(1).unwrap();
        let (connection, _) = silent.accept().unwrap(); // its thread is connecting
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| pool.close(secs(5)));
            reached.1.recv_timeout(PATIENCE).unwrap();
            drop((connection, silent)); // the attempt fails now
            crate::support::pause(ms(300));
            release.0.send(()).unwrap();
            let report = closing.join().unwrap();
            assert_eq!(report.unfinished, [job.id()]);
            assert_eq!(report.still_running, Vec::<String>::new());
        });
        assert_eq!(goes.recv_timeout(PATIENCE).unwrap(), "w");
        assert!(pool.snapshot().slaves.is_empty());
    });
}

#[test]
fn a_pool_that_is_dropped_ends_what_it_holds_after_the_grace_it_was_given() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let mut rig = Rig::calm(|pool| {
            pool.slave("w0", workers[0].address())
                .slave("w1", workers[1].address())
                .grace(ms(500))
        });
        rig.up(2);
        let jobs: Vec<_> = (1..6)
            .map(|task| rig.submit(task, &Options::new()))
            .collect();
        gate.until_runs(1, 1);
        gate.until_runs(2, 1);
        gate.open(1);
        rig.drop_pool();
        assert_eq!(jobs[0].join_timeout(ms(0)).unwrap(), json!(1));
        for job in &jobs[1..] {
            assert!(matches!(job.join_timeout(ms(0)), Err(JobError::Closed)));
        }
    });
}

#[test]
fn a_pool_whose_master_is_shut_down_ends_all_its_tasks() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let worker = Worker::behind(&gate);
        let rig = Rig::calm(|pool| {
            pool.slave("w", worker.address())
                .slave("never", "127.0.0.1:1")
        });
        rig.up(1);
        let running = rig.submit(100, &Options::new());
        gate.until_runs(100, 1);
        let queued: Vec<_> = (1..4)
            .map(|task| rig.submit(task, &Options::new()))
            .collect();
        rig.master.shutdown();
        for job in queued.iter().chain([&running]) {
            let end = end_of(job);
            assert!(
                matches!(end, Err(JobError::Closed | JobError::Lost { .. })),
                "{end:?}"
            );
        }
        assert!(matches!(
            rig.submit_with(4, &Options::new()),
            Err(Error::Stopped)
        ));
        assert!(rig.join_timeout(PATIENCE));
    });
}
