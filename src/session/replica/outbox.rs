//! What is to be sent, in the order in which the engine said so. Filled under the engine's lock, emptied after it, by one thread at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::session::engine::Send;

#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Send>,
    emptying: bool,
}

impl Outbox {
    pub(super) fn push(&self, send: Send) {
        self.lock().waiting.push_back(send);
    }

    /// Sends everything, unless another thread is at it: then that one does.
    pub(super) fn empty(&self, mut send: impl FnMut(Send)) {
        if std::mem::replace(&mut self.lock().emptying, true) {
            return;
        }
        // Should sending panic, others go on.
        let turn = Turn(self);
        while let Some(next) = self.next() {
            send(next);
        }
        std::mem::forget(turn);
    }

    fn next(&self) -> Option<Send> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            // Under the lock: what is pushed from now on finds nobody at it.
            state.emptying = false;
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Turn<'a>(&'a Outbox);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().emptying = false;
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn message(token: u64) -> Send {
        Send { to: Vec::new().into(), body: bytes::Bytes::new(), token: Some(token) }
    }

    #[test]
    fn what_comes_while_it_is_emptied_goes_last() {
        let (outbox, mut sent) = (Outbox::default(), Vec::new());
        [1, 2].map(message).into_iter().for_each(|send| outbox.push(send));
        outbox.empty(|send| {
            if send.token == Some(1) {
                outbox.push(message(3));
                outbox.empty(|_| panic!("one thread at a time"));
            }
            sent.extend(send.token);
        });
        assert_eq!(sent, [1, 2, 3]);
    }

    #[test]
    fn a_panic_while_sending_stops_nobody_else() {
        let (outbox, mut sent) = (Outbox::default(), Vec::new());
        [1, 2].map(message).into_iter().for_each(|send| outbox.push(send));
        assert!(catch_unwind(AssertUnwindSafe(|| outbox.empty(|_| panic!("planted")))).is_err());
        outbox.empty(|send| sent.extend(send.token));
        assert_eq!(sent, [2]);
    }
}
