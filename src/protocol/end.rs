//! How a session ended, and how that is judged from what its threads met.

use std::time::Duration;

use super::error::{Error, Failure, Kind, Side};

/// How a session ended.
#[derive(Clone, Debug)]
#[must_use = "it may hold the error that ended the session"]
pub struct End {
    pub(super) cause: Option<Error>,
    pub(super) counts: Counts,
    pub(super) lasted: Duration,
}

/// What went through a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages handed to the system in full. Whether they reached the peer is unknown.
    pub sent: u64,
    /// Messages that came, whatever became of them.
    pub received: u64,
    /// Messages that were still queued, and dropped.
    pub unsent: u64,
    /// Messages that came when the session was closing already, and were dropped.
    pub discarded: u64,
}

impl End {
    /// What ended the session; `None` if somebody on this side wanted the end.
    #[must_use]
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_ref()
    }

    /// Whether there is no [`cause`](Self::cause).
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cause.is_none()
    }

    /// Takes the cause away. For [`Protocol::on_end`](super::Protocol::on_end), which may know
    /// that the peer had every reason to close.
    pub fn set_clean(&mut self) {
        self.cause = None;
    }

    /// What went through the session.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How long the session lasted, from its start to its end.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        self.lasted
    }

    /// The cause as an error.
    ///
    /// # Errors
    ///
    /// With the [`cause`](Self::cause), if there is one.
    pub fn into_result(self) -> Result<(), Error> {
        self.cause.map_or(Ok(()), Err)
    }
}

/// The error that ended a session, from what its threads met before it was closing, in the order
/// of time. A consequence is not a cause.
pub(super) fn judge(wanted: bool, failures: Vec<Failure>) -> Option<Error> {
    let gone = |error: &Error| matches!(error.kind(), Kind::PeerClosed | Kind::PeerReset);
    let left_early = |error: &Error| gone(error) || matches!(error.kind(), Kind::Truncated { .. });
    let counts = |failure: &Failure| !(wanted && left_early(&failure.error));
    let failures: Vec<Failure> = failures.into_iter().filter(counts).collect();
    let primary = match &failures[..] {
        [] => return None,
        [only] => only.error.clone(),
        [first, second, ..] => {
            let (reader, writer) = match first.side {
                Side::Writer => (second, first),
                Side::Reader | Side::Start => (first, second),
            };
            if *writer.error.kind() == Kind::PeerReset {
                reader.error.clone()
            } else {
                Error::caused(Kind::Both, first.error.clone())
            }
        }
    };
    Some(primary.with_failures(failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Instant;

    fn failed(side: Side, kind: Kind) -> Failure {
        Failure {
            side,
            at: Instant::now(),
            error: Error::caused(kind, io::Error::other("inside")),
        }
    }

    fn truncated() -> Kind {
        let start = Vec::new();
        Kind::Truncated { length: 3, start }
    }

    #[test]
    fn nothing_went_wrong_in_a_wanted_end() {
        assert!(judge(true, Vec::new()).is_none());
        for kind in [Kind::PeerClosed, Kind::PeerReset, truncated()] {
            let failures = vec![
                failed(Side::Reader, kind),
                failed(Side::Writer, Kind::PeerReset),
            ];
            assert!(
                judge(true, failures).is_none(),
                "the peer happened to close first"
            );
        }
        let failures = vec![failed(Side::Reader, Kind::Encode)];
        assert_eq!(
            judge(true, failures).unwrap().kind(),
            &Kind::Encode,
            "a failure that has nothing to do with the end counts"
        );
    }

    #[test]
    fn a_single_failure_is_the_cause() {
        for side in [Side::Reader, Side::Writer, Side::Start] {
            let error = judge(false, vec![failed(side, Kind::Io)]).unwrap();
            assert_eq!(error.kind(), &Kind::Io);
            assert!(error.io().is_some(), "the chain is kept");
            assert_eq!(error.errors().len(), 1);
            assert!(error.also().is_none());
        }
    }

    #[test]
    fn a_writer_cut_off_is_a_consequence_of_what_the_reader_met() {
        let decode = || Kind::Decode {
            offset: 0,
            excerpt: Vec::new(),
        };
        for kind in [Kind::PeerClosed, Kind::PeerReset, truncated(), decode()] {
            let both = [
                failed(Side::Writer, Kind::PeerReset),
                failed(Side::Reader, kind.clone()),
            ];
            for failures in [both.to_vec(), both.iter().rev().cloned().collect()] {
                let error = judge(false, failures).unwrap();
                assert_eq!(error.kind(), &kind);
                assert_eq!(error.errors().len(), 2);
                let also = error.also().map(|error| error.kind().clone());
                assert_eq!(also, Some(Kind::PeerReset));
            }
        }
    }

    #[test]
    fn two_failures_of_their_own_are_both_told_the_first_as_the_source() {
        for sides in [[Side::Reader, Side::Writer], [Side::Writer, Side::Reader]] {
            let failures = vec![
                failed(sides[0], truncated()),
                failed(sides[1], Kind::Encode),
            ];
            let error = judge(false, failures).unwrap();
            assert_eq!(error.kind(), &Kind::Both);
            let kinds = error.errors().iter().map(|one| one.error.kind().clone());
            assert_eq!(kinds.collect::<Vec<_>>(), [truncated(), Kind::Encode]);
            assert!(error.report().contains("inside a message"), "{error:#}");
            assert_eq!(error.also().unwrap().kind(), &Kind::Encode);
        }
    }
}
