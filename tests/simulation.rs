//! What the stock stack promises, over some hundred random histories of a group: see [`history`].
//!
//! A failure prints its seed; `TRIBES_SEED=n cargo test --test simulation` repeats it, `TRIBES_SEEDS=10000` looks further.

use std::time::Duration;

use tribes::interceptors::{MessageDispatch, TcpFailureDetector, WhenFull};
use tribes::stack::StackBuilder;
use tribes::testing::simulator::{NodeId, SimConfig, Simulator};
use tribes::{Capabilities, SendOptions};

const SEEDS: u64 = 200;
/// How long a group may take to agree once nothing disturbs it any more: drop time, probes of the dead, the longest retry.
const AGREED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn promises_are_kept_in_every_history() {
    for seed in Simulator::seeds(SEEDS) {
        history(seed);
    }
}

#[test]
fn a_history_repeats() {
    for seed in Simulator::seeds(5) {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
}

/// A group lives through faults of every kind while all send to all; then it is left in peace and must agree on who is there.
/// The simulator checks the promises as it goes. Returns the trace.
fn history(seed: u64) -> u64 {
    let mut sim = Simulator::new(seed, SimConfig::default());
    let count = 3 + below(&mut sim, 3);
    for _ in 0..count {
        sim.add_node(stack);
    }
    let steps = 50 + below(&mut sim, 150);
    for _ in 0..steps {
        disturb(&mut sim);
        for _ in 0..below(&mut sim, 4) {
            send(&mut sim);
        }
        let pause = 1 + sim.random() % 300;
        sim.run_for(Duration::from_millis(pause));
    }
    sim.calm();
    let agreed = sim.run_until(|sim| sim.has_converged(), AGREED_WITHIN);
    assert!(agreed, "seed {seed}: the views differ {AGREED_WITHIN:?} after the last fault");
    sim.run_for(AGREED_WITHIN);
    assert!(sim.has_converged(), "seed {seed}: a view changed without a reason");
    assert_eq!(sim.open_sends(), 0, "seed {seed}: sends without an outcome");
    sim.assert_promises_kept();
    sim.trace()
}

fn stack() -> StackBuilder {
    let dispatch = MessageDispatch::default().max_queue_messages(20).max_queue_bytes(10_000).when_full(WhenFull::Fail);
    StackBuilder::new().push(dispatch).push(TcpFailureDetector::default())
}

/// Does one thing out of the ordinary, or none.
fn disturb(sim: &mut Simulator) {
    let (node, other) = (any(sim), any(sim));
    match below(sim, 40) {
        0 => sim.crash(node),
        1 | 2 => sim.restart(node),
        3 => sim.stop(node),
        4 => sim.pause(node),
        5 | 6 => sim.resume(node),
        7 => sim.partition(&[node]),
        8 => sim.partition(&[node, other]),
        9 | 10 => sim.block(node, other),
        11..=14 => sim.heal(),
        15 => {
            let drift = i32::try_from(below(sim, 100_000)).expect("small") - 50_000;
            sim.set_clock(node, drift, 3_600_000);
        }
        16 => {
            let payload = sim.random().to_be_bytes();
            sim.set_payload(node, payload.to_vec());
        }
        17 => {
            let reject = below(sim, 2) == 0;
            sim.reject_messages(node, reject);
        }
        18..=20 => {
            let mut share = || f64::from(u32::try_from(below(sim, 100)).expect("small")) / 250.0;
            let config = SimConfig::default().loss(share()).duplicates(share()).stalls(share()).breaks(share());
            sim.set_config(config);
        }
        _ => {}
    }
}

fn send(sim: &mut Simulator) {
    let options = [0, 2, 6, 8, 10, 14][below(sim, 6)];
    let size = [0, 1, 100, 5_000][below(sim, 4)];
    let (from, body) = (any(sim), vec![u8::try_from(below(sim, 256)).expect("a byte"); size]);
    if below(sim, 3) == 0 {
        sim.send_all(from, body, SendOptions::from_bits(options));
    } else {
        let mut to = vec![any(sim), any(sim)];
        to.dedup();
        to.retain(|node| *node != from);
        let to: Vec<_> = to.into_iter().map(|node| sim.member(node)).collect();
        sim.send(from, to, body, SendOptions::from_bits(options));
    }
}

fn any(sim: &mut Simulator) -> NodeId {
    let count = sim.nodes().count();
    let at = below(sim, count);
    sim.nodes().nth(at).expect("below the count")
}

fn below(sim: &mut Simulator, bound: usize) -> usize {
    usize::try_from(sim.random() % u64::try_from(bound).expect("small")).expect("small")
}

#[test]
fn plain_tribes_nodes_and_ours_agree_in_one_group() {
    for seed in Simulator::seeds(20) {
        let mut sim = Simulator::new(seed, SimConfig::default().loss(0.1).stalls(0.05));
        let ours = sim.add_node(stack);
        let theirs = sim.add_node_like(Capabilities::NONE, stack);
        assert!(sim.run_until(|sim| sim.has_converged(), AGREED_WITHIN), "seed {seed}");
        for (from, to) in [(ours, theirs), (theirs, ours)] {
            for count in 0..50 {
                sim.send(from, [sim.member(to)], vec![count; 10], SendOptions::SYNC_ACK);
            }
            assert!(sim.run_until(|sim| sim.received(to).len() == 50, AGREED_WITHIN), "seed {seed}");
        }
        sim.assert_promises_kept();
    }
}
