//! Writing on a condition: the owner of a slot decides, one after another.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::change::{Change, Refusal};
use super::commit::{Committed, Whom};
use super::message::{Message, SwapOutcome, Want};
use super::record::Name;
use super::table::{Key, slot_of};
use super::version::Version;
use super::{Copies, Engine, Output, Ticket};
use crate::id::UniqueId;
use crate::member::Member;
use crate::stack::Time;

/// Why an attribute was not written on a condition.
#[derive(Clone, Debug)]
pub(crate) enum SwapFault {
    /// It has this version.
    Conflict(Version),
    /// There is no such entry.
    Absent,
    /// The owner did not answer in time, or does not know yet that it is the owner. It may have written.
    Silent,
    /// The owner cannot take it.
    Refused(Refusal),
    /// It is written, but not confirmed in time.
    Unconfirmed(Committed),
}

/// Decisions of one other member that may wait for their confirmations at a time.
const MAX_WAITING: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Swaps {
    asking: BTreeMap<Ticket, Asking>,
}

#[derive(Debug)]
struct Asking {
    owner: Member,
    /// Whether this member is a holder: then the owner counts it among those that are to confirm, even if it leaves meanwhile.
    holds: bool,
    deadline: u64,
}

impl Swaps {
    pub(super) fn due(&self) -> Option<u64> {
        self.asking.values().map(|asking| asking.deadline).min()
    }
}

/// A write, and the version that it depends on.
struct Condition {
    name: Name,
    expected: Version,
    value: Option<Bytes>,
}

impl Engine {
    /// Writes an attribute if its version is still the expected one ([`Version::ZERO`]: if it was never written). One
    /// [`Output::Swapped`] tells what became of it.
    pub(crate) fn swap(
        &mut self,
        now: Time,
        key: &[u8],
        name: Name,
        expected: Version,
        value: Option<Bytes>,
        want: Want,
    ) -> Ticket {
        self.at(now);
        let ticket = self.number();
        let owner = self.placement.holding(slot_of(key)).next().cloned();
        match owner {
            Some(owner) if owner == self.local => {
                if let Err(fault) = self.swap_here(Whom::Swap(ticket), key, Condition { name, expected, value }, want) {
                    self.outputs.push_back(Output::Swapped(ticket, Err(fault)));
                }
            }
            Some(owner) => {
                // The owner's own wait comes before this one's end.
                let deadline = self.in_millis(self.config.commit_timeout + self.config.fetch_retry);
                let holds = self.placement.rank(slot_of(key), &self.local).is_some();
                self.swaps.asking.insert(ticket, Asking { owner: owner.clone(), holds, deadline });
                let message = Message::Swap { request: ticket, key: key.into(), name, expected, value, confirm: want };
                self.send(vec![owner], &message, None);
            }
            None => self.outputs.push_back(Output::Swapped(ticket, Err(SwapFault::Silent))),
        }
        ticket
    }

    /// The owner's decision.
    fn swap_here(&mut self, whom: Whom, key: &[u8], condition: Condition, want: Want) -> Result<(), SwapFault> {
        let Condition { name, expected, value } = condition;
        let slot = slot_of(key);
        let complete = self.slots[usize::from(slot)].complete;
        if !complete && !self.sources(slot).is_empty() {
            // What is here may be older than what others have decided on.
            return Err(SwapFault::Silent);
        }
        let Some(held) = self.table.get(key).filter(|held| held.is_alive()) else {
            if !complete {
                return Err(SwapFault::Silent);
            }
            if !(self.config.swap_creates && expected.is_zero() && value.is_some()) {
                return Err(SwapFault::Absent);
            }
            let attributes = vec![(name, value)];
            // Whatever dead entry there is makes room.
            let birth = Change::Replace { lease: self.config.lease, attributes };
            return self.commit_for(whom, key, birth, want).map(drop).map_err(|refused| SwapFault::Refused(refused.why));
        };
        let current = held.record.attribute(&name).map_or(Version::ZERO, |attribute| attribute.version);
        #[cfg(test)]
        let expected = if self.config.flaws.swap_unchecked { current } else { expected };
        if current != expected {
            return Err(SwapFault::Conflict(current));
        }
        let change = if self.config.swap_creates && value.is_none() {
            // As nothing makes an entry, nothing is what ends it.
            Change::Remove { read: None }
        } else {
            Change::Update { read: held.record.clone(), lease: None, attributes: vec![(name, value)] }
        };
        match self.commit_for(whom, key, change, want).map_err(Refusal::from) {
            Ok(_) => Ok(()),
            Err(Refusal::Removed | Refusal::Expired) => Err(SwapFault::Absent),
            Err(refusal) => Err(SwapFault::Refused(refusal)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(super) fn receive_swap(
        &mut self,
        from: &Member,
        request: u64,
        key: &Key,
        name: Name,
        expected: Version,
        value: Option<Bytes>,
        confirm: Want,
    ) {
        if self.placement.rank(slot_of(key), &self.local) != Some(0) {
            return self.swap_answer(from, request, SwapOutcome::NotOwner);
        }
        if self.commits.waiting_for(from) >= MAX_WAITING {
            // Whoever asks that much without waiting for answers gets one that says nothing was decided.
            self.counters.refused += 1;
            return self.swap_answer(from, request, SwapOutcome::NotOwner);
        }
        let whom = Whom::Remote { member: from.clone(), request };
        let fault = match self.swap_here(whom, key, Condition { name, expected, value }, confirm) {
            Ok(()) => return,
            Err(fault) => fault,
        };
        let outcome = match fault {
            SwapFault::Conflict(current) => SwapOutcome::Conflict { current },
            SwapFault::Absent => SwapOutcome::Absent,
            _ => SwapOutcome::NotOwner,
        };
        self.swap_answer(from, request, outcome);
    }

    pub(super) fn receive_swapped(&mut self, from: &Member, request: u64, outcome: SwapOutcome) {
        let Entry::Occupied(asking) = self.swaps.asking.entry(request) else { return };
        if asking.get().owner != *from {
            return;
        }
        let holds = asking.remove().holds;
        let committed = |version, confirmed: Vec<UniqueId>, wanted: u32| {
            // The owner counts those beside itself; the receipt those beside this member, which may be one of them.
            let counted = holds || confirmed.contains(&self.local.id());
            let wanted = (wanted as usize).saturating_add(1) - usize::from(counted);
            let wanted = match self.config.copies {
                Copies::Backups(_) => wanted,
                // An owner that has not heard that this member leaves counts it, though it does not hold anything any more.
                Copies::Everywhere => wanted.min(self.peers.present().count()),
            };
            let others = self.peers.present().map(|(member, _)| member);
            let confirmed = others.filter(|member| *member == from || confirmed.contains(&member.id())).cloned().collect();
            Committed { version, wanted, confirmed }
        };
        let result = match outcome {
            SwapOutcome::Done { version, confirmed, wanted } => Ok(committed(version, confirmed, wanted)),
            SwapOutcome::Unconfirmed { version, confirmed, wanted } => {
                Err(SwapFault::Unconfirmed(committed(version, confirmed, wanted)))
            }
            SwapOutcome::Conflict { current } => Err(SwapFault::Conflict(current)),
            SwapOutcome::Absent => Err(SwapFault::Absent),
            SwapOutcome::NotOwner => Err(SwapFault::Silent),
        };
        self.outputs.push_back(Output::Swapped(request, result));
    }

    /// Tells a member what became of its swap.
    pub(super) fn swap_answer(&mut self, member: &Member, request: u64, outcome: SwapOutcome) {
        self.send(vec![member.clone()], &Message::Swapped { request, outcome }, None);
    }

    pub(super) fn swaps_lost(&mut self, member: &Member) {
        self.swaps_end(|asking| asking.owner == *member);
    }

    pub(super) fn swaps_timeout(&mut self) {
        let now = self.millis();
        self.swaps_end(|asking| asking.deadline <= now);
    }

    fn swaps_end(&mut self, ends: impl Fn(&Asking) -> bool) {
        let over: Vec<_> = self.swaps.asking.iter().filter(|(_, asking)| ends(asking)).map(|(ticket, _)| *ticket).collect();
        for ticket in over {
            self.swaps.asking.remove(&ticket);
            self.outputs.push_back(Output::Swapped(ticket, Err(SwapFault::Silent)));
        }
    }
}
