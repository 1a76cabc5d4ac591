//! Writes on a condition: of several that replace the same state, one is made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::super::table::Key;
use super::super::version::Version;
use super::oracle::{Oracle, SETTLE, name};
use super::world::{Pid, Verdict};
use super::writes::Write;

#[derive(Debug, Default)]
pub(super) struct Swaps {
    /// What owners have written.
    decided: BTreeMap<(Key, Version), Decision>,
    /// What clients were told, by the incarnation and the version that it replaces.
    winners: BTreeMap<(Key, Version, Version), Version>,
    /// Nobody had them any more when all were last equal.
    lost: BTreeSet<(Key, Version)>,
}

#[derive(Clone, Copy, Debug)]
struct Decision {
    birth: Version,
    by: Pid,
    at: Duration,
}

impl Swaps {
    pub(super) fn decided(&mut self, key: &Key, version: Version, birth: Version, by: Pid, at: Duration) {
        self.decided.insert((key.clone(), version), Decision { birth, by, at });
    }

    pub(super) fn lost<'a>(&mut self, writes: impl Iterator<Item = &'a Write>) {
        self.lost.extend(writes.map(|write| (write.key.clone(), write.version)));
    }
}

impl Oracle {
    /// A client was told that it has replaced what it expected.
    pub(super) fn won(&mut self, key: &Key, expected: Version, version: Version, value: &Bytes) -> Verdict {
        let Some(decision) = self.swaps.decided.get(&(key.clone(), version)).copied() else {
            return Err(format!("nobody has made the write {version} of {} over {expected}", name(key)));
        };
        if !self.is_written(version, value) {
            return Err(format!("{version} of {} is not what was to be written over {expected}", name(key)));
        }
        let state = (key.clone(), decision.birth, expected);
        let Some(first) = self.swaps.winners.insert(state, version) else { return Ok(()) };
        if first == version {
            return Err(format!("two were told that {version} of {} is theirs", name(key)));
        }
        let Some(other) = self.swaps.decided.get(&(key.clone(), first)).copied() else { return Ok(()) };
        let (early, late) = if other.at < decision.at { (first, decision.at) } else { (version, other.at) };
        let began = other.at.min(decision.at).saturating_sub(SETTLE);
        let lost = self.is_lost(key, early) || self.swaps.lost.contains(&(key.clone(), early));
        // Each side of a partition decides for itself; so do two of which one has just come, or has not heard yet that the other is there.
        let apart = other.by != decision.by && !self.talked(other.by.node, decision.by.node, began);
        if lost || apart || (began..=late).contains(&self.rough) || self.rough > late {
            return Ok(());
        }
        Err(format!("{first} and {version} both replaced {expected} of {}: {other:?}, {decision:?}", name(key)))
    }

    /// A client was told that something else is there.
    pub(super) fn refused(&self, key: &Key, expected: Version, found: Version) -> Verdict {
        let known = found.is_zero() || self.swaps.decided.contains_key(&(key.clone(), found)) || self.is_known(found);
        if found == expected || !known {
            return Err(format!("{} was refused though {found} was expected", name(key)));
        }
        Ok(())
    }
}
