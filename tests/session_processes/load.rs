//! Members killed, and members drained, while all of them are writing.

use std::collections::BTreeMap;

use crate::ledger::Ledger;
use crate::node::{Group, Node};

/// Threads that write, in each member.
const THREADS: usize = 8;
/// Milliseconds between two requests of a thread, in a rolling restart: it lasts.
const REST: u32 = 100;
/// Far above what it takes: a loaded machine is no bug.
const DRAIN: &str = "drain 35000";
/// About so many sessions are alive: each member reads them all after each kill.
const SESSIONS: usize = 300;

#[test]
fn no_confirmed_session_is_lost_when_members_are_killed_under_load() {
    kill_under_load(&Group::new("backup1"), kills());
}

#[test]
fn no_confirmed_session_of_a_delta_manager_is_lost_when_members_are_killed_under_load() {
    let group = Group::new("delta");
    kill_under_load(&group, kills().div_ceil(4));
    // Each commit has waited for all.
    assert_eq!(group.ledger.behind(), 0, "{}", group.ledger.summary());
}

fn kills() -> usize {
    std::env::var("TRIBES_KILLS").map_or(8, |kills| kills.parse().expect("TRIBES_KILLS is a number"))
}

fn kill_under_load(group: &Group, kills: usize) {
    let mut dice = Dice::new(&group.manager);
    let ledger = &group.ledger;
    let mut nodes = group.start_all(3);
    let (mut killed, mut returning, mut pulling, mut told) = (0, 0, 0, 0);
    while killed < kills {
        nodes.iter().for_each(|node| start_load(node, ledger, 0, &mut dice));
        ledger.wait_for_commits(&all(&nodes), dice.up_to(60));
        let first = kill(&mut nodes, dice.up_to(3));
        killed += 1;
        let confirmed = ledger.confirmed();
        nodes.iter().for_each(|survivor| ledger.verify(survivor, &confirmed));
        ledger.wait_for_commits(&all(&nodes), dice.up_to(60));
        nodes.push(group.start(first));
        match dice.up_to(4) {
            1 => {
                // Once more, in the middle of its return.
                ledger.wait_for_commits(&all(&nodes[..2]), dice.up_to(10));
                kill(&mut nodes, 3);
                (killed, returning) = (killed + 1, returning + 1);
                nodes.push(group.start(first));
            }
            2 => {
                // One of those from which it pulls what there is.
                ledger.wait_for_commits(&all(&nodes[..2]), dice.up_to(10));
                let at = dice.up_to(2);
                pulling += usize::from(nodes[2].ask("is_ready") == "false");
                let known = ledger.known();
                let others = nodes.iter().zip(1..).filter(|(_, number)| *number != at);
                let held: BTreeMap<_, _> = others.map(|(node, _)| (node.process.clone(), node.ids())).collect();
                let second = kill(&mut nodes, at);
                killed += 1;
                ledger.excuse(&held, known);
                let confirmed = ledger.confirmed();
                ledger.verify(&nodes[0], &confirmed);
                nodes.push(group.start(second));
            }
            _ => {}
        }
        nodes.iter().for_each(Node::wait_ready);
        // The next kill would find some sessions on one member only, had they no time to be copied: one crash is survived, not two.
        settle(&nodes, ledger);
        if killed / 20 > told {
            told = killed / 20;
            eprintln!("{}: {killed} kills: {}", group.manager, ledger.summary());
        }
    }
    ledger.finish(&nodes);
    eprintln!(
        "{}: {killed} kills, {returning} of one that was coming back, {pulling} of one while another was pulling from it: {}",
        group.manager,
        ledger.summary()
    );
}

#[test]
fn a_rolling_restart_with_drain_loses_nothing_that_was_confirmed() {
    for manager in ["backup1", "delta"] {
        // The balancer sends the leaving one no more requests; the others go on.
        rolling_restart(manager, |leaving| {
            leaving.ask("unload");
            assert_eq!(leaving.ask(DRAIN), "left 0", "{leaving:?}");
        });
    }
}

#[test]
fn members_that_serve_until_they_have_drained_lose_nothing_that_was_confirmed() {
    for manager in ["backup1", "delta"] {
        // Requests come until it has handed over, and after that: each of their commits fails, or survives. What each of them is just
        // writing may be left.
        rolling_restart(manager, |leaving| {
            let answer = leaving.ask(DRAIN);
            let left: Option<usize> = answer.strip_prefix("left ").and_then(|left| left.parse().ok());
            assert!(left.is_some_and(|left| left <= THREADS), "{leaving:?}: {answer}");
            leaving.ask("unload");
        });
    }
}

/// Twice around.
fn rolling_restart(manager: &str, leave: impl Fn(&Node)) {
    let group = Group::new(manager);
    let mut dice = Dice::new(manager);
    let ledger = &group.ledger;
    let mut nodes = group.start_all(4);
    nodes.iter().for_each(|node| start_load(node, ledger, REST, &mut dice));
    for number in (0..4).chain(0..4) {
        ledger.wait_for_commits(&all(&nodes), 50);
        let leaving = nodes.remove(0);
        leave(&leaving);
        let confirmed = ledger.confirmed();
        leaving.stop();
        nodes.iter().for_each(|node| ledger.verify(node, &confirmed));
        nodes.push(group.start(number));
        nodes[3].wait_ready();
        start_load(&nodes[3], ledger, REST, &mut dice);
        // Nothing needs to settle in between: each drain moves what only the leaving one has.
    }
    settle(&nodes, ledger);
    ledger.finish(&nodes);
    eprintln!("{manager}: a rolling restart, twice around: {}", ledger.summary());
}

fn all(nodes: &[Node]) -> Vec<&Node> {
    nodes.iter().collect()
}

/// Kills the first, second, or third, and returns its number.
fn kill(nodes: &mut Vec<Node>, which: u64) -> u16 {
    let victim = nodes.remove(usize::try_from(which).expect("a few") - 1);
    let number = victim.number;
    victim.kill();
    number
}

/// Has a member write to all sessions there are, create some, and end some. It begins where the dice say: each is to be the one that is being
/// written to when its member is killed.
fn start_load(node: &Node, ledger: &Ledger, pause: u32, dice: &mut Dice) {
    // Each member has an attribute of its own in each session, so several write to one session all the time.
    let name = format!("m{}", node.number);
    let known: Vec<_> = ledger.last_of(&name).into_iter().map(|(id, last)| format!("{id}={last}")).collect();
    let command = format!("load {THREADS} {name} 1 {SESSIONS} {pause} {} {}", dice.up_to(1000), known.join(" "));
    assert_eq!(node.ask(command.trim_end()), "loading");
}

/// Ends the load, waits until everything has its copies, and reads it all through everybody.
fn settle(nodes: &[Node], ledger: &Ledger) {
    for node in nodes {
        node.ask("unload");
    }
    nodes.iter().for_each(Node::wait_settled);
    ledger.settle(nodes);
}

/// xorshift: which one, and when.
struct Dice(u64);

impl Dice {
    /// As `TRIBES_SEED` says.
    fn new(manager: &str) -> Self {
        let seed =
            std::env::var("TRIBES_SEED").map_or_else(|_| random_seed(), |seed| seed.parse().expect("TRIBES_SEED is a number"));
        eprintln!("{manager}: TRIBES_SEED={seed}");
        Self(seed)
    }

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
