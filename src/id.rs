//! The 16-byte ids of members and messages.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// A 16-byte id: of a member (new at every boot) or of a message (new at every send).
///
/// To Tribes these bytes are opaque; its own are random UUIDs of version 4. A member of this crate carries a version-8 UUID
/// whose free bits say what it can do beyond Tribes, see [`Capabilities`].
///
/// ```
/// use tribes::UniqueId;
/// let id = UniqueId::from_bytes([0xab; 16]);
/// assert_eq!(id.to_string(), "abababababababababababababababab");
/// ```
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UniqueId([u8; 16]);

/// First two bytes of a Rust member's id. A Tribes id is a version-4 UUID, so it can never carry version 8 as well.
const MARKER: [u8; 2] = *b"Rt";
/// Version of what we add to the wire of Tribes; raised when a capability changes its meaning.
const PROTOCOL: u8 = 1;

impl UniqueId {
    /// The id made of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new id that says nothing: shaped as Tribes' own, a version-4 UUID from the system's random number generator.
    ///
    /// # Panics
    ///
    /// When the operating system has no source of randomness.
    ///
    /// ```
    /// use tribes::{Capabilities, UniqueId};
    /// assert_eq!(UniqueId::random().capabilities(), Capabilities::NONE);
    /// assert_ne!(UniqueId::random(), UniqueId::random());
    /// ```
    #[must_use]
    pub fn random() -> Self {
        let mut id = random_bytes();
        id[6] = 0x40 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        Self(id)
    }

    /// A new id for a member that can do this, from the system's random number generator. Others rely on what it says: it is for
    /// what is implemented by this crate, as a channel's local member is.
    ///
    /// # Panics
    ///
    /// When the operating system has no source of randomness.
    #[must_use]
    pub fn for_member(capabilities: Capabilities) -> Self {
        Self::from_random(capabilities, u128::from_be_bytes(random_bytes()))
    }

    /// The id of a member with these random bits.
    pub(crate) fn from_random(capabilities: Capabilities, random: u128) -> Self {
        let mut id = random.to_be_bytes();
        id[..2].copy_from_slice(&MARKER);
        id[2] = PROTOCOL;
        id[3] = capabilities.0;
        id[6] = 0x80 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        Self(id)
    }

    /// The bytes as they stand on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What the member with this id can do beyond Tribes; [`Capabilities::NONE`] for a Tribes node.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        let ours = self.0[..2] == MARKER && self.0[2] == PROTOCOL && self.0[6] >> 4 == 8 && self.0[8] >> 6 == 2;
        if ours { Capabilities(self.0[3]) } else { Capabilities::NONE }
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 32 lower-case hex digits.
impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a member can do beyond Tribes, told by the bits of its id: all the negotiation there is.
///
/// ```
/// use tribes::{Capabilities, UniqueId};
/// assert!(UniqueId::for_member(Capabilities::ALL).capabilities().contains(Capabilities::IN_ORDER_ACKS));
/// assert_eq!(UniqueId::from_bytes([7; 16]).capabilities(), Capabilities::NONE);
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capabilities(u8);

impl Capabilities {
    /// A plain Tribes node.
    pub const NONE: Self = Self(0);
    /// Handles the frames of one connection in order and acknowledges them in order, so that a sender may have many in flight.
    pub const IN_ORDER_ACKS: Self = Self(1);
    /// Recognises a frame that is sent again and answers it with the first outcome, without handing it up twice.
    pub const DUPLICATE_FILTER: Self = Self(2);
    /// Everything this version can do.
    pub const ALL: Self = Self(3);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The id of a member of which only the address is known; see [`Member::is_placeholder`](crate::Member::is_placeholder). The same on
/// every node, and without capabilities.
#[must_use]
pub fn placeholder_id(address: SocketAddr) -> UniqueId {
    let host = match address.ip() {
        IpAddr::V4(host) => host.to_ipv6_mapped(),
        IpAddr::V6(host) => host,
    };
    let host = u128::from(host);
    let seed = mix(u64::from(address.port()));
    let low = mix(seed ^ mix(host as u64));
    let high = mix(low ^ mix((host >> 64) as u64));
    let mut id = [0; 16];
    id[..8].copy_from_slice(&high.to_be_bytes());
    id[8..].copy_from_slice(&low.to_be_bytes());
    // A UUID of version 8 like our own, but without their marker: whoever has this id is not known to be one of ours.
    id[0] = 0;
    id[6] = 0x80 | (id[6] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    UniqueId(id)
}

/// Makes message ids: unique, cheap, and shaped as version-4 UUIDs as Tribes' own. Not secret: the key is random, the rest counts.
#[derive(Debug)]
pub(crate) struct MessageIds {
    key: [u64; 2],
    next: AtomicU64,
}

impl MessageIds {
    pub(crate) fn new() -> Self {
        let bytes = random_bytes();
        let (high, low) = bytes.split_at(8);
        Self {
            key: [high, low].map(|half| half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))),
            next: AtomicU64::new(0),
        }
    }

    pub(crate) fn next(&self) -> UniqueId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        // The first half is a bijection of the counter, so two ids of one channel never meet; the second adds 62 bits of key.
        id[..8].copy_from_slice(&mix(count ^ self.key[0]).to_be_bytes());
        id[8..].copy_from_slice(&mix(count ^ self.key[1]).to_be_bytes());
        // The nibble that the version takes from the first half moves into the second, where it costs key bits only.
        id[9] = (id[9] & 0xf0) | (id[6] >> 4);
        id[6] = 0x40 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        UniqueId(id)
    }
}

/// The finaliser of splitmix64: a bijection whose output bits depend on all input bits.
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// 16 bytes of the system's random number generator.
pub(crate) fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has a source of randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn message_ids_are_unique_version_4() {
        let ids = MessageIds::new();
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let id = ids.next();
            assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (4, 2));
            assert!(seen.insert(id), "{id} came twice");
        }
    }

    #[test]
    fn a_placeholder_is_the_address_and_promises_nothing() {
        let address = |host, port| SocketAddr::from(([10, 0, 0, host], port));
        let mut ids: HashSet<_> = (0..=u8::MAX).map(|host| placeholder_id(address(host, 4000))).collect();
        ids.insert(placeholder_id(address(1, 4001)));
        assert_eq!(ids.len(), 257);
        assert!(ids.iter().all(|id| id.capabilities() == Capabilities::NONE));
        // Every node must derive the same one, also a node of another version.
        assert_eq!(placeholder_id(address(1, 4000)).to_string(), "00721cc54a1f89168f32279428c0d7e2");
    }

    #[test]
    fn a_version_4_id_has_no_capabilities() {
        let mut id = *UniqueId::for_member(Capabilities::ALL).as_bytes();
        assert_eq!(UniqueId(id).capabilities(), Capabilities::ALL);
        id[6] = 0x40 | (id[6] & 0x0f);
        assert_eq!(UniqueId(id).capabilities(), Capabilities::NONE);
    }
}
