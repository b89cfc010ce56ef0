//! When a node asks after its peers, and when it gives them up.

use std::time::{Duration, Instant};

/// The times of a node. There are three sets: [`lan`](Self::lan) is the default, for a network in
/// which an answer takes less than half a second; [`wan`](Self::wan); and
/// [`original`](Self::original), with the constants of p2p0mq.
///
/// The fields can be changed; what does not make sense is refused when the node starts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// From a sign of life to the heart beat that asks for the next. LAN 1 s, WAN 5 s, original 4 s.
    pub heart_beat: Duration,
    /// By how much the distance of heart beats grows with each that is not answered. LAN 0, WAN
    /// 1 s, original 2 s.
    pub slow_down: Duration,
    /// The longest distance of two heart beats. LAN 1 s, WAN 8 s, original 10 s.
    pub longest_gap: Duration,
    /// Silence after which others are asked to look after the peer (an indirect probe); `None`: they never are. LAN
    /// 1.5 s, WAN 10 s, original never.
    pub probe: Option<Duration>,
    /// How many others are asked. LAN and WAN 3, original 0.
    pub helpers: usize,
    /// Silence after which a peer is [unreachable](super::PeerState::Unreachable), that is
    /// suspected. LAN 2.5 s, WAN 15 s, original 40 s.
    pub unreachable: Duration,
    /// Silence after which there is [no connection](super::PeerState::NoConnection). LAN 4 s, WAN
    /// 30 s, original 240 s.
    pub no_connection: Duration,
    /// How long the first hello to a peer may stay unanswered. LAN 3 s, WAN 10 s, original 40 s.
    pub hello: Duration,
    /// The pause after an attempt to connect that failed. LAN 2 s, WAN 30 s, original 120 s.
    pub reconnect: Duration,
    /// The pause between two questions about the same peer. LAN 5 s, WAN 30 s, original 60 s.
    pub ask: Duration,
    /// By how much at most the limits of silence are multiplied while the node has reason to doubt itself: when all
    /// it watches, two or more, are silent at once, or nobody of those it asks to look after one. 1: never; then
    /// time in which its own thread was held up counts as silence too. The
    /// more, the longer a node whose network fails for a while suspects nobody falsely; and the later it believes that
    /// really all are gone if no link tells it: after up to `doubt` times [`no_connection`](Self::no_connection).
    /// LAN 3 (12 s), WAN 8 (4 minutes), original 1.
    pub doubt: u32,
}

impl Timing {
    /// For a local network: a dead peer is noticed within 5 s, a killed one at once.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            heart_beat: Duration::from_secs(1),
            slow_down: Duration::ZERO,
            longest_gap: Duration::from_secs(1),
            probe: Some(Duration::from_millis(1_500)),
            helpers: 3,
            unreachable: Duration::from_millis(2_500),
            no_connection: Duration::from_secs(4),
            hello: Duration::from_secs(3),
            reconnect: Duration::from_secs(2),
            ask: Duration::from_secs(5),
            doubt: 3,
        }
    }

    /// For links that lose packets and take seconds now and then.
    #[must_use]
    pub fn wan() -> Self {
        Self {
            heart_beat: Duration::from_secs(5),
            slow_down: Duration::from_secs(1),
            longest_gap: Duration::from_secs(8),
            probe: Some(Duration::from_secs(10)),
            helpers: 3,
            unreachable: Duration::from_secs(15),
            no_connection: Duration::from_secs(30),
            hello: Duration::from_secs(10),
            reconnect: Duration::from_secs(30),
            ask: Duration::from_secs(30),
            doubt: 8,
        }
    }

    /// The constants of p2p0mq, which suspects a peer after 40 s and gives it up after 240 s.
    #[must_use]
    pub fn original() -> Self {
        Self {
            heart_beat: Duration::from_secs(4),
            slow_down: Duration::from_secs(2),
            longest_gap: Duration::from_secs(10),
            probe: None,
            helpers: 0,
            unreachable: Duration::from_secs(40),
            no_connection: Duration::from_secs(240),
            hello: Duration::from_secs(40),
            reconnect: Duration::from_secs(120),
            ask: Duration::from_secs(60),
            doubt: 1,
        }
    }
}

/// That long after `start`. What is too far away to be told, as with the longest of spans, is as good as never.
pub(crate) fn after(start: Instant, span: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    start + span.min(NEVER)
}

impl Default for Timing {
    fn default() -> Self {
        Self::lan()
    }
}
