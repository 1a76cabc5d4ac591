//! Another key for the same entry, as others hear of it.

use super::super::record::CREATED;
use super::*;

fn beside(key: &[u8]) -> [u8; 4] {
    (1000..).map(super::key).find(|other| slot_of(other) == slot_of(key)).expect("some key falls into the same slot")
}

fn rename(group: &mut Group, node: usize, key: &[u8], to: &[u8]) {
    let read = Arc::clone(group.engine(node).peek(key).expect("it is here"));
    let created = Bytes::copy_from_slice(&read.created_millis().to_be_bytes());
    let attributes = vec![(CREATED.into(), Some(created)), ("new".into(), Some("1".into()))];
    let change = Change::Rename { read, to: to.into(), lease: None, attributes };
    group.commit(node, key, change, Want::None).expect("it can be renamed");
}

fn heard(group: &mut Group, node: usize) -> Vec<String> {
    let events = std::mem::take(&mut group.nodes[node].events);
    let name = |event: Event| {
        let what = match event.what {
            What::Created => "created".into(),
            What::Changed(_) => "changed".into(),
            What::Removed { age } => format!("removed at {age:?}"),
            What::Renamed(to) => format!("renamed to {to:?}"),
            other => format!("{other:?}"),
        };
        format!("{what}{}", if event.remote { " elsewhere" } else { "" })
    };
    events.into_iter().map(name).collect()
}

#[test]
fn a_change_of_key_is_one_event_on_each_holder() {
    let mut group = Group::ready(3, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.settle();
    (0..3).for_each(|node| drop(heard(&mut group, node)));
    let to = beside(&key(1));
    rename(&mut group, 0, &key(1), &to);
    group.settle();
    let name = format!("renamed to {:?}", Key::from(&to[..]));
    for node in 0..3 {
        let elsewhere = if node == 0 { "" } else { " elsewhere" };
        assert_eq!(heard(&mut group, node), [format!("{name}{elsewhere}")]);
        assert_eq!(group.value(node, &to, "new").as_deref(), Some(&b"1"[..]));
        assert_eq!(group.engine(node).counters().lives, 0);
    }
}

#[test]
fn who_hears_of_it_in_two_messages_hears_of_an_end_and_a_beginning() {
    let mut group = Group::ready(2, &backups(1));
    group.create(0, &key(1), "n", "1");
    group.settle();
    let to = beside(&key(1));
    rename(&mut group, 0, &key(1), &to);
    // The message of it is lost, and each part comes by itself.
    group.wire.clear();
    drop(heard(&mut group, 1));
    let other = group.nodes[1].member.clone();
    for key in [&to[..], &key(1)] {
        group.with(0, |engine, _| engine.put_whole(&other, [key.into()], None));
    }
    group.settle();
    let heard = heard(&mut group, 1);
    assert!(heard[0] == "created elsewhere" && heard.last().is_some_and(|last| last.starts_with("removed")), "{heard:?}");
}

#[test]
fn an_entry_is_as_old_as_it_was_under_its_first_key() {
    for keeping in [None, Some(Keeping { max_idle: Some(SECOND), ..Keeping::default() })] {
        let mut group = Group::ready(2, &Config { keeping, ..backups(1) });
        group.create(0, &key(1), "n", "1");
        group.run_for(SECOND * 100);
        // It may have been swapped out.
        group.get(0, &key(1));
        let to = beside(&key(1));
        rename(&mut group, 0, &key(1), &to);
        group.run_for(SECOND * 10);
        assert_eq!(
            group.engine(0).away(),
            usize::from(keeping.is_some()),
            "what it was called first is not swapped out with the rest"
        );
        group.commit(0, &to, Change::Remove { read: None }, Want::None).expect("it can be removed");
        group.settle();
        for node in 0..2 {
            let heard = heard(&mut group, node);
            let last = heard.last().expect("its end");
            assert!(last.starts_with("removed at 110"), "{last}");
        }
        assert!(group.engine(0).counters().longest_life_millis >= 110_000);
    }
}

#[test]
fn a_rename_whose_new_entry_finds_no_room_does_not_end_the_old_one() {
    let mut group = Group::new();
    [everywhere(), Config { max_entries: 1, ..everywhere() }].into_iter().for_each(|config| _ = group.join(config));
    group.run_for(SECOND);
    group.create(0, &key(1), "n", "1");
    group.settle();
    rename(&mut group, 0, &key(1), &beside(&key(1)));
    let packet = group.wire.pop_front().expect("what tells the other one");
    assert!(matches!(decoded(&packet), Some(Message::Put(entries)) if entries.len() == 2));
    group.hand_over(packet);
    assert_eq!(group.value(1, &key(1), "n").as_deref(), Some(&b"1"[..]));
}
