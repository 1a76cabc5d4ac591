//! Reading: what is here costs nothing, what is elsewhere a question to who holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keeping::Parked;
use super::message::{Entry, Found, Message};
use super::receive::Taken;
use super::record::Record;
use super::seen::Seen;
use super::table::{Key, slot_of};
use super::version::Version;
use super::{Engine, Output, Phase, Ticket};
use crate::member::Member;
use crate::stack::Time;

/// The answer to a read.
#[derive(Clone, Debug)]
pub(crate) enum Get {
    Here(Arc<Record>),
    Absent,
    /// [`Output::Fetched`] will tell.
    Asking(Ticket),
}

/// Why an entry could not be read.
#[derive(Clone, Debug)]
pub(crate) struct FetchFault {
    /// Who was asked and did not answer, or has it and cannot read it.
    pub(crate) silent: Vec<Member>,
}

/// Fetches at once; more are told that nobody can answer.
const MAX_FETCHES: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Fetches {
    asking: BTreeMap<Ticket, Fetch>,
    due: Option<u64>,
}

#[derive(Debug)]
struct Fetch {
    key: Key,
    /// Yet to be asked, the best last.
    left: Vec<Member>,
    /// Asked, and silent so far.
    silent: Vec<Member>,
    /// They have it, and cannot read it.
    failing: Vec<Member>,
    /// When the next one is asked.
    retry_at: u64,
    deadline: u64,
    /// See `handover`.
    counted: u32,
    /// What was here after the last answer: it may have been let go of before the fetch ends.
    best: Option<Entry>,
    /// How often all may be asked again because of what this member has written.
    rounds: u8,
    /// Whether somebody had nothing to show: what was moved meanwhile, from who had yet to be asked to who had answered, all have missed.
    unsure: bool,
    /// Whether all were asked again for that.
    twice: bool,
    /// What this member had written when all were asked last.
    written: Option<(Version, Seen)>,
    /// The store may have it, and could not be read: it is not asked again for this.
    store_failed: bool,
}

/// How often all are asked again when what they have lacks a write of this member: their answers may have crossed it.
const ROUNDS: u8 = 2;

impl Fetches {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// Reads an entry and notes the access.
    pub(crate) fn get(&mut self, now: Time, key: &[u8]) -> Get {
        self.at(now);
        let slot = slot_of(key);
        // What found no room here lately may be a later state of this very entry.
        let authority = self.knows_all(slot) && !self.is_behind(key);
        if let Some(held) = self.table.get(key) {
            let overdue = self.is_overdue(held);
            if held.is_alive() && !overdue && authority && held.away {
                // It is in use from now on, however long the store takes.
                self.accessed(key);
                return self.wait_for_store(key);
            }
            if held.is_alive() && !overdue && authority {
                let record = Arc::clone(&held.record);
                self.accessed(key);
                return Get::Here(record);
            }
            if !held.is_alive() && authority {
                return Get::Absent;
            }
        } else if authority && self.knows_of_all_but(&self.local, slot) && !self.is_meeting() {
            return Get::Absent;
        }
        self.fetch(key)
    }

    /// Reads what is here with all its values, without an access.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.table.get(key).filter(|held| held.is_alive() && !held.away).map(|held| &held.record)
    }

    fn fetch(&mut self, key: &[u8]) -> Get {
        let candidates = self.sources(slot_of(key));
        if candidates.is_empty() && self.is_behind(key) {
            // As at the end of a fetch that all have answered: what is here is what there is, and may be changed.
            self.give_up_written(key);
        }
        let crowded = self.fetches.asking.len() >= MAX_FETCHES;
        if candidates.is_empty() || crowded {
            if self.is_here_but_away(key) {
                return self.wait_for_store(key);
            }
            return match self.found_here(key) {
                Some(record) => Get::Here(record),
                None if candidates.is_empty() => Get::Absent,
                None => {
                    // Somebody may have it, and cannot be asked.
                    let ticket = self.number();
                    self.nobody_can_tell(ticket, Vec::new());
                    Get::Asking(ticket)
                }
            };
        }
        let ticket = self.number();
        self.ask_for(ticket, key, candidates, false);
        Get::Asking(ticket)
    }

    fn wait_for_store(&mut self, key: &[u8]) -> Get {
        let ticket = self.number();
        self.wait_for_store_as(ticket, key);
        Get::Asking(ticket)
    }

    /// The answer is in the store. When too much waits for it, nobody can tell.
    fn wait_for_store_as(&mut self, ticket: Ticket, key: &[u8]) {
        if !self.park(key, Parked::Get(ticket)) {
            self.nobody_can_tell(ticket, Vec::new());
        }
    }

    /// Others could not answer, but the store can, unless it was what could not.
    fn answer_from_store(&mut self, ticket: Ticket, fetch: Fetch) {
        if fetch.store_failed {
            self.nobody_can_tell(ticket, fetch.silent);
        } else {
            self.wait_for_store_as(ticket, &fetch.key);
        }
    }

    fn nobody_can_tell(&mut self, ticket: Ticket, silent: Vec<Member>) {
        self.outputs.push_back(Output::Fetched(ticket, Err(FetchFault { silent })));
    }

    /// Asks others for what the store should have had; when there is nobody to ask and the store may have it, nobody can tell.
    pub(super) fn fetch_instead(&mut self, ticket: Ticket, key: &[u8]) {
        let candidates = self.sources(slot_of(key));
        if candidates.is_empty() && self.is_away(key) {
            return self.nobody_can_tell(ticket, Vec::new());
        }
        self.ask_for(ticket, key, candidates, self.is_away(key));
    }

    fn ask_for(&mut self, ticket: Ticket, key: &[u8], candidates: Vec<Member>, store_failed: bool) {
        self.counters.fetched += 1;
        let fetch = Fetch {
            key: key.into(),
            left: candidates.into_iter().rev().collect(),
            silent: Vec::new(),
            failing: Vec::new(),
            retry_at: 0,
            deadline: self.in_millis(self.config.fetch_timeout),
            counted: self.counted(slot_of(key)),
            best: None,
            rounds: ROUNDS,
            unsure: false,
            twice: false,
            written: self.written_to(key),
            store_failed,
        };
        self.fetches.asking.insert(ticket, fetch);
        self.ask_next(ticket);
    }

    /// Who may hold a slot's entries: its holders, and those that were before members came that are not complete yet.
    pub(super) fn sources(&self, slot: u16) -> Vec<Member> {
        let ready = |member: &&Member| self.peers.phase_of(member).is_some_and(|phase| phase != Phase::Joining);
        let holders = self.holders_but_me(slot);
        let mut sources: Vec<Member> = holders.iter().filter(ready).cloned().collect();
        // Those that leave hand over what they hold: until then they have it.
        let order = self.placement.order(slot).into_iter().filter(|member| **member != self.local);
        let leaving = self.peers.present().filter(|(_, phase)| *phase == Phase::Leaving).map(|(member, _)| member);
        // One that is joining may have been written to.
        let joining = self.peers.present().filter(|(_, phase)| *phase == Phase::Joining).map(|(member, _)| member);
        // One that is here and has not said anything yet may have been written to by who has heard it.
        let unheard = self.unheard();
        let more = order.filter(ready).chain(leaving).chain(&holders).chain(joining).chain(unheard);
        for member in more {
            if !sources.contains(member) {
                sources.push(member.clone());
            }
        }
        sources
    }

    /// The entry that is here, if it is alive and not overdue.
    pub(super) fn found_here(&mut self, key: &[u8]) -> Option<Arc<Record>> {
        let held = self.table.get(key).filter(|held| held.is_alive() && !held.away && !self.is_overdue(held))?;
        let record = Arc::clone(&held.record);
        self.accessed(key);
        Some(record)
    }

    /// An answer that finds no room is one all the same, with what is here of the entry.
    fn unkept(&self, mut came: Entry) -> Option<Entry> {
        if self.is_away(&came.key) {
            return None;
        }
        if let Some(here) = self.whole(&came.key) {
            Arc::make_mut(&mut came.record).merge(Arc::unwrap_or_clone(here.record));
            came.idle = came.idle.min(here.idle);
        }
        (!is_expired(&came)).then_some(came)
    }

    /// What a read finds: what came and found no room, or what is here.
    fn found(&mut self, key: &[u8], unkept: Option<Arc<Record>>) -> Option<Arc<Record>> {
        let here = self.found_here(key);
        unkept.filter(|record| record.is_alive()).or(here)
    }

    fn ask_next(&mut self, ticket: Ticket) {
        let (deadline, retry_at) = match self.fetches.asking.get(&ticket) {
            Some(fetch) => (fetch.deadline, self.in_millis(self.config.fetch_retry).min(fetch.deadline)),
            None => return,
        };
        let Some(fetch) = self.fetches.asking.get_mut(&ticket) else { return };
        fetch.retry_at = retry_at;
        let due = retry_at.min(deadline);
        self.fetches.due = Some(self.fetches.due.map_or(due, |at| at.min(due)));
        match fetch.left.pop() {
            Some(member) => {
                fetch.silent.push(member.clone());
                let message = Message::Fetch { request: ticket, key: fetch.key.clone() };
                let heard = self.peers.phase_of(&member).is_some();
                let token = (!heard).then(|| self.track_fetch(ticket));
                self.send(vec![member], &message, token);
            }
            None if fetch.silent.is_empty() => self.fetch_ends(ticket),
            // Somebody may still answer.
            None => {}
        }
    }

    /// Nobody is left to be asked: what is here is what there is.
    fn fetch_ends(&mut self, ticket: Ticket) {
        let now = self.millis();
        let Some(mut fetch) = self.fetches.asking.remove(&ticket) else { return };
        let again = self.whom_to_ask_again(&mut fetch);
        let too_late = !again.is_empty() && now >= fetch.deadline;
        if !again.is_empty() && !too_late {
            fetch.left = again.into_iter().rev().collect();
            self.fetches.asking.insert(ticket, fetch);
            return self.ask_next(ticket);
        }
        let mut unkept = None;
        // What came may have found no room, or been let go of meanwhile. That it ended since is remembered.
        let gone = self.table.get(&fetch.key).is_none();
        let counts = |best: &Entry| gone && !self.lacks_written(&fetch.key, &best.record) || self.is_behind(&fetch.key);
        if let Some(best) = fetch.best.take_if(|best| counts(best)) {
            let taken = if gone { self.take_unnoticed(best.clone()) } else { self.take(best.clone()) };
            if taken == Taken::Full {
                unkept = self.unkept(best).map(|entry| entry.record);
            }
            self.handover_soon();
        }
        let behind = match &unkept {
            Some(record) => self.lacks_written(&fetch.key, record),
            None => self.is_behind(&fetch.key),
        };
        fetch.silent.append(&mut fetch.failing);
        // Who was to be asked again may have what the last answers lacked: they may have crossed the write, and do not show that it is lost.
        let all_heard = !too_late && fetch.silent.is_empty();
        if behind && !all_heard {
            return self.nobody_can_tell(ticket, fetch.silent);
        }
        if behind {
            self.give_up_written(&fetch.key);
        }
        if unkept.is_none() && self.is_here_but_away(&fetch.key) {
            return self.answer_from_store(ticket, fetch);
        }
        match self.found(&fetch.key, unkept) {
            None if !all_heard => self.nobody_can_tell(ticket, fetch.silent),
            found => self.outputs.push_back(Output::Fetched(ticket, Ok(found))),
        }
    }

    /// Whom a read asks once more that all have answered: because what they have lacks a write of this member, or because all have
    /// nothing, and what they had may have moved past the question. A write that came after they were asked last is worth another round.
    fn whom_to_ask_again(&self, fetch: &mut Fetch) -> Vec<Member> {
        if !fetch.silent.is_empty() || !fetch.failing.is_empty() {
            return Vec::new();
        }
        let lacks = |best: &Entry| self.lacks_written(&fetch.key, &best.record);
        if self.is_behind(&fetch.key) && fetch.best.as_ref().is_none_or(lacks) {
            let written = self.written_to(&fetch.key);
            if fetch.written != written {
                (fetch.written, fetch.rounds) = (written, fetch.rounds.max(1));
            }
            if fetch.rounds > 0 {
                fetch.rounds -= 1;
                return self.sources(slot_of(&fetch.key));
            }
        } else if fetch.unsure && !fetch.twice && fetch.best.is_none() {
            fetch.twice = true;
            return self.sources(slot_of(&fetch.key));
        }
        Vec::new()
    }

    pub(super) fn receive_fetch(&mut self, from: &Member, request: u64, key: &[u8]) {
        let slot = slot_of(key);
        if self.is_away(key) {
            self.park(key, Parked::Fetch { member: from.clone(), request });
            return;
        }
        self.counted_on(key);
        #[cfg(test)]
        let untold = self.config.flaws.reads_elsewhere_untold;
        #[cfg(not(test))]
        let untold = false;
        if !untold && self.table.get(key).is_some_and(|held| held.is_alive() && !self.is_overdue_elsewhere(held)) {
            // Who asks reads it for somebody, and lets go of its copy at once: here is where the access is remembered. Also when it is
            // overdue by what was accessed here: who is told late of that waits longer, and takes it for alive.
            self.accessed(key);
        }
        let answer = match self.whole(key) {
            Some(entry) => Found::Entry(Box::new(entry)),
            None if self.knows_of_all_but(from, slot) => Found::Absent,
            None => Found::Unsure,
        };
        self.send(vec![from.clone()], &Message::Fetched { request, answer }, None);
    }

    pub(super) fn receive_fetched(&mut self, from: &Member, request: u64, answer: Found) {
        let meeting = self.is_meeting() || self.has_just_come(from);
        let Some(key) = self.fetches.asking.get(&request).map(|fetch| fetch.key.clone()) else { return };
        let behind = self.is_behind(&key);
        let Some(fetch) = self.fetches.asking.get_mut(&request) else { return };
        let Some(at) = fetch.silent.iter().position(|member| member == from) else { return };
        let asked = fetch.silent.remove(at);
        if answer == Found::Unreadable {
            fetch.failing.push(asked);
        }
        fetch.unsure |= !matches!(answer, Found::Entry(_));
        let counted = fetch.counted;
        match answer {
            Found::Entry(entry) if entry.key == key => self.receive_found(from, request, counted, *entry),
            // A holder that has everything, and has been there for a while: what it lacks was let go of, or never was.
            Found::Absent if !meeting && !behind && self.placement.rank(slot_of(&key), from).is_some() => {
                fetch.left.clear();
                fetch.silent.clear();
                fetch.unsure = false;
                self.fetch_ends(request);
            }
            _ => self.ask_next(request),
        }
    }

    /// A member that was asked has the entry. How often its slot had been `counted` on here when it was asked: see `handover`.
    fn receive_found(&mut self, from: &Member, request: Ticket, counted: u32, entry: Entry) {
        let (key, fingerprint) = (entry.key.clone(), entry.record.fingerprint());
        let fresh = self.table.get(&key).is_none();
        let came = entry.clone();
        let late = came.record.is_alive() && is_expired(&came);
        // A copy to look at: nothing has happened to the entry.
        let taken = if fresh { self.take_unnoticed(entry) } else { self.take(entry) };
        let unkept = if taken == Taken::Full { self.unkept(came) } else { None };
        let slot = slot_of(&key);
        self.note_answer(from, &key, counted, fingerprint, fresh);
        self.handover_soon();
        // What is here may be let go of before all have answered.
        let here = if self.is_away(&key) { None } else { self.whole(&key) };
        let here = unkept.clone().or(here);
        let Some(fetch) = self.fetches.asking.get_mut(&request) else { return };
        debug_assert_eq!(fetch.key, key);
        let store_failed = fetch.store_failed;
        match (&mut fetch.best, here) {
            (Some(best), Some(here)) => {
                best.idle = best.idle.min(here.idle);
                Arc::make_mut(&mut best.record).merge(Arc::unwrap_or_clone(here.record));
            }
            (best @ None, here) => *best = here,
            (Some(_), None) => {}
        }
        let fetch = &*fetch;
        let holds = |member: &Member| self.placement.rank(slot, member).is_some();
        let joins = |member: &Member| holds(member) && self.peers.phase_of(member) == Some(Phase::Joining);
        let found = unkept.as_ref().map(|entry| &entry.record).or_else(|| Some(&self.table.get(&key)?.record));
        let early = if found.is_none_or(|record| !record.is_alive()) {
            // It may have begun anew at one that joins, and who wrote it may be dead.
            fetch.left.iter().chain(&fetch.silent).any(joins)
        } else {
            !holds(from) && fetch.silent.iter().any(holds)
        };
        let behind = match &unkept {
            Some(entry) => self.lacks_written(&key, &entry.record),
            None => self.is_behind(&key),
        };
        let overdue = unkept.is_none() && self.table.get(&key).map_or(late, |held| held.is_alive() && self.is_overdue(held));
        let unread = unkept.is_none() && store_failed && self.is_here_but_away(&key);
        if early || behind || overdue || unread {
            // A holder that has not answered yet may know of a later write, or of the end; somebody has what this member
            // wrote; one holder may not have heard of a use that others know of; and what came may not be what the store has.
            return self.ask_next(request);
        }
        let Some(fetch) = self.fetches.asking.remove(&request) else { return };
        if self.is_here_but_away(&fetch.key) {
            return self.answer_from_store(request, fetch);
        }
        let found = self.found(&fetch.key, unkept.map(|entry| entry.record));
        self.outputs.push_back(Output::Fetched(request, Ok(found)));
    }

    /// Notes who has what came, if that is what is here now; `fresh` when nothing was here before.
    fn note_answer(&mut self, from: &Member, key: &[u8], counted: u32, fingerprint: u64, fresh: bool) {
        let slot = slot_of(key);
        let copies = match self.placement.rank(slot, from) {
            // A copy to look at, of what its holders have: nothing to hand over.
            Some(_) if fresh && self.placement.rank(slot, &self.local).is_none() => self.others_mask(slot),
            // Others may count on the copy that was here: one holder has it, and that is all that is known. It is let go of later: it
            // is the answer.
            Some(position) if !fresh && counted == self.counted(slot) => super::bit(position),
            _ => 0,
        };
        let now = self.millis();
        self.table.note(key, |held| {
            if fresh {
                // Who answers has noted this read, and tells of it; what was overdue there is so here, and is asked for elsewhere.
                held.tell(now);
            }
            if held.fingerprint == fingerprint {
                held.copies |= copies;
            }
        });
    }

    /// Who was asked does not have this context, and so no entry.
    pub(super) fn fetch_refused(&mut self, ticket: Ticket, by: &Member) {
        let Some(fetch) = self.fetches.asking.get_mut(&ticket) else { return };
        fetch.silent.retain(|silent| silent != by);
        self.ask_next(ticket);
    }

    pub(super) fn fetches_lost(&mut self, member: &Member) {
        let mut waiting = Vec::new();
        for (ticket, fetch) in &mut self.fetches.asking {
            fetch.left.retain(|listed| listed != member);
            fetch.failing.retain(|listed| listed != member);
            let before = fetch.silent.len();
            fetch.silent.retain(|listed| listed != member);
            if before != fetch.silent.len() {
                // It may have handed over what it had.
                fetch.unsure = true;
                waiting.push(*ticket);
            }
        }
        waiting.into_iter().for_each(|ticket| self.ask_next(ticket));
    }

    pub(super) fn fetches_timeout(&mut self) {
        let now = self.millis();
        if self.fetches.due.is_none_or(|due| due > now) {
            return;
        }
        let over: Vec<_> =
            self.fetches.asking.iter().filter(|(_, fetch)| fetch.deadline <= now).map(|(ticket, _)| *ticket).collect();
        over.into_iter().for_each(|ticket| self.fetch_ends(ticket));
        let slow: Vec<_> =
            self.fetches.asking.iter().filter(|(_, fetch)| fetch.retry_at <= now).map(|(ticket, _)| *ticket).collect();
        slow.into_iter().for_each(|ticket| self.ask_next(ticket));
        self.fetches.due = self.fetches.asking.values().map(|fetch| fetch.retry_at.min(fetch.deadline)).min();
    }
}

/// Whether an entry that has come was not accessed for longer than its lease.
fn is_expired(entry: &Entry) -> bool {
    let lease = entry.record.lease.millis;
    lease > 0 && entry.idle >= lease
}
