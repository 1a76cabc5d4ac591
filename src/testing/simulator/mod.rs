//! A whole group in one thread, on a virtual clock and a seeded network.
//!
//! Each node has a real [`Stack`](crate::stack::Stack) and a real [`Roster`](crate::membership::roster::Roster); what they send
//! is really encoded and decoded. Only sockets, threads and clocks are simulated, so a run depends on nothing but its seed, and
//! a minute of it takes milliseconds. While it runs, the simulator checks what a stack [promises](Promise).
//!
//! Tests send and look at what arrived from outside, or give nodes an [`Application`] that sends, answers and has timers.
//!
//! ```
//! use std::time::Duration;
//! use tribes::SendOptions;
//! use tribes::interceptors::TcpFailureDetector;
//! use tribes::stack::StackBuilder;
//! use tribes::testing::simulator::{SimConfig, Simulator};
//!
//! for seed in Simulator::seeds(3) {
//!     let mut sim = Simulator::new(seed, SimConfig::default().loss(0.1));
//!     let [a, b, c] = std::array::from_fn(|_| {
//!         sim.add_node(|| StackBuilder::new().push(TcpFailureDetector::default()))
//!     });
//!     assert!(sim.run_until(|sim| sim.has_converged(), Duration::from_secs(5)));
//!
//!     let sent = sim.send(a, [sim.member(b)], "hello", SendOptions::SYNC_ACK);
//!     sim.crash(c);
//!     assert!(sim.run_until(|sim| sim.has_converged(), Duration::from_secs(10)));
//!     assert!(sim.run_until(|sim| sim.outcome(sent).is_some(), Duration::from_secs(10)));
//!     assert!(sim.outcome(sent).is_some_and(|outcome| outcome.is_ok()));
//!     assert_eq!(sim.received(b)[0].message.bytes(), "hello");
//!     sim.assert_promises_kept();
//! }
//! ```

mod application;
mod clock;
mod config;
mod inbox;
mod ledger;
mod legs;
mod link;
mod process;
mod world;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::completion::{Receipt, SendError};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::membership::roster::RosterConfig;
use crate::options::SendOptions;
use crate::stack::{Event, StackBuilder, View};
use application::Make;
use clock::Clock;
use ledger::Ledger;
use process::{Birth, Process};
use world::{Arrival, Pid, World};

pub use application::{AppContext, Application};
pub use config::SimConfig;
pub use ledger::{Promise, Received, SendId, Violation};

/// A group of nodes on a virtual clock; see the [module](self).
///
/// Nothing happens by itself: [`step`](Self::step), [`run_for`](Self::run_for) and [`run_until`](Self::run_until) let time pass.
/// When a test panics while it owns a simulator, the seed is printed.
///
/// The simulated sender keeps a queue for each destination, resends what was not acknowledged twice, and gives up after 10 s. A
/// gate that blocks would block the simulation: give [`WhenFull::Fail`](crate::interceptors::WhenFull) to a `MessageDispatch`.
pub struct Simulator {
    seed: u64,
    world: World,
    ledger: Ledger,
    nodes: Vec<Node>,
    origin: Clock,
    roster: RosterConfig,
}

/// A node of a simulation. It keeps its address when it is restarted.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(usize);

struct Node {
    make: Box<dyn Fn() -> StackBuilder>,
    make_app: Option<Box<Make>>,
    member: Member,
    capabilities: Capabilities,
    clock: Clock,
    life: u32,
    process: Option<Process>,
    /// What has arrived at a paused node.
    paused: Option<VecDeque<Arrival>>,
    awake_since: Duration,
}

impl Simulator {
    /// An empty group.
    #[must_use]
    pub fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            seed,
            world: World::new(seed, config),
            ledger: Ledger::default(),
            nodes: Vec::new(),
            origin: Clock::new(crate::clock::now()),
            roster: RosterConfig::default(),
        }
    }

    /// The seeds that a test should run: so many, or as many as the environment variable `TRIBES_SEEDS` says, from 0 or from
    /// `TRIBES_SEED_BASE` on; or only the one in `TRIBES_SEED`.
    pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
        let number = |name| std::env::var(name).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let (first, count) = match number("TRIBES_SEED") {
            Some(only) => (only, 1),
            None => (number("TRIBES_SEED_BASE").unwrap_or(0), number("TRIBES_SEEDS").unwrap_or(count)),
        };
        first..first.saturating_add(count)
    }

    /// How the rosters of nodes that start from now on are configured.
    pub fn set_roster(&mut self, config: RosterConfig) {
        self.roster = config;
    }

    /// Adds a node and starts it. `make` makes its stack, now and at each restart.
    ///
    /// # Panics
    ///
    /// When the stack cannot be built.
    pub fn add_node(&mut self, make: impl Fn() -> StackBuilder + 'static) -> NodeId {
        self.add_node_like(Capabilities::ALL, make)
    }

    /// Adds a node that can do what `capabilities` say; with none it is as plain as a Tribes node.
    ///
    /// # Panics
    ///
    /// When the stack cannot be built.
    pub fn add_node_like(&mut self, capabilities: Capabilities, make: impl Fn() -> StackBuilder + 'static) -> NodeId {
        self.add(capabilities, Box::new(make), None)
    }

    fn add(&mut self, capabilities: Capabilities, make: Box<dyn Fn() -> StackBuilder>, make_app: Option<Box<Make>>) -> NodeId {
        let index = self.nodes.len();
        let port = 4000 + u16::try_from(index).expect("a simulation has fewer nodes than ports");
        let address = ([10, 0, 0, 1], port).into();
        self.ledger.add_node(address);
        self.nodes.push(Node {
            make,
            make_app,
            member: Member::new(address),
            capabilities,
            clock: self.origin,
            life: 0,
            process: None,
            paused: None,
            awake_since: self.world.now,
        });
        self.begin(index);
        NodeId(index)
    }

    /// Sends a message as [`GroupChannel::send_with`](crate::GroupChannel::send_with) does. On a node that does not run nothing
    /// is sent.
    pub fn send(
        &mut self,
        from: NodeId,
        to: impl IntoIterator<Item = Member>,
        body: impl Into<Bytes>,
        options: SendOptions,
    ) -> SendId {
        let (body, to): (Bytes, Vec<_>) = (body.into(), to.into_iter().collect());
        let pid = Pid { node: from.0, life: self.nodes[from.0].life };
        let (send, id, legs) = self.ledger.sent(&mut self.world, pid, to, body.clone(), options);
        if let Some(process) = &mut self.nodes[from.0].process {
            process.send(&mut self.world, &mut self.ledger, id, legs, body, options);
        } else {
            legs.into_iter().for_each(|leg| leg.fail(crate::FaultCause::Stopped));
        }
        self.look();
        send
    }

    /// Sends a message to all members that the node sees.
    pub fn send_all(&mut self, from: NodeId, body: impl Into<Bytes>, options: SendOptions) -> SendId {
        let to: Vec<_> = self.view(from).iter().cloned().collect();
        self.send(from, to, body, options)
    }

    /// Lets the next thing happen. There always is one while a node runs: its heartbeat.
    pub fn step(&mut self) -> bool {
        let due = |node: &Node| node.process.as_ref().filter(|_| node.paused.is_none()).and_then(Process::timeout);
        let timer = self.nodes.iter().enumerate().filter_map(|(index, node)| Some((due(node)?, index))).min();
        // What has arrived in time must not be found late, so packets come before timers.
        match (self.world.next(), timer) {
            (Some(arrives), timer) if timer.is_none_or(|(at, _)| arrives <= at) => {
                if let Some((to, arrival)) = self.world.arrive() {
                    self.arrive(to, arrival);
                }
            }
            (_, Some((at, index))) => {
                self.world.now = self.world.now.max(at);
                if let Some(process) = &mut self.nodes[index].process {
                    process.tick(&mut self.world, &mut self.ledger);
                }
            }
            (_, None) => return false,
        }
        self.look();
        true
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.next().is_some_and(|at| at <= end) && self.step() {}
        self.world.now = end;
        self.look();
    }

    /// Lets time pass until the condition holds; `false` if it does not within `bound`.
    pub fn run_until(&mut self, condition: impl Fn(&Self) -> bool, bound: Duration) -> bool {
        let end = self.world.now + bound;
        while !condition(self) {
            if self.next().is_none_or(|at| at > end) || !self.step() {
                return false;
            }
        }
        true
    }

    /// Kills a node: what it held is lost, and its operating system closes its connections.
    pub fn crash(&mut self, node: NodeId) {
        let node = &mut self.nodes[node.0];
        node.paused = None;
        if let Some(process) = node.process.take() {
            self.ledger.died(process.pid());
            self.world.close_all(process.pid());
        }
        self.look();
    }

    /// Stops a node: it sends what its application and its layers hold, as far as connections are open, and says goodbye.
    pub fn stop(&mut self, node: NodeId) {
        self.resume(node);
        if let Some(process) = self.nodes[node.0].process.take() {
            process.stop(&mut self.world, &mut self.ledger);
        }
        self.look();
    }

    /// Starts a node anew, with a new id under its old address. One that runs is killed before.
    pub fn restart(&mut self, node: NodeId) {
        self.crash(node);
        self.nodes[node.0].life += 1;
        self.begin(node.0);
    }

    /// Takes the processor away from a node. Its operating system still accepts connections and bytes.
    pub fn pause(&mut self, node: NodeId) {
        self.nodes[node.0].paused.get_or_insert_default();
    }

    /// Lets a paused node go on, with all that has arrived.
    pub fn resume(&mut self, node: NodeId) {
        let node = &mut self.nodes[node.0];
        let backlog = node.paused.take().unwrap_or_default();
        node.awake_since = self.world.now;
        for arrival in backlog {
            if let Some(process) = &mut node.process {
                process.arrive(&mut self.world, &mut self.ledger, arrival);
            }
        }
        self.look();
    }

    /// Nothing gets from one node to the other any more; the way back stays open.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        self.world.block(from.0, to.0);
    }

    /// Cuts the nodes in two parts that do not hear each other: these, and all others.
    pub fn partition(&mut self, part: &[NodeId]) {
        for other in (0..self.nodes.len()).filter(|other| !part.contains(&NodeId(*other))) {
            for node in part {
                self.world.block(node.0, other);
                self.world.block(other, node.0);
            }
        }
    }

    /// Opens all ways again.
    pub fn heal(&mut self) {
        self.world.heal();
    }

    /// Another behaviour of the network from now on.
    pub fn set_config(&mut self, config: SimConfig) {
        self.world.config = config;
    }

    /// Ends all faults: every way is open, paused nodes go on, the network is perfect. Nodes that are dead stay dead.
    pub fn calm(&mut self) {
        let settle_within = self.world.config.settle_within;
        self.world.config = SimConfig::default().settle_within(settle_within);
        self.heal();
        (0..self.nodes.len()).for_each(|node| self.resume(NodeId(node)));
    }

    /// Makes a node's clocks run too fast by so many parts per million, or too slow when negative, and sets its wall clock so many
    /// milliseconds ahead of virtual time, or behind it when negative. Called again, it makes the wall clock jump; the monotonic
    /// clock goes on from where it is. A node keeps its clocks when it is restarted.
    pub fn set_clock(&mut self, node: NodeId, drift: i32, ahead_millis: i64) {
        let node = &mut self.nodes[node.0];
        node.clock.set(self.world.now, drift, ahead_millis);
        if let Some(process) = &mut node.process {
            process.set_clock(node.clock);
        }
    }

    /// Makes the listeners of a node fail, or succeed again. An [`Application`] still gets the messages; what it answers does not
    /// matter meanwhile.
    pub fn reject_messages(&mut self, node: NodeId, reject: bool) {
        if let Some(process) = &mut self.nodes[node.0].process {
            process.rejects = reject;
        }
    }

    /// Changes the payload of a node's member and tells the group.
    pub fn set_payload(&mut self, node: NodeId, payload: impl Into<Bytes>) {
        let node = &mut self.nodes[node.0];
        node.member = node.member.with_payload(payload);
        if let Some(process) = &mut node.process {
            process.announce(&mut self.world, &self.ledger, node.member.clone());
        }
    }

    /// The member that a node is, or was when it ran last.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Member {
        self.nodes[node.0].member.clone()
    }

    /// The members that a node's application sees; none when it does not run.
    #[must_use]
    pub fn view(&self, node: NodeId) -> View {
        self.nodes[node.0].process.as_ref().map(|process| process.stack().view().clone()).unwrap_or_default()
    }

    /// Whether a node runs; paused or not.
    #[must_use]
    pub fn is_running(&self, node: NodeId) -> bool {
        self.nodes[node.0].process.is_some()
    }

    /// The nodes, dead or alive.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Whether every running node sees exactly the other running nodes, each as it is now.
    #[must_use]
    pub fn has_converged(&self) -> bool {
        let running = || self.nodes().filter(|node| self.is_running(*node));
        running().all(|node| {
            let view = self.view(node);
            let others = running().filter(|other| *other != node).map(|other| self.member(other)).collect::<Vec<_>>();
            view.len() == others.len() && others.iter().all(|other| view.iter().any(|seen| seen.same_value(other)))
        })
    }

    /// What became of a send; `None` while that is not known.
    #[must_use]
    pub fn outcome(&self, send: SendId) -> Option<&Result<Receipt, SendError>> {
        self.ledger.outcome(send)
    }

    /// How many sends have no outcome yet.
    #[must_use]
    pub fn open_sends(&self) -> usize {
        self.ledger.open()
    }

    /// What the application of a node received, in all its lives.
    #[must_use]
    pub fn received(&self, node: NodeId) -> &[Received] {
        self.ledger.received(node.0)
    }

    /// What the application of a node was told of the group, in all its lives, and when.
    #[must_use]
    pub fn events(&self, node: NodeId) -> &[(Duration, Event)] {
        self.ledger.events(node.0)
    }

    /// The virtual time since the simulation began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.world.now
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A seeded random number, for what a test decides at random.
    pub fn random(&mut self) -> u64 {
        self.world.random()
    }

    /// Everything that happened so far, folded into one number: the same for the same seed and calls.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world.trace
    }

    /// The promises that were broken so far; the first hundred.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        self.ledger.violations()
    }

    /// Panics when a promise was broken.
    ///
    /// # Panics
    ///
    /// When [`violations`](Self::violations) has any, naming them.
    pub fn assert_promises_kept(&self) {
        let all: Vec<_> = self.violations().iter().map(ToString::to_string).collect();
        assert!(all.is_empty(), "seed {}:\n{}", self.seed, all.join("\n"));
    }

    fn next(&self) -> Option<Duration> {
        let running = self.nodes.iter().filter(|node| node.paused.is_none()).filter_map(|node| node.process.as_ref());
        running.filter_map(Process::timeout).chain(self.world.next()).min().map(|at| at.max(self.world.now))
    }

    fn begin(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let pid = Pid { node: index, life: node.life };
        let (high, low) = (self.world.random(), self.world.random());
        node.member = node.member.with_id(UniqueId::from_random(node.capabilities, u128::from(high) << 64 | u128::from(low)));
        node.awake_since = self.world.now;
        self.ledger.born(pid);
        let (member, clock, builder) = (node.member.clone(), node.clock, (node.make)());
        let birth = Birth { pid, member, clock, builder, roster: &self.roster };
        let mut process = Process::start(&mut self.world, birth).expect("a stack that can be built");
        if let Some(make) = &node.make_app {
            process.host_app(&mut self.world, &mut self.ledger, make);
        }
        node.process = Some(process);
        self.look();
    }

    fn arrive(&mut self, to: Pid, arrival: Arrival) {
        let node = &mut self.nodes[to.node];
        let life = node.process.as_ref().map(|process| process.pid().life);
        if let Arrival::Knock { conn } = arrival {
            // The operating system answers for the process, paused or not.
            if let Some(life) = life {
                self.world.accept(conn, life);
            }
            return self.world.answer_knock(conn, life.is_some());
        }
        let Some(process) = &mut node.process else { return };
        if let Some(backlog) = &mut node.paused {
            backlog.push_back(arrival);
        } else if matches!(arrival, Arrival::Datagram { .. }) || Some(to.life) == life {
            process.arrive(&mut self.world, &mut self.ledger, arrival);
        }
    }

    fn look(&mut self) {
        let nodes = &self.nodes;
        let awake = |node: usize| nodes[node].paused.is_none().then_some(nodes[node].awake_since);
        self.ledger.look(&mut self.world, awake);
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("seed", &self.seed).field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation failed with seed {0} at {1:?}; to repeat it, set TRIBES_SEED={0}", self.seed, self.now());
        }
    }
}
