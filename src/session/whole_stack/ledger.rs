//! What clients were told, against which every step and the end are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::Version;
use crate::id::UniqueId;
use crate::session::engine::{Committed, Engine, Record};
use crate::testing::simulator::NodeId;

/// What a node let go of, and who was to have it.
type Handed = (Arc<Record>, Vec<NodeId>);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Clients write nothing more.
    pub(super) closed: bool,
    /// The key that a client's session has now: removed, renamed or lost, it gets another.
    keys: BTreeMap<u64, Vec<u8>>,
    /// Keys that somebody has asked to be removed, or renamed.
    ended: BTreeSet<Vec<u8>>,
    deeds: BTreeMap<Vec<u8>, Vec<Deed>>,
    /// What each node has written last, since it was started.
    own: BTreeMap<(NodeId, Vec<u8>, &'static str), Write>,
    /// What each node has let go of, and to whom.
    handed: BTreeMap<(NodeId, Vec<u8>), Vec<Handed>>,
    /// Who is who.
    nodes: BTreeMap<UniqueId, NodeId>,
    /// All values that clients wanted written, and under which name; each is wanted once.
    wanted: BTreeMap<Bytes, &'static str>,
    /// Writes on a condition of which it is not known to which incarnation they were made.
    swaps: Vec<(Vec<u8>, String, Bytes, Committed)>,
    /// The value of each version that was ever seen.
    values: BTreeMap<(Version, String), Option<Bytes>>,
}

/// A write: its version, and the incarnation of the key that it was made in. Two clients that make the same key at once make two; the later
/// one stays.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Write {
    pub(super) birth: Version,
    pub(super) version: Version,
}

/// A change that a client was told is made.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    pub(super) key: Vec<u8>,
    pub(super) what: What,
    pub(super) write: Write,
    /// Of the commit that it is part of.
    pub(super) commit: Version,
    /// Who must have it: the writer, and those that have confirmed it. Empty when all of them have crashed.
    holders: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Attribute(String, Option<Bytes>),
    Death,
}

impl Deed {
    pub(super) fn new(key: &[u8], what: What, write: Write, commit: Version) -> Self {
        Self { key: key.to_vec(), what, write, commit, holders: BTreeSet::new() }
    }

    /// Whether a record contains this, something later, or an end of the entry.
    fn is_in(&self, record: &Record) -> bool {
        let Write { birth, version } = self.write;
        match &self.what {
            What::Death => record.end.death >= version || record.birth > version,
            What::Attribute(name, value) => {
                let found = record.attribute(name);
                let written = found.is_some_and(|it| it.version > version || it.version == version && it.value == *value);
                // What had expired lives on with what others had of it: what was let go of here does not come back from here.
                let expired = !record.is_alive() || record.end.lapsed >= version.time;
                record.birth > birth || record.end.death >= birth || record.birth == birth && (expired || written)
            }
        }
    }
}

impl Ledger {
    pub(super) fn current(&self, number: u64) -> Vec<u8> {
        self.keys.get(&number).cloned().unwrap_or_else(|| format!("session {number}").into_bytes())
    }

    /// The key for a session that a client has not found: what was once written to is not made anew, or nobody would notice its loss.
    pub(super) fn make(&mut self, number: u64, key: &[u8], fresh: u64) -> Vec<u8> {
        if self.deeds.contains_key(key) {
            self.keys.insert(number, fresh.to_be_bytes().to_vec());
        }
        self.current(number)
    }

    pub(super) fn removed(&mut self, number: u64, key: &[u8], fresh: u64) {
        self.ended.insert(key.to_vec());
        self.keys.insert(number, fresh.to_be_bytes().to_vec());
    }

    pub(super) fn renamed(&mut self, number: u64, key: &[u8], to: &[u8]) {
        self.ended.insert(key.to_vec());
        self.keys.insert(number, to.to_vec());
    }

    /// Somebody wants this value to be written.
    pub(super) fn wants(&mut self, name: &'static str, value: &Bytes) {
        self.wanted.insert(value.clone(), name);
    }

    pub(super) fn meets(&mut self, id: UniqueId, node: NodeId) {
        self.nodes.insert(id, node);
    }

    /// A node is gone: what only it had is gone with it.
    pub(super) fn ended(&mut self, node: NodeId) {
        self.own.retain(|(writer, ..), _| *writer != node);
        self.handed.retain(|(of, _), _| *of != node);
        self.nodes.retain(|_, known| *known != node);
        self.deeds.values_mut().flatten().for_each(|deed| _ = deed.holders.remove(&node));
    }

    /// A node that holds something no more, as those to whom it belongs have it.
    pub(super) fn let_go(&mut self, node: NodeId, key: &[u8], record: Arc<Record>, to: &[UniqueId]) {
        let to = to.iter().filter_map(|id| self.nodes.get(id).copied()).filter(|other| *other != node).collect();
        self.handed.entry((node, key.to_vec())).or_default().push((record, to));
    }

    pub(super) fn wrote(&mut self, node: NodeId, mut deed: Deed) {
        if let What::Attribute(name, _) = &deed.what
            && let Some(name) = super::NAMES.into_iter().find(|known| known == name)
        {
            let last = self.own.entry((node, deed.key.clone(), name)).or_insert(deed.write);
            *last = (*last).max(deed.write);
        }
        deed.holders.insert(node);
        self.deeds.entry(deed.key.clone()).or_default().push(deed);
    }

    /// Who has confirmed a commit.
    pub(super) fn confirmed(&mut self, committed: &Committed) {
        let confirmed: Vec<_> = committed.confirmed.iter().filter_map(|member| self.nodes.get(&member.id()).copied()).collect();
        let deeds = self.deeds.values_mut().flatten().filter(|deed| deed.commit == committed.version);
        deeds.filter(|deed| !deed.holders.is_empty()).for_each(|deed| deed.holders.extend(&confirmed));
    }

    /// A client was told that its value has replaced what it expected: those that have confirmed that have it, be it in the incarnation
    /// that they hold.
    pub(super) fn swapped(&mut self, node: NodeId, key: &[u8], name: &str, value: &Bytes, committed: &Committed) {
        let known = self.values.insert((committed.version, name.to_string()), Some(value.clone()));
        assert!(known.is_none_or(|known| known.as_ref() == Some(value)), "{node:?} has not written {value:x?} to {key:x?}");
        self.swaps.push((key.to_vec(), name.to_string(), value.clone(), committed.clone()));
    }

    /// What a node that asks now has written last under each name: what it writes until it is answered may have crossed the answer.
    pub(super) fn written(&self, node: NodeId, key: &[u8]) -> Vec<(&'static str, Write)> {
        let own = self.own.iter().filter(|((writer, written, _), _)| *writer == node && written == key);
        own.map(|((.., name), write)| (*name, *write)).collect()
    }

    /// A node reads: what it finds was written by somebody, and it is its own last write before it asked, or a later one, where that
    /// must be.
    pub(super) fn read(
        &mut self,
        node: NodeId,
        key: &[u8],
        record: &Arc<Record>,
        written: &[(&'static str, Write)],
        known: &[UniqueId],
    ) {
        self.are_known(key, record);
        for (name, Write { birth, version }) in written {
            let seen = record.attribute(name).map_or(Version::ZERO, |attribute| attribute.version);
            if seen < *version && record.birth <= *birth && self.is_near(node, key, *version, known) {
                panic!("{node:?} wrote {name} of {key:x?} at {version} and reads {record:?}");
            }
        }
    }

    /// Whether a node has a write itself, or knew somebody all the time who has it. One that has given it up, as it was alone, does not.
    fn is_near(&self, node: NodeId, key: &[u8], version: Version, known: &[UniqueId]) -> bool {
        let known: BTreeSet<_> = known.iter().filter_map(|id| self.nodes.get(id)).collect();
        let mut deeds = self.deeds.get(key).into_iter().flatten().filter(|deed| deed.write.version == version);
        deeds.any(|deed| deed.holders.iter().any(|holder| *holder == node || known.contains(holder)))
    }

    /// Whether clients wanted all that is in a record, and each version has one value.
    fn are_known(&mut self, key: &[u8], record: &Record) {
        for attribute in &record.attributes {
            let wanted = attribute.value.as_ref().is_none_or(|value| self.wanted.get(value) == Some(&&*attribute.name));
            let of_it = self.values.entry((attribute.version, attribute.name.to_string()));
            let same = of_it.or_insert_with(|| attribute.value.clone()) == &attribute.value;
            assert!(wanted && same, "nobody wrote {attribute:?} of {key:x?}");
        }
        assert!(record.end.death.is_zero() || self.ended.contains(key), "{key:x?} died of nothing: {record:?}");
    }

    /// Whether everybody has what it must have.
    pub(super) fn check(&mut self, seed: u64, engines: &BTreeMap<NodeId, &Engine>) {
        for engine in engines.values() {
            engine.records().for_each(|(key, record)| self.are_known(key, record));
        }
        for (key, name, value, committed) in std::mem::take(&mut self.swaps) {
            let has = |engine: &&&Engine| {
                let record = engine.record(&key);
                record.and_then(|record| record.attribute(&name)).is_some_and(|it| it.version == committed.version)
            };
            let holders: BTreeSet<_> = engines.iter().filter(|(_, engine)| has(engine)).map(|(node, _)| *node).collect();
            if let Some(record) = holders.first().and_then(|node| engines[node].record(&key)) {
                let write = Write { birth: record.birth, version: committed.version };
                let deed = Deed::new(&key, What::Attribute(name, Some(value)), write, committed.version);
                self.deeds.entry(key).or_default().push(Deed { holders, ..deed });
                self.confirmed(&committed);
            }
        }
        for deed in self.deeds.values_mut().flatten() {
            let mut seen = BTreeSet::new();
            while let Some(node) = deed.holders.iter().find(|node| !seen.contains(*node)).copied() {
                seen.insert(node);
                let Some(engine) = engines.get(&node) else { continue };
                let record = engine.record(&deed.key);
                if record.is_some_and(|record| deed.is_in(record)) {
                    continue;
                }
                let handed = self.handed.get(&(node, deed.key.clone())).into_iter().flatten().rev();
                let Some((_, to)) = handed.into_iter().find(|(record, _)| deed.is_in(record)) else {
                    panic!("seed {seed}: {node:?} has lost {deed:x?}: it holds {record:?}");
                };
                deed.holders.remove(&node);
                deed.holders.extend(to.iter().filter(|to| engines.contains_key(to)));
            }
        }
    }

    /// Whether what somebody had to have is in the state that all replicas agree on.
    pub(super) fn check_end(&self, seed: u64, engines: &BTreeMap<NodeId, &Engine>) {
        for deed in self.deeds.values().flatten().filter(|deed| !deed.holders.is_empty()) {
            let found = engines.values().find_map(|engine| engine.record(&deed.key));
            assert!(found.is_some_and(|record| deed.is_in(record)), "seed {seed}: {deed:x?} is lost: {found:?} is left");
        }
    }
}
