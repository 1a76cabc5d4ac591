//! The rules of the roster, one test each, and the invariants under random events.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Output, Roster, RosterConfig};
use crate::id::UniqueId;
use crate::member::Member;
use crate::membership::Mode;
use crate::stack::{Departure, Event};
use crate::wire::member_package;

const FREQUENCY: Duration = Duration::from_millis(500);
const DROP_TIME: Duration = Duration::from_secs(3);

/// A roster with a clock, and what it said since it was asked last.
struct Node {
    roster: Roster,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self::with(Mode::Full, RosterConfig::default())
    }

    fn with(mode: Mode, config: RosterConfig) -> Self {
        let now = origin();
        Self { roster: Roster::new(local(), mode, config, now), now }
    }

    fn hear(&mut self, member: &Member) -> Vec<Event> {
        self.roster.handle_package(self.now, member.clone());
        self.events()
    }

    /// Runs the roster's timers up to `millis` from now, as a shell with a perfect clock does.
    fn run(&mut self, millis: u64) -> (Vec<Event>, usize) {
        let end = self.now + Duration::from_millis(millis);
        let (mut events, mut heartbeats) = (Vec::new(), 0);
        while let Some(next) = self.roster.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.roster.handle_timeout(self.now);
            for output in self.outputs() {
                match output {
                    Output::Event(event) => events.push(event),
                    Output::Heartbeat => heartbeats += 1,
                }
            }
        }
        self.now = end;
        (events, heartbeats)
    }

    /// Lets time pass in which the roster is not called at all.
    fn pause(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.roster.poll_output()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        let event = |output| if let Output::Event(event) = output { Some(event) } else { None };
        self.outputs().into_iter().filter_map(event).collect()
    }

    fn len(&self) -> usize {
        self.roster.members().len()
    }
}

#[expect(clippy::disallowed_methods, reason = "an origin for the test's own clock")]
fn origin() -> Instant {
    Instant::now()
}

fn local() -> Member {
    member(0, 0)
}

fn member(host: u8, id: u8) -> Member {
    Member::new(([10, 0, 0, host], 4000).into()).with_id(UniqueId::from_bytes([id; 16]))
}

fn added(member: &Member) -> Vec<Event> {
    vec![Event::Added(member.clone())]
}

fn removed(member: &Member, departure: Departure) -> Vec<Event> {
    vec![Event::Removed(member.clone(), departure)]
}

#[test]
fn a_member_is_added_once_and_fails_exactly_at_the_drop_time() {
    let (mut node, peer) = (Node::new(), member(1, 1));
    assert_eq!(node.hear(&peer), added(&peer));
    assert_eq!(node.run(2000).0, []);
    assert_eq!(node.hear(&peer), []);
    assert_eq!(node.run(2999).0, []);
    assert_eq!(node.run(1).0, removed(&peer, Departure::Failed));
    assert_eq!(node.hear(&peer), added(&peer), "a member that was only cut off comes back with its next heartbeat");
}

#[test]
fn a_goodbye_removes_at_once_and_only_who_was_there() {
    let (mut node, peer) = (Node::new(), member(1, 1));
    assert_eq!(node.hear(&peer.leaving()), [], "nobody knows that member");
    node.hear(&peer);
    assert_eq!(node.hear(&member(2, 1).leaving()), [], "the id of one member with the address of another");
    assert_eq!(node.hear(&local().leaving()), [], "a forged goodbye of the local member");
    assert_eq!(node.hear(&peer.leaving()), removed(&peer, Departure::Left));
    assert_eq!(node.hear(&peer.leaving()), []);
}

#[test]
fn a_heartbeat_that_the_goodbye_overtook_does_not_bring_the_member_back() {
    let (mut node, peer) = (Node::new(), member(1, 1));
    node.hear(&peer);
    node.hear(&peer.leaving());
    node.run(249);
    assert_eq!(node.hear(&peer), []);
    node.run(1);
    assert_eq!(node.hear(&peer), added(&peer), "a Tribes node that starts again keeps its id");
}

#[test]
fn a_change_is_an_update_unless_only_the_alive_time_changed() {
    let (mut node, peer) = (Node::new(), member(1, 1));
    node.hear(&peer);
    for alive in [0, -1, 1_800_000_000_000, i64::MAX, i64::MIN] {
        assert_eq!(node.hear(&peer.with_alive_millis(alive)), []);
    }
    let mut seen = peer.clone();
    for changed in
        [peer.with_payload("p"), peer.with_domain("d"), peer.with_udp_port(Some(1)), peer.with_secure_port(Some(2)), peer.clone()]
    {
        let events = node.hear(&changed);
        assert_eq!(events, [Event::Updated(changed.clone())]);
        assert!(events[0].member().same_value(&changed) && !changed.same_value(&seen));
        seen = changed;
    }
}

#[test]
fn a_new_id_at_a_known_address_is_a_restart() {
    let (mut node, old, new) = (Node::new(), member(1, 1), member(1, 2));
    node.hear(&old);
    assert_eq!(node.hear(&new), [Event::Removed(old.clone(), Departure::Failed), Event::Added(new.clone())]);
    assert_eq!(node.len(), 1);
}

#[test]
fn two_processes_at_one_address_do_not_make_the_group_flap() {
    let (mut node, first, second, third) = (Node::new(), member(1, 1), member(1, 2), member(1, 3));
    node.hear(&first);
    node.hear(&second);
    assert_eq!(node.hear(&third).len(), 2, "newcomers take the address in turn");
    for _ in 0..100 {
        assert_eq!(node.run(500).0, []);
        for claimant in [&first, &second, &third] {
            assert_eq!(node.hear(claimant), [], "and keep it");
        }
    }
    assert!(node.roster.stats().conflicts >= 200);
    let (events, _) = node.run(2999);
    assert_eq!(events, []);
    assert_eq!(node.hear(&first), []);
    assert_eq!(node.run(1).0, removed(&third, Departure::Failed));
    assert_eq!(node.hear(&first), added(&first), "whoever is left has the address again");
}

#[test]
fn an_id_names_one_member() {
    let (mut node, here, there) = (Node::new(), member(1, 1), member(2, 1));
    node.hear(&here);
    assert_eq!(node.hear(&there), [], "a copy of an id takes nothing from its holder");
    assert_eq!(node.run(3000).0, removed(&here, Departure::Failed), "and does not keep it alive");
    assert_eq!(node.hear(&there), added(&there));
}

#[test]
fn the_local_member_is_never_its_own_peer() {
    let mut node = Node::new();
    assert_eq!(node.hear(&local()), []);
    assert_eq!(node.hear(&local().with_address("10.9.9.9:1".parse().unwrap())), [], "before its receiver moved");
    assert_eq!(node.roster.stats().heard, 0);
    assert_eq!(node.hear(&member(0, 7)), [], "an earlier incarnation, or a misconfigured neighbour");
    assert_eq!(node.roster.stats().conflicts, 1);

    let mut observer = Node::with(Mode::Observe, RosterConfig::default());
    let peer = member(0, 7);
    assert_eq!(observer.hear(&peer), added(&peer), "an observer has no address of its own");
}

#[test]
fn a_local_member_that_moves_displaces_whoever_is_there() {
    let (mut node, peer) = (Node::new(), member(1, 1));
    node.hear(&peer);
    node.roster.set_local(local().with_address(peer.address()));
    assert_eq!(node.events(), removed(&peer, Departure::Failed));
    assert_eq!(node.hear(&peer), []);
}

#[test]
fn members_that_do_not_receive_share_port_0() {
    let mut node = Node::new();
    for id in 1..4 {
        let peer = Member::new(([10, 0, 0, 1], 0).into()).with_id(UniqueId::from_bytes([id; 16]));
        assert_eq!(node.hear(&peer), added(&peer));
    }
    assert_eq!(node.len(), 3);
}

#[test]
fn forged_newcomers_are_capped_and_counted() {
    let mut node = Node::with(Mode::Full, RosterConfig::default().max_members(2));
    let (first, second) = (member(1, 1), member(2, 2));
    node.hear(&first);
    node.hear(&second);
    for id in 3..=u8::MAX {
        assert_eq!(node.hear(&member(id, id)), []);
    }
    assert_eq!(node.roster.stats().refused, 253);
    assert_eq!(node.hear(&first.with_payload("still heard")).len(), 1);
    let restarted = member(1, 9);
    assert_eq!(node.hear(&restarted).len(), 2, "a restart needs no room");
    for id in 10..=u8::MAX {
        node.hear(&member(1, id));
        assert!(node.roster.gone.len() <= 2, "what is remembered of the gone is capped as well");
    }
}

#[test]
fn junk_has_no_effect_but_a_count() {
    let mut node = Node::new();
    let package = member_package::package(&member(1, 1));
    for len in 0..package.len() {
        assert!(node.roster.handle_datagram(node.now, &package[..len]).is_err());
    }
    assert_eq!((node.len(), node.roster.stats().malformed), (0, package.len() as u64));
    let trailed: Vec<u8> = package.iter().copied().chain([0; 9]).collect();
    assert!(node.roster.handle_datagram(node.now, &trailed).is_ok(), "Tribes tolerates what follows a package");
    assert_eq!(node.len(), 1);
}

#[test]
fn heartbeats_come_quickly_at_first_and_then_every_period() {
    let mut node = Node::new();
    assert_eq!(node.run(0).1, 1, "the first at once");
    assert_eq!(node.run(100).1, 2, "two more at once, should the first get lost");
    assert_eq!(node.run(499).1, 0);
    assert_eq!(node.run(1).1, 1);
    assert_eq!(node.run(5000).1, 10);
}

#[test]
fn a_newcomer_is_answered_at_once_but_no_flood_is() {
    let mut node = Node::new();
    node.run(1000);
    node.hear(&member(1, 1));
    assert_eq!(node.run(0).1, 1, "at once");
    for id in 2..=9 {
        node.hear(&member(id, id));
    }
    assert_eq!(node.run(0).1, 0, "not for each");
    assert_eq!(node.run(25).1, 1, "but for all together, soon");
    node.hear(&member(1, 1));
    assert_eq!(node.run(25).1, 0, "known members need no answer");
}

#[test]
fn in_a_large_group_answers_are_spread_out() {
    let mut node = Node::with(Mode::Full, RosterConfig::default().drop_time(Duration::from_secs(600)));
    node.run(1000);
    for id in 1..=200 {
        node.hear(&member(id, id));
    }
    node.run(1000);
    let mut delays: Vec<_> = (201..=u8::MAX)
        .map(|id| {
            node.run(600);
            node.hear(&member(id, id));
            node.roster.poll_timeout().expect("a heartbeat is due").saturating_duration_since(node.now)
        })
        .collect();
    delays.sort();
    delays.dedup();
    assert!(delays.len() > 30, "{delays:?}");
    assert!(*delays.last().expect("some") <= FREQUENCY);
}

#[test]
fn an_observer_is_silent() {
    let mut node = Node::with(Mode::Observe, RosterConfig::default());
    let peer = member(1, 1);
    assert_eq!(node.roster.poll_timeout(), None);
    assert_eq!(node.hear(&peer), added(&peer));
    assert_eq!(node.run(10_000), (removed(&peer, Departure::Failed), 0));
    assert_eq!(node.roster.poll_timeout(), None);
}

#[test]
fn a_pause_of_our_own_process_kills_nobody_who_is_alive() {
    for mode in [Mode::Full, Mode::Observe] {
        let mut node = Node::with(mode, RosterConfig::default());
        let (alive, dead) = (member(1, 1), member(2, 2));
        node.hear(&alive);
        node.hear(&dead);
        node.run(100);
        node.pause(60_000);
        assert_eq!(node.run(499).0, [], "all get more than a period to be heard");
        assert_eq!(node.hear(&alive), []);
        assert_eq!(node.run(250).0, []);
        assert_eq!(node.run(1).0, removed(&dead, Departure::Failed), "the dead are found dead after it");
        assert_eq!(node.len(), 1);
    }
}

#[test]
fn a_process_that_is_always_late_still_finds_the_dead() {
    let (mut node, peer) = (Node::new(), member(1, 1));
    node.hear(&peer);
    let mut events = Vec::new();
    for _ in 0..10 {
        node.pause(1500);
        node.roster.handle_timeout(node.now);
        events.extend(node.events());
    }
    assert_eq!(events, removed(&peer, Departure::Failed));
}

#[test]
fn three_that_start_together_see_each_other_at_once() {
    let members: Vec<_> = (0..3).map(|host| member(host, host)).collect();
    let start = origin();
    let mut rosters: Vec<_> =
        members.iter().map(|member| Roster::new(member.clone(), Mode::Full, RosterConfig::default(), start)).collect();
    // They start 1 ms apart, and hear nothing before.
    for millis in 0..60 {
        let now = start + Duration::from_millis(millis);
        let running = rosters.len().min(usize::try_from(millis).expect("small") + 1);
        for at in 0..running {
            rosters[at].handle_timeout(now);
            while let Some(output) = rosters[at].poll_output() {
                if output == Output::Heartbeat {
                    rosters[..running].iter_mut().for_each(|roster| roster.handle_package(now, members[at].clone()));
                }
            }
        }
    }
    assert!(rosters.iter().all(|roster| roster.members().len() == 2));
}

#[derive(Clone, Debug)]
enum Step {
    Heartbeat { host: u8, id: u8, payload: u8 },
    Goodbye { host: u8, id: u8 },
    Bytes(Vec<u8>),
    Run(u64),
    Pause(u64),
    Move { host: u8, id: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_u8, 0..6_u8, 0..3_u8).prop_map(|(host, id, payload)| Step::Heartbeat { host, id, payload }),
        2 => (0..6_u8, 0..6_u8).prop_map(|(host, id)| Step::Goodbye { host, id }),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Step::Bytes),
        4 => (0..2000_u64).prop_map(Step::Run),
        1 => (0..10_000_u64).prop_map(Step::Pause),
        1 => (0..6_u8, 0..6_u8).prop_map(|(host, id)| Step::Move { host, id }),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_the_events_add_up(observe: bool, steps in prop::collection::vec(step(), 0..120)) {
        let mode = if observe { Mode::Observe } else { Mode::Full };
        let mut node = Node::with(mode, RosterConfig::default().max_members(4));
        let mut view: HashMap<UniqueId, Member> = HashMap::new();
        for step in steps {
            let (mut events, mut heartbeats) = (Vec::new(), 0);
            match step {
                Step::Heartbeat { host, id, payload } => events = node.hear(&member(host, id).with_payload(vec![payload])),
                Step::Goodbye { host, id } => events = node.hear(&member(host, id).leaving()),
                Step::Bytes(bytes) => drop(node.roster.handle_datagram(node.now, &Bytes::from(bytes))),
                Step::Run(millis) => (events, heartbeats) = node.run(millis),
                Step::Pause(millis) => node.pause(millis),
                Step::Move { host, id } => {
                    node.roster.set_local(member(host, id));
                    events = node.events();
                }
            }
            prop_assert!(heartbeats == 0 || mode == Mode::Full);
            for event in events {
                let known = view.get(&event.member().id()).cloned();
                match event {
                    Event::Added(member) => {
                        prop_assert_eq!(known, None);
                        view.insert(member.id(), member);
                    }
                    Event::Updated(member) => {
                        prop_assert!(known.is_some_and(|known| known == member && !known.same_value(&member)));
                        view.insert(member.id(), member);
                    }
                    Event::Removed(member, _) => {
                        prop_assert_eq!(known, Some(member.clone()));
                        view.remove(&member.id());
                    }
                    Event::Suspect(_) => prop_assert!(false, "a roster suspects nobody"),
                }
            }
            prop_assert_eq!(view.len(), node.len());
            prop_assert!(view.len() <= 4 && node.roster.gone.len() <= 4);
            prop_assert!(node.roster.members().all(|member| view[&member.id()].same_value(member)));
            let mut addresses: Vec<_> = view.values().map(Member::address).collect();
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), view.len(), "one member per address");
            prop_assert!(!view.contains_key(&node.roster.local().id()));
            prop_assert!(mode == Mode::Observe || !addresses.contains(&node.roster.local().address()));
            prop_assert!(view.is_empty() || node.roster.poll_timeout().is_some(), "somebody would never expire");
        }
        let silence = u64::try_from((DROP_TIME + FREQUENCY * 2).as_millis()).expect("short");
        node.run(silence);
        prop_assert_eq!(node.len(), 0, "silence ends every membership");
        prop_assert!(node.roster.gone.is_empty() || mode == Mode::Observe);
        prop_assert_eq!(node.roster.ids.len(), 0);
    }
}
