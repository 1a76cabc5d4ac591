//! How a member gets what is in the slots that it has become a holder of: it pulls, in bounded chunks, from those who have it.

use super::Engine;
use super::message::Chunk;
use super::table::{Key, SlotId};
use crate::member::Member;

#[derive(Debug, Default)]
pub(super) struct Transfer {
    due: Option<u64>,
}

impl Transfer {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// This member has become a holder of a slot.
    pub(super) fn transfer_gained(&mut self, _slot: SlotId) {}

    /// This member is no holder of a slot any more.
    pub(super) fn transfer_dropped(&mut self, _slot: SlotId) {}

    /// A member came, or said what it is.
    pub(super) fn transfer_peers_changed(&mut self) {}

    /// A member is gone.
    pub(super) fn transfer_lost(&mut self, _member: &Member) {}

    pub(super) fn receive_pull(&mut self, _from: &Member, _request: u64, _slots: &[SlotId], _after: Option<Key>, _budget: u32) {}

    pub(super) fn receive_chunk(&mut self, _from: &Member, _chunk: Chunk) {}

    pub(super) fn transfer_timeout(&mut self) {}
}
