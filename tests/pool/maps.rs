//! Maps: every input gives one result, and only so many are taken at a time.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interplay::pool::{Error, Options};
use interplay::slave::{TaskFail, typed};
use serde_json::{Value, json};

use crate::support::{LIMIT, deadline, eventually, master, secs, slave, spawn};
use crate::{Hand, address, echo, kind, up};

#[test]
fn a_map_gives_one_result_for_each_input_and_an_ordered_one_in_their_order() {
    deadline(LIMIT, || {
        let square = || slave().start(typed(|n: u64| Ok(n * n))).unwrap();
        let slaves = [square(), square(), square()];
        let master = master().start().unwrap();
        let mut builder = master.pool();
        for (number, slave) in slaves.iter().enumerate() {
            builder = builder.slave(format!("w{number}"), address(slave));
        }
        let pool = up(builder, 3);
        let results: BTreeSet<(u64, u64)> = pool
            .map::<u64, _>(10..310u64)
            .map(|(index, result)| (index, result.unwrap()))
            .collect();
        assert_eq!(
            results,
            (0..300).map(|n| (n, (n + 10) * (n + 10))).collect()
        );
        let ordered = pool.map_ordered::<u64, _>(1..301u64).map(Result::unwrap);
        assert!(ordered.eq((1..301).map(|n| n * n)));
        assert_eq!(pool.map::<u64, _>(Vec::<u64>::new()).count(), 0);
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.done, snapshot.ended()), (600, 600));
        assert!(snapshot.slaves.iter().all(|slave| slave.finished > 0));
    });
}

#[test]
fn an_input_is_taken_only_when_there_is_room() {
    deadline(LIMIT, || {
        let hand = Hand::start();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()).look_ahead(3), 1);
        let taken = Cell::new(0);
        let inputs = (0..).inspect(|_| taken.set(taken.get() + 1));
        let mut results = pool.map_ordered::<Value, _>(inputs);
        assert_eq!(taken.get(), 0, "nothing happens before it is asked");
        for round in 1..=5 {
            hand.ends(json!(round));
            assert_eq!(results.next().unwrap().unwrap(), round);
            assert_eq!(
                taken.get(),
                2 + round,
                "as many as fit, the one that is given out aside"
            );
        }
        assert_eq!(pool.snapshot().open(), 2);
        drop(results);
        assert_eq!(
            pool.snapshot().open(),
            0,
            "what it had submitted is cancelled"
        );
        assert_eq!(pool.snapshot().dropped, 2);
    });
}

#[test]
fn a_map_looks_ahead_by_the_slaves_that_there_are() {
    deadline(LIMIT, || {
        let (hand, another) = (Hand::start(), Hand::start());
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", hand.address()), 1);
        let taken = Cell::new(0);
        let inputs = (0..).inspect(|_| taken.set(taken.get() + 1));
        let mut results = pool.map_with::<Value, _>(inputs, &Options::new().on("w"));
        let mut takes = |so_many: usize| {
            hand.ends(json!("done"));
            results.next().unwrap().1.unwrap();
            assert_eq!(taken.get(), so_many);
        };
        takes(10); // two for each slave and eight more
        pool.add_slave("x", &another.address(), [""; 0]).unwrap();
        takes(13); // and one was given out
        pool.remove_slave("x").unwrap();
        takes(13);
        takes(13);
        takes(14);
        hand.ends(json!("dropped"));
    });
}

#[test]
fn early_results_of_an_ordered_map_count_as_taken() {
    deadline(LIMIT, || {
        let (slow, (fast, did)) = (Hand::start(), echo());
        let master = master().start().unwrap();
        let builder = (master.pool())
            .slave("slow", slow.address())
            .slave("fast", address(&fast))
            .look_ahead(5);
        let pool = Arc::new(up(builder, 2));
        // Both are free, and the first one was free for longer, or the other way round.
        let first = pool.submit_with(7, &Options::new().on("fast")).unwrap();
        first.join().unwrap();
        let mapping = spawn("mapping", {
            let pool = pool.clone();
            move || {
                pool.map_ordered::<Value, _>(1..21)
                    .map(Result::unwrap)
                    .collect::<Vec<_>>()
            }
        });
        assert_eq!(slow.begins(), 1);
        eventually(LIMIT, || did.load(Ordering::SeqCst) == 5);
        assert_eq!(
            pool.snapshot().queued,
            0,
            "four early ones and the slow one are all"
        );
        slow.ends(json!(1));
        (1..20).for_each(|_| slow.ends(json!("any")));
        assert_eq!(mapping.join().unwrap().len(), 20);
    });
}

#[test]
fn what_goes_wrong_with_one_input_leaves_the_rest_alone() {
    deadline(LIMIT, || {
        let work = |data: Value| match data["do"].as_str() {
            Some("fail") => Err(TaskFail::new(json!({"message": "as told"}))),
            Some("panic") => panic!("as told"),
            Some("text") => Ok(json!("text")),
            _ => Ok(json!(1)),
        };
        let slave = slave().start(work).unwrap();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", address(&slave)), 1);
        let words = ["fail", "fine", "panic", "text", "fine"];
        let results = pool.map_ordered::<u64, _>(words.map(|word| json!({"do": word})));
        let ends: Vec<&str> = results
            .map(|result| result.map_or_else(|error| kind(&error), |_| "done"))
            .collect();
        assert_eq!(ends, ["failed", "done", "failed", "mismatch", "done"]);

        let bad = HashMap::from([((1, 2), 3)]); // no JSON: its keys are no text
        let inputs = [HashMap::new(), bad.clone(), HashMap::new()];
        let ends: Vec<&str> = (pool.map_ordered::<u64, _>(inputs))
            .map(|result| result.map_or_else(|error| kind(&error), |_| "done"))
            .collect();
        assert_eq!(ends, ["done", "unserializable", "done"]);
        assert!(matches!(
            pool.submit(bad),
            Err(Error::Unserializable { .. })
        ));
    });
}

#[test]
fn the_input_of_a_map_needs_no_thread_and_may_be_of_this_one() {
    deadline(LIMIT, || {
        let (slave, _) = echo();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", address(&slave)), 1);
        let here = std::rc::Rc::new(std::thread::current().id());
        let inputs = (1..5u64).inspect(move |_| assert_eq!(*here, std::thread::current().id()));
        assert_eq!(
            pool.map::<u64, _>(inputs)
                .map(|(_, n)| n.unwrap())
                .sum::<u64>(),
            10
        );
    });
}

#[test]
fn several_maps_and_jobs_share_the_slaves() {
    deadline(LIMIT, || {
        let ((one, _), (two, _)) = (echo(), echo());
        let master = master().start().unwrap();
        let builder = master
            .pool()
            .slave("a", address(&one))
            .slave("b", address(&two));
        let pool = up(builder, 2);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (_, n) in pool.map::<usize, _>(1..51usize) {
                        sum.fetch_add(n.unwrap(), Ordering::Relaxed);
                    }
                    let jobs: Vec<_> = (1..51usize).map(|n| pool.submit(n).unwrap()).collect();
                    for job in jobs {
                        sum.fetch_add(job.join_as::<usize>().unwrap(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 8 * (50 * 51 / 2));
        assert!(pool.join_timeout(LIMIT));
    });
}

#[test]
fn a_map_of_a_closed_pool_still_answers_each_input() {
    deadline(LIMIT, || {
        let (slave, _) = echo();
        let master = master().start().unwrap();
        let pool = up(master.pool().slave("w", address(&slave)), 1);
        let mut results = pool.map::<u64, _>(1..101u64);
        assert!(results.next().unwrap().1.is_ok());
        let _ = pool.close(secs(10));
        let (done, closed): (Vec<_>, Vec<_>) = results.partition(|(_, result)| result.is_ok());
        assert_eq!(done.len() + closed.len(), 99);
        assert!(closed.len() > 80);
        assert!(
            closed
                .iter()
                .all(|(_, result)| kind(result.as_ref().unwrap_err()) == "closed")
        );
    });
}
