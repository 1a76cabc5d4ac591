//! What listeners of a map are told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::Value;
use crate::channel::{Listeners, Subscription};
use crate::session::engine::{Event, What};
use crate::session::replica::EventSink;

/// Something that happened to an entry of a map. Events of one key come in the order in which they happened on this member.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MapEvent {
    /// A value was put.
    #[non_exhaustive]
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Value,
        /// Whether by another member.
        remote: bool,
    },
    /// A key was taken out.
    #[non_exhaustive]
    Removed {
        /// The key.
        key: Bytes,
        /// Whether by another member.
        remote: bool,
    },
    /// Nobody had accessed an entry for its time to live.
    #[non_exhaustive]
    Expired {
        /// The key.
        key: Bytes,
        /// Whether another member found so.
        remote: bool,
    },
    /// Two writes of one entry that did not know of each other have met: the later one stays, the other is lost. A put on a member that does
    /// not hold the entry replaces it whatever it was, and conflicts with nothing; see [`ReplicatedMap::replace_if`](super::ReplicatedMap::replace_if).
    #[non_exhaustive]
    Conflict {
        /// The key.
        key: Bytes,
        /// The value that stays.
        kept: Value,
        /// The value that is lost.
        lost: Value,
    },
}

impl MapEvent {
    fn of(event: Event) -> Option<Self> {
        let (key, remote) = (Bytes::copy_from_slice(&event.key), event.remote);
        Some(match event.what {
            What::Changed(attributes) => {
                let attribute = attributes.into_iter().find(|attribute| attribute.name.is_empty())?;
                Self::Put { key, value: Value::of(&attribute)?, remote }
            }
            What::Removed { .. } => Self::Removed { key, remote },
            What::Expired { .. } => Self::Expired { key, remote },
            What::Lost(loss) => Self::Conflict { key, kept: Value::of(&loss.kept)?, lost: Value::of(&loss.lost)? },
            What::Created | What::Renamed(_) => return None,
        })
    }
}

pub(super) type Listener = dyn Fn(&MapEvent) + Send + Sync;

/// The listeners.
pub(super) struct Sink(Arc<Listeners<Listener>>);

impl Sink {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Listeners::new()))
    }

    pub(super) fn add(&self, listener: Arc<Listener>) -> Subscription {
        self.0.add(listener)
    }
}

impl EventSink for Sink {
    fn is_heard(&self) -> bool {
        !self.0.is_empty()
    }

    fn wants(&self, _event: &Event) -> bool {
        self.is_heard()
    }

    fn tell(&self, event: Event) {
        let Some(event) = MapEvent::of(event) else { return };
        for (_, listener) in &*self.0.snapshot() {
            if catch_unwind(AssertUnwindSafe(|| listener(&event))).is_err() {
                log::error!("a map listener panicked");
            }
        }
    }
}
