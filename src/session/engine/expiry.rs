//! Leases: who is told of accesses, and when an entry expires.

use super::Engine;
use super::message::Touch;
use super::table::{Held, Key};
use crate::member::Member;

#[derive(Debug, Default)]
pub(super) struct Expiry {
    due: Option<u64>,
}

impl Expiry {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// Whether an entry has not been accessed for longer than its lease, as far as this member knows.
    pub(super) fn is_overdue(&self, _held: &Held) -> bool {
        false
    }

    /// An access, here and now: noted, and told to the other holders now and then.
    pub(super) fn accessed(&mut self, _key: &[u8]) {}

    /// For how long a dead entry whose lease was this is remembered.
    pub(super) fn remember_dead(&mut self, _key: &[u8], _lease_millis: u64) {}

    pub(super) fn receive_reap(&mut self, _from: &Member, _request: u64, _entries: &[(Key, u64)]) {}

    pub(super) fn receive_spare(&mut self, _from: &Member, _request: u64, _entries: &[Touch]) {}

    pub(super) fn expiry_lost(&mut self, _member: &Member) {}

    pub(super) fn expiry_timeout(&mut self) {}
}
