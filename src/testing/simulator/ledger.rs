//! What was sent, received and told, and the promises that are checked against it as it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::application::{AtMember, Letter, Outcomes};
use super::legs::{self, Outcome};
use super::world::{Pid, World};
use crate::completion::{FaultCause, Leg, Sending};
use crate::id::UniqueId;
use crate::member::Member;
use crate::message::Message;
use crate::options::{Acknowledgement, SendOptions};
use crate::stack::{Event, View};

/// A promise that a stack broke in a simulation.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Violation {
    /// When, in virtual time.
    pub at: Duration,
    /// Which promise.
    pub promise: Promise,
    /// What happened.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}, {:?}: {}", self.at, self.promise, self.detail)
    }
}

/// What a stack promises, and a [`Simulator`](super::Simulator) checks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Promise {
    /// Every send ends, in bounded time.
    Completion,
    /// No leg is lost: whatever fails has a cause.
    Accounted,
    /// What a sender sends to one destination arrives in the order sent.
    Order,
    /// Nothing arrives twice.
    Once,
    /// What arrives is what was sent, at a member it was sent to.
    Integrity,
    /// What counts as delivered with an acknowledgement has arrived.
    Honesty,
    /// The events that the application is told add up to its view.
    View,
}

/// A message that the application of a node received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// When, in virtual time.
    pub at: Duration,
    /// Which life of the node received it, from 0.
    pub life: u32,
    /// The message.
    pub message: Message,
}

/// A send of a simulation; see [`Simulator::outcome`](super::Simulator::outcome).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SendId(pub(super) usize);

#[derive(Debug)]
struct Sent {
    id: UniqueId,
    from: Pid,
    at: Duration,
    to: Vec<Member>,
    body: Bytes,
    options: SendOptions,
    outcome: Option<Outcome>,
}

#[derive(Default)]
pub(super) struct Ledger {
    addresses: Vec<SocketAddr>,
    sent: Vec<Sent>,
    by_id: BTreeMap<UniqueId, usize>,
    /// Sends without an outcome, oldest first.
    open: BTreeSet<usize>,
    outcomes: Arc<Mutex<Vec<(usize, Outcome)>>>,
    received: Vec<Vec<Received>>,
    /// Which messages arrived at a node, and in which of its lives.
    arrived: BTreeSet<(usize, UniqueId, u32)>,
    /// The last message of a sender that arrived at a process, by the member it was sent to.
    last: BTreeMap<(usize, u32, usize, u32, UniqueId), usize>,
    events: Vec<Vec<(Duration, Event)>>,
    told: Vec<Vec<Member>>,
    dead: BTreeSet<(usize, u32)>,
    violations: Vec<Violation>,
}

impl Ledger {
    pub(super) fn add_node(&mut self, address: SocketAddr) {
        self.addresses.push(address);
        self.received.push(Vec::new());
        self.events.push(Vec::new());
        self.told.push(Vec::new());
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.addresses.len()
    }

    pub(super) fn node_at(&self, address: SocketAddr) -> Option<usize> {
        self.addresses.iter().position(|other| *other == address)
    }

    /// A process begins: it has been told of nobody.
    pub(super) fn born(&mut self, pid: Pid) {
        self.told[pid.node].clear();
    }

    /// A process is gone, and with it what it was sending.
    pub(super) fn died(&mut self, pid: Pid) {
        self.dead.insert((pid.node, pid.life));
    }

    pub(super) fn sent(
        &mut self,
        world: &mut World,
        from: Pid,
        to: Vec<Member>,
        body: Bytes,
        options: SendOptions,
    ) -> (SendId, UniqueId, Vec<Leg>) {
        let (index, id) = self.enter(world, from, to.clone(), body, options);
        let (sending, legs) = Sending::new(id, to);
        sending.on_complete(self.noted(index));
        (SendId(index), id, legs)
    }

    /// An application sends, and hears of each destination if it has given a token.
    pub(super) fn posted(&mut self, world: &mut World, from: Pid, letter: &Letter, outcomes: &Outcomes) -> (UniqueId, Vec<Leg>) {
        let Letter { to, body, options, token } = letter;
        let (index, id) = self.enter(world, from, to.clone(), body.clone(), *options);
        let (token, outcomes) = (*token, outcomes.clone());
        let tell = move |member, outcome| {
            if let Some(token) = token {
                outcomes.push(AtMember { token, member, outcome });
            }
        };
        (id, legs::each(id, to, tell, self.noted(index)))
    }

    fn enter(&mut self, world: &mut World, from: Pid, to: Vec<Member>, body: Bytes, options: SendOptions) -> (usize, UniqueId) {
        let id = u128::from(world.random()) << 64 | u128::from(world.random());
        let id = UniqueId::from_bytes(id.to_be_bytes());
        let index = self.sent.len();
        self.sent.push(Sent { id, from, at: world.now, to, body, options, outcome: None });
        self.by_id.insert(id, index);
        self.open.insert(index);
        (index, id)
    }

    /// Keeps the outcome of a send until the next [look](Self::look).
    fn noted(&self, index: usize) -> impl FnOnce(Outcome) + Clone + Send + use<> {
        let outcomes = Arc::clone(&self.outcomes);
        move |outcome| outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome))
    }

    pub(super) fn delivered(&mut self, world: &mut World, pid: Pid, message: Message) {
        world.note(1 + pid.node as u64, message.id().as_bytes());
        if let Some(index) = self.by_id.get(&message.id()).copied() {
            self.check_delivered(world.now, pid, index, &message);
        }
        self.received[pid.node].push(Received { at: world.now, life: pid.life, message });
    }

    fn check_delivered(&mut self, now: Duration, pid: Pid, index: usize, message: &Message) {
        let sent = &self.sent[index];
        let name = format!("message {index} of {:?} at {pid:?}", sent.from);
        let meant = sent.to.iter().find(|member| member.address() == self.addresses[pid.node]).map(Member::id);
        let (from, intact) = (sent.from, message.bytes() == sent.body);
        let datagram = sent.options.contains(SendOptions::MULTICAST);
        if !self.arrived.insert((pid.node, message.id(), pid.life)) && !datagram {
            self.violate(now, Promise::Once, format!("{name} arrived again"));
        }
        if !intact {
            self.violate(now, Promise::Integrity, format!("{name} has {} bytes that were not sent", message.body().len()));
        }
        match meant {
            _ if datagram => {}
            None => self.violate(now, Promise::Integrity, format!("{name} was not sent there")),
            Some(meant) => {
                let last = self.last.insert((pid.node, pid.life, from.node, from.life, meant), index);
                if let Some(last) = last.filter(|last| *last > index) {
                    self.violate(now, Promise::Order, format!("{name} arrived after message {last}"));
                }
            }
        }
    }

    pub(super) fn event(&mut self, world: &mut World, pid: Pid, event: Event) {
        world.note(1000 + pid.node as u64, format!("{event:?}").as_bytes());
        let told = &mut self.told[pid.node];
        let known = told.iter().position(|member| member == event.member());
        let possible = match (&event, known) {
            (Event::Added(member), None) => {
                told.push(member.clone());
                true
            }
            (Event::Removed(..), Some(at)) => {
                told.remove(at);
                true
            }
            (Event::Updated(member), Some(at)) => {
                told[at] = member.clone();
                true
            }
            _ => false,
        };
        if !possible {
            self.violate(world.now, Promise::View, format!("{pid:?} was told {event:?} out of turn"));
        }
        self.events[pid.node].push((world.now, event));
    }

    /// Looks at what has ended, and at what should have. `awake` tells since when a node is running and not paused.
    pub(super) fn look(&mut self, world: &mut World, awake: impl Fn(usize) -> Option<Duration>) {
        let ended = std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
        for (index, outcome) in ended {
            world.note(2000 + u64::from(outcome.is_ok()), &index.to_be_bytes());
            self.open.remove(&index);
            self.check_outcome(world.now, index, &outcome);
            self.sent[index].outcome = Some(outcome);
        }
        let bound = world.config.settle_within;
        while let Some(index) = self.open.first().copied() {
            let Sent { from, at, .. } = self.sent[index];
            if self.dead.contains(&(from.node, from.life)) {
                self.open.remove(&index);
            } else if awake(from.node).is_some_and(|since| since.max(at) + bound < world.now) {
                self.open.remove(&index);
                self.violate(
                    world.now,
                    Promise::Completion,
                    format!("message {index} of {from:?} has no outcome after {bound:?}"),
                );
            } else {
                break;
            }
        }
    }

    fn check_outcome(&mut self, now: Duration, index: usize, outcome: &Outcome) {
        let sent = &self.sent[index];
        let from = sent.from;
        if self.dead.contains(&(from.node, from.life)) {
            return;
        }
        let faults = outcome.as_ref().err().map_or(&[][..], |error| &error.faults);
        let lost = faults.iter().filter(|fault| matches!(fault.cause, FaultCause::Dropped)).count();
        let acknowledged = sent.options.acknowledgement() == Acknowledgement::Processed;
        let reached = sent.to.iter().filter(|member| faults.iter().all(|fault| fault.member != **member));
        let missing: Vec<_> = reached.filter(|member| acknowledged && !self.has_arrived(sent.id, member)).cloned().collect();
        if lost > 0 {
            self.violate(now, Promise::Accounted, format!("{lost} legs of message {index} of {from:?} were dropped"));
        }
        for member in missing {
            self.violate(now, Promise::Honesty, format!("message {index} of {from:?} never arrived at {member}"));
        }
    }

    /// Whether it arrived in any life of the node: a process that takes over an address takes over what is sent there.
    fn has_arrived(&self, id: UniqueId, member: &Member) -> bool {
        let Some(node) = self.node_at(member.address()) else { return false };
        self.arrived.range((node, id, 0)..=(node, id, u32::MAX)).next().is_some()
    }

    fn violate(&mut self, at: Duration, promise: Promise, detail: String) {
        const ENOUGH: usize = 100;
        if self.violations.len() < ENOUGH {
            self.violations.push(Violation { at, promise, detail });
        }
    }

    pub(super) fn check_view(&mut self, now: Duration, node: usize, view: &View) {
        let told = &self.told[node];
        if told.len() != view.len() || !told.iter().all(|member| view.contains(member)) {
            let detail = format!("node {node} was told of {told:?} and sees {:?}", view.as_slice());
            self.violate(now, Promise::View, detail);
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn outcome(&self, send: SendId) -> Option<&Outcome> {
        self.sent.get(send.0)?.outcome.as_ref()
    }

    pub(super) fn received(&self, node: usize) -> &[Received] {
        &self.received[node]
    }

    pub(super) fn events(&self, node: usize) -> &[(Duration, Event)] {
        &self.events[node]
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("sent", &self.sent.len()).field("violations", &self.violations).finish_non_exhaustive()
    }
}
