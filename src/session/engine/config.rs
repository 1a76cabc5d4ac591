//! How an engine behaves.

use std::time::Duration;

/// How many members hold each entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Copies {
    /// An owner and so many backups.
    Backups(usize),
    /// Every member.
    Everywhere,
}

impl Copies {
    /// An owner and so many backups; as many as can be are everywhere.
    pub(crate) fn backups(count: usize) -> Self {
        if count == usize::MAX { Self::Everywhere } else { Self::Backups(count) }
    }
}

/// What goes to a store while the context runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keeping {
    /// Entries that may be in memory with their values; of more, those that were accessed longest ago are swapped out.
    pub(crate) max_resident: Option<usize>,
    /// What was accessed less long ago stays.
    pub(crate) min_idle: Duration,
    /// What was not accessed for so long is swapped out in any case.
    pub(crate) max_idle: Option<Duration>,
    /// What was not accessed for so long is saved, and stays.
    pub(crate) backup: Option<Duration>,
}

/// All times are at least a millisecond.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The context's hash: messages of others are not for this engine.
    pub(crate) context: u64,
    pub(crate) copies: Copies,
    /// Rises each time that a member enters the context anew under the same id: what it said before does not hold any more.
    pub(crate) life: u64,
    /// The lease of entries that are created without one; zero: they do not expire.
    pub(crate) lease: Duration,
    /// Others are told of accesses after this fraction of the lease: 1/4.
    pub(crate) touch_divisor: u32,
    /// How long a commit waits for its confirmations.
    pub(crate) commit_timeout: Duration,
    /// A backup that has not confirmed by then gets company: the next member by rank.
    pub(crate) hedge_after: Duration,
    /// How long a get waits for other members, in all.
    pub(crate) fetch_timeout: Duration,
    /// After which another holder is asked.
    pub(crate) fetch_retry: Duration,
    /// How long a member looks around for others before it takes itself for one of the first.
    pub(crate) discovery: Duration,
    /// A joiner that is not complete by then serves with what it has.
    pub(crate) transfer_timeout: Duration,
    /// A source that has not answered by then is left for another.
    pub(crate) pull_timeout: Duration,
    /// Bytes of entries in one chunk, and chunks that one source may have in flight.
    pub(crate) chunk_bytes: usize,
    pub(crate) chunk_window: usize,
    /// How often digests are compared with each peer.
    pub(crate) repair_interval: Duration,
    /// In this time all slots are looked through for what has expired.
    pub(crate) expiry_interval: Duration,
    /// How long a removed entry without a lease is remembered; with a lease, at least twice that.
    pub(crate) tombstone_life: Duration,
    /// How far ahead a version may be to carry this member's clock along.
    pub(crate) max_skew: Duration,
    /// Caps on what others can make this member hold.
    pub(crate) max_entries: usize,
    pub(crate) max_bytes: usize,
    /// Whether a swap that expects nothing makes an entry where there is none, and one that writes nothing ends it.
    pub(crate) swap_creates: bool,
    /// Whether there is a store, and what goes to it.
    pub(crate) keeping: Option<Keeping>,
    /// Whether changes are told as events.
    pub(crate) events: bool,
    /// Bugs that tests plant to see that they are found.
    #[cfg(test)]
    pub(crate) flaws: super::flaws::Flaws,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            context: 0,
            copies: Copies::Backups(1),
            life: 0,
            lease: seconds(30 * 60),
            touch_divisor: 4,
            commit_timeout: seconds(10),
            hedge_after: Duration::from_millis(500),
            fetch_timeout: seconds(5),
            fetch_retry: Duration::from_millis(500),
            // More than a heartbeat of the membership, in case the first was not heard.
            discovery: Duration::from_millis(600),
            transfer_timeout: seconds(60),
            pull_timeout: seconds(2),
            chunk_bytes: 256 * 1024,
            chunk_window: 4,
            repair_interval: seconds(10),
            expiry_interval: seconds(10),
            tombstone_life: seconds(60 * 60),
            max_skew: seconds(5 * 60),
            max_entries: 10_000_000,
            max_bytes: 4 << 30,
            swap_creates: false,
            keeping: None,
            events: true,
            #[cfg(test)]
            flaws: super::flaws::Flaws::default(),
        }
    }
}
