//! What can be set on the multicast membership.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::membership::roster::RosterConfig;

/// Where and how often members tell each other that they are there. The defaults are those of Tribes.
///
/// ```
/// use std::net::Ipv4Addr;
/// use std::time::Duration;
/// use tribes::membership::multicast::MulticastConfig;
/// let config = MulticastConfig::default()
///     .group("228.0.0.4:45564".parse()?)
///     .interface(Ipv4Addr::LOCALHOST)
///     .drop_time(Duration::from_secs(5));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MulticastConfig {
    pub(super) group: SocketAddr,
    pub(super) frequency: Duration,
    pub(super) drop_time: Duration,
    pub(super) interface: Interface,
    pub(super) ttl: Option<u32>,
    pub(super) loopback: bool,
    pub(super) recovery: bool,
    pub(super) recovery_interval: Duration,
    pub(super) max_members: usize,
}

impl Default for MulticastConfig {
    fn default() -> Self {
        Self {
            group: SocketAddr::from(([228, 0, 0, 4], 45564)),
            frequency: Duration::from_millis(500),
            drop_time: Duration::from_secs(3),
            interface: Interface::Auto,
            ttl: None,
            loopback: true,
            recovery: true,
            recovery_interval: Duration::from_secs(5),
            max_members: 1024,
        }
    }
}

impl MulticastConfig {
    /// The multicast group and its port, IPv4 or IPv6. Default: 228.0.0.4:45564 (Tribes: `address`, `port`).
    ///
    /// An IPv6 group of link-local scope needs an interface: `[ff02::4%2]:45564`, or [`interface`](Self::interface).
    #[must_use]
    pub fn group(mut self, group: SocketAddr) -> Self {
        self.group = group;
        self
    }

    /// The time from one heartbeat to the next. Default: 500 ms (Tribes: `frequency`).
    #[must_use]
    pub fn frequency(mut self, frequency: Duration) -> Self {
        self.frequency = frequency;
        self
    }

    /// The silence after which a member has failed; longer than the frequency of every member. Default: 3 s (Tribes: `dropTime`).
    #[must_use]
    pub fn drop_time(mut self, drop_time: Duration) -> Self {
        self.drop_time = drop_time;
        self
    }

    /// The network interface of the group: an address or an index. Default: what the routing table says (Tribes: `bind`).
    #[must_use]
    pub fn interface(mut self, interface: impl Into<Interface>) -> Self {
        self.interface = interface.into();
        self
    }

    /// How many routers a heartbeat may cross. Default: as the operating system has it, which is 1 (Tribes: `ttl`).
    #[must_use]
    pub fn ttl(mut self, ttl: impl Into<Option<u32>>) -> Self {
        self.ttl = ttl.into();
        self
    }

    /// Whether members on the same machine hear this one. Default: yes (Tribes: `localLoopbackDisabled`, the other way round).
    #[must_use]
    pub fn loopback(mut self, loopback: bool) -> Self {
        self.loopback = loopback;
        self
    }

    /// Whether the group is joined anew after errors, and when nobody is heard for long. Default: yes (Tribes: `recoveryEnabled`).
    #[must_use]
    pub fn recovery(mut self, recovery: bool) -> Self {
        self.recovery = recovery;
        self
    }

    /// The longest time between two attempts to join the group anew. The first attempts come sooner. Default: 5 s (Tribes:
    /// `recoverySleepTime`). A node that has heard nobody for six times as long joins anew without an error as well.
    #[must_use]
    pub fn recovery_interval(mut self, interval: Duration) -> Self {
        self.recovery_interval = interval;
        self
    }

    /// How many members there may be; more are refused and counted, so that forged heartbeats cannot fill the memory.
    /// Default: 1024.
    #[must_use]
    pub fn max_members(mut self, members: usize) -> Self {
        self.max_members = members;
        self
    }

    pub(super) fn roster(&self) -> RosterConfig {
        let grace = self.frequency / 2;
        RosterConfig::default()
            .frequency(self.frequency)
            .drop_time(self.drop_time)
            .rejoin_grace(grace)
            .max_members(self.max_members)
    }

    pub(super) fn check(&self) -> io::Result<()> {
        let problem = if !self.group.ip().is_multicast() {
            format!("{} is not a multicast address: take one of 224.0.0.0/4 or ff00::/8", self.group.ip())
        } else if self.group.port() == 0 {
            "the multicast group needs a port, the same for all members".to_owned()
        } else if self.frequency.is_zero() {
            "the multicast frequency is zero".to_owned()
        } else if self.drop_time <= self.frequency {
            format!("a drop time of {:?} drops members between heartbeats every {:?}", self.drop_time, self.frequency)
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
    }
}

/// A network interface, as [`MulticastConfig::interface`] takes it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Interface {
    /// What the routing table says.
    #[default]
    Auto,
    /// The one with this address. IPv6 addresses are looked up on Linux only; elsewhere give the index.
    Address(IpAddr),
    /// The one with this index, as `ip link` numbers them; for IPv6 groups.
    Index(u32),
}

impl Interface {
    /// Whether only this machine can be on it, as far as one can tell.
    pub(super) fn is_loopback(self) -> Option<bool> {
        match self {
            Self::Address(address) => Some(address.is_loopback()),
            Self::Auto | Self::Index(_) => None,
        }
    }
}

impl From<IpAddr> for Interface {
    fn from(address: IpAddr) -> Self {
        if address.is_unspecified() { Self::Auto } else { Self::Address(address) }
    }
}

impl From<Ipv4Addr> for Interface {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::from(address).into()
    }
}

impl From<Ipv6Addr> for Interface {
    fn from(address: Ipv6Addr) -> Self {
        IpAddr::from(address).into()
    }
}
