//! The bytes of messages between engines.
//!
//! ```text
//! F5 'T' 'R' 's'   version   kind   context hash   body
//!       4             1        1         8
//! ```
//!
//! Numbers are big-endian, counts and lengths are varints (7 bits a byte, low bits first, at most ten bytes). What comes in is hostile until
//! it has passed here: a length is compared with what is left before anything is allocated, and bytes that are left over refuse the
//! whole. Values are copied out, each into an allocation of its own: one session that lives on must not keep a whole chunk alive.

mod read;
mod write;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use self::read::Reader;
use self::write::{entry_hint, kind_of, put_entry, size_hint, write};
use super::message::{Entry, Message};
use super::record::Name;
use crate::hash::Keyed;

/// What a session message begins with.
pub(crate) const MAGIC: [u8; 4] = crate::wire::SESSION_MAGIC;
/// The version of everything behind it.
const VERSION: u8 = 1;
/// Magic, version, kind and context.
pub(super) const HEADER: usize = 14;

/// The longest key, in bytes.
pub(crate) const MAX_KEY: usize = 1024;
/// Items of one list: the smallest ones take many times as much in memory as on the wire.
const MAX_ITEMS: usize = 1 << 20;
/// Attributes of one entry on the wire: as many as the sides of a partition can come to together.
const MAX_ATTRIBUTES: usize = 16 * super::change::MAX_ATTRIBUTES;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DecodeError {
    /// A kind that this version does not know, or a newer version.
    Unknown,
    /// Not what it claims to be.
    Malformed,
}

type Decoded<T> = Result<T, DecodeError>;

/// Names that have been met: entries share them.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Name, Keyed>);

/// Above this, names are no longer shared: somebody makes them up.
const MAX_NAMES: usize = 4096;
/// Longer names, in bytes, are never shared: what is shared stays for good.
const MAX_SHARED_NAME: usize = 256;

impl Names {
    pub(super) fn get(&mut self, name: &str) -> Name {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let name: Name = name.into();
        if self.0.len() < MAX_NAMES && name.len() <= MAX_SHARED_NAME {
            self.0.insert(Arc::clone(&name));
        }
        name
    }
}

/// Which parts of a record follow.
mod part {
    pub(super) const BIRTH: u8 = 1;
    pub(super) const DEATH: u8 = 2;
    pub(super) const LAPSED: u8 = 4;
    pub(super) const LEASE: u8 = 8;
    pub(super) const ATTRIBUTES: u8 = 16;
    pub(super) const BASE: u8 = 32;
    pub(super) const KEEP: u8 = 64;
    pub(super) const TOUCHED: u8 = 128;
}

/// What an attribute is, before its name.
mod form {
    /// It has a value.
    pub(super) const VALUE: u8 = 1;
    /// Its version is that of the attribute before it.
    pub(super) const SAME: u8 = 2;
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const PUT: u8 = 2;
    pub(super) const TOUCH: u8 = 3;
    pub(super) const FETCH: u8 = 4;
    pub(super) const FETCHED: u8 = 5;
    pub(super) const PULL: u8 = 6;
    pub(super) const CHUNK: u8 = 7;
    pub(super) const DIGESTS: u8 = 8;
    pub(super) const OFFER: u8 = 9;
    pub(super) const WANT: u8 = 10;
    pub(super) const REAP: u8 = 11;
    pub(super) const SPARE: u8 = 12;
    pub(super) const SWAP: u8 = 13;
    pub(super) const SWAPPED: u8 = 14;
}

pub(super) fn encode(context: u64, message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + size_hint(message));
    write_all(&mut out, context, message);
    out.freeze()
}

/// The memory that short messages share: it is used again when all of them are gone, as each is when the next is made while commits come
/// one by one.
const SHARED: usize = 16 * 1024;

/// As [`encode`], in what is left of `room` if the message is short: one of a kilobyte is more than malloc keeps at hand.
pub(super) fn encode_in(room: &mut BytesMut, context: u64, message: &Message) -> Bytes {
    let size = HEADER + size_hint(message);
    if size > SHARED / 4 {
        return encode(context, message);
    }
    if room.capacity() == 0 {
        *room = BytesMut::with_capacity(SHARED);
    }
    room.reserve(size);
    write_all(room, context, message);
    room.split().freeze()
}

fn write_all(out: &mut BytesMut, context: u64, message: &Message) {
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind_of(message));
    out.put_u64(context);
    write(out, message);
}

/// The version of a stored record, which is its first byte.
const STORED: u8 = 1;

/// An entry as it is put into a store: what another member would be sent, and when that was, in milliseconds since 1970.
pub(super) fn encode_stored(entry: &Entry, epoch_millis: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(9 + entry.key.len() + entry_hint(entry));
    out.put_u8(STORED);
    out.put_u64(epoch_millis);
    put_entry(&mut out, entry);
    out.freeze()
}

pub(super) fn decode_stored(names: &mut Names, stored: &[u8]) -> Decoded<(Entry, u64)> {
    let mut reader = Reader { rest: stored, names };
    if reader.u8()? != STORED {
        return Err(DecodeError::Unknown);
    }
    let epoch_millis = reader.u64()?;
    let entry = reader.entry()?;
    if reader.rest.is_empty() && entry.base.is_none() { Ok((entry, epoch_millis)) } else { Err(DecodeError::Malformed) }
}

pub(super) fn decode(names: &mut Names, context: u64, body: &[u8]) -> Decoded<Message> {
    let mut reader = Reader { rest: body, names };
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(DecodeError::Malformed);
    }
    if reader.u8()? != VERSION {
        return Err(DecodeError::Unknown);
    }
    let kind = reader.u8()?;
    if reader.u64()? != context {
        return Err(DecodeError::Malformed);
    }
    let message = reader.message(kind)?;
    if reader.rest.is_empty() { Ok(message) } else { Err(DecodeError::Malformed) }
}

#[cfg(test)]
pub(super) mod tests;
