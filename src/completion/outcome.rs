//! What became of a send.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::id::UniqueId;
use crate::member::Member;

/// A send that reached every destination, as far as its options ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's id.
    pub id: UniqueId,
    /// How many destinations it went to.
    pub delivered: usize,
}

/// A send that did not reach every destination. Those that are not listed were reached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SendError {
    /// The message's id.
    pub id: UniqueId,
    /// How many destinations the message had.
    pub destinations: usize,
    /// Each destination that was not reached, once, with the cause.
    pub faults: Vec<Fault>,
    /// The body, when the message was handed back because a queue was full.
    pub returned: Option<Bytes>,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} destinations not reached", self.faults.len(), self.destinations)?;
        let mut separator = ": ";
        for Fault { member, cause } in &self.faults {
            write!(f, "{separator}{member} {cause}")?;
            separator = "; ";
        }
        Ok(())
    }
}

impl std::error::Error for SendError {}

/// A destination that was not reached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// The destination.
    pub member: Member,
    /// Why.
    pub cause: FaultCause,
}

/// Why a destination was not reached.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultCause {
    /// No connection could be opened, in all attempts.
    #[error("could not be connected to: {0}")]
    Connect(io::ErrorKind),
    /// The connection ended before the outcome was known, in all attempts. The message may have arrived.
    #[error("lost its connection: {0}")]
    Connection(io::ErrorKind),
    /// No acknowledgement came in time. The message may have arrived.
    #[error("did not answer within {0:?}")]
    Timeout(Duration),
    /// The receiver's listener failed: a negative acknowledgement.
    #[error("received the message, but its listener failed")]
    Rejected,
    /// The queue to this destination is full.
    #[error("has a full queue")]
    QueueFull,
    /// The message is larger than the transport takes.
    #[error("cannot take {size} bytes, the limit is {limit}")]
    TooLarge {
        /// The size of the body or datagram, in bytes.
        size: usize,
        /// What the transport takes, in bytes.
        limit: usize,
    },
    /// A datagram was asked for, and the member has no UDP port or this channel no UDP transport: both channels need one, see
    /// [`ChannelBuilder::udp`](crate::ChannelBuilder::udp).
    #[error("cannot be reached by UDP, which both channels need, see ChannelBuilder::udp")]
    NoUdp,
    /// The transport does not know a way to such a member.
    #[error("cannot be reached by this transport")]
    Unreachable,
    /// The channel is stopped, or was before the message was sent.
    #[error("was not sent to: the channel is stopped")]
    Stopped,
    /// Something between the sender and the transport lost the message; a bug of an interceptor or a transport.
    #[error("was not sent to: the message was dropped on its way")]
    Dropped,
    /// An interceptor refused to send the message.
    #[error("was not sent to: {0}")]
    Refused(&'static str),
}
