//! Doubt of the node in itself: whoever does not hear may be deaf.
//!
//! Pure; part of the core. Two things make a node wrong about the silence of others. It was held up, and has
//! not listened: that time does not count. Or nothing gets through to it: when all are silent at once, or
//! those who were asked about a silent peer are silent too, it is more patient, up to
//! [`Timing::doubt`] times; each heart beat that it hears makes it trust itself again. After Lifeguard, of SWIM.

use std::time::{Duration, Instant};

use crate::concerns::timing::Timing;

/// What a node thinks of its own ears.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    score: u32,
    /// When the next round was due, as of the last.
    expected: Option<Instant>,
}

impl Doubt {
    /// The next round is due then, unless something comes before.
    pub(crate) fn expect(&mut self, due: Option<Instant>) {
        self.expected = due;
    }

    /// A round comes. How long the node was held up, if that was for long.
    pub(crate) fn held_up(&mut self, now: Instant, timing: &Timing) -> Option<Duration> {
        let late = now.saturating_duration_since(self.expected.take()?);
        (timing.doubt > 1 && late > timing.heart_beat / 2).then_some(late)
    }

    /// There is a reason to doubt. False if there is no more room for it.
    pub(crate) fn raise(&mut self, timing: &Timing) -> bool {
        let raised = self.score + 1 < timing.doubt;
        self.score += u32::from(raised);
        raised
    }

    /// A heart beat was heard.
    pub(crate) fn lower(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// The timing with its limits of silence as they are now.
    pub(crate) fn patience(&self, timing: &Timing) -> Timing {
        let factor = 1 + self.score;
        let mut patience = timing.clone();
        for limit in [&mut patience.unreachable, &mut patience.no_connection] {
            *limit = limit.saturating_mul(factor);
        }
        patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_stretches_the_limits_as_far_as_it_may_and_heart_beats_end_it() {
        let timing = Timing::lan();
        let mut doubt = Doubt::default();
        assert_eq!(doubt.patience(&timing), timing);
        for factor in 2..=3 {
            assert!(doubt.raise(&timing));
            let patience = doubt.patience(&timing);
            assert_eq!(patience.unreachable, timing.unreachable * factor);
            assert_eq!(patience.no_connection, timing.no_connection * factor);
            assert_eq!(patience.probe, timing.probe);
        }
        assert!(!doubt.raise(&timing));
        for _ in 0..9 {
            doubt.lower();
        }
        assert_eq!(doubt.patience(&timing), timing);
        let never = Timing::original();
        assert!(!doubt.raise(&never));
        assert_eq!(doubt.patience(&never), never);
    }

    #[test]
    fn a_round_that_comes_much_later_than_it_was_due_was_held_up() {
        let (timing, start) = (Timing::lan(), Instant::now());
        let mut doubt = Doubt::default();
        assert_eq!(doubt.held_up(start, &timing), None);
        for (late, counts) in [(0, false), (500, false), (501, true), (60_000, true)] {
            let late = Duration::from_millis(late);
            doubt.expect(Some(start));
            assert_eq!(doubt.held_up(start + late, &timing), counts.then_some(late));
            assert_eq!(
                doubt.held_up(start + late, &timing),
                None,
                "it is told once"
            );
        }
        doubt.expect(Some(start + timing.heart_beat));
        assert_eq!(doubt.held_up(start, &timing), None);
        doubt.expect(Some(start));
        let hour = Duration::from_secs(3600);
        assert_eq!(doubt.held_up(start + hour, &Timing::original()), None);
    }
}
