//! Idle entries, dead ones, and what is remembered of them.

use super::*;

#[test]
fn a_removal_beats_what_its_writer_had_read_whatever_the_clocks_say() {
    let mut group = Group::ready(3, &backups(1));
    let key = owned_by(&group, 0);
    let mut ahead = group.time();
    ahead.epoch_millis += 600_000;
    let change = Change::Create { lease: SECOND * 1800, attributes: vec![("n".into(), Some("1".into()))] };
    group.with(0, |engine, _| assert!(engine.commit(ahead, &key, change, Want::None).is_ok()));
    group.settle();
    let stranger = (1..3).find(|node| group.engine(*node).peek(&key).is_none()).expect("one does not hold it");
    let Get::Asking(_) = group.get(stranger, &key) else { panic!("it is not here") };
    group.settle();
    let read = group.nodes[stranger].fetched.pop().expect("a holder answers").1.expect("it knows").expect("it is there");
    group.run_for(SECOND * 5);
    assert!(group.engine(stranger).peek(&key).is_none(), "it was a copy to look at");
    assert!(group.commit(stranger, &key, Change::Remove { read: Some(read) }, Want::Copies(1)).is_ok());
    group.run_for(SECOND * 5);
    assert_eq!(holders_of(&group, &key), 0);
    let told = group.nodes[stranger].events.iter().any(|event| matches!(event.what, What::Removed { .. }) && !event.remote);
    assert!(told, "it happened here");
}

#[test]
fn who_removes_what_it_does_not_hold_does_not_shorten_the_memory_of_it() {
    let mut group = Group::ready(4, &backups(1));
    let key = owned_by(&group, 0);
    let day = SECOND * 86_400;
    let change = Change::Create { lease: day, attributes: Vec::new() };
    assert!(group.commit(0, &key, change, Want::None).is_ok());
    group.settle();
    let stranger = (1..4).find(|node| group.engine(*node).peek(&key).is_none()).expect("two do not hold it");
    assert!(group.commit(stranger, &key, Change::Remove { read: None }, Want::None).is_ok());
    group.settle();
    let held = group.engine(0).table.get(&key).expect("it is remembered");
    assert!(!held.is_alive());
    assert!(held.keep_until() >= group.engine(0).millis() + 2 * 86_400_000, "as long as it could have lived");
}

#[test]
fn a_tombstone_may_be_kept_for_any_time() {
    let mut group = Group::ready(2, &backups(1));
    let sender = group.nodes[1].member.clone();
    let record = Arc::new(Record::tombstone(Version { time: 5, node: 7 }));
    let entry = message::Entry { key: key(1).into(), record, base: None, idle: u64::MAX, keep: u64::MAX };
    let body = codec::encode(0, &Message::Put(entry.into()));
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

/// How often the owner lets an entry expire that is used on the backup alone, while all that the backup tells of its accesses is lost.
/// The owner's question is not.
fn ends_of_what_the_backup_uses(flaws: Flaws) -> u64 {
    let mut group = Group::ready(2, &Config { flaws, ..brisk() });
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND);
    for _ in 0..80 {
        group.run_for(SECOND / 10);
        _ = group.get(1, &key);
        group.wire.clear();
    }
    assert!(group.engine(1).peek(&key).is_some());
    group.engine(0).counters().expired
}

#[test]
fn the_owner_asks_before_it_lets_an_entry_expire() {
    assert_eq!(ends_of_what_the_backup_uses(Flaws::default()), 0);
}

#[test]
fn an_owner_that_lets_entries_expire_without_asking_is_caught() {
    assert!(ends_of_what_the_backup_uses(Flaws { expire_alone: true, ..Flaws::default() }) > 0);
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
fn who_holds_an_entry_no_longer_has_told_of_its_last_use() {
    let mut group = Group::ready(2, &brisk());
    let keys: Vec<_> = (0..60).map(key).collect();
    for key in &keys {
        assert!(group.commit(0, key, leased(SECOND * 8), Want::None).is_ok());
    }
    group.run_for(SECOND);
    for key in &keys {
        assert!(matches!(group.get(1, key), Get::Here(_)), "so soon after its creation nobody is told");
    }
    let joiner = group.join(brisk());
    group.run_for(SECOND * 3);
    let moved = keys.iter().filter(|key| group.engine(1).placement.rank(slot_of(*key), group.engine(1).local()).is_none());
    let moved: Vec<_> = moved.copied().collect();
    assert!(moved.len() > 5, "{moved:?}");
    for key in moved {
        for holder in [0, joiner] {
            let idle = group.with(holder, |engine, now| engine.idle(now, &key)).expect("it holds it");
            assert!(idle <= SECOND * 3, "member {holder} has not heard of it for {idle:?}");
        }
    }
}

#[test]
fn who_was_given_an_idle_entry_tells_of_its_first_use() {
    let mut group = Group::ready(2, &brisk());
    let keys: Vec<_> = (0..60).map(key).collect();
    for key in &keys {
        assert!(group.commit(0, key, leased(SECOND * 8), Want::None).is_ok());
    }
    group.run_for(SECOND * 5);
    let joiner = group.join(brisk());
    group.run_for(SECOND);
    let given: Vec<_> = keys.iter().filter(|key| group.engine(joiner).peek(*key).is_some()).copied().collect();
    assert!(given.len() > 5, "{given:?}");
    for key in &given {
        // Soon after it came, but long after the last use that the other holder knows of.
        assert!(matches!(group.get(joiner, key), Get::Here(_)), "it holds it");
    }
    group.settle();
    group.crash(joiner);
    group.run_for(SECOND * 6);
    for key in given {
        assert!(holders_of(&group, &key) > 0, "{key:?} was used six seconds ago");
    }
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

/// An entry that its owner, which has these limits, would let expire after eight seconds. After six another member, which does not see the
/// owner for a moment, gives it this value, and makes another entry of the slot, whose key comes before it, if it is to. After nine the owner
/// has been given both.
fn changed_where_its_owner_was_not_seen(limits: Config, value: &'static [u8], another: bool) -> (Group, [[u8; 4]; 2]) {
    let config = Config { copies: Copies::Backups(0), ..brisk() };
    let mut group = Group::new();
    group.join(Config { copies: config.copies, expiry_interval: config.expiry_interval, ..limits });
    group.join(config);
    group.run_for(SECOND);
    let before = owned_by(&group, 0);
    let number = u32::from_be_bytes(before) + 1;
    let changed = (number..).map(key).find(|key| slot_of(key) == slot_of(&before)).expect("slots have many keys");
    assert!(group.commit(0, &changed, leased(SECOND * 4), Want::None).is_ok());
    group.run_for(SECOND * 3);
    let Get::Asking(_) = group.get(1, &changed) else { panic!("it is not here") };
    group.settle();
    let owner = group.nodes[0].member.clone();
    group.with(1, |engine, now| engine.member_removed(now, &owner));
    if another {
        assert!(group.commit(1, &before, leased(SECOND * 60), Want::None).is_ok());
    }
    group.run_for(SECOND * 2);
    let read = Arc::clone(group.engine(1).peek(&changed).expect("it has not been let go of"));
    let change = Change::Update { read, lease: None, attributes: vec![("n".into(), Some(Bytes::from_static(value)))] };
    assert!(group.commit(1, &changed, change, Want::None).is_ok());
    group.with(1, |engine, now| engine.member_added(now, &owner));
    group.run_for(SECOND * 3);
    (group, [before, changed])
}

#[test]
fn an_entry_that_finds_no_room_does_not_keep_the_owner_of_another_from_hearing_of_its_use() {
    let limits = Config { max_entries: 1, ..Config::default() };
    let (group, [before, changed]) = changed_where_its_owner_was_not_seen(limits, b"2", true);
    assert!(group.engine(0).peek(&before).is_none(), "there is no room for it");
    assert_eq!(group.engine(0).counters().expired, 0);
    assert_eq!(group.value(0, &changed, "n").as_deref(), Some(&b"2"[..]));
}

#[test]
fn an_owner_that_has_no_room_for_a_change_hears_of_the_use() {
    let limits = Config { max_bytes: 5_000, ..Config::default() };
    let (group, [_, changed]) = changed_where_its_owner_was_not_seen(limits, &[b'x'; 10_000], false);
    assert_eq!(group.value(0, &changed, "n").as_deref(), Some(&b"1"[..]), "there is no room for the change");
    assert_eq!(group.engine(0).counters().expired, 0);
}

#[test]
fn an_old_tombstone_does_not_make_a_new_entry_look_idle() {
    let mut group = Group::ready(2, &brisk());
    let key = owned_by(&group, 0);
    assert!(group.commit(0, &key, leased(SECOND * 30), Want::None).is_ok());
    assert!(group.commit(0, &key, Change::Remove { read: None }, Want::None).is_ok());
    let buried = group.engine(0).whole(&key).expect("a tombstone");
    let Change::Create { lease, attributes } = leased(SECOND * 30) else { unreachable!("that is what it is") };
    assert!(group.commit(0, &key, Change::Replace { lease, attributes }, Want::None).is_ok());
    group.settle();
    // Somebody who was away has the tombstone still, and says for how long.
    let late = message::Entry { idle: 3_600_000, ..buried };
    let from = group.nodes[1].member.clone();
    let put = codec::encode(0, &Message::Put(late.into()));
    assert!(group.with(0, |engine, now| engine.receive(now, &from, &put)));
    group.run_for(SECOND * 10);
    assert!(group.engine(0).peek(&key).is_some(), "it was used ten seconds ago");
}

#[test]
fn dead_entries_are_forgotten_in_the_end() {
    let config = Config { tombstone_life: SECOND * 5, ..brisk() };
    let mut group = Group::ready(2, &config);
    assert!(group.commit(0, &key(1), leased(SECOND), Want::None).is_ok());
    assert!(group.commit(0, &key(1), Change::Remove { read: None }, Want::None).is_ok());
    group.run_for(SECOND * 3);
    assert_eq!((group.engine(0).table.len(), group.engine(1).table.len()), (1, 1));
    group.run_for(SECOND * 5);
    assert_eq!((group.engine(0).table.len(), group.engine(1).table.len()), (0, 0));
}
