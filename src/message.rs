//! A message and its body.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::id::UniqueId;
use crate::member::Member;
use crate::options::SendOptions;

/// One message: who sent it, when, how, and its bytes. What an interceptor sees and a listener gets.
#[derive(Clone, Debug)]
pub struct Message {
    id: UniqueId,
    options: SendOptions,
    timestamp: u64,
    sender: Member,
    body: Body,
}

impl Message {
    /// The largest body, in bytes, that any transport takes: lengths on the wire are signed 32-bit numbers.
    pub const MAX_BODY: usize = (i32::MAX as usize) - 128 * 1024;

    /// Puts a message together, as a transport or a test does. [`GroupChannel::send`](crate::GroupChannel::send) does it for a user.
    /// `timestamp` is in milliseconds since 1970.
    #[must_use]
    pub fn from_parts(id: UniqueId, options: SendOptions, timestamp: u64, sender: Member, body: Body) -> Self {
        Self { id, options, timestamp, sender, body }
    }

    /// The unique id; a message that is sent again keeps it.
    #[must_use]
    pub fn id(&self) -> UniqueId {
        self.id
    }

    /// The options as they stand on the wire, private bits of interceptors included.
    #[must_use]
    pub fn options(&self) -> SendOptions {
        self.options
    }

    /// When it was sent, by the sender's clock, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_millis(&self) -> u64 {
        self.timestamp
    }

    /// Who sent it, as it describes itself inside the message.
    #[must_use]
    pub fn sender(&self) -> &Member {
        &self.sender
    }

    /// The bytes.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The bytes, to be changed by an interceptor.
    pub fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    /// Sets the options, as an interceptor does that marks what it has done.
    pub fn set_options(&mut self, options: SendOptions) {
        self.options = options;
    }

    /// The bytes in one piece; copies only when interceptors left them in several.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.body.to_bytes()
    }
}

/// The bytes of a message: a short rope, so that an interceptor can add or take a trailer without copying the rest.
///
/// ```
/// use tribes::Body;
/// let mut body = Body::from("abcd");
/// body.push_back("\x01");
/// assert_eq!(body.len(), 5);
/// assert_eq!(body.pop_back(1).unwrap(), "\x01");
/// assert_eq!(body.to_bytes(), "abcd");
/// assert_eq!(body.pop_back(5), None, "nothing is taken when too little is there");
/// ```
#[derive(Clone)]
pub struct Body(Rope);

#[derive(Clone)]
enum Rope {
    /// Nearly every body.
    One(Bytes),
    /// Never empty pieces.
    Many(Vec<Bytes>),
}

impl Body {
    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces().iter().all(Bytes::is_empty)
    }

    /// The pieces, in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.pieces().iter()
    }

    /// All bytes in one piece; shares memory when there is only one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Rope::One(bytes) => bytes.clone(),
            Rope::Many(pieces) => {
                let mut all = BytesMut::with_capacity(self.len());
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        }
    }

    /// Adds bytes behind the last.
    pub fn push_back(&mut self, bytes: impl Into<Bytes>) {
        self.insert(bytes.into(), |pieces, bytes| pieces.push(bytes));
    }

    /// Adds bytes before the first.
    pub fn push_front(&mut self, bytes: impl Into<Bytes>) {
        self.insert(bytes.into(), |pieces, bytes| pieces.insert(0, bytes));
    }

    /// Takes the last `count` bytes off, or nothing when there are fewer.
    pub fn pop_back(&mut self, count: usize) -> Option<Bytes> {
        if let Rope::One(bytes) = &mut self.0 {
            let keep = bytes.len().checked_sub(count)?;
            return Some(bytes.split_off(keep));
        }
        let keep = self.len().checked_sub(count)?;
        let mut all = self.to_bytes();
        let tail = all.split_off(keep);
        self.0 = Rope::One(all);
        Some(tail)
    }

    /// Takes the first `count` bytes off, or nothing when there are fewer.
    pub fn pop_front(&mut self, count: usize) -> Option<Bytes> {
        if count > self.len() {
            return None;
        }
        let mut all = self.to_bytes();
        let head = all.split_to(count);
        self.0 = Rope::One(all);
        Some(head)
    }

    fn pieces(&self) -> &[Bytes] {
        match &self.0 {
            Rope::One(bytes) => std::slice::from_ref(bytes),
            Rope::Many(pieces) => pieces,
        }
    }

    fn insert(&mut self, bytes: Bytes, place: impl FnOnce(&mut Vec<Bytes>, Bytes)) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.0 {
            Rope::One(one) if one.is_empty() => *one = bytes,
            Rope::One(one) => {
                let mut pieces = vec![std::mem::take(one)];
                place(&mut pieces, bytes);
                self.0 = Rope::Many(pieces);
            }
            Rope::Many(pieces) => place(pieces, bytes),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Rope::One(bytes.into()))
    }
}

impl PartialEq<[u8]> for Body {
    fn eq(&self, other: &[u8]) -> bool {
        self.len() == other.len() && self.chunks().try_fold(other, |rest, piece| rest.strip_prefix(&piece[..])).is_some()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_go_on_and_come_off_without_touching_the_rest() {
        let original = Bytes::from_static(b"payload");
        let mut body = Body::from(original.clone());
        body.push_back(&b"-1"[..]);
        body.push_front(&b"h"[..]);
        body.push_back(Bytes::new());
        assert!(body == b"hpayload-1"[..]);
        assert!(body != b"hpayload-2"[..]);
        assert_eq!(body.chunks().len(), 3);
        assert_eq!(body.chunks().nth(1).expect("three pieces").as_ptr(), original.as_ptr());
        assert_eq!(body.pop_back(2).as_deref(), Some(&b"-1"[..]));
        assert_eq!(body.pop_front(1).as_deref(), Some(&b"h"[..]));
        assert_eq!(body.to_bytes(), original);
        assert_eq!(body.pop_front(8), None);
        assert!(!body.is_empty());
    }
}
