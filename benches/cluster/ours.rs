//! The roles of this crate.

use crate::node::Problem;
use crate::role::Flags;

/// Whether there is a channel to measure.
pub(crate) const READY: bool = false;

pub(crate) fn run(role: &str, _flags: &Flags<'_>, _blocking: bool) -> Result<(), Problem> {
    Err(format!("there is no {role} yet").into())
}
