//! Changes made here: what each makes of the entry that is here, or why it is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::attributes::Attributes;
use super::message::Entry;
use super::record::{Attribute, Death, Ends, Lease, Name, Record};
use super::seen::Seen;
use super::table::{Held, Key, slot_of, weight};
use super::version::Version;
use super::{Engine, What};
use crate::few::Few;

/// A change of one entry.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A new entry under a key that must be free.
    Create { lease: Duration, attributes: Vec<(Name, Option<Bytes>)> },
    /// The entry as a whole, whether there was one or not.
    Replace { lease: Duration, attributes: Vec<(Name, Option<Bytes>)> },
    /// Attributes, and the lease if it changes, of an entry that was read before: `read` is what was read.
    Update { read: Arc<Record>, lease: Option<Duration>, attributes: Vec<(Name, Option<Bytes>)> },
    /// The entry goes on under another key of the same slot; the old key dies.
    Rename { read: Arc<Record>, to: Key, lease: Option<Duration>, attributes: Vec<(Name, Option<Bytes>)> },
    /// The entry dies: as it is known here, and as it was read.
    Remove { read: Option<Arc<Record>> },
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// The key is taken, or was and is not forgotten yet.
    Exists,
    /// The entry was removed, here or elsewhere, since it was read.
    Removed,
    /// The entry has expired.
    Expired,
    /// This member holds as much as it may.
    Full,
    /// More than [`MAX_ATTRIBUTES`] attributes, or bytes than one message can carry.
    TooLarge,
    /// The new key belongs to another slot.
    OtherSlot,
    /// Values of the entry are in the store, which cannot be asked.
    Unavailable,
    /// The context is left.
    Stopped,
}

/// A change that was not made. An update comes back with it, for whoever has given up what it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    pub(crate) change: Option<Change>,
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self { why, change: None }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        refused.why
    }
}

/// Attributes of one entry, removed ones included.
pub(crate) const MAX_ATTRIBUTES: usize = 4096;
/// Bytes of one entry.
pub(crate) const MAX_ENTRY: usize = 64 << 20;

impl Engine {
    /// Makes a change here: its version, and what others are to be sent.
    pub(super) fn make(&mut self, key: &[u8], change: Change) -> Result<(Version, Few<Entry>), Refused> {
        Ok(match change {
            Change::Create { lease, attributes } => {
                if self.table.get(key).is_some_and(|held| held.record.death() != Some(Death::Lapsed)) {
                    return Err(Refusal::Exists.into());
                }
                self.bear(key, lease, attributes)?
            }
            Change::Replace { lease, attributes } => self.bear(key, lease, attributes)?,
            Change::Update { read, lease, attributes } => match self.admit_update(key, &read, &attributes) {
                Ok(before) => {
                    drop(read);
                    self.update(key, before, lease, attributes)
                }
                Err(why) => return Err(Refused { why, change: Some(Change::Update { read, lease, attributes }) }),
            },
            Change::Rename { read, to, lease, attributes } => self.rename(key, &read, to, lease, attributes)?,
            Change::Remove { read } => self.bury(key, read.as_deref()),
        })
    }

    /// A new incarnation of a key.
    fn bear(
        &mut self,
        key: &[u8],
        lease: Duration,
        attributes: Vec<(Name, Option<Bytes>)>,
    ) -> Result<(Version, Few<Entry>), Refusal> {
        let known = self.table.get(key).map(|held| Arc::clone(&held.record));
        let existed = known.as_ref().is_some_and(|record| record.is_alive());
        self.admit(key, known.as_deref(), false, true, &attributes)?;
        let version = self.tick(self.latest(key));
        let mut record = Record::born(version, millis_of(lease));
        record.attributes = written(version, attributes);
        let told = self.changes_to_tell(&record.attributes);
        self.merge_here(key, record);
        if !existed {
            self.counters.created += 1;
            self.event(key, What::Created, false);
        }
        self.told_of_changes(key, told, false);
        Ok((version, self.whole(key).into_iter().collect()))
    }

    /// The record that attributes may be changed of, which is here from now on.
    fn admit_update(
        &mut self,
        key: &[u8],
        read: &Arc<Record>,
        attributes: &[(Name, Option<Bytes>)],
    ) -> Result<Arc<Record>, Refusal> {
        let (before, here) = self.base(key, read)?;
        self.admit(key, Some(&before), !here, false, attributes)?;
        if !here {
            self.keep_base(key, &before);
        }
        Ok(before)
    }

    /// Changes attributes of a record that was [admitted](Self::admit_update).
    fn update(
        &mut self,
        key: &[u8],
        before: Arc<Record>,
        lease: Option<Duration>,
        attributes: Vec<(Name, Option<Bytes>)>,
    ) -> (Version, Few<Entry>) {
        let version = self.version_of_write(key, &before);
        let change = Record {
            birth: before.birth,
            touched: version.time,
            lease: lease.map_or(before.lease, |lease| Lease { version, millis: millis_of(lease) }),
            seen: Seen::one(version),
            attributes: written(version, attributes),
            ..Record::default()
        };
        let base = before.seen.clone();
        // A record that is only in the table from here on need not be copied.
        drop(before);
        self.merge_here(key, change.clone());
        self.told_of_changes(key, self.changes_to_tell(&change.attributes), false);
        let entry = Entry { key: key.into(), record: Arc::new(change), base: Some(base), idle: 0, keep: 0 };
        (version, entry.into())
    }

    fn rename(
        &mut self,
        key: &[u8],
        read: &Arc<Record>,
        to: Key,
        lease: Option<Duration>,
        attributes: Vec<(Name, Option<Bytes>)>,
    ) -> Result<(Version, Few<Entry>), Refusal> {
        if slot_of(key) != slot_of(&to) || *key == *to {
            return Err(Refusal::OtherSlot);
        }
        if self.table.get(&to).is_some() {
            return Err(Refusal::Exists);
        }
        // It may have been swapped out since it was looked at.
        self.bring_back(key, read);
        if self.is_away(key) {
            return Err(Refusal::Unavailable);
        }
        let (before, here) = self.base(key, read)?;
        self.admit(key, Some(&before), !here, false, &attributes)?;
        let version = self.tick(self.latest(key).max(self.latest(&to)).max(before.latest()));
        // What was removed under the old key, earlier, is not what the new one was.
        let mut record = Record { birth: version, touched: version.time, end: Ends::default(), ..(*before).clone() };
        if let Some(lease) = lease {
            record.lease = Lease { version, millis: millis_of(lease) };
        }
        #[cfg(test)]
        if self.config.flaws.rename_without_attributes {
            record.attributes = Attributes::default();
        }
        record.seen.add(version);
        written(version, attributes).into_iter().for_each(|attribute| record.put(attribute));
        self.merge_here(&to, record);
        let buried = self.bury_as(key, version, before.lease.millis);
        self.event(key, What::Renamed(to.clone()), false);
        // Whoever cannot take the new entry must not lose the old one.
        Ok((version, self.whole(&to).into_iter().chain(buried).collect()))
    }

    /// The record that a change is made on, and whether it is here. What was read elsewhere comes [here](Self::keep_base) with the
    /// change: of one that is refused nothing may stay, or an old state would, and be read.
    fn base(&mut self, key: &[u8], read: &Arc<Record>) -> Result<(Arc<Record>, bool), Refusal> {
        let is_before = |held: &Held| read.birth > held.record.birth.max(held.record.end.death);
        match self.table.get(key) {
            // As an old tombstone that somebody had left: it says nothing about the incarnation that was read elsewhere.
            Some(held) if is_before(held) && !self.is_over(key, read.birth) => Ok((Arc::clone(read), false)),
            Some(held) => match held.record.death() {
                None if self.is_over(key, held.record.birth) => Err(Refusal::Removed),
                None => Ok((Arc::clone(&held.record), true)),
                Some(Death::Removed) => {
                    self.counters.late += 1;
                    Err(Refusal::Removed)
                }
                Some(Death::Lapsed) => Err(Refusal::Expired),
            },
            None if self.is_over(key, read.birth) => Err(Refusal::Removed),
            // Whoever has everything would know of it, or of its death: even its tombstone is gone. What was read lately is out of reach,
            // with all that had it.
            None if self.knows_of_all_but(&self.local, slot_of(key)) && self.may_be_forgotten(read) => Err(Refusal::Removed),
            None => Ok((Arc::clone(read), false)),
        }
    }

    /// What was read elsewhere, and is changed now, is here from now on.
    fn keep_base(&mut self, key: &[u8], read: &Record) {
        if let Some(held) = self.table.get(key) {
            // It does not tell what this member wrote to the one before it.
            self.written.let_go(self.clock.node(), &key.into(), &held.record);
        }
        self.merge_here(key, read.clone());
    }

    /// Leaves a tombstone that is later than all that is known of the entry, and than what was read where the entry is not held.
    fn bury(&mut self, key: &[u8], read: Option<&Record>) -> (Version, Few<Entry>) {
        let held = self.table.get(key).map(|held| Arc::clone(&held.record));
        let known = held.as_deref().or(read);
        let lease = known.map_or(0, |record| record.lease.millis);
        let age = known.filter(|record| record.is_alive()).map(|record| self.age(record));
        let version = self.tick(self.latest(key).max(read.map_or(0, Record::latest)));
        let buried = self.bury_as(key, version, lease);
        if let Some(age) = age {
            self.counters.removed += 1;
            self.life(age);
            self.event(key, What::Removed { age }, false);
        }
        (version, buried.into_iter().collect())
    }

    /// Leaves a tombstone of this version, of an entry with this lease.
    fn bury_as(&mut self, key: &[u8], version: Version, lease_millis: u64) -> Option<Entry> {
        self.merge_here(key, Record::tombstone(version));
        self.remember_dead(key, lease_millis);
        let entry = self.whole(key);
        #[cfg(test)]
        if self.config.flaws.drop_tombstones {
            self.table.remove(key);
        }
        entry
    }

    /// The latest time of an entry that this member knows of: what makes or ends an incarnation is later, whatever the clock says.
    fn latest(&self, key: &[u8]) -> u64 {
        self.table.get(key).map_or(0, |held| held.record.latest()).max(self.latest_known(key))
    }

    /// Merges into the entry that is here, or makes it; an access, and a change that nobody has confirmed.
    fn merge_here(&mut self, key: &[u8], change: Record) {
        let now = self.millis();
        let mut change = Some(change);
        self.table.change(key, |held| {
            if let Some(change) = change.take() {
                Arc::make_mut(&mut held.record).merge(change);
            }
            held.fingerprint = held.record.fingerprint();
            held.copies = 0;
            (held.accessed, held.accessed_here) = (now, true);
            held.tell(now);
        });
        if let Some(change) = change {
            let mut held = Held::new(Arc::new(change), now);
            held.accessed_here = true;
            self.table.insert(key, held);
        }
        if self.placement.rank(slot_of(key), &self.local).is_none() {
            self.handover_soon();
        }
    }

    /// Whether an entry may become what a change makes of it. What does not make it larger, it always may. What makes it larger must
    /// find room with all that it was `before`, if that `comes` with the change.
    fn admit(
        &mut self,
        key: &[u8],
        before: Option<&Record>,
        comes: bool,
        anew: bool,
        attributes: &[(Name, Option<Bytes>)],
    ) -> Result<(), Refusal> {
        let size = |value: Option<&Bytes>| value.map_or(0, Bytes::len);
        let old = before.filter(|_| !anew);
        let (mut names, mut text, mut more, mut less) = (0, 0, 0, 0);
        for (name, value) in attributes {
            match old.and_then(|record| record.attribute(name)) {
                Some(attribute) => less += size(attribute.value.as_ref()),
                None => (names, text) = (names + 1, text + name.len()),
            }
            more += size(value.as_ref());
        }
        let known = old.map_or(0, |record| record.attributes.len());
        let bytes = |record: &Record| record.attributes.iter().map(|a| a.name.len() + size(a.value.as_ref())).sum::<usize>();
        let too_large = names > 0 && known + names > MAX_ATTRIBUTES
            || text + more > less && old.map_or(0, bytes) + text + more - less > MAX_ENTRY
            || attributes.iter().any(|(name, _)| name.len() > u16::MAX.into());
        if too_large {
            return Err(Refusal::TooLarge);
        }
        more += names * size_of::<Attribute>();
        if anew {
            // All that is there goes; where nothing is, an entry comes.
            more += before.map_or_else(|| weight(key, &Record::default()), |_| size_of::<Record>());
            less += before.map_or(0, Record::size);
        }
        if let Some(before) = before.filter(|_| comes && more > less) {
            more += weight(key, before);
            less += self.table.get(key).map_or(0, |held| weight(key, &held.record));
        }
        if before.is_none() && self.is_full() || self.has_no_room_for(more, less) {
            self.counters.refused += 1;
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Whether another entry is one too many.
    pub(super) fn is_full(&self) -> bool {
        #[cfg(test)]
        if self.config.flaws.no_cap {
            return false;
        }
        self.table.len() >= self.config.max_entries || self.table.bytes() >= self.config.max_bytes
    }

    /// Whether entries must not grow, for so many bytes that come and so many that go.
    pub(super) fn has_no_room_for(&self, more: usize, less: usize) -> bool {
        #[cfg(test)]
        if self.config.flaws.no_cap {
            return false;
        }
        more > less && self.table.bytes() + (more - less) > self.config.max_bytes
    }

    pub(super) fn age(&self, record: &Record) -> Duration {
        Duration::from_millis(self.now.epoch_millis.saturating_sub(record.created_millis()))
    }

    /// What is to be told of a change: nothing where nobody listens.
    pub(super) fn changes_to_tell(&self, attributes: &[Attribute]) -> Vec<Attribute> {
        if self.config.events && self.tells_changes { attributes.to_vec() } else { Vec::new() }
    }

    pub(super) fn told_of_changes(&mut self, key: &[u8], told: Vec<Attribute>, remote: bool) {
        if !told.is_empty() {
            self.event(key, What::Changed(told), remote);
        }
    }
}

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// The attributes of a change, sorted; of two with one name, the last.
fn written(version: Version, attributes: Vec<(Name, Option<Bytes>)>) -> Attributes {
    let mut record = Record::default();
    attributes.into_iter().for_each(|(name, value)| record.put(Attribute { name, version, value }));
    record.attributes
}
