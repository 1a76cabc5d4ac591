//! Which writes a record contains: for each writer, up to which time.

use std::fmt;

use super::version::Version;

/// A version vector of one record. Nearly every record has one writer, which costs no allocation.
///
/// Honest by construction: a change is only taken in when the record holds everything that the change was made on, so a time in here
/// means that all earlier writes of that writer are in the record, or were overwritten by somebody who had seen them.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct Seen(Inner);

#[derive(Clone, Default, Eq, PartialEq)]
enum Inner {
    #[default]
    None,
    One(Version),
    /// Sorted by node, two or more.
    Many(Box<[Version]>),
}

/// Writers that are remembered; of more, those that wrote last. What is forgotten costs a whole entry on the wire instead of a change,
/// and may make an overwritten value be reported as lost.
pub(crate) const MAX_WRITERS: usize = 16;

impl Seen {
    pub(crate) fn one(version: Version) -> Self {
        Self(Inner::One(version))
    }

    pub(crate) fn as_slice(&self) -> &[Version] {
        match &self.0 {
            Inner::None => &[],
            Inner::One(version) => std::slice::from_ref(version),
            Inner::Many(versions) => versions,
        }
    }

    /// Whether this write is contained.
    pub(crate) fn covers(&self, version: Version) -> bool {
        self.as_slice().iter().any(|seen| seen.node == version.node && seen.time >= version.time)
    }

    /// Whether any write of this writer is contained.
    pub(crate) fn has(&self, node: u64) -> bool {
        self.as_slice().iter().any(|seen| seen.node == node)
    }

    /// Whether everything that `other` contains is contained.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        other.as_slice().iter().all(|version| self.covers(*version))
    }

    pub(crate) fn add(&mut self, version: Version) -> bool {
        self.merge(&Self::one(version))
    }

    /// Contains what either does; tells whether that is more than before.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        if self.includes(other) {
            return false;
        }
        match (&mut self.0, &other.0) {
            // As nearly always: the one writer has written again, or for the first time.
            (Inner::One(mine), Inner::One(theirs)) if mine.node == theirs.node => {
                *mine = *theirs;
                return true;
            }
            (mine @ Inner::None, Inner::One(theirs)) => {
                *mine = Inner::One(*theirs);
                return true;
            }
            _ => {}
        }
        let all = self.as_slice().iter().chain(other.as_slice()).copied().collect();
        let merged = Self::collect(all);
        let changed = *self != merged;
        *self = merged;
        changed
    }

    /// From a list in any order, with any repetitions.
    pub(crate) fn collect(mut all: Vec<Version>) -> Self {
        all.sort_unstable_by_key(|version| (version.node, std::cmp::Reverse(version.time)));
        all.dedup_by_key(|version| version.node);
        if all.len() > MAX_WRITERS {
            all.sort_unstable_by_key(|version| std::cmp::Reverse((version.time, version.node)));
            all.truncate(MAX_WRITERS);
            all.sort_unstable_by_key(|version| version.node);
        }
        Self(match all.as_slice() {
            [] => Inner::None,
            [one] => Inner::One(*one),
            _ => Inner::Many(all.into()),
        })
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
