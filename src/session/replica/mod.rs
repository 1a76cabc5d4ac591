//! The shell around an [`Engine`]: its lock, its time, its way to the channel and back.
//!
//! | file | what it does |
//! | --- | --- |
//! | here | one context: how it is entered, read, drained and left |
//! | `effects` | the way under the lock, and what comes out from there |
//! | `changes` | commits: the direct way of a caller that waits, and the way of one that does not |
//! | `timer` | the thread that keeps the engine's time, and takes up changes of the view |
//! | `outbox` | what is to be sent, in order |
//! | `feed` | events, on their way to listeners |
//! | `keeper` | the way to the store and back |
//! | `pending`, `milestones` | what threads and tasks wait for |
//!
//! The engine's lock is held for moments: never while anything is sent, somebody is woken, or a listener runs.

mod changes;
mod effects;
mod feed;
mod keeper;
mod milestones;
mod outbox;
mod pending;
mod timer;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub(crate) use feed::EventSink;
pub(crate) use pending::Pending;

use self::effects::{Lives, Told, Waiter, is_stopped, tell_outcome};
use self::feed::Feed;
use self::keeper::Keeper;
pub(crate) use self::keeper::Kept;
use self::milestones::Milestones;
use self::outbox::Outbox;
use self::pending::pending;
use self::timer::Timer;
use super::engine::{Committed, Config, Engine, FetchFault, Get, Key, Name, Record, Send, SwapFault, Tickets, Version, Want};
use crate::channel::{ContextGuard, ContextHandler, GroupChannel, Subscription};
use crate::clock;
use crate::completion::UserCode;
use crate::member::Member;
use crate::message::Message;
use crate::stack::{Time, View};

/// Commits of one key take their places in the queues one after another; keys share so many places to wait.
const LANES: usize = 64;

/// How often a member that drains looks whether there is still somebody to hand over to.
const HEIRS_INTERVAL: Duration = Duration::from_millis(200);

/// One context of a channel: entries, replicated.
///
/// Dropping it leaves the context.
pub(crate) struct Replica {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    registered: Mutex<Option<(ContextGuard, Subscription)>>,
}

struct Shared {
    /// This very value, for callbacks.
    me: Weak<Self>,
    /// What it is called in the log.
    label: String,
    channel: GroupChannel,
    state: Mutex<State>,
    /// In each what is about to be sent, which is nothing while nobody has it: the room is used again and again.
    lanes: Vec<Mutex<Vec<Send>>>,
    outbox: Outbox,
    timer: Arc<Timer>,
    feed: Feed,
    keeper: Option<Keeper>,
    milestones: Milestones,
    /// Nothing is sent any more, and nobody waits.
    closed: AtomicBool,
}

/// What the lock is for.
struct State {
    engine: Engine,
    waiters: Tickets<Waiter>,
    /// When the timer was last told to wake, in the engine's milliseconds.
    armed: Option<u64>,
    view: Arc<View>,
    local: Member,
    lives: Lives,
}

/// Why a context was not entered.
#[derive(Debug)]
pub(crate) enum StartFault {
    /// The channel has this context already.
    Taken,
    Thread(io::Error),
}

/// The answer to a read.
pub(crate) enum Read {
    Known(Option<Found>),
    Asking(Pending<Result<Option<Arc<Record>>, FetchFault>>),
}

/// An entry that was read.
pub(crate) struct Found {
    pub(crate) record: Arc<Record>,
    /// How long ago the access before this one was.
    pub(crate) idle: Option<Duration>,
    /// When it was read, by both clocks.
    pub(crate) at: (Instant, u64),
}

impl Replica {
    /// Enters the context of `config` on a channel; `label` is what it is called in the log.
    pub(crate) fn start(
        channel: &GroupChannel,
        label: String,
        config: Config,
        sink: Arc<dyn EventSink>,
        kept: Option<Kept>,
    ) -> Result<Self, StartFault> {
        let config = Config { life: next_life(), ..config };
        let context = config.context;
        let local = channel.local();
        let mut engine = Engine::new(config, local.clone(), now());
        let keeper = kept.map(Keeper::new);
        if let Some(keeper) = &keeper {
            // Before anybody hears of this member, or it of others.
            keeper.restore(&mut engine);
        }
        let shared = Arc::new_cyclic(|me| Shared {
            me: Weak::clone(me),
            label,
            channel: channel.clone(),
            state: Mutex::new(State {
                engine,
                waiters: Tickets::default(),
                armed: None,
                view: Arc::default(),
                local,
                lives: Lives::default(),
            }),
            lanes: (0..LANES).map(|_| Mutex::default()).collect(),
            outbox: Outbox::default(),
            timer: Arc::default(),
            feed: Feed::new(sink),
            keeper,
            milestones: Milestones::default(),
            closed: AtomicBool::new(false),
        });
        let handler: Weak<dyn ContextHandler> = Arc::downgrade(&(Arc::clone(&shared) as Arc<dyn ContextHandler>));
        let guard = channel.register_context(context, handler).map_err(|_| StartFault::Taken)?;
        let timer = Arc::clone(&shared.timer);
        let watching = channel.watch_view(move || timer.kick());
        let thread = timer::spawn(&shared).map_err(StartFault::Thread)?;
        if shared.keeper.is_some() {
            keeper::spawn(&shared).map_err(StartFault::Thread)?;
        }
        shared.follow_view();
        Ok(Self { shared, thread: Mutex::new(Some(thread)), registered: Mutex::new(Some((guard, watching))) })
    }

    /// Does something with the engine that sends nothing or does not matter to whom.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Engine, Time) -> R) -> R {
        self.shared.enter(|state, now| act(&mut state.engine, now))
    }

    pub(crate) fn lives(&self) -> Lives {
        self.shared.lock().lives
    }

    pub(crate) fn events_dropped(&self) -> u64 {
        self.shared.feed.dropped()
    }

    /// Reads an entry: at once when it is here.
    pub(crate) fn read(&self, key: &[u8]) -> Read {
        self.shared.enter(|state, now| {
            let idle = state.engine.idle(now, key);
            match state.engine.get(now, key) {
                Get::Here(record) => Read::Known(Some(Found { record, idle, at: (now.instant, now.epoch_millis) })),
                Get::Absent => Read::Known(None),
                Get::Asking(ticket) => {
                    let (promise, waiting) = pending();
                    state.waiters.insert(ticket, Waiter::Fetch(promise));
                    Read::Asking(waiting)
                }
            }
        })
    }

    /// Writes an attribute if it still has the expected version.
    pub(crate) fn swap(
        &self,
        key: &[u8],
        name: Name,
        expected: Version,
        value: Option<Bytes>,
        want: Want,
    ) -> Pending<Result<Committed, SwapFault>> {
        self.shared.enter(|state, now| {
            let ticket = state.engine.swap(now, key, name, expected, value, want);
            let (promise, waiting) = pending();
            state.waiters.insert(ticket, Waiter::Swap(promise));
            waiting
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.shared.milestones.passed().ready
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Waits until this member is complete; false when the time is over, or the context is left.
    pub(crate) fn wait_ready(&self, timeout: Duration) -> bool {
        self.shared.milestones.wait(timeout, |passed| passed.ready)
    }

    /// The same, without blocking.
    pub(crate) fn when_ready(&self) -> Pending<bool> {
        self.shared.milestones.when_ready()
    }

    /// Hands over what only this member holds, leaves the context, and tells what could not be handed over in time.
    pub(crate) fn drain(&self, deadline: Duration) -> Vec<Key> {
        if self.is_closed() {
            return self.with(|engine, _| engine.remaining());
        }
        self.with(|engine, now| engine.drain(now));
        let since = clock::now();
        // Whoever there was to hand over to may leave as well.
        while self.with(|engine, _| engine.others()) > 0 {
            let left = clock::left(since, deadline);
            if left.is_zero() || self.shared.milestones.wait(left.min(HEIRS_INTERVAL), |passed| passed.drained) {
                break;
            }
            if self.is_closed() {
                break;
            }
        }
        let remaining = self.with(|engine, _| engine.remaining());
        self.stop();
        remaining
    }

    /// Leaves the context: tells the others, fails what waits, ends the thread.
    pub(crate) fn stop(&self) {
        let saves = self.shared.keeper.as_ref().is_some_and(Keeper::ends);
        self.with(|engine, now| {
            if saves {
                // From here on nothing goes to the store by itself, and nothing is taken out of it.
                drop(engine.unsaved(now));
            }
            if !self.is_closed() {
                engine.drain(now);
            }
        });
        drop(self.registered.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.shared.close();
        // What was committed before the end is in there; what comes later is told that it came too late.
        let unsaved = if saves { self.with(|engine, now| engine.unsaved(now)) } else { Vec::new() };
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A waker or a callback may be what drops the last handle, on any thread.
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && !UserCode::is_running()
            && thread.join().is_err()
        {
            log::error!("the thread of a session context panicked");
        }
        if let Some(keeper) = &self.shared.keeper {
            keeper.end(unsaved);
        }
    }
}

/// A number for each time that a context is entered: later ones are greater, in this process and, by the wall clock, across its restarts.
fn next_life() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let millis = now().epoch_millis;
    let next = |last: u64| Some(millis.max(last + 1));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(millis, |last| millis.max(last + 1))
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("channel", &self.shared.channel).finish_non_exhaustive()
    }
}

impl ContextHandler for Shared {
    fn message(&self, message: &Message) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let mut pieces = message.body().chunks();
        let receive = |body: &[u8]| self.enter(|state, now| state.engine.receive(now, message.sender(), body));
        match (pieces.next(), pieces.next()) {
            // Another handle on the bytes would cost an allocation.
            (Some(body), None) => receive(body),
            _ => receive(&message.bytes()),
        }
    }
}

impl Shared {
    fn timeout(&self) {
        self.enter(|state, now| {
            state.armed = None;
            state.engine.timeout(now);
        });
    }

    /// Tells the engine what has changed in the channel's view since it was last told.
    fn follow_view(&self) {
        self.enter(|state, now| {
            // Under the lock, so that an older view is never taken for a newer one.
            let (view, local) = (self.channel.members(), self.channel.local());
            let State { engine, view: old, local: known, .. } = state;
            if !known.same_value(&local) {
                engine.set_local(now, &local);
                *known = local;
            }
            let gone = old.iter().filter(|member| !view.contains(member));
            let (placeholders, gone): (Vec<_>, Vec<_>) = gone.partition(|member| member.is_placeholder());
            gone.into_iter().for_each(|gone| engine.member_removed(now, gone));
            for member in view.iter() {
                match old.by_id(member.id()).filter(|known| *known == member) {
                    None => engine.member_added(now, member),
                    Some(known) if !known.same_value(member) => engine.member_updated(now, member),
                    Some(_) => {}
                }
            }
            // Last, or the engine might find itself alone where somebody is about to take a placeholder's place.
            placeholders.into_iter().for_each(|gone| engine.member_removed(now, gone));
            *old = view;
        });
    }

    /// From here on nothing is sent, and nobody waits.
    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let waiters = std::mem::take(&mut self.lock().waiters);
        // Dropped promises tell.
        drop(waiters);
        self.milestones.pass(|passed| passed.closed = true);
        self.tell(Told::Readiness(self.milestones.awaited(), false));
        self.timer.stop();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Time {
    let (instant, epoch_millis) = clock::both();
    Time { instant, epoch_millis }
}
