//! What the queue promises, with numbers for the time.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::master;
use crate::pool::options::Options;
use crate::task::Loss;

const DEADLINE: Duration = Duration::from_secs(120);

/// A queue, the hour, and what was seen of the effects.
struct Rig {
    queue: Queue<u32, SlaveId>,
    start: Instant,
    now: Instant,
    /// What each slave is at, as far as it was told.
    at: BTreeMap<SlaveId, (Key, u32)>,
    /// Slaves that were told to leave.
    leaving: BTreeSet<SlaveId>,
    ended: Vec<(u32, String)>,
    retried: Vec<(u32, Duration)>,
    keys: Vec<Key>,
}

impl Rig {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            queue: Queue::new(DEADLINE),
            start,
            now: start,
            at: BTreeMap::new(),
            leaving: BTreeSet::new(),
            ended: Vec::new(),
            retried: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// With slaves `w1`… that are connected.
    fn with(slaves: usize) -> Self {
        let mut rig = Self::new();
        for number in 1..=slaves {
            let id = rig.add(&format!("w{number}"), &[]).unwrap();
            rig.up(id);
        }
        rig
    }

    /// Carries the effects out, and holds them against what was promised.
    fn settle(&mut self) {
        for effect in self.queue.take_effects() {
            match effect {
                Effect::Run { slave, key, task } => {
                    let before = self.at.insert(slave, (key, task));
                    assert_eq!(before, None, "{slave:?} has two tasks");
                    assert!(!self.leaving.contains(&slave), "{slave:?} is leaving");
                    let elsewhere = self.at.values().filter(|(other, _)| *other == key);
                    assert_eq!(elsewhere.count(), 1, "task {task} is with two slaves");
                    assert!(self.ended.iter().all(|(ended, _)| *ended != task));
                }
                Effect::Leave { slave } => {
                    assert!(self.leaving.insert(slave), "{slave:?} is told twice");
                    assert!(!self.at.contains_key(&slave), "{slave:?} has a task");
                }
                Effect::Ended { task, result, .. } => {
                    assert!(
                        self.ended.iter().all(|(ended, _)| *ended != task),
                        "task {task} ended twice"
                    );
                    self.ended.push((task, word(&result)));
                }
                Effect::Retried { task, pause, .. } => self.retried.push((task, pause)),
                Effect::Changed { .. } => {}
            }
        }
        self.check();
    }

    /// What holds between any two moves.
    fn check(&self) {
        let queue = &self.queue;
        let stand = |wanted: fn(Stand) -> bool| {
            let tasks = queue.tasks.values();
            tasks.filter(|task| wanted(task.stand)).count()
        };
        assert_eq!(queue.running, stand(|s| matches!(s, Stand::At(_))));
        assert_eq!(self.keys.len(), queue.open() + self.ended.len());
        let counts = queue.counts();
        let sum = counts.done + counts.failed + counts.lost + counts.dropped;
        assert_eq!(sum, self.ended.len() as u64);
        let free = queue.slaves.iter();
        let free: BTreeMap<u64, SlaveId> = free
            .filter_map(|(id, slave)| match slave.state {
                State::Free { turn } => Some((turn, *id)),
                _ => None,
            })
            .collect();
        assert_eq!(queue.free, free);
        for id in free.values() {
            let next = queue.lines.next_for(*id, &queue.slaves[id]);
            assert_eq!(next, None, "{id:?} is free and there is a task for it");
        }
        for (key, task) in &queue.tasks {
            match task.stand {
                Stand::At(id) => {
                    assert_eq!(queue.slaves[&id].state, State::At(*key));
                    assert_eq!(self.at[&id].0, *key);
                }
                _ => assert!(queue.has_slave_for(&task.want), "{key:?} waits for nobody"),
            }
            if let Some(due) = task.deadline {
                assert!(queue.timers.contains(&(due, Timer::Deadline(*key))));
            }
        }
    }

    fn add(&mut self, name: &str, labels: &[&str]) -> Result<SlaveId, Error> {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let added = self.queue.add(name.to_owned(), labels, |id| id, self.now);
        self.settle();
        added
    }

    fn up(&mut self, id: SlaveId) {
        self.queue.came_up(id);
        self.settle();
    }

    fn submit(&mut self, options: &Options) -> Result<Key, Error> {
        let number = self.keys.len() as u32;
        let policy = Arc::new(options.over(&Options::new()));
        let key = self.queue.submit(number, policy, self.now)?;
        self.keys.push(key);
        self.settle();
        Ok(key)
    }

    fn submit_any(&mut self, count: usize) {
        for _ in 0..count {
            self.submit(&Options::new()).unwrap();
        }
    }

    fn report(&mut self, id: SlaveId, report: Report) {
        let (key, _) = self.at.remove(&id).expect("the slave has a task");
        self.queue.report(id, key, report, self.now);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.queue.tick(self.now);
        self.settle();
    }

    /// The numbers of the tasks that slaves 1, 2… have.
    fn tasks(&self) -> Vec<(u64, u32)> {
        self.at
            .iter()
            .map(|(id, (_, task))| (id.0, *task))
            .collect()
    }

    fn end_of(&self, task: u32) -> &str {
        let mut ended = self.ended.iter().filter(|(ended, _)| *ended == task);
        ended.next().map_or("open", |(_, word)| word)
    }
}

fn word(result: &Result<Value, JobError>) -> String {
    match result {
        Ok(_) => "done",
        Err(JobError::Failed { .. }) => "failed",
        Err(JobError::Lost { .. }) => "lost",
        Err(JobError::Refused { .. }) => "refused",
        Err(JobError::Unsent { .. }) => "unsent",
        Err(JobError::NoSlave { last: None }) => "no slave",
        Err(JobError::NoSlave { last: Some(_) }) => "no slave any more",
        Err(JobError::DeadlinePassed { .. }) => "late",
        Err(JobError::Cancelled) => "cancelled",
        Err(JobError::Closed) => "closed",
        Err(_) => "something else",
    }
    .to_owned()
}

fn done() -> Report {
    Report::Completed(json!(1))
}

fn failed() -> Report {
    Report::Failed(json!(0))
}

fn lost() -> Report {
    Report::Lost(Loss::Forgotten)
}

fn refused() -> Report {
    Report::Refused(master::Error::Stopped)
}

const S: [SlaveId; 4] = [SlaveId(1), SlaveId(2), SlaveId(3), SlaveId(4)];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn tasks_go_to_the_slave_that_was_free_for_longest_and_wait_in_their_order() {
    let mut rig = Rig::with(3);
    rig.submit_any(5);
    assert_eq!(rig.tasks(), [(1, 0), (2, 1), (3, 2)]);
    rig.report(S[1], done());
    assert_eq!(rig.tasks(), [(1, 0), (2, 3), (3, 2)]);
    rig.report(S[2], done());
    rig.report(S[0], done());
    rig.report(S[2], done());
    rig.report(S[1], done());
    assert_eq!(rig.tasks(), []);
    rig.submit_any(3);
    assert_eq!(
        rig.tasks(),
        [(1, 5), (2, 7), (3, 6)],
        "1, 3, 2 became free in this order"
    );
    assert_eq!(rig.queue.counts().done, 5);
}

#[test]
fn a_task_goes_only_where_it_may() {
    let mut rig = Rig::new();
    for (name, labels) in [("a", &["gpu"][..]), ("b", &["gpu", "big"]), ("c", &[])] {
        let id = rig.add(name, labels).unwrap();
        rig.up(id);
    }
    rig.submit(&Options::new().label("big")).unwrap();
    rig.submit(&Options::new().label("big")).unwrap();
    rig.submit(&Options::new().on("c")).unwrap();
    rig.submit(&Options::new().on("c")).unwrap();
    rig.submit(&Options::new().label("gpu")).unwrap();
    rig.submit_any(1);
    assert_eq!(rig.tasks(), [(1, 4), (2, 0), (3, 2)]);
    rig.report(S[0], done());
    assert_eq!(
        rig.tasks(),
        [(1, 5), (2, 0), (3, 2)],
        "the others wait for others"
    );
    rig.report(S[2], done());
    rig.report(S[1], done());
    assert_eq!(rig.tasks(), [(1, 5), (2, 1), (3, 3)]);
    let refusals = [
        (Options::new().on("d"), "the pool has no slave \"d\""),
        (Options::new().label("red"), "no slave of the pool is red"),
        (
            Options::new().on("a").label("big"),
            "no slave of the pool is big",
        ),
    ];
    for (options, words) in refusals {
        assert_eq!(rig.submit(&options).unwrap_err().to_string(), words);
    }
    assert!(matches!(rig.add("a", &[]), Err(Error::NameTaken { .. })));
}

#[test]
fn a_pool_without_slaves_takes_no_task() {
    let mut rig = Rig::new();
    assert!(matches!(rig.submit(&Options::new()), Err(Error::NoSlaves)));
    rig.add("w", &[]).unwrap();
    rig.submit_any(1); // it may come up
    assert_eq!(rig.end_of(0), "open");
}

#[test]
fn a_failed_task_is_retried_only_if_asked_and_each_time_later() {
    let mut rig = Rig::with(1);
    rig.submit_any(1);
    rig.report(S[0], failed());
    assert_eq!(rig.end_of(0), "failed");
    rig.submit(&Options::new().retries(2).backoff(ms(100)))
        .unwrap();
    rig.report(S[0], failed());
    assert_eq!(rig.tasks(), [], "it waits");
    rig.pass(ms(99));
    assert_eq!(rig.tasks(), []);
    rig.pass(ms(1));
    assert_eq!(rig.tasks(), [(1, 1)]);
    rig.report(S[0], failed());
    rig.pass(ms(199));
    assert_eq!(rig.tasks(), []);
    rig.pass(ms(1));
    rig.report(S[0], failed());
    assert_eq!(rig.end_of(1), "failed");
    assert_eq!(rig.retried, [(1, ms(100)), (1, ms(200))]);
}

#[test]
fn a_task_whose_slave_was_lost_goes_to_another_up_to_its_limit() {
    let mut rig = Rig::with(4);
    rig.submit(&Options::new().lost_limit(2)).unwrap();
    rig.report(S[0], lost());
    assert_eq!(rig.tasks(), [(2, 0)]);
    rig.report(S[1], lost());
    assert_eq!(rig.tasks(), [(3, 0)]);
    rig.report(S[2], lost());
    assert_eq!(rig.end_of(0), "lost");
    rig.submit(&Options::new().idempotent(false)).unwrap();
    rig.report(S[3], Report::NotBegun("not there".into()));
    assert_eq!(rig.end_of(1), "open", "it surely has not run");
    rig.up(S[0]);
    rig.report(S[0], lost());
    assert_eq!(rig.end_of(1), "lost");
}

#[test]
fn a_refused_task_goes_elsewhere_until_all_have_refused() {
    let mut rig = Rig::with(2);
    rig.submit_any(1);
    rig.report(S[0], refused());
    assert_eq!(rig.tasks(), [(2, 0)]);
    rig.submit_any(1);
    assert_eq!(
        rig.tasks(),
        [(1, 1), (2, 0)],
        "the one that refused is free for others"
    );
    rig.report(S[1], refused());
    assert_eq!(rig.end_of(0), "refused");
    rig.submit_any(1);
    assert_eq!(rig.tasks(), [(1, 1), (2, 2)]);
    rig.report(S[1], refused());
    assert_eq!(rig.end_of(2), "open", "the other one may still take it");
    rig.report(S[0], done());
    assert_eq!(rig.tasks(), [(1, 2)]);
}

#[test]
fn a_busy_slave_is_set_aside_for_longer_each_time_and_nothing_is_counted() {
    let mut rig = Rig::with(1);
    rig.submit(&Options::new().lost_limit(0).idempotent(false))
        .unwrap();
    for pause in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
        assert_eq!(rig.tasks(), [(1, 0)]);
        rig.report(S[0], Report::Busy);
        assert_eq!(rig.queue.slaves[&S[0]].state(), SlaveState::Busy);
        rig.pass(ms(pause - 1));
        assert_eq!(rig.tasks(), []);
        rig.pass(ms(1));
    }
    rig.report(S[0], done());
    assert_eq!((rig.end_of(0), &*rig.retried), ("done", &[][..]));
    rig.submit_any(1);
    rig.report(S[0], Report::Busy);
    rig.pass(ms(50));
    assert_eq!(
        rig.tasks(),
        [(1, 1)],
        "it has proved itself, so the pause is short again"
    );
}

#[test]
fn a_deadline_ends_a_task_wherever_it_is_and_the_slave_stays_occupied() {
    let mut rig = Rig::with(1);
    let options = Options::new().deadline(ms(500)).retries(1);
    rig.submit(&options).unwrap();
    rig.submit(&options).unwrap();
    rig.pass(ms(499));
    assert_eq!(rig.end_of(0), "open");
    rig.pass(ms(1));
    assert_eq!((rig.end_of(0), rig.end_of(1)), ("late", "late"));
    rig.submit_any(1);
    assert_eq!(rig.tasks(), [(1, 0)], "it has not reported yet");
    assert_eq!((rig.queue.running(), rig.queue.open()), (0, 1));
    rig.report(S[0], done());
    assert_eq!(rig.tasks(), [(1, 2)]);
    assert_eq!(rig.queue.counts().done, 0, "the late result is dropped");
    rig.report(S[0], done());
    rig.submit(&options).unwrap();
    rig.report(S[0], failed());
    rig.pass(ms(500));
    assert_eq!(rig.end_of(3), "late", "while it waits for its retry");
    assert_eq!(rig.queue.next_due(), None);
}

#[test]
fn a_cancelled_task_ends_at_once_and_once() {
    let mut rig = Rig::with(1);
    rig.submit_any(2);
    let keys = rig.keys.clone();
    for (key, expected) in [(0, true), (1, true), (0, false), (1, false)] {
        assert_eq!(rig.queue.cancel(keys[key]), expected);
        rig.settle();
    }
    rig.report(S[0], lost());
    assert_eq!((rig.end_of(0), rig.end_of(1)), ("cancelled", "cancelled"));
    assert_eq!(rig.retried, []);
}

#[test]
fn a_slave_that_does_not_come_up_is_given_up_and_its_tasks_end() {
    let mut rig = Rig::new();
    let id = rig.add("w", &[]).unwrap();
    rig.submit_any(1);
    let mut pauses = Vec::new();
    while let Next::Connect { at } = rig.queue.next(id) {
        pauses.push(at.duration_since(rig.now));
        rig.now = at;
        rig.queue.missed(id, "refused".into(), rig.now);
        rig.settle();
    }
    assert_eq!(pauses[..5], [ms(0), ms(100), ms(200), ms(400), ms(800)]);
    assert_eq!(pauses[10], ms(5000));
    assert_eq!(
        rig.now - rig.start,
        DEADLINE,
        "the last attempt is at the deadline"
    );
    assert_eq!(rig.queue.next(id), Next::End);
    assert_eq!(rig.end_of(0), "no slave");
    assert!(matches!(rig.submit(&Options::new()), Err(Error::NoSlaves)));
    rig.add("w", &[]).expect("the name is free again");
}

#[test]
fn a_lost_slave_is_tried_at_once_and_one_that_proves_useless_less_and_less_often() {
    let mut rig = Rig::with(1);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        assert!(rig.queue.went_down(S[0], "silent".into(), rig.now));
        let Next::Connect { at } = rig.queue.next(S[0]) else {
            panic!("it is to be connected")
        };
        pauses.push(at.duration_since(rig.now));
        rig.now = at;
        rig.up(S[0]);
    }
    assert_eq!(pauses, [ms(0), ms(100), ms(200), ms(400)]);
    rig.submit_any(1);
    rig.report(S[0], done());
    rig.queue.went_down(S[0], "silent".into(), rig.now);
    assert_eq!(rig.queue.next(S[0]), Next::Connect { at: rig.now });
}

#[test]
fn a_removed_slave_ends_its_task_first_and_takes_nobody_elses() {
    let mut rig = Rig::with(2);
    rig.submit_any(2);
    rig.submit(&Options::new().on("w1")).unwrap();
    rig.submit_any(1);
    rig.queue.remove("w1").unwrap();
    rig.settle();
    assert_eq!(rig.end_of(2), "no slave");
    assert_eq!(rig.leaving, BTreeSet::new(), "it is at work");
    assert!(matches!(rig.add("w1", &[]), Err(Error::NameTaken { .. })));
    assert!(rig.queue.remove("w1").is_err(), "it is leaving already");
    rig.report(S[0], done());
    assert_eq!((rig.end_of(0), rig.tasks()), ("done", vec![(2, 1)]));
    assert_eq!(rig.leaving, [S[0]].into());
    rig.queue.gone(S[0]);
    rig.add("w1", &[]).unwrap();
    rig.queue.remove("w2").unwrap();
    rig.report(S[1], lost());
    assert_eq!(rig.end_of(1), "open", "the new one may do it");
    assert_eq!(rig.leaving, [S[0], S[1]].into());
}

#[test]
fn a_task_that_only_a_leaving_slave_could_do_does_not_wait_for_its_retry() {
    let mut rig = Rig::with(2);
    rig.submit(&Options::new().on("w1").retries(1)).unwrap();
    rig.queue.remove("w1").unwrap();
    rig.settle();
    rig.report(S[0], failed());
    assert_eq!(rig.end_of(0), "no slave any more");
}

#[test]
fn closing_ends_what_waits_and_lets_the_rest_finish_without_retries() {
    let mut rig = Rig::with(4);
    let options = Options::new().retries(5);
    for _ in 0..5 {
        rig.submit(&options).unwrap();
    }
    rig.report(S[3], Report::Busy);
    rig.queue.close();
    rig.settle();
    assert_eq!((rig.end_of(3), rig.end_of(4)), ("closed", "closed"));
    assert!(matches!(rig.submit(&options), Err(Error::Stopped)));
    assert!(matches!(rig.add("new", &[]), Err(Error::Stopped)));
    rig.report(S[0], done());
    rig.report(S[1], failed());
    assert_eq!((rig.end_of(0), rig.end_of(1)), ("done", "failed"));
    rig.queue.expire();
    rig.settle();
    assert!(rig.queue.at_work().eq([&S[2]]));
    assert_eq!(rig.end_of(2), "closed");
    rig.report(S[2], lost());
    assert_eq!(rig.leaving, S.into());
}

#[derive(Clone, Debug)]
enum Move {
    Add(u8),
    Remove(u8),
    Up(u8),
    Missed(u8),
    Down(u8),
    Gone(u8),
    Submit {
        on: Option<u8>,
        label: bool,
        retries: u32,
        idempotent: bool,
        deadline: Option<u16>,
    },
    Report(u8, u8),
    Cancel(u8),
    Pass(u16),
    Close,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        2 => any::<u8>().prop_map(Move::Add),
        1 => any::<u8>().prop_map(Move::Remove),
        4 => any::<u8>().prop_map(Move::Up),
        2 => any::<u8>().prop_map(Move::Missed),
        2 => any::<u8>().prop_map(Move::Down),
        2 => any::<u8>().prop_map(Move::Gone),
        8 => (prop::option::weighted(0.2, 0..6u8), prop::bool::weighted(0.2), 0..3u32,
              prop::bool::weighted(0.8), prop::option::weighted(0.3, 1..2000u16))
            .prop_map(|(on, label, retries, idempotent, deadline)| Move::Submit {
                on, label, retries, idempotent, deadline
            }),
        10 => (any::<u8>(), any::<u8>()).prop_map(|(slave, report)| Move::Report(slave, report)),
        2 => any::<u8>().prop_map(Move::Cancel),
        4 => (0..6000u16).prop_map(Move::Pass),
        1 => prop::bool::weighted(0.05).prop_map(|close| if close { Move::Close } else { Move::Pass(1) }),
    ]
}

impl Rig {
    /// One of the slaves there are.
    fn pick(&self, number: u8) -> Option<SlaveId> {
        let ids: Vec<SlaveId> = self.queue.slaves.keys().copied().collect();
        let index = usize::from(number).checked_rem(ids.len())?;
        Some(ids[index])
    }

    fn report_of(number: u8) -> Report {
        match number % 10 {
            0..4 => done(),
            4 => failed(),
            5 => lost(),
            6 => Report::NotBegun("not there".into()),
            7 => refused(),
            8 => Report::Busy,
            _ => Report::Unsent(master::Error::Stopped),
        }
    }

    fn make(&mut self, made: &Move) {
        match *made {
            Move::Add(number) => {
                let labels: &[&str] = if number % 2 == 0 { &["even"] } else { &[] };
                let _ = self.add(&format!("w{}", number % 6), labels);
            }
            Move::Remove(number) => drop(self.queue.remove(&format!("w{}", number % 6))),
            Move::Up(number) => {
                if let Some(id) = self.pick(number) {
                    self.queue.came_up(id);
                }
            }
            Move::Missed(number) => {
                if let Some(id) = self.pick(number) {
                    self.queue.missed(id, "away".into(), self.now);
                }
            }
            Move::Down(number) => {
                if let Some(id) = self.pick(number) {
                    let told = self.queue.went_down(id, "silent".into(), self.now);
                    assert_eq!(told, !self.at.contains_key(&id));
                }
            }
            Move::Gone(number) => {
                let leaving: Vec<SlaveId> = self.leaving.iter().copied().collect();
                if let Some(index) = usize::from(number).checked_rem(leaving.len()) {
                    self.queue.gone(leaving[index]);
                }
            }
            Move::Submit {
                on,
                label,
                retries,
                idempotent,
                deadline,
            } => {
                let mut options = Options::new().retries(retries).idempotent(idempotent);
                options = options.lost_limit(2).backoff(ms(300));
                if let Some(number) = on {
                    options = options.on(format!("w{number}"));
                }
                if label {
                    options = options.label("even");
                }
                if let Some(limit) = deadline {
                    options = options.deadline(ms(limit.into()));
                }
                let _ = self.submit(&options);
            }
            Move::Report(number, report) => {
                let at: Vec<SlaveId> = self.at.keys().copied().collect();
                if let Some(index) = usize::from(number).checked_rem(at.len()) {
                    self.report(at[index], Self::report_of(report));
                }
            }
            Move::Cancel(number) => {
                if let Some(index) = usize::from(number).checked_rem(self.keys.len()) {
                    self.queue.cancel(self.keys[index]);
                }
            }
            Move::Pass(time) => self.pass(ms(time.into())),
            Move::Close => self.queue.close(),
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

    /// [`Rig::settle`] holds every effect against the promises.
    #[test]
    fn whatever_happens_each_task_ends_once_and_no_slave_has_two(
        moves in prop::collection::vec(moves(), 1..120),
        patient in any::<bool>(),
    ) {
        let mut rig = Rig::new();
        for made in &moves {
            rig.make(made);
        }
        if patient {
            // Without further trouble, what has a slave comes to its end.
            for _ in 0..10_000 {
                if rig.queue.open() == 0 {
                    break;
                }
                let ids: Vec<SlaveId> = rig.queue.slaves.keys().copied().collect();
                for id in ids {
                    rig.up(id);
                    if rig.at.contains_key(&id) {
                        rig.report(id, done());
                    }
                }
                rig.pass(ms(1000));
            }
            prop_assert_eq!(rig.queue.open(), 0);
        }
        rig.queue.close();
        rig.settle();
        rig.queue.expire();
        rig.settle();
        prop_assert_eq!(rig.queue.open(), 0);
        prop_assert_eq!(rig.ended.len(), rig.keys.len());
        let at: Vec<SlaveId> = rig.at.keys().copied().collect();
        for id in at {
            rig.report(id, lost());
        }
        let left: Vec<SlaveId> = rig.queue.slaves.keys().copied().collect();
        for id in left {
            prop_assert!(rig.leaving.contains(&id) || rig.queue.next(id) == Next::End);
            rig.queue.gone(id);
        }
        rig.settle();
        prop_assert_eq!(rig.queue.next_due(), None);
    }
}
