//! Who is told what: the listeners of a channel, and the guards that unsubscribe them.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::message::Message;
use crate::stack::Event;

/// Gets the messages of a channel.
///
/// Closures are listeners too: see [`GroupChannel::on_message`](crate::GroupChannel::on_message). Listeners run on receiving threads: messages of one sender one after
/// another, of different senders in parallel. They may block, and may send; a listener that blocks holds up its sender's messages only.
///
/// ```
/// use tribes::{GroupChannel, ListenerError, Message, MessageListener};
///
/// struct Orders;
///
/// impl MessageListener for Orders {
///     fn accept(&self, message: &Message) -> bool {
///         message.bytes().starts_with(b"order ")
///     }
///
///     fn message(&self, message: &Message) -> Result<(), ListenerError> {
///         let number: u32 = std::str::from_utf8(&message.bytes()[6..])?.parse()?; // or the sender is told that it failed
///         println!("order {number}");
///         Ok(())
///     }
/// }
///
/// let builder = GroupChannel::builder().subscribe(Orders);
/// ```
pub trait MessageListener: Send + Sync {
    /// Whether this listener wants the message. Tribes behaviour: `ChannelListener.accept`.
    fn accept(&self, _message: &Message) -> bool {
        true
    }

    /// A message that was accepted.
    ///
    /// # Errors
    ///
    /// Any error, as well as a panic, tells a sender that asked for [`SYNC_ACK`](crate::SendOptions::SYNC_ACK) that its message was
    /// rejected; listeners after this one do not get the message.
    fn message(&self, message: &Message) -> Result<(), ListenerError>;
}

/// Why a listener rejects a message. Only logged here; its sender learns that it was rejected.
pub type ListenerError = Box<dyn Error + Send + Sync>;

/// What a listener closure may return: nothing, or a result.
pub trait ListenerOutcome {
    /// The outcome as a result.
    ///
    /// # Errors
    ///
    /// When the listener rejects the message.
    fn into_result(self) -> Result<(), ListenerError>;
}

impl ListenerOutcome for () {
    fn into_result(self) -> Result<(), ListenerError> {
        Ok(())
    }
}

impl<E: Into<ListenerError>> ListenerOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), ListenerError> {
        self.map_err(Into::into)
    }
}

/// A closure as a [`MessageListener`].
pub(super) struct Closure<F>(pub(super) F);

impl<F, R> MessageListener for Closure<F>
where
    F: Fn(&Message) -> R + Send + Sync,
    R: ListenerOutcome,
{
    fn message(&self, message: &Message) -> Result<(), ListenerError> {
        (self.0)(message).into_result()
    }
}

pub(super) type MessageListeners = Listeners<dyn MessageListener>;
pub(super) type EventListeners = Listeners<MembershipListener>;

pub(super) type MembershipListener = dyn Fn(&Event) + Send + Sync;

/// The listeners, each with the number that its subscription removes it by.
pub(crate) type Entries<L> = Arc<[(u64, Arc<L>)]>;

/// A list that is read far more often than it changes.
pub(crate) struct Listeners<L: ?Sized> {
    entries: RwLock<Entries<L>>,
    next: AtomicU64,
}

impl<L: ?Sized + Send + Sync + 'static> Listeners<L> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { entries: RwLock::new(Arc::new([])), next: AtomicU64::new(0) })
    }

    pub(crate) fn add(self: &Arc<Self>, listener: Arc<L>) -> Subscription {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.change(|entries| entries.push((id, listener)));
        let table: Weak<Self> = Arc::downgrade(self);
        let cancel = move || {
            if let Some(table) = table.upgrade() {
                table.remove(id);
            }
        };
        Subscription { cancel: Some(Box::new(cancel)) }
    }

    pub(crate) fn snapshot(&self) -> Entries<L> {
        Arc::clone(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn remove(&self, id: u64) {
        self.change(|entries| entries.retain(|(entry, _)| *entry != id));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(u64, Arc<L>)>)) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = entries.to_vec();
        change(&mut list);
        let before = std::mem::replace(&mut *entries, list.into());
        // A listener that was removed may hold the last handle of what it listens to, whose end looks at this list.
        drop(entries);
        drop(before);
    }
}

impl MessageListeners {
    /// Hands a message to the listeners in the order they were added, up to the first that fails.
    pub(super) fn deliver(&self, message: &Message) -> Result<(), ListenerError> {
        for (_, listener) in &*self.snapshot() {
            let outcome =
                catch_unwind(AssertUnwindSafe(|| if listener.accept(message) { listener.message(message) } else { Ok(()) }));
            outcome.unwrap_or_else(|_| Err("the listener panicked".into()))?;
        }
        Ok(())
    }
}

impl EventListeners {
    /// Tells the listeners of an event. One that panics does not keep it from the others.
    pub(super) fn tell(&self, event: &Event) {
        for (_, listener) in &*self.snapshot() {
            if catch_unwind(AssertUnwindSafe(|| listener(event))).is_err() {
                log::error!("a membership listener panicked at {event:?}");
            }
        }
    }
}

/// Keeps a listener subscribed; dropping it unsubscribes. A call that has begun, on another thread, may still finish afterwards.
#[must_use = "dropping the subscription unsubscribes the listener"]
pub struct Subscription {
    cancel: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Subscription {
    /// Keeps the listener as long as the channel lives.
    pub fn forever(mut self) {
        self.cancel = None;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
