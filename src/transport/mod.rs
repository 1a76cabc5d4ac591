//! How messages cross the network: the traits of a receiver and a sender, and the ones that ship with the crate.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`tcp`] | the default: non-blocking, a window of frames in flight, callers that write and read for themselves |
//! | [`blocking`] | a thread per connection; proves the seam, and is easy to follow |
//! | [`udp`] | datagrams, for messages with [`SendOptions::UDP`](crate::SendOptions::UDP) |
//! | [`memory`] | within a process, with seeded faults |
//!
//! An implementation owns its threads and pushes into a sink; no type of an event loop is part of the seam.
//! `tribes::testing` has a conformance suite that any implementation can run.

pub mod blocking;
pub(crate) mod duplicates;
pub mod memory;
pub mod tcp;
pub mod udp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::completion::Sending;
use crate::member::Member;
use crate::message::Message;
use crate::stack::{Inbound, Outbound, Probe, ProbeRequest, Reply};

/// Takes messages from the network and pushes them into a [`MessageSink`].
pub trait Receiver: Send {
    /// Listens and starts to push what comes in. Returns when it really listens.
    ///
    /// # Errors
    ///
    /// When no address could be bound.
    fn start(&mut self, sink: MessageSink) -> io::Result<Listening>;

    /// Closes everything and joins the threads; no message is pushed afterwards. Answers that listeners have already given are
    /// still written, as far as that does not block.
    fn stop(&mut self);

    /// What happened so far.
    fn stats(&self) -> ReceiverStats {
        ReceiverStats::default()
    }
}

/// Where a [`Receiver`] listens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Listening {
    /// The TCP address that members are told, unless the receiver has none.
    pub address: Option<SocketAddr>,
    /// The UDP port.
    pub udp_port: Option<u16>,
}

impl Listening {
    /// Listens at this TCP address.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self { address: Some(address), udp_port: None }
    }

    /// Listens at this UDP port.
    #[must_use]
    pub fn udp(port: u16) -> Self {
        Self { address: None, udp_port: Some(port) }
    }
}

/// Sends messages to members. Shared by all threads that send.
pub trait Sender: Send + Sync {
    /// Gets ready; opens no connection yet.
    ///
    /// # Errors
    ///
    /// When threads or pollers cannot be created.
    fn start(&self, sink: LinkSink) -> io::Result<()>;

    /// Sends a message to each of its legs, and settles each when the message's options are met or cannot be met any more.
    /// Does not block: what cannot be written now is queued within bounds. One destination never waits for another.
    fn transmit(&self, msg: Outbound);

    /// Called by a thread that is about to block for `sending`, whose message went to `peers`, with no lock held: it may do the
    /// writing and the reading itself until [`Sending::is_done`]. The default leaves everything to the sender's own threads.
    fn assist(&self, _peers: &[Member], _sending: &Sending) {}

    /// Finds out whether a member answers; `done` is called once, from any thread. Does not block.
    fn probe(&self, peer: &Member, request: ProbeRequest, done: ProbeDone);

    /// A member was added: a connection to it will be wanted soon, and one that is kept tells of its death by its end. May do
    /// nothing. Does not block.
    fn connect(&self, _peer: &Member) {}

    /// A member is gone: its connection closes; what is queued to it fails. Not called for a
    /// [placeholder](Member::is_placeholder) when whom it stood for is known: what is under way there arrives.
    fn disconnect(&self, peer: &Member);

    /// The periodic heartbeat of the channel: a chance to close what has been idle.
    fn heartbeat(&self) {}

    /// Writes and awaits what is queued, at most for `drain`, fails the rest with
    /// [`FaultCause::Stopped`](crate::FaultCause::Stopped), closes everything and joins the threads.
    fn stop(&self, drain: Duration);

    /// What happened so far.
    fn stats(&self) -> SenderStats {
        SenderStats::default()
    }
}

/// Gets the outcome of a probe.
pub type ProbeDone = Box<dyn FnOnce(Probe) + Send>;

/// Where a [`Receiver`] pushes what comes in. Cheap to clone.
#[derive(Clone)]
pub struct MessageSink(Arc<dyn MessageHandler>);

/// The owner of a receiver; the channel, or a test.
pub trait MessageHandler: Send + Sync {
    /// A message came in. Returns when it is handled, unless another thread is handling messages of the same sender: then it is
    /// queued behind them.
    fn message(&self, msg: Inbound);

    /// Messages that came in together, in order. Takes them all out of `batch`, whose memory the receiver uses again.
    fn messages(&self, batch: &mut Vec<Inbound>) {
        batch.drain(..).for_each(|msg| self.message(msg));
    }

    /// A connection from this member ended: a reason to verify that it is still there.
    fn disconnected(&self, member: &Member);
}

impl MessageSink {
    /// A sink that ends in `handler`.
    #[must_use]
    pub fn new(handler: Arc<dyn MessageHandler>) -> Self {
        Self(handler)
    }

    /// Pushes a message and the answer that its sender is owed. Listeners run on this thread before it returns, or the message
    /// is queued behind others of its sender. Messages of one connection must be pushed in the order they came.
    ///
    /// The receiver answers what asks for [`Acknowledgement::Received`](crate::Acknowledgement::Received) by itself, before it
    /// pushes; it gives a [`Reply`] only with what asks for `Processed`.
    pub fn push(&self, message: Message, reply: Reply) {
        self.0.message(Inbound::new(message, reply));
    }

    /// As [`push`](Self::push) for each message of `batch`, in order, at less cost: for messages that were read together. Takes them
    /// all out of `batch`.
    pub fn push_batch(&self, batch: &mut Vec<Inbound>) {
        self.0.messages(batch);
    }

    /// Tells that a connection from `member` ended.
    pub fn disconnected(&self, member: &Member) {
        self.0.disconnected(member);
    }
}

impl fmt::Debug for MessageSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageSink")
    }
}

/// Where a [`Sender`] reports. Cheap to clone.
#[derive(Clone)]
pub struct LinkSink(Arc<dyn Fn(&Member) + Send + Sync>);

impl LinkSink {
    /// A sink that calls `lost` when a connection to a member ends or a send to it fails.
    pub fn new(lost: impl Fn(&Member) + Send + Sync + 'static) -> Self {
        Self(Arc::new(lost))
    }

    /// The connection to `member` ended, or a send to it failed other than by its listener: a reason to verify that it is there.
    /// Must not be called with locks held.
    pub fn lost(&self, member: &Member) {
        (self.0)(member);
    }
}

impl fmt::Debug for LinkSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkSink")
    }
}

/// What a receiver has done since it started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ReceiverStats {
    /// Connections open now.
    pub connections: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused because there were too many, or closed for another before their first message.
    pub refused: u64,
    /// Messages received.
    pub messages: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Connections closed, or datagrams dropped, because their bytes were no frames or no messages.
    pub malformed: u64,
    /// Connections closed for a limit: memory for half-received messages, answers left unread, or silence.
    pub limited: u64,
}

/// What a sender has done since it started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SenderStats {
    /// Connections open now.
    pub connections: usize,
    /// Connections opened.
    pub connected: u64,
    /// Frames written, resends included.
    pub frames: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Frames written again after their connection was lost.
    pub resent: u64,
    /// Legs that failed.
    pub failed: u64,
    /// Messages queued or in flight now.
    pub pending: usize,
}
