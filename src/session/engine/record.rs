//! The state of one key, and how two states of it become one.
//!
//! A record is a join-semilattice: [`Record::merge`] is commutative, associative and idempotent, so replicas that have merged the same
//! changes, in any order and any number of times, are equal. It is made of registers that only grow:
//!
//! - `birth`: the version that made this incarnation of the key. A later birth replaces the record as a whole.
//! - `death`: the latest removal. An incarnation born before it is dead for good, whatever else is written to it.
//! - `touched` and `lapsed`: the latest access, and the access as of which the entry expired. Expiry, unlike removal, gives way to an
//!   access that it did not know of: a partition must not end a session that is in use on its other side.
//! - `lease`: the longest time without access, a register of its own.
//! - attributes: each the last write by version; a removed one stays as a version without a value.
//! - `seen`: for each writer the time up to which its writes are in here: what tells a lost update from one that was overwritten.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::attributes::Attributes;
use super::seen::Seen;
use super::version::Version;
use crate::id::mix;

/// Attribute names are shared: thousands of sessions use the same few.
pub(crate) type Name = Arc<str>;

/// An attribute: its last write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Attribute {
    pub(crate) name: Name,
    pub(crate) version: Version,
    /// `None` when it was removed.
    pub(crate) value: Option<Bytes>,
}

/// The attribute that says when an entry was made that goes on under another key: milliseconds since 1970, in eight bytes.
pub(crate) const CREATED: &str = "\0created";

/// What a value that is in the store only points to, with no length. No value that came from elsewhere does, so that the two are told
/// apart; and it is less than any other, so that a merge prefers each.
static AWAY: [u8; 1] = [0];

impl Attribute {
    /// Whether its value can be let go of while it is in the store. That of [`CREATED`] is wanted when the entry ends.
    pub(super) fn can_go_away(&self) -> bool {
        self.value.as_ref().is_some_and(|value| !value.is_empty()) && *self.name != *CREATED
    }

    pub(super) fn is_away(&self) -> bool {
        self.value.as_ref().is_some_and(|value| value.is_empty() && value.as_ptr() == AWAY.as_ptr())
    }
}

/// The longest time without access: a register. Zero milliseconds: the entry does not expire.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Lease {
    pub(crate) version: Version,
    pub(crate) millis: u64,
}

/// What has ended an entry, or an incarnation before it. Few entries have one: it takes its room elsewhere.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct Ends(Option<Box<Ended>>);

/// What [`Ends`] tell; all zeros when nothing has ended.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Ended {
    pub(crate) death: Version,
    /// A time of a hybrid clock.
    pub(crate) lapsed: u64,
}

impl Ends {
    pub(crate) fn of(death: Version, lapsed: u64) -> Self {
        Self((!death.is_zero() || lapsed > 0).then(|| Box::new(Ended { death, lapsed })))
    }
}

impl Deref for Ends {
    type Target = Ended;

    fn deref(&self) -> &Ended {
        const NONE: &Ended = &Ended { death: Version::ZERO, lapsed: 0 };
        self.0.as_deref().unwrap_or(NONE)
    }
}

/// The state of one key; see the [module](self). A change is a record as well, with only what changed in it.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) birth: Version,
    /// A time of a hybrid clock.
    pub(crate) touched: u64,
    pub(crate) end: Ends,
    pub(crate) lease: Lease,
    pub(crate) seen: Seen,
    /// Sorted by name.
    pub(crate) attributes: Attributes,
}

/// Why a record is not alive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Death {
    /// Removed: an invalidated session, a key taken out of a map.
    Removed,
    /// Expired.
    Lapsed,
}

/// A write that a merge threw away although who overwrote it had not seen it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Loss {
    pub(crate) name: Name,
    pub(crate) lost: Attribute,
    pub(crate) kept: Attribute,
}

/// What a merge did.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Whether anything is different now.
    pub(crate) changed: bool,
    /// Concurrent writes of one attribute, of which one was lost.
    pub(crate) losses: Vec<Loss>,
}

impl Record {
    /// A new incarnation.
    pub(crate) fn born(birth: Version, lease_millis: u64) -> Self {
        Self {
            birth,
            touched: birth.time,
            lease: Lease { version: birth, millis: lease_millis },
            seen: Seen::one(birth),
            ..Self::default()
        }
    }

    /// What is left of a removed entry.
    pub(crate) fn tombstone(death: Version) -> Self {
        Self { end: Ends::of(death, 0), ..Self::default() }
    }

    /// Why this entry is not there, or `None` when it is.
    pub(crate) fn death(&self) -> Option<Death> {
        if self.birth <= self.end.death {
            Some(Death::Removed)
        } else if self.touched <= self.end.lapsed {
            Some(Death::Lapsed)
        } else {
            None
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.death().is_none()
    }

    /// When this entry was made, under whatever key, in milliseconds since 1970.
    pub(crate) fn created_millis(&self) -> u64 {
        let moved = self.value(CREATED).and_then(|bytes| <[u8; 8]>::try_from(&**bytes).ok());
        moved.map_or_else(|| self.birth.epoch_millis(), u64::from_be_bytes)
    }

    /// Whether a write to the incarnation with this birth is in here, or was ended.
    pub(crate) fn includes(&self, birth: Version, version: Version) -> bool {
        self.end.death >= birth || self.birth > birth || self.birth == birth && self.seen.covers(version)
    }

    /// The attribute with this name, removed or not.
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.position(name).ok().map(|at| &self.attributes[at])
    }

    /// The value of an attribute.
    pub(crate) fn value(&self, name: &str) -> Option<&Bytes> {
        self.attribute(name)?.value.as_ref()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.attributes.binary_search_by(|attribute| (*attribute.name).cmp(name))
    }

    /// Writes an attribute into a change that is being put together.
    pub(crate) fn put(&mut self, attribute: Attribute) {
        match self.position(&attribute.name) {
            Ok(at) => self.attributes[at] = attribute,
            Err(at) => self.attributes.insert(at, attribute),
        }
    }

    /// The latest time in this record: what a write to it must exceed.
    pub(crate) fn latest(&self) -> u64 {
        let attributes = self.attributes.iter().map(|attribute| attribute.version.time).max().unwrap_or(0);
        let end = self.end.death.time.max(self.end.lapsed);
        self.birth.time.max(end).max(self.touched).max(self.lease.version.time).max(attributes)
    }

    /// Takes in another state, or a change, of the same key.
    pub(crate) fn merge(&mut self, other: Self) -> Merged {
        let mut merged = Merged::default();
        if other.end.death > self.end.death {
            self.end = Ends::of(other.end.death, self.end.lapsed);
            merged.changed = true;
        }
        if other.birth > self.birth.max(self.end.death) {
            // Another incarnation: nothing of this one stays but what outlives all of them.
            *self = Self { end: Ends::of(self.end.death, other.end.lapsed), ..other };
            merged.changed = true;
        } else if other.birth == self.birth {
            merged.changed |= other.touched > self.touched || other.end.lapsed > self.end.lapsed;
            self.touched = self.touched.max(other.touched);
            if other.end.lapsed > self.end.lapsed {
                self.lapse(other.end.lapsed);
            }
            if other.lease > self.lease {
                self.lease = other.lease;
                merged.changed = true;
            }
            self.merge_attributes(other.attributes, &other.seen, &mut merged);
            merged.changed |= self.seen.merge(&other.seen);
        }
        if self.birth <= self.end.death && !self.birth.is_zero() {
            // Whoever removed it cannot have seen what was written later.
            let death = self.end.death;
            let late = self.attributes.iter().filter(|written| written.version > death && written.value.is_some());
            merged.losses.extend(late.map(|lost| Loss {
                name: Arc::clone(&lost.name),
                lost: lost.clone(),
                kept: Attribute { name: Arc::clone(&lost.name), version: death, value: None },
            }));
            // Dead for good: only the death is worth keeping.
            *self = Self::tombstone(self.end.death);
        }
        merged
    }

    fn merge_attributes(&mut self, attributes: Attributes, seen: &Seen, merged: &mut Merged) {
        for theirs in attributes {
            let at = match self.position(&theirs.name) {
                Ok(at) => at,
                Err(at) => {
                    self.attributes.insert(at, theirs);
                    merged.changed = true;
                    continue;
                }
            };
            let mine = &mut self.attributes[at];
            // Equal versions with different values are a forgery; the order of values keeps even that convergent.
            let theirs_win = (theirs.version, &theirs.value) > (mine.version, &mine.value);
            if theirs.version != mine.version {
                let unseen = if theirs_win { !seen.covers(mine.version) } else { !self.seen.covers(theirs.version) };
                if unseen {
                    let (lost, kept) = if theirs_win { (mine.clone(), theirs.clone()) } else { (theirs.clone(), mine.clone()) };
                    merged.losses.push(Loss { name: Arc::clone(&theirs.name), lost, kept });
                }
            }
            if theirs_win {
                *mine = theirs;
                merged.changed = true;
            }
        }
    }

    /// The whole state in one number: equal for equal records, but for the access time, which is compared beside it.
    pub(crate) fn fingerprint(&self) -> u64 {
        // Mixed each time: times differ in few bits, and so would what marks a register if it were only added to them.
        let version = |seed: u64, version: Version| mix(mix(mix(seed) ^ version.time) ^ version.node);
        let mut sum = version(1, self.birth)
            .wrapping_add(version(2, self.end.death))
            .wrapping_add(version(3, self.lease.version))
            .wrapping_add(mix(mix(4) ^ self.end.lapsed));
        if self.death() == Some(Death::Lapsed) {
            // Replicas that have and that have not yet let go of the attributes are equal.
            return sum;
        }
        for attribute in &self.attributes {
            let kind = 5 + u64::from(attribute.value.is_some());
            sum = sum.wrapping_add(version(hash_bytes(attribute.name.as_bytes()) ^ kind, attribute.version));
        }
        sum
    }

    /// Expires as of an access.
    pub(crate) fn lapse(&mut self, lapsed: u64) {
        self.end = Ends::of(self.end.death, lapsed);
    }

    /// Lets go of what an expired entry held. It no longer claims to contain any write: should it live on elsewhere, all of it comes back.
    pub(crate) fn compact(&mut self) {
        debug_assert_eq!(self.death(), Some(Death::Lapsed), "only what has expired is let go of");
        self.attributes = Attributes::default();
        self.seen = Seen::default();
    }

    /// Lets go of the values, which are in the store.
    pub(crate) fn go_away(&mut self) {
        for attribute in self.attributes.iter_mut().filter(|attribute| attribute.can_go_away()) {
            attribute.value = Some(Bytes::from_static(&AWAY[..0]));
        }
    }

    /// Whether values are missing.
    pub(crate) fn is_away(&self) -> bool {
        self.attributes.iter().any(Attribute::is_away)
    }

    /// Takes values that are missing from another state of this key, where that has the very same writes.
    pub(crate) fn come_back(&mut self, from: &Self) {
        for missing in self.attributes.iter_mut().filter(|attribute| attribute.is_away()) {
            if let Some(there) =
                from.attribute(&missing.name).filter(|there| there.version == missing.version && !there.is_away())
                && there.value.is_some()
            {
                missing.value.clone_from(&there.value);
            }
        }
    }

    /// Roughly what this record takes in memory, in bytes, without its key.
    pub(crate) fn size(&self) -> usize {
        let attributes =
            self.attributes.iter().map(|attribute| size_of::<Attribute>() + attribute.value.as_ref().map_or(0, Bytes::len));
        size_of::<Self>() + attributes.sum::<usize>()
    }
}

/// Values may be secret: only their sizes are shown.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("birth", &self.birth)
            .field("death", &self.end.death)
            .field("touched", &self.touched)
            .field("lapsed", &self.end.lapsed)
            .field("lease", &self.lease)
            .field("seen", &self.seen)
            .field(
                "attributes",
                &self.attributes.iter().map(|a| (&a.name, a.version, a.value.as_ref().map(Bytes::len))).collect::<Vec<_>>(),
            )
            .finish()
    }
}

/// A hash that is the same on every member and in every version: it decides where keys live.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| mix(sum ^ u64::from_le_bytes(*word)));
    mix(rest.iter().fold(sum, |word, byte| mix(word ^ u64::from(*byte))))
}

#[cfg(test)]
mod tests;
