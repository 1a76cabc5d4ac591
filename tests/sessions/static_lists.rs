//! Members that know each other from a list of addresses.

use std::net::SocketAddr;

use tribes::interceptors::TcpFailureDetector;
use tribes::membership::static_members::{StaticList, StaticMembers};

use super::*;

/// A member of a static list, which others know by its address only.
fn listed(at: SocketAddr, members: &[SocketAddr], stack: StackBuilder) -> (GroupChannel, StaticList) {
    let membership = StaticMembers::new(members.iter().copied());
    let list = membership.handle();
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind(at));
    let channel = GroupChannel::builder().membership(membership).receiver(receiver).stack(stack).start();
    (channel.expect("a member starts"), list)
}

#[test]
fn sessions_are_shared_over_a_static_list() {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let stack = || StackBuilder::new().push(TcpFailureDetector::default());
    let (mut channels, lists): (Vec<_>, Vec<_>) = (0..3).map(|_| listed(any, &[], stack())).unzip();
    let addresses: Vec<_> = channels.iter().map(|channel| channel.local().address()).collect();
    lists.iter().for_each(|list| addresses.iter().for_each(|address| list.add(*address)));
    let mut managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.set("cart", "1 x 4711").expect("allowed");
    let receipt = session.commit().expect("committed");
    assert!(receipt.is_met());
    let backup = channels.iter().position(|channel| receipt.confirmed == [channel.local()]).expect("it names the other");

    // No goodbye: the others see its connections end, and what they know of it is an address again.
    managers.remove(backup).stop();
    channels.remove(backup).stop();
    let (channel, _) = listed(addresses[backup], &addresses, stack());
    managers.insert(backup, BackupManager::builder("/shop").start(&channel).expect("it starts"));
    channels.insert(backup, channel);
    until("the others know who is there now", || {
        channels.iter().all(|channel| {
            let mut others = channels.iter().filter(|other| other.local() != channel.local());
            channel.members().len() == 2 && others.all(|other| channel.members().contains(&other.local()))
        })
    });
    all_ready(&managers);
    let mut found = managers[backup].get(&session.id()).expect("an answer").expect("it is there");
    assert_eq!(text(&found, "cart").as_deref(), Some("1 x 4711"));
    found.set("cart", "2 x 4711").expect("allowed");
    assert!(found.commit().expect("committed").is_met());
    for manager in &managers {
        until("there are two copies of each", || manager.at_risk().is_empty());
    }
}

#[test]
fn members_that_know_each_others_addresses_greet_each_other_though_nothing_else_is_sent() {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    for verified in [true, false] {
        let stack = || match verified {
            true => StackBuilder::new().push(TcpFailureDetector::default().send_test(false)),
            false => StackBuilder::new(),
        };
        let (channels, lists): (Vec<_>, Vec<_>) = (0..2).map(|_| listed(any, &[], stack())).unzip();
        let managers: Vec<_> =
            channels.iter().map(|channel| BackupManager::builder("/shop").start(channel).expect("it starts")).collect();
        lists[0].add(channels[1].local().address());
        lists[1].add(channels[0].local().address());
        all_ready(&managers);
        let mut session = managers[0].create().expect("room");
        assert_eq!(session.commit().expect("committed").confirmed, [channels[1].local()]);
    }
}
