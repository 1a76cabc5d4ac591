//! How many copies there must be, and how many there are.

use super::super::placement::{Candidate, Placement, Site};
use super::*;

fn new(attributes: Vec<(Name, Option<Bytes>)>) -> Change {
    Change::Create { lease: SECOND * 1800, attributes }
}

#[test]
fn a_commit_that_needs_two_others_waits_for_the_second_to_come() {
    let mut group = Group::ready(2, &backups(2));
    let Ok(Commit::Waiting(ticket)) = group.commit(0, &key(1), new(Vec::new()), Want::AtLeast(2)) else { panic!("it waits") };
    group.run_for(SECOND);
    assert!(group.nodes[0].committed.is_empty(), "one has confirmed");
    group.join(backups(2));
    group.run_for(SECOND * 3);
    let (answered, result) = group.nodes[0].committed.pop().expect("it is answered");
    assert_eq!((answered, result.expect("two have confirmed").confirmed.len()), (ticket, 2));
}

#[test]
fn a_commit_that_needs_more_others_than_there_are_fails_when_its_time_is_over() {
    let mut group = Group::ready(2, &Config { commit_timeout: SECOND, ..backups(2) });
    assert!(matches!(group.commit(0, &key(1), new(Vec::new()), Want::AtLeast(2)), Ok(Commit::Waiting(_))));
    group.run_for(SECOND * 2);
    let (_, result) = group.nodes[0].committed.pop().expect("it is answered");
    let fault = result.expect_err("there is one");
    assert_eq!((fault.needed, fault.committed.confirmed.len(), fault.removed), (2, 1, false));
    assert_eq!(holders_of(&group, &key(1)), 2, "the change is made all the same");
    assert!(matches!(group.commit(0, &key(2), new(Vec::new()), Want::AtLeast(0)), Ok(Commit::Done(_))));
}

#[test]
fn a_member_that_dies_does_not_count_any_more() {
    let mut group = Group::ready(3, &backups(2));
    group.nodes[2].deaf = true;
    assert!(matches!(group.commit(0, &key(1), new(Vec::new()), Want::AtLeast(2)), Ok(Commit::Waiting(_))));
    group.settle();
    group.crash(1);
    group.nodes[2].deaf = false;
    group.run_for(SECOND * 3);
    assert!(group.nodes[0].committed.is_empty(), "who had confirmed is gone, and one is not enough");
}

#[test]
fn what_is_on_all_of_many_members_is_not_at_risk() {
    let mut group = Group::ready(1, &everywhere());
    let read = key(1);
    group.create(0, &read, "n", "1");
    group.settle();
    let slot = slot_of(&read);
    group.with(0, |engine, _| {
        let others = (0..50).map(|number| Member::new(([10, 0, 1, number], 4000).into()));
        let members = others.chain([engine.local().clone()]);
        let candidates = members.map(|member| Candidate { site: Site::default(), member });
        engine.placement = Placement::new(candidates.collect(), Copies::Everywhere);
        let all = engine.others_mask(slot);
        for (lacking, at_risk) in [(all, true), (1 << all.trailing_zeros(), true), (0, false)] {
            engine.table.note(&read, |held| held.copies = all & !lacking);
            assert_eq!(engine.at_risk().len(), usize::from(at_risk), "{lacking:b} are known to lack it");
            // Of those beyond the 32nd nothing is known, and nothing is asked for.
            let standing = engine.standing(&read).expect("it is here");
            assert_eq!(standing.confirmed.len() < standing.wanted, at_risk, "{standing:?}");
        }
        assert!(all.count_ones() < 50, "and there are more");
    });
}
