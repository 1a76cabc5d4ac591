//! What a membership without a thread of its own tells its sink: in order, by one thread at a time, and never under the lock of
//! whoever queues it. A handler may call back, and even stop the membership.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use bytes::Bytes;

use super::MemberSink;
use crate::stack::Event;

#[derive(Debug)]
pub(super) struct Inbox {
    sink: MemberSink,
    queue: Mutex<Queue>,
    idle: Condvar,
}

#[derive(Debug)]
pub(super) enum Item {
    Event(Event),
    Broadcast(Bytes),
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    delivering: Option<ThreadId>,
    closed: bool,
}

impl Inbox {
    pub(super) fn new(sink: MemberSink) -> Self {
        Self { sink, queue: Mutex::default(), idle: Condvar::new() }
    }

    pub(super) fn push(&self, items: impl IntoIterator<Item = Item>) {
        let mut queue = self.lock();
        if !queue.closed {
            queue.items.extend(items);
        }
    }

    /// Tells what is queued, unless a thread is at it: then that thread tells this as well.
    pub(super) fn deliver(&self) {
        let mut queue = self.lock();
        if queue.delivering.is_some() || queue.items.is_empty() {
            return;
        }
        queue.delivering = Some(thread::current().id());
        let _done = Done(self);
        while let Some(item) = queue.items.pop_front() {
            drop(queue);
            match item {
                Item::Event(event) => self.sink.event(event),
                Item::Broadcast(frame) => self.sink.broadcast(frame),
            }
            queue = self.lock();
        }
        // Under the same lock that found the queue empty, or what is pushed in between would wait for the next push.
        queue.delivering = None;
        drop(queue);
    }

    /// Nothing that is not being told yet is told any more.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.items.clear();
    }

    /// Waits until what is being told is told, unless it is this thread that tells it.
    pub(super) fn finish(&self) {
        let mut queue = self.lock();
        while queue.delivering.is_some_and(|thread| thread != thread::current().id()) {
            queue = self.idle.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a delivery, also one whose handler panicked.
struct Done<'a>(&'a Inbox);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        if queue.delivering == Some(thread::current().id()) {
            queue.delivering = None;
        }
        drop(queue);
        self.0.idle.notify_all();
    }
}
