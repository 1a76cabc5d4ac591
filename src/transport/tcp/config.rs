//! What can be set on a [`TcpSender`](super::TcpSender).

use std::net::IpAddr;
use std::time::Duration;

use super::busy_poll;
use crate::message::Message;

/// Settings of a [`TcpSender`](super::TcpSender); each has a default that fits a local network.
///
/// ```
/// use std::time::Duration;
/// use tribes::transport::tcp::TcpSenderConfig;
/// let config = TcpSenderConfig::default().timeout(Duration::from_secs(1)).max_retry_attempts(2);
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct TcpSenderConfig {
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) max_retry_attempts: u32,
    pub(super) backoff: (Duration, Duration),
    pub(super) window: (usize, usize),
    pub(super) queue: (usize, usize),
    pub(super) max_message: usize,
    pub(super) fail_on_negative_ack: bool,
    pub(super) keep_alive_count: Option<u64>,
    pub(super) keep_alive_time: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) keep_connected: bool,
    pub(super) max_probes: usize,
    pub(super) busy_poll: Duration,
    pub(super) tcp_nodelay: bool,
    pub(super) so_keep_alive: Option<Duration>,
    pub(super) so_linger: Option<Duration>,
    pub(super) receive_buffer: Option<usize>,
    pub(super) send_buffer: Option<usize>,
    pub(super) local_address: Option<IpAddr>,
}

impl Default for TcpSenderConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            max_retry_attempts: 1,
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            window: (1024, 4 << 20),
            queue: (1 << 20, 256 << 20),
            max_message: 256 << 20,
            fail_on_negative_ack: true,
            keep_alive_count: None,
            keep_alive_time: None,
            idle_timeout: Duration::from_secs(60),
            keep_connected: true,
            max_probes: 64,
            busy_poll: busy_poll::DEFAULT,
            tcp_nodelay: true,
            so_keep_alive: Some(Duration::from_secs(60)),
            so_linger: None,
            receive_buffer: None,
            send_buffer: None,
            local_address: None,
        }
    }
}

impl TcpSenderConfig {
    /// How long a message may wait for a destination that shows no sign of life: no acknowledgement, no byte taken, no connection
    /// opened. Default 3 s. A destination that is slow but goes on answering does not time out.
    ///
    /// Tribes behaviour: also 3 s by default, but a silent peer is really reported after 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long opening one connection may take. Default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How often connecting is tried again, and how often a message is sent again after its connection was lost. Default 1.
    /// The first retry comes at once, further ones after the [back-off](Self::backoff).
    #[must_use]
    pub fn max_retry_attempts(mut self, attempts: u32) -> Self {
        self.max_retry_attempts = attempts;
        self
    }

    /// The pause before the second retry, doubled for each further one up to `max`. Default 50 ms and 1 s.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff = (initial, max.max(initial));
        self
    }

    /// How many acknowledged messages, and of how many bytes in all, may be on their way to a Rust member unanswered. Default
    /// 1024 and 4 MiB; one message always may. A Tribes member gets one at a time: it does not answer in order.
    #[must_use]
    pub fn window(mut self, messages: usize, bytes: usize) -> Self {
        self.window = (messages.max(1), bytes);
        self
    }

    /// How many messages, and of how many bytes in all, may be queued for one destination; what comes on top fails with
    /// [`QueueFull`](crate::FaultCause::QueueFull). Default 1 Mi and 256 MiB; one message always may.
    #[must_use]
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.queue = (messages.max(1), bytes);
        self
    }

    /// The largest body that is sent, in bytes of body alone; a receiver's
    /// [`max_frame`](super::TcpReceiverConfig::max_frame) counts the head of some hundred bytes as well. Larger ones fail with [`TooLarge`](crate::FaultCause::TooLarge). Default 256 MiB,
    /// at most [`Message::MAX_BODY`].
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes.min(Message::MAX_BODY);
        self
    }

    /// Whether a negative acknowledgement fails the send (the default) or counts as delivered.
    #[must_use]
    pub fn fail_on_negative_ack(mut self, fail: bool) -> Self {
        self.fail_on_negative_ack = fail;
        self
    }

    /// Closes a connection after this many messages; the next message opens another. Default: never.
    #[must_use]
    pub fn keep_alive_count(mut self, messages: impl Into<Option<u64>>) -> Self {
        self.keep_alive_count = messages.into();
        self
    }

    /// Closes a connection that is this old, once nothing is on its way. Default: never.
    #[must_use]
    pub fn keep_alive_time(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.keep_alive_time = age.into();
        self
    }

    /// Closes a connection that was not used for this long, unless it is [kept](Self::keep_connected). Default 60 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Whether a connection to each member of the view is opened when it comes, and kept while it is there. Default true.
    ///
    /// Then the death of a member shows at once, as the end of a connection, also where nothing was ever sent; else only when it
    /// has been silent for the membership's drop time. It costs two file descriptors for each other member: one for the connection
    /// to it, one for its connection to us.
    ///
    /// What cannot be opened fails no message and suspects nobody. It is tried again after 5 s, and after pauses that double up to
    /// 5 min; so is one that the peer ends, which does make it suspect. One that [`keep_alive_count`](Self::keep_alive_count) or
    /// [`keep_alive_time`](Self::keep_alive_time) closes is opened again by the next message.
    ///
    /// Tribes behaviour: none is opened before the first message. Its receivers never close one that is idle.
    #[must_use]
    pub fn keep_connected(mut self, on: bool) -> Self {
        self.keep_connected = on;
        self
    }

    /// How many probes run at a time; further ones wait. Default 64.
    #[must_use]
    pub fn max_probes(mut self, probes: usize) -> Self {
        self.max_probes = probes.max(1);
        self
    }

    /// How long a thread that waits for an acknowledgement looks for it before it sleeps, giving the processor to others in between.
    /// Default 20 µs, at most 1 ms; zero is not at all. Unix only: elsewhere such a thread sleeps at once.
    ///
    /// It makes a round trip on a local network about a third shorter, since nobody needs to be woken, for processor time that would
    /// else have been idle. Where the last acknowledgements took longer, it looks at every sixteenth wait only. The other end has
    /// [its own](super::TcpReceiverConfig::busy_poll).
    ///
    /// Of callers that wait for one destination together, one reads for all. The others look ten times at most, unless this is zero.
    /// Where the processor does not come back within 1 ms, nobody looks for a while.
    ///
    /// Tribes behaviour: a thread that waits always sleeps.
    #[must_use]
    pub fn busy_poll(mut self, limit: Duration) -> Self {
        self.busy_poll = limit;
        self
    }

    /// Whether small frames leave at once (`TCP_NODELAY`). Default true.
    #[must_use]
    pub fn tcp_nodelay(mut self, on: bool) -> Self {
        self.tcp_nodelay = on;
        self
    }

    /// After how much silence the operating system probes whether the peer is there, at least a second (`SO_KEEPALIVE`). Default
    /// 60 s, so that no firewall forgets a connection that is [kept](Self::keep_connected); `None` is never.
    #[must_use]
    pub fn so_keep_alive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.so_keep_alive = idle.into();
        self
    }

    /// How long the operating system keeps trying to send after a close (`SO_LINGER`). Default: its own.
    #[must_use]
    pub fn so_linger(mut self, linger: impl Into<Option<Duration>>) -> Self {
        self.so_linger = linger.into();
        self
    }

    /// The socket's receive buffer in bytes (`SO_RCVBUF`); it holds acknowledgements only. Default: the operating system's.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.receive_buffer = bytes.into();
        self
    }

    /// The socket's send buffer in bytes (`SO_SNDBUF`). Default: the operating system's, which grows on demand and is hard to beat.
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.send_buffer = bytes.into();
        self
    }

    /// The local address that connections come from, to pick an interface. Default: the operating system chooses.
    #[must_use]
    pub fn local_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.local_address = address.into();
        self
    }
}
