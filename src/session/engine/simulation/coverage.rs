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
}

pub(super) const ALL: [Fault; 32] = [
    Fault::Loss,
    Fault::Duplicate,
    Fault::Delay,
    Fault::AckLoss,
    Fault::LateAck,
    Fault::Pause,
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
];

#[derive(Clone, Debug, Default)]
pub(super) struct Coverage(BTreeMap<Fault, u64>);

impl Coverage {
    pub(super) fn saw(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(fault, count)| *self.0.entry(*fault).or_default() += count);
    }

    pub(super) fn count(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }
}
