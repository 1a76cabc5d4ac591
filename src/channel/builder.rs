//! Puts a channel together and starts it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::GroupChannel;
use super::listeners::{Closure, ListenerOutcome, MembershipListener, MessageListener};
use crate::interceptors::{MessageDispatch, TcpFailureDetector};
use crate::member::Member;
use crate::membership::Membership;
use crate::membership::multicast::{Multicast, MulticastConfig};
use crate::message::Message;
use crate::stack::{Event, StackBuilder, StackError};
use crate::transport::tcp::{TcpReceiver, TcpReceiverConfig, TcpSender, TcpSenderConfig};
use crate::transport::{Receiver, Sender};

/// Builds a [`GroupChannel`]. What is not given has a default: multicast membership, TCP on mio both ways, and a stack of
/// [`MessageDispatch`] above [`TcpFailureDetector`], as Tomcat's cluster sets up Tribes.
#[must_use = "a builder does nothing until it is started"]
pub struct ChannelBuilder {
    pub(super) membership: Box<dyn Membership>,
    pub(super) receiver: Box<dyn Receiver>,
    pub(super) sender: Box<dyn Sender>,
    pub(super) udp: Option<(Box<dyn Sender>, Box<dyn Receiver>)>,
    pub(super) stack: StackBuilder,
    pub(super) domain: Bytes,
    pub(super) payload: Bytes,
    pub(super) advertise: Option<SocketAddr>,
    pub(super) heartbeat: Duration,
    pub(super) drain: Duration,
    pub(super) message_listeners: Vec<Arc<dyn MessageListener>>,
    pub(super) membership_listeners: Vec<Arc<MembershipListener>>,
}

impl Default for ChannelBuilder {
    fn default() -> Self {
        Self {
            membership: Box::new(Multicast::new(MulticastConfig::default())),
            receiver: Box::new(TcpReceiver::new(TcpReceiverConfig::default())),
            sender: Box::new(TcpSender::new(TcpSenderConfig::default())),
            udp: None,
            stack: StackBuilder::new().push(MessageDispatch::default()).push(TcpFailureDetector::default()),
            domain: Bytes::new(),
            payload: Bytes::new(),
            advertise: None,
            heartbeat: Duration::from_secs(5),
            drain: Duration::from_secs(3),
            message_listeners: Vec::new(),
            membership_listeners: Vec::new(),
        }
    }
}

impl ChannelBuilder {
    /// How members find each other. Default: [`Multicast`] at 228.0.0.4:45564.
    pub fn membership(mut self, membership: impl Membership + 'static) -> Self {
        self.membership = Box::new(membership);
        self
    }

    /// What takes messages in. Default: [`TcpReceiver`] at the host's own address, port 4000 or one of the 99 above it.
    pub fn receiver(mut self, receiver: impl Receiver + 'static) -> Self {
        self.receiver = Box::new(receiver);
        self
    }

    /// What sends messages. Default: [`TcpSender`].
    pub fn sender(mut self, sender: impl Sender + 'static) -> Self {
        self.sender = Box::new(sender);
        self
    }

    /// Sends and receives messages with [`SendOptions::UDP`](crate::SendOptions::UDP) as well. Default: none, and such sends fail.
    /// The value is both ends of one socket, as `UdpTransport` is.
    pub fn udp(mut self, udp: impl Sender + Receiver + Clone + 'static) -> Self {
        self.udp = Some((Box::new(udp.clone()), Box::new(udp)));
        self
    }

    /// The layers between the application and the transport, in place of the default ones.
    pub fn stack(mut self, stack: StackBuilder) -> Self {
        self.stack = stack;
        self
    }

    /// The local member's domain. Default: empty.
    pub fn domain(mut self, domain: impl Into<Bytes>) -> Self {
        self.domain = domain.into();
        self
    }

    /// The local member's payload. Default: empty.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The address that other members are told to send to, where it is not the one the receiver is bound to: behind address
    /// translation, or in a container. A port of 0 stands for the receiver's.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// How often interceptors and senders get their heartbeat (Tribes: `heartbeatSleeptime`). Default: 5 s.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// How long [`GroupChannel::stop`] lets queued messages go out before the rest is reported as not sent. Default: 3 s.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Calls `listener` with each message, as [`GroupChannel::on_message`] does, from before the channel starts and as long as it
    /// lives: a message that arrives while the channel is starting is heard too.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use tribes::membership::memory::Hub;
    /// use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};
    /// use tribes::{GroupChannel, SendOptions};
    ///
    /// let hub = Hub::new();
    /// let builder = || {
    ///     let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind(([127, 0, 0, 1], 0).into()));
    ///     GroupChannel::builder().membership(hub.membership()).receiver(receiver)
    /// };
    /// let (heard, hears) = mpsc::channel();
    /// let anna = builder().on_message(move |message| heard.send(message.bytes())).start()?;
    /// let ben = builder().start()?;
    /// ben.send([anna.local()], "hello", SendOptions::SYNC_ACK)?;
    /// assert_eq!(hears.recv()?, "hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_message<R: ListenerOutcome>(self, listener: impl Fn(&Message) -> R + Send + Sync + 'static) -> Self {
        self.subscribe(Closure(listener))
    }

    /// As [`on_message`](Self::on_message), with a listener that chooses what it accepts.
    pub fn subscribe(mut self, listener: impl MessageListener + 'static) -> Self {
        self.message_listeners.push(Arc::new(listener));
        self
    }

    /// Calls `listener` when a member comes, changes or goes, as [`GroupChannel::on_membership`] does, from before the channel
    /// starts and as long as it lives: it is told of every member, those that were there first included.
    pub fn on_membership(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.membership_listeners.push(Arc::new(listener));
        self
    }

    /// Starts the channel with all its parts. Returns when it receives, has joined the group and has announced itself.
    ///
    /// # Errors
    ///
    /// When the stack is not sound, no port could be bound, the group could not be joined, or the texts are too long.
    pub fn start(self) -> Result<GroupChannel, ChannelError> {
        self.start_parts(Parts::ALL)
    }

    /// Starts only some parts of the channel (Tribes: start levels).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and when the parts make no sense together: announcing without receiving, or without observing.
    pub fn start_parts(self, parts: Parts) -> Result<GroupChannel, ChannelError> {
        if parts.contains(Parts::ANNOUNCE) && !parts.contains(Parts::RECEIVE) {
            return Err(ChannelError::Parts("a member that is announced must receive: others will connect to it"));
        }
        if parts.contains(Parts::ANNOUNCE) && !parts.contains(Parts::OBSERVE) {
            return Err(ChannelError::Parts("a member that is announced must observe the others"));
        }
        let texts = self.domain.len() + self.payload.len();
        if texts > Member::MAX_TEXT {
            return Err(ChannelError::TextTooLong(texts));
        }
        GroupChannel::launch(self, parts)
    }
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder")
            .field("stack", &self.stack)
            .field("domain", &self.domain)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

/// The parts of a channel that are started, with the numbers of Tribes' start levels.
///
/// ```
/// use tribes::Parts;
/// assert!(Parts::ALL.contains(Parts::RECEIVE | Parts::SEND));
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parts(u8);

impl Parts {
    /// Take messages in (`SND_RX_SEQ`).
    pub const RECEIVE: Self = Self(1);
    /// Send messages (`SND_TX_SEQ`). A channel without this part fails each send.
    pub const SEND: Self = Self(2);
    /// Learn of other members (`MBR_RX_SEQ`).
    pub const OBSERVE: Self = Self(4);
    /// Tell other members of this one (`MBR_TX_SEQ`).
    pub const ANNOUNCE: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// Whether all of `other` is among these parts.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Parts {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Why a channel does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The stack is not sound.
    #[error("the stack is not sound: {0}")]
    Stack(#[from] StackError),
    /// The receiver does not listen.
    #[error("the receiver does not start: {0}")]
    Receiver(#[source] io::Error),
    /// The sender does not start.
    #[error("the sender does not start: {0}")]
    Sender(#[source] io::Error),
    /// The group was not joined.
    #[error("the membership does not start: {0}")]
    Membership(#[source] io::Error),
    /// A thread could not be started.
    #[error("no thread for the channel's timers: {0}")]
    Thread(#[source] io::Error),
    /// Domain and payload do not fit into a heartbeat.
    #[error("domain and payload together have {0} bytes, above the {max} of a heartbeat", max = Member::MAX_TEXT)]
    TextTooLong(usize),
    /// The parts to be started make no sense together.
    #[error("{0}")]
    Parts(&'static str),
}
