//! The confirmations that changes wait for: whom they come from, how many are needed, and who is asked when they do not come.

use std::collections::BTreeMap;
use std::collections::btree_map;

use super::change::{Change, Refused};
use super::keeping::Parked;
use super::message::{SwapOutcome, Want};
use super::table::{Key, SlotId, slot_of};
use super::version::Version;
use super::{Copies, Engine, Output, SwapFault, Ticket, Tickets};
use crate::few::Few;
use crate::id::UniqueId;
use crate::member::Member;
use crate::stack::Time;

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
        let (version, entries) = self.make(key, change)?;
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
