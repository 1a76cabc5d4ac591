//! How a sender learns what became of a message: one [`Sending`] per send, one [`Leg`] per destination.
//!
//! A message cannot be lost silently. Its legs travel with it through the stack and the transport; each ends in
//! [`delivered`](Leg::delivered) or [`fail`](Leg::fail), and a leg that is merely dropped reports [`FaultCause::Dropped`].

mod callbacks;
mod outcome;
mod pool;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use crate::budget::Permit;
use crate::clock;
use crate::id::UniqueId;
use crate::member::Member;
use callbacks::call_or_defer;
pub(crate) use callbacks::{DeferCallbacks, UserCode};
pub use outcome::{Fault, FaultCause, Receipt, SendError};

/// A message on its way to one destination.
///
/// Whoever holds a leg owes its sender an answer. An interceptor that makes several messages of one [forks](Self::fork) the leg:
/// the destination then counts as reached when all forks are delivered.
#[must_use = "a leg that is dropped reports the destination as faulty"]
pub struct Leg {
    member: Member,
    shared: Option<Arc<Shared>>,
    permit: Option<Permit>,
}

impl Leg {
    /// A leg whose outcome nobody waits for, as for messages that an interceptor sends on its own.
    pub fn detached(member: Member) -> Self {
        Self { member, shared: None, permit: None }
    }

    /// The destination.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The destination is reached, as far as the message's options ask.
    pub fn delivered(mut self) {
        self.settle(None);
    }

    /// The destination is not reached.
    pub fn fail(mut self, cause: FaultCause) {
        self.settle(Some(cause));
    }

    /// Another leg to the same destination; the send completes when both are settled. The room that an asynchronous message
    /// takes in its queue stays with the original, so that is the one to send last.
    pub fn fork(&self) -> Self {
        if let Some(shared) = &self.shared {
            shared.pending.fetch_add(1, Ordering::Relaxed);
        }
        Self { member: self.member.clone(), shared: self.shared.clone(), permit: None }
    }

    /// Whether this leg is one of that send's.
    pub(crate) fn belongs_to(&self, sending: &Sending) -> bool {
        self.shared.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, &sending.shared))
    }

    /// Keeps a permit until the leg is settled.
    pub(crate) fn hold(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    fn settle(&mut self, fault: Option<FaultCause>) {
        self.permit = None;
        if let Some(shared) = self.shared.take() {
            shared.settle(fault.map(|cause| Fault { member: self.member.clone(), cause }));
            pool::give(shared);
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if self.shared.is_some() {
            self.settle(Some(FaultCause::Dropped));
        }
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leg({})", self.member)
    }
}

/// The handle of one send. Wait for it, `.await` it on any executor, or give it a callback; dropping it changes nothing for the
/// message.
#[must_use = "the outcome of the send is lost with its handle"]
pub struct Sending {
    shared: Arc<Shared>,
}

/// What a callback gets.
type Callback = Box<dyn FnOnce(Result<Receipt, SendError>) + Send>;

#[derive(Default)]
struct Shared {
    id: UniqueId,
    /// How many destinations the message has; written before any leg is handed out.
    destinations: AtomicUsize,
    /// Legs that are not settled.
    pending: AtomicUsize,
    done: AtomicBool,
    /// Somebody waits, or has left a waker or a callback. Set, under the lock, before `done` is looked at; read after `done` is set:
    /// one of both sides sees the other, and whoever settles what nobody watches takes no lock.
    watched: AtomicBool,
    /// A [`Watch`] has asked the caller to look around.
    poked: AtomicBool,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    returned: Option<Bytes>,
    waiting: bool,
    waker: Option<Waker>,
    callback: Option<Callback>,
}

impl Sending {
    /// A handle and the legs of a message with this id to these members. Sends to no member complete at once.
    pub fn new(id: UniqueId, members: impl IntoIterator<Item = Member>) -> (Self, Vec<Leg>) {
        let mut shared = pool::take();
        Arc::get_mut(&mut shared).expect("the pool keeps what nobody else holds").id = id;
        let legs: Vec<_> =
            members.into_iter().map(|member| Leg { member, shared: Some(Arc::clone(&shared)), permit: None }).collect();
        // No leg is settled before it is handed out below.
        shared.destinations.store(legs.len(), Ordering::Relaxed);
        shared.pending.store(legs.len(), Ordering::Relaxed);
        shared.done.store(legs.is_empty(), Ordering::Release);
        (Self { shared }, legs)
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> UniqueId {
        self.shared.id
    }

    /// Whether the outcome is known.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Blocks until the outcome is known. It will be: every transport gives up in a bounded time.
    ///
    /// # Errors
    ///
    /// When a destination was not reached; the error names each and why.
    pub fn wait(self) -> Result<Receipt, SendError> {
        self.block(None);
        let outcome = self.shared.outcome();
        // Whoever waits is often the last to hold it.
        pool::give(self.shared);
        outcome
    }

    /// Blocks until the outcome is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<Receipt, SendError>, Self> {
        if self.block(Some(timeout)) { Ok(self.shared.outcome()) } else { Err(self) }
    }

    /// Calls `callback` once with the outcome: on the thread that settles the last destination, or right here when it is known.
    /// It must not block.
    pub fn on_complete(self, callback: impl FnOnce(Result<Receipt, SendError>) + Send + 'static) {
        let mut state = self.shared.watch();
        if self.is_done() {
            drop(state);
            callback(self.shared.outcome());
        } else {
            state.callback = Some(Box::new(callback));
        }
    }

    /// Blocks until done or the time is over; tells whether it is done.
    pub(crate) fn block(&self, timeout: Option<Duration>) -> bool {
        if self.is_done() {
            return true;
        }
        let start = clock::now();
        let mut state = self.shared.watch();
        while !self.is_done() {
            state.waiting = true;
            state = match timeout {
                None => self.shared.settled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = clock::left(start, timeout);
                    if left.is_zero() {
                        return false;
                    }
                    self.shared.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// Whether there is nothing to [block](Self::block_until_poked) for.
    pub(crate) fn is_done_or_poked(&self) -> bool {
        self.is_done() || self.shared.poked.load(Ordering::Acquire)
    }

    /// Blocks until done, or until a [`Watch`] asks to look around.
    pub(crate) fn block_until_poked(&self) {
        let mut state = self.shared.watch();
        while !self.is_done() && !self.shared.poked.swap(false, Ordering::Acquire) {
            state.waiting = true;
            state = self.shared.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting = false;
    }

    /// Gives the body back with the error, for a caller that asked for it.
    pub(crate) fn return_body(&self, body: Bytes) {
        self.shared.lock().returned = Some(body);
    }

    /// A second view on this handle, for a transport that serves its caller.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }
}

/// A second view on a [`Sending`], for a transport that must know when the caller it serves is done.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    pub(crate) fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    /// Wakes the caller that [waits](Sending::block_until_poked), though it is not done.
    pub(crate) fn poke(&self) {
        let waiting = {
            // Under the lock, or a caller that is about to wait could miss it.
            let state = self.0.lock();
            self.0.poked.store(true, Ordering::Release);
            state.waiting
        };
        if waiting {
            self.0.settled.notify_all();
        }
    }
}

impl Future for Sending {
    type Output = Result<Receipt, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.watch();
        if self.is_done() {
            drop(state);
            return Poll::Ready(self.shared.outcome());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("id", &self.id()).field("done", &self.is_done()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Back to the first state.
    fn reset(&mut self) {
        *self.destinations.get_mut() = 0;
        *self.pending.get_mut() = 0;
        *self.done.get_mut() = false;
        *self.watched.get_mut() = false;
        *self.poked.get_mut() = false;
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        *state = State::default();
    }

    fn settle(&self, fault: Option<Fault>) {
        if let Some(fault) = fault {
            self.lock().faults.push(fault);
        }
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        self.done.store(true, Ordering::SeqCst);
        if !self.watched.load(Ordering::SeqCst) {
            return;
        }
        let (waiting, waker, callback) = {
            let mut state = self.lock();
            (state.waiting, state.waker.take(), state.callback.take())
        };
        // Not while the lock is held: who wakes up would only wait again.
        if waiting {
            self.settled.notify_all();
        }
        if let Some(waker) = waker {
            // An executor may poll right here, and the task may send.
            call_or_defer(Box::new(move || waker.wake()));
        }
        if let Some(callback) = callback {
            let outcome = self.outcome();
            call_or_defer(Box::new(move || {
                let _user_code = UserCode::enter();
                callback(outcome);
            }));
        }
    }

    fn outcome(&self) -> Result<Receipt, SendError> {
        let mut state = self.lock();
        if state.faults.is_empty() {
            return Ok(Receipt { id: self.id, delivered: self.destinations.load(Ordering::Relaxed) });
        }
        // Forks of one destination may each have failed; the first cause tells most.
        let mut seen = HashSet::new();
        let mut faults = std::mem::take(&mut state.faults);
        faults.retain(|fault| seen.insert(fault.member.clone()));
        Err(SendError {
            id: self.id,
            destinations: self.destinations.load(Ordering::Relaxed),
            faults,
            returned: state.returned.take(),
        })
    }

    /// The lock, for whoever is to be told when the send is done.
    fn watch(&self) -> MutexGuard<'_, State> {
        let state = self.lock();
        self.watched.store(true, Ordering::SeqCst);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn members(count: u16) -> Vec<Member> {
        (0..count).map(|port| Member::new(([127, 0, 0, 1], port).into())).collect()
    }

    fn id() -> UniqueId {
        UniqueId::from_bytes([1; 16])
    }

    #[test]
    fn completes_when_every_fork_of_every_leg_is_settled() {
        let (sending, mut legs) = Sending::new(id(), members(2));
        let fork = legs[0].fork();
        legs.drain(..).for_each(Leg::delivered);
        assert!(!sending.is_done());
        fork.delivered();
        assert_eq!(sending.wait().expect("all delivered").delivered, 2);
    }

    #[test]
    fn a_poke_is_seen_by_who_looks_and_taken_by_who_blocks() {
        let (sending, legs) = Sending::new(id(), members(1));
        sending.watch().poke();
        assert!(sending.is_done_or_poked());
        sending.block_until_poked();
        assert!(!sending.is_done_or_poked(), "it is taken");
        sending.watch().poke();
        legs.into_iter().for_each(Leg::delivered);
        assert!(sending.wait().is_ok());
        assert!(!Sending::new(id(), members(1)).0.is_done_or_poked(), "whatever is used again");
    }

    #[test]
    fn a_dropped_leg_is_reported() {
        let (sending, legs) = Sending::new(id(), members(1));
        drop(legs);
        let error = sending.wait().expect_err("dropped");
        assert!(matches!(error.faults[..], [Fault { cause: FaultCause::Dropped, .. }]));
    }

    #[test]
    fn forks_that_fail_name_their_member_once() {
        let (sending, mut legs) = Sending::new(id(), members(3));
        let leg = legs.remove(1);
        leg.fork().fail(FaultCause::Rejected);
        leg.fail(FaultCause::QueueFull);
        legs.drain(..).for_each(Leg::delivered);
        let error = sending.wait().expect_err("one failed");
        assert!(matches!(error.faults[..], [Fault { cause: FaultCause::Rejected, .. }]));
        assert_eq!(error.destinations, 3);
    }

    #[test]
    fn callbacks_run_before_and_after_the_end() {
        let (outcomes, outcome) = mpsc::channel();
        let (sending, legs) = Sending::new(id(), members(1));
        let early = outcomes.clone();
        sending.on_complete(move |done| early.send(done.is_ok()).expect("the receiver lives"));
        legs.into_iter().for_each(Leg::delivered);
        assert_eq!(outcome.recv(), Ok(true));
        let (sending, legs) = Sending::new(id(), members(1));
        legs.into_iter().for_each(|leg| leg.fail(FaultCause::Rejected));
        sending.on_complete(move |done| outcomes.send(done.is_ok()).expect("the receiver lives"));
        assert_eq!(outcome.recv(), Ok(false));
    }

    #[test]
    fn callbacks_wait_while_their_thread_holds_the_stack() {
        let (outcomes, outcome) = mpsc::channel();
        let (sending, legs) = Sending::new(id(), members(1));
        sending.on_complete(move |done| outcomes.send(done.is_ok()).expect("the receiver lives"));
        let outer = DeferCallbacks::new();
        let inner = DeferCallbacks::new();
        legs.into_iter().for_each(Leg::delivered);
        drop(inner);
        assert_eq!(outcome.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(outer);
        assert_eq!(outcome.try_recv(), Ok(true));
    }

    #[test]
    fn no_destination_is_done_at_once() {
        let (sending, _) = Sending::new(id(), []);
        assert_eq!(sending.wait().expect("nothing to do").delivered, 0);
    }

    #[test]
    fn time_over_gives_the_handle_back() {
        let (sending, legs) = Sending::new(id(), members(1));
        let sending = sending.wait_timeout(Duration::from_millis(1)).expect_err("still pending");
        legs.into_iter().for_each(Leg::delivered);
        assert!(sending.wait_timeout(Duration::ZERO).expect("done").is_ok());
    }
}
