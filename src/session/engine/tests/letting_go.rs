//! Members that let go of copies, while they do not agree on who is to hold them.

use super::*;

#[test]
fn who_takes_over_from_one_that_leaves_unannounced_keeps_it() {
    let mut group = Group::ready(2, &backups(0));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    group.with(0, |engine, now| engine.drain(now));
    // That it leaves is not heard, and so the other takes it for the holder still.
    group.wire.clear();
    group.run_for(Duration::from_millis(300));
    assert!(group.nodes[0].drained, "what it had was taken");
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
    group.crash(0);
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
}

#[test]
fn two_that_take_each_other_for_the_holder_do_not_both_let_go() {
    let mut group = Group::ready(2, &backups(0));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    read(&mut group, 1, &key);
    // Somebody counts on the copy that was only looked at; and its owner leaves, which is not heard.
    group.with(1, |engine, _| engine.counted_on(&key));
    group.with(0, |engine, now| engine.drain(now));
    group.wire.clear();
    // Each offers what it has to the other before it hears of the other's offer.
    group.now += Duration::from_millis(150);
    [0, 1].into_iter().for_each(|node| group.with(node, |engine, now| engine.timeout(now)));
    assert!(group.wire.iter().any(|packet| packet.from == 0) && group.wire.iter().any(|packet| packet.from == 1));
    group.settle();
    assert!(holders_of(&group, &key) > 0, "somebody has it");
    group.run_for(SECOND * 3);
    assert!(group.nodes[0].drained);
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_confirmation_from_before_somebody_counted_on_this_member_is_none() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(writer, &key, "n", "1");
    // Both holders take it; before their answers are heard, another asks for it.
    group.with(writer, |engine, _| engine.counted_on(&key));
    group.settle();
    assert!(group.value(writer, &key, "n").is_some(), "it is still counted on");
    group.run_for(SECOND * 2);
    assert!(group.value(writer, &key, "n").is_none(), "it was asked for anew");
}

#[test]
fn a_hello_that_was_taken_does_not_stand_for_a_later_one_that_was_lost() {
    let mut group = Group::ready(2, &backups(1));
    let other = group.nodes[1].member.clone();
    group.with(0, |engine, now| engine.member_added(now, &other));
    let early = group.wire.pop_front().expect("a hello");
    group.with(0, |engine, now| engine.drain(now));
    group.wire.clear();
    group.hand_over(early);
    group.run_for(SECOND);
    let leaver = group.nodes[0].member.clone();
    assert_eq!(group.engine(1).peers.phase_of(&leaver), Some(Phase::Leaving));
}

#[test]
fn a_hello_that_asked_and_was_lost_is_not_forgotten_over_one_that_tells() {
    let mut group = Group::ready(2, &backups(1));
    let other = group.nodes[1].member.clone();
    group.with(0, |engine, now| engine.member_removed(now, &other));
    group.with(0, |engine, now| engine.member_added(now, &other));
    group.wire.clear();
    group.with(0, |engine, now| engine.drain(now));
    group.run_for(SECOND);
    assert_eq!(group.engine(0).peers.phase_of(&other), Some(Phase::Ready));
}

#[test]
fn a_commit_is_not_confirmed_by_what_lacks_it() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
    let old = read(&mut group, writer, &key);
    let Ok(Commit::Waiting(ticket)) = group.commit(writer, &key, write(&old, "n", "2"), Want::All) else { panic!("it waits") };
    group.wire.clear();
    // Its own copy has become an old one again.
    group.with(writer, |engine, _| {
        let now = engine.millis();
        engine.table.insert(&key, table::Held::new(old, now));
    });
    let holders = group.engine(writer).holders_but_me(slot_of(&key));
    holders.into_iter().for_each(|holder| group.with(writer, |engine, _| engine.ask(ticket, holder)));
    group.settle();
    assert!(group.nodes[writer].committed.is_empty(), "nobody has the change");
}

#[test]
fn a_copy_that_was_only_looked_at_is_kept_once_it_is_offered_to_somebody() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let reader = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
    read(&mut group, reader, &key);
    // Another, that takes the reader for a holder, hears that it has the entry, and lets its own copy go.
    let backup = holder(&group, 0, &key, 1);
    let slot = slot_of(&key);
    let reading = group.nodes[reader].member.clone();
    group.with(backup, |engine, _| engine.offer(slot, &reading));
    group.settle();
    for node in [0, backup] {
        group.with(node, |engine, _| engine.table.remove(&key));
    }
    group.run_for(SECOND * 3);
    assert_eq!(group.value(0, &key, "n").as_deref(), Some(&b"1"[..]), "it was handed over, not dropped");
}

#[test]
fn a_member_that_enters_the_context_again_is_taken_for_a_new_one() {
    let mut group = Group::ready(2, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    // It stops without a word, and starts anew on the same channel, under the same id: with nothing.
    let (local, other) = (group.nodes[1].member.clone(), group.nodes[0].member.clone());
    let config = Config { life: 1, discovery: Duration::from_millis(1), ..backups(1) };
    group.nodes[1].engine = Some(Engine::new(config, local.clone(), group.time()));
    group.with(1, |engine, now| engine.member_added(now, &other));
    while group.engine(0).peers.phase_of(&local) != Some(Phase::Joining) {
        let packet = group.wire.pop_front().expect("it says hello");
        group.hand_over(packet);
    }
    assert_eq!(group.engine(0).at_risk().len(), 1, "its copy is gone");
    // And leaves: what it says in its next life is not overtaken by that.
    group.run_for(SECOND);
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
    group.with(1, |engine, now| engine.drain(now));
    group.run_for(SECOND);
    let config = Config { life: 2, discovery: Duration::from_millis(1), ..backups(1) };
    group.nodes[1].engine = Some(Engine::new(config, local.clone(), group.time()));
    group.with(1, |engine, now| engine.member_added(now, &other));
    group.run_for(SECOND);
    assert_eq!(group.engine(0).peers.phase_of(&local), Some(Phase::Ready));
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
}

#[test]
fn an_acknowledgement_of_an_earlier_life_confirms_nothing() {
    let mut group = Group::ready(2, &backups(1));
    let key = owned_by(&group, 0);
    let change = Change::Create { lease: SECOND * 1800, attributes: vec![("n".into(), Some("1".into()))] };
    let begun = group.commit(0, &key, change, Want::AtLeast(1));
    assert!(matches!(begun, Ok(Commit::Waiting(_))));
    let put = group.wire.pop_front().expect("it goes to the backup");
    // The backup took it in, left the context and came back, and its hello overtakes the acknowledgement.
    let (local, other) = (group.nodes[1].member.clone(), group.nodes[0].member.clone());
    let config = Config { life: 1, discovery: Duration::from_millis(1), ..backups(1) };
    group.nodes[1].engine = Some(Engine::new(config, local.clone(), group.time()));
    group.with(1, |engine, now| engine.member_added(now, &other));
    let hello = group.wire.pop_front().expect("it says hello");
    group.hand_over(hello);
    group.with(0, |engine, now| engine.sent(now, put.token.expect("its outcome matters"), &local, Outcome::Accepted));
    assert!(group.nodes[0].committed.is_empty(), "{:?}", group.nodes[0].committed);
    group.run_for(SECOND);
    let (_, result) = group.nodes[0].committed.pop().expect("it is asked again");
    assert_eq!(result.expect("it has it now").confirmed, [local]);
    assert_eq!(group.value(1, &key, "n").as_deref(), Some(&b"1"[..]));
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
fn what_is_pulled_too_late_is_handed_over_again() {
    const CHUNK: u8 = 7;
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let (third, backup) = (stranger(&group, &key), holder(&group, 0, &key, 1));
    // For a moment it does not see the owner, and so takes itself for a holder.
    let owner = group.nodes[0].member.clone();
    group.with(third, |engine, now| engine.member_removed(now, &owner));
    let mut late = Vec::new();
    while let Some(packet) = group.wire.pop_front() {
        let is_chunk = (packet.from, packet.to) == (backup, third) && packet.body[5] == CHUNK;
        if is_chunk { late.push(packet) } else { group.hand_over(packet) }
    }
    group.show(third, 0);
    group.settle();
    group.run_for(SECOND);
    assert!(!late.is_empty(), "it has pulled");
    late.into_iter().for_each(|packet| group.hand_over(packet));
    assert!(group.engine(third).peek(&key).is_some());
    group.run_for(SECOND * 3);
    assert!(group.agrees(), "it keeps what others hold");
}
