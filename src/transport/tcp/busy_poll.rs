//! Looking again for a moment before sleeping.
//!
//! To sleep and be woken costs more than most answers take to come on a local network: about ten microseconds for both ends of a round trip
//! on the machine of `docs/BENCHMARKS.md`, a third of it. So who waits for the network first looks a few times, and gives the processor to
//! whoever else wants it in between. Where that has lately been in vain, it sleeps at once.
//!
//! In a crowd, where one caller reads the answers of all, the others look as well. To them time means little, as what passes between two
//! looks is others' work; they look a few times.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::clock;

/// The default of what is spent on looking before a thread sleeps.
pub(super) const DEFAULT: Duration = Duration::from_micros(20);

/// More than this is never spent by one that waits alone: it has others to look after, and its own end.
const MAX: Duration = Duration::from_millis(1);

/// Where the processor does not come back for so long after it was given away, others keep it busy: one that sleeps would be woken sooner.
const GONE: Duration = Duration::from_millis(1);

/// How often one of a crowd looks before it sleeps.
const LOOKS: u32 = 10;

/// So many waits in a row that looking did not shorten show that it is in vain.
const IN_VAIN: u32 = 4;
/// Then every so many waits it is tried again.
const RETRY: u32 = 16;

/// When the processor did not come back, nobody looks for so many waits; each time it happens soon again, for twice as many. Beginning
/// with a thousand, the few moments that any machine takes for itself cost sixteen callers a third of their commits.
const PAUSE: RangeInclusive<u32> = 64..=4096;
/// One part in so many of that pause is taken off it by each success.
const DECAY: u32 = 64;

/// Decides whether looking pays, by how it went the last times. Where several threads wait at once, it is the same for all; then they may
/// miss each other's news, which does no harm.
#[derive(Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    looks: u32,
    /// Waits since the last that looking shortened.
    misses: AtomicU32,
    /// For how many more waits nobody looks.
    paused: AtomicU32,
    /// For how many it was last.
    pause: AtomicU32,
}

impl BusyPoll {
    /// Looks for at most `limit` at a time, or [`MAX`]; not at all if that is zero.
    pub(super) fn new(limit: Duration) -> Self {
        Self::with(limit.min(MAX), u32::MAX)
    }

    /// For those who wait while one of them reads for all: looks a few times, however long that takes; not at all if `limit` is zero.
    pub(super) fn in_crowd(limit: Duration) -> Self {
        Self::with(if limit.is_zero() { limit } else { Duration::MAX }, LOOKS)
    }

    fn with(limit: Duration, looks: u32) -> Self {
        Self { limit, looks, misses: AtomicU32::new(0), paused: AtomicU32::new(0), pause: AtomicU32::new(0) }
    }

    /// Looks until there is something, or for as long as it may; returns whether there is.
    pub(super) fn find(&self, look: impl FnMut() -> bool) -> bool {
        let mut last = None;
        let give_way = || {
            let before = last.unwrap_or_else(clock::now);
            thread::yield_now();
            let now = clock::now();
            last = Some(now);
            now.saturating_duration_since(before)
        };
        self.find_between(look, give_way)
    }

    /// Looks, and between two looks gives way to others, which takes so long.
    fn find_between(&self, mut look: impl FnMut() -> bool, mut give_way: impl FnMut() -> Duration) -> bool {
        if !self.pays() {
            return false;
        }
        if look() {
            self.found();
            return true;
        }
        let mut spent = Duration::ZERO;
        for _ in 1..self.looks {
            let took = give_way();
            let found = look();
            if took >= GONE {
                self.pause();
                return found;
            }
            if found {
                self.found();
                return true;
            }
            spent += took;
            if spent >= self.limit {
                break;
            }
        }
        self.missed(self.misses.load(Relaxed));
        false
    }

    /// Whether this wait is one to look in.
    fn pays(&self) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        let paused = self.paused.load(Relaxed);
        if paused > 0 {
            self.paused.store(paused - 1, Relaxed);
            return false;
        }
        let misses = self.misses.load(Relaxed);
        let pays = misses < IN_VAIN || misses.is_multiple_of(RETRY);
        if !pays {
            self.missed(misses);
        }
        pays
    }

    fn found(&self) {
        let (misses, pause) = (self.misses.load(Relaxed), self.pause.load(Relaxed));
        // Nearly always there is nothing to store, which others would have to fetch.
        if misses > 0 {
            self.misses.store(0, Relaxed);
        }
        if pause > 0 {
            self.pause.store(pause - pause.div_ceil(DECAY), Relaxed);
        }
    }

    fn missed(&self, before: u32) {
        // A count that has run over is not zero again, which would be a success.
        self.misses.store(before.wrapping_add(1).max(1), Relaxed);
    }

    fn pause(&self) {
        let pause = self.pause.load(Relaxed).saturating_mul(2).clamp(*PAUSE.start(), *PAUSE.end());
        // Several that have given way come back at about the same time: that is one event.
        if self.paused.compare_exchange(0, pause, Relaxed, Relaxed).is_ok() {
            self.pause.store(pause, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits in vain; returns at which of so many waits it looked.
    fn tries(poll: &BusyPoll, waits: u32) -> Vec<u32> {
        let looks = || {
            let mut looked = false;
            let look = || {
                looked = true;
                false
            };
            assert!(!poll.find_between(look, || Duration::ZERO));
            looked
        };
        (0..waits).filter(|_| looks()).collect()
    }

    /// Looks twice at most.
    fn brief() -> BusyPoll {
        BusyPoll::with(MAX, 2)
    }

    #[test]
    fn what_comes_while_it_looks_is_found() {
        let poll = BusyPoll::with(Duration::MAX, u32::MAX);
        let mut looks = 0;
        let look = || {
            looks += 1;
            looks == 5
        };
        assert!(poll.find_between(look, || Duration::ZERO));
        assert_eq!(looks, 5);
    }

    #[test]
    fn where_looking_is_in_vain_it_is_rare() {
        assert_eq!(tries(&brief(), 50), [0, 1, 2, 3, 16, 32, 48]);
    }

    #[test]
    fn one_success_makes_it_worthwhile_again() {
        let poll = brief();
        assert_eq!(tries(&poll, 16), [0, 1, 2, 3]);
        assert!(poll.find(|| true), "the time to try has come");
        assert_eq!(tries(&poll, 6), [0, 1, 2, 3]);
    }

    #[test]
    fn one_that_is_alone_looks_for_a_limited_time() {
        let poll = BusyPoll::new(MAX / 2);
        let mut looks = 0;
        let look = || {
            looks += 1;
            false
        };
        assert!(!poll.find_between(look, || MAX / 10));
        assert_eq!(looks, 6);
    }

    #[test]
    fn one_of_a_crowd_looks_a_few_times() {
        let poll = BusyPoll::in_crowd(MAX);
        let mut looks = 0;
        let mut look = |found| {
            looks += 1;
            looks == found
        };
        assert!(!poll.find_between(|| look(u32::MAX), || GONE / 2));
        assert!(poll.find_between(|| look(2 * LOOKS), || GONE / 2), "at the last look");
        assert_eq!(looks, 2 * LOOKS);
    }

    #[test]
    fn where_the_processor_does_not_come_back_nobody_looks_for_a_while() {
        for poll in [BusyPoll::new(MAX), BusyPoll::in_crowd(MAX)] {
            let found_late = |poll: &BusyPoll| {
                let mut looks = 0;
                let look = || {
                    looks += 1;
                    looks == 2
                };
                assert!(poll.find_between(look, || GONE), "it has come meanwhile");
            };
            let paused = |poll: &BusyPoll| (0..).take_while(|_| !poll.find(|| true)).count();
            found_late(&poll);
            assert_eq!(paused(&poll), 64);
            found_late(&poll);
            assert_eq!(paused(&poll), 126, "twice as many, but for one success between");
            (0..1000).for_each(|_| assert!(poll.find(|| true)));
            found_late(&poll);
            assert_eq!(paused(&poll), 64, "that was long ago");
            (0..10).for_each(|_| poll.pause());
            assert_eq!(paused(&poll), 126, "those were one event");
            let pauses = (0..10).map(|_| {
                poll.pause();
                paused(&poll)
            });
            assert_eq!(pauses.last(), Some(4096), "it is bounded");
        }
    }

    #[test]
    fn it_ends_when_nothing_comes() {
        for poll in [BusyPoll::new(MAX), BusyPoll::in_crowd(MAX)] {
            assert!((0..20).all(|_| !poll.find(|| false)));
        }
    }

    #[test]
    fn with_no_time_it_never_looks() {
        for poll in [BusyPoll::new(Duration::ZERO), BusyPoll::in_crowd(Duration::ZERO)] {
            assert!((0..100).all(|_| !poll.find(|| panic!("it looked"))));
        }
    }
}
