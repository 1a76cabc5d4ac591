//! The acknowledgements of one connection, written in the order of its frames, by whoever gives the one that was missing.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use crate::stack::{Answer, Reply};
use crate::wire::frame;

/// The messages that may wait for their answers; then no more is read.
const MAX_AWAITED: usize = 16 * 1024;
/// How long a peer may leave the socket so full that not even an acknowledgement fits.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the socket open while answers are owed, so that a peer which only closed its sending half still gets them.
pub(super) struct Answers {
    stream: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// One for each frame that is owed an answer, from the oldest that has none; `None` until it is given.
    owed: VecDeque<Option<bool>>,
    /// The token of the first in `owed`.
    first: u64,
    closed: bool,
    /// The peer did not take its answers.
    unread: bool,
}

impl Answers {
    pub(super) fn new(stream: TcpStream) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::default(), changed: Condvar::new() })
    }

    /// A frame came that is answered on receipt.
    pub(super) fn received(&self) {
        let mut state = lock(&self.state);
        state.owed.push_back(Some(true));
        self.write(&mut state);
    }

    /// A frame came that is answered when it is processed. Blocks while too many are.
    pub(super) fn awaited(self: &Arc<Self>) -> Reply {
        let mut state = lock(&self.state);
        while state.owed.len() >= MAX_AWAITED && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let token = state.first + state.owed.len() as u64;
        state.owed.push_back(None);
        Reply::new(Arc::<Self>::clone(self), token)
    }

    /// Whether the connection was closed because the peer does not take its answers.
    pub(super) fn is_unread(&self) -> bool {
        lock(&self.state).unread
    }

    /// Gives no more answers.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
        // Fails when the peer has ended it already, which is as well.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn write(&self, state: &mut State) {
        let mut bytes = Vec::new();
        while let Some(Some(accepted)) = state.owed.front() {
            bytes.extend_from_slice(if *accepted { frame::ACK } else { frame::FAIL_ACK });
            state.owed.pop_front();
            state.first += 1;
        }
        if bytes.is_empty() {
            return;
        }
        self.changed.notify_all();
        if !state.closed && (&self.stream).write_all(&bytes).is_err() {
            // Part of an acknowledgement may have gone out: nothing that follows would be understood.
            (state.closed, state.unread) = (true, true);
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Answer for Answers {
    fn answer(&self, token: u64, accepted: bool) {
        let mut state = lock(&self.state);
        let at = token.checked_sub(state.first).and_then(|at| usize::try_from(at).ok());
        if let Some(owed) = at.and_then(|at| state.owed.get_mut(at)) {
            *owed = Some(accepted);
            self.write(&mut state);
        }
    }
}
