//! Members killed, and members drained, while all of them are writing.

use crate::ledger::Ledger;
use crate::node::{Group, Node};

/// Threads that write, in each member.
const THREADS: usize = 8;
/// Sessions at most: each member reads them all after each kill.
const SESSIONS: usize = 400;

#[test]
fn no_confirmed_session_is_lost_when_members_are_killed_under_load() {
    let kills = std::env::var("TRIBES_KILLS").map_or(8, |kills| kills.parse().expect("TRIBES_KILLS is a number"));
    kill_under_load(&Group::new("backup1"), kills);
}

#[test]
fn no_confirmed_session_of_a_delta_manager_is_lost_when_members_are_killed_under_load() {
    let kills = std::env::var("TRIBES_KILLS").map_or(4, |kills| kills.parse::<usize>().expect("TRIBES_KILLS is a number") / 4);
    kill_under_load(&Group::new("delta"), kills);
}

fn kill_under_load(group: &Group, kills: usize) {
    let seed = std::env::var("TRIBES_SEED").map_or_else(|_| random_seed(), |seed| seed.parse().expect("TRIBES_SEED is a number"));
    eprintln!("{}: TRIBES_SEED={seed}", group.manager);
    let mut dice = Dice(seed);
    let ledger = &group.ledger;
    let mut nodes = group.start_all(3);
    nodes.iter().for_each(|node| start_load(node, ledger));
    for kill in 1..=kills {
        let all: Vec<_> = nodes.iter().collect();
        ledger.wait_for_commits(&all, dice.up_to(60));
        let victim = nodes.remove(dice.up_to(3) as usize - 1);
        let number = victim.number;
        victim.kill();
        let confirmed = ledger.confirmed();
        for survivor in &nodes {
            ledger.verify(survivor, &confirmed);
        }
        let all: Vec<_> = nodes.iter().collect();
        ledger.wait_for_commits(&all, dice.up_to(60));
        nodes.push(group.start(number));
        if dice.up_to(4) == 1 {
            // Once more, in the middle of its return.
            ledger.wait_for_commits(&nodes[..2].iter().collect::<Vec<_>>(), dice.up_to(10));
            nodes.pop().expect("three").kill();
            nodes.push(group.start(number));
        }
        nodes[2].wait_ready();
        // The next kill would find some sessions on one member only, had they no time to be copied: one crash is survived, not two.
        settle(&nodes);
        nodes.iter().for_each(|node| start_load(node, ledger));
        if kill % 20 == 0 {
            eprintln!("{}: {kill} kills: {}", group.manager, ledger.summary());
        }
    }
    finish(&nodes, ledger);
    eprintln!("{}: {kills} kills: {}", group.manager, ledger.summary());
}

#[test]
fn a_rolling_restart_with_drain_loses_nothing_that_was_confirmed() {
    for manager in ["backup1", "delta"] {
        let group = Group::new(manager);
        let ledger = &group.ledger;
        let mut nodes = group.start_all(4);
        nodes.iter().for_each(|node| start_load(node, ledger));
        for number in 0..4 {
            ledger.wait_for_commits(&nodes.iter().collect::<Vec<_>>(), 50);
            let leaving = nodes.remove(0);
            // The balancer sends it no more requests; the others go on.
            leaving.ask("unload");
            let confirmed = ledger.confirmed();
            assert_eq!(leaving.ask("drain 20000"), "left 0", "{leaving:?}");
            leaving.stop();
            for node in &nodes {
                ledger.verify(node, &confirmed);
            }
            nodes.push(group.start(number));
            nodes[3].wait_ready();
            start_load(&nodes[3], ledger);
            // Nothing needs to settle in between: each drain moves what only the leaving one has.
        }
        finish(&nodes, ledger);
        eprintln!("{manager}: a rolling restart: {}", ledger.summary());
    }
}

/// Has a member write to all sessions there are, and create some.
fn start_load(node: &Node, ledger: &Ledger) {
    let ids = ledger.ids();
    let create = if ids.len() < SESSIONS { 10 } else { 0 };
    let ids = ids.into_iter().collect::<Vec<_>>().join(" ");
    // Each member has an attribute of its own in each session, so several write to one session all the time.
    let command = format!("load {THREADS} m{} 1 {create} {ids}", node.number);
    assert_eq!(node.ask(command.trim_end()), "loading");
}

/// Ends the load, and waits until everything has its copies.
fn settle(nodes: &[Node]) {
    for node in nodes {
        node.ask("unload");
    }
    nodes.iter().for_each(Node::wait_settled);
}

/// Ends the load and reads everything through everybody.
fn finish(nodes: &[Node], ledger: &Ledger) {
    settle(nodes);
    let confirmed = ledger.confirmed();
    assert!(!confirmed.is_empty());
    nodes.iter().for_each(|node| ledger.verify(node, &confirmed));
}

/// xorshift: which one, and when.
struct Dice(u64);

impl Dice {
    /// 1 to `most`.
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most + 1
    }
}

fn random_seed() -> u64 {
    u64::from_be_bytes(tribes::UniqueId::random().as_bytes()[..8].try_into().expect("8 bytes")) | 1
}
