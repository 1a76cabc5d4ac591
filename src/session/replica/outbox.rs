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
        let mut state = self.lock();
        if std::mem::replace(&mut state.emptying, true) {
            return;
        }
        // Should sending panic, others go on.
        let _turn = Turn(self);
        loop {
            match state.waiting.pop_front() {
                Some(next) => {
                    drop(state);
                    send(next);
                    state = self.lock();
                }
                None => {
                    // Under the lock: what is pushed from now on finds nobody at it.
                    state.emptying = false;
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Turn<'a>(&'a Outbox);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().emptying = false;
        }
    }
}
