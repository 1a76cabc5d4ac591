//! What a sender waits for: legs and probes by token, each settled once, by an answer, a time-out or the end of its link.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use super::{Shared, lock};
use crate::budget::Permit;
use crate::clock;
use crate::completion::{FaultCause, Leg};
use crate::member::Member;
use crate::transport::LinkSink;

pub(super) struct Acks {
    lost: LinkSink,
    network: Weak<Shared>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// When time-outs are looked at next.
    armed: Option<Instant>,
    stopped: bool,
    failed: u64,
}

struct Waiting {
    link: u64,
    deadline: Instant,
    /// What it means when nothing comes in time.
    silence: FaultCause,
    who: Who,
}

pub(super) enum Who {
    /// The permit is room in the sender's queue, taken until the leg is settled.
    Leg(Leg, Permit),
    /// Dropped unanswered when no answer can come any more.
    Probe(mpsc::Sender<()>),
}

impl Acks {
    pub(super) fn new(lost: LinkSink, network: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { lost, network: Arc::downgrade(network), state: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits for an answer on this link, for `timeout`; the token goes with the message. None after the end.
    pub(super) fn expect(self: &Arc<Self>, link: u64, timeout: Duration, silence: FaultCause, who: Who) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.stopped {
            drop(state);
            if let Who::Leg(leg, _permit) = who {
                self.fail_quietly(leg, FaultCause::Stopped);
            }
            return None;
        }
        state.next += 1;
        let token = state.next;
        let deadline = clock::now() + timeout;
        state.waiting.insert(token, Waiting { link, deadline, silence, who });
        if state.armed.is_none_or(|armed| deadline < armed) {
            state.armed = Some(deadline);
            drop(state);
            self.arm(deadline);
        }
        Some(token)
    }

    /// An answer came.
    pub(super) fn settle(&self, token: u64, accepted: bool) {
        let Some(waiting) = self.take(token) else { return };
        match waiting.who {
            Who::Leg(leg, _permit) if accepted => leg.delivered(),
            Who::Leg(leg, _permit) => self.fail_quietly(leg, FaultCause::Rejected),
            Who::Probe(answered) => drop(answered.send(())),
        }
        self.wake();
    }

    /// Nobody wants this answer any more.
    pub(super) fn forget(&self, token: u64) {
        drop(self.take(token));
    }

    /// The link is gone, and so are the answers that were to come over it.
    pub(super) fn fail_link(&self, link: u64, cause: &FaultCause) {
        self.fail_all(cause, |waiting| waiting.link == link);
    }

    /// The member is gone.
    pub(super) fn fail_member(&self, member: &Member, cause: &FaultCause) {
        self.fail_all(cause, |waiting| matches!(&waiting.who, Who::Leg(leg, _) if leg.member() == member));
    }

    /// Nothing is waited for any more, now and later.
    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.fail_all(&FaultCause::Stopped, |_| true);
    }

    fn fail_all(&self, cause: &FaultCause, which: impl Fn(&Waiting) -> bool) {
        let failed = take_if(&mut lock(&self.state).waiting, which);
        for waiting in failed {
            if let Who::Leg(leg, _permit) = waiting.who {
                self.fail_quietly(leg, cause.clone());
            }
        }
        self.wake();
    }

    /// The leg failed for a reason that casts doubt on its member.
    pub(super) fn fail(&self, leg: Leg, cause: FaultCause) {
        let member = leg.member().clone();
        self.fail_quietly(leg, cause);
        self.lost.lost(&member);
    }

    pub(super) fn fail_quietly(&self, leg: Leg, cause: FaultCause) {
        lock(&self.state).failed += 1;
        leg.fail(cause);
    }

    pub(super) fn lost(&self, member: &Member) {
        self.lost.lost(member);
    }

    /// Blocks until `idle`, which is looked at whenever something was settled or [woken](Self::wake), or the time is over.
    pub(super) fn wait_until(&self, timeout: Duration, idle: impl Fn() -> bool) {
        let start = clock::now();
        let mut state = lock(&self.state);
        while !(state.waiting.is_empty() && idle()) {
            let left = clock::left(start, timeout);
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Blocks until [`stop`](Self::stop), or the time is over.
    pub(super) fn wait_for_stop(&self, timeout: Duration) {
        drop(self.changed.wait_timeout_while(lock(&self.state), timeout, |state| !state.stopped));
    }

    pub(super) fn wake(&self) {
        // Under the lock, or a thread that has just looked would miss it.
        let _state = lock(&self.state);
        self.changed.notify_all();
    }

    pub(super) fn failed(&self) -> u64 {
        lock(&self.state).failed
    }

    fn take(&self, token: u64) -> Option<Waiting> {
        lock(&self.state).waiting.remove(&token)
    }

    fn arm(self: &Arc<Self>, at: Instant) {
        let Some(network) = self.network.upgrade() else { return };
        let acks = Arc::downgrade(self);
        network.timer.at(at, move || {
            if let Some(acks) = acks.upgrade() {
                acks.expire();
            }
        });
    }

    fn expire(self: &Arc<Self>) {
        let now = clock::now();
        let (over, next) = {
            let mut state = lock(&self.state);
            let over = take_if(&mut state.waiting, |waiting| waiting.deadline <= now);
            // Not more often than every millisecond, however many are waiting.
            let next = state.waiting.values().map(|waiting| waiting.deadline.max(now + Duration::from_millis(1))).min();
            state.armed = next;
            (over, next)
        };
        if let Some(next) = next {
            self.arm(next);
        }
        for waiting in over {
            if let Who::Leg(leg, _permit) = waiting.who {
                self.fail(leg, waiting.silence);
            }
        }
        self.wake();
    }
}

fn take_if(waiting: &mut BTreeMap<u64, Waiting>, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
    let tokens: Vec<_> = waiting.iter().filter(|(_, waiting)| which(waiting)).map(|(token, _)| *token).collect();
    tokens.iter().filter_map(|token| waiting.remove(token)).collect()
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acks({} awaited)", lock(&self.state).waiting.len())
    }
}
