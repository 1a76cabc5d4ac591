//! Sessions over TCP on the loopback interface, several members in one process.

mod awaiting;
mod confirming;
mod leaving;
mod maps;
mod settings;
mod static_lists;
mod telling;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tribes::GroupChannel;
use tribes::interceptors::MessageDispatch;
use tribes::map::ReplicatedMap;
use tribes::membership::memory::Hub;
use tribes::session::{
    BackupManager, CommitError, Confirm, CreateError, DeltaManager, GetError, Manager, ReplaceError, Session, SessionEvent,
    SetError, StartError,
};
use tribes::stack::{self, Interceptor, Outbound, StackBuilder};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn member(hub: &Hub) -> GroupChannel {
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address")));
    GroupChannel::builder().membership(hub.membership()).receiver(receiver).start().expect("a member starts")
}

fn group(count: usize) -> Vec<GroupChannel> {
    let hub = Hub::new();
    let channels: Vec<_> = (0..count).map(|_| member(&hub)).collect();
    until("everybody sees everybody", || channels.iter().all(|channel| channel.members().len() == count - 1));
    channels
}

#[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

fn backups(channels: &[GroupChannel]) -> Vec<BackupManager> {
    let managers: Vec<_> =
        channels.iter().map(|channel| BackupManager::builder("/shop").start(channel).expect("it starts")).collect();
    all_ready(&managers);
    managers
}

fn deltas(channels: &[GroupChannel]) -> Vec<DeltaManager> {
    let managers: Vec<_> =
        channels.iter().map(|channel| DeltaManager::builder("/shop").start(channel).expect("it starts")).collect();
    all_ready(&managers);
    managers
}

fn all_ready<K>(managers: &[Manager<K>]) {
    let others = managers.len() - 1;
    for manager in managers {
        assert!(manager.wait_ready(PATIENCE), "{manager:?}");
        until("all are known", || manager.statistics().members == others);
    }
}

/// Until what this returns is dropped, `deaf` hears nothing more of `of`: messages of one sender are handled one after another, and here is
/// one that takes its time.
fn block(deaf: &GroupChannel, of: &GroupChannel) -> impl Sized {
    let (release, released) = mpsc::channel::<()>();
    let (released, who) = (Mutex::new(released), of.local());
    let blocked = deaf.on_message(move |message: &tribes::Message| {
        if *message.sender() == who {
            // It ends with an error, when the other end goes.
            let _ = released.lock().expect("nobody panics").recv();
        }
    });
    drop(of.send_with([deaf.local()], "wait", tribes::SendOptions::NONE));
    (release, blocked)
}

/// A member that gives nothing to those that join, while the flag is set: it answers what it is asked, but sends no chunks.
fn without_transfers(hub: &Hub) -> (GroupChannel, Arc<AtomicBool>) {
    struct Closed(Arc<AtomicBool>);
    impl Interceptor for Closed {
        fn name(&self) -> &'static str {
            "Closed"
        }

        fn outbound(&mut self, cx: &mut stack::Context<'_>, msg: Outbound) {
            const KIND_OF_CHUNKS: u8 = 7;
            let body = msg.message.bytes();
            let chunk = body.starts_with(&tribes::wire::SESSION_MAGIC) && body.get(5) == Some(&KIND_OF_CHUNKS);
            if !(chunk && self.0.load(Ordering::Relaxed)) {
                cx.send(msg);
            }
        }
    }
    let closed = Arc::new(AtomicBool::new(true));
    let stack = StackBuilder::new().push(Closed(Arc::clone(&closed))).push(MessageDispatch::default());
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address")));
    let channel = GroupChannel::builder().membership(hub.membership()).receiver(receiver).stack(stack).start();
    (channel.expect("a member starts"), closed)
}

fn text(session: &Session, name: &str) -> Option<String> {
    session.get(name).map(|value| String::from_utf8(value.to_vec()).expect("text"))
}

/// The smallest of all executors.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
    }
}

#[test]
fn a_committed_session_survives_its_owner() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.set("cart", "1 x 4711").expect("allowed");
    let receipt = session.commit().expect("committed");
    assert!(receipt.is_met());
    assert_eq!(receipt.confirmed, [channels[1].local()]);
    channels[0].stop();
    let found = managers[1].get(&session.id()).expect("an answer").expect("it survives");
    assert_eq!(text(&found, "cart").as_deref(), Some("1 x 4711"));
}

#[test]
fn a_delta_session_gets_everywhere_without_being_waited_for() {
    let channels = group(3);
    let managers = deltas(&channels);
    let mut session = managers[0].create().expect("room");
    for round in 0..50 {
        session.set("round", round.to_string()).expect("allowed");
        session.commit().expect("made");
    }
    for manager in &managers {
        until("it has arrived", || {
            let found = manager.get(&session.id()).expect("an answer");
            found.is_some_and(|session| text(&session, "round").as_deref() == Some("49"))
        });
    }
    session.set("round", "50").expect("allowed");
    let receipt = session.commit_with(Confirm::All).expect("committed");
    assert_eq!((receipt.wanted, receipt.confirmed.len()), (2, 2));
}

#[test]
fn an_invalidated_session_is_gone_everywhere() {
    let channels = group(3);
    let managers = deltas(&channels);
    let mut session = managers[0].create().expect("room");
    let id = session.id();
    session.set("user", "anna").expect("allowed");
    session.commit_with(Confirm::All).expect("committed");
    let mut late = managers[1].get(&id).expect("an answer").expect("it is there");
    let elsewhere = managers[2].get(&id).expect("an answer").expect("it is there");
    elsewhere.invalidate().expect("removed");
    for manager in &managers {
        until("it is gone", || manager.get(&id).expect("an answer").is_none());
    }
    assert!(!late.is_valid() && !session.is_valid());
    late.set("user", "eve").expect("allowed");
    assert_eq!(late.commit().expect_err("too late"), CommitError::Removed);
    assert!(!late.is_dirty(), "it has been said that this is lost");
    assert!(managers[1].statistics().late_updates > 0);
}

#[test]
fn another_id_is_one_step() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.set("cart", "full").expect("allowed");
    session.commit().expect("committed");
    let (old, created) = (session.id(), session.created());
    session.set_principal(Some("anna"));
    let receipt = session.change_id().expect("changed");
    assert!(receipt.is_met());
    assert_ne!(session.id(), old);
    for manager in &managers {
        assert!(manager.get(&old).expect("an answer").is_none(), "the old id is dead");
        let found = manager.get(&session.id()).expect("an answer").expect("it goes on");
        assert_eq!(text(&found, "cart").as_deref(), Some("full"));
        assert_eq!(found.principal().as_deref(), Some("anna"));
        assert_eq!(found.created(), created);
        assert_eq!(found.names().collect::<Vec<_>>(), ["cart"], "what the session keeps for itself is no attribute");
    }
    session.set("cart", "empty").expect("allowed");
    assert!(session.commit().expect("it goes on").is_met());
}

#[test]
fn a_session_that_nobody_uses_expires_everywhere() {
    let channels = group(2);
    let expired = Arc::new(Mutex::new(Vec::new()));
    let managers: Vec<_> = channels
        .iter()
        .map(|channel| {
            let told = Arc::clone(&expired);
            BackupManager::builder("/shop")
                .max_inactive(Duration::from_millis(300))
                .expiry_interval(Duration::from_millis(100))
                .on_event(move |event| {
                    if let SessionEvent::Expired { id, remote, .. } = event {
                        told.lock().expect("nobody panics").push((*id, *remote));
                    }
                })
                .start(channel)
                .expect("it starts")
        })
        .collect();
    all_ready(&managers);
    let mut session = managers[0].create().expect("room");
    session.set("user", "anna").expect("allowed");
    session.commit().expect("committed");
    let mut kept = managers[0].create().expect("room");
    kept.set_max_inactive(None);
    kept.commit().expect("committed");
    for manager in &managers {
        until("it has expired", || !manager.session_ids().contains(&session.id()));
        assert!(manager.get(&session.id()).expect("an answer").is_none());
        assert!(manager.get(&kept.id()).expect("an answer").is_some(), "it does not expire");
    }
    until("both were told", || expired.lock().expect("nobody panics").len() == 2);
    let mut told = expired.lock().expect("nobody panics").clone();
    told.sort_unstable();
    assert_eq!(told, [(session.id(), false), (session.id(), true)]);
    assert_eq!(managers.iter().map(|manager| manager.statistics().expired).sum::<u64>(), 1, "one member decides");
}

#[test]
fn changes_of_different_attributes_all_survive() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.commit().expect("committed");
    let id = session.id();
    thread::scope(|scope| {
        for (number, manager) in managers.iter().chain(&managers).enumerate() {
            scope.spawn(move || {
                for round in 0..50 {
                    let mut session = manager.get(&id).expect("an answer").expect("it is there");
                    session.set(&format!("of {number}"), round.to_string()).expect("allowed");
                    session.commit().expect("committed");
                }
            });
        }
    });
    for manager in &managers {
        let session = manager.get(&id).expect("an answer").expect("it is there");
        for number in 0..4 {
            until("all are there", || {
                let session = manager.get(&id).expect("an answer").expect("it is there");
                text(&session, &format!("of {number}")).as_deref() == Some("49")
            });
        }
        assert_eq!(session.names().count(), 4);
    }
    assert_eq!(managers.iter().map(|manager| manager.statistics().conflicts).sum::<u64>(), 0);
}

#[test]
fn a_counter_that_is_replaced_on_a_condition_loses_nothing() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    let id = session.id();
    session.replace_if("count", None, Some("0".into())).expect("a new session is committed first");
    assert!(matches!(session.replace_if("count", None, Some("1".into())), Err(ReplaceError::Conflict { current: Some(_) })));
    let conflicts = AtomicUsize::new(0);
    thread::scope(|scope| {
        for manager in &managers {
            scope.spawn(|| {
                for _ in 0..20 {
                    loop {
                        let mut session = manager.get(&id).expect("an answer").expect("it is there");
                        let count: u32 = text(&session, "count").expect("it is there").parse().expect("a number");
                        let more = Some((count + 1).to_string().into());
                        match session.replace_if("count", session.version("count"), more) {
                            Ok(receipt) => {
                                assert!(session.version("count") >= Some(receipt.version), "the handle shows it");
                                break;
                            }
                            Err(ReplaceError::Conflict { .. }) => conflicts.fetch_add(1, Ordering::Relaxed),
                            Err(error) => panic!("{error}"),
                        };
                    }
                }
            });
        }
    });
    for manager in &managers {
        until("all are counted", || {
            text(&manager.get(&id).expect("an answer").expect("it is there"), "count").as_deref() == Some("40")
        });
    }
}

#[test]
fn contexts_of_one_channel_are_apart() {
    let channels = group(2);
    let shop = backups(&channels);
    let blog: Vec<_> =
        channels.iter().map(|channel| BackupManager::builder("/blog").start(channel).expect("it starts")).collect();
    all_ready(&blog);
    let mut session = shop[0].create().expect("room");
    session.set("cart", "full").expect("allowed");
    session.commit().expect("committed");
    for manager in &blog {
        assert!(manager.get(&session.id()).expect("an answer").is_none());
        assert_eq!(manager.statistics().active, 0);
    }
    let error = BackupManager::builder("/shop").start(&channels[0]).expect_err("it is there");
    assert!(matches!(&error, StartError::NameTaken { name, .. } if name == "/shop"), "{error}");
    DeltaManager::builder("/shop").start(&channels[0]).expect("another kind is another context");
    shop[0].stop();
    assert_eq!(shop[0].create().expect_err("stopped"), CreateError::Stopped);
    assert_eq!(session.commit().expect_err("stopped"), CommitError::Stopped);
    BackupManager::builder("/shop").start(&channels[0]).expect("the name is free again");
}

#[test]
fn who_does_not_hold_a_session_reads_and_writes_it_all_the_same() {
    let channels = group(4);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.set("cart", "1").expect("allowed");
    let receipt = session.commit().expect("committed");
    let holders = [vec![channels[0].local()], receipt.confirmed].concat();
    let others: Vec<_> = (0..4).filter(|at| !holders.contains(&channels[*at].local())).collect();
    assert_eq!(others.len(), 2, "an owner and a backup");
    for at in &others {
        let found = managers[*at].get(&session.id()).expect("an answer").expect("it is there");
        assert_eq!(text(&found, "cart").as_deref(), Some("1"));
    }
    let mut found = block_on(managers[others[0]].find(&session.id())).expect("an answer").expect("it is there");
    found.set("cart", "2").expect("allowed");
    block_on(found.start_commit()).expect("committed");
    for manager in &managers {
        until("all see it", || {
            let found = manager.get(&session.id()).expect("an answer").expect("it is there");
            text(&found, "cart").as_deref() == Some("2")
        });
    }
    until("it is where it belongs", || others.iter().all(|at| managers[*at].statistics().guests == 0));
}
