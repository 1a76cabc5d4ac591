//! Reads on members that hold the entry, and on others.

use super::*;

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
fn reads_where_the_entry_is_not_held_keep_it_alive_and_are_no_news() {
    let config = Config { expiry_interval: SECOND, ..backups(1) };
    let mut group = Group::ready(5, &config);
    let key = owned_by(&group, 0);
    let change = Change::Create { lease: SECOND * 4, attributes: vec![("n".into(), Some("1".into()))] };
    assert!(group.commit(0, &key, change, Want::None).is_ok());
    group.settle();
    let stranger = (1..5).find(|node| group.engine(*node).peek(&key).is_none()).expect("three do not hold it");
    for _ in 0..40 {
        let Get::Asking(_) = group.get(stranger, &key) else { panic!("it is not here") };
        group.settle();
        let (_, found) = group.nodes[stranger].fetched.pop().expect("a holder answers");
        assert!(found.expect("it is known").is_some(), "it is in use");
        group.run_for(SECOND / 2);
    }
    assert!(group.nodes[stranger].events.is_empty(), "reading is no event: {:?}", group.nodes[stranger].events);
    assert_eq!(group.engine(stranger).counters().replicated, 0);
    group.run_for(SECOND * 10);
    assert_eq!(holders_of(&group, &key), 0, "nobody uses it any more");
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
fn a_read_does_not_believe_a_guest_while_a_holder_may_still_answer() {
    let mut group = Group::ready(5, &backups(1));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    let backup = holder(&group, 0, &key, 1);
    let reader = (1..5).find(|node| *node != backup).expect("three do not hold it");
    let old = group.engine(0).whole(&key).expect("it is here");
    assert!(group.commit(0, &key, Change::Remove { read: None }, Want::None).is_ok());
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
    let answer = Message::Fetched { request: ticket, answer: message::Found::Entry(Box::new(old)) };
    assert!(group.with(reader, |engine, now| engine.receive(now, &from, &codec::encode(0, &answer))));
    assert!(group.nodes[reader].fetched.is_empty(), "a holder may still know better");
    late.into_iter().for_each(|packet| group.wire.push_back(packet));
    group.settle();
    let (_, found) = group.nodes[reader].fetched.pop().expect("a holder has answered");
    assert!(found.expect("it knows").is_none(), "the entry was removed");
}

#[test]
fn what_moves_to_a_member_that_has_answered_a_read_already_is_found() {
    let mut group = Group::ready(4, &backups(0));
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    group.settle();
    group.with(0, Engine::drain);
    // All hear that it leaves, and what they ask of it takes its time: the heir is told nothing yet.
    let mut slow = Vec::new();
    let mut settle_but_0 = |group: &mut Group| {
        while let Some(packet) = group.wire.pop_front() {
            if packet.to == 0 { slow.push(packet) } else { group.hand_over(packet) }
        }
    };
    settle_but_0(&mut group);
    let heir = group.engine(1).placement.holding(slot_of(&key)).next().cloned().expect("the slot has a new owner");
    let reader = (1..4).find(|node| group.nodes[*node].member != heir).expect("two are no heirs");
    let Get::Asking(_) = group.get(reader, &key) else { panic!("it is not here") };
    settle_but_0(&mut group);
    let question = slow.pop().filter(|packet| packet.from == reader).expect("who leaves is asked last");
    // It hands over what it has before it hears that question, and all others have answered.
    slow.into_iter().for_each(|packet| group.wire.push_back(packet));
    group.run_for(Duration::from_millis(200));
    assert!(group.engine(0).peek(&key).is_none(), "it has been handed over");
    assert!(group.nodes[reader].fetched.is_empty(), "one has not answered yet");
    group.hand_over(question);
    group.settle();
    let (_, found) = group.nodes[reader].fetched.pop().expect("all have answered");
    assert!(found.expect("nobody is silent").is_some(), "the heir has it");
}

#[test]
fn what_is_nowhere_is_said_to_be_so_while_nobody_is_sure() {
    let mut group = Group::ready(4, &backups(0));
    let key = owned_by(&group, 0);
    group.with(0, Engine::drain);
    group.settle();
    let Get::Asking(_) = group.get(1, &key) else { panic!("one that leaves may have it") };
    group.settle();
    let (_, found) = group.nodes[1].fetched.pop().expect("all have answered, twice");
    assert!(found.expect("nobody is silent").is_none());
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

#[test]
fn what_found_no_room_on_a_holder_is_read_from_another() {
    let mut group = Group::new();
    group.join(everywhere());
    group.join(Config { max_entries: 10, ..everywhere() });
    group.run_for(SECOND);
    (0..20).for_each(|number| group.create(0, &key(number), "n", "1"));
    group.settle();
    let refused: Vec<_> = (0..20).filter(|number| group.engine(1).peek(&key(*number)).is_none()).collect();
    assert_eq!(refused.len(), 10);
    for number in refused {
        let Get::Asking(_) = group.get(1, &key(number)) else { panic!("it cannot say that entry {number} is not there") };
        group.settle();
        // There is no room for the answer either, but it is one.
        let found = group.nodes[1].fetched.pop().expect("it is answered").1.expect("somebody knows");
        assert!(found.is_some_and(|record| record.value("n").is_some()), "entry {number}");
    }
}

#[test]
fn holders_that_agree_as_they_all_lack_an_entry_do_not_say_that_it_is_not_there() {
    let config = Config { repair_interval: SECOND, ..backups(1) };
    let mut group = Group::new();
    let guest = group.join(config.clone());
    let full = [0; 2].map(|_| group.join(Config { max_entries: 0, ..config.clone() }));
    group.run_for(SECOND);
    let local = group.engine(guest).local().clone();
    let key = (0..).map(key).find(|key| group.engine(guest).placement.rank(slot_of(key), &local).is_none());
    let key = key.expect("two of three hold a key");
    group.create(guest, &key, "n", "1");
    for second in 0..15 {
        group.run_for(SECOND);
        for reader in full {
            let Get::Asking(_) = group.get(reader, &key) else { panic!("{reader} cannot know that after {second} s") };
            group.settle();
            let found = group.nodes[reader].fetched.pop().expect("it is answered").1.expect("somebody knows");
            assert!(found.is_some_and(|record| record.value("n").is_some()));
        }
    }
}

#[test]
fn a_member_without_room_reads_what_others_hold() {
    let mut group = Group::ready(1, &backups(0));
    let full = group.join(Config { max_entries: 0, ..backups(0) });
    group.run_for(SECOND);
    let key = owned_by(&group, 0);
    group.create(0, &key, "name", "ada");
    let Get::Asking(_) = group.get(full, &key) else { panic!("it does not hold it") };
    group.settle();
    let (_, found) = group.nodes[full].fetched.pop().expect("it is answered");
    let record = found.expect("the owner answers").expect("the entry is there");
    assert_eq!(record.value("name").map(|value| &value[..]), Some(&b"ada"[..]));
    assert_eq!(group.engine(full).table.len(), 0);
}

#[test]
fn a_full_holder_asks_others_before_it_reads_its_copy_of_what_found_no_room() {
    let mut group = Group::ready(1, &everywhere());
    let full = group.join(Config { max_bytes: 1000, ..everywhere() });
    group.run_for(SECOND);
    let key = key(1);
    group.create(0, &key, "n", "1");
    group.settle();
    assert!(matches!(group.get(full, &key), Get::Here(_)), "as long as it has room, that is all there is");
    group.set(0, &key, "n", "x".repeat(2000).leak());
    group.settle();
    assert_eq!(group.value(full, &key, "n").as_deref(), Some(&b"1"[..]), "it has no room for more");
    let found = read(&mut group, full, &key);
    assert_eq!(found.value("n").map(Bytes::len), Some(2000));
}

/// Two that hold an entry, and a member without room that does not.
fn reader_without_room() -> (Group, [u8; 4], usize) {
    let mut group = Group::ready(2, &backups(1));
    let full = group.join(Config { max_bytes: 1, ..backups(1) });
    group.run_for(SECOND);
    let local = group.engine(full).local().clone();
    let key = (0..).map(key).find(|key| group.engine(full).placement.rank(slot_of(key), &local).is_none());
    let key = key.expect("two of three hold a key");
    group.create(0, &key, "n", "1");
    group.settle();
    (group, key, full)
}

#[test]
fn what_finds_no_room_beside_an_older_copy_is_read_all_the_same() {
    let (mut group, key, full) = reader_without_room();
    let old = read(&mut group, full, &key);
    group.with(full, |engine, now| {
        engine.at(now);
        engine.table.insert(&key, table::Held::new(Arc::clone(&old), engine.millis()))
    });
    group.set(0, &key, "n", "a longer value");
    group.settle();
    let found = read(&mut group, full, &key);
    assert_eq!(found.value("n").map(|value| &value[..]), Some(&b"a longer value"[..]));
    assert!(group.engine(full).table.bytes() < old.size() + 200, "no more is held for it");
}

#[test]
fn what_a_guest_has_and_finds_no_room_is_the_answer_although_a_holder_has_nothing() {
    let mut group = Group::ready(3, &backups(0));
    let full = group.join(Config { max_bytes: 1, ..backups(0) });
    group.run_for(SECOND);
    let key = owned_by(&group, 0);
    group.create(0, &key, "n", "1");
    let entry = group.engine(0).whole(&key).expect("it is here");
    let Get::Asking(ticket) = group.get(full, &key) else { panic!("it is not here") };
    // The owner is slow, so another one is asked as well, which has it as a guest. Then the owner has nothing.
    let asked = group.wire.pop_back().expect("the owner is asked");
    assert_eq!(asked.to, 0);
    group.now += SECOND;
    group.with(full, |engine, now| engine.timeout(now));
    let guest = group.wire.back().expect("another is asked").to;
    let answers = [(guest, message::Found::Entry(Box::new(entry))), (0, message::Found::Unsure)];
    for (node, answer) in answers {
        let (from, answer) = (group.nodes[node].member.clone(), Message::Fetched { request: ticket, answer });
        group.with(full, |engine, now| engine.receive(now, &from, &codec::encode(0, &answer)));
    }
    // Whoever else is asked has nothing either.
    let mut rest = std::mem::take(&mut group.wire);
    while let Some(packet) = rest.pop_front() {
        if packet.from == full && matches!(decoded(&packet), Some(Message::Fetch { .. })) && packet.to != guest {
            let answer = Message::Fetched { request: ticket, answer: message::Found::Unsure };
            let from = group.nodes[packet.to].member.clone();
            group.with(full, |engine, now| engine.receive(now, &from, &codec::encode(0, &answer)));
            rest.append(&mut group.wire);
        }
    }
    let (_, found) = group.nodes[full].fetched.pop().expect("all have answered");
    assert!(found.expect("nobody is silent").is_some());
}

#[test]
fn one_that_could_not_read_its_store_and_is_gone_is_not_waited_for() {
    let mut group = Group::ready(3, &backups(0));
    let key = owned_by(&group, 0);
    let Get::Asking(ticket) = group.get(1, &key) else { panic!("it is not here") };
    let owner = group.nodes[0].member.clone();
    let answer = Message::Fetched { request: ticket, answer: message::Found::Unreadable };
    group.with(1, |engine, now| engine.receive(now, &owner, &codec::encode(0, &answer)));
    group.crash(0);
    group.settle();
    let (_, found) = group.nodes[1].fetched.pop().expect("the others have answered");
    assert!(found.expect("nobody is left who could not tell").is_none());
}

#[test]
fn a_change_that_is_refused_leaves_nothing_of_what_was_read() {
    let (mut group, key, full) = reader_without_room();
    let read = read(&mut group, full, &key);
    let change = |read: &Arc<Record>| Change::Update {
        read: Arc::clone(read),
        lease: None,
        attributes: vec![("n".into(), Some("a longer value".into()))],
    };
    assert!(matches!(group.commit(full, &key, change(&read), Want::None), Err(Refusal::Full)));
    assert!(group.engine(full).table.get(&key).is_none(), "an old state would be read from now on");
    // Nor where an old tombstone is.
    let before = Version { time: read.birth.time - 1, ..read.birth };
    group.with(full, |engine, now| {
        engine.at(now);
        engine.table.insert(&key, table::Held::new(Arc::new(Record::tombstone(before)), engine.millis()))
    });
    assert!(matches!(group.commit(full, &key, change(&read), Want::None), Err(Refusal::Full)));
    assert!(group.engine(full).peek(&key).is_none());
}

#[test]
fn who_is_given_an_entry_that_is_overdue_only_here_keeps_it_alive() {
    let config = Config { expiry_interval: SECOND * 60, ..backups(1) };
    let mut group = Group::ready(5, &config);
    let key = owned_by(&group, 0);
    let change = Change::Create { lease: SECOND * 4, attributes: vec![("n".into(), Some("1".into()))] };
    assert!(group.commit(0, &key, change, Want::None).is_ok());
    group.run_for(SECOND * 9 / 2);
    // The owner was the last to access it. Others are told late of accesses, and take it for alive for longer.
    let stranger = (1..5).find(|node| group.engine(*node).peek(&key).is_none()).expect("three do not hold it");
    read(&mut group, stranger, &key);
    group.run_for(SECOND * 3);
    assert!(matches!(group.get(0, &key), Get::Here(_)), "that was an access");
}

#[test]
fn an_overdue_copy_does_not_end_a_read_while_another_holder_may_know_of_a_later_use() {
    let config = Config { expiry_interval: SECOND * 60, ..backups(1) };
    let mut group = Group::ready(3, &config);
    let key = owned_by(&group, 0);
    let backup = holder(&group, 0, &key, 1);
    let reader = stranger(&group, &key);
    let change = Change::Create { lease: SECOND * 8, attributes: vec![("n".into(), Some("1".into()))] };
    assert!(group.commit(0, &key, change, Want::None).is_ok());
    group.settle();
    group.run_for(SECOND * 7);
    // The backup has not heard of the last use.
    group.with(backup, |engine, _| engine.table.note(&key, |held| held.accessed -= 8_000));
    let Get::Asking(_) = group.get(reader, &key) else { panic!("it does not hold it") };
    let asked = group.wire.pop_front().expect("the owner is asked first");
    assert_eq!(asked.to, 0);
    // It is slow, so the backup is asked as well.
    group.run_for(SECOND / 2);
    assert!(group.nodes[reader].fetched.is_empty(), "the owner may know of a later use");
    group.hand_over(asked);
    group.settle();
    let (_, found) = group.nodes[reader].fetched.pop().expect("the owner has answered");
    assert!(found.expect("it can be told").is_some(), "it is in use");
}

/// A joiner that one of two members has heard, which has created an entry on it and on itself, and has died.
fn only_a_joiner_has_it() -> (Group, usize, [u8; 4]) {
    let mut group = Group::ready(2, &backups(1));
    group.shown_at_once = false;
    let joiner = group.join(backups(1));
    // It gets nothing of what it asks for.
    group.show(1, joiner);
    while let Some(packet) = group.wire.pop_front() {
        if !matches!(decoded(&packet), Some(Message::Pull { .. })) {
            group.hand_over(packet);
        }
    }
    let survivor = group.engine(0).local().clone();
    let key = (0..).map(key).find(|key| group.engine(1).placement.rank(slot_of(key), &survivor).is_none());
    let key = key.expect("two of three hold a key");
    group.create(1, &key, "n", "1");
    group.settle();
    assert!(group.value(joiner, &key, "n").is_some(), "it has confirmed it");
    group.crash(1);
    group.show(0, joiner);
    (group, joiner, key)
}

/// Member 2 knows that an entry has ended; the joiner, 3, has what began anew, and who wrote it is dead. Member 0 holds nothing of it.
fn ended_for_one_and_anew_at_a_joiner() -> (Group, [u8; 4]) {
    let (reader, writer, former) = (0, 1, 2);
    // The writer and the former holder have it at first; with the joiner, the writer and the joiner; without the writer, the joiner and
    // the former holder.
    let four = Group::ready(4, &backups(1));
    let order = [writer, 3, former, reader].map(|node| &four.nodes[node].member);
    let key = (0..).map(key).find(|key| four.engine(reader).placement.order(slot_of(key)) == order).expect("all orders happen");
    let mut group = Group::ready(3, &backups(1));
    group.create(writer, &key, "n", "1");
    group.settle();
    assert!(group.commit(writer, &key, Change::Remove { read: None }, Want::None).is_ok());
    group.settle();
    let joiner = group.join(backups(1));
    // It gets nothing of what it asks for, and the former holder keeps what it has.
    while let Some(packet) = group.wire.pop_front() {
        if !matches!(decoded(&packet), Some(Message::Pull { .. })) {
            group.hand_over(packet);
        }
    }
    let anew = Change::Replace { lease: SECOND * 1800, attributes: vec![("n".into(), Some("2".into()))] };
    assert!(group.commit(writer, &key, anew, Want::None).is_ok());
    group.settle();
    assert!(group.value(joiner, &key, "n").is_some(), "it has confirmed it");
    assert!(group.engine(former).whole(&key).is_some_and(|old| !old.record.is_alive()), "it knows of the end only");
    group.crash(writer);
    (group, key)
}

#[test]
fn what_ended_does_not_end_a_read_while_one_that_joins_may_have_what_began_anew() {
    let (mut group, key) = ended_for_one_and_anew_at_a_joiner();
    let Get::Asking(_) = group.get(0, &key) else { panic!("it does not hold it") };
    group.settle();
    let (_, found) = group.nodes[0].fetched.pop().expect("all answer");
    assert!(found.expect("the joiner knows").is_some(), "it began anew");
}

#[test]
fn what_ended_does_not_end_a_read_while_one_that_joins_has_been_asked_and_may_answer() {
    let (mut group, key) = ended_for_one_and_anew_at_a_joiner();
    let Get::Asking(_) = group.get(0, &key) else { panic!("it does not hold it") };
    // The first is slow, so the joiner is asked as well; then the first answers before it.
    let first = group.wire.pop_back().expect("one holder is asked");
    group.now += SECOND;
    group.with(0, |engine, now| engine.timeout(now));
    let asked = |packet: &Packet| packet.to == 3 && matches!(decoded(packet), Some(Message::Fetch { .. }));
    let at = group.wire.iter().position(asked).expect("the joiner is asked");
    let second = group.wire.remove(at).expect("it is there");
    assert_eq!((first.to, second.to), (2, 3));
    group.hand_over(first);
    let answer = |packet: &Packet| packet.to == 0 && matches!(decoded(packet), Some(Message::Fetched { .. }));
    let at = group.wire.iter().position(answer).expect("it answers");
    let answer = group.wire.remove(at).expect("it is there");
    group.hand_over(answer);
    assert!(group.nodes[0].fetched.is_empty(), "the joiner may know better");
    group.hand_over(second);
    group.settle();
    let (_, found) = group.nodes[0].fetched.pop().expect("both have answered");
    assert!(found.expect("the joiner knows").is_some(), "it began anew");
}

/// The joiner's hello, which is held back.
fn hold_back_hello(group: &mut Group, joiner: usize) -> Packet {
    let hello = group.wire.iter().position(|packet| packet.from == joiner).expect("it says hello");
    group.wire.remove(hello).expect("it is there")
}

/// The survivor asks the joiner, and finds the entry.
fn finds_it_at_the_joiner(group: &mut Group, key: &[u8]) {
    let Get::Asking(_) = group.get(0, key) else { panic!("the joiner was not heard yet") };
    group.settle();
    let (_, found) = group.nodes[0].fetched.pop().expect("the joiner answers");
    assert!(found.expect("it knows").is_some());
}

#[test]
fn who_hears_a_joiner_after_the_writer_has_died_asks_it() {
    let (mut group, _, key) = only_a_joiner_has_it();
    // Each has heard the other's hello, and no more.
    for _ in 0..2 {
        let packet = group.wire.pop_front().expect("two hellos");
        group.hand_over(packet);
    }
    finds_it_at_the_joiner(&mut group, &key);
    // Once it has told what it has, nobody need ask it again.
    group.run_for(SECOND * 10);
    assert!(matches!(group.get(0, &[0xff; 16]), Get::Absent), "what is not here is nowhere");
    assert!(group.agrees());
}

#[test]
fn who_sees_a_joiner_and_has_not_heard_it_asks_it_as_well() {
    let (mut group, joiner, key) = only_a_joiner_has_it();
    let hello = hold_back_hello(&mut group, joiner);
    finds_it_at_the_joiner(&mut group, &key);
    group.hand_over(hello);
    group.run_for(SECOND * 10);
    assert!(group.agrees());
}

#[test]
fn who_was_refused_by_a_joiner_before_it_was_in_the_context_asks_it_as_well() {
    let (mut group, joiner, key) = only_a_joiner_has_it();
    let hello = hold_back_hello(&mut group, joiner);
    let refused = group.wire.pop_front().expect("a hello to the joiner");
    let member = group.nodes[joiner].member.clone();
    group.with(0, |engine, now| engine.sent(now, refused.token.expect("its outcome matters"), &member, Outcome::Rejected));
    finds_it_at_the_joiner(&mut group, &key);
    group.hand_over(hello);
    group.run_for(SECOND * 10);
    assert!(group.agrees());
}

#[test]
fn one_that_does_not_have_the_context_is_not_waited_for() {
    let mut group = Group::ready(2, &backups(1));
    let other = Config { context: 99, ..backups(1) };
    group.join(other);
    group.settle();
    let Get::Asking(_) = group.get(0, &[0xff; 16]) else { panic!("it may have entered the context since") };
    group.settle();
    let (_, found) = group.nodes[0].fetched.pop().expect("it has said that it does not have the context");
    assert!(found.expect("nobody else is there to ask").is_none());
    group.run_for(SECOND * 3);
    assert!(matches!(group.get(0, &[0xff; 16]), Get::Absent));
}

#[test]
fn a_holder_that_has_just_come_and_not_seen_the_others_is_not_believed_that_an_entry_is_nowhere() {
    let mut group = Group::ready(3, &backups(1));
    (0..300).for_each(|number| group.create(0, &key(number), "n", "1"));
    group.run_for(SECOND * 6);
    // The joiner sees one member only, and takes what that one has for all there is.
    group.shown_at_once = false;
    let (reader, joiner) = (2, group.join(backups(1)));
    group.show(reader, joiner);
    group.run_for(SECOND);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    let (engine, other) = (group.engine(reader), group.engine(joiner));
    let asked_first = |key: &[u8]| engine.placement.rank(slot_of(key), other.local()) == Some(0);
    let keys = (0..300).map(key).filter(|key| asked_first(key) && engine.peek(key).is_none() && other.peek(key).is_none());
    let keys: Vec<_> = keys.collect();
    assert!(keys.len() > 5, "{keys:?}");
    for key in keys {
        assert!(read(&mut group, reader, &key).value("n").is_some());
    }
}
