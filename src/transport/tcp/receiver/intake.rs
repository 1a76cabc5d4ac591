//! Cuts messages out of the bytes of one connection, however the network split them. No I/O of its own.
//!
//! Bytes are read into a [`Window`] that a thread uses for all its connections in turn, so a connection that is idle holds no
//! buffer. A message that came whole in the window is copied out: that costs a few dozen nanoseconds, and a listener that keeps
//! a small message keeps just that, not the whole read. A larger frame gets a [`Buffer`] of its own, which the network is then read into
//! directly. It grows with what arrives; what a header announces is never allocated before it comes.

use std::io::{self, IoSliceMut, Read};
use std::sync::Arc;

use super::memory::{Buffer, Exhausted, Memory};
use crate::member::Member;
use crate::message::Message;
use crate::wire::{FrameDecoder, WireError, channel_data, frame};

/// Read at once when no large frame is coming in.
const WINDOW: usize = 256 * 1024;
/// Frames above this get a buffer of their own.
pub(super) const SMALL: usize = 64 * 1024;
/// Read beyond the end of a large frame, where another is likely: enough for its header and a few small ones, little to copy.
const BEYOND: usize = 8 * 1024;
/// The least memory that a large frame starts with.
const FIRST: usize = 256 * 1024;

/// Why a connection's bytes are not taken any further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// They are no frames, or no messages.
    Malformed(WireError),
    /// Half-received messages take too much memory.
    Exhausted,
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

impl From<Exhausted> for Refusal {
    fn from(Exhausted: Exhausted) -> Self {
        Self::Exhausted
    }
}

/// Where a thread reads into.
#[derive(Debug, Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Makes room for the rest of a small frame.
    fn compact(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; WINDOW];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

/// The receiving side of one connection.
#[derive(Debug)]
pub(super) struct Intake {
    decoder: FrameDecoder,
    memory: Arc<Memory>,
    /// The beginning of a small frame, while the connection waits for more.
    rest: Vec<u8>,
    large: Option<Large>,
    /// The largest frame that came whole: as much is allocated at once for the next.
    proven: usize,
    /// Whether the last frame was large, so that the next may be.
    was_large: bool,
    sender: Option<Member>,
}

/// A large frame that is coming in.
#[derive(Debug)]
struct Large {
    buffer: Buffer,
    filled: usize,
    total: usize,
}

impl Intake {
    /// Refuses messages of more than `limit` bytes, headers included.
    pub(super) fn new(limit: usize, memory: Arc<Memory>) -> Self {
        Self {
            decoder: FrameDecoder::new(limit),
            memory,
            rest: Vec::new(),
            large: None,
            proven: 0,
            was_large: false,
            sender: None,
        }
    }

    /// Who sent the last message.
    pub(super) fn sender(&self) -> Option<&Member> {
        self.sender.as_ref()
    }

    /// How many bytes of an unfinished frame are there, while the connection waits.
    pub(super) fn unfinished(&self) -> usize {
        self.large.as_ref().map_or(self.rest.len(), |large| large.filled)
    }

    /// Puts what waits into the window of the thread that takes over.
    pub(super) fn resume(&mut self, window: &mut Window) {
        (window.start, window.end) = (0, 0);
        if !self.rest.is_empty() {
            window.compact();
            window.bytes[..self.rest.len()].copy_from_slice(&self.rest);
            window.end = self.rest.len();
            self.rest = Vec::new();
        }
    }

    /// Takes what is unfinished out of the window. To be called when [`next`](Self::next) has nothing more.
    pub(super) fn suspend(&mut self, window: &Window) {
        self.rest = window.pending().to_vec();
    }

    /// Reads once, without filling more than there is room for. Returns how many bytes came, and whether more would have fitted.
    pub(super) fn read(&mut self, window: &mut Window, source: &mut impl Read) -> io::Result<(usize, bool)> {
        window.compact();
        let Some(large) = &mut self.large else {
            let space = &mut window.bytes[window.end..];
            let room = if self.was_large { space.len().min(BEYOND) } else { space.len() };
            let count = source.read(&mut space[..room])?;
            window.end += count;
            return Ok((count, count < room));
        };
        let end = large.total.min(large.buffer.len());
        let beyond = if end == large.total { BEYOND } else { 0 };
        let space = &mut large.buffer.as_mut()[large.filled..end];
        let direct = space.len();
        let mut spaces = [IoSliceMut::new(space), IoSliceMut::new(&mut window.bytes[..beyond])];
        let count = source.read_vectored(&mut spaces)?;
        large.filled += count.min(direct);
        window.end = count.saturating_sub(direct);
        Ok((count, count < direct + beyond))
    }

    /// The next message, or `None` when more must be read first.
    pub(super) fn next(&mut self, window: &mut Window) -> Result<Option<Message>, Refusal> {
        if self.large.is_some() {
            return self.next_large();
        }
        let pending = window.pending();
        if let Some(data) = self.decoder.peek(pending)? {
            let total = data.len() + frame::OVERHEAD;
            if total <= SMALL {
                let message = channel_data::decode_copied(data, self.sender.as_ref())?;
                window.start += total;
                self.was_large = false;
                self.remember(&message);
                return Ok(Some(message));
            }
            let mut buffer = self.memory.take(total, total)?;
            buffer.as_mut()[..total].copy_from_slice(&pending[..total]);
            window.start += total;
            return self.finish(Large { buffer, filled: total, total }).map(Some);
        }
        match self.decoder.wanted(pending)? {
            Some(total) if total > SMALL => {
                let filled = pending.len();
                let size = total.min(FIRST.max(2 * filled).max(self.proven));
                let mut buffer = self.memory.take(total, size)?;
                buffer.as_mut()[..filled].copy_from_slice(pending);
                window.start = window.end;
                self.large = Some(Large { buffer, filled, total });
            }
            _ => {}
        }
        Ok(None)
    }

    fn next_large(&mut self) -> Result<Option<Message>, Refusal> {
        let Some(mut large) = self.large.take() else { return Ok(None) };
        if large.filled == large.total {
            return self.finish(large).map(Some);
        }
        if large.filled == large.buffer.len() {
            large.buffer.grow(large.total.min(2 * large.filled))?;
        }
        self.large = Some(large);
        Ok(None)
    }

    fn finish(&mut self, large: Large) -> Result<Message, Refusal> {
        let total = large.total;
        let whole = large.buffer.finish().slice(..total);
        let data = self.decoder.peek(&whole)?.expect("the frame is whole");
        let message = channel_data::decode(&whole.slice_ref(data), self.sender.as_ref())?;
        self.proven = self.proven.max(total);
        self.was_large = true;
        self.remember(&message);
        Ok(message)
    }

    fn remember(&mut self, message: &Message) {
        let package = message.sender().package().as_ptr();
        if self.sender.as_ref().is_none_or(|last| last.package().as_ptr() != package) {
            self.sender = Some(message.sender().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::UniqueId;
    use crate::message::Body;
    use crate::options::SendOptions;

    fn message(size: usize) -> Message {
        let member = Member::new("127.0.0.1:4000".parse().expect("an address"));
        let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).expect("small")).collect();
        Message::from_parts(UniqueId::from_bytes([size.to_le_bytes()[0]; 16]), SendOptions::NONE, 1, member, Body::from(body))
    }

    /// Gives its bytes in pieces of these sizes, over and over; then would block.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: Vec<usize>,
        turn: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.read_vectored(&mut [IoSliceMut::new(into)])
        }

        fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            if self.bytes.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let size = self.sizes[self.turn % self.sizes.len()].min(self.bytes.len());
            self.turn += 1;
            let (mut piece, rest) = self.bytes.split_at(size);
            let count = piece.read_vectored(into)?;
            let _ = rest;
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    /// Reads everything, in turns of two reads, each of which may be another thread's.
    fn drain(intake: &mut Intake, source: &mut Pieces<'_>) -> Result<Vec<Message>, Refusal> {
        let mut messages = Vec::new();
        loop {
            let mut window = Window::default();
            intake.resume(&mut window);
            for _ in 0..2 {
                if intake.read(&mut window, source).is_err() {
                    intake.suspend(&window);
                    return Ok(messages);
                }
                while let Some(message) = intake.next(&mut window)? {
                    messages.push(message);
                }
            }
            intake.suspend(&window);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_come_whole_and_in_order_however_they_were_split(
            bodies in prop::collection::vec(prop_oneof![0usize..200, 60_000usize..70_000, 200_000usize..700_000], 1..6),
            sizes in prop::collection::vec(prop_oneof![1usize..5_000, 10_000usize..600_000], 1..5),
        ) {
            let messages: Vec<_> = bodies.iter().map(|size| message(*size)).collect();
            let stream: Vec<u8> = messages.iter().flat_map(frame::to_bytes).collect();
            let mut intake = Intake::new(1 << 20, Memory::new(1 << 24));
            let mut source = Pieces { bytes: &stream, sizes, turn: 0 };
            let received = drain(&mut intake, &mut source).expect("good frames");
            prop_assert_eq!(received.len(), messages.len());
            for (got, sent) in received.iter().zip(&messages) {
                prop_assert_eq!(got.id(), sent.id());
                prop_assert!(got.bytes() == sent.bytes());
            }
            prop_assert_eq!(intake.unfinished(), 0);
        }
    }

    #[test]
    fn memory_follows_what_arrived_not_what_is_announced() {
        let mut frame = frame::HEADER.to_vec();
        frame.extend_from_slice(&200_000_000u32.to_be_bytes());
        let mut intake = Intake::new(usize::MAX, Memory::new(usize::MAX));
        drain(&mut intake, &mut Pieces { bytes: &frame, sizes: vec![100], turn: 0 }).expect("a good beginning");
        assert_eq!(intake.large.as_ref().expect("a large frame").buffer.len(), FIRST);
        frame.resize(1_000_000, 7);
        drain(&mut intake, &mut Pieces { bytes: &frame[11..], sizes: vec![100_000], turn: 0 }).expect("still good");
        assert!(intake.large.as_ref().expect("a large frame").buffer.len() <= 2_000_000);
    }

    #[test]
    fn a_small_message_shares_memory_with_nothing() {
        let stream = [frame::to_bytes(&message(100)), frame::to_bytes(&message(50))].concat();
        let mut intake = Intake::new(1000, Memory::new(1000));
        let received = drain(&mut intake, &mut Pieces { bytes: &stream, sizes: vec![1000], turn: 0 }).expect("good frames");
        for message in received {
            assert!(message.body().chunks().all(bytes::Bytes::is_unique));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_after_what_was_good() {
        let good = frame::to_bytes(&message(3));
        let refused = |tail: &[u8], limit| {
            let stream = [&good[..], tail].concat();
            let mut intake = Intake::new(limit, Memory::new(1 << 20));
            let mut window = Window::default();
            intake.read(&mut window, &mut &stream[..]).expect("it fits");
            assert!(intake.next(&mut window).expect("the first is good").is_some());
            intake.next(&mut window)
        };
        assert!(matches!(refused(b"GET / HTTP/1.1", 1000), Err(Refusal::Malformed(WireError::Begin(_)))));
        assert!(matches!(refused(b"FLT2002\xff\xff\xff\xff", 1000), Err(Refusal::Malformed(WireError::Length(_)))));
        assert!(matches!(refused(b"FLT2002\x7f\xff\xff\xff", 1000), Err(Refusal::Malformed(WireError::TooLarge { .. }))));
        assert!(matches!(refused(b"FLT2002\x00\x10\x00\x01", 1 << 21), Ok(None)));
        assert!(matches!(refused(b"FLT2002\x00\x00\x00\x01xTLF2004", 1000), Err(Refusal::Malformed(WireError::End(_)))));
        assert!(matches!(refused(frame::ACK, 1000), Err(Refusal::Malformed(WireError::Length(_)))), "acks go the other way");
    }

    #[test]
    fn the_bound_on_memory_refuses_the_connection_that_exceeds_it() {
        let memory = Memory::new(FIRST + 1000);
        let mut announce = b"FLT2002".to_vec();
        announce.extend_from_slice(&1_000_000u32.to_be_bytes());
        let mut first = Intake::new(1 << 20, Arc::clone(&memory));
        let mut second = Intake::new(1 << 20, memory);
        let start = |intake: &mut Intake| drain(intake, &mut Pieces { bytes: &announce, sizes: vec![100], turn: 0 });
        assert!(start(&mut first).is_ok());
        assert_eq!(start(&mut second).unwrap_err(), Refusal::Exhausted);
        drop(first);
        second.rest.clear();
        assert!(start(&mut second).is_ok());
    }
}
