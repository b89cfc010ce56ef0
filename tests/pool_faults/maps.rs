//! Maps take no more than they may, leave nothing behind, and one bad result spoils no other.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interplay::pool::{JobError, Options};
use interplay::slave::{Slave, typed};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::rig::{Rig, end_of};
use crate::support::{LIMIT, deadline, eventually, ms, slave};
use crate::workers::{Gate, Worker};

/// Slaves of this process, which are quick. Their tasks begin with 1, since DI-engine's wire makes {} of 0.
fn squares(count: usize) -> Vec<Slave> {
    let start = || slave().start(typed(|n: u64| Ok(n * n))).unwrap();
    (0..count).map(|_| start()).collect()
}

fn rig_of(slaves: &[Slave], look_ahead: usize) -> Rig {
    let rig = Rig::calm(|mut pool| {
        for (index, slave) in slaves.iter().enumerate() {
            pool = pool.slave(format!("w{index}"), slave.local_addr().to_string());
        }
        pool.look_ahead(look_ahead)
    });
    rig.up(slaves.len());
    rig
}

#[test]
fn results_that_do_not_fit_the_type_are_errors_of_their_own_and_the_rest_goes_on() {
    #[derive(Debug, Deserialize)]
    struct Echo {
        echo: u32,
    }
    deadline(LIMIT, || {
        let worker = Worker::start();
        let rig = Rig::calm(|pool| pool.slave("w", worker.address()));
        let inputs = || {
            (0..60_u32).map(|number| match number % 3 {
                0 => json!({"echo": "no number"}),
                1 => json!({"a": 1, "b": number}), // gives a sum
                _ => json!({"echo": number}),
            })
        };
        let mut fits = 0;
        for (number, end) in rig.map::<Echo, _>(inputs()) {
            match end {
                Ok(Echo { echo }) => {
                    assert_eq!((u64::from(echo), number % 3), (number, 2));
                    fits += 1;
                }
                Err(JobError::Mismatch { .. }) => assert_ne!(number % 3, 2),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(fits, 20);
        let mut ends = rig.map_ordered::<Echo, _>(inputs()).enumerate();
        assert!(ends.all(|(number, end)| (number % 3 == 2) == end.is_ok()));
        let job = rig.submit(json!({"echo": "text"}), &Options::new());
        assert!(matches!(
            job.join_as::<Echo>(),
            Err(JobError::Mismatch { .. })
        ));
        assert_eq!(
            end_of(&job).unwrap(),
            json!({"echo": "text"}),
            "it is there"
        );
        // For the pool these are results.
        assert_eq!(rig.snapshot().done, 121);
    });
}

#[test]
fn an_input_that_is_no_json_is_an_error_of_its_own_and_the_rest_goes_on() {
    struct Odd(u64);
    impl Serialize for Odd {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 % 5 {
                0 => Err(serde::ser::Error::custom("five")),
                _ => self.0.serialize(serializer),
            }
        }
    }
    deadline(LIMIT, || {
        let slaves = squares(2);
        let rig = rig_of(&slaves, 8);
        let ends: Vec<_> = rig.map_ordered::<u64, _>((1..51).map(Odd)).collect();
        assert_eq!(ends.len(), 50);
        for (number, end) in (1..).zip(ends) {
            match end {
                Ok(square) => assert_eq!((square, number % 5 == 0), (number * number, false)),
                Err(JobError::Unserializable { .. }) => assert_eq!(number % 5, 0),
                other => panic!("{other:?}"),
            }
        }
        assert!(rig.submit_with(Odd(5), &Options::new()).is_err());
    });
}

#[test]
fn the_input_is_never_pulled_further_than_the_look_ahead() {
    deadline(LIMIT, || {
        let slaves = squares(3);
        for look_ahead in [1, 2, 7] {
            let rig = rig_of(&slaves, look_ahead);
            let pulled = Cell::new(0);
            let inputs = || (1..101_u64).inspect(|_| pulled.set(pulled.get() + 1));
            let mut map = rig.map::<u64, _>(inputs());
            assert_eq!(pulled.get(), 0, "it does nothing until it is iterated");
            let mut given = 0;
            for (number, end) in map.by_ref() {
                // All that was pulled was given out, or is to come.
                assert!(pulled.get() <= given + look_ahead, "{look_ahead}");
                given += 1;
                assert_eq!(end.unwrap(), (number + 1).pow(2));
            }
            assert!(map.next().is_none() && map.next().is_none());
            assert_eq!((given, pulled.get()), (100, 100));

            pulled.set(0);
            for (given, end) in rig.map_ordered::<u64, _>(inputs()).enumerate() {
                assert!(pulled.get() <= given + look_ahead, "{look_ahead}");
                assert_eq!(end.unwrap(), (given as u64 + 1).pow(2));
            }
            assert_eq!(pulled.get(), 100);
        }
    });
}

#[test]
fn a_map_in_order_takes_no_more_while_its_first_task_is_held_up() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let rig = Rig::calm(|pool| {
            pool.slave("w0", workers[0].address())
                .slave("w1", workers[1].address())
                .look_ahead(6)
        });
        rig.up(2);
        let pulled = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let counted = pulled.clone();
            let mapping = scope.spawn(|| {
                let inputs = (1..21_u64).inspect(move |_| {
                    counted.fetch_add(1, Ordering::SeqCst);
                });
                let ends = rig.map_ordered::<u64, _>(inputs);
                ends.map(Result::unwrap).collect::<Vec<_>>()
            });
            (2..21).for_each(|task| gate.open(task));
            // All that it may have but the first ends, and no more is taken.
            eventually(PATIENCE, || rig.snapshot().done == 5);
            crate::support::pause(ms(100));
            assert_eq!(pulled.load(Ordering::SeqCst), 6);
            gate.open(1);
            assert_eq!(mapping.join().unwrap(), (1..21).collect::<Vec<_>>());
        });
    });
}

#[test]
fn a_long_map_holds_no_more_at_its_end_than_at_its_beginning() {
    /// Knows how many of it there are.
    struct Counted(u64, Rc<Cell<usize>>);
    impl Counted {
        fn new(number: u64, alive: &Rc<Cell<usize>>) -> Self {
            alive.set(alive.get() + 1);
            Self(number, alive.clone())
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.set(self.1.get() - 1);
        }
    }
    impl Serialize for Counted {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
    deadline(LIMIT, || {
        let slaves = squares(2);
        let rig = rig_of(&slaves, 16);
        let alive = Rc::new(Cell::new(0));
        let inputs = (1..3_001_u64).map(|number| Counted::new(number, &alive));
        let mut most = 0;
        let mut sum = 0;
        for (count, (_, end)) in rig.map::<u64, _>(inputs).enumerate() {
            sum += end.unwrap();
            assert!(alive.get() <= 16);
            if count % 100 == 0 {
                let snapshot = rig.snapshot();
                most = most.max(snapshot.open());
                // Nothing is between the pool and the map but what the map may have.
                let given = u64::try_from(count).unwrap() + 1;
                assert!(snapshot.ended() <= given + 16);
            }
        }
        assert_eq!(sum, (1..3_001).map(|number| number * number).sum::<u64>());
        assert!(most <= 16, "{most}");
        assert_eq!(alive.get(), 0);
        assert_eq!(rig.snapshot().open(), 0);
    });
}

#[test]
fn a_map_that_is_dropped_half_way_cancels_the_rest_and_leaves_the_slaves_to_others() {
    deadline(LIMIT, || {
        let gate = Gate::new();
        let workers = [Worker::behind(&gate), Worker::behind(&gate)];
        let rig = Rig::calm(|pool| {
            pool.slave("w0", workers[0].address())
                .slave("w1", workers[1].address())
                .look_ahead(10)
        });
        rig.up(2);
        gate.open(1);
        let mut map = rig.map::<u64, _>(1..);
        assert_eq!(map.next().unwrap().1.unwrap(), 1);
        gate.until_runs(2, 1);
        gate.until_runs(3, 1);
        // What is left: two that run, and seven or eight that were taken when another ended.
        drop(map);
        let snapshot = rig.snapshot();
        assert_eq!((snapshot.open(), snapshot.done), (0, 1));
        let cancelled = snapshot.dropped;
        assert_eq!(cancelled, 9);
        assert!(rig.join_timeout(PATIENCE));
        gate.open_all();
        let mut ordered = rig.map_ordered::<u64, _>(100..);
        assert_eq!(ordered.next().unwrap().unwrap(), 100);
        assert_eq!(ordered.next().unwrap().unwrap(), 101);
        drop(ordered);
        for task in 4..20 {
            assert_eq!(gate.runs(task), 0);
        }
        assert_eq!(end_of(&rig.submit(50, &Options::new())).unwrap(), json!(50));
    });
}

#[test]
fn an_input_that_panics_ends_its_map_and_nothing_else() {
    deadline(LIMIT, || {
        let slaves = squares(1);
        let rig = rig_of(&slaves, 4);
        let inputs = (1..10_u64).map(|number| match number {
            6 => std::panic::panic_any("as planned"),
            number => number,
        });
        let map = std::panic::AssertUnwindSafe(|| rig.map::<u64, _>(inputs).count());
        assert!(std::panic::catch_unwind(map).is_err());
        assert!(rig.join_timeout(PATIENCE));
        assert_eq!(rig.map::<u64, _>(1..11_u64).count(), 10);
    });
}

#[test]
fn maps_of_several_threads_share_the_slaves_and_get_their_own_results() {
    deadline(LIMIT, || {
        let slaves = squares(3);
        let rig = rig_of(&slaves, 5);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let rig = &rig;
                scope.spawn(move || {
                    let first = thread * 1000 + 1;
                    let inputs = first..first + 100;
                    let ends = rig.map_ordered::<u64, _>(inputs.clone());
                    assert!(ends.zip(inputs).all(|(end, n)| end.unwrap() == n * n));
                });
            }
            rig.join_timeout(ms(1));
        });
        assert_eq!(rig.snapshot().done, 400);
    });
}

#[test]
fn a_map_whose_pool_is_closed_half_way_says_so_of_each_input_that_is_left() {
    deadline(LIMIT, || {
        let slaves = squares(2);
        let rig = rig_of(&slaves, 6);
        let mut ends = Vec::new();
        for (count, (_, end)) in rig.map::<Value, _>(1..41_u64).enumerate() {
            if count == 10 {
                let _ = rig.close(PATIENCE);
            }
            ends.push(end);
        }
        assert_eq!(ends.len(), 40);
        assert!(ends[..10].iter().all(Result::is_ok));
        let closed = |end: &&Result<_, _>| matches!(end, Err(JobError::Closed));
        assert!(ends.iter().filter(closed).count() >= 40 - 10 - 6 - 2);
    });
}
