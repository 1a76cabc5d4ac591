//! What this member holds: slots of entries, each slot with a digest that is kept up to date.

use std::cmp::Ordering;
use std::sync::Arc;

pub(crate) use super::key::Key;
use super::record::{Record, hash_bytes};
use crate::id::mix;

/// Keys are spread over this many slots; placement, comparison and transfer work on slots. The same on every member, for ever.
pub(crate) const SLOTS: u16 = 1024;

/// A slot's number, below [`SLOTS`].
pub(crate) type SlotId = u16;

/// The slot that a key belongs to.
pub(crate) fn slot_of(key: &[u8]) -> SlotId {
    slot_of_hash(hash_bytes(key))
}

fn slot_of_hash(hash: u64) -> SlotId {
    // The upper ten bits: below SLOTS, so nothing is lost.
    (hash >> 54) as SlotId
}

/// An entry as it is held, with what only this member knows about it. Times are milliseconds of [`Engine`](super::Engine)'s own clock.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) record: Arc<Record>,
    /// Of `record`, which is expensive to ask each time.
    pub(crate) fingerprint: u64,
    /// The last access that this member knows of.
    pub(crate) accessed: u64,
    /// Whether that access was here, so that nobody knows of a later one that this member has not been told.
    pub(crate) accessed_here: bool,
    /// Whether a store may have a record of it, which must go when it ends.
    pub(crate) stored: bool,
    /// Whether that record is what is here.
    pub(crate) current: bool,
    /// Whether values of it are in the store only; see [`Record::is_away`].
    pub(crate) away: bool,
    /// While it is alive, up to when the others know of accesses; once it is dead, when it is forgotten.
    stamp: u64,
    /// Which of the slot's holders, by position in the placement, have confirmed this very state.
    pub(crate) copies: u32,
}

impl Held {
    pub(crate) fn new(record: Arc<Record>, now: u64) -> Self {
        let fingerprint = record.fingerprint();
        Self {
            record,
            fingerprint,
            accessed: now,
            accessed_here: false,
            stored: false,
            current: false,
            away: false,
            stamp: now,
            copies: 0,
        }
    }

    /// Up to when the others know of accesses to this entry, which is alive.
    pub(crate) fn told(&self) -> u64 {
        debug_assert!(self.is_alive(), "nobody is told of accesses to the dead");
        self.stamp
    }

    /// The others know of accesses up to then.
    pub(crate) fn tell(&mut self, until: u64) {
        if self.is_alive() {
            self.stamp = until;
        }
    }

    /// When this entry is forgotten, if it is dead; the past if it is not.
    pub(crate) fn keep_until(&self) -> u64 {
        if self.is_alive() { 0 } else { self.stamp }
    }

    /// A dead entry is kept at least until then.
    pub(crate) fn keep(&mut self, until: u64) {
        if !self.is_alive() {
            self.stamp = self.stamp.max(until);
        }
    }

    /// What this entry adds to the digest of its slot; `hash` is its key's.
    fn digest(&self, hash: u64) -> u64 {
        mix(mix(hash ^ self.fingerprint) ^ self.record.touched)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.record.is_alive()
    }

    pub(crate) fn idle(&self, now: u64) -> u64 {
        now.saturating_sub(self.accessed)
    }
}

/// One slot.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    entries: Entries,
    digest: u64,
    alive: usize,
    bytes: usize,
}

impl Slot {
    /// The same for two members that hold the same entries.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.0.len()
    }

    /// Entries that are alive.
    pub(crate) fn alive(&self) -> usize {
        self.alive
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.0.is_empty()
    }

    fn account(&mut self, before: &Sums, after: &Sums) {
        self.digest ^= before.digest ^ after.digest;
        self.alive = self.alive + after.alive - before.alive;
        self.bytes = self.bytes + after.bytes - before.bytes;
    }

    /// In the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.entries.after(None)
    }

    /// The entries behind `after`, in the order of the keys.
    pub(crate) fn after<'a>(&'a self, after: Option<&[u8]>) -> impl Iterator<Item = (&'a Key, &'a Held)> {
        self.entries.after(after)
    }
}

/// The entries of one slot, sorted by key: dense, because there are many, and quick to extend at the end, as a transfer does.
#[derive(Debug, Default)]
struct Entries(Vec<(Key, Held)>);

impl Entries {
    fn position(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(((last, _), before)) = self.0.split_last() else { return Err(0) };
        match order(last, key) {
            Ordering::Less => Err(self.0.len()),
            Ordering::Equal => Ok(before.len()),
            Ordering::Greater => before.binary_search_by(|(known, _)| order(known, key)),
        }
    }

    fn get(&self, key: &[u8]) -> Option<&Held> {
        self.position(key).ok().map(|at| &self.0[at].1)
    }

    fn get_mut(&mut self, key: &[u8]) -> Option<&mut Held> {
        self.position(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Of a key that is not there.
    fn insert(&mut self, key: &[u8], held: Held) {
        let at = self.position(key).unwrap_or_else(|at| at);
        if self.0.len() == self.0.capacity() {
            // Doubling would leave a quarter of it empty on average.
            self.0.reserve_exact(4 + self.0.len() / 16);
        }
        self.0.insert(at, (key.into(), held));
    }

    fn remove(&mut self, key: &[u8]) -> Option<Held> {
        let (_, held) = self.0.remove(self.position(key).ok()?);
        if self.0.len() < self.0.capacity() / 2 {
            self.0.shrink_to(self.0.len() + self.0.len() / 8);
        }
        Some(held)
    }

    /// The entries behind `key`, in the order of the keys.
    fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = (&Key, &Held)> {
        let from = key.map_or(0, |key| self.position(key).map_or_else(|at| at, |at| at + 1));
        self.0[from..].iter().map(|(key, held)| (key, held))
    }
}

/// The order of keys. Session ids are compared as numbers, which is the same and takes no call.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    match (<[u8; 16]>::try_from(a), <[u8; 16]>::try_from(b)) {
        (Ok(a), Ok(b)) => u128::from_be_bytes(a).cmp(&u128::from_be_bytes(b)),
        _ => a.cmp(b),
    }
}

/// All slots, and their sums.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    entries: usize,
    alive: usize,
    away: usize,
    bytes: usize,
    /// Keys whose record in the store is to be removed.
    ended: Vec<Key>,
}

impl Default for Table {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| Slot::default()).collect(), entries: 0, alive: 0, away: 0, bytes: 0, ended: Vec::new() }
    }
}

impl Table {
    pub(crate) fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[usize::from(slot)]
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Held> {
        self.slot(slot_of(key)).entries.get(key)
    }

    /// Entries, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// Entries that are alive.
    pub(crate) fn alive(&self) -> usize {
        self.alive
    }

    /// Entries of which values are in the store only.
    pub(crate) fn away(&self) -> usize {
        self.away
    }

    /// A key that has a record in the store which is of no use any more.
    pub(crate) fn pop_ended(&mut self) -> Option<Key> {
        self.ended.pop()
    }

    /// Roughly what the entries take in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes an entry in place; digest and sums follow. `None` when it is not there.
    pub(crate) fn change<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Held) -> R) -> Option<R> {
        let hash = hash_bytes(key);
        let slot = &mut self.slots[usize::from(slot_of_hash(hash))];
        let held = slot.entries.get_mut(key)?;
        let before = Sums::of(key, hash, held);
        let result = change(held);
        held.away = held.away && held.record.is_away();
        let after = Sums::of(key, hash, held);
        if before.alive < after.alive {
            // Back from the dead: the others have been told of nothing yet.
            held.stamp = 0;
        }
        if before.digest != after.digest {
            held.current = false;
        }
        if held.stored && before.alive > after.alive {
            held.stored = false;
            self.ended.push(key.into());
        }
        slot.account(&before, &after);
        (self.alive, self.away) = (self.alive + after.alive - before.alive, self.away + after.away - before.away);
        self.bytes = self.bytes + after.bytes - before.bytes;
        Some(result)
    }

    /// Changes what only this member knows about an entry, which digest and sums do not depend on.
    pub(crate) fn note<R>(&mut self, key: &[u8], note: impl FnOnce(&mut Held) -> R) -> Option<R> {
        self.slots[usize::from(slot_of(key))].entries.get_mut(key).map(note)
    }

    pub(crate) fn insert(&mut self, key: &[u8], held: Held) -> Option<Held> {
        let old = self.remove(key);
        let hash = hash_bytes(key);
        let slot = &mut self.slots[usize::from(slot_of_hash(hash))];
        let sums = Sums::of(key, hash, &held);
        slot.account(&Sums::default(), &sums);
        (self.alive, self.away, self.bytes) = (self.alive + sums.alive, self.away + sums.away, self.bytes + sums.bytes);
        slot.entries.insert(key, held);
        self.entries += 1;
        old
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Held> {
        let hash = hash_bytes(key);
        let slot = &mut self.slots[usize::from(slot_of_hash(hash))];
        let held = slot.entries.remove(key)?;
        let sums = Sums::of(key, hash, &held);
        slot.account(&sums, &Sums::default());
        (self.alive, self.away, self.bytes) = (self.alive - sums.alive, self.away - sums.away, self.bytes - sums.bytes);
        self.entries -= 1;
        if held.stored {
            self.ended.push(key.into());
        }
        Some(held)
    }

    /// Every entry of a slot, for what only this member knows about it.
    pub(crate) fn note_all(&mut self, slot: SlotId, mut note: impl FnMut(&[u8], &mut Held)) {
        self.slots[usize::from(slot)].entries.0.iter_mut().for_each(|(key, held)| note(key, held));
    }

    /// Whether the sums are those of the entries.
    #[cfg(test)]
    pub(crate) fn audit(&self) -> Result<(), String> {
        let (mut entries, mut all) = (0, Sums::default());
        for (number, slot) in self.slots.iter().enumerate() {
            let mut sums = Sums::default();
            for (key, held) in slot.iter() {
                let one = Sums::of(key, hash_bytes(key), held);
                sums.digest ^= one.digest;
                (sums.alive, sums.away, sums.bytes) = (sums.alive + one.alive, sums.away + one.away, sums.bytes + one.bytes);
            }
            if (sums.digest, sums.alive, sums.bytes) != (slot.digest, slot.alive, slot.bytes) {
                return Err(format!("the sums of slot {number} are wrong"));
            }
            entries += slot.len();
            (all.alive, all.away, all.bytes) = (all.alive + sums.alive, all.away + sums.away, all.bytes + sums.bytes);
        }
        let right = (entries, all.alive, all.away, all.bytes) == (self.entries, self.alive, self.away, self.bytes);
        right.then_some(()).ok_or_else(|| "the sums of the table are wrong".into())
    }

    /// All entries, slot by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.slots.iter().flat_map(Slot::iter)
    }
}

/// Roughly what an entry takes in memory.
pub(crate) fn weight(key: &[u8], record: &Record) -> usize {
    key.len() + size_of::<Held>() + record.size()
}

/// What one entry adds to the sums.
#[derive(Default)]
struct Sums {
    digest: u64,
    alive: usize,
    away: usize,
    bytes: usize,
}

impl Sums {
    fn of(key: &[u8], hash: u64, held: &Held) -> Self {
        let (alive, away) = (usize::from(held.is_alive()), usize::from(held.away));
        Self { digest: held.digest(hash), alive, away, bytes: weight(key, &held.record) }
    }
}
