//! The receiving side of TCP: listens, reads frames, hands messages up and writes the acknowledgements they are owed.
//!
//! | file | what it is |
//! | --- | --- |
//! | `crew` | the threads, and how they share the connections |
//! | `crew/door` | how connections come and go |
//! | `connection` | one turn with a connection |
//! | `intake` | bytes in, messages out; no I/O |
//! | `answers` | acknowledgements, in the order of frames |
//! | `memory` | the bound on what is half-received |
//! | `bind` | addresses, ports, socket options |

mod answers;
mod bind;
mod connection;
mod crew;
mod intake;
mod memory;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crew::Crew;

use super::busy_poll;
use crate::transport::{Listening, MessageSink, Receiver, ReceiverStats};

/// Receives messages over TCP.
///
/// Messages of one connection are handed up one after another, in the order they came, by the thread that read them; messages of
/// different connections in parallel, when a listener blocks or there is more than one thread can do. A listener that blocks
/// delays its own connection only, as long as fewer than [`max_threads`](TcpReceiverConfig::max_threads) do.
///
/// Acknowledgements follow the rules of Tribes, and leave in the order of the frames they answer. Bytes that are no frame, or no
/// message, close the connection they came on and no other. Tribes behaviour: no order beyond one read, a wedged connection
/// after bad framing, and no bound on what a frame may announce.
///
/// [`stop`](Receiver::stop) waits up to 10 seconds for listeners that are running, except for the one that calls it.
///
/// ```no_run
/// use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};
/// let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:4000".parse()?));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct TcpReceiver {
    config: TcpReceiverConfig,
    crew: Option<Arc<Crew>>,
    /// The counts of a receiver that has stopped.
    last: ReceiverStats,
}

impl TcpReceiver {
    /// A receiver that does not listen yet.
    #[must_use]
    pub fn new(config: TcpReceiverConfig) -> Self {
        Self { config, crew: None, last: ReceiverStats::default() }
    }
}

impl Default for TcpReceiver {
    fn default() -> Self {
        Self::new(TcpReceiverConfig::default())
    }
}

impl Receiver for TcpReceiver {
    fn start(&mut self, sink: MessageSink) -> io::Result<Listening> {
        if self.crew.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the receiver has been started"));
        }
        let (crew, address) = Crew::start(self.config.clone(), sink)?;
        self.crew = Some(crew);
        Ok(Listening::tcp(address))
    }

    fn stop(&mut self) {
        if let Some(crew) = self.crew.take() {
            crew.stop();
            self.last = crew.stats();
        }
    }

    fn stats(&self) -> ReceiverStats {
        self.crew.as_ref().map_or(self.last, |crew| crew.stats())
    }
}

impl Drop for TcpReceiver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How a [`TcpReceiver`] listens, and what it lets a peer take.
///
/// | setting | default | Tribes |
/// | --- | --- | --- |
/// | [`host`](Self::host), [`port`](Self::port) | the primary IPv4 address, 4000 | `address="auto"`, `port` |
/// | [`auto_bind`](Self::auto_bind) | 100 ports | `autoBind` |
/// | [`max_threads`](Self::max_threads) | 16 | `maxThreads` 15 |
/// | [`max_connections`](Self::max_connections) | 1024 | no bound |
/// | [`max_frame`](Self::max_frame) | 256 MiB | no bound |
/// | [`max_buffered`](Self::max_buffered) | 512 MiB | no bound |
/// | [`stall_timeout`](Self::stall_timeout) | 30 s | none |
/// | [`idle_timeout`](Self::idle_timeout) | none | none |
/// | [`receive_buffer`](Self::receive_buffer), [`send_buffer`](Self::send_buffer) | the system's | `rxBufSize` 65536, `txBufSize` 25188 |
/// | [`tcp_nodelay`](Self::tcp_nodelay) | on | `tcpNoDelay` |
/// | [`so_keep_alive`](Self::so_keep_alive) | off | `soKeepAlive` |
#[derive(Clone, Debug)]
#[must_use]
pub struct TcpReceiverConfig {
    host: Option<IpAddr>,
    port: u16,
    auto_bind: u16,
    max_threads: usize,
    max_connections: usize,
    max_frame: usize,
    max_buffered: usize,
    stall_timeout: Duration,
    idle_timeout: Option<Duration>,
    busy_poll: Duration,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    tcp_nodelay: bool,
    so_keep_alive: Option<Duration>,
}

impl Default for TcpReceiverConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: 4000,
            auto_bind: 100,
            max_threads: 16,
            max_connections: 1024,
            max_frame: 256 * 1024 * 1024,
            max_buffered: 512 * 1024 * 1024,
            stall_timeout: Duration::from_secs(30),
            idle_timeout: None,
            busy_poll: busy_poll::DEFAULT,
            receive_buffer: None,
            send_buffer: None,
            tcp_nodelay: true,
            so_keep_alive: None,
        }
    }
}

impl TcpReceiverConfig {
    /// Listens at this address, or above it, see [`auto_bind`](Self::auto_bind). Members are told the address that was bound; with
    /// an unspecified one (`0.0.0.0`, `::`) they are told this host's primary IPv4 address.
    pub fn bind(self, address: SocketAddr) -> Self {
        self.host(address.ip()).port(address.port())
    }

    /// Listens at this host. By default it is `auto`: the IPv4 address by which other hosts are reached, or 127.0.0.1 if there is
    /// no network. Tribes behaviour: its `auto` is the address of the host's name, often a loopback one.
    pub fn host(mut self, host: IpAddr) -> Self {
        self.host = Some(host);
        self
    }

    /// Listens at this port, or above it, see [`auto_bind`](Self::auto_bind); 0 takes any.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// How many ports are tried, from the configured one up, while they are taken. 0 means 1.
    pub fn auto_bind(mut self, ports: u16) -> Self {
        self.auto_bind = ports;
        self
    }

    /// The most threads. Two are there always; others come when listeners block, and leave when they are not needed. When so
    /// many listeners block at once, nothing is received until one returns. 0 means 1; with 1 a listener that blocks stops all.
    pub fn max_threads(mut self, threads: usize) -> Self {
        self.max_threads = threads.max(1);
        self
    }

    /// The most connections. When there are as many, one that has brought no whole message yet is closed for the next, the oldest
    /// first; when all have, the next is. Either is counted as refused.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The largest message, in bytes, with its head of some hundred bytes. A connection that announces more is closed.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// The memory, in bytes, that large messages take on all connections together while they are half-received; a connection that
    /// needs more is closed. On top of it each connection may hold the beginning of a small message, at most 64 KiB.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.max_buffered = bytes;
        self
    }

    /// How long a half-received message may stand still. It must be finished, or have got another 64 KiB, within this time, or
    /// the connection is closed.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// How long nothing at all may come before the connection is closed; `None`: for ever, as in Tribes.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// How long a thread looks for what comes before it sleeps, giving the processor to others in between. Default 20 µs, at most
    /// 1 ms; zero is not at all.
    ///
    /// It makes a round trip on a local network shorter, see [the sender's](super::TcpSenderConfig::busy_poll). Where nothing came in
    /// time lately, it looks at every sixteenth wait only: a quiet receiver sleeps.
    pub fn busy_poll(mut self, limit: Duration) -> Self {
        self.busy_poll = limit;
        self
    }

    /// The sockets' receive buffer, in bytes (`SO_RCVBUF`); `None` leaves it to the system, which adapts it to the traffic.
    pub fn receive_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.receive_buffer = bytes.into();
        self
    }

    /// The sockets' send buffer, in bytes (`SO_SNDBUF`); it holds acknowledgements only. `None` leaves it to the system.
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.send_buffer = bytes.into();
        self
    }

    /// Whether acknowledgements leave at once (`TCP_NODELAY`).
    pub fn tcp_nodelay(mut self, on: bool) -> Self {
        self.tcp_nodelay = on;
        self
    }

    /// After how much silence the system probes whether the peer is there, at least a second (`SO_KEEPALIVE`); `None`: never.
    pub fn so_keep_alive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.so_keep_alive = idle.into();
        self
    }
}
