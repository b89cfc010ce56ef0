//! Many inputs, as many results, and only so much of both in memory.
//!
//! The iterators run on the thread that drives them: each [`next`](Iterator::next) tops the pool up
//! from the input and then waits for a result. There is no thread, and nothing happens between the calls
//! but what the slaves were given.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::core::{Core, Owner, Work};
use super::ends::{Ended, Ends};
use super::error::JobError;
use super::job::read;
use super::options::Policy;
use super::queue::Key;

/// The tasks of one map that are under way.
struct Feed<I> {
    core: Arc<Core>,
    policy: Arc<Policy>,
    inputs: I,
    /// The number of the next input; none when there are no more.
    next: Option<u64>,
    /// Those that have not ended, as far as this thread knows.
    open: HashMap<u64, Option<Key>>,
    ends: Arc<Ends>,
    /// Taken from there, and not given out.
    taken: VecDeque<Ended>,
}

impl<I> Feed<I>
where
    I: Iterator<Item: Serialize>,
{
    fn new(core: Arc<Core>, policy: Arc<Policy>, inputs: I) -> Self {
        Self {
            core,
            policy,
            inputs,
            next: Some(0),
            open: HashMap::new(),
            ends: Arc::new(Ends::new()),
            taken: VecDeque::new(),
        }
    }

    /// Hands inputs to the pool until so many results are to come or `kept` by the caller.
    fn top_up(&mut self, kept: usize) {
        let limit = self.core.look_ahead();
        while self.open.len() + kept < limit {
            let Some(number) = self.next else { return };
            let Some(input) = self.inputs.next() else {
                self.next = None;
                return;
            };
            self.next = Some(number + 1);
            let key = self.submit(number, &input);
            self.open.insert(number, key);
        }
    }

    /// None if it has ended already.
    fn submit(&self, number: u64, input: &I::Item) -> Option<Key> {
        let refuse = |why| {
            self.ends.put(number, Err(why));
            None
        };
        let data = match serde_json::to_value(input) {
            Ok(data) => Arc::new(data),
            Err(error) => {
                let source = Arc::new(error);
                return refuse(JobError::Unserializable { source });
            }
        };
        let work = Work {
            id: self.core.ids.next(),
            data,
            owner: Owner::Map(number, self.ends.clone()),
        };
        match self.core.submit(Arc::new(work), self.policy.clone()) {
            Ok(key) => Some(key),
            Err(super::Error::Stopped) => refuse(JobError::Closed),
            Err(_) => refuse(JobError::NoSlave { last: None }),
        }
    }

    /// The next that ends; none when nothing is open.
    fn wait(&mut self) -> Option<Ended> {
        if self.open.is_empty() {
            return None;
        }
        if self.taken.is_empty() {
            // While the slaves have work without this thread, half of that may end before it looks.
            let enough = self.core.beyond_slaves(self.open.len()) / 2;
            self.ends.take(enough, &mut self.taken);
        }
        let ended = self.taken.pop_front()?;
        self.open.remove(&ended.0);
        Some(ended)
    }

    /// All that have ended, once `turn` is among them; none when nothing is open.
    fn wait_for(&mut self, turn: u64) -> Option<impl Iterator<Item = Ended>> {
        if self.open.is_empty() {
            return None;
        }
        self.ends.take_turn(turn, &mut self.taken);
        for (number, _) in &self.taken {
            self.open.remove(number);
        }
        Some(self.taken.drain(..))
    }
}

impl<I> Drop for Feed<I> {
    fn drop(&mut self) {
        let keys: Vec<Key> = self.open.values().flatten().copied().collect();
        if !keys.is_empty() {
            self.core.step(|queue, _| {
                for key in keys {
                    queue.cancel(key);
                }
            });
        }
    }
}

/// The results of many inputs, as they come, each with the number of its input; see [`Pool::map`](super::Pool::map).
#[must_use = "a map does nothing until it is iterated"]
pub struct Map<T, I: Iterator> {
    feed: Feed<I>,
    result: PhantomData<fn() -> T>,
}

impl<T, I: Iterator<Item: Serialize>> Map<T, I> {
    pub(super) fn new(core: Arc<Core>, policy: Arc<Policy>, inputs: I) -> Self {
        Self {
            feed: Feed::new(core, policy, inputs),
            result: PhantomData,
        }
    }
}

impl<T, I> Iterator for Map<T, I>
where
    T: DeserializeOwned,
    I: Iterator<Item: Serialize>,
{
    type Item = (u64, Result<T, JobError>);

    fn next(&mut self) -> Option<Self::Item> {
        self.feed.top_up(0);
        let (number, result) = self.feed.wait()?;
        Some((number, result.and_then(read)))
    }
}

impl<T, I> FusedIterator for Map<T, I>
where
    T: DeserializeOwned,
    I: Iterator<Item: Serialize>,
{
}

/// The results of many inputs, in their order; see [`Pool::map_ordered`](super::Pool::map_ordered).
#[must_use = "a map does nothing until it is iterated"]
pub struct MapOrdered<T, I: Iterator> {
    feed: Feed<I>,
    /// The number of the next result.
    turn: u64,
    /// Results whose turn has not come.
    early: BTreeMap<u64, Result<Value, JobError>>,
    result: PhantomData<fn() -> T>,
}

impl<T, I: Iterator<Item: Serialize>> MapOrdered<T, I> {
    pub(super) fn new(core: Arc<Core>, policy: Arc<Policy>, inputs: I) -> Self {
        Self {
            feed: Feed::new(core, policy, inputs),
            turn: 0,
            early: BTreeMap::new(),
            result: PhantomData,
        }
    }
}

impl<T, I> Iterator for MapOrdered<T, I>
where
    T: DeserializeOwned,
    I: Iterator<Item: Serialize>,
{
    type Item = Result<T, JobError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = loop {
            if let Some(result) = self.early.remove(&self.turn) {
                break result;
            }
            self.feed.top_up(self.early.len());
            self.early.extend(self.feed.wait_for(self.turn)?);
        };
        self.turn += 1;
        Some(result.and_then(read))
    }
}

impl<T, I> FusedIterator for MapOrdered<T, I>
where
    T: DeserializeOwned,
    I: Iterator<Item: Serialize>,
{
}

impl<T, I: Iterator> fmt::Debug for Map<T, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("open", &self.feed.open.len())
            .finish_non_exhaustive()
    }
}

impl<T, I: Iterator> fmt::Debug for MapOrdered<T, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapOrdered")
            .field("open", &self.feed.open.len())
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}
