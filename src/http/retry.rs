//! Which failure may be followed by another attempt, and when.
//!
//! Pure: time and chance are passed in. Every request of the protocol may be
//! repeated after a failure that left no answer, since its receiver knows a
//! repetition by its token or its task id; what an answer says is never a
//! reason to repeat. The caller learns whether an attempt may have arrived.

use std::time::{Duration, Instant};

use super::error::Error;

/// How often, how patiently and for how long a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// The pause between attempts, lengthened by up to a tenth at random.
    pub(crate) waiting: Duration,
    /// The time for the whole exchange: attempts, each of which is given what is left, and pauses.
    pub(crate) total: Duration,
}

/// The attempts of one exchange.
#[derive(Debug)]
pub(super) struct Attempts {
    retry: Retry,
    deadline: Instant,
    made: u32,
    stale: bool,
}

impl Attempts {
    pub(super) fn new(retry: Retry, now: Instant) -> Self {
        // A total beyond what the clock can add is a day, which nobody will notice.
        let total = now.checked_add(retry.total);
        Self {
            retry,
            deadline: total.unwrap_or(now + Duration::from_secs(86_400)),
            made: 0,
            stale: false,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The pause before the next attempt, or `None` if there is to be none.
    ///
    /// `kept` says that the failed attempt may have used a connection from
    /// before: such a connection ends when its server feels like it, which
    /// says nothing of the peer, so that the first time needs no pause.
    /// `chance` is between 0 and 1.
    pub(super) fn after(
        &mut self,
        error: &Error,
        kept: bool,
        chance: f64,
        now: Instant,
    ) -> Option<Duration> {
        self.made = self.made.saturating_add(1);
        if !may_be_repeated(error) || self.made > self.retry.retries {
            return None;
        }
        let stale = kept && !self.stale && matches!(error, Error::Broken { .. });
        self.stale |= stale;
        let pause = if stale {
            Duration::ZERO
        } else {
            let jitter = 1.0 + chance.clamp(0.0, 1.0) / 10.0;
            self.retry.waiting.mul_f64(jitter).max(self.retry.waiting)
        };
        let left = self.deadline.saturating_duration_since(now);
        (pause < left).then_some(pause)
    }
}

/// Whether another attempt may end better and do no harm.
fn may_be_repeated(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Broken { .. } => true,
        Error::Stopped
        | Error::Unintelligible { .. }
        | Error::BadAddress { .. }
        | Error::BadHeader { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Phase;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn retry(retries: u32, waiting: Duration, total: Duration) -> (Attempts, Instant) {
        let now = Instant::now();
        let retry = Retry {
            retries,
            waiting,
            total,
        };
        (Attempts::new(retry, now), now)
    }

    fn refused() -> Error {
        Error::Unreachable {
            address: String::new(),
            source: "refused".into(),
        }
    }

    fn reset() -> Error {
        Error::Broken {
            source: "reset".into(),
        }
    }

    #[test]
    fn failures_without_an_answer_are_repeated_and_others_are_not() {
        let timed_out = |phase| Error::TimedOut {
            phase,
            after: SECOND,
        };
        let garbage = Error::Unintelligible {
            status: Some(200),
            excerpt: String::new(),
        };
        let bad = Error::BadAddress {
            given: String::new(),
            reason: "",
        };
        let header = Error::BadHeader {
            name: "token".into(),
        };
        // failure, repeated, may have arrived
        for (error, repeated, arrived) in [
            (refused(), true, false),
            (reset(), true, true),
            (timed_out(Phase::Head), true, true),
            (timed_out(Phase::Body), true, true),
            (timed_out(Phase::Answer), true, true),
            (timed_out(Phase::AnswerBody), true, true),
            (garbage, false, true),
            (Error::Stopped, false, true),
            (bad, false, false),
            (header, false, false),
        ] {
            let (mut attempts, now) = retry(5, SECOND, 60 * SECOND);
            let pause = attempts.after(&error, false, 0.0, now);
            assert_eq!(pause, repeated.then_some(SECOND), "{error}");
            assert_eq!(error.may_have_arrived(), arrived, "{error}");
        }
    }

    #[test]
    fn there_are_as_many_attempts_as_asked_for() {
        for (retries, pauses) in [(0, 0), (1, 1), (5, 5)] {
            let (mut attempts, now) = retry(retries, SECOND, 60 * SECOND);
            let made = (0..10).map_while(|_| attempts.after(&refused(), false, 0.0, now));
            assert_eq!(made.count(), pauses);
        }
    }

    #[test]
    fn pauses_are_lengthened_by_up_to_a_tenth() {
        for (chance, milliseconds) in [(0.0, 1000), (0.5, 1050), (1.0, 1100), (7.0, 1100)] {
            let (mut attempts, now) = retry(5, SECOND, 60 * SECOND);
            let pause = attempts.after(&refused(), false, chance, now);
            assert_eq!(pause.unwrap().as_millis(), milliseconds);
        }
        let (mut attempts, now) = retry(5, Duration::ZERO, SECOND);
        let pause = attempts.after(&refused(), false, 1.0, now);
        assert_eq!(pause, Some(Duration::ZERO));
    }

    #[test]
    fn no_pause_goes_beyond_the_total() {
        let (mut attempts, start) = retry(5, SECOND, 3 * SECOND);
        let at = |s: f64| start + Duration::from_secs_f64(s);
        assert!(attempts.after(&refused(), false, 0.0, at(0.1)).is_some());
        assert!(attempts.after(&refused(), false, 0.0, at(1.9)).is_some());
        assert!(attempts.after(&refused(), false, 0.0, at(2.1)).is_none());
        let (mut attempts, now) = retry(5, SECOND, Duration::MAX);
        assert!(attempts.after(&refused(), false, 0.0, now).is_some());
    }

    #[test]
    fn a_stale_connection_costs_no_pause_but_only_once() {
        let (mut attempts, now) = retry(3, SECOND, 60 * SECOND);
        assert_eq!(
            attempts.after(&reset(), true, 0.0, now),
            Some(Duration::ZERO)
        );
        assert_eq!(attempts.after(&reset(), true, 0.0, now), Some(SECOND));
        let (mut attempts, now) = retry(3, SECOND, 60 * SECOND);
        assert_eq!(attempts.after(&refused(), true, 0.0, now), Some(SECOND));
        assert_eq!(
            attempts.after(&reset(), true, 0.0, now),
            Some(Duration::ZERO)
        );
        let (mut attempts, now) = retry(0, SECOND, 60 * SECOND);
        assert_eq!(attempts.after(&reset(), true, 0.0, now), None);
    }
}
