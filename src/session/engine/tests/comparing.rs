//! Differences: found, repaired, and merged after a partition.

use super::*;

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
fn a_removed_entry_stays_removed_on_a_member_that_was_away() {
    let mut group = Group::ready(3, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.settle();
    group.nodes[2].deaf = true;
    assert!(group.commit(0, &key(1), Change::Remove { read: None }, Want::None).is_ok());
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
fn a_member_that_is_full_is_not_offered_the_same_without_end() {
    let mut group = Group::new();
    group.join(everywhere());
    group.join(Config { max_entries: 900, ..everywhere() });
    group.run_for(SECOND);
    for number in 0..1000 {
        group.create(0, &key(number), "n", "1");
        group.settle();
    }
    group.run_for(SECOND * 20);
    let before = group.engine(0).counters().messages;
    group.run_for(SECOND * 60);
    let sent = group.engine(0).counters().messages - before;
    // A hundred entries find no room: each is offered and given again with each comparison, and those are an interval apart.
    assert!((100..20_000).contains(&sent), "{sent} messages in a minute");
}

#[test]
fn a_difference_with_one_holder_is_not_forgotten_for_another_that_agrees() {
    const PUT: u8 = 2;
    let mut group = Group::ready(3, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.run_for(SECOND * 30);
    group.set(0, &key(1), "n", "2");
    // Nothing that would make up for it gets to the third member.
    let end = group.now + SECOND * 60;
    while group.now < end {
        group.wire.retain(|packet| packet.to != 2 || packet.body[5] != PUT);
        if let Some(packet) = group.wire.pop_front() {
            group.hand_over(packet);
            continue;
        }
        group.now += SECOND / 50;
        for node in 0..3 {
            group.with(node, |engine, now| {
                if engine.poll_timeout().is_some_and(|at| at <= now.instant) {
                    engine.timeout(now);
                }
            });
        }
    }
    assert!(group.engine(0).oldest_difference().is_some_and(|age| age > SECOND * 30));
    group.run_for(SECOND * 30);
    assert!(group.agrees());
    assert_eq!(group.engine(0).oldest_difference(), None);
}
