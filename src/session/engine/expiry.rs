//! Leases: who is told of accesses, when an entry expires, and when a dead one is forgotten.
//!
//! Idle times are taken from each member's own clock, and travel as durations: wall clocks are never compared. The owner alone lets an
//! entry expire, and only when no other holder knows of a later access.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::message::{Message, Touch};
use super::record::Record;
use super::table::{Held, Key, SLOTS, SlotId};
use super::version::Version;
use super::{Engine, What};
use crate::member::Member;

/// A pass over all slots is cut into so many steps.
const STEPS: u16 = 64;
/// Holders that do not answer a reap by then, in milliseconds, keep its entries alive until the next pass.
const REAP_PATIENCE: u64 = 2_000;
/// Reaps under way at once.
const MAX_REAPS: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Expiry {
    next_slot: SlotId,
    step_at: u64,
    reaps: BTreeMap<u64, Reap>,
}

/// Entries that are about to expire, and who has yet to agree.
#[derive(Debug)]
struct Reap {
    slot: SlotId,
    entries: BTreeMap<Key, u64>,
    waiting: Vec<Member>,
    deadline: u64,
}

impl Engine {
    pub(super) fn expiry_due(&self) -> Option<u64> {
        let step = (self.table.len() > 0).then_some(self.expiry.step_at);
        self.expiry.reaps.values().map(|reap| reap.deadline).chain(step).min()
    }

    /// Whether an entry has not been accessed for longer than its lease, as far as this member knows.
    pub(super) fn is_overdue(&self, held: &Held) -> bool {
        let lease = held.record.lease.millis;
        held.accessed_here && lease > 0 && held.idle(self.millis()) >= lease || self.is_overdue_elsewhere(held)
    }

    /// The same where it was not accessed last: of accesses elsewhere a member is told late, by so much at most.
    pub(super) fn is_overdue_elsewhere(&self, held: &Held) -> bool {
        let lease = held.record.lease.millis;
        lease > 0 && held.idle(self.millis()) >= lease.saturating_add(self.touch_interval(lease))
    }

    /// How long an access may go untold.
    fn touch_interval(&self, lease: u64) -> u64 {
        lease / u64::from(self.config.touch_divisor.max(1))
    }

    /// An access, here and now: noted, and told to the other holders now and then.
    pub(super) fn accessed(&mut self, key: &[u8]) {
        let now = self.millis();
        let noted = self.table.note(key, |held| {
            (held.accessed, held.accessed_here, held.current) = (now, true, false);
            (held.record.lease.millis, held.told())
        });
        let Some((lease, told)) = noted else { return };
        if lease > 0 && now >= told.saturating_add(self.touch_interval(lease)) {
            let touched = self.touch(key);
            let touch = Touch { key: key.into(), touched, idle: 0 };
            let holders = self.holders_but_me(super::slot_of(key));
            self.send(holders, &Message::Touch(vec![touch]), None);
        }
    }

    /// Stamps an access that others are told of.
    fn touch(&mut self, key: &[u8]) -> u64 {
        let now = self.millis();
        let floor = self.table.get(key).map_or(0, |held| held.record.latest());
        let touched = self.tick(floor).time;
        self.table.change(key, |held| {
            Arc::make_mut(&mut held.record).touched = touched;
            held.tell(now);
        });
        touched
    }

    /// Stamps the accesses to a slot's entries that nobody was told of: whoever is given these entries now is told of them as well.
    pub(super) fn stamp_accesses(&mut self, slot: SlotId) {
        let leased = self.table.slot(slot).iter().filter(|(_, held)| held.is_alive() && held.record.lease.millis > 0);
        let untold = leased.filter(|(_, held)| held.accessed_here && held.accessed > held.told());
        let untold: Vec<Key> = untold.map(|(key, _)| key.clone()).collect();
        for key in &untold {
            self.touch(key);
        }
    }

    /// A dead entry whose lease was this is remembered from now on.
    pub(super) fn remember_dead(&mut self, key: &[u8], lease_millis: u64) {
        let keep_until = self.millis() + self.memory_of_dead(lease_millis);
        self.table.note(key, |held| held.keep(keep_until));
    }

    /// For how long a dead entry with this lease is remembered, in milliseconds.
    fn memory_of_dead(&self, lease_millis: u64) -> u64 {
        let life = u64::try_from(self.config.tombstone_life.as_millis()).unwrap_or(u64::MAX / 4);
        life.max(lease_millis.saturating_mul(2).min(u64::MAX / 4))
    }

    /// Whether an entry may have died since this was read, and its death have been forgotten. Its time may be from another member's
    /// clock, so half of the time counts.
    pub(super) fn may_be_forgotten(&self, read: &Record) -> bool {
        let latest = Version { time: read.latest(), node: 0 };
        let age = self.now.epoch_millis.saturating_sub(latest.epoch_millis());
        age >= self.memory_of_dead(read.lease.millis) / 2
    }

    pub(super) fn expiry_timeout(&mut self) {
        let now = self.millis();
        if self.expiry_due().is_none_or(|due| due > now) {
            return;
        }
        self.expiry.reaps.retain(|_, reap| reap.deadline > now);
        if self.expiry.step_at > now {
            return;
        }
        let interval = u64::try_from(self.config.expiry_interval.as_millis()).unwrap_or(u64::MAX / 4);
        self.expiry.step_at = now + (interval / u64::from(STEPS)).max(1);
        for _ in 0..SLOTS / STEPS {
            let slot = self.expiry.next_slot;
            self.expiry.next_slot = (slot + 1) % SLOTS;
            if !self.table.slot(slot).is_empty() {
                self.sweep(slot, now);
            }
        }
    }

    fn sweep(&mut self, slot: SlotId, now: u64) {
        let forgotten = self.table.slot(slot).iter().filter(|(_, held)| !held.is_alive() && held.keep_until() <= now);
        let forgotten: Vec<Key> = forgotten.map(|(key, _)| key.clone()).collect();
        forgotten.iter().for_each(|key| drop(self.table.remove(key)));
        let owner = self.placement.rank(slot, &self.local) == Some(0) && self.slots[usize::from(slot)].complete;
        if !owner {
            return;
        }
        let overdue = self.table.slot(slot).iter().filter(|(_, held)| held.is_alive() && self.is_overdue(held));
        let entries: BTreeMap<Key, u64> = overdue.map(|(key, held)| (key.clone(), held.record.touched)).collect();
        if entries.is_empty() || self.expiry.reaps.values().any(|reap| reap.slot == slot) {
            return;
        }
        let waiting = self.holders_but_me(slot);
        #[cfg(test)]
        let waiting = if self.config.flaws.expire_alone { Vec::new() } else { waiting };
        if waiting.is_empty() {
            return self.lapse(slot, &entries);
        }
        if self.expiry.reaps.len() < MAX_REAPS {
            let request = self.number();
            let asked = entries.iter().map(|(key, touched)| (key.clone(), *touched)).collect();
            self.expiry.reaps.insert(request, Reap { slot, entries, waiting: waiting.clone(), deadline: now + REAP_PATIENCE });
            self.send(waiting, &Message::Reap { request, entries: asked }, None);
        }
    }

    pub(super) fn receive_reap(&mut self, from: &Member, request: u64, entries: &[(Key, u64)]) {
        let now = self.millis();
        let mut spared = Vec::new();
        for (key, known) in entries {
            let Some(held) = self.table.get(key).filter(|held| held.is_alive()) else { continue };
            let idle = held.idle(now);
            let touched = if held.record.touched > *known {
                // The owner has missed an access: even if that is long ago, it has to know of it, or the entry would come back to it.
                held.record.touched
            } else if self.is_overdue(held) {
                continue;
            } else {
                // An access that nobody has been told of yet.
                self.touch(key)
            };
            spared.push(Touch { key: key.clone(), touched, idle });
        }
        self.send(vec![from.clone()], &Message::Spare { request, entries: spared }, None);
    }

    pub(super) fn receive_spare(&mut self, from: &Member, request: u64, entries: &[Touch]) {
        let Some(reap) = self.expiry.reaps.get_mut(&request) else { return };
        let Some(at) = reap.waiting.iter().position(|member| member == from) else { return };
        reap.waiting.remove(at);
        for touch in entries {
            reap.entries.remove(&touch.key);
        }
        entries.iter().for_each(|touch| self.receive_touch(touch));
        self.reap_if_agreed(request);
    }

    fn reap_if_agreed(&mut self, request: u64) {
        if self.expiry.reaps.get(&request).is_some_and(|reap| reap.waiting.is_empty())
            && let Some(reap) = self.expiry.reaps.remove(&request)
        {
            self.lapse(reap.slot, &reap.entries);
        }
    }

    pub(super) fn expiry_lost(&mut self, member: &Member) {
        let mut changed = BTreeSet::new();
        for (request, reap) in &mut self.expiry.reaps {
            let before = reap.waiting.len();
            reap.waiting.retain(|waiting| waiting != member);
            if reap.waiting.len() != before {
                changed.insert(*request);
            }
        }
        changed.into_iter().for_each(|request| self.reap_if_agreed(request));
    }

    /// Lets these expire, unless they have been accessed since.
    fn lapse(&mut self, slot: SlotId, entries: &BTreeMap<Key, u64>) {
        let mut lapsed = Vec::new();
        for (key, touched) in entries {
            let Some(held) = self.table.get(key) else { continue };
            if !held.is_alive() || held.record.touched != *touched || !self.is_overdue(held) {
                continue;
            }
            let (age, lease) = (self.age(&held.record), held.record.lease.millis);
            self.table.change(key, |held| {
                let record = Arc::make_mut(&mut held.record);
                record.lapse(record.touched);
                record.compact();
                held.fingerprint = record.fingerprint();
                held.copies = 0;
            });
            self.remember_dead(key, lease);
            self.counters.expired += 1;
            self.life(age);
            self.event(key, What::Expired { age }, false);
            lapsed.push(key.clone());
        }
        for holder in self.holders_but_me(slot) {
            self.put_whole(&holder, lapsed.iter().cloned(), None);
        }
    }

    /// An entry has ended at this age.
    pub(super) fn life(&mut self, age: Duration) {
        self.counters.lives += 1;
        self.counters.life_millis += u64::try_from(age.as_millis()).unwrap_or(u64::MAX / 4);
        self.counters.longest_life_millis =
            self.counters.longest_life_millis.max(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    }
}
