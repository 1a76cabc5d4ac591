//! Cuts acknowledgements out of what a peer answers. Nothing else may come: every answer is one of two constant frames.

use crate::wire::frame::{ACK, FAIL_ACK};

/// Bytes read at a time; some four hundred acknowledgements.
const CAPACITY: usize = 8 * 1024;

/// The answer to one frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    Ack,
    FailAck,
}

/// The peer sent something that is no acknowledgement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Junk;

/// What came in on one connection and is not yet a whole acknowledgement.
#[derive(Debug)]
pub(super) struct AckBuffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl AckBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; CAPACITY].into_boxed_slice(), filled: 0 }
    }

    /// Where to read to; never empty, because what is left after [`parse`](Self::parse) is shorter than a frame.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Takes the answers out of what was read; `count` bytes have been put into the [`space`](Self::space).
    pub(super) fn parse(&mut self, count: usize, mut answer: impl FnMut(Answer)) -> Result<(), Junk> {
        self.filled += count;
        let mut rest = &self.bytes[..self.filled];
        while let Some((frame, behind)) = rest.split_first_chunk::<{ ACK.len() }>() {
            if frame == ACK {
                answer(Answer::Ack);
            } else if frame == FAIL_ACK {
                answer(Answer::FailAck);
            } else {
                return Err(Junk);
            }
            rest = behind;
        }
        if !ACK.starts_with(rest) && !FAIL_ACK.starts_with(rest) {
            return Err(Junk);
        }
        let from = self.filled - rest.len();
        self.bytes.copy_within(from..self.filled, 0);
        self.filled -= from;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffer: &mut AckBuffer, bytes: &[u8]) -> Result<Vec<Answer>, Junk> {
        let mut answers = Vec::new();
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        buffer.parse(bytes.len(), |answer| answers.push(answer))?;
        Ok(answers)
    }

    #[test]
    fn answers_are_found_however_the_stream_is_split() {
        let stream = [&ACK[..], &FAIL_ACK[..], &ACK[..]].concat();
        for split in 0..=stream.len() {
            let mut buffer = AckBuffer::new();
            let mut answers = feed(&mut buffer, &stream[..split]).expect("a good beginning");
            answers.extend(feed(&mut buffer, &stream[split..]).expect("a good end"));
            assert_eq!(answers, [Answer::Ack, Answer::FailAck, Answer::Ack], "split at {split}");
        }
    }

    #[test]
    fn anything_else_is_junk_from_its_first_byte() {
        assert_eq!(feed(&mut AckBuffer::new(), b"H"), Err(Junk));
        for at in 0..ACK.len() {
            let mut bytes = *ACK;
            bytes[at] ^= 0x40;
            assert_eq!(feed(&mut AckBuffer::new(), &bytes), Err(Junk), "byte {at}");
        }
    }
}
