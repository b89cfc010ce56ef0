//! What the caller says about a task: where it may run, how often, how long.
//!
//! [`Options`] are what is written down, with holes; a [`Policy`] is what holds for a task, its holes
//! filled from the pool's defaults and these from the documented ones.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lifecycle::LONGEST;

/// How a pool treats a task; what is not said here is as in [`Builder::defaults`](super::Builder::defaults).
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Options {
    on: Option<String>,
    labels: Option<BTreeSet<String>>,
    retries: Option<u32>,
    backoff: Option<Duration>,
    deadline: Option<Duration>,
    idempotent: Option<bool>,
    lost_limit: Option<u32>,
}

impl Options {
    /// Options that say nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The slave of this name and no other. Default: any.
    pub fn on(mut self, name: impl Into<String>) -> Self {
        self.on = Some(name.into());
        self
    }

    /// Only slaves that were given this label; called again, those that have all of them. Default: any.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.labels.get_or_insert_default().insert(label.into());
        self
    }

    /// How often a task that *failed*, by its slave's report, is tried again. Default 0.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// How long a failed task waits before its first retry; each further one waits twice as long, up to a minute. Default 1 s.
    pub fn backoff(mut self, pause: Duration) -> Self {
        self.backoff = Some(pause.min(LONGEST));
        self
    }

    /// How long after its submission a task ends, if it has not by then. Default: no limit.
    ///
    /// It ends as [`DeadlinePassed`](super::JobError::DeadlinePassed) at once, wherever it is. A slave that is
    /// working on it gets its next task only after it has reported, and that report is dropped.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit.min(LONGEST));
        self
    }

    /// Whether the task may run twice. Default true.
    ///
    /// Nobody can tell how far a task was that its slave took along when it was lost. Where this is
    /// false such a task ends as lost at once; one that surely never began still goes elsewhere.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// How often a task whose slave was lost goes to another. Default 3; the next loss ends it as lost.
    pub fn lost_limit(mut self, limit: u32) -> Self {
        self.lost_limit = Some(limit);
        self
    }

    /// What holds, with `defaults` for what these leave open.
    pub(super) fn over(&self, defaults: &Self) -> Policy {
        Policy {
            place: Place {
                on: self.on.clone().or_else(|| defaults.on.clone()),
                labels: (self.labels.clone())
                    .or_else(|| defaults.labels.clone())
                    .unwrap_or_default(),
            },
            retries: self.retries.or(defaults.retries).unwrap_or(0),
            backoff: (self.backoff.or(defaults.backoff)).unwrap_or(Duration::from_secs(1)),
            deadline: self.deadline.or(defaults.deadline),
            idempotent: self.idempotent.or(defaults.idempotent).unwrap_or(true),
            lost_limit: self.lost_limit.or(defaults.lost_limit).unwrap_or(3),
        }
    }
}

/// What holds for a task.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) place: Place,
    pub(super) retries: u32,
    pub(super) backoff: Duration,
    pub(super) deadline: Option<Duration>,
    pub(super) idempotent: bool,
    pub(super) lost_limit: u32,
}

/// Which slaves a task may run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) on: Option<String>,
    pub(super) labels: BTreeSet<String>,
}

impl Place {
    /// Whether a slave of that name with these labels will do.
    pub(super) fn fits(&self, name: &str, labels: &BTreeSet<String>) -> bool {
        self.on.as_ref().is_none_or(|on| on == name) && self.labels.is_subset(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_leaves_open_is_the_pools_and_then_the_documented_default() {
        let pool = Options::new().retries(1).label("big").idempotent(false);
        let policy = Options::new().retries(2).over(&pool);
        assert_eq!((policy.retries, policy.lost_limit), (2, 3));
        assert_eq!(policy.backoff, Duration::from_secs(1));
        assert!(!policy.idempotent);
        assert_eq!(policy.deadline, None);
        assert_eq!(policy.place.labels, ["big".to_owned()].into());
        let other = Options::new().label("gpu").over(&pool);
        assert_eq!(other.place.labels, ["gpu".to_owned()].into());
    }

    #[test]
    fn a_slave_fits_by_name_and_by_all_labels() {
        let place = Options::new().on("w1").label("gpu").label("big");
        let place = place.over(&Options::new()).place;
        let labels = |list: &[&str]| list.iter().map(|&label| label.to_owned()).collect();
        let cases = [
            ("w1", labels(&["gpu", "big", "new"]), true),
            ("w1", labels(&["gpu"]), false),
            ("w2", labels(&["gpu", "big"]), false),
        ];
        for (name, labels, expected) in cases {
            assert_eq!(place.fits(name, &labels), expected, "{name} {labels:?}");
        }
        assert!(Place::default().fits("any", &BTreeSet::new()));
    }
}
