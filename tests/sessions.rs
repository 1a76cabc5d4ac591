//! Sessions over TCP on the loopback interface, several members in one process.

use std::time::{Duration, Instant};

use tribes::GroupChannel;
use tribes::membership::memory::Hub;
use tribes::session::{BackupManager, Confirm, DeltaManager, Manager, Session};
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

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
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

fn text(session: &Session, name: &str) -> Option<String> {
    session.get(name).map(|value| String::from_utf8(value.to_vec()).expect("text"))
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
