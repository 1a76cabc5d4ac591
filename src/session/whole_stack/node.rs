//! An engine on a simulated node: what a replica is on a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ledger::{Deed, Ledger, What, Write};
use super::{Coverage, Version};
use crate::completion::FaultCause;
use crate::id::UniqueId;
use crate::member::Member;
use crate::message::Message;
use crate::options::SendOptions;
use crate::session::engine::{
    Change, Commit, Config, Engine, Get, Key, Name, Outcome, Output, Phase, Record, SwapFault, Ticket, Want, slot_of,
};
use crate::stack::Event;
use crate::testing::simulator::{AppContext, Application, NodeId};

pub(super) struct Node {
    pub(super) engine: Engine,
    /// Tickets that an answer must come for.
    pub(super) expected: BTreeSet<Ticket>,
    /// Requests that wait for an entry.
    reads: BTreeMap<Ticket, Question>,
    swaps: BTreeMap<Ticket, Request>,
    answered: Vec<Output>,
    /// What was let go of, and who was to have it.
    gone: Vec<(Key, Arc<Record>, Vec<UniqueId>)>,
    pub(super) drained: bool,
}

/// What a client wants done with a session.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) key: Vec<u8>,
    pub(super) name: &'static str,
    pub(super) value: Bytes,
    pub(super) want: Want,
    pub(super) lease: Duration,
    /// A number that nobody has used.
    pub(super) fresh: u64,
    /// Which of the things that clients do.
    pub(super) action: u64,
}

/// A request that waits for an entry.
struct Question {
    request: Request,
    /// Who was known when it was asked.
    known: Vec<UniqueId>,
    /// What this node had written then.
    written: Vec<(&'static str, Write)>,
}

impl Node {
    pub(super) fn new(config: Config, cx: &AppContext<'_>) -> Self {
        Self {
            engine: Engine::new(config, cx.local().clone(), cx.time()),
            expected: BTreeSet::new(),
            reads: BTreeMap::new(),
            swaps: BTreeMap::new(),
            answered: Vec::new(),
            gone: Vec::new(),
            drained: false,
        }
    }

    /// Reads an entry, and does what is wanted once it is there.
    pub(super) fn request(
        &mut self,
        cx: &mut AppContext<'_>,
        ledger: &mut Ledger,
        coverage: &mut Coverage,
        node: NodeId,
        request: Request,
    ) {
        match self.engine.get(cx.time(), &request.key) {
            Get::Here(record) => {
                let written = ledger.written(node, &request.key);
                ledger.read(node, &request.key, &record, &written, &self.engine.participants());
                self.act(cx, ledger, coverage, node, request, Some(record));
            }
            Get::Absent => self.act(cx, ledger, coverage, node, request, None),
            Get::Asking(ticket) => {
                self.expected.insert(ticket);
                let written = ledger.written(node, &request.key);
                self.reads.insert(ticket, Question { request, known: self.engine.participants(), written });
                self.carry_out(cx);
            }
        }
    }

    /// One request of one client, which has read this.
    fn act(
        &mut self,
        cx: &mut AppContext<'_>,
        ledger: &mut Ledger,
        coverage: &mut Coverage,
        node: NodeId,
        request: Request,
        record: Option<Arc<Record>>,
    ) {
        let Request { number, mut key, name, value, want, lease, fresh, action } = request.clone();
        ledger.wants(name, &value);
        let change = match (record, action) {
            (None, 0..=19) => {
                key = ledger.make(number, &key, fresh);
                Change::Create { lease, attributes: vec![(Name::from(name), Some(value))] }
            }
            (Some(record), 0) => {
                coverage.removed += 1;
                ledger.removed(number, &key, fresh);
                Change::Remove { read: Some(record) }
            }
            (Some(record), 1) => {
                coverage.renamed += 1;
                let to = beside(&key, fresh);
                ledger.renamed(number, &key, &to);
                Change::Rename { read: record, to: to.as_slice().into(), lease: None, attributes: Vec::new() }
            }
            (Some(record), 2..=5) => {
                // Now and then of a version that it does not have any more.
                let read = record.attribute(name).filter(|_| action > 2);
                let expected = read.map_or(Version::ZERO, |attribute| attribute.version);
                let ticket = self.engine.swap(cx.time(), &key, Name::from(name), expected, Some(value), want);
                self.expected.insert(ticket);
                self.swaps.insert(ticket, request);
                return self.carry_out(cx);
            }
            (Some(record), 6..=30) => {
                Change::Update { read: record, lease: None, attributes: vec![(Name::from(name), Some(value))] }
            }
            _ => return self.carry_out(cx),
        };
        self.commit(cx, ledger, node, &key, change, want);
    }

    fn commit(&mut self, cx: &mut AppContext<'_>, ledger: &mut Ledger, node: NodeId, key: &[u8], change: Change, want: Want) {
        let before = self.engine.record(key).map(Arc::clone);
        let (asked, renamed) = match &change {
            Change::Create { attributes, .. } | Change::Update { attributes, .. } => (attributes.clone(), None),
            Change::Rename { read, to, .. } => (Vec::new(), Some((before.unwrap_or_else(|| Arc::clone(read)), to.clone()))),
            _ => (Vec::new(), None),
        };
        let Ok(commit) = self.engine.commit(cx.time(), key, change, want) else { return self.carry_out(cx) };
        let after = self.engine.record(key).map(Arc::clone);
        let Some(after) = after else { panic!("{node:?} has nothing of what it wrote to {key:x?}") };
        for (name, value) in &asked {
            let Some(attribute) = after.attribute(name).filter(|attribute| attribute.value == *value) else {
                panic!("{node:?} was to write {name}, and made {after:?}");
            };
            let write = Write { birth: after.birth, version: attribute.version };
            ledger.wrote(node, Deed::new(key, What::Attribute(name.to_string(), value.clone()), write, attribute.version));
        }
        if asked.is_empty() {
            let death = after.end.death;
            ledger.wrote(node, Deed::new(key, What::Death, Write { birth: Version::ZERO, version: death }, death));
        }
        if let Some((old, to)) = renamed {
            let Some(new) = self.engine.record(&to).filter(|new| *new.attributes == *old.attributes) else {
                panic!("{node:?} renamed {old:?}, and made {:?}", self.engine.record(&to));
            };
            for attribute in &new.attributes {
                let write = Write { birth: new.birth, version: attribute.version };
                let what = What::Attribute(attribute.name.to_string(), attribute.value.clone());
                ledger.wrote(node, Deed::new(&to, what, write, new.birth));
            }
        }
        if let Commit::Waiting(ticket) = commit {
            self.expected.insert(ticket);
        }
        self.carry_out(cx);
    }

    pub(super) fn drain(&mut self, cx: &mut AppContext<'_>) {
        self.engine.drain(cx.time());
        self.carry_out(cx);
    }

    /// Does what the engine wants done.
    pub(super) fn carry_out(&mut self, cx: &mut AppContext<'_>) {
        self.gone.extend(self.engine.let_go_of());
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Save(_) | Output::Load(_) | Output::Forget(_) => {
                    unreachable!("there is no store")
                }
                Output::CopiesDiffer(_) => unreachable!("all are set up alike"),
                Output::Send(send) => {
                    let options = if send.token.is_some() { SendOptions::SYNC_ACK } else { SendOptions::ASYNC };
                    cx.send(send.to, send.body, options, send.token);
                }
                Output::Drained => self.drained = true,
                Output::Committed(..) | Output::Fetched(..) | Output::Swapped(..) => self.answered.push(output),
                Output::Event(_) | Output::Ready => {}
            }
        }
    }

    /// Enters into the books what was let go of.
    pub(super) fn hands_over(&mut self, ledger: &mut Ledger, node: NodeId) {
        for (key, record, to) in self.gone.drain(..) {
            ledger.let_go(node, &key, record, &to);
        }
    }

    /// Enters the answers that have come into the books, and goes on with what waited for them.
    pub(super) fn answers(&mut self, cx: &mut AppContext<'_>, ledger: &mut Ledger, coverage: &mut Coverage, node: NodeId) {
        for output in std::mem::take(&mut self.answered) {
            match output {
                Output::Committed(ticket, result) => {
                    self.answered_once(ticket);
                    match result {
                        Ok(committed) => {
                            coverage.confirmed += u64::from(!committed.confirmed.is_empty());
                            ledger.confirmed(&committed);
                        }
                        Err(fault) => {
                            coverage.unconfirmed += 1;
                            ledger.confirmed(&fault.committed);
                        }
                    }
                }
                Output::Fetched(ticket, result) => {
                    self.answered_once(ticket);
                    let Some(Question { request, known, written }) = self.reads.remove(&ticket) else {
                        panic!("nobody asked for {ticket}");
                    };
                    let Ok(record) = result else { continue };
                    if let Some(record) = &record {
                        coverage.fetched += 1;
                        let now = self.engine.participants();
                        let known: Vec<_> = known.into_iter().filter(|id| now.contains(id)).collect();
                        ledger.read(node, &request.key, record, &written, &known);
                    }
                    if self.engine.phase() != Phase::Leaving && !ledger.closed {
                        self.act(cx, ledger, coverage, node, request, record);
                    }
                }
                Output::Swapped(ticket, result) => {
                    self.answered_once(ticket);
                    let Some(request) = self.swaps.remove(&ticket) else { panic!("nobody asked for {ticket}") };
                    match result {
                        Ok(committed) | Err(SwapFault::Unconfirmed(committed)) => {
                            coverage.swapped += 1;
                            ledger.swapped(node, &request.key, request.name, &request.value, &committed);
                        }
                        Err(SwapFault::Conflict(_)) => coverage.swap_conflicts += 1,
                        Err(_) => {}
                    }
                }
                _ => {}
            }
        }
    }

    fn answered_once(&mut self, ticket: Ticket) {
        assert!(self.expected.remove(&ticket), "ticket {ticket} was answered before, or never given");
    }
}

/// A key that falls into the same slot.
pub(super) fn beside(key: &[u8], random: u64) -> Vec<u8> {
    let slot = slot_of(key);
    (random..).map(|number| number.to_be_bytes().to_vec()).find(|other| slot_of(other) == slot).unwrap_or_default()
}

impl Application for Node {
    fn message(&mut self, cx: &mut AppContext<'_>, message: &Message) -> bool {
        let accepted = self.engine.receive(cx.time(), message.sender(), &message.bytes());
        self.carry_out(cx);
        accepted
    }

    fn event(&mut self, cx: &mut AppContext<'_>, event: &Event) {
        let now = cx.time();
        match event {
            Event::Added(member) => self.engine.member_added(now, member),
            Event::Updated(member) => self.engine.member_updated(now, member),
            Event::Removed(member, _) => self.engine.member_removed(now, member),
            Event::Suspect(_) => {}
        }
        self.carry_out(cx);
    }

    fn outcome(&mut self, cx: &mut AppContext<'_>, token: u64, member: &Member, outcome: Result<(), FaultCause>) {
        let outcome = match outcome {
            Ok(()) => Outcome::Accepted,
            Err(FaultCause::Rejected) => Outcome::Rejected,
            Err(_) => Outcome::Failed,
        };
        self.engine.sent(cx.time(), token, member, outcome);
        self.carry_out(cx);
    }

    fn timeout(&mut self, cx: &mut AppContext<'_>) {
        self.engine.timeout(cx.time());
        self.carry_out(cx);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }
}
