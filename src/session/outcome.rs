//! What is asked of a commit, and what comes of it.

use std::fmt;

use super::engine::{Committed, Version, Want};
use crate::member::Member;

/// How many other members must have confirmed a change before its commit returns.
///
/// *Confirmed* means that the member holds the change, merged with all that it was made on; not that it has arrived, or was queued.
/// What is not waited for is replicated all the same, and repaired should it get lost on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Confirm {
    /// None: the change is made here, and on its way. What Tomcat does by default, but for order and loss.
    None,
    /// So many, or all others of the group when it has fewer.
    Copies(usize),
    /// Every other member that is to hold it.
    All,
}

impl Confirm {
    pub(crate) fn want(self) -> Want {
        match self {
            Self::None | Self::Copies(0) => Want::None,
            Self::Copies(copies) => Want::Copies(u32::try_from(copies).unwrap_or(u32::MAX)),
            Self::All => Want::All,
        }
    }
}

/// What became of a change: which members hold it besides this one.
///
/// ```
/// use tribes::session::CommitReceipt;
///
/// fn log(receipt: &CommitReceipt) {
///     if !receipt.is_met() {
///         println!("{} of {} copies, so far at {:?}", receipt.confirmed.len(), receipt.wanted, receipt.confirmed);
///     }
/// }
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CommitReceipt {
    /// How many other members are to hold it: the configured backups, or everybody. The group may have fewer.
    pub wanted: usize,
    /// The other members that have confirmed to hold it, when the commit returned. Empty with [`Confirm::None`], which asks nobody.
    pub confirmed: Vec<Member>,
    /// The version of the change.
    pub version: Version,
}

impl CommitReceipt {
    /// Whether as many members have confirmed as are wanted. If not, the manager lists it as
    /// [at risk](super::Manager::at_risk) until they have.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.confirmed.len() >= self.wanted
    }
}

impl From<Committed> for CommitReceipt {
    fn from(committed: Committed) -> Self {
        Self { wanted: committed.wanted, confirmed: committed.confirmed, version: committed.version }
    }
}

impl fmt::Display for CommitReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} copies confirmed", self.confirmed.len(), self.wanted)
    }
}
