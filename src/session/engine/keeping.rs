//! A store beyond memory: entries that come back after a restart, and entries whose values are let go of while nobody uses them.
//!
//! An entry that is swapped out stays in the table with all its versions, so that digests, comparison and placement are what they were;
//! only values are missing, and only values are taken back from the store, where the version is the very same. What needs them is
//! parked meanwhile. When the store does not have what it should, the entry is let go of and its slot got from others again, as if this
//! member had just become a holder of it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::change::Change;
use super::codec::{self, Names};
use super::commit::Outlook;
use super::message::{Entry, Found, Message};
use super::record::Record;
use super::repair::millis;
use super::table::{Key, SLOTS, SlotId, slot_of};
use super::{Engine, Output, Ticket};
use crate::member::Member;
use crate::stack::Time;

/// Entries are looked through for such that are idle every so many milliseconds, and when there are too many, this soon.
const SWEEP: u64 = 1_000;
const SOON: u64 = 20;
/// Entries that are saved at once.
const MAX_BATCH: usize = 4_096;
/// Changed while they were swapped out, and brought back at once.
const MAX_BACK: usize = 256;
/// Entries that a transfer gets from the store at once.
const AHEAD: usize = 256;
/// What waits for the store; more is not answered, and asked again.
const MAX_PARKED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct State {
    swept: u64,
    /// There were too many entries, and none of them was idle for long enough: looking again at once would find the same.
    stuck: bool,
    /// Entries that are being saved.
    saving: usize,
    /// Entries that are being loaded, and what waits for each.
    loading: HashMap<Key, Vec<Parked>>,
    parked: usize,
}

/// What waits for an entry to be loaded.
#[derive(Debug)]
pub(super) enum Parked {
    Get(Ticket),
    Fetch { member: Member, request: u64 },
    Put { to: Member, ticket: Option<Ticket> },
    Ask { member: Member, ticket: Ticket },
    Pull { from: Member, request: u64, slots: Vec<SlotId>, after: Option<Key>, budget: u32 },
}

/// An entry, and when it was as it is.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    entry: Entry,
    epoch_millis: u64,
}

/// An entry on its way to the store.
#[derive(Debug)]
pub(crate) struct Saving {
    pub(crate) stored: Stored,
    accessed: u64,
    /// Its values are let go of then.
    swap: bool,
}

/// What came of a look into the store.
#[derive(Debug)]
pub(crate) enum Loaded {
    Found(Stored),
    /// It does not have the entry, or what it has is damaged.
    Missing,
    /// It could not be asked: it may have the entry.
    Failed,
}

/// What became of an entry that a store had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Restored {
    Here,
    /// It has expired, or need not be remembered any more.
    Over,
    /// There is no room for it.
    Full,
}

impl Stored {
    pub(crate) fn key(&self) -> &[u8] {
        &self.entry.key
    }

    /// As a store keeps it.
    pub(crate) fn encode(&self) -> Bytes {
        debug_assert!(!self.is_away(), "what lacks values is not worth keeping");
        codec::encode_stored(&self.entry, self.epoch_millis)
    }

    /// What a store had under this key; `None` if it is not what was put there.
    pub(crate) fn decode(names: &mut Names, key: &[u8], bytes: &[u8]) -> Option<Self> {
        let (entry, epoch_millis) = codec::decode_stored(names, bytes).ok()?;
        (*entry.key == *key).then_some(Self { entry, epoch_millis })
    }

    /// Whether values are missing.
    pub(crate) fn is_away(&self) -> bool {
        self.entry.record.is_away()
    }

    /// Takes missing values from what the store has.
    pub(crate) fn come_back(&mut self, from: &Self) {
        Arc::make_mut(&mut self.entry.record).come_back(&from.entry.record);
    }
}

impl Engine {
    /// An entry that the store has, before others are heard of. The time since it was saved has passed for it as well.
    pub(crate) fn restore(&mut self, now: Time, stored: Stored) -> Restored {
        self.at(now);
        let Stored { mut entry, epoch_millis } = stored;
        let passed = now.epoch_millis.saturating_sub(epoch_millis);
        entry.idle = entry.idle.saturating_add(passed);
        entry.keep = entry.keep.saturating_sub(passed);
        let lease = entry.record.lease.millis;
        let over = if entry.record.is_alive() { lease > 0 && entry.idle >= lease } else { entry.keep == 0 };
        if over {
            return Restored::Over;
        }
        let (key, counters) = (entry.key.clone(), self.counters);
        // Nothing has happened to it that anybody could want to know.
        let taken = self.take_unnoticed(entry);
        self.counters = counters;
        let here = self.table.note(&key, |held| held.stored = true).is_some();
        match taken {
            super::receive::Taken::Here { .. } if here => Restored::Here,
            super::receive::Taken::Full => Restored::Full,
            _ => Restored::Over,
        }
    }

    /// Everything that a store does not have as it is here. No more goes to the store by itself.
    pub(crate) fn unsaved(&mut self, now: Time) -> Vec<Stored> {
        self.at(now);
        self.config.keeping = None;
        // What goes from now on goes from memory.
        for slot in 0..SLOTS {
            self.table.note_all(slot, |_, held| held.stored = false);
        }
        let changed = self.table.iter().filter(|(_, held)| !held.current);
        let keys: Vec<Key> = changed.map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.stored(key)).collect()
    }

    fn stored(&self, key: &[u8]) -> Option<Stored> {
        let (now, held) = (self.millis(), self.table.get(key)?);
        let (idle, keep) = (held.idle(now), held.keep_until().saturating_sub(now));
        let entry = Entry { key: key.into(), record: Arc::clone(&held.record), base: None, idle, keep };
        Some(Stored { entry, epoch_millis: self.now.epoch_millis })
    }

    /// These are in the store now, or not.
    pub(crate) fn saved(&mut self, now: Time, savings: Vec<(Saving, bool)>) {
        self.at(now);
        self.keeping.saving = self.keeping.saving.saturating_sub(savings.len());
        for (Saving { stored, accessed, swap }, done) in savings {
            #[cfg(test)]
            let done = done || self.config.flaws.swap_unsaved;
            if !done {
                continue;
            }
            self.counters.saved += 1;
            let Entry { key, record, .. } = stored.entry;
            let same = self.table.note(&key, |held| {
                held.current = Arc::ptr_eq(&held.record, &record) && held.accessed == accessed;
                held.current
            });
            drop(record);
            if swap && same == Some(true) {
                self.swap_out(&key);
            }
        }
    }

    fn swap_out(&mut self, key: &[u8]) {
        let away = self.table.change(key, |held| {
            Arc::make_mut(&mut held.record).go_away();
            held.away = true;
        });
        if away.is_some() {
            self.counters.swapped_out += 1;
        }
    }

    /// What the store has of an entry.
    pub(crate) fn loaded(&mut self, now: Time, key: &[u8], loaded: &Loaded) {
        self.at(now);
        if self.is_away(key) {
            if let Loaded::Found(stored) = loaded {
                self.bring_back(key, &stored.entry.record);
            }
            match (self.is_away(key), loaded) {
                (false, _) => self.counters.swapped_in += 1,
                (true, Loaded::Failed) => self.counters.load_failures += 1,
                (true, _) => {
                    self.counters.load_failures += 1;
                    self.lost(key);
                }
            }
        } else if matches!(loaded, Loaded::Missing) {
            // Others have brought it back meanwhile: before it goes away again, it has to be saved again.
            self.table.note(key, |held| held.current = false);
        }
        let parked = self.keeping.loading.remove(key).unwrap_or_default();
        self.keeping.parked -= parked.len();
        // The store may answer the next time: nothing is taken for lost.
        let unanswered = self.is_away(key);
        for parked in parked {
            match parked {
                Parked::Get(ticket) if unanswered => self.fetch_instead(ticket, key),
                Parked::Fetch { member, request } if unanswered => {
                    self.send(vec![member], &Message::Fetched { request, answer: Found::Unreadable }, None);
                }
                Parked::Ask { member, ticket } if unanswered => self.commit_outlook(Some(ticket), &member, Outlook::Failed),
                Parked::Put { to, .. } if unanswered => self.disagree(slot_of(key), &to),
                // Whoever pulls asks again.
                Parked::Pull { .. } if unanswered => {}
                // It may have gone meanwhile, be overdue by now, or have come back from before a write of this member.
                Parked::Get(ticket) if !self.can_be_read(key) => self.fetch_instead(ticket, key),
                Parked::Get(ticket) => {
                    let found = self.found_here(key);
                    self.outputs.push_back(Output::Fetched(ticket, Ok(found)));
                }
                Parked::Fetch { member, request } => self.receive_fetch(&member, request, key),
                Parked::Ask { member, ticket } => self.ask(ticket, member),
                Parked::Put { to, ticket } => self.put_whole(&to, [key.into()], ticket),
                Parked::Pull { from, request, slots, after, budget } => {
                    self.receive_pull(&from, request, &slots, after, budget);
                }
            }
        }
    }

    /// Whether what is here of an entry is the answer to a read.
    fn can_be_read(&self, key: &[u8]) -> bool {
        let here = self.table.get(key).is_some_and(|held| !held.is_alive() || !self.is_overdue(held));
        here && !self.is_behind(key)
    }

    pub(super) fn bring_back(&mut self, key: &[u8], from: &Record) {
        self.table.change(key, |held| {
            if held.away && held.record.birth == from.birth {
                Arc::make_mut(&mut held.record).come_back(from);
            }
        });
    }

    /// The values of an entry are nowhere here: whoever has them gives them again, and reads do not go back behind what was written.
    fn lost(&mut self, key: &[u8]) {
        let Some(held) = self.table.remove(key) else { return };
        self.written.let_go(self.clock.node(), &key.into(), &held.record);
        let slot = slot_of(key);
        // What is not here is not nowhere.
        self.slots[usize::from(slot)].former = false;
        if self.placement.rank(slot, &self.local).is_some() {
            self.slots[usize::from(slot)].complete = false;
            self.transfer_gained(slot);
            self.transfer_peers_changed();
        }
    }

    pub(super) fn is_away(&self, key: &[u8]) -> bool {
        self.table.get(key).is_some_and(|held| held.away)
    }

    pub(super) fn is_here_but_away(&self, key: &[u8]) -> bool {
        self.table.get(key).is_some_and(|held| held.away && held.is_alive() && !self.is_overdue(held))
    }

    /// Whether an entry must be [loaded](Self::loaded) before this change can be made. What the change was made on may do instead.
    pub(crate) fn must_load(&mut self, now: Time, key: &[u8], change: &Change) -> bool {
        if !self.is_away(key) {
            return false;
        }
        self.at(now);
        match change {
            Change::Update { read, .. } | Change::Rename { read, .. } => {
                self.bring_back(key, read);
                self.is_away(key)
            }
            _ => false,
        }
    }

    /// Has something wait for an entry that is away. False when too much waits already.
    pub(super) fn park(&mut self, key: &[u8], what: Parked) -> bool {
        if self.keeping.parked >= MAX_PARKED {
            return false;
        }
        self.keeping.parked += 1;
        self.load([key.into()]);
        self.keeping.loading.entry(key.into()).or_default().push(what);
        true
    }

    fn load(&mut self, keys: impl IntoIterator<Item = Key>) {
        let mut asked = Vec::new();
        for key in keys {
            self.keeping.loading.entry(key.clone()).or_insert_with(|| {
                asked.push(key);
                Vec::new()
            });
        }
        if !asked.is_empty() {
            self.outputs.push_back(Output::Load(asked));
        }
    }

    /// A transfer has come to what is away: it goes on when the next ones are here.
    pub(super) fn pull_from_store(&mut self, from: &Member, request: u64, slots: &[SlotId], after: Option<Key>, budget: u32) {
        let mut begin = after.clone();
        let mut ahead = Vec::new();
        for slot in slots {
            let begin = begin.take();
            let away = self.table.slot(*slot).after(begin.as_deref()).filter(|(_, held)| held.away);
            ahead.extend(away.map(|(key, _)| key.clone()).take(AHEAD - ahead.len()));
            if ahead.len() >= AHEAD {
                break;
            }
        }
        let Some(last) = ahead.last().cloned() else { return };
        self.load(ahead);
        self.park(&last, Parked::Pull { from: from.clone(), request, slots: slots.to_vec(), after, budget });
    }

    /// How many entries are alive and in memory with all their values.
    fn resident(&self) -> usize {
        self.table.alive() - self.table.away()
    }

    /// Entries that are swapped out.
    pub(crate) fn away(&self) -> usize {
        self.table.away()
    }

    pub(super) fn keeping_due(&self) -> Option<u64> {
        let keeping = self.config.keeping?;
        let idles = keeping.max_resident.is_some() || keeping.max_idle.is_some() || keeping.backup.is_some();
        if !idles || self.keeping.saving > 0 || self.table.alive() == 0 {
            return None;
        }
        let crowded = keeping.max_resident.is_some_and(|max| self.resident() > max + max / 8);
        Some(self.keeping.swept + if crowded && !self.keeping.stuck { SOON } else { SWEEP })
    }

    pub(super) fn keeping_timeout(&mut self) {
        let now = self.millis();
        let Some(keeping) = self.config.keeping.filter(|_| self.keeping_due().is_some_and(|due| due <= now)) else { return };
        self.keeping.swept = now;
        let excess = keeping.max_resident.map_or(0, |max| self.resident().saturating_sub(max));
        let (min_idle, max_idle) = (keeping.min_idle.as_millis(), keeping.max_idle.map(millis));
        let backup = keeping.backup.map(millis);
        let idle_for = |idle: u64, limit: Option<u64>| limit.is_some_and(|limit| idle >= limit);
        let (mut old, mut backups, mut dirty) = (Vec::new(), Vec::new(), Vec::new());
        for (key, held) in self.table.iter().filter(|(_, held)| held.is_alive()) {
            let idle = held.idle(now);
            if held.away {
                if !held.current && u128::from(idle) >= min_idle && dirty.len() < MAX_BACK {
                    dirty.push(key.clone());
                }
            } else if u128::from(idle) >= min_idle && (excess > 0 || idle_for(idle, max_idle)) && held.record.has_values() {
                old.push((held.accessed, key.clone()));
            } else if !held.current && idle_for(idle, backup) && backups.len() < MAX_BATCH {
                backups.push(key.clone());
            }
        }
        old.sort_unstable();
        let idle = old.iter().filter(|(accessed, _)| idle_for(now.saturating_sub(*accessed), max_idle)).count();
        let swaps = excess.max(idle).min(MAX_BATCH).min(old.len());
        self.keeping.stuck = swaps == 0;
        let batch = old.drain(..swaps).map(|(_, key)| (key, true)).collect::<Vec<_>>();
        let room = MAX_BATCH - batch.len();
        self.save(batch.into_iter().chain(backups.into_iter().take(room).map(|key| (key, false))).collect());
        self.load(dirty);
    }

    fn save(&mut self, keys: Vec<(Key, bool)>) {
        let mut savings = Vec::new();
        for (key, swap) in keys {
            let Some(stored) = self.stored(&key) else { continue };
            let Some((accessed, current)) = self.table.note(&key, |held| {
                held.stored = true;
                (held.accessed, held.current)
            }) else {
                continue;
            };
            if current && swap {
                // It is there already.
                drop(stored);
                self.swap_out(&key);
            } else {
                savings.push(Saving { stored, accessed, swap });
            }
        }
        if !savings.is_empty() {
            self.keeping.saving += savings.len();
            self.outputs.push_back(Output::Save(savings));
        }
    }
}

impl Record {
    /// Whether there is anything to let go of.
    fn has_values(&self) -> bool {
        self.attributes.iter().any(super::record::Attribute::can_go_away)
    }
}

#[cfg(test)]
mod tests;
