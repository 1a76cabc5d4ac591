//! The clocks of a node, which need not agree with those of others.

use std::time::{Duration, Instant};

use crate::stack::Time;

/// A node's clocks: they may run too fast or too slow, and may have been set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The instant at virtual time 0 if the clock ran true.
    origin: Instant,
    /// Since when it runs at its rate, in virtual time, and what it showed then.
    since: Duration,
    showed: Duration,
    /// Parts per million that it is too fast.
    drift: i32,
    /// Milliseconds that the wall clock is ahead, or behind when negative.
    ahead: i64,
}

impl Clock {
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin, since: Duration::ZERO, showed: Duration::ZERO, drift: 0, ahead: 0 }
    }

    pub(super) fn set(&mut self, now: Duration, drift: i32, ahead: i64) {
        (self.showed, self.since) = (self.shows(now), now);
        (self.drift, self.ahead) = (drift.clamp(-900_000, 900_000), ahead);
    }

    fn shows(&self, now: Duration) -> Duration {
        self.showed + scale(now - self.since, 1_000_000 + i64::from(self.drift), 1_000_000)
    }

    pub(super) fn time(&self, now: Duration) -> Time {
        let shows = self.shows(now);
        let millis = i64::try_from(shows.as_millis()).unwrap_or(i64::MAX);
        let epoch_millis = u64::try_from(EPOCH_MILLIS.saturating_add(millis).saturating_add(self.ahead)).unwrap_or(0);
        Time { instant: self.origin + shows, epoch_millis }
    }

    /// The virtual time at which this clock shows at least `instant`.
    pub(super) fn at(&self, instant: Instant) -> Duration {
        let shows = instant.saturating_duration_since(self.origin);
        let wait = shows.saturating_sub(self.showed);
        self.since + scale(wait, 1_000_000, 1_000_000 + i64::from(self.drift)) + Duration::from_nanos(1)
    }
}

/// When simulated time starts, on the wall clock: a fixed date, so that runs repeat.
const EPOCH_MILLIS: i64 = 1_700_000_000_000;

fn scale(time: Duration, by: i64, of: i64) -> Duration {
    let nanos = time.as_nanos() * u128::try_from(by).unwrap_or(1) / u128::try_from(of).unwrap_or(1);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
