//! What happens once, and who waits for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pending::{Pending, Promise, pending};

/// What happens once.
#[derive(Default)]
pub(super) struct Milestones {
    passed: Mutex<Passed>,
    changed: Condvar,
    /// Whoever waits without blocking for this member to be complete.
    readiness: Mutex<Vec<Promise<bool>>>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) ready: bool,
    pub(super) drained: bool,
    pub(super) closed: bool,
}

impl Milestones {
    pub(super) fn pass(&self, pass: impl FnOnce(&mut Passed)) {
        pass(&mut self.passed());
        self.changed.notify_all();
    }

    pub(super) fn wait(&self, timeout: Duration, met: impl Fn(&Passed) -> bool) -> bool {
        let passed = self.passed();
        let (passed, _) = self
            .changed
            .wait_timeout_while(passed, timeout, |passed| !met(passed) && !passed.closed)
            .unwrap_or_else(PoisonError::into_inner);
        met(&passed)
    }

    pub(super) fn when_ready(&self) -> Pending<bool> {
        let passed = self.passed();
        if passed.ready || passed.closed {
            return Pending::known(passed.ready);
        }
        let (promise, ready) = pending();
        // Under the lock: whoever passes the milestone now finds it.
        let mut readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        readiness.retain(Promise::is_awaited);
        readiness.push(promise);
        ready
    }

    /// Those who wait for this member to be complete. They are told when no lock is held.
    pub(super) fn awaited(&self) -> Vec<Promise<bool>> {
        std::mem::take(&mut self.readiness.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has happened.
    pub(super) fn passed(&self) -> MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
