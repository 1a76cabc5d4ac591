//! The engine: replicated entries as a state machine, without sockets, threads, clocks or randomness of its own.
//!
//! Time and what happened come in by methods, effects go out of [`Engine::poll_output`]. The shell around it (`session::replica`) owns
//! channel, lock and clock; the simulation owns the same type.
//!
//! | file | what it decides |
//! | --- | --- |
//! | `record`, `seen`, `version` | what a state is, and how two become one |
//! | `table`, `placement` | what is here, and who holds what |
//! | `peers` | who takes part, and in which phase |
//! | `change` | what a change makes of an entry, or why it is refused |
//! | `commit`, `delivery` | the confirmations that changes wait for |
//! | `receive`, `renaming` | what comes in |
//! | `fetch`, `swap` | entries of other members: reading, and writing on a condition |
//! | `transfer` | how a member gets the slots that it has become a holder of |
//! | `repair` | comparing digests, sending differences |
//! | `handover`, `written` | letting go of what belongs to others, and knowing what this member wrote to it |
//! | `keeping` | a store beyond memory: what comes back from it, and what is swapped out to it |
//! | `tickets` | what is under way |
//! | `expiry` | leases, touches, tombstones |
//! | `message`, `codec` | what engines say to each other |

#[cfg(test)]
mod agreement;
mod attributes;
mod census;
mod change;
mod codec;
mod commit;
mod config;
mod delivery;
mod expiry;
mod fetch;
#[cfg(test)]
mod flaws;
mod handover;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod hostile;
mod keeping;
mod key;
mod message;
mod peers;
mod placement;
mod receive;
mod record;
mod renaming;
mod repair;
mod seen;
#[cfg(test)]
mod simulation;
mod swap;
mod table;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
mod tickets;
mod transfer;
mod version;
mod written;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::few::Few;
use crate::member::Member;
use crate::stack::Time;

#[cfg(test)]
pub(crate) use agreement::agree;
pub(crate) use change::{Change, Refusal, Refused};
pub(crate) use codec::Names;
pub(crate) use commit::{Commit, CommitFault, Committed};
pub(crate) use config::{Config, Copies, Keeping};
pub(crate) use fetch::{FetchFault, Get};
pub(crate) use keeping::{Loaded, Restored, Saving, Stored};
pub(crate) use message::{Phase, Want};
pub(crate) use record::{Attribute, CREATED, Loss, Name, Record, hash_bytes};
#[cfg(test)]
pub(crate) use repair::convergence_bound;
pub(crate) use swap::SwapFault;
pub(crate) use table::{Key, slot_of};
pub(crate) use tickets::Tickets;
pub use version::Version;

/// Names a commit, a fetch or a swap in outputs.
pub(crate) type Ticket = u64;

/// What an engine wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send this message.
    Send(Send),
    /// A commit has its confirmations, or will not get them.
    Committed(Ticket, Result<Committed, CommitFault>),
    /// A fetch has its answer; `None`: there is no such entry.
    Fetched(Ticket, Result<Option<Arc<Record>>, FetchFault>),
    /// A swap has its answer.
    Swapped(Ticket, Result<Committed, SwapFault>),
    /// Put these into the store, and [tell](Engine::saved).
    Save(Vec<Saving>),
    /// Get these from the store, and [tell](Engine::loaded).
    Load(Vec<Key>),
    /// This has ended: the store needs it no more. After all saves that came before.
    Forget(Key),
    /// Something happened that listeners may want to know.
    Event(Event),
    /// This member takes part with another number of copies than ours: the two place entries differently.
    CopiesDiffer(Member),
    /// This member is complete.
    Ready,
    /// Nothing is left that only this member holds.
    Drained,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) to: Few<Member>,
    pub(crate) body: Bytes,
    /// The outcome at each destination is to be [told](Engine::sent), by this number. Without one, nobody wants to know.
    pub(crate) token: Option<Token>,
}

/// Names a message whose outcome the engine waits for.
pub(crate) type Token = u64;

/// What became of a message at one destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Its engine accepted it.
    Accepted,
    /// Its engine, or its channel, rejected it.
    Rejected,
    /// It may or may not have arrived.
    Failed,
}

/// Something that happened to an entry.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) what: What,
    /// Whether another member did it.
    pub(crate) remote: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Created,
    /// The attributes that have changed, with what they are now.
    Changed(Vec<Attribute>),
    Removed {
        age: Duration,
    },
    Expired {
        age: Duration,
    },
    /// The entry goes on under this key.
    Renamed(Key),
    /// Two writes of one attribute that did not know of each other met, and one was lost.
    Lost(Loss),
}

/// Counters of an engine, since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) created: u64,
    pub(crate) removed: u64,
    pub(crate) expired: u64,
    /// Changes taken in from others, and those that brought nothing new.
    pub(crate) replicated: u64,
    pub(crate) duplicates: u64,
    /// Changes that lacked their base, so that the whole entry was asked for.
    pub(crate) bases_missing: u64,
    /// Changes of dead entries, dropped.
    pub(crate) late: u64,
    /// Entries that a comparison found different or missing.
    pub(crate) repaired: u64,
    pub(crate) conflicts: u64,
    pub(crate) fetched: u64,
    pub(crate) handed_over: u64,
    /// Refused for a full table.
    pub(crate) refused: u64,
    /// Messages of an unknown kind or a newer version, and such that did not decode.
    pub(crate) unknown: u64,
    pub(crate) malformed: u64,
    /// Entries that ended here, the sum of their ages, and the greatest.
    pub(crate) lives: u64,
    pub(crate) life_millis: u64,
    pub(crate) longest_life_millis: u64,
    /// Entries put into the store, swapped out, and back in; and such that the store did not have as it should.
    pub(crate) saved: u64,
    pub(crate) swapped_out: u64,
    pub(crate) swapped_in: u64,
    pub(crate) load_failures: u64,
    /// Messages sent, by destination, and their bodies.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// The state of one context on one member; see the [module](self).
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    local: Member,
    clock: version::HybridClock,
    /// Where the engine's milliseconds begin.
    origin: Instant,
    /// The time of the call that is running.
    now: Time,
    /// The same in engine milliseconds, which nearly every step asks for.
    millis: u64,
    table: table::Table,
    peers: peers::Peers,
    placement: placement::Placement,
    slots: Vec<SlotState>,
    commits: commit::Commits,
    deliveries: delivery::Deliveries,
    fetches: fetch::Fetches,
    swaps: swap::Swaps,
    transfer: transfer::Transfer,
    repair: repair::Repair,
    handover: handover::Handover,
    written: written::Written,
    keeping: keeping::State,
    expiry: expiry::Expiry,
    /// The next ticket, token or request.
    next: u64,
    outputs: VecDeque<Output>,
    names: Names,
    /// Where messages are put together.
    room: BytesMut,
    counters: Counters,
    /// Whether anybody wants to know of changed attributes.
    tells_changes: bool,
    /// A change that a planted flaw takes in later.
    #[cfg(test)]
    held_back: Option<message::Entry>,
}

/// What is known about a slot beside its entries.
#[derive(Clone, Debug, Default)]
struct SlotState {
    /// Whether this member, as a holder, has everything there is.
    complete: bool,
    /// When an entry found no room here last, in engine milliseconds: then what is not here may be elsewhere.
    lacks: Option<u64>,
    /// Whether it was complete when it ceased to be a holder: what it still has is all there was then.
    former: bool,
    /// Which holders, by position, agreed on the digest, with nothing known to have gone wrong since.
    agreed: u32,
    /// Which holders, by position, have told or compared what they have since both are holders: what they had then is known here.
    met: u32,
    /// Rises whenever somebody begins to count on what is here though this member is no holder: what was sent before does not show that it
    /// may be let go of. See `handover`.
    counted_on: u32,
    /// Since when, in engine milliseconds, a difference with a holder is known.
    differs_since: Option<u64>,
}

/// A holder's position as a bit; those beyond the 32nd have none.
const fn bit(position: usize) -> u32 {
    if position < 32 { 1 << position } else { 0 }
}

/// Engine milliseconds start here, so that what was accessed before can be told.
const EPOCH: u64 = 1 << 40;

impl Engine {
    /// An engine that knows nobody and holds nothing.
    pub(crate) fn new(config: Config, local: Member, now: Time) -> Self {
        let clock = version::HybridClock::new(local.id(), config.life, config.max_skew);
        let mut engine = Self {
            clock,
            local,
            origin: now.instant,
            now,
            millis: EPOCH,
            table: table::Table::default(),
            peers: peers::Peers::default(),
            placement: placement::Placement::default(),
            slots: vec![SlotState::default(); usize::from(table::SLOTS)],
            commits: commit::Commits::default(),
            deliveries: delivery::Deliveries::default(),
            fetches: fetch::Fetches::default(),
            swaps: swap::Swaps::default(),
            transfer: transfer::Transfer::default(),
            repair: repair::Repair::default(),
            handover: handover::Handover::default(),
            written: written::Written::default(),
            keeping: keeping::State::default(),
            expiry: expiry::Expiry::default(),
            next: 1,
            outputs: VecDeque::new(),
            names: Names::default(),
            room: BytesMut::new(),
            counters: Counters::default(),
            tells_changes: true,
            #[cfg(test)]
            held_back: None,
            config,
        };
        engine.place();
        engine
    }

    /// Whether changes of attributes are told as events; they are unless this says otherwise. The values in them have their price.
    pub(crate) fn tell_changes(&mut self, tell: bool) {
        self.tells_changes = tell;
    }

    /// The next thing to do, in order.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| self.table.pop_ended().map(Output::Forget))
    }

    /// When [`timeout`](Self::timeout) is to be called, at the latest.
    #[cfg(test)]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        Some(self.instant(self.poll_due()?))
    }

    /// When [`timeout`](Self::timeout) is to be called, in engine milliseconds.
    pub(crate) fn poll_due(&self) -> Option<u64> {
        // Asked after every call: without a list of options, which costs more than what is in it.
        let sooner = |a: u64, b: Option<u64>| a.min(b.unwrap_or(u64::MAX));
        let mut due = sooner(u64::MAX, self.peers.due());
        due = sooner(due, self.commits.due());
        due = sooner(due, self.fetches.due());
        due = sooner(due, self.swaps.due());
        due = sooner(due, self.transfer.due());
        due = sooner(due, self.repair.due());
        due = sooner(due, self.handover.due());
        due = sooner(due, self.expiry_due());
        due = sooner(due, self.keeping_due());
        (due < u64::MAX).then_some(due)
    }

    /// When an engine's milliseconds are so many.
    pub(crate) fn instant(&self, millis: u64) -> Instant {
        self.origin + Duration::from_millis(millis.saturating_sub(EPOCH))
    }

    /// Time has passed.
    pub(crate) fn timeout(&mut self, now: Time) {
        self.at(now);
        self.peers_timeout();
        self.commits_timeout();
        self.fetches_timeout();
        self.swaps_timeout();
        self.transfer_timeout();
        self.repair_timeout();
        self.handover_timeout();
        self.expiry_timeout();
        self.keeping_timeout();
    }

    /// What became of a message that was sent with a token.
    pub(crate) fn sent(&mut self, now: Time, token: Token, to: &Member, outcome: Outcome) {
        self.at(now);
        self.delivered(token, to, outcome);
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    #[cfg(test)]
    pub(crate) fn local(&self) -> &Member {
        &self.local
    }

    /// Takes the time of this call.
    fn at(&mut self, now: Time) {
        if now.instant != self.now.instant {
            self.millis = self.millis_at(now.instant);
        }
        self.now = now;
    }

    /// Now, in engine milliseconds.
    fn millis(&self) -> u64 {
        self.millis
    }

    fn millis_at(&self, instant: Instant) -> u64 {
        let elapsed = instant.saturating_duration_since(self.origin);
        EPOCH + elapsed.as_secs().min(u64::MAX / 4096) * 1000 + u64::from(elapsed.subsec_millis())
    }

    fn in_millis(&self, duration: Duration) -> u64 {
        self.millis() + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).max(1)
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A version for a write of this member, later than `floor`.
    fn tick(&mut self, floor: u64) -> Version {
        self.clock.tick(self.now.epoch_millis, floor)
    }

    fn send(&mut self, to: impl Into<Few<Member>>, message: &message::Message, token: Option<Token>) {
        let to = to.into();
        if to.is_empty() {
            return;
        }
        let body = codec::encode_in(&mut self.room, self.config.context, message);
        self.counters.messages += to.len() as u64;
        self.counters.bytes += (to.len() * body.len()) as u64;
        self.outputs.push_back(Output::Send(Send { to, body, token }));
    }

    fn event(&mut self, key: &[u8], what: What, remote: bool) {
        if self.config.events {
            self.outputs.push_back(Output::Event(Event { key: key.into(), what, remote }));
        }
    }
}
