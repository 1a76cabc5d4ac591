//! On which thread, and when, the application's callbacks run.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How deep this thread is in listeners and callbacks that a channel called.
    static USER_CODE: Cell<usize> = const { Cell::new(0) };
}

/// While one lives on a thread, that thread runs a listener or a callback on behalf of a channel, which it must not wait for.
#[derive(Debug)]
pub(crate) struct UserCode;

impl UserCode {
    pub(crate) fn enter() -> Self {
        USER_CODE.set(USER_CODE.get() + 1);
        Self
    }

    pub(crate) fn is_running() -> bool {
        USER_CODE.get() > 0
    }
}

impl Drop for UserCode {
    fn drop(&mut self) {
        USER_CODE.set(USER_CODE.get() - 1);
    }
}

type Deferred = Vec<Box<dyn FnOnce() + Send>>;

thread_local! {
    /// Callbacks that fell due while this thread held the stack; `None` when it does not.
    static DEFERRED: RefCell<Option<Deferred>> = const { RefCell::new(None) };
}

/// While one lives on a thread, completion callbacks that fall due there wait for its end: a callback may send, and must not run
/// while its own thread holds the locks that a send needs.
#[derive(Debug)]
pub(crate) struct DeferCallbacks {
    outermost: bool,
}

impl DeferCallbacks {
    pub(crate) fn new() -> Self {
        DEFERRED.with_borrow_mut(|deferred| {
            let outermost = deferred.is_none();
            deferred.get_or_insert_default();
            Self { outermost }
        })
    }
}

impl Drop for DeferCallbacks {
    fn drop(&mut self) {
        if self.outermost {
            let callbacks = DEFERRED.take();
            callbacks.into_iter().flatten().for_each(run);
        }
    }
}

pub(super) fn call_or_defer(callback: Box<dyn FnOnce() + Send>) {
    let now = DEFERRED.with_borrow_mut(|deferred| match deferred {
        Some(waiting) => {
            waiting.push(callback);
            None
        }
        None => Some(callback),
    });
    if let Some(callback) = now {
        run(callback);
    }
}

/// The thread that runs a callback serves others too, and goes on when it panics.
fn run(callback: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        log::error!("the callback of a send panicked");
    }
}
