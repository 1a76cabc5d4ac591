//! A thread for what must not run on the threads that keep the channel going: listeners of membership events, and of messages that
//! a timer or the multicast socket released. It is there only while there is something to do.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the thread waits for another job before it leaves.
const LINGER: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after another, in the order they were posted.
#[derive(Clone, Default)]
pub(crate) struct Courier(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    posted: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    running: bool,
}

impl Courier {
    pub(crate) fn post(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_back(Box::new(job));
        if state.running {
            self.0.posted.notify_one();
            return;
        }
        state.running = true;
        drop(state);
        let shared = Arc::clone(&self.0);
        let spawned = thread::Builder::new().name("tribes-events".into()).spawn(move || shared.run());
        if let Err(error) = spawned {
            log::error!("no thread for listeners: {error}; what they were to be told waits for the next event");
            self.0.lock().running = false;
        }
    }

    /// How many jobs wait.
    pub(crate) fn backlog(&self) -> usize {
        self.0.lock().jobs.len()
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let state = self.lock();
            let (mut state, _) = self
                .posted
                .wait_timeout_while(state, LINGER, |state| state.jobs.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let Some(job) = state.jobs.pop_front() else {
                state.running = false;
                return;
            };
            drop(state);
            job();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
