//! The simulated receiver: cuts frames out of connections, filters repeats, and answers in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::world::{ConnId, End, World};
use crate::member::Member;
use crate::message::Message;
use crate::options::Acknowledgement;
use crate::stack::{Answer, Inbound, Reply};
use crate::transport::duplicates::{Admission, DuplicateLimits, Duplicates};
use crate::wire::{Frame, FrameDecoder, channel_data, frame};

const MAX_FRAME: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    conns: BTreeMap<ConnId, Reading>,
    /// The filter of the real receivers; a plain Tribes node has none.
    repeats: Option<Duplicates>,
    answers: Arc<Answers>,
    next_token: u64,
}

/// One connection: bytes that are no frame yet, and the answers that are owed, in order.
#[derive(Debug, Default)]
struct Reading {
    stream: BytesMut,
    sender: Option<Member>,
    owed: VecDeque<Owed>,
}

#[derive(Debug)]
enum Owed {
    Given(bool),
    Awaited(u64),
}

#[derive(Debug, Default)]
struct Answers(Mutex<Vec<(u64, bool)>>);

impl Answer for Answers {
    fn answer(&self, token: u64, accepted: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((token, accepted));
    }
}

impl Inbox {
    pub(super) fn new(filters_repeats: bool) -> Self {
        Self { repeats: filters_repeats.then(|| Duplicates::new(DuplicateLimits::default())), ..Self::default() }
    }

    /// Bytes came in; returns the messages that are whole and new. Bad framing ends the connection.
    pub(super) fn received(&mut self, world: &mut World, conn: ConnId, bytes: &[u8]) -> Vec<Inbound> {
        let mut reading = self.conns.remove(&conn).unwrap_or_default();
        reading.stream.extend_from_slice(bytes);
        let mut messages = Vec::new();
        loop {
            match FrameDecoder::new(MAX_FRAME).next(&mut reading.stream) {
                Ok(Some(Frame::Data(data))) => match channel_data::decode(&data, reading.sender.as_ref()) {
                    Ok(message) => {
                        reading.sender = Some(message.sender().clone());
                        messages.extend(self.admit(&mut reading, message));
                    }
                    Err(_) => break world.close(conn, End::Callee),
                },
                Ok(Some(_)) | Err(_) => break world.close(conn, End::Callee),
                Ok(None) => break,
            }
        }
        self.conns.insert(conn, reading);
        messages
    }

    /// The connection ended; returns who had sent over it.
    pub(super) fn ended(&mut self, conn: ConnId) -> Option<Member> {
        self.conns.remove(&conn)?.sender
    }

    /// Writes the answers that are due.
    pub(super) fn answer(&mut self, world: &mut World) {
        let given = std::mem::take(&mut *self.answers.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (token, accepted) in given {
            for owed in self.conns.values_mut().flat_map(|reading| &mut reading.owed) {
                if matches!(owed, Owed::Awaited(awaited) if *awaited == token) {
                    *owed = Owed::Given(accepted);
                }
            }
        }
        for (conn, reading) in &mut self.conns {
            while let Some(Owed::Given(accepted)) = reading.owed.front() {
                let ack: &'static [u8] = if *accepted { frame::ACK } else { frame::FAIL_ACK };
                world.send(*conn, End::Caller, Bytes::from_static(ack));
                reading.owed.pop_front();
            }
        }
    }

    fn admit(&mut self, reading: &mut Reading, message: Message) -> Option<Inbound> {
        let wants = message.options().acknowledgement();
        let mut inbound = Inbound::new(message, Reply::none());
        if wants != Acknowledgement::None {
            self.next_token += 1;
            reading.owed.push_back(Owed::Awaited(self.next_token));
            inbound.reply = Reply::new(Arc::clone(&self.answers) as Arc<dyn Answer>, self.next_token);
        }
        if let Some(filter) = &self.repeats {
            inbound = match filter.admit(inbound) {
                Admission::Fresh(inbound) => inbound,
                Admission::Repeat => return None,
            };
        }
        if wants == Acknowledgement::Received {
            std::mem::replace(&mut inbound.reply, Reply::none()).accept();
        }
        Some(inbound)
    }
}
