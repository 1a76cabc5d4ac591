//! Bounds on what may be queued per destination, in bytes and messages.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::id::UniqueId;

/// A bound per destination. What is taken comes back exactly when its [`Permit`] is dropped, so the count cannot drift.
#[derive(Debug)]
pub(crate) struct Budget {
    max_bytes: usize,
    max_messages: usize,
    used: Mutex<HashMap<UniqueId, Used>>,
    freed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    bytes: usize,
    messages: usize,
    waiting: usize,
}

impl Budget {
    pub(crate) fn new(max_bytes: usize, max_messages: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, max_messages, used: Mutex::default(), freed: Condvar::new() })
    }

    /// Takes room for one message of `bytes`, at once or not at all. A message above the whole bound is let through when nothing
    /// else is queued, or it could never be sent.
    pub(crate) fn try_take(self: &Arc<Self>, destination: UniqueId, bytes: usize) -> Option<Permit> {
        self.take_locked(&mut self.lock(), destination, bytes)
    }

    /// As [`try_take`](Self::try_take), but waits for room as long as `timeout`.
    pub(crate) fn take(self: &Arc<Self>, destination: UniqueId, bytes: usize, timeout: Duration) -> Option<Permit> {
        let mut used = self.lock();
        if let Some(permit) = self.take_locked(&mut used, destination, bytes) {
            return Some(permit);
        }
        let start = clock::now();
        loop {
            let left = clock::left(start, timeout);
            if left.is_zero() {
                return None;
            }
            used.entry(destination).or_default().waiting += 1;
            used = self.freed.wait_timeout(used, left).unwrap_or_else(PoisonError::into_inner).0;
            used.entry(destination).or_default().waiting -= 1;
            if let Some(permit) = self.take_locked(&mut used, destination, bytes) {
                return Some(permit);
            }
        }
    }

    /// What is queued for all destinations: bytes and messages.
    pub(crate) fn used(&self) -> (usize, usize) {
        self.lock().values().fold((0, 0), |(bytes, messages), used| (bytes + used.bytes, messages + used.messages))
    }

    fn take_locked(
        self: &Arc<Self>,
        all: &mut MutexGuard<'_, HashMap<UniqueId, Used>>,
        destination: UniqueId,
        bytes: usize,
    ) -> Option<Permit> {
        let used = all.entry(destination).or_default();
        let fits = used.messages < self.max_messages && used.bytes.saturating_add(bytes) <= self.max_bytes;
        if !fits && used.messages > 0 {
            return None;
        }
        used.bytes += bytes;
        used.messages += 1;
        Some(Permit { budget: Arc::clone(self), destination, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UniqueId, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room in a [`Budget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    destination: UniqueId,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut all = self.budget.lock();
        let Some(used) = all.get_mut(&self.destination) else { return };
        used.bytes -= self.bytes;
        used.messages -= 1;
        let (idle, waiting) = (used.messages == 0 && used.waiting == 0, used.waiting > 0);
        if idle {
            // Destinations come and go; only those with something queued take memory.
            all.remove(&self.destination);
        }
        drop(all);
        if waiting {
            self.budget.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UniqueId = UniqueId::from_bytes([1; 16]);
    const B: UniqueId = UniqueId::from_bytes([2; 16]);

    #[test]
    fn one_full_destination_leaves_the_others_their_room() {
        let budget = Budget::new(100, 2);
        let first = budget.try_take(A, 60).expect("room");
        assert!(budget.try_take(A, 60).is_none(), "bytes");
        let _second = budget.try_take(A, 40).expect("room");
        assert!(budget.try_take(A, 0).is_none(), "messages");
        assert!(budget.try_take(B, 100).is_some());
        drop(first);
        assert_eq!(budget.used(), (40, 1));
        assert!(budget.try_take(A, 60).is_some());
    }

    #[test]
    fn an_oversized_message_passes_alone() {
        let budget = Budget::new(10, 2);
        let alone = budget.try_take(A, 50).expect("nothing else is queued");
        assert!(budget.try_take(A, 1).is_none());
        drop(alone);
        assert_eq!(budget.used(), (0, 0));
        assert!(budget.lock().is_empty(), "an idle destination takes no memory");
    }

    #[test]
    fn a_waiter_gets_the_room_that_is_given_back() {
        let budget = Budget::new(10, 1);
        let held = budget.try_take(A, 10).expect("room");
        assert!(budget.take(A, 1, Duration::from_millis(1)).is_none());
        let waiter = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.take(A, 1, Duration::from_secs(20)).is_some()
        });
        drop(held);
        assert!(waiter.join().expect("no panic"));
    }
}
