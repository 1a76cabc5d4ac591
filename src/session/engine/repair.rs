//! Comparing digests with the other holders, and sending what differs.

use super::Engine;
use super::message::Offered;
use super::table::{Key, SlotId};
use crate::member::Member;

#[derive(Debug, Default)]
pub(super) struct Repair {
    due: Option<u64>,
}

impl Repair {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// Compare with this member as soon as possible: it has just come.
    pub(super) fn repair_soon(&mut self, _member: &Member) {}

    /// Compare this slot with its other holders as soon as possible: they are others now.
    pub(super) fn repair_slot_soon(&mut self, _slot: SlotId) {}

    /// Something did not get to this member: the slot differs.
    pub(super) fn disagree(&mut self, _slot: SlotId, _member: &Member) {}

    pub(super) fn repair_lost(&mut self, _member: &Member) {}

    pub(super) fn receive_digests(
        &mut self,
        _from: &Member,
        _round: u32,
        _epoch_millis: u64,
        _root: u64,
        _slots: &[(SlotId, u64)],
    ) {
    }

    pub(super) fn receive_offer(&mut self, _from: &Member, _offer: u32, _slot: SlotId, _entries: &[Offered]) {}

    pub(super) fn receive_want(&mut self, _from: &Member, _offer: u32, _keys: &[Key]) {}

    pub(super) fn repair_timeout(&mut self) {}
}
