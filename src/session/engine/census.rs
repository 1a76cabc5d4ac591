//! What the shell asks about the state of a context.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::Attributes;
use super::seen::Seen;
use super::table::{Key, SlotId, slot_of};
use super::{Committed, Engine, Record, Version};
use crate::stack::Time;

/// How many entries are here, and as what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Census {
    /// This member is the first of their holders.
    pub(crate) owned: usize,
    /// This member is another of their holders.
    pub(crate) copies: usize,
    /// They belong to others, and are on their way there.
    pub(crate) guests: usize,
}

impl Engine {
    /// Whether this member is the owner of a key, and has all that belongs to its slot.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        let slot = slot_of(key);
        self.slots[usize::from(slot)].complete && self.placement.rank(slot, &self.local) == Some(0)
    }

    /// How long ago an entry that is here was last accessed.
    pub(crate) fn idle(&mut self, now: Time, key: &[u8]) -> Option<Duration> {
        self.at(now);
        let now = self.millis();
        self.table.get(key).map(|held| Duration::from_millis(held.idle(now)))
    }

    /// Notes an access to an entry, if it is here for certain; tells whether it is.
    pub(crate) fn note_access(&mut self, now: Time, key: &[u8]) -> bool {
        self.at(now);
        let known = self.slots[usize::from(slot_of(key))].complete && !self.is_behind(key);
        let here = known && self.table.get(key).is_some_and(|held| held.is_alive() && !self.is_overdue(held));
        if here {
            self.accessed(key);
        }
        here
    }

    /// Entries, dead ones included, and roughly what they take in memory, in bytes.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.table.len(), self.table.bytes())
    }

    /// How many of a slot's other holders have no bit: nobody keeps book of what they have confirmed.
    pub(super) fn untracked(&self, slot: SlotId) -> usize {
        let others = self.placement.holding(slot).filter(|member| **member != self.local).count();
        others - self.others_mask(slot).count_ones() as usize
    }

    /// The entry as somebody knows it who has read it earlier and now written to it, while values of it are in the store only: with
    /// those as they were read.
    pub(crate) fn as_known(&self, key: &[u8], read: &Arc<Record>) -> Option<Arc<Record>> {
        let held = self.table.get(key).filter(|held| held.is_alive())?;
        let mut known = Arc::clone(read);
        let mine = Arc::make_mut(&mut known);
        if mine.birth != held.record.birth {
            // Another incarnation, of which nothing was read.
            *mine = Record { attributes: Attributes::default(), seen: Seen::default(), ..(*held.record).clone() };
        }
        mine.lease = held.record.lease;
        // It does not claim to contain these writes: not all that their writers wrote before is in it.
        let here = held.record.attributes.iter().filter(|attribute| !attribute.is_away());
        here.for_each(|attribute| mine.put(attribute.clone()));
        Some(known)
    }

    /// How many other members share the entries: those that leave are not counted.
    pub(crate) fn others(&self) -> usize {
        self.placement.members().iter().filter(|member| **member != self.local).count()
    }

    /// Whether an entry is known to have ended.
    pub(crate) fn is_dead(&self, key: &[u8]) -> bool {
        self.table.get(key).is_some_and(|held| !held.is_alive())
    }

    /// Entries that are alive, guests included.
    pub(crate) fn alive(&self) -> usize {
        self.table.alive()
    }

    /// The keys of all that is alive here.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.table.iter().filter(|(_, held)| held.is_alive()).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for slot in 0..super::table::SLOTS {
            let alive = self.table.slot(slot).alive();
            *match self.placement.rank(slot, &self.local) {
                Some(0) => &mut census.owned,
                Some(_) => &mut census.copies,
                None => &mut census.guests,
            } += alive;
        }
        census
    }

    /// Where an entry that nobody changes now stands: its latest version, and who has confirmed it.
    pub(crate) fn standing(&self, key: &[u8]) -> Option<Committed> {
        let held = self.table.get(key).filter(|held| held.is_alive())?;
        let confirmed = self
            .placement
            .holding(slot_of(key))
            .enumerate()
            .filter(|(at, member)| *at < 32 && held.copies >> at & 1 == 1 && **member != self.local)
            .map(|(_, member)| member.clone())
            .collect();
        let wanted = self.wanted().saturating_sub(self.untracked(slot_of(key)));
        Some(Committed { version: held.record.newest(), wanted, confirmed })
    }
}

impl Record {
    /// The version of the latest write in here.
    pub(crate) fn newest(&self) -> Version {
        self.seen.as_slice().iter().max().copied().unwrap_or(self.birth)
    }
}
