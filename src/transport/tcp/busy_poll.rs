//! Looking again for a moment before sleeping.
//!
//! To sleep and be woken costs more than most answers take to come on a local network: about ten microseconds for both ends of a round trip
//! on the machine of `docs/BENCHMARKS.md`, a third of it. So who waits for the network first looks a few times, and gives the processor to
//! whoever else wants it in between. Where that has lately been in vain, it sleeps at once.
//!
//! In a crowd, where one caller reads the answers of all, the others look as well. To them time means little, as what passes between two
//! looks is others' work; they look a few times.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock;

/// The default of what is spent on looking before a thread sleeps.
pub(super) const DEFAULT: Duration = Duration::from_micros(20);

/// More than this is never spent: a thread that waits has others to look after, and its own end. What took longer to be found would have
/// been found sooner asleep: somebody has the processor who does not let go of it.
const MAX: Duration = Duration::from_millis(1);

/// How often one of a crowd looks before it sleeps.
const LOOKS: u32 = 10;

/// So many waits in a row that looking did not shorten show that it is in vain.
const IN_VAIN: u32 = 4;
/// Then every so many waits it is tried again.
const RETRY: u32 = 16;

/// Decides whether looking pays, by how it went the last times. Where several threads wait at once, it is the same for all.
#[derive(Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    looks: u32,
    /// Waits since the last that looking shortened.
    misses: AtomicU32,
}

impl BusyPoll {
    /// Looks for at most `limit` at a time, or [`MAX`]; not at all if that is zero.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit: limit.min(MAX), looks: u32::MAX, misses: AtomicU32::new(0) }
    }

    /// For those who wait while one of them reads for all: looks a few times, however long that takes; not at all if `limit` is zero.
    pub(super) fn in_crowd(limit: Duration) -> Self {
        let limit = if limit.is_zero() { Duration::ZERO } else { MAX };
        Self { limit, looks: LOOKS, misses: AtomicU32::new(0) }
    }

    /// Looks until there is something, or for as long as it may; returns whether there is.
    pub(super) fn find(&self, mut look: impl FnMut() -> bool) -> bool {
        if !self.pays() {
            self.ended(false);
            return false;
        }
        if look() {
            self.ended(true);
            return true;
        }
        let since = clock::now();
        for _ in 1..self.looks {
            thread::yield_now();
            if look() {
                self.ended(!clock::left(since, MAX).is_zero());
                return true;
            }
            if clock::left(since, self.limit).is_zero() {
                break;
            }
        }
        self.ended(false);
        false
    }

    fn pays(&self) -> bool {
        let misses = self.misses.load(Ordering::Relaxed);
        !self.limit.is_zero() && (misses < IN_VAIN || misses.is_multiple_of(RETRY))
    }

    fn ended(&self, found: bool) {
        // Threads that end at once may count as one. A count that has run over is not zero again, which would be a success.
        let misses = self.misses.load(Ordering::Relaxed);
        let next = if found { 0 } else { misses.wrapping_add(1).max(1) };
        if next != misses {
            self.misses.store(next, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However busy the machine is.
    fn unhurried() -> BusyPoll {
        BusyPoll { limit: Duration::from_secs(3600), looks: u32::MAX, misses: AtomicU32::new(0) }
    }

    /// Waits in vain; returns at which of so many waits it looked.
    fn tries(poll: &mut BusyPoll, waits: u32) -> Vec<u32> {
        poll.limit = Duration::from_nanos(1);
        let looks = || {
            let mut looked = false;
            let found = poll.find(|| {
                looked = true;
                false
            });
            assert!(!found);
            looked
        };
        (0..waits).filter(|_| looks()).collect()
    }

    #[test]
    fn what_comes_while_it_looks_is_found() {
        let poll = unhurried();
        let mut looks = 0;
        assert!(poll.find(|| {
            looks += 1;
            looks == 5
        }));
        assert_eq!(looks, 5);
    }

    #[test]
    fn where_looking_is_in_vain_it_is_rare() {
        let mut poll = BusyPoll::new(MAX);
        assert_eq!(tries(&mut poll, 50), [0, 1, 2, 3, 16, 32, 48]);
    }

    #[test]
    fn one_success_makes_it_worthwhile_again() {
        let mut poll = BusyPoll::new(MAX);
        assert_eq!(tries(&mut poll, 16), [0, 1, 2, 3]);
        poll.limit = MAX;
        assert!(poll.find(|| true), "the time to try has come");
        assert_eq!(tries(&mut poll, 6), [0, 1, 2, 3]);
    }

    #[test]
    fn one_of_a_crowd_looks_a_few_times() {
        let poll = BusyPoll { looks: LOOKS, ..unhurried() };
        let mut looks = 0;
        let mut look = |found| {
            looks += 1;
            looks == found
        };
        assert!(!poll.find(|| look(u32::MAX)));
        assert!(poll.find(|| look(2 * LOOKS)), "at the last look");
        assert_eq!(looks, 2 * LOOKS);
    }

    #[test]
    fn what_is_found_late_was_not_worth_looking_for() {
        let poll = unhurried();
        for _ in 0..IN_VAIN {
            let (since, mut first) = (clock::now(), true);
            assert!(poll.find(|| {
                // Somebody has the processor for long.
                while !first && !clock::left(since, 2 * MAX).is_zero() {}
                !std::mem::take(&mut first)
            }));
        }
        assert!(!poll.find(|| panic!("it looked")));
    }

    #[test]
    fn with_no_time_it_never_looks() {
        for poll in [BusyPoll::new(Duration::ZERO), BusyPoll::in_crowd(Duration::ZERO)] {
            assert!((0..100).all(|_| !poll.find(|| panic!("it looked"))));
        }
    }
}
