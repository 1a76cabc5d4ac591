//! What the shell asks about the state of a context.

use std::time::Duration;

use super::table::{Key, slot_of};
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
            let alive = self.table.slot(slot).iter().filter(|(_, held)| held.is_alive()).count();
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
        Some(Committed { version: held.record.newest(), wanted: self.wanted(), confirmed })
    }
}

impl Record {
    /// The version of the latest write in here.
    pub(crate) fn newest(&self) -> Version {
        self.seen.as_slice().iter().max().copied().unwrap_or(self.birth)
    }
}
