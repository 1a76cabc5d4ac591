//! A member of the group.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Capabilities, UniqueId, placeholder_id};
use crate::wire;

/// One process of the group: where it listens, who it is, and what it tells about itself.
///
/// A member is immutable and cheap to clone; a change is a new value, made with the `with_` methods. Two members are equal when
/// host, TCP port and unique id are, as in Tribes: a process that restarts under its old address is another member.
///
/// ```
/// use tribes::Member;
/// let member = Member::new("10.0.0.7:4000".parse()?).with_domain("staging").with_payload("eu-1");
/// assert_eq!(member.address().port(), 4000);
/// assert_eq!(member, member.clone().with_payload("eu-2"));
/// assert_ne!(member, Member::new("10.0.0.7:4000".parse()?), "a new value has a new unique id");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone)]
pub struct Member(Arc<Inner>);

struct Inner {
    fields: Fields,
    /// The Member package, encoded once: it goes into every message of the local member.
    package: Bytes,
}

/// What a Member package says. Ports are as on the wire, but for −1, which is `None`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fields {
    /// Milliseconds since the member started. Advisory: a Tribes node may send 0, −1 or the time since 1970.
    pub(crate) alive: i64,
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    pub(crate) secure_port: Option<u16>,
    pub(crate) udp_port: Option<u16>,
    pub(crate) command: Bytes,
    pub(crate) domain: Bytes,
    pub(crate) id: UniqueId,
    pub(crate) payload: Bytes,
}

impl Member {
    /// The longest domain, payload and command together, in bytes: a heartbeat is one datagram.
    pub const MAX_TEXT: usize = 65_507 - wire::member_package::MIN_LEN - 16;

    /// A member at this TCP address, with a [new unique id](UniqueId::random) that claims nothing.
    ///
    /// So what is sent there keeps to the rules of Tribes, whoever listens: one acknowledged message at a time. A channel's own
    /// member and those it finds say themselves what they can do; for another that is known to be of this crate, add
    /// [`with_id`](Self::with_id) of [`UniqueId::for_member`].
    ///
    /// # Panics
    ///
    /// When the operating system has no source of randomness.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::bare(address, UniqueId::random())
    }

    /// Whoever is at this address.
    pub(crate) fn placeholder(address: SocketAddr) -> Self {
        Self::bare(address, placeholder_id(address))
    }

    fn bare(address: SocketAddr, id: UniqueId) -> Self {
        Self::from_fields(Fields {
            alive: 0,
            host: address.ip(),
            port: address.port(),
            secure_port: None,
            udp_port: None,
            command: Bytes::new(),
            domain: Bytes::new(),
            id,
            payload: Bytes::new(),
        })
    }

    pub(crate) fn from_fields(fields: Fields) -> Self {
        let package = wire::member_package::encode(&fields);
        Self(Arc::new(Inner { fields, package }))
    }

    /// Where the member receives messages over TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.0.fields.host, self.0.fields.port)
    }

    /// Where the member receives datagrams, if it does.
    #[must_use]
    pub fn udp_address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.0.fields.host, self.0.fields.udp_port?))
    }

    /// The port that a Tribes node advertises as secure. Nothing listens there in any version of Tribes.
    #[must_use]
    pub fn secure_port(&self) -> Option<u16> {
        self.0.fields.secure_port
    }

    /// The unique id, new at every boot.
    #[must_use]
    pub fn id(&self) -> UniqueId {
        self.0.fields.id
    }

    /// The domain, by which a domain filter tells groups on one multicast address apart.
    #[must_use]
    pub fn domain(&self) -> &Bytes {
        &self.0.fields.domain
    }

    /// What the member's application tells the group.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.0.fields.payload
    }

    /// Tribes' command field: empty, or the goodbye.
    #[must_use]
    pub fn command(&self) -> &Bytes {
        &self.0.fields.command
    }

    /// How long the member says it has been running, in milliseconds. Advisory: a Tribes node may send 0, −1 or the time since
    /// 1970.
    #[must_use]
    pub fn alive_millis(&self) -> i64 {
        self.0.fields.alive
    }

    /// Whether this package is the member's goodbye.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.fields.command == wire::member_package::GOODBYE
    }

    /// What the member can do beyond Tribes.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.id().capabilities()
    }

    /// Whether only the address of this member is known: its id is the address's
    /// [placeholder](crate::membership::static_members::placeholder_id), and stands for whoever is there.
    #[must_use]
    pub fn is_placeholder(&self) -> bool {
        // Nearly every other id is told apart by its first byte.
        self.id().as_bytes()[0] == 0 && self.id() == placeholder_id(self.address())
    }

    /// The encoded Member package.
    pub(crate) fn package(&self) -> &Bytes {
        &self.0.package
    }

    #[cfg(test)]
    pub(crate) fn fields(&self) -> &Fields {
        &self.0.fields
    }

    /// Whether both are the same value, not only the same member: everything but the alive time is compared.
    #[must_use]
    pub fn same_value(&self, other: &Self) -> bool {
        let (a, b) = (&self.0.fields, &other.0.fields);
        self == other
            && a.secure_port == b.secure_port
            && a.udp_port == b.udp_port
            && a.command == b.command
            && a.domain == b.domain
            && a.payload == b.payload
    }

    /// This member at another TCP address.
    #[must_use]
    pub fn with_address(&self, address: SocketAddr) -> Self {
        self.changed(|fields| (fields.host, fields.port) = (address.ip(), address.port()))
    }

    /// This member with another unique id.
    #[must_use]
    pub fn with_id(&self, id: UniqueId) -> Self {
        self.changed(|fields| fields.id = id)
    }

    /// This member with a UDP port, on the host of its TCP address.
    #[must_use]
    pub fn with_udp_port(&self, port: Option<u16>) -> Self {
        self.changed(|fields| fields.udp_port = port)
    }

    /// This member with an advertised secure port.
    #[must_use]
    pub fn with_secure_port(&self, port: Option<u16>) -> Self {
        self.changed(|fields| fields.secure_port = port)
    }

    /// This member in another domain.
    #[must_use]
    pub fn with_domain(&self, domain: impl Into<Bytes>) -> Self {
        self.changed(|fields| fields.domain = domain.into())
    }

    /// This member with another payload.
    #[must_use]
    pub fn with_payload(&self, payload: impl Into<Bytes>) -> Self {
        self.changed(|fields| fields.payload = payload.into())
    }

    /// This member with another alive time, in milliseconds.
    #[must_use]
    pub fn with_alive_millis(&self, alive: i64) -> Self {
        self.changed(|fields| fields.alive = alive)
    }

    /// This member as it says goodbye.
    #[must_use]
    pub fn leaving(&self) -> Self {
        self.changed(|fields| fields.command = Bytes::from_static(wire::member_package::GOODBYE))
    }

    fn changed(&self, change: impl FnOnce(&mut Fields)) -> Self {
        let mut fields = self.0.fields.clone();
        change(&mut fields);
        Self::from_fields(fields)
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.id() == other.id() && self.address() == other.address())
    }
}

impl Eq for Member {}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Member");
        out.field("address", &self.address()).field("id", &self.id());
        if let Some(port) = self.0.fields.udp_port {
            out.field("udp_port", &port);
        }
        for (name, text) in [("domain", self.domain()), ("payload", self.payload()), ("command", self.command())] {
            if !text.is_empty() {
                out.field(name, text);
            }
        }
        out.finish()
    }
}

/// As Tribes names it: `tcp://10.0.0.7:4000`.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}", self.address())
    }
}
