//! Fixed-rate schedule without catching up.

use std::time::{Duration, Instant};

/// Tells when the next tick of periodic work is due.
///
/// Ticks keep their phase; those missed during a stall are skipped, not made
/// up for in a burst. Pure: the time is passed in.
#[derive(Debug)]
pub(crate) struct Ticker {
    span: Duration,
    next: Instant,
}

impl Ticker {
    /// A schedule whose first tick is one span after `now`. `span` must not be zero.
    pub(crate) fn new(span: Duration, now: Instant) -> Self {
        Self::starting_at(now + span, span)
    }

    /// A schedule with the given first tick. `span` must not be zero.
    pub(crate) fn starting_at(first: Instant, span: Duration) -> Self {
        debug_assert!(!span.is_zero());
        Self { span, next: first }
    }

    /// When the next tick is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Marks the tick that is due at `now` as done and returns when the next one is.
    pub(crate) fn advance(&mut self, now: Instant) -> Instant {
        let late = now.saturating_duration_since(self.next);
        let missed =
            u32::try_from(late.as_nanos() / self.span.as_nanos().max(1)).unwrap_or(u32::MAX - 1);
        self.next += self.span.saturating_mul(missed + 1);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_phase_and_skip_what_was_missed() {
        let start = Instant::now();
        let at = |s: f64| start + Duration::from_secs_f64(s);
        let mut ticker = Ticker::new(Duration::from_secs(1), start);
        assert_eq!(ticker.next(), at(1.0));
        assert_eq!(ticker.advance(at(1.25)), at(2.0));
        assert_eq!(ticker.advance(at(2.0)), at(3.0));
        assert_eq!(
            ticker.advance(at(7.5)),
            at(8.0),
            "ticks 4 to 7 are not made up for"
        );
    }
}
