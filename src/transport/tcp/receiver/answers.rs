//! The acknowledgements of one connection, written in the order of its frames.
//!
//! Tribes matches an acknowledgement to its message by position alone, so whoever is answered early waits here for those before.
//! While the connection's thread is handling a batch of frames it holds answers back, and writes all of them at once behind it; a
//! listener that takes long makes the watching thread [release](Answers::release) them. An answer that comes later, from any
//! thread, is written by that thread. Nothing here blocks: what the socket does not take waits, within a bound.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mio::net::TcpStream;

use super::crew::Crew;
use crate::stack::{Answer, Reply};
use crate::wire::frame;

/// The bytes of acknowledgements that a peer may leave unread before its connection is closed, beyond what the socket holds.
const MAX_UNREAD: usize = 64 * 1024;
/// The messages that may wait for their answers; then no more is read until half of them are answered.
const MAX_AWAITED: usize = 16 * 1024;

/// The answering side of one connection. Owns the socket, so that a peer that only closed its sending half still gets its answers.
#[derive(Debug)]
pub(super) struct Answers {
    stream: TcpStream,
    token: usize,
    crew: Weak<Crew>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One for each frame that is owed an answer, from the oldest that has none.
    owed: VecDeque<Owed>,
    /// The token of the first in `owed`.
    first: u64,
    /// Answers in their order, not yet written.
    unwritten: Vec<u8>,
    held: bool,
    paused: bool,
    closed: bool,
    overrun: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owed {
    Awaited,
    Accepted,
    Rejected,
}

impl Answers {
    pub(super) fn new(stream: TcpStream, token: usize, crew: Weak<Crew>) -> Arc<Self> {
        Arc::new(Self { stream, token, crew, state: Mutex::default() })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A frame came that is answered on receipt.
    pub(super) fn received(&self) {
        let mut state = self.lock();
        state.owed.push_back(Owed::Accepted);
        state.collect();
    }

    /// A frame came that is answered when it is processed.
    pub(super) fn awaited(self: &Arc<Self>) -> Reply {
        let mut state = self.lock();
        let token = state.first + state.owed.len() as u64;
        state.owed.push_back(Owed::Awaited);
        drop(state);
        Reply::new(Arc::<Self>::clone(self), token)
    }

    /// Holds answers back until [`release`](Self::release).
    pub(super) fn hold(&self) {
        self.lock().held = true;
    }

    /// Writes the answers that are there, and from now on each when it is given.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.held = false;
        state.write(&self.stream);
    }

    /// Writes the answers that are there.
    pub(super) fn flush(&self) {
        self.lock().write(&self.stream);
    }

    /// Whether so many answers are awaited that no more frames should be taken. If so, the crew hears when that is over.
    pub(super) fn is_congested(&self) -> bool {
        let mut state = self.lock();
        state.paused = state.owed.len() >= MAX_AWAITED;
        state.paused
    }

    /// Whether the connection was closed because the peer does not read its answers.
    pub(super) fn is_overrun(&self) -> bool {
        self.lock().overrun
    }

    /// Writes the answers that are there, gives no others, and ends the connection.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.write(&self.stream);
        state.closed = true;
        // Fails when the peer has ended it already, which is as well.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer for Answers {
    fn answer(&self, token: u64, accepted: bool) {
        let mut state = self.lock();
        let resumed = state.settle(token, accepted);
        if !state.held {
            state.write(&self.stream);
        }
        drop(state);
        if resumed && let Some(crew) = self.crew.upgrade() {
            crew.wake(self.token);
        }
    }
}

impl State {
    /// Takes an answer; returns whether reading may go on that was paused.
    fn settle(&mut self, token: u64, accepted: bool) -> bool {
        let at = token.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(owed) = at.and_then(|at| self.owed.get_mut(at)) else { return false };
        *owed = if accepted { Owed::Accepted } else { Owed::Rejected };
        self.collect();
        self.paused && self.owed.len() <= MAX_AWAITED / 2 && std::mem::take(&mut self.paused)
    }

    /// Moves the answers whose turn has come to what is written.
    fn collect(&mut self) {
        while let Some(owed) = self.owed.front().copied().filter(|owed| *owed != Owed::Awaited) {
            self.owed.pop_front();
            self.first += 1;
            if !self.closed {
                self.unwritten.extend_from_slice(if owed == Owed::Accepted { frame::ACK } else { frame::FAIL_ACK });
            }
        }
    }

    fn write(&mut self, mut stream: impl ShutDown) {
        let mut written = 0;
        while written < self.unwritten.len() && !self.closed {
            match stream.write(&self.unwritten[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The reading side sees that the connection is over.
                Err(_) => self.closed = true,
            }
        }
        self.unwritten.drain(..written);
        if self.unwritten.len() > MAX_UNREAD && !self.closed {
            (self.closed, self.overrun) = (true, true);
            stream.shut_down();
        }
        if self.closed {
            self.unwritten = Vec::new();
        }
    }
}

/// A socket, or what a test takes for one.
trait ShutDown: Write {
    fn shut_down(&mut self);
}

impl ShutDown for &TcpStream {
    fn shut_down(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many bytes as it has room for.
    #[derive(Default)]
    struct Socket {
        room: usize,
        taken: Vec<u8>,
        shut: bool,
    }

    impl Write for &mut Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl ShutDown for &mut Socket {
        fn shut_down(&mut self) {
            self.shut = true;
        }
    }

    #[test]
    fn answers_leave_in_the_order_of_their_frames() {
        let mut state = State::default();
        state.owed.extend([Owed::Awaited, Owed::Accepted, Owed::Awaited]);
        let mut socket = Socket { room: 1000, ..Socket::default() };
        assert!(!state.settle(2, false));
        state.write(&mut socket);
        assert!(socket.taken.is_empty(), "the first has no answer yet");
        state.settle(0, true);
        state.write(&mut socket);
        assert_eq!(socket.taken, [&frame::ACK[..], frame::ACK, frame::FAIL_ACK].concat());
        assert_eq!((state.first, state.owed.len()), (3, 0));
        state.settle(1, true);
        assert_eq!(state.first, 3, "an answer given twice changes nothing");
    }

    #[test]
    fn an_answer_that_is_cut_short_goes_on_where_it_stopped() {
        let mut state = State::default();
        state.owed.push_back(Owed::Accepted);
        state.collect();
        let mut socket = Socket { room: 5, ..Socket::default() };
        state.write(&mut socket);
        socket.room = 100;
        state.write(&mut socket);
        assert_eq!(socket.taken, frame::ACK);
    }

    #[test]
    fn a_peer_that_reads_no_answers_is_cut_off() {
        let mut state = State::default();
        let mut socket = Socket::default();
        for _ in 0..=MAX_UNREAD / frame::ACK.len() {
            assert!(!socket.shut);
            state.owed.push_back(Owed::Accepted);
            state.collect();
            state.write(&mut socket);
        }
        assert!(socket.shut && state.overrun);
        state.owed.push_back(Owed::Accepted);
        state.collect();
        assert!(state.unwritten.is_empty(), "nothing gathers for a connection that is over");
    }

    #[test]
    fn reading_goes_on_when_half_of_the_awaited_answers_are_given() {
        let mut state = State { paused: true, ..State::default() };
        state.owed.extend([Owed::Awaited; MAX_AWAITED]);
        let mut resumed = (0..MAX_AWAITED as u64).filter(|token| state.settle(*token, true));
        assert_eq!(resumed.next(), Some(MAX_AWAITED as u64 / 2 - 1));
        assert_eq!(resumed.next(), None, "once");
    }
}
