//! The memory that half-received large messages take: a bound over all connections, and buffers that are used again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// The most that is kept for use again, in buffers and in bytes.
const KEPT_BUFFERS: usize = 8;
const KEPT_BYTES: usize = 32 * 1024 * 1024;

/// Counts what half-received messages take, and keeps the buffers of large ones that were handed up lately: once their listeners
/// have dropped them they are filled again, which spares the page faults of fresh memory.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    used: AtomicUsize,
    kept: Mutex<VecDeque<Bytes>>,
}

/// There is no room left for a message that is coming in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Exhausted;

impl Memory {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), kept: Mutex::default() })
    }

    /// A buffer for a frame of `total` bytes: a whole one that was used before, or a fresh one of only `size` bytes.
    pub(super) fn take(self: &Arc<Self>, total: usize, size: usize) -> Result<Buffer, Exhausted> {
        let recycled = self.recycle(total);
        let size = recycled.as_ref().map_or(size, BytesMut::len);
        let charge = Charge::take(self, size)?;
        Ok(Buffer { bytes: recycled.unwrap_or_else(|| BytesMut::zeroed(size)), charge })
    }

    /// Remembers a buffer that is about to be handed up.
    fn keep(&self, buffer: &Bytes) {
        if buffer.len() > KEPT_BYTES / 2 {
            return;
        }
        let mut kept = self.lock();
        kept.push_back(buffer.clone());
        while kept.len() > KEPT_BUFFERS || kept.iter().map(Bytes::len).sum::<usize>() > KEPT_BYTES {
            kept.pop_front();
        }
    }

    /// Lets go of what is kept for use again.
    pub(super) fn trim(&self) {
        let kept = std::mem::take(&mut *self.lock());
        drop(kept);
    }

    /// A kept buffer that fits, is not wastefully large, and that nobody reads any more: the one used last, for the cache's sake.
    fn recycle(&self, total: usize) -> Option<BytesMut> {
        let mut kept = self.lock();
        let fits = |buffer: &Bytes| buffer.is_unique() && buffer.len() >= total && buffer.len() <= total.saturating_mul(2);
        let at = kept.iter().rposition(fits)?;
        let buffer = kept.remove(at)?;
        drop(kept);
        buffer.try_into_mut().ok()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that one large frame is received into. All its bytes are initialised, so that they can be read into.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: BytesMut,
    charge: Charge,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn grow(&mut self, size: usize) -> Result<(), Exhausted> {
        self.charge.raise(size)?;
        self.bytes.resize(size, 0);
        Ok(())
    }

    /// The whole buffer, to be handed up; it is used again when it comes back.
    pub(super) fn finish(self) -> Bytes {
        let bytes = self.bytes.freeze();
        self.charge.memory.keep(&bytes);
        bytes
    }
}

/// A share of the bound, given back on drop.
#[derive(Debug)]
struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Charge {
    fn take(memory: &Arc<Memory>, bytes: usize) -> Result<Self, Exhausted> {
        let mut charge = Self { memory: Arc::clone(memory), bytes: 0 };
        charge.raise(bytes)?;
        Ok(charge)
    }

    fn raise(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let more = bytes.saturating_sub(self.bytes);
        let used = self.memory.used.fetch_add(more, Ordering::Relaxed) + more;
        self.bytes += more;
        if used > self.memory.limit { Err(Exhausted) } else { Ok(()) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_is_given_back_counts_again() {
        let memory = Memory::new(100);
        let mut first = memory.take(90, 40).expect("room");
        assert!(memory.take(90, 61).is_err());
        first.grow(90).expect("room");
        assert!(first.grow(101).is_err());
        drop(first);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        assert!(memory.take(100, 100).is_ok());
    }

    #[test]
    fn a_buffer_is_used_again_once_its_reader_dropped_it() {
        let memory = Memory::new(1000);
        let held = memory.take(100, 100).expect("room").finish();
        let address = held.as_ptr();
        assert_ne!(memory.take(100, 100).expect("room").bytes.as_ptr(), address, "it is still read");
        drop(held);
        assert_eq!(memory.take(40, 40).expect("room").len(), 40, "it would be wasted on a small frame");
        assert_eq!(memory.take(90, 10).expect("room").bytes.as_ptr(), address);
        let held = memory.take(100, 100).expect("room").finish();
        memory.trim();
        assert!(held.is_unique());
    }
}
