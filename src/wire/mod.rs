//! The bytes of Apache Tribes, as pure functions: no socket, no clock, no state but a [`FrameDecoder`]'s buffer.
//!
//! | module | bytes |
//! | --- | --- |
//! | [`member_package`] | who a member is: heartbeat, goodbye, and the sender inside every message |
//! | [`channel_data`] | one message: options, time, id, sender, body |
//! | [`frame`] | what stands around a message, or an acknowledgement, on a stream or in a datagram |
//!
//! What a peer sends is hostile until checked: every length is compared with what is there before anything is allocated.
//! `docs/WIRE.md` shows the bytes.

pub mod channel_data;
pub mod frame;
pub mod member_package;

#[cfg(test)]
mod tests;

pub use frame::{Frame, FrameDecoder};

use std::fmt;

/// What the body of a message between session contexts begins with; a version, a kind and the context's hash (`u64`, big-endian)
/// follow. A channel hands such messages to that context and never to listeners.
///
/// No body of another kind begins so: the first byte is in no UTF-8 text, Java's serialised objects begin with `AC ED`, and nothing that
/// Tribes itself sends has these bytes in front.
pub const SESSION_MAGIC: [u8; 4] = [0xF5, b'T', b'R', b's'];

/// Why bytes from the wire are not what they should be. The fault is the peer's, always.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes do not begin as they must.
    #[error("{0} does not begin as it must")]
    Begin(Part),
    /// The bytes do not end as they must.
    #[error("{0} does not end as it must")]
    End(Part),
    /// A length is negative or reaches beyond the bytes that are there.
    #[error("a length in {0} reaches beyond its bytes")]
    Length(Part),
    /// A frame announces more than the receiver accepts.
    #[error("a frame of {announced} bytes is above the limit of {limit}")]
    TooLarge {
        /// What the frame's header says, in bytes.
        announced: usize,
        /// What the receiver accepts, in bytes.
        limit: usize,
    },
    /// A member describes itself at a length that no Tribes node would.
    #[error("a Member package of {0} bytes is above the limit of {limit}", limit = member_package::MAX_LEN)]
    MemberTooLarge(usize),
    /// A host is neither 4 nor 16 bytes long.
    #[error("a member's host is {0} bytes long, not 4 or 16")]
    Host(usize),
    /// A port is not between −1 and 65535.
    #[error("a member's port is {0}")]
    Port(i32),
    /// A message id is not 16 bytes long.
    #[error("a message id is {0} bytes long, not 16")]
    MessageId(usize),
}

/// The part of the wire format that a [`WireError`] speaks of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// A Member package.
    Member,
    /// The message inside a frame.
    ChannelData,
    /// A frame.
    Frame,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Member => "a Member package",
            Self::ChannelData => "a message",
            Self::Frame => "a frame",
        })
    }
}

/// Takes fields off the front of bytes, each only when it is there.
struct Reader<'a> {
    bytes: &'a [u8],
    part: Part,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], part: Part) -> Self {
        Self { bytes, part }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or(WireError::Length(self.part))?;
        self.bytes = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length that is checked against what is left.
    fn length(&mut self) -> Result<usize, WireError> {
        let length = usize::try_from(self.i32()?).map_err(|_| WireError::Length(self.part))?;
        if length > self.bytes.len() { Err(WireError::Length(self.part)) } else { Ok(length) }
    }

    /// A length and as many bytes.
    fn block(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.length()?;
        self.take(length)
    }
}
