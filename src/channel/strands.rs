//! One queue per sender between the stack and the listeners.
//!
//! Messages are queued while the stack is locked, so their order is the stack's; whoever finds a queue idle runs it, so the messages
//! of one sender are handled one after another, and a receiving thread normally handles its own message without any hand-over.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::hash::ById;
use crate::id::UniqueId;
use crate::stack::Inbound;

/// The queues of all senders.
#[derive(Debug, Default)]
pub(super) struct Strands {
    by_sender: Mutex<ById<Arc<Strand>>>,
}

/// The queue of one sender.
#[derive(Debug, Default)]
pub(super) struct Strand {
    state: Mutex<State>,
    shorter: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Inbound>,
    /// The bodies in the queue.
    bytes: usize,
    running: bool,
    waiting: bool,
}

/// Above this many senders, queues that are idle are forgotten.
const MAX_IDLE: usize = 1024;
/// A receiving thread waits while its sender's queue, which another thread runs, is longer than this: TCP then slows the sender.
const MAX_QUEUE: usize = 1024;
/// The same in bytes of bodies: no bound on half-received messages covers those that are here.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Messages that were queued, and what the thread that did so must do about them once it holds no lock.
#[derive(Debug)]
#[must_use]
pub(super) enum Queued {
    /// Nobody runs the queue yet: [`Strand::run`] it.
    Idle(Arc<Strand>),
    /// Somebody runs it: a thread that can afford to should [`Strand::wait_for_room`].
    Running(Arc<Strand>),
}

impl Strands {
    /// Takes all messages, in order, and tells of each queue that got some.
    pub(super) fn push(&self, messages: &mut Vec<Inbound>, mut queued: impl FnMut(Queued)) {
        let mut messages = messages.drain(..).peekable();
        while let Some(first) = messages.next() {
            let sender = first.message.sender().id();
            let strand = self.of(sender);
            let mut state = strand.lock();
            state.push(first);
            while let Some(next) = messages.next_if(|next| next.message.sender().id() == sender) {
                state.push(next);
            }
            let running = std::mem::replace(&mut state.running, true);
            drop(state);
            queued(if running { Queued::Running(strand) } else { Queued::Idle(strand) });
        }
    }

    fn of(&self, sender: UniqueId) -> Arc<Strand> {
        let mut strands = self.by_sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(strand) = strands.get(&sender) {
            return Arc::clone(strand);
        }
        if strands.len() >= MAX_IDLE {
            // A strand in use is held by its runner as well, and has something queued or `running` set.
            strands.retain(|_, strand| Arc::strong_count(strand) > 1 || strand.lock().running);
        }
        Arc::clone(strands.entry(sender).or_default())
    }
}

impl Strand {
    /// Handles what is queued, in order, until nothing is left.
    pub(super) fn run(&self, mut handle: impl FnMut(Inbound)) {
        let mut batch = VecDeque::new();
        loop {
            let mut state = self.lock();
            std::mem::swap(&mut state.queue, &mut batch);
            state.bytes = 0;
            if batch.is_empty() {
                state.running = false;
                if state.queue.capacity() > MAX_QUEUE {
                    state.queue.shrink_to(MAX_QUEUE);
                }
                return;
            }
            if std::mem::take(&mut state.waiting) {
                self.shorter.notify_all();
            }
            drop(state);
            batch.drain(..).for_each(&mut handle);
        }
    }

    /// Blocks while the queue is too long.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.running && state.is_full() {
            state.waiting = true;
            state = self.shorter.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, msg: Inbound) {
        self.bytes += msg.message.body().len();
        self.queue.push_back(msg);
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= MAX_QUEUE || self.bytes >= MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Member;
    use crate::message::{Body, Message};
    use crate::options::SendOptions;
    use crate::stack::Reply;

    fn message(sender: &Member, number: u8) -> Inbound {
        let id = UniqueId::from_bytes([number; 16]);
        let body = Body::from(vec![number]);
        Inbound::new(Message::from_parts(id, SendOptions::NONE, 0, sender.clone(), body), Reply::none())
    }

    fn push(strands: &Strands, msg: Inbound) -> Queued {
        let mut queued = None;
        strands.push(&mut vec![msg], |one| queued = Some(one));
        queued.expect("one message goes to one queue")
    }

    #[test]
    fn a_message_that_comes_while_its_sender_is_handled_is_handled_next() {
        let strands = Strands::default();
        let sender = Member::new(([127, 0, 0, 1], 1).into());
        let Queued::Idle(strand) = push(&strands, message(&sender, 0)) else { panic!("nobody runs it yet") };
        let mut handled = Vec::new();
        strand.run(|msg| {
            let number = msg.message.bytes()[0];
            handled.push(number);
            if number < 3 {
                assert!(matches!(push(&strands, message(&sender, number + 1)), Queued::Running(_)));
            }
        });
        assert_eq!(handled, [0, 1, 2, 3]);
        assert!(matches!(push(&strands, message(&sender, 9)), Queued::Idle(_)));
    }

    #[test]
    fn a_queue_is_full_by_the_bytes_in_it_as_well() {
        let strands = Strands::default();
        let sender = Member::new(([127, 0, 0, 1], 1).into());
        let Queued::Idle(strand) = push(&strands, message(&sender, 0)) else { panic!("nobody runs it yet") };
        let large = |size| {
            let body = Body::from(vec![0; size]);
            let message = Message::from_parts(UniqueId::from_bytes([1; 16]), SendOptions::NONE, 0, sender.clone(), body);
            Inbound::new(message, Reply::none())
        };
        assert!(matches!(push(&strands, large(MAX_BYTES - 2)), Queued::Running(_)));
        assert!(!strand.lock().is_full());
        assert!(matches!(push(&strands, large(1)), Queued::Running(_)));
        assert!(strand.lock().is_full());
        strand.run(drop);
        assert!(!strand.lock().is_full());
    }

    #[test]
    fn a_batch_keeps_its_order_and_takes_each_sender_once_in_a_row() {
        let strands = Strands::default();
        let [a, b] = [1, 2].map(|port| Member::new(([127, 0, 0, 1], port).into()));
        let mut batch = vec![message(&a, 0), message(&a, 1), message(&b, 2), message(&a, 3)];
        let mut queued = Vec::new();
        strands.push(&mut batch, |one| queued.push(one));
        assert!(matches!(&queued[..], [Queued::Idle(_), Queued::Idle(_), Queued::Running(_)]));
        let mut handled = Vec::new();
        for one in queued {
            if let Queued::Idle(strand) = one {
                strand.run(|msg| handled.push(msg.message.bytes()[0]));
            }
        }
        assert_eq!(handled, [0, 1, 3, 2]);
    }

    #[test]
    fn idle_senders_are_forgotten_and_busy_ones_kept() {
        let strands = Strands::default();
        let busy = Member::new(([127, 0, 0, 1], 1).into());
        let Queued::Idle(_unrun) = push(&strands, message(&busy, 0)) else { panic!("nobody runs it yet") };
        for _ in 0..3 * MAX_IDLE {
            let Queued::Idle(strand) = push(&strands, message(&Member::new(([127, 0, 0, 1], 2).into()), 0)) else { panic!() };
            strand.run(drop);
        }
        assert!(strands.by_sender.lock().unwrap().len() <= MAX_IDLE);
        assert!(matches!(push(&strands, message(&busy, 1)), Queued::Running(_)));
    }
}
