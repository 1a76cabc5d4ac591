//! What ends because nobody uses it: not before its time, and then for all.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::time::Duration;

use super::super::record::{Death, Record};
use super::super::table::{Key, slot_of};
use super::super::version::Version;
use super::oracle::{LATE, Oracle, name, running};
use super::world::{Node, Pid, Verdict};
use super::writes::Write;

/// An access counts that was so long ago: while the owner asks the other holders, it cannot know of a later one.
const REAP: Duration = Duration::from_millis(2_000);

#[derive(Debug, Default)]
pub(super) struct Leases {
    /// When each process used a key last, and which incarnation it was.
    accesses: BTreeMap<Key, BTreeMap<Pid, (Duration, Version)>>,
    /// The shortest lease that a key was given.
    shortest: BTreeMap<Key, Duration>,
    /// The latest incarnation of a key that has expired anywhere.
    lapses: BTreeMap<Key, Version>,
}

impl Leases {
    pub(super) fn gives(&mut self, key: &Key, lease: Duration) {
        if !lease.is_zero() {
            let least = self.shortest.entry(key.clone()).or_insert(lease);
            *least = lease.min(*least);
        }
    }

    pub(super) fn accessed(&mut self, pid: Pid, key: &Key, birth: Version, now: Duration) {
        self.accesses.entry(key.clone()).or_default().insert(pid, (now, birth));
    }

    /// Somebody holds this.
    pub(super) fn holds(&mut self, key: &Key, record: &Record) {
        if record.death() == Some(Death::Lapsed) {
            let lapsed = self.lapses.entry(key.clone()).or_default();
            *lapsed = record.birth.max(*lapsed);
        }
    }

    /// Who used these incarnations of a key, and when. Whoever used one that has lost to another since has not used what is there now; and
    /// whoever used a later one does not keep an earlier alive.
    fn used(&self, key: &Key, births: impl RangeBounds<Version>) -> impl Iterator<Item = (Pid, Duration)> {
        let used = self.accesses.get(key).into_iter().flatten().filter(move |(_, (_, used))| births.contains(used));
        used.map(|(pid, (at, _))| (*pid, *at))
    }

    /// Whether this incarnation, or one after it, has expired somewhere.
    pub(super) fn has_lapsed(&self, key: &Key, birth: Version) -> bool {
        self.lapses.get(key).is_some_and(|lapsed| *lapsed >= birth)
    }
}

impl Oracle {
    /// A member has let an entry expire.
    pub(super) fn expired(&self, pid: Pid, now: Duration, key: &Key, nodes: &[Node]) -> Verdict {
        let Some(process) = running(nodes, pid) else { return Ok(()) };
        let Some(held) = process.engine.table.get(key) else { return Ok(()) };
        let lease = Duration::from_millis(held.record.lease.millis);
        if lease.is_zero() {
            return Err(format!("{} expired without a lease", name(key)));
        }
        for (other, at) in self.leases.used(key, held.record.birth..=held.record.birth) {
            let Some(reader) = running(nodes, other) else { continue };
            let holds = process.engine.placement.rank(slot_of(key), &reader.member).is_some();
            // Who holds it is asked, again and again; others tell of an access once, and only whom they see.
            let heard = holds || !self.lossy && reader.view.contains_key(&pid.node);
            let near = other == pid || heard && self.talked(other.node, pid.node, at);
            let resting = nodes[other.node].paused.is_some();
            if near && !resting && at + REAP + LATE <= now && now + LATE < at + lease {
                return Err(format!("{pid:?} expired {} though {other:?} accessed it at {at:?}, lease {lease:?}", name(key)));
            }
        }
        Ok(())
    }

    /// Whether somebody who reads may find that there is nothing any more.
    pub(super) fn may_have_ended(&self, pid: Pid, key: &Key, write: &Write, now: Duration, nodes: &[Node]) -> bool {
        self.knows(key, write.birth) || self.leases.has_lapsed(key, write.birth) || self.is_overdue(pid, key, now, nodes)
    }

    /// Whether nobody of whom a member has heard used an entry for as long as its lease. Of what has just happened it has not heard yet.
    fn is_overdue(&self, pid: Pid, key: &Key, now: Duration, nodes: &[Node]) -> bool {
        let Some(process) = running(nodes, pid) else { return false };
        let tells =
            |other: Pid, at| at + REAP <= now && process.view.contains_key(&other.node) && self.talked(other.node, pid.node, at);
        // What it has found may be another incarnation than the one that was written to.
        let found = process.engine.table.get(key).map_or(Version::ZERO, |held| held.record.birth);
        let used = self.leases.used(key, found..).filter(|(other, at)| *other == pid || tells(*other, *at));
        let last = used.map(|(_, at)| at).max().unwrap_or_default();
        self.leases.shortest.get(key).is_some_and(|lease| now + LATE >= last + *lease)
    }
}
