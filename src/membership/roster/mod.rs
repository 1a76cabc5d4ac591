//! Who was heard when, and when to be heard: the protocol of [`Multicast`](super::multicast::Multicast) without its socket.
//!
//! A roster is a value. It is told what came in and what time it is; it says what changed, when to send a heartbeat of the local
//! member, and when it wants to be called next. The multicast thread drives one with a socket, the simulator with a clock of its
//! own:
//!
//! ```
//! use std::time::{Duration, Instant};
//! use tribes::membership::Mode;
//! use tribes::membership::roster::{Output, Roster, RosterConfig};
//! use tribes::stack::{Departure, Event};
//! use tribes::{Member, wire::member_package};
//!
//! let start = Instant::now();
//! let mut roster = Roster::new(Member::new("10.0.0.1:4000".parse()?), Mode::Full, RosterConfig::default(), start);
//! roster.handle_timeout(start);
//! assert_eq!(roster.poll_output(), Some(Output::Heartbeat), "the first one goes out at once");
//!
//! let other = Member::new("10.0.0.2:4000".parse()?);
//! roster.handle_datagram(start, &member_package::package(&other))?;
//! assert_eq!(roster.poll_output(), Some(Output::Event(Event::Added(other.clone()))));
//!
//! roster.handle_datagram(start + Duration::from_secs(1), &member_package::package(&other.leaving()))?;
//! assert_eq!(roster.poll_output(), Some(Output::Event(Event::Removed(other, Departure::Left))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
#[cfg(test)]
mod tests;

pub use config::RosterConfig;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Mode;
use crate::id::{UniqueId, mix};
use crate::member::Member;
use crate::stack::{Departure, Event};
use crate::wire::{WireError, member_package};

/// The gaps between the first heartbeats after the start: one lost datagram must not cost a newcomer a whole period.
const FIRST_GAPS: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(75)];
/// Answers to newcomers keep this distance from the heartbeat before, so forged newcomers cannot make us flood the group.
const ANSWER_GAP: Duration = Duration::from_millis(25);
/// Above this many members, answers to a newcomer are spread out, this far per member: all at once would overrun its socket.
const PROMPT_MEMBERS: usize = 16;
const SPREAD_PER_MEMBER: Duration = Duration::from_micros(500);

/// The members that were heard, as a state machine without I/O; see the [module](self).
///
/// After any `handle_` method, take what [`poll_output`](Self::poll_output) gives until it is empty, and call
/// [`handle_timeout`](Self::handle_timeout) when the time of [`poll_timeout`](Self::poll_timeout) has come, after reading what
/// the network has: what arrived in time must not be found late.
///
/// What the rules are:
///
/// - A member is added by its first heartbeat, removed by its goodbye (left) or by silence of the drop time (failed). Goodbyes
///   are not authenticated, as in Tribes: a forged one cannot be told from a real one, and the member's next heartbeat after the
///   [grace](RosterConfig::rejoin_grace) brings it back.
/// - A new id at a known address is a restart: the old member failed, the new one is added. As long as the new one is heard, the
///   old one is refused: two processes that claim one address must not make the group flap.
/// - A known id at another address is refused until its holder is gone, so an id names one member.
/// - What carries the local id is ignored; so is any other member at the local address, unless the roster only observes.
/// - When this process itself did not run for long (stopped, or its machine paused), every member gets one and a half periods to
///   be heard before it can expire.
#[derive(Debug)]
pub struct Roster {
    local: Member,
    mode: Mode,
    config: RosterConfig,
    members: HashMap<UniqueId, Entry>,
    ids: HashMap<SocketAddr, UniqueId>,
    gone: HashMap<UniqueId, Gone>,
    heartbeat: Heartbeat,
    /// No member can expire before this time. It may be too early, never too late.
    expiry: Option<Instant>,
    outputs: VecDeque<Output>,
    stats: RosterStats,
}

/// What a [`Roster`] wants done.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// The group changed.
    Event(Event),
    /// Send a heartbeat of the local member now. Never asked for by a roster that only observes.
    Heartbeat,
}

/// What a [`Roster`] has seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct RosterStats {
    /// Heartbeats and goodbyes of others.
    pub heard: u64,
    /// Membership packets that could not be decoded.
    pub malformed: u64,
    /// Newcomers refused because there were [too many members](RosterConfig::max_members).
    pub refused: u64,
    /// Packets of members that claim the address or the id of another, or of the local member.
    pub conflicts: u64,
}

#[derive(Debug)]
struct Entry {
    member: Member,
    heard: Instant,
    /// Whether `heard` was moved because this process did not run. Once per silence, or a process that is always late would
    /// never find anybody dead.
    excused: bool,
}

/// A member that went, and may still be heard by mistake.
#[derive(Clone, Copy, Debug)]
struct Gone {
    until: Instant,
    displaced: bool,
}

/// When the local member is to be heard.
#[derive(Debug)]
struct Heartbeat {
    next: Option<Instant>,
    last: Option<Instant>,
    sent: usize,
}

impl Roster {
    /// A roster of nobody, for this local member; its first heartbeat is due `now`.
    #[must_use]
    pub fn new(local: Member, mode: Mode, config: RosterConfig, now: Instant) -> Self {
        let next = (mode == Mode::Full).then_some(now);
        Self {
            local,
            mode,
            config,
            members: HashMap::new(),
            ids: HashMap::new(),
            gone: HashMap::new(),
            heartbeat: Heartbeat { next, last: None, sent: 0 },
            expiry: None,
            outputs: VecDeque::new(),
            stats: RosterStats::default(),
        }
    }

    /// A membership packet came in.
    ///
    /// # Errors
    ///
    /// When it is none; it is counted and has no effect.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), WireError> {
        match member_package::decode(datagram) {
            Ok(member) => {
                self.handle_package(now, member);
                Ok(())
            }
            Err(error) => {
                self.stats.malformed += 1;
                Err(error)
            }
        }
    }

    /// A member was heard: its heartbeat, or its goodbye.
    pub fn handle_package(&mut self, now: Instant, member: Member) {
        if member.id() == self.local.id() {
            return;
        }
        self.stats.heard += 1;
        if self.is_local_address(&member) {
            self.stats.conflicts += 1;
        } else if member.is_leaving() {
            self.left(now, &member);
        } else if let Some(entry) = self.members.get_mut(&member.id()) {
            if entry.member != member {
                self.stats.conflicts += 1;
                return;
            }
            (entry.heard, entry.excused) = (now, false);
            if !entry.member.same_value(&member) {
                entry.member = member.clone();
                self.outputs.push_back(Output::Event(Event::Updated(member)));
            }
        } else {
            self.newcomer(now, member);
        }
    }

    /// The local member has a new value. The caller tells the group, by a heartbeat; this only keeps the roster from taking the
    /// local member for another.
    pub fn set_local(&mut self, local: Member) {
        self.local = local;
        let taken = [Some(self.local.id()), self.ids.get(&self.local.address()).copied()];
        for id in taken.into_iter().flatten() {
            if self.members.get(&id).is_some_and(|entry| id == self.local.id() || self.is_local_address(&entry.member)) {
                self.remove(id, Departure::Failed);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next, if nothing comes in before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.heartbeat.next, self.expiry].into_iter().flatten().min()
    }

    /// Time has passed: drops the members that were silent for too long, and asks for the heartbeat that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = self.poll_timeout().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late > self.config.frequency {
            self.excuse(now);
        }
        if self.expiry.is_some_and(|expiry| now >= expiry) {
            self.expire(now);
        }
        self.gone.retain(|_, gone| gone.until > now);
        if self.heartbeat.next.is_some_and(|next| now >= next) {
            self.heartbeat.sent(now, self.config.frequency);
            self.outputs.push_back(Output::Heartbeat);
        }
    }

    /// Takes what is to be done next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The members, in no order.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values().map(|entry| &entry.member)
    }

    /// The local member.
    #[must_use]
    pub fn local(&self) -> &Member {
        &self.local
    }

    /// What was seen so far.
    #[must_use]
    pub fn stats(&self) -> RosterStats {
        self.stats
    }

    /// An observer was never announced, so it claims no address.
    fn is_local_address(&self, member: &Member) -> bool {
        self.mode == Mode::Full && is_distinct(member) && member.address() == self.local.address()
    }

    fn left(&mut self, now: Instant, member: &Member) {
        if self.members.get(&member.id()).is_some_and(|entry| entry.member == *member) {
            self.remove(member.id(), Departure::Left);
            self.remember(now, member.id(), Gone { until: now + self.config.rejoin_grace, displaced: false });
        }
    }

    fn newcomer(&mut self, now: Instant, member: Member) {
        let holder = self.ids.get(&member.address()).copied();
        if let Some(gone) = self.gone.get_mut(&member.id()) {
            if gone.displaced && holder.is_some() {
                gone.until = now + self.config.drop_time;
                self.stats.conflicts += 1;
                return;
            }
            if !gone.displaced && now < gone.until {
                return;
            }
            self.gone.remove(&member.id());
        }
        if let Some(old) = holder {
            self.remove(old, Departure::Failed);
            self.remember(now, old, Gone { until: now + self.config.drop_time, displaced: true });
        } else if self.members.len() >= self.config.max_members {
            self.stats.refused += 1;
            return;
        }
        if is_distinct(&member) {
            self.ids.insert(member.address(), member.id());
        }
        self.members.insert(member.id(), Entry { member: member.clone(), heard: now, excused: false });
        let expiry = now + self.config.drop_time;
        self.expiry = Some(self.expiry.map_or(expiry, |earlier| earlier.min(expiry)));
        self.outputs.push_back(Output::Event(Event::Added(member)));
        let slot = self.answer_slot();
        self.heartbeat.answer(now + slot);
    }

    /// How long to wait before a newcomer is answered: not at all in a small group, a time of our own in a large one.
    fn answer_slot(&self) -> Duration {
        if self.members.len() <= PROMPT_MEMBERS {
            return Duration::ZERO;
        }
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let spread = SPREAD_PER_MEMBER.saturating_mul(members).min(self.config.frequency);
        let id = self.local.id().as_bytes().iter().fold(0_u64, |word, byte| mix(word ^ u64::from(*byte)));
        let random = mix(id.wrapping_add(self.stats.heard));
        let micros = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(random % micros)
    }

    fn excuse(&mut self, now: Instant) {
        let until = now + self.config.frequency * 3 / 2;
        let Some(heard) = until.checked_sub(self.config.drop_time) else { return };
        for entry in self.members.values_mut().filter(|entry| !entry.excused && entry.heard < heard) {
            (entry.heard, entry.excused) = (heard, true);
        }
    }

    fn expire(&mut self, now: Instant) {
        let drop_time = self.config.drop_time;
        let silent = |entry: &Entry| now.saturating_duration_since(entry.heard) >= drop_time;
        let mut dead: Vec<_> = self.members.iter().filter(|(_, entry)| silent(entry)).map(|(id, _)| *id).collect();
        // The same input leads to the same output, whatever order the table has.
        dead.sort_unstable();
        for id in dead {
            self.remove(id, Departure::Failed);
        }
        self.expiry = self.members.values().map(|entry| entry.heard + drop_time).min();
    }

    fn remove(&mut self, id: UniqueId, departure: Departure) {
        let Some(entry) = self.members.remove(&id) else { return };
        if self.ids.get(&entry.member.address()) == Some(&id) {
            self.ids.remove(&entry.member.address());
        }
        if self.members.is_empty() {
            self.expiry = None;
        }
        self.outputs.push_back(Output::Event(Event::Removed(entry.member, departure)));
    }

    fn remember(&mut self, now: Instant, id: UniqueId, gone: Gone) {
        if self.gone.len() >= self.config.max_members {
            self.gone.retain(|_, gone| gone.until > now);
        }
        if self.gone.len() >= self.config.max_members {
            let first = self.gone.iter().min_by_key(|(_, gone)| gone.until).map(|(id, _)| *id);
            first.map(|id| self.gone.remove(&id));
        }
        self.gone.insert(id, gone);
    }
}

impl Heartbeat {
    fn sent(&mut self, now: Instant, frequency: Duration) {
        let gap = FIRST_GAPS.get(self.sent).map_or(frequency, |gap| frequency.min(*gap));
        self.sent = self.sent.saturating_add(1);
        (self.last, self.next) = (Some(now), Some(now + gap));
    }

    /// Brings the next heartbeat forward, for a newcomer. Does nothing for an observer, who has none.
    fn answer(&mut self, at: Instant) {
        let at = self.last.map_or(at, |last| at.max(last + ANSWER_GAP));
        self.next = self.next.map(|next| next.min(at));
    }
}

/// Whether the address can belong to one member only. A Tribes node that does not receive advertises no port.
fn is_distinct(member: &Member) -> bool {
    member.address().port() != 0
}
