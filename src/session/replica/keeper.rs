//! The way to the store and back, on a thread of its own: the engine's lock is never held meanwhile.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::{Shared, now};
use crate::session::engine::{Engine, Key, Loaded, Names, Restored, Saving, Stored};
use crate::session::store::Store;

/// Threads that save or load many records: they wait for disks more than they work.
const THREADS: usize = 4;
/// Records that are worth a thread more.
const PER_THREAD: usize = 64;
/// Records that one look at a store decodes before the engine gets them, and that are forgotten at once: whoever waits for a load
/// waits for no more.
const BATCH: usize = 4_096;

/// The store of a context.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) save_on_shutdown: bool,
}

pub(super) struct Keeper {
    /// `None` after the end: whoever wants to open it again can.
    store: Mutex<Option<Arc<dyn Store>>>,
    save_on_shutdown: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Somebody waits for these: they go first. What they concern has been saved.
    loads: VecDeque<Key>,
    /// In this order.
    jobs: VecDeque<Job>,
    working: bool,
    worker: Option<ThreadId>,
    stopped: bool,
}

enum Job {
    Save(Vec<Saving>),
    /// Not empty.
    Forget(Vec<Key>),
}

enum Next {
    Load(Key),
    Do(Job),
}

impl Keeper {
    pub(super) fn new(kept: Kept) -> Self {
        let Kept { store, save_on_shutdown } = kept;
        Self { store: Mutex::new(Some(store)), save_on_shutdown, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Asks the store. One of others may panic: that is an error like any.
    fn ask<T>(&self, ask: impl FnOnce(&dyn Store) -> io::Result<T>) -> io::Result<T> {
        let store = lock(&self.store).clone();
        let Some(store) = store else { return Err(io::Error::other("the store is closed")) };
        catch_unwind(AssertUnwindSafe(|| ask(&*store))).unwrap_or_else(|_| Err(io::Error::other("the store panicked")))
    }

    /// Gives an engine what the store has, and removes from the store what is over.
    pub(super) fn restore(&self, engine: &mut Engine) {
        let keys = match self.ask(|store| store.keys()) {
            Ok(keys) => keys,
            Err(error) => return log::error!("the session store cannot be read, nothing is restored: {error}"),
        };
        let (mut restored, mut over, mut full) = (0_usize, 0_usize, 0_usize);
        for keys in keys.chunks(BATCH) {
            let found = Mutex::new(Vec::new());
            in_parallel(keys, |key, names| {
                if let Loaded::Found(stored) = self.get_with(key, names) {
                    lock(&found).push(stored);
                }
            });
            let mut ended = Vec::new();
            for stored in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let key = Key::from(stored.key());
                match engine.restore(now(), stored) {
                    Restored::Here => restored += 1,
                    Restored::Full => full += 1,
                    Restored::Over => ended.push(key),
                }
            }
            over += ended.len();
            if !ended.is_empty() {
                self.remove(&ended);
            }
        }
        if full > 0 {
            log::warn!("{full} stored sessions found no room");
        }
        log::info!("{restored} sessions restored, {over} had ended");
    }

    /// What the store has under a key. Blocks.
    pub(super) fn get(&self, key: &[u8]) -> Loaded {
        self.get_with(key, &mut Names::default())
    }

    fn get_with(&self, key: &[u8], names: &mut Names) -> Loaded {
        let complain = |fault: &dyn Display| log::warn!("the stored session {:?} is left out: {fault}", Key::from(key));
        match self.ask(|store| store.load(key)) {
            Ok(Some(bytes)) => Stored::decode(names, key, &bytes).map_or_else(
                || {
                    complain(&"it is not what was saved");
                    Loaded::Missing
                },
                Loaded::Found,
            ),
            Ok(None) => Loaded::Missing,
            Err(error) => {
                complain(&error);
                if error.kind() == io::ErrorKind::InvalidData { Loaded::Missing } else { Loaded::Failed }
            }
        }
    }

    fn put(&self, stored: &Stored) -> bool {
        let saved = self.ask(|store| store.save(stored.key(), &stored.encode()));
        if let Err(error) = &saved {
            log::warn!("the session {:?} cannot be stored: {error}", Key::from(stored.key()));
        }
        saved.is_ok()
    }

    fn remove(&self, keys: &[Key]) {
        let bytes: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        if let Err(error) = self.ask(|store| store.remove_all(&bytes)) {
            log::warn!("of {} sessions that have ended, some cannot be removed from their store: {error}", keys.len());
        }
    }

    pub(super) fn load(&self, keys: Vec<Key>) {
        self.add(|state| state.loads.extend(keys));
    }

    pub(super) fn save(&self, savings: Vec<Saving>) {
        self.add(|state| state.jobs.push_back(Job::Save(savings)));
    }

    /// With those that came just before: thousands may end in one moment, and each would cost a sync.
    pub(super) fn forget(&self, key: Key) {
        self.add(|state| match state.jobs.back_mut() {
            Some(Job::Forget(keys)) if keys.len() < BATCH => keys.push(key),
            _ => state.jobs.push_back(Job::Forget(vec![key])),
        });
    }

    fn add(&self, add: impl FnOnce(&mut State)) {
        add(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// Whether an end is still to come, and means that everything is saved.
    pub(super) fn ends(&self) -> bool {
        self.save_on_shutdown && !lock(&self.state).stopped
    }

    /// Finishes what is under way and saves these. Only the first end counts.
    pub(super) fn end(&self, unsaved: Vec<Stored>) {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.stopped, true) {
            return;
        }
        state.loads.clear();
        self.changed.notify_all();
        // What was loaded may be what ends it, on that thread.
        while state.working && state.worker != Some(thread::current().id()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        for job in jobs {
            match job {
                Job::Forget(keys) => self.remove(&keys),
                Job::Save(savings) => in_parallel(&savings, |saving, _| _ = self.put(&saving.stored)),
            }
        }
        in_parallel(&unsaved, |stored, names| {
            if !stored.is_away() {
                self.put(stored);
            } else if let Loaded::Found(there) = self.get_with(stored.key(), names) {
                let mut whole = stored.clone();
                whole.come_back(&there);
                if !whole.is_away() {
                    self.put(&whole);
                }
            }
        });
        lock(&self.store).take();
    }

    /// Waits for something to do; `None` when there will be nothing any more.
    fn next(&self) -> Option<Next> {
        let mut state = lock(&self.state);
        state.working = false;
        self.changed.notify_all();
        loop {
            if state.stopped {
                return None;
            }
            let load = state.loads.pop_front().map(Next::Load);
            let job = load.or_else(|| state.jobs.pop_front().map(Next::Do));
            if job.is_some() {
                state.working = true;
                return job;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the thread. It ends with the keeper.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("tribes-store".into()).spawn(move || run(&shared)).map(drop)
}

fn run(shared: &Shared) {
    let Some(keeper) = &shared.keeper else { return };
    lock(&keeper.state).worker = Some(thread::current().id());
    while let Some(next) = keeper.next() {
        let ran = catch_unwind(AssertUnwindSafe(|| carry_out(shared, keeper, next)));
        if ran.is_err() {
            log::error!("the store of a session context panicked");
        }
    }
}

fn carry_out(shared: &Shared, keeper: &Keeper, next: Next) {
    match next {
        Next::Load(key) => {
            let loaded = keeper.get(&key);
            shared.enter(|state, now| state.engine.loaded(now, &key, &loaded));
        }
        Next::Do(Job::Forget(keys)) => keeper.remove(&keys),
        Next::Do(Job::Save(savings)) => {
            let done: Vec<_> = savings.iter().map(|_| AtomicUsize::new(0)).collect();
            let pairs: Vec<_> = savings.iter().zip(&done).collect();
            in_parallel(&pairs, |(saving, done), _| {
                done.store(usize::from(keeper.put(&saving.stored)), Ordering::Relaxed);
            });
            let done: Vec<_> = done.iter().map(|done| done.load(Ordering::Relaxed) == 1).collect();
            shared.enter(|state, now| state.engine.saved(now, savings.into_iter().zip(done).collect()));
        }
    }
}

/// Does something with each of these, on as many threads as are worth it.
fn in_parallel<T: Sync>(items: &[T], act: impl Fn(&T, &mut Names) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut names = Names::default();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            act(item, &mut names);
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(items.len() / PER_THREAD) {
            // Without it the others do more.
            drop(thread::Builder::new().spawn_scoped(scope, work));
        }
        work();
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
