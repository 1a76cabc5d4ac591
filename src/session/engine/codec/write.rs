//! Messages into bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::message::{Entry, Found, Message, Phase, SwapOutcome, Touch, Want};
use super::super::record::{Attribute, Lease};
use super::super::seen::Seen;
use super::super::version::Version;
use super::{form, kind, part};
use crate::id::UniqueId;

pub(super) fn kind_of(message: &Message) -> u8 {
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
pub(super) fn size_hint(message: &Message) -> usize {
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

pub(super) fn entry_hint(entry: &Entry) -> usize {
    let attributes = entry.record.attributes.iter();
    128 + attributes.map(|attribute| 24 + attribute.name.len() + attribute.value.as_ref().map_or(0, Bytes::len)).sum::<usize>()
}

pub(super) fn write(out: &mut BytesMut, message: &Message) {
    match message {
        Message::Hello(hello) => {
            out.put_u8(phase_byte(hello.phase));
            out.put_u8(u8::from(hello.answer));
            out.put_u64(hello.epoch_millis);
            out.put_u32(hello.copies);
            out.put_u64(hello.life);
            out.put_u32(hello.others);
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
                Found::Unreadable => out.put_u8(3),
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
                Want::AtLeast(copies) => {
                    out.put_u8(3);
                    out.put_u32(*copies);
                }
            }
        }
        Message::Swapped { request, outcome } => {
            put_varint(out, *request);
            put_outcome(out, outcome);
        }
    }
}

fn put_outcome(out: &mut BytesMut, outcome: &SwapOutcome) {
    let mut written = |tag, version: Version, confirmed: &[UniqueId], wanted: u32| {
        out.put_u8(tag);
        put_version(out, version);
        put_list(out, confirmed, |out, id| out.put_slice(id.as_bytes()));
        out.put_u32(wanted);
    };
    match outcome {
        SwapOutcome::Done { version, confirmed, wanted } => written(0, *version, confirmed, *wanted),
        SwapOutcome::Conflict { current } => {
            out.put_u8(1);
            put_version(out, *current);
        }
        SwapOutcome::Absent => out.put_u8(2),
        SwapOutcome::NotOwner => out.put_u8(3),
        SwapOutcome::Unconfirmed { version, confirmed, wanted } => written(4, *version, confirmed, *wanted),
    }
}

pub(super) fn put_entry(out: &mut BytesMut, entry: &Entry) {
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

pub(super) fn put_varint(out: &mut BytesMut, mut number: u64) {
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
