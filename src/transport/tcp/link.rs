//! What decides about one destination, without a socket, a thread or a clock.
//!
//! A message goes `queue` → (written by the driver, see [`Outbox`](super::outbox::Outbox)) → `flight`, where it waits for its
//! acknowledgement; acknowledgements are matched by position. When the connection ends, everything that is not settled goes back to
//! the front of the queue in its old order, or fails.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::acks::Answer;
use super::config::TcpSenderConfig;
use super::standby::Standby;
use crate::completion::{FaultCause, Leg, Sending};
use crate::id::Capabilities;
use crate::member::Member;
use crate::message::Message;
use crate::options::Acknowledgement;
use crate::wire::frame;

/// Bytes that are taken from the queue at a time.
const BATCH: usize = 256 * 1024;

/// A message on its way to one destination.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) message: Message,
    pub(super) leg: Leg,
    /// When it was submitted.
    pub(super) since: Instant,
    /// Whether a caller waits for it, and will read its acknowledgement.
    pub(super) attended: bool,
    /// The length of its frame.
    pub(super) len: usize,
    /// Connections that were lost with it.
    attempts: u32,
    /// Where its frame ends in the stream of its connection.
    pub(super) end: u64,
}

impl Pending {
    pub(super) fn new(message: Message, leg: Leg, since: Instant, attended: bool) -> Self {
        let len = frame::encoded_len(&message);
        Self { message, leg, since, attended, len, attempts: 0, end: 0 }
    }

    pub(super) fn awaits_ack(&self) -> bool {
        self.message.options().acknowledgement() != Acknowledgement::None
    }
}

/// Messages that failed, to be reported when no lock is held.
pub(super) type Failed = Vec<(Leg, FaultCause)>;

/// Why a connection ended.
#[derive(Clone, Debug)]
pub(super) enum Loss {
    /// The peer closed it, or it broke.
    Connection(ErrorKind),
    /// The peer showed no sign of life in time.
    Silence,
    /// We closed it, because it was idle, old or much used.
    Retired,
    /// We closed it for good: every message fails with this.
    Closed(FaultCause),
}

/// What is known about the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// There is none.
    Idle,
    /// One is being opened, until then.
    Connecting(Instant),
    /// Opening one failed; the next attempt comes then.
    Waiting(Instant),
    /// It is open, since then.
    Up(Instant),
}

/// The state of one destination.
#[derive(Debug)]
pub(super) struct Link {
    rules: Rules,
    phase: Phase,
    standby: Standby,
    queue: VecDeque<Pending>,
    queued_bytes: usize,
    /// Written and not answered, in order.
    flight: VecDeque<Pending>,
    flight_bytes: usize,
    /// Taken by the driver and not yet in flight.
    taken: usize,
    taken_bytes: usize,
    /// Since when the oldest message waits that the socket did not take; set while it takes nothing.
    blocked: Option<Instant>,
    /// When the peer last showed that it lives: it answered, or took bytes after it had taken none.
    life: Option<Instant>,
    connect_failures: u32,
    /// Messages taken since the connection was opened.
    requests: u64,
    retiring: bool,
    used: bool,
    idle_since: Option<Instant>,
}

/// The part of the settings that decides here.
#[derive(Clone, Copy, Debug)]
struct Rules {
    in_order: bool,
    timeout: Duration,
    connect_timeout: Duration,
    retries: u32,
    backoff: (Duration, Duration),
    window: (usize, usize),
    room: (usize, usize),
    keep_alive_count: u64,
    keep_alive_time: Option<Duration>,
    idle_timeout: Duration,
    fail_on_negative_ack: bool,
}

impl Link {
    pub(super) fn new(peer: &Member, config: &TcpSenderConfig) -> Self {
        let rules = Rules {
            in_order: peer.capabilities().contains(Capabilities::IN_ORDER_ACKS),
            timeout: config.timeout,
            connect_timeout: config.connect_timeout,
            retries: config.max_retry_attempts,
            backoff: config.backoff,
            window: config.window,
            room: config.queue,
            keep_alive_count: config.keep_alive_count.unwrap_or(u64::MAX),
            keep_alive_time: config.keep_alive_time,
            idle_timeout: config.idle_timeout,
            fail_on_negative_ack: config.fail_on_negative_ack,
        };
        Self {
            rules,
            phase: Phase::Idle,
            standby: Standby::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            flight: VecDeque::new(),
            flight_bytes: 0,
            taken: 0,
            taken_bytes: 0,
            blocked: None,
            life: None,
            connect_failures: 0,
            requests: 0,
            retiring: false,
            used: false,
            idle_since: None,
        }
    }

    /// It is known now who is there.
    pub(super) fn rename(&mut self, peer: &Member) {
        self.rules.in_order = peer.capabilities().contains(Capabilities::IN_ORDER_ACKS);
    }

    /// Queues a message behind all others; gives it back when the queue is full.
    pub(super) fn submit(&mut self, pending: Pending) -> Option<Pending> {
        let (messages, bytes) = self.rules.room;
        let full = self.queue.len() >= messages || self.queued_bytes.saturating_add(pending.len) > bytes;
        if full && !self.queue.is_empty() {
            return Some(pending);
        }
        self.queued_bytes += pending.len;
        self.queue.push_back(pending);
        None
    }

    /// From now on a connection is wanted though nothing is to be sent.
    pub(super) fn keep(&mut self, now: Instant) {
        self.standby.keep((self.phase == Phase::Idle).then_some(now));
    }

    /// Whether a connection is to be opened some time though nothing is to be sent.
    pub(super) fn stands_by(&self) -> bool {
        self.standby.is_pending()
    }

    /// Whether a connection should be opened now.
    pub(super) fn wants_connection(&self, now: Instant) -> bool {
        let due = match self.phase {
            Phase::Idle => true,
            Phase::Waiting(until) => until <= now,
            Phase::Connecting(_) | Phase::Up(_) => false,
        };
        due && (!self.queue.is_empty() || self.standby.is_due(now))
    }

    /// Opening a connection has begun.
    pub(super) fn connecting(&mut self, now: Instant) {
        self.phase = Phase::Connecting(now + self.rules.connect_timeout);
        self.standby.settle();
    }

    /// The connection is open.
    pub(super) fn connected(&mut self, now: Instant) {
        self.phase = Phase::Up(now);
        self.connect_failures = 0;
        self.requests = 0;
        self.retiring = false;
        self.used = true;
    }

    /// No connection could be opened: waits for the next attempt, or fails everything after the last.
    pub(super) fn connect_failed(&mut self, kind: ErrorKind, now: Instant) -> Failed {
        self.connect_failures += 1;
        if self.connect_failures <= self.rules.retries && !self.queue.is_empty() {
            self.phase = Phase::Waiting(now + self.pause());
            return Failed::new();
        }
        self.connect_failures = 0;
        self.phase = Phase::Idle;
        self.standby.retry(now, Duration::ZERO);
        self.queued_bytes = 0;
        let lost = self.queue.drain(..);
        lost.map(|pending| {
            // What was sent before may have arrived.
            let cause = if pending.attempts == 0 { FaultCause::Connect(kind) } else { FaultCause::Connection(kind) };
            (pending.leg, cause)
        })
        .collect()
    }

    /// Whether the driver would get anything.
    pub(super) fn can_take(&self) -> bool {
        matches!(self.phase, Phase::Up(_)) && !self.retiring && self.blocked.is_none() && self.fits()
    }

    /// Gives the driver what is to be written next, as far as the window allows.
    pub(super) fn take(&mut self, mut give: impl FnMut(Pending)) {
        let mut bytes = 0;
        while bytes < BATCH && self.can_take() {
            let Some(pending) = self.queue.pop_front() else { return };
            bytes += pending.len;
            self.queued_bytes -= pending.len;
            if pending.awaits_ack() {
                self.taken += 1;
                self.taken_bytes += pending.len;
            }
            self.used = true;
            self.requests += 1;
            self.retiring |= self.requests >= self.rules.keep_alive_count;
            give(pending);
        }
    }

    /// A message that was taken is about to be written and wants an acknowledgement.
    pub(super) fn launch(&mut self, pending: Pending) {
        self.taken -= 1;
        self.taken_bytes -= pending.len;
        self.flight_bytes += pending.len;
        self.flight.push_back(pending);
    }

    /// The peer answered: gives back the message, and whether it is delivered. `None` when no answer was due.
    pub(super) fn answered(&mut self, answer: Answer) -> Option<(Pending, bool)> {
        let pending = self.flight.pop_front()?;
        self.flight_bytes -= pending.len;
        let delivered = answer == Answer::Ack || !self.rules.fail_on_negative_ack;
        Some((pending, delivered))
    }

    /// The peer showed that it lives.
    pub(super) fn alive(&mut self, now: Instant) {
        self.life = Some(now);
    }

    /// The socket takes no more; `oldest` is when the first message was submitted that it did not take.
    pub(super) fn blocked(&mut self, oldest: Instant) {
        self.blocked = Some(oldest);
    }

    /// The socket takes bytes again.
    pub(super) fn unblocked(&mut self) {
        self.blocked = None;
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Whether the connection is to be closed now: it has served enough, and nothing is on its way.
    pub(super) fn is_retired(&self) -> bool {
        self.retiring && matches!(self.phase, Phase::Up(_)) && self.flight.is_empty() && self.taken == 0 && self.blocked.is_none()
    }

    /// The connection ended. What was not settled is queued again in its old order or fails; `written` is what the driver still
    /// had. Tells what failed, and how many are to be sent again.
    pub(super) fn lost(&mut self, loss: &Loss, now: Instant, written: Vec<Pending>) -> (Failed, u64) {
        let mut failed = Failed::new();
        let mut again = 0;
        for mut pending in self.unsettled(written).into_iter().rev() {
            let cause = match loss {
                Loss::Closed(cause) => Some(cause.clone()),
                Loss::Silence if self.is_aged(&pending, now) => Some(FaultCause::Timeout(self.rules.timeout)),
                Loss::Silence | Loss::Connection(_) if pending.attempts >= self.rules.retries => {
                    Some(FaultCause::Connection(loss.kind()))
                }
                Loss::Silence | Loss::Connection(_) | Loss::Retired => None,
            };
            if let Some(cause) = cause {
                failed.push((pending.leg, cause));
                continue;
            }
            pending.attempts += u32::from(!matches!(loss, Loss::Retired));
            again += 1;
            self.queued_bytes += pending.len;
            self.queue.push_front(pending);
        }
        failed.reverse();
        let stood = if let Phase::Up(since) = self.phase { now.saturating_duration_since(since) } else { Duration::ZERO };
        match loss {
            Loss::Connection(_) | Loss::Silence => self.standby.retry(now, stood),
            Loss::Retired => self.standby.settle(),
            Loss::Closed(_) => self.standby.end(),
        }
        self.phase = Phase::Idle;
        self.blocked = None;
        match loss {
            Loss::Silence => failed.extend(self.expire(now)),
            Loss::Closed(cause) => {
                self.queued_bytes = 0;
                failed.extend(self.queue.drain(..).map(|pending| (pending.leg, cause.clone())));
            }
            Loss::Connection(_) | Loss::Retired => {}
        }
        (failed, again)
    }

    /// When something is to be done though nothing happens: give up on a silent peer, on opening a connection, or try again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Connecting(until) => Some(until),
            Phase::Waiting(until) => Some(until),
            Phase::Idle | Phase::Up(_) => None,
        };
        phase.into_iter().chain(self.silence()).min()
    }

    /// Whether messages have waited too long for a sign of life.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.silence().is_some_and(|deadline| deadline <= now)
    }

    /// Fails every queued message that waited too long. For a link without a connection; one with a connection is
    /// [lost](Self::lost) by [silence](Loss::Silence).
    pub(super) fn expire(&mut self, now: Instant) -> Failed {
        let mut failed = Failed::new();
        for pending in std::mem::take(&mut self.queue) {
            if self.is_aged(&pending, now) {
                self.queued_bytes -= pending.len;
                failed.push((pending.leg, FaultCause::Timeout(self.rules.timeout)));
            } else {
                self.queue.push_back(pending);
            }
        }
        failed
    }

    /// Looks at the age and the use of the connection, from time to time. Tells whether it has been idle too long.
    pub(super) fn review(&mut self, now: Instant) -> bool {
        let Phase::Up(since) = self.phase else { return false };
        let older = |age: Duration, than: Instant| now.saturating_duration_since(than) >= age;
        self.retiring |= self.rules.keep_alive_time.is_some_and(|age| older(age, since));
        if std::mem::take(&mut self.used) || !self.is_quiet() {
            self.idle_since = Some(now);
            return false;
        }
        !self.standby.is_wanted() && older(self.rules.idle_timeout, *self.idle_since.get_or_insert(now))
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Nothing is queued or on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.flight.is_empty() && self.taken == 0 && self.blocked.is_none()
    }

    pub(super) fn has_flight(&self) -> bool {
        !self.flight.is_empty()
    }

    /// Messages queued or on their way.
    pub(super) fn pending(&self) -> usize {
        self.queue.len() + self.taken + self.flight.len()
    }

    /// Whether a message of this send waits for its acknowledgement.
    pub(super) fn owes(&self, sending: &Sending) -> bool {
        // The newest are the likeliest to be asked for.
        self.flight.iter().rev().any(|pending| pending.leg.belongs_to(sending))
    }

    fn fits(&self) -> bool {
        let Some(next) = self.queue.front() else { return false };
        let (count, bytes) = (self.flight.len() + self.taken, self.flight_bytes + self.taken_bytes);
        if !self.rules.in_order {
            // Not even an unacknowledged message may follow: a Tribes node would handle both at the same time.
            return count == 0;
        }
        let (window, window_bytes) = self.rules.window;
        !next.awaits_ack() || count == 0 || (count < window && bytes.saturating_add(next.len) <= window_bytes)
    }

    /// The pause before the next attempt to connect: none before the first retry.
    fn pause(&self) -> Duration {
        let (initial, max) = self.rules.backoff;
        match self.connect_failures {
            0 | 1 => Duration::ZERO,
            failures => initial.saturating_mul(1 << (failures - 2).min(16)).min(max),
        }
    }

    /// What is written or being written, in the order of the stream.
    fn unsettled(&mut self, written: Vec<Pending>) -> Vec<Pending> {
        (self.taken, self.taken_bytes, self.flight_bytes) = (0, 0, 0);
        let mut all: Vec<_> = self.flight.drain(..).chain(written).collect();
        all.sort_by_key(|pending| pending.end);
        all
    }

    /// When the peer has been silent too long for the oldest message.
    fn silence(&self) -> Option<Instant> {
        let flight = self.flight.front().map(|pending| pending.since);
        let queued = || self.queue.front().map(|pending| pending.since);
        let oldest = flight.into_iter().chain(self.blocked).min().or_else(queued)?;
        Some(self.life.map_or(oldest, |life| life.max(oldest)) + self.rules.timeout)
    }

    fn is_aged(&self, pending: &Pending, now: Instant) -> bool {
        now.saturating_duration_since(pending.since) >= self.rules.timeout
    }
}

impl Loss {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Connection(kind) => *kind,
            Self::Silence => ErrorKind::TimedOut,
            Self::Retired | Self::Closed(_) => ErrorKind::ConnectionAborted,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
