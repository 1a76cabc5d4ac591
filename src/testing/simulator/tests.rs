//! The simulator itself: it repeats runs, and it notices when a layer breaks a promise.

use super::*;
use crate::interceptors::TcpFailureDetector;
use crate::stack::{Context, Inbound, Interceptor, Outbound};

const LONG: Duration = Duration::from_secs(30);

fn detector() -> StackBuilder {
    StackBuilder::new().push(TcpFailureDetector::default())
}

fn group(seed: u64, config: SimConfig, make: fn() -> StackBuilder) -> (Simulator, [NodeId; 3]) {
    let mut sim = Simulator::new(seed, config);
    let nodes = std::array::from_fn(|_| sim.add_node(make));
    assert!(sim.run_until(Simulator::has_converged, LONG), "the group never met");
    (sim, nodes)
}

#[test]
fn three_nodes_meet_within_half_a_second() {
    let (sim, _) = group(1, SimConfig::default(), detector);
    assert!(sim.now() < Duration::from_millis(500), "{:?}", sim.now());
    sim.assert_promises_kept();
}

#[test]
fn the_same_seed_makes_the_same_run_and_another_seed_another() {
    let run = |seed| {
        let config = SimConfig::default().loss(0.2).duplicates(0.2).stalls(0.2).breaks(0.1);
        let (mut sim, [a, b, c]) = group(seed, config, detector);
        for count in 0..50_u8 {
            sim.send_all(a, vec![count; 10], SendOptions::SYNC_ACK);
            sim.run_for(Duration::from_millis(10));
        }
        sim.crash(c);
        sim.run_for(Duration::from_secs(5));
        sim.restart(c);
        sim.partition(&[b, c]);
        sim.run_for(Duration::from_secs(10));
        sim.heal();
        sim.run_for(Duration::from_secs(10));
        (sim.trace(), sim.received(b).len(), sim.events(a).len())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn a_crash_is_told_within_half_a_second_where_a_connection_is_open() {
    let (mut sim, [a, _, c]) = group(1, SimConfig::default(), detector);
    sim.send(a, [sim.member(c)], "x", SendOptions::ACK);
    sim.run_for(Duration::from_secs(1));
    sim.crash(c);
    let dead = sim.member(c);
    assert!(sim.run_until(|sim| !sim.view(a).contains(&dead), Duration::from_millis(500)));
}

#[test]
fn a_goodbye_is_told_at_once() {
    let (mut sim, [a, _, c]) = group(1, SimConfig::default(), detector);
    sim.stop(c);
    let gone = sim.member(c);
    assert!(sim.run_until(|sim| !sim.view(a).contains(&gone), Duration::from_millis(10)));
}

#[test]
fn an_idle_group_does_not_keep_probing_itself() {
    let monitors = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut sim = Simulator::new(1, SimConfig::default());
    let made = std::rc::Rc::clone(&monitors);
    let make = move || {
        let detector = TcpFailureDetector::default();
        made.borrow_mut().push(detector.monitor());
        StackBuilder::new().push(detector)
    };
    for _ in 0..3 {
        sim.add_node(make.clone());
    }
    sim.run_for(Duration::from_secs(20));
    let probes = || monitors.borrow().iter().map(|monitor| monitor.stats().probes).sum::<u64>();
    let before = probes();
    sim.run_for(Duration::from_secs(60));
    assert_eq!(probes(), before);
}

#[test]
fn listeners_that_fail_are_seen_by_the_sender_once() {
    let (mut sim, [a, b, c]) = group(1, SimConfig::default(), detector);
    sim.reject_messages(b, true);
    let sent = sim.send(a, [sim.member(b), sim.member(c)], "x", SendOptions::SYNC_ACK);
    sim.run_for(Duration::from_secs(1));
    let error = sim.outcome(sent).expect("settled").as_ref().expect_err("rejected");
    assert_eq!(error.faults.len(), 1);
    assert_eq!(error.faults[0].member, sim.member(b));
    assert_eq!((sim.received(b).len(), sim.received(c).len()), (1, 1));
    sim.assert_promises_kept();
}

#[test]
fn multicast_messages_reach_the_group() {
    let (mut sim, [a, b, c]) = group(1, SimConfig::default(), detector);
    sim.send(a, [], "x", SendOptions::MULTICAST);
    sim.run_for(Duration::from_secs(1));
    assert_eq!([a, b, c].map(|node| sim.received(node).len()), [0, 1, 1]);
    sim.assert_promises_kept();
}

#[test]
fn a_changed_payload_is_told() {
    let (mut sim, [a, b, _]) = group(1, SimConfig::default(), detector);
    sim.set_payload(b, "new");
    assert!(!sim.has_converged());
    assert!(sim.run_until(Simulator::has_converged, Duration::from_millis(10)));
    assert!(matches!(sim.events(a).last(), Some((_, Event::Updated(member))) if member.payload() == "new"));
}

#[test]
fn a_paused_node_is_kept_and_catches_up() {
    let (mut sim, [a, b, _]) = group(1, SimConfig::default(), detector);
    sim.pause(b);
    let sent = sim.send(a, [sim.member(b)], "x", SendOptions::NONE);
    sim.run_for(Duration::from_secs(8));
    assert!(sim.view(a).contains(&sim.member(b)), "its operating system answers");
    sim.resume(b);
    assert!(sim.run_until(Simulator::has_converged, LONG));
    assert!(sim.outcome(sent).is_some_and(Result::is_ok));
    assert_eq!(sim.received(b).len(), 1);
    sim.assert_promises_kept();
}

#[test]
fn a_clock_that_runs_wrong_changes_nothing() {
    let (mut sim, [a, b, _]) = group(1, SimConfig::default(), detector);
    sim.set_clock(a, 200_000, 3_600_000);
    sim.set_clock(b, -200_000, -3_600_000);
    sim.run_for(Duration::from_secs(60));
    assert!(sim.has_converged());
    assert_eq!(sim.events(a).len(), 2, "nobody came or went");
}

/// Layers with a bug, to see that the checks see it.
#[derive(Clone, Copy)]
enum Bug {
    DropsLegs,
    Duplicates,
    Reorders,
    Garbles,
    ClaimsDelivery,
    Hoards,
    InventsMembers,
}

struct Buggy(Bug, Vec<Outbound>, u32);

impl Interceptor for Buggy {
    fn name(&self) -> &'static str {
        "Buggy"
    }

    fn outbound(&mut self, cx: &mut Context<'_>, mut msg: Outbound) {
        self.2 += 1;
        let now = self.2.is_multiple_of(5);
        match self.0 {
            Bug::DropsLegs if now => drop(msg.legs.pop()),
            Bug::ClaimsDelivery if now => return msg.legs.into_iter().for_each(crate::Leg::delivered),
            Bug::Hoards | Bug::Reorders if now => return self.1.push(msg),
            _ => {}
        }
        cx.send(msg);
        if matches!(self.0, Bug::Reorders) {
            self.1.drain(..).for_each(|msg| cx.send(msg));
        }
    }

    fn inbound(&mut self, cx: &mut Context<'_>, mut msg: Inbound) {
        self.2 += 1;
        if self.2.is_multiple_of(5) {
            match self.0 {
                Bug::Duplicates => cx.deliver(Inbound::new(msg.message.clone(), crate::stack::Reply::none())),
                Bug::Garbles => msg.message.body_mut().push_back("!"),
                _ => {}
            }
        }
        cx.deliver(msg);
    }

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        if matches!(self.0, Bug::InventsMembers) {
            cx.emit(Event::Added(event.member().with_id(UniqueId::from_bytes([3; 16]))));
        }
        cx.emit(event);
    }
}

#[test]
fn planted_bugs_are_found() {
    for (bug, promise) in [
        (Bug::DropsLegs, Promise::Accounted),
        (Bug::Duplicates, Promise::Once),
        (Bug::Reorders, Promise::Order),
        (Bug::Garbles, Promise::Integrity),
        (Bug::ClaimsDelivery, Promise::Honesty),
        (Bug::Hoards, Promise::Completion),
    ] {
        let mut sim = Simulator::new(1, SimConfig::default());
        let [a, b, _] = std::array::from_fn(|_| sim.add_node(move || StackBuilder::new().push(Buggy(bug, Vec::new(), 0))));
        assert!(sim.run_until(Simulator::has_converged, LONG));
        for count in 0..20_u8 {
            sim.send(a, [sim.member(b)], vec![count], SendOptions::SYNC_ACK);
        }
        sim.run_for(LONG);
        let found: Vec<_> = sim.violations().iter().map(|violation| violation.promise).collect();
        assert!(found.contains(&promise), "{promise:?} among {found:?}");
    }
}

#[test]
fn an_invented_member_keeps_the_group_from_converging() {
    let mut sim = Simulator::new(1, SimConfig::default());
    for _ in 0..2 {
        sim.add_node(|| StackBuilder::new().push(Buggy(Bug::InventsMembers, Vec::new(), 0)));
    }
    assert!(!sim.run_until(Simulator::has_converged, LONG));
}

#[test]
fn without_a_filter_for_repeats_there_are_repeats() {
    let mut seen = false;
    for seed in 0..20 {
        let mut sim = Simulator::new(seed, SimConfig::default());
        let [a, b] = std::array::from_fn(|_| sim.add_node_like(Capabilities::NONE, StackBuilder::new));
        assert!(sim.run_until(Simulator::has_converged, LONG));
        sim.set_config(SimConfig::default().breaks(0.2));
        for count in 0..20_u8 {
            sim.send(a, [sim.member(b)], vec![count], SendOptions::ACK);
        }
        sim.run_for(LONG);
        seen |= sim.violations().iter().any(|violation| violation.promise == Promise::Once);
    }
    assert!(seen);
}
