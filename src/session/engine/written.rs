//! What this member has written to entries that it does not hold any more, and which it knows to be dead: a read must not go back behind
//! either, even when somebody who has not heard of it yet answers first.

use std::collections::{HashMap, VecDeque};

use super::Engine;
use super::record::{Death, Record};
use super::seen::Seen;
use super::table::Key;
use super::version::Version;
use crate::id::mix;

/// Entries whose last write, or death, is remembered; of more, those that were let go of last.
const MAX_WRITTEN: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Written {
    known: HashMap<Key, Mark>,
    /// In the order in which they were let go of; some of them more than once, of which the last counts.
    order: VecDeque<(Key, u64)>,
    /// How often an entry was let go of.
    count: u64,
}

/// A state that contains a write of this member.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Mark {
    birth: Version,
    death: Version,
    /// This member's last writes to that incarnation, by each of the names that it wrote under.
    own: Seen,
    /// The same of what was [given up](Engine::give_up_written): no read waits for it, but it may come back, and no write may claim it.
    given_up: GivenUp,
    /// The latest time in any state of it: what a later write must exceed, even if its clock is behind.
    latest: u64,
    /// Which letting go this is from.
    nth: u64,
}

/// Writes to an incarnation that nobody in reach has any more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct GivenUp {
    birth: Version,
    writes: Seen,
}

impl Mark {
    /// Whether a state contains the write, or ended it.
    fn is_in(&self, record: &Record) -> bool {
        // An incarnation that is later than a death need not tell of it.
        (record.end.death >= self.death || record.birth > self.death)
            && (record.birth > self.birth
                || record.end.death >= self.birth
                || record.birth == self.birth && (record.seen.includes(&self.own) || record.death() == Some(Death::Lapsed)))
    }

    /// Whether this member has written under a name.
    fn has(&self, node: u64) -> bool {
        self.own.has(node) || self.given_up.writes.has(node)
    }

    /// Its last writes to an incarnation.
    fn writes_to(&self, birth: Version) -> Option<Seen> {
        let mut all = (self.birth == birth).then(|| self.own.clone());
        if self.given_up.birth == birth {
            all.get_or_insert_default().merge(&self.given_up.writes);
        }
        all
    }
}

impl Written {
    /// An entry is let go of.
    pub(super) fn let_go(&mut self, node: u64, key: &Key, record: &Record) {
        let before = self.known.get(key);
        let names = |version: &&Version| version.node == node || before.is_some_and(|mark| mark.has(version.node));
        let own = Seen::collect(record.seen.as_slice().iter().filter(names).copied().collect());
        if own.as_slice().is_empty() && record.end.death.is_zero() {
            return;
        }
        let latest = record.latest().max(before.map_or(0, |mark| mark.latest));
        self.count += 1;
        let given_up = before.map(|mark| mark.given_up.clone()).unwrap_or_default();
        let mut mark = Mark { birth: record.birth, death: record.end.death, own, given_up, latest, nth: self.count };
        match before {
            Some(before) if before.birth == mark.birth => _ = mark.own.merge(&before.own),
            // What is let go of is older than what was written.
            Some(before) if before.birth > mark.birth.max(mark.death) => {
                (mark.birth, mark.own) = (before.birth, before.own.clone())
            }
            _ => {}
        }
        mark.death = mark.death.max(before.map_or(Version::ZERO, |before| before.death));
        self.known.insert(key.clone(), mark);
        self.order.push_back((key.clone(), self.count));
        if self.order.len() > 2 * MAX_WRITTEN {
            self.order.retain(|(key, nth)| self.known.get(key).is_some_and(|mark| mark.nth == *nth));
        }
        while self.known.len() > MAX_WRITTEN {
            let Some((oldest, nth)) = self.order.pop_front() else { return };
            if self.known.get(&oldest).is_some_and(|mark| mark.nth == nth) {
                self.known.remove(&oldest);
            }
        }
    }
}

impl Engine {
    /// Whether what is here of an entry, or that nothing is, goes back behind what this member wrote to it.
    pub(super) fn is_behind(&self, key: &[u8]) -> bool {
        let Some(mark) = self.written.known.get(key) else { return false };
        match self.table.get(key) {
            Some(held) => !mark.is_in(&held.record),
            None => mark.birth > mark.death,
        }
    }

    /// The same of a state that is not here.
    pub(super) fn lacks_written(&self, key: &[u8], record: &Record) -> bool {
        self.written.known.get(key).is_some_and(|mark| !mark.is_in(record))
    }

    /// What a read looks for: the incarnation that this member wrote to last, and its writes to it.
    pub(super) fn written_to(&self, key: &[u8]) -> Option<(Version, Seen)> {
        self.written.known.get(key).map(|mark| (mark.birth, mark.own.clone()))
    }

    /// The version of a write to this state. A state that lacks earlier writes of this member must not claim to contain them, as it
    /// would by containing a later one of the same writer: such a write goes under a name of its own.
    pub(super) fn version_of_write(&mut self, key: &[u8], to: &Record) -> Version {
        let mut version = self.tick(to.latest().max(self.latest_known(key)));
        if let Some(mark) = self.written.known.get_mut(key)
            && let Some(all) = mark.writes_to(to.birth)
        {
            // The names under which everything that was written is in there.
            let mut free = all.as_slice().iter().filter(|own| to.seen.covers(**own)).map(|own| own.node);
            let node = if all.has(version.node) { free.next() } else { Some(version.node) };
            version.node = node.unwrap_or_else(|| mix(version.node ^ version.time).max(1));
            let names = if mark.birth == to.birth { &mut mark.own } else { &mut mark.given_up.writes };
            names.add(version);
            mark.latest = mark.latest.max(version.time);
        }
        version
    }

    /// The death of this incarnation, or of one after it, where this member knows of one though it has let go of the tombstone.
    pub(super) fn known_death(&self, key: &[u8], birth: Version) -> Option<Version> {
        self.written.known.get(key).map(|mark| mark.death).filter(|death| *death >= birth && !death.is_zero())
    }

    /// Whether this member knows that an incarnation is over: removed, or replaced by a later one that it has written to. Of what it
    /// wrote to the older one it keeps no book.
    pub(super) fn is_over(&self, key: &[u8], birth: Version) -> bool {
        self.known_death(key, birth).is_some() || self.written.known.get(key).is_some_and(|mark| mark.birth > birth)
    }

    /// The latest time of this entry that this member remembers without having it.
    pub(super) fn latest_known(&self, key: &[u8]) -> u64 {
        self.written.known.get(key).map_or(0, |mark| mark.latest)
    }

    /// Nobody who is there has what this member wrote: it is gone with those who had it.
    pub(super) fn give_up_written(&mut self, key: &[u8]) {
        if let Some(mark) = self.written.known.get_mut(key) {
            // The dead stay dead.
            let (birth, own) = (std::mem::take(&mut mark.birth), std::mem::take(&mut mark.own));
            if mark.given_up.birth == birth {
                mark.given_up.writes.merge(&own);
            } else if !own.as_slice().is_empty() {
                mark.given_up = GivenUp { birth, writes: own };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Attribute;
    use super::super::record::Ends;
    use super::*;

    const fn version(time: u64, node: u64) -> Version {
        Version { time, node }
    }

    #[test]
    fn only_what_contains_the_write_or_ended_it_is_not_behind() {
        let mark =
            Mark { birth: version(10, 1), death: Version::ZERO, own: Seen::one(version(20, 7)), latest: 20, ..Mark::default() };
        let born = Record::born(version(10, 1), 0);
        assert!(!mark.is_in(&born));
        let mut written = born.clone();
        written.seen.add(version(20, 7));
        written.put(Attribute { name: "a".into(), version: version(20, 7), value: None });
        assert!(mark.is_in(&written));
        assert!(mark.is_in(&Record::born(version(11, 2), 0)), "a later incarnation");
        assert!(mark.is_in(&Record::tombstone(version(12, 2))), "removed");
        assert!(!mark.is_in(&Record::born(version(9, 2), 0)), "an earlier incarnation");
        let mut lapsed = born;
        lapsed.lapse(lapsed.touched);
        lapsed.compact();
        assert!(mark.is_in(&lapsed), "expired");
    }

    #[test]
    fn letting_go_of_something_older_forgets_nothing() {
        let mut all = Written::default();
        let key = Key::from(&b"key"[..]);
        let latest = Record::born(version(30, 7), 0);
        all.let_go(7, &key, &latest);
        all.let_go(7, &key, &Record::tombstone(version(20, 7)));
        let mark = &all.known[&key];
        assert_eq!((mark.birth, mark.death), (version(30, 7), version(20, 7)));
        assert!(
            !mark.is_in(&Record::tombstone(version(20, 7))) && mark.is_in(&Record { end: Ends::of(version(20, 7), 0), ..latest })
        );
    }

    #[test]
    fn what_was_let_go_of_again_is_not_forgotten_with_the_first_time() {
        let mut all = Written::default();
        let record = Record::born(version(10, 7), 0);
        let busy = Key::from(&b"busy"[..]);
        all.let_go(7, &busy, &record);
        for number in 0..MAX_WRITTEN {
            if number == MAX_WRITTEN - 10 {
                all.let_go(7, &busy, &record);
            }
            all.let_go(7, &number.to_string().as_bytes().into(), &record);
        }
        assert_eq!(all.known.len(), MAX_WRITTEN);
        assert!(all.known.contains_key(&busy), "let go of a moment ago");
    }

    #[test]
    fn the_table_is_bounded_and_what_others_wrote_is_not_in_it() {
        let mut all = Written::default();
        let record = Record::born(version(10, 7), 0);
        for n in 0..2 * MAX_WRITTEN {
            all.let_go(7, &n.to_string().as_bytes().into(), &record);
            all.let_go(8, &n.to_string().as_bytes().into(), &record);
            all.let_go(7, &b"again"[..].into(), &record);
        }
        assert!(all.known.len() <= MAX_WRITTEN && all.order.len() <= 2 * MAX_WRITTEN, "{} {}", all.known.len(), all.order.len());
        assert!(all.known.contains_key(&b"again"[..]), "let go of last");
    }
}
