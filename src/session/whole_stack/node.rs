//! An engine on a simulated node: what a replica is on a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::ledger::{Ledger, Write};
use super::{Coverage, Version};
use crate::completion::FaultCause;
use crate::member::Member;
use crate::message::Message;
use crate::options::SendOptions;
use crate::session::engine::{Change, Commit, Config, Engine, Outcome, Output, Phase, SwapFault, Ticket, Want, slot_of};
use crate::stack::Event;
use crate::testing::simulator::{AppContext, Application, NodeId};

pub(super) struct Node {
    pub(super) engine: Engine,
    /// Tickets that an answer must come for.
    pub(super) expected: BTreeSet<Ticket>,
    commits: BTreeMap<Ticket, Written>,
    answered: Vec<Output>,
    pub(super) drained: bool,
    /// While it is handing over what it holds: how many others there were to take it, when they were fewest.
    pub(super) takers: usize,
}

/// What a commit has written.
struct Written {
    key: Vec<u8>,
    name: &'static str,
    birth: Version,
}

impl Node {
    pub(super) fn new(config: Config, cx: &AppContext<'_>) -> Self {
        Self {
            engine: Engine::new(config, cx.local().clone(), cx.time()),
            expected: BTreeSet::new(),
            commits: BTreeMap::new(),
            answered: Vec::new(),
            drained: false,
            takers: usize::MAX,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a commit, and who keeps the books of it")]
    pub(super) fn commit(
        &mut self,
        cx: &mut AppContext<'_>,
        ledger: &mut Ledger,
        node: NodeId,
        key: &[u8],
        change: Change,
        want: Want,
        name: &'static str,
    ) {
        let commit = self.engine.commit(cx.time(), key, change, want);
        let write = self.written(key, name);
        match commit {
            Ok(Commit::Done(_)) => {}
            Ok(Commit::Waiting(ticket)) => {
                self.expected.insert(ticket);
                let birth = write.map_or(Version::ZERO, |write| write.birth);
                self.commits.insert(ticket, Written { key: key.to_vec(), name, birth });
            }
            Err(_) => return self.carry_out(cx),
        }
        if let Some(write) = write {
            ledger.wrote(node, key, name, write);
        }
        self.carry_out(cx);
    }

    /// The last write of an attribute, as it is here.
    fn written(&self, key: &[u8], name: &str) -> Option<Write> {
        let record = self.engine.peek(key)?;
        record.attribute(name).map(|attribute| Write { birth: record.birth, version: attribute.version })
    }

    pub(super) fn drain(&mut self, cx: &mut AppContext<'_>) {
        self.engine.drain(cx.time());
        self.carry_out(cx);
    }

    /// Does what the engine wants done.
    pub(super) fn carry_out(&mut self, cx: &mut AppContext<'_>) {
        self.count_takers();
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

    fn count_takers(&mut self) {
        if self.engine.phase() == Phase::Leaving {
            self.takers = self.takers.min(self.engine.participants().len());
        }
    }

    /// Enters the answers that have come into the books.
    pub(super) fn answers(&mut self, ledger: &mut Ledger, node: NodeId, coverage: &mut Coverage) {
        for output in std::mem::take(&mut self.answered) {
            match output {
                Output::Committed(ticket, result) => {
                    self.answered_once(ticket);
                    let Some(written) = self.commits.remove(&ticket) else { continue };
                    match result {
                        Ok(committed) => {
                            coverage.confirmed += u64::from(!committed.confirmed.is_empty());
                            ledger.confirmed(node, &written.key, written.name, written.birth, &committed);
                        }
                        Err(_) => coverage.unconfirmed += 1,
                    }
                }
                Output::Fetched(ticket, result) => {
                    self.answered_once(ticket);
                    coverage.fetched += u64::from(matches!(result, Ok(Some(_))));
                }
                Output::Swapped(ticket, result) => {
                    self.answered_once(ticket);
                    match result {
                        Ok(_) => coverage.swapped += 1,
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
