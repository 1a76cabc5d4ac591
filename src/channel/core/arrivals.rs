//! What comes in: from receivers, from a membership, and from the driver.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError, Weak};

use bytes::Bytes;

use super::entering::Entrance;
use super::{Core, now};
use crate::channel::driver::{Inbox, Report};
use crate::member::Member;
use crate::membership::MemberHandler;
use crate::message::Message;
use crate::options::Acknowledgement;
use crate::stack::{Event, Inbound, Reply, Stack, Time};
use crate::transport::duplicates::Admission;
use crate::transport::{MessageHandler, Sender};
use crate::wire::{Frame, channel_data, frame};

/// Multicast messages that wait for the listeners; more are dropped, as the network would.
const MAX_BROADCASTS: usize = 1024;

impl Core {
    pub(in crate::channel) fn handle_report(&self, report: Report) {
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
    pub(in crate::channel) fn tell_heard<'a>(&self, senders: impl Iterator<Item = &'a Member>) -> bool {
        let mut membership = match self.membership.try_lock() {
            Ok(membership) => membership,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(membership) = &mut *membership else { return false };
        senders.for_each(|sender| membership.heard(sender));
        true
    }

    pub(in crate::channel) fn handle_timeout(&self) {
        self.lock_stack().armed = None;
        let time = now();
        self.enter(Entrance::Other, None, |stack| stack.handle_timeout(time));
    }

    pub(in crate::channel) fn handle_heartbeat(&self) {
        let time = now();
        self.enter(Entrance::Other, None, |stack| stack.handle_heartbeat(time));
        self.senders().for_each(Sender::heartbeat);
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
pub(in crate::channel) struct MemberFeed {
    inbox: Arc<Inbox>,
    core: Weak<Core>,
}

impl MemberFeed {
    pub(in crate::channel) fn new(core: &Arc<Core>) -> Self {
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
