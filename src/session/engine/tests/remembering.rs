//! What a member knows of its own writes and removals when it does not hold the entry any more.

use super::super::message::{Entry, Found};
use super::*;

/// An entry of member 0 with the value 1 under `n`, and a member that does not hold it.
fn held_by_others() -> (Group, [u8; 4], usize) {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let stranger = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
    (group, key, stranger)
}

#[test]
fn a_write_to_an_old_state_does_not_claim_the_later_ones_of_its_member() {
    let (mut group, key, writer) = held_by_others();
    let old = read(&mut group, writer, &key);
    let Ok(Commit::Done(first)) = group.commit(writer, &key, write(&old, "a", "1"), Want::None) else { panic!("nobody waits") };
    group.settle();
    assert!(group.value(writer, &key, "a").is_none(), "it is let go of");
    // Another request of that member has read before.
    for _ in 0..3 {
        assert!(group.commit(writer, &key, write(&old, "b", "2"), Want::None).is_ok());
        let here = group.engine(writer).table.get(&key).expect("a guest").record.clone();
        assert!(here.attribute("a").is_none() && !here.seen.covers(first.version), "{here:?}");
        group.settle();
    }
    for name in ["a", "b"] {
        assert!(group.value(0, &key, name).is_some(), "{name}");
    }
}

#[test]
fn a_write_to_an_incarnation_that_was_replaced_is_remembered() {
    let (mut group, key, writer) = held_by_others();
    let old = read(&mut group, writer, &key);
    let Ok(Commit::Done(first)) = group.commit(writer, &key, write(&old, "a", "1"), Want::None) else { panic!("nobody waits") };
    // Nobody hears of it, and the guest copy becomes one of a later incarnation.
    group.wire.clear();
    let anew = Change::Replace { lease: SECOND * 1800, attributes: vec![("n".into(), Some("2".into()))] };
    assert!(group.commit(0, &key, anew, Want::None).is_ok());
    let later = group.engine(0).whole(&key).expect("it is here");
    let from = group.nodes[0].member.clone();
    let put = codec::encode(0, &Message::Put(later.into()));
    assert!(group.with(writer, |engine, now| engine.receive(now, &from, &put)));
    group.run_for(SECOND * 2);
    assert!(group.engine(writer).peek(&key).is_none(), "it is let go of");
    // Another request of that member has read the old one.
    assert!(group.commit(writer, &key, write(&old, "b", "2"), Want::None).is_ok());
    let here = group.engine(writer).peek(&key).expect("a guest").clone();
    assert!(!here.seen.covers(first.version), "{here:?}");
}

#[test]
fn a_member_does_not_read_less_than_it_wrote() {
    let (mut group, key, writer) = held_by_others();
    let before = group.engine(0).whole(&key).expect("it is here");
    let old = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, write(&old, "n", "2"), Want::None).is_ok());
    group.settle();
    // The holders' answers have crossed the write.
    let Get::Asking(request) = group.get(writer, &key) else { panic!("it is not here") };
    for node in [0, holder(&group, 0, &key, 1)] {
        group.wire.clear();
        let from = group.nodes[node].member.clone();
        let answer = Message::Fetched { request, answer: Found::Entry(Box::new(before.clone())) };
        assert!(group.with(writer, |engine, now| engine.receive(now, &from, &codec::encode(0, &answer))));
    }
    assert!(group.nodes[writer].fetched.is_empty(), "somebody has what it wrote");
    group.settle();
    let (_, found) = group.nodes[writer].fetched.pop().expect("a holder has answered");
    let found = found.expect("it knows").expect("the entry is alive");
    assert_eq!(found.value("n").map(|value| &value[..]), Some(&b"2"[..]));
}

#[test]
fn what_a_member_wrote_and_nobody_has_any_more_is_asked_for_once() {
    let mut group = Group::ready(3, &backups(1));
    // Of one who has just come nobody believes that an entry is nowhere.
    group.run_for(SECOND * 6);
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(writer, &key, "n", "1");
    group.settle();
    for node in (0..3).filter(|node| *node != writer) {
        group.with(node, |engine, _| engine.table.remove(&key));
    }
    for round in 0..2 {
        let before = group.handed;
        let Get::Asking(_) = group.get(writer, &key) else { panic!("it is not here") };
        group.settle();
        let (_, found) = group.nodes[writer].fetched.pop().expect("all have answered");
        assert!(found.expect("they know").is_none());
        assert_eq!(group.handed - before <= 2, round == 1, "it is given up");
    }
}

#[test]
fn what_a_member_that_is_alone_reads_instead_of_its_lost_write_can_be_changed() {
    let mut group = Group::ready(2, &backups(0));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let old = read(&mut group, 1, &key);
    let anew = Change::Replace { lease: SECOND * 1800, attributes: vec![("n".into(), Some("2".into()))] };
    assert!(group.commit(1, &key, anew, Want::None).is_ok());
    group.run_for(SECOND * 3);
    assert!(group.engine(1).peek(&key).is_none(), "it is let go of");
    // Its holder dies with it; somebody hands over the incarnation before, and dies as well.
    group.crash(0);
    group.run_for(SECOND * 3);
    group.with(1, |engine, now| {
        engine.at(now);
        engine.table.insert(&key, table::Held::new(Arc::clone(&old), engine.millis()))
    });
    let Get::Here(found) = group.get(1, &key) else { panic!("nobody else is there") };
    assert_eq!(found.value("n").map(|value| &value[..]), Some(&b"1"[..]));
    assert!(group.commit(1, &key, write(&found, "n", "3"), Want::None).is_ok(), "it was read just now");
}

#[test]
fn what_was_given_up_is_not_claimed_by_a_later_write() {
    let (mut group, key, writer) = held_by_others();
    let old = read(&mut group, writer, &key);
    let Ok(Commit::Done(first)) = group.commit(writer, &key, write(&old, "n", "2"), Want::None) else { panic!("nobody waits") };
    group.settle();
    // Those who have that write are out of reach for a while, and others have taken over.
    for node in (0..3).filter(|node| *node != writer) {
        group.with(node, |engine, now| {
            engine.at(now);
            engine.table.insert(&key, table::Held::new(Arc::clone(&old), engine.millis()))
        });
    }
    let mut found = read(&mut group, writer, &key);
    for name in ["a", "b"] {
        assert!(group.commit(writer, &key, write(&found, name, "3"), Want::None).is_ok());
        let here = group.engine(writer).peek(&key).expect("a guest").clone();
        assert!(here.attribute(name).is_some() && !here.seen.covers(first.version), "{here:?}");
        group.settle();
        assert!(group.engine(writer).peek(&key).is_none(), "it is let go of");
        found = read(&mut group, writer, &key);
        assert!(found.attribute(name).is_some(), "what was written since is read");
    }
}

#[test]
fn what_is_found_in_place_of_a_lost_write_is_not_lost_as_well() {
    let mut group = Group::ready(4, &backups(1));
    let key = owned_by(&group, 0);
    let backup = holder(&group, 0, &key, 1);
    let writer = (1..4).find(|node| *node != backup).expect("two hold it");
    group.create(0, &key, "n", "1");
    group.settle();
    let old = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, write(&old, "n", "2"), Want::None).is_ok());
    group.settle();
    // Nobody has that write any more.
    for node in [0, backup] {
        group.with(node, |engine, now| {
            engine.at(now);
            engine.table.insert(&key, table::Held::new(Arc::clone(&old), engine.millis()))
        });
    }
    let Get::Asking(_) = group.get(writer, &key) else { panic!("it is not here") };
    while let Some(packet) = group.wire.pop_front() {
        // Its copy is handed over while it goes on asking.
        group.with(writer, |engine, _| engine.let_go(&key));
        group.hand_over(packet);
    }
    let (_, found) = group.nodes[writer].fetched.pop().expect("all have answered");
    assert_eq!(found.expect("they know").expect("it is there").value("n").map(|value| &value[..]), Some(&b"1"[..]));
}

#[test]
fn a_new_life_is_found_at_once_by_one_who_knows_of_the_death_before_it() {
    let (mut group, key, writer) = held_by_others();
    read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, Change::Remove { read: None }, Want::None).is_ok());
    group.settle();
    // The tombstone is forgotten, and the key made anew by somebody who knows nothing of it.
    for node in (0..3).filter(|node| *node != writer) {
        group.with(node, |engine, _| engine.table.remove(&key));
    }
    group.run_for(SECOND);
    group.create(0, &key, "n", "2");
    group.settle();
    let before = group.handed;
    assert_eq!(read(&mut group, writer, &key).value("n").map(|value| &value[..]), Some(&b"2"[..]));
    assert_eq!(group.handed - before, 2, "a question and its answer");
}

#[test]
fn what_a_member_removed_does_not_come_back_to_it() {
    let (mut group, key, writer) = held_by_others();
    let entry = group.engine(0).whole(&key).expect("it is here");
    let old = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, Change::Remove { read: None }, Want::None).is_ok());
    group.settle();
    assert!(group.engine(writer).table.get(&key).is_none(), "its tombstone is with the holders");
    let refused = group.commit(writer, &key, write(&old, "n", "2"), Want::None);
    assert!(matches!(refused, Err(Refusal::Removed)), "{refused:?}");
    let from = group.nodes[0].member.clone();
    let put = Message::Put(entry.into());
    assert!(!group.with(writer, |engine, now| engine.receive(now, &from, &codec::encode(0, &put))), "it is rejected");
    assert!(group.engine(writer).peek(&key).is_none());
    group.run_for(SECOND * 3);
    assert!(group.agrees() && holders_of(&group, &key) == 0);
}

#[test]
fn what_a_member_removed_does_not_come_back_behind_an_older_tombstone() {
    let (mut group, key, writer) = held_by_others();
    let entry = group.engine(0).whole(&key).expect("it is here");
    read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, Change::Remove { read: None }, Want::None).is_ok());
    group.settle();
    assert!(group.engine(writer).table.get(&key).is_none(), "its tombstone is with the holders");
    // Somebody who has missed a life of the key remembers the end of the one before.
    let before = Version { time: entry.record.birth.time - 1, ..entry.record.birth };
    let older = Entry { record: Arc::new(Record::tombstone(before)), keep: 1_000_000, ..entry.clone() };
    for entry in [older, entry] {
        group.with(writer, |engine, _| engine.take(entry));
        assert!(!group.engine(writer).table.get(&key).expect("it knows of the last end").is_alive());
    }
    group.run_for(SECOND * 3);
    assert!(group.agrees() && holders_of(&group, &key) == 0);
}

/// An entry that was removed and created again, a member that does not hold it, and the tombstone of the first life.
fn created_again() -> (Group, [u8; 4], usize, Arc<Record>) {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let reader = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    assert!(group.commit(0, &key, Change::Remove { read: None }, Want::None).is_ok());
    let buried = group.engine(0).table.get(&key).expect("a tombstone").record.clone();
    let again = Change::Replace { lease: SECOND * 1800, attributes: vec![("n".into(), Some("2".into()))] };
    assert!(group.commit(0, &key, again, Want::None).is_ok());
    group.settle();
    (group, key, reader, buried)
}

/// A member has this tombstone.
fn bury(group: &mut Group, node: usize, key: &[u8], buried: Arc<Record>) {
    group.with(node, |engine, _| {
        let now = engine.millis();
        engine.table.insert(key, table::Held::new(buried, now));
    });
}

#[test]
fn an_old_tombstone_elsewhere_does_not_hide_a_new_entry() {
    let (mut group, key, reader, buried) = created_again();
    bury(&mut group, reader, &key, buried);
    assert_eq!(read(&mut group, reader, &key).value("n").map(|value| &value[..]), Some(&b"2"[..]));
}

#[test]
fn an_old_tombstone_that_comes_after_the_read_does_not_refuse_the_change() {
    let (mut group, key, reader, buried) = created_again();
    let found = read(&mut group, reader, &key);
    // Somebody who was asked as well answers with what it had of the incarnation before.
    bury(&mut group, reader, &key, buried);
    let change = Change::Update { read: found, lease: None, attributes: vec![("m".into(), Some("3".into()))] };
    group.commit(reader, &key, change, Want::All).expect("it was not removed since it was read");
    group.run_for(SECOND);
    for holds in [0, holder(&group, 0, &key, 1)] {
        let values = ["n", "m"].map(|name| group.value(holds, &key, name).expect("it is there"));
        assert_eq!(values, ["2", "3"], "{holds}");
    }
}

#[test]
fn a_key_is_made_anew_by_a_member_whose_clock_is_behind_its_removal() {
    let (mut group, key, writer) = held_by_others();
    // Removed by somebody whose clock is four minutes ahead.
    let time = group.time();
    let ahead = Time { epoch_millis: time.epoch_millis + 240_000, ..time };
    assert!(group.with(0, |engine, _| engine.commit(ahead, &key, Change::Remove { read: None }, Want::None)).is_ok());
    group.settle();
    let buried = group.engine(0).whole(&key).expect("a tombstone");
    group.with(writer, |engine, _| {
        engine.table.insert(&key, table::Held::new(buried.record.clone(), engine.millis()));
        engine.let_go(&key);
    });
    group.create(writer, &key, "n", "2");
    group.settle();
    assert_eq!(group.value(0, &key, "n").as_deref(), Some(&b"2"[..]), "it is later than the removal");
}

#[test]
fn no_two_writes_of_an_entry_from_the_far_future_have_one_version() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    // So far ahead that the clocks of others do not follow.
    let time = group.time();
    let ahead = Time { epoch_millis: time.epoch_millis + 600_000, ..time };
    let create = Change::Create { lease: SECOND * 1800, attributes: vec![("n".into(), Some("1".into()))] };
    assert!(group.with(0, |engine, _| engine.commit(ahead, &key, create, Want::None)).is_ok());
    group.settle();
    let base = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, write(&base, "n", "2"), Want::None).is_ok());
    let written = version_of(&group, writer, &key);
    group.run_for(SECOND * 3);
    assert!(group.engine(writer).peek(&key).is_none(), "it has let go of it");
    let again = Change::Replace { lease: SECOND * 1800, attributes: vec![("n".into(), Some("3".into()))] };
    assert!(group.commit(writer, &key, again, Want::None).is_ok());
    assert!(version_of(&group, writer, &key) > written);
}

#[test]
fn a_state_from_before_what_this_member_made_anew_is_not_written_to() {
    let (mut group, key, writer) = held_by_others();
    let first = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, write(&first, "n", "2"), Want::None).is_ok());
    group.settle();
    let stale = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, write(&stale, "m", "3"), Want::None).is_ok());
    group.run_for(SECOND * 3);
    let anew = Change::Replace { lease: SECOND * 1800, attributes: vec![("n".into(), Some("4".into()))] };
    assert!(group.commit(writer, &key, anew, Want::None).is_ok());
    group.run_for(SECOND * 3);
    assert!(group.engine(writer).peek(&key).is_none(), "it has let go of it");
    // What it wrote to the incarnation before it does not know any more: a write to that would claim to contain all of it.
    assert!(matches!(group.commit(writer, &key, write(&stale, "n", "5"), Want::None), Err(Refusal::Removed)));
    assert_eq!(group.value(0, &key, "n").as_deref(), Some(&b"4"[..]));
}

#[test]
fn what_was_read_shortly_before_its_only_holder_went_out_of_reach_can_be_changed() {
    let mut group = Group::ready(3, &backups(0));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let engine = group.engine(0);
    let next = engine.placement.order(slot_of(&key))[1].clone();
    let heir = group.nodes.iter().position(|node| node.member == next).expect("two are left");
    let found = read(&mut group, heir, &key);
    group.run_for(SECOND * 3);
    group.crash(0);
    group.run_for(SECOND * 3);
    assert!(group.engine(heir).owns(&key), "it has all that there is");
    assert!(group.commit(heir, &key, write(&found, "m", "2"), Want::None).is_ok(), "nobody has removed it");
    assert_eq!(group.value(heir, &key, "n").as_deref(), Some(&b"1"[..]));
}

/// A group of three in which a member has asked the two others for an entry that none has: the owner has answered, the other never will.
/// Then the member writes the entry, at the owner, and stands still for a minute.
fn written_after_the_answer() -> (Group, [u8; 4]) {
    let mut group = Group::ready(3, &backups(0));
    let key = owned_by(&group, 0);
    let Get::Asking(request) = group.get(1, &key) else { panic!("it does not hold it") };
    group.wire.clear();
    let owner = group.nodes[0].member.clone();
    let answer = Message::Fetched { request, answer: Found::Unsure };
    assert!(group.with(1, |engine, now| engine.receive(now, &owner, &codec::encode(0, &answer))));
    assert!(group.wire.iter().any(|packet| packet.from == 1 && packet.to == 2));
    group.wire.clear();
    group.create(1, &key, "n", "1");
    group.settle();
    assert!(group.engine(1).table.get(&key).is_none(), "the owner has it");
    group.now += SECOND * 60;
    (group, key)
}

#[test]
fn answers_from_before_a_write_do_not_show_that_it_is_lost_when_it_is_too_late_to_ask_again() {
    let (mut group, key) = written_after_the_answer();
    // What the reader notices first, before its timers, is that the silent one is gone.
    group.crash(2);
    let (_, found) = group.nodes[1].fetched.pop().expect("nobody is left to be waited for");
    assert!(found.is_err(), "nobody was asked since it wrote: {found:?}");
    assert!(group.engine(1).is_behind(&key), "it still looks for what it wrote");
    assert_eq!(read(&mut group, 1, &key).value("n").map(|value| &value[..]), Some(&b"1"[..]));
}

#[test]
fn a_write_is_lost_when_all_that_were_asked_before_it_are_gone() {
    let (mut group, key) = written_after_the_answer();
    group.crash(0);
    group.crash(2);
    let (_, found) = group.nodes[1].fetched.pop().expect("nobody is left to be waited for");
    assert!(matches!(found, Ok(None)), "nobody is left to be asked: {found:?}");
    assert!(!group.engine(1).is_behind(&key), "it is given up");
}

#[test]
fn who_writes_again_while_it_looks_for_a_lost_write_does_not_give_up_the_new_one() {
    let mut group = Group::ready(3, &backups(0));
    let is_fit = |key: &[u8; 4]| (holder(&group, 1, key, 0), group.engine(1).placement.order(slot_of(key)).len()) == (0, 3);
    let then = |key: &[u8; 4]| group.engine(1).placement.order(slot_of(key))[1].clone();
    let heir = group.nodes[2].member.clone();
    let key = (0..).map(key).find(|key| is_fit(key) && then(key) == heir).expect("there are many");
    group.create(1, &key, "n", "1");
    group.settle();
    group.crash(0);
    group.run_for(SECOND * 2);
    let Get::Asking(request) = group.get(1, &key) else { panic!("it looks for what it wrote") };
    let unsure = codec::encode(0, &Message::Fetched { request, answer: Found::Unsure });
    let mut asked = 0;
    while let Some(packet) = group.wire.pop_front() {
        if !matches!(decoded(&packet), Some(Message::Fetch { .. })) {
            continue;
        }
        asked += 1;
        if asked == 3 {
            // This question is answered before the write comes, for the last time.
            group.create(1, &key, "n", "2");
            group.settle();
            assert!(group.engine(1).table.get(&key).is_none(), "the heir has it");
        }
        if asked < 4 {
            assert!(group.with(1, |engine, now| engine.receive(now, &heir, &unsure)));
        } else {
            group.wire.push_back(packet);
            group.settle();
        }
    }
    assert_eq!(asked, 4, "once more after the write");
    let (_, found) = group.nodes[1].fetched.pop().expect("it is answered");
    let found = found.expect("it knows").expect("it is there");
    assert_eq!(found.value("n").map(|value| &value[..]), Some(&b"2"[..]));
}
