//! What a run is made of, from its seed: the configuration, the network's faults, and when what breaks.

use std::time::Duration;

use super::super::config::{Config, Copies};
use super::super::flaws::Flaws;
use super::chance::Chance;

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) config: Config,
    /// Addresses at which members may run.
    pub(super) nodes: usize,
    /// How many of them run at first.
    pub(super) first: usize,
    /// What each tells about itself.
    pub(super) payloads: Vec<String>,
    pub(super) net: Net,
    /// Each round is a time of faults and a calm, in which all must converge.
    pub(super) rounds: usize,
    pub(super) chaos: Duration,
    /// Faults come this far apart, on average; zero: none at all.
    pub(super) fault_gap: Duration,
    /// Members only come and go: the network is as it should be, and nobody stands still.
    pub(super) smooth: bool,
    pub(super) op_gap: Duration,
    pub(super) keys: u64,
    /// Most keys are in one slot.
    pub(super) crowded: bool,
    /// Some keys are hardly ever used.
    pub(super) skewed: bool,
    /// Requests for a key mostly come to the same member.
    pub(super) sticky: bool,
    /// Members may hold little.
    pub(super) capped: bool,
    /// Members stand still for longer than anybody waits for anything.
    pub(super) long: bool,
    /// The leases that clients give, in milliseconds.
    pub(super) leases: Vec<u64>,
}

/// How bad the network is while faults happen; rates in per mille.
#[derive(Clone, Debug, Default)]
pub(super) struct Net {
    pub(super) loss: u64,
    pub(super) ack_loss: u64,
    pub(super) duplicates: u64,
    pub(super) slow: u64,
    pub(super) late_acks: u64,
}

/// The longest that a message may be under way in a calm, and with faults, in milliseconds.
pub(super) const CALM_DELAY: u64 = 10;
pub(super) const SLOW_DELAY: u64 = 2500;
/// The longest until a member that is gone is not shown any more, or one that is back is.
pub(super) const GONE_LAG: u64 = 4000;
pub(super) const BACK_LAG: u64 = 2000;
/// After which a send without an answer is given up: as a rule, and sometimes.
pub(super) const SEND_TIMEOUT: u64 = 1500;
pub(super) const LONG_SEND_TIMEOUT: u64 = 8000;

impl Plan {
    pub(super) fn of(seed: u64, flaws: Flaws) -> Self {
        let mut chance = Chance::new(seed ^ 0x91a7);
        let nodes = 2 + chance.index(8);
        let millis = Duration::from_millis;
        let copies = match chance.below(8) {
            0 => Copies::Backups(0),
            1..=3 => Copies::Backups(1),
            4..=5 => Copies::Backups(2),
            _ => Copies::Everywhere,
        };
        let zones = chance.percent(30);
        let weights = chance.percent(30);
        let payloads = (0..nodes)
            .map(|node| {
                let zone = if zones { format!("zone={} ", node % 2) } else { String::new() };
                let weight = if weights { format!("weight={}", 1 + chance.below(4)) } else { String::new() };
                zone + &weight
            })
            .collect();
        let rough = |chance: &mut Chance, most: u64| if chance.percent(60) { chance.below(most) } else { 0 };
        let net = Net {
            loss: rough(&mut chance, 200),
            ack_loss: rough(&mut chance, 100),
            duplicates: rough(&mut chance, 100),
            slow: rough(&mut chance, 50),
            late_acks: rough(&mut chance, 100),
        };
        let leases = if chance.percent(50) { vec![0] } else { vec![4_000, 8_000, 15_000, 30_000, 60_000, 0] };
        let config = Config {
            context: 7,
            copies,
            lease: millis(*chance.pick(&leases)),
            commit_timeout: millis(1000 + chance.below(4000)),
            hedge_after: millis(50 + chance.below(500)),
            fetch_timeout: millis(1000 + chance.below(2000)),
            fetch_retry: millis(100 + chance.below(400)),
            transfer_timeout: millis(10_000 + chance.below(10_000)),
            pull_timeout: millis(300 + chance.below(1000)),
            chunk_bytes: *chance.pick(&[200, 1000, 4000, 256 * 1024]),
            chunk_window: 1 + chance.index(4),
            repair_interval: millis(1000 + chance.below(3000)),
            expiry_interval: millis(1000 + chance.below(3000)),
            tombstone_life: Duration::from_secs(3600),
            flaws,
            ..Config::default()
        };
        let fault_gap = if chance.percent(10) { Duration::ZERO } else { millis(300 + chance.below(4000)) };
        let mut plan = Self {
            config,
            nodes,
            first: 1 + chance.index(nodes),
            payloads,
            net,
            rounds: 1 + chance.index(3),
            chaos: millis(5_000 + chance.below(25_000)),
            fault_gap,
            smooth: false,
            op_gap: millis(10 + chance.below(150)),
            keys: 2 + chance.below(12),
            leases,
            crowded: chance.percent(50),
            skewed: chance.percent(50),
            sticky: chance.percent(40),
            capped: chance.percent(20),
            long: chance.percent(10),
        };
        // By a chance of its own: other histories are what they were before there were stores.
        plan.config.keeping = super::stores::keeping(&mut Chance::new(seed ^ 0x5709e));
        if plan.capped {
            plan.config.max_entries = 5 + chance.index(36);
            plan.config.max_bytes = 4096 + chance.index(60 * 1024);
        }
        if plan.long {
            (plan.rounds, plan.chaos, plan.op_gap) = (1, millis(50_000 + chance.below(40_000)), plan.op_gap * 2);
        }
        plan.smooth = chance.percent(15);
        if plan.smooth {
            plan.net = Net::default();
        }
        plan
    }
}
