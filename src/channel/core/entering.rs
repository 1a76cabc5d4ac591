//! The way under the stack's lock, and what comes out from there.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::{Core, fail_all};
use crate::channel::driver::Report;
use crate::channel::strands::Queued;
use crate::completion::{DeferCallbacks, FaultCause, Leg, UserCode};
use crate::few::Few;
use crate::id::UniqueId;
use crate::member::Member;
use crate::options::SendOptions;
use crate::stack::{Departure, Event, Inbound, LayerId, Outbound, Output, Probe, ProbeRequest, Stack, Urgency};
use crate::wire::frame;

/// The stack, and when the driver was last told to wake for it.
pub(super) struct Guarded {
    pub(super) stack: Stack,
    pub(super) armed: Option<Instant>,
    /// Used again and again, so that delivering allocates nothing.
    pub(super) delivering: Vec<Inbound>,
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
    Probe(Member, ProbeRequest, LayerId),
}

/// On which thread the stack was entered: it decides where listeners run.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Entrance {
    /// A receiving thread, which runs listeners itself.
    Receiver,
    /// A thread that must not wait for listeners.
    Other,
}

impl Core {
    /// Enters the stack, routes what comes out while it is locked, so that order is kept, and then does what may take its time.
    /// `own` is the message whose sender waits on this very thread.
    pub(super) fn enter(&self, entrance: Entrance, own: Option<UniqueId>, enter: impl FnOnce(&mut Stack)) {
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

    pub(super) fn tell_watchers(&self) {
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
}

fn broadcast_fault(error: &io::Error, size: usize) -> FaultCause {
    match error.kind() {
        io::ErrorKind::Unsupported => FaultCause::Unreachable,
        io::ErrorKind::InvalidInput => FaultCause::TooLarge { size, limit: 65_507 },
        io::ErrorKind::NotConnected => FaultCause::Stopped,
        kind => FaultCause::Connection(kind),
    }
}
