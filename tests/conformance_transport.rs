//! Every transport of the crate against the suite that third parties run.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tribes::testing::conformance::transport::{Profile, check};
use tribes::transport::blocking::{BlockingReceiver, BlockingReceiverConfig, BlockingSender, BlockingSenderConfig};
use tribes::transport::memory::Network;
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig, TcpSender, TcpSenderConfig};
use tribes::transport::udp::{UdpConfig, UdpTransport};
use tribes::transport::{Receiver, Sender};

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
    check(&Profile::stream(), || (blocking_receiver(), blocking_sender()));
}

#[test]
fn tcp() {
    check(&Profile::stream(), || (tcp_receiver(), tcp_sender()));
}

/// Both speak the same wire: a window of frames meets a receiver that answers in order.
#[test]
fn tcp_to_blocking() {
    check(&Profile::stream(), || (blocking_receiver(), tcp_sender()));
}

#[test]
fn blocking_to_tcp() {
    check(&Profile::stream(), || (tcp_receiver(), blocking_sender()));
}

#[test]
fn udp() {
    check(&Profile::datagram(), || {
        let udp = UdpTransport::new(UdpConfig::default().host(LOOPBACK).port(0).ack_timeout(TIMEOUT));
        (Box::new(udp.clone()), Box::new(udp))
    });
}

fn blocking_receiver() -> Box<dyn Receiver> {
    Box::new(BlockingReceiver::new(BlockingReceiverConfig::default().bind((LOOPBACK, 0).into())))
}

fn blocking_sender() -> Box<dyn Sender> {
    Box::new(BlockingSender::new(BlockingSenderConfig::default().timeout(TIMEOUT)))
}

fn tcp_receiver() -> Box<dyn Receiver> {
    Box::new(TcpReceiver::new(TcpReceiverConfig::default().bind((LOOPBACK, 0).into())))
}

fn tcp_sender() -> Box<dyn Sender> {
    Box::new(TcpSender::new(TcpSenderConfig::default().timeout(TIMEOUT)))
}
