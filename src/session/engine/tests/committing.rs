//! Changes, their confirmations, and how many copies there are.

use super::super::message::Entry;
use super::super::receive::Taken;
use super::super::record::Attribute;
use super::super::version::Version;
use super::*;

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
fn a_rename_has_one_version_although_a_runaway_clock_has_stamped_the_entry() {
    let mut group = Group::ready(1, &backups(0));
    group.create(0, &key(1), "n", "1");
    let mut stamped = (**group.engine(0).peek(&key(1)).expect("it is here")).clone();
    stamped.touched += u64::MAX / 4;
    group.with(0, |engine, _| engine.table.change(&key(1), |held| held.record = Arc::new(stamped)));
    let to = (1000..).map(key).find(|other| slot_of(other) == slot_of(&key(1))).expect("some key falls into the same slot");
    let read = Arc::clone(group.engine(0).peek(&key(1)).expect("it is here"));
    let change = Change::Rename { read, to: to.as_slice().into(), lease: None, attributes: Vec::new() };
    assert!(group.commit(0, &key(1), change, Want::None).is_ok());
    let table = &group.engine(0).table;
    let [old, new] = [&key(1), &to].map(|key| table.get(key).expect("remembered").record.clone());
    assert_eq!(old.end.death, new.birth);
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
fn hostile_bytes_change_nothing() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "n", "1");
    group.settle();
    let before = group.engine(0).table.len();
    let sender = group.nodes[1].member.clone();
    let bodies: [&[u8]; 4] = [b"", b"\xf5TRs", b"\xf5TRs\x02\x01\0\0\0\0\0\0\0\0", b"\xf5TRs\x01\xff\0\0\0\0\0\0\0\0"];
    for body in bodies {
        assert!(!group.with(0, |engine, now| engine.receive(now, &sender, body)));
    }
    let engine = group.engine(0);
    assert_eq!((engine.counters().malformed, engine.counters().unknown), (2, 2));
    assert_eq!((engine.table.len(), engine.others()), (before, 1));
    assert_eq!(group.value(0, &key(1), "n").as_deref(), Some(&b"1"[..]));
    assert!(group.wire.is_empty(), "nor is there an answer");
}

#[test]
fn an_entry_with_as_many_attributes_as_may_be_can_still_be_changed() {
    let mut group = Group::ready(1, &backups(0));
    let attributes = (0..MAX_ATTRIBUTES).map(|number| (number.to_string().into(), Some("1".into()))).collect();
    assert!(group.commit(0, &key(1), Change::Create { lease: SECOND, attributes }, Want::None).is_ok());
    group.set(0, &key(1), "17", "2");
    assert_eq!(group.value(0, &key(1), "17").as_deref(), Some(&b"2"[..]));
    let read = group.engine(0).peek(&key(1)).expect("it is there").clone();
    let change = Change::Update { read, lease: None, attributes: vec![("one more".into(), Some("1".into()))] };
    assert!(matches!(group.commit(0, &key(1), change, Want::None), Err(Refusal::TooLarge)));
}

#[test]
fn an_entry_does_not_grow_beyond_its_limit_change_by_change() {
    let mut group = Group::ready(1, &backups(0));
    group.create(0, &key(1), "a", "1");
    let half = Bytes::from(vec![0; MAX_ENTRY / 2]);
    let mut set = |name: &'static str, value: Bytes| {
        let read = group.engine(0).peek(&key(1)).expect("it is there").clone();
        let change = Change::Update { read, lease: None, attributes: vec![(name.into(), Some(value))] };
        group.commit(0, &key(1), change, Want::None).map(drop)
    };
    assert_eq!(set("b", half.clone()), Ok(()));
    assert_eq!(set("c", half.clone()), Err(Refusal::TooLarge));
    assert_eq!(set("b", half), Ok(()), "in place of what was there");
    assert_eq!(set("a", "22".into()), Ok(()));
}

#[test]
fn entries_do_not_grow_beyond_the_bytes_that_a_member_may_hold() {
    let small = Config { max_bytes: 20_000, ..everywhere() };
    let mut group = Group::new();
    [everywhere(), small].into_iter().for_each(|config| _ = group.join(config));
    group.run_for(SECOND);
    let kilobyte: &'static str = String::from_utf8(vec![b'x'; 1000]).expect("it is text").leak();
    group.create(0, &key(1), "0", kilobyte);
    for number in 1..40_u32 {
        group.set(0, &key(1), number.to_string().leak(), kilobyte);
        group.settle();
    }
    let full = group.engine(1);
    assert!(full.table.bytes() <= 20_000, "{}", full.table.bytes());
    assert!(full.counters().refused > 0);
    let read = full.peek(&key(1)).expect("it is there").clone();
    let grow =
        Change::Update { read: read.clone(), lease: None, attributes: vec![("more".into(), Some(kilobyte.repeat(9).into()))] };
    assert!(matches!(group.commit(1, &key(1), grow, Want::None), Err(Refusal::Full)));
    let shrink = Change::Update { read, lease: None, attributes: vec![("0".into(), None)] };
    assert!(group.commit(1, &key(1), shrink, Want::None).is_ok(), "it may become smaller");
    assert!(group.commit(1, &key(1), Change::Remove { read: None }, Want::None).is_ok(), "and go");
}

#[test]
fn a_value_that_stays_makes_no_room_for_what_comes_with_an_older_one() {
    let small = Config { max_bytes: 4096, ..everywhere() };
    let mut group = Group::ready(1, &small);
    let large: &'static str = String::from_utf8(vec![b'x'; 3000]).expect("it is text").leak();
    group.create(0, &key(1), "large", large);
    let here = group.engine(0).peek(&key(1)).expect("it is there").clone();
    let (birth, later) = (here.birth, Version { time: here.birth.time + 1, node: 7 });
    let mut record = Record::born(birth, 0);
    record.put(Attribute { name: "large".into(), version: Version { time: birth.time - 1, node: 7 }, value: Some("x".into()) });
    record.put(Attribute { name: "more".into(), version: later, value: Some(vec![b'x'; 2000].into()) });
    let entry = Entry { key: key(1).into(), record: Arc::new(record), base: None, idle: 0, keep: 0 };
    let taken = group.with(0, |engine, _| engine.take(entry));
    let bytes = group.engine(0).table.bytes();
    assert!(taken == Taken::Full && bytes <= 4096, "{bytes} bytes of 4096");
}

#[test]
fn writers_that_take_turns_are_no_conflict() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "n", "1");
    group.settle();
    for turn in 0..4 {
        group.set(1 - turn % 2, &key(1), "n", "2");
        group.settle();
    }
    assert!((0..2).all(|node| group.engine(node).counters().conflicts == 0), "each had seen what it replaced");
}

#[test]
fn an_entry_that_is_larger_than_the_room_that_is_left_is_refused() {
    let config = Config { max_bytes: 4096, ..everywhere() };
    let mut group = Group::ready(1, &everywhere());
    let small = group.join(config);
    group.run_for(SECOND);
    let large = |bytes: usize| Change::Create {
        lease: 1800 * SECOND,
        attributes: vec![("large".into(), Some(Bytes::from(vec![0; bytes])))],
    };
    let refused = group.commit(small, &key(1), large(5000), Want::None);
    assert_eq!(refused.expect_err("there is no room"), Refusal::Full);
    group.commit(0, &key(2), large(5000), Want::None).expect("here is room");
    group.create(0, &key(3), "a0", "");
    group.settle();
    // Names without values take room as well.
    for name in 1..200 {
        group.set(0, &key(3), &format!("a{name}"), "");
        group.settle();
    }
    let bytes = group.engine(small).table.bytes();
    assert!((1..=4096).contains(&bytes), "{bytes} bytes");
}
