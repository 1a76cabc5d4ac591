//! The memberships that ship with the crate do what any membership must.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tribes::membership::memory::Hub;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::membership::static_members::StaticMembers;
use tribes::testing::conformance::membership::{Features, check};

#[test]
fn memory() {
    let hub = Hub::new();
    check(Features::ALL, |_| Box::new(hub.membership()));
}

#[test]
fn static_members() {
    check(Features::LIST, |members| Box::new(StaticMembers::new(members.iter().cloned())));
}

#[test]
fn multicast() {
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = probe.local_addr().expect("bound").port();
    let group = SocketAddr::from(([228, 0, 0, 4], port));
    let config = MulticastConfig::default().group(group).interface(Ipv4Addr::LOCALHOST).frequency(Duration::from_millis(100));
    check(Features::ALL, |_| Box::new(Multicast::new(config.clone())));
}
