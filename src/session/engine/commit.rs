//! Changes made here, and the confirmations they wait for.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::attributes::Attributes;
use super::keeping::Parked;
use super::message::{Entry, SwapOutcome, Want};
use super::record::{Attribute, Death, Ends, Lease, Name, Record};
use super::seen::Seen;
use super::table::{Held, Key, SlotId, slot_of, weight};
use super::version::Version;
use super::{Copies, Engine, Output, SwapFault, Ticket, Tickets, What};
use crate::few::Few;
use crate::id::UniqueId;
use crate::member::Member;
use crate::stack::Time;

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

/// What became of a change.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) version: Version,
    /// How many other members are to hold it.
    pub(crate) wanted: usize,
    /// The other members that do.
    pub(crate) confirmed: Vec<Member>,
}

/// A change that did not get its confirmations in time. It is made, and goes on being replicated.
#[derive(Clone, Debug)]
pub(crate) struct CommitFault {
    pub(crate) committed: Committed,
    /// How many confirmations were waited for.
    pub(crate) needed: usize,
    /// Whether the entry was removed by another member meanwhile: the change is lost with it.
    pub(crate) removed: bool,
}

/// A commit that is done, or under way.
#[derive(Clone, Debug)]
pub(crate) enum Commit {
    Done(Committed),
    /// [`Output::Committed`] will tell.
    Waiting(Ticket),
}

/// What one destination means for a commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outlook {
    Confirmed,
    Failed,
}

/// How the wait for confirmations ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Met,
    /// Time is over.
    Late,
    /// The entry was removed by another member.
    Removed,
}

/// Who waits for a commit.
#[derive(Clone, Debug)]
pub(super) enum Whom {
    Local,
    /// A swap of this member.
    Swap(Ticket),
    /// Another member, that asked for a swap.
    Remote {
        member: Member,
        request: u64,
    },
}

#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: Tickets<Waiting>,
    /// How many of them wait for each other member's sake.
    remote: BTreeMap<UniqueId, usize>,
    due: Option<u64>,
}

#[derive(Debug)]
struct Waiting {
    /// What it changed, all in one slot: two keys for a rename.
    keys: Few<Key>,
    slot: SlotId,
    whom: Whom,
    want: Want,
    /// Of the incarnation that was written to; the version itself for what makes or ends one.
    birth: Version,
    committed: Committed,
    asked: Few<Member>,
    /// Did not take it; asked again only when placed anew.
    failed: Vec<Member>,
    deadline: u64,
    hedge_at: Option<u64>,
}

impl Commits {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// How many commits wait that a member has asked for.
    pub(super) fn waiting_for(&self, member: &Member) -> usize {
        self.remote.get(&member.id()).copied().unwrap_or(0)
    }

    fn insert(&mut self, ticket: Ticket, waiting: Waiting) {
        if let Whom::Remote { member, .. } = &waiting.whom {
            *self.remote.entry(member.id()).or_default() += 1;
        }
        self.waiting.insert(ticket, waiting);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        if let Whom::Remote { member, .. } = &waiting.whom
            && let btree_map::Entry::Occupied(mut count) = self.remote.entry(member.id())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(waiting)
    }
}

impl Engine {
    /// Makes a change here and sends it to the entry's holders.
    ///
    /// An entry of which nobody else has the record is changed in place; whoever has read it gives it up with the change.
    pub(crate) fn commit(&mut self, now: Time, key: &[u8], change: Change, want: Want) -> Result<Commit, Refused> {
        self.at(now);
        self.commit_for(Whom::Local, key, change, want)
    }

    pub(super) fn commit_for(&mut self, whom: Whom, key: &[u8], change: Change, want: Want) -> Result<Commit, Refused> {
        let (version, entries) = match change {
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
        };
        let slot = slot_of(key);
        let holders: Few<_> = self.other_holders(slot).cloned().collect();
        let committed = Committed { version, wanted: self.wanted(), confirmed: Vec::new() };
        let keys = entries.iter().map(|entry| entry.key.clone()).collect();
        let birth = entries.first().map(|entry| entry.record.birth).filter(|birth| !birth.is_zero()).unwrap_or(version);
        let ticket = self.number();
        let hedge = self.in_millis(self.config.hedge_after);
        let waiting = Waiting {
            keys,
            slot,
            whom,
            want,
            birth,
            committed,
            asked: holders.clone(),
            failed: Vec::new(),
            deadline: self.in_millis(self.config.commit_timeout),
            hedge_at: Some(hedge),
        };
        let needed = self.needed(&waiting);
        self.put(holders, entries, (needed > 0).then_some(ticket));
        if needed == 0 && matches!(waiting.whom, Whom::Local) {
            return Ok(Commit::Done(waiting.committed));
        }
        let due = hedge.min(waiting.deadline);
        self.commits.insert(ticket, waiting);
        self.commits.due = Some(self.commits.due.map_or(due, |at| at.min(due)));
        #[cfg(test)]
        let needed = if self.config.flaws.forget_backup { 0 } else { needed };
        if needed == 0 {
            // Otherwise nobody can have confirmed it yet.
            self.settle(ticket);
        }
        Ok(Commit::Waiting(ticket))
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
        self.admit(key, known.as_deref(), true, &attributes)?;
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

    /// The record that attributes may be changed of.
    fn admit_update(
        &mut self,
        key: &[u8],
        read: &Arc<Record>,
        attributes: &[(Name, Option<Bytes>)],
    ) -> Result<Arc<Record>, Refusal> {
        let before = self.base(key, read)?;
        self.admit(key, Some(&before), false, attributes)?;
        Ok(before)
    }

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
        let before = self.base(key, read)?;
        self.admit(key, Some(&before), false, &attributes)?;
        let version = self.tick(self.latest(key).max(self.latest(&to)));
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
        written(version, attributes).iter().for_each(|attribute| record.put(attribute.clone()));
        self.merge_here(&to, record);
        let buried = self.bury_as(key, version, before.lease.millis);
        self.event(key, What::Renamed(to.clone()), false);
        // Whoever cannot take the new entry must not lose the old one.
        Ok((version, self.whole(&to).into_iter().chain(buried).collect()))
    }

    /// The record that a change is made on, which is here from now on.
    fn base(&mut self, key: &[u8], read: &Arc<Record>) -> Result<Arc<Record>, Refusal> {
        let mut held = self.table.get(key);
        if held.is_some_and(|held| read.birth > held.record.birth.max(held.record.end.death)) {
            // What is here, as an old tombstone that somebody had left, is from before the incarnation that was read elsewhere.
            self.take_unnoticed(Entry { key: key.into(), record: Arc::clone(read), base: None, idle: 0, keep: 0 });
            self.handover_soon();
            held = self.table.get(key);
        }
        match held {
            Some(held) => match held.record.death() {
                None => Ok(Arc::clone(&held.record)),
                Some(Death::Removed) => {
                    self.counters.late += 1;
                    Err(Refusal::Removed)
                }
                Some(Death::Lapsed) => Err(Refusal::Expired),
            },
            // Whoever has everything would know of it: it has died, and even its tombstone is gone.
            None if self.knows_of_all_but(&self.local, slot_of(key)) => Err(Refusal::Removed),
            None if self.known_death(key, read.birth).is_some() => Err(Refusal::Removed),
            None => {
                let held = Held::new(Arc::clone(read), self.millis());
                self.table.insert(key, held);
                self.handover_soon();
                Ok(Arc::clone(read))
            }
        }
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

    /// Whether an entry may become what a change makes of it. What does not make it larger, it always may.
    fn admit(
        &mut self,
        key: &[u8],
        before: Option<&Record>,
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

    /// The members that hold a slot, without this one.
    pub(super) fn holders_but_me(&self, slot: SlotId) -> Vec<Member> {
        self.other_holders(slot).cloned().collect()
    }

    fn other_holders(&self, slot: SlotId) -> impl Iterator<Item = &Member> {
        self.placement.holding(slot).filter(|member| **member != self.local)
    }

    /// How many other members are to hold each entry.
    pub(super) fn wanted(&self) -> usize {
        match self.config.copies {
            Copies::Backups(backups) => backups,
            Copies::Everywhere => self.placement.members().iter().filter(|member| **member != self.local).count(),
        }
    }

    /// How many confirmations a commit needs, as things are.
    fn needed(&self, waiting: &Waiting) -> usize {
        let holders = self.other_holders(waiting.slot).count();
        match waiting.want {
            Want::None => 0,
            // More copies than are kept would be let go of as soon as they are made.
            Want::Copies(copies) => usize::try_from(copies).unwrap_or(usize::MAX).min(holders).min(self.wanted()),
            Want::All => holders,
            Want::AtLeast(copies) => usize::try_from(copies).unwrap_or(usize::MAX),
        }
    }

    /// One destination's answer.
    pub(super) fn commit_outlook(&mut self, ticket: Option<Ticket>, member: &Member, outlook: Outlook) {
        let Some(ticket) = ticket else { return };
        let Some(waiting) = self.commits.waiting.get_mut(&ticket) else { return };
        match outlook {
            Outlook::Confirmed => {
                if !waiting.committed.confirmed.contains(member) {
                    waiting.committed.confirmed.push(member.clone());
                }
                self.settle(ticket);
            }
            Outlook::Failed => {
                waiting.failed.push(member.clone());
                self.hedge(ticket, false);
            }
        }
    }

    /// Asks one more member to hold the entry of a commit, until its holders do; one that failed before only if `again`.
    fn hedge(&mut self, ticket: Ticket, again: bool) {
        let Some(waiting) = self.commits.waiting.get_mut(&ticket) else { return };
        let order = self.placement.order(waiting.slot);
        let fresh = order.into_iter().find(|member| **member != self.local && !waiting.asked.contains(member)).cloned();
        if let Some(next) = fresh.or_else(|| if again { waiting.failed.pop() } else { None }) {
            self.ask(ticket, next);
        }
    }

    /// Sends a member all that a commit changed, in one message: it confirms all of it, or nothing.
    pub(super) fn ask(&mut self, ticket: Ticket, member: Member) {
        let Some(waiting) = self.commits.waiting.get_mut(&ticket) else { return };
        if !waiting.asked.contains(&member) {
            waiting.asked.push(member.clone());
        }
        let (keys, birth, version) = (waiting.keys.clone(), waiting.birth, waiting.committed.version);
        if let Some(away) = keys.iter().find(|key| self.is_away(key)) {
            self.park(away, Parked::Ask { member, ticket });
            return;
        }
        let entries: Vec<_> =
            keys.iter().filter_map(|key| self.whole(key)).filter(|entry| entry.record.includes(birth, version)).collect();
        if entries.len() == keys.len() {
            self.put(member, entries, Some(ticket));
        } else if let Some(waiting) = self.commits.waiting.get_mut(&ticket) {
            // What is here is no longer what was committed: whoever took it would confirm something else.
            waiting.failed.push(member);
        }
    }

    /// Sends a member that lacks the base of a commit's change all of it.
    pub(super) fn ask_again(&mut self, ticket: Option<Ticket>, member: &Member, keys: impl Iterator<Item = Key>) {
        match ticket.filter(|ticket| self.commits.waiting.contains_key(ticket)) {
            Some(ticket) => self.ask(ticket, member.clone()),
            None => self.put_whole(member, keys, None),
        }
    }

    fn settle(&mut self, ticket: Ticket) {
        let Some(waiting) = self.commits.waiting.get(&ticket) else { return };
        let needed = self.needed(waiting);
        let met = match waiting.want {
            Want::All => self.other_holders(waiting.slot).all(|holder| waiting.committed.confirmed.contains(holder)),
            _ => waiting.committed.confirmed.len() >= needed,
        };
        #[cfg(test)]
        let met = met || self.config.flaws.forget_backup;
        if met && let Some(waiting) = self.commits.remove(ticket) {
            self.answer(ticket, waiting, needed, End::Met);
        }
    }

    fn answer(&mut self, ticket: Ticket, waiting: Waiting, needed: usize, end: End) {
        let Waiting { whom, committed, .. } = waiting;
        let (met, removed) = (end == End::Met, end == End::Removed);
        match whom {
            Whom::Local => {
                let result = if met { Ok(committed) } else { Err(CommitFault { committed, needed, removed }) };
                self.outputs.push_back(Output::Committed(ticket, result));
            }
            Whom::Swap(swap) => {
                let result = match end {
                    End::Met => Ok(committed),
                    End::Late => Err(SwapFault::Unconfirmed(committed)),
                    End::Removed => Err(SwapFault::Absent),
                };
                self.outputs.push_back(Output::Swapped(swap, result));
            }
            Whom::Remote { member, request } => {
                let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                let (version, wanted) = (committed.version, count(committed.wanted));
                let confirmed = committed.confirmed.iter().map(Member::id).collect();
                let outcome = match end {
                    End::Met => SwapOutcome::Done { version, confirmed, wanted },
                    End::Late => SwapOutcome::Unconfirmed { version, confirmed, wanted },
                    End::Removed => SwapOutcome::Absent,
                };
                self.swap_answer(&member, request, outcome);
            }
        }
    }

    /// Another member has removed an entry: what waits for it to be confirmed waits in vain.
    pub(super) fn commits_died(&mut self, key: &[u8]) {
        let mut died: Vec<_> = self
            .commits
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.keys.iter().any(|changed| **changed == *key))
            .map(|(ticket, _)| *ticket)
            .collect();
        died.sort_unstable();
        for ticket in died {
            if let Some(waiting) = self.commits.remove(ticket) {
                let needed = self.needed(&waiting);
                self.answer(ticket, waiting, needed, End::Removed);
            }
        }
    }

    pub(super) fn commits_lost(&mut self, member: &Member) {
        for waiting in self.commits.waiting.values_mut() {
            waiting.asked.retain(|asked| asked != member);
            [&mut waiting.failed, &mut waiting.committed.confirmed]
                .into_iter()
                .for_each(|list| list.retain(|listed| listed != member));
        }
        self.commits_placed();
    }

    /// The holders are others now: those that have not been asked are.
    pub(super) fn commits_placed(&mut self) {
        let tickets: Vec<_> = self.commits.waiting.keys().copied().collect();
        for ticket in tickets {
            let Some(waiting) = self.commits.waiting.get(&ticket) else { continue };
            let holders = self.holders_but_me(waiting.slot);
            let fresh = holders.into_iter().filter(|holder| !waiting.asked.contains(holder)).collect::<Vec<_>>();
            fresh.into_iter().for_each(|holder| self.ask(ticket, holder));
            self.settle(ticket);
        }
    }

    pub(super) fn commits_timeout(&mut self) {
        let now = self.millis();
        if self.commits.due.is_none_or(|due| due > now) {
            return;
        }
        let late: Vec<_> =
            self.commits.waiting.iter().filter(|(_, waiting)| waiting.deadline <= now).map(|(ticket, _)| *ticket).collect();
        for ticket in late {
            if let Some(waiting) = self.commits.remove(ticket) {
                let needed = self.needed(&waiting);
                self.answer(ticket, waiting, needed, End::Late);
            }
        }
        let slow: Vec<_> = self
            .commits
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.hedge_at.is_some_and(|at| at <= now))
            .map(|(ticket, _)| *ticket)
            .collect();
        let again = self.in_millis(self.config.hedge_after);
        for ticket in slow {
            if let Some(waiting) = self.commits.waiting.get_mut(&ticket) {
                waiting.hedge_at = Some(again);
            }
            self.hedge(ticket, true);
        }
        let next = |waiting: &Waiting| waiting.hedge_at.map_or(waiting.deadline, |at| at.min(waiting.deadline));
        self.commits.due = self.commits.waiting.values().map(next).min();
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
