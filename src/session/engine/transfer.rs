//! How a member gets what is in the slots that it has become a holder of: it pulls, in bounded chunks, from those who have it.
//!
//! The puller keeps the cursor and decides how much is under way, so a source that dies costs nothing but its last chunk, and a slow puller
//! slows the source. Sources of one slot are asked one after another, until one says that it has everything, or all have been asked;
//! nobody waits for anybody else's progress, so members that start together cannot wait for each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Chunk, Done, Entry, Message, Phase};
use super::repair::millis;
use super::table::{Key, SLOTS, SlotId, slot_of};
use super::{EPOCH, Engine, bit};
use crate::id::UniqueId;
use crate::member::Member;

/// Each time-out of a source doubles the patience with it and halves what it is asked for at once, so many times at most: a slow network
/// is not a dead member.
pub(super) const MAX_STRAIN: u32 = 2;
/// Requests given up on whose answers are still welcome.
const MAX_LATE: usize = 64;
/// A slot whose sources were all silent is begun again after so many milliseconds.
const RETRY: u64 = 200;
/// What found no room may be elsewhere until nothing has been refused for so many milliseconds: several times as long as it takes until
/// a guest is offered again.
const LACKING: u64 = 10_000;
/// Who has found a member that is complete, but not all that are said to take part, begins when no other has come for so many
/// milliseconds.
const QUIET: u64 = 50;

#[derive(Debug, Default)]
pub(super) struct Transfer {
    filling: BTreeMap<SlotId, Fill>,
    requests: BTreeMap<u64, Request>,
    /// Requests that were given up on: what comes in answer counts all the same.
    late: VecDeque<(u64, Request)>,
    /// How often in a row a source has not answered in time, up to [`MAX_STRAIN`].
    strain: BTreeMap<UniqueId, u32>,
    due: Option<u64>,
    /// Whether this member has looked around: before, it does not know who is there already, and must not take itself for the first.
    begun: bool,
    /// When this member gives up being complete before it serves.
    serve_at: Option<u64>,
}

/// A slot that is being filled.
#[derive(Debug, Default)]
struct Fill {
    source: Option<Member>,
    /// Everything up to this key has come from the source.
    after: Option<Key>,
    /// Sources that have given what they have, and what they were when they were asked: who was joining then may have got more since.
    asked: Vec<(UniqueId, Phase)>,
    /// Sources that did not answer.
    silent: Vec<UniqueId>,
    /// Whether all that are there have given what they have, and none of them has everything.
    exhausted: bool,
    under_way: bool,
    not_before: u64,
}

#[derive(Debug)]
struct Request {
    source: Member,
    /// What the source was when it was asked.
    phase: Phase,
    slots: Vec<SlotId>,
    asked_at: u64,
    deadline: u64,
}

impl Transfer {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// This member has become a holder of a slot.
    pub(super) fn transfer_gained(&mut self, slot: SlotId) {
        // What was asked for when it was one before does not tell what has been written since.
        let requests = self.transfer.requests.values_mut().chain(self.transfer.late.iter_mut().map(|(_, request)| request));
        requests.for_each(|request| request.slots.retain(|asked| *asked != slot));
        self.transfer.filling.insert(slot, Fill::default());
    }

    /// This member is no holder of a slot any more.
    pub(super) fn transfer_dropped(&mut self, slot: SlotId) {
        self.transfer.filling.remove(&slot);
    }

    /// Whether this member has begun to get what there is, from those that it knew then.
    pub(super) fn transfer_begun(&self) -> bool {
        self.transfer.begun
    }

    /// A member came, or said what it is.
    pub(super) fn transfer_peers_changed(&mut self) {
        self.transfer.filling.values_mut().for_each(|fill| fill.exhausted = false);
        self.pull();
    }

    /// A member is gone.
    pub(super) fn transfer_lost(&mut self, member: &Member) {
        let lost: Vec<_> =
            self.transfer.requests.iter().filter(|(_, request)| request.source == *member).map(|(id, _)| *id).collect();
        for id in lost {
            self.forget_request(id);
        }
        self.transfer.late.retain(|(_, request)| request.source != *member);
        self.transfer.strain.remove(&member.id());
        for fill in self.transfer.filling.values_mut().filter(|fill| fill.source.as_ref() == Some(member)) {
            (fill.source, fill.after) = (None, None);
        }
        self.pull();
    }

    fn forget_request(&mut self, id: u64) -> Option<Request> {
        let request = self.transfer.requests.remove(&id)?;
        for slot in &request.slots {
            if let Some(fill) = self.transfer.filling.get_mut(slot) {
                fill.under_way = false;
            }
        }
        Some(request)
    }

    /// Asks for whatever is missing, as far as the windows allow.
    fn pull(&mut self) {
        let now = self.millis();
        if !self.transfer.begun {
            let begin_at = self.begin_at();
            if now < begin_at {
                self.transfer.due = Some(begin_at);
                return;
            }
            self.transfer.begun = true;
        }
        if self.peers.phase() == Phase::Joining {
            #[cfg(test)]
            if self.config.flaws.ready_at_once {
                self.transfer.filling.clear();
                self.slots.iter_mut().for_each(|slot| slot.complete = true);
                return self.set_phase(Phase::Ready);
            }
            let limit = self.in_millis(self.config.transfer_timeout);
            let serve_at = *self.transfer.serve_at.get_or_insert(limit);
            if let Some(heard_by) = self.heard_by()
                && now < serve_at
            {
                self.transfer.due = Some(heard_by.min(serve_at));
                return;
            }
        }
        let mut by_source: BTreeMap<UniqueId, (Member, Vec<SlotId>)> = BTreeMap::new();
        let idle: Vec<_> = self
            .transfer
            .filling
            .iter()
            .filter(|(_, fill)| !fill.under_way && !fill.exhausted && fill.not_before <= now)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in idle {
            if let Some(source) = self.source_of(slot) {
                by_source.entry(source.id()).or_insert_with(|| (source, Vec::new())).1.push(slot);
            }
        }
        for (source, slots) in by_source.into_values() {
            let under_way = self.transfer.requests.values().filter(|request| request.source == source).count();
            let window = (self.config.chunk_window >> self.strain(&source)).max(1);
            let free = window.saturating_sub(under_way);
            if free == 0 {
                continue;
            }
            let share = slots.len().div_ceil(free);
            for slots in slots.chunks(share) {
                self.pull_from(&source, slots.to_vec());
            }
        }
        if self.peers.phase() == Phase::Joining {
            let late = self.transfer.serve_at.is_some_and(|at| now >= at);
            let exhausted = self.transfer.filling.iter().filter(|(_, fill)| fill.exhausted).map(|(slot, _)| *slot);
            let exhausted: Vec<_> = exhausted.collect();
            if exhausted.len() == self.transfer.filling.len() || late {
                exhausted.into_iter().for_each(|slot| self.filled(slot, None));
                self.transfer.serve_at = None;
                self.set_phase(Phase::Ready);
            }
        }
        self.transfer_arm();
    }

    /// When this member has looked around for long enough. A channel shows its members one after another, some time after it has
    /// started.
    fn begin_at(&self) -> u64 {
        let limit = EPOCH + millis(self.config.discovery);
        let complete = self.peers.present().any(|(_, phase)| phase != Phase::Joining);
        if !complete || !self.all_heard() {
            return limit;
        }
        let quiet = if self.peers.are_all_here() { 0 } else { QUIET };
        limit.min(self.peers.newest() + quiet)
    }

    fn transfer_arm(&mut self) {
        let now = self.millis();
        let requests = self.transfer.requests.values().map(|request| request.deadline);
        // A slot that could be asked for now waits for room in its source's window, not for time.
        let waits = self.transfer.filling.values().filter(|fill| !fill.under_way && fill.not_before > now);
        let waits = waits.map(|fill| fill.not_before);
        self.transfer.due = requests.chain(waits).chain(self.transfer.serve_at).min();
    }

    /// Whom to ask for a slot next. When nobody is left, the slot is complete; a joiner's is not before all others are: who has everything
    /// may come into view, or become complete, until then.
    fn source_of(&mut self, slot: SlotId) -> Option<Member> {
        let fill = self.transfer.filling.get(&slot)?;
        if let Some(source) = &fill.source {
            return Some(source.clone());
        }
        let candidates = self.transfer_sources(slot);
        let retry_at = self.millis() + RETRY;
        let fill = self.transfer.filling.get_mut(&slot)?;
        let asked = |member: &Member| {
            let phase = self.peers.phase_of(member);
            phase.is_some_and(|phase| fill.asked.contains(&(member.id(), phase)))
        };
        let next = candidates.iter().find(|member| !asked(member) && !fill.silent.contains(&member.id()));
        if let Some(next) = next {
            (fill.source, fill.after) = (Some(next.clone()), None);
            return Some(next.clone());
        }
        if candidates.iter().any(|member| fill.silent.contains(&member.id())) {
            // Somebody who may have it is there and does not answer: try again.
            fill.silent.clear();
            fill.not_before = retry_at;
            return None;
        }
        if self.peers.phase() == Phase::Joining {
            fill.exhausted = true;
        } else {
            self.filled(slot, None);
        }
        None
    }

    /// Who may have what is in a slot, the best first: those that are complete themselves held it before others came.
    fn transfer_sources(&self, slot: SlotId) -> Vec<Member> {
        let mut ranked: Vec<(u8, usize, Member)> = Vec::new();
        let order = self.placement.order(slot);
        for (member, phase) in self.peers.present() {
            let rank = order.iter().position(|other| *other == member).unwrap_or(usize::MAX);
            let class = match phase {
                Phase::Ready => 0,
                Phase::Leaving => 1,
                Phase::Joining => 2,
            };
            ranked.push((class, rank, member.clone()));
        }
        ranked.sort_by_key(|(class, rank, member)| (*class, *rank, member.address()));
        ranked.into_iter().map(|(_, _, member)| member).collect()
    }

    fn strain(&self, source: &Member) -> u32 {
        self.transfer.strain.get(&source.id()).copied().unwrap_or(0)
    }

    fn pull_from(&mut self, source: &Member, slots: Vec<SlotId>) {
        let Some(phase) = self.peers.phase_of(source) else { return };
        let request = self.number();
        let strain = self.strain(source);
        let deadline = self.in_millis(self.config.pull_timeout * (1 << strain));
        let after = slots.first().and_then(|slot| self.transfer.filling.get(slot)).and_then(|fill| fill.after.clone());
        for (nth, slot) in slots.iter().enumerate() {
            if let Some(fill) = self.transfer.filling.get_mut(slot) {
                fill.under_way = true;
                if nth > 0 {
                    // Only the first slot of a request goes on where it stopped.
                    fill.after = None;
                }
            }
        }
        let budget = u32::try_from(self.config.chunk_bytes >> (2 * strain)).unwrap_or(u32::MAX);
        let message = Message::Pull { request, slots: slots.clone(), after, budget };
        let (source, asked_at) = (source.clone(), self.millis());
        self.transfer.requests.insert(request, Request { source: source.clone(), phase, slots, asked_at, deadline });
        self.send(vec![source], &message, None);
    }

    pub(super) fn receive_pull(&mut self, from: &Member, request: u64, slots: &[SlotId], after: Option<Key>, budget: u32) {
        let now = self.millis();
        let asked = budget;
        let budget = usize::try_from(budget).unwrap_or(usize::MAX).min(4 * self.config.chunk_bytes);
        let mut chunk = Chunk { request, entries: Vec::new(), done: Vec::new(), after: None };
        let (mut bytes, mut from_key, mut blocked) = (0, after.clone(), false);
        slots.iter().for_each(|slot| self.slot_counted_on(*slot));
        'slots: for slot in slots {
            let mut last: Option<&Key> = None;
            let begin = from_key.take();
            for (key, held) in self.table.slot(*slot).after(begin.as_deref()) {
                #[cfg(test)]
                if self.config.flaws.tombstones_not_transferred && !held.is_alive() {
                    continue;
                }
                if held.away && chunk.entries.is_empty() && chunk.done.is_empty() {
                    blocked = true;
                    break 'slots;
                }
                if bytes >= budget || held.away {
                    chunk.after = last.cloned().or_else(|| begin.clone());
                    break 'slots;
                }
                bytes += key.len() + held.record.size();
                last = Some(key);
                chunk.entries.push(Entry {
                    key: key.clone(),
                    record: held.record.clone(),
                    base: None,
                    idle: held.idle(now),
                    keep: held.keep_until().saturating_sub(now),
                });
            }
            let complete = self.knows_all(*slot) || self.slots[usize::from(*slot)].former;
            let digest = self.table.slot(*slot).digest();
            chunk.done.push(Done { slot: *slot, digest, complete });
            if bytes >= budget {
                break;
            }
        }
        if blocked {
            return self.pull_from_store(from, request, slots, after, asked);
        }
        self.send(vec![from.clone()], &Message::Chunk(chunk), None);
    }

    pub(super) fn receive_chunk(&mut self, from: &Member, chunk: Chunk) {
        let now = self.millis();
        let asked = self.transfer.requests.get(&chunk.request).is_some_and(|request| request.source == *from);
        let request = if asked {
            self.forget_request(chunk.request)
        } else {
            // Late, and others may have been asked meanwhile: what it brings need not come again.
            let late = self.transfer.late.iter().position(|(id, request)| *id == chunk.request && request.source == *from);
            late.and_then(|at| self.transfer.late.remove(at)).map(|(_, request)| request)
        };
        self.take_all(chunk.entries);
        let patience = millis(self.config.pull_timeout);
        let Some(request) = request.filter(|request| now <= request.deadline + (patience << MAX_STRAIN)) else { return };
        if now < request.asked_at + patience / 4
            && let Some(strain) = self.transfer.strain.get_mut(&from.id())
        {
            *strain = strain.saturating_sub(1);
        }
        for done in chunk.done.iter().filter(|done| request.slots.contains(&done.slot)) {
            self.meet(done.slot, from);
            if done.complete {
                self.filled(done.slot, Some((from, done.digest)));
            } else if let Some(fill) = self.transfer.filling.get_mut(&done.slot) {
                fill.asked.push((from.id(), request.phase));
                (fill.source, fill.after) = (None, None);
            }
        }
        if let Some(after) = chunk.after
            && let slot = slot_of(&after)
            && request.slots.contains(&slot)
            && let Some(fill) = self.transfer.filling.get_mut(&slot).filter(|fill| !fill.under_way)
        {
            // The answer may be late, and another source begun with: that one's cursor means nothing to this one.
            fill.silent.retain(|silent| *silent != from.id());
            (fill.source, fill.after) = (Some(from.clone()), Some(after));
        }
        self.pull();
    }

    fn take_all(&mut self, entries: Vec<Entry>) {
        if entries.iter().any(|entry| self.is_guest_slot(slot_of(&entry.key))) {
            // Meanwhile this member has ceased to be a holder.
            self.handover_soon();
        }
        for entry in entries {
            // Refused for want of room it is counted, and the slots will differ.
            let _ = self.take(entry);
        }
    }

    /// A slot has everything that was to be found.
    fn filled(&mut self, slot: SlotId, by: Option<(&Member, u64)>) {
        if self.transfer.filling.remove(&slot).is_none() {
            return;
        }
        self.slots[usize::from(slot)].complete = true;
        match by {
            Some((member, digest)) if self.table.slot(slot).digest() == digest => self.agree(slot, member),
            _ => self.repair_slot_soon(slot),
        }
    }

    pub(super) fn transfer_timeout(&mut self) {
        let now = self.millis();
        if self.transfer.due.is_none_or(|due| due > now) {
            return;
        }
        let late: Vec<_> =
            self.transfer.requests.iter().filter(|(_, request)| request.deadline <= now).map(|(id, _)| *id).collect();
        let mut strained = BTreeSet::new();
        for id in late {
            let Some(request) = self.forget_request(id) else { continue };
            strained.insert(request.source.id());
            for slot in &request.slots {
                if let Some(fill) = self.transfer.filling.get_mut(slot) {
                    fill.silent.push(request.source.id());
                    (fill.source, fill.after) = (None, None);
                }
            }
            if self.transfer.late.len() == MAX_LATE {
                self.transfer.late.pop_front();
            }
            self.transfer.late.push_back((id, request));
        }
        for source in strained {
            let strain = self.transfer.strain.entry(source).or_default();
            *strain = (*strain + 1).min(MAX_STRAIN);
        }
        self.pull();
    }

    /// Whether this member, as a holder, has everything there is in a slot: what is not here is not there.
    pub(super) fn knows_all(&self, slot: SlotId) -> bool {
        let state = &self.slots[usize::from(slot)];
        state.complete && state.lacks.is_none()
    }

    /// Whether what is not here is nowhere, but perhaps with `asker`. One that has just come may have been written to by members that
    /// heard it earlier, and they may be dead: before it has told what it has, it is asked.
    pub(super) fn knows_of_all_but(&self, asker: &Member, slot: SlotId) -> bool {
        let asker = self.placement.rank(slot, asker).map_or(0, bit);
        let others = self.others_mask(slot) & !asker;
        self.knows_all(slot) && self.slots[usize::from(slot)].met & others == others && self.unheard().next().is_none()
    }

    /// Another holder has told what it has in a slot.
    fn meet(&mut self, slot: SlotId, member: &Member) {
        if let Some(mark) = self.placement.rank(slot, member).map(bit) {
            self.slots[usize::from(slot)].met |= mark;
        }
    }

    /// Marks a slot as equal with one of its other holders.
    pub(super) fn agree(&mut self, slot: SlotId, member: &Member) {
        let Some(mark) = self.placement.rank(slot, member).map(bit) else { return };
        self.table.note_all(slot, |_, held| held.copies |= mark);
        let (all, now) = (self.others_mask(slot), self.millis());
        let state = &mut self.slots[usize::from(slot)];
        state.agreed |= mark;
        state.met |= mark;
        if state.agreed & all == all {
            state.differs_since = None;
            // All may lack the same: who has it as a guest offers it again and again.
            state.lacks = state.lacks.filter(|at| now < *at + LACKING);
        }
    }

    /// The bits of a slot's holders, without this member's.
    pub(super) fn others_mask(&self, slot: SlotId) -> u32 {
        let others = self.placement.holding(slot).enumerate().filter(|(_, member)| **member != self.local);
        others.fold(0, |mask, (position, _)| mask | bit(position))
    }

    /// How much of the transfer is left, in slots.
    pub(crate) fn slots_missing(&self) -> usize {
        debug_assert!(self.transfer.filling.len() <= usize::from(SLOTS));
        self.transfer.filling.len()
    }
}
