//! What must hold, at every step, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::change::Refusal;
use super::super::commit::Committed;
use super::super::record::{Death, Name, Record};
use super::super::seen::Seen;
use super::super::table::{Held, Key, slot_of};
use super::super::version::Version;
use super::super::{Engine, Event, Ticket, What};
use super::coverage::{Coverage, Fault};
use super::leases::Leases;
use super::plan::Plan;
use super::stores::{SLOW_STORE, may_be_same};
use super::swaps::Swaps;
use super::trace::Trace;
use super::world::{Node, Pid, Process, Verdict};
use super::writes::{Mark, Write, number_of};
use crate::id::UniqueId;
use crate::member::Member;

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.life)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Commit,
    Fetch,
    Swap,
}

/// Whether a member says that what it has of a key's slot is all there is. Who was one of the holders and has not handed over all of it yet
/// says so as well.
pub(super) fn speaks_for(engine: &Engine, key: &[u8]) -> bool {
    let state = &engine.slots[usize::from(slot_of(key))];
    state.complete || state.former
}

/// What a process let go of, and who held it for all it knew.
type Handed = (Arc<Record>, Vec<Pid>);

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) coverage: Coverage,
    pub(super) keys: BTreeSet<Key>,
    pids: BTreeMap<UniqueId, Pid>,
    pub(super) writes: BTreeMap<Key, Vec<Write>>,
    /// The value of each attribute that was ever written: nobody has another, or one that nobody wrote.
    values: BTreeMap<(Version, Name), u64>,
    pub(super) swaps: Swaps,
    /// Removals, by key, that clients asked for.
    deaths: BTreeMap<Key, BTreeSet<Version>>,
    /// What each process held when it was last looked at.
    held: BTreeMap<Pid, BTreeMap<Key, Arc<Record>>>,
    /// What each process let go of, and to whom it belonged then.
    handed: BTreeMap<(Pid, Key), Vec<Handed>>,
    /// Copies that came only to be looked at: their holders are taken for having them, and nobody counts on them.
    looked: BTreeSet<(Pid, Key)>,
    /// The latest death of a key that a process has known of.
    floors: BTreeMap<(Pid, Key), Version>,
    /// Lost writes that were reported.
    reported: BTreeSet<(Key, Version)>,
    tickets: BTreeMap<(Pid, Ticket), (Kind, Duration)>,
    /// The same by time.
    deadlines: BTreeSet<(Duration, Pid, Ticket)>,
    pub(super) leases: Leases,
    /// Keys of which an entry has expired since the last calm.
    lapsed: BTreeSet<Key>,
    /// When two nodes could last not talk to each other.
    disturbed: BTreeMap<(usize, usize), Duration>,
    /// Those that cannot now.
    apart: BTreeSet<(usize, usize)>,
    /// When something other than a start or an end has last gone wrong anywhere.
    pub(super) rough: Duration,
    /// When all were last found equal.
    settled: Duration,
    limits: [Duration; 3],
    /// What a read may take longer where there are stores.
    stored: Duration,
    pub(super) lossy: bool,
    /// Members may hold little, and what they have no room for is missing where it is looked for.
    pub(super) capped: bool,
    /// Records that stores have lost since the last calm: what they had may be gone there.
    damaged: BTreeSet<(Pid, Key)>,
    /// Those that an engine is being told of.
    just_damaged: BTreeSet<(Pid, Key)>,
    max_entries: usize,
    max_bytes: usize,
    /// What each process held when it was last looked at: entries, and bytes.
    sizes: BTreeMap<Pid, (usize, usize)>,
    /// Whether a member is taking in what another sends.
    pub(super) receiving: bool,
}

/// The attribute that is only written on a condition.
pub(super) const COUNTER: &str = "n";
/// Answers may be this late: timers have whole milliseconds.
pub(super) const LATE: Duration = Duration::from_millis(20);
/// After this long without a fault, all members that see each other have compared what they hold.
pub(super) const SETTLE: Duration = Duration::from_secs(10);
/// Deliveries under way at one member, at most.
const MAX_UNDER_WAY: usize = 5_000;

impl Oracle {
    pub(super) fn new(plan: &Plan) -> Self {
        let config = &plan.config;
        // Who has it in its store asks that, and others once more when the store fails.
        let stored = config.keeping.map_or(Duration::ZERO, |_| config.fetch_timeout + SLOW_STORE * 2);
        Self {
            stored,
            limits: [config.commit_timeout, config.fetch_timeout + stored, config.commit_timeout + config.fetch_timeout],
            lossy: plan.net.loss + plan.net.slow > 0,
            capped: plan.capped,
            max_entries: config.max_entries,
            max_bytes: config.max_bytes,
            ..Self::default()
        }
    }

    pub(super) fn born(&mut self, pid: Pid, now: Duration, member: &Member) {
        self.pids.insert(member.id(), pid);
        self.comes_or_goes(pid.node, now);
    }

    /// Nothing gets from one to the other from now on.
    pub(super) fn cut(&mut self, a: usize, b: usize, now: Duration) {
        self.disturb(a, b, now);
        self.apart.insert((a.min(b), a.max(b)));
    }

    /// All ways are free again.
    pub(super) fn heal(&mut self) {
        self.apart.clear();
    }

    pub(super) fn disturb(&mut self, a: usize, b: usize, now: Duration) {
        self.looked(a, b, now);
        self.rough = now;
    }

    pub(super) fn disturb_all(&mut self, node: usize, now: Duration) {
        self.comes_or_goes(node, now);
        self.rough = now;
    }

    /// One has seen the other come or go.
    pub(super) fn looked(&mut self, a: usize, b: usize, now: Duration) {
        self.disturbed.insert((a.min(b), a.max(b)), now);
    }

    fn comes_or_goes(&mut self, node: usize, now: Duration) {
        (0..16).for_each(|other| self.looked(node, other, now));
    }

    /// Whether these two could talk to each other all the time since then.
    pub(super) fn talked(&self, a: usize, b: usize, since: Duration) -> bool {
        let pair = (a.min(b), a.max(b));
        !self.apart.contains(&pair) && self.disturbed.get(&pair).is_none_or(|at| *at < since)
    }

    /// A client's write was made.
    pub(super) fn wrote(&mut self, write: Write) {
        let key = &write.key;
        self.keys.insert(key.clone());
        match &write.mark {
            Mark::Birth => {}
            Mark::Attribute(name) => _ = self.values.insert((write.version, Name::clone(name)), write.value),
            Mark::Death => {
                self.deaths.entry(key.clone()).or_default().insert(write.version);
                let floor = self.floors.entry((write.by, key.clone())).or_default();
                *floor = write.version.max(*floor);
            }
        }
        self.writes.entry(key.clone()).or_default().push(write);
    }

    /// What a store had under a key is gone.
    pub(super) fn damaged(&mut self, pid: Pid, key: &Key) {
        self.damaged.insert((pid, key.clone()));
        self.just_damaged.insert((pid, key.clone()));
    }

    /// A client was told who has confirmed.
    pub(super) fn receipt(&mut self, by: Pid, keys: &[Key], receipt: &Committed, nodes: &[Node]) -> Verdict {
        for (nth, member) in receipt.confirmed.iter().enumerate() {
            let Some(pid) = self.pids.get(&member.id()).copied() else { return Err(format!("{member:?} never was")) };
            if pid == by || receipt.confirmed[..nth].contains(member) {
                return Err(format!("{by:?} counts {pid:?} twice: {receipt:?}"));
            }
            let Some(process) = running(nodes, pid) else { continue };
            for key in keys {
                let held = process.engine.table.get(key).map(|held| &held.record);
                let written = self.writes.get_mut(key).into_iter().flatten();
                for write in written.filter(|write| write.commit == receipt.version) {
                    // What all had when they were equal may have been let go of since, and nobody remembers to whom.
                    let kept = write.at > self.settled && !self.damaged.contains(&(pid, key.clone()));
                    if kept || held.is_some_and(|record| write.is_in(record)) {
                        write.responsible.insert(pid);
                    }
                }
            }
        }
        keys.iter().try_for_each(|key| self.check(key, nodes))
    }

    /// Whether nobody who had this write is there any more.
    pub(super) fn is_lost(&self, key: &Key, version: Version) -> bool {
        let mut of_it = self.writes.get(key).into_iter().flatten().filter(|write| write.version == version);
        of_it.any(|write| write.excused)
    }

    /// A client was told that its change cannot be made.
    pub(super) fn is_true(&self, refusal: Refusal, key: &Key, read: Option<&Record>, to: Option<&Key>) -> bool {
        let birth = read.map_or(Version::ZERO, |read| read.birth);
        match refusal {
            Refusal::Exists => to.map_or_else(|| self.keys.contains(key), |to| self.keys.contains(to)),
            // A later incarnation ends one as well.
            Refusal::Removed => self.knows(key, birth) || self.leases.has_lapsed(key, birth) || self.was_replaced(key, birth),
            Refusal::Expired => self.leases.has_lapsed(key, birth),
            Refusal::Full => self.capped,
            Refusal::TooLarge | Refusal::OtherSlot | Refusal::Unavailable | Refusal::Stopped => false,
        }
    }

    /// Whether a later incarnation was made.
    fn was_replaced(&self, key: &Key, birth: Version) -> bool {
        self.writes.get(key).is_some_and(|writes| writes.iter().any(|write| write.mark == Mark::Birth && write.birth > birth))
    }

    /// Whether a process has known an incarnation to be dead.
    pub(super) fn knew_dead(&self, pid: Pid, key: &Key, birth: Version) -> bool {
        self.floors.get(&(pid, key.clone())).is_some_and(|floor| *floor >= birth)
    }

    /// Whether a removal is known.
    pub(super) fn knows(&self, key: &Key, death: Version) -> bool {
        self.deaths.get(key).is_some_and(|deaths| deaths.iter().any(|known| *known >= death))
    }

    /// Whether everybody who is responsible for the writes of a key has them.
    fn check(&mut self, key: &Key, nodes: &[Node]) -> Verdict {
        let Some(writes) = self.writes.get_mut(key) else { return Ok(()) };
        for write in writes.iter_mut().filter(|write| !write.excused) {
            let mut seen = BTreeSet::new();
            while let Some(pid) = write.responsible.iter().find(|pid| !seen.contains(*pid)).copied() {
                seen.insert(pid);
                let Some(process) = running(nodes, pid) else {
                    write.responsible.remove(&pid);
                    continue;
                };
                match process.engine.table.get(key) {
                    Some(held) if write.is_in(&held.record) => {
                        let ended = held.record.death() == Some(Death::Lapsed);
                        if ended && matches!(write.mark, Mark::Attribute(_)) {
                            write.responsible.remove(&pid);
                        }
                    }
                    // What its store had was damaged: others have it, or nobody.
                    None if self.damaged.contains(&(pid, key.clone())) => {
                        write.responsible.remove(&pid);
                    }
                    other => {
                        // It was a guest: all holders had it. What is there now has come later.
                        let handed = self.handed.get(&(pid, key.clone())).into_iter().flatten().rev();
                        let Some((_, to)) = handed.into_iter().find(|(record, _)| write.is_in(record)) else {
                            let holds = other.map(|held| &held.record);
                            return Err(format!("{pid:?} has lost {write:?}: it holds {holds:?}"));
                        };
                        write.responsible.remove(&pid);
                        write.responsible.extend(to.iter().filter(|to| running(nodes, **to).is_some()));
                    }
                }
            }
            write.excused = write.responsible.is_empty();
        }
        Ok(())
    }

    /// Something may have changed at a process.
    pub(super) fn observe(&mut self, pid: Pid, now: Duration, nodes: &[Node], trace: &mut Trace) -> Verdict {
        let Some(process) = running(nodes, pid) else { return Ok(()) };
        let engine = &process.engine;
        // What this member's own clients remove or rename leaves more; what others send must fit.
        let size = (engine.table.len(), engine.table.bytes());
        let before = self.sizes.insert(pid, size).unwrap_or_default();
        let more = size.0 > self.max_entries.max(before.0) || size.1 > self.max_bytes.max(before.1);
        if more && self.receiving {
            return Err(format!("{pid:?} holds more than it may: {} entries, {} bytes", size.0, size.1));
        }
        if engine.under_way() > MAX_UNDER_WAY {
            return Err(format!("{pid:?} has {} deliveries under way", engine.under_way()));
        }
        // Once counted on, a copy is no longer only looked at.
        self.looked.retain(|(of, key)| *of != pid || engine.table.get(key).is_none_or(|held| held.copies != 0));
        for (key, record) in &engine.handover.gone {
            let holders = engine.placement.holding(slot_of(key)).filter(|holder| **holder != process.member);
            let mut to: Vec<_> = holders.filter_map(|holder| self.pids.get(&holder.id()).copied()).collect();
            if self.capped || to.iter().any(|to| self.damaged.contains(&(*to, key.clone()))) {
                // What was only looked at, a holder without room may never have had, and what it had may have been damaged since: those
                // that have it must keep it.
                let all_of_it = |held: &Held| {
                    let mut mine = Record::clone(&held.record);
                    mine.come_back(record);
                    !mine.merge(Record::clone(record)).changed
                };
                let has = |to: &Pid| running(nodes, *to).and_then(|there| there.engine.table.get(key)).is_some_and(all_of_it);
                if to.iter().any(has) {
                    to.retain(has);
                }
            }
            trace.tell(|| format!("{now:?} {pid:?} lets go of {} to {to:?}: {record:?}", name(key)));
            let handed = self.handed.entry((pid, key.clone())).or_default();
            // What it handed over before is where it went then.
            if !self.looked.remove(&(pid, key.clone())) || handed.is_empty() {
                handed.push((Arc::clone(record), to));
            }
        }
        let mut changed = Vec::new();
        let before = self.held.entry(pid).or_default();
        for key in &self.keys {
            let (old, new) = (before.get(key), engine.table.get(key).map(|held| &held.record));
            let same = match (old, new) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                _ => false,
            };
            if same {
                continue;
            }
            if let (Some(old), Some(new)) = (old, new) {
                went_on(old, new).map_err(|what| format!("{pid:?}: {what}: of {old:?} became {new:?}"))?;
            }
            if speaks_for(engine, key) {
                for write in self.writes.get_mut(key).into_iter().flatten() {
                    if new.is_some_and(|new| write.is_in(new)) && !old.is_some_and(|old| write.is_in(old)) {
                        write.lacked = now;
                    }
                }
            }
            changed.push((key.clone(), old.map(|old| old.seen.clone())));
        }
        for (key, seen) in &changed {
            let record = engine.table.get(key).map(|held| Arc::clone(&held.record));
            trace.tell(|| format!("{now:?} {pid:?} holds {}: {record:?}", name(key)));
            let Some(record) = record else {
                self.held.entry(pid).or_default().remove(key);
                let damaged = self.just_damaged.remove(&(pid, key.clone()));
                if !damaged && engine.placement.rank(slot_of(key), &process.member).is_some() {
                    return Err(format!("{pid:?}, a holder, let go of {}", name(key)));
                }
                continue;
            };
            self.swapped(pid, now, key, &record, seen.as_ref());
            self.leases.holds(key, &record);
            self.are_known(&record).map_err(|what| format!("{pid:?} holds {}: {what}", name(key)))?;
            let guest = engine.placement.rank(slot_of(key), &process.member).is_none();
            if seen.is_none() && guest && engine.table.get(key).is_some_and(|held| held.copies != 0) {
                self.looked.insert((pid, key.clone()));
            }
            // What it has again, and not only to look at, it has not let go of.
            if !self.looked.contains(&(pid, key.clone()))
                && let Some(handed) = self.handed.get_mut(&(pid, key.clone()))
            {
                handed.retain(|(old, _)| Record::clone(&record).merge(Record::clone(old)).changed);
            }
            if !record.end.death.is_zero() && !self.deaths.get(key).is_some_and(|deaths| deaths.contains(&record.end.death)) {
                return Err(format!("{pid:?}: {} died of nothing: {record:?}", name(key)));
            }
            let floor = self.floors.entry((pid, key.clone())).or_default();
            *floor = record.end.death.max(*floor);
            if record.is_alive() && record.birth <= *floor {
                return Err(format!("{pid:?}: {} came back after {floor}: {record:?}", name(key)));
            }
            self.held.entry(pid).or_default().insert(key.clone(), record);
        }
        self.just_damaged.retain(|(of, _)| *of != pid);
        changed.iter().try_for_each(|(key, _)| self.check(key, nodes))
    }

    /// What the owner of a key has written for somebody who knew what it replaces: nobody else makes such a write, and it is seen here
    /// before anybody is told.
    fn swapped(&mut self, pid: Pid, now: Duration, key: &Key, record: &Record, seen: Option<&Seen>) {
        let Some(counter) = record.attribute(COUNTER) else { return };
        if !self.values.contains_key(&(counter.version, Name::clone(&counter.name))) {
            let write = Write::attribute(key, record.birth, counter, pid, now);
            self.swaps.decided(key, counter.version, record.birth, pid, now);
            self.wrote(write.over(seen.cloned().unwrap_or_default()));
        }
    }

    /// Whether the attribute that is written on a condition was ever written with this version.
    pub(super) fn is_known(&self, version: Version) -> bool {
        self.values.contains_key(&(version, COUNTER.into()))
    }

    /// Whether that version of it has this value.
    pub(super) fn is_written(&self, version: Version, value: &Bytes) -> bool {
        self.values.get(&(version, COUNTER.into())) == Some(&number_of(Some(value)))
    }

    /// Whether somebody wrote every value in this record.
    pub(super) fn are_known(&self, record: &Record) -> Verdict {
        for attribute in &record.attributes {
            let known = self.values.get(&(attribute.version, Name::clone(&attribute.name)));
            if known.is_none() || !attribute.is_away() && known != Some(&number_of(attribute.value.as_ref())) {
                return Err(format!("nobody wrote {} {} as it is in {record:?}: {known:x?}", attribute.name, attribute.version));
            }
        }
        Ok(())
    }

    pub(super) fn event(&mut self, pid: Pid, now: Duration, event: &Event, nodes: &[Node]) -> Verdict {
        match &event.what {
            What::Lost(loss) => {
                self.coverage.saw(Fault::Conflict);
                self.reported.insert((event.key.clone(), loss.lost.version));
            }
            What::Expired { .. } => {
                self.coverage.saw(Fault::Expired);
                self.lapsed.insert(event.key.clone());
                if !event.remote {
                    self.expired(pid, now, &event.key, nodes)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn asked(&mut self, pid: Pid, ticket: Ticket, kind: Kind, now: Duration) -> Verdict {
        let deadline = now + self.limits[kind as usize] + LATE;
        self.deadlines.insert((deadline, pid, ticket));
        match self.tickets.insert((pid, ticket), (kind, deadline)) {
            None => Ok(()),
            Some(_) => Err(format!("{pid:?} gave ticket {ticket} twice")),
        }
    }

    pub(super) fn answered(&mut self, pid: Pid, ticket: Ticket, kind: Kind) -> Verdict {
        match self.tickets.remove(&(pid, ticket)) {
            Some((asked, deadline)) if asked == kind => {
                self.deadlines.remove(&(deadline, pid, ticket));
                Ok(())
            }
            other => Err(format!("{pid:?} answered {ticket}, a {kind:?}, though that was {other:?}")),
        }
    }

    /// Whether an answer is overdue.
    pub(super) fn overdue(&mut self, now: Duration, nodes: &[Node]) -> Verdict {
        while let Some((deadline, pid, ticket)) = self.deadlines.first().copied().filter(|(deadline, ..)| *deadline < now) {
            if running(nodes, pid).is_none() {
                self.deadlines.pop_first();
                self.tickets.remove(&(pid, ticket));
                continue;
            }
            let node = &nodes[pid.node];
            if node.paused.is_none() && node.resumed + LATE + self.stored < now {
                let kind = self.tickets.get(&(pid, ticket));
                return Err(format!("{pid:?} has not answered {ticket}, {kind:?}, at {deadline:?}"));
            }
            // It gets its time when it goes on.
            self.deadlines.pop_first();
            let later = now + Duration::from_millis(100);
            self.deadlines.insert((later, pid, ticket));
            if let Some((_, at)) = self.tickets.get_mut(&(pid, ticket)) {
                *at = later;
            }
        }
        Ok(())
    }

    /// A process ends.
    pub(super) fn ends(&mut self, pid: Pid, drained: bool, now: Duration, nodes: &[Node]) -> Verdict {
        self.comes_or_goes(pid.node, now);
        let Some(process) = running(nodes, pid) else { return Ok(()) };
        for (key, writes) in &mut self.writes {
            let held = process.engine.table.get(key);
            let spoke = speaks_for(&process.engine, key);
            for write in writes.iter_mut() {
                if spoke && !held.is_some_and(|held| write.is_in(&held.record)) {
                    write.lacked = now;
                }
                if !write.responsible.remove(&pid) {
                    continue;
                }
                if drained {
                    // What it may still hold has been confirmed by all holders.
                    let holders = process.engine.placement.holding(slot_of(key));
                    let holders = holders.filter_map(|holder| self.pids.get(&holder.id()).copied());
                    write.responsible.extend(holders.filter(|holder| *holder != pid && running(nodes, *holder).is_some()));
                }
                write.excused |= write.responsible.is_empty();
            }
        }
        self.held.remove(&pid);
        self.sizes.remove(&pid);
        self.handed.retain(|(of, _), _| *of != pid);
        self.looked.retain(|(of, _)| *of != pid);
        self.tickets.retain(|(of, _), _| *of != pid);
        self.deadlines.retain(|(_, of, _)| *of != pid);
        if drained {
            let keys: Vec<_> = self.writes.keys().cloned().collect();
            let others: Vec<_> = keys.into_iter().filter(|key| process.engine.table.get(key).is_some()).collect();
            others.iter().try_for_each(|key| self.check(key, nodes))?;
        }
        Ok(())
    }

    /// All have converged: what must be there is there, and what is not there was reported.
    pub(super) fn converged(&mut self, now: Duration, nodes: &[Node]) -> Verdict {
        let keys: Vec<_> = self.writes.keys().cloned().collect();
        for key in &keys {
            self.check(key, nodes)?;
            let Some(writes) = self.writes.get(key) else { continue };
            let running = || nodes.iter().filter_map(|node| node.process.as_ref());
            let holders = || running().filter(|process| process.engine.placement.rank(slot_of(key), &process.member).is_some());
            for write in writes.iter().filter(|write| !write.excused) {
                for holder in holders() {
                    let record = holder.engine.table.get(key).map(|held| &held.record);
                    if !record.is_some_and(|record| write.is_in(record)) {
                        return Err(format!("after all, {:?} lacks {write:?}: it holds {record:?}", holder.pid));
                    }
                }
                self.told_of_loss(write, writes, holders().next())?;
            }
            let living: Vec<(Pid, Arc<Record>)> =
                running().filter_map(|process| Some((process.pid, Arc::clone(&process.engine.table.get(key)?.record)))).collect();
            let Some(writes) = self.writes.get_mut(key) else { continue };
            // From now on, who has it is responsible; what is overwritten is settled.
            for write in writes.iter_mut().filter(|write| !write.excused) {
                write.responsible = living.iter().filter(|(_, record)| write.is_in(record)).map(|(pid, _)| *pid).collect();
            }
            self.swaps.lost(writes.iter().filter(|write| write.excused));
            writes.retain(|write| !write.excused && living.first().is_some_and(|(_, record)| write.stands_in(record)));
        }
        self.handed.clear();
        self.damaged.clear();
        self.settled = now;
        self.lapsed.clear();
        Ok(())
    }

    /// Somebody has no room: only what was confirmed has to be there.
    pub(super) fn left_as_it_is(&mut self, nodes: &[Node]) -> Verdict {
        let keys: Vec<_> = self.writes.keys().cloned().collect();
        self.lapsed.clear();
        keys.iter().try_for_each(|key| self.check(key, nodes))
    }

    /// Of two writes that did not know of each other, the one that is gone must have been told of.
    fn told_of_loss(&self, write: &Write, writes: &[Write], holder: Option<&Process>) -> Verdict {
        let (Mark::Attribute(attribute), Some(holder)) = (&write.mark, holder) else { return Ok(()) };
        let Some(_) = &write.base else { return Ok(()) };
        let Some(held) = holder.engine.table.get(&write.key).filter(|held| held.is_alive()) else { return Ok(()) };
        let stands = held.record.attribute(attribute).is_some_and(|found| found.version == write.version);
        let overwritten = || {
            let others = writes.iter().filter(|other| other.mark == write.mark && other.birth == write.birth);
            // Of two requests at one member, the later one knows of the other.
            others
                .filter_map(|other| Some((other, other.base.as_ref()?)))
                .any(|(other, base)| base.covers(write.version) || other.by == write.by && other.version > write.version)
        };
        let gone = held.record.birth != write.birth || stands || overwritten() || self.lapsed.contains(&write.key);
        if gone || self.reported.contains(&(write.key.clone(), write.version)) {
            return Ok(());
        }
        Err(format!("nobody was told that {write:?} was lost to {:?}", held.record))
    }
}

pub(super) fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

pub(super) fn running(nodes: &[Node], pid: Pid) -> Option<&Process> {
    nodes[pid.node].process.as_ref().filter(|process| process.pid == pid)
}

/// Nothing in a record that stays where it is ever goes back.
fn went_on(old: &Record, new: &Record) -> Result<(), &'static str> {
    if new.end.death < old.end.death {
        return Err("a death was forgotten");
    }
    if new.birth > old.birth || new.end.death >= old.birth {
        return Ok(());
    }
    if new.birth < old.birth {
        return Err("an earlier incarnation came back");
    }
    if new.touched < old.touched || new.end.lapsed < old.end.lapsed || new.lease < old.lease {
        return Err("a register went back");
    }
    if new.death().is_some() || old.death().is_some() {
        return Ok(());
    }
    for attribute in &old.attributes {
        let Some(now) = new.attribute(&attribute.name).filter(|now| now.version >= attribute.version) else {
            return Err("an attribute went back");
        };
        if now.version == attribute.version && !may_be_same(now, attribute) {
            return Err("a value changed without a version");
        }
    }
    Ok(())
}
