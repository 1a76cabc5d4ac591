//! The thread and its socket over the loopback interface, each test on a port of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, SockRef, Socket, Type};

use super::link::Link;
use super::worker::Worker;
use super::{MAX_DATAGRAM, Multicast, MulticastConfig, socket};
use crate::clock;
use crate::member::Member;
use crate::membership::roster::Roster;
use crate::membership::{MemberHandler, MemberSink, Membership, Mode};
use crate::stack::{Departure, Event};
use crate::wire::member_package;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn three_that_start_together_see_each_other_at_once() {
    let port = Port::free();
    // A minute from one heartbeat to the next: only answers can be in time.
    let config = port.config().frequency(Duration::from_secs(60)).drop_time(Duration::from_secs(600));
    let nodes: Vec<_> = (1..=3).map(|at| Node::start(&config, at)).collect();
    for node in &nodes {
        node.told.wait("all see all", |told| told.members.len() == 2);
    }
}

#[test]
fn a_member_that_dies_without_a_goodbye_fails_after_the_drop_time() {
    let port = Port::free();
    let node = Node::start(&port.config().frequency(Duration::from_millis(50)).drop_time(Duration::from_millis(400)), 1);
    let dead = member(2);
    let peer = port.peer();
    peer.send(&member_package::package(&dead));
    node.told.wait("its one heartbeat is heard", |told| told.members.contains(&dead));
    node.told.wait("it is dropped", |told| told.departed.contains(&(dead.clone(), Departure::Failed)));
}

#[test]
fn a_flood_of_junk_disturbs_nobody() {
    let port = Port::free();
    let config = port.config().frequency(Duration::from_millis(50)).drop_time(Duration::from_secs(2));
    let (one, two) = (Node::start(&config, 1), Node::start(&config, 2));
    one.told.wait("one sees two", |told| told.members.contains(&member(2)));
    two.told.wait("two sees one", |told| told.members.contains(&member(1)));
    let peer = port.peer();
    let mut forged = member_package::package(&member(3)).to_vec();
    forged.truncate(forged.len() - 1);
    let start = clock::now();
    let mut sent = 0_u64;
    // Longer than the drop time: a node that the junk had silenced or deafened would be dropped.
    while !clock::left(start, Duration::from_secs(3)).is_zero() {
        for junk in [&forged[..], b"TRIBES-B\x01\x00\xff\xff\xff\xff", b"FLT2002\x7f\xff\xff\xff", b"", b"GET / HTTP/1.1\r\n"] {
            peer.send(junk);
            sent += 1;
        }
        std::thread::yield_now();
    }
    let newcomer = member(4);
    one.told.wait_with(
        "a newcomer is found in the flood",
        || peer.send(&member_package::package(&newcomer)),
        |told| told.members.contains(&newcomer),
    );
    assert!(one.membership.stats().malformed > sent / 100, "junk is counted: {:?} of {sent}", one.membership.stats());
    for (node, other) in [(&one, member(2)), (&two, member(1))] {
        node.told.with(|told| assert!(!told.departed.iter().any(|(gone, _)| *gone == other), "{other} was dropped"));
    }
}

#[test]
fn the_datagrams_are_those_of_tribes() {
    let port = Port::free();
    let socket = socket::open(&port.config()).expect("the group can be joined");
    let listener = Listener(socket);
    let mut node = Node::start(&port.config(), 1);
    let (heartbeat, from) = listener.next();
    assert_eq!(member_package::decode(&heartbeat), Ok(member(1)));
    assert_eq!(from.port(), port.port(), "sent from the port of the group");
    node.membership.stop();
    let goodbye = std::iter::from_fn(|| Some(listener.next().0)).find_map(|datagram| {
        let member = member_package::decode(&datagram).expect("nothing but membership packets");
        member.is_leaving().then_some(member)
    });
    assert_eq!(goodbye, Some(member(1)));
}

#[test]
fn a_broken_socket_is_replaced_until_one_works() {
    let port = Port::free();
    let config = port.config().frequency(Duration::from_millis(50)).recovery_interval(Duration::from_millis(200));
    let poll = mio::Poll::new().expect("a poll");
    let link = Arc::new(Link::open(&config, member(1), Mode::Full, poll.registry()).expect("joined"));
    let Ok(broken) = useless() else { return eprintln!("skipped, no IPv6 to make a useless socket of") };
    let now = clock::now();
    let told = Arc::new(Told::default());
    let roster = Roster::new(member(1), Mode::Full, config.roster(), now);
    let mut worker = Worker::new(config.clone(), Arc::clone(&link), poll, roster, told.sink(), now);
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    worker.open = Box::new(move |config| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Err(io::ErrorKind::NetworkDown.into()),
        1 => useless(),
        _ => socket::open(config),
    });
    link.break_socket(broken);
    let thread = Running { link: Arc::clone(&link), thread: Some(std::thread::spawn(move || worker.run())) };
    let other = Node::start(&config, 2);
    told.wait("the isolated node finds the other", |told| told.members.contains(&member(2)));
    other.told.wait("and is found", |told| told.members.contains(&member(1)));
    assert_eq!(link.stats().recoveries, 1);
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    drop(thread);
}

#[test]
fn a_deaf_socket_is_joined_anew() {
    let port = Port::free();
    let interval = Duration::from_millis(50);
    let config = port.config().frequency(interval).drop_time(interval * 4).recovery_interval(interval);
    let one = Node::start(&config, 1);
    let link = &one.membership.running.as_ref().expect("running").link;
    socket::leave(&link.socket(), &config);
    let two = Node::start(&config, 2);
    one.told.wait("the deaf node hears again", |told| told.members.contains(&member(2)));
    two.told.wait("and was heard all the time", |told| told.members.contains(&member(1)));
    assert!(one.membership.stats().recoveries > 0);
}

#[test]
fn an_observer_sends_nothing() {
    let port = Port::free();
    let config = port.config().frequency(Duration::from_millis(20));
    let listener = Listener(socket::open(&config).expect("the group can be joined"));
    let mut observer = Node::start_as(&config, 1, Mode::Observe);
    port.peer().send(&member_package::package(&member(2)));
    observer.told.wait("it hears", |told| told.members.contains(&member(2)));
    observer.membership.announce(&member(1).with_payload("p")).expect("it may change");
    observer.membership.stop();
    port.peer().send(b"the end");
    let heard: Vec<_> = std::iter::from_fn(|| Some(listener.next().0)).take_while(|datagram| datagram != "the end").collect();
    assert_eq!(heard, [member_package::package(&member(2))]);
}

#[test]
fn what_no_datagram_can_carry_is_refused() {
    let port = Port::free();
    let mut node = Node::start(&port.config(), 1);
    let huge = member(1).with_payload(vec![0; MAX_DATAGRAM]);
    let error = node.membership.announce(&huge).expect_err("too large");
    assert!(error.to_string().contains("shorten payload or domain"), "{error}");
    let error = node.membership.broadcast(Bytes::from(vec![0; MAX_DATAGRAM + 1])).expect_err("too large");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let mut another = Multicast::new(port.config());
    assert!(another.start(&huge, Mode::Full, Arc::new(Told::default()).sink()).is_err());
    let spare = MAX_DATAGRAM - member(1).leaving().package().len();
    node.membership.announce(&member(1).with_payload(vec![0; spare])).expect("as large as a datagram can be");
}

#[test]
fn wrong_settings_say_what_is_wrong() {
    let good = MulticastConfig::default();
    let bad = [
        (good.clone().group(([10, 0, 0, 1], 45564).into()), "not a multicast address"),
        (good.clone().group(([228, 0, 0, 4], 0).into()), "needs a port"),
        (good.clone().frequency(Duration::ZERO), "frequency"),
        (good.clone().drop_time(Duration::from_millis(500)), "drop time"),
        (good.clone().interface(Ipv6Addr::LOCALHOST), "IPv4 address of an interface"),
        (good.clone().interface(super::Interface::Index(1)), "IPv4 address of an interface"),
        (good.clone().interface(Ipv4Addr::new(192, 0, 2, 77)), "set the interface to the address of one that is up"),
        (good.group((Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 4), 45564).into()).interface(Ipv4Addr::LOCALHOST), "IPv6"),
    ];
    for (config, reason) in bad {
        let error = Multicast::new(config).start(&member(1), Mode::Full, Arc::new(Told::default()).sink());
        let error = error.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    }
}

#[test]
fn an_ipv6_group_works_where_the_loopback_interface_has_a_route_for_it() {
    let port = Port::free();
    let group = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 4), port.port());
    let config = MulticastConfig::default().group(group.into()).interface(Ipv6Addr::LOCALHOST);
    let told = Arc::new(Told::default());
    if let Err(error) = Multicast::new(config.clone()).start(&member(1), Mode::Full, told.sink()) {
        eprintln!("skipped, no IPv6 multicast over loopback (ip -6 route add local ff00::/8 dev lo): {error}");
        return;
    }
    let (one, two) = (Node::start(&config, 1), Node::start(&config, 2));
    one.told.wait("one sees two", |told| told.members.contains(&member(2)));
    two.told.wait("two sees one", |told| told.members.contains(&member(1)));
}

/// A member at an address where nobody listens; the same for the same number.
fn member(number: u8) -> Member {
    Member::new(([127, 0, 0, number], 4000).into()).with_id(crate::UniqueId::from_bytes([number; 16]))
}

/// A socket from which nothing can be sent to an IPv4 group.
fn useless() -> io::Result<mio::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    Ok(mio::net::UdpSocket::from_std(socket.into()))
}

/// A UDP port that no other test has, for as long as this lives.
struct Port(UdpSocket);

impl Port {
    fn free() -> Self {
        Self(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("bound").port()
    }

    fn config(&self) -> MulticastConfig {
        MulticastConfig::default().group(([228, 0, 0, 4], self.port()).into()).interface(Ipv4Addr::LOCALHOST)
    }

    /// Somebody who sends to the group what no member would.
    fn peer(&self) -> Peer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        SockRef::from(&socket).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).expect("the interface is there");
        Peer { socket, group: ([228, 0, 0, 4], self.port()).into() }
    }
}

struct Peer {
    socket: UdpSocket,
    group: SocketAddr,
}

impl Peer {
    fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.group).expect("sent");
    }
}

/// A socket that hears the group.
struct Listener(mio::net::UdpSocket);

impl Listener {
    fn next(&self) -> (Bytes, SocketAddr) {
        let mut poll = mio::Poll::new().expect("a poll");
        let copy = SockRef::from(&self.0).try_clone().expect("a copy");
        let mut copy = mio::net::UdpSocket::from_std(copy.into());
        poll.registry().register(&mut copy, mio::Token(0), mio::Interest::READABLE).expect("registered");
        let start = clock::now();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match copy.recv_from(&mut buffer) {
                Ok((len, from)) => return (Bytes::copy_from_slice(&buffer[..len]), from),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            let left = clock::left(start, PATIENCE);
            assert!(!left.is_zero(), "nothing was heard on the group");
            poll.poll(&mut mio::Events::with_capacity(1), Some(left)).expect("polled");
        }
    }
}

struct Node {
    membership: Multicast,
    told: Arc<Told>,
}

impl Node {
    fn start(config: &MulticastConfig, number: u8) -> Self {
        Self::start_as(config, number, Mode::Full)
    }

    fn start_as(config: &MulticastConfig, number: u8, mode: Mode) -> Self {
        let told = Arc::new(Told::default());
        let mut membership = Multicast::new(config.clone());
        membership.start(&member(number), mode, told.sink()).expect("multicast works over loopback");
        Self { membership, told }
    }
}

/// A worker that a test started by itself.
struct Running {
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.link.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the worker does not panic");
        }
    }
}

#[derive(Default)]
struct Told {
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Log {
    members: Vec<Member>,
    departed: Vec<(Member, Departure)>,
}

impl Told {
    fn sink(self: &Arc<Self>) -> MemberSink {
        MemberSink::new(Arc::<Self>::clone(self))
    }

    fn with(&self, check: impl FnOnce(&Log)) {
        check(&self.log.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn wait(&self, what: &str, condition: impl FnMut(&Log) -> bool) {
        self.wait_with(what, || {}, condition);
    }

    /// Waits for a condition, and does `again` every now and then meanwhile.
    fn wait_with(&self, what: &str, again: impl Fn(), mut condition: impl FnMut(&Log) -> bool) {
        let start = clock::now();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        while !condition(&log) {
            assert!(!clock::left(start, PATIENCE).is_zero(), "within {PATIENCE:?}: {what}; {log:?}");
            again();
            log = self.changed.wait_timeout(log, Duration::from_millis(100)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl MemberHandler for Told {
    fn event(&self, event: Event) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Added(member) => log.members.push(member),
            Event::Removed(member, departure) => {
                log.members.retain(|other| *other != member);
                log.departed.push((member, departure));
            }
            Event::Updated(_) | Event::Suspect(_) => {}
        }
        self.changed.notify_all();
    }

    fn broadcast(&self, _datagram: Bytes) {}
}
