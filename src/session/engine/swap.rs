//! Writing on a condition: the owner of a slot decides, one after another.

use bytes::Bytes;

use super::commit::Committed;
use super::message::{SwapOutcome, Want};
use super::record::Name;
use super::table::Key;
use super::version::Version;
use super::{Engine, Ticket};
use crate::member::Member;
use crate::stack::Time;

/// Why an attribute was not written on a condition.
#[derive(Clone, Debug)]
pub(crate) enum SwapFault {
    /// It has this version.
    Conflict(Version),
    /// There is no such entry.
    Absent,
    /// The owner did not answer in time. It may have written.
    Silent,
    /// It is written, but not confirmed in time.
    Unconfirmed(Committed),
}

#[derive(Debug, Default)]
pub(super) struct Swaps {
    due: Option<u64>,
}

impl Swaps {
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Engine {
    /// Writes an attribute if its version is still the expected one.
    pub(crate) fn swap(
        &mut self,
        now: Time,
        _key: &[u8],
        _name: Name,
        _expected: Version,
        _value: Option<Bytes>,
        _want: Want,
    ) -> Ticket {
        self.at(now);
        self.number()
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    pub(super) fn receive_swap(
        &mut self,
        _from: &Member,
        _request: u64,
        _key: &Key,
        _name: Name,
        _expected: Version,
        _value: Option<Bytes>,
        _confirm: Want,
    ) {
    }

    pub(super) fn receive_swapped(&mut self, _from: &Member, _request: u64, _outcome: SwapOutcome) {}

    /// Tells a member what became of its swap.
    pub(super) fn swap_answer(&mut self, _member: &Member, _request: u64, _outcome: SwapOutcome) {}

    pub(super) fn swaps_lost(&mut self, _member: &Member) {}

    pub(super) fn swaps_timeout(&mut self) {}
}
