//! Messages of session contexts: handed to the one handler whose context they name, and never to listeners.
//!
//! Several contexts share a channel. Each registers under its hash; a guard keeps it registered. Messages that name nobody who is
//! here are rejected, so that whoever sent them learns it at once, and are counted; the log stays quiet, for a context that stops
//! before its neighbours do is nothing to warn of.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use crate::hash::Keyed;
use crate::message::{Body, Message};
use crate::wire::SESSION_MAGIC;

/// Behind the magic, a version and a kind; eight bytes.
const CONTEXT_AT: usize = SESSION_MAGIC.len() + 2;

/// Gets the messages of one context.
///
/// It runs where listeners do: on receiving threads, messages of one sender one after another, of different senders in parallel, and
/// with no lock held. It may block and may send.
pub(crate) trait ContextHandler: Send + Sync {
    /// A message that names this context; nothing behind the context has been looked at. False, as well as a panic, rejects it: a
    /// sender that asked for [`SYNC_ACK`](crate::SendOptions::SYNC_ACK) is told so, and this side's log stays silent.
    fn message(&self, message: &Message) -> bool;
}

/// Another handler is registered for this context.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the context {0:016x} is registered on this channel already")]
pub(crate) struct AlreadyRegistered(pub(crate) u64);

/// The contexts of a channel.
///
/// Handlers are held weakly: whoever handles messages holds the channel as well.
#[derive(Default)]
pub(super) struct Contexts(RwLock<HashMap<u64, Weak<dyn ContextHandler>, Keyed>>);

/// What became of a message for a context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Routed {
    Accepted,
    Rejected,
    /// It names no context that is here, or none at all.
    Unknown,
}

impl Contexts {
    pub(super) fn register(
        self: &Arc<Self>,
        hash: u64,
        handler: Weak<dyn ContextHandler>,
    ) -> Result<ContextGuard, AlreadyRegistered> {
        let mut table = self.write();
        if table.contains_key(&hash) {
            return Err(AlreadyRegistered(hash));
        }
        table.insert(hash, handler);
        Ok(ContextGuard { contexts: Arc::clone(self), hash })
    }

    /// Hands over a message that [is for a context](is_for_context).
    pub(super) fn route(&self, message: &Message) -> Routed {
        let handler = named(message.body()).and_then(|hash| self.read().get(&hash).and_then(Weak::upgrade));
        let Some(handler) = handler else {
            log::debug!("message {} of {} is for no context that is here", message.id(), message.sender());
            return Routed::Unknown;
        };
        match catch_unwind(AssertUnwindSafe(|| handler.message(message))) {
            Ok(true) => Routed::Accepted,
            Ok(false) => Routed::Rejected,
            Err(_) => {
                log::error!("the handler of a context panicked at message {} of {}", message.id(), message.sender());
                Routed::Rejected
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<u64, Weak<dyn ContextHandler>, Keyed>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u64, Weak<dyn ContextHandler>, Keyed>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a message is for a context. All that other messages pay for contexts: nearly always four bytes of one piece.
pub(super) fn is_for_context(body: &Body) -> bool {
    let mut expected = &SESSION_MAGIC[..];
    for piece in body.chunks() {
        if piece.len() >= expected.len() {
            return piece.starts_with(expected);
        }
        match expected.strip_prefix(&piece[..]) {
            Some(rest) => expected = rest,
            None => return false,
        }
    }
    false
}

/// The context that a message names; `None` when it is too short to name one.
fn named(body: &Body) -> Option<u64> {
    // Nearly always it is in one piece.
    if let Some(hash) = body.chunks().next().and_then(|piece| piece.get(CONTEXT_AT..)).and_then(<[u8]>::first_chunk) {
        return Some(u64::from_be_bytes(*hash));
    }
    let mut hash = [0; 8];
    let mut bytes = body.chunks().flat_map(|piece| &piece[..]).skip(CONTEXT_AT);
    for slot in &mut hash {
        *slot = *bytes.next()?;
    }
    Some(u64::from_be_bytes(hash))
}

/// Keeps a handler registered for its context; dropping it ends that. A call that has begun, on another thread, may still finish
/// afterwards.
#[must_use = "dropping the guard unregisters the context"]
pub(crate) struct ContextGuard {
    contexts: Arc<Contexts>,
    hash: u64,
}

impl Drop for ContextGuard {
    fn drop(&mut self) {
        let gone = self.contexts.write().remove(&self.hash);
        // Outside of the lock.
        drop(gone);
    }
}

impl fmt::Debug for ContextGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContextGuard({:016x})", self.hash)
    }
}

#[cfg(test)]
mod tests;
