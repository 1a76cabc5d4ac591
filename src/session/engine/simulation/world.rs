//! Members, the network between them, and the time that passes for all.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::codec;
use super::super::message::{Found, Message};
use super::super::table::Key;
use super::super::{Engine, Outcome, Output, Token};
use super::chance::Chance;
use super::clients::{Clients, Thought};
use super::coverage::{Coverage, Fault};
use super::oracle::{Oracle, name};
use super::plan::{BACK_LAG, CALM_DELAY, GONE_LAG, LONG_SEND_TIMEOUT, Plan, SEND_TIMEOUT, SLOW_DELAY};
use super::stores::Store;
use super::trace::Trace;
use crate::id::{Capabilities, UniqueId, mix};
use crate::member::Member;
use crate::stack::Time;

/// A process: the number of its node, and which of the node's lives it is.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Pid {
    pub(super) node: usize,
    pub(super) life: u32,
}

/// What is wrong.
pub(super) type Verdict = Result<(), String>;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Duration,
    pub(super) origin: Instant,
    pub(super) plan: Plan,
    pub(super) chance: Chance,
    pub(super) trace: Trace,
    pub(super) nodes: Vec<Node>,
    /// Nothing gets from the first to the second.
    pub(super) blocked: BTreeSet<(usize, usize)>,
    pub(super) calm: bool,
    /// Nothing is wrong any more: all that is asked must be answered.
    pub(super) proving: bool,
    pub(super) oracle: Oracle,
    pub(super) clients: Clients,
    pub(super) coverage: Coverage,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    /// Sends whose outcome has not been told.
    pending: BTreeMap<(Pid, Token, usize), Member>,
    /// Timers that fired without time passing.
    spins: u32,
}

pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) payload: Bytes,
    pub(super) life: u32,
    /// The wall clock, less the true time, in milliseconds.
    pub(super) skew: i64,
    pub(super) process: Option<Process>,
    /// While it is paused: what has come meanwhile.
    pub(super) paused: Option<Vec<Happening>>,
    pub(super) resumed: Duration,
}

pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) member: Member,
    pub(super) engine: Engine,
    /// The members that its channel shows, by node.
    pub(super) view: BTreeMap<usize, Member>,
    pub(super) leaving: bool,
    /// When it was started.
    pub(super) since: Duration,
    pub(super) store: Store,
}

/// Something that is to happen.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Arrive {
        to: usize,
        from: Member,
        sender: Pid,
        body: Bytes,
        answer: Option<(Token, Member)>,
    },
    Outcome {
        pid: Pid,
        token: Token,
        to: usize,
        outcome: Outcome,
    },
    /// `observer` looks whether it sees `subject`.
    Look {
        observer: usize,
        subject: usize,
    },
    Think {
        pid: Pid,
        thought: Thought,
    },
    /// A store has done what it was to do.
    Stored {
        pid: Pid,
        number: u64,
    },
    /// A store has answered.
    Loaded {
        pid: Pid,
        key: Key,
    },
    Resume {
        node: usize,
    },
    Start {
        node: usize,
    },
    /// A member that leaves has had its time.
    Leave {
        pid: Pid,
    },
    Client,
    Fault,
    Heal,
    Calm,
}

struct Scheduled {
    at: Duration,
    order: u64,
    what: Happening,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, trace: Trace) -> Self {
        let nodes = (0..plan.nodes)
            .map(|node| Node {
                address: ([10, 0, 0, 1], 4000 + u16::try_from(node).expect("few nodes")).into(),
                payload: plan.payloads[node].clone().into(),
                life: 0,
                skew: 0,
                process: None,
                paused: None,
                resumed: Duration::ZERO,
            })
            .collect();
        let clients = Clients::new(seed, &plan);
        Self {
            seed,
            now: Duration::ZERO,
            origin: crate::clock::now(),
            chance: Chance::new(seed),
            trace,
            nodes,
            blocked: BTreeSet::new(),
            calm: false,
            proving: false,
            oracle: Oracle::new(&plan),
            clients,
            coverage: Coverage::default(),
            queue: BinaryHeap::new(),
            order: 0,
            pending: BTreeMap::new(),
            spins: 0,
            plan,
        }
    }

    pub(super) fn time(&self, node: usize) -> Time {
        let millis = 1_790_000_000_000 + u64::try_from(self.now.as_millis()).expect("a run is short");
        Time { instant: self.origin + self.now, epoch_millis: millis.saturating_add_signed(self.nodes[node].skew) }
    }

    pub(super) fn schedule(&mut self, after: Duration, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + after, order: self.order, what }));
    }

    /// Forgets what was to be started later.
    pub(super) fn start_no_more(&mut self) {
        self.queue.retain(|Reverse(scheduled)| !matches!(scheduled.what, Happening::Start { .. }));
    }

    /// The nodes where a process runs, paused or not.
    pub(super) fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some()).collect()
    }

    /// The nodes that do something.
    pub(super) fn awake(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some() && self.nodes[*node].paused.is_none()).collect()
    }

    /// Lets the next thing happen, unless that is behind `end`: then it is `end`, and `false`.
    pub(super) fn step(&mut self, end: Duration) -> Result<bool, String> {
        let timer = self.awake().into_iter().filter_map(|node| {
            let due = self.nodes[node].process.as_ref()?.engine.poll_timeout()?;
            Some((due.saturating_duration_since(self.origin).max(self.now), node))
        });
        let timer = timer.min();
        let next = self.queue.peek().map(|Reverse(next)| next.at);
        let first = match (timer, next) {
            (Some((at, _)), Some(next)) => at.min(next),
            (Some((at, _)), None) => at,
            (None, Some(next)) => next,
            (None, None) => end + Duration::from_nanos(1),
        };
        if first > end {
            self.now = end;
            return Ok(false);
        }
        self.spins = if first > self.now { 0 } else { self.spins + 1 };
        if self.spins > 100_000 {
            let engine = timer.and_then(|(_, node)| Some(&self.nodes[node].process.as_ref()?.engine));
            let dues = engine.map(|e| {
                let first = [e.peers.due(), e.commits.due(), e.fetches.due(), e.swaps.due()];
                (e.millis(), first, [e.transfer.due(), e.repair.due(), e.handover.due(), e.expiry_due()])
            });
            return Err(format!("time stands still: {timer:?}: {dues:?}"));
        }
        self.now = first;
        if next == Some(first) {
            if let Some(Reverse(next)) = self.queue.pop() {
                self.happen(next.what)?;
            }
        } else if let Some((_, node)) = timer {
            let time = self.time(node);
            self.trace.fold(&[1, node as u64, u64::try_from(self.now.as_micros()).unwrap_or(0)]);
            self.with(node, |engine| engine.timeout(time))?;
        }
        self.oracle.overdue(self.now, &self.nodes)?;
        Ok(true)
    }

    pub(super) fn run_until(&mut self, end: Duration) -> Verdict {
        while self.step(end)? {}
        Ok(())
    }

    fn happen(&mut self, what: Happening) -> Verdict {
        if let Some(node) = self.concerns(&what)
            && let Some(held) = &mut self.nodes[node].paused
        {
            held.push(what);
            return Ok(());
        }
        match what {
            Happening::Arrive { to, from, sender, body, answer } => self.arrive(to, &from, sender, &body, answer),
            Happening::Outcome { pid, token, to, outcome } => {
                let Some(member) = self.pending.remove(&(pid, token, to)) else { return Ok(()) };
                self.trace.fold(&[2, pid.node as u64, token, to as u64, outcome as u64]);
                self.trace.tell(|| format!("{:?} {pid:?} learns: {token} to {to} {outcome:?}", self.now));
                let time = self.time(pid.node);
                self.with_process(pid, |engine| engine.sent(time, token, &member, outcome))
            }
            Happening::Look { observer, subject } => self.look(observer, subject),
            Happening::Think { pid, thought } => self.think(pid, thought),
            Happening::Stored { pid, number } => self.stored(pid, number),
            Happening::Loaded { pid, key } => self.loaded(pid, &key),
            Happening::Resume { node } => self.resume(node),
            Happening::Start { node } => self.start(node),
            Happening::Leave { pid } => {
                if self.process(pid).is_some() {
                    self.coverage.saw(Fault::NotDrained);
                }
                self.gone(pid, false)
            }
            Happening::Client => self.client(),
            Happening::Fault => self.fault(),
            Happening::Heal => {
                self.heal();
                Ok(())
            }
            Happening::Calm => self.begin_calm(),
        }
    }

    /// The node that does this, if one does.
    fn concerns(&self, what: &Happening) -> Option<usize> {
        match what {
            Happening::Arrive { to, .. } => Some(*to),
            Happening::Outcome { pid, .. }
            | Happening::Think { pid, .. }
            | Happening::Stored { pid, .. }
            | Happening::Loaded { pid, .. } => Some(pid.node),
            Happening::Look { observer, .. } => Some(*observer),
            _ => None,
        }
    }

    pub(super) fn process(&self, pid: Pid) -> Option<&Process> {
        self.nodes[pid.node].process.as_ref().filter(|process| process.pid == pid)
    }

    /// Does something with the engine of a process, if it still runs.
    pub(super) fn with_process(&mut self, pid: Pid, act: impl FnOnce(&mut Engine)) -> Verdict {
        if self.process(pid).is_some() { self.with(pid.node, act) } else { Ok(()) }
    }

    /// Does something with the engine at a node, looks at what it holds now, and does what it wants done.
    pub(super) fn with<R: Default>(&mut self, node: usize, act: impl FnOnce(&mut Engine) -> R) -> Result<R, String> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(R::default()) };
        let pid = process.pid;
        let result = act(&mut process.engine);
        self.oracle.observe(pid, self.now, &self.nodes, &mut self.trace)?;
        if let Some(process) = &mut self.nodes[node].process {
            process.engine.handover.gone.clear();
        }
        while let Some(output) = self.nodes[node].process.as_mut().and_then(|process| process.engine.poll_output()) {
            self.output(pid, output)?;
        }
        Ok(result)
    }

    fn output(&mut self, pid: Pid, output: Output) -> Verdict {
        match output {
            Output::Send(send) => {
                for member in send.to {
                    self.transmit(pid, member, send.body.clone(), send.token);
                }
                Ok(())
            }
            Output::Committed(ticket, result) => self.committed(pid, ticket, result),
            Output::Fetched(ticket, result) => self.fetched(pid, ticket, result),
            Output::Swapped(ticket, result) => self.swapped(pid, ticket, result),
            Output::Save(_) | Output::Load(_) | Output::Forget(_) if self.plan.config.keeping.is_none() => {
                Err(format!("{pid:?} keeps entries, though it has no store"))
            }
            Output::Save(savings) => self.save(pid, savings),
            Output::Load(keys) => self.load(pid, keys),
            Output::Forget(key) => self.forget(pid, key),
            Output::Event(event) => {
                self.trace.tell(|| format!("{:?} {pid:?} event {event:?}", self.now));
                self.oracle.event(pid, self.now, &event, &self.nodes)
            }
            Output::CopiesDiffer(member) => Err(format!("{pid:?} takes {member} for one with other settings")),
            Output::Ready => {
                self.trace.tell(|| format!("{:?} {pid:?} is ready", self.now));
                self.oracle.ready(pid, self.now, &self.nodes)
            }
            Output::Drained => {
                self.trace.tell(|| format!("{:?} {pid:?} is drained", self.now));
                self.coverage.saw(Fault::Drained);
                self.gone(pid, true)
            }
        }
    }

    fn delay(&mut self) -> Duration {
        if self.calm {
            return self.chance.millis(1, CALM_DELAY);
        }
        if self.chance.per_mille(self.plan.net.slow) {
            self.coverage.saw(Fault::Delay);
            return self.chance.millis(20, SLOW_DELAY);
        }
        self.chance.millis(0, 5)
    }

    fn transmit(&mut self, pid: Pid, member: Member, body: Bytes, token: Option<Token>) {
        let Some(to) = self.nodes.iter().position(|node| node.address == member.address()) else { return };
        self.trace.fold(&[3, pid.node as u64, to as u64, token.unwrap_or(0)]);
        self.trace.fold_bytes(&body);
        self.trace.tell(|| {
            let decoded = codec::decode(&mut codec::Names::default(), self.plan.config.context, &body);
            let keys = decoded.as_ref().map(keys_in).unwrap_or_default();
            format!("{:?} {pid:?} -> {to} {token:?} {keys:?} {decoded:?}", self.now)
        });
        let Some(from) = self.process(pid).map(|process| process.member.clone()) else { return };
        if let Some(token) = token {
            self.pending.insert((pid, token, to), member.clone());
            let long = !self.calm && self.chance.percent(5);
            let limit = Duration::from_millis(if long { LONG_SEND_TIMEOUT } else { SEND_TIMEOUT });
            self.schedule(limit, Happening::Outcome { pid, token, to, outcome: Outcome::Failed });
        }
        if self.blocked.contains(&(pid.node, to)) {
            return;
        }
        if !self.calm && self.chance.per_mille(self.plan.net.loss) {
            self.coverage.saw(Fault::Loss);
            return;
        }
        let after = self.delay();
        if !self.calm && self.chance.per_mille(self.plan.net.duplicates) {
            self.coverage.saw(Fault::Duplicate);
            let again = self.chance.millis(0, SLOW_DELAY);
            let copy = Happening::Arrive { to, from: from.clone(), sender: pid, body: body.clone(), answer: None };
            self.schedule(again, copy);
        }
        let answer = token.map(|token| (token, member));
        self.schedule(after, Happening::Arrive { to, from, sender: pid, body, answer });
    }

    fn arrive(&mut self, to: usize, from: &Member, sender: Pid, body: &Bytes, answer: Option<(Token, Member)>) -> Verdict {
        if self.nodes[to].process.is_none() {
            if let Some((token, _)) = answer
                && self.chance.percent(50)
            {
                // Nobody listens there.
                self.schedule(Duration::from_millis(1), Happening::Outcome { pid: sender, token, to, outcome: Outcome::Failed });
            }
            return Ok(());
        }
        let time = self.time(to);
        let mut accepted = false;
        self.oracle.receiving = true;
        let received = self.with(to, |engine| accepted = engine.receive(time, from, body));
        self.oracle.receiving = false;
        received?;
        let Some((token, _)) = answer else { return Ok(()) };
        if self.blocked.contains(&(to, sender.node)) || (!self.calm && self.chance.per_mille(self.plan.net.ack_loss)) {
            self.coverage.saw(Fault::AckLoss);
            return Ok(());
        }
        let mut after = self.delay();
        if !self.calm && self.chance.per_mille(self.plan.net.late_acks) {
            self.coverage.saw(Fault::LateAck);
            after += self.chance.millis(100, SEND_TIMEOUT);
        }
        let outcome = if accepted { Outcome::Accepted } else { Outcome::Rejected };
        self.schedule(after, Happening::Outcome { pid: sender, token, to, outcome });
        Ok(())
    }

    /// Whether the channel at `observer` ought to show `subject`.
    pub(super) fn sees(&self, observer: usize, subject: usize) -> Option<&Member> {
        let node = &self.nodes[subject];
        let hears = observer != subject && node.paused.is_none() && !self.blocked.contains(&(subject, observer));
        node.process.as_ref().filter(|_| hears).map(|process| &process.member)
    }

    fn look(&mut self, observer: usize, subject: usize) -> Verdict {
        let target = self.sees(observer, subject).cloned();
        let Some(process) = &self.nodes[observer].process else { return Ok(()) };
        let current = process.view.get(&subject).cloned();
        if current == target {
            return Ok(());
        }
        let time = self.time(observer);
        self.trace.fold(&[4, observer as u64, subject as u64, u64::from(target.is_some())]);
        self.trace.tell(|| format!("{:?} {observer} sees {subject}: {}", self.now, target.is_some()));
        self.coverage.saw(if target.is_some() { Fault::Appear } else { Fault::Vanish });
        self.oracle.looked(observer, subject, self.now);
        let Some(process) = &mut self.nodes[observer].process else { return Ok(()) };
        match &target {
            Some(member) => drop(process.view.insert(subject, member.clone())),
            None => drop(process.view.remove(&subject)),
        }
        if let Some(gone) = current {
            self.with(observer, |engine| engine.member_removed(time, &gone))?;
        }
        if let Some(member) = target {
            self.with(observer, |engine| engine.member_added(time, &member))?;
        }
        Ok(())
    }

    /// Something has changed about who hears this node, or whom it hears: all notice in their own time.
    pub(super) fn look_around(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            if other != node {
                self.look_later(other, node);
                self.look_later(node, other);
            }
        }
    }

    pub(super) fn look_later(&mut self, observer: usize, subject: usize) {
        let after = match self.sees(observer, subject).is_some() {
            true if self.chance.percent(50) => self.chance.millis(0, 50),
            true => self.chance.millis(0, BACK_LAG),
            false if self.chance.percent(20) => self.chance.millis(0, 50),
            false => self.chance.millis(500, GONE_LAG),
        };
        self.schedule(after, Happening::Look { observer, subject });
    }

    pub(super) fn start(&mut self, node: usize) -> Verdict {
        if self.nodes[node].process.is_some() {
            return Ok(());
        }
        let at = &mut self.nodes[node];
        at.life += 1;
        at.paused = None;
        let pid = Pid { node, life: at.life };
        let random = u128::from(mix(self.seed ^ mix(node as u64) ^ u64::from(pid.life))) << 64;
        let random = random | u128::from(mix(mix(self.seed) ^ (node as u64) << 32 ^ u64::from(pid.life)));
        let id = UniqueId::from_random(Capabilities::ALL, random);
        let member = Member::new(at.address).with_id(id).with_payload(at.payload.clone());
        let time = self.time(node);
        let engine = Engine::new(self.plan.config.clone(), member.clone(), time);
        self.trace.fold(&[5, node as u64]);
        self.trace.tell(|| format!("{:?} {pid:?} starts as {}", self.now, member.id()));
        self.coverage.saw(if pid.life == 1 { Fault::Join } else { Fault::Restart });
        self.oracle.born(pid, self.now, &member);
        let process =
            Process { pid, member, engine, view: BTreeMap::new(), leaving: false, since: self.now, store: Store::default() };
        self.nodes[node].process = Some(process);
        self.look_around(node);
        self.with(node, |engine| engine.timeout(time))
    }

    /// A process ends; `drained` tells whether it has said that nothing is left that only it holds.
    pub(super) fn gone(&mut self, pid: Pid, drained: bool) -> Verdict {
        if self.process(pid).is_none() {
            return Ok(());
        }
        self.trace.fold(&[6, pid.node as u64, u64::from(drained)]);
        self.trace.tell(|| format!("{:?} {pid:?} ends, drained: {drained}", self.now));
        self.oracle.ends(pid, drained, self.now, &self.nodes)?;
        self.clients.ended(pid);
        self.nodes[pid.node].process = None;
        self.nodes[pid.node].paused = None;
        self.pending.retain(|(sender, _, _), _| *sender != pid);
        for other in 0..self.nodes.len() {
            self.look_later(other, pid.node);
        }
        Ok(())
    }

    fn resume(&mut self, node: usize) -> Verdict {
        let Some(held) = self.nodes[node].paused.take() else { return Ok(()) };
        self.nodes[node].resumed = self.now;
        self.oracle.disturb_all(node, self.now);
        self.trace.tell(|| format!("{:?} {node} goes on, with {} things to do", self.now, held.len()));
        // Sometimes the timers are first.
        let timers = self.chance.percent(50);
        let time = self.time(node);
        if timers {
            self.with(node, |engine| engine.timeout(time))?;
        }
        self.look_around(node);
        for what in held {
            self.happen(what)?;
        }
        Ok(())
    }

    /// Messages whose outcome somebody waits for.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }
}

/// The keys that a message is about.
fn keys_in(message: &Message) -> Vec<String> {
    let keys: Vec<&Key> = match message {
        Message::Put(entries) => entries.iter().map(|entry| &entry.key).collect(),
        Message::Touch(touches) | Message::Spare { entries: touches, .. } => touches.iter().map(|touch| &touch.key).collect(),
        Message::Fetch { key, .. } | Message::Swap { key, .. } => vec![key],
        Message::Fetched { answer: Found::Entry(entry), .. } => vec![&entry.key],
        Message::Chunk(chunk) => chunk.entries.iter().map(|entry| &entry.key).collect(),
        Message::Offer { entries, .. } => entries.iter().map(|offered| &offered.key).collect(),
        Message::Want { keys, .. } => keys.iter().collect(),
        Message::Reap { entries, .. } => entries.iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    };
    keys.into_iter().map(|key| name(key)).collect()
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
