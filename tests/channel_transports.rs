//! The channel over each transport but the default one, which `channel.rs` has.

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tribes::membership::memory::Hub;
use tribes::stack::Event;
use tribes::transport::blocking::{BlockingReceiver, BlockingReceiverConfig, BlockingSender, BlockingSenderConfig};
use tribes::transport::memory::{Faults, Network};
use tribes::transport::udp::{UdpConfig, UdpTransport};
use tribes::{ChannelBuilder, FaultCause, GroupChannel, Message, SendOptions, Subscription};

const DEADLINE: Duration = Duration::from_secs(20);

fn blocking(hub: &Hub) -> ChannelBuilder {
    let receiver = BlockingReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address"));
    GroupChannel::builder()
        .membership(hub.membership())
        .receiver(BlockingReceiver::new(receiver))
        .sender(BlockingSender::new(BlockingSenderConfig::default()))
}

fn memory(hub: &Hub, network: &Network) -> GroupChannel {
    let (receiver, sender) = network.endpoint("10.0.0.1:0".parse().expect("an address"));
    let builder = GroupChannel::builder().membership(hub.membership()).receiver(receiver).sender(sender);
    builder.start().expect("the channel starts")
}

fn messages(channel: &GroupChannel) -> (Receiver<Message>, Subscription) {
    let (heard, hears) = mpsc::channel();
    let subscription = channel.on_message(move |message| drop(heard.send(message.clone())));
    (hears, subscription)
}

fn cause(sent: Result<tribes::Receipt, tribes::SendError>) -> FaultCause {
    let mut faults = sent.expect_err("the send fails").faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.remove(0).cause
}

fn every_acknowledgement(a: &GroupChannel, b: &GroupChannel, extra: SendOptions) {
    let (heard, subscription) = messages(b);
    for bits in [0, 2, 4, 6, 8, 10, 14] {
        let options = SendOptions::from_bits(bits) | extra;
        a.send([b.local()], bits.to_string(), options).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let message = heard.recv_timeout(DEADLINE).expect("the message arrives");
        assert_eq!(message.bytes(), bits.to_string());
        assert_eq!(message.sender(), &a.local());
    }
    drop(subscription);
    let _failing = b.on_message(|_| Err(io::Error::other("no")));
    assert!(a.send([b.local()], "x", SendOptions::ACK | extra).is_ok());
    assert!(matches!(cause(a.send([b.local()], "x", SendOptions::SYNC_ACK | extra)), FaultCause::Rejected));
    assert!(heard.try_recv().is_err(), "nothing came twice");
}

#[test]
fn blocking_tcp() {
    let hub = Hub::new();
    let (a, b) = (blocking(&hub).start().expect("it starts"), blocking(&hub).start().expect("it starts"));
    every_acknowledgement(&a, &b, SendOptions::NONE);
}

#[test]
fn datagrams() {
    let hub = Hub::new();
    let udp = || UdpTransport::new(UdpConfig::default().host([127, 0, 0, 1].into()).port(0));
    let a = blocking(&hub).udp(udp()).start().expect("it starts");
    let b = blocking(&hub).udp(udp()).start().expect("it starts");
    assert!(b.local().udp_address().is_some());
    every_acknowledgement(&a, &b, SendOptions::UDP);
    let without = blocking(&hub).start().expect("it starts");
    assert!(matches!(cause(a.send([without.local()], "x", SendOptions::UDP)), FaultCause::NoUdp));
    assert!(matches!(cause(without.send([a.local()], "x", SendOptions::UDP)), FaultCause::NoUdp));
}

#[test]
fn a_network_in_memory() {
    let (hub, network) = (Hub::new(), Network::new(1));
    let (a, b) = (memory(&hub, &network), memory(&hub, &network));
    every_acknowledgement(&a, &b, SendOptions::NONE);
}

#[test]
fn what_the_network_duplicates_is_handled_once() {
    let (hub, network) = (Hub::new(), Network::new(2));
    let (a, b) = (memory(&hub, &network), memory(&hub, &network));
    network.set_faults(Faults::default().duplicating(1.0));
    let (heard, _subscription) = messages(&b);
    for number in 0..100 {
        let options = if number % 2 == 0 { SendOptions::ACK } else { SendOptions::SYNC_ACK };
        a.send([b.local()], number.to_string(), options).expect("delivered");
    }
    network.set_faults(Faults::default());
    a.send([b.local()], "end", SendOptions::SYNC_ACK).expect("delivered");
    let bodies: Vec<_> = heard.try_iter().map(|message| message.bytes()).collect();
    let expected: Vec<_> = (0..100).map(|number| number.to_string()).chain(["end".to_owned()]).collect();
    assert_eq!(bodies, expected);
}

#[test]
fn a_crash_is_told_to_those_who_had_a_connection() {
    let (hub, network) = (Hub::new(), Network::new(3));
    let (a, b) = (memory(&hub, &network), memory(&hub, &network));
    let (changed, changes) = mpsc::channel();
    let _subscription = a.on_membership(move |event| drop(changed.send(event.clone())));
    let b_member = b.local();
    while a.members().by_id(b_member.id()).is_none() {
        changes.recv_timeout(DEADLINE).expect("a sees b");
    }
    a.send([b_member.clone()], "x", SendOptions::ACK).expect("delivered");
    network.crash(b_member.address());
    loop {
        if let Event::Removed(member, _) = changes.recv_timeout(DEADLINE).expect("a is told") {
            assert_eq!(member, b_member);
            return;
        }
    }
}
