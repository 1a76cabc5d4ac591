//! Who holds what, and what moves when members come and go.

use super::*;

fn member(number: u8, payload: &'static str) -> Member {
    Member::new(([10, 0, 0, number], 4000).into()).with_payload(payload)
}

fn place(members: &[Member], copies: Copies) -> Placement {
    let candidates = members.iter().map(|member| Candidate { member: member.clone(), site: Site::of(member) });
    Placement::new(candidates.collect(), copies)
}

fn members(count: u8) -> Vec<Member> {
    (1..=count).map(|number| member(number, "")).collect()
}

#[test]
fn every_member_computes_the_same_whatever_order_it_met_the_others_in() {
    let mut group = members(7);
    let one = place(&group, Copies::Backups(2));
    group.reverse();
    let other = place(&group, Copies::Backups(2));
    for slot in 0..SLOTS {
        assert!(one.holding(slot).eq(other.holding(slot)));
    }
}

#[test]
fn a_slot_has_so_many_holders_and_no_member_twice() {
    for (count, copies, width) in [
        (5, Copies::Backups(1), 2),
        (5, Copies::Backups(9), 5),
        (3, Copies::Everywhere, 3),
        (1, Copies::Backups(1), 1),
        (4, Copies::Backups(0), 1),
    ] {
        let placement = place(&members(count), copies);
        for slot in 0..SLOTS {
            let mut holders = placement.holders(slot).to_vec();
            assert_eq!(holders.len(), width);
            holders.sort_unstable();
            holders.dedup();
            assert_eq!(holders.len(), width);
        }
    }
    assert_eq!(place(&[], Copies::Backups(1)).holders(5), &[] as &[Index]);
}

#[test]
fn a_member_that_leaves_moves_only_what_it_held() {
    let group = members(6);
    let before = place(&group, Copies::Backups(1));
    for gone in &group {
        let rest: Vec<_> = group.iter().filter(|member| *member != gone).cloned().collect();
        let after = place(&rest, Copies::Backups(1));
        for slot in 0..SLOTS {
            let kept: Vec<_> = before.holding(slot).filter(|holder| *holder != gone).collect();
            assert!(
                kept.iter().all(|holder| after.rank(slot, holder).is_some()),
                "who held slot {slot} and stayed goes on holding it"
            );
            if before.rank(slot, gone).is_none() {
                assert!(before.holding(slot).eq(after.holding(slot)));
            }
        }
    }
}

#[test]
fn a_member_that_restarts_under_its_address_gets_its_slots_back() {
    let group = members(4);
    let before = place(&group, Copies::Backups(1));
    let mut again = group.clone();
    again[2] = member(3, "");
    assert_ne!(again[2], group[2]);
    let after = place(&again, Copies::Backups(1));
    for slot in 0..SLOTS {
        assert_eq!(before.rank(slot, &group[2]), after.rank(slot, &again[2]));
    }
}

#[test]
fn slots_are_spread_by_weight() {
    let group = [member(1, ""), member(2, "weight=3"), member(3, "zone=x weight=nonsense")];
    let placement = place(&group, Copies::Backups(0));
    let owned = |member| (0..SLOTS).filter(|slot| placement.rank(*slot, member) == Some(0)).count();
    let [light, heavy, odd] = [0, 1, 2].map(|at| owned(&group[at]));
    assert_eq!(light + heavy + odd, usize::from(SLOTS));
    // 1 : 3 : 1 of 1024, give or take five standard deviations.
    assert!((540..690).contains(&heavy), "{light} {heavy} {odd}");
    assert!((140..270).contains(&light) && (140..270).contains(&odd), "{light} {heavy} {odd}");
}

#[test]
fn copies_go_to_another_zone_first() {
    let group = [member(1, "zone=a"), member(2, "zone=a"), member(3, "zone=a"), member(4, "zone=b;rack=7")];
    let placement = place(&group, Copies::Backups(1));
    for slot in 0..SLOTS {
        assert!(placement.rank(slot, &group[3]).is_some(), "the one member of zone b is owner or backup of everything");
    }
    let two = place(&group, Copies::Backups(2));
    assert!((0..SLOTS).all(|slot| two.holders(slot).len() == 3), "when zones run out, the rest is by rank");
}
