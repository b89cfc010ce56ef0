//! The record that the node keeps of a peer, and how that changes.
//!
//! Pure: each method takes the time, and none knows of links or messages. Timers are only looked at by the
//! [connector](super::connector) and the [heart beat](super::heart_beat).

use std::time::{Duration, Instant};

use super::identity::Identity;
use super::peer::{Peer, PeerState};
use super::timing::{Timing, after};

/// What the node keeps of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) identity: Identity,
    pub(crate) address: Option<String>,
    pub(crate) state: PeerState,
    pub(crate) incarnation: u64,
    /// Of a peer that is tried: when the attempt has failed. Of one that cannot be reached: when the
    /// next attempt begins. Of all others: when the next heart beat is due.
    pub(crate) next_beat: Option<Instant>,
    pub(crate) last_heard: Option<Instant>,
    /// What is added to the next distance of heart beats, or of attempts.
    pub(crate) slow_down: Duration,
    /// When a peer without a link is dialed that is unreachable (`None`: at once) or routed (`None`: not).
    pub(crate) next_dial: Option<Instant>,
    /// The hop through which it was reached last, if it was not directly.
    pub(crate) last_via: Option<Identity>,
    /// The number and time of the heart beat that is not answered yet.
    pub(crate) beat: Option<(u64, Instant)>,
    pub(crate) round_trip: Option<Duration>,
    /// It came by itself, so it makes room for others first.
    pub(crate) stranger: bool,
    /// Who was last asked to look after it, because it was silent.
    pub(crate) probe: Option<Probe>,
    /// Since when heart beats over a link of its own are not answered, though it is reached over a hop.
    pub(crate) link_silent: Option<Instant>,
    /// Somebody wants to know when it is heard.
    pub(crate) awaited: bool,
}

/// Others were asked to look after a silent peer.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) at: Instant,
    /// Those who may still answer.
    pub(crate) helpers: Vec<Identity>,
}

impl Record {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            address: None,
            state: PeerState::Initial,
            incarnation: 0,
            next_beat: None,
            last_heard: None,
            slow_down: Duration::ZERO,
            next_dial: None,
            last_via: None,
            beat: None,
            round_trip: None,
            stranger: false,
            probe: None,
            link_silent: None,
            awaited: false,
        }
    }

    /// When an attempt to reach it is to begin: `None` if it needs none, or has one under way.
    pub(crate) fn attempt_at(&self, now: Instant) -> Option<Instant> {
        match self.state {
            PeerState::Initial | PeerState::NoConnection => Some(self.next_beat.unwrap_or(now)),
            PeerState::Unreachable => Some(self.next_dial.unwrap_or(now)),
            PeerState::Routed { .. } => self.next_dial,
            _ => None,
        }
    }

    /// When the attempt under way has failed.
    pub(crate) fn give_up_at(&self) -> Option<Instant> {
        match self.state {
            PeerState::Connecting => self.next_beat,
            _ => None,
        }
    }

    /// When the next heart beat is due: `None` if it gets none.
    pub(crate) fn beat_at(&self, now: Instant) -> Option<Instant> {
        self.is_watched().then(|| self.next_beat.unwrap_or(now))
    }

    /// Whether its silence is counted.
    pub(crate) fn is_watched(&self) -> bool {
        self.state.is_reached() || self.state == PeerState::Unreachable
    }

    /// An attempt to reach it begins.
    pub(crate) fn attempt(&mut self, now: Instant, timing: &Timing) {
        match self.state {
            PeerState::Initial | PeerState::Left => {
                self.next_beat = Some(after(now, timing.hello));
                self.slow_down = Duration::ZERO;
                self.state = PeerState::Connecting;
            }
            PeerState::NoConnection => {
                self.schedule(now, timing);
                self.state = PeerState::Connecting;
            }
            PeerState::Unreachable => self.next_dial = Some(after(now, timing.reconnect)),
            PeerState::Routed { .. } => self.detour(now, timing),
            PeerState::Connecting | PeerState::Connected => {}
        }
    }

    /// The attempt has failed.
    pub(crate) fn attempt_failed(&mut self, now: Instant, timing: &Timing) {
        match self.state {
            PeerState::Initial | PeerState::Connecting | PeerState::NoConnection => {
                self.next_beat = Some(after(now, timing.reconnect));
                self.state = PeerState::NoConnection;
            }
            PeerState::Unreachable => self.next_dial = Some(after(now, timing.reconnect)),
            PeerState::Routed { .. } => self.detour(now, timing),
            PeerState::Connected | PeerState::Left => {}
        }
    }

    /// Whether nobody tries to reach it, so that its hello is answered with one of our own.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(
            self.state,
            PeerState::Initial | PeerState::NoConnection | PeerState::Left
        )
    }

    /// It has answered, or sent a heart beat, and that has come from the neighbour `hop`. One that has
    /// left comes back only with a hello.
    pub(crate) fn reached(&mut self, now: Instant, timing: &Timing, hop: &Identity) {
        if self.state == PeerState::Left {
            return;
        }
        if *hop == self.identity {
            self.last_via = None;
            self.next_dial = None;
            self.link_silent = None;
            self.state = PeerState::Connected;
        } else {
            if !matches!(self.state, PeerState::Routed { .. }) {
                self.detour(now, timing);
            }
            self.last_via = Some(hop.clone());
            self.state = PeerState::Routed { via: hop.clone() };
        }
        self.last_heard = Some(now);
        self.slow_down = Duration::ZERO;
        self.next_beat = Some(after(now, timing.heart_beat));
    }

    /// It is reached over a hop; the direct way is tried again later.
    fn detour(&mut self, now: Instant, timing: &Timing) {
        self.next_dial = Some(after(now, timing.reconnect.max(timing.ask)));
    }

    /// Something has come over a link of its own.
    pub(crate) fn heard(&mut self, now: Instant, timing: &Timing) {
        if self.state == PeerState::Unreachable {
            let identity = self.identity.clone();
            self.reached(now, timing, &identity);
        }
        self.last_heard = Some(now);
    }

    /// A heart beat is sent.
    pub(crate) fn schedule(&mut self, now: Instant, timing: &Timing) {
        let gap = timing.heart_beat.saturating_add(self.slow_down);
        self.next_beat = Some(after(now, gap.min(timing.longest_gap)));
        let grown = self.slow_down.saturating_add(timing.slow_down);
        self.slow_down = grown.min(timing.longest_gap);
    }

    /// When its silence has lasted for the next limit.
    pub(crate) fn limit_at(&self, timing: &Timing) -> Option<Instant> {
        let limit = match self.state {
            PeerState::Connected | PeerState::Routed { .. } => {
                timing.unreachable.min(timing.no_connection)
            }
            PeerState::Unreachable => timing.no_connection,
            _ => return None,
        };
        Some(after(self.last_heard?, limit))
    }

    /// Looks at the limits of silence.
    pub(crate) fn judge(&mut self, now: Instant, timing: &Timing) {
        let Some(last) = self.last_heard.filter(|_| self.is_watched()) else {
            return;
        };
        if after(last, timing.no_connection) <= now {
            self.state = PeerState::NoConnection;
        } else if after(last, timing.unreachable) <= now && self.state.is_reached() {
            self.state = PeerState::Unreachable;
        }
    }

    /// When a link of its own is to be given up, over which nothing is answered while it is reached over a hop.
    pub(crate) fn link_ends_at(&self, timing: &Timing) -> Option<Instant> {
        let routed = matches!(self.state, PeerState::Routed { .. });
        let since = self.link_silent.filter(|_| routed)?;
        Some(after(since, timing.no_connection))
    }

    /// That link is given up, and a new one is to be made at once.
    pub(crate) fn link_ends(&mut self, now: Instant) {
        self.link_silent = None;
        self.next_dial = Some(now);
    }

    /// The node was held up that long, and that does not count as silence.
    pub(crate) fn excuse(&mut self, late: Duration, now: Instant) {
        self.last_heard = self.last_heard.map(|last| now.min(after(last, late)));
        self.link_silent = self.link_silent.map(|since| after(since, late));
        if self.state == PeerState::Connecting {
            self.next_beat = self.next_beat.map(|end| after(end, late));
        }
    }

    /// Its last link has ended without a goodbye, or that of the hop it was reached through.
    pub(crate) fn lost(&mut self, now: Instant, timing: &Timing) {
        match self.state {
            PeerState::Connected | PeerState::Routed { .. } => {
                self.state = PeerState::Unreachable;
                self.next_dial = None;
            }
            PeerState::Connecting => self.attempt_failed(now, timing),
            _ => {}
        }
    }

    /// It has said that it leaves.
    pub(crate) fn left(&mut self, now: Instant) {
        self.state = PeerState::Left;
        self.last_heard = Some(now);
        self.next_beat = None;
        self.next_dial = None;
        self.last_via = None;
        self.slow_down = Duration::ZERO;
    }

    /// What others see of it.
    pub(crate) fn snapshot(&self, now: Instant) -> Peer {
        Peer {
            identity: self.identity.clone(),
            state: self.state.clone(),
            address: self.address.clone(),
            incarnation: self.incarnation,
            silent: self
                .last_heard
                .map(|then| now.saturating_duration_since(then)),
            round_trip: self.round_trip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: PeerState = PeerState::Initial;
    const CONNECTING: PeerState = PeerState::Connecting;
    const CONNECTED: PeerState = PeerState::Connected;
    const UNREACHABLE: PeerState = PeerState::Unreachable;
    const NO_CONNECTION: PeerState = PeerState::NoConnection;
    const LEFT: PeerState = PeerState::Left;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn peer() -> Identity {
        "peer".try_into().unwrap()
    }

    fn hop() -> Identity {
        "the hop".try_into().unwrap()
    }

    fn routed() -> PeerState {
        PeerState::Routed { via: hop() }
    }

    fn all() -> [PeerState; 7] {
        let states = [INITIAL, CONNECTING, CONNECTED, routed()];
        let [a, b, c, d] = states;
        [a, b, c, d, UNREACHABLE, NO_CONNECTION, LEFT]
    }

    /// A record in that state, with an attempt, heart beat or pause that ends at 7 s, last heard at 0.
    fn record(state: PeerState, start: Instant) -> Record {
        let mut record = Record::new(peer());
        record.state = state;
        record.next_beat = Some(start + secs(7));
        record.last_heard = Some(start);
        record.slow_down = secs(2);
        record
    }

    /// The seconds from `start` to a timer.
    fn at(timer: Option<Instant>, start: Instant) -> Option<u64> {
        timer.map(|timer| timer.duration_since(start).as_secs())
    }

    #[test]
    fn each_state_answers_each_event_as_the_table_says() {
        type Event = fn(&mut Record, Instant, &Timing);
        let direct: Event = |it, now, timing| it.reached(now, timing, &peer());
        let over: Event = |it, now, timing| it.reached(now, timing, &hop());
        let heard: Event = |it, now, timing| it.heard(now, timing);
        let attempt: Event = |it, now, timing| it.attempt(now, timing);
        let failed: Event = |it, now, timing| it.attempt_failed(now, timing);
        let lost: Event = |it, now, timing| it.lost(now, timing);
        let left: Event = |it, now, _| it.left(now);
        let long_silence: Event = |it, now, timing| it.judge(now + secs(40), timing);
        let end_of_patience: Event = |it, now, timing| it.judge(now + secs(240), timing);
        let table: [(&str, Event, [PeerState; 7]); 9] = [
            // Initial, Connecting, Connected, Routed, Unreachable, NoConnection, Left
            (
                "direct",
                direct,
                [
                    CONNECTED, CONNECTED, CONNECTED, CONNECTED, CONNECTED, CONNECTED, LEFT,
                ],
            ),
            (
                "over",
                over,
                [
                    routed(),
                    routed(),
                    routed(),
                    routed(),
                    routed(),
                    routed(),
                    LEFT,
                ],
            ),
            (
                "heard",
                heard,
                [
                    INITIAL,
                    CONNECTING,
                    CONNECTED,
                    routed(),
                    CONNECTED,
                    NO_CONNECTION,
                    LEFT,
                ],
            ),
            (
                "attempt",
                attempt,
                [
                    CONNECTING,
                    CONNECTING,
                    CONNECTED,
                    routed(),
                    UNREACHABLE,
                    CONNECTING,
                    CONNECTING,
                ],
            ),
            (
                "failed",
                failed,
                [
                    NO_CONNECTION,
                    NO_CONNECTION,
                    CONNECTED,
                    routed(),
                    UNREACHABLE,
                    NO_CONNECTION,
                    LEFT,
                ],
            ),
            (
                "lost",
                lost,
                [
                    INITIAL,
                    NO_CONNECTION,
                    UNREACHABLE,
                    UNREACHABLE,
                    UNREACHABLE,
                    NO_CONNECTION,
                    LEFT,
                ],
            ),
            ("left", left, [LEFT, LEFT, LEFT, LEFT, LEFT, LEFT, LEFT]),
            (
                "40 s",
                long_silence,
                [
                    INITIAL,
                    CONNECTING,
                    UNREACHABLE,
                    UNREACHABLE,
                    UNREACHABLE,
                    NO_CONNECTION,
                    LEFT,
                ],
            ),
            (
                "240 s",
                end_of_patience,
                [
                    INITIAL,
                    CONNECTING,
                    NO_CONNECTION,
                    NO_CONNECTION,
                    NO_CONNECTION,
                    NO_CONNECTION,
                    LEFT,
                ],
            ),
        ];
        let (start, timing) = (Instant::now(), Timing::original());
        for (name, event, expected) in table {
            for (old, new) in all().into_iter().zip(expected) {
                let mut record = record(old.clone(), start);
                event(&mut record, start, &timing);
                assert_eq!(record.state, new, "{name}, when it was {old}");
            }
        }
    }

    #[test]
    fn a_hello_is_answered_with_one_only_by_who_does_not_try_already() {
        let expected = [true, false, false, false, false, true, true];
        for (state, answered) in all().into_iter().zip(expected) {
            let record = record(state.clone(), Instant::now());
            assert_eq!(record.is_idle(), answered, "{state}");
        }
    }

    #[test]
    fn attempts_wait_40_then_4_then_6_seconds_and_pause_120_between() {
        let (start, timing) = (Instant::now(), Timing::original());
        let mut record = Record::new(peer());
        assert_eq!(record.attempt_at(start), Some(start), "at once");
        let mut now = start;
        for (begins, ends) in [
            (0, 40),
            (160, 164),
            (284, 290),
            (410, 418),
            (538, 548),
            (668, 678),
        ] {
            assert_eq!(at(record.attempt_at(now), start), Some(begins));
            record.attempt(start + secs(begins), &timing);
            assert_eq!(record.attempt_at(now), None);
            assert_eq!(at(record.give_up_at(), start), Some(ends));
            now = start + secs(ends);
            record.attempt_failed(now, &timing);
            assert_eq!(record.give_up_at(), None);
        }
    }

    #[test]
    fn unanswered_heart_beats_come_after_4_6_8_and_then_10_seconds() {
        let (start, timing) = (Instant::now(), Timing::original());
        let mut record = Record::new(peer());
        record.reached(start, &timing, &peer());
        for due in [4, 8, 14, 22, 32, 42, 52] {
            assert_eq!(at(record.beat_at(start), start), Some(due));
            record.schedule(start + secs(due), &timing);
        }
        record.reached(start + secs(60), &timing, &peer());
        assert_eq!(at(record.beat_at(start), start), Some(64));
        record.schedule(start + secs(64), &timing);
        assert_eq!(at(record.beat_at(start), start), Some(68));
    }

    #[test]
    fn the_limits_of_silence_are_40_and_240_seconds_and_not_a_moment_earlier() {
        let (start, timing) = (Instant::now(), Timing::original());
        let moment = Duration::from_nanos(1);
        let mut record = record(CONNECTED, start);
        for (limit, before, after) in [
            (secs(40), CONNECTED, UNREACHABLE),
            (secs(240), UNREACHABLE, NO_CONNECTION),
        ] {
            assert_eq!(record.limit_at(&timing), Some(start + limit));
            record.judge(start + limit - moment, &timing);
            assert_eq!(record.state, before);
            record.judge(start + limit, &timing);
            assert_eq!(record.state, after);
        }
        assert_eq!(record.limit_at(&timing), None);
    }

    #[test]
    fn only_who_is_reached_or_was_until_lately_gets_heart_beats() {
        let start = Instant::now();
        let expected = [false, false, true, true, true, false, false];
        for (state, gets) in all().into_iter().zip(expected) {
            let record = record(state.clone(), start);
            assert_eq!(record.beat_at(start).is_some(), gets, "{state}");
            assert_eq!(record.limit_at(&Timing::lan()).is_some(), gets, "{state}");
        }
    }

    #[test]
    fn a_peer_whose_link_is_lost_is_dialed_at_once_and_then_after_pauses() {
        let (start, timing) = (Instant::now(), Timing::lan());
        let mut record = record(CONNECTED, start);
        assert_eq!(record.attempt_at(start), None);
        record.lost(start, &timing);
        assert_eq!(record.attempt_at(start), Some(start));
        record.attempt(start, &timing);
        assert_eq!(record.attempt_at(start), Some(start + timing.reconnect));
        record.reached(start, &timing, &peer());
        record.lost(start, &timing);
        assert_eq!(record.attempt_at(start), Some(start), "again at once");
    }
}
