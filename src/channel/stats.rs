//! What a channel has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::membership::MembershipStats;
use crate::transport::{ReceiverStats, SenderStats};

/// What a channel has done since it started. Numbers of one snapshot may be a message apart.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ChannelStats {
    /// Members in the view of the application.
    pub members: usize,
    /// Messages sent, each counted once however many destinations it has.
    pub sent: u64,
    /// Messages that came in, repeats included.
    pub received: u64,
    /// Messages that were handed to the listeners, or to the session context they are for.
    pub delivered: u64,
    /// Messages that came again and were not handed up twice.
    pub duplicates: u64,
    /// Messages that a listener, or the session context they are for, rejected.
    pub rejected: u64,
    /// Session messages for no context that is here, or too short to name one. They are rejected.
    pub unknown_context: u64,
    /// Membership events that were not told one by one, because listeners did not keep up: changes in between, and members that
    /// came and went.
    pub events_dropped: u64,
    /// Multicast messages that were dropped: malformed, or more than the listeners keep up with.
    pub broadcasts_dropped: u64,
    /// The TCP sender, or whichever the channel was built with.
    pub sender: SenderStats,
    /// The UDP sender.
    pub udp_sender: SenderStats,
    /// All receivers together.
    pub receiver: ReceiverStats,
    /// The membership, while it runs.
    pub membership: MembershipStats,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: Counter,
    pub(super) received: Counter,
    pub(super) delivered: Counter,
    pub(super) rejected: Counter,
    pub(super) unknown_context: Counter,
    pub(super) broadcasts_dropped: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds up what two receivers have done.
pub(super) fn add(a: ReceiverStats, b: ReceiverStats) -> ReceiverStats {
    ReceiverStats {
        connections: a.connections + b.connections,
        accepted: a.accepted + b.accepted,
        refused: a.refused + b.refused,
        messages: a.messages + b.messages,
        bytes: a.bytes + b.bytes,
        malformed: a.malformed + b.malformed,
        limited: a.limited + b.limited,
    }
}
