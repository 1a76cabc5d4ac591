//! Bounds on what may be queued per destination, in bytes and messages.
//!
//! Taking and giving back room is one atomic operation each: bytes and messages of a destination share one word, so that both
//! bounds are checked together and no lock is held while others count.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::clock;
use crate::hash::ById;
use crate::id::UniqueId;

/// A bound per destination. What is taken comes back exactly when its [`Permit`] is dropped, so the count cannot drift.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    destinations: RwLock<ById<Arc<Destination>>>,
}

impl Budget {
    /// A bound of so many bytes and messages for each destination; at least one message, at most 512 GiB and 16 million messages.
    pub(crate) fn new(max_bytes: usize, max_messages: usize) -> Arc<Self> {
        let max_bytes = u64::try_from(max_bytes).unwrap_or(u64::MAX).min(MAX_BYTES);
        let max_messages = u64::try_from(max_messages).unwrap_or(u64::MAX).clamp(1, MAX_MESSAGES);
        Arc::new(Self { limits: Limits { bytes: max_bytes, messages: max_messages }, destinations: RwLock::default() })
    }

    /// Takes room for one message of `bytes`, at once or not at all. A message above the whole bound is let through when nothing
    /// else is queued, or it could never be sent.
    pub(crate) fn try_take(&self, destination: UniqueId, bytes: usize) -> Option<Permit> {
        Permit::try_take(&self.destination(destination), size(bytes))
    }

    /// As [`try_take`](Self::try_take), but waits for room as long as `timeout`.
    pub(crate) fn take(&self, destination: UniqueId, bytes: usize, timeout: Duration) -> Option<Permit> {
        let destination = self.destination(destination);
        Permit::try_take(&destination, size(bytes)).or_else(|| destination.wait(size(bytes), timeout))
    }

    /// What is queued for all destinations: bytes and messages.
    pub(crate) fn used(&self) -> (usize, usize) {
        let all = self.destinations.read().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|one| one.used()).fold((0, 0), |sum, used| {
            let [bytes, messages] = [used.bytes, used.messages].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
            (sum.0 + bytes, sum.1 + messages)
        })
    }

    fn destination(&self, id: UniqueId) -> Arc<Destination> {
        let known = self.destinations.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(Arc::clone);
        known.unwrap_or_else(|| self.add(id))
    }

    fn add(&self, id: UniqueId) -> Arc<Destination> {
        let mut all = self.destinations.write().unwrap_or_else(PoisonError::into_inner);
        // Destinations come and go; those that nothing is queued for make room. Permits and waiters hold a count of their own.
        if all.len() == all.capacity() {
            all.retain(|_, destination| Arc::strong_count(destination) > 1);
        }
        Arc::clone(all.entry(id).or_insert_with(|| {
            Arc::new(Destination {
                limits: self.limits,
                used: AtomicU64::new(0),
                waiting: AtomicUsize::new(0),
                turn: Mutex::new(()),
                freed: Condvar::new(),
            })
        }))
    }
}

/// Room in a [`Budget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    destination: Arc<Destination>,
    taken: u64,
}

impl Permit {
    fn try_take(destination: &Arc<Destination>, bytes: u64) -> Option<Self> {
        let taken = bytes | ONE_MESSAGE;
        let limits = destination.limits;
        destination
            .used
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |word| {
                let used = Limits::unpack(word);
                let fits = used.messages < limits.messages && used.bytes + bytes <= limits.bytes;
                (fits || used.messages == 0).then_some(word + taken)
            })
            .ok()?;
        Some(Self { destination: Arc::clone(destination), taken })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Destination { limits, used, waiting, turn, freed } = &*self.destination;
        let left = Limits::unpack(used.fetch_sub(self.taken, Ordering::SeqCst) - self.taken);
        // A waiter counts itself before it looks at `used` again, so one of both sees the other.
        if waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Waking a caller for every message would cost more than sending it: let it fill a quarter at once.
        if left.bytes <= limits.bytes / 4 * 3 && left.messages <= limits.messages / 4 * 3 {
            drop(turn.lock().unwrap_or_else(PoisonError::into_inner));
            freed.notify_all();
        }
    }
}

#[derive(Debug)]
struct Destination {
    limits: Limits,
    /// Messages above [`BYTE_BITS`], bytes below.
    used: AtomicU64,
    waiting: AtomicUsize,
    turn: Mutex<()>,
    freed: Condvar,
}

impl Destination {
    fn wait(self: &Arc<Self>, bytes: u64, timeout: Duration) -> Option<Permit> {
        let start = clock::now();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = loop {
            let permit = Permit::try_take(self, bytes);
            let left = clock::left(start, timeout);
            if permit.is_some() || left.is_zero() {
                break permit;
            }
            // There may be room though the queue has not sunk far enough for a call: look now and then.
            turn = self.freed.wait_timeout(turn, left.min(RECHECK)).unwrap_or_else(PoisonError::into_inner).0;
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        permit
    }

    fn used(&self) -> Limits {
        Limits::unpack(self.used.load(Ordering::Relaxed))
    }
}

/// Bytes and messages: a bound, or what is taken of it.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes: u64,
    messages: u64,
}

impl Limits {
    fn unpack(word: u64) -> Self {
        Self { bytes: word & (ONE_MESSAGE - 1), messages: word >> BYTE_BITS }
    }
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).min(MAX_BYTES)
}

const BYTE_BITS: u32 = 40;
const ONE_MESSAGE: u64 = 1 << BYTE_BITS;
/// Twice this fits into the bits: a full queue, or one message that is larger than all of it.
const MAX_BYTES: u64 = ONE_MESSAGE / 2;
const MAX_MESSAGES: u64 = (1 << (u64::BITS - BYTE_BITS)) - 1;
const RECHECK: Duration = Duration::from_millis(5);

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
        let alone = budget.try_take(A, usize::MAX).expect("nothing else is queued");
        assert!(budget.try_take(A, 1).is_none());
        drop(alone);
        assert_eq!(budget.used(), (0, 0));
    }

    #[test]
    fn destinations_that_nothing_is_queued_for_take_no_memory() {
        let budget = Budget::new(10, 2);
        let held = budget.try_take(A, 10).expect("room");
        for id in 0..10_000_u128 {
            drop(budget.try_take(UniqueId::from_bytes(id.to_be_bytes()), 1).expect("room"));
        }
        assert!(budget.destinations.read().expect("not poisoned").len() < 16);
        assert!(budget.try_take(A, 1).is_none(), "what is taken is not forgotten");
        drop(held);
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

    #[test]
    fn many_threads_never_exceed_the_bound_and_leave_nothing_behind() {
        let budget = Budget::new(100, 8);
        let threads = (0..4).map(|_| {
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || {
                for size in 0..2_000 {
                    let permit = budget.take(A, size % 50, Duration::from_secs(20)).expect("room comes");
                    let (bytes, messages) = budget.used();
                    assert!(bytes <= 100 && messages <= 8, "{bytes} bytes, {messages} messages");
                    drop(permit);
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(budget.used(), (0, 0));
    }
}
