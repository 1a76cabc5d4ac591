//! What engines say to each other. `codec` has the bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::record::Record;
use super::table::{Key, SlotId};
use super::version::Version;
use crate::few::Few;
use crate::id::UniqueId;

/// A message between two engines of one context.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// I have this context, and so I am. Sent to whoever appears, and to everybody when the phase changes.
    Hello(Hello),
    /// Entries, whole or what changed in them. Accepting it means to hold them.
    Put(Few<Entry>),
    /// Somebody accessed these entries.
    Touch(Vec<Touch>),
    /// Give me this entry.
    Fetch { request: u64, key: Key },
    /// The answer to a [`Fetch`](Self::Fetch).
    Fetched { request: u64, answer: Found },
    /// Give me what is in these slots, in this order, from behind a key of the first on, up to so many bytes.
    Pull { request: u64, slots: Vec<SlotId>, after: Option<Key>, budget: u32 },
    /// The answer to a [`Pull`](Self::Pull).
    Chunk(Chunk),
    /// My digest over the slots that we both hold, and, if asked for, of each.
    Digests { round: u32, epoch_millis: u64, root: u64, slots: Vec<(SlotId, u64)> },
    /// All that I hold of this slot. `offer` is what the answer names.
    Offer { offer: u32, slot: SlotId, entries: Vec<Offered> },
    /// The answer to an [`Offer`](Self::Offer): these I do not have as you do; all others I have.
    Want { offer: u32, keys: Vec<Key> },
    /// I am about to let these expire: do you know of a later access?
    Reap { request: u64, entries: Vec<(Key, u64)> },
    /// The answer to a [`Reap`](Self::Reap): these are in use.
    Spare { request: u64, entries: Vec<Touch> },
    /// Write this attribute if it still has that version ([`Version::ZERO`]: if it was never written). For the owner of the slot.
    Swap { request: u64, key: Key, name: Arc<str>, expected: Version, value: Option<Bytes>, confirm: Want },
    /// The answer to a [`Swap`](Self::Swap).
    Swapped { request: u64, outcome: SwapOutcome },
}

/// Who I am in this context.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Hello {
    pub(crate) phase: Phase,
    /// My wall clock, in milliseconds since 1970: for the report on skew.
    pub(crate) epoch_millis: u64,
    /// Whether an answer is asked for.
    pub(crate) answer: bool,
    /// How many copies I believe entries have beside the owner's; `u32::MAX`: everywhere. Members must agree.
    pub(crate) copies: u32,
    /// Which of my lives this is, of those under this id: see [`Config::life`](super::Config::life).
    pub(crate) life: u64,
    /// How many members I know that take part, beside me and the one that this is said to.
    pub(crate) others: u32,
}

/// Where a member stands in its life.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    /// It takes what it is given, and is not asked for state.
    Joining,
    /// It is complete.
    Ready,
    /// It hands over and holds nothing new.
    Leaving,
}

/// One entry, or a change of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) record: Arc<Record>,
    /// For a change: what the record that it was made on contained. `None`: the record is whole.
    pub(crate) base: Option<super::seen::Seen>,
    /// Milliseconds since the last access.
    pub(crate) idle: u64,
    /// For a dead entry: milliseconds for which it is to be remembered.
    pub(crate) keep: u64,
}

/// An access: the entry's `touched`, and how long ago it was, in milliseconds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Touch {
    pub(crate) key: Key,
    pub(crate) touched: u64,
    pub(crate) idle: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// Dead ones as well: a tombstone is an answer.
    Entry(Box<Entry>),
    /// I should know, and there is none.
    Absent,
    /// I have none, but others may.
    Unsure,
    /// I have it, but cannot read it: the store fails.
    Unreadable,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) request: u64,
    pub(crate) entries: Vec<Entry>,
    /// Slots of the request that are finished with this chunk.
    pub(crate) done: Vec<Done>,
    /// Where to go on, in the first slot that is not done.
    pub(crate) after: Option<Key>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Done {
    pub(crate) slot: SlotId,
    /// The sender's digest of it, now.
    pub(crate) digest: u64,
    /// Whether the sender has all of it.
    pub(crate) complete: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Offered {
    pub(crate) key: Key,
    pub(crate) fingerprint: u64,
    pub(crate) touched: u64,
}

/// How many confirmations a commit waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Want {
    None,
    /// As far as there are so many holders.
    Copies(u32),
    All,
    /// However few there are.
    AtLeast(u32),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum SwapOutcome {
    /// Written, with this version; confirmed by these beside the owner, of so many wanted.
    Done { version: Version, confirmed: Vec<UniqueId>, wanted: u32 },
    /// The attribute has another version: this one.
    Conflict { current: Version },
    /// There is no such entry.
    Absent,
    /// I am not the owner, or cannot tell.
    NotOwner,
    /// Written, but not confirmed in time.
    Unconfirmed { version: Version, confirmed: Vec<UniqueId>, wanted: u32 },
}
