//! What all handles of a channel, its threads and its plug-ins share: the stack behind its lock, and what is around it.
//!
//! The order of locks: the stack first, then whatever `transmit`, a strand, the view or the inbox needs. User code, that is listeners
//! and completion callbacks, runs with no lock held.
//!
//! | file | what it does |
//! | --- | --- |
//! | here | what the application asks for, starting and stopping |
//! | `core/arrivals` | what receivers, the membership and the driver bring |
//! | `core/entering` | the way under the lock, and what comes out from there |
//! | `core/delivery` | the last step to a listener or a context |

mod arrivals;
mod delivery;
mod entering;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

pub(super) use self::arrivals::MemberFeed;
use self::delivery::Delivery;
use self::entering::{Entrance, Guarded};
use super::contexts::Contexts;
use super::courier::Courier;
use super::driver::Inbox;
use super::events::Events;
use super::listeners::{EventListeners, Listeners, MessageListeners};
use super::stats::{self, ChannelStats, Counters};
use super::strands::Strands;
use crate::clock;
use crate::completion::{FaultCause, Leg, Sending};
use crate::id::MessageIds;
use crate::member::Member;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Gate, Outbound, Stack, Time, Urgency, View, pass_gates};
use crate::transport::duplicates::{DuplicateLimits, Duplicates};
use crate::transport::{Receiver, Sender};

pub(super) struct Core {
    stack: Mutex<Guarded>,
    gates: Vec<(SendOptions, Arc<dyn Gate>)>,
    local: RwLock<Member>,
    view: RwLock<Arc<View>>,
    ids: MessageIds,
    sender: Option<Box<dyn Sender>>,
    udp: Option<Box<dyn Sender>>,
    receivers: Mutex<Vec<Box<dyn Receiver>>>,
    membership: Mutex<Option<Box<dyn Membership>>>,
    duplicates: Duplicates,
    strands: Strands,
    courier: Courier,
    events: Arc<Events>,
    delivery: Arc<Delivery>,
    stopped: AtomicBool,
    /// Held while the channel stops, so that whoever else stops it returns when it has stopped.
    stopping: Mutex<()>,
    pub(super) inbox: Arc<Inbox>,
    on_membership: Arc<EventListeners>,
    view_watchers: Arc<Listeners<dyn Fn() + Send + Sync>>,
}

impl Core {
    pub(super) fn new(stack: Stack, local: Member, sender: Option<Box<dyn Sender>>, udp: Option<Box<dyn Sender>>) -> Self {
        Self {
            gates: stack.gates().to_vec(),
            stack: Mutex::new(Guarded { stack, armed: None, delivering: Vec::new() }),
            local: RwLock::new(local),
            view: RwLock::default(),
            ids: MessageIds::new(),
            sender,
            udp,
            receivers: Mutex::default(),
            membership: Mutex::default(),
            duplicates: Duplicates::new(DuplicateLimits::default()),
            strands: Strands::default(),
            courier: Courier::default(),
            events: Arc::default(),
            delivery: Arc::new(Delivery { listeners: Listeners::new(), contexts: Arc::default(), counters: Counters::default() }),
            stopped: AtomicBool::new(false),
            stopping: Mutex::default(),
            inbox: Arc::default(),
            on_membership: Listeners::new(),
            view_watchers: Listeners::new(),
        }
    }

    // ---- what the application asks for

    pub(super) fn local(&self) -> Member {
        self.local.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends and blocks until the outcome is known, doing the transport's work on this thread where that saves a hand-over.
    pub(super) fn send_attended(&self, members: &[Member], body: Body, options: SendOptions) -> Sending {
        let sending = self.send(members.iter().cloned(), body, options, Urgency::Attended);
        let sender = if options.contains(SendOptions::UDP) { &self.udp } else { &self.sender };
        if let Some(sender) = sender.as_ref().filter(|_| !sending.is_done()) {
            sender.assist(members, &sending);
        }
        sending
    }

    pub(super) fn assist(&self, members: &[Member], sending: &Sending) {
        if let Some(sender) = self.sender.as_ref().filter(|_| !sending.is_done()) {
            sender.assist(members, sending);
        }
    }

    pub(super) fn send(
        &self,
        members: impl IntoIterator<Item = Member>,
        body: Body,
        options: SendOptions,
        urgency: Urgency,
    ) -> Sending {
        self.send_at(now(), members, body, options, urgency)
    }

    /// As [`send`](Self::send), by a caller that has just looked at the clock.
    pub(super) fn send_at(
        &self,
        mut time: Time,
        members: impl IntoIterator<Item = Member>,
        body: Body,
        options: SendOptions,
        urgency: Urgency,
    ) -> Sending {
        let options = options | SendOptions::BYTE_MESSAGE;
        let id = self.ids.next();
        let (sending, legs) = if options.contains(SendOptions::MULTICAST) {
            // It goes to the group, whoever is there: one leg stands for all.
            Sending::new(id, [self.local()])
        } else {
            Sending::new(id, members)
        };
        if legs.is_empty() {
            return sending;
        }
        let refusal = if self.sender.is_none() || self.stopped.load(Ordering::Acquire) {
            Some(FaultCause::Stopped)
        } else if body.len() > Message::MAX_BODY {
            Some(FaultCause::TooLarge { size: body.len(), limit: Message::MAX_BODY })
        } else {
            None
        };
        if let Some(cause) = refusal {
            fail_all(legs, &cause);
            return sending;
        }
        // A gate may have held it up.
        let waited = self.gates.iter().any(|(bits, _)| options.contains(*bits));
        let (legs, admitted) = pass_gates(&self.gates, options, body.len(), legs);
        if !admitted {
            sending.return_body(body.to_bytes());
            fail_all(legs, &FaultCause::QueueFull);
            return sending;
        }
        if legs.is_empty() {
            return sending;
        }
        self.delivery.counters.sent.add(1);
        if waited {
            time = now();
        }
        let message = Message::from_parts(id, options, time.epoch_millis, self.local(), body);
        let mut out = Outbound::new(message, legs);
        out.urgency = urgency;
        out.since = Some(time.instant);
        self.enter(Entrance::Other, Some(id), |stack| stack.handle_send(time, out));
        sending
    }

    pub(super) fn set_local(&self, change: impl FnOnce(&Member) -> Member) -> io::Result<()> {
        let changed = {
            let mut guarded = self.lock_stack();
            let mut local = self.local.write().unwrap_or_else(PoisonError::into_inner);
            let changed = change(&local);
            if changed.domain().len() + changed.payload().len() > Member::MAX_TEXT {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "domain and payload do not fit into a heartbeat"));
            }
            guarded.stack.set_local(changed.clone());
            *local = changed.clone();
            changed
        };
        self.tell_watchers();
        match &mut *self.lock_membership() {
            Some(membership) => membership.announce(&changed),
            None => Ok(()),
        }
    }

    pub(super) fn stats(&self) -> ChannelStats {
        let of = |sender: &Option<Box<dyn Sender>>| sender.as_ref().map(|sender| sender.stats()).unwrap_or_default();
        ChannelStats {
            members: self.view().len(),
            sent: self.delivery.counters.sent.value(),
            received: self.delivery.counters.received.value(),
            delivered: self.delivery.counters.delivered.value(),
            duplicates: self.duplicates.stats().repeats,
            rejected: self.delivery.counters.rejected.value(),
            unknown_context: self.delivery.counters.unknown_context.value(),
            events_dropped: self.events.dropped(),
            broadcasts_dropped: self.delivery.counters.broadcasts_dropped.value(),
            sender: of(&self.sender),
            udp_sender: of(&self.udp),
            receiver: self.lock_receivers().iter().map(|receiver| receiver.stats()).fold(Default::default(), stats::add),
            membership: self.lock_membership().as_ref().map(|membership| membership.stats()).unwrap_or_default(),
        }
    }

    pub(super) fn message_listeners(&self) -> &Arc<MessageListeners> {
        &self.delivery.listeners
    }

    pub(super) fn contexts(&self) -> &Arc<Contexts> {
        &self.delivery.contexts
    }

    pub(super) fn membership_listeners(&self) -> &Arc<EventListeners> {
        &self.on_membership
    }

    pub(super) fn view_watchers(&self) -> &Arc<Listeners<dyn Fn() + Send + Sync>> {
        &self.view_watchers
    }

    pub(super) fn layers(&self) -> Vec<&'static str> {
        self.lock_stack().stack.names().collect()
    }

    // ---- starting and stopping

    pub(super) fn senders(&self) -> impl Iterator<Item = &dyn Sender> {
        [&self.sender, &self.udp].into_iter().flatten().map(|sender| &**sender)
    }

    pub(super) fn add_receiver(&self, receiver: Box<dyn Receiver>) {
        self.lock_receivers().push(receiver);
    }

    pub(super) fn put_membership(&self, membership: Box<dyn Membership>) {
        *self.lock_membership() = Some(membership);
    }

    /// Drains what is queued, says goodbye and stops every part. The first call does it; others wait for it.
    pub(super) fn stop(&self, drain: Duration) {
        let _stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let time = now();
        self.enter(Entrance::Other, None, |stack| stack.handle_stop(time));
        self.senders().for_each(|sender| sender.stop(drain));
        let membership = self.lock_membership().take();
        if let Some(mut membership) = membership {
            membership.stop();
        }
        let receivers = std::mem::take(&mut *self.lock_receivers());
        receivers.into_iter().for_each(|mut receiver| receiver.stop());
        self.inbox.stop();
    }

    fn lock_stack(&self) -> MutexGuard<'_, Guarded> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_membership(&self) -> MutexGuard<'_, Option<Box<dyn Membership>>> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_receivers(&self) -> MutexGuard<'_, Vec<Box<dyn Receiver>>> {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Time {
    let (instant, epoch_millis) = clock::both();
    Time { instant, epoch_millis }
}

fn fail_all(legs: Vec<Leg>, cause: &FaultCause) {
    legs.into_iter().for_each(|leg| leg.fail(cause.clone()));
}
