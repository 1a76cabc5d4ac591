//! One behaviour at a time, on a few engines that hear each other at once.

use std::sync::Arc;
use std::time::Duration;

use super::commit::{Change, Commit};
use super::config::{Config, Copies};
use super::fetch::Get;
use super::message::{Phase, Want};
use super::record::Record;
use super::table::{SLOTS, slot_of};
use super::testkit::Group;
use super::*;

fn backups(count: usize) -> Config {
    Config { copies: Copies::Backups(count), ..Config::default() }
}

fn everywhere() -> Config {
    Config { copies: Copies::Everywhere, ..Config::default() }
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// A key that this member owns.
fn owned_by(group: &Group, node: usize) -> [u8; 4] {
    let engine = group.engine(node);
    (0..).map(key).find(|key| engine.placement.rank(slot_of(key), engine.local()) == Some(0)).expect("it owns something")
}

/// The position of the member that holds this key at this rank.
fn holder(group: &Group, asked: usize, key: &[u8], rank: usize) -> usize {
    let engine = group.engine(asked);
    let member = engine.placement.holding(slot_of(key)).nth(rank).expect("so many hold it").clone();
    group.nodes.iter().position(|node| node.member == member).expect("it is one of the group")
}

fn holders_of(group: &Group, key: &[u8]) -> usize {
    group.nodes.iter().filter(|node| node.engine.as_ref().is_some_and(|engine| engine.peek(key).is_some())).count()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_commit_returns_when_the_backup_holds_it() {
    let mut group = Group::ready(4, &backups(1));
    let key = owned_by(&group, 0);
    let change = Change::Create { lease: SECOND * 1800, attributes: vec![("cart".into(), Some("apples".into()))] };
    let Ok(Commit::Waiting(ticket)) = group.commit(0, &key, change, Want::Copies(1)) else { panic!("it waits") };
    assert!(group.nodes[0].committed.is_empty());
    group.settle();
    let (answered, result) = group.nodes[0].committed.pop().expect("it is answered");
    let committed = result.expect("the backup has confirmed");
    let backup = holder(&group, 0, &key, 1);
    assert_eq!((answered, committed.wanted, &committed.confirmed[..]), (ticket, 1, &[group.nodes[backup].member.clone()][..]));
    assert_eq!(group.value(backup, &key, "cart").as_deref(), Some(&b"apples"[..]));
    assert_eq!(holders_of(&group, &key), 2, "and nobody else");
}

#[test]
fn a_commit_costs_one_message_in_groups_of_any_size() {
    for count in [2, 5, 9] {
        let mut group = Group::ready(count, &backups(1));
        let key = owned_by(&group, 0);
        group.create(0, &key, "cart", "apples");
        group.settle();
        let before = group.handed;
        group.set(0, &key, "cart", "pears");
        group.settle();
        assert_eq!(group.handed - before, 1, "{count} members");
    }
}

#[test]
fn alone_a_commit_succeeds_and_is_at_risk_until_somebody_comes() {
    let mut group = Group::ready(1, &backups(1));
    let change = Change::Create { lease: SECOND * 1800, attributes: Vec::new() };
    let Ok(Commit::Done(committed)) = group.commit(0, &key(1), change, Want::Copies(1)) else {
        panic!("there is nobody to wait for")
    };
    assert_eq!((committed.wanted, committed.confirmed.len()), (1, 0));
    assert_eq!(group.engine(0).at_risk().len(), 1);
    group.join(backups(1));
    group.run_for(SECOND * 2);
    assert!(group.engine(0).at_risk().is_empty());
    assert_eq!(holders_of(&group, &key(1)), 2);
}

#[test]
fn a_change_whose_base_is_missing_brings_the_whole_entry() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "name", "anna");
    // The first message is lost.
    group.wire.clear();
    group.set(0, &key(1), "cart", "apples");
    group.settle();
    assert_eq!(group.value(1, &key(1), "name").as_deref(), Some(&b"anna"[..]));
    assert_eq!(group.value(1, &key(1), "cart").as_deref(), Some(&b"apples"[..]));
    assert_eq!(group.engine(1).counters().bases_missing, 1);
}

#[test]
fn changes_that_overtake_each_other_end_in_the_same_state() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "c", "0");
    group.settle();
    for value in ["1", "2", "3"] {
        group.set(0, &key(1), "c", value);
    }
    group.wire.make_contiguous().reverse();
    group.settle();
    assert_eq!(group.value(1, &key(1), "c").as_deref(), Some(&b"3"[..]));
    assert!(group.agrees());
}

#[test]
fn a_lost_message_is_repaired_by_the_next_comparison() {
    let mut group = Group::ready(3, &everywhere());
    for number in 0..50 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    group.set(0, &key(7), "n", "2");
    group.wire.pop_back();
    group.settle();
    assert!(!group.agrees());
    group.run_for(SECOND * 25);
    assert!(group.agrees());
    assert_eq!((1..3).map(|node| group.value(node, &key(7), "n").expect("it is here")).collect::<Vec<_>>(), ["2", "2"]);
}

#[test]
fn comparing_what_is_equal_costs_two_messages_for_each_pair_and_interval() {
    let mut group = Group::ready(2, &everywhere());
    for number in 0..200 {
        group.create(0, &key(number), "n", "1");
    }
    group.run_for(SECOND * 30);
    let before = group.handed;
    group.run_for(SECOND * 100);
    let per_interval = (group.handed - before) / 10;
    assert!(per_interval <= 5, "either asks and is answered: {per_interval}");
}

#[test]
fn a_joiner_gets_everything_in_small_chunks_and_is_ready_then() {
    let config = Config { chunk_bytes: 2_000, chunk_window: 2, ..everywhere() };
    let mut group = Group::ready(2, &config);
    for number in 0..3_000 {
        group.create(number as usize % 2, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(config);
    assert_eq!(group.engine(joiner).phase(), Phase::Joining);
    group.run_for(SECOND * 3);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert_eq!(group.engine(joiner).table.alive(), 3_000);
    assert!(group.agrees());
}

#[test]
fn updates_go_on_while_a_joiner_pulls() {
    let config = Config { chunk_bytes: 1_000, chunk_window: 1, ..backups(1) };
    let mut group = Group::ready(2, &config);
    for number in 0..500 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(config);
    group.begin(joiner);
    let mut turn = 0;
    while let Some(packet) = group.wire.pop_front() {
        group.hand_over(packet);
        turn += 1;
        if turn % 3 == 0 && turn < 600 {
            let number = key(turn % 500);
            if group.engine(0).peek(&number).is_some() {
                group.set(0, &number, "n", "2");
            }
        }
    }
    group.run_for(SECOND * 20);
    assert!(group.agrees());
    for number in 0..500 {
        assert_eq!(holders_of(&group, &key(number)), 2, "entry {number}");
    }
}

#[test]
fn a_source_that_dies_costs_nothing_but_time() {
    let config = Config { chunk_bytes: 1_000, ..everywhere() };
    let mut group = Group::ready(3, &config);
    for number in 0..1_000 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(config);
    group.begin(joiner);
    for _ in 0..60 {
        let packet = group.wire.pop_front().expect("it pulls");
        group.hand_over(packet);
    }
    group.crash(1);
    group.run_for(SECOND * 5);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert_eq!(group.engine(joiner).table.alive(), 1_000);
}

#[test]
fn a_silent_source_is_left_for_another() {
    let mut group = Group::ready(3, &everywhere());
    for number in 0..100 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(everywhere());
    group.begin(joiner);
    // It has said hello, and then says nothing more.
    for _ in 0..12 {
        if let Some(packet) = group.wire.pop_front() {
            group.hand_over(packet);
        }
    }
    group.nodes[1].deaf = true;
    group.run_for(SECOND * 10);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert_eq!(group.engine(joiner).table.alive(), 100);
}

#[test]
fn ten_that_start_together_are_all_complete() {
    let mut group = Group::new();
    (0..10).for_each(|_| _ = group.join(backups(1)));
    // What each has loaded from somewhere before it heard of the others.
    for node in 0..10 {
        for number in 0..20 {
            let number = 100 * node as u32 + number;
            group.create(node, &key(number), "n", "1");
        }
    }
    group.run_for(SECOND * 30);
    assert!(group.nodes.iter().all(|node| node.engine.as_ref().expect("it runs").phase() == Phase::Ready));
    assert!(group.agrees());
    for node in 0..10 {
        for number in 0..20 {
            assert_eq!(holders_of(&group, &key(100 * node + number)), 2);
        }
    }
}

#[test]
fn an_entry_survives_its_owner_and_gets_a_new_backup() {
    let mut group = Group::ready(4, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    group.crash(0);
    group.run_for(SECOND * 2);
    assert_eq!(holders_of(&group, &key), 2);
    assert!(group.agrees());
    assert!((1..4).all(|node| group.engine(node).at_risk().is_empty()));
}

#[test]
fn a_read_elsewhere_asks_a_holder_and_leaves_nothing_behind() {
    let mut group = Group::ready(5, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let stranger = (1..5).find(|node| group.engine(*node).peek(&key).is_none()).expect("three do not hold it");
    let Get::Asking(ticket) = group.get(stranger, &key) else { panic!("it is not here") };
    group.settle();
    let (answered, found) = group.nodes[stranger].fetched.pop().expect("a holder answers");
    assert_eq!(answered, ticket);
    assert_eq!(found.expect("a holder has it").expect("it is there").value("n").map(|value| &value[..]), Some(&b"1"[..]));
    group.run_for(SECOND * 5);
    assert_eq!(holders_of(&group, &key), 2);
}

#[test]
fn a_read_goes_to_the_second_holder_when_the_first_is_silent() {
    let mut group = Group::ready(5, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let stranger = (1..5).find(|node| group.engine(*node).peek(&key).is_none()).expect("three do not hold it");
    group.nodes[0].deaf = true;
    let Get::Asking(_) = group.get(stranger, &key) else { panic!("it is not here") };
    group.run_for(SECOND * 2);
    let (_, found) = group.nodes[stranger].fetched.pop().expect("the backup answers");
    assert!(found.expect("somebody has it").is_some());
}

#[test]
fn what_a_stranger_writes_is_handed_over() {
    let mut group = Group::ready(5, &backups(1));
    let key = owned_by(&group, 0);
    let stranger = (1..5)
        .find(|node| group.engine(*node).placement.rank(slot_of(&key), &group.nodes[*node].member).is_none())
        .expect("three");
    group.create(stranger, &key, "n", "1");
    group.run_for(SECOND * 3);
    assert_eq!(holders_of(&group, &key), 2);
    assert!(group.engine(stranger).peek(&key).is_none());
    assert!(group.agrees());
}

#[test]
fn a_removed_entry_stays_removed_on_a_member_that_was_away() {
    let mut group = Group::ready(3, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.settle();
    group.nodes[2].deaf = true;
    assert!(group.commit(0, &key(1), Change::Remove, Want::None).is_ok());
    group.settle();
    let read = Arc::clone(group.engine(2).peek(&key(1)).expect("it has not heard"));
    group.nodes[2].deaf = false;
    let change = Change::Update { read, lease: None, attributes: vec![("n".into(), Some("2".into()))] };
    let Ok(Commit::Waiting(_)) = group.commit(2, &key(1), change, Want::Copies(1)) else { panic!("it waits") };
    group.run_for(SECOND * 30);
    assert_eq!(holders_of(&group, &key(1)), 0);
    let (_, result) = group.nodes[2].committed.pop().expect("it is answered");
    assert!(result.expect_err("the entry was dead").removed);
    assert!(group.engine(0).counters().late > 0);
}

#[test]
fn a_rename_is_one_message_and_the_old_key_is_dead() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "n", "1");
    group.settle();
    let to = (1000..).map(key).find(|other| slot_of(other) == slot_of(&key(1))).expect("some key falls into the same slot");
    let read = Arc::clone(group.engine(0).peek(&key(1)).expect("it is here"));
    let before = group.handed;
    let change = Change::Rename { read, to: to.as_slice().into(), lease: None, attributes: Vec::new() };
    assert!(group.commit(0, &key(1), change, Want::Copies(1)).is_ok());
    group.settle();
    assert_eq!(group.handed - before, 1);
    assert_eq!((holders_of(&group, &key(1)), holders_of(&group, &to)), (0, 2));
    assert_eq!(group.value(1, &to, "n").as_deref(), Some(&b"1"[..]));
}

#[test]
fn two_sides_of_a_partition_end_alike_and_tell_what_was_lost() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "n", "1");
    group.settle();
    let members = [0, 1].map(|node| group.nodes[node].member.clone());
    group.with(0, |engine, now| engine.member_removed(now, &members[1]));
    group.with(1, |engine, now| engine.member_removed(now, &members[0]));
    group.run_for(SECOND);
    group.set(0, &key(1), "left", "a");
    group.set(0, &key(1), "n", "2");
    group.set(1, &key(1), "right", "b");
    group.set(1, &key(1), "n", "3");
    group.run_for(SECOND);
    group.with(0, |engine, now| engine.member_added(now, &members[1]));
    group.with(1, |engine, now| engine.member_added(now, &members[0]));
    group.run_for(SECOND * 15);
    assert!(group.agrees());
    for node in 0..2 {
        assert_eq!(group.value(node, &key(1), "left").as_deref(), Some(&b"a"[..]));
        assert_eq!(group.value(node, &key(1), "right").as_deref(), Some(&b"b"[..]));
        assert_eq!(group.value(node, &key(1), "n"), group.value(0, &key(1), "n"));
    }
    let lost = group.nodes.iter().flat_map(|node| &node.events).filter(|event| matches!(event.what, What::Lost(_))).count();
    assert!(lost >= 1);
    assert_eq!(group.engine(0).counters().conflicts + group.engine(1).counters().conflicts, lost as u64);
}

#[test]
fn draining_moves_everything_and_says_so() {
    let mut group = Group::ready(4, &backups(1));
    for number in 0..300 {
        group.create(number as usize % 4, &key(number), "n", "1");
    }
    group.run_for(SECOND * 2);
    group.with(3, |engine, now| engine.drain(now));
    group.run_for(SECOND * 10);
    assert!(group.nodes[3].drained);
    assert!(group.engine(3).remaining().is_empty());
    group.crash(3);
    group.run_for(SECOND * 2);
    for number in 0..300 {
        assert_eq!(holders_of(&group, &key(number)), 2, "entry {number}");
    }
}

#[test]
fn draining_many_slots_takes_no_second_for_each_few() {
    let mut group = Group::ready(4, &backups(1));
    (0..5_000).for_each(|number| group.create(number as usize % 4, &key(number), "n", "1"));
    group.run_for(SECOND * 2);
    group.with(3, |engine, now| engine.drain(now));
    group.run_for(SECOND / 2);
    assert!(group.nodes[3].drained);
}

#[test]
fn a_newcomer_to_whom_the_others_are_shown_late_does_not_take_itself_for_the_first() {
    let mut group = Group::ready(3, &everywhere());
    (0..20).for_each(|number| group.create(0, &key(number), "n", "1"));
    group.run_for(SECOND);
    (group.discovery, group.shown_at_once) = (SECOND / 2, false);
    let joiner = group.join(everywhere());
    for other in 0..3 {
        group.run_for(SECOND / 50);
        assert_eq!(group.engine(joiner).phase(), Phase::Joining);
        assert!(!matches!(group.get(joiner, &key(1)), Get::Here(_)));
        group.show(joiner, other);
    }
    group.run_for(SECOND / 10);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    (0..20).for_each(|number| assert!(matches!(group.get(joiner, &key(number)), Get::Here(_)), "entry {number}"));
    // Who really is the first serves after a while.
    let mut alone = Group::new();
    (alone.discovery, alone.shown_at_once) = (SECOND / 2, false);
    alone.join(everywhere());
    alone.run_for(SECOND);
    assert_eq!(alone.engine(0).phase(), Phase::Ready);
}

#[test]
fn what_one_part_of_the_group_has_is_found_on_the_other_as_soon_as_they_meet() {
    for config in [everywhere(), backups(1)] {
        let mut group = Group::ready(2, &config);
        (0..50).for_each(|number| group.create(0, &key(number), "n", "1"));
        group.run_for(SECOND);
        group.shown_at_once = false;
        let others = [group.join(config.clone()), group.join(config)];
        group.show(others[0], others[1]);
        group.run_for(SECOND);
        for (one, other) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
            group.show(one, other);
        }
        group.settle();
        assert_eq!(group.engine(2).phase(), Phase::Ready, "it took itself for complete");
        for (number, node) in (0..50).flat_map(|number| (0..4).map(move |node| (number, node))) {
            let found = match group.get(node, &key(number)) {
                Get::Asking(ticket) => {
                    group.settle();
                    let (answered, found) = group.nodes[node].fetched.pop().expect("an answer");
                    assert_eq!(answered, ticket);
                    found.expect("everybody answers").is_some()
                }
                got => matches!(got, Get::Here(_)),
            };
            assert!(found, "entry {number} on member {node}");
        }
    }
}

#[test]
fn who_takes_a_change_knows_that_its_sender_has_it() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    group.set(0, &key, "n", "2");
    group.settle();
    let backup = holder(&group, 0, &key, 1);
    assert!(group.engine(0).at_risk().is_empty());
    assert!(group.engine(backup).at_risk().is_empty());
}

#[test]
fn what_others_have_changed_is_not_called_at_risk_for_long() {
    for (config, interval) in [(everywhere(), SECOND * 3600), (backups(1), SECOND * 3600)] {
        let mut group = Group::ready(4, &Config { repair_interval: interval, ..config });
        (0..50).for_each(|number| group.create(number as usize % 4, &key(number), "n", "1"));
        group.run_for(SECOND * 3);
        for node in 0..4 {
            assert_eq!(group.engine(node).at_risk(), Vec::<Key>::new(), "on member {node}");
        }
    }
}

#[test]
fn a_frozen_backup_gets_company() {
    let mut group = Group::ready(4, &backups(1));
    let key = owned_by(&group, 0);
    let backup = holder(&group, 0, &key, 1);
    // It takes the message, and never answers.
    let change = Change::Create { lease: SECOND * 1800, attributes: Vec::new() };
    let Ok(Commit::Waiting(_)) = group.commit(0, &key, change, Want::Copies(1)) else { panic!("it waits") };
    group.wire.clear();
    group.run_for(SECOND);
    let (_, result) = group.nodes[0].committed.pop().expect("another member has confirmed");
    assert_ne!(result.expect("there is a copy").confirmed[0], group.nodes[backup].member);
}

#[test]
fn slots_are_complete_everywhere_after_a_while() {
    let mut group = Group::ready(5, &backups(2));
    group.run_for(SECOND * 30);
    for slot in 0..SLOTS {
        for node in &group.nodes {
            let engine = node.engine.as_ref().expect("it runs");
            assert_eq!(engine.slots[usize::from(slot)].complete, engine.placement.rank(slot, &node.member).is_some());
        }
    }
    assert!(group.nodes.iter().all(|node| node.engine.as_ref().expect("it runs").oldest_difference().is_none()));
}

#[test]
fn hostile_bytes_change_nothing() {
    let mut group = Group::ready(2, &backups(1));
    let sender = group.nodes[1].member.clone();
    let bodies: [&[u8]; 4] = [b"", b"\xf5TRs", b"\xf5TRs\x02\x01\0\0\0\0\0\0\0\0", b"\xf5TRs\x01\xff\0\0\0\0\0\0\0\0"];
    for body in bodies {
        assert!(!group.with(0, |engine, now| engine.receive(now, &sender, body)));
    }
    let counters = group.engine(0).counters();
    assert_eq!((counters.malformed, counters.unknown), (2, 2));
    assert!(Record::default().attributes.is_empty());
}

#[test]
fn a_tombstone_may_be_kept_for_any_time() {
    let mut group = Group::ready(2, &backups(1));
    let sender = group.nodes[1].member.clone();
    let record = Arc::new(Record::tombstone(Version { time: 5, node: 7 }));
    let entry = message::Entry { key: key(1).into(), record, base: None, idle: u64::MAX, keep: u64::MAX };
    let body = codec::encode(0, &message::Message::Put(vec![entry]));
    for _ in ["it is new", "it is there"] {
        assert!(group.with(0, |engine, now| engine.receive(now, &sender, &body)));
    }
    group.run_for(SECOND * 20);
    assert_eq!(group.engine(0).table.len(), 1);
}

fn leased(lease: Duration) -> Change {
    Change::Create { lease, attributes: vec![("n".into(), Some("1".into()))] }
}

/// Sweeps often enough for tests of seconds.
fn brisk() -> Config {
    Config { expiry_interval: Duration::from_millis(640), ..backups(1) }
}

#[test]
fn an_idle_entry_expires_on_all_replicas() {
    let mut group = Group::ready(3, &brisk());
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND * 3);
    assert_eq!(holders_of(&group, &key), 2);
    group.run_for(SECOND * 4);
    assert_eq!(holders_of(&group, &key), 0);
    let expired = |node: &testkit::Node| node.events.iter().filter(|event| matches!(event.what, What::Expired { .. })).count();
    assert_eq!(group.nodes.iter().map(expired).sum::<usize>(), 2, "either holder tells its listeners once");
    assert!(matches!(group.get(0, &key), Get::Absent));
}

#[test]
fn reads_on_the_backup_keep_an_entry_alive_and_cost_few_messages() {
    let mut group = Group::ready(2, &brisk());
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND);
    let (before, idle) = (group.engine(1).counters().messages, group.engine(0).counters().messages);
    for _ in 0..200 {
        group.run_for(SECOND / 10);
        assert!(matches!(group.get(1, &key), Get::Here(_)));
    }
    let touches = group.engine(1).counters().messages - before;
    assert!(
        touches <= 20 + 3 * 4,
        "one a second, and the comparisons: {touches}, beside {}",
        group.engine(0).counters().messages - idle
    );
    group.run_for(SECOND * 8);
    assert_eq!(holders_of(&group, &key), 0, "and then it expires");
}

#[test]
fn the_owner_asks_before_it_lets_an_entry_expire() {
    let mut group = Group::ready(2, &brisk());
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND);
    // All that the backup tells of its accesses is lost; the owner's question is not.
    for _ in 0..80 {
        group.run_for(SECOND / 10);
        assert!(matches!(group.get(1, &key), Get::Here(_)));
        group.wire.clear();
    }
    assert_eq!(holders_of(&group, &key), 2);
}

#[test]
fn an_entry_that_expired_on_one_side_lives_on_when_the_other_used_it() {
    let mut group = Group::ready(2, &brisk());
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 4), Want::None).is_ok());
    group.settle();
    let members = [0, 1].map(|node| group.nodes[node].member.clone());
    group.with(0, |engine, now| engine.member_removed(now, &members[1]));
    group.with(1, |engine, now| engine.member_removed(now, &members[0]));
    for _ in 0..8 {
        group.run_for(SECOND);
        assert!(matches!(group.get(1, &key), Get::Here(_)));
    }
    assert!(group.engine(0).peek(&key).is_none(), "nobody used it here");
    group.with(0, |engine, now| engine.member_added(now, &members[1]));
    group.with(1, |engine, now| engine.member_added(now, &members[0]));
    group.run_for(SECOND * 2);
    assert_eq!(group.value(0, &key, "n").as_deref(), Some(&b"1"[..]));
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
}

#[test]
fn an_entry_expires_once_although_its_owner_was_not_told_of_the_last_access() {
    let mut group = Group::ready(2, &Config { repair_interval: SECOND * 600, ..brisk() });
    let key = owned_by(&group, 0);
    assert!(group.commit(1, &key, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND);
    assert!(matches!(group.get(1, &key), Get::Here(_)));
    assert_eq!(group.wire.len(), 1, "what tells the owner of it");
    group.wire.clear();
    group.run_for(SECOND * 20);
    assert_eq!(holders_of(&group, &key), 0);
    let expired = |node: &testkit::Node| node.events.iter().filter(|event| matches!(event.what, What::Expired { .. })).count();
    assert_eq!(group.nodes.iter().map(expired).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn an_overdue_guest_is_handed_over_and_not_expired() {
    let mut group = Group::ready(2, &Config { copies: Copies::Backups(0), ..brisk() });
    let key = owned_by(&group, 0);
    group.nodes[0].deaf = true;
    assert!(group.commit(1, &key, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND * 10);
    assert!(group.engine(1).peek(&key).is_some(), "it is not the guest's to end");
    assert!(!group.nodes[1].events.iter().any(|event| matches!(event.what, What::Expired { .. })));
    group.nodes[0].deaf = false;
    group.run_for(SECOND * 20);
    assert!(!group.nodes[1].events.iter().any(|event| matches!(event.what, What::Expired { .. })));
    assert!(group.nodes[0].events.iter().any(|event| matches!(event.what, What::Expired { .. })), "but the owner's");
    assert_eq!(holders_of(&group, &key), 0);
}

#[test]
fn an_old_tombstone_does_not_make_a_new_entry_look_idle() {
    let mut group = Group::ready(2, &brisk());
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 30), Want::None).is_ok());
    assert!(group.commit(0, &key, Change::Remove, Want::None).is_ok());
    let buried = group.engine(0).whole(&key).expect("a tombstone");
    let Change::Create { lease, attributes } = leased(SECOND * 30) else { unreachable!("that is what it is") };
    assert!(group.commit(0, &key, Change::Replace { lease, attributes }, Want::None).is_ok());
    group.settle();
    // Somebody who was away has the tombstone still, and says for how long.
    let late = message::Entry { idle: 3_600_000, ..buried };
    let from = group.nodes[1].member.clone();
    let put = codec::encode(0, &message::Message::Put(vec![late]));
    assert!(group.with(0, |engine, now| engine.receive(now, &from, &put)));
    group.run_for(SECOND * 10);
    assert!(group.engine(0).peek(&key).is_some(), "it was used ten seconds ago");
}

#[test]
fn dead_entries_are_forgotten_in_the_end() {
    let config = Config { tombstone_life: SECOND * 5, ..brisk() };
    let mut group = Group::ready(2, &config);
    assert!(group.commit(0, &key(1), leased(SECOND), Want::None).is_ok());
    assert!(group.commit(0, &key(1), Change::Remove, Want::None).is_ok());
    group.run_for(SECOND * 3);
    assert_eq!((group.engine(0).table.len(), group.engine(1).table.len()), (1, 1));
    group.run_for(SECOND * 5);
    assert_eq!((group.engine(0).table.len(), group.engine(1).table.len()), (0, 0));
}

#[test]
fn of_two_that_replace_the_same_version_one_wins_wherever_they_are() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let version = group.engine(0).peek(&key).and_then(|record| record.attribute("n")).expect("it is there").version;
    for (node, value) in [(1, "2"), (2, "3")] {
        group.with(node, |engine, now| engine.swap(now, &key, "n".into(), version, Some(value.into()), Want::Copies(1)));
    }
    group.settle();
    let outcomes: Vec<_> = (1..3).map(|node| group.nodes[node].swapped.pop().expect("each is answered").1).collect();
    assert!(outcomes[0].is_ok());
    assert!(matches!(outcomes[1], Err(SwapFault::Conflict(current)) if current > version));
    assert_eq!(group.value(0, &key, "n").as_deref(), Some(&b"2"[..]));
}

/// The version of the attribute `n`.
fn version_of(group: &Group, node: usize, key: &[u8]) -> Version {
    group.engine(node).peek(key).and_then(|record| record.attribute("n")).expect("it is there").version
}

/// Hands over the first message that is on its way from one member to another.
fn hand_over_one(group: &mut Group, from: usize, to: usize) {
    let at = group.wire.iter().position(|packet| (packet.from, packet.to) == (from, to)).expect("a message is on its way");
    let packet = group.wire.remove(at).expect("it is there");
    group.hand_over(packet);
}

#[test]
fn a_new_owner_decides_nothing_before_it_knows_what_the_old_one_decided() {
    let mut group = Group::ready(3, &backups(0));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let version = version_of(&group, 0, &key);
    let heir = group.engine(0).placement.order(slot_of(&key))[1].clone();
    let heir = group.nodes.iter().position(|node| node.member == heir).expect("it is one of the group");
    let other = 3 - heir;
    // The heir has looked at the entry, and does not hear of the write that follows.
    assert!(matches!(group.get(heir, &key), Get::Asking(_)));
    group.settle();
    assert_eq!(group.value(heir, &key, "n").as_deref(), Some(&b"1"[..]));
    group.with(0, |engine, now| engine.swap(now, &key, "n".into(), version, Some("2".into()), Want::None));
    assert!(matches!(group.nodes[0].swapped.pop(), Some((_, Ok(_)))));
    group.with(0, |engine, now| engine.drain(now));
    [heir, other].into_iter().for_each(|node| hand_over_one(&mut group, 0, node));
    assert_eq!((holder(&group, heir, &key, 0), holder(&group, other, &key, 0)), (heir, heir));
    // The transfer is slower than a swap.
    group.with(other, |engine, now| engine.swap(now, &key, "n".into(), version, Some("3".into()), Want::None));
    for (from, to) in [(other, heir), (heir, other)] {
        while group.wire.iter().any(|packet| (packet.from, packet.to) == (from, to)) {
            hand_over_one(&mut group, from, to);
        }
    }
    let answer = group.nodes[other].swapped.pop();
    assert!(matches!(answer, Some((_, Err(SwapFault::Silent)))), "{answer:?}");
    group.run_for(SECOND * 5);
    group.with(other, |engine, now| engine.swap(now, &key, "n".into(), version, Some("3".into()), Want::None));
    group.settle();
    assert!(matches!(group.nodes[other].swapped.pop(), Some((_, Err(SwapFault::Conflict(_))))));
    assert_eq!(group.value(heir, &key, "n").as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_member_that_knows_nobody_swaps_what_it_has_while_it_looks_around() {
    let mut group = Group::new();
    group.discovery = SECOND * 60;
    let only = group.join(backups(1));
    group.create(only, &key(1), "n", "1");
    let version = version_of(&group, only, &key(1));
    group.with(only, |engine, now| engine.swap(now, &key(1), "n".into(), version, Some("2".into()), Want::None));
    assert!(matches!(group.nodes[only].swapped.pop(), Some((_, Ok(_)))));
}

#[test]
fn a_removed_attribute_is_swapped_by_the_version_of_its_removal() {
    let mut group = Group::ready(2, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let mut swap = |expected, value: Option<&'static str>| {
        group.with(1, |engine, now| engine.swap(now, &key, "n".into(), expected, value.map(Into::into), Want::None));
        group.settle();
        group.nodes[1].swapped.pop().expect("it is answered").1
    };
    let Err(SwapFault::Conflict(first)) = swap(Version::ZERO, Some("2")) else { panic!("it was written before") };
    let removed = swap(first, None).expect("nobody else writes").version;
    assert!(matches!(swap(Version::ZERO, Some("2")), Err(SwapFault::Conflict(current)) if current == removed));
    assert!(swap(removed, Some("2")).is_ok());
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_swap_whose_entry_is_removed_meanwhile_is_told_so_wherever_it_was_asked_for() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let version = version_of(&group, 0, &key);
    let backup = holder(&group, 0, &key, 1);
    let other = 3 - backup;
    group.with(other, |engine, now| engine.swap(now, &key, "n".into(), version, Some("2".into()), Want::Copies(1)));
    hand_over_one(&mut group, other, 0);
    // Before the backup hears of it.
    assert!(group.commit(backup, &key, Change::Remove, Want::None).is_ok());
    hand_over_one(&mut group, backup, 0);
    group.run_for(SECOND * 20);
    assert!(matches!(group.nodes[other].swapped[..], [(_, Err(SwapFault::Absent))]), "once");
}

#[test]
fn a_swap_that_nobody_answers_ends_once() {
    let mut group = Group::ready(2, &backups(1));
    let key = owned_by(&group, 0);
    group.nodes[0].deaf = true;
    group.with(1, |engine, now| engine.swap(now, &key, "n".into(), Version::ZERO, Some("2".into()), Want::None));
    group.run_for(SECOND * 20);
    group.crash(0);
    assert!(matches!(group.nodes[1].swapped[..], [(_, Err(SwapFault::Silent))]));
}

#[test]
fn a_swap_is_answered_when_its_owner_dies() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    group.with(1, |engine, now| engine.swap(now, &key, "n".into(), Version::ZERO, Some("2".into()), Want::None));
    group.crash(0);
    assert!(matches!(group.nodes[1].swapped.pop(), Some((_, Err(SwapFault::Silent)))));
}

#[test]
fn a_swap_by_the_owner_itself_waits_for_its_copies() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let ticket =
        group.with(0, |engine, now| engine.swap(now, &key, "m".into(), Version::ZERO, Some("2".into()), Want::Copies(1)));
    assert!(group.nodes[0].swapped.is_empty());
    group.settle();
    let (answered, result) = group.nodes[0].swapped.pop().expect("it is answered");
    assert_eq!((answered, result.expect("it is written").confirmed.len()), (ticket, 1));
}

#[test]
fn nobody_waits_for_more_copies_than_are_kept() {
    let mut group = Group::ready(3, &backups(0));
    let key = owned_by(&group, 0);
    let change = Change::Create { lease: SECOND * 1800, attributes: Vec::new() };
    let Ok(Commit::Done(committed)) = group.commit(0, &key, change, Want::Copies(1)) else {
        panic!("a copy would be let go of at once")
    };
    assert_eq!((committed.wanted, committed.confirmed.len()), (0, 0));
}

#[test]
fn a_read_does_not_believe_a_guest_while_a_holder_may_still_answer() {
    let mut group = Group::ready(5, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let backup = holder(&group, 0, &key, 1);
    let reader = (1..5).find(|node| *node != backup).expect("three do not hold it");
    let old = group.engine(0).whole(&key).expect("it is here");
    assert!(group.commit(0, &key, Change::Remove, Want::None).is_ok());
    group.settle();
    let Get::Asking(ticket) = group.get(reader, &key) else { panic!("it is not here") };
    // The questions to the holders are under way for long. One that is no holder, and has an old copy, answers first.
    let mut late = Vec::new();
    let guest = loop {
        match group.wire.pop_front() {
            Some(packet) if packet.from == reader && (packet.to == 0 || packet.to == backup) => late.push(packet),
            Some(packet) if packet.from == reader && late.len() == 2 => break packet.to,
            Some(packet) => group.hand_over(packet),
            None => {
                group.now += Duration::from_millis(500);
                group.with(reader, |engine, now| engine.timeout(now));
            }
        }
    };
    let from = group.nodes[guest].member.clone();
    let answer = message::Message::Fetched { request: ticket, answer: message::Found::Entry(Box::new(old)) };
    assert!(group.with(reader, |engine, now| engine.receive(now, &from, &codec::encode(0, &answer))));
    assert!(group.nodes[reader].fetched.is_empty(), "a holder may still know better");
    late.into_iter().for_each(|packet| group.wire.push_back(packet));
    group.settle();
    let (_, found) = group.nodes[reader].fetched.pop().expect("a holder has answered");
    assert!(found.expect("it knows").is_none(), "the entry was removed");
}

#[test]
fn a_copy_that_its_holders_turn_out_to_have_is_still_the_answer_to_a_read() {
    let mut group = Group::ready(4, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let backup = holder(&group, 0, &key, 1);
    let reader = (1..4).find(|node| *node != backup).expect("two do not hold it");
    // The backup has confirmed the reader's copy; the owner, which is asked first, is the last that it is kept for.
    for _ in 0..2 {
        let Get::Asking(_) = group.get(reader, &key) else { panic!("it is not here") };
        group.settle();
        let mark = group.engine(reader).placement.rank(slot_of(&key), &group.nodes[backup].member).map_or(0, bit);
        group.with(reader, |engine, _| engine.table.note(&key, |held| held.copies = mark));
        let (_, found) = group.nodes[reader].fetched.pop().expect("the owner answers");
        assert!(found.expect("it has it").is_some());
    }
}

mod letting_go;
