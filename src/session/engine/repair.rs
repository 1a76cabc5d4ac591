//! Comparing digests with the other holders, and sending what differs.
//!
//! Two members that hold slots together compare one number over all of them; only when it differs one for each slot; only for slots that
//! differ one for each entry; and only entries that differ are sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Engine;
#[cfg(test)]
use super::config::Config;
use super::delivery::Sent;
use super::message::{Message, Offered, Phase, Touch};
use super::table::{Key, SLOTS, SlotId};
#[cfg(test)]
use super::transfer::MAX_STRAIN;
use crate::id::{UniqueId, mix};
use crate::member::Member;

/// Set in the round of an answer.
const ANSWER: u32 = 1 << 31;
/// Slots of one peer whose entries are being compared at once.
const MAX_OFFERS: usize = 8;
/// An offer that was not answered by then is forgotten, in milliseconds.
const OFFER_LIFE: u64 = 2_000;
/// A difference that was just found or made is looked at after so many milliseconds, and then less and less often.
const SOON: u64 = 100;
/// When no change has come for so many milliseconds, the other holders are asked whether they have them all.
const QUIET: u64 = 500;

#[derive(Debug, Default)]
pub(super) struct Repair {
    peers: BTreeMap<UniqueId, Comparison>,
    offers: BTreeMap<u32, Offer>,
    next_offer: u32,
    round: u32,
    due: Option<u64>,
    /// When all are compared with although nothing is known to be wrong: changes have come, and nobody says who else has them.
    quiet_at: Option<u64>,
}

/// Where the comparison with one peer stands.
#[derive(Debug)]
struct Comparison {
    member: Member,
    next_at: u64,
    /// How long the next hurried look is put off.
    backoff: u64,
    /// Slots that differ.
    differing: VecDeque<SlotId>,
}

#[derive(Debug)]
struct Offer {
    to: Member,
    slot: SlotId,
    entries: Vec<Sent>,
    deadline: u64,
}

impl Repair {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    pub(super) fn is_offered(&self, slot: SlotId, to: &Member) -> bool {
        self.offers.values().any(|offer| offer.slot == slot && offer.to == *to)
    }

    pub(super) fn under_way(&self) -> usize {
        self.offers.len()
    }
}

impl Engine {
    /// Compare with this member as soon as possible: it has just come.
    pub(super) fn repair_soon(&mut self, member: &Member) {
        let at = self.millis() + SOON;
        self.compare_at(member, at);
    }

    fn compare_at(&mut self, member: &Member, at: u64) {
        let comparison = self.repair.peers.entry(member.id()).or_insert_with(|| Comparison {
            member: member.clone(),
            next_at: u64::MAX,
            backoff: SOON,
            differing: VecDeque::new(),
        });
        comparison.next_at = comparison.next_at.min(at);
        self.repair.due = Some(self.repair.due.map_or(at, |due| due.min(at)));
    }

    /// Compare this slot with its other holders as soon as possible: they are others now.
    pub(super) fn repair_slot_soon(&mut self, slot: SlotId) {
        for holder in self.holders_but_me(slot) {
            self.repair_soon(&holder);
        }
    }

    /// A change has come of which this member does not know who else has it. While changes come, the interval must do.
    pub(super) fn repair_when_quiet(&mut self, slot: SlotId) {
        if self.placement.rank(slot, &self.local).is_some() {
            let at = self.millis() + QUIET;
            self.repair.quiet_at = Some(at);
            self.repair.due = Some(self.repair.due.map_or(at, |due| due.min(at)));
        }
    }

    /// Something did not get to this member: the slot differs.
    pub(super) fn disagree(&mut self, slot: SlotId, member: &Member) {
        let Some(position) = self.placement.rank(slot, member) else { return };
        let now = self.millis();
        let state = &mut self.slots[usize::from(slot)];
        state.agreed &= !super::bit(position);
        state.differs_since.get_or_insert(now);
        let interval = millis(self.config.repair_interval);
        let backoff = match self.repair.peers.get_mut(&member.id()) {
            Some(comparison) => {
                let backoff = comparison.backoff;
                if comparison.next_at > now + backoff {
                    comparison.backoff = (backoff * 2).min(interval);
                }
                backoff
            }
            None => SOON,
        };
        self.compare_at(member, now + backoff);
    }

    pub(super) fn repair_lost(&mut self, member: &Member) {
        self.repair.peers.remove(&member.id());
        self.repair.offers.retain(|_, offer| offer.to != *member);
    }

    /// The slots that both hold, as far as this member has them.
    fn common(&self, member: &Member) -> Vec<SlotId> {
        let both = |slot: &SlotId| {
            self.slots[usize::from(*slot)].complete
                && self.placement.rank(*slot, &self.local).is_some()
                && self.placement.rank(*slot, member).is_some()
        };
        (0..SLOTS).filter(both).collect()
    }

    fn root(&self, slots: &[SlotId]) -> u64 {
        slots.iter().fold(0, |root, slot| root ^ mix(self.table.slot(*slot).digest() ^ mix(u64::from(*slot))))
    }

    fn digests(&mut self, to: &Member, round: u32, root: u64, slots: Vec<(SlotId, u64)>) {
        let message = Message::Digests { round, epoch_millis: self.now.epoch_millis, root, slots };
        self.send(vec![to.clone()], &message, None);
    }

    pub(super) fn receive_digests(&mut self, from: &Member, round: u32, epoch_millis: u64, root: u64, slots: &[(SlotId, u64)]) {
        self.peers.heard_clock(from, self.now.epoch_millis, epoch_millis);
        if self.peers.phase_of(from).is_none() {
            return;
        }
        let common = self.common(from);
        let ours = self.root(&common);
        if slots.is_empty() {
            if ours == root {
                common.iter().for_each(|slot| self.agree(*slot, from));
                self.calm(from);
                if round & ANSWER == 0 {
                    self.digests(from, round | ANSWER, ours, Vec::new());
                }
            } else if round & ANSWER == 0 {
                let list = common.iter().map(|slot| (*slot, self.table.slot(*slot).digest())).collect();
                self.digests(from, round | ANSWER, ours, list);
            }
            return;
        }
        let mut differing = VecDeque::new();
        for (slot, digest) in slots {
            if common.binary_search(slot).is_err() {
                continue;
            }
            if self.table.slot(*slot).digest() == *digest {
                self.agree(*slot, from);
            } else {
                let now = self.millis();
                let mark = self.placement.rank(*slot, from).map_or(0, super::bit);
                let state = &mut self.slots[usize::from(*slot)];
                state.agreed &= !mark;
                state.differs_since.get_or_insert(now);
                differing.push_back(*slot);
            }
        }
        let interval = millis(self.config.repair_interval);
        if let Some(comparison) = self.repair.peers.get_mut(&from.id()) {
            if !differing.is_empty() {
                // What was sent the last time did not help, or not yet.
                comparison.backoff = (comparison.backoff * 2).min(interval);
            }
            comparison.differing = differing;
        }
        self.offer_differing(from);
    }

    fn calm(&mut self, member: &Member) {
        if let Some(comparison) = self.repair.peers.get_mut(&member.id()) {
            comparison.backoff = SOON;
        }
    }

    fn offer_differing(&mut self, to: &Member) {
        while self.repair.offers.values().filter(|offer| offer.to == *to).count() < MAX_OFFERS {
            let Some(slot) = self.repair.peers.get_mut(&to.id()).and_then(|comparison| comparison.differing.pop_front()) else {
                return;
            };
            self.offer(slot, to);
        }
        // What is left, and what changes by all this, is looked at again soon; less and less so, where it changes nothing.
        let backoff = self.repair.peers.get(&to.id()).map_or(SOON, |comparison| comparison.backoff);
        let again = self.millis() + backoff;
        self.compare_at(to, again);
    }

    /// Tells a member what is in a slot here.
    pub(super) fn offer(&mut self, slot: SlotId, to: &Member) {
        let listed = self.table.slot(slot).iter().map(|(key, held)| Offered {
            key: key.clone(),
            fingerprint: held.fingerprint,
            touched: held.record.touched,
        });
        let entries: Vec<_> = listed.collect();
        let counted = self.counted(slot);
        let sent =
            entries.iter().map(|offered| Sent { key: offered.key.clone(), slot, fingerprint: offered.fingerprint, counted });
        let sent = sent.collect();
        self.repair.next_offer = self.repair.next_offer.wrapping_add(1);
        let offer = self.repair.next_offer;
        let deadline = self.millis() + OFFER_LIFE;
        self.repair.offers.insert(offer, Offer { to: to.clone(), slot, entries: sent, deadline });
        self.repair.due = Some(self.repair.due.map_or(deadline, |due| due.min(deadline)));
        self.send(vec![to.clone()], &Message::Offer { offer, slot, entries }, None);
    }

    pub(super) fn receive_offer(&mut self, from: &Member, offer: u32, slot: SlotId, entries: &[Offered]) {
        if self.is_leaving() {
            // An answer would say that this member has what it does not ask for, and it takes nothing new.
            return;
        }
        let now = self.millis();
        let shared = self.placement.rank(slot, from).is_some();
        let complete = self.slots[usize::from(slot)].complete;
        let (mut want, mut give, mut touches) = (Vec::new(), Vec::new(), Vec::new());
        for offered in entries.iter().filter(|offered| super::slot_of(&offered.key) == slot) {
            match self.table.get(&offered.key) {
                None => want.push(offered.key.clone()),
                Some(held) if held.fingerprint != offered.fingerprint => {
                    want.push(offered.key.clone());
                    give.push(offered.key.clone());
                }
                Some(held) if held.record.touched < offered.touched => want.push(offered.key.clone()),
                Some(held) if held.record.touched > offered.touched => {
                    touches.push(Touch { key: offered.key.clone(), touched: held.record.touched, idle: held.idle(now) })
                }
                Some(_) => {}
            }
        }
        self.slot_counted_on(slot);
        if shared && complete {
            let theirs: std::collections::HashSet<&[u8]> = entries.iter().map(|offered| &*offered.key).collect();
            give.extend(self.table.slot(slot).iter().map(|(key, _)| key).filter(|key| !theirs.contains(&***key)).cloned());
        }
        self.counters.repaired += (want.len() + if shared { give.len() } else { 0 }) as u64;
        self.send(vec![from.clone()], &Message::Want { offer, keys: want }, None);
        if shared {
            self.put_whole(from, give, None);
            if !touches.is_empty() {
                self.send(vec![from.clone()], &Message::Touch(touches), None);
            }
        }
    }

    pub(super) fn receive_want(&mut self, from: &Member, offer: u32, keys: &[Key]) {
        if self.repair.offers.get(&offer).is_none_or(|offer| offer.to != *from) {
            return;
        }
        let Some(offer) = self.repair.offers.remove(&offer) else { return };
        let slot = offer.slot;
        let wanted: std::collections::HashSet<&[u8]> = keys.iter().map(|key| &**key).collect();
        let (give, have): (Vec<_>, Vec<_>) = offer.entries.into_iter().partition(|sent| wanted.contains(&*sent.key));
        have.iter().for_each(|sent| self.confirmed(sent, from));
        self.put_whole(from, give.into_iter().map(|sent| sent.key), None);
        self.handover_answered(slot);
        self.offer_differing(from);
    }

    pub(super) fn repair_timeout(&mut self) {
        let now = self.millis();
        if self.repair.due.is_none_or(|due| due > now) {
            return;
        }
        self.repair.offers.retain(|_, offer| offer.deadline > now);
        #[cfg(test)]
        if self.config.flaws.skip_repair {
            self.repair.due = None;
            return;
        }
        let quiet = self.repair.quiet_at.is_some_and(|at| at <= now);
        if quiet {
            self.repair.quiet_at = None;
        }
        let interval = millis(self.config.repair_interval);
        let mut due: Vec<_> = self.repair.peers.values_mut().filter(|comparison| quiet || comparison.next_at <= now).collect();
        // Not all at one moment: each pair has a share of the interval of its own.
        for comparison in &mut due {
            let spread = mix(comparison.member.id().as_bytes()[8..].iter().fold(now, |sum, byte| mix(sum ^ u64::from(*byte))));
            comparison.next_at = now + interval - interval / 8 + spread % (interval / 4).max(1);
        }
        let mut due: Vec<_> = due.into_iter().map(|comparison| comparison.member.clone()).collect();
        due.sort_by_key(|member| member.address());
        for member in due {
            // One that is joining pulls; comparing begins when it is complete.
            if matches!(self.peers.phase_of(&member), Some(Phase::Ready)) {
                let common = self.common(&member);
                if !common.is_empty() {
                    self.repair.round = (self.repair.round + 1) & !ANSWER;
                    let (round, root) = (self.repair.round, self.root(&common));
                    self.digests(&member, round, root, Vec::new());
                }
            }
        }
        let offers = self.repair.offers.values().map(|offer| offer.deadline);
        let next =
            self.repair.peers.values().map(|comparison| comparison.next_at).chain(offers).chain(self.repair.quiet_at).min();
        self.repair.due = next;
    }

    /// How long the oldest difference with another holder is known and not repaired.
    pub(crate) fn oldest_difference(&self) -> Option<Duration> {
        let since = self.slots.iter().filter_map(|slot| slot.differs_since).min()?;
        Some(Duration::from_millis(self.millis().saturating_sub(since)))
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).max(1)
}

/// After the last fault, all members of a group that see each other are equal within this time: views that settle, a hello that is
/// said again, slots that move, two rounds of comparing (one may be under way with old contents), and the sweep that lets go of guests.
#[cfg(test)]
pub(crate) fn convergence_bound(config: &Config, members: usize) -> Duration {
    // Each member is asked twice at most, with patience; a request from before the end of the faults may have been made with the most.
    let transfers = config.pull_timeout * (u32::try_from(members).unwrap_or(u32::MAX / 2) * 2 + (1 << MAX_STRAIN));
    Duration::from_secs(5) + transfers + config.repair_interval * 4 + config.commit_timeout + config.expiry_interval
}
