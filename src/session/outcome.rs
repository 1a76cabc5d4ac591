//! What is asked of a commit, and what comes of it.

use std::fmt;

use super::engine::{Committed, Copies, Version, Want};
use crate::member::Member;

/// How many other members must have confirmed a change before its commit returns.
///
/// *Confirmed* means that the member holds the change, merged with all that it was made on; not that it has arrived, or was queued.
/// What is not waited for is replicated all the same, and repaired should it get lost on the way.
///
/// [`Copies`](Self::Copies) and [`All`](Self::All) ask for no more than the group can give: a member that is alone commits all the same. Where
/// that is not good enough, [`AtLeast`](Self::AtLeast) fails instead.
///
/// ```no_run
/// use tribes::session::{BackupManager, CommitError, Confirm};
///
/// # fn pay(manager: &BackupManager) -> Result<(), Box<dyn std::error::Error>> {
/// let mut session = manager.create()?;
/// session.set("order", "4711, paid")?;
/// match session.commit_with(Confirm::AtLeast(1)) {
///     Ok(receipt) => println!("safe with {:?}", receipt.confirmed),
///     // The change is made here all the same, and is copied as soon as there is somebody.
///     Err(CommitError::Unconfirmed { receipt, .. }) => println!("only here so far: {receipt}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Confirm {
    /// None: the change is made here, and on its way. What Tomcat does by default, but for order and loss.
    None,
    /// This many, or all others of the group when it has fewer.
    Copies(usize),
    /// Every other member that is to hold it.
    All,
    /// This many, however few members there are: with fewer, the commit waits for others to come, and fails with
    /// [`CommitError::Unconfirmed`](super::CommitError::Unconfirmed) when the time for it is over. More than the configured number of
    /// copies can never be had, and is refused.
    AtLeast(usize),
}

impl Confirm {
    pub(crate) fn want(self) -> Want {
        match self {
            Self::None | Self::Copies(0) | Self::AtLeast(0) => Want::None,
            Self::Copies(copies) => Want::Copies(u32::try_from(copies).unwrap_or(u32::MAX)),
            Self::All => Want::All,
            Self::AtLeast(copies) => Want::AtLeast(u32::try_from(copies).unwrap_or(u32::MAX)),
        }
    }

    /// Whether so many confirmations can come at all, where entries have these copies.
    pub(crate) fn check(self, copies: Copies) -> Result<Self, TooFewCopies> {
        match (self, copies) {
            (Self::AtLeast(asked), Copies::Backups(copies)) if asked > copies => Err(TooFewCopies { asked, copies }),
            _ => Ok(self),
        }
    }
}

/// More confirmations are asked for than there are copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooFewCopies {
    pub(crate) asked: usize,
    pub(crate) copies: usize,
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
