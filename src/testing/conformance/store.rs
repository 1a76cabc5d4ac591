//! What every [`Store`] owes the managers that keep sessions in it.
//!
//! ```
//! use std::sync::Arc;
//! use tribes::session::store::MemoryStore;
//! use tribes::testing::conformance::store::check;
//!
//! check(|| {
//!     let store = Arc::new(MemoryStore::new());
//!     Box::new(move || Box::new(store.clone()))
//! });
//! ```

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::Barrier;
use std::thread;

use crate::id::mix;
use crate::session::store::{MAX_KEY_LEN, Store};

/// Opens one place, again and again: what was saved there is there. The suite drops what it opened before it opens again.
pub type Open = Box<dyn FnMut() -> Box<dyn Store>>;

/// One promise.
type Case = fn(&mut Open);

const CASES: &[(&str, Case)] = &[
    ("a new store is empty", is_empty),
    ("what is saved is loaded", loads_what_is_saved),
    ("a save replaces the whole record", replaces),
    ("what is removed is gone, and nothing else", removes),
    ("many are removed at once, and nothing else", removes_many),
    ("keys are any bytes, and each is its own", keys_are_any_bytes),
    ("what is no key is refused", refuses_what_is_no_key),
    ("what is saved outlives the one who saved it", outlives),
    ("it does what a table does", does_what_a_table_does),
    ("loads see whole records while others save", whole_records_under_saves),
    ("saves of several threads are all kept", saves_at_once),
];

/// Runs every case, each in a place of its own, which `place` makes and which is empty.
///
/// Prints each case's name before it runs. Records have up to 1 MiB, and a few MiB are kept at once.
///
/// # Panics
///
/// When a promise is broken.
pub fn check(mut place: impl FnMut() -> Open) {
    for (name, case) in CASES {
        println!("{name}");
        case(&mut place());
    }
}

fn is_empty(open: &mut Open) {
    let store = open();
    assert_eq!(keys(&*store), HashSet::new());
    assert_eq!(load(&*store, b"key"), None);
}

fn loads_what_is_saved(open: &mut Open) {
    let store = open();
    let sizes = [0, 1, 2, 100, 4095, 4096, 4097, 65_536, 1 << 20];
    for size in sizes {
        save(&*store, &key(size), &record(1, size as usize));
    }
    for size in sizes {
        assert_eq!(load(&*store, &key(size)), Some(record(1, size as usize)), "a record of {size} bytes");
    }
    assert_eq!(keys(&*store), sizes.map(key).into(), "all are listed");
}

fn replaces(open: &mut Open) {
    let store = open();
    for (generation, size) in [10, 100_000, 20, 0, 30].into_iter().enumerate() {
        let record = record(generation as u64, size);
        save(&*store, b"key", &record);
        assert_eq!(load(&*store, b"key"), Some(record), "the last record, also after a longer one");
    }
    assert_eq!(keys(&*store), [b"key".to_vec()].into(), "one key");
}

fn removes(open: &mut Open) {
    let store = open();
    remove(&*store, b"key");
    save(&*store, b"key", b"record");
    save(&*store, b"other", b"other");
    remove(&*store, b"key");
    assert_eq!(load(&*store, b"key"), None);
    assert_eq!(keys(&*store), [b"other".to_vec()].into());
    remove(&*store, b"key");
    assert_eq!(load(&*store, b"other"), Some(b"other".to_vec()));
    save(&*store, b"key", b"again");
    assert_eq!(load(&*store, b"key"), Some(b"again".to_vec()), "a key can come back");
}

fn removes_many(open: &mut Open) {
    let store = open();
    let all: Vec<Vec<u8>> = (0..100).map(key).collect();
    all.iter().for_each(|key| save(&*store, key, b"record"));
    let gone: Vec<&[u8]> = all[10..].iter().map(Vec::as_slice).chain([&b"never there"[..]]).collect();
    store.remove_all(&gone).expect("records are removed");
    store.remove_all(&[]).expect("there is nothing to do");
    assert_eq!(keys(&*store), all[..10].iter().cloned().collect());
    let error = store.remove_all(&[&all[0], b"", &all[1]]).expect_err("one of them is no key");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    drop(store);
    assert_eq!(keys(&*open()), all[2..10].iter().cloned().collect(), "the others are removed all the same, for good");
}

fn keys_are_any_bytes(open: &mut Open) {
    let store = open();
    let mut all: HashSet<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let odd: [&[u8]; 12] =
        [b"..", b"../key", b"/etc/x", b"a/b", b"a\\b", b"C:\\x", b"con", b"\0\0", b"key", b"KEY", b"key.record", b"\xff\xfe\xff"];
    all.extend(odd.map(<[u8]>::to_vec));
    all.extend([vec![b'x'; MAX_KEY_LEN], vec![b'x'; MAX_KEY_LEN - 1], vec![0xff; MAX_KEY_LEN]]);
    for key in &all {
        save(&*store, key, key);
    }
    for key in &all {
        assert_eq!(load(&*store, key).as_ref(), Some(key));
    }
    assert_eq!(keys(&*store), all);
}

fn refuses_what_is_no_key(open: &mut Open) {
    let store = open();
    let none: [&[u8]; 2] = [b"", &[b'x'; MAX_KEY_LEN + 1]];
    for key in none {
        let errors = [store.save(key, b"record").err(), store.load(key).err(), store.remove(key).err()];
        let kinds = errors.map(|error| error.map(|error| error.kind()));
        assert_eq!(kinds, [Some(ErrorKind::InvalidInput); 3], "a key of {} bytes", key.len());
    }
    assert_eq!(keys(&*store), HashSet::new());
}

fn outlives(open: &mut Open) {
    let store = open();
    for number in 0..20 {
        save(&*store, &key(number), &record(number, 100));
    }
    save(&*store, &key(3), &record(99, 5000));
    remove(&*store, &key(4));
    drop(store);
    for _ in 0..2 {
        let store = open();
        for number in (0..20).filter(|number| ![3, 4].contains(number)) {
            assert_eq!(load(&*store, &key(number)), Some(record(number, 100)));
        }
        assert_eq!(load(&*store, &key(3)), Some(record(99, 5000)), "what was replaced stays replaced");
        assert_eq!(load(&*store, &key(4)), None, "what was removed stays removed");
        assert_eq!(keys(&*store).len(), 19);
    }
}

fn does_what_a_table_does(open: &mut Open) {
    let mut store = open();
    let mut table: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for step in 0..200 {
        let random = mix(step);
        let key = key(random >> 8 & 7);
        match random & 0xff {
            0..100 => {
                let record = record(random, (random >> 16 & 0x3ff) as usize);
                save(&*store, &key, &record);
                table.insert(key, record);
            }
            100..150 => {
                remove(&*store, &key);
                table.remove(&key);
            }
            150..250 => assert_eq!(load(&*store, &key).as_ref(), table.get(&key), "step {step}"),
            _ => {
                drop(store);
                store = open();
            }
        }
        assert_eq!(keys(&*store), table.keys().cloned().collect(), "step {step}");
    }
}

const THREADS: u64 = 4;
const ROUNDS: u64 = 25;

fn whole_records_under_saves(open: &mut Open) {
    let store = open();
    save(&*store, b"key", &record(0, 1000));
    let start = Barrier::new(2 * THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, start) = (&*store, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    // Sizes differ, so that parts of two records would show.
                    save(store, b"key", &record(thread, 1000 + (thread * ROUNDS + round) as usize * 100));
                }
            });
            scope.spawn(move || {
                start.wait();
                for _ in 0..4 * ROUNDS {
                    let loaded = load(store, b"key").expect("there is a record at all times");
                    assert!((0..THREADS).any(|thread| loaded == record(thread, loaded.len())), "a whole record");
                    assert!(keys(store).iter().all(|key| key == b"key"), "no other key is listed");
                }
            });
        }
    });
}

fn saves_at_once(open: &mut Open) {
    let store = open();
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, start) = (&*store, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let own = key(thread * ROUNDS + round);
                    save(store, &own, &record(thread, 200));
                    if round % 5 == 0 {
                        remove(store, &own);
                    }
                }
            });
        }
    });
    drop(store);
    let store = open();
    for thread in 0..THREADS {
        for round in 0..ROUNDS {
            let expected = (round % 5 != 0).then(|| record(thread, 200));
            assert_eq!(load(&*store, &key(thread * ROUNDS + round)), expected);
        }
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

/// Bytes that tell where they are from.
fn record(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64).map(|at| mix(seed << 32 ^ at) as u8).collect()
}

fn save(store: &dyn Store, key: &[u8], record: &[u8]) {
    store.save(key, record).expect("a record can be saved");
}

fn load(store: &dyn Store, key: &[u8]) -> Option<Vec<u8>> {
    store.load(key).expect("a record can be loaded").map(Vec::from)
}

fn remove(store: &dyn Store, key: &[u8]) {
    store.remove(key).expect("a record can be removed");
}

/// The keys as a set; each must be there once.
fn keys(store: &dyn Store) -> HashSet<Vec<u8>> {
    let keys = store.keys().expect("the keys can be listed");
    let set: HashSet<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    assert_eq!(set.len(), keys.len(), "each key is listed once");
    set
}
