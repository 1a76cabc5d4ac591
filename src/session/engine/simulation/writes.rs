//! What clients have written, and whether a state contains it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::super::record::{Attribute, Death, Name, Record, hash_bytes};
use super::super::seen::Seen;
use super::super::table::Key;
use super::super::version::Version;
use super::oracle::name;
use super::world::Pid;

/// A write that a client was told of.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) key: Key,
    pub(super) birth: Version,
    pub(super) mark: Mark,
    pub(super) version: Version,
    /// Of an attribute: a number that tells its value from others.
    pub(super) value: u64,
    /// The version of the commit that it is part of. A rename makes attributes anew that were written earlier.
    pub(super) commit: Version,
    pub(super) by: Pid,
    /// What the writer had seen; `None` where that is not known.
    pub(super) base: Option<Seen>,
    pub(super) at: Duration,
    /// Who must have it, until it has handed it over.
    pub(super) responsible: BTreeSet<Pid>,
    /// All who were responsible have crashed.
    pub(super) excused: bool,
    /// Its writer has read without it, as nobody who had it was in reach, and does not look for it any more.
    pub(super) given_up: bool,
    /// When somebody who spoke for its slot was last without it.
    pub(super) lacked: Duration,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Mark {
    Birth,
    Attribute(Name),
    Death,
}

impl Write {
    /// A write that was made at `by`, which has to keep it.
    pub(super) fn new(key: &Key, birth: Version, mark: Mark, version: Version, by: Pid, at: Duration) -> Self {
        let responsible = BTreeSet::from([by]);
        Self {
            key: key.clone(),
            birth,
            mark,
            version,
            value: 0,
            commit: version,
            by,
            base: None,
            at,
            responsible,
            excused: false,
            given_up: false,
            lacked: Duration::ZERO,
        }
    }

    /// The entry is made.
    pub(super) fn birth(key: &Key, birth: Version, by: Pid, at: Duration) -> Self {
        Self::new(key, birth, Mark::Birth, birth, by, at)
    }

    /// The entry ends.
    pub(super) fn death(key: &Key, death: Version, by: Pid, at: Duration) -> Self {
        Self::new(key, Version::ZERO, Mark::Death, death, by, at)
    }

    /// An attribute of a record becomes what it is there.
    pub(super) fn attribute(key: &Key, birth: Version, attribute: &Attribute, by: Pid, at: Duration) -> Self {
        let mark = Mark::Attribute(Name::clone(&attribute.name));
        let write = Self::new(key, birth, mark, attribute.version, by, at);
        Self { value: number_of(attribute.value.as_ref()), ..write }
    }

    pub(super) fn over(self, base: Seen) -> Self {
        Self { base: Some(base), ..self }
    }

    pub(super) fn within(self, commit: Version) -> Self {
        Self { commit, ..self }
    }

    /// Whether a record contains this write, a later one, or an end of the entry.
    pub(super) fn is_in(&self, record: &Record) -> bool {
        let later = record.birth > self.birth;
        match &self.mark {
            Mark::Death => record.end.death >= self.version || record.birth > self.version,
            Mark::Birth => later || record.birth == self.birth || record.end.death >= self.birth,
            Mark::Attribute(name) => {
                let written = |attribute: &Attribute| {
                    let same = attribute.version == self.version
                        && (attribute.is_away() || number_of(attribute.value.as_ref()) == self.value);
                    same || attribute.version > self.version
                };
                let written = || record.attribute(name).is_some_and(written);
                later
                    || record.end.death >= self.birth
                    || record.birth == self.birth && (record.death() == Some(Death::Lapsed) || written())
            }
        }
    }

    /// Whether this very write is what a record has.
    pub(super) fn stands_in(&self, record: &Record) -> bool {
        match &self.mark {
            Mark::Attribute(name) => {
                record.birth == self.birth && record.attribute(name).is_some_and(|attribute| attribute.version == self.version)
            }
            Mark::Birth => record.birth == self.birth,
            Mark::Death => record.end.death == self.version,
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { birth, mark, version, value, by, base, at, .. } = self;
        write!(
            f,
            "{} {mark:?} {version} = {value:x} of {birth} by {by:?} at {at:?} over {base:?}, held by {:?}",
            name(&self.key),
            self.responsible
        )
    }
}

/// A number that tells one value from another, and from none.
pub(super) fn number_of(value: Option<&Bytes>) -> u64 {
    value.map_or(0, |value| hash_bytes(value) | 1)
}
