//! A few engines that hear each other at once: for tests of one behaviour. The simulation has a real network.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::change::{Change, Refusal};
use super::commit::{Commit, CommitFault, Committed};
use super::config::Config;
use super::fetch::{FetchFault, Get};
use super::message::{Phase, Want};
use super::record::Record;
use super::{Engine, Event, Loaded, Names, Outcome, Output, Stored, Ticket, Token};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::stack::Time;
use std::sync::Arc;

/// A group of engines, a clock, and what is on its way between them.
pub(crate) struct Group {
    pub(crate) now: Duration,
    origin: Instant,
    pub(crate) nodes: Vec<Node>,
    /// What has been sent and not yet handed over.
    pub(crate) wire: VecDeque<Packet>,
    /// Messages handed over so far.
    pub(crate) handed: usize,
    next_id: u128,
    /// How long members look around.
    pub(crate) discovery: Duration,
    /// Whether a new member sees all others from the beginning.
    pub(crate) shown_at_once: bool,
}

type Fetched = Result<Option<Arc<Record>>, FetchFault>;

pub(crate) struct Node {
    pub(crate) member: Member,
    /// `None` once it has crashed.
    pub(crate) engine: Option<Engine>,
    pub(crate) committed: Vec<(Ticket, Result<Committed, CommitFault>)>,
    pub(crate) fetched: Vec<(Ticket, Fetched)>,
    pub(crate) swapped: Vec<(Ticket, Result<Committed, super::SwapFault>)>,
    pub(crate) events: Vec<Event>,
    /// Members that keep another number of copies.
    pub(crate) differing: Vec<Member>,
    pub(crate) drained: bool,
    pub(crate) store: HashMap<Vec<u8>, Bytes>,
    /// The store cannot be read.
    pub(crate) store_fails: bool,
    /// Nothing gets to it, and its senders are told that it failed.
    pub(crate) deaf: bool,
}

/// What a store has.
fn load(store: &HashMap<Vec<u8>, Bytes>, key: &[u8]) -> Loaded {
    let stored = store.get(key).and_then(|bytes| Stored::decode(&mut Names::default(), key, bytes));
    stored.map_or(Loaded::Missing, Loaded::Found)
}

pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// What the sender calls the receiver: its placeholder, perhaps.
    pub(crate) name: Member,
    pub(crate) token: Option<Token>,
    pub(crate) body: Bytes,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            origin: crate::clock::now(),
            nodes: Vec::new(),
            wire: VecDeque::new(),
            handed: 0,
            next_id: 1,
            discovery: Duration::from_millis(1),
            shown_at_once: true,
        }
    }

    /// So many members with this configuration, all of them ready.
    pub(crate) fn ready(count: usize, config: &Config) -> Self {
        let mut group = Self::new();
        (0..count).for_each(|_| _ = group.join(config.clone()));
        group.run_for(Duration::from_secs(1));
        for node in 0..count {
            assert_eq!(group.engine(node).phase(), Phase::Ready, "member {node} is ready");
        }
        group
    }

    pub(crate) fn time(&self) -> Time {
        Time {
            instant: self.origin + self.now,
            epoch_millis: 1_790_000_000_000 + u64::try_from(self.now.as_millis()).expect("a test is short"),
        }
    }

    /// A member more, which everybody sees at once.
    pub(crate) fn join(&mut self, config: Config) -> usize {
        let number = u16::try_from(self.nodes.len()).expect("few members");
        self.join_as(config, ([10, 0, 0, 1], 4000 + number).into(), "")
    }

    pub(crate) fn join_as(&mut self, config: Config, address: std::net::SocketAddr, payload: &'static str) -> usize {
        self.next_id += 1;
        let id = UniqueId::from_random(Capabilities::ALL, self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834));
        let member = Member::new(address).with_id(id).with_payload(payload);
        let config = Config { discovery: self.discovery, ..config };
        let engine = Engine::new(config, member.clone(), self.time());
        self.nodes.push(Node {
            member,
            engine: Some(engine),
            committed: Vec::new(),
            fetched: Vec::new(),
            swapped: Vec::new(),
            events: Vec::new(),
            differing: Vec::new(),
            drained: false,
            store: HashMap::new(),
            store_fails: false,
            deaf: false,
        });
        let node = self.nodes.len() - 1;
        if self.shown_at_once {
            (0..node).for_each(|other| self.show(node, other));
        }
        self.collect();
        node
    }

    /// Two members are shown to each other, if both run.
    pub(crate) fn show(&mut self, one: usize, other: usize) {
        let time = self.time();
        let members = [one, other].map(|node| self.nodes[node].member.clone());
        if [one, other].iter().all(|node| self.nodes[*node].engine.is_some()) {
            self.with(one, |engine, _| engine.member_added(time, &members[1]));
            self.with(other, |engine, _| engine.member_added(time, &members[0]));
        }
    }

    /// A member dies, and everybody sees it at once.
    pub(crate) fn crash(&mut self, node: usize) {
        self.nodes[node].engine = None;
        let member = self.nodes[node].member.clone();
        let time = self.time();
        self.nodes.iter_mut().filter_map(|node| node.engine.as_mut()).for_each(|engine| engine.member_removed(time, &member));
        self.collect();
    }

    pub(crate) fn engine(&self, node: usize) -> &Engine {
        self.nodes[node].engine.as_ref().expect("this member runs")
    }

    /// Does something with an engine, and takes what it wants sent.
    pub(crate) fn with<R>(&mut self, node: usize, act: impl FnOnce(&mut Engine, Time) -> R) -> R {
        let time = self.time();
        let result = act(self.nodes[node].engine.as_mut().expect("this member runs"), time);
        self.collect();
        result
    }

    pub(crate) fn commit(&mut self, node: usize, key: &[u8], change: Change, want: Want) -> Result<Commit, Refusal> {
        if self.with(node, |engine, now| engine.must_load(now, key, &change)) {
            let loaded = load(&self.nodes[node].store, key);
            self.with(node, |engine, now| engine.loaded(now, key, &loaded));
        }
        self.with(node, |engine, now| engine.commit(now, key, change, want)).map_err(Refusal::from)
    }

    /// A new entry with one attribute.
    pub(crate) fn create(&mut self, node: usize, key: &[u8], name: &str, value: &'static str) {
        let change = Change::Create { lease: Duration::from_secs(1800), attributes: vec![(name.into(), Some(value.into()))] };
        self.commit(node, key, change, Want::None).expect("the key is free");
    }

    /// Changes one attribute of an entry that is here.
    pub(crate) fn set(&mut self, node: usize, key: &[u8], name: &str, value: &'static str) {
        let read = Arc::clone(self.engine(node).peek(key).expect("the entry is here"));
        let change = Change::Update { read, lease: None, attributes: vec![(name.into(), Some(value.into()))] };
        self.commit(node, key, change, Want::None).expect("the entry can be changed");
    }

    pub(crate) fn get(&mut self, node: usize, key: &[u8]) -> Get {
        self.with(node, |engine, now| engine.get(now, key))
    }

    /// The value that a member holds.
    pub(crate) fn value(&self, node: usize, key: &[u8], name: &str) -> Option<Bytes> {
        self.engine(node).peek(key)?.value(name).cloned()
    }

    /// Lets a member that has just joined look around; nothing is handed over yet.
    pub(crate) fn begin(&mut self, node: usize) {
        self.now += Duration::from_millis(2);
        self.with(node, |engine, now| engine.timeout(now));
    }

    /// Hands over everything that is on its way, and what that leads to.
    pub(crate) fn settle(&mut self) {
        let before = self.handed;
        while let Some(packet) = self.wire.pop_front() {
            let body = packet.body.clone();
            self.hand_over(packet);
            assert!(self.handed - before < 100_000, "they talk without end, at last of {body:?}");
        }
    }

    pub(crate) fn hand_over(&mut self, packet: Packet) {
        let Packet { from, to, name, token, body } = packet;
        let time = self.time();
        let sender = self.nodes[from].member.clone();
        let receiver = &mut self.nodes[to];
        let heard = receiver.engine.as_mut().filter(|_| !receiver.deaf);
        let outcome = match heard.map(|engine| engine.receive(time, &sender, &body)) {
            Some(true) => Outcome::Accepted,
            Some(false) => Outcome::Rejected,
            None => Outcome::Failed,
        };
        self.handed += 1;
        if let (Some(token), Some(engine)) = (token, self.nodes[from].engine.as_mut()) {
            engine.sent(time, token, &name, outcome);
        }
        self.collect();
    }

    /// Lets time pass, with everything that falls due.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        for turn in 0.. {
            self.settle();
            assert!(turn < 100_000, "timers are due without end at {:?}", self.now);
            let due = self.nodes.iter().filter_map(|node| node.engine.as_ref()?.poll_timeout()).min();
            let Some(due) = due.map(|at| at.saturating_duration_since(self.origin)).filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            let time = self.time();
            for node in &mut self.nodes {
                if let Some(engine) =
                    node.engine.as_mut().filter(|engine| engine.poll_timeout().is_some_and(|at| at <= time.instant))
                {
                    engine.timeout(time);
                }
            }
            self.collect();
        }
        self.now = end;
    }

    /// Whether all members that hold a slot hold the same in it, and nobody else holds anything of it.
    pub(crate) fn agrees(&self) -> bool {
        let alive: Vec<_> = self.nodes.iter().filter_map(|node| node.engine.as_ref()).collect();
        super::agree(&alive).is_ok()
    }

    fn collect(&mut self) {
        let (members, time): (Vec<_>, _) = (self.nodes.iter().map(|node| node.member.clone()).collect(), self.time());
        for (from, node) in self.nodes.iter_mut().enumerate() {
            let Some(engine) = node.engine.as_mut() else { continue };
            while let Some(output) = engine.poll_output() {
                match output {
                    Output::Send(send) => {
                        for member in send.to.iter() {
                            let behind = |known: &Member| member.is_placeholder() && known.address() == member.address();
                            let to = members.iter().position(|known| known == member || behind(known));
                            let (to, name) = (to.expect("messages go to members"), member.clone());
                            self.wire.push_back(Packet { from, to, name, token: send.token, body: send.body.clone() });
                        }
                    }
                    Output::Committed(ticket, result) => node.committed.push((ticket, result)),
                    Output::Fetched(ticket, result) => node.fetched.push((ticket, result)),
                    Output::Swapped(ticket, result) => node.swapped.push((ticket, result)),
                    Output::Event(event) => node.events.push(event),
                    Output::Drained => node.drained = true,
                    Output::Ready => {}
                    Output::CopiesDiffer(member) => node.differing.push(member),
                    Output::Save(savings) => {
                        let done = savings.iter().map(|saving| {
                            node.store.insert(saving.stored.key().to_vec(), saving.stored.encode());
                            true
                        });
                        let done: Vec<_> = done.collect();
                        engine.saved(time, savings.into_iter().zip(done).collect());
                    }
                    Output::Load(keys) => keys.iter().for_each(|key| {
                        let loaded = if node.store_fails { Loaded::Failed } else { load(&node.store, key) };
                        engine.loaded(time, key, &loaded);
                    }),
                    Output::Forget(key) => _ = node.store.remove(&*key),
                }
            }
        }
    }
}
