//! Those who use the sessions while all this happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::change::{Change, Refusal};
use super::super::commit::{Commit, CommitFault, Committed};
use super::super::fetch::{FetchFault, Get};
use super::super::message::{Phase, Want};
use super::super::record::{Name, Record};
use super::super::swap::SwapFault;
use super::super::table::{Key, slot_of};
use super::super::version::Version;
use super::super::{Copies, Ticket};
use super::chance::Chance;
use super::coverage::Fault;
use super::oracle::{COUNTER, Kind, name};
use super::plan::Plan;
use super::world::{Happening, Pid, Verdict, World};
use super::writes::Write;

type Attributes = Vec<(Name, Option<Bytes>)>;

/// What a client does with an entry that it has read.
#[derive(Clone, Debug)]
pub(super) enum Intent {
    Nothing,
    Update(Attributes),
    Remove,
    Rename,
    Swap,
}

/// An entry that was read, and what is to be done with it.
#[derive(Clone, Debug)]
pub(super) struct Thought {
    key: Key,
    read: Arc<Record>,
    intent: Intent,
}

/// A commit that is under way: the keys that it changes.
#[derive(Clone, Debug)]
struct Pending {
    keys: Vec<Key>,
    want: Want,
    removal: bool,
}

/// A write on a condition that is under way.
#[derive(Clone, Debug)]
struct Swapping {
    key: Key,
    expected: Version,
    value: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    /// The names in use.
    pool: Vec<Key>,
    fresh: u64,
    /// Most names are in one slot.
    crowded: bool,
    seed: u64,
    reads: BTreeMap<(Pid, Ticket), (Key, Intent, Duration)>,
    commits: BTreeMap<(Pid, Ticket), Pending>,
    swaps: BTreeMap<(Pid, Ticket), Swapping>,
}

impl Clients {
    pub(super) fn new(seed: u64, plan: &Plan) -> Self {
        let mut clients = Self { seed, crowded: plan.crowded, ..Self::default() };
        for _ in 0..plan.keys {
            let key = clients.fresh();
            clients.pool.push(key);
        }
        clients
    }

    fn fresh(&mut self) -> Key {
        let crowd = self.pool.first().filter(|_| self.crowded && !self.fresh.is_multiple_of(3)).cloned();
        match crowd {
            Some(first) => self.beside(&first),
            None => self.next(),
        }
    }

    /// Nobody waits for the answers of a process that has ended.
    pub(super) fn ended(&mut self, pid: Pid) {
        self.reads.retain(|(of, _), _| *of != pid);
        self.commits.retain(|(of, _), _| *of != pid);
        self.swaps.retain(|(of, _), _| *of != pid);
    }

    fn next(&mut self) -> Key {
        self.fresh += 1;
        format!("k{}-{}", self.seed, self.fresh).into_bytes().into()
    }

    /// A new name in the same slot.
    fn beside(&mut self, key: &[u8]) -> Key {
        loop {
            let other = self.next();
            if slot_of(&other) == slot_of(key) {
                return other;
            }
        }
    }
}

impl World {
    /// A client does something.
    pub(super) fn client(&mut self) -> Verdict {
        if self.calm {
            return Ok(());
        }
        let gap = u64::try_from(self.plan.op_gap.as_millis()).expect("short");
        let next = self.chance.millis(0, 2 * gap);
        self.schedule(next, Happening::Client);
        let key = self.choose_key();
        let intent = match self.chance.below(100) {
            0..=24 => Intent::Nothing,
            25..=74 => Intent::Update(self.attributes()),
            75..=79 => Intent::Remove,
            80..=83 => Intent::Rename,
            84..=90 => Intent::Swap,
            more => {
                let Some(node) = self.choose(&key) else { return Ok(()) };
                return self.make(node, &key, more >= 98);
            }
        };
        let twice = self.chance.percent(25);
        for _ in 0..=u64::from(twice) {
            let Some(node) = self.choose(&key) else { return Ok(()) };
            let mut intent = intent.clone();
            if let Intent::Update(attributes) = &mut intent {
                *attributes = self.attributes();
            }
            self.get(node, &key, intent)?;
        }
        Ok(())
    }

    /// One of the names; some plans have such that are hardly ever used.
    fn choose_key(&mut self) -> Key {
        let names = self.clients.pool.len();
        let among = if self.plan.skewed { 1 + self.chance.index(names) } else { names };
        self.clients.pool[self.chance.index(among)].clone()
    }

    /// A node that serves; now and then one that does not yet, or that leaves. In some plans mostly the same for the same name.
    fn choose(&mut self, key: &Key) -> Option<usize> {
        let any = self.chance.percent(5);
        let serves = |node: &usize| {
            let engine = self.nodes[*node].process.as_ref().map(|process| (&process.engine, process.leaving));
            engine.is_some_and(|(engine, leaving)| any || engine.phase() == Phase::Ready && !leaving)
        };
        let nodes: Vec<_> = self.awake().into_iter().filter(serves).collect();
        let at = if self.plan.sticky && !self.chance.percent(20) {
            usize::from(slot_of(key)) % nodes.len().max(1)
        } else {
            self.chance.index(nodes.len())
        };
        nodes.get(at).copied()
    }

    fn attributes(&mut self) -> Attributes {
        let count = 1 + self.chance.below(2);
        let mut attributes = Attributes::new();
        for _ in 0..count {
            let name = format!("a{}", self.chance.below(4));
            let value = (!self.chance.percent(15)).then(|| self.value());
            attributes.retain(|(known, _)| **known != *name);
            attributes.push((name.into(), value));
        }
        attributes
    }

    fn value(&mut self) -> Bytes {
        let length = if self.chance.percent(10) { self.chance.index(1500) } else { self.chance.index(40) };
        let mut value = format!("{:x}-", self.chance.draw()).into_bytes();
        value.resize(value.len() + length, b'.');
        value.into()
    }

    fn want(chance: &mut Chance) -> Want {
        match chance.below(10) {
            0..=2 => Want::None,
            3..=6 => Want::Copies(1),
            7 => Want::Copies(2),
            8 => Want::Copies(20),
            _ => Want::All,
        }
    }

    fn get(&mut self, node: usize, key: &Key, intent: Intent) -> Verdict {
        let time = self.time(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let pid = process.pid;
        let got = process.engine.get(time, key);
        self.trace.tell(|| format!("{:?} {pid:?} gets {}: {got:?}", self.now, name(key)));
        match got {
            Get::Here(record) => {
                self.coverage.saw(Fault::Read);
                self.read(pid, key, Some(&record), intent, self.now)?;
            }
            Get::Absent => self.read(pid, key, None, intent, self.now)?,
            Get::Asking(ticket) => {
                self.oracle.asked(pid, ticket, Kind::Fetch, self.now)?;
                self.clients.reads.insert((pid, ticket), (key.clone(), intent, self.now));
            }
        }
        self.with(node, |_| ())
    }

    fn read(&mut self, pid: Pid, key: &Key, record: Option<&Arc<Record>>, intent: Intent, since: Duration) -> Verdict {
        self.oracle.read(pid, key, record.map(|record| &**record), since, self.now, &self.nodes)?;
        if self.proving {
            self.must_be(pid, key, record.map(|record| &**record))?;
        }
        let Some(record) = record else { return Ok(()) };
        self.oracle.leases.accessed(pid, key, record.birth, self.now);
        let after = if self.proving || self.chance.percent(50) { Duration::ZERO } else { self.chance.millis(0, 400) };
        let thought = Thought { key: key.clone(), read: Arc::clone(record), intent };
        self.schedule(after, Happening::Think { pid, thought });
        Ok(())
    }

    pub(super) fn fetched(&mut self, pid: Pid, ticket: Ticket, result: Result<Option<Arc<Record>>, FetchFault>) -> Verdict {
        self.trace.tell(|| format!("{:?} {pid:?} fetched {ticket}: {result:?}", self.now));
        self.oracle.answered(pid, ticket, Kind::Fetch)?;
        let Some((key, intent, since)) = self.clients.reads.remove(&(pid, ticket)) else {
            return Err(format!("{pid:?} fetched {ticket}, which nobody asked for"));
        };
        match result {
            Ok(record) => {
                self.coverage.saw(Fault::Fetched);
                self.read(pid, &key, record.as_ref(), intent, since)
            }
            Err(fault) if self.proving => Err(format!("{pid:?} cannot read {}: {fault:?}", name(&key))),
            Err(_) => Ok(()),
        }
    }

    pub(super) fn think(&mut self, pid: Pid, thought: Thought) -> Verdict {
        let Thought { key, read, intent } = thought;
        if self.process(pid).is_none() {
            return Ok(());
        }
        match intent {
            Intent::Nothing => Ok(()),
            Intent::Update(attributes) => {
                let lease = self.chance.percent(5).then(|| Duration::from_millis(*self.chance.pick(&self.plan.leases)));
                self.change(pid, &key, Change::Update { read, lease, attributes })
            }
            Intent::Remove => {
                if self.chance.percent(60) {
                    self.renew(&key);
                }
                let read = self.chance.percent(70).then_some(read);
                self.change(pid, &key, Change::Remove { read })
            }
            Intent::Rename => {
                let to = self.clients.beside(&key);
                if let Some(at) = self.clients.pool.iter().position(|known| *known == key) {
                    self.clients.pool[at] = to.clone();
                }
                let attributes = if self.chance.percent(30) { self.attributes() } else { Attributes::new() };
                self.change(pid, &key, Change::Rename { read, to, lease: None, attributes })
            }
            Intent::Swap => self.swap(pid, &key, &read),
        }
    }

    /// Whether nothing that was asked is still to be answered.
    pub(super) fn is_answered(&self) -> bool {
        self.clients.reads.is_empty() && self.clients.commits.is_empty() && self.clients.swaps.is_empty()
    }

    /// The keys in use.
    pub(super) fn pool(&self) -> Vec<Key> {
        self.clients.pool.clone()
    }

    /// Somebody changes an entry at a node, or replaces what is there.
    pub(super) fn prove(&mut self, node: usize, key: &Key, swap: bool) -> Verdict {
        let intent = if swap { Intent::Swap } else { Intent::Update(self.attributes()) };
        self.get(node, key, intent)
    }

    /// Somebody only reads.
    pub(super) fn look_up(&mut self, node: usize, key: &Key) -> Verdict {
        self.get(node, key, Intent::Nothing)
    }

    /// Another name instead of this one.
    fn renew(&mut self, key: &Key) {
        let fresh = self.clients.fresh();
        if let Some(at) = self.clients.pool.iter().position(|known| known == key) {
            self.clients.pool[at] = fresh;
        }
    }

    fn make(&mut self, node: usize, key: &Key, replace: bool) -> Verdict {
        let Some(pid) = self.nodes[node].process.as_ref().map(|process| process.pid) else { return Ok(()) };
        let lease = Duration::from_millis(*self.chance.pick(&self.plan.leases));
        let attributes = self.attributes();
        let change = if replace { Change::Replace { lease, attributes } } else { Change::Create { lease, attributes } };
        self.change(pid, key, change)
    }

    fn change(&mut self, pid: Pid, key: &Key, change: Change) -> Verdict {
        let want = if self.proving { Want::All } else { Self::want(&mut self.chance) };
        if !self.load_for(pid, key, &change)? {
            return Ok(());
        }
        let time = self.time(pid.node);
        let Some(process) = self.nodes[pid.node].process.as_mut().filter(|process| process.pid == pid) else { return Ok(()) };
        self.trace.tell(|| format!("{:?} {pid:?} commits {}: {change:?} {want:?}", self.now, name(key)));
        let engine = &mut process.engine;
        let before = engine.table.get(key).map(|held| Arc::clone(&held.record));
        let (fault, lease, asked, to, read) = match &change {
            Change::Create { lease, attributes } => (Fault::Created, Some(*lease), attributes.clone(), None, None),
            Change::Replace { lease, attributes } => (Fault::Replaced, Some(*lease), attributes.clone(), None, None),
            Change::Update { read, lease, attributes } => {
                let removes = attributes.iter().any(|(_, value)| value.is_none());
                let fault = if removes { Fault::AttributeRemoved } else { Fault::Changed };
                (fault, *lease, attributes.clone(), None, Some(Arc::clone(read)))
            }
            Change::Rename { read, to, attributes, .. } => {
                (Fault::Renamed, None, attributes.clone(), Some(to.clone()), Some(Arc::clone(read)))
            }
            Change::Remove { read } => (Fault::Removed, None, Attributes::new(), None, read.clone()),
        };
        let removal = matches!(change, Change::Remove { .. } | Change::Rename { .. });
        let commit = match engine.commit(time, key, change, want).map_err(Refusal::from) {
            Ok(commit) => commit,
            Err(refusal) => {
                self.trace.tell(|| format!("{:?} {pid:?} refuses: {refusal:?}", self.now));
                if refusal == Refusal::Full {
                    self.coverage.saw(Fault::Full);
                }
                let ended = self.oracle.leases.has_lapsed(key, read.as_ref().map_or(Version::ZERO, |read| read.birth));
                let truth = self.oracle.is_true(refusal, key, read.as_deref(), to.as_ref());
                if !truth || self.proving && !ended && refusal != Refusal::Full {
                    return Err(format!("{pid:?} refuses a change of {}, of {read:?}: {refusal:?}", name(key)));
                }
                return self.with(pid.node, |_| ());
            }
        };
        self.coverage.saw(fault);
        let after = engine.table.get(key).map(|held| Arc::clone(&held.record));
        let renamed = to.as_ref().and_then(|to| engine.table.get(to)).map(|held| Arc::clone(&held.record));
        let known = match (before, read) {
            // What is here is from an incarnation before the one that was read elsewhere.
            (Some(before), Some(read)) if read.birth > before.birth.max(before.end.death) => Some(read),
            (before, read) => before.or(read),
        };
        if matches!(fault, Fault::Created | Fault::Replaced) && known.is_none() {
            self.fits(pid)?;
        }
        self.oracle.leases.gives(key, lease.unwrap_or_default());
        let born = |record: &Option<Arc<Record>>| record.as_ref().map_or(Version::ZERO, |record| record.birth);
        self.oracle.leases.accessed(pid, key, born(&after), self.now);
        let mut keys = vec![key.clone()];
        match (after, &commit) {
            (Some(after), _) if removal && known.as_ref().is_some_and(|read| after.end.death <= read.birth) => {
                return Err(format!("{pid:?} removed {known:?}, and made {after:?}"));
            }
            (Some(after), _) if removal => self.oracle.wrote(Write::death(key, after.end.death, pid, self.now)),
            (None, Commit::Done(done)) if removal => self.oracle.wrote(Write::death(key, done.version, pid, self.now)),
            (Some(after), _) => {
                if matches!(fault, Fault::Created | Fault::Replaced) {
                    self.oracle.wrote(Write::birth(key, after.birth, pid, self.now));
                }
                let base = known.as_ref().map(|record| record.seen.clone()).unwrap_or_default();
                let written: Vec<_> = asked.iter().filter_map(|(name, _)| after.attribute(name).cloned()).collect();
                let as_asked = |(name, value): &(Name, Option<Bytes>)| after.attribute(name).is_some_and(|it| it.value == *value);
                let one = written.windows(2).all(|pair| pair[0].version == pair[1].version);
                if !one || !asked.iter().all(as_asked) {
                    return Err(format!("{pid:?} was to write {asked:?}, and made {after:?}"));
                }
                for attribute in &written {
                    let write = Write::attribute(key, after.birth, attribute, pid, self.now);
                    self.oracle.wrote(write.over(base.clone()));
                }
            }
            (None, _) => return Err(format!("{pid:?} has nothing of what it wrote to {}", name(key))),
        }
        if let Some(to) = to {
            self.oracle.leases.accessed(pid, &to, born(&renamed), self.now);
            let (Some(old), Some(new)) = (known, renamed) else {
                return Err(format!("{pid:?} has nothing of {} after the rename", name(&to)));
            };
            self.goes_on(pid, &to, &old, &new, asked)?;
            keys.push(to);
        }
        match commit {
            Commit::Done(receipt) => {
                if !receipt.confirmed.is_empty() {
                    return Err(format!("{pid:?}: done before anybody could confirm: {receipt:?}"));
                }
                self.receipt(pid, &keys, want, &receipt, removal)?;
            }
            Commit::Waiting(ticket) => {
                self.oracle.asked(pid, ticket, Kind::Commit, self.now)?;
                self.clients.commits.insert((pid, ticket), Pending { keys, want, removal });
            }
        }
        self.with(pid.node, |_| ())
    }

    /// What is made here must not be more than may be here.
    fn fits(&self, pid: Pid) -> Verdict {
        let Some(engine) = self.process(pid).map(|process| &process.engine) else { return Ok(()) };
        let config = &self.plan.config;
        if engine.table.len() > config.max_entries || engine.table.bytes() > config.max_bytes {
            let (entries, bytes) = (engine.table.len(), engine.table.bytes());
            return Err(format!("{pid:?} has made more than it may hold: {entries} entries, {bytes} bytes"));
        }
        Ok(())
    }

    /// Under another name an entry is what it was, and what was changed with it.
    fn goes_on(&mut self, pid: Pid, to: &Key, old: &Record, new: &Record, asked: Attributes) -> Verdict {
        let mut expected: BTreeMap<Name, Option<Bytes>> =
            old.attributes.iter().map(|attribute| (Name::clone(&attribute.name), attribute.value.clone())).collect();
        expected.extend(asked);
        let found: BTreeMap<_, _> =
            new.attributes.iter().map(|attribute| (Name::clone(&attribute.name), attribute.value.clone())).collect();
        if expected != found {
            return Err(format!("{pid:?} renamed {old:?}, and made {new:?}"));
        }
        self.oracle.leases.gives(to, Duration::from_millis(new.lease.millis));
        self.oracle.wrote(Write::birth(to, new.birth, pid, self.now));
        for attribute in &new.attributes {
            let write = Write::attribute(to, new.birth, attribute, pid, self.now);
            self.oracle.wrote(write.within(new.birth));
        }
        Ok(())
    }

    /// A receipt with everything that was asked for.
    fn receipt(&mut self, pid: Pid, keys: &[Key], want: Want, receipt: &Committed, removal: bool) -> Verdict {
        let Some(engine) = self.process(pid).map(|process| &process.engine) else { return Ok(()) };
        let holders = engine.placement.holding(slot_of(&keys[0])).filter(|member| *member != engine.local()).count();
        let needed = match want {
            Want::None => 0,
            Want::Copies(copies) => holders.min(usize::try_from(copies).unwrap_or(usize::MAX)).min(engine.wanted()),
            Want::All => holders,
            Want::AtLeast(copies) => usize::try_from(copies).unwrap_or(usize::MAX),
        };
        if receipt.confirmed.len() < needed {
            return Err(format!("{pid:?} promises {} of {needed} copies: {receipt:?}", receipt.confirmed.len()));
        }
        self.confirmed(pid, keys, receipt, removal)
    }

    /// What a receipt says, be it all that was asked for or not.
    fn confirmed(&mut self, pid: Pid, keys: &[Key], receipt: &Committed, removal: bool) -> Verdict {
        if removal && !self.oracle.knows(&keys[0], receipt.version) {
            self.oracle.wrote(Write::death(&keys[0], receipt.version, pid, self.now));
        }
        self.wanted(pid, receipt, 0)?;
        self.oracle.receipt(pid, keys, receipt, &self.nodes)
    }

    /// A receipt says how many copies are to be made; the owner that decides for others is one itself.
    fn wanted(&self, pid: Pid, receipt: &Committed, more: usize) -> Verdict {
        let right = match self.plan.config.copies {
            Copies::Backups(backups) => (backups..=backups + more).contains(&receipt.wanted),
            Copies::Everywhere => receipt.wanted < self.nodes.len(),
        };
        if right { Ok(()) } else { Err(format!("{pid:?} is told of the wrong number of copies: {receipt:?}")) }
    }

    pub(super) fn committed(&mut self, pid: Pid, ticket: Ticket, result: Result<Committed, CommitFault>) -> Verdict {
        self.trace.tell(|| format!("{:?} {pid:?} committed {ticket}: {result:?}", self.now));
        self.oracle.answered(pid, ticket, Kind::Commit)?;
        let Some(Pending { keys, want, removal }) = self.clients.commits.remove(&(pid, ticket)) else {
            return Err(format!("{pid:?} committed {ticket}, which nobody asked for"));
        };
        match result {
            Ok(receipt) => {
                self.coverage.saw(Fault::Confirmed);
                self.receipt(pid, &keys, want, &receipt, removal)
            }
            Err(fault) if self.proving && !self.plan.capped => Err(format!("{pid:?} cannot write {keys:?}: {fault:?}")),
            Err(fault) => {
                self.coverage.saw(Fault::Unconfirmed);
                self.confirmed(pid, &keys, &fault.committed, removal)
            }
        }
    }

    fn swap(&mut self, pid: Pid, key: &Key, read: &Record) -> Verdict {
        let expected = read.attribute(COUNTER).map_or(Version::ZERO, |attribute| attribute.version);
        let want = if self.proving { Want::All } else { Self::want(&mut self.chance) };
        let value = self.value();
        let time = self.time(pid.node);
        let Some(process) = self.nodes[pid.node].process.as_mut().filter(|process| process.pid == pid) else { return Ok(()) };
        let ticket = process.engine.swap(time, key, COUNTER.into(), expected, Some(value.clone()), want);
        self.trace.tell(|| format!("{:?} {pid:?} swaps {} from {expected}: {ticket}", self.now, name(key)));
        self.oracle.asked(pid, ticket, Kind::Swap, self.now)?;
        self.clients.swaps.insert((pid, ticket), Swapping { key: key.clone(), expected, value });
        self.with(pid.node, |_| ())
    }

    pub(super) fn swapped(&mut self, pid: Pid, ticket: Ticket, result: Result<Committed, SwapFault>) -> Verdict {
        self.trace.tell(|| format!("{:?} {pid:?} swapped {ticket}: {result:?}", self.now));
        self.oracle.answered(pid, ticket, Kind::Swap)?;
        let Some(Swapping { key, expected, value }) = self.clients.swaps.remove(&(pid, ticket)) else {
            return Err(format!("{pid:?} swapped {ticket}, which nobody asked for"));
        };
        let ended = || self.oracle.leases.has_lapsed(&key, Version::ZERO);
        if self.proving && !self.plan.capped && result.is_err() && !ended() {
            return Err(format!("{pid:?} cannot replace {expected} of {}: {result:?}", name(&key)));
        }
        match result {
            Ok(receipt) | Err(SwapFault::Unconfirmed(receipt)) => {
                self.coverage.saw(Fault::SwapDone);
                if receipt.version <= expected {
                    return Err(format!("{pid:?} wrote {} over {expected}", receipt.version));
                }
                self.wanted(pid, &receipt, 1)?;
                self.oracle.won(&key, expected, receipt.version, &value)?;
                self.oracle.receipt(pid, &[key], &receipt, &self.nodes)
            }
            Err(SwapFault::Conflict(found)) => {
                self.coverage.saw(Fault::SwapConflict);
                self.oracle.refused(&key, expected, found)
            }
            Err(_) => Ok(()),
        }
    }
}
