//! Events on their way to whoever wants to know: in order, on a thread of their own, bounded though a listener may block for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::channel::Courier;
use crate::completion::UserCode;
use crate::session::engine::Event;

/// Events that wait to be told; more are dropped and counted.
const MAX_EVENTS: usize = 65_536;

/// Who is told.
pub(crate) trait EventSink: Send + Sync {
    /// Whether there is anybody who wants to know of anything.
    fn is_heard(&self) -> bool;

    /// Whether anybody wants to know of this one.
    fn wants(&self, event: &Event) -> bool;

    /// Tells them. It may block, and may use the replica.
    fn tell(&self, event: Event);
}

pub(super) struct Feed {
    sink: Arc<dyn EventSink>,
    courier: Courier,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    telling: bool,
    dropped: u64,
}

impl Feed {
    pub(super) fn new(sink: Arc<dyn EventSink>) -> Self {
        Self { sink, courier: Courier::default(), state: Arc::default() }
    }

    pub(super) fn is_heard(&self) -> bool {
        self.sink.is_heard()
    }

    /// Adds an event; called under the engine's lock, so that events keep their order.
    pub(super) fn push(&self, event: Event) {
        if !self.sink.wants(&event) {
            return;
        }
        let mut state = lock(&self.state);
        if state.waiting.len() < MAX_EVENTS {
            state.waiting.push_back(event);
        } else {
            if state.dropped == 0 {
                log::warn!("a session listener does not keep up: events are dropped");
            }
            state.dropped += 1;
        }
    }

    /// Sees to it that what waits is told.
    pub(super) fn tell(&self) {
        let mut state = lock(&self.state);
        if state.waiting.is_empty() || std::mem::replace(&mut state.telling, true) {
            return;
        }
        drop(state);
        let (sink, state) = (Arc::clone(&self.sink), Arc::clone(&self.state));
        self.courier.post(move || {
            let _user_code = UserCode::enter();
            loop {
                let mut waiting = lock(&state);
                let Some(event) = waiting.waiting.pop_front() else {
                    waiting.telling = false;
                    return;
                };
                drop(waiting);
                sink.tell(event);
            }
        });
    }

    pub(super) fn dropped(&self) -> u64 {
        lock(&self.state).dropped
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
