//! The laws of merging, and what they mean for users.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn version(time: u64, node: u64) -> Version {
    Version { time, node }
}

fn attribute(name: &str, version: Version, value: Option<&'static str>) -> Attribute {
    Attribute { name: name.into(), version, value: value.map(Bytes::from) }
}

fn record(birth: Version, attributes: Vec<Attribute>) -> Record {
    let seen = Seen::collect(attributes.iter().map(|attribute| attribute.version).chain([birth]).collect());
    Record { birth, touched: birth.time, seen, attributes: attributes.into(), ..Record::default() }
}

/// Few times, nodes and names, so that everything meets everything.
fn any_version() -> impl Strategy<Value = Version> {
    (1..8_u64, 1..4_u64).prop_map(|(time, node)| version(time, node))
}

fn any_record() -> impl Strategy<Value = Record> {
    let attributes = vec((0..3_usize, any_version(), proptest::option::of(0..3_usize)), 0..4);
    let death = prop_oneof![3 => Just(Version::ZERO), 1 => any_version()];
    let birth = prop_oneof![1 => Just(Version::ZERO), 3 => any_version()];
    (birth, death, 0..8_u64, 0..8_u64, (any_version(), 0..3_u64), vec(any_version(), 0..3), attributes).prop_map(
        |(birth, death, touched, lapsed, (lease, millis), seen, attributes)| {
            let mut record = Record {
                birth,
                touched,
                end: Ends::of(death, lapsed),
                lease: Lease { version: lease, millis },
                seen: Seen::collect(seen),
                attributes: Vec::new().into(),
            };
            if birth.is_zero() {
                return Record::tombstone(death);
            }
            for (name, version, value) in attributes {
                record.put(attribute(["a", "b", "c"][name], version, value.map(|value| ["x", "y", "z"][value])));
            }
            // As it is after any merge.
            let mut merged = Record::default();
            merged.merge(record);
            merged
        },
    )
}

fn merged(a: &Record, b: &Record) -> Record {
    let mut record = a.clone();
    record.merge(b.clone());
    record
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn merging_is_commutative(a in any_record(), b in any_record()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
    }

    #[test]
    fn merging_is_associative(a in any_record(), b in any_record(), c in any_record()) {
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
    }

    #[test]
    fn merging_is_idempotent(a in any_record(), b in any_record()) {
        let once = merged(&a, &b);
        let mut twice = once.clone();
        prop_assert!(!twice.merge(b.clone()).changed);
        prop_assert!(!twice.merge(a.clone()).changed);
        prop_assert_eq!(&twice, &once);
    }

    #[test]
    fn a_merge_tells_whether_it_changed_anything(a in any_record(), b in any_record()) {
        let mut record = a.clone();
        prop_assert_eq!(record.merge(b.clone()).changed, record != a);
    }

    #[test]
    fn what_a_merge_leaves_is_later_than_both(a in any_record(), b in any_record()) {
        let record = merged(&a, &b);
        prop_assert!(record.end.death >= a.end.death.max(b.end.death));
        prop_assert!(!record.is_alive() || record.birth >= a.birth.max(b.birth));
    }
}

#[test]
fn two_attributes_changed_at_once_both_survive() {
    let birth = version(1, 1);
    let a = record(birth, vec![attribute("cart", version(5, 1), Some("apples"))]);
    let b = record(birth, vec![attribute("name", version(5, 2), Some("anna"))]);
    let both = merged(&a, &b);
    assert_eq!(
        (both.value("cart").map(|v| &v[..]), both.value("name").map(|v| &v[..])),
        (Some(&b"apples"[..]), Some(&b"anna"[..]))
    );
}

#[test]
fn the_loss_of_a_write_that_nobody_had_seen_is_told_on_either_side() {
    let birth = version(1, 1);
    let mut older = record(birth, vec![attribute("cart", version(5, 1), Some("apples"))]);
    let mut newer = record(birth, vec![attribute("cart", version(6, 2), Some("pears"))]);
    let (one, other) = (older.clone(), newer.clone());
    for loss in [older.merge(other.clone()).losses, newer.merge(one.clone()).losses] {
        let [loss] = &loss[..] else { panic!("one write was lost") };
        assert_eq!((&*loss.name, loss.lost.version, loss.kept.version), ("cart", version(5, 1), version(6, 2)));
    }
    assert_eq!(older, newer);
}

#[test]
fn overwriting_what_one_has_seen_is_no_loss() {
    let birth = version(1, 1);
    let mut replica = record(birth, vec![attribute("cart", version(5, 1), Some("apples"))]);
    let mut later = record(birth, vec![attribute("cart", version(6, 2), Some("pears"))]);
    later.seen.add(version(5, 1));
    assert!(replica.merge(later).losses.is_empty());
}

#[test]
fn nothing_written_to_a_dead_incarnation_brings_it_back() {
    let live = record(version(1, 1), vec![attribute("cart", version(9, 2), Some("apples"))]);
    let dead = merged(&live, &Record::tombstone(version(5, 1)));
    assert_eq!(dead.death(), Some(Death::Removed));
    assert!(dead.attributes.is_empty(), "a tombstone holds nothing");
    assert!(!merged(&dead, &live).is_alive());
}

#[test]
fn what_was_written_after_a_removal_is_lost_and_told() {
    let writes = vec![attribute("cart", version(9, 2), Some("apples")), attribute("old", version(3, 2), Some("x"))];
    let mut live = record(version(1, 1), writes);
    let losses = live.merge(Record::tombstone(version(5, 1))).losses;
    let [Loss { name, lost, kept }] = &losses[..] else { panic!("one write is later than the removal: {losses:?}") };
    assert_eq!((&**name, lost.version, kept.version, kept.value.as_ref()), ("cart", version(9, 2), version(5, 1), None));
}

#[test]
fn a_key_of_a_map_can_be_born_again() {
    let dead = Record::tombstone(version(5, 1));
    let again = record(version(6, 2), vec![attribute("", version(6, 2), Some("new"))]);
    assert!(merged(&dead, &again).is_alive());
    assert!(merged(&merged(&again, &dead), &Record::tombstone(version(7, 1))).death().is_some());
}

#[test]
fn expiry_gives_way_to_an_access_that_it_did_not_know_of() {
    let mut expired = record(version(1, 1), vec![attribute("a", version(1, 1), Some("x"))]);
    let mut used = expired.clone();
    expired.lapse(expired.touched);
    assert_eq!(expired.death(), Some(Death::Lapsed));
    used.touched = 7;
    expired.compact();
    let back = merged(&expired, &used);
    assert!(back.is_alive());
    assert_eq!(back.value("a"), Some(&Bytes::from("x")), "all of it comes back");
}

#[test]
fn equal_records_have_equal_fingerprints_and_others_do_not() {
    let base = record(version(1, 1), vec![attribute("a", version(2, 1), Some("x")), attribute("b", version(3, 1), None)]);
    assert_eq!(base.fingerprint(), base.clone().fingerprint());
    let mut others = vec![base.clone(); 5];
    others[0].attributes[0].version.time = 9;
    others[1].attributes[1].value = Some(Bytes::from("y"));
    others[2].lease.version.time = 4;
    others[3].attributes.swap(0, 1);
    others[3].attributes[0].name = "c".into();
    others[4].end = Ends::of(version(1, 0), 0);
    assert!(others.iter().all(|other| other.fingerprint() != base.fingerprint()));
}
