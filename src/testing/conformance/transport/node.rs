//! A receiver and a sender with a handler that a case controls.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;

use crate::clock;
use crate::completion::{FaultCause, Receipt, SendError, Sending};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Inbound, Outbound, Probe, ProbeRequest, Urgency};
use crate::transport::{LinkSink, MessageHandler, MessageSink, Receiver, ReceiverStats, Sender};

/// Longer than anything takes that works.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Node {
    pub(super) member: Member,
    pub(super) sender: Box<dyn Sender>,
    /// Behind a lock only so that threads can share the node.
    receiver: Mutex<Box<dyn Receiver>>,
    pub(super) inbox: Arc<Inbox>,
    options: SendOptions,
}

/// What a node does with a message that comes in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Handling {
    /// Takes and accepts it.
    #[default]
    Accept,
    /// Takes and rejects it.
    Reject,
    /// Takes it and answers when the case drops it.
    Keep,
    /// Blocks the thread that brings it.
    Block,
}

#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    handling: Handling,
    messages: VecDeque<Message>,
    kept: Vec<Inbound>,
    blocked: usize,
    disconnected: Vec<Member>,
    lost: Vec<Member>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as it should be.
    #[track_caller]
    fn until<T>(&self, what: &str, mut find: impl FnMut(&mut State) -> Option<T>) -> T {
        let start = clock::now();
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&mut state) {
                return found;
            }
            let left = clock::left(start, PATIENCE);
            assert!(!left.is_zero(), "waited {PATIENCE:?} in vain for {what}");
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn set(&self, handling: Handling) {
        self.lock().handling = handling;
        self.changed.notify_all();
    }

    #[track_caller]
    pub(super) fn next(&self) -> Message {
        self.until("a message", |state| state.messages.pop_front())
    }

    /// How many messages wait to be looked at; they are taken.
    pub(super) fn drain(&self) -> usize {
        self.lock().messages.drain(..).count()
    }

    #[track_caller]
    pub(super) fn until_kept(&self, count: usize) -> Vec<Inbound> {
        self.until("messages to keep", |state| (state.kept.len() >= count).then(|| std::mem::take(&mut state.kept)))
    }

    #[track_caller]
    pub(super) fn until_blocked(&self) {
        self.until("a message to block on", |state| (state.blocked > 0).then_some(()));
    }

    #[track_caller]
    pub(super) fn until_disconnected(&self, member: &Member) {
        self.until("word of a connection that ended", |state| state.disconnected.contains(member).then_some(()));
    }

    #[track_caller]
    pub(super) fn until_lost(&self, member: &Member) {
        self.until("word of a lost member", |state| state.lost.contains(member).then_some(()));
    }
}

impl MessageHandler for Inbox {
    fn message(&self, msg: Inbound) {
        let mut state = self.lock();
        while state.handling == Handling::Block {
            state.blocked += 1;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        state.messages.push_back(msg.message.clone());
        let reply = match state.handling {
            Handling::Keep => {
                state.kept.push(msg);
                None
            }
            _ => Some(msg.reply),
        };
        let rejects = state.handling == Handling::Reject;
        drop(state);
        self.changed.notify_all();
        match reply {
            Some(reply) if rejects => reply.reject(),
            Some(reply) => reply.accept(),
            None => {}
        }
    }

    fn disconnected(&self, member: &Member) {
        self.lock().disconnected.push(member.clone());
        self.changed.notify_all();
    }
}

impl Node {
    pub(super) fn start(pair: (Box<dyn Receiver>, Box<dyn Sender>), options: SendOptions, plain: bool) -> Self {
        let (mut receiver, sender) = pair;
        let inbox = Arc::new(Inbox::default());
        let listening =
            receiver.start(MessageSink::new(Arc::clone(&inbox) as Arc<dyn MessageHandler>)).expect("the receiver starts");
        let losses = Arc::clone(&inbox);
        let link_sink = LinkSink::new(move |member| {
            losses.lock().lost.push(member.clone());
            losses.changed.notify_all();
        });
        sender.start(link_sink).expect("the sender starts");
        let address = listening.address.unwrap_or_else(|| ([127, 0, 0, 1], 1).into());
        let id = if plain { UniqueId::random() } else { UniqueId::for_member(Capabilities::ALL) };
        let member = Member::new(address).with_id(id).with_udp_port(listening.udp_port);
        Self { member, sender, receiver: Mutex::new(receiver), inbox, options }
    }

    /// Starts to send a body, with nobody waiting.
    pub(super) fn begin(&self, to: &[&Self], options: u32, body: impl Into<Body>) -> Sending {
        let (sending, msg) = self.message(to, options, body);
        self.sender.transmit(msg);
        sending
    }

    /// Sends a body as a caller does that blocks for the outcome.
    #[track_caller]
    pub(super) fn send(&self, to: &[&Self], options: u32, body: impl Into<Body>) -> Result<Receipt, SendError> {
        let (sending, mut msg) = self.message(to, options, body);
        msg.urgency = Urgency::Attended;
        self.sender.transmit(msg);
        let peers: Vec<_> = to.iter().map(|node| node.member.clone()).collect();
        self.sender.assist(&peers, &sending);
        settled(sending)
    }

    pub(super) fn stop_receiver(&self) {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).stop();
    }

    pub(super) fn received(&self) -> ReceiverStats {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).stats()
    }

    fn message(&self, to: &[&Self], options: u32, body: impl Into<Body>) -> (Sending, Outbound) {
        let options = SendOptions::from_bits(options) | self.options;
        let message = Message::from_parts(UniqueId::random(), options, clock::epoch_millis(), self.member.clone(), body.into());
        let (sending, legs) = Sending::new(message.id(), to.iter().map(|node| node.member.clone()));
        (sending, Outbound::new(message, legs))
    }

    #[track_caller]
    pub(super) fn probe(&self, to: &Self, request: ProbeRequest) -> Probe {
        let (outcome, done) = mpsc::channel();
        self.sender.probe(&to.member, request, Box::new(move |probe| outcome.send(probe).unwrap_or_default()));
        done.recv_timeout(PATIENCE).expect("a probe has an outcome")
    }

    /// A frame with a message that asks for an acknowledgement, as a failure detector sends.
    pub(super) fn probe_frame(&self) -> Bytes {
        let options = SendOptions::ACK | SendOptions::BYTE_MESSAGE;
        let message = Message::from_parts(UniqueId::random(), options, 0, self.member.clone(), Body::from("probe"));
        crate::wire::frame::to_bytes(&message)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.inbox.set(Handling::Accept);
        drop(std::mem::take(&mut self.inbox.lock().kept));
        self.sender.stop(Duration::ZERO);
        self.stop_receiver();
    }
}

/// The outcome of a send, which must come.
#[track_caller]
pub(super) fn settled(sending: Sending) -> Result<Receipt, SendError> {
    sending.wait_timeout(PATIENCE).expect("every leg is settled in time")
}

/// The cause of the only fault.
#[track_caller]
pub(super) fn cause(outcome: Result<Receipt, SendError>) -> FaultCause {
    let mut faults = outcome.expect_err("the send fails").faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0).cause
}
