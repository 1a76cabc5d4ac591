//! Where a receiver listens: the `auto` address, the scan of ports, and the options of sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::TcpReceiverConfig;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Where the way out is looked for: the group of Tribes, as its packets take that way; then a documentation address.
const ELSEWHERE: [Ipv4Addr; 2] = [Ipv4Addr::new(228, 0, 0, 4), Ipv4Addr::new(192, 0, 2, 1)];

/// Listens, and tells the address that members are told.
pub(super) fn listen(config: &TcpReceiverConfig) -> io::Result<(TcpListener, SocketAddr)> {
    let host = config.host.unwrap_or_else(primary_address);
    let last = if config.port == 0 { 0 } else { config.port.saturating_add(config.auto_bind.max(1) - 1) };
    let mut failure = None;
    for port in config.port..=last {
        match listen_at(config, SocketAddr::new(host, port)) {
            Ok(listener) => {
                let mut address = listener.local_addr()?;
                if host.is_unspecified() {
                    address.set_ip(primary_address());
                }
                return Ok((listener, address));
            }
            // The latter is what Windows says of ports that it reserved.
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                failure = Some(error)
            }
            Err(error) => return Err(with_address(&error, host, port)),
        }
    }
    let error = failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    let first = SocketAddr::new(host, config.port);
    let tried = if last > config.port { format!("any port from {first} up to {last}") } else { first.to_string() };
    let text = format!("cannot listen at {tried}: {error}; `auto_bind` sets how many ports are tried, or bind port 0 for any");
    Err(io::Error::new(error.kind(), text))
}

fn with_address(error: &io::Error, host: IpAddr, port: u16) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen at {}: {error}", SocketAddr::new(host, port)))
}

fn listen_at(config: &TcpReceiverConfig, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Elsewhere than on Unix it would share the port instead of taking over what a dead process left.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Set before listening: a connection inherits the size, and the window is agreed on while it is set up.
    if let Some(size) = config.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of an accepted connection.
pub(super) fn configure(config: &TcpReceiverConfig, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(config.tcp_nodelay)?;
    if let Some(idle) = config.so_keep_alive {
        let probes = TcpKeepalive::new().with_time(idle.max(Duration::from_secs(1)));
        SockRef::from(stream).set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

/// The IPv4 address by which other hosts are reached: the source that the system picks for a datagram, none of which is sent.
/// 127.0.0.1 when there is no way out.
fn primary_address() -> IpAddr {
    let source = |target: &Ipv4Addr| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((*target, 45564)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified() && !address.is_loopback()).then_some(address)
    };
    ELSEWHERE.iter().find_map(source).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> TcpReceiverConfig {
        TcpReceiverConfig::default().host(host.parse().expect("an address")).port(0)
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let (first, taken) = listen(&at("127.0.0.1")).expect("a free port");
        if taken.port() > u16::MAX - 20 {
            return;
        }
        let config = at("127.0.0.1").port(taken.port()).auto_bind(20);
        let (_second, address) = listen(&config).expect("one of twenty ports is free");
        assert!(address.port() > taken.port());
        let error = listen(&config.auto_bind(1)).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        assert!(error.to_string().contains("auto_bind"), "{error}");
        drop(first);
    }

    #[test]
    fn the_error_tells_the_ports_that_were_tried() {
        // Two neighbours that are taken, wherever they are.
        let pair = (0..1000).find_map(|_| {
            let (first, taken) = listen(&at("127.0.0.1")).expect("a free port");
            let next = taken.port().checked_add(1)?;
            let (second, _) = listen(&at("127.0.0.1").port(next).auto_bind(1)).ok()?;
            Some((first, second, taken))
        });
        let (_first, _second, taken) = pair.expect("two ports in a row are free");
        let error = listen(&at("127.0.0.1").port(taken.port()).auto_bind(2)).expect_err("both are taken");
        let tried = format!("{taken} up to {}", taken.port() + 1);
        assert!(error.to_string().contains(&tried), "{error}");
    }

    #[test]
    fn who_listens_everywhere_tells_an_address_that_can_be_reached() {
        let (listener, address) = listen(&at("0.0.0.0")).expect("a free port");
        assert!(!address.ip().is_unspecified());
        assert_eq!(address.port(), listener.local_addr().expect("it listens").port());
    }

    #[test]
    fn auto_is_an_address_of_this_host() {
        assert!(UdpSocket::bind((primary_address(), 0)).is_ok());
    }
}
