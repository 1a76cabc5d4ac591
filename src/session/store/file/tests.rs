use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::UniqueId;

const KEY: &[u8] = b"key";
const FILE: &str = "6b6579.record";
const OLD: &[u8] = b"the old record";
const NEW: &[u8] = b"the new record, which is longer";

/// A directory that is removed in the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tribes-store-{}-{}", std::process::id(), UniqueId::random())))
    }

    fn open(&self) -> FileStore {
        FileStore::open(&self.0).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> HashSet<String> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn file_of(key: &[u8], record: &[u8]) -> Vec<u8> {
    [&Header::new(key, record).encode()[..], record].concat()
}

fn record_error(error: &io::Error) -> &RecordError {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

/// Notes what a save does, and fails at the step that is asked for.
#[derive(Default)]
struct Notes {
    steps: Mutex<Vec<Step>>,
    fails_at: Option<usize>,
    count: AtomicUsize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    Create,
    Write(Vec<u8>),
    Sync,
    Rename,
    Remove,
    SyncNames,
}

impl Notes {
    fn step(&self, step: Step) -> io::Result<()> {
        if self.fails_at == Some(self.count.fetch_add(1, Ordering::Relaxed)) {
            return Err(io::Error::other("as asked"));
        }
        self.steps.lock().unwrap().push(step);
        Ok(())
    }
}

impl disk::Disk for Notes {
    type File = ();

    fn create(&self, _: &Path) -> io::Result<()> {
        self.step(Step::Create)
    }

    fn write(&self, (): &mut (), bytes: &[u8]) -> io::Result<()> {
        self.step(Step::Write(bytes.to_vec()))
    }

    fn sync(&self, (): &()) -> io::Result<()> {
        self.step(Step::Sync)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.step(Step::Rename)
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        self.step(Step::Remove)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.step(Step::SyncNames)
    }
}

/// Runs a save of the new record against the notes.
fn save_new(notes: &Notes) -> io::Result<()> {
    let header = Header::new(KEY, NEW).encode();
    replace(notes, Path::new("temporary"), Path::new("target"), [&header, NEW], &Mutex::new(()))
}

/// What a crash after some steps of a save may leave: the temporary file, and the one under the record's name.
struct Outcome {
    temporary: Option<Vec<u8>>,
    target: Vec<u8>,
    /// The save had returned.
    done: bool,
    renamed: bool,
}

/// All that a power failure may leave. What was not synced may be there in part, as zeros, or not at all; names that were not
/// synced may be the old ones or the new ones.
fn outcomes(steps: &[Step], done: bool) -> Vec<Outcome> {
    let written: Vec<u8> =
        steps.iter().flat_map(|step| if let Step::Write(bytes) = step { &bytes[..] } else { &[] }).copied().collect();
    let mut contents = vec![written.clone()];
    if !steps.contains(&Step::Sync) {
        contents.extend((0..written.len()).map(|length| written[..length].to_vec()));
        contents.push(vec![0; written.len()]);
    }
    let old = || file_of(KEY, OLD);
    let renamed = steps.contains(&Step::Rename);
    let synced = steps.contains(&Step::SyncNames);
    let mut outcomes = Vec::new();
    for content in contents {
        if renamed {
            outcomes.push(Outcome { temporary: None, target: content.clone(), done, renamed });
        }
        if !synced {
            let temporary = steps.contains(&Step::Create).then_some(content);
            outcomes.push(Outcome { temporary, target: old(), done, renamed });
            outcomes.push(Outcome { temporary: None, target: old(), done, renamed });
        }
    }
    outcomes
}

#[test]
fn a_crash_at_any_step_of_a_save_leaves_the_old_record_or_the_new_one() {
    let notes = Notes::default();
    save_new(&notes).unwrap();
    let steps = notes.steps.into_inner().unwrap();
    let place = Place::new();
    place.open().save(b"other", b"other").unwrap();
    let (mut seen_old, mut seen_new) = (0, 0);
    for count in 0..=steps.len() {
        for outcome in outcomes(&steps[..count], count == steps.len()) {
            fs::write(place.file(FILE), outcome.target).unwrap();
            if let Some(temporary) = outcome.temporary {
                fs::write(place.file("6b6579.0.tmp"), temporary).unwrap();
            }
            let store = place.open();
            let context = format!("after {:?}", &steps[..count]);
            match store.load(KEY).expect(&context).as_deref() {
                Some(NEW) if outcome.renamed => seen_new += 1,
                Some(OLD) if !outcome.done => seen_old += 1,
                other => panic!("{context}: {other:?}"),
            }
            assert_eq!(store.load(b"other").unwrap().as_deref(), Some(&b"other"[..]));
            drop(store);
            assert_eq!(place.names(), [FILE, "6f74686572.record", LOCK].map(str::to_owned).into(), "{context}");
        }
    }
    assert!(seen_old > 10 && seen_new > 1, "{seen_old} and {seen_new}");
}

#[test]
fn a_save_that_fails_cleans_up_and_leaves_the_old_record() {
    let notes = Notes::default();
    save_new(&notes).unwrap();
    let whole = notes.steps.into_inner().unwrap();
    assert_eq!(whole.last(), Some(&Step::SyncNames));
    for fails_at in 0..whole.len() {
        let notes = Notes { fails_at: Some(fails_at), ..Notes::default() };
        assert_eq!(save_new(&notes).unwrap_err().to_string(), "as asked");
        let steps = notes.steps.into_inner().unwrap();
        if fails_at == whole.len() - 1 {
            assert_eq!(steps.last(), Some(&Step::Rename), "there is nothing to clean up once the new name is there");
        } else {
            assert_eq!(steps, [&whole[..fails_at], &[Step::Remove]].concat());
        }
    }
}

#[test]
fn damage_is_told_and_put_aside_and_others_still_load() {
    let whole = file_of(KEY, OLD);
    let mut flipped = whole.clone();
    flipped[HEADER_LEN + 3] ^= 1;
    let mut files: Vec<_> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    files.extend([flipped, vec![0; whole.len()], b"{\"json\": \"of another program, long enough\"}".to_vec()]);
    files.push([&whole[..], b"!"].concat());
    files.push(file_of(b"another key", OLD));
    let place = Place::new();
    let store = place.open();
    store.save(b"other", b"other").unwrap();
    for file in files {
        fs::write(place.file(FILE), &file).unwrap();
        let error = store.load(KEY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(record_error(&error).path().file_name().unwrap(), FILE);
        assert!(error.to_string().contains(FILE) && error.to_string().contains("damaged"), "{error}");
        assert_eq!(fs::read(place.file("6b6579.record.damaged")).unwrap(), file, "the evidence is kept");
        assert_eq!(store.load(KEY).unwrap(), None);
        assert_eq!(store.load(b"other").unwrap().as_deref(), Some(&b"other"[..]));
        assert_eq!(store.keys().unwrap(), ["other"]);
    }
    store.save(KEY, NEW).unwrap();
    assert_eq!(store.load(KEY).unwrap().as_deref(), Some(NEW), "the key is of use again");
    drop(store);
    place.open();
    assert!(place.file("6b6579.record.damaged").exists(), "only people remove it");
}

#[test]
fn damage_that_cannot_be_put_aside_is_told_each_time() {
    let place = Place::new();
    let store = place.open();
    fs::write(place.file(FILE), "junk").unwrap();
    fs::create_dir_all(place.file("6b6579.record.damaged").join("in the way")).unwrap();
    for _ in 0..2 {
        let error = store.load(KEY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("could not be put aside"), "{error}");
    }
}

/// A load found damage, and before it could put the file aside there was a save.
#[test]
fn what_is_put_aside_is_looked_at_again() {
    let place = Place::new();
    let store = place.open();
    store.save(KEY, NEW).unwrap();
    assert_eq!(store.put_aside(&place.file(FILE), KEY).unwrap().as_deref(), Some(NEW));
    assert_eq!(store.load(KEY).unwrap().as_deref(), Some(NEW));
    store.remove(KEY).unwrap();
    assert_eq!(store.put_aside(&place.file(FILE), KEY).unwrap(), None);
}

/// The race that the lock of names is for: what is put aside is never a record that was just saved.
#[test]
fn a_save_beside_the_load_of_a_damaged_file_is_not_put_aside() {
    let place = Place::new();
    let store = place.open();
    for round in 0..50 {
        fs::write(place.file(FILE), "junk").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| drop(store.load(KEY)));
            scope.spawn(|| drop(store.load(KEY)));
            store.save(KEY, NEW).unwrap();
        });
        assert_eq!(store.load(KEY).unwrap().as_deref(), Some(NEW), "round {round}");
    }
}

#[test]
fn a_newer_form_is_left_for_the_program_that_wrote_it() {
    let place = Place::new();
    let store = place.open();
    let mut file = file_of(KEY, OLD);
    file[11] = 2;
    fs::write(place.file(FILE), &file).unwrap();
    let error = store.load(KEY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 2"), "{error}");
    assert_eq!(fs::read(place.file(FILE)).unwrap(), file);
}

#[test]
fn a_record_above_the_cap_is_neither_saved_nor_loaded_nor_lost() {
    let place = Place::new();
    place.open().save(KEY, &[7; 101]).unwrap();
    let store = FileStore::open_with(&place.0, FileStoreConfig::default().max_record(100)).unwrap();
    let error = store.load(KEY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    assert!(error.to_string().contains("101 bytes"), "{error}");
    assert_eq!(store.save(KEY, &[8; 101]).unwrap_err().kind(), ErrorKind::FileTooLarge);
    store.save(b"at the cap", &[8; 100]).unwrap();
    assert_eq!(store.load(b"at the cap").unwrap().unwrap(), [8; 100][..]);
    drop(store);
    assert_eq!(place.open().load(KEY).unwrap().unwrap(), [7; 101][..]);
}

/// A header may say anything; room is made for what the file has.
#[test]
fn a_length_that_lies_makes_no_room() {
    let place = Place::new();
    let store = place.open();
    for len in [u64::MAX, u64::MAX - HEADER_LEN as u64 + 1, 1 << 40, 63 << 20, OLD.len() as u64 - 1] {
        let mut file = file_of(KEY, OLD);
        file[16..24].copy_from_slice(&len.to_be_bytes());
        fs::write(place.file(FILE), &file).unwrap();
        assert_eq!(store.load(KEY).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn one_store_has_a_directory_at_a_time() {
    let place = Place::new();
    let first = place.open();
    let error = FileStore::open(&place.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains(place.0.to_str().unwrap()), "{error}");
    first.save(KEY, OLD).unwrap();
    drop(first);
    assert_eq!(place.open().load(KEY).unwrap().as_deref(), Some(OLD));
}

#[test]
fn an_open_removes_its_own_left_overs_and_nothing_else() {
    let place = Place::new();
    drop(place.open());
    let foreign =
        ["notes.tmp", "6b6579.tmp", "6b6579.x.tmp", "6B6579.1.tmp", ".1.tmp", "6b6579.record.damaged", "README", "xyz.record"];
    for name in foreign.into_iter().chain(["6b6579.0.tmp", "6b6579.18446744073709551615.tmp"]) {
        fs::write(place.file(name), "left").unwrap();
    }
    let store = place.open();
    let left: HashSet<_> = foreign.into_iter().chain([LOCK]).map(str::to_owned).collect();
    assert_eq!(place.names(), left);
    assert_eq!(store.keys().unwrap(), Vec::<Bytes>::new());
}

#[test]
fn what_it_prints_keeps_the_secret() {
    let place = Place::new();
    let store = place.open();
    let key = *b"a session id    ";
    fs::write(store.path(&key), "junk").unwrap();
    let error = store.load(&key).unwrap_err();
    let whole = hex(&key);
    assert_eq!(record_error(&error).path(), place.file(&format!("{whole}.record")));
    for text in [format!("{error}"), format!("{error:?}"), format!("{store:?}")] {
        assert!(!text.contains(&whole[..10]), "{text}");
    }
    assert!(error.to_string().contains(&format!("{}….record", &whole[..8])), "{error}");
}

#[cfg(unix)]
#[test]
fn what_it_makes_is_for_its_user_only() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::new();
    let store = FileStore::open(place.file("deep").join("er")).unwrap();
    store.save(KEY, OLD).unwrap();
    for (path, mode) in [("deep", 0o700), ("deep/er", 0o700), ("deep/er/6b6579.record", 0o600), ("deep/er/tribes.lock", 0o600)] {
        assert_eq!(fs::metadata(place.file(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn a_directory_that_cannot_be_is_an_error_that_names_it() {
    let place = Place::new();
    fs::write(&place.0, "a file").unwrap();
    let error = FileStore::open(&place.0).unwrap_err();
    assert!(error.to_string().contains(place.0.to_str().unwrap()), "{error}");
    fs::remove_file(&place.0).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_are_keys(key in vec(any::<u8>(), 1..=MAX_KEY_LEN)) {
        let name = format!("{}.{EXTENSION}", hex(&key));
        prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.'));
        prop_assert_eq!(key_of(&name), Some(key));
        prop_assert!(!is_temporary(&name));
        prop_assert!(is_temporary(&name.replace(EXTENSION, "7.tmp")));
    }

    #[test]
    fn a_name_that_is_a_key_is_the_keys_name(name in "[0-9a-f]{0,8}(\\.record)?|[0-9a-fA-Fé./]{0,9}\\.record|.{0,12}|[a]{126,132}\\.record") {
        if let Some(key) = key_of(&name) {
            prop_assert_eq!(format!("{}.{}", hex(&key), EXTENSION), name);
        }
    }
}
