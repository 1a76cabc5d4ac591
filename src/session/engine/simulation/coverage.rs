//! Which faults really happened.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Fault {
    Loss,
    Duplicate,
    Delay,
    AckLoss,
    LateAck,
    Pause,
    LongPause,
    ClockJump,
    Crash,
    Restart,
    Join,
    Leave,
    Drained,
    NotDrained,
    Partition,
    OneWay,
    Appear,
    Vanish,
    Flap,
    // What the load did.
    Created,
    Read,
    Fetched,
    Changed,
    AttributeRemoved,
    Removed,
    Renamed,
    Replaced,
    SwapDone,
    SwapConflict,
    Unconfirmed,
    Confirmed,
    Expired,
    Conflict,
    Full,
    OwnElsewhere,
    Proved,
    // What the stores did, where there are any.
    Saved,
    NotSaved,
    Loaded,
    LoadFailed,
    Damaged,
}

pub(super) const ALL: [Fault; 41] = [
    Fault::Loss,
    Fault::Duplicate,
    Fault::Delay,
    Fault::AckLoss,
    Fault::LateAck,
    Fault::Pause,
    Fault::LongPause,
    Fault::ClockJump,
    Fault::Crash,
    Fault::Restart,
    Fault::Join,
    Fault::Leave,
    Fault::Drained,
    Fault::NotDrained,
    Fault::Partition,
    Fault::OneWay,
    Fault::Appear,
    Fault::Vanish,
    Fault::Flap,
    Fault::Created,
    Fault::Read,
    Fault::Fetched,
    Fault::Changed,
    Fault::AttributeRemoved,
    Fault::Removed,
    Fault::Renamed,
    Fault::Replaced,
    Fault::SwapDone,
    Fault::SwapConflict,
    Fault::Unconfirmed,
    Fault::Confirmed,
    Fault::Expired,
    Fault::Conflict,
    Fault::Full,
    Fault::OwnElsewhere,
    Fault::Proved,
    Fault::Saved,
    Fault::NotSaved,
    Fault::Loaded,
    Fault::LoadFailed,
    Fault::Damaged,
];

#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    faults: BTreeMap<Fault, u64>,
    /// The longest that members took to become equal, in percent of the time they may take.
    slowest: u64,
}

impl Coverage {
    pub(super) fn saw(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(super) fn agreed_in(&mut self, percent: u64) {
        self.slowest = self.slowest.max(percent);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.slowest = self.slowest.max(other.slowest);
        other.faults.iter().for_each(|(fault, count)| *self.faults.entry(*fault).or_default() += count);
    }

    pub(super) fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }
}
