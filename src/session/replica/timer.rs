//! The thread that keeps an engine's time, and takes up what the channel's view has become.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Shared;
use crate::clock;

/// An engine that asks for the past is given time again after this, not at once.
const SHORTEST: Duration = Duration::from_millis(1);

/// When the engine wants to be called.
#[derive(Debug, Default)]
pub(super) struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wake_at: Option<Instant>,
    /// The view has changed.
    kicked: bool,
    stopped: bool,
}

impl Timer {
    pub(super) fn wake_at(&self, time: Instant) {
        let mut state = self.lock();
        if state.wake_at.is_none_or(|set| time < set) {
            state.wake_at = Some(time);
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(super) fn kick(&self) {
        self.lock().kicked = true;
        self.changed.notify_one();
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends when the timer is stopped or the replica is gone.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let (timer, shared) = (Arc::clone(&shared.timer), Arc::downgrade(shared));
    thread::Builder::new().name("tribes-session".into()).spawn(move || run(&timer, &shared))
}

fn run(timer: &Timer, shared: &Weak<Shared>) {
    let mut last = clock::now();
    loop {
        let mut state = timer.lock();
        if state.stopped {
            return;
        }
        let now = clock::now();
        let due = state.wake_at.map(|at| at.max(last + SHORTEST));
        let timeout = due.is_some_and(|at| at <= now);
        if !timeout && !state.kicked {
            match due {
                Some(at) => drop(timer.changed.wait_timeout(state, at - now)),
                None => drop(timer.changed.wait(state)),
            }
            continue;
        }
        let kicked = std::mem::take(&mut state.kicked);
        if timeout {
            state.wake_at = None;
        }
        drop(state);
        let Some(shared) = shared.upgrade() else { return };
        // What runs here is no user code; should it panic all the same, time must not stand still for the other sessions.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if kicked {
                shared.follow_view();
            }
            if timeout {
                shared.timeout();
            }
        }));
        if ran.is_err() {
            log::error!("the time of a session context panicked");
        }
        last = now;
    }
}
