//! Who takes part: which members have this context, and in which phase each is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::message::{Hello, Message, Phase};
use super::placement::{Candidate, Placement, Site};
use super::table::SLOTS;
use super::{Copies, Engine, Output, Token};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::stack::Time;

/// A hello that got no answer is said again after so many milliseconds.
const HELLO_RETRY: u64 = 500;
/// Members that have not answered for so long are not waited for any more.
const HELLO_PATIENCE: u64 = 2_000;
/// For so many milliseconds after two complete members have met, what is missing with one is asked of others.
const MEETING: u64 = 5_000;
/// Hellos of members that the channel does not show yet are kept, as many as this.
const MAX_STRANGERS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<UniqueId, Peer>,
    phase: Option<Phase>,
    /// The next hello that is due to be said again.
    due: Option<u64>,
    /// Those that have left the context and come back, and what was sent first after that.
    back: Vec<(UniqueId, Token)>,
    /// When a member was met that is complete itself, and may have entries that nobody here knows of.
    met: Option<u64>,
}

#[derive(Debug)]
struct Peer {
    member: Member,
    /// Whether the channel shows it.
    in_view: bool,
    /// What it said last; `None` while it has said nothing.
    phase: Option<Phase>,
    /// In which of its lives.
    life: u64,
    /// Whether it refused our hello: it does not have this context.
    without: bool,
    /// How many others it knows that take part, beside this member.
    others: u32,
    /// When to say hello again, while it has not taken the last one.
    retry: Option<u64>,
    /// The last hello: that an earlier one was taken says nothing about what has changed since.
    hello: Option<Token>,
    added: u64,
    /// How far its wall clock was apart from ours when it was last heard, in milliseconds; the way of the message is in it.
    skew: u64,
}

impl Peers {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Where this member stands.
    pub(super) fn phase(&self) -> Phase {
        self.phase.unwrap_or(Phase::Joining)
    }

    /// The others that have this context and are there.
    pub(super) fn present(&self) -> impl Iterator<Item = (&Member, Phase)> {
        self.known.values().filter(|peer| peer.in_view).filter_map(|peer| Some((&peer.member, peer.phase?)))
    }

    /// Whether a member that is complete knows of nobody who takes part and is not here yet.
    pub(super) fn are_all_here(&self) -> bool {
        let present = self.present().count();
        let known = |peer: &Peer| usize::try_from(peer.others).unwrap_or(usize::MAX).saturating_add(1);
        let complete = self.known.values().filter(|peer| peer.in_view && peer.phase.is_some_and(|phase| phase != Phase::Joining));
        complete.map(known).max().is_some_and(|most| most <= present)
    }

    /// When the last of the others came.
    pub(super) fn newest(&self) -> u64 {
        self.known.values().filter(|peer| peer.in_view).map(|peer| peer.added).max().unwrap_or(0)
    }

    /// Whether a member has left the context and come back since this was sent.
    pub(super) fn came_back_since(&self, member: &Member, token: Token) -> bool {
        self.back.iter().any(|(id, first)| *id == member.id() && token < *first)
    }

    /// The phase of another member, when it takes part.
    pub(super) fn phase_of(&self, member: &Member) -> Option<Phase> {
        self.known.get(&member.id()).filter(|peer| peer.in_view && peer.member == *member)?.phase
    }

    /// Another member's wall clock, as it was when it sent, beside ours.
    pub(super) fn heard_clock(&mut self, from: &Member, ours: u64, theirs: u64) {
        if let Some(peer) = self.known.get_mut(&from.id()) {
            peer.skew = ours.abs_diff(theirs);
        }
    }

    fn skew(&self) -> u64 {
        self.known.values().filter(|peer| peer.in_view).map(|peer| peer.skew).max().unwrap_or(0)
    }
}

impl Engine {
    /// The channel shows a member.
    pub(crate) fn member_added(&mut self, now: Time, member: &Member) {
        self.at(now);
        let understands = member.capabilities() != Capabilities::NONE || member.is_placeholder();
        if !understands || *member == self.local {
            // A Tribes node holds nothing. Whoever is behind a placeholder is asked: its answer tells who it is, and the placeholder itself
            // never takes part.
            return;
        }
        let millis = self.millis();
        let peer = self.peers.known.entry(member.id()).or_insert_with(|| Peer::new(member.clone()));
        peer.member = member.clone();
        peer.in_view = true;
        peer.without = false;
        peer.added = millis;
        let known = peer.phase.is_some();
        self.hello(member, true);
        if known {
            self.place();
            self.repair_soon(member);
        }
    }

    /// A member tells other things about itself.
    pub(crate) fn member_updated(&mut self, now: Time, member: &Member) {
        self.at(now);
        if let Some(peer) = self.peers.known.get_mut(&member.id()) {
            peer.member = member.clone();
            self.place();
        }
    }

    /// The channel shows a member no more.
    pub(crate) fn member_removed(&mut self, now: Time, member: &Member) {
        self.at(now);
        if self.peers.known.remove(&member.id()).is_some() {
            self.peers.back.retain(|(id, _)| *id != member.id());
            self.peer_lost(member);
        }
    }

    /// Nobody is there any more who could answer for what this member was sent, or has said.
    fn peer_lost(&mut self, member: &Member) {
        self.place();
        self.commits_lost(member);
        self.fetches_lost(member);
        self.swaps_lost(member);
        self.transfer_lost(member);
        self.repair_lost(member);
        self.expiry_lost(member);
    }

    /// This member tells other things about itself.
    pub(crate) fn set_local(&mut self, now: Time, local: &Member) {
        self.at(now);
        self.local = local.clone();
        self.place();
    }

    #[cfg(test)]
    pub(crate) fn phase(&self) -> Phase {
        self.peers.phase()
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if self.peers.phase() >= phase && self.peers.phase.is_some() {
            return;
        }
        self.peers.phase = Some(phase);
        let others = self.peers.known.values().filter(|peer| peer.in_view).map(|peer| peer.member.clone());
        // Whoever has taken a hello for a placeholder and is still not known by its own name does not care.
        let others: Vec<_> = others.filter(|member| !member.is_placeholder()).collect();
        others.iter().for_each(|member| self.hello(member, false));
        if phase == Phase::Ready {
            self.outputs.push_back(Output::Ready);
        }
        self.place();
    }

    /// Whether every member that might have this context has said what it is, or has had its time to.
    pub(super) fn all_heard(&self) -> bool {
        self.heard_by().is_none()
    }

    /// When all will have had their time to say what they are, if some still have.
    pub(super) fn heard_by(&self) -> Option<u64> {
        let now = self.millis();
        let silent = self.peers.known.values().filter(|peer| peer.in_view && peer.phase.is_none() && !peer.without);
        silent.map(|peer| peer.added + HELLO_PATIENCE).filter(|at| *at > now).max()
    }

    /// Members that the channel shows, and that have not had the time to say that they take part. One that has refused a hello may have
    /// entered the context since, and others may have heard of it already.
    pub(super) fn unheard(&self) -> impl Iterator<Item = &Member> {
        let now = self.millis();
        let unheard = move |peer: &&Peer| {
            peer.in_view && peer.phase.is_none() && !peer.member.is_placeholder() && now < peer.added + HELLO_PATIENCE
        };
        self.peers.known.values().filter(unheard).map(|peer| &peer.member)
    }

    /// Whether two parts of the group have just met, at the end of a partition or of a slow discovery. What is not here may be there, until
    /// the parts have compared what they have.
    pub(super) fn is_meeting(&self) -> bool {
        self.peers.met.is_some_and(|at| self.millis() < at + MEETING)
    }

    /// Whether a member has come into view a short while ago: it may not have seen yet who was there before it, and have nothing of what
    /// they hold.
    pub(super) fn has_just_come(&self, member: &Member) -> bool {
        self.peers.known.get(&member.id()).is_some_and(|peer| self.millis() < peer.added + MEETING)
    }

    /// How many copies this member keeps, as a hello tells it.
    fn copies_told(&self) -> u32 {
        match self.config.copies {
            Copies::Everywhere => u32::MAX,
            Copies::Backups(backups) => u32::try_from(backups).unwrap_or(u32::MAX - 1),
        }
    }

    fn hello(&mut self, member: &Member, answer: bool) {
        let copies = self.copies_told();
        let others = self.peers.present().filter(|(other, _)| *other != member).count();
        let mut hello = Hello {
            phase: self.peers.phase(),
            epoch_millis: self.now.epoch_millis,
            answer,
            copies,
            life: self.config.life,
            others: u32::try_from(others).unwrap_or(u32::MAX),
        };
        let retry = self.millis() + HELLO_RETRY;
        if let Some(peer) = self.peers.known.get_mut(&member.id()) {
            peer.retry = Some(retry);
            // This one may overtake one that asked, and stands for it.
            hello.answer |= peer.phase.is_none();
        }
        self.peers.due = Some(self.peers.due.map_or(retry, |due| due.min(retry)));
        let token = self.track_hello();
        if let Some(peer) = self.peers.known.get_mut(&member.id()) {
            peer.hello = Some(token);
        }
        self.send(vec![member.clone()], &Message::Hello(hello), Some(token));
    }

    /// What became of a hello.
    pub(super) fn hello_sent(&mut self, token: Token, member: &Member, outcome: super::Outcome) {
        let Some(peer) = self.peers.known.get_mut(&member.id()) else { return };
        match outcome {
            super::Outcome::Accepted if peer.hello == Some(token) => peer.retry = None,
            super::Outcome::Accepted => {}
            super::Outcome::Rejected => {
                // It does not have this context; when it gets it, it will say hello itself.
                peer.retry = None;
                peer.without = peer.phase.is_none();
            }
            super::Outcome::Failed => return,
        }
        self.transfer_peers_changed();
    }

    pub(super) fn receive_hello(&mut self, from: &Member, hello: &Hello) {
        if from.is_placeholder() {
            // Nobody is called so.
            return;
        }
        let strangers = self.peers.known.values().filter(|peer| !peer.in_view).count();
        let peer = match self.peers.known.entry(from.id()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if strangers >= MAX_STRANGERS => return,
            Entry::Vacant(place) => place.insert(Peer::new(from.clone())),
        };
        if hello.life < peer.life {
            return;
        }
        peer.skew = self.now.epoch_millis.abs_diff(hello.epoch_millis);
        if hello.life > peer.life {
            peer.life = hello.life;
            if peer.phase.take().is_some() {
                // It has left the context and come back, with nothing of what it had.
                let first = self.number();
                self.peers.back.retain(|(id, _)| *id != from.id());
                self.peers.back.push((from.id(), first));
                self.peer_lost(from);
            }
        }
        let Some(peer) = self.peers.known.get_mut(&from.id()) else { return };
        // Hellos may overtake each other; a life only goes on.
        let phase = peer.phase.map_or(hello.phase, |before| before.max(hello.phase));
        let before = peer.phase.replace(phase);
        (peer.without, peer.others) = (false, hello.others);
        if before.is_none() && hello.copies != self.copies_told() {
            self.outputs.push_back(Output::CopiesDiffer(from.clone()));
        }
        let Some(peer) = self.peers.known.get_mut(&from.id()) else { return };
        let in_view = peer.in_view;
        if hello.answer {
            self.hello(from, false);
        }
        if before.is_none() && hello.phase == Phase::Ready && self.transfer_begun() {
            self.peers.met = Some(self.millis());
        }
        if in_view && before != Some(phase) {
            self.place();
            self.repair_soon(from);
        }
        self.transfer_peers_changed();
    }

    pub(super) fn peers_timeout(&mut self) {
        let now = self.millis();
        if self.peers.due.is_none_or(|due| due > now) {
            return;
        }
        self.peers.due = None;
        let silent = self.peers.known.values().filter(|peer| peer.in_view && peer.retry.is_some_and(|at| at <= now));
        let silent: Vec<_> = silent.map(|peer| peer.member.clone()).collect();
        silent.iter().for_each(|member| self.hello(member, true));
        let next = self.peers.known.values().filter(|peer| peer.in_view).filter_map(|peer| peer.retry).min();
        self.peers.due = next;
        self.transfer_peers_changed();
    }

    /// Places all slots anew, and tells what follows from it.
    pub(super) fn place(&mut self) {
        let leaving = self.peers.phase() == Phase::Leaving;
        let others = self.peers.present().filter(|(_, phase)| *phase != Phase::Leaving).map(|(member, _)| member.clone());
        let members: Vec<_> = others.chain((!leaving).then(|| self.local.clone())).collect();
        let candidates = members.into_iter().map(|member| Candidate { site: Site::of(&member), member }).collect();
        let placement = Placement::new(candidates, self.config.copies);
        let old = std::mem::replace(&mut self.placement, placement);
        for slot in 0..SLOTS {
            let same = old.holding(slot).eq(self.placement.holding(slot));
            if !same || old.members().is_empty() {
                self.slot_moved(&old, slot);
            }
        }
        self.commits_placed();
        self.transfer_peers_changed();
        self.handover_soon();
    }

    fn slot_moved(&mut self, old: &Placement, slot: u16) {
        // Positions of the old holders, by those of the new ones.
        let moved: Vec<_> = self.placement.holding(slot).map(|member| old.rank(slot, member)).collect();
        let remap = |bits: u32| {
            let kept = moved.iter().enumerate().filter(|(_, from)| from.is_some_and(|from| from < 32 && bits >> from & 1 == 1));
            kept.filter(|(at, _)| *at < 32).fold(0, |bits, (at, _)| bits | 1 << at)
        };
        let held = old.rank(slot, &self.local).is_some();
        let holds = self.placement.rank(slot, &self.local).is_some();
        self.table.note_all(slot, |_, entry| entry.copies = remap(entry.copies));
        let state = &mut self.slots[usize::from(slot)];
        (state.agreed, state.met) = (remap(state.agreed), remap(state.met));
        if holds && !held {
            (state.complete, state.former, state.lacks, state.met) = (false, false, None, 0);
            self.transfer_gained(slot);
        } else if !holds {
            state.former = held && state.complete || !held && state.former;
            state.complete = false;
            state.differs_since = None;
            if held {
                self.transfer_dropped(slot);
                // As a holder it was counted on, and told the others of accesses now and then.
                self.slot_counted_on(slot);
                self.stamp_accesses(slot);
            }
        }
        if self.others_mask(slot) == 0 {
            // Nobody is left to differ with.
            self.slots[usize::from(slot)].differs_since = None;
        }
        if holds {
            self.repair_slot_soon(slot);
        }
    }
}

impl Peer {
    fn new(member: Member) -> Self {
        Self {
            member,
            in_view: false,
            phase: None,
            life: 0,
            without: false,
            others: 0,
            retry: None,
            hello: None,
            added: 0,
            skew: 0,
        }
    }
}

/// For tests and statistics.
impl Engine {
    /// The ids of those who take part.
    #[cfg(test)]
    pub(crate) fn participants(&self) -> Vec<UniqueId> {
        self.peers.present().map(|(member, _)| member.id()).collect()
    }

    /// The furthest that another member's wall clock is apart from this one's, as last heard, or that a version was ahead of it.
    pub(crate) fn clock_skew(&self) -> std::time::Duration {
        let by_hello = std::time::Duration::from_millis(self.peers.skew());
        by_hello.max(self.clock.furthest_ahead())
    }
}
