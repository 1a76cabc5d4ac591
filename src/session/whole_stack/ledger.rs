//! What clients were told, against which the end is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Version;
use crate::session::engine::{Committed, Record};
use crate::testing::simulator::NodeId;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The key that a client's session has now: renamed or removed, it gets another.
    keys: BTreeMap<u64, Vec<u8>>,
    /// Keys that somebody has asked to be removed, or renamed.
    ended: BTreeSet<Vec<u8>>,
    receipts: Vec<Receipt>,
    /// What each node has written last, since it was started.
    own: BTreeMap<(NodeId, Vec<u8>, &'static str), Write>,
    /// Crashes so far.
    crashes: usize,
}

/// A write: its version, and the incarnation of the key that it was made in. Two clients that make the same key at once make two; the later
/// one stays.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Write {
    pub(super) birth: Version,
    pub(super) version: Version,
}

/// A write that was confirmed.
#[derive(Debug)]
struct Receipt {
    key: Vec<u8>,
    name: &'static str,
    write: Write,
    /// Copies beside the writer's.
    copies: usize,
    /// Crashes of any node before it was given.
    crashes_before: usize,
    by: NodeId,
}

impl Ledger {
    pub(super) fn current(&self, number: u64) -> Vec<u8> {
        self.keys.get(&number).cloned().unwrap_or_else(|| format!("session {number}").into_bytes())
    }

    pub(super) fn removed(&mut self, number: u64, key: &[u8], fresh: u64) {
        self.ended.insert(key.to_vec());
        self.keys.insert(number, fresh.to_be_bytes().to_vec());
    }

    pub(super) fn renamed(&mut self, number: u64, key: &[u8], to: &[u8]) {
        self.ended.insert(key.to_vec());
        self.keys.insert(number, to.to_vec());
    }

    pub(super) fn crashed(&mut self, node: NodeId) {
        self.crashes += 1;
        self.restarted(node);
    }

    /// Orderly, after it has handed over: what it held is held by others.
    pub(super) fn left(&mut self, node: NodeId) {
        self.restarted(node);
    }

    /// Somebody hands over what it holds to so many: on its side of a partition they may be fewer than there were copies.
    pub(super) fn handing_over(&mut self, takers: usize) {
        self.receipts.iter_mut().for_each(|receipt| receipt.copies = receipt.copies.min(takers.saturating_sub(1)));
    }

    pub(super) fn restarted(&mut self, node: NodeId) {
        self.own.retain(|(writer, ..), _| *writer != node);
    }

    pub(super) fn wrote(&mut self, node: NodeId, key: &[u8], name: &'static str, write: Write) {
        let last = self.own.entry((node, key.to_vec(), name)).or_insert(write);
        *last = (*last).max(write);
    }

    /// A node reads: it must see its own last write, or a later one.
    pub(super) fn read(&self, node: NodeId, key: &[u8], record: &Arc<Record>) {
        for ((writer, written, name), write) in &self.own {
            if *writer == node && written == key && !name.is_empty() {
                let seen = record.attribute(name).map_or(Version::ZERO, |attribute| attribute.version);
                let Write { birth, version } = *write;
                assert!(seen >= version || record.birth > birth, "{node:?} wrote {name} at {version} and reads {seen}");
            }
        }
    }

    pub(super) fn confirmed(&mut self, by: NodeId, key: &[u8], name: &'static str, birth: Version, committed: &Committed) {
        self.receipts.push(Receipt {
            key: key.to_vec(),
            name,
            write: Write { birth, version: committed.version },
            copies: committed.confirmed.len(),
            crashes_before: self.crashes,
            by,
        });
    }

    /// Of `records`, the state that all replicas agree on.
    pub(super) fn check(&self, seed: u64, records: impl Fn(&[u8]) -> Option<Arc<Record>>) {
        for receipt in &self.receipts {
            let Receipt { key, name, write: Write { birth, version }, copies, crashes_before, by } = receipt;
            let found = records(key);
            if name.is_empty() {
                // A removal, or the old key of a rename, that others have confirmed. Who had found nothing may have made the key anew.
                let back = found.is_some_and(|record| record.birth <= *version);
                assert!(!back || self.crashes - crashes_before > *copies, "seed {seed}: {key:x?} is back");
                continue;
            }
            if self.ended.contains(key) || self.crashes - crashes_before > *copies {
                continue;
            }
            let kept = found.as_ref().and_then(|record| record.attribute(name)).map(|attribute| attribute.version);
            let born_again = found.as_ref().is_some_and(|record| record.birth > *birth);
            assert!(
                kept.is_some_and(|kept| kept >= *version) || born_again,
                "seed {seed}: {name} of {key:x?}, written by {by:?} at {version} with {copies} copies, is {kept:?} after {} crashes",
                self.crashes - crashes_before,
            );
        }
    }
}
