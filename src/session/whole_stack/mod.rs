//! Sessions over the whole stack, in seeded histories: real interceptors, a real roster and real bytes on a simulated network, with an
//! engine on each node. The engine's own simulation ([`engine::simulation`](super::engine)) is harsher on the engine; this one shows
//! that the parts fit.
//!
//! ```text
//! cargo test --lib session::whole_stack                                     some dozen histories
//! TRIBES_SEEDS=10000 cargo test --release --lib session::whole_stack        many
//! TRIBES_SEED=17 cargo test --lib session::whole_stack                      one again
//! ```

mod ledger;
mod node;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use self::ledger::Ledger;
use self::node::{Node, Request};
use super::engine::{Config, Copies, Engine, Phase, Version, Want, convergence_bound};
use crate::interceptors::{MessageDispatch, TcpFailureDetector, WhenFull};
use crate::stack::StackBuilder;
use crate::testing::simulator::{NodeId, SimConfig, Simulator};

const SEEDS: u64 = if cfg!(debug_assertions) { 6 } else { 100 };
const KEYS: u64 = 24;
const NAMES: [&str; 3] = ["cart", "name", "page"];

/// What must have happened somewhere in the histories, so that they prove anything.
#[derive(Debug, Default)]
struct Coverage {
    confirmed: u64,
    unconfirmed: u64,
    removed: u64,
    renamed: u64,
    swapped: u64,
    swap_conflicts: u64,
    fetched: u64,
    repaired: u64,
    conflicts: u64,
    handed_over: u64,
    late: u64,
    bases_missing: u64,
    expired: u64,
    crashes: u64,
    restarts: u64,
    pauses: u64,
    partitions: u64,
    one_way: u64,
    drained: u64,
}

#[test]
fn sessions_survive_every_history() {
    let mut coverage = Coverage::default();
    let mut count = 0;
    for seed in Simulator::seeds(SEEDS) {
        history(seed, &mut coverage);
        count += 1;
    }
    println!("{count} histories: {coverage:?}");
    if count >= 100 {
        let Coverage { confirmed, unconfirmed, removed, renamed, swapped, swap_conflicts, fetched, repaired, .. } = coverage;
        let Coverage {
            conflicts,
            handed_over,
            late,
            bases_missing,
            expired,
            crashes,
            restarts,
            pauses,
            partitions,
            one_way,
            drained,
            ..
        } = coverage;
        let happened = [confirmed, unconfirmed, removed, renamed, swapped, swap_conflicts, fetched, repaired];
        let faults =
            [conflicts, handed_over, late, bases_missing, expired, crashes, restarts, pauses, partitions, one_way, drained];
        assert!(happened.into_iter().chain(faults).all(|times| times > 0), "{coverage:?}");
    }
}

#[test]
fn a_history_repeats() {
    for seed in Simulator::seeds(if cfg!(debug_assertions) { 1 } else { 2 }) {
        let run = || history(seed, &mut Coverage::default());
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// A group in trouble, while sessions are written and read; then it is left in peace, and must agree on what was promised.
fn history(seed: u64, coverage: &mut Coverage) -> u64 {
    let mut run = Run::new(seed);
    let steps = 60 + run.below(100);
    for _ in 0..steps {
        run.disturb(coverage);
        for _ in 0..run.below(5) {
            run.work(coverage);
        }
        let pause = 1 + run.below(400);
        run.sim.run_for(Duration::from_millis(pause));
        run.collect(coverage);
    }
    run.sim.calm();
    run.ledger.closed = true;
    run.settles_within(convergence_bound(&run.config, run.nodes.len()) + Duration::from_secs(20));
    run.check(coverage);
    run.sim.run_for(Duration::from_secs(15));
    // Nobody writes, but leases run out: an access that its owner had not heard of is told in the very moment in which it asks, and the
    // other holders get to know of it when they compare.
    run.settles_within(run.config.repair_interval * 2);
    run.check(coverage);
    run.check_answers();
    for node in run.alive() {
        let counters = run.sim.app::<Node>(node).map(|app| app.engine.counters()).unwrap_or_default();
        coverage.repaired += counters.repaired;
        coverage.conflicts += counters.conflicts;
        coverage.handed_over += counters.handed_over;
        coverage.late += counters.late;
        coverage.bases_missing += counters.bases_missing;
        coverage.expired += counters.expired;
    }
    run.sim.trace()
}

struct Run {
    sim: Simulator,
    nodes: Vec<NodeId>,
    config: Config,
    ledger: Ledger,
    paused: Vec<NodeId>,
    /// Nodes that are handing over, to be stopped when they have.
    leaving: Vec<NodeId>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut sim = Simulator::new(seed, SimConfig::default());
        let copies = match sim.random() % 5 {
            0 => Copies::Everywhere,
            1 => Copies::Backups(0),
            2 => Copies::Backups(2),
            _ => Copies::Backups(1),
        };
        let config = Config {
            copies,
            lease: Duration::from_secs(7200),
            commit_timeout: Duration::from_secs(5),
            repair_interval: Duration::from_secs(2),
            expiry_interval: Duration::from_secs(5),
            pull_timeout: Duration::from_secs(1),
            chunk_bytes: 500,
            chunk_window: 2,
            ..Config::default()
        };
        let count = 2 + sim.random() % 8;
        let nodes = (0..count)
            .map(|_| {
                let config = config.clone();
                sim.add_application_node(stack, move |cx| Node::new(config.clone(), cx))
            })
            .collect();
        Self { sim, nodes, config, ledger: Ledger::default(), paused: Vec::new(), leaving: Vec::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.sim.random() % bound
    }

    fn alive(&self) -> Vec<NodeId> {
        self.nodes.iter().copied().filter(|node| self.sim.is_running(*node)).collect()
    }

    fn any_node(&mut self) -> NodeId {
        let at = self.below(self.nodes.len() as u64) as usize;
        self.nodes[at]
    }

    fn disturb(&mut self, coverage: &mut Coverage) {
        let node = self.any_node();
        match self.below(60) {
            0 if self.alive().len() > 1 && self.sim.is_running(node) => {
                coverage.crashes += 1;
                self.sim.crash(node);
                self.ledger.ended(node);
                self.paused.retain(|paused| *paused != node);
                self.leaving.retain(|leaving| *leaving != node);
            }
            1..=3 if !self.sim.is_running(node) => {
                coverage.restarts += 1;
                self.sim.restart(node);
            }
            4 => {
                coverage.pauses += 1;
                self.sim.pause(node);
                self.paused.push(node);
            }
            5..=8 => {
                for paused in std::mem::take(&mut self.paused) {
                    self.sim.resume(paused);
                }
            }
            9 => {
                coverage.partitions += 1;
                let size = 1 + self.below(self.nodes.len() as u64 - 1) as usize;
                let part: Vec<_> = self.nodes.iter().copied().take(size).collect();
                self.sim.partition(&part);
            }
            10 => {
                coverage.one_way += 1;
                let other = self.any_node();
                self.sim.block(node, other);
            }
            11..=14 => self.sim.heal(),
            15 => {
                let share = [0.0, 0.05, 0.2][self.below(3) as usize];
                let rough = SimConfig::default().loss(share).duplicates(share).stalls(share / 2.0).breaks(share / 10.0);
                self.sim.set_config(rough);
            }
            16 => {
                let ahead = self.below(600_000) as i64 - 300_000;
                self.sim.set_clock(node, 0, ahead);
            }
            17 if self.alive().len() > 2
                && self.leaving.is_empty()
                && self.sim.with_app::<Node, _>(node, |app, cx| app.drain(cx)).is_some() =>
            {
                self.leaving.push(node);
            }
            _ => {}
        }
        for node in std::mem::take(&mut self.leaving) {
            match self.sim.app::<Node>(node) {
                Some(app) if app.drained && !self.paused.contains(&node) => {
                    coverage.drained += 1;
                    self.sim.stop(node);
                    self.ledger.ended(node);
                }
                Some(_) => self.leaving.push(node),
                None => {}
            }
        }
    }

    /// One request of one client.
    fn work(&mut self, coverage: &mut Coverage) {
        let node = self.any_node();
        if self.leaving.contains(&node) {
            return;
        }
        let number = self.below(KEYS);
        let request = Request {
            number,
            key: self.ledger.current(number),
            name: NAMES[self.below(3) as usize],
            value: Bytes::from(self.sim.random().to_be_bytes().to_vec()),
            want: match self.below(3) {
                0 => Want::None,
                1 => Want::All,
                _ => Want::Copies(1),
            },
            lease: Duration::from_secs(if self.below(4) == 0 { 6 + self.below(10) } else { 7200 }),
            fresh: self.sim.random(),
            action: self.below(40),
        };
        let ledger = &mut self.ledger;
        self.sim.with_app::<Node, _>(node, |app, cx| app.request(cx, ledger, coverage, node, request));
    }

    /// Takes the answers that have come, and looks whether everybody has what it must have.
    fn collect(&mut self, coverage: &mut Coverage) {
        let alive = self.alive();
        for node in &alive {
            if let Some(app) = self.sim.app::<Node>(*node) {
                self.ledger.meets(app.engine.local().id(), *node);
            }
        }
        let ledger = &mut self.ledger;
        for node in &alive {
            self.sim.with_app::<Node, _>(*node, |app, _| app.hands_over(ledger, *node));
        }
        // What was read is compared with what others have: it must be known who that is now.
        self.ledger.check(self.sim.seed(), &engines(&self.sim, &alive));
        let ledger = &mut self.ledger;
        for node in &alive {
            self.sim.with_app::<Node, _>(*node, |app, cx| app.answers(cx, ledger, coverage, *node));
        }
        for node in &alive {
            self.sim.with_app::<Node, _>(*node, |app, _| app.hands_over(ledger, *node));
        }
        let engines = engines(&self.sim, &alive);
        self.ledger.check(self.sim.seed(), &engines);
    }

    fn has_converged(&self) -> bool {
        let alive = self.alive();
        self.sim.has_converged() && {
            let engines: Vec<_> = alive.iter().filter_map(|node| self.sim.app::<Node>(*node)).map(|app| &app.engine).collect();
            match &engines[..] {
                // It is handing over, and nobody is left to take what it holds: it keeps that.
                [only] if only.phase() == Phase::Leaving => true,
                _ => super::engine::agree(&engines).is_ok(),
            }
        }
    }

    /// Lets time pass until all are equal, but no more than this.
    fn settles_within(&mut self, bound: Duration) {
        let mut waited = Duration::ZERO;
        while waited < bound && !self.has_converged() {
            self.sim.run_for(Duration::from_millis(500));
            waited += Duration::from_millis(500);
        }
    }

    /// All is well again.
    fn check(&mut self, coverage: &mut Coverage) {
        self.collect(coverage);
        let seed = self.sim.seed();
        assert!(self.has_converged(), "seed {seed}: the replicas differ after the bound: {:?}", self.difference());
        let alive = self.alive();
        self.ledger.check_end(seed, &engines(&self.sim, &alive));
    }

    /// Nobody waits for anything any more.
    fn check_answers(&self) {
        for (node, app) in self.alive().into_iter().filter_map(|node| Some((node, self.sim.app::<Node>(node)?))) {
            let seed = self.sim.seed();
            assert!(app.expected.is_empty(), "seed {seed}: {node:?} has tickets without an answer: {:?}", app.expected);
        }
    }

    fn difference(&self) -> Result<(), String> {
        super::engine::agree(&engines(&self.sim, &self.alive()).into_values().collect::<Vec<_>>())
    }
}

fn engines<'a>(sim: &'a Simulator, nodes: &[NodeId]) -> BTreeMap<NodeId, &'a Engine> {
    nodes.iter().filter_map(|node| Some((*node, &sim.app::<Node>(*node)?.engine))).collect()
}

fn stack() -> StackBuilder {
    let dispatch = MessageDispatch::default().max_queue_messages(500).max_queue_bytes(1_000_000).when_full(WhenFull::Fail);
    StackBuilder::new().push(dispatch).push(TcpFailureDetector::default())
}
