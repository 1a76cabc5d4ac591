//! The option word of a message: what the sender wants to know about its delivery.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::str::FromStr;

/// The send options of one message, with Tribes' numbers. Unknown bits are kept, as Tribes keeps them.
///
/// | options | a send returns when | a failed listener is seen |
/// | --- | --- | --- |
/// | none (0) | the frame is in the socket buffers | no |
/// | [`ACK`](Self::ACK) (2) | every destination has received it | no |
/// | [`SYNC_ACK`](Self::SYNC_ACK) (6) | every destination's listeners have handled it | yes |
/// | [`ASYNC`](Self::ASYNC) added (8, 10, 14) | it is queued; the handle completes as above | as above |
///
/// ```
/// use tribes::SendOptions;
/// let options: SendOptions = "use_ack, async".parse()?;
/// assert_eq!(options, SendOptions::ACK | SendOptions::ASYNC);
/// assert_eq!(options.bits(), 10);
/// assert_eq!("10".parse::<SendOptions>()?, options);
/// assert_eq!(options.to_string(), "async, use_ack");
/// # Ok::<(), tribes::ParseOptionsError>(())
/// ```
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct SendOptions(u32);

impl SendOptions {
    /// No acknowledgement: done when the frame is handed to the operating system. Loss after that is not seen.
    pub const NONE: Self = Self(0);
    /// The body is raw bytes, not a Java object stream. The channel sets it on every message it sends.
    pub const BYTE_MESSAGE: Self = Self(0x01);
    /// The bit `USE_ACK`: wait for the receiver's acknowledgement.
    pub const ACK: Self = Self(0x02);
    /// The bit `SYNCHRONIZED_ACK` alone; without [`ACK`](Self::ACK) it does nothing, as in Tribes.
    pub const SYNCHRONIZED: Self = Self(0x04);
    /// `USE_ACK | SYNCHRONIZED_ACK`: wait until the receiver's listeners have handled the message.
    pub const SYNC_ACK: Self = Self(0x06);
    /// Queue the message and return. Needs a [`MessageDispatch`](crate::interceptors::MessageDispatch) in the stack.
    pub const ASYNC: Self = Self(0x08);
    /// `SECURE`, which Tribes defines and nothing implements.
    pub const SECURE: Self = Self(0x10);
    /// Send as a UDP datagram to the member's UDP port.
    pub const UDP: Self = Self(0x20);
    /// Send as a multicast datagram to the whole group; the destinations are ignored and nothing is acknowledged.
    pub const MULTICAST: Self = Self(0x40);

    /// The options with these bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These options without the bits of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Which acknowledgement the receiver owes (options 0 and 4: none; 2: on receipt; 6: when processed).
    #[must_use]
    pub const fn acknowledgement(self) -> Acknowledgement {
        match self.0 & 6 {
            2 => Acknowledgement::Received,
            6 => Acknowledgement::Processed,
            _ => Acknowledgement::None,
        }
    }
}

/// When a receiver answers a message. Tribes behaviour: the two bits `USE_ACK` and `SYNCHRONIZED_ACK`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the wire of Tribes has these three and no room for a fourth")]
pub enum Acknowledgement {
    /// Never.
    None,
    /// As soon as the message is decoded, before anybody has handled it.
    Received,
    /// After the listeners returned: positive when all succeeded, negative when one failed.
    Processed,
}

impl BitOr for SendOptions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for SendOptions {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Tribes' names, from the high bit to the low; bits without a name are left out.
const NAMES: [(SendOptions, &str, &str); 7] = [
    (SendOptions::MULTICAST, "multicast", "multicast"),
    (SendOptions::UDP, "udp", "udp"),
    (SendOptions::SECURE, "secure", "secure"),
    (SendOptions::ASYNC, "async", "asynchronous"),
    (SendOptions::SYNCHRONIZED, "sync", "synchronized_ack"),
    (SendOptions::ACK, "use_ack", "ack"),
    (SendOptions::BYTE_MESSAGE, "byte", "byte_message"),
];

impl fmt::Display for SendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, name, _) in NAMES {
            if self.contains(bit) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendOptions({:#x})", self.0)
    }
}

/// A decimal number, or Tribes' names joined by commas; the empty text is 0.
impl FromStr for SendOptions {
    type Err = ParseOptionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(bits) = text.trim().parse() {
            return Ok(Self(bits));
        }
        let mut options = Self::NONE;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let known = NAMES.iter().find(|(_, short, long)| name.eq_ignore_ascii_case(short) || name.eq_ignore_ascii_case(long));
            match known {
                Some((bit, ..)) => options |= *bit,
                None => return Err(ParseOptionsError(name.to_owned())),
            }
        }
        Ok(options)
    }
}

/// A name in a list of send options is none of Tribes'.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown send option {0:?}; known are multicast, udp, secure, async, sync, use_ack, byte, or a number")]
pub struct ParseOptionsError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ack_rules_of_tribes() {
        let rule = |bits| SendOptions::from_bits(bits).acknowledgement();
        for bits in [0, 1, 4, 8, 12, 0x20] {
            assert_eq!(rule(bits), Acknowledgement::None, "{bits}");
        }
        for bits in [2, 3, 10] {
            assert_eq!(rule(bits), Acknowledgement::Received, "{bits}");
        }
        for bits in [6, 7, 14] {
            assert_eq!(rule(bits), Acknowledgement::Processed, "{bits}");
        }
    }

    #[test]
    fn names_are_parsed_and_printed_as_tribes_does() {
        assert_eq!("byte_message,use_ack,sync".parse(), Ok(SendOptions::from_bits(7)));
        assert_eq!("".parse(), Ok(SendOptions::NONE));
        assert!("use_ack,nonsense".parse::<SendOptions>().unwrap_err().to_string().contains("nonsense"));
        assert_eq!(SendOptions::from_bits(0x4f).to_string(), "multicast, async, sync, use_ack, byte");
    }
}
