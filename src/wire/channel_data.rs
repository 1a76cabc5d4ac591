//! ChannelData: one message as it stands inside a frame.

use bytes::{Buf, BufMut, Bytes};

use super::{Part, Reader, WireError, member_package};
use crate::id::UniqueId;
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;

/// The length of everything but the sender's package and the body.
const FIXED_LEN: usize = 40;

/// The length of a message as ChannelData, in bytes.
#[must_use]
pub fn encoded_len(message: &Message) -> usize {
    FIXED_LEN + message.sender().package().len() + message.body().len()
}

/// Writes everything of a message that comes before its body.
pub(crate) fn put_head(message: &Message, out: &mut impl BufMut) {
    out.put_u32(message.options().bits());
    out.put_u64(message.timestamp_millis());
    out.put_i32(16);
    out.put_slice(message.id().as_bytes());
    let package = message.sender().package();
    put_len(out, package.len());
    out.put_slice(package);
    put_len(out, message.body().len());
}

/// Writes a message as ChannelData.
pub fn encode(message: &Message, out: &mut impl BufMut) {
    put_head(message, out);
    message.body().chunks().for_each(|chunk| out.put_slice(chunk));
}

/// Decodes a message; its body shares the memory of `data`. Bytes after the body are ignored, as Tribes does.
///
/// `last_sender` is whoever sent the message before on the same connection: when the package is the same, as it nearly always is,
/// that value is cloned instead of decoding and allocating anew.
///
/// # Errors
///
/// When a length reaches beyond the data, the sender's package is invalid or missing, or the message id is not 16 bytes long.
pub fn decode(data: &Bytes, last_sender: Option<&Member>) -> Result<Message, WireError> {
    decode_with(data, last_sender, |body| data.slice_ref(body))
}

/// As [`decode`], but the body is a copy of its own: for a message in a buffer that is read into again, or that it must not keep
/// alive.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_copied(data: &[u8], last_sender: Option<&Member>) -> Result<Message, WireError> {
    decode_with(data, last_sender, Bytes::copy_from_slice)
}

fn decode_with(data: &[u8], last_sender: Option<&Member>, take: impl FnOnce(&[u8]) -> Bytes) -> Result<Message, WireError> {
    let mut reader = Reader::new(data, Part::ChannelData);
    let options = SendOptions::from_bits(u32::from_be_bytes(reader.array()?));
    let timestamp = u64::from_be_bytes(reader.array()?);
    let id = reader.block()?;
    let id = UniqueId::from_bytes(id.try_into().map_err(|_| WireError::MessageId(id.len()))?);
    let package = reader.block()?;
    let sender = match last_sender {
        Some(last) if last.package() == package => last.clone(),
        _ => member_package::decode(package)?,
    };
    let body = take(reader.block()?);
    Ok(Message::from_parts(id, options, timestamp, sender, Body::from(body)))
}

pub(crate) fn put_len(out: &mut impl BufMut, length: usize) {
    out.put_i32(i32::try_from(length).expect("a message is refused above 2 GiB before it is encoded"));
}

/// Copies a whole message into one piece of memory; for tests, tools and datagrams.
#[must_use]
pub fn to_bytes(message: &Message) -> Bytes {
    let mut out = bytes::BytesMut::with_capacity(encoded_len(message));
    encode(message, &mut out);
    out.copy_to_bytes(out.remaining())
}
