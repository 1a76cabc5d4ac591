//! The threads of a receiver, and how they share the work.
//!
//! Any thread may serve any connection, but a connection is with one thread at a time, which reads it, decodes, and runs the
//! listeners itself: no message crosses from thread to thread. What is to be done stands on the [`Desk`], behind one lock that
//! is held for moments only: the connections that are ready, and the poller, which whoever finds nothing ready takes and waits with.
//!
//! As long as listeners are quick, one thread does everything, and nobody is woken. The others stand by, asleep. One of them, the
//! watcher, is woken when traffic begins and then looks at the desk every few milliseconds: if a thread has been with one connection
//! since the last look while nobody waits for the network, a listener is blocking it, and the watcher takes over: accepts, polls and serves
//! all other connections. It also joins when several connections stay ready and there are processors left. When a thread comes
//! back and finds the poller taken and nothing ready, it stands by. No thread begins a turn with nobody standing by, unless there
//! are as many threads as may be; those beyond the first two leave when they have long had nothing to do. With no traffic everybody sleeps, without
//! a timer.

mod door;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::super::busy_poll::BusyPoll;
use super::answers::Answers;
use super::connection::{Bench, Connection, Ending, Next, Signals};
use super::memory::Memory;
use super::{TcpReceiverConfig, bind};
use crate::clock;
use crate::hash::Keyed;
use crate::stack::Inbound;
use crate::transport::{MessageSink, ReceiverStats};

const LISTENER: usize = 0;
const WAKER: usize = 1;
const FIRST_CONNECTION: usize = 2;

/// The threads that stay: one works, one stands by.
const RESIDENT: usize = 2;
/// How often the watcher looks, while there is traffic.
const LOOK: Duration = Duration::from_millis(5);
/// The looks that find nothing before the watcher sleeps.
const QUIET_LOOKS: u32 = 4;
/// How long a thread beyond the resident ones stands by before it leaves.
const LINGER: Duration = Duration::from_secs(10);
/// How soon accepting is tried again when the process has no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);
/// How long `stop` waits for listeners to return.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Warnings of one kind are at least this far apart.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// A receiver at work.
#[derive(Debug)]
pub(super) struct Crew {
    sink: MessageSink,
    config: TcpReceiverConfig,
    cores: usize,
    memory: Arc<Memory>,
    counts: Counts,
    /// Absent once the receiver stops.
    listener: Mutex<Option<TcpListener>>,
    registry: Registry,
    waker: Waker,
    stopping: AtomicBool,
    /// Whether somebody stands by, who would see that a thread is stuck.
    watched: AtomicBool,
    desk: Mutex<Desk>,
    called: Condvar,
    left: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) bytes: AtomicU64,
    messages: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
    limited: AtomicU64,
}

/// What the threads share.
#[derive(Debug)]
struct Desk {
    /// Absent while a thread waits with it.
    poller: Option<Box<Poller>>,
    ready: VecDeque<usize>,
    /// How many of the ready get their turn before the network is asked again.
    round: usize,
    links: HashMap<usize, Link, Keyed>,
    next_token: usize,
    /// How many turns have begun, and the numbers of those that have not ended.
    turns: u64,
    running: Vec<u64>,
    /// Whether there is traffic, so that somebody should watch; and whether somebody does.
    busy: bool,
    watching: bool,
    standing_by: usize,
    threads: usize,
    names: usize,
    handles: Vec<JoinHandle<()>>,
    /// When connections may have to be closed for their silence.
    sweep: Option<Instant>,
    accept_again: Option<Instant>,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Poller {
    poll: Poll,
    events: Events,
    busy_poll: BusyPoll,
}

/// A connection as the desk knows it.
#[derive(Debug)]
struct Link {
    /// Absent while a thread serves it.
    connection: Option<Box<Connection>>,
    answers: Arc<Answers>,
    queued: bool,
    /// Something came while a thread was serving it.
    again: bool,
    signals: Signals,
    stalled: Option<Instant>,
    served: Option<Instant>,
    /// A whole message has come.
    proven: bool,
}

impl Crew {
    /// Listens and sets the threads to work.
    pub(super) fn start(config: TcpReceiverConfig, sink: MessageSink) -> io::Result<(Arc<Self>, SocketAddr)> {
        let (listener, advertised) = bind::listen(&config)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, Token(WAKER))?;
        registry.register(&mut listener, Token(LISTENER), Interest::READABLE)?;
        let desk = Desk {
            poller: Some(Box::new(Poller {
                poll,
                events: Events::with_capacity(256),
                busy_poll: BusyPoll::new(config.busy_poll),
            })),
            ready: VecDeque::new(),
            round: 0,
            links: HashMap::default(),
            next_token: FIRST_CONNECTION,
            turns: 0,
            running: Vec::new(),
            busy: false,
            watching: false,
            standing_by: 0,
            threads: 0,
            names: 0,
            handles: Vec::new(),
            sweep: None,
            accept_again: None,
            warned: None,
        };
        let crew = Arc::new(Self {
            sink,
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory: Memory::new(config.max_buffered),
            config,
            counts: Counts::default(),
            listener: Mutex::new(Some(listener)),
            registry,
            waker,
            stopping: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            desk: Mutex::new(desk),
            called: Condvar::new(),
            left: Condvar::new(),
        });
        let mut desk = crew.lock();
        let hired = (0..RESIDENT.min(crew.config.max_threads)).try_for_each(|place| crew.hire(&mut desk, place > 0));
        drop(desk);
        if let Err(error) = hired {
            crew.stop();
            return Err(error);
        }
        Ok((crew, advertised))
    }

    /// Ends all threads, waits for them, and closes every connection.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(self.listener.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut desk = self.lock();
        self.called.notify_all();
        // Fails only when the poller is gone, and then nobody waits with it.
        let _ = self.waker.wake();
        let me = thread::current().id();
        let mine = usize::from(desk.handles.iter().any(|handle| handle.thread().id() == me));
        let since = clock::now();
        while desk.threads > mine {
            let left = clock::left(since, STOP_PATIENCE);
            if left.is_zero() {
                log::warn!(target: "tribes::tcp", "stopped while {} listeners have not returned", desk.threads - mine);
                break;
            }
            desk = self.left.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let all_left = desk.threads <= mine;
        let handles = std::mem::take(&mut desk.handles);
        let links = std::mem::take(&mut desk.links);
        drop(desk);
        for handle in handles.into_iter().filter(|handle| all_left && handle.thread().id() != me) {
            // They are past their last line; none can have panicked.
            let _ = handle.join();
        }
        for link in links.into_values() {
            link.answers.close();
        }
    }

    pub(super) fn stats(&self) -> ReceiverStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ReceiverStats {
            connections: self.lock().links.len(),
            accepted: read(&self.counts.accepted),
            refused: read(&self.counts.refused),
            messages: read(&self.counts.messages),
            bytes: read(&self.counts.bytes),
            malformed: read(&self.counts.malformed),
            limited: read(&self.counts.limited),
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    /// Hands messages up; listeners run before it returns.
    pub(super) fn push(&self, batch: &mut Vec<Inbound>) {
        self.counts.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.sink.push_batch(batch);
        batch.clear();
    }

    /// Has a connection served that stopped reading by itself. May be called from any thread.
    pub(super) fn wake(&self, token: usize) {
        self.lock().notice(token, false);
        let _ = self.waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that begins with work, or by standing by.
    fn hire(self: &Arc<Self>, desk: &mut Desk, stands_by: bool) -> io::Result<()> {
        desk.handles.retain(|handle| !handle.is_finished());
        let name = format!("tribes-receive-{}", desk.names);
        let crew = Arc::clone(self);
        desk.handles.push(thread::Builder::new().name(name).spawn(move || crew.work(stands_by))?);
        desk.names += 1;
        desk.threads += 1;
        if stands_by {
            self.count_standing_by(desk, 1);
        }
        Ok(())
    }

    fn work(self: Arc<Self>, mut stands_by: bool) {
        let mut bench = Bench::default();
        let mut desk = self.lock();
        let mut seen = 0;
        while !self.is_stopping() {
            if stands_by {
                let stays;
                (desk, stays) = self.stand_by(desk);
                self.count_standing_by(&mut desk, -1);
                if !stays {
                    break;
                }
                stands_by = false;
                continue;
            }
            if desk.round == 0 || desk.ready.is_empty() {
                if let Some(poller) = desk.poller.take() {
                    desk = self.poll(desk, poller);
                    // Another thread is at work and not stuck: let it poll as well when it is through, or each byte that comes
                    // for it wakes this thread in vain.
                    let spare = desk.ready.is_empty() && desk.running.iter().min().is_some_and(|oldest| *oldest > seen);
                    seen = desk.turns;
                    if spare {
                        // It began after the last time that this thread asked, which may be long ago: should it be stuck all the
                        // same, somebody has to see it.
                        desk.busy = true;
                        self.count_standing_by(&mut desk, 1);
                        stands_by = true;
                    }
                    continue;
                }
                desk.round = desk.ready.len();
            }
            if let Some(token) = desk.ready.pop_front() {
                desk.round -= 1;
                desk = self.serve(desk, token, &mut bench);
            } else {
                self.count_standing_by(&mut desk, 1);
                stands_by = true;
            }
        }
        desk.threads -= 1;
        drop(desk);
        self.left.notify_all();
    }

    /// Asks the network what is ready; waits for it when nothing is.
    fn poll<'a>(&'a self, desk: MutexGuard<'a, Desk>, mut poller: Box<Poller>) -> MutexGuard<'a, Desk> {
        let due = [desk.sweep, desk.accept_again].into_iter().flatten().min();
        let timeout =
            if desk.ready.is_empty() { due.map(|due| due.saturating_duration_since(clock::now())) } else { Some(Duration::ZERO) };
        drop(desk);
        let Poller { poll, events, busy_poll } = &mut *poller;
        let may_sleep = timeout != Some(Duration::ZERO);
        let found = may_sleep && busy_poll.find(|| poll.poll(events, Some(Duration::ZERO)).is_ok() && !events.is_empty());
        if !found
            && let Err(error) = poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!(target: "tribes::tcp", "waiting for connections failed: {error}");
        }
        let mut desk = self.lock();
        for event in &poller.events {
            desk.notice(event.token().0, event.is_read_closed() || event.is_error());
        }
        if due.is_some() {
            self.sweep(&mut desk, clock::now());
        }
        desk.poller = Some(poller);
        desk.round = desk.ready.len();
        desk
    }

    fn serve<'a>(self: &'a Arc<Self>, mut desk: MutexGuard<'a, Desk>, token: usize, bench: &mut Bench) -> MutexGuard<'a, Desk> {
        if token == LISTENER {
            drop(desk);
            let outcome = self.accept();
            desk = self.lock();
            match outcome {
                Ok(true) => desk.ready.push_back(LISTENER),
                Ok(false) => desk.accept_again = None,
                Err(error) => {
                    let now = clock::now();
                    if desk.may_warn(now) {
                        log::warn!(target: "tribes::tcp", "cannot accept connections: {error}");
                    }
                    desk.accept_again = Some(now + ACCEPT_AGAIN);
                }
            }
            return desk;
        }
        let Some(link) = desk.links.get_mut(&token) else { return desk };
        link.queued = false;
        let Some(mut connection) = link.connection.take() else {
            link.again = true;
            return desk;
        };
        let signals = link.signals;
        if desk.standing_by == 0
            && desk.threads < self.config.max_threads
            && let Err(error) = self.hire(&mut desk, true)
        {
            log::warn!(target: "tribes::tcp", "no thread to stand by: {error}");
        }
        desk.turns += 1;
        let turn = desk.turns;
        desk.running.push(turn);
        if !desk.busy {
            desk.busy = true;
            if desk.standing_by > 0 {
                self.called.notify_one();
            }
        }
        drop(desk);
        let next = catch_unwind(AssertUnwindSafe(|| connection.turn(bench, self, signals))).unwrap_or_else(|_| {
            log::error!(target: "tribes::tcp", "handling a message of {} panicked; its connection is closed", connection.peer());
            connection.answers().close();
            *bench = Bench::default();
            Next::Close(Ending::Stopped)
        });
        if let Next::Close(ending) = next {
            self.close(token, *connection, ending);
            desk = self.lock();
            desk.end_turn(turn);
            return desk;
        }
        let proven = connection.intake().sender().is_some();
        // Nobody is silent whom we do not listen to.
        let served = self.config.idle_timeout.filter(|_| next != Next::Paused).map(|_| clock::now());
        desk = self.lock();
        desk.end_turn(turn);
        let desk_mut = &mut *desk;
        let Some(link) = desk_mut.links.get_mut(&token) else { return desk };
        link.connection = Some(connection);
        link.served = served;
        link.proven = proven;
        let again = std::mem::take(&mut link.again) || next == Next::Again;
        link.stalled = if let Next::Wait(since) = next { since } else { None };
        let stalls = link.stalled.map(|since| since + self.config.stall_timeout);
        let idles = served.zip(self.config.idle_timeout).map(|(since, timeout)| since + timeout);
        if again && !link.queued {
            link.queued = true;
            desk_mut.ready.push_back(token);
        }
        if let Some(due) = stalls.into_iter().chain(idles).min()
            && desk_mut.sweep.is_none_or(|sweep| due < sweep)
        {
            desk_mut.sweep = Some(due);
            if desk_mut.poller.is_none() {
                let _ = self.waker.wake();
            }
        }
        desk
    }

    /// Waits until there is work; returns whether this thread stays.
    fn stand_by<'a>(&'a self, mut desk: MutexGuard<'a, Desk>) -> (MutexGuard<'a, Desk>, bool) {
        while !self.is_stopping() {
            if desk.busy && !desk.watching {
                desk.watching = true;
                let needed;
                (desk, needed) = self.watch(desk);
                desk.watching = false;
                if needed {
                    return (self.take_over(desk), true);
                }
            } else if desk.threads > RESIDENT && desk.standing_by > 1 {
                let waited;
                (desk, waited) = self.called.wait_timeout(desk, LINGER).unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() && desk.threads > RESIDENT && desk.standing_by > 1 {
                    return (desk, false);
                }
            } else {
                desk = self.called.wait(desk).unwrap_or_else(PoisonError::into_inner);
            }
        }
        (desk, true)
    }

    fn count_standing_by(&self, desk: &mut Desk, change: isize) {
        desk.standing_by = desk.standing_by.saturating_add_signed(change);
        self.watched.store(desk.standing_by > 0, Ordering::SeqCst);
    }

    /// Looks at the desk while there is traffic; returns whether this thread is needed.
    fn watch<'a>(&'a self, mut desk: MutexGuard<'a, Desk>) -> (MutexGuard<'a, Desk>, bool) {
        let (mut quiet, mut backlog) = (0, 0);
        while !self.is_stopping() {
            let seen = desk.turns;
            desk = self.called.wait_timeout(desk, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            let unattended = desk.poller.is_some() || !desk.ready.is_empty();
            backlog = if desk.ready.is_empty() { 0 } else { backlog + 1 };
            if desk.turns != seen {
                quiet = 0;
                if backlog > 1 && desk.running.len() < self.cores {
                    return (desk, true);
                }
            } else if !desk.running.is_empty() && unattended {
                return (desk, true);
            } else {
                quiet += 1;
                if quiet >= QUIET_LOOKS {
                    desk.busy = false;
                    drop(desk);
                    self.memory.trim();
                    return (self.lock(), false);
                }
            }
        }
        (desk, false)
    }

    /// Sees to it that no answer waits for a stuck thread, and that somebody else watches.
    fn take_over<'a>(&'a self, desk: MutexGuard<'a, Desk>) -> MutexGuard<'a, Desk> {
        let served = desk.links.values().filter(|link| link.connection.is_none());
        let held: Vec<_> = served.map(|link| Arc::clone(&link.answers)).collect();
        // From here on nothing is held back unless another stands by.
        self.watched.store(desk.standing_by > 1, Ordering::SeqCst);
        drop(desk);
        held.iter().for_each(|answers| answers.release());
        self.called.notify_one();
        self.lock()
    }
}

impl Desk {
    fn end_turn(&mut self, turn: u64) {
        self.running.retain(|running| *running != turn);
    }

    /// Something came for a connection or for the listener.
    fn notice(&mut self, token: usize, hangup: bool) {
        if token == LISTENER {
            if !self.ready.contains(&LISTENER) {
                self.ready.push_back(LISTENER);
            }
            return;
        }
        let Some(link) = self.links.get_mut(&token) else { return };
        link.signals.hangup |= hangup;
        if link.connection.is_none() {
            link.again = true;
        } else if !link.queued {
            link.queued = true;
            self.ready.push_back(token);
        }
    }

    fn may_warn(&mut self, now: Instant) -> bool {
        let may = self.warned.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
        if may {
            self.warned = Some(now);
        }
        may
    }
}
