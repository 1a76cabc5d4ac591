//! The sending thread: opens connections, writes what nobody waits for, goes on where a socket was full, reads acknowledgements that
//! no caller reads, watches deadlines, and probes.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Registry, Token, Waker};
use socket2::Socket;

use super::config::TcpSenderConfig;
use super::conn::{self, Conn};
use super::peer::{BATCHES, Peer};
use super::probe::{Probing, Wanted};
use crate::clock;
use crate::completion::{FaultCause, Leg};
use crate::hash::ById;
use crate::member::Member;
use crate::stack::Probe;
use crate::transport::LinkSink;

/// How often destinations are looked at while something is on its way to them.
const TICK: Duration = Duration::from_millis(100);
/// How often all destinations are looked at: whether they have been idle, or open too long.
const REVIEW: Duration = Duration::from_secs(5);
/// How often a stop looks whether everything is settled.
const STOP_TICK: Duration = Duration::from_millis(2);

const WAKE: Token = Token(0);

/// What the callers and the sending thread share.
pub(super) struct Core {
    pub(super) config: TcpSenderConfig,
    pub(super) sink: LinkSink,
    pub(super) stats: Stats,
    pub(super) links: RwLock<Links>,
    pub(super) stopping: AtomicBool,
    todo: Mutex<Todo>,
    waker: Waker,
    keys: AtomicUsize,
}

/// All destinations.
#[derive(Default)]
pub(super) struct Links {
    pub(super) by_member: ById<Arc<Peer>, Member>,
    /// None is added any more.
    pub(super) closed: bool,
}

impl Links {
    /// The link to a member. Behind a placeholder is whoever is at its address.
    pub(super) fn get(&self, member: &Member) -> Option<&Arc<Peer>> {
        self.by_member.get(member).or_else(|| {
            let address = member.is_placeholder().then(|| member.address())?;
            self.by_member.values().find(|peer| peer.address == address)
        })
    }

    /// The link that a member's placeholder had. What is under way there stays ahead of what is sent to the member by name.
    pub(super) fn take_over(&mut self, member: &Member) -> Option<Arc<Peer>> {
        let peer = self.by_member.remove(&Member::placeholder(member.address()))?;
        peer.rename(member);
        Some(peer)
    }
}

/// What the sending thread is asked to do.
#[derive(Default)]
struct Todo {
    peers: Vec<Arc<Peer>>,
    probes: Vec<Wanted>,
    review: bool,
    stop: Option<Instant>,
    /// The thread has ended: nothing is asked any more.
    closed: bool,
}

/// Counters of [`SenderStats`](crate::transport::SenderStats).
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) connected: Counter,
    pub(super) frames: Counter,
    pub(super) bytes: Counter,
    pub(super) resent: Counter,
    pub(super) failed: Counter,
}

/// Counts events; order does not matter.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Core {
    /// The shared state, and what the sending thread is to run.
    pub(super) fn new(config: TcpSenderConfig, sink: LinkSink) -> io::Result<(Arc<Self>, Reactor)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let core = Arc::new(Self {
            config,
            sink,
            stats: Stats::default(),
            links: RwLock::default(),
            stopping: AtomicBool::new(false),
            todo: Mutex::default(),
            waker,
            keys: AtomicUsize::new(WAKE.0 + 1),
        });
        let reactor = Reactor {
            core: Arc::clone(&core),
            poll,
            registered: HashMap::new(),
            ticking: HashMap::new(),
            next_tick: None,
            next_review: None,
            probing: Probing::default(),
            waiting: VecDeque::new(),
        };
        Ok((core, reactor))
    }

    /// A number that no other destination or probe has.
    pub(super) fn key(&self) -> usize {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn fail(&self, leg: Leg, cause: FaultCause) {
        self.stats.failed.add(1);
        leg.fail(cause);
    }

    /// Has the sending thread look at a destination.
    pub(super) fn schedule(&self, peer: Arc<Peer>) {
        self.ask(|todo| todo.peers.push(peer));
    }

    /// Has the sending thread probe a member.
    pub(super) fn probe(&self, wanted: Wanted) {
        let mut wanted = Some(wanted);
        self.ask(|todo| todo.probes.extend(wanted.take()));
        if let Some(Wanted { done, .. }) = wanted {
            done(Probe::Unreachable);
        }
    }

    /// Has the sending thread look for connections to close.
    pub(super) fn review(&self) {
        self.ask(|todo| todo.review = true);
    }

    /// Has the sending thread end when everything is settled, or at `deadline`.
    pub(super) fn stop(&self, deadline: Instant) {
        self.stopping.store(true, Ordering::Release);
        self.ask(|todo| todo.stop = Some(deadline));
    }

    fn ask(&self, request: impl FnOnce(&mut Todo)) {
        let first = {
            let mut todo = self.lock_todo();
            let first = todo.is_empty();
            if todo.closed {
                return;
            }
            request(&mut todo);
            first
        };
        // Whoever found it empty has woken the thread, which takes all that is there when it comes.
        if first && let Err(error) = self.waker.wake() {
            log::error!("the sending thread cannot be woken: {error}");
        }
    }

    fn take(&self) -> Todo {
        std::mem::take(&mut *self.lock_todo())
    }

    fn lock_todo(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> Vec<Arc<Peer>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).by_member.values().cloned().collect()
    }
}

impl Todo {
    fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.probes.is_empty() && !self.review && self.stop.is_none()
    }
}

/// What the sending thread owns.
pub(super) struct Reactor {
    core: Arc<Core>,
    poll: Poll,
    registered: HashMap<usize, Registered>,
    ticking: HashMap<usize, Arc<Peer>>,
    next_tick: Option<Instant>,
    next_review: Option<Instant>,
    probing: Probing,
    waiting: VecDeque<Wanted>,
}

/// A connection for the poll. The stream is another handle of the same socket, used for nothing else.
struct Registered {
    peer: Arc<Peer>,
    stream: mio::net::TcpStream,
    state: Opening,
    /// Whether it really is in the poll just now.
    armed: bool,
}

enum Opening {
    Connecting(Socket),
    Open(Arc<Conn>),
}

impl Reactor {
    /// Runs until [`Core::stop`].
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut stop: Option<Instant> = None;
        loop {
            let timeout = self.timeout(stop.is_some());
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != ErrorKind::Interrupted
            {
                log::error!("waiting for sockets failed, the sending thread ends: {error}");
                break;
            }
            for event in &events {
                self.event(event);
            }
            let todo = self.core.take();
            stop = stop.or(todo.stop);
            self.waiting.extend(todo.probes);
            for peer in todo.peers {
                self.attend(&peer, false);
            }
            let now = clock::now();
            self.tick(now);
            if todo.review || self.next_review.is_some_and(|next| next <= now) {
                let standing_by = self.core.peers().iter().filter(|peer| peer.review(now)).count();
                self.next_review = (standing_by > 0 || !self.registered.is_empty()).then(|| now + REVIEW);
            }
            self.probe(now);
            if stop.is_some_and(|deadline| deadline <= now || self.core.peers().iter().all(|peer| peer.is_quiet())) {
                break;
            }
        }
        self.end();
    }

    fn timeout(&self, stopping: bool) -> Option<Duration> {
        let stop_tick = stopping.then_some(STOP_TICK);
        let deadline = [self.next_tick, self.next_review, self.probing.deadline()].into_iter().flatten().min();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(clock::now()));
        // The poll counts in milliseconds, downwards: a little more, or it would come back too early and spin.
        stop_tick.into_iter().chain(left.map(|left| left + Duration::from_micros(999))).min()
    }

    fn event(&mut self, event: &mio::event::Event) {
        let Token(key) = event.token();
        let Some(registered) = self.registered.get_mut(&key) else {
            if event.token() != WAKE {
                self.probing.event(key, self.poll.registry(), clock::now());
            }
            return;
        };
        let peer = Arc::clone(&registered.peer);
        if matches!(registered.state, Opening::Connecting(_)) {
            self.opening(&peer);
        }
        // The peer may have closed it again already: one event tells both, and none comes after it.
        let Some(registered) = self.registered.get_mut(&key).filter(|registered| matches!(registered.state, Opening::Open(_)))
        else {
            return;
        };
        let hung_up = event.is_error() || event.is_read_closed();
        if event.is_writable() {
            peer.writable();
        }
        if (event.is_readable() || hung_up) && !peer.readable() && registered.armed {
            registered.disarm(self.poll.registry());
        }
    }

    /// Does what is to be done for a destination now.
    fn attend(&mut self, peer: &Arc<Peer>, tick: bool) {
        let now = clock::now();
        let duties = peer.duties(now, tick);
        self.align(peer, duties.connecting && !duties.connect && !duties.give_up, duties.conn);
        if duties.give_up {
            peer.connect_failed(ErrorKind::TimedOut, now);
        }
        if duties.connect {
            self.open(peer);
        }
        if duties.drive {
            peer.drive(BATCHES);
        }
        if duties.ticking {
            self.ticking.entry(peer.key).or_insert_with(|| Arc::clone(peer));
            let period = TICK.min(self.core.config.timeout.max(Duration::from_millis(1)));
            let next = duties.deadline.map_or(now + period, |deadline| deadline.min(now + period));
            self.next_tick = Some(self.next_tick.map_or(next, |earlier| earlier.min(next)));
        } else {
            self.ticking.remove(&peer.key);
        }
        if duties.stands_by || self.registered.contains_key(&peer.key) {
            self.next_review.get_or_insert(now + REVIEW);
        }
    }

    /// Makes the registration agree with what the destination has.
    fn align(&mut self, peer: &Arc<Peer>, connecting: bool, conn: Option<(Arc<Conn>, bool)>) {
        let Some(registered) = self.registered.get_mut(&peer.key) else { return };
        match (&registered.state, conn) {
            (Opening::Connecting(_), _) if connecting => {}
            (Opening::Open(open), Some((current, armed))) if Arc::ptr_eq(open, &current) => {
                if armed {
                    registered.arm(self.poll.registry(), peer.key);
                }
            }
            _ => self.forget(peer.key),
        }
    }

    fn forget(&mut self, key: usize) {
        if let Some(mut registered) = self.registered.remove(&key) {
            registered.disarm(self.poll.registry());
        }
    }

    fn open(&mut self, peer: &Arc<Peer>) {
        let opened = conn::open(peer.address, &self.core.config).and_then(|socket| {
            let mut stream = mio::net::TcpStream::from_std(TcpStream::from(socket.try_clone()?));
            self.poll.registry().register(&mut stream, Token(peer.key), Interest::READABLE | Interest::WRITABLE)?;
            Ok((socket, stream))
        });
        match opened {
            Ok((socket, stream)) => {
                let state = Opening::Connecting(socket);
                self.registered.insert(peer.key, Registered { peer: Arc::clone(peer), stream, state, armed: true });
            }
            Err(error) => peer.connect_failed(error.kind(), clock::now()),
        }
    }

    /// Looks whether a connection is open now.
    fn opening(&mut self, peer: &Arc<Peer>) {
        let Some(registered) = self.registered.get_mut(&peer.key) else { return };
        let Opening::Connecting(socket) = &registered.state else { return };
        let conn = match conn::opened(socket) {
            None => return,
            Some(Ok(())) => socket.try_clone().and_then(|socket| Conn::new(socket, &self.core.config)),
            Some(Err(error)) => Err(error),
        };
        match conn {
            Ok(conn) => {
                let conn = Arc::new(conn);
                registered.state = Opening::Open(Arc::clone(&conn));
                peer.connected(conn, clock::now());
            }
            Err(error) => {
                self.forget(peer.key);
                peer.connect_failed(error.kind(), clock::now());
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|next| next > now) {
            return;
        }
        self.next_tick = None;
        let peers: Vec<_> = self.ticking.values().cloned().collect();
        peers.iter().for_each(|peer| self.attend(peer, true));
    }

    fn probe(&mut self, now: Instant) {
        self.probing.expire(now, self.poll.registry());
        while self.probing.len() < self.core.config.max_probes {
            let Some(wanted) = self.waiting.pop_front() else { break };
            self.probing.start(self.core.key(), wanted, &self.core.config, self.poll.registry(), now);
        }
    }

    fn end(mut self) {
        self.core.stopping.store(true, Ordering::Release);
        let peers: Vec<_> = {
            let mut links = self.core.links.write().unwrap_or_else(PoisonError::into_inner);
            links.closed = true;
            links.by_member.drain().map(|(_, peer)| peer).collect()
        };
        peers.iter().for_each(|peer| peer.close(&FaultCause::Stopped));
        let last = std::mem::replace(&mut *self.core.lock_todo(), Todo { closed: true, ..Todo::default() });
        self.waiting.extend(last.probes);
        self.probing.end(self.waiting);
    }
}

impl Registered {
    /// Wants to be told when there is something to read or room to write; also when that is so already.
    fn arm(&mut self, registry: &Registry, key: usize) {
        if !self.armed {
            match registry.register(&mut self.stream, Token(key), Interest::READABLE | Interest::WRITABLE) {
                Ok(()) => self.armed = true,
                Err(error) => log::error!("a socket cannot be watched: {error}"),
            }
        }
    }

    /// Wants to be told nothing: each wake-up costs, also one that is not for this thread.
    fn disarm(&mut self, registry: &Registry) {
        if std::mem::take(&mut self.armed)
            && let Err(error) = registry.deregister(&mut self.stream)
        {
            log::debug!("a socket was not watched: {error}");
        }
    }
}
