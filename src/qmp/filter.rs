//! Which events a listener wants.

use std::fmt;
use std::sync::Arc;

use super::message::Event;

type Predicate = dyn Fn(&Event) -> bool + Send + Sync;

/// Which events a listener wants: by name, by a predicate, or both.
///
/// Names are looked at first, so a predicate sees only events that have one of them. Predicates
/// run on the client's thread that reads (`qmp:rd`): they should be quick, and must not wait for a
/// call. An event that another thread's call has begun to read before the filter was there may be
/// shown to it on that thread.
///
/// ```
/// use interplay::qmp::Filter;
///
/// let stopped_or_resumed = Filter::names(["STOP", "RESUME"]);
/// let this_job = Filter::name("JOB_STATUS_CHANGE").and(|event| event.data()["id"] == "j0");
/// ```
#[derive(Clone, Default)]
pub struct Filter {
    /// `None`: any.
    names: Option<Arc<[String]>>,
    /// All must agree.
    predicates: Vec<Arc<Predicate>>,
}

impl Filter {
    /// Wants every event.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Wants the events of one name.
    #[must_use]
    pub fn name(name: impl Into<String>) -> Self {
        Self::names([name])
    }

    /// Wants the events of any of these names; without a name, none.
    #[must_use]
    pub fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            names: Some(names.into_iter().map(Into::into).collect()),
            predicates: Vec::new(),
        }
    }

    /// Wants the events that `predicate` is true for.
    ///
    /// # Panics
    ///
    /// A panic of the predicate ends the listener, and nothing else.
    #[must_use]
    pub fn when(predicate: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        Self::all().and(predicate)
    }

    /// Wants only those of this filter's events that `predicate` is true for as well.
    ///
    /// # Panics
    ///
    /// A panic of the predicate ends the listener, and nothing else.
    #[must_use]
    pub fn and(mut self, predicate: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.predicates.push(Arc::new(predicate));
        self
    }

    /// Whether it has predicates.
    pub(super) fn asks(&self) -> bool {
        !self.predicates.is_empty()
    }

    /// Whether the event is wanted. Panics if a predicate does.
    pub(super) fn matches(&self, event: &Event) -> bool {
        let named = |names: &Arc<[String]>| names.iter().any(|name| name == event.name());
        self.names.as_ref().is_none_or(named)
            && self.predicates.iter().all(|predicate| predicate(event))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("names", &self.names)
            .field("predicates", &self.predicates.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    fn event(name: &str, id: &str) -> Event {
        let event = json!({"event": name, "data": {"id": id}});
        Event::new(event.as_object().unwrap().clone(), 0, 0)
    }

    #[test]
    fn an_event_is_wanted_by_its_name_and_by_every_predicate() {
        let j0 = |event: &Event| event.data()["id"] == "j0";
        let stop = |event: &Event| event.name() == "STOP";
        for (filter, wanted) in [
            (Filter::all(), [true, true, true]),
            (Filter::name("STOP"), [true, true, false]),
            (Filter::names(["STOP", "RESUME"]), [true, true, true]),
            (Filter::names([""; 0]), [false, false, false]),
            (Filter::when(j0), [true, false, true]),
            (Filter::name("STOP").and(j0), [true, false, false]),
            (Filter::when(j0).and(stop), [true, false, false]),
        ] {
            let events = [("STOP", "j0"), ("STOP", "j1"), ("RESUME", "j0")];
            let found = events.map(|(name, id)| filter.matches(&event(name, id)));
            assert_eq!(found, wanted, "{filter:?}");
        }
    }

    #[test]
    fn a_predicate_is_not_asked_about_other_names() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let filter = Filter::name("STOP").and(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            true
        });
        assert!(!filter.matches(&event("RESUME", "j0")));
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        assert!(filter.clone().matches(&event("STOP", "j0")));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
