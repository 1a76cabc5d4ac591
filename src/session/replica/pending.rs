//! What somebody waits for: a thread, or a task of any executor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock;

/// The end of the one who knows.
pub(crate) struct Promise<T>(Arc<Slot<T>>);

/// The end of the one who waits; `None` when nobody is left to tell.
pub(crate) struct Pending<T>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
    settled: Condvar,
}

struct State<T> {
    value: Option<T>,
    done: bool,
    waker: Option<Waker>,
}

/// Both ends.
pub(crate) fn pending<T>() -> (Promise<T>, Pending<T>) {
    let slot = Arc::new(Slot { state: Mutex::new(State { value: None, done: false, waker: None }), settled: Condvar::new() });
    (Promise(Arc::clone(&slot)), Pending(slot))
}

impl<T> Promise<T> {
    /// Whether anybody is left to be told.
    pub(crate) fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Tells. Wakes others, so no lock must be held.
    pub(crate) fn settle(self, value: T) {
        self.0.settle(Some(value));
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.settle(None);
    }
}

impl<T> Slot<T> {
    fn settle(&self, value: Option<T>) {
        let mut state = self.lock();
        if state.done {
            return;
        }
        (state.value, state.done) = (value, true);
        let waker = state.waker.take();
        drop(state);
        self.settled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Pending<T> {
    /// One that is known already.
    pub(crate) fn known(value: T) -> Self {
        let (promise, pending) = pending();
        promise.settle(value);
        pending
    }

    /// Blocks until it is known.
    pub(crate) fn wait(self) -> Option<T> {
        let mut state = self.0.lock();
        while !state.done {
            state = self.0.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.value.take()
    }

    /// Blocks until it is known or the time is over; then it comes back.
    pub(crate) fn wait_timeout(self, timeout: Duration) -> Result<Option<T>, Self> {
        let since = clock::now();
        let mut state = self.0.lock();
        while !state.done {
            let left = clock::left(since, timeout);
            if left.is_zero() {
                drop(state);
                return Err(self);
            }
            state = self.0.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state.value.take())
    }
}

impl<T> Future for Pending<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if state.done {
            return Poll::Ready(state.value.take());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("done", &self.0.lock().done).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_told() {
        let (promise, waiting) = pending();
        let waiter = thread::spawn(move || waiting.wait());
        promise.settle(7);
        assert_eq!(waiter.join().expect("it waits"), Some(7));
    }

    #[test]
    fn who_waits_for_nobody_is_told_so() {
        let (promise, waiting) = pending::<u8>();
        let waiting = waiting.wait_timeout(Duration::from_millis(1)).expect_err("not known yet");
        drop(promise);
        assert_eq!(waiting.wait(), None);
    }

    #[test]
    fn a_task_is_woken_once_and_finds_the_value() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let (promise, mut waiting) = pending();
        assert!(Pin::new(&mut waiting).poll(&mut cx).is_pending());
        promise.settle("here");
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(Pin::new(&mut waiting).poll(&mut cx), Poll::Ready(Some("here")));
    }
}
