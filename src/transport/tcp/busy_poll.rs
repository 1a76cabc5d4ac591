//! Looking again for a moment before sleeping.
//!
//! To sleep and be woken costs more than most answers take to come on a local network: about ten microseconds for both ends of a round trip
//! on the machine of `docs/BENCHMARKS.md`, a third of it. So who waits for the network first looks a few times, and gives the processor to
//! whoever else wants it in between. Where that has lately been in vain, it sleeps at once.

use std::thread;
use std::time::Duration;

use crate::clock;

/// The default of what is spent on looking before a thread sleeps.
pub(super) const DEFAULT: Duration = Duration::from_micros(20);

/// More than this is never spent: a thread that waits has others to look after, and its own end.
const MAX: Duration = Duration::from_millis(1);

/// So many waits in a row that looking did not shorten show that it is in vain.
const IN_VAIN: u32 = 4;
/// Then every so many waits it is tried again.
const RETRY: u32 = 16;

/// Decides whether looking pays, by how it went the last times.
#[derive(Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    /// Waits since the last that looking shortened.
    misses: u32,
}

impl BusyPoll {
    /// Looks for at most `limit` at a time, or [`MAX`]; not at all if that is zero.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit: limit.min(MAX), misses: 0 }
    }

    /// Looks until there is something, or for as long as it may; returns whether there is.
    pub(super) fn find(&mut self, mut look: impl FnMut() -> bool) -> bool {
        if !self.pays() {
            self.ended(false);
            return false;
        }
        let mut since = None;
        loop {
            if look() {
                self.ended(true);
                return true;
            }
            if clock::left(*since.get_or_insert_with(clock::now), self.limit).is_zero() {
                self.ended(false);
                return false;
            }
            thread::yield_now();
        }
    }

    fn pays(&self) -> bool {
        !self.limit.is_zero() && (self.misses < IN_VAIN || self.misses.is_multiple_of(RETRY))
    }

    fn ended(&mut self, found: bool) {
        // A count that has run over is not zero again, which would be a success.
        self.misses = if found { 0 } else { self.misses.wrapping_add(1).max(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However busy the machine is.
    fn unhurried() -> BusyPoll {
        BusyPoll { limit: Duration::from_secs(3600), misses: 0 }
    }

    /// Waits in vain; returns at which of so many waits it looked.
    fn tries(poll: &mut BusyPoll, waits: u32) -> Vec<u32> {
        poll.limit = Duration::from_nanos(1);
        let mut looks = || {
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
        let mut poll = unhurried();
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
    fn with_no_time_it_never_looks() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        assert!((0..100).all(|_| !poll.find(|| panic!("it looked"))));
    }
}
