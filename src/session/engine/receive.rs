//! What comes in from other engines.

use std::sync::Arc;

use bytes::Bytes;

use super::codec;
use super::delivery::Sent;
use super::message::{Entry, Message, Touch};
use super::record::{Attribute, Death, Record};
use super::table::{Held, Key, slot_of, weight};
use super::{Engine, What};
use crate::few::Few;
use crate::member::Member;
use crate::stack::Time;

/// What became of an entry that came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Taken {
    /// It is here now; `changed` if that is news.
    Here { changed: bool },
    /// A change whose base is not here: nothing was done.
    BaseMissing,
    /// Of an entry that was removed: nothing was done.
    Late,
    /// No room.
    Full,
}

impl Engine {
    /// A message of another member. `false` rejects it: whoever sent it does not count it as confirmed.
    #[must_use]
    pub(crate) fn receive(&mut self, now: Time, from: &Member, body: &[u8]) -> bool {
        self.at(now);
        let message = match codec::decode(&mut self.names, self.config.context, body) {
            Ok(message) => message,
            Err(codec::DecodeError::Unknown) => {
                self.counters.unknown += 1;
                return false;
            }
            Err(codec::DecodeError::Malformed) => {
                self.counters.malformed += 1;
                return false;
            }
        };
        match message {
            Message::Hello(hello) => self.receive_hello(from, &hello),
            Message::Put(entries) => return self.receive_put(from, entries),
            Message::Touch(touches) => touches.iter().for_each(|touch| self.receive_touch(touch)),
            Message::Fetch { request, key } => self.receive_fetch(from, request, &key),
            Message::Fetched { request, answer } => self.receive_fetched(from, request, answer),
            Message::Pull { request, slots, after, budget } => self.receive_pull(from, request, &slots, after, budget),
            Message::Chunk(chunk) => self.receive_chunk(from, chunk),
            Message::Digests { round, epoch_millis, root, slots } => {
                self.receive_digests(from, round, epoch_millis, root, &slots)
            }
            Message::Offer { offer, slot, entries } => self.receive_offer(from, offer, slot, &entries),
            Message::Want { offer, keys } => self.receive_want(from, offer, &keys),
            Message::Reap { request, entries } => self.receive_reap(from, request, &entries),
            Message::Spare { request, entries } => self.receive_spare(from, request, &entries),
            Message::Swap { request, key, name, expected, value, confirm } => {
                self.receive_swap(from, request, &key, name, expected, value, confirm);
            }
            Message::Swapped { request, outcome } => self.receive_swapped(from, request, outcome),
        }
        true
    }

    /// Takes in all entries, or `false`: then its sender does not count on any of them.
    ///
    /// A rename brings the new entry before the old one's death, which has the new one's version: when the first cannot be taken in, the
    /// second is not. What finds no room keeps nothing else from being taken in.
    fn receive_put(&mut self, from: &Member, entries: Few<Entry>) -> bool {
        let renames = self.renames_in(&entries);
        let mut without_room = Vec::new();
        for entry in entries {
            let (birth, death) = (entry.record.birth, entry.record.end.death);
            if !death.is_zero() && without_room.contains(&death) {
                continue;
            }
            if self.is_leaving() && self.table.get(&entry.key).is_none() {
                // Whoever sent it has not heard that this member leaves, and would count on a copy that goes with it.
                return false;
            }
            let (key, whole) = (entry.key.clone(), entry.base.is_none().then(|| entry.record.fingerprint()));
            // A change of exactly what is here: then its sender has what will be here.
            let shared = self.table.get(&key).is_some_and(|held| entry.base.as_ref() == Some(&held.record.seen));
            #[cfg(test)]
            let Some(entry) = self.spoiled(entry) else { return true };
            match self.take_of(&renames, entry) {
                Taken::Here { .. } => {}
                #[cfg(test)]
                Taken::BaseMissing if self.config.flaws.confirm_unmerged => return true,
                Taken::BaseMissing => return false,
                Taken::Full => {
                    without_room.push(birth);
                    continue;
                }
                Taken::Late => {
                    // Whoever sent it does not know yet.
                    self.put_whole(from, [key], None);
                    return false;
                }
            }
            let slot = slot_of(&key);
            let fingerprint = self.table.get(&key).map(|held| held.fingerprint);
            let guest = self.is_guest_slot(slot);
            if guest {
                self.counted_on(&key);
            }
            // Who sends to a guest counts on it, and may be about to let go: that one's copy is asked after, not taken for granted.
            if !guest && self.placement.rank(slot, from).is_some() {
                match (whole, fingerprint) {
                    // This member has more than what came: the other side wants that too.
                    (Some(theirs), Some(ours)) if theirs != ours => self.put_whole(from, [key.clone()], None),
                    (Some(_), Some(fingerprint)) => self.has_it(&key, fingerprint, from),
                    (None, Some(fingerprint)) if shared => self.has_it(&key, fingerprint, from),
                    _ => {}
                }
            }
            let others = self.others_mask(slot);
            if self.table.get(&key).is_some_and(|held| held.copies & others != others) {
                self.repair_when_quiet(slot);
            }
        }
        without_room.is_empty()
    }

    /// Who sent this has what is here now.
    fn has_it(&mut self, key: &Key, fingerprint: u64, from: &Member) {
        let slot = slot_of(key);
        self.confirmed(&Sent { key: key.clone(), slot, fingerprint, counted: self.counted(slot) }, from);
    }

    /// Merges an entry, or a change of one, into what is here.
    pub(super) fn take(&mut self, entry: Entry) -> Taken {
        let now = self.millis();
        let Entry { key, mut record, base, idle, keep } = entry;
        self.clock.observe(self.now.epoch_millis, record.latest());
        let accessed = now.saturating_sub(idle);
        let Some(held) = self.table.get(&key) else {
            if base.is_some() && !self.ignores_bases() {
                self.counters.bases_missing += 1;
                return Taken::BaseMissing;
            }
            if let Some(death) = self.known_death(&key, record.birth).filter(|death| *death > record.end.death) {
                // This member had a tombstone, and has let go of it: whoever sent this has not heard of that.
                if self.is_full() || self.has_no_room_for(weight(&key, &Record::default()), 0) {
                    return self.has_no_room(&key);
                }
                self.table.insert(&key, Held::new(Arc::new(Record::tombstone(death)), now));
                self.remember_dead(&key, record.lease.millis);
                self.handover_soon();
                self.counters.late += 1;
                return Taken::Late;
            }
            return self.take_new(&key, record, accessed, keep);
        };
        if held.record.birth.is_zero()
            && !record.birth.is_zero()
            && record.birth <= held.record.end.death
            && record.end.death <= held.record.end.death
        {
            // Of an incarnation that is dead here.
            self.counters.late += 1;
            return Taken::Late;
        }
        if let Some(base) = &base
            && !(held.record.birth == record.birth && held.record.seen.includes(base))
            && !self.ignores_bases()
        {
            self.counters.bases_missing += 1;
            return Taken::BaseMissing;
        }
        if let Some(base) = &base
            && !record.seen.includes(base)
        {
            // Whoever made the change had seen what it was made on: what it replaces of that is not lost.
            Arc::make_mut(&mut record).seen.merge(base);
        }
        let (more, less) = growth(&held.record, &record);
        if self.has_no_room_for(more, less) {
            if record.birth == held.record.birth {
                // That it was used takes no room.
                self.receive_touch(&Touch { key: key.clone(), touched: record.touched, idle });
            }
            return self.has_no_room(&key);
        }
        let (was_alive, lease) = (held.is_alive(), held.record.lease.millis);
        let age = self.age(&held.record);
        let (birth, same_birth) = (record.birth, held.record.birth == record.birth);
        if record.birth > held.record.birth {
            // The state that comes in does not tell what this member wrote to the one before it.
            self.written.let_go(self.clock.node(), &key, &held.record);
        }
        #[cfg(test)]
        if self.config.flaws.accept_old_versions {
            self.table.change(&key, |held| {
                let mine = Arc::make_mut(&mut held.record);
                record.attributes.iter().for_each(|attribute| mine.put(attribute.clone()));
                held.fingerprint = mine.fingerprint();
            });
        }
        let told = self.changes_to_tell(&record.attributes);
        let merged = self.table.change(&key, |held| {
            let news = accessed > held.accessed || record.touched > held.record.touched;
            let mine = Arc::make_mut(&mut held.record);
            if held.away && same_birth {
                mine.come_back(&record);
            }
            let merged = mine.merge(Arc::unwrap_or_clone(record));
            if merged.changed {
                held.fingerprint = held.record.fingerprint();
                held.copies = 0;
            }
            if news {
                (held.accessed, held.accessed_here) = (held.accessed.max(accessed), false);
            }
            if !same_birth && held.record.birth == birth && held.is_alive() {
                // Another incarnation has its own age.
                (held.accessed, held.accessed_here) = (accessed, false);
                held.tell(accessed);
            }
            held.keep(now.saturating_add(keep));
            (merged, held.record.death())
        });
        let Some((merged, death)) = merged else { return Taken::Full };
        if was_alive && death.is_some() {
            // Whoever ended it may not have known for how long it could have lived.
            self.remember_dead(&key, lease);
        }
        self.conflicts(&key, merged.losses);
        let count = if merged.changed { &mut self.counters.replicated } else { &mut self.counters.duplicates };
        *count += 1;
        if merged.changed {
            self.tell_taken(&key, told, (was_alive, death), age);
        }
        Taken::Here { changed: merged.changed }
    }

    /// An entry, or its change, finds no room.
    fn has_no_room(&mut self, key: &[u8]) -> Taken {
        self.counters.refused += 1;
        self.slots[usize::from(slot_of(key))].lacks = Some(self.millis());
        Taken::Full
    }

    /// As [`take`](Self::take), of what is no news to anybody: there are no events, and it does not count as replicated.
    pub(super) fn take_unnoticed(&mut self, entry: Entry) -> Taken {
        let (events, replicated) = (std::mem::replace(&mut self.config.events, false), self.counters.replicated);
        let taken = self.take(entry);
        (self.config.events, self.counters.replicated) = (events, replicated);
        taken
    }

    fn take_new(&mut self, key: &[u8], record: Arc<Record>, accessed: u64, keep: u64) -> Taken {
        if self.is_full() || self.has_no_room_for(weight(key, &record), 0) {
            return self.has_no_room(key);
        }
        let now = self.millis();
        let alive = record.is_alive();
        #[cfg(test)]
        if !alive && self.config.flaws.drop_tombstones {
            return Taken::Here { changed: false };
        }
        if !alive && keep == 0 {
            // Its time is over: nothing to remember, and nothing to bring back.
            return Taken::Here { changed: false };
        }
        let mut held = Held::new(Arc::clone(&record), now);
        held.accessed = accessed;
        // Of that access the others know, as far as is known here; they need not know of any after it.
        held.tell(accessed);
        held.keep(now.saturating_add(keep));
        self.table.insert(key, held);
        self.counters.replicated += 1;
        if alive {
            self.event(key, What::Created, true);
            self.told_of_changes(key, self.changes_to_tell(&record.attributes), true);
        }
        Taken::Here { changed: true }
    }

    /// `alive` is whether the entry was alive, and why it is not now.
    fn tell_taken(&mut self, key: &[u8], told: Vec<Attribute>, alive: (bool, Option<Death>), age: std::time::Duration) {
        match alive {
            (true, None) => self.told_of_changes(key, told, true),
            (false, None) => {
                self.event(key, What::Created, true);
                self.told_of_changes(key, told, true);
            }
            (true, Some(Death::Removed)) => {
                self.commits_died(key);
                self.event(key, What::Removed { age }, true);
            }
            (true, Some(Death::Lapsed)) => {
                self.table.change(key, |held| {
                    Arc::make_mut(&mut held.record).compact();
                    held.fingerprint = held.record.fingerprint();
                });
                self.event(key, What::Expired { age }, true);
            }
            (false, Some(_)) => {}
        }
        #[cfg(test)]
        if alive.1.is_some() && self.config.flaws.drop_tombstones {
            self.table.remove(key);
        }
    }

    fn conflicts(&mut self, key: &[u8], losses: Vec<super::Loss>) {
        for loss in losses {
            self.counters.conflicts += 1;
            self.event(key, What::Lost(loss), true);
        }
    }

    pub(super) fn receive_touch(&mut self, touch: &Touch) {
        let now = self.millis();
        self.clock.observe(self.now.epoch_millis, touch.touched);
        let accessed = now.saturating_sub(touch.idle);
        self.table.change(&touch.key, |held| {
            if held.is_alive() && touch.touched > held.record.touched {
                Arc::make_mut(&mut held.record).touched = touch.touched;
                if accessed > held.accessed {
                    (held.accessed, held.accessed_here) = (accessed, false);
                }
            }
        });
    }

    /// What becomes of an entry that comes in, by the flaws that are planted.
    #[cfg(test)]
    fn spoiled(&mut self, mut entry: Entry) -> Option<Entry> {
        if self.config.flaws.wrong_value {
            let record = Arc::make_mut(&mut entry.record);
            for value in record.attributes.iter_mut().filter_map(|attribute| attribute.value.as_mut()) {
                value.truncate(1);
            }
        }
        if self.config.flaws.reorder_deltas && entry.base.is_some() {
            let earlier = self.held_back.replace(entry)?;
            let later = self.held_back.take()?;
            let _ = self.take(later);
            return Some(earlier);
        }
        Some(entry)
    }

    fn ignores_bases(&self) -> bool {
        #[cfg(test)]
        {
            self.config.flaws.ignore_base
        }
        #[cfg(not(test))]
        false
    }
}

/// How many bytes a merge brings, and how many of those here they may replace.
fn growth(mine: &Record, theirs: &Record) -> (usize, usize) {
    if theirs.birth > mine.birth {
        return (theirs.size(), mine.size());
    }
    if theirs.birth < mine.birth {
        return (0, 0);
    }
    let value = |attribute: &Attribute| attribute.value.as_ref().map_or(0, Bytes::len);
    let news = theirs.attributes.iter().map(|attribute| match mine.attribute(&attribute.name) {
        // What stays makes no room.
        Some(old) if (old.version, &old.value) >= (attribute.version, &attribute.value) => (0, 0),
        Some(old) => (value(attribute), value(old)),
        None => (size_of::<Attribute>() + value(attribute), 0),
    });
    news.fold((0, 0), |(more, less), (new, old)| (more + new, less + old))
}
