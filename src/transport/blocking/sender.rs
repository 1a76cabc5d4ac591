//! The sending side: a peer for each destination.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::lock;
use super::peer::{Job, Peer};
use super::probes::Probes;
use crate::budget::Budget;
use crate::clock;
use crate::completion::{FaultCause, Leg};
use crate::member::Member;
use crate::message::Message;
use crate::options::Acknowledgement;
use crate::stack::{Outbound, ProbeRequest};
use crate::transport::{LinkSink, ProbeDone, Sender, SenderStats};
use crate::wire::frame;

/// Settings of a [`BlockingSender`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BlockingSenderConfig {
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) max_retry_attempts: u32,
    pub(super) backoff: Duration,
    pub(super) idle_timeout: Duration,
    max_queued_bytes: usize,
    max_queued_messages: usize,
    max_message: usize,
}

impl Default for BlockingSenderConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            max_retry_attempts: 1,
            backoff: Duration::from_millis(50),
            idle_timeout: Duration::from_secs(60),
            max_queued_bytes: 256 << 20,
            max_queued_messages: 1 << 16,
            max_message: 256 << 20,
        }
    }
}

impl BlockingSenderConfig {
    /// How long an acknowledgement may take, and how long a peer may take no byte; 3 s unless set. (Tribes: `timeout`)
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// How long opening a connection may take; 1 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// How often connecting is tried again, and a message sent again whose connection was lost; 1 unless set. The second retry and
    /// those after it wait 50 ms. (Tribes: `maxRetryAttempts`)
    pub fn max_retry_attempts(mut self, attempts: u32) -> Self {
        self.max_retry_attempts = attempts;
        self
    }

    /// A destination without messages for so long loses its connection and its thread; 60 s unless set.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How many messages, and of how many bytes in all, may be queued for one destination; 65 536 and 256 MiB unless set. What is
    /// above fails with [`FaultCause::QueueFull`].
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.max_queued_messages = messages;
        self.max_queued_bytes = bytes;
        self
    }

    /// The largest body that is sent, in bytes of body alone; 256 MiB unless set.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes.min(Message::MAX_BODY);
        self
    }
}

/// Sends messages over TCP, with a thread for each destination and one message in flight to each.
///
/// When a destination cannot be connected to, or does not answer in time, everything that is queued for it fails together.
/// That a peer has ended an idle connection is noticed with the next message.
pub struct BlockingSender {
    shared: Arc<Shared>,
    peers: Mutex<Option<Peers>>,
}

struct Peers {
    by_member: HashMap<Member, Arc<Peer>>,
    probes: Arc<Probes>,
}

/// What all peers share.
pub(super) struct Shared {
    pub(super) config: BlockingSenderConfig,
    budget: Arc<Budget>,
    sink: Mutex<Option<LinkSink>>,
    settle: Mutex<()>,
    settled: Condvar,
    pub(super) connected: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl BlockingSender {
    /// A sender that is not started yet.
    #[must_use]
    pub fn new(config: BlockingSenderConfig) -> Self {
        let budget = Budget::new(config.max_queued_bytes, config.max_queued_messages);
        let shared = Shared {
            config,
            budget,
            sink: Mutex::default(),
            settle: Mutex::default(),
            settled: Condvar::new(),
            connected: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), peers: Mutex::default() }
    }

    fn send(&self, frame: &Bytes, acknowledged: bool, leg: Leg) {
        let Some(permit) = self.shared.budget.try_take(leg.member().id(), frame.len()) else {
            return self.shared.fail(leg, FaultCause::QueueFull);
        };
        let mut job = Job { leg, frame: frame.clone(), acknowledged, _permit: permit };
        loop {
            let Some(peer) = self.peer(job.leg.member()) else { return self.shared.fail(job.leg, FaultCause::Stopped) };
            match peer.push(job) {
                Ok(()) => return,
                // It was disconnected this moment: there is another one by now, or none.
                Err(again) => job = again,
            }
        }
    }

    /// The peer for this member; none when stopped.
    fn peer(&self, member: &Member) -> Option<Arc<Peer>> {
        let mut peers = lock(&self.peers);
        let peers = &mut peers.as_mut()?.by_member;
        if let Some(peer) = peers.get(member) {
            return Some(Arc::clone(peer));
        }
        let peer = Peer::new(member.clone(), Arc::clone(&self.shared));
        peers.insert(member.clone(), Arc::clone(&peer));
        Some(peer)
    }
}

impl Sender for BlockingSender {
    fn start(&self, sink: LinkSink) -> io::Result<()> {
        let mut peers = lock(&self.peers);
        if peers.is_none() {
            *lock(&self.shared.sink) = Some(sink);
            *peers = Some(Peers { by_member: HashMap::new(), probes: Arc::default() });
        }
        Ok(())
    }

    fn transmit(&self, msg: Outbound) {
        let (size, limit) = (msg.message.body().len(), self.shared.config.max_message);
        if size > limit {
            return msg.legs.into_iter().for_each(|leg| self.shared.fail(leg, FaultCause::TooLarge { size, limit }));
        }
        let frame = frame::to_bytes(&msg.message);
        let acknowledged = msg.message.options().acknowledgement() != Acknowledgement::None;
        msg.legs.into_iter().for_each(|leg| self.send(&frame, acknowledged, leg));
    }

    fn probe(&self, peer: &Member, request: ProbeRequest, done: ProbeDone) {
        let probes = lock(&self.peers).as_ref().map(|peers| Arc::clone(&peers.probes));
        match probes {
            Some(probes) => probes.start(peer.clone(), request, done),
            None => done(crate::stack::Probe::Unreachable),
        }
    }

    fn disconnect(&self, peer: &Member) {
        let peer = lock(&self.peers).as_mut().and_then(|peers| peers.by_member.remove(peer));
        if let Some(peer) = peer {
            peer.close(&FaultCause::Connection(io::ErrorKind::ConnectionAborted));
        }
    }

    fn stop(&self, drain: Duration) {
        let Some(Peers { by_member, probes }) = lock(&self.peers).take() else { return };
        probes.stop();
        self.shared.wait_until(drain, || by_member.values().all(|peer| peer.is_idle()));
        by_member.values().for_each(|peer| peer.close(&FaultCause::Stopped));
        by_member.values().for_each(|peer| peer.join());
        *lock(&self.shared.sink) = None;
    }

    fn stats(&self) -> SenderStats {
        let connections =
            lock(&self.peers).as_ref().map_or(0, |peers| peers.by_member.values().filter(|peer| peer.is_connected()).count());
        SenderStats {
            connections,
            connected: self.shared.connected.load(Ordering::Relaxed),
            frames: self.shared.frames.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            resent: self.shared.resent.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            pending: self.shared.budget.used().1,
        }
    }
}

impl Drop for BlockingSender {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl std::fmt::Debug for BlockingSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockingSender({:?})", self.stats())
    }
}

impl Shared {
    fn fail(&self, leg: Leg, cause: FaultCause) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        leg.fail(cause);
    }

    pub(super) fn lost(&self, member: &Member) {
        let sink = lock(&self.sink).clone();
        if let Some(sink) = sink {
            sink.lost(member);
        }
    }

    /// A message was settled.
    pub(super) fn settled(&self) {
        // Under the lock, or a thread that has just looked would miss it.
        let _settle = lock(&self.settle);
        self.settled.notify_all();
    }

    /// Blocks until `done`, which is looked at whenever something was settled, or the time is over.
    fn wait_until(&self, timeout: Duration, done: impl Fn() -> bool) {
        let start = clock::now();
        let mut settle = lock(&self.settle);
        while !done() {
            let left = clock::left(start, timeout);
            if left.is_zero() {
                return;
            }
            settle = self.settled.wait_timeout(settle, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
