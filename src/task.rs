//! What a task goes through: its states, the moves between them, how it ends.
//!
//! Pure. The master moves its tasks through these states; the slave knows only
//! the two ways in which it can report an end.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

/// Where a task stands, with DI-engine's numbers (`TaskStatus`) and one of our own, [`Lost`](Status::Lost).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Status {
    /// Made, not started.
    Idle = 0x00,
    /// Being offered to its slave.
    Starting = 0x11,
    /// Accepted by its slave.
    Started = 0x12,
    /// Not accepted: refused, or the slave could not be reached.
    StartFailed = 0x13,
    /// Ended with a result.
    Completed = 0x21,
    /// Ended by the slave's report that it failed.
    Failed = 0x22,
    /// Ended without a report: its slave was lost, disconnected or forgotten. Not in the original.
    Lost = 0x23,
}

impl Status {
    /// The original's number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::StartFailed | Self::Completed | Self::Failed | Self::Lost
        )
    }

    /// Whether `next` may follow.
    ///
    /// A report may overtake the answer to the offer, so a task that is still
    /// starting can end as well as one that is started.
    pub(crate) fn may_become(self, next: Self) -> bool {
        use Status::{Completed, Failed, Idle, Lost, StartFailed, Started, Starting};
        match self {
            Idle => next == Starting,
            Starting => matches!(next, Started | StartFailed | Completed | Failed | Lost),
            Started => matches!(next, Completed | Failed | Lost),
            StartFailed | Completed | Failed | Lost => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::StartFailed => "start failed",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Lost => "lost",
        })
    }
}

/// How an accepted task ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// With this result.
    Completed(Value),
    /// The slave reported a failure with this result.
    Failed(Value),
    /// No report will count any more.
    Lost(Loss),
}

impl Outcome {
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Completed(_) => Status::Completed,
            Self::Failed(_) => Status::Failed,
            Self::Lost(_) => Status::Lost,
        }
    }
}

/// Why a slave, and with it its open tasks, counts as lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// No heartbeat for longer than the tolerance.
    Silent {
        /// How long it had been silent when it was given up.
        after: Duration,
    },
    /// The slave answered that it does not know this master (any more): it was restarted, or gave the master up.
    Forgotten,
    /// The connection was ended from this side while the task was open.
    Disconnected,
    /// The master was shut down.
    Stopped,
    /// The slave did not answer the offer of the task, which it may have got.
    Unanswered,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { after } => write!(f, "no heartbeat for {:.1} s", after.as_secs_f64()),
            Self::Forgotten => f.write_str("the slave does not know this master any more"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Stopped => f.write_str("the master was shut down"),
            Self::Unanswered => f.write_str("no answer to the offer of the task"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 7] = [
        Status::Idle,
        Status::Starting,
        Status::Started,
        Status::StartFailed,
        Status::Completed,
        Status::Failed,
        Status::Lost,
    ];

    #[test]
    fn the_numbers_are_the_originals() {
        assert_eq!(
            ALL.map(Status::number),
            [0x00, 0x11, 0x12, 0x13, 0x21, 0x22, 0x23]
        );
    }

    #[test]
    fn only_the_legal_moves_are_allowed() {
        let moves: Vec<String> = ALL
            .iter()
            .flat_map(|from| ALL.iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.may_become(**to))
            .map(|(from, to)| format!("{from} > {to}"))
            .collect();
        assert_eq!(
            moves,
            [
                "idle > starting",
                "starting > started",
                "starting > start failed",
                "starting > completed",
                "starting > failed",
                "starting > lost",
                "started > completed",
                "started > failed",
                "started > lost",
            ]
        );
    }

    #[test]
    fn nothing_follows_a_final_state() {
        for status in ALL {
            assert_eq!(
                status.is_final(),
                ALL.iter().all(|next| !status.may_become(*next)),
                "{status}"
            );
        }
    }
}
