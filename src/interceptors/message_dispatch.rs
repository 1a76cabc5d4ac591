//! Asynchronous sends: bounds what may be queued, and decides what happens when a queue is full.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::budget::Budget;
use crate::clock;
use crate::completion::{FaultCause, Leg};
use crate::options::SendOptions;
use crate::stack::{Context, Gate, Interceptor, LayerTraits, Outbound, Urgency};

/// Makes messages with [`SendOptions::ASYNC`] asynchronous: they are queued, within bounds, and the caller goes on.
///
/// The bounds hold for each destination by itself, so a slow member fills its own queue and nobody else's. What a message takes
/// comes back when its outcome at that destination is known; so "queued" means not yet settled, wherever the message is. The
/// layer has no thread and no queue of its own: the transport's queues keep the order of each destination, and stopping the
/// channel sends or reports what is in them.
///
/// Without this layer [`SendOptions::ASYNC`] has no effect, as in Tribes.
///
/// ```
/// use std::time::Duration;
/// use tribes::interceptors::{MessageDispatch, WhenFull};
/// use tribes::stack::StackBuilder;
///
/// let dispatch = MessageDispatch::default()
///     .max_queue_bytes(16 << 20)
///     .when_full(WhenFull::Block(Duration::from_secs(2)));
/// let monitor = dispatch.monitor();
/// let stack = StackBuilder::new().push(dispatch);
/// assert_eq!(monitor.stats().queued_messages, 0);
/// ```
///
/// # From Tribes
///
/// | property of `MessageDispatchInterceptor` | here |
/// | --- | --- |
/// | `maxQueueSize` (64 MiB for all members together) | [`max_queue_bytes`](Self::max_queue_bytes), for each member |
/// | none: the number of messages is not bounded | [`max_queue_messages`](Self::max_queue_messages) |
/// | `alwaysSend` = true: a full queue makes the caller send by itself, past what is queued | [`WhenFull::Block`], in order |
/// | `alwaysSend` = false: a full queue fails the send | [`WhenFull::Fail`] or [`WhenFull::HandBack`] |
/// | `useDeepClone` | not needed: a body is shared and never changes |
/// | `maxThreads`, `maxSpareThreads`, `keepAliveTime` | not needed: no threads; those of Tribes break the order |
/// | `optionFlag` = 8 | fixed, as in Tribes |
pub struct MessageDispatch {
    max_bytes: usize,
    max_messages: usize,
    when_full: WhenFull,
    queue: Arc<Queue>,
}

impl MessageDispatch {
    /// How many bytes of bodies may be queued for one destination. Default: 64 MiB. A body above the whole bound is taken when
    /// nothing else is queued.
    #[must_use]
    pub fn max_queue_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self.rebuilt()
    }

    /// How many messages may be queued for one destination. Default: 100 000. At least one is.
    #[must_use]
    pub fn max_queue_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self.rebuilt()
    }

    /// What happens to a message that a queue has no room for. Default: the caller blocks for at most 5 s.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self.rebuilt()
    }

    /// A handle that tells what is queued. Take it when the layer is configured.
    #[must_use]
    pub fn monitor(&self) -> DispatchMonitor {
        DispatchMonitor(Arc::clone(&self.queue))
    }

    fn rebuilt(mut self) -> Self {
        self.queue = Queue::new(self.max_bytes, self.max_messages, self.when_full);
        self
    }
}

impl Default for MessageDispatch {
    fn default() -> Self {
        let (max_bytes, max_messages, when_full) = (64 << 20, 100_000, WhenFull::Block(Duration::from_secs(5)));
        Self { max_bytes, max_messages, when_full, queue: Queue::new(max_bytes, max_messages, when_full) }
    }
}

impl Interceptor for MessageDispatch {
    fn name(&self) -> &'static str {
        "MessageDispatch"
    }

    fn outbound(&mut self, cx: &mut Context<'_>, mut msg: Outbound) {
        if msg.message.options().contains(SendOptions::ASYNC) {
            msg.urgency = Urgency::Queued;
        }
        cx.send(msg);
    }

    fn traits(&self) -> LayerTraits {
        LayerTraits::default().option_bits(SendOptions::ASYNC)
    }

    fn gate(&self) -> Option<Arc<dyn Gate>> {
        Some(Arc::clone(&self.queue) as Arc<dyn Gate>)
    }
}

impl fmt::Debug for MessageDispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageDispatch")
            .field("max_queue_bytes", &self.max_bytes)
            .field("max_queue_messages", &self.max_messages)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}

/// What happens to an asynchronous message when the queue of a destination is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The caller waits for room, at most this long for all destinations together; what then is still full fails with
    /// [`FaultCause::QueueFull`], the others get the message. Listeners run on receiving threads: one that sends should not wait.
    Block(Duration),
    /// The full destination fails at once with [`FaultCause::QueueFull`], the others get the message.
    Fail,
    /// No destination gets the message, and the body comes back in [`SendError::returned`](crate::SendError::returned).
    HandBack,
}

/// Tells what a [`MessageDispatch`] has queued. Cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct DispatchMonitor(Arc<Queue>);

impl DispatchMonitor {
    /// What is queued now, and what found no room so far.
    #[must_use]
    pub fn stats(&self) -> DispatchStats {
        let (queued_bytes, queued_messages) = self.0.budget.used();
        DispatchStats { queued_bytes, queued_messages, refused: self.0.refused.load(Ordering::Relaxed) }
    }
}

/// What a [`MessageDispatch`] has queued, over all destinations; a message to three members counts three times.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct DispatchStats {
    /// Bytes of bodies that are sent and not yet settled.
    pub queued_bytes: usize,
    /// Messages that are sent and not yet settled.
    pub queued_messages: usize,
    /// Legs that found their queue full, also after the wait.
    pub refused: u64,
}

#[derive(Debug)]
struct Queue {
    budget: Arc<Budget>,
    when_full: WhenFull,
    refused: AtomicU64,
}

impl Queue {
    fn new(max_bytes: usize, max_messages: usize, when_full: WhenFull) -> Arc<Self> {
        Arc::new(Self { budget: Budget::new(max_bytes, max_messages), when_full, refused: AtomicU64::new(0) })
    }

    fn refuse(&self, leg: Leg) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        leg.fail(FaultCause::QueueFull);
    }

    /// Each leg by itself; a wait has one end for all.
    fn enter_each(&self, len: usize, mut legs: Vec<Leg>, timeout: Duration) -> Vec<Leg> {
        let mut waiting_since = None;
        let mut finds_no_room = |leg: &mut Leg| {
            let id = leg.member().id();
            let permit = self.budget.try_take(id, len).or_else(|| {
                if timeout.is_zero() {
                    return None;
                }
                let since = *waiting_since.get_or_insert_with(clock::now);
                self.budget.take(id, len, clock::left(since, timeout))
            });
            permit.map(|permit| leg.hold(permit)).is_none()
        };
        legs.extract_if(.., |leg| finds_no_room(leg)).for_each(|leg| self.refuse(leg));
        legs
    }

    /// All legs or none.
    fn enter_all(&self, len: usize, mut legs: Vec<Leg>) -> (Vec<Leg>, bool) {
        let permits: Vec<_> = legs.iter().map(|leg| self.budget.try_take(leg.member().id(), len)).collect();
        if permits.iter().all(Option::is_some) {
            legs.iter_mut().zip(permits.into_iter().flatten()).for_each(|(leg, permit)| leg.hold(permit));
            return (legs, true);
        }
        for (leg, permit) in legs.into_iter().zip(permits) {
            match permit {
                None => self.refuse(leg),
                Some(_) => leg.fail(FaultCause::Refused("the queue of another destination is full")),
            }
        }
        (Vec::new(), false)
    }
}

impl Gate for Queue {
    fn enter(&self, options: SendOptions, len: usize, legs: Vec<Leg>) -> (Vec<Leg>, bool) {
        if !options.contains(SendOptions::ASYNC) {
            return (legs, true);
        }
        match self.when_full {
            WhenFull::Block(timeout) => (self.enter_each(len, legs, timeout), true),
            WhenFull::Fail => (self.enter_each(len, legs, Duration::ZERO), true),
            WhenFull::HandBack => self.enter_all(len, legs),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::completion::{Fault, Sending};
    use crate::id::UniqueId;
    use crate::member::Member;

    const LONG: Duration = Duration::from_secs(20);

    fn members<const N: usize>() -> [Member; N] {
        std::array::from_fn(|at| Member::new(([127, 0, 0, 1], 4000 + u16::try_from(at).expect("few")).into()))
    }

    fn enter(dispatch: &MessageDispatch, len: usize, members: &[Member]) -> (Sending, Vec<Leg>, bool) {
        let (sending, legs) = Sending::new(UniqueId::from_bytes([9; 16]), members.iter().cloned());
        let (legs, kept) = dispatch.gate().expect("it has one").enter(SendOptions::ASYNC, len, legs);
        (sending, legs, kept)
    }

    fn faults(sending: Sending) -> Vec<(Member, String)> {
        let faults = sending.wait().expect_err("it must fail").faults;
        faults.into_iter().map(|Fault { member, cause }| (member, cause.to_string())).collect()
    }

    #[test]
    fn a_full_destination_fails_alone() {
        let dispatch = MessageDispatch::default().max_queue_bytes(100).when_full(WhenFull::Fail);
        let [a, b] = members();
        let (first, held, _) = enter(&dispatch, 80, std::slice::from_ref(&a));
        let (second, legs, kept) = enter(&dispatch, 80, &[a.clone(), b.clone()]);
        assert!(kept);
        assert_eq!(legs.iter().map(Leg::member).collect::<Vec<_>>(), [&b]);
        let monitor = dispatch.monitor();
        assert_eq!((monitor.stats().queued_bytes, monitor.stats().queued_messages, monitor.stats().refused), (160, 2, 1));
        legs.into_iter().for_each(Leg::delivered);
        assert_eq!(faults(second), [(a, FaultCause::QueueFull.to_string())]);
        held.into_iter().for_each(Leg::delivered);
        assert!(first.wait().is_ok());
        assert_eq!((monitor.stats().queued_bytes, monitor.stats().queued_messages), (0, 0));
    }

    #[test]
    fn room_comes_back_however_a_leg_ends() {
        let dispatch = MessageDispatch::default().max_queue_messages(1).when_full(WhenFull::Fail);
        let [a] = members();
        for end in [Leg::delivered, |leg: Leg| leg.fail(FaultCause::Rejected), drop] {
            let (_, mut legs, _) = enter(&dispatch, 1, std::slice::from_ref(&a));
            end(legs.pop().expect("there is room again"));
        }
        assert_eq!(dispatch.monitor().stats().queued_messages, 0);
    }

    #[test]
    fn handed_back_messages_go_nowhere() {
        let dispatch = MessageDispatch::default().max_queue_messages(1).when_full(WhenFull::HandBack);
        let [a, b] = members();
        let (_first, _held, kept) = enter(&dispatch, 1, std::slice::from_ref(&b));
        assert!(kept);
        let (second, legs, kept) = enter(&dispatch, 1, &[a.clone(), b.clone()]);
        assert!(!kept && legs.is_empty());
        let faults = faults(second);
        assert_eq!(faults.len(), 2);
        assert!(faults.contains(&(b, FaultCause::QueueFull.to_string())));
        assert_eq!(dispatch.monitor().stats().queued_messages, 1, "what was taken for the others is given back");
        assert!(enter(&dispatch, 1, &[a]).2);
    }

    #[test]
    fn a_blocked_caller_goes_on_when_room_comes() {
        let dispatch = MessageDispatch::default().max_queue_messages(1).when_full(WhenFull::Block(LONG));
        let [a] = members();
        let (_first, held, _) = enter(&dispatch, 1, std::slice::from_ref(&a));
        let caller = thread::spawn(move || enter(&dispatch, 1, &[a]).1.len());
        held.into_iter().for_each(Leg::delivered);
        assert_eq!(caller.join().expect("no panic"), 1);
    }

    #[test]
    fn a_blocked_caller_gives_up_in_time_and_serves_the_others() {
        let dispatch = MessageDispatch::default().max_queue_messages(1).when_full(WhenFull::Block(Duration::from_millis(5)));
        let [a, b] = members();
        let (_first, _held, _) = enter(&dispatch, 1, std::slice::from_ref(&a));
        let (sending, legs, _) = enter(&dispatch, 1, &[a.clone(), b]);
        legs.into_iter().for_each(Leg::delivered);
        assert_eq!(faults(sending), [(a, FaultCause::QueueFull.to_string())]);
    }

    #[test]
    fn synchronous_messages_pass_a_full_queue() {
        let dispatch = MessageDispatch::default().max_queue_messages(1).when_full(WhenFull::Fail);
        let [a] = members();
        let (_first, _held, _) = enter(&dispatch, 1, std::slice::from_ref(&a));
        let (_second, legs) = Sending::new(UniqueId::from_bytes([9; 16]), [a]);
        let (legs, kept) = dispatch.gate().expect("it has one").enter(SendOptions::ACK, 1, legs);
        assert!(kept && legs.len() == 1);
    }
}
