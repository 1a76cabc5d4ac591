//! Frames: what stands around a message or an acknowledgement on a stream or in a datagram.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Part, WireError, channel_data};
use crate::message::Message;

/// The first bytes of a frame.
pub const HEADER: &[u8; 7] = b"FLT2002";
/// The last bytes of a frame.
pub const FOOTER: &[u8; 7] = b"TLF2003";
/// The bytes around the data: header, length, footer.
pub const OVERHEAD: usize = 18;
/// The whole frame of a positive acknowledgement.
pub const ACK: &[u8; 21] = b"FLT2002\x00\x00\x00\x03\x06\x02\x03TLF2003";
/// The whole frame of a negative acknowledgement: a listener failed.
pub const FAIL_ACK: &[u8; 21] = b"FLT2002\x00\x00\x00\x03\x0b\x00\x05TLF2003";

const ACK_DATA: &[u8; 3] = b"\x06\x02\x03";
const FAIL_ACK_DATA: &[u8; 3] = b"\x0b\x00\x05";
/// The bytes before the data: header and length.
pub(crate) const HEAD: usize = HEADER.len() + 4;

/// What a frame holds.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Frame {
    /// A positive acknowledgement.
    Ack,
    /// A negative acknowledgement.
    FailAck,
    /// A message, still encoded: see [`channel_data::decode`].
    Data(Bytes),
}

/// The length of a message's whole frame, in bytes.
#[must_use]
pub fn encoded_len(message: &Message) -> usize {
    OVERHEAD + channel_data::encoded_len(message)
}

/// Writes everything of a message's frame that comes before the body; after the body comes [`FOOTER`].
pub(crate) fn put_head(message: &Message, out: &mut impl BufMut) {
    out.put_slice(HEADER);
    channel_data::put_len(out, channel_data::encoded_len(message));
    channel_data::put_head(message, out);
}

/// Writes a message's whole frame.
pub fn encode(message: &Message, out: &mut impl BufMut) {
    put_head(message, out);
    message.body().chunks().for_each(|chunk| out.put_slice(chunk));
    out.put_slice(FOOTER);
}

/// A message's whole frame in one piece of memory.
#[must_use]
pub fn to_bytes(message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_len(message));
    encode(message, &mut out);
    out.freeze()
}

/// The frames of one datagram, in order. Its end must be the end of a frame: what is cut short, too long or no frame at all is an
/// error, after which there is nothing more.
///
/// ```
/// use bytes::Bytes;
/// use tribes::wire::{frame, Frame};
/// let datagram = Bytes::from([&frame::ACK[..], frame::FAIL_ACK].concat());
/// let frames: Result<Vec<_>, _> = frame::in_datagram(datagram).collect();
/// assert_eq!(frames, Ok(vec![Frame::Ack, Frame::FailAck]));
/// assert!(frame::in_datagram(Bytes::from_static(b"junk")).next().unwrap().is_err());
/// ```
pub fn in_datagram(datagram: impl Into<BytesMut>) -> impl Iterator<Item = Result<Frame, WireError>> {
    let mut rest = datagram.into();
    let decoder = FrameDecoder::new(rest.len());
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let frame = decoder.next(&mut rest).and_then(|frame| frame.ok_or(WireError::Length(Part::Frame)));
        if frame.is_err() {
            rest.clear();
        }
        Some(frame)
    })
}

/// Cuts frames out of a stream of bytes, however it was split.
///
/// Bad framing is an error and the connection is to be closed: unlike Tribes, which waits for ever when junk or a wrong footer
/// precedes a frame, and buffers whatever length a header announces.
///
/// ```
/// use bytes::BytesMut;
/// use tribes::wire::{frame, Frame, FrameDecoder};
/// let decoder = FrameDecoder::new(1024);
/// let mut stream = BytesMut::from(&frame::ACK[..10]);
/// assert_eq!(decoder.next(&mut stream), Ok(None));
/// stream.extend_from_slice(&frame::ACK[10..]);
/// assert_eq!(decoder.next(&mut stream), Ok(Some(Frame::Ack)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    limit: usize,
}

impl FrameDecoder {
    /// A decoder that refuses frames whose data is longer than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit }
    }

    /// Takes the next whole frame off the front of `stream`; `None` when more bytes are needed, see [`wanted`](Self::wanted).
    /// The data shares the stream's memory.
    ///
    /// # Errors
    ///
    /// When what stands at the front can never become a frame that is accepted.
    pub fn next(&self, stream: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(length) = self.data_len(stream)? else { return Ok(None) };
        let Some(end) = stream.get(HEAD + length..OVERHEAD + length) else { return Ok(None) };
        if end != FOOTER {
            return Err(WireError::End(Part::Frame));
        }
        stream.advance(HEAD);
        let frame = match &stream[..length] {
            data if data == ACK_DATA => Frame::Ack,
            data if data == FAIL_ACK_DATA => Frame::FailAck,
            _ => {
                let data = stream.split_to(length).freeze();
                stream.advance(FOOTER.len());
                return Ok(Some(Frame::Data(data)));
            }
        };
        stream.advance(length + FOOTER.len());
        Ok(Some(frame))
    }

    /// How many bytes the frame at the front takes in all, once its header is there.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wanted(&self, stream: &[u8]) -> Result<Option<usize>, WireError> {
        Ok(self.data_len(stream)?.map(|length| length + OVERHEAD))
    }

    /// The data of the frame at the front, once the frame is whole; `None` when more bytes are needed. Takes nothing off the
    /// stream: the frame is [`OVERHEAD`] bytes longer than its data.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn peek<'a>(&self, stream: &'a [u8]) -> Result<Option<&'a [u8]>, WireError> {
        let Some(length) = self.data_len(stream)? else { return Ok(None) };
        match stream.get(HEAD + length..OVERHEAD + length) {
            None => Ok(None),
            Some(end) if end == FOOTER => Ok(Some(&stream[HEAD..HEAD + length])),
            Some(_) => Err(WireError::End(Part::Frame)),
        }
    }

    fn data_len(&self, stream: &[u8]) -> Result<Option<usize>, WireError> {
        let known = stream.len().min(HEADER.len());
        if stream[..known] != HEADER[..known] {
            return Err(WireError::Begin(Part::Frame));
        }
        let Some(length) = stream.get(HEADER.len()..HEAD) else { return Ok(None) };
        let length = i32::from_be_bytes(length.try_into().expect("the slice is four bytes long"));
        let length = usize::try_from(length).map_err(|_| WireError::Length(Part::Frame))?;
        if length > self.limit {
            return Err(WireError::TooLarge { announced: length, limit: self.limit });
        }
        Ok(Some(length))
    }
}
