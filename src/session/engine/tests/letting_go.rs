//! Members that let go of copies, while they do not agree on who is to hold them.

use super::super::message::Entry;
use super::*;

/// A member of three that does not hold this key, which member 0 owns.
fn stranger(group: &Group, key: &[u8]) -> usize {
    let backup = holder(group, 0, key, 1);
    3 - backup
}

fn read(group: &mut Group, node: usize, key: &[u8]) -> Arc<Record> {
    let Get::Asking(_) = group.get(node, key) else { panic!("it is not here") };
    group.settle();
    let (_, found) = group.nodes[node].fetched.pop().expect("a holder has answered");
    found.expect("it knows").expect("the entry is alive")
}

fn write(read: &Arc<Record>, name: &str, value: &'static str) -> Change {
    Change::Update { read: Arc::clone(read), lease: None, attributes: vec![(name.into(), Some(value.into()))] }
}

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
fn a_write_to_an_old_state_does_not_claim_the_later_ones_of_its_member() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
    let before = group.engine(0).whole(&key).expect("it is here");
    let old = read(&mut group, writer, &key);
    assert!(group.commit(writer, &key, write(&old, "n", "2"), Want::None).is_ok());
    group.settle();
    // The holders' answers have crossed the write.
    let Get::Asking(request) = group.get(writer, &key) else { panic!("it is not here") };
    for node in [0, holder(&group, 0, &key, 1)] {
        group.wire.clear();
        let from = group.nodes[node].member.clone();
        let answer = Message::Fetched { request, answer: message::Found::Entry(Box::new(before.clone())) };
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
fn what_was_given_up_is_not_claimed_by_a_later_write() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
fn a_key_is_made_anew_by_a_member_whose_clock_is_behind_its_removal() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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

#[test]
fn a_state_from_before_what_this_member_made_anew_is_not_written_to() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let writer = stranger(&group, &key);
    group.create(0, &key, "n", "1");
    group.settle();
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
