//! Sessions with a store: across restarts, swapped out and back in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tribes::GroupChannel;
use tribes::membership::memory::Hub;
use tribes::session::store::{FileStore, MemoryStore, Store};
use tribes::session::{BackupManager, Persistence, Session, SessionId};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("tribes-persistence-{}-{number}", std::process::id())))
    }

    fn open(&self) -> FileStore {
        FileStore::open(&self.0).expect("the directory is free")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct Node {
    channel: GroupChannel,
    manager: BackupManager,
}

impl Node {
    fn start(hub: &Hub, store: impl Store + 'static, persistence: Persistence) -> Self {
        let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address")));
        let channel = GroupChannel::builder().membership(hub.membership()).receiver(receiver).start().expect("a member starts");
        let manager = BackupManager::builder("/shop").store(store).persistence(persistence).start(&channel).expect("it starts");
        assert!(manager.wait_ready(PATIENCE));
        Self { channel, manager }
    }

    /// With everything dropped, so that the store is free again.
    fn stop(self) {
        self.manager.stop();
        self.channel.stop();
    }

    fn create(&self, value: &str) -> SessionId {
        let mut session = self.manager.create().expect("there is room");
        session.set("n", value.to_owned()).expect("it may be set");
        session.commit().expect("it is committed");
        session.id()
    }

    fn set(&self, id: &SessionId, value: &str) {
        let mut session = self.manager.get(id).expect("an answer").expect("it is there");
        session.set("n", value.to_owned()).expect("it may be set");
        session.commit().expect("it is committed");
    }

    fn value(&self, id: &SessionId) -> Option<String> {
        let session = self.manager.get(id).expect("an answer")?;
        Some(String::from_utf8(session.get("n").expect("it was set").to_vec()).expect("text"))
    }
}

fn swap_soon() -> Persistence {
    Persistence::default().max_idle_swap(Duration::from_millis(1))
}

fn records(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
            match entry.file_type().expect("a type") {
                kind if kind.is_dir() => left.push(entry.path()),
                _ if entry.metadata().expect("a size").len() > 0 => all.push(entry.path()),
                _ => {}
            }
        }
    }
    all
}

#[test]
fn a_member_that_is_alone_keeps_its_sessions_across_a_restart() {
    let directory = Directory::new();
    let node = Node::start(&Hub::new(), directory.open(), Persistence::default());
    let ids: Vec<_> = (0..300).map(|number| node.create(&number.to_string())).collect();
    let ended = ids[7];
    node.manager.get(&ended).expect("an answer").expect("it is there").invalidate().expect("it ends");
    node.stop();
    let node = Node::start(&Hub::new(), directory.open(), Persistence::default());
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(node.value(id), (number != 7).then(|| number.to_string()));
    }
    assert_eq!(node.manager.statistics().created, 0, "they were created before");
    node.stop();
}

#[test]
fn a_store_in_memory_does_as_well_and_a_damaged_record_harms_no_other() {
    let store = Arc::new(MemoryStore::new());
    let node = Node::start(&Hub::new(), Arc::clone(&store), Persistence::default());
    let (whole, damaged) = (node.create("whole"), node.create("damaged"));
    node.stop();
    store.save(damaged.as_bytes(), b"this is no session").expect("it takes anything");
    store.save(b"nor is this key", b"this is no session").expect("it takes anything");
    let node = Node::start(&Hub::new(), Arc::clone(&store), Persistence::default());
    assert_eq!(node.value(&whole).as_deref(), Some("whole"));
    assert_eq!(node.value(&damaged), None);
    node.stop();
}

#[test]
fn what_others_did_meanwhile_wins_over_what_a_disk_has() {
    let (hub, directory) = (Hub::new(), Directory::new());
    let other = Node::start(&hub, MemoryStore::new(), Persistence::default());
    let node = Node::start(&hub, directory.open(), Persistence::default());
    let (deleted, newer, same) = (node.create("1"), node.create("1"), node.create("1"));
    until("both hold all", || other.manager.statistics().active == 3);
    node.stop();
    until("it is gone", || other.channel.members().is_empty());
    other.manager.get(&deleted).expect("an answer").expect("it is there").invalidate().expect("it ends");
    other.set(&newer, "2");
    let node = Node::start(&hub, directory.open(), Persistence::default());
    for at in [&node, &other] {
        assert_eq!(at.value(&deleted), None);
        assert_eq!(at.value(&newer).as_deref(), Some("2"));
        assert_eq!(at.value(&same).as_deref(), Some("1"));
    }
    node.stop();
    other.stop();
}

#[test]
fn what_only_a_disk_has_is_given_to_the_others() {
    let directory = Directory::new();
    let node = Node::start(&Hub::new(), directory.open(), Persistence::default());
    let ids: Vec<_> = (0..20).map(|number| node.create(&number.to_string())).collect();
    node.stop();
    let hub = Hub::new();
    let other = Node::start(&hub, MemoryStore::new(), Persistence::default());
    let node = Node::start(&hub, directory.open(), Persistence::default());
    until("both hold all", || other.manager.statistics().active == 20);
    node.stop();
    until("it is gone", || other.channel.members().is_empty());
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(other.value(id), Some(number.to_string()));
    }
    other.stop();
}

#[test]
fn a_session_that_is_swapped_out_is_read_changed_and_given_to_a_joiner() {
    let (hub, directory) = (Hub::new(), Directory::new());
    let node = Node::start(&hub, directory.open(), swap_soon());
    let ids: Vec<_> = (0..50).map(|number| node.create(&number.to_string())).collect();
    let mut handle = node.manager.get(&ids[0]).expect("an answer").expect("it is there");
    until("all are away", || node.manager.statistics().away == 50);
    handle.set("more", "than before").expect("it may be set");
    handle.commit().expect("a commit needs no look at the store");
    assert_eq!(node.value(&ids[1]).as_deref(), Some("1"));
    node.set(&ids[2], "changed");
    until("all are away", || node.manager.statistics().away == 50);
    let joiner = Node::start(&hub, MemoryStore::new(), Persistence::default());
    until("the joiner has all", || joiner.manager.statistics().active == 50);
    node.stop();
    until("it is gone", || joiner.channel.members().is_empty());
    let session = joiner.manager.get(&ids[0]).expect("an answer").expect("it is there");
    assert_eq!(session.get("more").as_deref(), Some(&b"than before"[..]));
    assert_eq!(joiner.value(&ids[0]).as_deref(), Some("0"));
    assert_eq!(joiner.value(&ids[2]).as_deref(), Some("changed"));
    joiner.stop();
    // What was away is in the store as it was last.
    let node = Node::start(&Hub::new(), directory.open(), Persistence::default());
    assert_eq!(node.value(&ids[2]).as_deref(), Some("changed"));
    assert_eq!(node.value(&ids[49]).as_deref(), Some("49"));
    node.stop();
}

#[test]
fn a_damaged_file_is_made_good_by_the_backup() {
    let (hub, directory) = (Hub::new(), Directory::new());
    let other = Node::start(&hub, MemoryStore::new(), Persistence::default());
    let node = Node::start(&hub, directory.open(), swap_soon());
    let id = node.create("precious");
    until("it is away", || node.manager.statistics().away == 1);
    let files: Vec<_> = records(&directory.0);
    assert!(!files.is_empty());
    for file in files {
        let length = std::fs::metadata(&file).expect("it is there").len();
        std::fs::write(&file, vec![0x55; usize::try_from(length).expect("short")]).expect("it can be damaged");
    }
    assert_eq!(node.value(&id).as_deref(), Some("precious"));
    assert_eq!(node.manager.statistics().load_failures, 1);
    node.stop();
    other.stop();
}

#[test]
fn so_many_sessions_stay_in_memory_and_no_more() {
    let node = Node::start(&Hub::new(), MemoryStore::new(), Persistence::default().max_resident(10));
    let ids: Vec<_> = (0..500).map(|number| node.create(&number.to_string())).collect();
    until("the limit is kept", || node.manager.statistics().away >= 490);
    assert_eq!(node.manager.statistics().active, 500);
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(node.value(id), Some(number.to_string()));
    }
    until("the limit is kept", || node.manager.statistics().away >= 490);
    node.stop();
}

#[test]
fn a_backup_of_idle_sessions_survives_a_crash() {
    let store = Arc::new(MemoryStore::new());
    let backup = Persistence::default().idle_backup(Duration::from_millis(1)).save_on_shutdown(false);
    let node = Node::start(&Hub::new(), Arc::clone(&store), backup);
    let id = node.create("1");
    until("it is saved", || node.manager.statistics().saved == 1);
    assert_eq!(node.manager.statistics().away, 0);
    node.stop();
    let node = Node::start(&Hub::new(), Arc::clone(&store), backup);
    assert_eq!(node.value(&id).as_deref(), Some("1"));
    node.stop();
}

/// A store that knows which threads have read from it.
#[derive(Debug, Default)]
struct Watched {
    store: MemoryStore,
    readers: Mutex<Vec<ThreadId>>,
}

impl Watched {
    /// Whether this thread has waited for it since it was last asked.
    fn take_read_here(&self) -> bool {
        std::mem::take(&mut *self.readers.lock().expect("nobody panics")).contains(&thread::current().id())
    }
}

impl Store for Watched {
    fn save(&self, key: &[u8], record: &[u8]) -> io::Result<()> {
        self.store.save(key, record)
    }

    fn load(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.readers.lock().expect("nobody panics").push(thread::current().id());
        self.store.load(key)
    }

    fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.store.remove(key)
    }

    fn keys(&self) -> io::Result<Vec<Bytes>> {
        self.store.keys()
    }
}

#[test]
fn who_does_not_wait_for_a_commit_does_not_wait_for_the_store() {
    let store = Arc::new(Watched::default());
    let node = Node::start(&Hub::new(), Arc::clone(&store), swap_soon());
    let id = node.create("1");
    let away = || node.manager.statistics().away;
    // Of what this handle has read, a part is changed by another one, and then all is swapped out.
    let read_early = || {
        let handle = node.manager.get(&id).expect("an answer").expect("it is there");
        let mut other = node.manager.get(&id).expect("an answer").expect("it is there");
        other.set("n", format!("{}1", text(&other, "n"))).expect("it may be set");
        other.commit().expect("it is committed");
        until("it is away", || away() == 1);
        store.take_read_here();
        handle
    };
    let mut handle = read_early();
    handle.set("m", "mine").expect("it may be set");
    handle.start_commit().wait().expect("it is committed");
    assert!(!store.take_read_here(), "nobody has waited");
    assert_eq!((text(&handle, "n"), text(&handle, "m")), ("1".into(), "mine".into()), "it shows what it has read and done");
    let again = node.manager.get(&id).expect("an answer").expect("it is there");
    assert_eq!((text(&again, "n"), text(&again, "m")), ("11".into(), "mine".into()), "nothing is lost");

    let mut handle = read_early();
    handle.set("m", "waited for").expect("it may be set");
    handle.commit().expect("it is committed");
    assert_eq!((text(&handle, "n"), text(&handle, "m")), ("111".into(), "waited for".into()), "it has read it again");

    let mut handle = read_early();
    handle.start_change_id().wait().expect("it has another");
    assert!(store.take_read_here(), "its values go along");
    assert_eq!((text(&handle, "n"), text(&handle, "m")), ("1111".into(), "waited for".into()));
    assert_eq!(node.value(&handle.id()).as_deref(), Some("1111"));
    node.stop();
}

fn text(session: &Session, name: &str) -> String {
    String::from_utf8(session.get(name).expect("it was set").to_vec()).expect("text")
}
