//! What all handles of one manager share.

use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::Drained;
use super::builder::Notify;
use super::statistics::Statistics;
use crate::channel::{GroupChannel, Listeners, Subscription};
use crate::clock;
use crate::session::committing::{Committing, receipt};
use crate::session::engine::{Change, Config, Copies, Event, Key, Name, Record, What, hash_bytes};
use crate::session::error::{CommitError, CreateError, SetError, StartError};
use crate::session::event::{RESERVED, SessionEvent};
use crate::session::id::SessionId;
use crate::session::outcome::{CommitReceipt, Confirm};
use crate::session::replica::{EventSink, Kept, Replica};
use crate::session::session::Session;

pub(super) type Listener = dyn Fn(&SessionEvent) + Send + Sync;

type NameFilter = dyn Fn(&str) -> bool + Send + Sync;
type ValueFilter = dyn Fn(&str, &Bytes) -> bool + Send + Sync;

/// What is decided here, and not in the engine.
pub(super) struct Settings {
    kind: &'static str,
    name: String,
    pub(super) confirm: Confirm,
    pub(super) max_active: Option<usize>,
    pub(super) expire_on_shutdown: bool,
    pub(super) notify: Notify,
    pub(super) name_filter: Option<Arc<NameFilter>>,
    pub(super) value_filter: Option<Arc<ValueFilter>>,
}

impl Settings {
    pub(super) fn new(kind: &'static str, name: String) -> Self {
        Self {
            kind,
            name,
            confirm: Confirm::None,
            max_active: None,
            expire_on_shutdown: false,
            notify: Notify::ALL,
            name_filter: None,
            value_filter: None,
        }
    }
}

/// A manager without its handle.
pub(in crate::session) struct Context {
    replica: Replica,
    settings: Settings,
    lease: Duration,
    copies: Copies,
    draining: AtomicBool,
    sink: Arc<Sink>,
    names: Mutex<HashSet<Name>>,
    rejected: AtomicU64,
    uncommitted: AtomicU64,
    /// When an uncommitted session was last warned of, in milliseconds since 1970.
    warned: AtomicU64,
}

/// The engine's limit, which a single value cannot be above either.
const MAX_VALUE: usize = 64 << 20;
/// Names that are shared between sessions; more are not.
const MAX_NAMES: usize = 4096;
/// Ids that are drawn at once, and how often at most, until one is found that belongs here.
const DRAWN: usize = 16;
const DRAWS: usize = 64;
/// Milliseconds between two warnings.
const WARN_INTERVAL: u64 = 10_000;

impl Context {
    pub(super) fn start(
        channel: &GroupChannel,
        settings: Settings,
        mut config: Config,
        sink: Arc<Sink>,
        kept: Option<Kept>,
    ) -> Result<Arc<Self>, StartError> {
        config.context = context_hash(settings.kind, &settings.name);
        let (lease, copies) = (config.lease, config.copies);
        settings.confirm.check(copies).map_err(|fault| StartError::too_few_copies(&settings.name, fault))?;
        let told: Arc<dyn EventSink> = Arc::clone(&sink) as _;
        let label = format!("{} {}", settings.kind, settings.name);
        let replica = Replica::start(channel, label, config, told, kept)
            .map_err(|fault| StartError::new(settings.kind, &settings.name, fault))?;
        Ok(Arc::new(Self {
            replica,
            settings,
            lease,
            copies,
            draining: AtomicBool::new(false),
            sink,
            names: Mutex::default(),
            rejected: AtomicU64::new(0),
            uncommitted: AtomicU64::new(0),
            warned: AtomicU64::new(0),
        }))
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(in crate::session) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(in crate::session) fn confirm(&self) -> Confirm {
        self.settings.confirm
    }

    pub(in crate::session) fn copies(&self) -> Copies {
        self.copies
    }

    pub(super) fn create(self: &Arc<Self>) -> Result<Session, CreateError> {
        if self.replica.is_closed() {
            return Err(CreateError::Stopped);
        }
        if self.draining.load(Ordering::Acquire) {
            return Err(CreateError::Draining);
        }
        if let Some(limit) = self.settings.max_active
            && self.replica.with(|engine, _| engine.alive()) >= limit
        {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(CreateError::TooMany { limit });
        }
        Ok(Session::new(Arc::clone(self), self.draw(), self.lease))
    }

    /// A new id, if possible one that this member owns.
    fn draw(&self) -> SessionId {
        if self.replica.is_ready() {
            for _ in 0..DRAWS {
                let ids: [SessionId; DRAWN] = std::array::from_fn(|_| SessionId::random());
                let mine = self.replica.with(|engine, _| ids.into_iter().find(|id| engine.owns(id.as_bytes())));
                if let Some(id) = mine {
                    return id;
                }
            }
        }
        SessionId::random()
    }

    /// Whether an attribute may be set.
    pub(in crate::session) fn check(&self, name: &str, value: Option<&Bytes>) -> Result<(), SetError> {
        if name.starts_with(RESERVED) {
            return Err(SetError::Reserved);
        }
        if name.len() > usize::from(u16::MAX) {
            return Err(SetError::NameTooLong(name.len()));
        }
        let Some(value) = value else { return Ok(()) };
        if value.len() > MAX_VALUE {
            return Err(SetError::TooLarge(value.len()));
        }
        let passes = self.settings.name_filter.as_ref().is_none_or(|filter| filter(name))
            && self.settings.value_filter.as_ref().is_none_or(|filter| filter(name, value));
        if passes { Ok(()) } else { Err(SetError::Filtered { name: name.to_owned() }) }
    }

    /// The name as it is shared: thousands of sessions have the same few.
    pub(in crate::session) fn share(&self, name: &str) -> Name {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return Arc::clone(known);
        }
        let name: Name = name.into();
        if names.len() < MAX_NAMES {
            names.insert(Arc::clone(&name));
        }
        name
    }

    pub(super) fn session_ids(&self) -> Vec<SessionId> {
        ids(self.replica.with(|engine, _| engine.keys()))
    }

    pub(super) fn at_risk(&self) -> Vec<SessionId> {
        ids(self.replica.with(|engine, _| engine.at_risk()))
    }

    pub(in crate::session) fn invalidate(&self, id: &SessionId, read: Option<Arc<Record>>) -> Result<CommitReceipt, CommitError> {
        if self.replica.is_closed() {
            return Err(CommitError::Stopped);
        }
        let (_, outcome) = self.replica.commit(id.as_bytes(), Change::Remove { read }, self.settings.confirm.want())?;
        receipt(outcome)
    }

    pub(in crate::session) fn start_invalidate(&self, id: &SessionId, read: Option<Arc<Record>>) -> Committing {
        if self.replica.is_closed() {
            return Committing::known(Err(CommitError::Stopped));
        }
        let begun = self.replica.start_commit(id.as_bytes(), Change::Remove { read }, self.settings.confirm.want());
        Committing::begun(begun.map(|begun| Committing::waiting(begun.outcome)).map_err(CommitError::from))
    }

    pub(in crate::session) fn touch(&self, id: &SessionId) {
        if !self.replica.is_closed() && !self.replica.with(|engine, now| engine.note_access(now, id.as_bytes())) {
            // Whoever has it tells, and it is accessed here then; nobody need wait for that.
            drop(self.replica.read(id.as_bytes()));
        }
    }

    pub(super) fn drain(&self, deadline: Duration) -> Drained {
        self.draining.store(true, Ordering::Release);
        let before = self.replica.with(|engine, _| engine.alive());
        let remaining = ids(self.replica.drain(deadline));
        Drained { moved: before.saturating_sub(remaining.len()), remaining }
    }

    pub(super) fn statistics(&self) -> Statistics {
        let (rejected, uncommitted) = (self.rejected.load(Ordering::Relaxed), self.uncommitted.load(Ordering::Relaxed));
        Statistics { rejected, uncommitted_drops: uncommitted, ..Statistics::of(&self.replica) }
    }

    pub(super) fn on_event(&self, listener: Arc<Listener>) -> Subscription {
        self.sink.add(listener)
    }

    pub(super) fn stop(&self) {
        if self.settings.expire_on_shutdown && !self.replica.is_closed() {
            for key in self.replica.with(|engine, _| engine.keys()) {
                // A removal is never refused.
                drop(self.replica.start_commit(&key, Change::Remove { read: None }, Confirm::None.want()));
            }
        }
        self.replica.stop();
    }

    /// A handle went with changes that nobody committed.
    pub(in crate::session) fn dropped_uncommitted(&self, id: SessionId) {
        let count = self.uncommitted.fetch_add(1, Ordering::Relaxed) + 1;
        let (_, now) = clock::both();
        let last = self.warned.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= WARN_INTERVAL
            && self.warned.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            log::warn!(
                "{}: {id:?} was dropped with changes that were not committed; {count} so far, each of them lost its changes",
                self.settings.name
            );
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// What tells contexts apart on the wire: the same on every member.
pub(crate) fn context_hash(kind: &str, name: &str) -> u64 {
    hash_bytes(&[kind.as_bytes(), &[0], name.as_bytes()].concat())
}

pub(super) fn ids(keys: Vec<Key>) -> Vec<SessionId> {
    keys.iter().filter_map(|key| Some(SessionId::from_bytes(<[u8; 16]>::try_from(&**key).ok()?))).collect()
}

/// The listeners, and which events they hear of.
pub(super) struct Sink {
    listeners: Arc<Listeners<Listener>>,
    notify: Notify,
}

impl Sink {
    pub(super) fn new(notify: Notify) -> Arc<Self> {
        Arc::new(Self { listeners: Listeners::new(), notify })
    }

    pub(super) fn add(&self, listener: Arc<Listener>) -> Subscription {
        self.listeners.add(listener)
    }
}

impl EventSink for Sink {
    fn is_heard(&self) -> bool {
        !self.listeners.is_empty()
    }

    fn wants(&self, event: &Event) -> bool {
        let wanted = match event.what {
            What::Lost(_) => self.notify.contains(Notify::CONFLICTS),
            _ if !event.remote => true,
            What::Changed(_) => self.notify.contains(Notify::REMOTE_ATTRIBUTES),
            _ => self.notify.contains(Notify::REMOTE_SESSIONS),
        };
        wanted && self.is_heard()
    }

    fn tell(&self, event: Event) {
        let Some(event) = SessionEvent::of(event) else { return };
        for (_, listener) in &*self.listeners.snapshot() {
            if catch_unwind(AssertUnwindSafe(|| listener(&event))).is_err() {
                log::error!("a session listener panicked at {event:?}");
            }
        }
    }
}
