//! Members that come, and get what there is.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_joiner_gets_everything_in_small_chunks_and_is_ready_then() {
    let config = Config { chunk_bytes: 2_000, chunk_window: 2, ..everywhere() };
    let mut group = Group::ready(2, &config);
    for number in 0..3_000 {
        group.create(number as usize % 2, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(config);
    assert_eq!(group.engine(joiner).phase(), Phase::Joining);
    group.begin(joiner);
    let (mut chunks, mut most) = (0, 0);
    while let Some(packet) = group.wire.pop_front() {
        if let Some(Message::Chunk(chunk)) = decoded(&packet) {
            chunks += 1;
            let sizes: Vec<_> = chunk.entries.iter().map(|entry| entry.key.len() + entry.record.size()).collect();
            let but_last: usize = sizes.iter().rev().skip(1).sum();
            assert!(but_last < 2_000, "a chunk ends with the entry that fills it: {sizes:?}");
        }
        group.hand_over(packet);
        for source in 0..2 {
            let between =
                |packet: &&Packet| [packet.from, packet.to] == [source, joiner] || [packet.to, packet.from] == [source, joiner];
            let pulls = group.wire.iter().filter(between).filter_map(decoded);
            most = most.max(pulls.filter(|message| matches!(message, Message::Pull { .. } | Message::Chunk(_))).count());
        }
    }
    assert_eq!(most, 2, "as many are under way with each source as the window has");
    let size = key(0).len() + group.engine(0).peek(&key(0)).expect("it is here").size();
    assert!(chunks >= 3_000 / (2_000 / size + 1), "{chunks} chunks, of entries of {size} bytes");
    group.run_for(SECOND * 3);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert_eq!(group.engine(joiner).table.alive(), 3_000);
    assert!(group.agrees());
}

#[test]
fn updates_go_on_while_a_joiner_pulls() {
    let config = Config { chunk_bytes: 1_000, chunk_window: 1, ..backups(1) };
    let mut group = Group::ready(2, &config);
    for number in 0..500 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(config);
    group.begin(joiner);
    let (mut turn, mut updated) = (0, BTreeSet::new());
    while let Some(packet) = group.wire.pop_front() {
        group.hand_over(packet);
        turn += 1;
        if turn % 3 == 0 && turn < 600 {
            let number = turn % 500;
            if group.engine(0).peek(&key(number)).is_some() {
                group.set(0, &key(number), "n", "2");
                updated.insert(number);
            }
        }
    }
    assert!(updated.len() > 50, "{} updates", updated.len());
    group.run_for(SECOND * 20);
    assert!(group.agrees());
    for number in 0..500 {
        let value: &[u8] = if updated.contains(&number) { b"2" } else { b"1" };
        let found: Vec<_> = (0..3).filter_map(|node| group.value(node, &key(number), "n")).collect();
        assert_eq!(found, [value, value], "entry {number}");
    }
}

#[test]
fn a_source_that_dies_costs_nothing_but_time() {
    let config = Config { chunk_bytes: 1_000, ..everywhere() };
    let mut group = Group::ready(3, &config);
    for number in 0..1_000 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(config);
    group.begin(joiner);
    for _ in 0..60 {
        let packet = group.wire.pop_front().expect("it pulls");
        group.hand_over(packet);
    }
    group.crash(1);
    group.run_for(SECOND * 5);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert_eq!(group.engine(joiner).table.alive(), 1_000);
}

#[test]
fn a_silent_source_is_left_for_another() {
    let mut group = Group::ready(3, &everywhere());
    for number in 0..100 {
        group.create(0, &key(number), "n", "1");
    }
    group.settle();
    let joiner = group.join(everywhere());
    group.begin(joiner);
    // It has said hello, and then says nothing more.
    for _ in 0..12 {
        if let Some(packet) = group.wire.pop_front() {
            group.hand_over(packet);
        }
    }
    group.nodes[1].deaf = true;
    group.run_for(SECOND * 10);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert_eq!(group.engine(joiner).table.alive(), 100);
}

/// Lets time pass while one member's messages to another share a link of so many bytes a second.
fn run_on_slow_link(group: &mut Group, from: usize, to: usize, rate: u64, time: Duration) {
    let (end, mut free) = (group.now + time, group.now);
    let mut link = VecDeque::new();
    loop {
        while let Some(packet) = group.wire.pop_front() {
            if (packet.from, packet.to) == (from, to) {
                free = free.max(group.now) + Duration::from_micros(packet.body.len() as u64 * 1_000_000 / rate);
                link.push_back((free, packet));
            } else {
                group.hand_over(packet);
            }
        }
        let arrives = link.front().map_or(end, |(at, _)| *at);
        let step = (group.now + SECOND / 100).min(arrives).min(end).max(group.now);
        // Timers on the way.
        let (passed, held) = (step - group.now, std::mem::take(&mut link));
        group.run_for(passed);
        link = held;
        if link.front().is_some_and(|(at, _)| *at <= group.now) {
            let (_, packet) = link.pop_front().expect("it was looked at");
            group.hand_over(packet);
        }
        if group.now >= end {
            link.into_iter().for_each(|(_, packet)| group.wire.push_back(packet));
            return;
        }
    }
}

#[test]
fn a_slow_link_delays_a_joiner_by_what_it_has_to_carry() {
    let config = Config { transfer_timeout: SECOND * 600, ..everywhere() };
    let mut group = Group::ready(1, &config);
    for number in 0..400 {
        let attributes = vec![("n".into(), Some(Bytes::from(vec![b'x'; 10_000])))];
        let change = Change::Create { lease: SECOND * 1800, attributes };
        assert!(group.commit(0, &key(number), change, Want::None).is_ok());
    }
    let joiner = group.join(config);
    group.begin(joiner);
    // 4 MB, of which one second carries 100 kB: what is asked for at once takes five times as long as a source has time to answer.
    run_on_slow_link(&mut group, 0, joiner, 100_000, SECOND * 100);
    assert_eq!(group.engine(joiner).table.alive(), 400);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready, "in less than two and a half times what the bytes take");
}

#[test]
fn members_with_different_numbers_of_copies_are_told() {
    let mut group = Group::ready(2, &backups(1));
    assert!(group.nodes.iter().all(|node| node.differing.is_empty()));
    let other = group.join(backups(2));
    group.run_for(SECOND);
    assert_eq!(group.nodes[other].differing.len(), 2);
    assert_eq!(group.nodes[0].differing, [group.nodes[other].member.clone()], "once");
}

#[test]
fn ten_that_start_together_are_all_complete() {
    let mut group = Group::new();
    (0..10).for_each(|_| _ = group.join(backups(1)));
    // What each has loaded from somewhere before it heard of the others.
    for node in 0..10 {
        for number in 0..20 {
            let number = 100 * node as u32 + number;
            group.create(node, &key(number), "n", "1");
        }
    }
    group.run_for(SECOND * 30);
    assert!(group.nodes.iter().all(|node| node.engine.as_ref().expect("it runs").phase() == Phase::Ready));
    assert!(group.agrees());
    for node in 0..10 {
        for number in 0..20 {
            assert_eq!(holders_of(&group, &key(100 * node + number)), 2);
        }
    }
}

#[test]
fn a_newcomer_to_whom_the_others_are_shown_late_does_not_take_itself_for_the_first() {
    let mut group = Group::ready(3, &everywhere());
    (0..20).for_each(|number| group.create(0, &key(number), "n", "1"));
    group.run_for(SECOND);
    (group.discovery, group.shown_at_once) = (SECOND / 2, false);
    let joiner = group.join(everywhere());
    for other in 0..3 {
        group.run_for(SECOND / 50);
        assert_eq!(group.engine(joiner).phase(), Phase::Joining);
        assert!(!matches!(group.get(joiner, &key(1)), Get::Here(_)));
        group.show(joiner, other);
    }
    group.run_for(SECOND / 10);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    (0..20).for_each(|number| assert!(matches!(group.get(joiner, &key(number)), Get::Here(_)), "entry {number}"));
    // Who really is the first serves after a while.
    let mut alone = Group::new();
    (alone.discovery, alone.shown_at_once) = (SECOND / 2, false);
    alone.join(everywhere());
    alone.run_for(SECOND);
    assert_eq!(alone.engine(0).phase(), Phase::Ready);
}

#[test]
fn whoever_is_behind_a_placeholder_is_asked_and_takes_part_by_its_own_name() {
    let mut group = Group::ready(1, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.shown_at_once = false;
    let joiner = group.join(everywhere());
    let [first, second] = [0, 1].map(|node| group.nodes[node].member.clone());
    let placeholder = Member::placeholder(first.address());
    group.with(joiner, |engine, now| engine.member_added(now, &placeholder));
    group.run_for(SECOND);
    assert_eq!(group.engine(joiner).participants(), []);
    assert_eq!(group.engine(joiner).phase(), Phase::Joining, "somebody is there");

    group.with(joiner, |engine, now| engine.member_added(now, &first));
    group.with(joiner, |engine, now| engine.member_removed(now, &placeholder));
    group.with(0, |engine, now| engine.member_added(now, &second));
    group.run_for(SECOND);
    assert_eq!(group.engine(joiner).participants(), [first.id()]);
    assert_eq!(group.engine(0).participants(), [second.id()]);
    assert_eq!(group.engine(joiner).phase(), Phase::Ready);
    assert!(group.agrees() && group.engine(joiner).peek(&key(1)).is_some());
}

#[test]
fn who_is_behind_a_placeholder_and_does_not_understand_is_greeted_once() {
    let mut group = Group::new();
    group.shown_at_once = false;
    let node = group.join(everywhere());
    let tribes = group.join(everywhere());
    let placeholder = Member::placeholder(group.nodes[tribes].member.address());
    group.with(node, |engine, now| engine.member_added(now, &placeholder));
    // It acknowledges everything.
    let hello = group.wire.pop_front().expect("a hello");
    let token = hello.token.expect("it wants to know");
    group.with(node, |engine, now| engine.sent(now, token, &placeholder, Outcome::Accepted));
    group.run_for(SECOND * 30);
    assert_eq!((group.handed, group.engine(node).phase()), (0, Phase::Ready));

    let accepted = group.with(node, |engine, now| engine.receive(now, &placeholder, &hello.body));
    assert!(accepted && group.engine(node).participants().is_empty(), "whatever is said in its name");
}

#[test]
fn slots_are_complete_everywhere_after_a_while() {
    let mut group = Group::ready(5, &backups(2));
    group.run_for(SECOND * 30);
    for slot in 0..SLOTS {
        for node in &group.nodes {
            let engine = node.engine.as_ref().expect("it runs");
            assert_eq!(engine.slots[usize::from(slot)].complete, engine.placement.rank(slot, &node.member).is_some());
        }
    }
    assert!(group.nodes.iter().all(|node| node.engine.as_ref().expect("it runs").oldest_difference().is_none()));
}

#[test]
fn who_sees_all_that_take_part_does_not_wait_for_more() {
    let mut group = Group::ready(2, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.settle();
    group.discovery = SECOND;
    let joiner = group.join(everywhere());
    group.settle();
    assert_eq!(group.engine(joiner).phase(), Phase::Ready, "at once");
    assert!(group.agrees());
}

#[test]
fn who_is_told_of_more_than_it_sees_waits_a_moment_for_them() {
    let mut group = Group::ready(2, &everywhere());
    group.create(0, &key(1), "n", "1");
    group.settle();
    (group.discovery, group.shown_at_once) = (SECOND, false);
    let joiner = group.join(everywhere());
    group.show(joiner, 0);
    group.settle();
    assert_eq!(group.engine(joiner).phase(), Phase::Joining, "the other one may come");
    group.show(joiner, 1);
    group.settle();
    assert_eq!(group.engine(joiner).phase(), Phase::Ready, "it has come");

    let hasty = group.join(everywhere());
    group.show(hasty, 0);
    group.run_for(SECOND / 10);
    assert_eq!(group.engine(hasty).phase(), Phase::Ready, "the others are not waited for for long");
}

/// Whether a member that is ready has what another has of the slots that it is to hold.
fn has_its_share(group: &Group, joiner: usize, other: usize) -> bool {
    let (engine, other) = (group.engine(joiner), group.engine(other));
    let share = other.table.iter().filter(|(key, _)| engine.placement.rank(slot_of(key), engine.local()).is_some());
    let keys: Vec<_> = share.map(|(key, _)| key).collect();
    assert!(engine.phase() == Phase::Ready && keys.len() > 20, "{} entries", keys.len());
    keys.into_iter().all(|key| engine.peek(key).is_some())
}

#[test]
fn a_joiner_asks_who_comes_into_view_before_it_is_ready() {
    let mut group = Group::ready(2, &backups(0));
    (0..400).for_each(|number| group.create(0, &key(number), "n", "1"));
    group.run_for(SECOND * 5);
    group.shown_at_once = false;
    let joiner = group.join(Config { chunk_bytes: 300, chunk_window: 1, ..backups(0) });
    group.show(joiner, 0);
    group.begin(joiner);
    let mut chunks = 0;
    while group.engine(joiner).phase() != Phase::Ready {
        let packet = group.wire.pop_front().expect("it pulls");
        chunks += u32::from(packet.to == joiner && matches!(decoded(&packet), Some(Message::Chunk(_))));
        group.hand_over(packet);
        if chunks == 10 {
            // Of many slots that this one has all of, the first has said already that it has nothing.
            group.show(joiner, 1);
            chunks += 1;
        }
    }
    assert!(has_its_share(&group, joiner, 0) && has_its_share(&group, joiner, 1));
}

#[test]
fn a_joiner_asks_again_who_has_become_complete_meanwhile() {
    let mut group = Group::ready(4, &backups(1));
    (0..400).for_each(|number| group.create(0, &key(number), "n", "1"));
    group.run_for(SECOND * 5);
    group.shown_at_once = false;
    let first = group.join(backups(1));
    (0..3).for_each(|other| group.show(first, other));
    let second = group.join(Config { chunk_bytes: 300, chunk_window: 1, ..backups(1) });
    group.show(second, 3);
    group.show(second, first);
    [first, second].into_iter().for_each(|joiner| group.begin(joiner));
    // What the first one gets is late: it is asked for many slots before it has anything.
    let (mut late, mut asked) = (Vec::new(), 0);
    while group.engine(second).phase() != Phase::Ready {
        let packet = group.wire.pop_front().expect("it pulls");
        let chunk = matches!(decoded(&packet), Some(Message::Chunk(_)));
        asked += u32::from(chunk && (packet.from, packet.to) == (first, second));
        if chunk && packet.to == first && asked < 10 {
            late.push(packet);
            continue;
        }
        group.hand_over(packet);
        if asked == 10 {
            late.drain(..).for_each(|packet| group.wire.push_back(packet));
        }
    }
    assert_eq!(group.engine(first).phase(), Phase::Ready, "before the second one");
    assert!(has_its_share(&group, second, first));
}
