use std::time::Duration;

use super::super::change::Change;
use super::super::fetch::{FetchFault, Get};
use super::super::message::Want;
use super::super::testkit::Group;
use super::super::{Config, Copies, Keeping, Names};
use super::*;
use crate::few::Few;

const SECOND: Duration = Duration::from_secs(1);

fn keeping(keeping: Keeping) -> Config {
    Config { keeping: Some(keeping), ..Config::default() }
}

/// Swaps out whatever is idle for a second.
fn idle() -> Config {
    keeping(Keeping { max_idle: Some(SECOND), ..Keeping::default() })
}

/// What a member has, as its store would have it.
fn saved(group: &mut Group, node: usize) -> Vec<Stored> {
    let all = group.with(node, |engine, now| engine.unsaved(now));
    let again = |stored: &Stored| Stored::decode(&mut Names::default(), stored.key(), &stored.encode());
    all.iter().map(|stored| again(stored).expect("it reads what it wrote")).collect()
}

fn restore(group: &mut Group, node: usize, stored: Vec<Stored>) -> Vec<Restored> {
    group.with(node, |engine, now| stored.into_iter().map(|stored| engine.restore(now, stored)).collect())
}

fn is_away(group: &Group, node: usize, key: &[u8]) -> bool {
    group.engine(node).is_away(key)
}

#[test]
fn a_member_that_is_alone_finds_what_it_saved() {
    let mut group = Group::ready(1, &Config::default());
    group.create(0, b"cart", "n", "1");
    let stored = saved(&mut group, 0);
    group.crash(0);
    group.now += SECOND * 60;
    let again = group.join(Config::default());
    assert_eq!(restore(&mut group, again, stored), [Restored::Here]);
    assert!(group.nodes[again].events.is_empty(), "nothing has happened to it");
    group.run_for(SECOND);
    let idle = group.with(again, |engine, now| engine.idle(now, b"cart"));
    assert!(idle.is_some_and(|idle| idle >= SECOND * 60), "{idle:?}");
    assert_eq!(group.value(again, b"cart", "n").as_deref(), Some(&b"1"[..]));
}

#[test]
fn what_expired_meanwhile_and_what_need_not_be_remembered_is_over() {
    let mut group = Group::ready(1, &Config::default());
    group.create(0, b"cart", "n", "1");
    group.create(0, b"gone", "n", "1");
    group.commit(0, b"gone", Change::Remove { read: None }, Want::None).expect("it can be removed");
    let stored = saved(&mut group, 0);
    assert_eq!(stored.len(), 2);
    group.crash(0);
    group.now += SECOND * 3600;
    let again = group.join(Config::default());
    assert_eq!(restore(&mut group, again, stored), [Restored::Over; 2]);
    assert_eq!(group.engine(again).table.len(), 0);
}

#[test]
fn what_others_did_meanwhile_wins_and_what_only_the_store_has_is_spread() {
    let mut group = Group::ready(2, &Config::default());
    for key in [&b"deleted"[..], b"newer", b"same"] {
        group.create(0, key, "n", "1");
    }
    group.run_for(SECOND);
    let mut stored = saved(&mut group, 0);
    group.crash(0);
    group.commit(1, b"deleted", Change::Remove { read: None }, Want::None).expect("it can be removed");
    group.set(1, b"newer", "n", "2");
    // Of a life before, which nobody else has seen.
    let mut alone = Group::ready(1, &Config::default());
    alone.create(0, b"only here", "n", "3");
    stored.extend(saved(&mut alone, 0));
    let again = group.join(Config::default());
    assert_eq!(restore(&mut group, again, stored), [Restored::Here; 4]);
    group.run_for(SECOND * 30);
    assert!(group.agrees());
    for node in [again, 1] {
        assert_eq!(group.value(node, b"deleted", "n"), None);
        assert_eq!(group.value(node, b"newer", "n").as_deref(), Some(&b"2"[..]));
        assert_eq!(group.value(node, b"only here", "n").as_deref(), Some(&b"3"[..]));
    }
}

#[test]
fn records_that_are_none_are_not_taken() {
    let mut group = Group::ready(1, &Config::default());
    group.create(0, b"cart", "n", "1");
    let bytes = saved(&mut group, 0)[0].encode();
    let decode = |key: &[u8], bytes: &[u8]| Stored::decode(&mut Names::default(), key, bytes).is_some();
    assert!(decode(b"cart", &bytes));
    assert!(!decode(b"other", &bytes), "a record under a wrong name");
    assert!((0..bytes.len()).all(|length| !decode(b"cart", &bytes[..length])));
    assert!(!decode(b"cart", &[&bytes[..], b"x"].concat()));
}

#[test]
fn what_is_swapped_out_keeps_its_digest_and_comes_back_when_read() {
    let mut group = Group::ready(2, &idle());
    group.create(0, b"cart", "n", "a value that takes some memory");
    group.run_for(SECOND / 2);
    let (slot, bytes) = (slot_of(b"cart"), group.engine(0).table.bytes());
    let digest = group.engine(0).table.slot(slot).digest();
    group.run_for(SECOND * 5);
    for node in 0..2 {
        assert!(is_away(&group, node, b"cart"));
        assert_eq!(group.engine(node).away(), 1);
        assert!(group.engine(node).peek(b"cart").is_none(), "nobody sees it without its values");
        assert_eq!(group.engine(node).table.slot(slot).digest(), digest);
    }
    assert!(group.engine(0).table.bytes() < bytes);
    assert!(group.agrees());
    let Get::Asking(ticket) = group.get(0, b"cart") else { panic!("it is in the store") };
    let (answered, found) = group.nodes[0].fetched.pop().expect("it is there at once");
    assert_eq!(answered, ticket);
    let record = found.expect("found").expect("alive");
    assert_eq!(record.value("n").map(|value| &value[..]), Some(&b"a value that takes some memory"[..]));
    assert!(!is_away(&group, 0, b"cart"));
    assert_eq!(group.engine(0).table.bytes(), bytes);
    let counters = group.engine(0).counters();
    assert_eq!((counters.swapped_out, counters.swapped_in, counters.load_failures), (1, 1, 0));
}

#[test]
fn a_joiner_gets_what_is_swapped_out() {
    let mut group = Group::ready(2, &Config { copies: Copies::Everywhere, ..idle() });
    let keys: Vec<_> = (0..1000_u32).map(u32::to_be_bytes).collect();
    keys.iter().for_each(|key| group.create(0, key, "n", "value"));
    group.run_for(SECOND * 5);
    assert_eq!(group.engine(0).away(), 1000);
    let joiner = group.join(Config { copies: Copies::Everywhere, ..Config::default() });
    group.run_for(SECOND * 5);
    assert_eq!(group.engine(joiner).alive(), 1000);
    assert!(keys.iter().all(|key| group.value(joiner, key, "n").as_deref() == Some(b"value")));
    assert!(group.agrees());
}

#[test]
fn a_change_of_what_is_swapped_out_lacks_nothing() {
    let mut group = Group::ready(2, &idle());
    group.create(0, b"cart", "kept", "1");
    group.run_for(SECOND / 2);
    let read = Arc::clone(group.engine(0).peek(b"cart").expect("it is here"));
    group.set(1, b"cart", "other", "2");
    group.run_for(SECOND * 5);
    assert!(is_away(&group, 0, b"cart"));
    let change = Change::Update { read, lease: None, attributes: vec![("new".into(), Some("3".into()))] };
    group.commit(0, b"cart", change, Want::None).expect("it can be changed");
    for (name, value) in [("kept", "1"), ("other", "2"), ("new", "3")] {
        assert_eq!(group.value(0, b"cart", name).as_deref(), Some(value.as_bytes()));
    }
    group.run_for(SECOND / 10);
    // The other one has merged the change and not loaded the rest.
    assert!(is_away(&group, 1, b"cart"));
    let stored = group.with(1, |engine, now| engine.unsaved(now)).pop().expect("it has changed");
    assert!(stored.is_away());
    group.get(1, b"cart");
    for (name, value) in [("kept", "1"), ("other", "2"), ("new", "3")] {
        assert_eq!(group.value(1, b"cart", name).as_deref(), Some(value.as_bytes()));
    }
    group.run_for(SECOND);
    assert!(group.agrees());
}

#[test]
fn what_the_store_has_lost_comes_from_another_holder() {
    let mut group = Group::ready(2, &idle());
    group.create(0, b"cart", "n", "1");
    group.create(0, b"basket", "n", "2");
    group.run_for(SECOND * 5);
    group.nodes[0].store.insert(b"cart".to_vec(), Bytes::from_static(b"no record"));
    group.nodes[0].store.remove(&b"basket"[..]);
    for key in [&b"cart"[..], b"basket"] {
        assert!(matches!(group.get(0, key), Get::Asking(_)));
    }
    group.settle();
    let values: Vec<_> = group.nodes[0].fetched.drain(..).map(|(_, found)| found.expect("found").expect("alive")).collect();
    let values: Vec<_> = values.iter().map(|record| record.value("n").expect("whole").clone()).collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(group.engine(0).counters().load_failures, 2);
    group.run_for(SECOND * 15);
    assert!(group.agrees());
}

#[test]
fn what_the_store_has_lost_while_others_brought_it_back_is_saved_again() {
    let mut group = Group::ready(1, &idle());
    group.create(0, b"cart", "n", "1");
    group.run_for(SECOND * 5);
    let whole = Stored::decode(&mut Names::default(), b"cart", &group.nodes[0].store[&b"cart"[..]]).expect("it was saved");
    group.nodes[0].store.clear();
    // The values come from elsewhere while the store is asked.
    group.with(0, |engine, now| {
        engine.bring_back(b"cart", &whole.entry.record);
        engine.loaded(now, b"cart", &Loaded::Missing);
    });
    group.run_for(SECOND * 5);
    assert!(is_away(&group, 0, b"cart"));
    assert!(group.nodes[0].store.contains_key(&b"cart"[..]), "it is where it went");
}

#[test]
fn what_nobody_has_any_more_is_absent() {
    let mut group = Group::ready(1, &idle());
    group.create(0, b"cart", "n", "1");
    group.run_for(SECOND * 5);
    group.nodes[0].store.clear();
    let Get::Asking(_) = group.get(0, b"cart") else { panic!("it is not known yet") };
    group.run_for(SECOND);
    let (_, found) = group.nodes[0].fetched.pop().expect("an answer");
    assert!(matches!(found, Ok(None)));
    assert!(matches!(group.get(0, b"cart"), Get::Absent));
}

#[test]
fn no_more_than_so_many_are_in_memory_and_those_are_the_last_used() {
    let mut group = Group::ready(1, &keeping(Keeping { max_resident: Some(10), ..Keeping::default() }));
    for key in 0..100_u8 {
        group.create(0, &[key], "n", "value");
        group.now += SECOND / 1000;
    }
    group.run_for(SECOND * 2);
    assert_eq!(group.engine(0).away(), 90);
    assert!((0..90).all(|key| is_away(&group, 0, &[key])));
    group.get(0, &[0]);
    group.run_for(SECOND * 2);
    assert!(!is_away(&group, 0, &[0]) && is_away(&group, 0, &[90]));
    assert_eq!(group.engine(0).away(), 90);
}

#[test]
fn what_is_in_use_is_not_swapped_out() {
    let limits = Keeping { max_resident: Some(0), min_idle: SECOND * 60, ..Keeping::default() };
    let mut group = Group::ready(1, &keeping(limits));
    group.create(0, b"cart", "n", "1");
    group.run_for(SECOND * 50);
    assert!(!is_away(&group, 0, b"cart"));
    group.run_for(SECOND * 15);
    assert!(is_away(&group, 0, b"cart"));
}

#[test]
fn a_backup_is_made_once_for_each_access_and_swaps_nothing_out() {
    let mut group = Group::ready(1, &keeping(Keeping { backup: Some(SECOND * 5), ..Keeping::default() }));
    group.create(0, b"cart", "n", "1");
    group.run_for(SECOND * 20);
    assert_eq!(group.engine(0).counters().saved, 1);
    assert!(!is_away(&group, 0, b"cart"));
    group.get(0, b"cart");
    group.run_for(SECOND * 20);
    assert_eq!(group.engine(0).counters().saved, 2);
    assert!(saved(&mut group, 0).is_empty(), "the store has it");
}

#[test]
fn what_has_ended_leaves_the_store() {
    let mut group = Group::ready(2, &Config { expiry_interval: SECOND, ..idle() });
    group.create(0, b"removed", "n", "1");
    let change = Change::Create { lease: SECOND * 10, attributes: vec![("n".into(), Some("1".into()))] };
    group.commit(0, b"expiring", change, Want::None).expect("the key is free");
    group.run_for(SECOND * 5);
    assert!(group.nodes.iter().all(|node| node.store.len() == 2));
    group.commit(0, b"removed", Change::Remove { read: None }, Want::None).expect("it can be removed");
    group.run_for(SECOND * 30);
    assert!(group.nodes.iter().all(|node| node.store.is_empty()));
    assert_eq!(group.engine(0).away(), 0);
    assert!(group.agrees());
}

#[test]
fn an_entry_takes_no_more_memory_than_before() {
    assert_eq!(size_of::<super::super::table::Held>(), 40);
    assert_eq!(size_of::<Record>(), 144);
}

#[test]
fn another_id_for_what_is_swapped_out_again_takes_its_values_along() {
    let mut group = Group::ready(2, &idle());
    let old = 1_u32.to_be_bytes();
    let new = (2_u32..).map(u32::to_be_bytes).find(|key| slot_of(key) == slot_of(&old)).expect("there are many keys");
    group.create(0, &old, "n", "precious");
    group.run_for(SECOND / 2);
    let read = Arc::clone(group.engine(0).peek(&old).expect("it is here"));
    group.run_for(SECOND * 5);
    let rename = Change::Rename { read, to: new[..].into(), lease: None, attributes: Vec::new() };
    assert!(!group.with(0, |engine, now| engine.must_load(now, &old, &rename)), "the handle has all values");
    // Before the change is made, the entry is swapped out once more.
    group.run_for(SECOND * 2);
    assert!(is_away(&group, 0, &old));
    assert!(group.with(0, |engine, now| engine.commit(now, &old, rename, Want::None)).is_ok());
    group.settle();
    assert!((0..2).all(|node| group.value(node, &new, "n").as_deref() == Some(b"precious")));
}

#[test]
fn a_store_that_cannot_be_read_for_a_moment_loses_nothing() {
    let mut group = Group::ready(1, &idle());
    group.create(0, b"cart", "n", "precious");
    group.run_for(SECOND * 5);
    assert!(is_away(&group, 0, b"cart"));
    let store = group.nodes[0].store.clone();
    group.with(0, |engine, now| {
        let Get::Asking(_) = engine.get(now, b"cart") else { panic!("it is in the store") };
        while engine.poll_output().is_some() {}
        engine.loaded(now, b"cart", &Loaded::Failed);
    });
    let (_, found) = group.nodes[0].fetched.pop().expect("there is an answer");
    assert!(found.is_err(), "nobody can tell, which is not to say that it is gone");
    assert_eq!(group.nodes[0].store, store, "what is there stays");
    let Get::Asking(_) = group.get(0, b"cart") else { panic!("it is in the store") };
    let (_, found) = group.nodes[0].fetched.pop().expect("there is an answer");
    assert!(found.expect("the store answers again").is_some());
}

#[test]
fn a_read_of_what_no_store_can_read_ends_although_there_are_others_to_ask() {
    let mut group = Group::ready(2, &idle());
    group.create(0, b"cart", "n", "precious");
    group.run_for(SECOND * 5);
    assert!((0..2).all(|node| is_away(&group, node, b"cart")));
    let mut fetched = Vec::new();
    for _ in 0..10 {
        group.with(0, |engine, now| {
            if fetched.is_empty() && !matches!(engine.get(now, b"cart"), Get::Asking(_)) {
                panic!("it is in the store");
            }
            while engine.poll_output().is_some() {}
            engine.loaded(now, b"cart", &Loaded::Failed);
        });
        // The other one's store fails as well.
        let from = group.nodes[1].member.clone();
        while let Some(packet) = group.wire.pop_front() {
            if packet.to == 1
                && let Ok(Message::Fetch { request, .. }) = codec::decode(&mut Names::default(), 0, &packet.body)
            {
                let answer = Message::Fetched { request, answer: Found::Unreadable };
                group.with(0, |engine, now| engine.receive(now, &from, &codec::encode(0, &answer)));
            }
        }
        fetched.append(&mut group.nodes[0].fetched);
        if !fetched.is_empty() {
            break;
        }
    }
    let (_, found) = fetched.pop().expect("the read ends");
    assert!(found.is_err(), "nobody can tell");
}

/// One copy of each entry, which is swapped out after a second.
fn alone() -> Config {
    Config { copies: Copies::Backups(0), ..idle() }
}

/// A key that this member of a group owns.
fn owned_by(group: &Group, node: usize) -> [u8; 4] {
    let engine = group.engine(node);
    let owns = |key: &[u8; 4]| engine.placement.rank(slot_of(key), engine.local()) == Some(0);
    (0_u32..).map(u32::to_be_bytes).find(owns).expect("it owns something")
}

/// What became of the only read.
fn read(group: &mut Group, node: usize, key: &[u8]) -> Result<Option<Arc<Record>>, FetchFault> {
    let Get::Asking(_) = group.get(node, key) else { panic!("it is not known yet") };
    group.run_for(SECOND * 5);
    let (_, found) = group.nodes[node].fetched.pop().expect("an answer");
    found
}

#[test]
fn an_owner_whose_store_fails_is_not_taken_for_one_that_has_nothing() {
    let mut group = Group::ready(3, &alone());
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.run_for(SECOND * 5);
    assert!(is_away(&group, 0, &key));
    group.nodes[0].store_fails = true;
    let fault = read(&mut group, 1, &key).expect_err("who has it cannot tell what it is");
    assert_eq!(fault.silent, [group.nodes[0].member.clone()]);
    group.nodes[0].store_fails = false;
    assert!(read(&mut group, 1, &key).expect("the store answers again").is_some());
}

#[test]
fn who_has_an_entry_in_its_store_reads_it_there_when_others_are_unsure() {
    let mut group = Group::ready(2, &alone());
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.run_for(SECOND * 5);
    // It is to get all there is from others first, and nobody has anything.
    group.with(0, |engine, _| engine.slots[usize::from(slot_of(&key))].complete = false);
    assert!(read(&mut group, 0, &key).expect("the store has it").is_some());
}

#[test]
fn what_is_in_the_store_from_before_a_write_is_not_read_while_who_has_the_write_is_silent() {
    let mut group = Group::ready(3, &alone());
    let key = owned_by(&group, 2);
    group.create(0, &key, "n", "1");
    let old = group.engine(0).whole(&key).expect("it was made here");
    group.set(0, &key, "n", "2");
    group.settle();
    assert!(group.engine(0).peek(&key).is_none(), "its owner has it");
    // An old copy comes, and is swapped out, as the owner hears nothing of it.
    group.nodes[2].deaf = true;
    let (from, put) = (group.nodes[1].member.clone(), codec::encode(0, &Message::Put(Few::One(old))));
    assert!(group.with(0, |engine, now| engine.receive(now, &from, &put)));
    group.run_for(SECOND * 3);
    assert!(is_away(&group, 0, &key));
    assert!(read(&mut group, 0, &key).is_err(), "it would go back behind its write");
    group.nodes[2].deaf = false;
    let found = read(&mut group, 0, &key).expect("the owner answers").expect("it has it");
    assert_eq!(found.value("n").map(|value| &value[..]), Some(&b"2"[..]));
}

#[test]
fn who_loses_what_it_wrote_with_its_store_does_not_take_less_for_it() {
    let mut group = Group::ready(1, &idle());
    group.create(0, b"cart", "n", "1");
    group.run_for(SECOND * 5);
    group.with(0, |engine, now| {
        engine.loaded(now, b"cart", &Loaded::Missing);
        assert!(engine.is_behind(b"cart"), "others may have it");
    });
}

#[test]
fn what_is_read_just_before_its_time_is_over_is_in_use_while_the_store_is_asked() {
    let mut group = Group::ready(1, &Config { expiry_interval: SECOND, ..alone() });
    let change = Change::Create { lease: SECOND * 10, attributes: vec![("n".into(), Some("1".into()))] };
    group.commit(0, b"cart", change, Want::None).expect("the key is free");
    group.run_for(SECOND * 9);
    assert!(is_away(&group, 0, b"cart"));
    let store = group.nodes[0].store.clone();
    group.with(0, |engine, now| {
        let Get::Asking(_) = engine.get(now, b"cart") else { panic!("it is in the store") };
        while engine.poll_output().is_some() {}
    });
    // The store takes long.
    group.run_for(SECOND * 5);
    let stored = Stored::decode(&mut Names::default(), b"cart", &store[&b"cart"[..]]).expect("it was saved");
    group.with(0, |engine, now| engine.loaded(now, b"cart", &Loaded::Found(stored)));
    let (_, found) = group.nodes[0].fetched.pop().expect("an answer");
    assert!(found.expect("the store has it").is_some());
}

#[test]
fn what_is_overdue_when_the_store_answers_is_asked_for_elsewhere() {
    let mut group = Group::ready(2, &Config { expiry_interval: SECOND * 100, ..idle() });
    let key = owned_by(&group, 1);
    let change = Change::Create { lease: SECOND * 10, attributes: vec![("n".into(), Some("1".into()))] };
    group.commit(0, &key, change, Want::None).expect("the key is free");
    group.run_for(SECOND * 5);
    assert!(is_away(&group, 0, &key));
    let store = group.nodes[0].store.clone();
    group.with(0, |engine, now| {
        let Get::Asking(_) = engine.get(now, &key) else { panic!("it is in the store") };
        while engine.poll_output().is_some() {}
    });
    // The owner has noted a use of which this member has not heard.
    group.now += SECOND * 20;
    group.with(1, |engine, now| {
        engine.at(now);
        let millis = engine.millis();
        engine.table.note(&key, |held| held.accessed = millis)
    });
    let stored = Stored::decode(&mut Names::default(), &key, &store[&key[..]]).expect("it was saved");
    group.with(0, |engine, now| engine.loaded(now, &key, &Loaded::Found(stored)));
    group.settle();
    let (_, found) = group.nodes[0].fetched.pop().expect("an answer");
    assert!(found.expect("the owner knows").is_some(), "it is in use");
}

#[test]
fn an_older_answer_does_not_end_a_read_whose_own_store_fails() {
    let mut group = Group::ready(3, &Config { copies: Copies::Everywhere, ..idle() });
    group.create(0, b"cart", "n", "1");
    let old = group.engine(0).whole(b"cart").expect("it is here");
    group.set(0, b"cart", "n", "2");
    group.run_for(SECOND * 5);
    assert!(is_away(&group, 0, b"cart"));
    group.nodes[0].store_fails = true;
    let Get::Asking(ticket) = group.get(0, b"cart") else { panic!("it is in the store") };
    // The first that is asked has not heard of the second change.
    let asked = group.wire.pop_front().expect("another holder is asked");
    let (from, answer) = (group.nodes[asked.to].member.clone(), Found::Entry(Box::new(old)));
    let answer = codec::encode(0, &Message::Fetched { request: ticket, answer });
    group.with(0, |engine, now| engine.receive(now, &from, &answer));
    group.settle();
    let (_, found) = group.nodes[0].fetched.pop().expect("the other has answered");
    let found = found.expect("it could tell").expect("it has it");
    assert_eq!(found.value("n").map(|value| &value[..]), Some(&b"2"[..]));
}
