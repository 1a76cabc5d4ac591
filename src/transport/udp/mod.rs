//! Datagrams: messages with [`SendOptions::UDP`](crate::SendOptions::UDP), one frame in each, to a member's UDP port.
//!
//! | options | a send is done when |
//! | --- | --- |
//! | UDP | the operating system has taken the datagram |
//! | UDP and 2 or 6 | the peer's acknowledgement has come, as a datagram |
//!
//! A lost datagram is not sent again, as in Tribes: with an acknowledgement it fails with [`FaultCause::Timeout`], without one
//! nobody knows. There is no order. A body has at most 65 372 bytes from a member with an IPv4 address, no domain and no payload;
//! what is larger fails with [`FaultCause::TooLarge`], and a member without a UDP port with [`FaultCause::NoUdp`].
//!
//! Acknowledgements carry no id, so each acknowledged message has a socket of its own; a few are under way per destination, the
//! others wait their turn, and the time-out counts from the call.
//!
//! Threads: `tribes-udp` receives and runs the listeners. `tribes-udp-acks` reads acknowledgements and is started by the first
//! message that wants one, so a listener that blocks never holds up what this member sends. It does hold up the datagrams behind
//! it: what the socket's buffer cannot hold is lost.
//!
//! A datagram that is no frame, or more than whole frames, is counted and dropped. (Tribes closes its UDP socket for good.)

mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{LinkSink, Listening, MessageSink, ProbeDone, Receiver, ReceiverStats, Sender, SenderStats};
use crate::completion::FaultCause;
use crate::member::Member;
use crate::stack::{Outbound, Probe, ProbeRequest};
use receiver::Receiving;
use sender::Sends;

/// The most bytes that a datagram carries.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// How a [`UdpTransport`] binds, and what it allows.
///
/// ```
/// use std::time::Duration;
/// use tribes::transport::udp::{UdpConfig, UdpTransport};
/// let config = UdpConfig::default().host([127, 0, 0, 1].into()).port(4001).ack_timeout(Duration::from_secs(1));
/// let udp = UdpTransport::new(config);
/// ```
#[derive(Clone, Debug)]
pub struct UdpConfig {
    host: IpAddr,
    port: u16,
    auto_bind: u16,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    ack_timeout: Duration,
    in_flight: usize,
    max_queued_bytes: usize,
    max_queued_messages: usize,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::UNSPECIFIED.into(),
            port: 4001,
            auto_bind: 100,
            receive_buffer: Some(1 << 20),
            send_buffer: Some(1 << 18),
            ack_timeout: Duration::from_secs(3),
            in_flight: 8,
            max_queued_bytes: 16 << 20,
            max_queued_messages: 4096,
        }
    }
}

impl UdpConfig {
    /// The address to receive at; all IPv4 addresses unless set. On a machine with several, set the one that members are told:
    /// answers must come from it.
    #[must_use]
    pub fn host(mut self, host: IpAddr) -> Self {
        self.host = host;
        self
    }

    /// The first port to try; 4001 unless set. Port 0 leaves the choice to the operating system. (Tribes: `udpPort`)
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// How many ports to try, from the first one up; 100 unless set, at least 1. (Tribes: `autoBind`)
    #[must_use]
    pub fn auto_bind(mut self, ports: u16) -> Self {
        self.auto_bind = ports.max(1);
        self
    }

    /// The socket's receive buffer, in bytes (`SO_RCVBUF`), as far as the system allows; 1 MiB unless set, `None` leaves it to the
    /// system. (Tribes: `udpRxBufSize`)
    #[must_use]
    pub fn receive_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.receive_buffer = bytes.into();
        self
    }

    /// The sockets' send buffer, in bytes (`SO_SNDBUF`); 256 KiB unless set, `None` leaves it to the system. (Tribes: `udpTxBufSize`)
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.send_buffer = bytes.into();
        self
    }

    /// How long a message may wait for its acknowledgement, from the call on; 3 s unless set. (Tribes: `timeout`)
    #[must_use]
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.ack_timeout = timeout;
        self
    }

    /// How many acknowledged messages are under way to one destination, each with a socket; 8 unless set, at least 1.
    #[must_use]
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.in_flight = messages.max(1);
        self
    }

    /// How many messages, and of how many bytes in all, may be waiting or under way to one destination; 4096 and 16 MiB unless
    /// set. What is above fails with [`FaultCause::QueueFull`].
    #[must_use]
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.max_queued_messages = messages;
        self.max_queued_bytes = bytes;
        self
    }
}

/// Sends and receives datagrams. A clone is a handle to the same transport: one is the channel's receiver, another its sender.
#[derive(Clone)]
pub struct UdpTransport(Arc<Inner>);

struct Inner {
    config: UdpConfig,
    receiving: Mutex<Option<Receiving>>,
    /// Of receivers that are stopped.
    received: Mutex<ReceiverStats>,
    sends: Sends,
}

impl UdpTransport {
    /// A transport that opens nothing yet.
    #[must_use]
    pub fn new(config: UdpConfig) -> Self {
        let sends = Sends::new(config.clone());
        Self(Arc::new(Inner { config, receiving: Mutex::default(), received: Mutex::default(), sends }))
    }
}

impl Receiver for UdpTransport {
    fn start(&mut self, sink: MessageSink) -> io::Result<Listening> {
        let mut receiving = lock(&self.0.receiving);
        if receiving.is_some() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let started = Receiving::start(&self.0.config, sink)?;
        let port = started.port();
        *receiving = Some(started);
        Ok(Listening::udp(port))
    }

    fn stop(&mut self) {
        self.0.stop_receiving();
    }

    fn stats(&self) -> ReceiverStats {
        let now = lock(&self.0.receiving).as_ref().map(Receiving::stats).unwrap_or_default();
        sum(*lock(&self.0.received), now)
    }
}

impl Sender for UdpTransport {
    fn start(&self, sink: LinkSink) -> io::Result<()> {
        self.0.sends.start(sink);
        Ok(())
    }

    fn transmit(&self, msg: Outbound) {
        self.0.sends.transmit(msg);
    }

    /// There is no connection to try: [`Probe::Unreachable`], always. The channel probes by its other sender.
    fn probe(&self, _peer: &Member, _request: ProbeRequest, done: ProbeDone) {
        done(Probe::Unreachable);
    }

    fn disconnect(&self, peer: &Member) {
        self.0.sends.fail_member(peer, &FaultCause::Connection(io::ErrorKind::ConnectionAborted));
    }

    fn stop(&self, drain: Duration) {
        self.0.sends.stop(drain);
    }

    fn stats(&self) -> SenderStats {
        self.0.sends.stats()
    }
}

impl Inner {
    fn stop_receiving(&self) {
        let Some(receiving) = lock(&self.receiving).take() else { return };
        let stats = receiving.stop();
        let mut received = lock(&self.received);
        *received = sum(*received, stats);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_receiving();
        self.sends.stop(Duration::ZERO);
    }
}

impl fmt::Debug for UdpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = lock(&self.0.receiving).as_ref().map(Receiving::port);
        f.debug_struct("UdpTransport").field("port", &port).field("sender", &self.0.sends.stats()).finish_non_exhaustive()
    }
}

fn sum(past: ReceiverStats, now: ReceiverStats) -> ReceiverStats {
    ReceiverStats {
        messages: past.messages + now.messages,
        bytes: past.bytes + now.bytes,
        malformed: past.malformed + now.malformed,
        ..past
    }
}

/// Locks whatever a thread that panicked left behind: every change under these locks is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
