//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;

use super::engine::{CommitFault, FetchFault, Refusal, Refused, SwapFault, Version};
use super::outcome::{CommitReceipt, TooFewCopies};
use super::replica::StartFault;
use crate::member::Member;

/// Why a manager or a map does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The channel has one of this kind and name.
    #[error("the channel has a {kind} named {name:?} already: clone that one, or give this another name")]
    NameTaken {
        /// What was to be started.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A thread could not be started.
    #[error("no thread could be started for {name:?}")]
    Thread {
        /// What was to be started.
        name: String,
        /// Why there is none.
        #[source]
        error: io::Error,
    },
    /// Its commits were to wait for more confirmations than there are copies.
    #[error(
        "{name:?} cannot wait for {asked} confirmations of {copies} copies: keep more copies, or ask for fewer confirmations"
    )]
    TooFewCopies {
        /// What was to be started.
        name: String,
        /// How many confirmations were asked for.
        asked: usize,
        /// How many copies there are beside the owner's.
        copies: usize,
    },
}

impl StartError {
    pub(crate) fn too_few_copies(name: &str, TooFewCopies { asked, copies }: TooFewCopies) -> Self {
        Self::TooFewCopies { name: name.to_owned(), asked, copies }
    }

    pub(crate) fn new(kind: &'static str, name: &str, fault: StartFault) -> Self {
        match fault {
            StartFault::Taken => Self::NameTaken { kind, name: name.to_owned() },
            StartFault::Thread(error) => Self::Thread { name: name.to_owned(), error },
        }
    }
}

/// Why there is no new session.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// This member holds as many sessions as it may, see `max_active`.
    #[error("this member holds {limit} sessions, as many as it may: raise max_active, or wait until some expire")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The manager [drains](super::Manager::drain): other members create sessions.
    #[error("the manager hands over its sessions and creates none: send the request to another member")]
    Draining,
    /// The manager is stopped, or its channel is.
    #[error("the manager is stopped")]
    Stopped,
}

/// Why it is not known whether there is such an entry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// It is held by others, and none of them has answered in time; or whoever has it cannot read it from its store now. Try again: those
    /// that have failed will not be asked for long.
    #[error("no answer from {}: try again", Members(.asked))]
    Unreachable {
        /// Who was asked and could not tell. Empty when nobody else failed to: this member's own store cannot be read, too much is being
        /// asked at once, or time was over before all could be asked once more.
        asked: Vec<Member>,
    },
    /// The manager or map is stopped, or its channel is.
    #[error("the manager or map is stopped")]
    Stopped,
}

impl From<FetchFault> for GetError {
    fn from(fault: FetchFault) -> Self {
        Self::Unreachable { asked: fault.silent }
    }
}

/// Why an attribute was not set. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// The handle knows that the session has ended.
    #[error("the session has ended, so nothing can be set any more")]
    Ended,
    /// A filter of the manager does not let it pass.
    #[error("the manager's filter refuses attribute {name:?}")]
    Filtered {
        /// The attribute.
        name: String,
    },
    /// The name begins with a NUL, which is kept for what the session stores itself.
    #[error("an attribute's name cannot begin with a NUL")]
    Reserved,
    /// The name is too long.
    #[error("an attribute's name has at most 65535 bytes, not {0}")]
    NameTooLong(usize),
    /// The value is too large; the limits are for the whole session.
    #[error("{0} bytes are too large for a session, which has at most 64 MiB")]
    TooLarge(usize),
    /// The value could not be encoded.
    #[error("attribute {name:?} could not be encoded: {error}")]
    Encode {
        /// The attribute.
        name: String,
        /// What the encoder says.
        error: String,
    },
}

/// Why a commit did not do what was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The change is made here and goes on being replicated, but fewer members have confirmed it in time than were to. Nothing is
    /// to be done for it to get there; whoever must not go on without a copy can wait for `at_risk` to be empty.
    #[error("the change is made, but only {} of the {needed} confirmations that were asked for came in time", .receipt.confirmed.len())]
    Unconfirmed {
        /// Who has confirmed so far.
        receipt: CommitReceipt,
        /// How many were waited for.
        needed: usize,
    },
    /// The session was invalidated, or the entry of a map removed, here or elsewhere. The change is lost.
    #[error("the session or entry was removed meanwhile, on this member or another")]
    Removed,
    /// It has expired. The change is lost.
    #[error("the session or entry has expired")]
    Expired,
    /// The member holds as much as it may, see `max_entries` and `max_bytes`. The change is still in the handle.
    #[error("this member holds as much as it may: raise max_entries or max_bytes, or add members")]
    Full,
    /// More than 4096 attributes, or 64 MiB. The change is still in the handle.
    #[error("the session or entry would have more than 4096 attributes, or more than 64 MiB")]
    TooLarge,
    /// The key is empty, or longer than a key of a map may be; so many bytes.
    #[error("a key has 1 to 1024 bytes, not {0}")]
    Key(usize),
    /// Another entry has this id or key.
    #[error("another session or entry has this id or key")]
    Taken,
    /// More confirmations were asked for than there are copies, see [`Confirm::AtLeast`](super::Confirm::AtLeast). The change is still in
    /// the handle.
    #[error("{asked} confirmations cannot come from {copies} copies: keep more copies, or ask for fewer confirmations")]
    TooFewCopies {
        /// How many confirmations were asked for.
        asked: usize,
        /// How many copies there are beside the owner's.
        copies: usize,
    },
    /// What the change was made on is in the store, which cannot be read just now. The change is still in the handle.
    #[error("the session's values cannot be read from the store")]
    Unavailable,
    /// The manager or map is stopped, or its channel is. Whether others have got the change is not known.
    #[error("the manager or map is stopped")]
    Stopped,
}

impl From<Refused> for CommitError {
    fn from(refused: Refused) -> Self {
        refused.why.into()
    }
}

impl From<Refusal> for CommitError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Exists | Refusal::OtherSlot => Self::Taken,
            Refusal::Unavailable => Self::Unavailable,
            Refusal::Stopped => Self::Stopped,
            Refusal::Removed => Self::Removed,
            Refusal::Expired => Self::Expired,
            Refusal::Full => Self::Full,
            Refusal::TooLarge => Self::TooLarge,
        }
    }
}

impl From<TooFewCopies> for CommitError {
    fn from(TooFewCopies { asked, copies }: TooFewCopies) -> Self {
        Self::TooFewCopies { asked, copies }
    }
}

impl From<CommitFault> for CommitError {
    fn from(fault: CommitFault) -> Self {
        if fault.removed {
            return Self::Removed;
        }
        Self::Unconfirmed { receipt: fault.committed.into(), needed: fault.needed }
    }
}

/// Why a value was not replaced.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// It has another version than was expected: read it again, and decide anew. Nothing has changed.
    #[error("the value {}", Current(.current))]
    Conflict {
        /// The version that it has; `None` when it was never written.
        current: Option<Version>,
    },
    /// There is no such session or entry. Nothing has changed.
    #[error("there is no such session or entry any more")]
    Absent,
    /// The session was new, and its first commit has failed, for this reason. The value is not replaced. With
    /// [`Unconfirmed`](CommitError::Unconfirmed) there is the session, with all that the handle had changed; else nothing has changed.
    #[error("the session is new, and could not be committed before its value is replaced")]
    NotCreated(#[source] CommitError),
    /// The member that decides did not answer in time. The value may be replaced or not: read it again.
    #[error("the member that decides did not answer in time, so the value may be replaced or not")]
    Unknown,
    /// It is replaced, and goes on being replicated, but was not confirmed in time by as many members as were to.
    #[error("the value is replaced, but only {} confirmations came in time", .0.confirmed.len())]
    Unconfirmed(CommitReceipt),
    /// The attribute cannot be set at all. Nothing has changed.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The member that decides cannot take it, for this reason. Nothing has changed.
    #[error("the value was not replaced")]
    Refused(#[source] CommitError),
    /// The manager or map is stopped, or its channel is. Whether the value was replaced is not known.
    #[error("the manager or map is stopped")]
    Stopped,
}

impl From<SwapFault> for ReplaceError {
    fn from(fault: SwapFault) -> Self {
        match fault {
            SwapFault::Conflict(current) => Self::Conflict { current: (!current.is_zero()).then_some(current) },
            SwapFault::Absent => Self::Absent,
            SwapFault::Silent => Self::Unknown,
            SwapFault::Refused(refusal) => Self::Refused(refusal.into()),
            SwapFault::Unconfirmed(committed) => Self::Unconfirmed(committed.into()),
        }
    }
}

struct Members<'a>(&'a [Member]);

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, member) in self.0.iter().enumerate() {
            write!(f, "{}{member}", if at > 0 { ", " } else { "" })?;
        }
        if self.0.is_empty() { f.write_str("anybody") } else { Ok(()) }
    }
}

struct Current<'a>(&'a Option<Version>);

impl fmt::Display for Current<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(version) => write!(f, "has version {version}, not the one that was expected"),
            None => f.write_str("was never written, although a version was expected"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn receipt() -> CommitReceipt {
        CommitReceipt { wanted: 1, confirmed: Vec::new(), version: Version::ZERO }
    }

    /// All that a user reads who prints an error with its sources.
    fn printed(error: &dyn Error) -> String {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    }

    #[test]
    fn an_error_says_what_it_speaks_of_and_nothing_twice() {
        let thread = StartError::new("DeltaManager", "/shop", StartFault::Thread(io::Error::other("too many threads")));
        let unconfirmed = CommitError::Unconfirmed { receipt: receipt(), needed: 1 };
        let errors: Vec<(Box<dyn Error>, &str)> = vec![
            (Box::new(thread), "no thread could be started for \"/shop\": too many threads"),
            (Box::new(GetError::Stopped), "the manager or map is stopped"),
            (Box::new(CommitError::Removed), "the session or entry was removed meanwhile, on this member or another"),
            (
                Box::new(ReplaceError::Refused(CommitError::Expired)),
                "the value was not replaced: the session or entry has expired",
            ),
            (
                Box::new(ReplaceError::NotCreated(unconfirmed)),
                "the session is new, and could not be committed before its value is replaced: the change is made, but only 0 of the 1 \
                 confirmations that were asked for came in time",
            ),
            (Box::new(ReplaceError::Conflict { current: None }), "the value was never written, although a version was expected"),
            (Box::new(ReplaceError::Set(SetError::Reserved)), "an attribute's name cannot begin with a NUL"),
        ];
        for (error, text) in errors {
            assert_eq!(printed(&*error), text);
        }
    }
}
