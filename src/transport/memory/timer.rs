//! Runs short tasks later: time-outs and delayed answers. One thread, started when the first task comes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::lock;
use crate::clock;

pub(super) struct Timer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tasks: BinaryHeap<Task>,
    sequence: u64,
    started: bool,
    stopped: bool,
}

struct Task {
    at: Instant,
    sequence: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Starts the thread, unless it runs.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut state = lock(&self.0.state);
        if !state.started {
            let inner = Arc::clone(&self.0);
            thread::Builder::new().name("memory-timer".into()).spawn(move || inner.run())?;
            state.started = true;
        }
        Ok(())
    }

    /// Runs `task` at this time; it must not block.
    pub(super) fn at(&self, at: Instant, task: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.0.state);
        state.sequence += 1;
        let sequence = state.sequence;
        state.tasks.push(Task { at, sequence, run: Box::new(task) });
        self.0.changed.notify_one();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.stopped = true;
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        self.0.changed.notify_one();
        drop(tasks);
    }
}

impl Inner {
    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.stopped {
            let now = clock::now();
            state = match state.tasks.peek() {
                Some(task) if task.at <= now => {
                    let task = state.tasks.pop().expect("it was peeked at under the same lock");
                    drop(state);
                    (task.run)();
                    lock(&self.state)
                }
                Some(task) => {
                    let wait = task.at - now;
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The earliest is the greatest, as the heap wants it.
impl Ord for Task {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Task {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Task {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Task {}
