//! Members that let go of values while nobody uses them, and the store of each: slow, failing or losing a record now and then, and gone
//! with its process.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::change::Change;
use super::super::codec::Names;
use super::super::config::Keeping;
use super::super::record::{Attribute, Record};
use super::super::table::Key;
use super::super::{Loaded, Saving, Stored};
use super::chance::Chance;
use super::coverage::Fault;
use super::world::{Happening, Pid, Verdict, World};

/// The longest that a store takes for one thing, and in a calm.
pub(super) const SLOW_STORE: Duration = Duration::from_millis(300);
const CALM_STORE: Duration = Duration::from_millis(5);

/// What a process keeps outside its memory.
#[derive(Debug, Default)]
pub(super) struct Store {
    records: BTreeMap<Key, Bytes>,
    /// What it is to do, by number. It does one thing after another; it is asked at any time.
    jobs: BTreeMap<u64, Job>,
    count: u64,
    busy: Duration,
}

#[derive(Debug)]
enum Job {
    Save(Vec<Saving>),
    Forget(Key),
}

/// When entries go to the store, in some histories.
pub(super) fn keeping(chance: &mut Chance) -> Option<Keeping> {
    let millis = Duration::from_millis;
    chance.percent(20).then(|| Keeping {
        max_resident: chance.percent(60).then(|| chance.index(6)),
        min_idle: millis(chance.below(500)),
        max_idle: chance.percent(50).then(|| millis(chance.below(3_000))),
        backup: chance.percent(50).then(|| millis(chance.below(2_000))),
    })
}

impl World {
    pub(super) fn save(&mut self, pid: Pid, savings: Vec<Saving>) -> Verdict {
        self.store_later(pid, Job::Save(savings))
    }

    pub(super) fn forget(&mut self, pid: Pid, key: Key) -> Verdict {
        self.store_later(pid, Job::Forget(key))
    }

    fn store_later(&mut self, pid: Pid, job: Job) -> Verdict {
        let takes = self.store_takes();
        let now = self.now;
        let Some(store) = self.store(pid) else { return Ok(()) };
        store.count += 1;
        store.busy = store.busy.max(now) + takes;
        store.jobs.insert(store.count, job);
        let (after, number) = (store.busy - now, store.count);
        self.schedule(after, Happening::Stored { pid, number });
        Ok(())
    }

    fn store_takes(&mut self) -> Duration {
        let most = if self.calm { CALM_STORE } else { SLOW_STORE };
        self.chance.millis(0, u64::try_from(most.as_millis()).expect("short"))
    }

    fn store(&mut self, pid: Pid) -> Option<&mut Store> {
        self.nodes[pid.node].process.as_mut().filter(|process| process.pid == pid).map(|process| &mut process.store)
    }

    /// The store has done what it was to do, or not.
    pub(super) fn stored(&mut self, pid: Pid, number: u64) -> Verdict {
        let (time, calm) = (self.time(pid.node), self.calm);
        let mut chance = Chance::new(self.chance.draw());
        let Some(store) = self.store(pid) else { return Ok(()) };
        match store.jobs.remove(&number) {
            Some(Job::Save(savings)) => {
                let savings: Vec<_> = savings.into_iter().map(|saving| (saving, calm || !chance.percent(10))).collect();
                for (saving, _) in savings.iter().filter(|(_, done)| *done) {
                    store.records.insert(saving.stored.key().into(), saving.stored.encode());
                }
                for (saving, done) in &savings {
                    self.coverage.saw(if *done { Fault::Saved } else { Fault::NotSaved });
                    let key = super::oracle::name(saving.stored.key());
                    self.trace.tell(|| format!("{:?} {pid:?} has saved {key}: {done}", self.now));
                }
                self.with_process(pid, |engine| engine.saved(time, savings))
            }
            Some(Job::Forget(key)) => {
                store.records.remove(&key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn load(&mut self, pid: Pid, keys: Vec<Key>) -> Verdict {
        for key in keys {
            let takes = self.store_takes();
            self.schedule(takes, Happening::Loaded { pid, key });
        }
        Ok(())
    }

    /// The store has answered what it was asked.
    pub(super) fn loaded(&mut self, pid: Pid, key: &Key) -> Verdict {
        self.ask_store(pid, key).map(drop)
    }

    /// Gives an engine what its store has of a key; false when the store cannot be asked.
    fn ask_store(&mut self, pid: Pid, key: &Key) -> Result<bool, String> {
        let (time, loaded) = (self.time(pid.node), self.look_into_store(pid, key));
        self.with_process(pid, |engine| engine.loaded(time, key, &loaded))?;
        Ok(!matches!(loaded, Loaded::Failed))
    }

    fn look_into_store(&mut self, pid: Pid, key: &Key) -> Loaded {
        let (fails, damages) = (self.chance.percent(10), self.chance.percent(5));
        let calm = self.calm;
        let Some(store) = self.store(pid) else { return Loaded::Failed };
        let (fault, loaded) = match store.records.get(key) {
            _ if fails && !calm => (Fault::LoadFailed, Loaded::Failed),
            Some(_) if damages && !calm => {
                store.records.remove(key);
                self.oracle.damaged(pid, key);
                (Fault::Damaged, Loaded::Missing)
            }
            Some(bytes) => match Stored::decode(&mut Names::default(), key, bytes) {
                Some(stored) => (Fault::Loaded, Loaded::Found(stored)),
                None => (Fault::Damaged, Loaded::Missing),
            },
            None => (Fault::Loaded, Loaded::Missing),
        };
        self.coverage.saw(fault);
        self.trace.tell(|| format!("{:?} {pid:?} looks for {} in its store: {loaded:?}", self.now, super::oracle::name(key)));
        loaded
    }

    /// Gets what a change is made on, as a manager does; false when the store cannot be asked.
    pub(super) fn load_for(&mut self, pid: Pid, key: &Key, change: &Change) -> Result<bool, String> {
        let time = self.time(pid.node);
        let mut must = false;
        self.with_process(pid, |engine| must = engine.must_load(time, key, change))?;
        // Who does not wait for a disk has the values made whole later.
        let waits = !matches!(change, Change::Update { .. }) || self.chance.percent(50);
        if must && waits { self.ask_store(pid, key) } else { Ok(true) }
    }
}

/// Whether two states of an attribute may be the same: what is in the store is not compared.
pub(super) fn may_be_same(one: &Attribute, other: &Attribute) -> bool {
    let away = one.is_away() || other.is_away();
    one.name == other.name && one.version == other.version && (away || one.value == other.value)
}

/// The same of all attributes of two records.
pub(super) fn have_the_same(one: &Record, other: &Record) -> bool {
    let pairs = || one.attributes.iter().zip(other.attributes.iter());
    one.attributes.len() == other.attributes.len() && pairs().all(|(one, other)| may_be_same(one, other))
}
