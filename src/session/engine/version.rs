//! Versions: a hybrid logical clock and the member that wrote.

use std::fmt;
use std::time::Duration;

use crate::id::{UniqueId, mix};

/// When something was written, and by whom: what decides which of two writes is the later one.
///
/// A hybrid logical clock (Kulkarni et al., 2014): milliseconds since 1970 in the upper 48 bits, a count in the lower 16, never behind
/// any version that the writer has seen. Ties are decided by the writer's name, a hash of its unique id, so all members order all versions
/// alike. A member may write under several names.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version {
    pub(crate) time: u64,
    pub(crate) node: u64,
}

/// Bits of a time that count within a millisecond.
const COUNT_BITS: u32 = 16;

impl Version {
    /// Before everything that is written.
    pub(crate) const ZERO: Self = Self { time: 0, node: 0 };

    /// The milliseconds since 1970 of the writer's hybrid clock.
    #[must_use]
    pub const fn epoch_millis(&self) -> u64 {
        self.time >> COUNT_BITS
    }

    pub(crate) const fn is_zero(&self) -> bool {
        self.time == 0 && self.node == 0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Milliseconds, count and writer: `1790000000000.0@00f1a2b3c4d5e6f7`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{:016x}", self.epoch_millis(), self.time & ((1 << COUNT_BITS) - 1), self.node)
    }
}

/// The short name of a member inside versions: 64 bits of hash instead of its 128-bit id.
pub(crate) fn node_of(id: UniqueId) -> u64 {
    let [high, low] = [0, 8].map(|at| id.as_bytes()[at..at + 8].iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte)));
    mix(mix(high) ^ low).max(1)
}

/// Rows of times given for what runaway clocks have stamped; of more, the gaps between them count as given.
const MAX_GIVEN: usize = 256;

/// The clock that versions come from.
#[derive(Debug)]
pub(crate) struct HybridClock {
    node: u64,
    last: u64,
    /// The last time given for what a runaway clock had stamped.
    runaway: u64,
    /// The times given for such, from the first to the last of those in a row, that this clock has not come to yet.
    given: Vec<(u64, u64)>,
    max_skew: u64,
    /// How far ahead of this member's wall clock the furthest version was that came in, in milliseconds.
    furthest: u64,
}

impl HybridClock {
    /// The clock of a member in one of its lives: each writes under a name of its own.
    pub(crate) fn new(id: UniqueId, life: u64, max_skew: Duration) -> Self {
        let max_skew = u64::try_from(max_skew.as_millis()).unwrap_or(u64::MAX);
        let node = if life == 0 { node_of(id) } else { mix(node_of(id) ^ life).max(1) };
        Self { node, last: 0, runaway: 0, given: Vec::new(), max_skew, furthest: 0 }
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// A version later than all that this member has given or seen within the bound, and later than `floor`: what is being overwritten.
    /// No version is given twice.
    pub(crate) fn tick(&mut self, epoch_millis: u64, floor: u64) -> Version {
        let now = epoch_millis.min(u64::MAX >> COUNT_BITS) << COUNT_BITS;
        let time = self.not_given(now.max(self.last.saturating_add(1)));
        // One entry that a runaway clock has stamped does not carry this clock away.
        self.last = time;
        if floor < time {
            return Version { time, node: self.node };
        }
        self.runaway = self.runaway.max(floor).saturating_add(1);
        let full = self.given.len() >= MAX_GIVEN;
        match self.given.last_mut() {
            Some((_, last)) if last.saturating_add(1) == self.runaway || full => *last = self.runaway,
            _ => self.given.push((self.runaway, self.runaway)),
        }
        Version { time: self.runaway, node: self.node }
    }

    /// This time, or the next that was not given for what a runaway clock had stamped.
    fn not_given(&mut self, mut time: u64) -> u64 {
        for (first, last) in &self.given {
            if (*first..=*last).contains(&time) {
                time = last.saturating_add(1);
            }
        }
        self.given.retain(|(_, last)| *last >= time);
        time
    }

    /// A version came in. One that is ahead by more than the bound leaves this clock where it is.
    pub(crate) fn observe(&mut self, epoch_millis: u64, time: u64) {
        let ahead = (time >> COUNT_BITS).saturating_sub(epoch_millis);
        self.furthest = self.furthest.max(ahead);
        if ahead <= self.max_skew {
            self.last = self.last.max(time);
        }
    }

    pub(crate) fn furthest_ahead(&self) -> Duration {
        Duration::from_millis(self.furthest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> HybridClock {
        HybridClock::new(UniqueId::from_bytes([1; 16]), 0, Duration::from_secs(60))
    }

    #[test]
    fn versions_rise_when_the_wall_clock_stands_or_falls() {
        let mut clock = clock();
        let versions = [1000, 1000, 900, 1001].map(|millis| clock.tick(millis, 0));
        assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    }

    #[test]
    fn what_is_overwritten_is_older_even_when_it_came_from_the_future() {
        let mut clock = clock();
        let future = (10_000_000_u64) << COUNT_BITS;
        clock.observe(1000, future);
        assert_eq!(clock.furthest_ahead(), Duration::from_millis(9_999_000));
        assert!(clock.tick(1000, future).time > future);
        assert_eq!(clock.tick(1000, 0).epoch_millis(), 1000, "other entries keep their own time");
    }

    #[test]
    fn a_clock_that_is_carried_to_where_a_runaway_clock_was_gives_no_version_again() {
        let mut clock = clock();
        let future = 100_000_u64 << COUNT_BITS;
        let before = [future, future + 1, future + 9].map(|floor| clock.tick(1000, floor));
        // Its own clock has caught up as far as the bound, and another member's write carries it along.
        clock.observe(90_000, future);
        let after: Vec<_> = (0..12).map(|_| clock.tick(90_000, 0)).collect();
        assert!(after.windows(2).all(|pair| pair[0] < pair[1]), "{after:?}");
        assert!(after.iter().all(|version| !before.contains(version)), "{before:?} {after:?}");
    }

    #[test]
    fn no_version_is_given_twice_even_for_what_came_from_the_future() {
        let mut clock = clock();
        let future = (10_000_000_u64) << COUNT_BITS;
        let floors = [future, future, future + 5, 0, future + 1];
        let mut given: Vec<_> = floors.map(|floor| clock.tick(1000, floor)).into();
        assert!(given.iter().zip(floors).all(|(version, floor)| version.time > floor), "{given:?}");
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), floors.len());
    }

    #[test]
    fn a_version_within_the_bound_carries_the_clock_along() {
        let mut clock = clock();
        clock.observe(1000, 50_000 << COUNT_BITS);
        assert!(clock.tick(1000, 0).time > 50_000 << COUNT_BITS);
    }
}
