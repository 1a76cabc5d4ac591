//! Letting go of what belongs to others: entries of slots that this member does not hold stay until every holder has them.

use super::Engine;

#[derive(Debug, Default)]
pub(super) struct Handover {
    due: Option<u64>,
}

impl Handover {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// There may be guests to hand over.
    pub(super) fn handover_soon(&mut self) {}

    /// One more holder has this entry.
    pub(super) fn handover_confirmed(&mut self, _key: &[u8]) {}

    pub(super) fn handover_timeout(&mut self) {}
}
