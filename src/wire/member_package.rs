//! The Member package: a heartbeat, a goodbye, and the sender's address inside every message.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Part, Reader, WireError};
use crate::id::UniqueId;
use crate::member::{Fields, Member};

/// `TRIBES-B` and two bytes that Tribes only ever compares.
pub const BEGIN: &[u8; 10] = b"TRIBES-B\x01\x00";
/// `TRIBES-E` and the same two bytes.
pub const END: &[u8; 10] = b"TRIBES-E\x01\x00";
/// The command of a member that leaves. Tribes calls it `SHUTDOWN_PAYLOAD`, and yet it travels as the command.
pub const GOODBYE: &[u8] = b"BABY-ALEX";
/// The length of a package without host, command, domain and payload.
pub const MIN_LEN: usize = 73;

/// The longest package, in bytes, that is accepted. Tribes refuses to make a longer one; here it bounds what a peer can make every
/// member that knows it remember.
pub const MAX_LEN: usize = 65_535;

/// Where the alive time stands in a package.
const ALIVE_AT: usize = 14;
/// The bytes that a package's length does not count: begin, the length itself, end.
const AROUND: usize = 24;

pub(crate) fn encode(member: &Fields) -> Bytes {
    let texts = member.command.len() + member.domain.len() + member.payload.len();
    let host_len = if member.host.is_ipv4() { 4 } else { 16 };
    let mut out = BytesMut::with_capacity(MIN_LEN + host_len + texts);
    out.put_slice(BEGIN);
    put_len(&mut out, MIN_LEN + host_len + texts - AROUND);
    out.put_i64(member.alive);
    out.put_i32(i32::from(member.port));
    for port in [member.secure_port, member.udp_port] {
        out.put_i32(port.map_or(-1, i32::from));
    }
    match member.host {
        IpAddr::V4(host) => {
            out.put_u8(4);
            out.put_slice(&host.octets());
        }
        IpAddr::V6(host) => {
            out.put_u8(16);
            out.put_slice(&host.octets());
        }
    }
    for text in [&member.command, &member.domain] {
        put_len(&mut out, text.len());
        out.put_slice(text);
    }
    out.put_slice(member.id.as_bytes());
    put_len(&mut out, member.payload.len());
    out.put_slice(&member.payload);
    out.put_slice(END);
    out.freeze()
}

/// Encodes a member as it stands in a heartbeat.
///
/// ```
/// use tribes::{Member, wire::member_package};
/// let member = Member::new("127.0.0.1:4000".parse().unwrap());
/// let package = member_package::package(&member);
/// assert_eq!(package.len(), 77);
/// assert_eq!(member_package::decode(&package), Ok(member));
/// ```
#[must_use]
pub fn package(member: &Member) -> Bytes {
    member.package().clone()
}

/// The package of `member` with another alive time, in milliseconds: what a heartbeat sends.
#[must_use]
pub fn heartbeat(member: &Member, alive: i64) -> Bytes {
    let mut out = BytesMut::from(&member.package()[..]);
    out[ALIVE_AT..ALIVE_AT + 8].copy_from_slice(&alive.to_be_bytes());
    out.freeze()
}

/// Whether a datagram is a membership packet; anything else is a broadcast message. Tribes behaviour: the first 10 bytes decide.
#[must_use]
pub fn is_package(datagram: &[u8]) -> bool {
    datagram.starts_with(BEGIN)
}

/// Decodes the package at the front of `bytes`; what follows it is ignored, as Tribes does.
///
/// # Errors
///
/// When the bytes are not a package: begin, end, a length, the host or a port is wrong.
pub fn decode(bytes: &[u8]) -> Result<Member, WireError> {
    let mut outer = Reader::new(bytes, Part::Member);
    if outer.take(BEGIN.len()).map_err(|_| WireError::Begin(Part::Member))? != BEGIN {
        return Err(WireError::Begin(Part::Member));
    }
    let body = outer.block()?;
    if body.len() > MAX_LEN - AROUND {
        return Err(WireError::MemberTooLarge(body.len() + AROUND));
    }
    let mut body = Reader::new(body, Part::Member);
    if outer.take(END.len()).map_err(|_| WireError::End(Part::Member))? != END {
        return Err(WireError::End(Part::Member));
    }
    let alive = body.i64()?;
    let port = port(body.i32()?)?.unwrap_or(0);
    let secure_port = self::port(body.i32()?)?;
    let udp_port = self::port(body.i32()?)?;
    let [host_len] = body.array()?;
    let host = match host_len {
        4 => IpAddr::from(body.array::<4>()?),
        16 => IpAddr::from(body.array::<16>()?),
        other => return Err(WireError::Host(usize::from(other))),
    };
    let command = Bytes::copy_from_slice(body.block()?);
    let domain = Bytes::copy_from_slice(body.block()?);
    let id = UniqueId::from_bytes(body.array()?);
    let payload = Bytes::copy_from_slice(body.block()?);
    Ok(Member::from_fields(Fields { alive, host, port, secure_port, udp_port, command, domain, id, payload }))
}

/// A port as it stands on the wire: −1 is none.
pub(crate) fn port(port: i32) -> Result<Option<u16>, WireError> {
    match port {
        -1 => Ok(None),
        _ => u16::try_from(port).map(Some).map_err(|_| WireError::Port(port)),
    }
}

fn put_len(out: &mut BytesMut, length: usize) {
    out.put_i32(i32::try_from(length).expect("a member's texts are bounded by Member::MAX_TEXT"));
}
