//! Every transport of the crate against the suite that third parties run.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tribes::testing::conformance::transport::{Profile, check};
use tribes::transport::blocking::{BlockingReceiver, BlockingReceiverConfig, BlockingSender, BlockingSenderConfig};
use tribes::transport::memory::Network;
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig, TcpSender, TcpSenderConfig};
use tribes::transport::udp::{UdpConfig, UdpTransport};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// As short as the slowest case allows on a busy machine: a dead destination is waited for that long.
const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn memory() {
    let network = Network::new(1);
    check(&Profile::stream(), || {
        let (receiver, sender) = network.endpoint("10.0.0.1:0".parse().expect("an address"));
        (Box::new(receiver), Box::new(sender))
    });
}

#[test]
fn blocking() {
    check(&Profile::stream(), || {
        let receiver = BlockingReceiver::new(BlockingReceiverConfig::default().bind((LOOPBACK, 0).into()));
        (Box::new(receiver), Box::new(BlockingSender::new(BlockingSenderConfig::default().timeout(TIMEOUT))))
    });
}

#[test]
fn tcp() {
    check(&Profile::stream(), || {
        let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind((LOOPBACK, 0).into()));
        (Box::new(receiver), Box::new(TcpSender::new(TcpSenderConfig::default().timeout(TIMEOUT))))
    });
}

#[test]
fn udp() {
    check(&Profile::datagram(), || {
        let udp = UdpTransport::new(UdpConfig::default().host(LOOPBACK).port(0).ack_timeout(TIMEOUT));
        (Box::new(udp.clone()), Box::new(udp))
    });
}
