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

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::message::{Chunk, Done, Entry, Found, Hello, Message, Offered, Phase, SwapOutcome, Touch, Want};
use super::record::{Attribute, Ends, Lease, Name, Record};
use super::seen::{MAX_WRITERS, Seen};
use super::table::{Key, SLOTS, SlotId};
use super::version::Version;

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
/// Attributes of one entry on the wire.
const MAX_ATTRIBUTES: usize = 8192;

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
pub(crate) struct Names(HashSet<Name>);

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
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind_of(message));
    out.put_u64(context);
    write(&mut out, message);
    out.freeze()
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

fn kind_of(message: &Message) -> u8 {
    match message {
        Message::Hello(_) => kind::HELLO,
        Message::Put(_) => kind::PUT,
        Message::Touch(_) => kind::TOUCH,
        Message::Fetch { .. } => kind::FETCH,
        Message::Fetched { .. } => kind::FETCHED,
        Message::Pull { .. } => kind::PULL,
        Message::Chunk(_) => kind::CHUNK,
        Message::Digests { .. } => kind::DIGESTS,
        Message::Offer { .. } => kind::OFFER,
        Message::Want { .. } => kind::WANT,
        Message::Reap { .. } => kind::REAP,
        Message::Spare { .. } => kind::SPARE,
        Message::Swap { .. } => kind::SWAP,
        Message::Swapped { .. } => kind::SWAPPED,
    }
}

/// At least what most messages take, so that they are written without growing.
fn size_hint(message: &Message) -> usize {
    let entries = |entries: &[Entry]| entries.iter().map(|entry| entry_hint(entry) + entry.key.len()).sum::<usize>();
    match message {
        Message::Put(list) => 8 + entries(list),
        Message::Chunk(chunk) => 64 + entries(&chunk.entries) + 12 * chunk.done.len(),
        Message::Fetched { answer: Found::Entry(entry), .. } => 64 + entry_hint(entry),
        Message::Offer { entries, .. } => 16 + entries.iter().map(|offered| offered.key.len() + 18).sum::<usize>(),
        Message::Digests { slots, .. } => 40 + slots.len() * 10,
        Message::Swap { name, value, .. } => 64 + name.len() + value.as_ref().map_or(0, Bytes::len),
        _ => 128,
    }
}

fn entry_hint(entry: &Entry) -> usize {
    let attributes = entry.record.attributes.iter();
    128 + attributes.map(|attribute| 24 + attribute.name.len() + attribute.value.as_ref().map_or(0, Bytes::len)).sum::<usize>()
}

fn write(out: &mut BytesMut, message: &Message) {
    match message {
        Message::Hello(hello) => {
            out.put_u8(phase_byte(hello.phase));
            out.put_u8(u8::from(hello.answer));
            out.put_u64(hello.epoch_millis);
            out.put_u32(hello.copies);
            out.put_u64(hello.life);
        }
        Message::Put(entries) => put_list(out, entries, put_entry),
        Message::Touch(touches) => put_list(out, touches, put_touch),
        Message::Fetch { request, key } => {
            put_varint(out, *request);
            put_bytes(out, key);
        }
        Message::Fetched { request, answer } => {
            put_varint(out, *request);
            match answer {
                Found::Entry(entry) => {
                    out.put_u8(0);
                    put_entry(out, entry);
                }
                Found::Absent => out.put_u8(1),
                Found::Unsure => out.put_u8(2),
            }
        }
        Message::Pull { request, slots, after, budget } => {
            put_varint(out, *request);
            put_list(out, slots, |out, slot| out.put_u16(*slot));
            put_option(out, after.as_deref(), put_bytes);
            out.put_u32(*budget);
        }
        Message::Chunk(chunk) => {
            put_varint(out, chunk.request);
            put_list(out, &chunk.entries, put_entry);
            put_list(out, &chunk.done, |out, done| {
                out.put_u16(done.slot);
                out.put_u64(done.digest);
                out.put_u8(u8::from(done.complete));
            });
            put_option(out, chunk.after.as_deref(), put_bytes);
        }
        Message::Digests { round, epoch_millis, root, slots } => {
            out.put_u32(*round);
            out.put_u64(*epoch_millis);
            out.put_u64(*root);
            put_list(out, slots, |out, (slot, digest)| {
                out.put_u16(*slot);
                out.put_u64(*digest);
            });
        }
        Message::Offer { offer, slot, entries } => {
            out.put_u32(*offer);
            out.put_u16(*slot);
            put_list(out, entries, |out, offered| {
                put_bytes(out, &offered.key);
                out.put_u64(offered.fingerprint);
                out.put_u64(offered.touched);
            });
        }
        Message::Want { offer, keys } => {
            out.put_u32(*offer);
            put_list(out, keys, |out, key| put_bytes(out, key));
        }
        Message::Reap { request, entries } => {
            put_varint(out, *request);
            put_list(out, entries, |out, (key, touched)| {
                put_bytes(out, key);
                out.put_u64(*touched);
            });
        }
        Message::Spare { request, entries } => {
            put_varint(out, *request);
            put_list(out, entries, put_touch);
        }
        Message::Swap { request, key, name, expected, value, confirm } => {
            put_varint(out, *request);
            put_bytes(out, key);
            put_bytes(out, name.as_bytes());
            put_version(out, *expected);
            put_option(out, value.as_deref(), put_bytes);
            match confirm {
                Want::None => out.put_u8(0),
                Want::Copies(copies) => {
                    out.put_u8(1);
                    out.put_u32(*copies);
                }
                Want::All => out.put_u8(2),
            }
        }
        Message::Swapped { request, outcome } => {
            put_varint(out, *request);
            put_outcome(out, outcome);
        }
    }
}

fn put_outcome(out: &mut BytesMut, outcome: &SwapOutcome) {
    let mut written = |tag, version: Version, confirmed: u32, wanted: u32| {
        out.put_u8(tag);
        put_version(out, version);
        out.put_u32(confirmed);
        out.put_u32(wanted);
    };
    match *outcome {
        SwapOutcome::Done { version, confirmed, wanted } => written(0, version, confirmed, wanted),
        SwapOutcome::Conflict { current } => {
            out.put_u8(1);
            put_version(out, current);
        }
        SwapOutcome::Absent => out.put_u8(2),
        SwapOutcome::NotOwner => out.put_u8(3),
        SwapOutcome::Unconfirmed { version, confirmed, wanted } => written(4, version, confirmed, wanted),
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

fn put_entry(out: &mut BytesMut, entry: &Entry) {
    put_bytes(out, &entry.key);
    let record = &*entry.record;
    let parts = [
        (part::BIRTH, !record.birth.is_zero()),
        (part::DEATH, !record.end.death.is_zero()),
        (part::LAPSED, record.end.lapsed != 0),
        (part::LEASE, record.lease != Lease::default()),
        (part::ATTRIBUTES, !record.attributes.is_empty()),
        (part::BASE, entry.base.is_some()),
        (part::KEEP, entry.keep != 0),
        (part::TOUCHED, record.touched != 0),
    ];
    out.put_u8(parts.iter().filter(|(_, there)| *there).fold(0, |flags, (flag, _)| flags | flag));
    if !record.birth.is_zero() {
        put_version(out, record.birth);
    }
    if !record.end.death.is_zero() {
        put_version(out, record.end.death);
    }
    if record.touched != 0 {
        out.put_u64(record.touched);
    }
    if record.end.lapsed != 0 {
        out.put_u64(record.end.lapsed);
    }
    if record.lease != Lease::default() {
        put_version(out, record.lease.version);
        put_varint(out, record.lease.millis);
    }
    put_seen(out, &record.seen);
    if let Some(base) = &entry.base {
        put_seen(out, base);
    }
    put_varint(out, entry.idle);
    if entry.keep != 0 {
        put_varint(out, entry.keep);
    }
    if record.attributes.is_empty() {
        return;
    }
    put_varint(out, record.attributes.len() as u64);
    let mut before = Version::ZERO;
    for Attribute { name, version, value } in &record.attributes {
        let same = *version == before;
        out.put_u8(if value.is_some() { form::VALUE } else { 0 } | if same { form::SAME } else { 0 });
        put_bytes(out, name.as_bytes());
        if !same {
            put_version(out, *version);
        }
        if let Some(value) = value {
            put_bytes(out, value);
        }
        before = *version;
    }
}

fn put_touch(out: &mut BytesMut, touch: &Touch) {
    put_bytes(out, &touch.key);
    out.put_u64(touch.touched);
    put_varint(out, touch.idle);
}

fn put_version(out: &mut BytesMut, version: Version) {
    out.put_u64(version.time);
    out.put_u64(version.node);
}

fn put_seen(out: &mut BytesMut, seen: &Seen) {
    put_list(out, seen.as_slice(), |out, version| put_version(out, *version));
}

fn put_list<T>(out: &mut BytesMut, list: &[T], put: impl Fn(&mut BytesMut, &T)) {
    put_varint(out, list.len() as u64);
    list.iter().for_each(|item| put(out, item));
}

fn put_option<T: ?Sized>(out: &mut BytesMut, option: Option<&T>, put: impl FnOnce(&mut BytesMut, &T)) {
    out.put_u8(u8::from(option.is_some()));
    if let Some(value) = option {
        put(out, value);
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

const fn phase_byte(phase: Phase) -> u8 {
    match phase {
        Phase::Joining => 0,
        Phase::Ready => 1,
        Phase::Leaving => 2,
    }
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

struct Reader<'a> {
    rest: &'a [u8],
    names: &'a mut Names,
}

impl<'a> Reader<'a> {
    fn message(&mut self, kind: u8) -> Decoded<Message> {
        Ok(match kind {
            kind::HELLO => Message::Hello(Hello {
                phase: self.phase()?,
                answer: self.bool()?,
                epoch_millis: self.u64()?,
                copies: self.u32()?,
                life: self.u64()?,
            }),
            kind::PUT => Message::Put(self.list(4, Self::entry)?),
            kind::TOUCH => Message::Touch(self.list(10, Self::touch)?),
            kind::FETCH => Message::Fetch { request: self.varint()?, key: self.key()? },
            kind::FETCHED => {
                let request = self.varint()?;
                let answer = match self.u8()? {
                    0 => Found::Entry(Box::new(self.entry()?)),
                    1 => Found::Absent,
                    2 => Found::Unsure,
                    _ => return Err(DecodeError::Malformed),
                };
                Message::Fetched { request, answer }
            }
            kind::PULL => Message::Pull {
                request: self.varint()?,
                slots: self.slots(2, Self::slot)?,
                after: self.option(Self::key)?,
                budget: self.u32()?,
            },
            kind::CHUNK => Message::Chunk(Chunk {
                request: self.varint()?,
                entries: self.list(4, Self::entry)?,
                done: self.slots(11, |r| Ok(Done { slot: r.slot()?, digest: r.u64()?, complete: r.bool()? }))?,
                after: self.option(Self::key)?,
            }),
            kind::DIGESTS => Message::Digests {
                round: self.u32()?,
                epoch_millis: self.u64()?,
                root: self.u64()?,
                slots: self.slots(10, |r| Ok((r.slot()?, r.u64()?)))?,
            },
            kind::OFFER => Message::Offer {
                offer: self.u32()?,
                slot: self.slot()?,
                entries: self.list(17, |r| Ok(Offered { key: r.key()?, fingerprint: r.u64()?, touched: r.u64()? }))?,
            },
            kind::WANT => Message::Want { offer: self.u32()?, keys: self.list(1, Self::key)? },
            kind::REAP => Message::Reap { request: self.varint()?, entries: self.list(9, |r| Ok((r.key()?, r.u64()?)))? },
            kind::SPARE => Message::Spare { request: self.varint()?, entries: self.list(10, Self::touch)? },
            kind::SWAP => Message::Swap {
                request: self.varint()?,
                key: self.key()?,
                name: self.name()?,
                expected: self.version()?,
                value: self.option(Self::value)?,
                confirm: match self.u8()? {
                    0 => Want::None,
                    1 => Want::Copies(self.u32()?),
                    2 => Want::All,
                    _ => return Err(DecodeError::Malformed),
                },
            },
            kind::SWAPPED => Message::Swapped { request: self.varint()?, outcome: self.outcome()? },
            _ => return Err(DecodeError::Unknown),
        })
    }

    fn outcome(&mut self) -> Decoded<SwapOutcome> {
        Ok(match self.u8()? {
            0 => SwapOutcome::Done { version: self.version()?, confirmed: self.u32()?, wanted: self.u32()? },
            1 => SwapOutcome::Conflict { current: self.version()? },
            2 => SwapOutcome::Absent,
            3 => SwapOutcome::NotOwner,
            4 => SwapOutcome::Unconfirmed { version: self.version()?, confirmed: self.u32()?, wanted: self.u32()? },
            _ => return Err(DecodeError::Malformed),
        })
    }

    fn entry(&mut self) -> Decoded<Entry> {
        let key = self.key()?;
        let parts = self.u8()?;
        let has = |part| parts & part != 0;
        let mut record = Record::default();
        if has(part::BIRTH) {
            record.birth = self.version()?;
        }
        let death = if has(part::DEATH) { self.version()? } else { Version::ZERO };
        if has(part::TOUCHED) {
            record.touched = self.u64()?;
        }
        record.end = Ends::of(death, if has(part::LAPSED) { self.u64()? } else { 0 });
        if has(part::LEASE) {
            record.lease = Lease { version: self.version()?, millis: self.varint()? };
        }
        record.seen = self.seen()?;
        let base = if has(part::BASE) { Some(self.seen()?) } else { None };
        let idle = self.varint()?;
        let keep = if has(part::KEEP) { self.varint()? } else { 0 };
        if has(part::ATTRIBUTES) {
            record.attributes = self.attributes()?.into();
        }
        Ok(Entry { key, record: Arc::new(record), base, idle, keep })
    }

    fn attributes(&mut self) -> Decoded<Vec<Attribute>> {
        let count = self.count(2)?;
        if count > MAX_ATTRIBUTES {
            return Err(DecodeError::Malformed);
        }
        let mut attributes: Vec<Attribute> = Vec::with_capacity(count);
        let mut version = Version::ZERO;
        for _ in 0..count {
            let form = self.u8()?;
            let name = self.name()?;
            if form & form::SAME == 0 {
                version = self.version()?;
            }
            let value = if form & form::VALUE == 0 { None } else { Some(self.value()?) };
            if form > form::VALUE | form::SAME || attributes.last().is_some_and(|before| before.name >= name) {
                return Err(DecodeError::Malformed);
            }
            attributes.push(Attribute { name, version, value });
        }
        Ok(attributes)
    }

    fn touch(&mut self) -> Decoded<Touch> {
        Ok(Touch { key: self.key()?, touched: self.u64()?, idle: self.varint()? })
    }

    fn seen(&mut self) -> Decoded<Seen> {
        let writers = self.list(16, Self::version)?;
        if writers.len() > MAX_WRITERS {
            return Err(DecodeError::Malformed);
        }
        Ok(Seen::collect(writers))
    }

    fn version(&mut self) -> Decoded<Version> {
        Ok(Version { time: self.u64()?, node: self.u64()? })
    }

    fn slot(&mut self) -> Decoded<SlotId> {
        let slot = u16::from_be_bytes(self.array()?);
        if slot < SLOTS { Ok(slot) } else { Err(DecodeError::Malformed) }
    }

    /// A list with an item for a slot: never more than there are.
    fn slots<T>(&mut self, least: usize, read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let list = self.list(least, read)?;
        if list.len() <= usize::from(SLOTS) { Ok(list) } else { Err(DecodeError::Malformed) }
    }

    fn phase(&mut self) -> Decoded<Phase> {
        match self.u8()? {
            0 => Ok(Phase::Joining),
            1 => Ok(Phase::Ready),
            2 => Ok(Phase::Leaving),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn key(&mut self) -> Decoded<Key> {
        let key = self.bytes()?;
        if key.len() <= MAX_KEY { Ok(key.into()) } else { Err(DecodeError::Malformed) }
    }

    fn name(&mut self) -> Decoded<Name> {
        let name = self.bytes()?;
        if name.len() > usize::from(u16::MAX) {
            return Err(DecodeError::Malformed);
        }
        std::str::from_utf8(name).map(|name| self.names.get(name)).map_err(|_| DecodeError::Malformed)
    }

    fn value(&mut self) -> Decoded<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Decoded<T>) -> Decoded<Option<T>> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A list whose items take at least so many bytes each.
    fn list<T>(&mut self, least: usize, mut read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let count = self.count(least)?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// A count of items that can be in what is left.
    fn count(&mut self, least: usize) -> Decoded<usize> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Malformed)?;
        if count > (self.rest.len() / least).min(MAX_ITEMS) { Err(DecodeError::Malformed) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Malformed)?;
        self.take(length)
    }

    fn bool(&mut self) -> Decoded<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn varint(&mut self) -> Decoded<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed)
    }

    fn u8(&mut self) -> Decoded<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Decoded<&'a [u8]> {
        if length > self.rest.remaining() {
            return Err(DecodeError::Malformed);
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
pub(super) mod tests;
