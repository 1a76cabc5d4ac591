//! Letting go of what belongs to others: entries of slots that this member does not hold are guests, and stay until every holder has
//! them as they are here.
//!
//! Members need not agree on who the holders are: two may take each other for one. So that they never let go of the last copies for each
//! other's sake, a confirmation counts only when nobody has begun to count on this member between what was sent and its answer: whoever
//! confirms an entry to another, or gives it away, forgets what it knew of other copies, and asks again. Of members that count on each
//! other in a circle, the one that confirmed last still has it.

use std::collections::HashMap;

use super::message::Phase;
use super::table::{Key, SLOTS, SlotId, slot_of};
use super::{Engine, Output};
use crate::id::UniqueId;
use crate::stack::Time;

/// Guests are looked at after so many milliseconds, and again while there are any.
const SOON: u64 = 100;
const AGAIN: u64 = 1_000;
/// Offers under way at once; more wait for the next look.
const MAX_OFFERS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Handover {
    due: Option<u64>,
    /// When a slot was offered to a member: what that one wanted of it may be on its way.
    offered: HashMap<(SlotId, UniqueId), u64>,
    drained: bool,
    /// What was let go of, for the simulation.
    #[cfg(test)]
    pub(super) gone: Vec<(Key, std::sync::Arc<super::Record>)>,
}

impl Handover {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// There may be guests to hand over.
    pub(super) fn handover_soon(&mut self) {
        let at = self.millis() + SOON;
        self.handover.due = Some(self.handover.due.map_or(at, |due| due.min(at)));
    }

    /// An offer was answered: when there is room for many more, they are made now.
    pub(super) fn handover_answered(&mut self, slot: SlotId) {
        if self.is_guest_slot(slot) && self.repair.under_way() <= MAX_OFFERS / 4 {
            let now = self.millis();
            self.handover.due = Some(self.handover.due.map_or(now, |due| due.min(now)));
        }
    }

    pub(super) fn is_guest_slot(&self, slot: SlotId) -> bool {
        self.placement.rank(slot, &self.local).is_none()
    }

    /// Another member is told that this entry is here, and will count on it: a guest stays until the holders have confirmed it anew,
    /// whatever was known of it before.
    pub(super) fn counted_on(&mut self, key: &[u8]) {
        let slot = slot_of(key);
        if self.is_guest_slot(slot) && self.table.note(key, |held| held.copies = 0).is_some() {
            let counted = &mut self.slots[usize::from(slot)].counted_on;
            *counted = counted.wrapping_add(1);
            self.handover_soon();
        }
    }

    /// The same of all entries of a slot.
    pub(super) fn slot_counted_on(&mut self, slot: SlotId) {
        if self.is_guest_slot(slot) && !self.table.slot(slot).is_empty() {
            self.table.note_all(slot, |_, held| held.copies = 0);
            let counted = &mut self.slots[usize::from(slot)].counted_on;
            *counted = counted.wrapping_add(1);
            self.handover_soon();
        }
    }

    /// What a confirmation of something that is sent now will have to be compared with.
    pub(super) fn counted(&self, slot: SlotId) -> u32 {
        self.slots[usize::from(slot)].counted_on
    }

    /// The bits of all holders of a slot; `None` when there is none to hand over to.
    fn holders_mask(&self, slot: SlotId) -> Option<u32> {
        let mask = self.others_mask(slot);
        (mask != 0).then_some(mask)
    }

    /// One more holder has this entry.
    pub(super) fn handover_confirmed(&mut self, key: &[u8]) {
        let slot = slot_of(key);
        if !self.is_guest_slot(slot) {
            return;
        }
        let Some(mask) = self.holders_mask(slot) else { return };
        if self.table.get(key).is_some_and(|held| held.copies & mask == mask) {
            self.let_go(key);
            self.drained();
        }
    }

    pub(super) fn let_go(&mut self, key: &[u8]) {
        if let Some(held) = self.table.remove(key) {
            #[cfg(test)]
            let forgets = self.config.flaws.forget_written;
            #[cfg(not(test))]
            let forgets = false;
            if !forgets {
                self.written.let_go(self.clock.node(), &key.into(), &held.record);
            }
            #[cfg(test)]
            self.handover.gone.push((key.into(), held.record));
            self.counters.handed_over += 1;
            let slot = slot_of(key);
            if self.table.slot(slot).is_empty() {
                self.slots[usize::from(slot)].former = false;
            }
        }
    }

    pub(super) fn handover_timeout(&mut self) {
        let now = self.millis();
        if self.handover.due.is_none_or(|due| due > now) {
            return;
        }
        self.handover.due = None;
        self.handover.offered.retain(|_, at| now < *at + AGAIN);
        let mut guests = false;
        for slot in (0..SLOTS).filter(|slot| self.is_guest_slot(*slot) && !self.table.slot(*slot).is_empty()).collect::<Vec<_>>()
        {
            #[cfg(test)]
            if self.config.flaws.drop_guests {
                let keys: Vec<Key> = self.table.slot(slot).iter().map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| self.let_go(key));
                continue;
            }
            guests |= self.hand_over(slot);
        }
        if guests {
            self.handover.due = Some(now + AGAIN);
        }
        self.drained();
    }

    /// Lets go of what all holders of a slot have, and offers them the rest; tells whether there is any.
    fn hand_over(&mut self, slot: SlotId) -> bool {
        let Some(mask) = self.holders_mask(slot) else { return true };
        let done: Vec<Key> =
            self.table.slot(slot).iter().filter(|(_, held)| held.copies & mask == mask).map(|(key, _)| key.clone()).collect();
        done.iter().for_each(|key| self.let_go(key));
        if self.table.slot(slot).is_empty() {
            return false;
        }
        for holder in self.holders_but_me(slot) {
            let Some(position) = self.placement.rank(slot, &holder) else { continue };
            // One that is joining pulls them itself, unless there is no time.
            let asks = self.peers.phase_of(&holder) == Some(Phase::Joining) && !self.is_leaving();
            let missing = self.table.slot(slot).iter().any(|(_, held)| held.copies & super::bit(position) == 0);
            let offered = self.handover.offered.contains_key(&(slot, holder.id())) || self.repair.is_offered(slot, &holder);
            if missing && !asks && !offered && self.repair.under_way() < MAX_OFFERS {
                let now = self.millis();
                self.handover.offered.insert((slot, holder.id()), now);
                self.offer(slot, &holder);
            }
        }
        true
    }

    /// Hands over everything and holds nothing new. [`Output::Drained`] tells when nothing is left.
    pub(crate) fn drain(&mut self, now: Time) {
        self.at(now);
        self.set_phase(Phase::Leaving);
        self.handover_soon();
        self.drained();
    }

    /// Whether this member hands over what it has, and takes nothing new.
    pub(super) fn is_leaving(&self) -> bool {
        self.peers.phase() == Phase::Leaving
    }

    fn drained(&mut self) {
        #[cfg(test)]
        let done = self.table.len() == 0 || self.config.flaws.drained_at_once;
        #[cfg(not(test))]
        let done = self.table.len() == 0;
        if self.is_leaving() && done && !self.handover.drained {
            self.handover.drained = true;
            self.outputs.push_back(Output::Drained);
        }
    }

    /// What is alive here and not handed over.
    pub(crate) fn remaining(&self) -> Vec<Key> {
        self.table.iter().filter(|(_, held)| held.is_alive()).map(|(key, _)| key.clone()).collect()
    }

    /// Entries here that fewer other members have confirmed than are wanted.
    pub(crate) fn at_risk(&self) -> Vec<Key> {
        let wanted = self.wanted();
        let mut at_risk = Vec::new();
        for slot in 0..SLOTS {
            let (mask, untracked) = (self.others_mask(slot), self.untracked(slot));
            for (key, held) in self.table.slot(slot).iter().filter(|(_, held)| held.is_alive()) {
                let copies = (held.copies & mask).count_ones() as usize;
                if copies + untracked < wanted {
                    at_risk.push(key.clone());
                }
            }
        }
        at_risk
    }
}
