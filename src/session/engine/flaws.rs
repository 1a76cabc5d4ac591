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
    /// Of two changes the earlier one is taken in after the later one, and both are confirmed at once.
    pub(crate) reorder_deltas: bool,
    /// A change is confirmed although its base is missing, and not taken in.
    pub(crate) confirm_unmerged: bool,
    /// What is renamed loses its attributes.
    pub(crate) rename_without_attributes: bool,
    /// The owner writes whatever version was expected.
    pub(crate) swap_unchecked: bool,
    /// A value that comes in is cut short; its version is right.
    pub(crate) wrong_value: bool,
    /// A joiner is given only what is alive.
    pub(crate) tombstones_not_transferred: bool,
    /// What a member has written to what it let go of is not remembered.
    pub(crate) forget_written: bool,
    /// A member that leaves says at once that nothing is left.
    pub(crate) drained_at_once: bool,
    /// There is always room.
    pub(crate) no_cap: bool,
    /// A copy is no access: who reads elsewhere does not keep an entry alive.
    pub(crate) reads_elsewhere_untold: bool,
    /// Values are let go of although the store did not take them.
    pub(crate) swap_unsaved: bool,
}
