//! Bytes into messages, once they have passed every check.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::super::attributes::Attributes;
use super::super::message::{Chunk, Done, Entry, Found, Hello, Message, Offered, Phase, SwapOutcome, Touch, Want};
use super::super::record::{Attribute, Ends, Lease, Name, Record};
use super::super::seen::{MAX_WRITERS, Seen};
use super::super::table::{Key, SLOTS, SlotId};
use super::super::version::Version;
use super::{DecodeError, Decoded, MAX_ATTRIBUTES, MAX_ITEMS, MAX_KEY, Names, form, kind, part};
use crate::few::Few;
use crate::id::UniqueId;

pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
    pub(super) names: &'a mut Names,
}

impl<'a> Reader<'a> {
    pub(super) fn message(&mut self, kind: u8) -> Decoded<Message> {
        Ok(match kind {
            kind::HELLO => Message::Hello(Hello {
                phase: self.phase()?,
                answer: self.bool()?,
                epoch_millis: self.u64()?,
                copies: self.u32()?,
                life: self.u64()?,
                others: self.u32()?,
            }),
            kind::PUT => Message::Put(self.few(4, Self::entry)?),
            kind::TOUCH => Message::Touch(self.list(10, Self::touch)?),
            kind::FETCH => Message::Fetch { request: self.varint()?, key: self.key()? },
            kind::FETCHED => {
                let request = self.varint()?;
                let answer = match self.u8()? {
                    0 => Found::Entry(Box::new(self.entry()?)),
                    1 => Found::Absent,
                    2 => Found::Unsure,
                    3 => Found::Unreadable,
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
                    3 => Want::AtLeast(self.u32()?),
                    _ => return Err(DecodeError::Malformed),
                },
            },
            kind::SWAPPED => Message::Swapped { request: self.varint()?, outcome: self.outcome()? },
            _ => return Err(DecodeError::Unknown),
        })
    }

    fn outcome(&mut self) -> Decoded<SwapOutcome> {
        Ok(match self.u8()? {
            0 => SwapOutcome::Done { version: self.version()?, confirmed: self.list(16, Self::id)?, wanted: self.u32()? },
            1 => SwapOutcome::Conflict { current: self.version()? },
            2 => SwapOutcome::Absent,
            3 => SwapOutcome::NotOwner,
            4 => SwapOutcome::Unconfirmed { version: self.version()?, confirmed: self.list(16, Self::id)?, wanted: self.u32()? },
            _ => return Err(DecodeError::Malformed),
        })
    }

    pub(super) fn entry(&mut self) -> Decoded<Entry> {
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
            record.attributes = self.attributes()?;
        }
        Ok(Entry { key, record: Arc::new(record), base, idle, keep })
    }

    fn attributes(&mut self) -> Decoded<Attributes> {
        let count = self.count(2)?;
        if count > MAX_ATTRIBUTES {
            return Err(DecodeError::Malformed);
        }
        if count == 1 {
            // What most changes bring needs no list.
            return self.attribute(None).map(Attributes::one);
        }
        let mut attributes: Vec<Attribute> = Vec::with_capacity(count);
        for _ in 0..count {
            let next = self.attribute(attributes.last())?;
            attributes.push(next);
        }
        Ok(attributes.into())
    }

    /// An attribute that comes behind `before`.
    fn attribute(&mut self, before: Option<&Attribute>) -> Decoded<Attribute> {
        let form = self.u8()?;
        let name = self.name()?;
        let version =
            if form & form::SAME == 0 { self.version()? } else { before.map_or(Version::ZERO, |before| before.version) };
        let value = if form & form::VALUE == 0 { None } else { Some(self.value()?) };
        if form > form::VALUE | form::SAME || before.is_some_and(|before| before.name >= name) {
            return Err(DecodeError::Malformed);
        }
        Ok(Attribute { name, version, value })
    }

    fn touch(&mut self) -> Decoded<Touch> {
        Ok(Touch { key: self.key()?, touched: self.u64()?, idle: self.varint()? })
    }

    fn seen(&mut self) -> Decoded<Seen> {
        match self.count(16)? {
            0 => Ok(Seen::default()),
            1 => self.version().map(Seen::one),
            count @ 2..=MAX_WRITERS => {
                let writers: Decoded<Vec<_>> = (0..count).map(|_| self.version()).collect();
                writers.map(Seen::collect)
            }
            _ => Err(DecodeError::Malformed),
        }
    }

    fn version(&mut self) -> Decoded<Version> {
        Ok(Version { time: self.u64()?, node: self.u64()? })
    }

    fn id(&mut self) -> Decoded<UniqueId> {
        self.array().map(UniqueId::from_bytes)
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

    /// As [`list`](Self::list), of what is nearly always one.
    fn few<T>(&mut self, least: usize, mut read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Few<T>> {
        match self.count(least)? {
            1 => read(self).map(Few::One),
            count => self.items(count, read).map(Few::Many),
        }
    }

    /// A list whose items take at least so many bytes each.
    fn list<T>(&mut self, least: usize, read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let count = self.count(least)?;
        self.items(count, read)
    }

    /// So many items, for which there are enough bytes.
    fn items<T>(&mut self, count: usize, mut read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
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

    pub(super) fn u8(&mut self) -> Decoded<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Malformed)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn take(&mut self, length: usize) -> Decoded<&'a [u8]> {
        if length > self.rest.remaining() {
            return Err(DecodeError::Malformed);
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }
}
