//! Bugs that can be planted, to see that the simulation finds them.

/// Each is off unless a test turns it on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flaws {
    /// Removed entries are forgotten at once.
    pub(crate) drop_tombstones: bool,
    /// Digests are never compared.
    pub(crate) skip_repair: bool,
    /// A change is taken in although its base is missing.
    pub(crate) ignore_base: bool,
    /// A confirmation counts although it did not come.
    pub(crate) forget_backup: bool,
    /// The last write that arrives wins, whatever its version.
    pub(crate) accept_old_versions: bool,
    /// A member that is no longer a holder lets go at once.
    pub(crate) drop_guests: bool,
    /// The owner expires without asking the other holders.
    pub(crate) expire_alone: bool,
    /// A joiner is ready before it has anything.
    pub(crate) ready_at_once: bool,
}
