//! What all handles of a channel, its threads and its plug-ins share: the stack behind its lock, and what is around it.
//!
//! The order of locks: the stack first, then whatever `transmit`, a strand, the view or the inbox needs. User code, that is listeners
//! and completion callbacks, runs with no lock held.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::contexts::{self, Contexts, Routed};
use super::courier::Courier;
use super::driver::{Inbox, Report};
use super::events::Events;
use super::listeners::{EventListeners, Listeners, MessageListeners};
use super::stats::{self, ChannelStats, Counters};
use super::strands::{Queued, Strands};
use crate::clock;
use crate::completion::{DeferCallbacks, FaultCause, Leg, Sending, UserCode};
use crate::few::Few;
use crate::id::{MessageIds, UniqueId};
use crate::member::Member;
use crate::membership::{MemberHandler, Membership};
use crate::message::{Body, Message};
use crate::options::{Acknowledgement, SendOptions};
use crate::stack::{Departure, Event, Gate, Inbound, Outbound, Output, Probe, Reply, Stack, Time, Urgency, View, pass_gates};
use crate::transport::duplicates::{Admission, DuplicateLimits, Duplicates};
use crate::transport::{MessageHandler, Receiver, Sender};
use crate::wire::{Frame, channel_data, frame};

/// Multicast messages that wait for the listeners; more are dropped, as the network would.
const MAX_BROADCASTS: usize = 1024;

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

/// The stack, and when the driver was last told to wake for it.
struct Guarded {
    stack: Stack,
    armed: Option<Instant>,
    /// Used again and again, so that delivering allocates nothing.
    delivering: Vec<Inbound>,
}

/// What it takes to hand a message to the listeners, or to its context, on whichever thread.
struct Delivery {
    listeners: Arc<MessageListeners>,
    contexts: Arc<Contexts>,
    counters: Counters,
}

impl Delivery {
    fn deliver(&self, msg: Inbound) {
        if contexts::is_for_context(msg.message.body()) {
            return self.deliver_to_context(msg);
        }
        self.counters.delivered.add(1);
        let _user_code = UserCode::enter();
        match self.listeners.deliver(&msg.message) {
            Ok(()) => msg.reply.accept(),
            Err(error) => {
                self.counters.rejected.add(1);
                log::warn!("a listener rejected message {} of {}: {error}", msg.message.id(), msg.message.sender());
                msg.reply.reject();
            }
        }
    }

    fn deliver_to_context(&self, msg: Inbound) {
        let _user_code = UserCode::enter();
        let routed = self.contexts.route(&msg.message);
        match routed {
            Routed::Accepted | Routed::Rejected => self.counters.delivered.add(1),
            Routed::Unknown => self.counters.unknown_context.add(1),
        }
        if routed == Routed::Accepted {
            msg.reply.accept();
        } else {
            self.counters.rejected.add(u64::from(routed == Routed::Rejected));
            msg.reply.reject();
        }
    }
}

/// What is left to do once the stack is unlocked.
#[derive(Default)]
struct After {
    queued: Few<Queued>,
    actions: Vec<Action>,
    /// To be told once the view shows them, which is still under the lock, as that keeps their order.
    events: Vec<Event>,
}

enum Action {
    Connect(Member),
    Disconnect(Member),
    Probe(Member, crate::stack::ProbeRequest, crate::stack::LayerId),
}

/// On which thread the stack was entered: it decides where listeners run.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Entrance {
    /// A receiving thread, which runs listeners itself.
    Receiver,
    /// A thread that must not wait for listeners.
    Other,
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

    // ---- the driver's side

    pub(super) fn handle_report(&self, report: Report) {
        if self.stopped.load(Ordering::Acquire) {
            // A sender that drains answers no probe: that must not look like the death of the member it is draining to.
            return;
        }
        let time = now();
        self.enter(Entrance::Other, None, |stack| match report {
            Report::Event(event) => stack.handle_event(time, event),
            Report::Probed(layer, member, outcome) => stack.handle_probed(time, layer, &member, outcome),
        });
    }

    /// Tells the membership of senders that it has otherwise; false when it is busy, or not there yet. Waits for nobody: whoever holds
    /// the membership may be waiting for the driver.
    pub(super) fn tell_heard<'a>(&self, senders: impl Iterator<Item = &'a Member>) -> bool {
        let mut membership = match self.membership.try_lock() {
            Ok(membership) => membership,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(membership) = &mut *membership else { return false };
        senders.for_each(|sender| membership.heard(sender));
        true
    }

    pub(super) fn handle_timeout(&self) {
        self.lock_stack().armed = None;
        let time = now();
        self.enter(Entrance::Other, None, |stack| stack.handle_timeout(time));
    }

    pub(super) fn handle_heartbeat(&self) {
        let time = now();
        self.enter(Entrance::Other, None, |stack| stack.handle_heartbeat(time));
        self.senders().for_each(Sender::heartbeat);
    }

    // ---- the stack

    /// Enters the stack, routes what comes out while it is locked, so that order is kept, and then does what may take its time.
    /// `own` is the message whose sender waits on this very thread.
    fn enter(&self, entrance: Entrance, own: Option<UniqueId>, enter: impl FnOnce(&mut Stack)) {
        let after = self.enter_locked(own, enter);
        self.finish(entrance, after);
    }

    /// The part of [`enter`](Self::enter) under the lock. Callbacks that fall due there run at its end: not later, because listeners,
    /// which come next, may wait for them.
    fn enter_locked(&self, own: Option<UniqueId>, enter: impl FnOnce(&mut Stack)) -> After {
        let _defer = DeferCallbacks::new();
        let mut after = After::default();
        let mut guarded = self.lock_stack();
        let Guarded { stack, armed, delivering } = &mut *guarded;
        enter(stack);
        while let Some(output) = stack.poll_output() {
            self.route(output, own, delivering, &mut after);
        }
        self.strands.push(delivering, |queued| after.queued.push(queued));
        if !after.events.is_empty() {
            *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(stack.view().clone());
            after.events.drain(..).for_each(|event| self.tell(event));
            self.tell_watchers();
        }
        if let Some(at) = stack.poll_timeout()
            && armed.is_none_or(|armed| at < armed)
        {
            *armed = Some(at);
            self.inbox.wake_at(at);
        }
        drop(guarded);
        after
    }

    /// Runs with the stack locked.
    fn route(&self, output: Output, own: Option<UniqueId>, delivering: &mut Vec<Inbound>, after: &mut After) {
        match output {
            Output::Transmit(mut msg) => {
                if own != Some(msg.message.id()) {
                    // Whoever sent it does not attend to it on this thread.
                    msg.urgency = Urgency::Queued;
                    // Nor was it sent just now: a layer may have held it.
                    msg.since = None;
                }
                self.transmit(msg);
            }
            Output::Deliver(msg) => delivering.push(msg),
            Output::Event(event) => {
                match &event {
                    Event::Added(member) => after.actions.push(Action::Connect(member.clone())),
                    // What is under way to a placeholder arrives, whatever the name.
                    Event::Removed(_, Departure::Identified) => {}
                    Event::Removed(member, _) => after.actions.push(Action::Disconnect(member.clone())),
                    _ => {}
                }
                after.events.push(event);
            }
            Output::Probe { layer, member, request } => after.actions.push(Action::Probe(member, request, layer)),
        }
    }

    fn tell(&self, event: Event) {
        if !self.on_membership.is_empty() && self.events.push(event) {
            let (events, listeners) = (Arc::clone(&self.events), Arc::clone(&self.on_membership));
            self.courier.post(move || {
                let _user_code = UserCode::enter();
                events.tell(|event| listeners.tell(event));
            });
        }
    }

    fn tell_watchers(&self) {
        self.view_watchers.snapshot().iter().for_each(|(_, watcher)| watcher());
    }

    fn transmit(&self, msg: Outbound) {
        let options = msg.message.options();
        if options.contains(SendOptions::MULTICAST) {
            let sent = match &mut *self.lock_membership() {
                Some(membership) => membership.broadcast(frame::to_bytes(&msg.message)),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match sent {
                Ok(()) => msg.legs.into_iter().for_each(Leg::delivered),
                Err(error) => fail_all(msg.legs, &broadcast_fault(&error, msg.message.body().len())),
            }
        } else if options.contains(SendOptions::UDP) {
            match &self.udp {
                Some(udp) => udp.transmit(msg),
                None => fail_all(msg.legs, &FaultCause::NoUdp),
            }
        } else {
            match &self.sender {
                Some(sender) => sender.transmit(msg),
                None => fail_all(msg.legs, &FaultCause::Stopped),
            }
        }
    }

    fn finish(&self, entrance: Entrance, after: After) {
        for action in after.actions {
            match action {
                Action::Connect(member) => self.senders().for_each(|sender| sender.connect(&member)),
                Action::Disconnect(member) => self.senders().for_each(|sender| sender.disconnect(&member)),
                Action::Probe(member, request, layer) => {
                    let (inbox, subject) = (Arc::clone(&self.inbox), member.clone());
                    let done = move |outcome: Probe| inbox.post(Report::Probed(layer, subject, outcome));
                    match &self.sender {
                        Some(sender) => sender.probe(&member, request, Box::new(done)),
                        // A channel that only watches believes what it hears.
                        None => done(Probe::Alive),
                    }
                }
            }
        }
        for queued in after.queued {
            match (queued, entrance) {
                (Queued::Idle(strand), Entrance::Receiver) => strand.run(|msg| self.delivery.deliver(msg)),
                (Queued::Running(strand), Entrance::Receiver) => strand.wait_for_room(),
                (Queued::Idle(strand), Entrance::Other) => {
                    let delivery = Arc::clone(&self.delivery);
                    self.courier.post(move || strand.run(|msg| delivery.deliver(msg)));
                }
                (Queued::Running(_), Entrance::Other) => {}
            }
        }
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

/// What receivers push into.
impl MessageHandler for Core {
    fn message(&self, msg: Inbound) {
        self.delivery.counters.received.add(1);
        if let Some(msg) = self.admit(msg) {
            let time = now();
            self.enter(Entrance::Receiver, None, |stack| self.receive(stack, time, msg));
        }
    }

    fn messages(&self, batch: &mut Vec<Inbound>) {
        self.delivery.counters.received.add(batch.len() as u64);
        let time = now();
        self.enter(Entrance::Receiver, None, |stack| {
            batch.drain(..).filter_map(|msg| self.admit(msg)).for_each(|msg| self.receive(stack, time, msg));
        });
    }

    fn disconnected(&self, member: &Member) {
        self.inbox.post(Report::Event(Event::Suspect(member.clone())));
    }
}

/// What a membership pushes into.
pub(super) struct MemberFeed {
    inbox: Arc<Inbox>,
    core: Weak<Core>,
}

impl MemberFeed {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self { inbox: Arc::clone(&core.inbox), core: Arc::downgrade(core) }
    }
}

impl MemberHandler for MemberFeed {
    fn event(&self, event: Event) {
        self.inbox.post(Report::Event(event));
    }

    fn broadcast(&self, datagram: Bytes) {
        let Some(core) = self.core.upgrade() else { return };
        let local = core.local();
        for found in frame::in_datagram(datagram) {
            let message = match found {
                Ok(Frame::Data(data)) => channel_data::decode(&data, None),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match message {
                Ok(message) if *message.sender() == local => {}
                Ok(_) if core.courier.backlog() >= MAX_BROADCASTS => core.drop_broadcast(),
                Ok(message) => {
                    // Not on this thread: a membership in memory comes here from the stack of the channel that sends.
                    let receiver = Arc::clone(&core);
                    core.courier.post(move || receiver.broadcast(message));
                }
                Err(_) => return core.drop_broadcast(),
            }
        }
    }
}

impl Core {
    /// Keeps away what was here before.
    fn admit(&self, msg: Inbound) -> Option<Inbound> {
        if msg.message.options().acknowledgement() == Acknowledgement::None {
            // Nobody sends again what is not acknowledged.
            return Some(msg);
        }
        match self.duplicates.admit(msg) {
            Admission::Fresh(msg) => Some(msg),
            Admission::Repeat => None,
        }
    }

    fn broadcast(&self, message: Message) {
        self.delivery.counters.received.add(1);
        let time = now();
        let msg = Inbound::new(message, Reply::none());
        self.enter(Entrance::Other, None, |stack| self.receive(stack, time, msg));
    }

    /// Runs with the stack locked.
    fn receive(&self, stack: &mut Stack, time: Time, msg: Inbound) {
        if stack.has_otherwise(msg.message.sender()) {
            self.inbox.hear(msg.message.sender());
        }
        stack.handle_receive(time, msg);
    }

    fn drop_broadcast(&self) {
        self.delivery.counters.broadcasts_dropped.add(1);
    }
}

fn now() -> Time {
    let (instant, epoch_millis) = clock::both();
    Time { instant, epoch_millis }
}

fn fail_all(legs: Vec<Leg>, cause: &FaultCause) {
    legs.into_iter().for_each(|leg| leg.fail(cause.clone()));
}

fn broadcast_fault(error: &io::Error, size: usize) -> FaultCause {
    match error.kind() {
        io::ErrorKind::Unsupported => FaultCause::Unreachable,
        io::ErrorKind::InvalidInput => FaultCause::TooLarge { size, limit: 65_507 },
        io::ErrorKind::NotConnected => FaultCause::Stopped,
        kind => FaultCause::Connection(kind),
    }
}
