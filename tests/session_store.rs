//! The stores of the crate against the suite that third parties run, and a `FileStore` whose process is killed.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _, stderr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Once};
use std::time::Duration;
use std::{env, fs, process, thread};

use tribes::UniqueId;
use tribes::session::store::{FileStore, MemoryStore, Store};
use tribes::testing::conformance::store::check;

#[test]
fn memory() {
    check(|| {
        let store = Arc::new(MemoryStore::new());
        Box::new(move || Box::new(Arc::clone(&store)))
    });
}

#[test]
fn file() {
    check(|| {
        let place = Place::new();
        Box::new(move || Box::new(FileStore::open(&place.0).expect("the directory is free")))
    });
}

/// Where the child saves; without it there is nothing to do.
const DIRECTORY: &str = "TRIBES_TEST_STORE";
const KEYS: u64 = 8;
const KILLS: u64 = 10;
/// For one save on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: what the killed process does. It saves ever higher numbers, and prints each that is saved.
#[test]
fn child_that_saves_until_it_is_killed() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let store = FileStore::open(directory).expect("the directory is free");
    for number in 0_u64.. {
        let key = (number % KEYS).to_be_bytes();
        store.save(&key, &record(number)).expect("a record can be saved");
        // In one write, so that the kill cuts no number in two.
        if stderr().write_all(format!("saved {number}\n").as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn what_a_killed_process_had_saved_is_there() {
    for round in 0..KILLS {
        let place = Place::new();
        let mut child = Saving::start(&place.0);
        // The moment of the kill moves through the save, as the rounds read more or less.
        let mut saved = child.until(20 + round * 3);
        let error = FileStore::open(&place.0).expect_err("the child has the directory");
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        child.kill();
        while let Some(number) = child.next() {
            saved = number;
        }
        let store = FileStore::open(&place.0).expect("a killed process has no lock");
        assert_eq!(store.keys().expect("the keys can be listed").len() as u64, KEYS);
        for key in 0..KEYS {
            let last = (0..=saved).rfind(|number| number % KEYS == key).expect("each key was saved");
            let loaded = store.load(&key.to_be_bytes()).expect("a whole record").expect("a record");
            // The child may have got on with one save, or finished it, before it could print that.
            assert!([last, last + KEYS].iter().any(|number| loaded == record(*number)), "key {key}, {last} or the next");
        }
        let left = fs::read_dir(&place.0).expect("the directory is there").count() as u64;
        assert_eq!(left, KEYS + 1, "records and lock, and no temporary file");
    }
}

/// Bytes of a length of their own that tell the number.
fn record(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(1 + (number % 500) as usize * 10)
}

/// This program again, as the child.
struct Saving {
    child: Child,
    saved: Receiver<u64>,
}

impl Saving {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "child_that_saves_until_it_is_killed", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let (sender, saved) = channel();
        thread::spawn(move || {
            let mut numbers = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("saved ")?.parse().ok());
            // The end of the test may come before the end of the child.
            let _ = numbers.try_for_each(|number| sender.send(number));
        });
        Self { child, saved }
    }

    /// The next number that is saved; `None` at the end of the child.
    fn next(&self) -> Option<u64> {
        match self.saved.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Timeout) => panic!("the child neither saves nor ends within {PATIENCE:?}"),
            number => number.ok(),
        }
    }

    fn until(&self, wanted: u64) -> u64 {
        while self.next().expect("the child goes on until it is killed") < wanted {}
        wanted
    }

    fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child ends");
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory that is removed in the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(remove_forgotten);
        Self(env::temp_dir().join(format!("tribes-store-{}-{}", process::id(), UniqueId::random())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what tests have left behind that were killed: these, those of `session_persistence`, and of the crate itself. Each directory has
/// the number of its process in its name.
fn remove_forgotten() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = ["tribes-store-", "tribes-persistence-"].iter().find_map(|prefix| name.strip_prefix(prefix));
        let process = rest.and_then(|rest| rest.split('-').next()).and_then(|process| process.parse::<u32>().ok());
        // Where there is no /proc, nobody is known to be dead.
        if process.is_some_and(|process| Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
