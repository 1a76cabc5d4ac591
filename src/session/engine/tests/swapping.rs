//! Writes that are made only if nobody else has written.

use super::*;

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
    assert!(group.commit(backup, &key, Change::Remove { read: None }, Want::None).is_ok());
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
fn a_receipt_for_a_write_by_another_member_names_all_that_hold_it() {
    let mut group = Group::ready(5, &backups(2));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let [backup, another] = [1, 2].map(|rank| holder(&group, 0, &key, rank));
    let stranger = (1..5).find(|node| ![backup, another].contains(node)).expect("two hold nothing of it");
    for (asking, wanted, others) in [(stranger, 3, vec![0, backup, another]), (backup, 2, vec![0, another])] {
        let version = version_of(&group, 0, &key);
        group.with(asking, |engine, now| engine.swap(now, &key, "n".into(), version, Some("2".into()), Want::All));
        group.settle();
        let committed = group.nodes[asking].swapped.pop().expect("it is answered").1.expect("nobody else writes");
        let mut confirmed: Vec<_> = committed.confirmed.iter().map(Member::id).collect();
        let mut expected: Vec<_> = others.into_iter().map(|node: usize| group.nodes[node].member.id()).collect();
        confirmed.sort_unstable();
        expected.sort_unstable();
        assert_eq!((committed.wanted, confirmed), (wanted, expected));
    }
    let version = version_of(&group, 0, &key);
    group.with(stranger, |engine, now| engine.swap(now, &key, "n".into(), version, Some("3".into()), Want::None));
    group.settle();
    let committed = group.nodes[stranger].swapped.pop().expect("it is answered").1.expect("nobody else writes");
    assert_eq!((committed.wanted, committed.confirmed.len()), (3, 1), "only the owner, as nobody was waited for");
}

#[test]
fn a_member_has_only_so_many_decisions_waiting_with_another() {
    let mut group = Group::ready(3, &Config { swap_creates: true, ..backups(1) });
    let owner = group.engine(0);
    let owned: Vec<_> =
        (0..).map(key).filter(|key| owner.placement.rank(slot_of(key), owner.local()) == Some(0)).take(4097).collect();
    for key in &owned {
        group.with(1, |engine, now| engine.swap(now, key, "n".into(), Version::ZERO, Some("1".into()), Want::Copies(1)));
    }
    owned.iter().for_each(|_| hand_over_one(&mut group, 1, 0));
    let answers = group.wire.iter().filter(|packet| (packet.from, packet.to, packet.token) == (0, 1, None)).count();
    assert_eq!((answers, group.engine(0).counters().refused), (1, 1), "no copy is confirmed yet, and one is not even decided");
    group.settle();
    let decided = group.nodes[1].swapped.iter().filter(|(_, result)| result.is_ok()).count();
    assert_eq!((decided, group.nodes[1].swapped.len()), (4096, 4097));
    group.with(1, |engine, now| engine.swap(now, &owned[4096], "n".into(), Version::ZERO, Some("1".into()), Want::Copies(1)));
    group.settle();
    assert!(matches!(group.nodes[1].swapped.last(), Some((_, Ok(_)))), "there is room again");
}

#[test]
fn a_backup_that_replaces_is_one_of_the_wanted_copies_before_it_has_confirmed() {
    let mut group = Group::ready(3, &everywhere());
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "0");
    group.settle();
    let read = version_of(&group, 1, &key);
    let ticket = group.with(1, |engine, now| engine.swap(now, &key, "n".into(), read, Some("1".into()), Want::Copies(1)));
    hand_over_one(&mut group, 1, 0);
    // The other backup has it first, and that is enough.
    hand_over_one(&mut group, 0, 2);
    let answer = group.wire.iter().rposition(|packet| (packet.from, packet.to) == (0, 1)).expect("it is answered");
    let answer = group.wire.remove(answer).expect("it is there");
    group.hand_over(answer);
    let (answered, result) = group.nodes[1].swapped.pop().expect("it is answered");
    let receipt = result.expect("it was the expected version");
    assert_eq!((answered, receipt.wanted, receipt.confirmed.len()), (ticket, 2, 2), "{receipt:?}");
}

#[test]
fn the_receipt_of_one_whose_leaving_is_not_heard_does_not_count_itself() {
    let mut group = Group::ready(3, &everywhere());
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let version = version_of(&group, 0, &key);
    group.with(1, |engine, now| engine.drain(now));
    group.wire.clear();
    group.with(1, |engine, now| engine.swap(now, &key, "n".into(), version, Some("2".into()), Want::None));
    group.settle();
    let (_, answer) = group.nodes[1].swapped.pop().expect("it is answered");
    assert_eq!(answer.expect("it is made").wanted, 2, "the two others");
}

#[test]
fn the_receipt_of_one_that_leaves_meanwhile_counts_it_among_those_asked() {
    let mut group = Group::ready(2, &everywhere());
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let version = version_of(&group, 0, &key);
    group.with(1, |engine, now| engine.swap(now, &key, "n".into(), version, Some("2".into()), Want::None));
    hand_over_one(&mut group, 1, 0);
    group.with(1, |engine, now| engine.drain(now));
    group.settle();
    let (_, answer) = group.nodes[1].swapped.pop().expect("it is answered");
    assert_eq!(answer.expect("it is made").wanted, 1, "two members, and one of them has asked");
}
