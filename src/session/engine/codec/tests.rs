//! What is written is read back; what is not ours is refused; what was once written is read for ever.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::message::{Chunk, Done, Entry, Found, Hello, Message, Offered, Phase, SwapOutcome, Touch, Want};
use super::super::record::{Attribute, Ends, Lease, Record};
use super::super::seen::Seen;
use super::super::table::{Key, SLOTS, SlotId};
use super::super::version::Version;
use super::write::put_varint;
use super::*;
use crate::id::UniqueId;

const CONTEXT: u64 = 0x0123_4567_89ab_cdef;

/// Sums overflow at the ends.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..3_u64, u64::MAX - 2..=u64::MAX]
}

fn any_version() -> impl Strategy<Value = Version> {
    (any_number(), any::<u64>()).prop_map(|(time, node)| Version { time, node })
}

fn any_key() -> impl Strategy<Value = Key> {
    // Now and then one of those that the engine under attack has.
    prop_oneof![vec(any::<u8>(), 0..20), (0..4_u8).prop_map(|number| vec![number; 16])].prop_map(Into::into)
}

fn any_value() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn any_seen() -> impl Strategy<Value = Seen> {
    vec(any_version(), 0..4).prop_map(Seen::collect)
}

fn any_record() -> impl Strategy<Value = Record> {
    let attributes = vec(("[a-z]{0,3}", any_version(), option::of(any_value()), any::<bool>()), 0..5);
    let zero_or = || prop_oneof![Just(Version::ZERO), any_version()];
    (zero_or(), zero_or(), any_number(), 0..2_u64, option::of((any_version(), any_number())), any_seen(), attributes).prop_map(
        |(birth, death, touched, lapsed, lease, seen, attributes)| {
            let lease = lease.map_or_else(Lease::default, |(version, millis)| Lease { version, millis });
            let mut record = Record { birth, touched, end: Ends::of(death, lapsed), lease, seen, attributes: Vec::new().into() };
            for (name, version, value, same) in attributes {
                let version = if same { birth } else { version };
                record.put(Attribute { name: name.as_str().into(), version, value });
            }
            record
        },
    )
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_key(), any_record(), option::of(any_seen()), any_number(), any_number())
        .prop_map(|(key, record, base, idle, keep)| Entry { key, record: Arc::new(record), base, idle, keep })
}

fn any_touch() -> impl Strategy<Value = Touch> {
    (any_key(), any_number(), any_number()).prop_map(|(key, touched, idle)| Touch { key, touched, idle })
}

fn any_ids() -> impl Strategy<Value = Vec<UniqueId>> {
    vec(any::<[u8; 16]>().prop_map(UniqueId::from_bytes), 0..4)
}

fn any_slot() -> impl Strategy<Value = SlotId> {
    0..SLOTS
}

fn any_outcome() -> impl Strategy<Value = SwapOutcome> {
    prop_oneof![
        (any_version(), any_ids(), any::<u32>()).prop_map(|(version, confirmed, wanted)| SwapOutcome::Done {
            version,
            confirmed,
            wanted
        }),
        any_version().prop_map(|current| SwapOutcome::Conflict { current }),
        Just(SwapOutcome::Absent),
        Just(SwapOutcome::NotOwner),
        (any_version(), any_ids(), any::<u32>()).prop_map(|(version, confirmed, wanted)| SwapOutcome::Unconfirmed {
            version,
            confirmed,
            wanted
        }),
    ]
}

pub(in super::super) fn any_message() -> impl Strategy<Value = Message> {
    let phase = prop_oneof![Just(Phase::Joining), Just(Phase::Ready), Just(Phase::Leaving)];
    let want =
        prop_oneof![Just(Want::None), any::<u32>().prop_map(Want::Copies), Just(Want::All), any::<u32>().prop_map(Want::AtLeast)];
    let found = prop_oneof![
        any_entry().prop_map(|entry| Found::Entry(Box::new(entry))),
        Just(Found::Absent),
        Just(Found::Unsure),
        Just(Found::Unreadable)
    ];
    let done = (any_slot(), any::<u64>(), any::<bool>()).prop_map(|(slot, digest, complete)| Done { slot, digest, complete });
    let offered =
        (any_key(), any::<u64>(), any::<u64>()).prop_map(|(key, fingerprint, touched)| Offered { key, fingerprint, touched });
    prop_oneof![
        (phase, any::<bool>(), any_number(), any::<u32>(), any::<u64>(), any::<u32>()).prop_map(
            |(phase, answer, epoch_millis, copies, life, others)| Message::Hello(Hello {
                phase,
                epoch_millis,
                answer,
                copies,
                life,
                others
            })
        ),
        vec(any_entry(), 0..4).prop_map(|entries| Message::Put(entries.into_iter().collect())),
        vec(any_touch(), 0..4).prop_map(Message::Touch),
        (any::<u64>(), any_key()).prop_map(|(request, key)| Message::Fetch { request, key }),
        (any::<u64>(), found).prop_map(|(request, answer)| Message::Fetched { request, answer }),
        (any::<u64>(), vec(any_slot(), 0..9), option::of(any_key()), any::<u32>())
            .prop_map(|(request, slots, after, budget)| Message::Pull { request, slots, after, budget }),
        (any::<u64>(), vec(any_entry(), 0..4), vec(done, 0..4), option::of(any_key()))
            .prop_map(|(request, entries, done, after)| Message::Chunk(Chunk { request, entries, done, after })),
        (any::<u32>(), any_number(), any::<u64>(), vec((any_slot(), any::<u64>()), 0..9))
            .prop_map(|(round, epoch_millis, root, slots)| Message::Digests { round, epoch_millis, root, slots }),
        (any::<u32>(), any_slot(), vec(offered, 0..5)).prop_map(|(offer, slot, entries)| Message::Offer { offer, slot, entries }),
        (any::<u32>(), vec(any_key(), 0..5)).prop_map(|(offer, keys)| Message::Want { offer, keys }),
        (any::<u64>(), vec((any_key(), any_number()), 0..5)).prop_map(|(request, entries)| Message::Reap { request, entries }),
        (any::<u64>(), vec(any_touch(), 0..5)).prop_map(|(request, entries)| Message::Spare { request, entries }),
        (any::<u64>(), any_key(), "[a-z]{0,5}", any_version(), option::of(any_value()), want).prop_map(
            |(request, key, name, expected, value, confirm)| Message::Swap {
                request,
                key,
                name: name.as_str().into(),
                expected,
                value,
                confirm
            }
        ),
        (any::<u64>(), any_outcome()).prop_map(|(request, outcome)| Message::Swapped { request, outcome }),
    ]
}

fn read(bytes: &[u8]) -> Decoded<Message> {
    decode(&mut Names::default(), CONTEXT, bytes)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in any_message()) {
        let bytes = encode(CONTEXT, &message);
        prop_assert_eq!(read(&bytes), Ok(message));
    }

    #[test]
    fn messages_that_share_memory_are_what_they_are_alone(messages in vec((any_message(), any::<bool>()), 0..40)) {
        let (mut room, mut kept) = (BytesMut::new(), Vec::new());
        for (message, keep) in messages {
            let (bytes, alone) = (encode_in(&mut room, CONTEXT, &message), encode(CONTEXT, &message));
            prop_assert_eq!(&bytes, &alone);
            if keep {
                kept.push((bytes, alone));
            }
        }
        prop_assert!(kept.iter().all(|(bytes, alone)| bytes == alone), "none is written over");
    }

    #[test]
    fn a_message_that_is_cut_or_followed_by_more_is_refused(message in any_message(), at in any::<prop::sample::Index>()) {
        let bytes = encode(CONTEXT, &message);
        prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
        let mut longer = bytes.to_vec();
        longer.push(0);
        prop_assert!(read(&longer).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(kind in 0..20_u8, body in vec(any::<u8>(), 0..200)) {
        let mut bytes = encode(CONTEXT, &Message::Touch(Vec::new()))[..HEADER].to_vec();
        bytes[5] = kind;
        bytes.extend(body);
        if let Ok(message) = read(&bytes) {
            prop_assert_eq!(read(&encode(CONTEXT, &message)), Ok(message));
        }
    }

    #[test]
    fn a_byte_that_is_changed_is_refused_or_read_without_a_panic(message in any_message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(CONTEXT, &message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(read(&bytes));
    }
}

#[test]
fn a_newer_version_and_an_unknown_kind_are_unknown_and_another_context_is_malformed() {
    let bytes = encode(CONTEXT, &Message::Touch(Vec::new())).to_vec();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        read(&bytes)
    };
    assert_eq!(with(4, 2), Err(DecodeError::Unknown));
    assert_eq!(with(5, 99), Err(DecodeError::Unknown));
    assert_eq!(with(6, 0xff), Err(DecodeError::Malformed));
    assert_eq!(with(0, b'x'), Err(DecodeError::Malformed));
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    // A put of 2^60 entries, and one whose key has 2^60 bytes.
    let header = encode(CONTEXT, &Message::Put(Vec::new().into()))[..HEADER].to_vec();
    let mut huge = Vec::new();
    huge.extend([0x80; 8]);
    huge.push(0x10);
    let many = [&header[..], &huge].concat();
    let long = [&header[..], &[1], &huge, &[0; 64]].concat();
    assert_eq!(read(&many), Err(DecodeError::Malformed));
    assert_eq!(read(&long), Err(DecodeError::Malformed));
}

#[test]
fn a_commit_of_one_attribute_costs_little_beside_its_value() {
    let version = Version { time: 1 << 60, node: u64::MAX };
    let mut record =
        Record { birth: version, touched: 1 << 60, lease: Lease { version, millis: 1_800_000 }, ..Record::default() };
    record.seen = Seen::one(version);
    record.put(Attribute { name: "attribute".into(), version, value: Some(vec![7; 1024].into()) });
    let entry = Entry { key: vec![1; 16].into(), record: Arc::new(record), base: Some(Seen::one(version)), idle: 0, keep: 0 };
    let overhead = encode(CONTEXT, &Message::Put(entry.into())).len() - 1024;
    assert!(overhead <= 180, "{overhead} bytes, to which the channel adds about 150");
}

#[test]
fn names_are_shared_up_to_a_bound() {
    let mut names = Names::default();
    assert!(Arc::ptr_eq(&names.get("cart"), &names.get("cart")));
    (0..2 * MAX_NAMES).for_each(|number| drop(names.get(&number.to_string())));
    assert_eq!(names.0.len(), MAX_NAMES);
}

#[test]
fn long_names_are_read_but_not_kept() {
    let mut names = Names::default();
    let long = "n".repeat(MAX_SHARED_NAME + 1);
    assert_eq!(*names.get(&long), *long);
    assert!(names.0.is_empty());
    drop(names.get(&long[1..]));
    assert_eq!(names.0.len(), 1);
}

#[test]
fn a_list_has_a_bound_of_its_own() {
    let list = |count: usize| {
        let mut bytes = BytesMut::from(&encode(CONTEXT, &Message::Want { offer: 1, keys: Vec::new() })[..HEADER + 4]);
        put_varint(&mut bytes, count as u64);
        // Keys of no bytes: the smallest items there are.
        bytes.put_bytes(0, count);
        read(&bytes).map(|message| matches!(message, Message::Want { keys, .. } if keys.len() == count))
    };
    assert_eq!(list(MAX_ITEMS), Ok(true));
    assert_eq!(list(MAX_ITEMS + 1), Err(DecodeError::Malformed));
}

/// One message of each kind at least, as the first version wrote it.
fn first_of_each_kind() -> Vec<(&'static str, Message)> {
    let version = |time: u64, node: u64| Version { time: time << 16, node };
    let mut record = Record::born(version(1_790_000_000_000, 7), 1_800_000);
    record.put(Attribute { name: "cart".into(), version: version(1_790_000_000_001, 7), value: Some("3 apples".into()) });
    record.put(Attribute { name: "gone".into(), version: version(1_790_000_000_002, 8), value: None });
    record.seen = Seen::collect(vec![version(1_790_000_000_001, 7), version(1_790_000_000_002, 8)]);
    let key: Key = (*b"0123456789abcdef").into();
    let whole = Entry { key: key.clone(), record: Arc::new(record.clone()), base: None, idle: 250, keep: 0 };
    let change = Entry { base: Some(Seen::one(version(1_790_000_000_000, 7))), ..whole.clone() };
    let tombstone = Record::tombstone(version(1_790_000_000_009, 9));
    let dead = Entry { key: key.clone(), record: Arc::new(tombstone), base: None, idle: 0, keep: 3_600_000 };
    let touch = Touch { key: key.clone(), touched: 1_790_000_000_003 << 16, idle: 1500 };
    let swap = |confirm| Message::Swap {
        request: 303,
        key: key.clone(),
        name: "cart".into(),
        expected: version(1_790_000_000_001, 7),
        value: Some("4 pears".into()),
        confirm,
    };
    vec![
        (
            "hello",
            Message::Hello(Hello {
                phase: Phase::Ready,
                epoch_millis: 1_790_000_000_000,
                answer: true,
                copies: 1,
                life: 7,
                others: 2,
            }),
        ),
        ("put", Message::Put(vec![whole.clone(), change, dead].into())),
        ("touch", Message::Touch(vec![touch.clone()])),
        ("fetch", Message::Fetch { request: 300, key: key.clone() }),
        ("fetched", Message::Fetched { request: 300, answer: Found::Entry(Box::new(whole.clone())) }),
        ("fetched-unreadable", Message::Fetched { request: 300, answer: Found::Unreadable }),
        ("pull", Message::Pull { request: 301, slots: vec![0, 5, 1023], after: Some(key.clone()), budget: 262_144 }),
        (
            "chunk",
            Message::Chunk(Chunk {
                request: 301,
                entries: vec![whole],
                done: vec![Done { slot: 5, digest: 0xfeed_f00d, complete: true }],
                after: Some(key.clone()),
            }),
        ),
        ("digests", Message::Digests { round: 9, epoch_millis: 1_790_000_000_004, root: 0xabcd, slots: vec![(5, 1), (6, 2)] }),
        (
            "offer",
            Message::Offer { offer: 4, slot: 5, entries: vec![Offered { key: key.clone(), fingerprint: 17, touched: 18 }] },
        ),
        ("want", Message::Want { offer: 4, keys: vec![key.clone()] }),
        ("reap", Message::Reap { request: 302, entries: vec![(key.clone(), 19)] }),
        ("spare", Message::Spare { request: 302, entries: vec![touch] }),
        ("swap", swap(Want::Copies(1))),
        ("swap-at-least", swap(Want::AtLeast(2))),
        ("swapped", Message::Swapped { request: 303, outcome: SwapOutcome::Conflict { current: version(1_790_000_000_005, 8) } }),
    ]
}

/// `tests/session_corpus/` holds one message of each kind. A file stays there for ever, so that every later version decodes it too; a later
/// version that writes other bytes adds files. `TRIBES_WRITE_CORPUS=1` writes those that are missing.
#[test]
fn the_corpus_of_the_first_version_is_read_and_written_alike() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/session_corpus");
    let mut kinds = Vec::new();
    for (name, message) in first_of_each_kind() {
        let bytes = encode(CONTEXT, &message);
        let path = folder.join(format!("v1-{name}.hex"));
        if std::env::var_os("TRIBES_WRITE_CORPUS").is_some() && !path.exists() {
            let lines: Vec<String> =
                bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
            fs::write(&path, lines.join("\n") + "\n").expect("the corpus can be written");
        }
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let stored: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits are text"), 16).expect("two hex digits"))
            .collect();
        assert_eq!(read(&stored), Ok(message), "{name} is read as it was meant");
        assert_eq!(stored, bytes, "{name} is written as it was");
        kinds.push(stored[5]);
    }
    kinds.dedup();
    assert_eq!(kinds, (kind::HELLO..=kind::SWAPPED).collect::<Vec<_>>(), "every kind of message is in the corpus");
}
