//! The socket of the group: bound, joined, and ready to send from the group's own port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use mio::net::UdpSocket;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::config::{Interface, MulticastConfig};

/// What the kernel may keep for us while the thread is busy: some hundred messages of the group. It takes what it has.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Opens the socket, joins the group and sets everything that outgoing datagrams need.
pub(super) fn open(config: &MulticastConfig) -> io::Result<UdpSocket> {
    let group = config.group;
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    // Java shares the port by SO_REUSEADDR; SO_REUSEPORT beside it would be refused where only one side has it.
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(any(target_os = "linux", target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    bind(&socket, config).map_err(|error| explain(&error, &format!("the multicast port of {group} cannot be bound")))?;
    join(&socket, config).map_err(|error| {
        let what = format!("the multicast group {group} cannot be joined on the interface {}", name(config.interface));
        explain(&error, &what)
    })?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// Leaves the group, so that joining it again is told to the network.
pub(super) fn leave(socket: &UdpSocket, config: &MulticastConfig) {
    let socket = SockRef::from(socket);
    let _ = match (config.group, config.interface) {
        (SocketAddr::V4(group), Interface::Address(IpAddr::V4(address))) => socket.leave_multicast_v4(group.ip(), &address),
        (SocketAddr::V4(group), _) => socket.leave_multicast_v4(group.ip(), &Ipv4Addr::UNSPECIFIED),
        (SocketAddr::V6(group), interface) => {
            v6_index(group, interface).and_then(|index| socket.leave_multicast_v6(group.ip(), index))
        }
    };
}

/// Waits until a datagram can be sent, on the rare occasion that the kernel's buffer is full.
pub(super) fn wait_writable(socket: &UdpSocket, timeout: Duration) -> io::Result<()> {
    let mut poll = mio::Poll::new()?;
    let mut copy = UdpSocket::from_std(SockRef::from(socket).try_clone()?.into());
    poll.registry().register(&mut copy, mio::Token(0), mio::Interest::WRITABLE)?;
    let mut events = mio::Events::with_capacity(1);
    poll.poll(&mut events, Some(timeout))
}

/// Binds to the group, where that is possible, so that nothing comes in but what was sent to it.
fn bind(socket: &Socket, config: &MulticastConfig) -> io::Result<()> {
    let (group, any) = match config.group {
        SocketAddr::V4(group) => (SocketAddr::from(group), IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(mut group) => {
            // The same port over IPv4 is none of our business, and may be another's.
            socket.set_only_v6(true)?;
            group.set_scope_id(v6_index(group, config.interface)?);
            (group.into(), Ipv6Addr::UNSPECIFIED.into())
        }
    };
    if cfg!(unix) && socket.bind(&SockAddr::from(group)).is_ok() {
        return Ok(());
    }
    socket.bind(&SockAddr::from(SocketAddr::new(any, group.port())))
}

fn join(socket: &Socket, config: &MulticastConfig) -> io::Result<()> {
    match config.group {
        SocketAddr::V4(group) => {
            let address = match config.interface {
                Interface::Auto => Ipv4Addr::UNSPECIFIED,
                Interface::Address(IpAddr::V4(address)) => address,
                other => {
                    return Err(invalid(&format!("an IPv4 group needs the IPv4 address of an interface, not {}", name(other))));
                }
            };
            // Without this, Linux hands over datagrams of every group that any process of the machine has joined.
            #[cfg(target_os = "linux")]
            let _ = socket.set_multicast_all_v4(false);
            socket.join_multicast_v4(group.ip(), &address)?;
            if !address.is_unspecified() {
                socket.set_multicast_if_v4(&address)?;
            }
            socket.set_multicast_loop_v4(config.loopback)?;
            config.ttl.map_or(Ok(()), |ttl| socket.set_multicast_ttl_v4(ttl))
        }
        SocketAddr::V6(group) => {
            let index = v6_index(group, config.interface)?;
            #[cfg(target_os = "linux")]
            let _ = socket.set_multicast_all_v6(false);
            socket.join_multicast_v6(group.ip(), index)?;
            if index != 0 {
                socket.set_multicast_if_v6(index)?;
            }
            socket.set_multicast_loop_v6(config.loopback)?;
            config.ttl.map_or(Ok(()), |ttl| socket.set_multicast_hops_v6(ttl))
        }
    }
}

/// The index of the interface that an IPv6 group is joined on; 0 for what the routing table says.
fn v6_index(group: SocketAddrV6, interface: Interface) -> io::Result<u32> {
    match interface {
        Interface::Auto => Ok(group.scope_id()),
        Interface::Index(index) => Ok(index),
        Interface::Address(IpAddr::V6(address)) => index_of(address),
        Interface::Address(IpAddr::V4(_)) => Err(invalid("an IPv6 group needs the IPv6 address or the index of an interface")),
    }
}

#[cfg(target_os = "linux")]
fn index_of(address: Ipv6Addr) -> io::Result<u32> {
    // Lines of: address, index, prefix length, scope, flags, name; numbers in hex.
    let wanted = format!("{:032x}", u128::from(address));
    let table = std::fs::read_to_string("/proc/net/if_inet6")?;
    let mut fields = table.lines().map(str::split_ascii_whitespace);
    let index =
        fields.find_map(|mut line| if line.next()? == wanted { u32::from_str_radix(line.next()?, 16).ok() } else { None });
    index.ok_or_else(|| invalid(&format!("no interface has the address {address}")))
}

#[cfg(not(target_os = "linux"))]
fn index_of(address: Ipv6Addr) -> io::Result<u32> {
    Err(invalid(&format!("give the index of the interface with the address {address}: it is looked up on Linux only")))
}

fn name(interface: Interface) -> String {
    match interface {
        Interface::Auto => "that the routing table names".to_owned(),
        Interface::Address(address) => address.to_string(),
        Interface::Index(index) => format!("number {index}"),
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// An error of the operating system with what was tried, and what to do about the common ones.
pub(super) fn explain(error: &io::Error, what: &str) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(_) if is_no_route(error) => {
            "; set the interface to the address of one that is up, or add a route for multicast (`ip route add 224.0.0.0/4 dev NAME`)"
        }
        _ if error.kind() == io::ErrorKind::AddrInUse => "; a process that does not share it (SO_REUSEADDR) has the port",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{what}: {error}{hint}"))
}

fn is_no_route(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable};
    // ENODEV has no kind of its own; it is what Linux answers to a join without a route.
    const ENODEV: i32 = 19;
    matches!(error.kind(), AddrNotAvailable | HostUnreachable | NetworkDown | NetworkUnreachable)
        || (cfg!(unix) && error.raw_os_error() == Some(ENODEV))
}
