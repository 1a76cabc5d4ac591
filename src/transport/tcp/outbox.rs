//! What the driver of a link is writing: frames in pieces, and the messages they belong to.
//!
//! Small bodies are copied into one buffer beside their heads, so that many frames leave in one piece; large ones are written from
//! where they lie.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};

use super::link::Pending;
use crate::wire::frame;

/// Bodies up to this length are copied.
const COPIED: usize = 16 * 1024;
/// Pieces written by one call.
const PIECES: usize = 64;

/// What is being written on one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Messages taken from the link: those before `encoded` are in the pieces.
    items: VecDeque<Pending>,
    encoded: usize,
    buffer: Vec<u8>,
    /// How much of the buffer is in pieces.
    covered: usize,
    pieces: VecDeque<Piece>,
    /// Where the pieces end and how much of them is written, in bytes since the connection was opened.
    end: u64,
    written: u64,
}

#[derive(Debug)]
enum Piece {
    Copied(Range<usize>),
    Body(Bytes),
}

impl Outbox {
    /// Adds a message behind the others.
    pub(super) fn push(&mut self, pending: Pending) {
        self.items.push_back(pending);
    }

    /// Encodes what was pushed.
    pub(super) fn encode(&mut self) {
        for at in self.encoded..self.items.len() {
            let pending = &mut self.items[at];
            self.end += pending.len as u64;
            pending.end = self.end;
            let message = &pending.message;
            frame::put_head(message, &mut self.buffer);
            if message.body().len() <= COPIED {
                message.body().chunks().for_each(|chunk| self.buffer.put_slice(chunk));
            } else {
                cover(&mut self.pieces, &mut self.covered, self.buffer.len());
                self.pieces.extend(message.body().chunks().cloned().map(Piece::Body));
            }
            self.buffer.put_slice(frame::FOOTER);
        }
        cover(&mut self.pieces, &mut self.covered, self.buffer.len());
        self.encoded = self.items.len();
    }

    /// Whether messages that want an acknowledgement have not been [launched](Self::launch).
    pub(super) fn has_acknowledged(&self) -> bool {
        self.items.iter().any(Pending::awaits_ack)
    }

    /// Gives away the messages that want an acknowledgement: from now on they wait for it elsewhere.
    pub(super) fn launch(&mut self, mut give: impl FnMut(Pending)) {
        if self.items.iter().all(Pending::awaits_ack) {
            self.items.drain(..).for_each(give);
        } else {
            for _ in 0..self.items.len() {
                let Some(pending) = self.items.pop_front() else { break };
                if pending.awaits_ack() { give(pending) } else { self.items.push_back(pending) }
            }
        }
        self.encoded = self.items.len();
    }

    /// Hands the pieces to `write`, and counts what it took.
    pub(super) fn write<E>(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>) -> Result<(), E> {
        let slice = |piece| match piece {
            &Piece::Copied(Range { start, end }) => IoSlice::new(&self.buffer[start..end]),
            Piece::Body(bytes) => IoSlice::new(bytes),
        };
        let taken = match (self.pieces.front(), self.pieces.len()) {
            (Some(one), 1) => write(&[slice(one)])?,
            _ => {
                let mut slices = [IoSlice::new(&[]); PIECES];
                slices.iter_mut().zip(&self.pieces).for_each(|(slot, piece)| *slot = slice(piece));
                write(&slices[..self.pieces.len().min(PIECES)])?
            }
        };
        self.advance(taken);
        Ok(())
    }

    /// Takes out the messages whose frames are written.
    pub(super) fn settled(&mut self) -> impl Iterator<Item = Pending> {
        let done = self.items.iter().take_while(|pending| pending.end <= self.written).count();
        self.encoded -= done;
        self.items.drain(..done)
    }

    /// Nothing is left to write.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.items.is_empty()
    }

    /// When the first message was submitted that is not written, if it is still here.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.items.front().map(|pending| pending.since)
    }

    /// Forgets everything: the connection ended. Gives back the messages.
    pub(super) fn reset(&mut self) -> Vec<Pending> {
        let mut items = std::mem::take(&mut self.items);
        // Those that are not yet encoded come behind all others.
        items.iter_mut().skip(self.encoded).for_each(|pending| pending.end = u64::MAX);
        *self = Self::default();
        items.into()
    }

    fn advance(&mut self, mut count: usize) {
        self.written += count as u64;
        while let Some(piece) = self.pieces.front_mut() {
            let len = match piece {
                Piece::Copied(range) => range.len(),
                Piece::Body(bytes) => bytes.len(),
            };
            if count < len {
                match piece {
                    Piece::Copied(range) => range.start += count,
                    Piece::Body(bytes) => bytes.advance(count),
                }
                return;
            }
            count -= len;
            self.pieces.pop_front();
        }
        self.buffer.clear();
        self.covered = 0;
    }
}

/// Makes a piece of what was copied to the buffer since the last one.
fn cover(pieces: &mut VecDeque<Piece>, covered: &mut usize, end: usize) {
    if *covered < end {
        pieces.push_back(Piece::Copied(*covered..end));
        *covered = end;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::transport::tcp::link::tests::{message, pending};

    /// Writes everything, `step` bytes at a time.
    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !outbox.pieces.is_empty() {
            let written = outbox.write(|slices| {
                let before = out.len();
                for slice in slices {
                    let room = step - (out.len() - before);
                    out.extend_from_slice(&slice[..slice.len().min(room)]);
                }
                Ok::<_, Infallible>(out.len() - before)
            });
            assert!(written.is_ok());
        }
        out
    }

    #[test]
    fn frames_are_the_same_whether_copied_or_not_and_however_they_are_split() {
        let mut rope = message(0, &[3; 70_000]);
        rope.body_mut().push_back(&b"trailer"[..]);
        let messages = [message(0, b"a"), message(2, &[1; 40_000]), message(6, b""), rope, message(0, b"z")];
        let expected = messages.iter().flat_map(|message| frame::to_bytes(message).to_vec()).collect::<Vec<_>>();
        for step in [1, 7, 4096, usize::MAX / 2] {
            let mut outbox = Outbox::default();
            messages.iter().for_each(|message| outbox.push(pending(message.clone())));
            outbox.encode();
            assert!(drain(&mut outbox, step) == expected, "{step} bytes at a time");
            assert_eq!(outbox.settled().count(), 5);
            assert!(outbox.is_empty() && outbox.buffer.is_empty());
        }
    }

    #[test]
    fn a_message_is_settled_with_its_last_byte() {
        let mut outbox = Outbox::default();
        let len = frame::encoded_len(&message(0, b"ab"));
        (0..3).for_each(|_| outbox.push(pending(message(0, b"ab"))));
        outbox.encode();
        for (taken, settled) in [(len - 1, 0), (1, 1), (2 * len - 1, 1), (1, 1)] {
            assert!(outbox.write(|_| Ok::<_, Infallible>(taken)).is_ok());
            assert_eq!(outbox.settled().count(), settled);
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_is_given_back_after_a_loss_tells_its_place_in_the_stream() {
        let mut outbox = Outbox::default();
        outbox.push(pending(message(0, b"ab")));
        outbox.push(pending(message(2, b"cd")));
        outbox.encode();
        let mut flying = Vec::new();
        outbox.launch(|pending| flying.push(pending));
        outbox.push(pending(message(0, b"ef")));
        let left = outbox.reset();
        assert!(left[0].end < flying[0].end && flying[0].end < left[1].end);
        assert!(outbox.is_empty());
    }
}
